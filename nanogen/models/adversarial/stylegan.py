"""The StyleGAN in miniature.  Karras et al. 2019, A Style-Based Generator Architecture for GANs.

    w = f(z);  h ← AdaIN(h, A(w)) in each layer, from a learned constant                              (eq. 1, figure 1)

A mapping network turns z into a style w.  The image begins as a constant, and w enters as the mean and the std that
each layer gives to its channels.  So each layer can have a style of its own: the layers of small resolution decide
about large features, the others about details.

Progressive growing (Karras et al. 2018) begins with the smallest resolution and fades in the others, in G and in D.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import unscale_levels
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss
from nanogen.models.adversarial.styles import (
    StyleDiscriminator,
    StyleGenerator,
    alphas_at,
    faded_images,
    r1_penalty,
)
from nanogen.models.base import GenerativeModel, Update, check_counts, check_nonnegative
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator


class StyleGAN(GenerativeModel):
    """A small StyleGAN, with the non-saturating loss and the R1 penalty.

    Unlike the paper's: tanh at the output, as a digit's background is exactly −1; sizes double without blur; fewer
    layers from z to w, which learn at a tenth of the others' rate, not at a hundredth.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the number of dimensions of z and of w.
        channels: the width at full size; it doubles wherever the size halves.
        mapping: the number of layers from z to w.
        mixing: the probability that an image has two styles in training, one up to some layer, one from there on.
        penalty: γ, the weight of `r1_penalty` in the discriminator's loss.
        progressive: the number of steps in which a resolution trains, and again of those in which the next one then
            fades in; 0: no progressive growing.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.

    Buffers:
        steps: the number of the discriminator's steps so far, with progressive growing.
    """

    summary = "a generator with a style for each layer (Karras et al. 2019)"
    loss_unit = "nats"
    small = Recipe(steps=800, lr=5e-3, betas=(0.0, 0.99), warmup=0, model={"penalty": 0.5})
    large = large(steps=4000, lr=2e-3, betas=(0.0, 0.99), warmup=0, model={"channels": 16})
    steps: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 64, channels: int = 32, mapping: int = 4,
        mixing: float = 0.9, penalty: float = 1.0, progressive: int = 0, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(latent=latent, channels=channels, mapping=mapping)
        if progressive != 0:
            check_counts(progressive=progressive)
        if not 0 <= mixing <= 1:
            raise ValueError(f"mixing must be a probability, got {mixing!r}")
        check_nonnegative(penalty=penalty)
        rng = rng or Generator(0)
        self.latent, self.mixing, self.penalty, self.progressive = latent, mixing, penalty, progressive
        grows = progressive > 0
        self.generator = StyleGenerator(image_shape, channels, latent, mapping, grows, classes, rng)
        self.discriminator = StyleDiscriminator(image_shape, channels, grows, classes, rng)
        if grows:
            self.register_buffer("steps", Tensor(np.zeros((), np.int64)))

    def alphas(self) -> Tensor | None:
        """How far each doubling has faded in, (doublings,); None without progressive growing."""
        if not self.progressive:
            return None
        return alphas_at(self.steps.data, self.progressive, self.generator.doublings, self.dtype)

    def draw_styles(self, n: int, rng: Generator, labels: Any = None) -> Tensor:
        """w = f(z), z ~ N(0, I): (n, latent)."""
        z = Tensor(rng.normal((n, self.latent), dtype=self.dtype))
        return self.generator.mapping(z, **self.condition(labels, n))

    def generate(self, n: int, rng: Generator, labels: Any = None) -> Tensor:
        """Images in [−1, 1] for training, a share `mixing` of them with two styles, which meet at a layer that is
        drawn for each image.  Section 3.1."""
        layers = len(self.generator.layers)
        coarse, fine = (self.draw_styles(n, rng, labels) for _ in range(2))
        meet = rng.integers(1, layers, (n, 1))
        two = rng.uniform((n, 1), dtype=self.dtype) < self.mixing
        return self.generator(mixed(coarse, fine, meet * two + layers * ~two, layers), rng, self.alphas())

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[log D(x)] − E[log(1 − D(G(z)))] + γ/2 E[‖∇d(x)‖²], which D minimises: nats.  Appendix C."""
        given = self.condition(labels, len(images))
        if self.progressive and self.training:
            self.steps.data += 1  # in place: a captured CUDA graph uses the same memory
        alphas = self.alphas()
        with no_grad():
            fake = self.generate(len(images), rng, **given)
            real = faded_images(self.scaled(self.pixels(images)), alphas)
        real.requires_grad = True
        logits = self.discriminator(real, alphas, **given)
        loss = discriminator_loss(logits, self.discriminator(fake, alphas, **given))
        return loss + self.penalty * r1_penalty(logits, real) if self.penalty else loss

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[log D(G(z))], which G minimises, for as many samples as there are images: nats."""
        given = self.condition(labels, len(images))
        fake = self.generate(len(images), rng, **given)
        return generator_loss(self.discriminator(fake, self.alphas(), **given))

    def updates(self) -> list[Update]:
        """A step of the discriminator, then one of the generator."""
        return [
            Update("discriminator", self.discriminator_loss, self.discriminator),
            Update("generator", self.generator_loss, self.generator),
        ]

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """Images of one style each, rounded to the nearest levels: uint8 (n, C, H, W)."""
        given = self.condition(labels, n, rng)
        with no_grad():
            w = self.draw_styles(n, rng, **given)
        return self.picture([w] * len(self.generator.layers), rng)

    def picture(self, styles: list[Tensor], rng: Generator) -> Array:
        """The images of a style (N, latent) for each layer, rounded to levels: uint8 (N, C, H, W)."""
        with no_grad():
            return unscale_levels(self.generator(styles, rng, self.alphas()).data, self.levels)

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - mixing: the first three quarters of the layers have the style of the image at the left, the others that of the
          image above
        - noise: each row has one style, with other noise in each image"""
        layers, n = len(self.generator.layers), 8
        coarse = 3 * layers // 4
        with no_grad():
            left, above = (self.draw_styles(n, rng, **self.class_by_row(n, 1)) for _ in range(2))
        everywhere = lambda w: [w] * layers
        i, j = np.divmod(np.arange(n * n), n)
        row = self.picture(everywhere(above), rng)
        column = self.picture(everywhere(left), rng)
        inside = self.picture([left[i]] * coarse + [above[j]] * (layers - coarse), rng)
        grid = np.zeros((n + 1, n + 1, *self.image_shape), np.uint8)
        grid[0, 1:], grid[1:, 0] = to_numpy(row), to_numpy(column)
        grid[1:, 1:] = to_numpy(inside).reshape(n, n, *self.image_shape)
        noisy = to_numpy(self.picture(everywhere(left[i]), rng))
        return {"mixing": grid, "noise": noisy.reshape(n, n, *self.image_shape)}


def mixed(coarse: Tensor, fine: Tensor, crossover: Array, layers: int) -> list[Tensor]:
    """The style of each layer 0, 1, …: `coarse` (N, latent) before the crossover, `fine` from there on.

    Karras et al. 2019, section 3.1.

    Args:
        crossover: a layer for each image, integers (N, 1); `layers`: all are coarse.
    """
    return [F.where(crossover > k, coarse, fine) for k in range(layers)]
