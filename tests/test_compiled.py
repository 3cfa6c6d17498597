"""The kernels in C beyond their values (see test_kernels): sizes of what they take at once, threads, exactness, the
compiler and its absence."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import example, given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

import nanogen as ng
from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight, output_size
from nanogen.kernels import convolution as choice
from nanogen.kernels import winograd
from nanogen.kernels.cpu import build, compiled, convolution, linear, products, threads
from nanogen.models.autoregressive.gated import gate
from nanogen.optim import adam

pytestmark = pytest.mark.skipif(not build.compiler(), reason="no C compiler")
EPSILON = {"float32": 2**-23, "float64": 2**-52}
SEEDS = st.integers(0, 10**6)
few = st.integers(1, 4)


def test_there_are_functions_of_both_types() -> None:
    """Otherwise every kernel would decline, and its tests would compare plain forms with themselves."""
    assert all(compiled.covers(np.zeros(1, name)) for name in EPSILON)
    assert not any(compiled.covers(np.zeros(1, name)) for name in ("int64", "float16"))
    assert not compiled.covers(np.zeros(1, "float32"), np.zeros(1, "float64"))


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
    assert 0 <= memory - used < products.CACHE_LINE
    assert memory * k % products.CACHE_LINE == 0
    assert made.memory == groups * memory
    deep = images * at_once * line
    cut = [(deep, o, row, False), (deep, row, o, False), (o, row, deep, True)]
    pieces = [products.piece(4, *sizes, transposed, False, small)[:3] for *sizes, transposed in cut]
    assert numbers[11:20] == [length for piece in pieces for length in piece]


@given(SEEDS, st.booleans(), st.booleans(), st.integers(1, 5000), *[st.integers(1, 300)] * 2)
@example(0, True, True, 64, 300, 300)  # a weight of more numbers than the rows
@example(0, True, False, 5000, 1, 1)
def test_rows_job(seed: int, small: bool, transposed: bool, rows: int, k: int, m: int) -> None:
    """As many groups as threads could need, an even number, if each has as many numbers as the weights, and 128 rows at
    least; products are cut as `piece` says, for all threads where there is one group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "GROUPS", cores := [4, 8, 12][seed % 3])
        patch.setattr(linear, "kernels_for_small", lambda: small)
        found = linear.rows_job.__wrapped__(rows, k, m, transposed).tolist()
    groups, least = found[4], max(128, k * m / (k + m))  # rows of a group
    assert found[:4] == [rows, k, m, transposed]
    assert groups in (1, *range(2, cores + 1, 2))
    assert groups == 1 or rows >= groups * least
    assert groups == cores or rows < (groups // 2 * 2 + 2) * least
    count = 4 if groups > 1 else 1
    forward = products.piece(count, -(-rows // groups), m, k, False, transposed, small)
    weight = products.piece(count, k, m, -(-rows // groups), True, False, small)
    assert found[5:] == [*forward[:3], *weight[:3]]


@given(*[st.integers(1, 3000)] * 3, few, *[st.booleans()] * 3)
def test_pieces_of_products(
    m: int, n: int, k: int, count: int, transposed_a: bool, transposed_b: bool, small: bool
) -> None:
    """They are no larger than the product and, with kernels for small matrices, no more than SMALL multiplications;
    no group of the depth is empty."""
    height, width, depth, groups = products.piece(count, m, n, k, transposed_a, transposed_b, small)
    sizes = [(height, m), (width, n), (depth, k), (groups, 4)]
    assert all(0 < size <= most for size, most in sizes)
    deep = -(-k // depth)
    assert (groups - 1) * -(-deep // groups) < deep
    if small and not transposed_b:
        assert height * width * depth <= products.SMALL


@pytest.mark.parametrize("F", [None, *winograd.TILINGS], ids=["patches", "3x3", "4x4"])
@given(SEEDS, st.sampled_from([1, 1 << 10, 1 << 13]), st.sampled_from([4, 8]), st.integers(1, 3))
def test_images_some_at_a_time(F: winograd.Tiling | None, seed: int, room: int, groups: int, count: int) -> None:
    """Convolutions and their adjoints, of integers exactly, are the plain forms, however few images, or lines of one,
    are taken at a time, in however many groups, and by however many threads."""
    rng = np.random.default_rng(seed)
    n, c, o, *size = rng.integers(1, [40, 4, 4, 9, 9]).tolist()
    numbers = lambda *shape: rng.integers(-4, 5, shape).astype(float)
    kernel, stride, dilation, padding = (tuple(rng.integers(1, 4, 2).tolist()) for _ in range(4))
    if F is not None:
        kernel, stride, dilation = (F.r * F.s,) * 2, (F.s, F.s), (1, 1)
    places = output_size(tuple(size), kernel, stride, padding, dilation)
    if min(places) < 1:
        return
    how = {"stride": stride, "padding": padding, "dilation": dilation}
    x, w, y, b, d = (numbers(*of) for of in ((n, c, *size), (o, c, *kernel), (n, o, *places), (o,), (c,)))
    exact = [convolve.plain(x, w, **how) + b[:, None, None], convolve_weight.plain(x, y, kernel=kernel, **how)]
    adjoint = convolve_adjoint.plain(y, w, size=tuple(size), **how)
    exact += [adjoint + d[:, None, None]] if F is None else [adjoint, exact[1]]
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(count):
        patch.setattr(convolution, "CHUNK_BYTES", room)
        patch.setattr(convolution, "GROUPS", groups)
        convolution.job.cache_clear()
        try:
            if F is None:
                found = [*convolution.im2col(x, w, b, y, kernel, *how.values(), places)]
                found += [convolution.col2im(y, w, d, tuple(size), *how.values())]
            else:
                found = [*convolution.winograd(x, w, b, y, padding, F, places)]
                found += convolution.winograd_adjoint(y, w, x, padding, F, tuple(size))
        finally:
            convolution.job.cache_clear()
    assert [np.array_equal(one, other) for one, other in zip(found, exact, strict=True)] == [True] * len(exact)


@pytest.mark.parametrize(("kernels", "small"), [("SkylakeX", True), ("Haswell", False), (None, False)])
def test_kernels_for_small_matrices(kernels: str | None, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of OpenBLAS for AVX-512; other processors and libraries have none."""
    found = None if kernels is None else types.SimpleNamespace(architecture=kernels)
    monkeypatch.setattr(products, "blas", lambda: found)
    assert products.kernels_for_small.__wrapped__() == small


def test_a_blas_without_such_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has no address, which is 0; convolutions, which need it, decline, and so do products."""
    monkeypatch.setattr(products, "blas_function", lambda name: None)
    assert products.gemm_address.__wrapped__("f") == 0
    for module in (products, convolution):
        monkeypatch.setattr(module, "gemm_address", lambda real: 0)
    x, w = np.ones((2, 3, 5, 5)), np.ones((2, 3, 3, 3))
    how = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "size": (5, 5)}
    assert convolve.kernels["cpu"][0](x, w, **how) is NotImplemented
    assert F.conv2d(x, w, padding=1).shape == (2, 2, 5, 5)


@given(SEEDS, st.sampled_from([100, 3000, 50_000]), st.booleans(), st.integers(2, 3))
@example(8, 50_000, True, 2)  # pieces by columns
def test_products_in_pieces(seed: int, small: int, kernels: bool, count: int) -> None:
    """The products of a convolution of pixels, of integers exactly, in pieces of every height, width and depth, and in
    groups of those."""
    rng = np.random.default_rng(seed)
    n, pixels, c, o = rng.integers(1, [9, 60, 90, 90])
    x, w, g = (rng.integers(-4, 5, s).astype(float) for s in ((n, c, 1, pixels), (o, c, 1, 1), (n, o, 1, pixels)))
    forward, gradient = convolve.kernels["cpu"]
    how = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "size": (1, pixels)}
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(count):
        patch.setattr(products, "SMALL", small)
        patch.setattr(convolution, "kernels_for_small", lambda: kernels)
        convolution.job.cache_clear()
        try:
            found = forward(x, w, **how)[0], *gradient(g, None, x, w, wanted=[True, True], **how)
        finally:
            convolution.job.cache_clear()
    pairs = (x, w), (g, w), (g, x)
    for one, (a, b), terms in zip(found, pairs, ("ncip,ocii->noip", "noip,ocii->ncip", "noip,ncip->oc"), strict=True):
        expected = np.einsum(terms, a, b)
        assert np.array_equal(one.reshape(expected.shape), expected)


def test_what_updates_leave_to_the_plain_form() -> None:
    """Parameters that are not contiguous, and lists of several types: unchanged."""
    whole = np.ones((2, 3))
    for average, value in ((whole.T, whole.T), (whole, whole.astype("float32")), (whole[:, ::2], whole[:, :2])):
        lists = [average], [value], [average], [average]
        found = adam.kernels["cpu"][0](*lists, betas=(0.9, 0.99), eps=1e-3, correction=1.0, rate=0.1)
        assert found is NotImplemented
        assert (average == 1).all()


@given(st.integers(0, 10**6), st.integers(1, 50_000))
@example(0, 50_000)  # memory of its own pages, which begins 16 bytes after one
def test_where_matrices_begin(start: int, count: int) -> None:
    """What is made for a product to read begins with a cache line, and has its numbers."""
    copy = products.aligned(np.arange(start, start + count, dtype=np.float32).reshape(count, 1))
    assert np.array_equal(copy[:, 0], np.arange(start, start + count, dtype=np.float32))
    assert compiled.address(copy) % products.CACHE_LINE == 0


@pytest.mark.parametrize("tiling", winograd.TILINGS)
def test_winograd_is_about_as_exact_as_im2col(tiling: winograd.Tiling) -> None:
    """In float32 the error of each of the three forms, in the mean square, is below 12 · 2⁻²⁴ of the numbers; that of
    im2col, which sums more numbers forward and fewer back, is 2 to 9 · 2⁻²⁴.  F(4×4, 3×3), whose matrices have entries
    up to 8, would be ten times worse.  Power: one seed, deterministic."""
    rng, side = np.random.default_rng(0), tiling.r * tiling.s
    how = {"stride": (tiling.s,) * 2, "padding": (1, 1), "dilation": (1, 1)}
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((8, 64, 10, 11), (48, 64, side, side)))
    assert choice.tiling((side, side), how["stride"], (1, 1), (64, 48)) == tiling
    y = rng.standard_normal(convolve(x, w, **how).shape, np.float32)
    forms = (
        lambda x, w, y: convolve(x, w, **how),
        lambda x, w, y: convolve_adjoint(y, w, size=(10, 11), **how),
        lambda x, w, y: convolve_weight(x, y, kernel=(side, side), **how),
    )
    for form in forms:
        found, exact = form(x, w, y).data, form(*(a.astype(float) for a in (x, w, y))).data
        assert 0 < np.square(found - exact).mean() < (12 * 2**-24) ** 2 * np.square(exact).mean()


def test_the_way_with_the_smallest_matrix_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd between many channels, for 3×3 kernels and 4×4 ones of stride 2.  Else, of the two matrices of patches,
    that with fewer numbers; both gradients in one pass where the tiles are the same."""
    called: list[str] = []
    call = compiled.call
    monkeypatch.setattr(convolution, "call", lambda name, *of: called.append(name) or call(name, *of))

    def ways(c: int, o: int, kernel: int, size: int, **how: Any) -> list[str]:
        called.clear()
        x, w = leaf(np.ones((2, c, size, size))), leaf(np.ones((o, c, kernel, kernel)))
        y = F.conv2d(x, w, **how)
        ng.grad(y.sum(), [x, w])
        return called.copy()

    assert ways(32, 32, 3, 6, padding=1) == ["winograd", "winograd"]
    assert ways(32, 32, 3, 6, padding=3) == ["winograd", "winograd_adjoint"]
    assert ways(32, 33, 4, 8, padding=1, stride=2) == ["winograd", "winograd_adjoint"]
    assert ways(31, 32, 3, 6, padding=1)[0] == "im2col"
    assert ways(32, 32, 3, 6, padding=1, dilation=2)[0] in ("im2col", "col2im")
    assert ways(40, 2, 3, 6, padding=1) == ["col2im", "im2col", "im2col"]
    assert ways(2, 40, 3, 6, padding=1) == ["im2col", "col2im", "im2col"]
    assert ways(3, 4, 1, 6) == ["im2col"] * 3
    assert ways(3, 4, 3, 7, stride=2) == ["im2col", "col2im", "im2col"]


@given(st.floats(-100, 100, width=32), st.sampled_from(sorted(EPSILON)))
@example(-88.5, "float32")
@example(-87.5, "float32")
@example(-5.9, "float32")  # as far from a multiple of ln 2 as can be
def test_silu(x: float, dtype: str) -> None:
    """x / (1 + e⁻ˣ) to four roundings, wherever e⁻ˣ is a number of the type."""
    exact = x / (1 + math.exp(-x))
    found = float(F.silu(Tensor(np.array([x], dtype))).data[0])
    smallest = np.finfo(dtype).tiny * 100
    assert abs(found - exact) <= 4 * EPSILON[dtype] * abs(exact) + smallest


@given(st.floats(-30, 30), st.floats(-120, 0), st.sampled_from(sorted(EPSILON)))
@example(1.0, -20.0, "float32")
def test_a_gates_tanh(x: float, exponent: float, dtype: str) -> None:
    """tanh x to four roundings, also of numbers near 0; the other half of the gate is open."""
    x = float(np.dtype(dtype).type(x * 2**exponent))
    found = float(gate(Tensor(np.array([[x, 100.0]], dtype))).data[0, 0])
    assert abs(found - math.tanh(x)) <= 4 * EPSILON[dtype] * abs(math.tanh(x)) + np.finfo(dtype).tiny


def test_a_label_that_is_no_class_has_no_loss() -> None:
    """The memory beside the logits is neither read nor changed."""
    memory = np.full((3, 4), 7.0)
    forward, gradient = F.loss.label_cross_entropy.kernels["cpu"]
    with np.errstate(all="ignore"):
        loss, saved = forward(memory[1:2], labels=np.array([5]))
        slope = gradient(np.ones(1), saved, memory[1:2], labels=np.array([-1]), wanted=[True])
    assert np.isnan(loss).all()
    assert np.isfinite(slope[0]).all()
    assert (memory == 7).all()


def test_threads_are_given_back() -> None:
    """While C works a product has one thread; afterwards, also after an error, it is as before."""
    get, _ = threads.blas_threads()
    with threadpool_limits(2):
        F.silu(Tensor(np.ones(10**5)))
        assert get() == 2
        with pytest.raises(ValueError, match="not contiguous"):
            compiled.call("relu", np.ones((4, 4)), np.ones((4, 4))[:, ::2], 8)
        assert get() == 2
        assert compiled._function("d", "sigmoid_gated")[1].value == min(2, os.cpu_count() or 1)
    with ng.backend.use_threads(1):
        F.silu(Tensor(np.ones(10**5)))
        assert compiled._function("d", "sigmoid_gated")[1].value == get() == 1


def test_products_of_numpys_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C does not multiply itself, NumPy does it with one thread: in matrix products, and in a convolution's
    transforms and its bias."""
    seen, multiply, get = [], np.matmul, threads.blas_threads()[0]
    counted = lambda *given, **more: (seen.append(get()), multiply(*given, **more))[1]
    monkeypatch.setattr(products.np, "matmul", counted)
    monkeypatch.setattr(convolution, "matmul", functools.partial(threads.single_threaded, counted))
    x, w, bias = leaf(np.ones((2, 32, 6, 6))), leaf(np.ones((32, 32, 3, 3))), leaf(np.ones(32))
    with threadpool_limits(2):
        F.matmul(np.ones((20, 30)), np.ones((30, 20)))
        F.conv2d(x, w, bias, padding=1).sum().backward()
        assert get() == 2
    assert seen == [1] * 5


@pytest.mark.parametrize("dtype", EPSILON)
def test_threads_change_nothing(dtype: str) -> None:
    """To the last bit the same with one, two and three threads: each number is made by one of them, in one order."""
    normal = lambda *shape: np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)
    labels = np.random.default_rng(0).integers(0, 20, 999)

    def work() -> list[np.ndarray]:
        x, w, v, bias = (
            leaf(normal(9, 32, 16, 14)),
            leaf(normal(32, 32, 3, 3)),
            leaf(normal(5, 32, 3, 2)),
            leaf(normal(32)),
        )
        y = F.conv2d(x, w, bias, padding=1)
        y = F.group_norm_silu(y, 4, bias, bias)
        z = F.batch_norm(F.conv_transpose2d(y, w, stride=2), None, None, bias, bias, training=True)
        losses = F.cross_entropy(Tensor(normal(999, 20)), labels) + F.softmax(y, 1).sum() + F.silu(F.relu(z)).mean()
        out = losses + (F.conv2d(y, v, stride=2) ** 2).mean() + F.leaky_relu(y, 0.1).sum()
        product = (normal(500, 300) @ Tensor(normal(300, 200))).data
        optimizer = ng.optim.AdamW([x, w, v, bias])
        out.backward()
        optimizer.step()
        return [out.data, product, *(p.data for p in (x, w, v, bias)), *(p.grad.data for p in (x, w, v, bias))]

    found = []
    for count in (1, 2, 3):
        with threadpool_limits(count):
            found.append(work())
    for one, two, three in zip(*found, strict=True):
        assert np.array_equal(two, three)
        if one is not found[0][1]:  # NumPy's own product, where one thread makes it
            assert np.array_equal(one, two)


def test_memory_that_is_not_contiguous_is_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        compiled.address(np.ones((4, 4))[:, ::2])
    constant = np.broadcast_to(np.ones(()), (1,))  # can't be written to
    assert compiled.address(constant) == constant.ctypes.data
    assert compiled.address(np.ones((0, 3))) != 0


HOW_THREADS_WAIT = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SOURCE = """
#include <omp.h>
#include <stdlib.h>
static int briefly;
__attribute__((constructor)) static void loading(void)
{
    const char* count = getenv("GOMP_SPINCOUNT");
    briefly = count && atoi(count) == 1000;
}
int waiting(void) { return omp_get_max_threads() ? 42 + briefly : 0; }
"""


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`library` as in a process that has none yet, of a source of a few lines, with an empty cache."""
    monkeypatch.setenv("NANOGEN_CACHE", str(tmp_path / "cache"))
    for name in HOW_THREADS_WAIT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, "library", build.library.__wrapped__)
    monkeypatch.setattr(build, "FOLDER", tmp_path / "sources")
    build.FOLDER.mkdir()
    source = f'{SOURCE}// {tmp_path}\nconst char* here(void) {{ return "{tmp_path}"; }}\n'  # a library of its own
    (build.FOLDER / "few.c").write_text(source)
    return tmp_path / "cache" / "compiled"


def test_no_compiler(afresh: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """None at hand, or none wanted: no functions and not a word."""
    for command in ("", "no-such-compiler-at-all"):
        monkeypatch.setenv("CC", command)
        assert build.library("f") is None
    assert not recwarn.list
    assert not afresh.exists()


def executable(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("script", "said"), [
    ('[ "$1" = --version ] || { echo cannot do this >&2; exit 1; }', "cc failed\ncannot do this"),
    ("exit 1", "cc failed"), ('[ "$1" = --version ] || kill -9 $$', "cc failed"), (None, "false failed"),
    ("", "No such file"), ('[ "$1" = --version ] || { for last; do :; done; echo no library > "$last"; }', "ELF|short"),
])  # fmt: skip
def test_a_compiler_that_fails(script: str | None, said: str, afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does, one warning has what it said, and no library is left behind."""
    monkeypatch.setenv("CC", "false" if script is None else executable(afresh.parents[1] / "cc", script))
    with pytest.warns(UserWarning, match=f"no C kernels, using the plain NumPy forms: .*({said})") as caught:
        assert build.library("f") is None
    assert len(caught) == 1
    assert not list(afresh.glob("new-*"))


def test_a_command_that_is_none(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quotation without an end: a warning, like for other commands that fail."""
    monkeypatch.setenv("CC", 'cc "')
    with pytest.warns(UserWarning, match='no C kernels, using the plain NumPy forms: .*cc "'):
        assert build.library("f") is None


HANGS = """[ "$1" = --version ] && exit
touch "$TMPDIR/of-the-compiler"
sleep 60 &
echo $$ $! > "$0.processes"
wait"""


def ended(command: str) -> bool:
    """Whether both processes of HANGS have ended, now or soon."""
    both = Path(f"{command}.processes").read_text().split()
    for _ in range(500):
        found = subprocess.run(["ps", "-o", "stat=", "-p", ",".join(both)], capture_output=True, text=True).stdout
        if all(state.startswith("Z") for state in found.split()):
            return True
        time.sleep(0.02)
    return False


def test_a_compiler_that_hangs(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a limit.  Then it and what it has started end, and nothing is left."""
    monkeypatch.setattr(build, "SECONDS", 1.0)
    monkeypatch.setenv("CC", command := executable(afresh.parents[1] / "cc", HANGS))
    (temporary := afresh.parents[1] / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with pytest.warns(UserWarning, match=r"no C kernels.* timed out after 1.0 seconds"):
        assert build.library("f") is None
    assert [*afresh.iterdir(), *temporary.iterdir()] == []
    assert ended(command)


COMPILES = """
import signal
from nanogen.kernels.cpu import build
signal.signal(signal.SIGINT, signal.default_int_handler)
build.library("f")
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_stopped_while_it_compiles(number: int, status: int, tmp_path: Path) -> None:
    """By SIGTERM or Ctrl-C: the compiler's processes end with ours, and nothing is left in the cache."""
    command = executable(tmp_path / "cc", HANGS)
    ours = subprocess.Popen(
        [sys.executable, "-c", COMPILES],
        env=os.environ | {"CC": command, "NANOGEN_CACHE": str(tmp_path), "NANOGEN_KERNELS": "0"},
        stderr=subprocess.PIPE,
    )
    while not (started := Path(f"{command}.processes")).exists() or not started.read_text().endswith("\n"):
        assert ours.poll() is None, ours.stderr.read()  # type: ignore[union-attr]
        time.sleep(0.02)
    ours.send_signal(number)
    ours.communicate()
    assert ours.returncode == status
    assert list((tmp_path / "compiled").iterdir()) == []
    assert ended(command)


def test_a_handler_of_sigterm_stays(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own while the compiler runs, and the system's afterwards."""
    seen = []
    monkeypatch.setattr(build, "from_cache", lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN, own := lambda *_: None):
            signal.signal(signal.SIGTERM, handler)
            build.library("f")
            assert signal.getsignal(signal.SIGTERM) == handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen[1:] == [signal.SIG_IGN, own]
    with pytest.raises(SystemExit, match="143"):
        seen[0](signal.SIGTERM, None)


def test_a_signal_before_the_process_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the start of a process and the return of Popen nobody could kill it: a signal waits, then ends it."""
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments: Any, **settings: Any):
            super().__init__(*arguments, **settings)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build.output_of(["sleep", "60"])
        assert started[0].wait(5) == -signal.SIGKILL
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGINT, handler)
        started[0].kill()


def test_what_a_killed_process_left(afresh: Path) -> None:
    """A compiler's folder of more than an hour ago is removed; one of now may be in use."""
    for name, age in (("new-old", 3700), ("new-young", 60)):
        (afresh / name).mkdir(parents=True)
        (afresh / name / "part").touch()
        os.utime(afresh / name, (time.time() - age,) * 2)
    afresh.chmod(0o700)
    assert build.library("f") is not None
    assert [path.name for path in afresh.iterdir() if path.suffix != ".so"] == ["new-young"]


def test_a_cache_whose_path_is_no_text(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library there would make threadpoolctl fail, which reads the paths of all libraries as UTF-8.  So it is in the
    folder for temporary files; if that has no better path, there is none."""
    (odd := afresh.parents[1] / "caf\udce9").mkdir()
    monkeypatch.setenv("NANOGEN_CACHE", str(odd))
    assert build.library("f") is not None
    assert threadpool_info()
    monkeypatch.chdir(odd)
    monkeypatch.setenv("NANOGEN_CACHE", ".")
    monkeypatch.setattr(tempfile, "tempdir", ".")
    with pytest.warns(UserWarning, match=r"no C kernels.*utf-8"):
        assert build.library("f") is None


def test_the_library_is_made_once(afresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And again for another type, other sources or another compiler.  Nothing else is left in the cache, which nobody
    else can read.  Only what takes seconds is announced."""
    first = build.library("f")
    assert first is not None
    assert first.waiting() == 43
    (made,) = afresh.iterdir()
    assert afresh.stat().st_mode & 0o777 == made.stat().st_mode & 0o777 == 0o700
    assert afresh.parent.stat().st_mode & 0o055 == 0o055 & ~umask()  # data sets, for the group too
    before = made.stat().st_mtime_ns
    build.library("f")
    assert [path.stat().st_mtime_ns for path in afresh.iterdir()] == [before]
    assert [record.getMessage()[:22] for record in caplog.records] == ["nanogen: compiling the"]
    command, sources = ["cc", "-O1"], sorted(build.FOLDER.glob("*.c"))
    names = {build.name_of(command, sources), build.name_of(["cc"], sources), build.name_of(command, sources[1:])}
    assert len(names) == 3
    build.library("d")
    assert len(list(afresh.iterdir())) == 2


def umask() -> int:
    os.umask(before := os.umask(0))
    return before


@pytest.mark.parametrize("left", [0, 0.5, -1])
def test_a_library_that_is_not_whole(left: float, afresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Empty, the first half of it, or with a byte changed: it is made anew, which is all that is said."""
    assert build.library("f") is not None
    (made,) = afresh.iterdir()
    whole = made.read_bytes()
    made.unlink()  # this process still has it
    made.write_bytes(whole[: int(len(whole) * left)] if left >= 0 else whole[:-1] + bytes([whole[-1] ^ 1]))
    caplog.clear()
    assert build.library("f") is not None
    assert hashlib.sha256(made.read_bytes()).digest() == hashlib.sha256(whole).digest()
    assert len(caplog.records) == 1


def planted(cache: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library in the cache, by its right name, that makes the file `mark` when it is loaded."""
    source = mark.with_suffix(".c")
    source.write_text(f'''#include <stdio.h>
    __attribute__((constructor)) static void run(void) {{ fclose(fopen("{mark}", "w")); }}''')
    subprocess.run([*build.compiler(), "-shared", "-fPIC", str(source), "-o", str(mark.with_suffix(".so"))], check=True)
    found = mark.with_suffix(".so").read_bytes()
    names: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(build, "from_cache", lambda name, command: names.append(name))
        build.library("f")
    cache.mkdir(0o700, parents=True)
    path = cache / f"{names[0]}-{hashlib.sha256(found).hexdigest()}.so"
    path.write_bytes(found)
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(("what", "run"), [
    ("nothing", True), ("parent 777", True), ("file 720", False), ("file 702", False), ("folder 720", False),
    ("folder 702", False), ("folder 1777", False), ("file of another", False), ("folder of another", False),
    ("link to the file", False), ("link to the folder", False),
])  # fmt: skip
def test_whose_library_is_loaded(
    what: str,
    run: bool,
    afresh: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only a file that nobody else can write, in such a folder; else one is made, anew or in a folder of its own.  Who
    can write the parent can put another folder in the cache's place, but only one of his own."""
    library = planted(afresh, tmp_path / "mark", monkeypatch)
    kind, _, how = what.partition(" ")
    path = {"file": library, "folder": afresh, "parent": afresh.parent}.get(kind, library)
    if how[-1:].isdigit():
        path.chmod(int(how, 8))
    elif how == "of another":
        fstat, other = os.fstat, path.stat().st_ino
        theirs = lambda status: types.SimpleNamespace(st_uid=12345, st_mode=status.st_mode)
        patched = lambda fd: theirs(fstat(fd)) if fstat(fd).st_ino == other else fstat(fd)
        monkeypatch.setattr(build.os, "fstat", patched)
    elif kind == "link":
        path = library if "file" in how else afresh
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    found = build.library("f")
    assert found is not None
    assert (tmp_path / "mark").exists() == run
    assert run or found.waiting() == 43
    in_folder = what.startswith("folder") or what == "link to the folder"
    assert [message for message in caplog.messages if "not cached" in message] == (
        [message for message in caplog.messages if str(afresh) in message] if in_folder else []
    )
    assert in_folder == any("not cached" in message for message in caplog.messages)
    assert not in_folder or [*afresh.iterdir()] == [afresh / library.name]


def test_another_folder_in_its_place(afresh: Path) -> None:
    """What a pinned path means does not change when the folder is moved and another one gets its name."""
    with build.pinned(build.cache()) as folder:
        (folder / "ours").touch()
        afresh.rename(afresh.parent / "moved")
        afresh.mkdir()
        (afresh / "theirs").touch()
        assert [path.name for path in folder.iterdir()] == ["ours"]


def test_no_cache(afresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library is made all the same, in a folder that is then removed."""
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("NANOGEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    found = build.library("f")
    assert found is not None
    assert found.waiting() == 43
    assert list((tmp_path / "temporary").iterdir()) == []


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below NANOGEN_CACHE, XDG_CACHE_HOME or the home's .cache, with or without platformdirs."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    places = {"NANOGEN_CACHE": "compiled", "XDG_CACHE_HOME": "nanogen/compiled", "HOME": ".cache/nanogen/compiled"}
    for variable in places:
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable, below in places.items():
        assert build.cache() == tmp_path / variable / below
        assert build.cache().is_dir()
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("given", [None, *HOW_THREADS_WAIT])
def test_how_threads_wait_is_for_the_library_alone(
    given: str | None, afresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is loaded, the environment tells OpenMP to let threads sleep soon, unless it says otherwise already."""
    if given:
        monkeypatch.setenv(given, "7")
    found = build.library("f")
    assert found is not None
    assert found.waiting() == (42 if given else 43)
    assert {name: os.environ[name] for name in HOW_THREADS_WAIT if name in os.environ} == (
        {given: "7"} if given else {}
    )


WAITS = """
import time
import numpy as np
from nanogen import Tensor, functional as F
from nanogen.backend import use_threads
x = Tensor(np.ones(1 << 16, np.float32))
with use_threads(2):
    F.silu(x)
    before = time.process_time() - time.thread_time()
    for _ in range(50):
        F.silu(x)
        time.sleep(0.01)
    print(time.process_time() - time.thread_time() - before)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_threads_sleep_while_they_wait() -> None:
    """In 0.5 s of pauses between calls the threads that wait take next to no time of a core; in a loop they would take
    it all (the control, on machines where OpenMP's default is a loop)."""
    chosen = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}  # of these tests
    taken = {
        how: float(
            subprocess.run(
                [sys.executable, "-c", WAITS], env=chosen | how_it_waits, capture_output=True, check=True, text=True
            ).stdout
        )
        for how, how_it_waits in (("asleep", {}), ("in a loop", {"OMP_WAIT_POLICY": "active"}))
    }
    assert taken["asleep"] < 0.1
    assert taken["in a loop"] > 2 * taken["asleep"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_after_a_fork() -> None:
    """OpenMP's threads do not come along in a fork, and it would wait for them for ever: there one thread does all."""
    x = Tensor(np.ones(10**6, np.float32))

    def work() -> None:
        with threadpool_limits(2):
            F.silu(x)

    work()
    if not (process := os.fork()):
        try:
            work()
            os._exit(compiled._function("f", "sigmoid_gated")[1].value - 1)
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


FAULTS = """
import resource, sys
import numpy as np
from nanogen.backend import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    held = [np.ones(20 << 20, np.uint8) for _ in range(5)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept() -> None:
    """Arrays of up to 32 MiB, made and dropped again and again: with the memory kept no page comes from the system
    after the first time; without, most do (the control)."""
    counts = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True, text=True).stdout)
        for how in ("kept", "given back")
    }
    assert counts["kept"] < 100 < 2000 < counts["given back"]
