"""Products of matrices on a GPU, by a cuBLAS handle of our own: on a stand-in for CuPy and for cuBLAS.

`strict/cublas.py` does with the addresses, distances and flags that it is given what NVIDIA documents.
"""

from __future__ import annotations

import _ctypes
import concurrent.futures
import contextlib
import ctypes
import itertools
import threading
import types
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import Draw
from hypothesis import given, settings
from hypothesis import strategies as st
from strict import cublas, device, graph

from nanogen import backend
from nanogen.backend import array_module, replay
from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight, output_size
from nanogen.functional.matrix import matrix_product
from nanogen.kernels import winograd
from nanogen.kernels.cuda import convolution, products

library = products.library  # the stand-in takes its place in a moment
GEMMS = {"gemm", "gemm_strided_batched"}


@pytest.fixture(autouse=True, scope="module")
def cp() -> Iterator[Any]:
    """Device `cuda` is the stand-in in all of this file."""
    with device.installed() as module:
        yield module


@pytest.fixture
def anew() -> Iterator[None]:
    """Handles are made anew, and forgotten afterwards."""
    products.own_handle.cache_clear()
    cublas.called.clear()
    yield
    products.own_handle.cache_clear()


@contextlib.contextmanager
def capture() -> Iterator[None]:
    """Within this context a stream is being captured."""
    with graph.Stream() as stream:
        stream.begin_capture()
        try:
            yield
        finally:
            stream.end_capture()


def there(x: np.ndarray) -> Any:
    """The same memory on the device."""
    return device._device(x)


def integers(draw: Draw, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Small integers that lie anyhow: axes in any order in memory, with gaps, reversed, or one all along an axis."""
    axes = range(len(shape))
    order = draw.pick([tuple(axes), draw.pick(list(itertools.permutations(axes)))])
    ways = ["all"] * len(shape)
    for axis in draw.data.draw(st.lists(st.sampled_from(axes), max_size=2)):
        ways[axis] = draw.pick(["part", "gaps", "reversed", "repeated"])
    lengths = {"all": (1, 0), "part": (1, 2), "gaps": (2, 1), "reversed": (1, 0), "repeated": (0, 1)}
    cuts = {"part": lambda n: slice(1, 1 + n), "gaps": lambda n: slice(0, 2 * n, 2),
            "reversed": lambda n: slice(None, None, -1)}  # fmt: skip
    sizes = [lengths[way][0] * n + lengths[way][1] for way, n in zip(ways, shape, strict=True)]
    memory = np.random.default_rng(draw.number(0, 99)).integers(-9, 9, [sizes[axis] for axis in order]).astype(dtype)
    x = memory.transpose([order.index(axis) for axis in axes])
    x = x[tuple(cuts[way](n) if way in cuts else slice(None) for way, n in zip(ways, shape, strict=True))]
    return np.broadcast_to(x, shape)


@settings(max_examples=300)
@given(st.data())
def test_product_is_numpys(data: st.DataObject) -> None:
    """Of integers exactly, however the operands lie in memory, whatever is broadcast or empty, in both types and of
    both: the numbers, shape and type of NumPy's product, in an array that is contiguous; and cuBLAS made it."""
    draw = Draw(data)
    m, k, n = (draw.number(draw.pick([0, 1, 1, 1]), 4) for _ in range(3))
    batch = draw.pick([draw.shape((0, 3)), (3,), (2, 3)])
    a_batch, b_batch = (draw.pick([batch, draw.broadcast(batch)]) for _ in range(2))
    types = [np.float32, np.float64]
    a = integers(draw, (*a_batch, m, k), draw.pick(types))
    b = integers(draw, (*b_batch, k, n), draw.pick(types))
    cublas.called.clear()
    found, expected = products.product(there(a), there(b)), np.matmul(a, b)
    assert np.array_equal(found.get(), expected)
    assert found.dtype == expected.dtype
    assert found.flags.c_contiguous
    assert bool(GEMMS & {*cublas.called}) == bool(a.size and b.size)


@pytest.mark.parametrize("shapes", [((2, 0), (0, 3)), ((4, 2, 0), (0, 3)), ((0, 2, 1), (1, 3)), ((0, 1), (1, 3))])
def test_a_sum_of_nothing(shapes: Any) -> None:
    """It is 0, whatever the memory held before; a product without numbers has the right shape."""
    a, b = map(np.ones, shapes)  # on the stand-in new memory is NaN
    assert np.array_equal(products.product(there(a), there(b)).get(), a @ b)


@given(st.data())
def test_matmul_is_the_product(data: st.DataObject) -> None:
    """The primitive's kernel is the same; other types than real numbers it leaves to CuPy."""
    draw = Draw(data)
    a, b = integers(draw, (3, 2, 4), np.float32), integers(draw, (3, 4, 2), np.float32)
    cublas.called.clear()
    assert np.array_equal(matrix_product(there(a), there(b)).data.get(), a @ b)
    assert {*cublas.called} & GEMMS
    cublas.called.clear()
    assert np.array_equal(matrix_product(there(a.astype(int)), there(b.astype(int))).data.get(), a @ b)
    assert not cublas.called


UNCOPIED = {
    "rows": lambda x: x,
    "columns": lambda x: x.swapaxes(-1, -2),
    "a part of each row": lambda x: x[..., 1:3],
    "every other row": lambda x: x[..., ::2, :],
    "a part of each column": lambda x: x.swapaxes(-1, -2)[..., 1:3, :],
    "every other matrix": lambda x: x[:, ::4],
    "one matrix for all": lambda x: array_module(x).broadcast_to(x[0, 0], (2, 4, 6, 5)),
    "a single row": lambda x: x[..., :1, :],
    "a single row of no stride": lambda x: x[..., 0, None, :],
    "a single column": lambda x: x[..., :1],
    "a single number": lambda x: x[..., 2:3, 1:2],
    "a single number of no stride": lambda x: x[..., 0, 0, None, None],
}
COPIED = {
    "gaps": lambda x: x[..., ::2],
    "gaps in columns": lambda x: x.swapaxes(-1, -2)[..., ::2, :],
    "backwards": lambda x: x[..., ::-1, :],
    "matrices backwards": lambda x: x[:, ::-1],
    "a stack backwards": lambda x: x[::-1, ::-1],
    "one row for all": lambda x: array_module(x).broadcast_to(x[..., :1, :], x.shape),
    "overlapping rows": lambda x: array_module(x).lib.stride_tricks.as_strided(
        x, (2, 4, 6, 5), (*x.strides[:2], x.itemsize, x.itemsize)
    ),
    "matrices at two distances": lambda x: x[:, :2],
    "matrices in another order": lambda x: x.swapaxes(0, 1),
}


@pytest.mark.parametrize("name", [*UNCOPIED, *COPIED])
def test_what_cublas_can_read_is_not_copied(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows or columns without gaps, at one distance, of matrices at one distance, are taken as they lie; all else is
    copied, once.  The product is NumPy's in any case."""
    memory = np.arange(240, dtype=np.float32).reshape(2, 4, 6, 5)
    x = (UNCOPIED | COPIED)[name](memory)
    other = np.arange(x.shape[-1] * 3, dtype=np.float32).reshape(x.shape[-1], 3)
    call, numbers = products.Handle.call, []
    monkeypatch.setattr(products.Handle, "call", lambda self, *given: (numbers.extend(given), call(self, *given)))
    assert np.array_equal(products.product(there(x), there(other)).get(), x @ other)
    for factor, as_it_lies in ((x, name in UNCOPIED), (other, True)):
        low, high = np.lib.array_utils.byte_bounds(factor)
        assert any(type(number) is int and low <= number < high for number in numbers) == as_it_lies
    assert np.array_equal(
        products.product(there(other.T), there(x.swapaxes(-1, -2))).get(), other.T @ x.swapaxes(-1, -2)
    )


def test_shapes_that_do_not_fit() -> None:
    """Sums of different lengths and stacks of different numbers are refused."""
    for a, b in (((2, 3), (4, 2)), ((3, 2, 3), (2, 3, 2)), ((2, 3), (2, 4, 3))):
        with pytest.raises(ValueError, match="shape"):
            products.product(there(np.ones(a)), there(np.ones(b)))


def test_what_cublas_does_not_multiply() -> None:
    """Integers, truths and vectors are CuPy's to multiply."""
    cublas.called.clear()
    x, v = np.arange(6).reshape(2, 3), np.arange(3.0)
    assert np.array_equal(products.product(there(x), there(x.T)).get(), x @ x.T)
    assert np.array_equal(products.product(there(x > 2), there(x.T > 2)).get(), (x > 2) @ (x.T > 2))
    assert np.array_equal(products.product(there(x * 1.0), there(v)).get(), x @ v)
    assert np.array_equal(products.product(there(v), there(x.T * 1.0)).get(), v @ x.T)
    assert not cublas.called


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4)])
def test_tf32_where_it_is_allowed(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors keep ten bits of their fraction if TF32 is allowed, in single matrices and in stacks, and all if it is
    not; what was said last counts.  float64 never loses any."""
    monkeypatch.setenv("CUPY_TF32", "0")  # and as it was, afterwards
    a, b = (np.random.default_rng(seed).standard_normal(shape) for seed in (0, 1))
    for allowed, dtype in itertools.product((True, False, True), (np.float32, np.float64)):
        backend.allow_tf32(allowed)
        x, y = a.astype(dtype), b.astype(dtype)
        shortened = allowed and dtype == np.float32
        expected = cublas.in_tf32(x) @ cublas.in_tf32(y) if shortened else x @ y
        assert np.array_equal(products.product(there(x), there(y)).get(), expected)
        assert np.array_equal(matrix_product(there(x), there(y)).data.get(), expected)
        assert np.array_equal(products.product(there(x), there(y), exact=True).get(), x @ y)
    monkeypatch.delenv("CUPY_TF32")
    assert not products.tf32_allowed()


@pytest.mark.parametrize("F", winograd.TILINGS)
def test_sums_and_transformations_lose_nothing_by_tf32(monkeypatch: pytest.MonkeyPatch, F: winograd.Tiling) -> None:
    """Where TF32 is allowed, sums of columns are none of its products; and of the products of a convolution by tiles,
    and of each of its adjoints, that of the pixels and the kernel, or with the other pixels, is in TF32, but not the
    transformation of the kernel before, nor that of its gradient after it."""
    size, kernel = (4 * F.s,) * 2, (F.r * F.s,) * 2
    arrays = (np.random.default_rng(0).standard_normal((32, 32, *of)) for of in (size, kernel, (4, 4)))
    x, w, y = (there(array.astype(np.float32)) for array in arrays)
    monkeypatch.setenv("CUPY_TF32", "1")
    cublas.computed.clear()
    convolution.sum_of_pixels(x)
    assert not cublas.computed
    whole, short, how = products.COMPUTE_32F, products.COMPUTE_32F_FAST_TF32, ((1, 1), F)
    for convolve_by_tiles, given_, expected in (
        (convolution.winograd, (x, w, None, None, *how, (4, 4)), [whole, short]),
        (convolution.winograd, (x, None, None, y, *how, (4, 4)), [short, whole]),
        (convolution.winograd, (x, w, None, y, *how, (4, 4)), [whole, short, short, whole]),
        (convolution.winograd_adjoint, (y, w, None, *how, size), [whole, short]),
        (convolution.winograd_adjoint, (y, w, x, *how, size), [whole, short, short, whole]),
    ):
        cublas.computed.clear()
        convolve_by_tiles(*given_)
        assert list(cublas.computed) == expected


def test_the_handle_follows_the_stream(anew: None, cp: Any) -> None:
    """A handle is made once; its stream and, after it, its workspace are given to it with each change of the stream,
    and with no other product."""
    x = there(np.ones((2, 2)))
    products.product(x, x)
    products.product(x, x)
    with graph.Stream():
        products.product(x, x)
        products.product(x, x)
    products.product(x, x)
    follow = ["set_stream", "set_workspace", "gemm"]
    assert list(cublas.called) == ["create", *follow, "gemm", *follow, "gemm", *follow]
    assert products.own_handle(cp, 0, threading.get_ident()).workspace.nbytes == products.WORKSPACE_BYTES


def test_a_handle_serves_one_thread_of_one_device(anew: None, cp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads have two handles, and so have two devices."""
    x = there(np.ones((2, 2)))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        results = [products.product(x, x), pool.submit(products.product, x, x).result()]
    assert all((result.get() == 2).all() for result in results)
    assert cublas.called.count("create") == 2
    monkeypatch.setattr(cp.cuda.runtime, "getDevice", lambda: 1)
    products.product(x, x)
    assert cublas.called.count("create") == 3


def refusing(name: str, status: int) -> Any:
    """A cuBLAS of which one function gives a status."""
    found = cublas.library()
    setattr(found, name, ctypes.CFUNCTYPE(ctypes.c_int, *cublas._SIGNATURES[name][1])(lambda *_: status))
    return found


def unfound() -> Any:
    raise OSError("libcublas.so: nowhere")


WITHOUT = {
    "no library": unfound,
    "another library": lambda: types.SimpleNamespace(cublasCreate_v2=None),
    "no driver": lambda: refusing("cublasCreate_v2", 1),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_without_a_handle_cupy_multiplies(name: str, anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No library, or no handle of it: one warning, and CuPy's product; under capture an error that says why."""
    monkeypatch.setattr(products, "library", WITHOUT[name])
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    with pytest.warns(UserWarning, match="no cuBLAS handle of our own"):
        assert np.array_equal(products.product(there(x), there(x)).get(), x @ x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(products.product(there(x), there(x)).get(), x @ x)
    with capture(), pytest.raises(RuntimeError, match=r"^no product of matrices can be captured$") as raised:
        products.product(there(x), there(x))
    assert "no cuBLAS handle of our own" in str(raised.value.__cause__)


def test_a_handle_is_made_before_a_capture(anew: None) -> None:
    """The first product can't be captured, and says so; after one that was not, all can."""
    x = there(np.ones((2, 2)))
    with capture(), pytest.raises(RuntimeError, match=r"^a product .* before the capture: it makes the cuBLAS handle$"):
        products.product(x, x)
    assert not cublas.called
    products.product(x, x)
    with capture():
        result = products.product(x, x)
    assert np.isnan(result.get()).all()  # until the graph is launched


@pytest.mark.parametrize(("name", "shape"), [("cublasGemmEx", (2, 2)), ("cublasGemmStridedBatchedEx", (3, 2, 2))])
def test_a_status_is_an_error(name: str, shape: Any, anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that cuBLAS refuses is an error with the call and the number."""
    monkeypatch.setattr(products, "library", lambda: refusing(name, 13))
    x = there(np.ones(shape))
    with pytest.raises(RuntimeError, match=f"{name}.*13"):
        products.product(x, x)


@pytest.mark.parametrize(("F", "expected"), [*zip(winograd.TILINGS, (5 / 3, 2), strict=True)])
def test_what_tf32_costs_by_tiles(monkeypatch: pytest.MonkeyPatch, F: winograd.Tiling, expected: float) -> None:
    """How many times larger than by patches the error of TF32 is by tiles, on white noise.

    Every factor is off by a share of its own size, so an error's variance is as the sum of the squares of the products.
    In one dimension r products of variance 1 become t products of (G g) and (Bᵀ d), of which each output takes all but
    one: (1 + ¾ + ¾) · 2 = 5 in place of 3 for r = 3, and 1 · 2 + 2 · 1 = 4 in place of 2 for r = 2.  In two dimensions
    both are squared, and the error is the root."""
    monkeypatch.setenv("CUPY_TF32", "1")
    size, how = F.r * F.s, {"stride": (F.s,) * 2, "padding": (1, 1), "dilation": (1, 1)}
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 32, 16, 16)), rng.standard_normal((32, 32, size, size))
    y = rng.standard_normal((4, 32, *output_size(x.shape[2:], w.shape[2:], **how)))
    exact = [found.data for found in all_three(x, w, y, how)]
    x, w, y = (there(a.astype(np.float32)) for a in (x, w, y))
    ways = [all_three(x, w, y, how)]
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 33)
    ways.append(all_three(x, w, y, how))
    tiles, patches = ([np.std(a.data.get() - b) for a, b in zip(way, exact, strict=True)] for way in ways)
    assert np.divide(tiles, patches) == pytest.approx(expected, rel=0.06)


def all_three(x: Any, w: Any, y: Any, how: Any) -> list[Any]:
    """A convolution, and its adjoints in the image and in the kernel."""
    adjoint = convolve_adjoint(y, w, size=x.shape[2:], **how)
    return [convolve(x, w, **how), adjoint, convolve_weight(x, y, kernel=w.shape[2:], **how)]


def test_more_than_cublas_counts_to() -> None:
    """Numbers that do not fit cuBLAS's integers are an error: ctypes would cut them.  The largest that fit are not."""
    for place, size, *turned in itertools.product(range(6), (2**31 - 1, 2**31), *[(False, True)] * 2):
        n, m, k, count, of_a, of_b = (size if i == place else 2 for i in range(6))
        factors = [((n, k), max(n if turned[0] else k, of_a)), ((k, m), max(k if turned[1] else m, of_b))]
        given: list[tuple[int, ...]] = []
        for (shape, line), turn in zip(factors, turned, strict=True):
            given += [(count, *shape), (0, 8, 8 * line) if turn else (0, 8 * line, 8)]
        if size == 2**31:
            with pytest.raises(ValueError, match="2147483647"):
                products.gemm_arguments(*given, "d", False)
        else:
            call = products.gemm_arguments(*given, "d", False)
            numbers = [x.value for x in (*call.sizes[:5], call.left[1], call.right[1], call.out[1], call.out[3])]
            assert numbers == [*turned[::-1], m, n, k, factors[1][1], factors[0][1], m, count]


@pytest.mark.parametrize("way", ["single", "stack", "one for all", "copied", "tiles", "two by tiles"])
def test_products_in_a_graph(way: str) -> None:
    """What is captured is done again at each launch, in the same places; nothing else is needed for it."""
    w = there(np.random.default_rng(0).standard_normal((32, 32, 3, 3)))
    made = {
        "single": lambda x: products.product(x[0, 0], w[0, 0]),
        "stack": lambda x: products.product(x, w.transpose(0, 1, 3, 2)),
        "one for all": lambda x: products.product(x, w[0, 0]) * 2.0,
        "copied": lambda x: products.product(x.transpose(1, 0, 3, 2), w[:, :, ::-1]),
        "tiles": lambda x: convolution.winograd(x, w, None, None, (1, 1), winograd.TILINGS[0], (3, 3))[0],
        "two by tiles": lambda x: sum(convolution.winograd(x, w, None, x, (1, 1), winograd.TILINGS[0], (3, 3))),
    }[way]
    replayed = replay(lambda x: [made(x)])
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((32, 32, 3, 3))
        assert np.array_equal(replayed(x)[0].get(), made(there(x)).get())


def test_cupys_products_can_not_be_captured(cp: Any) -> None:
    """On the stand-in as in CuPy: so every product of a captured step is our handle's."""
    for theirs in (lambda x: [x @ x], lambda x: [x.dot(x)], lambda x: [cp.matmul(x, x)]):
        replayed = replay(theirs)
        replayed(np.ones((2, 2))), replayed(np.ones((2, 2)))
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            replayed(np.ones((2, 2)))


# The stand-in itself


def declared() -> Any:
    """The stand-in's functions, with the types of their arguments."""
    found = cublas.library()
    for name, (_, arguments) in cublas._SIGNATURES.items():
        getattr(found, name).argtypes = arguments
    return found


def call(name: str, **changes: Any) -> int:
    """The status of a product of two stacks of three 2×2 matrices, with other arguments where they are given."""
    a = there(np.arange(12, dtype=np.float32).reshape(3, 2, 2))
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    found, handle = declared(), ctypes.c_void_p()
    found.cublasCreate_v2(ctypes.byref(handle))
    memory = there(np.empty(changes.pop("workspace", 4 << 20), np.uint8))
    found.cublasSetWorkspace_v2(handle, memory.data.ptr, memory.nbytes)
    found.cublasSetStream_v2(handle, changes.pop("stream", None))
    if not changes.pop("stream_last", False):
        found.cublasSetWorkspace_v2(handle, memory.data.ptr, memory.nbytes)
    given = {
        "handle": handle, "transa": 0, "transb": 0, "m": 2, "n": 2, "k": 2, "alpha": ctypes.byref(one),
        "a": a.data.ptr, "atype": 0, "lda": 2, "stridea": 4, "b": a.data.ptr, "btype": 0, "ldb": 2, "strideb": 4,
        "beta": ctypes.byref(zero), "c": there(np.empty((3, 2, 2), np.float32)).data.ptr, "ctype": 0, "ldc": 2,
        "stridec": 4, "count": 3, "compute": 68, "algorithm": -1,
    }  # fmt: skip
    if name == "cublasGemmEx":
        given = {k: v for k, v in given.items() if k not in ("stridea", "strideb", "stridec", "count")}
    return getattr(found, name)(*(given | changes).values())


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0),
        ({"handle": 5}, cublas.NOT_INITIALIZED),
        ({"stream": 5}, cublas.EXECUTION_FAILED),
        ({"stream_last": True}, cublas.ALLOC_FAILED),
        ({"workspace": 1 << 20}, cublas.ALLOC_FAILED),
        ({"transa": 3}, cublas.INVALID_VALUE),
        ({"m": -1}, cublas.INVALID_VALUE),
        ({"lda": 1}, cublas.INVALID_VALUE),
        ({"ldb": 1}, cublas.INVALID_VALUE),
        ({"ldc": 1}, cublas.INVALID_VALUE),
        ({"algorithm": 0}, cublas.INVALID_VALUE),
        ({"atype": 1}, cublas.NOT_SUPPORTED),
        ({"compute": 70}, cublas.NOT_SUPPORTED),
        ({"a": 4096}, cublas.EXECUTION_FAILED),
        ({"lda": 11}, cublas.EXECUTION_FAILED),
    ],
)
@pytest.mark.parametrize("name", ["cublasGemmEx", "cublasGemmStridedBatchedEx"])
def test_what_the_stand_in_refuses(name: str, changes: dict[str, Any], status: int) -> None:
    """A call that NVIDIA's would refuse, that leaves the memory of an array, or that is not fit for a capture."""
    assert call(name, **changes) == status


@pytest.mark.parametrize("changes", [{"stridea": 5}, {"strideb": -1}, {"stridec": 6}, {"count": 4}])
def test_stacks_stay_in_their_memory(changes: dict[str, Any]) -> None:
    """Distances between matrices, and their number, that lead out of an array's memory."""
    assert call("cublasGemmStridedBatchedEx", **changes) == cublas.EXECUTION_FAILED
    assert call("cublasGemmStridedBatchedEx", stridec=3) == cublas.INVALID_VALUE  # matrices that overlap


def test_the_stand_in_multiplies_as_documented() -> None:
    """C = α op(A) op(B) + β C, column by column, by the sum of products itself."""
    a, b, c = (np.arange(n, dtype=np.float64) for n in (6, 12, 8))
    before = c.copy()
    alpha, beta = ctypes.c_double(2), ctypes.c_double(3)
    cublas.handed_over.extend((a, b, c))
    number = ctypes.c_void_p()
    found = declared()
    found.cublasCreate_v2(ctypes.byref(number))
    memory = there(np.empty(4 << 20, np.uint8))
    found.cublasSetStream_v2(number, None)
    found.cublasSetWorkspace_v2(number, memory.data.ptr, memory.nbytes)
    m, n, k, lda, ldb, ldc = 2, 2, 3, 2, 4, 4
    status = found.cublasGemmEx(number, 0, 0, m, n, k, ctypes.byref(alpha), a.ctypes.data, 1, lda, b.ctypes.data, 1,
                                ldb, ctypes.byref(beta), c.ctypes.data, 1, ldc, 70, -1)  # fmt: skip
    assert status == 0
    for i, j in np.ndindex(4, n):
        total = sum(a[i + lda * p] * b[p + ldb * j] for p in range(k)) if i < m else 0
        assert c[i + ldc * j] == (2 * total + 3 * before[i + ldc * j] if i < m else before[i + ldc * j])


# NVIDIA's own


def test_functions_are_declared_twice_alike() -> None:
    """The stand-in's arguments, written down on their own, have the sizes that the library gives them to ctypes."""
    assert products.FUNCTIONS.keys() == cublas._SIGNATURES.keys()
    for name, arguments in products.FUNCTIONS.items():
        theirs = cublas._SIGNATURES[name][1]
        assert [ctypes.sizeof(a) for a in arguments] == [ctypes.sizeof(a) for a in theirs], name


def test_the_library_is_cupys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that CuPy finds by NVIDIA's pathfinder, under the name that it has there."""
    places = {"cublas": types.SimpleNamespace(abs_path=_ctypes.__file__)}
    pathfinder = types.SimpleNamespace(load_nvidia_dynamic_lib=places.__getitem__)
    monkeypatch.setitem(device.sys.modules, "cuda", types.SimpleNamespace(pathfinder=pathfinder))
    assert library()._name == _ctypes.__file__


def test_nvidias_library_has_these_functions() -> None:
    """Where NVIDIA's package is installed, with or without a GPU."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        path = pathfinder.load_nvidia_dynamic_lib("cublas").abs_path
    except pathfinder.DynamicLibNotFoundError as error:
        pytest.skip(str(error).splitlines()[0])
    assert all(hasattr(ctypes.CDLL(path), name) for name in products.FUNCTIONS)
