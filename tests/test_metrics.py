"""Distances between sets of features: closed forms, brute force over the definitions, and what must come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogen.metrics import (
    GROUPS,
    STUDENT_95,
    closer_share,
    distance_to_nearest,
    distances,
    frechet_distance,
    gaussian_frechet_distance,
    jackknife,
    likelihood,
    nearest,
    neighbour_metrics,
    radii,
    share_estimate,
)
from nanogen.models import VAE
from nanogen.random import Generator

seeds = st.integers(0, 2**32 - 1)


def sets(seed: int, n: int = 30, m: int = 20, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), 0.3 + 1.2 * rng.standard_normal((m, d)) @ rng.standard_normal((d, d))


def compared(real: np.ndarray, fake: np.ndarray, **k: int) -> dict[str, float]:
    return neighbour_metrics(distances(real, real), distances(fake, fake), distances(real, fake), **k)


# The Fréchet distance


@given(seed=seeds, d=st.integers(1, 6))
def test_frechet_distance_of_commuting_gaussians(seed: int, d: int) -> None:
    """In closed form where the covariances share their axes: ‖m_1 − m_2‖² + Σ (s_1 − s_2)², over the axes' standard
    deviations, 0 among them."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((d, d)))[0]
    m1, m2, s1, s2 = rng.standard_normal((4, d))
    s1, s2 = abs(s1), abs(s2) * (rng.random(d) < 0.7)
    c1, c2 = (axes * s1**2) @ axes.T, (axes * s2**2) @ axes.T
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert gaussian_frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, abs=1e-6)


@given(seed=seeds)
def test_frechet_distance_equals_scipys_root(seed: int) -> None:
    """tr (C_1 C_2)^½ by scipy's root of the matrix that is not symmetric; the same the other way round; the matrix of
    covariances divides by n − 1."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = sets(seed)
    c1, c2 = (np.einsum("ni,nj->ij", x - x.mean(0), x - x.mean(0)) / (len(x) - 1) for x in (a, b))
    root = linalg.sqrtm(c1 @ c2).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-9)


@given(seed=seeds, n=st.integers(2, 40), d=st.integers(1, 30))
def test_a_set_is_at_no_distance_from_itself(seed: int, n: int, d: int) -> None:
    """F(A, A) = 0 to rounding, also with fewer points than dimensions; moved by c, F = ‖c‖²; never negative by more
    than rounding."""
    rng = np.random.default_rng(seed)
    a, c = 10 * rng.standard_normal((n, d)), rng.standard_normal(d)
    scale = a.var(0).sum() * 2 + 1
    assert abs(frechet_distance(a, a)) < 1e-9 * scale
    assert abs(frechet_distance(a, rng.permutation(a))) < 1e-9 * scale
    assert abs(frechet_distance(a, a + c) - (c**2).sum()) < 1e-9 * scale


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_frechet_distance_of_single_precision(mean: float, dtype: type) -> None:
    """Of float32 (float16) features it is that of the same numbers in float64, far from 0 too."""
    rng = np.random.default_rng(0)
    a, b = ((mean + rng.standard_normal((60, 3)) @ rng.standard_normal((3, 3))).astype(dtype) for _ in range(2))
    assert frechet_distance(a, b) == frechet_distance(a.astype(np.float64), b.astype(np.float64))
    assert np.array_equal(distances(a, b), distances(a.astype(np.float64), b.astype(np.float64)))


def test_distances_of_bytes() -> None:
    """Levels of 8 bits do not wrap round: 3 and 250 are 247 apart, whichever comes first."""
    a, b = np.array([[3], [250]], np.uint8), np.array([[250], [3]], np.uint8)
    assert distances(a, b).tolist() == [[247, 0], [0, 247]]
    assert frechet_distance(a, b) == pytest.approx(0, abs=1e-6)


SOME = np.random.default_rng(0).standard_normal((5, 3))
NAN, ENDLESS = np.where(SOME == SOME[1, 1], np.nan, SOME), np.where(SOME == SOME[1, 1], np.inf, SOME)
REFUSED: dict[str, Callable[[], object]] = {
    "frechet_distance: a and b must be .* at least 2": lambda: frechet_distance(SOME[:1], SOME),
    r"frechet_distance: .* got \(5, 3\) and \(1, 3\)": lambda: frechet_distance(SOME, SOME[:1]),
    r"frechet_distance: .* got \(5, 3\) and \(5, 2\)": lambda: frechet_distance(SOME, SOME[:, :2]),
    r"frechet_distance: .* got \(5, 3\) and \(5, 1\)": lambda: frechet_distance(SOME, SOME[:, :1]),
    r"frechet_distance: .* got \(3,\) and \(3,\)": lambda: frechet_distance(SOME[0], SOME[1]),
    r"frechet_distance: .* got \(5, 0\) and \(5, 0\)": lambda: frechet_distance(SOME[:, :0], SOME[:, :0]),
    "frechet_distance: features must be finite numbers, got NaN or infinity in a": lambda: frechet_distance(NAN, SOME),
    "frechet_distance: features must be .* in b": lambda: frechet_distance(SOME, ENDLESS),
    "gaussian_frechet_distance: means .D,.": lambda: gaussian_frechet_distance(SOME[0], np.eye(3), SOME[1], np.eye(2)),
    "gaussian_frechet_distance: .*finite": lambda: gaussian_frechet_distance(NAN[1], np.eye(3), SOME[1], np.eye(3)),
    "distances: a and b must be .* at least 1": lambda: distances(SOME[:0], SOME),
    r"distances: .* got \(5, 3\) and \(5, 1\)": lambda: distances(SOME, SOME[:, :1]),
    "distances: features must be finite": lambda: distances(SOME, NAN),
    "k must be in 1 … 4, the others of a set of 5, got 5": lambda: radii(distances(SOME, SOME), 5),
    "k must be in 1 … 4, the others of a set of 5, got 0": lambda: radii(distances(SOME, SOME), 0),
    "k must be in 1 … 1, the others of a set of 2, got 3": lambda: compared(SOME[:2], SOME),
    "real, fake and across must be distances": lambda: neighbour_metrics(
        distances(SOME, SOME), distances(SOME[:4], SOME[:4]), distances(SOME[:4], SOME), 1, 1
    ),
    "share_estimate: flags must be": lambda: share_estimate(np.zeros(0, bool)),
    "closer_share: a and b must be": lambda: closer_share(np.zeros(0), np.zeros(3)),
    "images and among must be some of one shape": lambda: nearest(np.zeros((2, 1, 4, 4)), np.zeros((3, 1, 2, 8))),
    "images and among must be some": lambda: distance_to_nearest(np.zeros((2, 1, 4, 4)), np.zeros((0, 1, 4, 4))),
    "likelihood: images must be at least one": lambda: likelihood(
        VAE((1, 4, 4), 3, channels=2), np.zeros((0, 1, 4, 4), np.uint8), Generator(0)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_compared_is_refused_by_name(message: str) -> None:
    """One image has no covariance, NaN no place, and features of another number no distance."""
    with pytest.raises(ValueError, match=f"^{message}"):
        REFUSED[message]()


@pytest.mark.filterwarnings("error")
def test_the_likelihood_of_one_image_has_no_standard_error() -> None:
    """Its value is that image's bits, and the error that it would take a second to tell is NaN."""
    model, image = VAE((1, 4, 4), 3, channels=2), np.ones((1, 1, 4, 4), np.uint8)
    found = likelihood(model, image, Generator(0))
    assert found is not None
    assert found.bits_per_dim == pytest.approx(-model.elbo(image, Generator(0)).item() / (16 * np.log(2)), rel=1e-6)
    assert np.isnan(found.standard_error)


# Nearest neighbours


@given(seed=seeds, k=st.integers(1, 4))
def test_neighbour_metrics_by_their_definitions(seed: int, k: int) -> None:
    """Precision, recall, density and coverage by loops over points, sorting all distances: Kynkäänniemi et al. 2019,
    eq. 1 – 3; Naeem et al. 2020, eq. 3, 4."""
    real, fake = sets(seed, 17, 13, 3)

    def radius(points: np.ndarray, i: int) -> float:
        others = [np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i]
        return float(np.sort(others)[k - 1])

    def in_ball(points: np.ndarray, i: int, x: np.ndarray) -> bool:
        return bool(np.linalg.norm(points[i] - x) <= radius(points, i))

    found = compared(real, fake, k_manifold=k, k_coverage=k)
    n, m = len(real), len(fake)
    assert found["precision"] == pytest.approx(np.mean([any(in_ball(real, i, y) for i in range(n)) for y in fake]))
    assert found["recall"] == pytest.approx(np.mean([any(in_ball(fake, j, x) for j in range(m)) for x in real]))
    assert found["density"] == pytest.approx(sum(in_ball(real, i, y) for i in range(n) for y in fake) / (k * m))
    assert found["coverage"] == pytest.approx(np.mean([any(in_ball(real, i, y) for y in fake) for i in range(n)]))


@given(seed=seeds)
def test_of_identical_sets(seed: int) -> None:
    """Precision, recall and coverage are 1, and density (k + 1)/k, as each ball holds its centre and k neighbours; so
    they are where a set has copies of one point, whose balls are points.  Of sets far apart all are 0."""
    a, _ = sets(seed)
    found = compared(a, a.copy())
    assert found == {"precision": 1, "recall": 1, "density": pytest.approx(6 / 5), "coverage": 1}
    copies = np.concatenate([a[:3].repeat(8, axis=0), a])
    assert {compared(copies, copies.copy())[name] for name in ("precision", "recall", "coverage")} == {1}
    assert set(compared(a, a + 1000).values()) == {0}


def test_dropped_modes_show() -> None:
    """Of ten clusters a generator knows m: coverage and recall fall with m, about as m / 10; precision stays."""
    rng = np.random.default_rng(0)
    centres = 20 * rng.standard_normal((10, 8))
    draw = lambda modes: centres[rng.integers(0, modes, 400)] + rng.standard_normal((400, 8))
    real = draw(10)
    found = [compared(real, draw(modes)) for modes in (10, 7, 4, 1)]
    for name in ("recall", "coverage"):
        values = [f[name] for f in found]
        assert values == sorted(values, reverse=True)
        assert all(abs(v / values[0] - modes / 10) < 0.1 for v, modes in zip(values, (10, 7, 4, 1), strict=True)), (
            values
        )
    assert min(f["precision"] for f in found) > 0.8
    frechet = [frechet_distance(real, draw(modes)) for modes in (10, 7, 4, 1)]
    assert frechet == sorted(frechet)


@given(seed=seeds)
def test_distances_are_exact_where_it_matters(seed: int) -> None:
    """Exactly 0 between equal points and exactly symmetric, as ties decide who lies in a ball; by the definition."""
    a, b = sets(seed)
    a = a + 1e4  # far from the origin, where ‖a‖² − 2ab + ‖b‖² has lost its digits
    assert (np.diag(distances(a, a.copy())) == 0).all()
    assert np.array_equal(distances(a, b), distances(b, a).T)
    np.testing.assert_allclose(distances(a, b), np.linalg.norm(a[:, None] - b, axis=2), rtol=1e-12)
    assert np.array_equal(radii(distances(a, a), 2), np.sort(distances(a, a), axis=1)[:, 2])


# Intervals


@pytest.mark.parametrize(("true", "n"), [(0, 1), (0, 500), (3, 40), (20, 40), (500, 500)])
def test_wilsons_interval(true: int, n: int) -> None:
    """scipy's; within [0, 1], and wide where there is little to see."""
    stats = pytest.importorskip("scipy.stats")
    found = share_estimate(np.arange(n) < true)
    expected = stats.binomtest(true, n).proportion_ci(method="wilson")
    assert found.value == true / n
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_jackknife_of_a_difference_of_means() -> None:
    """In closed form, for groups of equal size: the variance of a mean of G group means, of both samples together; and
    the quantile is Student's."""
    stats = pytest.importorskip("scipy.stats")
    assert pytest.approx(stats.t.ppf(0.975, GROUPS - 1), abs=5e-4) == STUDENT_95
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(10 * GROUPS), 2 * rng.standard_normal(20 * GROUPS) + 1
    found = jackknife(lambda i, j: {"d": a[i].mean() - b[j].mean()}, len(a), len(b), Generator(0))["d"]
    streams = Generator(0)
    first, second = streams.permutation(len(a)) % GROUPS, streams.permutation(len(b)) % GROUPS
    groups = np.array([a[first == g].mean() - b[second == g].mean() for g in range(GROUPS)])
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert found.high - found.value == pytest.approx(STUDENT_95 * groups.std(ddof=1) / np.sqrt(GROUPS))
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_intervals_hold_the_truth() -> None:
    """Of 300 intervals for a difference of means, each of samples drawn anew, some 95 % hold it: 265 to 299 (285 ± 3.8
    are expected)."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        a, b = rng.exponential(size=60), rng.exponential(size=90)
        found = jackknife(lambda i, j, a=a, b=b: {"d": a[i].mean() - b[j].mean()}, 60, 90, Generator(seed))["d"]
        held += found.low <= 0 <= found.high
    assert 265 <= held <= 299
    with pytest.raises(ValueError, match="40 images"):
        jackknife(lambda i, j: {}, 39, 100, Generator(0))


# Copies


@given(seed=seeds)
def test_nearest_images(seed: int) -> None:
    """Indices and distances by brute force; equal images are at distance 0; more of them than are taken at once."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 256, (n, 1, 3, 2)).astype(np.uint8) for n in (300, 40))
    a[7] = b[13]
    d = np.sqrt(((a[:, None].astype(int) - b) ** 2).sum((2, 3, 4)))
    assert np.array_equal(d[np.arange(300), nearest(a, b)], d.min(1))
    np.testing.assert_allclose(distance_to_nearest(a, b), d.min(1), rtol=1e-12)
    assert distance_to_nearest(a, b)[7] == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_closer_share_counts_pairs(a: list[int], b: list[int]) -> None:
    """Pairs with a < b, and half of those with a = b, of all pairs."""
    expected = np.mean([(x < y) + 0.5 * (x == y) for x in a for y in b])
    assert closer_share(np.array(a, float), np.array(b, float)) == pytest.approx(expected)
