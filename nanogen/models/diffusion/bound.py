"""The bound of diffusion on the log-likelihood.  Ho et al. 2020, eq. 5.

−log p(x_0) ≤ E[L_T + Σ_{t>1} L_{t−1} + L_0]

Four estimators of it have this expectation: of all terms, along a whole chain, and from one random t with two samples
x_{t−1} and x_t or with one, x_t.
"""

from __future__ import annotations

from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module
from nanogen.distributions import DiscretizedNormal, Normal, kl_divergence
from nanogen.models.base import check_choice, progress
from nanogen.models.diffusion.base import Diffusion
from nanogen.random import Generator


class Bounded(Diffusion):
    """A diffusion model of images with its bound on log p(x)."""

    # The terms

    def q_reverse(self, x0: Any, x_t: Any, t: Any) -> Normal:
        """q(x_{t−1} | x_t, x_0).  Ho et al. 2020, eq. 6.  At t = 1, where it is a point, its variance is β̃_2."""
        variances = self.schedule.posterior_variances.copy()
        variances[1] = variances[2]
        return Normal(self.schedule.mean_from_x0(x_t, t, x0), self.schedule.at(variances**0.5, t, x_t))

    def prior_term(self, x0: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, I)): (N,)."""
        signal, std = self.schedule.sqrt_alpha_bars[-1], self.schedule.sqrt_one_minus_alpha_bars[-1]
        return per_image(kl_divergence(Normal(float(signal) * x0, float(std)), Normal(0.0 * x0, 1.0)))

    def decoder_term(self, levels: Array, p: Normal) -> Tensor:
        """L_0 = −log p_θ(x_0 | x_1), the discretised decoder: (N,).  Ho et al. 2020, eq. 13."""
        return -per_image(DiscretizedNormal(p.mean, p.log_std, self.levels).log_prob(levels))

    def step_term(self, levels: Array, x0: Tensor, x_t: Tensor, t: Any, p: Normal) -> Tensor:
        """L_{t−1} at a time t of 1 … T for each image, given p = p_θ(x_{t−1} | x_t): (N,), nats per image."""
        divergence = per_image(kl_divergence(self.q_reverse(x0, x_t, t), p))
        return F.where(Tensor(array_module(levels).asarray(t) == 1), self.decoder_term(levels, p), divergence)

    def bound_term(self, images: Any, t: int, rng: Generator, labels: Any = None) -> Tensor:
        """One term of the bound on −log p(x_0), estimated from one sample of x_t: (N,), nats per image.  Eq. 5.

        t = 0:      L_0 = −log p_θ(x_0 | x_1), the discretised decoder of eq. 13
        0 < t < T:  L_t = KL(q(x_t | x_{t+1}, x_0) ‖ p_θ(x_t | x_{t+1}))
        t = T:      L_T = KL(q(x_T | x_0) ‖ N(0, I))
        """
        levels = self.pixels(images)
        x0 = self.scaled(levels)
        if t == self.T:
            return self.prior_term(x0)
        later = array_module(levels).full(len(levels), t + 1)
        x_later = self.schedule.q_sample(x0, later, rng.normal(x0.shape, dtype=x0.dtype))
        p = self.reverse(x_later, later, **self.condition(labels, len(levels)))
        return per_image(kl_divergence(self.q_reverse(x0, x_later, later), p)) if t else self.decoder_term(levels, p)

    def bound_terms(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """L_0, L_1, …, L_T: (N, T + 1), nats per image.  The expectation of their sum bounds −log p(x_0).  Eq. 5."""
        given = self.condition(labels, len(images))
        steps = progress(range(self.T + 1), "term of the bound")
        return F.stack([self.bound_term(images, t, rng, **given) for t in steps], dim=1)

    # The estimators

    @property
    def estimators(self) -> dict[str, int]:
        return {"terms": self.T, "trajectory": self.T, "two-sample": 1, "one-sample": 1}

    def elbo(self, images: Any, rng: Generator, labels: Any = None, estimator: str = "terms") -> Tensor:
        """−(L_T + Σ L_{t−1} + L_0) ≤ log p(x_0) in expectation: (N,), nats per image.  Eq. 5.

        Args:
            estimator: `terms`: each term from one sample of x_t.  `trajectory`: from one chain x_1 … x_T.
                `two-sample`, `one-sample`: from one random t, and samples of x_{t−1} and x_t or of x_t alone.

        Raises:
            ValueError: another estimator."""
        check_choice(estimator=(estimator, tuple(self.estimators)))
        given = self.condition(labels, len(images))
        if estimator == "terms":
            return -self.bound_terms(images, rng, **given).sum(1)
        levels = self.pixels(images)
        if estimator == "trajectory":
            return self.trajectory_bound(levels, rng, **given)
        return self.bound_at_one_time(levels, rng, estimator == "two-sample", **given)

    def trajectory_bound(self, levels: Array, rng: Generator, **given: Array) -> Tensor:
        """log p(x_T) + Σ_t log p_θ(x_{t−1} | x_t) / q(x_t | x_{t−1}) for one chain x_1 … x_T of q: (N,).  Eq. 3."""
        x, s = self.scaled(levels), self.schedule
        found: Any = 0.0
        for t in progress(range(1, self.T + 1), "step of the chain"):
            q = Normal(float(s.alphas[t] ** 0.5) * x, float(s.betas[t] ** 0.5))
            later = q.mean + q.std * rng.normal(x.shape, dtype=x.dtype)
            p = self.reverse(later, array_module(levels).full(len(levels), t), **given)
            downwards = -self.decoder_term(levels, p) if t == 1 else per_image(p.log_prob(x))
            found, x = found + downwards - per_image(q.log_prob(later)), later
        return found + per_image(Normal(0.0 * x, 1.0).log_prob(x))

    def bound_at_one_time(self, levels: Array, rng: Generator, two: bool, **given: Array) -> Tensor:
        """−L_T − T L_{t−1} at one random t for each image: (N,).

        L_{t−1} is the KL in closed form, or with two samples log q(x_{t−1} | x_t, x_0) − log p_θ(x_{t−1} | x_t), whose
        expectation given x_t and x_0 it is."""
        x0, t = self.scaled(levels), rng.integers(1, self.T + 1, len(levels))
        x_t = self.schedule.q_sample(x0, t, rng.normal(x0.shape, dtype=x0.dtype))
        p = self.reverse(x_t, t, **given)
        term = self.step_term(levels, x0, x_t, t, p)
        if two:
            q = self.q_reverse(x0, x_t, t)
            before = q.mean + q.std * rng.normal(x0.shape, dtype=x0.dtype)
            ratio = per_image(q.log_prob(before) - p.log_prob(before))
            term = F.where(Tensor(array_module(levels).asarray(t) == 1), term, ratio)
        return -self.prior_term(x0) - self.T * term

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        """The bound −elbo and its parts, nats per image."""
        terms = self.bound_terms(images, rng, **self.condition(labels, len(images)))
        inner = terms[:, 1:-1].sum(1)
        return {"upper bound": terms.sum(1), "L_0": terms[:, 0], "sum of L_1 … L_{T−1}": inner, "L_T": terms[:, -1]}


def per_image(x: Tensor) -> Tensor:
    """The sum over an image: (N, C, H, W) to (N,)."""
    return x.sum((1, 2, 3))
