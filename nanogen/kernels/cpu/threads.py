"""How many threads a kernel has: as many as NumPy's matrix products are allowed.

A kernel that calls the BLAS itself shares its own loops among threads, and each product has one: OpenBLAS's threads
wait for their next product in a loop that takes a core away from everybody else.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

from threadpoolctl import ThreadpoolController, threadpool_limits

from nanogen import backend


@functools.cache
def blas() -> Any:
    """threadpoolctl's handle of the BLAS that NumPy multiplies matrices with; None where there is none."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return next((library for library in found if "numpy" in library.filepath), found[0] if found else None)


@functools.cache
def blas_function(name: str) -> Any:
    """A function of that BLAS, which NumPy's wheels rename; None where it isn't found."""
    found = ctypes.CDLL(blas().filepath) if blas() else None
    names = [f"{prefix}{name}{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")]
    return next((getattr(found, name) for name in names if found and hasattr(found, name)), None)


@functools.cache
def blas_threads() -> tuple[Callable[[], int], Callable[[int], Any]]:
    """To get and to set how many threads a product has.  OpenBLAS's own functions take a tenth of threadpoolctl's
    time, which is that of a small operation."""
    own = blas_function("openblas_get_num_threads"), blas_function("openblas_set_num_threads")
    if all(own):
        return own
    library = blas()
    return (library.get_num_threads, library.set_num_threads) if library else (lambda: 1, lambda count: None)


@backend.use_threads.fill
def use_threads(count: int) -> Any:
    return threadpool_limits(count)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@backend.keep_freed_memory.fill
def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next array, where it is glibc; for the whole process.

    A training step makes the arrays of the step before once more.  Given back to the system in between, each page is a
    fault: a tenth of the time of a step at 28×28, of the GAN's a quarter.  The most memory that is needed stays as it
    is.  Arrays beyond 32 MiB are given back in any case."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 25)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
