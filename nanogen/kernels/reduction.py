"""Sums on raw arrays."""

from __future__ import annotations

from nanogen.backend import THREADS, Array, ByDevice, array_module, by_parts, cuda_source, launch
from nanogen.kernels.products import product


@ByDevice
def column_sums(rows: Array) -> Array:
    """Σ over the P rows: (B, P, C) to (B, C).  A product with ones, nine times as fast as a sum over a middle axis."""
    xp = array_module(rows)
    ones = xp.ones((1, rows.shape[1]), rows.dtype)
    return xp.concatenate(by_parts(lambda part: product(ones, part)[:, 0], rows))


SOURCE = cuda_source("reduction")


@column_sums.on_gpu
def _(rows: Array) -> Array:
    xp, (b, p, c), wide = array_module(rows), rows.shape, max(min(rows.shape[2], 32), 1)
    sums = xp.empty((b, c), rows.dtype)
    blocks, threads = (b, -(-c // wide)), (wide, THREADS // wide)
    launch(SOURCE, "column_sums", blocks, threads, xp.ascontiguousarray(rows), p, c, sums)
    return sums
