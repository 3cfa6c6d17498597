"""PyTorch as the judge: its own operator samples, through our functions of the same names.

`torch.testing._internal.common_methods_invocations.op_db` is the table that PyTorch tests itself with.  Each sample is
the arguments of one call; ours gets the same ones, by position and by keyword as torch would.
"""

from __future__ import annotations

import collections
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import as_list

import nanogen as ng
from nanogen import functional as F

IN_TORCH_NN = [
    "cross_entropy", "binary_cross_entropy_with_logits", "relu", "conv_transpose2d", "conv2d", "group_norm",
    "layer_norm", "pad.constant", "pad.reflect", "pad.replicate", "pad.replicate_negative", "pad.circular",
    "interpolate.nearest", "interpolate.nearest-exact", "interpolate.linear", "interpolate.bilinear",
    "interpolate.bicubic", "interpolate.trilinear", "interpolate.area", "leaky_relu", "avg_pool2d", "max_pool2d",
    "linear", "scaled_dot_product_attention", "silu", "silu.complex", "logsigmoid", "batch_norm",
    "batch_norm.without_cudnn", "binary_cross_entropy", "gelu", "l1_loss", "dropout", "one_hot", "embedding",
    "softplus", "mse_loss",
]  # fmt: skip
IN_TORCH = [
    "abs", "add", "mul", "sub", "chunk", "clamp", "cos", "div.no_rounding_mode", "div.trunc_rounding",
    "div.floor_rounding", "exp", "flip", "log1p", "log", "matmul", "max.reduction_with_dim", "max.reduction_no_dim",
    "min.reduction_with_dim", "min.reduction_no_dim", "max.binary", "maximum", "min.binary", "minimum", "softmax",
    "softmax.with_dtype", "neg", "permute", "pow", "sin", "sign", "split", "split.list_args", "tanh", "expm1", "sqrt",
    "square", "reshape", "flatten", "gather", "stack", "cat", "squeeze", "squeeze.multiple", "unsqueeze", "logsumexp",
    "transpose", "sigmoid", "erf", "log_softmax", "log_softmax.with_dtype", "where", "norm", "norm.nuc", "norm.fro",
    "norm.inf", "amax", "amin", "argmax", "mean", "std", "std.unbiased", "var", "var.unbiased", "prod", "sum",
]  # fmt: skip
METHODS = [
    "abs", "add", "mul", "sub", "chunk", "clone", "contiguous", "clamp", "cos", "div.no_rounding_mode",
    "div.trunc_rounding", "div.floor_rounding", "exp", "expand", "expand_as", "eq", "flip", "ge", "gt", "le", "log",
    "lt", "masked_fill", "matmul", "max.reduction_with_dim", "max.reduction_no_dim", "min.reduction_with_dim",
    "min.reduction_no_dim", "max.binary", "maximum", "min.binary", "minimum", "softmax", "softmax.with_dtype", "ne",
    "neg", "permute", "pow", "sin", "split", "split.list_args", "__radd__", "__rdiv__", "__rmul__", "__rmatmul__",
    "__rpow__", "__rsub__", "tanh", "sqrt", "square", "reshape", "view", "view_as", "flatten", "__getitem__", "double",
    "float", "long", "repeat", "squeeze", "squeeze.multiple", "unsqueeze", "logsumexp", "transpose", "sigmoid", "erf",
    "log_softmax", "log_softmax.with_dtype", "where", "norm", "norm.nuc", "norm.fro", "norm.inf", "t", "amax", "amin",
    "argmax", "mean", "std", "std.unbiased", "var", "var.unbiased", "prod", "sum",
]  # fmt: skip

# What torch's signatures have and ours do not, with torch's defaults.  A sample that sets one of these to anything
# else is not a call that our interface has; one that repeats the default is made without it.
FOREIGN: dict[str, Any] = {
    "max_norm": None, "norm_type": 2.0, "padding_idx": None, "scale_grad_by_freq": False, "sparse": False,
    "dropout_p": 0.0, "dtype": None, "alpha": 1, "rounding_mode": None, "unbiased": None, "enable_gqa": False,
    "memory_format": None, "recompute_scale_factor": None,
}  # fmt: skip

# Samples that no keyword marks.
OUTSIDE: dict[str, Callable[[Any], bool]] = {
    "interpolate: a mode that is refused": lambda c: (
        c.name == "interpolate" and c.variant not in ("nearest", "bilinear")
    ),
    "images without a batch, or of another number of axes": lambda c: (
        c.name in ("interpolate", "conv2d", "conv_transpose2d", "avg_pool2d", "max_pool2d") and c.sample.input.ndim != 4
    ),
    "pad: a mode that is refused": lambda c: c.name == "pad" and c.variant.startswith(("circular", "replicate")),
    "a pool's setting that is refused": lambda c: c.name.endswith("_pool2d") and c.pools_otherwise(),
    "norm: a p that is refused": lambda c: (
        c.name == "norm" and any(p == "nuc" or (not isinstance(p, str) and p <= 0) for p in c.p())
    ),
    "batch_norm: an input without an axis for channels": lambda c: c.name == "batch_norm" and c.sample.input.ndim < 2,
    "dropout: draws from torch's generator": lambda c: c.name == "dropout" and c.draws(),
    "var and std: the old unbiased flag by position": lambda c: c.variant == "unbiased",
}


class Case:
    """One sample of one operator."""

    def __init__(self, info: Any, sample: Any):
        self.info, self.sample = info, sample
        self.name, self.variant = info.name.removeprefix("nn.functional."), info.variant_test_name

    def draws(self) -> bool:
        p = self.sample.kwargs.get("p", 0.5)
        return p > 0 and self.sample.kwargs.get("training", True)

    def pools_otherwise(self) -> bool:
        """Whether a setting of a pool is not that which we have alone."""
        f = getattr(F, self.name)
        given = inspect.signature(f).bind(self.sample.input, *self.sample.args, **self.sample.kwargs).arguments
        alone = ("dilation", "ceil_mode", "return_indices", "count_include_pad", "divisor_override")
        defaults = {name: p.default for name, p in inspect.signature(f).parameters.items()}
        return any(name in given and given[name] != defaults[name] for name in alone)

    def p(self) -> list[Any]:
        """The order of a norm, if it is given."""
        return [*self.sample.args[:1], *(self.sample.kwargs[name] for name in ("p",) if name in self.sample.kwargs)]

    def foreign(self) -> dict[str, Any]:
        """The keywords of this sample that our signature does not have."""
        return {k: v for k, v in self.sample.kwargs.items() if k in FOREIGN}

    def skipped(self) -> str | None:
        """Why this sample is no call of ours, if it is none."""
        for name, value in self.foreign().items():
            if isinstance(value, torch.Tensor) or value != FOREIGN[name]:
                return f"{name}="
        return next((reason for reason, holds in OUTSIDE.items() if holds(self)), None)

    def arguments(self, convert: Callable[[Any], Any], method: bool = False) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments as our function takes them."""
        args = [convert(self.sample.input), *map(convert, self.sample.args)]
        if self.name in ("embedding", "where") and not method:
            args[0], args[1] = args[1], args[0]  # op_db gives the differentiable argument first
        return args, {k: convert(v) for k, v in self.sample.kwargs.items() if k not in self.foreign()}


def samples(info: Any) -> Iterator[Case]:
    torch.manual_seed(0)
    integers = info.name == "nn.functional.one_hot"
    dtype = torch.int64 if integers else torch.float64
    # `info.sample_inputs` would also look through the stack and seed all devices for each sample: most of the time
    for sample in info.sample_inputs_func(info, "cpu", dtype, not integers):
        yield Case(info, sample)


def convert_with(leaves: list[tuple[Any, ng.Tensor]], plain: bool) -> Callable[[Any], Any]:
    """Torch's arguments as ours: tensors as tensors, integers and masks as plain arrays if `plain`."""

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            array = value.detach().numpy()
            if plain and array.dtype.kind != "f":
                return array
            x = ng.tensor(array, requires_grad=value.requires_grad)
            if value.requires_grad:
                leaves.append((value, x))
            return x
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        if isinstance(value, tuple | list):
            return (tuple if isinstance(value, tuple) else list)(convert(v) for v in value)
        return value

    return convert


@functools.cache
def infos() -> dict[str, Any]:
    """The table, by operator and variant; imported here, as that takes seconds in each process that collects tests."""
    from torch.testing._internal.common_methods_invocations import op_db

    return {info.full_name: info for info in op_db}


def function(name: str) -> Callable[..., Any]:
    return getattr(F if name.startswith("nn.functional.") else ng, name.split(".")[-1])


def as_method(name: str) -> Callable[..., Any]:
    if name == "__getitem__":
        return lambda x, *key: x[key[0]] if len(key) == 1 else x[key]
    return getattr(ng.Tensor, "__rtruediv__" if name == "__rdiv__" else name)


CALLS = [("function", f"nn.functional.{name}") for name in IN_TORCH_NN] + [("function", name) for name in IN_TORCH]
CALLS += [("method", name) for name in METHODS]
counts: dict[str, collections.Counter[str]] = {"ran": collections.Counter(), "skipped": collections.Counter()}


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:Using padding='same'")
@pytest.mark.parametrize(("way", "name"), CALLS)
def test_values_and_gradients_equal_those_of_torch(way, name):
    """Values within 1e-9, first gradients of a random cotangent within 1e-7 relative, on torch's own samples."""
    info = infos()[name]
    f = as_method(info.name) if way == "method" else function(info.name)
    for number, case in enumerate(samples(info)):
        reason = case.skipped()
        if reason:
            counts["skipped"][f"{case.name}: {reason}"] += 1
            continue
        expected = as_list(info(case.sample.input, *case.sample.args, **case.sample.kwargs))
        leaves: list[tuple[Any, ng.Tensor]] = []
        args, kwargs = case.arguments(convert_with(leaves, plain=number % 2 == 0), way == "method")
        found = as_list(f(*args, **kwargs))
        assert len(found) == len(expected)
        for y, t in zip(found, expected, strict=True):
            assert y.shape == tuple(t.shape), case.sample
            assert y.dtype == t.detach().numpy().dtype, case.sample
            np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=f"sample {number}")
        compare_gradients(found, expected, leaves)
        counts["ran"][f"{way} {info.full_name}"] += 1


def compare_gradients(found: list[ng.Tensor], expected: list[Any], leaves: list[tuple[Any, ng.Tensor]]) -> None:
    pairs = [(y, t) for y, t in zip(found, expected, strict=True) if t.requires_grad]
    if not pairs or not leaves:
        return
    rng = np.random.default_rng(0)
    cotangents = [rng.standard_normal(y.shape) for y, _ in pairs]
    theirs = torch.autograd.grad(
        [t for _, t in pairs], [t for t, _ in leaves], [torch.tensor(c) for c in cotangents], allow_unused=True
    )
    ours = ng.grad([y for y, _ in pairs], [x for _, x in leaves], cotangents, allow_unused=True)
    for (_, x), g, t in zip(leaves, ours, theirs, strict=True):
        a = np.zeros(x.shape) if g is None else g.data
        b = np.zeros(x.shape) if t is None else t.numpy()
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_every_variant_is_listed():
    """All variants of the operators above that PyTorch has."""
    for prefix, names in (("nn.functional.", IN_TORCH_NN), ("", IN_TORCH), ("", METHODS)):
        listed = [prefix + name for name in names]
        operators = {infos()[name].name for name in listed}
        assert sorted(listed) == sorted(name for name, info in infos().items() if info.name in operators)


def test_how_many_samples_ran(record_property):
    """Most of torch's samples are calls that our interface has: at least several hundred went through."""
    ran, skipped = sum(counts["ran"].values()), sum(counts["skipped"].values())
    if len(counts["ran"]) < len(CALLS) // 2:
        pytest.skip("counts what the test above went through, which was not run as a whole")
    record_property("ran", ran)
    record_property("skipped", dict(counts["skipped"]))
    print(f"\n{ran} of torch's samples ran, {skipped} were skipped:")
    for reason, count in sorted(counts["skipped"].items()):
        print(f"  {count:4d}  {reason}")
    assert ran >= 800


SECOND_ORDER = [
    "nn.functional.conv2d",
    "nn.functional.conv_transpose2d",
    "nn.functional.group_norm",
    "nn.functional.silu",
    "nn.functional.silu.complex",
    "softmax",
]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_gradients_equal_those_of_torch(name):
    """The gradient of ⟨vjp(c), d⟩ in the inputs and in c, on torch's own samples, within 1e-7 relative."""
    info, ran = infos()[name], 0
    f = function(info.name)
    for number, case in enumerate(samples(info)):
        if case.skipped():
            continue
        expected = info(case.sample.input, *case.sample.args, **case.sample.kwargs)
        leaves: list[tuple[Any, ng.Tensor]] = []
        args, kwargs = case.arguments(convert_with(leaves, plain=True))
        found = f(*args, **kwargs)
        rng = np.random.default_rng(0)
        c = rng.standard_normal(found.shape)
        directions = [rng.standard_normal(x.shape) for _, x in leaves]
        theirs_c, ours_c = torch.tensor(c, requires_grad=True), ng.tensor(c, requires_grad=True)
        theirs_in, ours_in = [t for t, _ in leaves] + [theirs_c], [x for _, x in leaves] + [ours_c]
        theirs = torch.autograd.grad(expected, theirs_in[:-1], theirs_c, create_graph=True)
        ours = ng.grad(found, ours_in[:-1], ours_c, create_graph=True)
        theirs = sum((g * torch.tensor(d)).sum() for g, d in zip(theirs, directions, strict=True))
        ours = sum(((g * d).sum() for g, d in zip(ours, directions, strict=True)), ng.tensor(0.0))
        second = torch.autograd.grad(theirs, theirs_in, allow_unused=True)
        for a, b, x in zip(ng.grad(ours, ours_in, allow_unused=True), second, ours_in, strict=True):
            one = np.zeros(x.shape) if a is None else a.data
            other = np.zeros(x.shape) if b is None else b.numpy()
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9, err_msg=f"sample {number}")
        ran += 1
    assert ran > 0
