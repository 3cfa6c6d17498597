"""Images in NumPy's own files: one array in an `.npy`, several in an `.npz`.

Nothing is unpickled, and the shape in a header must match the bytes that follow it.
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
# Names of the arrays in an .npz, in lower case: images and labels of one split, and those that belong to no split.
SPLIT_IMAGES, SPLIT_LABELS = r"x_([a-z]+)|([a-z]+)_images|([a-z]+)", r"y_([a-z]+)|([a-z]+)_labels"
IMAGES, LABELS = ("images", "x"), ("labels", "y")


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape of the array in an `.npy` file, whether it is in Fortran order, and its dtype.

    Raises:
        ValueError: a format version other than 1.0 and 2.0."""
    major, minor = np.lib.format.read_magic(file)
    if (major, minor) not in ((1, 0), (2, 0)):
        raise ValueError(f"format {major}.{minor} is not supported")
    header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        return header(file)


def read_array(file: BinaryIO, name: str) -> np.ndarray:
    """The array of integers or booleans in an `.npy` file.  Nothing may follow it.

    Raises:
        ValueError: another format version or dtype; a file shorter or longer than its header says."""
    shape, fortran_order, dtype = read_header(file)
    if dtype.kind not in "biu":
        raise ValueError(f"{name} holds {dtype}, not integers")
    body = read_exactly(file, math.prod(shape) * dtype.itemsize, name)
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran_order else "C")


def role_of(name: str, pattern: str) -> str | None:
    """The split that the name of an array stands for, or None."""
    match = re.fullmatch(pattern, name.lower())
    return ROLES.get(match[match.lastindex or 0]) if match else None


def by_split(names: list[str]) -> dict[str, tuple[str, str | None]]:
    """For each split, the names of its images and of its labels: `train` and `test`, or `all`, to be split later.

    Raises:
        ValueError: two arrays that could both be a split's images, or its labels."""
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
            raise ValueError(f"{' and '.join(labels)} are both named like the labels of {images}")
        found[split] = images, labels[0] if labels else None
    return found


def read_members(path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None, int, bool]:
    """The images, labels and number of levels in a file, and whether these images are of `split` alone.

    If not, they are all the images of the file, to be split later.

    Raises:
        ValueError: no images, or none of the split; an array that does not fit its name."""
    if path.suffix.lower() == ".npy":
        with path.open("rb") as file:
            return read_array(file, "it"), None, 256, False
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two of its arrays have the same name")

        def read(name: str) -> np.ndarray:
            with archive.open(members[name]) as member:
                return read_array(member, name)  # type: ignore[arg-type]

        splits = by_split(list(members))
        if not splits:
            raise ValueError(f"its arrays are {', '.join(members) or 'none'}; expected images, or {split}_images")
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
    """One label per image, as int64 (N,), from labels of shape (N,), (N, 1) or (1, N).

    Raises:
        ValueError: more or fewer labels than images; a label that is no class."""
    if labels.size != count or count not in labels.shape:
        raise ValueError(f"{name} must hold one label per image, ({count},), got shape {labels.shape}")
    check_range(name, labels, MOST_CLASSES)
    return labels.reshape(-1).astype(np.int64)


def read_file(path: str | Path, split: str) -> Images:
    """One split of the images in an `.npy` or `.npz` file of bytes.

    Shapes (N, H, W), (N, C, H, W) and (N, H, W, C), with 1 or 3 colours.  The names of the arrays in an `.npz`, in
    upper or lower case:

    - images: `train_images` and `test_images`, `x_train` and `x_test`, or `train` and `test`.  Without a test set,
      `val`, `valid`, `validation`, `dev` or `eval` takes its place.  Beside a test set, `images` or `x` are for
      training.  If only one array holds images, under any name, a tenth is held out for testing (see `held_out`);
      the split `all` has all of them, or the test images if there are splits.
    - labels, one per image: `train_labels` or `y_train`, and so on; or `labels` or `y`.
    - `levels`: the number of levels, 256 unless given.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a broken file, or arrays that are no images or labels; it names the path and the array.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        images, labels, levels, own_split = read_members(path, "test" if split == "all" else split)
        found = Images(channels_first(images), labels, levels, str(path))
        if own_split or split == "all":
            return found
        chosen = held_out([image.tobytes() for image in found.images]) == (split == "test")
        return Images(found.images[chosen], None if labels is None else labels[chosen], levels, found.name)
    except BROKEN as error:
        raise ValueError(f"{path} can't be read as images: {error}") from error


def channels_first(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3, to (N, C, H, W).

    Raises:
        ValueError: another dtype or shape, or an empty array."""
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        raise ValueError(f"images must be (N, H, W), (N, C, H, W) or (N, H, W, C), C 1 or 3, got {images.shape}")
    return np.ascontiguousarray(images)
