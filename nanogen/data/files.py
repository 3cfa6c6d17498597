"""Reading files that may be broken, or whose headers may be wrong; the folder of those that are kept."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LARGEST = 1 << 30  # bytes of one file's contents
CHUNK = 1 << 20


def cache_folder() -> Path:
    """NANOGEN_CACHE, or the user's cache folder (XDG_CACHE_HOME on Linux)."""
    import platformdirs  # here, since `import nanogen` needs NumPy alone

    return Path(os.environ.get("NANOGEN_CACHE") or platformdirs.user_cache_path("nanogen"))


def read_exactly(file: BinaryIO, size: int, name: object) -> bytearray:
    """The rest of a file, which must be the `size` bytes that its header announces.

    Memory is allocated as the bytes are read, never from the header alone.

    Raises:
        ValueError: fewer or more bytes, or a size above `LARGEST`."""
    if not 0 <= size <= LARGEST:
        raise ValueError(f"{name} announces {size} bytes, more than the limit of {LARGEST}")
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
        ValueError: while it is read, a broken gzip file."""
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            yield gzip.GzipFile(fileobj=file) if gzipped else file  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is not a whole gzip file: {error}") from error
