"""Linear layers: the product of rows with the weights, plus the bias.  See linear.c."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nanogen.functional.matrix import affine
from nanogen.kernels.cpu.compiled import call
from nanogen.kernels.cpu.convolution import BLOCKS, GROUPS, has_images
from nanogen.kernels.cpu.products import gemm_address, kernels_for_small, piece


@functools.lru_cache(4096)
def rows_job(rows: int, k: int, m: int, transposed: bool) -> np.ndarray:
    """`Rows` of linear.c.  A group's rows are at least as large as the weights, whose gradient it writes.

    With few rows OpenBLAS is slow where the weights are transposed: 58 to 89 GFLOP/s with 64, 106 to 123 with 256
    (Intel)."""
    groups = min(GROUPS, rows // 128, rows * (k + m) // (k * m)) // 2 * 2 or 1
    small, deep, count = kernels_for_small(), -(-rows // groups), BLOCKS if groups > 1 else 1
    forward, weight = piece(count, deep, m, k, False, transposed, small), piece(count, k, m, deep, True, False, small)
    return np.array([rows, k, m, transposed, groups, *forward[:3], *weight[:3]], np.int64)


def run(a: np.ndarray, b: np.ndarray | None, w: np.ndarray | None, bias: np.ndarray | None, m: int) -> list[Any]:
    """Rows a (…, k) times w (k, m), or wᵀ plus a bias; the sums of aᵀ b for rows b (…, m), and of a."""
    a, k = np.ascontiguousarray(a), a.shape[-1]
    job = rows_job(a.size // k, k, m, bias is not None)
    out = None if w is None else np.empty((*a.shape[:-1], m), a.dtype)
    sums = None if b is None else np.empty((job[4], k * m + k), a.dtype)
    given = [x if x is None else np.ascontiguousarray(x) for x in (b, w, bias)]
    call("linear", a, *given, out, sums, gemm_address(a.dtype.char), job)
    return [out, None, None] if sums is None else [out, sums[0, : k * m].reshape(k, m), sums[0, k * m :]]


@affine.kernel("cpu")
class Affine:
    def forward(x, w, b):
        if not has_images(x, w, b) or not x.size or x.ndim < 2 or w.ndim != 2 or b.shape not in ((), w.shape[:1]):
            return NotImplemented
        return run(x, None, w, b if b.ndim else np.full(len(w), b), len(w))[0], None

    def gradient(g, saved, x, w, b, *, wanted):
        dx, dw, db = run(g, x if any(wanted[1:]) else None, w if wanted[0] else None, None, w.shape[1])
        return [dx, dw, db if b.ndim or db is None else db.sum()]
