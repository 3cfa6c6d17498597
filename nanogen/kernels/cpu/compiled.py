"""The C library: all `*.c` files of this folder, compiled once for each real type.

The system's compiler compiles it at the first use on a machine.  An empty `CC=` in the environment means that there is
no compiler; then the plain NumPy forms run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nanogen.kernels.cpu.threads import blas_threads, single_threaded

FOLDER = Path(__file__).parent
REAL = {"f": "float", "d": "double"}  # by NumPy's character
# For the processor that compiles it.  No C code here reads errno or needs floating-point exceptions.
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


def covers(*arrays: np.ndarray) -> bool:
    """Whether the library supports these arrays: all of one real type, float32 or float64."""
    real = arrays[0].dtype.char
    return real in REAL and all(array.dtype.char == real for array in arrays) and library(real) is not None


def compiler() -> list[str]:
    """The compiler's command; empty if there is no compiler."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else []


@functools.cache
def library(real: str) -> ctypes.CDLL | None:
    """The functions for NumPy's type `f` or `d`.  None without a compiler; None with a warning if compiling fails."""
    command = compiler()
    if not command:
        return None
    sources = sorted(FOLDER.glob("*.c"))
    command += [*FLAGS, f"-DReal={REAL[real]}", f"-I{FOLDER.parent}"]
    try:
        made = cache() / f"{name_of(command, sources)}.so"
        os.fsencode(made).decode("utf-8")  # else threadpoolctl fails, which decodes all paths so
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=made.parent) as folder:  # other processes never see a partial file
                new = Path(folder) / made.name
                run([*command, *map(str, sources), "-o", str(new), "-lm"])
                new.replace(made)
        return ctypes.CDLL(str(made))
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip()
        warnings.warn(f"no C kernels, using the plain NumPy forms: {error}\n{said}".strip(), stacklevel=2)
        return None


def run(command: list[str]) -> None:
    """Run a compiler.  If this is interrupted, none of the compiler's processes goes on."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, process_group=0) as process:
        try:
            said = process.communicate()[1]
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # then it also removes its temporary files
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)


def cache() -> Path:
    """The user's cache folder for compiled libraries."""
    try:
        import platformdirs  # optional: as a library nanogen needs only NumPy
    except ImportError:
        return Path(tempfile.mkdtemp(prefix="nanogen"))
    folder = Path(os.environ.get("NANOGEN_CACHE") or platformdirs.user_cache_path("nanogen")) / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def name_of(command: list[str], sources: list[Path]) -> str:
    """A hash of everything the library depends on: sources, compiler, processor."""
    version = subprocess.run([command[0], "--version"], check=True, capture_output=True).stdout
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_bytes().splitlines() if cpuinfo.exists() else [*map(os.fsencode, os.uname())]
    processor = sorted({line for line in lines if not cpuinfo.exists() or line.startswith((b"flags", b"model name"))})
    texts = [path.read_bytes() for path in [*sources, *sorted(FOLDER.parent.rglob("*.h"))]]
    return hashlib.sha256(b"\0".join([*map(os.fsencode, command), version, *processor, *texts])).hexdigest()


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
    if not array.flags.c_contiguous:
        raise ValueError(f"not contiguous: shape {array.shape}, strides {array.strides}")
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))  # twice as fast, for writable arrays
    except (TypeError, ValueError):
        return array.ctypes.data


def _after_fork() -> None:
    """Use one thread from now on: OpenMP's threads do not survive a fork, and OpenMP would wait for them forever."""
    global _most
    _most = 1


_most = os.cpu_count() or 1
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def in_memory_order(*arrays: np.ndarray) -> list[np.ndarray]:
    """Contiguous arrays of one shape, their axes permuted into the memory order of the first one."""
    order = memory_order(arrays[0].strides)
    return [np.ascontiguousarray(a.transpose(order), arrays[0].dtype) if a.ndim else a for a in arrays]


@functools.lru_cache(4096)
def memory_order(strides: tuple[int, ...]) -> list[int]:
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


def elementwise(name: str, *arrays: np.ndarray, settings: tuple[float, ...] = ()) -> Any:
    """The result of the elementwise C function `name` of arrays of one shape, and of settings, in a new array."""
    if not covers(arrays[0]) or any(a.shape != arrays[0].shape for a in arrays):
        return NotImplemented
    given = in_memory_order(*arrays)
    out = np.empty(given[0].shape, given[0].dtype)
    call(name, *given, *map(float, settings), out, out.size)
    return out.transpose(np.argsort(memory_order(arrays[0].strides))) if out.ndim else out
