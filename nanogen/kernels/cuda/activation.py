"""The nonlinearities, each a kernel that CuPy fuses."""

from __future__ import annotations

from typing import Any

from nanogen.backend import Array, array_module
from nanogen.functional.activation import leaky_relu, relu_gradient, silu
from nanogen.kernels.cuda.launch import covers, fuse


def elementwise(kernel: Any, *arrays: Array, settings: tuple[float, ...] = ()) -> Any:
    """The result of a fused kernel of arrays of one shape, and of settings, in a new array like the first."""
    if not covers(*arrays) or any(a.shape != arrays[0].shape for a in arrays):
        return NotImplemented
    out = array_module(arrays[0]).empty_like(arrays[0])
    kernel(*arrays, *settings, out)
    return out


@fuse
def relu_gradient_into(g: Array, y: Array, d: Array) -> None:
    d[...] = array_module(g).where(y <= 0, 0, g)


@relu_gradient.kernel("cuda")
def _(g, y):
    return elementwise(relu_gradient_into, g, y)


@fuse
def leaky_relu_into(x: Array, negative_slope: float, y: Array) -> None:
    y[...] = array_module(x).where(x > 0, x, x * negative_slope)


@fuse
def leaky_relu_gradient_into(g: Array, x: Array, negative_slope: float, d: Array) -> None:
    d[...] = array_module(g).where(x > 0, g, g * negative_slope)


@leaky_relu.kernel("cuda")
class LeakyRelu:
    def forward(x, *, negative_slope):
        out = elementwise(leaky_relu_into, x, settings=(negative_slope,))
        return out if out is NotImplemented else (out, None)

    def gradient(g, saved, x, *, negative_slope, wanted):
        return [elementwise(leaky_relu_gradient_into, g, x, settings=(negative_slope,))]


@fuse
def silu_into(x: Array, y: Array) -> None:
    """x · sigmoid(x) = h · (1 + tanh(h)), h = x / 2."""
    xp = array_module(x)
    xp.multiply(x * 0.5, xp.tanh(x * 0.5) + 1, out=y)


@fuse
def silu_gradient_into(g: Array, x: Array, y: Array, d: Array) -> None:
    """d/dx x·s = s + x·s·(1 − s) = s + y − y·s, s = sigmoid(x) = (1 + tanh(x / 2)) / 2."""
    xp = array_module(g)
    s = (xp.tanh(x * 0.5) + 1) * 0.5
    xp.multiply(g, s + y - y * s, out=d)


@silu.kernel("cuda")
class Silu:
    def forward(x):
        out = elementwise(silu_into, x)
        return out if out is NotImplemented else (out, out)

    def gradient(g, out, x, *, wanted):
        return [elementwise(silu_gradient_into, g, x, out)]
