"""A generator against a discriminator: no density, a game."""
