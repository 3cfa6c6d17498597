"""Convolution: one bilinear map with three faces, ⟨conv(x, w), y⟩ = ⟨x, convᵀ(y, w)⟩ = ⟨w, conv_weight(x, y)⟩."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import Draw, check_gradients, inner, leaf
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight, output_size

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
def test_three_faces_of_one_map(data):
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
def test_bias_batch_axis_and_padding_by_name(data):
    """A bias is added to each channel; (C, H, W) is a batch of one; 'valid' is no padding; 'same' keeps the size."""
    draw = Draw(data)
    kernel, dilation = (draw.number(1, 3), draw.number(1, 4)), (draw.number(1, 2), draw.number(1, 2))
    x, w = draw.array((2, 2, 7, 8), "integer"), draw.array((3, 2, *kernel), "integer")
    b = draw.array((3,), "integer")
    plain = F.conv2d(x, w, dilation=dilation).data
    assert np.array_equal(F.conv2d(x, w, b, dilation=dilation).data, plain + b[:, None, None])
    assert np.array_equal(F.conv2d(x[0], w, dilation=dilation).data, plain[0])
    assert np.array_equal(F.conv2d(x, w, padding="valid", dilation=dilation).data, plain)
    same = F.conv2d(x, w, padding="same", dilation=dilation).data
    assert same.shape == (2, 3, 7, 8)
    top, left = ((d * (k - 1)) // 2 for d, k in zip(dilation, kernel, strict=True))
    assert np.array_equal(same[:, :, top:, left:][:, :, : plain.shape[2], : plain.shape[3]], plain)


def test_average_pooling():
    """The mean under each window; a last window beyond the padding only with ceil_mode; padding counts or not."""
    x = np.arange(20.0).reshape(1, 1, 4, 5)
    blocks = x[0, 0, :, :4].reshape(2, 2, 2, 2).mean((1, 3))
    assert np.array_equal(F.avg_pool2d(Tensor(x), 2).data[0, 0], blocks)
    assert F.avg_pool2d(Tensor(x), 2, ceil_mode=True).shape == (1, 1, 2, 3)
    assert F.avg_pool2d(Tensor(x), 2, ceil_mode=True).data[0, 0, 0, 2] == (4.0 + 9.0) / 2
    assert F.avg_pool2d(Tensor(x), 2, padding=1).data[0, 0, 0, 0] == x[0, 0, 0, 0] / 4
    assert F.avg_pool2d(Tensor(x + 1), 2, padding=1, count_include_pad=False).data[0, 0, 0, 0] == 1.0
    assert np.array_equal(F.avg_pool2d(Tensor(x), 2, divisor_override=1).data[0, 0], 4 * blocks)


ones = lambda *shape: Tensor(np.ones(shape))
image, kernel = ones(2, 3, 6, 7), ones(4, 3, 3, 2)
ERRORS: dict[str, Any] = {
    r"conv2d: input must be \(N, C, H, W\)": lambda: F.conv2d(ones(6, 7), kernel),
    "conv2d: weight of shape": lambda: F.conv2d(ones(2, 2, 6, 7), kernel),
    "conv2d: bias must have shape": lambda: F.conv2d(image, kernel, ones(3)),
    "conv2d: padding 'same' needs stride 1": lambda: F.conv2d(image, kernel, stride=2, padding="same"),
    "conv2d: padding must be numbers": lambda: F.conv2d(image, kernel, padding="full"),
    "conv2d: kernel": lambda: F.conv2d(ones(2, 3, 2, 7), kernel),
    "stride must be": lambda: F.conv2d(image, kernel, stride=0),
    "padding must be one or two": lambda: F.conv2d(image, kernel, padding=-1),
    "dilation must be": lambda: F.conv2d(image, kernel, dilation=(1, 2, 3)),
    "conv_transpose2d: weight of shape": lambda: F.conv_transpose2d(image, kernel),
    "conv_transpose2d: bias must have shape": lambda: F.conv_transpose2d(ones(1, 4, 2, 2), kernel, ones(4)),
    "conv_transpose2d: output_padding": lambda: F.conv_transpose2d(ones(1, 4, 2, 2), kernel, output_padding=1),
    "conv2d_weight: output must have": lambda: F.conv2d_weight(image, ones(2, 4, 6, 7), (3, 2)),
    "avg_pool2d: padding": lambda: F.avg_pool2d(image, 2, padding=2),
    "avg_pool2d: divisor_override": lambda: F.avg_pool2d(image, 2, divisor_override=0),
    "kernel_size must be": lambda: F.avg_pool2d(image, 0),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_what_is_wrong(message):
    """Shapes that do not fit and settings out of range raise ValueError before any work is done."""
    with pytest.raises(ValueError, match=f"^{message}"):
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
