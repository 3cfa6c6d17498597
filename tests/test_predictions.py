"""What the network of a diffusion predicts, the weights of its errors, learned variances, and times by importance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import nanogen as ng
from nanogen.models import DDPM, NoiseSchedule
from nanogen.models.diffusion.prediction import PREDICTIONS
from nanogen.models.diffusion.schedule import SCHEDULES
from nanogen.models.diffusion.times import ImportanceTimes, UniformTimes

LEVELS = 17
IMAGES = np.random.default_rng(0).integers(5, 12, (4, 1, 2, 3)).astype(np.uint8)
each_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def small(T: int = 8, **settings: Any) -> DDPM:
    return DDPM((1, 2, 3), LEVELS, T, channels=4, multipliers=(1,), heads=1, **settings).to(np.float64)


def knows(model: DDPM, error: Any = 0.0, v: Any = None) -> DDPM:
    """The model that predicts what it should, plus an error; and v, of a learned variance."""
    s, x0 = model.schedule, model.scaled(IMAGES)

    def predict(x_t: Any, t: Any, rng: Any = None) -> ng.Tensor:
        noise = s.noise_from_x0(x_t, t, x0)
        found = PREDICTIONS[model.prediction].target(s, x0, noise, x_t, t) + error
        return found if v is None else ng.functional.cat([found, ng.tensor(np.full(found.shape, v))], dim=1)

    model.predict = predict  # type: ignore[method-assign,assignment]
    return model


# Conversions


@given(t=st.integers(1, 12), kind=st.sampled_from(sorted(SCHEDULES)), seed=st.integers(0, 9))
def test_predictions_are_converted_and_back(t: int, kind: str, seed: int) -> None:
    """From each prediction x_0 and ε come back that x_t was made of: to rounding, times what small √ᾱ_t or β_t lose."""
    s, rng = SCHEDULES[kind](12), np.random.default_rng(seed)
    x0, noise, times = rng.uniform(-1, 1, (2, 1, 2, 3)), rng.standard_normal((2, 1, 2, 3)), np.full(2, t)
    x_t = s.q_sample(x0, times, noise)
    for form in PREDICTIONS.values():
        predicted = form.target(s, x0, noise, x_t, times)
        loss = 1e-14 / min(s.x0_weights[t], s.sqrt_alpha_bars[t])
        np.testing.assert_allclose(form.x0(s, x_t, times, predicted), x0, atol=loss)
        np.testing.assert_allclose(form.noise(s, x_t, times, predicted), noise, atol=1e-13 + loss)


def test_v_by_hand() -> None:
    """v = √ᾱ ε − √(1 − ᾱ) x_0: with ᾱ = cos² φ, the slope of x_t in φ.  Salimans & Ho 2022, appendix D."""
    s = NoiseSchedule([0.36, 0.5])
    assert PREDICTIONS["v"].target(s, 0.5, -2.0, np.zeros(()), 1) == pytest.approx(0.8 * -2.0 - 0.6 * 0.5)
    phi, step = math.acos(0.8), 1e-6
    x = [math.cos(phi + d) * 0.5 + math.sin(phi + d) * -2.0 for d in (step, -step)]
    assert PREDICTIONS["v"].target(s, 0.5, -2.0, np.zeros(()), 1) == pytest.approx((x[0] - x[1]) / (2 * step))


@each_prediction
def test_model_converts_what_its_network_gives(prediction: str) -> None:
    """x̂_0, ε̂ and μ of a network that knows are x_0, ε and μ̃; a fixed error costs its square in the loss."""
    model = knows(small(prediction=prediction))
    x0, s, t = model.scaled(IMAGES), model.schedule, np.full(4, 3)
    noise = ng.tensor(np.random.default_rng(1).standard_normal(IMAGES.shape))
    x_t = s.q_sample(x0, t, noise)
    np.testing.assert_allclose(model.predict_x0(x_t, t).data, x0.data, atol=1e-10)
    np.testing.assert_allclose(model.predict_noise(x_t, t).data, noise.data, atol=1e-10)
    np.testing.assert_allclose(model.p_mean(x_t, t).data, s.q_posterior(x0, x_t, t)[0].data, atol=1e-10)
    assert knows(small(prediction=prediction), 0.5).loss(IMAGES, ng.Generator(0)).item() == pytest.approx(0.25)


# The weights


@pytest.mark.parametrize("variance", ["posterior", "beta"])
@each_prediction
def test_weighted_error_is_the_divergence(prediction: str, variance: str) -> None:
    """w_t ‖error‖² = L_{t−1} exactly with σ² = β̃, else less what the variances differ by, where x̂_0 is not clipped.

    The weights by hand: ½σ⁻² times (1 − α)²/((1 − ᾱ)α), ᾱ_{t−1} β²/(1 − ᾱ)², 1, ᾱ_{t−1} β²/(1 − ᾱ).  Ho et al. 2020,
    eq. 8 and 12."""
    model, error = (
        small(prediction=prediction, variance=variance),
        0.01 * np.random.default_rng(1).normal(size=(4, 1, 2, 3)),
    )
    s, kept = knows(model, error).schedule, 0
    weights = PREDICTIONS[prediction].weights(s, model.reverse_variances)
    assert weights[0] == 0
    for t in range(2, model.T + 1):
        beta, bar, before = s.betas[t], s.alpha_bars[t], s.alpha_bars[t - 1]
        tilde = beta * (1 - before) / (1 - bar)
        sigma2 = beta if variance == "beta" else tilde
        by_hand = {
            "noise": beta**2 / ((1 - bar) * (1 - beta)), "x0": before * beta**2 / (1 - bar) ** 2, "mean": 1.0,
            "v": before * beta**2 / (1 - bar),
        }[prediction] / (2 * sigma2)  # fmt: skip
        assert weights[t] == pytest.approx(by_hand, rel=1e-9)
        if by_hand / before / beta**2 * 2 * sigma2 * (1 - bar) ** 2 * abs(error).max() ** 2 < 0.4**2:  # of x̂_0's error
            expected = weights[t] * (error**2).sum((1, 2, 3)) + 3 * (tilde / sigma2 - 1 - math.log(tilde / sigma2))
            found = model.bound_term(IMAGES, t - 1, ng.Generator(t)).data
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
            kept += 1
    assert kept > 3


@each_prediction
def test_weighting_as_in_the_bound(prediction: str) -> None:
    """With `weighting="bound"` the loss is T w_t times the squared error, averaged over the dimensions."""
    model = knows(small(prediction=prediction, weighting="bound"), 0.5)
    weights = PREDICTIONS[prediction].weights(model.schedule, model.reverse_variances)
    t = ng.Generator(3).integers(1, 9, 4)
    assert model.loss(IMAGES, ng.Generator(3)).item() == pytest.approx(8 * weights[t].mean() * 0.25)


# Learned variances


def test_learned_variance_lies_between() -> None:
    """log σ² = v log β + (1 − v) log β̃: β̃ at v = 0 (the network's −1), β at v = 1, to rounding; between them their
    geometric means; at t = 1 β̃_2 for β̃_1 = 0.  The variances are each pixel's own.  Nichol & Dhariwal 2021, eq. 15."""
    model, x = small(variance="learned"), ng.tensor(np.zeros((1, 1, 2, 3)))
    s = model.schedule
    for t in range(1, 9):
        tilde = s.posterior_variances[max(t, 2)]
        for raw, expected in ((-1.0, tilde), (1.0, s.betas[t]), (0.0, (tilde * s.betas[t]) ** 0.5)):
            p = model.reverse_of(x, np.array([t]), x, ng.tensor(np.full(x.shape, raw)))
            np.testing.assert_allclose(p.std.data**2, expected, rtol=1e-12)
    v = np.arange(6.0).reshape(x.shape)
    output = ng.tensor(np.concatenate([x.data, v], axis=1))
    model.predict = lambda x_t, t, rng=None: output  # type: ignore
    logs = 2 * model.reverse(x, np.array([4])).log_std.data
    slope = math.log(s.betas[4] / s.posterior_variances[4]) / 2
    np.testing.assert_allclose(logs - logs[0, 0, 0, 0], slope * v, atol=1e-12)


@each_prediction
def test_hybrid_loss(prediction: str) -> None:
    """L_hybrid = L_simple + 0.001 T L_{t−1} in nats per dimension; the gradient for the prediction is L_simple's alone,
    that for v is the bound's, by central differences.  Nichol & Dhariwal 2021, eq. 16."""
    model = small(variance="learned", prediction=prediction)
    s, x0, rng = model.schedule, model.scaled(IMAGES), ng.Generator(4)
    t, noise = rng.integers(1, 9, 4), rng.normal((4, 1, 2, 3), np.float64)
    assert min(t) > 1
    x_t = s.q_sample(x0, t, noise)
    target = PREDICTIONS[prediction].target(s, x0.data, noise, x_t.data, t)
    output = leaf(np.concatenate([target, 0 * target], axis=1) + np.random.default_rng(0).normal(0, 0.1, (4, 2, 2, 3)))
    model.predict = lambda x_t, t, rng=None: output  # type: ignore
    loss = model.loss(IMAGES, ng.Generator(4))
    (slope,) = ng.grad(loss, [output])
    assert slope is not None
    slopes = slope.data
    np.testing.assert_allclose(slopes[:, :1], 2 * (output.data[:, :1] - target) / 24, rtol=1e-9)

    def bound(v: np.ndarray) -> float:
        """0.001 · T · the mean KL per dimension, by hand."""
        p = model.reverse_of(x_t, t, output[:, :1].detach(), ng.tensor(v))
        tilde, q = s.posterior_variances[t].reshape(4, 1, 1, 1), s.mean_from_x0(x_t, t, x0).data
        sigma2, error = p.std.data**2, (q - p.mean.data) ** 2
        return 0.001 * 8 * (0.5 * ((tilde + error) / sigma2 - 1 - np.log(tilde / sigma2))).mean()

    v, step = output.data[:, 1:], 1e-5
    assert loss.item() == pytest.approx(((output.data[:, :1] - target) ** 2).mean() + bound(v), rel=1e-9)
    for i in np.ndindex(v.shape):
        there = np.zeros_like(v)
        there[i] = step
        by_differences = (bound(v + there) - bound(v - there)) / (2 * step)
        assert slopes[:, 1:][i] == pytest.approx(by_differences, rel=1e-5, abs=1e-9)


def test_network_has_an_output_for_v() -> None:
    """2C channels, and a step of training moves the variances."""
    model = small(variance="learned")
    x, t = ng.tensor(np.random.default_rng(0).normal(size=(4, 1, 2, 3))), np.full(4, 2)
    assert model.predict(x, t).shape == (4, 2, 2, 3)
    assert small().predict(x, t).shape == (4, 1, 2, 3)
    slope: Any = ng.grad(model.loss(IMAGES, ng.Generator(0)), [model.unet.last.bias])[0]
    assert slope.data.all()


# The times


def test_times_by_importance() -> None:
    """p_t ∝ √E[L_t²] of the last ten losses, once all times have ten, and a thousandth uniform; until then uniform.
    χ² of 20,000 draws.  Nichol & Dhariwal 2021, eq. 18."""
    times, rng = ImportanceTimes(4), np.random.default_rng(0)
    losses = rng.uniform(0.5, 4, (4, 12)) * np.array([1.0, 2, 3, 9])[:, None]
    for k in range(12):
        np.testing.assert_allclose(times.probabilities(), 0.25 if k < 10 else times.probabilities())
        for first in (1, 3):
            which = np.array([first, first + 1])
            times.follow(which, losses[which - 1, k].reshape(2, 1, 1, 1))
    roots = np.sqrt((losses[:, 2:] ** 2).mean(axis=1))
    expected = 0.999 * roots / roots.sum() + 0.001 / 4
    np.testing.assert_allclose(times.probabilities(), expected, rtol=1e-6)
    t, weights = times.draw(20_000, ng.Generator(0))
    assert weights is not None
    assert stats.chisquare(np.bincount(t, minlength=5)[1:], 20_000 * times.probabilities()).pvalue > 1e-6
    np.testing.assert_allclose(weights, 1 / (4 * times.probabilities()[t - 1]))
    restored = ImportanceTimes(4)
    restored.load_state_dict(times.state_dict())
    assert np.array_equal(restored.probabilities(), times.probabilities())


def test_losses_at_one_time_are_averaged() -> None:
    """A time that a batch has twice keeps the mean of the two squares, as one of its ten; other times keep theirs."""
    times = ImportanceTimes(3)
    times.follow(np.array([1, 1, 3]), np.array([3.0, 4.0, 2.0]))
    np.testing.assert_allclose(times.squares.data[:, -1], [12.5, 0, 4])
    assert times.seen.data.tolist() == [1, 0, 1]


def test_importance_leaves_the_loss_unbiased() -> None:
    """The mean of 4,000 losses with times by importance is that of uniform times, within six standard errors, while one
    that is not weighted is far off; the losses of tests leave no trace."""
    model = knows(small(T=3, times="importance", weighting="bound"), 0.5)
    weights = 3 * 0.25 * PREDICTIONS["noise"].weights(model.schedule, model.reverse_variances)[1:]
    for _ in range(40):
        model.loss(IMAGES, ng.Generator(0).stream(_))
    assert model.times.seen.data.min() >= 10
    before = model.times.squares.data.copy()
    model.eval()
    found = np.array([model.loss(IMAGES, ng.Generator(1).stream(i)).item() for i in range(1000)])
    assert np.array_equal(before, model.times.squares.data)
    error = found.std() / 1000**0.5
    assert abs(found.mean() - weights.mean()) < 6 * error + 1e-6
    p = model.times.probabilities()
    assert abs((p * weights).sum() - weights.mean()) > 0.1 * weights.mean()
    assert isinstance(small().times, UniformTimes)
