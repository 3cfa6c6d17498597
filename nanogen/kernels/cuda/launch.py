"""Launching CUDA kernels: our own sources by CuPy's RawKernel, elementwise functions by its `fuse`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nanogen.backend import Array, array_module
from nanogen.kernels.activation import memory_order

REAL = {"f": "float", "d": "double"}  # by NumPy's character
THREADS = 256  # of a block
FOLDER = Path(__file__).parent


def covers(*arrays: Array) -> bool:
    """Whether kernels support these arrays: all of one real type, float32 or float64."""
    real = arrays[0].dtype.char
    return real in REAL and all(array.dtype.char == real for array in arrays)


def cuda_source(name: str) -> str:
    """The text of a CUDA file with the files that it includes.

    CuPy writes it to a file in the locale's encoding.  So characters that are not ASCII are replaced; they only occur
    in comments."""
    read = lambda file: (FOLDER / file).read_text(encoding="utf-8").encode("ascii", "replace").decode()
    return re.sub(r'#include "(.*)"\n', lambda included: read(included[1]), read(f"{name}.cu"))


def launch(source: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
    """Launch the kernel `name` of a CUDA source.  `Real` in the source is the type of the first argument.

    Args:
        grid: the number of blocks along each axis; if one is 0, nothing is launched.
        block: the number of threads of a block along each axis.
        arguments: contiguous arrays; an int becomes a `long long`, a float a `double`.

    Raises:
        TypeError: the first array is neither float32 nor float64.
    """
    first = arguments[0]
    if (real := first.dtype.char) not in REAL:
        raise TypeError(f"{name}: arrays on a GPU must be float32 or float64, got {first.dtype}")
    if min(grid) > 0:
        _cuda_kernel(source, name, real, array_module(first))(grid, block, arguments)


def launch_grid(rows: int, columns: int) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block of a kernel that processes rows of numbers: one warp per row, or fewer threads if there are fewer
    columns."""
    each = max(min(columns, 32), 1)
    together = THREADS // each
    return (-(-rows // together),), (each, together)


@functools.cache
def _cuda_kernel(source: str, name: str, real: str, xp: ModuleType) -> Callable[..., None]:
    return xp.RawKernel(f"typedef {REAL[real]} Real;\n{source}", name)


def fuse(function: Callable[..., None]) -> Callable[..., None]:
    """An elementwise function that writes to its last arguments, as one kernel fused by CuPy.  NumPy arrays run it
    unchanged.

    The function may use arithmetic, `astype`, the array module's elementwise functions, `out=` and in-place assignment.
    It must not use shapes, indexing, reductions or truth values.  Axes are permuted so that neighbouring threads access
    neighbouring elements of the first array."""

    @functools.wraps(function)
    def call(*arguments: Any) -> None:
        first = arguments[0]
        if isinstance(first, np.ndarray):
            function(*arguments)
        else:
            order = memory_order(first.strides)
            permuted = [a.transpose(order) if hasattr(a, "strides") and a.ndim == first.ndim else a for a in arguments]
            _fused(function, array_module(first))(*permuted)

    return call


@functools.cache
def _fused(function: Callable[..., None], xp: ModuleType) -> Callable[..., None]:
    return xp.fuse(function)
