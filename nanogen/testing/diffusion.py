"""The equations of diffusion: noise added, the posterior, conversions of predictions, weights, guidance, the bound.

All of them take the β of the user's own schedule: the equations sit inside objects that have one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.property import checker
from nanogen.testing.schedules import TIMES, Tables, precision, tables
from nanogen.testing.trial import to_numpy

Formula = Callable[..., Any]


def at(table: np.ndarray, t: Any, like: np.ndarray, time: str) -> np.ndarray:
    """The table's entries of the times t, () or (N,), one for each sample of `like`, (N, …)."""
    return np.reshape(table[np.asarray(t) - (time == "1…T")], (-1, *[1] * (np.ndim(like) - 1)))


def choose(called: str, value: Any, *allowed: Any) -> None:
    """Raise ValueError for a setting that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{called} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def index(draw: Draw, T: int, low: int = 0) -> int:
    """A time's index, small and large ones more often."""
    return draw.pick(
        *dict.fromkeys(i for i in (T // 2, low, low + 1, T - 1, T // 3, T // 10, low + 2, T - 2, T // 5) if i >= low)
    )


def batch(draw: Draw, names: tuple[str, ...], place: int, low: int = 0, **given: Any) -> dict[str, Any]:
    """Arrays (N, C, H, W) or (N, D) of these names, and at this place the times `t`, one for each sample."""
    T = len(tables(**given).beta)
    choose("t_as", given["t_as"], "array", "int")
    choose("axes", given["axes"], 1, 2, 3, 4)
    shape = draw.sizes((2, 3), (1, 2), (1, 3), (1, 3))[: given["axes"]]
    if given["t_as"] == "int":
        t: Any = index(draw, T, low) + (given["time"] == "1…T")
    else:
        t = np.array([index(draw, T, low) for _ in range(shape[0])]) + (given["time"] == "1…T")
    zero = draw.pick(None, None, None, *names)  # shows the other's factor alone
    items: list[tuple[str, Any]] = [(name, draw.reals(*shape) / 2 * (name != zero)) for name in names]
    items.insert(place, ("t", t))
    return dict(items)


SETTINGS = """betas: the β_1 … β_T of your schedule; by default Ho et al.'s, linspace(1e-4, 0.02, 1000).
        alphas_cumprod: ᾱ_1 … ᾱ_T, in place of betas.
        time: whether t runs from 0 to T − 1, or from 1 to T.
        t_as: "array", integers (N,), one for each sample; or "int", one Python integer for all.
        axes: the number of axes of the samples: 4 for images (N, C, H, W), 2 for vectors (N, D)."""


def documented(check: Any) -> Any:
    """The settings that all these checkers share, in the docstring."""
    check.__doc__ = check.__doc__.replace("{settings}", SETTINGS)
    return check


# q(x_t | x_0)


def _q(signal: Formula | None = None, noise: Formula | None = None, mixed: Formula | None = None) -> Formula:
    """x_t = signal · x_0 + noise · ε, each of the tables; the right ones where none are given."""

    def x_t(x0: Any, t: Any, eps: Any, *, process: str, time: str, sigmas: Any = None, **given: Any) -> Any:
        S = tables(**{name: given[name] for name in ("betas", "alphas_cumprod")})
        a = np.sqrt(S.bar) if signal is None else signal(S)
        b = np.sqrt(1 - S.bar) if noise is None else noise(S)
        if process == "exploding":
            if signal or noise:
                return None
            b = np.sqrt(1 / S.snr) if sigmas is None else to_numpy(sigmas).astype(float).ravel()
            a = np.ones(len(b))
        return (mixed or (lambda a, x0, b, eps: a * x0 + b * eps))(at(a, t, x0, time), x0, at(b, t, x0, time), eps)

    return x_t


def _q_inputs(draw: Draw, *, noise: str, **given: Any) -> dict[str, Any]:
    choose("noise", noise, "given", "returned")
    if given["process"] == "exploding" and given["sigmas"] is not None:
        given["betas"], given["alphas_cumprod"] = np.full(len(to_numpy(given["sigmas"]).ravel()), 0.5), None
    name = "noise" if noise == "given" else "_noise"
    return batch(draw, ("x0", name), 1, **given)


def _run_q(f: Any, inputs: dict[str, Any], *, noise: str, **_: Any) -> Any:
    if noise == "given":
        return f(*inputs.values())
    found = f(inputs["x0"], inputs["t"])
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise UsageError("check_q_sample: with noise='returned' the function must return x_t and the noise")
    inputs["_noise"][...] = np.reshape(to_numpy(found[1]), inputs["_noise"].shape)
    return found[0]


Q_MISTAKES = {
    "ᾱ_t in place of √ᾱ_t": _q(lambda S: S.bar),
    "1 − ᾱ_t in place of √(1 − ᾱ_t): the variance for the standard deviation": _q(noise=lambda S: 1 - S.bar),
    "both roots missing: ᾱ_t x_0 + (1 − ᾱ_t) ε": _q(lambda S: S.bar, lambda S: 1 - S.bar),
    "1 − √ᾱ_t in place of √(1 − ᾱ_t)": _q(noise=lambda S: 1 - np.sqrt(S.bar)),
    "α_t in place of ᾱ_t: one step of the chain": _q(lambda S: np.sqrt(S.alpha), lambda S: np.sqrt(S.beta)),
    "√α_t in place of √ᾱ_t": _q(lambda S: np.sqrt(S.alpha)),
    "√β_t in place of √(1 − ᾱ_t)": _q(noise=lambda S: np.sqrt(S.beta)),
    "ᾱ_{t−1} in place of ᾱ_t": _q(lambda S: np.sqrt(S.before), lambda S: np.sqrt(1 - S.before)),
    "ᾱ_{t+1} in place of ᾱ_t": _q(lambda S: np.sqrt(S.after), lambda S: np.sqrt(1 - S.after)),
    "the product of β in place of ᾱ": _q(
        lambda S: np.sqrt(np.cumprod(S.beta)), lambda S: np.sqrt(1 - np.cumprod(S.beta))
    ),
    "signal and noise swapped: √(1 − ᾱ_t) x_0 + √ᾱ_t ε": _q(lambda S: np.sqrt(1 - S.bar), lambda S: np.sqrt(S.bar)),
    "x_0 not scaled": _q(lambda S: np.ones(len(S.bar))),
    "the noise not scaled": _q(noise=lambda S: np.ones(len(S.bar))),
    "the noise subtracted": _q(mixed=lambda a, x0, b, eps: a * x0 - b * eps),
    "the first sample's t for all": _q(mixed=lambda a, x0, b, eps: a[:1] * x0 + b[:1] * eps),
    "σ² in place of σ": lambda x0, t, eps, *, process, **k: (
        None
        if process == "preserving"
        else _q(mixed=lambda a, x0, b, eps: x0 + b**2 * eps)(x0, t, eps, process=process, **k)
    ),
}


@documented
@checker(
    name="x_t",
    equation="x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε",
    source="Ho et al. 2020, eq. 4",
    inputs=_q_inputs,
    truth=_q(),
    mistakes=Q_MISTAKES,
    conventions={"process": ("preserving", "exploding"), "time": TIMES},
    run=_run_q,
    draws=lambda *, noise, **_: noise != "given",
    rtol=lambda single, *, sigmas=None, betas, alphas_cumprod, **_: (
        1e-5 if sigmas is not None else precision(single, betas=betas, alphas_cumprod=alphas_cumprod)
    ),
    tags=("diffusion", "q"),
)
def check_q_sample(
    q_sample: Any,
    *,
    betas: Any = None,
    alphas_cumprod: Any = None,
    sigmas: Any = None,
    process: str = "preserving",
    noise: str = "given",
    time: str = "0…T−1",
    t_as: str = "array",
    axes: int = 4,
    **options: Any,
) -> None:
    """A noisy sample x_t of q(x_t | x_0).

    The function is called as q_sample(x0, t, noise), x0 and noise of the shape (N, C, H, W), and returns x_t.  One that
    draws the noise itself: noise="returned".  One that is a method of an object: `check_q_sample(d.q_sample,
    betas=d.betas, convert=torch.tensor)`.

    Args:
        {settings}
        process: "preserving", √ᾱ_t x_0 + √(1 − ᾱ_t) ε; or "exploding", x_0 + σ_t ε.
        sigmas: σ_t of an exploding process; by default √((1 − ᾱ_t)/ᾱ_t).
        noise: "given"; or "returned": called as q_sample(x0, t), the function returns x_t and the noise that it drew.

    Equation: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε.  Ho et al. 2020, eq. 4.

    >>> import numpy as np
    >>> betas = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - betas)
    >>> def q_sample(x0, t, noise):
    ...     a = bar[t][:, None, None, None]
    ...     return np.sqrt(a) * x0 + np.sqrt(1 - a) * noise
    >>> check_q_sample(q_sample, betas=betas)
    """


# q(x_{t−1} | x_t, x_0)


def _posterior(
    one: Formula | None = None,
    two: Formula | None = None,
    variance: Formula | None = None,
    log: Formula = np.log,
    swapped: bool = False,
) -> Formula:
    """Mean, variance and log variance; of x_0 and x_t the coefficients, of the variance the table."""

    def outputs(x0: Any, x_t: Any, t: Any, *, time: str, first: str, **given: Any) -> Any:
        S = tables(**{name: given[name] for name in ("betas", "alphas_cumprod")})
        a = S.beta * np.sqrt(S.before) / (1 - S.bar) if one is None else one(S)
        b = np.sqrt(S.alpha) * (1 - S.before) / (1 - S.bar) if two is None else two(S)
        if swapped:
            a, b = b, a
        v = S.posterior if variance is None else variance(S)
        clipped = v if v[0] > 0 else np.append({"second": v[1], "tiny": 1e-20}[first], v[1:])
        spread = lambda table: at(table, t, x_t, time) * np.ones_like(x_t)
        return {
            "mean": at(a, t, x_t, time) * x0 + at(b, t, x_t, time) * x_t,
            "variance": spread(v),
            "log variance": spread(log(clipped)),
        }

    return outputs


def _run_posterior(f: Any, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
    found = f(*inputs.values())
    parts = list(found) if isinstance(found, tuple | list) else [found]
    shape = np.shape(to_numpy(inputs["x_t"]))
    parts = [None if x is None else to_numpy(x) for x in parts] + [None] * (3 - len(parts))
    full = [x if x is None or x.shape == shape else np.broadcast_to(_in_front(x, shape), shape) for x in parts]
    return dict(zip(("mean", "variance", "log variance"), full))


def _in_front(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(N,) as (N, 1, 1, 1): a number per sample."""
    return x.reshape(-1, *[1] * (len(shape) - 1)) if x.ndim == 1 and len(x) in (1, shape[0]) else x


POSTERIOR_MISTAKES = {
    "the two coefficients swapped": _posterior(swapped=True),
    "√ᾱ_t in place of √ᾱ_{t−1} (of x_0)": _posterior(lambda S: S.beta * np.sqrt(S.bar) / (1 - S.bar)),
    "ᾱ_{t−1} without its root (of x_0)": _posterior(lambda S: S.beta * S.before / (1 - S.bar)),
    "√α_t in place of √ᾱ_{t−1} (of x_0)": _posterior(lambda S: S.beta * np.sqrt(S.alpha) / (1 - S.bar)),
    "β_t missing (of x_0)": _posterior(lambda S: np.sqrt(S.before) / (1 - S.bar)),
    "divided by √(1 − ᾱ_t), not 1 − ᾱ_t (of x_0)": _posterior(lambda S: S.beta * np.sqrt(S.before / (1 - S.bar))),
    "α_t without its root (of x_t)": _posterior(two=lambda S: S.alpha * (1 - S.before) / (1 - S.bar)),
    "√ᾱ_t in place of √α_t (of x_t)": _posterior(two=lambda S: np.sqrt(S.bar) * (1 - S.before) / (1 - S.bar)),
    "√ᾱ_{t−1} in place of √α_t (of x_t)": _posterior(two=lambda S: np.sqrt(S.before) * (1 - S.before) / (1 - S.bar)),
    "1 − ᾱ_t in place of 1 − ᾱ_{t−1} (of x_t)": _posterior(two=lambda S: np.sqrt(S.alpha)),
    "ᾱ_{t−1} as ᾱ_t throughout": _posterior(
        lambda S: S.beta * np.sqrt(S.bar) / (1 - S.bar), lambda S: np.sqrt(S.alpha), lambda S: S.beta
    ),
    "β_t in place of the posterior variance": _posterior(variance=lambda S: S.beta),
    "posterior variance with 1 − α_t in place of 1 − ᾱ_t": _posterior(variance=lambda S: 1 - S.before),
    "posterior variance without β_t": _posterior(variance=lambda S: (1 - S.before) / (1 - S.bar)),
    "posterior standard deviation in place of the variance": _posterior(variance=lambda S: np.sqrt(S.posterior)),
    "log of the standard deviation in place of the log variance": _posterior(log=lambda v: np.log(v) / 2),
    "the ratio of the posterior variance upside down": _posterior(
        variance=lambda S: S.beta * (1 - S.bar) / np.maximum(1 - S.before, 1e-20)
    ),
}


@documented
@checker(
    name="posterior",
    equation="μ̃ = √ᾱ_{t−1} β_t/(1 − ᾱ_t) x_0 + √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t,  β̃ = (1 − ᾱ_{t−1})/(1 − ᾱ_t) β_t",
    source="Ho et al. 2020, eq. 6, 7",
    inputs=lambda draw, **given: batch(draw, ("x0", "x_t"), 2, **given),
    truth=_posterior(),
    mistakes=POSTERIOR_MISTAKES,
    conventions={"time": TIMES, "first": ("second", "tiny")},
    where={
        "at the first time": lambda x0, x_t, t, *, time, **_: bool(np.min(t) == (time == "1…T")),
    },
    run=_run_posterior,
    rtol=precision,
    tags=("diffusion", "q"),
)
def check_q_posterior(
    q_posterior: Any,
    *,
    betas: Any = None,
    alphas_cumprod: Any = None,
    time: str = "0…T−1",
    t_as: str = "array",
    axes: int = 4,
    first: str = "second",
    **options: Any,
) -> None:
    """Mean and variance of q(x_{t−1} | x_t, x_0).

    The function is called as q_posterior(x0, x_t, t), arrays of the shape (N, C, H, W), and returns the mean; or mean
    and variance; or mean, variance and log variance.  The variances may be (N, 1, 1, 1) or (N,).  None is not judged.

    Args:
        {settings}
        first: what the log variance is at t = 1, where the variance is 0: "second", log β̃_2; or "tiny", log 1e-20.

    Equation: μ̃ = √ᾱ_{t−1} β_t/(1 − ᾱ_t) x_0 + √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t,  β̃ = (1 − ᾱ_{t−1})/(1 − ᾱ_t) β_t.  Ho
    et al. 2020, eq. 6 and 7.

    >>> import numpy as np
    >>> betas = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - betas)
    >>> before = np.append(1, bar[:-1])
    >>> def q_posterior(x0, x_t, t):
    ...     b, a, p = (x[t][:, None, None, None] for x in (betas, bar, before))
    ...     mean = b * p**0.5 / (1 - a) * x0 + (1 - b) ** 0.5 * (1 - p) / (1 - a) * x_t
    ...     return mean, b * (1 - p) / (1 - a)
    >>> check_q_posterior(q_posterior, betas=betas)
    """


# Noise, x_0, v, the mean: what a network predicts

PREDICTIONS = ("noise", "x0", "v", "score", "mean")


def to_x0(kind: str, x: Any, value: Any, a: Any, s: Any, one: Any, two: Any, sign: float = 1.0) -> Any:
    """x_0 from x_t and a prediction; a = √ᾱ, s = √(1 − ᾱ), and the coefficients of the posterior mean."""
    return {
        "x0": lambda: value,
        "noise": lambda: (x - sign * s * value) / a,
        "v": lambda: a * x - sign * s * value,
        "score": lambda: (x + sign * s**2 * value) / a,
        "mean": lambda: (value - sign * two * x) / one,
    }[kind]()


def from_x0(kind: str, x: Any, x0: Any, a: Any, s: Any, one: Any, two: Any, sign: float = 1.0) -> Any:
    """A prediction from x_t and x_0."""
    return {
        "x0": lambda: x0,
        "noise": lambda: (x - sign * a * x0) / s,
        "v": lambda: (a * x - x0) / s,
        "score": lambda: -(x - a * x0) / s**2,
        "mean": lambda: one * x0 + sign * two * x,
    }[kind]()


def _coefficients(S: Tables, a: Formula | None, s: Formula | None, bar: Formula | None) -> list[Any]:
    b = S.bar if bar is None else bar(S)
    return [
        np.sqrt(b) if a is None else a(S),
        np.sqrt(1 - b) if s is None else s(S),
        S.beta * np.sqrt(S.before) / (1 - S.bar),
        np.sqrt(S.alpha) * (1 - S.before) / (1 - S.bar),
    ]


def _converted(
    a: Formula | None = None,
    s: Formula | None = None,
    bar: Formula | None = None,
    last: Formula = lambda x, x_t, value: x,
    flip: str = "",
    own: Formula | None = None,
) -> Formula:
    def value_of(x: Any, t: Any, value: Any, *, have: str, want: str, time: str, **given: Any) -> Any:
        S = tables(**{name: given[name] for name in ("betas", "alphas_cumprod")})
        c: list[Any] = [at(table, t, x, time) for table in _coefficients(S, a, s, bar)]
        if (
            {have, want} in _SAME
            or have == want
            or (flip == "have" and "x0" in have)
            or (flip == "want" and want not in ("noise", "mean"))
        ):
            return None
        if own is not None:
            return own(x, value, c, have, want)
        x0 = x
        if have == "x0 and noise":
            x = c[0] * x0 + c[1] * value
        else:
            x0 = to_x0(have, x, value, c[0], c[1], c[2], c[3], -1.0 if flip == "have" else 1.0)
        return last(from_x0(want, x, x0, c[0], c[1], c[2], c[3], -1.0 if flip == "want" else 1.0), x, value)

    return value_of


_SAME = ({"x0 and noise", "x0"}, {"x0 and noise", "noise"})  # nothing to convert


def _direct(formula: Formula, *pairs: tuple[str, str]) -> Formula:
    """A mistake of some conversions alone: (x_t, value, √ᾱ, √(1 − ᾱ)) -> output."""
    return _converted(
        own=lambda x, value, c, have, want: formula(x, value, c[0], c[1]) if (have, want) in pairs else None
    )


def _conversion_inputs(draw: Draw, *, have: str, want: str, **given: Any) -> dict[str, Any]:
    if have == want or {have, want} in _SAME:
        raise ValueError(f"check_conversion: {want!r} is known, given {have!r}")
    low = 1 if "mean" in (have, want) else 0  # at the first time the mean is x_0, whatever the coefficients
    names = ("x0", "noise") if have == "x0 and noise" else ("x_t", have)
    return batch(draw, names, 1, low, **given)


CONVERSION_MISTAKES = {
    "ᾱ_t in place of √ᾱ_t": _converted(a=lambda S: S.bar),
    "1 − ᾱ_t in place of √(1 − ᾱ_t)": _converted(s=lambda S: 1 - S.bar),
    "both roots missing": _converted(lambda S: S.bar, lambda S: 1 - S.bar),
    "1 − √ᾱ_t in place of √(1 − ᾱ_t)": _converted(s=lambda S: 1 - np.sqrt(S.bar)),
    "α_t in place of ᾱ_t": _converted(bar=lambda S: S.alpha),
    "ᾱ_{t−1} in place of ᾱ_t": _converted(bar=lambda S: np.clip(S.before, 1e-12, 1 - 1e-12)),
    "ᾱ_{t+1} in place of ᾱ_t": _converted(bar=lambda S: np.append(S.bar[1:], S.bar[-1])),
    "√ᾱ_t and √(1 − ᾱ_t) swapped": _converted(lambda S: np.sqrt(1 - S.bar), lambda S: np.sqrt(S.bar)),
    "√β_t in place of √(1 − ᾱ_t)": _converted(s=lambda S: np.sqrt(S.beta)),
    "the sign of what is given turned round": _converted(flip="have"),
    "the sign of a term of what is wanted turned round": _converted(flip="want"),
    "the sign of the output turned round": _converted(last=lambda x, x_t, value: -x),
    "not divided by √ᾱ_t": _direct(lambda x, e, a, s: x - s * e, ("noise", "x0")),
    "multiplied by √ᾱ_t instead of divided": _direct(lambda x, e, a, s: a * (x - s * e), ("noise", "x0")),
    "only x_t divided by √ᾱ_t": _direct(lambda x, e, a, s: x / a - s * e, ("noise", "x0")),
    "not divided by √(1 − ᾱ_t)": _direct(lambda x, x0, a, s: x - a * x0, ("x0", "noise")),
    "multiplied by √(1 − ᾱ_t) instead of divided": _direct(lambda x, x0, a, s: s * (x - a * x0), ("x0", "noise")),
    "v given back for ε": _direct(lambda x, v, a, s: v, ("v", "noise")),
    "√ᾱ_t v − √(1 − ᾱ_t) x_t in place of their sum": _direct(lambda x, v, a, s: a * v - s * x, ("v", "noise")),
    "the score of σ = √((1 − ᾱ_t)/ᾱ_t): −ε √ᾱ_t/√(1 − ᾱ_t)": _direct(lambda x, e, a, s: -e * a / s, ("noise", "score")),
    "the score not divided: −ε": _direct(lambda x, e, a, s: -e, ("noise", "score")),
}


@documented
@checker(
    name="conversion",
    equation="x_0 = (x_t − √(1 − ᾱ) ε)/√ᾱ;  v = √ᾱ ε − √(1 − ᾱ) x_0;  score = −ε/√(1 − ᾱ);  mean = μ̃(x_t, x_0)",
    source="Ho et al. 2020, eq. 4, 7; Salimans & Ho 2022, appendix D",
    inputs=_conversion_inputs,
    truth=_converted(),
    mistakes=CONVERSION_MISTAKES,
    conventions={"have": (*PREDICTIONS, "x0 and noise"), "want": PREDICTIONS, "time": TIMES},
    rtol=precision,
    tags=("diffusion", "prediction"),
)
def check_conversion(
    convert_prediction: Any,
    *,
    have: str = "noise",
    want: str = "x0",
    betas: Any = None,
    alphas_cumprod: Any = None,
    time: str = "0…T−1",
    t_as: str = "array",
    axes: int = 4,
    **options: Any,
) -> None:
    """What a network predicts as something else: ε, x_0, v, the score, the mean of q(x_{t−1} | x_t, x_0).

    The function is called as f(x_t, t, prediction), arrays of the shape (N, C, H, W); with have="x0 and noise" as
    f(x0, t, noise).

    Args:
        have: what is given besides x_t: "noise", "x0", "v", "score" or "mean"; or "x0 and noise".
        want: what is returned.
        {settings}

    Equation: x_0 = (x_t − √(1 − ᾱ) ε)/√ᾱ;  v = √ᾱ ε − √(1 − ᾱ) x_0, so that x_0 = √ᾱ x_t − √(1 − ᾱ) v and
    ε = √ᾱ v + √(1 − ᾱ) x_t;  score = −ε/√(1 − ᾱ).  Ho et al. 2020, eq. 4; Salimans & Ho 2022, appendix D.

    >>> import numpy as np
    >>> betas = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - betas)
    >>> def x0_from_noise(x_t, t, noise):
    ...     a = bar[t][:, None, None, None]
    ...     return (x_t - np.sqrt(1 - a) * noise) / np.sqrt(a)
    >>> check_conversion(x0_from_noise, have="noise", want="x0", betas=betas)
    """
