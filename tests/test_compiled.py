"""The kernels in C beyond their values (see test_kernels): sizes of what they take at once, threads, exactness, the
compiler and its absence."""

from __future__ import annotations

import functools
import math
import os
import platform
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import example, given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import nanogen as ng
from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import moving_average
from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight, output_size
from nanogen.kernels import convolution as choice
from nanogen.kernels import winograd
from nanogen.kernels.cpu import compiled, convolution, products, threads

pytestmark = pytest.mark.skipif(not compiled.compiler(), reason="no C compiler")
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
    with threadpool_limits(2):
        assert products.in_pieces(np.ones((300, 300)), np.ones((300, 300))) is None
        assert (F.matmul(np.ones((300, 300)), np.ones((300, 300))).data == 300).all()


@given(SEEDS, st.sampled_from([100, 3000, 50_000]), st.booleans(), st.integers(2, 3))
def test_products_in_pieces(seed: int, small: int, kernels: bool, count: int) -> None:
    """Of integers exactly, in pieces of every height, width and depth, and in groups of those."""
    rng = np.random.default_rng(seed)
    m, n, k, stack = *rng.integers(1, [60, 700, 400]), (3,) if rng.integers(2) else ()
    numbers = lambda *shape: rng.integers(-4, 5, shape).astype(float)
    a = numbers(*stack, m, k) if rng.integers(2) else numbers(*stack, k, m).swapaxes(-1, -2)
    b = numbers(k, n) if rng.integers(2) else numbers(n, k).T
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(count):
        for name, value in {"SMALL": small, "SMALLEST": 0, "kernels_for_small": lambda: kernels}.items():
            patch.setattr(products, name, value)
        products.plan.cache_clear()
        try:
            found = products.in_pieces(a, b)
        finally:
            products.plan.cache_clear()
    large = a.size * n > small and n > 1
    assert (found is not None) == large
    assert not large or np.array_equal(found, a @ b)


def test_what_updates_leave_to_the_plain_form() -> None:
    """Parameters that are not contiguous, and lists of several types: unchanged."""
    whole = np.ones((2, 3))
    for average, value in ((whole.T, whole.T), (whole, whole.astype("float32")), (whole[:, ::2], whole[:, :2])):
        assert moving_average.kernels["cpu"][0]([average], [value], kept=0.5, share=1.0) is NotImplemented
        assert (average == 1).all()


@given(st.integers(0, 10**6), st.integers(1, 5000))
def test_where_matrices_begin(start: int, count: int) -> None:
    """What is made for a product to read begins with a cache line, where that pays, and has its numbers."""
    copy = products.aligned(np.arange(start, start + count, dtype=np.float32).reshape(count, 1))
    assert np.array_equal(copy[:, 0], np.arange(start, start + count, dtype=np.float32))
    assert copy.nbytes < products.WORTH_A_LINE or compiled.address(copy) % products.CACHE_LINE == 0


@pytest.mark.parametrize("tiling", winograd.TILINGS)
def test_winograd_is_about_as_exact_as_im2col(tiling: winograd.Tiling) -> None:
    """In float32 the error of each of the three faces, in the mean square, is below 12 · 2⁻²⁴ of the numbers; that of
    im2col, which sums more numbers forward and fewer back, is 2 to 9 · 2⁻²⁴.  F(4×4, 3×3), whose matrices have entries
    up to 8, would be ten times worse.  Power: one seed, deterministic."""
    rng, side = np.random.default_rng(0), tiling.r * tiling.s
    how = {"stride": (tiling.s,) * 2, "padding": (1, 1), "dilation": (1, 1)}
    x, w = (rng.standard_normal(shape, np.float32) for shape in ((8, 64, 10, 11), (48, 64, side, side)))
    assert choice.tiling((side, side), how["stride"], (1, 1), (64, 48)) == tiling
    y = rng.standard_normal(convolve(x, w, **how).shape, np.float32)
    faces = (
        lambda x, w, y: convolve(x, w, **how),
        lambda x, w, y: convolve_adjoint(y, w, size=(10, 11), **how),
        lambda x, w, y: convolve_weight(x, y, kernel=(side, side), **how),
    )
    for face in faces:
        found, exact = face(x, w, y).data, face(*(a.astype(float) for a in (x, w, y))).data
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


@pytest.mark.parametrize("told", [None, "48K\n", "512K\n", "1024K\n", "2048K\n", "99999K\n", "?"])
def test_a_cores_own_cache(told: str | None, tmp_path: Path) -> None:
    """Of 512 KiB to 2 MiB, and 1 MiB where nobody tells."""
    if told is not None:
        (tmp_path / "size").write_text(told)
    expected = {"48K\n": 512, "512K\n": 512, "2048K\n": 2048, "99999K\n": 2048}.get(told or "", 1024)
    assert convolution.l2_cache_bytes(str(tmp_path / "size")) == expected << 10


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 64), ("float64", 32), ("float32", 128)])
def test_outputs_that_share_cache_lines(dtype: str, channels: int) -> None:
    """A kernel whose outputs are a multiple of 4096 bytes apart is copied to where they are not; others stay."""
    w = np.random.default_rng(0).integers(-4, 5, (3, channels, 4, 4)).astype(dtype)
    copy, other = winograd.avoid_conflicts(w), w[:, 1:].copy()
    assert copy.strides[0] % 4096 != 0
    assert copy.dtype == dtype
    assert np.array_equal(copy, w)
    assert winograd.avoid_conflicts(other) is other


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
            compiled.call("silu", np.ones((4, 4)), np.ones((4, 4))[:, ::2], 8)
        assert get() == 2
        assert compiled._function("d", "silu")[1].value == min(2, os.cpu_count() or 1)
    with ng.backend.use_threads(1):
        F.silu(Tensor(np.ones(10**5)))
        assert compiled._function("d", "silu")[1].value == get() == 1


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
    with pytest.warns(UserWarning, match=r"(?s)no C kernels.*cannot do this"):
        assert compiled.library("f") is None
    assert list(afresh.iterdir()) == []


def test_a_cache_whose_path_is_no_text(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no library then: threadpoolctl, which reads the paths of all that are loaded as UTF-8, would fail."""
    monkeypatch.setenv("NANOGEN_CACHE", str(afresh.parent / "caf\udce9"))
    with pytest.warns(UserWarning, match=r"no C kernels.*utf-8"):
        assert compiled.library("f") is None


def test_the_library_is_made_once(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for another type, other sources or another compiler; nothing else is left in the cache."""
    first = compiled.library("f")
    assert first is not None
    (made,) = afresh.iterdir()
    before = made.stat().st_mtime_ns
    compiled.library("f")
    assert [path.stat().st_mtime_ns for path in afresh.iterdir()] == [before]
    command, sources = ["cc", "-O1"], sorted(compiled.FOLDER.glob("*.c"))
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
    x = Tensor(np.ones(10**6, np.float32))

    def work() -> None:
        with threadpool_limits(2):
            F.silu(x)

    work()
    if not (process := os.fork()):
        try:
            work()
            os._exit(compiled._function("f", "silu")[1].value - 1)
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
