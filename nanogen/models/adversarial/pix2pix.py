"""Image-to-image translation from pairs.  Isola et al. 2017.

    L_cGAN(G, D) = E[log D(x, y)] + E[log(1 − D(x, G(x, z)))]                                           (eq. 1)
    L_L1(G) = E[‖y − G(x, z)‖₁]                                                                         (eq. 3)
    G* = arg min_G max_D L_cGAN(G, D) + λ L_L1(G)                                                       (eq. 4)

x is the source, y the image that belongs to it.  D sees both.  G has to be near y, and its image has to look real.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import to_numpy
from nanogen.data.images import Images
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss
from nanogen.models.adversarial.translation import TranslationModel
from nanogen.models.adversarial.translators import PatchGAN, UNetTranslator
from nanogen.models.base import Update, check_counts, check_nonnegative
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator


class Pix2Pix(TranslationModel):
    """Translation that is learned from pairs of a source and an image.

    Args:
        image_shape: (C, H, W), at least 3×3 pixels.
        levels: the number of integer levels.
        source: how a source is made of an image: `edges`, `halved` (in resolution), `inverted`, `turned`, `posterised`.
        channels: the width of G and D at full size; it doubles wherever the size halves, up to eight times.
        stages: how many times G halves the size, at most: no side gets below 2.
        discriminator_stages: how many times D halves the size.  It sees patches of 7, 16, 34, 70 pixels with 0 … 3.
        weight: λ, the weight of the L1 error.
        dropout: the share of features set to 0 in G's decoder.  This is the noise z, also after training.
        classes: 0; the source is the condition.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "image translation learned from pairs (Isola et al. 2017)"
    loss_unit = "nats, with λ times the L1 error"
    small = Recipe(
        steps=600, lr=1e-3, betas=(0.5, 0.999), warmup=0,
        model={"channels": 32, "stages": 2, "discriminator_stages": 0, "dropout": 0.1},
    )  # fmt: skip
    large = large(steps=4000, lr=2e-4, betas=(0.5, 0.999), warmup=0, model={"channels": 32})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, source: str = "edges", channels: int = 64,
        stages: int = 7, discriminator_stages: int = 3, weight: float = 100.0, dropout: float = 0.5, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, source, classes)
        check_counts(channels=channels, stages=stages, discriminator_stages=discriminator_stages or 1)
        check_nonnegative(weight=weight)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout!r}")
        rng = rng or Generator(0)
        self.weight = weight
        self.generator = UNetTranslator(image_shape, channels, stages, dropout, rng)
        self.discriminator = PatchGAN((2 * image_shape[0], *image_shape[1:]), channels, discriminator_stages, rng)
        self.draw_weights(rng)

    def translation(self, x: Tensor, rng: Generator) -> Tensor:
        """G(x, z): (N, C, H, W)."""
        return self.generator(x, rng)

    def pair(self, images: Any) -> tuple[Tensor, Tensor]:
        """The sources x of images of integer levels, and the images y, both in [−1, 1]."""
        levels = self.pixels(images)
        return self.scaled(self.source_of(levels)), self.scaled(levels)

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The logits of D(x, y), one for each patch of the pair."""
        return self.discriminator(F.cat([x, y], dim=1))

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """½ (−E[log D(x, y)] − E[log(1 − D(x, G(x, z)))]), which D minimises: nats.  Eq. 1; the half: section 3.3."""
        self.condition(labels, len(images))
        levels = self.pixels(images)
        x, y = self.pair(levels)
        self.keep(self.source_of(levels))
        with no_grad():
            fake = self.translation(x, rng)
        return 0.5 * discriminator_loss(self.logits(x, y), self.logits(x, fake))

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[log D(x, G(x, z))] + λ E[‖y − G(x, z)‖₁], the norm as a mean over the pixels.  Eq. 4; section 3.3."""
        self.condition(labels, len(images))
        x, y = self.pair(images)
        fake = self.translation(x, rng)
        return generator_loss(self.logits(x, fake)) + self.weight * F.l1_loss(fake, y)

    def updates(self) -> list[Update]:
        """A step of D, then one of G.  Section 3.3."""
        return [
            Update("discriminator", self.discriminator_loss, self.discriminator),
            Update("generator", self.generator_loss, self.generator),
        ]

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - translation: in groups of three rows, sources, their translations, and the test images they were made of"""
        images, _ = self.first_images(test, 32)
        x = self.source_of(images)
        rows = np.stack([to_numpy(x), to_numpy(self.translate(x, rng)), images])
        return {"translation": np.concatenate([rows[:, :16], rows[:, 16:]])}
