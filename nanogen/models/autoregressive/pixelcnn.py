"""PixelCNN.  van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks.

Convolutions are masked so that the logits of each value depend only on the values before it.  What follows from that,
density and sampling, is in `base`.
"""

from __future__ import annotations

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array
from nanogen.models.autoregressive.base import AutoregressiveModel
from nanogen.models.autoregressive.columns import Column, LastColumns, RememberingColumn
from nanogen.models.base import check_counts
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Dropout, MaskedConv2d, Module, Parameter
from nanogen.random import Generator


class ResidualBlock(Module):
    """h → h + conv1×1(relu(conv3×3(relu(conv1×1(relu(h)))))), all with mask B, half as wide inside.  Figure 5.

    Dropout needs an rng, which only the loss passes.  So the density is exact in training mode too."""

    def __init__(self, channels: int, colors: int, dropout: float, rng: Generator):
        super().__init__()
        self.reduce = MaskedConv2d("B", channels, channels // 2, 1, colors, rng=rng)
        self.look = MaskedConv2d("B", channels // 2, channels // 2, 3, colors, rng=rng)
        self.expand = MaskedConv2d("B", channels // 2, channels, 1, colors, rng=rng)
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor, rng: Generator | None) -> Tensor:
        inner = F.relu(self.look(F.relu(self.reduce(F.relu(h)))))
        return h + self.expand(inner if rng is None else self.dropout(inner, rng))


class PixelCNN(AutoregressiveModel):
    """Mask A, then residual blocks of mask B, then two 1×1 convolutions to a softmax over the levels.  Table 1.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        channels: the width, at least 2·C: the features are divided among the colours.
        blocks: the number of residual blocks.
        kernel_size: of the first convolution, with mask A; odd.
        dropout: inside the residual blocks, for small data sets.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "pixel by pixel, exact likelihood (van den Oord et al. 2016)"
    small = Recipe(steps=800, lr=3e-3, model={"channels": 64})
    large = large(steps=3000, lr=1e-3, model={"channels": 64, "kernel_size": 7, "dropout": 0.0})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, channels: int = 96, blocks: int = 5,
        kernel_size: int = 5, dropout: float = 0.25, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(channels=channels, blocks=blocks, kernel_size=kernel_size)
        colors, rng = image_shape[0], rng or Generator(0)
        if channels < 2 * colors:
            raise ValueError(f"channels must be at least {2 * colors} for {colors} colours, got {channels}")
        self.first = MaskedConv2d("A", colors, channels, kernel_size, colors, rng=rng)
        self.blocks = [ResidualBlock(channels, colors, dropout, rng) for _ in range(blocks)]
        self.mix = MaskedConv2d("B", channels, channels, 1, colors, rng=rng)
        self.last = MaskedConv2d("B", channels, colors * levels, 1, colors, rng=rng)
        maps = np.zeros((classes, channels, *image_shape[1:]), np.float32)
        self.label = Parameter(maps) if classes else None

    def forward(self, x: Tensor, rng: Generator | None = None, labels: Array | None = None) -> Tensor:
        """The logits of every factor: scaled images (N, C, H, W) to (N, H, W, C, levels).

        A learned map per label is added to the first features: the location-dependent bias of van den Oord et al. 2016,
        Conditional Image Generation with PixelCNN Decoders, section 2.3."""
        h = self.first(x)
        if self.label is not None:
            h = h + self.label[labels]
        for block in self.blocks:
            h = block(h, rng)
        return self.factors(self.last(F.relu(self.mix(F.relu(h)))))

    def columns(self, n: int, labels: Array | None = None) -> Columns:
        return Columns(self, n, labels)


class Columns(LastColumns):
    """The network pixel by pixel, in raster order: columns (channels, n) go through the layers of `forward`.

    The weights are copied.

    Args:
        network: the whole network.
        n: the number of images.
        labels: their labels (n,), if the network is conditional."""

    def __init__(self, network: PixelCNN, n: int, labels: Array | None = None):
        super().__init__(network, n)
        size = network.image_shape[1:]
        self.first = RememberingColumn(network.first, n, size)
        self.blocks = [
            (Column(b.reduce, n), RememberingColumn(b.look, n, size), Column(b.expand, n)) for b in network.blocks
        ]
        self.label = None if network.label is None else network.label.data[labels].transpose(2, 3, 1, 0)

    def learn(self, x: Array, i: int, j: int) -> None:
        """Take the levels x (n, C, H, W) at pixel (i, j) as input, where some or all of the colours are known."""
        self.first.remember(self.scaled.take(x[:, :, i, j].T), i, j)

    def logits(self, i: int, j: int, c: int) -> Array:
        """The logits of colour c at pixel (i, j), if all values before it are known: (n, levels)."""
        relu = self.relu
        h = self.first.recall(i, j)
        if self.label is not None:
            h = h + self.label[i, j]
        for reduce, look, expand in self.blocks:
            look.remember(relu(reduce(relu(h))), i, j)
            h = h + expand(relu(look.recall(i, j)))
        return self.factor(h, c)
