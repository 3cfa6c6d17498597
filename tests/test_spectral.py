"""Spectral normalisation against the singular value decomposition, self-attention by its equations, and the SAGAN."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

import nanogen as ng
from nanogen import nn
from nanogen.models import GAN, SAGAN
from nanogen.models.adversarial.networks import ConditionalBatchNorm2d, DiscriminatorNetwork
from nanogen.models.adversarial.spectral import SelfAttention, SpectralNorm

# A layer, the shape of its input, and its weight as a matrix with a row an output.
LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...], Callable[[np.ndarray], np.ndarray]]] = {
    "linear": (lambda: nn.Linear(4, 3), (5, 4), lambda w: w),
    "wide": (lambda: nn.Linear(2, 5), (3, 2), lambda w: w),
    "convolution": (lambda: nn.Conv2d(2, 3, (2, 3)), (2, 2, 4, 3), lambda w: w.reshape(3, 12)),
    "transposed": (
        lambda: nn.ConvTranspose2d(2, 3, 2), (2, 2, 3, 2), lambda w: np.moveaxis(w, 1, 0).reshape(3, 8)
    ),
}  # fmt: skip


def wrapped(name: str, seed: int = 0) -> tuple[SpectralNorm, np.ndarray, np.ndarray]:
    """The layer in float64 with normal weights, an input, and its weight as a matrix."""
    make, shape, as_matrix = LAYERS[name]
    rng = np.random.default_rng(seed)
    module = SpectralNorm(make(), ng.Generator(seed)).to(np.float64)
    module.layer.weight.data = rng.standard_normal(module.layer.weight.shape)
    return module, rng.standard_normal(shape), as_matrix(module.layer.weight.data)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


# Spectral normalisation


@pytest.mark.parametrize("name", LAYERS)
def test_one_step_of_power_iteration_at_each_call(name: str) -> None:
    """v ← Wᵀu/‖·‖, u ← Wv/‖·‖, σ = uᵀWv, once at each call in training; u has length 1 from the start, stays in the
    same memory and is saved.  In evaluation nothing moves.  Miyato et al. 2018, algorithm 1."""
    module, x, w = wrapped(name)
    u, memory = module.u.data.copy(), module.u.data
    assert np.linalg.norm(u) == pytest.approx(1)
    bias = module.layer.bias.data
    plain = LAYERS[name][0]().to(np.float64)
    plain.bias.data = bias
    for training in (True, False, True, True, False):
        module.train(training)
        out, v = module(ng.tensor(x)).data, unit(w.T @ u)
        u = unit(w @ v) if training else u
        plain.weight.data = module.layer.weight.data / (u @ w @ v)
        np.testing.assert_allclose(out, plain(ng.tensor(x)).data, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(module.u.data, u, rtol=1e-9)
        assert module.u.data is memory
    assert "u" in module.state_dict()


@given(name=st.sampled_from(sorted(LAYERS)), seed=st.integers(0, 99))
def test_the_largest_singular_value_is_one(name: str, seed: int) -> None:
    """σ grows towards the largest singular value, which it never exceeds; at the end the layer's weight is W divided
    by it.  So its own largest singular value is 1, whatever W's size.  Miyato et al. 2018, eq. 8."""
    module, _, w = wrapped(name, seed)
    largest, found = np.linalg.svd(w, compute_uv=False)[0], []
    for _ in range(200):
        found.append(module.spectral_norm().item())
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(found))
    assert max(found) <= largest * (1 + 1e-12)
    assert found[-1] == pytest.approx(largest, rel=1e-3)
    module.eval()
    module.layer.weight.data = 7 * module.layer.weight.data
    assert module.spectral_norm().item() == pytest.approx(7 * largest, rel=1e-3)


@given(name=st.sampled_from(sorted(LAYERS)), seed=st.integers(0, 99))
def test_the_gradient_holds_the_singular_vectors(name: str, seed: int) -> None:
    """Through W/σ(W) with σ = uᵀWv, u and v constants: by central differences, and as (g − λ u vᵀ)/σ with λ = ⟨g, W/σ⟩,
    g the gradient in W/σ.  Miyato et al. 2018, eq. 12."""
    module, x, w = wrapped(name, seed)
    weight, rng = module.layer.weight, np.random.default_rng(seed)
    before = module.u.data.copy()
    out = module(ng.tensor(x))
    along = rng.standard_normal(out.shape)
    (found,) = ng.grad((out * ng.tensor(along)).sum(), [weight])
    v = unit(w.T @ before)
    u = module.u.data
    plain, start = LAYERS[name][0]().to(np.float64), weight.data.copy()
    plain.bias.data = module.layer.bias.data

    def value(changed: np.ndarray) -> float:
        plain.weight.data = changed / (u @ LAYERS[name][2](changed) @ v)
        return float((plain(ng.tensor(x)).data * along).sum())

    for i in rng.permutation(start.size)[:4]:
        step = np.zeros(start.size)
        step[i] = 1e-6
        slope = (value(start + step.reshape(start.shape)) - value(start - step.reshape(start.shape))) / 2e-6
        assert found.data.ravel()[i] == pytest.approx(slope, rel=1e-5, abs=1e-6)
    sigma = u @ w @ v
    plain.weight.data = start / sigma
    (g,) = ng.grad((plain(ng.tensor(x)) * ng.tensor(along)).sum(), [plain.weight])
    g, as_matrix = g.data, LAYERS[name][2]
    by_hand = (as_matrix(g) - (g * start / sigma).sum() * np.outer(u, v)) / sigma
    np.testing.assert_allclose(as_matrix(found.data), by_hand, rtol=1e-8, atol=1e-10)


def test_two_calls_before_the_gradient() -> None:
    """D judges images and samples before it learns from both: u, which moved in between, is remembered for each."""
    module, x, _ = wrapped("linear")
    first, second = module(ng.tensor(x)), module(ng.tensor(x))
    slopes = [ng.grad(y.sum(), [module.layer.weight])[0].data for y in (first, second)]
    assert not np.allclose(first.data, second.data)
    assert not np.allclose(*slopes)


# Self-attention


def attention(seed: int = 0, channels: int = 8, gamma: float = 0.7) -> SelfAttention:
    """In float64, with normal weights."""
    module = SelfAttention(channels, lambda layer: layer, ng.Generator(seed)).to(np.float64)
    rng = np.random.default_rng(seed)
    for parameter in module.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    module.gamma.data[...] = gamma
    return module


@given(seed=st.integers(0, 99), channels=st.sampled_from([1, 3, 8, 16]), size=st.sampled_from([(1, 1), (2, 3), (3, 1)]))
def test_self_attention_by_its_equations(seed: int, channels: int, size: tuple[int, int]) -> None:
    """s_ij = f(x_i)ᵀ g(x_j), β_ji = exp(s_ij) / Σ_i exp(s_ij), o_j = v(Σ_i β_ji h(x_i)), y_j = γ o_j + x_j, pixel by
    pixel; f and g have an eighth of the channels, h a half.  Zhang et al. 2019, eq. 1 – 3."""
    module = attention(seed, channels)
    x = np.random.default_rng(seed + 1).standard_normal((2, channels, *size))
    f, g, h, v = (getattr(module, name).weight.data[:, :, 0, 0] for name in "fghv")
    assert [len(w) for w in (f, g, h, v)] == [max(1, channels // 8)] * 2 + [max(1, channels // 2), channels]
    found = module(ng.tensor(x)).data
    for image, out in zip(x, found, strict=True):
        pixels = image.reshape(channels, -1).T
        for j, at in enumerate(pixels):
            beta = special.softmax([(f @ other) @ (g @ at) for other in pixels])
            o = v @ sum(b * (h @ other) for b, other in zip(beta, pixels, strict=True))
            np.testing.assert_allclose(out.reshape(channels, -1).T[j], at + 0.7 * o, rtol=1e-9, atol=1e-9)


def test_attention_begins_as_nothing() -> None:
    """γ is 0 at first: the output is the input, to the bit; and the gradient reaches γ, so that it can grow."""
    module = SelfAttention(8, lambda layer: layer, ng.Generator(0))
    x = ng.tensor(np.random.default_rng(0).standard_normal((2, 8, 3, 3)).astype(np.float32))
    out = module(x)
    assert np.array_equal(out.data, x.data)
    assert ng.grad((out**2).sum(), [module.gamma])[0].data[0] != 0


def test_attention_has_no_places() -> None:
    """Pixels in another order come out in that order: only what they show counts, near or far."""
    module, rng = attention(), np.random.default_rng(2)
    x, order = rng.standard_normal((1, 8, 2, 3)), rng.permutation(6)
    moved = x.reshape(1, 8, 6)[:, :, order].reshape(x.shape)
    a, b = (module(ng.tensor(some)).data.reshape(8, 6) for some in (x, moved))
    np.testing.assert_allclose(a[:, order], b, rtol=1e-9)


# The SAGAN


@pytest.mark.parametrize(
    ("shape", "of_generator", "of_discriminator"),
    [
        ((1, 28, 28), (8, 14, 14), (8, 14, 14)), ((3, 8, 12), (8, 4, 6), (8, 4, 6)), ((1, 4, 4), (4, 4, 4), (4, 4, 4)),
    ],
)  # fmt: skip
def test_where_the_networks_attend(
    shape: Any, of_generator: Any, of_discriminator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G before its last doubling, D after its first halving; where there is none, behind the first layer."""
    model, seen = SAGAN(shape, 5, latent=3, channels=4), []
    forward = SelfAttention.forward
    monkeypatch.setattr(SelfAttention, "forward", lambda self, x: (seen.append(x.shape[1:]), forward(self, x))[1])
    model.discriminator(model.generate(2, ng.Generator(0)))
    assert seen == [of_generator, of_discriminator]


def test_a_sagan_is_a_gan_with_other_defaults() -> None:
    """Hinge, spectral normalisation and attention: the same weights and losses.  Zhang et al. 2019, section 4."""
    images = np.random.default_rng(0).integers(0, 5, (4, 1, 8, 8)).astype(np.uint8)
    made = [
        SAGAN((1, 8, 8), 5, latent=3, channels=4),
        GAN((1, 8, 8), 5, latent=3, channels=4, objective="hinge", spectral=True, attention=True),
    ]
    losses = [[u.loss(images, ng.Generator(0)).item() for u in model.updates()] for model in made]
    assert losses[0] == losses[1]
    states = [model.state_dict() for model in made]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(a, states[1][name]) for name, a in states[0].items())


def test_what_is_normalised_by_what() -> None:
    """With `spectral` every layer with a weight in D, the labels' too, has a spectral norm of its own in place of batch
    normalisation, and with it no image's logit depends on the others'.  Miyato et al. 2018, section 4."""
    model = SAGAN((1, 8, 8), 5, latent=3, channels=4, classes=3)
    inside = {id(m.layer) for m in model.discriminator.modules() if isinstance(m, SpectralNorm)}
    layers = [m for m in model.discriminator.modules() if hasattr(m, "weight")]
    assert {id(layer) for layer in layers} == inside
    assert len(layers) == 8
    assert not [m for m in model.discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    critic = model.discriminator.eval()
    one, all_of_them = (critic(ng.tensor(x[:n]), np.arange(n)).data for n in (1, 3))
    np.testing.assert_allclose(one, all_of_them[:1], rtol=1e-5)


# What a label does


@given(seed=st.integers(0, 99))
def test_conditional_batch_norm_with_equal_rows_is_batch_norm(seed: int) -> None:
    """If all labels have one scale and one shift, labels say nothing: batch normalisation, scaled and shifted, to the
    bit, and with the same running moments.  de Vries et al. 2017, section 3."""
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((5, 3, 2, 2)), rng.integers(0, 4, 5)
    scale, shift = rng.standard_normal((2, 3))
    conditional, plain = ConditionalBatchNorm2d(4, 3).to(np.float64), nn.BatchNorm2d(3).to(np.float64)
    assert np.array_equal(conditional(ng.tensor(x), labels).data, plain(ng.tensor(x)).data), "as it begins"
    conditional.scale.data, conditional.shift.data = np.tile(scale, (4, 1)), np.tile(shift, (4, 1))
    expected = (1 + scale)[:, None, None] * plain(ng.tensor(x)).data + shift[:, None, None]
    assert np.array_equal(conditional(ng.tensor(x), labels).data, expected)
    assert np.array_equal(conditional.running_mean.data, plain.running_mean.data)
    assert np.array_equal(conditional.running_var.data, plain.running_var.data)


@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_conditional_batch_norm_learns_for_labels_that_are_there(labels: list[int], seed: int) -> None:
    """The rows of a label that no image has get no gradient, all others do; the moments are those of all images
    together, whatever their labels."""
    x = np.random.default_rng(seed).standard_normal((len(labels), 2, 3, 2))
    norm = ConditionalBatchNorm2d(5, 2).to(np.float64)
    out = norm(ng.tensor(x), np.array(labels))
    np.testing.assert_allclose(out.data.mean((0, 2, 3)), 0, atol=1e-9)
    np.testing.assert_allclose(out.data.var((0, 2, 3)), 1, rtol=1e-3)
    along = np.random.default_rng(seed + 1).standard_normal(out.shape)
    for g in ng.grad((out * ng.tensor(along)).sum(), [norm.scale, norm.shift]):
        assert (g.data != 0).any(1).tolist() == [label in labels for label in range(5)]


@given(seed=st.integers(0, 999))
def test_the_projection_is_the_logit_of_the_joint_densities(seed: int) -> None:
    """If p(y∣x) and q(y∣x) are softmax functions of the features φ(x), then log p(x, y)/q(x, y) = ⟨v_y, φ(x)⟩ + ψ(φ(x))
    with v = v_p − v_q and ψ = log p(x)/q(x) − (log Z_p − log Z_q), Z = Σ_y exp⟨v_y, φ⟩: D's logit, if its label's
    embedding is v and its last layer ψ.  Miyato & Koyama 2018, section 3."""
    rng = np.random.default_rng(seed)
    critic: Any = DiscriminatorNetwork((1, 2, 2), 3, ng.Generator(seed), classes=4).to(np.float64)
    x, labels = rng.standard_normal((5, 1, 2, 2)), rng.integers(0, 4, 5)
    v_p, v_q = rng.standard_normal((2, 4, 12))
    features: list[np.ndarray] = []
    marginal = rng.standard_normal(5)  # log p(x)/q(x)

    def last(h: ng.Tensor) -> ng.Tensor:
        phi = h.data.reshape(5, 12)
        features.append(phi)
        return ng.tensor(marginal - special.logsumexp(phi @ v_p.T, 1) + special.logsumexp(phi @ v_q.T, 1))

    critic.last.forward, critic.label.weight.data = last, v_p - v_q
    logit = critic(ng.tensor(x), labels).data
    log_p, log_q = (special.log_softmax(features[0] @ v.T, 1)[np.arange(5), labels] for v in (v_p, v_q))
    np.testing.assert_allclose(logit, marginal + log_p - log_q, rtol=1e-9, atol=1e-9)


def test_the_discriminator_hears_the_labels_of_each_batch() -> None:
    """Images are judged with their labels, and samples with the labels that they were drawn for, in both losses."""
    model = GAN((1, 4, 4), 5, latent=3, channels=2, classes=3).to(np.float64).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data + np.random.default_rng(0).standard_normal(parameter.shape)
    images = np.random.default_rng(1).integers(0, 5, (4, 1, 4, 4)).astype(np.uint8)
    labels, z = np.array([2, 0, 1, 1]), ng.tensor(ng.Generator(9).normal((4, 3), dtype=np.float64))
    fake = model.generator(z, labels=labels)
    on_real, on_fake = (model.discriminator(x, labels).data for x in (model.scaled(images), fake))
    expected = np.logaddexp(0, -on_real).mean() + np.logaddexp(0, on_fake).mean()
    assert model.discriminator_loss(images, ng.Generator(9), labels).item() == pytest.approx(expected, rel=1e-12)
    expected = np.logaddexp(0, -on_fake).mean()
    assert model.generator_loss(images, ng.Generator(9), labels).item() == pytest.approx(expected, rel=1e-12)
