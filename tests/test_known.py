"""Sources whose truth is known: they against sums and integrals, and then our diffusion against them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen.data.known import GaussianMixture, Ising, LinearGaussian
from nanogen.models import DDPM, NoiseSchedule

FLOOR = 1e-6  # of a p-value; seeds are fixed, so a test that passes passes always
ERRORS = 6  # standard errors: a chance of 2e-9

THREE = GaussianMixture([1.0, 2.0, 1.0], [[-0.6, 0.2], [0.1, -0.5], [0.5, 0.6]], [0.12, 0.2, 0.08])


@st.composite
def mixtures(draw: Any, dimensions: int) -> GaussianMixture:
    rng, k = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), draw(st.integers(1, 4))
    return GaussianMixture(rng.uniform(0.2, 3, k), rng.uniform(-2, 2, (k, dimensions)), rng.uniform(0.2, 1.5, k))


def grid(dimensions: int, points: int, reach: float = 14.0) -> tuple[np.ndarray, float]:
    """Points of [−reach, reach]^D, and the volume that each stands for."""
    axis = np.linspace(-reach, reach, points)
    return np.array(list(itertools.product(axis, repeat=dimensions))), (axis[1] - axis[0]) ** dimensions


# Gaussian mixtures


@pytest.mark.parametrize(("dimensions", "points"), [(1, 2001), (2, 281)])
@given(data=st.data())
def test_mixture_integrates_to_one(dimensions: int, points: int, data: st.DataObject) -> None:
    """∫ p(x) dx = 1, by the trapezoidal rule, which converges exponentially here."""
    x, cell = grid(dimensions, points)
    assert np.exp(data.draw(mixtures(dimensions)).log_prob(x)).sum() * cell == pytest.approx(1, abs=1e-9)


@given(source=mixtures(3), seed=st.integers(0, 999))
def test_score_is_the_slope_of_the_log_density(source: GaussianMixture, seed: int) -> None:
    """∇ log p(x), by central differences along each axis."""
    x, step = 2 * np.random.default_rng(seed).standard_normal((5, 3)), 1e-5
    slopes = [(source.log_prob(x + step * e) - source.log_prob(x - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(source.score(x), np.stack(slopes, axis=1), rtol=1e-6, atol=1e-6)


@given(source=mixtures(1), alpha_bar=st.floats(0.02, 0.98), x_t=st.floats(-4, 4))
def test_diffused_mixture_is_a_convolution(source: GaussianMixture, alpha_bar: float, x_t: float) -> None:
    """p_t(x_t) = ∫ p(x_0) N(x_t; √ᾱ x_0, 1 − ᾱ) dx_0, and E[x_0 | x_t], E[ε | x_t] are its means by Bayes' rule:
    Tweedie's formula (Efron 2011) and the best noise prediction (Vincent 2011)."""
    x0, cell = grid(1, 6001)
    joint = np.exp(source.log_prob(x0) + stats.norm.logpdf(x_t, alpha_bar**0.5 * x0[:, 0], (1 - alpha_bar) ** 0.5))
    at = np.array([[x_t]])
    assert math.exp(source.diffused(alpha_bar).log_prob(at)[0]) == pytest.approx(joint.sum() * cell, rel=1e-9)
    mean = (joint @ x0[:, 0]) / joint.sum()
    assert source.expected_x0(at, alpha_bar).item() == pytest.approx(mean, rel=1e-8, abs=1e-8)
    noise = (x_t - alpha_bar**0.5 * mean) / (1 - alpha_bar) ** 0.5
    assert source.expected_noise(at, alpha_bar).item() == pytest.approx(noise, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("alpha_bar", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("source", [THREE, GaussianMixture([1, 3], [[-0.5], [0.8]], [0.0, 0.3])], ids=["2-D", "1-D"])
def test_best_loss_is_that_of_the_best_prediction(source: GaussianMixture, alpha_bar: float) -> None:
    """1 − (1 − ᾱ) E‖∇ log p_t‖²/D is the mean of (ε − E[ε|x_t])² over 200,000 draws, within six standard errors,
    which are below 1 % of it; a prediction that is wrong by 5 % is told from it."""
    n, rng = 200_000, ng.Generator(1)
    x0, noise = source.sample(n, rng), rng.normal((n, source.dimensions), np.float64)
    predicted = source.expected_noise(alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise, alpha_bar)
    losses = ((noise - predicted) ** 2).mean(axis=1)
    error = losses.std() / n**0.5
    best = source.best_loss(alpha_bar)
    assert error < 0.01 * best
    assert losses.mean() == pytest.approx(best, abs=ERRORS * error)
    gain = ((noise - 1.05 * predicted) ** 2).mean(axis=1) - losses
    assert gain.mean() > ERRORS * gain.std() / n**0.5


def along(source: GaussianMixture, direction: np.ndarray) -> Callable[[Any], Any]:
    """The cumulative distribution of ⟨x, direction⟩, a unit vector: a mixture of one dimension."""
    return lambda u: stats.norm.cdf((np.asarray(u)[:, None] - source.means @ direction) / source.stds) @ source.weights


DIRECTIONS = [np.array(d) for d in ((1.0, 0.0), (0.0, 1.0), (0.6, 0.8), (0.8, -0.6))]


def gap(x: np.ndarray, source: GaussianMixture) -> float:
    """The largest Kolmogorov–Smirnov distance over some directions."""
    return max(stats.kstest(x @ d, along(source, d)).statistic for d in DIRECTIONS)


N = 12_000
GAP = 0.025  # the chance that a source 0.05 away stays below it, or the right one above it: 2 exp(−2 N GAP²) = 6e-7


def test_mixture_samples() -> None:
    """Kolmogorov–Smirnov in four directions; other weights, and the spread of another component, are refused."""
    x = THREE.sample(N, ng.Generator(2))
    assert gap(x, THREE) < GAP
    for wrong in (
        GaussianMixture([1, 1, 1], THREE.means, THREE.stds),
        GaussianMixture([1, 2, 1], THREE.means, THREE.stds[::-1]),
        GaussianMixture([1, 2, 1], THREE.means, THREE.stds**2),
    ):
        assert gap(x, wrong) > GAP


# Probabilistic PCA


def linear(seed: int, orthogonal: bool = False) -> LinearGaussian:
    rng = np.random.default_rng(seed)
    weight = np.linalg.qr(rng.standard_normal((4, 2)))[0] * [2.0, 0.7]
    if not orthogonal:
        weight = weight @ [[1.0, 0.6], [0.0, 1.0]]
    return LinearGaussian(weight, rng.standard_normal(4), rng.uniform(0.3, 1.2))


def log_normal(x: np.ndarray, std: float = 1.0) -> np.ndarray:
    """log N(x; 0, std² I): (…, D) to (…)."""
    return stats.norm.logpdf(x, 0, std).sum(-1)


@given(seed=st.integers(0, 999))
def test_linear_gaussian_density_and_posterior(seed: int) -> None:
    """p(x) = ∫ p(x|z) p(z) dz by quadrature; p(z|x) = p(x|z) p(z) / p(x) at any z (Tipping & Bishop 1999, eq. 12); the
    entropy is SciPy's."""
    source = linear(seed)
    x = source.sample(3, ng.Generator(seed))
    z, cell = grid(2, 161, reach=8.0)
    joint = log_normal(x[:, None] - source.mean - z @ source.weight.T, source.std) + log_normal(z)
    np.testing.assert_allclose(special.logsumexp(joint, axis=1) + math.log(cell), source.log_prob(x), rtol=1e-8)
    means, covariance = source.posterior(x)
    for i, mean in enumerate(means):
        posterior = stats.multivariate_normal(mean, covariance).logpdf(z)
        np.testing.assert_allclose(posterior, joint[i] - source.log_prob(x)[i], rtol=1e-7, atol=1e-7)
    expected = stats.multivariate_normal(source.mean, source.covariance).entropy()
    assert source.entropy() == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 999), stretch=st.floats(0.3, 2.5))
def test_log_likelihood_is_the_elbo_plus_the_divergence_from_the_posterior(seed: int, stretch: float) -> None:
    """log p(x) = elbo(x; q) + KL(q(z|x) ‖ p(z|x)) for any diagonal q, by the general formula of two normals' KL.

    Kingma & Welling 2014, eq. 1."""
    source, rng = linear(seed), np.random.default_rng(seed)
    x = source.sample(3, ng.Generator(seed))
    means, covariance = source.posterior(x)
    q_mean, q_std = means + 0.5 * rng.standard_normal((3, 2)), stretch * rng.uniform(0.3, 1, (3, 2))
    precision = np.linalg.inv(covariance)
    moved = q_mean - means
    kl = 0.5 * (
        (q_std**2 @ np.diag(precision))
        + np.einsum("ni,ij,nj->n", moved, precision, moved)
        - 2
        + np.linalg.slogdet(covariance)[1]
        - 2 * np.log(q_std).sum(1)
    )
    assert (kl > 0).all()
    np.testing.assert_allclose(source.elbo(x, q_mean, q_std) + kl, source.log_prob(x), rtol=1e-10)


@given(seed=st.integers(0, 999))
def test_elbo_is_tight_where_the_posterior_is_diagonal(seed: int) -> None:
    """With orthogonal columns of W a diagonal q is the posterior and elbo = log p; with others the best diagonal q
    (its variances the inverse of the precision's diagonal) falls short by ½ log Π Λ_ii / det Λ."""
    source = linear(seed, orthogonal=True)
    x = source.sample(3, ng.Generator(seed))
    means, covariance = source.posterior(x)
    spread = np.broadcast_to(np.diag(covariance) ** 0.5, means.shape)
    np.testing.assert_allclose(source.elbo(x, means, spread), source.log_prob(x), rtol=1e-11)
    other = linear(seed)
    means, covariance = other.posterior(x)
    precision = np.linalg.inv(covariance)
    best = other.elbo(x, means, np.broadcast_to(np.diag(precision) ** -0.5, means.shape))
    short = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    assert short > 1e-3
    np.testing.assert_allclose(other.log_prob(x) - best, short, rtol=1e-8)


def test_linear_gaussian_samples() -> None:
    """(x − m)ᵀ C⁻¹ (x − m) follows χ² of D degrees and every whitened number N(0, 1), by Kolmogorov–Smirnov; noise of
    the variance s in place of s² is refused."""
    source = linear(3)
    x = source.sample(N, ng.Generator(3))

    def p_value(covariance: np.ndarray) -> float:
        white = np.linalg.solve(np.linalg.cholesky(covariance), (x - source.mean).T)
        distances = stats.kstest((white**2).sum(0), stats.chi2(4).cdf).pvalue
        return min(distances, *(stats.kstest(row, "norm").pvalue for row in white))

    wrong = source.weight @ source.weight.T + source.std * np.eye(4)
    assert p_value(source.covariance) > FLOOR > p_value(wrong)


# Ising fields

FIELDS = [(1, 1, 0.7, 0.3), (1, 4, -0.5, 0.2), (4, 1, 0.6, -0.4), (3, 2, 0.4, 0.0), (2, 3, -0.8, 0.5), (3, 4, 0.4, 0.1)]


@pytest.mark.parametrize("settings", FIELDS)
def test_ising_against_enumeration(settings: tuple[int, int, float, float]) -> None:
    """Σ p(x) = 1, the exponent in loops, and H = −Σ p log p, over every image there is."""
    field = Ising(*settings)
    height, width, coupling, outer = settings
    images = field.all_images()
    assert len({image.tobytes() for image in images}) == 2 ** (height * width)
    log_p = field.log_prob(images)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    assert field.entropy() == pytest.approx(-(np.exp(log_p) * log_p).sum(), rel=1e-12)
    for image, weight in zip(images[::7], field.log_weight(images[::7]), strict=True):
        s = 2.0 * image[0] - 1
        expected = outer * s.sum()
        for i, j in np.ndindex(height, width):
            expected += coupling * (s[i, j] * s[i + 1, j] if i + 1 < height else 0)
            expected += coupling * (s[i, j] * s[i, j + 1] if j + 1 < width else 0)
        assert weight == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_ising_chain_in_closed_form() -> None:
    """Z = 2 (2 cosh J)^(n − 1) for a chain without a field (Ising 1925), lying or standing, too long to enumerate."""
    for coupling, n in ((0.5, 12), (-1.3, 9)):
        expected = math.log(2) + (n - 1) * math.log(2 * math.cosh(coupling))
        assert Ising(1, n, coupling).log_partition == pytest.approx(expected, rel=1e-12)
        assert Ising(n, 1, coupling).log_partition == pytest.approx(expected, rel=1e-12)
    assert Ising(40, 1, 0.5).entropy() == pytest.approx(
        math.log(2) + 39 * (math.log(2 * math.cosh(0.5)) - 0.5 * math.tanh(0.5)), rel=1e-12
    )


def test_ising_samples() -> None:
    """χ² of 20,000 exact draws over all 64 images; another coupling, and the field's sign, are refused."""
    field = Ising(3, 2, 0.4, 0.1)
    x = field.sample(N, ng.Generator(4))
    assert x.shape == (N, 1, 3, 2)
    assert x.dtype == np.uint8
    counts = np.bincount(x.reshape(N, 6) @ (2 ** np.arange(6)[::-1]), minlength=64)
    test = lambda p: stats.chisquare(counts, N * np.exp(p.log_prob(p.all_images()))).pvalue
    assert test(field) > FLOOR > max(test(Ising(3, 2, 0.36, 0.1)), test(Ising(3, 2, 0.4, -0.1)))


MISTAKES: dict[str, Callable[[], Any]] = {
    "equally many": lambda: GaussianMixture([1.0], [[0.0], [1.0]], [1.0]),
    "weights must be positive": lambda: GaussianMixture([0.0], [[0.0]], [1.0]),
    "stds not negative": lambda: GaussianMixture([1.0], [[0.0]], [-1.0]),
    "means must be finite": lambda: GaussianMixture([1.0], [0.0], [1.0]),
    "weight must be finite": lambda: LinearGaussian([[math.nan]], [0.0], 1.0),
    "mean must have shape": lambda: LinearGaussian([[1.0]], [0.0, 0.0], 1.0),
    "std must be positive": lambda: LinearGaussian([[1.0]], [0.0], 0.0),
    "height must be": lambda: Ising(0, 3, 1.0),
    "width in 1": lambda: Ising(3, 13, 1.0),
    "too many": lambda: Ising(5, 5, 1.0).all_images(),
}


@pytest.mark.parametrize("word", MISTAKES)
def test_bad_settings(word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        MISTAKES[word]()


# Diffusion with the best prediction there is


class Oracle(DDPM):
    """A DDPM whose network is E[ε | x_t] of a known source: schedule, loss, samplers and bound are the real ones.

    `wrong`, if given, spoils the prediction: (ε, ᾱ_t) to another ε."""

    def __init__(self, source: GaussianMixture, wrong: Callable[..., Any] | None = None, levels: int = 256, **how: Any):
        super().__init__((1, 1, source.dimensions), levels, channels=4, heads=1, multipliers=(1,), **how)
        self.to(np.float64)
        self.source, self.wrong = source, wrong

    def predict(self, x_t: ng.Tensor, t: Any, rng: ng.Generator | None = None) -> ng.Tensor:
        noise = np.empty_like(x_t.data)
        for time in np.unique(t):
            here, alpha_bar = np.asarray(t) == time, float(self.schedule.alpha_bars[time])
            noise[here, 0, 0] = self.source.expected_noise(x_t.data[here, 0, 0], alpha_bar)
        return ng.tensor(noise if self.wrong is None else self.wrong(noise))


def last(trajectory: Iterator[tuple[int, ng.Tensor]]) -> np.ndarray:
    *_, (t, x) = trajectory
    assert t == 0
    return x.data[:, 0, 0]


class SquaredVariances(Oracle):
    """A sampler that takes the variance for the standard deviation."""

    @property
    def reverse_variances(self) -> np.ndarray:
        return super().reverse_variances ** 2


class TwiceTheVariances(Oracle):
    """A sampler with √2 too much noise."""

    @property
    def reverse_variances(self) -> np.ndarray:
        return 2 * super().reverse_variances


SAMPLERS: dict[str, tuple[dict[str, Any], Callable[[DDPM], Any]]] = {
    "ancestral, beta": ({"T": 200, "variance": "beta"}, lambda m: m.ancestral(N, ng.Generator(5))),
    "ancestral, posterior": ({"T": 200, "variance": "posterior"}, lambda m: m.ancestral(N, ng.Generator(5))),
    "DDIM": ({"T": 1000}, lambda m: m.ddim(N, ng.Generator(5), 100)),
    "DDIM, half the noise": ({"T": 1000}, lambda m: m.ddim(N, ng.Generator(5), 100, 0.5)),
    "DDIM, all the noise": ({"T": 1000}, lambda m: m.ddim(N, ng.Generator(5), 200, 1.0)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_with_the_best_prediction_return_the_data(name: str) -> None:
    """E[ε|x_t] of a mixture, run through each sampler, gives the mixture back: the Kolmogorov–Smirnov distance in four
    directions is below 0.025 (N and GAP above say what that tells).  Ho et al. 2020, algorithm 2; Song et al. 2021,
    eq. 12; that the score is all it takes is Anderson 1982."""
    settings, run = SAMPLERS[name]
    assert gap(last(run(Oracle(THREE, schedule="cosine", **settings))), THREE) < GAP


OTHER = GaussianMixture([1, 1, 1], THREE.means, THREE.stds)
WRONG: dict[str, tuple[str, Callable[..., Oracle]]] = {
    "variance for standard deviation": ("ancestral, beta", lambda **how: SquaredVariances(THREE, **how)),
    "twice the variance": ("ancestral, beta", lambda **how: TwiceTheVariances(THREE, **how)),
    "a prediction 20 % short": ("ancestral, posterior", lambda **how: Oracle(THREE, lambda e: 0.8 * e, **how)),
    "a prediction 5 % long": ("DDIM", lambda **how: Oracle(THREE, lambda e: 1.05 * e, **how)),
    "another source's prediction": ("DDIM, half the noise", lambda **how: Oracle(OTHER, **how)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_sampler_does_not_return_the_data(name: str) -> None:
    """The test above refuses each of these: it would notice."""
    sampler, make = WRONG[name]
    settings, run = SAMPLERS[sampler]
    assert gap(last(run(make(schedule="cosine", **settings))), THREE) > GAP


@pytest.mark.parametrize("t", [1, 60, 200])
def test_training_at_the_best_prediction_costs_the_best_loss(t: int) -> None:
    """E‖ε − ε_θ(q_sample(x_0, t, ε), t)‖² with the best ε_θ is the source's least loss, within six standard errors.

    Images are levels: the source is one of points at two levels.  Ho et al. 2020, eq. 14."""
    model = two_levels(T=200)
    images = np.array([0, 3, 3], np.uint8)[np.arange(60_000) % 3][:, None, None, None]
    rng = ng.Generator(6)
    x0, noise = model.scaled(images), rng.normal((60_000, 1, 1, 1), np.float64)
    times = np.full(60_000, t)
    losses = ((model.predict_noise(model.schedule.q_sample(x0, times, noise), times).data - noise) ** 2).ravel()
    best = model.source.best_loss(float(model.schedule.alpha_bars[t]), points=20_001)
    assert losses.mean() == pytest.approx(best, abs=ERRORS * losses.std() / 60_000**0.5 + 1e-9)


def test_loss_is_the_mean_over_all_times() -> None:
    """E[loss] = 1/T Σ_{t=1..T} best loss at t, within six standard errors: t is uniform on 1 … T.  Were it drawn from
    0 … T − 1, the mean would be that far off.  Ho et al. 2020, algorithm 1."""
    model = two_levels(T=4, wrong=lambda e: 0.5 * e)  # so that t = 0 and t = T do not cost about the same
    images = np.array([0, 3, 3], np.uint8)[np.arange(3000) % 3][:, None, None, None]
    found = np.array([model.loss(images, ng.Generator(7).stream(i)).item() for i in range(60)])
    by_time = []
    for t in range(5):
        alpha_bar, x0 = float(model.schedule.alpha_bars[t]), model.scaled(images)
        noise = ng.Generator(8).normal(x0.shape, np.float64)
        x_t = model.schedule.q_sample(x0, t, noise)
        predicted = 0.0 if t == 0 else 0.5 * model.source.expected_noise(x_t.data[:, 0, 0], alpha_bar)
        by_time.append(((predicted - noise[:, 0, 0]) ** 2).mean())
    error = ERRORS * (found.std() / 60**0.5 + 0.02)
    assert found.mean() == pytest.approx(np.mean(by_time[1:]), abs=error)
    assert abs(found.mean() - np.mean(by_time[:-1])) > error


def two_levels(T: int, **how: Any) -> Oracle:
    """Images of one pixel of four levels: the first with probability ⅓, else the last."""
    return Oracle(GaussianMixture([1, 2], [[-1.0], [1.0]], [0.0, 0.0]), levels=4, T=T, **how)


def test_bound_at_the_best_prediction_is_nearly_the_entropy() -> None:
    """E[−elbo] ≥ H(x_0), by less than 0.05 nats where the prediction is the best, the variance β̃ (each x_0 is a point)
    and the steps small; a prediction that is 20 % off costs more, by more than six standard errors.

    Ho et al. 2020, eq. 5: all terms are there, and each is weighed as it should be."""
    n, entropy = 3000, math.log(3) - 2 / 3 * math.log(2)
    images = np.array([0, 3, 3], np.uint8)[np.arange(n) % 3][:, None, None, None]
    settings: dict[str, Any] = {"T": 300, "variance": "posterior", "schedule": "cosine"}
    best, worse = (
        -two_levels(wrong=wrong, **settings).elbo(images, ng.Generator(9)).data for wrong in (None, lambda e: 0.8 * e)
    )
    error = ERRORS * best.std() / n**0.5
    assert -error < best.mean() - entropy < 0.05 + error
    assert (worse - best).mean() > ERRORS * (worse - best).std() / n**0.5


@given(T=st.integers(2, 60), kind=st.sampled_from(["linear", "cosine", "quadratic", "sigmoid"]), mean=st.floats(-1, 1),
       std=st.floats(0.2, 1.5))  # fmt: skip
def test_bound_of_gaussian_data_is_short_by_the_priors_mismatch_alone(
    T: int, kind: str, mean: float, std: float
) -> None:
    """For x_0 ~ N(m, s²) the reverse kernel q(x_{t−1}|x_t) is normal: its mean is μ̃_t at E[x_0|x_t], its variance
    β̃_t + c² Var[x_0|x_t], c the weight of x_0 in μ̃_t.  With it the bound of Ho et al. 2020, eq. 5 is exact but for
    x_T:  L − H(x_0) = KL(q(x_T) ‖ N(0, 1)).  All in closed form, to 1e-12 of the terms' size."""
    schedule = getattr(NoiseSchedule, kind)(T)
    source = GaussianMixture([1.0], [[mean]], [std])

    noise = lambda t: float(schedule.q_variance(0, t))  # 1 − ᾱ_t
    marginal = lambda t: float(schedule.alpha_bars[t]) * std**2 + noise(t)  # Var x_t
    # L_T = E KL(N(√ᾱ x_0, 1 − ᾱ) ‖ N(0, 1)) over x_0
    terms = [0.5 * (noise(T) + float(schedule.alpha_bars[T]) * (std**2 + mean**2) - 1 - math.log(noise(T)))]
    for t in range(1, T + 1):
        alpha_bar, x = float(schedule.alpha_bars[t]), np.array([[-1.0], [2.0]])
        weight = float(schedule.mean_from_x0(np.zeros(1), t, np.ones(1))[0])
        own = float(schedule.posterior_variances[t])
        spread = weight**2 * std**2 * noise(t) / marginal(t)  # E (μ̃_t(x_t, x_0) − μ_p(x_t))² = c² Var[x_0|x_t]
        kernel = own + spread
        if t == 1:
            terms.append(0.5 * math.log(2 * math.pi * math.e * kernel))  # E[−log p(x_0|x_1)]
        else:
            terms.append(0.5 * ((own + spread) / kernel - 1 + math.log(kernel / own)))  # E KL of two normals
        # That this is the true kernel: it takes q(x_t) to q(x_{t−1}).
        x0 = source.expected_x0(x, alpha_bar)
        np.testing.assert_allclose(
            schedule.x0_from_noise(x, t, source.expected_noise(x, alpha_bar)), x0, rtol=1e-6, atol=1e-6
        )
        low, high = schedule.mean_from_x0(x, t, x0)[:, 0]
        slope = (high - low) / 3
        expected = schedule.sqrt_alpha_bars[t - 1] * mean
        assert low + slope * (schedule.sqrt_alpha_bars[t] * mean + 1) == pytest.approx(expected, abs=1e-9)
        assert slope**2 * marginal(t) + kernel == pytest.approx(marginal(t - 1), rel=1e-9)
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    mismatch = 0.5 * (marginal(T) + float(schedule.alpha_bars[T]) * mean**2 - 1 - math.log(marginal(T)))
    assert sum(terms) - entropy == pytest.approx(mismatch, abs=1e-12 * (1 + sum(map(abs, terms))))


def test_estimators_of_the_bound() -> None:
    """The full sum over t, T · L_t at one uniform t, and the mean of two such, one of each half of the times, agree in
    expectation within six standard errors; each is noisier than the one before it: one time costs the most."""
    model, n = two_levels(8, schedule="cosine", wrong=lambda e: 0.9 * e), 24_000
    images = np.full((n, 1, 1, 1), 3, np.uint8)
    full = model.bound_terms(images, ng.Generator(10)).data
    prior = full[:, -1]
    full, rng = full.sum(1), np.random.default_rng(11)

    def at(times: np.ndarray, seed: int) -> np.ndarray:
        out = np.empty(n)
        for t in range(8):
            here = times == t
            out[here] = model.bound_term(images[here], t, ng.Generator(seed).stream(t)).data
        return out

    one = 8 * at(rng.integers(0, 8, n), 12) + prior
    two = 4 * at(rng.integers(0, 4, n), 13) + 4 * at(rng.integers(4, 8, n), 14) + prior
    variances = [float(x.var()) for x in (full, two, one)]
    assert variances[0] < 0.5 * variances[1] < 0.9 * variances[2], variances
    for estimate in (one, two):
        error = math.hypot(estimate.std(), full.std()) / n**0.5
        assert estimate.mean() == pytest.approx(full.mean(), abs=ERRORS * error)
        assert abs(estimate.mean() - full.mean() * 7 / 8) > ERRORS * error, "a weight of T − 1 would show"


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_the_bound_is_the_trajectorys(variance: str) -> None:
    """L_T + Σ L_{t−1} + L_0 = E_q[−log p(x_T) − Σ_t log p_θ(x_{t−1}|x_t) / q(x_t|x_{t−1})]: the form with KLs and the
    one over whole trajectories have one expectation.  Sohl-Dickstein et al. 2015, eq. 10 to 14;
    Ho et al. 2020, eq. 3 and 5 and appendix A.

    40,000 trajectories: a term of the wrong factor, or t off by one, is many standard errors away."""
    levels, n = 3, 40_000
    model = DDPM((1, 1, 1), levels, T=4, schedule="cosine", variance=variance, channels=8, multipliers=(1,), heads=2)
    model = model.to(np.float64)
    model.predict = lambda x_t, t, rng=None: 0.6 * x_t + 0.05 * np.reshape(t, (-1, 1, 1, 1))
    images, rng, schedule = np.full((n, 1, 1, 1), 2, np.uint8), np.random.default_rng(0), model.schedule
    closed = model.bound_terms(images, ng.Generator(5)).data.sum(1)

    def log_normal(x: np.ndarray, mean: np.ndarray, variance: float) -> np.ndarray:
        return (-0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)).reshape(len(x))

    x = [np.full((n, 1, 1, 1), 1.0)]  # level 2 of 3
    for t in range(1, 5):
        x.append(schedule.alphas[t] ** 0.5 * x[-1] + schedule.betas[t] ** 0.5 * rng.normal(size=x[0].shape))
    total = -log_normal(x[4], np.zeros_like(x[4]), 1.0)
    for t in range(2, 5):
        mean = model.p_mean(ng.tensor(x[t]), np.full(n, t)).data
        total -= log_normal(x[t - 1], mean, model.reverse_variances[t])
        total += log_normal(x[t], schedule.alphas[t] ** 0.5 * x[t - 1], schedule.betas[t])
    total += log_normal(x[1], schedule.alphas[1] ** 0.5 * x[0], schedule.betas[1])
    mean, std = model.p_mean(ng.tensor(x[1]), np.full(n, 1)).data, model.reverse_variances[1] ** 0.5
    decoder = ng.distributions.DiscretizedNormal(mean, np.full((), math.log(std)), levels)
    total -= decoder.log_prob(images).data.reshape(n)
    error = math.hypot(total.std(), closed.std()) / n**0.5
    assert error < 0.05
    assert total.mean() == pytest.approx(closed.mean(), abs=5 * error)
