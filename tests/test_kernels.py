"""How primitives are computed: convolution's three ways against each other, blocks and threads against neither."""

from __future__ import annotations

import itertools
import math
import os
import signal
import tracemalloc
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import by_tiles, gather
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import nanogen as ng
from nanogen import backend, compiled
from nanogen import functional as F
from nanogen.kernels import convolution, normalization, products
from nanogen.kernels.reduction import column_sums


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Whole numbers as float64, with which every sum below is exact in any order."""
    return rng.integers(-4, 5, shape).astype(float)


@given(
    st.sampled_from(convolution.TILINGS), st.integers(0, 9), st.integers(0, 3),
    st.tuples(st.integers(1, 10), st.integers(1, 10)), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans(),
)  # fmt: skip
def test_tiles_are_the_direct_sum(tiling, seed, n, size, padding, with_bias):
    """F(2×2, r×r), for kernels of 3×3 and for those of 4×4 with stride 2, gives, for integers, exactly the numbers of
    the products with the patches: the three maps, and two of them at once.  Lavin & Gray 2016, section 4."""
    kernel, stride, one = (tiling.r * tiling.s,) * 2, (tiling.s,) * 2, (1, 1)
    size = tuple(max(k, kernel[0] - 2 * p) for k, p in zip(size, padding, strict=True))
    rng, how = np.random.default_rng(seed), (stride, padding, one)
    x, w, bias = integers(rng, n, 2, *size), integers(rng, 3, 2, *kernel), integers(rng, 3) if with_bias else None
    expected = gather(x, w, bias, *how)
    assert np.array_equal(by_tiles(x, w, bias, padding, tiling), expected)
    y = integers(rng, *expected.shape)
    back, slope = convolution.scatter(y, w, None, size, *how), convolution.weight_by_gathering(x, y, kernel, *how)
    assert np.array_equal(convolution.adjoint_by_tiles(y, w, size, padding, tiling), back)
    assert np.array_equal(convolution.weight_by_tiles(x, y, padding, tiling), slope)
    for both, map_of_w in (
        (convolution.both_by_tiles, gather(x, w, None, *how)),
        (convolution.both_adjoints_by_tiles, back),
    ):
        for found, map_ in zip(both(x, w, y, padding, tiling), (map_of_w, slope), strict=True):
            assert np.array_equal(found, map_)


@pytest.mark.parametrize("tiling", convolution.TILINGS)
def test_tiles_are_about_as_exact_as_patches(tiling):
    """In float32 the error of each of the three maps, in the mean square, is below 12 · 2⁻²⁴ of the numbers; that of
    the products with the patches, which sum more numbers forward and fewer back, is 2 to 9 · 2⁻²⁴.  F(4×4, 3×3), whose
    matrices have entries up to 8, would be ten times worse.  Power: one seed, deterministic."""
    rng, how, side = np.random.default_rng(0), ((tiling.s,) * 2, (1, 1), (1, 1)), tiling.r * tiling.s
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((8, 64, 10, 11), (48, 64, side, side)))
    y = rng.standard_normal(gather(x, w, None, *how).shape, np.float32)
    wide_x, wide_w, wide_y = (a.astype(float) for a in (x, w, y))
    for found, exact in (
        (by_tiles(x, w, None, (1, 1), tiling), gather(wide_x, wide_w, None, *how)),
        (
            convolution.adjoint_by_tiles(y, w, (10, 11), (1, 1), tiling),
            convolution.scatter(wide_y, wide_w, None, (10, 11), *how),
        ),
        (
            convolution.weight_by_tiles(x, y, (1, 1), tiling),
            convolution.weight_by_gathering(wide_x, wide_y, (side, side), *how),
        ),
    ):
        assert 0 < np.square(found - exact).mean() < (12 * 2**-24) ** 2 * np.square(exact).mean()


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 64), ("float64", 32), ("float32", 128)])
def test_outputs_that_fall_on_the_same_lines(dtype, channels):
    """A kernel whose outputs are 4096 bytes apart, or a multiple of it, is read where they are not, and is the same;
    any other where it lies."""
    w = integers(np.random.default_rng(0), 3, channels, 4, 4).astype(dtype)
    copy, other = convolution.spaced(w), w[:, 1:].copy()
    assert copy.strides[0] % 4096 != 0
    assert copy.dtype == dtype
    assert np.array_equal(copy, w)
    assert np.array_equal(convolution.taps(w), w.transpose(2, 3, 1, 0))
    assert convolution.spaced(other) is other


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
    expected = gather(x, w, bias, one, padding, dilation)
    around = convolution.reach(kernel, one, padding, dilation)
    places, turned = expected.shape[2:], convolution.turned(w)
    assert np.array_equal(convolution.scatter(x, turned, bias, places, one, around, dilation), expected)
    y = integers(rng, *expected.shape)
    slope = convolution.weight_by_gathering(x, y, kernel, one, padding, dilation)
    swapped = convolution.weight_by_gathering(y, x, kernel, one, around, dilation)
    assert np.array_equal(convolution.turned(swapped), slope)


ONE, TWO = (1, 1), (2, 2)
SETTINGS = [
    ((3, 3), (6, 5), (ONE, (1, 0), ONE)), ((3, 3), (6, 5), ((2, 1), (1, 0), ONE)), ((3, 3), (6, 5), ((1, 2), ONE, ONE)),
    ((3, 3), (6, 5), (ONE, ONE, (2, 1))), ((3, 3), (6, 5), (ONE, ONE, (1, 2))), ((4, 3), (6, 5), (ONE, (0, 1), ONE)),
    ((3, 4), (6, 5), (ONE, ONE, ONE)), ((1, 1), (4, 4), (ONE, (1, 0), ONE)), ((4, 5), (4, 5), (ONE, (1, 0), ONE)),
    ((3, 3), (6, 5), (ONE, (1, 3), ONE)), ((4, 4), (9, 8), (TWO, (1, 0), ONE)), ((4, 4), (6, 7), (TWO, (0, 3), ONE)),
    ((2, 1), (6, 7), ((3, 2), (1, 0), ONE)), ((4, 4), (6, 7), (ONE, ONE, ONE)), ((1, 1), (3, 4), (ONE, (0, 0), ONE)),
]  # fmt: skip


@pytest.mark.parametrize("channels", [(1, 40), (40, 1), (40, 40), (32, 33), (33, 2)])
@pytest.mark.parametrize(("kernel", "size", "how"), SETTINGS)
def test_whichever_way_is_taken_the_numbers_are_the_same(channels, kernel, size, how):
    """Few or many channels, kernels as large as the image or of one pixel, padding beyond the kernel's reach: the three
    maps are those of the patches, and two of them at once are the two."""
    rng, (c, o) = np.random.default_rng(0), channels
    x, w, bias = integers(rng, 3, c, *size), integers(rng, o, c, *kernel), integers(rng, o)
    y = gather(x, w, None, *how)
    assert np.array_equal(convolution.convolve(x, w, None, *how), y)
    assert np.array_equal(convolution.convolve(x, w, bias, *how), y + bias[:, None, None])
    assert np.array_equal(convolution.sum_of_pixels(y), y.sum(axis=(0, 2, 3)))
    slope = convolution.weight_by_gathering(x, y, kernel, *how)
    assert np.array_equal(convolution.convolve_weight(x, y, kernel, *how), slope)
    back = convolution.scatter(y, w, None, size, *how)
    assert np.array_equal(convolution.convolve_adjoint(y, w, size, *how), back)
    for wanted in itertools.product((True, False), repeat=2):
        for both, slopes in (
            (convolution.gradients(x, w, y, wanted, *how), (back, slope)),
            (convolution.gradients_of_adjoint(y, w, x, wanted, *how), (y, slope)),
        ):
            for found, expected, is_wanted in zip(both, slopes, wanted, strict=True):
                assert np.array_equal(found, expected) if is_wanted else found is None


def test_the_way_with_the_smallest_matrix_is_taken():
    """Tiles between many channels, for 3×3 kernels and 4×4 ones of stride 2.  Else, of the two matrices of patches,
    N · places · KH · KW · C that are gathered and N · pixels · KH · KW · O that are scattered, the smaller, where
    either will do: at stride 1, padding within the kernel's reach.  A kernel of one pixel has no patches.  Two maps
    together are by the same tiles, and by those of the adjoint where no convolution will do.  All this is for speed: no
    number tells.
    """
    sides = [ONE, (2, 1), (1, 2), TWO]
    kernels = [*sides[:3], (3, 3), (2, 3), (4, 3), (3, 4), (4, 4)]
    channels = [(1, 5), (5, 1), (2, 2), (3, 2), (32, 32), (31, 40), (40, 31), (40, 33)]
    single = ("gather", "scatter", "by_tiles", "adjoint_by_tiles", "weight_by_gathering", "weight_by_tiles")
    taken: list[tuple[str, tuple[int, ...]]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in (*single, "both_by_tiles", "both_adjoints_by_tiles"):
            made = np.zeros((1, 1, 1, 1)) if name in single else [np.zeros((1, 1, 1, 1))] * 2
            note = lambda of, *_, name=name, made=made: taken.append((name, of.shape)) or made
            patch.setattr(convolution, name, note)
        for kernel, stride, dilation, padding, (c, o) in itertools.product(
            kernels, sides, sides[:3], [(0, 0), (1, 0), (0, 1), ONE, (3, 3)], channels
        ):
            size, how = (7, 9), (stride, padding, dilation)
            places = convolution.output_size(size, kernel, *how)
            x, w, y = (np.zeros(shape) for shape in ((1, c, *size), (o, c, *kernel), (1, o, *places)))
            either = stride == ONE and all(p <= d * (k - 1) for k, p, d in zip(kernel, padding, dilation, strict=True))
            tiles = (kernel, stride) in (((3, 3), ONE), ((4, 4), TWO)) and dilation == ONE and min(c, o) >= 32
            swapped = either and kernel != ONE and math.prod(size) * o < math.prod(places) * c
            back = either and kernel != ONE and math.prod(places) * c < math.prod(size) * o
            convolution.convolve(x, w, None, *how)
            convolution.convolve_adjoint(y, w, size, *how)
            convolution.convolve_weight(x, y, kernel, *how)
            forward, backward, weight = taken
            if tiles:
                assert forward == ("by_tiles", x.shape)
                assert backward == ("by_tiles" if either else "adjoint_by_tiles", y.shape)
                assert weight == ("weight_by_tiles", x.shape)
            else:
                assert forward == ("scatter" if swapped else "gather", x.shape)
                assert backward == ("gather" if either and not back else "scatter", y.shape)
                assert weight == ("weight_by_gathering", y.shape if swapped else x.shape)
            taken.clear()
            convolution.gradients(x, w, y, (True, True), *how)
            both = [("both_by_tiles", y.shape) if either else ("both_adjoints_by_tiles", x.shape)]
            assert taken == (both if tiles else [backward, weight])
            taken.clear()
            convolution.gradients_of_adjoint(y, w, x, (True, True), *how)
            assert taken == ([("both_by_tiles", x.shape)] if tiles else [forward, weight])
            taken.clear()


@pytest.mark.parametrize("channels", [(1, 40), (40, 1), (40, 40)])
@pytest.mark.parametrize(("kernel", "size", "how"), SETTINGS)
def test_other_padding_after_an_image_than_before_it(channels, kernel, size, how):
    """An output of another size is that for an image with more zeros after it, or with its last pixels left out; and so
    are the gradients, those of pixels that are left out 0.  Integers, so exactly."""
    rng, (c, o), (stride, padding, dilation) = np.random.default_rng(0), channels, how
    symmetric = convolution.output_size(size, kernel, *how)
    for more in itertools.product((-1, 0, 1), repeat=2):
        places = tuple(n + m for n, m in zip(symmetric, more, strict=True))
        if min(places) < 1:
            continue
        spans = zip(places, kernel, stride, dilation, strict=True)
        whole = tuple(s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in spans)  # the padded image
        x, w, y = integers(rng, 2, c, *size), integers(rng, o, c, *kernel), integers(rng, 2, o, *places)
        seen = tuple(slice(p, p + n) for n, p in zip(size, padding, strict=True))
        wide = convolution.pad(x, padding, whole).transpose(0, 3, 1, 2)
        without = (stride, (0, 0), dilation)
        found = convolution.convolve(x, w, None, *how, places)
        assert np.array_equal(found, convolution.gather(wide, w, None, *without, places))
        back = np.zeros((2, c, *(max(n + p, m) for n, p, m in zip(size, padding, whole, strict=True))))
        back[:, :, : whole[0], : whole[1]] = convolution.scatter(y, w, None, whole, *without)
        slopes = back[:, :, *seen], convolution.weight_by_gathering(wide, y, kernel, *without)
        assert np.array_equal(convolution.convolve_adjoint(y, w, size, *how), slopes[0])
        assert np.array_equal(convolution.convolve_weight(x, y, kernel, *how), slopes[1])
        for a, b in zip(convolution.gradients(x, w, y, (True, True), *how), slopes, strict=True):
            assert np.array_equal(a, b)
        dy, dw = convolution.gradients_of_adjoint(y, w, x, (True, True), *how)
        assert np.array_equal(dy, found)
        assert np.array_equal(dw, slopes[1])


Ways = dict[str, Callable[[], np.ndarray]]


def ways_by_tiles(
    image: Callable[..., np.ndarray], c: int, o: int, size: tuple[int, int], types: Any, tiling: convolution.Tiling
) -> Ways:
    """Those by tiles: the maps, and each of two made together."""
    (of_x, of_w), large, side = types, tuple(tiling.s * n for n in size), tiling.r * tiling.s
    x, w = image(of_x, c, large), image(of_w, c, (side, side), o)
    y, of_y = image(of_w, o, size), image(of_x, o, size)
    both, adjoints = convolution.both_by_tiles, convolution.both_adjoints_by_tiles
    return {
        "by_tiles": lambda: by_tiles(x, w, None, ONE, tiling),
        "adjoint_by_tiles": lambda: convolution.adjoint_by_tiles(of_y, w, large, ONE, tiling),
        "weight_by_tiles": lambda: convolution.weight_by_tiles(x, y, ONE, tiling),
        "both_by_tiles": lambda: both(x, w, y, ONE, tiling)[0],
        "weight of both_by_tiles": lambda: both(x, w, y, ONE, tiling)[1],
        "both_adjoints_by_tiles": lambda: adjoints(x, w, y, ONE, tiling)[0],
        "weight of both_adjoints_by_tiles": lambda: adjoints(x, w, y, ONE, tiling)[1],
    }


def ways(rng: np.random.Generator, n: int, channels: tuple[int, int], size: tuple[int, int], types: Any) -> Ways:
    """All that convolves, images of one type and kernels of another, to images of `size`: with 3×3 kernels, dilated
    where that may be, and by tiles with 4×4 ones of stride 2 too.

    The numbers are those of float32."""

    def image(dtype: str, channels: int, size: tuple[int, ...], count: int = n) -> np.ndarray:
        return rng.standard_normal((count, *size, channels), np.float32).astype(dtype).transpose(0, 3, 1, 2)

    (c, o), (of_x, of_w) = channels, types
    x, w, y = image(of_x, c, size), image(of_w, c, (3, 3), o), image(of_w, o, size)
    found = {
        "gather": lambda: gather(x, w, None, ONE, TWO, TWO),
        "scatter": lambda: convolution.scatter(x, convolution.turned(w), None, size, ONE, TWO, TWO),
        "weight_by_gathering": lambda: convolution.weight_by_gathering(x, y, (3, 3), ONE, TWO, TWO),
    }
    for tiling in convolution.TILINGS:
        for name, way in ways_by_tiles(image, c, o, size, types, tiling).items():
            found[f"{name}, stride {tiling.s}"] = way
    return found


@pytest.mark.parametrize("types", list(itertools.product(["float32", "float64"], repeat=2)))
def test_types_of_the_results(types):
    """float32 and float32 give float32, every other pair float64, as a product of matrices does, with all its digits.
    Results lie in memory as (N, H, W, C)."""
    exact = ways(np.random.default_rng(0), 2, (3, 2), (6, 5), ("float64", "float64"))
    for name, way in ways(np.random.default_rng(0), 2, (3, 2), (6, 5), types).items():
        found = way()
        assert found.dtype == np.result_type(*types), name
        np.testing.assert_allclose(found, exact[name](), atol=1e-4 if found.dtype == "float32" else 1e-12)
        assert name.startswith("weight") or found.transpose(0, 2, 3, 1).flags.c_contiguous
    rows = integers(np.random.default_rng(0), 2, 5, 3).astype(types[0])
    assert column_sums(rows).dtype == types[0]
    for of_x, of_w, of_g in itertools.product(types, repeat=3):
        x, w = np.ones((2, 3, 6, 5), of_x), np.ones((2, 3, 3, 3), of_w)
        for both in (convolution.both_by_tiles, convolution.both_adjoints_by_tiles):
            found = both(x, w, np.ones((2, 2, 6, 5), of_g), ONE, convolution.TILINGS[0])
            assert {a.dtype for a in found} == {np.result_type(of_x, of_w, of_g)}


@settings(max_examples=600)
@given(st.integers(0, 10**6))
def test_products_in_pieces(seed):
    """Of integers exactly, however the operands lie in memory, with stacks and without, into an array and not: the
    product; in pieces that are no larger than they may be, of all of it.  For threads of C's: `test_compiled.py`."""
    rng = np.random.default_rng(seed)
    pick = lambda options: options[rng.integers(len(options))]
    m, k, n, batch = (
        pick([1, 3, 4, 8, 24, 36, 48]),
        pick([2, 3, 7, 20]),
        pick([2, 4, 9, 16, 24]),
        pick([(), (2,), (2, 3)]),
    )

    def operand(batch: tuple[int, ...], rows: int, columns: int) -> np.ndarray:
        lines, numbers = (rows, columns) if (by_rows := pick([True, False])) else (columns, rows)
        gap = pick([1, 1, 2])
        x = integers(rng, *batch, lines, gap * numbers).astype("float32")[..., ::gap]
        return x if by_rows else x.swapaxes(-1, -2)

    batches = pick([(batch, batch), (batch, ()), ((), batch)])
    a, b = operand(batches[0], m, k), operand(batches[1], k, n)
    made, multiply, there_are = [], np.matmul, pick([True, True, False])

    def seen(left: np.ndarray, right: np.ndarray, out: Any = None) -> np.ndarray:
        found = multiply(left, right, out=out)
        made.append((found.shape[-2:], found.size))
        return found

    wide = np.full((*batch, m, 2 * n), np.nan, "float32")
    out = pick([None, None, wide[..., ::2], wide[..., n:]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "SMALL", small := pick([20, 50, 200, 1000]))
        patch.setattr(products, "NARROWEST", narrowest := pick([4, 8, 16]))
        patch.setattr(products, "kernels_for_small", lambda: there_are)
        patch.setattr(np, "matmul", seen)
        patch.setattr(compiled, "has", lambda *of: False)
        found = products.product(a, b, out=out)
    assert out is None or found is out
    assert np.array_equal(found, a @ b)
    assert found.dtype == np.float32
    ((piece, numbers),) = made
    assert numbers == found.size
    across, down = (a.strides[axis] == a.itemsize for axis in (-1, -2))
    rows = products.divisor(m, small // (k * n)) if across else 0
    few = m if m < 32 else products.divisor(m, 32)
    pieces = (rows, n) if rows else (few, products.divisor(n, small // (k * few)) if few else 0)
    fit = b.strides[-1] == b.itemsize and (across or down) and all(pieces) and pieces[1] >= min(n, narrowest)
    cut = m * k * n > small and fit and there_are
    assert piece == (pieces if cut else (m, n))
    assert not cut or math.prod(piece) * k <= small


@pytest.mark.parametrize("types", [("float32", "float64"), ("float64", "float32"), ("float32", "float32")])
@pytest.mark.parametrize("batches", [((), (2,)), ((2,), ()), ((3, 1), (2,))])
def test_pieces_are_put_together(monkeypatch, batches, types):
    """Of the shape and type of the whole product, whichever operand is the stack and whichever the longer numbers."""
    monkeypatch.setattr(products, "SMALL", 100)
    monkeypatch.setattr(products, "kernels_for_small", lambda: True)
    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(size=(*batch, *size)).astype(dtype)
        for batch, size, dtype in zip(batches, ((8, 6), (6, 4)), types, strict=True)
    )
    found = products.product(a, b)
    assert found.dtype == np.result_type(*types)
    np.testing.assert_allclose(found, a @ b, rtol=1e-5 if found.dtype == np.float32 else 1e-12)


@given(st.integers(0, 9), st.integers(0, 200), st.integers(0, 200), st.sampled_from(["float32", "float64"]))
def test_where_matrices_begin(seed, m, n, dtype):
    """What is made for a product to read, a copy, a product or an array to be filled, is of its shape and type, and
    begins with a line of the cache unless it is small; a copy has the numbers."""
    rows = integers(np.random.default_rng(seed), n, m).astype(dtype).T
    made = [products.empty_in_lines((m, n), dtype), products.in_lines(rows)]
    made += [f(np.ones((m, 2), dtype), np.ones((2, n), dtype)) for f in (products.product, products.matmul)]
    for x in made:
        assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == ((m, n), dtype, True, True)
        assert x.nbytes < products.WORTH_A_LINE or x.ctypes.data % products.LINE == 0
    assert np.array_equal(made[1], rows)
    assert np.array_equal(made[2], np.full((m, n), 2))
    assert np.array_equal(made[3], made[2])


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_largest_divisor(count, most):
    """A multiple of 4 that divides `count`, at most `most`, and none above it; 0 where there is none."""
    fitting = [d for d in range(4, most + 1, 4) if count % d == 0]
    assert products.divisor(count, most) == max(fitting, default=0)


def test_products_are_cut_where_there_are_kernels_for_small_ones(monkeypatch):
    """OpenBLAS's kernels for AVX-512 are; with those for AVX2, or another library, or none, a product is one."""
    for name, expected in {"SkylakeX": True, "Haswell": False, None: False}.items():
        products.kernels_for_small.cache_clear()
        monkeypatch.setattr(products, "matrix_library", lambda name=name: types.SimpleNamespace(architecture=name))
        assert products.kernels_for_small() is expected
    products.kernels_for_small.cache_clear()
    monkeypatch.setattr(products, "matrix_library", lambda: None)
    assert not products.kernels_for_small()
    products.kernels_for_small.cache_clear()


WAYS = list(ways(np.random.default_rng(0), 0, (1, 1), (1, 1), ("float32", "float32")))


def bytes_in_use(work: Callable[[], np.ndarray]) -> int:
    """The most memory that there is beside the result at any time.  NumPy tells tracemalloc of all its arrays; what
    Python itself makes once, and keeps, is not there in the least of three."""
    found = []
    for _ in range(3):
        tracemalloc.start()
        kept = work().nbytes
        found.append(tracemalloc.get_traced_memory()[1] - kept)
        tracemalloc.stop()
    return min(found)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_in_between_is_of_another_type(way):
    """All that float32 numbers need on the way takes half the memory that it does for float64."""
    single, double = (
        bytes_in_use(ways(np.random.default_rng(0), 2, (6, 5), (20, 17), (dtype, dtype))[way])
        for dtype in ("float32", "float64")
    )
    assert 0.45 < single / double < 0.55


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("weight of")])
@pytest.mark.parametrize("channels", [(8, 1), (1, 9), (4, 4), (30, 1)])
def test_memory_does_not_grow_with_the_number_of_images(monkeypatch, way, channels):
    """Beside the result there are two or three times BLOCK_BYTES, and a gradient in the kernel per block, which is
    little, but with both of these and blocks of pixels up to five: the patches of all images at once, nine times as
    large as the images, are nowhere."""
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1 << 18)
    monkeypatch.setattr(convolution, "CHUNK_BYTES", 1 << 15)
    convolution.job.cache_clear()
    images, of_blocks = 1600 // sum(channels), way.endswith("stride 2")
    size, most = (8, 5) if of_blocks else (16, 9), 5 if of_blocks and way.startswith("both_adjoints") else 4
    call = ways(np.random.default_rng(0), images, channels, size, ("float64", "float64"))[way]
    with threadpool_limits(1):
        assert bytes_in_use(call) < most * backend.BLOCK_BYTES


@settings(max_examples=3 * settings().max_examples)
@given(
    st.integers(0, 9), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.booleans(),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_normalisation_by_its_equations(seed, b, p, groups, of_each, over_batch, own, gated):
    """x̂ = (x − mean) / √(variance + eps), y = x̂·w + bias, the mean and the variance those of a group of columns, w and
    bias of all images or each one's own; out is y or y·sigmoid(y).  With g the gradient in y, ∂out/∂y times that in
    out, dx = (g·w − mean(g·w) − x̂·mean(g·w·x̂)) / √(variance + eps), dw = Σ g·x̂, dbias = Σ g.  Ioffe & Szegedy 2015,
    section 3."""
    rng, c, eps = np.random.default_rng(seed), groups * of_each, 0.3
    rows, g = rng.normal(2.0, 3.0, (b, p, c)), rng.normal(size=(b, p, c))
    weight, bias = rng.normal(size=(b, c) if own else c), rng.normal(size=(b, c) if own else c)
    over = (0, 1, 3) if over_batch else (1, 3)

    def mean(x: np.ndarray) -> np.ndarray:
        grouped = x.reshape(b, p, groups, of_each).mean(axis=over, keepdims=True)
        return np.broadcast_to(grouped, (b, p, groups, of_each)).reshape(b, p, c)

    variance = mean((rows - mean(rows)) ** 2)
    std = np.sqrt(variance + eps)
    normal = (rows - mean(rows)) / std
    for found, expected in zip(normalization.moments(rows, groups, over_batch), (mean(rows), variance), strict=True):
        assert found.shape == (b, c)
        np.testing.assert_allclose(found, expected[:, 0], atol=1e-12)
    y = normal * weight[..., None, :] + bias[..., None, :]
    gate = 1 / (1 + np.exp(-y)) if gated else np.ones_like(y)
    how = (groups, eps, over_batch, gated)
    out, saved = normalization.normalize(rows, weight, bias, *how)
    np.testing.assert_allclose(out, y * gate, atol=1e-12)
    dx, dw, dbias = normalization.normalize_gradients(g, saved, rows, weight, bias, *how)
    g = g * (gate + y * gate * (1 - gate))
    slope = g * weight[..., None, :]
    np.testing.assert_allclose(dx, (slope - mean(slope) - normal * mean(slope * normal)) / std, atol=1e-12)
    np.testing.assert_allclose(dw, (g * normal).sum(axis=1 if own else (0, 1)), atol=1e-12)
    np.testing.assert_allclose(dbias, g.sum(axis=1 if own else (0, 1)), atol=1e-12)


@pytest.mark.parametrize("over_batch", [False, True])
def test_known_moments_are_not_taken_again(over_batch):
    """Who has the moments already hands them in: the same to the last bit over the batch, and to a few roundings in
    each image, where C has a way of its own; and other numbers are taken for them too."""
    rows, weight, bias = (np.random.default_rng(0).normal(size=size) for size in ((3, 5, 4), 4, 4))
    how = (2, 0.1, over_batch, True)
    out, saved = normalization.normalize(rows, weight, bias, *how)
    known = normalization.moments(rows, 2, over_batch)
    again, saved_again = normalization.normalize(rows, weight, bias, *how, known)
    for a, b in zip((out, *saved), (again, *saved_again), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0 if over_batch else 4e-16 * np.abs(b).max())
    twice, (mean, rstd) = normalization.normalize(
        rows, weight, bias, *how[:3], False, (known[0] * 0, known[1] * 0 + 0.9)
    )
    np.testing.assert_allclose(twice, rows * weight + bias, atol=1e-12)
    assert (mean.tolist(), rstd.tolist()) == (np.zeros((3, 4)).tolist(), np.ones((3, 4)).tolist())


@pytest.mark.parametrize("mean", [0, 10, 1e3, 1e4])
@pytest.mark.parametrize("over_batch", [False, True])
def test_normalisation_far_from_zero(mean, over_batch):
    """In float32, of numbers with the standard deviation 1, the error is that of rounding the numbers and their mean: a
    few times 2⁻²³ · (|mean| + 1), where a variance as a mean of squares less a square has no digits left."""
    rows = (mean + np.random.default_rng(0).normal(size=(4, 64, 16))).astype(np.float32)
    ones, how = np.ones(16, np.float32), (4, 1e-5, over_batch, False)
    exact, _ = normalization.normalize(*(a.astype(float) for a in (rows, ones, ones)), *how)
    found, _ = normalization.normalize(rows, ones, ones, *how)
    assert np.abs(found - exact).max() < 8 * 2**-23 * (mean + 1)


@pytest.mark.parametrize("gated", [False, True])
def test_types_of_a_normalisation(gated):
    """All that it gives, and all that it keeps, is of the rows' type."""
    rows, ones, how = np.ones((2, 3, 4), np.float32), np.ones(4, np.float32), (2, 0.1, False, gated)
    out, saved = normalization.normalize(rows, ones, ones, *how)
    slopes = normalization.normalize_gradients(out, saved, rows, ones, ones, *how)
    assert {a.dtype.name for a in (out, *saved, *slopes, *normalization.moments(rows, 2, True))} == {"float32"}


def of_tiles(x: np.ndarray, tiling: convolution.Tiling) -> list[np.ndarray]:
    """All that is made by tiles, for a kernel and a bias of integers."""
    rng, how = np.random.default_rng(0), ((1, 0), tiling)
    w, bias = integers(rng, 3, x.shape[1], *(tiling.r * tiling.s,) * 2), integers(rng, 3)
    y = by_tiles(x, w, bias, *how)
    return [
        y,
        convolution.adjoint_by_tiles(y, w, x.shape[2:], *how),
        convolution.weight_by_tiles(x, y, *how),
        *convolution.both_by_tiles(x, w, y, *how),
        *convolution.both_adjoints_by_tiles(x, w, y, *how),
    ]


@pytest.mark.parametrize("size", [1, 700, 3000, 1 << 40])
def test_blocks_change_no_number(monkeypatch, size):
    """How many images fit into a block, one, some or all, and a last block that is not full."""
    rng, how = np.random.default_rng(0), ((1, 2), (1, 0), (1, 1))
    x, w, bias = integers(rng, 7, 2, 5, 6), integers(rng, 3, 2, 3, 2), integers(rng, 3)
    y = gather(x, w, bias, *how)
    back, slope = convolution.scatter(y, w, None, (5, 6), *how), convolution.weight_by_gathering(x, y, (3, 2), *how)
    tiled = [of_tiles(x, tiling) for tiling in convolution.TILINGS]
    monkeypatch.setattr(backend, "BLOCK_BYTES", size)
    assert np.array_equal(gather(x, w, bias, *how), y)
    assert np.array_equal(convolution.scatter(y, w, None, (5, 6), *how), back)
    assert np.array_equal(convolution.weight_by_gathering(x, y, (3, 2), *how), slope)
    for tiling, expected in zip(convolution.TILINGS, tiled, strict=True):
        for a, b in zip(of_tiles(x, tiling), expected, strict=True):
            assert np.array_equal(a, b)
    assert np.array_equal(column_sums(x[:, :, 0]), x[:, :, 0].sum(axis=1))
    parts = backend.in_blocks(lambda part: part, x, 100)
    assert [i for part in parts for i in range(7)[part]] == list(range(7))
    assert backend.in_blocks(lambda part: part, x[:0], 100) == [slice(0, 0)]


@pytest.mark.parametrize("size", [1, 700, 3000, 1 << 14, 1 << 40])
def test_blocks_change_no_normalisation(monkeypatch, size):
    """The same for normalisation with SiLU and its gradients."""
    rows, w, how = np.random.default_rng(0).normal(size=(7, 30, 2)), np.arange(2.0), (1, 0.1, False, True)
    results = []
    for block_bytes in (1 << 40, size):
        monkeypatch.setattr(backend, "BLOCK_BYTES", block_bytes)
        out, saved = normalization.normalize(rows, w, w, *how)
        results.append([out, *normalization.normalize_gradients(rows, saved, rows, w, w, *how)])
    for whole, parts in zip(*results, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-13)


def test_threads_change_no_bit(monkeypatch):
    """The blocks do not depend on the number of threads, and inside them products run on one: the same bits."""
    monkeypatch.setattr(backend, "BLOCK_BYTES", 1 << 14)
    rng, results = ng.Generator(0), []
    x, w, bias = rng.normal((16, 33, 9, 8)), rng.normal((40, 33, 3, 3)), rng.normal((40,))
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            leaves = [ng.tensor(a, requires_grad=True) for a in (x, w, bias)]
            y = F.group_norm_silu(F.group_norm(F.conv2d(*leaves, padding=1), 4), 2)
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


MATRICES = [
    ((2, 3), (3, 4)), ((1, 3), (3, 4)), ((0, 3), (3, 4)), ((2, 3, 4), (4, 2)), ((2, 3, 4), (2, 4, 5)), ((3,), (3, 4)),
    ((3, 2, 2, 4), (3, 2, 4, 5)), ((2, 2, 2, 4), (2, 1, 4, 5)), ((3, 4), (2, 4, 5)), ((2, 3), (3,)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", MATRICES)
@pytest.mark.parametrize("types", [(np.float32, np.float32), (np.float32, np.float64), (np.float64, np.float32)])
def test_matmul_is_a_at_b(shapes, types, monkeypatch):
    """Whatever axes are shared out: the same numbers as a @ b, in the same type.  They are shared out by their bytes
    where the first axis of a is one of the result's alone, or of both stacks."""
    rng, calls = np.random.default_rng(0), []
    a, b = (integers(rng, *shape).astype(dtype) for shape, dtype in zip(shapes, types, strict=True))

    def noted(work: Any, like: Any, item_bytes: int) -> list[Any]:
        calls.append(item_bytes)
        return backend.in_blocks(work, like, item_bytes)

    monkeypatch.setattr(backend, "BLOCK_BYTES", 1)
    monkeypatch.setattr(products, "in_blocks", noted)
    found, expected = products.matmul(a, b), a @ b
    assert np.array_equal(found, expected)
    assert found.dtype == expected.dtype
    shared = min(a.ndim, b.ndim) > 1 and (b.ndim == 2 or a.shape[:-2] == b.shape[:-2])
    assert calls == ([(a.nbytes + expected.nbytes) // max(len(a), 1)] if shared else [])
    assert {type(number) for number in calls} <= {int}
