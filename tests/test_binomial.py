"""Diffusion of bits, by enumeration of all small binary images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen.distributions import Bernoulli
from nanogen.models import BinomialDiffusion
from nanogen.models.diffusion.binomial import BitFlips

CHAINS = [[0.3, 0.1, 0.6], [0.5, 0.05], [1 / 3, 0.5, 1.0]]


def all_images(side: int) -> np.ndarray:
    """Every image of 1 and −1: (2^(side²), 1, side, side)."""
    n = side * side
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    return (2.0 * bits - 1).reshape(-1, 1, side, side)


def kernel(beta: float, side: int) -> np.ndarray:
    """q(x_t | x_{t−1}) from each image (rows) to each: every pixel is flipped with probability β/2 by itself."""
    x = all_images(side).reshape(-1, side * side)
    flips = (x[:, None] != x[None]).sum(2)
    return (beta / 2) ** flips * (1 - beta / 2) ** (side * side - flips)


def probabilities(logits: Any, side: int) -> np.ndarray:
    """Of every image (columns), if pixels are independent with these log-odds (N, 1, side, side)."""
    p, x = special.expit(np.asarray(logits)).reshape(-1, 1, side * side), all_images(side).reshape(1, -1, side * side)
    return np.where(x > 0, p, 1 - p).prod(2)


def small(T: int = 3, side: int = 2, betas: Any = None) -> BinomialDiffusion:
    model = BinomialDiffusion((1, side, side), 2, T, 4, (1,), heads=1).to(np.float64)
    if betas is not None:
        model.flips = BitFlips(betas)
    return model


def believes(model: BinomialDiffusion, chances: np.ndarray) -> BinomialDiffusion:
    """The model with the exact p(x_0 | x_t) of images whose pixels are 1 with these chances, each by itself."""

    def x0_logits(x_t: Any, t: Any, rng: Any = None) -> Any:
        bars = model.flips.alpha_bars[t].reshape(-1, 1, 1, 1)
        with np.errstate(divide="ignore"):
            return ng.tensor(special.logit(chances) + np.log(1 + bars * x_t.data) - np.log(1 - bars * x_t.data))

    model.x0_logits = x0_logits  # type: ignore[method-assign,assignment]
    return model


# The forward process


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("betas", CHAINS)
def test_marginal_is_the_steps_composed(side: int, betas: list[float]) -> None:
    """q(x_t | x_0) = Bern(x_0 ᾱ_t + (1 − ᾱ_t)/2) is what t steps make of each image.  Sohl-Dickstein et al. 2015,
    table of the appendix."""
    flips, composed, images = BitFlips(betas), np.eye(2 ** (side * side)), all_images(side)
    for t in range(flips.T + 1):
        np.testing.assert_allclose(probabilities(flips.q_logits(images, t), side), composed, rtol=1e-12, atol=1e-15)
        composed = composed @ kernel(flips.betas[min(t + 1, flips.T)], side)


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("betas", CHAINS)
def test_posterior_is_bayes_rule(side: int, betas: list[float]) -> None:
    """q(x_{t−1} | x_t, x_0) = q(x_t | x_{t−1}) q(x_{t−1} | x_0) / Σ of it over all images x_{t−1}."""
    flips, images, chosen = BitFlips(betas), all_images(side), np.random.default_rng(0).integers(0, 2**side, 8)
    before = np.eye(len(images))
    for t in range(1, flips.T + 1):
        step = kernel(flips.betas[t], side)
        for x0, x_t in ((i, j) for i in chosen for j in chosen):
            joint = before[x0] * step[:, x_t]
            found = probabilities(flips.posterior_logits(images[x0 : x0 + 1], images[x_t : x_t + 1], t), side)[0]
            np.testing.assert_allclose(found, joint / joint.sum(), rtol=1e-12, atol=1e-15)
        before = before @ step


@given(T=st.integers(1, 300))
def test_the_chain_ends_at_a_half(T: int) -> None:
    """β_t = 1/(T − t + 1): ᾱ_t = 1 − t/T, and x_T knows nothing of x_0.  Section 2.4.1."""
    flips = BitFlips.linear(T)
    assert flips.T == T
    np.testing.assert_allclose(flips.betas[1:], [1 / (T - t + 1) for t in range(1, T + 1)], rtol=1e-15)
    np.testing.assert_allclose(flips.alpha_bars, 1 - np.arange(T + 1) / T, atol=1e-12)
    assert flips.alpha_bars[-1] == 0


def test_what_is_no_chain_of_flips() -> None:
    for betas in ([], [0.5, 0.0], [1.1], 0.5, [[0.5]]):
        with pytest.raises(ValueError, match="betas must be a list of numbers in"):
            BitFlips(betas)
    with pytest.raises(ValueError, match="T must be a positive integer, got 0"):
        small(T=0)


# The bound


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("betas", CHAINS)
def test_the_bound_is_tight_but_for_the_end(side: int, betas: list[float]) -> None:
    """With the exact reverse kernel, joint over the pixels, L − H(x_0) = KL(q(x_T) ‖ p(x_T)), p(x_T) uniform: the
    posteriors' entropies are ours, the kernels are enumerated."""
    flips, images = BitFlips(betas), all_images(side)
    density = np.random.default_rng(1).dirichlet(np.full(len(images), 0.3))
    marginal, bound = density, 0.0
    for t in range(1, flips.T + 1):
        of_both = marginal[:, None] * kernel(flips.betas[t], side)  # q(x_{t−1}, x_t)
        after = of_both.sum(0)
        bound -= (of_both * np.log(np.where(of_both > 0, of_both / after, 1))).sum()  # −E log p(x_{t−1} | x_t)
        for sign in (-1, 1):  # the entropy of a pixel's posterior, given x_0 and x_t that agree or do not
            pixels = Bernoulli(flips.posterior_logits(np.ones((1, 1)), np.full((1, 1), sign), t)).entropy().item()
            bound -= side * side * (1 + sign * flips.alpha_bars[t]) / 2 * pixels
        marginal = after
    of_end = Bernoulli(flips.q_logits(np.ones((1, 1)), flips.T)).entropy().item()
    bound += side * side * (np.log(2) - of_end)  # L_T
    entropy = stats.entropy(density)
    expected = stats.entropy(marginal, np.full(len(images), 1 / len(images)))
    np.testing.assert_allclose(bound - entropy, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("betas", CHAINS)
def test_the_models_bound_is_tight_for_independent_pixels(betas: list[float]) -> None:
    """There each pixel's reverse kernel is exact, so the model's own terms, for every x_0 and x_t, have the mean
    H(x_0) + KL(q(x_T) ‖ p(x_T))."""
    chances, images = np.array([0.9, 0.2, 0.5, 0.7]).reshape(1, 1, 2, 2), all_images(2)
    model = believes(small(betas=betas), chances)
    density = probabilities(special.logit(chances), 2)[0]
    rows, columns = (x.reshape(-1) for x in np.indices((16, 16)))
    bound = 0.0
    for t in range(1, model.T + 1):
        given_x0 = probabilities(model.flips.q_logits(images, t), 2)
        x0, x_t = ng.tensor(images[rows]), ng.tensor(images[columns])
        divergences = model.divergence(x0, x_t, np.full(256, t)).data.reshape(16, 16)
        assert (divergences > -1e-12).all()
        bound += (density[:, None] * given_x0 * divergences).sum()
    terms = model.bound_terms(((images + 1) / 2).astype(np.uint8), ng.Generator(0)).data
    assert terms.shape == (16, model.T + 1)
    end = density @ probabilities(model.flips.q_logits(images, model.T), 2)
    bound += density @ terms[:, -1]
    expected = stats.entropy(density) + stats.entropy(end, np.full(16, 1 / 16))
    np.testing.assert_allclose(bound, expected, rtol=1e-10)
    elbo = model.elbo(((images + 1) / 2).astype(np.uint8), ng.Generator(0)).data
    np.testing.assert_allclose(elbo, -terms.sum(1), rtol=1e-12)


def test_the_reverse_step_is_the_posteriors_mean() -> None:
    """p_θ(x_{t−1} = 1 | x_t) = Σ_{x_0} q(x_{t−1} = 1 | x_t, x_0) p_θ(x_0 | x_t), by Bayes' rule in probabilities."""
    model, rng = small(betas=CHAINS[0]), np.random.default_rng(0)
    x_t, logits = np.sign(rng.standard_normal((2, 6, 1, 2, 2)))[0], 3 * rng.standard_normal((6, 1, 2, 2))
    model.x0_logits = lambda x_t, t, rng=None: ng.tensor(logits)  # type: ignore[method-assign,assignment]
    for t in range(1, 4):
        beta, bar = model.flips.betas[t], model.flips.alpha_bars[t - 1]
        expected = 0.0
        for x0, share in ((1, special.expit(logits)), (-1, special.expit(-logits))):
            one, zero = (
                np.where(x_t == x, 1 - beta / 2, beta / 2) * (bar * (x == x0) + (1 - bar) / 2) for x in (1, -1)
            )
            expected = expected + share * one / (one + zero)
        found = special.expit(model.p_logits(ng.tensor(x_t), np.full(6, t)).data)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_loss_is_the_bound_at_a_random_time() -> None:
    """T times the divergence at t ~ U{1 … T}, per dimension: its mean over t is the sum of all terms."""
    model, n = small(T=5), 400
    model.divergence = lambda x0, x_t, t, rng=None: ng.tensor(t**2.0)  # type: ignore[method-assign,assignment]
    times = ng.Generator(3).integers(1, 6, n)
    assert sorted({*times.tolist()}) == [1, 2, 3, 4, 5]
    loss = model.loss(np.zeros((n, 1, 2, 2), np.uint8), ng.Generator(3)).item()
    assert loss == pytest.approx(5 * np.mean(times**2.0) / 4, rel=1e-12)


def test_a_sure_prediction_has_a_finite_cost() -> None:
    """A log-odds of ±200 in float32, wrong or right: −log p(x_0 | x_1) is 200 or 0, and its slope ±1 or 0."""
    model, x0 = BinomialDiffusion((1, 1, 2), 2, 4, 4, (1,), heads=1), ng.tensor(np.ones((1, 1, 1, 2), np.float32))
    logits = ng.tensor(np.array([200, -200], np.float32).reshape(1, 1, 1, 2), requires_grad=True)
    model.x0_logits = lambda x_t, t, rng=None: logits  # type: ignore[method-assign,assignment]
    found = model.divergence(x0, x0, np.array([1]))
    assert found.item() == pytest.approx(200)
    np.testing.assert_allclose(ng.grad(found.sum(), [logits])[0].data.reshape(-1), [0, -1], atol=1e-6)


# Samples


def test_samples_follow_the_density() -> None:
    """Exactly, for independent pixels with the exact denoiser and the schedule that ends at ½: χ² over the 16 images,
    4,000 samples, at a level of 0.1 %.  Samples without the first flip back (3 steps, not 4) have p < 1e-9."""
    chances = np.array([0.9, 0.2, 0.5, 0.7]).reshape(1, 1, 2, 2)
    model = believes(small(T=4), chances)
    images = model.sample(4000, ng.Generator(0))
    assert images.dtype == np.uint8
    expected = 4000 * probabilities(special.logit(chances), 2)[0]
    chain = [x.data for _, x in model.ancestral(4000, ng.Generator(0))]
    assert len(chain) == 5
    assert {*np.unique(chain)} == {-1.0, 1.0}
    assert np.array_equal((chain[-1] + 1) / 2, images)
    numbers = lambda x: np.bincount((x.reshape(-1, 4) > 0) @ [1, 2, 4, 8], minlength=16)
    assert stats.chisquare(numbers(images), expected).pvalue > 1e-3
    assert stats.chisquare(numbers(chain[-2]), expected).pvalue < 1e-9
    assert stats.chisquare(numbers(chain[0]), np.full(16, 250)).pvalue > 1e-3


def test_a_draw_of_noise_has_the_law_of_x_t() -> None:
    """q_sample: the share of ones among 40,000 is ½ + ½ ᾱ_t x_0 within 4 standard deviations, a time for each image."""
    model = small(T=4)
    x0, times = ng.tensor(np.array([1.0, -1.0]).repeat(2).reshape(4, 1, 1, 1).repeat(10_000, 2)), np.array([1, 3, 1, 2])
    ones = (model.q_sample(x0, times, ng.Generator(0)).data > 0).mean((1, 2, 3))
    expected = 0.5 + 0.5 * (1 - times / 4) * [1, 1, -1, -1]
    np.testing.assert_allclose(ones, expected, atol=4 * 0.5 / 100)


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="levels must be 2 for a diffusion of bits, got 17: --set levels=2"):
        BinomialDiffusion((1, 8, 8), 17)
    with pytest.raises(ValueError, match="channels must be even, and divide into 3 heads at the end, got 4"):
        BinomialDiffusion((1, 8, 8), 2, channels=4, heads=3)
    with pytest.raises(ValueError, match="blocks must be a positive integer, got 0"):
        BinomialDiffusion((1, 8, 8), 2, blocks=0)
