"""Initial weights: each function writes into a tensor or an array and returns it.  Names are torch's."""

import functools

from nanogen.autograd import Tensor, changes
from nanogen.backend import device_of, to_device
from nanogen.random import default_generator


def constant_(tensor, val):
    """Fill with `val`."""
    array = tensor.data if isinstance(tensor, Tensor) else tensor
    changes.note(array)
    array[...] = to_device(val, device_of(array)) if hasattr(val, "shape") else val
    return tensor


zeros_, ones_ = functools.partial(constant_, val=0.0), functools.partial(constant_, val=1.0)


def normal_(tensor, mean=0.0, std=1.0, generator=None):
    """Draws from N(mean, std²)."""
    return constant_(tensor, (generator or default_generator).normal(tensor.shape, tensor.dtype) * std + mean)


def uniform_(tensor, a=0.0, b=1.0, generator=None):
    """Draws from U(a, b)."""
    return constant_(tensor, (generator or default_generator).uniform(tensor.shape, tensor.dtype) * (b - a) + a)
