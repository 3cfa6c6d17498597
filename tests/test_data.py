"""Images in: the bundled digits, IDX files, CIFAR-10's, NumPy's, and files that are not what they say."""

from __future__ import annotations

import gzip
import io
import re
import struct
import tracemalloc
import zipfile
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
    """An unknown data set or split is refused with the names there are and the nearest one; a set that can't be
    downloaded is too, with what else can be done."""
    with pytest.raises(ValueError, match="got 'no/folder', which is not there"):
        data.load("no/folder")
    with pytest.raises(ValueError, match=r"digits, mnist, fashion-mnist.*'cifar' \(did you mean 'cifar10'"):
        data.load("cifar")
    with pytest.raises(ValueError, match=r"train, test.*'valid'"):
        data.load("digits", "valid")
    for name in ("mnist", "fashion-mnist", "cifar10"):
        with pytest.raises(OSError, match=f"{name} can't be downloaded.*--data-dir"):
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
@pytest.mark.parametrize("dots", ["", "images", "images labels"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_files(name: str, dots: str, zipped: bool, tmp_path: Path) -> None:
    """MNIST's file names, with a dash or a dot, with and without .gz: train and t10k, images (N, 1, H, W) of 256
    levels, int64 labels."""
    for part, images, labels in (("train", PIXELS, LABELS), ("t10k", PIXELS[:2], LABELS[:2])):
        for kind, array in (("images", images), ("labels", labels)):
            contents = idx(array)
            dash = "." if kind in dots else "-"
            file = tmp_path / f"{part}-{kind}{dash}idx{array.ndim}-ubyte{'.gz' if zipped else ''}"
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


# CIFAR-10

RECORDS = np.random.default_rng(1).integers(0, 256, (7, 3073)).astype(np.uint8)
RECORDS[:, 0] %= 10


def test_cifar_files(tmp_path: Path) -> None:
    """Five batches train and one tests: a byte of label, then a plane each of red, green and blue, row by row; from the
    archive's folder or the one around it."""
    for folder in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        folder.mkdir(exist_ok=True)
        for i in range(1, 6):
            write(folder / f"data_batch_{i}.bin", RECORDS[i : i + 1].tobytes())
        write(folder / "test_batch.bin", RECORDS[:2].tobytes())
        train, test = data.load("cifar10", "train", folder), data.load("cifar10", "test", folder)
        assert train.labels is not None
        assert test.labels is not None
        assert (train.shape, train.levels, train.labels.dtype) == ((3, 32, 32), 256, np.int64)
        assert np.array_equal(train.labels, RECORDS[1:6, 0])
        assert np.array_equal(test.labels, RECORDS[:2, 0])
        assert test.images[1, 2, 3, 4] == RECORDS[1, 1 + 2 * 1024 + 3 * 32 + 4]
        assert np.array_equal(train.images.reshape(5, -1), RECORDS[1:6, 1:])


@pytest.mark.parametrize(("contents", "word"), [
    (b"", "0 bytes"), (RECORDS.tobytes()[:-1], "no records"), (b"\x0a" + RECORDS.tobytes()[1:], "label 10"),
])  # fmt: skip
def test_broken_cifar_files(contents: bytes, word: str, tmp_path: Path) -> None:
    """Half a record, none, an eleventh class: refused with the path; a batch that is not there is named."""
    for i in range(1, 6):
        write(tmp_path / f"data_batch_{i}.bin", RECORDS.tobytes())
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin"):
        data.load("cifar10", "test", tmp_path)
    write(tmp_path / "data_batch_3.bin", contents)
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin.*{word}"):
        data.load("cifar10", "train", tmp_path)


# NumPy's files

GREY = np.random.default_rng(2).integers(0, 256, (12, 4, 5)).astype(np.uint8)
COLOR = np.random.default_rng(3).integers(0, 256, (12, 3, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize(("array", "channels_first"), [
    (GREY, GREY[:, None]), (GREY[:, None], GREY[:, None]), (GREY[..., None], GREY[:, None]), (COLOR, COLOR),
    (COLOR.transpose(0, 2, 3, 1), COLOR), (np.asfortranarray(COLOR), COLOR),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["npy", "npz", "compressed.npz"])
def test_arrays_of_images(array: np.ndarray, channels_first: np.ndarray, suffix: str, tmp_path: Path) -> None:
    """Grey or coloured, colours first or last, C's or Fortran's order: the images (N, C, H, W) of 256 levels, two of
    the twelve for testing."""
    path = tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, array)
    else:
        (np.savez_compressed if suffix.startswith("c") else np.savez)(path, array)
    train, test = data.load(path), data.load(str(path), "test")
    assert (len(train), len(test), train.levels, train.shape) == (10, 2, 256, channels_first.shape[1:])
    found = {image.tobytes() for part in (train, test) for image in part.images}
    assert found == {image.tobytes() for image in channels_first}
    assert train.images.flags.c_contiguous


def test_labels_go_with_their_images(tmp_path: Path) -> None:
    """`images` and `labels` are split together; `levels` says how many there are; other arrays are no matter."""
    labels = np.arange(12)[:, None].astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=GREY // 32, labels=labels, levels=8, other=np.ones(3))
    for split in ("train", "test"):
        found = data.load(tmp_path / "x.npz", split)
        assert found.labels is not None
        assert (found.levels, found.labels.dtype) == (8, np.int64)
        assert np.array_equal(found.images[:, 0], (GREY // 32)[found.labels])


@pytest.mark.parametrize(("images", "labels"), [("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("{}", None)])
def test_arrays_with_their_own_splits(images: str, labels: str | None, tmp_path: Path) -> None:
    """Splits by name, as several libraries write them, are kept as they are; one that is not there is missed."""
    arrays = {images.format("train"): GREY[:8], images.format("test"): GREY[8:]}
    if labels:
        arrays |= {labels.format("train"): np.arange(8), labels.format("test"): np.arange(8, 12)}
    np.savez(tmp_path / "x.npz", **arrays)
    train, test = data.load(tmp_path / "x.npz"), data.load(tmp_path / "x.npz", "test")
    assert np.array_equal(train.images, GREY[:8, None])
    assert np.array_equal(test.images, GREY[8:, None])
    assert (None if test.labels is None else test.labels.tolist()) == ([8, 9, 10, 11] if labels else None)
    del arrays[images.format("test")]
    np.savez(tmp_path / "y.npz", **arrays, more=GREY)
    with pytest.raises(ValueError, match=r"y\.npz.*test_images"):
        data.load(tmp_path / "y.npz", "test")


def loaded(path: Path) -> tuple[Images, Images]:
    return data.load(path), data.load(path, "test")


@pytest.mark.parametrize("name", [
    "train_images", "test_images", "x_train", "x_test", "X_train", "train", "test", "val", "x_valid", "training_images",
    "images", "x", "arr_0", "TEST_IMAGES",
])  # fmt: skip
@pytest.mark.parametrize("with_labels", [False, True])
def test_one_split_alone_is_split(name: str, with_labels: bool, tmp_path: Path) -> None:
    """Where a file has the images of one split, a tenth is held out: nothing is shared and nothing lost; the labels go
    with their images."""
    role = name.lower().removeprefix("x_").removesuffix("_images")
    labels = {"images": "labels", "x": "y", "test": "test_labels", "val": "labels"}.get(name, f"y_{role}")
    if with_labels and name == "arr_0":
        return  # of several arrays one has to say what it is
    np.savez(tmp_path / "x.npz", **{name: GREY, labels: np.arange(12)} if with_labels else {name: GREY})
    train, test = loaded(tmp_path / "x.npz")
    assert (len(train), len(test)) == (10, 2)
    assert {x.tobytes() for part in (train, test) for x in part.images} == {x.tobytes() for x in GREY}
    for found in (train, test):
        if with_labels:
            assert found.labels is not None
            assert np.array_equal(found.images[:, 0], GREY[found.labels])
        else:
            assert found.labels is None


@pytest.mark.parametrize(("train", "test"), [
    ("x_train", "test_images"), ("train_images", "x_test"), ("train", "x_test"), ("images", "test_images"),
    ("x", "x_test"), ("images", "test"), ("X_train", "X_test"), ("Train", "Test"), ("x_train", "x_val"),
    ("train_images", "valid_images"), ("images", "validation_images"), ("training_images", "testing_images"),
    ("x_train", "x_dev"), ("train_images", "VAL_images"), ("images", "eval_images"),
])  # fmt: skip
def test_splits_in_mixed_styles(train: str, test: str, tmp_path: Path) -> None:
    """Each split goes by its own array's name, whole; and so do its labels."""
    whole = train in ("images", "x")
    np.savez(
        tmp_path / "x.npz", **{test: GREY[8:], train: GREY[:8]}, **{"labels" if whole else "y_Train": np.arange(8)}
    )
    for found, images, labels in zip(loaded(tmp_path / "x.npz"), (GREY[:8], GREY[8:]), (range(8), None), strict=True):
        assert np.array_equal(found.images[:, 0], images)
        assert (found.labels is None) == (labels is None)
        assert labels is None or found.labels.tolist() == list(labels)  # type: ignore[union-attr]


def test_images_for_validation_are_not_those_for_testing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With train, val and test, train and test are used, and that val is not is said, once."""
    arrays = {
        "x_val": GREY[6:8],
        "x_train": GREY[:6],
        "x_test": GREY[8:],
        "y_val": np.arange(2),
        "y_test": np.arange(4),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    train, test = loaded(tmp_path / "x.npz")
    assert np.array_equal(train.images[:, 0], GREY[:6])
    assert np.array_equal(test.images[:, 0], GREY[8:])
    assert train.labels is None
    assert test.labels is not None
    assert caplog.messages == [f"nanogen: {tmp_path / 'x.npz'}: x_val is not used"]


@pytest.mark.parametrize(("names", "word"), [
    (["train_images", "x_train", "test"], "train_images and x_train are both"), (["x_train", "X_train"], "both"),
    (["images", "x"], "images and x are both"), (["x_test", "x_val"], "no train"), (["x_test", "test_images"], "both"),
    (["train_images", "others"], "others the other"), (["train_images", "images"], "images the other"),
])  # fmt: skip
def test_unclear_splits_are_refused(names: list[str], word: str, tmp_path: Path) -> None:
    """Where names don't say which images are for what, nothing is guessed, for neither split."""
    np.savez(tmp_path / "x.npz", **{name: GREY[i::4] for i, name in enumerate(names)})
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=rf"x\.npz.*{word}"):
            data.load(tmp_path / "x.npz", split)


def test_a_files_ending_in_capitals(tmp_path: Path) -> None:
    """.NPY and .NPZ are .npy and .npz."""
    np.save(tmp_path / "x.npy", GREY)
    np.savez(tmp_path / "y.npz", GREY)
    for name in ("x.npy", "y.npz"):
        (tmp_path / name).rename(tmp_path / name.upper())
        assert len(data.load(tmp_path / name.upper())) == 10


LABELED = {
    "labels": ("images", ""), "y": ("x", ""), "train_labels": ("train_images", "test"), "Y_Train": ("X_train", ""),
    "y_train": ("x_train", "x_test"), "y_test": ("x_test", "x_train"),
}  # fmt: skip
NOT_LABELS: dict[str, tuple[Any, str]] = {
    "several an image": (np.zeros((12, 14), np.uint8), r"\(12, 14\)"), "too few": (np.arange(11), r"\(11,\)"),
    "one-hot": (np.eye(12, dtype=int), r"\(12, 12\)"), "in rows": (np.arange(12).reshape(3, 4), r"\(3, 4\)"),
    "one": (np.array(3), r"\(\)"), "fractions": (np.arange(12) / 2, "float64"),
    "whole fractions": (np.arange(12, dtype=np.float32), "float32"), "texts": (np.array(["a", "b"] * 6), "<U1"),
    "bytes": (np.array([b"a"] * 12), r"\|S1"), "objects": (np.array([None] * 12), "object"),
    "below 0": (np.arange(12) - 1, "-1"), "far beyond": (np.arange(12) + 10**9, "1000000000$"),
    "beyond int64": (np.full(12, 2**64 - 1, np.uint64), "18446744073709551615"),
    "complex": (np.arange(12) + 0j, "complex128"), "dates": (np.arange(12).astype("M8[D]"), "datetime64"),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELED)
@pytest.mark.parametrize("kind", NOT_LABELS)
def test_what_are_no_labels(kind: str, name: str, tmp_path: Path) -> None:
    """Labels are one class an image, 0 or more: all else is refused when it is loaded, with the file, the array, and
    what is wrong with it."""
    (labels, word), (images, other) = NOT_LABELS[kind], LABELED[name]
    np.savez(tmp_path / "x.npz", **{images: GREY, name: labels}, **({other: GREY} if other else {}))
    with pytest.raises(ValueError, match=rf"x\.npz can't be read as images: {name} (must|holds).*{word}"):
        data.load(tmp_path / "x.npz", "test" if "test" in name else "train")


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", ">i2", "<u4", ">i8", "u8"])
@pytest.mark.parametrize("shape", [(12,), (12, 1), (1, 12)])
def test_types_and_shapes_of_labels(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Integers of any kind, and truth values, in a row or a column."""
    labels = (np.arange(12) % 2).astype(dtype)
    np.savez(tmp_path / "x.npz", images=GREY, labels=labels.reshape(shape), test=GREY)
    found = data.load(tmp_path / "x.npz").labels
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.int64, (np.arange(12) % 2).tolist())


WRONG: dict[str, Any] = {
    "fractions": GREY / 255, "signed": GREY.astype(np.int8), "pickled": np.array([{}, 1], object), "flat": GREY[0],
    "two colours": COLOR[:, :2], "no images": GREY[:0], "no pixels": GREY[:, :0], "texts": np.array(["a", "b"]),
    "records": np.zeros(3, [("a", "u1")]), "all alike": np.zeros((9, 4, 4), np.uint8), "five axes": COLOR[None],
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["npy", "npz"])
@pytest.mark.parametrize("kind", WRONG)
def test_arrays_that_are_no_images(kind: str, suffix: str, tmp_path: Path) -> None:
    """Other types and shapes, and what would have to be unpickled: refused with the path."""
    path = tmp_path / f"x.{suffix}"
    np.save(path, WRONG[kind]) if suffix == "npy" else np.savez(path, WRONG[kind])
    with pytest.raises(ValueError, match=rf"x\.{suffix}"):
        data.load(path)


@pytest.mark.parametrize(("arrays", "word"), [
    ({"images": GREY, "labels": np.arange(11)}, "labels"), ({"images": GREY, "levels": 8}, "0 … 7"),
    ({"images": GREY, "levels": 1}, "levels"), ({"images": GREY, "levels": 257}, "levels"),
    ({"images": GREY, "labels": np.ones(12)}, "integers"), ({"images": GREY, "levels": 8.0}, "levels"),
    ({"images": GREY, "levels": [8, 8]}, "levels"), ({}, "none"), ({"a": GREY, "b": GREY}, "a, b"),
])  # fmt: skip
def test_arrays_that_do_not_fit(arrays: Any, word: str, tmp_path: Path) -> None:
    """Labels of other images, levels that are not so many, names that say nothing: refused with what is wrong."""
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=rf"x\.npz.*{word}"):
        data.load(tmp_path / "x.npz")


def npy(shape: str, body: bytes = GREY.tobytes()) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


@pytest.mark.parametrize("shape", [
    "(4611686018427387904, 4, 5)", "(13, 4, 5)", "(11, 4, 5)", "(-12, 4, -5)", "(-12, 4, 5)", "(12.0, 4, 5)", "((((",
    "(4294967296, 4294967296, 1)", "(1000000000, 4, 5)", "(50000000, 4, 5)", "'a'", "__import__('os')", "(0,)", "()",
])  # fmt: skip
def test_headers_that_lie(shape: str, tmp_path: Path) -> None:
    """A header is believed as far as the bytes go: no memory is taken for more, nothing in it is run."""
    for name, contents in (("x.npy", npy(shape)), ("y.npz", zipped(npy(shape)))):
        tracemalloc.start()
        with pytest.raises(ValueError, match=name):
            data.load(write(tmp_path / name, contents))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6


def zipped(contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", contents)
    return file.getvalue()


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    """FileNotFoundError with the path."""
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        data.load(tmp_path / "none.npz")


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
    for labels, error in ((LABELS / 1, TypeError), (LABELS == 1, TypeError), (LABELS.astype(int) - 1, ValueError)):
        with pytest.raises(error, match="labels"):
            Images(PIXELS[:, None], labels, 256, "mine")
    with pytest.raises(ValueError, match="65535"):
        Images(PIXELS[:, None], LABELS.astype(int) << 16, 256, "mine")
    mine = Images(PIXELS[:, None], LABELS, 256, "mine")
    assert (len(mine), mine.shape) == (5, (1, 4, 3))
    assert len(Images(PIXELS[:0, None], None, 2, "none")) == 0


def test_the_fingerprint_is_of_all_that_counts() -> None:
    """Equal images, labels and levels have one fingerprint, however they lie in memory and whatever they are called;
    another pixel, order, shape, label, number of levels, or no labels have another."""
    images, labels = COLOR, np.arange(12)
    mine = Images(images, labels, 256, "mine").fingerprint
    assert re.fullmatch("[0-9a-f]{64}", mine)
    assert mine == Images(np.asfortranarray(images), labels.astype(np.uint8), 256, "yours").fingerprint
    pixel, label = images.copy(), labels.copy()
    pixel[11, 2, 3, 4] ^= 1
    label[11] = 0
    order = np.r_[1, 0, 2:12]
    others = [
        Images(pixel, labels, 256, "mine"), Images(images, label, 256, "mine"), Images(images, None, 256, "mine"),
        Images(images[order], labels[order], 256, "mine"), Images(images[:-1], labels[:-1], 256, "mine"),
        Images(images.reshape(12, 3, 5, 4), labels, 256, "mine"), Images(images // 2, labels, 256, "mine"),
        Images(images // 2, labels, 128, "mine"), Images(images[order], labels, 256, "mine"),
    ]  # fmt: skip
    assert len({mine, *[other.fingerprint for other in others]}) == 1 + len(others)
