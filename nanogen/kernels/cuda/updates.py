"""Updates of all parameters, several per launch.  See updates.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.backend import Array, array_module, moving_average
from nanogen.kernels.cuda.launch import THREADS, covers, cuda_source, launch
from nanogen.optim import adam

SOURCE = cuda_source("updates")
MANY = 8  # parameters per launch: the arguments of a kernel are limited to 4 KB


def update(name: str, read: list[Array], changed: list[list[Array]], *settings: Any) -> Any:
    """Launch a kernel for every MANY parameters.  `settings` are numbers, or arrays of one element on the device."""
    outputs = [array for arrays in changed for array in arrays]
    if not covers(*outputs, *read) or not all(array.flags.c_contiguous for array in outputs):
        return NotImplemented
    xp = array_module(outputs[0])
    numbers = [s.astype(np.float64) if isinstance(s, xp.ndarray) else xp.full((), s, np.float64) for s in settings]
    for first in range(0, len(read), MANY):
        here = slice(first, first + MANY)
        some = [xp.ascontiguousarray(array) for array in read[here]]
        lists = [some, *(arrays[here] for arrays in changed)]
        missing = MANY - len(some)
        arrays = [array for one in lists for array in [*one, *[one[0]] * missing]]
        sizes = [*(array.size for array in some), *[0] * missing]
        blocks = min(-(-max(sizes) // THREADS), 1024)
        launch(SOURCE, name, (blocks,), (THREADS,), *arrays, *sizes, *numbers)


@adam.kernel("cuda")
def _(params, grads, means, squares, *, betas, eps, correction, rate):
    return update("adam", grads, [params, means, squares], *betas, eps, correction, rate)


@moving_average.kernel("cuda")
def _(averages, values, *, kept, share):
    return update("moving_average", values, [averages], kept, share)
