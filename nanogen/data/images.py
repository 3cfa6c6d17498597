"""A data set in memory: images of integer levels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nanogen.backend import Array, check_range, to_numpy

ROWS = 256  # images whose distances to all others are in memory at once
MOST_CLASSES = 1 << 16  # labels are below this: the classifier of `evaluate` has one output per class
# Names of folders and (parts of) names of arrays, and the split that each stands for.
ROLES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
ROLES |= dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation")
Part = TypeVar("Part")


@dataclass(frozen=True)
class Images:
    """Images of integer levels 0 … levels − 1.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), the class of each image, 0 … 65535, or None.
        levels: the number of levels, 2 to 256.
        name: of the data set, for messages.
        class_names: the name of each class, if the classes have names.
        files: for pictures of a folder, the path of each within it.

    Raises:
        TypeError, ValueError: images of another dtype or shape, or with a level out of range; labels that are not one
            class per image.
    """

    images: np.ndarray
    labels: np.ndarray | None
    levels: int
    name: str
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must be in 2 … 256, got {self.levels}")
        check_levels(self.images, self.levels)
        if self.labels is not None and self.labels.shape != (len(self.images),):
            raise ValueError(f"labels must have shape ({len(self.images)},), got {self.labels.shape}")
        if self.labels is not None:
            if self.labels.dtype.kind not in "iu":
                raise TypeError(f"labels must be integers, got {self.labels.dtype}")
            check_range("labels", self.labels, MOST_CLASSES)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.images.shape[1:]

    def requantised(self, levels: int) -> Images:
        """The same images with fewer levels: each pixel the nearest in brightness, or the brighter of two.

        So with 2 levels a pixel is 1 if it had at least half of the largest level.

        Raises:
            ValueError: levels outside 2 … those of the images."""
        if not 2 <= levels <= self.levels:
            raise ValueError(f"levels must be in 2 … {self.levels}, those of {self.name}, got {levels}")
        old, new = self.levels - 1, levels - 1  # the largest levels
        nearest = (2 * new * np.arange(self.levels) + old) // (2 * old)
        return dataclasses.replace(self, images=nearest.astype(np.uint8)[self.images], levels=levels)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256, in hexadecimal, of the shape, the levels, the images in their order, and the labels."""
        labels = b"" if self.labels is None else self.labels.astype("<i8").tobytes()
        digest = hashlib.sha256(f"{self.images.shape} {self.levels} {self.images.dtype} {len(labels)}".encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(labels)
        return digest.hexdigest()


def check_levels(images: np.ndarray, levels: int, shape: tuple[int, ...] | None = None) -> None:
    """Check that `images` is a batch of images of `levels` levels, and of `shape` if that is given.

    Raises:
        TypeError: not an array of integers.
        ValueError: not (N, C, H, W), another shape, a level out of range.
    """
    if not hasattr(images, "dtype") or images.dtype.kind not in "iu":
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be an array of integer levels, got {kind}")
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got shape {images.shape}")
    if shape is not None and images.shape[1:] != tuple(shape):
        raise ValueError(f"images must be (N, {', '.join(map(str, shape))}), got shape {images.shape}")
    check_range("images: levels", images, levels)


def nearest(images: Array, among: Array) -> np.ndarray:
    """For each image, the index of the image `among` others at the smallest Euclidean distance in pixel levels.

    Shapes: (N, C, H, W), (M, C, H, W) to (N,).

    Raises:
        ValueError: no images on a side, or of different shapes."""
    if not len(images) or not len(among) or images.shape[1:] != among.shape[1:]:
        raise ValueError(f"images and among must be some of one shape, got {images.shape} and {among.shape}")
    a = to_numpy(images).reshape(len(images), -1).astype(np.float64)
    b = to_numpy(among).reshape(len(among), -1).astype(np.float64)
    rest = (b**2).sum(1)  # whole numbers below 2⁵³: the products are exact, so equal images are at distance 0
    parts = [(rest - 2 * a[i : i + ROWS] @ b.T).argmin(axis=1) for i in range(0, len(a), ROWS)]
    return np.concatenate(parts)


def mean_levels(levels: int, factor: int) -> int:
    """The number of levels of `means`: f² (K − 1) + 1 of f² pixels, so that no mean is rounded, but at most 256."""
    return min(factor**2 * (levels - 1) + 1, 256)


def means(images: Array, levels: int, factor: int) -> Array:
    """The mean of each square of factor × factor pixels: (N, C, H, W) to uint8 (N, C, H / factor, W / factor).

    Its levels are 0 … `mean_levels` − 1 from black to white: the sums of the squares, if these are at most 255.

    Raises:
        ValueError: sides that the factor does not divide."""
    n, c, height, width = images.shape
    if height % factor or width % factor:
        raise ValueError(f"images must have sides that {factor} divides, got {height}×{width} pixels")
    sums = images.astype(np.int64).reshape(n, c, height // factor, factor, width // factor, factor).sum((3, 5))
    most, last = factor**2 * (levels - 1), mean_levels(levels, factor) - 1
    return ((2 * last * sums + most) // (2 * most)).astype(np.uint8)


def own_splits(roles: Mapping[Part, str]) -> dict[str, Part]:
    """Which part of a data set is which split, given each part's role (a value of `ROLES`).

    Without a test set, the validation set is used for testing.

    Returns:
        `train` and `test`; or a single part as `all`, to be split later; or nothing.

    Raises:
        ValueError: two parts with one role; several parts, none of them for training."""
    found: dict[str, Part] = {}
    for part, role in roles.items():
        if role in found:
            raise ValueError(f"{found[role]} and {part} are both named like images for {role}")
        found[role] = part
    if len(found) < 2:
        return dict(zip(["all"], found.values(), strict=False))
    if "train" not in found:
        raise ValueError(f"there are {' and '.join(map(str, found.values()))}, but no train")
    return {"train": found["train"], "test": found["test" if "test" in found else "validation"]}


@functools.cache
def say(message: str) -> None:
    """Log a warning about the data, once, however often they are loaded."""
    logging.getLogger("nanogen").warning("nanogen: %s", message)


def held_out(contents: Iterable[bytes]) -> np.ndarray:
    """Which images are for testing, in a data set without splits: the tenth whose bytes have the smallest SHA-256.

    The split depends on neither names nor order, and all copies of an image are on the same side.

    Returns:
        bool (N,).

    Raises:
        ValueError: fewer than two different images.
    """
    digests = [hashlib.sha256(content).digest() for content in contents]
    if len(set(digests)) < 2:
        raise ValueError("at least two different images are needed, one of them for testing")
    last = sorted(digests)[math.ceil(len(digests) / 10) - 1]
    if last == max(digests):  # nearly all images are copies of one
        last = min(digests)
    return np.array([digest <= last for digest in digests])
