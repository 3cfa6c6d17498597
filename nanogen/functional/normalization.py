"""Normalisation: subtract a mean, divide by a standard deviation, scale and shift by learned numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from nanogen import distributed
from nanogen.autograd import Tensor, changes, composite, primitive
from nanogen.backend import Operation, array_module, moving_average
from nanogen.functional.activation import silu
from nanogen.functional.reduction import mean, normalize

__all__ = ["batch_norm", "group_norm", "group_norm_silu", "layer_norm"]


@primitive
def mean_over_ranks(x):
    """The mean of x over the ranks of an MPI job; without MPI, x itself.

    It is its own adjoint: the loss is the mean of the ranks' losses, and each rank computes the gradient of its own."""
    return distributed.mean_over_ranks(x)[0]


mean_over_ranks.vjp(lambda g, out, x: mean_over_ranks(g), reads="")


@composite
def normalize_groups(input, weight, bias, *, groups, eps, over_batch, gated, moments=None):
    """y = weight · (x − mean) / √(variance + eps) + bias, normalised by groups of channels; silu(y) if gated.

    Shapes: input (N, C, *), weight and bias (C,), or (N, C) for each image its own.  Mean and variance are over the
    C / groups channels of a group and all their pixels; if over_batch, also over the batch, that of all ranks.  A
    kernel need not compute them if `moments` has them, (mean, variance) of each channel.
    """
    n, c, *size = input.shape
    grouped = input.reshape(n, groups, c // groups, *size)
    over = (*((0,) if over_batch else ()), *range(2, grouped.ndim))
    of_all = lambda x, dim, keepdim: mean_over_ranks(mean(x, dim, keepdim=keepdim))
    y = normalize(grouped, over, eps, of_all if over_batch else mean).reshape(input.shape)
    y = y * _at_channels(weight, input) + _at_channels(bias, input)
    return silu(y) if gated else y


@Operation
def moments_of(x):
    """The mean and the variance of each channel of an array (N, C, *): (C,) each."""
    near = x.mean(axis=(0, *range(2, x.ndim)), keepdims=True)
    rest = (x - near).mean(axis=(0, *range(2, x.ndim)))  # 0 but for the rounding of a mean far from 0
    mean = near.reshape(-1) + rest
    return mean, ((x - mean.reshape(near.shape)) ** 2).mean(axis=(0, *range(2, x.ndim)))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    *, gated: bool = False,
) -> Tensor:  # fmt: skip
    """Each image's channels in groups, each group normalised over its channels and pixels.  Wu & He 2018, eq. 7.

    If `gated`, silu of that as one operation, which needs less memory.

    Shapes: input (N, C, *), weight and bias (C,), or (N, C) for each image its own.

    Raises:
        ValueError: channels that num_groups does not divide, weight or bias of another shape.
    """
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise ValueError(f"group_norm: input of shape {input.shape} has no channels for {num_groups} groups")
    weight, bias = _affine(input, weight, bias, "group_norm", (input.shape[1:2], input.shape[:2]))
    return normalize_groups(input, weight, bias, groups=num_groups, eps=eps, over_batch=False, gated=gated)


group_norm_silu = functools.partial(group_norm, gated=True)


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Each channel normalised over the batch and its pixels; in evaluation, by the running moments (mean and variance).

    In training the running moments move by `momentum` towards those of the batch (the unbiased variance).  In an MPI
    job the batch is that of all ranks.
    Shapes: input (N, C, *), the others (C,).  Ioffe & Szegedy 2015, algorithms 1 and 2.

    Raises:
        ValueError: training on one value per channel, evaluation without running moments, moments of another length.
    """
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input must be (N, C, *), got shape {input.shape}")
    channels = input.shape[1]
    for moment in (running_mean, running_var):
        if moment is not None and moment.shape != (channels,):
            raise ValueError(f"batch_norm: running moments must have shape {(channels,)}, got {moment.shape}")
    weight, bias = _affine(input, weight, bias, "batch_norm", (input.shape[1:2],))
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: evaluation needs running_mean and running_var")
        mean, variance, weight, bias = (_at_channels(x, input) for x in (running_mean, running_var, weight, bias))
        return (input - mean) * (variance + eps) ** -0.5 * weight + bias
    count = input.data.size // max(channels, 1) * distributed.size()
    if count == 1:
        raise ValueError(f"batch_norm: training needs more than one value a channel, got input of shape {input.shape}")
    if not input.data.size:  # as in torch: an empty batch does not move the moments
        return input * _at_channels(weight, input) + _at_channels(bias, input)
    own_mean, own_variance = moments_of(input.data)
    (mean,) = distributed.mean_over_ranks(own_mean)
    (variance,) = distributed.mean_over_ranks(own_variance + (own_mean - mean) ** 2)
    if running_mean is not None and running_var is not None:  # in place: a captured CUDA graph uses the same memory
        unbiased = variance * (count / (count - 1))
        moving_average([running_mean.data, running_var.data], [mean, unbiased], kept=1 - momentum, share=momentum)
        changes.note(running_mean.data)
        changes.note(running_var.data)
    how = {"groups": channels, "eps": eps, "over_batch": True, "gated": False}
    return normalize_groups(input, weight, bias, **how, moments=(mean, variance))


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalised over the last axes, whose shape is normalized_shape.  Ba et al. 2016, eq. 3.

    Raises:
        ValueError: an input that does not end in normalized_shape.
    """
    shape = tuple(normalized_shape)
    if not shape or input.shape[-len(shape) :] != shape:
        raise ValueError(f"layer_norm: input of shape {input.shape} does not end in {shape}")
    affine, over = (1.0 if weight is None else weight, 0.0 if bias is None else bias), tuple(range(-len(shape), 0))
    return normalize_last(input, *affine, dim=over, eps=eps)


@composite
def normalize_last(input, weight, bias, *, dim, eps):
    """weight · (x − mean) / √(variance + eps) + bias, mean and variance over `dim`; weight and bias are broadcast."""
    return normalize(input, dim, eps) * weight + bias


def _at_channels(numbers: Tensor, input: Tensor) -> Tensor:
    """(C,) or (N, C) in a shape that broadcasts against input's, (N, C, *)."""
    return numbers.reshape(*numbers.shape, *[1] * (input.ndim - 2))


def _affine(input, weight, bias, name, shapes):
    """weight and bias of one of the shapes; 1 and 0 if not given."""
    xp, given = array_module(input.data), [x.shape for x in (weight, bias) if x is not None]
    shape = given[0] if given else shapes[0]
    if shape not in shapes or given[1:] not in ([], [shape]):
        allowed = " or ".join(map(str, shapes))
        raise ValueError(f"{name}: weight and bias must have shape {allowed}, got {' and '.join(map(str, given))}")
    weight = Tensor(xp.ones(shape, input.dtype)) if weight is None else weight
    return weight, Tensor(xp.zeros(shape, input.dtype)) if bias is None else bias
