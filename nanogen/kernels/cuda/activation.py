"""The nonlinearities, each a kernel that CuPy fuses."""

from __future__ import annotations

from typing import Any

from nanogen.backend import Array, array_module
from nanogen.kernels.activation import register
from nanogen.kernels.cuda.launch import covers, fuse


@fuse
def relu_gradient(g: Array, y: Array, d: Array) -> None:
    d[...] = array_module(g).where(y <= 0, 0, g)


@fuse
def leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    y[...] = array_module(x).where(x > 0, x, x * negative_slope)


@fuse
def leaky_relu_gradient(g: Array, x: Array, negative_slope: float, d: Array) -> None:
    d[...] = array_module(g).where(x > 0, g, g * negative_slope)


@fuse
def sigmoid_gated(x: Array, a: float, b: float, y: Array) -> None:
    """x · sigmoid(2h) = x/2 · (1 + tanh(h)), h = (a x + b x³) / 2."""
    xp = array_module(x)
    xp.multiply(x * 0.5, xp.tanh(x * (xp.minimum(x * x, 1e30) * b + a) * 0.5) + 1, out=y)


@fuse
def sigmoid_gated_gradient(g: Array, x: Array, a: float, b: float, d: Array) -> None:
    """s + x · s · (1 − s) · (a + 3b x²), s = sigmoid(a x + b x³)."""
    xp = array_module(g)
    s = (xp.tanh(x * (xp.minimum(x * x, 1e30) * b + a) * 0.5) + 1) * 0.5
    xp.multiply(g * s, x * (1 - s) * (x * x * b * 3 + a) + 1, out=d)


FUSED = {f.__name__: f for f in (relu_gradient, leaky_relu, leaky_relu_gradient, sigmoid_gated, sigmoid_gated_gradient)}


def elementwise(name: str, *arrays: Array, settings: tuple[float, ...] = ()) -> Any:
    """The result of the function `name` of arrays of one shape, and of settings, in a new array like the first."""
    if not covers(*arrays) or any(a.shape != arrays[0].shape for a in arrays):
        return NotImplemented
    out = array_module(arrays[0]).empty_like(arrays[0])
    FUSED[name](*arrays, *settings, out)
    return out


register("cuda", elementwise)
