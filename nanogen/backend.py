"""Which array module an array belongs to, moving between devices, work in blocks on threads, kernels on a GPU.

The only file that knows of devices: everything above asks `array_module(x)` and so follows its data.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import ctypes
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nanogen import compiled

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # then everything runs on the caller's thread
    ThreadpoolController = None

Array = Any  # numpy.ndarray or cupy.ndarray; CuPy need not be installed

DEVICES = ("cpu", "cuda")


def array_module(array: Array) -> ModuleType:
    """The module whose functions work on `array`: cupy for CuPy's arrays, numpy for everything else.

    An array of CuPy's can only exist once CuPy is imported, so nothing is imported here.
    """
    return sys.modules["cupy"] if type(array).__module__.partition(".")[0] == "cupy" else np


def device_module(device: str) -> ModuleType:
    """The array module that makes arrays on `device`.

    Raises:
        ValueError: no such device.
        RuntimeError: `cuda` without CuPy or without a GPU, with what to install.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {DEVICES}, got {device!r}")
    if device == "cpu":
        return np
    try:
        import cupy  # the one import that waits until it is asked for: few machines have a GPU
    except ImportError as error:
        raise RuntimeError("device 'cuda' needs CuPy: pip install 'nanogen[cuda13]' (or [cuda12])") from error
    if not cupy.is_available():
        raise RuntimeError("device 'cuda' needs an NVIDIA GPU with its driver: CuPy is installed but finds none")
    return cupy


def allow_tf32(allowed: bool) -> None:
    """Whether a GPU's products of float32 matrices may keep ten bits of each factor's fraction (TF32): faster.

    Those of `kernels.products` from now on; CuPy's own look at it once, before the first of a process."""
    os.environ["CUPY_TF32"] = str(int(allowed))


def tf32_allowed() -> bool:
    """What `allow_tf32` said last, or the environment (CUPY_TF32=1)."""
    return os.environ.get("CUPY_TF32") == "1"


def device_of(array: Array) -> str:
    """`cpu` or `cuda`."""
    return "cpu" if array_module(array) is np else "cuda"


def to_device(array: Array, device: str) -> Array:
    """The same numbers on `device`; the array itself if it lies there already."""
    xp = device_module(device)
    if array_module(array) is xp:
        return xp.asarray(array)
    return xp.asarray(array) if xp is not np else array.get()


def to_numpy(array: Array) -> np.ndarray:
    """The same numbers as a NumPy array; waits for the device if they lie on one."""
    return to_device(array, "cpu")


def resident(table: np.ndarray, dtype: Any, device: str) -> Array:
    """A table of the host's in another type on a device, where it stays, also for CUDA graphs; not to be changed."""
    return _resident(table.tobytes(), table.dtype, table.shape, np.dtype(dtype), device)


@functools.cache
def _resident(numbers: bytes, own: np.dtype, shape: tuple[int, ...], dtype: np.dtype, device: str) -> Array:
    return to_device(np.frombuffer(numbers, own).reshape(shape).astype(dtype), device)


def check_range(name: str, values: Array, count: int) -> None:
    """Refuse integers that are not in 0 … count − 1.  On a GPU nothing is looked at: that would wait for it.

    Raises:
        ValueError: such a number.
    """
    if isinstance(values, np.ndarray) and values.size and not 0 <= values.min() <= values.max() < count:
        raise ValueError(f"{name} must be in 0 … {count - 1}, got {values.min()} … {values.max()}")


def only(owner: str, there: Any) -> Callable[[str], Any]:
    """What answers for a name that is not `there`, a mapping by name: an error that says what is."""

    def refuse(name: str) -> Any:
        public = [key for key in there if not key.startswith("_")]
        close = [] if name.startswith("_") else difflib.get_close_matches(name, public) or sorted(public)
        raise AttributeError(f"{owner} has no {name!r}" + (f"; there is {', '.join(close)}" if close else ""))

    return refuse


def unsupported(name: str, **given: Any) -> None:
    """Refuse what torch takes here and nanogen does not, unless it is left at None or False.

    Raises:
        ValueError: a setting of another value, by its name.
    """
    for setting, value in given.items():
        if value is not None and value is not False:
            raise ValueError(f"{name}: {setting}={value!r} is not supported")


def block_bytes(cache: str = "/sys/devices/system/cpu/cpu0/cache/index2/size") -> int:
    """Four times a core's own cache, as far as Linux tells of it and measurements go, from 2 to 8 MiB: with half as
    much a training step takes up to a tenth longer.  `cache` is a file that says 2048K."""
    try:
        with open(cache, encoding="ascii") as file:
            kibibytes = int(file.read().strip().removesuffix("K"))
    except (OSError, ValueError):
        kibibytes = 1024
    return min(max(4 * kibibytes, 2048), 8192) << 10


BLOCK_BYTES = block_bytes()  # about what a block of images reads and writes: it stays in the cache from step to step
BLOCKS = 4  # blocks come in multiples of this, for as many threads
GROUPS = -(-(os.cpu_count() or 1) // BLOCKS) * BLOCKS  # of images, in C: for as many threads as there could be


def in_blocks(work: Callable[[slice], Any], like: Array, item_bytes: int) -> list[Any]:
    """The results of `work(part)` for consecutive parts of the first axis of `like`, in their order.

    On a CPU the parts are such that each reads and writes about BLOCK_BYTES (an item `item_bytes`), and they are shared
    out among as many threads as NumPy's matrix products are allowed; where there are C functions, they are taken one by
    one, and those threads share the loops of each.  Inside, a product runs on one thread: the threads
    of OpenBLAS wait for their next product in a loop that takes a core away from everybody else.  The parts do not
    depend on the number of threads, but on the processor.  On a GPU there is one part."""
    count = len(like)
    if not isinstance(like, np.ndarray):
        return [work(slice(0, count))]
    parts = parts_of(count, item_bytes, BLOCK_BYTES)
    if compiled.has(like.dtype):  # whose loops are what threads share
        with AllThreadsInC():
            return [work(part) for part in parts]
    threads_of_blas, use_threads_of_blas = blas_threads()
    allowed = threads_of_blas()
    if allowed == 1:
        return [work(part) for part in parts]
    use_threads_of_blas(1)
    blocks = len(parts)
    threads = min(allowed, blocks)

    def share(i: int) -> list[Any]:
        return [work(part) for part in parts[blocks * i // threads : blocks * (i + 1) // threads]]

    try:
        others = [_pool(allowed).submit(contextvars.copy_context().run, share, i) for i in range(1, threads)]
        return [*share(0), *(result for other in others for result in other.result())]
    finally:
        use_threads_of_blas(allowed)


class AllThreadsInC:
    """Within this context C's loops are shared by as many threads as NumPy's matrix products are allowed, and a product
    has one.  Where one was allowed nothing changes."""

    def __enter__(self) -> None:
        threads_of_blas, self.use_threads_of_blas = blas_threads()
        self.allowed = threads_of_blas()
        if self.allowed > 1:
            self.use_threads_of_blas(1)
            compiled.use_threads(self.allowed)

    def __exit__(self, *error: Any) -> None:
        if self.allowed > 1:
            compiled.use_threads(1)
            self.use_threads_of_blas(self.allowed)


@functools.lru_cache(4096)
def parts_of(count: int, item_bytes: int, block_bytes: int) -> list[slice]:
    """`count` items in parts of about so many bytes."""
    blocks = -(-count * item_bytes // (block_bytes * BLOCKS)) * BLOCKS if count * item_bytes > block_bytes else 1
    blocks = min(blocks, max(count, 1))
    return [slice(count * i // blocks, count * (i + 1) // blocks) for i in range(blocks)]


def by_parts(work: Callable[..., Any], *arrays: Array) -> list[Any]:
    """The results of `work` on corresponding parts of arrays with a common first axis; see `in_blocks`.

    So work of several steps, which writes into its last arguments, finds its numbers in the cache.  A single number
    comes as an array of one."""
    if arrays[0].ndim == 0:
        return [work(*[array[None] for array in arrays])]
    if not isinstance(arrays[0], np.ndarray):
        return [work(*arrays)]
    item_bytes = sum(array.nbytes for array in arrays) // max(2 * len(arrays[0]), 1)  # cheaper than matrix products
    return in_blocks(lambda part: work(*[array[part] for array in arrays]), arrays[0], item_bytes)


def by_element(kernel: Callable[..., None], *arrays: Array) -> Array:
    """A new array like the first, into which a kernel writes what it makes of them."""
    out = array_module(arrays[0]).empty_like(arrays[0])
    by_parts(kernel, *arrays, out)
    return out


def fuse(function: Callable[..., None]) -> Callable[..., None]:
    """An elementwise function, which writes into its last arguments: on a GPU one kernel (CuPy's `fuse` makes it), on a
    CPU the C function of its name, where there is one and the arrays have one type and shape and lie alike in memory.

    It is made of arithmetic, `astype`, the array module's elementwise functions, `out=` and assignments in place; it
    asks for no shape, index, sum or truth.  Its arrays have one number of axes; the others among its arguments are
    numbers.  The axes are taken as they lie in memory in the first array, so that neighbours there are neighbours among
    a GPU's threads."""

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        first = arguments[0]
        if not isinstance(first, np.ndarray):
            _kernel(function, array_module(first))(*as_in_memory(arguments))
        elif not by_c(function.__name__, *arguments):
            function(*arguments)

    return call


def by_c(name: str, *arguments: Any) -> bool:
    """Call the C function `name` for each element of the arrays among the arguments, where there is one and these have
    one type and shape and lie alike in memory; or say that this can't be done."""
    first = arguments[0]
    if not isinstance(first, np.ndarray) or not compiled.has(first.dtype, name):
        return False
    turned = [a if isinstance(a, np.ndarray) else float(a) for a in as_in_memory(arguments)]
    arrays = [a for a in turned if isinstance(a, np.ndarray)]
    if any(not a.flags.c_contiguous or a.shape != arrays[0].shape or a.dtype != first.dtype for a in arrays):
        return False
    compiled.call(name, *turned, first.size)
    return True


@functools.lru_cache(4096)
def axes_as_in_memory(strides: tuple[int, ...]) -> list[int]:
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


def as_in_memory(arguments: tuple[Any, ...]) -> list[Any]:
    """Arrays, among other arguments, with their axes in the order in which they lie in memory in the first of them."""
    order = axes_as_in_memory(arguments[0].strides)
    return [a.transpose(order) if hasattr(a, "strides") and a.ndim else a for a in arguments]


@functools.cache
def _kernel(function: Callable[..., None], xp: ModuleType) -> Callable[..., None]:
    return xp.fuse(function)


class ByDevice:
    """A function on raw arrays with other forms: for a GPU, `@name.on_gpu`, and for a CPU with C functions of a type,
    `@name.in_c`.  Its first argument, an array, says where it is and of which type."""

    def __init__(self, form: Callable[..., Any]):
        self.form = self.gpu_form = form
        self.c_form: Callable[..., Any] | None = None
        functools.update_wrapper(self, form)

    def on_gpu(self, form: Callable[..., Any]) -> Callable[..., Any]:
        self.gpu_form = form
        return form

    def in_c(self, form: Callable[..., Any]) -> Callable[..., Any]:
        self.c_form = form
        return form

    def __call__(self, array: Array, *arguments: Any, **named: Any) -> Any:
        if not isinstance(array, np.ndarray):
            form = self.gpu_form if array.dtype.char in compiled.REAL else self.form
            return form(array, *arguments, **named)
        form = self.c_form if self.c_form and compiled.has(array.dtype) else self.form
        return form(array, *arguments, **named)


LARGE = 1 << 15  # numbers, from which on threads are worth their while


@fuse
def write_sum(a: Array, b: Array, out: Array) -> None:
    array_module(a).add(a, b, out=out)


def plus(a: Array, b: Array) -> Array:
    """a + b; if both are large and alike, by all threads."""
    alike = getattr(a, "size", 0) > LARGE and a.shape == b.shape and a.dtype == b.dtype
    return by_element(write_sum, a, b) if alike else a + b


def cuda_source(name: str) -> str:
    """The CUDA file of that name among the kernels, with the files that it includes.  CuPy writes it to a file in the
    locale's encoding: what is not ASCII, all of it in comments, is replaced."""
    kernels = Path(__file__).parent / "kernels"
    read = lambda file: (kernels / file).read_text(encoding="utf-8").encode("ascii", "replace").decode()
    return re.sub(r'#include "(.*)"\n', lambda included: read(included[1]), read(f"{name}.cu"))


def launch(source: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
    """Run the kernel `name` of a CUDA source, in which `Real` is the type of the first argument, on a GPU.

    Args:
        grid: how many blocks there are; without any, nothing is run.
        block: how many threads a block has.
        arguments: arrays, whose memory is taken as it lies; an int is a `long long` there, a float a `double`.

    Raises:
        TypeError: the first array is neither float32 nor float64.
    """
    first = arguments[0]
    if (real := first.dtype.char) not in compiled.REAL:
        raise TypeError(f"{name}: on a GPU numbers are float32 or float64, got {first.dtype}")
    if min(grid) > 0:
        _cuda_kernel(source, name, real, array_module(first))(grid, block, arguments)


THREADS = 256  # of a block


def shared_out(rows: int, columns: int) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block for a kernel that goes through rows of numbers: a row for a warp, or for as many of its threads as
    there are columns."""
    each = max(min(columns, 32), 1)
    together = THREADS // each
    return (-(-rows // together),), (each, together)


@functools.cache
def _cuda_kernel(source: str, name: str, real: str, xp: ModuleType) -> Callable[..., None]:
    return xp.RawKernel(f"typedef {compiled.REAL[real]} Real;\n{source}", name)


@functools.cache
def matrix_library() -> Any:
    """threadpoolctl's hold on the BLAS that NumPy multiplies matrices with; None where there is none."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers if ThreadpoolController else []
    return next((library for library in found if "numpy" in library.filepath), found[0] if found else None)


@functools.cache
def blas_function(name: str) -> Any:
    """A function of NumPy's BLAS, whose wheels name it in their own way; None where it isn't found."""
    found = ctypes.CDLL(matrix_library().filepath) if matrix_library() else None
    names = [f"{prefix}{name}{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")]
    return next((getattr(found, name) for name in names if found and hasattr(found, name)), None)


@functools.cache
def blas_threads() -> tuple[Callable[[], int], Callable[[int], Any]]:
    """How many threads a product of NumPy's has, and to say how many.  By OpenBLAS's own functions in a tenth of the
    time that threadpoolctl takes, which is that of a small operation."""
    own = blas_function("openblas_get_num_threads"), blas_function("openblas_set_num_threads")
    if all(own):
        return own
    library = matrix_library()
    return (library.get_num_threads, library.set_num_threads) if library else (lambda: 1, lambda count: None)


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads - 1, thread_name_prefix="nanogen")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next array, where it is glibc; for the whole process.

    A training step makes the arrays of the step before once more.  Given back to the system in between, each page is a
    fault: a tenth of the time of a step at 28×28, of the GAN's a quarter.  The most memory that is needed stays as it
    is.  Arrays beyond 32 MiB are given back in any case."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 25)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pool, but not its threads
