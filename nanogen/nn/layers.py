"""Layers: functions of `functional` with their parameters.  Names, arguments and shapes are torch's.

A layer draws its initial weights from `rng`, or from the default generator, which `nanogen.manual_seed` seeds.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import unsupported
from nanogen.functional.conv import pair
from nanogen.nn.module import Module, Parameter
from nanogen.random import Generator, default_generator

Pair = int | tuple[int, ...]


def uniform_init(shape: tuple[int, ...], fan_in: int, rng: Generator | None) -> Parameter:
    """U(−1/√fan_in, 1/√fan_in): LeCun et al. 1998, section 4.6, with the bounds that torch takes."""
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    return Parameter(((rng or default_generator).uniform(shape) * 2 - 1) * np.float32(bound))


def _sizes(name: str, **sizes: int) -> None:
    for key, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {key} must be a positive integer, got {value!r}")


class Linear(Module):
    """(…, in_features) to (…, out_features): x · weightᵀ + bias."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None,
        *, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        _sizes("Linear", in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = uniform_init((out_features, in_features), in_features, rng)
        self.bias = uniform_init((out_features,), in_features, rng) if bias else None
        self.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Convolution(Module):
    """What the two convolutions share: channels in groups, kernels, a bias."""

    def set_kernels(
        self, inputs: int, outputs: int, kernel_size: Pair, groups: int, bias: bool, rng: Any, transposed: bool = False
    ) -> None:
        """The initial weights.  The adjoint of a convolution has kernels of the same shape as the convolution."""
        name = type(self).__name__
        _sizes(name, in_channels=inputs, out_channels=outputs, groups=groups)
        if inputs % groups or outputs % groups:
            raise ValueError(f"{name}: {inputs} and {outputs} channels do not divide into {groups} groups")
        self.in_channels, self.out_channels, self.groups = inputs, outputs, groups
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        first, second = (inputs, outputs) if transposed else (outputs, inputs)
        fan_in = second // groups * math.prod(self.kernel_size)
        self.weight = uniform_init((first, second // groups, *self.kernel_size), fan_in, rng)
        self.bias = uniform_init((outputs,), fan_in, rng) if bias else None


class Conv2d(Convolution):
    """(N, in_channels, H, W) to (N, out_channels, OH, OW); see `functional.conv2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Pair | str = 0,
        dilation: Pair = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: Any = None,
        dtype: Any = None, *, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        unsupported("Conv2d", "zeros", padding_mode=padding_mode)
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.set_kernels(in_channels, out_channels, kernel_size, groups, bias, rng)
        self.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class MaskedConv2d(Conv2d):
    """A convolution that sees only what comes before a pixel in raster order: the rows above it, and the pixels to its
    left.  van den Oord et al. 2016, figure 2.

    The channels of a pixel are ordered too.  They are divided into `colors` consecutive groups; group c has the
    features of the c-th colour (R, G, B).  At its own pixel, a feature of colour c sees

    - mask `A` (first layer, whose input is the image): the colours before c;
    - mask `B` (later layers): the colours up to c, including c.

    Raises:
        ValueError: another mask, an even kernel, fewer input or output channels than colours.
    """

    def __init__(
        self, mask: str, in_channels: int, out_channels: int, kernel_size: Pair, colors: int = 1, bias: bool = True,
        *, rng: Generator | None = None,
    ):  # fmt: skip
        kernel = pair(kernel_size, "kernel_size", 1)
        if mask not in ("A", "B"):
            raise ValueError(f"MaskedConv2d: mask must be 'A' or 'B', got {mask!r}")
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"MaskedConv2d: kernel_size must be odd, got {kernel}")
        if colors < 1 or min(in_channels, out_channels) < colors:
            raise ValueError(f"MaskedConv2d: needs a channel for each of {colors} colours in and out")
        super().__init__(in_channels, out_channels, kernel, padding="same", bias=bias, rng=rng)
        self.sees_all = mask == "B" and kernel == (1, 1) and colors == 1
        self.mask: Tensor
        self.register_buffer("mask", Tensor(causal_mask(mask, self.weight.shape, colors)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        above, left = self.weight.shape[2] // 2, self.weight.shape[3] // 2
        # without the rows below, which have the weight 0; half of a PixelCNN's layers see all of their only pixel
        seen = self.weight if self.sees_all else (self.weight * self.mask)[:, :, : above + 1]
        return F.conv2d(x, seen, self.bias, padding=(left, left, above, 0))


def causal_mask(mask: str, shape: tuple[int, ...], colors: int) -> np.ndarray:
    """1 for the weights of `shape` (O, C, KH, KW) that see the past, 0 for the others: float32."""
    height, width = shape[2:]
    allowed = np.zeros(shape, np.float32)
    allowed[:, :, : height // 2] = 1  # the rows above
    allowed[:, :, height // 2, : width // 2] = 1  # the same row, to the left
    color_out, color_in = np.ix_(*(np.arange(channels) * colors // channels for channels in shape[:2]))
    allowed[:, :, height // 2, width // 2] = color_in < color_out if mask == "A" else color_in <= color_out
    return allowed


class ConvTranspose2d(Convolution):
    """(N, in_channels, H, W) to a larger (N, out_channels, OH, OW); see `functional.conv_transpose2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0,
        output_padding: Pair = 0, groups: int = 1, bias: bool = True, dilation: Pair = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None, *, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        unsupported("ConvTranspose2d", "zeros", padding_mode=padding_mode)
        self.stride, self.padding, self.output_padding, self.dilation = stride, padding, output_padding, dilation
        self.set_kernels(in_channels, out_channels, kernel_size, groups, bias, rng, transposed=True)
        self.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        how = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return F.conv_transpose2d(x, self.weight, self.bias, *how)


def scale_and_shift(shape: int | tuple[int, ...], affine: bool, bias: bool) -> tuple[Any, Any]:
    """The weight and the bias of a normalisation."""
    weight = Parameter(np.ones(shape, np.float32)) if affine else None
    return weight, Parameter(np.zeros(shape, np.float32)) if affine and bias else None


class GroupNorm(Module):
    """(N, num_channels, *), normalised within each image over groups of channels; see `functional.group_norm`."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, device: Any = None,
        dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        _sizes("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight, self.bias = scale_and_shift(num_channels, affine, bias)
        self.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class InstanceNorm2d(GroupNorm):
    """(N, num_features, H, W), each channel of each image normalised over its pixels.  Ulyanov et al. 2016, eq. 3."""

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=False, track_running_stats=False, **more):
        unsupported("InstanceNorm2d", track_running_stats=track_running_stats)
        super().__init__(num_features, num_features, eps, affine, **more)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] * x.shape[3] < 2:
            raise ValueError(f"InstanceNorm2d: input must be (N, C, H, W) of several pixels, got shape {x.shape}")
        return super().forward(x)


class GroupNormSiLU(GroupNorm):
    """A GroupNorm followed by SiLU, as one operation; see `functional.group_norm_silu`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm_silu(x, self.num_groups, self.weight, self.bias, self.eps)


class AdaptiveGroupNormSiLU(GroupNorm):
    """silu((1 + scale) · norm(x) + shift) as one operation, norm a GroupNorm.  Each image has its own scale and shift,
    (N, num_channels).  AdaGN: Dhariwal & Nichol 2021, section 3."""

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        factor = 1.0 + scale
        return F.group_norm_silu(x, self.num_groups, self.weight * factor, self.bias * factor + shift, self.eps)


class BatchNorm2d(Module):
    """(N, num_features, H, W), each channel normalised over the batch; see `functional.batch_norm`."""

    shapes: tuple[str, ...] = ("(N, C, H, W)",)

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        _sizes(name, num_features=num_features)
        unsupported(name, True, track_running_stats=track_running_stats)
        if momentum is None:
            raise ValueError(f"{name}: momentum=None is not supported")
        self.num_features, self.eps, self.momentum, self.affine = num_features, eps, momentum, affine
        self.weight, self.bias = scale_and_shift(num_features, affine, bias)
        self.register_buffer("running_mean", Tensor(np.zeros(num_features, np.float32)))
        self.register_buffer("running_var", Tensor(np.ones(num_features, np.float32)))
        self.register_buffer("num_batches_tracked", Tensor(np.zeros((), np.int64)))
        self.to(device, dtype)

    def forward(self, x):
        if x.ndim not in [shape.count(",") + 1 for shape in self.shapes]:
            raise ValueError(f"{type(self).__name__}: input must be {' or '.join(self.shapes)}, got shape {x.shape}")
        if self.training:
            self.num_batches_tracked.data += 1
        moments = self.running_mean, self.running_var
        return F.batch_norm(x, *moments, self.weight, self.bias, self.training, self.momentum, self.eps)


class BatchNorm1d(BatchNorm2d):
    """(N, num_features) or (N, num_features, L), each channel normalised over the batch."""

    shapes = ("(N, C)", "(N, C, L)")


class LayerNorm(Module):
    """(…, *normalized_shape), normalised over the last axes; see `functional.layer_norm`."""

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight, self.bias = scale_and_shift(shape, elementwise_affine, bias)
        self.to(device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Embedding(Module):
    """Integers below num_embeddings to rows of a table: any shape to (…, embedding_dim)."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: None = None, max_norm: None = None,
        *, device: Any = None, dtype: Any = None, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__()
        unsupported("Embedding", padding_idx=padding_idx, max_norm=max_norm)
        _sizes("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = Parameter((rng or default_generator).normal((num_embeddings, embedding_dim)))
        self.to(device, dtype)

    def forward(self, indices: Any) -> Tensor:
        return F.embedding(indices, self.weight)


class Dropout(Module):
    """`functional.dropout` in training, nothing in evaluation.  Draws from the rng of the call, else from its own, else
    from the default generator."""

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Generator | None = None):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be in [0, 1], got {p}")
        self.p, self.inplace, self.rng = p, inplace, rng

    def forward(self, x: Tensor, rng: Generator | None = None) -> Tensor:
        return F.dropout(x, self.p, self.training, self.inplace, rng=rng or self.rng)


class Identity(Module):
    """Returns its input.  Settings are ignored."""

    __init__ = lambda self, *args, **kwargs: Module.__init__(self)  # type: ignore
    forward = lambda self, x: x  # type: ignore


def of_functions(tensors: int = 1, **functions: Any) -> Any:
    """Classes of modules that call functions of `tensors` tensors; the other arguments are the module's settings."""
    return [_of_function(name, function, tensors) for name, function in functions.items()]


def _of_function(name: str, function: Any, tensors: int) -> Any:
    settings = list(inspect.signature(function).parameters.values())[tensors:]
    signature = inspect.Signature([p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in settings])

    def __init__(self: Any, *args: Any, **named: Any) -> None:
        Module.__init__(self)
        given = signature.bind(*args, **named)
        given.apply_defaults()
        vars(self).update(given.arguments)

    def forward(self: Any, *inputs: Any) -> Any:
        return function(*inputs, **{key: getattr(self, key) for key in signature.parameters})

    contents = {"__init__": __init__, "forward": forward, "__signature__": signature, "__doc__": function.__doc__}
    return type(name, (Module,), contents)


AvgPool2d, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh = of_functions(
    AvgPool2d=F.avg_pool2d, GELU=F.gelu, LeakyReLU=F.leaky_relu, LogSoftmax=F.log_softmax, ReLU=F.relu,
    Sigmoid=F.sigmoid, SiLU=F.silu, Softmax=F.softmax, Softplus=F.softplus, Tanh=F.tanh,
)  # fmt: skip
BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss = of_functions(
    2, BCELoss=F.binary_cross_entropy, BCEWithLogitsLoss=F.binary_cross_entropy_with_logits,
    CrossEntropyLoss=F.cross_entropy, L1Loss=F.l1_loss, MSELoss=F.mse_loss,
)  # fmt: skip
Flatten, MaxPool2d, Upsample = of_functions(
    Flatten=lambda input, start_dim=1, end_dim=-1: F.flatten(input, start_dim, end_dim),
    MaxPool2d=lambda input, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False: (
        F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    ),
    Upsample=F.interpolate,
)
