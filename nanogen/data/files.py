"""Bytes from files that may be broken, or not what they say."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LARGEST = 1 << 30  # bytes of one file's contents
CHUNK = 1 << 20


def read_exactly(file: BinaryIO, size: int, name: object) -> bytearray:
    """The `size` bytes that a file announces and that are to be all that is left in it.

    Memory is taken as the bytes come, never on the word of a header.

    Raises:
        ValueError: fewer or more bytes, or more than `LARGEST`."""
    if not 0 <= size <= LARGEST:
        raise ValueError(f"{name} announces {size} bytes, more than the {LARGEST} that are read")
    body = bytearray()
    while chunk := file.read(min(CHUNK, size + 1 - len(body))):
        body += chunk
    if len(body) != size:
        raise ValueError(f"{name} announces {size} bytes and holds {'more' if len(body) > size else len(body)}")
    return body


@contextmanager
def open_gzipped_or_not(path: Path) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a file that may be gzipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: on reading, a broken gzip file."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if gzipped else file  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error
