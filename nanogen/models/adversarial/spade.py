"""Images from label maps.  Park et al. 2019, Semantic Image Synthesis with Spatially-Adaptive Normalization.

    γ_c,y,x(m) (h_n,c,y,x − μ_c) / σ_c + β_c,y,x(m)                                                          (eq. 1)

A normalisation takes away what a uniform region of the label map m had brought into the features.  Here the map comes
back behind each normalisation, as a scale and a shift for every pixel, which convolutions make of m.  The generator
itself begins with noise z, so that one map has many images.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import unscale_levels
from nanogen.models.adversarial.networks import halvings
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss
from nanogen.models.adversarial.sources import TONES, tones
from nanogen.models.adversarial.styles import double, halve
from nanogen.models.adversarial.translation import TranslationModel
from nanogen.models.adversarial.translators import PatchGAN
from nanogen.models.base import Update, check_counts
from nanogen.models.recipe import Recipe, large
from nanogen.nn import BatchNorm2d, Conv2d, Linear, Module
from nanogen.random import Generator


class SPADE(TranslationModel):
    """A generator of images from label maps, with the hinge loss.

    Unlike the paper's: no losses of features, no spectral normalisation, one discriminator in place of two.

    A label map has TONES classes: what tone a pixel of the source has.

    Args:
        image_shape: (C, H, W), at least 3×3 pixels.
        levels: the number of integer levels.
        source: how a source is made of an image: `posterised` (few tones), `edges`, `halved` (the resolution),
            `inverted` or `turned`; as levels, which are then rounded to tones.
        latent: the number of dimensions of z.
        channels: the width of G and D at full size; it doubles wherever the size halves.
        hidden: the width between a map and its scales and shifts.
        discriminator_stages: how many times D halves the size.  It sees patches of 7, 16, 34, 70 pixels with 0 … 3.
        classes: 0; the source is the condition.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "images from label maps (Park et al. 2019)"
    loss_unit = "units of the discriminator's output"
    small = Recipe(
        steps=800, lr=1e-3, betas=(0.0, 0.9), warmup=0, model={"channels": 32, "hidden": 32, "discriminator_stages": 0}
    )
    large = large(steps=4000, lr=4e-4, betas=(0.0, 0.9), warmup=0, model={"channels": 32, "hidden": 32})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, source: str = "posterised", latent: int = 64,
        channels: int = 64, hidden: int = 128, discriminator_stages: int = 3, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, source, classes)
        check_counts(latent=latent, channels=channels, hidden=hidden, discriminator_stages=discriminator_stages or 1)
        rng, maps = rng or Generator(0), TONES * image_shape[0]
        self.latent = latent
        self.generator = SPADEGenerator(image_shape, maps, latent, channels, hidden, rng)
        self.discriminator = PatchGAN((maps + image_shape[0], *image_shape[1:]), channels, discriminator_stages, rng)

    def label_map(self, x: Tensor) -> Tensor:
        """Sources in [−1, 1] as label maps: (N, TONES · C, H, W), 1 for the tone that a pixel has, else 0."""
        levels = unscale_levels(x.data, self.levels)
        found = F.one_hot(tones(levels, self.levels), TONES).data  # (N, C, H, W, TONES)
        return Tensor(found.transpose(0, 4, 1, 2, 3).reshape(len(x), -1, *x.shape[2:]).astype(x.dtype))

    def translation(self, x: Tensor, rng: Generator) -> Tensor:
        """G(z, m), z ~ N(0, I): (N, C, H, W)."""
        return self.generator(Tensor(rng.normal((len(x), self.latent), dtype=self.dtype)), self.label_map(x))

    def translate(self, images: Any, rng: Generator) -> Array:
        """As for `TranslationModel`; each image by itself, since the norms go by their running moments."""
        mode = self.training
        self.eval()
        found = super().translate(images, rng)
        self.train(mode)
        return found

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The logits of D(m, y), one for each patch of map and image."""
        return self.discriminator(F.cat([self.label_map(x), y], dim=1))

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E[max(0, 1 − D(m, y))] + E[max(0, 1 + D(m, G(z, m)))], which D minimises.  Section 3; Lim & Ye 2017."""
        self.condition(labels, len(images))
        levels = self.pixels(images)
        source = self.source_of(levels)
        self.keep(source)
        x = self.scaled(source)
        with no_grad():
            fake = self.translation(x, rng)
        return discriminator_loss(self.logits(x, self.scaled(levels)), self.logits(x, fake), "hinge")

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[D(m, G(z, m))], which G minimises."""
        self.condition(labels, len(images))
        x = self.scaled(self.source_of(images))
        return generator_loss(self.logits(x, self.translation(x, rng)), "hinge")

    def updates(self) -> list[Update]:
        """A step of D, then one of G."""
        return [
            Update("discriminator", self.discriminator_loss, self.discriminator),
            Update("generator", self.generator_loss, self.generator),
        ]

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - translation: sources, images of them with three different z, and the test images they were made of"""
        images, _ = self.first_images(test, 16)
        x = self.source_of(images)
        drawn = [self.translate(x, rng) for _ in range(3)]
        return {"translation": np.stack([to_numpy(rows) for rows in (x, *drawn, images)])}


class SpatiallyAdaptiveNorm(Module):
    """(1 + γ(m)) · norm(h) + β(m), norm a batch normalisation without weights: (N, C, H, W).

    γ and β (N, C, H, W) are 3×3 convolutions of relu(conv(m)), m the label map at the size of h.  Eq. 1, figure 3."""

    def __init__(self, maps: int, channels: int, hidden: int, rng: Generator):
        super().__init__()
        self.norm = BatchNorm2d(channels, affine=False)
        self.shared = Conv2d(maps, hidden, 3, padding=1, rng=rng)
        self.gamma, self.beta = (Conv2d(hidden, channels, 3, padding=1, rng=rng) for _ in range(2))

    def forward(self, h: Tensor, m: Tensor) -> Tensor:
        features = F.relu(self.shared(m))
        return (1.0 + self.gamma(features)) * self.norm(h) + self.beta(features)


class SPADEBlock(Module):
    """skip(h) + two times conv(relu(norm(h, m))).  If the width changes, so does the skip's.  Figure 4."""

    def __init__(self, maps: int, inputs: int, outputs: int, hidden: int, rng: Generator):
        super().__init__()
        least = min(inputs, outputs)
        norm = lambda channels: SpatiallyAdaptiveNorm(maps, channels, hidden, rng)
        self.norms = [norm(inputs), norm(least)]
        self.convs = [Conv2d(a, b, 3, padding=1, rng=rng) for a, b in ((inputs, least), (least, outputs))]
        changes = inputs != outputs
        self.skip_norm = norm(inputs) if changes else None
        self.skip = Conv2d(inputs, outputs, 1, bias=False, rng=rng) if changes else None

    def forward(self, h: Tensor, m: Tensor) -> Tensor:
        kept = h if self.skip is None or self.skip_norm is None else self.skip(self.skip_norm(h, m))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.relu(norm(h, m)))
        return kept + h


class SPADEGenerator(Module):
    """z (N, latent) and label maps (N, maps, H, W) to images in [−1, 1].  A block at each resolution; each doubles it.

    At a smaller size, a map has the share of each class in the pixels that become one.  Figure 4."""

    def __init__(
        self, image_shape: tuple[int, int, int], maps: int, latent: int, channels: int, hidden: int, rng: Generator
    ):
        super().__init__()
        colors, height, width = image_shape
        doublings = halvings(height, width)
        widths = [channels << i for i in reversed(range(doublings + 1))]
        self.small = widths[0], height >> doublings, width >> doublings
        self.first = Linear(latent, int(np.prod(self.small)), rng=rng)
        self.blocks = [SPADEBlock(maps, a, b, hidden, rng) for a, b in zip([widths[0], *widths], widths, strict=False)]
        self.last = Conv2d(channels, colors, 3, padding=1, rng=rng)

    def forward(self, z: Tensor, m: Tensor) -> Tensor:
        maps = [m]
        for _ in self.blocks[1:]:
            maps.insert(0, halve(maps[0]))
        h = self.first(z).reshape(len(z), *self.small)
        for i, (block, at_size) in enumerate(zip(self.blocks, maps, strict=True)):
            h = block(double(h) if i else h, at_size)
        return F.tanh(self.last(F.leaky_relu(h, 0.2)))
