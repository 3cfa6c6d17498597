"""Softmax, its cross-entropy with labels and its samples: see softmax.c."""

import numpy as np

from nanogen.distributions import inverse_transform
from nanogen.kernels.cpu.compiled import call, covers
from nanogen.kernels.softmax import register

register("cpu", covers, lambda name, given, shape, results: call(name, *given, *shape, *results))


@inverse_transform.kernel("cpu")
def _(weights, u):
    if weights.shape[:-1] != u.shape or not weights.size or not covers(weights, u):
        return NotImplemented
    rows, classes = np.ascontiguousarray(weights.reshape(u.size, -1)), np.empty(u.shape, np.int64)
    call("inverse_transform", rows, *rows.shape, np.ascontiguousarray(u), classes)
    return classes
