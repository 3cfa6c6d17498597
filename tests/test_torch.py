"""PyTorch as the judge: its own operator samples, through our functions of the same names.

`torch.testing._internal.common_methods_invocations.op_db` is the table that PyTorch tests itself with.  Each sample is
the arguments of one call; ours gets the same ones, by position and by keyword as torch would.
"""

from __future__ import annotations

import collections
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import as_list
from torch.testing._internal.common_methods_invocations import op_db

import nanogen as ng
from nanogen import functional as F

IN_TORCH_NN = [
    "conv2d", "conv_transpose2d", "linear", "pad", "interpolate", "avg_pool2d", "max_pool2d", "embedding", "one_hot",
    "group_norm", "batch_norm", "layer_norm", "scaled_dot_product_attention", "relu", "leaky_relu",
    "silu", "gelu", "logsigmoid", "softplus", "dropout", "mse_loss", "l1_loss", "cross_entropy", "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
]  # fmt: skip
IN_TORCH = [
    "sigmoid", "tanh", "softmax", "log_softmax", "add", "sub", "mul", "div", "pow", "neg", "exp", "expm1", "log",
    "log1p", "sqrt", "sign", "abs", "clamp", "maximum", "minimum", "where", "sum", "mean", "var", "amax", "amin",
    "logsumexp", "matmul", "reshape", "permute", "transpose", "flip", "cat", "stack", "split", "gather", "flatten",
    "squeeze", "unsqueeze", "sin", "cos", "square", "erf", "max", "min", "argmax", "std", "prod", "norm", "chunk",
]  # fmt: skip
METHODS = [
    "__radd__", "__rsub__", "__rmul__", "__rdiv__", "__rpow__", "__rmatmul__", "__getitem__", "expand", "view",
    "exp", "log", "sqrt", "abs", "clamp", "maximum", "minimum", "where", "sum", "mean", "var", "amax", "amin",
    "logsumexp", "matmul", "reshape", "permute", "transpose", "flip", "split", "squeeze", "unsqueeze", "flatten",
    "add", "sub", "mul", "div", "pow", "neg", "sigmoid", "tanh", "softmax", "log_softmax", "sin", "cos", "square",
    "erf", "max", "min", "argmax", "std", "prod", "norm", "chunk", "repeat", "t", "clone", "contiguous",
    "masked_fill", "view_as", "expand_as", "eq", "ne", "lt", "le", "gt", "ge", "float", "double", "long",
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
    for sample in info.sample_inputs("cpu", dtype, requires_grad=not integers):
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


def infos(names: list[str], prefix: str = "") -> list[Any]:
    found = [info for info in op_db if info.name in {prefix + name for name in names}]
    assert {info.name for info in found} == {prefix + name for name in names}
    return found


def as_method(name: str) -> Callable[..., Any]:
    if name == "__getitem__":
        return lambda x, *key: x[key[0]] if len(key) == 1 else x[key]
    return getattr(ng.Tensor, "__rtruediv__" if name == "__rdiv__" else name)


FUNCTIONS = [(info, getattr(F, info.name.split(".")[-1])) for info in infos(IN_TORCH_NN, "nn.functional.")]
FUNCTIONS += [(info, getattr(ng, info.name)) for info in infos(IN_TORCH)]
CALLS = [("function", *pair) for pair in FUNCTIONS] + [("method", i, as_method(i.name)) for i in infos(METHODS)]
counts: dict[str, collections.Counter[str]] = {"ran": collections.Counter(), "skipped": collections.Counter()}


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:Using padding='same'")
@pytest.mark.parametrize(("way", "info", "f"), CALLS, ids=[f"{way}-{info.full_name}" for way, info, _ in CALLS])
def test_values_and_gradients_equal_those_of_torch(way, info, f):
    """Values within 1e-9, first gradients of a random cotangent within 1e-7 relative, on torch's own samples."""
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
            np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=1e-9, atol=1e-9, err_msg=str(case.sample))
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


SECOND_ORDER = ["conv2d", "conv_transpose2d", "group_norm", "silu"]


@pytest.mark.parametrize(
    "info", [*infos(SECOND_ORDER, "nn.functional."), *infos(["softmax"])[:1]], ids=lambda i: i.full_name
)
def test_second_order_gradients_equal_those_of_torch(info):
    """The gradient of ⟨vjp(c), d⟩ in the inputs and in c, on torch's own samples, within 1e-7 relative."""
    f, ran = getattr(F, info.name.split(".")[-1]), 0
    for case in samples(info):
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
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9, err_msg=str(case.sample))
        ran += 1
    assert ran > 0
