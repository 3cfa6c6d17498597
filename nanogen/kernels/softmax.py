"""The cross-entropy of softmax with labels, over rows of logits.  See cpu/softmax.c and cuda/softmax.cu.

    loss = log Σₖ eˣᵏ − x_label,  dx = g · (softmax(x) − one_hot(label))

The loss saves two numbers per row: the largest logit, and `total`, the sum of e^(x − largest).  Saving the softmax
would take as much memory as the logits, and would not be faster.
"""

from __future__ import annotations

from collections.abc import Callable

from nanogen.backend import Array, array_module
from nanogen.functional.loss import label_cross_entropy


def register(device: str, covers: Callable[..., bool], run: Callable[..., None]) -> None:
    """Register the device's kernel of the cross-entropy.

    Args:
        covers: whether the device's kernels support these arrays.
        run: run(name, arrays, (rows, columns), results) runs the device's function of that name.
    """

    def rows_of(logits: Array, labels: Array) -> list[Array]:
        """The rows, and their labels as 64-bit integers, both contiguous."""
        xp = array_module(logits)
        rows = xp.ascontiguousarray(logits.reshape(labels.size, -1))
        return [rows, xp.ascontiguousarray(labels.ravel(), "int64")]

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
