"""Losses.  `reduction` is `mean` over all elements, `sum`, or `none`."""

from __future__ import annotations

from typing import Any

from nanogen.autograd import Tensor, constant, fused
from nanogen.backend import check_range, to_device
from nanogen.functional.activation import log_softmax, logsigmoid
from nanogen.functional.elementwise import times_log
from nanogen.functional.reduction import mean, sum
from nanogen.functional.shape import one_hot
from nanogen.kernels import softmax as kernels

__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "mse_loss"]


def reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return mean(loss) if reduction == "mean" else sum(loss) if reduction == "sum" else loss


def mse_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """(input − target)²."""
    return reduce((input - target) ** 2, reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """−t·log p − (1 − t)·log(1 − p) with p = sigmoid(input), in nats; finite for every logit."""
    target = constant(target, [input])
    if target.shape != input.shape:
        raise ValueError(f"target must have the shape of the logits {input.shape}, got {target.shape}")
    return reduce(-times_log(target, logsigmoid(input)) - times_log(1.0 - target, logsigmoid(-input)), reduction)


def label_cross_entropy_definition(logits: Tensor, *, labels: Any) -> Tensor:
    """−log softmax(logits)[label] over the last axis, in nats: logits (…, K), labels (…) to (…)."""
    return -times_log(one_hot(labels, logits.shape[-1]).to(logits.dtype), log_softmax(logits, dim=-1)).sum(-1)


@fused(label_cross_entropy_definition)
def label_cross_entropy(logits, *, labels):
    loss, saved = kernels.cross_entropy(logits.reshape(labels.size, logits.shape[-1]), labels.ravel())
    return loss.reshape(labels.shape), saved


@label_cross_entropy.gradient
def _(g, saved, logits, *, labels, wanted):
    """d/dlogits = softmax(logits) − one_hot(label)."""
    rows = logits.reshape(labels.size, logits.shape[-1])
    return [kernels.cross_entropy_slope(g.ravel(), rows, labels.ravel(), *saved).reshape(logits.shape)]


def cross_entropy(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """−log softmax(input)[target] over the classes, in nats.

    Shapes: input (N, K, *) or (K,); target integers (N, *) or (), or probabilities of input's shape.

    Raises:
        ValueError: a target of another shape, or a label that is no class.
    """
    over = 1 if input.ndim > 1 else 0
    target = constant(target)
    if target.dtype.kind == "f":
        if target.shape != input.shape:
            raise ValueError(f"cross_entropy: probabilities must have shape {input.shape}, got {target.shape}")
        return reduce(-sum(times_log(target, log_softmax(input, dim=over)), dim=over), reduction)
    if target.shape != input.shape[:over] + input.shape[over + 1 :]:
        raise ValueError(f"cross_entropy: target of shape {target.shape} does not fit logits of shape {input.shape}")
    check_range("cross_entropy: labels", target.data, input.shape[over])
    labels = to_device(target.data, input.device).astype(int)
    last = input.permute(*[i for i in range(input.ndim) if i != over], over)
    return reduce(label_cross_entropy(last, labels=labels), reduction)
