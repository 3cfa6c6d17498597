"""Softmax and its relatives, attention, embeddings of times."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.densities import log_sum_exp
from nanogen.testing.divergences import log_softmax
from nanogen.testing.draws import Draw
from nanogen.testing.property import checker

# Softmax


def _tables(draw: Draw, *, large: bool, **_: Any) -> dict[str, Any]:
    """(N, K) or (N, K, L), some entries so large that their exponentials overflow."""
    shape = draw.sizes((1, 3), (2, 4), (2, 4))[: draw.integer(2, 3)]
    x = draw.reals(*shape)
    far = draw.pick(0.0, 0.0, 800.0, -800.0) * (draw.integers(0, 1, *shape) if draw.integer(0, 1) else 1)
    return {"x": x + far if large else x}


def _large(x: Any, **_: Any) -> bool:
    return bool(np.abs(x).max() > 700)


def _along(formula: Callable[[Any, int], Any], **other: Any) -> Callable[..., Any]:
    """A function of the array and its axis; `other` chooses another axis, or none."""

    def function(x: Any, *, axis: int, log: bool = False, large: bool = True) -> Any:
        if "axis" in other:
            axis = other["axis"](x.ndim, axis % x.ndim)
        y = formula(x, axis)
        return np.log(y) if log else y

    return function


_softmax = lambda x, axis: np.exp(log_softmax(x, axis))


@checker(
    equation="softmax(x)_k = exp(x_k) / Σ_j exp(x_j)",
    source="Bridle 1990",
    inputs=_tables,
    truth=lambda x, *, axis, log, large: log_softmax(x, axis) if log else _softmax(x, axis),
    mistakes={
        "over the first axis": lambda x, *, axis, log, large: (
            None if axis == 0 else _along(_softmax)(x, axis=0, log=log)
        ),
        "over the last axis": lambda x, *, axis, log, large: (
            None if axis % x.ndim == x.ndim - 1 else _along(_softmax)(x, axis=-1, log=log)
        ),
        "over the second axis": lambda x, *, axis, log, large: (
            None if axis == 1 else _along(_softmax)(x, axis=1, log=log)
        ),
        "over all entries": lambda x, *, axis, log, large: (
            log_softmax(x, tuple(range(x.ndim))) if log else _softmax(x, tuple(range(x.ndim)))
        ),
        "not normalised: exp(x) alone": lambda x, *, axis, log, large: x if log else np.exp(x),
        "not normalised, the largest taken away": lambda x, *, axis, log, large: (
            x - x.max(axis, keepdims=True) if log else np.exp(x - x.max(axis, keepdims=True))
        ),
        "normalised without the exponential": lambda x, *, axis, log, large: (
            None if log else x / x.sum(axis, keepdims=True)
        ),
        "overflows: the largest is not taken away first": lambda x, *, axis, log, large: (
            x - np.log(np.exp(x).sum(axis, keepdims=True)) if log else np.exp(x) / np.exp(x).sum(axis, keepdims=True)
        ),
        "the largest of all entries taken away, not that of each slice: underflows": lambda x, *, axis, log, large: (
            lambda e: np.log(e / e.sum(axis, keepdims=True)) if log else e / e.sum(axis, keepdims=True)
        )(np.exp(x - x.max())),
        "the logarithm of softmax, −∞ where that underflows": lambda x, *, axis, log, large: (
            np.log(_softmax(x, axis)) if log else None
        ),
        "over the axis that torch takes if none is named: the first of three": lambda x, *, axis, log, large: _along(
            _softmax
        )(x, axis=0 if x.ndim == 3 else 1, log=log),
        "softmax of −x": lambda x, *, axis, log, large: log_softmax(-x, axis) if log else _softmax(-x, axis),
        "softmax twice": lambda x, *, axis, log, large: (
            log_softmax(_softmax(x, axis), axis) if log else _softmax(_softmax(x, axis), axis)
        ),
        "sigmoid of each entry": lambda x, *, axis, log, large: (
            -np.logaddexp(0, -x) if log else 0.5 * (1 + np.tanh(0.5 * x))
        ),
    },
    where={"where exponentials overflow or underflow (|x| is about 800)": _large},
    conventions={"log": (False, True)},
)
def check_softmax(softmax: Any, *, axis: int = -1, log: bool = False, large: bool = True, **options: Any) -> None:
    """Softmax over an axis, or its logarithm.

    The function is called as softmax(x), x (N, K) or (N, K, L).  It returns the same shape.

    Args:
        axis: over which it is.
        large: some x are about ±800, whose exponentials overflow or underflow.
        log: whether the function is log-softmax.

    Equation: softmax(x)_k = exp(x_k) / Σ_j exp(x_j).  Bridle 1990.

    >>> import numpy as np
    >>> def softmax(x):
    ...     e = np.exp(x - x.max(-1, keepdims=True))
    ...     return e / e.sum(-1, keepdims=True)
    >>> check_softmax(softmax)
    """


@checker(
    name="log-sum-exp",
    equation="log Σ_k exp(x_k)",
    source="the definition; stable as max + log Σ exp(x − max)",
    inputs=_tables,
    truth=_along(log_sum_exp),
    mistakes={
        "over the first axis": _along(log_sum_exp, axis=lambda n, axis: 0 if axis else n - 1),
        "over all entries": lambda x, *, axis, large: log_sum_exp(x.ravel(), 0),
        "the mean instead of the sum of the exponentials": _along(
            lambda x, axis: log_sum_exp(x, axis) - math.log(x.shape[axis])
        ),
        "overflows: the largest is not taken away first": _along(lambda x, axis: np.log(np.exp(x).sum(axis))),
        "underflows: the largest of all is taken away, not that of each sum": _along(
            lambda x, axis: np.log(np.exp(x - x.max()).sum(axis)) + x.max()
        ),
        "the largest not added again": _along(lambda x, axis: log_sum_exp(x, axis) - x.max(axis)),
        "the largest added twice": _along(lambda x, axis: log_sum_exp(x, axis) + x.max(axis)),
        "the sum of the logarithms: Σ x": _along(lambda x, axis: x.sum(axis)),
        "the largest entry only": _along(lambda x, axis: x.max(axis)),
        "the sign turned round": _along(lambda x, axis: -log_sum_exp(x, axis)),
        "to base 2": _along(lambda x, axis: log_sum_exp(x, axis) / math.log(2)),
        "log1p in place of log": _along(
            lambda x, axis: np.log1p(np.exp(x - x.max(axis, keepdims=True)).sum(axis)) + x.max(axis)
        ),
    },
    where={"where exponentials overflow or underflow (|x| is about 800)": _large},
)
def check_logsumexp(logsumexp: Any, *, axis: int = -1, large: bool = True, **options: Any) -> None:
    """The logarithm of a sum of exponentials over an axis.

    The function is called as logsumexp(x), x (N, K) or (N, K, L).  It returns the shape without that axis.

    Args:
        axis: over which it is.
        large: some x are about ±800, whose exponentials overflow or underflow.

    Equation: log Σ_k exp(x_k) = max + log Σ_k exp(x_k − max).

    >>> import numpy as np
    >>> check_logsumexp(lambda x: np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1))
    """


# Attention

_sigmoid = lambda x: 0.5 * (1 + np.tanh(0.5 * x))


def _attend(q: Any, k: Any, v: Any, keep: Any = None, **wrong: Any) -> Any:
    """softmax(q kᵀ / √d) v over the keys; `keep` says which keys a query may look at."""
    d = q.shape[-1]
    divisor = wrong.get("divisor", lambda q, k, v: math.sqrt(d))(q, k, v)
    scores = q @ k.swapaxes(-1, -2) / divisor
    added = keep if keep is not None and keep.dtype.kind == "f" else 0.0
    allowed = keep if keep is not None and keep.dtype.kind != "f" else np.ones_like(scores, bool)
    allowed = np.broadcast_to(allowed, scores.shape)
    if wrong.get("mask") == "zeros":
        weights = _softmax(np.where(allowed, scores + added, 0.0), -1)
    elif wrong.get("mask") == "after":
        weights = _softmax(scores, -1) * (allowed if np.ndim(added) == 0 else np.exp(added))
    elif wrong.get("mask") == "times":
        weights = _softmax(scores * added, -1)
    elif wrong.get("mask") == "added":
        weights = _softmax(scores + (allowed if np.ndim(added) == 0 else added), -1)
    elif wrong.get("mask") == "scaled":
        weights = _softmax(scores + (added / divisor if np.ndim(added) else np.where(allowed, 0, -np.inf)), -1)
    else:
        weights = _softmax(np.where(allowed, scores + added, wrong.get("out", -np.inf)), wrong.get("axis", -1))
    if wrong.get("weights"):
        weights = wrong["weights"](scores)
    return weights @ v


def _attention(masks: bool = False, **wrong: Any) -> Callable[..., Any]:
    """masks: the mistake is in the mask, and there must be one."""

    def function(q: Any, k: Any, v: Any, *given: Any, mask: str) -> Any:
        additive = wrong.get("turned") or wrong.get("mask") == "times"
        if masks and (mask == "none" or (additive and mask != "additive")):
            return None
        return _attend(q, k, v, _keep(q, k, given, mask, wrong), **wrong)

    return function


def _keep(q: Any, k: Any, given: Any, mask: str, wrong: dict[str, Any]) -> Any:
    turned = bool(wrong.get("turned"))
    if mask == "causal":
        rows, columns = np.arange(q.shape[-2])[:, None], np.arange(k.shape[-2])[None]
        keep = columns <= rows + wrong.get("ahead", 0)
        if wrong.get("future"):
            keep = columns >= rows
        return None if wrong.get("no mask") else keep
    if mask == "none" or wrong.get("no mask"):
        return None
    if mask == "additive":
        return -given[0] if turned else given[0]
    return (given[0] != 0) != ((mask == "drop") != turned)


def _queries(draw: Draw, *, mask: str) -> dict[str, Any]:
    b, n, s, d, e = draw.sizes((1, 2), (2, 4), (2, 5), (2, 6), (1, 4))
    n, s = (n, n) if mask == "causal" else (n, s)
    lead = draw.pick((b,), (b, draw.integer(2, 3)))
    found = {"q": draw.reals(*lead, n, d), "k": draw.reals(*lead, s, d), "v": draw.reals(*lead, s, e)}
    if mask in ("keep", "drop"):
        keep = draw.integers(0, 1, n, s) == 0
        keep[np.arange(n), np.arange(n) % s] = True  # each query has a key
        keep[np.arange(n), (np.arange(n) + 1) % s] = False  # and each lacks one
        found["mask"] = keep if mask == "keep" else ~keep
    if mask == "additive":
        found["mask"] = draw.reals(n, s)
    return found


_ATTENTION_MISTAKES: dict[str, dict[str, Any]] = {
    "not divided by √d": {"divisor": lambda q, k, v: 1.0},
    "divided by d instead of √d": {"divisor": lambda q, k, v: q.shape[-1]},
    "divided by the root of √d": {"divisor": lambda q, k, v: q.shape[-1] ** 0.25},
    "multiplied by √d instead of divided": {"divisor": lambda q, k, v: q.shape[-1] ** -0.5},
    "divided by the root of the number of keys": {"divisor": lambda q, k, v: math.sqrt(k.shape[-2])},
    "divided by the root of the number of queries": {"divisor": lambda q, k, v: math.sqrt(q.shape[-2])},
    "divided by the root of the size of the values": {"divisor": lambda q, k, v: math.sqrt(v.shape[-1])},
    "divided by the root of the size of all heads together": {
        "divisor": lambda q, k, v: math.sqrt(q.shape[-1] * (q.shape[1] if q.ndim == 4 else 1))
    },
    "divided by the root of the second axis's length": {"divisor": lambda q, k, v: math.sqrt(q.shape[1])},
    "softmax over the queries instead of the keys": {"axis": -2},
    "softmax over the second axis": {"axis": 1},
    "the softmax missing": {"weights": lambda s: s},
    "divided by their sum, without the exponential": {"weights": lambda s: s / s.sum(-1, keepdims=True)},
    "sigmoid in place of softmax": {"weights": _sigmoid},
}
_MASK_MISTAKES: dict[str, dict[str, Any]] = {
    "the mask applied after the softmax, without normalising again": {"mask": "after"},
    "masked scores set to 0 instead of −∞": {"mask": "zeros"},
    "the mask added to the scores as 0 and 1": {"mask": "added"},
    "the additive mask divided by √d, too": {"mask": "scaled"},
    "the additive mask multiplied with the scores": {"mask": "times"},
    "the additive mask subtracted": {"turned": True},
    "the causal mask sees one key ahead": {"ahead": 1},
    "the causal mask leaves the query's own place out": {"ahead": -1},
    "the causal mask leaves the query's own place out, the first query sees all keys": {"ahead": -1, "out": -1e9},
    "the causal mask lets the future through, not the past": {"future": True},
}


@checker(
    equation="softmax(q kᵀ / √d) v, the softmax over the keys",
    source="Vaswani et al. 2017, eq. 1",
    inputs=_queries,
    truth=_attention(),
    mistakes={text: _attention(**wrong) for text, wrong in _ATTENTION_MISTAKES.items()}
    | {text: _attention(True, **wrong) for text, wrong in _MASK_MISTAKES.items()},
    where={"where there are heads: four axes": lambda q, *a, **_: q.ndim == 4},
    conventions={"mask": ("none", "keep", "drop", "additive", "causal")},
)
def check_attention(attention: Any, *, mask: str = "none", **options: Any) -> None:
    """Scaled dot-product attention.

    The function is called as attention(q, k, v), or attention(q, k, v, mask): q (…, L, d), k (…, S, d),
    v (…, S, e), where … is one or two axes.  It returns (…, L, e).  L, S, d and e differ.

    Args:
        mask: "none"; "causal": the function itself lets a query see the keys up to its own place (L = S); a fourth
            argument (L, S) which is "keep": True where the query may look; "drop": True where it may not; or
            "additive": numbers that are added to q kᵀ / √d.

    Equation: softmax(q kᵀ / √d) v, the softmax over the keys.  Vaswani et al. 2017, eq. 1.

    >>> import numpy as np
    >>> def attention(q, k, v):
    ...     weights = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    ...     return weights / weights.sum(-1, keepdims=True) @ v
    >>> check_attention(attention)
    """


def _attention_gradient(**wrong: Any) -> Callable[..., Any]:
    def function(q: Any, k: Any, v: Any, g: Any, *, mask: str) -> dict[str, Any]:
        scale = 1 / math.sqrt(q.shape[-1])
        keep = _keep(q, k, (), mask, {})
        scores = q @ k.swapaxes(-1, -2) * scale
        weights = _softmax(scores if keep is None else np.where(keep, scores, -np.inf), -1)
        of_weights = g @ v.swapaxes(-1, -2)
        mean = (weights * of_weights).sum(-1, keepdims=True)
        if wrong.get("no mean"):
            mean = 0.0
        if wrong.get("plain mean"):
            mean = of_weights.mean(-1, keepdims=True)
        of_scores = of_weights - mean if wrong.get("no weights") else weights * (of_weights - mean)
        outer = {"no scale": 1.0, "twice": scale**2}.get(wrong.get("scale", ""), scale)
        of_q, of_k = of_scores @ k * outer, of_scores.swapaxes(-1, -2) @ q * outer
        if wrong.get("scale") == "q only":
            of_k = of_k / scale
        if wrong.get("scale") == "k only":
            of_q = of_q / scale
        of_v = weights.swapaxes(-1, -2) @ g
        if wrong.get("values"):
            of_v = np.swapaxes(_softmax(scores, -2), -1, -2) @ g
        return {"q": of_q, "k": of_k, "v": of_v}

    return function


@checker(
    name="gradient of attention",
    equation="with P = softmax(q kᵀ/√d), dP = g vᵀ, dS = P (dP − Σ P dP): dq = dS k/√d, dk = dSᵀ q/√d, dv = Pᵀ g",
    source="Vaswani et al. 2017, eq. 1, by the chain rule",
    inputs=lambda draw, *, mask: (
        lambda found: found | {"g": draw.reals(*found["q"].shape[:-1], found["v"].shape[-1])}
    )(_queries(draw, mask=mask)),
    truth=_attention_gradient(),
    mistakes={
        "softmax's slope without Σ P dP": _attention_gradient(**{"no mean": True}),
        "the plain mean of dP instead of Σ P dP": _attention_gradient(**{"plain mean": True}),
        "softmax's slope without the factor P": _attention_gradient(**{"no weights": True}),
        "√d missing in the gradients of q and k": _attention_gradient(scale="no scale"),
        "divided by √d twice in the gradients of q and k": _attention_gradient(scale="twice"),
        "√d missing in the gradient of k": _attention_gradient(scale="q only"),
        "√d missing in the gradient of q": _attention_gradient(scale="k only"),
        "the values' gradient by weights normalised over the queries": _attention_gradient(values=True),
    },
    conventions={"mask": ("none", "causal")},
    tags=("gradient",),
)
def check_attention_gradient(gradient: Any, *, mask: str = "none", **options: Any) -> None:
    """The gradient of scaled dot-product attention.

    The function is called as gradient(q, k, v, g): q (…, L, d), k (…, S, d), v (…, S, e), and g (…, L, e), the
    gradient of a loss with respect to the output.  It returns the loss's gradients (dq, dk, dv).

    Args:
        mask: "none" or "causal": a query sees the keys up to its own place (L = S).

    Equation: with P = softmax(q kᵀ/√d), dP = g vᵀ and dS = P (dP − Σ P dP): dq = dS k/√d, dk = dSᵀ q/√d, dv = Pᵀ g.

    >>> import numpy as np
    >>> def gradient(q, k, v, g):
    ...     P = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]))
    ...     P = P / P.sum(-1, keepdims=True)
    ...     dP = g @ v.swapaxes(-1, -2)
    ...     dS = P * (dP - (P * dP).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    ...     return dS @ k, dS.swapaxes(-1, -2) @ q, P.swapaxes(-1, -2) @ g
    >>> check_attention_gradient(gradient)
    """


# Times


def _times_to_embed(draw: Draw, *, dim: int, scale: float, **_: Any) -> dict[str, Any]:
    if dim < 4 or dim % 2:
        raise ValueError(f"check_timestep_embedding: dim must be an even number of at least 4, got {dim}")
    t = draw.integers(0, 9, draw.integer(1, 5)) * draw.pick(1, 10, 111)
    return {"t": t if scale == 1 else t / scale}


def _embedding(**wrong: Any) -> Callable[..., Any]:
    def function(t: Any, *, dim: int, order: str, last: str, period: float, scale: float) -> Any:
        half = dim // 2
        steps = half - 1 if last == "1/period" else half
        exponent = wrong.get("exponent", lambda half, steps, i: i / steps)(half, steps, np.arange(half))
        period = wrong.get("period", lambda period: period)(period)
        frequencies = period ** (exponent if wrong.get("growing") else -exponent)
        if wrong.get("turns"):
            frequencies = frequencies * 2 * math.pi
        if wrong.get("linear"):
            frequencies = 1 - exponent * (1 - 1 / period)
        angles = scale * t[:, None] * frequencies
        sin, cos = np.sin(angles), np.cos(angles * period ** -(wrong.get("apart", 0) / half))
        if wrong.get("same"):
            sin, cos = (sin, sin) if wrong["same"] == "sin" else (cos, cos)
        if wrong.get("amplitude"):
            sin, cos = sin * wrong["amplitude"](dim), cos * wrong["amplitude"](dim)
        if order == "interleaved":
            return np.stack([sin, cos], -1).reshape(len(t), dim)
        return np.concatenate([sin, cos] if order == "sin-cos" else [cos, sin], 1)

    return function


@checker(
    equation="sin(t f_i) and cos(t f_i), f_i = period^(−i / (dim/2 − 1)), or period^(−i / (dim/2))",
    source="Vaswani et al. 2017, section 3.5; Ho et al. 2020",
    inputs=_times_to_embed,
    truth=_embedding(),
    atol=3e-5,  # frequencies of single precision
    mistakes={
        "frequencies that grow instead of falling": _embedding(growing=True),
        "the exponent i / dim instead of i / (dim/2)": _embedding(exponent=lambda half, steps, i: i / (2 * half)),
        "the exponent 2i / (dim/2), the step counted twice": _embedding(exponent=lambda half, steps, i: 2 * i / half),
        "the index counted from 1": _embedding(exponent=lambda half, steps, i: (i + 1) / steps),
        "the cosines half a step further than the sines: exponents (2i + 1) / dim": _embedding(apart=0.5),
        "the index of the output in place of that of its pair: exponents 2j / dim": _embedding(
            exponent=lambda half, steps, i: 2 * i / half, apart=1
        ),
        "the period's logarithm missing: e in place of the period": _embedding(period=lambda period: math.e),
        "a tenth of the period, 1000 for 10000": _embedding(period=lambda period: period / 10),
        "the period's logarithm to base 10": _embedding(period=lambda period: math.exp(math.log10(period))),
        "frequencies times 2π": _embedding(turns=True),
        "frequencies spaced evenly instead of geometrically": _embedding(linear=True),
        "sines in both halves": _embedding(same="sin"),
        "cosines in both halves": _embedding(same="cos"),
        "divided by √dim": _embedding(amplitude=lambda dim: dim**-0.5),
        "times √2": _embedding(amplitude=lambda dim: math.sqrt(2)),
    },
    conventions={
        "order": ("sin-cos", "cos-sin", "interleaved"),
        "last": ("1/period", "above"),
        "scale": (1, 1000),
    },
    tags=("time",),
)
def check_timestep_embedding(
    embed: Any,
    *,
    dim: int = 10,
    order: str = "sin-cos",
    last: str = "1/period",
    period: float = 10000.0,
    scale: float = 1,
    **options: Any,
) -> None:
    """The sinusoidal embedding of times.

    The function is called as embed(t), t (N,) int64 in 0 … 999; or float64 in 0 … 0.999, if scale is 1000.  It returns
    (N, dim).

    Args:
        dim: of the function's outputs: an even number of at least 4.
        order: "sin-cos": dim/2 sines, then the cosines (Ho et al.); "cos-sin" (OpenAI); "interleaved": sin, cos, sin, …
            (Vaswani et al.).
        last: the last frequency is "1/period": f_i = period^(−i / (dim/2 − 1)), as in Ho et al.'s code; or one step
            "above": f_i = period^(−i / (dim/2)), as in Vaswani et al. and OpenAI's code.
        period: 10000.
        scale: what the function itself multiplies t by: 1; or 1000, as with continuous times.

    Equation: sin(scale · t · f_i) and cos(scale · t · f_i).  Vaswani et al. 2017, section 3.5.

    >>> import numpy as np
    >>> def embed(t):
    ...     angles = t[:, None] * np.exp(-np.log(10000) * np.arange(5) / 4)
    ...     return np.concatenate([np.sin(angles), np.cos(angles)], 1)
    >>> check_timestep_embedding(embed)
    """
