"""The gates of networks, in one pass over the pixels and one or two more for the gradient.  See gates.c."""

from __future__ import annotations

import math

import numpy as np

from nanogen.kernels.convolution import rows_of
from nanogen.kernels.cpu.compiled import call, covers
from nanogen.kernels.cpu.normalization import scratch
from nanogen.models.autoregressive.gated import gate
from nanogen.models.autoregressive.pixelrnn import lstm
from nanogen.models.diffusion.transformer import gated_residual


def by_pixel(name: str, c: int, *arrays: np.ndarray, makes: tuple[int, ...]) -> list[np.ndarray]:
    """The results of a C function of arrays (N, a multiple of c, …): (N, `makes` · c, …).

    A pixel's channels are side by side in memory.  Results are no views, so the engine can add to them in place."""
    (n, _, *size), like = arrays[0].shape, arrays[0]
    made = [np.empty_like(np.moveaxis(np.empty((n, *size, many * c), like.dtype), -1, 1)) for many in makes]
    call(name, *[rows_of(x) for x in (*arrays, *made)], n * math.prod(size), c)
    return made


@gate.kernel("cpu")
class Gate:
    def forward(x):
        if not covers(x) or not x.size or x.shape[1] % 2:
            return NotImplemented
        return by_pixel("gate", x.shape[1] // 2, x, makes=(1,))[0], None

    def gradient(g, saved, x, *, wanted):
        return by_pixel("gate_gradient", g.shape[1], g, x, makes=(2,))


@lstm.kernel("cpu")
class Lstm:
    def forward(gates, state):
        (n, channels, *size), c = gates.shape, gates.shape[1] // 4
        if not covers(gates, state) or not gates.size or channels % 4 or state.shape != (n, 2 * c, *size):
            return NotImplemented
        (out,) = by_pixel("lstm", c, gates, state, makes=(2,))
        return out, out

    def gradient(g, out, gates, state, *, wanted):
        return by_pixel("lstm_gradient", g.shape[1] // 2, g, gates, state, out, makes=(4, 2))


@gated_residual.kernel("cpu")
class GatedResidual:
    """The tokens of an image are its pixels, and its gates are their columns' factors: see normalization.c."""

    def forward(h, gate, branch):
        own = (len(h), 1, h.shape[-1]) if h.ndim == 3 else ()
        if not covers(h, gate, branch) or not h.size or h.shape != branch.shape or gate.shape != own:
            return NotImplemented
        h, gate, branch = map(np.ascontiguousarray, (h, gate, branch))
        out, zero = np.empty_like(h), np.zeros_like(gate)
        call("combine", h, branch, *h.shape, zero, zero + 1, gate, zero, out)
        return out, None

    def gradient(g, saved, h, gate, branch, *, wanted):
        g, gate, branch = map(np.ascontiguousarray, (g, gate, branch))
        dbranch, zero, sums = np.empty_like(g), np.zeros_like(gate), np.empty((len(g), 2, g.shape[2]), g.dtype)
        call("scale", g, *g.shape, zero, gate, zero, 0, dbranch)
        call("gradient_sums", g, branch, *g.shape, *[zero] * 3, 0, dbranch, scratch(g), sums)  # Σ g, Σ g · branch
        return [g, sums[:, 1:], dbranch]
