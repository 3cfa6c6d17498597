"""Arithmetic and elementary functions, element by element, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanogen.autograd import Primitive, Tensor, add, constant, is_grad_enabled, primitive
from nanogen.backend import array_module

__all__ = [
    "abs", "add", "clamp", "clip", "cos", "div", "divide", "exp", "expm1", "log", "log1p", "maximum", "minimum", "mul",
    "multiply", "neg", "negative", "pow", "power", "sign", "sin", "sqrt", "sub", "subtract", "tanh", "where",
]  # fmt: skip


@primitive
def subtract(input, other):
    """input − other."""
    return input - other


subtract.vjp(lambda g, out, a, b: g, lambda g, out, a, b: -g, reads="")


@primitive
def multiply(input, other):
    """input · other."""
    return input * other


multiply.vjp(lambda g, out, a, b: g * b, lambda g, out, a, b: g * a, reads="input other")


@primitive
def divide(input, other):
    """input / other."""
    return input / other


divide.vjp(lambda g, out, a, b: g / b, lambda g, out, a, b: -g * out / b, reads="out other")


@primitive
def negative(input):
    """−input."""
    return -input


negative.vjp(lambda g, out, x: -g, reads="")


@primitive
def power_constant(input, *, exponent):
    """inputⁿ for a number n."""
    return input**exponent


power_constant.vjp(
    lambda g, out, x, exponent: g * (exponent * x ** (exponent - 1)) if exponent != 0 else g * 0.0, reads="input"
)


@primitive
def power_tensor(input, exponent):
    """inputⁿ, element by element."""
    return input**exponent


power_tensor.vjp(
    lambda g, out, x, n: where(n == 0, 0.0, g * n * x ** (n - 1)),
    lambda g, out, x, n: g * out * log(where(x == 0, 1.0, x)),  # 0ⁿ does not change with n > 0
)


def power(input: Any, exponent: Any) -> Tensor:
    """inputⁿ, for a number n or a tensor of exponents."""
    if isinstance(exponent, int | float) and isinstance(input, Tensor):
        return power_constant(input, exponent=exponent if isinstance(exponent, int) else float(exponent))
    return power_tensor(input, exponent)


def elementary(name: str, meaning: str, rule: Callable[..., Tensor], reads: str) -> Primitive:
    """NumPy's and CuPy's function of this name, with its gradient rule."""

    def forward(input):
        return getattr(array_module(input), name)(input)

    forward.__name__, forward.__qualname__, forward.__doc__ = name, name, meaning
    operation = primitive(forward)
    operation.vjp(rule, reads=reads)
    return operation


exp = elementary("exp", "eˣ.", lambda g, out, x: g * out, reads="out")
expm1 = elementary("expm1", "eˣ − 1, exact for small x.", lambda g, out, x: g * (out + 1.0), reads="out")
log = elementary("log", "The natural logarithm.", lambda g, out, x: g / x, reads="input")
log1p = elementary("log1p", "log(1 + x), exact for small x.", lambda g, out, x: g / (x + 1.0), reads="input")
sqrt = elementary("sqrt", "The square root.", lambda g, out, x: g / (2.0 * out), reads="out")
sin = elementary("sin", "The sine.", lambda g, out, x: g * cos(x), reads="input")
cos = elementary("cos", "The cosine.", lambda g, out, x: -g * sin(x), reads="input")
tanh = elementary("tanh", "The hyperbolic tangent.", lambda g, out, x: g * (1.0 - out * out), reads="out")
sign = elementary("sign", "−1, 0 or 1; its gradient is 0.", lambda g, out, x: g * 0.0, reads="")
abs = elementary("abs", "|x|; the gradient at 0 is 0.", lambda g, out, x: g * sign(x), reads="input")


@primitive
def where(condition, input, other):
    """input where condition holds, other elsewhere."""
    return array_module(condition).where(condition, input, other)


where.vjp(
    None,
    lambda g, out, condition, a, b: where(condition, g, 0.0),
    lambda g, out, condition, a, b: where(condition, 0.0, g),
    reads="condition",
)


def times_log(p: Tensor, log: Tensor) -> Tensor:
    """p · log, where log is the logarithm of a probability; 0 where p is 0, even if log is −∞."""
    return p * where(p == 0, 0.0, log)


@primitive
def maximum(input, other):
    """The larger of the two; a tie shares the gradient."""
    return array_module(input).maximum(input, other)


@primitive
def minimum(input, other):
    """The smaller of the two; a tie shares the gradient."""
    return array_module(input).minimum(input, other)


# The gradient where a is not below b, or not above.  A NaN is neither, so it gets the gradient.
_unless_below = lambda g, out, a, b: where(a < b, 0.0, where(a == b, 0.5 * g, g))
_unless_above = lambda g, out, a, b: where(a > b, 0.0, where(a == b, 0.5 * g, g))
maximum.vjp(_unless_below, _unless_above, reads="input other")
minimum.vjp(_unless_above, _unless_below, reads="input other")


def clip(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """input, but no less than `min` and no more than `max` (numbers or tensors); gradients pass at the bounds.

    The result is NaN where one of them is NaN."""
    if min is None and max is None:
        raise ValueError("clip: give min, max or both")
    out = constant(input)
    if min is not None:
        out = where((out >= min) | (out != out), out, min)
    if max is not None:
        out = where((out <= max) | (out != out), out, max)
    return out


def overwrite(input: Tensor, out: Tensor) -> Tensor:
    """torch's in-place operations: `input`, to which `out` is assigned, in input's type.  Other tensors that share
    input's memory keep the old numbers.

    Raises:
        ValueError: out has another shape, or floats for a tensor of integers; input is a leaf that requires gradients,
            and they are recorded.
    """
    if out.shape != input.shape or out.dtype.kind == "f" != input.dtype.kind:
        raise ValueError(f"in place: {out.dtype} {out.shape} does not fit into a tensor of {input.dtype} {input.shape}")
    out = out.to(input.dtype)
    if is_grad_enabled():
        if input.node is not None and input.node.primitive is None:
            raise ValueError("in place: a leaf that requires gradients is changed within no_grad() alone")
        input.node = out.node
    input.data = out.data
    return input


sub, mul, div, pow, neg, clamp = subtract, multiply, divide, power, negative, clip  # torch has both names
