"""Atomic writing of files, locking of folders, and paths as text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


def write_atomically(path: Path, contents: bytes) -> None:
    """Write to a temporary file, then rename it: readers see the old file or the new one, never a partial one.

    The contents are on the disk before the rename, and the rename is on the disk before this returns (Pillai et al.
    2014, "All file systems are not created equal").

    Raises:
        OSError: with the file's name, for example if the disk is full; an earlier file of that name is unchanged.
    """
    temporary = path.with_name(f".{path.name[:50]}.part")  # file names have at most 255 bytes
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
    """A path as text that is the same in every locale.  Bytes that are not UTF-8 become surrogates (PEP 383)."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def from_utf8(text: str) -> str:
    """The inverse of `to_utf8`: the path in the locale of this process.

    Raises:
        ValueError: text that is not from a path."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes left behind in `write_atomically`."""
    for part in folder.glob(".*.part"):
        part.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process within the context.  The lock also ends if the process is killed.

    Raises:
        ValueError: another process holds the lock.
        OSError: the folder is not writable.
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
