"""Attention in one pass over the heads, whose scores are never kept: the gradient computes them again.  See attention.c.

    P = softmax(scale · Q Kᵀ + mask),  out = P V
    dV = Pᵀ G,  dP = G Vᵀ,  dS = P · (dP − Σ P·dP),  dQ = scale · dS K,  dK = scale · dSᵀ Q

Dao et al. 2022, FlashAttention, algorithm 4, without its tiles: a head's scores fit into the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.functional.matrix import attention
from nanogen.kernels.cpu.compiled import call, covers
from nanogen.kernels.cpu.products import gemm_address

Array = np.ndarray


def heads_of(x: Array) -> Array:
    """(…, L, d) as (N, heads, L, d) whose rows the BLAS can read in place."""
    x = np.expand_dims(x, tuple(range(x.ndim - 2, 2)))
    apart, within = x.strides[2:]
    in_place = x.shape[3] == 1 or within == x.itemsize
    return x if in_place and (x.shape[2] == 1 or apart >= x.shape[3] * x.itemsize) else np.ascontiguousarray(x)


def scores_mask(mask: Any, shape: tuple[int, ...], dtype: Any) -> Array | None:
    """What is added to scores of a shape (…, L, S)."""
    if mask is None:
        return None
    numbers = np.where(mask.data, 0, -np.inf) if mask.dtype.kind == "b" else mask.data
    rows = np.broadcast_to(numbers, (*numbers.shape[:-1], shape[-1]))
    return np.expand_dims(np.broadcast_to(np.ascontiguousarray(rows, dtype), shape), tuple(range(len(shape) - 2, 2)))


def run(name: str, logs: Array, given: list[Any], scale: float, made: list[Array]) -> None:
    """Call the C function for query, key, value, mask and the output's gradient, the last two or None."""
    (n, heads, length, depth), (_, _, keys, width) = given[0].shape, given[2].shape
    strides = [[0] * 3 if x is None else [s // x.itemsize for s in x.strides[:3]] for x in given]
    rows = [[image, head, max(row, x is not None and x.shape[3])] for (image, head, row), x in zip(strides, given)]
    numbers = np.array([n, heads, length, keys, depth, width, *sum(rows, [])], np.int64)
    query, key, value, mask, g = [0 if x is None else x.ctypes.data for x in given]
    gemm = gemm_address(logs.dtype.char)
    call(name, logs, query, key, value, mask, float(scale), gemm, numbers, *([g] if g else []), *made)


def rows_like(x: Array, depth: int) -> Array:
    """Memory for (N, heads, L, depth), x's first three axes; the heads of a row are side by side."""
    n, heads, length, _ = x.shape
    return np.empty((n, length, heads, depth), x.dtype)


@attention.kernel("cpu")
class Attention:
    def forward(query, key, value, *, mask, scale, dropout_p, rng):
        fit = query.shape[:-2] == key.shape[:-2] == value.shape[:-2] and query.shape[-1] == key.shape[-1]
        if not covers(query, key, value) or not fit or key.shape[-2] != value.shape[-2] or query.ndim > 4:
            return NotImplemented
        if dropout_p or (mask is not None and mask.requires_grad) or not min(query.size, key.size, value.size):
            return NotImplemented
        q, k, v = map(heads_of, (query, key, value))
        added = scores_mask(mask, (*query.shape[:-1], key.shape[-2]), query.dtype)
        logs, out = np.empty(q.shape[:3], q.dtype), rows_like(q, v.shape[3])
        run("attention", logs, [q, k, v, added, None], scale, [out])
        return out.swapaxes(1, 2).reshape(*query.shape[:-1], v.shape[3]), (logs, added)

    def gradient(g, saved, query, key, value, *, mask, scale, dropout_p, rng, wanted):
        (logs, added), heads = saved, [*map(heads_of, (query, key, value))]
        made = [rows_like(x, x.shape[3]) for x in heads]
        run("attention_gradient", logs, [*heads, added, heads_of(g)], scale, made)
        return [dx.swapaxes(1, 2).reshape(x.shape) for dx, x in zip(made, (query, key, value))]
