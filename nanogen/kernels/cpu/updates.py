"""Updates of all parameters in one call: see updates.c."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nanogen.backend import moving_average
from nanogen.kernels.cpu.compiled import address, call, covers
from nanogen.optim import adam


def update(name: str, changed: list[list[np.ndarray]], read: list[np.ndarray], *settings: float) -> Any:
    """Call a C function of lists that have an array per parameter: the lists that it changes, and one that it reads."""
    outputs = list(itertools.chain(*changed))
    if not covers(*outputs, *read) or not all(array.flags.c_contiguous for array in outputs):
        return NotImplemented
    contiguous = [np.ascontiguousarray(array) for array in read]
    addresses = np.array([*map(address, contiguous), *map(address, outputs)], np.int64)
    sizes = np.array([array.size for array in contiguous], np.int64)
    call(name, outputs[0], addresses, sizes, len(sizes), int(sizes.sum()), *map(float, settings))
    return None


@adam.kernel("cpu")
def _(params, grads, means, squares, *, betas, eps, correction, rate):
    return update("adam", [params, means, squares], grads, *betas, eps, correction, rate)


@moving_average.kernel("cpu")
def _(averages, values, *, kept, share):
    return update("moving_average", [averages], values, kept, share)
