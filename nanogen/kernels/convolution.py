"""Convolution by products of matrices, on raw arrays.  What is computed is said in `functional.conv`, how, here.

Arrays have the shape (N, C, H, W); results lie in memory as (N, H, W, C), so that patches are copied in long runs and
products of matrices write their results in place.  NumPy's elementwise operations keep that; CuPy's do not, at the
price of a copy.  Images are taken some at a time, as many as stay in the cache from one step to the next, on all
threads.  In C (`convolution.c`) a thread takes a few through all steps at once; on a GPU (`convolution.cu`) all images
take each step, which is a kernel.

Three ways, of which `convolve`, `convolve_adjoint` and `convolve_weight` choose:

- *gather*: the patches under the kernel as the rows of a matrix, times the kernel.  Chellapilla et al. 2006.
- *scatter*, its adjoint: pixels times the kernel are patches, which are added up where they overlap.
- *tiles*, for 3×3 kernels and for 4×4 ones of stride 2: for a channel and a pixel of the output 4 multiplications in
  place of 9, and 9 in place of 16.  Winograd 1980; Lavin & Gray 2016.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nanogen import compiled
from nanogen.backend import (
    BLOCK_BYTES,
    BLOCKS,
    GROUPS,
    AllThreadsInC,
    Array,
    ByDevice,
    array_module,
    cuda_source,
    device_of,
    in_blocks,
    launch,
    resident,
    shared_out,
)
from nanogen.kernels.products import (
    LINE,
    empty_in_lines,
    gemm_address,
    in_lines,
    kernels_for_small,
    matmul,
    piece,
    product,
)
from nanogen.kernels.reduction import column_sums

Pair = tuple[int, ...]  # for height and width

# With fewer channels than this on either side the sums of the tiles cost more than the products that they save.
LEAST_CHANNELS_OF_TILES = 32


@functools.lru_cache(4096)
def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """How many places the kernel can stand at: ⌊(size + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def channels_last(x: Array) -> Array:
    """(N, C, H, W) as a contiguous (N, H, W, C); no copy if the memory lies like that already."""
    return array_module(x).ascontiguousarray(x.transpose(0, 2, 3, 1))


def in_order(x: Array) -> Array:
    """x (N, C, H, W), once for all who would copy it for themselves, in memory as (N, H, W, C)."""
    return channels_last(x).transpose(0, 3, 1, 2)


def turned(w: Array) -> Array:
    """The kernel of the adjoint: turned round, inputs and outputs swapped."""
    return w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)


@functools.lru_cache(4096)
def reach(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair | None:
    """The padding with which the adjoint is a convolution with the turned kernel; None where it is not one."""
    found = tuple(d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True))
    return found if stride == (1, 1) and min(found) >= 0 else None


def tiling(kernel: Pair, stride: Pair, dilation: Pair, channels: Pair) -> Tiling | None:
    """The tiles that suit a convolution, if any do."""
    found = next((F for F in TILINGS if (kernel, stride) == ((F.r * F.s,) * 2, (F.s,) * 2)), None)
    return found if dilation == (1, 1) and min(channels) >= LEAST_CHANNELS_OF_TILES else None


def convolve(
    x: Array, w: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair, size: Pair | None = None
) -> Array:  # fmt: skip
    """(N, C, H, W), (O, C, KH, KW), (O,) to (N, O, OH, OW).

    `padding` is before the image; `size`, (OH, OW), is that which as much after it gives, or another."""
    o, c, *_ = w.shape
    kernel: Pair = w.shape[2:]
    size = size or output_size(x.shape[2:], kernel, stride, padding, dilation)
    around = reach(kernel, stride, padding, dilation)
    if F := tiling(kernel, stride, dilation, (c, o)):
        return by_tiles(x, w, bias, padding, F, size)
    if around is not None and kernel != (1, 1) and math.prod(x.shape[2:]) * o < math.prod(size) * c:
        return scatter(x, turned(w), bias, size, stride, around, dilation)  # the smaller matrix of patches
    return gather(x, w, bias, stride, padding, dilation, size)


def convolve_adjoint(y: Array, w: Array, size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """(N, O, OH, OW), (O, C, KH, KW) to (N, C, *size)."""
    around = reach(w.shape[2:], stride, padding, dilation)
    if around is not None:
        return convolve(y, turned(w), None, stride, around, dilation, size)
    if F := tiling(w.shape[2:], stride, dilation, w.shape[:2]):
        return adjoint_by_tiles(y, w, size, padding, F)
    return scatter(y, w, None, size, stride, padding, dilation)


def convolve_weight(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """(N, C, H, W), (N, O, OH, OW) to (O, C, *kernel)."""
    c, o, around = x.shape[1], y.shape[1], reach(kernel, stride, padding, dilation)
    if F := tiling(kernel, stride, dilation, (c, o)):
        return weight_by_tiles(x, y, padding, F)
    if around is not None and kernel != (1, 1) and math.prod(x.shape[2:]) * o < math.prod(y.shape[2:]) * c:
        return turned(weight_by_gathering(y, x, kernel, stride, around, dilation))  # the smaller matrix of patches
    return weight_by_gathering(x, y, kernel, stride, padding, dilation)


def gradients(
    x: Array, w: Array, g: Array, wanted: Sequence[bool], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Array | None, Array | None]:
    """`convolve_adjoint` of g with w and `convolve_weight` of x and g, the gradients of `convolve` in x and w: those of
    the two that are wanted."""
    kernel, how = w.shape[2:], (stride, padding, dilation)
    F, around = tiling(kernel, stride, dilation, w.shape[:2]), reach(kernel, *how)
    if all(wanted) and F:
        if around is None:
            return both_adjoints_by_tiles(x, w, g, padding, F)
        dx, dw = both_by_tiles(g, turned(w), x, around, F)
        return dx, turned(dw)
    dx = convolve_adjoint(g, w, x.shape[2:], *how) if wanted[0] else None
    return dx, convolve_weight(x, g, kernel, *how) if wanted[1] else None


def gradients_of_adjoint(
    y: Array, w: Array, g: Array, wanted: Sequence[bool], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Array | None, Array | None]:
    """`convolve` of g with w and `convolve_weight` of g and y, the gradients of `convolve_adjoint` in y and w: those of
    the two that are wanted."""
    kernel, how = w.shape[2:], (stride, padding, dilation)
    F = tiling(kernel, stride, dilation, w.shape[:2])
    if all(wanted) and F:
        return both_by_tiles(g, w, y, padding, F)
    dy = convolve(g, w, None, *how, y.shape[2:]) if wanted[0] else None
    return dy, convolve_weight(g, y, kernel, *how) if wanted[1] else None


def sum_of_pixels(y: Array) -> Array:
    """The adjoint of adding a bias: (N, O, H, W) to (O,)."""
    n, o, h, w = y.shape
    return column_sums(channels_last(y).reshape(n, h * w, o)).sum(axis=0)


# Gather and scatter


def patches(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Array:
    """The pixels under the kernel, a row a place: (N, C, H, W) to (N · OH · OW, KH · KW · C)."""
    n, c, h, w = x.shape
    if (kernel, stride, padding, size) == ((1, 1), (1, 1), (0, 0), (h, w)):
        return channels_last(x).reshape(n * h * w, c)
    return copied_patches(x, kernel, stride, padding, dilation, size)


@ByDevice
def copied_patches(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Array:
    """The same, whatever the kernel, in memory of its own."""
    xp, (n, c, *_), (oh, ow) = array_module(x), x.shape, size
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    seen = ((oh - 1) * sh + dh * (kh - 1) + 1, (ow - 1) * sw + dw * (kw - 1) + 1)
    a, b, d, e = (padded := pad(x, padding, seen)).strides
    shape, strides = (n, oh, ow, kh, kw, c), (a, b * sh, d * sw, b * dh, d * dw, e)
    return in_lines(xp.lib.stride_tricks.as_strided(padded, shape, strides)).reshape(n * oh * ow, kh * kw * c)


def pad(x: Array, padding: Pair, size: Pair) -> Array:
    """(N, C, H, W) in the middle of zeros, or rather `padding` from the top left, as far as it goes: (N, *size, C)."""
    (n, c, h, w), (ph, pw) = x.shape, padding
    padded = array_module(x).zeros((n, *size, c), x.dtype)
    inside = padded[:, ph : ph + h, pw : pw + w]
    inside[...] = x.transpose(0, 2, 3, 1)[:, : inside.shape[1], : inside.shape[2]]
    return padded


def taps(w: Array) -> Array:
    """The kernel with its outputs side by side: (O, C, KH, KW) to (KH, KW, C, O)."""
    return in_lines(spaced(w).transpose(2, 3, 1, 0))


def spaced(w: Array) -> Array:
    """The kernel, in memory with a channel to spare where its outputs are a multiple of 4096 bytes apart: these fall on
    the same few lines of the cache, and to turn 128×64×4×4 numbers round takes 0.4 ms in place of 0.1."""
    o, c, kh, kw = w.shape
    if w.strides[0] % 4096 or not isinstance(w, np.ndarray):
        return w
    copy = array_module(w).empty((o, c + 1, kh, kw), w.dtype)[:, :c]
    copy[...] = w
    return copy


@ByDevice
def gather(
    x: Array, w: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair, size: Pair
) -> Array:  # fmt: skip
    """Patches times the kernel."""
    xp, (o, c, *kernel) = array_module(x), w.shape
    out = xp.empty((x.shape[0], *size, o), xp.result_type(x, w))
    columns = taps(w).reshape(c * math.prod(kernel), o)

    def block(here: slice) -> None:
        rows = patches(x[here], tuple(kernel), stride, padding, dilation, size)
        there = out[here].reshape(len(rows), o)
        product(rows, columns, out=there)
        if bias is not None:
            there += bias

    in_blocks(block, x, math.prod(size) * (len(columns) + o) * x.itemsize)
    return out.transpose(0, 3, 1, 2)


@ByDevice
def weight_by_gathering(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """The patches of x, transposed, times y."""
    c, o, rows = x.shape[1], y.shape[1], channels_last(y)

    def block(here: slice) -> Array:
        return product(rows[here].reshape(-1, o).T, patches(x[here], kernel, stride, padding, dilation, y.shape[2:]))

    blocks = in_blocks(block, x, math.prod(y.shape[2:]) * (math.prod(kernel) * c + o) * x.itemsize)
    return sum(blocks[1:], blocks[0]).reshape(o, *kernel, c).transpose(0, 3, 1, 2)


@ByDevice
def scatter(
    y: Array, w: Array, bias: Array | None, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:  # fmt: skip
    """Pixels times the kernel, added up where the kernel stood: (N, O, OH, OW), (O, C, KH, KW) to (N, C, *size)."""
    xp, places = array_module(y), math.prod(y.shape[2:])
    w = dilated(w, dilation)
    o, c, kh, kw = w.shape
    out = xp.empty((y.shape[0], *size, c), xp.result_type(y, w))
    taps, rows = in_lines(w.transpose(0, 2, 3, 1)).reshape(o, kh * kw * c), channels_last(y)

    def block(here: slice) -> None:
        products = product(rows[here].reshape(-1, o), taps).reshape(-1, *y.shape[2:], kh, kw, c)
        add_patches(products, out[here], stride, padding)
        if bias is not None:
            out[here] += bias

    in_blocks(block, y, places * (taps.shape[1] + o) * y.itemsize)
    return out.transpose(0, 3, 1, 2)


@ByDevice
def add_patches(products: Array, out: Array, stride: Pair, padding: Pair) -> None:
    """The adjoint of `patches`: (N, OH, OW, KH, KW, C) to (N, H, W, C)."""
    xp, (_, oh, ow, kh, kw, c), (n, h, w, _) = array_module(out), products.shape, out.shape
    (sh, sw), (ph, pw) = stride, padding
    down, right = max(oh + (kh - 1) // sh, -(-(h + ph) // sh)), max(ow + (kw - 1) // sw, -(-(w + pw) // sw))
    sums = xp.empty((n, down, sh, right, sw, c), out.dtype)
    add_overlapping(products.transpose(0, 1, 3, 2, 4, 5), sums)
    out[...] = sums.reshape(n, down * sh, right * sw, c)[:, ph : ph + h, pw : pw + w]


def add_overlapping(patches: Array, sums: Array) -> None:
    """Patches (N, OH, KH, OW, KW, …), of which each lies a stride from the next, to sums (N, DOWN, SH, RIGHT, SW, …).

    As many of a patch's rows and columns as the stride is wide fall on neighbouring places and are added at once."""
    (_, oh, kh, ow, kw, *_), (_, _, sh, _, sw, *_) = patches.shape, sums.shape
    for beyond in (sums[:, oh:], sums[:, :, kh:], sums[:, :, :, ow:], sums[:, :, :, :, kw:]):
        beyond[...] = 0  # where none of the first patches lie
    for k, i in enumerate(range(0, kh, sh)):
        for m, j in enumerate(range(0, kw, sw)):
            group = patches[:, :, i : i + sh, :, j : j + sw]
            places = sums[:, k : k + oh, : group.shape[2], m : m + ow, : group.shape[4]]
            if k or m:
                places += group
            else:
                places[...] = group


def dilated(w: Array, dilation: Pair) -> Array:
    """The kernel with zeros between its taps."""
    (kh, kw), (dh, dw) = w.shape[2:], dilation
    if dilation == (1, 1):
        return w
    wide = array_module(w).zeros((*w.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1), w.dtype)
    wide[:, :, ::dh, ::dw] = w
    return wide


# Tiles: F(2×2, r×r), Lavin & Gray 2016, section 4.  In one dimension two outputs of a kernel g of r numbers on an input
# d of r + 1 are Aᵀ [(G g) ⊙ (Bᵀ d)]: r + 1 products, not 2 r.  In two dimensions it is the same with the Kronecker
# squares of the matrices.  Their numbers are halves and ones: integers stay exact.  A kernel of 2 r and a stride of 2
# are a kernel of r and a stride of 1 on blocks of 2×2 pixels, whose four pixels are as many channels.


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the 2×2 pixels of the output


class Tiling(NamedTuple):
    """F(2×2, r×r) on blocks of s×s pixels: a convolution with a kernel of r·s and a stride of s, each way.

    A tile has t×t blocks, t = r + 1, and 2×2 pixels of the output."""

    r: int
    s: int
    input: np.ndarray  # Bᵀ: t²×t²
    kernel: np.ndarray  # G: t²×r²
    output: np.ndarray  # Aᵀ: 4×t²

    @property
    def t(self) -> int:
        return self.r + 1

    def item_bytes(self, counts: Pair, channels: Pair, like: Array) -> int:
        """How much memory an image's tiles take, with so many channels in and out."""
        inputs, outputs = channels
        return self.t**2 * math.prod(counts) * (self.s**2 * inputs + outputs) * like.itemsize


def tile_counts(size: Pair) -> Pair:
    """How many tiles there are each way, for so many pixels of the output."""
    return tuple((n + 1) // 2 for n in size)


def squared(*rows: Sequence[float]) -> np.ndarray:
    """The Kronecker square of a matrix."""
    return np.kron(rows, rows)


TILINGS = (
    Tiling(  # section 4.1
        r=3,
        s=1,
        input=squared([1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]),
        kernel=squared([1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]),
        output=squared([1, 1, 1, 0], [0, 1, -1, -1]),
    ),
    Tiling(  # d₀ g₀ + d₁ g₁ = (d₀ − d₁) g₀ + d₁ (g₀ + g₁) and d₁ g₀ + d₂ g₁ = d₁ (g₀ + g₁) + (d₂ − d₁) g₁
        r=2,
        s=2,
        input=squared([1, -1, 0], [0, 1, 0], [0, -1, 1]),
        kernel=squared([1, 0], [1, 1], [0, 1]),
        output=squared([1, 1, 0], [0, 1, 1]),
    ),
)


@ByDevice
def by_tiles(x: Array, w: Array, bias: Array | None, padding: Pair, F: Tiling, size: Pair) -> Array:
    """The convolution with a kernel of r·s: in each of t² coordinates a product of matrices."""
    xp, (o, c, *_) = array_module(x), w.shape
    out = xp.empty((len(x), *size, o), xp.result_type(x, w))
    counts, kernels = tile_counts(size), kernels_of_tiles(w, out.dtype, F)

    def block(here: slice) -> None:
        put_tiles(product(tiles(x[here], padding, counts, out.dtype, F), kernels), bias, out[here], F)

    in_blocks(block, x, F.item_bytes(counts, (c, o), x))
    return out.transpose(0, 3, 1, 2)


@ByDevice
def adjoint_by_tiles(y: Array, w: Array, size: Pair, padding: Pair, F: Tiling) -> Array:
    """The adjoint of `by_tiles` in the image: B [(G g) ⊙ (A y)] of every tile, added up where they overlap."""
    (o, c), counts = w.shape[:2], tile_counts(y.shape[2:])
    out = array_module(y).empty((len(y), *size, c), array_module(y).result_type(y, w))
    kernels = kernels_of_tiles(w, out.dtype, F, swapped=True)

    def block(here: slice) -> None:
        add_tiles(product(slopes_of_tiles(y[here], out.dtype, F), kernels), out[here], padding, counts, F)

    in_blocks(block, y, F.item_bytes(counts, (c, o), y))
    return out.transpose(0, 3, 1, 2)


@ByDevice
def weight_by_tiles(x: Array, y: Array, padding: Pair, F: Tiling) -> Array:
    """The adjoint of `by_tiles` in the kernel: Gᵀ Σ (Bᵀ d) ⊙ (A y)."""
    counts, dtype = tile_counts(y.shape[2:]), array_module(x).result_type(x, y)

    def block(here: slice) -> Array:
        return sums_over_tiles(slopes_of_tiles(y[here], dtype, F), tiles(x[here], padding, counts, dtype, F))

    return weight_of_tiles(in_blocks(block, x, F.item_bytes(counts, (x.shape[1], y.shape[1]), x)), F)


@ByDevice
def both_by_tiles(x: Array, w: Array, y: Array, padding: Pair, F: Tiling) -> tuple[Array, Array]:
    """`by_tiles` of x and w and `weight_by_tiles` of x and y, with the same tiles of x."""
    (o, c), counts = w.shape[:2], tile_counts(y.shape[2:])
    out = array_module(x).empty((len(x), *y.shape[2:], o), array_module(x).result_type(x, w, y))
    kernels = kernels_of_tiles(w, out.dtype, F)

    def block(here: slice) -> Array:
        of_x = tiles(x[here], padding, counts, out.dtype, F)
        put_tiles(product(of_x, kernels), None, out[here], F)
        return sums_over_tiles(slopes_of_tiles(y[here], out.dtype, F), of_x)

    slopes = in_blocks(block, x, F.item_bytes(counts, (c, o), x))
    return out.transpose(0, 3, 1, 2), weight_of_tiles(slopes, F)


@ByDevice
def both_adjoints_by_tiles(x: Array, w: Array, y: Array, padding: Pair, F: Tiling) -> tuple[Array, Array]:
    """`adjoint_by_tiles` of y and w and `weight_by_tiles` of x and y, with the same slopes of y."""
    (o, c), counts = w.shape[:2], tile_counts(y.shape[2:])
    out = array_module(x).empty((len(y), *x.shape[2:], c), array_module(x).result_type(x, w, y))
    kernels = kernels_of_tiles(w, out.dtype, F, swapped=True)

    def block(here: slice) -> Array:
        of_y = slopes_of_tiles(y[here], out.dtype, F)
        add_tiles(product(of_y, kernels), out[here], padding, counts, F)
        return sums_over_tiles(of_y, tiles(x[here], padding, counts, out.dtype, F))

    slopes = in_blocks(block, x, F.item_bytes(counts, (c, o), x))
    return out.transpose(0, 3, 1, 2), weight_of_tiles(slopes, F)


@ByDevice
def tiles(x: Array, padding: Pair, counts: Pair, dtype: Any, F: Tiling) -> Array:
    """Bᵀ d of every tile d, two blocks from the next: (N, C, H, W) to (t², N · tiles, s² · C) of dtype."""
    xp, (n, c, *_), (th, tw), s, t = array_module(x), x.shape, counts, F.s, F.t
    padded = pad(x, padding, (s * (2 * th + t - 2), s * (2 * tw + t - 2)))
    a, b, d, e = padded.strides
    shape, strides = (t, t, n, th, tw, s, s * c), (s * b, s * d, a, 2 * s * b, 2 * s * d, b, e)
    windows = in_lines(xp.lib.stride_tricks.as_strided(padded, shape, strides)).reshape(t * t, -1)
    return product(resident(F.input, dtype, device_of(x)), windows).reshape(t * t, n * th * tw, s * s * c)


@ByDevice
def add_tiles(products: Array, out: Array, padding: Pair, counts: Pair, F: Tiling) -> None:
    """B m of every tile's products m, the adjoint of `tiles`: (t², N · tiles, s² · C) to (N, H, W, C)."""
    xp, (n, h, w, c), (ph, pw), (th, tw), s, t = array_module(out), out.shape, padding, counts, F.s, F.t
    table = resident(F.input.T, out.dtype, device_of(out))
    patches = product(table, products.reshape(t * t, -1)).reshape(t, t, n, th, tw, s, s * c)
    sums = xp.empty((n, th + 1, 2, s, tw + 1, 2, s * c), out.dtype)
    add_overlapping(patches.transpose(2, 3, 0, 4, 1, 5, 6), sums.transpose(0, 1, 2, 4, 5, 3, 6))
    out[...] = sums.reshape(n, 2 * s * (th + 1), 2 * s * (tw + 1), c)[:, ph : ph + h, pw : pw + w]


def kernels_of_tiles(w: Array, dtype: Any, F: Tiling, swapped: bool = False) -> Array:
    """G g: (O, C, KH, KW) to (t², s² · C, O), or swapped, (t², O, s² · C)."""
    (o, c), r, s = w.shape[:2], F.r, F.s
    order, shape = ((0, 3, 5, 1), (o, s * s * c)) if swapped else ((3, 5, 1, 0), (s * s * c, o))
    rows = spaced(w).reshape(o, c, r, s, r, s).transpose(2, 4, *order).reshape(r * r, s * s * c * o)
    return matmul(resident(F.kernel, dtype, device_of(w)), rows, exact=True).reshape(F.t**2, *shape)


def weight_of_tiles(blocks: list[Any], F: Tiling) -> Array:
    """Gᵀ of the sum of what blocks of images give, the adjoint of `kernels_of_tiles`: (t², O, s² · C) each to
    (O, C, KH, KW)."""
    slopes, r, s = sum(blocks[1:], blocks[0]), F.r, F.s
    table, o = resident(F.kernel.T, slopes.dtype, device_of(slopes)), slopes.shape[1]
    taps = matmul(table, slopes.reshape(F.t**2, -1), exact=True).reshape(r, r, o, s, s, -1)
    return taps.transpose(2, 0, 3, 1, 4, 5).reshape(o, r * s, r * s, -1).transpose(0, 3, 1, 2)


@ByDevice
def put_tiles(products: Array, bias: Array | None, out: Array, F: Tiling) -> None:
    """Aᵀ m of every tile's products m, (t², N · tiles, O), and a bias, to its four pixels' place in (N, OH, OW, O)."""
    n, oh, ow, o = out.shape
    sums = product(resident(F.output, out.dtype, device_of(out)), products.reshape(F.t**2, -1))
    for (i, j), corner in zip(CORNERS, sums.reshape(4, n, *tile_counts((oh, ow)), o), strict=True):
        places = out[:, i::2, j::2]
        places[...] = corner[:, : places.shape[1], : places.shape[2]]
    if bias is not None:
        out += bias


@ByDevice
def slopes_of_tiles(y: Array, dtype: Any, F: Tiling) -> Array:
    """A y, the adjoint of `put_tiles`: (N, O, OH, OW) to (t², N · tiles, O)."""
    n, o, *size = y.shape
    corners = array_module(y).zeros((4, n, *tile_counts(tuple(size)), o), dtype)
    for (i, j), corner in zip(CORNERS, corners, strict=True):
        places = y.transpose(0, 2, 3, 1)[:, i::2, j::2]
        corner[:, : places.shape[1], : places.shape[2]] = places
    slopes = product(resident(F.output.T, dtype, device_of(y)), corners.reshape(4, -1))
    return slopes.reshape(F.t**2, -1, o)


@ByDevice
def sums_over_tiles(slopes: Array, of_x: Array) -> Array:
    """In each coordinate the slopes, transposed, times the tiles: (t², N · tiles, O), (t², N · tiles, s² · C) to
    (t², O, s² · C)."""
    return product(slopes.transpose(0, 2, 1), of_x)


# On a GPU: a kernel before a product, and one after it


SOURCE = cuda_source("convolution")


def launch_by_rows(name: str, rows: int, channels: int, *arguments: Any) -> None:
    launch(SOURCE, name, *shared_out(rows, channels), *arguments)


@tiles.on_gpu
def _(x: Array, padding: Pair, counts: Pair, dtype: Any, F: Tiling) -> Array:
    xp, (n, c, h, w), rows = array_module(x), x.shape, len(x) * math.prod(counts) * F.s**2
    out = xp.empty((F.t**2, rows, c), dtype)
    x = channels_last(x.astype(dtype, copy=False))
    launch_by_rows("tiles", rows, c, x, n, h, w, c, *counts, F.s, *padding, F.t, out)
    return out.reshape(F.t**2, -1, F.s**2 * c)


@add_tiles.on_gpu
def _(products: Array, out: Array, padding: Pair, counts: Pair, F: Tiling) -> None:
    (n, h, w, c), (th, tw) = out.shape, counts
    rows = n * (th + 1) * (tw + 1) * F.s**2
    launch_by_rows("add_tiles", rows, c, products, n, h, w, c, th, tw, F.s, *padding, F.t, out)


@put_tiles.on_gpu
def _(products: Array, bias: Array | None, out: Array, F: Tiling) -> None:
    (n, h, w, c), counts = out.shape, tile_counts(out.shape[1:3])
    own = products if bias is None else array_module(out).ascontiguousarray(bias, out.dtype)
    given = (products, own, int(bias is not None), n, h, w, c, *counts, F.t, out)
    launch_by_rows("put_tiles", n * math.prod(counts), c, *given)


@slopes_of_tiles.on_gpu
def _(y: Array, dtype: Any, F: Tiling) -> Array:
    xp, (n, c, h, w), counts = array_module(y), y.shape, tile_counts(y.shape[2:])
    out = xp.empty((F.t**2, n * math.prod(counts), c), dtype)
    y = channels_last(y.astype(dtype, copy=False))
    launch_by_rows("slopes_of_tiles", out.shape[1], c, y, n, h, w, c, *counts, F.t, out)
    return out


@copied_patches.on_gpu
def _(x: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> Array:
    (n, c, h, w), places = x.shape, len(x) * math.prod(size)
    out = array_module(x).empty((places, math.prod(kernel) * c), x.dtype)
    how = (*size, *kernel, *stride, *padding, *dilation)
    launch_by_rows("patches", places, c, channels_last(x), n, h, w, c, *how, out)
    return out


@add_patches.on_gpu
def _(products: Array, out: Array, stride: Pair, padding: Pair) -> None:
    (_, oh, ow, kh, kw, c), (n, h, w, _) = products.shape, out.shape
    how = (oh, ow, kh, kw, *stride, *padding)
    launch_by_rows("add_patches", n * h * w, c, products, n, h, w, c, *how, out)


LEAST_SUMS = 1 << 21  # numbers of all products: 512 squares of 64×64, some for each of a GPU's multiprocessors


@sums_over_tiles.on_gpu
def _(slopes: Array, of_x: Array) -> Array:
    """Few sums over many tiles: in groups of tiles, so that all multiprocessors have work."""
    (coordinates, rows, o), channels = slopes.shape, of_x.shape[2]
    wanted = -(-LEAST_SUMS // (coordinates * o * channels))
    groups = math.gcd(rows, 1 << (wanted - 1).bit_length())
    parts = (coordinates, groups, rows // groups)
    return product(slopes.reshape(*parts, o).swapaxes(2, 3), of_x.reshape(*parts, channels)).sum(axis=1)


# The same in C: by tiles and by patches, each a function that goes through images and one that goes through slopes


CHUNK_BYTES = BLOCK_BYTES // 8  # about what a thread's images take: half of a core's own cache


class Job(NamedTuple):
    """How C goes through some images: what `Job` in convolution.c has, in how many groups, with how much memory."""

    numbers: np.ndarray
    groups: int
    memory: int  # numbers, of all groups

    def run(self, name: str, *arrays: Array) -> None:
        """Call a function of convolution.c with these arrays, the first of which is there."""
        dtype = arrays[0].dtype
        with AllThreadsInC():
            memory = empty_in_lines((self.memory,), dtype)
            compiled.call(name, *arrays, memory, gemm_address(dtype.char), self.numbers)


@functools.lru_cache(4096)
def job(x: Pair, y: Pair, lines: int, line: int, row: int, count: int, dtype: np.dtype, small: bool, how: Pair) -> Job:
    """For images x (N, C, H, W) and y (N, O, OH, OW).

    Args:
        lines: of an image, each of which is `line` rows of each of `count` matrices.
        row: how many numbers a row has before the product with the kernel; after it there are O.
        small: whether the BLAS has kernels for small matrices.
        how: what C is told besides."""
    (n, c, *size), (_, o, *places), itemsize = x, y, dtype.itemsize
    of_line, of_kernel = count * line * (row + o), count * row * o
    # A group reads the whole kernel and has a gradient of its size, so its images have as many numbers at least.
    groups = min(GROUPS, min(n, n * lines * of_line // of_kernel) // BLOCKS * BLOCKS) or 1
    room = CHUNK_BYTES if groups > 1 else CHUNK_BYTES * GROUPS  # where there is one group, all threads work at it
    fit = max(room // (of_line * itemsize), 1)  # lines, of as many images as are whole
    images, lines = min(max(fit // lines, 1), -(-n // groups)), min(fit, lines)
    groups, deep = min(groups, -(-n // images)), images * lines * line
    products = ((deep, o, row, False), (deep, row, o, False), (o, row, deep, True))
    pieces = [piece(BLOCKS, m, across, k, turned, False, small)[:3] for m, across, k, turned in products]
    memory = -(-(images * lines * of_line + (1 + images * lines) * max(c, o)) * itemsize // LINE) * LINE // itemsize
    numbers = [n, *size, c, *places, o, images, lines, groups, memory, *itertools.chain(*pieces), *how]
    return Job(np.array(numbers, np.int64), groups, groups * memory)


def job_of_tiles(x: Pair, y: Pair, padding: Pair, F: Tiling, dtype: np.dtype) -> Job:
    counts = tile_counts(y[2:])
    how = (*counts, F.s, *padding, F.t, 0, 0)
    return job(x, y, *counts, F.s**2 * x[1], F.t**2, dtype, kernels_for_small(), how)


def job_of_patches(x: Pair, y: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, dtype: np.dtype) -> Job:
    how = (*kernel, *stride, *padding, *dilation)
    return job(x, y, *y[2:], math.prod(kernel) * x[1], 1, dtype, kernels_for_small(), how)


def as_rows(x: Array, dtype: np.dtype) -> Array:
    """Images as C takes them, or None."""
    return None if x is None else channels_last(x.astype(dtype, copy=False))


def as_bias(bias: Array | None, dtype: np.dtype) -> Array | None:
    return None if bias is None else np.ascontiguousarray(bias, dtype)


def in_c(function: ByDevice) -> Callable[..., Any]:
    """Declare a function's form in C, which needs the BLAS that NumPy has, and images."""

    def declare(form: Callable[..., Any]) -> Callable[..., Any]:
        def either(x: Array, *arguments: Any) -> Any:
            return (form if gemm_address(x.dtype.char) and len(x) else function.form)(x, *arguments)

        return function.in_c(either)

    return declare


def images_by_tiles(
    x: Array, w: Array, bias: Array | None, y: Array, padding: Pair, F: Tiling, size: Pair
) -> tuple[Array, Array]:  # fmt: skip
    """`by_tiles` of x and w; `weight_by_tiles` of x and y; with the same tiles.  None where w or y is None."""
    dtype = np.result_type(*[a for a in (x, w, y) if a is not None])
    (n, c, *_), o = x.shape, len(w) if w is not None else y.shape[1]
    job = job_of_tiles(x.shape, (n, o, *size), padding, F, dtype)
    kernels: Any = None if w is None else kernels_of_tiles(w, dtype, F)
    out: Any = None if w is None else np.empty((n, *size, o), dtype)
    slopes: Any = None if y is None else np.empty((job.groups, F.t**2, o, F.s**2 * c), dtype)
    job.run("images_by_tiles", as_rows(x, dtype), as_rows(y, dtype), kernels, as_bias(bias, dtype), out, slopes)
    return out if w is None else out.transpose(0, 3, 1, 2), slopes if y is None else weight_of_tiles([slopes[0]], F)


def slopes_by_tiles(y: Array, w: Array, x: Array, padding: Pair, F: Tiling, size: Pair) -> tuple[Array, Array]:
    """`adjoint_by_tiles` of y and w; `weight_by_tiles` of x and y; with the same slopes.  None where x is None."""
    dtype = np.result_type(*[a for a in (x, w, y) if a is not None])
    n, (o, c, *_) = len(y), w.shape
    job = job_of_tiles((n, c, *size), y.shape, padding, F, dtype)
    kernels, out = kernels_of_tiles(w, dtype, F, swapped=True), np.empty((n, *size, c), dtype)
    slopes: Any = None if x is None else np.empty((job.groups, F.t**2, o, F.s**2 * c), dtype)
    job.run("slopes_by_tiles", as_rows(y, dtype), as_rows(x, dtype), kernels, out, slopes)
    return out.transpose(0, 3, 1, 2), slopes if x is None else weight_of_tiles([slopes[0]], F)


@in_c(by_tiles)
def _(x: Array, w: Array, bias: Array | None, padding: Pair, F: Tiling, size: Pair) -> Array:
    return images_by_tiles(x, w, bias, None, padding, F, size)[0]


@in_c(weight_by_tiles)
def _(x: Array, y: Array, padding: Pair, F: Tiling) -> Array:
    return images_by_tiles(x, None, None, y, padding, F, y.shape[2:])[1]


@in_c(both_by_tiles)
def _(x: Array, w: Array, y: Array, padding: Pair, F: Tiling) -> tuple[Array, Array]:
    return images_by_tiles(x, w, None, y, padding, F, y.shape[2:])


@in_c(adjoint_by_tiles)
def _(y: Array, w: Array, size: Pair, padding: Pair, F: Tiling) -> Array:
    return slopes_by_tiles(y, w, None, padding, F, size)[0]


@in_c(both_adjoints_by_tiles)
def _(x: Array, w: Array, y: Array, padding: Pair, F: Tiling) -> tuple[Array, Array]:
    return slopes_by_tiles(y, w, x, padding, F, x.shape[2:])


@in_c(gather)
def _(
    x: Array, w: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair, size: Pair
) -> Array:  # fmt: skip
    dtype, (o, _, *kernel) = np.result_type(x, w), w.shape
    job = job_of_patches(x.shape, (len(x), o, *size), tuple(kernel), stride, padding, dilation, dtype)
    columns, out = taps(w.astype(dtype, copy=False)), np.empty((len(x), *size, o), dtype)
    job.run("images_by_patches", as_rows(x, dtype), None, columns, as_bias(bias, dtype), out, None)
    return out.transpose(0, 3, 1, 2)


@in_c(weight_by_gathering)
def _(x: Array, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Array:
    dtype = np.result_type(x, y)
    job = job_of_patches(x.shape, y.shape, kernel, stride, padding, dilation, dtype)
    slopes = np.empty((job.groups, y.shape[1], *kernel, x.shape[1]), dtype)
    job.run("images_by_patches", as_rows(x, dtype), as_rows(y, dtype), None, None, None, slopes)
    return slopes[0].transpose(0, 3, 1, 2)


@in_c(scatter)
def _(
    y: Array, w: Array, bias: Array | None, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:  # fmt: skip
    dtype, (_, c, *kernel) = np.result_type(y, w), w.shape
    job = job_of_patches((len(y), c, *size), y.shape, tuple(kernel), stride, padding, dilation, dtype)
    rows, out = in_lines(w.astype(dtype, copy=False).transpose(0, 2, 3, 1)), np.empty((len(y), *size, c), dtype)
    job.run("slopes_by_patches", as_rows(y, dtype), rows, as_bias(bias, dtype), out)
    return out.transpose(0, 3, 1, 2)
