"""Convolution: one bilinear map with three forms, ⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩ = ⟨w, conv_weight(x, y)⟩."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
from helpers import Draw, check_gradients, inner, leaf, plain_forms
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogen as ng
from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.functional import conv
from nanogen.functional.conv import (
    convolve,
    convolve_adjoint,
    convolve_weight,
    convolve_with_bias,
    output_size,
)

Pair = tuple[int, int]


class Geometry:
    """Sizes and settings for which a convolution exists; height and width never the same by construction."""

    def __init__(self, draw: Draw, channels: int = 2, outputs: int = 3):
        pair = lambda low, high: (draw.number(low, high), draw.number(low, high))
        self.kernel = pair(1, 3)
        self.how = {"stride": pair(1, 3), "padding": pair(0, 2), "dilation": pair(1, 2)}
        reach = [
            d * (k - 1) + 1 - 2 * p
            for k, p, d in zip(self.kernel, self.how["padding"], self.how["dilation"], strict=True)
        ]
        height = max(reach[0], 1) + draw.number(0, 3)
        self.size = (height, max(reach[1], 1, height + 1) + draw.number(0, 2))
        self.places = output_size(self.size, self.kernel, **self.how)
        images = draw.number(0, 3)
        self.x = draw.array((images, channels, *self.size), "integer")
        self.w = draw.array((outputs, channels, *self.kernel), "integer")
        self.y = draw.array((images, outputs, *self.places), "integer")


def direct_sum(x: np.ndarray, w: np.ndarray, places: Pair, stride: Pair, padding: Pair, dilation: Pair) -> np.ndarray:
    """out[n, o, i, j] = Σ_{c,k,l} w[o, c, k, l] · x[n, c, i·s + k·d − p, j·s + l·d − p], in loops."""
    out = np.zeros((len(x), len(w), *places))
    for i, j, k, m in itertools.product(*map(range, (*places, *w.shape[2:]))):
        row, column = i * stride[0] + k * dilation[0] - padding[0], j * stride[1] + m * dilation[1] - padding[1]
        if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
            out[:, :, i, j] += x[:, :, row, column] @ w[:, :, k, m].T
    return out


@given(st.data())
def test_convolution_is_the_direct_sum(data):
    """conv2d is the sum that defines it (Goodfellow et al. 2016, eq. 9.6), exactly, in small integers."""
    g = Geometry(Draw(data))
    assert np.array_equal(F.conv2d(g.x, g.w, **g.how).data, direct_sum(g.x, g.w, g.places, **g.how))


@given(st.data())
def test_three_forms_of_one_map(data):
    """⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩ = ⟨w, conv_weight(x, y)⟩, exactly, in small integers, through the public
    functions: output_padding is what makes convᵀ's result as large as x."""
    g = Geometry(Draw(data))
    value = inner(F.conv2d(g.x, g.w, **g.how).data, g.y)
    assert value == inner(F.conv2d_weight(g.x, g.y, g.kernel, **g.how).data, g.w)
    assert value == inner(convolve_adjoint(g.y, g.w, size=g.size, **g.how).data, g.x)
    spread = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, k, s, p, d in zip(g.places, g.kernel, g.how["stride"], g.how["padding"], g.how["dilation"], strict=True)
    ]
    missing = tuple(n - m for n, m in zip(g.size, spread, strict=True))
    if all(m < max(s, d) for m, s, d in zip(missing, g.how["stride"], g.how["dilation"], strict=True)):
        back = F.conv_transpose2d(g.y, g.w, output_padding=missing, **g.how)
        assert back.shape == g.x.shape
        assert value == inner(back.data, g.x)


def test_every_small_geometry_along_one_axis():
    """Direct sum and adjoints for every kernel, stride, padding, dilation and size of a few pixels, also where the last
    pixels are under no place of the kernel, and where a kernel of one pixel skips some."""
    rng = np.random.default_rng(0)
    integers = lambda *shape: rng.integers(-4, 5, shape).astype(float)
    settings_ = itertools.product((0, 1), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2), range(6))
    for axis, k, s, p, d, more in settings_:
        along = lambda value, other, axis=axis: (value, other) if axis == 0 else (other, value)
        size, kernel = along(max(d * (k - 1) + 1 - 2 * p, 1) + more, 2), along(k, 1)
        how = {"stride": along(s, 1), "padding": along(p, 0), "dilation": along(d, 1)}
        places = output_size(size, kernel, **how)
        x, w, y = integers(2, 2, *size), integers(3, 2, *kernel), integers(2, 3, *places)
        out = convolve(x, w, **how).data
        assert np.array_equal(out, direct_sum(x, w, places, **how))
        assert inner(out, y) == inner(x, convolve_adjoint(y, w, size=size, **how).data)
        assert inner(out, y) == inner(w, convolve_weight(x, y, kernel=kernel, **how).data)


@given(st.data())
def test_gradients_of_each_face_are_the_other_two(data):
    """The gradients of conv, convᵀ and conv_weight, exactly, in small integers: no tolerance hides a wrong index."""
    g = Geometry(Draw(data))
    x, w, y = leaf(g.x), leaf(g.w), leaf(g.y)
    forward = convolve(x, w, **g.how)
    back = convolve_adjoint(y, w, size=g.size, **g.how)
    weight = convolve_weight(x, y, kernel=g.kernel, **g.how)
    for found, expected in (
        (ng.grad(forward, [x, w], g.y), (back, weight)),
        (ng.grad(back, [y, w], g.x), (forward, weight)),
        (ng.grad(weight, [x, y], g.w), (back, forward)),
    ):
        assert all(np.array_equal(a.data, b.data) for a, b in zip(found, expected, strict=True))


@given(st.data())
def test_bilinearity(data):
    """conv(x + 2x′, w) = conv(x, w) + 2 conv(x′, w), and the same in w."""
    draw = Draw(data)
    g = Geometry(draw)
    x, w = draw.array(g.x.shape, "integer"), draw.array(g.w.shape, "integer")
    f = lambda x, w: F.conv2d(x, w, **g.how).data
    assert np.array_equal(f(g.x + 2 * x, g.w), f(g.x, g.w) + 2 * f(x, g.w))
    assert np.array_equal(f(g.x, g.w + 2 * w), f(g.x, g.w) + 2 * f(g.x, w))


@given(st.data())
def test_shift_equivariance(data):
    """Shifting the image by whole strides shifts the output by as many places, away from the border."""
    draw = Draw(data)
    kernel, stride, dilation = [(draw.number(1, 3), draw.number(1, 3)) for _ in range(3)]
    by = (draw.number(0, 2), draw.number(0, 2))
    x, w = draw.array((2, 2, 14, 17), "integer"), draw.array((3, 2, *kernel), "integer")
    f = lambda x: F.conv2d(x, w, stride=stride, dilation=dilation).data
    shifted = x[:, :, by[0] * stride[0] :, by[1] * stride[1] :]
    assert np.array_equal(f(shifted), f(x)[:, :, by[0] :, by[1] :])


@given(st.data())
def test_size_of_a_transposed_convolution(data):
    """(H − 1)·stride − 2·padding + dilation·(K − 1) + output_padding + 1 (Dumoulin & Visin 2016, section 4), and
    conv2d of that size has the input's size again: every output_padding below the stride is one of its preimages."""
    draw = Draw(data)
    pair = lambda low, high: (draw.number(low, high), draw.number(low, high))
    kernel, stride, dilation, size = pair(2, 3), pair(1, 3), pair(1, 2), (draw.number(1, 3), draw.number(4, 5))
    padding = tuple(draw.number(0, d * (k - 1) // 2) for d, k in zip(dilation, kernel, strict=True))
    extra = tuple(draw.number(0, s - 1) for s in stride)
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    y, w = draw.array((1, 2, *size), "integer"), draw.array((2, 3, *kernel), "integer")
    out = F.conv_transpose2d(y, w, output_padding=extra, **how)
    expected = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(size, kernel, stride, padding, dilation, extra, strict=True)
    )
    assert out.shape == (1, 3, *expected)
    assert F.conv2d(out, w.transpose(0, 1, 2, 3), **how).shape == (1, 2, *size)


@given(st.data())
def test_shortcut_of_the_adjoint_at_stride_one(data):
    """At stride 1 the adjoint is a convolution with the kernel turned round; it equals the general way, which
    spreads each place over the image one tap at a time."""
    draw = Draw(data)
    kernel, dilation = (draw.number(1, 3), draw.number(1, 3)), (draw.number(1, 2), draw.number(1, 2))
    padding = tuple(draw.number(0, d * (k - 1)) for d, k in zip(dilation, kernel, strict=True))
    size = (draw.number(5, 6), draw.number(7, 8))
    how = {"stride": (1, 1), "padding": padding, "dilation": dilation}
    places = output_size(size, kernel, **how)
    y, w = draw.array((2, 3, *places), "integer"), draw.array((3, 2, *kernel), "integer")
    general = np.zeros((2, 2, size[0] + 2 * padding[0], size[1] + 2 * padding[1]))
    for k, m in itertools.product(range(kernel[0]), range(kernel[1])):
        a, b = k * dilation[0], m * dilation[1]
        general[:, :, a : a + places[0], b : b + places[1]] += np.einsum("noij,oc->ncij", y, w[:, :, k, m])
    inside = general[:, :, padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    assert np.array_equal(convolve_adjoint(y, w, size=size, **how).data, inside)


@given(st.data())
def test_third_order(data):
    """The trio is closed under differentiation: the gradient in the weight, of a nonlinear function of a convolution,
    differentiated twice more, agrees with central differences."""
    draw = Draw(data)
    how = {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}
    x, w = draw.array((1, 2, 5, 4)), draw.array((2, 2, 2, 2))
    check_gradients(lambda x, w: F.tanh(F.conv2d(x, w, **how)), 0.3 * x, 0.3 * w, order=3)
    (slope,) = ng.grad((F.conv2d(leaf(x), w_ := leaf(w), **how) ** 3).sum(), w_, create_graph=True)
    (second,) = ng.grad((slope**2).sum(), w_, create_graph=True)
    (third,) = ng.grad(second.sum(), w_)
    assert third.shape == w.shape
    assert np.abs(third.data).max() > 0


@given(st.data())
def test_bias_and_padding_by_name(data):
    """A bias is added to each channel; 'valid' is no padding; 'same' keeps the size."""
    draw = Draw(data)
    kernel, dilation = (draw.number(1, 3), draw.number(1, 4)), (draw.number(1, 2), draw.number(1, 2))
    x, w = draw.array((2, 2, 7, 8), "integer"), draw.array((3, 2, *kernel), "integer")
    b = draw.array((3,), "integer")
    plain = F.conv2d(x, w, dilation=dilation).data
    assert np.array_equal(F.conv2d(x, w, b, dilation=dilation).data, plain + b[:, None, None])
    assert np.array_equal(F.conv2d(x, w, padding="valid", dilation=dilation).data, plain)
    same = F.conv2d(x, w, padding="same", dilation=dilation).data
    assert same.shape == (2, 3, 7, 8)
    top, left = ((d * (k - 1)) // 2 for d, k in zip(dilation, kernel, strict=True))
    assert np.array_equal(same[:, :, top:, left:][:, :, : plain.shape[2], : plain.shape[3]], plain)


@settings(max_examples=2 * settings().max_examples)
@given(st.data())
def test_padding_of_each_side(data):
    """Four numbers are those that `pad` takes, (left, right, above, below), and so are the gradients, of any order."""
    draw = Draw(data)
    kernel, stride, dilation = [(draw.number(1, 3), draw.number(1, 3)) for _ in range(3)]
    sides, how = tuple(draw.number(0, 3) for _ in range(4)), {"stride": stride, "dilation": dilation}
    x, w = draw.array((2, 2, 7, 8), "integer"), draw.array((3, 2, *kernel), "integer")
    bias = draw.pick([None, draw.array((3,), "integer")])
    found, expected = [], []
    for made, f in (
        (found, lambda x, w: F.conv2d(x, w, bias, padding=sides, **how)),
        (expected, lambda x, w: F.conv2d(F.pad(x, sides), w, bias, **how)),
    ):
        of = leaf(x), leaf(w)
        out = f(*of)
        slopes = ng.grad((out**2).sum(), of, create_graph=True)
        made += [out, *slopes, *ng.grad((slopes[0] * x).sum() + (slopes[1] ** 2).sum(), of)]
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.data, b.data)


@pytest.mark.parametrize("sides", [(-1, 0, 0, 0), (0, 0, 0, -1), (0, 0.5, 0, 0), (0, 0, 1.5, 0)])
def test_sides_that_are_no_padding(sides):
    """Each is an integer of at least 0."""
    with pytest.raises(ValueError, match=r"^padding must be one or two integers of at least 0"):
        F.conv2d(Tensor(np.ones((1, 1, 5, 5))), Tensor(np.ones((1, 1, 3, 3))), padding=sides)


def means_under_windows(x: np.ndarray, kernel: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    """Window by window: what lies on the image, summed, over the number of places in a window."""

    def windows(n: int, k: int, s: int, p: int) -> list[slice]:
        return [slice(max(i * s - p, 0), i * s - p + k) for i in range((n + 2 * p - k) // s + 1)]

    rows, columns = (windows(*of_axis) for of_axis in zip(x.shape[2:], kernel, stride, padding, strict=True))
    means = np.empty((*x.shape[:2], len(rows), len(columns)))
    for (i, down), (j, right) in itertools.product(enumerate(rows), enumerate(columns)):
        means[:, :, i, j] = x[:, :, down, right].sum(axis=(2, 3)) / math.prod(kernel)
    return means


def test_average_pooling_along_one_axis():
    """The mean under each window for every window, stride, padding and size of a few pixels.  Integers, so exactly."""
    rng = np.random.default_rng(0)
    for axis, k, s, p, more in itertools.product((0, 1), (1, 2, 3, 4), (1, 2, 3, 4), (0, 1, 2), range(5)):
        if 2 * p > k:
            continue
        along = lambda value, other, axis=axis: (value, other) if axis == 0 else (other, value)
        x = rng.integers(-4, 5, (1, 1, *along(max(k - 2 * p, 1) + more, 2))).astype(float)
        where = along(k, 1), along(s, 1), along(p, 0)
        assert np.array_equal(F.avg_pool2d(Tensor(x), *where).data, means_under_windows(x, *where))


@settings(max_examples=2 * settings().max_examples)
@given(st.data())
def test_average_pooling(data):
    """The mean under each window along both axes, of the input's type; and the defaults of settings."""
    draw = Draw(data)
    pair = lambda low, high: (draw.number(low, high), draw.number(low, high))
    kernel, stride = pair(1, 4), draw.pick([None, pair(1, 4)])
    padding = tuple(draw.number(0, k // 2) for k in kernel)
    size = [max(k - 2 * p, 1) + draw.number(0, 5) for k, p in zip(kernel, padding, strict=True)]
    x = draw.array((2, 3, *size), "integer")
    expected = means_under_windows(x, kernel, stride or kernel, padding)
    assert np.array_equal(F.avg_pool2d(Tensor(x), kernel, stride, padding).data, expected)
    single = F.avg_pool2d(Tensor(x.astype(np.float32)), kernel, stride, padding).data
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, rtol=1e-6)
    alone = F.avg_pool2d(Tensor(x), kernel, padding=padding).data
    assert np.array_equal(alone, means_under_windows(x, kernel, kernel, padding))
    assert np.array_equal(F.avg_pool2d(Tensor(x), 1).data, x)


@settings(max_examples=5 * settings().max_examples)
@given(st.data())
def test_groups_are_convolutions_side_by_side(data):
    """With groups each part of the channels has its own kernels: conv2d and conv_transpose2d are those of the parts
    side by side (Krizhevsky et al. 2012, section 3.5), depthwise as well, exactly, in small integers; and
    ⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩ still."""
    draw = Draw(data)
    g, groups, bias = Geometry(draw), draw.number(1, 4), draw.array((12,), "integer")
    x, w, y = (
        np.concatenate([np.roll(a, i, -1) for i in range(groups)], axis) for a, axis in ((g.x, 1), (g.w, 0), (g.y, 1))
    )
    bias = bias[: len(w)]
    parts = zip(*(np.split(a, groups, axis) for a, axis in ((x, 1), (w, 0), (bias, 0))), strict=True)
    expected = [F.conv2d(*part, **g.how).data for part in parts]
    found = F.conv2d(x, w, bias, groups=groups, **g.how).data
    assert np.array_equal(found, np.concatenate(expected, 1))
    assert np.array_equal(F.conv2d(x[:1], w, bias, groups=groups, **g.how).data, found[:1])
    parts = zip(*(np.split(a, groups, axis) for a, axis in ((y, 1), (w, 0))), strict=True)
    if min(F.conv2d(g.x, g.w, **g.how).shape[2:]) and not any(g.how["padding"]):
        back = F.conv_transpose2d(y, w, groups=groups, stride=g.how["stride"], dilation=g.how["dilation"]).data
        expected = [
            F.conv_transpose2d(*part, stride=g.how["stride"], dilation=g.how["dilation"]).data for part in parts
        ]
        assert np.array_equal(back, np.concatenate(expected, 1))
    image = leaf(x)
    (back,) = ng.grad(F.conv2d(image, w, groups=groups, **g.how), image, y)
    assert inner(found - (bias[:, None, None]), y) == inner(back.data, x)


def test_groups_may_change_the_number_of_channels():
    """A group takes its share of the inputs to its share of the outputs, by place: 4 channels in 2 groups to 6."""
    x, w = np.arange(4.0).reshape(1, 4, 1, 1), np.arange(12.0).reshape(6, 2, 1, 1)
    expected = [w[o, :, 0, 0] @ x[0, 2 * (o // 3) : 2 * (o // 3) + 2, 0, 0] for o in range(6)]
    assert F.conv2d(x, w, groups=2).data.ravel().tolist() == expected
    back = F.conv_transpose2d(x, w[:4], groups=2).data.ravel()
    assert back.tolist() == [
        sum(x[0, c, 0, 0] * w[c, i, 0, 0] for c in (2 * g, 2 * g + 1)) for g in (0, 1) for i in (0, 1)
    ]


@given(st.data())
def test_largest_under_a_window(data):
    """max_pool2d is the largest of the pixels under each window, as they are listed one by one; the gradient goes to
    the first of equal ones, and padding is never the largest."""
    draw = Draw(data)
    kernel, stride = ((draw.number(1, 3), draw.number(1, 3)) for _ in range(2))
    padding = tuple(draw.number(0, k // 2) for k in kernel)
    size = [draw.number(max(k - 2 * p, 1), 9) for k, p in zip(kernel, padding, strict=True)]
    x = draw.array((2, 2, *size), "integer") - 9.0
    found, image = F.max_pool2d(image := leaf(x), kernel, stride, padding), image
    g, expected = np.arange(1.0, found.data.size + 1).reshape(found.shape), np.zeros_like(x)
    for n, c, i, j in np.ndindex(found.shape):
        rows = [i * stride[0] - padding[0] + k for k in range(kernel[0])]
        columns = [j * stride[1] - padding[1] + k for k in range(kernel[1])]
        seen = [(a, b) for a in rows for b in columns if 0 <= a < size[0] and 0 <= b < size[1]]
        where = max(seen, key=lambda at: x[n, c, *at])
        assert found.data[n, c, i, j] == x[n, c, *where]
        expected[n, c, *where] += g[n, c, i, j]
    assert np.array_equal(ng.grad(found, image, g)[0].data, expected)


@given(st.data())
def test_an_empty_batch_and_nothing_else_may_be_empty(data):
    """No images give no images, with gradients of zeros for the weights, whichever algorithm would be chosen; without
    channels, pixels or a kernel there is a ValueError that says so."""
    draw = Draw(data)
    c, o, k = draw.pick([1, 3, 32]), draw.pick([2, 32]), draw.pick([1, 3, 4])
    stride, padding, groups = draw.number(1, 2), draw.number(0, 2), draw.pick([1, 2]) if c == 32 else 1
    x, w, bias = leaf(np.zeros((0, c, 6, 7))), leaf(np.ones((o, c // groups, k, k))), leaf(np.ones(o))
    out = F.conv2d(x, w, bias, stride, padding, 1, groups)
    back = F.conv_transpose2d(out, w, None, stride, padding, 0, groups)
    assert out.shape[:2] == (0, o)
    assert back.shape[:2] == (0, c)
    for y, leaves in ((out, [x, w, bias]), (back, [x, w])):
        for t, slope in zip(leaves, ng.grad(y.sum(), leaves), strict=True):
            assert np.array_equal(slope.data, np.zeros(t.shape))
    x, w = [2, 3, 5, 6], [4, 3, 2, 2]
    at = draw.number(1, 3)
    x[at] = 0
    w[1] = 0 if at == 1 else 3
    with pytest.raises(ValueError, match="nothing but N may be 0"):
        F.conv2d(ones(*x), ones(*w), padding=2)
    with pytest.raises(ValueError, match="nothing but N may be 0"):
        F.conv_transpose2d(ones(*x), ones(w[1], w[0], *w[2:]), padding=0)
    at = draw.number(0, 3)
    shape = [3 if at > 1 else 0, 0 if at == 1 else 3, *([2, 2] if at < 2 else [0, 2][:: 1 if at == 2 else -1])]
    with pytest.raises(ValueError, match=r"nothing but N may be 0|does not fit"):
        F.conv2d(ones(1, 3, 5, 6), ones(*shape))


@given(st.data())
def test_gradients_with_a_bias(data):
    """A bias is a number per channel; its gradient is the sum over images and pixels, and the other two are those
    without a bias.  Whichever are asked for, by a kernel and by the plain form; integers, so exactly."""
    draw = Draw(data)
    g = Geometry(draw)
    bias = draw.array((3,), "integer")
    expected = {
        "x": convolve_adjoint(g.y, g.w, size=g.size, **g.how).data,
        "w": convolve_weight(g.x, g.y, kernel=g.kernel, **g.how).data,
        "bias": g.y.sum(axis=(0, 2, 3)),
    }
    wanted = data.draw(st.sets(st.sampled_from(sorted(expected)), min_size=1))
    given_ = {"x": g.x, "w": g.w, "bias": bias}
    inputs = {name: leaf(array) if name in wanted else Tensor(array) for name, array in given_.items()}
    for form in (convolve_with_bias, convolve_with_bias.plain):
        out = form(*inputs.values(), **g.how)
        assert np.array_equal(out.data, convolve(g.x, g.w, **g.how).data + bias[:, None, None])
        found = ng.grad(out, [inputs[name] for name in sorted(wanted)], g.y)
        for name, slope in zip(sorted(wanted), found, strict=True):
            assert np.array_equal(slope.data, expected[name])


@settings(max_examples=2 * settings().max_examples)
@given(st.data())
def test_gradients_without_a_bias(data):
    """Those of a convolution and of a transposed one are the other two of the three maps: whichever are asked for, by
    the rule that makes both together, and by their own, which can be differentiated.  Integers, so exactly."""
    draw = Draw(data)
    g = Geometry(draw)
    images = {"conv2d": (g.x, g.y), "conv_transpose2d": (g.y, g.x)}  # the input, and the gradient of the output
    slopes = {
        "conv2d": convolve_adjoint(g.y, g.w, size=g.size, **g.how).data,
        "conv_transpose2d": convolve(g.x, g.w, **g.how).data,
    }
    extra = tuple(  # what the last whole window leaves over
        (n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in zip(g.size, g.kernel, *g.how.values(), strict=True)
    )
    settings_ = {"conv2d": g.how, "conv_transpose2d": {**g.how, "output_padding": extra}}
    of_w = convolve_weight(g.x, g.y, kernel=g.kernel, **g.how).data
    for name, (image, cotangent) in images.items():
        wanted = data.draw(st.sampled_from([(True, True), (True, False), (False, True)]))
        inputs = [leaf(a) if want else Tensor(a) for a, want in zip((image, g.w), wanted, strict=True)]
        out = getattr(F, name)(*inputs, **settings_[name])
        leaves = [x for x in inputs if x.requires_grad]
        for create_graph in (False, True):
            found = iter(ng.grad(out, leaves, cotangent, create_graph=create_graph))
            for want, expected in zip(wanted, (slopes[name], of_w), strict=True):
                assert not want or np.array_equal(next(found).data, expected)


def test_no_gradient_is_computed_that_nobody_asked_for(monkeypatch):
    """The first layer's images need none, a frozen layer's weights need none: the most expensive sums of all."""
    x, w, bias, y = (np.ones(shape) for shape in [(1, 2, 4, 5), (3, 2, 2, 2), (3,), (1, 3, 4, 5)])
    cases = [(F.conv2d, (x, w, bias), "convolve_adjoint", 0), (F.conv2d, (x, w, bias), "convolve_weight", 1)]
    cases += [(F.conv2d, (x, w), "convolve_adjoint", 0), (F.conv2d, (x, w), "convolve_weight", 1)]
    cases += [(F.conv_transpose2d, (y, w), "convolve", 0), (F.conv_transpose2d, (y, w), "convolve_weight", 1)]
    for convolve_, arrays, name, its_own in cases:
        inputs = [Tensor(array) if i == its_own else leaf(array) for i, array in enumerate(arrays)]
        with plain_forms(), monkeypatch.context() as patch:
            out = convolve_(*inputs).sum()
            patch.setattr(conv, name, lambda *_, **__: pytest.fail("computed in vain"))
            out.backward()
        assert inputs[its_own].grad is None


@given(st.data())
def test_transposed_convolution_with_bias(data):
    """What is not given is stride 1, no padding, no dilation; a bias is added to each channel.  The transposed
    convolution without a setting is that of the direct sum ⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩."""
    draw = Draw(data)
    kernel = (draw.number(1, 3), draw.number(1, 3))
    y, w = draw.array((2, 3, 4, 5), "integer"), draw.array((3, 2, *kernel), "integer")
    x, bias = draw.array((2, 2, 3 + kernel[0], 4 + kernel[1]), "integer"), draw.array((2,), "integer")
    plain = F.conv_transpose2d(y, w).data
    assert plain.shape == x.shape
    assert inner(plain, x) == inner(y, direct_sum(x, w, (4, 5), (1, 1), (0, 0), (1, 1)))
    assert np.array_equal(F.conv_transpose2d(y, w, bias).data, plain + bias[:, None, None])
    assert inner(F.conv2d_weight(x, y, kernel).data, w) == inner(plain, x)


def test_a_setting_for_height_and_width():
    """One integer is for both, alone or in a tuple or list of one; two are for height and width, in that order."""
    x, w = np.arange(42.0).reshape(1, 1, 6, 7), np.ones((1, 1, 2, 3))
    for setting, both in [(2, (2, 2)), ((2,), (2, 2)), ([2], (2, 2)), ([2, 1], (2, 1))]:
        for name in ("stride", "padding", "dilation"):
            expected = F.conv2d(x, w, **{name: both}).data
            assert np.array_equal(F.conv2d(x, w, **{name: setting}).data, expected)
            assert both == (2, 2) or expected.shape != F.conv2d(x, w, **{name: both[::-1]}).shape


ones = lambda *shape: Tensor(np.ones(shape))
image, small, kernel = ones(2, 3, 6, 7), ones(1, 4, 2, 2), ones(4, 3, 3, 2)
shape, setting = "must be (N, C, H, W), got shape", "must be one or two integers of at least"
ERRORS: dict[str, Any] = {
    f"conv2d: input {shape} (6, 7)": lambda: F.conv2d(ones(6, 7), kernel),
    f"conv_transpose2d: input {shape} (6, 7)": lambda: F.conv_transpose2d(ones(6, 7), kernel),
    f"avg_pool2d: input {shape} (3, 6, 7)": lambda: F.avg_pool2d(ones(3, 6, 7), 2),
    "conv2d: weight of shape (4, 3, 3, 2) does not fit an input of 2 channels": lambda: F.conv2d(
        ones(1, 2, 6, 7), kernel
    ),
    "conv2d: weight of shape (3, 3) does not fit an input of 3 channels": lambda: F.conv2d(image, ones(3, 3)),
    "conv_transpose2d: weight of shape (4, 3, 3, 2) does not fit an input of 3 channels": lambda: F.conv_transpose2d(
        image, kernel
    ),
    "conv2d: weight of shape (4, 3, 3, 2) does not fit an input of 3 channels in 2 groups": lambda: F.conv2d(
        image, kernel, groups=2
    ),
    "conv2d: weight of shape (4, 1, 3, 2) does not fit an input of 3 channels in 3 groups": lambda: F.conv2d(
        image, ones(4, 1, 3, 2), groups=3
    ),
    "conv_transpose2d: weight of shape (4, 3, 3, 2) does not fit an input of 4 channels in 3 groups": lambda: (
        F.conv_transpose2d(small, kernel, groups=3)
    ),
    "conv_transpose2d: bias must have shape (6,), got (3,)": lambda: F.conv_transpose2d(
        small, kernel, ones(3), groups=2
    ),
    "conv2d: groups must be a positive integer, got 0": lambda: F.conv2d(image, kernel, groups=0),
    "conv2d: groups must be a positive integer, got True": lambda: F.conv2d(image, kernel, groups=True),
    f"stride {setting} 1, got True": lambda: F.conv2d(image, kernel, stride=True),
    "max_pool2d: padding (2, 2) is more than half the window (3, 3)": lambda: F.max_pool2d(image, 3, padding=2),
    "max_pool2d: window (7, 2) is larger than the image (6, 7) with padding 0": lambda: F.max_pool2d(image, (7, 2)),
    "max_pool2d: return_indices=True is not supported": lambda: F.max_pool2d(image, 2, return_indices=True),
    "conv2d: bias must have shape (4,), got (3,)": lambda: F.conv2d(image, kernel, ones(3)),
    "conv2d: bias must have shape (4,), got (1, 4)": lambda: F.conv2d(image, kernel, ones(1, 4)),
    "conv_transpose2d: bias must have shape (3,), got (4,)": lambda: F.conv_transpose2d(small, kernel, ones(4)),
    "conv2d: padding 'same' needs stride 1": lambda: F.conv2d(image, kernel, stride=(1, 2), padding="same"),
    "conv2d: padding must be numbers, 'same' or 'valid', got 'full'": lambda: F.conv2d(image, kernel, padding="full"),
    "conv2d: kernel (3, 2) with dilation (2, 7) is larger than the padded image (8, 7)": lambda: F.conv2d(
        image, kernel, padding=(1, 0), dilation=(2, 7)
    ),
    f"stride {setting} 1, got 0": lambda: F.conv2d(image, kernel, stride=0),
    f"stride {setting} 1, got (2, 0)": lambda: F.avg_pool2d(image, 3, (2, 0)),
    f"stride {setting} 1, got ()": lambda: F.conv2d(image, kernel, stride=()),
    f"stride {setting} 1, got 1.5": lambda: F.conv2d(image, kernel, stride=1.5),  # type: ignore[arg-type]
    f"padding {setting} 0, got -1": lambda: F.conv2d(image, kernel, padding=-1),
    f"padding {setting} 0, got (-1, 1)": lambda: F.avg_pool2d(image, 3, padding=(-1, 1)),
    f"dilation {setting} 1, got (1, 2, 3)": lambda: F.conv2d(image, kernel, dilation=(1, 2, 3)),
    f"output_padding {setting} 0, got -1": lambda: F.conv_transpose2d(small, kernel, output_padding=-1),
    f"kernel_size {setting} 1, got 0": lambda: F.avg_pool2d(image, 0),
    f"kernel_size {setting} 1, got (0, 2)": lambda: F.conv2d_weight(image, image, (0, 2)),
    "conv_transpose2d: output_padding (1, 2) must be smaller than stride or dilation": lambda: F.conv_transpose2d(
        small, kernel, stride=2, output_padding=(1, 2)
    ),
    "conv_transpose2d: the output would have the size (0, -1)": lambda: F.conv_transpose2d(small, kernel, padding=2),
    "conv2d_weight: output must have N, OH, OW = (2, 4, 6), got shape (2, 4, 6, 7)": lambda: F.conv2d_weight(
        image, ones(2, 4, 6, 7), (3, 2)
    ),
    "avg_pool2d: padding (2, 2) is more than half the window (2, 2)": lambda: F.avg_pool2d(image, 2, padding=2),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_what_is_wrong(message):
    """Shapes that do not fit and settings out of range raise ValueError before any work is done."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ERRORS[message]()


@given(stride=st.integers(2, 4), kernel=st.integers(1, 9), height=st.integers(4, 6), seed=st.integers(0, 99))
def test_checkerboard_only_where_the_stride_does_not_divide_the_kernel(stride, kernel, height, seed):
    """An even image under an even kernel comes out even, away from the border, if and only if the stride divides the
    kernel: else some pixels are reached by more places than others.  Odena et al. 2016, "Deconvolution and checkerboard
    artifacts"."""
    weight = np.random.default_rng(seed).integers(1, 9, (2, 3, 1, 1)) * np.ones((1, 1, kernel, kernel))
    x = np.ones((1, 2, height + kernel, height + 1 + kernel))
    out = F.conv_transpose2d(x, weight, stride=stride).data
    inner_part = out[:, :, kernel:-kernel, kernel:-kernel]
    even = all((inner_part[0, o] == inner_part[0, o, 0, 0]).all() for o in range(3))
    assert even == (kernel % stride == 0)
