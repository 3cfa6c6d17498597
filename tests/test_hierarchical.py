"""The hierarchical VAE: its bounds against likelihoods known by algebra and by quadrature, and against diffusion's."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers import check_slope
from scipy import stats

import nanogen as ng
from nanogen.distributions import DiscretizedNormal, Normal
from nanogen.models import DDPM, HierarchicalVAE, NoiseSchedule

FLOOR = 1e-6  # of a p-value
ERRORS = 6  # standard errors


def small(shape: tuple[int, int, int] = (1, 2, 2), levels: int = 2, T: int = 3, **settings: Any) -> HierarchicalVAE:
    settings = {"latent": 1, "hidden": 3, "channels": 2, "stages": 1, "free_bits": 0.0, **settings}
    return HierarchicalVAE(shape, levels, T, rng=ng.Generator(1), **settings).to(np.float64)


def sharpened(**settings: Any) -> HierarchicalVAE:
    """Weights large enough that each level depends on the next."""
    model = small(**settings)
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.7
    return model


# Chains of linear maps, of which all is known


Step = tuple[np.ndarray, np.ndarray, np.ndarray]  # A, b, s of v = A u + b + s ε


def composed(mean: np.ndarray, steps: list[Step]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The chain u → A u + b + s ε from a fixed start: each variable's mean, and its matrix on all the noise, so that
    the covariance of two variables is the product of their matrices."""
    noise = np.zeros((len(mean), sum(len(b) for _, b, _ in steps)))
    means, matrices, used = [], [], 0
    for a, b, s in steps:
        mean, noise = a @ mean + b, a @ noise
        noise[:, used : used + len(b)] += np.diag(s)
        used += len(b)
        means.append(mean)
        matrices.append(noise)
    return means, matrices


class LinearHierarchy(HierarchicalVAE):
    """All densities are normal, with linear means: p(z_t|z_{t+1}), p(x|z_1), q(z_1|x), q(z_t|z_{t−1}).  Only the chain
    and the bounds are the real model's.

    exact: q is the true posterior.  It is a Markov chain, p(z_t|z_{t−1}, …, z_1, x) = p(z_t|z_{t−1}), so that in one
    dimension such a q can reach it."""

    def __init__(self, T: int, latent: int, exact: bool = False):
        super().__init__((1, 2, 3), 16, T, latent, hidden=2, channels=2, stages=1)
        self.to(np.float64)
        rng = np.random.default_rng(T)
        step = lambda n, m: (rng.normal(size=(n, m)), rng.normal(size=n), rng.uniform(0.5, 1.5, n))
        self.down: list[Step] = [step(6 if t == 0 else latent, latent) for t in range(T)]  # of x, z_1 … z_{T−1}
        self.up: list[Step] = [step(latent, 6 if t == 0 else latent) for t in range(T)]  # of z_1 … z_T
        if exact:
            self.up = [self.backwards(t) for t in range(T)]

    def joint(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of x, z_1 … z_T under p."""
        first: Step = (np.zeros((self.width, 1)), np.zeros(self.width), np.ones(self.width))
        means, matrices = composed(np.zeros(1), [first, *self.down[::-1]])
        return means[::-1], matrices[::-1]

    def backwards(self, t: int) -> Step:
        """p(z_{t+1}|z_t), z_0 = x, of one dimension."""
        means, matrices = self.joint()
        gain = matrices[t + 1] @ matrices[t].T @ np.linalg.inv(matrices[t] @ matrices[t].T)
        left = matrices[t + 1] @ matrices[t + 1].T - gain @ matrices[t] @ matrices[t + 1].T
        return gain, means[t + 1] - gain @ means[t], np.sqrt(np.diag(left))

    def gaussian(self, step: Step, u: Any) -> Normal:
        a, b, s = step
        mean = u @ ng.tensor(a.T) + b
        return Normal(mean, ng.tensor(s) + 0.0 * mean)

    def encode(self, images: Any, labels: Any = None) -> Normal:
        return self.gaussian(self.up[0], ng.tensor(images.reshape(len(images), -1).astype(np.float64)))

    def posterior(self, t: int, below: Any) -> Normal:
        return self.gaussian(self.up[t - 1], below)

    def prior(self, t: int, above: Any) -> Normal:
        return self.gaussian(self.down[t], above)

    def decode(self, z: Any, labels: Any = None) -> Any:
        q = self.gaussian(self.down[0], z)
        shape = (len(z), 1, 2, 3)
        return Normal(q.mean.reshape(shape), q.std.reshape(shape))

    def true_log_prob(self, images: np.ndarray) -> np.ndarray:
        means, matrices = self.joint()
        return np.atleast_1d(stats.multivariate_normal(means[0], matrices[0] @ matrices[0].T).logpdf(flat(images)))

    def gap(self, image: np.ndarray) -> float:
        """KL(q(z_1 … z_T|x) ‖ p(z_1 … z_T|x)) of two normal distributions."""
        x = flat(image)[0]
        means, matrices = self.joint()
        m, a, seen = np.concatenate(means[1:]), np.concatenate(matrices[1:]), matrices[0]
        gain = a @ seen.T @ np.linalg.inv(seen @ seen.T)
        m_p, c_p = m + gain @ (x - means[0]), a @ a.T - gain @ seen @ a.T
        q_means, q_matrices = composed(x, self.up)
        m_q, b = np.concatenate(q_means), np.concatenate(q_matrices)
        c_q, apart = b @ b.T, m_p - m_q
        traces = np.trace(np.linalg.solve(c_p, c_q)) + apart @ np.linalg.solve(c_p, apart)
        return 0.5 * (traces - len(m) + np.linalg.slogdet(c_p)[1] - np.linalg.slogdet(c_q)[1])


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


class Nodes(ng.Generator):
    """The normal draws of z_1, z_2, … are the nodes of Gauss–Hermite quadrature, each row a
    chain.  What is averaged is quadratic in all the noise, for which three nodes an axis are exact."""

    def __init__(self, T: int, latent: int):
        super().__init__(0)
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        axes = T * latent
        self.chains = np.array(list(itertools.product(nodes, repeat=axes))).reshape(-1, T, latent)
        self.weights = np.array([np.prod(w) for w in itertools.product(weights / weights.sum(), repeat=axes)])
        self.level = 0

    def normal(self, size: Any = (), dtype: Any = None) -> Any:
        found = self.chains[:, self.level]
        assert size == found.shape
        self.level += 1
        return found

    def mean(self, bound: Any, image: np.ndarray) -> Any:
        """The expectation of a bound of an image (C, H, W)."""
        self.level = 0
        return self.weights @ bound(np.repeat(image[None], len(self.weights), axis=0), self).data


def some_images(n: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 16, (n, 1, 2, 3)).astype(np.uint8)


@pytest.mark.parametrize(("T", "latent"), [(1, 2), (2, 2), (3, 1), (3, 2)])
def test_elbo_falls_short_by_the_divergence_from_the_true_posterior(T: int, latent: int) -> None:
    """log p(x) − E[elbo] = KL(q(z_1 … z_T|x) ‖ p(z_1 … z_T|x)) in closed form for linear maps, for the form with a KL
    and for the one of log-ratios.  Burda et al. 2016, eq. 3.

    A term left out, of the wrong level or the other way round, or a last KL that is not of q(z_T|z_{T−1}), shows."""
    model, image = LinearHierarchy(T, latent), some_images(1)
    known = model.true_log_prob(image)[0]
    for bound in (model.elbo, model.log_weight):
        assert known - Nodes(T, latent).mean(bound, image[0]) == pytest.approx(model.gap(image), rel=1e-9)


def test_the_rates_by_level() -> None:
    """Each rate's expectation in closed form: E log q(z_t|z_{t−1}) is minus an entropy; E log p(z_t|z_{t+1}) and the
    KL follow from the moments of z_t and z_{t+1} under q.  One level's rate is not another's."""
    T, latent, image = 3, 2, some_images(1)
    model = LinearHierarchy(T, latent)
    means, matrices = composed(flat(image)[0], model.up)
    expected = []
    for t in range(T):
        entropy = np.log(model.up[t][2]).sum() + 0.5 * latent * math.log(2 * math.pi * math.e)
        a, b, s = model.down[t + 1] if t + 1 < T else (np.zeros((latent, latent)), np.zeros(latent), np.ones(latent))
        above, noise = (means[t + 1], matrices[t + 1]) if t + 1 < T else (means[t], matrices[t])
        off, spread = means[t] - a @ above - b, ((matrices[t] - a @ noise) ** 2).sum(1)
        log_p = -0.5 * ((off**2 + spread) / s**2 + np.log(2 * math.pi * s**2)).sum()
        expected.append(-entropy - log_p)
    found = Nodes(T, latent).mean(lambda x, rng: model.terms(x, rng)[1], image[0])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_importance_weights_are_constant_at_the_true_posterior() -> None:
    """p(x, z_1 … z_T) / q(z_1 … z_T|x) = p(x) for every chain if q is the true posterior: the bound is log p(x) for any
    K, without noise.  Burda et al. 2016, eq. 8."""
    model, images = LinearHierarchy(3, 1, exact=True), some_images(5)
    np.testing.assert_allclose(model.log_weight(images, ng.Generator(1)).data, model.true_log_prob(images), rtol=1e-9)
    for samples in (1, 3):
        bound = model.importance_weighted_bound(images, ng.Generator(0), samples).data
        np.testing.assert_allclose(bound, model.true_log_prob(images), rtol=1e-9)


def test_importance_weighted_bound_rises_from_elbo_to_likelihood() -> None:
    """E[bound] rises with K from the elbo to log p(x), by more than six standard errors a step.  Burda et al. 2016,
    theorem 1."""
    model, image, n = LinearHierarchy(3, 1, exact=True), some_images(1), 6000
    model.up = [(a, b + 0.4 * s, 1.3 * s) for a, b, s in model.up]
    elbo = Nodes(3, 1).mean(model.elbo, image[0])
    copies, means, errors = np.repeat(image, n, axis=0), [elbo], [0.0]
    for samples in (2, 8, 60):
        bound = model.importance_weighted_bound(copies, ng.Generator(samples), samples).data
        means.append(bound.mean())
        errors.append(bound.std() / n**0.5)
    for (low, high), (a, b) in zip(itertools.pairwise(means), itertools.pairwise(errors), strict=True):
        assert high - low > ERRORS * math.hypot(a, b)
    assert -ERRORS * errors[-1] < model.true_log_prob(image)[0] - means[-1] < 0.1


# Diffusion is a hierarchical VAE


class Diffusion(HierarchicalVAE):
    """q(z_t|z_{t−1}) = N(√(1 − β_t) z_{t−1}, β_t), with latents of the image's size; p's densities are a DDPM's."""

    def __init__(self, model: DDPM):
        super().__init__(model.image_shape, model.levels, model.T, model.dimensions, hidden=2, channels=2, stages=1)
        self.to(np.float64)
        self.diffusion, self.schedule = model, model.schedule

    def noised(self, t: int, below: Any) -> Normal:
        return Normal(self.schedule.alphas[t] ** 0.5 * below, self.schedule.betas[t] ** 0.5 + 0.0 * below)

    def encode(self, images: Any, labels: Any = None) -> Normal:
        return self.noised(1, self.scaled(images).reshape(len(images), -1))

    def posterior(self, t: int, below: Any) -> Normal:
        return self.noised(t, below)

    def mean(self, t: int, z: Any) -> Any:
        return self.diffusion.p_mean(z.reshape(len(z), *self.image_shape), np.full(len(z), t))

    def prior(self, t: int, above: Any) -> Normal:
        mean = self.mean(t + 1, above).reshape(len(above), -1)
        return Normal(mean, self.diffusion.reverse_variances[t + 1] ** 0.5 + 0.0 * mean)

    def decode(self, z: Any, labels: Any = None) -> Any:
        log_std = 0.5 * math.log(self.diffusion.reverse_variances[1])
        return DiscretizedNormal(self.mean(1, z), log_std, self.levels)


def a_diffusion(variance: str) -> DDPM:
    model = DDPM(
        (1, 1, 2),
        3,
        schedule=NoiseSchedule([0.1, 0.2, 0.3, 0.4]),
        variance=variance,
        channels=8,
        multipliers=(1,),
        heads=2,
    )
    model = model.to(np.float64)
    model.predict = lambda x_t, t, rng=None: 0.6 * x_t + 0.05 * np.reshape(t, (-1, 1, 1, 1))  # type: ignore
    return model


def log_normal(x: np.ndarray, mean: np.ndarray, variance: float) -> np.ndarray:
    return (-0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)).sum((1, 2, 3))


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_diffusion_is_a_hierarchical_vae(variance: str) -> None:
    """With this q the log-ratios along a chain are log p(x_T) + Σ_t log p_θ(x_{t−1}|x_t) / q(x_t|x_{t−1}), written out
    here for the same draws, to 1e-9.  Ho et al. 2020, eq. 3.

    Their form with closed KLs (eq. 5) has the same expectation, within six standard errors of 20,000 chains; so has the
    elbo, whose last term is the KL of q(x_T|x_{T−1}), where eq. 5 has that of q(x_T|x_0)."""
    ddpm, n = a_diffusion(variance), 20_000
    model, schedule = Diffusion(ddpm), ddpm.schedule
    images = np.tile(np.array([[[[2, 0]]]], np.uint8), (n, 1, 1, 1))
    rng = ng.Generator(5)
    x = [images - 1.0]  # levels 0, 1, 2 as −1, 0, 1
    for t in range(1, 5):
        noise = rng.normal((n, 2), np.float64).reshape(n, 1, 1, 2)
        x.append(schedule.alphas[t] ** 0.5 * x[-1] + schedule.betas[t] ** 0.5 * noise)
    at = lambda t: ddpm.p_mean(ng.tensor(x[t]), np.full(n, t)).data
    total = log_normal(x[4], np.zeros_like(x[4]), 1.0)
    for t in range(1, 5):
        total -= log_normal(x[t], schedule.alphas[t] ** 0.5 * x[t - 1], schedule.betas[t])
    for t in range(2, 5):
        total += log_normal(x[t - 1], at(t), ddpm.reverse_variances[t])
    decoder = DiscretizedNormal(at(1), math.log(ddpm.reverse_variances[1] ** 0.5), 3)
    total += decoder.log_prob(images).data.sum((1, 2, 3))
    np.testing.assert_allclose(model.log_weight(images, ng.Generator(5)).data, total, rtol=1e-9, atol=1e-9)

    closed, elbo = ddpm.elbo(images, ng.Generator(6)).data, model.elbo(images, ng.Generator(7)).data
    for other in (closed, elbo):
        assert total.mean() == pytest.approx(other.mean(), abs=ERRORS * math.hypot(total.std(), other.std()) / n**0.5)
    last = model.terms(images, ng.Generator(7))[1].data[:, -1].mean()
    of_noise = ddpm.bound_term(images, 4, ng.Generator(0)).data.mean()
    assert last > of_noise + 0.1, "z_T depends on z_{T−1} more than on x"
    error = math.hypot(total.std(), closed.std()) / n**0.5
    assert last - of_noise > 2 * ERRORS * error, "the one in the other's place would show"


# The real networks, over all images there are


ALL = np.array(list(itertools.product((0, 1), repeat=4)), np.uint8).reshape(-1, 1, 2, 2)
GRID = np.linspace(-24, 24, 961)  # for the trapezium rule over each latent of one dimension
WIDTH = GRID[1] - GRID[0]
POINTS = ng.tensor(GRID[:, None])


def on_the_grid(density: Normal) -> np.ndarray:
    """The density, given each point (or image), at each point: (len(condition), len(GRID)) log-probabilities."""
    return stats.norm.logpdf(GRID, density.mean.data, density.std.data)


def log_likelihoods(model: HierarchicalVAE) -> np.ndarray:
    """log p(x|z_1), (16, len(GRID))."""
    with ng.no_grad():
        p = model.decode(POINTS)
        return np.stack([p.log_prob(np.repeat(x[None], len(GRID), axis=0)).data.sum((1, 2, 3)) for x in ALL])


def probabilities(model: HierarchicalVAE) -> np.ndarray:
    """p(x) = ∫ p(x|z_1) p(z_1|z_2) … p(z_T) by quadrature, level by level."""
    p = stats.norm.pdf(GRID) * WIDTH
    for t in range(model.T - 1, 0, -1):
        p = p @ np.exp(on_the_grid(model.prior(t, POINTS))) * WIDTH
    return np.exp(log_likelihoods(model)) @ p


def elbo_by_quadrature(model: HierarchicalVAE) -> np.ndarray:
    """∫ q(z_1 … z_T|x) log p(x, z_1 … z_T) / q(z_1 … z_T|x), each log from the pair of levels that it is of."""
    log_q = on_the_grid(model.encode(ALL))
    q = np.exp(log_q) * WIDTH  # (16, len(GRID)): z_t's marginal
    total = (q * (log_likelihoods(model) - log_q)).sum(1)
    for t in range(2, model.T + 1):
        log_q = on_the_grid(model.posterior(t, POINTS))  # of z_{t−1} (rows) and z_t
        step, log_p = np.exp(log_q) * WIDTH, on_the_grid(model.prior(t - 1, POINTS)).T
        total += q @ (step * (log_p - log_q)).sum(1)
        q = q @ step
    return total + q @ stats.norm.logpdf(GRID)


@pytest.mark.parametrize("T", [1, 3])
def test_bounds_of_the_real_networks(T: int) -> None:
    """Σ_x p(x) = 1 by quadrature; for every image the elbo and the log-ratios have the expectation that quadrature
    gives, and E[elbo] ≤ E[bound of K = 16] ≤ log p(x), within six standard errors.  2,000 chains an image: a
    bound that is wrong by 0.1 nats on average fails."""
    model, n, fewer = sharpened(T=T), 2000, 400
    p, expected = probabilities(model), elbo_by_quadrature(model)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    copies = lambda n: np.repeat(ALL, n, axis=0)
    error = lambda x: x.std(axis=1) / x.shape[1] ** 0.5
    with ng.no_grad():
        elbo = model.elbo(copies(n), ng.Generator(0)).data.reshape(16, n)
        ratios = model.log_weight(copies(n), ng.Generator(1)).data.reshape(16, n)
        tighter = model.importance_weighted_bound(copies(fewer), ng.Generator(2), 16).data.reshape(16, fewer)
    for bound in (elbo, ratios):
        assert bound.std() / bound.size**0.5 < 0.1 / ERRORS
        assert abs(bound.mean() - expected.mean()) < 0.1
        assert (abs(bound.mean(axis=1) - expected) < ERRORS * error(bound)).all()
    assert (expected <= tighter.mean(axis=1) + ERRORS * error(tighter)).all()
    assert (tighter.mean(axis=1) <= np.log(p) + ERRORS * error(tighter)).all()
    assert expected.mean() < np.log(p).mean() - 0.01


def test_samples_follow_the_density() -> None:
    """z_T, …, z_1, then x, each from the one before: χ² of 20,000 images against p(x) by quadrature, which samplers
    would not pass that draw z_1 from N(0, I), or that go through the levels from the lowest up."""
    model = sharpened(latent=1, T=3)
    for t in (1, 2):  # levels that differ
        model.downwards[t - 1].last.bias.data = np.array([1.2, -1.0]) * (-1) ** t
    x = model.sample(20_000, ng.Generator(2))
    assert x.dtype == np.uint8
    counts = np.bincount(x.reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
    test = lambda p: stats.chisquare(counts, p / p.sum() * counts.sum()).pvalue
    p = probabilities(model)
    assert test(p) > FLOOR
    model.downwards.reverse()
    assert test(probabilities(model)) < FLOOR, "the wrong order"
    model.T = 1
    assert test(probabilities(model)) < FLOOR, "z_1 from N(0, I)"


def test_densities_are_the_networks() -> None:
    """The networks give a mean and a log-variance: std² = exp of it.  h = tanh(W_1 z + b_1), both linear in h.
    Kingma & Welling 2014, appendix C.2.  Each pair of levels has networks of its own."""
    model = sharpened(shape=(1, 3, 4), levels=5, latent=2)
    images = np.random.default_rng(0).integers(0, 5, (3, 1, 3, 4)).astype(np.uint8)
    numbers = model.encoder(model.scaled(images)).data
    z = np.random.default_rng(1).standard_normal((3, 2))
    found = {"q1": (model.encode(images), numbers)}
    for t in (1, 2):
        for network, density in (
            (model.upwards[t - 1], model.posterior(t + 1, ng.tensor(z))),
            (model.downwards[t - 1], model.prior(t, ng.tensor(z))),
        ):  # fmt: skip
            h = np.tanh(z @ network.first.weight.data.T + network.first.bias.data)
            found[f"{t} {len(found)}"] = (density, h @ network.last.weight.data.T + network.last.bias.data)
    for density, expected in found.values():
        np.testing.assert_allclose(density.mean.data, expected[:, :2], rtol=1e-12)
        np.testing.assert_allclose(density.std.data**2, np.exp(expected[:, 2:]), rtol=1e-12)
    assert len({array.tobytes() for _, array in found.values()}) == 5
    assert np.array_equal(model.code(images).data, numbers[:, :2])


# The loss


@pytest.mark.parametrize("decoder", ["categorical", "logistic"])
def test_loss_and_its_gradient(decoder: str) -> None:
    """Without free bits loss = −mean elbo / (C·H·W) of the same draws; its slope along a random direction in all
    parameters is that of central differences, and every parameter is in use."""
    model = sharpened(shape=(1, 3, 2), levels=4, latent=2, decoder=decoder)
    images = np.random.default_rng(0).integers(0, 4, (3, 1, 3, 2)).astype(np.uint8)
    loss = model.loss(images, ng.Generator(7))
    assert loss.item() == pytest.approx(-model.elbo(images, ng.Generator(7)).data.mean() / 6, rel=1e-12)
    check_slope(lambda: model.loss(images, ng.Generator(7)), model, 1e-6)


def test_free_bits() -> None:
    """loss = −E log p(x|z_1) + Σ_t max(λ, the batch's mean rate of z_t), per dimension; a level below λ has no
    gradient.  Kingma et al. 2016, appendix C.8.  The bounds, and what is reported of them, are without free bits."""
    given = {"shape": (1, 3, 2), "levels": 4, "latent": 2}
    images = np.random.default_rng(0).integers(0, 4, (5, 1, 3, 2)).astype(np.uint8)
    plain = sharpened(**given)
    reconstruction, rates = (x.data for x in plain.terms(images, ng.Generator(3)))
    order = np.sort(rates.mean(0))
    floor = 0.5 * float(order[0] + order[1])  # one level is below it, and of the others some image is
    assert 0 < (rates < floor).sum() < rates.size
    model = sharpened(**given, free_bits=floor)
    expected = (np.maximum(rates.mean(0), floor).sum() - reconstruction.mean()) / 6
    for mode in (model.train(), model.eval()):
        assert mode.loss(images, ng.Generator(3)).item() == pytest.approx(expected, rel=1e-12)
    assert expected > plain.loss(images, ng.Generator(3)).item() + 1e-3
    everything = model.negative_log_likelihoods(images, ng.Generator(3))
    for name, values in plain.negative_log_likelihoods(images, ng.Generator(3)).items():
        np.testing.assert_array_equal(everything[name].data, values.data, err_msg=name)
    assert np.array_equal(model.elbo(images, ng.Generator(3)).data, reconstruction - rates.sum(1))

    lazy = sharpened(**given, free_bits=1e3)  # no level costs anything: the loss is the reconstruction's
    loss = lazy.loss(images, ng.Generator(3))
    assert loss.item() == pytest.approx((3e3 - reconstruction.mean()) / 6, rel=1e-12)
    above = [*lazy.upwards[0].parameters(), *lazy.downwards[1].parameters()]
    assert all(not g.data.any() for g in ng.grad(loss, above))


def test_a_rate_may_be_negative() -> None:
    """If z_2 is z_1 with little noise, p(z_1|z_2) knows z_1 better than q(z_1|x) did: the rate of z_1 is negative, and
    the loss without free bits is −elbo all the same."""
    model, images = LinearHierarchy(2, 1), some_images(4)
    model.free_bits = 0.0
    model.up = [(0.0 * model.up[0][0], np.zeros(1), np.ones(1)), (np.eye(1), np.zeros(1), np.array([0.1]))]
    model.down[1] = (np.eye(1), np.zeros(1), np.array([0.1]))
    reconstruction, rates = model.terms(images, ng.Generator(0))
    assert (rates.data.mean(0) < [-1, 3]).all()
    loss = model.loss(images, ng.Generator(0)).item()
    assert loss == pytest.approx((rates.data.sum(1) - reconstruction.data).mean() / 6, rel=1e-12)


def test_what_is_reported() -> None:
    """The bound, the tighter one, and the parts of the first by level, of the same draws: the parts add up to it."""
    model, images = sharpened(), ALL
    found = {name: x.data for name, x in model.negative_log_likelihoods(images, ng.Generator(0)).items()}
    bound, tighter, *parts = found
    assert (bound, tighter) == ("upper bound", "importance-weighted, K = 64")
    assert parts == ["−log p(x|z_1)", "rate of z_1", "rate of z_2", "rate of z_3"]
    np.testing.assert_allclose(sum(found[name] for name in parts), found[bound], rtol=1e-12)
    np.testing.assert_allclose(found[bound], -model.elbo(images, ng.Generator(0)).data, rtol=1e-12)
    assert np.array_equal(found["rate of z_2"], model.terms(images, ng.Generator(0))[1].data[:, 1])
    assert found[tighter].mean() < found[bound].mean()


# Pictures


def exactly(mean: ng.Tensor) -> Normal:
    return Normal(mean, 1e-12 + 0.0 * mean)


@pytest.mark.parametrize("fixed", [1, 2])
def test_pictures_of_levels(fixed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If z_t follows from z_{t+1} for all t ≤ `fixed`, images that share z_{fixed+1} and what is above it are one
    image, and those that share less are not.  An image's own z_1 gives its reconstruction."""
    model = sharpened(shape=(1, 4, 4), levels=256, latent=2, hidden=8)
    images = ng.data.Images(np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4)).astype(np.uint8), None, 256, "x")
    learned = model.prior
    monkeypatch.setattr(model, "prior", lambda t, z: exactly(learned(t, z).mean) if t <= fixed else learned(t, z))
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda *given: exactly(encode(*given).mean))
    found = model.illustrations(images, images, ng.Generator(0))
    assert list(found)[-2:] == ["shared_latents", "from_each_level"]
    shared, levels = found["shared_latents"], found["from_each_level"]
    assert (shared.shape, levels.shape) == ((3, 16, 1, 4, 4), (4, 16, 1, 4, 4))
    same = [len({image.tobytes() for image in row}) == 1 for row in shared]
    assert same == ([False, False, True] if fixed == 1 else [False, True, True])
    assert np.array_equal(levels[0], images.images[:16])
    assert np.array_equal(levels[1], model.reconstruct(images.images[:16]))
    assert not np.array_equal(levels[1], levels[2])


@pytest.mark.parametrize(("settings", "word"), [
    ({"T": 0}, "levels_of_latents must be a positive"), ({"latent": 0}, "latent"), ({"hidden": -1}, "hidden"),
    ({"channels": 0}, "channels"), ({"decoder": "gauss"}, "decoder"), ({"free_bits": -0.1}, "free_bits must be a"),
    ({"free_bits": math.nan}, "free_bits"), ({"free_bits": math.inf}, "free_bits"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(**settings)
    with pytest.raises(ValueError, match="samples"):
        small().importance_weighted_bound(ALL, ng.Generator(0), 0)
