"""The variational autoencoder: bounds against likelihoods that are known, by algebra and by quadrature."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers import check_slope, leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen.distributions import Categorical, DiscretizedLogistic, Normal
from nanogen.models import VAE

FLOOR = 1e-6


def small(shape: tuple[int, int, int] = (1, 2, 2), levels: int = 2, **settings: Any) -> VAE:
    settings = {"latent": 1, "channels": 2, "stages": 1, **settings}
    return VAE(shape, levels, rng=ng.Generator(1), **settings).to(np.float64)


class LinearVAE(VAE):
    """p(z) = N(0, I), p(x|z) = N(W z + b, s² I) and q(z|x) = N(true posterior's mean + shift, (stretch · its std)²).

    log p(x) = log N(x; b, W Wᵀ + s² I) is known.  W's columns are orthogonal, so that the true posterior's covariance
    (I + Wᵀ W / s²)⁻¹ is diagonal and q can reach it.  Only `elbo` and the bounds are the real model's.
    """

    def __init__(self, shift: float = 0.0, stretch: float = 1.0):
        super().__init__((1, 2, 3), 16, latent=2, channels=2, stages=1)
        self.to(np.float64)
        rng = np.random.default_rng(0)
        self.w = np.linalg.qr(rng.standard_normal((6, 2)))[0] * [3.0, 1.2]
        self.b, self.s, self.shift, self.stretch = 7.0 + rng.standard_normal(6), 1.3, shift, stretch

    def true_posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        covariance = np.linalg.inv(np.eye(2) + self.w.T @ self.w / self.s**2)
        return (x.reshape(len(x), -1) - self.b) @ self.w @ covariance / self.s**2, np.diag(covariance) ** 0.5

    def encode(self, images: Any) -> Normal:
        mean, std = self.true_posterior(images)
        return Normal(mean + self.shift, np.broadcast_to(self.stretch * std, mean.shape))

    def decode(self, z: ng.Tensor) -> Any:
        mean = z @ ng.tensor(self.w.T) + self.b
        return Normal(mean.reshape(len(z), 1, 2, 3), self.s)

    def true_log_prob(self, x: np.ndarray) -> np.ndarray:
        covariance = self.w @ self.w.T + self.s**2 * np.eye(6)
        return np.atleast_1d(stats.multivariate_normal(self.b, covariance).logpdf(x.reshape(len(x), -1)))


class Nodes(ng.Generator):
    """Its normal draws are the nodes of Gauss–Hermite quadrature, a pair a row.

    What is averaged here is quadratic in the noise, for which three nodes an axis are exact."""

    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    pairs = np.array(list(itertools.product(nodes, nodes)))
    weight = np.outer(weights, weights).ravel() / weights.sum() ** 2

    def normal(self, size: Any = (), dtype: Any = None) -> Any:
        assert size == self.pairs.shape
        return self.pairs


def nine(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[None], 9, axis=0)


def some_images(n: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 16, (n, 1, 2, 3)).astype(np.uint8)


def test_elbo_is_the_likelihood_at_the_true_posterior() -> None:
    """q = p(z|x) makes the bound tight: E[elbo] = log p(x), for a model whose log p is known.  Kingma & Welling 2014,
    eq. 1.  A sign in the KL, E[p] for E[log p], or KL(q‖p(x|z)) for KL(q‖p(z)) would all show."""
    model = LinearVAE()
    for image in some_images(4):
        elbo = model.elbo(nine(image), Nodes(0)).data
        assert Nodes.weight @ elbo == pytest.approx(model.true_log_prob(image[None])[0], rel=1e-10)


@pytest.mark.parametrize(("shift", "stretch"), [(0.3, 1.0), (0.0, 1.6), (-0.2, 0.5)])
def test_elbo_falls_short_by_the_divergence_from_the_true_posterior(shift: float, stretch: float) -> None:
    """log p(x) − E[elbo] = KL(q(z|x) ‖ p(z|x)), by hand ½ Σ (r² + (shift/std)² − 1 − log r²).  Kingma & Welling 2014,
    eq. 1."""
    model, image = LinearVAE(shift, stretch), some_images(1)
    std = model.true_posterior(image)[1]
    gap = 0.5 * (stretch**2 + (shift / std) ** 2 - 1 - math.log(stretch**2)).sum()
    elbo = Nodes.weight @ model.elbo(nine(image[0]), Nodes(0)).data
    assert gap > 0
    assert model.true_log_prob(image)[0] - elbo == pytest.approx(gap, rel=1e-9)


@pytest.mark.parametrize("log_variance", [-90.0, -250.0])
def test_the_divergence_keeps_the_encoders_logarithm(log_variance: float) -> None:
    """In float32 a log-variance l whose variance is 0 has the divergence ½ (eˡ + μ² − 1 − l) all the same, and the
    elbo the slope ½ (1 − eˡ) in l: nothing pulls it back otherwise.  Kingma & Welling 2014, appendix B."""
    model, images = VAE((1, 4, 4), 17, latent=3, channels=2), np.full((2, 1, 4, 4), 5, np.uint8)
    logs = leaf(np.full((2, 3), log_variance, np.float32))
    mean = ng.tensor(np.array([[0.5, -1.0, 2.0]] * 2, np.float32))
    model.encoder.forward = lambda x: ng.functional.cat([mean, logs], 1)  # type: ignore[method-assign]
    elbo = model.elbo(images, ng.Generator(0))
    known = model.decode(mean).log_prob(images).sum((1, 2, 3)).data
    np.testing.assert_allclose(known - elbo.data, 0.5 * (5.25 - 3 - 3 * log_variance), rtol=1e-5)
    np.testing.assert_allclose(ng.grad(elbo.sum(), logs)[0].data, 0.5, rtol=1e-6)


def test_importance_weights_are_constant_at_the_true_posterior() -> None:
    """p(x|z) p(z) / q(z|x) = p(x) for every z if q = p(z|x): the bound is log p(x) for any K, without noise.

    Burda et al. 2016, eq. 8."""
    model, images = LinearVAE(), some_images(5)
    for samples in (1, 3):
        bound = model.importance_weighted_bound(images, ng.Generator(0), samples).data
        np.testing.assert_allclose(bound, model.true_log_prob(images), rtol=1e-10)


def test_importance_weighted_bound_rises_from_elbo_to_likelihood() -> None:
    """K = 1 has the elbo's expectation (exactly, by quadrature); E[bound] rises with K to log p(x), by more than six
    standard errors a step.  Burda et al. 2016, theorem 1."""
    model, image, n = LinearVAE(0.3, 1.5), some_images(1), 3000
    elbo = Nodes.weight @ model.elbo(nine(image[0]), Nodes(0)).data
    one = Nodes.weight @ model.importance_weighted_bound(nine(image[0]), Nodes(0), 1).data
    assert one == pytest.approx(elbo, rel=1e-10)
    copies, means, errors = np.repeat(image, n, axis=0), [elbo], [0.0]
    for samples in (2, 6, 40):
        bound = model.importance_weighted_bound(copies, ng.Generator(samples), samples).data
        means.append(bound.mean())
        errors.append(bound.std() / n**0.5)
    for (low, high), (a, b) in zip(itertools.pairwise(means), itertools.pairwise(errors), strict=True):
        assert high - low > 6 * math.hypot(a, b)
    assert -6 * errors[-1] < model.true_log_prob(image)[0] - means[-1] < 0.02


# The real networks, over all images there are


ALL = np.array(list(itertools.product((0, 1), repeat=4)), np.uint8).reshape(-1, 1, 2, 2)


def sharpened(**settings: Any) -> VAE:
    """Weights large enough that images depend on z and posteriors on images."""
    model = small(**settings)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.7
    return model


GRID = np.linspace(-9, 9, 1801)  # for the trapezium rule over a latent of one dimension


def log_joint(model: VAE) -> np.ndarray:
    """log p(x|z) + log N(z; 0, 1) for all images and all points of the grid: (16, len(GRID))."""
    with ng.no_grad():
        density = model.decode(ng.tensor(GRID[:, None]))
        log_p = [density.log_prob(np.repeat(x[None], len(GRID), axis=0)).data.sum((1, 2, 3)) for x in ALL]
    return np.stack(log_p) + stats.norm.logpdf(GRID)


def log_prob_by_quadrature(model: VAE) -> np.ndarray:
    """log p(x) = log ∫ p(x|z) p(z) dz."""
    return special.logsumexp(log_joint(model), axis=1) + math.log(GRID[1] - GRID[0])


def elbo_by_quadrature(model: VAE) -> np.ndarray:
    """∫ q(z|x) [log p(x|z) + log p(z) − log q(z|x)] dz.  Kingma & Welling 2014, eq. 2."""
    q = model.encode(ALL)
    log_q = stats.norm.logpdf(GRID, q.mean.data, q.std.data)
    return (np.exp(log_q) * (log_joint(model) - log_q)).sum(axis=1) * (GRID[1] - GRID[0])


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_bounds_of_the_real_networks(decoder: str) -> None:
    """Σ_x p(x) = 1 with p(x) = ∫ p(x|z) p(z) dz by quadrature; for every image the elbo has the expectation that
    quadrature gives, and E[elbo] ≤ E[bound of K = 32] ≤ log p(x), within six standard errors."""
    model, n = sharpened(decoder=decoder), 500
    log_p = log_prob_by_quadrature(model)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
    copies = np.repeat(ALL, n, axis=0)
    with ng.no_grad():
        elbo = model.elbo(copies, ng.Generator(0)).data.reshape(16, n)
        tighter = model.importance_weighted_bound(copies, ng.Generator(1), 32).data.reshape(16, n)
    error = lambda x: x.std(axis=1) / n**0.5
    assert (abs(elbo.mean(axis=1) - elbo_by_quadrature(model)) < 6 * error(elbo)).all()
    assert (elbo.mean(axis=1) <= tighter.mean(axis=1) + 6 * error(elbo)).all()
    assert (tighter.mean(axis=1) <= log_p + 6 * error(tighter)).all()
    assert elbo.mean() < log_p.mean() - 0.01
    assert log_p.mean() - tighter.mean() < 0.3 * (log_p.mean() - elbo.mean())


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_samples_follow_the_density(decoder: str) -> None:
    """z ~ p(z), then x ~ p(x|z): χ² of 20,000 images against p(x) by quadrature, which a sampler of independent pixels
    with the same marginals would not pass."""
    model = sharpened(decoder=decoder)
    p = np.exp(log_prob_by_quadrature(model))
    x = model.sample(20_000, ng.Generator(2))
    assert x.dtype == np.uint8
    counts = np.bincount(x.reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
    alone = np.prod([np.bincount(v, p)[v] for v in ALL.reshape(16, 4).T], axis=0)
    test = lambda q: stats.chisquare(counts, q / q.sum() * counts.sum()).pvalue
    assert test(p) > FLOOR > test(alone)


# Shapes, pictures, gradients


SHAPES = st.sampled_from([(1, 7, 5), (3, 4, 4), (1, 1, 1), (3, 5, 2), (2, 3, 8)])


@given(shape=SHAPES, levels=st.sampled_from([2, 17, 256]), latent=st.integers(1, 3), stages=st.integers(1, 3),
       decoder=st.sampled_from(["categorical", "logistic"]))  # fmt: skip
def test_shapes(shape: tuple[int, int, int], levels: int, latent: int, stages: int, decoder: str) -> None:
    """Odd sides, colours, any levels: a bound an image, finite; pictures of levels that exist, uint8."""
    model = small(shape, levels, latent=latent, stages=stages, decoder=decoder)
    images = np.random.default_rng(0).integers(0, levels, (3, *shape)).astype(np.uint8)
    rng = ng.Generator(0)
    assert model.encode(images).mean.shape == (3, latent)
    for bound in (model.elbo(images, rng), model.importance_weighted_bound(images, rng, 2)):
        assert bound.shape == (3,)
        assert np.isfinite(bound.data).all()
    for pictures in (
        model.sample(3, rng),
        model.reconstruct(images),
        model.picture(rng.normal((3, latent), np.float64)),
    ):
        assert pictures.shape == (3, *shape)
        assert pictures.dtype == np.uint8
        assert pictures.max() < levels
    lines = model.interpolate(images[:2], images[1:], steps=4)
    assert lines.shape == (2, 4, *shape)
    assert np.array_equal(lines[:, 0], model.reconstruct(images[:2])), "a line begins at the start's reconstruction"
    assert np.array_equal(lines[:, -1], model.reconstruct(images[1:])), "and ends at the end's"


def test_interpolation_is_a_straight_line() -> None:
    """The k-th of K pictures is that of the latent (1 − w) a + w b, w = k / (K − 1)."""
    model = sharpened(shape=(1, 4, 4), levels=256, latent=2)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 4)).astype(np.uint8)
    a, b = model.encode(images).mean.data
    z = np.stack([(1 - w) * a + w * b for w in (0, 0.25, 0.5, 0.75, 1)])
    assert np.array_equal(model.interpolate(images[:1], images[1:], 5)[0], model.picture(z))
    assert np.array_equal(model.interpolate(images[:1], images[1:], 2)[0], model.picture(z[[0, -1]])), "both ends"
    assert np.array_equal(model.interpolate(images[:1], images[1:], 1)[0], model.picture(z[:1]))
    assert np.array_equal(model.picture(ng.Tensor(z)), model.picture(z))


def test_networks_are_built_as_they_say() -> None:
    """A block adds to its input; norms have eight groups, or as many as divide the width; it doubles with each halving,
    so the decoder begins as wide as the encoder ends, at its size."""
    model = small((1, 12, 8), 4, channels=12, stages=3)
    assert (model.encoder.block.norm.num_groups, model.decoder.norm.num_groups) == (8, 4)
    block, h = model.encoder.block, ng.tensor(np.random.default_rng(0).standard_normal((2, 96, 2, 1)))
    np.testing.assert_allclose(block(h).data - h.data, block.conv(block.norm(h)).data, rtol=1e-9, atol=1e-12)
    assert model.decoder.channels == 12 * 2**3
    assert model.encoder.last.weight.shape[1] == model.decoder.first.weight.shape[0] == 96 * 2 * 1


def test_posterior_and_likelihood_are_the_networks() -> None:
    """q(z|x): the encoder gives a log-variance, so std² = exp of it.  p(x|z): channels are colour by colour, and
    inside a colour level by level (or mean and log-scale), of the same pixel."""
    images = np.random.default_rng(0).integers(0, 5, (2, 3, 3, 4)).astype(np.uint8)
    model = small((3, 3, 4), 5, latent=2)
    mean, log_variance = model.encoder(model.scaled(images)).split(2, 1)
    q = model.encode(images)
    assert np.array_equal(q.mean.data, mean.data)
    np.testing.assert_allclose(q.std.data**2, np.exp(log_variance.data), rtol=1e-12)
    z = ng.tensor(np.random.default_rng(1).standard_normal((2, 2)))
    density = model.decode(z)
    assert isinstance(density, Categorical)
    raw = model.decoder(z).data.reshape(2, 3, 5, 3, 4)
    assert np.array_equal(density.logits.data, raw.transpose(0, 1, 3, 4, 2))
    expected = np.rint(special.softmax(density.logits.data, axis=-1) @ np.arange(5))
    assert np.array_equal(model.picture(z), expected), "a picture is the mean level"

    model = small((3, 3, 4), 256, latent=2, decoder="logistic")
    other = model.decode(z)
    assert isinstance(other, DiscretizedLogistic)
    raw = model.decoder(z).data.reshape(2, 3, 2, 3, 4)
    assert np.array_equal(other.mean.data, raw[:, :, 0])
    np.testing.assert_allclose(
        other.log_scale.data - raw[:, :, 1], other.log_scale.data[0, 0, 0, 0] - raw[0, 0, 1, 0, 0]
    )


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_loss_and_its_gradient(decoder: str) -> None:
    """loss = −mean elbo / (C·H·W) of the same draws; its slope along a random direction in all parameters, encoder and
    decoder, is that of central differences (the reparameterisation of Kingma & Welling 2014, section 2.4)."""
    model = sharpened(shape=(1, 3, 2), levels=4, latent=2, decoder=decoder)
    images = np.random.default_rng(0).integers(0, 4, (3, 1, 3, 2)).astype(np.uint8)
    loss = model.loss(images, ng.Generator(7))
    assert loss.item() == pytest.approx(-model.elbo(images, ng.Generator(7)).data.mean() / 6, rel=1e-12)
    check_slope(lambda: model.loss(images, ng.Generator(7)), model)


def test_same_seed_same_bits() -> None:
    """Weights, bounds and samples are functions of the seeds."""
    images = ALL
    runs = [(small().elbo(images, ng.Generator(s)).data, small().sample(9, ng.Generator(s))) for s in (3, 3, 4)]
    assert np.array_equal(runs[0][0], runs[1][0])
    assert np.array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize(("settings", "word"), [
    ({"latent": 0}, "latent"), ({"channels": -1}, "channels must be a positive"), ({"stages": 0}, "stages"),
    ({"decoder": "gauss"}, "decoder must be one of categorical, logistic"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(**settings)
    model = small()
    with pytest.raises(ValueError, match="n must"):
        model.sample(0, ng.Generator(0))
    with pytest.raises(ValueError, match="samples"):
        model.importance_weighted_bound(ALL, ng.Generator(0), 0)
    with pytest.raises(ValueError, match="steps"):
        model.interpolate(ALL, ALL, 0)
