"""Philox4x32-10, a counter-based generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

A block of four words is a function of its index.  So all blocks are computed at once, by array operations that give
the same bits on NumPy and on CuPy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen import backend
from nanogen.backend import Array, array_module, device_module
from nanogen.kernels.cuda.launch import fuse
from nanogen.random import Size


@backend.device_source.fill
def device_source(key: list[Any], device: str) -> DeviceSource:
    return DeviceSource(key, device_module(device))


class DeviceSource:
    """Philox4x32-10 by array operations: only the key and the position come from the host.

    Seed and stream determine four words: two are Philox's key and two are the upper half of its counter.  The lower
    half is the index of the block.  Successive draws take successive words: drawing n and then m numbers gives the
    same numbers as drawing n + m at once."""

    def __init__(self, key: list[Any], xp: Any):
        self._key, self._xp, self._position = key, xp, 0  # in words

    def normal(self, size: Size, dtype: Any) -> Array:
        return self._draw(*_for_dtype(NORMAL, dtype), size, dtype)

    def uniform(self, size: Size, dtype: Any) -> Array:
        return self._draw(*_for_dtype(UNIFORM, dtype), size, dtype)

    def integers(self, low: int, high: int, size: Size) -> Array:
        if not 0 < high - low < 1 << 32:
            raise ValueError(f"integers: high - low must be in 1 … 2^32 - 1, got low {low} and high {high}")
        return self._draw(integers, 2, size, np.int64, np.uint64(high - low)) + low

    def permutation(self, n: int) -> Array:
        """The argsort of n words of 64 bits; two of these are equal with probability n² / 2⁶⁵."""
        return self._xp.argsort(self._draw(long_words, 2, n, np.uint64))

    def _draw(self, kernel: Any, words: int, size: Size, dtype: Any, *settings: Any) -> Array:
        """Draw an array of numbers that take `words` words each; `kernel` computes all blocks that contain them."""
        shape = (size,) if isinstance(size, int | np.integer) else tuple(size)
        count, each, start = math.prod(shape), 4 // words, -(-self._position // words)
        self._position = (start + count) * words
        blocks = self._xp.arange(start // each, -(-(start + count) // each), dtype=np.uint64)
        out = self._xp.empty((len(blocks), each), dtype)
        kernel(blocks, *self._key, *settings, *out.T)
        return out.reshape(-1)[start % each :][:count].reshape(shape)

    @property
    def state(self) -> dict[str, Any]:
        return {"generator": "Philox4x32-10", "key": [int(word) for word in self._key], "position": self._position}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._key, self._position = [np.uint64(word) for word in state["key"]], int(state["position"])


# Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and table 2.  A word of
# 32 bits is stored in a uint64, which can hold the product of two words.

WORD = (1 << 32) - 1
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the first 32 bits of the fractions of the golden ratio and of √3


def philox(c0: Array, c1: Any, c2: Any, c3: Any, key0: Any, key1: Any) -> tuple[Array, ...]:
    """The four words of the block with counter (c0, c1, c2, c3) and key (key0, key1), by ten rounds."""
    for _ in range(10):
        a, b = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ key0, b & WORD, (a >> 32) ^ c3 ^ key1, a & WORD
        key0, key1 = (key0 + KEY_STEPS[0]) & WORD, (key1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def words_of(block: Array, c2: Any, c3: Any, key0: Any, key1: Any) -> tuple[Array, ...]:
    """The four words of the block with index `block`; c2 and c3 are the upper half of its counter."""
    return philox(block & WORD, block >> 32, c2, c3, key0, key1)


# From words to numbers.  Each function is one kernel on a GPU.  Its arguments are the indices of the blocks, the upper
# half of the counter, the key, settings, and the arrays for the results.


def fraction32(word: Array) -> Array:
    """The first 24 bits as a number in [0, 1)."""
    return (word >> 8).astype(np.float32) * 2.0**-24


def fraction64(high: Array, low: Array) -> Array:
    """The first 53 bits of two words as a number in [0, 1)."""
    return (((high << 32) + low) >> 11).astype(np.float64) * 2.0**-53


def box_muller(radial: Array, angular: Array) -> tuple[Array, Array]:
    """√(−2 ln u) · (cos 2πv, sin 2πv): two normal samples from two uniform ones, u in (0, 1].  Box & Muller 1958."""
    xp = array_module(radial)
    radius, angle = xp.sqrt(xp.log(radial) * -2.0), angular * (2 * math.pi)
    return radius * xp.cos(angle), radius * xp.sin(angle)


@fuse
def uniform32(block, c2, c3, key0, key1, a, b, c, d):
    words = words_of(block, c2, c3, key0, key1)
    a[...], b[...], c[...], d[...] = [fraction32(word) for word in words]


@fuse
def uniform64(block, c2, c3, key0, key1, a, b):
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...], b[...] = fraction64(w, x), fraction64(y, z)


@fuse
def normal32(block, c2, c3, key0, key1, a, b, c, d):
    """u uses all 32 bits, plus half a step so that u > 0.  The largest possible result is 6.7."""
    w, x, y, z = [word.astype(np.float32) * 2.0**-32 for word in words_of(block, c2, c3, key0, key1)]
    a[...], b[...] = box_muller(w + 2.0**-33, x)
    c[...], d[...] = box_muller(y + 2.0**-33, z)


@fuse
def normal64(block, c2, c3, key0, key1, a, b):
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...], b[...] = box_muller(fraction64(w, x) + 2.0**-53, fraction64(y, z))


@fuse
def integers(block, c2, c3, key0, key1, count, a, b):
    """⌊count · w / 2⁶⁴⌋ for a word w of 64 bits: each probability has an error of at most 2⁻⁶⁴."""
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...] = ((w * count + ((x * count) >> 32)) >> 32).astype(np.int64)
    b[...] = ((y * count + ((z * count) >> 32)) >> 32).astype(np.int64)


@fuse
def long_words(block, c2, c3, key0, key1, a, b):
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...], b[...] = (w << 32) + x, (y << 32) + z


UNIFORM = {np.dtype(np.float32): (uniform32, 1), np.dtype(np.float64): (uniform64, 2)}  # kernel, words per number
NORMAL = {np.dtype(np.float32): (normal32, 1), np.dtype(np.float64): (normal64, 2)}


def _for_dtype(by_dtype: dict[Any, tuple[Any, int]], dtype: np.dtype) -> tuple[Any, int]:
    if dtype not in by_dtype:
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return by_dtype[dtype]
