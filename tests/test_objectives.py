"""The objectives of adversarial training: what the best discriminator is on densities that are known, and which
divergence of the densities it tells; clipped weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.spatial import distance
from tiny_runs import settings_of, some_images

import nanogen as ng
from nanogen.models import GAN
from nanogen.models.adversarial import objectives
from nanogen.models.adversarial.objectives import OBJECTIVES, discriminator_loss, generator_loss
from nanogen.training.loop import Trainer

COUNTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=6).filter(
    lambda pairs: all(map(sum, zip(*pairs, strict=True)))
)
TARGETS = st.tuples(*[st.floats(-2, 2)] * 3)


class Densities:
    """Two densities p (of images) and q (of samples) on the same few points, as shares of counts."""

    def __init__(self, counts: list[tuple[int, int]]):
        self.counts = np.array(counts)
        self.p, self.q = self.counts.T / self.counts.sum(0)[:, None]

    def drawn(self, d: ng.Tensor) -> tuple[ng.Tensor, ng.Tensor]:
        """The outputs, from those at each point, of images and samples that come as often as their densities say."""
        real, fake = (np.repeat(np.arange(len(self.counts)), column) for column in self.counts.T)
        return d[real], d[fake]

    def loss(self, d: np.ndarray, *how: Any) -> tuple[float, np.ndarray]:
        """The discriminator's loss and its slope."""
        at = leaf(d)
        loss = discriminator_loss(*self.drawn(at), *how)
        return loss.item(), ng.grad(loss, [at])[0].data


# Least squares


@given(counts=COUNTS, targets=TARGETS)
def test_the_best_discriminator_of_least_squares(counts: list[tuple[int, int]], targets: Any) -> None:
    """Minimising the loss over all discriminators gives D* = (b p + a q) / (p + q).  Mao et al. 2017, section 3.2."""
    both, (a, b, _) = Densities([pair for pair in counts if any(pair)]), targets
    start = np.zeros(len(both.p))
    best = optimize.minimize(both.loss, start, ("least-squares", targets), jac=True, options={"gtol": 1e-10})
    np.testing.assert_allclose(best.x, (b * both.p + a * both.q) / (both.p + both.q), atol=1e-6)


@given(counts=COUNTS, a=st.floats(-2, 2))
def test_least_squares_is_pearsons_divergence(counts: list[tuple[int, int]], a: float) -> None:
    """If b − a = 2 and b − c = 1, then E_p[(D* − c)²] + E_q[(D* − c)²] = Σ (p − q)² / (p + q): it is Pearson's χ²
    between p + q and 2q, and 0 only if p = q.  Mao et al. 2017, section 3.2."""
    both = Densities([pair for pair in counts if any(pair)])
    p, q, targets = both.p, both.q, (a, a + 2, a + 1)
    d = leaf((targets[1] * p + targets[0] * q) / (p + q))
    of_real, of_fake = (2 * generator_loss(some, "least-squares", targets).item() for some in both.drawn(d))
    pearson = ((2 * q - (p + q)) ** 2 / (p + q)).sum()
    assert of_real + of_fake == pytest.approx(pearson, abs=1e-12)
    assert pearson == pytest.approx(((p - q) ** 2 / (p + q)).sum(), abs=1e-12)


@given(logits=st.lists(st.floats(-9, 9), min_size=1, max_size=4), targets=TARGETS)
def test_targets_of_least_squares(logits: list[float], targets: Any) -> None:
    """D is drawn to b at images and to a at samples, G to c: half the mean squares.  Unless given they are 0, 1, 1."""
    d, (a, b, c) = np.array(logits), targets
    x, half = ng.tensor(d), lambda target: ((d - target) ** 2).mean() / 2
    found = discriminator_loss(x, ng.tensor([a]), "least-squares", targets).item()
    assert found == pytest.approx(half(b), abs=1e-12)
    found = discriminator_loss(ng.tensor([b]), x, "least-squares", targets).item()
    assert found == pytest.approx(half(a), abs=1e-12)
    assert generator_loss(x, "least-squares", targets).item() == pytest.approx(half(c), abs=1e-12)
    assert discriminator_loss(x, x, "least-squares").item() == pytest.approx(half(0) + half(1), abs=1e-12)
    assert generator_loss(x, "least-squares").item() == pytest.approx(half(1), abs=1e-12)


# Hinge


@given(counts=COUNTS, seed=st.integers(0, 999), size=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_best_discriminator_of_the_hinge(counts: list[tuple[int, int]], seed: int, size: float) -> None:
    """D* = sign(p − q): its loss is 2 Σ min(p, q) = 2 (1 − total variation), and no D has a smaller one.  Where p and q
    differ, and are not 0, no other answer is as good.  Lim & Ye 2017, section 3."""
    both = Densities(counts)
    best = np.sign(both.p - both.q)
    least, _ = both.loss(best, "hinge")
    assert least == pytest.approx(2 * np.minimum(both.p, both.q).sum(), abs=1e-12)
    step = size * np.random.default_rng(seed).standard_normal(len(best))
    assert both.loss(best + step, "hinge")[0] >= least - 1e-12
    for i in np.flatnonzero((both.p != both.q) & (both.p * both.q > 0)):
        for change in (-0.1, 0.1):
            other = best.copy()
            other[i] += change
            assert both.loss(other, "hinge")[0] > least + 1e-6


def test_beyond_the_margin_the_hinge_is_flat() -> None:
    """An image's term is max(0, 1 − d), a sample's max(0, 1 + d): what is beyond the margin teaches D nothing.  G's
    loss −d has no margin.  Miyato et al. 2018, eq. 16, 17."""
    d = leaf(np.array([-3.0, -0.5, 0.5, 3.0]))
    for loss, value, slope in (
        (discriminator_loss(d, ng.tensor([-5.0]), "hinge"), [4, 1.5, 0.5, 0], [-1, -1, -1, 0]),
        (discriminator_loss(ng.tensor([5.0]), d, "hinge"), [0, 0.5, 1.5, 4], [0, 1, 1, 1]),
        (generator_loss(d, "hinge"), [3, 0.5, -0.5, -3], [-1] * 4),
    ):
        assert loss.item() == pytest.approx(np.mean(value), abs=1e-12)
        assert ng.grad(loss, [d])[0].data.tolist() == [s / 4 for s in slope]


# Wasserstein


@given(counts=COUNTS, seed=st.integers(0, 99))
def test_the_best_critic_tells_the_wasserstein_distance(counts: list[tuple[int, int]], seed: int) -> None:
    """Of densities on a line: the least loss of all critics of slope at most 1, by a linear program whose objective is
    the loss's slope, is −Σ |P − Q| Δx, P and Q the cumulatives.  Arjovsky et al. 2017, eq. 2."""
    both = Densities(counts)
    gaps = np.random.default_rng(seed).uniform(0.1, 2.0, len(counts) - 1)
    _, slope = both.loss(np.zeros(len(counts)), "wasserstein")
    steps = np.diff(np.eye(len(counts)), axis=0)
    within = np.concatenate([steps, -steps]), np.concatenate([gaps, gaps])
    first_is_0 = [(0, 0), *[(None, None)] * len(gaps)]  # a constant changes nothing
    best = optimize.linprog(slope, *within, bounds=first_is_0)
    expected = (abs(np.cumsum(both.p - both.q))[:-1] * gaps).sum()
    assert both.loss(best.x, "wasserstein")[0] == pytest.approx(-expected, abs=1e-9)
    places = np.append(0, np.cumsum(gaps))
    assert expected == pytest.approx(stats.wasserstein_distance(places, places, both.p, both.q), abs=1e-9)
    d = leaf(best.x)
    both_sides = [generator_loss(some, "wasserstein").item() for some in both.drawn(d)]
    assert both_sides[1] - both_sides[0] == pytest.approx(expected, abs=1e-9), "G closes the gap from below"


def lipschitz_bound(critic: Any) -> float:
    """Of two convolutions and a leaky ReLU in between, from their weights alone: ‖A‖₂² ≤ ‖A‖₁ ‖A‖_∞, and no row or
    column of a convolution has more than the kernel's entries."""
    w, last = abs(critic.first.weight.data), critic.last.weight.data
    return float(np.sqrt(w.sum((1, 2, 3)).max() * w.sum((0, 2, 3)).max()) * np.sqrt((last**2).sum()))


@given(seed=st.integers(0, 999), c=st.sampled_from([0.01, 0.3]), apart=st.sampled_from([0.1, 3.0]))
def test_a_clipped_critic_is_bounded_by_the_wasserstein_distance(seed: int, c: float, apart: float) -> None:
    """What a clipped critic tells, E[d(x)] − E[d(G(z))], is at most its slope times the distance W₁ of the two sets,
    the least mean distance of pairs; and no slope exceeds what clipped weights can have.  Arjovsky et al. 2017,
    section 3."""
    rng = np.random.default_rng(seed)
    model = GAN((1, 3, 3), 5, channels=4, objective="wasserstein", clip_weights=c, rng=ng.Generator(seed))
    model.to(np.float64)
    for parameter in model.discriminator.parameters():
        parameter.data = parameter.data + rng.standard_normal(parameter.shape)
    model.constrain(model.discriminator)
    real, fake = rng.standard_normal((6, 1, 3, 3)) + apart, rng.standard_normal((6, 1, 3, 3))
    pairs = distance.cdist(real.reshape(6, -1), fake.reshape(6, -1))
    nearest = pairs[optimize.linear_sum_assignment(pairs)].mean()
    told = abs(discriminator_loss(*(model.discriminator(ng.tensor(x)) for x in (real, fake)), "wasserstein").item())
    slope = lipschitz_bound(model.discriminator)
    assert 0 < told <= slope * nearest
    assert slope <= 9 * c * math.sqrt(4) * c * math.sqrt(4 * 9) * (1 + 1e-12)


def test_clipping_changes_the_discriminator_alone_and_in_place() -> None:
    """Every parameter of D is brought to [−c, c], those inside stay, G's stay; the arrays are the same ones, and the
    engine knows that they changed.  Without c nothing is."""
    for c in (0.05, 0.0):
        model = GAN((1, 4, 4), 2, latent=3, channels=2, clip_weights=c)
        for parameter in model.parameters():
            parameter.data = parameter.data + np.random.default_rng(0).normal(0, 0.1, parameter.shape).astype("f")
        before, arrays = model.state_dict(), {name: p.data for name, p in model.named_parameters()}
        images = np.zeros((3, 1, 4, 4), np.uint8)
        loss = model.discriminator_loss(images, ng.Generator(0))
        model.constrain(model.generator)
        assert all(np.array_equal(p.data, before[name]) for name, p in model.named_parameters())
        model.constrain(model.discriminator)
        for name, p in model.named_parameters():
            clipped = c and name.startswith("discriminator")
            assert np.array_equal(p.data, np.clip(before[name], -c, c) if clipped else before[name])
            assert p.data is arrays[name]
        if c:
            with pytest.raises(RuntimeError, match="in place"):
                ng.grad(loss, list(model.discriminator.parameters()))


def test_weights_are_clipped_after_each_update_of_the_discriminator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 1 of Arjovsky et al. 2017: update, then clip; so no loss is of weights beyond c, but the first one."""
    settings = settings_of("gan", lr=0.02, warmup=0)
    settings.model_settings.update(objective="wasserstein", clip_weights=0.01)
    trainer, seen = Trainer(settings, some_images()), []
    model: Any = trainer.model
    largest = lambda part: max(float(abs(p.data).max()) for p in part.parameters())
    loss_of = objectives.discriminator_loss
    monkeypatch.setattr(
        objectives, "discriminator_loss", lambda *a: (seen.append(largest(model.discriminator)), loss_of(*a))[1]
    )
    for _ in range(3):
        trainer.advance()
        assert largest(model.discriminator) == np.float32(0.01)
    assert len(seen) == 6
    assert seen[0] > 0.01
    assert max(seen[1:]) == np.float32(0.01)
    assert largest(model.generator) > 0.02


# All of them


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_models_losses_are_the_objectives(objective: str) -> None:
    """Of D(x) and D(G(z)), with the model's targets; and the unit of the losses is the objective's."""
    targets = (-1.0, 1.0, 0.5)
    model = GAN((1, 4, 4), 2, 3, 2, objective, gradient_penalty=1e-30, targets=targets).to(np.float64).eval()
    images = np.random.default_rng(0).integers(0, 2, (5, 1, 4, 4)).astype(np.uint8)
    fake = model.discriminator(model.generator(ng.tensor(ng.Generator(9).normal((5, 3), dtype=np.float64))))
    real = model.discriminator(model.scaled(images))
    expected = discriminator_loss(real, fake, objective, targets).item()
    assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-12)
    expected = generator_loss(fake, objective, targets).item()
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-12)
    assert model.loss_unit == OBJECTIVES[objective].unit


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_densities_are_an_equilibrium(objective: str) -> None:
    """If samples have the density of images, the best D answers all points alike, and then no move of G's samples
    between the points changes its loss: the game rests.  Where D can tell, G's loss falls towards more real answers."""
    both = Densities([(3, 3), (1, 1), (2, 2)])
    targets = (-1.0, 1.0, 0.0)
    at_rest = 0.0  # the middle of all of them, with these targets
    _, slope = both.loss(np.full(3, at_rest), objective, targets)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    lower, higher = (
        generator_loss(ng.tensor([d]), objective, (-1.0, 1.0, 1.0)).item() for d in (at_rest - 0.5, at_rest + 0.5)
    )
    assert higher < lower


@pytest.mark.parametrize(("settings", "word"), [
    ({"objective": "jensen"}, "objective must be one of non-saturating, minimax, least-squares, wasserstein, hinge"),
    ({"objective": "wasserstein"}, "wasserstein needs gradient_penalty, clip_weights or spectral"),
    ({"clip_weights": -0.1}, "clip_weights must be a finite number"), ({"clip_weights": math.nan}, "clip_weights"),
    ({"gradient_penalty": math.inf}, "gradient_penalty must be a finite number"),
    ({"targets": (0.0, math.inf, 1.0)}, "targets must be three finite numbers"),
    ({"targets": (0.0, 1.0)}, "targets must be three finite numbers"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name; each bound of the slope is enough for `wasserstein`."""
    with pytest.raises(ValueError, match=word):
        GAN((1, 4, 4), 2, latent=3, channels=2, **settings)
    for bound in ({"gradient_penalty": 1.0}, {"clip_weights": 0.1}, {"spectral": True}):
        GAN((1, 4, 4), 2, latent=3, channels=2, objective="wasserstein", **bound)
