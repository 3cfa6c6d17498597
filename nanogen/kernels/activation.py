"""The nonlinearities, elementwise.  See cpu/activation.c and cuda/activation.py."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from nanogen.functional.activation import leaky_relu, relu_gradient, silu
from nanogen.functional.special import gelu


@functools.lru_cache(4096)
def memory_order(strides: tuple[int, ...]) -> list[int]:
    """The axes in their order in memory: along the last one, elements are neighbours."""
    return sorted(range(len(strides)), key=lambda axis: -strides[axis])


def register(device: str, elementwise: Callable[..., Any]) -> None:
    """Register the device's kernels.  `elementwise(name, *arrays, settings=())` makes a new array, or declines."""

    relu_gradient.kernel(device)(lambda g, y: elementwise("relu_gradient", g, y))

    def with_gradient(operation: Any, name: str, settings_of: Callable[..., Any]) -> None:
        """Register `name` and `name`_gradient.  `settings_of` the operation's parameters: None if it declines them."""

        @operation.kernel(device)
        class Elementwise:
            def forward(x, **how):
                given = settings_of(**how)
                out = NotImplemented if given is None else elementwise(name, x, settings=given)
                return out if out is NotImplemented else (out, None)

            def gradient(g, saved, x, *, wanted, **how):
                return [elementwise(f"{name}_gradient", g, x, settings=settings_of(**how))]

    cubic = (8 / math.pi) ** 0.5, 0.044715 * (8 / math.pi) ** 0.5
    with_gradient(leaky_relu, "leaky_relu", lambda negative_slope: (negative_slope,))
    with_gradient(silu, "sigmoid_gated", lambda: (1.0, 0.0))  # x · sigmoid(a x + b x³)
    with_gradient(gelu, "sigmoid_gated", lambda approximate: cubic if approximate == "tanh" else None)
