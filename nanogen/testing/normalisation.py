"""Layer, group and batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import checker


def _normalised(x: Any, over: Any, eps: float, **wrong: Any) -> Any:
    """(x − mean) / √(var + ε) over these axes."""
    mean = x.mean(over, keepdims=True)
    var = x.var(over, keepdims=True)
    eps = wrong.get("other eps", eps)
    n = x.size / var.size
    if wrong.get("unbiased"):
        var = var * n / (n - 1) if n > 1 else var + np.nan
    if wrong.get("about 0"):
        var = (x**2).mean(over, keepdims=True)
    if wrong.get("not centred"):
        mean = 0.0
    root = np.sqrt(var + eps)
    root = {
        "outside": np.sqrt(var) + eps,
        "none": np.sqrt(var),
        "var": var + eps,
        "squared": np.sqrt(var + eps**2),
        "twice": np.sqrt(var + eps) + eps,
        "max": np.sqrt(np.maximum(var, eps)),
    }.get(wrong.get("root", ""), root)
    return (x - mean) / root


def _scaled(y: Any, weight: Any, bias: Any, axis: int, **wrong: Any) -> Any:
    shape = [1] * y.ndim
    shape[axis] = -1
    w, b = weight.reshape(shape), bias.reshape(shape)
    if wrong.get("scale") == "neither":
        return y
    if wrong.get("scale") == "none":
        return y + b
    if wrong.get("shift") == "none":
        return y * w
    if wrong.get("shift") == "first":
        return (y + b) * w
    if wrong.get("scale") == "one plus":
        return y * (1 + w) + b
    if wrong.get("scale") == "divided":
        return y / w + b
    return y * w + b


WRONG_NORMS: dict[str, dict[str, Any]] = {
    "ε outside the root: √var + ε": {"root": "outside"},
    "ε² in place of ε": {"root": "squared"},
    "ε missing": {"root": "none"},
    "ε both inside and outside the root": {"root": "twice"},
    "the larger of var and ε, instead of their sum": {"root": "max"},
    "divided by the variance, without the root": {"root": "var"},
    "the unbiased variance (n − 1)": {"unbiased": True},
    "the unbiased variance (n − 1), and ε outside the root: std + ε": {"unbiased": True, "root": "outside"},
    **{f"right if eps={eps} was meant": {"other eps": eps} for eps in (1e-3, 1e-5, 1e-6, 1e-8)},
    "the mean not subtracted": {"not centred": True},
    "divided by the root mean square, the mean not subtracted": {"not centred": True, "about 0": True},
    "the second moment about 0 for the variance": {"about 0": True},
    "the scale and the shift missing": {"scale": "neither"},
    "the scale missing": {"scale": "none"},
    "the shift missing": {"shift": "none"},
    "the shift before the scale": {"shift": "first"},
    "1 + scale in place of the scale": {"scale": "one plus"},
    "divided by the scale": {"scale": "divided"},
}


def _values(draw: Draw, *shape: int) -> Any:
    """Some that vary so little that ε counts, some far from 0."""
    return draw.distinct(*shape) * draw.pick(1.0, 0.1, 0.003) + draw.pick(0.0, 1.0, -2.0)


def _layer_norm(**wrong: Any) -> Callable[..., Any]:
    def function(x: Any, weight: Any, bias: Any, *, eps: float) -> Any:
        axes = wrong.get("axes", lambda x: -1)(x)
        return None if axes is None else _scaled(_normalised(x, axes, eps, **wrong), weight, bias, -1, **wrong)

    return function


@checker(
    equation="y = (x − mean) / √(var + ε) · w + b, over the last axis, var with 1/n",
    source="Ba et al. 2016, eq. 3",
    inputs=lambda draw, *, eps: (
        lambda shape: {"x": _values(draw, *shape), "weight": draw.positives(shape[-1]), "bias": draw.reals(shape[-1])}
    )((*draw.sizes((2, 3), (2, 4))[: draw.integer(1, 2)], draw.integer(2, 5))),
    truth=_layer_norm(),
    mistakes={text: _layer_norm(**wrong) for text, wrong in WRONG_NORMS.items()}
    | {
        "over the first axis (the samples) instead of the last": _layer_norm(axes=lambda x: 0),
        "over all axes": _layer_norm(axes=lambda x: None if x.ndim == 0 else tuple(range(x.ndim))),
        "over all axes but the first": _layer_norm(axes=lambda x: tuple(range(1, x.ndim))),
    },
    tags=("normalisation",),
)
def check_layer_norm(norm: Any, *, eps: float = 1e-5, **options: Any) -> None:
    """Layer normalisation over the last axis.

    The function is called as norm(x, weight, bias): x (N, D) or (N, T, D); weight and bias (D,).  It returns the shape
    of x.  Some inputs vary so little that ε counts.

    Args:
        eps: ε.

    Equation: y = (x − mean) / √(var + ε) · w + b, var with 1/n.  Ba et al. 2016, eq. 3.

    >>> import numpy as np
    >>> def norm(x, weight, bias):
    ...     mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    ...     return (x - mean) / np.sqrt(var + 1e-5) * weight + bias
    >>> check_layer_norm(norm)
    """


def _group_norm(**wrong: Any) -> Callable[..., Any]:
    def function(x: Any, groups: int, weight: Any, bias: Any, *, eps: float) -> Any:
        n, c, h, w = x.shape
        parts = x.reshape(n, groups, c // groups, h, w)
        if wrong.get("interleaved"):
            parts = x.reshape(n, c // groups, groups, h, w).swapaxes(1, 2)
        y = _normalised(parts, wrong.get("axes", (2, 3, 4)), eps, **wrong)
        y = y.swapaxes(1, 2) if wrong.get("interleaved") else y
        if wrong.get("per group"):
            weight, bias = (np.tile(v[:groups, None], c // groups).ravel() for v in (weight, bias))
        return _scaled(y.reshape(x.shape), weight, bias, 1, **wrong)

    return function


def _groups(draw: Draw, *, eps: float) -> dict[str, Any]:
    n, per, h, w = draw.sizes((1, 3), (1, 3), (2, 3), (2, 4))
    groups = draw.pick(2, 3, 1)
    c = groups * per
    x = _values(draw, n, c, h, w)
    return {"x": x, "groups": groups, "weight": draw.positives(c), "bias": draw.reals(c)}


@checker(
    equation="y = (x − mean) / √(var + ε) · w + b, over the pixels and the C/G channels of a group",
    source="Wu & He 2018, eq. 1, 2 and 6",
    inputs=_groups,
    truth=_group_norm(),
    mistakes={text: _group_norm(**wrong) for text, wrong in WRONG_NORMS.items()}
    | {
        "each channel by itself (instance norm)": _group_norm(axes=(3, 4)),
        "each pixel by itself, over the channels of a group": _group_norm(axes=(2,)),
        "all channels together (layer norm)": _group_norm(axes=(1, 2, 3, 4)),
        "over the images, too": _group_norm(axes=(0, 2, 3, 4)),
        "every G-th channel in a group instead of neighbours": _group_norm(interleaved=True),
        "C/G groups of G channels": lambda x, groups, weight, bias, *, eps: _group_norm()(
            x, x.shape[1] // groups, weight, bias, eps=eps
        ),
        "one scale and shift for each group": _group_norm(**{"per group": True}),
    },
    tags=("normalisation",),
)
def check_group_norm(norm: Any, *, eps: float = 1e-5, **options: Any) -> None:
    """Group normalisation of images.

    The function is called as norm(x, groups, weight, bias): x (N, C, H, W); weight and bias (C,).  It returns the shape
    of x.  Some inputs vary so little that ε counts.

    Args:
        eps: ε.

    Equation: y = (x − mean) / √(var + ε) · w + b, over the pixels and the C/G neighbouring channels of a group, var
    with 1/n.  Wu & He 2018, eq. 1, 2 and 6.

    >>> import numpy as np
    >>> def norm(x, groups, weight, bias):
    ...     parts = x.reshape(len(x), groups, -1)
    ...     mean, var = parts.mean(-1, keepdims=True), parts.var(-1, keepdims=True)
    ...     y = ((parts - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    ...     return y * weight[:, None, None] + bias[:, None, None]
    >>> check_group_norm(norm)
    """


def _batch_norm(**wrong: Any) -> Callable[..., Any]:
    def function(
        x: Any,
        running_mean: Any,
        running_var: Any,
        weight: Any,
        bias: Any,
        training: bool,
        *,
        eps: float,
        momentum: float,
        momentum_of: str,
        running: str,
    ) -> dict[str, Any]:
        axes, eps = (0, *range(2, x.ndim)), wrong.get("other eps", eps)
        n = x.size / x.shape[1]
        shape = (1, -1) + (1,) * (x.ndim - 2)
        own = training != bool(wrong.get("other mode")) if wrong.get("other mode") != "always" else True
        if wrong.get("other mode") == "never":
            own = False
        if own:
            y = _normalised(x, wrong.get("axes", lambda x: axes)(x), eps, **wrong)
        else:
            root = np.sqrt(running_var + eps)
            if wrong.get("root") == "outside":
                root = np.sqrt(running_var) + eps
            if wrong.get("root") == "none":
                root = np.sqrt(running_var)
            if wrong.get("root") == "var":
                root = running_var + eps
            y = (x - running_mean.reshape(shape)) / root.reshape(shape)
        mean, var = x.mean(axes), x.var(axes)
        if (running == "unbiased") != bool(wrong.get("other bias")):
            var = var * n / (n - 1) if "images" not in wrong else var * len(x) / (len(x) - 1)
        if wrong.get("std kept"):
            var = np.sqrt(var)
        if wrong.get("eps kept"):
            var = var + eps
        momentum = wrong.get("other momentum", momentum)
        new = momentum if momentum_of == "new" else 1 - momentum
        if wrong.get("moves") == "never" or not (training or wrong.get("moves") == "always"):
            new = 0.0
        if wrong.get("moves") == "replaced" and training:
            new = 1.0
        after = [(1 - new) * old + new * now for old, now in ((running_mean, mean), (running_var, var))]
        if wrong.get("moves") == "added" and training:
            after = [running_mean + new * mean, running_var + new * var]
        return {"y": _scaled(y, weight, bias, 1, **wrong), "running_mean": after[0], "running_var": after[1]}

    return function


def _batches(draw: Draw, **_: Any) -> dict[str, Any]:
    n, c, h, w = draw.sizes((2, 4), (1, 3), (1, 3), (1, 3))
    shape = (n, c) if draw.integer(0, 1) else (n, c, h, w)
    # the mode is a setting of the call, and every second call is of each
    return {
        "x": _values(draw, *shape),
        "running_mean": draw.reals(c),
        "running_var": draw.positives(c) * draw.pick(1.0, 1e-4),
        "weight": draw.positives(c),
        "bias": draw.reals(c),
        "training": draw.pick(True, False),
    }


def _run_batch_norm(norm: Any, inputs: dict[str, Any], **_: Any) -> Any:
    output = norm(*inputs.values())
    return output if isinstance(output, tuple | list | dict) else (output, None, None)


@checker(
    equation="y = (x − mean) / √(var + ε) · w + b; running ← (1 − m) running + m · moment, its var with 1/(n − 1)",
    source="Ioffe & Szegedy 2015, algorithms 1 and 2",
    inputs=_batches,
    truth=_batch_norm(),
    run=_run_batch_norm,
    mistakes={
        text: _batch_norm(**wrong)
        for text, wrong in WRONG_NORMS.items()
        if text
        not in (
            "the unbiased variance (n − 1), and ε outside the root: std + ε",
            "ε² in place of ε",
            "ε both inside and outside the root",
            "the larger of var and ε, instead of their sum",
        )
    }
    | {
        "over all axes, the channels too": _batch_norm(axes=lambda x: tuple(range(x.ndim))),
        "each image by itself (instance norm)": _batch_norm(axes=lambda x: tuple(range(2, x.ndim)) or 0),
        "over the images only, each pixel by itself": _batch_norm(axes=lambda x: 0),
        "the moments of the batch in evaluation, too": _batch_norm(**{"other mode": "always"}),
        "the running moments in training, too": _batch_norm(**{"other mode": "never"}),
        "training and evaluation exchanged in the normalisation": _batch_norm(**{"other mode": True}),
        "the running moments never move": _batch_norm(moves="never"),
        "the running moments move in evaluation, too": _batch_norm(moves="always"),
        "the running moments are those of the last batch": _batch_norm(moves="replaced"),
        "the running moments not damped by 1 − m": _batch_norm(moves="added"),
        "the running variance with the number of images, not of values, in n/(n − 1)": _batch_norm(images=True),
        "right if momentum=0.01 was meant": _batch_norm(**{"other momentum": 0.01}),
        "right if momentum=0.1 was meant": _batch_norm(**{"other momentum": 0.1}),
        "ε kept in the running variance": _batch_norm(**{"eps kept": True}),
        "the standard deviation kept as the running variance": _batch_norm(**{"std kept": True}),
    },
    where={
        "in training": lambda *a, **_: a[5],
        "in evaluation": lambda *a, **_: not a[5],
        "for images, not for vectors": lambda x, *a, **_: x.ndim == 4,
    },
    conventions={"momentum_of": ("new", "old"), "running": ("unbiased", "biased")},
    tags=("normalisation",),
)
def check_batch_norm(
    norm: Any,
    *,
    eps: float = 1e-5,
    momentum: float = 0.1,
    momentum_of: str = "new",
    running: str = "unbiased",
    **options: Any,
) -> None:
    """Batch normalisation in training and in evaluation, with its running moments.

    The function is called as norm(x, running_mean, running_var, weight, bias, training): x (N, C) or (N, C, H, W), the
    others (C,), training True or False.  It returns (y, new_running_mean, new_running_var); or y alone, then the
    running moments are not judged.  Some inputs vary so little that ε counts.

    Args:
        eps: ε.
        momentum: m.
        momentum_of: m weighs the "new" moments, as in torch, or the "old" ones, as in TensorFlow.
        running: the running variance is the "unbiased" one, 1/(n − 1), as in torch, or the "biased" one.

    Equation: y = (x − mean) / √(var + ε) · w + b, with the moments of the batch in training, var with 1/n, and the
    running ones in evaluation; running ← (1 − m) · running + m · moment, in training only.  Ioffe & Szegedy 2015.

    >>> import torch.nn.functional as F
    >>> def norm(x, mean, var, weight, bias, training):
    ...     return F.batch_norm(x, mean := mean.clone(), var := var.clone(), weight, bias, training), mean, var
    >>> import torch
    >>> check_batch_norm(norm, convert=torch.from_numpy)
    """
