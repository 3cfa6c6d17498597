"""Convolution in C: a chunk of images at a time, small enough to stay in a core's cache from one step to the next.

Arrays have the shape (N, C, H, W) and the memory layout (N, H, W, C).  So patches are copied in long contiguous runs,
and matrix products write their results in place.  See convolution.c and `kernels.convolution`.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from typing import Any, NamedTuple

import numpy as np

from nanogen.backend import Array
from nanogen.kernels.convolution import Functions, channels_last, register
from nanogen.kernels.cpu.compiled import call, covers
from nanogen.kernels.cpu.products import aligned, aligned_empty, gemm_address, kernels_for_small, matmul, piece
from nanogen.kernels.winograd import Pair, Tiling, kernel_gradient, tile_counts, transformed_kernel

BLOCKS = 4  # the number of groups of images is a multiple of this, or 1
GROUPS = -(-(os.cpu_count() or 1) // BLOCKS) * BLOCKS  # at most: one per thread, rounded up
CHUNK_BYTES = 1 << 19  # of a thread's chunk of images: half of an L2 cache, or less


class Job(NamedTuple):
    """`Job` of convolution.c as an array of integers, with the number of groups and the size of their memory."""

    numbers: np.ndarray
    groups: int
    memory: int  # elements, of all groups together

    def run(self, name: str, *arrays: Array) -> None:
        """Call a function of convolution.c with these arrays.  Only the first one must not be None."""
        dtype = arrays[0].dtype
        call(name, *arrays, aligned_empty((self.memory,), dtype), gemm_address(dtype.char), self.numbers)


@functools.lru_cache(4096)
def job(x: Pair, y: Pair, lines: int, line: int, row: int, count: int, dtype: np.dtype, small: bool, how: Pair) -> Job:
    """The job for images of shapes x (N, C, H, W) and y (N, O, OH, OW).

    Args:
        lines: the number of lines of an image.
        line: the number of rows of a line, in each of the `count` matrices.
        row: the length of a row before the product with the kernel; after it the length is O.
        small: whether the BLAS has kernels for small matrices.
        how: the integers at the end of C's `Job`."""
    (n, c, *size), (_, o, *places), itemsize = x, y, dtype.itemsize
    of_line, of_kernel = count * line * (row + o), count * row * o
    # Each group reads the whole kernel and writes a gradient of that size, so its images must be at least as large.
    groups = min(GROUPS, min(n, n * lines * of_line // of_kernel) // BLOCKS * BLOCKS) or 1
    room = CHUNK_BYTES if groups > 1 else CHUNK_BYTES * GROUPS  # all threads work on a single group
    fit = max(room // (of_line * itemsize), 1)  # lines, of whole images if possible
    images, lines = min(max(fit // lines, 1), -(-n // groups)), min(fit, lines)
    groups, deep = min(groups, -(-n // images)), images * lines * line
    products = ((deep, o, row, False), (deep, row, o, False), (o, row, deep, True))
    pieces = [piece(BLOCKS, m, across, k, transposed, False, small)[:3] for m, across, k, transposed in products]
    used, aligned_to = images * lines * of_line + (1 + images * lines) * max(c, o), 64 // itemsize
    memory = -(-used // aligned_to) * aligned_to  # whole cache lines
    numbers = [n, *size, c, *places, o, images, lines, groups, memory, *itertools.chain(*pieces), *how]
    return Job(np.array(numbers, np.int64), groups, groups * memory)


def winograd_job(x: Pair, y: Pair, padding: Pair, F: Tiling, dtype: np.dtype) -> Job:
    counts = tile_counts(y[2:])
    how = (*counts, F.s, *padding, F.t, 0, 0)
    return job(x, y, *counts, F.s**2 * x[1], F.t**2, dtype, kernels_for_small(), how)


def im2col_job(x: Pair, y: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, dtype: np.dtype) -> Job:
    how = (*kernel, *stride, *padding, *dilation)
    return job(x, y, *y[2:], math.prod(kernel) * x[1], 1, dtype, kernels_for_small(), how)


def rows(x: Array) -> Array:
    """Images (N, C, H, W) as contiguous (N, H, W, C), or None."""
    return None if x is None else channels_last(x)


def contiguous(bias: Array | None) -> Array | None:
    return None if bias is None else np.ascontiguousarray(bias)


def winograd(x: Array, w: Array, bias: Array | None, y: Array, padding: Pair, F: Tiling, size: Pair) -> Any:
    (n, c, *_), o, dtype = x.shape, len(w) if w is not None else y.shape[1], x.dtype
    job = winograd_job(x.shape, (n, o, *size), padding, F, dtype)
    kernel: Any = None if w is None else transformed_kernel(w, F, matmul)
    out: Any = None if w is None else np.empty((n, *size, o), dtype)
    sums: Any = None if y is None else np.empty((job.groups, F.t**2, o, F.s**2 * c), dtype)
    job.run("winograd", rows(x), rows(y), kernel, contiguous(bias), out, sums)
    return out if w is None else out.transpose(0, 3, 1, 2), sums if y is None else kernel_gradient(sums[0], F, matmul)


def winograd_adjoint(y: Array, w: Array, x: Array, padding: Pair, F: Tiling, size: Pair) -> Any:
    n, (o, c, *_), dtype = len(y), w.shape, y.dtype
    job = winograd_job((n, c, *size), y.shape, padding, F, dtype)
    kernel, out = transformed_kernel(w, F, matmul, swapped=True), np.empty((n, *size, c), dtype)
    sums: Any = None if x is None else np.empty((job.groups, F.t**2, o, F.s**2 * c), dtype)
    job.run("winograd_adjoint", rows(y), rows(x), kernel, out, sums)
    return out.transpose(0, 3, 1, 2), sums if x is None else kernel_gradient(sums[0], F, matmul)


def im2col(
    x: Array, w: Array, bias: Array | None, y: Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair,
    size: Pair,
) -> Any:  # fmt: skip
    (n, c, *_), o, dtype = x.shape, len(w) if w is not None else y.shape[1], x.dtype
    job = im2col_job(x.shape, (n, o, *size), kernel, stride, padding, dilation, dtype)
    columns: Any = None if w is None else aligned(w.transpose(2, 3, 1, 0))
    out: Any = None if w is None else np.empty((n, *size, o), dtype)
    sums: Any = None if y is None else np.empty((job.groups, o, *kernel, c), dtype)
    job.run("im2col", rows(x), rows(y), columns, contiguous(bias), out, sums)
    return out if w is None else out.transpose(0, 3, 1, 2), sums if y is None else sums[0].transpose(0, 3, 1, 2)


def col2im(
    y: Array, w: Array, bias: Array | None, size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:  # fmt: skip
    (_, c, *kernel), dtype = w.shape, y.dtype
    job = im2col_job((len(y), c, *size), y.shape, tuple(kernel), stride, padding, dilation, dtype)
    columns, out = aligned(w.transpose(0, 2, 3, 1)), np.empty((len(y), *size, c), dtype)
    job.run("col2im", rows(y), columns, contiguous(bias), out)
    return out.transpose(0, 3, 1, 2)


def sum_of_pixels(y: Array) -> Array:
    flat = channels_last(y).reshape(-1, y.shape[1])
    return matmul(np.ones(len(flat), flat.dtype), flat)  # nine times as fast as a sum over the first axis


def has_images(*arrays: Array) -> bool:
    return covers(*arrays) and len(arrays[0]) > 0 and gemm_address(arrays[0].dtype.char) != 0


register("cpu", Functions(has_images, winograd, winograd_adjoint, im2col, col2im, sum_of_pixels))
