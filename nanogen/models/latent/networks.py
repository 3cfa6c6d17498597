"""The networks of models with latent variables: a convolutional encoder, and a decoder for p(x|z)."""

from __future__ import annotations

import math
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array
from nanogen.nn import Conv2d, Embedding, GroupNormSiLU, Linear, Module
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
    """Images to `numbers` numbers each, (N, numbers): what q(z|x), or a code, is made of.

    Each stage is a block, then a convolution that halves the size and doubles the channels.  An embedding of the label
    is added to the first features, at all pixels."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: int,
        numbers: int,
        stages: int,
        rng: Generator,
        classes: int = 0,
    ):
        super().__init__()
        (colors, height, width), wide = image_shape, channels
        self.first = Conv2d(colors, channels, 3, padding=1, rng=rng)
        self.stages: list[Any] = []
        for _ in range(stages):
            self.stages += [Block(channels, rng), Conv2d(channels, 2 * channels, 3, stride=2, padding=1, rng=rng)]
            channels, height, width = 2 * channels, (height + 1) // 2, (width + 1) // 2
        self.block = Block(channels, rng)
        self.last = Linear(channels * height * width, numbers, rng=rng)
        self.label = Embedding(classes, wide, rng=rng) if classes else None

    def forward(self, x: Tensor, labels: Array | None = None) -> Tensor:
        h = self.first(x)
        if self.label is not None:
            h = h + self.label(labels).reshape(len(x), -1, 1, 1)
        for stage in self.stages:
            h = stage(h)
        return self.last(F.silu(self.block(h)).reshape(len(x), -1))


class Decoder(Module):
    """Latents (N, latent) to `outputs` numbers per pixel: the encoder in reverse, with nearest-neighbour upsampling.

    An embedding of the label is added to the first features."""

    def __init__(
        self, sizes: list[tuple[int, int]], channels: int, latent: int, outputs: int, rng: Generator, classes: int = 0
    ):
        super().__init__()
        wide = channels * math.prod(sizes[0])
        self.sizes, self.channels = sizes, channels
        self.first = Linear(latent, wide, rng=rng)
        self.stages: list[Any] = [Block(channels, rng)]
        for _ in sizes[1:]:
            self.stages += [Conv2d(channels, channels // 2, 3, padding=1, rng=rng), Block(channels // 2, rng)]
            channels //= 2
        self.norm = GroupNormSiLU(math.gcd(8, channels), channels)
        self.last = Conv2d(channels, outputs, 3, padding=1, rng=rng)
        self.label = Embedding(classes, wide, rng=rng) if classes else None

    def forward(self, z: Tensor, labels: Array | None = None) -> Tensor:
        h = self.first(z)
        if self.label is not None:
            h = h + self.label(labels)
        h = self.stages[0](h.reshape(len(z), self.channels, *self.sizes[0]))
        for i, size in enumerate(self.sizes[1:]):
            conv, block = self.stages[1 + 2 * i : 3 + 2 * i]
            h = block(conv(F.interpolate(h, size=size)))
        return self.last(self.norm(h))
