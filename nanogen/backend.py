"""Which array module an array belongs to, moving between devices, work in blocks on threads, and random numbers.

The only file that knows of devices: everything above asks `array_module(x)` and so follows its data.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

try:
    from threadpoolctl import ThreadpoolController
except ImportError:  # then everything runs on the caller's thread
    ThreadpoolController = None

Array = Any  # numpy.ndarray or cupy.ndarray; CuPy need not be installed
Size = int | tuple[int, ...]

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
    """A table of the host's in another type on a device, where it stays for its next use; not to be changed."""
    return _resident(table.tobytes(), table.dtype, table.shape, np.dtype(dtype), device)


@functools.lru_cache(maxsize=64)
def _resident(numbers: bytes, own: np.dtype, shape: tuple[int, ...], dtype: np.dtype, device: str) -> Array:
    return to_device(np.frombuffer(numbers, own).reshape(shape).astype(dtype), device)


def check_range(name: str, values: Array, count: int) -> None:
    """Refuse integers that are not in 0 … count − 1.  On a GPU nothing is looked at: that would wait for it.

    Raises:
        ValueError: such a number.
    """
    if isinstance(values, np.ndarray) and values.size and not 0 <= values.min() <= values.max() < count:
        raise ValueError(f"{name} must be in 0 … {count - 1}, got {values.min()} … {values.max()}")


BLOCK_BYTES = 1 << 21  # about what a block of images reads and writes: it stays in the cache from step to step
BLOCKS = 4  # blocks come in multiples of this, for as many threads


def in_blocks(work: Callable[[slice], Any], like: Array, item_bytes: int) -> list[Any]:
    """The results of `work(part)` for consecutive parts of the first axis of `like`, in their order.

    On a CPU the parts are such that each reads and writes about BLOCK_BYTES (an item `item_bytes`), and they are shared
    out among as many threads as NumPy's matrix products are allowed.  Inside, a product runs on one thread: the threads
    of OpenBLAS wait for their next product in a loop that takes a core away from everybody else.  The parts do not
    depend on the number of threads.  On a GPU there is one part."""
    count = len(like)
    if not isinstance(like, np.ndarray):
        return [work(slice(0, count))]
    blocks = -(-count * item_bytes // (BLOCK_BYTES * BLOCKS)) * BLOCKS if count * item_bytes > BLOCK_BYTES else 1
    blocks = min(blocks, max(count, 1))
    parts = [slice(count * i // blocks, count * (i + 1) // blocks) for i in range(blocks)]
    library = matrix_library()
    allowed = library.num_threads if library else 1
    if allowed == 1:
        return [work(part) for part in parts]
    threads = min(allowed, blocks)

    def share(i: int) -> list[Any]:
        return [work(part) for part in parts[blocks * i // threads : blocks * (i + 1) // threads]]

    library.set_num_threads(1)
    try:
        others = [_pool(allowed).submit(contextvars.copy_context().run, share, i) for i in range(1, threads)]
        return [*share(0), *(result for other in others for result in other.result())]
    finally:
        library.set_num_threads(allowed)


def by_parts(work: Callable[..., Any], *arrays: Array) -> list[Any]:
    """The results of `work` on corresponding parts of arrays with a common first axis; see `in_blocks`.

    So work of several steps, which writes into its last arguments, finds its numbers in the cache."""
    if arrays[0].ndim == 0:
        return [work(*arrays)]
    item_bytes = sum(array.nbytes for array in arrays) // max(2 * len(arrays[0]), 1)  # cheaper than matrix products
    return in_blocks(lambda part: work(*[array[part] for array in arrays]), arrays[0], item_bytes)


def matmul(a: Array, b: Array) -> Array:
    """a @ b, the first axis of a shared out among the threads."""
    xp = array_module(a)
    if min(a.ndim, b.ndim) < 2 or (b.ndim > 2 and a.shape[:-2] != b.shape[:-2]):
        return a @ b
    out = xp.empty((*a.shape[:-1], b.shape[-1]), xp.result_type(a, b))
    item_bytes = (a.nbytes + out.nbytes) // max(len(a), 1)
    in_blocks(lambda part: xp.matmul(a[part], b if b.ndim == 2 else b[part], out=out[part]), a, item_bytes)
    return out


@functools.cache
def matrix_library() -> Any:
    """threadpoolctl's hold on the BLAS that NumPy multiplies matrices with; None where there is none."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers if ThreadpoolController else []
    return next((library for library in found if "numpy" in library.filepath), found[0] if found else None)


@functools.cache
def _pool(threads: int) -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(threads - 1, thread_name_prefix="nanogen")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pool, but not its threads


class Generator:
    """Random numbers for one device: every function that draws takes one of these.

    A counter-based generator (Philox4x64; Salmon et al. 2011) draws on the host and moves the result, so the
    same seed gives the same numbers on every device.  A generator is a pure function of `(seed, stream)` and
    of how much was drawn, so `stream(k)` gives step k of a long run its own numbers without any history.

    Args:
        seed: a non-negative integer.
        device: where the drawn arrays lie, `cpu` or `cuda`.

    Raises:
        ValueError: a negative seed, an unknown device.
        TypeError: a seed that is no integer.
    """

    def __init__(self, seed: int, device: str = "cpu"):
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed must be an integer, got {type(seed).__name__}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        device_module(device)
        self.seed, self.device = int(seed), device
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed)))

    def stream(self, *indices: int) -> Generator:
        """An independent generator, that of these indices and this seed, whatever was drawn from this one."""
        child = Generator(self.seed, self.device)
        child._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=indices)))
        return child

    def normal(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Draws from N(0, 1)."""
        return self._place(self._generator.standard_normal(size, np.dtype(dtype)))

    def uniform(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Draws from the uniform distribution on [0, 1)."""
        return self._place(self._generator.random(size, np.dtype(dtype)))

    def integers(self, low: int, high: int, size: Size = ()) -> Array:
        """Integers from `low` up to but not including `high`, each equally likely."""
        return self._place(self._generator.integers(low, high, size))

    def permutation(self, n: int) -> Array:
        """0 … n−1 in random order."""
        return self._place(self._generator.permutation(n))

    @property
    def state(self) -> dict[str, Any]:
        """All that the next draws depend on, as plain numbers and lists; assign it to go back there."""
        state = self._generator.bit_generator.state
        inner = {name: values.tolist() for name, values in state["state"].items()}
        return {**state, "state": inner, "buffer": state["buffer"].tolist()}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        inner = {name: np.array(values, np.uint64) for name, values in state["state"].items()}
        buffer = np.array(state["buffer"], np.uint64)
        self._generator.bit_generator.state = {**state, "state": inner, "buffer": buffer}

    def _place(self, drawn: Any) -> Array:
        return to_device(np.asarray(drawn), self.device)
