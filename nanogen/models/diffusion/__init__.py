"""Diffusion models: noise is added step by step, and a network removes it."""
