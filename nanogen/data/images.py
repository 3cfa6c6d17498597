"""What a data set is: images of integer levels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nanogen.backend import check_range


@dataclass(frozen=True)
class Images:
    """Images of integer levels 0 … levels − 1.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), the class of each, or None.
        levels: how many levels there are, 2 to 256.
        name: what to call them.

    Raises:
        TypeError, ValueError: images of another type or shape, or with a level that is not there.
    """

    images: np.ndarray
    labels: np.ndarray | None
    levels: int
    name: str

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels must be in 2 … 256, got {self.levels}")
        check_levels(self.images, self.levels)
        if self.labels is not None and self.labels.shape != (len(self.images),):
            raise ValueError(f"labels must have shape ({len(self.images)},), got {self.labels.shape}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.images.shape[1:]


def check_levels(images: np.ndarray, levels: int, shape: tuple[int, ...] | None = None) -> None:
    """Refuse what is not a batch of images of `levels` levels (and of `shape`, if given).

    Raises:
        TypeError: not an array of integers.
        ValueError: not (N, C, H, W), another shape, a level that is not there.
    """
    if not hasattr(images, "dtype") or images.dtype.kind not in "iu":
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be an array of integer levels, got {kind}")
    if images.ndim != 4:
        raise ValueError(f"images must be (N, C, H, W), got shape {images.shape}")
    if shape is not None and images.shape[1:] != tuple(shape):
        raise ValueError(f"images must be (N, {', '.join(map(str, shape))}), got shape {images.shape}")
    check_range("images: levels", images, levels)


def held_out(contents: Iterable[bytes]) -> np.ndarray:
    """Which images are for testing, where nobody has said: those whose bytes have the smallest SHA-256, a tenth.

    So the same images are split in the same way whatever they are called and in whatever order they come, and copies
    of an image never stand on both sides.

    Returns:
        bool (N,).

    Raises:
        ValueError: fewer than two different images.
    """
    digests = [hashlib.sha256(content).digest() for content in contents]
    if len(set(digests)) < 2:
        raise ValueError("at least two different images are needed, one of them for testing")
    last = sorted(digests)[math.ceil(len(digests) / 10) - 1]
    if last == max(digests):  # nearly all are copies of one
        last = min(digests)
    return np.array([digest <= last for digest in digests])
