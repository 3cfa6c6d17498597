"""Images in, integer levels out."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from nanogen.data.idx import read_idx, read_pair
from nanogen.data.images import Images, check_levels

__all__ = ["DATASETS", "Images", "check_levels", "load", "read_idx"]

SPLITS = ("train", "test")


def _digits(split: str, folder: str | Path | None) -> Images:
    """Optical recognition of handwritten digits: 1,797 images of 8×8 pixels and 17 levels, bundled.

    E. Alpaydin and C. Kaynak, UCI Machine Learning Repository 1998, CC BY 4.0.  The first 1,500 in the repository's
    order train, the last 297 test."""
    with resources.files("nanogen.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        part = slice(0, 1500) if split == "train" else slice(1500, 1797)
        return Images(arrays["images"][part], arrays["labels"][part].astype(np.int64), 17, "digits")


def _idx(name: str) -> Callable[[str, str | Path | None], Images]:
    def load_idx(split: str, folder: str | Path | None) -> Images:
        if folder is None:
            raise ValueError(f"data set {name} is read from a folder of IDX files: give its path (--data-dir DIR)")
        images, labels = read_pair(folder, "train" if split == "train" else "t10k")
        return Images(images, labels, 256, name)

    return load_idx


DATASETS: dict[str, Callable[[str, str | Path | None], Images]] = {
    "digits": _digits,
    "mnist": _idx("mnist"),
    "fashion-mnist": _idx("fashion-mnist"),
}


def load(name: str, split: str = "train", folder: str | Path | None = None) -> Images:
    """One split of a data set.

    Args:
        name: `digits` (8×8, 17 levels, bundled), or `mnist`, `fashion-mnist` (28×28, 256 levels) from IDX files.
        split: `train` or `test`.
        folder: where the files are, for those that are not bundled.

    Raises:
        ValueError: an unknown name or split, no folder where one is needed, a broken file.
        FileNotFoundError: a file that is not in the folder.
    """
    if name not in DATASETS:
        raise ValueError(f"data must be one of {', '.join(DATASETS)}, got {name!r}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return DATASETS[name](split, folder)
