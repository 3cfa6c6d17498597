"""Matrix products by NumPy's BLAS, and the pieces in which kernels make them on several threads: see products.h."""

from __future__ import annotations

import ctypes
import functools
import math

import numpy as np

from nanogen.functional.matrix import matrix_product
from nanogen.kernels.cpu.compiled import covers
from nanogen.kernels.cpu.threads import blas, blas_function, single_threaded

CACHE_LINE = 64  # bytes
SMALL = 10**6  # multiplications; up to this OpenBLAS's AVX-512 kernels read matrices in place, beyond it copies


@matrix_product.kernel("cpu")
def matmul(a, b):
    """With one thread: the threads of OpenBLAS and OpenMP would wait for each other."""
    return single_threaded(np.matmul, a, b) if covers(a, b) else NotImplemented


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """np.empty(shape, dtype), aligned to a cache line.

    OpenBLAS's kernels for small matrices read the second factor in place, 64 bytes at a time.  NumPy's arrays are not
    aligned, so each read touches two cache lines: 105 to 120 GFLOP/s instead of 150 to 170 (Intel)."""
    count = math.prod(shape) * dtype.itemsize
    memory = np.empty(count + CACHE_LINE, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory.data)) % CACHE_LINE
    return np.ndarray(shape, dtype, memory, start)


def aligned(x: np.ndarray) -> np.ndarray:
    """A contiguous copy, aligned to a cache line."""
    out = aligned_empty(x.shape, x.dtype)
    out[...] = x
    return out


def piece(
    count: int, m: int, n: int, k: int, transposed_a: bool, transposed_b: bool, small: bool
) -> tuple[int, int, int, int]:
    """Height, width and depth of the pieces of a product, and the number of groups along the depth.

    If a is transposed, deep products of few rows, such as the gradients of convolution kernels, run at 75 GFLOP/s in
    one piece, and at 115 GFLOP/s if the depth is split (Intel, one core).  Without kernels for small matrices, the only
    purpose of pieces is to use several threads."""
    height, width, depth, groups = m, n, k, 1
    if small and not transposed_b:
        height = even(m, SMALL // (k * n), 4 if m * k * n > SMALL else 1)
        if transposed_a or height < min(m, 32):
            height = min(m, 32)
            width = even(n, SMALL // (k * height))
            if SMALL // (k * height) < min(n, 64):
                width = even(n, 256)
                groups = min(-(-k * height * width // SMALL), 4)
                depth = even(k, max(SMALL // (height * width), 32), groups)
    if count * groups * -(-m // height) * -(-n // width) < 4:
        height = min(max(even(m, -(-m // 4)), 32), m)
    deep = -(-k // depth)
    return height, width, depth, -(-deep // -(-deep // groups))  # no group is empty


def even(count: int, most: int, multiple: int = 1) -> int:
    """The size, a multiple of 16, that splits `count` into few pieces of at most `most`, equal except for the last."""
    pieces = -(-count // max(most, 1) // multiple) * multiple
    return min(-(-count // pieces // 16) * 16, max(most // 16 * 16, 16), count)


@functools.cache
def gemm_address(real: str) -> int:
    """The address of the BLAS's gemm for floats (`f`) or doubles (`d`); 0 if not found."""
    found = blas_function({"f": "cblas_sgemm", "d": "cblas_dgemm"}[real])
    return ctypes.cast(found, ctypes.c_void_p).value or 0 if found else 0


@functools.cache
def kernels_for_small() -> bool:
    """Whether NumPy's BLAS is an OpenBLAS that uses its AVX-512 kernels for small matrices."""
    return getattr(blas(), "architecture", None) in ("SkylakeX", "Cooperlake", "SapphireRapids")
