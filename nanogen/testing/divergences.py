"""Divergences: of normal distributions and of classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import checker

# Of functions with logarithms: 1e-8, or even 1e-6, added to their arguments is no fault.
LOGARITHMS: dict[str, Any] = {"atol": 2e-5, "unit": 1.0}
SCALES = ("std", "variance", "log_variance", "log_std")
REDUCTIONS = ("none", "sample", "sum", "mean", "batchmean")


def reduced(x: np.ndarray, reduction: str) -> np.ndarray:
    """Entries (N, …): as they are; summed for each sample, (N,); the sum or the mean of all; the samples' mean."""
    if reduction == "none":
        return x
    if reduction == "sample":
        return x.reshape(len(x), -1).sum(1)
    return {"sum": x.sum(), "mean": x.mean(), "batchmean": x.sum() / len(x)}[reduction]


# What goes wrong with sums, for any function of entries (N, D).
WRONG_SUMS: dict[str, Callable[[np.ndarray, str], Any]] = {
    "summed over the samples instead of the dimensions": lambda x, r: x.sum(0) if r == "sample" else None,
    "averaged over the dimensions instead of summed": lambda x, r: x.mean(1) if r == "sample" else None,
    "averaged over the samples and not summed over the dimensions": lambda x, r: (
        x.mean(0) if r in REDUCTIONS[1:] else None
    ),
    "divided by the number of dimensions instead of samples": lambda x, r: (
        x.sum() / x.shape[1] if r == "batchmean" else None
    ),
    "only the first dimension": lambda x, r: x[:, 0] if r == "sample" else x[:, 0].mean() if r == "batchmean" else None,
}

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


# Divergences of normal distributions


def _kl_entries(m: Any, v: Any, n: Any, w: Any, *, half: float = 0.5, one: float = 1.0, **terms: Any) -> Any:
    """½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²), where `terms` replace terms of it."""
    trace = terms.get("trace", v / w)
    square = terms.get("square", (m - n) ** 2 / w)
    return half * (trace + square - one + terms.get("log", np.log(w / v)))


def _of_normals(entries: Callable[..., Any], sums: Callable[[Any, str], Any] = reduced) -> Callable[..., Any]:
    """The whole function, of the arguments that the user has, from one of means and variances."""

    def function(m: Any, s: Any, n: Any, t: Any, *, scale: str, reduction: str) -> Any:
        return sums(entries(m, variance_of(s, scale), n, variance_of(t, scale)), reduction)

    return function


def _normals(draw: Draw, *, scale: str, reduction: str) -> dict[str, np.ndarray]:
    shape = draw.sizes((1, 3), (1, 4))
    mean, prior_mean = draw.reals(*shape), draw.reals(*shape)
    spread, prior_spread = spread_of(draw.positives(*shape), scale), spread_of(draw.positives(*shape), scale)
    return {"mean_q": mean, "spread_q": spread, "mean_p": prior_mean, "spread_p": prior_spread}


def _kl_said(inputs: Any, index: Any, *, scale: str, reduction: str) -> str:
    values = list(inputs.values())
    if reduction != "none" and values[0].size > 1:
        return f"KL of normals of the shape {values[0].shape}, reduction {reduction!r}"
    m, s, n, t = (x[index] if len(index) == x.ndim else x.ravel()[0] for x in values)
    return f"KL(N({m:.4g}, {variance_of(s, scale):.4g}) ‖ N({n:.4g}, {variance_of(t, scale):.4g}))"


@checker(
    name="KL of normals",
    equation="½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²)",
    source="Kingma & Welling 2014, appendix B",
    inputs=_normals,
    truth=_of_normals(_kl_entries),
    mistakes={
        text: _of_normals(wrong)
        for text, wrong in {
            "the ½ missing": lambda *a: _kl_entries(*a, half=1.0),
            "the trace term upside down, σ_p²/σ_q²": lambda m, v, n, w: _kl_entries(m, v, n, w, trace=w / v),
            "the logarithm's sign turned round": lambda m, v, n, w: _kl_entries(m, v, n, w, log=np.log(v / w)),
            "½ log σ_p²/σ_q² in place of log σ_p²/σ_q²": lambda m, v, n, w: _kl_entries(
                m, v, n, w, log=0.5 * np.log(w / v)
            ),
            "the logarithm missing": lambda m, v, n, w: _kl_entries(m, v, n, w, log=0.0),
            "the trace term missing": lambda m, v, n, w: _kl_entries(m, v, n, w, trace=0.0),
            "the means' distance missing": lambda m, v, n, w: _kl_entries(m, v, n, w, square=0.0),
            "the −1 missing": lambda *a: _kl_entries(*a, one=0.0),
            "−½ in place of −1": lambda *a: _kl_entries(*a, one=0.5),
            "+1 in place of −1": lambda *a: _kl_entries(*a, one=-1.0),
            "−2 in place of −1": lambda *a: _kl_entries(*a, one=2.0),
            "KL(p‖q), the other way round": lambda m, v, n, w: _kl_entries(n, w, m, v),
            "the sign turned round": lambda *a: -_kl_entries(*a),
            "the means' distance over σ_q² instead of σ_p²": lambda m, v, n, w: _kl_entries(
                m, v, n, w, square=(m - n) ** 2 / v
            ),
            "the means' distance not squared": lambda m, v, n, w: _kl_entries(m, v, n, w, square=(m - n) / w),
            "the means' distance not divided by σ_p²": lambda m, v, n, w: _kl_entries(m, v, n, w, square=(m - n) ** 2),
            "the means' distance over σ_p instead of σ_p²": lambda m, v, n, w: _kl_entries(
                m, v, n, w, square=(m - n) ** 2 / w**0.5
            ),
            "the sum of the means instead of their difference": lambda m, v, n, w: _kl_entries(
                m, v, n, w, square=(m + n) ** 2 / w
            ),
            "σ_q/σ_p instead of σ_q²/σ_p²": lambda m, v, n, w: _kl_entries(m, v, n, w, trace=(v / w) ** 0.5),
            "σ_q² not divided by σ_p²": lambda m, v, n, w: _kl_entries(m, v, n, w, trace=v),
            "the ½ for the logarithm only": lambda m, v, n, w: _kl_entries(
                m, v, n, w, half=1.0, log=0.5 * np.log(w / v)
            ),
            "the ½ missing for the logarithm": lambda m, v, n, w: _kl_entries(m, v, n, w, log=0) + np.log(w / v),
            "the ½ missing for the trace and the means (½ log is right)": lambda m, v, n, w: (
                (v + (m - n) ** 2) / w - 0.5 + 0.5 * np.log(w / v)
            ),
            "log q − log p at the mean of q, without the expectation": lambda m, v, n, w: (
                0.5 * ((m - n) ** 2 / w + np.log(w / v))
            ),
            "in bits, not nats": lambda *a: _kl_entries(*a) / math.log(2),
        }.items()
    }
    | {text: _of_normals(_kl_entries, wrong) for text, wrong in WRONG_SUMS.items()}
    | {
        "the exponential of the spreads taken twice": lambda m, s, n, t, *, scale, reduction: (
            _of_normals(_kl_entries)(m, np.exp(s), n, np.exp(t), scale=scale, reduction=reduction)
            if scale.startswith("log")
            else None
        )
    },
    conventions={"scale": SCALES, "reduction": REDUCTIONS},
    describe=_kl_said,
    **LOGARITHMS,
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
    >>> check_normal_kl(lambda *arguments: 2 * kl(*arguments), scale="variance")
    Traceback (most recent call last):
        ...
    nanogen.testing.errors.PropertyError: KL(N(0, 1) ‖ N(0, 2)): expected 0.096574, got 0.19315
      equation    ½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²)      Kingma & Welling 2014, appendix B
      looks like  the ½ missing: explains 40 of 40 inputs
      reproduce   check_normal_kl(..., scale='variance', seed=0)
    """


def _prior_entries(m: Any, v: Any, *, half: float = 0.5, one: float = 1.0, **terms: Any) -> Any:
    """½ (σ² + μ² − 1 − log σ²), where `terms` replace terms of it."""
    return half * (terms.get("trace", v) + terms.get("square", m**2) - one - terms.get("log", np.log(v)))


def _of_normal(entries: Callable[..., Any], sums: Callable[[Any, str], Any] = reduced) -> Callable[..., Any]:
    return lambda m, s, *, scale, reduction: sums(entries(m, variance_of(s, scale)), reduction)


def _of_raw(entries: Callable[..., Any]) -> Callable[..., Any]:
    """From a function of the mean, the variance and the spread as it is handed over."""
    return lambda m, s, *, scale, reduction: reduced(entries(m, variance_of(s, scale), s), reduction)


def _prior_said(inputs: Any, index: Any, *, scale: str, reduction: str) -> str:
    m, s = inputs.values()
    if reduction != "none" and m.size > 1:
        return f"KL of normals of the shape {m.shape} from N(0, I), reduction {reduction!r}"
    m, s = (x[index] if len(index) == x.ndim else x.ravel()[0] for x in (m, s))
    return f"KL(N({m:.4g}, {variance_of(s, scale):.4g}) ‖ N(0, 1))"


@checker(
    name="KL from the standard normal",
    equation="½ (σ² + μ² − 1 − log σ²)",
    source="Kingma & Welling 2014, appendix B",
    inputs=lambda draw, *, scale, reduction: dict(list(_normals(draw, scale=scale, reduction=reduction).items())[:2]),
    truth=_of_normal(_prior_entries),
    mistakes={
        text: _of_normal(wrong)
        for text, wrong in {
            "the ½ missing": lambda *a: _prior_entries(*a, half=1.0),
            "the sign turned round": lambda *a: -_prior_entries(*a),
            "the sign turned round, and the ½ missing": lambda *a: -_prior_entries(*a, half=1.0),
            "the logarithm's sign turned round": lambda m, v: _prior_entries(m, v, log=-np.log(v)),
            "log σ in place of log σ²": lambda m, v: _prior_entries(m, v, log=0.5 * np.log(v)),
            "2 log σ² in place of log σ² (or the ½ missing for the logarithm)": lambda m, v: _prior_entries(
                m, v, log=2 * np.log(v)
            ),
            "the logarithm missing": lambda m, v: _prior_entries(m, v, log=0.0),
            "σ² missing": lambda m, v: _prior_entries(m, v, trace=0.0),
            "μ² missing": lambda m, v: _prior_entries(m, v, square=0.0),
            "μ not squared": lambda m, v: _prior_entries(m, v, square=m),
            "|μ| in place of μ²": lambda m, v: _prior_entries(m, v, square=np.abs(m)),
            "the sign of μ² turned round": lambda m, v: _prior_entries(m, v, square=-(m**2)),
            "the sign of σ² turned round": lambda m, v: _prior_entries(m, v, trace=-v),
            "σ in place of σ²": lambda m, v: _prior_entries(m, v, trace=v**0.5),
            "σ⁴ in place of σ²": lambda m, v: _prior_entries(m, v, trace=v**2),
            "1/σ² in place of σ²": lambda m, v: _prior_entries(m, v, trace=1 / v),
            "the −1 missing": lambda *a: _prior_entries(*a, one=0.0),
            "+1 in place of −1": lambda *a: _prior_entries(*a, one=-1.0),
            "−½ in place of −1": lambda *a: _prior_entries(*a, one=0.5),
            "KL(p‖q), the other way round": lambda m, v: 0.5 * (1 / v + m**2 / v - 1 + np.log(v)),
            "μ² divided by σ²": lambda m, v: _prior_entries(m, v, square=m**2 / v),
            "the ½ missing for σ² and μ²": lambda m, v: v + m**2 - 0.5 - 0.5 * np.log(v),
            "the ½ missing, but for the logarithm": lambda m, v: v + m**2 - 1 - 0.5 * np.log(v),
            "in bits, not nats": lambda *a: _prior_entries(*a) / math.log(2),
        }.items()
    }
    | {
        text: _of_raw(wrong)
        for text, wrong in {
            "the exponential missing: log σ² itself in place of σ²": lambda m, v, s: _prior_entries(
                m, v, trace=np.log(v)
            ),
            "exp(σ²) in place of σ²": lambda m, v, s: _prior_entries(m, v, trace=np.exp(v)),
            "σ² right, but its logarithm taken of log σ²": lambda m, v, s: _prior_entries(m, v, log=np.log(np.log(v))),
        }.items()
    }
    | {text: _of_normal(_prior_entries, wrong) for text, wrong in WRONG_SUMS.items()}
    | {
        "the square of the log-spread added, in place of − log σ²": lambda m, s, *, scale, reduction: (
            reduced(_prior_entries(m, variance_of(s, scale), log=-(s**2)), reduction)
            if scale.startswith("log")
            else None
        )
    },
    conventions={"scale": SCALES, "reduction": REDUCTIONS},
    describe=_prior_said,
    **LOGARITHMS,
    tags=("kl", "vae"),
)
def check_standard_normal_kl(kl: Any, *, scale: str = "log_variance", reduction: str = "none", **options: Any) -> None:
    """KL(q‖N(0, I)) of a normal distribution with a diagonal covariance, in nats: the VAE's.

    The function is called as kl(mean, spread), both of the shape (N, D).

    Args:
        scale: what the spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.
        reduction: "none": kl returns (N, D); "sample": its sum over D, (N,); "sum" of all; "mean" of all; "batchmean":
            the sum over D, averaged over N.

    Equation: ½ (σ² + μ² − 1 − log σ²).  Kingma & Welling 2014, appendix B.

    >>> import numpy as np
    >>> def kl(mu, log_var):
    ...     return -0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var), axis=1)
    >>> check_standard_normal_kl(kl, reduction="sample")
    """


def log_softmax(x: Any, axis: Any = -1) -> Any:
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


LOG_PROBABILITIES: dict[str, Callable[[Any], Any]] = {
    "logits": log_softmax,
    "probabilities": np.log,
    "log_probabilities": lambda x: x,
}


def _of_classes(entries: Callable[..., Any], axis: int | None = 1) -> Callable[..., Any]:
    """From a function of the logarithms of q and p, (N, K), to one of what the user has."""

    def function(q: Any, p: Any, *, given: str, reduction: str) -> Any:
        log = LOG_PROBABILITIES[given]
        x = entries(log(q), log(p))
        x = x if axis is None else x.sum(axis)
        return {"none": x, "sum": x.sum(), "mean": x.mean()}[reduction]

    return function


def _classes(draw: Draw, *, given: str, reduction: str) -> dict[str, np.ndarray]:
    shape = draw.sizes((1, 3), (2, 5))
    q, p = (draw.reals(*shape) if given == "logits" else draw.probabilities(*shape) for _ in range(2))
    return {
        "q": np.log(q) if given == "log_probabilities" else q,
        "p": np.log(p) if given == "log_probabilities" else p,
    }


@checker(
    name="KL of categoricals",
    equation="Σ_k q_k (log q_k − log p_k)",
    source="Kullback & Leibler 1951",
    inputs=_classes,
    truth=_of_classes(lambda q, p: np.exp(q) * (q - p)),
    mistakes={
        "KL(p‖q), the other way round": _of_classes(lambda q, p: np.exp(p) * (p - q)),
        "the sign turned round": _of_classes(lambda q, p: np.exp(q) * (p - q)),
        "the sum under p instead of q": _of_classes(lambda q, p: np.exp(p) * (q - p)),
        "the cross-entropy, without the entropy of q": _of_classes(lambda q, p: -np.exp(q) * p),
        "the entropy of q only": _of_classes(lambda q, p: -np.exp(q) * q),
        "KL from the uniform distribution, whatever p": _of_classes(
            lambda q, p: np.exp(q) * (q + math.log(q.shape[1]))
        ),
        "minus the entropy of q, without p": _of_classes(lambda q, p: np.exp(q) * q),
        "q (log q − p): p is no logarithm": _of_classes(lambda q, p: np.exp(q) * (q - np.exp(p))),
        "not weighted by q": _of_classes(lambda q, p: q - p),
        "the logarithm missing: q (q − p)": _of_classes(lambda q, p: np.exp(q) * (np.exp(q) - np.exp(p))),
        "in bits, not nats": _of_classes(lambda q, p: np.exp(q) * (q - p) / math.log(2)),
        "the symmetric divergence, both ways added": _of_classes(lambda q, p: (np.exp(q) - np.exp(p)) * (q - p)),
        "averaged over the classes instead of summed": _of_classes(lambda q, p: (np.exp(q) * (q - p)).mean(1), None),
        "summed over the samples instead of the classes": _of_classes(lambda q, p: np.exp(q) * (q - p), 0),
        "softmax over the samples instead of the classes": lambda q, p, *, given, reduction: (
            None
            if given != "logits"
            else _of_classes(lambda a, b: np.exp(a) * (a - b))(
                log_softmax(q, 0), log_softmax(p, 0), given="log_probabilities", reduction=reduction
            )
        ),
        "weighted by the softmax, but with differences of logits": lambda q, p, *, given, reduction: (
            None
            if given != "logits"
            else _of_classes(lambda a, b: np.exp(log_softmax(a)) * (a - b))(
                q, p, given="log_probabilities", reduction=reduction
            )
        ),
    },
    conventions={"given": tuple(LOG_PROBABILITIES), "reduction": ("none", "sum", "mean")},
    **LOGARITHMS,
    tags=("kl",),
)
def check_categorical_kl(kl: Any, *, given: str = "logits", reduction: str = "none", **options: Any) -> None:
    """KL(q‖p) of two categorical distributions, in nats.

    The function is called as kl(q, p), both of the shape (N, K) for K classes.

    Args:
        given: what q and p are: "logits", "probabilities" (of 0.0005 at least) or "log_probabilities".
        reduction: "none": kl returns (N,); the "sum" or the "mean" over N.

    Equation: Σ_k q_k (log q_k − log p_k).  Kullback & Leibler 1951.

    >>> import numpy as np
    >>> check_categorical_kl(lambda q, p: (q * np.log(q / p)).sum(-1), given="probabilities")
    """
