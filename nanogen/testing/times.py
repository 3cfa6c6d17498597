"""The times of diffusion: respacing, grids of fewer times, the draw of a time in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.laws import Repeated
from nanogen.testing.property import checker
from nanogen.testing.schedules import TIMES, Tables
from nanogen.testing.trial import to_numpy


def _respacing(draw: Draw, **_: Any) -> dict[str, Any]:
    T = draw.integer(4, 12)
    betas = draw.rng().integers(2, 40, T) / 100
    kept = [t for t in range(T - 1) if draw.integer(0, 1)]
    return {"betas": betas, "times": np.array([*kept, T - 1]) if len(kept) else np.array([1, T - 1])}


def _respaced(change: Callable[[Tables, np.ndarray], np.ndarray]) -> Callable[..., Any]:
    def truth(betas: np.ndarray, times: np.ndarray, *, time: str) -> np.ndarray:
        return change(Tables(betas), times - (time == "1…T"))

    return truth


def _ratio(bar: np.ndarray) -> np.ndarray:
    return 1 - bar / np.append(1.0, bar[:-1])


@checker(
    equation="β′_i = 1 − ᾱ_{τ_i} / ᾱ_{τ_{i−1}}",
    source="Nichol & Dhariwal 2021, eq. 19",
    inputs=lambda draw, *, time: (
        {"betas": (found := _respacing(draw))["betas"], "times": found["times"] + (time == "1…T")}
    ),
    truth=_respaced(lambda S, i: _ratio(S.bar[i])),
    mistakes={
        "the old β at the kept times": _respaced(lambda S, i: S.beta[i]),
        "1 − ᾱ at the kept times": _respaced(lambda S, i: 1 - S.bar[i]),
        "ᾱ_{τ_i}/ᾱ_{τ_{i−1}} without 1 −": _respaced(lambda S, i: 1 - _ratio(S.bar[i])),
        "the ratio upside down": _respaced(lambda S, i: 1 - np.append(1.0, S.bar[i][:-1]) / S.bar[i]),
        "the product of the kept α, not ᾱ at the kept times": _respaced(
            lambda S, i: _ratio(np.cumprod(S.alpha[i])) if len(i) > 2 else 1 - np.cumprod(S.alpha[i])
        ),
        "ᾱ one step before the kept times": _respaced(lambda S, i: _ratio(S.before[i])),
        "ᾱ_{τ_1} in place of 1 for the first": _respaced(
            lambda S, i: 1 - S.bar[i] / np.append(S.bar[i][0], S.bar[i][:-1])
        ),
        "the sum of the β between": _respaced(
            lambda S, i: np.array([S.beta[a:b].sum() for a, b in zip([0, *(i[:-1] + 1)], i + 1)])
        ),
    },
    conventions={"time": TIMES},
    tags=("schedule", "diffusion"),
)
def check_respacing(respace: Any, *, time: str = "0…T−1", **options: Any) -> None:
    """The β of a schedule that is restricted to some of its times, so that each ᾱ stays what it is.

    The function is called as respace(betas, times): β_1 … β_T (T,), and rising integers (S,), the last of which is the
    last time.  It returns β′ (S,).

    Args:
        time: whether the times run from 0 to T − 1 or from 1 to T.

    Equation: β′_i = 1 − ᾱ_{τ_i} / ᾱ_{τ_{i−1}}, ᾱ_{τ_0} = 1.  Nichol & Dhariwal 2021, eq. 19.

    >>> import numpy as np
    >>> def respace(betas, times):
    ...     kept = np.cumprod(1 - betas)[times]
    ...     return 1 - kept / np.append(1.0, kept[:-1])
    >>> check_respacing(respace)
    """


SPACINGS = ("trailing", "leading", "linspace", "truncated linspace from −1")


def grid(T: int, S: int, spacing: str) -> np.ndarray:
    """The times of S steps, rising, in 0 … T − 1."""
    if spacing == "trailing":
        return np.round(np.arange(T, 0, -T / S))[:S][::-1].astype(int) - 1
    if spacing == "leading":
        return np.arange(S) * (T // S)
    if spacing == "linspace":
        return np.round(np.linspace(0, T - 1, S)).astype(int)
    return np.linspace(-1, T - 1, S + 1).astype(int)[1:]


def _gridded(make: Callable[[int, int, str], Any] = grid, only: str = "") -> Callable[..., Any]:
    def truth(T: int, S: int, *, spacing: str, time: str) -> Any:
        return None if only and time != only else np.asarray(make(T, S, spacing)) + (time == "1…T")

    return truth


def _run_grid(f: Any, inputs: dict[str, Any], **_: Any) -> np.ndarray:
    return np.sort(np.asarray(to_numpy(f(*inputs.values()))).ravel())


def _steps(draw: Draw, *, spacing: str, **_: Any) -> dict[str, int]:
    """For linspace none that has a time half-way between two integers: it may be rounded either way."""
    T = draw.pick(10, 20, 50, 100, 1000)
    half = lambda s: spacing == "linspace" and any(2 * (T - 1) * i % (2 * s - 2) == s - 1 for i in range(s))
    return {"T": T, "S": draw.pick(*[s for s in (5, 10, 2, 3, 4, 6, 7, 9, 15, 30, 37) if s < T and not half(s)])}


GRID_MISTAKES = {
    "range(0, T, T // S), which has more than S times where S does not divide T": _gridded(
        lambda T, S, spacing: np.arange(0, T, T // S)
    ),
    "multiples of T // S, counted down from the last time": _gridded(
        lambda T, S, spacing: np.sort(T - 1 - np.arange(S) * (T // S))
    ),
    "range(T − 1, −1, −(T // S)), which has more than S times where S does not divide T": _gridded(
        lambda T, S, spacing: np.arange(T - 1, -1, -(T // S))[::-1]
    ),
    "linspace without its end: T/S times 0 … S − 1, truncated": _gridded(
        lambda T, S, spacing: (np.arange(S) * T / S).astype(int)
    ),
    "linspace from 0 to T − 1, truncated instead of rounded": _gridded(
        lambda T, S, spacing: np.linspace(0, T - 1, S).astype(int)
    ),
    "linspace from 0 to T, which leaves the range": _gridded(
        lambda T, S, spacing: np.round(np.linspace(0, T, S)).astype(int)
    ),
    "one time too many": _gridded(lambda T, S, spacing: np.round(np.linspace(0, T - 1, S + 1)).astype(int)),
    "every time one step late": _gridded(lambda T, S, spacing: grid(T, S, spacing) + 1, "1…T"),
    "every time one step early": _gridded(lambda T, S, spacing: grid(T, S, spacing) - 1, "0…T−1"),
}


@checker(
    equation="S times of 1 … T, among them T (trailing, linspace)",
    source="Song et al. 2021, section 4.2; Lin et al. 2024, table 2",
    inputs=_steps,
    truth=_gridded(),
    mistakes=GRID_MISTAKES,
    conventions={"spacing": SPACINGS, "time": TIMES},
    where={"where S does not divide T": lambda T, S, **_: bool(T % S)},
    run=_run_grid,
    shapes=True,
    examples=60,
    tags=("schedule", "diffusion", "sampler"),
)
def check_time_grid(times: Any, *, spacing: str = "trailing", time: str = "0…T−1", **options: Any) -> None:
    """The times of a sampler with fewer steps than the schedule has.

    The function is called as times(T, S), two integers, S < T, and returns S integers, rising or falling.

    Args:
        spacing: (for times that run from 0)
            "trailing": round(T·i/S) − 1 for i = 1 … S: the last time is among them;
            "leading": i·(T // S) for i = 0 … S − 1;
            "linspace": round(linspace(0, T − 1, S));
            "truncated linspace from −1": the whole part of linspace(−1, T − 1, S + 1), without its −1.
        time: whether the times run from 0 to T − 1 or from 1 to T.

    Equation: S times, evenly spaced.  Song et al. 2021, section 4.2; Lin et al. 2024, table 2.

    >>> import numpy as np
    >>> check_time_grid(lambda T, S: np.round(np.arange(T, 0, -T / S)).astype(int) - 1)
    >>> check_time_grid(lambda T, S: np.arange(S) * (T // S), spacing="leading")
    """


# The draw of a time


@dataclass(frozen=True)
class Frequencies:
    """Weighted draws of integers: the weight at each is 1/T of all.  Every standard error is taken from the draws."""

    low: int
    T: int
    weighted: bool
    shares: np.ndarray | None = None

    def __str__(self) -> str:
        return f"each time of {self.low} … {self.low + self.T - 1} with the weight 1/{self.T}"

    def refuse(self, got: np.ndarray) -> str | None:
        """Why these are other draws, or None.  A right function is refused once in a million."""
        t, w = (got[0], got[1]) if self.weighted else (got, np.ones(got.shape))
        n, high = t.size, self.low + self.T - 1
        if not np.equal(np.mod(t, 1), 0).all():
            return f"expected integers, got {t.ravel()[np.argmax(np.mod(t, 1) != 0)]}"
        odd = t[(t < self.low) | (t > high)]
        if odd.size:
            return f"expected times in {self.low} … {high}, got {odd[0]:g}"
        where = (t - self.low).astype(int).ravel()
        sums = np.bincount(where, w.ravel(), minlength=self.T) / n
        squares = np.bincount(where, w.ravel() ** 2, minlength=self.T) / n
        wanted = np.full(self.T, 1 / self.T) if self.shares is None else self.shares
        error = np.sqrt(np.maximum(squares - sums**2, wanted * (1 - wanted) / 1e3) / n) + 1e-12
        at = int((np.abs(sums - wanted) / error).argmax())
        if abs(sums[at] - wanted[at]) <= 5.5 * error[at]:
            return None
        never = " (it is never drawn)" if not sums[at] else ""
        return f"expected t = {at + self.low} with the weight {wanted[at]:.4g}, got {sums[at]:.4g}{never}"


def _run_draw(f: Any, inputs: dict[str, Any], *, T: int, weighted: bool, **_: Any) -> Any:
    found = f(int(inputs["n"]))
    return np.stack([to_numpy(x).astype(float).ravel() for x in found]) if weighted else to_numpy(found)


def _drawn(shift: int = 0, first: int = 0, last: int = 0, shares: Any = None) -> Callable[..., Any]:
    def truth(n: int, *, T: int, time: str, weighted: bool) -> Any:
        low = int(time == "1…T") + shift
        if first or last:
            wanted = np.zeros(T)
            wanted[first : T - last] = 1 / (T - first - last)
            return Frequencies(low, T, weighted, wanted)
        return Frequencies(low, T, weighted)

    return truth


@checker(
    equation="t uniform on 1 … T; with importance weights w, E[w·1(t = k)] = 1/T for each k",
    source="Ho et al. 2020, algorithm 1; Nichol & Dhariwal 2021, eq. 18",
    inputs=lambda draw, *, T, **_: {"n": 2000 * T},
    truth=_drawn(),
    mistakes={
        "the last time is never drawn": _drawn(last=1),
        "the first time is never drawn": _drawn(first=1),
        "neither the first nor the last time is ever drawn": _drawn(first=1, last=1),
        "one time for the whole batch": lambda n, *, weighted, **_: None if weighted else Repeated(),
        "all times one too late": lambda n, *, time, **k: _drawn(1)(n, time=time, **k) if time == "1…T" else None,
        "all times one too early": lambda n, *, time, **k: None if time == "1…T" else _drawn(-1)(n, time=time, **k),
    },
    conventions={"time": TIMES},
    run=_run_draw,
    draws=True,
    examples=1,
    describe=lambda inputs, index, *, T, **_: f"{inputs['n']} draws of t, T = {T}",
    tags=("diffusion",),
)
def check_time_draw(draw: Any, *, T: int = 10, time: str = "0…T−1", weighted: bool = False, **options: Any) -> None:
    """The draw of the training times, by its frequencies in 2000 T draws.

    The function is called as draw(n) and returns n integers; with weighted=True, the integers and their importance
    weights, (n,) each, by which the mean over the draws is the mean over all times.

    Args:
        T: the number of times that your function has; few are checked best.
        time: whether they run from 0 to T − 1 or from 1 to T.
        weighted: whether importance weights are returned.

    Equation: P(t) = 1/T.  With weights w: E[w·1(t = k)] = 1/T.  Ho et al. 2020, algorithm 1; Nichol & Dhariwal 2021,
    eq. 18.

    A right function is refused once in a million; a time that is never drawn, or twice as often as another, always.

    >>> import numpy as np
    >>> check_time_draw(lambda n: np.random.randint(0, 10, n), T=10)
    """
