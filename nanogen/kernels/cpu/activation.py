"""Elementwise kernels: the nonlinearities and the addition of large arrays.  See activation.c."""

from __future__ import annotations

from nanogen.autograd import add
from nanogen.functional.activation import leaky_relu, relu, relu_gradient, silu
from nanogen.kernels.cpu.compiled import elementwise

LARGE = 1 << 15  # elements; the addition of larger arrays is faster with threads


@add.kernel("cpu")
def _(a, b):
    alike = a.size > LARGE and a.shape == b.shape and a.dtype == b.dtype
    return elementwise("add", a, b) if alike else NotImplemented


@relu.kernel("cpu")
def _(x):
    return elementwise("relu", x)


@relu_gradient.kernel("cpu")
def _(g, y):
    return elementwise("relu_gradient", g, y)


@leaky_relu.kernel("cpu")
class LeakyRelu:
    def forward(x, *, negative_slope):
        out = elementwise("leaky_relu", x, settings=(negative_slope,))
        return out if out is NotImplemented else (out, None)

    def gradient(g, saved, x, *, negative_slope, wanted):
        return [elementwise("leaky_relu_gradient", g, x, settings=(negative_slope,))]


@silu.kernel("cpu")
class Silu:
    def forward(x):
        out = elementwise("silu", x)
        return out if out is NotImplemented else (out, out)

    def gradient(g, out, x, *, wanted):
        return [elementwise("silu_gradient", g, x, out)]
