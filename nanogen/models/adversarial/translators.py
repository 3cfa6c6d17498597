"""The networks of image translation: two generators of images from images, and a discriminator of patches.

Isola et al. 2017, Image-to-Image Translation with Conditional Adversarial Networks, section 3.2 and appendix 6.1; Zhu
et al. 2017, Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, appendix 7.2.  Each image
is normalised by itself (Ulyanov et al. 2016), which batch normalisation of one image is.  For small images both
generators have 3×3 convolutions at full size, where the papers' begin with 4×4 of stride 2, or 7×7.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.nn import Conv2d, ConvTranspose2d, InstanceNorm2d, Module
from nanogen.random import Generator


class Convolved(Module):
    """activation(dropout(norm(conv(x)))): instance norm with a scale and a shift, before which a bias is of no use."""

    def __init__(
        self, conv: Callable[..., Module], inputs: int, outputs: int, size: int, rng: Generator, **how: object
    ):
        super().__init__()
        self.conv = conv(inputs, outputs, size, bias=False, rng=rng, **how)
        self.norm = InstanceNorm2d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


def sizes(height: int, width: int, stages: int) -> list[tuple[int, int]]:
    """(H, W) at full size and after each of at most `stages` halvings, rounded down.  No side gets below 2."""
    found = [(height, width)]
    while len(found) <= stages and min(found[-1]) >= 4:
        found.append((found[-1][0] // 2, found[-1][1] // 2))
    return found


def doubling(inputs: int, outputs: int, size: tuple[int, int], rng: Generator) -> Convolved:
    """A transposed convolution from half of `size` (H, W), rounded down, to it."""
    odd = size[0] % 2, size[1] % 2
    return Convolved(ConvTranspose2d, inputs, outputs, 4, rng, stride=2, padding=1, output_padding=odd)


class UNetTranslator(Module):
    """Images to images in [−1, 1], (N, C, H, W): encoder and decoder, with skip connections between equal sizes.

    The noise is dropout in the decoder, also after training.  Isola et al. 2017, sections 2.1 and 3.2.1."""

    def __init__(self, shape: tuple[int, int, int], channels: int, stages: int, dropout: float, rng: Generator):
        super().__init__()
        at = sizes(*shape[1:], stages)
        widths = [channels * min(2**i, 8) for i in range(len(at))]
        self.dropout = dropout
        self.first = Conv2d(shape[0], channels, 3, padding=1, rng=rng)
        self.down = [Convolved(Conv2d, a, b, 4, rng, stride=2, padding=1) for a, b in pairwise(widths)]
        self.up = [
            doubling(widths[i + 1] * (1 if i == len(at) - 2 else 2), widths[i], at[i], rng)
            for i in reversed(range(len(at) - 1))
        ]
        self.last = Conv2d(channels * (2 if self.up else 1), shape[0], 3, padding=1, rng=rng)

    def forward(self, x: Tensor, rng: Generator) -> Tensor:
        h = self.first(x)
        kept = []
        for down in self.down:
            kept.append(h)
            h = down(F.leaky_relu(h, 0.2))
        for up in self.up:
            h = F.dropout(up(F.relu(h)), self.dropout, rng=rng)
            h = F.cat([h, kept.pop()], dim=1)
        return F.tanh(self.last(F.relu(h)))


class ResidualBlock(Module):
    """h → h + norm(conv(relu(norm(conv(h))))): He et al. 2016, without the last relu."""

    def __init__(self, channels: int, rng: Generator):
        super().__init__()
        self.one, self.two = (Convolved(Conv2d, channels, channels, 3, rng, padding=1) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.two(F.relu(self.one(h)))


class ResNetTranslator(Module):
    """Images to images in [−1, 1], (N, C, H, W): halvings, residual blocks, doublings.  Zhu et al. 2017, section 4.

    Without noise.  The convolutions pad with zeros, not with reflections."""

    def __init__(self, shape: tuple[int, int, int], channels: int, stages: int, blocks: int, rng: Generator):
        super().__init__()
        at = sizes(*shape[1:], stages)
        widths = [channels * 2**i for i in range(len(at))]
        self.first = Conv2d(shape[0], channels, 3, padding=1, rng=rng)  # with its contrast: no norm
        self.down = [Convolved(Conv2d, a, b, 4, rng, stride=2, padding=1) for a, b in pairwise(widths)]
        self.blocks = [ResidualBlock(widths[-1], rng) for _ in range(blocks)]
        self.up = [doubling(widths[i + 1], widths[i], at[i], rng) for i in reversed(range(len(at) - 1))]
        self.last = Conv2d(channels, shape[0], 3, padding=1, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        for down in self.down:
            h = F.relu(down(h))
        for block in self.blocks:
            h = block(h)
        for up in self.up:
            h = F.relu(up(h))
        return F.tanh(self.last(h))


class PatchGAN(Module):
    """Images (N, C, H, W) to one logit for each of their overlapping patches, (N, 1, h, w).

    4×4 convolutions: `stages` of stride 2, then two of stride 1; leaky ReLU; instance norm in all but the first and the
    last.  A logit sees 7, 16, 34 or 70 pixels with 0 … 3 stages; the paper's has 3.  There are fewer stages if the
    image would have no patch left.  Isola et al. 2017, section 3.2.2 and appendix 6.1.2.

    Raises:
        ValueError: images of fewer than 3×3 pixels."""

    def __init__(self, shape: tuple[int, int, int], channels: int, stages: int, rng: Generator):
        super().__init__()
        if min(shape[1:]) < 3:
            raise ValueError(f"image_shape must have at least 3×3 pixels for a discriminator of patches, got {shape}")
        while min(shape[1:]) < 3 * 2**stages:
            stages -= 1
        widths = [channels * min(2**i, 8) for i in range(stages + 1)]
        strides = [2] * stages + [1]
        self.first = Conv2d(shape[0], channels, 4, stride=strides[0], padding=1, rng=rng)
        self.middle = [
            Convolved(Conv2d, a, b, 4, rng, stride=stride, padding=1)
            for a, b, stride in zip(widths, widths[1:], strides[1:])
        ]
        self.last = Conv2d(widths[-1], 1, 4, padding=1, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        for layer in self.middle:
            h = F.leaky_relu(layer(h), 0.2)
        return self.last(h)
