"""Sums, means and extremes over axes.  `dim` is an axis, several, or None for all of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, broadcast_to, constant, primitive
from nanogen.backend import array_module
from nanogen.functional.elementwise import exp, where

__all__ = ["amax", "amin", "logsumexp", "mean", "sum", "var"]

Dim = int | tuple[int, ...] | None


def axes(dim: Dim, ndim: int) -> tuple[int, ...]:
    """The axes in `dim`, counted from 0.  As in torch, dim may be 0 or −1 for a tensor without axes.

    Raises:
        ValueError: an axis out of range, or one given twice.
        TypeError: a bool.
    """
    if dim is None or dim == () or dim == []:
        return tuple(range(ndim))
    if isinstance(dim, bool):  # torch's old var(x, unbiased) must not pass for an axis
        raise TypeError(f"dim must be axes, got {dim}")
    named = [dim] if isinstance(dim, int) else list(dim)
    for axis in named:
        if not -max(ndim, 1) <= axis < max(ndim, 1):
            raise ValueError(f"dim {axis} is out of range for a tensor of {ndim} axes")
    found = [axis % max(ndim, 1) for axis in named]
    if len(set(found)) < len(found):
        raise ValueError(f"dim names an axis twice: {tuple(named)}")
    return tuple(found) if ndim else ()


def kept_shape(shape: tuple[int, ...], dim: Dim) -> tuple[int, ...]:
    """`shape` with the reduced axes of length 1."""
    reduced = axes(dim, len(shape))
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


def expand(g: Tensor, x: Tensor, dim: Dim) -> Tensor:
    """g, a reduction of x over `dim`, repeated along the reduced axes."""
    return broadcast_to(g.reshape(kept_shape(x.shape, dim)), shape=x.shape)


@primitive
def sum(input, *, dim=None, keepdim=False):
    """The sum over `dim`."""
    return input.sum(axis=axes(dim, input.ndim), keepdims=keepdim)


sum.vjp(lambda g, out, x, dim, keepdim: expand(g, x, dim), reads="")


def count(x: Tensor, dim: Dim) -> int:
    """The number of elements of x that are reduced to one over `dim`."""
    return math.prod(x.shape[axis] for axis in axes(dim, x.ndim))


@primitive
def mean(input, *, dim=None, keepdim=False):
    """The mean over `dim`; NaN if there are no elements.

    Sums are in float64.  For float64 input, the mean difference from the mean is added, to correct its rounding.  So
    the mean of equal numbers is exactly that number."""
    xp, over, n = array_module(input), axes(dim, input.ndim), count(input, dim) or math.nan
    out = input.sum(axis=over, dtype=np.float64, keepdims=True) / n
    if input.dtype == np.float64:
        near = xp.where(xp.isfinite(out), out, 0.0)
        out = near + (input - near).sum(axis=over, keepdims=True) / n
    out = out.astype(input.dtype if input.dtype.kind == "f" else np.float64)
    return out if keepdim else out.reshape([n for i, n in enumerate(input.shape) if i not in over])


mean.vjp(lambda g, out, x, dim, keepdim: expand(g / (count(x, dim) or math.nan), x, dim), reads="")


def var(input: Tensor, dim: Dim = None, *, correction: float | None = 1, keepdim: bool = False) -> Tensor:
    """The variance over `dim`: Σ(x − mean)² / (n − correction)."""
    n = count(input, dim) - (1 if correction is None else correction)
    apart = input - mean(input, dim, keepdim=True)
    apart = apart - mean(apart.detach(), dim, keepdim=True)  # 0 but for the rounding of a mean far from 0
    squares = sum(apart**2, dim=dim, keepdim=keepdim)
    return squares / n if n > 0 else squares * math.inf


def axes_with_some(name: str, input: Any, dim: Dim) -> tuple[int, ...]:
    """The axes in `dim`.

    Raises:
        ValueError: there are no elements along them.
    """
    if not count(input, dim):
        raise ValueError(f"{name}: dim must name axes with elements, got {dim} for shape {input.shape}")
    return axes(dim, input.ndim)


@primitive
def amax(input, *, dim=None, keepdim=False):
    """The largest element over `dim`; ties share the gradient."""
    return input.max(axis=axes_with_some("amax", input, dim), keepdims=keepdim)


def _share_among_ties(g: Tensor, out: Tensor, x: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    tied: Tensor = constant(x == expand(out, x, dim)).to(x.dtype)
    return expand(g, x, dim) * (tied / tied.sum(dim, keepdim=True))


amax.vjp(_share_among_ties)


@primitive
def amin(input, *, dim=None, keepdim=False):
    """The smallest element over `dim`; ties share the gradient."""
    return input.min(axis=axes_with_some("amin", input, dim), keepdims=keepdim)


amin.vjp(_share_among_ties)


@primitive
def logsumexp(input, *, dim, keepdim=False):
    """log Σ eˣ over `dim`, without overflow; −∞ if there are no elements."""
    xp, over = array_module(input), axes(dim, input.ndim)
    if count(input, dim):
        highest = input.max(axis=over, keepdims=True)
        highest = xp.where(xp.isfinite(highest), highest, 0.0).astype(input.dtype)
        out = xp.log(xp.exp(input - highest).sum(axis=over, keepdims=True)) + highest
    else:
        out = xp.zeros(kept_shape(input.shape, dim), input.dtype) - math.inf
    return out if keepdim else out.reshape([n for i, n in enumerate(input.shape) if i not in over])


logsumexp.vjp(lambda g, out, x, dim, keepdim: expand(g, x, dim) * exp(x - expand(_finite(out), x, dim)))


def _finite(out: Tensor) -> Tensor:
    return where(out == -math.inf, 0.0, out)


def normalize(input: Tensor, dim: Any, eps: float, mean: Any = mean) -> Tensor:
    """(x − mean) / √(variance + eps) over `dim`, the variance without correction."""
    centred = input - mean(input, dim, keepdim=True)
    return centred * (mean(centred**2, dim, keepdim=True) + eps) ** -0.5
