"""What the BigGAN adds to a GAN: truncated latents, orthogonal first weights, latents at each resolution."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen import nn
from nanogen.models import GAN, InfoGAN
from nanogen.models.adversarial.biggan import orthogonal_weight, truncated_normal
from nanogen.models.adversarial.networks import ConditionalBatchNorm2d, part_sizes


def small(shape: tuple[int, int, int] = (1, 8, 8), **settings: Any) -> GAN:
    """In float64, with larger weights than those of the start."""
    model = GAN(shape, 17, **{"latent": 7, "channels": 2, **settings}).to(np.float64)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * rng.standard_normal(parameter.shape)
    return model


# Truncation


@pytest.mark.parametrize("truncation", [0.01, 0.7, 1.0, 2.5, 6.0])
def test_the_law_of_truncated_latents(truncation: float) -> None:
    """N(0, 1) given |z| ≤ t: by Kolmogorov and Smirnov's test, nowhere beyond t, and no heap at it, as there would be
    if z was clipped.  Brock et al. 2019, section 3.1."""
    z = truncated_normal(ng.Generator(1), (3000, 2), np.float64, truncation)
    assert z.shape == (3000, 2)
    assert abs(z).max() <= truncation
    assert stats.kstest(z.ravel(), stats.truncnorm(-truncation, truncation).cdf).pvalue > 0.01
    assert len(np.unique(z)) == z.size


@given(truncation=st.floats(0, 9), seed=st.integers(0, 99))
def test_truncation_by_the_inverse_of_the_cumulative(truncation: float, seed: int) -> None:
    """Φ(z) = Φ(−t) + u (Φ(t) − Φ(−t)), with one uniform number for each z however small t is."""
    rng = ng.Generator(seed)
    z, u = truncated_normal(rng, (5,), np.float64, truncation), ng.Generator(seed).uniform(5, np.float64)
    low, high = special.ndtr([-truncation, truncation])
    np.testing.assert_allclose(special.ndtr(z), low + u * (high - low), atol=1e-14)
    reference = ng.Generator(seed)
    reference.uniform(5, np.float64)
    assert rng.uniform() == reference.uniform()


def test_ends_of_truncation() -> None:
    """At 0 every z is 0; without a truncation, or with an infinite one, z is normal; the type is that of the model."""
    assert not truncated_normal(ng.Generator(0), (50,), np.float32, 0.0).any()
    plain = truncated_normal(ng.Generator(0), (50,), np.float32)
    assert np.array_equal(plain, ng.Generator(0).normal(50))
    free = truncated_normal(ng.Generator(0), (4000,), np.float32, math.inf)
    assert free.dtype == np.float32
    assert stats.kstest(free, "norm").pvalue > 0.01
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match="truncation"):
            truncated_normal(ng.Generator(0), (1,), np.float32, bad)


def test_at_truncation_0_all_samples_are_one() -> None:
    """Of a conditional model one for each label; in an InfoGAN it is the noise that is truncated, and not the codes."""
    labels = np.array([0, 2, 1, 0, 2])
    model = small(classes=3)
    images = model.sample(5, ng.Generator(0), labels, truncation=0)
    same = [[np.array_equal(a, b) for b in images] for a in images]
    assert np.array_equal(same, labels[:, None] == labels)
    images = small().sample(5, ng.Generator(0), truncation=0.0)
    assert (images == images[:1]).all()
    assert len({x.tobytes() for x in small().sample(5, ng.Generator(0), truncation=0.7)}) == 5
    latents = InfoGAN((1, 4, 4), 5, noise=3, channels=2).draw_latents(9, ng.Generator(0), 0.0)
    free = InfoGAN((1, 4, 4), 5, noise=3, channels=2).draw_latents(9, ng.Generator(0))
    assert not latents[:, :3].any()
    assert free[:, :3].all()
    assert latents[:, 3:13].sum() == 9
    assert latents[:, 13:].all()


def test_samples_are_images_of_truncated_latents() -> None:
    """The truncation of `sample` is that of z."""
    model = small()
    z = truncated_normal(ng.Generator(3), (4, 7), np.float64, 0.4)
    assert np.array_equal(model.sample(4, ng.Generator(3), truncation=0.4), model.picture(z))


# Orthogonal weights

LAYERS = {
    "linear": (lambda: nn.Linear(4, 3), lambda w: w),
    "tall": (lambda: nn.Linear(2, 5), lambda w: w),
    "embedding": (lambda: nn.Embedding(3, 6), lambda w: w),
    "convolution": (lambda: nn.Conv2d(2, 3, (2, 3)), lambda w: w.reshape(3, 12)),
    "tall convolution": (lambda: nn.Conv2d(1, 9, 2), lambda w: w.reshape(9, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2), lambda w: np.moveaxis(w, 1, 0).reshape(3, 8)),
    "tall transposed": (lambda: nn.ConvTranspose2d(1, 9, 2), lambda w: np.moveaxis(w, 1, 0).reshape(9, 4)),
}  # fmt: skip


@given(name=st.sampled_from(sorted(LAYERS)), seed=st.integers(0, 99))
def test_orthogonal_weights(name: str, seed: int) -> None:
    """W Wᵀ = I for a matrix with a row for each output, or Wᵀ W = I if it has more rows than columns."""
    make, as_matrix = LAYERS[name]
    layer = make()
    weight = orthogonal_weight(layer, ng.Generator(seed))
    assert weight.shape == layer.weight.shape
    assert weight.dtype == np.float32
    assert weight.flags.c_contiguous
    w = as_matrix(weight).astype(np.float64)
    square = w @ w.T if len(w) <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(square, np.eye(len(square)), atol=1e-6)


def test_orthogonal_weights_are_equally_probable() -> None:
    """Turning all matrices changes nothing: each entry has mean 0 and variance 1/columns, the first one too, which the
    signs of a QR decomposition would make negative."""
    drawn = np.array([orthogonal_weight(nn.Linear(4, 2), ng.Generator(seed)) for seed in range(1500)])
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.06)
    np.testing.assert_allclose(drawn.var(0), 1 / 4, atol=0.04)


@pytest.mark.parametrize("settings", [{}, {"classes": 3, "spectral": True, "attention": True, "hierarchical": True}])
def test_a_model_with_orthogonal_weights(settings: dict[str, Any]) -> None:
    """All layers of both networks that have a weight begin so, and without the setting none does."""
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding
    for orthogonal in (True, False):
        model = GAN((1, 8, 8), 5, latent=6, channels=4, objective="hinge", orthogonal=orthogonal, **settings)
        layers: list[Any] = [m for m in model.modules() if isinstance(m, kinds)]
        assert len(layers) >= 6
        for layer in layers:
            weight = layer.weight.data
            outputs_first = np.moveaxis(weight, 1, 0) if isinstance(layer, nn.ConvTranspose2d) else weight
            values = np.linalg.svd(outputs_first.reshape(len(outputs_first), -1).astype(np.float64), compute_uv=False)
            assert np.allclose(values, 1, atol=1e-5) == orthogonal
            if not orthogonal:
                assert weight.std() == pytest.approx(0.02, rel=0.6)


# Hierarchical latents


@given(latent=st.integers(1, 200), count=st.integers(1, 6))
def test_parts_of_the_latents(latent: int, count: int) -> None:
    """All of it, in as many parts as are asked for, whose sizes differ by one at most."""
    if latent < count:
        with pytest.raises(ValueError, match=f"latent must be at least {count}"):
            part_sizes(latent, count)
        return
    sizes = part_sizes(latent, count)
    assert (len(sizes), sum(sizes)) == (count, latent)
    assert min(sizes) >= max(1, max(sizes) - 1)


@pytest.mark.parametrize("classes", [0, 3])
def test_each_part_of_the_latents_comes_in_at_its_layer(classes: int) -> None:
    """By the Jacobian: what leaves the k-th normalisation depends on parts 0 … k + 1 and on no later one; the image on
    all.  Brock et al. 2019, appendix B."""
    model = small((1, 16, 16), latent=9, hierarchical=True, classes=classes)
    generator, z = model.generator.eval(), np.random.default_rng(0).standard_normal((1, 9))
    assert generator.parts == [3, 2, 2, 2]
    given = {"labels": np.array([1])} if classes else {}
    seen: list[np.ndarray] = []
    for norm in generator.norms:
        norm.forward = lambda x, forward=norm.forward, **more: (seen.append(y := forward(x, **more)), y)[1]

    def outputs(latents: np.ndarray) -> list[np.ndarray]:
        seen.clear()
        image = generator(ng.tensor(latents), **given)
        return [x.data.copy() for x in (*seen, image)]

    before, ends = outputs(z), np.cumsum([0, *generator.parts])
    for part in range(4):
        moved = z.copy()
        moved[:, ends[part] : ends[part + 1]] += 1e-3
        changed = [not np.array_equal(a, b) for a, b in zip(before, outputs(moved), strict=True)]
        assert changed == [stage + 1 >= part for stage in range(3)] + [True]


@given(seed=st.integers(0, 99), classes=st.sampled_from([0, 3]))
def test_normalisation_by_latents(seed: int, classes: int) -> None:
    """(1 + A z + scale) · batch_norm(x) + B z + shift, image by image."""
    rng = np.random.default_rng(seed)
    norm, plain = ConditionalBatchNorm2d(classes, 3, 2).to(np.float64), nn.BatchNorm2d(3).to(np.float64)
    x, z, labels = rng.standard_normal((5, 3, 2, 2)), rng.standard_normal((5, 2)), rng.integers(0, 3, 5)
    for parameter in norm.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    plain.weight.data, plain.bias.data = norm.weight.data, norm.bias.data
    given = {"labels": labels} if classes else {}
    found, base = norm(ng.tensor(x), z=ng.tensor(z), **given).data, plain(ng.tensor(x)).data
    a, b = np.split(norm.of_z.weight.data, 2)
    for i in range(5):
        scale, shift = (
            table.data[labels[i]] if classes else 0 for table in (getattr(norm, "scale", 0), getattr(norm, "shift", 0))
        )
        expected = (1 + a @ z[i] + scale)[:, None, None] * base[i] + (b @ z[i] + shift)[:, None, None]
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-10)


def test_hierarchical_latents_need_a_part_for_each_layer() -> None:
    """Fewer dimensions than parts: refused."""
    with pytest.raises(ValueError, match="latent must be at least 3"):
        small(latent=2, hierarchical=True)
    assert small(latent=3, hierarchical=True).sample(2, ng.Generator(0)).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("classes", [0, 3])
def test_all_of_a_big_gan_learns(classes: int) -> None:
    """With all its settings on, each parameter of either network gets a gradient from its loss."""
    model = small(spectral=True, attention=True, hierarchical=True, classes=classes)
    images = np.random.default_rng(0).integers(0, 17, (6, 1, 8, 8)).astype(np.uint8)
    given = (np.arange(6) % 3,) if classes else ()
    for update in model.updates():
        names, parameters = zip(*update.part.named_parameters(), strict=True)
        slopes = ng.grad(update.loss(images, ng.Generator(0), *given), list(parameters))
        assert [name for name, g in zip(names, slopes, strict=True) if not g.data.any()] == []
