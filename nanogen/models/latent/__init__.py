"""Latent variables: p(x) = ∫ p(x|z) p(z) dz, and a bound on it."""
