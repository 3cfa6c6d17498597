"""Normalisation, with a SiLU behind it or none, on raw arrays: NumPy's form in blocks of images, a GPU's kernels.

    x̂ = (x − mean) · rstd,  y = w·x̂ + b,  out = y or silu(y)
    dx = rstd · (g·w − mean(g·w) − x̂ · mean(g·w·x̂)),  dw = Σ g·x̂,  db = Σ g,  where g is the gradient in y

What is computed is said in `functional.normalization`; the gradient is Ioffe & Szegedy 2015, section 3.  With a SiLU y
is computed a second time for the gradient: to keep it would take as much memory as the images.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen import compiled
from nanogen.backend import Array, ByDevice, array_module, by_parts, cuda_source, in_blocks, launch
from nanogen.distributed import mean_over_ranks
from nanogen.kernels.activation import silu_of_twice
from nanogen.kernels.products import product
from nanogen.kernels.reduction import column_sums


def rows_of(x: Array) -> Array:
    """(N, C, *) as (N, P, C), the P pixels one after the other; a view where the memory lies like that."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:])).swapaxes(1, 2)


def images_of(rows: Array, shape: tuple[int, ...]) -> Array:
    """The way back."""
    return rows.swapaxes(1, 2).reshape(shape)


def group_means(sums: Array, pixels: int, groups: int, over_batch: bool) -> Array:
    """From sums over each column's pixels the mean of its group, at each column; both are (B, *, C).  Over the batch is
    over all of it, where ranks share it."""
    grouped = sums.reshape(*sums.shape[:-1], groups, sums.shape[-1] // groups)
    means = grouped.mean(axis=(0, -1) if over_batch else -1, keepdims=True) / pixels
    if over_batch:
        (means,) = mean_over_ranks(means)
    return array_module(sums).broadcast_to(means, grouped.shape).reshape(sums.shape)


def item_bytes(rows: Array, arrays: int) -> int:
    """How much memory an image's part takes in so many arrays like rows."""
    return rows.nbytes * arrays // max(len(rows), 1)


@ByDevice
def moments(rows: Array, groups: int, over_batch: bool) -> tuple[Array, Array]:
    """The mean and the variance of the group of each column of rows (B, P, C): (B, C) each."""
    xp, over = array_module(rows), (rows.shape[1], groups, over_batch)
    near = group_means(column_sums(rows), *over)
    apart = group_means(xp.concatenate(by_parts(apart_sums, rows, near)), *over)
    return near + apart[:, 0], xp.maximum(apart[:, 1] - apart[:, 0] ** 2, 0)


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
    groups in each image alone.  `known` are the rows' `moments`, where someone has them already."""
    out = array_module(rows).empty(rows.shape, rows.dtype)
    mean, variance = known or moments(rows, groups, over_batch)
    rstd = (variance + eps) ** -0.5
    columns = mean, rstd * weight, array_module(rows).broadcast_to(bias, mean.shape)

    def part(here: slice) -> None:
        scale(rows[here], *[numbers[here] for numbers in columns], gated, out[here])

    in_blocks(part, out, item_bytes(out, 2 if gated else 1))
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
    """The gradients in rows, weight and bias from that in the output.  dx = s·factor + (x − mean)·slope + offset, these
    a number per column, s the gradient in y."""
    (mean, rstd), over = saved, (rows.shape[1], groups, over_batch)
    xp, factor, dx = array_module(g), rstd * weight, array_module(rows).empty(rows.shape, rows.dtype)
    columns = mean, factor, xp.broadcast_to(bias, mean.shape)

    def sums(here: slice) -> Array:
        return slope_sums(g[here], rows[here], *[numbers[here] for numbers in columns], gated, dx[here])

    totals = xp.concatenate(in_blocks(sums, rows, item_bytes(rows, 5 if gated else 2)))
    totals[:, 1] *= rstd
    means = group_means(weight[..., None, :] * totals, *over)
    by_parts(combine, dx if gated else g, rows, mean, factor, -(rstd**2) * means[:, 1], -rstd * means[:, 0], dx)
    dbias, dweight = totals.sum(axis=0) if weight.ndim == 1 else totals.swapaxes(0, 1)
    return [dx, dweight, dbias]


# Of some images: rows (B, P, C), and numbers of each column (B, C).


@ByDevice
def apart_sums(x: Array, near: Array) -> Array:
    """Σ (x − near) and Σ (x − near)² over the pixels: (B, 2, C).

    `near` is the mean but for rounding.  Of what differs from it by that much alone the sums are exact enough to say by
    how much, so that the mean of equal numbers is that number."""
    xp, ones = array_module(x), array_module(x).ones((1, x.shape[1]), x.dtype)
    apart = x - near[:, None]
    sums = product(ones, apart)
    apart *= apart
    return xp.concatenate([sums, product(ones, apart)], axis=1)


@ByDevice
def scale(x: Array, mean: Array, factor: Array, bias: Array, gated: bool, y: Array) -> None:
    """y = (x − mean)·factor + bias; silu(y) if gated."""
    if gated:
        factor, bias = 0.5 * factor, 0.5 * bias
    array_module(x).subtract(x, mean[:, None], out=y)
    y *= factor[:, None]
    y += bias[:, None]
    if gated:
        silu_of_twice(y)


@ByDevice
def slope_sums(
    g: Array, x: Array, mean: Array, factor: Array, bias: Array, gated: bool, slope: Array
) -> Array:  # fmt: skip
    """Σ s and Σ s·(x − mean) over the pixels, (B, 2, C), where s, the gradient in y, is g or, if gated, is written into
    `slope`."""
    xp, ones = array_module(x), array_module(x).ones((1, x.shape[1]), x.dtype)
    times = x - mean[:, None]
    if gated:
        half_y = times * (0.5 * factor)[:, None]
        half_y += (0.5 * bias)[:, None]
        g = silu_slope_of_half(g, half_y, slope)
    times *= g
    return xp.concatenate([product(ones, g), product(ones, times)], axis=1)


def silu_slope_of_half(g: Array, half_y: Array, d: Array) -> Array:
    """g · d/dy silu(y) = g · (1 + t) · (1 + h·(1 − t)) / 2, t = tanh(h), h = y / 2, into d."""
    xp = array_module(g)
    xp.tanh(half_y, out=d)
    rest = xp.subtract(1, d)
    rest *= half_y
    rest += 1
    rest *= 0.5
    d += 1
    d *= rest
    d *= g
    return d


@ByDevice
def combine(g: Array, x: Array, mean: Array, factor: Array, slope: Array, offset: Array, d: Array) -> None:
    """d = g·factor + (x − mean)·slope + offset; g may be d."""
    apart = x - mean[:, None]
    apart *= slope[:, None]
    array_module(g).multiply(g, factor[:, None], out=d)
    d += apart
    d += offset[:, None]


# The same in C.  A group that lies in an image is normalised, and its gradient made, in one call.


def scratch(rows: Array) -> Array:
    """For what C sums up of the columns of each image."""
    return np.empty((len(rows), 5, rows.shape[2]))


@apart_sums.in_c
def _(x: Array, near: Array) -> Array:
    x, near = contiguous(x, x, near)
    sums = np.empty((len(x), 2, x.shape[2]), x.dtype)
    compiled.call("apart_sums", x, *x.shape, near, scratch(x), sums)
    return sums


@scale.in_c
def _(x: Array, mean: Array, factor: Array, bias: Array, gated: bool, y: Array) -> None:
    given = contiguous(x, x, mean, factor, bias)
    compiled.call("scale", given[0], *x.shape, *given[1:], int(gated), y)


@slope_sums.in_c
def _(g: Array, x: Array, mean: Array, factor: Array, bias: Array, gated: bool, slope: Array) -> Array:
    g, x, *columns = contiguous(x, g, x, mean, factor, bias)
    sums = np.empty((len(x), 2, x.shape[2]), x.dtype)
    compiled.call("slope_sums", g, x, *x.shape, *columns, int(gated), slope, scratch(x), sums)
    return sums


@combine.in_c
def _(g: Array, x: Array, mean: Array, factor: Array, slope: Array, offset: Array, d: Array) -> None:
    given = contiguous(x, g, x, mean, factor, slope, offset)
    compiled.call("combine", *given[:2], *x.shape, *given[2:], d)


@normalize.in_c
def _(
    rows: Array,
    weight: Array,
    bias: Array,
    groups: int,
    eps: float,
    over_batch: bool,
    gated: bool,
    known: tuple[Array, Array] | None = None,
) -> tuple[Array, Any]:
    if over_batch or known:
        return normalize.form(rows, weight, bias, groups, eps, over_batch, gated, known)
    rows, weight, bias = contiguous(rows, rows, weight, bias)
    (b, _, c), apart, out = rows.shape, distance(weight), np.empty(rows.shape, rows.dtype)
    mean, rstd = np.empty((2, b, c), rows.dtype)

    def part(here: slice) -> None:
        own = [numbers[here] if apart else numbers for numbers in (weight, bias)]
        x, made = rows[here], (mean[here], rstd[here], out[here])
        how = (c // max(groups, 1), *own, apart, float(eps), int(gated))
        compiled.call("normalize", x, *x.shape, *how, scratch(x), *made)

    in_blocks(part, out, item_bytes(out, 2 if gated else 1))
    return out, (mean, rstd)


@normalize_gradients.in_c
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
    if over_batch:
        return normalize_gradients.form(g, saved, rows, weight, bias, groups, eps, over_batch, gated)
    g, rows, weight, bias, *saved = contiguous(rows, g, rows, weight, bias, *saved)
    (b, _, c), apart, dx = rows.shape, distance(weight), np.empty(rows.shape, rows.dtype)
    slopes = np.empty((2, b, c), rows.dtype)

    def part(here: slice) -> None:
        own = [numbers[here] if apart else numbers for numbers in (weight, bias)]
        x, made = rows[here], [array[here] for array in (dx, *slopes)]
        how = (c // max(groups, 1), *own, apart, int(gated), *[moment[here] for moment in saved])
        compiled.call("normalize_gradients", g[here], x, *x.shape, *how, scratch(x), *made)

    in_blocks(part, rows, item_bytes(rows, 5 if gated else 2))
    dweight, dbias = slopes if apart else slopes.sum(axis=1)
    return [dx, dweight, dbias]


SOURCE = cuda_source("normalization")
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
    b, _, c = rows.shape
    if known:
        own = slice(1 if over_batch else b)
        found = contiguous(rows, *[moment.reshape(b, groups, c // groups)[own, :, 0] for moment in known])
    else:
        found = places_of_moments(rows, groups, over_batch)
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
