"""Files that are whole or not there, whenever the machine stops; a folder for one process alone; paths as text."""

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
    temporary = path.with_name(f".{path.name[:50]}.part")  # a name has at most 255 bytes
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


def to_utf8(path: str) -> str:
    """A path for a file of text: the same bytes in every locale; those that are no UTF-8 are surrogates (PEP 383)."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def from_utf8(text: str) -> str:
    """The path in this process's locale.

    Raises:
        ValueError: text that no path gave."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


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
