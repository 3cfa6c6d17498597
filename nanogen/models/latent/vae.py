"""The variational autoencoder.  Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    p(x) = ∫ p(x|z) p(z) dz,  p(z) = N(0, I),  q(z|x) = N(μ(x), diag σ²(x))

    log p(x) ≥ elbo(x) = E_q(z|x)[log p(x|z)] − KL(q(z|x) ‖ p(z))                                     (eq. 3)

The encoder computes q(z|x), an approximation of the posterior p(z|x).  The decoder computes p(x|z), a density over the
discrete levels, so the bound is on the probability of the discrete image.  Other families than the normal for q(z|x),
and discrete z: `posteriors.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.distributions import Categorical, Normal
from nanogen.factories import zeros
from nanogen.models.base import check_choice, check_counts, check_nonnegative
from nanogen.models.latent.base import LatentModel
from nanogen.models.latent.posteriors import POSTERIORS, Draws, NormalMixture
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator

MANY = 256  # codes that are summed over


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
        posterior: the family of q(z|x): `gaussian`, `mixture` (of normals) or `categorical` (`latent` variables with
            classes, p(z) uniform).
        components: the number of normals of a mixture.
        categories: the number of classes of a categorical variable.
        temperature: how far the loss relaxes categorical codes; towards 0 they are one-hot.
        straight_through: whether the loss takes one-hot codes, with the gradient of the relaxed ones.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "latent variables, a bound on the likelihood (Kingma & Welling 2014)"
    small = Recipe(steps=900, lr=1e-3)
    large = large(steps=4000, lr=1e-3, model={"latent": 32, "decoder": "logistic"})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 16, channels: int = 32, stages: int = 2,
        decoder: str = "categorical", beta: float = 1.0, posterior: str = "gaussian", components: int = 4,
        categories: int = 4, temperature: float = 1.0, straight_through: bool = False, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        check_counts(latent=latent, components=components, categories=categories)
        check_choice(posterior=(posterior, tuple(POSTERIORS)))
        check_nonnegative(beta=beta)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a finite number > 0, got {temperature!r}")
        codes = POSTERIORS[posterior](
            latent=latent, components=components, categories=categories, temperature=temperature
        )
        super().__init__(
            image_shape, levels, channels, stages, decoder, classes, codes.numbers, codes.width, rng or Generator(0)
        )
        self.latent, self.beta, self.codes, self.hard = latent, beta, codes, straight_through
        relaxed = posterior == "categorical" and not straight_through
        changes = [what for what, there in (("the KL weighted", beta != 1), ("codes relaxed", relaxed)) if there]
        self.loss_unit = ", ".join(["nats per dimension", *changes])

    def encode(self, images: Any, labels: Any = None) -> Normal | NormalMixture | Categorical:
        """q(z|x): images (N, C, H, W) to a density over z (N, latent); N(μ(x), diag σ²(x)) if Gaussian (eq. 9)."""
        return self.codes.density(self.encoded(images, labels))

    def code(self, images: Any, labels: Any = None) -> Tensor:
        """The mean of q(z|x), or its likeliest component's mean or classes: (N, width)."""
        return self.codes.code(self.encode(images, labels))

    def prior(self, like: Tensor) -> Normal | Categorical:
        """p(z), for z as `like`: N(0, I), or uniform over the classes."""
        return self.codes.prior(like)

    def draw_prior(self, n: int, rng: Generator) -> Tensor:
        """z ~ p(z): (n, width)."""
        return self.codes.sample(self.prior(zeros(n, self.width, dtype=self.dtype, device=self.device)), rng)

    def terms(self, images: Any, draw: Callable[[Any], Draws], labels: Any = None) -> tuple[Tensor, Tensor]:
        """E_q[log p(x|z)] and KL(q(z|x)‖p(z)), by the draws that `draw` takes from q: (N,) each, nats per image."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        posterior = self.encode(levels, **given)
        draws = draw(posterior)
        reconstruction = sum(weight * self.log_likelihood(levels, z, **given) for z, weight in draws)
        return reconstruction, self.codes.kl(posterior, self.prior(draws[0][0]), draws)

    def elbo(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E_q[log p(x|z)] − KL(q(z|x)‖p(z)) ≤ log p(x), by one sample of z (of each component): (N,), nats per image.

        Kingma & Welling 2014, eq. 7, the second form.  With labels (N,): on log p(x | label)."""
        reconstruction, kl = self.terms(images, lambda q: self.codes.draws(q, rng), labels)
        return reconstruction - kl

    def exact_elbo(self, images: Any, labels: Any = None) -> Tensor:
        """The elbo with the sum over all codes for E_q: (N,), nats per image.

        Raises:
            ValueError: z that is not categorical, or has more than 256 values."""
        if self.codes.values > MANY:
            raise ValueError(f"exact_elbo needs at most {MANY} codes, got {self.codes.values}")
        reconstruction, kl = self.terms(images, self.codes.all_draws, labels)
        return reconstruction - kl

    def importance_weighted_bound(self, images: Any, rng: Generator, samples: int = 64, labels: Any = None) -> Tensor:
        """log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): (N,), nats per image.

        Its expectation lies between the elbo (K = 1) and log p(x).  Burda, Grosse & Salakhutdinov 2016, eq. 8."""
        check_counts(samples=samples)
        levels, given = self.pixels(images), self.condition(labels, len(images))
        posterior = self.encode(levels, **given)
        log_weights = []
        for _ in range(samples):
            z = self.codes.sample(posterior, rng)
            log_ratio = self.codes.log_ratio(posterior, self.prior(z), z)
            log_weights.append(self.log_likelihood(levels, z, **given) + log_ratio)
        return F.logsumexp(F.stack(log_weights), dim=0) - math.log(samples)

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        found = super().negative_log_likelihoods(images, rng, labels)
        tighter = self.importance_weighted_bound(images, rng, samples=64, labels=labels)
        found["importance-weighted, K = 64"] = -tighter
        if self.codes.values <= MANY:
            found["negative elbo, all codes"] = -self.exact_elbo(images, labels)
        return found

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E_q[log p(x|z)] + β KL(q(z|x)‖p(z)), averaged over images and dimensions, in nats per dimension.

        Higgins et al. 2017, eq. 4.  Categorical codes are relaxed, unless `straight_through`."""
        reconstruction, kl = self.terms(images, lambda q: self.codes.draws(q, rng, self.hard), labels)
        return (self.beta * kl - reconstruction).mean() / self.dimensions
