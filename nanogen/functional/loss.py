"""Losses.  `reduction` is `mean` over all elements, `sum`, or `none`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.autograd import Tensor, constant, fused, primitive
from nanogen.backend import array_module, check_range, to_device
from nanogen.functional.activation import log_softmax, logsigmoid
from nanogen.functional.elementwise import abs, log, log1p, maximum, where
from nanogen.functional.reduction import mean, sum
from nanogen.functional.shape import one_hot
from nanogen.kernels import softmax as kernels

__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "l1_loss", "mse_loss", "nll_loss",
]  # fmt: skip


def reduced(loss: Tensor, how: tuple[str, bool | None, bool | None], weights: Any = None) -> Tensor:
    """The loss as its reduction says, or torch's older size_average and reduce beside it; a mean is over the `weights`
    where there are some."""
    reduction, size_average, reduce = how
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "mean" and weights is not None:
        return sum(loss) / sum(weights)
    return mean(loss) if reduction == "mean" else sum(loss) if reduction == "sum" else loss


def mse_loss(
    input: Tensor, target: Any, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
    weight: Any = None,
) -> Tensor:  # fmt: skip
    """(input − target)², times weight."""
    return _of_differences((input - target) ** 2, weight, (reduction, size_average, reduce))


def l1_loss(
    input: Tensor, target: Any, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean",
    weight: Any = None,
) -> Tensor:  # fmt: skip
    """|input − target|, times weight."""
    return _of_differences(abs(input - target), weight, (reduction, size_average, reduce))


def _of_differences(loss: Tensor, weight: Any, how: Any) -> Tensor:
    if weight is None:
        return reduced(loss, how)
    weight = constant(weight, [loss])
    if weight.shape != loss.shape:
        raise ValueError(f"weight must have the shape of the differences {loss.shape}, got {weight.shape}")
    return reduced(loss * weight, how, weight)


@primitive
def log_loss(input, target):
    """−t·log p − (1 − t)·log(1 − p), no logarithm below −100."""
    xp = array_module(input)
    with np.errstate(divide="ignore"):
        return (target - 1) * xp.maximum(xp.log1p(-input), -100.0) - target * xp.maximum(xp.log(input), -100.0)


log_loss.vjp(
    lambda g, out, p, t: g * (p - t) / maximum(p * (1.0 - p), 1e-12),  # the bound is torch's
    lambda g, out, p, t: g * (maximum(log1p(-p), -100.0) - maximum(log(p), -100.0)),
    reads="input target",
)


def binary_cross_entropy(
    input: Tensor, target: Any, weight: Any = None, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−t·log p − (1 − t)·log(1 − p) for probabilities p, in nats, no logarithm below −100; times weight.

    Raises:
        ValueError: a target of another shape, something that is no probability.
    """
    target = _target("binary_cross_entropy", input, target)
    array = input.data
    if isinstance(array, np.ndarray) and array.size and not 0 <= array.min() <= array.max() <= 1:
        raise ValueError(f"binary_cross_entropy: input must be in 0 … 1, got {array.min()} … {array.max()}")
    loss = log_loss(input, target)
    return reduced(loss if weight is None else loss * weight, (reduction, size_average, reduce))


def binary_cross_entropy_with_logits(
    input: Tensor, target: Any, weight: Any = None, size_average: bool | None = None, reduce: bool | None = None,
    reduction: str = "mean", pos_weight: Any = None,
) -> Tensor:  # fmt: skip
    """−t·log p − (1 − t)·log(1 − p) with p = sigmoid(input), in nats; finite for every logit.  pos_weight multiplies
    the first term, weight both.

    Raises:
        ValueError: a target of another shape.
    """
    target = _target("binary_cross_entropy_with_logits", input, target)
    log_p = logsigmoid(input)
    if pos_weight is not None:
        log_p = log_p * (1.0 + (constant(pos_weight, [input]) - 1.0) * target)
    loss = (1.0 - target) * input - log_p
    return reduced(loss if weight is None else loss * weight, (reduction, size_average, reduce))


def _target(name: str, input: Tensor, target: Any) -> Tensor:
    target = constant(target, [input])
    if target.shape != input.shape:
        raise ValueError(f"{name}: target must have the shape of the input {input.shape}, got {target.shape}")
    return target


def label_cross_entropy_definition(logits: Tensor, *, labels: Any) -> Tensor:
    """−log softmax(logits)[label] over the last axis, in nats: logits (…, K), labels (…) to (…)."""
    return -(log_softmax(logits, dim=-1) * one_hot(labels, logits.shape[-1]).to(logits.dtype)).sum(-1)


@fused(label_cross_entropy_definition)
def label_cross_entropy(logits, *, labels):
    loss, saved = kernels.cross_entropy(logits.reshape(labels.size, logits.shape[-1]), labels.ravel())
    return loss.reshape(labels.shape), saved


@label_cross_entropy.gradient
def _(g, saved, logits, *, labels, wanted):
    """d/dlogits = softmax(logits) − one_hot(label)."""
    rows = logits.reshape(labels.size, logits.shape[-1])
    return [kernels.cross_entropy_slope(g.ravel(), rows, labels.ravel(), *saved).reshape(logits.shape)]


def cross_entropy(
    input: Tensor, target: Any, weight: Any = None, size_average: bool | None = None, ignore_index: int = -100,
    reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """−log softmax(input)[target] over the classes, in nats.

    Shapes: input (N, K, *) or (K,); target integers (N, *) or (), or probabilities of input's shape; weight (K,), of
    each class.  Where the target is ignore_index the loss is 0 and counts in no mean (on a GPU, if it is given);
    label_smoothing is the share of the target that goes to all classes alike (Szegedy et al. 2016, section 7).

    Raises:
        ValueError: a target of another shape, or a label that is no class; label_smoothing outside [0, 1].
    """
    over, target, how = 1 if input.ndim > 1 else 0, constant(target), (reduction, size_average, reduce)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    if target.dtype.kind == "f":
        if target.shape != input.shape:
            raise ValueError(f"cross_entropy: probabilities must have shape {input.shape}, got {target.shape}")
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / input.shape[over]
        if weight is not None:
            target = target * _of_classes(weight, input)
        return reduced(-sum(log_softmax(input, dim=over) * target, dim=over), how)
    _check_labels("cross_entropy", input, target)
    on_host = isinstance(target.data, np.ndarray)
    skips = bool((target.data == ignore_index).any()) if on_host else ignore_index != -100
    if weight is not None or label_smoothing or skips:
        return _by_labels(log_softmax(input, dim=over), target, weight, ignore_index, label_smoothing, how)
    check_range("cross_entropy: labels", target.data, input.shape[over])
    labels = to_device(target.data, input.device).astype(int)
    last = input.permute(*[i for i in range(input.ndim) if i != over], over)
    return reduced(label_cross_entropy(last, labels=labels), how)


def nll_loss(
    input: Tensor, target: Any, weight: Any = None, size_average: bool | None = None, ignore_index: int = -100,
    reduce: bool | None = None, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """−input[target], input the logarithms of probabilities; otherwise as `cross_entropy`."""
    target = constant(target)
    _check_labels("nll_loss", input, target)
    return _by_labels(input, target, weight, ignore_index, 0.0, (reduction, size_average, reduce))


def _check_labels(name: str, input: Tensor, target: Tensor) -> None:
    over = 1 if input.ndim > 1 else 0
    if target.dtype.kind not in "iu" or target.shape != input.shape[:over] + input.shape[over + 1 :]:
        found = f"target of shape {target.shape}, dtype {target.dtype},"
        raise ValueError(f"{name}: {found} has not an integer for each place of an input of shape {input.shape}")


def _of_classes(weight: Any, input: Tensor) -> Tensor:
    """(K,) in a shape that is broadcast to input's."""
    weight = constant(weight, [input])
    if weight.shape != input.shape[: 2 if input.ndim > 1 else 1][-1:]:
        raise ValueError(f"weight must have a number for each class of input {input.shape}, got {weight.shape}")
    return weight.reshape(-1, *[1] * (input.ndim - 2))


def _by_labels(log_p: Tensor, target: Tensor, weight: Any, ignored: int, smoothing: float, how: Any) -> Tensor:
    """−Σ_k w_k t_k log p_k, t one for the label, smoothed; 0 where the label is ignored; a mean is over the w's."""
    over = 1 if log_p.ndim > 1 else 0
    labels = to_device(target.data, log_p.device).astype(int)
    kept = Tensor(labels != ignored)
    share = one_hot(labels * kept.data, log_p.shape[over]).to(log_p.dtype)
    share = share.permute(*range(over), -1, *range(over, labels.ndim))
    weights = kept.to(log_p.dtype)
    if weight is not None:
        of_class = _of_classes(weight, log_p)
        weights = weights * sum(share * of_class, dim=over)
    share = share * (1 - smoothing) + smoothing / log_p.shape[over]
    share = share if weight is None else share * of_class
    loss = -sum(where(share != 0, log_p, 0.0) * share, dim=over)
    return reduced(where(kept, loss, 0.0), how, weights)
