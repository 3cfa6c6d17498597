"""InfoGAN: what the bound on the mutual information is worth, what it teaches whom, and what the codes are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import check_gradients, leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen.data import Images
from nanogen.metrics import mutual_information
from nanogen.models import GAN, InfoGAN
from nanogen.models.adversarial.infogan import information_bound


def small(**settings: Any) -> Any:
    """In float64, with larger weights than those of the start."""
    settings = {"noise": 3, "channels": 2, "codes": 4, "continuous": 2, **settings}
    model = InfoGAN((1, 8, 8), 5, **settings).to(np.float64)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * rng.standard_normal(parameter.shape)
    return model


def some_images(n: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, (n, 1, 8, 8)).astype(np.uint8)


# The bound


@given(
    counts=st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=2, max_size=4),
    seed=st.integers(0, 999),
)
def test_the_bound_falls_short_by_the_divergence_from_the_posterior(counts: list[list[int]], seed: int) -> None:
    """L_I = I(c; x) − E[KL(p(c|x) ‖ Q(c|x))] for a joint distribution of c and x that is a table: at most I(c; x), and
    equal to it if Q is the posterior.  Chen et al. 2016, eq. 4 and 5."""
    table = np.array(counts) + (np.eye(len(counts), 3, dtype=int))  # each code occurs
    c, x = (np.repeat(index.ravel(), table.ravel()) for index in np.indices(table.shape))
    joint = table / table.sum()
    entropy, information = stats.entropy(joint.sum(1)), mutual_information(c, x)
    with np.errstate(invalid="ignore", divide="ignore"):
        posterior = joint / joint.sum(0)
        at_best = information_bound(ng.tensor(np.log(posterior)[c, x]), entropy).item()
    assert at_best == pytest.approx(information, abs=1e-10)
    q = special.softmax(np.random.default_rng(seed).standard_normal(table.shape), 0)
    found = information_bound(ng.tensor(np.log(q)[c, x]), entropy).item()
    assert found <= information + 1e-12
    assert found == pytest.approx(information - np.nansum(special.rel_entr(joint, joint.sum(0) * q)), abs=1e-10)


def test_a_q_that_knows_nothing_is_worth_nothing() -> None:
    """With Q(c) = p(c) the bound is 0, the entropies being those of the codes, log K and log 2 each; the normal
    distribution N(0, 1) for U[−1, 1] loses KL(U ‖ N) = ½ log 2π + ⅙ − log 2 each."""
    model = small(codes=7, continuous=3)
    for parameter in model.discriminator.q.parameters():
        parameter.data = 0 * parameter.data
    latents = model.draw_latents(4000, ng.Generator(0))
    features = ng.tensor(np.random.default_rng(0).standard_normal((4000, 4, 4, 4)))
    c, numbers = (x.item() for x in model.information(latents, features))
    assert c == pytest.approx(0, abs=1e-12)
    assert numbers == pytest.approx(-3 * (0.5 * math.log(2 * math.pi) + 1 / 6 - math.log(2)), abs=0.02)


@given(seed=st.integers(0, 99))
def test_log_q_by_its_densities(seed: int) -> None:
    """A softmax for the categorical code, a normal distribution for each of the others."""
    model, rng = small(), np.random.default_rng(seed)
    latents, h = model.draw_latents(5, ng.Generator(seed)), rng.standard_normal((5, 4, 4, 4))
    numbers = model.discriminator.q(ng.tensor(h)).data.reshape(5, 8)
    c, others = (x.data for x in model.log_q(latents, ng.tensor(h)))
    chosen = latents[:, 3:7].argmax(1)
    np.testing.assert_allclose(c, special.log_softmax(numbers[:, :4], 1)[np.arange(5), chosen], rtol=1e-9)
    expected = stats.norm(numbers[:, 4:6], np.exp(numbers[:, 6:])).logpdf(latents[:, 7:]).sum(1)
    np.testing.assert_allclose(others, expected, rtol=1e-9)


# The codes


def test_the_law_of_the_codes() -> None:
    """Noise ~ N(0, 1), one-hot codes of equal frequency, numbers ~ U[−1, 1]; all of them independent."""
    latents = small().draw_latents(6000, ng.Generator(3))
    z, c, numbers = latents[:, :3], latents[:, 3:7], latents[:, 7:]
    assert stats.kstest(z.ravel(), "norm").pvalue > 0.01
    assert stats.kstest(numbers.ravel(), "uniform", (-1, 2)).pvalue > 0.01
    assert ((c == 1).sum(1) == 1).all()
    assert ((c == 0).sum(1) == 3).all()
    assert stats.chisquare(c.sum(0)).pvalue > 0.01
    off = np.corrcoef(np.hstack([z, c.argmax(1)[:, None], numbers]).T)
    assert abs(off[~np.eye(6, dtype=bool)]).max() < 0.05


def test_samples_of_a_code() -> None:
    """An integer for all, or one for each image; the rest of the latents is drawn as without it.  A code is not a
    label: what is out of range is refused."""
    model = small()
    for code, expected in (
        (2, [2] * 5),
        (np.array([3, 0, 1, 1, 2]), [3, 0, 1, 1, 2]),
        ([0, 3, 0, 3, 0], [0, 3, 0, 3, 0]),
    ):
        latents = model.draw_latents(5, ng.Generator(4), code=code)
        assert latents[:, 3:7].argmax(1).tolist() == expected
        free = model.draw_latents(5, ng.Generator(4))
        assert np.array_equal(np.delete(latents, np.s_[3:7], 1), np.delete(free, np.s_[3:7], 1))
        assert np.array_equal(model.sample(5, ng.Generator(4), code=code), model.picture(latents))
    assert np.array_equal(model.sample(5, ng.Generator(4)), model.picture(free))
    for code in (4, -1, np.array([0, 1, 2, 4, 0]), 1.0, [1, 2], np.array([[1] * 5]), "a"):
        with pytest.raises(ValueError, match="code"):
            model.sample(5, ng.Generator(0), code=code)


def test_what_the_pictures_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    """codes: down the code alone, across all but the code.  continuous: across one number, from −1 to 1."""
    model, shown = small(), []
    draw = model.picture
    monkeypatch.setattr(model, "picture", lambda z, **given: (shown.append(z), draw(z, **given))[1])
    images = Images(some_images(20), None, 5, "x")
    found = model.illustrations(images, images, ng.Generator(0))
    assert found["codes"].shape == (4, 10, 1, 8, 8)
    assert found["continuous"].shape == (10, 10, 1, 8, 8)
    codes, varied = (z.reshape(-1, 10, 9) for z in shown[-2:])
    assert (codes[:, :, 3:7] == np.eye(4)[:, None]).all()
    others = np.delete(codes, np.s_[3:7], 2)
    assert (others == others[:1]).all()
    assert len(np.unique(others[0, :, 0])) == 10
    for i, row in enumerate(varied):
        changed = 7 + i // 5
        np.testing.assert_allclose(row[:, changed], np.linspace(-1, 1, 10))
        assert (np.delete(row, changed, 1) == np.delete(row[:1], changed, 1)).all()


# Who learns what


def test_who_learns_from_the_information() -> None:
    """L_I moves G, Q and the layers that Q shares with D, and not D's own last one: it says nothing of real or fake."""
    model = small()
    latents = model.draw_latents(6, ng.Generator(0))
    features = model.discriminator.features(model.generator(ng.tensor(latents)))
    named = dict(model.named_parameters())
    slopes = ng.grad(model.reward(latents, features), list(named.values()), allow_unused=True)
    without = {name for name, g in zip(named, slopes, strict=True) if g is None}
    assert without == {"discriminator.last.weight", "discriminator.last.bias"}
    assert all(g.data.any() for g in slopes if g is not None)


def test_the_losses_by_hand() -> None:
    """−V − λ L_I for D and Q, the non-saturating loss − λ L_I for G, each kind of code with its λ, on one drawing of
    latents.  With λ = 0 they are a GAN's."""
    model, images = small(weight=0.7, continuous_weight=0.2).eval(), some_images()
    latents = model.draw_latents(5, ng.Generator(9))
    fake = model.generator(ng.tensor(latents))
    c, numbers = (x.item() for x in model.information(latents, model.discriminator.features(fake)))
    d_fake, d_real = (model.discriminator(x).data for x in (fake, model.scaled(images)))
    reward = 0.7 * c + 0.2 * numbers
    expected = np.logaddexp(0, -d_real).mean() + np.logaddexp(0, d_fake).mean() - reward
    assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-10)
    expected = np.logaddexp(0, -d_fake).mean() - reward
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-10)
    model.weight = model.continuous_weight = 0.0
    for name in ("discriminator_loss", "generator_loss"):
        ours, theirs = (
            getattr(of, name)(images, ng.Generator(9))
            if of is model
            else getattr(of, name)(model, images, ng.Generator(9))
            for of in (model, GAN)
        )
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_q_learns_from_samples_alone() -> None:
    """What Q learns does not depend on the images: their codes are unknown.  D's update moves Q, and not G."""
    model = small()
    q, g = list(model.discriminator.q.parameters()), list(model.generator.parameters())
    one, other = (ng.grad(model.discriminator_loss(some_images(seed=seed), ng.Generator(0)), q) for seed in (0, 1))
    for a, b in zip(one, other, strict=True):
        assert a.data.any()
        np.testing.assert_allclose(a.data, b.data, rtol=1e-9)
    loss = model.discriminator_loss(some_images(), ng.Generator(0))
    assert ng.grad(loss, g, allow_unused=True) == (None,) * len(g)
    assert [u.part for u in model.updates()] == [model.discriminator, model.generator]


def test_information_rises_by_steps_of_both() -> None:
    """A small step of G and of Q against the gradients of their losses, for a large λ, raises L_I on the same codes."""
    model = small(weight=50.0, continuous_weight=50.0)

    def information() -> float:
        latents = model.draw_latents(8, ng.Generator(2))
        return sum(model.information(latents, model.discriminator.features(model.generator(ng.tensor(latents))))).item()

    for update in model.updates():
        before, parameters = information(), list(update.part.parameters())
        slopes = ng.grad(update.loss(some_images(8), ng.Generator(2)), parameters)
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.data = parameter.data - 1e-5 * slope.data
        assert information() > before


def test_the_gradient_of_log_q() -> None:
    """By central differences, in the features and in Q's weights."""
    model = small()
    latents, h = model.draw_latents(2, ng.Generator(0)), np.random.default_rng(0).standard_normal((2, 4, 4, 4))
    check_gradients(lambda x: model.reward(latents, x), h, order=1)
    weight = model.discriminator.q.weight
    (found,) = ng.grad(model.reward(latents, leaf(h)), [weight])
    start, step = weight.data, np.zeros(weight.shape)
    step[0, 1, 2, 3] = 1e-6
    values = []
    for sign in (1, -1):
        weight.data = start + sign * step
        values.append(model.reward(latents, ng.tensor(h)).item())
    assert found.data[0, 1, 2, 3] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize(("settings", "word"), [
    ({"noise": 0}, "noise"), ({"codes": 0}, "codes"), ({"continuous": 0}, "continuous"),
    ({"weight": -1.0}, "weight"), ({"continuous_weight": math.inf}, "continuous_weight"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=f"^{word}"):
        small(**settings)
