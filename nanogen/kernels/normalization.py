"""Normalisation on raw arrays, in blocks of images.  What is computed is said in `functional.normalization`."""

from __future__ import annotations

from nanogen.backend import Array, array_module, by_parts, fuse
from nanogen.kernels.reduction import column_sums


def group_means(sums: Array, pixels: int, groups: int, over_batch: bool) -> Array:
    """From the sums (B, C) over each column's pixels, the mean of its group, at each column: (B, C)."""
    b, c = sums.shape
    means = sums.reshape(b, groups, c // groups).mean(axis=(0, 2) if over_batch else 2) / pixels
    xp = array_module(sums)
    return xp.broadcast_to(xp.repeat(means, c // groups, axis=-1), (b, c))


def moments(rows: Array, groups: int, over_batch: bool) -> tuple[Array, Array]:
    """The mean and the variance of the group of each column of rows (B, P, C): (B, C) each."""
    over = (rows.shape[1], groups, over_batch)
    mean = group_means(column_sums(rows), *over)

    def squares(x: Array, mean: Array) -> Array:
        centred_square(x, mean, square := array_module(x).empty_like(x))
        return column_sums(square)

    return mean, group_means(array_module(rows).concatenate(by_parts(squares, rows, mean[:, None])), *over)


def normalize(
    rows: Array, weight: Array, bias: Array, groups: int, eps: float, over_batch: bool
) -> tuple[Array, tuple[Array, Array]]:
    """rows (B, P, C) normalised by group of columns, scaled and shifted; and the mean and 1 / std, each (B, C)."""
    xp, over = array_module(rows), (rows.shape[1], groups, over_batch)
    mean, out = group_means(column_sums(rows), *over), xp.empty_like(rows)

    def squares(x: Array, mean: Array, y: Array) -> Array:
        centre(x, mean, y, square := xp.empty_like(y))
        return column_sums(square)

    rstd = (group_means(xp.concatenate(by_parts(squares, rows, mean[:, None], out)), *over) + eps) ** -0.5
    by_parts(lambda y, factor: scale(y, factor, bias[None, None]), out, (rstd * weight)[:, None])
    return out, (mean, rstd)


@fuse
def centre(x: Array, mean: Array, y: Array, square: Array) -> None:
    xp = array_module(x)
    xp.subtract(x, mean, out=y)
    xp.multiply(y, y, out=square)


@fuse
def scale(y: Array, factor: Array, bias: Array) -> None:
    y *= factor
    y += bias


def normalize_gradients(
    g: Array, mean: Array, rstd: Array, rows: Array, weight: Array, groups: int, over_batch: bool
) -> list[Array]:
    """With x̂ = (x − mean)·rstd:  dx = rstd · (g·w − mean(g·w) − x̂ · mean(g·w·x̂)),  dw = Σ g·x̂,  db = Σ g.

    In x itself dx = a·g + b·x + c, with a, b and c a number per column.  Ioffe & Szegedy 2015, section 3."""
    xp, over = array_module(g), (rows.shape[1], groups, over_batch)

    def products(g: Array, x: Array, mean: Array) -> Array:
        centred_times(g, x, mean, product := xp.empty_like(x))
        return column_sums(product)

    sum_g, sum_gx = column_sums(g), xp.concatenate(by_parts(products, g, rows, mean[:, None])) * rstd
    slope, dx = -(rstd**2) * group_means(weight * sum_gx, *over), xp.empty_like(rows)
    offset = -rstd * group_means(weight * sum_g, *over) - slope * mean

    by_parts(combine, g, rows, (rstd * weight)[:, None], slope[:, None], offset[:, None], dx)
    return [dx, sum_gx.sum(axis=0), sum_g.sum(axis=0)]


@fuse
def centred_square(x: Array, mean: Array, square: Array) -> None:
    array_module(x).subtract(x, mean, out=square)
    square *= square


@fuse
def centred_times(g: Array, x: Array, mean: Array, product: Array) -> None:
    array_module(x).subtract(x, mean, out=product)
    product *= g


@fuse
def combine(g: Array, x: Array, factor: Array, slope: Array, offset: Array, d: Array) -> None:
    array_module(g).multiply(x, slope, out=d)
    d += offset
    d += g * factor
