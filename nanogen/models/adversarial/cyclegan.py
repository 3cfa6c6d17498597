"""Image-to-image translation without pairs.  Zhu et al. 2017.

    L_GAN(G, D_Y) = E_y[(D_Y(y) − 1)²] + E_x[D_Y(G(x))²]                        (eq. 1, with the squares of section 3.3)
    L_cyc(G, F) = E_x[‖F(G(x)) − x‖₁] + E_y[‖G(F(y)) − y‖₁]                                             (eq. 2)
    L(G, F, D_X, D_Y) = L_GAN(G, D_Y) + L_GAN(F, D_X) + λ L_cyc(G, F)                                   (eq. 3)

G: X → Y and F: Y → X.  The cycle makes the two inverse to each other.  It does not say which bijection they are: if
G and F are a solution and S is a bijection of Y that keeps its distribution, S ∘ G and F ∘ S⁻¹ are a solution too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import unscale_levels
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss
from nanogen.models.adversarial.translation import History, TranslationModel
from nanogen.models.adversarial.translators import PatchGAN, ResNetTranslator
from nanogen.models.base import Update, check_counts, check_nonnegative
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Sequential
from nanogen.random import Generator

Map = Callable[[Tensor], Tensor]


class CycleGAN(TranslationModel):
    """Translation in both directions, learned from sources X and images Y of which none belong together.

    Of a batch, every other image is turned into a source; the others remain images.  So no image of a step is in both
    domains.  In other epochs it may be in the other one, but the model is never told that.

    Args:
        image_shape: (C, H, W), at least 3×3 pixels.
        levels: the number of integer levels.
        source: how a source is made of an image: `edges`, `halved` (in resolution), `inverted`, `turned`, `posterised`.
        channels: the width of all networks at full size; it doubles wherever the size halves.
        stages: how many times a generator halves the size, at most: no side gets below 2.
        blocks: the number of residual blocks of a generator.
        discriminator_stages: how many times a discriminator halves the size.  It sees patches of 7, 16, 34, 70 pixels
            with 0 … 3.
        weight: λ, the weight of the cycle.
        identity: the weight of the identity terms, in units of λ.  The paper has 0.5 for paintings, else 0.
        history: the number of generated images that the discriminators may see again.
        classes: 0; the source is the condition.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "image translation learned without pairs (Zhu et al. 2017)"
    loss_unit = "squared error of D, with λ times the L1 error of the cycle"
    small = Recipe(
        steps=600, lr=1e-3, betas=(0.5, 0.999), warmup=0,
        model={"channels": 32, "stages": 0, "blocks": 1, "discriminator_stages": 1},
    )  # fmt: skip
    large = large(steps=4000, lr=2e-4, betas=(0.5, 0.999), warmup=0, model={"channels": 32})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, source: str = "inverted", channels: int = 64,
        stages: int = 2, blocks: int = 6, discriminator_stages: int = 3, weight: float = 10.0, identity: float = 0.0,
        history: int = 50, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, source, classes)
        check_counts(channels=channels, blocks=blocks, history=history)
        check_counts(stages=stages or 1, discriminator_stages=discriminator_stages or 1)  # 0 is allowed
        check_nonnegative(weight=weight, identity=identity)
        rng = rng or Generator(0)
        self.weight, self.identity = weight, identity
        self.forth, self.back = (ResNetTranslator(image_shape, channels, stages, blocks, rng) for _ in range(2))
        self.of_sources, self.of_images = (
            PatchGAN(image_shape, channels, discriminator_stages, rng) for _ in range(2)
        )  # D_X, D_Y
        self.past_sources, self.past_images = History(history, image_shape), History(history, image_shape)
        self.draw_weights(rng)

    def translation(self, x: Tensor, rng: Generator, back: bool = False) -> Tensor:
        """G(x), or with `back` F(y): (N, C, H, W)."""
        return self.back(x) if back else self.forth(x)

    def translate(self, images: Any, rng: Generator, back: bool = False) -> Array:
        """Images for sources, or with `back` sources for images; of integer levels: uint8 (N, C, H, W).

        Draws nothing.

        Raises:
            TypeError, ValueError: images that are not integers, of another shape, or with a level out of range."""
        with no_grad():
            x = self.translation(self.scaled(self.pixels(images)), rng, back)
        return unscale_levels(x.data, self.levels)

    def domains(self, images: Any) -> tuple[Tensor, Tensor]:
        """x, the sources of every other image, and y, the other images, in [−1, 1]: (⌈N/2⌉, C, H, W), (⌊N/2⌋, C, H, W).

        Raises:
            ValueError: fewer than two images."""
        levels = self.pixels(images)
        if len(levels) < 2:
            raise ValueError(f"images must be at least 2, one for each domain, got {len(levels)}")
        return self.scaled(self.source_of(levels[::2])), self.scaled(levels[1::2])

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E[(D_Y(G(x)) − 1)²] + E[(D_X(F(y)) − 1)²] + λ (L_cyc + identity · L_identity).  Eq. 3; section 5.2."""
        self.condition(labels, len(images))
        x, y = self.domains(images)
        loss_y = 2.0 * generator_loss(self.of_images(self.forth(x)), "least-squares")  # which is with ½
        loss_x = 2.0 * generator_loss(self.of_sources(self.back(y)), "least-squares")
        loss = loss_y + loss_x + self.weight * cycle_loss(self.forth, self.back, x, y)
        if self.identity:
            loss = loss + self.weight * self.identity * identity_loss(self.forth, self.back, x, y)
        return loss

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """½ L_GAN(G, D_Y) + ½ L_GAN(F, D_X), with generated images of the history among the new ones.  Section 4."""
        self.condition(labels, len(images))
        levels = self.pixels(images)
        x, y = self.domains(levels)
        self.keep(self.source_of(levels[::2]))
        coins = rng.uniform((len(images), 1), dtype=self.dtype)[:, 0]
        with no_grad():
            new_y, new_x = self.forth(x), self.back(y)
        old_y = Tensor(self.past_images(new_y.data, coins[::2], rng))
        old_x = Tensor(self.past_sources(new_x.data, coins[1::2], rng))
        loss_y = discriminator_loss(self.of_images(y), self.of_images(old_y), "least-squares")
        loss_x = discriminator_loss(self.of_sources(x), self.of_sources(old_x), "least-squares")
        return loss_y + loss_x

    def updates(self) -> list[Update]:
        """A step of both generators, then one of both discriminators."""
        return [
            Update("generator", self.generator_loss, Sequential(self.forth, self.back)),
            Update("discriminator", self.discriminator_loss, Sequential(self.of_sources, self.of_images)),
        ]

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - cycle: in rows 1 to 3 sources, there, and back again; in rows 4 to 6 images, back, and there again"""
        images, _ = self.first_images(test, 16)
        rows = []
        for start, back in ((self.source_of(images), False), (self.pixels(images), True)):
            there = self.translate(start, rng, back)
            rows += [start, there, self.translate(there, rng, not back)]
        return {"cycle": np.stack([to_numpy(row) for row in rows])}


def cycle_loss(forth: Map, back: Map, x: Tensor, y: Tensor) -> Tensor:
    """E[‖F(G(x)) − x‖₁] + E[‖G(F(y)) − y‖₁], the norms as means over the pixels.  Eq. 2."""
    return F.l1_loss(back(forth(x)), x) + F.l1_loss(forth(back(y)), y)


def identity_loss(forth: Map, back: Map, x: Tensor, y: Tensor) -> Tensor:
    """E[‖G(y) − y‖₁] + E[‖F(x) − x‖₁]: what is of the target domain already stays as it is.  Section 5.2."""
    return F.l1_loss(forth(y), y) + F.l1_loss(back(x), x)
