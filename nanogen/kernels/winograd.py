"""Winograd's convolutions F(2×2, r×r): 4 multiplications for 9 with 3×3 kernels, 9 for 16 with 4×4 kernels of stride 2.

Winograd 1980; Lavin & Gray 2016, section 4.  In one dimension, a kernel g of r numbers and an input d of r + 1 numbers
give two outputs, Aᵀ [(G g) ⊙ (Bᵀ d)].  This takes r + 1 products instead of 2 r.  Two dimensions use the Kronecker
squares of the matrices.  Their entries are 0, ±1 and ±½, so results on integers are exact.  The transforms Bᵀ and Aᵀ
are in tiles.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nanogen.backend import Array, device_of, resident

Pair = tuple[int, ...]  # for height and width
Matmul = Callable[[Any, Any], Any]

# With fewer input or output channels than this, the transforms cost more than the products they save.
LEAST_CHANNELS = 32


class Tiling(NamedTuple):
    """F(2×2, r×r) on blocks of s×s pixels: a convolution with a kernel of size r·s and stride s along both axes.

    A convolution with kernel size 2r and stride 2 is one with kernel size r and stride 1 on blocks of 2×2 pixels: the
    four pixels of a block count as channels.  A tile has t×t blocks, t = r + 1, and gives 2×2 pixels of output."""

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
    """The tiling for a convolution; None if there is none or it would not be faster."""
    found = next((F for F in TILINGS if (kernel, stride) == ((F.r * F.s,) * 2, (F.s,) * 2)), None)
    return found if dilation == (1, 1) and min(channels) >= LEAST_CHANNELS else None


def tile_counts(size: Pair) -> Pair:
    """The number of tiles along each axis, for an output of this size."""
    return tuple((n + 1) // 2 for n in size)


def transformed_kernel(w: Array, F: Tiling, matmul: Matmul = np.matmul, swapped: bool = False) -> Array:
    """G g: (O, C, KH, KW) to (t², s² · C, O); to (t², O, s² · C) if `swapped`."""
    (o, c), r, s = w.shape[:2], F.r, F.s
    order, shape = ((0, 3, 5, 1), (o, s * s * c)) if swapped else ((3, 5, 1, 0), (s * s * c, o))
    rows = w.reshape(o, c, r, s, r, s).transpose(2, 4, *order).reshape(r * r, s * s * c * o)
    return matmul(resident(F.G, w.dtype, device_of(w)), rows).reshape(F.t**2, *shape)


def kernel_gradient(sums: Array, F: Tiling, matmul: Matmul = np.matmul) -> Array:
    """Gᵀ m, the adjoint of `transformed_kernel`: (t², O, s² · C) to (O, C, KH, KW)."""
    r, s, o = F.r, F.s, sums.shape[1]
    G = resident(F.G.T, sums.dtype, device_of(sums))
    taps = matmul(G, sums.reshape(F.t**2, -1)).reshape(r, r, o, s, s, -1)
    return taps.transpose(2, 0, 3, 1, 4, 5).reshape(o, r * s, r * s, -1).transpose(0, 3, 1, 2)
