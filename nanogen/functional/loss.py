"""Losses.  `reduction` is `mean` over all elements, `sum`, or `none`.

*Logits* are numbers that `sigmoid` or `softmax` turns into probabilities.  *Nats* are units of natural logarithms."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.autograd import Tensor, composite, constant, primitive
from nanogen.backend import array_module, check_range, to_device
from nanogen.functional.activation import log_softmax, logsigmoid
from nanogen.functional.elementwise import abs, log, log1p, maximum, times_log, where
from nanogen.functional.reduction import mean, sum
from nanogen.functional.shape import one_hot

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "l1_loss", "mse_loss",
]  # fmt: skip


def reduced(loss: Tensor, how: tuple[str, Any, Any], weights: Any = None) -> Tensor:
    """The loss, reduced; how: reduction, and torch's older size_average and reduce.  `weights` are those of a mean."""
    reduction, size_average, reduce = how
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "mean":
        return mean(loss) if weights is None else sum(loss) / sum(weights)
    return sum(loss) if reduction == "sum" else loss


def mse_loss(input, target, size_average=None, reduce=None, reduction="mean"):
    """(input − target)²."""
    return reduced((input - target) ** 2, (reduction, size_average, reduce))


def l1_loss(input, target, size_average=None, reduce=None, reduction="mean"):
    """|input − target|."""
    return reduced(abs(input - target), (reduction, size_average, reduce))


@primitive
def log_loss(input, target):
    """−t·log p − (1 − t)·log(1 − p), each logarithm at least −100."""
    xp = array_module(input)
    with np.errstate(divide="ignore"):
        return (target - 1) * xp.maximum(xp.log1p(-input), -100.0) - target * xp.maximum(xp.log(input), -100.0)


log_loss.vjp(
    lambda g, out, p, t: g * (p - t) / maximum(p * (1.0 - p), 1e-12),  # the bound is torch's
    lambda g, out, p, t: g * (maximum(log1p(-p), -100.0) - maximum(log(p), -100.0)),
    reads="input target",
)


def binary_cross_entropy(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    """−t·log p − (1 − t)·log(1 − p) for probabilities p, in nats, each logarithm at least −100; times weight.

    Raises:
        ValueError: a target of another shape, an input outside 0 … 1 (not checked on a GPU).
    """
    target, array = _target("binary_cross_entropy", input, target), input.data
    if isinstance(array, np.ndarray) and array.size and not 0 <= array.min() <= array.max() <= 1:
        raise ValueError(f"binary_cross_entropy: input must be in 0 … 1, got {array.min()} … {array.max()}")
    loss = log_loss(input, target)
    return reduced(loss if weight is None else loss * weight, (reduction, size_average, reduce))


def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    """−t·log p − (1 − t)·log(1 − p) with p = sigmoid(input), in nats; finite for every logit.  pos_weight multiplies
    the first term, weight both.

    Raises:
        ValueError: a target of another shape.
    """
    target = _target("binary_cross_entropy_with_logits", input, target)
    positive = times_log(target, logsigmoid(input))
    loss = -(positive if pos_weight is None else positive * pos_weight) - times_log(1.0 - target, logsigmoid(-input))
    return reduced(loss if weight is None else loss * weight, (reduction, size_average, reduce))


def _target(name: str, input: Tensor, target: Any) -> Tensor:
    target = constant(target, [input])
    if target.shape != input.shape:
        raise ValueError(f"{name}: target must have the shape of the input {input.shape}, got {target.shape}")
    return target


@composite
def label_cross_entropy(logits, *, labels):
    """−log softmax(logits)[label] over the last axis, in nats: logits (…, K), labels (…) to (…)."""
    rows = log_softmax(logits, dim=-1).reshape(labels.size, logits.shape[-1])
    return -rows[array_module(labels).arange(labels.size), labels.ravel()].reshape(labels.shape)


def cross_entropy(
    input, target, weight=None, size_average=None, ignore_index=-100, reduce=None, reduction="mean", label_smoothing=0.0
):
    """−log softmax(input)[target] over the classes, in nats.

    Shapes: input (N, K, *) or (K,); target integers (N, *) or (), or probabilities of input's shape; weight (K,), one
    per class.  Where the target is ignore_index the loss is 0 and does not count in the mean (on a GPU only if it is
    not −100).  label_smoothing is the share of the target spread evenly over all classes (Szegedy et al. 2016, section
    7).

    Raises:
        ValueError: a target of another shape, or a label outside 0 … K − 1.
    """
    over, target, how = 1 if input.ndim > 1 else 0, constant(target), (reduction, size_average, reduce)
    classes, last = input.shape[over], [i for i in range(input.ndim) if i != over]
    if target.dtype.kind == "f":
        if target.shape != input.shape:
            raise ValueError(f"cross_entropy: probabilities must have shape {input.shape}, got {target.shape}")
        share, kept = target, None
    else:
        if target.shape != input.shape[:over] + input.shape[over + 1 :]:
            raise ValueError(f"cross_entropy: target of shape {target.shape} does not fit logits {input.shape}")
        kept = target.data != ignore_index
        some = ignore_index != -100 or (isinstance(kept, np.ndarray) and not kept.all())
        labels = target.data * kept if some else target.data
        check_range("cross_entropy: labels", labels, classes)
        labels = to_device(labels, input.device).astype(int)
        if weight is None and not label_smoothing and not some:
            return reduced(label_cross_entropy(input.permute(*last, over), labels=labels), how)
        kept = to_device(kept, input.device)
        share = one_hot(labels, classes).to(input.dtype).permute(*range(over), -1, *range(over, labels.ndim))
    weight = constant(1.0 if weight is None else weight, [input]).reshape(-1, *[1] * (input.ndim - 2))
    weights = None if kept is None else sum(share * weight, dim=over) * kept
    share = (share * (1 - label_smoothing) + label_smoothing / classes) * weight
    loss = -sum(times_log(share, log_softmax(input, dim=over)), dim=over)
    return reduced(loss if kept is None else where(kept, loss, 0.0), how, weights)
