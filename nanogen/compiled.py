"""C functions on a CPU, where there is a compiler: all `*.c` files of the package, one library for each real type.

What a function computes is said by the one in NumPy that it takes the place of, and a test holds the two together.  It
needs one pass over memory where NumPy needs five, and its loops are shared by threads that do not wait for the lock of
the interpreter.  The compiler is the system's, at the first use on a machine; `CC=` in the environment says that there
is none, and then everything is NumPy's.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(__file__).parent
REAL = {"f": "float", "d": "double"}  # by NumPy's character
# Of the processor that it is made on.  No C code here asks for errno or for floating-point exceptions.
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]


def has(dtype: np.dtype, name: str = "") -> bool:
    """Whether there are C functions of a type; or the one of that name."""
    return dtype.char in REAL and _has(dtype.char, name)


@functools.cache
def _has(real: str, name: str) -> bool:
    found = library(real)
    return found is not None and (not name or hasattr(found, name))


@functools.cache
def library(real: str) -> ctypes.CDLL | None:
    """The functions for NumPy's type `f` or `d`; None without a compiler, or, with a warning, where it fails."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if not command or shutil.which(command[0]) is None:
        return None
    sources = sorted(PACKAGE.rglob("*.c"))
    command += [*FLAGS, f"-DReal={REAL[real]}", f"-I{PACKAGE}"]
    try:
        made = cache() / f"{name_of(command, sources)}.so"
        os.fsencode(made).decode("utf-8")  # as threadpoolctl reads the path of every library that is loaded
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=made.parent) as folder:  # others find all of it or nothing
                new = Path(folder) / made.name
                subprocess.run([*command, *map(str, sources), "-o", str(new), "-lm"], check=True, capture_output=True)
                new.replace(made)
        return ctypes.CDLL(str(made))
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip()
        warnings.warn(f"no C functions, NumPy's take their place: {error}\n{said}".strip(), stacklevel=2)
        return None


def cache() -> Path:
    """Where libraries are kept, this user's own."""
    try:
        import platformdirs  # waits until it is asked for: the library itself needs NumPy alone
    except ImportError:
        return Path(tempfile.mkdtemp(prefix="nanogen"))
    folder = Path(os.environ.get("NANOGEN_CACHE") or platformdirs.user_cache_path("nanogen")) / "compiled"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def name_of(command: list[str], sources: list[Path]) -> str:
    """Differs with whatever the library depends on: sources, compiler, processor."""
    version = subprocess.run([command[0], "--version"], check=True, capture_output=True).stdout
    told = Path("/proc/cpuinfo")
    lines = told.read_bytes().splitlines() if told.exists() else [*map(os.fsencode, os.uname())]
    processor = sorted({line for line in lines if not told.exists() or line.startswith((b"flags", b"model name"))})
    texts = [path.read_bytes() for path in [*sources, *sorted(PACKAGE.rglob("*.h"))]]
    return hashlib.sha256(b"\0".join([*map(os.fsencode, command), version, *processor, *texts])).hexdigest()


KINDS = {int: ctypes.c_longlong, float: ctypes.c_double}


def call(name: str, *arguments: Any) -> None:
    """Call a C function of the type of the first argument, an array.

    Args:
        arguments: arrays, whose memory is taken as it lies, or None for no memory; an int is an `Int` there (64 bits),
            a float a `double`.

    Raises:
        ValueError: an array that is not contiguous.
    """
    function = _function(arguments[0].dtype.char, name)
    if function.argtypes is None:
        function.argtypes = [KINDS.get(type(argument), ctypes.c_void_p) for argument in arguments]
    function(*[address(a) if isinstance(a, np.ndarray) else a for a in arguments])


@functools.cache
def _function(real: str, name: str) -> Any:
    found = getattr(library(real), name)
    found.restype = None
    return found


def address(array: np.ndarray) -> int:
    """Where a contiguous array lies in memory."""
    if not array.flags.c_contiguous:
        raise ValueError(f"not contiguous: shape {array.shape}, strides {array.strides}")
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))  # in half the time, where it can be written to
    except (TypeError, ValueError):
        return array.ctypes.data


def use_threads(count: int) -> None:
    """How many threads share a loop from now on; one where threads of OpenMP were lost in a fork, which it hangs on."""
    global _started
    count = min(count, _most)
    for threads in _threads():
        threads.value = count
    _started = _started or count > 1


def threads() -> int:
    return max((threads.value for threads in _threads()), default=1)


@functools.cache
def _threads() -> list[ctypes.c_int]:
    """The variable of that name in each library."""
    return [ctypes.c_int.in_dll(found, "threads") for found in map(library, REAL) if found is not None]


def _after_fork() -> None:
    global _most
    if _started:
        _most = 1
        use_threads(1)


_started, _most = False, os.cpu_count() or 1
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
