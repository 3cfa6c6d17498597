"""The number of threads of a kernel: as many as NumPy's matrix products may use.

A kernel that calls the BLAS parallelises its own loops, and each product runs on one thread.  OpenBLAS's threads would
wait for the next product in a busy loop, which keeps a core from the other threads.
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
    """threadpoolctl's handle of NumPy's BLAS; None if there is none."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return next((library for library in found if "numpy" in library.filepath), found[0] if found else None)


@functools.cache
def blas_function(name: str) -> Any:
    """A function of that BLAS; None if it isn't found.  NumPy's wheels add a prefix and a suffix to its name."""
    found = ctypes.CDLL(blas().filepath) if blas() else None
    names = [f"{prefix}{name}{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")]
    return next((getattr(found, name) for name in names if found and hasattr(found, name)), None)


@functools.cache
def blas_threads() -> tuple[Callable[[], int], Callable[[int], Any]]:
    """Functions that get and set the number of threads of a product.

    OpenBLAS's own functions take a tenth of the time of threadpoolctl's, which take as long as a small operation."""
    own = blas_function("openblas_get_num_threads"), blas_function("openblas_set_num_threads")
    if all(own):
        return own
    library = blas()
    return (library.get_num_threads, library.set_num_threads) if library else (lambda: 1, lambda count: None)


def single_threaded(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), with one thread for each product of the BLAS."""
    get_threads, set_threads = blas_threads()
    count = get_threads()
    if count == 1:
        return function(*arguments)
    set_threads(1)
    try:
        return function(*arguments)
    finally:
        set_threads(count)


backend.use_threads.fill(threadpool_limits)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@backend.keep_freed_memory.fill
def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next arrays, in the whole process.  Without glibc nothing happens.

    A training step allocates the same arrays as the step before.  If their memory went back to the system in between,
    each page would cost a page fault: a tenth of the time of a step at 28×28, a quarter of the GAN's.  The peak memory
    does not change.  Arrays above 32 MiB always go back."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 25)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
