"""Softmax, its cross-entropy with labels and its samples, over rows of logits.  See softmax.c.

    y = eˣ / Σₖ eˣᵏ,  dx = y · (g − Σₖ gₖ yₖ)
    loss = log Σₖ eˣᵏ − x_label,  dx = g · (softmax(x) − one_hot(label))

The loss saves two numbers per row: the largest logit, and `total`, the sum of e^(x − largest).  Saving the softmax
would take as much memory as the logits, and would not be faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nanogen.distributions import inverse_transform
from nanogen.functional.activation import softmax, softmax_gradient
from nanogen.functional.loss import label_cross_entropy
from nanogen.functional.reduction import axes
from nanogen.kernels.cpu.compiled import call, covers


def over_axes(name: str, over: Sequence[int], *arrays: np.ndarray) -> Any:
    """The C function `name` applied to rows: the axes `over` of arrays of one shape form a row."""
    if not arrays[0].size or not over or not covers(*arrays):
        return NotImplemented
    order = sorted(range(arrays[0].ndim), key=lambda axis: axis in over)
    permuted = [np.ascontiguousarray(a.transpose(order)) for a in arrays]
    length = math.prod(permuted[0].shape[len(order) - len(over) :])
    out = np.empty(permuted[0].shape, permuted[0].dtype)
    call(name, *permuted, out.size // length, length, out)
    return out.transpose(sorted(range(len(order)), key=order.__getitem__))


@softmax.kernel("cpu")
def _(x, *, dim):
    return NotImplemented if dim is None else over_axes("softmax", axes(dim, x.ndim), x)


@softmax_gradient.kernel("cpu")
def _(g, y, *, dim):
    return over_axes("softmax_gradient", axes(dim, g.ndim), g, y)


@label_cross_entropy.kernel("cpu")
class LabelCrossEntropy:
    def forward(logits, *, labels):
        if not logits.size or not covers(logits):
            return NotImplemented
        rows = np.ascontiguousarray(logits.reshape(labels.size, -1))
        largest, total, loss = np.empty((3, len(rows)), rows.dtype)
        flat_labels = np.ascontiguousarray(labels.ravel(), np.int64)
        call("cross_entropy", rows, *rows.shape, flat_labels, largest, total, loss)
        return loss.reshape(labels.shape), (largest, total)

    def gradient(g, saved, logits, *, labels, wanted):
        rows = np.ascontiguousarray(logits.reshape(labels.size, -1))
        flat_labels, out = np.ascontiguousarray(labels.ravel(), np.int64), np.empty(rows.shape, rows.dtype)
        call("cross_entropy_gradient", np.ascontiguousarray(g.ravel()), rows, *rows.shape, flat_labels, *saved, out)
        return [out.reshape(logits.shape)]


@inverse_transform.kernel("cpu")
def _(weights, u):
    if weights.shape[:-1] != u.shape or not weights.size or not covers(weights, u):
        return NotImplemented
    rows, classes = np.ascontiguousarray(weights.reshape(u.size, -1)), np.empty(u.shape, np.int64)
    call("inverse_transform", rows, *rows.shape, np.ascontiguousarray(u), classes)
    return classes
