"""Adam's update of all parameters in one call: see updates.c."""

from __future__ import annotations

import numpy as np

from nanogen.kernels.cpu.compiled import address, call, covers
from nanogen.optim import adam


@adam.kernel("cpu")
def _(params, grads, means, squares, *, betas, eps, correction, rate):
    changed = [*params, *means, *squares]
    if not covers(*changed, *grads) or not all(array.flags.c_contiguous for array in changed):
        return NotImplemented
    read = [np.ascontiguousarray(g) for g in grads]
    addresses, sizes = np.array([*map(address, [*read, *changed])]), np.array([g.size for g in read])
    settings = map(float, (*betas, eps, correction, rate))
    return call("adam", changed[0], addresses, sizes, len(read), int(sizes.sum()), *settings)
