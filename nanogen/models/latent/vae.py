"""The variational autoencoder.  Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    p(x) = ∫ p(x|z) p(z) dz,  p(z) = N(0, I),  q(z|x) = N(μ(x), diag σ²(x))

    log p(x) ≥ elbo(x) = E_q(z|x)[log p(x|z)] − KL(q(z|x) ‖ p(z))                                     (eq. 3)

The encoder computes q(z|x), an approximation of the posterior p(z|x).  The decoder computes p(x|z), a density over the
discrete levels, so the bound is on the probability of the discrete image.
"""

from __future__ import annotations

import math
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.distributions import Normal, kl_divergence
from nanogen.models.base import check_counts
from nanogen.models.latent.base import LatentModel
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator


class VAE(LatentModel):
    """A convolutional VAE.

    A conditional one (Sohn et al. 2015, Learning Structured Output Representation) has q(z|x, label) and p(x|z, label)
    with the same p(z).

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the number of dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        stages: how many times the size is halved.
        decoder: the density of a pixel given z: `categorical` (a softmax over the levels) or `logistic` (a discretised
            logistic with learned mean and scale, for many levels).
        beta: the weight of the KL in the loss; above 1: a β-VAE (Higgins et al. 2017).  The bounds are without it.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "latent variables, a bound on the likelihood (Kingma & Welling 2014)"
    small = Recipe(steps=900, lr=1e-3)
    large = large(steps=4000, lr=1e-3, model={"latent": 32, "decoder": "logistic"})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 16, channels: int = 32, stages: int = 2,
        decoder: str = "categorical", beta: float = 1.0, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        check_counts(latent=latent)
        super().__init__(
            image_shape, levels, channels, stages, decoder, classes, 2 * latent, latent, rng or Generator(0)
        )
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a finite number ≥ 0, got {beta!r}")
        self.latent, self.beta = latent, beta
        if beta != 1:
            self.loss_unit = "nats per dimension, the KL weighted"

    def encode(self, images: Any, labels: Any = None) -> Normal:
        """q(z|x) = N(μ(x), diag σ²(x)): images (N, C, H, W) to a density over z (N, latent).  Eq. 9."""
        mean, log_variance = self.encoded(images, labels).split(self.latent, 1)
        return Normal(mean, log_std=0.5 * log_variance)

    def code(self, images: Any, labels: Any = None) -> Tensor:
        """The mean of q(z|x)."""
        return self.encode(images, labels).mean

    def prior(self, like: Tensor) -> Normal:
        """p(z) = N(0, I)."""
        return Normal(like.detach() * 0.0, 1.0)

    def terms(self, images: Any, rng: Generator, labels: Any = None) -> tuple[Tensor, Tensor]:
        """log p(x|z) for one z ~ q(z|x), and KL(q(z|x)‖p(z)), which is exact: (N,) each, nats per image."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        posterior = self.encode(levels, **given)
        reconstruction = self.log_likelihood(levels, posterior.rsample(rng), **given)
        return reconstruction, kl_divergence(posterior, self.prior(posterior.mean)).sum(1)

    def elbo(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E_q[log p(x|z)] − KL(q(z|x)‖p(z)) ≤ log p(x), by one sample of z: (N,), nats per image.

        Kingma & Welling 2014, eq. 7, the second form.  With labels (N,): on log p(x | label)."""
        reconstruction, kl = self.terms(images, rng, labels)
        return reconstruction - kl

    def importance_weighted_bound(self, images: Any, rng: Generator, samples: int = 64, labels: Any = None) -> Tensor:
        """log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): (N,), nats per image.

        Its expectation lies between the elbo (K = 1) and log p(x).  Burda, Grosse & Salakhutdinov 2016, eq. 8."""
        check_counts(samples=samples)
        levels, given = self.pixels(images), self.condition(labels, len(images))
        posterior = self.encode(levels, **given)
        log_weights = []
        for _ in range(samples):
            z = posterior.rsample(rng)
            log_ratio = self.prior(z).log_prob(z) - posterior.log_prob(z)
            log_weights.append(self.log_likelihood(levels, z, **given) + log_ratio.sum(1))
        return F.logsumexp(F.stack(log_weights), dim=0) - math.log(samples)

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        found = super().negative_log_likelihoods(images, rng, labels)
        tighter = self.importance_weighted_bound(images, rng, samples=64, labels=labels)
        return found | {"importance-weighted, K = 64": -tighter}

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E_q[log p(x|z)] + β KL(q(z|x)‖p(z)), averaged over images and dimensions, in nats per dimension.

        Higgins et al. 2017, eq. 4."""
        reconstruction, kl = self.terms(images, rng, labels)
        return (self.beta * kl - reconstruction).mean() / self.dimensions
