"""Softmax, and its cross-entropy with labels, on raw arrays; in C, and on a GPU, one kernel each way.

    y = eˣ / Σₖ eˣᵏ,  dx = y · (g − Σₖ gₖ yₖ)
    loss = log Σₖ eˣᵏ − x_label,  dx = g · (softmax(x) − one_hot(label))

The loss keeps two numbers a row: its largest logit and the sum of e^(x − largest), the total.  To keep the softmax
would take as much memory as the logits, and no less time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from nanogen import compiled
from nanogen.backend import Array, ByDevice, array_module, by_parts, cuda_source, launch, shared_out


def over_axes(kernel: Callable[..., Array], axes: Sequence[int], *arrays: Array) -> Array:
    """What a kernel makes of rows, as which it is given these axes of arrays of one shape."""
    if not arrays[0].size:
        return arrays[0]
    order = sorted(range(arrays[0].ndim), key=lambda axis: axis in axes)
    turned = [a.transpose(order) for a in arrays]
    length = math.prod(turned[0].shape[len(order) - len(axes) :])
    out = kernel(*[a.reshape(-1, length) for a in turned]).reshape(turned[0].shape)
    return out.transpose(sorted(range(len(order)), key=order.__getitem__))


@ByDevice
def softmax(rows: Array) -> Array:
    """Of each row of (R, K)."""
    odds = array_module(rows).exp(rows - rows.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


@ByDevice
def softmax_slope(g: Array, y: Array) -> Array:
    """The gradient in the logits from that in the softmax y: (R, K) each."""
    return y * (g - (g * y).sum(axis=1, keepdims=True))


def log_softmax(rows: Array) -> Array:
    """x − log Σ eˣ of each row of (R, K)."""
    xp, less = array_module(rows), rows - rows.max(axis=1, keepdims=True)
    return less - xp.log(xp.exp(less).sum(axis=1, keepdims=True))


@ByDevice
def cross_entropy(rows: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    """Rows of logits (R, K) and labels (R,) to the loss; and the largest logit and the total: (R,) each."""
    xp = array_module(rows)
    largest, total, out = (xp.empty(len(rows), rows.dtype) for _ in range(3))

    def part(x: Array, label: Array, largest: Array, total: Array, loss: Array) -> None:
        x.max(axis=1, out=largest)
        odds = xp.subtract(x, largest[:, None])
        xp.exp(odds, out=odds)
        odds.sum(axis=1, out=total)
        xp.subtract(xp.log(total), x[xp.arange(len(x)), label] - largest, out=loss)

    by_parts(part, rows, labels, largest, total, out)
    return out, (largest, total)


@ByDevice
def cross_entropy_slope(g: Array, rows: Array, labels: Array, largest: Array, total: Array) -> Array:
    """The gradient in the logits (R, K) from that of the loss (R,)."""
    xp, slope = array_module(rows), array_module(rows).empty_like(rows)

    def part(g: Array, label: Array, x: Array, largest: Array, total: Array, d: Array) -> None:
        xp.subtract(x, largest[:, None], out=d)
        xp.exp(d, out=d)
        d *= (g / total)[:, None]
        d[xp.arange(len(d)), label] -= g

    by_parts(part, g, labels, rows, largest, total, slope)
    return slope


@softmax.in_c
def _(rows: Array) -> Array:
    out = np.empty(rows.shape, rows.dtype)
    by_parts(lambda x, y: compiled.call("softmax", x, *x.shape, y), np.ascontiguousarray(rows), out)
    return out


@softmax_slope.in_c
def _(g: Array, y: Array) -> Array:
    given, out = [np.ascontiguousarray(a, g.dtype) for a in (g, y)], np.empty(g.shape, g.dtype)
    by_parts(lambda g, y, d: compiled.call("softmax_slope", g, y, *g.shape, d), *given, out)
    return out


@cross_entropy.in_c
def _(rows: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    largest, total, out = np.empty((3, len(rows)), rows.dtype)

    def part(x: Array, label: Array, largest: Array, total: Array, loss: Array) -> None:
        compiled.call("cross_entropy", x, *x.shape, label, largest, total, loss)

    by_parts(part, np.ascontiguousarray(rows), np.ascontiguousarray(labels, np.int64), largest, total, out)
    return out, (largest, total)


@cross_entropy_slope.in_c
def _(g: Array, rows: Array, labels: Array, largest: Array, total: Array) -> Array:
    slope = np.empty(rows.shape, rows.dtype)

    def part(g: Array, label: Array, x: Array, largest: Array, total: Array, d: Array) -> None:
        compiled.call("cross_entropy_slope", g, x, *x.shape, label, largest, total, d)

    given = [np.ascontiguousarray(a, rows.dtype) for a in (g, rows, largest, total)]
    by_parts(part, given[0], np.ascontiguousarray(labels, np.int64), *given[1:], slope)
    return slope


SOURCE = cuda_source("softmax")


@softmax.on_gpu
def _(rows: Array) -> Array:
    xp, out = array_module(rows), array_module(rows).empty(rows.shape, rows.dtype)
    launch(SOURCE, "softmax", *shared_out(*rows.shape), xp.ascontiguousarray(rows), *rows.shape, out)
    return out


@softmax_slope.on_gpu
def _(g: Array, y: Array) -> Array:
    xp, out = array_module(g), array_module(g).empty(g.shape, g.dtype)
    given = [xp.ascontiguousarray(a, g.dtype) for a in (g, y)]
    launch(SOURCE, "softmax_slope", *shared_out(*g.shape), *given, *g.shape, out)
    return out


@cross_entropy.on_gpu
def _(rows: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    xp = array_module(rows)
    rows, labels = xp.ascontiguousarray(rows), xp.ascontiguousarray(labels, "int64")
    largest, total, loss = (xp.empty(len(rows), rows.dtype) for _ in range(3))
    launch(SOURCE, "cross_entropy", *shared_out(*rows.shape), rows, labels, *rows.shape, largest, total, loss)
    return loss, (largest, total)


@cross_entropy_slope.on_gpu
def _(g: Array, rows: Array, labels: Array, largest: Array, total: Array) -> Array:
    xp, slope = array_module(rows), array_module(rows).empty(rows.shape, rows.dtype)
    g, rows, labels = xp.ascontiguousarray(g), xp.ascontiguousarray(rows), xp.ascontiguousarray(labels, "int64")
    given = (g, rows, labels, largest, total, *rows.shape, slope)
    launch(SOURCE, "cross_entropy_slope", *shared_out(*rows.shape), *given)
    return slope
