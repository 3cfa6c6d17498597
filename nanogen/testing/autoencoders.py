"""The VAE's loss, of what its networks return, its free bits and its reparameterised samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.divergences import LOGARITHMS, SCALES, spread_of, variance_of
from nanogen.testing.draws import Draw
from nanogen.testing.property import checker


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
        "the KL divided by the number of pixels and images": _vae_loss(
            both=lambda e, kl, how: e.sum() + kl.sum() / e.size if how == "sum" else None
        ),
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
        "the squared error averaged over pixels and images, without the ½ and the constant, the KL summed": _vae_loss(
            normal=lambda r, x: (r - x) ** 2,
            both=lambda e, kl, how: e.mean() + (kl.sum() if how == "sum" else kl.sum(1).mean()),
        ),
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
    **LOGARITHMS,
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
        "½ σ² in place of σ": lambda m, s, e, *, scale: m + 0.5 * variance_of(s, scale) * e,
        "softplus in place of the exponential": lambda m, s, e, *, scale: (
            m + np.logaddexp(0, s) * e if scale.startswith("log") else None
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


# Free bits


def _floored(total: Callable[..., Any]) -> Callable[..., Any]:
    return lambda kl, least, *, average: total(kl.mean(0, keepdims=True) if average == "before" else kl, least, kl)


@checker(
    name="free bits",
    equation="Σ_k max(λ, E_x KL_k)",
    source="Kingma et al. 2016, appendix C.8",
    inputs=lambda draw, **_: {
        "kl": draw.positives(*draw.sizes((2, 4), (1, 4))),
        "least": draw.pick(1.0, 2.0, 0.5, 0.25),
    },
    truth=_floored(lambda kl, least, _: np.maximum(kl, least).sum(1).mean()),
    mistakes={
        "min in place of max": _floored(lambda kl, least, _: np.minimum(kl, least).sum(1).mean()),
        "λ for all groups together": _floored(lambda kl, least, _: np.maximum(kl.sum(1), least).mean()),
        "λ subtracted: max(0, KL − λ)": _floored(lambda kl, least, _: np.maximum(kl - least, 0).sum(1).mean()),
        "λ not kept where KL is smaller: 0": _floored(lambda kl, least, _: (kl * (kl > least)).sum(1).mean()),
        "λ added": _floored(lambda kl, least, _: (kl + least).sum(1).mean()),
        "λ left out": _floored(lambda kl, least, _: kl.sum(1).mean()),
        "the mean over the groups, not the sum": _floored(lambda kl, least, _: np.maximum(kl, least).mean()),
        "the sum over the batch, not the mean": _floored(lambda kl, least, every: np.maximum(every, least).sum()),
        "λ bits taken for nats: λ log 2": _floored(
            lambda kl, least, _: np.maximum(kl, least * math.log(2)).sum(1).mean()
        ),
    },
    conventions={"average": ("before", "after")},
    tags=("vae", "loss"),
)
def check_free_bits(floor: Any, *, average: str = "before", **options: Any) -> None:
    """The KL of a loss with free bits: each group of latents costs at least λ.

    The function is called as floor(kl, λ): the KL of each image and group, (N, K), and a number.  It returns
    one number.

    Args:
        average: whether the mean over the batch is taken "before" the maximum, as in the paper; or "after" it.

    Equation: Σ_k max(λ, E_x KL_k).  Kingma et al. 2016, appendix C.8.

    >>> check_free_bits(lambda kl, least: kl.mean(0).clip(least).sum())
    """


# Gumbel-softmax


def _relaxed(scores: Callable[..., Any], axis: int = -1) -> Callable[..., Any]:
    def truth(logits: Any, u: Any, tau: float, *, hard: bool) -> Any:
        x = scores(logits, u, tau)
        if hard:
            return (x == x.max(axis, keepdims=True)).astype(float)
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return truth


def _gumbel(u: Any) -> Any:
    return -np.log(-np.log(u))


@checker(
    name="Gumbel-softmax",
    equation="softmax((logits + g)/τ), g = −log(−log u)",
    source="Jang et al. 2017, eq. 1 and 2; Maddison et al. 2017",
    inputs=lambda draw, **_: (
        lambda shape: {
            "logits": draw.reals(*shape),
            "u": draw.rng().integers(1, 99, shape) / 100 + 0.003,
            "tau": draw.pick(0.5, 2.0, 1.0, 0.7),
        }
    )(draw.sizes((1, 3), (2, 4))),
    truth=_relaxed(lambda x, u, tau: (x + _gumbel(u)) / tau),
    mistakes={
        "multiplied by τ instead of divided": _relaxed(lambda x, u, tau: (x + _gumbel(u)) * tau),
        "τ left out": _relaxed(lambda x, u, tau: x + _gumbel(u)),
        "the logits alone divided by τ": _relaxed(lambda x, u, tau: x / tau + _gumbel(u)),
        "the noise alone divided by τ": _relaxed(lambda x, u, tau: x + _gumbel(u) / tau),
        "+ log(−log u): the noise subtracted": _relaxed(lambda x, u, tau: (x - _gumbel(u)) / tau),
        "−log u: one logarithm": _relaxed(lambda x, u, tau: (x - np.log(u)) / tau),
        "u itself for the noise": _relaxed(lambda x, u, tau: (x + u) / tau),
        "without noise": _relaxed(lambda x, u, tau: x / tau),
        "−log(−log(1 − u))": _relaxed(lambda x, u, tau: (x + _gumbel(1 - u)) / tau),
        "the softmax over the batch, axis 0": _relaxed(lambda x, u, tau: (x + _gumbel(u)) / tau, axis=0),
        "softmax(logits) taken for logits": _relaxed(
            lambda x, u, tau: (np.exp(x) / np.exp(x).sum(-1, keepdims=True) + _gumbel(u)) / tau
        ),
    },
    conventions={"hard": (False, True)},
    tags=("vae", "categorical"),
)
def check_gumbel_softmax(relax: Any, *, hard: bool = False, **options: Any) -> None:
    """A relaxed one-hot code, as a function of its uniform noise.

    The function is called as relax(logits, u, τ): logits and u (N, K), u in (0, 1), and a number.  It returns (N, K).

    Args:
        hard: whether what is returned is the one-hot code (straight-through); its gradient is not judged.

    Equation: softmax((logits + g)/τ), g = −log(−log u).  Jang et al. 2017, eq. 1 and 2.

    >>> import numpy as np
    >>> def relax(logits, u, tau):
    ...     e = np.exp((logits - np.log(-np.log(u))) / tau)
    ...     return e / e.sum(1, keepdims=True)
    >>> check_gumbel_softmax(relax)
    """
