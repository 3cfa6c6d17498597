"""Losses of labels: cross-entropies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.divergences import LOG_PROBABILITIES, LOGARITHMS, log_softmax
from nanogen.testing.draws import Draw
from nanogen.testing.property import checker


def _labelled(entries: Callable[..., Any], **wrong: Any) -> Callable[..., Any]:
    """The loss from a function of log-probabilities (N, K) and labels (N,)."""

    def function(
        x: Any, labels: Any, *, given: str, labels_as: str, reduction: str, smoothing: float, ignore: Any, large: bool
    ) -> Any:
        labels = labels.argmax(-1) if labels_as == "one-hot" else labels
        if ("raw" in wrong or "log" in wrong) and given != "logits":
            return None
        ignore = wrong.get("ignore", ignore)
        log_p = x if wrong.get("raw") else wrong.get("log", lambda x: LOG_PROBABILITIES[given](x))(x)
        kept = np.ones(len(labels), bool) if ignore is None or wrong.get("kept") else labels != ignore
        others = wrong.get("smooth", lambda p, y: p.mean(1))(log_p, labels)
        part = wrong.get("part", smoothing)
        losses = entries(log_p, np.where(kept, labels, 0))
        losses = np.where(kept, (1 - part) * losses - part * others, 0.0) if part else np.where(kept, losses, 0.0)
        count = len(kept) if wrong.get("count") else kept.sum()
        return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / count}[reduction]

    return function


def _picked(log_p: Any, labels: Any) -> Any:
    return log_p[np.arange(len(labels)), labels]


def _label_inputs(
    draw: Draw, *, given: str, labels_as: str, ignore: int | None, large: bool, **_: Any
) -> dict[str, Any]:
    n, k = draw.sizes((1 if ignore is None else 2, 5), (2, 4))
    x = draw.reals(n, k) * draw.pick(1.0, 10.0) if given == "logits" else draw.probabilities(n, k)
    x = x * draw.pick(1.0, 400.0) if large and given == "logits" else x
    labels = draw.integers(0, k - 1, n)
    if ignore is not None:
        labels[labels == ignore] = (ignore + 1) % k
        labels[1 : draw.integer(1, n)] = ignore  # the first label counts
    return {
        "x": np.log(x) if given == "log_probabilities" else x,
        "labels": np.eye(k)[labels] if labels_as == "one-hot" else labels,
    }


@checker(
    equation="−log softmax(x)_label",
    source="the definition; Goodfellow et al. 2016, section 6.2",
    inputs=_label_inputs,
    truth=_labelled(lambda p, y: -_picked(p, y)),
    mistakes={
        "the sign turned round": _labelled(lambda p, y: _picked(p, y)),
        "softmax twice": _labelled(lambda p, y: -_picked(log_softmax(np.exp(p)), y)),
        "the logarithm missing: minus the probability": _labelled(lambda p, y: -np.exp(_picked(p, y))),
        "one minus the probability": _labelled(lambda p, y: 1 - np.exp(_picked(p, y))),
        "softmax over the samples instead of the classes": _labelled(
            lambda p, y: -_picked(log_softmax(p, 0), y), raw=True
        ),
        "averaged over the classes, too": _labelled(lambda p, y: -_picked(p, y) / p.shape[1]),
        "the label of the next class": _labelled(lambda p, y: -_picked(p, (y + 1) % p.shape[1])),
        "the label of the class before": _labelled(lambda p, y: -_picked(p, y - 1)),
        "the first sample's label for all": _labelled(lambda p, y: -_picked(p, np.full_like(y, y[0]))),
        "the entropy of the prediction, whatever the label": _labelled(lambda p, y: -(np.exp(p) * p).sum(1)),
        "the likeliest class in place of the label": _labelled(lambda p, y: -p.max(1)),
        "the loss of all classes, whatever the label": _labelled(lambda p, y: -p.sum(1)),
        "weighted by the probability": _labelled(lambda p, y: -np.exp(_picked(p, y)) * _picked(p, y)),
        "the sum over classes of binary cross-entropies": _labelled(
            lambda p, y: -_picked(p, y) - np.log1p(-np.exp(p)).sum(1) + np.log1p(-np.exp(_picked(p, y)))
        ),
        "the mean over classes of binary cross-entropies with logits: sigmoid in place of softmax": _labelled(
            lambda x, y: (np.logaddexp(0, x).sum(1) - _picked(x, y)) / x.shape[1], raw=True
        ),
        "the largest logit in place of log Σ exp": _labelled(lambda x, y: x.max(1) - _picked(x, y), raw=True),
        "in bits, not nats": _labelled(lambda p, y: -_picked(p, y) / math.log(2)),
        "every sample with the labels of all: x[:, labels]": _labelled(lambda p, y: -p[:, y].mean(1)),
        "right if smoothing=0.1 was meant": _labelled(lambda p, y: -_picked(p, y), part=0.1),
        "the smoothing missing": _labelled(lambda p, y: -_picked(p, y), part=0.0),
        "smoothed over the K − 1 other classes": _labelled(
            lambda p, y: -_picked(p, y), smooth=lambda p, y: (p.sum(1) - _picked(p, y)) / (p.shape[1] - 1)
        ),
        "smoothed with the sum over the classes instead of their mean": _labelled(
            lambda p, y: -_picked(p, y), smooth=lambda p, y: p.sum(1)
        ),
        "right if ignore=0 was meant": _labelled(lambda p, y: -_picked(p, y), ignore=0),
        "ignored labels counted in the mean": _labelled(lambda p, y: -_picked(p, y), count=True),
        "ignored labels not ignored": _labelled(lambda p, y: -_picked(p, y), kept=True),
        "the logarithm of softmax: ∞ where that underflows": _labelled(
            lambda p, y: -_picked(p, y), log=lambda x: np.log(np.exp(log_softmax(x)))
        ),
        "overflows: the largest logit is not taken away first": _labelled(
            lambda p, y: -_picked(p, y), log=lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))
        ),
    },
    where={
        "where a label occurs twice": lambda x, y, *, labels_as, **_: bool(
            len(np.unique(y.argmax(-1) if labels_as == "one-hot" else y)) < len(y)
        ),
        "where some logits are hundreds": lambda x, y, **_: bool(np.abs(x).max() > 200),
        "where some labels are ignored": lambda x, y, *, ignore, **_: bool((y == ignore).any()),
        "where some logits are far apart": lambda x, y, **_: bool(np.ptp(x) > 20),
    },
    conventions={
        "given": tuple(LOG_PROBABILITIES),
        "reduction": ("none", "sum", "mean"),
    },
    **LOGARITHMS,
)
def check_cross_entropy(
    loss: Any,
    *,
    given: str = "logits",
    labels_as: str = "indices",
    reduction: str = "mean",
    smoothing: float = 0.0,
    ignore: int | None = None,
    large: bool = False,
    **options: Any,
) -> None:
    """The cross-entropy of labels, in nats.

    The function is called as loss(x, labels): x (N, K), labels (N,) int64 in 0 … K − 1.  Labels repeat.

    Args:
        given: what x is: "logits", "probabilities" (of 0.001 at least, yours may clamp below) or "log_probabilities".
        labels_as: "indices", or "one-hot": float64 (N, K).
        reduction: "none": loss returns (N,); the "sum" or the "mean" over N.
        smoothing: ε of label smoothing, over all K classes.
        ignore: a label, such as −100, that some samples have: their loss is 0, and the mean is over the others.
        large: some logits are ±800 and more, whose exponentials overflow or underflow.

    Equation: −(1 − ε) log softmax(x)_label − ε/K Σ_k log softmax(x)_k.

    >>> import numpy as np
    >>> def loss(x, labels):
    ...     log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    ...     return -log_p[np.arange(len(x)), labels].mean()
    >>> check_cross_entropy(loss)
    """


def _binary(entries: Callable[..., Any], raw: bool = False) -> Callable[..., Any]:
    """The loss from a function of logits and targets (N, D)."""

    def function(x: Any, y: Any, *, given: str, reduction: str, large: bool) -> Any:
        if raw and given != "logits":
            return None
        losses = entries(x if given == "logits" else np.log(x / (1 - x)), y)
        return {
            "none": losses,
            "sample": losses.sum(1),
            "sum": losses.sum(),
            "mean": losses.mean(),
            "batchmean": losses.sum() / len(losses),
        }[reduction]

    return function


_of_one, _of_zero = (lambda x: np.logaddexp(0, -x)), (lambda x: np.logaddexp(0, x))
_sigmoid = lambda x: 0.5 * (1 + np.tanh(0.5 * x))


@checker(
    equation="−y log p − (1 − y) log(1 − p), p = sigmoid(x)",
    source="the definition",
    inputs=lambda draw, *, given, reduction, large: (
        lambda shape: {
            "x": draw.reals(*shape) * draw.pick(1.0, 3.0, *[900.0] * large)
            if given == "logits"
            else _sigmoid(draw.reals(*shape) * draw.pick(1.0, 2.0)),
            "y": draw.integers(0, 1, *shape).astype(float) if draw.integer(0, 1) else draw.integers(0, 10, *shape) / 10,
        }
    )(draw.sizes((1, 4), (1, 4))),
    truth=_binary(lambda x, y: y * _of_one(x) + (1 - y) * _of_zero(x)),
    mistakes={
        "the sign turned round": _binary(lambda x, y: -y * _of_one(x) - (1 - y) * _of_zero(x)),
        "only the part of y = 1": _binary(lambda x, y: y * _of_one(x)),
        "only the part of y = 0": _binary(lambda x, y: (1 - y) * _of_zero(x)),
        "the targets turned round: 1 − y": _binary(lambda x, y: (1 - y) * _of_one(x) + y * _of_zero(x)),
        "the signs of the two parts differ": _binary(lambda x, y: y * _of_one(x) - (1 - y) * _of_zero(x)),
        "sigmoid twice": _binary(lambda x, y: y * _of_one(_sigmoid(x)) + (1 - y) * _of_zero(_sigmoid(x))),
        "the logarithm missing": _binary(lambda x, y: -y * _sigmoid(x) - (1 - y) * (1 - _sigmoid(x))),
        "log p − 1 in place of log(1 − p)": _binary(lambda x, y: y * _of_one(x) + (1 - y) * (_of_one(x) + 1)),
        "log(1 − p) for all, unweighted": _binary(lambda x, y: y * _of_one(x) + _of_zero(x)),
        "log p for all, unweighted": _binary(lambda x, y: _of_one(x) + (1 - y) * _of_zero(x)),
        "x and y exchanged, with logarithms of −100 at least": _binary(
            lambda x, y: -_sigmoid(x) * np.maximum(np.log(y), -100) - _sigmoid(-x) * np.maximum(np.log(1 - y), -100)
        ),
        "the squared error": _binary(lambda x, y: (_sigmoid(x) - y) ** 2),
        "overflows: log(1 + e⁻ˣ) as it stands": _binary(lambda x, y: (1 - y) * x + np.log(1 + np.exp(-x)), raw=True),
        "overflows: log(1 + eˣ) as it stands": _binary(lambda x, y: np.log(1 + np.exp(x)) - y * x, raw=True),
        "overflows: max(x, 0) taken away where max(−x, 0) belongs": _binary(
            lambda x, y: (
                (1 - y) * x + np.maximum(x, 0) + np.log(np.exp(-np.maximum(x, 0)) + np.exp(-x - np.maximum(x, 0)))
            ),
            raw=True,
        ),
        "the logarithms of sigmoid and 1 − sigmoid: not finite where these underflow": _binary(
            lambda x, y: -y * np.log(1 / (1 + np.exp(-x))) - (1 - y) * np.log(1 - 1 / (1 + np.exp(-x))), raw=True
        ),
        "in bits, not nats": _binary(lambda x, y: (y * _of_one(x) + (1 - y) * _of_zero(x)) / math.log(2)),
    },
    where={
        "where some logits are hundreds": lambda x, y, **_: bool(np.abs(x).max() > 80),
        "where a target is neither 0 nor 1": lambda x, y, **_: bool(((y > 0) & (y < 1)).any()),
        "where the samples and dimensions differ in number": lambda x, y, **_: x.shape[0] != x.shape[1],
    },
    conventions={
        "given": ("logits", "probabilities"),
        "reduction": ("none", "sample", "sum", "mean", "batchmean"),
    },
    **LOGARITHMS,
    tags=("vae",),
)
def check_binary_cross_entropy(
    loss: Any, *, given: str = "logits", reduction: str = "mean", large: bool = False, **options: Any
) -> None:
    """The cross-entropy of binary targets, in nats: the reconstruction term of a Bernoulli decoder.

    The function is called as loss(x, y), both (N, D).  The targets y are 0 or 1, in half of the inputs also
    between.

    Args:
        given: what x is: "logits" or "probabilities" (of 0.002 … 0.998, yours may clamp beyond).
        reduction: "none": (N, D); "sample": the sum over D, (N,); "sum" or "mean" of all; "batchmean": the sum over D,
            averaged over N.
        large: some logits are hundreds and more, whose exponentials overflow or underflow.

    Equation: −y log p − (1 − y) log(1 − p), p = sigmoid(x).

    >>> import numpy as np
    >>> check_binary_cross_entropy(
    ...     lambda p, y: -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1), given="probabilities", reduction="sample")
    """
