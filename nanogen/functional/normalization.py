"""Normalisation: subtract a mean, divide by a standard deviation, scale and shift by learned numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanogen.autograd import Tensor, fused
from nanogen.backend import array_module
from nanogen.functional.activation import silu
from nanogen.functional.reduction import normalize
from nanogen.kernels import normalization as kernels
from nanogen.processes import process_count

__all__ = ["batch_norm", "group_norm", "group_norm_silu", "layer_norm"]


def normalize_groups_definition(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    groups: int,
    eps: float,
    over_batch: bool,
    gated: bool,
    known: Any = None,
) -> Tensor:
    """y = weight · (x − mean) / √(variance + eps) + bias, the moments those of a group of columns; silu(y) if gated.

    Shapes: rows (B, P, C), weight and bias (C,); a moment is over the P rows and the C / groups columns of a group, and
    over the batch too if over_batch.  `known`, the moments or None, is for the fast form, which then spares them.
    """
    b, p, c = rows.shape
    grouped = rows.reshape(b, p, groups, c // groups)
    y = normalize(grouped, dim=(0, 1, 3) if over_batch else (1, 3), eps=eps).reshape(b, p, c) * weight + bias
    return silu(y) if gated else y


@fused(normalize_groups_definition)
def normalize_groups(rows, weight, bias, *, groups, eps, over_batch, gated, known=None):
    return kernels.normalize(rows, weight, bias, groups, eps, over_batch, gated, known)


@normalize_groups.gradient
def _(g, saved, rows, weight, bias, *, groups, eps, over_batch, gated, known, wanted):
    return kernels.normalize_gradients(g, saved, rows, weight, bias, groups, eps, over_batch, gated)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Each image's channels in groups, each group normalised over its channels and pixels.  Wu & He 2018, eq. 7.

    Shapes: input (N, C, *), weight and bias (C,).

    Raises:
        ValueError: channels that do not divide into num_groups, a weight of another length.
    """
    return _group_norm(input, num_groups, weight, bias, eps, gated=False)


def group_norm_silu(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """silu(group_norm(…)) as one operation, which does not keep what is between the two.

    Shapes, and what it raises: those of `group_norm`."""
    return _group_norm(input, num_groups, weight, bias, eps, gated=True)


def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, gated: bool
) -> Tensor:
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise ValueError(f"group_norm: input of shape {input.shape} has no channels for {num_groups} groups")
    rows, back = _rows(input)
    weight, bias = _affine(input, weight, bias, "group_norm")
    return back(normalize_groups(rows, weight, bias, groups=num_groups, eps=eps, over_batch=False, gated=gated))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Each channel normalised over the batch and its pixels; in evaluation, by the running moments.

    In training the running moments move by `momentum` towards the batch's (the variance without bias).  Where processes
    share the step, the batch is that of all of them; but for gradients of gradients, each one's is its own part.
    Shapes: input (N, C, *), the others (C,).  Ioffe & Szegedy 2015, algorithms 1 and 2.

    Raises:
        ValueError: training on one value a channel, evaluation without running moments, moments of another length.
    """
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input must be (N, C, *), got shape {input.shape}")
    channels = input.shape[1]
    for moment in (running_mean, running_var):
        if moment is not None and moment.shape != (channels,):
            raise ValueError(f"batch_norm: running moments must have shape {(channels,)}, got {moment.shape}")
    weight, bias = _affine(input, weight, bias, "batch_norm")
    rows, back = _rows(input)
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: evaluation needs running_mean and running_var")
        return back((rows - running_mean) * (running_var + eps) ** -0.5 * weight + bias)
    count = input.data.size // max(channels, 1) * process_count()
    if count < 2:
        raise ValueError(f"batch_norm: training needs more than one value a channel, got input of shape {input.shape}")
    known = kernels.moments(rows.data, channels, over_batch=True)
    if running_mean is not None and running_var is not None:
        mean, variance = (moment[0] for moment in known)
        parts = mean * momentum, variance * (momentum * count / (count - 1))
        for running, part in zip((running_mean, running_var), parts, strict=True):
            running.data *= 1 - momentum  # in place: a captured step finds it there again
            running.data += part
    return back(
        normalize_groups(rows, weight, bias, groups=channels, eps=eps, over_batch=True, gated=False, known=known)
    )


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalised over the last axes, those of normalized_shape.  Ba et al. 2016, eq. 3.

    Raises:
        ValueError: an input that does not end in normalized_shape.
    """
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise ValueError(f"layer_norm: input of shape {input.shape} does not end in {shape}")
    out = normalize(input, dim=tuple(range(-len(shape), 0)), eps=eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _rows(input: Tensor) -> tuple[Tensor, Any]:
    """(N, C, *) as (N, P, C), the P pixels one after the other, and the way back."""
    n, c, *size = input.shape
    last = (0, *range(2, input.ndim), 1)
    first = (0, input.ndim - 1, *range(1, input.ndim - 1))
    rows = input.permute(last).reshape(n, math.prod(size), c)
    return rows, lambda out: out.reshape(n, *size, c).permute(first)


def _affine(input: Tensor, weight: Tensor | None, bias: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """weight and bias, 1 and 0 where they are not given."""
    xp, channels = array_module(input.data), (input.shape[1],)
    for given in (weight, bias):
        if given is not None and given.shape != channels:
            raise ValueError(f"{name}: weight and bias must have shape {channels}, got {given.shape}")
    weight = Tensor(xp.ones(channels, input.dtype)) if weight is None else weight
    return weight, Tensor(xp.zeros(channels, input.dtype)) if bias is None else bias
