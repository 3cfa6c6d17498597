"""A stand-in for cuBLAS in the memory of the stand-in's arrays: what NVIDIA documents of five functions, and no more.

They are functions of C with the types of NVIDIA's header, so whoever calls them is tried in these too.  Matrices are
read column by column at the addresses and distances that were given, within the memory of an array whose address was
asked for and nowhere else.  What would be an error there, or would not be fit for a capture, gives the status that
cuBLAS has for it, and says why.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from strict import graph

NOT_INITIALIZED, ALLOC_FAILED, INVALID_VALUE, EXECUTION_FAILED, NOT_SUPPORTED = 1, 3, 7, 13, 15
R_32F, R_64F = 0, 1  # cudaDataType
OP_N, OP_T = 0, 1
GEMM_DEFAULT = -1
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
TYPES = {
    (R_32F, COMPUTE_32F): (np.float32, ctypes.c_float),
    (R_32F, COMPUTE_32F_FAST_TF32): (np.float32, ctypes.c_float),
    (R_64F, COMPUTE_64F): (np.float64, ctypes.c_double),
}
LEAST_WORKSPACE = 4 << 20

handed_over: deque[np.ndarray] = deque(maxlen=64)  # arrays whose address was asked for: `device.ndarray.data`
called: deque[str] = deque(maxlen=1000)  # the functions that were called
computed: deque[int] = deque(maxlen=1000)  # the compute types of the products


class Refused(Exception):
    """A status that is not success."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


class Handle:
    """What cuBLAS remembers from call to call."""

    stream = 0
    workspace: tuple[int, int] | None = None


class Operand(NamedTuple):
    pointer: int
    type: int
    leading: int
    stride: int


_handles: dict[int, Handle] = {}
_numbers = itertools.count(0xB1A50000000, 16)  # more than 32 bits, as addresses have


def create(result: Any) -> None:
    result[0] = next(_numbers)
    _handles[result[0]] = Handle()


def handle_of(number: int | None) -> Handle:
    if number not in _handles:
        raise Refused(NOT_INITIALIZED, f"no handle {number}")
    return _handles[number]


def set_stream(number: int | None, stream: int | None) -> None:
    handle = handle_of(number)
    handle.stream, handle.workspace = stream or 0, None  # back to cuBLAS's own workspace


def set_workspace(number: int | None, pointer: int | None, size: int) -> None:
    array_at(pointer, 0, size)
    handle_of(number).workspace = (pointer or 0, size)


def gemm(number: int | None, transa: int, transb: int, m: int, n: int, k: int, alpha: int, *rest: int) -> None:
    a, b, beta, c, (compute, algorithm) = rest[:3], rest[3:6], rest[6], rest[7:10], rest[10:]
    operands = [Operand(*x, 0) for x in (a, b, c)]
    multiply(number, (transa, transb), (m, n, k), (alpha, beta), operands, 1, compute, algorithm)


def gemm_strided_batched(
    number: int | None, transa: int, transb: int, m: int, n: int, k: int, alpha: int, *rest: int
) -> None:  # fmt: skip
    a, b, beta, c, (count, compute, algorithm) = rest[:4], rest[4:8], rest[8], rest[9:13], rest[13:]
    operands = [Operand(*x) for x in (a, b, c)]
    multiply(number, (transa, transb), (m, n, k), (alpha, beta), operands, count, compute, algorithm)


def multiply(
    number: int | None,
    operations: tuple[int, int],
    sizes: tuple[int, int, int],
    numbers: tuple[int, int],
    operands: list[Operand],
    count: int,
    compute: int,
    algorithm: int,
) -> None:
    """C = α op(A) op(B) + β C for each of the matrices, all of them column by column."""
    handle, (m, n, k), (a, b, c) = handle_of(number), sizes, operands
    if handle.stream != (current := graph.get_current_stream().ptr):
        raise Refused(EXECUTION_FAILED, f"on stream {handle.stream}, CuPy's is {current}")
    if handle.workspace is None or handle.workspace[1] < LEAST_WORKSPACE:
        raise Refused(ALLOC_FAILED, f"a workspace of cuBLAS's own, or a small one: {handle.workspace}")
    if min(m, n, k, count) < 0 or not {*operations} <= {OP_N, OP_T} or algorithm != GEMM_DEFAULT:
        raise Refused(
            INVALID_VALUE, f"m, n, k = {sizes}, {count} times, operations {operations}, algorithm {algorithm}"
        )
    if len({operand.type for operand in operands}) > 1 or (c.type, compute) not in TYPES:
        raise Refused(NOT_SUPPORTED, f"types {[operand.type for operand in operands]} computed in {compute}")
    computed.append(compute)
    dtype, real = TYPES[c.type, compute]
    alpha, beta = (real.from_address(address).value for address in numbers)
    turned = [operation == OP_T for operation in operations]
    left = matrices(a, (k, m) if turned[0] else (m, k), count, dtype)
    right = matrices(b, (n, k) if turned[1] else (k, n), count, dtype)
    result = matrices(c, (m, n), count, dtype)
    if count > 1 and abs(c.stride) < c.leading * (n - 1) + m:
        raise Refused(INVALID_VALUE, f"matrices of C {c.stride} apart overlap")
    for factor, turn in zip((left, right), turned, strict=True):
        factor.matrices = factor.matrices.swapaxes(1, 2) if turn else factor.matrices
    carry_out(left, right, result, alpha, beta, compute == COMPUTE_32F_FAST_TF32)
    handed_over.clear()


class Placed:
    """Matrices as (count, rows, columns), and the array in whose memory they lie."""

    def __init__(self, matrices: np.ndarray, host: np.ndarray):
        self.matrices, self._host = matrices, host


@graph.noted
def carry_out(left: Placed, right: Placed, result: Placed, alpha: float, beta: float, short: bool) -> None:
    a, b, c = left.matrices, right.matrices, result.matrices
    if short:
        a, b = in_tf32(a), in_tf32(b)
    before = beta * c if beta else None  # with β = 0 C is not read
    # Cᵀ = op(B)ᵀ op(A)ᵀ, which is what NumPy would compute of the same memory, bit for bit
    np.matmul(b.swapaxes(1, 2), a.swapaxes(1, 2), out=c.swapaxes(1, 2))
    if alpha != 1:
        c *= alpha
    if before is not None:
        c += before


def matrices(operand: Operand, shape: tuple[int, int], count: int, dtype: type) -> Placed:
    """Matrices that lie column by column."""
    (rows, columns), size = shape, np.dtype(dtype).itemsize
    if operand.leading < max(1, rows):
        raise Refused(INVALID_VALUE, f"a leading dimension of {operand.leading} for {rows} rows")
    if 0 in (count, rows, columns):
        return Placed(empty := np.empty((count, rows, columns), dtype), empty)
    last = operand.stride * (count - 1) + operand.leading * (columns - 1) + rows
    array, low, high = array_at(operand.pointer, min(0, operand.stride * (count - 1)) * size, last * size)
    memory, strides = (
        (ctypes.c_char * (high - low)).from_address(low),
        (operand.stride * size, size, operand.leading * size),
    )
    return Placed(np.ndarray((count, rows, columns), dtype, memory, operand.pointer - low, strides), array)


def array_at(pointer: int | None, before: int, beyond: int) -> tuple[np.ndarray, int, int]:
    """The array that was handed over and holds all bytes from `before` to `beyond` of the address, and its memory."""
    for array in handed_over:
        low, high = np.lib.array_utils.byte_bounds(array)
        if array.ctypes.data == pointer and low <= pointer + before and pointer + beyond <= high:
            return array, low, high
    raise Refused(EXECUTION_FAILED, f"bytes {before} … {beyond} of address {pointer} are no array's")


def in_tf32(x: np.ndarray) -> np.ndarray:
    """float32 with the fraction rounded to ten bits."""
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


def status_of(function: Callable[..., None]) -> Callable[..., int]:
    """The function as C sees it: a status, no exception."""

    def call(*arguments: Any) -> int:
        called.append(function.__name__)
        try:
            function(*arguments)
        except Refused as refused:
            print(f"cuBLAS's stand-in, {function.__name__}: {refused}", file=sys.stderr)
            return refused.status
        return 0

    return call


_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_SIGNATURES: dict[str, tuple[Callable[..., None], list[Any]]] = {
    "cublasCreate_v2": (create, [ctypes.POINTER(_P)]),
    "cublasSetStream_v2": (set_stream, [_P, _P]),
    "cublasSetWorkspace_v2": (set_workspace, [_P, _P, ctypes.c_size_t]),
    "cublasGemmEx": (gemm, [_P, _I, _I, _I, _I, _I, _P, _P, _I, _I, _P, _I, _I, _P, _P, _I, _I, _I, _I]),
    "cublasGemmStridedBatchedEx": (
        gemm_strided_batched,
        [_P, _I, _I, _I, _I, _I, _P, _P, _I, _I, _L, _P, _I, _I, _L, _P, _P, _I, _I, _L, _I, _I, _I],
    ),
}


def library() -> Any:
    """What ctypes would have loaded: functions of whose arguments it knows nothing."""
    functions = {}
    for name, (function, arguments) in _SIGNATURES.items():
        compiled = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(status_of(function))
        _alive.append(compiled)
        functions[name] = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.cast(compiled, ctypes.c_void_p).value)
    return types.SimpleNamespace(**functions)


_alive: list[Any] = []
