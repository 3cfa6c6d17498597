"""A whole sampler of diffusion, run with a network that is exact and records what it is asked."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanogen.testing.diffusion import documented, from_x0
from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.property import checker
from nanogen.testing.reverse import STEP_MISTAKES, Draws, Rule, Z, rule_of
from nanogen.testing.schedules import TIMES, Tables, tables
from nanogen.testing.times import SPACINGS, grid
from nanogen.testing.trial import to_numpy

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


def _run_sampler(
    f: Any, inputs: dict[str, Any], *, prediction: str, time: str, pixels: Any, method: str, steps: Any, **given: Any
) -> dict[str, Any]:
    record = Recorder(tables(given["betas"], given["alphas_cumprod"]), prediction, int(time == "1…T"))
    many = () if method == "ancestral" and steps is None else (inputs["S"],)
    returned = to_numpy(f(record.network(), inputs["n"], *many))
    last = np.array(returned, float)
    if not record.times:
        raise UsageError("check_diffusion_sampler: the sampler did not call the network that it was given")
    low, high = pixels
    last = (last - low) / (high - low) * 2 - 1
    if last.size != record.inputs[-1].size:
        raise UsageError(f"check_diffusion_sampler: expected {record.inputs[-1].shape}, got {last.shape}")
    path = [x.reshape(inputs["n"], -1) for x in (*record.inputs, last)]
    if len({x.shape for x in path}) > 1:
        raise UsageError("check_diffusion_sampler: the network was asked for batches of several sizes")
    level = 2 / (high - low) if returned.dtype.kind in "iu" else 0.0
    inputs["_record"].update(times=np.array(record.times), path=np.stack(path), outputs=record.outputs, level=level)
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
    level: float  # from one whole number to the next, where the sampler returns such
    shift: int
    stride: int = 0  # if not 0, s = t − stride, whatever the next time
    stop: int = -1  # what the last step goes to
    noise: tuple[float, float] = (0.0, 1.0)  # mean and standard deviation of z
    shared: bool = False  # whether all samples have the same z

    def __str__(self) -> str:
        return "the rule's mean and standard deviation at every step"

    def refuse(self, got: np.ndarray) -> str | None:
        """The first step that another rule made, or None."""
        T = len(self.rule.S.bar)
        where = [int(np.clip(round(t) - self.shift, 0, T - 1)) for t in self.times]
        shift, size = 0.0, 0
        for k, i in enumerate(where):
            j = where[k + 1] if k + 1 < len(where) else self.stop
            if self.stride:
                j = max(i - self.stride, -1)
            mean, std = self.rule.step(i, j, self.path[k], self.outputs[k].reshape(self.path[k].shape))
            mean, std = mean + self.noise[0] * std, self.noise[1] * std
            if self.shared:
                z, small = got[k] - mean, 1e-3 * max(np.abs(mean).max(), 1.0)
                if np.ptp(z, axis=0).max() > small or np.abs(z).max() < 0.01 * std:
                    return "the samples' noise differs, or there is none"
                continue
            end = k + 1 == len(where)
            if end and np.abs(got[k]).max() <= 1 + 1e-6:  # images may be clamped, and rounded to whole numbers
                mean = np.clip(mean, -1, 1)
            said = Draws(mean, np.full_like(mean, std), slack=1e-3 + end * self.level).refuse(got[k])
            shift, size = (
                shift + (((got[k] - mean) / std).sum() if std > 1e-6 else 0.0),
                size + got[k].size * (std > 1e-6),
            )
            if said:
                to = f"{j + self.shift}" if j >= 0 else "the end"
                return f"from t = {i + self.shift} to {to}: {said}"
        if size and abs(shift) > (Z + 1e-3 * math.sqrt(size)) * math.sqrt(size):
            off, errors = shift / size, abs(shift) / math.sqrt(size)
            return f"all steps together are off by {off:.3g} standard deviations, {errors:.1f} standard errors"
        return None


def _sampled(
    wrong: str = "",
    times: Any = None,
    start: tuple[float, float] = (0.0, 1.0),
    stops: bool = False,
    **noise: Any,
) -> Callable[..., Any]:
    def truth(n: int, S: int, _record: dict[str, Any], **given: Any) -> Any:
        shift = int(given["time"] == "1…T")
        T = len(tables(given["betas"], given["alphas_cumprod"]).bar)
        right = _path(T, S, given)
        asked = right if times is None else times(T, S, right)
        still = given["method"] == "ddim" and not given["eta"]
        if asked is None or (times is not None and np.array_equal(asked, right)) or (noise and still):
            return None
        expected: dict[str, Any] = {"times asked": np.asarray(asked, float) + shift}
        if not _record:  # not run yet
            return expected | {"x at the first time": None, "the steps": None}
        stride = T // S if wrong == "stride" else 0
        rule = rule_of(given, "" if wrong == "stride" else wrong)
        steps = Steps(rule, **_record, shift=shift, stride=stride, **noise)
        if stops:
            steps = replace(steps, stop=int(right[-1]))
        return expected | {"x at the first time": Draws(np.array(start[0]), np.array(start[1])), "the steps": steps}

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


UNIFORM = 0.5, 12**-0.5  # mean and standard deviation
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
    "the last step left out: what is returned is still noisy": _sampled(
        times=lambda T, S, right: right[:-1], stops=True
    ),
    "x_T uniform on [0, 1), not normal": _sampled(start=UNIFORM),
    "z uniform on [0, 1), not normal": _sampled(noise=UNIFORM),
    "the same z for the whole batch": _sampled(shared=True),
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
    where={
        "where S does not divide T": lambda n, S, _record, *, betas, alphas_cumprod, **_: bool(
            len(tables(betas, alphas_cumprod).bar) % S
        )
    },
    run=_run_sampler,
    draws=True,
    shapes=True,
    examples=4,
    describe=lambda inputs, index, *, method, **_: f"{method} sampler, S = {inputs['S']}",
    tags=("diffusion", "sampler"),
)
def check_diffusion_sampler(
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

    The function is called as sample(network, n): it draws n samples with `network(x, t)` in place of its own network,
    and returns x_0, (n, …).  With method="ddim", or where `steps` are given, it is called as sample(network, n, S)
    and takes S steps.  The network takes arrays or tensors, times as a number or (n,), ignores further arguments, and
    is a torch.nn.Module where torch is imported.  It is exact for data of independent N(0.4, 0.12²) entries; every x
    it is asked for is compared with what the step's equation makes of the x before.

    Args:
        method, prediction, variance, eta, clip, final: as in check_reverse_step.
        steps: the S to try.  Default for "ddim": some that do not divide T.
        spacing: of the times, as in check_time_grid.
        pixels: what the sampler returns −1 and 1 as.  It may clamp its images to them, and round to whole numbers.
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
    >>> check_diffusion_sampler(sample, betas=b)
    """
