"""One file holds all of a run's numbers: weights, their averages, the optimisers' memory, and the step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

FORMAT = "nanogen checkpoint 1"


def save_checkpoint(path: Path, arrays: dict[str, np.ndarray], step: int) -> None:
    """Write a checkpoint beside its place, then move it there: a reader finds the old one or the new one, whole."""
    temporary = path.with_suffix(".tmp")
    contiguous = {name: np.array(array, order="C") for name, array in arrays.items()}
    save_file(contiguous, temporary, metadata={FORMAT: str(step)})  # one entry: several come in a random order
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of a checkpoint and its step.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: a file that is none, or is broken.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        arrays = load_file(path)
        metadata = read_metadata(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is broken: {error}") from error
    if not metadata.get(FORMAT, "").isdecimal():
        raise ValueError(f"{path} is not a {FORMAT!r}")
    return arrays, int(metadata[FORMAT])


def read_metadata(path: Path) -> dict[str, str]:
    """The text fields in a safetensors header: 8 bytes of its length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    return header.get("__metadata__", {})


def with_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Those whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
