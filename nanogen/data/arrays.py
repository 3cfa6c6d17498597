"""Images in NumPy's own files: one array in an `.npy`, several in an `.npz`.

Nothing is unpickled, and a header is believed only as far as the bytes that follow it.
"""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nanogen.data.files import read_exactly
from nanogen.data.images import Images, held_out

BROKEN = (
    ValueError, SyntaxError, TypeError, KeyError, EOFError, OverflowError, RecursionError, NotImplementedError,
    RuntimeError, OSError, MemoryError, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
# What an .npz calls the parts of a split that is its own, then of images that are to be split.
SPLIT_NAMES = (("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}", ""))
WHOLE_NAMES = (("images", "labels"), ("x", "y"))


def read_array(file: BinaryIO, name: object) -> np.ndarray:
    """The array of integers in an `.npy` file, which it fills to the end.

    Raises:
        ValueError: another format, or numbers that are no integers; a header that is not true."""
    major, minor = np.lib.format.read_magic(file)
    if (major, minor) not in ((1, 0), (2, 0)):
        raise ValueError(f"format {major}.{minor} is not read")
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of Python 2
        shape, fortran_order, dtype = header(file)
    if dtype.kind not in "iu":
        raise ValueError(f"it holds {dtype}, not integers")
    body = read_exactly(file, math.prod(shape) * dtype.itemsize, name)
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran_order else "C")


def read_members(path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, bool]:
    """The images, labels and number of levels in a file, and whether they are of that split alone.

    Raises:
        ValueError: no images, or none of the split."""
    if path.suffix == ".npy":
        with path.open("rb") as file:
            return read_array(file, path), None, None, False
    with zipfile.ZipFile(path) as archive:
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def read(name: str) -> np.ndarray | None:
            if name not in names:
                return None
            with archive.open(names[name]) as member:
                return read_array(member, f"{path}: {name}")  # type: ignore[arg-type]

        for images, labels in SPLIT_NAMES:
            if (found := read(images.format(split))) is not None:
                return found, read(labels.format(split)), read("levels"), True
        [only] = names if len(names) == 1 else [""]
        for images, labels in (*WHOLE_NAMES, (only, "")):
            if (found := read(images)) is not None:
                return found, read(labels), read("levels"), False
    raise ValueError(f"its arrays are {', '.join(names) or 'none'}; wanted: images, or {split}_images")


def read_file(path: str | Path, split: str) -> Images:
    """One split of the images in an `.npy` or `.npz` file of bytes.

    In an `.npz` they are called `train_images` and `test_images` (with `train_labels`, …), or `x_train` and `x_test`
    (with `y_train`, …), or `train` and `test`; or `images` (with `labels`), or are the only array: then a tenth is held
    out (see `held_out`).  `levels` is a number beside them, 256 unless given.  Shapes (N, H, W), (N, C, H, W) and
    (N, H, W, C), of 1 or 3 colours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: one that is broken, or whose arrays are no images; the path is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        images, labels, levels, own_split = read_members(path, split)
        images = channels_first(images)
        if labels is not None:
            labels = labels.reshape(-1).astype(np.int64)
        found = Images(images, labels, 256 if levels is None else int(levels.item()), str(path))
        if own_split:
            return found
        chosen = held_out([image.tobytes() for image in images]) == (split == "test")
        return Images(images[chosen], None if labels is None else labels[chosen], found.levels, found.name)
    except BROKEN as error:
        raise ValueError(f"{path} can't be read as images: {error}") from error


def channels_first(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3, to (N, C, H, W).

    Raises:
        ValueError: another type or shape, or no numbers."""
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ValueError(f"images must be (N, H, W), (N, C, H, W) or (N, H, W, C), C 1 or 3, got {images.shape}")
    return np.ascontiguousarray(images)
