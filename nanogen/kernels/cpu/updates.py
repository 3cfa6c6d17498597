"""Updates of all parameters in one call: see updates.c."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nanogen.backend import moving_average
from nanogen.kernels.cpu.compiled import address, call, covers
from nanogen.optim import adam


def update(name: str, changed: list[list[np.ndarray]], read: list[np.ndarray], *settings: float) -> Any:
    """Call a C function of lists of arrays, one a parameter: those that it changes, and one that it reads."""
    every = list(itertools.chain(*changed))
    if not covers(*every, *read) or not all(array.flags.c_contiguous for array in every):
        return NotImplemented
    contiguous = [np.ascontiguousarray(array) for array in read]
    addresses = np.array([*map(address, contiguous), *map(address, every)], np.int64)
    sizes = np.array([array.size for array in contiguous], np.int64)
    call(name, every[0], addresses, sizes, len(sizes), int(sizes.sum()), *map(float, settings))
    return None


@adam.kernel("cpu")
def _(params, grads, means, squares, *, betas, eps, correction, rate):
    return update("adam", [params, means, squares], grads, *betas, eps, correction, rate)


@moving_average.kernel("cpu")
def _(averages, values, *, kept, share):
    return update("moving_average", [averages], values, kept, share)
