"""Softmax and its cross-entropy with labels, over rows of logits.  See cpu/softmax.c and cuda/softmax.cu.

    y = eˣ / Σₖ eˣᵏ,  dx = y · (g − Σₖ gₖ yₖ)
    loss = log Σₖ eˣᵏ − x_label,  dx = g · (softmax(x) − one_hot(label))

The loss saves two numbers per row: the largest logit, and `total`, the sum of e^(x − largest).  Saving the softmax
would take as much memory as the logits, and would not be faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nanogen.backend import Array, array_module
from nanogen.functional.activation import softmax, softmax_gradient
from nanogen.functional.loss import label_cross_entropy
from nanogen.functional.reduction import axes


def register(device: str, covers: Callable[..., bool], run: Callable[..., None]) -> None:
    """Register the device's kernels of softmax and cross-entropy.

    Args:
        covers: whether the device's kernels support these arrays.
        run: run(name, arrays, (rows, columns), results) runs the device's function of that name.
    """

    def over_axes(name: str, over: Sequence[int], *arrays: Array) -> Any:
        """A function of rows: the axes `over` of arrays of one shape form a row."""
        if not arrays[0].size or not over or not covers(*arrays):
            return NotImplemented
        xp, order = array_module(arrays[0]), sorted(range(arrays[0].ndim), key=lambda axis: axis in over)
        permuted = [xp.ascontiguousarray(a.transpose(order)) for a in arrays]
        length = math.prod(permuted[0].shape[len(order) - len(over) :])
        out = xp.empty(permuted[0].shape, permuted[0].dtype)
        run(name, permuted, (out.size // length, length), [out])
        return out.transpose(sorted(range(len(order)), key=order.__getitem__))

    def rows_of(logits: Array, labels: Array) -> list[Array]:
        """The rows, and their labels as 64-bit integers, both contiguous."""
        xp = array_module(logits)
        rows = xp.ascontiguousarray(logits.reshape(labels.size, -1))
        return [rows, xp.ascontiguousarray(labels.ravel(), "int64")]

    @softmax.kernel(device)
    def _(x, *, dim):
        return NotImplemented if dim is None else over_axes("softmax", axes(dim, x.ndim), x)

    @softmax_gradient.kernel(device)
    def _(g, y, *, dim):
        return over_axes("softmax_gradient", axes(dim, g.ndim), g, y)

    @label_cross_entropy.kernel(device)
    class LabelCrossEntropy:
        def forward(logits, *, labels):
            if not logits.size or not covers(logits):
                return NotImplemented
            rows, flat_labels = rows_of(logits, labels)
            largest, total, loss = made = [array_module(rows).empty(len(rows), rows.dtype) for _ in range(3)]
            run("cross_entropy", [rows, flat_labels], rows.shape, made)
            return loss.reshape(labels.shape), (largest, total)

        def gradient(g, saved, logits, *, labels, wanted):
            given, xp = rows_of(logits, labels), array_module(logits)
            out = xp.empty(given[0].shape, given[0].dtype)
            run("cross_entropy_gradient", [xp.ascontiguousarray(g.ravel()), *given, *saved], out.shape, [out])
            return [out.reshape(logits.shape)]
