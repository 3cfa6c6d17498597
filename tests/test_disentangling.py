"""The mutual information gap in closed form, and the pictures of known factors."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import nanogen as ng
from benchmarks import disentangling
from nanogen.data import load
from nanogen.data.known import Shapes
from nanogen.metrics import binned, mutual_information, mutual_information_gap

FLOOR = 1e-6  # of a p-value; seeds are fixed, so a test that passes passes always

COUNTS = (4, 3, 2)
FACTORS = np.array(list(itertools.product(*map(range, COUNTS))) * 5)  # independent, each combination five times


# Mutual information


@given(seed=st.integers(0, 999), rows=st.integers(1, 5), columns=st.integers(2, 6))
def test_mutual_information_of_a_table(seed: int, rows: int, columns: int) -> None:
    """I(a; b) = H(a) + H(b) − H(a, b) by SciPy's entropies, of pairs that occur as often as a table says, zeros among
    its counts; it is symmetric; I(a; a) = H(a)."""
    table = np.random.default_rng(seed).integers(0, 4, (rows, columns))
    table[0, 0] += 1
    a, b = np.repeat(np.argwhere(table >= 0), table.ravel(), axis=0).T
    h_a, h_b = stats.entropy(table.sum(1)), stats.entropy(table.sum(0))
    expected = h_a + h_b - stats.entropy(table.ravel())
    assert mutual_information(a, b) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(b, a) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(a, a) == pytest.approx(h_a, abs=1e-12)


@given(seed=st.integers(0, 999), n=st.integers(30, 90), bins=st.integers(2, 12))
def test_bins_hold_equally_many(seed: int, n: int, bins: int) -> None:
    """Of distinct numbers each bin holds ⌊n/bins⌋ or ⌈n/bins⌉, in their order; any increasing function leaves them.
    Up to `bins` distinct values have a bin each, however far apart; equal numbers are never parted."""
    rng = np.random.default_rng(seed)
    x = rng.permutation(n) ** 3.0
    found = binned(x, bins)
    assert set(np.bincount(found)) <= {n // bins, -(-n // bins)}
    assert (np.diff(found[x.argsort()]) >= 0).all()
    assert np.array_equal(found, binned(np.log1p(x), bins))
    few = rng.integers(0, bins, n)
    assert np.array_equal(binned(np.exp(3.0 * few), bins), np.unique(few, return_inverse=True)[1])
    tied = rng.poisson(9.0, n)
    assert all(len(set(binned(tied, bins)[tied == value])) == 1 for value in tied)


# The gap.  Chen et al. 2018, eq. 6


def bent(column: np.ndarray) -> np.ndarray:
    """A one-to-one function of a factor, neither increasing nor evenly spaced."""
    return np.array([100.0, -2.0, 0.1, 0.0])[column]


def test_factors_themselves_have_the_whole_gap() -> None:
    """1 for each factor, in any order and by any one-to-one function of each, with a useless number besides: it tells
    H(v_k) and the next one nothing, as the factors are independent."""
    for order in itertools.permutations(range(3)):
        code = np.column_stack([*(bent(FACTORS[:, k]) for k in order), np.zeros(len(FACTORS))])
        found = mutual_information_gap(code, FACTORS)
        np.testing.assert_allclose(found.gaps, 1, atol=1e-12)
        assert found.value == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(found.entropies, np.log(COUNTS), atol=1e-12)
        expected = np.zeros((4, 3))
        expected[range(3), order] = np.log(COUNTS)[list(order)]
        np.testing.assert_allclose(found.information, expected, atol=1e-12)


def test_two_that_tell_the_same_leave_no_gap() -> None:
    """0 where another number of the code is a one-to-one function of the first; a third, that tells less, is not what
    it is compared with."""
    first, second, _ = FACTORS.T
    found = mutual_information_gap(np.column_stack([first, bent(first), second, first // 2]), FACTORS[:, :2])
    np.testing.assert_allclose(found.gaps, [0, 1], atol=1e-12)
    assert found.value == pytest.approx(0.5, abs=1e-12)


def test_gap_of_a_sum_of_two_factors() -> None:
    """Two fair bits u, v and the code (u + v, v): the sum tells ½ log 2 of either, so the gap is ½ for both: of u
    between ½ log 2 and 0, of v between log 2 and ½ log 2."""
    bits = np.array(list(itertools.product((0, 1), repeat=2)))
    found = mutual_information_gap(np.column_stack([bits.sum(1), bits[:, 1]]), bits)
    np.testing.assert_allclose(found.information, np.log(2) * np.array([[0.5, 0.5], [0, 1]]), atol=1e-12)
    np.testing.assert_allclose(found.gaps, 0.5, atol=1e-12)


def test_gap_is_in_parts_of_the_factors_entropy() -> None:
    """A code of two bits of a factor of 8 values: gaps of ⅔ of its entropy log 8 (of the code's own it would be all),
    and of a factor that is not uniform, by its own entropy."""
    v = np.arange(8).repeat(3)
    assert mutual_information_gap(np.column_stack([v // 2, 0 * v]), v[:, None]).value == pytest.approx(2 / 3)
    w = np.minimum(v, 2)  # 0, 1: an eighth each; else 2
    assert mutual_information_gap(np.column_stack([v, 0 * v]), w[:, None]).value == pytest.approx(1)
    assert mutual_information_gap(np.column_stack([w == 2, 0 * v]), w[:, None]).value == pytest.approx(
        stats.entropy([2, 6]) / stats.entropy([1, 1, 6])
    )


def test_gap_of_noise_is_its_bias() -> None:
    """Codes that are noise: I is (bins − 1)(values − 1)/2N nats too large (Miller 1955), in the mean of 30 × 4 codes
    within six standard errors; the gaps are below that, a hundredth of the entropy."""
    values, n, bins, rng = 5, 4000, 20, np.random.default_rng(0)
    factor = rng.integers(0, values, (n, 1))
    found = [mutual_information_gap(rng.standard_normal((n, 4)), factor, bins) for _ in range(30)]
    information = np.array([one.information.ravel() for one in found])
    bias = (bins - 1) * (values - 1) / (2 * n)
    assert information.mean() == pytest.approx(bias, abs=6 * information.std() / information.size**0.5)
    assert max(one.value for one in found) < bias / math.log(values) < 0.01


def test_gap_of_a_noisy_code_is_an_integral() -> None:
    """z = v + ε of four values v, and noise: I(z; v) = H(z) − H(ε) by the trapezoidal rule, within 3 %, which is more
    than what 20 bins lose; shuffled, it is none."""
    n, std, rng = 40_000, 0.6, np.random.default_rng(1)
    v = np.arange(n) % 4
    z = np.column_stack([v + std * rng.standard_normal(n), rng.standard_normal(n)])
    grid = np.linspace(-4, 7, 4001)
    density = stats.norm.pdf(grid[:, None], range(4), std).mean(1)
    truth = -np.trapezoid(density * np.log(density), grid) - stats.norm(0, std).entropy()
    found = mutual_information_gap(z, v[:, None])
    assert found.information[0, 0] == pytest.approx(truth, rel=0.03)
    assert found.value == pytest.approx(truth / math.log(4), rel=0.03)
    assert mutual_information_gap(z, rng.permutation(v)[:, None]).value < 0.01


@pytest.mark.parametrize(
    ("codes", "factors", "bins", "said"),
    [
        (np.zeros((4, 1)), np.eye(4), 20, "D ≥ 2"),
        (np.zeros((4, 2)), np.eye(5), 20, "codes and factors must be"),
        (np.zeros(4), np.eye(4), 20, "codes and factors must be"),
        (np.full((4, 2), np.nan), np.eye(4), 20, "finite"),
        (np.zeros((49, 2)), np.ones((49, 1)), 20, "factors must have at least two values"),
        (np.zeros((4, 2)), np.eye(4), 1, "bins must be at least 2"),
    ],
)
def test_gap_refuses(codes: np.ndarray, factors: np.ndarray, bins: int, said: str) -> None:
    """Each names the argument and what is expected."""
    with pytest.raises(ValueError, match=said):
        mutual_information_gap(codes, factors, bins)


# Pictures of known factors


def test_shapes_are_their_factors() -> None:
    """All combinations, once each; different pictures; every pixel by its definition in a loop over some of them."""
    source = Shapes()
    factors = source.all_factors()
    images = source.images(factors)
    assert len({tuple(row) for row in factors}) == len(factors) == math.prod(source.factors.values())
    assert len({image.tobytes() for image in images}) == len(images)
    assert (images.shape[1:], images.dtype, images.max()) == ((1, 12, 12), np.uint8, source.levels - 1)
    assert source.entropy() == pytest.approx(stats.entropy(np.ones(len(images))), rel=1e-12)
    for (x, y, size, shape, brightness), image in list(zip(factors, images, strict=True))[::17]:
        for row, column in np.ndindex(12, 12):
            a, b, reach = abs(column - (x + 4)), abs(row - (y + 4)), size + 2
            inside = (max(a, b) <= reach, a == b <= reach)[shape]
            assert image[0, row, column] == inside * (brightness + 1)


def test_shapes_are_drawn_uniformly() -> None:
    """χ² of 20,000 draws over all combinations; a size twice as likely as the others is refused; an image is that of
    its factors."""
    source, n = Shapes(), 20_000
    images, factors = source.sample(n, ng.Generator(1))
    assert np.array_equal(images[:50], source.images(factors[:50]))
    counts = np.bincount(np.ravel_multi_index(factors.T, tuple(source.factors.values())))
    weights = np.array([1.0, 1.0, 2.0])[source.all_factors()[:, 2]]
    assert stats.chisquare(counts).pvalue > FLOOR > stats.chisquare(counts, n * weights / weights.sum()).pvalue


@pytest.mark.parametrize(
    "factors", [[[0, 0, 0, 0]], [0, 0, 0, 0, 0], [[0.0] * 5], [[4, 0, 0, 0, 0]], [[0, -1, 0, 0, 0]]]
)
def test_shapes_refuse(factors: list) -> None:
    with pytest.raises(ValueError, match="factors must be"):
        Shapes().images(factors)


def test_shapes_in_a_file_are_a_data_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The book's line writes images and levels, of which a tenth is held out."""
    text = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r'python -c "(.*Shapes.*)"', text)[0], {})
    train, test = (load("shapes.npz", split) for split in ("train", "test"))
    assert (train.shape, train.levels) == ((1, 12, 12), 4)
    assert len(train) + len(test) == 288
    assert {image.tobytes() for image in (*train.images, *test.images)} == {
        image.tobytes() for image in Shapes().images(Shapes().all_factors())
    }


def test_what_the_benchmark_measures() -> None:
    """The last number is the mean over the pictures of KL(q(z|x) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²).  The gap is
    the mean of the factors'.  An untrained code tells next to nothing of them."""
    model = ng.models.VAE((1, 12, 12), disentangling.SOURCE.levels, latent=3, channels=4, stages=1)
    gap, *gaps, told, kl = disentangling.measured(model, ng.Generator(0))
    with ng.no_grad():
        q = model.encode(disentangling.SOURCE.images(disentangling.SOURCE.all_factors()))
    mean, std = q.mean.numpy(), q.std.numpy()
    assert kl == pytest.approx((mean**2 + std**2 - 1 - 2 * np.log(std)).sum(1).mean() / 2, rel=1e-4)
    assert gap == pytest.approx(np.mean(gaps), abs=1e-9)
    assert 0 <= told < 1
