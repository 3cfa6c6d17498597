"""Random numbers: explicit generators, on the host or where the numbers are to lie.

On the host NumPy draws.  For a GPU the annex has a generator; without it, what the host draws is moved there.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

import numpy as np

from nanogen.backend import Array, device_module, device_source, to_device

Size = int | tuple[int, ...]


class Generator:
    """Random numbers for one device: every function that draws takes one of these.

    A generator is a pure function of `(seed, stream)` and of how much was drawn, so `stream(k)` gives step k of a long
    run its own numbers without any history.

    Args:
        seed: an integer in 0 … 2¹²⁸ − 1.
        device: where the drawn arrays lie, `cpu` or `cuda`.
        drawn: where they are drawn, `host` (the default for cpu) or `device` (for cuda, with its kernels).  The same
            seed gives the same numbers on both devices if both draw in the same place.

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

    def _source_of(self) -> Source:
        indices = self._indices
        if any(index >= 1 << 32 for index in indices):  # a seed sequence would take such a one for two
            indices = tuple(hashlib.sha256(repr(indices).encode()).digest())
        entropy = np.random.SeedSequence(self.seed, spawn_key=indices)
        key = [np.uint64(word) for word in entropy.generate_state(4)]
        return (device_source(key, self.device) if self.drawn == "device" else None) or HostSource(entropy)

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
        child._source = child._source_of()
        return child

    @property
    def key(self) -> np.ndarray:
        """The four words, uint64, that with its position are all of a generator which draws on a device."""
        return np.array(self._source.state["key"], np.uint64)

    def at(self, key: Array) -> Generator:
        """A generator of the same device at the beginning of another key, which may lie on the device."""
        other = Generator(self.seed, self.device, "device")
        other._source = device_source([key[i : i + 1] for i in range(4)], self.device)
        return other

    def normal(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Draws from N(0, 1)."""
        return self._place(self._source.normal(size, np.dtype(dtype)))

    def uniform(self, size: Size = (), dtype: Any = np.float32) -> Array:
        """Draws from the uniform distribution on [0, 1)."""
        return self._place(self._source.uniform(size, np.dtype(dtype)))

    def integers(self, low: int, high: int, size: Size = ()) -> Array:
        """Integers from `low` up to but not including `high`, each equally likely.

        Raises:
            ValueError: there are none; on a device, 2³² of them or more.
        """
        return self._place(self._source.integers(low, high, size))

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


default_generator = Generator(0)  # for what draws without an rng of its own


def manual_seed(seed: int) -> Generator:
    """The default generator, which from now on draws the numbers of this seed."""
    vars(default_generator).update(vars(Generator(seed)))
    return default_generator
