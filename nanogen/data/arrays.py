"""Images in NumPy's own files: one array in an `.npy`, several in an `.npz`.

Nothing is unpickled, and a header is believed only as far as the bytes that follow it.
"""

from __future__ import annotations

import math
import re
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nanogen.backend import check_range
from nanogen.data.files import read_exactly
from nanogen.data.images import MOST_CLASSES, ROLES, Images, held_out, own_splits, say

BROKEN = (
    ValueError, SyntaxError, TypeError, KeyError, EOFError, OverflowError, RecursionError, NotImplementedError,
    RuntimeError, OSError, MemoryError, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
# What an .npz calls the images and the labels of a split, in small letters, and those of no split.
SPLIT_IMAGES, SPLIT_LABELS = r"x_([a-z]+)|([a-z]+)_images|([a-z]+)", r"y_([a-z]+)|([a-z]+)_labels"
IMAGES, LABELS = ("images", "x"), ("labels", "y")


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether it is in Fortran's order, and the type of the array in an `.npy` file.

    Raises:
        ValueError: another format."""
    major, minor = np.lib.format.read_magic(file)
    if (major, minor) not in ((1, 0), (2, 0)):
        raise ValueError(f"format {major}.{minor} is not read")
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of Python 2
        return header(file)


def read_array(file: BinaryIO, name: str) -> np.ndarray:
    """The array of integers, or of truth values, in an `.npy` file, which it fills to the end.

    Raises:
        ValueError: another format or type, by the array's name; a header that is not true."""
    shape, fortran_order, dtype = read_header(file)
    if dtype.kind not in "biu":
        raise ValueError(f"{name} holds {dtype}, not integers")
    body = read_exactly(file, math.prod(shape) * dtype.itemsize, name)
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran_order else "C")


def role_of(name: str, pattern: str) -> str | None:
    """The split that an array belongs to by its name."""
    match = re.fullmatch(pattern, name.lower())
    return ROLES.get(match[match.lastindex or 0]) if match else None


def by_split(names: list[str]) -> dict[str, tuple[str, str | None]]:
    """The names of the images and the labels of `train` and of `test`, or of `all`, which are to be split.

    Raises:
        ValueError: several that could be the same."""
    roles = {name: role for name in names if (role := role_of(name, SPLIT_IMAGES))}
    whole = [name for name in names if name.lower() in IMAGES or len(names) == 1]
    if "train" not in roles.values():
        roles |= dict.fromkeys(whole, "train")
    found: dict[str, tuple[str, str | None]] = {}
    for split, images in own_splits(roles).items():
        labels = [name for name in names if role_of(name, SPLIT_LABELS) == roles[images]]
        if split == "all" or images in whole:
            labels += [name for name in names if name.lower() in LABELS and name != images]
        if len(labels) > 1:
            raise ValueError(f"{' and '.join(labels)} are both called like the labels of {images}")
        found[split] = images, labels[0] if labels else None
    return found


def read_members(path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, int, bool]:
    """The images, labels and number of levels in a file, and whether they are of that split alone.

    Raises:
        ValueError: no images, or none of the split; an array that is not what its name says."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return read_array(file, "it"), None, 256, False
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two of its arrays have one name")

        def read(name: str) -> np.ndarray:
            with archive.open(members[name]) as member:
                return read_array(member, name)  # type: ignore[arg-type]

        splits = by_split(list(members))
        if not splits:
            raise ValueError(f"its arrays are {', '.join(members) or 'none'}; wanted: images, or {split}_images")
        chosen, of_chosen = splits.get("all") or splits[split]
        for name in members.keys() - {images for images, _ in splits.values()}:
            if len(splits) == 2 and role_of(name, SPLIT_IMAGES):
                say(f"{path}: {name} is not used")
            elif len(splits) == 1 and role_of(chosen, SPLIT_IMAGES):
                with archive.open(members[name]) as member:
                    if len(read_header(member)[0]) > 2:  # type: ignore[arg-type]
                        raise ValueError(f"{chosen} is one split; is {name} the other, train_images or test_images?")
        images, levels = read(chosen), read("levels") if "levels" in members else np.array(256)
        if levels.size != 1:
            raise ValueError(f"levels must be one number, got shape {levels.shape}")
        labels = None if of_chosen is None else one_each(of_chosen, read(of_chosen), len(images))
    return images, labels, int(levels.item()), len(splits) == 2


def one_each(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    """One label an image: (N,), (N, 1) or (1, N), to int64 (N,).

    Raises:
        ValueError: more of them or fewer, or no classes."""
    if labels.size != count or count not in labels.shape:
        raise ValueError(f"{name} must hold one label an image, ({count},), got shape {labels.shape}")
    check_range(name, labels, MOST_CLASSES)
    return labels.reshape(-1).astype(np.int64)


def read_file(path: str | Path, split: str) -> Images:
    """One split of the images in an `.npy` or `.npz` file of bytes.

    In an `.npz` they are called `train_images` and `test_images`, or `x_train` and `x_test`, or `train` and `test`, in
    small letters or capitals; `val`, `valid`, `validation`, `dev` or `eval` in place of `test` tests where there is no
    other; `images`, or `x`, beside a test split trains.  Where one array alone holds images, whatever it is called, a
    tenth is held out (see `held_out`).  Their labels, one an image, are `train_labels` or `y_train`, …, or `labels` or
    `y`; `levels` is a number beside them, 256 unless given.  Shapes (N, H, W), (N, C, H, W) and (N, H, W, C), of 1 or 3
    colours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: one that is broken, or whose arrays are no images or labels; the path and the array are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        images, labels, levels, own_split = read_members(path, split)
        found = Images(channels_first(images), labels, levels, str(path))
        if own_split:
            return found
        chosen = held_out([image.tobytes() for image in found.images]) == (split == "test")
        return Images(found.images[chosen], None if labels is None else labels[chosen], levels, found.name)
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
