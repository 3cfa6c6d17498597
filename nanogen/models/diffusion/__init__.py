"""Noise that is added step by step, and a network that takes it away."""
