"""Matrix products and attention."""

from __future__ import annotations

import math
from typing import Any

from nanogen.autograd import Tensor, composite, constant, primitive
from nanogen.backend import array_module
from nanogen.functional.activation import dropout, softmax
from nanogen.functional.elementwise import where

__all__ = ["linear", "matmul", "scaled_dot_product_attention"]


@primitive
def matrix_product(a, b):
    """a @ b for two tensors of at least two axes; the axes before the last two are broadcast."""
    return array_module(a).matmul(a, b)


matrix_product.vjp(
    lambda g, out, a, b: g @ b.transpose(-1, -2), lambda g, out, a, b: a.transpose(-1, -2) @ g, reads="a b"
)


def matmul(input: Any, other: Any) -> Tensor:
    """The matrix product.  A tensor of one axis is a row on the left, and a column on the right."""
    a, b = constant(input), constant(other)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(f"matmul: needs at least one axis each, got shapes {a.shape} and {b.shape}")
    out = matrix_product(a if a.ndim > 1 else a.reshape(1, *a.shape), b if b.ndim > 1 else b.reshape(*b.shape, 1))
    if b.ndim == 1:
        out = out.reshape(out.shape[:-1])
    return out if a.ndim > 1 else out.reshape((*out.shape[:-2], *out.shape[-1:][: b.ndim - 1]))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input · weightᵀ + bias over the last axis: (…, in), (out, in), (out,) to (…, out).

    Raises:
        ValueError: the last axes of input and weight differ.
    """
    if input.shape[-1:] != weight.shape[-1:]:
        raise ValueError(f"linear: input of shape {input.shape} does not fit a weight of shape {weight.shape}")
    return affine(input, weight, 0.0 if bias is None else bias)


@composite
def affine(input, weight, bias):
    """input · weightᵀ + bias."""
    rows = input.reshape(math.prod(input.shape[:-1]), input.shape[-1])  # one large product, not many small ones
    out = matmul(rows, weight.permute(*reversed(range(weight.ndim))))
    return out.reshape(input.shape[:-1] + weight.shape[:-1]) + bias


@composite
def attention(query, key, value, *, mask, scale, dropout_p, rng):
    """softmax(scale · Q Kᵀ + mask) V.  A kernel declines dropout, which draws, and a mask that has a gradient."""
    scores = query @ key.transpose(-1, -2) * scale
    if mask is not None:
        scores = where(mask, scores, -math.inf) if mask.dtype.kind == "b" else scores + mask.to(scores.dtype)
    return dropout(softmax(scores, dim=-1), dropout_p, rng=rng) @ value


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    *, scale: float | None = None, rng: Any = None,
) -> Tensor:  # fmt: skip
    """softmax(Q Kᵀ / √d + mask) V over the last two axes: (…, L, d), (…, S, d), (…, S, v) to (…, L, v).

    A boolean mask is True at the keys that a query may attend to; a float mask is added.  Vaswani et al. 2017, eq. 1.
    """
    if is_causal:
        if attn_mask is not None:
            raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
        attn_mask = array_module(query.data).tri(query.shape[-2], key.shape[-2], dtype=bool)  # itself, and those before
    how = {"scale": 1 / math.sqrt(query.shape[-1]) if scale is None else scale, "dropout_p": dropout_p, "rng": rng}
    return attention(query, key, value, mask=None if attn_mask is None else constant(attn_mask, [query]), **how)
