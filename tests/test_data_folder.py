"""A folder of pictures: what Pillow reads becomes images of one shape, as its owner would expect to see them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nanogen import data
from nanogen.data import folder as pictures
from nanogen.data.images import held_out

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 6, 5)).astype(np.uint8)
COLORS = RNG.integers(0, 256, (12, 6, 5, 3)).astype(np.uint8)


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(path, **options)
    return path


@pytest.fixture
def twelve(tmp_path: Path) -> Path:
    """A folder of twelve grey pictures of 6×5 pixels, and what else lies about in folders."""
    for i, array in enumerate(GREY):
        save(tmp_path / "set" / f"{i:02}.png", array)
    (tmp_path / "set" / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "set" / "notes.txt").write_text("not a picture either")
    (tmp_path / "set" / "folder.png").mkdir()
    return tmp_path / "set"


def as_set(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def only_image(path: Path, **options: Any) -> np.ndarray:
    """The image that the library makes of one picture, which is its test split beside another one in training."""
    return pictures.read_picture(path, pictures.inspect(path).size, options.get("color", "rgb"))


def test_all_pictures_are_read_once(twelve: Path) -> None:
    """The splits have all pictures between them, bit by bit, each once: two of twelve are for testing.  The same again
    at every call, and as grey images of 256 levels without labels."""
    train, test = data.load(twelve), data.load(twelve, "test")
    assert (len(train), len(test)) == (10, 2)
    assert as_set(train.images) | as_set(test.images) == as_set(GREY)
    assert (train.shape, train.levels, train.labels) == ((1, 6, 5), 256, None)
    assert np.array_equal(data.load(str(twelve), "test").images, test.images)


@given(st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_the_split_goes_by_contents(contents: list[bytes], random: Any) -> None:
    """A tenth, rounded up, is held out, and copies with it; neither side is empty; another order gives the same split;
    with a single content there is no split."""
    if len(set(contents)) == 1:
        with pytest.raises(ValueError, match="two different"):
            held_out(contents)
        return
    chosen = {content for content, held in zip(contents, held_out(contents), strict=True) if held}
    count = sum(content in chosen for content in contents)
    assert chosen < set(contents)
    assert chosen
    assert count == held_out(contents).sum()
    by_hash = sorted(contents, key=lambda content: hashlib.sha256(content).digest())
    assert set(by_hash[:count]) == chosen
    if len(set(contents)) == len(contents):
        assert count == -(-len(contents) // 10)
    shuffled = random.sample(contents, len(contents))
    assert {c for c, held in zip(shuffled, held_out(shuffled), strict=True) if held} == chosen


def test_folders_of_splits_and_classes(tmp_path: Path) -> None:
    """train/ and test/ are the splits; the folders below are the classes, numbered by name over both splits."""
    for i, (split, name) in enumerate([("train", "cat"), ("train", "ant"), ("train", "bee"), ("test", "bee")]):
        save(tmp_path / split / name / "deeper" / "x.png", GREY[i])
    train, test = data.load(tmp_path), data.load(tmp_path, "test")
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2], [1])
    assert np.array_equal(train.images[:, 0], GREY[[1, 2, 0]])
    save(tmp_path / "test" / "y.png", GREY[5])
    assert data.load(tmp_path).labels is None, "a picture in no class"


def test_classes_of_a_split_by_contents(tmp_path: Path) -> None:
    """Each image keeps the class of its folder, on either side of the split."""
    for i, array in enumerate(GREY):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", array)
    for split in ("train", "test"):
        found = data.load(tmp_path, split)
        assert found.labels is not None
        for image, label in zip(found.images[:, 0], found.labels.tolist(), strict=True):
            assert any(np.array_equal(image, array) for array in GREY[label::2])


def test_another_size_is_refused_by_name(twelve: Path) -> None:
    """Without a size, the first picture of another one is named, with both sizes; with a size all are brought to it."""
    save(twelve / "odd.png", GREY[0].T)
    with pytest.raises(ValueError, match=r"odd\.png is of 5×6 pixels and 00\.png of 6×5: give a size"):
        data.load(twelve)
    assert data.load(twelve, size=(4, 3)).images.shape == (11, 1, 4, 3)


def test_resizing_keeps_proportions_and_means(tmp_path: Path) -> None:
    """A wide picture is cut about its centre, not squeezed; a fine checkerboard becomes an even grey, not stripes."""
    left, middle, right = np.full((8, 8), 10), np.full((8, 8), 100), np.full((8, 8), 200)
    wide = save(tmp_path / "wide.png", np.hstack([left, middle, right]).astype(np.uint8))
    assert set(pictures.read_picture(wide, (8, 8), "grey").ravel().tolist()) == {100}
    board = save(tmp_path / "board.png", ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8))
    small = pictures.read_picture(board, (8, 8), "grey")
    assert abs(small.astype(int) - 127.5).max() < 10


def test_colors(tmp_path: Path) -> None:
    """A folder with one colour picture is rgb, the grey ones with three equal colours, in both splits; asked for, all
    are grey, by the usual weights of red, green and blue."""
    for i in range(11):
        save(tmp_path / f"{i}.png", GREY[i])
    save(tmp_path / "color.png", COLORS[0])
    for split in ("train", "test"):
        assert data.load(tmp_path, split).shape == (3, 6, 5)
    assert np.array_equal(only_image(tmp_path / "1.png"), np.stack([GREY[1]] * 3))
    assert np.array_equal(only_image(tmp_path / "color.png"), COLORS[0].transpose(2, 0, 1))
    grey = only_image(tmp_path / "color.png", color="grey")[0]
    assert abs(grey - COLORS[0] @ [0.299, 0.587, 0.114]).max() < 1
    assert data.load(tmp_path, color="grey").shape == (1, 6, 5)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    """A 16-bit grey PNG: v·255/65535, rounded; cutting off at 255, or keeping the low byte, would show."""
    deep = np.array([[0, 128, 129, 255], [256, 32768, 65279, 65535]], np.uint16)
    path = save(tmp_path / "deep.png", deep)
    assert pictures.inspect(path).grey
    assert np.array_equal(only_image(path, color="grey")[0], (deep / 257).round())


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    """What is transparent shows white, whatever colour hides there; half transparent is half white: RGBA, grey with
    alpha, and a palette with a transparent entry."""
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, :3], rgba[0, :, 3] = (200, 0, 0), (0, 128, 255)
    found = only_image(save(tmp_path / "rgba.png", rgba))
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert abs(found[:, 0, 1].astype(int) - [227, 127, 127]).max() <= 1
    assert found[:, 0, 2].tolist() == [200, 0, 0]
    grey = only_image(save(tmp_path / "la.png", rgba, "LA"), color="grey")
    assert grey[0, 0, 0] == 255 != grey[0, 0, 2]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert only_image(tmp_path / "palette.png")[:, 0].T.tolist() == [[255, 255, 255], [50, 60, 70]]
    palette.save(tmp_path / "opaque.png")
    assert only_image(tmp_path / "opaque.png")[:, 0].T.tolist() == [[9, 9, 9], [50, 60, 70]]


def test_pictures_stand_upright(tmp_path: Path) -> None:
    """EXIF orientation 6, as phones write it: the picture is turned by 90° clockwise, and its size is that of the
    upright one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.png", GREY[0], exif=exif)
    assert pictures.inspect(path).size == (5, 6)
    assert np.array_equal(only_image(path, color="grey")[0], np.rot90(GREY[0], -1))


@pytest.mark.parametrize(("name", "mode", "tolerance"), [
    ("x.jpg", "RGB", 6), ("x.jpeg", "CMYK", 6), ("x.JPG", "L", 6), ("x.webp", "RGB", 30), ("x.bmp", "RGB", 0),
    ("x.ppm", "RGB", 0), ("x.pgm", "L", 0), ("x.png", "1", 0),
])  # fmt: skip
def test_formats_and_modes(name: str, mode: str, tolerance: int, tmp_path: Path) -> None:
    """JPEG (CMYK too), WebP, BMP and the netpbm formats give the picture's own colours."""
    smooth = np.stack([np.add.outer(np.arange(16) * k, np.arange(24)) for k in (2, 3, 4)], -1).astype(np.uint8) + 50
    path = save(tmp_path / name, smooth, mode, **({"quality": 100} if "p" in Path(name).suffix else {}))
    expected = np.asarray(Image.fromarray(smooth).convert("CMYK" if mode == "CMYK" else mode).convert("RGB"))
    assert abs(only_image(path).astype(int) - expected.transpose(2, 0, 1)).max() <= tolerance


@pytest.mark.parametrize(("contents", "word"), [
    (b"", "cannot identify"), (b"\x89PNG\r\n\x1a\nrubbish", "x.png"), (b"GIF89a", "cannot identify"),
])  # fmt: skip
def test_what_is_no_picture_is_named(contents: bytes, word: str, twelve: Path) -> None:
    """A file that is called a picture and is none: ValueError with its path."""
    (twelve / "x.png").write_bytes(contents)
    with pytest.raises(ValueError, match=rf"x\.png.*{word}|{word}"):
        data.load(twelve)


def test_a_truncated_picture_is_named(twelve: Path) -> None:
    """Cut off in the middle, its header says nothing of it: the decoder's error comes with the path."""
    for path in twelve.glob("0?.png"):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"set/0\d\.png"):
        data.load(twelve, "train")


@pytest.mark.parametrize("side", [9000, 20000])
def test_a_bomb_is_refused_by_its_header(side: int, tmp_path: Path) -> None:
    """A PNG of a few kilobytes and 81 or 400 million pixels is not decoded."""
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    Image.new("1", (2, 2)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"bomb\.png.*pixels"):
        data.load(tmp_path, size=(8, 8))


def test_folders_without_pictures(tmp_path: Path, twelve: Path) -> None:
    """An empty folder, an empty split, a single picture: each is refused with the folder's name; size and color are for
    folders alone, and a folder needs no --data-dir."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no pictures \(\.png"):
        data.load(tmp_path / "empty")
    save(tmp_path / "half" / "train" / "x.png", GREY[0])
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(ValueError, match="test holds no pictures"):
        data.load(tmp_path / "half")
    save(tmp_path / "one" / "x.png", GREY[0])
    with pytest.raises(ValueError, match="one: at least two"):
        data.load(tmp_path / "one")
    for options in ({"size": (8, 8)}, {"color": "grey"}):
        with pytest.raises(ValueError, match="digits is none"):
            data.load("digits", **options)  # type: ignore[arg-type]
    for size in ((0, 4), (4, 5000)):
        with pytest.raises(ValueError, match="size must"):
            data.load(twelve, size=size)
    with pytest.raises(ValueError, match="color must"):
        data.load(twelve, color="sepia")
    with pytest.raises(ValueError, match="--data-dir"):
        data.load(twelve, folder=tmp_path)
