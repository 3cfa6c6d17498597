"""Names and argument orders are torch's: every public function, layer, optimiser and method beside torch's own.

What torch takes is asked of torch: of Python's functions by `inspect`, of built-in ones by the schemas that its
compiler has of them.  An argument by position means the same in both, or is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import nanogen as ng
from nanogen import functional as F
from nanogen import nn, optim

OURS_ALONE = {"rng", "gated"}  # by keyword
BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
# What has no counterpart in torch, or is not meant to be the same.
NOT_TORCHS = {
    "conv2d_weight", "expand", "group_norm_silu", "index", "log_ndtr", "power", "repeat",  # functions
    "AdaptiveGroupNormSiLU", "GroupNormSiLU", "MaskedConv2d", "ExponentialMovingAverage",
}  # fmt: skip
# The schemas of torch's compiler under other names, and Python's functions that hide their arguments.
SCHEMAS = {"logsigmoid": "log_sigmoid"}
HIDDEN = {"max_pool2d": torch.nn.functional._max_pool2d}

Signature = tuple[list[str], set[str], dict[str, Any]]  # by position; by keyword besides; defaults


def of_python(function: Callable[..., Any]) -> Signature:
    parameters = [p for name, p in inspect.signature(function).parameters.items() if name != "self"]
    by_position = [p.name for p in parameters if p.kind in BY_POSITION]
    others = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return by_position, others, {p.name: p.default for p in parameters if p.default is not p.empty}


def of_schema(schema: Any) -> Signature:
    named = [("input" if a.name == "self" else a.name, a) for a in schema.arguments]
    by_position = [name for name, a in named if not a.kwarg_only]
    defaults = {name: a.default_value for name, a in named if a.has_default_value()}
    return by_position, {name for name, a in named if a.kwarg_only}, defaults


def theirs(name: str) -> list[Signature]:
    """Every way to call torch's function of this name."""
    if name in HIDDEN:
        return [of_python(HIDDEN[name])]
    found = [getattr(home, name) for home in (torch.nn.functional, torch) if hasattr(home, name)]
    python = [of_python(f) for f in found if inspect.isfunction(f) and name not in ("sigmoid", "tanh")]
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{SCHEMAS.get(name, name)}") if found else []
    return python or [of_schema(schema) for schema in schemas if "out" not in {a.name for a in schema.arguments}]


def agrees(ours: Signature, torchs: Signature) -> bool:
    """Ours by position is the beginning of torch's, what may follow by position too is torch's by keyword, and what it
    takes by keyword besides is torch's or OURS_ALONE."""
    (first, more, _), (positions, keywords, _) = ours, torchs
    begins = all(a == b for a, b in zip(first, positions, strict=False)) and {*first[len(positions) :]} <= keywords
    return begins and more <= keywords | OURS_ALONE | set(positions)


FUNCTIONS = [name for name in F.__all__ if name not in NOT_TORCHS]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_torchs_takes(name: str) -> None:
    """Some way to call torch's function begins with our arguments, in order and by name, and has our defaults."""
    ours, ways = of_python(getattr(F, name)), theirs(name)
    assert ways, f"torch has no {name}"
    fitting = [way for way in ways if agrees(ours, way)]
    assert fitting, f"{name}{ours[:2]}, torch: {[way[:2] for way in ways]}"
    given = {k: v for k, v in ours[2].items() if k != "correction"}  # None in the schema, 1 where torch documents it
    assert any(all(plain(v) == plain(way[2].get(k, v)) for k, v in given.items()) for way in fitting), ours[2]


def plain(value: Any) -> Any:
    """A default; torch writes [0, 0] for 0, and [] where a stride is the kernel's."""
    value = value[0] if isinstance(value, list | tuple) and value else value
    return None if value == [] else value


def test_every_way_to_be_wrong_is_noticed() -> None:
    """The comparison itself: an argument too early, of another name, one more, and a keyword that torch has not."""
    torchs = (["input", "weight", "bias", "groups"], {"out"}, {})
    assert agrees((["input", "weight"], {"rng"}, {}), torchs)
    for wrong in (["input", "bias"], ["x"], ["input", "weight", "bias", "groups", "dilation"]):
        assert not agrees((wrong, set(), {}), torchs)
    assert not agrees((["input"], {"given"}, {}), torchs)


LAYERS = [name for name, value in vars(nn).items() if inspect.isclass(value) and name not in NOT_TORCHS]
OPTIMIZERS = [
    name
    for name, value in vars(optim).items()
    if inspect.isclass(value) and hasattr(torch.optim, name) and name != "Optimizer"
]


@pytest.mark.parametrize(("home", "torchs", "name"), [
    *((nn, torch.nn, name) for name in LAYERS if name != "Module"),
    *((optim, torch.optim, name) for name in OPTIMIZERS),
])  # fmt: skip
def test_a_class_takes_what_torchs_takes(home: Any, torchs: Any, name: str) -> None:
    """The constructor's arguments by position are the beginning of torch's, with the same defaults."""
    ours, way = of_python(getattr(home, name)), of_python(getattr(torchs, name))
    if name == "Upsample":  # is `interpolate`, which has one more
        ours[0].remove("antialias")
    assert agrees(ours, way), f"{name}{ours[:2]}, torch: {way[:2]}"
    assert {k: v for k, v in ours[2].items() if k in way[2] and v != way[2][k]} == {}


def test_what_a_script_gets_of_the_library_is_there() -> None:
    """What torch's scripts for generative models name: none of it is missing from the tests above."""
    assert {"conv2d", "conv_transpose2d", "cross_entropy", "mse_loss", "dropout", "max_pool2d"} <= set(FUNCTIONS)
    assert {"Conv2d", "ConvTranspose2d", "Embedding", "BatchNorm1d", "ReLU", "CrossEntropyLoss"} <= set(LAYERS)
    assert {"SGD", "Adam", "AdamW", "RMSprop"} <= set(OPTIMIZERS)


METHODS = sorted(
    name for name in vars(ng.Tensor) if hasattr(torch.Tensor, name) and not name.startswith("_") and name != "data"
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_what_torchs_takes(name: str) -> None:
    """By position a method's arguments are the beginning of some way to call torch's method."""
    ours = getattr(ng.Tensor, name)
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    ways = [of_schema(schema)[0] for schema in schemas if "out" not in {a.name for a in schema.arguments}]
    if inspect.isfunction(method := getattr(torch.Tensor, name)):
        ways.append(list(inspect.signature(method).parameters))
    if not inspect.isfunction(ours) or not ways:
        assert name in WITHOUT_SCHEMA, name
        return
    parameters = list(inspect.signature(ours).parameters.values())[1:]
    if name in ("view", "where") or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return  # a primitive, which stands among the functions; or several numbers as one argument
    first = [p.name for p in parameters if p.kind in BY_POSITION]
    assert any(first == way[1 : 1 + len(first)] for way in ways), f"{first}, torch: {ways}"


WITHOUT_SCHEMA = {
    "T", "device", "dtype", "grad", "is_cuda", "ndim", "requires_grad", "shape",  # properties
    "backward", "cpu", "cuda", "double", "float", "int", "item", "long", "numpy", "requires_grad_", "tolist", "bool",
}  # fmt: skip


FOREIGN = {
    "dilation where groups stand": lambda: F.conv_transpose2d(x(1, 2, 4, 4), x(2, 1, 3, 3), None, 1, 0, 0, 3),
    "groups must be": lambda: nn.Conv2d(2, 2, 3, 1, 1, 1, False),
    "ConvTranspose2d: padding_mode": lambda: nn.ConvTranspose2d(2, 2, 3, 1, 0, 0, 1, True, 1, "reflect"),
    "Conv2d: padding_mode": lambda: nn.Conv2d(2, 2, 3, padding_mode="circular"),
    "mode must be 'constant', or 'reflect'": lambda: F.pad(x(2, 2), (1, 1), "replicate"),
    "ceil_mode": lambda: F.avg_pool2d(x(1, 1, 4, 4), 2, None, 0, True),
    "count_include_pad": lambda: nn.AvgPool2d(2, count_include_pad=False)(x(1, 1, 4, 4)),
    "divisor_override=1": lambda: F.avg_pool2d(x(1, 1, 4, 4), 2, divisor_override=1),
    "max_pool2d: ceil_mode": lambda: nn.MaxPool2d(2, ceil_mode=True)(x(1, 1, 4, 4)),
    "max_pool2d: dilation=2": lambda: F.max_pool2d(x(1, 1, 4, 4), 2, dilation=2),
    "BatchNorm1d: track_running_stats=False": lambda: nn.BatchNorm1d(2, track_running_stats=False),
    "recompute_scale_factor": lambda: F.interpolate(x(1, 1, 4, 4), 2, recompute_scale_factor=True),
    "N, C, H, W": lambda: F.interpolate(x(1, 1, 4), 2),
    "padding_idx": lambda: nn.Embedding(4, 2, 0),
    "max_norm": lambda: F.embedding(np.array([1]), x(3, 2), None, 1.0),
    "return_indices": lambda: nn.MaxPool2d(2, None, 0, 1, True)(x(1, 1, 4, 4)),
    "antialias": lambda: F.interpolate(x(1, 1, 4, 4), 2, antialias=True),
    "InstanceNorm2d: track_running_stats": lambda: nn.InstanceNorm2d(3, 1e-5, 0.1, True, True),
    "assign": lambda: nn.Linear(2, 2).load_state_dict({}, True, True),
    "alpha": lambda: x(2).add(x(2), alpha=2),
    "dtype": lambda: F.softmax(x(2, 2), dim=1, dtype=np.float64),
    "dim must be given": lambda: F.softmax(x(2, 2), None),
    "3 were given|too many positional arguments": lambda: F.softmax(x(2, 2), 1, 3),
    "reduction must be": lambda: nn.MSELoss(reduction="average")(x(2), x(2)),
    "mode must be": lambda: nn.Upsample(scale_factor=2, mode="bicubic")(x(1, 1, 2, 2)),
    "positional argument": lambda: ng.tensor([1.0], np.float32),
    "scale|positional": lambda: F.scaled_dot_product_attention(
        x(1, 2, 2), x(1, 2, 2), x(1, 2, 2), None, 0.0, False, 2.0
    ),
}


def x(*shape: int) -> ng.Tensor:
    return ng.Tensor(np.ones(shape))


@pytest.mark.parametrize("word", FOREIGN)
def test_what_torch_has_and_we_have_not_is_refused_by_name(word: str) -> None:
    """An argument of torch's that we lack, or one in another place, is an error that names it, and never something
    else."""
    with pytest.raises((TypeError, ValueError), match=word if word != "dilation where groups stand" else "3 groups"):
        FOREIGN[word]()


@pytest.mark.parametrize(("owner", "name", "says"), [
    (ng, "einsum", "nanogen has no 'einsum'"), (ng, "randon", "rand"),
    (nn, "LSTM", "nanogen.nn has no 'LSTM'; there is"), (nn, "Conv3d", "Conv2d"), (nn, "Transformer", "Linear"),
    (F, "grid_sample", "nanogen.functional has no 'grid_sample'; there is"), (F, "smooth_l1_loss", "l1_loss"),
    (nn.functional, "conv3d", "conv2d"), (ng.tensor([1.0]), "bernoulli", "a tensor has no 'bernoulli'; there is"),
    (ng.tensor([1.0]), "cumsum", "sum"), (ng.tensor([1.0]), "lgamma_", "a tensor has no 'lgamma_'; there is"),
])  # fmt: skip
def test_a_name_that_is_not_there_says_what_is(owner: Any, name: str, says: str) -> None:
    """AttributeError with the owner and names that are close, or all of them; none of them private."""
    with pytest.raises(AttributeError) as error:
        getattr(owner, name)
    assert says in str(error.value)
    listed = str(error.value).partition("there is ")[2].split(", ")
    assert all(hasattr(owner, one) and not one.startswith("_") for one in listed)
    assert not hasattr(owner, name)


def test_special_names_are_missed_quietly() -> None:
    """What Python, copy and NumPy ask an object for is simply not there."""
    for owner in (ng.tensor([1.0]), ng, nn, F):
        with pytest.raises(AttributeError, match=r"__deepcopy__'$"):
            owner.__deepcopy__  # noqa: B018
