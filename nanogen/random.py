"""Random numbers: explicit generators, on the host or on the device.

On the host NumPy draws the numbers.  On a GPU a kernel draws them; without it they are drawn on the host and copied.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.backend import Array, device_module, device_source, to_device

Size = int | tuple[int, ...]


class Generator:
    """A source of random numbers for one device.  Every function that draws takes one.

    The numbers depend only on the seed, the stream, and how many were drawn before.  So `stream(k)` gives step k of a
    long run its own numbers, whatever happened before that step.

    Args:
        seed: an integer in 0 … 2¹²⁸ − 1.
        device: the device of the arrays that it returns, `cpu` or `cuda`.
        drawn: where the numbers are computed, `host` (the default for cpu) or `device` (the default for cuda, if it has
            kernels).  With `host` the same seed gives the same numbers on both devices: the arrays are copied there.

    Raises:
        ValueError: a seed out of range, an unknown device, another value of `drawn`.
        TypeError: a seed that is not an integer.
    """

    def __init__(self, seed: int, device: str = "cpu", drawn: str | None = None, *, _indices: tuple[int, ...] = ()):
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed must be an integer, got {type(seed).__name__}")
        if not 0 <= seed < 1 << 128:  # longer seeds could equal a seed with stream indices
            raise ValueError(f"seed must be in 0 … 2^128 − 1, got {seed}")
        if drawn not in (None, "host", "device"):
            raise ValueError(f"drawn must be 'host' or 'device', got {drawn!r}")
        device_module(device)
        self.seed, self.device = int(seed), device
        self.drawn = drawn or ("host" if device == "cpu" else "device")
        self._indices = _indices
        self._part: tuple[slice, int] | None = None
        if any(index >= 1 << 32 for index in _indices):  # SeedSequence would read such an index as two
            _indices = tuple(hashlib.sha256(repr(_indices).encode()).digest())
        entropy = np.random.SeedSequence(self.seed, spawn_key=_indices)
        key = [np.uint64(word) for word in entropy.generate_state(4)]
        self._source = (device_source(key, device) if self.drawn == "device" else None) or HostSource(entropy)

    def stream(self, *indices: int) -> Generator:
        """An independent generator for these indices; what was drawn from this one does not matter.

        Streams can be nested: `stream(1).stream(2)` is `stream(1, 2)`.

        Raises:
            ValueError: an index that is not an integer of at least 0."""
        for index in indices:
            if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
                raise ValueError(f"stream: indices must be integers of at least 0, got {index!r}")
        child = Generator(self.seed, self.device, self.drawn, _indices=(*self._indices, *map(int, indices)))
        child._part = self._part
        return child

    def part(self, own: slice, whole: int) -> Generator:
        """A generator for a part of a batch.  It draws what this one draws for the whole batch, and returns the part
        `own` along the first axis.  Single numbers and permutations are the same as without parts.

        Raises:
            ValueError: on drawing, a first axis that does not have the part's length."""
        child = copy.copy(self)
        child._part = None if own == slice(0, whole) else (own, whole)
        return child

    @property
    def key(self) -> np.ndarray:
        """The key of a generator that draws on the device; seed and stream determine it: uint64 (4,)."""
        return np.array(self._source.state["key"], np.uint64)

    def at(self, key: Array) -> Generator:
        """A generator on the same device with another key, at position 0.  The key may be an array on the device."""
        other = Generator(self.seed, self.device, "device")
        other._source = device_source([key[i : i + 1] for i in range(4)], self.device)
        other._part = self._part
        return other

    def normal(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Samples of N(0, 1)."""
        return self._draw(lambda size: self._source.normal(size, np.dtype(dtype)), size)

    def uniform(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Samples of the uniform distribution on [0, 1)."""
        return self._draw(lambda size: self._source.uniform(size, np.dtype(dtype)), size)

    def integers(self, low: int, high: int, size: Size = ()) -> Array:
        """Uniform integers in [low, high).

        Raises:
            ValueError: an empty range; on a device, a range of 2³² or more.
        """
        return self._draw(lambda size: self._source.integers(low, high, size), size)

    def permutation(self, n: int) -> Array:
        """0 … n − 1 in random order."""
        return to_device(self._source.permutation(n), self.device)

    @property
    def state(self) -> dict[str, Any]:
        """The complete state, as plain numbers and lists.  Assigning it continues from there.

        Raises:
            ValueError: when the state of another kind of generator is assigned (host instead of device, or vice versa).
        """
        return self._source.state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if state.keys() != self._source.state.keys():
            raise ValueError(f"the state is not that of a generator which draws on the {self.drawn}")
        self._source.state = state

    def _draw(self, draw: Callable[[Size], Array], size: Size) -> Array:
        if self._part is None or size == ():
            return to_device(draw(size), self.device)
        (own, whole), (n, *others) = self._part, (size,) if isinstance(size, int | np.integer) else size
        if n != own.stop - own.start:
            raise ValueError(f"a part of {own.stop - own.start} of a batch draws along its first axis, got size {size}")
        return to_device(draw((whole, *others)), self.device)[own]


class HostSource:
    """NumPy's generator: Philox4x64 (Salmon et al. 2011), normal samples by the ziggurat algorithm."""

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


default_generator = Generator(0)  # for layers and functions that get no rng


def manual_seed(seed: int) -> Generator:
    """Restart the default generator with this seed, and return it."""
    vars(default_generator).update(vars(Generator(seed)))
    return default_generator
