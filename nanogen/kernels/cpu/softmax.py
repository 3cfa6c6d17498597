"""The cross-entropy of softmax with labels, over rows of logits: see softmax.c.

    loss = log Σₖ eˣᵏ − x_label,  dx = g · (softmax(x) − one_hot(label))

The loss saves two numbers per row: the largest logit, and `total`, the sum of e^(x − largest).  Saving the softmax
would take as much memory as the logits, and would not be faster.
"""

import numpy as np

from nanogen.functional.loss import label_cross_entropy
from nanogen.kernels.cpu.compiled import call, covers


def rows_of(logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The rows, and their labels as 64-bit integers, both contiguous."""
    return [np.ascontiguousarray(logits.reshape(labels.size, -1)), np.ascontiguousarray(labels.ravel(), np.int64)]


@label_cross_entropy.kernel("cpu")
class LabelCrossEntropy:
    def forward(logits, *, labels):
        if not logits.size or not covers(logits):
            return NotImplemented
        rows, flat_labels = rows_of(logits, labels)
        largest, total, loss = made = [np.empty(len(rows), rows.dtype) for _ in range(3)]
        call("cross_entropy", rows, flat_labels, *rows.shape, *made)
        return loss.reshape(labels.shape), (largest, total)

    def gradient(g, saved, logits, *, labels, wanted):
        rows, flat_labels = rows_of(logits, labels)
        out = np.empty(rows.shape, rows.dtype)
        call("cross_entropy_gradient", np.ascontiguousarray(g.ravel()), rows, flat_labels, *saved, *out.shape, out)
        return [out.reshape(logits.shape)]
