"""Divergences and densities: of normal distributions, of classes, of integer levels, of mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.laws import logistic_cdf, normal_cdf
from nanogen.testing.property import checker

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
    | {text: _of_normals(_kl_entries, wrong) for text, wrong in WRONG_SUMS.items()},
    conventions={"scale": SCALES, "reduction": REDUCTIONS},
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
    | {text: _of_normal(_prior_entries, wrong) for text, wrong in WRONG_SUMS.items()},
    conventions={"scale": SCALES, "reduction": REDUCTIONS},
    describe=_prior_said,
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


def _log_softmax(x: Any, axis: Any = -1) -> Any:
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


_LOG_PROBABILITIES: dict[str, Callable[[Any], Any]] = {
    "logits": _log_softmax,
    "probabilities": np.log,
    "log_probabilities": lambda x: x,
}


def _of_classes(entries: Callable[..., Any], axis: int | None = 1) -> Callable[..., Any]:
    """From a function of the logarithms of q and p, (N, K), to one of what the user has."""

    def function(q: Any, p: Any, *, given: str, reduction: str) -> Any:
        log = _LOG_PROBABILITIES[given]
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
                _log_softmax(q, 0), _log_softmax(p, 0), given="log_probabilities", reduction=reduction
            )
        ),
        "weighted by the softmax, but with differences of logits": lambda q, p, *, given, reduction: (
            None
            if given != "logits"
            else _of_classes(lambda a, b: np.exp(_log_softmax(a)) * (a - b))(
                q, p, given="log_probabilities", reduction=reduction
            )
        ),
    },
    conventions={"given": tuple(_LOG_PROBABILITIES), "reduction": ("none", "sum", "mean")},
    tags=("kl",),
)
def check_categorical_kl(kl: Any, *, given: str = "logits", reduction: str = "none", **options: Any) -> None:
    """KL(q‖p) of two categorical distributions, in nats.

    The function is called as kl(q, p), both of the shape (N, K) for K classes.

    Args:
        given: what q and p are: "logits", "probabilities" or "log_probabilities".
        reduction: "none": kl returns (N,); the "sum" or the "mean" over N.

    Equation: Σ_k q_k (log q_k − log p_k).  Kullback & Leibler 1951.

    >>> import numpy as np
    >>> check_categorical_kl(lambda q, p: (q * np.log(q / p)).sum(-1), given="probabilities")
    """


# Densities of integer levels


def _bins(x: Any, levels: int, pixels: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The levels 0 … K − 1 of pixel values, and these on [−1, 1]."""
    low, high = pixels
    unit = (np.asarray(x, float) - low) / (high - low)
    return np.rint(unit * (levels - 1)), 2 * unit - 1


def _mass(cdf: Any, level: Any, centre: Any, mean: Any, scale: Any, levels: int, **wrong: Any) -> Any:
    """log P(level): the mass between the midpoints to its neighbours, the tails at both ends.  All on [−1, 1]."""
    half = wrong.get("half", 1 / (levels - 1))
    low, high = (centre - half - mean) / scale, (centre + half - mean) / scale
    first = level == 0 if wrong.get("first", True) else np.zeros(level.shape, bool)
    last = level == levels - 1 if wrong.get("last", True) else np.zeros(level.shape, bool)
    if wrong.get("turned"):
        first, last = last, first
    flip = low > 0  # the difference of the smaller tails
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    below, above = np.where(flip, last, first), np.where(flip, first, last)
    return np.log(np.where(above, 1.0, cdf(high)) - np.where(below, 0.0, cdf(low)))


def _tanh_cdf(z: Any) -> Any:
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


_CDFS: dict[str, Callable[[Any], Any]] = {"exact": normal_cdf, "tanh": _tanh_cdf}
_DENSITIES: dict[str, Callable[[Any, Any], Any]] = {
    "logistic": lambda z, s: -z - 2 * np.log1p(np.exp(-z)) - np.log(s),
    "normal": lambda z, s: -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - np.log(s),
}


def _on_levels(kind: str, **wrong: Any) -> Callable[..., Any]:
    """The log-probability of levels under a discretised distribution, right or with something wrong."""

    def function(
        x: Any, mean: Any, spread: Any, *, levels: int, pixels: Any, scale: str, reduction: str, cdf: str = "exact"
    ) -> Any:
        level, centre = _bins(x, levels, pixels)
        _, mean = _bins(mean, levels, pixels)
        width = (pixels[1] - pixels[0]) / 2
        if "scale" in wrong:
            s = wrong["scale"](spread, scale)
            s = None if s is None else s / width
        else:
            s = _scale_of(spread, scale) / width
        if s is None:
            return None
        if "sums" in wrong and wrong["sums"](np.ones((2, 2)), reduction) is None:
            return None
        sums = wrong.get("sums", reduced)
        if "entries" in wrong:
            entries = wrong["entries"](level, centre, mean, s, levels)
        else:
            half = wrong["half"](levels) if "half" in wrong else 1 / (levels - 1)
            of = wrong.get("cdf") or (logistic_cdf if kind == "logistic" else _CDFS[cdf])
            settings = {k: v for k, v in wrong.items() if k in ("first", "last", "turned")}
            entries = _mass(of, level, centre, mean, s, levels, half=half, **settings)
        return wrong.get("sign", 1) * sums(entries, reduction)

    return function


def _scale_of(spread: Any, scale: str) -> Any:
    """The scale itself: s or σ."""
    return (
        np.exp(spread) if scale == "log_scale" else spread if scale == "scale" else np.sqrt(variance_of(spread, scale))
    )


def _levels(draw: Draw, *, levels: int, pixels: Any, scale: str, reduction: str, cdf: str = "exact") -> dict[str, Any]:
    """Levels of which many are the first or the last, and means so near that no mass is below 1e-4."""
    shape = draw.sizes((1, 3), (1, 4))
    ends = np.array([0, levels - 1, 1, levels - 2])
    level = np.where(
        draw.integers(0, 1, *shape) == 0, ends[draw.integers(0, 3, *shape)], draw.integers(0, levels - 1, *shape)
    )
    width, reach = (pixels[1] - pixels[0]) / (levels - 1), 2.4
    s = width * draw.positives(*shape) * draw.pick(0.7, 3.0, 10.0)
    mean = pixels[0] + width * level + s * np.clip(draw.reals(*shape), -reach, reach)
    spread = np.log(s) if scale == "log_scale" else s if scale == "scale" else spread_of(s**2, scale)
    return {"x": pixels[0] + width * level, "mean": mean, "spread": spread}


def _level_mistakes(kind: str) -> dict[str, Callable[..., Any]]:
    density = _DENSITIES[kind]
    found: dict[str, dict[str, Any]] = {
        "bins of the width 2/K instead of 2/(K − 1)": {"half": lambda k: 1 / k},
        "bins twice as wide": {"half": lambda k: 2 / (k - 1)},
        "bins half as wide": {"half": lambda k: 0.5 / (k - 1)},
        "bins of half the width 1/(K − 1) on [0, 1], used on [−1, 1]": {"half": lambda k: 0.5 / k},
        "no tails at the first and the last level": {"first": False, "last": False},
        "no tail at the first level": {"first": False},
        "no tail at the last level": {"last": False},
        "the tails of the first and the last level exchanged": {"turned": True},
        "the density instead of the mass of a bin": {"entries": lambda level, c, m, s, k: density((c - m) / s, s)},
        "the density times the bin's width, also at the ends": {
            "entries": lambda level, c, m, s, k: density((c - m) / s, s) + math.log(2 / (k - 1))
        },
        "the sign turned round": {"sign": -1},
        "the probability instead of its logarithm": {
            "entries": lambda level, c, m, s, k: np.exp(
                _mass(logistic_cdf if kind == "logistic" else normal_cdf, level, c, m, s, k)
            )
        },
        "multiplied by the scale instead of divided": {"scale": lambda x, how: 1 / _scale_of(x, how)},
        "in bits, not nats": {"sign": 1 / math.log(2)},
        **{text: {"sums": wrong} for text, wrong in WRONG_SUMS.items()},
    }
    if kind == "logistic":
        found["the normal distribution instead of the logistic"] = {"cdf": normal_cdf}
        found["the scale taken for a standard deviation, s = σ √3/π"] = {
            "scale": lambda x, how: _scale_of(x, how) * math.sqrt(3) / math.pi
        }
        found["half the log-scale, as if it were of a variance"] = {"scale": lambda x, how: np.sqrt(_scale_of(x, how))}
    else:
        found["the logistic distribution instead of the normal"] = {"cdf": logistic_cdf}
    return {text: _on_levels(kind, **wrong) for text, wrong in found.items()}


def _level_parts(kind: str) -> dict[str, Any]:
    return {
        "name": f"log-probability of a discretised {kind}",
        "inputs": _levels,
        "truth": _on_levels(kind),
        "mistakes": _level_mistakes(kind),
        "where": {
            "at the first level": lambda x, m, s, *, pixels, **c: bool((np.abs(x - pixels[0]) < 1e-9).any()),
            "at the last level": lambda x, m, s, *, pixels, **c: bool((np.abs(x - pixels[1]) < 1e-9).any()),
            "at the first or the last level": lambda x, m, s, *, pixels, **c: bool(
                np.isclose(x, pixels[0]).any() or np.isclose(x, pixels[1]).any()
            ),
        },
    }


@checker(
    **_level_parts("logistic"),
    equation="log(F((x + ½δ − μ)/s) − F((x − ½δ − μ)/s)), δ = 2/(K − 1), tails at both ends",
    source="Salimans et al. 2017, eq. 2",
    conventions={"scale": ("log_scale", "scale"), "reduction": REDUCTIONS},
    tags=("discretised",),
)
def check_discretized_logistic(
    log_prob: Any,
    *,
    levels: int = 256,
    pixels: tuple[float, float] = (-1, 1),
    scale: str = "log_scale",
    reduction: str = "none",
    **options: Any,
) -> None:
    """The log-probability, in nats, of integer levels under a discretised logistic distribution: PixelCNN++'s.

    The function is called as log_prob(x, mean, scale), all of the shape (N, D).  x has the values of levels 0 … K − 1,
    spread evenly over the range `pixels`; mean and scale are on this range, too.  For a function that wants
    other pixel values say so: pixels=(0, 1), or pixels=(0, 255) for the levels themselves.  No mass is below 1e-4.

    Args:
        levels: K.
        pixels: the values of the first and of the last level.
        scale: "log_scale": log s is handed over; or "scale": s.
        reduction: "none": (N, D); "sample": the sum over D, (N,); "sum" or "mean" of all; "batchmean": the sum over D,
            averaged over N.

    Equation: log(F((x + ½δ − μ)/s) − F((x − ½δ − μ)/s)) with F(z) = 1/(1 + e⁻ᶻ) and the distance δ of two levels;
    the first level gets all below it, the last all above it.  Salimans et al. 2017, eq. 2.

    >>> import numpy as np
    >>> def log_prob(x, mean, log_s):
    ...     F, half = lambda z: 1 / (1 + np.exp(-z)), 1 / 255
    ...     below = np.where(x < -0.999, 0, F((x - half - mean) / np.exp(log_s)))
    ...     return np.log(np.where(x > 0.999, 1, F((x + half - mean) / np.exp(log_s))) - below)
    >>> check_discretized_logistic(log_prob)
    """


@checker(
    **_level_parts("normal"),
    equation="log(Φ((x + ½δ − μ)/σ) − Φ((x − ½δ − μ)/σ)), δ = 2/(K − 1), tails at both ends",
    source="Ho et al. 2020, eq. 13",
    conventions={"scale": SCALES, "reduction": REDUCTIONS, "cdf": ("exact", "tanh")},
    tags=("discretised",),
)
def check_discretized_normal(
    log_prob: Any,
    *,
    levels: int = 256,
    pixels: tuple[float, float] = (-1, 1),
    scale: str = "log_std",
    reduction: str = "none",
    cdf: str = "exact",
    **options: Any,
) -> None:
    """The log-probability, in nats, of integer levels under a discretised normal distribution: the DDPM's decoder.

    The function is called as log_prob(x, mean, spread), all of the shape (N, D).  x has the values of levels 0 … K − 1,
    spread evenly over the range `pixels`; mean and spread are on this range, too.  No mass is below 1e-4.

    Args:
        levels: K.
        pixels: the values of the first and of the last level: (−1, 1), (0, 1) or (0, 255).
        scale: what the spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.
        reduction: "none": (N, D); "sample": the sum over D, (N,); "sum" or "mean" of all; "batchmean": the sum over D,
            averaged over N.
        cdf: "exact" Φ, or its approximation ½ (1 + tanh(√(2/π) (z + 0.044715 z³))): "tanh".

    Equation: log(Φ((x + ½δ − μ)/σ) − Φ((x − ½δ − μ)/σ)) with the distance δ of two levels; the first level gets all
    below it, the last all above it.  Ho et al. 2020, eq. 13.

    >>> import math, numpy as np
    >>> F = lambda z: 0.5 * (1 + np.vectorize(math.erf)(z / 2**0.5))
    >>> def log_prob(x, mean, std):
    ...     below = np.where(x < -0.999, 0, F((x - 1 / 255 - mean) / std))
    ...     return np.log(np.where(x > 0.999, 1, F((x + 1 / 255 - mean) / std)) - below)
    >>> check_discretized_normal(log_prob, scale="std")
    """


# Mixtures


def _of_mixture(combine: Callable[[Any, Any], Any], **wrong: Any) -> Callable[..., Any]:
    """log p(x) from the components' log-probabilities and the logits of their weights, both (N, M)."""

    def function(x: Any, logits: Any, means: Any, spreads: Any, *, levels: int | None, pixels: Any, scale: str) -> Any:
        if levels is None:
            if wrong.get("levels"):
                return None
            s = _scale_of(spreads, scale)
            parts = _DENSITIES["logistic"]((x[:, None] - means) / s, s)
        else:
            x = np.broadcast_to(x[:, None], means.shape)
            settings = {k: v for k, v in wrong.items() if k not in ("levels",)}
            parts = _on_levels("logistic", **settings)(
                x, means, spreads, levels=levels, pixels=pixels, scale=scale, reduction="none"
            )
        return combine(parts, logits)

    return function


def _log_sum_exp(x: Any, axis: int = -1) -> Any:
    top = x.max(axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)


_mixed = lambda parts, logits: _log_sum_exp(parts + _log_softmax(logits))


def _mixtures(draw: Draw, *, levels: int | None, pixels: Any, scale: str) -> dict[str, Any]:
    n, m = draw.sizes((1, 4), (2, 3))
    logits = draw.reals(n, m)
    if levels is None:
        s = draw.positives(n, m)
        spreads = np.log(s) if scale == "log_scale" else s
        return {"x": draw.reals(n), "logits": logits, "means": draw.reals(n, m), "spreads": spreads}
    found = _levels(draw, levels=levels, pixels=pixels, scale=scale, reduction="none")
    x = found["x"].ravel()[np.arange(n) % found["x"].size]
    width = (pixels[1] - pixels[0]) / (levels - 1)
    s = width * draw.positives(n, m) * draw.pick(0.7, 3.0, 10.0)
    means = x[:, None] + s * np.clip(draw.reals(n, m), -2.4, 2.4)
    return {"x": x, "logits": logits, "means": means, "spreads": np.log(s) if scale == "log_scale" else s}


@checker(
    name="log-probability of a mixture of logistics",
    equation="log Σ_m softmax(logits)_m p_m(x)",
    source="Salimans et al. 2017, eq. 1 and 2",
    inputs=_mixtures,
    truth=_of_mixture(_mixed),
    mistakes={
        "the logits of the weights not normalised": _of_mixture(lambda p, w: _log_sum_exp(p + w)),
        "the weights missing: all components alike": _of_mixture(lambda p, w: _log_sum_exp(p) - math.log(p.shape[1])),
        "the components added without weights": _of_mixture(lambda p, w: _log_sum_exp(p)),
        "the weighted mean of the logarithms instead of the logarithm of the mean": _of_mixture(
            lambda p, w: (np.exp(_log_softmax(w)) * p).sum(1)
        ),
        "the sum of log-weights and log-densities instead of their logsumexp": _of_mixture(
            lambda p, w: (p + _log_softmax(w)).sum(1)
        ),
        "only the largest component": _of_mixture(lambda p, w: (p + _log_softmax(w)).max(1)),
        "softmax in place of log-softmax of the weights": _of_mixture(
            lambda p, w: _log_sum_exp(p + np.exp(_log_softmax(w)))
        ),
        "the weights' softmax over the samples": _of_mixture(lambda p, w: _log_sum_exp(p + _log_softmax(w, 0))),
        "the likeliest component by weight only": _of_mixture(lambda p, w: p[np.arange(len(p)), w.argmax(1)]),
        "the sign turned round": _of_mixture(lambda p, w: -_mixed(p, w)),
        "averaged over the components: log M too much": _of_mixture(lambda p, w: _mixed(p, w) - math.log(p.shape[1])),
        "the probability instead of its logarithm": _of_mixture(lambda p, w: np.exp(_mixed(p, w))),
        "in bits, not nats": _of_mixture(lambda p, w: _mixed(p, w) / math.log(2)),
        "the density instead of the mass of a bin": _of_mixture(
            _mixed, levels=True, entries=lambda level, c, m, s, k: _DENSITIES["logistic"]((c - m) / s, s)
        ),
        "no tails at the first and the last level": _of_mixture(_mixed, levels=True, first=False, last=False),
        "no tail at the first level": _of_mixture(_mixed, levels=True, first=False),
        "no tail at the last level": _of_mixture(_mixed, levels=True, last=False),
        "bins of the width 2/K instead of 2/(K − 1)": _of_mixture(_mixed, levels=True, half=lambda k: 1 / k),
        "bins twice as wide": _of_mixture(_mixed, levels=True, half=lambda k: 2 / (k - 1)),
        "bins half as wide": _of_mixture(_mixed, levels=True, half=lambda k: 0.5 / (k - 1)),
        "multiplied by the scale instead of divided": _of_mixture(
            _mixed, levels=True, scale=lambda x, how: 1 / _scale_of(x, how)
        ),
    },
    conventions={"scale": ("log_scale", "scale")},
    tags=("discretised", "mixture"),
)
def check_logistic_mixture(
    log_prob: Any,
    *,
    levels: int | None = 256,
    pixels: tuple[float, float] = (-1, 1),
    scale: str = "log_scale",
    **options: Any,
) -> None:
    """The log-probability, in nats, under a mixture of M logistic distributions, discretised or not.

    The function is called as log_prob(x, logits, means, scales): x (N,), the others (N, M).  It returns (N,).

    Args:
        levels: K: x has the values of levels 0 … K − 1, spread evenly over the range `pixels`, and log_prob is the
            discrete one.  None: x is any number, and log_prob is the density's.
        pixels: the values of the first and of the last level.
        scale: "log_scale": log s is handed over; or "scale": s.

    Equation: log Σ_m softmax(logits)_m p_m(x), p_m as in check_discretized_logistic.  Salimans et al. 2017.

    >>> import numpy as np
    >>> def log_prob(x, logits, means, log_s):
    ...     z = (x[:, None] - means) / np.exp(log_s)
    ...     weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    ...     return np.log((weights * np.exp(-z - log_s) / (1 + np.exp(-z)) ** 2).sum(1))
    >>> check_logistic_mixture(log_prob, levels=None)
    """
