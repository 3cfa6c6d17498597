"""Further functions of torch, composed of the operations in the other files."""

from __future__ import annotations

import collections
import math
from typing import Any

from nanogen.autograd import Tensor
from nanogen.backend import array_module
from nanogen.functional import activation
from nanogen.functional.elementwise import abs, maximum, minimum, multiply, overwrite, power, where
from nanogen.functional.reduction import Dim, amax, amin, axes, kept_shape, sum, var
from nanogen.functional.shape import one_by_one, permute

__all__ = ["argmax", "leaky_relu", "max", "min", "norm", "prod", "relu", "repeat", "silu", "square", "std"]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); the gradient at 0 is 0."""
    out = activation.relu(input)
    return overwrite(input, out) if inplace else out


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where it is positive, negative_slope · x elsewhere."""
    out = activation.leaky_relu(input, negative_slope=negative_slope)
    return overwrite(input, out) if inplace else out


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · sigmoid(x).  Hendrycks & Gimpel 2016; Elfwing et al. 2018."""
    out = activation.silu(input)
    return overwrite(input, out) if inplace else out


for _function in (relu, leaky_relu, silu):  # kernels belong to the operations
    _function.kernel = getattr(activation, _function.__name__).kernel  # type: ignore[union-attr]


def square(input: Tensor) -> Tensor:
    """input²."""
    return multiply(input, input)


@one_by_one
def repeat(input: Tensor, repeats: Any) -> Tensor:
    """The whole tensor repeated along each axis, as often as `repeats` says; new axes come first."""
    shape = (1,) * (len(repeats) - input.ndim) + input.shape
    apart = input.reshape([n for length in shape for n in (1, length)])
    wide = apart.expand([n for times, length in zip(repeats, shape, strict=True) for n in (times, length)])
    return wide.reshape([times * length for times, length in zip(repeats, shape, strict=True)])


Extremes = collections.namedtuple("Extremes", "values indices")


def max(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The largest element; ties share the gradient.  Along an axis `dim`: (values, indices), of the first of equal
    elements.  Of two tensors: their `maximum`."""
    if dim is None or hasattr(dim, "ndim"):
        return amax(input) if dim is None else maximum(input, dim)
    found, kept = argmax(input, dim, keepdim), kept_shape(input.shape, dim)
    along = [n if m == 1 else 1 for n, m in zip(input.shape, kept, strict=True)]
    chosen = array_module(input.data).arange(math.prod(along)).reshape(along) == found.data.reshape(kept)
    return Extremes(sum(where(chosen, input, 0), dim, keepdim), found)


def min(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
    """The smallest element; see `max`."""
    if dim is None or hasattr(dim, "ndim"):
        return amin(input) if dim is None else minimum(input, dim)
    values, indices = max(-input, dim, keepdim)
    return Extremes(-values, indices)


def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first largest element along `dim`, or of the flattened tensor."""
    xp, axis = array_module(input.data), next(iter(axes(dim, input.ndim)), None) if dim is not None else None
    found = Tensor(xp.asarray(input.data.argmax(axis)))
    return found.reshape(kept_shape(input.shape, dim)) if keepdim else found


def prod(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The product over `dim`, as a product of halves, so that gradients are right where elements are 0."""
    over = axes(dim, input.ndim)
    x = permute(input, [*over, *(i for i in range(input.ndim) if i not in over)])
    x = x.flatten(0, len(over) - 1) if over else x.reshape(1)
    out, n = Tensor(array_module(x.data).ones(x.shape[1:], x.dtype)), x.shape[0]
    while n:
        out, n = out * x[n - 1] if n % 2 else out, n // 2
        x = x[:n] * x[n : 2 * n]
    return out.reshape(kept_shape(input.shape, dim)) if keepdim else out


def root(x: Tensor, exponent: float = 0.5) -> Tensor:
    """x ** exponent; its gradient at 0 is 0, not infinite, as in torch's norms and standard deviations."""
    return where(x == 0, 0.0, power(where(x == 0, 1.0, x), exponent))


def std(input: Tensor, dim: Dim = None, *, correction: float | None = 1, keepdim: bool = False) -> Tensor:
    """The standard deviation over `dim`: √(Σ(x − mean)² / (n − correction))."""
    return root(var(input, dim, correction=correction, keepdim=keepdim))


def norm(input: Tensor, p: float | str | None = "fro", dim: Dim = None, keepdim: bool = False) -> Tensor:
    """(Σ|x|ᵖ)^(1/p) over `dim`: p = 2 (`fro`), any other positive number, or infinity for the largest |x|.

    Raises:
        ValueError: another p.
    """
    p = 2 if p in ("fro", None) else p
    if isinstance(p, str) or not p > 0:
        raise ValueError(f"norm: p must be 'fro' or a positive number, got {p!r}")
    if p == math.inf:
        return amax(abs(input), dim, keepdim)
    return root(sum(square(input) if p == 2 else root(abs(input), p), dim, keepdim), 1 / p)
