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

    @leaky_relu.kernel(device)
    class LeakyRelu:
        def forward(x, *, negative_slope):
            out = elementwise("leaky_relu", x, settings=(negative_slope,))
            return out if out is NotImplemented else (out, None)

        def gradient(g, saved, x, *, negative_slope, wanted):
            return [elementwise("leaky_relu_gradient", g, x, settings=(negative_slope,))]

    def gate_by(operation: Any, a: float, b: float, covers: Callable[..., bool]) -> None:
        """Register x · sigmoid(a x + b x³)."""

        @operation.kernel(device)
        class Gated:
            def forward(x, **how):
                out = elementwise("sigmoid_gated", x, settings=(a, b)) if covers(**how) else NotImplemented
                return out if out is NotImplemented else (out, None)

            def gradient(g, saved, x, *, wanted, **how):
                return [elementwise("sigmoid_gated_gradient", g, x, settings=(a, b))]

    gate_by(silu, 1.0, 0.0, lambda: True)
    gate_by(gelu, (8 / math.pi) ** 0.5, 0.044715 * (8 / math.pi) ** 0.5, lambda approximate: approximate == "tanh")
