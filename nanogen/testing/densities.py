"""Densities of integer levels: discretised distributions and their mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.divergences import (
    REDUCTIONS,
    SCALES,
    WRONG_SUMS,
    log_softmax,
    reduced,
    spread_of,
    variance_of,
)
from nanogen.testing.draws import Draw
from nanogen.testing.laws import logistic_cdf, normal_cdf
from nanogen.testing.property import checker


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
    mass = np.where(above, 1.0, cdf(high)) - np.where(below, 0.0, cdf(low))
    return np.log(np.maximum(mass, wrong.get("floor", 0.0)))


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
            s = scale_of(spread, scale) / width
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
            settings = {k: v for k, v in wrong.items() if k in ("first", "last", "turned", "floor")}
            entries = _mass(of, level, centre, mean, s, levels, half=half, **settings)
        return wrong.get("sign", 1) * sums(entries, reduction)

    return function


def scale_of(spread: Any, scale: str) -> Any:
    """The scale itself: s or σ."""
    return (
        np.exp(spread) if scale == "log_scale" else spread if scale == "scale" else np.sqrt(variance_of(spread, scale))
    )


def _scales(draw: Draw, width: float, *shape: int) -> Any:
    """Scales of about a bin's width and some times that; none below e⁻⁶·⁹, since many functions clamp log s at −7."""
    return np.maximum(width * draw.positives(*shape) * draw.pick(0.7, 3.0, 10.0), 1e-3)


def _levels(draw: Draw, *, levels: int, pixels: Any, scale: str, reduction: str, cdf: str = "exact") -> dict[str, Any]:
    """Levels of which many are the first or the last, and means so near that no mass is below 1e-4."""
    shape = draw.sizes((1, 3), (1, 4))
    ends = np.array([0, levels - 1, 1, levels - 2])
    level = np.where(
        draw.integers(0, 1, *shape) == 0, ends[draw.integers(0, 3, *shape)], draw.integers(0, levels - 1, *shape)
    )
    width, reach = (pixels[1] - pixels[0]) / (levels - 1), 2.4
    s = _scales(draw, width, *shape)
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
        "the density times the bin's width, but for the ends": {
            "entries": lambda level, c, m, s, k: np.where(
                (level == 0) | (level == k - 1),
                _mass(logistic_cdf if kind == "logistic" else normal_cdf, level, c, m, s, k),
                density((c - m) / s, s) + math.log(2 / (k - 1)),
            )
        },
        "the bins of 256 levels": {"half": lambda k: 1 / 255},
        "the sign turned round": {"sign": -1},
        "the probability instead of its logarithm": {
            "entries": lambda level, c, m, s, k: np.exp(
                _mass(logistic_cdf if kind == "logistic" else normal_cdf, level, c, m, s, k)
            )
        },
        "multiplied by the scale instead of divided": {"scale": lambda x, how: 1 / scale_of(x, how)},
        "in bits, not nats": {"sign": 1 / math.log(2)},
        **{text: {"sums": wrong} for text, wrong in WRONG_SUMS.items()},
    }
    if kind == "logistic":
        found["the normal distribution instead of the logistic"] = {"cdf": normal_cdf}
        found["the scale taken for a standard deviation, s = σ √3/π"] = {
            "scale": lambda x, how: scale_of(x, how) * math.sqrt(3) / math.pi
        }
        found["half the log-scale, as if it were of a variance"] = {"scale": lambda x, how: np.sqrt(scale_of(x, how))}
    else:
        found["the logistic distribution instead of the normal"] = {"cdf": logistic_cdf}
        found["erf(z) in place of erf(z/√2)"] = {"cdf": lambda z: normal_cdf(z * math.sqrt(2))}
        found["the cube missing in the approximation of Φ"] = {
            "cdf": lambda z: 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * 1.044715 * z))
        }
        found["σ² in place of σ (with masses of 1e-12 at least)"] = {
            "scale": lambda x, how: scale_of(x, how) ** 2 if how == "std" else None,
            "floor": 1e-12,
        }
        found["the ½ missing: log σ² taken for log σ (with masses of 1e-12 at least)"] = {
            "scale": lambda x, how: np.exp(x) if how == "log_variance" else None,
            "floor": 1e-12,
        }
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
    other pixel values say so: pixels=(0, 1), or pixels=(0, 255) for the levels themselves.  No mass is below 1e-4, no
    log s below −6.91: a function may clamp there.

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
    spread evenly over the range `pixels`; mean and spread are on this range, too.  No mass is below 1e-4, no log σ
    below −6.91: a function may clamp there.

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
            s = scale_of(spreads, scale)
            of = _DENSITIES[wrong.get("density", "logistic")]
            parts = of((x[:, None] - means) / s, 1.0 if wrong.get("no slope") else s)
        elif "density" in wrong or "no slope" in wrong:
            return None
        else:
            x = np.broadcast_to(x[:, None], means.shape)
            settings = {k: v for k, v in wrong.items() if k not in ("levels",)}
            parts = _on_levels("logistic", **settings)(
                x, means, spreads, levels=levels, pixels=pixels, scale=scale, reduction="none"
            )
        return combine(parts, logits)

    return function


def log_sum_exp(x: Any, axis: int = -1) -> Any:
    top = x.max(axis, keepdims=True)
    return np.log(np.exp(x - top).sum(axis)) + top.squeeze(axis)


_mixed = lambda parts, logits: log_sum_exp(parts + log_softmax(logits))


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
    s = _scales(draw, width, n, m)
    means = x[:, None] + s * np.clip(draw.reals(n, m), -2.4, 2.4)
    return {"x": x, "logits": logits, "means": means, "spreads": np.log(s) if scale == "log_scale" else s}


@checker(
    name="log-probability of a mixture of logistics",
    equation="log Σ_m softmax(logits)_m p_m(x)",
    source="Salimans et al. 2017, eq. 1 and 2",
    inputs=_mixtures,
    truth=_of_mixture(_mixed),
    mistakes={
        "the logits of the weights not normalised": _of_mixture(lambda p, w: log_sum_exp(p + w)),
        "the weights missing: all components alike": _of_mixture(lambda p, w: log_sum_exp(p) - math.log(p.shape[1])),
        "the components added without weights": _of_mixture(lambda p, w: log_sum_exp(p)),
        "the weighted mean of the logarithms instead of the logarithm of the mean": _of_mixture(
            lambda p, w: (np.exp(log_softmax(w)) * p).sum(1)
        ),
        "the sum of log-weights and log-densities instead of their logsumexp": _of_mixture(
            lambda p, w: (p + log_softmax(w)).sum(1)
        ),
        "only the largest component": _of_mixture(lambda p, w: (p + log_softmax(w)).max(1)),
        "softmax in place of log-softmax of the weights": _of_mixture(
            lambda p, w: log_sum_exp(p + np.exp(log_softmax(w)))
        ),
        "the weights' softmax over the samples": _of_mixture(lambda p, w: log_sum_exp(p + log_softmax(w, 0))),
        "the likeliest component by weight only": _of_mixture(lambda p, w: p[np.arange(len(p)), w.argmax(1)]),
        "the sign turned round": _of_mixture(lambda p, w: -_mixed(p, w)),
        "averaged over the components: log M too much": _of_mixture(lambda p, w: _mixed(p, w) - math.log(p.shape[1])),
        "− log s missing in the density": _of_mixture(_mixed, **{"no slope": True}),
        "the normal density instead of the logistic": _of_mixture(_mixed, density="normal"),
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
            _mixed, levels=True, scale=lambda x, how: 1 / scale_of(x, how)
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
