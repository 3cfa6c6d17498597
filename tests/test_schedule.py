"""The forward process of diffusion, from one-step kernels and Bayes' rule up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from nanogen.models.diffusion.schedule import SCHEDULES, NoiseSchedule

STEPS = st.one_of(st.integers(2, 12), st.integers(2, 1500))
KINDS = st.sampled_from(sorted(SCHEDULES))


def rows(seed: int, n: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean images, noisy images, noise."""
    x0, x_t, noise = np.random.default_rng(seed).standard_normal((3, n, 2, 3, 1))
    return x0, x_t, noise


@given(kind=KINDS, T=STEPS)
def test_tables(kind: str, T: int) -> None:
    """β_t in (0, 1), ᾱ_t = Π α_s falling from ᾱ_0 = 1 to nearly nothing, β̃_1 = 0 and 0 < β̃_t < β_t after it, all
    indexed by t = 0 … T.  Ho et al. 2020, section 2 and eq. 4 and 7."""
    s = SCHEDULES[kind](T)
    assert s.T == T
    assert {len(table) for table in (s.betas, s.alphas, s.alpha_bars, s.posterior_variances)} == {T + 1}
    assert s.betas[0] == 0
    assert ((s.betas[1:] > 0) & (s.betas[1:] < 1)).all()
    assert s.alpha_bars[0] == 1
    assert (np.diff(s.alpha_bars) < 0).all()
    assert 0 < s.alpha_bars[-1] < 5e-3
    product = 1.0
    for t in range(1, T + 1):
        product *= 1 - s.betas[t]
        assert s.alpha_bars[t] == pytest.approx(product, rel=1e-12)
    assert s.posterior_variances[1] == 0
    assert (s.posterior_variances[2:] > 0).all()
    assert (s.posterior_variances[2:] < s.betas[2:]).all()


def test_known_schedules() -> None:
    """The papers' numbers.  linear: 10⁻⁴ … 0.02 in 1000 steps, Ho et al. 2020, section 4; its ᾱ_T is 4.04e-5, where
    β_T = 0.01 would leave 6e-3.  cosine: Nichol & Dhariwal 2021, eq. 17, half of the signal gone half way."""
    linear = NoiseSchedule.linear(1000)
    assert np.array_equal(linear.betas[1:], np.linspace(1e-4, 0.02, 1000))
    assert linear.alpha_bars[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    quadratic, sigmoid = NoiseSchedule.quadratic(1000), NoiseSchedule.sigmoid(1000)
    np.testing.assert_allclose(np.diff(quadratic.betas[1:] ** 0.5), (0.02**0.5 - 0.01) / 999, rtol=1e-9)
    share = (sigmoid.betas[1:] - 1e-4) / (0.02 - 1e-4)
    np.testing.assert_allclose(np.log(share / (1 - share)), np.linspace(-6, 6, 1000), atol=1e-6)
    for s in (linear, quadratic, sigmoid):
        assert s.betas[1] == pytest.approx(1e-4, rel=0.6)
        assert s.betas[-1] == pytest.approx(0.02, rel=0.01)
    cosine, f = NoiseSchedule.cosine(400), lambda t: math.cos((t / 400 + 0.008) / 1.008 * math.pi / 2) ** 2
    for t in range(400):
        assert cosine.alpha_bars[t] == pytest.approx(f(t) / f(0), rel=1e-9)
    assert cosine.betas[-1] == 0.999


@given(kind=st.sampled_from(["linear", "quadratic", "sigmoid"]), T=STEPS, first=st.floats(1e-5, 0.3))
def test_given_ends(kind: str, T: int, first: float) -> None:
    """beta_first and beta_last are taken as they are given."""
    s = getattr(NoiseSchedule, kind)(T, first, 0.5)
    at = 1e-9 if kind != "sigmoid" else 0.0025 * (0.5 - first) + 1e-9  # a sigmoid from −6 to 6 does not reach its ends
    assert s.betas[1] == pytest.approx(first, abs=at)
    assert s.betas[-1] == pytest.approx(0.5, abs=at)


@given(kind=KINDS, T=st.integers(2, 40), data=st.data())
def test_marginal_is_the_steps_composed(kind: str, T: int, data: st.DataObject) -> None:
    """q(x_t | x_0) is what t kernels q(x_s | x_{s−1}) = N(√(1 − β_s) x_{s−1}, β_s) make of x_0: means are multiplied
    through, variances multiplied by 1 − β and added.  Ho et al. 2020, eq. 2 and 4."""
    s = SCHEDULES[kind](T)
    t = data.draw(st.integers(0, T))
    mean, variance = 1.7, 0.0
    for i in range(1, t + 1):
        mean, variance = math.sqrt(1 - s.betas[i]) * mean, (1 - s.betas[i]) * variance + s.betas[i]
    x0 = np.full((1, 1), 1.7)
    at_mean = s.q_sample(x0, np.array([t]), np.zeros((1, 1)))
    assert at_mean.item() == pytest.approx(mean, rel=1e-10)
    spread = s.q_sample(x0, np.array([t]), np.ones((1, 1))) - at_mean
    assert spread.item() == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-12)


def log_normal(x: Any, mean: Any, variance: Any) -> Any:
    return -0.5 * (x - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)


@given(kind=KINDS, T=st.integers(2, 40), data=st.data())
def test_posterior_is_bayes_rule(kind: str, T: int, data: st.DataObject) -> None:
    """q(x_{t−1} | x_t, x_0) = q(x_t | x_{t−1}) q(x_{t−1} | x_0) / q(x_t | x_0): the densities on both sides agree
    wherever x_{t−1} is.  Ho et al. 2020, eq. 6 and 7; at t = 1 the posterior is the point x_0."""
    s = SCHEDULES[kind](T)
    t = data.draw(st.integers(2, T))
    x0, x_t, u = (data.draw(st.floats(-2, 2)) for _ in range(3))
    mean, variance = (float(a[0]) for a in s.q_posterior(np.array([x0]), np.array([x_t]), np.array([t])))
    assert variance == pytest.approx(s.posterior_variances[t])
    x = mean + u * math.sqrt(variance)
    bars = [math.prod(1 - b for b in s.betas[1 : i + 1]) for i in range(T + 1)]
    bayes = (
        log_normal(x_t, math.sqrt(1 - s.betas[t]) * x, s.betas[t])
        + log_normal(x, math.sqrt(bars[t - 1]) * x0, 1 - bars[t - 1])
        - log_normal(x_t, math.sqrt(bars[t]) * x0, 1 - bars[t])
    )
    assert log_normal(x, mean, variance) == pytest.approx(bayes, rel=1e-6, abs=1e-6)
    first = s.q_posterior(np.array([x0]), np.array([x_t]), np.array([1]))
    assert float(first[0][0]) == pytest.approx(x0, rel=1e-12, abs=1e-12)
    assert first[1][0] == 0


@given(kind=KINDS, T=st.integers(2, 60), seed=st.integers(0, 999), data=st.data())
def test_three_parameterisations(kind: str, T: int, seed: int, data: st.DataObject) -> None:
    """Mean, clean image and noise say the same: there and back is the identity, and around the corner as far as
    straight on.  Ho et al. 2020, eq. 4, 7 and 11: the noise's weight in the mean is β_t/√(1 − ᾱ_t), over √α_t."""
    s = SCHEDULES[kind](T)
    t = np.array([data.draw(st.integers(1, T)) for _ in range(4)])
    x0, _, noise = rows(seed)
    x_t = s.q_sample(x0, t, noise)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    same(s.x0_from_noise(x_t, t, noise), x0)
    same(s.noise_from_x0(x_t, t, x0), noise)
    mean = s.mean_from_x0(x_t, t, x0)
    same(mean, s.mean_from_noise(x_t, t, noise))
    same(s.x0_from_mean(x_t, t, mean), x0)
    same(s.noise_from_mean(x_t, t, mean), noise)
    for i, time in enumerate(t):
        alpha, bar = s.alphas[time], s.alpha_bars[time]
        by_hand = (x_t[i] - (1 - alpha) / math.sqrt(1 - bar) * noise[i]) / math.sqrt(alpha)
        np.testing.assert_allclose(s.mean_from_noise(x_t, t, noise)[i], by_hand, rtol=1e-9, atol=1e-9)


def test_posterior_mean_is_the_regression_of_the_step_before() -> None:
    """E[x_{t−1} | x_t, x_0] and its variance, by simulating the chain and regressing: no formula is used.

    200,000 chains: six standard errors of each coefficient."""
    s, rng, n = NoiseSchedule([0.2, 0.5, 0.3]), np.random.default_rng(0), 200_000
    x0 = rng.standard_normal(n)
    before = after = x0
    for t in (1, 2, 3):
        before, after = after, math.sqrt(1 - s.betas[t]) * after + math.sqrt(s.betas[t]) * rng.standard_normal(n)
    (a, b), residual, _, _ = np.linalg.lstsq(np.stack([x0, after], 1), before)
    unit = lambda x0, x_t: float(s.q_posterior(np.array([x0]), np.array([x_t]), np.array([3]))[0][0])
    assert a == pytest.approx(unit(1.0, 0.0), abs=6 / n**0.5)
    assert b == pytest.approx(unit(0.0, 1.0), abs=6 / n**0.5)
    assert residual[0] / n == pytest.approx(s.posterior_variances[3], rel=6 * (2 / n) ** 0.5)


@given(kind=KINDS, T=st.integers(2, 200), data=st.data())
def test_respacing_keeps_the_signal(kind: str, T: int, data: st.DataObject) -> None:
    """A schedule over some of the times has their ᾱ_t: β′ = 1 − ᾱ_t / ᾱ_{previous}.  Nichol & Dhariwal 2021, eq. 19.

    To within rounding: a β′ of nearly 1 is a multiple of 2⁻⁵³, so α′ = 1 − β′ is off by 2⁻⁵³ / α′, and these add up."""
    s = SCHEDULES[kind](T)
    times = sorted(data.draw(st.sets(st.integers(1, T), min_size=2, max_size=20)))
    fewer = s.respaced(times)
    assert len(times) == fewer.T
    off = 1e-11 + np.cumsum(2.0**-53 / fewer.alphas[1:])
    np.testing.assert_array_less(abs(fewer.alpha_bars[1:] / s.alpha_bars[times] - 1), off)
    np.testing.assert_allclose(s.respaced(range(1, T + 1)).betas, s.betas, rtol=1e-9, atol=1e-12)


FOREIGN = [(0, 5), (5, 11), (5, 5), (7, 3), (-1, 5), (), (5,), 5, (2.0, 5.0), (2.5, 5.0), [[1, 2]], (True, True), "12"]


@pytest.mark.parametrize("times", [*FOREIGN, np.array([9, 2], np.uint8), np.array([3, 3], np.uint64)])
def test_foreign_times_are_refused(times: Any) -> None:
    """Times outside 1 … T, that do not rise, that are no integers or fewer than two have no schedule: β′ would be 0,
    negative, or that of another time."""
    with pytest.raises(ValueError, match=r"^times must be at least 2 rising integers in 1 … 10, got"):
        NoiseSchedule.linear(10).respaced(times)
    for kept in (range(2, 11, 4), (2, 6, 10), np.array([2, 6, 10], np.uint8), np.array([2, 6, 10], np.uint64)):
        assert NoiseSchedule.linear(10).respaced(kept).T == 3


@pytest.mark.parametrize(("s", "t"), [(5, 4), (-1, 4), (4, 11), (np.array([1, 5]), np.array([2, 4]))])
def test_the_variance_between_foreign_times_is_refused(s: Any, t: Any) -> None:
    """1 − ᾱ_t / ᾱ_s is a variance for 0 ≤ s ≤ t ≤ T alone; an index below 0 would wrap round."""
    with pytest.raises(ValueError, match="s and t must be 0 ≤ s ≤ t ≤ 10, got"):
        NoiseSchedule.linear(10).q_variance(s, t)


MAPS = {
    "q_sample": lambda s, a, b, t: s.q_sample(a, t, b),
    "q_posterior": lambda s, a, b, t: s.q_posterior(a, b, t)[0],
    "mean_from_x0": lambda s, a, b, t: s.mean_from_x0(a, t, b),
    "x0_from_mean": lambda s, a, b, t: s.x0_from_mean(a, t, b),
    "x0_from_noise": lambda s, a, b, t: s.x0_from_noise(a, t, b),
    "noise_from_x0": lambda s, a, b, t: s.noise_from_x0(a, t, b),
    "mean_from_noise": lambda s, a, b, t: s.mean_from_noise(a, t, b),
    "noise_from_mean": lambda s, a, b, t: s.noise_from_mean(a, t, b),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MAPS)
def test_arrays_in_arrays_out(name: str, dtype: Any) -> None:
    """Arrays give arrays, tensors tensors, of the type that went in; each image goes by its own time, be the times an
    array, a tensor or one number for all."""
    s, f = NoiseSchedule.linear(10), MAPS[name]
    a, b = (x.astype(dtype) for x in rows(0)[:2])
    t = np.array([1, 10, 4, 7])
    out = f(s, a, b, t)
    assert not isinstance(out, ng.Tensor | np.generic)
    assert out.dtype == dtype
    assert out.shape == a.shape
    tensor = f(s, ng.tensor(a, requires_grad=True), ng.tensor(b), ng.tensor(t))
    assert isinstance(tensor, ng.Tensor)
    assert tensor.requires_grad
    assert tensor.dtype == dtype
    np.testing.assert_allclose(tensor.data, out, rtol=1e-6)
    for i in range(4):
        np.testing.assert_allclose(f(s, a[i : i + 1], b[i : i + 1], t[i : i + 1])[0], out[i], rtol=1e-6)
        np.testing.assert_allclose(f(s, a, b, int(t[i]))[i], out[i], rtol=1e-6)


def test_posterior_variance_is_one_number_an_image() -> None:
    """The variance broadcasts against the images: (N, 1, 1, 1), whatever H and W, also if they equal N."""
    s, x = NoiseSchedule.cosine(9), np.zeros((3, 3, 3, 3))
    _, variance = s.q_posterior(x, x, np.array([1, 5, 9]))
    assert variance.shape == (3, 1, 1, 1)
    assert variance.ravel().tolist() == s.posterior_variances[[1, 5, 9]].tolist()


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
@pytest.mark.parametrize("T", [1, 0, -3, 2.5, True, "9"])
def test_bad_T(kind: str, T: Any) -> None:
    """A number of steps below 2, or no integer, is refused by name."""
    with pytest.raises(ValueError, match="T must"):
        SCHEDULES[kind](T)


@pytest.mark.parametrize("betas", [[0.5], [], [0.0, 0.5], [0.5, 1.0], [-0.1, 0.5], [0.1, math.nan], [[0.1, 0.2]]])
def test_bad_betas(betas: Any) -> None:
    """A β outside (0, 1), or too few of them, is refused by name."""
    with pytest.raises(ValueError, match="beta"):
        NoiseSchedule(betas)


@pytest.mark.parametrize("t", [[-1], [11], [3, 11], -1])
def test_bad_times(t: Any) -> None:
    """A time outside 0 … T is refused: negative indices would wrap around."""
    x = np.zeros((np.size(t), 1))
    with pytest.raises(ValueError, match="t must"):
        NoiseSchedule.linear(10).q_sample(x, np.array(t), x)


def test_one_time_and_integer_images() -> None:
    """One t gives one number, of no axes; integer images are scaled in float64, not cut to integers."""
    schedule = NoiseSchedule.linear(10)
    x0 = np.arange(6).reshape(3, 1, 1, 2)
    assert schedule.at(schedule.alphas, 4, x0).shape == ()
    assert schedule.at(schedule.alphas, np.array([4, 5, 6]), x0).shape == (3, 1, 1, 1)
    x_t = schedule.q_sample(x0, 4, np.zeros(x0.shape))
    assert x_t.dtype == np.float64
    np.testing.assert_allclose(x_t, schedule.alpha_bars[4] ** 0.5 * x0)


def test_tables_are_float64() -> None:
    """Whatever the numbers come as: shorter, longer, or text from a settings file."""
    for betas in (np.array([0.25, 0.5], np.float32), np.array([0.25, 0.5], np.longdouble), ["0.25", "0.5"]):
        s = NoiseSchedule(betas)
        assert s.betas.dtype == s.alphas.dtype == s.alpha_bars.dtype == s.posterior_variances.dtype == np.float64
        assert s.betas.tolist() == [0, 0.25, 0.5]


def test_a_table_comes_as_what_it_is_for() -> None:
    """A tensor beside a tensor, whose times may be a tensor too, and an array beside an array."""
    s, t = NoiseSchedule.linear(10), np.array([1, 10])
    x = ng.tensor(np.ones((2, 3)), requires_grad=True)
    for times in (t, ng.tensor(t)):
        row = s.at(s.betas, times, x)
        assert isinstance(row, ng.Tensor)
        assert not row.requires_grad
        assert np.array_equal(row.data, s.betas[[1, 10]][:, None])
        assert not isinstance(s.at(s.betas, times, x.data), ng.Tensor)


def test_at_time_0_nothing_has_happened() -> None:
    """q_sample gives x_0 back, and the step that is none moves nothing: ᾱ_0 = 1, β_0 = 0."""
    schedule, x, noise = NoiseSchedule.cosine(10), np.linspace(-1, 1, 5), np.ones(5)
    np.testing.assert_array_equal(schedule.q_sample(x, 0, noise), x)
    np.testing.assert_array_equal(schedule.mean_from_noise(x, 0, noise), x)
    np.testing.assert_array_equal(schedule.mean_from_x0(x, 0, noise), 0 * x)
