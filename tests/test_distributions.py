"""Densities against sums, quadrature, SciPy and torch: never against themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import check_gradients, leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

import nanogen as ng
from nanogen import distributions as D
from nanogen import functional as F
from nanogen.testing import check_normal_kl

LEVELS = (2, 3, 17, 256)
DISCRETIZED = {"normal": (D.DiscretizedNormal, stats.norm), "logistic": (D.DiscretizedLogistic, stats.logistic)}
SAMPLES = 40_000  # tells a mean that is off by 0.05 standard deviations, with both errors below 1e-6
FLOOR = 1e-6  # of a p-value; seeds are fixed, so a test that passes passes always

numbers = lambda low, high: st.floats(low, high, allow_nan=False)
logits = st.lists(numbers(-8, 8), min_size=1, max_size=6).map(np.array)


# Continuous


@given(mean=numbers(-3, 3), std=numbers(0.05, 5))
def test_normal_density_integrates_to_one(mean: float, std: float) -> None:
    """∫ N(x; μ, σ²) dx = 1, with the moments μ and σ², by adaptive quadrature."""
    p = D.Normal(mean, std)
    density = lambda x: math.exp(p.log_prob(x).item())
    ends = (mean - 12 * std, mean + 12 * std)
    integral = lambda f: integrate.quad(f, *ends, points=[mean], epsabs=1e-11)[0]
    assert integral(density) == pytest.approx(1, abs=1e-9)
    assert integral(lambda x: x * density(x)) == pytest.approx(mean, abs=1e-8)
    assert integral(lambda x: (x - mean) ** 2 * density(x)) == pytest.approx(std**2, rel=1e-8)


def test_normal_against_scipy() -> None:
    """log N(x; μ, σ²) and its entropy ½ log 2πe σ² equal SciPy's over broadcast shapes, far into the tails."""
    mean, std, x = np.array([[-1.5], [0.3]]), np.array([0.01, 1.0, 50.0]), np.array([[[-1e3]], [[0.2]], [[1e5]]])
    p = D.Normal(mean, std)
    np.testing.assert_allclose(p.log_prob(x).data, stats.norm.logpdf(x, mean, std), rtol=1e-12)
    np.testing.assert_allclose(p.entropy().data, stats.norm.entropy(mean, std), rtol=1e-12)


@given(mean=numbers(-3, 3), std=numbers(0.05, 5))
def test_entropy_is_minus_the_mean_log_density(mean: float, std: float) -> None:
    """H = −E[log p].  log p of a normal is quadratic: three nodes of Gauss–Hermite quadrature are exact."""
    p = D.Normal(mean, std)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    expected = -(weights * p.log_prob(mean + std * nodes).data).sum() / weights.sum()
    assert p.entropy().item() == pytest.approx(expected, abs=1e-10)


def test_normal_refuses_a_spread_that_is_none() -> None:
    """A standard deviation of 0, below, or NaN is refused by name."""
    for std in (0.0, -1.0, math.nan, np.array([1.0, 0.0])):
        with pytest.raises(ValueError, match=r"^Normal: std must be positive"):
            D.Normal(0.0, std)


@given(mean=numbers(-3, 3), log_std=numbers(-20, 20), x=numbers(-9, 9))
def test_normal_by_the_logarithm_of_its_spread(mean: float, log_std: float, x: float) -> None:
    """N(mean, e^(2 log_std)) is the same density, with the same draws, however its spread is said; one way alone."""
    one, other = D.Normal(mean, log_std=log_std), D.Normal(mean, math.exp(log_std))
    assert one.log_std.item() == log_std
    assert one.std.item() == pytest.approx(other.std.item(), rel=1e-15)
    assert one.log_prob(x).item() == pytest.approx(other.log_prob(x).item(), rel=1e-12, abs=1e-12)
    assert one.entropy().item() == pytest.approx(other.entropy().item(), abs=1e-12)
    assert one.sample(ng.Generator(0)).item() == pytest.approx(other.sample(ng.Generator(0)).item(), rel=1e-12)
    for both in ({}, {"std": 1.0, "log_std": 0.0}):
        with pytest.raises(ValueError, match=r"^Normal: give either std or log_std"):
            D.Normal(0.0, **both)


# Discrete densities sum to one


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", DISCRETIZED)
@given(mean=st.one_of(numbers(-1.5, 1.5), numbers(-1e4, 1e4)), log_scale=numbers(-12, 8))
def test_discretized_density_sums_to_one(kind: str, levels: int, mean: float, log_scale: float) -> None:
    """Σ over the levels of p(x) = 1, the edge bins taking the tails: Ho et al. 2020, eq. 13; Salimans et al. 2017,
    eq. 2.  Whatever the mean and however narrow or wide; every log-probability finite."""
    log_p = DISCRETIZED[kind][0](mean, log_scale, levels).log_prob(np.arange(levels)).data
    assert np.isfinite(log_p).all()
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", DISCRETIZED)
@given(mean=numbers(-1.2, 1.2), log_scale=numbers(-5, 3))
def test_discretized_density_is_a_difference_of_cumulatives(
    kind: str, levels: int, mean: float, log_scale: float
) -> None:
    """p(x) = F((c + δ − μ)/s) − F((c − δ − μ)/s), δ = 1/(levels − 1), with F(−∞) = 0 and F(∞) = 1 at the edges, F
    being SciPy's.  Where that difference cancels, its own rounding is allowed for."""
    ours, theirs = DISCRETIZED[kind]
    centres, half = np.linspace(-1, 1, levels), 1 / (levels - 1)
    low = np.where(centres == -1, -np.inf, centres - half)
    high = np.where(centres == 1, np.inf, centres + half)
    cdf = lambda x: theirs.cdf(x, mean, math.exp(log_scale))
    p = np.exp(ours(mean, log_scale, levels).log_prob(np.arange(levels)).data)
    np.testing.assert_allclose(p, cdf(high) - cdf(low), rtol=1e-9, atol=4e-16)


@pytest.mark.parametrize("kind", DISCRETIZED)
@given(mean=numbers(-40, 40), log_scale=numbers(-3, 3), level=st.integers(1, 15))
def test_discretized_density_in_the_tails(kind: str, mean: float, log_scale: float, level: int) -> None:
    """Out where F(h) − F(l) is 0 in floating point, log p agrees with the logarithm of the integral of the density,
    which Gauss–Legendre quadrature on subintervals gives relative to the density's largest value."""
    ours, theirs = DISCRETIZED[kind]
    centre, half, scale = level / 8 - 1, 1 / 16, math.exp(log_scale)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(centre - half, centre + half, 401)
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    x = (middles[:, None] + widths[:, None] / 2 * nodes).ravel()
    expected = special.logsumexp(theirs.logpdf(x, mean, scale), b=np.outer(widths / 2, weights).ravel())
    assert ours(mean, log_scale, 17).log_prob(level).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", DISCRETIZED)
def test_discretized_density_keeps_its_type_and_stays_finite(kind: str, dtype: Any) -> None:
    """No infinities and no NaN, in value or gradient, at means far outside and at scales from e⁻⁷ to e⁷; in float32
    still a density, within its rounding."""
    mean, log_scale, level = np.meshgrid([-1e3, -3, -1, 0.02, 1, 50], [-7, -2, 0, 7], np.arange(256))
    inputs = [leaf(mean[..., :1].astype(dtype)), leaf(log_scale[..., :1].astype(dtype))]
    log_p = DISCRETIZED[kind][0](*inputs, 256).log_prob(level)
    assert log_p.dtype == dtype
    for g in (log_p, *ng.grad(log_p.sum(), inputs)):
        assert np.isfinite(g.data).all()
    rtol = 1e-9 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(np.exp(log_p.data.astype(np.float64)).sum(-1), 1, rtol=rtol)


EDGE = 1 / 255  # of level 128: a mean there is a bin's edge
SCALES = st.sampled_from([-100.0, -89.0, -12.0, 0.0, 89.0, 100.0]) | numbers(-14, 14) | numbers(-100, 100)


@pytest.mark.parametrize("kind", DISCRETIZED)
@given(
    mean=st.sampled_from([EDGE, 0.0, -1.0, 1.0]) | numbers(-1.2, 1.2) | numbers(-1e15, 1e15),
    log_scale=SCALES,
    level=st.sampled_from([0, 1, 127, 128, 129, 255]) | st.integers(0, 255),
)
def test_discretized_density_in_float32_is_that_in_float64(
    kind: str, mean: float, log_scale: float, level: int
) -> None:
    """Value and both gradients at float32 parameters are those at the same numbers in float64, to float32's last
    digits, at scales of e⁻¹⁰⁰ to e¹⁰⁰ and however far the mean is; beyond the largest number, infinite; never NaN."""
    make, found = DISCRETIZED[kind][0], []
    for dtype in (np.float32, np.float64):
        inputs = [leaf(np.array(np.float32(x), dtype)) for x in (mean, log_scale)]
        with np.errstate(over="ignore"):
            log_p = make(*inputs, 256).log_prob(level)
            assert log_p.dtype == dtype
            found.append([x.item() for x in (log_p, *ng.grad(log_p, inputs))])
    assert np.isfinite(found[1]).all()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(np.float32(found[0]), np.float32(found[1]), rtol=2e-7)


@pytest.mark.parametrize("kind", DISCRETIZED)
@given(log_scale=numbers(-14, -10), off=numbers(-4, 4), level=st.integers(1, 254))
def test_discretized_density_at_an_edge_in_float32(kind: str, log_scale: float, off: float, level: int) -> None:
    """A mean within a few scales of the upper edge e of a narrow bin: p = F((e − μ)/s) by SciPy, to float32's digits.
    The edge must not be rounded to them: it would be off by a hundredth of the scale."""
    ours, theirs = DISCRETIZED[kind]
    log_scale, edge = np.float32(log_scale), (2 * level + 1) / 255 - 1
    scale = math.exp(log_scale)
    mean = np.float32(edge + off * scale)
    log_p = ours(mean, log_scale, 256).log_prob(level)
    assert log_p.dtype == np.float32
    assert log_p.item() == pytest.approx(theirs.logcdf((edge - float(mean)) / scale), rel=1e-6, abs=1e-9)


@given(mean=numbers(1e8, 1e18), level=st.integers(1, 254))
def test_discretized_normal_at_means_beyond_all_digits(mean: float, level: int) -> None:
    """Where a bin's two edges are one number in floating point, log p is −½ μ² and its slope −(μ − c), to 1e-6."""
    m = leaf(np.array(mean))
    log_p = D.DiscretizedNormal(m, 0.0, 256).log_prob(level)
    assert log_p.item() == pytest.approx(-0.5 * mean**2, rel=1e-6)
    assert ng.grad(log_p, m)[0].item() == pytest.approx(-mean, rel=1e-6)


@pytest.mark.parametrize("kind", DISCRETIZED)
@given(mean=numbers(-3, 3), log_scale=numbers(3, 9), level=st.integers(1, 254))
def test_narrow_bins_keep_their_digits(kind: str, mean: float, log_scale: float, level: int) -> None:
    """A bin far narrower than the scale has the mass density · width: even in float32, where F(h) and F(l) agree in
    nearly all their digits."""
    ours, theirs = DISCRETIZED[kind]
    log_p = ours(np.float32(mean), np.float32(log_scale), 256).log_prob(level)
    scale = math.exp(np.float32(log_scale))
    expected = theirs.logpdf(2 * level / 255 - 1, np.float32(mean), scale) + math.log(2 / 255)
    assert log_p.dtype == np.float32
    assert log_p.item() == pytest.approx(expected, rel=2e-6)


def test_logistic_by_a_known_value() -> None:
    """Two levels split at 0: p(1) = σ(μ/s), p(0) = σ(−μ/s), the last and the first bin being half-lines."""
    p = D.DiscretizedLogistic(0.7, math.log(0.3), 2)
    np.testing.assert_allclose(np.exp(p.log_prob([0, 1]).data), special.expit([-0.7 / 0.3, 0.7 / 0.3]), rtol=1e-12)


@pytest.mark.parametrize("kind", DISCRETIZED)
def test_discretized_settings(kind: str) -> None:
    """Levels that are not there, and a number of levels that can't be, are refused by name."""
    make = DISCRETIZED[kind][0]
    for x in (-1, 17, [0, 20]):
        with pytest.raises(ValueError, match="levels"):
            make(0.0, 0.0, 17).log_prob(x)
    for levels in (1, 0, 2.0, True):
        with pytest.raises(ValueError, match="levels"):
            make(0.0, 0.0, levels)


@given(logits=numbers(-700, 700))
def test_bernoulli(logits: float) -> None:
    """p(1) = σ(logit), p(0) = 1 − p(1), finite logarithms for every logit; SciPy's log σ."""
    log_p = D.Bernoulli(logits).log_prob(np.array([0.0, 1.0])).data
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(log_p, special.log_expit([-logits, logits]), rtol=1e-12, atol=1e-13)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)


@given(logits=logits, shift=numbers(-700, 700))
def test_categorical(logits: np.ndarray, shift: float) -> None:
    """p(k) = softmax(logits)_k: sums to 1, SciPy's log softmax, no change when all logits move by the same."""
    log_p = D.Categorical(logits + shift).log_prob(np.arange(len(logits))).data
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose(log_p, special.log_softmax(logits), rtol=1e-9, atol=1e-9)


def test_categorical_broadcasts() -> None:
    """Classes broadcast against the logits' other axes: log_prob of (3, 1) under logits (2, K) is (3, 2)."""
    logits = np.random.default_rng(0).standard_normal((2, 5))
    labels = np.array([[4], [0], [1]])
    expected = special.log_softmax(logits, axis=-1)[np.arange(2), labels]
    np.testing.assert_allclose(D.Categorical(logits).log_prob(labels).data, expected, rtol=1e-12)
    for shape in ((4,), (2, 3, 4)):
        logits = np.random.default_rng(1).standard_normal(shape)
        one = D.Categorical(logits).log_prob(3).data
        np.testing.assert_allclose(one, special.log_softmax(logits, axis=-1)[..., 3], rtol=1e-12)
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match=r"^classes must be in 0 … 3, got"):
            D.Categorical(logits).log_prob(wrong)
    with pytest.raises(ValueError, match=r"^Categorical: logits must have an axis of classes"):
        D.Categorical(0.5)


@given(logits=logits)
def test_discrete_entropies(logits: np.ndarray) -> None:
    """H = −Σ p log p, in nats: SciPy's; between 0 and log K."""
    entropy = D.Categorical(logits).entropy().item()
    assert entropy == pytest.approx(stats.entropy(special.softmax(logits)), abs=1e-12)
    assert -1e-12 <= entropy <= math.log(len(logits)) + 1e-12
    p = special.expit(logits)
    np.testing.assert_allclose(D.Bernoulli(logits).entropy().data, stats.entropy([p, 1 - p]), atol=1e-12)


INFINITE = st.lists(st.sampled_from([0.0, 0.5, -1.0, 3.0, -math.inf]), min_size=2, max_size=6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(q=INFINITE, p=INFINITE)
def test_classes_of_probability_0(dtype: Any, q: list[float], p: list[float]) -> None:
    """A logit of −∞ is a class that is not there: 0 log 0 = 0.  Entropy, log-probabilities and divergence are SciPy's,
    ∞ where q has mass and p none; the gradient in q and p is, where these are finite, that of the classes that are
    there, and 0 in those that are not."""
    q, p = np.array(q[: len(p)], dtype), np.array(p[: len(q)], dtype)
    q[0], p[-1] = 0.0, 0.0  # one at least is there
    there = np.isfinite(q)
    a, b = leaf(q), leaf(p)
    probabilities = special.softmax(q)
    entropy = D.Categorical(a).entropy()
    assert entropy.item() == pytest.approx(stats.entropy(probabilities), rel=1e-5, abs=1e-6)
    assert entropy.dtype == dtype
    only = leaf(q[there])
    expected = ng.grad(D.Categorical(only).entropy(), only)[0].data
    np.testing.assert_allclose(ng.grad(entropy, a)[0].data[there], expected, rtol=1e-4, atol=1e-6)
    assert not ng.grad(entropy, a)[0].data[~there].any()
    log_p = D.Categorical(a).log_prob(np.arange(len(q)))
    np.testing.assert_allclose(log_p.data, special.log_softmax(q.astype(float)), rtol=1e-5, atol=1e-6)
    assert np.isfinite(ng.grad(log_p[np.flatnonzero(there)].sum(), a)[0].data).all()

    kl = D.kl_divergence(D.Categorical(a), D.Categorical(b))
    with np.errstate(divide="ignore"):
        expected = stats.entropy(special.softmax(q.astype(float)), special.softmax(p.astype(float)))
    assert kl.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert kl.dtype == dtype
    np.testing.assert_allclose(ng.grad(kl, b)[0].data, special.softmax(p) - probabilities, rtol=1e-5, atol=1e-6)
    if np.isfinite(expected):
        log_q, log_p = (special.log_softmax(logits.astype(float)) for logits in (q, p))
        slope = np.zeros(len(q))
        slope[there] = probabilities[there] * (log_q[there] - log_p[there] - expected)
        np.testing.assert_allclose(ng.grad(kl, a)[0].data, slope, rtol=1e-4, atol=1e-5)
    u = np.linspace(0, 1, 50, endpoint=False)
    assert there[D.Categorical(a).icdf(u).data].all()
    assert there[D.Categorical(a).sample(ng.Generator(0), (50,)).data].all()


def test_the_first_class_above_a_threshold() -> None:
    """F(k) > u, not ≥: of four equal classes u = k/4 gives class k, and classes of no weight are passed over."""
    assert np.array_equal(D.inverse_transform(np.ones((4, 4)), np.arange(4) / 4), np.arange(4))
    assert D.inverse_transform(np.array([[0.0, 0.0, 2.0, 1.0]]), np.zeros(1)) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certain_bernoulli(dtype: Any) -> None:
    """Logits of ±∞: of what is sure the entropy is 0, log p of what can't be −∞ and of what must be 0; KL(sure ‖ fair)
    is log 2 and KL(fair ‖ sure) ∞; every gradient of a finite value is finite: d log p(x)/d logit = x − p."""
    sure = np.array([math.inf, -math.inf], dtype)
    logits, fair = leaf(sure), leaf(np.zeros(2, dtype))
    p = D.Bernoulli(logits)
    assert p.entropy().data.tolist() == [0, 0]
    assert ng.grad(p.entropy().sum(), logits)[0].data.tolist() == [0, 0]
    for x, expected in ((1, [0, -math.inf]), (0, [-math.inf, 0])):
        log_p = p.log_prob(x)
        assert log_p.data.tolist() == expected
        assert ng.grad(log_p.sum(), logits)[0].data.tolist() == [x - 1, x]
    kl = D.kl_divergence(p, D.Bernoulli(fair))
    np.testing.assert_allclose(kl.data, math.log(2), rtol=1e-6)
    of_sure, of_fair = ng.grad(kl.sum(), [logits, fair])
    assert (of_sure.data.tolist(), of_fair.data.tolist()) == ([0, 0], [-0.5, 0.5])
    assert D.kl_divergence(D.Bernoulli(fair), p).data.tolist() == [math.inf] * 2
    assert D.kl_divergence(p, D.Bernoulli(sure[::-1])).data.tolist() == [math.inf] * 2
    assert D.kl_divergence(p, p).data.tolist() == [0, 0]
    assert np.array_equal(p.sample(ng.Generator(0), (9,)).data, np.tile([1, 0], (9, 1)))


# The normal's cumulative distribution, and 1 − e⁻ˣ


@given(z=st.one_of(numbers(-1e5, 1e5), numbers(-8, 8)))
def test_log_ndtr(z: float) -> None:
    """log Φ(z) is SciPy's, to the last digits in the left tail, where Φ itself is 0, and in the right, where it is 1;
    its derivative is φ(z)/Φ(z)."""
    assert F.log_ndtr(z).item() == pytest.approx(special.log_ndtr(z), rel=2e-13, abs=1e-300)
    x = leaf(z)
    slope = ng.grad(F.log_ndtr(x), [x])[0].item()
    exact = math.sqrt(2 / math.pi) / special.erfcx(-z / math.sqrt(2)) if z < 25 else stats.norm.pdf(z)
    assert slope == pytest.approx(exact, rel=1e-11, abs=1e-300)


@given(exponent=numbers(-300, 2.8))
def test_log1mexp(exponent: float) -> None:
    """log(1 − e⁻ˣ) = log(−expm1(−x)) for small x and log1p(−e⁻ˣ) for large, without a loss in between.

    Mächler 2012, eq. 7."""
    x = 10.0**exponent
    expected = math.log(-math.expm1(-x)) if x < 1 else math.log1p(-math.exp(-x))
    assert D.log1mexp(ng.tensor(x)).item() == pytest.approx(expected, rel=1e-14, abs=1e-300)


# Divergences


def normal(mean: float, log_std: float) -> D.Normal:
    return D.Normal(mean, math.exp(log_std))


def test_normal_kl() -> None:
    """½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²).  Kingma & Welling 2014, appendix B."""
    check_normal_kl(lambda m, s, n, t: D.kl_divergence(D.Normal(m, s), D.Normal(n, t)).numpy())
    check_normal_kl(
        lambda m, s, n, t: D.kl_divergence(D.Normal(m, log_std=s), D.Normal(n, log_std=t)).numpy(), scale="log_std"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(log_q=numbers(-87, 80), log_p=numbers(-40, 40), far=numbers(-2, 2))
def test_normal_kl_of_any_spread(dtype: Any, log_q: float, log_p: float, far: float) -> None:
    """½ (e^(2r) + d² − 1) − r with r = log σ_q − log σ_p and d the distance of the means by σ_p, in Python's floats: of
    spreads whose squares and quotients are no numbers in the type; the gradients in log σ_q and in σ_q too."""
    log_q, log_p = np.array([min(log_q, log_p + 40), log_p], dtype).tolist()
    r = log_q - log_p
    digits = 4 * float(np.finfo(dtype).eps) * (1 + abs(log_q) + abs(log_p))  # of two logarithms
    p, at = D.Normal(np.zeros((), dtype), log_std=np.array(log_p, dtype)), far * math.exp(log_p)
    expected = 0.5 * (math.expm1(2 * r) + far**2) - r
    log_std, std = leaf(np.array(log_q, dtype)), leaf(np.array(math.exp(log_q), dtype))
    for q, spread, slope in (
        (D.Normal(np.array(at, dtype), log_std=log_std), log_std, math.expm1(2 * r)),
        (D.Normal(np.array(at, dtype), std), std, math.expm1(2 * r) / math.exp(log_q)),
    ):
        kl = D.kl_divergence(q, p)
        assert kl.dtype == dtype
        assert kl.item() == pytest.approx(expected, rel=digits, abs=digits)
        rounding = digits if spread is log_std else digits / math.exp(log_q)
        assert ng.grad(kl, spread)[0].item() == pytest.approx(slope, rel=digits, abs=rounding)


def test_normal_kl_of_the_smallest_spreads() -> None:
    """By hand: σ = 1.762e−23 against 1 is −½ − log σ = 51.893; a log-variance l, kept, ½ (eˡ − 1 − l), with the slope
    −½ in l; two that are equal 0, and the slope 0."""
    one = D.Normal(np.zeros(1, np.float32), 1.0)
    small = D.Normal(np.zeros(1, np.float32), np.array([1.762e-23], np.float32))
    assert D.kl_divergence(small, one).item() == pytest.approx(51.893, abs=5e-4)
    for log_variance in (-90.0, -200.0, -1000.0):
        given_ = leaf(np.array([log_variance], np.float32))
        kl = D.kl_divergence(D.Normal(np.zeros(1, np.float32), log_std=0.5 * given_), one)
        assert kl.item() == pytest.approx(-0.5 * (1 + log_variance))
        assert ng.grad(kl, given_)[0].item() == -0.5
    same = leaf(np.array([1e-30, 1.0, 1e30], np.float32))
    kl = D.kl_divergence(D.Normal(np.ones(3, np.float32), same), D.Normal(np.ones(3, np.float32), same.detach()))
    assert not kl.data.any()
    assert not ng.grad(kl.sum(), same)[0].data.any()


@given(a=logits, b=logits)
def test_discrete_kl(a: np.ndarray, b: np.ndarray) -> None:
    """KL = Σ q log(q/p) by summing SciPy's probabilities; ≥ 0, and 0 only if equal."""
    a, b = a[: len(b)], b[: len(a)]
    kl = D.kl_divergence(D.Categorical(a), D.Categorical(b)).item()
    assert kl == pytest.approx(stats.entropy(special.softmax(a), special.softmax(b)), rel=1e-8, abs=1e-11)
    assert kl >= -1e-12
    kl_bernoulli = D.kl_divergence(D.Bernoulli(a), D.Bernoulli(b)).data
    q, p = special.expit(a), special.expit(b)
    np.testing.assert_allclose(kl_bernoulli, stats.entropy([q, 1 - q], [p, 1 - p]), rtol=1e-7, atol=1e-11)
    assert (kl_bernoulli >= -1e-12).all()
    for same in (D.Categorical(a), D.Bernoulli(a)):
        np.testing.assert_allclose(D.kl_divergence(same, same).data, 0, atol=1e-12)
    if np.ptp(a - b) > 1e-2:
        assert kl > 1e-12


def test_kl_of_other_pairs() -> None:
    """A pair without a closed form is refused, naming both: any two of different kinds."""
    kinds = (D.Normal(0.0, 1.0), D.Bernoulli(np.zeros(2)), D.Categorical(np.zeros(2)), D.DiscretizedNormal(0.0, 0.0, 2))
    for q, p in itertools.permutations(kinds, 2):
        with pytest.raises(TypeError, match=f"no closed form for {type(q).__name__} and {type(p).__name__}"):
            D.kl_divergence(q, p)


# Samples


def test_normal_samples() -> None:
    """Kolmogorov–Smirnov, which must also tell a sampler that takes the standard deviation for the variance or is off
    by 0.05 standard deviations; shapes of draws come before those of parameters."""
    x = D.Normal(1.5, 0.4).sample(ng.Generator(1), (SAMPLES,)).data
    assert stats.kstest(x, stats.norm(1.5, 0.4).cdf).pvalue > FLOOR
    for wrong in (stats.norm(1.5, 0.4**0.5), stats.norm(1.52, 0.4), stats.norm(1.5, 0.42)):
        assert stats.kstest(x, wrong.cdf).pvalue < FLOOR
    p = D.Normal(np.zeros((2, 1)), np.ones(3))
    assert p.sample(ng.Generator(0)).shape == (2, 3)
    assert p.rsample(ng.Generator(0), (4, 5)).shape == (4, 5, 2, 3)


def test_samples_follow_the_discrete_densities() -> None:
    """χ² of counts against the density's own sums-to-one table, for every discrete kind, each with a wrong density
    (shifted, widened or tilted) that is refused at the same size."""
    rng = ng.Generator(2)
    logits = np.array([-1.0, 0.5, 2.0, -3.0])

    def p_value(p: Any, x: np.ndarray, levels: int) -> float:
        expected = SAMPLES * np.exp(p.log_prob(np.arange(levels)).data.astype(float))
        counts, kept = np.bincount(x.astype(int).ravel(), minlength=levels), expected > 5
        assert counts[expected < 1e-7].sum() == 0
        observed = [*counts[kept], counts[~kept].sum()]
        predicted = [*expected[kept], expected[~kept].sum()]
        used = slice(None) if predicted[-1] > 1 else slice(-1)
        scale = sum(observed[used]) / sum(predicted[used])
        return stats.chisquare(observed[used], np.array(predicted[used]) * scale).pvalue

    cases = [(D.Bernoulli(0.4), D.Bernoulli(0.5), 2), (D.Categorical(logits), D.Categorical(logits * 1.1), 4)]
    for make in (D.DiscretizedNormal, D.DiscretizedLogistic):
        cases += [(make(0.3, -1.0, 17), wrong, 17) for wrong in (make(0.35, -1.0, 17), make(0.3, -0.9, 17))]
        cases += [(make(-0.9, 0.2, 3), make(-0.8, 0.2, 3), 3)]  # most of it in the edges
    for right, wrong, levels in cases:
        x = right.sample(rng, (SAMPLES,)).data
        assert p_value(right, x, levels) > FLOOR > p_value(wrong, x, levels)


def test_samples_of_many_at_once() -> None:
    """Each place of a batch follows its own parameters: sure ones come out surely, and shapes are as announced."""
    rng = ng.Generator(3)
    sure = np.array([[0, 99, 0], [99, 0, 0]])
    assert np.array_equal(D.Categorical(sure * 1.0).sample(rng, (5,)).data, np.tile([1, 0], (5, 1)))
    assert np.array_equal(D.Bernoulli(np.array([-99.0, 99.0])).sample(rng, (4,)).data, np.tile([0, 1], (4, 1)))
    for make in (D.DiscretizedNormal, D.DiscretizedLogistic):
        x = make(np.array([-1.0, 0.0, 1.0]), np.full((2, 1), -20.0), 17).sample(rng, (6,)).data
        assert np.array_equal(x, np.tile([0, 8, 16], (6, 2, 1)))
        assert x.dtype == np.uint8


def test_rsample_is_differentiable_in_the_right_direction() -> None:
    """z = μ + σ ε: ∂z/∂μ = 1 and ∂z/∂σ = ε = (z − μ)/σ.  Kingma & Welling 2014, section 2.4.  E[z³] has the gradient
    (3μ² + 3σ², 6μσ), which a sign on ε would not change on average, but (z − μ)/σ does tell."""
    mean, std = leaf(np.full(1000, 0.7)), leaf(np.full(1000, 0.4))
    z = D.Normal(mean, std).rsample(ng.Generator(4))
    of_mean, of_std = ng.grad(z.sum(), [mean, std])
    np.testing.assert_allclose(of_mean.data, 1)
    np.testing.assert_allclose(of_std.data, (z.data - 0.7) / 0.4, rtol=1e-9, atol=1e-12)
    assert not D.Normal(mean, std).sample(ng.Generator(4)).requires_grad


# Gradients, and torch as the judge


GRADIENTS: dict[str, Callable[..., Any]] = {
    "normal": lambda m, s, x: D.Normal(m, s**2 + 0.1).log_prob(x),
    "normal entropy": lambda m, s, x: D.Normal(m, s**2 + 0.1).entropy(),
    "normal kl": lambda m, s, x: D.kl_divergence(D.Normal(m, s**2 + 0.1), D.Normal(x, 0.7)),
    "bernoulli": lambda m, s, x: D.Bernoulli(m).log_prob(np.array([0.0, 1.0, 1.0])),
    "bernoulli entropy": lambda m, s, x: D.Bernoulli(m).entropy(),
    "bernoulli kl": lambda m, s, x: D.kl_divergence(D.Bernoulli(m), D.Bernoulli(s)),
    "categorical": lambda m, s, x: D.Categorical(m).log_prob(np.array([2, 0])),
    "categorical entropy": lambda m, s, x: D.Categorical(m).entropy(),
    "categorical kl": lambda m, s, x: D.kl_divergence(D.Categorical(m), D.Categorical(s)),
    "discretized normal": lambda m, s, x: D.DiscretizedNormal(m, s - 1.5, 17).log_prob(np.array([0, 9, 16])),
    "discretized normal, wide": lambda m, s, x: D.DiscretizedNormal(m, s + 2, 17).log_prob(np.array([0, 9, 16])),
    "discretized normal, narrow": lambda m, s, x: D.DiscretizedNormal(m, s - 6, 17).log_prob(np.array([0, 9, 16])),
    "discretized logistic": lambda m, s, x: D.DiscretizedLogistic(m, s - 2, 17).log_prob(np.array([0, 9, 16])),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    """Gradients of log p, entropy and divergence in every parameter, to second order, by central differences."""
    rng = np.random.default_rng(5)
    m, s, x = 0.4 * rng.standard_normal((3, 2, 3))
    check_gradients(GRADIENTS[name], m, s, x, tolerance=1e-5)


@given(data=st.data())
def test_against_torch(data: st.DataObject) -> None:
    """log_prob, entropy and kl_divergence of torch.distributions, over broadcast shapes."""
    torch = pytest.importorskip("torch")
    T = torch.distributions
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    (a, b), (s, r) = rng.standard_normal((2, 4, 3)), rng.uniform(0.1, 3, (2, 1, 3))
    labels, bits = rng.integers(0, 3, (4,)), rng.integers(0, 2, (4, 3)).astype(float)
    t = torch.tensor
    pairs = [
        (D.Normal(a, s), D.Normal(b, r), T.Normal(t(a), t(s)), T.Normal(t(b), t(r)), b),
        (D.Bernoulli(a), D.Bernoulli(b), T.Bernoulli(logits=t(a)), T.Bernoulli(logits=t(b)), bits),
        (D.Categorical(a), D.Categorical(b), T.Categorical(logits=t(a)), T.Categorical(logits=t(b)), labels),
    ]
    for q, p, their_q, their_p, x in pairs:
        np.testing.assert_allclose(q.log_prob(x).data, their_q.log_prob(t(x)).numpy(), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(q.entropy().data, their_q.entropy().numpy(), rtol=1e-9, atol=1e-12)
        expected = T.kl_divergence(their_q, their_p).numpy()
        np.testing.assert_allclose(D.kl_divergence(q, p).data, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e6, 1e9, 1e12])
def test_a_bin_much_narrower_than_the_scale(scale: float) -> None:
    """log P = log φ(z) + log(2/(K − 1)/σ) + O(1/σ) a standard deviation from the mean, where two values of log Φ are
    too close together to be subtracted."""
    for mean in (scale, -scale):
        found = D.DiscretizedNormal(np.array([mean]), np.log([scale]), 256).log_prob(np.array([100])).data
        np.testing.assert_allclose(
            found, stats.norm.logpdf(1) + np.log(2 / 255 / scale), rtol=0, atol=3 / scale + 1e-13
        )


# Levels and their centres


@pytest.mark.parametrize("levels", LEVELS)
def test_levels_and_centres(levels: int) -> None:
    """Centres divide [−1, 1] evenly; the nearest level of a centre is the level; what lies outside goes to an end."""
    x = np.arange(levels)
    centres = D.scale_levels(x, levels, np.float64)
    np.testing.assert_allclose(centres, np.linspace(-1, 1, levels), atol=1e-15)
    for moved in (0.0, 0.49, -0.49):
        assert np.array_equal(D.unscale_levels(centres + moved * 2 / (levels - 1), levels), x)
    assert D.unscale_levels(np.array([-9.0, 9.0]), levels).tolist() == [0, levels - 1]
    assert D.unscale_levels(centres, levels).dtype == np.uint8
    assert D.scale_levels(x, levels).dtype == np.float32
    assert centres.dtype == np.float64


# Samples are functions of the generator's numbers: equalities, where a statistical test would let a sign or a type by


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_samples_are_mean_plus_std_times_noise(dtype: type) -> None:
    """x = μ + σ ε with the generator's own ε, in the parameters' type.  Kingma & Welling 2014, section 2.4."""
    mean, std = np.array([1.0, -2.0], dtype), np.array([0.5, 3.0], dtype)
    drawn = D.Normal(mean, std).sample(ng.Generator(4), (5,)).data
    assert drawn.dtype == dtype
    assert np.array_equal(drawn, mean + std * ng.Generator(4).normal((5, 2), dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bernoulli_samples_are_where_u_is_below_p(dtype: type) -> None:
    """x = 1 where u < sigmoid(logit), u the generator's own, all in the logits' type."""
    logits = np.linspace(-2, 2, 7).astype(dtype)
    drawn = D.Bernoulli(logits).sample(ng.Generator(4), (50,)).data
    assert drawn.dtype == dtype
    assert np.array_equal(drawn, ng.Generator(4).uniform((50, 7), dtype) < special.expit(logits))


def test_categorical_samples_invert_the_cumulative_distribution() -> None:
    """The first class whose cumulative probability exceeds u; rows of logits far apart, and far from 0, do not meet."""
    logits = np.array([[[0.0, 1.0, -1.0], [900.0, 901.0, 899.5]], [[-900.0, -902.0, -900.5], [3.0, 3.0, 3.0]]])
    drawn = D.Categorical(logits).sample(ng.Generator(4), (40,)).data
    u = ng.Generator(4).uniform((40, 2, 2, 1), np.float64)[..., 0]
    p = special.softmax(logits, axis=-1)
    expected = [[[np.searchsorted(p[i, j].cumsum(), u[k, i, j], "right") for j in (0, 1)] for i in (0, 1)]
                for k in range(40)]  # fmt: skip
    assert np.array_equal(drawn, expected)


def test_logistic_samples_invert_the_cumulative_distribution() -> None:
    """x = μ + s · logit(u), rounded to the nearest level; as many as the parameters' shapes make together."""
    mean, log_scale = np.array([-0.5, 0.0, 0.8]), -1.2
    drawn = D.DiscretizedLogistic(mean, log_scale, 9).sample(ng.Generator(4), (30,)).data
    u = ng.Generator(4).uniform((30, 3), np.float64)
    x = mean + math.exp(log_scale) * special.logit(u)
    assert np.array_equal(drawn, np.clip(np.rint((x + 1) * 4), 0, 8))


def test_a_number_beside_an_array_takes_its_type() -> None:
    """Of mean and log-scale one may be a number: the density stays in the other's type."""
    array = np.zeros(3, np.float32)
    for kind in (D.DiscretizedNormal, D.DiscretizedLogistic):
        assert kind(0.25, array, 5).log_prob(np.arange(3)).dtype == np.float32
        assert kind(array, -1.0, 5).log_prob(np.arange(3)).dtype == np.float32
        with pytest.raises(ValueError, match=r"^levels must be in 0 … 4, got 5"):
            kind(0.25, array, 5).log_prob(np.array([5]))
    for p in (D.Normal(0.25, array + 1), D.Normal(array, 2.0)):
        assert p.mean.dtype == p.std.dtype == p.log_prob(0.5).dtype == np.float32
        assert p.sample(ng.Generator(0)).dtype == p.entropy().dtype == np.float32
    for x in (1, 0.5, True, np.ones(3), np.ones(3, int)):
        assert D.Bernoulli(array).log_prob(x).dtype == np.float32


def test_whole_parameters_are_real_numbers() -> None:
    """Integers and bools are numbers like others: float64, or the type of what is real beside them; every density of
    them is that of the same floats, with the same draws."""
    rng, whole = lambda: ng.Generator(0), np.array([0, 1, 2])
    pairs: list[tuple[Any, Any, Any]] = [
        (D.Normal(0, 1), D.Normal(0.0, 1.0), 2),
        (D.Normal(True, whole + 1), D.Normal(1.0, whole + 1.0), whole),
        (D.Normal(0, log_std=0), D.Normal(0.0, 1.0), 1),
        (D.Bernoulli(0), D.Bernoulli(0.0), 1),
        (D.Bernoulli(whole), D.Bernoulli(whole * 1.0), 0),
        (D.Bernoulli(True), D.Bernoulli(1.0), True),
        (D.Categorical(whole), D.Categorical(whole * 1.0), 2),
        (D.Categorical([0, 1]), D.Categorical([0.0, 1.0]), np.array([True, False])),
        (D.DiscretizedNormal(0, -1, 5), D.DiscretizedNormal(0.0, -1.0, 5), whole),
        (D.DiscretizedLogistic(whole, 0, 5), D.DiscretizedLogistic(whole * 1.0, 0.0, 5), whole),
    ]
    for p, same, x in pairs:
        assert p.log_prob(x).dtype == np.float64
        assert np.array_equal(p.log_prob(x).data, same.log_prob(x).data)
        assert np.array_equal(p.sample(rng(), (7,)).data, same.sample(rng(), (7,)).data)
        if hasattr(p, "entropy"):
            assert np.array_equal(p.entropy().data, same.entropy().data)
            assert D.kl_divergence(p, same).data.max() == 0
    single = np.ones(3, np.float32)
    for p in (D.Normal(0, single), D.Normal(single, 1), D.Normal(whole, single), D.DiscretizedNormal(whole, single, 5)):
        assert p.log_prob(whole).dtype == np.float32
    assert D.Categorical(np.zeros((0, 3))).entropy().shape == (0,)
    for none in (0.5, np.zeros((2, 0)), np.zeros((2, 3, 0))):
        with pytest.raises(ValueError, match=r"^Categorical: logits must have an axis of classes, got shape"):
            D.Categorical(none)


class Zeros:
    """A generator whose every uniform draw is 0, as one in 2²⁴ is."""

    def uniform(self, size: Any, dtype: Any) -> np.ndarray:
        return np.zeros(size, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_has_no_probability_is_never_drawn(dtype: Any) -> None:
    """u ~ U[0, 1) can be 0: also then a class of probability 0 is not drawn, and a level is finite."""
    never = np.array(-2000.0, dtype)
    assert D.Bernoulli(never).sample(Zeros()).item() == 0
    assert D.Bernoulli(-never).sample(Zeros()).item() == 1
    assert D.Categorical(np.array([never, never, 0.0, 0.0])).sample(Zeros()).item() == 2
    assert D.DiscretizedLogistic(np.zeros(2, dtype), 0.0, 5).sample(Zeros()).data.tolist() == [0, 0]


def test_many_levels_are_not_cut_to_bytes() -> None:
    """Up to 256 levels fit uint8; the 257th does not."""
    assert D.unscale_levels(np.ones(1), 256).dtype == np.uint8
    for count in (257, 300):
        assert D.unscale_levels(np.ones(1), count).tolist() == [count - 1]


def test_log1mexp_has_a_slope_everywhere() -> None:
    """d/dx log(1 − e⁻ˣ) = 1 / (eˣ − 1), for the smallest x and for large: no branch spoils the other's gradient."""
    x = leaf(np.array([1e-300, 1e-20, 0.5, 0.8, 30.0, 700.0]))
    slope = ng.grad(D.log1mexp(x).sum(), [x])[0].data
    np.testing.assert_allclose(slope, 1 / np.expm1(x.data), rtol=1e-12)
