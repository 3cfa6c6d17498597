"""One file holds all of a run's numbers: weights, their averages, the optimisers' memory, the settings and the step.

It is a safetensors file.  The weights are there as `model.NAME`, in torch's names and shapes, so that

    weights = safetensors.torch.load_file(path)
    module.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})

loads them into PyTorch.  Random numbers and the place in the data follow from the seed and the step: there is no other
state of them to save.  The format itself has no checksum, so the metadata hold one: the SHA-256 of the file with zeros
in the checksum's place.
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
BLANK = "0" * 64  # in the place of the checksum
LONGEST_HEADER = 100_000_000  # bytes; as in the format's own description


class Checkpoint(NamedTuple):
    """Attributes:
    step: the step that was reached.
    settings: all that the run follows from, as JSON has it.
    arrays: by name, `model.…`, `average.…`, `optimizer.…` and `recent.…`, the losses since the last row of metrics.
    """

    step: int
    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the same one always as the same bytes.

    Raises:
        OSError: it can't be written; what was there before is still there.
    """
    described = {"format": FORMAT, "version": __version__, "step": checkpoint.step, "settings": checkpoint.settings}
    contiguous = {name: np.array(array, order="C") for name, array in checkpoint.arrays.items()}
    # one entry of metadata: several come in a random order
    whole = save(contiguous, metadata={"nanogen": json.dumps({"sha256": BLANK, **described})})
    write_atomically(path, whole.replace(BLANK.encode(), hashlib.sha256(whole).hexdigest().encode(), 1))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that is, byte for byte, as it was written.

    Raises:
        FileNotFoundError: no file there.
        ValueError: a file that is no checkpoint of this format, or was cut off or altered.
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
        raise ValueError(f"{path} is broken: it was cut off or altered, its checksum does not fit")
    if version != FORMAT:
        raise ValueError(f"{path} is a checkpoint of format {version}; this version reads format {FORMAT}")
    try:
        return Checkpoint(int(described["step"]), dict(described["settings"]), load(whole))
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a checkpoint: {error}") from error


def with_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def without_prefix(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    """Those whose names begin with the prefix, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
