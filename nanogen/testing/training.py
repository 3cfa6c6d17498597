"""Rules of training: SGD, Adam, AdamW over several parameters, moving averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.property import checker
from nanogen.testing.trial import to_numpy

STEPS = 5
Parts = dict[str, np.ndarray]


def _parameters(draw: Draw, **_: Any) -> dict[str, Any]:
    """Three parameters and their gradients (steps, …); the third has none for the first `_late` steps."""
    shapes = [draw.sizes((1, 2), (1, 3)), (draw.integer(1, 3),), draw.sizes((1, 3), (1, 2))]
    params = {f"p{i}": draw.reals(*shape) for i, shape in enumerate(shapes)}
    scales = (1.0, 1e-4, 0.1)  # a small one shows where ε stands
    gradients = {
        f"g{i}": (draw.rng().integers(1, 30, (STEPS, *shape)) / 10)
        * draw.rng().choice([-1, 1], (STEPS, *shape))
        * scale
        for i, (shape, scale) in enumerate(zip(shapes, scales))
    }
    return params | gradients | {"_late": draw.pick(2, 0, 3, 1)}


def _run_updates(f: Any, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
    p, q, r, g, h, k, late = inputs.values()
    gradients = [[g[s], h[s], None if s < late else k[s]] for s in range(STEPS)]
    found = f([p * 1, q * 1, r * 1], gradients)
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise UsageError("the function must return the list of the three parameters after the last step")
    return {f"parameter {i}": to_numpy(x) for i, x in enumerate(found)}


def _by_step(p: Any, q: Any, r: Any, g: Any, h: Any, k: Any, late: int) -> Iterator[tuple[str, Any, Any, int]]:
    """Name, value, gradients, and the number of steps without one of each parameter."""
    for i, (x, grads, skipped) in enumerate(((p, g, 0), (q, h, 0), (r, k, late))):
        yield f"parameter {i}", np.array(x, float), np.asarray(grads, float), skipped


# SGD


def _sgd(wrong: str = "") -> Callable[..., Any]:
    def truth(*inputs: Any, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool) -> Any:
        needs = {
            "momentum": momentum,
            "nesterov": nesterov and momentum,
            "dampening": dampening and momentum,
            "decay": weight_decay,
        }
        if wrong and not needs.get(_SGD_NEEDS[wrong], True):
            return None
        parts: Parts = {}
        for name, x, grads, late in _by_step(*inputs):
            v = np.zeros_like(x)
            first = True
            for s in range(len(grads)):
                if s < late:
                    if wrong == "late zero":
                        v = momentum * v
                        x = x - lr * (v + weight_decay * x)
                        first = False
                    continue
                d = grads[s] + (0.0 if wrong in ("decay apart", "no decay") else weight_decay * x)
                if wrong == "decay apart":
                    x = x * (1 - lr * weight_decay)
                if wrong == "decay minus":
                    d = grads[s] - weight_decay * x
                if wrong in ("decay halved", "decay twice"):
                    d = grads[s] + (0.5 if wrong == "decay halved" else 2) * weight_decay * x
                share = 1.0 if first and wrong != "damped first" else 1 - dampening
                if wrong == "average":
                    share = 1 - momentum
                if wrong == "undamped":
                    share = 1.0
                first = False
                old = v
                v = momentum * v + share * d
                if wrong == "momentum reversed":
                    v = (1 - momentum) * v + share * d
                if momentum == 0:
                    v = d
                if wrong == "velocity forgotten":
                    v = d
                step = d + momentum * v if nesterov else v
                if wrong == "nesterov old":
                    step = v + momentum * v
                if wrong == "nesterov not gradient":
                    step = momentum * v
                if wrong == "old velocity":
                    step = old
                x = x + lr * step if wrong == "uphill" else x - lr * step
            parts[name] = x
        return parts

    return truth


_SGD_NEEDS = {
    "damped first": "dampening",
    "undamped": "dampening",
    "average": "momentum",
    "momentum reversed": "momentum",
    "velocity forgotten": "momentum",
    "nesterov old": "nesterov",
    "nesterov not gradient": "nesterov",
    "decay apart": "decay",
    "decay minus": "decay",
    "no decay": "decay",
    "old velocity": "momentum",
    "decay halved": "decay",
    "decay twice": "decay",
    "late zero": "decay",
    "uphill": "",
}
LATE = {"where a parameter's gradient comes late": lambda *inputs, **_: inputs[-1] > 0}


@checker(
    name="SGD",
    equation="v ← μ v + (1 − τ)(g + λ x) (v ← g + λ x at first);  x ← x − lr v, Nesterov x ← x − lr (g + λ x + μ v)",
    source="Polyak 1964; Sutskever et al. 2013, section 2, in torch's scaling",
    inputs=_parameters,
    truth=_sgd(),
    mistakes={
        "uphill: the step added": _sgd("uphill"),
        "the first velocity dampened, too": _sgd("damped first"),
        "dampening left out": _sgd("undamped"),
        "(1 − μ) g in place of g in the velocity": _sgd("average"),
        "1 − μ in place of μ": _sgd("momentum reversed"),
        "momentum left out: the velocity is not kept": _sgd("velocity forgotten"),
        "Nesterov: v + μ v in place of g + μ v": _sgd("nesterov old"),
        "Nesterov: μ v without g": _sgd("nesterov not gradient"),
        "the decay outside of the velocity": _sgd("decay apart"),
        "the decay's sign turned round": _sgd("decay minus"),
        "the decay left out": _sgd("no decay"),
        "half of the decay": _sgd("decay halved"),
        "twice the decay: the gradient of λ‖x‖², not of ½ λ‖x‖²": _sgd("decay twice"),
        "the step by the velocity from before this gradient": _sgd("old velocity"),
        "decay of a parameter without a gradient": _sgd("late zero"),
    },
    conventions={"nesterov": (False, True)},
    where=LATE,
    run=_run_updates,
    tags=("training", "optimiser"),
)
def check_sgd(
    run: Any,
    *,
    lr: float = 0.1,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    **options: Any,
) -> None:
    """Stochastic gradient descent, over five steps of three parameters.

    The function is called as run(parameters, gradients): three arrays of different shapes, and for each step the list
    of their gradients, in which the third is None for the first steps.  It returns the parameters after the last step.

    Args:
        lr, momentum, dampening, weight_decay, nesterov: the settings with which your optimiser runs; torch's names.

    Equation: v ← μ v + (1 − τ)(g + λ x), but v ← g + λ x at a parameter's first; x ← x − lr v.  Polyak 1964;
    Sutskever et al. 2013.

    >>> def run(parameters, gradients):
    ...     for step in gradients:
    ...         parameters = [p if g is None else p - 0.1 * g for p, g in zip(parameters, step)]
    ...     return parameters
    >>> check_sgd(run, lr=0.1)

    An optimiser of torch, with convert=torch.tensor:

        def run(parameters, gradients):
            parameters = [p.requires_grad_() for p in parameters]
            optimiser = torch.optim.SGD(parameters, lr=0.1)
            for step in gradients:
                for p, g in zip(parameters, step):
                    p.grad = g
                optimiser.step()
            return parameters
    """


# Adam and AdamW


def _adam(wrong: str = "") -> Callable[..., Any]:
    def truth(
        *inputs: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool
    ) -> Any:
        if wrong in _DECAYS and not (weight_decay and (wrong not in _DECOUPLED or decoupled)):
            return None
        b1, b2 = betas[::-1] if wrong == "betas swapped" else betas
        parts: Parts = {}
        for name, x, grads, late in _by_step(*inputs):
            m, v, t = np.zeros_like(x), np.zeros_like(x), 0
            for s in range(len(grads)):
                if s < late:
                    if wrong == "late decay":
                        x = x * (1 - lr * weight_decay)
                    continue
                t += 1
                updates = sum(3 if u >= inputs[-1] else 2 for u in range(s)) + int(name[-1]) + 1
                counts = {"shared step": s + 1, "step from 0": t - 1, "step late": t + 1, "first step": 1}
                k = {**counts, "each parameter": updates}.get(wrong, t)
                g = grads[s]
                inside = weight_decay and (not decoupled or wrong == "decay inside")
                if inside:
                    g = g + weight_decay * x
                factor = lr * weight_decay
                if wrong == "decay without lr":
                    factor = weight_decay
                elif wrong == "decay half":
                    factor = factor / 2
                before = x
                if weight_decay and decoupled and wrong not in ("decay inside", "decay after", "decay left out"):
                    x = x * (1 + factor) if wrong == "decay plus" else x * (1 - factor)
                m = b1 * m + (1 - b1) * g
                v = b2 * v + (1 - b2) * (np.abs(g) if wrong == "no square" else g**2)
                if wrong == "square of mean":
                    v = b2 * (v - (1 - b2) * g**2) / b2 + (1 - b2) * m**2 if b2 else m**2
                if wrong == "average reversed":
                    m = (1 - b1) * (m - (1 - b1) * g) / b1 + b1 * g
                c1 = 1.0 if wrong in ("no correction", "no first") else 1 - b1**k
                c2 = 1.0 if wrong in ("no correction", "no second") else 1 - b2**k
                root = np.sqrt(v / c2) + eps
                if wrong == "eps inside":
                    root = np.sqrt(v / c2 + eps)
                elif wrong == "eps before":
                    root = (np.sqrt(v) + eps) / np.sqrt(c2)
                elif wrong == "no root":
                    root = v / c2 + eps
                elif wrong == "correction rootless":
                    root = np.sqrt(v) / c2 + eps
                elif wrong == "multiplied correction":
                    root = np.sqrt(v * c2) + eps
                elif wrong == "eps minus":
                    root = np.sqrt(v / c2) - eps
                step = lr * (g if wrong == "gradient" else m / c1) / root
                if wrong == "both multiplied":
                    step = lr * m * c1 / (np.sqrt(v * c2) + eps)
                if wrong == "uphill":
                    step = -step
                x = x - step
                if wrong == "decay after":
                    x = x - factor * x
                elif wrong == "decay in step" and decoupled:
                    x = before - factor * before / root - step
            parts[name] = x
        return parts

    return truth


_DECOUPLED = (
    "decay inside",
    "decay without lr",
    "decay after",
    "decay plus",
    "decay half",
    "late decay",
    "decay left out",
    "decay in step",
)
_DECAYS = _DECOUPLED
_ADAM_MISTAKES = {
    "uphill: the step added": "uphill",
    "no bias correction": "no correction",
    "no bias correction of the first moment": "no first",
    "no bias correction of the second moment": "no second",
    "the bias correction by one step count for all parameters, though a gradient came late": "shared step",
    "the bias correction one step late, βᵗ⁺¹": "step late",
    "the bias correction by a count that each parameter's update raises": "each parameter",
    "the bias correction of the first step at all steps": "first step",
    "m and v multiplied by 1 − βᵗ instead of divided": "both multiplied",
    "ε inside the root": "eps inside",
    "√v̂ − ε in place of √v̂ + ε": "eps minus",
    "ε added before the bias correction: (√v + ε)/√(1 − β₂ᵗ)": "eps before",
    "the root of v missing": "no root",
    "g in place of m̂ in the step": "gradient",
    "|g| in place of g² in v": "no square",
    "m² in place of g² in v": "square of mean",
    "β₁ and β₂ swapped": "betas swapped",
    "β₁ and 1 − β₁ swapped in m": "average reversed",
    "√v/(1 − β₂ᵗ): the correction without its root": "correction rootless",
    "v multiplied by 1 − β₂ᵗ instead of divided": "multiplied correction",
    "the decay inside the gradient: L2, as in Adam": "decay inside",
    "the decay not multiplied by lr": "decay without lr",
    "the decay after the step": "decay after",
    "the decay with the wrong sign": "decay plus",
    "half of the decay": "decay half",
    "decay of a parameter without a gradient": "late decay",
    "the decay left out": "decay left out",
    "the decay divided by √v̂, as a part of the step": "decay in step",
}


def _given_adam(wrong: str, decoupled: bool) -> Callable[..., Any]:
    formula = _adam(wrong)
    return lambda *inputs, **settings: formula(*inputs, decoupled=decoupled, **settings)


def _adam_checker(decoupled: bool) -> Any:
    parts = [text for text, wrong in _ADAM_MISTAKES.items() if decoupled or wrong not in _DECOUPLED]
    mistakes = {text: _given_adam(_ADAM_MISTAKES[text], decoupled) for text in parts}
    if not decoupled:
        mistakes["the decay outside of the gradient: decoupled, as in AdamW"] = lambda *inputs, **settings: (
            _adam()(*inputs, decoupled=True, **settings) if settings["weight_decay"] else None
        )
        mistakes["the decay left out"] = lambda *inputs, **settings: (
            _adam()(*inputs, decoupled=False, **settings | {"weight_decay": 0.0}) if settings["weight_decay"] else None
        )
    return checker(
        name="AdamW" if decoupled else "Adam",
        equation="m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², x ← x − lr m̂/(√v̂ + ε)"
        + (", and x ← x − lr λ x" * decoupled),
        source="Loshchilov & Hutter 2019, algorithm 2" if decoupled else "Kingma & Ba 2015, algorithm 1",
        inputs=_parameters,
        truth=_given_adam("", decoupled),
        mistakes=mistakes,
        where=LATE,
        run=_run_updates,
        tags=("training", "optimiser"),
    )


@_adam_checker(False)
def check_adam(
    run: Any,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    **options: Any,
) -> None:
    """Adam, over five steps of three parameters, of which one gets its first gradient late.

    The function is called as run(parameters, gradients), as in check_sgd, and returns the parameters after the last
    step.

    Args:
        lr, betas, eps, weight_decay: the settings with which your optimiser runs; the decay is added to the gradient.

    Equation: m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², x ← x − lr m̂/(√v̂ + ε), m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ),
    t the number of this parameter's updates.  Kingma & Ba 2015, algorithm 1.

    >>> def run(parameters, gradients):
    ...     for i, p in enumerate(parameters):
    ...         m, v, t = 0, 0, 0
    ...         for g in [step[i] for step in gradients if step[i] is not None]:
    ...             m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2, t + 1
    ...             p = p - 0.01 * m / (1 - 0.9**t) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
    ...         parameters[i] = p
    ...     return parameters
    >>> check_adam(run, lr=0.01)
    """


@_adam_checker(True)
def check_adamw(
    run: Any,
    *,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    **options: Any,
) -> None:
    """Adam with decoupled weight decay, over five steps of three parameters, of which one gets its first gradient late.

    The function is called as run(parameters, gradients), as in check_sgd, and returns the parameters after the last
    step.

    Args:
        lr, betas, eps, weight_decay: the settings with which your optimiser runs.  A large decay and rate, such as 0.1
            each, show most.

    Equation: x ← x − lr λ x, then Adam's step.  Loshchilov & Hutter 2019, algorithm 2.

    >>> import torch
    >>> def run(parameters, gradients):
    ...     parameters = [p.requires_grad_() for p in parameters]
    ...     optimiser = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)
    ...     for step in gradients:
    ...         for p, g in zip(parameters, step):
    ...             p.grad = g
    ...         optimiser.step()
    ...     return parameters
    >>> check_adamw(run, lr=0.1, weight_decay=0.1, convert=torch.tensor)
    """


# Moving averages


def _decay_at(n: int, decay: float, warmup: str) -> float:
    """The decay of the n-th update, n = 1, 2, …"""
    return {
        "none": decay,
        "(1 + n)/(10 + n)": min(decay, (1 + n) / (10 + n)),
        "(1 + n)/(10 + n) from 0": min(decay, n / (9 + n)),
        "n/(n + 1)": min(decay, n / (n + 1)),
        "unbiased": 1 - (1 - decay) / (1 - decay**n),
    }[warmup]


def _averaged(wrong: str = "") -> Callable[..., Any]:
    def truth(parameters: Any, buffers: Any, *, decay: float, warmup: str, buffers_are: str, start: str) -> Any:
        def average(values: Any, copied: bool) -> Any:
            a = np.zeros_like(values[0], dtype=float) if start == "zeros" else np.array(values[0], float)
            for n, x in enumerate(values[1:], 1):
                d = _decay_at(n, 1 - 1e-9 if wrong == "no end" else decay, warmup)
                if wrong == "reversed":
                    d = 1 - d
                if wrong == "late":
                    x = values[n - 1]
                if wrong == "first copied" and n == 1:
                    d = 0.0
                if wrong == "sum":
                    a = d * a + x
                    continue
                if wrong == "no decay":
                    a = a + (1 - d) * x
                    continue
                if wrong == "step minus":
                    a = a + (1 - d) * (a - x)
                    continue
                a = np.array(x, float) if copied else d * a + (1 - d) * x
            if wrong == "corrected":
                a = a / (1 - decay ** (len(values) - 1))
            if wrong == "never":
                a = np.array(values[0], float)
            if wrong == "copied":
                a = np.array(values[-1], float)
            return a

        return {
            "parameters": average(parameters, False),
            "buffers": np.array(buffers[0], float)
            if wrong == "buffers left"
            else average(buffers, buffers_are == "copied"),
        }

    return truth


def _averaged_inputs(draw: Draw, *, decay: float, warmup: str, **_: Any) -> dict[str, Any]:
    """With a warm-up sometimes so many steps that it ends: (1 + n)/(10 + n) = d at n = (10 d − 1)/(1 − d)."""
    n = draw.integer(3, 5)
    if warmup not in ("none", "unbiased"):
        n += draw.pick(0, math.ceil(10 * decay / max(1 - decay, 0.01)))
    parameters = draw.reals(n, *draw.sizes((1, 2), (1, 3)))
    return {"parameters": parameters, "buffers": draw.reals(n, draw.integer(1, 3)) + 2}


def _run_average(f: Any, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
    found = f(inputs["parameters"], inputs["buffers"])
    parts = list(found) if isinstance(found, tuple | list) else [found]
    return dict(zip(("parameters", "buffers"), [*parts, None][:2]))


@checker(
    name="moving average",
    equation="a ← d·a + (1 − d)·x after each step, from a = x_0",
    source="Polyak & Juditsky 1992",
    inputs=_averaged_inputs,
    truth=_averaged(),
    mistakes={
        "d and 1 − d swapped": _averaged("reversed"),
        "the buffers left as they were": _averaged("buffers left"),
        "one step late: the parameters from before the step": _averaged("late"),
        "the first update copies the parameters": _averaged("first copied"),
        "x added without 1 − d": _averaged("sum"),
        "a not multiplied by d": _averaged("no decay"),
        "a + (1 − d)(a − x): away from the parameters": _averaged("step minus"),
        "the warm-up never ends: d is not limited": lambda *x, warmup, **k: (
            _averaged("no end")(*x, warmup=warmup, **k) if warmup not in ("none", "unbiased") else None
        ),
        "divided by 1 − dⁿ, though it starts at the parameters": lambda *x, warmup, start, **k: (
            None
            if start == "zeros" or warmup != "none"
            else _averaged("corrected")(*x, warmup=warmup, start=start, **k)
        ),
        "never updated": _averaged("never"),
        "a copy of the last parameters": _averaged("copied"),
    },
    conventions={
        "warmup": ("none", "(1 + n)/(10 + n)", "(1 + n)/(10 + n) from 0", "n/(n + 1)", "unbiased"),
        "buffers_are": ("averaged", "copied"),
        "start": ("parameters", "zeros"),
    },
    run=_run_average,
    tags=("training", "ema"),
)
def check_moving_average(
    average: Any,
    *,
    decay: float = 0.9,
    warmup: str = "none",
    buffers_are: str = "averaged",
    start: str = "parameters",
    **options: Any,
) -> None:
    """The exponential moving average of a network's parameters and buffers.

    The function is called as average(parameters, buffers), arrays (S + 1, …): the values at the start, and after each
    of S steps; the average is updated after each step.  It returns the averaged parameters, or these and the buffers
    (the running moments of batch norms).

    Args:
        decay: d, with which yours runs; let it be well below 1, such as 0.9.
        warmup: "none"; "(1 + n)/(10 + n)": d is at most that in the n-th update, n = 1, 2 …, or n = 0, 1 … with "(1 +
            n)/(10 + n) from 0"; "n/(n + 1)"; or "unbiased": 1 − (1 − d)/(1 − dⁿ).
        buffers_are: "averaged", or "copied" from the network.
        start: "parameters", a = x_0, or "zeros".

    Equation: a ← d·a + (1 − d)·x.  Polyak & Juditsky 1992.

    >>> def average(parameters, buffers):
    ...     a, b = parameters[0], buffers[0]
    ...     for x, y in zip(parameters[1:], buffers[1:]):
    ...         a, b = 0.9 * a + 0.1 * x, 0.9 * b + 0.1 * y
    ...     return a, b
    >>> check_moving_average(average, decay=0.9)
    """
