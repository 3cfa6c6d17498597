"""Diffusion's bound, term by term."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanogen.testing.diffusion import at, from_x0, index, to_x0
from nanogen.testing.draws import Draw
from nanogen.testing.laws import normal_cdf
from nanogen.testing.property import checker
from nanogen.testing.schedules import TIMES, precision, tables


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

    def __call__(
        self,
        x0: Any,
        x_t: Any,
        t: Any,
        output: Any,
        *,
        prediction: str,
        variance: str,
        clip: Any,
        cdf: str,
        units: str,
        reduction: str,
        time: str,
        **given: Any,
    ) -> Any:
        S = tables(given["betas"], given["alphas_cumprod"])
        c: list[Any] = [
            at(a, t, x0, time)
            for a in (
                np.sqrt(S.bar),
                np.sqrt(1 - S.bar),
                S.beta * np.sqrt(S.before) / (1 - S.bar),
                np.sqrt(S.alpha) * (1 - S.before) / (1 - S.bar),
            )
        ]
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
            Bound(log_unit=1 / math.log(2))(*a, units="bits", **k) if units == "bits" else None
        ),
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
)
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
        variance: σ_t²: "posterior" (β̃_t, β̃_2 at t = 1), "beta" (β_t, but β̃_2 at t = 1, as in Ho et al.'s code), or
            "beta, also at t = 1".
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
        S = tables(given["betas"], given["alphas_cumprod"])
        flat = np.reshape(formula(x0, S.bar[-1], S.beta[-1]), (len(x0), -1))
        total = flat.sum(1) if reduction == "sum" else flat.mean(1)
        return total / math.log(2) if units == "bits" else total

    return truth


@checker(
    name="L_T",
    equation="L_T = KL(N(√ᾱ_T x_0, (1 − ᾱ_T) I) ‖ N(0, I))",
    source="Ho et al. 2020, eq. 5",
    inputs=lambda draw, *, axes, **_: {"x0": draw.reals(*draw.sizes((2, 3), (1, 2), (1, 3), (1, 3))[:axes])},
    truth=_prior(lambda x, bar, beta: 0.5 * (bar * x**2 + (1 - bar) - 1 - math.log(1 - bar))),
    mistakes={
        "x_0 not scaled by √ᾱ_T": _prior(lambda x, bar, beta: 0.5 * (x**2 + (1 - bar) - 1 - math.log(1 - bar))),
        "the standard deviation in place of the variance": _prior(
            lambda x, bar, beta: 0.5 * (bar * x**2 + (1 - bar) ** 0.5 - 1 - math.log(1 - bar) / 2)
        ),
        "the ½ missing": _prior(lambda x, bar, beta: bar * x**2 + (1 - bar) - 1 - math.log(1 - bar)),
        "the −1 missing": _prior(lambda x, bar, beta: 0.5 * (bar * x**2 + (1 - bar) - math.log(1 - bar))),
        "ᾱ_T without its root": _prior(lambda x, bar, beta: 0.5 * (bar**2 * x**2 + (1 - bar) - 1 - math.log(1 - bar))),
        "the logarithm's sign turned round": _prior(
            lambda x, bar, beta: 0.5 * (bar * x**2 + (1 - bar) - 1 + math.log(1 - bar))
        ),
        "β_T in place of 1 − ᾱ_T": _prior(lambda x, bar, beta: 0.5 * (bar * x**2 + beta - 1 - math.log(beta))),
        "KL(p‖q), the other way round": _prior(
            lambda x, bar, beta: 0.5 * (1 / (1 - bar) + bar * x**2 / (1 - bar) - 1 + math.log(1 - bar))
        ),
    },
    conventions={"units": ("nats", "bits"), "reduction": ("sum", "mean")},
    rtol=lambda single, **given: 1e-4 if single else 1e-5,
    tags=("diffusion", "bound"),
)
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
