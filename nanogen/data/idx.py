"""The IDX format of MNIST and Fashion-MNIST, gzipped or not.

A file is two zero bytes, a type code (8 = unsigned byte), the number of axes, each axis' length as a big-endian
32-bit number, then the numbers.  LeCun, Cortes & Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

UNSIGNED_BYTE = 8
LARGEST = 1 << 30  # bytes of one file's contents


def read_idx(path: str | Path, axes: int) -> np.ndarray:
    """The unsigned bytes in an IDX file, as an array of `axes` axes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no IDX file of unsigned bytes with so many axes, truncated or too long.
    """
    path = Path(path)
    try:
        with gzip.open(path) if _is_gzipped(path) else path.open("rb") as file:
            header = file.read(4 + 4 * axes)
            if len(header) < 4 + 4 * axes or header[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
                raise ValueError(f"{path} is not an IDX file of unsigned bytes with {axes} axes")
            shape = struct.unpack(f">{axes}I", header[4:])
            size = math.prod(shape)
            if size > LARGEST:
                raise ValueError(f"{path} announces {size} bytes, more than the {LARGEST} that are read")
            body = file.read(size + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error
    if len(body) != size:
        raise ValueError(f"{path} announces {size} bytes and holds {'more' if len(body) > size else len(body)}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def read_pair(folder: str | Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (N, 1, H, W) and labels int64 (N,) of MNIST's `train` or `t10k` files in a folder.

    Raises:
        FileNotFoundError: a file that is not there, under either of its names.
        ValueError: a file that is broken, or as many labels as there are not images.
    """
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), axes=3)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), axes=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} {part} images but {len(labels)} labels")
    return images[:, None], labels.astype(np.int64)


def _find(folder: str | Path, name: str) -> Path:
    for candidate in (Path(folder) / name, Path(folder) / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{folder} has neither {name} nor {name}.gz")
