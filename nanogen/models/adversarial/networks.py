"""Generator and discriminator of the DCGAN.  Radford, Metz & Chintala 2016, section 3.

With labels, G adds an embedding of the label to its first features (Mirza & Osindero 2014, Conditional Generative
Adversarial Nets, section 3.2, where a one-hot label goes through the same layer as z).  Its normalisation has a scale
and a shift per label (de Vries et al. 2017, Modulating Early Visual Processing by Language).  D's logit has one more
term, the inner product of its features and an embedding of the label (Miyato & Koyama 2018, cGANs with Projection
Discriminator).

With attention (Zhang et al. 2019), G looks at all pixels before its last doubling, and D after its first halving.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array
from nanogen.models.adversarial.spectral import SelfAttention, SpectralNorm, Wrap
from nanogen.nn import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Embedding,
    GroupNorm,
    Identity,
    Linear,
    Module,
    Parameter,
)  # fmt: skip
from nanogen.random import Generator


def halvings(height: int, width: int) -> int:
    """How many times both sides can be halved before one is odd or at most 4."""
    count = 0
    while height % 2 == width % 2 == 0 and min(height, width) > 4:
        height, width, count = height // 2, width // 2, count + 1
    return count


class ConditionalBatchNorm2d(BatchNorm2d):
    """(1 + scale) · batch_norm(x) + shift, with a learned scale and shift (C,) per label, which are initially 0.

    de Vries et al. 2017, section 3.  With a part z of the latents, (N, latent), scale and shift also have a linear term
    in z.  Brock et al. 2019, appendix B."""

    def __init__(self, classes: int, num_features: int, latent: int = 0, rng: Generator | None = None):
        super().__init__(num_features)
        if classes:
            self.scale = Parameter(np.zeros((classes, num_features), np.float32))
            self.shift = Parameter(np.zeros((classes, num_features), np.float32))
        self.of_z = Linear(latent, 2 * num_features, bias=False, rng=rng) if latent else None

    def forward(self, x: Tensor, labels: Array | None = None, z: Tensor | None = None) -> Tensor:
        scale: Any = 0.0
        shift: Any = 0.0
        if labels is not None:
            scale, shift = (F.embedding(labels, table) for table in (self.scale, self.shift))
        if self.of_z is not None:
            scale, shift = (a + b for a, b in zip((scale, shift), F.chunk(self.of_z(z), 2, dim=1), strict=True))
        scale, shift = (part.reshape(*x.shape[:2], 1, 1) for part in (scale, shift))
        return (1.0 + scale) * super().forward(x) + shift


def wrapper(spectral: bool, rng: Generator) -> Wrap:
    """What is done to each layer: `SpectralNorm`, or nothing."""
    return functools.partial(SpectralNorm, rng=rng) if spectral else lambda layer: layer


class Attentive(Module):
    """A network of stages, with self-attention to the features that leave one of them, `attended`."""

    attended: int
    attention: SelfAttention | None

    def attend(self, stage: int, h: Tensor) -> Tensor:
        return h if self.attention is None or stage != self.attended else self.attention(h)


class GeneratorNetwork(Attentive):
    """Latents (N, latent) to images in [−1, 1].  The first layer makes a small image; each further layer doubles it.

    If it is hierarchical, the first layer gets the first part of the latents, and the normalisation of each size the
    next one: parts of equal sizes, up to one."""

    def __init__(
        self, image_shape: tuple[int, int, int], channels: int, latent: int, rng: Generator, classes: int = 0,
        spectral: bool = False, attention: bool = False, hierarchical: bool = False,
    ):  # fmt: skip
        super().__init__()
        wrap = wrapper(spectral, rng)
        colors, height, width = image_shape
        doublings = halvings(height, width)
        wide = channels * 2**doublings
        first = (height >> doublings, width >> doublings)
        self.parts = part_sizes(latent, doublings + 2) if hierarchical else []
        self.first = wrap(ConvTranspose2d((self.parts or [latent])[0], wide, first, bias=False, rng=rng))
        self.norms = [
            ConditionalBatchNorm2d(classes, wide >> i, part, rng) if classes or part else BatchNorm2d(wide >> i)
            for i, part in enumerate(self.parts[1:] or [0] * (doublings + 1))
        ]
        self.convs = [
            wrap(ConvTranspose2d(wide >> i, wide >> (i + 1), 4, stride=2, padding=1, bias=False, rng=rng))
            for i in range(doublings)
        ]
        self.last = wrap(Conv2d(channels, colors, 3, padding=1, rng=rng))
        self.attended = max(0, doublings - 1)
        self.attention = SelfAttention(wide >> self.attended, wrap, rng) if attention else None
        small = wide * (height >> doublings) * (width >> doublings)
        self.label = Embedding(classes, small, rng=rng) if classes else None

    def forward(self, z: Tensor, **given: Array) -> Tensor:
        first, *parts = F.split(z, self.parts, dim=1) if self.parts else [z]
        to_norms = [{**given, "z": part} for part in parts] or [given] * len(self.norms)
        h = self.first(first.reshape(*first.shape, 1, 1))
        if self.label is not None:
            h = h + self.label(given["labels"]).reshape(h.shape)
        h = self.attend(0, F.relu(self.norms[0](h, **to_norms[0])))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms[1:], strict=True), start=1):
            h = self.attend(i, F.relu(norm(conv(h), **to_norms[i])))
        return F.tanh(self.last(h))


def part_sizes(latent: int, count: int) -> list[int]:
    """The sizes of `count` parts of the latents, the first ones larger by one if it does not divide.

    Raises:
        ValueError: fewer dimensions than parts."""
    if latent < count:
        raise ValueError(f"latent must be at least {count}, for as many parts of hierarchical latents, got {latent}")
    return [latent // count + (i < latent % count) for i in range(count)]


class DiscriminatorNetwork(Attentive):
    """Images in [−1, 1] to the logits of being real (N,).  Each layer halves the image; the last one covers all of it.

    With `alone`, each image is normalised by itself, so that its logit does not depend on the other images.  With
    `spectral`, weights are normalised and features are not, so that the slope is bounded."""

    def __init__(
        self, image_shape: tuple[int, int, int], channels: int, rng: Generator, alone: bool = False, classes: int = 0,
        spectral: bool = False, attention: bool = False,
    ):  # fmt: skip
        super().__init__()
        wrap = wrapper(spectral, rng)
        colors, height, width = image_shape
        count = halvings(height, width)
        self.first = wrap(Conv2d(colors, channels, 3, padding=1, rng=rng))
        self.convs = [
            wrap(Conv2d(channels << i, channels << (i + 1), 4, stride=2, padding=1, bias=spectral, rng=rng))
            for i in range(count)
        ]
        widths = [channels << (i + 1) for i in range(count)]
        norm = Identity if spectral else functools.partial(GroupNorm, 1) if alone else BatchNorm2d
        self.norms = [norm(width) for width in widths]
        self.last = wrap(Conv2d(channels << count, 1, (height >> count, width >> count), rng=rng))
        features = (channels << count) * (height >> count) * (width >> count)
        self.label = wrap(Embedding(classes, features, rng=rng)) if classes else None
        self.attended = min(1, count)
        self.attention = SelfAttention(channels << self.attended, wrap, rng) if attention else None

    def features(self, x: Tensor) -> Tensor:
        """What the last layer gets: (N, C, H, W)."""
        h = self.attend(0, F.leaky_relu(self.first(x), 0.2))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            h = self.attend(i, F.leaky_relu(norm(conv(h)), 0.2))
        return h

    def judge(self, h: Tensor, labels: Array | None = None) -> Tensor:
        """The logits (N,) of images with these features."""
        logit = self.last(h).reshape(len(h))
        return logit if self.label is None else logit + (self.label(labels) * h.reshape(len(h), -1)).sum(1)

    def forward(self, x: Tensor, labels: Array | None = None) -> Tensor:
        return self.judge(self.features(x), labels)
