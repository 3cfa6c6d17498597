"""Generative adversarial networks: a generator trained against a discriminator, without a density."""
