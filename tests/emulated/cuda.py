"""CUDA in the memory of the host, for a CuPy on a machine without a GPU.

CuPy is the real one: it makes its kernels and compiles them by NVRTC, plans memory, captures graphs.  What it calls in
CUDA's runtime (which its wheels have within them), in the driver and in cuBLAS comes here instead, is done at once, on
one thread, and answers as NVIDIA documents it.  Kernels come as PTX; `ptx` makes C++ of them.

- New memory is full of bytes of 255: NaN, or −1.
- What is done on a stream that is being captured is noted, and done when the graph is launched.  In a capture these are
  refused, as on a GPU: waiting for a stream or an event, work on the legacy stream, copies from memory that is not
  pinned, memory from the driver unless the capture is relaxed.
- A function that is not here is an error and says its name.

Not CuPy's own are the functions that its wheels hold as machine code for GPUs: thrust's sorts are NumPy's here, and for
CUB's sums of whole arrays CuPy's other kernels step in.  Nothing here knows of time, or of how much a multiprocessor
holds; threads take turns, but whether they would race for a place in memory is found on request (`watched`).

Linux on x86-64: the first bytes of each function become a jump.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import os
import platform
import re
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from . import ptx

P, INT, UNSIGNED, SIZE, LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t, ctypes.c_longlong
COUNT = ctypes.c_ulonglong
INVALID_VALUE, OUT_OF_MEMORY, INVALID_PTX, INVALID_HANDLE, NOT_FOUND, ILLEGAL_ADDRESS = 1, 2, 218, 400, 500, 700
NO_CAPTURE_OF_THAT, BAD_CAPTURE, CAPTURE_OF_LEGACY_STREAM, UNKNOWN = 900, 901, 906, 999
RELAXED, NON_BLOCKING = 2, 1
FROM_HOST = 1  # cudaMemcpyHostToDevice
LARGEST_SHARED = 48 << 10

# What an H200 says of itself, as far as CuPy asks: cudaDeviceAttr, and cudaDeviceProp of CUDA 13 by offsets
ATTRIBUTES = {1: 1024, 2: 1024, 3: 1024, 4: 64, 8: LARGEST_SHARED, 10: 32, 16: 132, 39: 2048, 75: 9, 76: 0}
PROPERTIES_BYTES = 1008
INTEGERS = {304: 65536, 308: 32, 320: 1024, 324: 1024, 328: 1024, 332: 64, 336: 2**31 - 1, 340: 65535, 344: 65535}
INTEGERS |= {360: 9, 364: 0, 384: 132, 596: 50 << 20, 604: 2048}
SIZES = {288: 140 << 30, 296: LARGEST_SHARED, 624: 228 << 10, 672: 227 << 10}
LIMITS = (2**31 - 1, 65535, 65535, 1024, 1024, 64)  # of a grid and a block

FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
called: Counter[str] = Counter()  # each function, and each kernel by its name
# By a kernel's name, what its threads have done: instructions, and bytes of the device's memory, read or written, each
# time that a thread asks.  And multiplications and additions of cuBLAS's products.
executed: Counter[str] = Counter()
moved: Counter[str] = Counter()
multiplied: Counter[str] = Counter()
_ended: list[bool] = []  # the interpreter goes, and CuPy gives back what it has
_watched: list[bool] = []
_alive: list[Any] = []
_patched: list[int] = []

libc = ctypes.CDLL(None)
libc.aligned_alloc.restype, libc.aligned_alloc.argtypes = P, [SIZE, SIZE]
libc.free.argtypes = [P]
libc.mprotect.argtypes = [P, SIZE, INT]


class Refused(Exception):
    """A status other than success."""

    def __init__(self, status: int, why: str = ""):
        super().__init__(why)
        self.status = status


class Capture(NamedTuple):
    stream: int
    mode: int
    work: list[Callable[[], Any]]


class Kernel(NamedTuple):
    name: str
    sizes: list[int]  # bytes of its parameters
    launch: Any
    watching: Any  # whether races are looked for
    counters: tuple[Any, Any]  # instructions, and bytes of the device's memory, of all its module's kernels


device_memory: dict[int, int] = {}  # bytes by address
pinned_memory: dict[int, int] = {}
# By handle: a stream's flags, a graph's work, an event's time, a module's PTX, a Kernel, cuBLAS's stream
objects: dict[int, Any] = {0: 0}
capture: Capture | None = None
last_error = 0


def function(name: str, *types: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """CUDA's function of that name; it may return a status, or raise `Refused`."""

    def note(python: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[name] = python, types
        return python

    return note


def put(address: int, value: int, kind: Any = P) -> None:
    kind.from_address(address).value = value


def new(thing: Any) -> int:
    handle = 0x700000000000 + 256 * len(objects)
    objects[handle] = thing
    return handle


# Streams, captures, graphs, events


def on_stream(stream: int | None, what: str, work: Callable[[], Any]) -> None:
    """Do it, or note it if the stream is being captured."""
    if (stream or 0) not in objects:
        raise Refused(INVALID_HANDLE, f"{what}: no stream {stream}")
    if capture is None:
        work()
    elif capture.stream == stream:
        capture.work.append(work)
    elif not stream and not objects[capture.stream] & NON_BLOCKING:
        raise Refused(CAPTURE_OF_LEGACY_STREAM, f"{what} on the legacy stream, while another is captured")
    else:
        work()


def not_in_capture(what: str) -> None:
    if capture:
        raise Refused(NO_CAPTURE_OF_THAT, f"{what} in a capture")


@function("cudaStreamCreate", P)
@function("cudaStreamCreateWithFlags", P, UNSIGNED)
@function("cudaStreamCreateWithPriority", P, UNSIGNED, INT)
def create_stream(result: int, flags: int = 0, priority: int = 0) -> None:
    put(result, new(flags))


@function("cudaStreamGetFlags", P, P)
def stream_flags(stream: int | None, result: int) -> None:
    put(result, objects[stream or 0], UNSIGNED)


@function("cudaStreamGetPriority", P, P)
def stream_priority(stream: int | None, result: int) -> None:
    put(result, 0, INT)


@function("cudaStreamSynchronize", P)
@function("cudaEventSynchronize", P)
@function("cudaDeviceSynchronize")
def synchronize(what: int | None = None) -> None:
    not_in_capture("to wait")


@function("cudaStreamBeginCapture", P, INT)
def begin_capture(stream: int | None, mode: int) -> None:
    global capture
    if capture or not stream:
        raise Refused(BAD_CAPTURE, "a second capture, or the legacy stream's")
    capture = Capture(stream, mode, [])


@function("cudaStreamEndCapture", P, P)
def end_capture(stream: int | None, result: int) -> None:
    global capture
    if not capture or capture.stream != stream:
        raise Refused(BAD_CAPTURE, "no capture of this stream")
    put(result, new(capture.work))
    capture = None


@function("cudaStreamIsCapturing", P, P)
def is_capturing(stream: int | None, result: int) -> None:
    put(result, int(capture is not None and capture.stream == stream), INT)


@function("cudaGraphInstantiate", P, P, ctypes.c_ulonglong)
def instantiate(result: int, graph: int, flags: int) -> None:
    put(result, new(list(objects[graph])))


@function("cudaGraphLaunch", P, P)
def launch_graph(graph: int, stream: int | None) -> None:
    def work() -> None:
        for piece in objects[graph]:
            piece()

    on_stream(stream, "a graph", work)


@function("cudaEventCreate", P)
@function("cudaEventCreateWithFlags", P, UNSIGNED)
def create_event(result: int, flags: int = 0) -> None:
    put(result, new(0.0))


@function("cudaEventRecord", P, P)
def record(event: int, stream: int | None) -> None:
    on_stream(stream, "an event", lambda: objects.__setitem__(event, time.perf_counter()))


@function("cudaEventElapsedTime", P, P, P)
def elapsed(result: int, start: int, end: int) -> None:
    put(result, 1e3 * (objects[end] - objects[start]), ctypes.c_float)


@function("cudaStreamDestroy", P)
@function("cudaStreamQuery", P)
@function("cudaStreamWaitEvent", P, P, UNSIGNED)
@function("cudaEventDestroy", P)
@function("cudaEventQuery", P)
@function("cudaGraphUpload", P, P)
@function("cudaGraphDestroy", P)
@function("cudaGraphExecDestroy", P)
@function("cudaSetDevice", INT)
@function("cuModuleUnload", P)
@function("cuCtxSetCurrent", P)
@function("cuFuncSetAttribute", P, INT, INT)
@function("cublasDestroy_v2", P)
@function("cublasSetMathMode", P, INT)
@function("cublasSetPointerMode_v2", P, INT)
def nothing(*_: Any) -> None:
    """There is nothing to wait for, and handles are not given back."""


# The device


@function("cudaGetLastError")
def take_last_error() -> int:
    global last_error
    error, last_error = last_error, 0
    return error


@function("cudaDriverGetVersion", P)
@function("cudaRuntimeGetVersion", P)
def version(result: int) -> None:
    put(result, 13000, INT)


@function("cudaGetDevice", P)
@function("cuCtxGetDevice", P)
def current_device(result: int) -> None:
    put(result, 0, INT)


@function("cudaGetDeviceCount", P)
def device_count(result: int) -> None:
    put(result, 1, INT)


@function("cudaDeviceGetAttribute", P, INT, INT)
def device_attribute(result: int, attribute: int, device: int) -> None:
    put(result, ATTRIBUTES.get(attribute, 0), INT)


@function("cudaGetDeviceProperties", P, INT)
def device_properties(result: int, device: int) -> None:
    ctypes.memset(result, 0, PROPERTIES_BYTES)
    ctypes.memmove(result, b"emulated", 8)
    for offset, value in INTEGERS.items():
        put(result + offset, value, INT)
    for offset, value in SIZES.items():
        put(result + offset, value, SIZE)


@function("cuCtxGetCurrent", P)
def context(result: int) -> None:
    put(result, 0xC0)


@function("cuStreamGetCtx", P, P)
def context_of(stream: int | None, result: int) -> None:
    put(result, 0xC0)


@function("cuGetErrorName", INT, P)
@function("cuGetErrorString", INT, P)
def error_text(status: int, result: int) -> None:
    put(result, error_name(status))


def error_name(status: int) -> int:
    _alive.append(text := ctypes.create_string_buffer(f"error {status} of the emulated device".encode()))
    return ctypes.addressof(text)


# Memory


@function("cudaMalloc", P, SIZE)
def malloc(result: int, size: int) -> None:
    if capture and capture.mode != RELAXED:
        not_in_capture("memory")
    address = libc.aligned_alloc(512, -(-max(size, 1) // 512) * 512)
    if not address:
        raise Refused(OUT_OF_MEMORY)
    ctypes.memset(address, 255, size)
    device_memory[address] = size
    put(result, address)


@function("cudaFree", P)
def free(address: int | None) -> None:
    if capture and capture.mode != RELAXED:
        not_in_capture("to free memory")
    if address:
        if device_memory.pop(address, None) is None:
            raise Refused(INVALID_VALUE, f"no memory of the device's at {address:#x}")
        libc.free(address)


@function("cudaHostAlloc", P, SIZE, UNSIGNED)
def pin(result: int, size: int, flags: int) -> None:
    address = libc.aligned_alloc(512, -(-max(size, 1) // 512) * 512)
    pinned_memory[address] = size
    put(result, address)


@function("cudaFreeHost", P)
def unpin(address: int) -> None:
    del pinned_memory[address]
    libc.free(address)


@function("cudaMemGetInfo", P, P)
def memory_left(left: int, all_: int) -> None:
    put(left, (140 << 30) - sum(device_memory.values()), SIZE)
    put(all_, 140 << 30, SIZE)


@function("cudaMemcpy", P, P, SIZE, INT)
def copy(to: int, from_: int, size: int, kind: int) -> None:
    not_in_capture("a copy that waits")
    ctypes.memmove(to, from_, size)


@function("cudaMemcpyAsync", P, P, SIZE, INT, P)
def copy_on_stream(to: int, from_: int, size: int, kind: int, stream: int | None) -> None:
    is_pinned = any(start <= from_ < start + length for start, length in pinned_memory.items())
    if kind == FROM_HOST and not is_pinned:
        not_in_capture("a copy from memory that is not pinned")
    on_stream(stream, f"a copy of kind {kind}", lambda: ctypes.memmove(to, from_, size))


@function("cudaMemset", P, INT, SIZE)
def fill(to: int, value: int, size: int) -> None:
    not_in_capture("a fill that waits")
    ctypes.memset(to, value, size)


@function("cudaMemsetAsync", P, INT, SIZE, P)
def fill_on_stream(to: int, value: int, size: int, stream: int | None) -> None:
    on_stream(stream, "a fill", lambda: ctypes.memset(to, value, size))


@function("cudaPointerGetAttributes", P, P)
def pointer_attributes(result: int, address: int) -> None:
    ctypes.memset(result, 0, 32)
    put(result, 2, INT)  # cudaMemoryTypeDevice
    put(result + 8, address)


# Kernels


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within this context a kernel in which threads race for a place in memory is an error: two of them come there, one
    to write, and no barrier of theirs is between.  Races for shared memory and for the device's; atomics are none."""
    _watched.append(True)
    try:
        yield
    finally:
        _watched.pop()


@function("cuModuleLoadData", P, P)
def load_module(result: int, image: int) -> None:
    put(result, new(ctypes.string_at(image).decode()))


@function("cuModuleGetFunction", P, P, ctypes.c_char_p)
def get_kernel(result: int, module: int, name: bytes) -> None:
    try:
        kernels, library = ptx.load(objects[module])
    except ptx.Unknown as error:
        raise Refused(INVALID_PTX, str(error)) from error
    kernel = name.decode()
    if kernel not in kernels:
        raise Refused(NOT_FOUND, kernel)
    launch = getattr(library, f"launch_{ptx.name_in_c(kernel)}")
    launch.restype = ctypes.c_char_p
    watching, *counters = (
        INT.in_dll(library, "watching"),
        COUNT.in_dll(library, "executed"),
        COUNT.in_dll(library, "moved"),
    )
    put(result, new(Kernel(kernel, kernels[kernel], launch, watching, tuple(counters))))


@function("cuLaunchKernel", P, *[UNSIGNED] * 7, P, P, P)
def launch_kernel(handle: int, *how: Any) -> None:
    kernel, sizes, (shared, stream, places, _) = objects[handle], how[:6], how[6:]
    if not all(0 < n <= most for n, most in zip(sizes, LIMITS)) or sizes[3] * sizes[4] * sizes[5] > 1024:
        raise Refused(INVALID_VALUE, f"{kernel.name}: grid {sizes[:3]} of blocks {sizes[3:]}")
    if shared > LARGEST_SHARED:
        raise Refused(INVALID_VALUE, f"{kernel.name}: {shared} bytes of shared memory")
    given = (P * len(kernel.sizes)).from_address(places) if kernel.sizes else ()
    values = [ctypes.create_string_buffer(ctypes.string_at(p, n), n) for p, n in zip(given, kernel.sizes, strict=True)]
    called[kernel.name] += 1

    def work() -> None:
        kernel.watching.value = int(bool(_watched))
        before = [counter.value for counter in kernel.counters]
        pointers = (P * max(len(values), 1))(*map(ctypes.addressof, values))
        if broken := kernel.launch((UNSIGNED * 6)(*sizes), UNSIGNED(shared), pointers):
            raise Refused(ILLEGAL_ADDRESS, f"{kernel.name}: {broken.decode()}")
        for counted, counter, old in zip((executed, moved), kernel.counters, before, strict=True):
            counted[kernel.name] += counter.value - old

    on_stream(stream, kernel.name, work)


@function("cuFuncGetAttribute", P, INT, P)
def kernel_attribute(result: int, attribute: int, kernel: int) -> None:
    put(result, {0: 1024, 4: 32, 5: 90, 6: 90}.get(attribute, 0), INT)  # threads, registers, versions


@function("cuOccupancyMaxActiveBlocksPerMultiprocessor", P, P, INT, SIZE)
def blocks_at_once(result: int, kernel: int, threads: int, shared: int) -> None:
    put(result, max(2048 // max(threads, 1), 1), INT)


# cuBLAS: matrices column by column


@function("cublasCreate_v2", P)
def create_handle(result: int) -> None:
    put(result, new(SimpleNamespace(stream=0)))


@function("cublasSetStream_v2", P, P)
def set_stream(handle: int, stream: int | None) -> None:
    objects[handle].stream = stream


@function("cublasSetWorkspace_v2", P, P, SIZE)
def set_workspace(handle: int, place: int, size: int) -> None:
    if not any(start <= place and place + size <= start + length for start, length in device_memory.items()):
        raise Refused(INVALID_VALUE, "a workspace that is not in the device's memory")


@function("cublasGetMathMode", P, P)
@function("cublasGetPointerMode_v2", P, P)
def mode(handle: int, result: int) -> None:
    put(result, 0, INT)


class Factor(NamedTuple):
    place: int
    line: int  # from a column to the next
    apart: int  # from a matrix to the next


def multiply(
    handle: int,
    turned: tuple[int, int],
    sizes: tuple[int, int, int],
    scale: int,
    left: Factor,
    right: Factor,
    of_before: int,
    result: Factor,
    count: int,
    dtype: type,
) -> None:
    """C = α op(A) op(B) + β C for each of the matrices."""
    (m, n, k), real = sizes, ctypes.c_double if dtype is np.float64 else ctypes.c_float
    shapes = [(k, m) if turned[0] else (m, k), (n, k) if turned[1] else (k, n), (m, n)]
    if any(f.line < max(rows, 1) for f, (rows, _) in zip((left, right, result), shapes)):
        raise Refused(INVALID_VALUE, f"leading dimensions {left.line, right.line, result.line} of {shapes}")
    alpha, beta = (real.from_address(place).value for place in (scale, of_before))

    def work() -> None:
        multiplied["products"] += 2 * m * n * k * count
        a, b, c = (matrices(f, shape, count, dtype) for f, shape in zip((left, right, result), shapes))
        a, b = (x.swapaxes(1, 2) if turn else x for x, turn in zip((a, b), turned))
        found = alpha * np.matmul(b.swapaxes(1, 2), a.swapaxes(1, 2)).swapaxes(1, 2)
        c[...] = found + beta * c if beta else found

    on_stream(objects[handle].stream, "a product", work)


def matrices(factor: Factor, shape: tuple[int, int], count: int, dtype: type) -> np.ndarray:
    size, (rows, columns) = np.dtype(dtype).itemsize, shape
    strides = (factor.apart * size, size, factor.line * size)
    last = (count - 1) * strides[0] + (columns - 1) * strides[2] + rows * size
    memory: Any = (ctypes.c_char * max(last, 1)).from_address(factor.place)
    return np.ndarray((count, rows, columns), dtype, memory, 0, strides)


SHAPES = [P, INT, INT, INT, INT, INT]  # handle, transa, transb, m, n, k
OF_TYPE = {0: np.float32, 1: np.float64}


@function("cublasGemmEx", *SHAPES, P, *[P, INT, INT] * 2, P, P, INT, INT, INT, INT)
def gemm(handle: int, ta: int, tb: int, m: int, n: int, k: int, scale: int, *rest: int) -> None:
    (a, _, la), (b, _, lb), before, (c, kind, lc) = rest[:3], rest[3:6], rest[6], rest[7:10]
    factors = Factor(a, la, 0), Factor(b, lb, 0), before, Factor(c, lc, 0)
    multiply(handle, (ta, tb), (m, n, k), scale, *factors, 1, OF_TYPE[kind])


@function("cublasGemmStridedBatchedEx", *SHAPES, P, *[P, INT, INT, LONG] * 2, P, P, INT, INT, LONG, INT, INT, INT)
def gemm_of_stacks(handle: int, ta: int, tb: int, m: int, n: int, k: int, scale: int, *rest: int) -> None:
    (a, _, la, sa), (b, _, lb, sb), before, (c, kind, lc, sc), count = (
        rest[:4], rest[4:8], rest[8], rest[9:13], rest[13]
    )  # fmt: skip
    factors = Factor(a, la, sa), Factor(b, lb, sb), before, Factor(c, lc, sc)
    multiply(handle, (ta, tb), (m, n, k), scale, *factors, count, OF_TYPE[kind])


def of_type(letter: str, dtype: type) -> None:
    """The functions by which CuPy multiplies what we do not: vectors."""

    @function(f"cublas{letter}gemm_v2", *SHAPES, P, P, INT, P, INT, P, P, INT)
    def one(handle: int, ta: int, tb: int, m: int, n: int, k: int, scale: int, *rest: int) -> None:
        a, la, b, lb, before, c, lc = rest
        factors = Factor(a, la, 0), Factor(b, lb, 0), before, Factor(c, lc, 0)
        multiply(handle, (ta, tb), (m, n, k), scale, *factors, 1, dtype)

    @function(f"cublas{letter}gemmBatched", *SHAPES, P, P, INT, P, INT, P, P, INT, INT)
    def many(handle: int, ta: int, tb: int, m: int, n: int, k: int, scale: int, *rest: int) -> None:
        *lists, count = rest
        not_in_capture("a list of matrices")
        for i in range(count):
            a, b, c = (P.from_address(lists[j] + 8 * i).value for j in (0, 2, 5))
            one(handle, ta, tb, m, n, k, scale, a, lists[1], b, lists[3], lists[4], c, lists[6])


of_type("S", np.float32)
of_type("D", np.float64)


# In place of CUDA's


def as_c_function(name: str, python: Callable[..., Any], types: tuple[Any, ...], result: Any = INT) -> Any:
    """The function as C calls it; an exception becomes a status."""

    def call(*arguments: Any, ended: list[bool] = _ended) -> int:
        if ended:
            return 0
        called[name] += 1
        return guarded(name, python, arguments)

    _alive.append(made := ctypes.CFUNCTYPE(result, *types)(call))
    return made


def guarded(name: str, python: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    global last_error
    try:
        return python(*arguments) or 0
    except Refused as refused:
        print(f"emulated {name}: {refused}", file=sys.stderr)
        last_error = refused.status
    except Exception:
        traceback.print_exc()
        last_error = UNKNOWN
    return last_error


def missing(name: str) -> Any:
    def refuse(*_: Any) -> None:
        raise Refused(UNKNOWN, "there is no such function here")

    return as_c_function(name, refuse, ())


def put_in_place(address: int, function: Any) -> None:
    """Whoever calls what is at an address comes to the function: mov r11, function; jmp r11."""
    target = ctypes.cast(function, P).value
    write_code(address, b"\x49\xbb" + struct.pack("<Q", target) + b"\x41\xff\xe3")
    _patched.append(address)


def write_code(address: int, code: bytes) -> None:
    if libc.mprotect(address & -4096, 8192, 7):
        raise RuntimeError("the system lets nobody change a program while it runs")
    ctypes.memmove(address, code, len(code))


def runtime_functions(path: str) -> dict[str, int]:
    """The addresses of CUDA's functions within a library that is loaded, but for a few of a few bytes."""
    lines = subprocess.run(["nm", "-S", path], capture_output=True, text=True, check=True).stdout.splitlines()
    with open("/proc/self/maps") as maps:
        start = min(int(line.partition("-")[0], 16) for line in maps if line.rstrip().endswith(path))
    found = [words for words in map(str.split, lines) if len(words) == 4 and words[3].startswith("cuda")]
    return {name: start + int(at, 16) for at, size, kind, name in found if kind in "tT" and int(size, 16) > 12}


IDLE = (ptx.HERE / "idle.cpp").read_text()
NAMES_OF_IDLE = re.findall(r"^int (\w+)\(", IDLE, re.MULTILINE)


@functools.cache
def idle_functions() -> ctypes.PyDLL:
    """Functions that say that all went well, and do nothing; and `launches` and `products`, how many there were."""
    return ptx.compiled(IDLE)


def install(idle: bool = False) -> ModuleType:
    """CuPy, for which this machine has a GPU from now on; if that is idle, nothing is computed: see `idle`.

    Raises:
        ImportError: no CuPy.
        RuntimeError: another machine than Linux on x86-64.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise RuntimeError("the emulated device needs Linux on x86-64")
    os.environ |= {"CUPY_COMPILE_WITH_PTX": "1", "CUPY_CACHE_DIR": str(ptx.CACHE / "cupy")}
    from cuda import pathfinder
    from cupy_backends.cuda.api import driver, runtime
    from cupy_backends.cuda.libs import cublas

    functions = {name: as_c_function(name, *FUNCTIONS[name]) for name in FUNCTIONS}
    if idle:
        functions |= {name: getattr(idle_functions(), name) for name in NAMES_OF_IDLE}
    for name, address in runtime_functions(runtime.__file__).items():
        if name in ("cudaGetErrorName", "cudaGetErrorString"):
            put_in_place(address, as_c_function(name, error_name, (INT,), P))
        else:
            put_in_place(address, functions.get(name) or missing(name))
    library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cudart").abs_path)
    put_in_place(ctypes.cast(library.cudaRuntimeGetVersion, P).value or 0, functions["cudaRuntimeGetVersion"])

    loaded = ctypes.CDLL  # by which CuPy looks for the driver
    names = [name for name in dir(driver) if name[0].islower()]
    of_driver = {f"cu{name[0].upper()}{name[1:]}": None for name in names} | functions
    here = SimpleNamespace(**{n: f or missing(n) for n, f in of_driver.items()})
    ctypes.CDLL = lambda name, *a, **k: here if name == "libcuda.so.1" else loaded(name, *a, **k)  # type: ignore
    try:
        driver.ctxGetCurrent()
    finally:
        ctypes.CDLL = loaded  # type: ignore[misc]

    library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
    listed = subprocess.run(["nm", "-D", cublas.__file__], capture_output=True, text=True, check=True).stdout
    wanted = {line.split()[-1].partition("@")[0] for line in listed.splitlines()} | FUNCTIONS.keys()
    for name in sorted(n for n in wanted if n.startswith("cublas") and hasattr(library, n)):
        put_in_place(ctypes.cast(getattr(library, name), P).value or 0, functions.get(name) or missing(name))
    atexit.register(end)

    import cupy
    from cupy.cuda import cub, thrust

    thrust.sort, thrust.argsort = sort, argsort
    cub.cub_reduction = cub.cub_scan = lambda *_, **__: None  # then CuPy goes on to its other kernels
    return cupy


def end() -> None:
    """From now on all is done, and nothing is asked."""
    _ended.append(True)
    for address in _patched:
        write_code(address, b"\x31\xc0\xc3")  # xor eax, eax; ret


def sort(dtype: Any, place: int, keys: int, shape: Any) -> None:
    not_in_capture("a sort")
    array_at(place, shape, dtype).sort(axis=-1)


def argsort(dtype: Any, order: int, place: int, keys: int, shape: Any) -> None:
    not_in_capture("a sort")
    array_at(order, shape, np.int64)[...] = np.argsort(array_at(place, shape, dtype), axis=-1, kind="stable")


def array_at(place: int, shape: Any, dtype: Any) -> np.ndarray:
    memory = (ctypes.c_char * max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)).from_address(place)
    return np.ndarray(tuple(shape), dtype, memory)
