"""A transformer as the network of the DDPM.  Peebles & Xie 2023, Scalable Diffusion Models with Transformers (DiT).

The image is cut into patches, and each patch becomes a token; where it was, a position embedding says.  Blocks of
self-attention and of an MLP follow, as in any transformer.  Time and label reach them through adaptive layer norms.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, composite
from nanogen.backend import Array, resident
from nanogen.models.diffusion.unet import sinusoidal_embedding, zeroed
from nanogen.nn import Dropout, Embedding, Linear, Module
from nanogen.random import Generator

EPS = 1e-6  # of the layer norms


def patchify(x: Tensor, patch: int) -> Tensor:
    """Images (N, C, H, W) to tokens (N, H/p · W/p, p · p · C), patches in raster order.  Section 3.2."""
    n, c, height, width = x.shape
    rows, columns = height // patch, width // patch
    x = x.reshape(n, c, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(n, rows * columns, patch * patch * c)


def unpatchify(tokens: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `patchify` for images of H × W = size."""
    n, rows, columns = len(tokens), size[0] // patch, size[1] // patch
    x = tokens.reshape(n, rows, columns, patch, patch, tokens.shape[2] // patch**2).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, x.shape[1], *size)


def position_embedding(rows: int, columns: int, channels: int) -> np.ndarray:
    """(rows · columns, channels): half of the channels embed the row, the other half the column, each with the sines
    and cosines that embed times.  Channels are a multiple of 4.  Section 3.2; Vaswani et al. 2017, section 3.5."""
    of_row, of_column = (
        sinusoidal_embedding(np.arange(n), channels // 2, Tensor(np.zeros(0))).data for n in (rows, columns)
    )
    return np.concatenate([of_row.repeat(columns, axis=0), np.tile(of_column, (rows, 1))], axis=1)


def adaptive_layer_norm(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(1 + scale) · (h − mean)/std + shift for tokens (N, L, C), scale and shift (N, 1, C) of each image.  adaLN:
    Peebles & Xie 2023, section 3.2."""
    return F.layer_norm(h, h.shape[2:], 1.0 + scale, shift, EPS)


@composite
def gated_residual(h, gate, branch):
    """h + gate · branch for tokens (N, L, C), with the gates (N, 1, C) of each image.  Figure 3."""
    return h + gate * branch


class Block(Module):
    """h → h + gate · attention(adaLN(h)), then h → h + gate · mlp(adaLN(h)); all scales, shifts and gates by time and
    label.  At the start the gates are 0, and the block the identity: adaLN-zero.  Peebles & Xie 2023, figure 3."""

    def __init__(self, channels: int, heads: int, dropout: float, rng: Generator):
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.qkv, self.out = Linear(channels, 3 * channels, rng=rng), Linear(channels, channels, rng=rng)
        self.mlp1, self.mlp2 = Linear(channels, 4 * channels, rng=rng), Linear(4 * channels, channels, rng=rng)
        self.condition = zeroed(Linear(channels, 6 * channels, rng=rng))

    def attention(self, h: Tensor) -> Tensor:
        """Multi-head self-attention of the tokens (N, L, C).  Vaswani et al. 2017, section 3.2."""
        n, length, c = h.shape
        query_key_value = self.qkv(h).reshape(n, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*(query_key_value[i] for i in range(3)))  # (N, heads, L, C / heads)
        return self.out(seen.permute(0, 2, 1, 3).reshape(n, length, c))

    def mlp(self, h: Tensor, rng: Generator | None) -> Tensor:
        h = F.gelu(self.mlp1(h), approximate="tanh")
        return self.mlp2(h if rng is None else self.dropout(h, rng))  # the loss passes an rng

    def forward(self, h: Tensor, condition: Tensor, rng: Generator | None = None) -> Tensor:
        """Tokens (N, L, C) to tokens; the condition is (N, 1, C)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.condition(condition).chunk(6, 2)
        h = gated_residual(h, gate1, self.attention(adaptive_layer_norm(h, scale1, shift1)))
        return gated_residual(h, gate2, self.mlp(adaptive_layer_norm(h, scale2, shift2), rng))


class Transformer(Module):
    """Images (N, colors, H, W) and times (N,) to an output (N, outputs, H, W); `outputs` is `colors` unless given.

    Time and label are embedded as in the U-Net.

    Raises:
        ValueError: an image that does not divide into patches, or channels that are no multiple of 4 or of heads.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], channels: int, patch: int, depth: int, heads: int, dropout: float,
        rng: Generator, classes: int = 0, outputs: int | None = None,
    ):  # fmt: skip
        super().__init__()
        colors, *size = image_shape
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"patch must divide the image's height and width, got {patch} for {size[0]}×{size[1]}")
        if channels % 4 or channels % heads:
            raise ValueError(f"the transformer's width must be a multiple of 4, and of {heads} heads, got {channels}")
        self.patch, self.size, self.channels = patch, (size[0], size[1]), channels
        self.positions = position_embedding(size[0] // patch, size[1] // patch, channels)
        self.time1, self.time2 = Linear(channels, channels, rng=rng), Linear(channels, channels, rng=rng)
        self.label = Embedding(classes, channels, rng=rng) if classes else None
        self.first = Linear(patch**2 * colors, channels, rng=rng)
        self.blocks = [Block(channels, heads, dropout, rng) for _ in range(depth)]
        self.condition = zeroed(Linear(channels, 2 * channels, rng=rng))
        self.last = zeroed(Linear(channels, patch**2 * (outputs or colors), rng=rng))

    def forward(self, x: Tensor, t: Any, labels: Array | None = None, rng: Generator | None = None) -> Tensor:
        condition = self.time2(F.silu(self.time1(sinusoidal_embedding(t, self.channels, x))))
        if self.label is not None:
            condition = condition + self.label(labels)
        condition = F.silu(condition).unsqueeze(1)
        h = self.first(patchify(x, self.patch)) + Tensor(resident(self.positions, x.dtype, x.device))
        for block in self.blocks:
            h = block(h, condition, rng)
        shift, scale = self.condition(condition).chunk(2, 2)
        return unpatchify(self.last(adaptive_layer_norm(h, scale, shift)), self.patch, self.size)
