"""A folder of pictures, as images of one size and one number of colours.  Pillow reads and resizes them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from nanogen.data.images import Images, held_out

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PPM"}
COLORS = {"grey": 1, "rgb": 3}
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
MOST_PIXELS = 1 << 26  # of one picture: more is taken for a bomb
MOST_BYTES = 1 << 32  # of all the images of a split
ORIENTATION, ON_ITS_SIDE = 0x0112, range(5, 9)  # EXIF
BACKGROUND = (255, 255, 255)

Size = tuple[int, int]  # height, width


def read_folder(folder: str | Path, split: str, size: Size | None = None, color: str | None = None) -> Images:
    """One split of the pictures in a folder and its subfolders, of 256 levels.

    Subfolders `train` and `test`, where there are both, are the splits; otherwise a tenth is held out (see
    `held_out`).  Where every picture lies in a subfolder of its split, the subfolders are the classes, by name.

    A picture is turned as its EXIF orientation says, laid on white where it is transparent, brought to 8 bits, and,
    given a size, cut to its proportions about the centre and resized with antialiasing (bicubic).

    Args:
        size: height and width; without it all pictures must be of one size.
        color: `grey` or `rgb`; without it grey if all pictures are.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pictures, one that can't be read, or one of another size than the first; the file is named.
    """
    splits = split_pictures(Path(folder))
    shapes = {path: inspect(path) for paths in splits.values() for path in paths}
    first, *others = shapes
    if size is None:
        size = shapes[first].size
        for path in others:
            if shapes[path].size != size:
                other = by(shapes[path].size)
                raise ValueError(f"{path} is of {other} pixels and {first.name} of {by(size)}: give a size (--size)")
    if color is None:
        color = "grey" if all(shape.grey for shape in shapes.values()) else "rgb"
    if (count := len(splits[split])) * COLORS[color] * size[0] * size[1] > MOST_BYTES:
        raise ValueError(f"{folder}: {count} images of {by(size)} pixels are more than is kept in memory")
    images = np.stack([read_picture(path, size, color) for path in splits[split]])
    return Images(images, classes(Path(folder), splits, split), 256, str(folder))


def by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def pictures(folder: Path) -> list[Path]:
    """All pictures in a folder and its subfolders by their names' endings, in order; none that is hidden."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent) / name for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in FORMATS and path.is_file())


def split_pictures(folder: Path) -> dict[str, list[Path]]:
    """The pictures of `train` and of `test`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: one of the splits is empty."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    if has_own_splits(folder):
        splits = {split: pictures(folder / split) for split in ("train", "test")}
        for split, paths in splits.items():
            if not paths:
                raise ValueError(f"{folder / split} holds no pictures ({', '.join(FORMATS)})")
        return splits
    if not (paths := pictures(folder)):
        raise ValueError(f"{folder} holds no pictures ({', '.join(FORMATS)})")
    try:
        test = held_out(path.read_bytes() for path in paths).tolist()
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return {
        "train": [path for path, held in zip(paths, test, strict=True) if not held],
        "test": [path for path, held in zip(paths, test, strict=True) if held],
    }


def has_own_splits(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def classes(folder: Path, splits: dict[str, list[Path]], split: str) -> np.ndarray | None:
    """The place of each picture's class among the subfolders' names: int64 (N,); None if one lies in no subfolder."""
    roots = {part: folder / part if has_own_splits(folder) else folder for part in splits}
    within = {part: [path.relative_to(roots[part]).parts for path in paths] for part, paths in splits.items()}
    if any(len(parts) == 1 for paths in within.values() for parts in paths):
        return None
    names = sorted({parts[0] for paths in within.values() for parts in paths})
    return np.array([names.index(parts[0]) for parts in within[split]], np.int64)


class Shape(NamedTuple):
    """What the header of a picture says; the size is that of the picture when it stands upright."""

    size: Size
    grey: bool


def opened(path: Path) -> Image.Image:
    """Raises:
    ValueError: too many pixels."""
    picture = Image.open(path, formats=sorted(set(FORMATS.values())))
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"{by((picture.height, picture.width))} pixels are more than the {MOST_PIXELS} that are read")
    return picture


def inspect(path: Path) -> Shape:
    """Raises:
    ValueError: a file that can't be read as a picture."""
    try:
        with warnings.catch_warnings(action="ignore"), opened(path) as picture:
            turned = picture.getexif().get(ORIENTATION) in ON_ITS_SIDE
            size = (picture.width, picture.height) if turned else (picture.height, picture.width)
            return Shape(size, picture.mode in GREY_MODES)
    except Exception as error:  # Pillow raises whatever its decoders ran into
        raise unreadable(path, error) from error


def read_picture(path: Path, size: Size, color: str) -> np.ndarray:
    """uint8 (C, H, W).

    Raises:
        ValueError: a file that can't be read as a picture."""
    try:
        with warnings.catch_warnings(action="ignore"), opened(path) as picture:
            eight = eight_bits(ImageOps.exif_transpose(picture)).convert("L" if color == "grey" else "RGB")
            if eight.size != size[::-1]:
                eight = ImageOps.fit(eight, size[::-1], Image.Resampling.BICUBIC)
            return np.asarray(eight).reshape(*size, COLORS[color]).transpose(2, 0, 1)
    except Exception as error:  # as above
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} can't be read as a picture: {str(error) or type(error).__name__}")


def eight_bits(picture: Image.Image) -> Image.Image:
    """The picture in a mode of 8 bits a colour, without transparency: 16-bit greys are scaled, not cut off.

    Raises:
        ValueError: numbers that are no 16-bit greys."""
    if picture.mode.startswith("I"):
        numbers = np.asarray(picture).astype(np.int64)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise ValueError(f"greys must be in 0 … 65535, got {numbers.min()} … {numbers.max()}")
        return Image.fromarray(((numbers * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("fractions are no levels")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        page = Image.new("RGBA", picture.size, (*BACKGROUND, 255))
        return Image.alpha_composite(page, picture).convert("RGB")
    return picture
