"""Devices, random numbers, and what `import nanogen` costs and needs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import nanogen as ng
from nanogen import backend

DRAWS = {
    "normal": lambda rng, n: rng.normal((n,)),
    "uniform": lambda rng, n: rng.uniform((n,)),
    "integers": lambda rng, n: rng.integers(0, 1000, (n,)),
    "permutation": lambda rng, n: rng.permutation(n),
}
KERNELS = importlib.util.find_spec("nanogen.kernels") is not None
if KERNELS:
    importlib.import_module("nanogen.kernels.cuda")  # which is imported by itself only where CuPy is
DRAWN = pytest.mark.parametrize("drawn", ["host", "device"] if KERNELS else ["host"])
SAMPLES = 40_000  # tells a mean that is off by 0.05 standard deviations, with both errors below 1e-6


@DRAWN
@pytest.mark.parametrize("kind", DRAWS)
@given(seed=st.integers(0, 2**64))
def test_same_seed_same_bits(kind: str, drawn: str, seed: int) -> None:
    """A generator is a function of its seed: equal seeds draw equal numbers, another seed draws others, and so does the
    same generator the next time."""
    draw, rng = DRAWS[kind], ng.Generator(seed, drawn=drawn)
    first = draw(rng, 50)
    assert np.array_equal(first, draw(ng.Generator(seed, drawn=drawn), 50))
    assert not np.array_equal(first, draw(ng.Generator(seed + 1, drawn=drawn), 50))
    assert not np.array_equal(first, draw(rng, 50))


@DRAWN
@pytest.mark.parametrize("kind", DRAWS)
def test_state_goes_back(kind: str, drawn: str) -> None:
    """After `g.state = s` the draws that followed s follow again; the state is plain data, so JSON keeps it."""
    rng = ng.Generator(3, drawn=drawn)
    rng.normal((3,))  # leaves a part of a Philox block of four words unused
    state = json.loads(json.dumps(rng.state))
    first = DRAWS[kind](rng, 7)
    rng.normal((100,))
    rng.state = state
    assert np.array_equal(first, DRAWS[kind](rng, 7))
    other = ng.Generator(99, drawn=drawn)
    other.state = state
    assert np.array_equal(first, DRAWS[kind](other, 7))
    if not KERNELS:
        return
    elsewhere = ng.Generator(3, drawn="device" if drawn == "host" else "host")
    with pytest.raises(ValueError, match="state"):
        elsewhere.state = state


@DRAWN
@pytest.mark.parametrize("kind", [kind for kind in DRAWS if kind != "permutation"])
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_draws_follow_each_other(kind: str, drawn: str, sizes: list[int]) -> None:
    """Several draws are one of all their numbers, cut into pieces."""
    whole, rng = DRAWS[kind](ng.Generator(1, drawn=drawn), sum(sizes)), ng.Generator(1, drawn=drawn)
    assert np.array_equal(np.concatenate([DRAWS[kind](rng, n) for n in sizes]), whole)


INDICES = st.lists(st.sampled_from([0, 1, 2, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 64]), max_size=3).map(tuple)


@DRAWN
def test_streams(drawn: str) -> None:
    """stream(k) depends on the seed and k alone, not on what was drawn; different k, different numbers."""
    fresh, used = ng.Generator(5, drawn=drawn), ng.Generator(5, drawn=drawn)
    used.normal((1000,))
    assert np.array_equal(fresh.stream(1, 2).normal((9,)), used.stream(1, 2).normal((9,)))
    seen = [fresh.normal((9,)), *[fresh.stream(*k).normal((9,)) for k in [(0,), (1,), (1, 0), (0, 1), (1, 2)]]]
    seen += [ng.Generator(6, drawn=drawn).stream(1).normal((9,))]
    assert len({x.tobytes() for x in seen}) == len(seen)


@DRAWN
@given(left=INDICES, right=INDICES)
def test_streams_have_streams(drawn: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    """stream(a).stream(b) is stream(a, b), whatever was drawn from either, and two streams are equal only if their
    indices are: also where an index has more than 32 bits, which a seed sequence takes apart."""
    rng = ng.Generator(3, drawn=drawn)
    parent = rng.stream(*left)
    parent.normal((5,))
    numbers = parent.stream(*right).normal((9,))
    assert np.array_equal(numbers, rng.stream(*left, *right).normal((9,)))
    for other in {left, right, (*right, *left), (0,), (0, 1), (1, 0), (1 << 32,), (1 << 64,)} - {(*left, *right)}:
        assert not np.array_equal(numbers, rng.stream(*other).normal((9,)))


@pytest.mark.parametrize("index", [-1, True, 1.5, "1", None])
def test_an_index_of_a_stream_is_a_whole_number(index: Any) -> None:
    with pytest.raises(ValueError, match="indices"):
        ng.Generator(0).stream(0, index)


def test_seeds_end_where_streams_begin() -> None:
    """A seed of 2¹²⁸ has five words, and would be stream(1) of seed 0; the largest allowed one is no stream."""
    with pytest.raises(ValueError, match="seed"):
        ng.Generator(1 << 128)
    draws = [ng.Generator((1 << 128) - 1), ng.Generator(0).stream((1 << 32) - 1), ng.Generator(1 << 32)]
    draws += [ng.Generator(1), ng.Generator(0).stream(1)]
    assert len({rng.normal((9,)).tobytes() for rng in draws}) == len(draws)


def uncorrelated(a: np.ndarray, b: np.ndarray) -> bool:
    """|r| √n is below 6: of independent numbers it is not with a chance of 2e-9."""
    return abs(np.corrcoef(a, b)[0, 1]) * len(a) ** 0.5 < 6


@DRAWN
def test_streams_are_independent(drawn: str) -> None:
    """Numbers of neighbouring streams are uncorrelated, and so are those of one draw and the next."""
    rng = ng.Generator(0, drawn=drawn)
    a, b, c, d = (r.normal((SAMPLES,), dtype=np.float64) for r in (rng.stream(1), rng.stream(2), rng, rng))
    assert uncorrelated(a, b)
    assert uncorrelated(c, d)


@DRAWN
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_follow_their_distributions(dtype: type, drawn: str) -> None:
    """Kolmogorov–Smirnov against N(0, 1) and U[0, 1); χ² for integers, which leave out `high`; and that a mean off
    by 0.05 standard deviations, or a wrong last integer, would not pass.  The numbers of a draw are uncorrelated with
    their neighbours in it and with those which come from the same block, half a draw further, and so are their
    squares."""
    rng, floor = ng.Generator(11, drawn=drawn), 1e-6
    normal, uniform = rng.normal((SAMPLES,), dtype), rng.uniform((SAMPLES,), dtype)
    assert stats.kstest(normal, "norm").pvalue > floor
    assert stats.kstest(uniform, "uniform").pvalue > floor
    assert stats.ttest_1samp(normal, 0).pvalue > floor > stats.ttest_1samp(normal + 0.05, 0).pvalue
    assert uniform.min() >= 0
    assert uniform.max() < 1
    counts = np.bincount(rng.integers(2, 6, SAMPLES), minlength=7)
    assert (counts[:2] == 0).all()
    assert (counts[6:] == 0).all()
    assert stats.chisquare(counts[2:6]).pvalue > floor > stats.chisquare(counts[2:7]).pvalue
    for x in (normal, normal**2, uniform):
        for apart in (1, SAMPLES // 4, SAMPLES // 2):
            assert uncorrelated(x[:-apart], x[apart:])


def test_where_numbers_are_drawn() -> None:
    """On the host unless said otherwise, and a stream where its generator draws; another word is refused."""
    assert ng.Generator(0, "cpu").drawn == ng.Generator(0, "cpu").stream(1).drawn == "host"
    assert ng.Generator(0, "cpu", "device").stream(1).drawn == "device"
    with pytest.raises(ValueError, match="drawn must be 'host' or 'device', got 'gpu'"):
        ng.Generator(0, "cpu", "gpu")


def test_without_kernels_the_host_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for on a device is drawn on the host where nothing draws there."""
    monkeypatch.setattr(backend.device_source, "filled", lambda key, device: None)
    for kind, draw in DRAWS.items():
        expected = draw(ng.Generator(3, drawn="host").stream(2), 7)
        assert np.array_equal(draw(ng.Generator(3, drawn="device").stream(2), 7), expected), kind


@DRAWN
@given(n=st.integers(0, 60), seed=st.integers(0, 1000))
def test_permutation_is_one(n: int, drawn: str, seed: int) -> None:
    """permutation(n) holds each of 0 … n − 1 once."""
    assert sorted(ng.Generator(seed, drawn=drawn).permutation(n).tolist()) == list(range(n))


@DRAWN
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(), 3, (2, 0), (2, 3)])
def test_shapes_and_types(dtype: type, size: tuple[int, ...] | int, drawn: str) -> None:
    """What is asked for comes: shape and dtype, an array even for a single number."""
    rng = ng.Generator(0, drawn=drawn)
    for numbers, kind in (
        (rng.normal(size, dtype), dtype),
        (rng.uniform(size, dtype), dtype),
        (rng.integers(0, 5, size), int),
    ):
        assert not isinstance(numbers, np.generic)
        assert numbers.shape == (size if isinstance(size, tuple) else (size,))
        assert numbers.dtype == kind


def test_global_state_is_left_alone() -> None:
    """Nothing draws from NumPy's global generator, and nothing depends on it."""
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    model = ng.models.VAE((1, 4, 4), 2, latent=2, channels=4, stages=1)
    first = model.sample(3, ng.Generator(1))
    assert np.array_equal(before, np.random.get_state()[1])
    np.random.seed(1)
    again = ng.models.VAE((1, 4, 4), 2, latent=2, channels=4, stages=1).sample(3, ng.Generator(1))
    assert np.array_equal(first, again)


@pytest.mark.parametrize(
    ("seed", "device", "error", "word"),
    [(-1, "cpu", ValueError, "seed"), (1.5, "cpu", TypeError, "seed"), (True, "cpu", TypeError, "seed"),
     ("1", "cpu", TypeError, "seed"), (1, "gpu", ValueError, "device")],
)  # fmt: skip
def test_bad_settings(seed: object, device: str, error: type[Exception], word: str) -> None:
    """A bad setting is refused by name."""
    with pytest.raises(error, match=word):
        ng.Generator(seed, device)  # type: ignore[arg-type]


def test_an_operation_takes_the_kernel_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one registered counts; where it declines, or there is none, the plain form runs; so for updates too."""
    monkeypatch.setattr(backend, "OPERATIONS", [])
    called: list[str] = []

    @backend.Operation
    def double(x: Any) -> Any:
        return 2 * x

    @backend.Update
    def halve(arrays: Any) -> None:
        for array in arrays:
            array *= 0.5

    x = np.ones(3)
    for operation, arrays, expected in ((double, x, [2.0] * 3), (halve, [x], None)):
        for name, declines in (("first", False), ("second", True), ("third", False)):

            def kernel(given: Any, name: str = name, declines: bool = declines) -> Any:
                called.append(name)
                return NotImplemented if declines else None

            operation.kernel("cpu")(kernel)
            operation.kernel("cuda")(lambda given: pytest.fail("another device's kernel"))
            found = operation(arrays)
            assert (None if found is None else found.tolist()) == (expected if declines else None)
    assert called == ["first", "second", "third"] * 2
    assert x.tolist() == [0.5] * 3
    assert double.__name__ == "double"
    assert len(backend.OPERATIONS) == 2


def test_hooks_do_nothing_until_they_are_filled() -> None:
    """Without kernels threads, memory and precision stay as they are, nothing draws on a device, and no step can be
    replayed; what fills a hook is called in place of that."""
    for hook, arguments in ((backend.keep_freed_memory, ()), (backend.allow_tf32, (True,))):
        assert hook.__wrapped__(*arguments) is None
    assert backend.device_source.__wrapped__([], "cuda") is None
    with backend.use_threads.__wrapped__(1):
        pass
    with pytest.raises(RuntimeError, match="CUDA kernels"):
        backend.replay.__wrapped__(np.sin)
    hook = backend.Hook(lambda x: x)
    assert hook(3) == 3
    assert hook.fill(abs) is abs
    assert hook(-3) == 3


def test_array_modules() -> None:
    """The module follows the data; NumPy is everyone's who is not CuPy's."""
    for array in (np.zeros(2), np.float32(1), [1.0], 2):
        assert backend.array_module(array) is np
    x = np.arange(3.0)
    assert backend.to_device(x, "cpu") is x
    assert backend.to_numpy(x) is x
    assert backend.device_of(x) == "cpu"


def test_gpu_is_asked_for_by_name() -> None:
    """Without a GPU, device 'cuda' says what is missing; with one, what is put there comes back."""
    try:
        backend.device_module("cuda")
    except RuntimeError as error:
        assert "cuda" in str(error)  # noqa: PT017
        return
    x = np.arange(6.0).reshape(2, 3)
    there = backend.to_device(x, "cuda")
    assert backend.device_of(there) == "cuda"
    assert np.array_equal(backend.to_numpy(there), x)
    drawn = ng.Generator(4, "cuda", "host").normal((5,))
    assert np.array_equal(backend.to_numpy(drawn), ng.Generator(4, "cpu").normal((5,)))


BARE = """
import sys

class Without:
    names = {"matplotlib", "PIL", "tqdm", "safetensors", "threadpoolctl", "scipy", "sklearn", "torch", "cupy"}

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
import nanogen as ng
model = ng.models.PixelCNN((1, 2, 2), 2, channels=4, blocks=1)
images = ng.data.load("digits").images[:2, :, :2, :2] // 16
model.loss(images, ng.Generator(0)).backward()
print([o for o in ng.backend.OPERATIONS if o.kernels])
print(sorted(Without.names & {name.partition(".")[0] for name in sys.modules}))
"""


def test_import_needs_numpy_alone() -> None:
    """`import nanogen`, a loss and its gradients, without any other package; then there are no kernels."""
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]\n[]"
