"""Convolution on the GPU: each step is a kernel or a cuBLAS product over the whole batch.  See convolution.cu.

The memory layout of images is (N, H, W, C).  See `kernels.convolution`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from nanogen.backend import Array, array_module
from nanogen.kernels.convolution import Functions, channels_last, register
from nanogen.kernels.cuda.launch import covers, cuda_source, launch, launch_grid
from nanogen.kernels.cuda.products import product
from nanogen.kernels.winograd import Pair, Tiling, kernel_gradient, tile_counts, transformed_kernel

SOURCE = cuda_source("convolution")
exact_product = functools.partial(product, exact=True)


def launch_by_rows(name: str, rows: int, channels: int, *arguments: Any) -> None:
    launch(SOURCE, name, *launch_grid(rows, channels), *arguments)


def winograd(x: Array, w: Array, bias: Array | None, y: Array, padding: Pair, F: Tiling, size: Pair) -> Any:
    of_x, out, dw = input_tiles(x, padding, tile_counts(size), F), None, None
    if w is not None:
        made = product(of_x, transformed_kernel(w, F, exact_product))
        out = output_tiles(made, bias, (len(x), *size, len(w)), F).transpose(0, 3, 1, 2)
    if y is not None:
        dw = kernel_gradient(sums_over_tiles(output_tiles_adjoint(y, F), of_x), F, exact_product)
    return out, dw


def winograd_adjoint(y: Array, w: Array, x: Array, padding: Pair, F: Tiling, size: Pair) -> Any:
    of_y, counts, dw = output_tiles_adjoint(y, F), tile_counts(y.shape[2:]), None
    made = product(of_y, transformed_kernel(w, F, exact_product, swapped=True))
    out = input_tiles_adjoint(made, (len(y), *size, w.shape[1]), padding, counts, F).transpose(0, 3, 1, 2)
    if x is not None:
        dw = kernel_gradient(sums_over_tiles(of_y, input_tiles(x, padding, counts, F)), F, exact_product)
    return out, dw


def im2col(
    x: Array, w: Array, bias: Array | None, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
    size: Pair,
) -> Any:  # fmt: skip
    columns, c, out, dw = patches(x, kernel, stride, padding, dilation, size), x.shape[1], None, None
    if w is not None:
        made = product(columns, w.transpose(2, 3, 1, 0).reshape(-1, len(w))).reshape(len(x), *size, len(w))
        if bias is not None:
            made += bias
        out = made.transpose(0, 3, 1, 2)
    if y is not None:
        rows = channels_last(y).reshape(-1, y.shape[1])
        dw = product(rows.T, columns).reshape(-1, *kernel, c).transpose(0, 3, 1, 2)
    return out, dw


def col2im(
    y: Array, w: Array, bias: Array | None, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:  # fmt: skip
    w = dilated(w, dilation)
    (o, c, kh, kw), (oh, ow) = w.shape, y.shape[2:]
    products = product(channels_last(y).reshape(-1, o), w.transpose(0, 2, 3, 1).reshape(o, -1))
    out = array_module(y).empty((len(y), *size, c), y.dtype)
    how = (oh, ow, kh, kw, *stride, *padding)
    launch_by_rows("add_patches", len(y) * math.prod(size), c, products, len(y), *size, c, *how, out)
    if bias is not None:
        out += bias
    return out.transpose(0, 3, 1, 2)


def dilated(w: Array, dilation: Pair) -> Array:
    """The kernel with zeros between its elements."""
    (kh, kw), (dh, dw) = w.shape[2:], dilation
    if dilation == (1, 1):
        return w
    wide = array_module(w).zeros((*w.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1), w.dtype)
    wide[:, :, ::dh, ::dw] = w
    return wide


def patches(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Array:
    """im2col: the pixels under the kernel, a row for each position: (N, C, H, W) to (N · OH · OW, KH · KW · C)."""
    (n, c, h, w), places = x.shape, len(x) * math.prod(size)
    if (kernel, stride, padding, size) == ((1, 1), (1, 1), (0, 0), (h, w)):
        return channels_last(x).reshape(places, c)
    out = array_module(x).empty((places, math.prod(kernel) * c), x.dtype)
    how = (*size, *kernel, *stride, *padding, *dilation)
    launch_by_rows("patches", places, c, channels_last(x), n, h, w, c, *how, out)
    return out


def input_tiles(x: Array, padding: Pair, counts: Pair, F: Tiling) -> Array:
    """Bᵀ d of every tile d; tiles are two blocks apart: (N, C, H, W) to (t², N · tiles, s² · C)."""
    (n, c, h, w), rows = x.shape, len(x) * math.prod(counts) * F.s**2
    out = array_module(x).empty((F.t**2, rows, c), x.dtype)
    launch_by_rows("tiles", rows, c, channels_last(x), n, h, w, c, *counts, F.s, *padding, F.t, out)
    return out.reshape(F.t**2, -1, F.s**2 * c)


def input_tiles_adjoint(products: Array, shape: Pair, padding: Pair, counts: Pair, F: Tiling) -> Array:
    """B m of every tile's products m, summed where tiles overlap: (t², N · tiles, s² · C) to `shape`, (N, H, W, C)."""
    (n, h, w, c), (th, tw), out = shape, counts, array_module(products).empty(shape, products.dtype)
    rows = n * (th + 1) * (tw + 1) * F.s**2
    launch_by_rows("add_tiles", rows, c, products, n, h, w, c, th, tw, F.s, *padding, F.t, out)
    return out


def output_tiles(products: Array, bias: Array | None, shape: Pair, F: Tiling) -> Array:
    """Aᵀ m of every tile's products m, plus a bias: (t², N · tiles, O) to `shape`, (N, OH, OW, O)."""
    (n, h, w, c), counts = shape, tile_counts(shape[1:3])
    out = array_module(products).empty(shape, products.dtype)
    own = products if bias is None else array_module(out).ascontiguousarray(bias)
    how = (int(bias is not None), n, h, w, c, *counts, F.t)
    launch_by_rows("put_tiles", n * math.prod(counts), c, products, own, *how, out)
    return out


def output_tiles_adjoint(y: Array, F: Tiling) -> Array:
    """A y, the adjoint of `output_tiles` without a bias: (N, O, OH, OW) to (t², N · tiles, O)."""
    (n, c, h, w), counts = y.shape, tile_counts(y.shape[2:])
    out = array_module(y).empty((F.t**2, n * math.prod(counts), c), y.dtype)
    launch_by_rows("gradient_tiles", out.shape[1], c, channels_last(y), n, h, w, c, *counts, F.t, out)
    return out


LEAST_SUMS = 1 << 21  # elements of all products: 512 blocks of 64×64, several per multiprocessor of a GPU


def sums_over_tiles(of_y: Array, of_x: Array) -> Array:
    """of_yᵀ of_x for each of the t² coordinates: (t², N · tiles, O), (t², N · tiles, s² · C) to (t², O, s² · C).

    If the result is small, the tiles are split into groups, so that all multiprocessors have work."""
    (coordinates, rows, o), channels = of_y.shape, of_x.shape[2]
    wanted = -(-LEAST_SUMS // (coordinates * o * channels))
    groups = math.gcd(rows, 1 << (wanted - 1).bit_length())
    parts = (coordinates, groups, rows // groups)
    return product(of_y.reshape(*parts, o).swapaxes(2, 3), of_x.reshape(*parts, channels)).sum(axis=1)


def sum_of_pixels(y: Array) -> Array:
    return y.sum(axis=(0, 2, 3))


def has_images(*arrays: Array) -> bool:
    return covers(*arrays) and len(arrays[0]) > 0


register("cuda", Functions(has_images, winograd, winograd_adjoint, im2col, col2im, sum_of_pixels))
