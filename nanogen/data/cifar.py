"""CIFAR-10's binary version: records of one byte for the label and 3 × 32 × 32 bytes for red, green and blue.

Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images; https://www.cs.toronto.edu/~kriz/cifar.html.
The Python version is a pickle.  Unpickling can run any code, so it is not supported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nanogen.data.files import LARGEST, read_exactly

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
CLASSES = 10
FILES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def read_records(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 (N, 3, 32, 32) and labels int64 (N,) of one file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a size that is not a whole number of records; a label above 9.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0 or size % RECORD or size > LARGEST:
        raise ValueError(f"{path} is not CIFAR-10's binary version: {size} bytes are no records of {RECORD}")
    with path.open("rb") as file:
        records = np.frombuffer(read_exactly(file, size, path), np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= CLASSES:
        raise ValueError(f"{path} is not CIFAR-10's binary version: there is a label {labels.max()}")
    return records[:, 1:].reshape(-1, *SHAPE), labels


def read_split(folder: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of `train` or `test`.  `folder` holds the files, or their folder `cifar-10-batches-bin`.

    Raises:
        FileNotFoundError, ValueError: a file that is missing or broken."""
    inner = Path(folder) / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else Path(folder)
    for name in FILES[split]:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name} of CIFAR-10's binary version")
    images, labels = zip(*(read_records(folder / name) for name in FILES[split]), strict=True)
    return np.concatenate(images), np.concatenate(labels)
