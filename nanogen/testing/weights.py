"""Diffusion: weights of the loss, guidance."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.testing.diffusion import Formula, index
from nanogen.testing.draws import Draw
from nanogen.testing.property import checker
from nanogen.testing.schedules import TIMES, Tables, precision, tables


def _weights(change: Formula | None = None, applies: Formula = lambda **_: True) -> Formula:
    """The weight at the times t, from a formula of (tables, settings)."""

    def weight(t: Any, *, time: str, **given: Any) -> Any:
        if not applies(**given):
            return None
        S = tables(**{name: given[name] for name in ("betas", "alphas_cumprod")})
        with np.errstate(all="ignore"):
            table = loss_weight(S, **given) if change is None else change(S, **given)
        return table[np.asarray(t) - (time == "1…T")]

    return weight


def loss_weight(
    S: Tables, *, kind: str, prediction: str, gamma: float, snr: Any = None, k: float, half: float = 0.5, **_: Any
) -> np.ndarray:
    """The weight of ‖prediction error‖² for every time."""
    snr = S.snr if snr is None else snr
    by = {"noise": snr, "x0": np.ones_like(snr), "v": snr + 1}  # ‖x_0 error‖² = ‖error‖² / by · …
    if kind == "snr":
        return snr / by[prediction]
    if kind == "min-snr":
        return np.minimum(snr, gamma) / by[prediction]
    if kind == "p2":
        return (k + snr) ** -gamma * (snr / by[prediction])
    return half * S.beta**2 * S.before / (1 - S.bar) ** 2 / _sigma2(S, kind) / by[prediction]


def _sigma2(S: Tables, kind: str) -> np.ndarray:
    return S.beta if kind == "kl, beta" else S.posterior


KLS = ("kl, beta", "kl, posterior")


def _for(*kinds: str, predictions: tuple[str, ...] = ("noise", "x0", "v")) -> Formula:
    return lambda *, kind, prediction, **_: kind in kinds and prediction in predictions


def _weighted_inputs(draw: Draw, *, kind: str, time: str, **given: Any) -> dict[str, Any]:
    T = len(tables(**given).beta)
    low = 1 if kind in KLS else 0  # β̃_1 is 0
    return {"t": np.array([index(draw, T, low) for _ in range(draw.integer(2, 4))]) + (time == "1…T")}


WEIGHT_MISTAKES = {
    "the signal-to-noise ratio upside down": _weights(
        lambda S, **k: loss_weight(S, **k | {"snr": 1 / S.snr}), _for("snr", "min-snr", "p2")
    ),
    "the root of the signal-to-noise ratio": _weights(
        lambda S, **k: loss_weight(S, **k | {"snr": np.sqrt(S.snr)}), _for("snr", "min-snr", "p2")
    ),
    "ᾱ_t in place of ᾱ_t/(1 − ᾱ_t)": _weights(
        lambda S, **k: loss_weight(S, **k | {"snr": S.bar}), _for("snr", "min-snr", "p2", predictions=("x0", "v"))
    ),
    "the signal-to-noise ratio of t − 1": _weights(
        lambda S, **k: loss_weight(S, **k | {"snr": np.append(1e12, S.snr[:-1])}), _for("snr", "min-snr", "p2")
    ),
    "the maximum in place of the minimum": _weights(
        lambda S, *, gamma, prediction, **_: (
            np.maximum(S.snr, gamma) / {"noise": S.snr, "x0": 1, "v": S.snr + 1}[prediction]
        ),
        _for("min-snr"),
    ),
    "γ/SNR without the minimum": _weights(
        lambda S, *, gamma, **_: gamma / S.snr, _for("min-snr", predictions=("noise",))
    ),
    "min(SNR + 1, γ)/(SNR + 1): γ not of the SNR": _weights(
        lambda S, *, gamma, **_: np.minimum(S.snr + 1, gamma) / (S.snr + 1), _for("min-snr", predictions=("v",))
    ),
    "min(SNR, γ)/SNR + 1": _weights(
        lambda S, *, gamma, **_: np.minimum(S.snr, gamma) / S.snr + 1, _for("min-snr", predictions=("v",))
    ),
    "without the exponent γ": _weights(lambda S, **k: loss_weight(S, **k | {"gamma": 1.0}), _for("p2")),
    "the ½ missing": _weights(lambda S, **k: loss_weight(S, **k | {"half": 1.0}), _for(*KLS)),
    "β_t in place of β_t²": _weights(lambda S, **k: loss_weight(S, **k) / S.beta, _for(*KLS)),
    "α_t missing": _weights(lambda S, **k: loss_weight(S, **k) * S.alpha, _for(*KLS, predictions=("noise",))),
    "ᾱ_t in place of α_t": _weights(
        lambda S, **k: loss_weight(S, **k) * S.alpha / S.bar, _for(*KLS, predictions=("noise",))
    ),
    "1 − ᾱ_t missing": _weights(lambda S, **k: loss_weight(S, **k) * (1 - S.bar), _for(*KLS, predictions=("noise",))),
    "√(1 − ᾱ_t) in place of 1 − ᾱ_t": _weights(
        lambda S, **k: loss_weight(S, **k) * np.sqrt(1 - S.bar), _for(*KLS, predictions=("noise",))
    ),
    "σ in place of σ²": _weights(lambda S, **k: loss_weight(S, **k) * np.sqrt(_sigma2(S, k["kind"])), _for(*KLS)),
    "σ² missing": _weights(lambda S, **k: loss_weight(S, **k) * _sigma2(S, k["kind"]), _for(*KLS)),
    "ᾱ_t in place of ᾱ_{t−1}": _weights(
        lambda S, **k: loss_weight(S, **k) * S.bar / S.before, _for(*KLS, predictions=("x0",))
    ),
    "ᾱ_{t−1} with its root": _weights(
        lambda S, **k: loss_weight(S, **k) / np.sqrt(S.before), _for(*KLS, predictions=("x0",))
    ),
    "SNR(t) − SNR(t − 1): the sign": _weights(lambda S, **k: -loss_weight(S, **k), _for(*KLS, predictions=("x0",))),
}


@checker(
    name="weight",
    equation="snr SNR/d; min-snr min(SNR, γ)/d; kl ½ β² ᾱ_{t−1}/((1 − ᾱ)² σ² d); "
    "d = SNR for ε, 1 for x_0, SNR + 1 for v",
    source="Ho et al. 2020, eq. 8, 12; Salimans & Ho 2022, section 4; Hang et al. 2023, section 3.4",
    inputs=_weighted_inputs,
    truth=_weights(),
    mistakes=WEIGHT_MISTAKES,
    conventions={
        "kind": ("min-snr", "snr", "kl, beta", "kl, posterior", "p2"),
        "prediction": ("noise", "x0", "v"),
        "time": TIMES,
    },
    rtol=precision,
    tags=("diffusion", "loss"),
)
def check_loss_weight(
    weight: Any,
    *,
    kind: str = "min-snr",
    prediction: str = "noise",
    gamma: float = 5.0,
    k: float = 1.0,
    betas: Any = None,
    alphas_cumprod: Any = None,
    time: str = "0…T−1",
    **options: Any,
) -> None:
    """The weight of a squared prediction error, by its time.

    The function is called as weight(t), integers (N,), and returns (N,).  SNR = ᾱ/(1 − ᾱ).

    Args:
        kind: the weight of the squared error of x_0, divided by d (below):
            "min-snr": min(SNR, γ);  "snr": SNR;  "p2": SNR/(k + SNR)^γ;
            "kl, posterior": that of the bound with σ² = β̃, ½ (SNR(t−1) − SNR(t)); "kl, beta": with σ² = β.
        prediction: whose error it is: "noise" (d = SNR, so that "snr" is L_simple's 1), "x0" (d = 1) or "v"
            (d = SNR + 1).
        gamma, k: of min-snr and p2.
        betas, alphas_cumprod, time: of your schedule, as in check_q_sample.

    Equation: min(SNR, γ)/d.  Hang et al. 2023, section 3.4; Ho et al. 2020, eq. 12; Salimans & Ho 2022, section 4.

    >>> import numpy as np
    >>> betas = np.linspace(0.01, 0.3, 20)
    >>> bar = np.cumprod(1 - betas)
    >>> snr = bar / (1 - bar)
    >>> check_loss_weight(lambda t: np.minimum(snr[t], 5) / snr[t], kind="min-snr", prediction="noise", betas=betas)
    """


# Guidance


def _guided(formula: Formula) -> Formula:
    def guided(cond: Any, uncond: Any, w: float, *, scale: str) -> Any:
        return formula(cond, uncond, w, w if scale == "w" else w - 1)

    return guided


@checker(
    equation="(1 + w) ε(x, c) − w ε(x) = ε(x) + s (ε(x, c) − ε(x)),  s = 1 + w",
    source="Ho & Salimans 2022, eq. 6",
    inputs=lambda draw, **_: {
        "cond": draw.reals(*(shape := draw.sizes((1, 2), (1, 3)))),
        "uncond": draw.reals(*shape),
        "w": draw.pick(2.0, 3.0, 0.5, 7.5, 1.0, 0.0, 0.3),
    },
    truth=_guided(lambda c, u, given, w: (1 + w) * c - w * u),
    mistakes={
        "(1 − w) c + w u: the sign of w": _guided(lambda c, u, given, w: (1 - w) * c + w * u),
        "conditional and unconditional swapped": _guided(lambda c, u, given, w: (1 + w) * u - w * c),
        "(1 + w) c + w u": _guided(lambda c, u, given, w: (1 + w) * c + w * u),
        "w (c − u), without u": _guided(lambda c, u, given, w: given * (c - u)),
        "without guidance: c": _guided(lambda c, u, given, w: c),
        "c + u + w (c − u)": _guided(lambda c, u, given, w: c + u + given * (c - u)),
        "(1 + w) c − u": _guided(lambda c, u, given, w: (1 + given) * c - u),
    },
    conventions={"scale": ("w", "s")},
    where={"where the scale is not 0 or 1": lambda c, u, w, **_: w not in (0, 1)},
    tags=("diffusion", "guidance"),
)
def check_guidance(guide: Any, *, scale: str = "s", **options: Any) -> None:
    """Classifier-free guidance: the prediction with a condition, moved away from the one without.

    The function is called as guide(conditional, unconditional, scale), arrays (N, D) and a number.

    Args:
        scale: "s": u + s (c − u), where 1 is no guidance, as in diffusers; or "w": (1 + w) c − w u, where 0 is none, as
            in the paper.

    Equation: (1 + w) ε(x, c) − w ε(x), s = 1 + w.  Ho & Salimans 2022, eq. 6.

    >>> check_guidance(lambda c, u, s: u + s * (c - u))
    >>> check_guidance(lambda c, u, w: (1 + w) * c - w * u, scale="w")
    """
