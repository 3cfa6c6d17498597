"""Matrix products by NumPy's BLAS, in pieces that are distributed over OpenMP's threads.  See products.c."""

from __future__ import annotations

import ctypes
import functools
import math

import numpy as np

from nanogen.functional.matrix import affine, matrix_product
from nanogen.kernels.cpu.compiled import call, covers
from nanogen.kernels.cpu.threads import blas, blas_function, blas_threads, single_threaded

Shape = tuple[int, ...]

CACHE_LINE = 64  # bytes
WORTH_A_LINE = 1 << 14  # bytes
SMALL = 10**6  # multiplications; up to this OpenBLAS's AVX-512 kernels read matrices in place, beyond it copies
SMALLEST = 256  # elements of the first factor; with fewer, a product is limited by memory
WITH_KERNELS_FOR_SMALL = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names of kernels


@matrix_product.kernel("cpu")
def _(a, b):
    """By the threads of the C library if that is faster, else by NumPy with one thread: the threads of OpenBLAS and
    OpenMP would wait for each other."""
    return product(a, b) if covers(a, b) else NotImplemented


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found = in_pieces(a, b) if blas_threads()[0]() > 1 else None
    return single_threaded(np.matmul, a, b) if found is None else found


@affine.kernel("cpu")
class Affine:
    def forward(x, w, b):
        if not covers(x, w, b) or w.ndim != 2 or b.shape not in ((), w.shape[:1]):
            return NotImplemented
        out = product(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), w.T).reshape(*x.shape[:-1], len(w))
        if b.ndim:
            out += b
        return out, None

    def gradient(g, saved, x, w, b, *, wanted):
        x, rows = (a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) for a in (x, g))
        dx = product(rows, w).reshape(*g.shape[:-1], w.shape[1]) if wanted[0] else None
        db = product(np.ones((1, len(rows)), g.dtype), rows)[0] if wanted[2] else None
        return [dx, product(rows.T, x) if wanted[1] else None, db]


def in_pieces(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """a @ b by the C library, or None if it can't, or is not faster than NumPy."""
    batch = (a if a.ndim > 2 else b).shape[:-2]
    fit = a.shape[-1] == b.shape[-2] and all(x.ndim == 2 or x.shape[:-2] == batch for x in (a, b))
    shape = (*batch, a.shape[-2], b.shape[-1])
    worth = math.prod(shape) * a.shape[-1] > SMALL and math.prod(a.shape[-2:]) > SMALLEST and b.shape[-1] > 1
    if not (fit and worth and (gemm := gemm_address(a.dtype.char))):
        return None
    transposed_a, transposed_b = (not x.flags.c_contiguous for x in (a, b))
    numbers, groups, whole = plan(a.shape, b.shape, shape, transposed_a, transposed_b, kernels_for_small())
    a, b = a.swapaxes(-1, -2) if transposed_a else a, b.swapaxes(-1, -2) if transposed_b else b
    in_one_call = whole and blas_threads()[0]() == 1  # NumPy would make the same call
    if in_one_call or not (a.flags.c_contiguous and b.flags.c_contiguous):
        return None
    out = aligned_empty(shape, a.dtype)
    sums = np.empty((groups, out.size), out.dtype) if groups > 1 else None
    call("products", a, b, out, sums, gemm, numbers)
    return out


def aligned_empty(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """np.empty(shape, dtype), aligned to a cache line unless it is so small that it does not matter.

    OpenBLAS's kernels for small matrices read the second factor in place, 64 bytes at a time.  NumPy's arrays are not
    aligned, so each read touches two cache lines: 105 to 120 GFLOP/s instead of 150 to 170 (Intel)."""
    count = math.prod(shape) * dtype.itemsize
    if count < WORTH_A_LINE:
        return np.empty(shape, dtype)
    memory = np.empty(count + CACHE_LINE, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory.data)) % CACHE_LINE
    return np.ndarray(shape, dtype, memory, start)


def aligned(x: np.ndarray) -> np.ndarray:
    """A contiguous copy, aligned to a cache line."""
    out = aligned_empty(x.shape, x.dtype)
    out[...] = x
    return out


@functools.lru_cache(4096)
def plan(
    a: Shape, b: Shape, out: Shape, transposed_a: bool, transposed_b: bool, small: bool
) -> tuple[np.ndarray, int, bool]:  # fmt: skip
    """`Plan` of products.c; the number of groups along the depth; whether a matrix is a single piece."""
    (m, k), n, count = a[-2:], b[-1], math.prod(out[:-2])
    height, width, depth, groups = piece(count, m, n, k, transposed_a, transposed_b, small)
    leading = [m if transposed_a else k, k if transposed_b else n]
    batch_strides = [shape[-2] * shape[-1] if len(shape) > 2 else 0 for shape in (a, b)]
    numbers = [count, m, n, k, transposed_a, transposed_b, *leading, *batch_strides, height, width, depth, groups]
    return np.array(numbers, np.int64), groups, (height, width, depth) == (m, n, k)


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
    return getattr(blas(), "architecture", None) in WITH_KERNELS_FOR_SMALL
