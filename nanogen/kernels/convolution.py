"""Convolution by products of matrices, on raw arrays.  What is computed is said in `functional.conv`, how, here.

Arrays have the shape (N, C, H, W); results lie in memory as (N, H, W, C), so that patches are copied in long runs and
products of matrices write their results in place.  NumPy's elementwise operations keep that; CuPy's do not, at the
price of a copy.  Images are taken some at a time, as many as stay in the cache from one step to the next, on all
threads.

Three ways, of which `convolve`, `convolve_adjoint` and `convolve_weight` choose:

- *gather*: the patches under the kernel as the rows of a matrix, times the kernel.  Chellapilla et al. 2006.
- *scatter*, its adjoint: pixels times the kernel are patches, which are added up where they overlap.
- *tiles*, for 3×3 kernels: 4 products for 4 pixels of the output in place of 9.  Winograd 1980; Lavin & Gray 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogen.backend import Array, array_module, device_of, in_blocks, resident
from nanogen.kernels.products import matmul, product
from nanogen.kernels.reduction import column_sums

Pair = tuple[int, ...]  # for height and width

# With fewer channels than this on either side the sums of the tiles cost more than the products that they save.
LEAST_CHANNELS_OF_TILES = 32


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """How many places the kernel can stand at: ⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def channels_last(x: Array) -> Array:
    """(N, C, H, W) as a contiguous (N, H, W, C); no copy if the memory lies like that already."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def turned(w: Array) -> Array:
    """The kernel of the adjoint: turned round, inputs and outputs swapped."""
    return w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)


def reach(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair | None:
    """The padding with which the adjoint is a convolution with the turned kernel; None where it is not one."""
    found = tuple(d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True))
    return found if stride == (1, 1) and min(found) >= 0 else None


def suits_tiles(kernel: Pair, stride: Pair, dilation: Pair, channels: Pair) -> bool:
    return (*kernel, *stride, *dilation) == (3, 3, 1, 1, 1, 1) and min(channels) >= LEAST_CHANNELS_OF_TILES


def convolve(x: Array, w: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """(N, C, H, W), (O, C, KH, KW), (O,) to (N, O, OH, OW)."""
    o, c, *_ = w.shape
    kernel: Pair = w.shape[2:]
    size, around = output_size(x.shape[2:], kernel, stride, padding, dilation), reach(kernel, stride, padding, dilation)
    if suits_tiles(kernel, stride, dilation, (c, o)):
        return by_tiles(x, w, bias, padding)
    if around is not None and kernel != (1, 1) and math.prod(x.shape[2:]) * o < math.prod(size) * c:
        return scatter(x, turned(w), bias, size, stride, around, dilation)  # the smaller matrix of patches
    return gather(x, w, bias, stride, padding, dilation)


def convolve_adjoint(y: Array, w: Array, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """(N, O, OH, OW), (O, C, KH, KW) to (N, C, *size)."""
    around = reach(w.shape[2:], stride, padding, dilation)
    if around is not None:
        return convolve(y, turned(w), None, stride, around, dilation)
    return scatter(y, w, None, size, stride, padding, dilation)


def convolve_weight(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """(N, C, H, W), (N, O, OH, OW) to (O, C, *kernel)."""
    c, o, around = x.shape[1], y.shape[1], reach(kernel, stride, padding, dilation)
    if suits_tiles(kernel, stride, dilation, (c, o)):
        return weight_by_tiles(x, y, padding)
    if around is not None and kernel != (1, 1) and math.prod(x.shape[2:]) * o < math.prod(y.shape[2:]) * c:
        return turned(weight_by_gathering(y, x, kernel, stride, around, dilation))  # the smaller matrix of patches
    return weight_by_gathering(x, y, kernel, stride, padding, dilation)


def gradients(
    x: Array, w: Array, g: Array, wanted: Sequence[bool], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Array | None, Array | None]:
    """`convolve_adjoint` of g with w and `convolve_weight` of x and g, the gradients of `convolve` in x and w: those of
    the two that are wanted."""
    kernel, how = w.shape[2:], (stride, padding, dilation)
    if all(wanted) and suits_tiles(kernel, stride, dilation, w.shape[:2]) and reach(kernel, *how) is not None:
        return gradients_by_tiles(x, w, g, padding)
    dx = convolve_adjoint(g, w, x.shape[2:], *how) if wanted[0] else None
    return dx, convolve_weight(x, g, kernel, *how) if wanted[1] else None


def sum_of_pixels(y: Array) -> Array:
    """The adjoint of adding a bias: (N, O, H, W) to (O,)."""
    n, o, h, w = y.shape
    return column_sums(channels_last(y).reshape(n, h * w, o)).sum(axis=0)


# Gather and scatter


def patches(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """The pixels under the kernel, a row a place: (N, C, H, W) to (N · OH · OW, KH · KW · C)."""
    xp, (n, c, h, w) = array_module(x), x.shape
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, padding, dilation
    if (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0):
        return channels_last(x).reshape(n * h * w, c)
    oh, ow = output_size((h, w), kernel, stride, padding, dilation)
    a, b, d, e = (padded := pad(x, padding, (h + 2 * ph, w + 2 * pw))).strides
    shape, strides = (n, oh, ow, kh, kw, c), (a, b * sh, d * sw, b * dh, d * dw, e)
    return xp.lib.stride_tricks.as_strided(padded, shape, strides).reshape(n * oh * ow, kh * kw * c)


def pad(x: Array, padding: Pair, size: Pair) -> Array:
    """(N, C, H, W) in the middle of zeros, or rather `padding` from the top left: (N, *size, C)."""
    (n, c, h, w), (ph, pw) = x.shape, padding
    padded = array_module(x).zeros((n, *size, c), x.dtype)
    padded[:, ph : ph + h, pw : pw + w] = x.transpose(0, 2, 3, 1)
    return padded


def taps(w: Array) -> Array:
    """The kernel with its outputs side by side: (O, C, KH, KW) to (KH, KW, C, O).

    Read from a copy with a channel to spare: where all outputs are a power of two apart they fall on the same few
    lines of the cache, and 128×64×4×4 numbers take 0.4 ms in place of 0.1."""
    o, c, kh, kw = w.shape
    spaced = array_module(w).empty((o, c + 1, kh, kw), w.dtype)[:, :c]
    spaced[...] = w
    return array_module(w).ascontiguousarray(spaced.transpose(2, 3, 1, 0))


def gather(x: Array, w: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """Patches times the kernel."""
    xp, (o, c, *kernel) = array_module(x), w.shape
    size = output_size(x.shape[2:], tuple(kernel), stride, padding, dilation)
    out = xp.empty((x.shape[0], *size, o), xp.result_type(x, w))
    columns = taps(w).reshape(c * math.prod(kernel), o)

    def block(here: slice) -> None:
        rows = patches(x[here], tuple(kernel), stride, padding, dilation)
        there = out[here].reshape(len(rows), o)
        product(rows, columns, out=there)
        if bias is not None:
            there += bias

    in_blocks(block, x, math.prod(size) * (len(columns) + o) * x.itemsize)
    return out.transpose(0, 3, 1, 2)


def weight_by_gathering(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """The patches of x, transposed, times y."""
    c, o, rows = x.shape[1], y.shape[1], channels_last(y)

    def block(here: slice) -> Array:
        return product(rows[here].reshape(-1, o).T, patches(x[here], kernel, stride, padding, dilation))

    blocks = in_blocks(block, x, math.prod(y.shape[2:]) * (math.prod(kernel) * c + o) * x.itemsize)
    return sum(blocks[1:], blocks[0]).reshape(o, *kernel, c).transpose(0, 3, 1, 2)


def scatter(
    y: Array, w: Array, bias: Array | None, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:  # fmt: skip
    """Pixels times the kernel, added up where the kernel stood: (N, O, OH, OW), (O, C, KH, KW) to (N, C, *size).

    As many rows and columns of the kernel as the stride is wide fall on neighbouring pixels and are added at once."""
    xp, (oh, ow), (h, wd), (sh, sw), (ph, pw) = array_module(y), y.shape[2:], size, stride, padding
    w = dilated(w, dilation)
    o, c, kh, kw = w.shape
    out = xp.empty((y.shape[0], h, wd, c), xp.result_type(y, w))
    taps, rows = channels_last(w).reshape(o, kh * kw * c), channels_last(y)
    down, right = max(oh + (kh - 1) // sh, -(-(h + ph) // sh)), max(ow + (kw - 1) // sw, -(-(wd + pw) // sw))

    def block(here: slice) -> None:
        products = product(rows[here].reshape(-1, o), taps).reshape(-1, oh, ow, kh, kw, c).transpose(0, 1, 3, 2, 4, 5)
        sums = xp.zeros((len(products), down, sh, right, sw, c), out.dtype)
        for k, i in enumerate(range(0, kh, sh)):
            for m, j in enumerate(range(0, kw, sw)):
                group = products[:, :, i : i + sh, :, j : j + sw]
                sums[:, k : k + oh, : group.shape[2], m : m + ow, : group.shape[4]] += group
        out[here] = sums.reshape(len(sums), down * sh, right * sw, c)[:, ph : ph + h, pw : pw + wd]
        if bias is not None:
            out[here] += bias

    in_blocks(block, y, oh * ow * (taps.shape[1] + o) * y.itemsize)
    return out.transpose(0, 3, 1, 2)


def dilated(w: Array, dilation: Pair) -> Array:
    """The kernel with zeros between its taps."""
    (kh, kw), (dh, dw) = w.shape[2:], dilation
    if dilation == (1, 1):
        return w
    wide = array_module(w).zeros((*w.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1), w.dtype)
    wide[:, :, ::dh, ::dw] = w
    return wide


# Tiles: F(2×2, 3×3), Lavin & Gray 2016, section 4.1.  In one dimension two outputs of a kernel g of three on an input d
# of four are Aᵀ [(G g) ⊙ (Bᵀ d)]: four products, not six.  In two dimensions it is the same with the Kronecker squares
# of the matrices.  Their numbers are halves and ones: integers stay exact.

INPUT = np.kron(*[np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])] * 2)  # Bᵀ: 16×16
KERNEL = np.kron(*[np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])] * 2)  # G: 16×9
OUTPUT = np.kron(*[np.array([[1, 1, 1, 0], [0, 1, -1, -1]])] * 2)  # Aᵀ: 4×16


def tiles(x: Array, padding: Pair, counts: Pair, dtype: Any) -> Array:
    """Bᵀ d of every tile d of 4×4 pixels, two pixels from the next: (N, C, H, W) to (16, N · tiles, C) of dtype."""
    xp, (n, c, *_), (th, tw) = array_module(x), x.shape, counts
    a, b, d, e = (padded := pad(x, padding, (2 * th + 2, 2 * tw + 2))).strides
    windows = xp.lib.stride_tricks.as_strided(padded, (4, 4, n, th, tw, c), (b, d, a, 2 * b, 2 * d, e))
    sums = product(resident(INPUT, dtype, device_of(x)), windows.reshape(16, n * th * tw * c), exact=True)
    return sums.reshape(16, n * th * tw, c)


def by_tiles(x: Array, w: Array, bias: Array | None, padding: Pair) -> Array:
    """The convolution with a 3×3 kernel: in each of 16 coordinates a product of matrices."""
    xp, (o, c) = array_module(x), w.shape[:2]
    size = output_size(x.shape[2:], (3, 3), (1, 1), padding, (1, 1))
    out = xp.empty((len(x), *size, o), xp.result_type(x, w))
    counts, kernels = tile_counts(size), kernels_of_tiles(w, out.dtype)

    def block(here: slice) -> None:
        put_tiles(product(tiles(x[here], padding, counts, out.dtype), kernels), out[here])
        if bias is not None:
            out[here] += bias

    in_blocks(block, x, tile_bytes(counts, c + o, x))
    return out.transpose(0, 3, 1, 2)


def weight_by_tiles(x: Array, y: Array, padding: Pair) -> Array:
    """The adjoint of `by_tiles` in the kernel: Gᵀ Σ (Bᵀ d) ⊙ (A y)."""
    counts, dtype = tile_counts(y.shape[2:]), array_module(x).result_type(x, y)

    def block(here: slice) -> Array:
        return product(slopes_of_tiles(y[here], dtype).transpose(0, 2, 1), tiles(x[here], padding, counts, dtype))

    return weight_of_tiles(in_blocks(block, x, tile_bytes(counts, x.shape[1] + y.shape[1], x)), KERNEL)


def gradients_by_tiles(x: Array, w: Array, g: Array, padding: Pair) -> tuple[Array, Array]:
    """The gradients of `by_tiles` in x and w from that in its output, with the same tiles for both.

    That in x is a convolution of g; that in w is the turned one in the kernel of a convolution of g that gives x."""
    xp, (o, c), around = array_module(x), w.shape[:2], tuple(2 - p for p in padding)
    dx = xp.empty((len(x), *x.shape[2:], c), xp.result_type(x, w, g))
    counts, kernels = tile_counts(x.shape[2:]), kernels_of_tiles(turned(w), dx.dtype)

    def block(here: slice) -> Array:
        of_g = tiles(g[here], around, counts, dx.dtype)
        put_tiles(product(of_g, kernels), dx[here])
        return product(of_g.transpose(0, 2, 1), slopes_of_tiles(x[here], dx.dtype))

    dw = weight_of_tiles(in_blocks(block, x, tile_bytes(counts, c + o, x)), KERNEL[:, ::-1])
    return dx.transpose(0, 3, 1, 2), dw


def tile_counts(size: Pair) -> Pair:
    """How many tiles, of two pixels of the output each way, there are each way."""
    return tuple((n + 1) // 2 for n in size)


def tile_bytes(counts: Pair, channels: int, x: Array) -> int:
    """How much memory an image's tiles take in so many channels."""
    return 16 * math.prod(counts) * channels * x.itemsize


def kernels_of_tiles(w: Array, dtype: Any) -> Array:
    """G g: (O, C, 3, 3) to (16, C, O)."""
    o, c = w.shape[:2]
    rows = w.transpose(2, 3, 1, 0).reshape(9, c * o)
    return matmul(resident(KERNEL, dtype, device_of(w)), rows, exact=True).reshape(16, c, o)


def put_tiles(products: Array, out: Array) -> None:
    """Aᵀ m of every tile's products m, (16, N · tiles, O), to where its four pixels lie in (N, OH, OW, O)."""
    n, oh, ow, o = out.shape
    sums = product(resident(OUTPUT, out.dtype, device_of(out)), products.reshape(16, -1), exact=True)
    for (i, j), corner in zip(np.ndindex(2, 2), sums.reshape(4, n, *tile_counts((oh, ow)), o), strict=True):
        places = out[:, i::2, j::2]
        places[...] = corner[:, : places.shape[1], : places.shape[2]]


def slopes_of_tiles(y: Array, dtype: Any) -> Array:
    """A y, the adjoint of `put_tiles`: (N, O, OH, OW) to (16, N · tiles, O)."""
    n, o, *size = y.shape
    corners = array_module(y).zeros((4, n, *tile_counts(tuple(size)), o), dtype)
    for (i, j), corner in zip(np.ndindex(2, 2), corners, strict=True):
        places = y.transpose(0, 2, 3, 1)[:, i::2, j::2]
        corner[:, : places.shape[1], : places.shape[2]] = places
    slopes = product(resident(OUTPUT.T, dtype, device_of(y)), corners.reshape(4, -1), exact=True)
    return slopes.reshape(16, -1, o)


def weight_of_tiles(blocks: list[Any], kernel: np.ndarray) -> Array:
    """Gᵀ of the sum of what blocks of images give: (16, O, C) each to (O, C, 3, 3)."""
    slopes = sum(blocks[1:], blocks[0])
    table = resident(kernel, slopes.dtype, device_of(slopes))
    return matmul(slopes.reshape(16, -1).T, table, exact=True).reshape(*slopes.shape[1:], 3, 3)
