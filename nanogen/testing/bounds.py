"""Bounds of the likelihood and its units; samplers against their densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.densities import (
    SCALES,
    _log_softmax,
    _log_sum_exp,
    _scale_of,
    spread_of,
    variance_of,
)
from nanogen.testing.draws import Draw
from nanogen.testing.laws import DRAWS, Continuous, Discrete, Mean, Repeated, logistic_cdf, normal_cdf
from nanogen.testing.property import Property, _to_numpy, checker, register

# The VAE's loss of what its networks return


def _vae_loss(**wrong: Any) -> Callable[..., Any]:
    def function(
        recon: Any, x: Any, mean: Any, spread: Any, *, likelihood: str, scale: str, reduction: str, beta: float
    ) -> Any:
        v = variance_of(spread, scale)
        p = _PROBABILITY[likelihood](recon) if likelihood != "normal" else None
        if p is None:
            error = 0.5 * (recon - x) ** 2 + 0.5 * math.log(2 * math.pi)
            error = wrong["normal"](recon, x) if "normal" in wrong else error
        else:
            if "normal" in wrong:
                return None
            error = -(x * np.log(p) + (1 - x) * np.log(1 - p))
            error = wrong["bernoulli"](p, x) if "bernoulli" in wrong else error
        if "bernoulli" in wrong and p is None:
            return None
        kl = 0.5 * (v + mean**2 - 1 - np.log(v)) if "kl" not in wrong else wrong["kl"](mean, v)
        if "both" in wrong:
            return None if reduction == "sample" else wrong["both"](error, kl, reduction)
        reconstruction = error.mean(1) if wrong.get("error sum") == "mean" else error.sum(1)
        divergence = kl.mean(1) if wrong.get("kl sum") == "mean" else kl.sum(1)
        if wrong.get("kl over"):
            divergence = divergence / x.shape[1]
        weights = wrong.get("weights", lambda beta: (1, beta))(beta)
        if weights is None:
            return None
        loss = weights[0] * reconstruction + weights[1] * divergence
        return {"sample": loss, "sum": loss.sum(), "batchmean": loss.mean()}[reduction]

    return function


_PROBABILITY: dict[str, Callable[[Any], Any]] = {
    "bernoulli": lambda p: p,
    "bernoulli logits": lambda x: 0.5 * (1 + np.tanh(0.5 * x)),
}


def _vae(draw: Draw, *, likelihood: str, scale: str, reduction: str, beta: float) -> dict[str, Any]:
    n, d, k = draw.sizes((1, 4), (1, 5), (1, 4))
    x = draw.integers(0, 10, n, d) / 10
    recon = draw.reals(n, d) if likelihood != "bernoulli" else draw.integers(1, 9, n, d) / 10
    return {"recon": recon, "x": x, "mean": draw.reals(n, k), "spread": spread_of(draw.positives(n, k), scale)}


@checker(
    name="the VAE's loss",
    equation="−log p(x|z) + β KL(q(z|x)‖N(0, I)), each summed over its dimensions",
    source="Kingma & Welling 2014, eq. 10; Higgins et al. 2017",
    inputs=_vae,
    truth=_vae_loss(),
    mistakes={
        "the KL averaged over the latent dimensions": _vae_loss(**{"kl sum": "mean"}),
        "the reconstruction averaged over the pixels, the KL summed": _vae_loss(**{"error sum": "mean"}),
        "the reconstruction averaged over pixels and images, the KL summed": _vae_loss(
            both=lambda e, kl, how: e.mean() + (kl.sum() if how == "sum" else kl.sum(1).mean())
        ),
        "the reconstruction summed, the KL averaged over latents and images": _vae_loss(
            both=lambda e, kl, how: (e.sum() if how == "sum" else e.sum(1).mean()) + kl.mean()
        ),
        "the reconstruction and the KL averaged over everything": _vae_loss(
            both=lambda e, kl, how: e.mean() + kl.mean()
        ),
        "the reconstruction averaged over pixels and images, the KL over the images": _vae_loss(
            both=lambda e, kl, how: e.mean() + kl.sum(1).mean() if how == "sum" else None
        ),
        "the reconstruction averaged over the images, the KL summed over them": _vae_loss(
            both=lambda e, kl, how: e.sum(1).mean() + kl.sum()
        ),
        "the reconstruction summed over the images, the KL averaged over them": _vae_loss(
            both=lambda e, kl, how: e.sum() + kl.sum(1).mean()
        ),
        "the reconstruction averaged over pixels and images, the KL summed over everything": _vae_loss(
            both=lambda e, kl, how: e.mean() + kl.sum() if how == "batchmean" else None
        ),
        "the reconstruction and the KL averaged over their dimensions": _vae_loss(
            **{"error sum": "mean", "kl sum": "mean"}
        ),
        "the KL divided by the number of pixels": _vae_loss(**{"kl over": True}),
        "the KL subtracted instead of added": _vae_loss(weights=lambda b: (1, -b)),
        "the sign of both terms turned round": _vae_loss(weights=lambda b: (-1, -b)),
        "the reconstruction's sign turned round": _vae_loss(weights=lambda b: (-1, b)),
        "the KL missing": _vae_loss(weights=lambda b: (1, 0)),
        "the reconstruction missing": _vae_loss(weights=lambda b: (0, b)),
        "β on the reconstruction instead of the KL": _vae_loss(weights=lambda b: None if b == 1 else (b, 1)),
        "β on both terms": _vae_loss(weights=lambda b: None if b == 1 else (b, b)),
        "β ignored": _vae_loss(weights=lambda b: None if b == 1 else (1, 1)),
        "the ½ of the KL missing": _vae_loss(kl=lambda m, v: v + m**2 - 1 - np.log(v)),
        "log σ in place of log σ² in the KL": _vae_loss(kl=lambda m, v: 0.5 * (v + m**2 - 1 - 0.5 * np.log(v))),
        "σ in place of σ² in the KL": _vae_loss(kl=lambda m, v: 0.5 * (v**0.5 + m**2 - 1 - np.log(v))),
        "the −1 missing in the KL": _vae_loss(kl=lambda m, v: 0.5 * (v + m**2 - np.log(v))),
        "μ not squared in the KL": _vae_loss(kl=lambda m, v: 0.5 * (v + m - 1 - np.log(v))),
        "the logarithm's sign turned round in the KL": _vae_loss(kl=lambda m, v: 0.5 * (v + m**2 - 1 + np.log(v))),
        "the exponential missing in the KL: log σ² in place of σ²": _vae_loss(
            kl=lambda m, v: 0.5 * (np.log(v) + m**2 - 1 - np.log(v))
        ),
        "the probability for its logarithm": _vae_loss(bernoulli=lambda p, x: -(x * p + (1 - x) * (1 - p))),
        "only the part of x = 1": _vae_loss(bernoulli=lambda p, x: -x * np.log(p)),
        "x and its reconstruction exchanged": _vae_loss(
            bernoulli=lambda p, x: -(p * np.log(x) + (1 - p) * np.log(1 - x))
        ),
        "the squared error": _vae_loss(bernoulli=lambda p, x: (p - x) ** 2),
        "the squared error without the ½ and the constant": _vae_loss(normal=lambda r, x: (r - x) ** 2),
        "½ squared error, without the constant ½ log 2π": _vae_loss(normal=lambda r, x: 0.5 * (r - x) ** 2),
        "the squared error without the ½": _vae_loss(normal=lambda r, x: (r - x) ** 2 + 0.5 * math.log(2 * math.pi)),
        "the absolute error": _vae_loss(normal=lambda r, x: np.abs(r - x)),
    },
    conventions={
        "likelihood": ("bernoulli", "bernoulli logits", "normal"),
        "scale": SCALES,
        "reduction": ("sample", "sum", "batchmean"),
    },
    tags=("vae", "elbo"),
)
def check_vae_loss(
    loss: Any,
    *,
    likelihood: str = "bernoulli",
    scale: str = "log_variance",
    reduction: str = "sum",
    beta: float = 1.0,
    **options: Any,
) -> None:
    """A VAE's loss, minus its evidence lower bound, from what its networks return: in nats.

    The function is called as loss(recon, x, mean, spread): the decoder's output and the images, both (N, D), x in
    [0, 1]; the encoder's mean and spread, both (N, K).  D and K differ.

    Args:
        likelihood: "bernoulli": recon is the probability of 1; "bernoulli logits": its logit; "normal": p(x|z) is
            N(recon, 1), whose log-density has ½ squared error and ½ log 2π for each pixel.
        scale: what the spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.
        reduction: "sample": loss returns (N,); "sum": of all N; "batchmean": averaged over N.
        beta: β.

    Equation: −log p(x|z) + β KL(q(z|x)‖N(0, I)), the first summed over the D pixels, the second over the K latents.
    Kingma & Welling 2014, eq. 10.

    >>> import torch, torch.nn.functional as F
    >>> def loss(recon, x, mu, log_var):
    ...     kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    ...     return F.binary_cross_entropy(recon, x, reduction="sum") + kl
    >>> check_vae_loss(loss, convert=torch.from_numpy)
    """


@checker(
    name="reparameterised sample",
    equation="z = μ + σ ε",
    source="Kingma & Welling 2014, section 2.4",
    inputs=lambda draw, *, scale: (
        lambda shape: {
            "mean": draw.reals(*shape),
            "spread": spread_of(draw.positives(*shape), scale),
            "noise": draw.reals(*shape),
        }
    )(draw.sizes((1, 3), (1, 4))),
    truth=lambda m, s, e, *, scale: m + np.sqrt(variance_of(s, scale)) * e,
    mistakes={
        "the variance in place of the standard deviation": lambda m, s, e, *, scale: (
            m + variance_of(s, scale) * e if scale in ("std", "log_std") else None
        ),
        "the logarithm of the spread used as the spread": lambda m, s, e, *, scale: (
            m + 0.5 * np.log(variance_of(s, scale)) * e
        ),
        "the logarithm of the variance used as the spread": lambda m, s, e, *, scale: (
            m + np.log(variance_of(s, scale)) * e
        ),
        "the noise missing: the mean": lambda m, s, e, *, scale: m,
        "the noise not scaled": lambda m, s, e, *, scale: m + e,
        "the mean missing": lambda m, s, e, *, scale: np.sqrt(variance_of(s, scale)) * e,
        "the noise subtracted": lambda m, s, e, *, scale: m - np.sqrt(variance_of(s, scale)) * e,
        "divided by σ instead of multiplied": lambda m, s, e, *, scale: m + e / np.sqrt(variance_of(s, scale)),
        "mean and spread exchanged": lambda m, s, e, *, scale: np.sqrt(variance_of(s, scale)) + m * e,
        "the mean scaled, too: σ (μ + ε)": lambda m, s, e, *, scale: (m + e) * np.sqrt(variance_of(s, scale)),
        "one noise for all dimensions of a sample": lambda m, s, e, *, scale: (
            m + np.sqrt(variance_of(s, scale)) * e[:, :1]
        ),
        "one noise for all samples": lambda m, s, e, *, scale: m + np.sqrt(variance_of(s, scale)) * e[:1],
    },
    conventions={"scale": SCALES},
    tags=("vae",),
)
def check_reparameterization(sample: Any, *, scale: str = "log_variance", **options: Any) -> None:
    """A normal sample as a function of its noise.

    The function is called as sample(mean, spread, noise), all (N, D).  It returns (N, D).  A function that draws its
    noise itself is for check_normal_sampler.

    Args:
        scale: what the spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.

    Equation: z = μ + σ ε.  Kingma & Welling 2014, section 2.4.

    >>> import numpy as np
    >>> check_reparameterization(lambda mean, log_var, noise: mean + np.exp(0.5 * log_var) * noise)
    """


# Importance-weighted bound


def _importance(**wrong: Any) -> Callable[..., Any]:
    def function(log_joint: Any, log_q: Any, *, axis: int, reduction: str) -> Any:
        log_w = log_q - log_joint if wrong.get("upside down") else log_joint - log_q
        log_w = {"joint": log_joint, "sum": log_joint + log_q}.get(wrong.get("weights", ""), log_w)
        over = 1 - axis if wrong.get("axis") else axis
        k = log_w.shape[axis]
        if wrong.get("mean of logs"):
            bound = log_w.mean(over)
        elif wrong.get("overflows"):
            bound = np.log(np.exp(log_w).mean(over))
        elif wrong.get("largest"):
            bound = log_w.max(over)
        elif wrong.get("of mean"):
            return _log_sum_exp(log_w.ravel(), 0) - math.log(log_w.size) if reduction != "none" else None
        else:
            bound = _log_sum_exp(log_w, over) - wrong.get("log k", math.log)(k)
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
        "− K in place of − log K": _importance(**{"log k": lambda k: k}),
        "q missing in the weights": _importance(weights="joint"),
        "log q added instead of subtracted": _importance(weights="sum"),
        "over the images instead of the samples": _importance(axis=True),
        "the largest weight only": _importance(largest=True),
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
            bits = bits + {"missing": 0.0, "subtracted": -scaled, "nats": math.log(density), "over": scaled / n}.get(
                wrong.get("scaling", ""), scaled
            )
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
            "negative": kl - reconstruction,
            "mean decoded": reconstruction + 0.5 * ((load**2).sum(0) * v).sum() / _NOISE**2 - kl,
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
    from_user = _to_numpy
    convert, dtype = options.get("convert") or (lambda x: x), options.get("dtype") or np.float64

    def inputs(draw: Draw, **_: Any) -> dict[str, Any]:
        n, d = (draw.pick(10, 7, 11), 4) if batches else draw.sizes((1, 2), (3, 4))
        load = np.zeros((d, 2))
        load[: d // 2, 0], load[d // 2 :, 1] = draw.positives(d // 2), -draw.positives(d - d // 2)
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
        "the sign turned round": "negative",
        "the mean decoded instead of a sample": "mean decoded",
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


# Samplers


def _law(cdf: Callable[[Any], Any], name: str) -> Continuous:
    return Continuous(name, cdf)


def _repeated(draw: Draw, *arrays: float | np.ndarray) -> list[np.ndarray]:
    return [np.broadcast_to(np.asarray(a, float), (DRAWS, *np.shape(a))).copy() for a in arrays]


def _sampled(family: str, s_of: Callable[[Any, str], Any], shift: float = 1.0) -> Callable[..., Any]:
    cdf = logistic_cdf if family == "logistic" else normal_cdf

    def law(mean: Any, spread: Any, *, scale: str) -> Any:
        m, s = float(mean[0]), s_of(spread[:1], scale)
        if s is None or not np.isfinite(s).all() or s[0] <= 0:
            return None
        return _law(
            lambda x: cdf((x - shift * m) / s[0]),
            f"{'L' if family == 'logistic' else 'N'}(mean {shift * m:.4g}, scale {s[0]:.4g})",
        )

    return law


def _sampler_mistakes(family: str) -> dict[str, Callable[..., Any]]:
    other = "logistic" if family == "normal" else "normal"
    return {
        "the variance in place of the standard deviation"
        if family == "normal"
        else "the square of the scale in place of the scale": _sampled(family, lambda s, how: _scale_of(s, how) ** 2),
        "the root of the scale in place of the scale": _sampled(family, lambda s, how: _scale_of(s, how) ** 0.5),
        "divided by the scale instead of multiplied": _sampled(family, lambda s, how: 1 / _scale_of(s, how)),
        "the scale ignored": _sampled(family, lambda s, how: np.ones_like(s)),
        "twice the scale": _sampled(family, lambda s, how: 2 * _scale_of(s, how)),
        "half the scale": _sampled(family, lambda s, how: 0.5 * _scale_of(s, how)),
        "the mean left out": _sampled(family, _scale_of, 0.0),
        "the mean with the other sign": _sampled(family, _scale_of, -1.0),
        "the mean twice": _sampled(family, _scale_of, 2.0),
        f"{other} noise instead of {family} noise": _sampled(other, _scale_of),
        "one draw for all": lambda *_, **__: Repeated(),
    }


def _sampler_parts(family: str) -> dict[str, Any]:
    def inputs(draw: Draw, *, scale: str) -> dict[str, Any]:
        mean, s = draw.pick(1.0, -2.0, 0.5, -0.7, 2.4, -1.5), draw.pick(2.0, 0.5, 1.0, 3.0, 0.25)
        spread = np.log(s) if scale == "log_scale" else s if scale == "scale" else spread_of(np.array(s**2), scale)
        mean, spread = _repeated(draw, mean, spread)
        return {"mean": mean, "spread": spread}

    return {
        "name": f"{family} sampler",
        "inputs": inputs,
        "truth": _sampled(family, _scale_of),
        "mistakes": _sampler_mistakes(family),
        "describe": lambda given, index, **c: f"draws from {_sampled(family, _scale_of)(*given.values(), **c)}",
        "examples": 6,
        "draws": True,
        "tags": ("sampler",),
    }


@checker(
    **_sampler_parts("normal"),
    equation="x ~ N(μ, σ²)",
    source="Kolmogorov 1933: the test",
    conventions={"scale": SCALES},
)
def check_normal_sampler(sample: Any, *, scale: str = "std", **options: Any) -> None:
    """Draws from a normal distribution, by a function that draws its own noise.

    The function is called as sample(mean, spread), both (12000,) with equal entries, and returns one draw for each.

    Args:
        scale: what the spread is: "std" σ, "variance" σ², "log_variance" log σ² or "log_std" log σ.

    Power: the test is Kolmogorov and Smirnov's at the level 1e-6; a gap of 0.05 between the distribution functions is
    missed less than once in a million.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check_normal_sampler(lambda mean, std: mean + std * rng.standard_normal(mean.shape))
    """


@checker(
    **_sampler_parts("logistic"),
    equation="x = μ + s (log u − log(1 − u)), u ~ U(0, 1)",
    source="Salimans et al. 2017, section 2.1",
    conventions={"scale": ("log_scale", "scale")},
)
def check_logistic_sampler(sample: Any, *, scale: str = "log_scale", **options: Any) -> None:
    """Draws from a logistic distribution, before any rounding to levels.

    The function is called as sample(mean, scale), both (12000,) with equal entries, and returns one draw for each.

    Args:
        scale: "log_scale": log s is handed over; or "scale": s.

    Power: as check_normal_sampler.
    Equation: x = μ + s (log u − log(1 − u)), u uniform.  Salimans et al. 2017.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def sample(mean, log_s):
    ...     u = rng.random(mean.shape)
    ...     return mean + np.exp(log_s) * (np.log(u) - np.log1p(-u))
    >>> check_logistic_sampler(sample)
    """


def _mixture_law(weigh: Callable[[Any], Any], s_of: Callable[[Any, str], Any] = _scale_of) -> Callable[..., Any]:
    def law(logits: Any, means: Any, spreads: Any, *, scale: str) -> Any:
        w, m, s = weigh(logits[0]), means[0], s_of(spreads[0], scale)
        cdf = lambda x: (w * logistic_cdf((x[:, None] - m) / s)).sum(1)
        return _law(cdf, f"the mixture of logistics with the weights {np.round(w, 3).tolist()}")

    return law


_weigh = lambda logits: np.exp(_log_softmax(logits))


def _mean_law(logits: Any, means: Any, spreads: Any, *, scale: str) -> Any:
    w, m = _weigh(logits[0]), means[0]
    s = float(w @ _scale_of(spreads[0], scale))
    return _law(lambda x: logistic_cdf((x - w @ m) / s), "the logistic at the mixture's mean")


def _mixture_inputs(draw: Draw, *, scale: str) -> dict[str, Any]:
    k = draw.integer(2, 3)
    logits = np.array([draw.pick(0.0, 1.0, -1.0, 1.5) for _ in range(k)]) + 0.4 * np.arange(k)
    means = np.array([-3.0, 2.0, 6.0])[:k] + draw.real()
    s = np.array([draw.pick(0.5, 1.0, 0.25) for _ in range(k)])
    found = _repeated(draw, logits, means, np.log(s) if scale == "log_scale" else s)
    return dict(zip(("logits", "means", "spreads"), found))


@checker(
    name="sampler of a mixture of logistics",
    equation="m ~ softmax(logits), x = μ_m + s_m (log u − log(1 − u))",
    source="Salimans et al. 2017, section 2.1",
    inputs=_mixture_inputs,
    truth=_mixture_law(_weigh),
    mistakes={
        "all components alike, whatever the weights": _mixture_law(lambda w: np.full(len(w), 1 / len(w))),
        "the likeliest component every time": _mixture_law(lambda w: np.eye(len(w))[w.argmax()]),
        "the weights turned round: the least likely most often": _mixture_law(lambda w: _weigh(-w)),
        "weights proportional to the logits' squares of the probabilities (temperature ½)": _mixture_law(
            lambda w: _weigh(2 * w)
        ),
        "weights of the temperature 2": _mixture_law(lambda w: _weigh(0.5 * w)),
        "the first component every time": _mixture_law(lambda w: np.eye(len(w))[0]),
        "a draw about the mixture's mean instead of a component": _mean_law,
        "the square of the scales": _mixture_law(_weigh, lambda s, how: _scale_of(s, how) ** 2),
        "divided by the scales instead of multiplied": _mixture_law(_weigh, lambda s, how: 1 / _scale_of(s, how)),
        "the scales ignored": _mixture_law(_weigh, lambda s, how: np.ones_like(s)),
        "one draw for all": lambda *_, **__: Repeated(),
    },
    conventions={"scale": ("log_scale", "scale")},
    describe=lambda given, index, **c: f"draws from {_mixture_law(_weigh)(*given.values(), **c)}",
    examples=6,
    draws=True,
    tags=("sampler", "mixture"),
)
def check_mixture_sampler(sample: Any, *, scale: str = "log_scale", **options: Any) -> None:
    """Draws from a mixture of logistic distributions, before any rounding to levels.

    The function is called as sample(logits, means, scales), all (12000, M) with equal rows, and returns (12000,).

    Args:
        scale: "log_scale": log s is handed over; or "scale": s.

    Power: as check_normal_sampler.
    Equation: m ~ softmax(logits), x = μ_m + s_m (log u − log(1 − u)).  Salimans et al. 2017.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> def sample(logits, means, log_s):
    ...     m = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    ...     u, rows = rng.random(len(m)), np.arange(len(m))
    ...     return means[rows, m] + np.exp(log_s[rows, m]) * (np.log(u) - np.log1p(-u))
    >>> check_mixture_sampler(sample)
    """


def check_sampler(
    sample: Callable[[int], Any],
    *,
    probabilities: Any = None,
    density: Callable[[np.ndarray], Any] | None = None,
    log_density: Callable[[np.ndarray], Any] | None = None,
    support: tuple[float, float] = (-20.0, 20.0),
    **options: Any,
) -> None:
    """A sampler against a density.

    sample(12000) returns so many numbers, drawn one independently of the other.  One of these says what they must
    follow:

    Args:
        probabilities: of the integers 0 … K − 1; they sum to 1.
        density: of real numbers, a function of an array; it need not be normalised.
        log_density: its logarithm, instead.
        support: outside of this interval the density is 0, or too small to matter.

    Power: tests at the level 1e-6.  A gap of 0.05 between distribution functions is missed less than once in a million.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> check_sampler(lambda n: rng.exponential(size=n), density=lambda x: np.exp(-x), support=(0, 40))
    >>> check_sampler(lambda n: rng.binomial(2, 0.5, n), probabilities=[0.25, 0.5, 0.25])
    """
    if sum(given is not None for given in (probabilities, density, log_density)) != 1:
        raise ValueError("check_sampler: give one of probabilities, density and log_density")
    law: Any
    if probabilities is not None:
        p = np.asarray(probabilities, float)
        if p.ndim != 1 or (p < 0).any() or abs(p.sum() - 1) > 1e-6:
            raise ValueError(f"check_sampler: probabilities must be positive and sum to 1, got {probabilities!r}")
        law = Discrete("the given probabilities", p)
    else:
        grid = np.linspace(*support, 200_001)
        middle = 0.5 * (grid[1:] + grid[:-1])
        if density is not None:
            mass = np.array(density(middle), dtype=np.float64)
        else:
            assert log_density is not None
            of = np.array(log_density(middle), dtype=np.float64)
            mass = np.exp(of - of.max())
        below = np.concatenate([[0.0], mass.cumsum() / mass.sum()])
        law = Continuous("the given density", lambda x: np.interp(x, grid, below))
    Property(
        name="sampler",
        equation="the share of draws below x is F(x)",
        source="Kolmogorov 1933; Pearson 1900",
        inputs=lambda draw: {"n": DRAWS},
        truth=lambda n: law,
        mistakes={"one draw for all": lambda n: Repeated()},
        describe=lambda given, index: f"{given['n']} draws",
        examples=3,
        draws=True,
    ).check(sample, "check_sampler", {}, {}, **options)


check_sampler.tags = ("sampler",)  # type: ignore[attr-defined]
register(check_sampler)
