"""First weights: each function writes its numbers into a tensor or an array and returns it.  Names are torch's."""

import functools
import math

from nanogen.autograd import Tensor, changes
from nanogen.backend import device_of, to_device
from nanogen.random import default_generator


def constant_(tensor, val):
    """`val` everywhere."""
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


def xavier_normal_(tensor, gain=1.0, generator=None):
    """N(0, gain² · 2 / (fan_in + fan_out)).  Glorot & Bengio 2010, eq. 12."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def xavier_uniform_(tensor, gain=1.0, generator=None):
    """U of the same variance as `xavier_normal_`.  Glorot & Bengio 2010, eq. 16."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
    """N(0, gain² / fan), gain² = 2 / (1 + a²) for a leaky rectifier of slope a.  He et al. 2015, eq. 15."""
    return normal_(tensor, 0.0, GAINS[nonlinearity](a) / math.sqrt(fans(tensor)[FANS.index(mode)]), generator)


def kaiming_uniform_(tensor, a=0, mode="fan_in", nonlinearity="leaky_relu", generator=None):
    """U of the same variance as `kaiming_normal_`."""
    bound = GAINS[nonlinearity](a) * math.sqrt(3 / fans(tensor)[FANS.index(mode)])
    return uniform_(tensor, -bound, bound, generator)


FANS = ("fan_in", "fan_out")
GAINS = {
    "linear": lambda a: 1.0, "sigmoid": lambda a: 1.0, "tanh": lambda a: 5 / 3, "relu": lambda a: math.sqrt(2),
    "leaky_relu": lambda a: math.sqrt(2 / (1 + a**2)),
}  # fmt: skip


def fans(tensor):
    """How many numbers go into one output, and into how many one input goes, of a weight (out, in, *kernel)."""
    if len(tensor.shape) < 2:
        raise ValueError(f"init: a weight must have two axes or more, got shape {tensor.shape}")
    outputs, inputs, *kernel = tensor.shape
    return inputs * math.prod(kernel), outputs * math.prod(kernel)
