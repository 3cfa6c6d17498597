"""Sampling pixel by pixel.  Ramachandran et al. 2017, Fast Generation for Convolutional Autoregressive Models.

When one more pixel is known, only one column of channels changes in each layer of a causal network: the one at that
pixel.  So each convolution caches its inputs at the earlier pixels and computes its output at one pixel only.  All
pixels together take as much work as one pass of the whole network.
"""

from __future__ import annotations

from typing import Any

from nanogen.backend import Array, array_module
from nanogen.nn import MaskedConv2d


class Column:
    """A masked convolution at one pixel of n images, on raw arrays: (len(seen) · C, n) to (O, n).

    Attributes:
        seen: the kernel positions that the mask allows, (row, column), in raster order; a 1×1 kernel has one."""

    def __init__(self, layer: MaskedConv2d, n: int):
        assert layer.bias is not None
        weight, bias, xp = layer.weight.data * layer.mask.data, layer.bias.data, array_module(layer.weight.data)
        height, width = weight.shape[2:]
        self.seen = [(a, b) for a in range(height) for b in range(width) if (a, b) <= (height // 2, width // 2)]
        self.weight = xp.concatenate([weight[:, :, a, b] for a, b in self.seen], axis=1)
        self.bias = xp.repeat(bias[:, None], n, axis=1)

    def __call__(self, x: Array) -> Array:
        return self.weight.dot(x) + self.bias


class RememberingColumn(Column):
    """A masked convolution with a larger kernel, which caches its inputs (C, n) at all pixels of images (H, W).

    The cache is in raster order, with zeros to the left of each row and above the first row, as far as the kernel
    reaches.  So each kernel position has the same offset at every pixel, also across the image's border."""

    def __init__(self, layer: MaskedConv2d, n: int, size: tuple[int, ...]):
        super().__init__(layer, n)
        xp, (above, left), (height, width) = array_module(self.weight), self.seen[-1], size
        self.row = width + left
        self.start = above * self.row + left
        self.places = xp.arange(height * self.row)[:, None] + xp.asarray([a * self.row + b for a, b in self.seen])
        channels = self.weight.shape[1] // len(self.seen)
        self.inputs = xp.zeros((self.start + height * self.row, channels, n), self.weight.dtype)

    def remember(self, x: Array, i: int, j: int) -> None:
        """Cache the input at pixel (i, j): (C, n)."""
        self.inputs[self.start + i * self.row + j] = x

    def recall(self, i: int, j: int) -> Array:
        """The output at pixel (i, j), from the cached inputs: (O, n)."""
        seen = self.inputs.take(self.places[i * self.row + j], axis=0)
        return self(seen.reshape(-1, seen.shape[2]))


class LastColumns:
    """The network's last two layers, `mix` and `last`, at one pixel, and the scaled levels as its input."""

    def __init__(self, network: Any, n: int):
        self.mix, self.last = Column(network.mix, n), Column(network.last, n)
        self.levels, self.xp = network.levels, array_module(self.mix.weight)
        self.scaled = network.scaled(self.xp.arange(network.levels)).data
        self.zeros = self.xp.zeros_like(self.mix.bias)

    def factor(self, h: Array, c: int) -> Array:
        """The logits of colour c from the features h (channels, n): (n, levels)."""
        logits = self.last(self.relu(self.mix(self.relu(h))))
        return self.xp.ascontiguousarray(logits[c * self.levels : (c + 1) * self.levels].T)

    def relu(self, x: Array) -> Array:
        return self.xp.maximum(x, self.zeros[: len(x)])  # with the scalar 0 it takes twice the time
