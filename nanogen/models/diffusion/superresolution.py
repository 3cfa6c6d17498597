"""Super-resolution by diffusion.  Saharia et al. 2021, Image Super-Resolution via Iterative Refinement (SR3).

    L = E ‖ε − ε_θ(x_t, z, t)‖²,  x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε                                       (eq. 6)

z is the small image, enlarged; the network sees it beside x_t.  In a cascade z comes from another model, and is not
quite like the small images of the data.  So the network may be trained with noise on z, and is told how much (Ho et al.
2022, Cascaded Diffusion Models, non-truncated conditioning augmentation):

    z_s = √ᾱ_s z + √(1 − ᾱ_s) ε′,  ε_θ(x_t, z_s, t, s)

As in `DDPM` the network knows the time by t, and not by ᾱ_t.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module, to_numpy
from nanogen.data.images import Images, mean_levels, means
from nanogen.distributions import scale_levels, unscale_levels
from nanogen.models.adversarial.translation import TranslationModel
from nanogen.models.base import check_choice
from nanogen.models.diffusion.base import Diffusion
from nanogen.models.diffusion.schedule import SCHEDULES
from nanogen.models.diffusion.unet import UNet
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator

FACTOR = 2  # large sides in units of the small ones


class SuperResolution(TranslationModel, Diffusion):
    """Images from their halves: a diffusion model that sees the small image.

    A small image has the means of squares of 2×2 pixels, unrounded: it has 4 (levels − 1) + 1 levels, at most 256.

    Args:
        image_shape: (C, H, W) of the large image, H and W even.
        levels: the number of integer levels of the large image.
        T: the number of diffusion steps, at least 2.
        schedule: `linear`, `quadratic`, `sigmoid` or `cosine`.
        variance: σ_t² of the reverse process: `beta` (β_t) or `posterior` (β̃_t, but β̃_2 at t = 1).
        augmentation: the most noise on the small image in training, as a share of T; 0: none, as in SR3.
        channels: the width of the U-Net at full size, even.
        multipliers: the width at each resolution, in units of `channels`; each resolution is half the one before.
        blocks: residual blocks per resolution in the U-Net's encoder; its decoder has one more.
        heads: the number of attention heads at the lowest resolution, a divisor of its width.
        dropout: the share of features set to 0 inside the residual blocks, while training.
        classes: 0; the small image is the condition.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "large images from small ones by diffusion (Saharia et al. 2021)"
    loss_unit = "squared error per dimension"
    small = Recipe(steps=1200, model={"T": 200, "channels": 32})
    large = large(steps=3000, lr=1e-3, model={"channels": 32, "multipliers": (1, 2, 2)})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, T: int = 1000, schedule: str = "linear",
        variance: str = "beta", augmentation: float = 0.0, channels: int = 64, multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1, heads: int = 4, dropout: float = 0.0, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, "halved", classes)
        check_choice(variance=(variance, ("beta", "posterior")), schedule=(schedule, tuple(SCHEDULES)))
        if not 0 <= augmentation <= 1:
            raise ValueError(f"augmentation must be in [0, 1], got {augmentation!r}")
        self.schedule, self.variance, self.augmentation = SCHEDULES[schedule](T), variance, augmentation
        colors, rng = image_shape[0], rng or Generator(0)
        self.unet = UNet(
            2 * colors + (augmentation > 0), channels, tuple(multipliers), blocks, heads, dropout, rng, outputs=colors
        )

    @property
    def source_shape(self) -> tuple[int, ...]:
        colors, height, width = self.image_shape
        if height % FACTOR or width % FACTOR:
            raise ValueError(f"image_shape must have even sides, got {self.image_shape}")
        return colors, height // FACTOR, width // FACTOR

    @property
    def source_levels(self) -> int:
        return mean_levels(self.levels, FACTOR)

    def source_of(self, images: Any) -> Array:
        """The small image of each large one (N, C, H, W): uint8 (N, C, H / 2, W / 2)."""
        return means(self.pixels(images), self.levels, FACTOR)

    def most(self, share: float) -> int:
        """The last time of a share of T."""
        return round(share * self.T)

    def beside(self, source: Tensor, level: Any, rng: Generator) -> Array:
        """What the network sees beside x_t: z_s, its pixels repeated; with augmentation, also a channel of s / T.

        Args:
            source: z in [−1, 1], (N, C, H / 2, W / 2).
            level: s, integers (N,); all 0 without augmentation."""
        z = source
        if self.augmentation:
            z = self.schedule.q_sample(z, level, Tensor(rng.normal(z.shape, dtype=z.dtype)))
            told = (level / self.T).astype(z.dtype)[:, None, None, None] + 0 * z.data[:, :1]
            z = F.cat([z, Tensor(told)], dim=1)
        enlarged: Array = F.interpolate(z, size=self.image_shape[1:]).data
        return enlarged

    def predict_noise(self, x_t: Tensor, t: Any, z: Array, rng: Generator | None = None) -> Tensor:
        """ε_θ(x_t, z_s, t, s): (N, C, H, W), from x_t (N, C, H, W), times (N,) and z of `beside`."""
        return self.unet(F.cat([x_t, Tensor(z)], dim=1), self.network_times(t, x_t), None, rng)

    def predict_x0(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """The clean image x̂_0 that follows from the predicted noise, clipped to [−1, 1]."""
        return self.schedule.x0_from_noise(x_t, t, self.predict_noise(x_t, t, **given)).clip(-1.0, 1.0)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The squared error of the predicted noise at random times t and levels s, the mean per dimension.  Eq. 6."""
        self.condition(labels, len(images))
        levels = self.pixels(images)
        x0, source, n = self.scaled(levels), self.source_of(levels), len(levels)
        self.keep(source)
        t, s = rng.integers(1, self.T + 1, n), rng.integers(0, self.most(self.augmentation) + 1, n)
        z, noise = self.beside(self.scaled_source(source), s, rng), Tensor(rng.normal(x0.shape, dtype=x0.dtype))
        return F.mse_loss(self.predict_noise(self.schedule.q_sample(x0, t, noise), t, z, rng), noise)

    def translate(
        self, images: Any, rng: Generator, steps: int | None = None, eta: float = 0.0, level: float = 0.0
    ) -> Array:
        """A large image for each small one: uint8 (N, C, H, W), by the reverse process or by DDIM in `steps`.

        Args:
            images: levels of small images, (N, C, H / 2, W / 2), below `source_levels`.
            level: the noise that they get first, as a share of T up to `augmentation`.

        Raises:
            TypeError, ValueError: images of another type, shape or level; steps, eta or level out of range."""
        self.evaluations_with(steps, eta, level)
        source, n = self.scaled_source(images), len(images)
        z = self.beside(source, array_module(source.data).full(n, self.most(level)), rng)
        return self.last_of(self.ancestral(n, rng, z=z) if steps is None else self.ddim(n, rng, steps, eta, z=z))

    def sample(  # type: ignore[override]
        self, n: int, rng: Generator, labels: Any = None, steps: int | None = None, eta: float = 0.0, level: float = 0.0
    ) -> Array:
        """Large images for n kept small ones, each drawn with equal probability: uint8 (n, C, H, W)."""
        return self.translate(self.kept_sources(n, rng, labels), rng, steps, eta, level)

    def evaluations_with(  # type: ignore[override]
        self, steps: int | None = None, eta: float = 0.0, level: float = 0.0
    ) -> int:
        """T, or the number of DDIM's steps.

        Raises:
            ValueError: steps, eta or level out of range."""
        if not 0 <= level <= self.augmentation:
            raise ValueError(f"level must be in [0, {self.augmentation}], the model's augmentation, got {level}")
        return super().evaluations_with(steps=steps, eta=eta)

    def sampling_networks(self) -> list[Module]:
        return [self.unet]

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - superresolution: small images, three large ones of each, and the test images that they were made of"""
        images, _ = self.first_images(test, 16)
        small = self.source_of(images)
        large = [to_numpy(self.translate(small, rng, **self.sampling_within(100))) for _ in range(3)]
        shown = unscale_levels(scale_levels(small, self.source_levels), self.levels).repeat(2, axis=2).repeat(2, axis=3)
        return {"superresolution": np.stack([shown, *large, images])}
