"""Winograd's convolutions F(2×2, r×r): 4 multiplications for 9 with 3×3 kernels, 9 for 16 with 4×4 kernels of stride 2.

Winograd 1980; Lavin & Gray 2016, section 4.  In one dimension two outputs of a kernel g of r numbers on an input d of
r + 1 are Aᵀ [(G g) ⊙ (Bᵀ d)]: r + 1 products, not 2 r.  In two dimensions it is the same with the Kronecker squares of
the matrices.  Their entries are halves and ones: integers stay exact.  The transforms Bᵀ and Aᵀ are in tiles.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nanogen.backend import Array, device_of, resident

Pair = tuple[int, ...]  # for height and width
Matmul = Callable[[Any, Any], Any]

# With fewer channels than this on either side the transforms cost more than the products that they save.
LEAST_CHANNELS = 32


class Tiling(NamedTuple):
    """F(2×2, r×r) on blocks of s×s pixels: a convolution with a kernel of r·s and a stride of s, each way.

    A kernel of 2r and a stride of 2 are a kernel of r and a stride of 1 on blocks of 2×2 pixels, whose four pixels are
    as many channels.  A tile has t×t blocks, t = r + 1, and 2×2 pixels of the output."""

    r: int
    s: int
    G: np.ndarray  # t²×r²

    @property
    def t(self) -> int:
        return self.r + 1


def squared(*rows: Sequence[float]) -> np.ndarray:
    """The Kronecker square of a matrix."""
    return np.kron(rows, rows)


TILINGS = (
    Tiling(r=3, s=1, G=squared([1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1])),  # section 4.1
    # d₀ g₀ + d₁ g₁ = (d₀ − d₁) g₀ + d₁ (g₀ + g₁) and d₁ g₀ + d₂ g₁ = d₁ (g₀ + g₁) + (d₂ − d₁) g₁
    Tiling(r=2, s=2, G=squared([1, 0], [1, 1], [0, 1])),
)


def tiling(kernel: Pair, stride: Pair, dilation: Pair, channels: Pair) -> Tiling | None:
    """The tiles that suit a convolution, if any do."""
    found = next((F for F in TILINGS if (kernel, stride) == ((F.r * F.s,) * 2, (F.s,) * 2)), None)
    return found if dilation == (1, 1) and min(channels) >= LEAST_CHANNELS else None


def tile_counts(size: Pair) -> Pair:
    """How many tiles there are each way, for so many pixels of the output."""
    return tuple((n + 1) // 2 for n in size)


def transformed_kernel(w: Array, F: Tiling, matmul: Matmul = np.matmul, swapped: bool = False) -> Array:
    """G g: (O, C, KH, KW) to (t², s² · C, O), or swapped, (t², O, s² · C)."""
    (o, c), r, s = w.shape[:2], F.r, F.s
    order, shape = ((0, 3, 5, 1), (o, s * s * c)) if swapped else ((3, 5, 1, 0), (s * s * c, o))
    rows = avoid_conflicts(w).reshape(o, c, r, s, r, s).transpose(2, 4, *order).reshape(r * r, s * s * c * o)
    return matmul(resident(F.G, w.dtype, device_of(w)), rows).reshape(F.t**2, *shape)


def kernel_gradient(sums: Array, F: Tiling, matmul: Matmul = np.matmul) -> Array:
    """Gᵀ m, the adjoint of `transformed_kernel`: (t², O, s² · C) to (O, C, KH, KW)."""
    r, s, o = F.r, F.s, sums.shape[1]
    G = resident(F.G.T, sums.dtype, device_of(sums))
    taps = matmul(G, sums.reshape(F.t**2, -1)).reshape(r, r, o, s, s, -1)
    return taps.transpose(2, 0, 3, 1, 4, 5).reshape(o, r * s, r * s, -1).transpose(0, 3, 1, 2)


def avoid_conflicts(w: Array) -> Array:
    """The kernel with one channel of padding where its outputs are a multiple of 4096 bytes apart: these share a few
    cache lines, and to transpose 128×64×4×4 numbers takes 0.4 ms in place of 0.1."""
    o, c, kh, kw = w.shape
    if w.strides[0] % 4096 or not isinstance(w, np.ndarray):
        return w
    copy = np.empty((o, c + 1, kh, kw), w.dtype)[:, :c]
    copy[...] = w
    return copy
