"""The bound of diffusion by each of its estimators, against quadrature and chains by hand; also respaced."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.metrics import estimated_bounds
from nanogen.models import DDPM, NoiseSchedule

ESTIMATORS = "terms", "trajectory", "two-sample", "one-sample"
LEVELS = 5
SOURCE = GaussianMixture([1, 2], [[-0.5], [1.0]], [0.0, 0.0])  # images of one pixel: level 1 with probability ⅓, or 4
BETAS = [0.1, 0.2, 0.2, 0.1, 0.1]  # so few that L_T is 0.31 nats for level 4


class Exact(DDPM):
    """A DDPM whose network is E[ε | x_t] of the source; a learned variance is that of v = 0.3 x_t."""

    def __init__(self, variance: str):
        schedule = NoiseSchedule(BETAS)
        super().__init__((1, 1, 1), LEVELS, 5, schedule, variance, channels=2, multipliers=(1,), heads=1)
        self.to(np.float64)
        self.calls = 0

    def predict(self, x_t: Any, t: Any, rng: Any = None, labels: Any = None) -> ng.Tensor:
        self.calls += 1
        times, noise = np.broadcast_to(np.asarray(t), len(x_t)), np.empty_like(x_t.data)
        for time in np.unique(times):
            here = times == time
            noise[here, 0, 0] = SOURCE.expected_noise(x_t.data[here, 0, 0], float(self.schedule.alpha_bars[time]))
        return ng.tensor(np.concatenate([noise, 0.3 * x_t.data], axis=1) if self.variance == "learned" else noise)


def bound_by_quadrature(level: int, variance: str) -> float:
    """−log p(x_0) ≤ L_T + Σ L_{t−1} + L_0 of the level, with each expectation over ε on a grid, in plain NumPy."""
    betas = np.append(0.0, BETAS)
    bars = np.cumprod(1 - betas)
    x0, e = level / 2 - 1, np.linspace(-9, 9, 4001)
    density = stats.norm.pdf(e) * (e[1] - e[0])
    total = 0.5 * (bars[-1] * x0**2 - bars[-1] - math.log(1 - bars[-1]))
    for t in range(1, 6):
        x = math.sqrt(bars[t]) * x0 + math.sqrt(1 - bars[t]) * e
        odds = 2 * np.exp(
            sum(s * (x - math.sqrt(bars[t]) * c) ** 2 for s, c in ((1, -0.5), (-1, 1.0))) / (2 - 2 * bars[t])
        )
        best = (-0.5 + odds) / (1 + odds)
        of_x0 = math.sqrt(bars[t - 1]) * betas[t] / (1 - bars[t])
        tilde = lambda t: (1 - bars[t - 1]) / (1 - bars[t]) * betas[t]
        s2 = {"beta": betas[t], "posterior": tilde(max(t, 2))}
        share = (1 + 0.3 * x) / 2
        sigma2 = np.exp(share * math.log(s2["beta"]) + (1 - share) * math.log(s2["posterior"]))
        sigma2 = sigma2 if variance == "learned" else s2[variance]
        if t == 1:
            low, high = (-np.inf if level == 0 else x0 - 0.25), (np.inf if level == LEVELS - 1 else x0 + 0.25)
            mass = stats.norm.cdf(high, best, sigma2**0.5) - stats.norm.cdf(low, best, sigma2**0.5)
            term = -np.log(np.maximum(mass, 1e-300))
        else:
            term = 0.5 * (tilde(t) / sigma2 + of_x0**2 * (best - x0) ** 2 / sigma2 - 1 - np.log(tilde(t) / sigma2))
        total += (density * term).sum()
    return float(total)


@pytest.mark.parametrize("variance", ["beta", "posterior", "learned"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_have_the_bound_as_expectation(estimator: str, variance: str) -> None:
    """E[−elbo] of each estimator is the bound by quadrature, for a mixture of two levels and its best prediction.
    Ho et al. 2020, eq. 3 and 5.

    40,000 draws a level, six standard errors: by chance one of these tests in 10^8 fails.  A standard error is below
    0.012 nats (0.04 for one random t of five; 0.02 for level 4): without L_T, or without the factor T, a mean would be
    more than fifteen of them away."""
    model, n = Exact(variance), 40_000
    images = np.array([1, 4], np.uint8).repeat(n).reshape(-1, 1, 1, 1)
    found = -model.elbo(images, ng.Generator(3), estimator=estimator).data.reshape(2, n)
    error = found.std(axis=1) / n**0.5
    assert (error < (0.04 if "sample" in estimator else 0.012)).all()
    expected = np.array([bound_by_quadrature(level, variance) for level in (1, 4)])
    assert (abs(found.mean(axis=1) - expected) < 6 * error).all()
    assert model.calls == model.estimators[estimator]


@pytest.mark.parametrize("variance", ["beta", "learned"])
def test_two_samples_add_noise_of_mean_zero(variance: str) -> None:
    """For the same x_0, t and x_t the two-sample form is the one-sample form plus log q/p at x_{t−1} less its mean: 0
    in expectation, within six standard errors of 40,000 draws, and 0 exactly where t = 1."""
    model, n = Exact(variance), 40_000
    for level in (1, 4):
        images = np.full((n, 1, 1, 1), level, np.uint8)
        one, two = (model.elbo(images, ng.Generator(5), estimator=f"{k}-sample").data for k in ("one", "two"))
        difference, first = two - one, ng.Generator(5).integers(1, 6, n) == 1
        assert (difference[first] == 0).all()
        assert difference[~first].all()
        assert abs(difference.mean()) < 6 * difference.std() / n**0.5
        assert two.var() > one.var()


@pytest.mark.parametrize("variance", ["posterior", "learned"])
def test_trajectory_by_hand(variance: str) -> None:
    """log p(x_T) + Σ_t log p_θ(x_{t−1}|x_t)/q(x_t|x_{t−1}) of one chain, by SciPy.  Ho et al. 2020, eq. 3."""
    model, rng = Exact(variance), ng.Generator(7)
    images = np.array([0, 1, 4], np.uint8).reshape(-1, 1, 1, 1)
    found = model.elbo(images, ng.Generator(7), estimator="trajectory").data
    x, total = images / 2 - 1, np.zeros((3, 1, 1, 1))
    for t, beta in enumerate(BETAS, 1):
        later = math.sqrt(1 - beta) * x + math.sqrt(beta) * rng.normal(x.shape, np.float64)
        p = model.reverse(ng.tensor(later), np.full(3, t))
        mean, std = p.mean.data, p.std.data
        if t == 1:
            low, high = np.where(images == 0, -np.inf, x - 0.25), np.where(images == 4, np.inf, x + 0.25)
            total += np.log(stats.norm.cdf(high, mean, std) - stats.norm.cdf(low, mean, std))
        else:
            total += stats.norm.logpdf(x, mean, std)
        total -= stats.norm.logpdf(later, math.sqrt(1 - beta) * x, math.sqrt(beta))
        x = later
    total += stats.norm.logpdf(x)
    np.testing.assert_allclose(found, total.ravel(), rtol=1e-8)


def trained(shape: tuple[int, int, int] = (1, 2, 3), T: int = 9, **settings: Any) -> DDPM:
    """A network with something to say."""
    model = DDPM(shape, LEVELS, T, channels=4, multipliers=(1,), heads=1, **settings).to(np.float64)
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * rng.standard_normal(parameter.shape)
    return model


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_are_given_the_labels(estimator: str) -> None:
    """Another label is another bound for the same draws; without labels a conditional model refuses."""
    model, images = trained(classes=2), np.ones((3, 1, 2, 3), np.uint8)
    bounds = [model.elbo(images, ng.Generator(0), np.full(3, k), estimator).data for k in (0, 1, 0)]
    assert (bounds[0] != bounds[1]).all()
    assert np.array_equal(bounds[0], bounds[2])
    with pytest.raises(ValueError, match="labels must be given"):
        model.elbo(images, ng.Generator(0), estimator=estimator)
    with pytest.raises(ValueError, match="estimator must be one of terms, trajectory"):
        model.elbo(images, ng.Generator(0), np.zeros(3, int), estimator="three-sample")


def test_table_of_the_estimators() -> None:
    """Mean, spread of one draw and error of the mean are those of the draws, in batches with their labels."""
    model, rng = trained(T=3, classes=2), np.random.default_rng(0)
    images, labels = rng.integers(0, LEVELS, (5, 1, 2, 3)).astype(np.uint8), rng.integers(0, 2, 5)
    found = estimated_bounds(model, images, ng.Generator(1), draws=3, batch=4, labels=labels)
    assert {name: bound.network_evaluations for name, bound in found.items()} == model.estimators
    draw, parts = ng.Generator(1), (slice(0, 4), slice(4, 5))
    bounds = np.array([[-model.elbo(images[i], draw, labels[i]).data.sum() for i in parts] for _ in range(3)])
    assert found["terms"].nats == pytest.approx(bounds.sum() / 15)
    assert found["terms"].bits_per_dim == pytest.approx(bounds.sum() / 15 / 6 / math.log(2))
    draw = ng.Generator(1)
    each = np.array([np.concatenate([-model.elbo(images[i], draw, labels[i]).data for i in parts]) for _ in range(3)])
    std = math.sqrt(((each - each.mean(0)) ** 2).sum(0).mean() / 2) / 6 / math.log(2)
    assert found["terms"].std == pytest.approx(std)
    assert found["terms"].standard_error == pytest.approx(std / 15**0.5)


# Fewer steps


def test_respaced_model() -> None:
    """Times 1 … T evenly, both ends among them; ᾱ is kept at each, and the network hears the original time.  With all
    times it is the model itself.  Nichol & Dhariwal 2021, section 4 and eq. 19."""
    model, images = trained(variance="learned"), np.ones((2, 1, 2, 3), np.uint8)
    short, seen = model.respaced(4), []
    assert short.T == 4
    np.testing.assert_allclose(short.schedule.alpha_bars, model.schedule.alpha_bars[[0, 1, 4, 6, 9]], rtol=1e-11)
    network = model.unet.forward
    model.unet.forward = lambda x, t, *more: seen.append(np.unique(t).tolist()) or network(x, t, *more)  # type: ignore
    short.bound_terms(images, ng.Generator(0))
    assert seen == [[1], [4], [6], [9]]
    assert np.array_equal(model.respaced(4).respaced(2).schedule.times, [0, 1, 9])  # type: ignore[arg-type]
    assert next(model.respaced(4).parameters()) is next(model.parameters())
    same = model.respaced(9).elbo(images, ng.Generator(1)).data
    np.testing.assert_allclose(same, model.elbo(images, ng.Generator(1)).data, rtol=1e-9)
    assert model.T == 9
    assert model.schedule.times is None


def test_sampling_and_density_on_a_respaced_schedule() -> None:
    """`respaced` of `sample` is the model's on that schedule; the density is that of what is sampled."""
    model = trained(variance="learned")
    drawn = model.sample(3, ng.Generator(2), respaced=4)
    assert np.array_equal(drawn, model.respaced(4).sample(3, ng.Generator(2)))
    assert model.evaluations_with(respaced=4) == model.density_with(respaced=4).T == 4
    assert model.density_with() is model.density_with(steps=3) is model
    for how in ({"respaced": 1}, {"respaced": 10}, {"respaced": 2.0}, {"respaced": 4, "steps": 2}):
        with pytest.raises(ValueError, match="respaced must be"):
            model.sample(1, ng.Generator(0), **how)  # type: ignore[arg-type]
