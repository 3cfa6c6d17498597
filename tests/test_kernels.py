"""Every kernel against the plain form of its operation, over one table of samples: values, gradients, what it declines.

A kernel that is registered and not in the table fails here, and so does one that declines every sample.  CUDA kernels
run on the stand-in for CuPy (`strict`), thread by thread.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import laid_out, leaf, plain_forms
from strict import device

import nanogen as ng
from nanogen.autograd import Composite, Primitive, Tensor
from nanogen.backend import OPERATIONS, Update, use_threads


class Sample(NamedTuple):
    """Arrays, in float64, of which floating-point ones are converted to the type at hand; and parameters."""

    name: str
    arrays: list[Any]
    parameters: dict[str, Any]


TABLE: dict[str, Callable[[np.random.Generator], list[Sample]]] = {}
# The samples that a kernel declines, as a pattern of their names: what it says no to, the plain form does.
DECLINES: dict[str, dict[str, str]] = {}


def samples(*names: str, declines: str = "", on_cuda: str | None = None) -> Callable[[Any], Any]:
    def declare(make: Any) -> Any:
        for name in names:
            TABLE[name] = make
            DECLINES[name] = {"cpu": declines, "cuda": declines if on_cuda is None else on_cuda}
        return make

    return declare


@samples("relu", "silu", declines="integers")
def _(rng):
    special = np.array([-np.inf, -90.0, -1.0, 0.0, 1.0, 90.0, np.inf])
    shapes = [(), (0, 3), (1,), (3, 2), (2, 3, 4, 5), (20000,)]
    return [
        *(Sample(f"shape {shape}".replace(" ", ""), [rng.normal(size=shape)], {}) for shape in shapes),
        Sample("special", [special[1:]], {}), Sample("nan", [np.array([1.0, np.nan, -1.0])], {}),
        Sample("integers", [np.arange(-3, 4)], {}),
    ]  # fmt: skip


@samples("gate", declines="integers|odd|empty")
def _(rng):
    special, most = np.array([-np.inf, -90.0, -1e-6, 0.0, 1.0, 9.0, 90.0, np.inf]), {"empty": (0, 4, 3), "odd": (2, 1)}
    shapes = most | {"rows": (3, 2), "images": (2, 6, 4, 5), "maps": (3, 70, 5), "large": (2, 32, 20, 20)}
    return [
        *(Sample(name, [2 * rng.normal(size=shape)], {}) for name, shape in shapes.items()),
        Sample("special", [np.stack(np.meshgrid(special, special[1:-1]), 1)], {}),
        Sample("nan", [np.array([[np.nan, 1.0]])], {}), Sample("integers", [np.arange(6).reshape(1, 6)], {}),
    ]  # fmt: skip


@samples("lstm", declines="integers|odd|empty|broadcast")
def _(rng):
    shapes = {"empty": (0, 8, 3), "odd": (2, 6), "rows": (3, 4), "images": (2, 12, 4, 5), "large": (2, 64, 20, 20)}
    pairs = {name: (shape, (shape[0], shape[1] // 2, *shape[2:])) for name, shape in shapes.items()}
    pairs["broadcast"] = (3, 8, 2), (1, 4, 2)
    return [
        *(Sample(name, [2 * rng.normal(size=shape) for shape in pair], {}) for name, pair in pairs.items()),
        Sample("integers", [np.arange(8).reshape(1, 8), np.arange(4).reshape(1, 4)], {}),
    ]


@samples("add", declines="integers|small|broadcast")
def _(rng):
    shapes = {
        "small": 2 * [(3, 4)],
        "large": 2 * [(16, 32, 8, 8)],
        "broadcast": [(8, 64, 64), (64,)],
        "flat": 2 * [(40000,)],
    }
    made = [Sample(name, [rng.normal(size=shape) for shape in pair], {}) for name, pair in shapes.items()]
    special = np.array([np.nan, np.inf, -np.inf, 1e308] * 10000)
    return [*made, Sample("special", [special, special[::-1]], {}), Sample("integers", 2 * [np.arange(40000)], {})]


@samples("leaky_relu", declines="integers")
def _(rng):
    slopes = [0.01, 1.5, -0.5]
    return [
        *(Sample(f"slope{slope}", [rng.normal(size=(2, 3, 4, 5))], {"negative_slope": slope}) for slope in slopes),
        *(Sample(f"of{n}", [rng.normal(size=n)], {"negative_slope": 0.2}) for n in (0, 1, 20000)),
        Sample("integers", [np.arange(-3, 4)], {"negative_slope": 0.2}),
    ]


@samples("relu_gradient")
def _(rng):
    with_nan = np.array([1.0, np.nan, 0.0, -0.0, 2.0])
    shapes = [(0,), (1,), (2, 3, 4, 5), (20000,)]
    made = [Sample(f"of{np.prod(s)}", [rng.normal(size=s), np.maximum(rng.normal(size=s), 0)], {}) for s in shapes]
    return [*made, Sample("nan", [np.arange(1.0, 6), with_nan], {})]


@samples("matrix_product", declines="integers")
def _(rng):
    n = lambda *shape: rng.integers(-4, 5, shape).astype(float)
    shapes = {  # a million multiplications are where pieces begin
        "large": ((128, 96), (96, 128)), "deep": ((20, 4096), (4096, 24)), "wide": ((16, 64), (64, 2000)),
        "tall": ((3000, 32), (32, 17)), "stack": ((3, 80, 90), (3, 90, 70)), "one-for-all": ((4, 70, 80), (80, 90)),
        "small": ((99, 100), (100, 100)), "one-column": ((2000, 600), (600, 1)), "few-numbers": ((1, 255), (255, 5000)),
        "broadcast": ((2, 1, 80, 90), (3, 90, 70)), "one-for-many": ((80, 90), (3, 90, 70)),
    }  # fmt: skip
    return [
        *(Sample(name, [n(*a), n(*b)], {}) for name, (a, b) in shapes.items()),
        Sample("transposed", [n(96, 128).T, n(150, 96).T], {}),
        Sample("integers", [np.arange(40000).reshape(200, 200)] * 2, {}),
    ]


@samples("gelu", declines="integers|exact")
def _(rng):
    how = {"approximate": "tanh"}
    special = np.array([-90.0, -1.0, 0.0, 1.0, 90.0])
    return [
        *(Sample(f"of{n}", [2 * rng.normal(size=n)], how) for n in (0, 1, 20000)),
        Sample("image", [rng.normal(size=(2, 3, 4, 5))], how), Sample("special", [special], how),
        Sample("integers", [np.arange(-3, 4)], how), Sample("exact", [special], {"approximate": "none"}),
    ]  # fmt: skip


@samples("affine", declines="empty|vector|number|integers|odd-bias")
def _(rng):
    n = lambda *shape: rng.integers(-4, 5, shape).astype(float)
    shapes = {"rows": ((5, 3), (4, 3)), "tokens": ((2, 5, 3), (4, 3)), "images": ((2, 3, 4, 5), (6, 5)),
              "number": ((3,), (2, 3)), "large": ((3, 400, 64), (48, 64)), "empty": ((0, 3), (2, 3)),
              "few": ((5, 300), (290, 300)), "odd-groups": ((517, 3), (4, 3)),
              "vector": ((2, 3), (3,))}  # fmt: skip
    made = [Sample(name, [n(*x), n(*w), n(*w[:-1])], {}) for name, (x, w) in shapes.items()]
    return [
        *made, Sample("no-bias", [n(2, 5, 3), n(4, 3), np.array(0.0)], {}),
        Sample("odd-bias", [n(5, 3), n(4, 3), n(1)], {}), Sample("integers", [np.ones((2, 3), int)] * 2 + [n(2)], {}),
    ]  # fmt: skip


@samples("gated_residual", declines="empty|two|shared|other|integers")
def _(rng):
    shapes = {
        "tokens": (2, 5, 3), "one": (1, 1, 1), "large": (4, 40, 64), "single": (3, 1, 4), "channel": (2, 5, 1),
        "empty": (0, 5, 3),
    }  # fmt: skip
    gates = {name: (shape[0], 1, shape[2]) for name, shape in shapes.items()}
    of = lambda *all: [rng.normal(size=shape) for shape in all]
    return [
        *(Sample(name, of(shape, gates[name], shape), {}) for name, shape in shapes.items()),
        Sample("two", of((2, 3), (1, 3), (2, 3)), {}), Sample("shared", of((2, 5, 3), (1, 1, 3), (2, 5, 3)), {}),
        Sample("other", of((2, 5, 3), (2, 1, 3), (2, 1, 3)), {}),
        Sample("integers", [np.ones(shape, int) for shape in ((2, 5, 3), (2, 1, 3), (2, 5, 3))], {}),
    ]  # fmt: skip


@samples("attention", declines="empty|five|shared|integers|dropout|learned-mask")
def _(rng):
    how = {"mask": None, "scale": 0.7, "dropout_p": 0.0, "rng": None}

    def one(name: str, outer: tuple[int, ...], sizes: tuple[int, int, int, int], **more: Any) -> Sample:
        queries, keys, depth, width = sizes
        arrays = [rng.normal(size=(*outer, n, d)) for n, d in ((queries, depth), (keys, depth), (keys, width))]
        return Sample(name, arrays, how | more)

    seen, bias = np.arange(15).reshape(3, 5) % 4 > 0, rng.normal(size=(2, 1, 1, 5))
    shared = one("shared", (2, 2), (3, 5, 4, 2))
    shared.arrays[1] = shared.arrays[1][:1]
    return [
        one("heads", (2, 3), (4, 5, 3, 2)), one("images", (3,), (4, 5, 3, 2)), one("single", (), (4, 5, 3, 2)),
        one("one-key", (2, 2), (3, 1, 4, 4)), one("one-query", (2, 2), (1, 6, 1, 1)),
        one("large", (4, 2), (33, 40, 16, 16)),
        one("far", (2, 1), (4, 5, 3, 2), scale=200.0), one("no-scale", (1, 1), (4, 5, 3, 2), scale=0.0),
        one("seen", (2, 2), (3, 5, 4, 2), mask=Tensor(seen)), one("bias", (2, 2), (3, 5, 4, 2), mask=Tensor(bias)),
        one("column", (2, 2), (3, 5, 4, 2), mask=Tensor(rng.normal(size=(3, 1)))),
        one("empty", (2, 2), (0, 5, 4, 2)), shared,
        one("five", (1, 2, 2), (3, 5, 4, 2)), one("dropout", (2, 2), (3, 5, 4, 2), dropout_p=0.5, rng=ng.Generator(0)),
        one("learned-mask", (2, 2), (3, 5, 4, 2), mask=leaf(bias)),
        Sample("integers", [np.ones((1, 1, 2, 2), int)] * 3, how),
    ]  # fmt: skip


@samples("label_cross_entropy", declines="empty")
def _(rng):
    def one(name: str, *shape: int) -> Sample:
        return Sample(name, [3 * rng.normal(size=shape)], {"labels": rng.integers(0, shape[-1], shape[:-1])})

    far = np.array([[-np.inf, 0.0, 80.0], [5.0, -80.0, -np.inf]])
    return [
        one("rows", 5, 7), one("images", 2, 3, 4, 10), one("one-class", 4, 1), one("many", 300, 40), one("single", 6),
        one("empty", 0, 3), Sample("far", [far], {"labels": np.array([2, 1])}),
    ]  # fmt: skip


GEOMETRIES = {  # kernel, image, stride, padding, dilation
    "3x3": ((3, 3), (6, 5), (1, 1), (1, 0), (1, 1)), "strides": ((3, 3), (6, 7), (2, 1), (1, 0), (1, 1)),
    "dilated": ((3, 2), (6, 5), (1, 1), (1, 1), (2, 1)), "pixel": ((1, 1), (4, 3), (1, 1), (0, 0), (1, 1)),
    "padded-pixel": ((1, 1), (4, 4), (1, 1), (1, 0), (1, 1)), "whole": ((4, 5), (4, 5), (1, 1), (1, 0), (1, 1)),
    "beyond": ((3, 3), (6, 5), (1, 1), (1, 3), (1, 1)), "4x4": ((4, 4), (9, 8), (2, 2), (1, 0), (1, 1)),
    "4x4-padded": ((4, 4), (6, 7), (2, 2), (0, 3), (1, 1)), "over": ((2, 1), (6, 7), (3, 2), (1, 1), (1, 1)),
    "4x4-stride-1": ((4, 4), (6, 7), (1, 1), (1, 1), (1, 1)), "one-pixel": ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
}  # fmt: skip
CHANNELS = [(2, 3), (40, 1), (1, 40), (31, 33), (32, 33)]  # tiles from 32 on both sides


def convolutions(rng: np.random.Generator) -> Iterator[tuple[str, Any, Any, Any, dict[str, Any]]]:
    """Names, images, kernels and outputs of small integers, of which sums are exact in any order."""
    n = lambda *shape: rng.integers(-3, 4, shape).astype(float)
    for (name, (kernel, size, stride, padding, dilation)), (c, o) in itertools.product(GEOMETRIES.items(), CHANNELS):
        how = {"stride": stride, "padding": padding, "dilation": dilation}
        for images, more in ((3, 0), (0, 0), (2, 1)) if (c, o) in CHANNELS[::4] else ((3, 0),):
            places = tuple(m + more for m in ng.functional.conv.output_size(size, kernel, **how))
            label = f"{name}-{c}-{o}" + ("-wider" if more else "") + ("-none" if not images else "")
            yield label, n(images, c, *size), n(o, c, *kernel), n(images, o, *places), how


@samples("convolve", declines=".*-none")
def _(rng):
    return [Sample(s, [x, w], {**how, "size": y.shape[2:]}) for s, x, w, y, how in convolutions(rng)]


@samples("convolve_with_bias", declines=".*-none")
def _(rng):
    bias = np.arange(40.0)
    return [Sample(s, [x, w, bias[: len(w)]], {**how, "size": y.shape[2:]}) for s, x, w, y, how in convolutions(rng)]


@samples("convolve_adjoint", declines=".*-none")
def _(rng):
    return [Sample(s, [y, w], {**how, "size": x.shape[2:]}) for s, x, w, y, how in convolutions(rng)]


@samples("convolve_weight", declines=".*-none")
def _(rng):
    return [Sample(s, [x, y], {**how, "kernel": w.shape[2:]}) for s, x, w, y, how in convolutions(rng)]


@samples("normalize_groups", declines="empty|groups-over-the-batch")
def _(rng):
    made = []
    for shape, groups, over_batch, gated, own in [
        ((2, 4, 3, 2), 2, False, False, False), ((3, 6, 5), 3, False, True, False), ((2, 4, 3), 4, False, True, True),
        ((1, 3, 1, 2), 1, False, False, True), ((40, 64, 4, 4), 8, False, True, False),
        ((3, 4), 2, False, False, False),
        ((3, 4, 2, 3), 4, True, False, False), ((70, 32, 4, 4), 32, True, True, False), ((5, 3), 3, True, False, False),
        ((0, 4, 2, 2), 2, False, False, False), ((3, 4, 2, 2), 2, True, False, False),
    ]:  # fmt: skip
        name = (
            "empty" if 0 in shape else "groups-over-the-batch" if over_batch and groups < shape[1] else str(len(made))
        )
        affine = (shape[0], shape[1]) if own else shape[1:2]
        arrays = [2 + 3 * rng.normal(size=shape), rng.normal(size=affine), rng.normal(size=affine)]
        how = {"groups": groups, "eps": 1e-2, "over_batch": over_batch, "gated": gated, "moments": None}
        made.append(Sample(name, arrays, how))
    return made


@samples("normalize_last", declines="empty|two-axes|number|other-weights")
def _(rng):
    def one(name: str, shape: tuple[int, ...], own: tuple[int, ...], dim: tuple[int, ...] = (-1,)) -> Sample:
        arrays = [2 + 3 * rng.normal(size=shape), rng.normal(size=own), rng.normal(size=own)]
        return Sample(name, arrays, {"dim": dim, "eps": 1e-2})

    return [
        one("row", (7,), (7,)), one("rows", (3, 7), (7,)), one("own", (3, 7), (3, 7)), one("tokens", (2, 5, 6), (6,)),
        one("images", (2, 5, 6), (2, 1, 6)), one("large", (16, 32, 40), (16, 1, 40)), one("one", (2, 3, 1), (2, 1, 1)),
        one("images-of-rows", (2, 3, 2, 6), (2, 1, 1, 6)), one("empty", (0, 3), (3,)), one("number", (2, 3), ()),
        one("two-axes", (2, 3, 4), (3, 4), (-2, -1)), one("other-weights", (2, 3, 4), (3, 4)),
    ]  # fmt: skip


@samples("moments_of", declines="empty|integers")
def _(rng):
    shapes = [(2, 3), (1, 1, 1), (4, 3, 2, 5), (70, 32, 4, 4)]
    return [
        *(Sample(f"shape{len(s)}", [5 + rng.normal(size=s)], {}) for s in shapes),
        Sample("empty", [np.zeros((2, 3, 0))], {}), Sample("integers", [np.arange(12).reshape(2, 3, 2)], {}),
    ]  # fmt: skip


def lists(rng: np.random.Generator, many: int) -> list[list[Any]]:
    """Arrays of many shapes, also none and one number, and more of them than a launch takes."""
    shapes = [(), (0, 2), (1,), (3, 4), (2, 3, 3, 3), (5,), (6, 7), (9000,), (2, 1), (20, 1000)]
    return [[rng.uniform(0.1, 1, s) for s in shapes] for _ in range(many)]


@samples("adam", declines="mixed")
def _(rng):
    how = {"betas": (0.9, 0.99), "eps": 1e-3, "correction": 1.5, "rate": 0.1}
    mixed = lists(rng, 4)
    mixed[0][1] = mixed[0][1].astype(np.float16)
    return [
        Sample("many", lists(rng, 4), how),
        Sample("one", [one[3:4] for one in lists(rng, 4)], how),
        Sample("mixed", mixed, how),
    ]


@samples("moving_average", declines="mixed")
def _(rng):
    mixed = lists(rng, 2)
    mixed[0][1] = mixed[0][1].astype(np.float16)
    how = {"kept": 0.75, "share": 0.5}
    return [
        Sample("many", lists(rng, 2), how),
        Sample("one", [one[3:4] for one in lists(rng, 2)], how),
        Sample("mixed", mixed, how),
    ]


TOLERANCE = {np.float32: 3e-5, np.float64: 1e-11}  # of the largest number
DEVICES = {"cpu": contextlib.nullcontext, "cuda": device.installed}
BY_NAME = {operation.__name__: operation for operation in OPERATIONS if operation.kernels}


def registered(on: str) -> list[str]:

    return sorted(o.__name__ for o in OPERATIONS if on in o.kernels and (o.__module__ or "").startswith("nanogen."))


@pytest.mark.parametrize("on", DEVICES)
def test_every_kernel_is_in_the_table(on):
    """A kernel without samples would be tied to nothing."""
    assert registered(on)
    assert set(registered(on)) <= set(TABLE)


CASES = [
    pytest.param(on, name, id=f"{on}-{name}", marks=pytest.mark.stand_in if on == "cuda" else ())
    for on in DEVICES for name in registered(on) if name in TABLE
]  # fmt: skip
MANY = 40  # samples, of which each has one of the layouts; fewer have all
LAYOUTS = {"cpu": ("contiguous", "transposed", "strided"), "cuda": ("contiguous", "transposed")}


@pytest.mark.parametrize(("on", "name"), CASES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
def test_a_kernel_is_its_plain_form(on, name, dtype):
    """Values, types and shapes, and the gradients of all inputs or of one, are those of the plain form, whatever the
    memory layout; inputs stay as they are; and a kernel declines just what the table says."""
    operation = next(o for o in OPERATIONS if o.__name__ == name and on in o.kernels)
    samples, taken = TABLE[name](np.random.default_rng(0)), set()
    with DEVICES[on](), use_threads(2), np.errstate(all="ignore"):
        for i, sample in enumerate(samples):
            layouts = LAYOUTS[on][: 1 if isinstance(operation, Update) else None]
            for layout in layouts if len(samples) < MANY else layouts[i % len(layouts) :][:1]:
                arrays = [put(array, dtype, layout, on) for array in sample.arrays]
                if on == "cuda" and "labels" in sample.parameters:
                    sample.parameters["labels"] = device._device(sample.parameters["labels"])
                check = check_update if isinstance(operation, Update) else check_operation
                if check(operation, on, arrays, sample, TOLERANCE[dtype]):
                    taken.add(sample.name)
    names = {sample.name for sample in samples}
    assert names - taken == {one for one in names if re.fullmatch(DECLINES[name][on], one)}
    assert taken


def put(array: Any, dtype: type, layout: str, on: str) -> Any:
    """The array, or each of a list, of a type, in a memory layout, on a device."""
    if isinstance(array, list):
        return [put(one, dtype, layout, on) for one in array]
    array = np.asarray(array, dtype if array.dtype == np.float64 else array.dtype)
    if array.ndim == 4 and layout == "transposed":  # channels last
        array = np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    else:
        array = laid_out(array, layout).astype(array.dtype) if layout == "contiguous" else reordered(array, layout)
    return device._device(array) if on == "cuda" else array


def reordered(array: np.ndarray, layout: str) -> np.ndarray:
    found = laid_out(array, layout)
    return found if found.dtype == array.dtype else relaid(found, array.dtype)


def relaid(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """In another type, with strides in the same order and gaps where there were some."""
    base = np.zeros([2 * n + 1 for n in array.shape], dtype) if array.ndim else np.zeros((), dtype)
    there = base[tuple(slice(0, 2 * n, 2) for n in array.shape)] if array.ndim else base
    there[...] = array
    return there


def host(array: Any) -> Any:
    return array.get() if isinstance(array, device.ndarray) else np.asarray(array)


def assert_near(found: Any, expected: Any, tolerance: float, what: str) -> None:
    found, expected = host(found), host(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def check_operation(operation: Any, on: str, arrays: list[Any], sample: Sample, tolerance: float) -> bool:
    """Whether the kernel took the sample, after what it gave was compared."""
    forward, gradient = operation.kernels[on]
    before = [host(array).copy() for array in arrays]
    found = forward(*arrays, **sample.parameters)
    if found is NotImplemented:
        return False
    output, saved = found if gradient else (found, None)
    if not isinstance(operation, Primitive):  # of raw arrays
        expected = operation.plain(*arrays, **sample.parameters)
        for a, b in zip(output, expected, strict=True) if isinstance(expected, tuple) else [(output, expected)]:
            assert_near(a, b, tolerance, sample.name)
        return True
    with plain_forms():
        inputs = [Tensor(array) for array in arrays]
        for x in inputs:
            x.requires_grad = x.dtype.kind == "f"
        expected = operation(*inputs, **sample.parameters)
        assert_near(output, expected.data, tolerance, sample.name)
        if gradient and isinstance(operation, Primitive | Composite):
            g = np.random.default_rng(1).integers(-2, 3, expected.shape).astype(expected.dtype)
            g = put(g, g.dtype.type, LAYOUTS[on][1], on)
            exact = ng.grad(expected, inputs, Tensor(g))
            every = [True] * len(inputs)
            choices = [every, *([i == j for j in range(len(inputs))] for i in range(len(inputs)))]
            for wanted in choices if len(inputs) > 1 else [every]:
                slopes = gradient(g, saved, *arrays, wanted=wanted, **sample.parameters)
                for slope, ours, want in zip(slopes, exact, wanted, strict=True):
                    if want:
                        assert_near(slope, ours.data, tolerance * 4, f"{sample.name}, gradient")
    for array, old in zip(arrays, before, strict=True):
        assert np.array_equal(host(array), old, equal_nan=True)
    return True


def check_update(operation: Any, on: str, arrays: list[Any], sample: Sample, tolerance: float) -> bool:
    expected = [[host(array).copy() for array in one] for one in arrays]
    operation.plain(*expected, **sample.parameters)
    if operation.kernels[on][0](*arrays, **sample.parameters) is NotImplemented:
        return False
    for one, other in zip(arrays, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            assert_near(a, b, tolerance, sample.name)
    return True


@pytest.mark.parametrize("on", DEVICES)
@pytest.mark.parametrize("name", ["convolve", "convolve_adjoint", "convolve_with_bias"])
def test_no_gradient_is_computed_that_nobody_asked_for(on, name):
    """A convolution's kernel answers None for what is not wanted: a first layer's images, a frozen layer's weights."""
    operation = next(o for o in OPERATIONS if o.__name__ == name and on in o.kernels)
    with DEVICES[on]():
        for sample in TABLE[name](np.random.default_rng(0)):
            if sample.name in ("3x3-2-3", "3x3-32-33"):
                arrays = [put(array, np.float64, "contiguous", on) for array in sample.arrays]
                output, saved = operation.kernels[on][0](*arrays, **sample.parameters)
                for i in range(len(arrays)):
                    wanted = [i == j for j in range(len(arrays))]
                    slopes = operation.kernels[on][1](output, saved, *arrays, wanted=wanted, **sample.parameters)
                    assert [slope is not None for slope in slopes] == wanted


def test_the_annex_can_be_left_out(monkeypatch):
    """NANOGEN_KERNELS=0 registers nothing, and `registered` lists what there is."""
    import subprocess
    import sys

    found = "any(operation.kernels for operation in nanogen.backend.OPERATIONS)"
    code = f"import nanogen, sys; print('nanogen.kernels' in sys.modules, {found})"
    for value, expected in (("0", "False False"), ("1", "True True")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"NANOGEN_KERNELS": value}
        )
        assert done.stdout.strip() == expected, done.stderr
    assert {"convolve", "adam", "silu"} <= set(ng.kernels.registered())
    assert ng.functional.silu.kernel == ng.functional.activation.silu.kernel
