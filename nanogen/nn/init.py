"""First weights: each function writes its numbers into a tensor or an array and returns it.  Names are torch's."""

from __future__ import annotations

import math
from typing import Any

from nanogen.autograd import Tensor
from nanogen.backend import device_of, to_device
from nanogen.random import Generator, default_generator

__all__ = [
    "constant_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "uniform_", "xavier_normal_",
    "xavier_uniform_", "zeros_",
]  # fmt: skip


def constant_(tensor: Any, val: float) -> Any:
    """`val` everywhere."""
    array = tensor.data if isinstance(tensor, Tensor) else tensor
    array[...] = to_device(val, device_of(array)) if hasattr(val, "shape") else val
    return tensor


def ones_(tensor: Any) -> Any:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Any) -> Any:
    """0 everywhere."""
    return constant_(tensor, 0.0)


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Any:
    """Draws from N(mean, std²)."""
    drawn = (generator or default_generator).normal(tensor.shape, tensor.dtype)
    return constant_(tensor, drawn * std + mean)


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Any:
    """Draws from U(a, b)."""
    drawn = (generator or default_generator).uniform(tensor.shape, tensor.dtype)
    return constant_(tensor, drawn * (b - a) + a)


def xavier_normal_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """N(0, gain² · 2 / (fan_in + fan_out)).  Glorot & Bengio 2010, eq. 12."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))), generator)


def xavier_uniform_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """U of the same variance as `xavier_normal_`.  Glorot & Bengio 2010, eq. 16."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Any:  # fmt: skip
    """N(0, gain² / fan), gain² = 2 / (1 + a²) for a leaky rectifier of slope a.  He et al. 2015, eq. 15."""
    return normal_(tensor, 0.0, _kaiming(tensor, a, mode, nonlinearity), generator)


def kaiming_uniform_(
    tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Any:  # fmt: skip
    """U of the same variance as `kaiming_normal_`."""
    bound = math.sqrt(3) * _kaiming(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def fans(tensor: Any) -> tuple[int, int]:
    """How many numbers go into one output, and into how many one input goes, of a weight (out, in, *kernel)."""
    if len(tensor.shape) < 2:
        raise ValueError(f"init: a weight must have two axes or more, got shape {tensor.shape}")
    outputs, inputs, *kernel = tensor.shape
    return inputs * math.prod(kernel), outputs * math.prod(kernel)


def _kaiming(tensor: Any, a: float, mode: str, nonlinearity: str) -> float:
    gains = {"linear": 1, "sigmoid": 1, "tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + a**2))}
    if nonlinearity not in gains:
        raise ValueError(f"init: nonlinearity must be one of {', '.join(gains)}, got {nonlinearity!r}")
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return gains[nonlinearity] / math.sqrt(fans(tensor)[mode == "fan_out"])
