"""A folder of pictures: what Pillow reads becomes images of one shape, as its owner would expect to see them."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
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


def png(depth: int, kind: int, numbers: list[list[int]], *parts: tuple[bytes, bytes]) -> bytes:
    """A PNG of rows of numbers, by its specification; kind 0: grey, 2: rgb, 3: palette; 4, 6: 0 and 2 with opacity."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    rows = b""
    for row in numbers:
        bits = "".join(f"{number:0{depth}b}" for number in row)
        rows += b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    header = struct.pack(">2I5B", len(numbers[0]) // channels, len(numbers), depth, kind, 0, 0, 0)
    body = b"\x89PNG\r\n\x1a\n"
    for name, inside in ((b"IHDR", header), *parts, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        body += struct.pack(">I", len(inside)) + name + inside + struct.pack(">I", zlib.crc32(name + inside))
    return body


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


def test_folders_of_splits_and_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """train/ and test/ are the splits; the folders below are the classes, numbered by name over both splits.  One
    picture beside them leaves none, which is said."""
    for i, (split, name) in enumerate([("train", "cat"), ("train", "ant"), ("train", "bee"), ("test", "bee")]):
        save(tmp_path / split / name / "deeper" / "x.png", GREY[i])
    train, test = data.load(tmp_path), data.load(tmp_path, "test")
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2], [1])
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert np.array_equal(train.images[:, 0], GREY[[1, 2, 0]])
    save(tmp_path / "test" / "y.png", GREY[5])
    assert "no labels" not in caplog.text
    assert data.load(tmp_path).labels is None, "a picture in no class"
    assert "no labels, as pictures lie beside the folders of classes: 1" in caplog.text
    assert data.load(tmp_path).class_names == ()


SPLIT_FOLDERS = [
    ("train", "test"), ("training", "testing"), ("Train", "Test"), ("TRAINING", "test"), ("train", "val"),
    ("train", "valid"), ("Training", "Validation"), ("train", "dev"), ("train", "eval"), ("train", "Testing"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), SPLIT_FOLDERS)
def test_splits_go_by_many_names(train: str, test: str, tmp_path: Path) -> None:
    """The subfolders that are called like splits are the splits, whole, and what is below them the classes."""
    for i in range(12):
        save(tmp_path / (train if i < 9 else test) / "ab"[i % 2] / f"{i}.png", GREY[i])
    for split, part in (("train", range(9)), ("test", range(9, 12))):
        found = data.load(tmp_path, split)
        assert found.labels is not None
        in_order = sorted(part, key=lambda i: (i % 2, f"{i}.png"))
        assert np.array_equal(found.images[:, 0], GREY[in_order])
        assert found.labels.tolist() == [i % 2 for i in in_order]


def test_images_for_validation_are_not_those_for_testing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With train, val and test, train and test are used, and what is not is said."""
    for i, split in enumerate(["train"] * 6 + ["val"] * 4 + ["test"] * 2):
        save(tmp_path / split / f"{i}.png", GREY[i])
    assert as_set(data.load(tmp_path).images) == as_set(GREY[:6])
    assert as_set(data.load(tmp_path, "test").images) == as_set(GREY[10:])
    assert "pictures outside train and test, not used: 4" in caplog.text


@pytest.mark.parametrize("name", ["train", "test", "Training", "val"])
def test_one_split_alone_is_split(name: str, tmp_path: Path) -> None:
    """Of a folder's only split a tenth is held out: nothing is shared, nothing lost, and the classes are below it."""
    for i, array in enumerate(GREY):
        save(tmp_path / name / "ab"[i % 2] / f"{i}.png", array)
    train, test = data.load(tmp_path), data.load(tmp_path, "test")
    assert (len(train), len(test)) == (10, 2)
    assert as_set(train.images) | as_set(test.images) == as_set(GREY)
    for found in (train, test):
        assert found.labels is not None
        for image, label in zip(found.images[:, 0], found.labels.tolist(), strict=True):
            assert image.tobytes() in as_set(GREY[label::2])


@pytest.mark.parametrize(("places", "word"), [
    (["test/0", "test/1", "2", "3"], "test is one split"), (["val/a/0", "cats/1", "dogs/2"], "val is one split"),
    (["train/0", "train/1", "2"], "train is one split"), (["test/0", "val/1"], "no train"),
    (["train/0", "training/1", "test/2"], "train and .*training are both"), (["Test/0", "test/1", "train/2"], "both"),
    (["all/train/0", "all/train/1", "all/test/2"], "all has splits of its own"),
    (["cat/train/0", "cat/test/1", "dog/train/2", "dog/test/3"], "cat has splits of its own"),
    (["images/train/a/0", "images/val/a/1", "more/2"], "images has splits of its own"),
])  # fmt: skip
def test_unclear_splits_are_refused(places: list[str], word: str, tmp_path: Path) -> None:
    """Where names of splits don't say which images are for what, nothing is guessed."""
    for i, place in enumerate(places):
        save(tmp_path / f"{place}.png", GREY[i])
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=word):
            data.load(tmp_path, split)


def test_a_class_of_trains(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`train` among other folders, and no test, is a class; that is said."""
    for i, name in enumerate(["bus", "car", "train"] * 4):
        save(tmp_path / name / f"{i}.png", GREY[i])
    labels = [data.load(tmp_path, split).labels for split in ("train", "test")]
    assert sorted(np.concatenate(labels).tolist()) == [0] * 4 + [1] * 4 + [2] * 4  # type: ignore[arg-type]
    assert "train is taken for a class" in caplog.text


def test_a_picture_in_both_splits_is_refused(tmp_path: Path) -> None:
    """A link from one split to the other, of the folder or of a file, and a second name of a file: test images would be
    trained on."""
    save(tmp_path / "a" / "train" / "x.png", GREY[0])
    (tmp_path / "a" / "test").symlink_to("train")
    for name, link in (("b", os.symlink), ("c", os.link)):
        first = save(tmp_path / name / "train" / "x.png", GREY[0])
        save(tmp_path / name / "test" / "y.png", GREY[1])
        link(first, tmp_path / name / "test" / "z.png")
    for name in "abc":
        with pytest.raises(ValueError, match=r"train.x\.png and .*test.\w\.png are one file"):
            data.load(tmp_path / name)


def test_links_are_followed(tmp_path: Path) -> None:
    """A class or a picture may be a link to another place, and so may a split."""
    for i, array in enumerate(GREY):
        save(tmp_path / "store" / "abc"[i % 3] / f"{i}.png", array)
    (tmp_path / "set" / "c").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "set" / name).symlink_to(tmp_path / "store" / name)
    for path in (tmp_path / "store" / "c").iterdir():
        (tmp_path / "set" / "c" / path.name).symlink_to(path)
    train, test = data.load(tmp_path / "set"), data.load(tmp_path / "set", "test")
    assert as_set(train.images) | as_set(test.images) == as_set(GREY)
    assert train.labels is not None
    for image, label in zip(train.images[:, 0], train.labels.tolist(), strict=True):
        assert image.tobytes() in as_set(GREY[label::3])
    (tmp_path / "own").mkdir()
    for split, name in (("train", "a"), ("test", "b")):
        (tmp_path / "own" / split).symlink_to(tmp_path / "store" / name)
    assert as_set(data.load(tmp_path / "own").images) == as_set(GREY[::3])
    assert as_set(data.load(tmp_path / "own", "test").images) == as_set(GREY[1::3])


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    """Links to the folder, to one above it, to themselves and to where they are: no picture comes twice, none from
    outside; two folders that each have a link to the other end too."""
    save(tmp_path / "outside.png", GREY[5])
    for i in range(4):
        save(tmp_path / "set" / "ab"[i % 2] / f"{i}.png", GREY[i])
    for name, target in (("loop", "."), ("a/up", ".."), ("a/here", "."), ("b/out", tmp_path), ("self", "self")):
        (tmp_path / "set" / name).symlink_to(target)
    found = [data.load(tmp_path / "set", split).images for split in ("train", "test")]
    assert sorted(image.tobytes() for part in found for image in part) == sorted(as_set(GREY[:4]))
    for name, other in ("ab", "ba"):
        (tmp_path / "set" / name / "other").symlink_to(tmp_path / "set" / other)
    found = [data.load(tmp_path / "set", split).images for split in ("train", "test")]
    assert as_set(np.concatenate(found)) == as_set(GREY[:4])


def test_skipped_files_are_said(twelve: Path, caplog: pytest.LogCaptureFixture) -> None:
    """How many files are left out, and of which kinds, in one line and once; links to nowhere are among them."""
    for name in ("a.heic", "b.HEIC", "c.svg", "README", "labels.csv"):
        (twelve / name).write_bytes(b"what this library does not read")
    (twelve / "gone.png").symlink_to("nowhere")
    for split in ("train", "test", "train"):
        data.load(twelve, split)
    [said] = caplog.messages
    assert said.startswith(f"nanogen: {twelve}: files skipped: 7 (2 .heic, ")
    assert all(text in said for text in ("1 .svg", "1 .csv", "1 .txt", "1 without ending", "1 not a file"))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    """Where more files would be skipped than read, with what there is; but a picture may have a file of notes."""
    for i in range(6):
        save(tmp_path / f"{i}.png", GREY[i])
        (tmp_path / f"{i}.txt").write_text("a caption")
    (tmp_path / "classes.txt").write_text("cat")
    assert len(data.load(tmp_path)) == 5
    for i in range(6):
        (tmp_path / f"more-{i}.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds 6 pictures .*among other files: 7 \.txt, 6 \.heic"):
        data.load(tmp_path)


def test_several_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of an animated GIF, PNG or WebP, of a TIFF of several pages and of a camera's double JPEG the first is taken, and
    how many there are is said."""
    (tmp_path / "train").mkdir()
    kinds = {"a.gif": {}, "a.png": {}, "a.webp": {"lossless": True}, "a.tiff": {}, "a.jpg": {"format": "MPO"}}
    for i, (name, options) in enumerate(kinds.items()):
        first, second = Image.fromarray(GREY[i]), Image.fromarray(GREY[i + 1])
        first.save(tmp_path / "train" / name, save_all=True, append_images=[second], quality=100, **options)
    save(tmp_path / "test" / "b.png", GREY[0])
    found = data.load(tmp_path)
    assert len(found) == len(kinds)
    for image, name in zip(found.images, sorted(kinds), strict=True):
        first = GREY[list(kinds).index(name)]
        assert abs(image.astype(int) - first).max() <= (3 if name == "a.jpg" else 0), name
    assert "pictures with several frames, of which only the first is used: 5" in caplog.text


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
    with pytest.raises(ValueError, match=r"odd\.png has 5×6 pixels and 00\.png has 6×5: give a size"):
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
    """A 16-bit grey PNG or TIFF: v·255/65535, rounded; cutting off at 255, or keeping the low byte, would show."""
    deep = np.array([[0, 128, 129, 255], [256, 32768, 65279, 65535]], np.uint16)
    for name in ("deep.png", "deep.tif"):
        path = save(tmp_path / name, deep)
        assert pictures.inspect(path).grey
        assert np.array_equal(only_image(path, color="grey")[0], (deep / 257).round())


@given(kind=st.sampled_from([0, 2, 4, 6]), marked=st.booleans(), data_=st.data())
def test_pictures_of_sixteen_bits(kind: int, marked: bool, data_: st.DataObject, tmp_path_factory: Any) -> None:
    """PNGs of 16 bits, by their specification: opacity a shows a·v + (1 − a)·white, rounded to 8 bits; without it, one
    colour, compared in all of its 16 bits, may be transparent, which shows white.  What is grey stays grey."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    numbers = st.sampled_from([0, 3, 128, 129, 255, 257, 771, 3 * 256, 32768, 65279, 65535]) | st.integers(0, 65535)
    pixels = data_.draw(st.lists(st.lists(numbers, min_size=channels, max_size=channels), min_size=2, max_size=6))
    pixels.append([number ^ 0x00FF for number in pixels[0]])  # the high bytes of the first one
    clear = [(b"tRNS", struct.pack(f">{channels}H", *pixels[0]))] if marked and kind in (0, 2) else []
    path = tmp_path_factory.mktemp("deep") / "x.png"
    path.write_bytes(png(16, kind, [[number for pixel in pixels for number in pixel]], *clear))
    values = np.array(pixels, np.float64)
    colors, opacity = (values[:, :-1], values[:, -1:] / 65535) if kind > 3 else (values, np.ones((len(values), 1)))
    if clear:
        opacity[(values == values[0]).all(1)] = 0
    expected = (opacity * colors + (1 - opacity) * 65535) / 257
    assert pictures.inspect(path).grey == (kind in (0, 4))
    found = only_image(path, color="grey" if kind in (0, 4) else "rgb")[:, 0].T
    assert abs(found - expected).max() <= 0.5 + 1 / 257  # 16 bits are rounded to before 8 are
    assert (found[opacity[:, 0] == 1] == expected[opacity[:, 0] == 1].round()).all()


@pytest.mark.parametrize(("depth", "numbers", "clear", "expected"), [
    (16, [0, 32768], 0, [255, 128]), (16, [771, 3], 3, [3, 255]), (16, [3, 259], 3, [255, 1]),
    (8, [1, 2, 255], 1, [255, 2, 255]), (4, [1, 11, 0], 11, [17, 255, 0]), (4, [1, 11, 0], 1, [255, 187, 0]),
    (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]), (2, [0, 1, 2, 3], 2, [0, 85, 255, 255]), (1, [0, 1, 0], 0, [255] * 3),
    (1, [0, 1, 0], 1, [0, 255, 0]),
])  # fmt: skip
def test_one_transparent_grey(depth: int, numbers: list[int], clear: int, expected: list[int], tmp_path: Path) -> None:
    """Greys of 1 to 16 bits of which one is transparent: that one alone shows white."""
    (path := tmp_path / "x.png").write_bytes(png(depth, 0, [numbers], (b"tRNS", struct.pack(">H", clear))))
    assert pictures.inspect(path).grey
    assert only_image(path, color="grey").ravel().tolist() == expected


def test_one_transparent_color(tmp_path: Path) -> None:
    """Colours of 16 bits are told apart by all of them: of 771 and 3, which are 3 and 0 of 8 bits, 3 is transparent."""
    for clear, expected in ((3, [3, 255]), (771, [255, 0])):
        path = tmp_path / f"{clear}.png"
        path.write_bytes(png(16, 2, [[771] * 3 + [3] * 3], (b"tRNS", struct.pack(">3H", *[clear] * 3))))
        assert only_image(path)[:, 0].tolist() == [expected] * 3


def test_palettes(tmp_path: Path) -> None:
    """A palette's entries may be half transparent; one of greys alone makes a grey picture."""
    for name, colors, grey in (("grey", [9, 9, 9, 50, 50, 50], True), ("color", [9, 9, 9, 50, 50, 51], False)):
        for depth in (1, 2, 4, 8):
            path, parts = tmp_path / f"{name}{depth}.png", [(b"PLTE", bytes(colors)), (b"tRNS", b"\x80")]
            path.write_bytes(png(depth, 3, [[0, 1, 1]], *parts))
            assert pictures.inspect(path).grey == grey
            shown = [[255 - (255 - c) * 128 / 255 for c in colors[:3]], colors[3:], colors[3:]]
            assert abs(only_image(path)[:, 0].T - shown).max() <= 0.5


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


# What an EXIF orientation says of the stored picture: where its first row and its first column are seen.
ORIENTATIONS = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(("name", "options"), [
    ("x.png", {}), ("x.jpg", {"quality": 100}), ("x.webp", {"lossless": True}), ("x.tif", {}),
    ("x.tif", {"compression": "tiff_lzw"}), ("deep.png", {}),
])  # fmt: skip
def test_pictures_stand_upright(orientation: int, name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """All eight orientations, in all formats that have them: a picture with marked corners is seen as it was taken, in
    both splits and with the size of the upright one.  EXIF 2.3, section 4.6.4 A."""
    corners = {("top", "left"): 10, ("top", "right"): 80, ("bottom", "left"): 150, ("bottom", "right"): 220}
    row, column = ORIENTATIONS[orientation]
    turned = row in ("left", "right")
    other = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
    seen = lambda *sides: corners[sides[::-1] if turned else sides]  # by its place in the upright picture
    stored = np.array([[seen(row, column), seen(row, other[column])],
                       [seen(other[row], column), seen(other[row], other[column])]])  # fmt: skip
    stored = stored.repeat(8, axis=0).repeat(16, axis=1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for split in ("train", "test"):
        save(
            tmp_path / split / name, stored.astype(np.uint16) * 257 if "deep" in name else stored, exif=exif, **options
        )
    for split in ("train", "test"):
        image = data.load(tmp_path, split, color="grey").images[0, 0]
        assert image.shape == ((32, 16) if turned else (16, 32))
        for (vertical, horizontal), level in corners.items():
            assert abs(int(image[-1 * (vertical == "bottom"), -1 * (horizontal == "right")]) - level) <= 2


@pytest.mark.parametrize(("name", "mode", "tolerance"), [
    ("x.jpg", "RGB", 6), ("x.jpeg", "CMYK", 6), ("x.JPG", "L", 6), ("x.webp", "RGB", 30), ("x.bmp", "RGB", 0),
    ("x.ppm", "RGB", 0), ("x.pgm", "L", 0), ("x.png", "1", 0), ("x.jfif", "RGB", 6), ("x.jpe", "L", 6),
    ("x.tif", "RGB", 0), ("x.TIFF", "L", 0), ("x.tif", "1", 0), ("x.tif", "CMYK", 0), ("x.gif", "L", 0),
    ("x.pbm", "1", 0), ("x.pnm", "RGB", 0), ("x.apng", "RGB", 0),
])  # fmt: skip
def test_formats_and_modes(name: str, mode: str, tolerance: int, tmp_path: Path) -> None:
    """JPEG (CMYK too), WebP, BMP, GIF, TIFF and the netpbm formats give the picture's own colours."""
    smooth = np.stack([np.add.outer(np.arange(16) * k, np.arange(24)) for k in (2, 3, 4)], -1).astype(np.uint8) + 50
    path = save(tmp_path / name, smooth, mode, **({"quality": 100} if "p" in Path(name).suffix else {}))
    expected = np.asarray(Image.fromarray(smooth).convert("CMYK" if mode == "CMYK" else mode).convert("RGB"))
    assert abs(only_image(path).astype(int) - expected.transpose(2, 0, 1)).max() <= tolerance


@pytest.mark.parametrize("contents", [b"", b"\x89PNG\r\n\x1a\nrubbish", b"GIF89a", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.gif", "x.tif"])
def test_what_is_no_picture_is_named(contents: bytes, name: str, twelve: Path) -> None:
    """A file that is called a picture and is none: ValueError with its path."""
    (twelve / name).write_bytes(contents)
    with pytest.raises(ValueError, match=rf"set.{name} can't be read as a picture: \w"):
        data.load(twelve)


@pytest.mark.parametrize("kind", ["white is 0", "12 bits", "32 bits", "fractions"])
def test_tiffs_that_are_not_levels(kind: str, tmp_path: Path) -> None:
    """A TIFF may hold more than levels of 8 and 16 bits: such ones are refused by name."""
    deep = np.array([[0, 771, 4000]], np.int32 if kind == "32 bits" else np.uint16)
    path = save(tmp_path / "x.tif", deep.astype(np.float32) if kind == "fractions" else deep)
    body = path.read_bytes()
    for tag, old, new in ((262, 1, 0 if kind == "white is 0" else 1), (258, 16, 12 if kind == "12 bits" else 16)):
        body = body.replace(struct.pack("<HHIHH", tag, 3, 1, old, 0), struct.pack("<HHIHH", tag, 3, 1, new, 0))
    path.write_bytes(body)
    with pytest.raises(ValueError, match=r"x\.tif can't be read as a picture: (greys of a TIFF|pixels must be)"):
        only_image(path)


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
    """An empty folder, an empty split, a single picture: each is refused with the folder's name; color is for folders
    alone, and a folder needs no --data-dir."""
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
    with pytest.raises(ValueError, match="digits is not a folder"):
        data.load("digits", color="grey")
    for size in ((0, 4), (4, 5000)):
        with pytest.raises(ValueError, match="size must"):
            data.load(twelve, size=size)
    with pytest.raises(ValueError, match="color must"):
        data.load(twelve, color="sepia")
    with pytest.raises(ValueError, match="--data-dir"):
        data.load(twelve, folder=tmp_path)
