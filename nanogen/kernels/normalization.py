"""Normalisation, with a SiLU behind it or none, on raw arrays: NumPy's form in blocks of images, a GPU's kernels.

    x̂ = (x − mean) · rstd,  y = w·x̂ + b,  out = y or silu(y)
    dx = rstd · (g·w − mean(g·w) − x̂ · mean(g·w·x̂)),  dw = Σ g·x̂,  db = Σ g,  where g is the gradient in y

What is computed is said in `functional.normalization`; the gradient is Ioffe & Szegedy 2015, section 3.  With a SiLU y
is computed a second time for the gradient: to keep it would take as much memory as the images.
"""

from __future__ import annotations

import math
from typing import Any

from nanogen.backend import Array, ByDevice, array_module, by_parts, in_blocks, launch
from nanogen.kernels.activation import silu_of_twice
from nanogen.kernels.products import product
from nanogen.kernels.reduction import column_sums
from nanogen.processes import mean_over_processes


def rows_of(x: Array) -> Array:
    """(N, C, *) as (N, P, C), the P pixels one after the other; a view where the memory lies like that."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:])).swapaxes(1, 2)


def images_of(rows: Array, shape: tuple[int, ...]) -> Array:
    """The way back."""
    return rows.swapaxes(1, 2).reshape(shape)


def group_means(sums: Array, pixels: int, groups: int, over_batch: bool) -> Array:
    """From sums over each column's pixels the mean of its group, at each column; both are (B, *, C).  Over the batch is
    over all of it, where processes share it."""
    grouped = sums.reshape(*sums.shape[:-1], groups, sums.shape[-1] // groups)
    means = grouped.mean(axis=(0, -1) if over_batch else -1, keepdims=True) / pixels
    if over_batch:
        (means,) = mean_over_processes(means)
    return array_module(sums).broadcast_to(means, grouped.shape).reshape(sums.shape)


def item_bytes(rows: Array, arrays: int) -> int:
    """How much memory an image's part takes in so many arrays like rows."""
    return rows.nbytes * arrays // max(len(rows), 1)


@ByDevice
def moments(rows: Array, groups: int, over_batch: bool) -> tuple[Array, Array]:
    """The mean and the variance of the group of each column of rows (B, P, C): (B, C) each."""
    xp, over = array_module(rows), (rows.shape[1], groups, over_batch)
    mean = group_means(column_sums(rows), *over)

    def squares(x: Array, mean: Array) -> Array:
        square = xp.subtract(x, mean)
        square *= square
        return column_sums(square)

    return mean, group_means(xp.concatenate(by_parts(squares, rows, mean[:, None])), *over)


@ByDevice
def normalize(
    rows: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float,
    over_batch: bool,
    gated: bool,
    known: tuple[Array, Array] | None = None,
) -> tuple[Array, Any]:
    """rows (B, P, C) normalised by group of columns, scaled and shifted, then SiLU if `gated`; and what
    `normalize_gradients` wants to know of it.  weight and bias are (C,) or, each image's own, (B, C), which goes with
    groups in each image alone.  `known` are the rows' `moments`, where someone has them already.

    y = x·factor + offset, these a number per column.  Far from 0 the mean's own rounding is of the size of the error:
    (x − mean)·factor + bias, a pass more, is at most twice as exact."""
    out = array_module(rows).empty_like(rows)
    mean, variance = known or moments(rows, groups, over_batch)
    rstd = (variance + eps) ** -0.5
    factor = rstd * weight
    offset = bias - mean * factor
    if gated:
        factor, offset = 0.5 * factor, 0.5 * offset

    def scale(part: slice) -> None:
        y = array_module(rows).multiply(rows[part], factor[part, None], out=out[part])
        y += offset[part, None]
        if gated:
            silu_of_twice(y)

    in_blocks(scale, out, item_bytes(out, 2 if gated else 1))
    return out, (mean, rstd)


@ByDevice
def normalize_gradients(
    g: Array,
    saved: Any,
    rows: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float,
    over_batch: bool,
    gated: bool,
) -> list[Array]:
    """The gradients in rows, weight and bias from that in the output.  dx = g·factor + x·slope + offset, these
    three a number per column."""
    (mean, rstd), over = saved, (rows.shape[1], groups, over_batch)
    xp, factor, dx = array_module(g), rstd * weight, array_module(rows).empty_like(rows)
    half, ones = 0.5 * factor, xp.ones((1, rows.shape[1]), rows.dtype)
    half_offset = 0.5 * bias - mean * half

    def sums(part: slice) -> Array:
        slope, times = g[part], rows[part] - mean[part, None]
        if gated:
            half_y = rows[part] * half[part, None]
            half_y += half_offset[part, None]
            slope = twice_silu_slope(slope, half_y, dx[part])
        times *= slope
        return xp.concatenate([product(ones, slope), product(ones, times)], axis=1)

    totals = xp.concatenate(in_blocks(sums, rows, item_bytes(rows, 5 if gated else 2)))
    if gated:
        totals *= 0.5
    totals[:, 1] *= rstd
    means = group_means(weight[..., None, :] * totals, *over)
    slope = -(rstd**2) * means[:, 1]
    offset = -rstd * means[:, 0] - slope * mean
    g, factor = (dx, half) if gated else (g, factor)
    by_parts(combine, g, rows, factor[:, None], slope[:, None], offset[:, None], dx)
    dbias, dweight = totals.sum(axis=0) if weight.ndim == 1 else totals.swapaxes(0, 1)
    return [dx, dweight, dbias]


def twice_silu_slope(g: Array, half_y: Array, d: Array) -> Array:
    """2g · d/dy silu(y) = g · (1 + t) · (1 + h·(1 − t)), t = tanh(h), h = y / 2, into d: fewer passes than for once."""
    xp = array_module(g)
    xp.tanh(half_y, out=d)
    rest = xp.subtract(1, d)
    rest *= half_y
    rest += 1
    d += 1
    d *= rest
    d *= g
    return d


def combine(g: Array, x: Array, factor: Array, slope: Array, offset: Array, d: Array) -> None:
    """g may be d."""
    array_module(g).multiply(g, factor, out=d)
    d += offset
    d += x * slope


# Right for any number of threads in a block, as long as these are no more than 1024.
SOURCE = r"""
// x (images, pixels, channels); weight and bias: each image's own, apart from each other, or of all, and apart is 0.
// A block works on some columns, which are a channel at all pixels of an image each:
// threadIdx.x goes over the columns, neighbours in memory, and threadIdx.y over the pixels.
struct Columns {
    long long pixels, channels, each;  // each: channels of a group
    long long first, end;              // the block's own channels, whole groups
};

__device__ Columns columns_of_block(long long pixels, long long channels, long long each, long long count)
{
    long long first = blockIdx.y * count;
    return {pixels, channels, each, first, first + count < channels ? first + count : channels};
}

// The sum of what the threads of one threadIdx.x have: by halves, in the same order every time.
__device__ Real total(Real own)
{
    __shared__ Real sums[1024];
    Real* of_column = sums + threadIdx.x;
    int y = threadIdx.y, apart = blockDim.x;
    of_column[y * apart] = own;
    for (int count = blockDim.y; count > 1;) {
        int half = (count + 1) / 2;
        __syncthreads();
        if (y + half < count) of_column[y * apart] += of_column[(y + half) * apart];
        count = half;
    }
    __syncthreads();
    Real result = of_column[0];
    __syncthreads();  // all have read before anyone writes the next number
    return result;
}

// The mean of each column's numbers; or, of squares, of their squared distances from their group's mean.  So a variance
// takes two passes: a mean of squares less the square of a mean has no digits left where the mean is large.
__device__ void column_means(const Real* x, Columns of, bool squares, const Real* mean, Real* means)
{
    for (long long left = of.first; left < of.end; left += blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < of.end;  // else there is nothing to add, but all take part
        long long pixels = mine ? of.pixels : 0;
        Real centre = mine && squares ? mean[column / of.each] : 0, sum = 0;
        for (long long p = threadIdx.y; p < pixels; p += blockDim.y) {
            Real number = x[p * of.channels + column] - centre;
            sum += squares ? number * number : number;
        }
        sum = total(sum);
        if (mine && threadIdx.y == 0) means[column] = sum / of.pixels;
    }
    __syncthreads();  // now the block's other threads see them
}

// The mean of the columns of each group, in one image or in all.
__device__ void group_means(const Real* columns, long long images, Columns of, Real* means)
{
    for (long long left = of.first / of.each; left < of.end / of.each; left += blockDim.x) {
        long long group = left + threadIdx.x;
        bool mine = group < of.end / of.each;
        long long count = images * of.each, own = mine ? count : 0;
        Real sum = 0;
        for (long long k = threadIdx.y; k < own; k += blockDim.y)
            sum += columns[k / of.each * of.channels + group * of.each + k % of.each];
        sum = total(sum);
        if (mine && threadIdx.y == 0) means[group] = sum / count;
    }
    __syncthreads();
}

__device__ void scale(
    const Real* x, const Real* weight, const Real* bias, Columns of, const Real* mean, const Real* variance, Real eps,
    bool gated, Real* out)
{
    for (long long column = of.first + threadIdx.x; column < of.end; column += blockDim.x) {
        long long group = column / of.each;
        Real m = mean[group], factor = weight[column] / sqrt(variance[group] + eps), b = bias[column];
        for (long long p = threadIdx.y; p < of.pixels; p += blockDim.y) {
            Real y = (x[p * of.channels + column] - m) * factor + b;
            out[p * of.channels + column] = gated ? y / (1 + exp(-y)) : y;
        }
    }
}

// One launch for all five steps where a group lies in an image, and so in a block.  Where it is over the batch, one for
// each, for there all wait for all: in the second and the fourth, a block has its columns of all images.
extern "C" __global__ void normalize(
    const Real* x, const Real* weight, const Real* bias, long long images, long long pixels, long long channels,
    long long each, long long columns, long long apart, double eps, long long over_batch, long long gated,
    long long from, long long to, Real* means, Real* mean, Real* variance, Real* out)
{
    Columns of = columns_of_block(pixels, channels, each, columns);
    long long image = blockIdx.x, together = over_batch ? images : 1;
    x += image * pixels * channels;
    out += image * pixels * channels;
    weight += image * apart;
    bias += image * apart;
    means += image * channels;
    if (!over_batch) {
        mean += image * (channels / each);
        variance += image * (channels / each);
    }
    if (from <= 1) column_means(x, of, false, mean, means);
    if (from <= 2 && 2 <= to) group_means(means, together, of, mean);
    if (from <= 3 && 3 <= to) column_means(x, of, true, mean, means);
    if (from <= 4 && 4 <= to) group_means(means, together, of, variance);
    if (5 <= to) scale(x, weight, bias, of, mean, variance, eps, gated, out);
}

// The gradient in y from that in silu(y).
__device__ Real through_silu(Real g, Real y)
{
    Real s = 1 / (1 + exp(-y));
    return g * s * (1 + y * (1 - s));
}

// Of each column, Σ g and Σ g·x̂.
__device__ void gradient_sums(
    const Real* g, const Real* x, const Real* weight, const Real* bias, Columns of, const Real* mean,
    const Real* variance, Real eps, bool gated, Real* sum_g, Real* sum_gx)
{
    for (long long left = of.first; left < of.end; left += blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < of.end;
        long long c = mine ? column : left, pixels = mine ? of.pixels : 0;
        Real m = mean[c / of.each], rstd = 1 / sqrt(variance[c / of.each] + eps), own = 0, own_x = 0;
        for (long long p = threadIdx.y; p < pixels; p += blockDim.y) {
            long long at = p * of.channels + c;
            Real normal = (x[at] - m) * rstd;
            Real slope = gated ? through_silu(g[at], normal * weight[c] + bias[c]) : g[at];
            own += slope;
            own_x += slope * normal;
        }
        Real of_g = total(own), of_gx = total(own_x);
        if (mine && threadIdx.y == 0) {
            sum_g[c] = of_g;
            sum_gx[c] = of_gx;
        }
    }
    __syncthreads();
}

// count: the numbers that a group's moments are over.
__device__ void gradient(
    const Real* g, const Real* x, const Real* weight, const Real* bias, Columns of, const Real* mean,
    const Real* variance, Real eps, bool gated, const Real* sum_g, const Real* sum_gx, long long count, Real* dx)
{
    for (long long left = of.first; left < of.end; left += blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < of.end;
        long long c = mine ? column : left, group = c / of.each, pixels = mine ? of.pixels : 0;
        Real own = 0, own_x = 0;
        for (long long k = group * of.each + threadIdx.y; k < (group + 1) * of.each; k += blockDim.y) {
            own += weight[k] * sum_g[k];
            own_x += weight[k] * sum_gx[k];
        }
        Real mean_g = total(own) / count, mean_gx = total(own_x) / count;
        Real m = mean[group], rstd = 1 / sqrt(variance[group] + eps);
        for (long long p = threadIdx.y; p < pixels; p += blockDim.y) {
            long long at = p * of.channels + c;
            Real normal = (x[at] - m) * rstd;
            Real slope = gated ? through_silu(g[at], normal * weight[c] + bias[c]) : g[at];
            dx[at] = rstd * (slope * weight[c] - mean_g - normal * mean_gx);
        }
    }
}

// Both steps, 1 and 2, in one launch or, over the batch, in two; between them the sums are added up over the batch.
extern "C" __global__ void normalize_gradients(
    const Real* g, const Real* x, const Real* weight, const Real* bias, const Real* mean, const Real* variance,
    long long images, long long pixels, long long channels, long long each, long long columns, long long apart,
    double eps, long long over_batch, long long gated, long long from, long long to,
    Real* sum_g, Real* sum_gx, Real* dx)
{
    Columns of = columns_of_block(pixels, channels, each, columns);
    long long image = blockIdx.x, at = image * pixels * channels;
    weight += image * apart;
    bias += image * apart;
    if (!over_batch) {
        mean += image * (channels / each);
        variance += image * (channels / each);
    }
    if (!over_batch || from <= 1) {
        sum_g += image * channels;
        sum_gx += image * channels;
    }
    long long count = (over_batch ? images : 1) * pixels * each;
    if (from <= 1) gradient_sums(g + at, x + at, weight, bias, of, mean, variance, eps, gated, sum_g, sum_gx);
    if (2 <= to) gradient(g + at, x + at, weight, bias, of, mean, variance, eps, gated, sum_g, sum_gx, count, dx + at);
}
"""
THREADS, FETCHED = 256, 8  # of a block; float32 numbers that a GPU fetches at once


def sizes(images: int, channels: int, each: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """How many columns a block has, whole groups; how many blocks there are; and how many threads in each."""
    columns = each * max(FETCHED // each, 1)
    wide = min(columns, 32)
    return columns, (images, -(-channels // columns)), (wide, THREADS // wide)


def launch_steps(
    name: str, steps: tuple[int, int], images: int, given: tuple[Array, ...], apart: int, like: Array, groups: int,
    eps: float, over_batch: bool, gated: bool, *made: Array,
) -> None:  # fmt: skip
    """Run the steps of a kernel on rows like `like`, with the blocks of so many images."""
    channels, each = like.shape[2], max(like.shape[2] // groups, 1)
    columns, grid, block = sizes(images, channels, each)
    how = (*like.shape, each, columns, apart, float(eps), int(over_batch), int(gated), *steps)
    launch(SOURCE, name, grid, block, *given, *how, *made)


def contiguous(like: Array, *arrays: Array) -> tuple[Array, ...]:
    """As a kernel takes them: one type, one number after the other."""
    return tuple(array_module(like).ascontiguousarray(a, like.dtype) for a in arrays)


def distance(weight: Array) -> int:
    """From one image's weights to the next's."""
    return weight.shape[1] if weight.ndim == 2 else 0


def forward_steps(
    first: int, last: int, found: Array, rows: Array, weight: Array, bias: Array, groups: int, eps: float,
    over_batch: bool, gated: bool,
) -> Array:  # fmt: skip
    """The kernel `normalize` from one of its steps to another: the output, if that is 5; `found` are the groups' means
    and variances, which steps 2 and 4 write."""
    xp, (b, _, c) = array_module(rows), rows.shape
    given = contiguous(rows, rows, weight, bias)
    means, out = xp.empty((b, c), rows.dtype), xp.empty(rows.shape, rows.dtype)
    each = [((i, i), 1 if i in (2, 4) else b) for i in range(first, last + 1)]
    how = (given, distance(weight), rows, groups, eps, over_batch, gated)
    for steps, images in each if over_batch else [((first, last), b)]:
        launch_steps("normalize", steps, images, *how, means, *found, out)
    return out


def places_of_moments(rows: Array, groups: int, over_batch: bool) -> Array:
    """For the mean and the variance of each group."""
    return array_module(rows).empty((2, 1 if over_batch else len(rows), groups), rows.dtype)


@normalize.on_gpu
def _(
    rows: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float,
    over_batch: bool,
    gated: bool,
    known: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    (b, _, c), found = rows.shape, places_of_moments(rows, groups, over_batch)
    for place, moment in zip(found, known or (), strict=False):
        place[:b] = moment.reshape(b, groups, c // groups)[: len(place), :, 0]
    return forward_steps(5 if known else 1, 5, found, rows, weight, bias, groups, eps, over_batch, gated), found


@moments.on_gpu
def _(rows: Array, groups: int, over_batch: bool) -> tuple[Array, Array]:
    (b, _, c), xp, found = rows.shape, array_module(rows), places_of_moments(rows, groups, over_batch)
    weight = bias = rows  # which these steps do not look at
    forward_steps(1, 4, found, rows, weight, bias, groups, 0.0, over_batch, False)
    mean, variance = (xp.broadcast_to(m[:, :, None], (b, groups, c // groups)).reshape(b, c) for m in found)
    return mean, variance


@normalize_gradients.on_gpu
def _(
    g: Array,
    saved: Any,
    rows: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float,
    over_batch: bool,
    gated: bool,
) -> list[Array]:
    xp, (b, _, c) = array_module(rows), rows.shape
    given = contiguous(rows, g, rows, weight, bias, *saved)
    sums, dx = xp.empty((2, b, c), rows.dtype), xp.empty(rows.shape, rows.dtype)
    how = (b, given, distance(weight), rows, groups, eps, over_batch, gated)
    launch_steps("normalize_gradients", (1, 1) if over_batch else (1, 2), *how, *sums, dx)
    db, dw = sums.sum(axis=1) if weight.ndim == 1 else sums
    if over_batch:
        launch_steps("normalize_gradients", (2, 2), *how, db, dw, dx)
    return [dx, dw, db]
