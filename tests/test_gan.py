"""The generative adversarial network: what the two losses push where, and what the game's optimum is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special
from scipy.spatial import distance

import nanogen as ng
from nanogen import nn
from nanogen.data import Images
from nanogen.models import GAN
from nanogen.models.adversarial import networks, objectives
from nanogen.models.adversarial.gan import combined

OBJECTIVES = ("non-saturating", "minimax")  # of the classical game


def small(shape: tuple[int, int, int] = (1, 4, 4), levels: int = 2, **settings: Any) -> GAN:
    settings = {"latent": 3, "channels": 2, **settings}
    return GAN(shape, levels, rng=ng.Generator(1), **settings).to(np.float64)


def some_images(shape: tuple[int, int, int] = (1, 4, 4), n: int = 5, levels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (n, *shape)).astype(np.uint8)


# The losses on logits


@given(
    real=st.lists(st.floats(-15, 15), min_size=1, max_size=5), fake=st.lists(st.floats(-15, 15), min_size=1, max_size=5)
)
def test_discriminator_loss_is_minus_the_value(real: list[float], fake: list[float]) -> None:
    """−V(D, G) = −E[log D(x)] − E[log(1 − D(G(z)))], D = sigmoid of the logit.  Goodfellow et al. 2014, eq. 1."""
    value = np.log(special.expit(real)).mean() + np.log1p(-special.expit(fake)).mean()
    loss = objectives.discriminator_loss(ng.tensor(np.array(real)), ng.tensor(np.array(fake)))
    assert loss.item() == pytest.approx(-value, rel=1e-8)


@given(logit=st.floats(-15, 15))
def test_generator_losses(logit: float) -> None:
    """minimax: log(1 − D), with the gradient −D in the logit: it vanishes where D is sure that an image is fake,
    although dV/dD = −1 there.  non-saturating: −log D, with the gradient −(1 − D): largest there.  Goodfellow et al.
    2014, section 3."""
    d = special.expit(logit)
    for objective, value, slope in [("minimax", np.log1p(-d), -d), ("non-saturating", -np.log(d), -(1 - d))]:
        x = leaf(np.array([logit]))
        loss = objectives.generator_loss(x, objective)
        assert loss.item() == pytest.approx(value, rel=1e-8)
        assert ng.grad(loss, [x])[0].item() == pytest.approx(slope, rel=1e-8)


def test_losses_are_finite_where_sigmoid_is_not_between_0_and_1() -> None:
    """At logits of ±1000 D rounds to 0 and 1, the losses and their gradients do not: they are ±1000 or 0, ±1 or 0."""
    for logit, sure in ((1e3, 1.0), (-1e3, 0.0)):
        x = leaf(np.array([logit]))
        expected = {
            "real": (objectives.discriminator_loss(x, ng.tensor([-2e3])), 1e3 * (1 - sure), -(1 - sure)),
            "fake": (objectives.discriminator_loss(ng.tensor([2e3]), x), 1e3 * sure, sure),
            "non-saturating": (objectives.generator_loss(x, "non-saturating"), 1e3 * (1 - sure), -(1 - sure)),
            "minimax": (objectives.generator_loss(x, "minimax"), -1e3 * sure, -sure),
        }
        for loss, value, slope in expected.values():
            assert loss.item() == value
            assert ng.grad(loss, [x])[0].item() == slope


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_both_objectives_pull_the_same_way(objective: str) -> None:
    """Both generator losses fall as D(G(z)) rises, for any logit: they share the game's fixed point."""
    x = leaf(np.linspace(-5, 5, 11))
    assert (ng.grad(objectives.generator_loss(x, objective), [x])[0].data < 0).all()


@pytest.mark.parametrize(
    ("p", "q"), [([5, 3, 2, 6], [1, 7, 4, 4]), ([4, 4, 4, 4], [4, 4, 4, 4]), ([14, 1, 1], [2, 6, 8])]
)
def test_the_best_discriminator_and_the_value_of_the_game(p: list[int], q: list[int]) -> None:
    """On densities that are known, minimising the loss over all discriminators gives D* = p / (p + q) (Goodfellow et
    al. 2014, proposition 1) and V(D*, G) = 2 · JSD(p‖q) − log 4 (theorem 1), −log 4 only if p = q.  It is √JSD that
    is a metric, and SciPy's."""
    real, fake = (np.repeat(np.arange(len(counts)), counts) for counts in (p, q))

    def loss_and_slope(logits: np.ndarray) -> tuple[float, np.ndarray]:
        d = leaf(logits)
        loss = objectives.discriminator_loss(d[real], d[fake])
        return loss.item(), ng.grad(loss, [d])[0].data

    best = optimize.minimize(loss_and_slope, np.zeros(len(p)), jac=True, method="BFGS", options={"gtol": 1e-10})
    density, other = np.array(p) / sum(p), np.array(q) / sum(q)
    np.testing.assert_allclose(special.expit(best.x), density / (density + other), atol=1e-7)
    jsd = distance.jensenshannon(density, other) ** 2
    assert -best.fun == pytest.approx(2 * jsd - math.log(4), abs=1e-10)


# Who learns from which loss


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_who_learns_from_which_loss(objective: str) -> None:
    """The discriminator's loss gives the generator no gradient; the generator's loss gives one to all of the generator.

    Algorithm 1: only the one whose turn it is moves."""
    model, images = small(objective=objective), some_images()
    generator, discriminator = list(model.generator.parameters()), list(model.discriminator.parameters())
    loss = model.discriminator_loss(images, ng.Generator(0))
    assert ng.grad(loss, generator, allow_unused=True) == (None,) * len(generator)
    assert all(g is not None and (g.data != 0).any() for g in ng.grad(loss, discriminator))
    slopes = ng.grad(model.generator_loss(images, ng.Generator(0)), generator)
    assert all((g.data != 0).any() for g in slopes)


@pytest.mark.parametrize("k", [1, 3])
def test_updates_are_algorithm_1(k: int) -> None:
    """k updates of D, then one of G, each moving its own part; between them the parts hold every parameter once."""
    model = small(discriminator_steps=k)
    updates = model.updates()
    assert [u.name for u in updates] == ["discriminator"] * k + ["generator"]
    assert [u.part for u in updates] == [model.discriminator] * k + [model.generator]
    parts = [id(p) for u in (updates[0], updates[-1]) for p in u.part.parameters()]
    assert sorted(parts) == sorted(id(p) for p in model.parameters())
    rng, images = ng.Generator(0), some_images()
    assert updates[0].loss(images, rng).item() == model.discriminator_loss(images, ng.Generator(0)).item()
    assert updates[-1].loss(images, ng.Generator(5)).item() == model.generator_loss(images, ng.Generator(5)).item()


def test_losses_of_the_model_are_those_of_its_logits() -> None:
    """discriminator_loss is that of D(x) and D(G(z)) with z ~ N(0, I) of the rng, generator_loss that of D(G(z)); real
    is real and fake is fake."""
    model, images = small(), some_images()
    model.eval()
    z = ng.tensor(ng.Generator(9).normal((5, 3), dtype=np.float64))
    fake = model.discriminator(model.generator(z))
    real = model.discriminator(model.scaled(images))
    expected = np.logaddexp(0, -real.data).mean() + np.logaddexp(0, fake.data).mean()
    assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-12)
    expected = np.logaddexp(0, -fake.data).mean()
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-12)


def test_a_step_of_each_lowers_its_own_loss() -> None:
    """A small step down the gradient of either part lowers that part's loss on the same draws."""
    model, images = small(), some_images()
    for update in model.updates():
        before = update.loss(images, ng.Generator(2))
        parameters = list(update.part.parameters())
        for parameter, g in zip(parameters, ng.grad(before, parameters), strict=True):
            parameter.data = parameter.data - 1e-3 * g.data
        assert update.loss(images, ng.Generator(2)).item() < before.item()


# DCGAN's rules


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (1, 28, 28)])
def test_architecture_is_dcgans(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Radford et al. 2016, section 3: strided convolutions and no pooling; batch normalisation in both networks but
    for G's output and D's input (and D's logit); no fully connected layers; ReLU in G and tanh at its end; leaky ReLU
    of slope 0.2 in D.  Section 4: weights from N(0, 0.02²)."""
    model = small(shape, channels=8)
    called: list[Any] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            def call(*inputs: Any, **settings: Any) -> Any:
                called.append((name, *[x for x in inputs if not isinstance(x, ng.Tensor)]))
                return getattr(ng.functional, name)(*inputs, **settings)

            return call

    monkeypatch.setattr(networks, "F", Recorder())
    x = model.generate(2, ng.Generator(0))
    norms = len(model.generator.norms)
    assert called == [("relu",)] * norms + [("tanh",)]
    assert len(model.generator.convs) == norms - 1
    called.clear()
    assert model.discriminator(x).shape == (2,)
    assert called == [("leaky_relu", 0.2)] * (len(model.discriminator.convs) + 1)
    assert len(model.discriminator.norms) == len(model.discriminator.convs) >= 1

    layers = [m for m in model.modules() if not list(m.modules())[1:]]
    assert {type(m) for m in layers} == {nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d}
    convs = [*model.generator.convs, *model.discriminator.convs]
    assert all(conv.stride == 2 for conv in convs)
    assert all(conv.bias is None for conv in [model.generator.first, *convs]), "the norm behind it takes it away"
    weights = np.concatenate([p.data.ravel() for p in model.parameters() if p.ndim == 4])
    assert weights.std() == pytest.approx(0.02, rel=0.05)
    assert abs(weights.mean()) < 0.002


@given(st.integers(1, 80), st.integers(1, 80))
def test_how_often_an_image_is_halved(height: int, width: int) -> None:
    """The largest k for which 2ᵏ divides both sides, and no side is 4 or less before its last halving."""
    allowed = [
        k for k in range(8) if height % 2**k == width % 2**k == 0 and min(height, width) > 4 * 2 ** max(k - 1, 0)
    ]
    assert networks.halvings(height, width) == max([0, *allowed])


SHAPES = st.sampled_from([(1, 7, 5), (3, 8, 4), (1, 1, 1), (3, 6, 6), (2, 12, 20), (1, 16, 8)])


@given(shape=SHAPES, levels=st.sampled_from([2, 17, 256]))
def test_shapes(shape: tuple[int, int, int], levels: int) -> None:
    """Odd sides, colours, any levels: G(z) in [−1, 1] of the images' shape, one logit an image, samples of levels that
    exist; sampling leaves the mode and the running moments as they were, and depends on the seed alone."""
    model = small(shape, levels)
    x = model.generate(2, ng.Generator(0))
    assert x.shape == (2, *shape)
    assert abs(x.data).max() <= 1
    images, before = some_images(shape, 3, levels), model.state_dict()
    samples = model.sample(4, ng.Generator(1))
    assert model.training
    assert samples.shape == (4, *shape)
    assert samples.dtype == np.uint8
    assert samples.max() < levels
    assert np.array_equal(samples, model.sample(4, ng.Generator(1)))
    assert all(np.array_equal(v, before[k]) for k, v in model.state_dict().items())
    if math.prod(shape) > 1:
        assert np.isfinite(model.discriminator_loss(images, ng.Generator(0)).item())
        assert np.isfinite(model.generator_loss(images, ng.Generator(0)).item())


def test_an_image_is_its_own_whatever_else_is_sampled() -> None:
    """In evaluation no image depends on the others of its batch: batch normalisation goes by its running moments."""
    model = small((1, 8, 8), 256)
    for parameter in model.parameters():
        parameter.data = parameter.data * 20
    z = np.random.default_rng(0).standard_normal((4, 3))
    together = model.picture(z)
    assert np.array_equal(together, np.concatenate([model.picture(z[i : i + 1]) for i in range(4)]))
    assert len({image.tobytes() for image in together}) == 4


@pytest.mark.parametrize(("settings", "word"), [
    ({"latent": 0}, "latent"), ({"channels": 0}, "channels must be a positive"),
    ({"discriminator_steps": 0}, "discriminator_steps"),
    ({"gradient_penalty": -1.0}, "gradient_penalty"), ({"gradient_penalty": math.nan}, "gradient_penalty"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(**settings)
    with pytest.raises(ValueError, match="n must"):
        small().sample(0, ng.Generator(0))


# The Wasserstein distance and the gradient penalty


@given(seed=st.integers(0, 999), scale=st.sampled_from([0.0, 0.1, 1.0, 7.0]))
def test_penalty_of_a_linear_critic(seed: int, scale: float) -> None:
    """d(x) = ⟨w, x⟩ + b has the slope w everywhere: the penalty is (‖w‖ − 1)², the norm over all of an image's axes,
    and its gradient in w is 2 (‖w‖ − 1) w / ‖w‖, for w = 0 none.  Gulrajani et al. 2017, eq. 3."""
    rng = np.random.default_rng(seed)
    real, fake = rng.standard_normal((2, 4, 2, 3, 5))
    w = leaf(scale * rng.standard_normal((2, 3, 5)))
    critic = lambda x: (x * w).sum((1, 2, 3)) + 3.0
    penalty = objectives.gradient_penalty(critic, ng.tensor(real), ng.tensor(fake), ng.Generator(seed))
    norm = np.sqrt((w.data**2).sum())
    assert penalty.item() == pytest.approx((norm - 1) ** 2, rel=1e-5)
    np.testing.assert_allclose(
        ng.grad(penalty, [w])[0].data, 2 * (norm - 1) * w.data / max(norm, 1e-30), rtol=1e-5, atol=1e-12
    )


def test_penalty_is_taken_between_real_and_fake() -> None:
    """d(x) = ½‖x‖² has the slope x̂ itself, a point of the line from the fake image to the real one, ε of the way, a
    point of its own for each image; and each image's term is its own."""
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((2, 6, 1, 2, 2))
    half_square = lambda x: 0.5 * (x**2).sum((1, 2, 3))
    found = objectives.gradient_penalty(half_square, ng.tensor(real), ng.tensor(fake), ng.Generator(3)).item()
    epsilon = ng.Generator(3).uniform((6, 1, 1, 1), np.float64)
    assert len(set(epsilon.ravel())) == 6
    between = fake + epsilon * (real - fake)
    assert found == pytest.approx(((np.sqrt((between**2).sum((1, 2, 3))) - 1) ** 2).mean(), rel=1e-9)


def test_penalised_loss() -> None:
    """E[d(G(z))] − E[d(x)] + λ E[(‖∇d(x̂)‖ − 1)²], and the generator's −E[d(G(z))]; the penalty reaches all weights of D
    but none of G.  Gulrajani et al. 2017, eq. 3 and algorithm 1."""
    shape = (1, 8, 8)
    model, images = small(shape, objective="wasserstein", gradient_penalty=10.0), some_images(shape)
    rng = ng.Generator(9)
    fake = model.generator(ng.tensor(rng.normal((5, 3), dtype=np.float64)))
    d_fake, d_real = model.discriminator(fake), model.discriminator(model.scaled(images))
    penalty = objectives.gradient_penalty(model.discriminator, model.scaled(images), fake, rng)
    expected = d_fake.data.mean() - d_real.data.mean() + 10 * penalty.item()
    loss = model.discriminator_loss(images, ng.Generator(9))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(-d_fake.data.mean(), rel=1e-12)
    parameters = list(model.generator.parameters())
    assert ng.grad(loss, parameters, allow_unused=True) == (None,) * len(parameters)
    weights = [p for name, p in model.discriminator.named_parameters() if name.endswith("weight")]
    assert all(g.data.any() for g in ng.grad(penalty, weights))


def test_a_penalised_critic_treats_each_image_alone() -> None:
    """With the penalty, the slope of d at an image does not depend on the rest of its batch: no batch normalisation in
    D.  Gulrajani et al. 2017, section 4."""
    x = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    for penalty, same in ((10.0, True), (0.5, True), (0.0, False)):
        critic = small((1, 8, 8), gradient_penalty=penalty).discriminator
        assert not same or all(norm.num_groups == 1 for norm in critic.norms), "layer normalisation"
        others = np.concatenate([x[:1], 5 * x[1:]])
        one, two = (critic(ng.tensor(images)).data[0] for images in (x, others))
        assert (one == pytest.approx(two, rel=1e-12)) == same


def value_of_the_game(p: np.ndarray, q: np.ndarray) -> float:
    """V(D*, G) = E_p[log D*] + E_q[log(1 − D*)] with D* = p / (p + q), from the definition."""
    return float(special.xlogy(p, p / (p + q)).sum() + special.xlogy(q, q / (p + q)).sum())


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """JSD = ½ KL(p‖m) + ½ KL(q‖m), m = (p + q) / 2, in nats.  Lin 1991, eq. 3.5."""
    m = (p + q) / 2
    return max(0.0, float((special.rel_entr(p, m) + special.rel_entr(q, m)).sum() / 2))  # rounding may go below 0


def test_the_game_at_its_ends() -> None:
    """V(D*, G) is −log 4 where the densities are the same and 0 where they have nothing in common: JSD is 0 and log 2.

    Goodfellow et al. 2014, theorem 1, in the right form, 2 · JSD − log 4."""
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    assert value_of_the_game(p, p) == pytest.approx(-math.log(4), abs=1e-15)
    apart = np.array([0.5, 0.5, 0, 0]), np.array([0, 0, 0.3, 0.7])
    with np.errstate(invalid="ignore"):
        assert value_of_the_game(*apart) == pytest.approx(0, abs=1e-15)
    assert value_of_the_game(p, q) == pytest.approx(2 * divergence(p, q) - math.log(4), abs=1e-14)
    assert value_of_the_game(p, q) != pytest.approx(divergence(p, q) - math.log(4), abs=1e-2)


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 3), min_size=2, max_size=6))
def test_the_root_of_the_divergence_is_a_metric(counts: list[tuple[int, int, int]]) -> None:
    """√JSD(p, r) ≤ √JSD(p, q) + √JSD(q, r); JSD itself does not obey.  Endres & Schindelin 2003, theorem 1."""
    p, q, r = (np.array(column) + 1e-3 for column in zip(*counts, strict=True))
    p, q, r = p / p.sum(), q / q.sum(), r / r.sum()
    assert divergence(p, r) ** 0.5 <= divergence(p, q) ** 0.5 + divergence(q, r) ** 0.5 + 1e-9
    ends, middle = (np.array([1.0, 0.0]), np.array([0.0, 1.0])), np.array([0.5, 0.5])
    assert divergence(*ends) > divergence(ends[0], middle) + divergence(middle, ends[1]) + 0.1


# Latent arithmetic


@given(seed=st.integers(0, 999), k=st.integers(1, 4), n=st.integers(1, 3))
def test_arithmetic_of_latents(seed: int, k: int, n: int) -> None:
    """z = mean(plus) − mean(minus) + mean(add), linear in each; one copy of a latent is as good as many.  Radford et
    al. 2016, section 6.3."""
    rng = np.random.default_rng(seed)
    plus, minus, add, other = rng.standard_normal((4, n, k, 3))
    z = combined(plus, minus, add)
    np.testing.assert_allclose(
        z, [sum(p - m + a for p, m, a in zip(*of, strict=True)) / k for of in zip(plus, minus, add, strict=True)]
    )
    np.testing.assert_allclose(combined(plus, plus, add), add.mean(1), atol=1e-12)
    np.testing.assert_allclose(
        combined(*(np.repeat(x[:, :1], 5, 1) for x in (plus, minus, add))), (plus - minus + add)[:, 0]
    )
    for i in range(3):
        terms, others, zeros = [plus, minus, add], [0 * plus] * 3, [0 * plus] * 3
        others[i] = other
        mixed = [2 * x - 3 * y for x, y in zip(terms, others, strict=True)]
        np.testing.assert_allclose(combined(*mixed), 2 * z - 3 * combined(*others), atol=1e-10)
        assert not combined(*zeros).any()
    model = small((1, 8, 8), 256)
    images = model.arithmetic(plus, minus, add)
    assert np.array_equal(images, model.picture(z))
    assert np.array_equal(model.arithmetic(plus[0], minus[0], add[0]), images[:1])


@pytest.mark.parametrize("classes", [0, 3])
def test_the_terms_of_the_picture_are_bold_and_thin(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """plus and minus are the boldest and the thinnest of the 40 samples that are nearest to training images of a class,
    add the thinnest of the next class, of which the result is; a conditional model draws them with that label."""
    model = small((1, 4, 4), 17, classes=classes)
    for parameter in model.parameters():
        parameter.data = parameter.data * 20
    train = Images(some_images((1, 4, 4), 30, 17), np.arange(30) % 3, 17, "x")
    calls: list[Any] = []
    arithmetic = model.arithmetic
    monkeypatch.setattr(model, "arithmetic", lambda *z, **how: (calls.append((z, how)), arithmetic(*z, **how))[1])
    found = model.illustrations(train, train, ng.Generator(5))["arithmetic"]
    assert found.shape == (3, 13, 1, 4, 4)
    rng = ng.Generator(5)
    model.illustrations(Images(train.images, None, 17, "x"), train, rng)  # moves the generator to where it was
    z = rng.normal((500, 3), dtype=np.float64)
    label = lambda k, n: np.full(n, k) if classes else None
    for a, (row, ((plus, minus, add), how)) in enumerate(zip(found, calls, strict=True)):
        b = (a + 1) % 3
        for of, k, sign in ((plus, a, -1), (minus, a, 1), (add, b, 1)):
            images = model.picture(z, label(k, 500)).astype(float)
            squares = ((images[:, None] - train.images[k::3]) ** 2).sum((2, 3, 4)).min(1)
            best = sorted(range(500), key=lambda i: squares[i])[:40]
            weights = sorted(sign * images[i].mean() for i in best)
            which = [int(np.flatnonzero((z == one).all(1))[0]) for one in of]
            assert set(which) <= set(best)
            assert sorted(sign * images[i].mean() for i in which) == weights[:3]
        assert (how["labels"].tolist() == [b]) if classes else not how
        assert np.array_equal(row[12], arithmetic(plus, minus, add, label(b, 1))[0])
        assert np.array_equal(row[:3], model.picture(plus, label(a, 3)))
        assert np.array_equal(row[11], model.picture(add.mean(0)[None], label(b, 1))[0])


def test_without_labels_there_is_no_arithmetic() -> None:
    """Nothing tells which samples are of a class."""
    model, bare = small((1, 4, 4), 17), Images(some_images((1, 4, 4), 30, 17), None, 17, "x")
    assert model.illustrations(bare, bare, ng.Generator(0)).keys() == {"interpolation", "nearest"}
