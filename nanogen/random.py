"""Random numbers: explicit generators, on the host or where the numbers are to lie.

On the host NumPy draws.  On a GPU a counter-based generator does, Philox4x32-10: a block of four words is a function of
its number alone, so all are made at once, in array operations which give the same bits on NumPy and on CuPy.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nanogen.backend import Array, array_module, device_module, fuse, to_device

Size = int | tuple[int, ...]


class Generator:
    """Random numbers for one device: every function that draws takes one of these.

    A generator is a pure function of `(seed, stream)` and of how much was drawn, so `stream(k)` gives step k of a long
    run its own numbers without any history.

    Args:
        seed: an integer in 0 … 2¹²⁸ − 1.
        device: where the drawn arrays lie, `cpu` or `cuda`.
        drawn: where they are drawn, `host` (the default for cpu) or `device` (for cuda).  The same seed gives the same
            numbers on both devices if it is the same here: what is drawn on the `host` is moved.

    Raises:
        ValueError: a seed out of range, an unknown device, another word for `drawn`.
        TypeError: a seed that is no integer.
    """

    def __init__(self, seed: int, device: str = "cpu", drawn: str | None = None):
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed must be an integer, got {type(seed).__name__}")
        if not 0 <= seed < 1 << 128:  # more would be words that a stream's indices can be, too
            raise ValueError(f"seed must be in 0 … 2^128 − 1, got {seed}")
        if drawn not in (None, "host", "device"):
            raise ValueError(f"drawn must be 'host' or 'device', got {drawn!r}")
        device_module(device)
        self.seed, self.device = int(seed), device
        self.drawn = drawn or ("host" if device == "cpu" else "device")
        self._indices: tuple[int, ...] = ()
        self._source = self._source_of()
        self._part: tuple[slice, int] | None = None

    def _source_of(self) -> Source:
        indices = self._indices
        if any(index >= 1 << 32 for index in indices):  # a seed sequence would take such a one for two
            indices = tuple(hashlib.sha256(repr(indices).encode()).digest())
        entropy = np.random.SeedSequence(self.seed, spawn_key=indices)
        if self.drawn == "host":
            return HostSource(entropy)
        return DeviceSource([np.uint64(word) for word in entropy.generate_state(4)], device_module(self.device))

    def stream(self, *indices: int) -> Generator:
        """An independent generator, that of these indices and this seed, whatever was drawn from this one.

        Streams have streams: `stream(1).stream(2)` is `stream(1, 2)`.

        Raises:
            ValueError: an index that is no integer of at least 0."""
        for index in indices:
            if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
                raise ValueError(f"stream: indices must be integers of at least 0, got {index!r}")
        child = Generator(self.seed, self.device, self.drawn)
        child._indices = (*self._indices, *map(int, indices))
        child._source, child._part = child._source_of(), self._part
        return child

    def part(self, own: slice, whole: int) -> Generator:
        """For a part of a batch: what it draws is the part `own` of what this generator draws for the `whole` batch,
        along the first axis; single numbers and permutations are drawn as they are.

        Raises:
            ValueError: on drawing, a first axis that has not the length of the part."""
        child = copy.copy(self)
        child._part = None if own == slice(0, whole) else (own, whole)
        return child

    @property
    def key(self) -> np.ndarray:
        """The four words, uint64, that with its position are all of a generator which draws on a device."""
        return np.array(self._source.state["key"], np.uint64)

    def at(self, key: Array) -> Generator:
        """A generator of the same device at the beginning of another key, which may lie on the device."""
        other = Generator(self.seed, self.device, "device")
        other._source = DeviceSource([key[i : i + 1] for i in range(4)], device_module(self.device))
        other._part = self._part
        return other

    def normal(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Draws from N(0, 1)."""
        return self._draw(lambda size: self._source.normal(size, np.dtype(dtype)), size)

    def uniform(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Draws from the uniform distribution on [0, 1)."""
        return self._draw(lambda size: self._source.uniform(size, np.dtype(dtype)), size)

    def integers(self, low: int, high: int, size: Size = ()) -> Array:
        """Integers from `low` up to but not including `high`, each equally likely.

        Raises:
            ValueError: there are none; on a device, 2³² of them or more.
        """
        return self._draw(lambda size: self._source.integers(low, high, size), size)

    def permutation(self, n: int) -> Array:
        """0 … n−1 in random order."""
        return self._place(self._source.permutation(n))

    @property
    def state(self) -> dict[str, Any]:
        """All that the next draws depend on, as plain numbers and lists; assign it to go back there.

        Raises:
            ValueError: on assigning that of a generator which draws elsewhere.
        """
        return self._source.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if state.keys() != self._source.state.keys():
            raise ValueError(f"the state is not that of a generator which draws on the {self.drawn}")
        self._source.state = state

    def _draw(self, draw: Callable[[Size], Array], size: Size) -> Array:
        if self._part is None or size == ():
            return self._place(draw(size))
        (own, whole), (n, *others) = self._part, (size,) if isinstance(size, int | np.integer) else size
        if n != own.stop - own.start:
            raise ValueError(f"a part of {own.stop - own.start} of a batch draws along its first axis, got size {size}")
        return self._place(draw((whole, *others)))[own]

    def _place(self, drawn: Any) -> Array:
        return to_device(drawn, self.device)


class Source(Protocol):
    """What numbers are drawn from; its `state` as in `Generator`."""

    state: dict[str, Any]

    def normal(self, size: Size, dtype: np.dtype) -> Array: ...
    def uniform(self, size: Size, dtype: np.dtype) -> Array: ...
    def integers(self, low: int, high: int, size: Size) -> Array: ...
    def permutation(self, n: int) -> Array: ...


class HostSource:
    """NumPy's: Philox4x64 (Salmon et al. 2011), normal numbers by the ziggurat."""

    def __init__(self, entropy: np.random.SeedSequence):
        self._generator = np.random.Generator(np.random.Philox(entropy))

    def normal(self, size: Size, dtype: Any) -> np.ndarray:
        return np.asarray(self._generator.standard_normal(size, dtype))

    def uniform(self, size: Size, dtype: Any) -> np.ndarray:
        return np.asarray(self._generator.random(size, dtype))

    def integers(self, low: int, high: int, size: Size) -> np.ndarray:
        return np.asarray(self._generator.integers(low, high, size))

    def permutation(self, n: int) -> np.ndarray:
        return self._generator.permutation(n)

    @property
    def state(self) -> dict[str, Any]:
        state: Any = self._generator.bit_generator.state
        inner = {name: values.tolist() for name, values in state["state"].items()}
        return {**state, "state": inner, "buffer": state["buffer"].tolist()}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = state


class DeviceSource:
    """Philox4x32-10 by array operations: nothing comes from the host but the key and the counter.

    Four words, which the seed and the stream make, are the key and one half of the counter; the other half is the
    number of the block.  Draws follow each other in the words: two draws are one of both sizes, cut in two."""

    def __init__(self, key: list[Any], xp: Any):
        self._key, self._xp, self._position = key, xp, 0  # in words

    def normal(self, size: Size, dtype: Any) -> Array:
        return self._draw(*_made(NORMAL, dtype), size, dtype)

    def uniform(self, size: Size, dtype: Any) -> Array:
        return self._draw(*_made(UNIFORM, dtype), size, dtype)

    def integers(self, low: int, high: int, size: Size) -> Array:
        if not 0 < high - low < 1 << 32:
            raise ValueError(f"integers: from low {low} to high {high} there must be some, and fewer than 2^32")
        return self._draw(integers, 2, size, np.int64, np.uint64(high - low)) + low

    def permutation(self, n: int) -> Array:
        """The order of n words of 64 bits; two of them are equal with a chance of n² / 2⁶⁵."""
        return self._xp.argsort(self._draw(long_words, 2, n, np.uint64))

    def _draw(self, kernel: Any, words: int, size: Size, dtype: Any, *settings: Any) -> Array:
        """Numbers of so many words each, which `kernel` makes of as many blocks as they lie in."""
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


# Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and table 2.  A word has
# 32 bits and stands in a uint64, which holds a product of two.

WORD = (1 << 32) - 1
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio's fraction and that of √3


def philox(c0: Array, c1: Any, c2: Any, c3: Any, key0: Any, key1: Any) -> tuple[Array, ...]:
    """The four words of the block with the counter (c0, c1, c2, c3) under a key, in ten rounds."""
    for _ in range(10):
        a, b = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ key0, b & WORD, (a >> 32) ^ c3 ^ key1, a & WORD
        key0, key1 = (key0 + KEY_STEPS[0]) & WORD, (key1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def words_of(block: Array, c2: Any, c3: Any, key0: Any, key1: Any) -> tuple[Array, ...]:
    """The four words of a block by its number."""
    return philox(block & WORD, block >> 32, c2, c3, key0, key1)


# From words to numbers.  Each function is one kernel on a GPU: the numbers of the blocks, the rest of the counter, the
# key, settings; the results go into the last arguments.


def fraction32(word: Array) -> Array:
    """The first 24 bits as a number in [0, 1)."""
    return (word >> 8).astype(np.float32) * 2.0**-24


def fraction64(high: Array, low: Array) -> Array:
    """The first 53 bits of two words as a number in [0, 1)."""
    return (((high << 32) + low) >> 11).astype(np.float64) * 2.0**-53


def box_muller(radial: Array, angular: Array) -> tuple[Array, Array]:
    """√(−2 ln u) · (cos 2πv, sin 2πv): two normal numbers of two uniform ones, u in (0, 1].  Box & Muller 1958."""
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
    """All 32 bits of a word are a fraction's, moved up by half a step: the largest number is 6.7."""
    w, x, y, z = [word.astype(np.float32) * 2.0**-32 for word in words_of(block, c2, c3, key0, key1)]
    a[...], b[...] = box_muller(w + 2.0**-33, x)
    c[...], d[...] = box_muller(y + 2.0**-33, z)


@fuse
def normal64(block, c2, c3, key0, key1, a, b):
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...], b[...] = box_muller(fraction64(w, x) + 2.0**-53, fraction64(y, z))


@fuse
def integers(block, c2, c3, key0, key1, count, a, b):
    """⌊count · w / 2⁶⁴⌋ of a word w of 64 bits: no number's chance is off by more than 2⁻⁶⁴."""
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...] = ((w * count + ((x * count) >> 32)) >> 32).astype(np.int64)
    b[...] = ((y * count + ((z * count) >> 32)) >> 32).astype(np.int64)


@fuse
def long_words(block, c2, c3, key0, key1, a, b):
    w, x, y, z = words_of(block, c2, c3, key0, key1)
    a[...], b[...] = (w << 32) + x, (y << 32) + z


UNIFORM = {np.dtype(np.float32): (uniform32, 1), np.dtype(np.float64): (uniform64, 2)}  # and how many words a number is
NORMAL = {np.dtype(np.float32): (normal32, 1), np.dtype(np.float64): (normal64, 2)}


def _made(by_dtype: dict[Any, tuple[Any, int]], dtype: np.dtype) -> tuple[Any, int]:
    if dtype not in by_dtype:
        raise TypeError(f"dtype must be float32 or float64, got {dtype}")
    return by_dtype[dtype]


default_generator = Generator(0)  # for what draws without an rng of its own


def manual_seed(seed: int) -> Generator:
    """The default generator, which from now on draws the numbers of this seed."""
    vars(default_generator).update(vars(Generator(seed)))
    return default_generator
