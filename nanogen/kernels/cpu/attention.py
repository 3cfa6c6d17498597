"""Attention, a head at a time, whose scores are never kept: the gradient computes them again.  See attention.c.

    P = softmax(scale · Q Kᵀ + mask),  out = P V
    dV = Pᵀ G,  dP = G Vᵀ,  dS = P · (dP − Σ P·dP),  dQ = scale · dS K,  dK = scale · dSᵀ Q

Dao et al. 2022, FlashAttention, algorithm 4, without its tiles: the scores of a head fit into the cache.
"""

from __future__ import annotations

import numpy as np

from nanogen.functional.matrix import attention
from nanogen.kernels.cpu.compiled import call
from nanogen.kernels.cpu.convolution import has_images
from nanogen.kernels.cpu.products import gemm_address


def heads_of(x: np.ndarray) -> np.ndarray:
    """(…, L, d) as (N, heads, L, d) whose rows the BLAS can read in place."""
    x = x if x.ndim == 4 else x.reshape(*x.shape[:-2], *[1] * (4 - x.ndim), *x.shape[-2:])
    readable = x.strides[3] == x.itemsize and x.strides[2] >= x.shape[3] * x.itemsize
    return x if readable else np.array(x, order="C")


def run(name: str, logs: np.ndarray, given: list, mask: np.ndarray | None, scale: float, widths: list[int]) -> list:
    """Call the C function for query, key, value and, of the gradient, g.  Each width is that of a result like the
    query, the key or the value, (N, heads, L, width); in memory the heads lie side by side."""
    (n, heads, length, depth), (_, _, keys, width) = given[0].shape, given[2].shape
    strides = [stride // x.itemsize for x in given for stride in x.strides[:3]]
    numbers = np.array([n, heads, length, keys, depth, width, *strides, 0, 0, 0][:18], np.int64)
    query, key, value, *g = [x.ctypes.data for x in given]
    made = [np.empty((n, x.shape[2], heads, wide), x.dtype) for x, wide in zip(given, widths, strict=False)]
    added = 0 if mask is None else mask.ctypes.data
    call(name, logs, query, key, value, added, float(scale), gemm_address(logs.dtype.char), numbers, *g, *made)
    return [x.swapaxes(1, 2) for x in made]


@attention.kernel("cpu")
class Attention:
    def forward(query, key, value, *, mask, scale, dropout_p, rng):
        (*outer, depth), (*others, keys, width), added = query.shape, value.shape, None
        fit = key.shape == (*others, keys, depth) and others == outer[:-1] and query.ndim < 5
        refused = dropout_p or (mask is not None and mask.requires_grad)
        if refused or not fit or not has_images(query, key, value) or not min(query.size, key.size, value.size):
            return NotImplemented
        if mask is not None:
            numbers = np.where(mask.data, 0, -np.inf) if mask.dtype.kind == "b" else mask.data
            added = np.array(np.broadcast_to(numbers, (*outer, keys)).swapaxes(-1, -2), query.dtype, order="C")
        q, k, v = map(heads_of, (query, key, value))
        logs = np.empty(q.shape[:3], q.dtype)
        (out,) = run("attention", logs, [q, k, v], added, scale, [width])
        return out.reshape(*outer, width), (logs, added)

    def gradient(g, saved, *arrays, mask, scale, dropout_p, rng, wanted):
        (logs, added), given, (depth, width) = saved, [*map(heads_of, (*arrays, g))], [x.shape[-1] for x in arrays[1:]]
        made = run("attention_gradient", logs, given, added, scale, [depth, depth, width])
        return [dx.reshape(x.shape) for dx, x in zip(made, arrays, strict=True)]
