"""Diffusion: its bound, its samplers and its network, with noise predictors whose right answers are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import check_slope, leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen.models import DDPM, NoiseSchedule
from nanogen.models.diffusion.base import ddim_times
from nanogen.models.diffusion.schedule import SCHEDULES
from nanogen.models.diffusion.unet import Attention, UNet, sinusoidal_embedding

LEVELS = 17
FLOOR = 1e-6


def small(shape: tuple[int, int, int] = (1, 2, 3), levels: int = LEVELS, T: int = 8, **settings: Any) -> DDPM:
    settings = {"channels": 4, "multipliers": (1,), "heads": 1, "variance": "posterior", **settings}
    return DDPM(shape, levels, T, rng=ng.Generator(1), **settings).to(np.float64)


def awake(model: Any) -> Any:
    """The zeros that a network starts with, replaced: otherwise half of it has nothing to say."""
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        if not parameter.data.any():
            parameter.data = (0.3 * rng.standard_normal(parameter.shape)).astype(parameter.dtype)
    return model


def some_images(shape: tuple[int, int, int] = (1, 2, 3), n: int = 4, middle: bool = True) -> np.ndarray:
    """Levels; those in the middle leave room for a prediction that is a little off before it is clipped."""
    low, high = (5, 12) if middle else (0, LEVELS)
    return np.random.default_rng(0).integers(low, high, (n, *shape)).astype(np.uint8)


def predicts(model: DDPM, predictor: Callable[[Any, Any], Any]) -> DDPM:
    """The model with another noise predictor (x_t, t) → ε."""
    model.predict = lambda x_t, t, rng=None: predictor(x_t, t)  # type: ignore[method-assign,assignment]
    return model


def knows(model: DDPM, x0: Any, error: Any = 0.0) -> DDPM:
    """The model whose prediction is the true noise, as it knows the clean image, plus an error."""
    return predicts(model, lambda x_t, t: model.schedule.noise_from_x0(x_t, t, x0) + error)


# The bound


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_terms_are_the_weighted_error_of_the_noise(variance: str) -> None:
    """L_{t−1} = (1 − α_t)² / (2σ_t² (1 − ᾱ_t) α_t) ‖ε − ε_θ‖², plus, where σ_t² is not β̃_t, what two normals of
    these variances differ by: D/2 (β̃_t/σ_t² − 1 − log(β̃_t/σ_t²)).  Ho et al. 2020, eq. 8 and 12.

    The weight has α_t in its denominator, not ᾱ_t, and is infinite at t = 1 if σ_1² = β̃_1 = 0."""
    model, images = small(variance=variance), some_images()
    s = model.schedule
    error = 0.05 * np.random.default_rng(1).standard_normal(images.shape)
    knows(model, model.scaled(images), error)
    for t in range(2, model.T + 1):
        sigma2 = s.betas[t] if variance == "beta" else s.posterior_variances[t]
        weight = (1 - s.alphas[t]) ** 2 / (2 * sigma2 * (1 - s.alpha_bars[t]) * s.alphas[t])
        ratio = s.posterior_variances[t] / sigma2
        reach = math.sqrt((1 - s.alpha_bars[t]) / s.alpha_bars[t]) * abs(error).max()  # of the error, in x̂_0
        if reach > 0.4:
            continue  # x̂_0 is clipped
        expected = weight * (error**2).sum((1, 2, 3)) + 3 * (ratio - 1 - math.log(ratio))
        found = model.bound_term(images, t - 1, ng.Generator(t)).data
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)
    assert reach > 0.4, "the last steps are clipped"
    assert t > 4


def test_no_error_no_divergence() -> None:
    """With the true noise L_1 … L_{T−1} are 0; they are not negative with any."""
    model, images = small(), some_images(middle=False)
    terms = knows(model, model.scaled(images)).bound_terms(images, ng.Generator(0)).data
    np.testing.assert_allclose(terms[:, 1:-1], 0, atol=1e-9)
    terms = predicts(model, lambda x, t: 3.0 * x - 1.0).bound_terms(images, ng.Generator(0)).data
    assert (terms[:, 1:] >= -1e-10).all()


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_last_term_is_the_divergence_from_the_prior(kind: str) -> None:
    """L_T = KL(q(x_T|x_0) ‖ N(0, I)) = ½ Σ (ᾱ_T x_0² + (1 − ᾱ_T) − 1 − log(1 − ᾱ_T)).  Ho et al. 2020, eq. 5."""
    model, images = small(T=3, schedule=kind), some_images(middle=False)
    bar, x0 = model.schedule.alpha_bars[-1], 2 * (images / (LEVELS - 1)) - 1
    expected = 0.5 * (bar * x0**2 - bar - np.log1p(-bar)).sum((1, 2, 3))
    np.testing.assert_allclose(model.bound_term(images, 3, ng.Generator(0)).data, expected, rtol=1e-9)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_first_term_is_the_discrete_decoder(variance: str) -> None:
    """L_0 = −log p(x_0 | x_1), N(μ_θ(x_1, 1), σ_1²) in bins about the levels, the edge bins open: Ho et al. 2020,
    eq. 13, by SciPy.  σ_1² is β_1 or β̃_2, as β̃_1 = 0 is no decoder's."""
    model, images, error = small(variance=variance), some_images(middle=False), 0.3
    x0 = model.scaled(images).data
    loss = knows(model, x0, error).bound_term(images, 0, ng.Generator(0)).data
    beta, later, bars = *model.schedule.betas[1:3], model.schedule.alpha_bars
    std = math.sqrt(beta if variance == "beta" else (1 - bars[1]) / (1 - bars[2]) * later)
    mean = np.clip(x0 - error * math.sqrt(beta / (1 - beta)), -1, 1)  # μ̃_1 is x̂_0
    low = np.where(x0 == -1, -np.inf, x0 - 1 / (LEVELS - 1))
    high = np.where(x0 == 1, np.inf, x0 + 1 / (LEVELS - 1))
    p = stats.norm.cdf(high, mean, std) - stats.norm.cdf(low, mean, std)
    np.testing.assert_allclose(loss, -np.log(p).sum((1, 2, 3)), rtol=1e-7)
    assert (images == 0).any()
    assert (images == LEVELS - 1).any()


@pytest.mark.parametrize("mean", [-1.0, 0.13, 1.0])
def test_decoder_sums_to_one(mean: float) -> None:
    """Σ over all levels of p(x_0 | x_1) = 1 for any one x_1.  Ho et al. 2020, eq. 13."""
    model = small((1, 1, 1))
    model.p_mean = lambda x, t: ng.tensor(np.full(x.shape, mean))  # type: ignore[method-assign,assignment]
    every = np.arange(LEVELS, dtype=np.uint8).reshape(-1, 1, 1, 1)
    assert np.exp(-model.bound_term(every, 0, ng.Generator(0)).data).sum() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_elbo_is_a_bound_on_the_likelihood(variance: str) -> None:
    """−Σ L_t ≤ log p(x_0) = log ∫∫ p(x_2) p(x_1|x_2) p(x_0|x_1), which a grid gives for one pixel and T = 2: p sums
    to 1 over the levels, and each level's elbo is below its log p, within six standard errors, but not far."""
    model = DDPM(
        (1, 1, 1), 3, schedule=NoiseSchedule([0.3, 0.8]), variance=variance, channels=2, multipliers=(1,), heads=1
    )
    model.to(np.float64)
    weights = {1: (0.6, 0.1), 2: (0.9, -0.05)}  # ε_θ = a x + b, not far from what is right for such data
    of = lambda t: weights[int(np.asarray(t).ravel()[0])]
    predicts(model, lambda x, t: x * of(t)[0] + of(t)[1])

    grid = np.linspace(-8, 8, 1601)[:, None, None, None]
    step = 0.01
    with ng.no_grad():
        mean1, mean2 = (model.p_mean(ng.tensor(grid), np.full(len(grid), t)).data.ravel() for t in (1, 2))
    x = grid.ravel()
    p_x2 = stats.norm.pdf(x)
    p_x1 = stats.norm.pdf(x[:, None], mean2[None], math.sqrt(model.reverse_variances[2])) @ p_x2 * step
    edges = np.array([-np.inf, -0.5, 0.5, np.inf])
    decoder = np.diff(stats.norm.cdf(edges[:, None], mean1[None], math.sqrt(model.reverse_variances[1])), axis=0)
    p = decoder @ p_x1 * step
    assert p.sum() == pytest.approx(1, abs=1e-6)

    n = 4000
    images = np.arange(3, dtype=np.uint8).repeat(n).reshape(-1, 1, 1, 1)
    elbo = model.elbo(images, ng.Generator(0)).data.reshape(3, n)
    error = elbo.std(axis=1) / n**0.5
    assert (elbo.mean(axis=1) < np.log(p) + 6 * error).all()
    assert (elbo.mean(axis=1) > np.log(p) - 1.0).all()


def test_bound_terms_and_elbo() -> None:
    """(N, T + 1) terms, L_0 first, which is the single term of the same draws; their sum is −elbo of the same draws."""
    model, images = awake(small(T=3)), some_images()
    terms = model.bound_terms(images, ng.Generator(4))
    assert terms.shape == (4, 4)
    np.testing.assert_allclose(model.elbo(images, ng.Generator(4)).data, -terms.data.sum(axis=1), rtol=1e-12)
    assert np.array_equal(model.bound_term(images, 0, ng.Generator(4)).data, terms.data[:, 0])
    assert np.isfinite(terms.data).all()


# The loss


def test_loss_of_the_right_and_of_no_prediction() -> None:
    """L_simple = ‖ε − ε_θ‖², the mean per dimension: 0 for the true noise, which shows that x_t and t belong together,
    E[ε²] = 1 for an untrained network, whose last layer is 0.  Ho et al. 2020, eq. 14."""
    model, images = small(), some_images(n=2000)
    untrained = model.loss(images, ng.Generator(0)).item()
    assert untrained == pytest.approx(1, abs=6 * math.sqrt(2 / images.size))
    assert knows(model, model.scaled(images)).loss(images, ng.Generator(0)).item() == pytest.approx(0, abs=1e-18)
    assert knows(model, model.scaled(images), 0.5).loss(images, ng.Generator(0)).item() == pytest.approx(0.25)


def test_times_are_uniform_from_1_to_T() -> None:
    """t ~ U{1 … T}, one an image: χ², and neither 0 nor T + 1.  Ho et al. 2020, algorithm 1."""
    model, seen = small(T=5), []
    predicts(model, lambda x, t: seen.append(np.asarray(t)) or x)  # type: ignore[func-returns-value]
    model.loss(some_images(n=20_000), ng.Generator(0))
    counts = np.bincount(seen[0], minlength=6)
    assert len(counts) == 6
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > FLOOR


def test_gradient_reaches_every_parameter() -> None:
    """The loss has a slope in every parameter of a network that is awake; along a random direction it is that of
    central differences."""
    model, images = awake(small((2, 3, 2), multipliers=(1, 2), heads=2)), some_images((2, 3, 2))
    check_slope(lambda: model.loss(images, ng.Generator(3)), model)


# One step back


def test_mean_is_equation_11() -> None:
    """μ_θ = (x_t − β_t/√(1 − ᾱ_t) ε_θ) / √α_t where x̂_0 is not clipped; and otherwise μ̃_t at the clipped x̂_0, which
    lies in [−1, 1].  Ho et al. 2020, eq. 7 and 11."""
    model, x0 = small(), np.random.default_rng(0).uniform(-0.9, 0.9, (4, 1, 2, 3))
    s, noise = model.schedule, np.random.default_rng(1).standard_normal((4, 1, 2, 3))
    for t in range(1, model.T + 1):
        x_t = s.q_sample(x0, np.full(4, t), noise)
        mean = predicts(model, lambda x, t: ng.tensor(noise)).p_mean(ng.tensor(x_t), np.full(4, t)).data
        by_hand = (x_t - s.betas[t] / math.sqrt(1 - s.alpha_bars[t]) * noise) / math.sqrt(s.alphas[t])
        np.testing.assert_allclose(mean, by_hand, rtol=1e-6, atol=1e-8)
        far = predicts(model, lambda x, t: x * 0.0 - 1e3)
        assert (far.predict_x0(ng.tensor(x_t), np.full(4, t)).data == 1).all()
        expected = s.mean_from_x0(x_t, np.full(4, t), np.ones_like(x_t))
        np.testing.assert_allclose(far.p_mean(ng.tensor(x_t), np.full(4, t)).data, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_reverse_variances(kind: str) -> None:
    """σ_t² = β_t, or β̃_t for t ≥ 2 and at t = 1 β̃_2, by hand from the β.  Ho et al. 2020, section 3.2, and the line
    `append(posterior_variance[1], posterior_variance[1:])` of their code and OpenAI's two, whose index 0 is t = 1."""
    for T in (2, 3, 8):
        model = small(schedule=kind, T=T)
        beta, bars = model.schedule.betas[1:], np.cumprod(1 - model.schedule.betas[1:])
        posterior = beta * (1 - np.append(1.0, bars[:-1])) / (1 - bars)
        expected = np.append(posterior[1], posterior[1:])
        np.testing.assert_allclose(model.reverse_variances[1:], expected, rtol=1e-9)
        assert np.array_equal(small(schedule=kind, T=T, variance="beta").reverse_variances, model.schedule.betas)
        for variance in ("beta", "posterior"):  # the tables are not changed
            small(schedule=model.schedule, variance=variance).reverse_variances[:] = 9
        assert model.schedule.posterior_variances[1] == 0 == model.schedule.betas[0]


# Samplers


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ancestral_steps_have_the_right_spread(variance: str) -> None:
    """With data that are one point c and the predictor that knows it, x_t is normal, of a mean and a variance that
    follow x_{t−1} = a c + b x_t + σ_t z by hand from x_T ~ N(0, 1); for σ² = β̃ that is q(x_t | c) itself but for what
    ᾱ_T leaves.  The last step adds no noise: x_0 = c exactly, also for σ² = β, where σ_1 is not 0.  Algorithm 2."""
    model, c, n = small((1, 2, 2), T=6, variance=variance), 0.4, 4000
    s = model.schedule
    mean, spread = 0.0, 1.0
    for t, x in knows(model, c).ancestral(n, ng.Generator(0)):
        if t < model.T:
            later = t + 1
            before, now, alpha = s.alpha_bars[t], s.alpha_bars[later], 1 - s.betas[later]
            a = math.sqrt(before) * s.betas[later] / (1 - now)
            b = math.sqrt(alpha) * (1 - before) / (1 - now)
            sigma2 = s.betas[later] if variance == "beta" else s.betas[later] * (1 - before) / (1 - now)
            mean, spread = a * c + b * mean, b**2 * spread + (sigma2 if later > 1 else 0.0)
        if t == 0:
            np.testing.assert_allclose(x.data, c, atol=1e-9)
            assert spread < 1e-20
        else:
            assert x.data.mean() == pytest.approx(mean, abs=6 * math.sqrt(spread / x.data.size))
            assert x.data.var() == pytest.approx(spread, rel=6 * math.sqrt(2 / x.data.size))
        if variance == "posterior":
            assert spread == pytest.approx(1 - s.alpha_bars[t], abs=2 * s.alpha_bars[-1])
    assert (model.sample(3, ng.Generator(0)) == round((c + 1) * 8)).all()


@given(
    T=st.integers(2, 30),
    steps=st.integers(1, 30),
    eta=st.sampled_from([0.0, 0.5, 1.0]),
    kind=st.sampled_from(sorted(SCHEDULES)),
)
def test_ddim_returns_the_image_that_the_predictor_knows(T: int, steps: int, eta: float, kind: str) -> None:
    """With the true noise x_s = √ᾱ_s x_0 + √(1 − ᾱ_s) ε all the way, of the one ε that x_T began with if η = 0, and
    x_0 at the end, in however many steps.  Song et al. 2021, eq. 12."""
    model, x0 = small((1, 1, 2), T=T, schedule=kind), np.array([-0.5, 0.25]).reshape(1, 1, 1, 2)
    s, steps = model.schedule, min(steps, T)
    path = list(knows(model, x0).ddim(3, ng.Generator(0), steps, eta))
    assert [t for t, _ in path] == ddim_times(T, steps)
    np.testing.assert_allclose(path[-1][1].data, np.repeat(x0, 3, axis=0), atol=1e-9)
    if eta == 0:
        start = path[0][1].data
        noise = (start - math.sqrt(s.alpha_bars[T]) * x0) / math.sqrt(1 - s.alpha_bars[T])
        for t, x in path:
            expected = math.sqrt(s.alpha_bars[t]) * x0 + math.sqrt(1 - s.alpha_bars[t]) * noise
            np.testing.assert_allclose(x.data, expected, atol=1e-6)


def test_ddim_draws_its_start_alone() -> None:
    """η is 0 unless given, and then nothing is drawn on the way: x_T decides."""
    model, rng, once = awake(small()), ng.Generator(5), ng.Generator(5)
    path = list(model.ddim(3, rng, 4))
    once.normal((3, 1, 2, 3), np.float64)
    assert np.array_equal(rng.normal(9), once.normal(9))
    again = list(model.ddim(3, ng.Generator(5), 4, 0.0))
    assert all(np.array_equal(x.data, y.data) for (_, x), (_, y) in zip(path, again, strict=True))


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_ddim_with_eta_1_in_all_steps_is_ancestral_sampling(kind: str) -> None:
    """η = 1 and T steps: σ² is β̃_t and the mean μ̃_t at x̂_0 (Song et al. 2021, section 4.1), number by number, also
    where x̂_0 is clipped: the noise must be the one that the clipped x̂_0 leaves, not the network's."""
    model = awake(small(T=9, schedule=kind))
    wild = model.unet
    predicts(model, lambda x, t: 4.0 * wild(x, t))
    a, b = list(model.ancestral(3, ng.Generator(2))), list(model.ddim(3, ng.Generator(2), 9, 1.0))
    clipped = [abs(model.predict_x0(x, np.full(3, t)).data) == 1 for t, x in a[:-1]]
    assert 0.05 < np.mean(clipped) < 1
    for (t, x), (s, y) in zip(a, b, strict=True):
        assert t == s
        np.testing.assert_allclose(x.data, y.data, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_ddims_noise(eta: float) -> None:
    """Between the times t and s, σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s) is new noise and 1 − ᾱ_s − σ² that of x_t:
    for a known image c, the regression of x_s on the ε that x_t began with.  Song et al. 2021, eq. 12 and 16.

    Half of the signal is left from t to s, and some at t: so that no factor of σ² is nearly 1."""
    model, c = small((1, 2, 2), schedule=NoiseSchedule([0.1, 0.2, 0.1, 0.3, 0.2, 0.1])), 0.4
    (t, start), (s, x), _ = list(knows(model, c).ddim(4000, ng.Generator(0), 2, eta))
    before, now = model.schedule.alpha_bars[s], model.schedule.alpha_bars[t]
    sigma2 = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
    assert max(1 - before, 1 - now, 1 - now / before) < 0.7
    epsilon = (start.data - math.sqrt(now) * c) / math.sqrt(1 - now)
    rest = x.data - math.sqrt(before) * c
    slope = (rest * epsilon).mean() / (epsilon**2).mean()
    n = rest.size
    assert slope == pytest.approx(math.sqrt(1 - before - sigma2), abs=6 * math.sqrt(sigma2 / n))
    assert (rest - slope * epsilon).var() == pytest.approx(sigma2, rel=6 * math.sqrt(2 / n))


def test_ddim_where_hardly_any_signal_is_left() -> None:
    """η = 1 and ᾱ_t of 1e-20: 1 − ᾱ_s − σ² is 0 but for rounding, and its root is a number; float32 stays."""
    model = awake(
        DDPM((1, 2, 2), 2, schedule=NoiseSchedule([0.99] * 10 + [0.9999, 0.3]), channels=2, multipliers=(1,), heads=1)
    )
    for steps in range(1, 13):
        for _, x in model.ddim(2, ng.Generator(0), steps, 1.0):
            assert x.dtype == np.float32
            assert np.isfinite(x.data).all()


@given(T=st.integers(1, 1200), data=st.data())
def test_ddim_times(T: int, data: st.DataObject) -> None:
    """From T to 0, strictly falling, as evenly as whole numbers go; all times for T steps."""
    steps = data.draw(st.integers(1, T))
    times = ddim_times(T, steps)
    assert (times[0], times[-1], len(times)) == (T, 0, steps + 1)
    gaps = {a - b for a, b in itertools.pairwise(times)}
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert ddim_times(T, T) == list(range(T, -1, -1))


def test_samples_do_not_depend_on_the_mode() -> None:
    """Dropout is the loss's alone: sampling and the bound are the same in training and in evaluation."""
    model, images = awake(small(dropout=0.5)), some_images()
    results = []
    for mode in (True, False):
        model.train(mode)
        results.append((model.sample(2, ng.Generator(0)), model.elbo(images, ng.Generator(0)).data))
    assert np.array_equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])
    losses = [model.train(mode).loss(images, ng.Generator(0)).item() for mode in (True, False)]
    assert losses[0] != losses[1]


SHAPES = st.sampled_from([(1, 7, 5), (3, 4, 4), (1, 1, 1), (3, 5, 2), (2, 3, 8)])


@given(
    shape=SHAPES,
    levels=st.sampled_from([2, 256]),
    T=st.integers(2, 4),
    kind=st.sampled_from(sorted(SCHEDULES)),
    variance=st.sampled_from(["beta", "posterior"]),
    multipliers=st.sampled_from([(1,), (1, 2), (2, 1, 1)]),
)
def test_shapes(
    shape: tuple[int, int, int], levels: int, T: int, kind: str, variance: str, multipliers: tuple[int, ...]
) -> None:
    """Odd sides, colours, T from 2 on, every schedule: a loss, T + 1 terms and samples of levels that exist."""
    model = awake(small(shape, levels, T, schedule=kind, variance=variance, multipliers=multipliers, heads=2))
    images, rng = np.random.default_rng(0).integers(0, levels, (2, *shape)).astype(np.uint8), ng.Generator(0)
    assert np.isfinite(model.loss(images, rng).item())
    terms = model.bound_terms(images, rng)
    assert terms.shape == (2, T + 1)
    assert np.isfinite(terms.data).all()
    for samples in (model.sample(2, rng), model.sample(2, rng, steps=1), model.sample(2, rng, steps=2, eta=1.0)):
        assert samples.shape == (2, *shape)
        assert samples.dtype == np.uint8
        assert samples.max() < levels


# The network


def test_time_embedding_is_the_transformers() -> None:
    """Row n is (sin t_n ω_i …, cos t_n ω_i …), ω_i = 10000^(−i/half): along the channels, a row an image.  Vaswani et
    al. 2017, section 3.5.  No two times of 1 … 1000 share a row."""
    like = ng.tensor(np.zeros(1))
    t = np.array([1, 7, 1000])
    rows = sinusoidal_embedding(t, 6, like).data
    assert rows.shape == (3, 6)
    for n, i in itertools.product(range(3), range(3)):
        angle = t[n] * 10000 ** (-i / 3)
        assert rows[n, i] == pytest.approx(math.sin(angle), abs=1e-9)
        assert rows[n, 3 + i] == pytest.approx(math.cos(angle), abs=1e-9)
    every = sinusoidal_embedding(np.arange(1, 1001), 32, like).data
    gaps = np.sqrt(((every[:, None] - every[None]) ** 2).sum(-1)) + 9 * np.eye(1000)
    assert gaps.min() > 0.3
    single = sinusoidal_embedding(np.array([3]), 6, ng.tensor(np.zeros(1, np.float32)))
    assert single.dtype == np.float32


def test_network_knows_the_time_of_each_image() -> None:
    """Another time for one image changes that image's output and no other's; and so does another image."""
    net = awake(UNet(2, 4, (1, 2), 1, 2, 0.0, ng.Generator(0)).to(np.float64))
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((3, 2, 5, 4)), np.array([3, 50, 7])
    out = net(ng.tensor(x), t).data
    assert out.shape == x.shape
    later = net(ng.tensor(x), np.array([3, 51, 7])).data
    assert (later[1] != out[1]).any()
    assert np.allclose(later[[0, 2]], out[[0, 2]], rtol=1e-12, atol=1e-12)
    x[2] += 1.0
    other = net(ng.tensor(x), t).data
    assert (other[2] != out[2]).any()
    assert np.allclose(other[:2], out[:2], rtol=1e-12, atol=1e-12)


def test_network_starts_with_zeros() -> None:
    """A fresh network predicts 0, its residual branches and attention nothing: Ho et al. 2020, their code."""
    net = UNet(1, 4, (1, 2), 1, 2, 0.0, ng.Generator(0))
    x = ng.tensor(np.random.default_rng(0).standard_normal((2, 1, 4, 4)).astype(np.float32))
    assert (net(x, np.array([1, 9])).data == 0).all()
    h = ng.tensor(np.random.default_rng(0).standard_normal((2, 8, 2, 2)).astype(np.float32))
    assert np.array_equal(net.attention(h).data, h.data)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_equivariant_and_by_the_formula(heads: int) -> None:
    """Attention knows no places: pixels in another order give outputs in that order.  And it is softmax(QKᵀ/√d) V a
    head, d = C / heads, by plain NumPy.  Vaswani et al. 2017, eq. 1."""
    rng, n, c, size = np.random.default_rng(0), 2, 8, (3, 2)
    layer = awake(Attention(c, heads, ng.Generator(0)).to(np.float64))
    h = rng.standard_normal((n, c, *size))
    out = layer(ng.tensor(h)).data
    order = rng.permutation(6)
    shuffled = h.reshape(n, c, 6)[:, :, order].reshape(h.shape)
    np.testing.assert_allclose(
        layer(ng.tensor(shuffled)).data.reshape(n, c, 6), out.reshape(n, c, 6)[:, :, order], rtol=1e-9, atol=1e-12
    )
    assert abs(out - h).max() > 0.01

    normed = layer.norm(ng.tensor(h)).data.reshape(n, c, 6)
    qkv = np.einsum("oc,ncp->nop", layer.qkv.weight.data[:, :, 0, 0], normed) + layer.qkv.bias.data[:, None]
    q, k, v = qkv.reshape(n, 3, heads, c // heads, 6).transpose(1, 0, 2, 3, 4)
    weights = special.softmax(np.einsum("nhdp,nhdr->nhpr", q, k) / math.sqrt(c / heads), axis=-1)
    seen = np.einsum("nhpr,nhdr->nhdp", weights, v).reshape(n, c, 6)
    expected = np.einsum("oc,ncp->nop", layer.out.weight.data[:, :, 0, 0], seen) + layer.out.bias.data[:, None]
    np.testing.assert_allclose(out, h + expected.reshape(h.shape), rtol=1e-9, atol=1e-12)


def test_every_pixel_reaches_every_output() -> None:
    """The attention and the halved resolutions let the corner of an image speak to the opposite one."""
    net = awake(UNet(1, 4, (1, 2), 1, 1, 0.0, ng.Generator(0)).to(np.float64))
    x = leaf(np.random.default_rng(0).standard_normal((1, 1, 12, 12)))
    slope = ng.grad(net(x, np.array([3]))[0, 0, 0, 0], [x])[0]
    assert slope.data[0, 0, 11, 11] != 0


@pytest.mark.parametrize(("settings", "word"), [
    ({"T": 1}, "T must"), ({"T": 2.5}, "T must"), ({"schedule": "square"}, "schedule must be one of"),
    ({"variance": "alpha"}, "variance must be one of beta, posterior, learned"), ({"channels": 3}, "channels"),
    ({"prediction": "eps"}, "prediction must be one of noise, x0, mean, v"),
    ({"times": "late"}, "times must be one of"), ({"weighting": "snr"}, "weighting must be one of simple, bound"),
    ({"channels": 0}, "channels"), ({"heads": 3}, "channels"), ({"blocks": 0}, "blocks"), ({"heads": 0}, "heads"),
    ({"multipliers": ()}, "multipliers"), ({"multipliers": (1, 0)}, "multipliers"), ({"dropout": -0.1}, "p must"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name; heads have to divide the width where they are, the last one."""
    with pytest.raises(ValueError, match=word):
        small(**settings)
    assert small(multipliers=(1, 3), heads=3).unet.attention.heads == 3


@pytest.mark.parametrize(("how", "word"), [
    ({"steps": 0}, "steps"), ({"steps": 9}, "steps"), ({"steps": 2.0}, "steps"), ({"steps": 2, "eta": 1.5}, "eta"),
    ({"steps": 2, "eta": -0.1}, "eta"), ({"n": 0}, "n must"),
])  # fmt: skip
def test_bad_ways_of_sampling(how: dict[str, Any], word: str) -> None:
    """A number of steps outside 1 … T, or an η outside [0, 1], is refused by name."""
    with pytest.raises(ValueError, match=word):
        small().sample(**{"n": 1, "rng": ng.Generator(0), **how})


def test_eta_is_ddim_s() -> None:
    """eta has no meaning for the full chain: given without steps it is refused."""
    model = DDPM((1, 4, 4), 4, T=3, channels=8, multipliers=(1,), heads=2)
    with pytest.raises(ValueError, match="steps"):
        model.sample(1, ng.Generator(0), eta=0.5)
