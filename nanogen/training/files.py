"""Files that are whole or not there, whenever the machine stops; and a folder for one process alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


def write_atomically(path: Path, contents: bytes) -> None:
    """Write beside the file's place, then move there: a reader finds the old file or the new one, never a part.

    The contents reach the disk before the name does, and the name before this returns (Pillai et al. 2014, "All file
    systems are not created equal").

    Raises:
        OSError: with the file's name, say of a full disk; what was there before is still there.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what `write_atomically` left of a process that was killed."""
    for part in folder.glob(".*.part"):
        part.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within this context the folder is this process's alone; the kernel ends that if the process is killed.

    Raises:
        ValueError: another process has it.
        OSError: a folder that can't be written in.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{folder} is in use: another process trains there") from None
    try:
        yield
    finally:
        lock.release()
