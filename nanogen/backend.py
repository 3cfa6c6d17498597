"""Which array module an array belongs to, moving between devices, and the registry of kernels.

An array module is NumPy or CuPy.  All other files call `array_module(x)`, and so compute on the device where x is.  A
*kernel* is a faster form of an operation for one device.  `nanogen.kernels` registers kernels; no other file needs it.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray; CuPy need not be installed

DEVICES = ("cpu", "cuda")


def array_module(array: Array) -> ModuleType:
    """The module whose functions work on `array`: cupy for CuPy's arrays, numpy for everything else.

    Nothing is imported here: where there is an array of CuPy's, CuPy has been imported.
    """
    return sys.modules["cupy"] if not isinstance(array, np.ndarray) and type(array).__module__[:4] == "cupy" else np


def device_module(device: str) -> ModuleType:
    """The array module that makes arrays on `device`.

    Raises:
        ValueError: no such device.
        RuntimeError: `cuda` without CuPy or without a GPU, with what to install.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cpu":
        return np
    try:
        import cupy  # imported only when it is needed: few machines have a GPU
    except ImportError as error:
        raise RuntimeError("device 'cuda' needs CuPy: pip install 'nanogen[cuda13]' (or [cuda12])") from error
    if not cupy.is_available():
        raise RuntimeError("device 'cuda' needs an NVIDIA GPU with its driver: CuPy is installed but finds none")
    return cupy


def device_of(array: Array) -> str:
    """`cpu` or `cuda`."""
    return "cpu" if array_module(array) is np else "cuda"


def to_device(array: Array, device: str) -> Array:
    """The same numbers on `device`; the array itself if it is there already."""
    xp = device_module(device)
    return array.get() if xp is np and array_module(array) is not np else xp.asarray(array)


def to_numpy(array: Array) -> np.ndarray:
    """The same numbers as a NumPy array.  If they are on a GPU, this waits for it."""
    return to_device(array, "cpu")


def resident(table: np.ndarray, dtype: Any, device: str) -> Array:
    """A copy of a table on a device, in another type.  It is cached, also for CUDA graphs, and must not be changed."""
    return _resident(table.tobytes(), table.dtype, table.shape, np.dtype(dtype), device)


@functools.cache
def _resident(numbers: bytes, own: np.dtype, shape: tuple[int, ...], dtype: np.dtype, device: str) -> Array:
    return to_device(np.frombuffer(numbers, own).reshape(shape).astype(dtype), device)


def check_range(name: str, values: Array, count: int) -> None:
    """Check that integers are in 0 … count − 1.  On a GPU they are not checked, since that would wait for it.

    Raises:
        ValueError: one of them is not.
    """
    if isinstance(values, np.ndarray) and values.size and not 0 <= values.min() <= values.max() < count:
        raise ValueError(f"{name} must be in 0 … {count - 1}, got {values[(values < 0) | (values >= count)][0]}")


def only(owner: str, there: Any) -> Callable[[str], Any]:
    """A `__getattr__` for names that are missing in the dictionary `there`: its error suggests similar names."""

    def refuse(name: str) -> Any:
        public = [key for key in there if not key.startswith("_")]
        close = [] if name.startswith("_") else difflib.get_close_matches(name, public) or sorted(public)
        raise AttributeError(f"{owner} has no {name!r}" + (f"; there is {', '.join(close)}" if close else ""))

    return refuse


def unsupported(name: str, default: Any = False, **given: Any) -> None:
    """Refuse settings that only torch has, unless they are None or have their default value.

    Raises:
        ValueError: a setting with another value.
    """
    for setting, value in given.items():
        if value is not None and (type(value) is not type(default) or value != default):
            raise ValueError(f"{name}: {setting}={value!r} is not supported")


class Operation:
    """A function on raw arrays, or on tensors, and its kernels by device.

    A kernel takes raw arrays and the same parameters as the plain form.  For types or shapes that it does not cover it
    returns `NotImplemented`, and the plain form runs.
    """

    __name__: str

    def __init__(self, plain: Callable[..., Any]):
        functools.update_wrapper(self, plain)
        self.plain = plain
        self.kernels: dict[str, tuple[Any, Any]] = {}
        OPERATIONS.append(self)

    def kernel(self, device: str) -> Callable[[Any], Any]:
        """A decorator that registers a kernel for a device, in place of an earlier one."""

        def register(form: Any) -> Any:
            self.kernels[device] = getattr(form, "forward", form), getattr(form, "gradient", None)
            return form

        return register

    def __call__(self, *arrays: Array, **parameters: Any) -> Any:
        found = self.by_kernel(list(arrays), parameters)
        return self.plain(*arrays, **parameters) if found is None else found[0]

    def by_kernel(self, arrays: list[Array], parameters: dict[str, Any]) -> tuple[Any, ...] | None:
        """(output,), or (output, saved, gradient) if the kernel has its own gradient; None if there is no kernel, or it
        declines."""
        kernel = self.kernels.get(device_of(arrays[0]))
        if kernel is None or (found := kernel[0](*arrays, **parameters)) is NotImplemented:
            return None
        return (found,) if kernel[1] is None else (*found, kernel[1])


OPERATIONS: list[Operation] = []


class Update(Operation):
    """An operation that changes lists of arrays in place and has no gradient: an optimiser's step, a moving average.

    A kernel gets all arrays in one call.  What changes from step to step is an argument: a number or an array of one.
    """

    def __call__(self, *arrays: list[Array], **parameters: Any) -> None:
        kernel, _ = self.kernels.get(device_of(arrays[0][0]), (None, None)) if arrays[0] else (None, None)
        if kernel is None or kernel(*arrays, **parameters) is NotImplemented:
            self.plain(*arrays, **parameters)


@Update
def moving_average(averages, values, *, kept, share):
    """a ← kept · a + share · x."""
    for a, x in zip(averages, values):
        a *= kept
        a += share * x


class Hook:
    """A function that only the annex has.  Until the annex fills the hook, the default runs."""

    def __init__(self, default: Callable[..., Any]):
        functools.update_wrapper(self, default)
        self.filled = default

    def __call__(self, *arguments: Any) -> Any:
        return self.filled(*arguments)

    def fill(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.filled = function
        return function


@Hook
def use_threads(count: int) -> contextlib.AbstractContextManager[Any]:
    """Within this context matrix products and kernels on the CPU use `count` threads."""
    return contextlib.nullcontext()


@Hook
def keep_freed_memory() -> None:
    """Keep freed memory for later arrays instead of returning it to the system."""


@Hook
def allow_tf32(allowed: bool) -> None:
    """Whether products of float32 matrices on a GPU may round the factors to TF32 (fractions of ten bits)."""


@Hook
def replay(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, recorded once as a CUDA graph and then replayed as a whole, on arrays of the same shapes each time.

    Raises:
        RuntimeError: there are no CUDA kernels.
    """
    raise RuntimeError("execution 'graph' needs nanogen's CUDA kernels")


@Hook
def device_source(key: list[Any], device: str) -> Any:
    """A source of random numbers on a device, by a key of four words; None: they are drawn on the host and copied."""
    return None
