"""Images in: the bundled digits, IDX files, and files that are not what they say."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogen import data
from nanogen.data import Images, read_idx
from nanogen.data.images import check_levels

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
LABELS = np.array([7, 0, 2, 9, 1], np.uint8)


def idx(array: np.ndarray, kind: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    """The bytes of an IDX file: zeros, type, axes, lengths as big-endian 32-bit numbers, then the numbers."""
    shape = array.shape if shape is None else shape
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", n) for n in shape) + array.tobytes()


def write(path: Path, contents: bytes) -> Path:
    path.write_bytes(contents)
    return path


# The bundled digits


def test_digits_are_scikit_learns() -> None:
    """The bundled images and labels equal scikit-learn's load_digits, bit by bit, in its order: 1,500 train, 297 test;
    17 levels, both ends in use."""
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    images = np.concatenate([train.images, test.images])
    assert images.dtype == np.uint8
    assert np.array_equal(images, theirs.images[:, None])
    assert np.array_equal(np.concatenate([train.labels, test.labels]), theirs.target)  # type: ignore[list-item]
    for part in (train, test):
        assert (part.shape, part.levels, part.name) == ((1, 8, 8), 17, "digits")
        assert set(np.unique(part.labels)) == set(range(10))  # type: ignore[arg-type]
    assert (images.min(), images.max()) == (0, 16)


def test_bad_names() -> None:
    """An unknown data set or split is refused with the names there are; a set of files needs a folder."""
    with pytest.raises(ValueError, match=r"digits, mnist, fashion-mnist.*'cifar'"):
        data.load("cifar")
    with pytest.raises(ValueError, match=r"train, test.*'valid'"):
        data.load("digits", "valid")
    for name in ("mnist", "fashion-mnist"):
        with pytest.raises(ValueError, match="--data-dir"):
            data.load(name)


# IDX


@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_idx_is_read(shape: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any shape, empty ones too, plain and gzipped, comes back as it was written."""
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    folder = tmp_path_factory.mktemp("idx")
    for contents in (idx(array), gzip.compress(idx(array))):
        found = read_idx(write(folder / "file", contents), len(shape))
        assert found.dtype == np.uint8
        assert np.array_equal(found, array)


BROKEN = {
    "empty": b"",
    "only a beginning": idx(PIXELS)[:10],
    "truncated": idx(PIXELS)[:-1],
    "too long": idx(PIXELS) + b"\0",
    "no magic": b"\x89PNG\r\n\x1a\n" + idx(PIXELS),
    "first byte": b"\1" + idx(PIXELS)[1:],
    "another type": idx(PIXELS, kind=13),
    "fewer axes": idx(PIXELS[0]),
    "more axes": idx(PIXELS[None]),
    "announces the world": idx(PIXELS, shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)),
    "announces a gigabyte more": idx(PIXELS, shape=(2**20, 32, 33)),
    "announces more than it has": idx(PIXELS, shape=(50, 4, 3)),
    "announces none": idx(PIXELS, shape=(0, 4, 3)),
}
CORRUPT = {
    "truncated": gzip.compress(idx(PIXELS))[:-12],
    "no trailer": gzip.compress(idx(PIXELS))[:-4],
    "only a header": gzip.compress(idx(PIXELS))[:10],
    "only the magic": b"\x1f\x8b",
    "wrong checksum": gzip.compress(idx(PIXELS))[:-8] + b"\1\2\3\4" + gzip.compress(idx(PIXELS))[-4:],
    "flipped in the middle": gzip.compress(idx(PIXELS))[:20] + b"\xff\xff\xff" + gzip.compress(idx(PIXELS))[23:],
    "rubbish after it": gzip.compress(idx(PIXELS)) + b"rubbish",
    **{f"{name}, gzipped": gzip.compress(contents) for name, contents in BROKEN.items()},
}


@pytest.mark.parametrize("name", [*BROKEN, *CORRUPT])
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    """Whatever is wrong with a file: ValueError with its path, before any memory is taken on its word."""
    path = write(tmp_path / "digits.idx", BROKEN.get(name) if name in BROKEN else CORRUPT[name])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"digits\.idx"):
        read_idx(path, 3)


@given(place=st.integers(0, 15), value=st.integers(0, 255))
def test_no_header_byte_can_be_wrong_unnoticed(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each byte of the header counts: any other value is refused, but for lengths of the same product."""
    contents = bytearray(idx(PIXELS))
    if contents[place] == value:
        return
    contents[place] = value
    with pytest.raises(ValueError, match="file"):
        read_idx(write(tmp_path_factory.mktemp("idx") / "file", bytes(contents)), 3)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """FileNotFoundError with what was looked for, in a folder that is not there too."""
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_idx(tmp_path / "nothing", 3)
    for folder in (tmp_path, tmp_path / "not-there"):
        with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
            data.load("mnist", "train", folder)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_files(name: str, zipped: bool, tmp_path: Path) -> None:
    """MNIST's file names, with and without .gz: train and t10k, images (N, 1, H, W) of 256 levels, int64 labels."""
    for part, images, labels in (("train", PIXELS, LABELS), ("t10k", PIXELS[:2], LABELS[:2])):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            contents = idx(array)
            file = tmp_path / f"{part}-{kind}-ubyte{'.gz' if zipped else ''}"
            write(file, gzip.compress(contents) if zipped else contents)
    train, test = data.load(name, "train", tmp_path), data.load(name, "test", str(tmp_path))
    assert np.array_equal(train.images, PIXELS[:, None])
    assert np.array_equal(test.images, PIXELS[:2, None])
    assert train.labels is not None
    assert train.labels.tolist() == LABELS.tolist()
    assert (train.labels.dtype, train.levels, train.name, train.shape) == (np.int64, 256, name, (1, 4, 3))


def test_labels_of_other_images(tmp_path: Path) -> None:
    """As many labels as there are not images: refused, with both numbers; and labels where images should be."""
    write(tmp_path / "train-images-idx3-ubyte", idx(PIXELS))
    labels = write(tmp_path / "train-labels-idx1-ubyte", idx(LABELS[:-1]))
    with pytest.raises(ValueError, match=r"5 train images but 4 labels"):
        data.load("mnist", "train", tmp_path)
    write(labels, idx(PIXELS))
    with pytest.raises(ValueError, match="labels-idx1"):
        data.load("mnist", "train", tmp_path)


# What a data set is


@pytest.mark.parametrize(("images", "error", "word"), [
    (PIXELS, ValueError, "N, C, H, W"), (PIXELS[:, None] / 255, TypeError, "float64"), ([[[[1]]]], TypeError, "list"),
    (np.full((1, 1, 2, 2), 17, np.uint8), ValueError, "0 … 16"), (np.full((1, 1, 2, 2), -1), ValueError, "-1"),
    (np.ones((1, 1, 2, 2), bool), TypeError, "bool"),
])  # fmt: skip
def test_what_is_no_batch_of_levels(images: Any, error: type[Exception], word: str) -> None:
    """Fractions, other shapes and levels that are not there are refused, saying what was given."""
    with pytest.raises(error, match=word):
        Images(images, None, 17, "mine")
    with pytest.raises(error, match=word):
        check_levels(images, 17)


def test_labels_and_shapes_have_to_fit() -> None:
    """One label an image; one shape for all calls."""
    with pytest.raises(ValueError, match="labels"):
        Images(PIXELS[:, None], np.zeros(4), 256, "mine")
    with pytest.raises(ValueError, match="1, 3, 4"):
        check_levels(PIXELS[:, None], 256, (1, 3, 4))
    mine = Images(PIXELS[:, None], LABELS, 256, "mine")
    assert (len(mine), mine.shape) == (5, (1, 4, 3))
    assert len(Images(PIXELS[:0, None], None, 2, "none")) == 0
