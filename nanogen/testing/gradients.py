"""Gradients of any function."""
