"""Latent-variable models: p(x) = ∫ p(x|z) p(z) dz, with a lower bound on it."""
