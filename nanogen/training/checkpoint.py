"""Checkpoints: a safetensors file with the weights, their averages, the optimisers' state, the settings and the step.

The weights are stored as `model.NAME` with torch's names and shapes, so that

    weights = safetensors.torch.load_file(path)
    module.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})

loads them into PyTorch.  Random numbers and the order of the data are functions of the seed and the step, so they need
no saved state.  The safetensors format has no checksum, so the metadata contain one: the SHA-256 of the file with zeros
in place of the checksum.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from nanogen import __version__
from nanogen.training.files import write_atomically

FORMAT = 2  # of the metadata and of the arrays' names
BLANK = "0" * 64  # in place of the checksum
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


class Checkpoint(NamedTuple):
    """Attributes:
    step: the last completed step.
    settings: the settings of the run, as JSON data.
    arrays: by name: `model.…`, `average.…`, `optimizer.…`, and `recent.…`, the losses since the last row of metrics.
    """

    step: int
    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint.  The same checkpoint always gives the same bytes.

    Raises:
        OSError: the file can't be written; an earlier file of that name is unchanged.
    """
    described = {"format": FORMAT, "version": __version__, "step": checkpoint.step, "settings": checkpoint.settings}
    contiguous = {name: np.array(array, order="C") for name, array in checkpoint.arrays.items()}
    # a single entry of metadata, because the order of several is random
    whole = save(contiguous, metadata={"nanogen": json.dumps({"sha256": BLANK, **described})})
    path.parent.mkdir(exist_ok=True)  # somebody may have removed it
    write_atomically(path, whole.replace(BLANK.encode(), hashlib.sha256(whole).hexdigest().encode(), 1))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its checksum.

    Raises:
        FileNotFoundError: no file there.
        ValueError: not a checkpoint of this format, or a file that was truncated or changed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with path.open("rb") as file:
        length = file.read(8)
        if int.from_bytes(length, "little") > LONGEST_HEADER:
            raise ValueError(f"{path} is not a checkpoint")
        header = file.read(int.from_bytes(length, "little"))
        try:
            described = json.loads(json.loads(header)["__metadata__"]["nanogen"])
            checksum, version = described["sha256"].encode(), described["format"]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ValueError(f"{path} is not a checkpoint, or is broken") from None
        whole = length + header + file.read()
    if hashlib.sha256(whole.replace(checksum, BLANK.encode(), 1)).hexdigest().encode() != checksum:
        raise ValueError(f"{path} is broken: it was truncated or changed, its checksum does not fit")
    if version != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {version}; this version reads format {FORMAT}")
    try:
        if type(step := described["step"]) is not int or step < 0:
            raise ValueError(f"its step is {step!r}")
        return Checkpoint(step, dict(described["settings"]), load(whole))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from error


def with_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
