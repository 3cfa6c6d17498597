"""The hierarchical VAE: a Markov chain of latents.  Burda et al. 2016, Importance Weighted Autoencoders, section 2.

    p(x, z_1 … z_T) = p(x|z_1) p(z_1|z_2) … p(z_{T−1}|z_T) p(z_T),  p(z_T) = N(0, I)                  (eq. 1)
    q(z_1 … z_T|x) = q(z_1|x) q(z_2|z_1) … q(z_T|z_{T−1})                                             (eq. 2)

    log p(x) ≥ elbo(x) = E_q[log p(x, z_1 … z_T) − log q(z_1 … z_T|x)]                                (eq. 3)
                       = E_q[log p(x|z_1)] − Σ_t rate of z_t

    rate of z_t = E_q[log q(z_t|z_{t−1}) − log p(z_t|z_{t+1})],  z_0 = x,  t < T
    rate of z_T = E_q[KL(q(z_T|z_{T−1}) ‖ p(z_T))]

All densities of latents are normal with a diagonal covariance.  Of the rates only the last one is a KL, in closed form
given z_{T−1}.  In the others z_{t+1} is drawn from q(z_{t+1}|z_t), after z_t, so p(z_t|z_{t+1}) itself depends on z_t.
They are averages of log-ratios, and may be negative.

With latents of the image's size and a fixed q that adds noise, this is a diffusion model: `log_weight` is its bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Normal, kl_divergence
from nanogen.functional.normalization import mean_over_ranks
from nanogen.models.base import check_counts, check_nonnegative
from nanogen.models.latent.base import LatentModel
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Linear, Module
from nanogen.random import Generator


def normal(numbers: Tensor) -> Normal:
    """N(μ, diag σ²) of a network's output (N, 2 · latent): μ, then log σ²."""
    mean, log_variance = F.chunk(numbers, 2, 1)
    return Normal(mean, log_std=0.5 * log_variance)


class Transition(Module):
    """From one level's latents to a normal density over the next one's: (N, latent) to the same.

    h = tanh(W_1 z + b_1), μ = W_2 h + b_2, log σ² = W_3 h + b_3.  Kingma & Welling 2014, appendix C.2."""

    def __init__(self, latent: int, hidden: int, rng: Generator):
        super().__init__()
        self.first = Linear(latent, hidden, rng=rng)
        self.last = Linear(hidden, 2 * latent, rng=rng)

    def forward(self, z: Tensor) -> Normal:
        return normal(self.last(F.tanh(self.first(z))))


class HierarchicalVAE(LatentModel):
    """A convolutional VAE whose prior over z_1 is a chain of further latents.

    The upper levels collapse easily: q(z_t|z_{t−1}) becomes p(z_t), and z_t says nothing of the image.  `free_bits` is
    the remedy.  A conditional model has the label in q(z_1|x, label) and p(x|z_1, label).

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels of a pixel.
        levels_of_latents: T, the length of the chain; 1: a VAE.
        latent: the number of dimensions of each z_t.
        hidden: the width of the networks between two levels.
        channels, stages, decoder: as for `VAE`.
        free_bits: λ, the nats per image that each level may take in the loss without a cost; 0: none, the loss is the
            bound.  The bounds are without it.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "a chain of latents, a bound on the likelihood (Burda et al. 2016)"
    small = Recipe(steps=1200, weight_decay=0.3)
    large = large(steps=4000, lr=1e-3, model={"latent": 32, "decoder": "logistic"})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, levels_of_latents: int = 3, latent: int = 16,
        hidden: int = 128, channels: int = 32, stages: int = 2, decoder: str = "categorical", free_bits: float = 2.0,
        classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        check_counts(levels_of_latents=levels_of_latents, latent=latent, hidden=hidden)
        rng = rng or Generator(0)
        super().__init__(image_shape, levels, channels, stages, decoder, classes, 2 * latent, latent, rng)
        check_nonnegative(free_bits=free_bits)
        self.T, self.latent, self.free_bits = levels_of_latents, latent, free_bits
        self.upwards = [Transition(latent, hidden, rng) for _ in range(self.T - 1)]
        self.downwards = [Transition(latent, hidden, rng) for _ in range(self.T - 1)]
        if free_bits:
            self.loss_unit = "nats per dimension, with free bits"

    # The densities

    def encode(self, images: Any, labels: Any = None) -> Normal:
        """q(z_1|x): images (N, C, H, W) to a density over z_1 (N, latent)."""
        return normal(self.encoded(images, labels))

    def posterior(self, t: int, below: Tensor) -> Normal:
        """q(z_t|z_{t−1}) for t = 2 … T: z_{t−1} (N, latent) to a density over z_t."""
        return self.upwards[t - 2](below)

    def prior(self, t: int, above: Tensor) -> Normal:
        """p(z_t|z_{t+1}) for t = 1 … T − 1: z_{t+1} (N, latent) to a density over z_t."""
        return self.downwards[t - 1](above)

    def last_prior(self, like: Tensor) -> Normal:
        """p(z_T) = N(0, I)."""
        return Normal(like.detach() * 0.0, 1.0)

    def chain(self, images: Any, rng: Generator, labels: Any = None) -> tuple[list[Tensor], list[Normal]]:
        """z_1 ~ q(z_1|x), then each z_t ~ q(z_t|z_{t−1}): the latents, (N, latent) each, and these densities."""
        densities = [self.encode(images, labels)]
        latents = [densities[0].rsample(rng)]
        for t in range(2, self.T + 1):
            densities.append(self.posterior(t, latents[-1]))
            latents.append(densities[-1].rsample(rng))
        return latents, densities

    def priors(self, latents: list[Tensor]) -> list[Normal]:
        """p(z_1|z_2), …, p(z_{T−1}|z_T), p(z_T) for z_1 … z_T."""
        return [self.prior(t, latents[t]) for t in range(1, self.T)] + [self.last_prior(latents[-1])]

    # The bounds

    def terms(self, images: Any, rng: Generator, labels: Any = None) -> tuple[Tensor, Tensor]:
        """log p(x|z_1), (N,), and the rates of z_1 … z_T, (N, T), along one chain ~ q: nats per image.

        The last rate is a KL, the others are log-ratios."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        latents, posteriors = self.chain(levels, rng, **given)
        *priors, last = self.priors(latents)
        rates = [q.log_prob(z) - p.log_prob(z) for z, q, p in zip(latents, posteriors, priors)]
        rates.append(kl_divergence(posteriors[-1], last))
        return self.log_likelihood(levels, latents[0], **given), F.stack([rate.sum(1) for rate in rates], dim=1)

    def elbo(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E_q[log p(x|z_1)] − Σ_t rate of z_t ≤ log p(x), by one chain: (N,), nats per image.  Eq. 3.

        With labels (N,): on log p(x | label)."""
        reconstruction, rates = self.terms(images, rng, labels)
        return reconstruction - rates.sum(1)

    def log_weight(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """log p(x, z_1 … z_T) − log q(z_1 … z_T|x) along one chain ~ q: (N,), nats per image.

        Its expectation is the elbo: the form without a KL.  Ho et al. 2020, eq. 3, for diffusion."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        latents, posteriors = self.chain(levels, rng, **given)
        log_weight = self.log_likelihood(levels, latents[0], **given)
        for z, q, p in zip(latents, posteriors, self.priors(latents), strict=True):
            log_weight = log_weight + (p.log_prob(z) - q.log_prob(z)).sum(1)
        return log_weight

    def importance_weighted_bound(self, images: Any, rng: Generator, samples: int = 64, labels: Any = None) -> Tensor:
        """log 1/K Σ_k p(x, chain_k) / q(chain_k|x): (N,), nats per image.

        Its expectation lies between the elbo (K = 1) and log p(x).  Burda, Grosse & Salakhutdinov 2016, eq. 8."""
        check_counts(samples=samples)
        log_weights = [self.log_weight(images, rng, labels) for _ in range(samples)]
        return F.logsumexp(F.stack(log_weights), dim=0) - math.log(samples)

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        """The bound −elbo, the importance-weighted one, and the parts of the first."""
        reconstruction, rates = self.terms(images, rng, labels)
        tighter = self.importance_weighted_bound(images, rng, samples=64, labels=labels)
        found = {"upper bound": rates.sum(1) - reconstruction, "importance-weighted, K = 64": -tighter}
        found["−log p(x|z_1)"] = -reconstruction
        return found | {f"rate of z_{t}": rates[:, t - 1] for t in range(1, self.T + 1)}

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E_q[log p(x|z_1)] + Σ_t max(λ, rate of z_t), in nats per dimension; −elbo if λ = 0.

        The rates are means over the batch, of all ranks.  Kingma et al. 2016, Improved Variational Inference with
        Inverse Autoregressive Flow, appendix C.8."""
        reconstruction, rates = self.terms(images, rng, labels)
        rates = rates.mean(0)
        if self.free_bits:
            rates = F.maximum(mean_over_ranks(rates) if self.training else rates, self.free_bits)
        return (rates.sum() - reconstruction.mean()) / self.dimensions

    # Samples and pictures

    def descend(self, t: int, z: Tensor, rng: Generator) -> Tensor:
        """z_1 below a given z_t: z_{t−1} ~ p(z_{t−1}|z_t), and so on down."""
        for s in range(t - 1, 0, -1):
            z = self.prior(s, z).sample(rng)
        return z

    def draw_prior(self, n: int, rng: Generator) -> Tensor:
        """z_T ~ N(0, I), then down to z_1: (n, latent)."""
        return self.descend(self.T, super().draw_prior(n, rng), rng)

    def code(self, images: Any, labels: Any = None) -> Tensor:
        """The mean of q(z_1|x)."""
        return self.encode(images, labels).mean

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - reconstructions: test images in rows 1 and 3, each above its reconstruction
        - interpolation: each row goes from one test image to another
        - prior_means: E[x|z_1] of z_1 ~ p(z_1), samples without the decoder's noise; with labels, a class in each row
        - traversals: a test image; in each row one dimension of z_1 is −2, −1.5 … 2, for the eight that vary most
        - shared_latents: samples; in row 1 all is drawn anew, in row 2 they share z_T, in row 3 z_{T−1} too, and so on
        - from_each_level: test images in row 1; row t + 1 is drawn from each one's z_t: it shows what z_t knows
        """
        found = super().illustrations(train, test, rng)
        found.pop("manifold", None)  # its codes are quantiles of N(0, I), which p(z_1) is not
        chosen, given = self.first_images(test, 16)
        with no_grad():
            latents, _ = self.chain(chosen, rng, **given)
            known = [self.picture(self.descend(t, z, rng), **given) for t, z in enumerate(latents, 1)]
            density, shared = self.last_prior(latents[-1][:1]), []
            for t in range(self.T, 0, -1):
                z = density.sample(rng, (16,)).reshape(16, -1)
                shared.append(self.picture(self.descend(t, z, rng), **self.class_by_row(1, 16)))
                if t > 1:
                    density = self.prior(t - 1, z[:1])
        found["shared_latents"] = np.stack([to_numpy(row) for row in shared])
        found["from_each_level"] = np.stack([chosen, *(to_numpy(row) for row in known)])
        return found
