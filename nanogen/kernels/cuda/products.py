"""Matrix products by cuBLAS, with a handle of our own.

CuPy's handle refuses a stream that is being captured as a CUDA graph.  Its batched products copy arrays that are not
contiguous, build lists of pointers where a matrix is broadcast, and do not support TF32.

Our matrices are row-major, cuBLAS's are column-major: it reads our A as Aᵀ.  It computes Cᵀ = Bᵀ Aᵀ, which we read as
C.  The functions and constants below are those of NVIDIA's cublas_api.h, cuBLAS 12 and 13.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import os
import threading
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from nanogen import backend
from nanogen.backend import Array, array_module
from nanogen.functional.matrix import matrix_product

Shape = tuple[int, ...]


@backend.allow_tf32.fill
def allow_tf32(allowed: bool) -> None:
    """Affects `product` from now on.  CuPy's own products read the setting once, before the first one of a process."""
    os.environ["CUPY_TF32"] = str(int(allowed))


def tf32_allowed() -> bool:
    """The setting of the last `allow_tf32`, or of the environment (CUPY_TF32=1)."""
    return os.environ.get("CUPY_TF32") == "1"


@matrix_product.kernel("cuda")
def _(a, b):
    return product(a, b) if np.promote_types(a.dtype, b.dtype).char in TYPES else NotImplemented


def product(a: Array, b: Array, exact: bool = False) -> Array:
    """a @ b of (…, M, K) and (…, K, N); the leading axes are broadcast.

    Integers and vectors, which cuBLAS does not support, are left to CuPy.  If TF32 is allowed, float32 factors are
    rounded to it.  `exact` prevents this, for transforms: they are limited by memory, so TF32 would not be faster.

    Raises:
        ValueError: shapes that do not fit.
        RuntimeError: a cuBLAS call failed; or, during a capture, there is no handle of our own.
    """
    xp, dtype = array_module(a), np.promote_types(a.dtype, b.dtype)
    if min(a.ndim, b.ndim) < 2 or dtype.char not in TYPES:
        return xp.matmul(a, b)
    stream = xp.cuda.get_current_stream()
    handle = own_handle(xp, xp.cuda.runtime.getDevice(), threading.get_ident())
    if isinstance(handle, RuntimeError):
        if stream.is_capturing():
            raise RuntimeError("no product of matrices can be captured") from handle
        return xp.matmul(a, b)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    short = dtype.char == "f" and not exact and tf32_allowed()
    call = gemm_arguments(a.shape, a.strides, b.shape, b.strides, dtype.char, short)
    out = xp.empty(call.shape, dtype)
    if not a.size or not b.size:
        out.fill(0)  # empty sums
        return out
    if any(call.copied):
        whole = [xp.broadcast_to(x, (*call.shape[:-2], *x.shape[-2:])) for x in (a, b)]
        a, b = (xp.ascontiguousarray(x) if copied else x for x, copied in zip(whole, call.copied, strict=True))
    handle.work_on(stream.ptr)
    places = b.data.ptr, *call.left, a.data.ptr, *call.right, out.data.ptr, *call.out
    handle.call(call.function, handle.handle, *call.sizes, *places)
    return out


# The memory layout of matrices


class Layout(NamedTuple):
    """How cuBLAS reads the matrices of an array.  Strides are in elements."""

    transposed: bool  # whether cuBLAS must transpose: the matrix is column-major, not row-major
    leading: int  # leading dimension: from one row to the next; if transposed, from one column to the next
    batch_stride: int  # from one matrix to the next


def matrix_layout(shape: Shape, strides: Shape, itemsize: int, batch: Shape) -> Layout | None:
    """The layout of an array of matrices, broadcast to a batch; None if cuBLAS can't read it in place."""
    *outer, rows, columns = shape
    *between, down, right = (stride // itemsize for stride in strides)
    repeated = [0] * (len(batch) - len(outer)) + [s if n > 1 else 0 for n, s in zip(outer, between, strict=True)]
    batch_stride = batch_stride_of(batch, repeated)
    lines = leading_dimension(rows, columns, down, right), leading_dimension(columns, rows, right, down)
    for transposed, line in enumerate(lines):
        if line is not None and batch_stride is not None:
            return Layout(bool(transposed), line, batch_stride)
    return None


def contiguous_layout(shape: Shape) -> Layout:
    """The layout of a contiguous array of matrices."""
    return Layout(False, shape[-1], shape[-2] * shape[-1])


def leading_dimension(lines: int, length: int, between: int, within: int) -> int | None:
    """The stride from one line to the next.  None if lines overlap or are not contiguous."""
    if lines == 1:  # its stride has no meaning, but cuBLAS checks it
        between = length
    return between if between >= length and (within == 1 or length == 1) else None


def batch_stride_of(lengths: Sequence[int], strides: Sequence[int]) -> int | None:
    """The stride of several axes merged into one; None if they can't be merged."""
    axes = [(length, stride) for length, stride in zip(lengths, strides, strict=True) if length > 1]
    if any(outer != length * inner for (_, outer), (length, inner) in itertools.pairwise(axes)):
        return None
    innermost = axes[-1][1] if axes else 0
    return innermost if innermost >= 0 else None


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
        *SIZES, POINTER, *[POINTER, INT, INT, LONG] * 2, POINTER, POINTER, INT, INT, LONG, INT, INT, INT],
}  # fmt: skip
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
TYPES: dict[str, tuple[int, int, Any]] = {  # CUDA_R_32F, CUDA_R_64F; the type that sums are computed in
    "f": (0, COMPUTE_32F, ctypes.c_float),
    "d": (1, COMPUTE_64F, ctypes.c_double),
}
GEMM_DEFAULT = -1
LARGEST = 2**31 - 1  # integer in cuBLAS's interface
WORKSPACE_BYTES = 32 << 20  # NVIDIA's recommendation for Hopper; 4 MiB for earlier GPUs


def library() -> Any:
    """The cuBLAS that CuPy uses."""
    from cuda import pathfinder  # CuPy uses it too, and installs it

    return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)


@functools.cache
def own_handle(xp: ModuleType, device: int, thread: int) -> Handle | RuntimeError:
    """The handle for a device and a thread, because a handle is not thread-safe; or an error why there is none.

    Raises:
        RuntimeError: the first product is during a capture.
    """
    if xp.cuda.get_current_stream().is_capturing():
        raise RuntimeError("a product of matrices has to come before the capture: it makes the cuBLAS handle")
    try:
        return Handle(xp)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        warnings.warn(f"no cuBLAS handle of our own, products of matrices are CuPy's: {error}", stacklevel=3)
        return RuntimeError(f"no cuBLAS handle of our own: {error}")


class Handle:
    """A cuBLAS handle with its workspace.  It is never destroyed: graphs use it, and the driver may shut down first."""

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
        """Raises: RuntimeError: the call failed."""
        status = self.functions[name](*arguments)
        if status:
            raise RuntimeError(f"{name} gave status {status}")

    def work_on(self, stream: int) -> None:
        """Set the stream of the next calls.  That resets the workspace, and without one a capture would allocate."""
        if stream != self.stream:
            self.call("cublasSetStream_v2", self.handle, stream)
            self.call("cublasSetWorkspace_v2", self.handle, self.workspace.data.ptr, self.workspace.nbytes)
            self.stream = stream


class Call(NamedTuple):
    """A matrix product for cuBLAS: a function and its arguments, except for the handle and the addresses."""

    shape: Shape  # of the product
    copied: tuple[bool, bool]  # whether a and b must be copied first
    function: str
    sizes: tuple[Any, ...]
    left: tuple[Any, ...]  # the arguments after the address of b
    right: tuple[Any, ...]  # after the address of a
    out: tuple[Any, ...]  # after the address of the product


@functools.lru_cache(4096)
def gemm_arguments(a: Shape, a_strides: Shape, b: Shape, b_strides: Shape, real: str, short: bool) -> Call:
    """The cuBLAS call for a @ b.  It depends only on shapes and strides, and computing it takes as long as the rest of
    a product, so it is cached.  Its numbers are ctypes objects: creating them takes as long as the call itself.

    `short`: float32 factors are rounded to TF32.

    Raises:
        ValueError: shapes that do not fit, or are too large for cuBLAS."""
    if a[-1] != b[-2]:
        raise ValueError(f"product: shapes {a} and {b} do not fit")
    batch, (kind, compute, number) = np.broadcast_shapes(a[:-2], b[:-2]), TYPES[real]
    shape, count, size = (*batch, a[-2], b[-1]), math.prod(batch), ctypes.sizeof(number)
    found_a, found_b = matrix_layout(a, a_strides, size, batch), matrix_layout(b, b_strides, size, batch)
    layout = left, right, _ = found_b or contiguous_layout(b), found_a or contiguous_layout(a), contiguous_layout(shape)
    if max(*shape[-2:], a[-1], count, left.leading, right.leading) > LARGEST:
        raise ValueError(f"product: cuBLAS is limited to {LARGEST}, got the shape {shape} with sums of {a[-1]} terms")
    one, zero = ctypes.byref(number(1)), ctypes.byref(number(0))
    sizes = (*map(INT, (left.transposed, right.transposed, b[-1], a[-2], a[-1])), one)
    how = INT(COMPUTE_32F_FAST_TF32 if short else compute), INT(GEMM_DEFAULT)
    copied = found_a is None, found_b is None
    if count == 1:
        of_left, of_right, of_out = ((INT(kind), INT(x.leading)) for x in layout)
        return Call(shape, copied, "cublasGemmEx", sizes, of_left, (*of_right, zero), (*of_out, *how))
    places = [(INT(kind), INT(x.leading), LONG(x.batch_stride)) for x in layout]
    name, ending = "cublasGemmStridedBatchedEx", (INT(count), *how)
    return Call(shape, copied, name, sizes, places[0], (*places[1], zero), (*places[2], *ending))
