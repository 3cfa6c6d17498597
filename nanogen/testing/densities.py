"""Densities and divergences, bounds, samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import checker

REDUCTIONS = ("none", "sample", "sum", "mean", "batchmean")


def reduced(x: np.ndarray, reduction: str) -> np.ndarray:
    """Entries (N, …): as they are; summed for each sample, (N,); the sum or the mean of all; the samples' mean."""
    if reduction == "none":
        return x
    if reduction == "sample":
        return x.reshape(len(x), -1).sum(1)
    return {"sum": x.sum(), "mean": x.mean(), "batchmean": x.sum() / len(x)}[reduction]


_TO_VARIANCE: dict[str, Callable[[Any], Any]] = {
    "std": lambda s: s**2,
    "variance": lambda s: s,
    "log_variance": np.exp,
    "log_std": lambda s: np.exp(2 * s),
}
_FROM_VARIANCE: dict[str, Callable[[Any], Any]] = {
    "std": np.sqrt,
    "variance": lambda v: v,
    "log_variance": np.log,
    "log_std": lambda v: 0.5 * np.log(v),
}


def variance_of(spread: Any, scale: str) -> Any:
    return _TO_VARIANCE[scale](spread)


def spread_of(variance: Any, scale: str) -> Any:
    return _FROM_VARIANCE[scale](variance)


def _kl_entries(
    m: Any, v: Any, n: Any, w: Any, trace: Any = None, square: Any = None, log: Any = None, one: float = 1.0
) -> Any:
    """½ (trace + square − one + log): each term is the right one unless it is given."""
    trace = v / w if trace is None else trace
    square = (m - n) ** 2 / w if square is None else square
    return 0.5 * (trace + square - one + (np.log(w / v) if log is None else log))


def _kl(wrong: Any = _kl_entries, axis: Any = None) -> Any:
    """The whole function, of arguments as the user has them, from a formula of means and variances."""

    def function(m: Any, s: Any, n: Any, t: Any, *, scale: str, reduction: str) -> Any:
        return reduced(wrong(m, variance_of(s, scale), n, variance_of(t, scale)), reduction)

    return function


def _normals(draw: Draw, *, scale: str, reduction: str) -> dict[str, np.ndarray]:
    shape = draw.sizes((1, 3), (1, 4))
    mean, prior_mean = draw.reals(*shape), draw.reals(*shape)
    spread, prior_spread = spread_of(draw.positives(*shape), scale), spread_of(draw.positives(*shape), scale)
    return {"mean": mean, "spread": spread, "prior_mean": prior_mean, "prior_spread": prior_spread}


def _kl_said(inputs: Any, index: Any, *, scale: str, reduction: str) -> str:
    values = list(inputs.values())
    if reduction != "none" and values[0].size > 1:
        return f"KL of normals of the shape {values[0].shape}, reduction {reduction!r}"
    m, s, n, t = (x[index] if index else x.ravel()[0] for x in values)
    return f"KL(N({m:.4g}, {variance_of(s, scale):.4g}) ‖ N({n:.4g}, {variance_of(t, scale):.4g}))"


NORMAL_KL_MISTAKES = {
    "the ½ missing": _kl(lambda *a: 2 * _kl_entries(*a)),
    "the trace term upside down, σ_p²/σ_q²": _kl(lambda m, v, n, w: _kl_entries(m, v, n, w, trace=w / v)),
    "the logarithm's sign turned round": _kl(lambda m, v, n, w: _kl_entries(m, v, n, w, log=np.log(v / w))),
    "the −1 missing": _kl(lambda m, v, n, w: _kl_entries(m, v, n, w, one=0.0)),
    "the −1 halved twice": _kl(lambda m, v, n, w: _kl_entries(m, v, n, w, one=0.5)),
    "KL(p‖q), the other way round": _kl(lambda m, v, n, w: _kl_entries(n, w, m, v)),
    "the distance of the means over σ_q² instead of σ_p²": _kl(
        lambda m, v, n, w: _kl_entries(m, v, n, w, square=(m - n) ** 2 / v)
    ),
}


@checker(
    name="KL of normals",
    equation="½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²)",
    source="Kingma & Welling 2014, appendix B",
    inputs=_normals,
    truth=_kl(),
    mistakes=NORMAL_KL_MISTAKES,
    conventions={"scale": ("std", "variance", "log_variance", "log_std"), "reduction": REDUCTIONS},
    describe=_kl_said,
    tags=("kl",),
)
def check_normal_kl(kl: Any, *, scale: str = "std", reduction: str = "none", **options: Any) -> None:
    """KL(q‖p) of two normal distributions with diagonal covariances, in nats.

    The function is called as kl(mean_q, spread_q, mean_p, spread_p), all of the shape (N, D).

    Args:
        scale: what the spreads are: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.
        reduction: "none": kl returns (N, D); "sample": its sum over D, (N,); "sum" of all; "mean" of all; "batchmean":
            the sum over D, averaged over N.

    Equation: ½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²).  Kingma & Welling 2014, appendix B.

    >>> import numpy as np
    >>> def kl(m1, v1, m2, v2):
    ...     return 0.5 * (v1 / v2 + (m1 - m2) ** 2 / v2 - 1 + np.log(v2 / v1))
    >>> check_normal_kl(kl, scale="variance")
    """
