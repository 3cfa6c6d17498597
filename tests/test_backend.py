"""Devices, random numbers, and what `import nanogen` costs and needs."""

from __future__ import annotations

import json
import math
import platform
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
from nanogen.kernels.cuda import random  # draws on a device; here that is the CPU

DRAWS = {
    "normal": lambda rng, n: rng.normal((n,)),
    "uniform": lambda rng, n: rng.uniform((n,)),
    "integers": lambda rng, n: rng.integers(0, 1000, (n,)),
    "permutation": lambda rng, n: rng.permutation(n),
}
DRAWN = pytest.mark.parametrize("drawn", ["host", "device"])
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


# Random123's known answers (Salmon et al. 2011): counter, key, block.
KNOWN_BLOCKS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_BLOCKS)
def test_philox_gives_the_known_answers(counter: str, key: str, block: str) -> None:
    """Counter and key to the published block; as numbers and as arrays."""
    given, expected = ([int(word, 16) for word in text.split()] for text in (f"{counter} {key}", block))
    assert [int(word) for word in random.philox(*map(np.uint64, given))] == expected
    arrays = [np.full(3, word, np.uint64) for word in given]
    assert np.array_equal(random.philox(*arrays), np.array([expected] * 3, np.uint64).T)


WORDS = st.one_of(st.integers(0, random.WORD), st.sampled_from([0, 1, random.WORD - 1, random.WORD]))


@given(WORDS, WORDS)
def test_words_become_numbers(high: int, low: int) -> None:
    """The leading 24 or 53 bits of the words, as a fraction: exact, and below 1 even if all bits are set."""
    words = np.array([high], np.uint64), np.array([low], np.uint64)
    assert random.fraction32(words[0]).dtype == np.float32
    assert random.fraction32(words[0])[0] == (high >> 8) / 2**24 < 1
    assert random.fraction64(*words)[0] == ((high << 32 | low) >> 11) / 2**53 < 1


@given(st.integers(0, 2**40), st.sampled_from([1, 2, 3, 1000, 2**31, 2**32 - 1]), st.integers(-5, 5))
def test_integers_of_words(seed: int, count: int, low: int) -> None:
    """low + ⌊count · w / 2⁶⁴⌋ of the words w of 64 bits that the same draw of a permutation is made of."""
    source = ng.Generator(seed, drawn="device")._source
    words = source._draw(random.long_words, 2, 7, np.uint64)
    drawn = ng.Generator(seed, drawn="device").integers(low, low + count, 7)
    assert drawn.tolist() == [low + count * int(word) // 2**64 for word in words]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(blocks=st.lists(st.tuples(*[WORDS] * 4), min_size=1, max_size=5))
def test_normal_numbers_of_words(dtype: Any, blocks: list[tuple[int, ...]]) -> None:
    """√(−2 ln u) (cos 2πv, sin 2πv), where u = (w + 1/2) / 2³² and v = w' / 2³² of neighbouring words, or, in float64,
    u = (b + 1) / 2⁵³ and v = b' / 2⁵³ of their leading 53 bits: finite whatever the words, since u is never 0.  Where
    u is nearly 1, rounding it by eps moves the root by √eps.

    Box & Muller 1958."""
    kernel, words = random.NORMAL[np.dtype(dtype)]
    out = np.empty((4 // words, len(blocks)), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "philox", lambda *counter: tuple(np.array(blocks, np.uint64).T))
        kernel(np.zeros(len(blocks), np.uint64), *[np.uint64(0)] * 4, *out)
    for numbers, block in zip(out.T, blocks, strict=True):
        if dtype == np.float32:
            pairs = [((u + 0.5) / 2**32, v / 2**32) for u, v in (block[:2], block[2:])]
        else:
            u, v = ((high << 32 | low) >> 11 for high, low in (block[:2], block[2:]))
            pairs = [((u + 1) / 2**53, v / 2**53)]
        expected = [math.sqrt(-2 * math.log(u)) * f(2 * math.pi * v) for u, v in pairs for f in (math.cos, math.sin)]
        close = 1e-5 if dtype == np.float32 else 1e-12
        assert numbers == pytest.approx(expected, rel=close, abs=float(np.finfo(dtype).eps) ** 0.5)


@given(st.integers(0, 2**64 - 1), st.tuples(*[WORDS] * 4))
def test_a_block_by_its_number(number: int, rest: tuple[int, ...]) -> None:
    """The counter's first word is the lower half of the block's number, the second the upper half."""
    rest = tuple(np.uint64(word) for word in rest)
    block = random.words_of(np.uint64(number), *rest)
    assert block == random.philox(np.uint64(number % 2**32), np.uint64(number // 2**32), *rest)


def test_a_generator_draws_its_blocks_in_order() -> None:
    """Its first words are those of block 0, then come those of block 1."""
    rng = ng.Generator(3, drawn="device")
    assert rng.state["position"] == 0
    key = [np.uint64(word) for word in rng.state["key"]]
    words = np.array([random.words_of(np.uint64(block), *key) for block in range(3)]).reshape(-1)
    assert np.array_equal(rng.uniform(12), (words >> np.uint64(8)).astype(np.float64) / 2**24)
    assert rng.state["position"] == 12


@pytest.mark.parametrize("kind", DRAWS)
def test_a_generator_begins_at_a_key(kind: str) -> None:
    """`at` the key of a generator that has drawn nothing yet, any other one draws what that one would."""
    one = ng.Generator(4, "cpu", "device").stream(9)
    assert one.key.dtype == np.uint64
    assert one.key.tolist() == one.state["key"]
    for other in (ng.Generator(0, "cpu", "device"), ng.Generator(1, "cpu")):
        assert np.array_equal(
            DRAWS[kind](other.at(one.key), 9), DRAWS[kind](ng.Generator(4, "cpu", "device").stream(9), 9)
        )


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


def test_what_a_device_does_not_draw() -> None:
    """Integers from none, or from more than fit a word, and types that are no floating-point ones, are refused."""
    rng = ng.Generator(0, drawn="device")
    for low, high in ((3, 3), (4, 3), (0, 2**32)):
        with pytest.raises(ValueError, match="integers"):
            rng.integers(low, high)
    for draw in (rng.normal, rng.uniform):
        with pytest.raises(TypeError, match="float16"):
            draw((2,), np.float16)


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
print(ng.kernels.registered(), sorted(Without.names & {name.partition(".")[0] for name in sys.modules}))
"""


def test_import_needs_numpy_alone() -> None:
    """`import nanogen`, a loss and its gradients, without any other package; then there are no kernels."""
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{} []"


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
