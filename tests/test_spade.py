"""SPADE: what a label map is, what it does to the features, and how far it reaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import awake, check_gradients
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from nanogen.data import Images
from nanogen.models import SPADE
from nanogen.models.adversarial import spade
from nanogen.models.adversarial.sources import SOURCES, TONES, tones

SHAPE = (1, 8, 8)


def small(shape: tuple[int, int, int] = SHAPE, levels: int = 9, **settings: Any) -> SPADE:
    """A model in float64 with every weight awake."""
    settings = {"latent": 3, "channels": 2, "hidden": 3, "discriminator_stages": 0, "rng": ng.Generator(1), **settings}
    return awake(SPADE(shape, levels, **settings))


def some_images(shape: tuple[int, int, int] = SHAPE, n: int = 4, levels: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (n, *shape)).astype(np.uint8)


# Label maps


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 17, 255, 256])
def test_tones_by_definition(levels: int) -> None:
    """The nearest of the evenly spaced levels, of two that are as near the higher one; shown as a level, a tone is the
    same tone, and the darkest and the lightest level stay."""
    every = np.arange(levels, dtype=np.uint8).reshape(1, 1, 1, -1)
    centres = np.arange(TONES) * (levels - 1) / (TONES - 1)
    expected = [max(range(TONES), key=lambda k: -abs(x - centres[k]) + 1e-9 * k) for x in range(levels)]
    assert tones(every, levels).ravel().tolist() == expected
    shown = SOURCES["posterised"](every, levels)
    assert np.array_equal(tones(shown, levels), tones(every, levels))
    assert shown.ravel().tolist() == [math.floor(centres[k] + 0.5) for k in expected]
    assert (shown.flat[0], shown.flat[-1]) == (0, levels - 1)


@pytest.mark.parametrize("levels", [2, 9, 256])
def test_label_maps(levels: int) -> None:
    """A map for each tone of each colour, 1 where a pixel of the source has it, else 0."""
    model, images = small((2, 6, 8), levels), some_images((2, 6, 8), 3, levels)
    found = model.label_map(model.scaled(model.source_of(images)))
    assert found.shape == (3, TONES * 2, 6, 8)
    assert found.dtype == np.float64
    of = tones(images, levels)
    for n, c, i, j in np.ndindex(images.shape):
        column = found.data[n].reshape(TONES, 2, 6, 8)[:, c, i, j]
        assert column.tolist() == [float(k == of[n, c, i, j]) for k in range(TONES)]


# The normalisation


def some_maps(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.eye(3)[np.random.default_rng(seed).integers(0, 3, (n, *size))].transpose(0, 3, 1, 2)


def a_norm() -> spade.SpatiallyAdaptiveNorm:
    return awake(spade.SpatiallyAdaptiveNorm(3, 4, 16, ng.Generator(0)))


def test_the_normalisation_by_hand() -> None:
    """(1 + γ(m)) (h − μ) / σ + β(m): μ and σ of each channel over the batch and its pixels, γ and β of each pixel of
    each image.  Park et al. 2019, eq. 1."""
    norm, rng = a_norm(), np.random.default_rng(1)
    h, m = 3 + 2 * rng.standard_normal((5, 4, 6, 7)), ng.tensor(some_maps(5, (6, 7)))
    features = ng.functional.relu(norm.shared(m))
    gamma, beta = norm.gamma(features).data, norm.beta(features).data
    normal = (h - h.mean((0, 2, 3), keepdims=True)) / np.sqrt(h.var((0, 2, 3), keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm(ng.tensor(h), m).data, (1 + gamma) * normal + beta, rtol=1e-9, atol=1e-9)
    assert gamma.std() > 0.1
    assert beta.std() > 0.1


def test_the_normalisation_takes_scale_and_shift_away() -> None:
    """a h + b gives what h gives, for any a > 0 and b of each channel: only the map says how large features are."""
    norm, rng = a_norm(), np.random.default_rng(1)
    h, m = rng.standard_normal((3, 4, 5, 5)), ng.tensor(some_maps(3, (5, 5)))
    a, b = rng.uniform(5, 9, (1, 4, 1, 1)), rng.standard_normal((1, 4, 1, 1))
    np.testing.assert_allclose(norm(ng.tensor(a * h + b), m).data, norm(ng.tensor(h), m).data, atol=1e-4)


def test_a_map_of_one_class() -> None:
    """Then γ and β are a number a channel wherever the convolutions do not see the border: batch normalisation."""
    norm, rng = a_norm(), np.random.default_rng(1)
    h = rng.standard_normal((3, 4, 9, 8))
    for k in range(3):
        m = np.zeros((3, 3, 9, 8))
        m[:, k] = 1
        inside = norm(ng.tensor(h), ng.tensor(m)).data[..., 2:-2, 2:-2]
        normal = ((h - h.mean((0, 2, 3), keepdims=True)) / np.sqrt(h.var((0, 2, 3), keepdims=True) + 1e-5))[
            ..., 2:-2, 2:-2
        ]
        for c in range(4):
            line = np.polynomial.Polynomial.fit(normal[:, c].ravel(), inside[:, c].ravel(), 1)
            np.testing.assert_allclose(line(normal[:, c]), inside[:, c], atol=1e-9)
            assert abs(line.convert().coef[1]) > 1e-3


def test_how_far_a_pixel_of_the_map_reaches() -> None:
    """By the Jacobian: scale and shift of a pixel depend on the map of its own image in the 5×5 pixels around, on all
    of them, and on nothing else."""
    norm, rng = a_norm(), np.random.default_rng(1)
    h, m = rng.standard_normal((2, 4, 9, 9)), ng.tensor(rng.uniform(0.2, 1, (2, 3, 9, 9)), requires_grad=True)
    for n, i, j in ((0, 4, 4), (1, 2, 6), (0, 0, 8)):
        (slope,) = ng.grad(norm(ng.tensor(h), m)[n, :, i, j].sum(), [m])
        near = np.zeros((2, 9, 9), bool)
        near[n, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3] = True
        assert np.array_equal((slope.data != 0).any(1), near)


def test_gradients() -> None:
    """Of features and map, through the batch's moments."""
    norm, rng = a_norm(), np.random.default_rng(1)
    check_gradients(norm, rng.standard_normal((2, 4, 3, 3)), rng.uniform(0.2, 1, (2, 3, 3, 3)), order=1)


# The generator


def test_smaller_maps_have_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block gets the map at its own size: the share of each class in the pixels that have become one, in place."""
    generator, seen = small((2, 16, 8)).generator, []
    forward = spade.SPADEBlock.forward
    monkeypatch.setattr(
        spade.SPADEBlock, "forward", lambda self, h, m: seen.append((h.shape, m.data)) or forward(self, h, m)
    )
    m = np.random.default_rng(0).uniform(size=(2, 2 * TONES, 16, 8))
    x = generator(ng.tensor(np.zeros((2, 3))), ng.tensor(m))
    assert x.shape == (2, 2, 16, 8)
    assert abs(x.data).max() <= 1
    assert len(seen) == 2
    for h, found in seen:
        size = 16 // h[2]
        shares = m.reshape(2, 2 * TONES, h[2], size, h[3], size).mean((3, 5))
        np.testing.assert_allclose(found, shares, rtol=1e-12)


def test_a_block_by_hand() -> None:
    """conv(relu(norm(·))) twice beside the skip, which is h itself, or a 1×1 convolution of norm(h) to another width.

    Park et al. 2019, figure 4."""
    rng = np.random.default_rng(0)
    h, m = ng.tensor(rng.standard_normal((3, 4, 5, 5))), ng.tensor(some_maps(3, (5, 5)))
    for outputs in (4, 2):
        block = awake(spade.SPADEBlock(3, 4, outputs, 5, ng.Generator(0)))
        x = block.convs[0](ng.functional.relu(block.norms[0](h, m)))
        assert x.shape[1] == min(4, outputs)
        x = block.convs[1](ng.functional.relu(block.norms[1](x, m)))
        kept = h if outputs == 4 else block.skip(block.skip_norm(h, m))
        np.testing.assert_allclose(block(h, m).data, (kept + x).data, rtol=1e-12)
        assert (block.skip is None) == (outputs == 4)


def test_noise_and_map_both_matter() -> None:
    """One rng, one image; another rng, another image of the same map; another map, another image of the same noise."""
    model = small().eval()
    images = np.random.default_rng(5).integers(0, 9, (2, *SHAPE)).astype(np.uint8)
    x = model.scaled(model.source_of(images))
    one, again, other = (model.translation(x, ng.Generator(seed)).data for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert abs(one - other).max(axis=(1, 2, 3)).min() > 1e-3
    swapped = model.translation(x[[1, 0]], ng.Generator(0)).data
    assert abs(one - swapped).max(axis=(1, 2, 3)).min() > 1e-3


@given(
    shape=st.sampled_from([(1, 7, 5), (3, 8, 4), (1, 3, 3), (2, 12, 20)]), source=st.sampled_from(["edges", "halved"])
)
def test_shapes(shape: tuple[int, int, int], source: str) -> None:
    """Odd sides, colours, other sources: samples and translations of levels that there are, losses that are numbers."""
    model, images = small(shape, source=source), some_images(shape)
    for _, loss_of, _ in model.updates():
        assert np.isfinite(loss_of(images, ng.Generator(0)).item())
    for drawn in (model.sample(4, ng.Generator(0)), model.translate(model.source_of(images), ng.Generator(0))):
        assert drawn.shape == (4, *shape)
        assert drawn.dtype == np.uint8
        assert drawn.max() < 9


# The game


def test_losses_by_hand() -> None:
    """E[max(0, 1 − D(m, y))] + E[max(0, 1 + D(m, G(z, m)))] and −E[D(m, G(z, m))], the means over all patches."""
    model, images = small(), some_images()
    x, y = model.scaled(model.source_of(images)), model.scaled(images)
    m = model.label_map(x)
    fake = model.generator(ng.tensor(ng.Generator(9).normal((4, 3), np.float64)), m)
    real, fake = (model.discriminator(ng.functional.cat([m, image], dim=1)).data for image in (y, fake))
    assert real.size > 4
    expected = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-9)
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(-fake.mean(), rel=1e-9)


def test_who_learns_from_which_loss() -> None:
    """The discriminator's loss gives the generator no gradient; the parts hold every parameter once, and all learn."""
    model, images = small(), some_images()
    generator = list(model.generator.parameters())
    loss = model.discriminator_loss(images, ng.Generator(0))
    assert ng.grad(loss, generator, allow_unused=True) == (None,) * len(generator)
    parts = [id(p) for u in model.updates() for p in u.part.parameters()]
    assert sorted(parts) == sorted(id(p) for p in model.parameters())
    assert [u.name for u in model.updates()] == ["discriminator", "generator"]


def test_an_image_is_its_own_whatever_else_is_translated() -> None:
    """Translation goes by the running moments, and leaves them and the mode as they were."""
    model, source = small(), small().source_of(some_images())
    model.discriminator_loss(some_images(), ng.Generator(0))
    before = model.state_dict()
    together = model.translate(source, ng.Generator(3))
    assert model.training
    assert all(np.array_equal(v, before[k]) for k, v in model.state_dict().items())
    assert np.array_equal(together[:2], model.translate(source[:2], ng.Generator(3)))


def test_samples_are_of_kept_maps() -> None:
    """Those of the training images, as long as there is only one, for certain."""
    model, images = small(), some_images(n=1)
    model.discriminator_loss(images, ng.Generator(0))
    rng = ng.Generator(4)
    rng.integers(0, 1, 3)
    expected = model.translate(np.repeat(model.source_of(images), 3, axis=0), rng)
    assert np.array_equal(model.sample(3, ng.Generator(4)), expected)


def test_illustrations() -> None:
    """The sources, three images of each, and the images that they were made of."""
    model, images = small(), some_images(n=20)
    some = Images(images, None, 9, "some")
    found = model.illustrations(some, some, ng.Generator(0))["translation"]
    assert found.shape == (5, 16, *SHAPE)
    assert np.array_equal(found[0], SOURCES["posterised"](images[:16], 9))
    assert np.array_equal(found[4], images[:16])
    assert not np.array_equal(found[1], found[2])


@pytest.mark.parametrize(("settings", "word"), [
    ({"latent": 0}, "latent"), ({"channels": 0}, "channels must be a positive"), ({"hidden": 0}, "hidden"),
    ({"discriminator_stages": -1}, "discriminator_stages"), ({"classes": 3}, "classes must be 0"),
    ({"source": "labels"}, "source must be one of edges, halved, inverted, turned, posterised"),
    ({"shape": (1, 2, 8)}, "3×3 pixels"),
])  # fmt: skip
def test_what_is_refused(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(**settings)
