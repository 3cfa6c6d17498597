"""The layers: a function of `functional` with its parameters.  Names, arguments and shapes are torch's.

A layer draws its initial weights from `rng`; without one from `Generator(0)`, so a layer is never left to chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.functional.conv import pair
from nanogen.nn.module import Module, Parameter
from nanogen.random import Generator

Pair = int | tuple[int, ...]


def uniform_init(shape: tuple[int, ...], fan_in: int, rng: Generator | None) -> Parameter:
    """U(−1/√fan_in, 1/√fan_in): LeCun et al. 1998, section 4.6, with the bounds that torch takes."""
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return Parameter(((rng or Generator(0)).uniform(shape) * 2 - 1) * np.float32(bound))


def _sizes(name: str, **sizes: int) -> None:
    for key, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {key} must be a positive integer, got {value!r}")


class Linear(Module):
    """(…, in_features) to (…, out_features): x · weightᵀ + bias."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rng: Generator | None = None):
        super().__init__()
        _sizes("Linear", in_features=in_features, out_features=out_features)
        rng = rng or Generator(0)
        self.weight = uniform_init((out_features, in_features), in_features, rng)
        self.bias = uniform_init((out_features,), in_features, rng) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Conv2d(Module):
    """(N, in_channels, H, W) to (N, out_channels, OH, OW); see `functional.conv2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        bias: bool = True,
        *,
        rng: Generator | None = None,
    ):
        super().__init__()
        _sizes("Conv2d", in_channels=in_channels, out_channels=out_channels)
        kernel, rng = pair(kernel_size, "kernel_size", 1), rng or Generator(0)
        fan_in = in_channels * math.prod(kernel)
        self.weight = uniform_init((out_channels, in_channels, *kernel), fan_in, rng)
        self.bias = uniform_init((out_channels,), fan_in, rng) if bias else None
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class MaskedConv2d(Conv2d):
    """A convolution that sees only what comes before a pixel in raster order.  van den Oord et al. 2016, figure 2.

    Inside the pixel the channels are ordered too: input and output channels stand in `colors` groups one after the
    other, group c being the features of the c-th colour (R, G, B).  At its own pixel, a feature of colour c sees

    - mask `A` (first layer, whose input is the image): the colours before c;
    - mask `B` (later layers): the colours up to and with c.

    Raises:
        ValueError: another mask, an even kernel, fewer input or output channels than colours.
    """

    def __init__(
        self,
        mask: str,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        colors: int = 1,
        bias: bool = True,
        *,
        rng: Generator | None = None,
    ):
        kernel = pair(kernel_size, "kernel_size", 1)
        if mask not in ("A", "B"):
            raise ValueError(f"MaskedConv2d: mask must be 'A' or 'B', got {mask!r}")
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"MaskedConv2d: kernel_size must be odd, got {kernel}")
        if colors < 1 or min(in_channels, out_channels) < colors:
            raise ValueError(f"MaskedConv2d: needs a channel for each of {colors} colours in and out")
        super().__init__(
            in_channels, out_channels, kernel, padding=(kernel[0] // 2, kernel[1] // 2), bias=bias, rng=rng
        )
        self.mask: Tensor
        self.register_buffer("mask", Tensor(causal_mask(mask, self.weight.shape, colors)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        above, left = self.weight.shape[2] // 2, self.weight.shape[3] // 2
        seen = self.weight * self.mask
        if above:  # the rows below are not even multiplied by 0
            seen = seen[:, :, : above + 1]
        return F.conv2d(x, seen, self.bias, padding=(left, left, above, 0))


def causal_mask(mask: str, shape: tuple[int, ...], colors: int) -> np.ndarray:
    """1 where a weight of `shape` (O, C, KH, KW) may look, 0 elsewhere: float32."""
    outputs, inputs, height, width = shape
    allowed = np.zeros(shape, np.float32)
    allowed[:, :, : height // 2] = 1  # the rows above
    allowed[:, :, height // 2, : width // 2] = 1  # the same row, to the left
    color_out = np.arange(outputs)[:, None] * colors // outputs
    color_in = np.arange(inputs)[None] * colors // inputs
    allowed[:, :, height // 2, width // 2] = color_in < color_out if mask == "A" else color_in <= color_out
    return allowed


class ConvTranspose2d(Module):
    """(N, in_channels, H, W) to a larger (N, out_channels, OH, OW); see `functional.conv_transpose2d`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        bias: bool = True,
        dilation: Pair = 1,
        *,
        rng: Generator | None = None,
    ):
        super().__init__()
        _sizes("ConvTranspose2d", in_channels=in_channels, out_channels=out_channels)
        kernel, rng = pair(kernel_size, "kernel_size", 1), rng or Generator(0)
        fan_in = out_channels * math.prod(kernel)
        self.weight = uniform_init((in_channels, out_channels, *kernel), fan_in, rng)
        self.bias = uniform_init((out_channels,), fan_in, rng) if bias else None
        self.stride, self.padding, self.output_padding, self.dilation = stride, padding, output_padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.dilation
        )


class GroupNorm(Module):
    """(N, num_channels, *), normalised within each image over groups of channels; see `functional.group_norm`."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        _sizes("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.eps = num_groups, eps
        self.weight = Parameter(np.ones(num_channels, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, np.float32)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class GroupNormSiLU(GroupNorm):
    """A GroupNorm and the SiLU behind it as one operation; see `functional.group_norm_silu`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm_silu(x, self.num_groups, self.weight, self.bias, self.eps)


class AdaptiveGroupNormSiLU(GroupNorm):
    """silu((1 + scale) · norm(x) + shift), norm a GroupNorm, scale and shift (N, num_channels) each image's own, as one
    operation.  AdaGN: Dhariwal & Nichol 2021, section 3."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__(num_groups, num_channels, eps)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        factor = 1.0 + scale
        return F.group_norm_silu(x, self.num_groups, self.weight * factor, self.bias * factor + shift, self.eps)


class BatchNorm2d(Module):
    """(N, num_features, H, W), each channel normalised over the batch; see `functional.batch_norm`."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        super().__init__()
        _sizes("BatchNorm2d", num_features=num_features)
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, np.float32)) if affine else None
        self.running_mean: Tensor
        self.running_var: Tensor
        self.num_batches_tracked: Tensor
        self.register_buffer("running_mean", Tensor(np.zeros(num_features, np.float32)))
        self.register_buffer("running_var", Tensor(np.ones(num_features, np.float32)))
        self.register_buffer("num_batches_tracked", Tensor(np.zeros((), np.int64)))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"BatchNorm2d: input must be (N, C, H, W), got shape {x.shape}")
        if self.training:
            self.num_batches_tracked.data += 1
        moments = self.running_mean, self.running_var
        return F.batch_norm(x, *moments, self.weight, self.bias, self.training, self.momentum, self.eps)


class LayerNorm(Module):
    """(…, *normalized_shape), normalised over the last axes; see `functional.layer_norm`."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight = Parameter(np.ones(shape, np.float32)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape, np.float32)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Embedding(Module):
    """Integers below num_embeddings to rows of a table: any shape to (…, embedding_dim)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, rng: Generator | None = None):
        super().__init__()
        _sizes("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.weight = Parameter((rng or Generator(0)).normal((num_embeddings, embedding_dim)))

    def forward(self, indices: Any) -> Tensor:
        return F.embedding(indices, self.weight)


class Dropout(Module):
    """Each element 0 with probability p in training; nothing in evaluation.  Draws from the rng of the call, or from
    its own, `Generator(0)` unless given."""

    def __init__(self, p: float = 0.5, *, rng: Generator | None = None):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be in [0, 1], got {p}")
        self.p, self.rng = p, rng or Generator(0)

    def forward(self, x: Tensor, rng: Generator | None = None) -> Tensor:
        return F.dropout(x, self.p, self.training, rng or self.rng)
