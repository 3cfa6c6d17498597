"""Convolution: one bilinear map with three faces.

    ⟨conv2d(x, w), y⟩  =  ⟨x, conv_transpose2d(y, w)⟩  =  ⟨w, conv2d_weight(x, y)⟩

`convolve` is linear in x and in w; `convolve_adjoint` is its adjoint in x, `convolve_weight` its adjoint in w.  The
gradients of each are the other two, so the three are closed under differentiation at every order.

How the memory is laid out is the business of this file alone.  Arrays have the shape (N, C, H, W); results lie in
memory as (N, H, W, C), which elementwise operations keep, so that the patches of `columns` are copied in long runs
and the product of matrices (Chellapilla et al. 2006) writes its result in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from nanogen.autograd import Tensor, primitive
from nanogen.backend import Array, array_module
from nanogen.functional.shape import pad

__all__ = ["avg_pool2d", "conv2d", "conv2d_weight", "conv_transpose2d"]

Pair = tuple[int, ...]  # for height and width

# Columns are made for so many bytes of images at a time: they are read again while they are still in the cache.
BLOCK_BYTES = 1 << 20


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """How many places the kernel can stand at: ⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def channels_last(x: Array) -> Array:
    """(N, C, H, W) as a contiguous (N, H, W, C); no copy if the memory lies like that already."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def columns(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Iterator[tuple[slice, Array]]:
    """The patches under the kernel, a row a place: (images · OH · OW, KH · KW · C), some images at a time.

    The array is used again for the next images."""
    xp, (n, c, h, w) = array_module(x), x.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    oh, ow = output_size((h, w), kernel, stride, padding, dilation)
    if (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0):
        yield slice(0, n), channels_last(x).reshape(n * h * w, c)
        return
    images = max(1, min(n, BLOCK_BYTES // max(1, oh * ow * kh * kw * c * x.itemsize)))
    padded = xp.zeros((images, h + 2 * ph, w + 2 * pw, c), x.dtype)
    block = xp.empty((images, oh, ow, kh, kw, c), x.dtype)
    a, b, d, e = padded.strides
    windows = xp.lib.stride_tricks.as_strided(padded, block.shape, (a, b * sh, d * sw, b * dh, d * dw, e))
    for start in range(0, n, images):
        here = slice(start, min(start + images, n))
        count = here.stop - here.start
        padded[:count, ph : ph + h, pw : pw + w] = x[here].transpose(0, 2, 3, 1)
        block[:count] = windows[:count]
        yield here, block[:count].reshape(count * oh * ow, kh * kw * c)


@primitive
def convolve(x, w, *, stride, padding, dilation):
    """out[n, o, i, j] = Σ_{c,k,l} w[o, c, k, l] · x[n, c, i·stride + k·dilation − padding, …], x zero outside.

    Shapes: x (N, C, H, W), w (O, C, KH, KW), out (N, O, OH, OW)."""
    xp, (o, _, *kernel) = array_module(x), w.shape
    oh, ow = output_size(x.shape[2:], kernel, stride, padding, dilation)
    out = xp.empty((x.shape[0], oh, ow, o), xp.result_type(x, w))
    taps = channels_last(w).reshape(o, w[0].size if o else 0).T
    for here, patches in columns(x, kernel, stride, padding, dilation):
        xp.matmul(patches, taps, out=out[here].reshape(len(patches), o))
    return out.transpose(0, 3, 1, 2)


@primitive
def convolve_adjoint(y, w, *, size, stride, padding, dilation):
    """The adjoint of `convolve` in x: each y[n, o, i, j] spreads its multiple of the kernel w[o] over x.

    Shapes: y (N, O, OH, OW), w (O, C, KH, KW), out (N, C, *size)."""
    xp, (o, c, kh, kw), (oh, ow), (h, wd) = array_module(y), w.shape, y.shape[2:], size
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    reach = (dh * (kh - 1) - ph, dw * (kw - 1) - pw)
    if stride == (1, 1) and min(reach) >= 0:  # then it is a convolution with the kernel turned round
        return convolve.forward(
            y, w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3), stride=stride, padding=reach, dilation=dilation
        )
    out = xp.zeros((y.shape[0], h + 2 * ph, wd + 2 * pw, c), xp.result_type(y, w))
    rows = channels_last(y).reshape(-1, o)
    for k in range(kh):
        for m in range(kw):
            spread = (rows @ w[:, :, k, m]).reshape(-1, oh, ow, c)
            out[:, k * dh : k * dh + sh * (oh - 1) + 1 : sh, m * dw : m * dw + sw * (ow - 1) + 1 : sw] += spread
    return out[:, ph : ph + h, pw : pw + wd].transpose(0, 3, 1, 2)


@primitive
def convolve_weight(x, y, *, kernel, stride, padding, dilation):
    """The adjoint of `convolve` in w: out[o, c, k, l] = Σ_{n,i,j} y[n, o, i, j] · x[n, c, i·stride + k·dilation − …].

    Shapes: x (N, C, H, W), y (N, O, OH, OW), out (O, C, *kernel)."""
    xp, c, o = array_module(x), x.shape[1], y.shape[1]
    rows = channels_last(y)
    out = xp.zeros((o, kernel[0] * kernel[1] * c), xp.result_type(x, y))
    for here, patches in columns(x, kernel, stride, padding, dilation):
        out += rows[here].reshape(-1, o).T @ patches
    return out.reshape(o, *kernel, c).transpose(0, 3, 1, 2)


convolve.vjp(
    lambda g, out, x, w, **how: convolve_adjoint(g, w, size=x.shape[2:], **how),
    lambda g, out, x, w, **how: convolve_weight(x, g, kernel=w.shape[2:], **how),
)
convolve_adjoint.vjp(
    lambda g, out, y, w, size, **how: convolve(g, w, **how),
    lambda g, out, y, w, size, **how: convolve_weight(g, y, kernel=w.shape[2:], **how),
)
convolve_weight.vjp(
    lambda g, out, x, y, kernel, **how: convolve_adjoint(y, g, size=x.shape[2:], **how),
    lambda g, out, x, y, kernel, **how: convolve(x, g, **how),
)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """The convolution (without turning the kernel) of images with kernels.

    Shapes: input (N, C, H, W) or (C, H, W), weight (O, C, KH, KW), bias (O,); out (N, O, OH, OW) or (O, OH, OW).
    padding is a number of zeros, or `valid` (none), or `same` (the output as large as the input, stride 1 only).

    Raises:
        ValueError: shapes that do not fit, a kernel larger than the padded image, a setting out of range.
    """
    input, alone = _batched(input, "conv2d")
    if isinstance(padding, str) and padding not in ("same", "valid"):
        raise ValueError(f"conv2d: padding must be numbers, 'same' or 'valid', got {padding!r}")
    how = settings(stride, 0 if isinstance(padding, str) else padding, dilation)
    _check_kernel(input, weight, bias, weight.shape[:1], channels_axis=1, name="conv2d")
    if padding == "same":
        if how["stride"] != (1, 1):
            raise ValueError("conv2d: padding 'same' needs stride 1")
        missing = [d * (k - 1) for d, k in zip(how["dilation"], weight.shape[2:], strict=True)]
        input = pad(input, [n for m in reversed(missing) for n in (m // 2, m - m // 2)])
    if min(output_size(input.shape[2:], weight.shape[2:], **how)) < 1:
        raise ValueError(f"conv2d: kernel {weight.shape[2:]} is larger than the padded image {input.shape[2:]}")
    return _finished(convolve(input, weight, **how), bias, alone)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """The adjoint of `conv2d` in its input, as a layer: from small images to large ones.

    Shapes: input (N, C, H, W) or (C, H, W), weight (C, O, KH, KW), bias (O,); out (N, O, OH, OW) or (O, OH, OW) with
    OH = (H − 1)·stride − 2·padding + dilation·(KH − 1) + output_padding + 1.  output_padding chooses among the sizes
    that conv2d would make one of.  Dumoulin & Visin 2016, section 4.

    Raises:
        ValueError: shapes that do not fit, an output of no size, output_padding not below stride or dilation.
    """
    input, alone = _batched(input, "conv_transpose2d")
    how = settings(stride, padding, dilation)
    extra = pair(output_padding, "output_padding", 0)
    _check_kernel(input, weight, bias, weight.shape[1:2], channels_axis=0, name="conv_transpose2d")
    if any(e >= max(s, d) for e, s, d in zip(extra, how["stride"], how["dilation"], strict=True)):
        raise ValueError(f"conv_transpose2d: output_padding {extra} must be smaller than stride or dilation")
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(input.shape[2:], weight.shape[2:], *how.values(), extra, strict=True)
    )
    if min(size) < 1:
        raise ValueError(f"conv_transpose2d: the output would have the size {size}")
    return _finished(convolve_adjoint(input, weight, size=size, **how), bias, alone)


def conv2d_weight(
    input: Tensor,
    output: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """The adjoint of `conv2d` in its weight: (N, C, H, W), (N, O, OH, OW) to (O, C, KH, KW).

    Raises:
        ValueError: an output that is not of the size that conv2d makes of the input.
    """
    how = settings(stride, padding, dilation)
    kernel = pair(kernel_size, "kernel_size", 1)
    expected = (input.shape[0], *output_size(input.shape[2:], kernel, **how))
    if (output.shape[0], *output.shape[2:]) != expected:
        raise ValueError(f"conv2d_weight: output must have N, OH, OW = {expected}, got shape {output.shape}")
    return convolve_weight(input, output, kernel=kernel, **how)


def avg_pool2d(
    input: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The means under a window: (N, C, H, W) to (N, C, OH, OW); a convolution of each channel with 1 / (KH · KW).

    With ceil_mode a last window may reach beyond the padding, but not begin there.  Where count_include_pad is
    False the padding does not count in the mean; divisor_override takes the place of the count.

    Raises:
        ValueError: padding of more than half the window, a setting out of range.
    """
    input, alone = _batched(input, "avg_pool2d")
    xp, kernel, padding = array_module(input.data), pair(kernel_size, "kernel_size", 1), pair(padding, "padding", 0)
    stride = pair(stride, "stride", 1) if stride else kernel
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"avg_pool2d: padding {padding} is more than half the window {kernel}")
    window = Tensor(xp.ones((1, 1, *kernel), input.dtype))
    each = input.reshape(input.shape[0] * input.shape[1], 1, *input.shape[2:])
    beyond = [0, 0]
    if ceil_mode:
        for i, (n, k, s, p) in enumerate(zip(input.shape[2:], kernel, stride, padding, strict=True)):
            over = (n + 2 * p - k) % s  # what the last whole window leaves over
            beyond[i] = s - over if over and n + p > (n + 2 * p - k) // s * s + s else 0
    (p, q), (a, b) = padding, beyond
    if divisor_override == 0:
        raise ValueError("avg_pool2d: divisor_override must not be 0")
    counts: Any = divisor_override or math.prod(kernel)
    if divisor_override is None and (ceil_mode or not count_include_pad):
        ones = pad(Tensor(xp.ones((1, 1, *input.shape[2:]), input.dtype)), (q, q, p, p), value=float(count_include_pad))
        counts = conv2d(pad(ones, (0, b, 0, a)), window, stride=stride)
    out = conv2d(pad(each, (q, q + b, p, p + a)), window, stride=stride) / counts
    return _finished(out.reshape(*input.shape[:2], *out.shape[2:]), None, alone)


def settings(stride: int | Pair, padding: int | Pair, dilation: int | Pair) -> dict[str, Pair]:
    """The settings of a convolution for height and width, checked."""
    return {
        "stride": pair(stride, "stride", 1),
        "padding": pair(padding, "padding", 0),
        "dilation": pair(dilation, "dilation", 1),
    }


def pair(value: int | Pair, name: str, least: int) -> Pair:
    """A setting for height and width, checked."""
    both = (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value)) if len(value) else ()
    if len(both) != 2 or any(not isinstance(n, int) or n < least for n in both):
        raise ValueError(f"{name} must be one or two integers of at least {least}, got {value!r}")
    return both


def _batched(input: Tensor, name: str) -> tuple[Tensor, bool]:
    if input.ndim not in (3, 4):
        raise ValueError(f"{name}: input must be (N, C, H, W) or (C, H, W), got shape {input.shape}")
    return (input, False) if input.ndim == 4 else (input.reshape(1, *input.shape), True)


def _check_kernel(input: Any, weight: Any, bias: Any, outputs: Any, channels_axis: int, name: str) -> None:
    if weight.ndim != 4 or weight.shape[channels_axis] != input.shape[1]:
        raise ValueError(f"{name}: weight of shape {weight.shape} does not fit an input of {input.shape[1]} channels")
    if bias is not None and bias.shape != outputs:
        raise ValueError(f"{name}: bias must have shape {outputs}, got {bias.shape}")


def _finished(out: Tensor, bias: Tensor | None, alone: bool) -> Tensor:
    if bias is not None:
        out = out + bias.reshape(1, -1, 1, 1)
    return out.reshape(out.shape[1:]) if alone else out
