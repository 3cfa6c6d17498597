"""Posteriors beside the Gaussian, against quadrature and enumeration: mixtures of normals, and categorical codes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from scipy import optimize, special, stats

import nanogen as ng
from nanogen import functional as F
from nanogen.cli import main
from nanogen.data import Images
from nanogen.distributions import Categorical, Normal
from nanogen.models import VAE
from nanogen.models.latent.posteriors import NormalMixture, gumbel_softmax

FLOOR = 1e-6
ALL = np.array(list(itertools.product((0, 1), repeat=4)), np.uint8).reshape(-1, 1, 2, 2)
GRID = np.linspace(-9, 9, 1801)  # for the trapezium rule over a latent of one dimension
NODES = np.linspace(-8, 8, 481)  # the same for the noise of a normal draw
WEIGHTS = stats.norm.pdf(NODES) / stats.norm.pdf(NODES).sum()


def small(shape: tuple[int, int, int] = (1, 2, 2), levels: int = 2, **settings: Any) -> Any:
    """A model in float64, with weights large enough that images depend on z and posteriors on images."""
    model = VAE(shape, levels, channels=2, stages=1, rng=ng.Generator(1), **settings).to(np.float64)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.7
    return model


def mixture(**settings: Any) -> Any:
    return small(**{"posterior": "mixture", "latent": 1, "components": 3, **settings})


def categorical(**settings: Any) -> Any:
    return small(**{"posterior": "categorical", "latent": 2, "categories": 3, **settings})


class Nodes(ng.Generator):
    """The normal draws of row i are the i-th node of the quadrature, in each component.  The
    expectation under each component is then a weighted sum over the rows."""

    def normal(self, size: Any = (), dtype: Any = None) -> Any:
        assert size[0] == len(NODES)
        return np.broadcast_to(NODES.reshape(-1, *[1] * (len(size) - 1)), size)


def gives(model: Any, numbers: ng.Tensor) -> None:
    """The encoder computes these numbers for every image."""
    model.encoder.forward = lambda x: numbers + np.zeros((len(x), 1))


def expected_elbo(model: Any, image: np.ndarray) -> ng.Tensor:
    """E[elbo] of one image by the nodes."""
    elbo = model.elbo(np.repeat(image[None], len(NODES), axis=0), Nodes(0))
    return (elbo * WEIGHTS).sum()


def log_joint(model: Any, image: np.ndarray) -> np.ndarray:
    """log p(x|z) + log N(z; 0, 1) on the grid."""
    with ng.no_grad():
        density = model.decode(ng.tensor(GRID[:, None]))
        log_p = density.log_prob(np.repeat(image[None], len(GRID), axis=0)).data
    return log_p.sum((1, 2, 3)) + stats.norm.logpdf(GRID)


def elbo_by_quadrature(numbers: np.ndarray, log_p: np.ndarray, components: int) -> float:
    """∫ q(z) [log p(x, z) − log q(z)] dz, q the whole mixture of logits, means and log-variances."""
    logits, rest = numbers[:components], numbers[components:].reshape(components, 2)
    normals = stats.norm.logpdf(GRID[:, None], rest[:, 0], np.exp(rest[:, 1] / 2))
    log_q = special.logsumexp(special.log_softmax(logits) + normals, axis=1)
    return (np.exp(log_q) * (log_p - log_q)).sum() * (GRID[1] - GRID[0])


def by_differences(f: Any, x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    return np.array([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x))])


# Mixtures


def test_elbo_of_a_mixture_by_quadrature() -> None:
    """Σ_k π_k E_k[log p(x|z) + log p(z) − log q(z)] with q the whole mixture, in value and in its gradient with respect
    to π's logits, the means and the log-variances.  1/K for π_k, log q_k for log q, or π without a gradient would all
    show."""
    model, numbers = mixture(), np.array([0.9, -0.4, 0.1, -1.2, -1.0, 0.4, -2.0, 1.5, -0.5])
    given = leaf(numbers)
    gives(model, given)
    for image in ALL[[1, 6]]:
        log_p = log_joint(model, image)
        elbo = expected_elbo(model, image)
        assert elbo.item() == pytest.approx(elbo_by_quadrature(numbers, log_p, 3), abs=1e-6)
        slope = by_differences(lambda n, log_p=log_p: elbo_by_quadrature(n, log_p, 3), numbers)
        np.testing.assert_allclose(ng.grad(elbo, given)[0].data, slope, atol=2e-6)
        assert abs(slope).min() > 1e-4, "each number matters"


class TwoRoots:
    """In place of a decoder: p(x|z) = N(x; (z − 0.3)², 0.5²) for the first pixel, so that z has two modes."""

    def __init__(self, x: float):
        self.log_p = stats.norm.logpdf(x, (GRID - 0.3) ** 2, 0.5) + stats.norm.logpdf(GRID)
        self.x = x

    def log_likelihood(self, levels: np.ndarray, z: ng.Tensor, **given: Any) -> ng.Tensor:
        return Normal((z[:, 0] - 0.3) ** 2, 0.5).log_prob(self.x)


def test_a_mixture_reaches_what_a_gaussian_cannot() -> None:
    """Where p(z|x) has two modes, of masses m and 1 − m far apart, the best Gaussian covers one: it falls short of
    log p(x) by about −log max(m, 1 − m), its KL to that mode apart.  The best mixture of two falls short by less than a
    twentieth, and its weights are m and 1 − m.  Both are found by ascent along our gradients, with quadrature as the
    judge."""
    world, width = TwoRoots(3.0), GRID[1] - GRID[0]
    log_p = special.logsumexp(world.log_p) + math.log(width)
    posterior = np.exp(world.log_p - log_p) * width
    m = posterior[GRID < 0.3].sum()
    gaps, weights = {}, {}
    for components in (1, 2):
        model = mixture(components=components)
        model.log_likelihood = world.log_likelihood

        def descend(numbers: np.ndarray, model: Any = model) -> tuple[float, np.ndarray]:
            given = leaf(numbers)
            gives(model, given)
            elbo = expected_elbo(model, ALL[0])
            return -elbo.item(), -ng.grad(elbo, given)[0].data

        starts = [np.array([0.0, mean, -3.0]) for mean in (-1.4, 2.0)]
        if components == 2:
            starts = [np.array([0.0, 0.0, -1.4, -3.0, 2.0, -3.0])]
        best = min((optimize.minimize(descend, start, jac=True) for start in starts), key=lambda found: found.fun)
        gaps[components] = log_p - elbo_by_quadrature(best.x, world.log_p, components)
        assert -best.fun == pytest.approx(log_p - gaps[components], abs=1e-4)
        weights[components] = special.softmax(best.x[:components])
    assert 0.02 < m < 0.98
    least = -math.log(max(m, 1 - m))
    assert least - 0.01 < gaps[1] < least + 0.1
    assert 0 < gaps[2] < gaps[1] / 20
    assert weights[2][0] == pytest.approx(m, abs=0.01)


def test_density_and_draws_of_a_mixture() -> None:
    """log Σ_k π_k N(z; μ_k, diag σ_k²) by SciPy in two dimensions; in one, χ² of 20,000 draws in twenty bins of equal
    mass, which draws with the weights 1/K do not pass."""
    rng = np.random.default_rng(0)
    logits, mean, log_std = rng.standard_normal((2, 3)), rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 3, 2))
    z = rng.standard_normal((2, 2))
    of_each = stats.norm.logpdf(z[:, None], mean, np.exp(log_std)).sum(2)
    known = special.logsumexp(special.log_softmax(logits, axis=1) + of_each, axis=1)
    found = NormalMixture(ng.tensor(logits), Normal(mean, log_std=log_std)).log_prob(ng.tensor(z)).data
    np.testing.assert_allclose(found, known, rtol=1e-12)

    n, means, stds = 20_000, np.array([-2.0, 0.5, 3.0]), np.array([0.5, 1.5, 0.3])
    pi = np.array([0.6, 0.3, 0.1])
    cdf = lambda x, pi: (pi * stats.norm.cdf(x[:, None], means, stds)).sum(1)
    q = lambda pi: NormalMixture(
        ng.tensor(np.log(np.tile(pi, (n, 1)))),
        Normal(np.tile(means[:, None], (n, 1, 1)), np.tile(stds[:, None], (n, 1, 1))),
    )
    counts = lambda pi, of: np.histogram(cdf(q(of).rsample(ng.Generator(0)).data[:, 0], pi), 20, (0, 1))[0]
    assert stats.chisquare(counts(pi, pi)).pvalue > FLOOR
    assert stats.chisquare(counts(pi, np.ones(3) / 3)).pvalue < FLOOR


def test_code_of_a_mixture_is_in_a_mode() -> None:
    """The mean of the likeliest component, not that of all."""
    model = mixture()
    gives(model, ng.tensor(np.array([0.0, 2.0, 1.0, -3.0, 0.0, 0.5, 0.0, 4.0, 0.0])))
    assert np.array_equal(model.code(ALL[:2]).data, [[0.5], [0.5]])


def test_the_encoders_numbers_are_weights_then_each_component() -> None:
    """π = softmax of the first K; then of each component the means and the log-variances: std² = exp of them."""
    model = mixture(latent=2)
    numbers = np.arange(15.0) / 10
    gives(model, ng.tensor(numbers))
    q, rest = model.encode(ALL[:1]), numbers[3:].reshape(3, 4)
    assert np.array_equal(q.logits.data[0], numbers[:3])
    assert np.array_equal(q.components.mean.data[0], rest[:, :2])
    np.testing.assert_allclose(q.components.std.data[0] ** 2, np.exp(rest[:, 2:]), rtol=1e-12)


# Categorical codes


CODES = np.array(list(itertools.product(range(3), repeat=2)))  # two variables of three classes
ONE_HOT = np.eye(3)[CODES].reshape(9, 6)


def log_joint_of_codes(model: Any) -> np.ndarray:
    """log p(x|z) + log p(z) of all images and all codes, p(z) = 1/9: (16, 9)."""
    with ng.no_grad():
        density = model.decode(ng.tensor(ONE_HOT))
        log_p = [density.log_prob(np.repeat(x[None], 9, axis=0)).data.sum((1, 2, 3)) for x in ALL]
    return np.stack(log_p) - math.log(9)


def elbo_by_enumeration(logits: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Σ_z q(z) [log p(x, z) − log q(z)]: logits (…, 6), log p (…, 9)."""
    of_each = special.log_softmax(logits.reshape(*logits.shape[:-1], 2, 3), axis=-1)
    log_q = of_each[..., 0, CODES[:, 0]] + of_each[..., 1, CODES[:, 1]]
    return (np.exp(log_q) * (log_p - log_q)).sum(-1)


def test_exact_elbo_is_the_sum_over_all_codes() -> None:
    """Σ_z q(z|x) [log p(x|z) + log p(z) − log q(z|x)] of all images, and its gradient with respect to the logits
    against central differences: the KL is from a uniform prior, log K − entropy for each variable."""
    model = categorical()
    log_p, logits = log_joint_of_codes(model), model.encoder(model.scaled(ALL)).data
    np.testing.assert_allclose(model.exact_elbo(ALL).data, elbo_by_enumeration(logits, log_p), rtol=1e-10)
    given = leaf(logits[3])
    gives(model, given)
    slope = by_differences(lambda x: elbo_by_enumeration(x, log_p[3]), logits[3])
    np.testing.assert_allclose(ng.grad(model.exact_elbo(ALL[3:4]).sum(), given)[0].data, slope, atol=1e-7)
    assert abs(slope).max() > 0.01


@pytest.mark.parametrize("posterior", ["mixture", "categorical"])
def test_bounds_are_bounds(posterior: str) -> None:
    """Σ_x p(x) = 1, by quadrature or enumeration; of each image the elbo has its known expectation, and E[elbo] ≤
    E[bound of K = 16] ≤ log p(x), within six standard errors.  Weights of 1/K, a relaxed code, or a KL with another
    entropy would show."""
    n = 400
    if posterior == "mixture":
        model = mixture()
        joint = np.stack([log_joint(model, x) for x in ALL])
        log_p = special.logsumexp(joint, axis=1) + math.log(GRID[1] - GRID[0])
        numbers = model.encoder(model.scaled(ALL)).data
        expected = np.array([elbo_by_quadrature(x, j, 3) for x, j in zip(numbers, joint, strict=True)])
    else:
        model = categorical()
        joint = log_joint_of_codes(model)
        log_p = special.logsumexp(joint, axis=1)
        expected = elbo_by_enumeration(model.encoder(model.scaled(ALL)).data, joint)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
    copies = np.repeat(ALL, n, axis=0)
    with ng.no_grad():
        elbo = model.elbo(copies, ng.Generator(0)).data.reshape(16, n)
        tighter = model.importance_weighted_bound(copies, ng.Generator(1), 16).data.reshape(16, n)
    error = lambda x: x.std(axis=1) / n**0.5
    assert (abs(elbo.mean(1) - expected) < 6 * error(elbo)).all()
    assert (elbo.mean(1) <= tighter.mean(1) + 6 * error(tighter)).all()
    assert (tighter.mean(1) <= log_p + 6 * error(tighter)).all()
    assert log_p.mean() - tighter.mean() < 0.3 * (log_p.mean() - expected.mean())


def test_samples_of_categorical_codes_follow_the_density() -> None:
    """z uniform over the codes, then x ~ p(x|z): χ² of 20,000 images against p(x) by enumeration, which a sampler of
    independent pixels with the same marginals would not pass."""
    model = categorical()
    p = np.exp(special.logsumexp(log_joint_of_codes(model), axis=1))
    counts = np.bincount(model.sample(20_000, ng.Generator(2)).reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
    alone = np.prod([np.bincount(v, p)[v] for v in ALL.reshape(16, 4).T], axis=0)
    test = lambda q: stats.chisquare(counts, q / q.sum() * counts.sum()).pvalue
    assert test(p) > FLOOR > test(alone)


def test_the_argmax_of_gumbel_softmax_is_a_categorical_draw() -> None:
    """At any temperature: χ² of 20,000 draws.  The negative of Gumbel noise, whose argmax has other probabilities,
    would not pass: it is shown for the same draws.  Maddison et al. 2017, proposition 1."""
    logits = np.array([1.5, 0.0, -1.0, 0.5])
    p, rows = special.softmax(logits), np.tile(logits, (20_000, 1))
    test = lambda chosen: stats.chisquare(np.bincount(chosen, minlength=4), p * len(rows)).pvalue
    for temperature in (0.1, 1.0, 5.0):
        z = gumbel_softmax(ng.tensor(rows), temperature, ng.Generator(1)).data
        np.testing.assert_allclose(z.sum(1), 1, rtol=1e-12)
        assert test(z.argmax(1)) > FLOOR
    wrong = rows - stats.gumbel_r.rvs(size=rows.shape, random_state=0)
    assert test(wrong.argmax(1)) < FLOOR


def test_gumbel_softmax_has_the_concrete_density() -> None:
    """Of two classes whose logits differ by d, P(z_1 ≤ c) = σ(τ log(c/(1 − c)) − d): Kolmogorov and Smirnov's test of
    5,000 draws.  The inverse temperature does not pass.  Maddison et al. 2017, appendix B."""
    rows = np.tile([0.7, 0.0], (5000, 1))
    for temperature in (0.4, 2.5):
        z = gumbel_softmax(ng.tensor(rows), temperature, ng.Generator(2)).data[:, 0]
        test = lambda t, z=z: stats.kstest(z, lambda c: special.expit(t * special.logit(c) - 0.7)).pvalue
        assert test(temperature) > FLOOR > test(1 / temperature)


def test_as_the_temperature_falls_codes_become_one_hot() -> None:
    """Of the same noise: the distance from the one-hot code falls to 0, and rises to that of a uniform one.

    Jang et al. 2017, section 2.1."""
    logits = ng.tensor(np.random.default_rng(0).standard_normal((500, 4)))
    draw = lambda temperature, **how: gumbel_softmax(logits, temperature, ng.Generator(3), **how).data
    code = draw(1.0, hard=True)
    far = [abs(draw(t) - code).max(axis=1).mean() for t in (1e-4, 0.1, 0.3, 1.0, 3.0, 1e4)]
    assert far == sorted(far)
    assert far[0] < 1e-3
    np.testing.assert_allclose(draw(1e4), 0.25, atol=1e-2)


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    """One-hot to the bit, at the soft code's largest class; its gradient is that of the soft code of the same noise.

    Jang et al. 2017, section 2.2."""
    numbers, cotangent = np.random.default_rng(0).standard_normal((2, 50, 4))
    given = leaf(numbers)
    soft, hard = (gumbel_softmax(given, 0.7, ng.Generator(4), hard) for hard in (False, True))
    assert np.array_equal(hard.data, np.eye(4)[soft.data.argmax(1)])
    of_soft, of_hard = (ng.grad((z * cotangent).sum(), given)[0].data for z in (soft, hard))
    np.testing.assert_allclose(of_hard, of_soft, rtol=1e-12)
    assert abs(of_soft).max() > 0.1


def test_losses_of_relaxed_and_of_hard_codes() -> None:
    """With `straight_through` the loss is −elbo of the same draws, in nats per dimension; without, it is the loss of
    relaxed codes, and says so, and its gradient in the encoder's numbers is that of central differences."""
    model = categorical(straight_through=True)
    elbo = model.elbo(ALL, ng.Generator(0))
    assert model.loss_unit == "nats per dimension"
    assert model.loss(ALL, ng.Generator(0)).item() == pytest.approx(-elbo.data.mean() / 4, rel=1e-12)

    model = categorical(temperature=0.8)
    assert model.loss_unit == "nats per dimension, codes relaxed"
    assert abs(model.loss(ALL, ng.Generator(0)).item() + elbo.data.mean() / 4) > 1e-3
    given = leaf(model.encoder(model.scaled(ALL[3:4])).data[0])

    def loss(numbers: Any) -> ng.Tensor:
        gives(model, numbers if isinstance(numbers, ng.Tensor) else ng.tensor(numbers))
        return model.loss(ALL[3:4], ng.Generator(5))

    slope = by_differences(lambda x: loss(x).item(), given.data)
    np.testing.assert_allclose(ng.grad(loss(given), given)[0].data, slope, atol=1e-8)


def test_only_the_loss_sees_relaxed_codes() -> None:
    """Bounds, samples and pictures are of one-hot codes: what is decoded is 0 or 1, with one 1 for each variable."""
    model, seen = categorical(), []
    decoder = model.decoder.forward
    model.decoder.forward = lambda z, *labels: (seen.append(z.data), decoder(z, *labels))[1]
    rng, hard = ng.Generator(0), lambda z: np.isin(z, (0, 1)).all() and (z.reshape(-1, 2, 3).sum(2) == 1).all()
    for use in (
        lambda: model.elbo(ALL, rng), lambda: model.exact_elbo(ALL),
        lambda: model.importance_weighted_bound(ALL, rng, 2), lambda: model.sample(9, rng),
        lambda: model.reconstruct(ALL), lambda: model.interpolate(ALL, ALL[::-1]), lambda: model.edit(ALL, 1, [0, 2]),
    ):  # fmt: skip
        use()
        assert seen
        assert all(map(hard, seen))
        seen.clear()
    model.loss(ALL, rng)
    assert not hard(seen[0])


# What all posteriors have


KINDS: dict[str, dict[str, Any]] = {
    "gaussian": {"latent": 3}, "mixture": {"latent": 3}, "categorical": {"latent": 3, "categories": 4},
}  # fmt: skip


@pytest.mark.parametrize(("posterior", "manifold"), [("mixture", True), ("categorical", False)])
def test_a_manifold_is_of_real_numbers(posterior: str, manifold: bool) -> None:
    """Two numbers span a plane; one variable of two classes does not, though the decoder gets two numbers."""
    model = small(posterior=posterior, latent=2 if manifold else 1, categories=2)
    images = Images(ALL, None, 2, "all")
    assert model.width == 2
    assert ("manifold" in model.illustrations(images, images, ng.Generator(0))) == manifold


@pytest.mark.parametrize("posterior", KINDS)
def test_edit_changes_one_latent(posterior: str) -> None:
    """The picture of an image's code in which one dimension, or one variable's class, has another value: in rows the
    images, in columns the values."""
    model = small((1, 4, 4), 256, posterior=posterior, **KINDS[posterior])
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 4)).astype(np.uint8)
    values = [3, 0, 2]
    found = model.edit(images, 2, values)
    assert found.shape == (2, 3, 1, 4, 4)
    assert found.dtype == np.uint8
    code = model.code(images).data
    for i, value in enumerate(values):
        z = code.copy()
        if posterior == "categorical":
            z[:, 8:12] = np.eye(4)[value]
        else:
            z[:, 2] = value
        assert np.array_equal(found[:, i], model.picture(z))
    assert np.array_equal(code, model.code(images).data)
    assert (found[:, 0] != found[:, 1]).any()
    for dimension in (-1, 3):
        with pytest.raises(ValueError, match="dimension"):
            model.edit(images, dimension, values)
    with pytest.raises(ValueError, match="values"):
        model.edit(images, 0, [])


def test_edit_leaves_the_code_alone() -> None:
    """Each picture is of the code with one change, not with those made before."""
    model = small((1, 4, 4), 256, latent=3)
    z = model.code(np.zeros((1, 1, 4, 4), np.uint8))
    before = z.data.copy()
    assert model.codes.changed(z, 1, 5.0).data.tolist() == [[before[0, 0], 5.0, before[0, 2]]]
    assert np.array_equal(z.data, before)


def test_interpolation_of_categorical_codes_switches_variable_after_variable() -> None:
    """From one code to the other: the first variables are already those of the end."""
    model = small((1, 4, 4), 256, posterior="categorical", latent=4, categories=3)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 4, 4)).astype(np.uint8)
    a, b = model.code(images).data.reshape(2, 4, 3)
    z = np.stack([np.concatenate([b[:k], a[k:]]) for k in range(5)]).reshape(5, 12)
    assert np.array_equal(model.interpolate(images[:1], images[1:], 5)[0], model.picture(z))


STRIPES = np.random.default_rng(0).integers(0, 4, (64, 1, 4, 1)).astype(np.uint8).repeat(4, axis=3)


def stripes(posterior: str = "gaussian", **settings: Any) -> Any:
    settings = {"channels": 4, "stages": 1, "straight_through": True, **KINDS[posterior], **settings}
    return VAE((1, 4, 4), 4, posterior=posterior, rng=ng.Generator(1), **settings)


@pytest.mark.parametrize("posterior", KINDS)
def test_beta_one_is_the_vae(posterior: str) -> None:
    """β = 1: the loss is −(E_q[log p(x|z)] − KL) to the bit.  β weights the KL alone, in the loss alone, and says so.

    Higgins et al. 2017, eq. 4."""
    plain, one, four = (stripes(posterior, **how) for how in ({}, {"beta": 1.0}, {"beta": 4.0}))
    reconstruction, kl = plain.terms(STRIPES, lambda q: plain.codes.draws(q, ng.Generator(0)))
    for model in (plain, one):
        assert model.loss(STRIPES, ng.Generator(0)).item() == (-(reconstruction - kl)).mean().item() / 16
        assert model.loss_unit == "nats per dimension"
    weighted = (4 * kl - reconstruction).data.mean() / 16
    assert four.loss(STRIPES, ng.Generator(0)).item() == pytest.approx(weighted, rel=1e-6)
    assert four.loss_unit == "nats per dimension, the KL weighted"
    assert np.array_equal(four.elbo(STRIPES, ng.Generator(0)).data, (reconstruction - kl).data)


def test_the_kl_falls_as_beta_rises() -> None:
    """After 25 steps of training the KL is the smaller, the larger β was."""
    ends = []
    for beta in (0.1, 1.0, 10.0):
        model, rng = stripes(beta=beta), ng.Generator(2)
        optimizer = ng.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(25):
            optimizer.zero_grad()
            model.loss(STRIPES, rng).backward()
            optimizer.step()
        ends.append(model.terms(STRIPES, lambda q, of=model.codes: of.draws(q, ng.Generator(3)))[1].data.mean())
    assert ends[0] > ends[1] + 0.2
    assert ends[1] > ends[2] + 0.2


@pytest.mark.classifier
@pytest.mark.parametrize("posterior", ["mixture", "categorical"])
@pytest.mark.usefixtures("no_pictures")
def test_from_the_command_line(posterior: str, tmp_path: Path) -> None:
    """Trained with labels, resumed, evaluated and sampled from.  If there are few codes, all are summed over."""
    run, own = tmp_path / "run", ["channels=2", "stages=1", "latent=1", "classes=10", f"posterior={posterior}"]
    command = ["train", "vae", "--steps", "2", "--batch", "8", "--threads", "1", "--out", str(run), "--quiet"]
    assert main([*command, "--set", *own]) == 0
    assert main(["train", "--out", str(run), "--resume", "--steps", "3", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--samples", "40", "--images", "50"]) == 0
    assert ("all codes" in (run / "evaluation.json").read_text()) == (posterior == "categorical")
    assert main(["sample", str(run), "-n", "4", "--label", "3", "--out", str(tmp_path / "x.png")]) == 0


@pytest.mark.parametrize(("settings", "word"), [
    ({"posterior": "laplace"}, "posterior must be one of gaussian, mixture, categorical"),
    ({"components": 0}, "components"), ({"categories": 0}, "categories"), ({"temperature": 0.0}, "temperature"),
    ({"temperature": math.inf}, "temperature"), ({"temperature": math.nan}, "temperature"),
    ({"beta": -1.0}, "beta"), ({"beta": math.nan}, "beta"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(**settings)


def test_what_codes_cannot_do() -> None:
    """A class that a variable does not have; a sum over more codes than 256, or over real numbers."""
    model = categorical()
    for value in (-1, 3):
        with pytest.raises(ValueError, match="values"):
            model.edit(ALL, 0, [value])
    for other in (mixture(), categorical(latent=9)):
        with pytest.raises(ValueError, match="exact_elbo"):
            other.exact_elbo(ALL)
        assert "negative elbo, all codes" not in other.negative_log_likelihoods(ALL[:2], ng.Generator(0))
    found = model.negative_log_likelihoods(ALL[:2], ng.Generator(0))["negative elbo, all codes"]
    assert np.array_equal(found.data, -model.exact_elbo(ALL[:2]).data)


def test_each_variable_has_its_own_classes() -> None:
    """q(z|x) is a product over the variables: the encoder's numbers are their logits, one variable after the other."""
    model, numbers = categorical(), np.arange(6.0)
    gives(model, ng.tensor(numbers))
    q = model.encode(ALL[:1])
    assert isinstance(q, Categorical)
    assert np.array_equal(q.logits.data, numbers.reshape(1, 2, 3))
    assert np.array_equal(model.code(ALL[:1]).data, F.one_hot(np.array([[2, 2]]), 3).data.reshape(1, 6))
