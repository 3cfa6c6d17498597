"""Image translation: what the losses of Pix2Pix and CycleGAN compare, what the networks see, what histories return."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_runs import TINY, trained
from tiny_runs import some_images as stripes

import nanogen as ng
from nanogen import data, nn
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import to_numpy
from nanogen.cli import main
from nanogen.data import Images
from nanogen.models import CycleGAN, Pix2Pix
from nanogen.models.adversarial import cyclegan, translation, translators
from nanogen.models.adversarial.sources import SOURCES
from nanogen.models.adversarial.translation import History
from nanogen.training.run import SAMPLES, Run

SHAPE = (1, 6, 8)
SIDES = st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9))


def pix2pix(shape: tuple[int, int, int] = SHAPE, levels: int = 5, **settings: Any) -> Pix2Pix:
    settings = {"channels": 2, "stages": 2, "discriminator_stages": 1, "rng": ng.Generator(1), **settings}
    return awake(Pix2Pix(shape, levels, **settings))


def cycle_gan(shape: tuple[int, int, int] = SHAPE, levels: int = 5, **settings: Any) -> CycleGAN:
    settings = {"channels": 2, "stages": 1, "blocks": 1, "discriminator_stages": 1, "history": 6, **settings}
    return awake(CycleGAN(shape, levels, **{"rng": ng.Generator(1), **settings}))


def awake(model: Any) -> Any:
    """In float64, with weights so large that what a network sees makes a difference."""
    for parameter in model.parameters():
        parameter.data = parameter.data * (1.0 if parameter.ndim == 1 else 20.0)
    return model.to(np.float64)


def some_images(shape: tuple[int, int, int] = SHAPE, n: int = 6, levels: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (n, *shape)).astype(np.uint8)


def softplus(x: Any) -> np.ndarray:
    return np.logaddexp(0, x.data)


# Sources


@given(shape=SIDES, levels=st.integers(2, 256), name=st.sampled_from(sorted(SOURCES)), seed=st.integers(0, 99))
def test_a_source_has_levels(shape: tuple[int, int, int], levels: int, name: str, seed: int) -> None:
    """Every map gives uint8 of the same number of images and levels, and leaves the images as they are."""
    images = np.random.default_rng(seed).integers(0, levels, (2, *shape)).astype(np.uint8)
    images[0] = levels - 1
    before = images.copy()
    source = SOURCES[name](images, levels)
    assert source.dtype == np.uint8
    assert source.shape == ((2, shape[0], shape[2], shape[1]) if name == "turned" else images.shape)
    assert source.max() < levels
    assert np.array_equal(images, before)


@given(shape=SIDES, levels=st.sampled_from([2, 3, 5, 17, 256]), seed=st.integers(0, 99))
def test_edges_by_definition(shape: tuple[int, int, int], levels: int, seed: int) -> None:
    """The highest level where √((∂x/∂h)² + (∂x/∂w)²) is above a quarter of it, by central differences; beyond the
    border is the nearest pixel."""
    images = np.random.default_rng(seed).integers(0, levels, (1, *shape)).astype(np.uint8)
    (_, height, width), found = shape, SOURCES["edges"](images, levels)
    for c, i, j in np.ndindex(*shape):
        at = lambda i, j, c=c: int(images[0, c, min(max(i, 0), height - 1), min(max(j, 0), width - 1)])
        down, right = (at(i + 1, j) - at(i - 1, j)) / 2, (at(i, j + 1) - at(i, j - 1)) / 2
        steep = math.hypot(down, right) > (levels - 1) / 4 + 1e-9  # equality is not above; roots are rounded
        assert found[0, c, i, j] == (levels - 1 if steep else 0)


@given(shape=SIDES, levels=st.integers(2, 256), seed=st.integers(0, 99))
def test_halved_by_definition(shape: tuple[int, int, int], levels: int, seed: int) -> None:
    """A pixel is the mean of what there is of its 2×2 square, to the nearest level, ½ upwards."""
    images = np.random.default_rng(seed).integers(0, levels, (1, *shape)).astype(np.uint8)
    found = SOURCES["halved"](images, levels)
    for c, i, j in np.ndindex(*shape):
        square = images[0, c, i // 2 * 2 : i // 2 * 2 + 2, j // 2 * 2 : j // 2 * 2 + 2]
        assert found[0, c, i, j] == math.floor(square.astype(float).mean() + 0.5)


def test_bijections() -> None:
    """`inverted` undoes itself; four quarter turns do nothing, and the first brings the right column up."""
    images = some_images((3, 5, 5))
    inverted, turned = (lambda x, map=SOURCES[name]: map(x, 5) for name in ("inverted", "turned"))
    assert np.array_equal(inverted(images) + images, np.full_like(images, 4))
    assert np.array_equal(turned(images)[:, :, 0], images[..., -1])
    assert np.array_equal(turned(turned(turned(turned(images)))), images)


# Networks


def alone(network: nn.Module) -> nn.Module:
    """Without its norms, which see the whole image, and with positive weights, so that nothing cancels."""
    for module in network.modules():
        if isinstance(module, translators.Convolved):
            module.norm = nn.Identity()
    for parameter in network.parameters():
        parameter.data = 0.1 + abs(parameter.data)
    return network.to(np.float64)


@pytest.mark.parametrize(("stages", "pixels", "side"), [(0, 7, 12), (1, 16, 24), (2, 34, 48), (3, 70, 96)])
def test_receptive_field(stages: int, pixels: int, side: int) -> None:
    """The Jacobian of the patches' logits: each sees a square of 7, 16, 34 or 70 pixels, less what is outside of the
    image, one for each 2^stages pixels.  70: Isola et al. 2017, section 3.2.2 and appendix 6.1.2."""
    network = alone(translators.PatchGAN((1, side, side), 1, stages, ng.Generator(0)))
    x = ng.tensor(np.ones((1, 1, side, side)), requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 1, side // 2**stages - 2, side // 2**stages - 2)
    outside = 3 * 2**stages - 1  # pixels of padding that the first logit sees
    for i in range(logits.shape[2]):
        seen = ng.grad(logits[0, 0, i, i], x)[0].data[0, 0] != 0
        start, end = max(0, i * 2**stages - outside), min(side, i * 2**stages - outside + pixels)
        expected = np.zeros((side, side), bool)
        expected[start:end, start:end] = True
        assert np.array_equal(seen, expected)
    if side > 24:
        assert (expected.sum(0) < pixels).all()
    assert any(0 <= i * 2**stages - outside <= side - pixels for i in range(logits.shape[2])), "one sees all of it"


def test_the_discriminator_is_the_papers() -> None:
    """C64-C128-C256-C512: 4×4 convolutions of strides 2, 2, 2, 1 and a last one of 1; norms in all but the first and
    the last; images with fewer pixels have fewer strides.  Isola et al. 2017, appendix 6.1.2."""
    network = translators.PatchGAN((6, 64, 64), 64, 3, ng.Generator(0))
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride, c.kernel_size) for c in convs] == [
        (a, b, s, (4, 4)) for a, b, s in ((6, 64, 2), (64, 128, 2), (128, 256, 2), (256, 512, 1), (512, 1, 1))
    ]
    assert sum(isinstance(module, nn.InstanceNorm2d) for module in network.modules()) == 3
    for side, stages in ((3, 0), (5, 0), (6, 1), (11, 1), (12, 2), (24, 3), (99, 3)):
        small = translators.PatchGAN((1, side, 99), 1, 3, ng.Generator(0))
        assert [c.stride for c in small.modules() if isinstance(c, nn.Conv2d)] == [2] * stages + [1, 1]
        assert small(ng.tensor(np.zeros((1, 1, side, 99), np.float32))).ndim == 4


def test_skip_connections() -> None:
    """If nothing comes up from below, the image is what the last convolution makes of the features at full size:
    Isola et al. 2017, section 3.2.1.  With the skips alone, every size still says something."""
    model, x = pix2pix((1, 8, 8), dropout=0.0), ng.tensor(np.random.default_rng(0).standard_normal((2, 1, 8, 8)))
    network = model.generator
    assert len(network.up) == len(network.down) == 2
    for layer in network.up:
        layer.norm.weight.data *= 0
    features = network.first(x)
    expected = ng.cat([ng.zeros_like(features), ng.functional.relu(features)], dim=1)
    found = network(x, ng.Generator(0)).data
    np.testing.assert_allclose(found, np.tanh(network.last(expected).data), rtol=1e-12)
    assert found.std() > 0


@given(shape=SIDES, stages=st.integers(1, 4))
def test_shapes(shape: tuple[int, int, int], stages: int) -> None:
    """Both generators give images of their sources' shape in [−1, 1], for odd sides too; they halve as often as they
    are told, but no side gets below 2."""
    x = ng.tensor(np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32))
    unet = translators.UNetTranslator(shape, 2, stages, 0.0, ng.Generator(0))
    resnet = translators.ResNetTranslator(shape, 2, stages, 1, ng.Generator(0))
    for y in (unet(x, ng.Generator(0)), resnet(x)):
        assert y.shape == x.shape
        assert abs(y.data).max() <= 1
    most = max(k for k in range(5) if min(shape[1:]) // 2**k >= min(2, min(shape[1:])))
    assert len(unet.down) == len(resnet.down) == min(stages, most)


def test_weights_are_drawn_as_in_the_papers() -> None:
    """From N(0, 0.02²): Isola et al. 2017, appendix 6.2; Zhu et al. 2017, section 7.1."""
    for model in (Pix2Pix((1, 16, 16), 5, channels=8), CycleGAN((1, 16, 16), 5, channels=8)):
        weights = np.concatenate([p.data.ravel() for p in model.parameters() if p.ndim == 4])
        assert weights.std() == pytest.approx(0.02, rel=0.02)
        assert abs(weights.mean()) < 1e-3
        assert all(
            (p.data == (1 if "norm.weight" in name else 0)).all() for name, p in model.named_parameters() if p.ndim == 1
        )


# Pix2Pix


def test_losses_of_pairs() -> None:
    """½ (−E[log D(x, y)] − E[log(1 − D(x, G(x)))]) and −E[log D(x, G(x))] + λ E[‖y − G(x)‖₁], where D gets source and
    image together, x is the source and y the image.  Isola et al. 2017, eq. 1, 3, 4 and section 3.3."""
    model, images = pix2pix(weight=3.0), some_images()
    x, y = model.scaled(SOURCES["edges"](images, 5)), model.scaled(images)
    fake = model.generator(x, ng.Generator(9))
    d_real, d_fake = (model.discriminator(Tensor(np.concatenate([x.data, z.data], axis=1))) for z in (y, fake))
    expected = 0.5 * (softplus(-d_real).mean() + softplus(d_fake).mean())
    assert model.discriminator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-12)
    expected = softplus(-d_fake).mean() + 3 * abs(y.data - fake.data).mean()
    assert model.generator_loss(images, ng.Generator(9)).item() == pytest.approx(expected, rel=1e-12)


def test_the_discriminator_sees_the_source() -> None:
    """The same image is judged otherwise beside another source.  Isola et al. 2017, figure 2."""
    model, images = pix2pix(), some_images()
    y = model.scaled(images)
    one, two = (model.logits(x, y).data for x in (y, Tensor(-y.data)))
    assert abs(one - two).min() > 1e-6


@pytest.mark.parametrize("make", [pix2pix, cycle_gan])
def test_who_learns_from_which_loss(make: Callable[..., Any]) -> None:
    """The parts hold all parameters once.  A discriminator's loss gives the generators no gradient, and all of the
    discriminators one; the generators' gives one to all of the generators."""
    model, images = make(), some_images()
    updates = {update.name: update for update in model.updates()}
    parts = {name: list(update.part.parameters()) for name, update in updates.items()}
    held = [id(p) for name in ("generator", "discriminator") for p in parts[name]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    loss = updates["discriminator"].loss(images, ng.Generator(0))
    assert set(ng.grad(loss, parts["generator"], allow_unused=True)) == {None}
    assert all(g is not None and g.data.any() for g in ng.grad(loss, parts["discriminator"]))
    assert all(g.data.any() for g in ng.grad(updates["generator"].loss(images, ng.Generator(0)), parts["generator"]))


def test_the_noise_is_dropout() -> None:
    """z is dropout in the decoder, in evaluation too, and all that is drawn.  Isola et al. 2017, section 2.1."""
    images = some_images(levels=5)
    noisy, quiet = pix2pix(levels=5, dropout=0.5).eval(), pix2pix(levels=5, dropout=0.0).eval()
    one, again, other = (noisy.translate(images, ng.Generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.array_equal(*(quiet.translate(images, ng.Generator(seed)) for seed in (1, 2)))


# CycleGAN


def test_losses_of_both_directions() -> None:
    """E[(D_Y(G(x)) − 1)²] + E[(D_X(F(y)) − 1)²] + λ (L_cyc + ½ L_identity), and ½ (E[(D_Y(y) − 1)²] + E[D_Y(G(x))²]) +
    ½ (E[(D_X(x) − 1)²] + E[D_X(F(y))²]).  Zhu et al. 2017, eq. 1 – 3, sections 3.3, 4 and 5.2."""
    model, images = cycle_gan(weight=3.0, identity=0.5).eval(), some_images()
    x, y = model.scaled(4 - images[::2]), model.scaled(images[1::2])
    there, back = model.forth(x), model.back(y)
    d_y, d_x = model.of_images, model.of_sources
    square = lambda scores, target: ((scores.data - target) ** 2).mean()
    off = lambda a, b: abs(a.data - b.data).mean()
    cycle = off(model.back(there), x) + off(model.forth(back), y)
    identity = off(model.forth(y), y) + off(model.back(x), x)
    expected = square(d_y(there), 1) + square(d_x(back), 1) + 3 * (cycle + 0.5 * identity)
    assert model.generator_loss(images, ng.Generator(0)).item() == pytest.approx(expected, rel=1e-12)
    model.identity = 0.0
    loss = model.generator_loss(images, ng.Generator(0)).item()
    assert loss == pytest.approx(expected - 1.5 * identity, rel=1e-12)
    expected = 0.5 * (square(d_y(y), 1) + square(d_y(there), 0) + square(d_x(x), 1) + square(d_x(back), 0))
    assert model.discriminator_loss(images, ng.Generator(0)).item() == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 99), slope=st.sampled_from([-2.0, 0.5, 3.0]), shift=st.floats(-1, 1))
def test_the_cycle_of_inverse_maps(seed: int, slope: float, shift: float) -> None:
    """L_cyc is 0 for maps that are inverse to each other, whichever these are: it does not say which.  It is not if one
    of F(G(x)) = x and G(F(y)) = y fails.  Zhu et al. 2017, eq. 2."""
    x, y = (ng.tensor(z) for z in np.random.default_rng(seed).standard_normal((2, 3, 1, 4, 4)))
    forth, back = (lambda z: slope * z + shift), (lambda z: (z - shift) / slope)
    assert cyclegan.cycle_loss(forth, back, x, y).item() == pytest.approx(0, abs=1e-12)
    turn = lambda z: Tensor(np.rot90(z.data, 1, (2, 3)))
    turn_back = lambda z: Tensor(np.rot90(z.data, 3, (2, 3)))
    assert cyclegan.cycle_loss(lambda z: turn(forth(z)), lambda z: back(turn_back(z)), x, y).item() < 1e-12
    # Into fewer dimensions and back: F ∘ G is the identity on images that G does not shorten, G ∘ F is not, and v. v.
    flat, full = ng.tensor(np.full((1, 1, 4, 4), 0.7)), y
    mean = lambda z: z.mean((2, 3), keepdim=True) + 0 * z
    same = lambda z: z
    lost = abs(full.data - mean(full).data).mean()
    assert cyclegan.cycle_loss(same, mean, flat, full).item() == pytest.approx(lost, rel=1e-9)
    assert cyclegan.cycle_loss(same, mean, full, flat).item() == pytest.approx(lost, rel=1e-9)


def test_the_identity_terms_take_the_target() -> None:
    """G(y) − y and F(x) − x, not G(x) − x: what is an image already stays so.  Zhu et al. 2017, section 5.2."""
    x, y = ng.tensor(np.full((2, 1, 4, 4), -1.0)), ng.tensor(np.full((2, 1, 4, 4), 3.0))
    forth, back = (lambda z: z + 10), (lambda z: 2 * z)
    assert cyclegan.identity_loss(forth, back, x, y).item() == pytest.approx(10 + 1)


@given(n=st.integers(2, 9))
def test_no_image_is_in_both_domains(n: int) -> None:
    """Every image of a batch is in one domain: nobody sees a pair."""
    model = cycle_gan((1, 4, 4), 256)
    images = np.arange(n * 16).reshape(n, 1, 4, 4).astype(np.uint8)
    x, y = (((z.data + 1) * 127.5).round() for z in model.domains(images))
    of_x, of_y = {int(image[0, 0, 0]) for image in 255 - x}, {int(image[0, 0, 0]) for image in y}
    assert of_x | of_y == {16 * i for i in range(n)}
    assert len(of_x) + len(of_y) == n
    assert 0 <= len(x) - len(y) <= 1


def test_two_images_are_needed() -> None:
    model = cycle_gan()
    for update in model.updates():
        with pytest.raises(ValueError, match="images must be at least 2, one for each domain, got 1"):
            update.loss(some_images(n=1), ng.Generator(0))


# The history


def numbered(start: int, n: int) -> np.ndarray:
    """Images (n, 1, 1, 1), each of its own number."""
    return np.arange(start, start + n, dtype=np.float64).reshape(n, 1, 1, 1)


def test_the_law_of_the_history() -> None:
    """Once it is full, half of what is returned is from the history, each place as often as any other; the other half
    is new.  What is stored comes back once, after a geometric time, or never: each was stored by a fair coin, and is
    gone from the history when it is returned.  Shrivastava et al. 2017, section 2.3; Zhu et al. 2017, section 4."""
    history, rng, n = History(20, (1, 1, 1)).to(np.float64), ng.Generator(3), 8
    returned, times = [], []
    for step in range(1000):
        new = numbered(step * n, n)
        seen = history(new, rng.uniform(n, np.float64), rng)
        assert ((seen == new) | (seen < step * n)).all()
        if step >= 200:
            returned += (seen != new).ravel().tolist()
            times += [step - int(image) // n for image in seen[seen != new]]
            assert history.filled.data.all()
        assert len(np.unique(history.images.data)) == 20 or not history.filled.data.all(), "nothing is there twice"
    count = len(returned)
    assert np.mean(returned) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(count))
    # A place is hit with probability n / 20, and then exchanged with probability ½: a stored image waits 5 steps.
    p = n / 20 / 2
    assert np.mean(times) == pytest.approx(1 / p, abs=5 * math.sqrt(1 - p) / p / math.sqrt(len(times)))


def test_a_history_by_hand() -> None:
    """Below ½ the coin stores an image; what was in its place is returned, or the image itself if nothing was.  Of more
    images than there are places, the first can be stored."""
    history = History(4, (1, 1, 1)).to(np.float64)
    for step, coins in enumerate([[0.4, 0.6, 0.1], [0.0, 0.49, 0.51], [0.2] * 6, [0.9] * 3, [0.3] * 3]):
        new, before, filled = (
            numbered(10 * step + 1, len(coins)),
            history.images.data.copy(),
            history.filled.data.copy(),
        )
        places = ng.Generator(step).permutation(4)
        seen = history(new, np.array(coins), ng.Generator(step))
        for i, coin in enumerate(coins):
            place = places[i] if i < 4 else None
            exchanged = place is not None and coin < 0.5
            assert seen[i] == (before[place] if exchanged and filled[place] else new[i])
            if exchanged:
                assert history.images.data[place] == new[i]
                before[place], filled[place] = new[i], True
        assert np.array_equal(history.images.data, before)
        assert np.array_equal(history.filled.data, filled)
    history.eval()
    assert np.array_equal(history(new, np.array(coins), ng.Generator(0)), new)
    assert np.array_equal(history.images.data, before)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_have_one_history(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rank stores what one process would, and gets its part of what that would return."""
    whole, parts = History(5, (1, 1, 1)).to(np.float64), [History(5, (1, 1, 1)).to(np.float64) for _ in range(ranks)]
    for step in range(8):
        new, coins = numbered(10 * step, 8), ng.Generator(step).stream(1).uniform(8, np.float64)
        expected = whole(new, coins, ng.Generator(step))
        with monkeypatch.context() as patched:
            patched.setattr(translation, "size", lambda: ranks)
            patched.setattr(
                translation, "everyones", lambda rows, whole=(new, coins): [to_numpy(whole[rows.ndim == 1])]
            )
            n, seen = 8 // ranks, []
            for r, part in enumerate(parts):
                patched.setattr(translation, "rank", lambda r=r: r)
                own = slice(r * n, (r + 1) * n)
                seen.append(to_numpy(part(new[own], coins[own], ng.Generator(step).part(own, 8))))
        assert np.array_equal(np.concatenate(seen), expected)
        assert all(np.array_equal(part.images.data, whole.images.data) for part in parts)


def test_the_discriminators_see_the_history() -> None:
    """In training D_Y gets earlier images G(x) for some of the new ones, and D_X earlier F(y): those in the histories,
    without a gradient to them.  Otherwise the loss is that of the new ones, and nothing is stored."""
    model, images = cycle_gan(history=3), some_images()
    model.discriminator_loss(images, ng.Generator(0))
    for _ in range(20):
        model.discriminator_loss(images, ng.Generator(1).stream(_))
    assert model.past_images.filled.data.all()
    assert model.past_sources.filled.data.all()
    with no_grad():
        there, back = model.forth(model.domains(images)[0]).data, model.back(model.domains(images)[1]).data
    stored = lambda history, among: all(any(np.array_equal(a, b) for b in among) for a in history.images.data)
    assert stored(model.past_images, there)
    assert stored(model.past_sources, back)
    model.past_images.images.data[:] = 0.3
    model.past_sources.images.data[:] = -0.3
    rng, loss = ng.Generator(5), model.discriminator_loss(images, ng.Generator(5))
    coins, (x, y) = rng.uniform((6, 1), np.float64)[:, 0], model.domains(images)
    there[coins[::2] < 0.5], back[coins[1::2] < 0.5] = 0.3, -0.3
    scores = [d(Tensor(z)) for d, z in ((model.of_images, there), (model.of_sources, back))]
    real = [model.of_images(y), model.of_sources(x)]
    expected = 0.5 * sum(((a.data - 1) ** 2).mean() + (b.data**2).mean() for a, b in zip(real, scores, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert not model.past_images.images.requires_grad
    assert 0 < (coins < 0.5).sum() < 6
    before = model.state_dict()
    model.eval().discriminator_loss(images, ng.Generator(6))
    assert all(np.array_equal(before[key], array) for key, array in model.state_dict().items())


def test_a_checkpoint_keeps_the_history(tmp_path: Path) -> None:
    """What a resumed run needs besides the weights is in the state: that it is so to the bit, a test of all models
    says (test_training.py)."""
    trainer, run = trained("cyclegan", tmp_path / "run", history=None)
    found = run.checkpoint()
    assert found is not None
    for name in ("past_images.images", "past_images.filled", "past_sources.images", "kept", "seen"):
        assert np.array_equal(found.arrays[f"model.{name}"], trainer.model.state_dict()[name])
    assert found.arrays["model.past_images.filled"].any()
    assert found.arrays["model.past_sources.images"].any()


# What both have in common


@pytest.mark.parametrize("make", [pix2pix, cycle_gan])
def test_translation_is_of_integer_levels(make: Callable[..., Any]) -> None:
    """The nearest levels of what the generator makes of the scaled source, each image by itself; refused are images of
    another shape, level or type."""
    model, images = make(**({"dropout": 0.0} if make is pix2pix else {})).eval(), some_images()
    y = model.translation(model.scaled(images), ng.Generator(0)).data
    found = model.translate(images, ng.Generator(0))
    assert np.array_equal(found, np.rint((y + 1) * 2).astype(np.uint8))
    assert np.array_equal(found[:1], model.translate(images[:1], ng.Generator(0)))
    assert len({image.tobytes() for image in found}) > 1
    for bad, error in ((images[:, :, 1:], ValueError), (images + 9, ValueError), (images / 2, TypeError)):
        with pytest.raises(error, match="images"):
            model.translate(bad, ng.Generator(0))


def test_both_directions() -> None:
    """`back` goes by F: Y → X, without it by G: X → Y."""
    model, images = cycle_gan().eval(), some_images()
    x = model.scaled(images)
    for back, network in ((False, model.forth), (True, model.back)):
        expected = np.rint((network(x).data + 1) * 2).astype(np.uint8)
        assert np.array_equal(model.translate(images, ng.Generator(0), back=back), expected)
    assert not np.array_equal(*(model.translate(images, ng.Generator(0), back) for back in (False, True)))


@pytest.mark.parametrize("make", [pix2pix, cycle_gan])
def test_samples_are_translations_of_kept_sources(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sources of the last training images, the newest in place of the oldest; none of evaluation; before training
    there is an image of level 0."""
    monkeypatch.setattr(translation, "KEPT", 5)
    model, rng = make(source="inverted", **({"dropout": 0.0} if make is pix2pix else {})), ng.Generator(0)
    zeros = model.translate(np.zeros((3, *SHAPE), np.uint8), rng)
    assert np.array_equal(model.sample(3, rng), zeros)
    each = 1 if make is pix2pix else 2  # of the images of a batch are sources
    known: list[np.ndarray] = []
    for step in range(1, 4):
        images = np.random.default_rng(step).integers(0, 5, (4, *SHAPE)).astype(np.uint8)
        for update in model.updates():
            update.loss(images, rng)
        known += list(4 - images[::each])
        kept = {image.tobytes() for image in model.kept.data[: min(len(known), 5)]}
        assert kept == {image.tobytes() for image in known[-5:]}
        drawn = model.sample(40, rng)
        assert {x.tobytes() for x in drawn} == {x.tobytes() for x in model.translate(np.stack(known[-5:]), rng)}, (
            "each of them, and no other"
        )
    before = model.kept.data.copy()
    for update in model.eval().updates():
        update.loss(some_images(), rng)
    assert np.array_equal(model.kept.data, before)


def test_illustrations() -> None:
    """Pix2Pix: source, translation, image, in two groups.  CycleGAN: source, there, back; image, back, there."""
    images = some_images(n=20)
    test, rng = Images(images, None, 5, "some"), ng.Generator(0)
    model = pix2pix(dropout=0.0).eval()
    (grid,) = model.illustrations(test, test, rng).values()
    chosen = images[np.arange(32) % 20]
    sources = SOURCES["edges"](chosen, 5)
    expected = [sources, model.translate(sources, rng), chosen]
    assert grid.shape == (6, 16, *SHAPE)
    for i, rows in enumerate(expected):
        assert np.array_equal(np.concatenate([grid[i], grid[i + 3]]), rows)
    both = cycle_gan().eval()
    (grid,) = both.illustrations(test, test, rng).values()
    x, y = 4 - images[:16], images[:16]
    there, back = both.translate(x, rng), both.translate(y, rng, back=True)
    assert np.array_equal(grid, [x, there, both.translate(there, rng, back=True), y, back, both.translate(back, rng)])


@pytest.mark.parametrize("make", [pix2pix, cycle_gan])
def test_what_is_refused(make: Callable[..., Any]) -> None:
    for settings, words in (
        ({"source": "blurred"}, "source must be one of edges, halved, inverted, turned, posterised, got 'blurred'"),
        ({"source": "turned"}, "source=turned needs square images"),
        ({"shape": (1, 2, 9)}, "image_shape must have at least 3×3 pixels"),
        ({"classes": 3}, "classes must be 0: a translation's condition is its source, got 3"),
        ({"weight": -1.0}, "weight"), ({"weight": math.inf}, "weight"), ({"channels": 0}, "channels"),
        ({"discriminator_stages": -1}, "discriminator_stages"),
        ({"dropout": 1.0} if make is pix2pix else {"identity": -0.1}, "dropout|identity"),
        ({"stages": 0} if make is pix2pix else {"stages": -1}, "stages"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            make(**settings)
    model = make()
    with pytest.raises(ValueError, match="labels"):
        model.sample(2, ng.Generator(0), labels=[0, 0])
    with pytest.raises(ValueError, match="n must"):
        model.sample(0, ng.Generator(0))
    for update in model.updates():
        with pytest.raises(ValueError, match="labels"):
            update.loss(some_images(), ng.Generator(0), [0] * 6)


# The command line


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny runs on stripes, with the file of the stripes."""
    folder = tmp_path_factory.mktemp("translation")
    np.savez(folder / "stripes.npz", images=stripes().images, levels=4)
    for model in ("pix2pix", "cyclegan", "vae"):
        own = [f"{name}={value}" for name, value in TINY[model].items()]
        given = ["--data", str(folder / "stripes.npz"), "--steps", "4", "--batch", "8", "--quiet", "--set", *own]
        assert main(["train", model, "--out", str(folder / model), *given]) == 0
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(("model", "options"), [("pix2pix", []), ("cyclegan", []), ("cyclegan", ["--back"])])
def test_translate_command(model: str, options: list[str], runs: dict[str, Path], tmp_path: Path) -> None:
    """All images of the file in their order, as an .npz, in a grid of each source above its translation, or a file for
    each translation."""
    translate = ["translate", str(runs[model]), "--images", str(runs["stripes.npz"]), "--seed", "4", *options]
    for out in ("x.npz", "x.png", "x/"):
        assert main([*translate, "--out", f"{tmp_path}/{out}"]) == 0
    sources = stripes().images
    how = {"back": True} if options else {}
    expected = Run(runs[model]).model().translate(sources, ng.Generator(4).stream(SAMPLES, 0), **how)
    with np.load(tmp_path / "x.npz") as found:
        assert np.array_equal(found["images"], expected)
    assert len(list((tmp_path / "x").iterdir())) == len(sources) == 30
    picture = np.asarray(Image.open(tmp_path / "x" / "0007.png"))
    assert np.array_equal(picture, expected[7, 0] * 85)
    grid = np.asarray(Image.open(tmp_path / "x.png"))
    factor = 14
    place = lambda row, column: grid[row * (5 * factor) :, column * (5 * factor) :][
        : 4 * factor : factor, : 4 * factor : factor
    ]
    assert np.array_equal(place(0, 3), sources[3, 0] * 85)
    assert np.array_equal(place(1, 3), expected[3, 0] * 85)
    assert np.array_equal(place(2, 1), sources[17, 0] * 85)
    assert np.array_equal(place(3, 1), expected[17, 0] * 85)


def test_translations_are_named_like_their_pictures(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same subfolders, each by the name of the picture that it is of; never over pictures that are there."""
    whole = tmp_path / "pictures"
    (whole / "b").mkdir(parents=True)
    for i, name in enumerate(["cat.png", "dog.bmp", "b/cat.png"]):
        Image.fromarray(np.full((4, 4), 85 * i, np.uint8)).save(whole / name)
    own = [f"{name}={value}" for name, value in TINY["pix2pix"].items()]
    given = ["--data", str(whole), "--batch", "1", "--steps", "2", "--quiet", "--set", *own, "levels=4"]
    assert main(["train", "pix2pix", "--out", str(tmp_path / "run"), *given]) == 0
    translate = ["translate", str(tmp_path / "run"), "--images", str(whole), "--out"]
    for out in ("x.npz", "x/"):
        assert main([*translate, f"{tmp_path}/{out}"]) == 0
    with np.load(tmp_path / "x.npz") as found:
        expected = dict(zip(["b/cat.png", "cat.png", "dog.png"], found["images"][:, 0] * 85, strict=True))
    there = {path.relative_to(tmp_path / "x").as_posix(): path for path in (tmp_path / "x").rglob("*.*")}
    assert there.keys() == expected.keys()
    for name, path in there.items():
        assert np.array_equal(np.asarray(Image.open(path)), expected[name]), name
    before = {path: path.read_bytes() for path in whole.rglob("*.*")}
    capsys.readouterr()
    for out in (whole, tmp_path / "x"):
        assert main([*translate, f"{out}/"]) == 2
        assert capsys.readouterr().err.startswith(
            "nanogen: error: --out must be a new folder, as the results are named"
        )
    assert {path: path.read_bytes() for path in whole.rglob("*.*")} == before


def test_which_images_are_translated(runs: dict[str, Path], tmp_path: Path) -> None:
    """All of a file or a folder in their order; of one with splits, and of a data set, those for testing; a picture."""
    assert np.array_equal(data.load_all(runs["stripes.npz"]).images, stripes().images)
    np.savez(tmp_path / "split.npz", train_images=some_images(n=3), test_images=some_images(n=2) * 0 + 1)
    assert np.array_equal(data.load_all(tmp_path / "split.npz").images, np.ones((2, *SHAPE)))
    assert np.array_equal(data.load_all("digits").images, data.load("digits", "test").images)
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        Image.fromarray(np.full((5 + i, 9), 20 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    found = data.load_all(tmp_path / "pictures", (4, 4), "grey").images
    assert found[:, 0, 0, 0].tolist() == [20 * i for i in sorted(range(12), key=str)]
    one = data.load_all(tmp_path / "pictures" / "3.png", (4, 4), "grey").images
    assert np.array_equal(one, np.full((1, 1, 4, 4), 60))
    (tmp_path / "pictures" / "train").mkdir()
    for i in range(12):
        (tmp_path / "pictures" / f"{i}.png").rename(tmp_path / "pictures" / "train" / f"{i}.png")
    (tmp_path / "pictures" / "test").mkdir()
    Image.fromarray(np.full((5, 9), 7, np.uint8)).save(tmp_path / "pictures" / "test" / "x.png")
    assert data.load_all(tmp_path / "pictures", (4, 4)).images.tolist() == [[[[7] * 4] * 4]]


def test_translate_makes_sources(runs: dict[str, Path], tmp_path: Path) -> None:
    """--make-sources: what is translated is the run's `source` of the images."""
    images = stripes().images
    np.savez(tmp_path / "sources.npz", images=SOURCES["edges"](images, 4), levels=4)
    given = [("stripes.npz", ["--make-sources"]), ("sources.npz", [])]
    for name, options in given:
        path = tmp_path / name if name == "sources.npz" else runs[name]
        out = str(tmp_path / f"of-{name}")
        assert main(["translate", str(runs["pix2pix"]), "--images", str(path), "--out", out, *options]) == 0
    one, two = (np.load(tmp_path / f"of-{name}")["images"] for name, _ in given)
    assert np.array_equal(one, two)


def test_what_translate_refuses(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything is written."""
    np.save(tmp_path / "large.npy", np.zeros((3, 5, 5), np.uint8))
    np.save(tmp_path / "bytes.npy", np.zeros((3, 4, 4), np.uint8))
    stripes_file = str(runs["stripes.npz"])
    for model, more, words in [
        ("vae", [stripes_file], "is a run of vae; only pix2pix, cyclegan, spade, super-resolution translate images"),
        ("pix2pix", [stripes_file, "--back"], "--back is for cyclegan"),
        ("cyclegan", [stripes_file, "--back", "--make-sources"], "--make-sources is not for --back"),
        ("pix2pix", [f"{tmp_path}/large.npy"], "must be images of shape (1, 4, 4) and 4 levels"),
        ("pix2pix", [f"{tmp_path}/bytes.npy"], "got images of shape (1, 4, 4) and 256 levels"),
        ("pix2pix", [f"{tmp_path}/none.npy"], "none.npy is not a file"),
        ("pix2pix", ["nothing"], "data must be one of"),
        ("pix2pix", [stripes_file, "--out", f"{tmp_path}/nowhere/x.png"], "nowhere does not"),
    ]:
        assert main(["translate", str(runs[model]), "--out", f"{tmp_path}/x.png", "--images", *more]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert main(["translate", str(runs["pix2pix"]), "--images", stripes_file, "--out", f"{tmp_path}/x.jpg"]) == 2
    assert ".png or .npz, or in / for a folder" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"large.npy", "bytes.npy"}
