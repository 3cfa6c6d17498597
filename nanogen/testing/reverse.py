"""Reverse diffusion: one step, a whole sampler run with a network that is exact, and the bound term by term."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanogen.testing.diffusion import at, choose, documented, from_x0, index, to_x0
from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.laws import normal_cdf
from nanogen.testing.property import checker
from nanogen.testing.schedules import SPACINGS, TIMES, Tables, grid, precision, tables
from nanogen.testing.trial import to_numpy

Z = 5.5  # standard errors: a right sampler is refused once in 25 million comparisons
COPIES = 4000


@dataclass(frozen=True)
class Draws:
    """Independent draws (K, N, …) or (N, …): each entry normal, with these means and standard deviations."""

    mean: np.ndarray
    std: np.ndarray
    text: str = ""
    slack: float = 1e-4

    def __str__(self) -> str:
        return self.text or f"mean {np.ravel(self.mean)[0]:.4g}, standard deviation {np.ravel(self.std)[0]:.4g}"

    def refuse(self, got: np.ndarray) -> str | None:
        """Why these are other draws, or None."""
        got = np.asarray(got, float)
        mean, std = np.broadcast_to(self.mean, got.shape), np.broadcast_to(self.std, got.shape)
        if not np.isfinite(got).all():
            return "the draws are not finite"
        scale = max(np.abs(mean).max(), 1.0)
        still = std <= 1e-9
        off = np.abs(got - mean) * still
        if off.max(initial=0.0) > self.slack * scale + 1e-3 * np.abs(mean).ravel()[off.argmax()]:
            k = int(off.argmax())
            noise = " (noise is added)" if np.unique(got[still]).size > np.unique(mean[still]).size + 1 else ""
            return f"expected {mean.ravel()[k]:.5g} without noise, got {got.ravel()[k]:.5g}{noise}"
        if still.all():
            return None
        z = ((got - mean) / np.where(still, 1, std))[~still]
        blur = self.slack * scale / std[~still].min()
        if abs(z.mean()) > Z / math.sqrt(z.size) + blur:
            m = mean[~still].mean()
            return f"expected the mean {m:.5g}, got {got[~still].mean():.5g} ± {std[~still].mean() / math.sqrt(z.size):.2g}"
        spread = math.sqrt((z**2).mean())
        if abs(spread - 1) > Z / math.sqrt(2 * z.size) + blur:
            s = std[~still].mean()
            return f"expected the standard deviation {s:.5g}, got {s * spread:.5g}"
        pull = (mean - mean.mean())[~still]
        pull = pull / max(np.abs(pull).max(initial=0.0), 1e-12)
        drift = (z * pull).sum() / math.sqrt(max((pull**2).sum(), 1e-12))
        if abs(drift) > Z + blur * math.sqrt(z.size):
            return f"the distance from the expected mean grows with it ({drift:.1f} standard errors)"
        return None


# One step


@dataclass(frozen=True)
class Rule:
    """How a step from t to s goes; `wrong` is one of STEP_MISTAKES."""

    S: Tables
    method: str
    prediction: str
    variance: str
    eta: float
    clip: Any
    final: str = "one"
    kept: bool = False
    wrong: str = ""

    def step(self, i: Any, j: int, x: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, float]:
        """Mean and standard deviation of x_s: i the index of t, j that of s, −1 for the clean sample."""
        S, wrong = self.S, self.wrong
        bar = S.bar[i]
        before = S.bar[j] if j >= 0 else (1.0 if self.final == "one" else S.bar[0])
        if wrong == "bar before is now":
            before = bar
        a, s = np.sqrt(bar), np.sqrt(1 - bar)
        beta = 1 - bar / (S.bar[j] if j >= 0 else 1.0)
        one = np.sqrt(before) * beta / (1 - bar)
        two = np.sqrt(1 - beta) * (1 - before) / (1 - bar)
        sign = -1.0 if wrong == "sign" else 1.0
        x0 = to_x0(self.prediction, x, output, a, s, one, two, sign)
        if wrong == "x0 not scaled":
            x0 = x0 * a
        eps = (x - a * x0) / s
        if self.clip:
            low, high = (-1.0, 1.0) if self.clip is True else self.clip
            x0 = np.clip(x0, low, high)
            if not self.kept:
                eps = (x - a * x0) / s
        if self.method == "ancestral":
            posterior = (1 - before) / (1 - bar) * beta
            sigma2 = beta if self.variance == "beta" else posterior
            mean = one * x0 + two * x
            if wrong in _NOISE_MEANS and not self.clip:
                mean = _NOISE_MEANS[wrong](x, eps, 1 - beta, bar, beta)
            elif wrong == "coefficients swapped":
                mean = two * x0 + one * x
            elif wrong == "coefficient no root":
                mean = before * beta / (1 - bar) * x0 + two * x
        else:
            sigma2 = self.eta**2 * (1 - before) / (1 - bar) * (1 - bar / before)
            if wrong == "eta once":
                sigma2 = self.eta * (1 - before) / (1 - bar) * (1 - bar / before)
            elif wrong == "sigma of beta":
                sigma2 = self.eta**2 * (1 - bar / before)
            elif wrong == "sigma ratio":
                sigma2 = self.eta**2 * (1 - bar) / max(1 - before, 1e-12) * (1 - bar / before)
            rest = max(1 - before - sigma2, 0.0)
            if wrong == "sigma not in direction":
                rest = 1 - before
            elif wrong == "sigma once in direction":
                rest = max(1 - before - math.sqrt(sigma2), 0.0)
            elif wrong == "direction now":
                rest = max(1 - bar - sigma2, 0.0)
            direction = rest if wrong == "direction no root" else math.sqrt(rest)
            signal = before if wrong == "signal no root" else bar**0.5 if wrong == "signal now" else math.sqrt(before)
            mean = signal * x0 + direction * eps
            if wrong == "direction minus":
                mean = signal * x0 - direction * eps
        std = float(np.sqrt(sigma2)) if j >= 0 or (self.method == "ddim" and self.final != "one") else 0.0
        if wrong == "noise at the end" and j < 0:
            std = float(
                np.sqrt(S.posterior[1] if self.method == "ancestral" and self.variance == "posterior" else sigma2)
            )
        elif wrong == "no noise":
            std = 0.0
        elif wrong == "variance for std":
            std = std**2
        elif wrong == "root of std":
            std = std**0.5
        elif wrong == "unit noise" and std:
            std = 1.0
        elif wrong == "no noise at the second last" and j == 0:
            std = 0.0
        return mean, std


_NOISE_MEANS: dict[str, Callable[..., np.ndarray]] = {
    "no root in the noise": lambda x, e, alpha, bar, beta: (x - beta / (1 - bar) * e) / alpha**0.5,
    "root of beta": lambda x, e, alpha, bar, beta: (x - beta**0.5 * e) / alpha**0.5,
    "noise of bar": lambda x, e, alpha, bar, beta: (x - (1 - bar) ** 0.5 * e) / alpha**0.5,
    "divided by bar": lambda x, e, alpha, bar, beta: (x - beta / (1 - bar) ** 0.5 * e) / bar**0.5,
    "not divided": lambda x, e, alpha, bar, beta: x - beta / (1 - bar) ** 0.5 * e,
    "multiplied": lambda x, e, alpha, bar, beta: (x - beta / (1 - bar) ** 0.5 * e) * alpha**0.5,
    "alpha no root": lambda x, e, alpha, bar, beta: (x - beta / (1 - bar) ** 0.5 * e) / alpha,
    "only x divided": lambda x, e, alpha, bar, beta: x / alpha**0.5 - beta / (1 - bar) ** 0.5 * e,
    "alpha for beta": lambda x, e, alpha, bar, beta: (x - alpha / (1 - bar) ** 0.5 * e) / alpha**0.5,
}
STEP_MISTAKES = {
    "β_t/(1 − ᾱ_t) in place of β_t/√(1 − ᾱ_t)": "no root in the noise",
    "√β_t in place of β_t/√(1 − ᾱ_t)": "root of beta",
    "√(1 − ᾱ_t) in place of β_t/√(1 − ᾱ_t)": "noise of bar",
    "α_t in place of β_t = 1 − α_t": "alpha for beta",
    "divided by √ᾱ_t in place of √α_t": "divided by bar",
    "not divided by √α_t": "not divided",
    "multiplied by √α_t instead of divided": "multiplied",
    "divided by α_t in place of √α_t": "alpha no root",
    "only x_t divided by √α_t, not the noise": "only x divided",
    "the prediction's sign turned round": "sign",
    "x̂_0 not divided by √ᾱ_t": "x0 not scaled",
    "the two coefficients of the posterior mean swapped": "coefficients swapped",
    "ᾱ_{t−1} without its root (of x̂_0)": "coefficient no root",
    "ᾱ_t in place of ᾱ_{t−1}": "bar before is now",
    "η in place of η²": "eta once",
    "σ² without (1 − ᾱ_s)/(1 − ᾱ_t)": "sigma of beta",
    "σ² with (1 − ᾱ_t)/(1 − ᾱ_s), upside down": "sigma ratio",
    "σ² not subtracted in the direction: √(1 − ᾱ_s)": "sigma not in direction",
    "σ in place of σ² in the direction": "sigma once in direction",
    "√(1 − ᾱ_t) in place of √(1 − ᾱ_s) in the direction": "direction now",
    "the direction without its root": "direction no root",
    "the direction subtracted": "direction minus",
    "ᾱ_s without its root (of x̂_0)": "signal no root",
    "√ᾱ_t in place of √ᾱ_s (of x̂_0)": "signal now",
    "noise added at the last step": "noise at the end",
    "no noise added": "no noise",
    "no noise at the step before the last": "no noise at the second last",
    "σ² z in place of σ z: the variance for the standard deviation": "variance for std",
    "√σ z in place of σ z": "root of std",
    "z not scaled by σ": "unit noise",
}


def _rule(given: dict[str, Any], wrong: str = "") -> Rule:
    names = ("method", "prediction", "variance", "eta", "clip")
    kept = given.get("noise_after_clip", "recomputed") == "kept"
    S = tables(given.get("betas"), given.get("alphas_cumprod"))
    return Rule(S, *(given[name] for name in names), final=given.get("final", "one"), kept=kept, wrong=wrong)


def _stepped(wrong: str = "") -> Callable[..., Any]:
    def truth(output: Any, t: Any, x: Any, *rest: Any, **given: Any) -> Any:
        rule, i = _rule(given, wrong), int(np.ravel(t)[0]) - (given["time"] == "1…T")
        j, noise = rest[-1], rest[0] if len(rest) > 1 else None
        mean, std = rule.step(i, int(j) - (given["time"] == "1…T"), x, output)
        if given["returns"] == "mean":
            return mean
        return mean + std * noise if given["returns"] == "given" else Draws(mean, np.full_like(mean, std))

    return truth


def _step_inputs(
    draw: Draw, *, returns: str, times: Any, t_as: str, time: str, axes: int, **given: Any
) -> dict[str, Any]:
    choose("noise", returns, "drawn", "given", "mean")
    choose("t_as", t_as, "array", "int")
    T, shift = len(tables(**given).beta), int(time == "1…T")
    path = list(range(T - 1, -1, -1)) if times is None else [int(i) - shift for i in np.ravel(to_numpy(times))]
    last = len(path) - 1
    k = last - index(draw, len(path)) if len(path) > 8 else draw.integer(0, last)
    k = draw.pick(k, k, last)  # the last step more often
    i, j = path[k], path[k + 1] if k < last else -1
    shape = draw.sizes((2, 3), (1, 2), (1, 3), (1, 3))[:axes]
    arrays = [draw.reals(*shape) / 2 for _ in range(3)]
    if returns == "drawn":  # many copies of the same
        arrays = [np.repeat(a[:1], max(2, COPIES // max(a[:1].size, 1)), axis=0) for a in arrays]
    t: Any = i + shift if t_as == "int" else np.full(len(arrays[0]), i + shift)
    noise = {"noise": arrays[2]} if returns == "given" else {}
    return {"output": arrays[0], "t": t, "x": arrays[1], **noise, "_next": j + shift}


def _step_said(inputs: dict[str, Any], method: str, time: str) -> str:
    end = inputs["_next"] - (time == "1…T") < 0
    return f"{method} step from t={np.ravel(inputs['t'])[0]} to {'the clean sample' if end else inputs['_next']}"


@documented
@checker(
    name="step",
    equation="ancestral μ̃_t(x_t, x̂_0) + σ_t z;  DDIM √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z, σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s)",
    source="Ho et al. 2020, algorithm 2; Song et al. 2021, eq. 12, 16",
    inputs=_step_inputs,
    truth=_stepped(),
    mistakes={text: _stepped(flag) for text, flag in STEP_MISTAKES.items()},
    conventions={
        "method": ("ancestral", "ddim"),
        "prediction": ("noise", "x0", "v"),
        "variance": ("beta", "posterior"),
        "noise_after_clip": ("recomputed", "kept"),
        "final": ("one", "first"),
        "clip": (False, True),
        "time": TIMES,
    },
    where={
        "at the last step": lambda *inputs, time, **_: inputs[-1] - (time == "1…T") < 0,
        "where x̂_0 leaves [−1, 1]": lambda output, t, x, *_, time, **given: bool(
            np.abs(to_x0(given["prediction"], x, output, *(
                lambda b: (np.sqrt(b), np.sqrt(1 - b)))(tables(given["betas"], given["alphas_cumprod"]).bar[
                    int(np.ravel(t)[0]) - (time == "1…T")]), 0, 0)).max() > 1),
    },
    draws=lambda *, returns, **_: returns == "drawn",
    describe=lambda inputs, index, *, method, **given: _step_said(inputs, method, given["time"]),
    rtol=precision,
    tags=("diffusion", "sampler"),
)  # fmt: skip
def check_reverse_step(
    step: Any,
    *,
    method: str = "ancestral",
    prediction: str = "noise",
    variance: str = "beta",
    eta: float = 0.0,
    clip: Any = False,
    noise_after_clip: str = "recomputed",
    final: str = "one",
    returns: str = "drawn",
    times: Any = None,
    betas: Any = None,
    alphas_cumprod: Any = None,
    time: str = "0…T−1",
    t_as: str = "int",
    axes: int = 4,
    **options: Any,
) -> None:
    """One step of the reverse process, x_t → x_s, from the network's output.

    The function is called as step(output, t, x), in the order of diffusers' schedulers, and returns x_s; by default it
    draws its own noise, which is judged by mean and standard deviation over some thousand copies of the same sample.

    Args:
        method: "ancestral" (DDPM) or "ddim".
        prediction: what `output` is: "noise", "x0" or "v".
        variance: σ_t² of an ancestral step: "beta", or "posterior".  At the last step no noise is added.
        eta: of a DDIM step.  With 0 it draws nothing.
        clip: whether x̂_0 is clipped to [−1, 1]; or (low, high).
        noise_after_clip: whether the noise of a DDIM step is the one that belongs to the clipped x̂_0, "recomputed", or
            the one before, "kept" (diffusers without use_clipped_model_output).
        final: ᾱ after DDIM's last step: "one", or that of the "first" time (diffusers' set_alpha_to_one=False).
        returns: "drawn": as above.  "given": the function is called as step(output, t, x, noise).  "mean": it returns the
            mean, without noise.
        times: the falling times of a sampler with fewer steps, such as scheduler.timesteps: x_s is at the next of them.
            By default all.
        {settings}

    Equation: ancestral μ̃_t(x_t, x̂_0) + σ_t z (which is (x_t − β_t/√(1 − ᾱ_t) ε)/√α_t + σ_t z), Ho et al. 2020, algorithm
    2.  DDIM √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z, Song et al. 2021, eq. 12 and 16.

    >>> import numpy as np
    >>> b = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - b)
    >>> def step(eps, t, x):
    ...     mean = (x - b[t] / np.sqrt(1 - bar[t]) * eps) / np.sqrt(1 - b[t])
    ...     return mean + (t > 0) * np.sqrt(b[t]) * np.random.randn(*x.shape)
    >>> check_reverse_step(step, betas=b)
    """


# A whole sampler

MEAN, STD = 0.4, 0.12  # of the data: within [−1, 1]; not N(0, 1) nor a point, for which wrong samplers can be right


class Recorder:
    """A network that is exact for data of independent N(0.4, 0.12²) entries, and records what it is asked."""

    def __init__(self, S: Tables, prediction: str, shift: int):
        self.S, self.prediction, self.shift = S, prediction, shift
        self.times: list[float] = []
        self.inputs: list[np.ndarray] = []
        self.outputs: list[np.ndarray] = []

    def index(self, t: float) -> int:
        return int(np.clip(round(t) - self.shift, 0, len(self.S.bar) - 1))

    def coefficients(self, t: float) -> tuple[float, float]:
        """The output as a + b·x_t."""
        bar = self.S.bar[self.index(t)]
        a, s = math.sqrt(bar), math.sqrt(1 - bar)
        gain = a * STD**2 / (bar * STD**2 + 1 - bar)
        x0 = lambda x: MEAN + gain * (x - a * MEAN)  # E[x_0 | x_t]
        at0, at1 = (float(from_x0(self.prediction, x, x0(x), a, s, 0, 0)) for x in (0.0, 1.0))
        return at0, at1 - at0

    def answer(self, x: Any, t: Any) -> Any:
        times = np.ravel(to_numpy(t)).astype(float)
        if np.ptp(times):
            raise ValueError("the network was asked at several times at once")
        a, b = self.coefficients(times[0])
        out = x * b + a
        self.times.append(float(times[0]))
        self.inputs.append(np.array(to_numpy(x), float))
        self.outputs.append(np.array(to_numpy(out), float))
        return out

    def network(self) -> Any:
        """As a function, and a torch module where torch is in use, which some samplers want."""
        torch = sys.modules.get("torch")
        if torch is None:
            return lambda x, t, *_, **__: self.answer(x, t)
        module = torch.nn.Module()
        return type("Network", (type(module),), {"forward": lambda _, x, t, *a, **k: self.answer(x, t)})()


def _run_sampler(f: Any, inputs: dict[str, Any], *, prediction: str, time: str, pixels: Any, method: str,
                 steps: Any, **given: Any) -> dict[str, Any]:  # fmt: skip
    record = Recorder(tables(given["betas"], given["alphas_cumprod"]), prediction, int(time == "1…T"))
    many = () if method == "ancestral" and steps is None else (inputs["S"],)
    last = np.array(to_numpy(f(record.network(), inputs["n"], *many)), float)
    if not record.times:
        raise UsageError("check_sampler: the sampler did not call the network that it was given")
    low, high = pixels
    last = (last - low) / (high - low) * 2 - 1
    if last.size != record.inputs[-1].size:
        raise UsageError(f"check_sampler: expected {record.inputs[-1].shape}, got {last.shape}")
    path = [x.reshape(inputs["n"], -1) for x in (*record.inputs, last)]
    if len({x.shape for x in path}) > 1:
        raise UsageError("check_sampler: the network was asked for batches of several sizes")
    inputs["_record"].update(times=np.array(record.times), path=np.stack(path), outputs=record.outputs)
    return {
        "times asked": np.array(record.times),
        "x at the first time": path[0],
        "the steps": np.stack(path[1:]),
    }


@dataclass(frozen=True)
class Steps:
    """Every step of a recorded sampler, by the rule that it should follow."""

    rule: Rule
    times: np.ndarray
    path: np.ndarray
    outputs: list[np.ndarray]
    shift: int
    stride: int = 0  # if not 0, s = t − stride, whatever the next time

    def __str__(self) -> str:
        return "the rule's mean and standard deviation at every step"

    def refuse(self, got: np.ndarray) -> str | None:
        """The first step that another rule made, or None."""
        T = len(self.rule.S.bar)
        where = [int(np.clip(round(t) - self.shift, 0, T - 1)) for t in self.times]
        shift, size = 0.0, 0
        for k, i in enumerate(where):
            j = where[k + 1] if k + 1 < len(where) else -1
            if self.stride:
                j = max(i - self.stride, -1)
            mean, std = self.rule.step(i, j, self.path[k], self.outputs[k].reshape(self.path[k].shape))
            said = Draws(mean, np.full_like(mean, std), slack=1e-3).refuse(got[k])
            shift, size = (
                shift + (((got[k] - mean) / std).sum() if std > 1e-6 else 0.0),
                size + got[k].size * (std > 1e-6),
            )
            if said:
                to = f"{j + self.shift}" if j >= 0 else "the end"
                return f"from t = {i + self.shift} to {to}: {said}"
        if size and abs(shift) > (Z + 1e-3 * math.sqrt(size)) * math.sqrt(size):
            return f"all steps together are off by {shift / size:.3g} standard deviations, {abs(shift) / math.sqrt(size):.1f} standard errors"
        return None


def _sampled(wrong: str = "", times: Any = None, start: float = 1.0) -> Callable[..., Any]:
    def truth(n: int, S: int, _record: dict[str, Any], **given: Any) -> Any:
        shift = int(given["time"] == "1…T")
        T = len(tables(given["betas"], given["alphas_cumprod"]).bar)
        right = _path(T, S, given)
        asked = right if times is None else times(T, S, right)
        if asked is None or (times is not None and np.array_equal(asked, right)):
            return None
        expected: dict[str, Any] = {"times asked": np.asarray(asked, float) + shift}
        if not _record:  # not run yet
            return expected | {"x at the first time": None, "the steps": None}
        stride = T // S if wrong == "stride" else 0
        rule = _rule(given, "" if wrong == "stride" else wrong)
        steps = Steps(rule, _record["times"], _record["path"], _record["outputs"], shift, stride)
        return expected | {"x at the first time": Draws(np.zeros(()), np.array(start)), "the steps": steps}

    return truth


def _path(T: int, S: int, given: dict[str, Any]) -> np.ndarray:
    """The falling times that a sampler should ask, from 0."""
    if given["method"] == "ancestral" and given["steps"] is None:
        return np.arange(T - 1, -1, -1)
    return grid(T, S, given["spacing"])[::-1]


def _sampler_inputs(draw: Draw, *, steps: Any, method: str, **given: Any) -> dict[str, Any]:
    T = len(tables(given["betas"], given["alphas_cumprod"]).beta)
    odd = [s for s in (T // 3 + 1, 7, 4, 5, 3, 10, 2, 37) if 1 < s < T]
    S = T if method == "ancestral" and steps is None else draw.pick(*(np.ravel(steps) if steps is not None else odd))
    return {"n": 4000 if T <= 50 else 1000 if T <= 200 else 400, "S": int(S), "_record": {}}


SAMPLER_MISTAKES = {
    **{text: _sampled(flag) for text, flag in STEP_MISTAKES.items()},
    "steps by T // S, not along its own times": _sampled("stride"),
    "range(0, T, T // S), which has more than S times where S does not divide T": _sampled(
        times=lambda T, S, right: np.arange(0, T, T // S)[::-1] if S < T else None
    ),
    "range(T − 1, −1, −(T // S)), which has more than S times where S does not divide T": _sampled(
        times=lambda T, S, right: np.arange(T - 1, -1, -(T // S)) if S < T else None
    ),
    "the last time, the noisiest, left out": _sampled(times=lambda T, S, right: right[1:]),
    "the first time, the cleanest, left out": _sampled(times=lambda T, S, right: right[:-1]),
    "every time one step early": _sampled(times=lambda T, S, right: right - 1),
    "every time one step late": _sampled(times=lambda T, S, right: right + 1),
    "upwards, from the cleanest time to the noisiest": _sampled(times=lambda T, S, right: right[::-1]),
    "linspace from 0 to T − 1, truncated instead of rounded": _sampled(
        times=lambda T, S, right: np.linspace(0, T - 1, S).astype(int)[::-1] if S < T else None
    ),
    "linspace without its end: T/S times 0 … S − 1, truncated": _sampled(
        times=lambda T, S, right: (np.arange(S) * T / S).astype(int)[::-1] if S < T else None
    ),
}


@documented
@checker(
    name="sampler",
    equation="x_T ~ N(0, I), then x_t → x_s by the step's equation down to x_0, without noise at the end",
    source="Ho et al. 2020, algorithm 2; Song et al. 2021, eq. 12, 16",
    inputs=_sampler_inputs,
    truth=_sampled(),
    mistakes=SAMPLER_MISTAKES,
    conventions={
        "method": ("ancestral", "ddim"),
        "variance": ("beta", "posterior"),
        "spacing": SPACINGS,
        "final": ("one", "first"),
        "time": TIMES,
    },
    where={"where S does not divide T": lambda n, S, _record, *, betas, alphas_cumprod, **_: bool(
        len(tables(betas, alphas_cumprod).bar) % S)},
    run=_run_sampler,
    draws=True,
    shapes=True,
    examples=6,
    describe=lambda inputs, index, *, method, **_: f"{method} sampler, S = {inputs['S']}",
    tags=("diffusion", "sampler"),
)  # fmt: skip
def check_sampler(
    sample: Any,
    *,
    method: str = "ancestral",
    prediction: str = "noise",
    variance: str = "beta",
    eta: float = 0.0,
    clip: Any = False,
    steps: Any = None,
    spacing: str = "trailing",
    final: str = "one",
    pixels: tuple[float, float] = (-1, 1),
    betas: Any = None,
    alphas_cumprod: Any = None,
    time: str = "0…T−1",
    **options: Any,
) -> None:
    """A whole sampler: the times that it asks its network for, its start, every step, the end without noise.

    The function is called as sample(network, n): it draws n samples with `network(x, t)` in place of its own network, and
    returns x_0, (n, …).  With method="ddim", or where `steps` are given, it is called as sample(network, n, S) and takes
    S steps.  The network takes arrays or tensors, times as a number or (n,), ignores further arguments, and is a
    torch.nn.Module where torch is imported.  It is exact for data of independent N(0.4, 0.12²) entries; every x it is
    asked for is compared with what the step's equation makes of the x before.

    Args:
        method, prediction, variance, eta, clip, final: as in check_reverse_step.
        steps: the S to try.  Default for "ddim": some that do not divide T.
        spacing: of the times, as in check_time_grid.
        pixels: what the sampler returns −1 and 1 as.
        betas, alphas_cumprod, time: as in check_q_sample.  Few steps (T = 20) are checked fastest and best.

    Equation: x_T ~ N(0, I), then the steps of check_reverse_step.  Ho et al. 2020, algorithm 2; Song et al. 2021.

    >>> import numpy as np
    >>> b = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - b)
    >>> def sample(network, n):
    ...     x = np.random.randn(n, 1, 2, 2)
    ...     for t in range(19, -1, -1):
    ...         mean = (x - b[t] / np.sqrt(1 - bar[t]) * network(x, t)) / np.sqrt(1 - b[t])
    ...         x = mean + (t > 0) * np.sqrt(b[t]) * np.random.randn(*x.shape)
    ...     return x
    >>> check_sampler(sample, betas=b)
    """


# The bound, term by term


def _kl(m: Any, v: Any, n: Any, w: Any) -> Any:
    return 0.5 * (v / w + (m - n) ** 2 / w - 1 + np.log(w / v))


def _tanh_cdf(z: Any) -> Any:
    return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


@dataclass(frozen=True)
class Bound:
    """One term for each sample; the parts that mistakes replace."""

    kl: Callable[..., Any] = _kl
    half: float = 1 / 255  # half a bin
    ends: bool = True
    density: bool = False
    always_kl: bool = False
    total: Callable[[Any], Any] | None = None
    log_unit: float = math.log(2)

    def __call__(self, x0: Any, x_t: Any, t: Any, output: Any, *, prediction: str, variance: str, clip: Any, cdf: str,
                 units: str, reduction: str, time: str, **given: Any) -> Any:  # fmt: skip
        S = tables(given["betas"], given["alphas_cumprod"])
        c = [at(a, t, x0, time) for a in (np.sqrt(S.bar), np.sqrt(1 - S.bar), S.beta * np.sqrt(S.before) / (1 - S.bar),
                                          np.sqrt(S.alpha) * (1 - S.before) / (1 - S.bar))]  # fmt: skip
        guess = to_x0(prediction, x_t, output, *c)
        if clip:
            guess = np.clip(guess, -1, 1)
        posterior = np.append(S.posterior[1], S.posterior[1:])
        sigma2 = at(np.append(S.posterior[1], S.beta[1:]) if variance == "beta" else posterior, t, x0, time)
        if variance == "beta, also at t = 1":
            sigma2 = at(S.beta, t, x0, time)
        mean = c[2] * guess + c[3] * x_t
        inner = self.kl(c[2] * x0 + c[3] * x_t, at(posterior, t, x0, time), mean, sigma2)
        std, phi = np.sqrt(sigma2), normal_cdf if cdf == "exact" else _tanh_cdf
        above = phi((x0 + self.half - mean) / std)
        below = phi((x0 - self.half - mean) / std)
        if self.ends:
            above, below = np.where(x0 > 0.999, 1.0, above), np.where(x0 < -0.999, 0.0, below)
        first = -np.log(np.maximum(above - below, 1e-12))
        if self.density:
            first = 0.5 * ((x0 - mean) ** 2 / sigma2 + np.log(2 * math.pi * sigma2))
        start = np.reshape(np.asarray(t) - (time == "1…T") == 0, (-1, *[1] * (x0.ndim - 1)))
        term = inner if self.always_kl else np.where(start, first, inner)
        flat = term.reshape(len(x0), -1)
        total = self.total(flat) if self.total else flat.sum(1) if reduction == "sum" else flat.mean(1)
        return total / self.log_unit if units == "bits" else total * (math.log(2) / self.log_unit)


def _bound_inputs(draw: Draw, *, time: str, axes: int, prediction: str, **given: Any) -> dict[str, Any]:
    S = tables(given["betas"], given["alphas_cumprod"])
    shape = draw.sizes((2, 3), (1, 2), (1, 3), (1, 3))[:axes]
    t = np.array([0 if draw.integer(0, 2) == 0 else index(draw, len(S.bar), 1) for _ in range(shape[0])])
    rng = draw.rng()
    levels = rng.integers(0, 256, shape)
    levels.flat[0] = draw.pick(0, 255, 7)
    x0 = levels / 127.5 - 1
    a, s = np.sqrt(at(S.bar, t, x0, "0…T−1")), np.sqrt(1 - at(S.bar, t, x0, "0…T−1"))
    x_t = a * x0 + s * rng.standard_normal(shape)
    guess = x0 + 0.3 * s * rng.standard_normal(shape)
    return {"x0": x0, "x_t": x_t, "t": t + (time == "1…T"), "output": from_x0(prediction, x_t, guess, a, s, 0, 0)}


@checker(
    name="term of the bound",
    equation="L_{t−1} = KL(q(x_{t−1}|x_t, x_0) ‖ p(x_{t−1}|x_t));  L_0 = −log p(x_0|x_1), the mass of a bin of 1/127.5",
    source="Ho et al. 2020, eq. 5, 13",
    inputs=_bound_inputs,
    truth=Bound(),
    mistakes={
        "KL(p‖q), the other way round": Bound(kl=lambda m, v, n, w: _kl(n, w, m, v)),
        "the ½ missing in the KL": Bound(kl=lambda m, v, n, w: 2 * _kl(m, v, n, w)),
        "the −1 missing in the KL": Bound(kl=lambda m, v, n, w: _kl(m, v, n, w) + 0.5),
        "the KL's logarithm with the wrong sign": Bound(kl=lambda m, v, n, w: _kl(m, v, n, w) - np.log(w / v)),
        "the standard deviations as variances in the KL": Bound(kl=lambda m, v, n, w: _kl(m, v**0.5, n, w**0.5)),
        "the KL without its means": Bound(kl=lambda m, v, n, w: _kl(m, v, m, w)),
        "bins half as wide: 1/510 to both sides": Bound(half=1 / 510),
        "bins twice as wide: 1/127.5 to both sides": Bound(half=2 / 255),
        "bins of the width 2/256": Bound(half=1 / 256),
        "no tails at the first and the last level": Bound(ends=False),
        "the density instead of the mass of a bin at t = 1": Bound(density=True),
        "the KL at t = 1, too": Bound(always_kl=True),
        "log 2 multiplied instead of divided": lambda *a, units, **k: (
            Bound(log_unit=1 / math.log(2))(*a, units="bits", **k) if units == "bits" else None),
    },
    conventions={
        "prediction": ("noise", "x0", "v"),
        "variance": ("beta", "posterior", "beta, also at t = 1"),
        "cdf": ("exact", "tanh"),
        "units": ("nats", "bits"),
        "reduction": ("sum", "mean"),
        "time": TIMES,
    },
    where={"at t = 1, L_0": lambda x0, x_t, t, output, *, time, **_: bool((t == (time == "1…T")).any())},
    rtol=precision,
    tags=("diffusion", "bound"),
)  # fmt: skip
def check_bound_term(
    term: Any,
    *,
    prediction: str = "noise",
    variance: str = "posterior",
    clip: Any = False,
    cdf: str = "exact",
    units: str = "nats",
    reduction: str = "sum",
    betas: Any = None,
    alphas_cumprod: Any = None,
    time: str = "0…T−1",
    axes: int = 4,
    **options: Any,
) -> None:
    """One term of diffusion's bound on −log p(x_0): a KL for t > 1, the discretised decoder at t = 1.

    The function is called as term(x0, x_t, t, output): x0 (N, C, H, W), of 256 levels over [−1, 1], x_t a noisy one, t
    integers (N,), and what the network predicts there.  It returns (N,).

    Args:
        prediction: what `output` is: "noise", "x0" or "v".
        variance: σ_t²: "posterior" (β̃_t, β̃_2 at t = 1), "beta" (β_t, but β̃_2 at t = 1, as in Ho et al.'s code), or "beta,
            also at t = 1".
        clip: whether x̂_0 is clipped to [−1, 1].
        cdf: of the normal distribution in the decoder: "exact", or OpenAI's "tanh" approximation.
        units: "nats" or "bits".
        reduction: "sum" over the dimensions of a sample, or their "mean" (bits per dimension, with units="bits").
        betas, alphas_cumprod, time, axes: as in check_q_sample.

    Equation: L_{t−1} = KL(q(x_{t−1}|x_t, x_0) ‖ p(x_{t−1}|x_t)), L_0 = −log p(x_0|x_1).  Ho et al. 2020, eq. 5 and 13.

    An object of OpenAI's guided diffusion: `lambda x0, x, t, e: d._vb_terms_bpd(lambda *a, **k: e, x0, x, t)["output"]`
    with units="bits", reduction="mean", cdf="tanh".

    >>> import numpy as np
    >>> check_bound_term(lambda x0, x_t, t, e: x0.sum(axis=(1, 2, 3)))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    PropertyError: ...
    """


def _prior(formula: Callable[..., Any]) -> Callable[..., Any]:
    def truth(x0: Any, *, units: str, reduction: str, **given: Any) -> Any:
        bar = tables(given["betas"], given["alphas_cumprod"]).bar[-1]
        flat = np.reshape(formula(x0, bar), (len(x0), -1))
        total = flat.sum(1) if reduction == "sum" else flat.mean(1)
        return total / math.log(2) if units == "bits" else total

    return truth


@checker(
    name="L_T",
    equation="L_T = KL(N(√ᾱ_T x_0, (1 − ᾱ_T) I) ‖ N(0, I))",
    source="Ho et al. 2020, eq. 5",
    inputs=lambda draw, *, axes, **_: {"x0": draw.reals(*draw.sizes((2, 3), (1, 2), (1, 3), (1, 3))[:axes])},
    truth=_prior(lambda x, bar: 0.5 * (bar * x**2 + (1 - bar) - 1 - math.log(1 - bar))),
    mistakes={
        "x_0 not scaled by √ᾱ_T": _prior(lambda x, bar: 0.5 * (x**2 + (1 - bar) - 1 - math.log(1 - bar))),
        "the standard deviation in place of the variance": _prior(
            lambda x, bar: 0.5 * (bar * x**2 + (1 - bar) ** 0.5 - 1 - math.log(1 - bar) / 2)
        ),
        "the ½ missing": _prior(lambda x, bar: bar * x**2 + (1 - bar) - 1 - math.log(1 - bar)),
        "the −1 missing": _prior(lambda x, bar: 0.5 * (bar * x**2 + (1 - bar) - math.log(1 - bar))),
        "ᾱ_T without its root": _prior(lambda x, bar: 0.5 * (bar**2 * x**2 + (1 - bar) - 1 - math.log(1 - bar))),
        "the logarithm's sign turned round": _prior(lambda x, bar: 0.5 * (bar * x**2 + (1 - bar) - 1 + math.log(1 - bar))),
        "KL(p‖q), the other way round": _prior(
            lambda x, bar: 0.5 * (1 / (1 - bar) + bar * x**2 / (1 - bar) - 1 + math.log(1 - bar))
        ),
    },
    conventions={"units": ("nats", "bits"), "reduction": ("sum", "mean")},
    rtol=lambda single, **given: 1e-4 if single else 1e-5,
    tags=("diffusion", "bound"),
)  # fmt: skip
def check_prior_term(
    term: Any,
    *,
    units: str = "nats",
    reduction: str = "sum",
    betas: Any = None,
    alphas_cumprod: Any = None,
    axes: int = 4,
    **options: Any,
) -> None:
    """L_T, the last term of diffusion's bound: how far q(x_T | x_0) is from N(0, I).

    The function is called as term(x0), (N, C, H, W), and returns (N,).

    Args:
        units, reduction, betas, alphas_cumprod, axes: as in check_bound_term.  Give betas whose ᾱ_T is not tiny.

    Equation: KL(N(√ᾱ_T x_0, (1 − ᾱ_T) I) ‖ N(0, I)).  Ho et al. 2020, eq. 5.

    >>> import numpy as np
    >>> b = np.linspace(0.01, 0.3, 10)
    >>> a = np.prod(1 - b)
    >>> check_prior_term(lambda x: 0.5 * (a * x**2 - a - np.log(1 - a)).sum(axis=(1, 2, 3)), betas=b)
    """
