"""The differentiable operations: their gradients, their definitions, their identities, their errors.

`OPERATIONS` says for each of them how to draw an example; every operation goes through the same checks.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import pkgutil
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
from helpers import Draw, as_list, check_gradients, inner, laid_out, leaf, plain_forms
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogen as ng
from nanogen import autograd
from nanogen import functional as F
from nanogen.autograd import Primitive, Tensor
from nanogen.functional import special
from nanogen.functional.conv import output_size

MODULES = [importlib.import_module(f"nanogen.functional.{m.name}") for m in pkgutil.iter_modules(F.__path__)]
PUBLIC = {name: getattr(module, name) for module in MODULES for name in module.__all__}
PRIMITIVES = {
    value.__name__: value
    for module in [autograd, *MODULES]
    for value in vars(module).values()
    if isinstance(value, Primitive)
}
BY_NAME = PRIMITIVES | PUBLIC

ones = lambda *shape: Tensor(np.ones(shape))
Example = tuple[Callable[..., Any], list[np.ndarray]]  # a function of tensors, and the arrays to put into it
OPERATIONS: dict[str, Callable[[Any, Draw], Example]] = {}


def example(*names: str) -> Callable[[Any], Any]:
    """Declare how to draw an example for operations: `(operation, draw) -> (function, arrays)`."""

    def declare(sample: Callable[[Any, Draw], Example]) -> Callable[[Any, Draw], Example]:
        for name in names:
            OPERATIONS[name] = sample
        return sample

    return declare


def plain(names: str, kind: str = "normal") -> None:
    """Operations of one tensor of any shape without settings."""
    example(*names.split())(lambda f, draw: (f, [draw.array(draw.shape(), kind)]))


plain("exp expm1 tanh sigmoid silu softplus logsigmoid log_ndtr negative neg mean_over_ranks sin cos square erf")
plain("log sqrt log1p", "positive")
plain("abs sign relu", "nonzero")


@example("add", "subtract", "sub", "multiply", "mul")
def _(f, draw):
    shape = draw.shape()
    return f, [draw.array(draw.broadcast(shape)), draw.array(shape)][:: draw.pick([1, -1])]


@example("divide", "div")
def _(f, draw):
    shape = draw.shape()
    return f, [draw.array(draw.broadcast(shape)), draw.array(shape, "nonzero")]


@example("maximum", "minimum")
def _(f, draw):
    shape = draw.shape()
    a = draw.array(draw.broadcast(shape), "distinct")
    return f, [a, draw.array(shape, "distinct") + 0.1]


@example("power", "pow")
def _(f, draw):
    shape = draw.shape()
    if draw.pick([True, False]):
        return f, [draw.array(shape, "positive"), draw.array(draw.broadcast(shape))]
    exponent = draw.pick([0, 1, 2, 3, -1, 0.5, -0.5])
    return lambda x: f(x, exponent), [draw.array(shape, "positive" if exponent % 1 else "nonzero")]


@example("power_constant")
def _(f, draw):
    exponent = draw.pick([0, 1, 2, 3, -2])
    return lambda x: f(x, exponent=exponent), [draw.array(draw.shape(), "nonzero")]


@example("power_tensor")
def _(f, draw):
    shape = draw.shape()
    return f, [draw.array(draw.broadcast(shape), "positive"), draw.array(shape)]


@example("where")
def _(f, draw):
    shape = draw.shape()
    condition = draw.array(draw.broadcast(shape), "nonzero") > 0
    return lambda a, b: f(condition, a, b), [draw.array(draw.broadcast(shape)), draw.array(shape)]


@example("clip", "clamp")
def _(f, draw):
    low, high = draw.pick([(-1.06, 1.06), (None, 0.55), (0.55, None)])
    x = draw.array(draw.shape(), "distinct")
    if draw.pick([True, False]):
        return lambda x: f(x, low, high), [x]
    return lambda x, a: f(x, max=a), [x, np.asarray(0.1 + draw.array(draw.broadcast(x.shape), "distinct"))]


@example("relu_gradient")
def _(f, draw):
    y = draw.array(draw.shape(), "nonzero")
    return lambda g: f(g, y), [draw.array(y.shape)]


@example("leaky_relu")
def _(f, draw):
    slope = draw.pick([(), (0.2,), (1.5,), (-0.5,)])
    return lambda x: f(x, *slope), [draw.array(draw.shape(), "nonzero")]


@example("softmax", "log_softmax")
def _(f, draw):
    x = draw.array(draw.shape())
    dim = draw.number(-max(x.ndim, 1), max(x.ndim, 1) - 1)
    return lambda *xs: f(*xs, dim=dim), [x]


@example("dropout")
def _(f, draw):
    p, seed = draw.pick([0.0, 0.5, 1.0]), draw.number(0, 9)
    return lambda x: f(x, p, rng=ng.Generator(seed)), [draw.array(draw.shape())]


@example("sum", "mean", "var")
def _(f, draw):
    x = draw.array(draw.shape(least=2 if f is F.var else 1 if f is F.mean else 0))
    dim, keepdim, settings = draw.dims(x.ndim), draw.pick([False, True]), {}
    if f is F.var:
        settings = {"correction": 0 if x.ndim == 0 else draw.pick([0, 1])}
    return lambda x: f(x, dim=dim, keepdim=keepdim, **settings), [x]


@example("max", "min")
def _(f, draw):
    x = draw.array(draw.shape((1, 3), least=1), "distinct")
    dim, keepdim = draw.number(-x.ndim, x.ndim - 1), draw.pick([False, True])
    return draw.pick([f, lambda x: f(x, dim, keepdim).values, lambda x: f(x, x[:1] * 0.7331)]), [x]


@example("std")
def _(f, draw):
    x = draw.array(draw.shape((1, 3), least=2), "distinct")
    dim, keepdim, correction = draw.dims(x.ndim), draw.pick([False, True]), draw.pick([0, 1])
    return lambda x: f(x, dim, keepdim=keepdim, correction=correction), [x]


@example("norm")
def _(f, draw):
    x = draw.array(draw.shape((1, 3), least=1), "distinct") * 0.7 + 2.5
    dim, keepdim, p = draw.dims(x.ndim), draw.pick([False, True]), draw.pick(["fro", 2, 1, math.inf, 3, 1.5])
    return lambda x: f(x, p, dim, keepdim), [x]


@example("prod")
def _(f, draw):
    x = draw.array(draw.shape(), draw.pick(["normal", "integer"]))
    dim = draw.pick([None, draw.number(-x.ndim, x.ndim - 1)]) if x.ndim else None
    keepdim = draw.pick([False, True])
    return lambda x: f(x, dim, keepdim), [x]


@example("repeat")
def _(f, draw):
    x = draw.array(draw.shape())
    times = [draw.number(0, 3) for _ in range(x.ndim + draw.number(0, 2))]
    return lambda x: f(x, *times) if times else f(x, ()), [x]


@example("gelu")
def _(f, draw):
    approximate = draw.pick(["none", "tanh"])
    return lambda x: f(x, approximate=approximate), [draw.array(draw.shape())]


@example("amax", "amin")
def _(f, draw):
    x = draw.array(draw.shape(least=1), "distinct")
    dim, keepdim = draw.dims(x.ndim), draw.pick([False, True])
    return lambda x: f(x, dim=dim, keepdim=keepdim), [x]


@example("logsumexp")
def _(f, draw):
    x = draw.array(draw.shape(least=1))
    dim, keepdim = draw.dims(x.ndim), draw.pick([False, True])
    return lambda x: f(x, dim=dim, keepdim=keepdim), [x]


@example("broadcast_to")
def _(f, draw):
    shape = draw.shape()
    return lambda x: f(x, shape=shape), [draw.array(draw.broadcast(shape))]


@example("expand")
def _(f, draw):
    shape = draw.shape()
    x = draw.array(draw.broadcast(shape))
    return lambda x: f(x, shape), [x]


@example("sum_to")
def _(f, draw):
    shape = draw.shape()
    target = draw.broadcast(shape)
    return lambda x: f(x, shape=target), [draw.array(shape)]


@example("cast")
def _(f, draw):
    return lambda x: f(x, dtype=np.dtype("float64")), [draw.array(draw.shape())]


@example("move")
def _(f, draw):
    return lambda x: f(x, device="cpu"), [draw.array(draw.shape())]


@example("reshape", "reshape_to")
def _(f, draw):
    x = draw.array(draw.shape())
    shape = draw.pick([x.shape[::-1], (x.size,), (1, *x.shape)] + ([(-1,), (-1, 1)] if x.size else []))
    return (lambda x: f(x, shape=shape)), [x]


@example("flatten")
def _(f, draw):
    x = draw.array(draw.shape((1, 3)))
    start = draw.number(0, x.ndim - 1)
    end = draw.pick([-1, draw.number(start, x.ndim - 1)])
    return lambda x: f(x, start, end), [x]


@example("squeeze")
def _(f, draw):
    x = draw.array(draw.shape())
    dim = draw.dims(x.ndim)
    return lambda x: f(x, dim), [x]


@example("unsqueeze")
def _(f, draw):
    x = draw.array(draw.shape())
    dim = draw.number(-x.ndim - 1, x.ndim)
    return lambda x: f(x, dim), [x]


@example("permute", "permute_to")
def _(f, draw):
    x = draw.array(draw.shape(draw.pick([(0, 3), (3, 3)])))  # cycles of three are not their own inverse
    dims = tuple(int(i) - draw.pick([0, x.ndim]) for i in draw.rng.permutation(x.ndim))
    return lambda x: f(x, dims=dims), [x]


@example("transpose")
def _(f, draw):
    x = draw.array(draw.shape((1, 3)))
    a, b = draw.number(-x.ndim, x.ndim - 1), draw.number(-x.ndim, x.ndim - 1)
    return lambda x: f(x, a, b), [x]


@example("flip")
def _(f, draw):
    x = draw.array(draw.shape())
    dims = tuple(i for i in range(x.ndim) if draw.pick([True, False]))
    return lambda x: f(x, dims=dims), [x]


@example("cat", "concatenate", "stack")
def _(f, draw):
    shape, dim = draw.shape((1, 3)), draw.pick([0, -1])
    lengths = [draw.number(0, 2) for _ in range(draw.number(1, 3))]
    if f is F.stack:
        return lambda *xs: f(xs, dim), [draw.array(shape) for _ in lengths]
    shapes = [(n, *shape[1:]) if dim == 0 else (*shape[:-1], n) for n in lengths]
    join = (lambda *xs: f(*xs, dim=dim)) if f is PRIMITIVES["concatenate"] else lambda *xs: f(xs, dim)
    return join, [draw.array(s) for s in shapes]


@example("chunk")
def _(f, draw):
    x, chunks = draw.array((draw.number(1, 3), draw.number(0, 7))), draw.number(1, 5)
    return lambda x: f(x, chunks, 1), [x]


@example("split")
def _(f, draw):
    x = draw.array((draw.number(1, 3), draw.number(1, 5)))
    dim = draw.pick([0, 1, -1])
    n = x.shape[dim]
    sizes = draw.pick([1, 2, [n], [1, n - 1], [0, n]])
    return lambda x: f(x, sizes, dim), [x]


KEYS = (
    (slice(1, None), ...),
    (0, slice(None, None, -2)),
    (..., None, -1),
    (np.array([0, 2, 2, -1]),),
    (np.array([[0, 1], [2, 0]]), slice(1, 3)),
    (slice(None), np.array([3, 3, 0]), None),
    (np.array([1, 1, 0]), np.array([3, 3, 2])),
    (np.array([True, False, True]),),
    (np.arange(12).reshape(3, 4) % 5 == 0,),
    (Ellipsis,),
    (slice(0, 0),),
)


@example("index")
def _(f, draw):
    key = draw.pick(KEYS)
    return lambda x: f(x, key=key), [draw.array((3, 4))]


@example("unindex")
def _(f, draw):
    key = draw.pick(KEYS)
    return lambda y: f(y, key=key, shape=(3, 4)), [draw.array(np.zeros((3, 4))[key].shape)]


@example("gather")
def _(f, draw):
    x, dim = draw.array((3, 4)), draw.pick([0, 1, -1])
    places = draw.rng.integers(0, 3, draw.pick([(3, 4), (2, 5) if dim else (5, 2)]))
    return lambda x: f(x, dim, places), [x]


@example("embedding")
def _(f, draw):
    rows = draw.rng.integers(0, 4, draw.shape())
    rows = draw.pick([rows, ng.tensor(rows)])
    return lambda w: f(rows, w), [draw.array((4, 3))]


@example("pad_by")
def _(f, draw):
    widths = tuple((draw.number(-1, 2), draw.number(-1, 2)) for _ in range(2))
    return lambda x: f(x, widths=widths, value=2.0), [draw.array((2, 3))]


@example("pad")
def _(f, draw):
    x = draw.array((2, 2, 3))
    widths = [draw.number(-1, 2) for _ in range(2 * draw.number(0, 3))]
    value = draw.pick([None, 1.5])
    return lambda x: f(x, widths, value=value), [x]


@example("repeat_blocks", "sum_blocks")
def _(f, draw):
    factor, n, c = draw.number(1, 3), draw.number(0, 2), draw.number(1, 2)
    h, w = draw.number(1, 2), draw.number(1, 3)
    size = (h, w) if f is PRIMITIVES["repeat_blocks"] else (h * factor, w * factor)
    return lambda x: f(x, factor=factor), [draw.array((n, c, *size))]


@example("interpolate")
def _(f, draw):
    size = draw.pick([{"size": (2, 7)}, {"size": 6}, {"scale_factor": 2}, {"scale_factor": (0.5, 1.7)}])
    return lambda x: f(x, **size), [draw.array((1, 2, 3, 4))]


@example("matrix_product", "matmul")
def _(f, draw):
    n, m, k = (draw.number(0, 3) for _ in range(3))
    batch = draw.shape((0, 2))
    a, b = draw.array((*draw.broadcast(batch), n, m)), draw.array((*batch, m, k))
    if f is F.matmul and draw.pick([True, False]):
        a = draw.array((m,))
    if f is F.matmul and draw.pick([True, False]):
        b = draw.array((m,))
    return f, [a, b]


@example("linear")
def _(f, draw):
    n, out = draw.number(1, 3), draw.pick([(), (1,), (2,), (3,)])
    arrays = [draw.array((*draw.shape((0, 2)), n)), draw.array((*out, n)), draw.array(out)]
    return f, arrays[: draw.pick([2, 3])]


@example("scaled_dot_product_attention")
def _(f, draw):
    batch, length, sources = draw.shape((0, 2)), draw.number(1, 3), draw.number(1, 3)
    arrays = [draw.array((*batch, n, 2)) for n in (length, sources, sources)]
    if draw.pick([True, False]):
        return lambda q, k, v, mask: f(q, k, v, mask), [*arrays, draw.array((length, sources))]
    mask = np.tri(length, sources, dtype=bool)
    how = draw.pick([{}, {"is_causal": True}, {"attn_mask": mask}, {"scale": 0.3}])
    return lambda q, k, v: f(q, k, v, **how), arrays


REDUCTIONS = ("mean", "sum", "none")


@example("mse_loss", "binary_cross_entropy_with_logits")
def _(f, draw):
    shape, reduction = draw.shape(least=1), draw.pick(REDUCTIONS)
    return lambda x, y: f(x, y, reduction=reduction), [draw.array(shape), draw.array(shape, "positive")]


@example("cross_entropy")
def _(f, draw):
    shape, reduction = draw.shape((1, 3), least=1), draw.pick(REDUCTIONS)
    over = 1 if len(shape) > 1 else 0
    if draw.pick([True, False]):
        return lambda x, y: f(x, y, reduction=reduction), [draw.array(shape), draw.array(shape, "positive")]
    labels = draw.rng.integers(0, shape[over], shape[:over] + shape[over + 1 :])
    return lambda x: f(x, labels, reduction=reduction), [draw.array(shape)]


@example("affine")
def _(f, draw):
    n, out = draw.number(1, 3), draw.number(1, 3)
    return f, [draw.array((*draw.shape((1, 2)), n)), draw.array((out, n)), draw.array((out,))]


@example("attention")
def _(f, draw):
    outer, (queries, keys, depth, width) = draw.shape((0, 2)), (draw.number(1, 3) for _ in range(4))
    sizes = (queries, depth), (keys, depth), (keys, width)
    how = {"mask": None, "scale": 0.7, "dropout_p": 0.0, "rng": None}
    return lambda *xs: f(*xs, **how), [draw.array((*outer, *size)) for size in sizes]


@example("normalize_last")
def _(f, draw):
    n, c = draw.number(1, 3), draw.number(2, 3)
    own = draw.pick([(c,), (n, 1, c)])
    return lambda *xs: f(*xs, dim=(-1,), eps=0.1), [draw.array((n, 2, c)), draw.array(own), draw.array(own)]


@example("label_cross_entropy")
def _(f, draw):
    shape = draw.shape((0, 2))
    labels = draw.rng.integers(0, 4, shape)
    return lambda x: f(x, labels=labels), [draw.array((*shape, 4))]


@example("normalize_groups")
def _(f, draw):
    groups, each = draw.number(1, 2), draw.number(1, 2)
    over_batch = draw.pick([False, True])
    x = draw.array((draw.number(int(over_batch), 2), groups * each, *draw.shape((1, 2), least=2)))
    settings = {"groups": groups, "eps": draw.pick([0.1, 0.01]), "over_batch": over_batch}
    settings["gated"] = draw.pick([False, True])
    own = () if over_batch or draw.pick([True, False]) else x.shape[:1]
    return lambda *xs: f(*xs, **settings), [x, draw.array((*own, x.shape[1])), draw.array((*own, x.shape[1]))]


@example("group_norm", "group_norm_silu")
def _(f, draw):
    x = draw.array((draw.number(0, 2), 4, *draw.shape((1, 2), least=1)))
    groups, own = draw.pick([1, 2]), draw.pick([(), x.shape[:1]])
    weights = [draw.array((*own, 4)), draw.array((*own, 4))] if draw.pick([True, False]) else []
    return lambda x, *affine: f(x, groups, *affine, eps=0.1), [x, *weights]


@example("layer_norm")
def _(f, draw):
    shape = draw.shape((1, 3), least=1)
    last = shape[draw.number(0, len(shape) - 1) :]
    weights = [draw.array(last), draw.array(last)] if draw.pick([True, False]) else []
    return lambda x, *affine: f(x, last, *affine, eps=0.1), [draw.array(shape), *weights]


@example("batch_norm")
def _(f, draw):
    x = draw.array((draw.number(2, 3), 2, *draw.shape((0, 2), least=1)))
    weights = [draw.array((2,)), draw.array((2,))]
    if draw.pick([True, False]):
        return lambda x, w, b: f(x, None, None, w, b, training=True, eps=0.1), [x, *weights]
    mean, variance = draw.array((2,)), draw.array((2,), "positive")
    return lambda x, w, b: f(x, Tensor(mean), Tensor(variance), w, b), [x, *weights]


@example("avg_pool2d")
def _(f, draw):
    kernel = (draw.number(1, 3), draw.number(2, 3))
    stride = draw.pick([None, 1, (2, 1)])
    return lambda x: f(x, kernel, stride, (0, 1)), [draw.array((1, 2, 4, 5))]


def geometry(draw: Draw) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Settings of a convolution, with the sizes of its input, kernel and output."""
    pairs = {"stride": (1, 2), "padding": (0, 2), "dilation": (1, 2)}
    how = {name: (draw.number(*span), draw.number(*span)) for name, span in pairs.items()}
    kernel = (draw.number(1, 3), draw.number(1, 2))
    reach = [d * (k - 1) + 1 - 2 * p for k, p, d in zip(kernel, how["padding"], how["dilation"], strict=True)]
    size = (max(reach[0], 1) + draw.number(0, 2), max(reach[1], 1) + draw.number(1, 3))
    return how, size, kernel, output_size(size, kernel, **how)


@example("convolve", "conv2d")
def _(f, draw):
    how, size, kernel, _ = geometry(draw)
    groups = draw.pick([1, 2, 3]) if f is F.conv2d else 1
    how |= {"groups": groups} if f is F.conv2d else {}
    arrays = [draw.array((draw.number(0, 2), 2 * groups, *size)), draw.array((2 * groups, 2, *kernel))]
    bias = [draw.array((2 * groups,))] if f is F.conv2d else []
    return lambda x, w, *bias: f(x, w, *bias, **how), arrays + bias


@example("add_bias")
def _(f, draw):
    shape = (draw.number(0, 2), draw.number(1, 3), draw.number(1, 3), draw.number(1, 3))
    return f, [draw.array(shape), draw.array(shape[1:2])]


@example("convolve_with_bias")
def _(f, draw):
    how, size, kernel, _ = geometry(draw)
    arrays = [draw.array((draw.number(0, 2), 2, *size)), draw.array((3, 2, *kernel)), draw.array((3,))]
    return lambda *xs: f(*xs, **how), arrays


@example("convolve_adjoint")
def _(f, draw):
    how, size, kernel, places = geometry(draw)
    return lambda y, w: f(y, w, size=size, **how), [draw.array((2, 3, *places)), draw.array((3, 2, *kernel))]


@example("convolve_weight", "conv2d_weight")
def _(f, draw):
    how, size, kernel, places = geometry(draw)
    if f is F.conv2d_weight:
        return lambda x, y: f(x, y, kernel, **how), [draw.array((2, 2, *size)), draw.array((2, 3, *places))]
    return lambda x, y: f(x, y, kernel=kernel, **how), [draw.array((2, 2, *size)), draw.array((2, 3, *places))]


@example("conv_transpose2d")
def _(f, draw):
    how = {"stride": (2, 1), "padding": (draw.number(0, 1), 0), "dilation": (1, draw.number(1, 2))}
    how["output_padding"], how["groups"] = (draw.number(0, 1), 0), draw.pick([1, 2])
    arrays = [draw.array((2, 2, 2, 3)), draw.array((2, 3, 2, 3)), draw.array((3 * how["groups"],))]
    return lambda y, w, b: f(y, w, b, **how), arrays


@example("max_pool2d")
def _(f, draw):
    how = {"stride": draw.pick([None, (2, 1)]), "padding": (draw.number(0, 1), 0)}
    return lambda x: f(x, (2, 3), **how), [draw.array((2, 2, 5, 6), "distinct")]


@example("binary_cross_entropy", "log_loss")
def _(f, draw):
    shape = draw.shape(least=1)
    p, t = (0.5 + 0.3 * np.tanh(draw.array(shape)) for _ in range(2))
    how = {} if f is PRIMITIVES["log_loss"] else {"reduction": draw.pick(["mean", "sum", "none"])}
    return lambda p, t: f(p, t, **how), [np.asarray(p), np.asarray(t)]


@example("l1_loss")
def _(f, draw):
    shape, reduction = draw.shape(least=1), draw.pick(["mean", "sum", "none"])
    x = draw.array(shape, "distinct")
    return lambda x, t: f(x, t, None, None, reduction), [x, x + draw.array(shape, "nonzero")]


WITHOUT_GRADIENT = {"one_hot", "argmax"}


def test_every_operation_is_checked():
    """Every public name and every primitive has an example above, or is known to have no gradient."""
    assert set(BY_NAME) == set(OPERATIONS) | WITHOUT_GRADIENT
    assert all(getattr(ng, name) is operation for name, operation in PUBLIC.items())
    assert all(operation.__doc__ for operation in PUBLIC.values())


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=3 * settings().max_examples // 2)
@given(data=st.data())
def test_gradients_are_those_of_central_differences(name, data):
    """First and second order, over shapes with broadcasting, axes of length 0 and none, and strided memory."""
    f, arrays = OPERATIONS[name](BY_NAME[name], Draw(data))
    check_gradients(f, *arrays, order=2)


@pytest.mark.parametrize("name", OPERATIONS)
@given(data=st.data())
def test_types_layouts_and_inputs_are_left_alone(name, data):
    """float32 in, float32 out and back; the layout of the memory changes no value; no input is written to."""
    f, arrays = OPERATIONS[name](BY_NAME[name], Draw(data))
    plain = [np.array(x, order="C") for x in arrays]
    outputs = [y.data.copy() for y in as_list(f(*[leaf(x) for x in arrays]))]
    for y, again in zip(outputs, as_list(f(*[leaf(x) for x in plain])), strict=True):
        np.testing.assert_allclose(y, again.data, rtol=1e-12, atol=1e-12)
        assert not isinstance(again.data, np.generic)
    assert all(np.array_equal(x, before) for x, before in zip(arrays, plain, strict=True))
    if name not in ("cast", "batch_norm"):  # their examples hold float64 of their own
        singles = [leaf(x.astype(np.float32)) for x in arrays]
        results = as_list(f(*singles))
        assert all(y.dtype == np.float32 for y in results)
        slopes = ng.grad(results, singles, [np.ones(y.shape, np.float32) for y in results], allow_unused=True)
        assert all(g is None or (g.dtype == np.float32 and not isinstance(g.data, np.generic)) for g in slopes)


LINEAR_PAIRS: dict[str, Callable[[Draw], tuple[Any, Any, tuple[int, ...], tuple[int, ...]]]] = {}


def adjoint_pair(draw_pair: Any) -> Any:
    """Declare how to draw a linear map and its adjoint: (A, Aᵀ, the shape of x, the shape of Ax)."""
    LINEAR_PAIRS[draw_pair.__name__] = draw_pair
    return draw_pair


@adjoint_pair
def broadcast_to_and_sum_to(draw):
    shape = draw.shape()
    small = draw.broadcast(shape)
    return lambda x: autograd.broadcast_to(x, shape=shape), lambda y: autograd.sum_to(y, shape=small), small, shape


@adjoint_pair
def index_and_unindex(draw):
    key = draw.pick(KEYS)
    unindex = PRIMITIVES["unindex"]
    places = np.zeros((3, 4))[key].shape
    return lambda x: F.index(x, key=key), lambda y: unindex(y, key=key, shape=(3, 4)), (3, 4), places


@adjoint_pair
def pad_and_cut(draw):
    widths = [draw.number(-1, 2) for _ in range(4)]
    size = (2 + widths[2] + widths[3], 3 + widths[0] + widths[1])
    return lambda x: F.pad(x, widths), lambda y: F.pad(y, [-n for n in widths]), (2, 3), size


@adjoint_pair
def upsample_and_sum_blocks(draw):
    k, h, w = draw.number(1, 3), draw.number(1, 2), draw.number(1, 3)
    repeat_blocks, sum_blocks = PRIMITIVES["repeat_blocks"], PRIMITIVES["sum_blocks"]
    up, down = lambda x: repeat_blocks(x, factor=k), lambda y: sum_blocks(y, factor=k)
    return up, down, (2, 3, h, w), (2, 3, k * h, k * w)


@adjoint_pair
def permute_and_back(draw):
    shape = draw.shape()
    dims = tuple(int(i) for i in draw.rng.permutation(len(shape)))
    back = tuple(int(i) for i in np.argsort(dims))
    return lambda x: F.permute(x, dims), lambda y: F.permute(y, back), shape, tuple(shape[i] for i in dims)


@adjoint_pair
def flip_and_back(draw):
    shape = draw.shape()
    dims = tuple(i for i in range(len(shape)) if draw.pick([True, False]))
    return lambda x: F.flip(x, dims), lambda y: F.flip(y, dims), shape, shape


@adjoint_pair
def sum_and_expand(draw):
    shape = draw.shape((2, 2))
    return lambda x: F.sum(x, 0), lambda y: F.expand(y, shape), shape, shape[1:]


@adjoint_pair
def cat_and_split(draw):
    sizes, dim = [draw.number(0, 2) for _ in range(3)], draw.pick([0, 1, -1])
    shape = (sum(sizes), 3) if dim == 0 else (3, sum(sizes))
    parts = lambda x: F.split(x, sizes, dim)
    swap = lambda x: F.cat(parts(x)[::-1], dim)
    back = lambda y: F.cat(F.split(y, sizes[::-1], dim)[::-1], dim)
    return swap, back, shape, shape


@adjoint_pair
def multiply_by_a_matrix(draw):
    n, m, k = (draw.number(0, 3) for _ in range(3))
    a = draw.array((n, m), "integer")
    return lambda x: F.matmul(a, x), lambda y: F.matmul(a.T, y), (m, k), (n, k)


@adjoint_pair
def gather_and_add(draw):
    places = draw.rng.integers(0, 3, (5, 4))

    def add(y):
        onto = np.zeros((3, 4))
        np.add.at(onto, (places, np.arange(4)), y.data)
        return Tensor(onto)

    return lambda x: F.gather(x, 0, places), add, (3, 4), (5, 4)


@pytest.mark.parametrize("name", LINEAR_PAIRS)
@given(data=st.data())
def test_linear_operations_and_their_adjoints(name, data):
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩, exactly, in small integers; and Aᵀy is the gradient that A hands back for y."""
    draw = Draw(data)
    forward, adjoint, source, result = LINEAR_PAIRS[name](draw)
    x, y = leaf(draw.array(source, "integer")), leaf(draw.array(result, "integer"))
    there, back = forward(x), adjoint(y)
    assert there.shape == result
    assert back.shape == source
    assert inner(there.data, y.data) == inner(x.data, back.data)
    assert np.array_equal(ng.grad(there, x, y.data)[0].data, back.data)
    if back.requires_grad:
        assert np.array_equal(ng.grad(back, y, x.data)[0].data, there.data)


NUMBERS = st.builds(lambda x, exponent: x * 10.0**exponent, st.floats(-9, 9), st.integers(-15, 15))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(number=NUMBERS, shape=st.tuples(st.integers(1, 70), st.integers(1, 9)), dim=st.sampled_from([0, 1, None]))
def test_the_mean_of_equal_numbers_is_that_number(dtype, number, shape, dim):
    """To the last digit, along any axes, of the smallest and the largest; the variance is 0, and what is normalised is
    0 or the bias, also where √eps is small beside the number's last digit."""
    x = np.full(shape, number, dtype)
    assert (F.mean(Tensor(x), dim).data == x.flat[0]).all()
    assert not F.var(Tensor(x), dim, correction=0).data.any()
    assert not F.layer_norm(Tensor(x), shape[1:]).data.any()
    assert F.mse_loss(Tensor(x), 0.0 * x, reduction="mean").item() == np.square(x.flat[0])


def test_the_mean_of_a_hundred_and_relatives():
    """mean = Σ x / n, not Σ x · (1/n), which is off for 7 and 15; its gradient is 1/n to the last digit.  A number
    beside others that are far away counts, a million in a column are one by one, and what is not finite stays."""
    x = leaf(np.full(7, 100, np.float32))
    assert F.mean(x).item() == 100
    assert (ng.grad(F.mean(x), x)[0].data == np.float32(1) / np.float32(7)).all()
    assert (ng.grad(F.mse_loss(x, x.data - 1), x)[0].data == np.float32(2) / np.float32(7)).all()
    assert not F.layer_norm(Tensor(np.full((2, 15), 1e4, np.float32)), (15,)).data.any()
    assert F.mean(Tensor(np.array([1e8, 1.0, -1e8, 1.0], np.float32))).item() == 0.5
    column = Tensor(np.full((10**6, 1), 0.1, np.float32))
    assert F.mean(column, 0).item() == np.float32(0.1)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        for numbers in ([math.inf, 1.0], [-math.inf, 1.0], [math.nan, 1.0], [math.inf, -math.inf]):
            for dtype in (np.float32, np.float64):
                np.testing.assert_equal(F.mean(Tensor(np.array(numbers, dtype))).item(), sum(numbers) / 2)


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_moments_far_from_zero(offset):
    """Mean, variance and normalised numbers in float32 are those of the same numbers in float64: the variance to 1e-6,
    what is normalised to the last digit of the mean, by the standard deviation."""
    x = (offset + np.random.default_rng(0).standard_normal((6, 4, 50))).astype(np.float32)
    exact, digit = x.astype(np.float64), np.spacing(np.float32(offset))
    np.testing.assert_allclose(F.mean(Tensor(x), -1).data, exact.mean(-1), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(F.var(Tensor(x), -1).data, exact.var(-1, ddof=1), rtol=1e-6)
    for over, normalised in (
        ((2,), F.layer_norm(Tensor(x), (50,))),
        ((2,), F.group_norm(Tensor(x), 4)),
        ((0, 2), F.batch_norm(Tensor(x), None, None, training=True)),
    ):
        apart = exact - exact.mean(over, keepdims=True)
        expected = apart / np.sqrt((apart**2).mean(over, keepdims=True) + 1e-5)
        np.testing.assert_allclose(normalised.data, expected, rtol=2e-6, atol=digit + 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["chosen", "plain"])
@given(number=NUMBERS, sizes=st.tuples(*[st.integers(1, 5)] * 4), seed=st.integers(0, 99))
def test_what_does_not_vary_is_normalised_to_the_bias(form, dtype, number, sizes, seed):
    """A group or channel of one number gives (x − mean) · weight / √eps + bias = bias, exactly: by C and by NumPy; the
    running moments are the number and 0.  So does its gradient have a finite value."""
    n, c, h, w = sizes[0] + 1, 2 * sizes[1], *sizes[2:]
    rng = np.random.default_rng(seed)
    numbers = (number * rng.standard_normal(c)).astype(dtype)
    channels = np.broadcast_to(numbers[:, None, None], (n, c, h, w)).copy()
    weight, bias = rng.standard_normal((2, c)).astype(dtype)
    with plain_forms() if form == "plain" else contextlib.nullcontext():
        mean, variance = Tensor(np.ones(c, dtype)), Tensor(np.ones(c, dtype))
        x = leaf(channels)
        for y in (
            F.group_norm(Tensor(np.full((n, c, h, w), number, dtype)), 2, Tensor(weight), Tensor(bias)),
            F.group_norm(x, c, Tensor(weight), Tensor(bias)),
            F.batch_norm(x, mean, variance, Tensor(weight), Tensor(bias), training=True, momentum=1.0),
        ):
            assert (y.data == bias[:, None, None]).all()
        assert np.isfinite(ng.grad(y.sum(), x)[0].data).all()
    assert np.array_equal(mean.data, numbers)
    assert not variance.data.any()


@given(data=st.data())
def test_softmax(data):
    """Rows sum to 1, adding a number to a row changes nothing, however far that moves the rows apart; log_softmax is
    its logarithm and logsumexp its norm; of integers they are what they are of the same floats."""
    draw = Draw(data)
    x = 5 * draw.array(draw.shape((1, 3), least=1))
    dim = draw.number(-x.ndim, x.ndim - 1)
    p = F.softmax(Tensor(x), dim=dim).data
    np.testing.assert_allclose(p.sum(dim), 1.0, rtol=1e-14)
    shifted = Tensor(x + 1000 * draw.rng.standard_normal(p.sum(dim, keepdims=True).shape))
    np.testing.assert_allclose(F.softmax(shifted, dim=dim).data, p, rtol=1e-11)
    np.testing.assert_allclose(F.log_softmax(shifted, dim=dim).data, np.log(p), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(F.log_softmax(Tensor(x), dim=dim).data, np.log(p), rtol=1e-11, atol=1e-12)
    norm = F.logsumexp(Tensor(x), dim, keepdim=True).data
    np.testing.assert_allclose(np.exp(x - norm), p, rtol=1e-12)
    whole = np.rint(x)
    for f in (F.softmax, F.log_softmax):
        same = f(Tensor(whole.astype(int)), dim=dim).data
        np.testing.assert_allclose(same, f(Tensor(whole), dim=dim).data, rtol=1e-12, strict=True)


@given(beta=st.floats(0.05, 20), threshold=st.floats(0, 30))
def test_softplus_of_another_steepness(beta, threshold):
    """log(1 + e^βx)/β with the slope σ(βx), and x itself, with the slope 1, where βx is above the threshold: torch's
    softplus.  Ever closer to relu as β grows."""
    x = np.linspace(-6, 6, 49)
    above = beta * x > threshold
    input = leaf(x)
    found = F.softplus(input, beta, threshold)
    np.testing.assert_allclose(found.data, np.where(above, x, np.log1p(np.exp(beta * x)) / beta), rtol=1e-12)
    (slope,) = ng.grad(found.sum(), [input])
    np.testing.assert_allclose(slope.data, np.where(above, 1, 1 / (1 + np.exp(-beta * x))), rtol=1e-12)
    np.testing.assert_allclose(F.softplus(input, beta).data, np.logaddexp(0, beta * x) / beta, rtol=1e-7)


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_extreme_numbers():
    """No overflow and no NaN where the function itself has a finite value: ±1000 and, for logsumexp, −∞."""
    x = leaf(np.array([-1000.0, -40.0, 0.0, 40.0, 1000.0]))
    assert F.sigmoid(x).data.tolist()[::4] == [0.0, 1.0]
    assert F.logsigmoid(x).data.tolist()[::4] == [-1000.0, 0.0]
    assert F.softplus(x).data.tolist()[::4] == [0.0, 1000.0]
    assert F.silu(x).data.tolist()[::4] == [0.0, 1000.0]
    assert F.logsumexp(x, 0).item() == 1000.0
    assert F.softmax(x, dim=0).data.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    for f in (F.sigmoid, F.logsigmoid, F.softplus, F.silu, F.tanh, F.log_ndtr):
        (g,) = ng.grad(f(x).sum(), x, create_graph=True)
        assert np.isfinite(g.data).all()
        assert np.isfinite(ng.grad(g.sum(), x)[0].data).all()
    loss = F.binary_cross_entropy_with_logits(x, np.array([1.0, 0.0, 1.0, 0.0, 0.0]), reduction="none")
    np.testing.assert_allclose(loss.data, [1000.0, 0.0, math.log(2), 40.0, 1000.0], atol=1e-12)
    for t in (0.0, 1.0):
        certain = leaf(np.array([math.inf, -math.inf]))
        loss = F.binary_cross_entropy_with_logits(certain, np.full(2, t), reduction="none")
        assert loss.data.tolist() == ([0.0, math.inf] if t else [math.inf, 0.0])
        assert ng.grad(loss.sum(), certain)[0].data.tolist() == [1.0 - t, -t]
    nothing = leaf(np.full(3, -np.inf))
    assert F.logsumexp(nothing, 0).item() == -math.inf
    assert ng.grad(F.logsumexp(nothing, 0), nothing)[0].data.tolist() == [0.0, 0.0, 0.0]
    rows = np.array([[-1000.0, -1000.0], [1000.0, 1000.0]])
    np.testing.assert_allclose(F.logsumexp(Tensor(rows), 1).data, rows[:, 0] + math.log(2), rtol=1e-15)
    assert F.logsumexp(Tensor(rows), 1).shape == (2,)
    losses = F.cross_entropy(Tensor(rows + np.array([0.0, 3.0])), np.array([0, 1]), reduction="none").data
    np.testing.assert_allclose(losses, [3 + math.log1p(math.exp(-3)), math.log1p(math.exp(-3))], rtol=1e-12)
    with np.errstate(invalid="ignore"):
        assert math.isnan(F.mean(ones(0)).item())
        assert math.isnan(F.cross_entropy(ones(0, 3), ones(0, 3)).item())
        assert math.isnan(F.cross_entropy(ones(0, 3), np.zeros(0, int)).item())
        assert math.isnan(F.var(ones(1)).item())
        assert math.isnan(F.var(ones(2), correction=5).item())
    for correction in (2, 5):  # as many as there are, and more: the limit from above
        assert F.var(Tensor(np.array([1.0, 3.0])), correction=correction).item() == math.inf
    assert F.pad(Tensor(np.ones(1)), (1, 0), value=-math.inf).data.tolist() == [-math.inf, 1.0]


@pytest.mark.parametrize("form", ["labels", "probabilities", "plain"])
def test_impossible_classes_add_nothing(form):
    """A class of logit −∞, which is not the target, leaves loss and gradient as if it were not there (0 · log 0 = 0);
    as the target its loss is ∞, and the gradient softmax − one_hot all the same; to second order."""
    logits, labels = np.array([[0.5, -1.0, 0.0], [2.0, 0.0, 1.0]]), np.array([1, 0])
    loss_of = {
        "labels": lambda x, t: F.cross_entropy(x, t, reduction="sum"),
        "probabilities": lambda x, t: F.cross_entropy(x, np.eye(x.shape[1])[t], reduction="sum"),
        "plain": lambda x, t: F.loss.label_cross_entropy.plain(x, labels=t).sum(),
    }[form]
    x, y = leaf(logits), leaf(np.insert(logits, 2, -np.inf, axis=1))
    for a in (x, y):
        loss = loss_of(a, labels)
        assert loss.item() == pytest.approx(loss_of(Tensor(logits), labels).item(), rel=1e-14)
        (slope,) = ng.grad(loss, a, create_graph=True)
        (curve,) = ng.grad((slope**3).sum(), a)
        if a is x:
            expected = slope.data, curve.data
    for found, without in zip((slope, curve), expected, strict=True):
        np.testing.assert_allclose(found.data, np.insert(without, 2, 0.0, axis=1), rtol=1e-12, atol=1e-15)
    loss = loss_of(y, np.array([2, 0]))
    assert loss.item() == math.inf
    expected = scipy.special.softmax(y.data, axis=1) - np.eye(4)[[2, 0]]
    np.testing.assert_allclose(ng.grad(loss, y)[0].data, expected, rtol=1e-12, atol=1e-15)


NOT_A_NUMBER = {  # of either library
    "maximum": lambda f, x: f.maximum(x, 0.7 - 3 * x),
    "minimum": lambda f, x: f.minimum(0.7 - 3 * x, x),
    "relu": lambda f, x: f.relu(x),
    "leaky_relu": lambda f, x: getattr(f, "nn", f).functional.leaky_relu(x) if hasattr(f, "nn") else f.leaky_relu(x),
    "where": lambda f, x: f.where(x == x, x, 3 * x),
    "sigmoid": lambda f, x: f.sigmoid(x),
    "tanh": lambda f, x: f.tanh(x),
    "mean": lambda f, x: f.mean(x, 1),
    "var": lambda f, x: f.var(x, 1),
    "sum": lambda f, x: f.sum(x, 1),
    "amax": lambda f, x: f.amax(x, 1),
    "amin": lambda f, x: f.amin(x, 1),
    "logsumexp": lambda f, x: f.logsumexp(x, 1),
    "softmax": lambda f, x: f.softmax(x, 1),
    "log_softmax": lambda f, x: f.log_softmax(x, 1),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", ["chosen", "plain"])
@pytest.mark.parametrize("name", NOT_A_NUMBER)
def test_nan_travels(name, form, dtype):
    """Where a NaN goes in, a NaN comes out and takes the gradient with it: values and gradients of whole rows beside it
    are torch's, by C and by NumPy, in both orders."""
    torch, rtol = pytest.importorskip("torch"), 16 * np.finfo(dtype).eps
    with plain_forms() if form == "plain" else contextlib.nullcontext():
        nan_travels(torch, name, dtype, rtol)


def nan_travels(torch, name, dtype, rtol):
    rows = np.array([[1.0, math.nan, -2.0, 0.5], [0.1, -0.3, 2.0, 0.5], [math.nan] * 4], dtype)
    x, t = leaf(rows), torch.tensor(rows, requires_grad=True)
    ours, theirs = NOT_A_NUMBER[name](F, x), NOT_A_NUMBER[name](torch, t)
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=rtol)
    assert np.isnan(ours.data[0]).any()
    cotangent = 1 + np.arange(ours.data.size, dtype=dtype).reshape(ours.shape)
    (expected,) = torch.autograd.grad(theirs, t, torch.tensor(cotangent))
    for create_graph in (False, True):
        (slope,) = ng.grad(ours, x, cotangent, create_graph)
        np.testing.assert_allclose(slope.data, expected.numpy(), rtol=rtol, atol=rtol)
        assert slope.data[0, 1] != 0


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_beside_a_number_and_among_bounds():
    """max(NaN, 1), max(1, NaN) and both, min too, are NaN and pass the gradient to both, as torch's; abs and sign of
    NaN are NaN, and so is a number clipped by one, whichever of the three it is."""
    for f in (F.maximum, F.minimum):
        a, b = leaf(np.array([math.nan, 1.0, math.nan])), leaf(np.array([1.0, math.nan, math.nan]))
        assert np.isnan(f(a, b).data).all()
        assert [g.data.tolist() for g in ng.grad(f(a, b).sum(), [a, b])] == [[1.0] * 3] * 2
    nan = leaf(np.array(math.nan))
    for y in (F.abs(nan), F.clip(nan, 0.0, 1.0), F.clip(nan, max=1.0), F.clip(nan, min=0.0)):
        assert math.isnan(y.item())
        assert ng.grad(y, nan)[0].item() != 0
    for bounds in ((math.nan, None), (None, math.nan), (math.nan, 2.0), (0.0, math.nan), (np.array(math.nan), 2.0)):
        assert math.isnan(F.clip(Tensor(np.array(1.0)), *bounds).item())
    assert math.isnan(F.sign(nan).item())


def test_a_tie_of_two_shares_the_gradient():
    """The larger takes the gradient, of two that are equal each a half: the mean of the two one-sided ones."""
    a, b = leaf(np.array([1.0, 2.0, 3.0, 4.0])), leaf(np.array([2.0, 2.0, 1.0, 4.0]))
    cotangent = np.array([2.0, 6.0, 5.0, 8.0])
    to_a, to_b = ng.grad(F.maximum(a, b), [a, b], cotangent)
    assert to_a.data.tolist() == [0.0, 3.0, 5.0, 4.0]
    assert to_b.data.tolist() == [2.0, 3.0, 0.0, 4.0]
    to_a, to_b = ng.grad(F.minimum(a, b), [a, b], cotangent)
    assert to_a.data.tolist() == [2.0, 3.0, 0.0, 4.0]
    assert to_b.data.tolist() == [0.0, 3.0, 5.0, 4.0]


@pytest.mark.parametrize("f", [F.amax, F.amin])
def test_ties_over_an_axis_share_the_gradient(f):
    """The largest of k equal elements has the gradient 1/k in each: they sum to 1."""
    x = leaf(np.array([[3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 5.0, 5.0]]))
    (g,) = ng.grad(f(x, dim=1).sum(), x)
    assert g.data[0].tolist() == [0.25] * 4
    assert g.data[1].sum() == 1.0
    assert np.count_nonzero(g.data[1]) == 2


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_gradients_at_kinks_and_bounds():
    """relu and abs have the gradient 0 at 0, leaky_relu its slope of the negative side, at any order; clip passes the
    gradient at its bounds; x⁰ has none at 0."""
    x = leaf(np.array([-1.0, 0.0, 1.0]))
    for create_graph in (False, True):
        slope = lambda f, create_graph=create_graph: ng.grad(f(x).sum(), x, None, create_graph)[0].data.tolist()
        assert slope(F.relu) == [0.0, 0.0, 1.0]
        assert slope(F.leaky_relu) == [0.01, 0.01, 1.0]
        assert slope(F.abs) == [-1.0, 0.0, 1.0]
    assert ng.grad(F.clip(x, -1.0, 0.0).sum(), x)[0].data.tolist() == [1.0, 1.0, 0.0]
    assert ng.grad((x**0).sum(), x)[0].data.tolist() == [0.0, 0.0, 0.0]
    assert ng.grad((x**2).sum(), x)[0].data.tolist() == [-2.0, 0.0, 2.0]
    zero, n = leaf(np.zeros(3)), leaf(np.array([0.0, 2.0, 1.0]))
    to_base, to_exponent = ng.grad(F.power(zero, n), [zero, n], np.full(3, 5.0))  # of 0⁰, 0², 0¹
    assert to_base.data.tolist() == [0.0, 0.0, 5.0]
    assert to_exponent.data.tolist() == [0.0, 0.0, 0.0]
    two, n = leaf(np.full(3, 2.0)), leaf(np.array([0.0, 2.0, -1.0]))
    to_base, to_exponent = ng.grad(F.power(two, n), [two, n], np.full(3, 5.0))
    assert to_base.data.tolist() == [0.0, 20.0, -1.25]
    np.testing.assert_allclose(to_exponent.data, 5 * np.array([1.0, 4.0, 0.5]) * math.log(2), rtol=1e-15)
    assert (ng.tensor([2, 3]) ** 2).dtype.kind == "i"


@pytest.mark.parametrize("form", ["chosen", "plain"])
@given(data=st.data())
def test_normalisation_by_its_equations(form, data):
    """w (x − mean) / √(variance + ε) + b, the moments those of an image's group of channels (Wu & He 2018, eq. 7), or
    of a channel over the batch (Ioffe & Szegedy 2015, algorithm 1); w and b of each channel."""
    draw = Draw(data)
    groups, each, eps = draw.number(1, 3), draw.number(1, 2), draw.pick([0.1, 1e-3])
    x = 2 + 3 * draw.array((draw.number(2, 3), groups * each, 2, 3))
    w, b = draw.array((groups * each,)), draw.array((groups * each,))

    def scaled(over: tuple[int, ...], x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        mean = x.mean(over, keepdims=True)
        variance = ((x - mean) ** 2).mean(over, keepdims=True)
        return w[:, None, None] * ((x - mean) / np.sqrt(variance + eps)).reshape(shape) + b[:, None, None]

    with plain_forms() if form == "plain" else contextlib.nullcontext():
        by_group = scaled((2, 3, 4), x.reshape(len(x), groups, each, 2, 3), x.shape)
        by_batch = scaled((0, 2, 3), x, x.shape)
        found = F.group_norm(Tensor(x), groups, Tensor(w), Tensor(b), eps)
        np.testing.assert_allclose(found.data, by_group, rtol=1e-10, atol=1e-10)
        found = F.batch_norm(Tensor(x), None, None, Tensor(w), Tensor(b), training=True, eps=eps)
        np.testing.assert_allclose(found.data, by_batch, rtol=1e-10, atol=1e-10)


@given(st.data())
def test_group_norm_invariances(data):
    """The output does not change when a group is scaled or shifted, has mean 0 and variance 1, and one group over
    all channels of (N, C) is layer norm, C groups are instance norm (Wu & He 2018, figure 2)."""
    draw = Draw(data)
    groups, each = draw.number(1, 3), draw.number(1, 2)
    x = draw.array((2, groups * each, 3, 4))
    y = F.group_norm(Tensor(x), groups, eps=0.0).data
    scale, shift = np.exp(draw.rng.standard_normal((2, groups, 1))), draw.rng.standard_normal((2, groups, 1))
    moved = (x.reshape(2, groups, -1) * scale + shift).reshape(x.shape)
    np.testing.assert_allclose(F.group_norm(Tensor(moved), groups, eps=0.0).data, y, rtol=1e-9, atol=1e-9)
    by_group = y.reshape(2, groups, -1)
    np.testing.assert_allclose(by_group.mean(-1), 0.0, atol=1e-12)
    np.testing.assert_allclose(by_group.var(-1), 1.0, rtol=1e-12)
    together = F.group_norm(Tensor(x), 1).data
    np.testing.assert_allclose(together, F.layer_norm(Tensor(x), x.shape[1:]).data, rtol=1e-10, atol=1e-10)


@given(st.data())
def test_group_norm_silu_is_the_two(data):
    """silu after group_norm, with weight and bias or one of them or none, where the variance is as small as eps."""
    draw = Draw(data)
    x, weight, bias = Tensor(3e-3 * draw.array((2, 4, 3))), Tensor(draw.array((4,))), Tensor(draw.array((4,)))
    own = Tensor(draw.array((2, 4)))
    for given_ in ((), (weight,), (None, bias), (weight, bias), (weight, bias, 0.1), (own,), (None, own), (own, own)):
        expected = F.silu(F.group_norm(x, 2, *given_))
        np.testing.assert_allclose(F.group_norm_silu(x, 2, *given_).data, expected.data, atol=1e-12)


def test_batch_norm_running_moments():
    """m ← (1 − momentum)·m + momentum·mean, the same for the unbiased variance (Ioffe & Szegedy 2015, algorithm 2);
    with momentum 1, evaluation on the same batch differs from training only by the bias of the variance."""
    rng = np.random.default_rng(0)
    x = Tensor(3 + 2 * rng.standard_normal((4, 2, 3, 5)))
    mean, variance = ng.tensor(np.array([1.0, -1.0])), ng.tensor(np.array([2.0, 3.0]))
    F.batch_norm(x, mean, variance, training=True, momentum=0.25)
    np.testing.assert_allclose(mean.data, 0.75 * np.array([1, -1]) + 0.25 * x.data.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(
        variance.data, 0.75 * np.array([2, 3]) + 0.25 * x.data.var((0, 2, 3), ddof=1), rtol=1e-12
    )
    trained = F.batch_norm(x, mean, variance, training=True, momentum=1.0, eps=0.0)
    evaluated = F.batch_norm(x, mean, variance, eps=0.0)
    np.testing.assert_allclose(evaluated.data * math.sqrt(60 / 59), trained.data, rtol=1e-12)
    mean = ng.tensor([0.0, 0.0])
    F.batch_norm(x, mean, ng.tensor([1.0, 1.0]), training=True)
    np.testing.assert_allclose(mean.data, 0.1 * x.data.mean((0, 2, 3)), rtol=1e-12)
    one = Tensor(x.data[:1])  # a batch of one image has as many values a channel as pixels
    F.batch_norm(one, mean, variance, training=True, momentum=1.0)
    np.testing.assert_allclose(mean.data, one.data.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(variance.data, one.data.var((0, 2, 3), ddof=1), rtol=1e-12)


def test_batch_norm_without_settings():
    """Without weight and bias they are 1 and 0 in the type of the input; one running moment alone does not move."""
    x = Tensor(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    mean, variance = (ng.tensor(np.array(m, np.float32)) for m in ([1.0, -1.0], [2.0, 3.0]))
    y = F.batch_norm(x, mean, variance, eps=0.0)
    assert y.dtype == np.float32
    expected = (x.data - mean.data[:, None]) / np.sqrt(variance.data[:, None])
    np.testing.assert_allclose(y.data, expected, rtol=1e-6)
    for name in ("weight", "bias"):
        assert F.batch_norm(x, mean, variance, **{name: variance}).dtype == np.float32
    alone = F.batch_norm(x, mean, None, training=True)
    assert np.array_equal(alone.data, F.batch_norm(x, None, None, training=True).data)
    assert mean.data.tolist() == [1.0, -1.0]


def test_dropout():
    """Each element is 0 with probability p or divided by 1 − p, so that the mean stays; evaluation is the identity."""
    x = leaf(np.ones(20_000))
    y = F.dropout(x, 0.25, rng=ng.Generator(0))
    assert set(np.unique(y.data)) == {0.0, 1 / 0.75}
    assert abs(y.data.mean() - 1.0) < 0.02
    assert np.array_equal(ng.grad(y.sum(), x)[0].data, y.data)
    assert F.dropout(x, 0.25, training=False) is x
    assert np.array_equal(F.dropout(x, 0.25, rng=ng.Generator(0)).data, y.data)
    assert set(np.unique(F.dropout(x, rng=ng.Generator(0)).data)) == {0.0, 2.0}
    even = types.SimpleNamespace(uniform=lambda shape: np.arange(8) / 8)  # of eight, exactly 8p lie below p
    for k in range(1, 8):
        assert np.count_nonzero(F.dropout(ones(8), k / 8, rng=even).data) == 8 - k
    nothing = F.dropout(leaf(np.ones(3, np.float32)), 1.0, rng=ng.Generator(0))
    assert nothing.requires_grad
    assert nothing.dtype == np.float32
    assert not nothing.data.any()


def test_attention_looks_only_where_it_may():
    """With is_causal, what a query sees does not change when later keys and values do; a masked key has no weight."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 5, 3)) for _ in range(3))
    out = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v), is_causal=True).data
    later = [np.concatenate([a[:, :3], rng.standard_normal((2, 2, 3))], axis=1) for a in (k, v)]
    changed = F.scaled_dot_product_attention(Tensor(q), *map(Tensor, later), is_causal=True).data
    assert np.array_equal(out[:, :3], changed[:, :3])
    assert (out[:, 3:] != changed[:, 3:]).all()
    np.testing.assert_allclose(out[:, 0], v[:, 0], rtol=1e-14)


def test_settings_of_attention():
    """A scale takes the place of 1/√d, so that it may as well be the queries'; dropout is of the weights: with the
    values' matrix 1, what comes out are the weights, each 0 or divided by 1 − p.  Vaswani et al. 2017, sections 3.2.1
    and 5.4."""
    rng = np.random.default_rng(0)
    q, k = Tensor(rng.standard_normal((2, 5, 4))), Tensor(rng.standard_normal((2, 6, 4)))
    eye = Tensor(np.broadcast_to(np.eye(6), (2, 6, 6)))
    weights = F.scaled_dot_product_attention(q, k, eye).data
    np.testing.assert_allclose(weights, F.softmax(q @ k.transpose(-1, -2) / 2.0, dim=-1).data, rtol=1e-12)
    scaled = F.scaled_dot_product_attention(q, k, eye, scale=0.3).data
    np.testing.assert_allclose(scaled, F.scaled_dot_product_attention(q * 0.6, k, eye).data, rtol=1e-12)
    dropped = F.scaled_dot_product_attention(q, k, eye, dropout_p=0.25, rng=ng.Generator(0)).data
    assert 0 < np.count_nonzero(dropped) < dropped.size
    np.testing.assert_allclose(dropped[dropped != 0], weights[dropped != 0] / 0.75, rtol=1e-12)


@pytest.mark.parametrize("n", range(1, 13))
def test_interpolate_takes_the_nearest_pixel(n):
    """Pixel i of m comes from pixel ⌊i·n/m⌋ of n, in exact arithmetic: floats miss a pixel at 49 · (1/49)."""
    x = Tensor(np.arange(float(n)).reshape(1, 1, n, 1))
    for m in (*range(1, 26), 49 * n, 98 * n):
        rows = F.interpolate(x, (m, 2)).data[0, 0, :, 0]
        assert rows.tolist() == [i * n // m for i in range(m)]
    for factor in (2, 3, 49):
        rows = F.interpolate(x, scale_factor=(factor, 1)).data[0, 0, :, 0]
        assert rows.tolist() == [i // factor for i in range(n * factor)]


def test_interpolate_by_a_factor():
    """⌊i / factor⌋ for any factor: 1/10 takes every tenth pixel.

    Both directions by one whole factor are `repeat_blocks`, whose gradient sums blocks; an empty image stays empty."""
    x = Tensor(np.arange(100.0).reshape(1, 1, 100, 1))
    assert F.interpolate(x, scale_factor=(0.1, 1)).data.ravel().tolist() == list(range(0, 100, 10))
    row = Tensor(np.arange(5.0).reshape(1, 1, 1, 5))
    given = {"scale_factor": (1, 0.7)}  # 3 pixels
    assert F.interpolate(row, **given).data.ravel().tolist() == [int(i / 0.7) for i in range(3)] == [0, 1, 2]
    image = leaf(np.arange(12.0).reshape(1, 1, 3, 4))
    for how in ({"size": (6, 8)}, {"scale_factor": 2}, {"scale_factor": (2.0, 2.0)}):
        out = F.interpolate(image, **how)
        assert out.node.primitive is PRIMITIVES["repeat_blocks"]
        assert np.array_equal(out.data, np.kron(image.data, np.ones((2, 2))))
    for how, factors in (({"size": (6, 4)}, (2, 1)), ({"size": (6, 12)}, (2, 3)), ({"size": (7, 8)}, None)):
        out = F.interpolate(image, **how)
        assert out.node.primitive is not PRIMITIVES["repeat_blocks"]
        assert factors is None or np.array_equal(out.data, np.kron(image.data, np.ones(factors)))
    assert F.interpolate(ones(1, 2, 0, 3), (0, 6)).shape == (1, 2, 0, 6)


def test_interpolate_by_a_factor_that_only_the_length_is_a_multiple_of():
    """scale_factor 3.3 makes 6 pixels of 2, the i-th that at ⌊i / 3.3⌋, and not three of each; torch counts by the
    length where it doubles or stays."""
    for n, factor in [(2, 3.3), (2, 4.49), (3, 3.1), (1, 2.9), (2, 2.3), (3, 1.2), (5, 3.0), (3, 2.0)]:
        m = int(n * factor)
        step = n / m if m in (n, 2 * n) else 1 / factor
        row = F.interpolate(ng.tensor(np.arange(float(n)).reshape(1, 1, 1, n)), scale_factor=(1, factor)).data.ravel()
        both = F.interpolate(ng.tensor(np.arange(1.0, n * n + 1).reshape(1, 1, n, n)), scale_factor=factor).data[0, 0]
        assert row.tolist() == [int(i * step + 1e-12) for i in range(m)]
        assert both.tolist() == [[1.0 + n * a + b for b in row] for a in row]


@given(st.data())
def test_interpolate_between_pixels(data):
    """`bilinear` leaves what is linear in the pixels' places linear, those being (i + ½)·n/m − ½, no further out than
    the first and the last, or with align_corners i·(n − 1)/(m − 1)."""
    draw = Draw(data)
    sizes, targets = [draw.number(1, 4) for _ in range(2)], [draw.number(1, 6) for _ in range(2)]
    slopes, align = draw.array((2,)), draw.pick([True, False])
    places = []
    for n, m in zip(sizes, targets, strict=True):
        i = np.arange(m)
        places.append(i * (n - 1) / max(m - 1, 1) if align else np.clip((i + 0.5) * n / m - 0.5, 0, n - 1))

    def plane(grids):
        return sum(s * g for s, g in zip(slopes, np.meshgrid(*grids, indexing="ij"), strict=True))[None, None]

    image = ng.tensor(plane([np.arange(float(n)) for n in sizes]))
    found = F.interpolate(image, targets, None, "bilinear", align).data
    np.testing.assert_allclose(found, plane(places), rtol=1e-10, atol=1e-10)


@given(st.data())
def test_padding_from_inside(data):
    """`reflect` is NumPy's, and a width below 0 cuts off."""
    draw = Draw(data)
    x = draw.array(draw.shape((1, 3), least=2))
    most = x.shape[-1] - 1
    ends = (draw.number(-1, most), draw.number(0, most))
    expected = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(max(ends[0], 0), ends[1])], "reflect")[..., max(-ends[0], 0) :]
    assert np.array_equal(F.pad(ng.tensor(x), ends, "reflect").data, expected)
    with pytest.raises(ValueError, match=f"pad: reflect takes widths up to {most} for"):
        F.pad(ng.tensor(x), (0, most + 1), "reflect")


def test_places_that_gather_takes():
    """Without axes an input counts as one element, an empty index gives an empty result, an index may be shorter beside
    `dim` and not longer, and a place that is not there is a ValueError: torch's rules."""
    x = leaf(np.arange(6.0).reshape(2, 3))
    assert F.gather(ng.tensor(5.0), 0, np.array(0)).data.shape == ()
    assert F.gather(ng.tensor(5.0), -1, np.array([0, 0])).data.tolist() == [5.0, 5.0]
    assert F.gather(ng.tensor([5.0, 7.0]), 0, np.array(1)).data == 7.0
    for shape in ((0,), (0, 3), (2, 0), (0, 9, 9)):
        assert F.gather(x, 0, np.zeros(shape, int)).shape == shape
    assert F.gather(x, -1, np.array([[2, 2, 0, 1]])).data.tolist() == [[2.0, 2.0, 0.0, 1.0]]
    (slope,) = ng.grad(F.gather(x, 0, np.array([[1], [1], [1]])).sum(), x)
    assert slope.data.tolist() == [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]
    (slope,) = ng.grad(F.gather(one := leaf(np.float64(2.0)), 0, np.array([0, 0])).sum(), one)
    assert slope.data == 2.0
    for dim, index, says in [(0, [[0] * 4], "beside 0"), (1, [[0]] * 3, "beside 1"), (0, [0], "does not fit"),
                             (0, [[2]], "index must be in 0 … 1"), (1, [[-1]], "index must be in 0 … 2"),
                             (2, [[0]], "dim 2 is out of range")]:  # fmt: skip
        with pytest.raises(ValueError, match=says):
            F.gather(x, dim, np.array(index))
    with pytest.raises(TypeError, match="index must be integers"):
        F.gather(x, 0, np.array([[True, False]]))
    with pytest.raises(ValueError, match="embedding: input must be in 0 … 1"):
        F.embedding(np.array([-1]), x)


def test_nothing_to_do():
    """No axes are no axes, not all of them; nothing to pad is no copy; an empty axis splits into one empty part."""
    x = Tensor(np.arange(6.0).reshape(1, 2, 3))
    assert F.squeeze(x, ()).shape == (1, 2, 3)
    assert np.array_equal(F.flip(x, ()).data, x.data)
    assert F.pad(x, (0, 0)) is x
    assert [part.shape for part in F.split(ones(0, 3), 2)] == [(0, 3)]
    assert F.one_hot(np.zeros(0, int), 3).shape == (0, 3)
    assert F.one_hot(np.zeros(0, int), 1).shape == (0, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_axes_of_no_elements(dtype):
    """As in torch: log Σ eˣ of nothing is −∞, softmax and log_softmax have nothing to say, a normalised nothing is
    nothing, moves no running moment and has the gradient 0 in weight and bias."""
    none = leaf(np.zeros((2, 0), dtype))
    assert F.logsumexp(none, 1).data.tolist() == [-math.inf] * 2
    assert F.logsumexp(none, (0, 1), keepdim=True).data.tolist() == [[-math.inf]]
    assert F.logsumexp(none, 1).dtype == dtype
    assert ng.grad(F.logsumexp(none, 1).sum(), none)[0].shape == (2, 0)
    assert F.logsumexp(none, 0).shape == F.amax(none, 0).shape == F.amin(none, 0).shape == (0,)
    for f in (F.softmax, F.log_softmax):
        assert f(none, dim=1).shape == f(none, dim=0).shape == (2, 0)
    assert F.layer_norm(none, (0,)).shape == (2, 0)
    for shape in ((0, 3), (4, 0), (0, 3, 2, 2), (4, 3, 0)):
        c = shape[1]
        mean, variance = Tensor(np.full(c, 5, dtype)), Tensor(np.full(c, 7, dtype))
        weight, bias = leaf(np.ones(c, dtype)), leaf(np.ones(c, dtype))
        y = F.batch_norm(Tensor(np.zeros(shape, dtype)), mean, variance, weight, bias, training=True)
        assert y.shape == shape
        assert (y.dtype, mean.data.tolist(), variance.data.tolist()) == (dtype, [5] * c, [7] * c)
        assert [g.data.tolist() for g in ng.grad(y.sum(), [weight, bias])] == [[0] * c] * 2


def test_what_is_left_out():
    """Settings left out are torch's: cat along the first axis, losses as means; a number beside float32 is float32."""
    a, b = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    assert np.array_equal(F.cat([Tensor(a), Tensor(b)]).data, np.concatenate([a, b]))
    assert F.mse_loss(Tensor(a), b).item() == pytest.approx(31 / 6, rel=1e-15)
    p = 1 / (1 + np.exp(-a))
    assert F.binary_cross_entropy_with_logits(Tensor(a), b).item() == pytest.approx(-np.log(p).mean(), rel=1e-12)
    log_p = a - np.log(np.exp(a).sum(1, keepdims=True))
    assert F.cross_entropy(Tensor(a), np.array([2, 0])).item() == pytest.approx(-(log_p[0, 2] + log_p[1, 0]) / 2)
    assert F.binary_cross_entropy_with_logits(Tensor(np.float32(2.0)[...]), 1.0).dtype == np.float32
    assert F.leaky_relu(Tensor(-a)).data.tolist() == (-0.01 * a).tolist()
    x = np.array([-1.0, 20.0, 20.5])
    assert F.softplus(Tensor(x)).data.tolist() == [math.log1p(math.exp(-1.0)), 20 + math.log1p(math.exp(-20.0)), 20.5]


@pytest.mark.parametrize("key", [
    [2, 0], [], [True, False, True], ([2, 0], [1, 1]), (slice(None), [3, 0, 0]), (slice(None), (0, 0)), ((1, 1),),
    ((0, 0), (1, 1)), (None, (2, 2, 2)), (..., (1, 1)), (range(2), 1), (slice(None), ()), ((0, 0), slice(1, 3)),
    (((0, 0), (1, 0)),), (1, (2, 2)), (np.int64(1), [2, 2]), (slice(2), np.array([1, 1])), ((True, False, True), 0),
])  # fmt: skip
def test_lists_as_indices(key):
    """A list or, in a tuple, a tuple of places or of bools is what it is to NumPy: a place that is named twice has
    twice the gradient; the empty one names no place."""
    x = leaf(np.arange(12.0).reshape(3, 4))
    out = x[key]
    as_array = lambda part: (
        np.asarray(part, int if len(part) == 0 else None) if isinstance(part, list | tuple) else part
    )
    here = tuple(map(as_array, key)) if isinstance(key, tuple) else as_array(key)
    assert np.array_equal(out.data, x.data[here])
    counts = np.zeros((3, 4))
    np.add.at(counts, here, 1)
    assert np.array_equal(ng.grad(out.sum(), x)[0].data, counts)


OF_NUMPY = {
    "stack": (lambda xp, x, y: xp.stack([x, y], axis=1), lambda x, y: F.stack([x, y], 1)),
    "concatenate": (lambda xp, x, y: xp.concatenate((x, y)), lambda x, y: F.cat([x, y])),
    "where": (lambda xp, x, y: xp.where(x > y, x, 2.0), lambda x, y: F.where(x > y, x, 2.0)),
    "clip": (lambda xp, x, y: xp.clip(x, -0.5, None), lambda x, y: F.clip(x, -0.5)),
    "reshape": (lambda xp, x, y: xp.reshape(x, (2, -1)), lambda x, y: x.reshape(2, -1)),
    "transpose": (lambda xp, x, y: xp.transpose(x), lambda x, y: x.permute(1, 0)),
    "dot": (lambda xp, x, y: xp.dot(x, xp.transpose(y)), lambda x, y: x @ y.transpose(0, 1)),
    "dot with a number": (lambda xp, x, y: xp.dot(3.0, x), lambda x, y: 3.0 * x),
    "sum": (lambda xp, x, y: xp.sum(x, axis=0), lambda x, y: x.sum(0)),
    "mean": (lambda xp, x, y: xp.mean(x), lambda x, y: x.mean()),
    "mean over axes": (lambda xp, x, y: xp.mean(x, axis=(0, 1), keepdims=True), lambda x, y: x.mean((0, 1), True)),
    "max": (lambda xp, x, y: xp.max(x, axis=1), lambda x, y: F.amax(x, dim=1)),
    "min": (lambda xp, x, y: xp.min(x), lambda x, y: F.amin(x)),
}


@pytest.mark.parametrize("name", OF_NUMPY)
def test_numpys_functions_of_tensors(name):
    """np.f of tensors has the numbers that np.f has of arrays, and the gradients of nanogen's own f."""
    theirs, ours = OF_NUMPY[name]
    rng = np.random.default_rng(0)
    x, y = leaf(rng.standard_normal((3, 4))), leaf(rng.standard_normal((3, 4)))
    out, expected = theirs(np, x, y), ours(x, y)
    assert isinstance(out, Tensor)
    np.testing.assert_allclose(out.data, theirs(np, x.data, y.data), rtol=1e-15)
    g = rng.standard_normal(out.shape)
    for one, other in zip(
        ng.grad(out, [x, y], g, allow_unused=True), ng.grad(expected, [x, y], g, allow_unused=True), strict=True
    ):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one.data, other.data)


@pytest.mark.parametrize("call", [
    lambda x: np.linalg.norm(x), lambda x: np.einsum("ij->i", x), lambda x: np.var(x), lambda x: np.split(x, 2),
    lambda x: np.mean(x, dtype=float), lambda x: np.vstack([x, x]), lambda x: np.exp(x), lambda x: np.add(x, 1.0),
    lambda x: np.dot(x, np.ones((2, 4, 1))), lambda x: np.linalg.svd(x),
])  # fmt: skip
def test_no_gradient_is_lost_to_numpy(call):
    """A function of NumPy's that nanogen has not in this form is refused for what requires a gradient; without one it
    is NumPy's, of the numbers, unless it is a ufunc."""
    x = leaf(np.arange(8.0).reshape(2, 4))
    with pytest.raises(TypeError, match=r"gradient|ufunc|at most two axes|conversion to a NumPy array"):
        call(x)


def test_numpys_functions_of_numbers():
    """Where no gradient can be lost, NumPy's functions see the numbers: shapes, truths, places, and what needs none."""
    x = leaf(np.arange(8.0).reshape(2, 4))
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((2, 4), 2, 8)
    assert np.argmax(x) == 7
    assert np.allclose(x, x.data)
    assert np.array_equal([x, x], [x.data, x.data])
    assert [a.tolist() for a in np.where(x > 6)] == [[1], [3]]
    assert np.var(x.detach()) == x.data.var()


@pytest.mark.parametrize(("terms", "digits"), [(8, 3), (16, 6), (32, 12), (48, 14)])
def test_weidemans_series(monkeypatch, terms, digits):
    """exp(x²) erfc(x) is SciPy's, to more digits the more terms there are.  Weideman 1994, eq. 38 and table I."""
    half_width, coefficients = special._weideman_coefficients(terms)
    assert half_width == math.sqrt(terms / math.sqrt(2))
    assert len(coefficients) == terms
    monkeypatch.setattr(special, "_L", half_width)
    monkeypatch.setattr(special, "_COEFFICIENTS", coefficients)
    x = np.concatenate([np.linspace(0, 8, 200), 10.0 ** np.arange(1, 9)])
    np.testing.assert_allclose(special.erfcx(x), scipy.special.erfcx(x), rtol=10.0**-digits)


def test_one_hot():
    """one_hot(labels)[…, k] is 1 where the label is k and 0 elsewhere, as integers."""
    y = F.one_hot(np.array([[2, 0], [1, 1]]), 4)
    assert y.shape == (2, 2, 4)
    assert y.dtype == np.int64
    assert np.array_equal(y.data, np.eye(4, dtype=int)[[[2, 0], [1, 1]]])
    assert F.one_hot(ng.tensor([0, 2])).shape == (2, 3)


def test_methods_are_the_functions():
    """Tensors have the operations as methods and operators, with torch's two ways of giving several numbers."""
    x = ng.tensor(np.arange(1.0, 7.0).reshape(1, 2, 3))
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == x.view(3, -1).shape == x.reshape([3, 2]).shape == (3, 2)
    assert x.permute(2, 0, 1).shape == x.permute((2, 0, 1)).shape == x.permute(dims=(2, 0, 1)).shape == (3, 1, 2)
    assert np.array_equal(x.flip(0, 2).data, x.flip((0, 2)).data)
    assert np.array_equal(x.flip(2).data, x.flip(-1).data)
    assert x.squeeze(0).unsqueeze(-1).flatten(0, 1).shape == (6, 1)
    assert x.expand(4, -1, -1).shape == x.expand((4, 2, 3)).shape == (4, 2, 3)
    assert x.transpose(-1, 0).shape == (3, 2, 1)
    assert ng.tensor(5.0).reshape(()).permute().shape == ()
    pairs = [
        (abs(-x), x),
        (x.add(x), 2 * x),
        (x.sub(1.0), x - 1),
        (x.mul(2.0), x + x),
        (x.div(2.0), x / 2),
        (x.pow(2), x * x),
        (x.neg(), -x),
        (x.clamp(min=2.0), F.maximum(x, 2.0)),
        (x.where(x > 2.0, 0.0), F.where(x > 2.0, x, 0.0)),
        (2.0**x, F.exp(x * math.log(2.0))),
        (x[0] @ x[0].transpose(0, 1), F.matmul(x[0], x[0].permute(1, 0))),
        (x[0].sum(0, keepdim=True), x.sum(1)),
    ]
    for one, other in pairs:
        np.testing.assert_allclose(one.data, other.data, rtol=1e-14)
    assert ((x == x) & ~(x != x) | (x < 0)).data.all()
    assert (Tensor(np.array([0.1], np.float32)) == 0.1).data.all()  # the number is rounded as the tensor was


ERRORS: dict[str, Callable[[], Any]] = {
    "dropout: p must be in": lambda: F.dropout(ones(2), 1.5),
    "clip: give min": lambda: F.clip(ones(2)),
    "dim 2 is out of range": lambda: F.sum(ones(2, 3), 2),
    "dim -3 is out of range": lambda: F.softmax(ones(2, 3), dim=-3),
    r"amax: dim must name axes with elements, got 1 for shape \(2, 0\)": lambda: F.amax(ones(2, 0), 1),
    r"amin: dim must name axes with elements, got None for shape \(0,\)": lambda: F.amin(ones(0)),
    r"amax: dim must name axes with elements, got \(0, 1\) for": lambda: F.amax(ones(2, 0), (0, 1)),
    "dim names an axis twice": lambda: F.mean(ones(2, 3), (0, -2)),
    "dim must be axes": lambda: F.var(ones(2, 3), True),
    "matmul: needs at least one axis": lambda: F.matmul(ones(), ones(2)),
    "linear: input of shape": lambda: F.linear(ones(2, 3), ones(3, 2)),
    "scaled_dot_product_attention: give attn_mask or is_causal, not both": lambda: F.scaled_dot_product_attention(
        ones(2, 3), ones(2, 3), ones(2, 3), np.ones((2, 2), bool), is_causal=True
    ),
    "reduction must be": lambda: F.mse_loss(ones(2), ones(2), reduction="max"),
    "binary_cross_entropy_with_logits: target must have the shape": lambda: F.binary_cross_entropy_with_logits(
        ones(2), ones(2, 1)
    ),
    "cross_entropy: probabilities must have shape": lambda: F.cross_entropy(ones(2, 3), ones(3, 2)),
    "cross_entropy: target of shape": lambda: F.cross_entropy(ones(2, 3), np.zeros(3, int)),
    "cross_entropy: labels must be in 0 … 2": lambda: F.cross_entropy(ones(2, 3), np.array([0, 3])),
    "one_hot: labels must be in 0 … 1": lambda: F.one_hot(np.array([0, 2]), 2),
    "one_hot: labels must be in": lambda: F.one_hot(np.array([0, -1])),
    "one_hot: input must be integers": lambda: F.one_hot(np.array([0.5])),
    "embedding: input must be integers": lambda: F.embedding(np.array([True, False]), ones(2, 3)),
    "embedding: weight must be": lambda: F.embedding(np.array([0]), ones(2)),
    "group_norm: input of shape": lambda: F.group_norm(ones(2, 3, 4), 2),
    r"group_norm: input of shape \(3,\) has": lambda: F.group_norm(ones(3), 1),
    r"group_norm: input of shape \(2, 3\) has no channels for 0": lambda: F.group_norm(ones(2, 3), 0),
    "group_norm: weight and bias must have": lambda: F.group_norm(ones(2, 4, 4), 2, ones(3)),
    r"group_norm: .* shape \(4,\) or \(2, 4\), got \(2, 4\) and \(4,\)": lambda: F.group_norm(
        ones(2, 4, 4), 2, ones(2, 4), ones(4)
    ),
    r"batch_norm: weight and bias must have shape \(3,\), got \(2, 3\)": lambda: F.batch_norm(
        ones(2, 3), ones(3), ones(3), ones(2, 3)
    ),
    "batch_norm: evaluation needs": lambda: F.batch_norm(ones(2, 3), None, None),
    "batch_norm: evaluation needs running_mean and": lambda: F.batch_norm(ones(2, 3), ones(3), None),
    "batch_norm: weight and bias must have": lambda: F.batch_norm(ones(2, 3), ones(3), ones(3), ones(2)),
    "batch_norm: training needs more": lambda: F.batch_norm(ones(1, 3), None, None, training=True),
    "batch_norm: running moments must": lambda: F.batch_norm(ones(2, 3), ones(1), ones(3)),
    "batch_norm: input must be": lambda: F.batch_norm(ones(3), ones(3), ones(3)),
    "layer_norm: input of shape": lambda: F.layer_norm(ones(2, 3), (2,)),
    "cannot reshape array of size 6": lambda: F.reshape(ones(2, 3), 4),
    "cat: give at least one": lambda: F.cat([]),
    "stack: give tensors of one shape": lambda: F.stack([ones(2), ones(3)]),
    "split: sizes": lambda: F.split(ones(4), [1, 2]),
    "split: split_size_or_sections must be": lambda: F.split(ones(4), 0),
    "dim 5 is out of range": lambda: F.split(ones(4), 1, 5),
    "dim 3 is out of range": lambda: F.stack([ones(2)], 3),
    "dim -2 is out of range": lambda: F.flip(ones(2), -2),
    "dim 1 is out of range": lambda: F.transpose(ones(2), 0, 1),
    "gather: index of shape": lambda: F.gather(ones(2, 3), 0, np.array([0])),
    "pad: mode must be": lambda: F.pad(ones(2), (1, 1), mode="mirror"),
    "pad: needs pairs": lambda: F.pad(ones(2), (1, 1, 1, 1)),
    r"pad: \(-2, -1\) cuts off more": lambda: F.pad(ones(2), (-2, -1)),
    "pad: needs pairs for at most 2 axes": lambda: F.pad(ones(2, 3), [1] * 6),
    "dim 2 is out of range for a tensor of 2 axes": lambda: F.unsqueeze(ones(2), 2),
    "negative dimensions are not allowed": lambda: F.expand(ones(3), (-1, 3)),
    r"zip\(\) argument 2 is (shorter|longer)": lambda: F.expand(ones(2, 3), (3,)),
    r"zip\(\) argument 2 is longer": lambda: F.interpolate(ones(1, 1, 2, 2), (2, 2, 2)),
    r"zip\(\) argument 2 is shorter": lambda: F.interpolate(ones(1, 1, 2, 2), scale_factor=(2,)),
    r"one_hot: input must be integers, got 0": lambda: F.one_hot(np.zeros(0, int)),
    "interpolate: mode must be": lambda: F.interpolate(ones(1, 1, 2, 2), 4, mode="bicubic"),
    "interpolate: give either": lambda: F.interpolate(ones(1, 1, 2, 2)),
    "operands could not be broadcast": lambda: ones(2) + ones(3),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_what_is_wrong(message):
    """Wrong shapes and settings raise ValueError (TypeError for a wrong kind of thing) with what was given."""
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        ERRORS[message]()


@given(st.data())
def test_layouts_are_what_they_say(data):
    """The arrays that these tests use do lie in memory as named: strided, transposed and backwards."""
    draw = Draw(data)
    x = draw.array(draw.shape((2, 3), least=2))
    for layout in ("contiguous", "transposed", "strided", "reversed"):
        y = laid_out(x, layout)
        assert np.array_equal(x, y)
        assert y.flags.c_contiguous == (layout == "contiguous")
        assert (min(y.strides) < 0) == (layout == "reversed")


@given(st.data())
def test_cross_entropy_does_not_care_which_class_is_called_1(data):
    """BCE(p, t) = BCE(1 − p, 1 − t), the logit of 1 − p being minus that of p; far out too, where a clip on one side
    would show."""
    draw = Draw(data)
    shape = (draw.number(1, 3), draw.number(1, 4))
    x, t = 300.0 * draw.array(shape), 0.5 + 0.5 * np.tanh(draw.array(shape))
    one = F.binary_cross_entropy_with_logits(ng.tensor(x), t, reduction="none").data
    other = F.binary_cross_entropy_with_logits(ng.tensor(-x), 1 - t, reduction="none").data
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)
    assert (one >= 0).all()
    assert np.isfinite(one).all()


@given(st.data())
def test_batch_mates(data):
    """Group norm, and batch norm in evaluation, treat each image alone; batch norm in training does not.

    Wu & He 2018, section 3; Ioffe & Szegedy 2015, algorithm 2."""
    draw = Draw(data)
    x, weight, bias = draw.array((4, 6, 3, 2)), draw.array((6,)), draw.array((6,))
    moments = lambda: (ng.tensor(np.linspace(-1, 1, 6)), ng.tensor(np.linspace(0.5, 2, 6)))
    alone = {
        "group": lambda x: F.group_norm(x, 3, weight, bias).data,
        "batch, evaluation": lambda x: F.batch_norm(x, *moments(), weight, bias, training=False).data,
    }
    for f in alone.values():
        np.testing.assert_allclose(f(ng.tensor(x))[1:2], f(ng.tensor(x[1:2])), rtol=1e-12, atol=1e-12)
    together = lambda x: F.batch_norm(x, None, None, np.ones(6), np.zeros(6), training=True).data
    others = x.copy()
    others[0] = others[0] * 3 + np.arange(6).reshape(6, 1, 1)
    assert not np.allclose(together(ng.tensor(x))[1:], together(ng.tensor(others))[1:])
