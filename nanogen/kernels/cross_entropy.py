"""Softmax cross-entropy with labels, on raw arrays: NumPy's form in blocks of rows, a GPU's one kernel each way.

    loss = log Σₖ eˣᵏ − x_label,  dx = g · (softmax(x) − one_hot(label))

Both keep two numbers a row: its largest logit and the sum of e^(x − largest), the total.  To keep the softmax would
take as much memory as the logits, and no less time.
"""

from __future__ import annotations

import numpy as np

from nanogen import compiled
from nanogen.backend import Array, ByDevice, array_module, by_parts, launch, shared_out


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


# Right for every number of blocks and of threads in them, as long as these are no more than 1024.
SOURCE = r"""
// The threads of one threadIdx.y have a row of logits together.  Their numbers' sum, or the largest of them: by halves,
// in the same order every time.
__device__ Real together(Real own, bool sum)
{
    __shared__ Real numbers[1024];
    Real* of_row = numbers + threadIdx.y * blockDim.x;
    int x = threadIdx.x;
    of_row[x] = own;
    for (int count = blockDim.x; count > 1;) {
        int half = (count + 1) / 2;
        __syncthreads();
        if (x + half < count) {
            Real a = of_row[x], b = of_row[x + half];
            of_row[x] = sum ? a + b : a > b ? a : b;
        }
        count = half;
    }
    __syncthreads();
    Real result = of_row[0];
    __syncthreads();  // all have read before anyone writes the next number
    return result;
}

extern "C" __global__ void cross_entropy(
    const Real* logits, const long long* labels, long long rows, long long classes,
    Real* largest, Real* total, Real* loss)
{
    for (long long first = (long long)blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y) {
        long long row = first + threadIdx.y;
        bool mine = row < rows;  // else there is no such row, but a thread that takes part in what is done together
        const Real* x = logits + (mine ? row : first) * classes;
        Real most = x[0], sum = 0;
        for (long long k = threadIdx.x; k < classes; k += blockDim.x) most = x[k] > most ? x[k] : most;
        most = together(most, false);
        for (long long k = threadIdx.x; k < classes; k += blockDim.x) sum += exp(x[k] - most);
        sum = together(sum, true);
        if (mine && threadIdx.x == 0) {
            long long label = labels[row];
            bool is_class = 0 <= label && label < classes;  // nobody has looked: that would wait for the GPU
            largest[row] = most;
            total[row] = sum;
            loss[row] = is_class ? log(sum) - (x[label] - most) : Real(nan(""));
        }
    }
}

extern "C" __global__ void cross_entropy_slope(
    const Real* g, const Real* logits, const long long* labels, const Real* largest, const Real* total,
    long long rows, long long classes, Real* slope)
{
    long long step = (long long)gridDim.x * blockDim.y;
    for (long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += step)
        for (long long k = threadIdx.x; k < classes; k += blockDim.x) {
            Real softmax = exp(logits[row * classes + k] - largest[row]) / total[row];
            slope[row * classes + k] = g[row] * (softmax - (k == labels[row]));
        }
}
"""


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
