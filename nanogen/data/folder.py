"""Reads a folder of pictures as images of one size and one number of colours.  Pillow decodes and resizes them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from nanogen.data.images import ROLES, Images, held_out, own_splits, say

FORMATS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM",
    ".pnm": "PPM",
}  # fmt: skip
COLORS = {"grey": 1, "rgb": 3}
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
MOST_PIXELS = 1 << 26  # of one picture; a larger one may be a decompression bomb
MOST_BYTES = 1 << 32  # of all images of a split
ORIENTATION, ON_ITS_SIDE = 0x0112, range(5, 9)  # EXIF
BACKGROUND = (255, 255, 255)
DEEPEST = {"L;2": 3, "L;4": 15}  # white in greys of 2 and of 4 bits, by Pillow's raw mode
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339  # tags of a TIFF

Size = tuple[int, int]  # height, width


def read_folder(folder: str | Path, split: str, size: Size | None = None, color: str | None = None) -> Images:
    """One split of the pictures in a folder and its subfolders, of 256 levels.

    Splits: the subfolders `train` (or `training`) and `test` (or `testing`), in upper or lower case.  Without a test
    set, a subfolder for validation takes its place (see `ROLES`).  Without splits, a tenth of the pictures is held out
    (see `held_out`).

    Classes: if every picture is in a subfolder of its split, these subfolders are the classes, in the order of their
    names.  Otherwise there are no labels.

    Links are followed.  Hidden files are ignored; all other files that are left out are counted in a warning.

    A picture is rotated by its EXIF orientation, put on white where it is transparent, and converted to 8 bits.  If a
    size is given, it is cropped about the centre to the proportions of that size, then resized with antialiasing
    (bicubic).  Of several frames only the first is used, with a warning.

    Args:
        folder: also a single picture, if split is `all`.
        split: `train`, `test`, or `all`: every picture of a folder without splits, else the test pictures.
        size: height and width; without it all pictures must have the same size.
        color: `grey` or `rgb`; without it `grey` if all pictures are grey.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pictures, or fewer of them than of other files; unclear splits; a picture that can't be read, or
            whose size differs from the first one's.  It names the file or folder.
    """
    roots, splits, remarks = split_pictures(Path(folder), split == "all")
    split = split if split in splits else "test"
    shapes = {path: inspect(path) for paths in splits.values() for path in paths}
    first, *others = shapes
    if size is None:
        size = shapes[first].size
        for path in others:
            if shapes[path].size != size:
                other = by(shapes[path].size)
                raise ValueError(f"{path} has {other} pixels and {first.name} has {by(size)}: give a size (--size)")
    if color is None:
        color = "grey" if all(shape.grey for shape in shapes.values()) else "rgb"
    if (count := len(splits[split])) * COLORS[color] * size[0] * size[1] > MOST_BYTES:
        raise ValueError(f"{folder}: {count} images of {by(size)} pixels are more than the limit of {MOST_BYTES} bytes")
    images = np.stack([read_picture(path, size, color) for path in splits[split]])
    if several := sum(shapes[path].several for path in splits[split]):
        remarks.append(f"pictures with several frames, of which only the first is used: {several}")
    labels, names, beside = classes(roots, splits, split)
    if beside:
        remarks.append(f"no labels, as pictures lie beside the folders of classes: {beside}")
    if remarks:
        say(f"{folder}: {'; '.join(remarks)}")
    files = tuple(str(path.relative_to(roots[split])) for path in splits[split])
    return Images(images, labels, 256, str(folder), names, files)


def by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files in a folder and its subfolders that are not hidden.  Links are followed, except to a folder above."""
    above = (*above, folder.resolve())
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif not any(path.resolve() in (real, *real.parents) for real in above):
            yield from walk(path, above)


def split_pictures(folder: Path, whole: bool) -> tuple[dict[str, Path], dict[str, list[Path]], list[str]]:
    """The folder of each split, `train` and `test`, the pictures in it, and remarks on files that are left out.

    If the folder is to remain `whole`, without splits of its own there is one split, `all`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty split; a picture in both splits; fewer pictures than other files."""
    if whole and folder.is_file():
        return {"all": folder.parent}, {"all": [folder]}, []
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    files = sorted(walk(folder))
    paths = [path for path in files if path.suffix.lower() in FORMATS and path.is_file()]
    remarks = left_out(folder, sorted({*files} - {*paths}), paths)
    roots = split_folders(folder, paths)
    splits = {split: [path for path in paths if root in path.parents] for split, root in roots.items()}
    for split, root in roots.items():
        if not splits[split]:
            raise ValueError(f"{root} holds no pictures ({', '.join(FORMATS)})")
    if unused := len(paths) - sum(map(len, splits.values())):
        remarks.append(f"pictures outside {' and '.join(root.name for root in roots.values())}, not used: {unused}")
    if "all" in roots and whole:
        return roots, splits, remarks
    if "all" in roots:
        try:
            held = held_out(path.read_bytes() for path in paths).tolist()
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        roots = dict.fromkeys(("train", "test"), roots["all"])
        splits = {"train": [], "test": []}
        for path, is_held in zip(paths, held, strict=True):
            splits["test" if is_held else "train"].append(path)
    train, test = ({(s.st_dev, s.st_ino): path for path in splits[split] if (s := path.stat())} for split in roots)
    for file in train.keys() & test.keys():
        raise ValueError(f"{train[file]} and {test[file]} are one file, in both splits")
    return roots, splits, remarks


def left_out(folder: Path, others: list[Path], paths: list[Path]) -> list[str]:
    """A remark on the files that are no pictures: how many there are of each kind.

    Raises:
        ValueError: more of them than pictures, not counting those named like a picture, such as notes on it."""
    kinds = Counter(path.suffix.lower() if path.is_file() else "not a file" for path in others)
    listed = ", ".join(f"{count} {kind or 'without ending'}" for kind, count in kinds.most_common())
    called = {path.with_suffix("") for path in paths}
    if len([path for path in others if path.with_suffix("") not in called]) > len(paths):
        raise ValueError(f"{folder} holds {len(paths)} pictures ({', '.join(FORMATS)}) among other files: {listed}")
    return [f"files skipped: {len(others)} ({listed})"] if others else []


def split_folders(folder: Path, paths: list[Path]) -> dict[str, Path]:
    """The folders of the splits `train` and `test`; or one folder as `all`, to be split later.

    Raises:
        ValueError: folders named like splits, but with pictures outside of them or further down."""
    found = own_splits(named_splits(folder.iterdir()))
    if len(found) == 2:
        return found
    for parent in sorted({above for path in {path.parent for path in paths} for above in path.parents}):
        if folder in parent.parents and len(inner := named_splits(parent.iterdir())) > 1:
            raise ValueError(
                f"{parent} has splits of its own ({', '.join(path.name for path in inner)}): give that folder"
            )
    for root in found.values():
        outside = [path for path in paths if root not in path.parents]
        if not outside:
            return {"all": root}
        if len(outside) == len(paths):
            break
        if ROLES[root.name.lower()] != "train" or any(path.parent == folder for path in outside):
            raise ValueError(
                f"{root} is one split, and pictures lie outside: the other needs a folder, or a class another name"
            )
        say(f"{root} is taken for a class, as there is no test beside it")
    return {"all": folder}


def named_splits(paths: Iterable[Path]) -> dict[Path, str]:
    """The folders that are named like a split, each with its role."""
    return {path: ROLES[path.name.lower()] for path in sorted(paths) if path.name.lower() in ROLES and path.is_dir()}


def classes(
    roots: dict[str, Path], splits: dict[str, list[Path]], split: str
) -> tuple[np.ndarray | None, tuple[str, ...], int]:
    """Each picture's class, the index of its subfolder's name: int64 (N,); and the names.  None and no names if a
    picture is in no subfolder; if others are, also the number of those that are not."""
    within = {part: [path.relative_to(roots[part]).parts for path in paths] for part, paths in splits.items()}
    every = [parts for paths in within.values() for parts in paths]
    if beside := sum(len(parts) == 1 for parts in every):
        return None, (), beside if beside < len(every) else 0
    names = sorted({parts[0] for parts in every})
    return np.array([names.index(parts[0]) for parts in within[split]], np.int64), tuple(names), 0


class Shape(NamedTuple):
    """What the header of a picture says; the size is that after rotation by the EXIF orientation."""

    size: Size
    grey: bool
    several: bool  # more than one frame


def opened(path: Path) -> Image.Image:
    """The picture, not decoded yet.

    Raises:
        ValueError: too many pixels."""
    picture = Image.open(path, formats=sorted(set(FORMATS.values())))
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"{by((picture.height, picture.width))} pixels are more than the limit of {MOST_PIXELS}")
    picture.filename = ""  # keeps Pillow from memory-mapping the file, which breaks rotated TIFFs
    white = DEEPEST.get(raw_mode(picture), 0)
    if white and "transparency" in picture.info:  # Pillow scales the other greys to 8 bits itself
        picture.info["transparency"] = (picture.info["transparency"] & white) * (255 // white)
    return picture


def raw_mode(picture: Image.Image) -> str:
    """Pillow's name for the pixel format in a PNG file, before decoding; "" for other formats."""
    return picture.tile[0][3] if picture.format == "PNG" else ""  # type: ignore[attr-defined]


def is_grey(picture: Image.Image) -> bool:
    """By the mode, or by the colours of the palette.  Pillow has no mode for 16-bit greys with an alpha channel."""
    if picture.mode == "P":
        return not np.ptp(np.reshape(picture.getpalette() or [], (-1, 3)), axis=1).any()
    return picture.mode in GREY_MODES or raw_mode(picture) == "LA;16B"


def inspect(path: Path) -> Shape:
    """The size and kind of a picture, from its header.

    Raises:
        ValueError: a file that can't be read as a picture."""
    try:
        with warnings.catch_warnings(action="ignore"), opened(path) as picture:
            several, grey = getattr(picture, "is_animated", False), is_grey(picture)
            # Pillow has rotated a TIFF already
            turns = picture.format != "TIFF" and picture.getexif().get(ORIENTATION) in ON_ITS_SIDE
            size = (picture.width, picture.height) if turns else (picture.height, picture.width)
            return Shape(size, grey, several)
    except Exception as error:  # Pillow's decoders raise errors of many types
        raise unreadable(path, error) from error


def read_picture(path: Path, size: Size, color: str) -> np.ndarray:
    """The picture, converted and resized: uint8 (C, H, W).

    Raises:
        ValueError: a file that can't be read as a picture."""
    try:
        with warnings.catch_warnings(action="ignore"):
            eight = eight_bits(path).convert("L" if color == "grey" else "RGB")
        if eight.size != size[::-1]:
            eight = ImageOps.fit(eight, size[::-1], Image.Resampling.BICUBIC)
        return np.asarray(eight).reshape(*size, COLORS[color]).transpose(2, 0, 1)
    except Exception as error:  # as above
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} can't be read as a picture: {str(error) or type(error).__name__}")


def eight_bits(path: Path) -> Image.Image:
    """The picture, rotated upright, with 8 bits per colour and no transparency.  16 bits are scaled, not truncated.

    Raises:
        ValueError: pixels that are not integers of 8 or 16 bits."""
    with opened(path) as picture:
        raw, clear, tags = raw_mode(picture), picture.info.get("transparency"), getattr(picture, "tag_v2", None)
        upright = ImageOps.exif_transpose(picture)
    if upright.mode == "F":
        raise ValueError("pixels must be integers, got fractions")
    if raw in ("RGB;16B", "RGBA;16B"):  # Pillow keeps only the high bytes
        return from_sixteen_bits(256 * np.asarray(upright, np.uint32) + raw_bytes(path, f"{raw[:-1]}L"), clear)
    if raw == "LA;16B":
        four = raw_bytes(path, "RGBA")
        return from_sixteen_bits(256 * four[..., ::2] + four[..., 1::2], clear)
    if upright.mode.startswith("I"):
        if tags and (tags[BITS], tags[PHOTOMETRIC], tags.get(SAMPLE_FORMAT, (1,))) != ((16,), 1, (1,)):
            raise ValueError("greys of a TIFF must be of 8 or 16 bits, 0 black")
        return from_sixteen_bits(np.asarray(upright)[..., None], clear)
    if upright.has_transparency_data:
        page = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        return Image.alpha_composite(page, upright.convert("RGBA")).convert("RGB")
    return upright


def raw_bytes(path: Path, raw: str) -> np.ndarray:
    """The pixels of a PNG, rotated upright, decoded as if the file were in another of Pillow's raw modes: (H, W, C)."""
    with opened(path) as picture:
        picture.tile = [(*picture.tile[0][:3], raw)]  # type: ignore[attr-defined]
        return np.asarray(ImageOps.exif_transpose(picture), np.uint32)


def from_sixteen_bits(numbers: np.ndarray, clear: Any = None) -> Image.Image:
    """Scale pixels (H, W, C) in 0 … 65535 to 8 bits.  If C is even, the last channel is alpha, over a white background.

    Args:
        clear: the transparent colour, if there is one.

    Raises:
        ValueError: a pixel out of range."""
    if numbers.min() < 0 or numbers.max() > 65535:
        raise ValueError(f"greys must be in 0 … 65535, got {numbers.min()} … {numbers.max()}")
    numbers = numbers.astype(np.uint32)
    if clear is not None:
        numbers[(numbers == clear).all(-1)] = 65535
    if numbers.shape[-1] % 2 == 0:
        numbers, opacity = numbers[..., :-1], numbers[..., -1:]
        numbers = (numbers * opacity + 65535 * (65535 - opacity) + 32767) // 65535
    eight = ((numbers * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(eight[..., 0] if eight.shape[-1] == 1 else eight)
