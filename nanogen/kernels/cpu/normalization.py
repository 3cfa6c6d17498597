"""Normalisation with an optional SiLU after it, in few passes over memory.  See normalization.c.

    x̂ = (x − mean) · rstd,  y = w·x̂ + b,  out = y or silu(y)
    dx = rstd · (g·w − mean(g·w) − x̂ · mean(g·w·x̂)),  dw = Σ g·x̂,  db = Σ g,  where g is the gradient of y

The gradient is Ioffe & Szegedy 2015, section 3.  With a SiLU, y is computed again in the backward pass: saving it would
take as much memory as the images.  Images have the shape (N, P, C) here: P pixels of C channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.distributed import mean_over_ranks
from nanogen.functional.normalization import moments_of, normalize_groups, normalize_last
from nanogen.kernels.convolution import images_of, rows_of
from nanogen.kernels.cpu.compiled import call, covers

Array = np.ndarray


def scratch(rows: Array) -> Array:
    """Memory for the sums of the columns of each image: see SCRATCH in normalization.c."""
    return np.empty((len(rows), 5, rows.shape[2]))


def of_columns(numbers: Array, rows: Array) -> Array:
    """(C,) or (N, C) broadcast to (N, C): a number for each column of each image."""
    return np.ascontiguousarray(np.broadcast_to(numbers, (len(rows), rows.shape[2])), rows.dtype)


def batch_stride(weight: Array) -> int:
    """From one image's weights to the next image's; 0 if all images share them."""
    return weight.shape[1] if weight.ndim == 2 else 0


@moments_of.kernel("cpu")
def _(x):
    if not covers(x) or not x.size:
        return NotImplemented
    rows, count = rows_of(x), x.size // x.shape[1]
    near = centred_sums(rows, np.zeros(x.shape[1], x.dtype))[0] / count
    rest, squares = centred_sums(rows, near) / count  # so that the mean of equal numbers is exact
    return near + rest, np.maximum(squares - rest**2, 0)


def centred_sums(rows: Array, near: Array) -> Array:
    """Σ (x − near) and Σ (x − near)² of each column of all images: (2, C)."""
    sums = np.empty((len(rows), 2, rows.shape[2]), rows.dtype)
    call("centred_sums", rows, *rows.shape, of_columns(near, rows), scratch(rows), sums)
    return sums.sum(axis=0)


@normalize_groups.kernel("cpu")
class NormalizeGroups:
    def forward(input, weight, bias, *, groups, eps, over_batch, gated, moments):
        if not covers(input, weight, bias) or not input.size or (over_batch and groups != input.shape[1]):
            return NotImplemented
        rows, weight, bias = rows_of(input), np.ascontiguousarray(weight), np.ascontiguousarray(bias)
        (n, _, c), out = rows.shape, np.empty(rows.shape, rows.dtype)
        if over_batch:
            mean, variance = moments or moments_of(input)
            rstd = (variance + eps) ** -0.5
            columns = [of_columns(numbers, rows) for numbers in (mean, rstd * weight, bias)]
            call("scale", rows, *rows.shape, *columns, int(gated), out)
        else:
            mean, rstd = np.empty((2, n, c), rows.dtype)
            how = (c // groups, weight, bias, batch_stride(weight), float(eps), int(gated))
            call("normalize", rows, *rows.shape, *how, scratch(rows), mean, rstd, out)
        return images_of(out, input.shape), (mean, rstd)

    def gradient(g, saved, input, weight, bias, *, groups, eps, over_batch, gated, moments, wanted):
        rows, weight, bias = rows_of(input), np.ascontiguousarray(weight), np.ascontiguousarray(bias)
        work = over_the_batch if over_batch else in_each_image
        dx, *others = work(rows_of(g), *saved, rows, weight, bias, groups, gated)
        return [images_of(dx, input.shape), *others]


def in_each_image(
    g: Array, mean: Array, rstd: Array, rows: Array, weight: Array, bias: Array, groups: int, gated: bool
) -> list[Any]:
    (n, _, c), dx = rows.shape, np.empty(rows.shape, rows.dtype)
    own = np.empty((2, n, c), rows.dtype)
    how = (c // groups, weight, bias, batch_stride(weight), int(gated), mean, rstd)
    call("normalize_gradients", g, rows, *rows.shape, *how, scratch(rows), dx, *own)
    return [dx, *(own if weight.ndim == 2 else own.sum(axis=1))]


def over_the_batch(
    g: Array, mean: Array, rstd: Array, rows: Array, weight: Array, bias: Array, groups: int, gated: bool
) -> list[Any]:
    """dx = s·factor + (x − mean)·slope + offset; s is the gradient of y, the others have a value per column."""
    count, dx, factor = rows.size // rows.shape[2], np.empty(rows.shape, rows.dtype), rstd * weight
    columns = [of_columns(numbers, rows) for numbers in (mean, factor, bias)]
    sums = np.empty((len(rows), 2, rows.shape[2]), rows.dtype)
    call("gradient_sums", g, rows, *rows.shape, *columns, int(gated), dx, scratch(rows), sums)
    dbias, products = sums.sum(axis=0)
    of_g, of_products = mean_over_ranks(dbias, products)  # the batch is distributed over all ranks
    slope, offset = -(rstd**2) * factor * of_products / count, -factor * of_g / count
    others = [of_columns(numbers, rows) for numbers in (mean, factor, slope, offset)]
    call("combine", dx if gated else g, rows, *rows.shape, *others, dx)
    return [dx, products * rstd, dbias]


@normalize_last.kernel("cpu")
class NormalizeLast:
    """Weight and bias are (k,), or (N, 1, k) for rows (N, L, k)."""

    def forward(input, weight, bias, *, dim, eps):
        own = (len(input), *[1] * (input.ndim - 2), input.shape[-1]) if input.ndim else ()
        if (
            not covers(input, weight, bias)
            or not input.size
            or dim != (-1,)
            or not weight.shape == bias.shape in (own, own[-1:])
        ):
            return NotImplemented
        x, weight, bias = map(np.ascontiguousarray, (input, weight, bias))
        out, moments = np.empty(x.shape, x.dtype), np.empty((*x.shape[:-1], 2), x.dtype)
        call("normalize_rows", x, *row_counts(x, weight), weight, bias, float(eps), moments, out)
        return out, moments

    def gradient(g, moments, input, weight, bias, *, dim, eps, wanted):
        g, x, weight = map(np.ascontiguousarray, (g, input, weight))
        dx, own = np.empty(x.shape, x.dtype), np.empty((2, *weight.shape), x.dtype)
        call("normalize_rows_gradients", g, x, *row_counts(x, weight), weight, moments, dx, *own)
        return [dx, *own]


def row_counts(x: Array, weight: Array) -> tuple[int, int, int]:
    """Of `weight`, the number of rows, and the rows of x that share one; and the length of a row."""
    n = weight.size // x.shape[-1]
    return n, x.size // weight.size, x.shape[-1]
