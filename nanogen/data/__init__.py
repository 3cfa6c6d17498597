"""Data sets: images as integer levels."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np

from nanogen.data.arrays import read_file
from nanogen.data.cifar import read_split
from nanogen.data.idx import read_idx, read_pair
from nanogen.data.images import Images, check_levels, mean_levels, means

__all__ = ["DATASETS", "Images", "check_levels", "load", "load_all", "read_idx"]

SPLITS = ("train", "test")


def _digits(split: str, folder: str | Path | None) -> Images:
    """Optical recognition of handwritten digits: 1,797 images of 8×8 pixels and 17 levels, bundled.

    E. Alpaydin and C. Kaynak, UCI Machine Learning Repository 1998, CC BY 4.0.  In the repository's order, the
    first 1,500 are for training and the last 297 for testing."""
    with resources.files("nanogen.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        part = slice(0, 1500) if split == "train" else slice(1500, 1797)
        return Images(arrays["images"][part], arrays["labels"][part].astype(np.int64), 17, "digits")


def _idx(name: str) -> Callable[[str, str | Path | None], Images]:
    def load_idx(split: str, folder: str | Path | None) -> Images:
        images, labels = read_pair(folder or _downloaded(name), "train" if split == "train" else "t10k")
        return Images(images, labels, 256, name)

    return load_idx


def _cifar10(split: str, folder: str | Path | None) -> Images:
    return Images(*read_split(folder or _downloaded("cifar10"), split), 256, "cifar10")


def _downloaded(name: str) -> Path:
    sources = _needing("requests", "nanogen.data.sources")
    return sources.cached(name, sources.SOURCES[name])


def _needing(library: str, module: str) -> Any:
    """Import one of our modules that needs an optional library.

    Raises:
        RuntimeError: the library is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise RuntimeError(f"this needs {library}: pip install {library} ({error})") from error


def load_all(name: str | Path, size: tuple[int, int] | None = None, color: str | None = None) -> Images:
    """A picture, or all images of a folder or of an `.npz` or `.npy` file without splits; else the test images of what
    `load` takes.

    size, color: as for `load`; the color is ignored unless there are pictures.

    Raises:
        FileNotFoundError, ValueError, OSError: as `load`."""
    if str(name) not in DATASETS and Path(name).suffix.lower() in (".npy", ".npz"):
        found = read_file(name, "all")
        return found if size is None else shrunk(found, size)
    if str(name) not in DATASETS and Path(name).exists():
        return _needing("pillow", "nanogen.data.folder").read_folder(name, "all", size, color)
    return load(name, "test", None, size)


def shrunk(images: Images, size: tuple[int, int]) -> Images:
    """The images at a smaller size, height and width, whose pixels are the means of squares of pixels: see `means`.

    Raises:
        ValueError: a size that is not the images' divided by one whole number."""
    height, width = images.shape[1:]
    factor = height // size[0]
    if factor < 1 or (factor * size[0], factor * size[1]) != (height, width):
        raise ValueError(
            f"size must be {height}×{width}, that of {images.name}, divided by a whole number, got {size[0]}×{size[1]}"
        )
    found, levels = means(images.images, images.levels, factor), mean_levels(images.levels, factor)
    return images if factor == 1 else dataclasses.replace(images, images=found, levels=levels)


DATASETS: dict[str, Callable[[str, str | Path | None], Images]] = {
    "digits": _digits,
    "mnist": _idx("mnist"),
    "fashion-mnist": _idx("fashion-mnist"),
    "cifar10": _cifar10,
}


def canonical(name: str) -> str:
    """The name of a data set in the settings of a run: a path that exists is made absolute."""
    return name if name in DATASETS or not Path(name).exists() else str(Path(name).resolve())


def may_be(name: str, moved: str) -> bool:
    """Whether two names may mean the same data set: files can be moved, a named data set is always itself."""
    return name == moved or not {name, moved} & set(DATASETS)


def load(
    name: str | Path,
    split: str = "train",
    folder: str | Path | None = None,
    size: tuple[int, int] | None = None,
    color: str | None = None,
) -> Images:
    """One split of a data set.

    Args:
        name: `digits` (8×8, 17 levels, bundled); `mnist`, `fashion-mnist` (28×28, IDX files) or `cifar10` (3×32×32,
            binary version), 256 levels, downloaded into the cache folder at first use; a folder of pictures (see
            `folder.read_folder`); an `.npz` or `.npy` of bytes (see `arrays.read_file`).
        split: `train` or `test`.
        folder: where the files of `mnist`, `fashion-mnist` or `cifar10` are, instead of the cache folder.
        size: the height and width: of a folder of pictures, to resize them to; of other images, theirs divided by a
            whole number (see `shrunk`).
        color: for a folder of pictures, `grey` or `rgb`: what to convert them to.

    Raises:
        ValueError: an unknown name or split; a broken file; a color without a folder of pictures.
        FileNotFoundError: a file that is not in the folder.
        OSError: a failed download.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if size is not None and any(not 1 <= n <= 1 << 12 for n in size):
        raise ValueError(f"size must be a height and a width in 1 … {1 << 12}, got {size}")
    if color not in (None, "grey", "rgb"):
        raise ValueError(f"color must be grey or rgb, got {color!r}")
    path = Path(name)
    if str(name) not in DATASETS and path.is_dir():
        if folder is not None:
            raise ValueError(f"{name} is a folder already and takes no other one (--data-dir)")
        return _needing("pillow", "nanogen.data.folder").read_folder(canonical(str(name)), split, size, color)
    if color is not None and (str(name) in DATASETS or path.exists()):
        raise ValueError(f"color needs a folder of pictures, and {name} is not a folder")
    if str(name) in DATASETS or path.suffix.lower() in (".npy", ".npz"):
        named = DATASETS.get(str(name))
        found = named(split, folder) if named else read_file(canonical(str(name)), split)
        return found if size is None else shrunk(found, size)
    close = difflib.get_close_matches(str(name), DATASETS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else "" if path.exists() else ", which is not there"
    known = f"{', '.join(DATASETS)}, a folder of pictures, or an .npz or .npy file"
    raise ValueError(f"data must be one of {known}, got {str(name)!r}{hint}")
