"""Devices, random numbers, and what `import nanogen` costs and needs."""

from __future__ import annotations

import json
import subprocess
import sys

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
SAMPLES = 40_000  # tells a mean that is off by 0.05 standard deviations, with both errors below 1e-6


@pytest.mark.parametrize("kind", DRAWS)
@given(seed=st.integers(0, 2**64))
def test_same_seed_same_bits(kind: str, seed: int) -> None:
    """A generator is a function of its seed: equal seeds draw equal numbers, another seed draws others."""
    draw = DRAWS[kind]
    first = draw(ng.Generator(seed), 50)
    assert np.array_equal(first, draw(ng.Generator(seed), 50))
    assert not np.array_equal(first, draw(ng.Generator(seed + 1), 50))


@pytest.mark.parametrize("kind", DRAWS)
def test_state_goes_back(kind: str) -> None:
    """After `g.state = s` the draws that followed s follow again; the state is plain data, so JSON keeps it."""
    rng = ng.Generator(3)
    rng.normal((3,))  # leaves a part of a Philox block of four words unused
    state = json.loads(json.dumps(rng.state))
    first = DRAWS[kind](rng, 7)
    rng.normal((100,))
    rng.state = state
    assert np.array_equal(first, DRAWS[kind](rng, 7))
    other = ng.Generator(99)
    other.state = state
    assert np.array_equal(first, DRAWS[kind](other, 7))


def test_streams() -> None:
    """stream(k) depends on the seed and k alone, not on what was drawn; different k, different numbers."""
    fresh, used = ng.Generator(5), ng.Generator(5)
    used.normal((1000,))
    assert np.array_equal(fresh.stream(1, 2).normal((9,)), used.stream(1, 2).normal((9,)))
    seen = [fresh.normal((9,)), *[fresh.stream(*k).normal((9,)) for k in [(0,), (1,), (1, 0), (0, 1), (1, 2)]]]
    seen += [ng.Generator(6).stream(1).normal((9,))]
    assert len({x.tobytes() for x in seen}) == len(seen)


def test_streams_are_independent() -> None:
    """Numbers of neighbouring streams are uncorrelated: |r| √n is below 6 (chance 2e-9 if they are)."""
    a, b = (ng.Generator(0).stream(i).normal((SAMPLES,), dtype=np.float64) for i in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) * SAMPLES**0.5 < 6


def test_draws_follow_their_distributions() -> None:
    """Kolmogorov–Smirnov against N(0, 1) and U[0, 1); χ² for integers, which leave out `high`; and that a mean off
    by 0.05 standard deviations, or a wrong last integer, would not pass."""
    rng, floor = ng.Generator(11), 1e-6
    normal, uniform = rng.normal((SAMPLES,), np.float64), rng.uniform((SAMPLES,), np.float64)
    assert stats.kstest(normal, "norm").pvalue > floor
    assert stats.kstest(uniform, "uniform").pvalue > floor
    assert stats.ttest_1samp(normal, 0).pvalue > floor > stats.ttest_1samp(normal + 0.05, 0).pvalue
    assert uniform.min() >= 0
    assert uniform.max() < 1
    counts = np.bincount(rng.integers(2, 6, SAMPLES), minlength=7)
    assert (counts[:2] == 0).all()
    assert (counts[6:] == 0).all()
    assert stats.chisquare(counts[2:6]).pvalue > floor > stats.chisquare(counts[2:7]).pvalue


@given(n=st.integers(0, 60), seed=st.integers(0, 1000))
def test_permutation_is_one(n: int, seed: int) -> None:
    """permutation(n) holds each of 0 … n − 1 once."""
    assert sorted(ng.Generator(seed).permutation(n).tolist()) == list(range(n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(), 3, (2, 0), (2, 3)])
def test_shapes_and_types(dtype: type, size: tuple[int, ...] | int) -> None:
    """What is asked for comes: shape and dtype, an array even for a single number."""
    rng = ng.Generator(0)
    for drawn in (rng.normal(size, dtype), rng.uniform(size, dtype)):
        assert not isinstance(drawn, np.generic)
        assert drawn.shape == (size if isinstance(size, tuple) else (size,))
        assert drawn.dtype == dtype


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
    assert np.array_equal(backend.to_numpy(ng.Generator(4, "cuda").normal((5,))), ng.Generator(4).normal((5,)))


BARE = """
import sys

class Blocked:
    names = {"matplotlib", "PIL", "tqdm", "safetensors", "threadpoolctl", "scipy", "sklearn", "torch", "cupy"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import nanogen as ng
model = ng.models.PixelCNN((1, 2, 2), 2, channels=4, blocks=1)
images = ng.data.load("digits").images[:2, :, :2, :2] // 16
model.loss(images, ng.Generator(0)).backward()
print(sorted(Blocked.names & {name.partition(".")[0] for name in sys.modules}))
"""


def test_import_needs_numpy_alone() -> None:
    """`import nanogen`, a loss and its gradients, with every other package unavailable; none is looked for."""
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
