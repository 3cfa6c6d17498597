"""PixelCNN.  van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks.

    p(x) = Π_i p(x_i | x_1, …, x_{i−1})                                                              (eq. 1)

over pixels in raster order and, inside a pixel, over R, G, B (eq. 2).  One network gives all the factors at once: its
convolutions are masked so that what it says of a number depends on the numbers before it alone.  Each factor is a
softmax over the levels.
"""

from __future__ import annotations

from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, Generator, array_module
from nanogen.distributions import Categorical
from nanogen.models.base import GenerativeModel, check_counts
from nanogen.nn import Dropout, MaskedConv2d, Module


class ResidualBlock(Module):
    """h → h + conv1×1(relu(conv3×3(relu(conv1×1(relu(h)))))), all with mask B, half as wide inside.  Figure 5.

    Dropout, in training, is the loss's alone, which has an rng: a density is exact in either mode."""

    def __init__(self, channels: int, colors: int, dropout: float, rng: Generator):
        super().__init__()
        self.reduce = MaskedConv2d("B", channels, channels // 2, 1, colors, rng=rng)
        self.look = MaskedConv2d("B", channels // 2, channels // 2, 3, colors, rng=rng)
        self.expand = MaskedConv2d("B", channels // 2, channels, 1, colors, rng=rng)
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor, rng: Generator | None) -> Tensor:
        inner = F.relu(self.look(F.relu(self.reduce(F.relu(h)))))
        return h + self.expand(inner if rng is None else self.dropout(inner, rng))


class PixelCNN(GenerativeModel):
    """Mask A, then residual blocks of mask B, then two 1×1 convolutions to a softmax over the levels.  Table 1.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        channels: the width, at least 2·C: the features are shared out among the colours.
        blocks: the number of residual blocks.
        kernel_size: of the first, masked-A convolution; odd.
        dropout: inside the residual blocks, for small data sets.
        rng: draws the initial weights; `Generator(0)` unless given.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        levels: int,
        channels: int = 96,
        blocks: int = 5,
        kernel_size: int = 5,
        dropout: float = 0.25,
        rng: Generator | None = None,
    ):
        super().__init__(image_shape, levels)
        check_counts(channels=channels, blocks=blocks, kernel_size=kernel_size)
        colors, rng = image_shape[0], rng or Generator(0)
        if channels < 2 * colors:
            raise ValueError(f"channels must be at least {2 * colors} for {colors} colours, got {channels}")
        self.first = MaskedConv2d("A", colors, channels, kernel_size, colors, rng=rng)
        self.blocks = [ResidualBlock(channels, colors, dropout, rng) for _ in range(blocks)]
        self.mix = MaskedConv2d("B", channels, channels, 1, colors, rng=rng)
        self.last = MaskedConv2d("B", channels, colors * levels, 1, colors, rng=rng)

    def forward(self, x: Tensor, rng: Generator | None = None) -> Tensor:
        """The logits of every factor: scaled images (N, C, H, W) to (N, H, W, C, levels)."""
        h = self.first(x)
        for block in self.blocks:
            h = block(h, rng)
        logits = self.last(F.relu(self.mix(F.relu(h))))
        n, _, height, width = logits.shape
        return logits.permute(0, 2, 3, 1).reshape(n, height, width, self.image_shape[0], self.levels)

    def _log_prob(self, images: Any, rng: Generator | None) -> Tensor:
        levels = self.pixels(images)
        logits = self(self.scaled(levels), rng)
        return Categorical(logits).log_prob(levels.transpose(0, 2, 3, 1)).sum((1, 2, 3))

    def log_prob(self, images: Any) -> Tensor:
        """log p(x) = Σ_i log p(x_i | x_1, …, x_{i−1}), exact: (N, C, H, W) to (N,), nats per image.  Eq. 1 and 2."""
        return self._log_prob(images, None)

    def loss(self, images: Any, rng: Generator) -> Tensor:
        """−log p(x), the mean over images and dimensions, in nats per dimension."""
        return -self._log_prob(images, rng).mean() / self.dimensions

    def sample(self, n: int, rng: Generator) -> Array:
        """Ancestral sampling, number by number in the order of the factorisation: uint8 (n, C, H, W)."""
        check_counts(n=n)
        xp = array_module(self.anchor.data)
        return self.complete(xp.zeros((n, *self.image_shape), "uint8"), 0, rng)

    def complete(self, images: Any, rows: int, rng: Generator) -> Array:
        """The images with all below the first `rows` rows drawn from p(rest | first rows)."""
        x = self.pixels(images).copy()
        colors, height, width = self.image_shape
        if not 0 <= rows <= height:
            raise ValueError(f"rows must be in 0 … {height}, got {rows}")
        with no_grad():
            for i in range(rows, height):
                for j in range(width):
                    for c in range(colors):
                        logits = self(self.scaled(x))[:, i, j, c]
                        x[:, c, i, j] = Categorical(logits).sample(rng).data
        return x
