"""Compiling the C library with the system's compiler, at the first use on a machine, and the cache of the result.

A library runs with the rights of its user.  So it is only loaded if its file and folder belong to this user or root,
and no other user can write to them.  Users may share the cache of data sets, which is another folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

FOLDER = Path(__file__).parent
REAL = {"f": "float", "d": "double"}  # by NumPy's character
# For the processor that compiles it.  No C code here reads errno or needs floating-point exceptions.
FLAGS = ["-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
SECONDS = 120.0  # that the compiler may take
log = logging.getLogger("nanogen")


def compiler() -> list[str]:
    """The compiler's command, `cc` or that in the environment's CC; empty if there is no compiler."""
    given = os.environ.get("CC", "cc")
    try:
        command = shlex.split(given)
    except ValueError:  # an unfinished quotation; `library` reports that there is no such command
        return [given]
    return command if command and shutil.which(command[0]) else []


@functools.cache
def library(real: str) -> ctypes.CDLL | None:
    """The functions for NumPy's type `f` or `d`.  None without a compiler; None with a warning if compiling fails."""
    if not (command := compiler()):
        return None
    sources = sorted(FOLDER.glob("*.c"))
    command += [*FLAGS, f"-DReal={REAL[real]}", f"-I{FOLDER.parent}", *map(str, sources), "-lm"]
    try:
        with contextlib.ExitStack() as held:
            if threading.current_thread() is threading.main_thread() and signal.getsignal(SIGTERM) == signal.SIG_DFL:
                signal.signal(SIGTERM, lambda number, frame: sys.exit(128 + number))  # removes temporary files
                held.callback(signal.signal, SIGTERM, signal.SIG_DFL)
            return from_cache(f"{REAL[real]}-{name_of(command, sources)}", command)
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError) as error:
        warnings.warn(f"no C kernels, using the plain NumPy forms: {error}", stacklevel=3)
        return None


def from_cache(name: str, command: list[str]) -> ctypes.CDLL:
    """The library `name`; without a cache, it is compiled in a folder that is then removed."""
    try:
        with pinned(cache()) as folder:
            return loaded(folder, name, command)
    except (OSError, UnicodeDecodeError, RuntimeError) as error:  # RuntimeError: the user has no home
        log.warning("nanogen: the C kernels are not cached: %s", error)
        with tempfile.TemporaryDirectory(prefix="nanogen-") as temporary, pinned(Path(temporary)) as folder:
            return loaded(folder, name, command)


def name_of(command: list[str], sources: list[Path]) -> str:
    """A hash of everything the library depends on: sources, compiler, processor."""
    version = output_of([command[0], "--version"])
    cpuinfo = Path("/proc/cpuinfo")
    lines = set(cpuinfo.read_bytes().splitlines()) if cpuinfo.exists() else set()
    processor = sorted(x for x in lines if x.startswith((b"flags", b"model"))) or [*map(os.fsencode, os.uname())]
    texts = [path.read_bytes() for path in [*sources, *sorted(FOLDER.parent.rglob("*.h"))]]
    return hashlib.sha256(b"\0".join([*map(os.fsencode, command), version, *processor, *texts])).hexdigest()[:32]


def cache() -> Path:
    """The user's cache folder for compiled libraries."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    folder = Path(os.environ.get("NANOGEN_CACHE") or caches.expanduser() / "nanogen") / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # only the last folder gets the mode
    return folder


@contextlib.contextmanager
def pinned(folder: Path) -> Iterator[Path]:
    """A path of the folder that stays valid even if others can write to its parents and replace it.

    Raises:
        PermissionError: the folder belongs to another user, or other users can write to it.
        UnicodeDecodeError: its path is not UTF-8, which threadpoolctl needs the paths of all libraries to be.
    """
    os.fsencode(folder.resolve()).decode("utf-8")
    descriptor = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not is_ours(descriptor):
            raise PermissionError(f"other users can write in {folder}")
        path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        yield path if path.exists() else folder
    finally:
        os.close(descriptor)


def is_ours(descriptor: int) -> bool:
    """Whether an open file or folder belongs to this user or root, and no other user can write to it."""
    status = os.fstat(descriptor)
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022


def loaded(folder: Path, name: str, command: list[str]) -> ctypes.CDLL:
    """The library `name` in a folder, compiled by the command if it is missing or was changed.

    Loading it loads OpenMP, which reads from the environment how long threads wait in a loop before they sleep.  By
    default that is some 10 ms, which on a busy machine takes the core from the thread that they wait for."""
    path = next(filter(is_whole, folder.glob(f"{name}-*.so")), None) or made(folder, name, command)
    with contextlib.ExitStack() as held:
        if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
            os.environ["GOMP_SPINCOUNT"] = "1000"  # libgomp's own choice if there are more threads than cores
            held.callback(os.environ.pop, "GOMP_SPINCOUNT")  # other libraries and processes choose for themselves
        return ctypes.CDLL(str(path))


def is_whole(path: Path) -> bool:
    """Whether the file is ours and has the digest in its name.  Loading an incomplete one would end the process."""
    with contextlib.suppress(OSError), open(os.open(path, os.O_NOFOLLOW), "rb") as file:
        return is_ours(file.fileno()) and path.stem.endswith(hashlib.file_digest(file, "sha256").hexdigest())
    return False


def made(folder: Path, name: str, command: list[str]) -> Path:
    """Run the command.  Returns the library, which gets its name only when it is completely on the disk."""
    log.warning("nanogen: compiling the C kernels for this machine, which takes some seconds (%s)", name.split("-")[0])
    for old in folder.glob("new-*"):
        if time.time() - old.stat().st_mtime > 30 * SECONDS:  # its process was killed
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=folder, ignore_cleanup_errors=True) as new:
        output_of([*command, "-o", f"{new}/library"], TMPDIR=new)
        with open(f"{new}/library", "rb") as file:
            os.fchmod(file.fileno(), 0o700)
            os.fsync(file.fileno())
            path = folder / f"{name}-{hashlib.file_digest(file, 'sha256').hexdigest()}.so"
        return Path(f"{new}/library").replace(path)


def output_of(command: list[str], **environment: str) -> bytes:
    """The output of a command.  If it takes too long or is interrupted, all processes that it started are killed.

    Raises:
        subprocess.SubprocessError: it failed, or took too long.
    """
    with tempfile.TemporaryFile() as said, contextlib.ExitStack() as held:
        # Not a pipe, which would stay open as long as any process has it.
        how: Any = {"stdin": subprocess.DEVNULL, "stdout": said, "stderr": said, "start_new_session": True}
        # Signals wait until the process is known here: one that came in between would leave it running.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [SIGTERM, signal.SIGINT])
        held.callback(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        process = held.enter_context(subprocess.Popen(command, **how, env=os.environ | environment))
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            status = process.wait(SECONDS)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        said.seek(0)
        if status:
            raise subprocess.SubprocessError(f"{command[0]} failed\n{said.read().decode(errors='replace')}".strip())
        return said.read()
