"""The tables of diffusion's forward process: schedules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import Property, register
from nanogen.testing.trial import to_numpy

HO = np.linspace(1e-4, 0.02, 1000)  # Ho et al. 2020, section 4
TIMES = ("0…T−1", "1…T")


class Tables:
    """β_t, α_t, ᾱ_t, ᾱ_{t−1} and β̃_t for t = 1 … T, at the indices 0 … T − 1."""

    def __init__(self, beta: np.ndarray, before: np.ndarray | None = None, bar: np.ndarray | None = None):
        self.beta, self.alpha = beta, 1 - beta
        self.bar = np.cumprod(self.alpha) if bar is None else bar
        self.before = np.append(1.0, self.bar[:-1]) if before is None else before
        self.after = np.append(self.bar[1:], 0.0)
        self.posterior = beta * (1 - self.before) / (1 - self.bar)

    @property
    def snr(self) -> np.ndarray:
        return self.bar / (1 - self.bar)


def tables(betas: Any = None, alphas_cumprod: Any = None, **_: Any) -> Tables:
    """Of the user's β_1 … β_T, or ᾱ_1 … ᾱ_T.  An entry for the clean image, β_0 = 0 or ᾱ_0 = 1, is left out."""
    if betas is None and alphas_cumprod is not None:
        bar = to_numpy(alphas_cumprod).astype(float).ravel()
        bar = bar[1:] if bar[0] == 1 else bar
        return Tables(1 - bar / np.append(1.0, bar[:-1]), bar=bar)
    beta = HO if betas is None else to_numpy(betas).astype(float).ravel()
    beta = beta[1:] if beta[0] == 0 else beta
    if len(beta) < 3 or not ((beta > 0) & (beta <= 1)).all():
        raise ValueError(f"betas must be at least 3 numbers in (0, 1], got {len(beta)}, {beta.min()} … {beta.max()}")
    return Tables(beta)


def precision(single: bool, **given: Any) -> float:
    """What tables in single precision may be off, relatively: 1 − ᾱ_1 is a difference of numbers about 1."""
    return float(np.clip(2.4e-7 / tables(**given).beta[0], 1e-5, 1e-2))


# Schedules


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _cosine_bar(u: Any, s: float, power: float = 2.0, angle: float = math.pi / 2) -> Any:
    return np.cos((u + s) / (1 + s) * angle) ** power


def named_betas(kind: str, T: int, first: float, last: float, s: float, largest: float, wrong: str = "") -> Any:
    """β_1 … β_T of a schedule with a name; `wrong` is one of the mistakes below.  None where it does not apply."""
    if wrong and wrong not in _KIND_MISTAKES.get(kind, {}).values():
        return None
    if kind == "cosine":
        u = np.arange(T + 1) / T
        bar = _cosine_bar(u, s)
        if wrong == "no s":
            bar = _cosine_bar(u, 0.0)
        elif wrong == "s not normalised":
            bar = np.cos((u + s) * (math.pi / 2)) ** 2
        elif wrong == "no square":
            bar = _cosine_bar(u, s, 1.0)
        elif wrong == "whole pi":
            bar = _cosine_bar(u, s, angle=math.pi)
        elif wrong == "sine":
            bar = np.sin((u + s) / (1 + s) * (math.pi / 2)) ** 2
        elif wrong == "grid T + 1":
            bar = _cosine_bar(np.linspace(0, 1, T + 1) * T / (T + 1), s)
        elif wrong == "one late":
            bar = _cosine_bar(np.arange(T + 1) / T + 1 / T, s)
        beta = 1 - bar[1:] / bar[:-1]
        return {
            "no clip": beta,
            "clip 1": np.minimum(beta, 0.9999),
            "clip 0.99": np.minimum(beta, 0.99),
            "clip low": np.clip(beta, 1e-4, largest),
        }.get(wrong, np.minimum(beta, largest))
    low, high, points = first, last, np.linspace(0, 1, T)
    if wrong == "no end":
        points = np.arange(T) / T
    elif wrong == "no start":
        points = np.arange(1, T + 1) / T
    elif wrong == "reversed":
        low, high = high, low
    elif wrong == "scaled":
        low, high = (min(x * 1000 / T, 0.999) for x in (low, high))
    if kind == "linear":
        return low + (high - low) * points
    if kind == "quadratic":
        if wrong == "no roots":
            return (low + (high - low) * points) ** 2
        if wrong == "no square":
            return low**0.5 + (high**0.5 - low**0.5) * points
        if wrong == "square grid":
            return low + (high - low) * points**2
        return (low**0.5 + (high**0.5 - low**0.5) * points) ** 2
    wide = {"range 3": 3.0, "range 1": 1.0}.get(wrong, 6.0)
    if wrong == "not shifted":
        return _sigmoid(12 * points - 6) * high
    return low + (high - low) * _sigmoid(2 * wide * points - wide)


_LINES = {
    "the last point missing: steps of 1/T from the first β, which never reach the last": "no end",
    "the first point missing: steps of 1/T up to the last β": "no start",
    "from the last β to the first": "reversed",
    "both ends times 1000/T": "scaled",
}
_KIND_MISTAKES: dict[str, dict[str, str]] = {
    "linear": _LINES,
    "quadratic": {
        **_LINES,
        "squares of β between β_1 and β_T, without the roots": "no roots",
        "the squares missing: √β": "no square",
        "the grid squared instead of √β": "square grid",
    },
    "sigmoid": {
        **_LINES,
        "the sigmoid from −3 to 3": "range 3",
        "the sigmoid from −1 to 1": "range 1",
        "not shifted to the first β": "not shifted",
    },
    "cosine": {
        "without the offset s": "no s",
        "not divided by 1 + s": "s not normalised",
        "cos without its square": "no square",
        "π instead of π/2": "whole pi",
        "sine instead of cosine": "sine",
        "t/(T + 1) instead of t/T": "grid T + 1",
        "one step late: f(t + 1)/f(t + 2) in place of f(t)/f(t + 1)": "one late",
        "β not limited": "no clip",
        "β limited at 0.9999": "clip 1",
        "β limited at 0.99": "clip 0.99",
        "β limited from below": "clip low",
    },
}

_ALIASES = {
    "betas": ("beta",),
    "alphas": ("alpha",),
    "alphas_cumprod": (
        "alpha_bars",
        "alpha_bar",
        "alphas_bar",
        "alpha_hat",
        "alphas_hat",
        "alpha_cumprod",
        "alphabars",
    ),
    "alphas_cumprod_prev": ("alpha_bars_prev", "alpha_bar_prev", "alphas_bar_prev", "alpha_cumprod_prev"),
    "alphas_cumprod_next": (),
    "sqrt_alphas_cumprod": ("sqrt_alpha_bars", "sqrt_alpha_bar", "sqrt_alphas_bar", "sqrt_alpha_cumprod"),
    "sqrt_one_minus_alphas_cumprod": (
        "sqrt_one_minus_alpha_bars",
        "sqrt_one_minus_alpha_bar",
        "sqrt_one_minus_alphas_bar",
        "sqrt_one_minus_alpha_cumprod",
    ),
    "log_one_minus_alphas_cumprod": (),
    "sqrt_recip_alphas_cumprod": (),
    "sqrt_recipm1_alphas_cumprod": (),
    "sqrt_recip_alphas": (),
    "posterior_variance": ("posterior_variances",),
    "posterior_log_variance_clipped": (),
    "posterior_mean_coef1": (),
    "posterior_mean_coef2": (),
    "snr": (),
    "sigmas": (),
}


def derived(beta: np.ndarray, first: str = "second", wrong: str = "") -> dict[str, np.ndarray]:
    """All arrays that follow from β, by their usual names.  A mistake in one goes on to those made of it."""
    S = Tables(beta)
    bar = {
        "bar shifted": S.before,
        "bar of beta": np.cumprod(beta),
        "bar a sum": np.cumsum(S.alpha),
        "bar no product": S.alpha,
        "bar late": np.append(S.bar[1:], S.bar[-1:]),
        "bar rooted": np.sqrt(S.bar),
    }.get(wrong, S.bar)
    before = {
        "before 0": np.append(0.0, bar[:-1]),
        "before rolled": np.roll(bar, 1),
        "before the same": bar,
        "before repeated": np.append(bar[:1], bar[:-1]),
        "before after": np.append(bar[1:], 0.0),
        "before at the end": np.append(bar[:-1], 1.0),
        "before next": np.append(bar[1:], 1.0),
        "before shifted twice": np.append([1.0, 1.0], bar[:-2]),
    }.get(wrong, np.append(1.0, bar[:-1]))
    ratio = (1 - before) / (1 - bar)
    variance = {
        "variance no beta": ratio,
        "variance inverted": beta / ratio,
        "variance bars": beta * before / bar,
        "variance upside": beta * (1 - bar) / (1 - before),
        "variance alpha": S.alpha * ratio,
        "variance by beta": 1 - before,
        "variance rooted": np.sqrt(beta * ratio),
        "variance beta": beta,
    }.get(wrong, beta * ratio)
    floor = variance[1] if first == "second" else 1e-20
    clipped = {
        "log all floored": np.maximum(variance, 1e-5),
        "log variance of beta": beta,
        "log doubled": np.append(floor, variance[1:]) ** 2,
        "log half": np.append(floor, variance[1:]) ** 0.5,
    }.get(wrong, np.append(floor, variance[1:]))
    one = {
        "coef1 no root": before,
        "coef1 now": np.sqrt(bar),
        "coef1 alpha": np.sqrt(S.alpha),
        "coef1 no beta": np.sqrt(before) / beta,
    }.get(wrong, np.sqrt(before))
    two = {
        "coef2 no root": S.alpha,
        "coef2 bar": np.sqrt(bar),
        "coef2 before": np.sqrt(before),
    }.get(wrong, np.sqrt(S.alpha))
    coefs = [beta * one / (1 - bar), two * (1 - before) / (1 - bar)]
    if wrong == "coef2 now":
        coefs[1] = two
    if wrong == "coefs swapped":
        coefs.reverse()
    noise = {"noise no root": 1 - bar, "noise root inside": 1 - np.sqrt(bar)}.get(wrong, np.sqrt(1 - bar))
    return {
        "betas": beta,
        "alphas": S.alpha,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "alphas_cumprod_next": np.append(bar[1:], 0.0),
        "sqrt_alphas_cumprod": bar if wrong == "signal no root" else np.sqrt(bar),
        "sqrt_one_minus_alphas_cumprod": noise,
        "log_one_minus_alphas_cumprod": np.log(1 - bar) / (2 if wrong == "log halved" else 1),
        "sqrt_recip_alphas_cumprod": 1 / bar if wrong == "recip no root" else np.sqrt(1 / bar),
        "sqrt_recipm1_alphas_cumprod": {
            "recipm1 no root": 1 / bar - 1,
            "recipm1 outside": np.sqrt(1 / bar) - 1,
            "recipm1 plus": np.sqrt(1 / bar + 1),
        }.get(wrong, np.sqrt(1 / bar - 1)),
        "sqrt_recip_alphas": 1 / S.alpha if wrong == "recip alpha no root" else np.sqrt(1 / S.alpha),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(clipped),
        "posterior_mean_coef1": coefs[0],
        "posterior_mean_coef2": coefs[1],
        "snr": (1 - bar) / bar
        if wrong == "snr inverted"
        else np.sqrt(bar / (1 - bar))
        if wrong == "snr rooted"
        else bar / (1 - bar),
        "sigmas": np.sqrt((1 - bar) / bar),
    }


_ARRAY_MISTAKES = {
    "ᾱ starts at 1: ᾱ_{t−1} in place of ᾱ_t": "bar shifted",
    "ᾱ one step late: ᾱ_{t+1} in place of ᾱ_t": "bar late",
    "ᾱ the product of β, not of 1 − β": "bar of beta",
    "ᾱ a cumulated sum": "bar a sum",
    "ᾱ without the product: α_t": "bar no product",
    "√ᾱ in place of ᾱ": "bar rooted",
    "ᾱ_0 = 0 in place of 1": "before 0",
    "ᾱ_{t−1} by rolling: ᾱ_T at t = 1": "before rolled",
    "ᾱ_t in place of ᾱ_{t−1}": "before the same",
    "ᾱ_1 in place of ᾱ_0 = 1 at t = 1": "before repeated",
    "ᾱ_{t+1} in place of ᾱ_{t−1}": "before after",
    "ᾱ_0 = 1 at the end: ᾱ_{t+1} in place of ᾱ_{t−1}": "before next",
    "ᾱ_0 = 1 at the end: ᾱ_t in place of ᾱ_{t−1}": "before at the end",
    "ᾱ_{t−2} in place of ᾱ_{t−1}": "before shifted twice",
    "posterior variance without β": "variance no beta",
    "posterior variance with its ratio upside down, (1 − ᾱ_t)/(1 − ᾱ_{t−1})": "variance upside",
    "posterior variance of ᾱ_{t−1}/ᾱ_t, not of 1 − ᾱ": "variance bars",
    "posterior variance with α in place of β": "variance alpha",
    "posterior variance with 1 − α_t in place of 1 − ᾱ_t": "variance by beta",
    "posterior standard deviation in place of the variance": "variance rooted",
    "β_t in place of the posterior variance": "variance beta",
    "log variance: of the variance limited at 1e-5 from below": "log all floored",
    "log variance of β": "log variance of beta",
    "log variance doubled": "log doubled",
    "log of the standard deviation in place of the log variance": "log half",
    "first coefficient: ᾱ_{t−1} without its root": "coef1 no root",
    "first coefficient: √ᾱ_t in place of √ᾱ_{t−1}": "coef1 now",
    "first coefficient: √α_t in place of √ᾱ_{t−1}": "coef1 alpha",
    "first coefficient without β_t": "coef1 no beta",
    "second coefficient: α_t without its root": "coef2 no root",
    "second coefficient: √ᾱ_t in place of √α_t": "coef2 bar",
    "second coefficient: √ᾱ_{t−1} in place of √α_t": "coef2 before",
    "second coefficient without (1 − ᾱ_{t−1})/(1 − ᾱ_t)": "coef2 now",
    "the two coefficients of the posterior mean swapped": "coefs swapped",
    "√ᾱ without its root": "signal no root",
    "√(1 − ᾱ) without its root": "noise no root",
    "1 − √ᾱ in place of √(1 − ᾱ)": "noise root inside",
    "log(1 − ᾱ) halved": "log halved",
    "√(1/ᾱ) without its root": "recip no root",
    "√(1/ᾱ − 1) without its root": "recipm1 no root",
    "√(1/ᾱ) − 1 in place of √(1/ᾱ − 1)": "recipm1 outside",
    "√(1/ᾱ + 1) in place of √(1/ᾱ − 1)": "recipm1 plus",
    "√(1/α) without its root": "recip alpha no root",
    "the signal-to-noise ratio upside down": "snr inverted",
    "the root of the signal-to-noise ratio": "snr rooted",
}


@dataclass(frozen=True)
class _Schedule:
    """The user's schedule as a function T -> {name: array}."""

    given: Any
    T: int | None  # of an object that has its own

    def arrays(self, T: int) -> dict[str, Any]:
        made = self.given(T) if self.T is None else self.given
        if isinstance(made, Mapping):
            made = dict(made)
        elif hasattr(made, "shape") or isinstance(made, list | tuple):
            made = {"betas": made}
        get = made.get if isinstance(made, dict) else lambda name: getattr(made, name, None)
        found: dict[str, Any] = {}
        for name, others in _ALIASES.items():
            value = next((x for alias in (name, *others) if (x := get(alias)) is not None and not callable(x)), None)
            if value is not None and np.ndim(to_numpy(value)) == 1:
                found[name] = to_numpy(value)
        clean = ("betas" in found and found["betas"][0] == 0) or (
            "alphas_cumprod" in found and found["alphas_cumprod"][0] == 1 and "betas" not in found
        )
        return {name: x[1:] if clean and len(x) == T + 1 else x for name, x in found.items()}

    def own(self, T: int) -> np.ndarray:
        """The user's β_1 … β_T, from which the other arrays have to follow."""
        try:
            found = self.arrays(T)
            if "betas" in found:
                return found["betas"].astype(float)
            if "alphas" in found:
                return 1 - found["alphas"].astype(float)
            return tables(alphas_cumprod=found["alphas_cumprod"]).beta
        except Exception:  # `run` says it
            return np.full(T, 0.5)


def _schedule_of(T: int, _own: np.ndarray, *, wrong: str = "", **given: Any) -> Any:
    """Every array follows from the user's β; β from the schedule's name, if it was given."""
    kind, first = given.get("kind"), given["first_log_variance"]
    settings = {name: given[name] for name in ("first", "last", "s", "largest")}
    if wrong in _ARRAY_MISTAKES.values():
        expected = derived(_own, first, wrong)
        right = derived(_own, first)
        if all(np.array_equal(expected[name], right[name], equal_nan=True) for name in right):
            return None
        wrong = ""
    else:
        expected = derived(_own, first)
    if kind is not None:
        beta = named_betas(kind, T, wrong=wrong, **settings)
        if beta is None:
            return None
        expected["betas"] = beta
        if not given["has_betas"]:
            expected |= {name: x for name, x in derived(beta, first).items() if name in ("alphas", "alphas_cumprod")}
    return expected


def check_schedule(
    schedule: Any,
    *,
    kind: str | None = None,
    T: int | None = None,
    first: float = 1e-4,
    last: float = 0.02,
    s: float = 0.008,
    largest: float = 0.999,
    first_log_variance: str = "second",
    **options: Any,
) -> None:
    """The arrays of a diffusion schedule: β of a named kind, and all others as they follow from β.

    Give a function, schedule(T), that makes the arrays for T steps, or an object or dict that has them for its own T.
    What it makes is a dict of arrays by name, an object with such attributes, or the array of the β alone.  A schedule
    that is a function of t: `lambda T: {"alphas_cumprod": [f(t) for t in range(1, T + 1)]}`.  Arrays have T entries,
    for t = 1 … T; a further entry for the clean image in front of them (β_0 = 0) is left out.

    Names: betas, alphas, alphas_cumprod (also alpha_bars, alpha_hat), alphas_cumprod_prev, alphas_cumprod_next,
    sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod, log_one_minus_alphas_cumprod, sqrt_recip_alphas_cumprod,
    sqrt_recipm1_alphas_cumprod, sqrt_recip_alphas, posterior_variance, posterior_log_variance_clipped,
    posterior_mean_coef1 (of x_0), posterior_mean_coef2 (of x_t), snr, sigmas (√((1 − ᾱ)/ᾱ)).  Names that are missing
    are not judged, unknown ones are ignored.

    Args:
        kind: "linear", "quadratic" (diffusers' scaled_linear: √β linear), "cosine" or "sigmoid" (β along a sigmoid from
            −6 to 6).  None: β is as it is, and only the other arrays are judged, by it.
        T: of an object; by default the length of its arrays.
        first, last: β_1 and β_T, of all kinds but cosine.
        s, largest: of cosine: its offset, and the largest β.
        first_log_variance: posterior_log_variance_clipped at t = 1, where the variance is 0: "second", log β̃_2, or
            "tiny", log 1e-20.

    Equation: ᾱ_t = Π (1 − β_s), β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t).  Ho et al. 2020, eq. 4 and 7; cosine: Nichol &
    Dhariwal 2021, eq. 17.

    >>> import numpy as np
    >>> def mine(T):
    ...     betas = np.linspace(1e-4, 0.02, T)
    ...     return {"betas": betas, "alphas_cumprod": np.cumprod(1 - betas)}
    >>> check_schedule(mine, kind="linear")
    """
    if kind is not None and kind not in _KIND_MISTAKES:
        raise ValueError(f"check_schedule: kind must be None or one of {', '.join(_KIND_MISTAKES)}, got {kind!r}")
    makes = callable(schedule) and not any(hasattr(schedule, name) for name in _LONG)
    own = None if makes and T is None else T or _length(schedule)
    user = _Schedule(schedule, None if makes else own)
    try:
        has_betas = "betas" in user.arrays(own or 10)
    except Exception:  # anybody's function may raise anything; the trial says what, for the inputs that it then gives
        has_betas = True

    def inputs(draw: Draw, **_: Any) -> dict[str, Any]:
        steps = own or draw.pick(10, 4, 7, 50, 25, 100, 1000)
        return {"T": steps, "_own": user.own(steps)}

    property = replace(
        SCHEDULE,
        inputs=inputs,
        run=lambda _, given, **__: {name: user.arrays(given["T"]).get(name) for name in _ALIASES},
        conventions=SCHEDULE.conventions if kind else {"first_log_variance": ("second", "tiny")},
    )
    conventions = {
        "kind": kind,
        "first": first,
        "last": last,
        "s": s,
        "largest": largest,
        "first_log_variance": first_log_variance,
        "has_betas": has_betas,
    }
    usual = {
        name: p.default for name, p in inspect.signature(check_schedule).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    property.check(schedule, "check_schedule", conventions, usual | {"has_betas": has_betas}, **options)


_LONG = ("alphas_cumprod", *_ALIASES["alphas_cumprod"], "betas", "beta", "sqrt_alphas_cumprod")


def _length(schedule: Any) -> int:
    for name in _LONG:
        table = schedule.get(name) if isinstance(schedule, Mapping) else getattr(schedule, name, None)
        if table is not None:
            table = to_numpy(table)
            return len(table) - int(table[0] in (0, 1))
    if hasattr(schedule, "__len__") and not isinstance(schedule, Mapping):
        return len(schedule)
    raise ValueError("check_schedule: give T, or an object with betas or alphas_cumprod")


def _wrong_schedule(wrong: str) -> Callable[..., Any]:
    return lambda *inputs, **given: _schedule_of(*inputs, wrong=wrong, **given)


SCHEDULE = Property(
    name="schedule",
    equation="ᾱ_t = Π (1 − β_s), β̃_t = β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t)",
    source="Ho et al. 2020, eq. 4, 7; Nichol & Dhariwal 2021, eq. 17",
    inputs=lambda draw, **_: {"T": draw.integer(3, 50), "_own": HO},
    truth=_schedule_of,
    mistakes={
        **{text: _wrong_schedule(flag) for some in _KIND_MISTAKES.values() for text, flag in some.items()},
        **{text: _wrong_schedule(flag) for text, flag in _ARRAY_MISTAKES.items()},
    },
    conventions={"kind": tuple(_KIND_MISTAKES), "first_log_variance": ("second", "tiny")},
    where={"where T is not 1000": lambda T, _own, **_: T != 1000},
    examples=12,
    shapes=True,
    rtol=lambda single, **_: 5e-3 if single else 1e-6,
    tags=("schedule", "diffusion"),
)
check_schedule.tags = SCHEDULE.tags  # type: ignore[attr-defined]
register(check_schedule)
