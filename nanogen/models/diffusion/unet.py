"""The network of the DDPM: a time-conditional U-Net.  Ho et al. 2020, appendix B; Nichol & Dhariwal 2021, section 3.

Residual blocks with group norm and SiLU, each scaled and shifted by an embedding of the time (AdaGN).  Self-attention
at the lowest resolution.  Strided convolutions for downsampling, nearest-neighbour upsampling.  Skip connections from
every block of the encoder to its counterpart in the decoder.
"""

from __future__ import annotations

import math
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module
from nanogen.models.base import check_counts
from nanogen.nn import AdaptiveGroupNormSiLU, Conv2d, Dropout, Embedding, GroupNorm, GroupNormSiLU, Linear, Module
from nanogen.random import Generator


def sinusoidal_embedding(t: Any, channels: int, like: Tensor) -> Tensor:
    """Times (N,) to (N, channels): sin(t ω_i) then cos(t ω_i), ω_i = 10000^(−i / half).  Vaswani et al. 2017, 3.5."""
    xp, half = array_module(like.data), channels // 2
    frequencies = 10000.0 ** -(xp.arange(half, dtype=like.dtype) / half)
    angles = xp.asarray(t).astype(like.dtype)[:, None] * frequencies[None]
    return Tensor(xp.concatenate([xp.sin(angles), xp.cos(angles)], axis=1))


def groups(channels: int) -> int:
    """The number of groups of a group norm: at most 32, with at least four channels each."""
    return math.gcd(min(32, max(1, channels // 4)), channels)


def zeroed(layer: Any) -> Any:
    """The layer with weights and bias 0, so that a residual branch is initially 0.  Ho et al. 2020, their code."""
    for parameter in layer.parameters():
        parameter.data *= 0
    return layer


class ResidualBlock(Module):
    """h → skip(h) + conv(dropout(silu((1 + scale) · norm(conv(silu(norm(h)))) + shift))), scale and shift by time."""

    def __init__(self, inputs: int, outputs: int, time_channels: int, dropout: float, rng: Generator):
        super().__init__()
        self.norm1, self.conv1 = GroupNormSiLU(groups(inputs), inputs), Conv2d(inputs, outputs, 3, padding=1, rng=rng)
        self.time = Linear(time_channels, 2 * outputs, rng=rng)
        self.norm2, self.dropout = AdaptiveGroupNormSiLU(groups(outputs), outputs), Dropout(dropout)
        self.conv2 = zeroed(Conv2d(outputs, outputs, 3, padding=1, rng=rng))
        self.skip = Conv2d(inputs, outputs, 1, rng=rng) if inputs != outputs else None

    def forward(self, h: Tensor, time: Tensor, rng: Generator | None) -> Tensor:
        inner = self.conv1(self.norm1(h))
        inner = self.norm2(inner, *self.time(F.silu(time)).split(inner.shape[1], 1))
        inner = self.conv2(inner if rng is None else self.dropout(inner, rng))  # the loss passes an rng
        return inner + (h if self.skip is None else self.skip(h))


class Attention(Module):
    """Multi-head self-attention over pixels: h → h + out(softmax(QKᵀ/√d) V).  Vaswani et al. 2017, section 3.2."""

    def __init__(self, channels: int, heads: int, rng: Generator):
        super().__init__()
        self.heads, self.norm = heads, GroupNorm(groups(channels), channels)
        self.qkv = Conv2d(channels, 3 * channels, 1, rng=rng)
        self.out = zeroed(Conv2d(channels, channels, 1, rng=rng))

    def forward(self, h: Tensor) -> Tensor:
        n, c, height, width = h.shape
        tokens = self.qkv(self.norm(h)).permute(0, 2, 3, 1).reshape(n, height * width, 3, self.heads, c // self.heads)
        query, key, value = (tokens[:, :, i].permute(0, 2, 1, 3) for i in range(3))  # (N, heads, H·W, C / heads)
        seen = F.scaled_dot_product_attention(query, key, value).permute(0, 2, 1, 3)
        return h + self.out(seen.reshape(n, height, width, c).permute(0, 3, 1, 2))


class UNet(Module):
    """Images (N, colors, H, W) and times (N,) to an output (N, outputs, H, W); `outputs` is `colors` unless given.

    A learned embedding of the label is added to that of the time: Dhariwal & Nichol 2021, section 3.  The settings are
    those of `DDPM`.

    Raises:
        ValueError: settings that are not positive integers, or widths that do not fit the heads.
    """

    def __init__(
        self, colors: int, channels: int, multipliers: tuple[int, ...], blocks: int, heads: int, dropout: float,
        rng: Generator, classes: int = 0, outputs: int | None = None,
    ):  # fmt: skip
        super().__init__()
        check_counts(
            channels=channels, blocks=blocks, heads=heads, **{f"multipliers[{i}]": m for i, m in enumerate(multipliers)}
        )
        if not multipliers:
            raise ValueError("multipliers must be at least one positive integer, got none")
        if channels % 2 or channels * multipliers[-1] % heads:
            raise ValueError(f"channels must be even, and divide into {heads} heads at the end, got {channels}")
        time, widths = 4 * channels, [channels * m for m in multipliers]
        self.channels = channels
        self.time1, self.time2 = Linear(channels, time, rng=rng), Linear(time, time, rng=rng)
        self.first = Conv2d(colors, channels, 3, padding=1, rng=rng)

        self.down: list[Any] = []  # residual blocks and, between resolutions, strided convolutions
        joined, width = [channels], channels  # the widths of the skip connections
        for level, wide in enumerate(widths):
            for _ in range(blocks):
                self.down.append(ResidualBlock(width, wide, time, dropout, rng))
                width = wide
                joined.append(width)
            if level < len(widths) - 1:
                self.down.append(Conv2d(width, width, 3, stride=2, padding=1, rng=rng))
                joined.append(width)

        self.middle1 = ResidualBlock(width, width, time, dropout, rng)
        self.attention = Attention(width, heads, rng)
        self.middle2 = ResidualBlock(width, width, time, dropout, rng)

        self.up: list[Any] = []  # residual blocks and, between resolutions, the convolution after upsampling
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.up.append(ResidualBlock(width + joined.pop(), wide, time, dropout, rng))
                width = wide
            if level:
                self.up.append(Conv2d(width, width, 3, padding=1, rng=rng))
        self.norm = GroupNormSiLU(groups(width), width)
        self.last = zeroed(Conv2d(width, outputs or colors, 3, padding=1, rng=rng))
        self.label = Embedding(classes, time, rng=rng) if classes else None

    def forward(self, x: Tensor, t: Any, labels: Array | None = None, rng: Generator | None = None) -> Tensor:
        time = self.time2(F.silu(self.time1(sinusoidal_embedding(t, self.channels, x))))
        if self.label is not None:
            time = time + self.label(labels)
        h = self.first(x)
        kept = [h]
        for part in self.down:
            h = part(h, time, rng) if isinstance(part, ResidualBlock) else part(h)
            kept.append(h)
        h = self.middle2(self.attend(self.middle1(h, time, rng), labels), time, rng)
        for part in self.up:
            if isinstance(part, ResidualBlock):
                h = part(F.cat([h, kept.pop()], dim=1), time, rng)
            else:
                h = part(F.interpolate(h, size=kept[-1].shape[2:]))
        return self.last(self.norm(h))

    def attend(self, h: Tensor, labels: Any) -> Tensor:
        """What the lowest resolution looks at, between its residual blocks."""
        return self.attention(h)
