"""PixelCNN.  van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks.

    p(x) = Π_i p(x_i | x_1, …, x_{i−1})                                                              (eq. 1)

over pixels in raster order and, within a pixel, over R, G, B (eq. 2).  One network computes all factors at once.  Its
convolutions are masked so that the logits of x_i depend only on x_1, …, x_{i−1}.  Each factor is a softmax over the
levels.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Categorical
from nanogen.models.autoregressive.columns import Column, RememberingColumn
from nanogen.models.base import GenerativeModel, check_counts, progress
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


class PixelCNN(GenerativeModel):
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
    loss_unit = "nats per dimension"
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
        logits = self.last(F.relu(self.mix(F.relu(h))))
        n, _, height, width = logits.shape
        return logits.permute(0, 2, 3, 1).reshape(n, height, width, self.image_shape[0], self.levels)

    def _log_prob(self, images: Any, rng: Generator | None, labels: Any) -> Tensor:
        levels = self.pixels(images)
        logits = self(self.scaled(levels), rng, **self.condition(labels, len(levels)))
        return Categorical(logits).log_prob(levels.transpose(0, 2, 3, 1)).sum((1, 2, 3))

    def log_prob(self, images: Any, labels: Any = None) -> Tensor:
        """log p(x) = Σ_i log p(x_i | x_1, …, x_{i−1}), exact: (N, C, H, W) to (N,), nats per image.  Eq. 1 and 2.

        With labels (N,): log p(x | label)."""
        return self._log_prob(images, None, labels)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−log p(x), the mean over images and dimensions, in nats per dimension."""
        return -self._log_prob(images, rng, labels).mean() / self.dimensions

    @property
    def network_evaluations(self) -> int:
        """One per value of the image, each at one pixel only."""
        return self.dimensions

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """Ancestral sampling, value by value in the order of the factorisation: uint8 (n, C, H, W)."""
        check_counts(n=n)
        given = self.condition(labels, n, rng)
        xp = array_module(self.first.weight.data)
        return self.complete(xp.zeros((n, *self.image_shape), "uint8"), 0, rng, **given)

    def complete_naively(self, images: Any, rows: int, rng: Generator, labels: Any = None) -> Array:
        """The definition of `complete`: one pass of the whole network per value, in the order of the factorisation."""
        x, (colors, height, width) = self._begun(images, rows), self.image_shape
        given = self.condition(labels, len(x))
        with no_grad():
            for i in range(rows, height):
                for j in range(width):
                    for c in range(colors):
                        logits = self(self.scaled(x), **given)[:, i, j, c]
                        x[:, c, i, j] = Categorical(logits).sample(rng).data
        return x

    def complete(self, images: Any, rows: int, rng: Generator, labels: Any = None) -> Array:
        """The images with everything below the first `rows` rows drawn from p(rest | first rows).

        The result is bit for bit that of `complete_naively` with the same rng, for the work of a few passes of the
        network instead of C·H·W.  `Columns` compute the logits pixel by pixel.  Then one pass of the whole network
        checks all draws.  It may sum in another order: in float32, about one draw in 100,000 differs.  The first such
        draw is replaced, and everything after it is drawn again.

        Raises:
            ValueError: rows not in 0 … H, or images of another shape or with other levels."""
        x, (colors, height, width) = self._begun(images, rows), self.image_shape
        given = self.condition(labels, len(x))
        u = array_module(x).empty((height - rows, width, colors, len(x)))
        for numbers_of_one in u.reshape(-1, len(x)):
            numbers_of_one[...] = rng.uniform(len(x), dtype=np.float64)
        columns = Columns(self, len(x), **given)
        numbers = list(itertools.product(range(height), range(width), range(colors)))
        while numbers:
            for i, j, c in progress(numbers, "sampling step"):
                logits = columns.logits(i, j, c)
                if i >= rows:
                    x[:, c, i, j] = Categorical(logits).icdf(u[i - rows, j, c]).data
                columns.learn(x, i, j)
            drawn = self.redrawn(x, u, **given)
            wrong = to_numpy((drawn != x).any(axis=0))
            # The first draw that differs from the whole network's is replaced.  If none does, all are right.
            slips = [k for k, (i, j, c) in enumerate(numbers) if wrong[c, i, j]]
            if not slips:
                break
            i, j, c = numbers[slips[0]]
            x[:, c, i, j] = drawn[:, c, i, j]
            columns.learn(x, i, j)
            numbers = numbers[slips[0] + 1 :]
        return x

    def redrawn(self, images: Array, u: Array, **given: Array) -> Array:
        """The images with each value of the last rows drawn by the whole network, given the values before it.

        Shapes: images (N, C, H, W); u, uniform on [0, 1), (rows to draw, W, C, N)."""
        with no_grad():
            x, logits = images.copy(), self(self.scaled(images), **given).data
        for i in range(-len(u), 0):  # row by row: the logits take `levels` times the memory
            x[:, :, i] = Categorical(logits[:, i]).icdf(u[i].transpose(2, 0, 1)).data.transpose(0, 2, 1)
        return x

    def _begun(self, images: Any, rows: int) -> Array:
        if not 0 <= rows <= self.image_shape[1]:
            raise ValueError(f"rows must be in 0 … {self.image_shape[1]}, got {rows}")
        return self.pixels(images).copy()

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """completions: each row has a test image, its upper half, and several completions of that half"""
        (n, ways), half = (8, 6), self.image_shape[1] // 2
        originals, given = self.first_images(test, n)
        upper = originals.copy()
        upper[:, :, half:] = 0
        each = {name: labels.repeat(ways) for name, labels in given.items()}
        done = to_numpy(self.complete(np.repeat(upper, ways, axis=0), half, rng, **each))
        done = done.reshape(n, ways, *self.image_shape)
        return {"completions": np.concatenate([originals[:, None], upper[:, None], done], axis=1)}


class Columns:
    """The network pixel by pixel, in raster order: columns (channels, n) go through the layers of `forward`.

    The weights are copied.

    Args:
        network: the whole network.
        n: the number of images.
        labels: their labels (n,), if the network is conditional."""

    def __init__(self, network: PixelCNN, n: int, labels: Array | None = None):
        size = network.image_shape[1:]
        self.first = RememberingColumn(network.first, n, size)
        self.blocks = [
            (Column(b.reduce, n), RememberingColumn(b.look, n, size), Column(b.expand, n)) for b in network.blocks
        ]
        self.mix, self.last = Column(network.mix, n), Column(network.last, n)
        self.levels, self.xp = network.levels, array_module(network.first.weight.data)
        self.scaled = network.scaled(self.xp.arange(network.levels)).data
        self.label = None if network.label is None else network.label.data[labels].transpose(2, 3, 1, 0)
        self.zeros = self.xp.zeros_like(self.mix.bias)

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
        logits = self.last(relu(self.mix(relu(h))))
        return self.xp.ascontiguousarray(logits[c * self.levels : (c + 1) * self.levels].T)

    def relu(self, x: Array) -> Array:
        return self.xp.maximum(x, self.zeros[: len(x)])  # with the scalar 0 it takes twice the time
