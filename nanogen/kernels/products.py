"""Products of matrices on raw arrays: NumPy's on a CPU, cuBLAS's on a GPU, by a handle of our own.

CuPy's handle refuses a stream that is being captured as a CUDA graph; its products of stacks copy what is not
contiguous, make lists of pointers where one matrix is for all, and know nothing of TF32.

NumPy's matrices lie row by row, cuBLAS reads column by column: in our memory it sees Aᵀ.  So it is asked for
Cᵀ = Bᵀ Aᵀ, and writes C.  Its functions and numbers are those of NVIDIA's cublas_api.h, cuBLAS 12 and 13.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import threading
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from nanogen import compiled
from nanogen.backend import Array, array_module, blas_function, in_blocks, matrix_library, tf32_allowed


def matmul(a: Array, b: Array, exact: bool = False) -> Array:
    """a @ b; on a CPU the first axis of a is shared out among the threads, on a GPU it is `product`."""
    if not isinstance(a, np.ndarray):
        return product(a, b, exact=exact)
    if min(a.ndim, b.ndim) < 2 or (b.ndim > 2 and a.shape[:-2] != b.shape[:-2]):
        return a @ b
    out = empty_in_lines((*a.shape[:-1], b.shape[-1]), np.result_type(a, b))
    item_bytes = (a.nbytes + out.nbytes) // max(len(a), 1)
    in_blocks(lambda part: in_pieces(a[part], b if b.ndim == 2 else b[part], out[part]), a, item_bytes)
    return out


def product(a: Array, b: Array, out: Array | None = None, exact: bool = False) -> Array:
    """a @ b of (…, M, K) and (…, K, N), into `out` if it is given: on a CPU NumPy's, which is for use in blocks.

    On a GPU `out` is contiguous and of the product's shape and type; what cuBLAS does not multiply (integers, vectors)
    CuPy does.  Where TF32 is allowed, float32 factors lose bits; `exact` keeps them, for products that are
    transformations: those wait for memory anyway.

    Raises:
        ValueError: shapes that do not fit; such an `out`.
        RuntimeError: cuBLAS gives a status other than success; under capture: there is no handle of our own.
    """
    if isinstance(a, np.ndarray):
        if out is None:
            batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
            out = empty_in_lines((*batch, a.shape[-2], b.shape[-1]), np.result_type(a, b))
        return in_pieces(a, b, out)
    xp, dtype = array_module(a), np.promote_types(a.dtype, b.dtype)
    if min(a.ndim, b.ndim) < 2 or dtype.char not in TYPES:
        return xp.matmul(a, b, out=out)
    stream = xp.cuda.get_current_stream()
    handle = own_handle(xp, xp.cuda.runtime.getDevice(), threading.get_ident())
    if isinstance(handle, RuntimeError):
        if stream.is_capturing():
            raise RuntimeError("no product of matrices can be captured") from handle
        return xp.matmul(a, b, out=out)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    short = dtype.char == "f" and not exact and tf32_allowed()
    call = told(a.shape, a.strides, b.shape, b.strides, dtype.char, short)
    if out is None:
        out = xp.empty(call.shape, dtype)
    elif (out.shape, out.dtype) != (call.shape, dtype) or not out.flags.c_contiguous:
        raise ValueError(f"product: out must be a contiguous {call.shape} of {dtype}, got {out.shape} of {out.dtype}")
    if not a.size or not b.size:
        out.fill(0)  # a sum of nothing
        return out
    if any(call.copied):
        whole = [xp.broadcast_to(x, (*call.shape[:-2], *x.shape[-2:])) for x in (a, b)]
        a, b = (xp.ascontiguousarray(x) if copied else x for x, copied in zip(whole, call.copied, strict=True))
    handle.work_on(stream.ptr)
    places = b.data.ptr, *call.left, a.data.ptr, *call.right, out.data.ptr, *call.out
    handle.call(call.function, handle.handle, *call.sizes, *places)
    return out


broadcast_shapes = functools.lru_cache(np.broadcast_shapes)  # itself it takes longer than a small product


# Where a matrix begins in memory, on a CPU

LINE = 64  # bytes of a line of the cache
WORTH_A_LINE = 1 << 14  # bytes


def empty_in_lines(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """np.empty(shape, dtype), which begins with a line of the cache, unless it is so small that it does not matter.

    OpenBLAS's kernels for small matrices read the second factor where it lies, 64 bytes at a time.  NumPy's own arrays
    begin anywhere, and then each time two lines are read: 105 to 120 GFLOP/s in place of 150 to 170 (Intel)."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    if count < WORTH_A_LINE:
        return np.empty(shape, dtype)
    memory = np.empty(count + LINE, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory.data)) % LINE
    return np.ndarray(shape, dtype, memory, start)


def in_lines(x: Array) -> Array:
    """A contiguous copy, which on a CPU begins with a line of the cache."""
    if not isinstance(x, np.ndarray):
        return array_module(x).ascontiguousarray(x)
    out = empty_in_lines(x.shape, x.dtype)
    out[...] = x
    return out


# In pieces, on a CPU

SMALL = 10**6  # multiplications: up to this OpenBLAS's kernels for AVX-512 take matrices as they lie, else copies
SMALLEST = 256  # numbers of a first factor: with fewer, memory is what a product waits for
NARROWEST = 32  # columns of a piece: those of 16 run at 40 to 70 GFLOP/s, and wholes of them at 115 to 130 (Intel)
WITH_KERNELS_FOR_SMALL = ("SkylakeX", "Cooperlake", "SapphireRapids")  # as OpenBLAS names its kernels


def in_pieces(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """np.matmul(a, b, out=out): by threads of C's, or in products of some rows and columns that are no more than SMALL,
    where that is faster.

    That is where numbers lie side by side in the rows of b and in the rows (then all columns are taken at once) or in
    the columns of a: 95 to 110 GFLOP/s in place of 80 to 90 (AMD)."""
    if compiled.has(out.dtype) and by_gemm(a, b, out):
        return out
    (m, k), n = a.shape[-2:], b.shape[-1]
    across, down = (x.strides[-1] == x.itemsize for x in (a, a.swapaxes(-1, -2)))
    if m * k * n <= SMALL or b.strides[-1] != b.itemsize or not (across or down) or not kernels_for_small():
        return np.matmul(a, b, out=out)
    height, width = divisor(m, SMALL // (k * n)) if across else 0, n
    if not height:
        height = m if m < 32 else divisor(m, 32)
        width = divisor(n, SMALL // (k * max(height, 1)))
    if not height or width < min(n, NARROWEST):
        return np.matmul(a, b, out=out)
    pieces = out.reshape(*out.shape[:-2], m // height, height, n // width, width).swapaxes(-3, -2)
    rows = a.reshape(*a.shape[:-2], m // height, 1, height, k)
    columns = b.reshape(*b.shape[:-2], 1, k, n // width, width).swapaxes(-3, -2)
    np.matmul(rows, columns, out=pieces)
    return out


def by_gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> bool:
    """The same by threads of C's, which call the BLAS; or say that this can't be done, or is not worth it."""
    gemm, shape = gemm_address(out.dtype.char), out.shape
    fit = all(x.ndim == 2 or x.shape[:-2] == shape[:-2] for x in (a, b)) and a.dtype == b.dtype == out.dtype
    worth = out.size * a.shape[-1] > SMALL and math.prod(a.shape[-2:]) > SMALLEST and shape[-1] > 1
    if not (gemm and fit and worth and out.flags.c_contiguous):
        return False
    turned_a, turned_b = (not x.flags.c_contiguous for x in (a, b))
    numbers, groups, whole = plan(a.shape, b.shape, shape, turned_a, turned_b, kernels_for_small())
    if whole and compiled.threads() == 1:  # then NumPy makes the same calls
        return False
    a, b = a.swapaxes(-1, -2) if turned_a else a, b.swapaxes(-1, -2) if turned_b else b
    if not (a.flags.c_contiguous and b.flags.c_contiguous):
        return False
    sums = np.empty((groups, out.size), out.dtype) if groups > 1 else None
    compiled.call("products", a, b, out, sums, gemm, numbers)
    return True


Shape = tuple[int, ...]


@functools.lru_cache(4096)
def plan(
    a: Shape, b: Shape, out: Shape, turned_a: bool, turned_b: bool, small: bool
) -> tuple[np.ndarray, int, bool]:  # fmt: skip
    """What C is told of a product; in how many groups its depth is; and whether its matrices are in one piece."""
    (m, k), n, count = a[-2:], b[-1], math.prod(out[:-2])
    height, width, depth, groups = piece(count, m, n, k, turned_a, turned_b, small)
    lines = [m if turned_a else k, k if turned_b else n]
    apart = [shape[-2] * shape[-1] if len(shape) > 2 else 0 for shape in (a, b)]
    numbers = [count, m, n, k, turned_a, turned_b, *lines, *apart, height, width, depth, groups]
    return np.array(numbers, np.int64), groups, (height, width, depth) == (m, n, k)


def piece(count: int, m: int, n: int, k: int, turned_a: bool, turned_b: bool, small: bool) -> tuple[int, int, int, int]:
    """Height, width and depth of the pieces of a product, and in how many groups the depth is.

    Where a is transposed, deep products of few rows, as gradients in kernels are, run at 75 GFLOP/s as they are and in
    pieces of the depth at 115 (Intel, one core).  Without kernels for small matrices pieces are for threads alone."""
    height, width, depth, groups = m, n, k, 1
    if small and not turned_b:
        height = even(m, SMALL // (k * n), 4 if m * k * n > SMALL else 1)
        if turned_a or height < min(m, 32):
            height = min(m, 32)
            width = even(n, SMALL // (k * height))
            if SMALL // (k * height) < min(n, 64):
                width = even(n, 256)
                groups = min(-(-k * height * width // SMALL), 4)
                depth = even(k, max(SMALL // (height * width), 32), groups)
    if count * groups * -(-m // height) * -(-n // width) < 4:
        height = min(max(even(m, -(-m // 4)), 32), m)
    deep = -(-k // depth)
    return height, width, depth, -(-deep // -(-deep // groups))  # none of the groups is empty


def even(count: int, most: int, multiple: int = 1) -> int:
    """Of pieces that are no larger than `most` the size that makes few, alike but for the last, a multiple of 16."""
    pieces = -(-count // max(most, 1) // multiple) * multiple
    return min(-(-count // pieces // 16) * 16, max(most // 16 * 16, 16), count)


@functools.cache
def gemm_address(real: str) -> int:
    """Where the function is that NumPy multiplies matrices with, of floats (`f`) or doubles (`d`); 0 if not found."""
    found = blas_function({"f": "cblas_sgemm", "d": "cblas_dgemm"}[real])
    return ctypes.cast(found, POINTER).value or 0 if found else 0


@functools.cache
def divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is a multiple of 4 and at most `most`; 0 if there is none."""
    return next((d for d in range(min(count, most) // 4 * 4, 0, -4) if count % d == 0), 0)


@functools.cache
def kernels_for_small() -> bool:
    """Whether NumPy's BLAS is an OpenBLAS that uses its kernels for AVX-512."""
    return getattr(matrix_library(), "architecture", None) in WITH_KERNELS_FOR_SMALL


# Where the matrices of an array lie


class Lie(NamedTuple):
    """What cuBLAS is told of where the matrices of an array lie; distances in elements."""

    transposed: bool  # by cuBLAS, since what it reads there is the matrix itself and not, as usual, its transpose
    line: int  # from one row to the next; if transposed, from one column to the next
    apart: int  # from one matrix to the next


def as_they_lie(shape: Shape, strides: Shape, itemsize: int, batch: Shape) -> Lie | None:
    """Of an array of matrices, broadcast to a batch; None if cuBLAS can't read them there."""
    *outer, rows, columns = shape
    *between, down, right = (stride // itemsize for stride in strides)
    repeated = [0] * (len(batch) - len(outer)) + [s if n > 1 else 0 for n, s in zip(outer, between, strict=True)]
    apart = one_distance(batch, repeated)
    for transposed, line in enumerate((distance(rows, columns, down, right), distance(columns, rows, right, down))):
        if line is not None and apart is not None:
            return Lie(bool(transposed), line, apart)
    return None


def without_gaps(shape: Shape) -> Lie:
    """Of a contiguous array of matrices."""
    return Lie(False, shape[-1], shape[-2] * shape[-1])


def distance(lines: int, length: int, between: int, within: int) -> int | None:
    """From one line to the next, where each lies without gaps and no two overlap; otherwise None."""
    if lines == 1:  # then its stride means nothing, but cuBLAS looks at it
        between = length
    return between if between >= length and (within == 1 or length == 1) else None


def one_distance(lengths: Sequence[int], strides: Sequence[int]) -> int | None:
    """The stride of the one axis that several axes are together; None where they are not."""
    axes = [(length, stride) for length, stride in zip(lengths, strides, strict=True) if length > 1]
    if any(outer != length * inner for (_, outer), (length, inner) in itertools.pairwise(axes)):
        return None
    apart = axes[-1][1] if axes else 0
    return apart if apart >= 0 else None


# cuBLAS

POINTER, INT, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
SIZES = [POINTER, INT, INT, INT, INT, INT]  # handle, transa, transb, m, n, k
FUNCTIONS = {
    "cublasCreate_v2": [POINTER],
    "cublasSetStream_v2": [POINTER, POINTER],
    "cublasSetWorkspace_v2": [POINTER, POINTER, ctypes.c_size_t],
    # alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType, algo
    "cublasGemmEx": [*SIZES, POINTER, *[POINTER, INT, INT] * 2, POINTER, POINTER, INT, INT, INT, INT],
    # the same with strideA, strideB, strideC and batchCount
    "cublasGemmStridedBatchedEx": [
        *SIZES, POINTER, *[POINTER, INT, INT, LONG] * 2, POINTER, POINTER, INT, INT, LONG, INT, INT, INT
    ],
}  # fmt: skip
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
TYPES: dict[str, tuple[int, int, Any]] = {  # CUDA_R_32F, CUDA_R_64F; in what sums are made
    "f": (0, COMPUTE_32F, ctypes.c_float),
    "d": (1, COMPUTE_64F, ctypes.c_double),
}
GEMM_DEFAULT = -1
LARGEST = 2**31 - 1  # of cuBLAS's integers
WORKSPACE_BYTES = 32 << 20  # what NVIDIA advises for Hopper; 4 MiB for those before


def library() -> Any:
    """The cuBLAS that CuPy uses."""
    from cuda import pathfinder  # CuPy's own way to find it; where there is no CuPy there is none

    return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)


@functools.cache
def own_handle(xp: ModuleType, device: int, thread: int) -> Handle | RuntimeError:
    """The handle of a device and a thread: it serves one at a time.  Or why there is none.

    Raises:
        RuntimeError: the first product is under capture.
    """
    if xp.cuda.get_current_stream().is_capturing():
        raise RuntimeError("a product of matrices has to come before the capture: it makes the cuBLAS handle")
    try:
        return Handle(xp)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        warnings.warn(f"no cuBLAS handle of our own, products of matrices are CuPy's: {error}", stacklevel=3)
        return RuntimeError(f"no cuBLAS handle of our own: {error}")


class Handle:
    """A cuBLAS handle with its workspace.  It is never given back: graphs want it, and the driver may end first."""

    def __init__(self, xp: ModuleType):
        self.functions: dict[str, Any] = {}
        found = library()
        for name, arguments in FUNCTIONS.items():
            self.functions[name] = getattr(found, name)
            self.functions[name].argtypes = arguments
        self.stream: int | None = None
        self.workspace = xp.empty(WORKSPACE_BYTES, np.uint8)
        self.handle = POINTER()
        self.call("cublasCreate_v2", ctypes.byref(self.handle))

    def call(self, name: str, *arguments: Any) -> None:
        """Raises: RuntimeError: a status other than success."""
        status = self.functions[name](*arguments)
        if status:
            raise RuntimeError(f"{name} gave status {status}")

    def work_on(self, stream: int) -> None:
        """The stream of what follows.  Setting it takes the workspace away, and without one a capture allocates."""
        if stream != self.stream:
            self.call("cublasSetStream_v2", self.handle, stream)
            self.call("cublasSetWorkspace_v2", self.handle, self.workspace.data.ptr, self.workspace.nbytes)
            self.stream = stream


class Call(NamedTuple):
    """A product of matrices as cuBLAS is told of it: a function's arguments, but for its handle and the addresses."""

    shape: Shape  # of what comes out
    copied: tuple[bool, bool]  # whether a and b have to be copied before
    function: str
    sizes: tuple[Any, ...]
    left: tuple[Any, ...]  # after the address of b,
    right: tuple[Any, ...]  # of a,
    out: tuple[Any, ...]  # and of the product


@functools.lru_cache(4096)
def told(a: Shape, a_strides: Shape, b: Shape, b_strides: Shape, real: str, short: bool) -> Call:
    """What cuBLAS is told of a @ b: from shapes and strides alone, so once for all products like it, for to find out
    takes as long as the rest of a call.  As numbers of C's: ctypes makes them in the time that the call itself takes.

    `short`: factors of float32 numbers are TF32.

    Raises:
        ValueError: shapes that do not fit; more than cuBLAS counts to."""
    if a[-1] != b[-2]:
        raise ValueError(f"product: shapes {a} and {b} do not fit")
    batch, (kind, compute, number) = np.broadcast_shapes(a[:-2], b[:-2]), TYPES[real]
    shape, count, size = (*batch, a[-2], b[-1]), math.prod(batch), ctypes.sizeof(number)
    found_a, found_b = as_they_lie(a, a_strides, size, batch), as_they_lie(b, b_strides, size, batch)
    lie = left, right, _ = found_b or without_gaps(b), found_a or without_gaps(a), without_gaps(shape)
    if max(*shape[-2:], a[-1], count, left.line, right.line) > LARGEST:
        raise ValueError(f"product: cuBLAS counts to {LARGEST}, the product has a shape of {shape}, sums of {a[-1]}")
    one, zero = ctypes.byref(number(1)), ctypes.byref(number(0))
    sizes = (*map(INT, (left.transposed, right.transposed, b[-1], a[-2], a[-1])), one)
    how = INT(COMPUTE_32F_FAST_TF32 if short else compute), INT(GEMM_DEFAULT)
    copied = found_a is None, found_b is None
    if count == 1:
        of_left, of_right, of_out = ((INT(kind), INT(x.line)) for x in lie)
        return Call(shape, copied, "cublasGemmEx", sizes, of_left, (*of_right, zero), (*of_out, *how))
    places = [(INT(kind), INT(x.line), LONG(x.apart)) for x in lie]
    name, ending = "cublasGemmStridedBatchedEx", (INT(count), *how)
    return Call(shape, copied, name, sizes, places[0], (*places[1], zero), (*places[2], *ending))
