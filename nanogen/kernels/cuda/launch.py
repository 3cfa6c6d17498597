"""Launching CUDA kernels: our own sources through CuPy's RawKernel, elementwise functions through its `fuse`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nanogen.backend import Array, array_module

REAL = {"f": "float", "d": "double"}  # by NumPy's character
THREADS = 256  # of a block
FOLDER = Path(__file__).parent


def covers(*arrays: Array) -> bool:
    """Whether kernels take these arrays: of one real type."""
    real = arrays[0].dtype.char
    return real in REAL and all(array.dtype.char == real for array in arrays)


def cuda_source(name: str) -> str:
    """The CUDA file of that name with the files that it includes.  CuPy writes it to a file in the locale's encoding:
    what is not ASCII, all of it in comments, is replaced."""
    read = lambda file: (FOLDER / file).read_text(encoding="utf-8").encode("ascii", "replace").decode()
    return re.sub(r'#include "(.*)"\n', lambda included: read(included[1]), read(f"{name}.cu"))


def launch(source: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
    """Run the kernel `name` of a CUDA source, in which `Real` is the type of the first argument, on a GPU.

    Args:
        grid: how many blocks there are; without any, nothing is run.
        block: how many threads a block has.
        arguments: contiguous arrays; an int is a `long long` there, a float a `double`.

    Raises:
        TypeError: the first array is neither float32 nor float64.
    """
    first = arguments[0]
    if (real := first.dtype.char) not in REAL:
        raise TypeError(f"{name}: on a GPU numbers are float32 or float64, got {first.dtype}")
    if min(grid) > 0:
        _cuda_kernel(source, name, real, array_module(first))(grid, block, arguments)


def launch_grid(rows: int, columns: int) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block for a kernel that goes through rows of numbers: a row for a warp, or for as many of its threads as
    there are columns."""
    each = max(min(columns, 32), 1)
    together = THREADS // each
    return (-(-rows // together),), (each, together)


@functools.cache
def _cuda_kernel(source: str, name: str, real: str, xp: ModuleType) -> Callable[..., None]:
    return xp.RawKernel(f"typedef {REAL[real]} Real;\n{source}", name)


def fuse(function: Callable[..., None]) -> Callable[..., None]:
    """An elementwise function, which writes into its last arguments, as one kernel that CuPy makes; NumPy runs it as it
    stands.

    It is made of arithmetic, `astype`, the array module's elementwise functions, `out=` and assignments in place; it
    asks for no shape, index, sum or truth.  Axes are permuted so that neighbouring threads work on neighbours in the
    first array's memory."""

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


@functools.lru_cache(4096)
def memory_order(strides: tuple[int, ...]) -> list[int]:
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


@functools.cache
def _fused(function: Callable[..., None], xp: ModuleType) -> Callable[..., None]:
    return xp.fuse(function)
