"""Convolution in three forms; the gradients of each are the other two.

    ⟨convolve(x, w), y⟩  =  ⟨x, convolve_adjoint(y, w)⟩  =  ⟨w, convolve_weight(x, y)⟩

    primitive           public function     layer              computes
    convolve            conv2d              Conv2d             y, from images x and kernels w; linear in each
    convolve_adjoint    conv_transpose2d    ConvTranspose2d    its adjoint in x: from y and w to the shape of x
    convolve_weight     conv2d_weight                          its adjoint in w: from x and y to the shape of w

The public functions check their arguments, which are torch's, and call the primitives.

All three use *im2col* and one matrix product (Chellapilla et al. 2006): im2col makes a matrix with a row for each
position of the kernel, the pixels under it, and this is multiplied by the kernels.  The adjoint of im2col, *col2im*,
adds the rows up where they overlap.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

from nanogen.autograd import Tensor, add, composite, primitive
from nanogen.backend import array_module, unsupported
from nanogen.functional.elementwise import where
from nanogen.functional.reduction import sum
from nanogen.functional.shape import cat, chunk, pad

__all__ = ["avg_pool2d", "conv2d", "conv2d_weight", "conv_transpose2d", "max_pool2d"]

Pair = tuple[int, ...]  # for height and width


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """The number of positions of the kernel: ⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def patches(padded, kernel, size, stride, dilation):
    """The pixels under the kernel: a view (N, OH, OW, KH, KW, C) of padded images (N, H, W, C)."""
    (n, _, _, c), (a, b, d, e) = padded.shape, padded.strides
    strides = (a, b * stride[0], d * stride[1], b * dilation[0], d * dilation[1], e)
    return array_module(padded).lib.stride_tricks.as_strided(padded, (n, *size, *kernel, c), strides)


def zeros_for(x, channels, kernel, size, stride, dilation):
    """Zeros (N, H, W, channels) of x's type, as large as all patches together."""
    reach = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(size, kernel, stride, dilation)]
    return array_module(x).zeros((len(x), *reach, channels), x.dtype)


def im2col(x, kernel, size, stride, padding, dilation):
    """The patches of x (N, C, H, W), padded with zeros: (N, OH, OW, KH, KW, C)."""
    (_, c, h, w), (top, left) = x.shape, padding
    padded = zeros_for(x, c, kernel, size, stride, dilation)
    inside = padded[:, top : top + h, left : left + w]
    inside[...] = x.transpose(0, 2, 3, 1)[:, : inside.shape[1], : inside.shape[2]]
    return patches(padded, kernel, size, stride, dilation)


def col2im(columns, size, stride, padding, dilation):
    """The adjoint of `im2col`: patches (N, OH, OW, KH, KW, C), added where they overlap, to (N, C, *size)."""
    (_, oh, ow, *kernel, c), (top, left) = columns.shape, padding
    padded = zeros_for(columns, c, kernel, (oh, ow), stride, dilation)
    sums = patches(padded, kernel, (oh, ow), stride, dilation)
    for tap in itertools.product(range(kernel[0]), range(kernel[1])):
        sums[:, :, :, *tap] += columns[:, :, :, *tap]
    out = array_module(columns).zeros((len(columns), *size, c), columns.dtype)
    inside = padded[:, top : top + size[0], left : left + size[1]]
    out[:, : inside.shape[1], : inside.shape[2]] = inside
    return out.transpose(0, 3, 1, 2)


@primitive
def convolve(x, w, *, stride, padding, dilation, size=None):
    """out[n, o, i, j] = Σ_{c,k,l} w[o, c, k, l] · x[n, c, i·stride + k·dilation − padding, …], x zero outside.

    Shapes: x (N, C, H, W), w (O, C, KH, KW), out (N, O, *size); without `size`, the padding is equal on both sides."""
    size = size or output_size(x.shape[2:], w.shape[2:], stride, padding, dilation)
    columns = im2col(x, w.shape[2:], size, stride, padding, dilation)
    return array_module(x).tensordot(columns, w, axes=((3, 4, 5), (2, 3, 1))).transpose(0, 3, 1, 2)


@primitive
def convolve_adjoint(y, w, *, size, stride, padding, dilation):
    """The adjoint of `convolve` in x: each y[n, o, i, j] adds its multiple of the kernel w[o] to the output.

    Shapes: y (N, O, OH, OW), w (O, C, KH, KW), out (N, C, *size)."""
    columns = array_module(y).tensordot(y, w.transpose(0, 2, 3, 1), axes=(1, 0))
    return col2im(columns, size, stride, padding, dilation)


@primitive
def convolve_weight(x, y, *, kernel, stride, padding, dilation):
    """The adjoint of `convolve` in w: out[o, c, k, l] = Σ_{n,i,j} y[n, o, i, j] · x[n, c, i·stride + k·dilation − …].

    Shapes: x (N, C, H, W), y (N, O, OH, OW), out (O, C, *kernel)."""
    columns = im2col(x, kernel, y.shape[2:], stride, padding, dilation)
    return array_module(x).tensordot(y, columns, axes=((0, 2, 3), (0, 1, 2))).transpose(0, 3, 1, 2)


convolve.vjp(
    lambda g, out, x, w, size, **how: convolve_adjoint(g, w, size=x.shape[2:], **how),
    lambda g, out, x, w, size, **how: convolve_weight(x, g, kernel=w.shape[2:], **how),
    reads="x w",
)
convolve_adjoint.vjp(
    lambda g, out, y, w, size, **how: convolve(g, w, size=y.shape[2:], **how),
    lambda g, out, y, w, size, **how: convolve_weight(g, y, kernel=w.shape[2:], **how),
    reads="y w",
)
convolve_weight.vjp(
    lambda g, out, x, y, kernel, **how: convolve_adjoint(y, g, size=x.shape[2:], **how),
    lambda g, out, x, y, kernel, **how: convolve(x, g, size=y.shape[2:], **how),
    reads="x y",
)


@primitive
def add_bias(y, bias):
    """y[n, o, i, j] + bias[o]."""
    return y + bias[:, None, None]


add_bias.vjp(lambda g, out, y, bias: g, lambda g, out, y, bias: sum(g, dim=(0, 2, 3)), reads="")


@composite
def convolve_with_bias(x, w, bias, *, stride, padding, dilation, size=None):
    """`convolve`, then `add_bias`."""
    return add_bias(convolve(x, w, stride=stride, padding=padding, dilation=dilation, size=size), bias)


def by_groups(form: Any, groups: int, x: Tensor, w: Tensor, **how: Any) -> Tensor:
    """`form` of each group of channels separately, with its own kernels.  Krizhevsky et al. 2012, section 3.2."""
    if groups == 1:
        return form(x, w, **how)
    return cat([form(*part, **how) for part in zip(chunk(x, groups, 1), chunk(w, groups, 0))], 1)


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | Pair = 1, padding: int | Pair | str = 0,
    dilation: int | Pair = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    """The convolution (cross-correlation: the kernel is not flipped) of images with kernels.

    Shapes: input (N, C, H, W), weight (O, C / groups, KH, KW), bias (O,); out (N, O, OH, OW).  padding is the number of
    zeros on each side; or two numbers, for height and width; or four, as for `pad`: (left, right, above, below); or
    `valid` (none); or `same` (the output is as large as the input; only for stride 1).

    Raises:
        ValueError: shapes that do not fit, a length of 0 other than N, a kernel larger than the padded image, a setting
            out of range.
    """
    _check_images(input, "conv2d")
    _check_kernel(input, weight, bias, groups, "conv2d")
    how = settings(stride, 0, dilation)
    (left, right), (above, below) = sides(padding, weight.shape[2:], how)
    whole = (input.shape[2] + above + below, input.shape[3] + left + right)
    how |= {"padding": (above, left), "size": output_size(whole, weight.shape[2:], **how)}
    if min(how["size"]) < 1:
        raise ValueError(
            f"conv2d: kernel {weight.shape[2:]} with dilation {how['dilation']} is larger than the padded image {whole}"
        )
    if groups == 1 and bias is not None:
        return convolve_with_bias(input, weight, bias, **how)
    out = by_groups(convolve, groups, input, weight, **how)
    return out if bias is None else add_bias(out, bias)


def sides(padding: int | Pair | str, kernel: Pair, how: dict[str, Pair]) -> list[Pair]:
    """How many zeros `conv2d` puts left and right of an image, and above and below it."""
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ValueError(f"conv2d: padding must be numbers, 'same' or 'valid', got {padding!r}")
    if padding == "same":
        if how["stride"] != (1, 1):
            raise ValueError("conv2d: padding 'same' needs stride 1")
        missing = [d * (k - 1) for d, k in zip(how["dilation"], kernel, strict=True)]
        return [(m // 2, m - m // 2) for m in reversed(missing)]
    if isinstance(padding, tuple | list) and len(padding) == 4:
        return [pair(padding[:2], "padding", 0), pair(padding[2:], "padding", 0)]
    height, width = pair(0 if isinstance(padding, str) else padding, "padding", 0)
    return [(width, width), (height, height)]


def conv_transpose2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | Pair = 1, padding: int | Pair = 0,
    output_padding: int | Pair = 0, groups: int = 1, dilation: int | Pair = 1,
) -> Tensor:  # fmt: skip
    """The adjoint of `conv2d` in its input, plus a bias: from small images to large ones.

    Shapes: input (N, C, H, W), weight (C, O / groups, KH, KW), bias (O,); out (N, O, OH, OW) with
    OH = (H − 1)·stride − 2·padding + dilation·(KH − 1) + output_padding + 1.  conv2d turns images of several sizes into
    the size of `input`; output_padding chooses one of them.  Dumoulin & Visin 2016, section 4.

    Raises:
        ValueError: shapes that do not fit, a length of 0 other than N, an empty output, output_padding not below stride
            or dilation.
    """
    _check_images(input, "conv_transpose2d")
    how = settings(stride, padding, dilation)
    extra = pair(output_padding, "output_padding", 0)
    _check_kernel(input, weight, bias, groups, "conv_transpose2d", transposed=True)
    if any(e >= max(s, d) for e, s, d in zip(extra, how["stride"], how["dilation"], strict=True)):
        raise ValueError(f"conv_transpose2d: output_padding {extra} must be smaller than stride or dilation")
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(input.shape[2:], weight.shape[2:], *how.values(), extra, strict=True)
    )
    if min(size) < 1:
        raise ValueError(f"conv_transpose2d: the output would have the size {size}")
    out = by_groups(convolve_adjoint, groups, input, weight, size=size, **how)
    return out if bias is None else add_bias(out, bias)


def conv2d_weight(
    input: Tensor, output: Tensor, kernel_size: int | Pair, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Tensor:  # fmt: skip
    """The adjoint of `conv2d` in its weight: (N, C, H, W), (N, O, OH, OW) to (O, C, KH, KW).

    Raises:
        ValueError: the output does not have the size of conv2d's for this input.
    """
    how = settings(stride, padding, dilation)
    kernel = pair(kernel_size, "kernel_size", 1)
    expected = (input.shape[0], *output_size(input.shape[2:], kernel, **how))
    if (output.shape[0], *output.shape[2:]) != expected:
        raise ValueError(f"conv2d_weight: output must have N, OH, OW = {expected}, got shape {output.shape}")
    return convolve_weight(input, output, kernel=kernel, **how)


def avg_pool2d(
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    """The means over a moving window, including the zeros of the padding: (N, C, H, W) to (N, C, OH, OW).  It is a
    convolution of each channel with 1 / (KH · KW).

    Raises:
        ValueError: padding of more than half the window, a setting out of range or not supported.
    """
    unsupported("avg_pool2d", ceil_mode=ceil_mode, divisor_override=divisor_override)
    unsupported("avg_pool2d", True, count_include_pad=count_include_pad)
    kernel, stride, padding, size = _windows("avg_pool2d", input, kernel_size, stride, padding)
    window = Tensor(array_module(input.data).ones((1, 1, *kernel), input.dtype))
    each = input.reshape(input.shape[0] * input.shape[1], 1, *input.shape[2:])
    return (conv2d(each, window, None, stride, padding) / math.prod(kernel)).reshape(*input.shape[:2], *size)


def max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maxima over a moving window: (N, C, H, W) to (N, C, OH, OW); the gradient goes to the first of equal numbers.

    Raises:
        ValueError: padding of more than half the window, a setting out of range or not supported.
    """
    unsupported("max_pool2d", ceil_mode=ceil_mode, return_indices=return_indices)
    unsupported("max_pool2d", 1, dilation=dilation)
    kernel, (s, r), (p, q), (oh, ow) = _windows("max_pool2d", input, kernel_size, stride, padding)
    padded = pad(input, (q, q, p, p), value=-math.inf)
    corners = [(i, j) for i in range(kernel[0]) for j in range(kernel[1])]
    taps = [padded[:, :, i : i + (oh - 1) * s + 1 : s, j : j + (ow - 1) * r + 1 : r] for i, j in corners]
    largest = Tensor(array_module(input.data).stack([tap.data for tap in taps]).argmax(0))
    return functools.reduce(add, [where(largest == i, tap, 0.0) for i, tap in enumerate(taps)])


def _windows(name, input, kernel_size, stride, padding):
    """The kernel, stride and padding of a pooling, and its output size."""
    _check_images(input, name)
    kernel = pair(kernel_size, "kernel_size", 1)
    how = settings(kernel if stride in (None, ()) else stride, padding, 1)
    if any(2 * p > k for p, k in zip(how["padding"], kernel, strict=True)):
        raise ValueError(f"{name}: padding {how['padding']} is more than half the window {kernel}")
    size = output_size(input.shape[2:], kernel, **how)
    if min(size) < 1:
        raise ValueError(f"{name}: window {kernel} is larger than the image {input.shape[2:]} with padding {padding}")
    return kernel, how["stride"], how["padding"], size


def settings(stride: int | Pair, padding: int | Pair, dilation: int | Pair) -> dict[str, Pair]:
    """The settings of a convolution for height and width, checked."""
    given = {"stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
    return {name: pair(value, name, least) for name, (value, least) in given.items()}


def pair(value: int | Pair, name: str, least: int) -> Pair:
    """A setting for height and width, checked."""
    both: Any = tuple(value) * (2 // len(value)) if isinstance(value, tuple | list) and value else (value, value)
    if len(both) != 2 or any(not isinstance(n, int) or isinstance(n, bool) or n < least for n in both):
        raise ValueError(f"{name} must be one or two integers of at least {least}, got {value!r}")
    return both


def _check_images(input: Tensor, name: str) -> None:
    if input.ndim != 4:
        raise ValueError(f"{name}: input must be (N, C, H, W), got shape {input.shape}")


def _check_kernel(input: Any, weight: Any, bias: Any, groups: Any, name: str, transposed: bool = False) -> None:
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{name}: groups must be a positive integer, got {groups!r}")
    ends = (weight.shape[1] * groups, weight.shape[0]) if weight.ndim == 4 else (0, 0)  # channels in and out
    inputs, outputs = reversed(ends) if transposed else ends
    if inputs != input.shape[1] or ends[1] % groups:
        among = f" in {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"{name}: weight of shape {weight.shape} does not fit an input of {input.shape[1]} channels{among}"
        )
    if 0 in weight.shape or 0 in input.shape[1:]:
        raise ValueError(f"{name}: nothing but N may be 0, got input {input.shape} and weight {weight.shape}")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{name}: bias must have shape {(outputs,)}, got {bias.shape}")
