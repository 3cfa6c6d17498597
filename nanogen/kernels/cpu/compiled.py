"""The C library: all `*.c` files of this folder, compiled once for each real type, and how its functions are called."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import numpy as np

from nanogen.kernels.activation import memory_order
from nanogen.kernels.cpu.build import REAL, library
from nanogen.kernels.cpu.threads import blas_threads, single_threaded


def covers(*arrays: np.ndarray) -> bool:
    """Whether the library supports these arrays: all of one real type, float32 or float64."""
    real = arrays[0].dtype.char
    return real in REAL and all(array.dtype.char == real for array in arrays) and library(real) is not None


KINDS = {int: ctypes.c_longlong, float: ctypes.c_double}


def call(name: str, *arguments: Any) -> None:
    """Call the C function for the dtype of the first argument, an array, with as many threads as the BLAS may use.

    Args:
        arguments: contiguous arrays, or None for a null pointer; an int becomes an `Int` (64 bits), a float a `double`.

    Raises:
        ValueError: an array that is not contiguous.
    """
    function, number = _function(arguments[0].dtype.char, name)
    if function.argtypes is None:
        function.argtypes = [KINDS.get(type(argument), ctypes.c_void_p) for argument in arguments]
    number.value = min(blas_threads()[0](), _most)
    single_threaded(function, *[address(a) if isinstance(a, np.ndarray) else a for a in arguments])


@functools.cache
def _function(real: str, name: str) -> Any:
    """The function, and the library's variable `threads`."""
    found = getattr(library(real), name)
    found.restype = None
    return found, ctypes.c_int.in_dll(library(real), "threads")  # type: ignore[arg-type]


def address(array: np.ndarray) -> int:
    """The address of a contiguous array."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # type: ignore[arg-type]  # fast, if writable
    except (TypeError, ValueError) as error:
        if array.flags.c_contiguous:
            return array.ctypes.data
        raise ValueError(f"not contiguous: shape {array.shape}, strides {array.strides}") from error


def _after_fork() -> None:
    """Use one thread from now on: OpenMP's threads do not survive a fork, and OpenMP would wait for them forever."""
    global _most
    _most = 1


_most = os.cpu_count() or 1
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def elementwise(name: str, *arrays: np.ndarray, settings: tuple[float, ...] = ()) -> Any:
    """The result of the elementwise C function `name` of arrays of one shape, and of settings, in a new array.

    The arrays are read and written in the memory order of the first one."""
    if not covers(*arrays) or any(a.shape != arrays[0].shape for a in arrays):
        return NotImplemented
    order = memory_order(arrays[0].strides)
    given = [np.ascontiguousarray(a.transpose(order)) if a.ndim else a for a in arrays]
    out = np.empty(given[0].shape, given[0].dtype)
    call(name, *given, *map(float, settings), out, out.size)
    return out.transpose([order.index(axis) for axis in range(out.ndim)]) if out.ndim else out
