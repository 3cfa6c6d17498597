"""torch's functions that create tensors, and `device`.

Random numbers are drawn from `rng` (or `generator`), or from the default generator.  The default type is float32; for
`full` and `arange` it is that of the arguments, Python's floats counting as float32.
"""

import types

import numpy as np

from nanogen.autograd import tensor
from nanogen.backend import device_module
from nanogen.random import default_generator

__all__ = [
    "arange", "cuda", "device", "full", "ones", "ones_like", "rand", "rand_like", "randint", "randn", "randn_like",
    "zeros", "zeros_like",
]  # fmt: skip


def device(type):
    """`cpu` or `cuda`; also for torch's names such as `cuda:0`."""
    return type.partition(":")[0]


def _is_available():
    try:
        return device_module("cuda") is not np
    except RuntimeError:
        return False


cuda = types.SimpleNamespace(is_available=_is_available)


def of_shapes(make):
    """Two functions that create tensors by make(shape, dtype, generator): of a given shape, and like another tensor."""

    def of_shape(*size, dtype=None, device=None, requires_grad=False, generator=None, rng=None):
        shape = tuple(size[0] if size and isinstance(size[0], tuple | list) else size)
        array = make(shape, np.dtype(dtype or np.float32), rng or generator or default_generator)
        return tensor(array, requires_grad=requires_grad, device=device)

    return of_shape, lambda input, **how: of_shape(input.shape, **{"dtype": input.dtype, "device": input.device} | how)


zeros, zeros_like = of_shapes(lambda shape, dtype, rng: np.zeros(shape, dtype))
ones, ones_like = of_shapes(lambda shape, dtype, rng: np.ones(shape, dtype))
randn, randn_like = of_shapes(lambda shape, dtype, rng: rng.normal(shape, dtype))
rand, rand_like = of_shapes(lambda shape, dtype, rng: rng.uniform(shape, dtype))


def full(size, fill_value, *, dtype=None, **how):
    """A tensor filled with `fill_value`."""
    return tensor(np.full(size, fill_value, dtype or _type(fill_value)), **how)


def arange(start=0, end=None, step=1, *, dtype=None, **how):
    """start, start + step, … below `end`; arange(n) is 0 … n − 1."""
    numbers = (0, start, step) if end is None else (start, end, step)
    return tensor(np.arange(*numbers, dtype=dtype or _type(sum(numbers))), **how)


def _type(number):
    return np.float32 if isinstance(number, float) else None


def randint(*bounds, size=None, generator=None, rng=None, **how):
    """randint(low = 0, high, size): integers in [low, high), int64."""
    *between, shape = bounds if size is None else (*bounds, size)
    return tensor((rng or generator or default_generator).integers(*(0, *between)[-2:], tuple(shape)), **how)
