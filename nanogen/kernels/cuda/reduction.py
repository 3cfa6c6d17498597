"""Sums over rows: see reduction.cu."""

from __future__ import annotations

from nanogen.backend import Array, array_module
from nanogen.kernels.cuda.launch import THREADS, cuda_source, launch

SOURCE = cuda_source("reduction")


def column_sums(rows: Array) -> Array:
    """Σ over the P rows: (B, P, C) to (B, C)."""
    xp, (b, p, c), wide = array_module(rows), rows.shape, max(min(rows.shape[2], 32), 1)
    sums = xp.empty((b, c), rows.dtype)
    blocks, threads = (b, -(-c // wide)), (wide, THREADS // wide)
    launch(SOURCE, "column_sums", blocks, threads, xp.ascontiguousarray(rows), p, c, sums)
    return sums
