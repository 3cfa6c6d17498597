"""Denoising diffusion.  Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                     noise is added in T steps              (eq. 4)
    p_θ(x_{t−1} | x_t) = N(μ_θ(x_t, t), σ_t² I)                 a network removes it step by step      (eq. 1)
    L_simple = E ‖ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t)‖²          it is trained to predict the noise     (eq. 14)

The network is in `unet`, the tables of the forward process in `schedule`, sampling in `base`, the bound in `bound`.
"""

from __future__ import annotations

from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array
from nanogen.models.base import check_choice, check_counts
from nanogen.models.diffusion.bound import Bounded
from nanogen.models.diffusion.schedule import SCHEDULES, NoiseSchedule
from nanogen.models.diffusion.unet import UNet
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator


class DDPM(Bounded):
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

    def sampling_networks(self) -> list[Module]:
        return [self.unet]
