"""One step of reverse diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanogen.testing.diffusion import choose, documented, index, to_x0
from nanogen.testing.draws import Draw
from nanogen.testing.property import checker
from nanogen.testing.schedules import TIMES, Tables, precision, tables
from nanogen.testing.trial import to_numpy

Z = 5.5  # standard errors: a right sampler is refused once in 25 million comparisons
COPIES = 16_000


@dataclass(frozen=True)
class Draws:
    """Independent draws (K, N, …) or (N, …): each entry normal, with these means and standard deviations.

    along: what a wrong mean may be off by a multiple of, besides the expected mean."""

    mean: np.ndarray
    std: np.ndarray
    text: str = ""
    slack: float = 1e-4
    along: dict[str, np.ndarray] = field(default_factory=dict)

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
            return f"expected the mean {m:.5g}, got {got[~still].mean():.5g}"
        spread = math.sqrt((z**2).mean())
        if abs(spread - 1) > Z / math.sqrt(2 * z.size) + blur:
            s = std[~still].mean()
            return f"expected the standard deviation {s:.5g}, got {s * spread:.5g}"
        for name, other in {"the expected mean": mean, **self.along}.items():
            pull = (other - other.mean())[~still]
            drift = (z * pull).sum() / max(math.sqrt((pull**2).sum()), 1e-12)
            if abs(drift) > Z + blur * math.sqrt(z.size):
                return f"the distance from the expected mean grows with {name} ({drift:.1f} standard errors)"
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
        if wrong == "a single step" and j >= 0:
            j = i - 1
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
            elif wrong == "sigma of bar":
                sigma2 = self.eta**2 * (1 - bar)
            elif wrong == "sigma ratio":
                sigma2 = self.eta**2 * (1 - bar) / max(1 - before, 1e-12) * (1 - bar / before)
            rest = max(1 - before - sigma2, 0.0)
            if wrong == "sigma not in direction":
                rest = 1 - before
            elif wrong == "eta once in direction":
                rest = max(1 - before - sigma2 / max(self.eta, 1e-12), 0.0)
            elif wrong == "sigma once in direction":
                rest = max(1 - before - math.sqrt(sigma2), 0.0)
            elif wrong == "direction now":
                rest = max(1 - bar - sigma2, 0.0)
            direction = rest if wrong == "direction no root" else math.sqrt(rest)
            signal = before if wrong == "signal no root" else bar**0.5 if wrong == "signal now" else math.sqrt(before)
            along = output if wrong == "direction of the output" and self.prediction != "noise" else eps
            mean = signal * x0 + direction * along
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
        elif wrong == "log variance" and std:
            std = abs(2 * math.log(std))
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
    "to t − 1, not to the next of the times": "a single step",
    "η in place of η²": "eta once",
    "σ² without (1 − ᾱ_s)/(1 − ᾱ_t)": "sigma of beta",
    "σ = η √(1 − ᾱ_t)": "sigma of bar",
    "σ² with (1 − ᾱ_t)/(1 − ᾱ_s), upside down": "sigma ratio",
    "σ² not subtracted in the direction: √(1 − ᾱ_s)": "sigma not in direction",
    "σ in place of σ² in the direction": "sigma once in direction",
    "η in place of η² in the direction": "eta once in direction",
    "the direction along the output as it is, not along ε̂": "direction of the output",
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
    "log σ² in place of σ": "log variance",
    "the predicted noise once more in place of z": "output again",
}


def rule_of(given: dict[str, Any], wrong: str = "") -> Rule:
    settings: dict[str, Any] = {name: given[name] for name in ("method", "prediction", "variance", "eta", "clip")}
    kept = given.get("noise_after_clip", "recomputed") == "kept"
    S = tables(given.get("betas"), given.get("alphas_cumprod"))
    return Rule(S, **settings, final=given.get("final", "one"), kept=kept, wrong=wrong)


def _stepped(wrong: str = "") -> Callable[..., Any]:
    def truth(output: Any, t: Any, x: Any, *rest: Any, **given: Any) -> Any:
        rule, i = rule_of(given, wrong), int(np.ravel(t)[0]) - (given["time"] == "1…T")
        j, noise = rest[-1], rest[0]
        mean, std = rule.step(i, int(j) - (given["time"] == "1…T"), x, output)
        if given["returns"] == "mean":
            return mean
        if given["returns"] == "given":
            return mean + std * (output if wrong == "output again" else noise)
        if wrong == "output again":
            mean, std = mean + std * output, 0.0
        return Draws(mean, np.full_like(mean, std), along={"the output": output, "x_t": x})

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
    equation="ancestral μ̃_t(x_t, x̂_0) + σ_t z;  "
    "DDIM √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z, σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s)",
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
            np.abs(
                to_x0(
                    given["prediction"],
                    x,
                    output,
                    *(lambda b: (np.sqrt(b), np.sqrt(1 - b)))(
                        tables(given["betas"], given["alphas_cumprod"]).bar[int(np.ravel(t)[0]) - (time == "1…T")]
                    ),
                    0,
                    0,
                )
            ).max()
            > 1
        ),
    },
    draws=lambda *, returns, **_: returns == "drawn",
    describe=lambda inputs, index, *, method, **given: _step_said(inputs, method, given["time"]),
    rtol=precision,
    tags=("diffusion", "sampler"),
)
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
        returns: "drawn": as above.  "given": the function is called as step(output, t, x, noise).  "mean": it returns
            the mean, without noise.
        times: the falling times of a sampler with fewer steps, such as scheduler.timesteps: x_s is at the next of them.
            By default all.  With few steps, or returns="given", small mistakes of the noise stand out more.
        {settings}

    Equation: ancestral μ̃_t(x_t, x̂_0) + σ_t z (which is (x_t − β_t/√(1 − ᾱ_t) ε)/√α_t + σ_t z), Ho et al. 2020,
    algorithm 2.  DDIM √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z, Song et al. 2021, eq. 12 and 16.

    >>> import numpy as np
    >>> b = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - b)
    >>> def step(eps, t, x):
    ...     mean = (x - b[t] / np.sqrt(1 - bar[t]) * eps) / np.sqrt(1 - b[t])
    ...     return mean + (t > 0) * np.sqrt(b[t]) * np.random.randn(*x.shape)
    >>> check_reverse_step(step, betas=b)
    """
