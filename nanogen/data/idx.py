"""The IDX format of MNIST and Fashion-MNIST, gzipped or not.

A file has two zero bytes, a type code (8 = unsigned byte), the number of axes, the length of each axis as a big-endian
32-bit integer, then the data.  LeCun, Cortes & Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import itertools
import math
import struct
from pathlib import Path

import numpy as np

from nanogen.data.files import open_gzipped_or_not, read_exactly

UNSIGNED_BYTE = 8


def read_idx(path: str | Path, axes: int) -> np.ndarray:
    """The array of unsigned bytes in an IDX file with `axes` axes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an IDX file of unsigned bytes with that many axes; a file that is too short or too long.
    """
    path = Path(path)
    with open_gzipped_or_not(path) as file:
        header = file.read(4 + 4 * axes)
        if len(header) < 4 + 4 * axes or header[:4] != bytes([0, 0, UNSIGNED_BYTE, axes]):
            raise ValueError(f"{path} is not an IDX file of unsigned bytes with {axes} axes")
        shape = struct.unpack(f">{axes}I", header[4:])
        body = read_exactly(file, math.prod(shape), path)
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_pair(folder: str | Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (N, 1, H, W) and labels int64 (N,) of MNIST's `train` or `t10k` files in a folder.

    Raises:
        FileNotFoundError: a file that is missing under all its usual names.
        ValueError: a broken file, or different numbers of images and labels.
    """
    images = read_idx(find(folder, f"{part}-images", "idx3-ubyte"), axes=3)
    labels = read_idx(find(folder, f"{part}-labels", "idx1-ubyte"), axes=1)
    if len(images) != len(labels):
        raise ValueError(f"{folder}: {len(images)} {part} images but {len(labels)} labels")
    return images[:, None], labels.astype(np.int64)


def find(folder: str | Path, name: str, kind: str) -> Path:
    """The file NAME-KIND or NAME.KIND in a folder, gzipped or not: both spellings are common.

    Raises:
        FileNotFoundError: none of them exists."""
    for dash, ending in itertools.product("-.", ("", ".gz")):
        candidate = Path(folder) / f"{name}{dash}{kind}{ending}"
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{folder} has neither {name}-{kind} nor {name}.{kind}, gzipped or not")
