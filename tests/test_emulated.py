"""The emulated device (`emulated`) computes what a GPU would, and refuses what a GPU refuses: `--device emulated`."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cuda import BARRIERS, calls, without_barrier
from tiny_runs import TINY, settings_of, some_images

from nanogen.kernels import convolution, joining, normalization, reduction, softmax
from nanogen.kernels.products import product
from nanogen.training.loop import Trainer


@pytest.fixture(scope="session")
def cp(request: pytest.FixtureRequest) -> Any:
    if request.config.getoption("device") != "emulated":
        pytest.skip("needs --device emulated, and CuPy")
    return pytest.importorskip("cupy")


def kernel(cp: Any, parameters: str, body: str) -> Any:
    return cp.RawKernel(f'extern "C" __global__ void k({parameters}) {{ {body} }}', "k")


def computed(cp: Any, body: str, dtype: Any, *arrays: np.ndarray) -> np.ndarray:
    """What CUDA's expression `body` of a, b, c makes of each element, a thread for each."""
    names = {"i4": "int", "u4": "unsigned", "f4": "float", "f8": "double"}
    kinds = [names[x.dtype.str[1:]] for x in (*arrays, np.empty(0, dtype))]
    parameters = ", ".join(f"{kind}* {name}_" for kind, name in zip(kinds, [*"abc"[: len(arrays)], "out"]))
    reads = "".join(f"{kind} {name} = {name}_[threadIdx.x]; " for kind, name in zip(kinds, "abc"[: len(arrays)]))
    out = cp.empty(len(arrays[0]), dtype)
    kernel(cp, parameters, f"{reads}out_[threadIdx.x] = {body};")((1,), (len(out),), (*map(cp.asarray, arrays), out))
    return out.get()


def signed(value: int, bits: int) -> int:
    return (value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


WORD = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1])
WORDS = st.lists(st.tuples(WORD, WORD, WORD), min_size=1, max_size=32)
ON_WORDS: dict[str, Any] = {  # CUDA's, and what it is by Python's integers of any length
    "a + b * c": lambda a, b, c: a + b * c,
    "a - b": lambda a, b, c: a - b,
    "b ? a / b : 7": lambda a, b, c: a // b if b else 7,
    "b ? a % b : 7": lambda a, b, c: a % b if b else 7,
    "__umulhi(a, b)": lambda a, b, c: a * b >> 32,
    "(unsigned)__mulhi((int)a, (int)b)": lambda a, b, c: signed(a, 32) * signed(b, 32) >> 32,
    "(unsigned)((int)a >> (b & 31))": lambda a, b, c: signed(a, 32) >> (b & 31),
    "a << (b & 31) | a >> (c & 31)": lambda a, b, c: a << (b & 31) | a >> (c & 31),
    "__funnelshift_l(a, b, c)": lambda a, b, c: (b << 32 | a) << (c & 31) >> 32,
    "__funnelshift_r(a, b, c)": lambda a, b, c: (b << 32 | a) >> (c & 31),
    "__funnelshift_rc(a, b, c)": lambda a, b, c: (b << 32 | a) >> min(c, 32),
    "__brev(a)": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "__popc(a) + 100 * __clz(b)": lambda a, b, c: a.bit_count() + 100 * (32 - b.bit_length()),
    "__ffs(a)": lambda a, b, c: (a & -a).bit_length(),
    "__byte_perm(a, b, 0x4712)": lambda a, b, c: int.from_bytes(
        bytes((b << 32 | a).to_bytes(8, "little")[i] for i in (2, 1, 7, 4)), "little"
    ),
    "(a & ~b) ^ (b | c)": lambda a, b, c: (a & ~b) ^ (b | c),
    "min(a, b) - max((int)b, (int)c)": lambda a, b, c: min(a, b) - max(signed(b, 32), signed(c, 32)),
    "(unsigned)((unsigned long long)a * b * c >> 20)": lambda a, b, c: (a * b * c & 2**64 - 1) >> 20,
    "(unsigned)__umul64hi((unsigned long long)a << 30 | b, (unsigned long long)c << 31 | a)": (
        lambda a, b, c: (a << 30 | b) * (c << 31 | a) >> 64
    ),
    "(unsigned)(((long long)(int)a * (int)b) / ((int)c | 1))": lambda a, b, c: (
        lambda n, d: abs(n) // abs(d) * (1 if (n < 0) == (d < 0) else -1)
    )(signed(a, 32) * signed(b, 32), signed(c | 1, 32)),
    "a > b ? 1 : a == b ? 2 : (int)a < (int)c ? 3 : 4": lambda a, b, c: (
        1 if a > b else 2 if a == b else 3 if signed(a, 32) < signed(c, 32) else 4
    ),
}


@pytest.mark.parametrize("expression", ON_WORDS)
@given(WORDS)
def test_integers(cp: Any, expression: str, words: list[tuple[int, int, int]]) -> None:
    """Modulo 2³² they are Python's."""
    a, b, c = np.array(words, np.uint32).T
    expected = [ON_WORDS[expression](*word) % 2**32 for word in words]
    assert computed(cp, expression, np.uint32, a, b, c).tolist() == expected


FUNCTIONS: dict[str, Any] = {
    "exp(a)": np.exp,
    "expm1(a)": np.expm1,
    "log(fabs(a))": lambda a: np.log(np.abs(a)),
    "log1p(fabs(a))": lambda a: np.log1p(np.abs(a)),
    "sin(a)": np.sin,
    "cos(a)": np.cos,
    "tanh(a)": np.tanh,
    "sqrt(fabs(a))": lambda a: np.sqrt(np.abs(a)),
    "a * a + 1 / fabs(a)": lambda a: a * a + 1 / np.abs(a),
    "rint(a) + floor(a) + ceil(a) + trunc(a)": lambda a: np.rint(a) + np.floor(a) + np.ceil(a) + np.trunc(a),
    "fmin(a, 3) + fmax(a, -2)": lambda a: np.fmin(a, 3) + np.fmax(a, -2),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("expression", FUNCTIONS)
def test_functions(cp: Any, expression: str, dtype: str) -> None:
    """CUDA's functions are NumPy's but for some units of the last place, with small, large and no numbers at all."""
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.normal(size=200), 1e-4 * rng.normal(size=50), 10.0 ** rng.uniform(1, 30, 50)]).astype(dtype)
    a = np.concatenate([a, -a, np.array([np.inf, -np.inf, np.nan], dtype)])
    if dtype == "float64" and expression[:3] in ("sin", "cos"):
        a = np.concatenate([a, a[:300] * 1e200])
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[expression](a)
        found = computed(cp, expression, dtype, a)
    np.testing.assert_allclose(found, expected, rtol=6 * np.finfo(dtype).eps, atol=0)


DIRECTED: dict[str, Any] = {
    "__fadd_{}(a, b)": lambda a, b, c: a + b,
    "__fmul_{}(a, b)": lambda a, b, c: a * b,
    "__fmaf_{}(a, b, c)": lambda a, b, c: a * b + c,
}


@pytest.mark.parametrize("way", ["rz", "rd", "ru"])
@pytest.mark.parametrize("expression", DIRECTED)
def test_directed_rounding(cp: Any, expression: str, way: str) -> None:
    """Towards 0, down or up: the last number of its type that is not beyond the exact one."""
    a, b, c = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    for number, *terms in zip(computed(cp, expression.format(way), np.float32, a, b, c), a, b, c, strict=True):
        x, y, z = map(Fraction, map(float, terms))
        exact = DIRECTED[expression](x, y, z)
        up = way == "ru" or (way == "rz" and exact < 0)
        beyond = np.nextafter(number, np.float32(-np.inf if up else np.inf))
        found, next_ = Fraction(float(number)), Fraction(float(beyond))
        assert next_ < exact <= found if up else found <= exact < next_


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integers_of_numbers(cp: Any, dtype: str) -> None:
    """The nearest integer that there is; of NaN 0."""
    a = np.array([0.5, 1.5, -2.5, 1e10, -1e10, np.inf, -np.inf, np.nan], dtype)
    assert computed(cp, "__" + ("float" if dtype == "float32" else "double") + "2int_rn(a)", np.int32, a).tolist() == [
        0, 2, -2, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 0
    ]  # fmt: skip
    assert computed(cp, "(unsigned)a", np.uint32, a[:3]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("shape", [(7,), (1000,), (3, 70, 5), (2, 3, 4, 33)])
def test_sums(cp: Any, shape: tuple[int, ...]) -> None:
    """CuPy's reductions, by threads that wait for each other, of any axes: integers exactly."""
    x = np.random.default_rng(0).integers(-9, 10, shape)
    there = cp.asarray(x)
    for axis in (None, *range(len(shape)), tuple(range(1, len(shape))), tuple(range(len(shape) - 1))):
        assert np.array_equal(there.sum(axis=axis).get(), x.sum(axis=axis))
        if axis != ():
            assert np.array_equal(there.max(axis=axis).get(), x.max(axis=axis))
    assert np.array_equal(cp.cumsum(there, axis=-1).get(), np.cumsum(x, axis=-1))


def test_threads_see_each_other(cp: Any) -> None:
    """Through shared memory after a barrier; within a warp by `__shfl_sync` and `__ballot_sync`."""
    body = """
        __shared__ int s[96];
        int t = threadIdx.x;
        s[95 - t] = t * t;
        __syncthreads();
        out[t] = s[t];
        out[96 + t] = __shfl_down_sync(~0u, t, 5);
        out[192 + t] = __shfl_xor_sync(~0u, t, 9);
        out[288 + t] = __shfl_sync(~0u, t, t + 3, 8);
        out[384 + t] = __popc(__ballot_sync(~0u, t % 3 == 0));
        out[480 + t] = __shfl_up_sync(~0u, t, 2);"""
    out, t = cp.empty(576, np.int32), np.arange(96)
    kernel(cp, "int* out", body)((1,), (96,), (out,))
    lane, warp = t % 32, t // 32
    expected = [
        (95 - t) ** 2,
        np.where(lane + 5 < 32, t + 5, t),
        t ^ 9,
        t // 8 * 8 + (t + 3) % 8,
        np.array([sum(1 for i in range(32 * w, 32 * w + 32) if i % 3 == 0) for w in warp]),
        np.where(lane >= 2, t - 2, t),
    ]
    assert np.array_equal(out.get(), np.concatenate(expected))


def test_shared_memory_and_new_memory_are_full_of_bytes_of_255(cp: Any) -> None:
    out = cp.empty(4, np.int32)
    kernel(cp, "int* out", "__shared__ int s[4]; __syncthreads(); out[threadIdx.x] = s[threadIdx.x];")(
        (1,), (4,), (out,)
    )
    assert out.get().tolist() == [-1] * 4
    address = cp.cuda.runtime.malloc(64)
    there = cp.ndarray(8, np.float64, cp.cuda.MemoryPointer(cp.cuda.UnownedMemory(address, 64, None), 0))
    assert np.isnan(there.get()).all()
    cp.cuda.runtime.free(address)


def test_what_is_outside_of_shared_memory_is_noticed(cp: Any) -> None:
    out = cp.empty(1, np.int32)
    with pytest.raises(cp.cuda.driver.CUDADriverError):
        kernel(cp, "int* out, int i", "__shared__ int s[4]; s[i] = i; __syncthreads(); out[0] = s[0];")(
            (1,), (1,), (out, np.int32(4))
        )


@pytest.mark.parametrize("block", [(1025,), (1, 1, 65), (512, 4)])
def test_blocks_that_no_gpu_takes_are_refused(cp: Any, block: tuple[int, ...]) -> None:
    with pytest.raises(cp.cuda.driver.CUDADriverError):
        kernel(cp, "int* out", "out[0] = 0;")((1,), block, (cp.empty(1, np.int32),))


def test_a_function_that_is_not_there_is_refused(cp: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError):
        cp.cuda.runtime.deviceGetLimit(0)
    assert "cudaDeviceGetLimit" in capfd.readouterr().err


def test_a_captured_kernel_runs_when_its_graph_is_launched(cp: Any) -> None:
    """Not before; each time again; on the arguments that it was captured with."""
    x = cp.zeros(5, np.int32)
    add = kernel(cp, "int* x, int by", "x[threadIdx.x] += by;")
    with cp.cuda.Stream() as stream:
        stream.begin_capture()
        assert stream.is_capturing()
        add((1,), (5,), (x, np.int32(3)))
        graph = stream.end_capture()
        assert x.get().tolist() == [0] * 5
        graph.launch(stream)
        graph.launch(stream)
        assert x.get().tolist() == [6] * 5


REFUSED_IN_A_CAPTURE: dict[str, Any] = {
    "a look at a number": lambda cp, stream, x: float(x[0]),
    "waiting": lambda cp, stream, x: stream.synchronize(),
    "waiting for the device": lambda cp, stream, x: cp.cuda.Device().synchronize(),
    "numbers from the host": lambda cp, stream, x: x.set(np.ones(5, np.float32)),
    "the legacy stream": lambda cp, stream, x: cp.add(x, x, out=x) if cp.cuda.Stream.null.__enter__() else None,
    "a product by CuPy": lambda cp, stream, x: cp.outer(x, x) @ cp.outer(x, x),
    "a sort": lambda cp, stream, x: cp.argsort(x),
}


@pytest.mark.parametrize("what", REFUSED_IN_A_CAPTURE)
def test_a_capture_refuses(cp: Any, what: str) -> None:
    x = cp.ones(5, np.float32)
    stream = cp.cuda.Stream()
    REFUSED_IN_A_CAPTURE[what](cp, stream, x)  # first outside of one, where it is no mistake, and kernels are made
    if what == "the legacy stream":
        cp.cuda.Stream.null.__exit__()
    with stream:
        stream.begin_capture()
        try:
            with pytest.raises(Exception, match=r"error 90\d|in a capture|during stream capture|is capturing"):
                REFUSED_IN_A_CAPTURE[what](cp, stream, x)
        finally:
            if what == "the legacy stream":
                cp.cuda.Stream.null.__exit__()
            stream.end_capture()


WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy", "cudaMemset")


@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("name", TINY)
def test_a_training_step_waits_for_nothing(cp: Any, name: str, execution: str) -> None:
    """CuPy calls nothing that waits for the device, and asks the driver for no memory, once a few steps are done; as a
    graph a step is one launch and the copies of what it works on and of its losses."""
    from emulated import cuda  # is for Linux alone

    trainer = Trainer(settings_of(name, device="cuda", execution=execution), some_images())
    for _ in range(5):
        trainer.advance()
    cuda.called.clear()
    trainer.advance()
    calls = dict(cuda.called)
    assert not calls.keys() & {*WAITS, "cudaMalloc", "cudaFree"}
    assert calls.get("cudaGraphLaunch", 0) == (execution == "graph")
    assert ("adam" in calls) == (execution == "eager")


ON_EACH = "int v = out[threadIdx.x]; {} out[{}] = v;"
THROUGH_SHARED = (
    "__shared__ int s[64]; s[threadIdx.x] = 1; {} out[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];"
)
RACES: dict[str, tuple[str, int, bool]] = {  # what 64 threads do, in how many blocks, and whether that is a race
    "each its own": ("out[threadIdx.x] = 1;", 1, False),
    "each its own, in two blocks": ("out[blockIdx.x * 64 + threadIdx.x]++;", 2, False),
    "the same in two blocks": ("out[threadIdx.x] = 1;", 2, True),
    "a neighbour's": (ON_EACH.format("", "threadIdx.x + 1"), 1, True),
    "a neighbour's after a barrier": (ON_EACH.format("__syncthreads();", "threadIdx.x + 1"), 1, False),
    "a neighbour's in the warp": (ON_EACH.format("__syncwarp();", "threadIdx.x ^ 1"), 1, False),
    "a neighbour's in another warp": (ON_EACH.format("__syncwarp();", "threadIdx.x ^ 32"), 1, True),
    "through shared memory": (THROUGH_SHARED.format("__syncthreads();"), 2, False),
    "through shared memory, too soon": (THROUGH_SHARED.format(""), 2, True),
    "what others may still read": (THROUGH_SHARED.format("__syncthreads();") + " s[threadIdx.x] = 2;", 1, True),
    "read by all": ("out[64 + 64 * blockIdx.x + threadIdx.x] = out[7];", 2, False),
    "read by all, written by one": ("if (!blockIdx.x) out[64 + threadIdx.x] = out[7]; else out[7] = 1;", 2, True),
    "added up": ("atomicAdd(out, 1);", 3, False),
    "added up, and read": ("atomicAdd(out, 1); out[1 + threadIdx.x] = out[0];", 1, True),
}


@pytest.mark.parametrize("what", RACES)
def test_races_are_noticed(cp: Any, what: str) -> None:
    """Two threads at one place, of which one writes, with no barrier between that both come to: in memory of the device
    and of a block, between blocks and within one."""
    from emulated import cuda

    (body, blocks, race), out = RACES[what], cp.zeros(256, np.int32)
    run = kernel(cp, "int* out", body)
    run((blocks,), (64,), (out,))
    with cuda.watched(), pytest.raises(cp.cuda.driver.CUDADriverError) if race else contextlib.nullcontext():
        run((blocks,), (64,), (out,))


@pytest.mark.parametrize("name", TINY)
def test_no_race_in_a_training_step(cp: Any, name: str) -> None:
    """In no kernel of ours or of CuPy's."""
    from emulated import cuda

    trainer = Trainer(settings_of(name, device="cuda"), some_images())
    trainer.advance()
    with cuda.watched():
        trainer.advance()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_race_in_wide_kernels(cp: Any, dtype: str) -> None:
    """With more channels, classes and rows than threads are side by side; convolution by both kinds of tiles."""
    from emulated import cuda

    rng = np.random.default_rng(0)

    def there(*shape: int) -> Any:
        return cp.asarray(rng.standard_normal(shape).astype(dtype))

    with cuda.watched():
        for size, stride in ((3, 1), (4, 2)):
            x, w, how = there(2, 32, 8, 9), there(33, 32, size, size), ((stride, stride), (1, 1), (1, 1))
            y = convolution.convolve(x, w, there(33), *how)
            convolution.gradients(x, w, y, (True, True), *how)
            convolution.gradients_of_adjoint(y, w, x, (True, True), *how)
        for channels, groups, over_batch in ((40, 4, False), (12, 3, False), (40, 40, True), (70, 1, False)):
            rows, weight, how = there(3, 70, channels), there(channels), (groups, 0.1, over_batch, True)
            saved = normalization.normalize(rows, weight, weight, *how)[1]
            normalization.normalize_gradients(rows, saved, rows, weight, weight, *how)
        for classes in (3, 40, 256):
            logits, labels = there(100, classes), cp.asarray(rng.integers(0, classes, 100))
            saved = softmax.cross_entropy(logits, labels)[1]
            softmax.cross_entropy_slope(there(100), logits, labels, *saved)
            softmax.softmax_slope(logits, softmax.softmax(logits))
        reduction.column_sums(there(3, 500, 70))
        joining.join(there(20 * 300), there(20, 300), there(20, 300))


@pytest.mark.parametrize(("name", "i"), BARRIERS)
def test_without_a_barrier_there_is_a_race(cp: Any, monkeypatch: pytest.MonkeyPatch, name: str, i: int) -> None:
    """Each `__syncthreads()` is needed."""
    from emulated import cuda

    module = {"softmax": softmax, "normalization": normalization}[name]
    monkeypatch.setattr(module, "SOURCE", without_barrier(name, i))
    with cuda.watched(), pytest.raises(cp.cuda.driver.CUDADriverError):
        calls()[name](cp)


def test_what_a_kernel_does_is_counted(cp: Any) -> None:
    """Bytes of the device's memory that threads ask for, an atomic's twice, not those of shared memory; their
    instructions; and what a product multiplies."""
    from emulated import cuda

    body = "__shared__ float s[64]; s[threadIdx.x] = out[threadIdx.x]; out[63 - threadIdx.x] = 2 * s[threadIdx.x];"
    run, out, counts = kernel(cp, "float* out", body), cp.zeros(64, np.float32), {}
    for threads in (32, 64):
        for counter in (cuda.moved, cuda.executed, cuda.multiplied):
            counter.clear()
        run((1,), (threads,), (out,))
        counts[threads] = cuda.executed["k"]
        assert cuda.moved["k"] == 8 * threads
    assert counts[64] == 2 * counts[32] > 64 * 6
    kernel(cp, "float* out", "atomicAdd(out, 1.0f);")((1,), (5,), (out,))
    assert cuda.moved["k"] == 8 * 64 + 8 * 5
    product(cp.ones((3, 4, 5), np.float32), cp.ones((5, 6), np.float32))
    assert cuda.multiplied["products"] == 2 * 3 * 4 * 5 * 6
