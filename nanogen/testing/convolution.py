"""Convolutions, pooling and linear maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import checker

Pair = tuple[int, int]


# Convolution


def _taps(x: Any, kernel: Pair, stride: Pair, dilation: Pair, size: Pair) -> Any:
    """For each tap of the kernel the pixels that it meets: (N, C, kh, kw, *size)."""
    found = np.zeros((*x.shape[:2], *kernel, *size))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = i * dilation[0] + stride[0] * np.arange(size[0])
            columns = j * dilation[1] + stride[1] * np.arange(size[1])
            found[:, :, i, j] = x[:, :, rows[:, None], columns[None]]
    return found


def _padded(x: Any, top: int, bottom: int, left: int, right: int, mode: str = "constant", **value: Any) -> Any:
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), mode, **value)  # type: ignore[call-overload]


def _pairs(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else tuple(value)


def _settings(given: tuple[Any, ...], takes: str) -> dict[str, Any]:
    found = dict(zip(takes.split(), given))
    pairs = {name: _pairs(found.get(name, default)) for name, default in _DEFAULTS.items()}
    return {"groups": found.get("groups", 1), "bias": found.get("bias"), **pairs}


_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}


def _convolve(x: Any, w: Any, c: dict[str, Any], **wrong: Any) -> Any:
    """Σ over channels and taps of w · x, images (N, C, H, W) and weights (O, C/groups, kh, kw)."""
    kernel, stride, dilation, groups = w.shape[2:], c["stride"], c["dilation"], c["groups"]
    stride = stride[::-1] if wrong.get("stride axes") else stride
    dilation = dilation[::-1] if wrong.get("dilation axes") else (1, 1) if wrong.get("no dilation") else dilation
    high, wide = c["padding"][::-1] if wrong.get("padding axes") else c["padding"]
    sides = {"none": (0, 0, 0, 0), "first": (2 * high, 0, 2 * wide, 0), "last": (0, 2 * high, 0, 2 * wide)}
    sides |= {"one": (high, 0, wide, 0)}
    x = _padded(x, *sides.get(wrong.get("padding", ""), (high, high, wide, wide)), wrong.get("mode", "constant"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel)]
    size = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride)]
    if wrong.get("short"):
        size = [(n - r) // s for n, r, s in zip(x.shape[2:], reach, stride)]
    taps = _taps(x, kernel, stride, dilation, (size[0], size[1]))
    if wrong.get("flip"):
        w = w[:, :, ::-1, ::-1]
    if wrong.get("transpose"):
        w = w.swapaxes(2, 3)
    n, channels, out = len(x), x.shape[1], len(w)
    if wrong.get("interleaved"):
        order = np.arange(channels).reshape(-1, groups).T.ravel()
        taps = taps[:, order]
    taps = taps.reshape(n, groups, channels // groups, *taps.shape[2:])
    w = w.reshape(groups, out // groups, *w.shape[1:])
    if wrong.get("one group"):
        w = np.broadcast_to(w[:1], w.shape)
    if wrong.get("one channel"):
        taps, w = taps[:, :, :1], w[:, :, :1]
    y = np.einsum("ngcijhw,gocij->ngohw", taps, w)
    y = (y.swapaxes(1, 2) if wrong.get("shuffled") else y).reshape(n, out, *taps.shape[5:])
    if wrong.get("mixed"):
        y = y.reshape(n, out, *y.shape[:1:-1]).swapaxes(2, 3)
    return y / channels if wrong.get("mean") else y


def _biased(y: Any, bias: Any, times: float = 1.0) -> Any:
    return y if bias is None else y + times * bias[None, :, None, None]


def _conv2d(times: float = 1.0, **wrong: Any) -> Callable[..., Any]:
    def function(x: Any, w: Any, *given: Any, takes: str, pairs: bool, layout: str) -> Any:
        c = _settings(given, takes)
        needs = dict.fromkeys(("one group", "interleaved", "shuffled"), "groups")
        needs |= {"no dilation": "dilation", "mode": "padding"}
        if any(name in wrong and need not in takes.split() for name, need in needs.items()):
            return None
        if times != 1.0 and c["bias"] is None:
            return None
        if layout == "NHWC":
            x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
        y = _biased(_convolve(x, w, c, **wrong), c["bias"], times)
        return y.transpose(0, 2, 3, 1) if layout == "NHWC" else y

    return function


def _convolutions(draw: Draw, *, takes: str, pairs: bool, layout: str) -> dict[str, Any]:
    names = takes.split()
    groups = draw.pick(1, 2, 3) if "groups" in names else 1
    n, c, o = draw.sizes((1, 2), (1, 3), (1, 3))
    c, o = c * groups, o * groups
    kernel = draw.sizes((1, 3), (1, 3))
    number = lambda *options: (draw.pick(*options), draw.pick(*options)) if pairs else draw.pick(*options)
    c_ = {
        "stride": number(1, 2, 3) if "stride" in names else 1,
        "padding": number(0, 1, 2) if "padding" in names else 0,
        "dilation": number(1, 2) if "dilation" in names else 1,
    }
    reach = [d * (k - 1) + 1 for d, k in zip(_pairs(c_["dilation"]), kernel)]
    h, w = (max(reach) + draw.integer(0, 5) for _ in reach)
    shape, weight = (n, c, h, w), (o, c // groups, *kernel)
    if layout == "NHWC":
        shape, weight = (n, h, w, c), (*kernel, c // groups, o)
    found = {"x": draw.reals(*shape), "weight": draw.reals(*weight)}
    extra = {"groups": groups, "bias": draw.reals(o), **c_}
    return found | {name: extra[name] for name in names}


def _remainder(x: Any, w: Any, *given: Any, takes: str, layout: str = "NCHW", **_: Any) -> bool:
    c = _settings(given, takes)
    image, kernel = (x.shape[1:3], w.shape[:2]) if layout == "NHWC" else (x.shape[2:], w.shape[2:])
    over = [
        (n + 2 * p - d * (k - 1) - 1) % s
        for n, p, d, k, s in zip(image, c["padding"], c["dilation"], kernel, c["stride"])
    ]
    return any(over)


_WHERE_CONVOLVED: dict[str, Callable[..., bool]] = {
    "where the stride is not 1": lambda x, w, *given, takes, **_: _settings(given, takes)["stride"] != (1, 1),
    "where the stride leaves a remainder": _remainder,
    "where there is padding": lambda x, w, *given, takes, **_: _settings(given, takes)["padding"] != (0, 0),
    "where the dilation is not 1": lambda x, w, *given, takes, **_: _settings(given, takes)["dilation"] != (1, 1),
    "where there are several groups": lambda x, w, *given, takes, **_: _settings(given, takes)["groups"] > 1,
    "where the kernel is larger than 1 × 1": lambda x, w, *given, layout="NCHW", **_: (
        max(w.shape[:2] if layout == "NHWC" else w.shape[2:]) > 1
    ),
    "where the kernel is not square": lambda x, w, *given, layout="NCHW", **_: (
        len(set(w.shape[:2] if layout == "NHWC" else w.shape[2:])) > 1
    ),
}


@checker(
    equation="y[n, o, i, j] = Σ_c,a,b w[o, c, a, b] · x[n, c, s·i + d·a − p, s·j + d·b − p]",
    source="LeCun et al. 1998; Dumoulin & Visin 2016",
    inputs=_convolutions,
    truth=_conv2d(),
    mistakes={
        "the kernel flipped (a convolution, not a cross-correlation)": _conv2d(flip=True),
        "the kernel transposed, its rows as columns": _conv2d(transpose=True),
        "no padding": _conv2d(padding="none"),
        "all the padding at the top and the left": _conv2d(padding="first"),
        "all the padding at the bottom and the right": _conv2d(padding="last"),
        "padding at the top and the left only": _conv2d(padding="one"),
        "padded with the border's pixels instead of 0": _conv2d(mode="edge"),
        "padded with ones instead of 0": lambda x, w, *a, layout, **k: (
            None
            if layout == "NHWC" or "padding" not in k["takes"].split()
            else _conv2d()(x - 1, w, *a, layout=layout, **k)
            + _conv2d(padding="none")(np.ones(np.add(x.shape, _twice(a, k["takes"]))), w, *a, layout=layout, **(k | {}))
            - _only_bias(w, a, k["takes"])
        ),
        "the strides of the two axes exchanged": _conv2d(**{"stride axes": True}),
        "the paddings of the two axes exchanged": _conv2d(**{"padding axes": True}),
        "the dilations of the two axes exchanged": _conv2d(**{"dilation axes": True}),
        "the dilation ignored": _conv2d(**{"no dilation": True}),
        "one row and one column short: the + 1 missing in the size": _conv2d(short=True),
        "all groups with the kernels of the first": _conv2d(**{"one group": True}),
        "every G-th channel in a group instead of neighbours": _conv2d(interleaved=True),
        "the outputs of the groups interleaved": _conv2d(shuffled=True),
        "rows and columns of the result exchanged: reshaped to (W', H') and turned": _conv2d(mixed=True),
        "only the first channel of each group": _conv2d(**{"one channel": True}),
        "averaged over the channels instead of summed": _conv2d(mean=True),
        "the bias missing": _conv2d(0.0),
        "the bias added twice": _conv2d(2.0),
        "the bias subtracted": _conv2d(-1.0),
    },
    where=_WHERE_CONVOLVED,
    conventions={"layout": ("NCHW", "NHWC")},
    shapes=True,
    tags=("convolution",),
)
def check_conv2d(
    conv: Any, *, takes: str = "stride padding", pairs: bool = False, layout: str = "NCHW", **options: Any
) -> None:
    """A convolution of images, as networks have it: a cross-correlation.

    The function is called as conv(x, weight, *settings), with the settings that `takes` names, in its order.  It
    returns (N, O, H', W') with H' = (H + 2·padding − dilation·(kh − 1) − 1) // stride + 1.

    Args:
        takes: names out of "bias stride padding dilation groups", in the order in which conv takes them.  The bias is
            (O,).  What is not named is 1 (padding: 0, without a bias).
        pairs: stride, padding and dilation are (height, width) instead of one number for both.
        layout: "NCHW": x (N, C, H, W), weight (O, C/groups, kh, kw); "NHWC": x (N, H, W, C), weight
            (kh, kw, C/groups, O), result (N, H', W', O).

    Equation: y[n, o, i, j] = Σ_c,a,b w[o, c, a, b] · x[n, c, s·i + d·a − p, s·j + d·b − p].  LeCun et al. 1998.

    >>> import numpy as np
    >>> def conv(x, w, stride):
    ...     windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    ...     return np.einsum("ncijab,ocab->noij", windows[:, :, ::stride, ::stride], w)
    >>> check_conv2d(conv, takes="stride")
    """


def _twice(given: Any, takes: str) -> tuple[int, ...]:
    high, wide = _settings(given, takes)["padding"]
    return (0, 0, 2 * high, 2 * wide)


def _only_bias(w: Any, given: Any, takes: str) -> Any:
    bias = _settings(given, takes)["bias"]
    return 0.0 if bias is None else bias[None, :, None, None]


def _spread(x: Any, w: Any, c: dict[str, Any], **wrong: Any) -> Any:
    """Each pixel adds its multiple of the kernel to the result: x (N, I, H, W), weights (I, O/groups, kh, kw)."""
    (kh, kw), (sh, sw), groups = w.shape[2:], c["stride"], c["groups"]
    dh, dw = c["dilation"]
    if wrong.get("stride axes"):
        sh, sw = sw, sh
    n, channels, h, width = x.shape
    per = w.shape[1]
    full = np.zeros((n, groups * per, (h - 1) * sh + dh * (kh - 1) + 1, (width - 1) * sw + dw * (kw - 1) + 1))
    if wrong.get("flip"):
        w = w[:, :, ::-1, ::-1]
    if wrong.get("transpose"):
        w = w.swapaxes(2, 3)
    parts = np.einsum(
        "ngchw,gcoij->ngoijhw", x.reshape(n, groups, -1, h, width), w.reshape(groups, channels // groups, per, kh, kw)
    ).reshape(n, groups * per, kh, kw, h, width)
    if wrong.get("last only"):
        for i in range(h):
            for j in range(width):
                full[:, :, i * sh : i * sh + dh * kh : dh, j * sw : j * sw + dw * kw : dw] = parts[:, :, :, :, i, j]
    else:
        for i in range(kh):
            for j in range(kw):
                full[:, :, i * dh : i * dh + sh * h : sh, j * dw : j * dw + sw * width : sw][:, :, :h, :width] += parts[
                    :, :, i, j
                ]
    (ph, pw), (oh, ow) = c["padding"], c["output_padding"]
    if wrong.get("uncut"):
        ph = pw = 0
    if wrong.get("no output padding"):
        oh = ow = 0
    if wrong.get("more"):
        oh, ow = oh + sh - 1, ow + sw - 1
    if wrong.get("first only"):
        return full[:, :, 2 * ph :, 2 * pw :] if (oh, ow) == (0, 0) else None
    if wrong.get("zeros"):
        return _padded(full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw], 0, oh, 0, ow)
    full = _padded(full, 0, oh, 0, ow) if not wrong.get("before") else _padded(full, oh, 0, ow, 0)
    return full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw]


def _conv_transpose(times: float = 1.0, **wrong: Any) -> Callable[..., Any]:
    def function(x: Any, w: Any, *given: Any, takes: str, pairs: bool) -> Any:
        c = _settings(given, takes)
        if times != 1.0 and c["bias"] is None:
            return None
        if {"no output padding", "before", "zeros"} & set(wrong) and "output_padding" not in takes.split():
            return None
        y = _spread(x, w, c, **wrong)
        return None if y is None else _biased(y, c["bias"], times)

    return function


def _transposed(draw: Draw, *, takes: str, pairs: bool) -> dict[str, Any]:
    names = takes.split()
    groups = draw.pick(1, 2) if "groups" in names else 1
    n, c, o = draw.sizes((1, 2), (1, 3), (1, 3))
    kernel, image = draw.sizes((1, 4), (1, 4)), draw.sizes((1, 4), (1, 4))
    number = lambda *options: (draw.pick(*options), draw.pick(*options)) if pairs else draw.pick(*options)
    settings = {
        "stride": number(1, 2, 3) if "stride" in names else 1,
        "dilation": number(1, 2) if "dilation" in names else 1,
    }
    pad, extra = [0, 0], [0, 0]
    for axis in (0, 1):
        s, d = _pairs(settings["stride"])[axis], _pairs(settings["dilation"])[axis]
        reach = (image[axis] - 1) * s + d * (kernel[axis] - 1) + 1
        pad[axis] = draw.pick(*range(min(3, (reach + 1) // 2))) if "padding" in names else 0
        extra[axis] = draw.pick(*range(max(s, d))) if "output_padding" in names else 0
    settings["padding"] = (pad[0], pad[1]) if pairs else min(pad)
    settings["output_padding"] = (extra[0], extra[1]) if pairs else min(extra)
    settings |= {"groups": groups, "bias": draw.reals(o * groups)}
    found = {"x": draw.reals(n, c * groups, *image), "weight": draw.reals(c * groups, o, *kernel)}
    return found | {name: settings[name] for name in names}


@checker(
    equation="⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩; size (H − 1)·s − 2p + d·(k − 1) + output_padding + 1",
    source="Dumoulin & Visin 2016, section 4",
    inputs=_transposed,
    truth=_conv_transpose(),
    mistakes={
        "the kernel flipped": _conv_transpose(flip=True),
        "the kernel transposed, its rows as columns": _conv_transpose(transpose=True),
        "the padding not cut away": _conv_transpose(uncut=True),
        "all the padding cut at the top and the left": _conv_transpose(**{"first only": True}),
        "the output padding ignored": _conv_transpose(**{"no output padding": True}),
        "the output padding filled with zeros": _conv_transpose(zeros=True),
        "the output padding at the top and the left": _conv_transpose(before=True),
        "an output padding of stride − 1 too much": _conv_transpose(more=True),
        "the strides of the two axes exchanged": _conv_transpose(**{"stride axes": True}),
        "where kernels overlap, the last one instead of the sum": _conv_transpose(**{"last only": True}),
        "the bias missing": _conv_transpose(0.0),
        "the bias added twice": _conv_transpose(2.0),
    },
    where=_WHERE_CONVOLVED
    | {
        "where the stride is smaller than the kernel": lambda x, w, *given, takes, **_: bool(
            (np.array(_settings(given, takes)["stride"]) < w.shape[2:]).any()
        )
    },
    shapes=True,
    tags=("convolution",),
)
def check_conv_transpose2d(conv: Any, *, takes: str = "stride padding", pairs: bool = False, **options: Any) -> None:
    """A transposed convolution: the adjoint of the convolution with the same weights.

    The function is called as conv(x, weight, *settings): x (N, I, H, W), weight (I, O/groups, kh, kw), which the
    convolution from O to I channels has.  It returns (N, O, H', W') with
    H' = (H − 1)·stride − 2·padding + dilation·(kh − 1) + output_padding + 1.

    Args:
        takes: names out of "bias stride padding output_padding groups dilation", in the order in which conv takes them.
            The bias is (O,).  What is not named is 1 (paddings: 0, without a bias).
        pairs: stride, paddings and dilation are (height, width) instead of one number for both.

    Equation: ⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩.  Dumoulin & Visin 2016, section 4.

    >>> import numpy as np
    >>> def conv_transpose(x, w, s):
    ...     (n, _, h, wide), (_, o, k, l) = x.shape, w.shape
    ...     y = np.zeros((n, o, (h - 1) * s + k, (wide - 1) * s + l))
    ...     for i in range(h):
    ...         for j in range(wide):
    ...             y[:, :, i*s : i*s + k, j*s : j*s + l] += np.einsum("nc,cokl->nokl", x[:, :, i, j], w)
    ...     return y
    >>> check_conv_transpose2d(conv_transpose, takes="stride")
    """


# Pooling


def _pool(kind: str, **wrong: Any) -> Callable[..., Any]:
    def function(x: Any, *given: Any, takes: str, pairs: bool, padded: str = "counted") -> Any:
        found = dict(zip(takes.split(), given))
        kernel = _pairs(found["kernel"])
        stride = _pairs(found.get("stride", kernel))
        if wrong.get("stride") == "kernel":
            stride = kernel
        if wrong.get("stride") == "one":
            stride = (1, 1)
        if wrong.get("kernel axes"):
            kernel = kernel[::-1]
        if wrong.get("stride axes"):
            stride = stride[::-1]
        high, wide = (0, 0) if wrong.get("no padding") else _pairs(found.get("padding", 0))
        if "padding" not in takes.split() and {"no padding", "zeros"} & set(wrong):
            return None
        value = 0.0 if kind == "average" or wrong.get("zeros") else -np.inf
        size = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[2:], (high, wide), kernel, stride)]
        more = [0, 0]
        if wrong.get("ceil"):
            full = [-(-(n + 2 * p - k) // s) + 1 for n, p, k, s in zip(x.shape[2:], (high, wide), kernel, stride)]
            full = [m - ((m - 1) * s >= n + p) for m, n, p, s in zip(full, x.shape[2:], (high, wide), stride)]
            more = [
                max(0, (m - 1) * s + k - n - 2 * p)
                for m, n, p, k, s in zip(full, x.shape[2:], (high, wide), kernel, stride)
            ]
            size = full
        pad = lambda a, v: _padded(a, high, high + more[0], wide, wide + more[1], constant_values=v)
        taps = _taps(pad(x, value), kernel, stride, (1, 1), (size[0], size[1]))
        ones = _taps(pad(np.ones_like(x), 0.0), kernel, stride, (1, 1), (size[0], size[1]))
        if wrong.get("mean"):
            return taps.mean((2, 3)) if np.isfinite(taps).all() else None
        if kind == "max" or wrong.get("max"):
            return (
                -(_taps(pad(-x, value), kernel, stride, (1, 1), (size[0], size[1])).max((2, 3)))
                if wrong.get("min")
                else taps.max((2, 3))
            )
        total = taps.sum((2, 3))
        return (
            total if wrong.get("sum") else total / (ones.sum((2, 3)) if padded == "ignored" else kernel[0] * kernel[1])
        )

    return function


def _pools(draw: Draw, *, takes: str, pairs: bool, padded: str = "counted") -> dict[str, Any]:
    names = takes.split()
    number = lambda *options: (draw.pick(*options), draw.pick(*options)) if pairs else draw.pick(*options)
    kernel = number(2, 3, 1)
    settings = {"kernel": kernel, "stride": number(1, 2, 3)}
    half = [k // 2 for k in _pairs(kernel)]
    pad = tuple(draw.integer(0, k) for k in half)
    settings["padding"] = pad if pairs else pad[0]
    n, c, h, w = draw.sizes((1, 2), (1, 3), (3, 7), (3, 8))
    return {"x": draw.distinct(n, c, h, w)} | {name: settings[name] for name in names}


def _pool_remainder(x: Any, *given: Any, takes: str, **_: Any) -> bool:
    found = {name: _pairs(value) for name, value in zip(takes.split(), given)}
    kernel, padding = found["kernel"], found.get("padding", (0, 0))
    stride = found.get("stride", kernel)
    return any((n + 2 * p - k) % s for n, p, k, s in zip(x.shape[2:], padding, kernel, stride))


def _pool_mistakes(kind: str) -> dict[str, Callable[..., Any]]:
    both = {
        "a step of the kernel's size, whatever the stride": _pool(kind, stride="kernel"),
        "the stride ignored: a step of 1": _pool(kind, stride="one"),
        "the kernel's height and width exchanged": _pool(kind, **{"kernel axes": True}),
        "the strides of the two axes exchanged": _pool(kind, **{"stride axes": True}),
        "the padding ignored": _pool(kind, **{"no padding": True}),
        "one window more where the stride leaves a remainder (rounded up)": _pool(kind, ceil=True),
    }
    if kind == "max":
        return both | {
            "padded with 0 instead of −∞": _pool(kind, zeros=True),
            "the mean instead of the maximum": _pool(kind, mean=True, zeros=True),
            "the minimum": _pool(kind, min=True),
        }
    return both | {"the sum instead of the mean": _pool(kind, sum=True), "the maximum": _pool(kind, max=True)}


def _pool_parts(kind: str) -> dict[str, Any]:
    return {
        "inputs": _pools,
        "truth": _pool(kind),
        "mistakes": _pool_mistakes(kind),
        "where": {
            "where the stride leaves a remainder": _pool_remainder,
            "where the padding is not 0": lambda x, *given, takes, **_: (
                _pairs(dict(zip(takes.split(), given)).get("padding", 0)) != (0, 0)
            ),
            "where the stride differs from the kernel": lambda x, *given, takes, **_: (
                dict(zip(takes.split(), given)).get("stride") != dict(zip(takes.split(), given))["kernel"]
            ),
        },
        "shapes": True,
        "tags": ("pooling",),
    }


@checker(
    **_pool_parts("max"),
    equation="y = max over the window; padding counts as −∞",
    source="Dumoulin & Visin 2016, section 3",
)
def check_max_pool2d(pool: Any, *, takes: str = "kernel stride padding", pairs: bool = False, **options: Any) -> None:
    """Maxima over windows of images.

    The function is called as pool(x, *settings), with the settings that `takes` names: x (N, C, H, W).  It returns
    (N, C, H', W') with H' = (H + 2·padding − kernel) // stride + 1.  The padding is at most half the kernel.

    Args:
        takes: names out of "kernel stride padding" in the order in which pool takes them.  Without a stride, it is the
            kernel's size; without padding, 0.
        pairs: the settings are (height, width) instead of one number for both.

    Equation: y = max over the window, in which padding counts as −∞.

    >>> import numpy as np
    >>> def pool(x, k):
    ...     n, c, h, w = x.shape
    ...     return x[:, :, : h // k * k, : w // k * k].reshape(n, c, h // k, k, w // k, k).max((3, 5))
    >>> check_max_pool2d(pool, takes="kernel")
    """


@checker(
    **_pool_parts("average"),
    equation="y = mean over the window",
    source="Dumoulin & Visin 2016, section 3",
    conventions={"padded": ("counted", "ignored")},
)
def check_avg_pool2d(
    pool: Any, *, takes: str = "kernel stride padding", pairs: bool = False, padded: str = "counted", **options: Any
) -> None:
    """Means over windows of images.

    The function is called as pool(x, *settings), with the settings that `takes` names: x (N, C, H, W).  It returns
    (N, C, H', W') with H' = (H + 2·padding − kernel) // stride + 1.  The padding is at most half the kernel.

    Args:
        takes: names out of "kernel stride padding" in the order in which pool takes them.  Without a stride, it is the
            kernel's size; without padding, 0.
        pairs: the settings are (height, width) instead of one number for both.
        padded: zeros of the padding are "counted" in the mean, or "ignored".

    Equation: y = mean over the window.

    >>> import numpy as np
    >>> def pool(x, k):
    ...     n, c, h, w = x.shape
    ...     return x[:, :, : h // k * k, : w // k * k].reshape(n, c, h // k, k, w // k, k).mean((3, 5))
    >>> check_avg_pool2d(pool, takes="kernel")
    """


# Linear maps


def _linear(formula: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    def function(x: Any, w: Any, *bias: Any, weight: str, bias_: None = None, **c: Any) -> Any:
        return formula(x, w.T if weight == "IO" else w, bias[0] if bias else None)

    return function


def _with_bias(formula: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    return _linear(lambda x, w, b: None if b is None else formula(x, w, b))


def _linear_inputs(draw: Draw, *, weight: str, bias: bool) -> dict[str, Any]:
    n, i, o = draw.sizes((1, 4), (1, 4), (1, 4))
    found = {"x": draw.reals(n, i), "weight": draw.reals(*((o, i) if weight == "OI" else (i, o)))}
    return found | ({"bias": draw.reals(o)} if bias else {})


@checker(
    equation="y = x Wᵀ + b",
    source="the definition",
    inputs=_linear_inputs,
    truth=_linear(lambda x, w, b: x @ w.T + (0 if b is None else b)),
    mistakes={
        "the bias missing": _with_bias(lambda x, w, b: x @ w.T),
        "the bias added twice": _with_bias(lambda x, w, b: x @ w.T + 2 * b),
        "the bias subtracted": _with_bias(lambda x, w, b: x @ w.T - b),
        "the bias added before the product, as often as there are inputs": _with_bias(
            lambda x, w, b: x @ w.T + b * x.shape[1]
        ),
        "divided by the number of inputs": _linear(lambda x, w, b: x @ w.T / x.shape[1] + (0 if b is None else b)),
        "divided by the root of the number of inputs": _linear(
            lambda x, w, b: x @ w.T / math.sqrt(x.shape[1]) + (0 if b is None else b)
        ),
    },
    conventions={"weight": ("OI", "IO")},
)
def check_linear(linear: Any, *, weight: str = "OI", bias: bool = True, **options: Any) -> None:
    """A linear map with a bias.

    The function is called as linear(x, weight, bias): x (N, I), bias (O,).  It returns (N, O).

    Args:
        weight: its axes: "OI", as torch has it, or "IO".
        bias: whether a bias is handed over.

    Equation: y = x Wᵀ + b.

    >>> check_linear(lambda x, w, b: x @ w.T + b)
    """
