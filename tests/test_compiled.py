"""C's functions against NumPy's, whose place they take: the same numbers for every shape, type and number of threads;
and what is done where there is no compiler."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import gather
from hypothesis import example, given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from nanogen import backend, compiled, optim
from nanogen.kernels import activation, average, convolution, normalization, products, softmax

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
EPSILON = {"float32": 2**-23, "float64": 2**-52}
TYPES = st.sampled_from(sorted(EPSILON))
SEEDS = st.integers(0, 10**6)
few = st.integers(1, 4)


def test_there_are_functions_of_both_types() -> None:
    """Otherwise everything below compares NumPy with NumPy."""
    assert all(compiled.has(np.dtype(name)) for name in EPSILON)
    others = ("int64", ""), ("float16", ""), ("float32", "no_such_function")
    assert not any(compiled.has(np.dtype(dtype), name) for dtype, name in others)


@contextmanager
def without_c() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "has", lambda *of: False)
        yield


def arrays(found: Any) -> list[np.ndarray]:
    return [found] if isinstance(found, np.ndarray) else [a for one in found or () for a in arrays(one)]


def assert_same(work: Callable[[], Any], roundings: float = 0) -> None:
    """What work gives is of one shape and type with C and without, and differs by so many roundings of the largest."""
    found = arrays(work())
    with without_c():
        expected = arrays(work())
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        atol = roundings * EPSILON[b.dtype.name] * np.abs(b).max(initial=1)
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def integers(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> np.ndarray:
    return rng.integers(-8, 9, shape).astype(dtype)


def laid_out(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """The same (N, C, H, W), in memory as (N, H, W, C) or as it is."""
    return images if rng.integers(2) else np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


@contextmanager
def chunks(rng: np.random.Generator) -> Iterator[None]:
    """Within this context C goes through the images of a convolution in another way, by one to three threads."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(int(rng.integers(1, 4))):
        patch.setattr(convolution, "CHUNK_BYTES", int(rng.choice([1, 1 << 12, 1 << 14, 1 << 20])))
        patch.setattr(convolution, "GROUPS", int(rng.choice([1, 2, 4])))
        patch.setattr(convolution, "BLOCKS", int(rng.choice([1, 4])))
        patch.setattr(products, "SMALL", int(rng.choice([500, 5000, products.SMALL])))
        patch.setattr(convolution, "kernels_for_small", lambda: bool(rng.integers(2)))
        convolution.job.cache_clear()
        yield
    convolution.job.cache_clear()


@given(SEEDS, TYPES, st.integers(0, 9), *[st.integers(1, 20)] * 2, *[st.integers(1, 7)] * 2, st.sampled_from([0, 1]))
def test_tiles(seed: int, dtype: str, n: int, c: int, o: int, oh: int, ow: int, which: int) -> None:
    """The convolution by tiles and its two adjoints, each by itself and two at once, of integers exactly: for odd sizes
    and even, with every padding, with images that do not reach as far as the tiles, with a bias and without."""
    rng, F = np.random.default_rng(seed), convolution.TILINGS[which]
    padding = tuple(int(p) for p in rng.integers(0, F.r * F.s, 2))
    size = tuple(max(F.s * (m - 1) + F.r * F.s - 2 * p, 1) for m, p in zip((oh, ow), padding, strict=True))
    x, y = (laid_out(rng, integers(rng, n, *s, dtype=dtype)) for s in ((c, *size), (o, oh, ow)))
    w = integers(rng, o, c, F.r * F.s, F.r * F.s, dtype=dtype)
    bias = integers(rng, o, dtype=dtype) if rng.integers(2) else None
    with chunks(rng):
        assert_same(lambda: convolution.by_tiles(x, w, bias, padding, F, (oh, ow)))
        assert_same(lambda: convolution.weight_by_tiles(x, y, padding, F))
        assert_same(lambda: convolution.both_by_tiles(x, w, y, padding, F))
        assert_same(lambda: convolution.adjoint_by_tiles(y, w, size, padding, F))
        assert_same(lambda: convolution.both_adjoints_by_tiles(x, w, y, padding, F))


@given(SEEDS, TYPES, st.integers(0, 9), st.integers(1, 5), few, *[st.tuples(few, few)] * 5)
def test_patches(
    seed: int, dtype: str, n: int, c: int, o: int, places: Any, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> None:
    """The convolution by patches and its two adjoints, of integers exactly: for every stride, padding and dilation,
    kernels that are larger than the image, padding that is larger than both, and outputs of other sizes."""
    rng = np.random.default_rng(seed)
    size = tuple(
        max(s * (m - 1) + d * (k - 1) + 1 - 2 * p + int(rng.integers(-1, 2)), 1)
        for m, k, s, p, d in zip(places, kernel, stride, padding, dilation, strict=True)
    )
    x, y = (laid_out(rng, integers(rng, n, *s, dtype=dtype)) for s in ((c, *size), (o, *places)))
    w, how = integers(rng, o, c, *kernel, dtype=dtype), (stride, padding, dilation)
    of_x, of_y = (integers(rng, m, dtype=dtype) if rng.integers(2) else None for m in (c, o))
    with chunks(rng):
        assert_same(lambda: convolution.gather(x, w, of_y, *how, places))
        assert_same(lambda: convolution.weight_by_gathering(x, y, kernel, *how))
        assert_same(lambda: convolution.scatter(y, w, of_x, size, *how))


@given(SEEDS, st.booleans(), *[st.integers(1, 300)] * 3, *[st.integers(1, 40)] * 2, *[st.integers(1, 16)] * 2)
@example(0, True, 64, 300, 300, 2, 2, 1, 9)  # a kernel of more numbers than the images
@example(0, True, 64, 20, 20, 14, 14, 16, 1)  # and of fewer
@example(1, True, 6, 20, 20, 40, 40, 16, 1)  # fewer images than threads could be
def test_job(seed: int, small: bool, n: int, c: int, o: int, lines: int, line: int, count: int, taps: int) -> None:
    """A group has memory for what it takes at a time, which is whole images, as many as fit, or lines of one, or one
    line; there are as many groups as threads could need, if each has images of as many numbers as the kernel at least;
    products are cut as `piece` says."""
    dtype = np.dtype(["float32", "float64"][seed % 2])
    row, k = taps * c, dtype.itemsize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "GROUPS", cores := [4, 8, 12][seed % 3])  # of machines with so many
        anew = convolution.job.__wrapped__
        made = anew((n, c, 7, 8), (n, o, 5, 6), lines, line, row, count, dtype, small, (1, 2, 3))
    numbers = made.numbers.tolist()
    images, at_once, groups, memory = numbers[7:11]
    assert made.numbers.dtype == np.int64
    assert numbers[:7] == [n, 7, 8, c, 5, 6, o]
    assert numbers[20:] == [1, 2, 3]
    of_image, of_kernel = count * lines * line * (row + o), count * row * o
    assert made.groups == groups
    assert 1 <= groups <= cores
    if groups > 1:
        assert n * of_image >= groups * of_kernel
        assert n >= groups
    elif n >= 4:
        assert n * of_image < 4 * of_kernel
    room = convolution.CHUNK_BYTES * (1 if n * of_image >= 4 * of_kernel and n >= 4 else cores)
    if at_once < lines:  # not even one image fits
        assert images == 1
        assert of_image * k > room
        assert at_once == max(room * lines // (of_image * k), 1)
    else:
        assert at_once == lines
        assert images == 1 or images * of_image * k <= room
        assert images == -(-n // groups) or (images + 1) * of_image * k > room or images * groups >= n
    used = images * at_once * (of_image // lines) + (1 + images * at_once) * max(c, o)
    assert 0 <= memory - used < products.LINE
    assert memory * k % products.LINE == 0
    assert made.memory == groups * memory
    deep = images * at_once * line
    cut = [(deep, o, row, False), (deep, row, o, False), (o, row, deep, True)]
    pieces = [products.piece(4, *sizes, turned, False, small)[:3] for *sizes, turned in cut]
    assert numbers[11:20] == [length for piece in pieces for length in piece]


def test_convolutions_are_cs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is C each of them calls it, with the job for its shapes."""
    called, jobs, call, job = [], [], compiled.call, convolution.job
    monkeypatch.setattr(compiled, "call", lambda name, *of: called.append(name) or call(name, *of))
    monkeypatch.setattr(convolution, "job", lambda *of: jobs.append(of[:6]) or job(*of))
    x, w, y = (np.ones(shape, np.float32) for shape in ((2, 3, 6, 5), (4, 3, 3, 3), (2, 4, 6, 5)))
    single, blocks = convolution.TILINGS
    large, square = np.ones((2, 3, 12, 10), np.float32), np.ones((4, 3, 4, 4), np.float32)
    for one, name, shapes in (
        (lambda: convolution.by_tiles(large, square, None, (1, 1), blocks, (6, 5)), "images_by_tiles", (3, 3, 12, 9)),
        (lambda: convolution.weight_by_tiles(large, y, (1, 1), blocks), "images_by_tiles", (3, 3, 12, 9)),
        (lambda: convolution.both_by_tiles(large, square, y, (1, 1), blocks), "images_by_tiles", (3, 3, 12, 9)),
        (lambda: convolution.adjoint_by_tiles(y, square, (12, 10), (1, 1), blocks), "slopes_by_tiles", (3, 3, 12, 9)),
        (
            lambda: convolution.both_adjoints_by_tiles(large, square, y, (1, 1), blocks),
            "slopes_by_tiles",
            (3, 3, 12, 9),
        ),
        (lambda: convolution.by_tiles(x, w, None, (1, 1), single, (6, 5)), "images_by_tiles", (3, 3, 3, 16)),
        (lambda: gather(x, w, None, *[(1, 1)] * 3), "images_by_patches", (6, 5, 27, 1)),
        (lambda: convolution.weight_by_gathering(x, y, (3, 3), *[(1, 1)] * 3), "images_by_patches", (6, 5, 27, 1)),
        (lambda: convolution.scatter(y, w, None, (6, 5), *[(1, 1)] * 3), "slopes_by_patches", (6, 5, 27, 1)),
    ):
        called.clear()
        jobs.clear()
        one()
        assert called == [name]
        size = (12, 10) if shapes == (3, 3, 12, 9) else (6, 5)
        assert jobs == [((2, 3, *size), (2, 4, 6, 5), *shapes)]
        called.clear()
    none = x[:0]
    assert gather(none, w, None, *[(1, 1)] * 3).shape == (0, 4, 6, 5)
    assert not called


def test_where_no_blas_is_found_convolutions_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    """C has no products of matrices of its own."""
    x, w = integers(np.random.default_rng(0), 2, 3, 5, 5), integers(np.random.default_rng(1), 2, 3, 3, 3)
    called: list[str] = []
    monkeypatch.setattr(compiled, "call", lambda name, *of: called.append(name))
    monkeypatch.setattr(convolution, "gemm_address", lambda real: 0)
    found = convolution.by_tiles(x, w, None, (1, 1), convolution.TILINGS[0], (5, 5))
    assert not called
    with without_c():
        assert np.array_equal(found, convolution.by_tiles(x, w, None, (1, 1), convolution.TILINGS[0], (5, 5)))


@pytest.mark.parametrize(("over_batch", "own"), [(False, False), (False, True), (True, False)])
@given(SEEDS, TYPES, st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), few, st.booleans(), st.booleans())
def test_normalisation(
    over_batch: bool,
    own: bool,
    seed: int,
    dtype: str,
    b: int,
    p: int,
    each: int,
    groups: int,
    gated: bool,
    turned: bool,
) -> None:
    """The output and all gradients of group and batch norm, with a SiLU and without, with weights of all images' or of
    each one's own, for rows that lie one after the other or column by column."""
    rng, c = np.random.default_rng(seed), each * groups
    x, g = ((3 * rng.normal(size=(b, p, c)) + 1).astype(dtype) for _ in range(2))
    x, g = (np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2) if turned else a for a in (x, g))
    weight, bias = (rng.normal(size=(b, c) if own else c).astype(dtype) for _ in range(2))
    how = (groups, 0.1, over_batch, gated)
    saved = normalization.normalize(x, weight, bias, *how)[1]
    assert_same(lambda: normalization.normalize(x, weight, bias, *how), 30)
    assert_same(lambda: normalization.moments(x, groups, over_batch), 30)
    assert_same(lambda: normalization.normalize_gradients(g, saved, x, weight, bias, *how), 100 * math.sqrt(p * b))


ELEMENTWISE: list[tuple[Any, int, list[float]]] = [  # function, how many arrays it reads or changes, numbers
    (activation.relu, 1, []),
    (activation.relu_slope, 2, []),
    (activation.leaky_relu_slope, 2, [0.2, 0.8]),
    (activation.silu, 1, []),
    (activation.silu_slope, 3, []),
    (backend.write_sum, 2, []),
    (optim.adam, 4, [0.9, 0.1, 0.999, 0.001, 1e-8, 1.5, 1e-3]),
    (average.move, 2, [0.75, 0.25]),
]
CHANGES = {"adam": 0, "move": 0}  # their arguments; the others write into an array more


@pytest.mark.parametrize(("function", "reads", "numbers"), ELEMENTWISE, ids=lambda case: getattr(case, "__name__", ""))
@given(SEEDS, TYPES, st.lists(st.integers(1, 6), min_size=1, max_size=4), st.booleans())
def test_elementwise(
    function: Any, reads: int, numbers: list[float], seed: int, dtype: str, shape: list[int], alike: bool
) -> None:
    """Every function of which C has one too, on arrays that lie alike in memory, in whatever order of their axes; where
    they don't, NumPy's is taken, and the numbers are the same as well."""
    rng, name = np.random.default_rng(seed), function.__name__
    assert compiled.has(np.dtype(dtype), name)
    orders = [rng.permutation(len(shape)) for _ in range(reads + 1)]

    def array(i: int) -> np.ndarray:
        order = orders[0 if alike else i]
        numbers = np.abs(rng.normal(size=[shape[axis] for axis in order])).astype(dtype) - (name != "adam")
        return numbers.transpose(np.argsort(order))

    given_arrays = [array(i) for i in range(reads + (name not in CHANGES))]

    def work() -> list[np.ndarray]:
        own = [a.copy(order="K") for a in given_arrays]
        tail = own[-1:] if name not in CHANGES else []
        function(*own[:reads], *numbers, *tail)
        return own

    assert_same(work, 20)


def test_what_does_not_lie_alike_is_not_for_c() -> None:
    """Broadcast arrays, other types and shapes would be read beyond their end."""
    x = np.ones((3, 4), np.float32)
    for other in (np.ones((4, 3), np.float32).T, np.broadcast_to(np.float32(1), (3, 4)), x.astype(float), x[:, ::2]):
        assert not backend.by_c("relu_slope", x, other, np.empty_like(x))
    assert backend.by_c("relu_slope", x, x, np.empty_like(x))


def test_numbers_of_every_kind() -> None:
    """An integer, a float and a number of NumPy's are the same to C."""
    x, found = np.array([-4, 2], np.float32), []
    for slope in (2, 2.0, np.float64(2), np.float32(2)):
        found.append(np.empty_like(x))
        activation.leaky_relu(x, slope, found[-1])
    assert [y.tolist() for y in found] == [[-8, 2]] * 4


@given(st.floats(-100, 100, width=32), TYPES)
def test_silu(x: float, dtype: str) -> None:
    """x / (1 + e⁻ˣ) to four roundings, wherever e⁻ˣ is a number of the type."""
    y = activation_of(activation.silu, np.full(3, x, dtype))
    exact = x / (1 + math.exp(-x)) if x > -700 else 0.0
    assert np.abs(y - exact).max() <= 4 * EPSILON[dtype] * abs(exact) + (1e-36 if dtype == "float32" else 0)


def test_ends_of_the_numbers() -> None:
    """NaN stays NaN, in SiLU and in ReLU; +∞ goes through; far below 0 nothing is left."""
    x = np.array([np.nan, np.inf, -200, 200, 0], np.float32)
    assert np.array_equal(activation_of(activation.silu, x), [np.nan, np.inf, 0, 200, 0], equal_nan=True)
    assert np.array_equal(activation_of(activation.relu, x), [np.nan, np.inf, 0, 200, 0], equal_nan=True)


def activation_of(kernel: Any, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    assert backend.by_c(kernel.__name__, x, y)
    return y


@given(SEEDS, TYPES, st.integers(1, 9), st.integers(1, 40))
def test_softmax(seed: int, dtype: str, rows: int, classes: int) -> None:
    """Softmax and slope, of rows that lie one after the other or not; a logit of −∞ has no part, one of 1000 does
    no harm, and a row of −∞ alone is NaN."""
    rng = np.random.default_rng(seed)
    logits, g = (3 * rng.normal(size=(classes, rows)).astype(dtype).T for _ in range(2))
    logits[rng.uniform(size=logits.shape) < 0.1] = 1000
    logits[rng.uniform(size=logits.shape) < 0.1] = -np.inf
    logits = logits if rng.integers(2) else np.ascontiguousarray(logits)
    with np.errstate(invalid="ignore"):
        assert_same(lambda: softmax.softmax(logits), 20)
        out = softmax.softmax(logits)
        assert_same(lambda: softmax.softmax_slope(g, out), 20 * np.abs(g).max())
        assert_same(lambda: softmax.softmax_slope(g.astype("float64"), out), 20 * np.abs(g).max())
    assert np.array_equal(np.isnan(out), np.repeat((logits == -np.inf).all(axis=1)[:, None], classes, axis=1))


@given(SEEDS, TYPES, st.integers(1, 9), st.integers(1, 40))
def test_cross_entropy(seed: int, dtype: str, rows: int, classes: int) -> None:
    """Loss and slope; a logit of −∞ or of 80 does no harm, and a row of −∞ alone has no loss."""
    rng = np.random.default_rng(seed)
    logits, g = 3 * rng.normal(size=(rows, classes)).astype(dtype), rng.normal(size=rows).astype(dtype)
    logits[rng.uniform(size=logits.shape) < 0.1] = 80
    logits[rng.uniform(size=logits.shape) < 0.1] = -np.inf
    logits[(logits == -np.inf).all(axis=1)] = 0
    labels = rng.integers(0, classes, rows).astype(rng.choice(["int64", "int32", "uint8"]))
    logits[np.arange(rows), labels] = np.maximum(logits[np.arange(rows), labels], -9)
    assert_same(lambda: softmax.cross_entropy(logits, labels), 20)
    saved = softmax.cross_entropy(logits, labels)[1]
    assert_same(lambda: softmax.cross_entropy_slope(g, logits, labels, *saved), 20)


def test_a_label_that_is_no_class_has_no_loss() -> None:
    """The memory beside the logits is neither read nor changed."""
    logits, labels, around = np.ones((4, 3)), np.array([0, 3, -1, 2]), np.zeros((6, 3))
    loss, (largest, total) = softmax.cross_entropy(logits, labels)
    assert np.isnan(loss).tolist() == [False, True, True, False]
    compiled.call("cross_entropy_slope", np.ones(4), logits, 4, 3, labels, largest, total, around[1:5])
    assert not around[[0, 5]].any()
    np.testing.assert_allclose(around[2:4], 1 / 3)


def products_of(rng: np.random.Generator, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two factors and a place for their product, of integers: in stacks or not, as they are or transposed."""
    m, n, k = (int(rng.integers(2, most)) for most in (70, 70, 400))
    stack = [(), (3,), (2, 3)][rng.integers(3)]

    def factor(rows: int, columns: int, stack: tuple[int, ...]) -> np.ndarray:
        if rng.integers(2):
            return integers(rng, *stack, columns, rows, dtype=dtype).swapaxes(-1, -2)
        return integers(rng, *stack, rows, columns, dtype=dtype)

    a, b = factor(m, k, stack), factor(k, n, stack if rng.integers(2) else ())
    return a, b, np.full((*stack, m, n), np.nan, dtype)


@given(SEEDS, TYPES, st.sampled_from([100, 3000, 50_000]), st.booleans(), st.integers(1, 3))
def test_products_by_threads_of_c(seed: int, dtype: str, small: int, kernels: bool, threads: int) -> None:
    """Of integers exactly: in pieces of every height, width and depth, and in groups of those."""
    a, b, out = products_of(np.random.default_rng(seed), dtype)
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        for name, value in {"SMALL": small, "SMALLEST": 0, "kernels_for_small": lambda: kernels}.items():
            patch.setattr(products, name, value)
        products.plan.cache_clear()
        compiled.use_threads(threads)
        try:
            done = products.by_gemm(a, b, out)
        finally:
            compiled.use_threads(1)
            products.plan.cache_clear()
    large = out.size * a.shape[-1] > small
    assert not done or large
    assert done or not large or threads == 1
    assert not done or np.array_equal(out, a @ b)


@given(*[st.integers(1, 3000)] * 3, few, *[st.booleans()] * 3)
def test_pieces_of_products(m: int, n: int, k: int, count: int, turned_a: bool, turned_b: bool, small: bool) -> None:
    """They are no larger than the product and, with kernels for small matrices, no more than SMALL multiplications;
    no group of the depth is empty."""
    height, width, depth, groups = products.piece(count, m, n, k, turned_a, turned_b, small)
    sizes = [(height, m), (width, n), (depth, k), (groups, 4)]
    assert all(0 < size <= most for size, most in sizes)
    deep = -(-k // depth)
    assert (groups - 1) * -(-deep // groups) < deep
    if small and not turned_b:
        assert height * width * depth <= products.SMALL


def test_a_blas_without_such_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has no address, which is 0."""
    monkeypatch.setattr(products, "blas_function", lambda name: None)
    assert products.gemm_address.__wrapped__("f") == 0


def test_products_that_are_not_for_c() -> None:
    """Other types, small ones, vectors, and what does not lie in rows or columns."""
    a, b, out = (np.ones((256, 256), np.float32) for _ in range(3))
    with threadpool_limits(1):
        compiled.use_threads(2)
        try:
            assert products.by_gemm(a, b, out)
            for left, right, place in (
                (a.astype(float), b, out),
                (a[:, ::2], b[:128], out),
                (a, b, np.empty((256, 512), np.float32)[:, ::2]),
                (a[:4], b, out[:4]),
                (a[:, :8], b[:8], out),
            ):
                assert not products.by_gemm(left, right, place)
        finally:
            compiled.use_threads(1)


def test_threads_are_given_back() -> None:
    """Within, a product has one thread and C's loops have those that it was allowed; afterwards, also after an error,
    it is as before."""
    threads_of_blas, _ = backend.blas_threads()
    there = lambda: (threads_of_blas(), compiled.threads())
    with threadpool_limits(2):
        with backend.AllThreadsInC():
            inside = there()
            with backend.AllThreadsInC():  # one is allowed now: nothing changes
                assert there() == inside == (1, min(2, os.cpu_count() or 1))
            assert there() == inside
        assert there() == (2, 1)
        with pytest.raises(ZeroDivisionError), backend.AllThreadsInC():
            _ = 1 / 0
        assert there() == (2, 1)


@pytest.mark.parametrize("dtype", EPSILON)
def test_threads_change_nothing(dtype: str) -> None:
    """To the last bit the same with one, two and three threads: each number is made by one of them, in one order."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(dtype)
    x, w, y, weight, logits = (
        normal(9, 32, 16, 14),
        normal(32, 32, 3, 3),
        normal(9, 32, 16, 14),
        normal(32),
        normal(999, 20),
    )
    rows, labels = normal(9, 500, 32), rng.integers(0, 20, 999)
    how = ((1, 1), (1, 1), (1, 1))

    def work() -> list[np.ndarray]:
        out, saved = normalization.normalize(rows, weight, weight, 4, 1e-5, False, True)
        of_rows = normalization.normalize_gradients(rows, saved, rows, weight, weight, 4, 1e-5, False, True)
        both = convolution.gradients(x, w, y, (True, True), *how)
        patches = gather(x, w, weight, *how), convolution.weight_by_gathering(x, y, (3, 3), *how)
        back = convolution.scatter(y, w, weight, (16, 14), *how)
        adjoints = convolution.both_adjoints_by_tiles(x, w, y, (1, 1), convolution.TILINGS[0])
        of_batch = normalization.normalize(rows, weight, weight, 32, 1e-5, True, False)
        entropy = softmax.cross_entropy(logits, labels), softmax.softmax(logits), softmax.softmax_slope(logits, logits)
        return arrays(
            [out, of_rows, convolution.convolve(x, w, None, *how), both, patches, back, adjoints, of_batch, entropy]
        )

    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            found.append(work())
    for one, two, three in zip(*found, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


def test_memory_that_is_not_contiguous_is_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        compiled.address(np.ones((4, 4))[:, ::2])
    constant = np.broadcast_to(np.ones(()), (1,))  # can't be written to
    assert compiled.address(constant) == constant.ctypes.data
    assert compiled.address(np.ones((0, 3))) != 0


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`library` as in a process that has none yet, with an empty cache."""
    monkeypatch.setenv("NANOGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "library", compiled.library.__wrapped__)
    return tmp_path / "compiled"


def test_no_compiler(afresh: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """None at hand, or none wanted: no functions and not a word."""
    for command in ("", "no-such-compiler-at-all"):
        monkeypatch.setenv("CC", command)
        assert compiled.library("f") is None
    assert not recwarn.list
    assert not afresh.exists()


def test_a_compiler_that_fails(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so once, with what it said, and leaves nothing behind."""
    command = afresh.parent / "cc"
    command.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo cannot do this >&2; exit 1; }\n')
    command.chmod(0o755)
    monkeypatch.setenv("CC", str(command))
    with pytest.warns(UserWarning, match=r"(?s)no C functions.*cannot do this"):
        assert compiled.library("f") is None
    assert list(afresh.iterdir()) == []


def test_a_cache_whose_path_is_no_text(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no library then: threadpoolctl, which reads the paths of all that are loaded as UTF-8, would fail."""
    monkeypatch.setenv("NANOGEN_CACHE", str(afresh.parent / "caf\udce9"))
    with pytest.warns(UserWarning, match=r"no C functions.*utf-8"):
        assert compiled.library("f") is None


def test_the_library_is_made_once(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for another type, other sources or another compiler; nothing else is left in the cache."""
    first = compiled.library("f")
    assert first is not None
    (made,) = afresh.iterdir()
    before = made.stat().st_mtime_ns
    compiled.library("f")
    assert [path.stat().st_mtime_ns for path in afresh.iterdir()] == [before]
    command, sources = ["cc", "-O1"], sorted(compiled.PACKAGE.rglob("*.c"))
    names = {
        compiled.name_of(command, sources),
        compiled.name_of(["cc"], sources),
        compiled.name_of(command, sources[1:]),
    }
    assert len(names) == 3
    compiled.library("d")
    assert len(list(afresh.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork() -> None:
    """OpenMP's threads do not come along in a fork, and it would wait for them for ever: there one thread does all."""
    x = np.ones(10**6, np.float32)

    def work() -> None:
        with threadpool_limits(2):
            backend.by_element(activation.silu, x)

    work()
    if not (process := os.fork()):
        try:
            work()
            os._exit(compiled.threads() - 1)
        finally:
            os._exit(2)
    for _ in range(1000):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        time.sleep(0.02)
    else:
        os.kill(process, 9)
        os.waitpid(process, 0)
    assert (ended, status) == (process, 0)
