"""The CUDA kernels without a GPU: compiled as C++ and run thread by thread (`strict/cuda.py`), against their forms in
NumPy, in blocks of any size; and what such a run notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strict import compiled, cuda, device

from nanogen import backend
from nanogen.kernels import convolution, joining, normalization, reduction, softmax

SOURCES = {
    "convolution": convolution.SOURCE,
    "softmax": softmax.SOURCE,
    "normalization": normalization.SOURCE,
    "reduction": reduction.SOURCE,
    "joining": joining.SOURCE,
}
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}  # of the largest number: some roundings
BLOCKS = st.tuples(st.integers(1, 5), st.integers(1, 4))


@pytest.fixture
def cp() -> Iterator[Any]:
    with device.installed() as module:
        yield module


def on_device(cp: Any, array: np.ndarray, turned: bool) -> Any:
    """The array there; turned, its numbers lie in memory with the last axis first."""
    return cp.asarray(np.ascontiguousarray(array.T)).T if turned else cp.asarray(array)


def assert_near(found: Any, expected: np.ndarray) -> None:
    """On the device, of its type; NaN where NaN is expected."""
    assert (type(found), found.dtype, found.shape) == (device.ndarray, expected.dtype, expected.shape)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(found.get(), expected, rtol=0, atol=TOLERANCE[expected.dtype.name] * scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(st.integers(0, 99), st.integers(0, 9), st.integers(1, 7), BLOCKS, st.booleans())
def test_cross_entropy(dtype: str, seed: int, rows: int, classes: int, block: Any, turned: bool) -> None:
    """Loss and slope of the kernels are those of NumPy's forms, for any number of rows, classes and threads, and for
    logits and labels (of another type) that do not lie one after the other; a logit of −∞ or of 80 does no harm."""
    rng = np.random.default_rng(seed)
    logits, g = 3 * rng.normal(size=(rows, classes)).astype(dtype), rng.normal(size=rows).astype(dtype)
    logits[rng.uniform(size=logits.shape) < 0.1] = 80
    logits[rng.uniform(size=logits.shape) < 0.1] = -np.inf
    labels = rng.integers(0, classes, rows)
    with np.errstate(invalid="ignore"):  # a row of −∞ alone
        loss, saved = softmax.cross_entropy(logits, labels)
        slope = softmax.cross_entropy_slope(g, logits, labels, *saved)
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        there = [cp.asarray(a) for a in (g, logits, labels)]
        if turned:
            small = labels.astype("int32")
            there = [cp.asarray(np.repeat(a.T, 2).reshape(*a.T.shape, 2))[..., 0].T for a in (g, logits, small)]
        found, kept = softmax.cross_entropy(*there[1:])
        assert_near(found, loss)
        for one, other in zip(kept, saved, strict=True):
            assert_near(one, other)
        assert_near(softmax.cross_entropy_slope(*there, *kept), slope)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(st.integers(0, 99), st.integers(0, 9), st.integers(1, 7), BLOCKS, st.booleans())
def test_softmax(dtype: str, seed: int, rows: int, classes: int, block: Any, turned: bool) -> None:
    """Softmax and slope of the kernels are those of NumPy's forms, for any number of rows, classes and threads, and for
    arrays that do not lie one row after the other; a logit of −∞ or of 1000 does no harm, a row of −∞ alone is NaN."""
    rng = np.random.default_rng(seed)
    logits, g = (3 * rng.normal(size=(rows, classes)).astype(dtype) for _ in range(2))
    logits[rng.uniform(size=logits.shape) < 0.1] = 1000
    logits[rng.uniform(size=logits.shape) < 0.1] = -np.inf
    with np.errstate(invalid="ignore"):
        out = softmax.softmax.form(logits)
        slope = softmax.softmax_slope.form(g.astype("float64"), out)
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        there = [on_device(cp, a, turned) for a in (logits, g)]
        assert_near(softmax.softmax(there[0]), out)
        assert_near(softmax.softmax_slope(there[1].astype("float64"), cp.asarray(out)), slope)
        assert_near(softmax.softmax_slope(there[1], cp.asarray(out)), slope.astype(dtype))


@given(st.integers(0, 10**6), st.integers(0, 300))
def test_a_warp_a_row(rows: int, classes: int) -> None:
    """A row is for a warp at most, which waits for nobody else; no thread has no class; and every row has a thread."""
    (blocks,), (each, together) = backend.shared_out(rows, classes)
    assert each == (classes if 0 < classes < 32 else 32 if classes else 1)
    assert backend.THREADS - each < each * together <= backend.THREADS
    assert (blocks - 1) * together < rows <= blocks * together


def test_a_label_that_is_no_class_has_no_loss(cp: Any) -> None:
    """On a GPU labels are not looked at before: a wrong one gives NaN, where the memory beside would give a number."""
    labels = cp.asarray(np.array([0, 3, -1, 2]))
    loss, _ = softmax.cross_entropy(cp.asarray(np.ones((4, 3))), labels)
    assert np.isnan(loss.get()).tolist() == [False, True, True, False]


def normalised(module: Any, rows: Any, g: Any, weight: Any, bias: Any, how: tuple[Any, ...]) -> list[Any]:
    """Output and gradients, from the forms for the device where the arrays are put."""
    rows, g, weight, bias = (module.asarray(a) for a in (rows, g, weight, bias))
    out, saved = normalization.normalize(rows, weight, bias, *how)
    again, _ = normalization.normalize(rows, weight, bias, *how, normalization.moments(rows, how[0], how[2]))
    return [out, again, *normalization.normalize_gradients(g, saved, rows, weight, bias, *how)]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=3 * settings().max_examples)
@given(
    st.integers(0, 99), st.tuples(st.integers(0, 4), st.integers(1, 7)), st.integers(1, 5), st.integers(1, 3), BLOCKS,
    st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 5, 8]),
)  # fmt: skip
def test_normalisation(dtype, seed, size, groups, each, block, over_batch, own, gated, fetched):
    """Output and gradients of the kernels are those of NumPy's forms in float64, for any number of images, pixels,
    groups and threads, one group a block or several; over images, with weights of all or each one's own, and over the
    batch; with SiLU and without."""
    rng, c, how = np.random.default_rng(seed), groups * each, (groups, 0.1, over_batch, gated)
    of = (size[0], c) if own and not over_batch else (c,)
    rows, g = rng.normal(1.0, 2.0, (*size, c)).astype(dtype), rng.normal(size=(*size, c)).astype(dtype)
    weight, bias = rng.normal(size=of).astype(dtype), rng.normal(size=of).astype(dtype)
    with np.errstate(all="ignore"):  # moments of nothing
        exact = normalised(np, *(a.astype("float64") for a in (rows, g, weight, bias)), how)
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        patch.setattr(normalization, "FETCHED", fetched)
        for found, expected in zip(normalised(cp, rows, g, weight, bias, how), exact, strict=True):
            assert_near(found, expected.astype(dtype))


def test_images_of_no_pixels(cp: Any) -> None:
    """Nothing comes out, and the gradients of weight and bias are sums of nothing."""
    for over_batch in (False, True):
        nothing = np.ones((2, 0, 4))
        out, _, dx, *slopes = normalised(cp, nothing, nothing, np.ones(4), np.ones(4), (2, 0.1, over_batch, True))
        assert out.shape == dx.shape == nothing.shape
        assert [slope.get().tolist() for slope in slopes] == [[0.0] * 4] * 2


@pytest.mark.parametrize("over_batch", [False, True])
def test_moments(cp: Any, over_batch: bool) -> None:
    """Mean and variance of each column's group; where all numbers are near 10,000 too, to as many digits."""
    rows = 1e4 + np.random.default_rng(0).normal(size=(3, 20, 6))
    for dtype in TOLERANCE:
        there = cp.asarray(rows.astype(dtype))
        exact = normalization.moments(rows.astype(dtype).astype("float64"), 3, over_batch)
        for found, expected in zip(normalization.moments(there, 3, over_batch), exact, strict=True):
            assert_near(found, expected.astype(dtype))


@given(st.integers(0, 99), st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(1, 9)), BLOCKS, st.booleans())
def test_column_sums(seed: int, shape: Any, block: Any, turned: bool) -> None:
    """Σ over the rows of each image, of integers exactly, for any number of images, rows, columns and threads."""
    (rows,) = integers(seed, shape)
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        there = on_device(cp, rows, turned)
        np.testing.assert_array_equal(reduction.column_sums(there).get(), rows.sum(axis=1))


@given(st.integers(0, 99), st.lists(st.integers(0, 40), min_size=1, max_size=40), BLOCKS, st.booleans())
@example(0, [3, 1, 0, 2] * 9, (2, 1), True)  # three launches
def test_join(seed: int, sizes: list[int], block: Any, turned: bool) -> None:
    """Every array comes to its part, however many there are, of any sizes, 0 too, and another type, and wherever their
    numbers lie; for any number of threads."""
    arrays = integers(seed, *[(size, 2) for size in sizes], dtype="float32")
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        there = [on_device(cp, a, turned) for a in arrays]
        whole, ends = cp.full(2 * sum(sizes), np.nan), 2 * np.cumsum(sizes)
        parts = [whole[end - a.size : end].reshape(a.shape) for a, end in zip(arrays, ends.tolist(), strict=True)]
        joining.join(whole, parts, there)
        np.testing.assert_array_equal(whole.get(), np.concatenate([a.ravel() for a in arrays]))


def integers(seed: int, *shapes: tuple[int, ...], dtype: Any = "float64") -> list[np.ndarray]:
    """Of sums and products of these every digit is kept."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def assert_exact(results: Callable[[Any], list[Any]], block: tuple[int, int]) -> None:
    """The same numbers from the kernels, in blocks of some size, as from NumPy's forms, to the last bit."""
    expected = results(np)
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        for found, right in zip(results(cp), expected, strict=True):
            assert (found.dtype, found.shape) == (right.dtype, right.shape)
            np.testing.assert_array_equal(found.get(), right)


SIZES = st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))  # N, C, H, W
TWO, FROM_ONE = (st.tuples(st.integers(least, 3), st.integers(least, 3)) for least in (0, 1))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("F", convolution.TILINGS)
@given(st.integers(0, 99), SIZES, st.integers(1, 4), TWO, st.booleans(), st.booleans(), BLOCKS)
def test_tiles(F: Any, dtype: str, seed: int, of: Any, o: int, padding: Any, biased: bool, turned: bool, block: Any):
    """Bᵀ d of tiles, Aᵀ m with a bias or none, and their adjoints are exactly those of NumPy's forms, for images and
    paddings of any size, in memory channels last or not, and any number of threads."""
    n, c, *size = of
    kernel, stride = (F.r * F.s,) * 2, (F.s, F.s)
    places = convolution.output_size(tuple(size), kernel, stride, padding, (1, 1))
    if min(places) < 1:
        return
    counts = convolution.tile_counts(places)
    tiles = n * counts[0] * counts[1]
    x, y, of_x, of_y = integers(seed, of, (n, o, *places), (F.t**2, tiles, F.s**2 * c), (F.t**2, tiles, o), dtype=dtype)
    (bias,) = integers(seed + 1, (o,))  # of another type or not
    if turned:
        x, y = convolution.in_order(x), convolution.in_order(y)

    def results(xp: Any) -> list[Any]:
        arrays = [xp.asarray(a) for a in (x, y, of_x, of_y, bias)]
        images, outputs = xp.empty((n, *size, c), dtype), xp.empty((n, *places, o), dtype)
        convolution.add_tiles(arrays[2], images, padding, counts, F)
        convolution.put_tiles(arrays[3], arrays[4] if biased else None, outputs, F)
        there = convolution.tiles(arrays[0], padding, counts, np.dtype(dtype), F)
        return [there, convolution.slopes_of_tiles(arrays[1], np.dtype(dtype), F), images, outputs]

    assert_exact(results, block)


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(st.integers(0, 99), SIZES, FROM_ONE, FROM_ONE, TWO, FROM_ONE, TWO, BLOCKS)
def test_patches(
    dtype: str, seed: int, of: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, more: Any, block
):
    """The pixels under a kernel, and what falls on each pixel, are exactly those of NumPy's forms, for any kernel,
    stride, padding, dilation, more places than padding on both sides gives, and any number of threads."""
    n, c, *size = of
    places = convolution.output_size(tuple(size), kernel, stride, padding, dilation)
    if min(places) < 1:
        return
    wider = tuple(p + m for p, m in zip(places, more, strict=True))
    once = convolution.output_size(tuple(size), kernel, stride, padding, (1, 1))
    x, products = integers(seed, of, (n, *once, *kernel, c), dtype=dtype)

    def results(xp: Any) -> list[Any]:
        sums = xp.empty((n, *size, c), dtype)
        convolution.add_patches(xp.asarray(products), sums, stride, padding)
        return [convolution.patches(xp.asarray(x), kernel, stride, padding, dilation, wider), sums]

    assert_exact(results, block)


@given(st.integers(0, 99), st.integers(0, 40), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2000))
def test_sums_over_tiles(seed: int, tiles: int, o: int, c: int, least: int) -> None:
    """Σ over tiles of slopes times tiles in each coordinate, in groups or not: the same integers."""
    slopes, of_x = integers(seed, (9, tiles, o), (9, tiles, c))
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "LEAST_SUMS", least)
        found = convolution.sums_over_tiles(cp.asarray(slopes), cp.asarray(of_x))
        np.testing.assert_array_equal(found.get(), np.einsum("tno,tnc->toc", slopes, of_x))


def test_few_sums_are_taken_in_groups(cp: Any, monkeypatch: Any) -> None:
    """As many groups as LEAST_SUMS numbers take, the next power of two; fewer where the tiles do not divide by it."""
    seen = []
    monkeypatch.setattr(convolution, "product", lambda a, b: seen.append(a.shape[1]) or a @ b)
    monkeypatch.setattr(convolution, "LEAST_SUMS", 9 * 6 * 10)
    for tiles in (64, 48, 24, 5):
        convolution.sums_over_tiles(cp.ones((9, tiles, 2)), cp.ones((9, tiles, 3)))
    convolution.sums_over_tiles(cp.ones((9, 64, 6)), cp.ones((9, 64, 10)))
    assert seen == [16, 16, 8, 1, 1]


@given(st.integers(0, 9), st.integers(1, 600), st.integers(1, 40))
def test_blocks_have_whole_groups(images: int, groups: int, each: int) -> None:
    """A block has neighbouring columns of one image: as many as are fetched at once, but whole groups; its threads are
    at most a warp wide, and there is none without a column."""
    channels, most = groups * each, normalization.FETCHED
    columns, (along, across), (wide, high) = normalization.sizes(images, channels, each)
    assert columns % each == 0
    assert columns == each or columns <= most < columns + each
    assert (along, across) == (images, -(-channels // columns))
    assert wide == (columns if columns < 32 else 32)
    assert normalization.THREADS - wide < wide * high <= normalization.THREADS


def test_how_many_launches_there_are(cp: Any) -> None:
    """Sums of columns are one kernel, as is what brings up to 16 arrays to their places; softmax, cross-entropy and
    group norm are one each way; what goes around the products of a convolution is one before and one after. Over the
    batch each step waits for all blocks of the one before: the moments are four, the output a fifth, and the gradient
    two. With known moments, one."""
    rows, ones = cp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6))), cp.ones(6)
    labels, found = cp.zeros(12, np.int64), []

    def counted(work: Callable[[], Any]) -> Any:
        before, result = cuda.launches, work()
        found.append(cuda.launches - before)
        return result

    loss, saved = counted(lambda: softmax.cross_entropy(rows.reshape(12, 6), labels))
    counted(lambda: softmax.cross_entropy_slope(loss, rows.reshape(12, 6), labels, *saved))
    counted(lambda: softmax.softmax_slope(ones[None], softmax.softmax(ones[None])))
    counted(lambda: reduction.column_sums(rows))
    for many in (16, 17):
        counted(lambda many=many: joining.join(cp.ones(many), cp.ones((many, 1)), cp.ones((many, 1))))
    for over_batch in (False, True):
        how = (rows, ones, ones, 3, 0.1, over_batch, True)
        counted(lambda over_batch=over_batch: normalization.moments(rows, 3, over_batch))
        out, saved = counted(lambda how=how: normalization.normalize(*how))
        known = normalization.moments(rows, 3, over_batch)
        counted(lambda how=how, known=known: normalization.normalize(*how, known))
        counted(lambda saved=saved, out=out, how=how: normalization.normalize_gradients(out, saved, *how))
    x, w, y, (F, _) = cp.ones((2, 3, 8, 8)), cp.ones((5, 3, 3, 3)), cp.ones((2, 5, 8, 8)), convolution.TILINGS
    how = ((1, 1), (1, 1), (1, 1), (8, 8))
    counted(lambda: convolution.by_tiles(x, w, cp.ones(5), (1, 1), F, (8, 8)))
    counted(lambda: convolution.both_by_tiles(x, w, y, (1, 1), F))
    counted(lambda: convolution.both_adjoints_by_tiles(x, w, y, (1, 1), F))
    counted(lambda: convolution.gather(x, w, None, *how))
    counted(lambda: convolution.scatter(y, w, None, (8, 8), *how[:3]))
    assert found == [1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 4, 5, 1, 2, 2, 3, 3, 1, 1]


def test_layouts(cp: Any) -> None:
    """Rows and gradients that do not lie one after the other, and weights of another type."""
    rng, how = np.random.default_rng(0), (2, 0.1, False, True)
    rows, g = rng.normal(size=(6, 5, 3)).T, rng.normal(size=(3, 6, 5)).swapaxes(1, 2)
    assert not any(cp.asarray(a).flags.c_contiguous for a in (rows, g))
    weight, bias = (rng.normal(size=6).astype("float32") for _ in range(2))
    for found, expected in zip(normalised(cp, rows, g, weight, bias, how), normalised(np, rows, g, weight, bias, how)):
        assert_near(found, expected)


def test_blocks_as_they_are_launched(cp: Any, monkeypatch: Any) -> None:
    """With the numbers of threads that a GPU is told, and more rows, columns and pixels than one block has threads."""
    monkeypatch.setattr(device, "LARGEST_BLOCK", (1024, 1024))
    rng = np.random.default_rng(0)
    for classes in (3, 40):
        logits, labels, g = rng.normal(size=(100, classes)), rng.integers(0, classes, 100), rng.normal(size=100)
        loss, saved = softmax.cross_entropy(cp.asarray(logits), cp.asarray(labels))
        expected, kept = softmax.cross_entropy(logits, labels)
        assert_near(loss, expected)
        slope = softmax.cross_entropy_slope(cp.asarray(g), cp.asarray(logits), cp.asarray(labels), *saved)
        assert_near(slope, softmax.cross_entropy_slope(g, logits, labels, *kept))
    for c, groups, over_batch in ((40, 1, False), (12, 3, False), (12, 12, True)):
        rows, g, how = rng.normal(size=(2, 70, c)), rng.normal(size=(2, 70, c)), (groups, 0.1, over_batch, True)
        weight, bias = rng.normal(size=c), rng.normal(size=c)
        there, here = (normalised(module, rows, g, weight, bias, how) for module in (cp, np))
        for found, expected in zip(there, here, strict=True):
            assert_near(found, expected)


def calls() -> dict[str, Callable[[Any], None]]:
    """Of each source, what launches all of its kernels."""
    rng = np.random.default_rng(0)
    rows, labels, g = rng.normal(size=(5, 7)), np.arange(5), rng.normal(size=5)

    def softmaxes(cp: Any) -> None:
        there = [cp.asarray(a) for a in (g, rows, labels)]
        softmax.softmax_slope(there[1], softmax.softmax(there[1]))
        softmax.cross_entropy_slope(*there, *softmax.cross_entropy(*there[1:])[1])

    def normalisations(cp: Any) -> None:
        rows, g, weight, bias = (rng.normal(size=shape) for shape in ((2, 9, 6), (2, 9, 6), 6, 6))
        normalised(cp, rows, g, weight, bias, (2, 0.1, False, True))

    return {"softmax": softmaxes, "normalization": normalisations}


BARRIER = "__syncthreads();"
BARRIERS = [(name, i) for name in calls() for i in range(SOURCES[name].count(BARRIER))]  # others have no more


def without_barrier(name: str, i: int) -> str:
    """A source without its i-th barrier."""
    parts = SOURCES[name].split(BARRIER)
    return BARRIER.join(parts[: i + 1]) + ";" + BARRIER.join(parts[i + 1 :])


@pytest.mark.parametrize(("name", "i"), BARRIERS)
def test_no_barrier_can_be_left_out(cp: Any, monkeypatch: Any, name: str, i: int) -> None:
    """Without any one `__syncthreads()` the numbers depend on which thread comes first, which a run notices."""
    without, launch = without_barrier(name, i), cuda.run
    monkeypatch.setattr(device, "LARGEST_BLOCK", (4, 3))
    monkeypatch.setattr(cuda, "run", lambda code, *how: launch(code.replace(SOURCES[name], without), *how))
    with pytest.raises(RuntimeError, match="a barrier"):
        calls()[name](cp)


@pytest.mark.parametrize(("name", "real"), list(itertools.product(SOURCES, ("float", "double"))))
def test_cupys_compiler_takes_the_source(name: str, real: str) -> None:
    """Where CuPy is installed, GPU or not, NVRTC makes a GPU's code of it."""
    pytest.importorskip("cupy")
    assert len(compiled.compiled_source(f"typedef {real} Real;\n{SOURCES[name]}")) > 1000


KERNEL = 'extern "C" __global__ void add(const double* x, double* y, long long n) {{ int i = threadIdx.x; {} }}'
SUM = "__shared__ double s[3]; s[i] = x[i]; {} y[i] = s[0] + s[1] + s[2];"
NOTICED: dict[str, tuple[str, str]] = {
    "a barrier is missing": (SUM.format(""), "which thread comes first"),
    "a barrier for some": ("if (i < 2) __syncthreads(); y[i] = x[i];", "not all threads"),
    "blocks that need each other": ("y[i] = blockIdx.x + (blockIdx.x ? y[0] : 0);", "comes first"),
    "written behind the end": ("y[i + 1] = x[i];", "outside"),
    "written before the beginning": ("y[i - 1] = x[i];", "outside"),
    "written into what is constant": ("((double*)x)[i] = 1;", "constant"),
}


@pytest.mark.parametrize("mistake", NOTICED)
def test_what_a_run_notices(cp: Any, mistake: str) -> None:
    """Mistakes of kernels that a GPU forgives until it does not."""
    body, message = NOTICED[mistake]
    x, y = cp.asarray(np.arange(3.0)), cp.zeros(3)
    with pytest.raises(RuntimeError, match=message):
        cp.RawKernel(KERNEL.format(body), "add")((2,), (3,), (x, y, 3))
    assert y.get().tolist() == [0.0] * 3


def test_a_kernel_runs(cp: Any, monkeypatch: Any) -> None:
    """Every thread of every block at its place; what is read outside, or was never written, is NaN; with its
    barrier, the sum is right."""
    monkeypatch.setattr(device, "LARGEST_BLOCK", (4, 2, 3))
    places = """extern "C" __global__ void places(long long* y) {
        int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        y[b * blockDim.x * blockDim.y * blockDim.z + t] += 100 * b + t; }"""
    y = cp.zeros(3 * 2 * 2 * 24, np.int64)
    cp.RawKernel(places, "places")((3, 2, 2), (4, 2, 3), (y,))
    assert y.get().tolist() == [100 * b + t for b in range(12) for t in range(24)]
    x, y = cp.asarray(np.arange(3.0)), cp.zeros(3)
    cp.RawKernel(KERNEL.format(SUM.format(BARRIER)), "add")((1,), (3,), (x, y, 3))
    assert y.get().tolist() == [3.0] * 3
    cp.RawKernel(KERNEL.format("y[i] = x[i - 1] + x[i + 1];"), "add")((1,), (3,), (x, y, 3))
    assert np.isnan(y.get()).tolist() == [True, False, True]
    cp.RawKernel(KERNEL.format("__shared__ double s[3]; y[i] = s[i]; s[i] = i;"), "add")((2,), (3,), (x, y, 3))
    assert np.isnan(y.get()).all()


ADD = KERNEL.format("y[i] += x[i];")
REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "a host array": lambda cp, x: (np.ones(3), x, 3),
    "another type of array": lambda cp, x: (x.astype(np.float32), x, 3),
    "another type of number": lambda cp, x: (x, x, np.int32(3)),
    "a truth": lambda cp, x: (x, x, True),
    "a float for an integer": lambda cp, x: (x, x, 3.0),
    "a number for an array": lambda cp, x: (x, 1.0, 3),
    "an array for a number": lambda cp, x: (x, x, x),
    "an argument too few": lambda cp, x: (x, x),
    "a view that does not lie as it looks": lambda cp, x: (x[::-1], x, 3),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_kernel_is_not_given(cp: Any, what: str) -> None:
    """CuPy hands a kernel the bytes that it is given, whatever they are; the stand-in looks."""
    x = cp.asarray(np.arange(3.0))
    with pytest.raises(TypeError):
        cp.RawKernel(ADD, "add")((1,), (3,), REFUSED[what](cp, x))
    assert x.get().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("grid", "block"), [((0,), (1,)), ((1, 65536), (1,)), ((1,), (32, 33)), ((1,), (1, 1, 65))])
def test_what_a_gpu_does_not_take(cp: Any, monkeypatch: Any, grid: Any, block: Any) -> None:
    """No blocks, too many, too large ones: the launch is an error."""
    monkeypatch.setattr(device, "LARGEST_BLOCK", (2048,) * 3)
    x = cp.zeros(3)
    with pytest.raises(ValueError, match="a GPU takes no grid"):
        cp.RawKernel(ADD, "add")(grid, block, (x, x, 3))


def test_without_a_compiler(cp: Any, monkeypatch: Any) -> None:
    """Where there is no g++ a test that needs a kernel is skipped, and says why."""
    monkeypatch.setattr(cuda.shutil, "which", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match=r"needs g\+\+"):
        cp.RawKernel(ADD + "// another source", "add")((1,), (3,), (cp.zeros(3), cp.zeros(3), 3))


def test_launch_says_what_it_takes(cp: Any) -> None:
    """`Real` is one of two types; a grid of no blocks is left alone; a source that does not compile is an error."""
    with pytest.raises(TypeError, match="float32 or float64, got int64"):
        backend.launch(ADD, "add", (1,), (1,), cp.zeros(3, np.int64))
    backend.launch("nonsense", "add", (0, 2), (1,), cp.zeros(3))
    with pytest.raises(ValueError, match="no kernel"):
        backend.launch('extern "C" __global__ void add(Real* x) { nonsense; }', "add", (1,), (1,), cp.zeros(3))
