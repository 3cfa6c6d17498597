"""The nonlinearities."""

from __future__ import annotations

from typing import Any

from nanogen.autograd import Tensor, composite, primitive
from nanogen.backend import array_module
from nanogen.functional.elementwise import exp, overwrite, where
from nanogen.functional.reduction import axes, sum
from nanogen.random import Generator, default_generator

# relu, leaky_relu and silu as torch calls them are in `composed`.
__all__ = ["dropout", "log_softmax", "logsigmoid", "sigmoid", "softmax", "softplus"]


@primitive
def relu(input):
    """max(x, 0); the gradient at 0 is 0."""
    return array_module(input).maximum(input, 0)


@primitive
def relu_gradient(g, y):
    """g where relu's output y is above 0 or NaN, and 0 elsewhere."""
    return array_module(g).where(y <= 0, 0, g)


relu.vjp(lambda g, out, x: relu_gradient(g, out), reads="out")
relu_gradient.vjp(lambda h, out, g, y: relu_gradient(h, y), None, reads="y")


@composite
def leaky_relu(input, *, negative_slope=0.01):
    """x where it is positive, negative_slope · x elsewhere."""
    return where(input > 0, input, input * negative_slope)


@primitive
def sigmoid(input):
    """1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ), which is 1 to rounding long before x = 80; so nothing overflows."""
    xp = array_module(input)
    odds = xp.exp(xp.minimum(input, 80))
    return odds / (1 + odds)


sigmoid.vjp(lambda g, out, x: g * (out * (1.0 - out)), reads="out")


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e^βx) / β, and x itself where βx is above the threshold."""
    scaled = input * beta
    return where(scaled > threshold, input, logsigmoid(-scaled) / -beta)


@primitive
def logsigmoid(input):
    """log(1 / (1 + e⁻ˣ)) = min(x, 0) − log(1 + e^−|x|), finite for every x."""
    xp = array_module(input)
    return xp.minimum(input, 0) - xp.log1p(xp.exp(-xp.abs(input)))


logsigmoid.vjp(lambda g, out, x: g * sigmoid(-x), reads="input")


@composite
def silu(input):
    """x · sigmoid(x).  Hendrycks & Gimpel 2016; Elfwing et al. 2018."""
    return input * sigmoid(input)


@primitive
def softmax(input, *, dim):
    """eˣ / Σ eˣ over `dim`."""
    odds = array_module(input).exp(shifted(input, dim))
    return odds / odds.sum(axis=axes(dim, input.ndim), keepdims=True)


softmax.vjp(lambda g, out, x, dim: out * (g - sum(g * out, dim, keepdim=True)), reads="out")


@primitive
def log_softmax(input, *, dim):
    """x − log Σ eˣ over `dim`."""
    xp, logits = array_module(input), shifted(input, dim)
    return logits - xp.log(xp.exp(logits).sum(axis=axes(dim, input.ndim), keepdims=True))


log_softmax.vjp(lambda g, out, x, dim: g - exp(out) * sum(g, dim, keepdim=True), reads="out")


def shifted(input: Any, dim: Any) -> Any:
    """input minus its largest number over `dim`, so that no exponential overflows.

    Raises:
        TypeError: dim is None, for which torch would choose an axis by an old rule.
    """
    if dim is None:
        raise TypeError("softmax and log_softmax: dim must be given")
    return input - input.max(axis=axes(dim, input.ndim), keepdims=True) if input.size else input


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, rng: Generator | None = None
) -> Tensor:
    """Each element 0 with probability p, divided by 1 − p otherwise.  Srivastava et al. 2014.

    Draws from rng, or from the default generator.

    Raises:
        ValueError: p outside [0, 1].
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
    if not training or p == 0:
        return input
    rng = rng or default_generator
    kept: Any = rng.uniform(input.shape) >= p
    out = where(kept, input * (1 / (1 - p) if p < 1 else 0.0), 0.0)
    return overwrite(input, out) if inplace else out
