"""The CUDA kernels without a GPU: compiled as C++ and run thread by thread (`strict/cuda.py`), against the plain forms,
in blocks of any size; and what such a run notices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers import leaf, plain_forms
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strict import compiled, cuda, device

import nanogen as ng
from nanogen.backend import moving_average
from nanogen.functional.activation import relu_gradient
from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight, output_size
from nanogen.functional.normalization import moments_of, normalize_groups
from nanogen.kernels import winograd
from nanogen.kernels.cuda import convolution, launch, normalization, updates
from nanogen.optim import adam

pytestmark = pytest.mark.stand_in
SOURCES = {
    "convolution": convolution.SOURCE,
    "normalization": normalization.SOURCE,
    "updates": updates.SOURCE,
}
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}  # of the largest number: some roundings
BLOCKS = st.tuples(st.integers(1, 5), st.integers(1, 4))


@pytest.fixture
def cp() -> Iterator[Any]:
    with device.installed() as module:
        yield module


def on_device(cp: Any, array: np.ndarray, transposed: bool) -> Any:
    """The array there; transposed, its numbers lie in memory with the last axis first."""
    return cp.asarray(np.ascontiguousarray(array.T)).T if transposed else cp.asarray(array)


def assert_near(found: Any, expected: np.ndarray) -> None:
    """On the device, of its type; NaN where NaN is expected."""
    assert (type(found), found.dtype, found.shape) == (device.ndarray, expected.dtype, expected.shape)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(found.get(), expected, rtol=0, atol=TOLERANCE[expected.dtype.name] * scale)


def by_plain_form(operation: Any, arrays: list[np.ndarray], g: np.ndarray, **how: Any) -> list[np.ndarray]:
    """The output of an operation and the gradients of its inputs, in NumPy."""
    with plain_forms(), np.errstate(all="ignore"):
        inputs = [leaf(array) for array in arrays]
        out = operation(*inputs, **how)
        return [out.data, *(found.data for found in ng.grad(out, inputs, g))]


def by_kernel(operation: Any, arrays: list[Any], g: Any, **how: Any) -> list[Any]:
    """The same by the operation's kernel for a GPU."""
    forward, gradient = operation.kernels["cuda"]
    out, saved = forward(*arrays, **how)
    return [out, *gradient(g, saved, *arrays, wanted=[True] * len(arrays), **how)]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_relu_lets_no_infinity_through(cp: Any, dtype: str) -> None:
    """Where its output is 0 the gradient is 0, whatever comes back; a NaN is let through."""
    g, y = np.array([np.inf, np.nan, 3.0, np.inf, 2.0], dtype), np.array([0.0, 0.0, np.nan, 1.0, -0.0], dtype)
    found = relu_gradient.kernels["cuda"][0](cp.asarray(g), cp.asarray(y))
    np.testing.assert_array_equal(found.get(), relu_gradient.plain(g, y))
    assert found.dtype == dtype


@given(st.integers(0, 10**6), st.integers(0, 300))
def test_a_warp_a_row(rows: int, classes: int) -> None:
    """A row is for a warp at most, which waits for nobody else; no thread has no class; and every row has a thread."""
    (blocks,), (each, together) = launch.launch_grid(rows, classes)
    assert each == (classes if 0 < classes < 32 else 32 if classes else 1)
    assert launch.THREADS - each < each * together <= launch.THREADS
    assert (blocks - 1) * together < rows <= blocks * together


def normalized(cp: Any, arrays: list[np.ndarray], g: np.ndarray, how: dict[str, Any], known: bool = False) -> Any:
    """Output and gradients of `normalize_groups` by its kernels; over the batch, with moments that are known or not."""
    there = [cp.asarray(a) for a in arrays]
    moments = moments_of.kernels["cuda"][0](there[0]) if known else None
    return by_kernel(normalize_groups, there, cp.asarray(g), **how, moments=moments)


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=3 * settings().max_examples)
@given(
    st.integers(0, 99), st.tuples(st.integers(1, 4), st.integers(1, 7)), st.integers(1, 5), st.integers(1, 3), BLOCKS,
    st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1, 5, 8]),
)  # fmt: skip
def test_normalisation(dtype, seed, size, groups, each, block, over_batch, known, own, gated, fetched):
    """Output and gradients of the kernels are those of the plain form in float64, for any number of images, pixels,
    groups and threads, one group a block or several; over images, with weights of all or each one's own, and over the
    batch, with moments that are known or not; with SiLU and without."""
    rng, (n, pixels), c = np.random.default_rng(seed), size, groups if over_batch else groups * each
    how = {"groups": groups, "eps": 0.1, "over_batch": over_batch, "gated": gated}
    of = (n, c) if own and not over_batch else (c,)
    x, g = rng.normal(1.0, 2.0, (n, c, pixels)).astype(dtype), rng.normal(size=(n, c, pixels)).astype(dtype)
    arrays = [x, rng.normal(size=of).astype(dtype), rng.normal(size=of).astype(dtype)]
    exact = by_plain_form(normalize_groups, [a.astype("float64") for a in arrays], g.astype("float64"), **how)
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        patch.setattr(normalization, "FETCHED", fetched)
        found = normalized(cp, arrays, g, how, known and over_batch)
        for one, other in zip(found, exact, strict=True):
            assert_near(one, other.astype(dtype))


def test_what_normalisation_leaves_to_the_plain_form(cp: Any) -> None:
    """No images or no pixels, groups over the batch, weights of another type."""
    how = {"groups": 2, "eps": 0.1, "over_batch": False, "gated": True, "moments": None}
    forward, _ = normalize_groups.kernels["cuda"]
    x, ones = cp.ones((2, 4, 3)), cp.ones(4)
    assert moments_of.kernels["cuda"][0](x[:0]) is NotImplemented
    for given_, changes in (
        ((x[:0], ones, ones), {}),
        ((x[:, :, :0], ones, ones), {}),
        ((x, ones, ones), {"over_batch": True}),
        ((x, ones.astype(np.float32), ones), {}),
    ):
        assert forward(*given_, **{**how, **changes}) is NotImplemented


def test_moments(cp: Any) -> None:
    """Mean and variance of each channel; where all numbers are near 10,000 too, to as many digits."""
    x = 1e4 + np.random.default_rng(0).normal(size=(3, 6, 20))
    for dtype in TOLERANCE:
        exact = moments_of.plain(x.astype(dtype).astype("float64"))
        for found, expected in zip(moments_of.kernels["cuda"][0](cp.asarray(x.astype(dtype))), exact, strict=True):
            assert_near(found, expected.astype(dtype))


PARAMETERS = st.lists(st.integers(0, 40), min_size=1, max_size=20)
UPDATES: dict[str, tuple[Any, int, dict[str, Any]]] = {  # the operation, of how many lists; settings, exact in float32
    "adam": (adam, 4, {"betas": (0.9, 0.999), "eps": 1e-3, "correction": 1.5, "rate": 0.125}),
    "moving average": (moving_average, 2, {"kept": 0.984375, "share": 0.015625}),
}
STEPPED = ("correction", "rate", "kept", "share")  # what changes from step to step


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", UPDATES)
@given(st.integers(0, 99), PARAMETERS, BLOCKS, st.booleans(), st.booleans())
@example(0, [3, 0, 1, 2] * 5, (2, 1), True, True)  # three launches
@example(0, [0, 0], (1, 1), False, False)  # none
@example(0, [600], (256, 1), False, True)  # several blocks
def test_updates(name: str, dtype: str, seed: int, sizes: Any, block: Any, transposed: bool, as_arrays: bool) -> None:
    """Every parameter and what is remembered of it change as in the plain form, however many there are, of any sizes, 0
    too, and wherever the numbers that are read lie; what changes from step to step is a number or an array of one."""
    operation, many, how = UPDATES[name]
    rng, reads = np.random.default_rng(seed), 1
    lists = [[rng.uniform(0.1, 1, (2, size)).astype(dtype) for size in sizes] for _ in range(many)]
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        there = [[on_device(cp, a, transposed and i == reads) for a in some] for i, some in enumerate(lists)]
        numbers = {key: cp.asarray(np.float32([x]))[0] for key, x in how.items() if as_arrays and key in STEPPED}
        assert operation.kernels["cuda"][0](*there, **{**how, **numbers}) is None
        operation.plain(*lists, **how)
        for found, expected in zip(itertools.chain(*there), itertools.chain(*lists), strict=True):
            assert_near(found, expected)


def test_what_updates_leave_to_the_plain_form(cp: Any) -> None:
    """Lists of several types, other types than float32 and float64, parameters that are not contiguous: unchanged."""
    whole = np.ones((2, 3))
    for average, value in (
        (cp.asarray(whole), cp.asarray(whole.astype("float32"))),
        (cp.asarray(whole.astype("float16")), cp.asarray(whole.astype("float16"))),
        (on_device(cp, whole, True), cp.asarray(whole)),
    ):
        assert moving_average.kernels["cuda"][0]([average], [value], kept=0.5, share=1.0) is NotImplemented
        assert (average.get() == 1).all()


def integers(seed: int, *shapes: tuple[int, ...], dtype: Any = "float64") -> list[np.ndarray]:
    """Of sums and products of these every digit is kept."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def channels_last(array: np.ndarray) -> np.ndarray:
    """The same images, in memory as the kernels leave theirs."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def assert_exact(found: Any, expected: list[np.ndarray]) -> None:
    """The same numbers to the last bit."""
    for one, other in zip(found, expected, strict=True):
        assert (type(one), one.dtype, one.shape) == (device.ndarray, other.dtype, other.shape)
        np.testing.assert_array_equal(one.get(), other)


SIZES = st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))  # N, C, H, W
TWO, FROM_ONE = (st.tuples(st.integers(least, 3), st.integers(least, 3)) for least in (0, 1))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("F", winograd.TILINGS)
@given(st.integers(0, 99), SIZES, st.integers(1, 4), TWO, TWO, st.booleans(), st.booleans(), BLOCKS)
def test_winograd(
    F: Any, dtype: str, seed: int, of: Any, o: int, padding: Any, more: Any, biased: bool, last: bool, block
):
    """Convolutions by tiles, with a bias or none, their adjoints, and both gradients at once, are exactly the plain
    forms, for images and paddings of any size, more places than padding on both sides gives, in memory channels last or
    not, and any number of threads."""
    n, c, *size = of
    kernel, stride = (F.r * F.s,) * 2, (F.s, F.s)
    places = output_size(tuple(size), kernel, stride, padding, (1, 1))
    if min(places) < 1:
        return
    places, how = tuple(np.add(places, more).tolist()), {"stride": stride, "padding": padding, "dilation": (1, 1)}
    x, w, y, bias = integers(seed, of, (o, c, *kernel), (n, o, *places), (o,), dtype=dtype)
    forward, weight = convolve.plain(x, w, size=places, **how), convolve_weight.plain(x, y, kernel=kernel, **how)
    adjoint = convolve_adjoint.plain(y, w, size=tuple(size), **how)
    x, y = (channels_last(a) if last else a for a in (x, y))
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        x, w, y, b = (cp.asarray(a) for a in (x, w, y, bias))
        found = convolution.winograd(x, w, b if biased else None, y, padding, F, places)
        assert_exact(found, [forward + bias[:, None, None] if biased else forward, weight])
        assert_exact(convolution.winograd_adjoint(y, w, x, padding, F, tuple(size)), [adjoint, weight])
        assert convolution.winograd(x, w, None, None, padding, F, places)[1] is None
        assert convolution.winograd(x, None, None, y, padding, F, places)[0] is None
        assert convolution.winograd_adjoint(y, w, None, padding, F, tuple(size))[1] is None


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(st.integers(0, 99), SIZES, st.integers(1, 4), FROM_ONE, FROM_ONE, TWO, FROM_ONE, TWO, st.booleans(), BLOCKS)
def test_patches(dtype, seed, of, o, kernel, stride, padding, dilation, more, biased, block):
    """Convolutions by patches, with a bias or none, and their adjoints are exactly the plain forms, for any kernel,
    stride, padding, dilation, more places than padding on both sides gives, and any number of threads."""
    n, c, *size = of
    places = output_size(tuple(size), kernel, stride, padding, dilation)
    if min(places) < 1:
        return
    places, how = tuple(np.add(places, more).tolist()), {"stride": stride, "padding": padding, "dilation": dilation}
    x, w, y, b, d = integers(seed, of, (o, c, *kernel), (n, o, *places), (o,), (c,), dtype=dtype)
    expected = [convolve.plain(x, w, size=places, **how), convolve_weight.plain(x, y, kernel=kernel, **how)]
    adjoint = convolve_adjoint.plain(y, w, size=tuple(size), **how)
    if biased:
        expected[0], adjoint = expected[0] + b[:, None, None], adjoint + d[:, None, None]
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "LARGEST_BLOCK", block)
        x, w, y, b, d = (cp.asarray(a) for a in (x, w, y, b, d))
        found = convolution.im2col(x, w, b if biased else None, y, kernel, *how.values(), places)
        assert_exact(found, expected)
        assert_exact([convolution.col2im(y, w, d if biased else None, tuple(size), *how.values())], [adjoint])


@given(st.integers(0, 99), st.integers(0, 40), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2000))
def test_sums_over_tiles(seed: int, tiles: int, o: int, c: int, least: int) -> None:
    """Σ over tiles of gradients times tiles in each coordinate, in groups or not: the same integers."""
    of_y, of_x = integers(seed, (9, tiles, o), (9, tiles, c))
    with device.installed() as cp, pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "LEAST_SUMS", least)
        found = convolution.sums_over_tiles(cp.asarray(of_y), cp.asarray(of_x))
        np.testing.assert_array_equal(found.get(), np.einsum("tno,tnc->toc", of_y, of_x))


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
    columns, (along, across), (wide, high) = normalization.launch_sizes(images, channels, each)
    assert columns % each == 0
    assert columns == each or columns <= most < columns + each
    assert (along, across) == (images, -(-channels // columns))
    assert wide == (columns if columns < 32 else 32)
    assert launch.THREADS - wide < wide * high <= launch.THREADS


def test_how_many_launches_there_are(cp: Any) -> None:
    """The update of up to 8 parameters is one kernel; group norm is one each way; what goes around the products of a
    convolution is one before and one after.  Over the batch each step waits for all blocks of the one before: the
    moments are four, the output a fifth, and the gradient two.  With known moments, one."""
    x, ones, found = cp.asarray(np.random.default_rng(0).normal(size=(3, 6, 4))), cp.ones(6), []

    def counted(work: Callable[..., Any], *given_: Any, **how: Any) -> Any:
        before, result = cuda.launches, work(*given_, **how)
        found.append(cuda.launches - before)
        return result

    def both_ways(operation: Any, *inputs: Any, **how: Any) -> None:
        forward, gradient = operation.kernels["cuda"]
        out, saved = counted(forward, *inputs, **how)
        counted(gradient, out, saved, *inputs, wanted=[True] * len(inputs), **how)

    for many in (8, 9):
        counted(adam, *[[*cp.ones((many, 1))] for _ in range(4)], **UPDATES["adam"][2])
        counted(moving_average, [*cp.ones((many, 1))], [*cp.ones((many, 1))], kept=0.5, share=0.5)
    assert found == [1, 1, 2, 2]
    found.clear()
    known = counted(moments_of, x)
    for groups, over_batch, moments in ((3, False, None), (6, True, None), (6, True, known)):
        how = {"groups": groups, "over_batch": over_batch, "moments": moments, "eps": 0.1, "gated": True}
        both_ways(normalize_groups, x, ones, ones, **how)
    assert found == [4, 1, 1, 5, 2, 1, 2]
    found.clear()
    x, w, y, (F, _) = cp.ones((2, 3, 8, 8)), cp.ones((5, 3, 3, 3)), cp.ones((2, 5, 8, 8)), winograd.TILINGS
    how = ((1, 1), (1, 1), (1, 1))
    counted(convolution.winograd, x, w, cp.ones(5), None, (1, 1), F, (8, 8))
    counted(convolution.winograd, x, w, None, y, (1, 1), F, (8, 8))
    counted(convolution.winograd_adjoint, y, w, x, (1, 1), F, (8, 8))
    counted(convolution.im2col, x, w, None, y, (3, 3), *how, (8, 8))
    counted(convolution.col2im, y, w, None, (8, 8), *how)
    assert found == [2, 3, 3, 1, 1]


def test_layouts(cp: Any) -> None:
    """Images and gradients, weights and biases that do not lie one after the other."""
    rng, how = np.random.default_rng(0), {"groups": 2, "eps": 0.1, "over_batch": False, "gated": True}
    x, g = rng.normal(size=(5, 6, 3)).T, rng.normal(size=(3, 5, 6)).swapaxes(1, 2)
    arrays = [x, *(rng.normal(size=(6, 3)).T for _ in range(2))]
    assert not any(cp.asarray(a).flags.c_contiguous for a in (*arrays, g))
    for found, expected in zip(normalized(cp, arrays, g, how), by_plain_form(normalize_groups, arrays, g, **how)):
        assert_near(found, expected)


def test_blocks_as_they_are_launched(cp: Any, monkeypatch: Any) -> None:
    """With the numbers of threads that a GPU is given, and more rows, columns and pixels than one block has threads."""
    monkeypatch.setattr(device, "LARGEST_BLOCK", (1024, 1024))
    rng = np.random.default_rng(0)
    for c, groups, over_batch in ((40, 1, False), (12, 3, False), (12, 12, True)):
        arrays, g = [rng.normal(size=size) for size in ((2, c, 70), c, c)], rng.normal(size=(2, c, 70))
        how = {"groups": groups, "eps": 0.1, "over_batch": over_batch, "gated": True}
        there = normalized(cp, arrays, g, how)
        for one, other in zip(there, by_plain_form(normalize_groups, arrays, g, **how), strict=True):
            assert_near(one, other)


def calls() -> dict[str, Callable[[Any], Any]]:
    """Of each source with barriers, what launches its kernels."""
    rng = np.random.default_rng(0)

    def normalisations(cp: Any) -> None:
        x, g, weight, bias = (rng.normal(size=shape) for shape in ((2, 6, 9), (2, 6, 9), 6, 6))
        how = {"groups": 2, "eps": 0.1, "over_batch": False, "gated": True}
        normalized(cp, [x, weight, bias], g, how)

    return {"normalization": normalisations}


BARRIER = "__syncthreads();"
BARRIERS = [(name, i) for name in calls() for i in range(SOURCES[name].count(BARRIER))]  # others have no more


def without_barrier(name: str, i: int) -> str:
    """A source without its i-th barrier."""
    parts = SOURCES[name].split(BARRIER)
    return BARRIER.join(parts[: i + 1]) + ";" + BARRIER.join(parts[i + 1 :])


@pytest.mark.parametrize(("name", "i"), BARRIERS)
def test_no_barrier_can_be_left_out(cp: Any, monkeypatch: Any, name: str, i: int) -> None:
    """Without any one `__syncthreads()` the numbers depend on which thread comes first, which a run notices."""
    without, run = without_barrier(name, i), cuda.run
    monkeypatch.setattr(device, "LARGEST_BLOCK", (4, 3))
    monkeypatch.setattr(cuda, "run", lambda code, *how: run(code.replace(SOURCES[name], without), *how))
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
        launch.launch(ADD, "add", (1,), (1,), cp.zeros(3, np.int64))
    launch.launch("nonsense", "add", (0, 2), (1,), cp.zeros(3))
    with pytest.raises(ValueError, match="no kernel"):
        launch.launch('extern "C" __global__ void add(Real* x) { nonsense; }', "add", (1,), (1,), cp.zeros(3))
