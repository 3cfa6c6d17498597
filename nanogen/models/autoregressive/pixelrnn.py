"""PixelRNN.  van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks, sections 3.1 to 3.3.

Layers of LSTMs run over the image, row by row (Row LSTM) or diagonal by diagonal (Diagonal BiLSTM).  At each step a
convolution of the previous states is added to a masked convolution of the layer's input:

    [o, f, i, g] = K_ss ∗ h_{t−1} + K_is ∗ x_t                                                      (eq. 3)
    c_t = σ(f) ⊙ c_{t−1} + σ(i) ⊙ tanh(g),   h_t = σ(o) ⊙ tanh(c_t)

Density and sampling are in `base`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, composite, no_grad
from nanogen.backend import Array, array_module
from nanogen.models.autoregressive.base import AutoregressiveModel, shift_down
from nanogen.models.autoregressive.columns import Column, LastColumns, RememberingColumn
from nanogen.models.base import check_choice, check_counts
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Conv2d, Dropout, Embedding, MaskedConv2d, Module
from nanogen.nn.layers import causal_mask
from nanogen.random import Generator


@composite
def lstm(gates, state):
    """The new state [h, c], (N, 2C, …), from the sums of the gates [i, f, g, o], (N, 4C, …), and the old one.  Eq. 3.

    Of the old state only c is read: h is in the sums."""
    (i, f, g, o), (_, c) = F.chunk(gates, 4, 1), F.chunk(state, 2, 1)
    c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
    return F.cat([F.sigmoid(o) * F.tanh(c), c], 1)


def recurrence(inputs: Tensor, state_to_state: Conv2d, axis: int) -> Tensor:
    """The states h of an LSTM that runs along an axis: K_is ∗ x, (N, 4C, H, W), to (N, C, H, W).  Eq. 3.

    state_to_state: K_ss."""
    steps, hidden = F.split(inputs, 1, axis), state_to_state.in_channels
    state = Tensor(array_module(inputs.data).zeros_like(steps[0].data[:, : 2 * hidden]))
    h = state[:, :hidden]
    found = []
    for gates in steps:
        state = lstm(gates + state_to_state(h), state)
        h = state[:, :hidden]
        found.append(h)
    return F.cat(found, axis)


def input_to_state(channels: int, hidden: int, width: int, colors: int, rng: Generator) -> MaskedConv2d:
    """K_is: a masked convolution along the row, with mask B, to the four gates.  Each gate has all the colours."""
    layer = MaskedConv2d("B", channels, 4 * hidden, (1, width), colors, rng=rng)
    layer.mask.data = np.tile(causal_mask("B", (hidden, channels, 1, width), colors), (4, 1, 1, 1))
    return layer


def skew(x: Tensor) -> Tensor:
    """Row i moved i pixels to the right: (N, C, H, W) to (N, C, H, W + H − 1), zeros elsewhere.  Section 3.2.

    Rows that are padded to the length W + H, read as rows of W + H − 1, each begin a pixel later."""
    n, c, h, w = x.shape
    return F.pad(x, (0, h)).reshape(n, c, h * (w + h))[:, :, : h * (w + h - 1)].reshape(n, c, h, w + h - 1)


def unskew(x: Tensor) -> Tensor:
    """The inverse of `skew`: (N, C, H, W + H − 1) to (N, C, H, W)."""
    n, c, h, v = x.shape
    return F.pad(x.reshape(n, c, h * v), (0, h)).reshape(n, c, h, v + 1)[:, :, :, : v + 1 - h]


class RowLSTM(Module):
    """From the top to the bottom; K_ss and K_is have three pixels.  (N, 2C, H, W) to (N, C, H, W).  Section 3.1.

    A pixel sees, of the layer's input, itself, the one to the left, and the triangle above that widens by a pixel in
    each row."""

    def __init__(self, hidden: int, colors: int, rng: Generator):
        super().__init__()
        self.input = input_to_state(2 * hidden, hidden, 3, colors, rng)
        self.state = Conv2d(hidden, 4 * hidden, (1, 3), padding=(0, 1), bias=False, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        return recurrence(self.input(x), self.state, 2)


class DiagonalLSTM(Module):
    """From the left to the right over the skewed map, a diagonal of the image at a time.  Section 3.2.

    K_is is 1×1.  K_ss has two pixels: the state at (i, j) follows from those at (i, j − 1) and (i − 1, j).  So a pixel
    sees, of the layer's input, itself and all that is neither below nor to the right."""

    def __init__(self, hidden: int, colors: int, rng: Generator):
        super().__init__()
        self.input = input_to_state(2 * hidden, hidden, 1, colors, rng)
        self.state = Conv2d(hidden, 4 * hidden, (2, 1), padding=(0, 0, 1, 0), bias=False, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        return unskew(recurrence(skew(self.input(x)), self.state, 3))


class DiagonalBiLSTM(Module):
    """One diagonal LSTM from the left and one from the right, whose map is moved down by a row.  Section 3.2.

    Without that, the second would see the pixels to the right in the same row."""

    def __init__(self, hidden: int, colors: int, rng: Generator):
        super().__init__()
        self.left, self.right = (DiagonalLSTM(hidden, colors, rng) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        right = F.flip(self.right(F.flip(x, (3,))), (3,))
        return self.left(x) + shift_down(right)


class ResidualLSTM(Module):
    """x + conv1×1(LSTM(x)): the LSTM is half as wide as its input.  Figure 5."""

    def __init__(self, cell: str, hidden: int, colors: int, rng: Generator):
        super().__init__()
        self.cell = CELLS[cell](hidden, colors, rng)
        self.expand = MaskedConv2d("B", hidden, 2 * hidden, 1, colors, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.cell(x))


CELLS: dict[str, Any] = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}


class PixelRNN(AutoregressiveModel):
    """Mask A, then residual LSTMs, then two 1×1 convolutions to a softmax over the levels.  Table 1.

    A Diagonal BiLSTM sees all the past.  Its second half sees the last pixel of the row above only through features to
    the right of that pixel, so the image gets one more column of zeros there.  A Row LSTM sees a triangle of the past.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        cell: `row` for the Row LSTM, `diagonal` for the Diagonal BiLSTM.
        hidden: the width of the LSTMs, at least C: the features are divided among the colours.
        blocks: the number of LSTM layers.
        kernel_size: of the first convolution, with mask A; odd.
        dropout: of the layers' outputs, for small data sets.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "pixel by pixel, recurrent (van den Oord et al. 2016)"
    small = Recipe(steps=550, lr=6e-3, threads=2, model={"hidden": 48})
    large = large(steps=2000, lr=1e-3, model={"hidden": 32, "dropout": 0.0})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, cell: str = "row", hidden: int = 64, blocks: int = 3,
        kernel_size: int = 7, dropout: float = 0.25, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(hidden=hidden, blocks=blocks, kernel_size=kernel_size)
        check_choice(cell=(cell, tuple(CELLS)))
        colors, rng, self.cell = image_shape[0], rng or Generator(0), cell
        if hidden < colors:
            raise ValueError(f"hidden must be at least {colors} for {colors} colours, got {hidden}")
        self.first = MaskedConv2d("A", colors, 2 * hidden, kernel_size, colors, rng=rng)
        self.label = Embedding(classes, 2 * hidden, rng=rng) if classes else None
        self.blocks = [ResidualLSTM(cell, hidden, colors, rng) for _ in range(blocks)]
        self.dropout = Dropout(dropout)
        self.mix = MaskedConv2d("B", 2 * hidden, 2 * hidden, 1, colors, rng=rng)
        self.last = MaskedConv2d("B", 2 * hidden, colors * levels, 1, colors, rng=rng)

    def forward(self, x: Tensor, rng: Generator | None = None, labels: Array | None = None) -> Tensor:
        h = self.first(F.pad(x, (0, 1)) if self.cell == "diagonal" else x)
        if self.label is not None:
            h = h + self.label(labels)[:, :, None, None]
        for block in self.blocks:
            h = block(h)
            if rng is not None:
                h = self.dropout(h, rng)
        return self.factors(self.last(F.relu(self.mix(F.relu(h[:, :, :, : x.shape[3]])))))

    def columns(self, n: int, labels: Array | None = None) -> Columns | None:
        return Columns(self, n, labels) if self.cell == "row" else None


class Columns(LastColumns):
    """The Row LSTM's network pixel by pixel, with the states of all rows above.  See `base`."""

    def __init__(self, network: PixelRNN, n: int, labels: Array | None = None):
        super().__init__(network, n)
        _, height, width = network.image_shape
        self.first = RememberingColumn(network.first, n, (height, width))
        self.label = 0 if network.label is None else network.label(labels).data.T
        self.layers = [
            (block.cell.state, RememberingColumn(block.cell.input, n, (height, width)), Column(block.expand, n))
            for block in network.blocks
        ]
        self.at = -1
        self.hidden = hidden = self.layers[0][0].in_channels
        # [h, c] of each layer, at row i + 1 those of row i: (layers, H + 1, W, 2 · hidden, n)
        self.states = self.xp.zeros((len(self.layers), height + 1, width, 2 * hidden, n), self.scaled.dtype)

    def learn(self, x: Array, i: int, j: int) -> None:
        self.first.remember(self.scaled.take(x[:, :, i, j].T), i, j)

    def from_above(self, i: int) -> list[Array]:
        """What the states of row i − 1 add to each layer's gates in row i: (W, 4 · hidden, n)."""
        rows = self.states[:, i, :, : self.hidden].transpose(0, 3, 2, 1)[:, :, :, None]  # (layers, n, hidden, 1, W)
        with no_grad():
            found = [state(Tensor(h)).data[:, :, 0] for (state, _, _), h in zip(self.layers, rows, strict=True)]
        return [self.xp.ascontiguousarray(gates.transpose(2, 1, 0)) for gates in found]

    def logits(self, i: int, j: int, c: int) -> Array:
        if self.at != i:
            self.at, self.above = i, self.from_above(i)
        x = self.first.recall(i, j) + self.label
        for k, (_, look, expand) in enumerate(self.layers):
            look.remember(x, i, j)
            gates = look.recall(i, j) + self.above[k][j]
            state = lstm(Tensor(gates[None]), Tensor(self.states[k, i, j][None])).data[0]
            self.states[k, i + 1, j] = state
            x = x + expand(state[: self.hidden])
        return self.factor(x, c)
