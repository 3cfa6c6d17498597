"""Tensors by their shape, as torch makes them, and its way to name a device.

Those of random numbers draw from `rng` (or `generator`), or from the default generator.  Types are float32 if none is
given; of `full` and `arange` those of their arguments, Python's floats counting as float32.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, constant, tensor
from nanogen.backend import Array, cuda_is_available
from nanogen.random import Generator, default_generator

__all__ = [
    "arange", "cuda", "device", "empty", "empty_like", "eye", "from_numpy", "full", "full_like", "linspace", "ones",
    "ones_like", "rand", "rand_like", "randint", "randn", "randn_like", "zeros", "zeros_like",
]  # fmt: skip

cuda = types.SimpleNamespace(is_available=cuda_is_available)


def device(type: str) -> str:
    """`cpu` or `cuda`, of what torch calls `cuda:0`."""
    return type.partition(":")[0]


def _of_shapes(
    make: Callable[[tuple[int, ...], Any, Any], Array],
) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """The two that make a tensor of a shape and one like another, from (shape, dtype, generator) -> array."""

    def of_shape(
        *size: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False, generator: Any = None,
        rng: Generator | None = None,
    ) -> Tensor:  # fmt: skip
        shape = size[0] if size and isinstance(size[0], tuple | list) else size
        array = make(tuple(shape), np.dtype(dtype or np.float32), rng or generator or default_generator)
        return tensor(array, requires_grad=requires_grad, device=device)

    def like(input: Tensor, *, dtype: Any = None, device: str | None = None, **settings: Any) -> Tensor:
        return of_shape(input.shape, dtype=dtype or input.dtype, device=device or input.device, **settings)

    return of_shape, like


zeros, zeros_like = empty, empty_like = _of_shapes(lambda shape, dtype, rng: np.zeros(shape, dtype))
ones, ones_like = _of_shapes(lambda shape, dtype, rng: np.ones(shape, dtype))
randn, randn_like = _of_shapes(lambda shape, dtype, rng: rng.normal(shape, dtype))
rand, rand_like = _of_shapes(lambda shape, dtype, rng: rng.uniform(shape, dtype))


def _as_torch(array: Any, dtype: Any, settings: Any) -> Tensor:
    """An array of Python's numbers as a tensor, doubles as float32."""
    return tensor(array, dtype=dtype or (np.float32 if array.dtype == np.float64 else array.dtype), **settings)


def full(size: Any, fill_value: Any, *, dtype: Any = None, **settings: Any) -> Tensor:
    """`fill_value` everywhere."""
    return _as_torch(np.full(size, fill_value), dtype, settings)


def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, **settings: Any) -> Tensor:
    """`fill_value` everywhere, in the shape, in the type and on the device of `input`."""
    return full(input.shape, fill_value, dtype=dtype or input.dtype, **({"device": input.device} | settings))


def arange(start: Any = 0, end: Any = None, step: Any = 1, *, dtype: Any = None, **settings: Any) -> Tensor:
    """start, start + step, … below `end`; of one number: 0 … below it."""
    low, high = (0, start) if end is None else (start, end)
    return _as_torch(np.arange(low, high, step), dtype, settings)


def linspace(start: Any, end: Any, steps: int, *, dtype: Any = None, **settings: Any) -> Tensor:
    """`steps` numbers from `start` to `end`, both included, equally far apart."""
    return _as_torch(np.linspace(start, end, steps), dtype, settings)


def eye(n: int, m: int | None = None, *, dtype: Any = None, **settings: Any) -> Tensor:
    """(n, m): 1 on the diagonal, 0 elsewhere."""
    return _as_torch(np.eye(n, m), dtype, settings)


def randint(*bounds: Any, size: Any = None, rng: Generator | None = None, dtype: Any = None, **settings: Any) -> Tensor:
    """randint(low = 0, high, size): integers from low up to but not including high, int64."""
    *between, shape = bounds if size is None else (*bounds, size)
    low, high = (0, *between)[-2:]
    return tensor((rng or default_generator).integers(low, high, tuple(shape)), dtype=dtype, **settings)


def from_numpy(ndarray: Array) -> Tensor:
    """The tensor of this very array."""
    return constant(ndarray)
