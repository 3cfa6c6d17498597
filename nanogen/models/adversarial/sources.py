"""Where the sources of a translation come from: maps of integer levels (N, C, H, W), applied to the target images.

SOURCES[name](images, levels) -> uint8 (N, C, H, W), levels 0 … levels − 1
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nanogen.backend import Array, array_module

TONES = 2  # of `posterised`
THRESHOLD = 0.25  # of `edges`: levels per pixel, as a share of levels − 1


def edges(images: Array, levels: int) -> Array:
    """levels − 1 where |∇x| > (levels − 1) / 4, else 0, each colour by itself.

    ∇x by central differences, (x[i + 1] − x[i − 1]) / 2.  Outside, the image continues with its outermost pixels."""
    x = array_module(images).pad(images.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
    down, right = x[..., 2:, 1:-1] - x[..., :-2, 1:-1], x[..., 1:-1, 2:] - x[..., 1:-1, :-2]  # 2 ∇x
    steep = down**2 + right**2 > (2 * THRESHOLD * (levels - 1)) ** 2
    return ((levels - 1) * steep).astype(np.uint8)


def halved(images: Array, levels: int) -> Array:
    """Half the resolution: each square of 2×2 pixels has its mean level, ½ rounded up.

    With odd sides the last row or column has squares of what is there."""
    height, width = images.shape[2:]
    xp = array_module(images)
    x = xp.pad(images.astype(np.int64), ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), "edge")
    means = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2] + 2) // 4
    return means.repeat(2, axis=2).repeat(2, axis=3)[..., :height, :width].astype(np.uint8)


def inverted(images: Array, levels: int) -> Array:
    """levels − 1 − x: a bijection, its own inverse."""
    return (levels - 1 - images.astype(np.int64)).astype(np.uint8)


def turned(images: Array, levels: int) -> Array:
    """A quarter turn counter-clockwise, of square images: a bijection."""
    return array_module(images).rot90(images, 1, (2, 3)).astype(np.uint8)


def tones(images: Array, levels: int) -> Array:
    """The nearest of TONES evenly spaced levels 0 … levels − 1, by its number 0 … TONES − 1; ½ is rounded up."""
    most, last = levels - 1, TONES - 1
    return (2 * last * images.astype(np.int64) + most) // (2 * most)


def posterised(images: Array, levels: int) -> Array:
    """Only TONES different levels, evenly spaced: each level becomes the nearest of them."""
    most, last = levels - 1, TONES - 1
    return ((2 * most * tones(images, levels) + last) // (2 * last)).astype(np.uint8)


SOURCES: dict[str, Callable[[Array, int], Array]] = {
    "edges": edges, "halved": halved, "inverted": inverted, "turned": turned, "posterised": posterised,
}  # fmt: skip
