"""Normalisation on the GPU: see normalization.cu.  Images have the shape (N, P, C) here: P pixels of C channels."""

from __future__ import annotations

from typing import Any

from nanogen.backend import Array, array_module
from nanogen.distributed import mean_over_ranks
from nanogen.functional.normalization import moments_of, normalize_groups
from nanogen.kernels.convolution import images_of, rows_of
from nanogen.kernels.cuda.launch import THREADS, covers, cuda_source, launch

SOURCE = cuda_source("normalization")
FETCHED = 8  # float32 numbers that a GPU loads in one transaction


def launch_sizes(images: int, channels: int, each: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """The number of columns per block (whole groups of channels), the grid, and the block."""
    columns = each * max(FETCHED // each, 1)
    wide = min(columns, 32)
    return columns, (images, -(-channels // columns)), (wide, THREADS // wide)


def launch_steps(
    name: str, steps: tuple[int, int], images: int, given: tuple[Array, ...], weight: Array, like: Array, groups: int,
    eps: float, over_batch: bool, gated: bool, *made: Array,
) -> None:  # fmt: skip
    """Launch the steps of a kernel on rows shaped as `like`, with a grid for `images` images."""
    channels, each = like.shape[2], max(like.shape[2] // groups, 1)
    columns, grid, block = launch_sizes(images, channels, each)
    batch_stride = weight.shape[1] if weight.ndim == 2 else 0
    how = (*like.shape, each, columns, batch_stride, float(eps), int(over_batch), int(gated), *steps)
    launch(SOURCE, name, grid, block, *given, *how, *made)


def forward_steps(
    first: int, last: int, found: Any, rows: Array, weight: Array, bias: Array, groups: int, eps: float,
    over_batch: bool, gated: bool,
) -> Array:  # fmt: skip
    """Launch the steps `first` to `last` of the kernel `normalize`; step 5 writes the output, which is returned.

    `found` has the groups' means and variances, which steps 2 and 4 write."""
    xp, (b, _, c) = array_module(rows), rows.shape
    means, out = xp.empty((b, c), rows.dtype), xp.empty(rows.shape, rows.dtype)
    each = [((i, i), 1 if i in (2, 4) else b) for i in range(first, last + 1)]
    how = ((rows, weight, bias), weight, rows, groups, eps, over_batch, gated)
    for steps, images in each if over_batch else [((first, last), b)]:
        launch_steps("normalize", steps, images, *how, means, *found, out)
    return out


@moments_of.kernel("cuda")
def _(x):
    if not covers(x) or not x.size:
        return NotImplemented
    rows, channels = rows_of(x), x.shape[1]
    found = array_module(x).empty((2, 1, channels), x.dtype)
    forward_steps(1, 4, found, rows, rows, rows, channels, 0.0, True, False)  # these steps read no weight or bias
    return found[0, 0], found[1, 0]


@normalize_groups.kernel("cuda")
class NormalizeGroups:
    def forward(input, weight, bias, *, groups, eps, over_batch, gated, moments):
        if not covers(input, weight, bias) or not input.size or (over_batch and groups != input.shape[1]):
            return NotImplemented
        xp, rows = array_module(input), rows_of(input)
        weight, bias = xp.ascontiguousarray(weight), xp.ascontiguousarray(bias)
        if over_batch:
            found = tuple(moment.reshape(1, -1) for moment in moments or moments_of(input))
        else:
            found = xp.empty((2, len(rows), groups), rows.dtype)
        out = forward_steps(5 if over_batch else 1, 5, found, rows, weight, bias, groups, eps, over_batch, gated)
        return images_of(out, input.shape), (*found,)

    def gradient(g, saved, input, weight, bias, *, groups, eps, over_batch, gated, moments, wanted):
        xp, rows, (n, c) = array_module(input), rows_of(input), input.shape[:2]
        given = (rows_of(g), rows, xp.ascontiguousarray(weight), xp.ascontiguousarray(bias), *saved)
        sums, dx = xp.empty((2, n, c), rows.dtype), xp.empty(rows.shape, rows.dtype)
        how = (n, given, weight, rows, groups, eps, over_batch, gated)
        launch_steps("normalize_gradients", (1, 1) if over_batch else (1, 2), *how, *sums, dx)
        db, dw = sums.sum(axis=1) if weight.ndim == 1 else sums
        if over_batch:
            launch_steps("normalize_gradients", (2, 2), *how, *mean_over_ranks(db, dw), dx)  # over all ranks
        return [images_of(dx, input.shape), dw, db]
