"""Bounds of the likelihood, and its units."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.densities import log_sum_exp
from nanogen.testing.divergences import SCALES, spread_of
from nanogen.testing.draws import Draw
from nanogen.testing.laws import Mean
from nanogen.testing.property import Property, checker, register
from nanogen.testing.trial import to_numpy

# Importance-weighted bound


def _importance(**wrong: Any) -> Callable[..., Any]:
    def function(log_joint: Any, log_q: Any, *, axis: int, reduction: str) -> Any:
        log_w = log_q - log_joint if wrong.get("upside down") else log_joint - log_q
        log_w = {"joint": log_joint, "sum": log_joint + log_q}.get(wrong.get("weights", ""), log_w)
        over = 1 - axis if wrong.get("axis") else axis
        k = log_w.shape[1 - axis if wrong.get("k") == "images" or wrong.get("axis") == "both" else axis]
        if wrong.get("mean of logs"):
            bound = log_w.mean(over)
        elif wrong.get("overflows"):
            bound = np.log(np.exp(log_w).mean(over))
        elif wrong.get("normalised"):
            w = np.exp(log_w - log_w.max(over, keepdims=True))
            bound = (w * log_w).sum(over) / w.sum(over)
        elif wrong.get("largest"):
            bound = log_w.max(over)
        elif wrong.get("of mean"):
            return log_sum_exp(log_w.ravel(), 0) - math.log(log_w.size) if reduction != "none" else None
        else:
            bound = log_sum_exp(log_w, over) - wrong.get("log k", math.log)(k)
        bound = wrong.get("sign", 1) * bound
        return {"none": bound, "sum": bound.sum(), "mean": bound.mean()}[reduction]

    return function


def _weights(draw: Draw, *, axis: int, reduction: str) -> dict[str, Any]:
    k, n = draw.sizes((1, 5), (1, 4))
    far = draw.pick(0.0, 0.0, -900.0)
    found = draw.reals(k, n) + far, draw.reals(k, n)
    return {"log_joint": found[0] if axis == 0 else found[0].T, "log_q": found[1] if axis == 0 else found[1].T}


@checker(
    name="importance-weighted bound",
    equation="log (1/K) Σ_k p(x, z_k) / q(z_k|x)",
    source="Burda et al. 2016, eq. 8",
    inputs=_weights,
    truth=_importance(),
    mistakes={
        "the weights upside down, q / p": _importance(**{"upside down": True}),
        "the mean of the logarithms: the ELBO": _importance(**{"mean of logs": True}),
        "− log K missing": _importance(**{"log k": lambda k: 0.0}),
        "+ log K in place of − log K": _importance(**{"log k": lambda k: -math.log(k)}),
        "the logarithm of the number of images in place of log K": _importance(k="images"),
        "− K in place of − log K": _importance(**{"log k": lambda k: k}),
        "q missing in the weights": _importance(weights="joint"),
        "log q added instead of subtracted": _importance(weights="sum"),
        "over the images instead of the samples": _importance(axis=True),
        "the axes of images and samples exchanged": _importance(axis="both"),
        "the largest weight only": _importance(largest=True),
        "the mean of the logarithms under normalised weights": _importance(normalised=True),
        "the logarithm of the mean over images and samples": _importance(**{"of mean": True}),
        "underflows: the largest is not taken away first": _importance(overflows=True),
        "the sign turned round": _importance(sign=-1),
    },
    where={
        "where the weights underflow (log p is about −900)": lambda p, q, **_: bool(p.min() < -700),
        "where there is more than one sample": lambda p, q, *, axis, **_: p.shape[axis] > 1,
    },
    conventions={"reduction": ("none", "sum", "mean")},
    tags=("elbo",),
)
def check_importance_bound(bound: Any, *, axis: int = 0, reduction: str = "none", **options: Any) -> None:
    """The importance-weighted bound from its weights, in nats.

    The function is called as bound(log_joint, log_q): log p(x, z_k) and log q(z_k|x) of K samples for each of N images,
    (K, N).  K and N differ; some log p are about −900.

    Args:
        axis: of the samples: 0, or 1 for arrays (N, K).
        reduction: "none": bound returns (N,); the "sum" or the "mean" over N.

    Equation: log (1/K) Σ_k p(x, z_k) / q(z_k|x).  Burda et al. 2016, eq. 8.

    >>> import numpy as np
    >>> def bound(log_joint, log_q):
    ...     return np.logaddexp.reduce(log_joint - log_q, axis=0) - np.log(len(log_q))
    >>> check_importance_bound(bound)
    """


# Bits


def _bits(**wrong: Any) -> Callable[..., Any]:
    def function(nats: Any, shape: tuple[int, int, int], *, given: str, density: int | None, reduction: str) -> Any:
        c, h, w = shape
        nll = -nats if given == "log_prob" else nats
        n = {"pixels": h * w, "one": 1, "side": h}.get(wrong.get("dims", ""), c * h * w)
        base = wrong.get("base", 1 / math.log(2))
        bits = wrong.get("sign", 1) * nll * base / n
        if density:
            scaled = math.log2(density)
            bits = bits + {
                "missing": 0.0,
                "subtracted": -scaled,
                "nats": math.log(density),
                "over": scaled / n,
                "pixels": scaled / c,
            }.get(wrong.get("scaling", ""), scaled)
        elif "scaling" in wrong:
            return None
        return {"none": bits, "mean": bits.mean(), "sum": bits.sum()}[reduction]

    return function


@checker(
    name="bits per dimension",
    equation="−log p(x) / (C·H·W · log 2)",
    source="Theis et al. 2016, section 3.1",
    inputs=lambda draw, *, given, **_: {
        "nats": (-1 if given == "log_prob" else 1) * draw.positives(draw.integer(1, 4)) * draw.pick(1.0, 100.0),
        "shape": draw.sizes((1, 3), (2, 5), (2, 6)),
    },
    truth=_bits(),
    mistakes={
        "multiplied by log 2 instead of divided": _bits(base=math.log(2)),
        "in nats: log 2 missing": _bits(base=1.0),
        "in decimal digits: log 10": _bits(base=1 / math.log(10)),
        "per pixel: not divided by the channels": _bits(dims="pixels"),
        "per image: not divided by the dimensions": _bits(dims="one"),
        "divided by the height only": _bits(dims="side"),
        "log2 of the number of levels missing": _bits(scaling="missing"),
        "log2 of the number of levels subtracted instead of added": _bits(scaling="subtracted"),
        "the logarithm of the number of levels in nats": _bits(scaling="nats"),
        "log2 of the number of levels for the pixels, not for their channels": _bits(scaling="pixels"),
        "log2 of the number of levels divided by the dimensions": _bits(scaling="over"),
    },
    conventions={"given": ("nll", "log_prob"), "reduction": ("none", "mean", "sum")},
    tags=("elbo",),
)
def check_bits_per_dim(
    bits: Any, *, given: str = "nll", density: int | None = None, reduction: str = "none", **options: Any
) -> None:
    """Bits per dimension of images.

    The function is called as bits(nats, shape): nats (N,), the images' shape (C, H, W), whose numbers differ.

    Args:
        given: nats is "nll": −log p(x), or "log_prob": log p(x).
        density: None: p is a probability of discrete images.  256: p is the density of images scaled to [0, 1], whose
            256 levels are 1/256 apart, so that log2 256 bits come on top.
        reduction: "none": bits returns (N,); the "mean" or the "sum".

    Equation: −log p(x) / (C·H·W · log 2).  Theis et al. 2016, section 3.1.

    >>> import math
    >>> check_bits_per_dim(lambda nats, shape: nats / math.prod(shape) / math.log(2))
    """


# The evidence lower bound as an estimator

_NOISE = 0.7  # the decoder's standard deviation


def _linear_model(x: Any, load: Any, offset: Any) -> tuple[Any, Any, Any]:
    """Of x = W z + b + noise with orthogonal columns of W: log p(x), and the posterior's means and variances."""
    d = x.shape[1]
    s2 = _NOISE**2
    covariance = load @ load.T + s2 * np.eye(d)
    centred = x - offset
    log_p = -0.5 * (
        np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred)
        + np.linalg.slogdet(covariance)[1]
        + d * math.log(2 * math.pi)
    )
    precision = (load**2).sum(0) / s2 + 1
    return log_p, centred @ load / s2 / precision, 1 / precision


def _elbo_value(**wrong: Any) -> Callable[..., Any]:
    """E[ELBO] for q wider than the posterior by a known factor; (N,), or what `batches` makes of it."""

    def function(x: Any, load: Any, offset: Any, stretch: float, batch: int, *, batches: bool) -> Any:
        log_p, mean, variance = _linear_model(x, load, offset)
        v = variance * stretch
        kl_to_posterior = 0.5 * (stretch - 1 - math.log(stretch)) * len(variance)
        kl = 0.5 * (v + mean**2 - 1 - np.log(v)).sum(1)
        reconstruction = log_p - kl_to_posterior + kl
        d, k = load.shape
        constant = 0.5 * d * math.log(2 * math.pi * _NOISE**2)
        parts = {
            "right": reconstruction - kl,
            "no kl": reconstruction,
            "kl added": reconstruction + kl,
            "kl twice": reconstruction - 2 * kl,
            "kl half": reconstruction - 0.5 * kl,
            "kl mean": reconstruction - kl / k,
            "recon mean": reconstruction / d - kl,
            "both mean": reconstruction / d - kl / k,
            "no constant": reconstruction + constant - kl,
            "no 2π": reconstruction + 0.5 * d * math.log(2 * math.pi) - kl,
            "2π": reconstruction - 0.5 * d * math.log(2 * math.pi) - kl,
            "prior": reconstruction - kl + 0.5 * k * math.log(2 * math.pi),
            "no q": reconstruction - kl - 0.5 * (1 + np.log(2 * math.pi * v)).sum(),
            "square": 2 * _NOISE**2 * (reconstruction + constant) - kl,
            "half square": _NOISE**2 * (reconstruction + constant) - kl,
            "negative": kl - reconstruction,
            "mean decoded": reconstruction + 0.5 * ((load**2).sum(0) * v).sum() / _NOISE**2 - kl,
            "variance": reconstruction + 0.5 * ((load**2).sum(0) * (v - v**2)).sum() / _NOISE**2 - kl,
            "unscaled": reconstruction + 0.5 * ((load**2).sum(0) * (v - 1)).sum() / _NOISE**2 - kl,
            "per dimension": (reconstruction - kl) / d,
        }
        each = parts[wrong.get("kind", "right")]
        if not batches:
            return None if "batch" in wrong else each
        chunks = [each[i : i + batch] for i in range(0, len(each), batch)]
        if wrong.get("batch") == "means":
            return np.array(np.mean([chunk.mean() for chunk in chunks]))
        if wrong.get("batch") == "dropped":
            return np.array(each[: len(each) // batch * batch].mean())
        if wrong.get("batch") == "divided":
            return np.array(each[: len(each) // batch * batch].sum() / len(each))
        if wrong.get("batch") == "full":
            return np.array(each.sum() / (len(chunks) * batch))
        if wrong.get("batch") == "last":
            return np.array(chunks[-1].mean())
        if wrong.get("batch") == "sum":
            return np.array(each.sum())
        return np.array(each.mean())

    return function


class _Means:
    """Estimates whose rows have known means."""

    def __init__(self, values: Any):
        self.values = np.atleast_1d(np.asarray(values, float))

    def __str__(self) -> str:
        return str(np.round(self.values, 4).tolist())

    def refuse(self, draws: np.ndarray) -> str | None:
        """draws: (repetitions, N)."""
        draws = np.asarray(draws, float).reshape(len(draws), -1)
        if draws.shape[1] != len(self.values):
            return f"expected {len(self.values)} estimates, got {draws.shape[1]}"
        for i, value in enumerate(self.values):
            said = Mean(float(value), 1e-5).refuse(draws[:, i])
            if said is not None:
                return said + (f", image {i + 1} of {len(self.values)}" if len(self.values) > 1 else "")
        return None


REPEATED = 400


def _run_elbo(elbo: Any, given: dict[str, Any], *, batches: bool) -> Any:
    x, load, offset, stretch, batch = (given[name] for name in ("x", "_load", "_offset", "_stretch", "_batch"))
    like = given["_like"]
    of = lambda array: like(array)
    from_user = given["_numpy"]

    def encode(images: Any) -> tuple[Any, Any]:
        images = from_user(images)
        _, mean, variance = _linear_model(images, load, offset)
        spread = np.broadcast_to(spread_of(variance * stretch, given["_scale"]), mean.shape)
        return of(mean), of(np.array(spread))

    decode = lambda z: of(from_user(z) @ load.T + offset)
    if batches:
        found = [elbo(x, encode, decode, batch) for _ in range(40)]
        return np.array([from_user(y).reshape(()) for y in found])
    many = of(np.repeat(from_user(x), REPEATED, 0))
    y = from_user(elbo(many, encode, decode))
    if y.shape != (REPEATED * len(from_user(x)),):
        raise ValueError(f"elbo must return one number for each image: expected {(len(many),)}, got {y.shape}")
    return y.reshape(-1, REPEATED).T


def check_elbo(elbo: Callable[..., Any], *, scale: str = "log_variance", batches: bool = False, **options: Any) -> None:
    """An estimator of the evidence lower bound, on a linear model whose log p(x) and posterior are known: in nats.

    The function is called as elbo(x, encode, decode) and returns one estimate for each image, (N,).  x is (N, D);
    encode(x) returns the mean and the spread of q(z|x), both (N, K); decode(z) returns the mean of
    p(x|z) = N(decode(z), 0.7²), (N, D).  The prior is N(0, I).  The noise is the function's own.  q is the exact
    posterior, or 1.5 times as wide in variance.

    Args:
        scale: what encode's spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.
        batches: elbo(x, encode, decode, batch_size) goes through a whole set of N images in batches, of which the last
            one is smaller, and returns the mean over the images, one number.

    The mean of 400 estimates (40 with batches) must be within 5.5 standard errors of the bound: a right estimator is
    refused less than once in a million.

    Equation: E_q[log p(x|z)] − KL(q(z|x)‖p(z)) = log p(x) − KL(q(z|x)‖p(z|x)).  Kingma & Welling 2014, eq. 2 and 3.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def elbo(x, encode, decode):
    ...     mean, log_var = encode(x)
    ...     z = mean + np.exp(0.5 * log_var) * rng.standard_normal(mean.shape)
    ...     log_p = -0.5 * ((x - decode(z)) / 0.7) ** 2 - 0.5 * np.log(2 * np.pi * 0.7**2)
    ...     return log_p.sum(1) + 0.5 * (1 + log_var - mean**2 - np.exp(log_var)).sum(1)
    >>> check_elbo(elbo)
    """
    if scale not in SCALES:
        raise ValueError(f"check_elbo: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    from_user = to_numpy
    convert, dtype = options.get("convert") or (lambda x: x), options.get("dtype") or np.float64

    def inputs(draw: Draw, **_: Any) -> dict[str, Any]:
        n, d = (draw.pick(10, 7, 11), 4) if batches else draw.sizes((1, 2), (3, 4))
        k = draw.integer(1, 3)
        load = np.zeros((d, k))
        load[np.arange(d), np.arange(d) % k] = draw.positives(d) * (-1) ** np.arange(d)
        x = draw.reals(n, d)
        if batches:
            x[-1] += 6  # the last batch is not like the others
        return {
            "x": x,
            "_load": load,
            "_offset": draw.reals(d),
            "_stretch": draw.pick(1.0, 1.5),
            "_batch": draw.pick(4, 3) if n != 7 else 4,
            "_like": lambda array: convert(array.astype(dtype)),
            "_numpy": lambda array: from_user(array).astype(float),
            "_scale": scale,
        }

    def lawful(**wrong: Any) -> Callable[..., Any]:
        def law(x: Any, load: Any, offset: Any, stretch: Any, batch: Any, *_: Any, batches: bool) -> Any:
            value = _elbo_value(**wrong)(x, load, offset, stretch, batch, batches=batches)
            return None if value is None else _Means(value)

        return law

    kinds = {
        "the KL missing": "no kl",
        "the KL added instead of subtracted": "kl added",
        "the KL twice: its ½ missing": "kl twice",
        "half the KL": "kl half",
        "the KL averaged over the latent dimensions": "kl mean",
        "the reconstruction averaged over the pixels, the KL summed": "recon mean",
        "both terms averaged over their dimensions": "both mean",
        "the constant ½ log 2πσ² of the decoder missing": "no constant",
        "½ log 2π of the decoder missing": "no 2π",
        "½ log 2π of the prior missing": "prior",
        "log q(z|x) missing": "no q",
        "the squared error in place of − log p(x|z)": "square",
        "½ squared error in place of − log p(x|z)": "half square",
        "log 2π in place of ½ log 2π in the decoder": "2π",
        "the sign turned round": "negative",
        "the mean decoded instead of a sample": "mean decoded",
        "the noise scaled by the variance instead of the standard deviation": "variance",
        "the noise not scaled": "unscaled",
        "divided by the number of pixels": "per dimension",
    }
    chunked = {
        "the mean of the batches' means: the last, smaller batch counts like the others": "means",
        "the last, smaller batch left out": "dropped",
        "the last, smaller batch left out, but counted": "divided",
        "the last batch counted as if it were full": "full",
        "the last batch only": "last",
        "the sum over the images instead of the mean": "sum",
    }
    Property(
        name="ELBO",
        equation="E_q[log p(x|z)] − KL(q(z|x)‖p(z)) = log p(x) − KL(q(z|x)‖p(z|x))",
        source="Kingma & Welling 2014, eq. 2 and 3",
        inputs=inputs,
        truth=lawful(),
        mistakes={text: lawful(kind=kind) for text, kind in kinds.items()}
        | {text: lawful(batch=kind) for text, kind in chunked.items()},
        run=_run_elbo,
        describe=lambda given, index, **_: (
            f"ELBO of {len(given['x'])} images" + (f" in batches of {given['_batch']}" if batches else "")
        ),
        examples=8,
        draws=True,
        where={"where q is not the exact posterior": lambda x, load, offset, stretch, *_, batches: stretch != 1},
    ).check(elbo, "check_elbo", {"batches": batches}, {"batches": False}, **options)


check_elbo.tags = ("elbo", "vae")  # type: ignore[attr-defined]
register(check_elbo)
