"""InfoGAN: a GAN whose latents have a part that its images tell.  Chen et al. 2016.

    min_{G, Q} max_D V(D, G) − λ L_I(G, Q),  L_I = E[log Q(c|G(z, c))] + H(c) ≤ I(c; G(z, c))          (eq. 5, 6)

A GAN may use its noise z in any entangled way.  Here G also gets codes c: a class, and numbers.  Q sees an image and
says what its codes were.  The better it can, the more of c is in the image.  The difference of the two sides of the
bound is E[KL(p(c|x) ‖ Q(c|x))]: if Q is the posterior, they are equal (eq. 4).

No label is ever used.  What the codes stand for is found by looking at the images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, check_range, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Normal
from nanogen.models.adversarial import objectives
from nanogen.models.adversarial.biggan import truncated_normal
from nanogen.models.adversarial.gan import GAN
from nanogen.models.base import check_counts, check_nonnegative
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Conv2d
from nanogen.random import Generator


class InfoGAN(GAN):
    """A GAN of noise z ~ N(0, I), a categorical code, and continuous codes ~ U[−1, 1]; its latents are all three.

    Q shares D's network up to D's last layer, has a layer of its own beside that, and learns with D.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        noise: the number of dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        codes: the number of values of the categorical code, each equally probable.
        continuous: the number of continuous codes.
        weight: λ of the categorical code.
        continuous_weight: λ of the continuous codes.
        discriminator_steps: the number of updates of D per update of G.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    discriminator: Any  # with another layer, `q`
    summary = "a GAN with codes that its images tell (Chen et al. 2016)"
    small = Recipe(steps=800, lr=5e-4, betas=(0.5, 0.999), warmup=0, model={"noise": 20})
    large = large(steps=4000, lr=3e-4, betas=(0.5, 0.999), warmup=0, model={"channels": 32})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, noise: int = 62, channels: int = 64, codes: int = 10,
        continuous: int = 2, weight: float = 1.0, continuous_weight: float = 0.1, discriminator_steps: int = 1,
        classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        check_counts(noise=noise, codes=codes, continuous=continuous)
        check_nonnegative(weight=weight, continuous_weight=continuous_weight)
        rng, latent = rng or Generator(0), noise + codes + continuous
        super().__init__(
            image_shape, levels, latent, channels, discriminator_steps=discriminator_steps, classes=classes, rng=rng
        )
        self.noise, self.codes, self.continuous = noise, codes, continuous
        self.weight, self.continuous_weight = weight, continuous_weight
        _, features, *size = self.discriminator.last.weight.shape
        self.discriminator.q = Conv2d(features, codes + 2 * continuous, tuple(size), rng=rng)

    def draw_latents(self, n: int, rng: Generator, truncation: float | None = None, code: Any = None) -> Array:
        """z, c and the continuous codes side by side: (n, latent).  c is a one-hot code, of `code` (n,) if given."""
        z, c = truncated_normal(rng, (n, self.noise), self.dtype, truncation), rng.integers(0, self.codes, n)
        numbers = 2 * rng.uniform((n, self.continuous), dtype=self.dtype) - 1
        xp = array_module(z)
        c = c if code is None else xp.broadcast_to(xp.asarray(code), n)
        return xp.concatenate([z, (c[:, None] == xp.arange(self.codes)).astype(self.dtype), numbers], axis=1)

    def log_q(self, latents: Array, features: Tensor) -> tuple[Tensor, Tensor]:
        """log Q(c|x) of the categorical code and of the continuous ones together, (N,) each, from D's features of x.

        Q(c|x) is a softmax, and a normal distribution for each continuous code.  Section 6."""
        k, m = self.codes, self.continuous
        logits, mean, log_std = F.split(self.discriminator.q(features).flatten(1), [k, m, m], dim=1)
        c, numbers = Tensor(latents[:, self.noise : -m]), Tensor(latents[:, -m:])
        return (c * F.log_softmax(logits, dim=1)).sum(1), Normal(mean, log_std=log_std).log_prob(numbers).sum(1)

    def information(self, latents: Array, features: Tensor) -> tuple[Tensor, Tensor]:
        """L_I of the categorical code and of the continuous ones, nats, from latents and D's features of G(z, c)."""
        c, numbers = self.log_q(latents, features)
        return information_bound(c, math.log(self.codes)), information_bound(numbers, self.continuous * math.log(2))

    def reward(self, latents: Array, features: Tensor) -> Tensor:
        """λ L_I, with a λ for each kind of code."""
        c, numbers = self.information(latents, features)
        return self.weight * c + self.continuous_weight * numbers

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−V(D, G) − λ L_I, which D and Q minimise.  Q learns from samples: of images nobody knows the codes."""
        given = self.condition(labels, len(images))
        latents = self.draw_latents(len(images), rng)
        with no_grad():
            fake = self.generator(Tensor(latents), **given)
        features = self.discriminator.features(fake)
        real_logits = self.discriminator(self.scaled(self.pixels(images)), **given)
        loss = objectives.discriminator_loss(real_logits, self.discriminator.judge(features, **given))
        return loss - self.reward(latents, features)

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[log D(G(z, c))] − λ L_I, for as many samples as there are images."""
        given = self.condition(labels, len(images))
        latents = self.draw_latents(len(images), rng)
        features = self.discriminator.features(self.generator(Tensor(latents), **given))
        return objectives.generator_loss(self.discriminator.judge(features, **given)) - self.reward(latents, features)

    def sample(
        self, n: int, rng: Generator, labels: Any = None, truncation: float | None = None,
        code: int | np.ndarray | None = None,
    ) -> Array:  # fmt: skip
        """x = G(z, c), rounded to the nearest levels: uint8 (n, C, H, W).

        Args:
            truncation: the largest |z_i| of the noise.
            code: the categorical code, an integer for all images or one for each, (n,); default: drawn.

        Raises:
            ValueError: a code that is not one integer or n in 0 … codes − 1."""
        if code is not None:
            found: Any = code if hasattr(code, "dtype") else np.array(code)
            if found.dtype.kind not in "iu" or found.shape not in ((), (n,)):
                raise ValueError(f"code must be an integer or {n} integers, got {found.dtype} of shape {found.shape}")
            check_range("code", found, self.codes)
        given = self.condition(labels, n, rng)
        return self.picture(self.draw_latents(n, rng, truncation, code), **given)

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Those of a GAN, whose latents are noise and codes, and:

        - interpolation: each row is an arc between two latents, codes included
        - nearest: samples in rows 1 and 3, each above its nearest training image, so that memorised images show
        - arithmetic: bold − thin + thin of another class = bold: of each, three samples and their mean; the result
        - codes: a value of the categorical code in each row, the same noise in each column
        - continuous: in each row one continuous code from −1 to 1, in the upper half the first one, below the second"""
        rows, m = min(self.codes, 16), self.continuous
        latents = to_numpy(self.draw_latents(10, rng))
        by_code = np.repeat(latents[None], rows, axis=0)
        by_code[:, :, self.noise : -m] = np.eye(rows, self.codes)[:, None]
        varied = np.repeat(to_numpy(self.draw_latents(10, rng))[:, None], 10, axis=1)
        for row, which in zip(varied, np.repeat([0, min(1, m - 1)], 5), strict=True):
            row[:, which - m] = np.linspace(-1, 1, 10)
        shown = {"codes": by_code, "continuous": varied}
        return super().illustrations(train, test, rng) | {
            name: to_numpy(self.picture(z.reshape(-1, self.latent), **self.class_by_row(len(z), 10))).reshape(
                len(z), 10, *self.image_shape
            )
            for name, z in shown.items()
        }


def information_bound(log_q: Tensor, entropy: float) -> Tensor:
    """L_I = E[log Q(c|x)] + H(c) ≤ I(c; x): nats, from log Q(c|x) of drawn codes c, (N,).  Chen et al. 2016, eq. 5."""
    return log_q.mean() + entropy
