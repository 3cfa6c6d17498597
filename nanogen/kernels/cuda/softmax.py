"""Softmax and its cross-entropy with labels, up to a warp of threads per row of logits.  See softmax.cu.

The loss saves two numbers per row: the largest logit, and `total`, the sum of e^(x − largest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanogen.backend import Array, array_module
from nanogen.functional.activation import softmax, softmax_gradient
from nanogen.functional.loss import label_cross_entropy
from nanogen.functional.reduction import axes
from nanogen.kernels.cuda.launch import covers, cuda_source, launch, launch_grid

SOURCE = cuda_source("softmax")


def over_axes(name: str, over: Sequence[int], *arrays: Array) -> Any:
    """The CUDA kernel `name` applied to rows: the axes `over` of arrays of one shape form a row."""
    if not arrays[0].size or not over or not covers(*arrays):
        return NotImplemented
    xp, order = array_module(arrays[0]), sorted(range(arrays[0].ndim), key=lambda axis: axis in over)
    permuted = [xp.ascontiguousarray(a.transpose(order)) for a in arrays]
    length = math.prod(permuted[0].shape[len(order) - len(over) :])
    out, rows = xp.empty(permuted[0].shape, permuted[0].dtype), permuted[0].size // length
    launch(SOURCE, name, *launch_grid(rows, length), *permuted, rows, length, out)
    return out.transpose(sorted(range(len(order)), key=order.__getitem__))


@softmax.kernel("cuda")
def _(x, *, dim):
    return NotImplemented if dim is None else over_axes("softmax", axes(dim, x.ndim), x)


@softmax_gradient.kernel("cuda")
def _(g, y, *, dim):
    return over_axes("softmax_gradient", axes(dim, g.ndim), g, y)


@label_cross_entropy.kernel("cuda")
class LabelCrossEntropy:
    def forward(logits, *, labels):
        if not logits.size or not covers(logits):
            return NotImplemented
        xp, rows = array_module(logits), logits.reshape(labels.size, -1)
        rows, labels_of_rows = xp.ascontiguousarray(rows), xp.ascontiguousarray(labels.ravel(), "int64")
        largest, total, loss = (xp.empty(len(rows), rows.dtype) for _ in range(3))
        given = (rows, labels_of_rows, *rows.shape, largest, total, loss)
        launch(SOURCE, "cross_entropy", *launch_grid(*rows.shape), *given)
        return loss.reshape(labels.shape), (largest, total)

    def gradient(g, saved, logits, *, labels, wanted):
        xp, rows = array_module(logits), logits.reshape(labels.size, -1)
        rows, labels_of_rows = xp.ascontiguousarray(rows), xp.ascontiguousarray(labels.ravel(), "int64")
        out = xp.empty(rows.shape, rows.dtype)
        given = (xp.ascontiguousarray(g.ravel()), rows, labels_of_rows, *saved, *rows.shape, out)
        launch(SOURCE, "cross_entropy_gradient", *launch_grid(*rows.shape), *given)
        return [out.reshape(logits.shape)]
