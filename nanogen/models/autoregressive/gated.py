"""The gated PixelCNN.  van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders.

Two stacks of convolutions.  The vertical one sees all rows above the pixel, the horizontal one what is to the left in
the pixel's row, and at each layer the vertical one.  So there is no blind spot: the two together see all the past
within their reach.  Density and sampling are in `base`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, composite, no_grad
from nanogen.backend import Array
from nanogen.models.autoregressive.base import AutoregressiveModel, shift_down
from nanogen.models.autoregressive.columns import Column, LastColumns, RememberingColumn
from nanogen.models.base import check_counts
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Conv2d, Dropout, Embedding, MaskedConv2d, Module
from nanogen.nn.layers import causal_mask
from nanogen.random import Generator


@composite
def gate(x):
    """tanh(first half of the channels) ⊙ σ(second half): (N, 2C, …) to (N, C, …).  Eq. 2."""
    a, b = F.chunk(x, 2, 1)
    return F.tanh(a) * F.sigmoid(b)


class GatedLayer(Module):
    """One layer of both stacks.  Figure 2 and eq. 4.

        u = W_v ∗ v + a,   v' = gate(u),   h' = h + W_o gate(W_h ∗ h + W_l u + b)

    W_v has a kernel over the rows up to the pixel's own, since v is shifted down by a row.  W_h has a masked kernel
    over the pixel's row.  a and b are the biases of the label.  The first layer, whose h is the image, adds no h."""

    def __init__(
        self, mask: str, inputs: int, channels: int, size: int, colors: int, dropout: float, classes: int,
        rng: Generator,
    ):  # fmt: skip
        super().__init__()
        self.reach = reach = size // 2
        self.vertical = Conv2d(inputs, 2 * channels, (reach + 1, size), padding=(reach, reach, reach, 0), rng=rng)
        self.link = Conv2d(2 * channels, 2 * channels, 1, rng=rng)
        self.horizontal = MaskedConv2d(mask, inputs, 2 * channels, (1, size), colors, rng=rng)
        half = causal_mask(mask, (channels, inputs, 1, size), colors)  # the colours are ordered within each half
        self.horizontal.mask.data = np.concatenate([half, half])
        self.out = MaskedConv2d("B", channels, channels, 1, colors, rng=rng)
        self.dropout, self.residual = Dropout(dropout), mask == "B"
        self.label = Embedding(classes, 4 * channels, rng=rng) if classes else None

    def forward(self, v: Tensor, h: Tensor, rng: Generator | None, labels: Array | None) -> tuple[Tensor, Tensor]:
        v, linked = self.from_above(self.vertical(v), labels)
        inner = gate(self.horizontal(h) + linked)
        if rng is not None:
            v, inner = self.dropout(v, rng), self.dropout(inner, rng)
        return v, self.out(inner) + h if self.residual else self.out(inner)

    def from_above(self, above: Tensor, labels: Array | None) -> tuple[Tensor, Tensor]:
        """From W_v ∗ v: v', the vertical stack's output, and what it adds to the horizontal stack."""
        if self.label is None:
            return gate(above), self.link(above)
        a, b = F.chunk(self.label(labels)[:, :, None, None], 2, 1)
        return gate(above + a), self.link(above + a) + b


class GatedPixelCNN(AutoregressiveModel):
    """Layers of two stacks, then two 1×1 convolutions of the horizontal one to a softmax over the levels.

    A layer of kernel size k sees k // 2 rows up in the vertical stack and k // 2 pixels aside.  The first one has size
    `kernel_size`, the others 3.  So a pixel (i, j) sees rows up to i − kernel_size // 2 − 1 − blocks.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        channels: the width, at least C: the features of the horizontal stack are divided among the colours.
        blocks: the number of layers after the first.
        kernel_size: of the first layer; odd.
        dropout: inside the layers, for small data sets.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "pixel by pixel, gated, without a blind spot (van den Oord et al. 2016b)"
    small = Recipe(steps=800, lr=5e-3, threads=2, model={"dropout": 0.35})
    large = large(steps=3000, lr=1e-3, model={"channels": 48, "dropout": 0.0})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, channels: int = 64, blocks: int = 5,
        kernel_size: int = 7, dropout: float = 0.25, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(channels=channels, blocks=blocks, kernel_size=kernel_size)
        colors, rng = image_shape[0], rng or Generator(0)
        if channels < colors:
            raise ValueError(f"channels must be at least {colors} for {colors} colours, got {channels}")
        how = colors, dropout, classes, rng
        self.layers = [GatedLayer("A", colors, channels, kernel_size, *how)]
        self.layers += [GatedLayer("B", channels, channels, 3, *how) for _ in range(blocks)]
        self.mix = MaskedConv2d("B", channels, channels, 1, colors, rng=rng)
        self.last = MaskedConv2d("B", channels, colors * levels, 1, colors, rng=rng)

    def forward(self, x: Tensor, rng: Generator | None = None, labels: Array | None = None) -> Tensor:
        v, h = shift_down(x), x
        for layer in self.layers:
            v, h = layer(v, h, rng, labels)
        return self.factors(self.last(F.relu(self.mix(F.relu(h)))))

    def columns(self, n: int, labels: Array | None = None) -> Columns:
        return Columns(self, n, labels)


class Columns(LastColumns):
    """The network in raster order: the vertical stack row by row, the horizontal one pixel by pixel.  See `base`."""

    def __init__(self, network: GatedPixelCNN, n: int, labels: Array | None = None):
        super().__init__(network, n)
        (_, height, width), self.network, self.labels = network.image_shape, network, labels
        self.layers = [
            (RememberingColumn(layer.horizontal, n, (height, width)), Column(layer.out, n)) for layer in network.layers
        ]
        self.at = -1
        # the inputs of the vertical stack's layers, with the zeros above them: (n, channels, reach + H + 1, W)
        self.inputs = [
            self.xp.zeros((n, layer.vertical.in_channels, layer.reach + height + 1, width), self.scaled.dtype)
            for layer in network.layers
        ]

    def learn(self, x: Array, i: int, j: int) -> None:
        pixel = self.scaled.take(x[:, :, i, j])
        self.layers[0][0].remember(pixel.T, i, j)
        self.inputs[0][:, :, self.network.layers[0].reach + i + 1, j] = pixel  # shifted down

    def row(self, i: int) -> list[Array]:
        """What each layer's vertical stack adds to the horizontal one in row i: (W, 2 · channels, n)."""
        found = []
        with no_grad():
            for k, layer in enumerate(self.network.layers):
                window, reach = Tensor(self.inputs[k][:, :, i : i + layer.reach + 1]), layer.reach
                above = F.conv2d(window, layer.vertical.weight, layer.vertical.bias, padding=(reach, reach, 0, 0))
                v, linked = layer.from_above(above, self.labels)
                if k + 1 < len(self.inputs):
                    self.inputs[k + 1][:, :, self.network.layers[k + 1].reach + i] = v.data[:, :, 0]
                found.append(self.xp.ascontiguousarray(linked.data[:, :, 0].transpose(2, 1, 0)))
        return found

    def logits(self, i: int, j: int, c: int) -> Array:
        if self.at != i:
            self.at, self.linked = i, self.row(i)
        h: Any = 0
        for k, ((look, out), linked) in enumerate(zip(self.layers, self.linked, strict=True)):
            if k:
                look.remember(h, i, j)
            h = h + out(gate(Tensor((look.recall(i, j) + linked[j])[None])).data[0])
        return self.factor(h, c)
