"""Samplers against their densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.densities import scale_of
from nanogen.testing.divergences import SCALES, log_softmax, spread_of
from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.laws import DRAWS, Continuous, Discrete, Repeated, logistic_cdf, normal_cdf
from nanogen.testing.property import Property, checker, register
from nanogen.testing.trial import to_numpy


def _law(cdf: Callable[[Any], Any], name: str) -> Continuous:
    return Continuous(name, cdf)


def _repeated(draw: Draw, *arrays: float | np.ndarray) -> list[np.ndarray]:
    return [np.broadcast_to(np.asarray(a, float), (DRAWS, *np.shape(a))).copy() for a in arrays]


_NOISES: dict[str, Callable[[Any], Any]] = {
    "normal": normal_cdf,
    "logistic": logistic_cdf,
    "normal, absolute": lambda z: np.maximum(2 * normal_cdf(z) - 1, 0.0),
    "logistic, absolute": lambda z: np.maximum(2 * logistic_cdf(z) - 1, 0.0),
    "uniform": lambda z: np.clip(z, 0.0, 1.0),
    "log u": lambda z: np.exp(np.minimum(z, 0.0)),
    "both added": lambda z: 1 - np.sqrt(np.maximum(1 - 4 * np.exp(np.minimum(z, 0.0)), 0.0)),
}


def _sampled(family: str, s_of: Callable[[Any, str], Any], shift: float = 1.0) -> Callable[..., Any]:
    cdf = _NOISES[family]

    def law(mean: Any, spread: Any, *, scale: str) -> Any:
        m, s = float(mean[0]), s_of(spread[:1], scale)
        if s is None or not np.isfinite(s).all() or s[0] <= 0:
            return None
        return _law(
            lambda x: cdf((x - shift * m) / s[0]),
            f"{'L' if family == 'logistic' else 'N'}(mean {shift * m:.4g}, scale {s[0]:.4g})",
        )

    return law


_WRONG_LOGISTIC = {
    "log u alone, without log(1 − u)": _sampled("log u", scale_of),
    "log(1 − u) added instead of subtracted": _sampled("both added", scale_of),
}


def _sampler_mistakes(family: str) -> dict[str, Callable[..., Any]]:
    other = "logistic" if family == "normal" else "normal"
    return {
        "the variance in place of the standard deviation"
        if family == "normal"
        else "the square of the scale in place of the scale": _sampled(family, lambda s, how: scale_of(s, how) ** 2),
        "divided by the scale instead of multiplied": _sampled(family, lambda s, how: 1 / scale_of(s, how)),
        "the scale ignored": _sampled(family, lambda s, how: np.ones_like(s)),
        "about twice the scale": _sampled(family, lambda s, how: 2 * scale_of(s, how)),
        "about the scale over √2": _sampled(family, lambda s, how: scale_of(s, how) / np.sqrt(2)),
        "the noise's absolute value": _sampled(f"{family}, absolute", scale_of),
        "about half the scale": _sampled(family, lambda s, how: 0.5 * scale_of(s, how)),
        "the mean left out": _sampled(family, scale_of, 0.0),
        "the mean with the other sign": _sampled(family, scale_of, -1.0),
        "the mean twice": _sampled(family, scale_of, 2.0),
        f"{other} noise instead of {family} noise": _sampled(other, scale_of),
        "uniform noise of 0 … 1 as it is": _sampled("uniform", scale_of),
        **({} if family == "normal" else _WRONG_LOGISTIC),
        "one draw for all": lambda *_, **__: Repeated(),
    }


def _run_sampler(sample: Any, given: dict[str, Any], **_: Any) -> Any:
    draws = sample(*given.values())
    size = 1 if draws is None else to_numpy(draws).size
    if size not in (1, DRAWS):
        raise UsageError(f"the sampler must return {DRAWS} draws, got {size}")
    return draws


def _sampler_parts(family: str) -> dict[str, Any]:
    def inputs(draw: Draw, *, scale: str) -> dict[str, Any]:
        mean, s = draw.pick(1.0, -2.0, 0.5, -0.7, 2.4, -1.5), draw.pick(2.0, 0.5, 1.0, 3.0, 0.25)
        spread = np.log(s) if scale == "log_scale" else s if scale == "scale" else spread_of(np.array(s**2), scale)
        mean, spread = _repeated(draw, mean, spread)
        return {"mean": mean, "spread": spread}

    return {
        "name": f"{family} sampler",
        "inputs": inputs,
        "truth": _sampled(family, scale_of),
        "mistakes": _sampler_mistakes(family),
        "run": _run_sampler,
        "describe": lambda given, index, **c: f"draws from {_sampled(family, scale_of)(*given.values(), **c)}",
        "examples": 6,
        "draws": True,
        "tags": ("sampler",),
    }


@checker(
    **_sampler_parts("normal"),
    equation="x ~ N(μ, σ²)",
    source="Kolmogorov 1933: the test",
    conventions={"scale": SCALES},
)
def check_normal_sampler(sample: Any, *, scale: str = "std", **options: Any) -> None:
    """Draws from a normal distribution, by a function that draws its own noise.

    The function is called as sample(mean, spread), both (12000,) with equal entries, and returns one draw for each.

    Args:
        scale: what the spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.

    Power: the test is Kolmogorov and Smirnov's at the level 1e-6; a gap of 0.05 between the distribution functions is
    missed less than once in a million.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check_normal_sampler(lambda mean, std: mean + std * rng.standard_normal(mean.shape))
    """


@checker(
    **_sampler_parts("logistic"),
    equation="x = μ + s (log u − log(1 − u)), u ~ U(0, 1)",
    source="Salimans et al. 2017, section 2.1",
    conventions={"scale": ("log_scale", "scale")},
)
def check_logistic_sampler(sample: Any, *, scale: str = "log_scale", **options: Any) -> None:
    """Draws from a logistic distribution, before any rounding to levels and clamping to [−1, 1].

    The function is called as sample(mean, scale), both (12000,) with equal entries, and returns one draw for each.

    Args:
        scale: "log_scale": log s is handed over; or "scale": s.

    Power: as check_normal_sampler.
    Equation: x = μ + s (log u − log(1 − u)), u uniform.  Salimans et al. 2017.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def sample(mean, log_s):
    ...     u = rng.random(mean.shape)
    ...     return mean + np.exp(log_s) * (np.log(u) - np.log1p(-u))
    >>> check_logistic_sampler(sample)
    """


def _mixture_law(weigh: Callable[[Any], Any], s_of: Callable[[Any, str], Any] = scale_of) -> Callable[..., Any]:
    def law(logits: Any, means: Any, spreads: Any, *, scale: str) -> Any:
        w, m, s = weigh(logits[0]), means[0], s_of(spreads[0], scale)
        cdf = lambda x: (w * logistic_cdf((x[:, None] - m) / s)).sum(1)
        return _law(cdf, f"the mixture of logistics with the weights {np.round(w, 3).tolist()}")

    return law


_weigh = lambda logits: np.exp(log_softmax(logits))


def _largest_with(cdf: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The probabilities of argmax(logits + noise), for noise with this distribution function: Σ_x Δ F_k Π_{j≠k} F_j."""

    def weigh(logits: Any) -> Any:
        logits = np.maximum(logits, logits.max() - 40)
        x = np.linspace(logits.min() - 30, logits.max() + 30, 60_001)
        below = cdf(x[:, None] - logits)
        middle, parts = 0.5 * (below[1:] + below[:-1]), np.diff(below, axis=0)
        each = np.array([(parts[:, k] * np.delete(middle, k, 1).prod(1)).sum() for k in range(len(logits))])
        return each / each.sum()

    return weigh


_WRONG_GUMBELS = {
    "Gumbel noise with the wrong sign: log(−log u)": _largest_with(lambda z: -np.expm1(-np.exp(np.minimum(z, 30)))),
    "−log u in place of Gumbel noise, −log(−log u)": _largest_with(lambda z: -np.expm1(-np.maximum(z, 0))),
    "uniform noise in place of Gumbel noise": _largest_with(_NOISES["uniform"]),
    "normal noise in place of Gumbel noise": _largest_with(_NOISES["normal"]),
}


def _mean_law(logits: Any, means: Any, spreads: Any, *, scale: str) -> Any:
    w, m = _weigh(logits[0]), means[0]
    s = float(w @ scale_of(spreads[0], scale))
    return _law(lambda x: logistic_cdf((x - w @ m) / s), "the logistic at the mixture's mean")


def _mixture_inputs(draw: Draw, *, scale: str) -> dict[str, Any]:
    k = draw.integer(2, 3)
    logits = np.array([draw.pick(0.0, 1.0, -1.0, 1.5) for _ in range(k)]) + 0.4 * np.arange(k)
    means = np.array([-3.0, 2.0, 6.0])[:k] + draw.real()
    s = np.array([draw.pick(0.5, 1.0, 0.25) for _ in range(k)])
    found = _repeated(draw, logits, means, np.log(s) if scale == "log_scale" else s)
    return dict(zip(("logits", "means", "spreads"), found))


@checker(
    name="sampler of a mixture of logistics",
    equation="m ~ softmax(logits), x = μ_m + s_m (log u − log(1 − u))",
    source="Salimans et al. 2017, section 2.1",
    inputs=_mixture_inputs,
    truth=_mixture_law(_weigh),
    mistakes={
        "all components alike, whatever the weights": _mixture_law(lambda w: np.full(len(w), 1 / len(w))),
        "the likeliest component every time": _mixture_law(lambda w: np.eye(len(w))[w.argmax()]),
        "the weights turned round: the least likely most often": _mixture_law(lambda w: _weigh(-w)),
        "weights of the temperature ½": _mixture_law(lambda w: _weigh(2 * w)),
        "weights of the temperature 2": _mixture_law(lambda w: _weigh(0.5 * w)),
        **{text: _mixture_law(weigh) for text, weigh in _WRONG_GUMBELS.items()},
        "softmax twice: logits that are probabilities": _mixture_law(lambda w: _weigh(_weigh(w))),
        "the first component every time": _mixture_law(lambda w: np.eye(len(w))[0]),
        "a draw about the mixture's mean instead of a component": _mean_law,
        "the square of the scales": _mixture_law(_weigh, lambda s, how: scale_of(s, how) ** 2),
        "divided by the scales instead of multiplied": _mixture_law(_weigh, lambda s, how: 1 / scale_of(s, how)),
        "the scales ignored": _mixture_law(_weigh, lambda s, how: np.ones_like(s)),
        "one draw for all": lambda *_, **__: Repeated(),
    },
    conventions={"scale": ("log_scale", "scale")},
    run=_run_sampler,
    describe=lambda given, index, **c: f"draws from {_mixture_law(_weigh)(*given.values(), **c)}",
    examples=6,
    draws=True,
    tags=("sampler", "mixture"),
)
def check_mixture_sampler(sample: Any, *, scale: str = "log_scale", **options: Any) -> None:
    """Draws from a mixture of logistic distributions, before any rounding to levels and clamping to [−1, 1].

    The function is called as sample(logits, means, scales), all (12000, M) with equal rows, and returns (12000,).

    Args:
        scale: "log_scale": log s is handed over; or "scale": s.

    Power: as check_normal_sampler.
    Equation: m ~ softmax(logits), x = μ_m + s_m (log u − log(1 − u)).  Salimans et al. 2017.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def sample(logits, means, log_s):
    ...     m = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    ...     u, rows = rng.random(len(m)), np.arange(len(m))
    ...     return means[rows, m] + np.exp(log_s[rows, m]) * (np.log(u) - np.log1p(-u))
    >>> check_mixture_sampler(sample)
    """


def check_sampler(
    sample: Callable[[int], Any],
    *,
    probabilities: Any = None,
    density: Callable[[np.ndarray], Any] | None = None,
    log_density: Callable[[np.ndarray], Any] | None = None,
    support: tuple[float, float] = (-20.0, 20.0),
    **options: Any,
) -> None:
    """A sampler against a density.

    sample(12000) returns so many numbers, drawn one independently of the other.  One of these says what they must
    follow:

    Args:
        probabilities: of the integers 0 … K − 1; they sum to 1.
        density: of real numbers, a function of an array; it need not be normalised.
        log_density: its logarithm, instead.
        support: outside of this interval the density is 0, or too small to matter.

    Power: tests at the level 1e-6.  A gap of 0.05 between distribution functions is missed less than once in a million.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check_sampler(lambda n: rng.exponential(size=n), density=lambda x: np.exp(-x), support=(0, 40))
    >>> check_sampler(lambda n: rng.binomial(2, 0.5, n), probabilities=[0.25, 0.5, 0.25])
    """
    if sum(given is not None for given in (probabilities, density, log_density)) != 1:
        raise ValueError("check_sampler: give one of probabilities, density and log_density")
    law: Any
    if probabilities is not None:
        p = np.asarray(probabilities, float)
        if p.ndim != 1 or (p < 0).any() or abs(p.sum() - 1) > 1e-6:
            raise ValueError(f"check_sampler: probabilities must be positive and sum to 1, got {probabilities!r}")
        law = Discrete("the given probabilities", p)
    else:
        grid = np.linspace(*support, 200_001)
        middle = 0.5 * (grid[1:] + grid[:-1])
        if density is not None:
            mass = np.array(density(middle), dtype=np.float64)
        else:
            assert log_density is not None
            of = np.array(log_density(middle), dtype=np.float64)
            mass = np.exp(of - of.max())
        below = np.concatenate([[0.0], mass.cumsum() / mass.sum()])
        law = Continuous("the given density", lambda x: np.interp(x, grid, below))
    Property(
        name="sampler",
        equation="the share of draws below x is F(x)",
        source="Kolmogorov 1933; Pearson 1900",
        inputs=lambda draw: {"n": DRAWS},
        truth=lambda n: law,
        mistakes={"one draw for all": lambda n: Repeated()}
        | {
            text: lambda n, weigh=weigh: Discrete("wrong", weigh(np.log(np.maximum(p, 1e-30))))
            for text, weigh in _WRONG_GUMBELS.items()
            if probabilities is not None
        },
        run=_run_sampler,
        describe=lambda given, index: f"{given['n']} draws",
        examples=3,
        draws=True,
    ).check(sample, "check_sampler", {}, {}, **options)


check_sampler.tags = ("sampler",)  # type: ignore[attr-defined]
register(check_sampler)
