"""Which algorithm computes which convolution, on the CPU and on the GPU.

Each device has four functions.  Each makes one pass over images or gradients and computes up to two results:

- `winograd` and `winograd_adjoint`, for the kernels for which `winograd.tiling` finds a tiling;
- `im2col`: the matrix of patches, times the kernel or times a gradient; and its adjoint `col2im`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nanogen.backend import Array, array_module
from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight, convolve_with_bias, output_size
from nanogen.kernels.winograd import Pair, tiling


class Functions(NamedTuple):
    """The functions of a device.  A result is None if one of its arguments is None.

    Attributes:
        covers: whether the device's kernels support these arrays.
        winograd: (x, w, bias, y, padding, F, size) to `convolve` of x and w, and `convolve_weight` of x and y.
        winograd_adjoint: (y, w, x, padding, F, size) to `convolve_adjoint` of y, w and `convolve_weight` of x, y.
        im2col: (x, w, bias, y, kernel, stride, padding, dilation, size) to the same two results as `winograd`.
        col2im: (y, w, bias, size, stride, padding, dilation) to `convolve_adjoint` of y and w, plus the bias.
        sum_of_pixels: (N, C, H, W) to (C,).
    """

    covers: Callable[..., bool]
    winograd: Callable[..., tuple[Array, Array]]
    winograd_adjoint: Callable[..., tuple[Array, Array]]
    im2col: Callable[..., tuple[Array, Array]]
    col2im: Callable[..., Array]
    sum_of_pixels: Callable[..., Array]


def channels_last(x: Array) -> Array:
    """(N, C, H, W) to a contiguous (N, H, W, C), without a copy if the memory has that layout already."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def rows_of(x: Array) -> Array:
    """(N, C, *) to a contiguous (N, P, C) of P pixels; a view if the memory has that layout already."""
    return array_module(x).ascontiguousarray(x.reshape(*x.shape[:2], math.prod(x.shape[2:])).swapaxes(1, 2))


def images_of(rows: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `rows_of`."""
    return rows.swapaxes(1, 2).reshape(shape)


def flip_kernel(w: Array) -> Array:
    """The kernel of the adjoint: both spatial axes flipped, input and output channels swapped."""
    return w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)


@functools.lru_cache(4096)
def full_padding(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair | None:
    """The padding with which the adjoint is a convolution with the flipped kernel; None if it is not one."""
    found = tuple(d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True))
    return found if stride == (1, 1) and min(found) >= 0 else None


def register(device: str, on: Functions) -> None:
    """Register the device's kernels of convolution, its two adjoints, and convolution with a bias."""

    def forward(x: Array, w: Array, bias: Any, stride: Pair, padding: Pair, dilation: Pair, size: Any) -> Array:
        (o, c), kernel = w.shape[:2], w.shape[2:]
        size = size or output_size(x.shape[2:], kernel, stride, padding, dilation)
        if F := tiling(kernel, stride, dilation, (c, o)):
            return on.winograd(x, w, bias, None, padding, F, size)[0]
        around = full_padding(kernel, stride, padding, dilation)
        if around is not None and kernel != (1, 1) and math.prod(x.shape[2:]) * o < math.prod(size) * c:
            return on.col2im(x, flip_kernel(w), bias, size, stride, around, dilation)  # smaller matrix
        return on.im2col(x, w, bias, None, kernel, stride, padding, dilation, size)[0]

    def adjoint(y: Array, w: Array, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
        around = full_padding(w.shape[2:], stride, padding, dilation)
        if around is not None:
            return forward(y, flip_kernel(w), None, stride, around, dilation, size)
        if F := tiling(w.shape[2:], stride, dilation, w.shape[:2]):
            return on.winograd_adjoint(y, w, None, padding, F, size)[0]
        return on.col2im(y, w, None, size, stride, padding, dilation)

    def weight(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
        c, o, size = x.shape[1], y.shape[1], y.shape[2:]
        if F := tiling(kernel, stride, dilation, (c, o)):
            return on.winograd(x, None, None, y, padding, F, size)[1]
        around = full_padding(kernel, stride, padding, dilation)
        if around is not None and kernel != (1, 1) and math.prod(x.shape[2:]) * o < math.prod(size) * c:
            return flip_kernel(on.im2col(y, None, None, x, kernel, stride, around, dilation, x.shape[2:])[1])
        return on.im2col(x, None, None, y, kernel, stride, padding, dilation, size)[1]

    def gradients(x: Array, w: Array, g: Array, wanted: Any, stride: Pair, padding: Pair, dilation: Pair) -> list[Any]:
        kernel, how = w.shape[2:], (stride, padding, dilation)
        F, around = tiling(kernel, stride, dilation, w.shape[:2]), full_padding(kernel, *how)
        if all(wanted[:2]) and F:
            if around is None:
                return [*on.winograd_adjoint(g, w, x, padding, F, x.shape[2:])]
            dx, dw = on.winograd(g, flip_kernel(w), None, x, around, F, x.shape[2:])
            return [dx, flip_kernel(dw)]
        dx = adjoint(g, w, x.shape[2:], *how) if wanted[0] else None
        return [dx, weight(x, g, kernel, *how) if wanted[1] else None]

    @convolve.kernel(device)
    class Convolve:
        def forward(x, w, *, stride, padding, dilation, size):
            return (forward(x, w, None, stride, padding, dilation, size), None) if on.covers(x, w) else NotImplemented

        def gradient(g, saved, x, w, *, size, wanted, **how):
            return gradients(x, w, g, wanted, **how)

    @convolve_with_bias.kernel(device)
    class ConvolveWithBias:
        def forward(x, w, bias, *, stride, padding, dilation, size):
            how = (stride, padding, dilation, size)
            return (forward(x, w, bias, *how), None) if on.covers(x, w, bias) else NotImplemented

        def gradient(g, saved, x, w, bias, *, size, wanted, **how):
            g = channels_last(g).transpose(0, 3, 1, 2)  # one copy, which both functions below use
            return [*gradients(x, w, g, wanted, **how), on.sum_of_pixels(g) if wanted[2] else None]

    @convolve_adjoint.kernel(device)
    class ConvolveAdjoint:
        def forward(y, w, *, size, stride, padding, dilation):
            return (adjoint(y, w, size, stride, padding, dilation), None) if on.covers(y, w) else NotImplemented

        def gradient(g, saved, y, w, *, size, wanted, stride, padding, dilation):
            F = tiling(w.shape[2:], stride, dilation, w.shape[:2])
            if all(wanted) and F:
                return on.winograd(g, w, None, y, padding, F, y.shape[2:])
            dy = forward(g, w, None, stride, padding, dilation, y.shape[2:]) if wanted[0] else None
            return [dy, weight(g, y, w.shape[2:], stride, padding, dilation) if wanted[1] else None]

    @convolve_weight.kernel(device)
    def _(x, y, *, kernel, stride, padding, dilation):
        return weight(x, y, kernel, stride, padding, dilation) if on.covers(x, y) else NotImplemented
