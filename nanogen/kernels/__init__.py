"""Algorithms on raw arrays that know nothing of gradients: how a primitive is computed, where that is a story."""
