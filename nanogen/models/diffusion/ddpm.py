"""Denoising diffusion.  Ho, Jain & Abbeel 2020, Denoising Diffusion Probabilistic Models.

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                     noise is added in T steps              (eq. 4)
    p_θ(x_{t−1} | x_t) = N(μ_θ(x_t, t), σ_t² I)                 a network removes it step by step      (eq. 1)
    L_simple = E ‖ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t)‖²          it is trained to predict the noise     (eq. 14)

It may predict something else, in `prediction`, and the variances too.  Nichol & Dhariwal 2021, Improved Denoising
Diffusion Probabilistic Models.

The network is in `unet` or `transformer`, the tables of the forward process in `schedule`, sampling in `base`, the
bound in `bound`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array
from nanogen.distributions import Normal
from nanogen.models.base import check_choice, check_counts
from nanogen.models.diffusion.bound import Bounded
from nanogen.models.diffusion.captions import LONGEST
from nanogen.models.diffusion.editing import Editable
from nanogen.models.diffusion.guidance import Guided
from nanogen.models.diffusion.prediction import PREDICTIONS
from nanogen.models.diffusion.schedule import SCHEDULES, NoiseSchedule
from nanogen.models.diffusion.text import TextUNet
from nanogen.models.diffusion.times import TIMES
from nanogen.models.diffusion.transformer import Transformer
from nanogen.models.diffusion.unet import UNet
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator

BOUND = 0.001  # λ, the weight of the bound in L_hybrid


class DDPM(Guided, Bounded, Editable):
    """A diffusion model of images.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        T: the number of diffusion steps, at least 2.
        schedule: `linear`, `quadratic`, `sigmoid`, `cosine`, or a NoiseSchedule.
        variance: σ_t² of the reverse process: `beta` (β_t) or `posterior` (β̃_t, but β̃_2 at t = 1).  Ho et al. 2020,
            section 3.2, and their code.  `learned`: by the network, between the two.
        prediction: what the network predicts, `noise`, `x0`, `mean` (of the reverse process) or `v`.
        weighting: of the squared errors at different t: `simple`, all alike, or `bound`, as in the bound (with
            σ_t² = β̃_t, if it is learned).
        times: the times of a training step: `uniform`, or by `importance` for the loss.
        network: `unet`, or `transformer`, whose width is that of the U-Net's lowest resolution.  Peebles & Xie 2023.
        channels: the width of the U-Net at full size, even.
        multipliers: the width at each resolution, in units of `channels`; each resolution is half the one before.
        blocks: residual blocks per resolution in the U-Net's encoder; its decoder has one more.
        heads: the number of attention heads at the lowest resolution, or in the transformer; a divisor of its width.
        patch: the height and width of the transformer's patches, which divide those of the image.
        depth: the number of the transformer's blocks.
        dropout: the share of features set to 0 inside the residual blocks, while training.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        label_dropout: the share of images whose condition is left out in training, for guidance in sampling; 0: none.
        condition: `label`; or `text`: captions of class, weight and slant, made in training from images and labels.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "denoising step by step, a bound on the likelihood (Ho et al. 2020)"
    loss_unit = "squared error per dimension"
    small = Recipe(steps=600, model={"T": 200, "channels": 32})
    large = large(steps=3000, lr=1e-3, model={"channels": 32, "multipliers": (1, 2, 2), "patch": 4})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, T: int = 1000, schedule: str | NoiseSchedule = "linear",
        variance: str = "beta", channels: int = 64, multipliers: tuple[int, ...] = (1, 2), blocks: int = 1,
        heads: int = 4, dropout: float = 0.0, classes: int = 0, label_dropout: float = 0.1, condition: str = "label",
        prediction: str = "noise", weighting: str = "simple", times: str = "uniform", network: str = "unet",
        patch: int = 2, depth: int = 6, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(patch=patch, depth=depth)
        check_choice(
            variance=(variance, ("beta", "posterior", "learned")), prediction=(prediction, tuple(PREDICTIONS)),
            weighting=(weighting, ("simple", "bound")), times=(times, tuple(TIMES)),
            network=(network, ("unet", "transformer")),
        )  # fmt: skip
        if not isinstance(schedule, NoiseSchedule):
            check_choice(schedule=(schedule, tuple(SCHEDULES)))
            schedule = SCHEDULES[schedule](T)
        if weighting == "bound":
            self.loss_unit = "nats per dimension, less a constant"
        self.schedule, self.variance, self.weighting = schedule, variance, weighting
        self.prediction, self.times, self.network = prediction, TIMES[times](schedule.T), network
        self.set_condition(condition, label_dropout)
        outputs, rng = image_shape[0] * (2 if variance == "learned" else 1), rng or Generator(0)
        settings: dict[str, Any] = {"heads": heads, "dropout": dropout, "outputs": outputs, "rng": rng}
        of_unet: dict[str, Any] = {"colors": image_shape[0], "channels": channels, "blocks": blocks}
        of_unet["multipliers"] = tuple(multipliers)
        if network == "transformer":
            if self.captions is not None:
                raise ValueError("condition=text needs network=unet")
            width, labels = channels * multipliers[-1], classes + self.guidable
            self.transformer = Transformer(image_shape, width, patch, depth, classes=labels, **settings)
        elif self.captions is not None:
            self.unet: UNet = TextUNet(len(self.captions.words), LONGEST, **of_unet, **settings)
        else:
            self.unet = UNet(classes=classes + self.guidable, **of_unet, **settings)

    @property
    def denoiser(self) -> Module:
        """The network."""
        return getattr(self, self.network)

    def predict(self, x_t: Tensor, t: Any, rng: Generator | None = None, **given: Any) -> Tensor:
        """The output of the network for noisy images (N, C, H, W) and times (N,): its prediction (N, C, H, W).

        A learned variance makes it (N, 2C, H, W): the prediction, then v.  A conditional model also takes labels, on
        its device, and guidance; see `Guided`.  The loss passes an rng, for dropout."""
        return self.guided(x_t, self.network_times(t, x_t), rng, **given)

    def halves(self, output: Tensor) -> tuple[Tensor, Any]:
        """The prediction and, if the variance is learned, v ∈ [−1, 1]."""
        channels = self.image_shape[0]
        return (output[:, :channels], output[:, channels:]) if self.variance == "learned" else (output, None)

    def predict_noise(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """ε_θ(x_t, t), the noise (N, C, H, W) that follows from the prediction."""
        return PREDICTIONS[self.prediction].noise(self.schedule, x_t, t, self.halves(self.predict(x_t, t, **given))[0])

    def predict_x0(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """The clean image x̂_0 that follows from the prediction, clipped to [−1, 1]."""
        return self.x0_of(x_t, t, self.halves(self.predict(x_t, t, **given))[0])

    def x0_of(self, x_t: Tensor, t: Any, prediction: Tensor) -> Tensor:
        return PREDICTIONS[self.prediction].x0(self.schedule, x_t, t, prediction).clip(-1.0, 1.0)

    def reverse(self, x_t: Tensor, t: Any, **given: Array) -> Normal:
        if self.variance != "learned":
            return super().reverse(x_t, t, **given)
        return self.reverse_of(x_t, t, *self.halves(self.predict(x_t, t, **given)))

    def reverse_of(self, x_t: Tensor, t: Any, prediction: Tensor, v: Tensor) -> Normal:
        """p_θ(x_{t−1} | x_t) with log σ² = v log β_t + (1 − v) log β̃_t, β̃_2 at t = 1.  Nichol & Dhariwal 2021, eq. 15.

        As in their code, the network's v ∈ [−1, 1] is scaled to [0, 1]; nothing keeps it there."""
        log_largest, log_smallest = (
            np.log(np.append(1.0, s[1:])) for s in (self.schedule.betas, self.reverse_variances)
        )
        share = (v + 1.0) / 2
        at = lambda table: self.schedule.at(table, t, x_t)
        log_variance = share * at(log_largest) + (1.0 - share) * at(log_smallest)
        mean = self.schedule.mean_from_x0(x_t, t, self.x0_of(x_t, t, prediction))
        return Normal(mean, log_std=0.5 * log_variance)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """L_simple: the squared error of the prediction at random times, the mean per dimension.  Eq. 14.

        With a learned variance L_hybrid = L_simple + λ L_vlb, the bound in nats per dimension, whose gradient does not
        reach the mean.  Nichol & Dhariwal 2021, eq. 16."""
        levels = self.pixels(images)
        x0, given = self.scaled(levels), self.training_condition(levels, labels, rng)
        t, shares = self.times.draw(len(images), rng)
        noise = Tensor(rng.normal(x0.shape, dtype=x0.dtype))
        x_t = self.schedule.q_sample(x0, t, noise)
        prediction, v = self.halves(self.predict(x_t, t, rng, **given))
        form = PREDICTIONS[self.prediction]
        target = form.target(self.schedule, x0, noise, x_t, t)
        losses = F.mse_loss(prediction, target, reduction="none")
        if self.weighting == "bound":
            weights = self.T * form.weights(self.schedule, self.reverse_variances)
            losses = losses * self.schedule.at(weights, t, losses)
        if v is not None:
            p = self.reverse_of(x_t, t, prediction.detach(), v)
            bound = self.T * self.step_term(levels, x0, x_t, t, p) / self.dimensions
            losses = losses + BOUND * bound.reshape(-1, 1, 1, 1)
        if self.training:
            self.times.follow(t, losses.data)
        return (losses if shares is None else losses * shares.astype(losses.dtype).reshape(-1, 1, 1, 1)).mean()

    def sampling_networks(self) -> list[Module]:
        return [self.denoiser]
