"""The StyleGAN and progressive growing: layers by their definitions, where styles and noise enter, what fades in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import awake, check_gradients, leaf
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import assert_same

import nanogen as ng
from nanogen import nn
from nanogen.data import Images
from nanogen.models import StyleGAN
from nanogen.models.adversarial import stylegan, styles
from nanogen.models.adversarial.networks import halvings
from nanogen.training.loop import Trainer
from nanogen.training.run import make_settings

SEEDS = st.integers(0, 10_000)


def small(shape: tuple[int, int, int] = (1, 8, 8), levels: int = 5, **settings: Any) -> StyleGAN:
    """A model in float64 with every weight awake: noise, biases and styles have something to say."""
    settings = {"latent": 3, "channels": 2, "mapping": 2, "rng": ng.Generator(1), **settings}
    return awake(StyleGAN(shape, levels, **settings))


def some_images(shape: tuple[int, int, int] = (1, 8, 8), n: int = 4, levels: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (n, *shape)).astype(np.uint8)


# The layers by their definitions


@given(SEEDS)
def test_adaptive_instance_norm_gives_the_styles_moments(seed: int) -> None:
    """Each channel of each image has the style's mean y_b, and its std |y_s|, without correction, and is an affine
    function of the input that grows where y_s > 0.  Karras et al. 2019, eq. 1."""
    rng = np.random.default_rng(seed)
    n, c, h, w = rng.integers(1, 4), rng.integers(1, 5), *rng.integers(2, 5, 2)
    x = rng.standard_normal((n, c, h, w)) * rng.uniform(1, 3, (n, c, 1, 1)) + 5 * rng.standard_normal((n, c, 1, 1))
    scale, shift = 2 * rng.standard_normal((2, n, c))
    y = styles.adaptive_instance_norm(ng.tensor(x), ng.tensor(scale), ng.tensor(shift)).data
    np.testing.assert_allclose(y.mean((2, 3)), shift, rtol=0, atol=1e-9)
    np.testing.assert_allclose(y.std((2, 3), ddof=0), abs(scale), rtol=1e-4)
    slope = ((y - y.mean((2, 3), keepdims=True)) * (x - x.mean((2, 3), keepdims=True))).sum((2, 3))
    assert (np.sign(slope) == np.sign(scale)).all()


@given(SEEDS)
def test_pixel_norm(seed: int) -> None:
    """Over the channels of each pixel, the mean of the squares becomes 1; a vector (N, C) is one pixel.

    Karras et al. 2018, section 4.2."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, rng.integers(1, 6), *rng.integers(1, 4, rng.integers(0, 3)))) + 0.5
    y = styles.pixel_norm(ng.tensor(x)).data
    for at in np.ndindex(x.shape[0], *x.shape[2:]):
        vector = x[at[0], :, *at[1:]]
        expected = vector / math.sqrt(sum(v * v for v in vector) / len(vector) + 1e-8)
        np.testing.assert_allclose(y[at[0], :, *at[1:]], expected, rtol=1e-12)


@given(SEEDS)
def test_minibatch_std(seed: int) -> None:
    """The input, and one more map of one number: for each feature at each pixel the std over the batch, without
    correction, and of all these the mean.  Karras et al. 2018, section 3."""
    rng = np.random.default_rng(seed)
    n, c, h, w = rng.integers(1, 4, 4)
    x = rng.standard_normal((n, c, h, w)) * rng.uniform(0.1, 5, (1, c, 1, 1)) + 3 * rng.standard_normal((n, 1, 1, 1))
    y = styles.minibatch_std(ng.tensor(x)).data
    assert y.shape == (n, c + 1, h, w)
    assert np.array_equal(y[:, :c], x)
    stds = [
        math.sqrt(sum((v - sum(column) / n) ** 2 for v in column) / n + 1e-8) for column in x.reshape(n, -1).T.tolist()
    ]
    np.testing.assert_allclose(y[:, c], sum(stds) / len(stds), rtol=1e-9)


def test_gradients_of_the_layers() -> None:
    """Of first and second order: the R1 penalty goes through the discriminator's twice."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 2, 2))
    check_gradients(styles.minibatch_std, x)
    check_gradients(styles.pixel_norm, x)
    check_gradients(styles.adaptive_instance_norm, x, rng.standard_normal((3, 2)), rng.standard_normal((3, 2)))
    check_gradients(styles.halve, x)
    check_gradients(styles.double, x)


def test_r1_penalty() -> None:
    """d(x) = ½ ⟨a, x²⟩ has the slope a x: half the mean over the images of its squared norm, whose gradient in a is the
    mean of a x².  Mescheder et al. 2018, eq. 9."""
    rng = np.random.default_rng(0)
    x, a = leaf(rng.standard_normal((5, 2, 3, 2))), leaf(rng.standard_normal((2, 3, 2)))
    penalty = styles.r1_penalty(0.5 * (a * x**2).sum((1, 2, 3)), x)
    assert penalty.item() == pytest.approx(0.5 * ((a.data * x.data) ** 2).sum() / 5, rel=1e-12)
    np.testing.assert_allclose(ng.grad(penalty, [a])[0].data, a.data * (x.data**2).mean(0), rtol=1e-12)


@pytest.mark.parametrize("rate", [1.0, 0.01])
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
def test_equalized_layers(gain: float, rate: float) -> None:
    """The layer is x Wᵀ gain/√fan_in with W ~ N(0, 1), whatever the rate: N(0, 1) becomes N(0, gain²).  A step of each
    parameter moves the layer `rate` times as far.  Karras et al. 2018, section 4.1."""
    rng = ng.Generator(3)
    for layer, x in (
        (nn.Linear(200, 300), rng.normal((300, 200), np.float64)),
        (nn.Conv2d(20, 300, 3), rng.normal((3000, 20, 3, 3), np.float64)),
    ):
        equalized = styles.Equalized(layer, rng, gain, rate).to(np.float64)
        y = equalized(ng.tensor(x)).data
        assert y.std() == pytest.approx(gain, rel=0.03)
        assert abs(y.mean()) < 0.03
        before = equalized(ng.tensor(x[:2])).data
        layer.weight.data = layer.weight.data + 1.0
        moved = equalized(ng.tensor(x[:2])).data - before
        sums = x[:2].reshape(2, -1).sum(1)
        fan_in = x[0].size
        np.testing.assert_allclose(
            moved.reshape(2, -1), (rate * gain / math.sqrt(fan_in) * sums)[:, None] * np.ones(300)
        )
        layer.bias.data = layer.bias.data + 1.0
        np.testing.assert_allclose(equalized(ng.tensor(x[:2])).data - before - moved, rate)


# Styles and noise


class Recorder(ng.Generator):
    """Keeps the normal numbers that it draws."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.drawn: list[np.ndarray] = []

    def normal(self, size: Any = (), dtype: Any = np.float32) -> Any:
        self.drawn.append(super().normal(size, dtype))
        return self.drawn[-1]


def test_a_layer_by_hand() -> None:
    """AdaIN(lrelu(conv(h) + strength · noise), A(w)): the noise is a number for each pixel of each image, which each
    channel weighs by its own strength; A gives first the scales, as distances from 1, then the shifts."""
    layer, rng = awake(styles.StyledLayer(2, 3, 4, ng.Generator(0))), Recorder(5)
    h, w = (np.random.default_rng(1).standard_normal(size) for size in ((5, 2, 3, 3), (5, 4)))
    found = layer(ng.tensor(h), ng.tensor(w), rng).data
    (noise,) = rng.drawn
    assert noise.shape == (5, 1, 3, 3)
    assert len(np.unique(noise)) == noise.size
    x = layer.conv(ng.tensor(h)).data + layer.strength.data * noise
    x = np.where(x > 0, x, 0.2 * x)
    scale, shift = np.split(layer.style(ng.tensor(w)).data[:, :, None, None], 2, axis=1)
    normal = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-8)
    np.testing.assert_allclose(found, (1 + scale) * normal + shift, rtol=1e-9, atol=1e-9)


def test_noise_begins_with_no_strength() -> None:
    """An image is a function of w alone as long as no layer has strength; then each strength makes a difference, also
    between two images of one style."""
    generator = small().generator
    w = [ng.tensor(np.random.default_rng(0).standard_normal((1, 3))[[0, 0]])] * 4
    assert all(not layer.strength.data.any() for layer in StyleGAN((1, 8, 8), 5).generator.layers)
    for layer in generator.layers:
        layer.strength.data = 0 * layer.strength.data
    still = generator(w, ng.Generator(0)).data
    assert np.array_equal(still, generator(w, ng.Generator(1)).data)
    assert np.array_equal(still[0], still[1])
    for layer in generator.layers:
        layer.strength.data = layer.strength.data + 0.5
        x = generator(w, ng.Generator(0)).data
        assert abs(x[0] - x[1]).max() > 1e-3
        assert abs(x - generator(w, ng.Generator(1)).data).max() > 1e-3
        layer.strength.data = 0 * layer.strength.data


def test_the_mapping_network_sees_the_direction_of_z() -> None:
    """w = f(z / ‖z‖ √d), through layers with leaky ReLU; the length of z does not matter.  Karras et al. 2019, 1b."""
    mapping = small().generator.mapping
    z = np.random.default_rng(0).standard_normal((4, 3))
    w = mapping(ng.tensor(z)).data
    np.testing.assert_allclose(w, mapping(ng.tensor(7 * z)).data, rtol=1e-6)
    x = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    for layer in mapping.layers:
        x = layer(ng.tensor(x)).data
        x = np.where(x > 0, x, 0.2 * x)
    np.testing.assert_allclose(w, x, rtol=1e-12)


def features(generator: Any, w: list[ng.Tensor]) -> list[np.ndarray]:
    """What each layer makes, without noise."""
    found = []
    for layer in generator.layers:
        layer.strength.data = 0 * layer.strength.data
    h = generator.start.expand(len(w[0]), *generator.start.shape)
    for k, (layer, style) in enumerate(zip(generator.layers, w)):
        h = layer(styles.double(h) if k in (2, 4) else h, style, ng.Generator(0))
        found.append(h.data)
    return found


def test_styles_meet_at_the_crossover() -> None:
    """Layers before the crossover have the coarse style, those from there on the fine one, each image its own.  Two
    equal styles are one.  What the layers before it make does not change, and what the others make does."""
    generator = small((1, 16, 16)).generator
    a, b = (ng.tensor(x) for x in np.random.default_rng(0).standard_normal((2, 7, 3)))
    crossover = np.arange(7)[:, None]
    w = stylegan.mixed(a, b, crossover, 6)
    for k, i in np.ndindex(6, 7):
        assert np.array_equal(w[k].data[i], (a if k < i else b).data[i])
    assert all(np.array_equal(x.data, a.data) for x in stylegan.mixed(a, a, crossover, 6))
    for k, (mixed, coarse) in enumerate(zip(features(generator, w), features(generator, [a] * 6))):
        changed = abs(mixed - coarse).max((1, 2, 3)) > 1e-6
        assert changed.tolist() == [i <= k for i in range(7)]


@pytest.mark.parametrize("mixing", [0.0, 0.9, 1.0])
def test_how_often_styles_are_mixed(mixing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share `mixing` of the images, each independently, has a second style, from a layer on that is any but the
    first, all equally likely; within 5 standard errors.  A sample has one style.  Karras et al. 2019, section 3.1."""
    model, n, seen = small((1, 16, 16), mixing=mixing), 4000, []
    monkeypatch.setattr(type(model.generator), "forward", lambda self, w, rng, alphas: seen.append(w) or w[0])
    model.generate(n, ng.Generator(0))
    w = np.stack([x.data for x in seen[0]], axis=1)
    assert len({x.tobytes() for x in w[:, 0]}) == n
    changes = (w[:, 1:] != w[:, :-1]).any(2)
    assert (changes.sum(1) <= 1).all()
    counts = changes.sum(0)
    share = mixing / 5
    assert np.all(abs(counts - n * share) <= 5 * math.sqrt(n * share * (1 - share)))
    assert abs(changes.any(1).sum() - n * mixing) <= 5 * math.sqrt(n * mixing * (1 - mixing))


# Progressive growing


def test_when_a_resolution_fades_in() -> None:
    """A phase at the first resolution; then the next one fades in for a phase and trains for another, and so on.

    Karras et al. 2018, appendix A."""
    expected = {0: (0, 0), 10: (0, 0), 13: (0.3, 0), 20: (1, 0), 30: (1, 0), 35: (1, 0.5), 40: (1, 1), 1000: (1, 1)}
    for steps, alphas in expected.items():
        found = styles.alphas_at(np.array(steps), 10, 2, np.float32)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.data, alphas, rtol=1e-6)
    assert styles.alphas_at(np.array(5), 10, 0, np.float64).shape == (0,)


def grown(kind: str, shape: tuple[int, int, int], channels: int, grows: bool = True) -> Any:
    if kind == "generator":
        return awake(styles.StyleGenerator(shape, channels, 3, 1, grows, 0, ng.Generator(1)))
    return awake(styles.StyleDiscriminator(shape, channels, grows, 0, ng.Generator(1)))


def alphas(*values: float) -> ng.Tensor:
    return ng.tensor(np.array(values, np.float64))


def test_a_generator_grows_out_of_a_smaller_one() -> None:
    """With α = 0 a resolution is not there: the image is the smaller network's, enlarged.  With α = 1 it is as if it
    had always been there: the network without growing.  In between it is the mean of the two, α of the larger one.

    Karras et al. 2018, figure 2."""
    large = grown("generator", (2, 16, 16), 2)
    w = [ng.tensor(x) for x in np.random.default_rng(0).standard_normal((6, 3, 3))]
    run = lambda network, *a: network(w[: len(network.layers)], ng.Generator(0), alphas(*a) if a else None).data
    state = large.state_dict()
    smaller = {}
    for size, channels in ((4, 8), (8, 4)):
        network = grown("generator", (2, size, size), channels)
        network.load_state_dict({k: v for k, v in state.items() if k in network.state_dict()})
        smaller[size] = network
    plain = grown("generator", (2, 16, 16), 2, grows=False)
    plain.load_state_dict(
        {k.replace("images.2", "images.0"): v for k, v in state.items() if "images" not in k or "2" in k}
    )
    enlarged = lambda x, factor: x.repeat(factor, 2).repeat(factor, 3)
    first = smaller[4](w[:2], ng.Generator(0), ng.tensor(np.zeros(0))).data
    assert np.array_equal(run(large, 0, 0), enlarged(first, 4))
    assert np.array_equal(run(smaller[8], 0), enlarged(first, 2))
    assert np.array_equal(run(large, 1, 0), enlarged(run(smaller[8], 1), 2))
    assert np.array_equal(run(large, 0.4, 0), enlarged(run(smaller[8], 0.4), 2))
    assert np.array_equal(run(large, 1, 1), run(plain))
    np.testing.assert_allclose(run(large, 1, 0.3), 0.7 * run(large, 1, 0) + 0.3 * run(large, 1, 1), rtol=1e-12)


def test_a_discriminator_grows_out_of_a_smaller_one() -> None:
    """With α = 0 it is the smaller network of the halved image, with α = 1 that without growing, and in between the
    features, not the logits, are the mean of the two.  Karras et al. 2018, figure 2."""
    large = grown("discriminator", (2, 16, 16), 2)
    x = np.random.default_rng(0).standard_normal((3, 2, 16, 16))
    halved = lambda x: x.reshape(3, 2, x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))
    run = lambda network, x, *a: network(ng.tensor(x), alphas(*a) if a else None).data
    state, networks = large.state_dict(), {16: large}
    for size, channels in ((8, 4), (4, 8)):
        bigger, networks[size] = state, grown("discriminator", (2, size, size), channels)
        down = lambda key: (
            key.replace("images.1", "images.0").replace("images.2", "images.1").replace("blocks.1", "blocks.0")
        )
        state = {down(k): v for k, v in bigger.items() if not k.startswith(("images.0", "blocks.0"))}
        networks[size].load_state_dict(state)
    plain = grown("discriminator", (2, 16, 16), 2, grows=False)
    plain.load_state_dict({k: v for k, v in large.state_dict().items() if "images" not in k or "images.0" in k})
    small = networks[4](ng.tensor(halved(halved(x))), ng.tensor(np.zeros(0))).data
    np.testing.assert_allclose(run(large, x, 0, 0), small, rtol=1e-12)
    np.testing.assert_allclose(run(large, x, 1, 0), run(networks[8], halved(x), 1), rtol=1e-12)
    np.testing.assert_allclose(run(large, x, 0.4, 0), run(networks[8], halved(x), 0.4), rtol=1e-12)
    assert np.array_equal(run(large, x, 1, 1), run(plain, x))
    assert abs(run(large, x, 1, 0.5) - run(large, x, 1, 0)).min() > 1e-6


def test_images_have_as_much_detail_as_the_generators() -> None:
    """With α = 0 pixels of the finest resolution are alike in twos, with α = 1 images stay; in between, the mean of the
    two.  Two levels of it: in fours.  Karras et al. 2018, section 2."""
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 12))
    coarse = lambda x, size: (
        x.reshape(2, 3, 8 // size, size, 12 // size, size).mean((3, 5)).repeat(size, 2).repeat(size, 3)
    )
    found = lambda *a: styles.faded_images(ng.tensor(x), alphas(*a)).data
    np.testing.assert_allclose(found(0, 0), coarse(x, 4), rtol=1e-12)
    np.testing.assert_allclose(found(1, 0), coarse(x, 2), rtol=1e-12)
    np.testing.assert_allclose(found(0.3, 0), 0.7 * coarse(x, 4) + 0.3 * coarse(x, 2), rtol=1e-10)
    np.testing.assert_allclose(found(1, 0.3), 0.7 * coarse(x, 2) + 0.3 * x, rtol=1e-10)
    assert np.array_equal(found(1, 1), x)
    assert np.array_equal(styles.faded_images(ng.tensor(x), None).data, x)


def test_every_weight_is_of_use() -> None:
    """Each has a gradient that is not 0: without growing there are no images of smaller resolutions, and with it all of
    them have a part in the loss while they fade."""
    for settings in ({}, {"progressive": 2}, {"classes": 2}):
        model, labels = small(**settings), [np.array([0, 1, 0, 1])] if "classes" in settings else []
        if "progressive" in settings:
            model.steps.data += 2
        for _, loss_of, part in model.updates():
            slopes = ng.grad(loss_of(some_images(), ng.Generator(0), *labels), list(part.parameters()))
            assert all(slope.data.any() for slope in slopes)


# The model


def test_losses_by_hand() -> None:
    """softplus(−d(x)) + softplus(d(G(z))) + γ/2 ‖∇d(x)‖², and softplus(−d(G(z))): real is real and fake is fake."""
    model, images = small(penalty=3.0), some_images()
    fake = model.generate(4, ng.Generator(9))
    real = model.scaled(images)
    real.requires_grad = True
    d = model.discriminator
    (slope,) = ng.grad(d(real).sum(), [real])
    expected = np.logaddexp(0, -d(real).data).mean() + np.logaddexp(0, d(fake).data).mean()
    expected += 1.5 * (slope.data**2).sum((1, 2, 3)).mean()
    assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-9)
    expected = np.logaddexp(0, -d(fake).data).mean()
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-9)
    generator = list(model.generator.parameters())
    loss = model.discriminator_loss(images, ng.Generator(9))
    assert ng.grad(loss, generator, allow_unused=True) == (None,) * len(generator)


def test_progressive_growing_counts_the_discriminators_steps() -> None:
    """In training; not in evaluation, in which test losses are taken, and not in the generator's steps.  Both losses
    and samples are those of the present α, with images as coarse as the generator's."""
    model, images = small(progressive=2), some_images()
    model.eval()
    model.discriminator_loss(images, ng.Generator(0))
    assert model.steps.item() == 0
    model.train()
    seen = []
    for _ in range(5):
        model.discriminator_loss(images, ng.Generator(0))
        model.generator_loss(images, ng.Generator(0))
        seen.append(model.alphas().data.tolist())
    assert model.steps.item() == 5
    assert seen == [[0.0], [0.0], [0.5], [1.0], [1.0]]
    for steps in (0, 3, 9):
        model.steps.data[...] = steps
        model.eval()
        a = model.alphas()
        fake = model.generate(4, ng.Generator(9))
        assert np.array_equal(fake.data[..., ::2, ::2], fake.data[..., 1::2, 1::2]) == (steps == 0)
        assert np.array_equal(
            model.sample(3, ng.Generator(0))[..., ::2], model.sample(3, ng.Generator(0))[..., 1::2]
        ) == (steps == 0)
        real, fake = (model.discriminator(x, a) for x in (styles.faded_images(model.scaled(images), a), fake))
        expected = np.logaddexp(0, -real.data).mean() + np.logaddexp(0, fake.data).mean()
        model.penalty = 0.0
        assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-9)
        expected = np.logaddexp(0, -fake.data).mean()
        assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-9)
    assert StyleGAN((1, 8, 8), 5, latent=3, channels=2).alphas() is None


def test_a_resumed_run_fades_in_where_it_was() -> None:
    """A checkpoint in the middle of fading in, and on from there: the same bits as without a pause."""
    images = Images(some_images(n=20), None, 5, "digits")
    own = {"latent": 3, "channels": 2, "progressive": 2}
    make = lambda: Trainer(make_settings("stylegan", images, own, steps=6, batch=4), images)
    whole, first, second = make(), make(), make()
    for _ in range(5):
        whole.advance()
    for _ in range(3):
        first.advance()
    second.restore(first.checkpoint())
    assert second.model.alphas().data.tolist() == [0.5]  # type: ignore[attr-defined]
    for _ in range(2):
        second.advance()
    assert_same(whole.arrays(), second.arrays())


@given(shape=st.sampled_from([(1, 7, 5), (3, 8, 4), (1, 1, 1), (2, 12, 20)]), grows=st.booleans())
def test_shapes(shape: tuple[int, int, int], grows: bool) -> None:
    """Odd sides, colours, one resolution or three: two layers a resolution, samples of levels that there are, which the
    seed alone determines, and losses that are numbers."""
    model = small(shape, progressive=int(grows))
    assert len(model.generator.layers) == 2 * (halvings(*shape[1:]) + 1)
    samples = model.sample(3, ng.Generator(1))
    assert samples.shape == (3, *shape)
    assert samples.dtype == np.uint8
    assert samples.max() < 5
    assert np.array_equal(samples, model.sample(3, ng.Generator(1)))
    for _, loss_of, _ in model.updates():
        assert np.isfinite(loss_of(some_images(shape), ng.Generator(0)).item())


def test_illustrations() -> None:
    """In `mixing` the first row and column are images of one style, and where both have the same style so does the
    image between; in `noise` each row has one style, so that without strength all of its images are alike."""
    model = small((2, 8, 8))
    for layer in model.generator.layers:
        layer.strength.data = 0 * layer.strength.data
    images = Images(some_images((2, 8, 8)), None, 5, "some")
    found = model.illustrations(images, images, ng.Generator(0))
    assert {name: grid.shape for name, grid in found.items()} == {"mixing": (9, 9, 2, 8, 8), "noise": (8, 8, 2, 8, 8)}
    assert not found["mixing"][0, 0].any()
    assert (found["noise"] == found["noise"][:, :1]).all()
    assert np.array_equal(found["noise"][:, 0], found["mixing"][1:, 0])
    rng, layers = ng.Generator(0), len(model.generator.layers)
    left, above = (model.draw_styles(8, rng) for _ in range(2))
    for i, j in ((0, 3), (5, 2)):
        w = [left[[i]]] * 3 + [above[[j]]]
        assert np.array_equal(found["mixing"][1 + i, 1 + j], model.picture(w, rng)[0])
        assert np.array_equal(found["mixing"][0, 1 + j], model.picture([above[[j]]] * layers, rng)[0])


@pytest.mark.parametrize(("settings", "word"), [
    ({"latent": 0}, "latent"), ({"channels": 0}, "channels must be a positive"), ({"mapping": 0}, "mapping"),
    ({"mixing": 1.1}, "mixing must be a probability, got 1.1"), ({"mixing": math.nan}, "mixing"),
    ({"penalty": -1.0}, "penalty must be a finite number ≥ 0"), ({"penalty": math.inf}, "penalty"),
    ({"progressive": -1}, "progressive must be a positive integer"), ({"progressive": 1.5}, "progressive"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(**settings)
    with pytest.raises(ValueError, match="n must"):
        small().sample(0, ng.Generator(0))
