"""Denoising diffusion.  Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                     noise is added in T steps              (eq. 4)
    p_θ(x_{t−1} | x_t) = N(μ_θ(x_t, t), σ_t² I)                 a network removes it step by step      (eq. 1)
    L_simple = E ‖ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t)‖²          it is trained to predict the noise     (eq. 14)

The network is in `unet`, the tables of the forward process in `schedule`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import DiscretizedNormal, Normal, kl_divergence, unscale_levels
from nanogen.models.base import GenerativeModel, check_choice, check_counts, progress
from nanogen.models.diffusion.schedule import SCHEDULES, NoiseSchedule
from nanogen.models.diffusion.unet import UNet
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator


class DDPM(GenerativeModel):
    """A diffusion model that predicts the noise.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        T: the number of diffusion steps, at least 2.
        schedule: `linear`, `quadratic`, `sigmoid`, `cosine`, or a NoiseSchedule.
        variance: σ_t² of the reverse process: `beta` (β_t) or `posterior` (β̃_t, but β̃_2 at t = 1).  Ho et al. 2020,
            section 3.2, and their code.
        channels: the width of the U-Net at full size, even.
        multipliers: the width at each resolution, in units of `channels`; each resolution is half the one before.
        blocks: residual blocks per resolution in the U-Net's encoder; its decoder has one more.
        heads: the number of attention heads at the lowest resolution, a divisor of its width.
        dropout: the share of features set to 0 inside the residual blocks, while training.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "denoising step by step, a bound on the likelihood (Ho et al. 2020)"
    loss_unit = "squared error per dimension"
    small = Recipe(steps=600, model={"T": 200, "channels": 32})
    large = large(steps=3000, lr=1e-3, model={"channels": 32, "multipliers": (1, 2, 2)})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, T: int = 1000, schedule: str | NoiseSchedule = "linear",
        variance: str = "beta", channels: int = 64, multipliers: tuple[int, ...] = (1, 2), blocks: int = 1,
        heads: int = 4, dropout: float = 0.0, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(
            channels=channels, blocks=blocks, heads=heads, **{f"multipliers[{i}]": m for i, m in enumerate(multipliers)}
        )
        check_choice(variance=(variance, ("beta", "posterior")))
        if not isinstance(schedule, NoiseSchedule):
            check_choice(schedule=(schedule, tuple(SCHEDULES)))
            schedule = SCHEDULES[schedule](T)
        if not multipliers:
            raise ValueError("multipliers must be at least one positive integer, got none")
        if channels % 2 or channels * multipliers[-1] % heads:
            raise ValueError(f"channels must be even, and divide into {heads} heads at the end, got {channels}")
        self.schedule, self.variance = schedule, variance
        self.unet = UNet(
            image_shape[0], channels, tuple(multipliers), blocks, heads, dropout, rng or Generator(0), classes
        )

    @property
    def T(self) -> int:
        return self.schedule.T

    @property
    def reverse_variances(self) -> np.ndarray:
        """σ_t² for t = 0 … T.  At t = 1 `posterior` has β̃_2, as in the authors' code: β̃_1 is 0."""
        if self.variance == "beta":
            return self.schedule.betas.copy()
        variances = self.schedule.posterior_variances.copy()
        variances[1] = variances[2]
        return variances

    def predict_noise(self, x_t: Tensor, t: Any, rng: Generator | None = None, labels: Array | None = None) -> Tensor:
        """ε_θ(x_t, t), the predicted noise: (N, C, H, W) from noisy images (N, C, H, W) and times (N,).

        A conditional model also takes labels (N,), on its device."""
        return self.unet(x_t, t, labels, rng)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """L_simple: the squared error of the predicted noise at random times, the mean per dimension.  Eq. 14."""
        x0, given = self.scaled(self.pixels(images)), self.condition(labels, len(images))
        t = rng.integers(1, self.T + 1, len(images))
        noise = Tensor(rng.normal(x0.shape, dtype=x0.dtype))
        return F.mse_loss(self.predict_noise(self.schedule.q_sample(x0, t, noise), t, rng, **given), noise)

    def predict_x0(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """The clean image x̂_0 that follows from the predicted noise, clipped to [−1, 1]."""
        return self.schedule.x0_from_noise(x_t, t, self.predict_noise(x_t, t, **given)).clip(-1.0, 1.0)

    def p_mean(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """μ_θ(x_t, t), the mean of p_θ(x_{t−1} | x_t): μ̃_t (eq. 7) at the predicted x̂_0.

        Where x̂_0 is not clipped this is eq. 11, `NoiseSchedule.mean_from_noise` of the predicted noise."""
        return self.schedule.mean_from_x0(x_t, t, self.predict_x0(x_t, t, **given))

    # Sampling

    def sampling_networks(self) -> list[Module]:
        return [self.unet]

    @property
    def network_evaluations(self) -> int:
        return self.T

    def evaluations_with(self, steps: int | None = None, eta: float = 0.0) -> int:  # type: ignore[override]
        """T, or the number of DDIM's steps.

        Raises:
            ValueError: steps or eta out of range, or eta without steps."""
        if steps is None and eta:
            raise ValueError("eta is DDIM's: give steps too")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        return self.T if steps is None else len(ddim_times(self.T, steps)) - 1

    def sampling_within(self, evaluations: int) -> dict[str, Any]:
        """DDIM with at most 100 steps, if T steps would be too many."""
        return {"steps": min(evaluations, 100)} if evaluations < self.T else {}

    def sample(self, n: int, rng: Generator, labels: Any = None, steps: int | None = None, eta: float = 0.0) -> Array:
        """n images of integer levels: uint8 (n, C, H, W).

        By the T steps of the reverse process (algorithm 2), or by DDIM if a number of `steps` is given.

        Raises:
            ValueError: n or steps out of range, or eta without steps."""
        self.evaluations_with(steps, eta)
        check_counts(n=n)
        given = self.condition(labels, n, rng)
        trajectory = self.ancestral(n, rng, **given) if steps is None else self.ddim(n, rng, steps, eta, **given)
        for _, x in trajectory:
            last = x
        return unscale_levels(last.data, self.levels)

    def _start(self, n: int, rng: Generator) -> Tensor:
        check_counts(n=n)
        return Tensor(rng.normal((n, *self.image_shape), dtype=self.dtype))

    def ancestral(self, n: int, rng: Generator, labels: Any = None) -> Iterator[tuple[int, Tensor]]:
        """x_T ~ N(0, I), then x_{t−1} = μ_θ(x_t, t) + σ_t z down to x_0, without noise at t = 1.

        Yields (t, x_t) for t = T … 0.  Ho et al. 2020, algorithm 2."""
        x, given, variances = self._start(n, rng), self.condition(labels, n), self.reverse_variances
        yield self.T, x
        for t in progress(range(self.T, 0, -1), "sampling step"):
            with no_grad():
                x = self.p_mean(x, array_module(x.data).full(n, t), **given)
                if t > 1:
                    x = x + float(variances[t]) ** 0.5 * rng.normal(x.shape, dtype=x.dtype)
            yield t - 1, x

    def ddim(
        self, n: int, rng: Generator, steps: int, eta: float = 0.0, labels: Any = None
    ) -> Iterator[tuple[int, Tensor]]:
        """x_T ~ N(0, I), then fewer and larger steps t → s, deterministic if eta = 0.  Yields each (t, x_t).

        x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z,  σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s).  Song et al. 2021, eq. 12
        and 16.  ε̂ is the noise that belongs to the clipped x̂_0."""
        self.evaluations_with(steps, eta)
        x, times, schedule = self._start(n, rng), ddim_times(self.T, steps), self.schedule
        given = self.condition(labels, n)
        yield self.T, x
        for t, s in progress(list(itertools.pairwise(times)), "sampling step"):
            before, after = schedule.q_variance(0, t), float(schedule.q_variance(0, s))  # 1 − ᾱ_t, 1 − ᾱ_s
            sigma2 = float(eta**2 * after / before * schedule.q_variance(s, t))
            with no_grad():
                now = array_module(x.data).full(n, t)
                x0 = self.predict_x0(x, now, **given)
                noise = schedule.noise_from_x0(x, now, x0)
                x = float(schedule.sqrt_alpha_bars[s]) * x0 + max(after - sigma2, 0.0) ** 0.5 * noise
                if sigma2 > 0:
                    x = x + sigma2**0.5 * rng.normal(x.shape, dtype=x.dtype)
            yield s, x

    # The bound

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

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """denoising: each row is one sample, x_t from the noise at t = T (left) to the image at t = 0 (right)"""
        n, frames = 8, 12
        shown = [round(self.T * (1 - i / (frames - 1)) ** 3) for i in range(frames)]  # images change most at small t
        strips = self.ancestral(n, rng, **self.class_by_row(n, 1))
        film = [to_numpy(unscale_levels(x.data, self.levels)) for t, x in strips if t in shown]
        return {"denoising": np.stack(film, axis=1)}


def ddim_times(T: int, steps: int) -> list[int]:
    """steps + 1 decreasing times from T to 0, evenly spaced up to rounding to integers.

    Raises:
        ValueError: steps not in 1 … T."""
    if not isinstance(steps, int) or not 1 <= steps <= T:
        raise ValueError(f"steps must be in 1 … {T}, got {steps!r}")
    return [round(T * (steps - i) / steps) for i in range(steps + 1)]
