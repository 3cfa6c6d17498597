"""The autoregressive models: densities that sum to one over all images there are, and look only back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import nanogen as ng
from nanogen.models import GatedPixelCNN, PixelCNN, PixelRNN
from nanogen.models.autoregressive.base import AutoregressiveModel
from nanogen.models.autoregressive.gated import gate
from nanogen.models.autoregressive.pixelrnn import lstm, skew, unskew

SAMPLES = 20_000  # tells the sampler from one whose every factor is tilted as below, with both errors below 1e-6
FEW = 500  # that are compared with those drawn from the whole network for every number
FLOOR = 1e-6
QUICK: dict[str, Any] = {"channels": 6, "blocks": 1}  # of which many samples are drawn
KINDS: dict[str, tuple[type[AutoregressiveModel], dict[str, Any]]] = {
    "plain": (PixelCNN, {}), "gated": (GatedPixelCNN, {}),
    "row": (PixelRNN, {"cell": "row"}), "diagonal": (PixelRNN, {"cell": "diagonal"}),
}  # fmt: skip
WITH_COLUMNS = [kind for kind in KINDS if kind != "diagonal"]

every_kind = pytest.mark.parametrize("kind", KINDS)


def model(
    shape: tuple[int, int, int], levels: int = 2, strength: float = 1.0, kind: str = "plain", **settings: Any
) -> Any:
    """A small network in double precision, its weights scaled up so that no factor is close to even or to constant."""
    cls, own = KINDS[kind]
    settings = {"channels": 12, "blocks": 2, "kernel_size": 3, **own, **settings}
    if cls is PixelRNN:
        settings["hidden"] = settings.pop("channels")
    network = cls(shape, levels, rng=ng.Generator(1), **settings).to(np.float64)
    for parameter in network.parameters():
        weight = 3.0 if shape[0] == 1 else 5.0
        parameter.data = parameter.data * strength * (weight if parameter.ndim == 4 else 0.2)
    return network


def all_images(shape: tuple[int, int, int], levels: int) -> np.ndarray:
    """Every image there is: (levels^CHW, C, H, W)."""
    n = int(np.prod(shape))
    return np.array(list(itertools.product(range(levels), repeat=n)), np.uint8).reshape(-1, *shape)


@every_kind
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("shape", "levels"), [((1, 3, 3), 2), ((3, 1, 2), 2), ((1, 2, 2), 5), ((3, 1, 1), 4)])
def test_density_sums_to_one(shape: tuple[int, int, int], levels: int, training: bool, kind: str) -> None:
    """Σ p(x) = 1 over every image there is: all 512 of 3×3 black and white pixels, all 64 of two RGB pixels of two
    levels, …  van den Oord et al. 2016, eq. 1 and 2.  It would not if a factor saw its own number or a later one.
    Exact in training too, where dropout is the loss's alone."""
    network = model(shape, levels, kind=kind, dropout=0.5).train(training)
    p = np.exp(network.log_prob(all_images(shape, levels)).data)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert p.max() > 2 * p.mean(), "a test of an even density would show little"


@every_kind
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 1, 2)])
def test_density_is_the_product_of_its_factors(shape: tuple[int, int, int], kind: str) -> None:
    """p(x_i | x_1 … x_{i−1}) by enumeration, as the ratio of sums of p over all images with that beginning, equals the
    softmax that the network gives at i: the order is raster over pixels and R, G, B inside a pixel."""
    network, images = model(shape, kind=kind), all_images(shape, 2)
    p = np.exp(network.log_prob(images).data)
    logits = network(network.scaled(images)).data  # (N, H, W, C, levels)
    factors = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).reshape(len(images), -1, 2)
    order = images.transpose(0, 2, 3, 1).reshape(len(images), -1)
    for image, k in np.ndindex(*order.shape):
        begins = (order[:, :k] == order[image, :k]).all(axis=1)
        expected = p[begins & (order[:, k] == 1)].sum() / p[begins].sum()
        assert factors[image, k, 1] == pytest.approx(expected, rel=1e-9)


@every_kind
@pytest.mark.parametrize("shape", [(1, 4, 3), (3, 3, 2)])
def test_each_factor_depends_on_the_past_alone(shape: tuple[int, int, int], kind: str) -> None:
    """By gradients: the logits of sub-pixel i have no slope in sub-pixel i or a later one, and have one in the one
    before.  By perturbation: a change of sub-pixel j leaves the logits up to and with its own as they were, to the
    bit.  Both, as a gradient misses what is flat and a perturbation what it happens to leave."""
    network = model(shape, 4, kind=kind)
    colors, height, width = shape
    place = np.arange(height * width).reshape(height, width)[None] * colors + np.arange(colors)[:, None, None]
    rng = np.random.default_rng(0)
    x = leaf(rng.uniform(-1, 1, (30, *shape)))  # of many images, as one may meet a rectifier where it is flat
    logits = network(x)
    for c, i, j in np.ndindex(*shape):
        weights = rng.standard_normal(4)
        slope = abs(ng.grad((logits[:, i, j, c] * weights).sum(), [x])[0].data).sum(axis=0)
        assert (slope[place >= place[c, i, j]] == 0).all()
        assert (slope[place == place[c, i, j] - 1] > 0).all() or (j == 0 and c == 0)  # there the one before is far off
    out = logits.data.transpose(0, 3, 1, 2, 4)  # (N, C, H, W, levels)
    for c, i, j in np.ndindex(*shape):
        moved = x.data.copy()
        moved[:, c, i, j] += 5.0
        changed = (network(ng.tensor(moved)).data.transpose(0, 3, 1, 2, 4) != out).any(axis=(0, -1))
        assert not changed[place <= place[c, i, j]].any()
        assert changed.any() or place[c, i, j] == place.max()


@pytest.mark.parametrize(("shape", "kernel_size", "blocks"), [
    ((1, 6, 7), 3, 2), ((1, 5, 6), 5, 1), ((3, 4, 5), 3, 1), ((3, 3, 6), 5, 2),
])  # fmt: skip
def test_what_each_factor_sees(shape: tuple[int, int, int], kernel_size: int, blocks: int) -> None:
    """The slopes of the whole network's logits are in just these sub-pixels: those that a path leads to, one step by
    the first mask (before the pixel in the kernel, or an earlier colour of it), then at most one a block by the second
    (at most a row up and a column aside, or the pixel itself, in its own or an earlier colour; all colours before)."""
    network = model(shape, 3, kernel_size=kernel_size, blocks=blocks, channels=24)
    reach = kernel_size // 2
    places = list(np.ndindex(*shape))

    def seen_from(place: tuple[int, ...], window: int, own: bool) -> set[tuple[int, ...]]:
        c, i, j = place
        return {
            (d, y, x) for d, y, x in places
            if abs(y - i) <= window and abs(x - j) <= window
            and ((y, x) < (i, j) or ((y, x) == (i, j) and (d < c or (own and d == c))))
        }  # fmt: skip

    x = leaf(np.random.default_rng(0).uniform(-1, 1, (20, *shape)))
    logits = network(x)
    for c, i, j in places:
        hidden = {(c, i, j)}
        for _ in range(blocks):
            hidden |= set().union(*(seen_from(place, 1, own=True) for place in hidden))
        expected = set().union(*(seen_from(place, reach, own=False) for place in hidden))
        weights = np.random.default_rng(1).standard_normal(3)
        slope = abs(ng.grad((logits[:, i, j, c] * weights).sum(), [x])[0].data).sum(axis=0)
        assert {place for place in places if slope[place] > 0} == expected, (c, i, j)


def p_value(counts: np.ndarray, p: np.ndarray) -> float:
    """χ² of counts against a density, the rare outcomes together."""
    expected = p / p.sum() * counts.sum()
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return stats.chisquare(counts, expected).pvalue


@every_kind
@pytest.mark.parametrize(("shape", "levels"), [((1, 2, 2), 2), ((3, 1, 1), 3)])
def test_samples_follow_the_density(shape: tuple[int, int, int], levels: int, kind: str) -> None:
    """χ² of 20,000 samples against the enumerated density; the same samples refuse the density of a network whose
    weights are 10 % smaller, and that of independent numbers with the same marginals: they look at one another."""
    images = all_images(shape, levels)
    how: dict[str, Any] = {"kind": kind} | (QUICK if shape[0] == 1 else {})
    network, wrong = model(shape, levels, **how), model(shape, levels, strength=0.9, **how)
    samples = network.sample(SAMPLES, ng.Generator(5))
    if kind in WITH_COLUMNS:
        naive = network.complete_naively(np.zeros((FEW, *shape), np.uint8), 0, ng.Generator(5))
        assert np.array_equal(network.sample(FEW, ng.Generator(5)), naive)
    assert samples.dtype == np.uint8
    assert samples.shape == (SAMPLES, *shape)
    digits = levels ** np.arange(images[0].size)[::-1]
    counts = np.bincount(samples.reshape(SAMPLES, -1) @ digits, minlength=len(images))
    p, other = (np.exp(m.log_prob(images).data) for m in (network, wrong))
    numbers = images.reshape(len(images), -1)
    alone = np.prod([np.bincount(x, p, levels)[x] for x in numbers.T], axis=0)
    assert p_value(counts, p) > FLOOR > max(p_value(counts, other), p_value(counts, alone))


@every_kind
def test_completions_follow_the_conditional_density(kind: str) -> None:
    """complete(x, rows) keeps the rows that are given and draws the others from p(rest | rows), the ratio of sums of
    the enumerated density; what stood below does not matter."""
    shape, images = (1, 2, 2), all_images((1, 2, 2), 2)
    network = model(shape, kind=kind, **QUICK)
    p = np.exp(network.log_prob(images).data)
    for first in ([0, 1], [1, 1]):
        begun = np.empty((SAMPLES, *shape), np.uint8)
        begun[:, 0, 0], begun[:, 0, 1] = first, np.random.default_rng(0).integers(0, 2, (SAMPLES, 2))
        before = begun.copy()
        done = network.complete(begun, 1, ng.Generator(6))
        if kind in WITH_COLUMNS:
            ways = [way(begun[:FEW], 1, ng.Generator(6)) for way in (network.complete, network.complete_naively)]
            assert np.array_equal(*ways)
        assert np.array_equal(begun, before), "the images that were given are left alone"
        assert (done[:, 0, 0] == first).all()
        kept = (images[:, 0, 0] == first).all(axis=1)
        counts = np.bincount(done[:, 0, 1] @ [2, 1], minlength=4)
        assert p_value(counts, p[kept]) > FLOOR > p_value(counts, p[~kept][:4])
    assert np.array_equal(network.complete(images, 2, ng.Generator(0)), images)
    for rows in (-1, 3):
        with pytest.raises(ValueError, match=f"rows must be in 0 … 2, got {rows}"):
            network.complete(images, rows, ng.Generator(0))
    with pytest.raises(ValueError, match="rows must be in 0 … 1, got 2"):
        model((1, 1, 2), kind=kind).complete(np.zeros((1, 1, 1, 2), np.uint8), 2, ng.Generator(0))


@st.composite
def networks(draw: Any) -> tuple[Any, np.ndarray]:
    """A network of any shape with weights that matter, and images for it."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    levels, dtype = draw(st.integers(2, 20)), draw(st.sampled_from([np.float32, np.float64]))
    settings = {"channels": draw(st.integers(6, 40)), "blocks": draw(st.integers(1, 3))}
    settings["kernel_size"] = draw(st.sampled_from([1, 3, 5, 7]))
    settings |= {"strength": draw(st.floats(0.5, 1.5)), "kind": draw(st.sampled_from(WITH_COLUMNS))}
    network = model(shape, levels, **settings).to(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return network, rng.integers(0, levels, (draw(st.integers(1, 4)), *shape)).astype(np.uint8)


@given(networks(), st.data())
def test_sampling_by_columns_is_naive_sampling(example: tuple[Any, np.ndarray], data: st.DataObject) -> None:
    """Bit for bit the same images as from the whole network for every number, and the generator left in the same
    state: grey and of colours, high and wide, begun or not, in both types."""
    network, images = example
    rows, seed = data.draw(st.integers(0, images.shape[2])), data.draw(st.integers(0, 99))
    one, other = ng.Generator(seed), ng.Generator(seed)
    drawn, naive = network.complete(images, rows, one), network.complete_naively(images, rows, other)
    assert np.array_equal(drawn, naive)
    assert one.state == other.state
    assert np.array_equal(drawn[:, :, :rows], images[:, :, :rows])


@given(networks())
def test_columns_are_those_of_the_whole_network(example: tuple[Any, np.ndarray]) -> None:
    """One pixel at a time, each colour before the next one is known, the logits are those of one pass over the whole
    images, to rounding.  Ramachandran et al. 2017."""
    network, images = example
    n, (colors, height, width) = len(images), images.shape[1:]
    whole, columns = network(network.scaled(images)).data, network.columns(n)
    known = np.random.default_rng(0).integers(0, network.levels, images.shape).astype(np.uint8)  # not yet, in truth
    tolerance = 1e-12 if whole.dtype == np.float64 else 1e-4
    for i, j, c in itertools.product(range(height), range(width), range(colors)):
        logits = columns.logits(i, j, c)
        assert logits.dtype == whole.dtype
        np.testing.assert_allclose(logits, whole[:, i, j, c], rtol=tolerance, atol=tolerance * np.abs(whole).max())
        known[:, c, i, j] = images[:, c, i, j]
        columns.learn(known, i, j)
    # From a pixel in the middle on once more, as after a slip, with other values.
    other = np.random.default_rng(1).integers(0, network.levels, images.shape).astype(np.uint8)
    order = np.arange(height * width).reshape(height, width)
    other = np.where(order < order.size // 2, images, other)
    whole = network(network.scaled(other)).data
    for i, j, c in itertools.product(range(height), range(width), range(colors)):
        if order[i, j] >= order.size // 2:
            found, expected = columns.logits(i, j, c), whole[:, i, j, c]
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(whole).max())
            known[:, c, i, j] = other[:, c, i, j]
            columns.learn(known, i, j)


@pytest.mark.parametrize("kind", WITH_COLUMNS)
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 2, 3)])
def test_what_a_rounding_decides_is_drawn_again(
    shape: tuple[int, int, int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision no rounding decides: the whole network looks over the images once.  With an error in every
    logit that is a billion times larger, some draws come out wrong; the images are those of the definition still, with
    as many looks as there were slips."""
    network, looks = model(shape, 6, kind=kind), 0
    whole, columns = type(network).forward, type(network.columns(1))

    def counted(self: AutoregressiveModel, x: ng.Tensor) -> ng.Tensor:
        nonlocal looks
        looks += 1
        return whole(self, x)

    naive = network.complete_naively(np.zeros((8, *shape), np.uint8), 0, ng.Generator(3))
    monkeypatch.setattr(type(network), "forward", counted)
    assert np.array_equal(network.sample(8, ng.Generator(3)), naive)
    assert looks == 1
    exact, noise = columns.logits, np.random.default_rng(0)
    monkeypatch.setattr(columns, "logits", lambda *at: (x := exact(*at)) + noise.normal(0, 0.1, x.shape))
    assert np.array_equal(network.sample(8, ng.Generator(3)), naive)
    assert 3 < looks < np.prod(shape)


@every_kind
@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 3)])
def test_the_future_changes_no_bit(shape: tuple[int, int, int], kind: str) -> None:
    """What the whole network says of a number in single precision, with channels enough for every way of computing a
    convolution, is the same to the bit whatever stands at that number and after it: on this the look rests that
    sampling takes at its images."""
    network = model(shape, 9, kind=kind, channels=64, kernel_size=5).to(np.float32)
    images, others = np.random.default_rng(0).integers(0, 9, (2, 4, *shape)).astype(np.uint8)
    colors, height, width = shape
    before = network(network.scaled(images)).data
    for i, j, c in itertools.product(range(height), range(width), range(colors)):
        number = (i * width + j) * colors + c
        order = np.arange(height * width * colors).reshape(height, width, colors).transpose(2, 0, 1)
        mixed = np.where(order < number, images, others)
        assert np.array_equal(network(network.scaled(mixed)).data[:, i, j, c], before[:, i, j, c])


@every_kind
def test_loss_is_minus_the_mean_log_density(kind: str) -> None:
    """loss = −E[log p(x)] / (C·H·W), in nats per dimension, when dropout is off; with it, another number by another
    rng, and dropout in evaluation is off."""
    network, images = model((3, 2, 2), 3, kind=kind), all_images((3, 1, 1), 3).repeat(2, axis=2).repeat(2, axis=3)
    exact = -network.log_prob(images).data.mean() / 12
    assert network.eval().loss(images, ng.Generator(0)).item() == pytest.approx(exact, rel=1e-12)
    network.train()
    assert network.loss(images, ng.Generator(0)).item() != network.loss(images, ng.Generator(1)).item()
    assert network.loss(images, ng.Generator(0)).item() == network.loss(images, ng.Generator(0)).item()
    assert network.training


def test_training_lowers_the_loss_below_that_of_no_model() -> None:
    """Images in which each pixel repeats its left neighbour: a fitted model knows the copies, close to log 2 a row."""
    first = all_images((1, 3, 1), 2)
    images = first.repeat(3, axis=3)
    network = PixelCNN((1, 3, 3), 2, channels=8, blocks=1, kernel_size=3, dropout=0.0).to(np.float64)
    optimizer = ng.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        network.loss(images, ng.Generator(0)).backward()
        optimizer.step()
    nats = -network.log_prob(images).data.mean()
    assert 3 * np.log(2) - 1e-9 <= nats < 3 * np.log(2) + 0.1


@pytest.mark.parametrize(("settings", "word"), [
    ({"channels": 5}, "channels must be at least 6 for 3 colours, got 5"), ({"channels": -6}, "channels must be a pos"),
    ({"kernel_size": 4}, "odd"), ({"kernel_size": -1}, "kernel_size must be a positive"), ({"blocks": 0}, "blocks"),
    ({"dropout": 1.5}, "p must"),
    ({"levels": 1}, "levels"), ({"levels": 257}, "levels"), ({"image_shape": (3, 0, 2)}, "image_shape"),
    ({"image_shape": (3, 2)}, "image_shape"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        PixelCNN(**{"image_shape": (3, 2, 2), "levels": 2, "channels": 12, "blocks": 1, **settings})


@pytest.mark.parametrize(("images", "error", "word"), [
    (np.zeros((1, 1, 2, 2)), TypeError, "integer"), (np.full((1, 1, 2, 2), 2, np.uint8), ValueError, "levels"),
    (np.zeros((1, 2, 2), np.uint8), ValueError, "N, C, H, W"), (np.zeros((1, 1, 2, 3), np.uint8), ValueError, "shape"),
    (np.full((1, 1, 2, 2), -1), ValueError, "levels"), ([[1]], TypeError, "integer"),
])  # fmt: skip
def test_bad_images(images: Any, error: type[Exception], word: str) -> None:
    """What is no batch of images of these levels is refused."""
    network = model((1, 2, 2))
    for call in (network.log_prob, lambda x: network.loss(x, ng.Generator(0))):
        with pytest.raises(error, match=word):
            call(images)
    with pytest.raises(ValueError, match="n must"):
        network.sample(0, ng.Generator(0))


def test_receptive_field_and_its_blind_spot() -> None:
    """A plain stack of 3×3 masked convolutions sees, after L of mask B upon one of mask A, exactly the pixels that
    L + 1 causal steps reach: each step stays, goes one to the left, or one up and at most one aside.  To the right
    that is a wedge: of the past above and to the right, a blind spot stays unseen however deep the network.

    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, figure 1."""
    size, row, column, blocks = 9, 7, 4, 6
    network = PixelCNN((1, size, size), 2, channels=8, blocks=blocks, kernel_size=3, rng=ng.Generator(3)).to(np.float64)
    for name, parameter in network.named_parameters():  # no relu is shut: what can be seen is seen
        parameter.data = np.abs(parameter.data) + 0.1 if name.endswith("bias") else np.abs(parameter.data)
    x = leaf(np.abs(np.random.default_rng(2).normal(size=(1, 1, size, size))))
    slopes = ng.grad(network(x)[0, row, column, 0].sum(), [x])[0].data[0, 0]

    moves = {(0, -1), (-1, -1), (-1, 0), (-1, 1)}
    reached = {(row + i, column + j) for i, j in moves}
    for _ in range(blocks):
        reached |= {(i + a, j + b) for i, j in reached for a, b in moves}
    expected = np.array([[(i, j) in reached for j in range(size)] for i in range(size)])
    assert np.array_equal(slopes != 0, expected)
    past = np.arange(size * size).reshape(size, size) < row * size + column
    assert not (expected & ~past).any()
    blind = past & ~expected
    assert blind.any()
    assert all(j > column and j - column > row - i for i, j in zip(*np.nonzero(blind), strict=True) if i > row - blocks)


@pytest.mark.parametrize(("kernel_size", "blocks", "colors"), [(3, 1, 1), (5, 2, 1), (3, 1, 3), (3, 2, 2)])
def test_gated_layers_have_no_blind_spot(kernel_size: int, blocks: int, colors: int) -> None:
    """A pixel's factor sees all the past within its reach, r = kernel_size // 2 + blocks: in its row the r pixels to
    the left, and of the r + 1 rows above those at most r columns aside; of the pixel itself the colours before.

    van den Oord et al. 2016, Conditional Image Generation with PixelCNN Decoders, section 2.2."""
    shape, reach = (colors, 6, 7), kernel_size // 2 + blocks
    network = model(shape, 3, kind="gated", kernel_size=kernel_size, blocks=blocks, strength=0.3)
    x = leaf(np.random.default_rng(0).uniform(-1, 1, (8, *shape)))
    logits, weights = network(x), np.random.default_rng(1).standard_normal(3)
    for c, i, j in np.ndindex(*shape):
        expected = {
            (d, y, z) for d, y, z in np.ndindex(*shape)
            if (0 < i - y <= reach + 1 and abs(z - j) <= reach) or (y == i and 0 < j - z <= reach)
            or (y == i and z == j and d < c)
        }  # fmt: skip
        slope = abs(ng.grad((logits[:, i, j, c] * weights).sum(), [x])[0].data).sum(axis=0)
        assert {place for place in np.ndindex(*shape) if slope[place] > 0} == expected, (c, i, j)


def test_default_gated_layers_see_all_the_past() -> None:
    """At 8×8 the default settings (a first kernel of 7, then five layers of 3) reach every pixel before."""
    network = GatedPixelCNN((1, 8, 8), 2, channels=4).to(np.float64)
    x = leaf(np.random.default_rng(0).uniform(-1, 1, (4, 1, 8, 8)))
    logits = network(x)
    for i, j in ((7, 7), (7, 0), (6, 3), (1, 0)):
        slope = abs(ng.grad(logits[:, i, j, 0, 0].sum(), [x])[0].data).sum(axis=(0, 1)).ravel()
        assert np.array_equal(slope > 0, np.arange(64) < 8 * i + j)


def test_a_gate_is_a_product() -> None:
    """tanh of the first half of the channels times the sigmoid of the second."""
    a, b = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 6))
    for form in (gate, gate.plain):
        found = form(ng.tensor(np.concatenate([a, b], axis=1))).data
        np.testing.assert_allclose(found, np.tanh(a) / (1 + np.exp(-b)), rtol=1e-12)


def test_dropout_acts_in_both_stacks() -> None:
    """With everything dropped but for the rescaled rest the loss moves, also if one stack alone is read."""
    network = model((1, 4, 4), 3, kind="gated", dropout=0.9)
    images = np.random.default_rng(0).integers(0, 3, (5, 1, 4, 4)).astype(np.uint8)
    layer, x = network.layers[1], ng.tensor(np.random.default_rng(1).normal(size=(5, 12, 4, 4)))
    for which in (0, 1):
        plain, dropped = layer(x, x, None, None)[which].data, layer(x, x, ng.Generator(0), None)[which].data
        assert not np.allclose(plain, dropped)
    assert network.loss(images, ng.Generator(0)).item() != network.eval().loss(images, ng.Generator(0)).item()


def seen_by(network: Any, place: tuple[int, ...]) -> set[tuple[int, ...]]:
    """The sub-pixels in which the logits at a place (c, i, j) have a slope, for some of several images."""
    c, i, j = place
    x = leaf(np.random.default_rng(0).uniform(-1, 1, (8, *network.image_shape)))
    weights = np.random.default_rng(1).standard_normal(network.levels)
    slope = abs(ng.grad((network(x)[:, i, j, c] * weights).sum(), [x])[0].data).sum(axis=0)
    return {place for place in np.ndindex(*network.image_shape) if slope[place] > 0}


@pytest.mark.parametrize(("shape", "kernel_size", "blocks"), [((1, 7, 9), 3, 1), ((1, 6, 9), 3, 2), ((2, 5, 6), 5, 1)])
def test_what_a_row_lstm_sees(shape: tuple[int, int, int], kernel_size: int, blocks: int) -> None:
    """Of its layer's input a Row LSTM sees at (i, j): the pixel itself, in its own and earlier colours; the pixel to
    the left; and m rows above the 2m + 2 pixels from j − m − 1 to j + m.  The first mask and each layer widen this."""
    network = model(shape, 3, kind="row", kernel_size=kernel_size, blocks=blocks, strength=0.3)
    places, reach = list(np.ndindex(*shape)), kernel_size // 2
    for place in places[-shape[1] * shape[2] :: 4]:
        seen = {place}
        for _ in range(blocks):
            seen |= {
                (d, y, x) for c, i, j in seen for d, y, x in places
                if ((y, x) == (i, j) and d <= c) or (x - j + i - y >= -1 and x - j <= i - y and (y, x) < (i, j))
            }  # fmt: skip
        expected = {
            (d, y, x) for c, i, j in seen for d, y, x in places
            if max(abs(y - i), abs(x - j)) <= reach and ((y, x) < (i, j) or ((y, x) == (i, j) and d < c))
        }  # fmt: skip
        assert seen_by(network, place) == expected, place


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 7, 5), (2, 3, 8)])
def test_a_diagonal_lstm_sees_all_the_past(shape: tuple[int, int, int]) -> None:
    """Every pixel sees every value before it, after one layer and with a first kernel of 3: also the last pixel of the
    row above, from far on the left."""
    network, order = model(shape, 3, kind="diagonal", blocks=1, strength=0.3), list(np.ndindex(*shape))
    order.sort(key=lambda place: (place[1], place[2], place[0]))
    for k, place in enumerate(order):
        assert seen_by(network, place) == set(order[:k]), place


def test_skewing() -> None:
    """Row i is moved by i pixels; `unskew` is the inverse, and on what `skew` reaches its adjoint."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    found = skew(ng.tensor(x)).data
    assert found.shape == (2, 3, 4, 8)
    expected = np.zeros_like(found)
    for i in range(4):
        expected[:, :, i, i : i + 5] = x[:, :, i]
    assert np.array_equal(found, expected)
    assert np.array_equal(unskew(ng.tensor(found)).data, x)
    y = np.random.default_rng(1).normal(size=found.shape)
    assert (found * y).sum() == pytest.approx((x * unskew(ng.tensor(y)).data).sum(), rel=1e-12)


def test_the_lstm_is_torchs() -> None:
    """One step with torch's weights: i, f, g, o are the quarters of W_ih x + b_ih + W_hh h + b_hh, in this order."""
    torch = pytest.importorskip("torch")
    cell = torch.nn.LSTMCell(5, 3).double()
    x, h, c = (np.random.default_rng(k).normal(size=(4, n)) for k, n in enumerate((5, 3, 3)))
    weights = {name: parameter.detach().numpy() for name, parameter in cell.named_parameters()}
    gates = x @ weights["weight_ih"].T + weights["bias_ih"] + h @ weights["weight_hh"].T + weights["bias_hh"]
    expected = cell(torch.tensor(x), (torch.tensor(h), torch.tensor(c)))
    for form in (lstm, lstm.plain):
        found = form(ng.tensor(gates), ng.tensor(np.concatenate([h, c], axis=1)))
        np.testing.assert_allclose(found.data, torch.cat(expected, 1).detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("kind", ["gated", "row", "diagonal"])
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 3, 4)])
def test_losses_and_gradients_are_those_of_a_network_in_torch(kind: str, shape: tuple[int, int, int]) -> None:
    """The same layers once more in PyTorch, with the same weights: the loss and its gradient in every parameter."""
    torch_models = pytest.importorskip("benchmarks.torch_models")
    network = model(shape, 5, kind=kind, strength=0.3, dropout=0.0).to(np.float32).to(np.float64)  # torch begins so
    images = np.random.default_rng(0).integers(0, 5, (6, *shape)).astype(np.uint8)
    theirs = torch_models.mirror(network).double()
    expected = theirs.loss(images, ng.Generator(0))
    expected.backward()
    loss, named = network.loss(images, ng.Generator(0)), dict(network.named_parameters())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    slopes = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert slopes.keys() == named.keys()
    for (name, slope), ours in zip(slopes.items(), ng.grad(loss, [named[name] for name in slopes]), strict=True):
        np.testing.assert_allclose(ours.data, slope.numpy(), rtol=1e-9, atol=1e-12, err_msg=name)
