"""How primitives are computed: convolution's three ways against each other, blocks and threads against neither."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import nanogen as ng
from nanogen import backend
from nanogen import functional as F
from nanogen.kernels import convolution
from nanogen.kernels.reduction import column_sums


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Whole numbers as float64, with which every sum below is exact in any order."""
    return rng.integers(-4, 5, shape).astype(float)


@given(
    st.integers(0, 9), st.integers(0, 3), st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans(),
)  # fmt: skip
def test_tiles_are_the_direct_sum(seed, n, size, padding, with_bias):
    """F(2×2, 3×3) gives, for integers, exactly the numbers of the product with the patches: output, and gradient in the
    kernel.  Lavin & Gray 2016, section 4.1."""
    size = tuple(max(k, 3 - 2 * p) for k, p in zip(size, padding, strict=True))
    rng, one = np.random.default_rng(seed), (1, 1)
    x, w, bias = integers(rng, n, 2, *size), integers(rng, 3, 2, 3, 3), integers(rng, 3) if with_bias else None
    expected = convolution.gather(x, w, bias, one, padding, one)
    assert np.array_equal(convolution.by_tiles(x, w, bias, padding), expected)
    y = integers(rng, *expected.shape)
    slope = convolution.weight_by_gathering(x, y, (3, 3), one, padding, one)
    assert np.array_equal(convolution.weight_by_tiles(x, y, padding), slope)


def test_tiles_are_as_exact_as_patches():
    """In float32 the tiles' error is no larger than that of the product with the patches, which sums more numbers:
    F(4×4, 3×3), whose matrices have entries up to 8, would be ten times worse.  Power: one seed, deterministic."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 64, 10, 11)), rng.normal(size=(48, 64, 3, 3))
    exact = convolution.gather(x, w, None, (1, 1), (1, 1), (1, 1))
    x, w = x.astype(np.float32), w.astype(np.float32)
    patches = np.abs(convolution.gather(x, w, None, (1, 1), (1, 1), (1, 1)) - exact).max()
    tiles = np.abs(convolution.by_tiles(x, w, None, (1, 1)) - exact).max()
    assert 0 < tiles < 1.2 * patches


@given(
    st.integers(0, 9), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)), st.data(),
)  # fmt: skip
def test_gathering_and_scattering_are_one_map(seed, size, kernel, dilation, data):
    """With stride 1 a convolution is the adjoint of the one with the kernel turned round; in the weight, inputs and
    outputs change places.  Integers, so exactly."""
    padding = tuple(data.draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilation, strict=True))
    size = tuple(max(n, d * (k - 1) + 1 - 2 * p) for n, k, p, d in zip(size, kernel, padding, dilation, strict=True))
    rng, one = np.random.default_rng(seed), (1, 1)
    x, w, bias = integers(rng, 2, 3, *size), integers(rng, 2, 3, *kernel), integers(rng, 2)
    expected = convolution.gather(x, w, bias, one, padding, dilation)
    around = convolution.reach(kernel, one, padding, dilation)
    places, turned = expected.shape[2:], convolution.turned(w)
    assert np.array_equal(convolution.scatter(x, turned, bias, places, one, around, dilation), expected)
    y = integers(rng, *expected.shape)
    slope = convolution.weight_by_gathering(x, y, kernel, one, padding, dilation)
    swapped = convolution.weight_by_gathering(y, x, kernel, one, around, dilation)
    assert np.array_equal(convolution.turned(swapped), slope)


@pytest.mark.parametrize("channels", [(1, 40), (40, 1), (40, 40), (33, 2)])
@pytest.mark.parametrize(("kernel", "size"), [((3, 3), (6, 5)), ((1, 1), (4, 4)), ((4, 5), (4, 5))])
def test_whichever_way_is_taken_the_numbers_are_the_same(channels, kernel, size):
    """Few or many channels, kernels as large as the image or of one pixel: the three maps are those of the patches."""
    rng, (c, o), how = np.random.default_rng(0), channels, ((1, 1), (1, 0), (1, 1))
    x, w = integers(rng, 3, c, *size), integers(rng, o, c, *kernel)
    y = convolution.gather(x, w, None, *how)
    assert np.array_equal(convolution.convolve(x, w, None, *how), y)
    slope = convolution.weight_by_gathering(x, y, kernel, *how)
    assert np.array_equal(convolution.convolve_weight(x, y, kernel, *how), slope)
    assert np.array_equal(convolution.convolve_adjoint(y, w, size, *how), convolution.scatter(y, w, None, size, *how))


@pytest.mark.parametrize("size", [1, 700, 3000, 1 << 40])
def test_blocks_change_no_number(monkeypatch, size):
    """How many images fit into a block, one, some or all, and a last block that is not full."""
    rng, how = np.random.default_rng(0), ((1, 2), (1, 0), (1, 1))
    x, w, bias = integers(rng, 7, 2, 5, 6), integers(rng, 3, 2, 3, 2), integers(rng, 3)
    y = convolution.gather(x, w, bias, *how)
    back, slope = convolution.scatter(y, w, None, (5, 6), *how), convolution.weight_by_gathering(x, y, (3, 2), *how)
    monkeypatch.setattr(backend, "BLOCK_BYTES", size)
    assert np.array_equal(convolution.gather(x, w, bias, *how), y)
    assert np.array_equal(convolution.scatter(y, w, None, (5, 6), *how), back)
    assert np.array_equal(convolution.weight_by_gathering(x, y, (3, 2), *how), slope)
    assert np.array_equal(column_sums(x[:, :, 0]), x[:, :, 0].sum(axis=1))
    parts = backend.in_blocks(lambda part: part, x, 100)
    assert [i for part in parts for i in range(7)[part]] == list(range(7))
    assert backend.in_blocks(lambda part: part, x[:0], 100) == [slice(0, 0)]


def test_threads_change_no_bit(monkeypatch):
    """The blocks do not depend on the number of threads, and inside them products run on one: the same bits."""
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1 << 14)
    rng, results = ng.Generator(0), []
    x, w, bias = rng.normal((16, 33, 9, 8)), rng.normal((40, 33, 3, 3)), rng.normal((40,))
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            leaves = [ng.tensor(a, requires_grad=True) for a in (x, w, bias)]
            y = F.silu(F.group_norm(F.conv2d(*leaves, padding=1), 4))
            results.append([y.data, *(g.data for g in ng.grad((y * y).sum(), leaves))])
            if (library := backend.matrix_library()) is not None:
                assert library.num_threads == threads, "the caller's number of threads comes back"
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_happens_in_a_thread_reaches_the_caller(monkeypatch):
    """An error in any block is raised, the number of threads comes back, and NumPy's errstate holds in every block."""
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1)
    with threadpool_limits(2):

        def fail(part: slice) -> None:
            if part.start == 3:
                raise KeyError("three")

        with pytest.raises(KeyError, match="three"):
            backend.in_blocks(fail, np.zeros(4), 8)
        assert backend.matrix_library().num_threads == 2
        with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
            backend.in_blocks(lambda part: 1 / np.array([1.0, 1.0, 1.0, 0.0])[part], np.zeros(4), 8)


def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    """fork copies the pool without its threads: whoever waited for them would wait for ever."""
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1)
    with threadpool_limits(2):
        assert backend.in_blocks(lambda part: part.start, np.zeros(4), 8) == [0, 1, 2, 3]
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(backend.in_blocks(lambda part: part.start, np.zeros(4), 8) != [0, 1, 2, 3])
        assert os.waitpid(child, 0)[1] == 0


@given(
    st.integers(0, 9),
    st.sampled_from([((2, 3), (3, 4)), ((2, 3, 4), (4, 2)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (2, 4, 5))]),
)
def test_matmul_is_a_at_b(seed, shapes):
    """Whatever axes are shared out: the same numbers as a @ b."""
    rng = np.random.default_rng(seed)
    a, b = integers(rng, *shapes[0]), integers(rng, *shapes[1])
    assert np.array_equal(backend.matmul(a, b), a @ b)
