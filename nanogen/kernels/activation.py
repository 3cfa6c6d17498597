"""The nonlinearities on raw arrays.  What is computed is said in `functional.activation`.

Each kernel writes into its last argument: a block at a time on a CPU, everything at once, as one kernel, on a GPU.
"""

from __future__ import annotations

from nanogen.backend import Array, array_module, by_c, fuse


@fuse
def relu(x: Array, y: Array) -> None:
    array_module(x).maximum(x, 0, out=y)


@fuse
def relu_slope(g: Array, y: Array, d: Array) -> None:
    """A product with the mask: `where` takes seven times as long.  It lets a NaN's gradient through."""
    xp = array_module(g)
    xp.multiply(g, xp.logical_not(y <= 0), out=d)


def leaky_relu(x: Array, negative_slope: float, y: Array) -> None:
    """max(x, slope · x), or with a slope above 1 min."""
    if not by_c("leaky_relu", x, negative_slope, y):
        (larger_of_scaled if negative_slope <= 1 else smaller_of_scaled)(x, negative_slope, y)


@fuse
def larger_of_scaled(x: Array, factor: float, y: Array) -> None:
    array_module(x).maximum(x, x * factor, out=y)


@fuse
def smaller_of_scaled(x: Array, factor: float, y: Array) -> None:
    array_module(x).minimum(x, x * factor, out=y)


@fuse
def leaky_relu_slope(g: Array, x: Array, negative_slope: float, rest: float, d: Array) -> None:
    """g · (1 or the slope), rest = 1 − slope."""
    array_module(g).greater(x, 0, out=d)
    d *= rest
    d += negative_slope
    d *= g


@fuse
def silu(x: Array, y: Array) -> None:
    array_module(x).multiply(x, 0.5, out=y)
    silu_of_twice(y)


@fuse
def silu_slope(g: Array, x: Array, y: Array, d: Array) -> None:
    """d/dx x·s = s + x·s·(1 − s) = s + y − y·s."""
    s = gate(x)
    array_module(g).subtract(1, s, out=d)
    d *= y
    d += s
    d *= g


def silu_of_twice(h: Array) -> None:
    """silu(2h) = h · (1 + tanh(h)), in place of h."""
    rest = array_module(h).tanh(h)
    rest += 1
    h *= rest


def gate(x: Array) -> Array:
    """sigmoid(x) = (1 + tanh(x / 2)) / 2, one temporary in place of five."""
    s = x * 0.5
    array_module(x).tanh(s, out=s)
    s += 1
    s *= 0.5
    return s
