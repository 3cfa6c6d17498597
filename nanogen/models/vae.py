"""The variational autoencoder.  Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    p(x) = ∫ p(x|z) p(z) dz,  p(z) = N(0, I),  q(z|x) = N(μ(x), diag σ²(x))

    log p(x) ≥ elbo(x) = E_q(z|x)[log p(x|z)] − KL(q(z|x) ‖ p(z))                                     (eq. 3)

The decoder p(x|z) is a density over the discrete levels, so the bound is one on the probability of the image itself.
"""

from __future__ import annotations

import math
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_device
from nanogen.distributions import Categorical, DiscretizedLogistic, Normal, kl_divergence, unscale_levels
from nanogen.models.base import GenerativeModel, check_choice, check_counts
from nanogen.nn import Conv2d, GroupNormSiLU, Linear, Module
from nanogen.random import Generator


class Block(Module):
    """h → h + conv3×3(silu(norm(h))): (N, C, H, W) to the same."""

    def __init__(self, channels: int, rng: Generator):
        super().__init__()
        self.norm = GroupNormSiLU(math.gcd(8, channels), channels)
        self.conv = Conv2d(channels, channels, 3, padding=1, rng=rng)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv(self.norm(h))


class Encoder(Module):
    """Images to the mean and log-variance of q(z|x): each stage a block, then half the size and twice the channels."""

    def __init__(self, image_shape: tuple[int, int, int], channels: int, latent: int, stages: int, rng: Generator):
        super().__init__()
        colors, height, width = image_shape
        self.first = Conv2d(colors, channels, 3, padding=1, rng=rng)
        self.stages: list[Any] = []
        for _ in range(stages):
            self.stages += [Block(channels, rng), Conv2d(channels, 2 * channels, 3, stride=2, padding=1, rng=rng)]
            channels, height, width = 2 * channels, (height + 1) // 2, (width + 1) // 2
        self.block = Block(channels, rng)
        self.last = Linear(channels * height * width, 2 * latent, rng=rng)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.first(x)
        for stage in self.stages:
            h = stage(h)
        out = self.last(F.silu(self.block(h)).reshape(len(x), -1))
        mean, log_variance = out.split(out.shape[1] // 2, 1)
        return mean, log_variance


class Decoder(Module):
    """Latents to `outputs` numbers a pixel: the encoder turned round, with nearest-neighbour upsampling."""

    def __init__(self, sizes: list[tuple[int, int]], channels: int, latent: int, outputs: int, rng: Generator):
        super().__init__()
        self.sizes, self.channels = sizes, channels
        self.first = Linear(latent, channels * math.prod(sizes[0]), rng=rng)
        self.stages: list[Any] = [Block(channels, rng)]
        for _ in sizes[1:]:
            self.stages += [Conv2d(channels, channels // 2, 3, padding=1, rng=rng), Block(channels // 2, rng)]
            channels //= 2
        self.norm = GroupNormSiLU(math.gcd(8, channels), channels)
        self.last = Conv2d(channels, outputs, 3, padding=1, rng=rng)

    def forward(self, z: Tensor) -> Tensor:
        h = self.stages[0](self.first(z).reshape(len(z), self.channels, *self.sizes[0]))
        for i, size in enumerate(self.sizes[1:]):
            conv, block = self.stages[1 + 2 * i : 3 + 2 * i]
            h = block(conv(F.interpolate(h, size=size)))
        return self.last(self.norm(h))


class VAE(GenerativeModel):
    """A convolutional VAE.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        stages: how often the size is halved.
        decoder: the density of a pixel given z: `categorical` (a softmax over the levels) or `logistic` (a discretised
            logistic of learned mean and scale, for many levels).
        rng: draws the initial weights; `Generator(0)` unless given.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        latent: int = 16,
        channels: int = 32,
        stages: int = 2,
        decoder: str = "categorical",
        rng: Generator | None = None,
    ):
        super().__init__(image_shape, levels)
        check_counts(latent=latent, channels=channels, stages=stages)
        check_choice(decoder=(decoder, ("categorical", "logistic")))
        rng = rng or Generator(0)
        colors, *size = image_shape
        sizes = [tuple(math.ceil(n / 2**stage) for n in size) for stage in range(stages, -1, -1)]
        self.latent, self.density = latent, decoder
        self.outputs = levels if decoder == "categorical" else 2  # numbers per colour of a pixel
        self.encoder = Encoder(image_shape, channels, latent, stages, rng)
        self.decoder = Decoder(sizes, channels * 2**stages, latent, colors * self.outputs, rng)

    def encode(self, images: Any) -> Normal:
        """q(z|x) = N(μ(x), diag σ²(x)): images (N, C, H, W) to a density over z (N, latent).  Eq. 9."""
        mean, log_variance = self.encoder(self.scaled(self.pixels(images)))
        return Normal(mean, log_std=0.5 * log_variance)

    def decode(self, z: Tensor) -> Categorical | DiscretizedLogistic:
        """p(x|z): latents (N, latent) to a density over levels (N, C, H, W)."""
        out = self.decoder(z)
        n, _, height, width = out.shape
        out = (
            out.permute(0, 2, 3, 1).reshape(n, height, width, self.image_shape[0], self.outputs).permute(0, 3, 1, 2, 4)
        )
        if self.density == "categorical":
            return Categorical(out)
        return DiscretizedLogistic(out[..., 0], out[..., 1] - 2.0, self.levels)

    def prior(self, like: Tensor) -> Normal:
        """p(z) = N(0, I)."""
        return Normal(like.detach() * 0.0, 1.0)

    def elbo(self, images: Any, rng: Generator) -> Tensor:
        """E_q[log p(x|z)] − KL(q(z|x)‖p(z)) ≤ log p(x), the expectation by one draw: (N,), nats per image.

        Kingma & Welling 2014, eq. 7, the second form: the KL is exact."""
        levels = self.pixels(images)
        posterior = self.encode(levels)
        z = posterior.rsample(rng)
        reconstruction = self.decode(z).log_prob(levels).sum((1, 2, 3))
        return reconstruction - kl_divergence(posterior, self.prior(posterior.mean)).sum(1)

    def importance_weighted_bound(self, images: Any, rng: Generator, samples: int = 64) -> Tensor:
        """log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): between the elbo (K = 1, on average) and log p(x).

        Burda, Grosse & Salakhutdinov 2016, eq. 8: (N,), nats per image."""
        check_counts(samples=samples)
        levels = self.pixels(images)
        posterior = self.encode(levels)
        log_weights = []
        for _ in range(samples):
            z = posterior.rsample(rng)
            log_ratio = self.prior(z).log_prob(z) - posterior.log_prob(z)
            log_weights.append(self.decode(z).log_prob(levels).sum((1, 2, 3)) + log_ratio.sum(1))
        return F.logsumexp(F.stack(log_weights), dim=0) - math.log(samples)

    def loss(self, images: Any, rng: Generator) -> Tensor:
        """−elbo, the mean over images and dimensions, in nats per dimension."""
        return -self.elbo(images, rng).mean() / self.dimensions

    def sample(self, n: int, rng: Generator) -> Array:
        """z ~ p(z), then x ~ p(x|z): uint8 (n, C, H, W)."""
        check_counts(n=n)
        with no_grad():
            z = Tensor(rng.normal((n, self.latent), dtype=self.anchor.dtype))
            return self.decode(z).sample(rng).data.astype("uint8")

    def picture(self, z: Any) -> Array:
        """E[x|z], rounded to levels: uint8 (N, C, H, W).  What is sure about the images of latents z (N, latent)."""
        with no_grad():
            density = self.decode(z if isinstance(z, Tensor) else Tensor(to_device(z, self.anchor.device)))
            if isinstance(density, DiscretizedLogistic):
                return unscale_levels(density.mean.data, self.levels)
            p = F.softmax(density.logits, dim=-1).data
            return array_module(p).rint(p @ array_module(p).arange(self.levels, dtype=p.dtype)).astype("uint8")

    def reconstruct(self, images: Any) -> Array:
        """The picture of each image's posterior mean: uint8 (N, C, H, W)."""
        with no_grad():
            return self.picture(self.encode(images).mean)

    def interpolate(self, start: Any, end: Any, steps: int = 8) -> Array:
        """Pictures along the straight line from one image's posterior mean to another's, both ends included.

        start, end: (N, C, H, W); out: uint8 (N, steps, C, H, W)."""
        check_counts(steps=steps)
        with no_grad():
            a, b = self.encode(start).mean, self.encode(end).mean
            weights = [i / max(steps - 1, 1) for i in range(steps)]
            pictures = [self.picture((1 - w) * a + w * b) for w in weights]
        return array_module(a.data).stack(pictures, axis=1)
