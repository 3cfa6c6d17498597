"""The bound of diffusion on the log-likelihood.  Ho et al. 2020, eq. 5.

−log p(x_0) ≤ E[L_T + Σ_{t>1} L_{t−1} + L_0]
"""

from __future__ import annotations

import math
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import array_module
from nanogen.distributions import DiscretizedNormal, Normal, kl_divergence
from nanogen.models.base import progress
from nanogen.models.diffusion.base import Diffusion
from nanogen.random import Generator


class Bounded(Diffusion):
    """A diffusion model of images with its bound on log p(x)."""

    def bound_term(self, images: Any, t: int, rng: Generator, labels: Any = None) -> Tensor:
        """One term of the bound on −log p(x_0), estimated from one sample of x_t: (N,), nats per image.  Eq. 5.

        t = 0:      L_0 = −log p_θ(x_0 | x_1), the discretised decoder of eq. 13
        0 < t < T:  L_t = KL(q(x_t | x_{t+1}, x_0) ‖ p_θ(x_t | x_{t+1}))
        t = T:      L_T = KL(q(x_T | x_0) ‖ N(0, I))
        """
        levels = self.pixels(images)
        x0, schedule = self.scaled(levels), self.schedule
        if t == self.T:
            q = Normal(float(schedule.sqrt_alpha_bars[t]) * x0, float(schedule.sqrt_one_minus_alpha_bars[t]))
            return kl_divergence(q, Normal(0.0 * x0, 1.0)).sum((1, 2, 3))
        later = array_module(levels).full(len(levels), t + 1)
        x_later = schedule.q_sample(x0, later, rng.normal(x0.shape, dtype=x0.dtype))
        given = self.condition(labels, len(levels))
        mean, std = self.p_mean(x_later, later, **given), float(self.reverse_variances[t + 1]) ** 0.5
        if t == 0:
            return -DiscretizedNormal(mean, math.log(std), self.levels).log_prob(levels).sum((1, 2, 3))
        posterior_mean, posterior_variance = schedule.q_posterior(x0, x_later, later)
        q = Normal(posterior_mean, posterior_variance**0.5)
        return kl_divergence(q, Normal(mean, std)).sum((1, 2, 3))

    def bound_terms(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """L_0, L_1, …, L_T: (N, T + 1), nats per image.  The expectation of their sum bounds −log p(x_0).  Eq. 5."""
        given = self.condition(labels, len(images))
        steps = progress(range(self.T + 1), "term of the bound")
        return F.stack([self.bound_term(images, t, rng, **given) for t in steps], dim=1)

    def elbo(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−(L_T + Σ L_{t−1} + L_0) ≤ log p(x_0), each term from one sample: (N,), nats per image.  Eq. 5."""
        return -self.bound_terms(images, rng, **self.condition(labels, len(images))).sum(1)

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        """The bound −elbo and its parts, nats per image."""
        terms = self.bound_terms(images, rng, **self.condition(labels, len(images)))
        inner = terms[:, 1:-1].sum(1)
        return {"upper bound": terms.sum(1), "L_0": terms[:, 0], "sum of L_1 … L_{T−1}": inner, "L_T": terms[:, -1]}
