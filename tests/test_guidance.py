"""Conditional diffusion: guidance against the exact score, what is left out, captions and what sees them."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import nanogen as ng
from nanogen.backend import to_device, to_numpy
from nanogen.cli import main
from nanogen.data import Images
from nanogen.data.known import GaussianMixture
from nanogen.models import DDPM
from nanogen.models.diffusion.captions import LEFT_OUT, NUMBERS, SLANTS, WEIGHTS, Captions, slant, weight
from nanogen.models.diffusion.text import CrossAttention, TextEncoder
from nanogen.training.run import make_settings

FLOOR = 1e-6
CLASSES = 3


def model(shape: tuple[int, int, int] = (1, 4, 4), **settings: Any) -> Any:
    """In float64, with weights that are all awake."""
    settings = {"T": 4, "channels": 4, "multipliers": (1, 2), "heads": 2, "classes": CLASSES, **settings}
    found = DDPM(shape, 5, rng=ng.Generator(1), **settings).to(np.float64)
    rng = np.random.default_rng(0)
    for parameter in found.parameters():
        parameter.data = parameter.data + 0.3 * rng.standard_normal(parameter.shape)
    return found


def some(n: int = 6, shape: tuple[int, int, int] = (1, 4, 4)) -> tuple[np.ndarray, np.ndarray]:
    """Levels and labels."""
    rng = np.random.default_rng(2)
    return rng.integers(0, 5, (n, *shape)).astype(np.uint8), rng.integers(0, CLASSES, n)


def recorded(m: Any) -> list[Any]:
    """Notes the labels that the network gets."""
    seen, forward = [], m.unet.forward
    m.unet.forward = lambda x, t, labels=None, rng=None: (seen.append(labels), forward(x, t, labels, rng))[1]
    return seen


# Guidance


@pytest.mark.parametrize("w", [0.0, 0.5, 3.0])
def test_the_guided_score_of_a_mixture(w: float) -> None:
    """With the exact E[ε | x_t, c] and E[ε | x_t] of a mixture, −ε̃/√(1 − ᾱ_t) is ∇[(1 + w) log p_t(x | c) − w log
    p_t(x)], which the gradient of these densities tells.  Ho & Salimans 2022, eq. 6."""
    means, stds = np.array([[0.5, -0.2], [-0.7, 0.3], [0.1, 0.9]]), np.array([0.3, 0.2, 0.4])
    whole = GaussianMixture([0.5, 0.3, 0.2], means, stds)
    parts = [GaussianMixture([1.0], means[k : k + 1], stds[k : k + 1]) for k in range(3)]
    m = model((1, 1, 2), T=6)
    bars, x = m.schedule.alpha_bars, np.random.default_rng(0).standard_normal((4, 2))
    labels = np.array([2, 0, 1, 1])

    def exact(x_t: ng.Tensor, t: Any, labels: Any, rng: Any = None) -> ng.Tensor:
        sources = [whole if k == CLASSES else parts[k] for k in labels]
        rows = zip(x_t.data.reshape(-1, 2), sources, t, strict=True)
        return ng.tensor(np.stack([s.expected_noise(row[None], bars[i])[0] for row, s, i in rows]).reshape(x_t.shape))

    def log_density(source: GaussianMixture, row: ng.Tensor, bar: float) -> ng.Tensor:
        p = source.diffused(bar)
        logs = np.log(p.weights) - 2 * np.log(p.stds) - ((row - p.means) ** 2).sum(1) / (2 * p.stds**2)
        return ng.functional.logsumexp(logs, dim=0)

    m.unet.forward = exact
    for t in range(1, 7):
        times = np.full(4, t)
        noise = m.predict_noise(ng.tensor(x.reshape(4, 1, 1, 2)), times, labels=labels, guidance=w).data.reshape(4, 2)
        for row, label, found in zip(x, labels, noise, strict=True):
            at = ng.tensor(row, requires_grad=True)
            tilted = (1 + w) * log_density(parts[label], at, bars[t]) - w * log_density(whole, at, bars[t])
            expected = ng.grad(tilted, [at])[0].data
            np.testing.assert_allclose(-found / math.sqrt(1 - bars[t]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", ["unet", "transformer"])
def test_guidance_leaves_a_learned_variance(network: str) -> None:
    """(1 + w) ε_θ(x_t, c) − w ε_θ(x_t) for the prediction alone; v is that with the label."""
    m, labels = model(variance="learned", network=network).eval(), np.array([2, 0, 1])
    x, t = ng.Tensor(np.random.default_rng(0).normal(size=(3, 1, 4, 4))), np.array([1, 2, 4])
    with_label, without = (m.predict(x, t, labels=given).data for given in (labels, np.full(3, CLASSES)))
    found = m.predict(x, t, labels=labels, guidance=2.0).data
    np.testing.assert_allclose(found[:, :1], 3 * with_label[:, :1] - 2 * without[:, :1], rtol=1e-12)
    assert np.array_equal(found[:, 1:], with_label[:, 1:])
    assert not np.allclose(with_label[:, 1:], without[:, 1:])


def test_captions_are_for_the_unet() -> None:
    with pytest.raises(ValueError, match="condition=text needs network=unet"):
        model(condition="text", network="transformer")


@pytest.mark.parametrize("condition", ["label", "text"])
@pytest.mark.parametrize("steps", [None, 2])
def test_guidance_in_both_samplers(condition: str, steps: int | None) -> None:
    """Without guidance the network is asked once a step, with the labels alone, and the images are those of w = 0, bit
    for bit.  With it twice, as `evaluations_with` says, once with no label for any image; and the images change."""
    m, labels = model(condition=condition).eval(), np.array([2, 0, 1])
    told, nothing = m.condition(labels, 3)["labels"], m.nothing(m.condition(labels, 3)["labels"])
    expected = np.full(3, CLASSES) if condition == "label" else np.array([[1, 0, 0, 0]] * 3)
    assert np.array_equal(nothing, expected)
    seen, drawn = recorded(m), []
    for how in ({}, {"guidance": 0.0}, {"guidance": 2.0}):
        seen.clear()
        drawn.append(m.sample(3, ng.Generator(0), labels, steps=steps, **how))
        assert len(seen) == m.evaluations_with(steps=steps, **how) == (steps or m.T) * (1 + bool(how.get("guidance")))
        assert all(np.array_equal(one, told) for one in seen[:: 1 + bool(how.get("guidance"))])
    assert all(np.array_equal(one, nothing) for one in seen[1::2])
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("settings", "how", "word"), [
    ({"classes": 0}, {"guidance": 1.0}, "needs a model with classes and label_dropout"),
    ({"label_dropout": 0.0}, {"guidance": 1.0}, "label_dropout"), ({}, {"guidance": -0.5}, "guidance must be"),
    ({}, {"guidance": math.nan}, "guidance must be"), ({}, {"prompt": "a three"}, "condition=text"),
    ({"classes": 0}, {"prompt": "a three"}, "condition=text"),
    ({"condition": "text"}, {"prompt": "a two", "labels": [1]}, "beside a prompt"),
    ({"condition": "text"}, {"prompt": "a bald two"}, "unknown word 'bald' in the prompt .did you mean 'bold'"),
    ({"condition": "text"}, {"prompt": "a nine"}, "unknown word 'nine'.*: known are a, an, thin, medium, bold, backw"),
    ({"condition": "text"}, {"prompt": "a thin bold two"}, "'thin' or 'bold', not both"),
    ({"condition": "text"}, {"labels": [[1, 9, 0, 0, 0]]}, "labels must be"),
    ({"condition": "text"}, {"labels": [[1, 11, 0, 0]]}, "captions must be in 0 … 10"),
])  # fmt: skip
def test_what_can_not_be_sampled(settings: dict[str, Any], how: dict[str, Any], word: str) -> None:
    """Refused by name, before any step: guidance without a model of no label, prompts where there are no words."""
    m = model(**settings)
    m.unet.forward = None
    with pytest.raises(ValueError, match=word):
        m.sample(1, ng.Generator(0), **how)


@pytest.mark.parametrize(("settings", "word"), [
    ({"condition": "words"}, "condition must be one of label, text"), ({"label_dropout": 1.0}, "label_dropout must be"),
    ({"condition": "text", "classes": 0}, "condition=text needs labels"), ({"label_dropout": -0.1}, "label_dropout"),
])  # fmt: skip
def test_bad_conditions(settings: dict[str, Any], word: str) -> None:
    """A condition that there is not, text without labels, a share outside [0, 1): refused by name."""
    with pytest.raises(ValueError, match=word):
        model(**settings)


# What is left out in training


def test_labels_are_left_out_in_training() -> None:
    """In a loss in training the network gets the label after the last one for a share label_dropout of the images
    (binomial test) and their own for all others; in evaluation, in the bound and in sampling all their own."""
    m, n = model((1, 1, 1), label_dropout=0.2, multipliers=(1,)), 4000
    labels = np.arange(n) % CLASSES
    images, seen = np.zeros((n, 1, 1, 1), np.uint8), recorded(m)
    m.loss(images, ng.Generator(0), labels)
    dropped = seen[0] == CLASSES
    assert np.array_equal(seen[0][~dropped], labels[~dropped])
    assert stats.binomtest(int(dropped.sum()), n, 0.2).pvalue > FLOOR
    assert stats.chisquare(np.bincount(labels[dropped])).pvalue > FLOOR
    seen.clear()
    m.eval().loss(images, ng.Generator(0), labels)
    m.train().elbo(images[:9], ng.Generator(0), labels[:9])
    m.sample(9, ng.Generator(0), labels[:9])
    assert all(np.array_equal(one, labels[: len(one)]) for one in seen)


def test_no_label_has_an_embedding_of_its_own() -> None:
    """With images of class 1 alone, some of them without their label, the gradient is in two rows of the table: that
    of class 1 and the one after the last class.  With label_dropout=0 there is no such row."""
    m, (images, _) = model(label_dropout=0.5), some(20)
    g = ng.grad(m.loss(images, ng.Generator(0), np.ones(20, np.int64)), [m.unet.label.weight])[0].data
    assert g.any(axis=1).tolist() == [False, True, False, True]
    assert len(model(label_dropout=0.0).unet.label.weight) == CLASSES


def test_weights_that_do_not_know_no_label() -> None:
    """Those of a model without label_dropout, as all were before there was one, are refused in a line that says so,
    and are those of a model with label_dropout=0."""
    old = model(label_dropout=0.0)
    with pytest.raises(ValueError, match=r"know 3 labels but not what no label is.*earlier version.*label_dropout=0$"):
        model().load_state_dict(old.state_dict())
    model(label_dropout=0.0).load_state_dict(old.state_dict())


# Captions


@given(shear=st.integers(-2, 2), right=st.integers(0, 4), down=st.integers(0, 3), scale=st.floats(0.1, 1))
def test_slant_is_the_shear(shear: int, right: int, down: int, scale: float) -> None:
    """A stroke of two columns whose rows are moved by `shear` pixels per row upwards has just that slant, wherever it
    is and however dark; in the mirror it has the opposite one.  The weight is the mean."""
    ink = np.zeros((1, 9, 20))
    for i in range(5):
        ink[0, down + i, 8 + right + shear * (2 - i) : 10 + right + shear * (2 - i)] = scale
    assert slant(ink)[0] == pytest.approx(shear, abs=1e-9)
    assert slant(ink[:, :, ::-1])[0] == pytest.approx(-shear, abs=1e-9)
    assert weight(ink)[0] == pytest.approx(10 * scale / 180)


def test_no_ink_has_no_slant() -> None:
    """Nor has a single row."""
    assert np.array_equal(slant(np.zeros((2, 3, 3))), [0, 0])
    assert slant(np.eye(3)[None, :1])[0] == 0


def test_thirds_of_a_class() -> None:
    """Of images of a class in order of their weight the first third is thin, the last bold, in each class by itself;
    the same for slants.  The class is named; images are counted in training alone, over several batches."""
    captions = Captions(12, 256)
    rng, n = np.random.default_rng(0), 60
    levels = rng.permutation(2 * n).astype(np.uint8).reshape(-1, 1, 1, 1).repeat(3, 2).repeat(5, 3)
    levels[:, :, ::2] = 0  # one row
    levels[np.arange(2 * n), 0, 0, rng.integers(0, 5, 2 * n)] = 100
    levels[np.arange(2 * n), 0, 2, rng.integers(0, 5, 2 * n)] = 120
    labels = np.where(np.arange(2 * n) % 2, 3, 11)
    for part in np.array_split(np.arange(2 * n), 4):
        captions.of_images(levels[part], labels[part], ng.Generator(0))
    counts = to_numpy(captions.counts.data).copy()
    found = to_numpy(captions.of_images(levels, labels))
    assert np.array_equal(counts, to_numpy(captions.counts.data))
    for k, name in ((3, "three"), (11, "11")):
        ink = levels[labels == k, 0] / 255
        for column, words, values in ((1, WEIGHTS, weight(ink)), (2, SLANTS, slant(ink))):
            third = [words.index(captions.words[i]) for i in found[labels == k, column]]
            bins = np.floor(512 * (values if column == 1 else (1 + values) / 2).clip(0, 0.999)).astype(int)
            ranks = (stats.rankdata(bins) - 0.5) / n
            assert third == np.floor(3 * ranks).astype(int).tolist()
        assert {captions.words[i] for i in found[labels == k, 3]} == {name}
    assert (found[:, 0] == 1).all()


def test_shortened_captions() -> None:
    """Each word but `a` is left out with probability LEFT_OUT, one by one; those left are at the front, in order."""
    captions, n = Captions(10, 5), 4000
    whole = np.tile([1, 3, 6, 10], (n, 1))
    short = to_numpy(captions.shortened(to_device(whole, captions.counts.device), ng.Generator(0)))
    for row in short:
        said = row[row > 0].tolist()
        assert row.tolist() == said + [0] * (4 - len(said))
        assert said == sorted(said)
        assert said[0] == 1
    sets = [sum(bool((row == word).any()) << i for i, word in enumerate(whole[0, 1:])) for row in short]
    p = [LEFT_OUT ** (3 - k) * (1 - LEFT_OUT) ** k for k in (int(i).bit_count() for i in range(8))]
    assert stats.chisquare(np.bincount(sets, minlength=8), n * np.array(p)).pvalue > FLOOR


@given(
    weighted=st.sampled_from((None, *WEIGHTS)), slanted=st.sampled_from((None, *SLANTS)),
    number=st.sampled_from((None, *NUMBERS)), article=st.sampled_from((None, "a", "An")), seed=st.integers(0, 99),
)  # fmt: skip
def test_prompts_are_read_in_any_order(
    weighted: str | None, slanted: str | None, number: str | None, article: str | None, seed: int
) -> None:
    """The words of a prompt, in any order and case, are those of its caption: `a`, weight, slant, class."""
    captions = Captions(10, 5)
    said = [word for word in (weighted, slanted, number) if word]
    prompt = np.random.default_rng(seed).permutation([*said, *([article] if article else [])])
    row = captions.read([" ".join(prompt)])[0]
    assert [captions.words[i] for i in row if i] == ["a", *said]


def test_labels_prompts_and_captions_say_the_same() -> None:
    """A label is the prompt that says the class; what `condition` returns it takes again.  Others are refused."""
    m = model(condition="text", classes=10)
    captions = m.condition(["a two", "nine"], 2)["labels"]
    assert np.array_equal(captions, m.condition(np.array([2, 9]), 2)["labels"])
    assert np.array_equal(captions, m.condition(captions, 2)["labels"])
    for wrong in (captions[:1], captions[:, :3], captions * 1.0, np.array([2, 10])):
        with pytest.raises(ValueError, match="labels"):
            m.condition(wrong, 2)


def test_captions_reach_the_network() -> None:
    """In training the network gets captions of the images, shortened, and of a share `a` alone; in evaluation the whole
    captions.  The counts are a part of the model's state, so that a model that is loaded makes the same captions."""
    m, (images, labels) = model(condition="text", label_dropout=0.6), some(400)
    seen = recorded(m)
    m.loss(images, ng.Generator(0), labels)
    m.eval().loss(images, ng.Generator(0), labels)
    whole, seen = to_numpy(m.captions.of_images(images, labels)), [to_numpy(one) for one in seen]
    assert np.array_equal(seen[1], whole)
    assert all(set(short) <= {0, *full} for short, full in zip(seen[0], whole, strict=True))
    alone = int((seen[0][:, 1] == 0).sum())
    assert stats.binomtest(alone, 400, 0.6 + 0.4 * LEFT_OUT**3).pvalue > FLOOR
    assert len(np.unique(whole[:, 1])) == len(np.unique(whole[:, 2])) == 3
    other = model(condition="text")
    other.load_state_dict(m.state_dict())
    assert np.array_equal(to_numpy(other.captions.of_images(images, labels)), whole)
    assert to_numpy(m.captions.counts.data).sum() == 2 * 400


# The network of text


def a_text() -> tuple[TextEncoder, np.ndarray]:
    encoder = TextEncoder(9, 4, 8, 2, 2, ng.Generator(0)).to(np.float64)
    return encoder, np.array([[1, 5, 3, 7], [2, 8, 6, 4]])


def test_words_have_places() -> None:
    """Without positions the encoder is equivariant: words in another order give the features in that order.  With them
    it is not."""
    encoder, captions = a_text()
    order = [2, 0, 3, 1]
    found = encoder(captions).data
    assert abs(encoder(captions[:, order]).data - found[:, order]).max() > 0.1
    encoder.position.data *= 0
    np.testing.assert_allclose(encoder(captions[:, order]).data, encoder(captions).data[:, order], atol=1e-12)


def test_padding_is_not_seen() -> None:
    """What the padding's embedding is changes nothing at the words, nor at the pixels, and has no gradient; weights of
    the words alone sum to 1: with one word a pixel's value is that word's."""
    encoder, captions = a_text()
    captions[:, 2:] = 0
    cross = CrossAttention(8, 8, 2, ng.Generator(1)).to(np.float64)
    cross.out.weight.data = np.eye(8)[:, :, None, None]
    h = ng.tensor(np.random.default_rng(0).standard_normal((2, 8, 2, 2)))
    words = encoder(captions)
    seen = cross(h, words, captions != 0)
    g = ng.grad((seen**2).sum(), [encoder.word.weight])[0].data
    assert not g[0].any()
    assert g[1].any()
    encoder.word.weight.data[0] *= -3.0
    np.testing.assert_allclose(encoder(captions).data[:, :2], words.data[:, :2], rtol=1e-12)
    np.testing.assert_allclose(cross(h, encoder(captions), captions != 0).data, seen.data, rtol=1e-12)
    one = cross(h, words, captions == captions[:, :1]).data - h.data
    value = cross.key_value(words).data[:, 0, 8:]
    np.testing.assert_allclose(one, np.broadcast_to(value[:, :, None, None], one.shape), rtol=1e-9, atol=1e-12)


def test_pixels_ask_the_words() -> None:
    """h + out(softmax(QKᵀ/√d) V), the queries from the pixels, keys and values from the words, by plain NumPy; pixels
    in another order give outputs in that order.  Rombach et al. 2022, section 3.3."""
    rng = np.random.default_rng(0)
    cross = CrossAttention(8, 6, 2, ng.Generator(0)).to(np.float64)
    cross.out.weight.data = rng.standard_normal((8, 8, 1, 1))
    h, words, mask = rng.standard_normal((2, 8, 3, 2)), rng.standard_normal((2, 4, 6)), np.ones((2, 4), bool)
    mask[1, 3] = False
    found = cross(ng.tensor(h), ng.tensor(words), mask).data
    normed = cross.norm(ng.tensor(h)).data.reshape(2, 8, 6)
    query = np.einsum("oc,ncp->npo", cross.query.weight.data[:, :, 0, 0], normed) + cross.query.bias.data
    key, value = np.split(words @ cross.key_value.weight.data.T + cross.key_value.bias.data, 2, axis=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = np.where(mask[:, None], query[..., head] @ key[..., head].transpose(0, 2, 1) / 2, -np.inf)
        heads.append(special.softmax(scores, axis=2) @ value[..., head])
    seen = np.concatenate(heads, axis=2) @ cross.out.weight.data[:, :, 0, 0].T + cross.out.bias.data
    np.testing.assert_allclose(found, h + seen.transpose(0, 2, 1).reshape(h.shape), rtol=1e-9, atol=1e-12)


def test_a_block_of_the_encoder_by_hand() -> None:
    """h + attention(norm(h)), then h + mlp(norm(h)): the last word's query, by NumPy, head by head."""
    encoder, captions = a_text()
    block, rng = encoder.blocks[0], np.random.default_rng(0)
    h = rng.standard_normal((1, 4, 8))
    found = block(ng.tensor(h), captions[:1] != 0).data[0, 3]
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    layer = lambda one, x: x @ one.weight.data.T + one.bias.data
    q, k, v = np.split(layer(block.qkv, norm(h[0])), 3, axis=1)
    seen = [special.softmax(q[3, s] @ k[:, s].T / 2) @ v[:, s] for s in (slice(0, 4), slice(4, 8))]
    middle = h[0, 3] + layer(block.out, np.concatenate(seen))
    wide = layer(block.wide, norm(middle))
    gelu = wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))) / 2
    np.testing.assert_allclose(found, middle + layer(block.narrow, gelu), rtol=1e-6, atol=1e-9)


def test_each_image_has_its_own_caption() -> None:
    """Another word of one image changes what is predicted for it, for each of its words, and for no other image; a
    fresh network has heard nothing yet.  Every weight has a gradient."""
    m = model(condition="text").eval()
    x, t = ng.tensor(np.random.default_rng(0).standard_normal((3, 1, 4, 4))), np.array([1, 2, 3])
    captions = m.captions.read(["a thin leaning two", "a bold one", "upright"])
    out = m.unet(x, t, captions).data
    for column, other in ((1, 3), (2, 5), (3, 9)):
        changed = captions.copy()
        changed[0, column] = other
        differs = abs(m.unet(x, t, changed).data - out).reshape(3, -1).max(1)
        assert differs[0] > 1e-6
        np.testing.assert_allclose(differs[1:], 0, atol=1e-12)
    m.unet.text.word.weight.data[0] *= -3.0  # the padding's
    np.testing.assert_allclose(m.unet(x, t, captions).data, out, rtol=1e-9, atol=1e-12)
    fresh = DDPM((1, 4, 4), 5, T=4, channels=4, heads=2, classes=3, condition="text")
    h = ng.tensor(np.random.default_rng(0).standard_normal((3, 8, 2, 2)).astype(np.float32))
    assert np.array_equal(fresh.unet.attend(h, (fresh.unet.text(captions), captions != 0)).data, h.data)
    images, labels = some(30)
    slopes = ng.grad(m.train().loss(images, ng.Generator(0), labels), list(m.parameters()))
    assert all(g.data.any() for g in slopes)


# Runs


@pytest.mark.classifier
def test_a_run_with_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training knows labels alone; `nanogen sample` takes --prompt and --guidance, and `evaluate` guidance, which
    counts twice.  The pictures are there."""
    run, out = tmp_path / "run", str(tmp_path / "x.npz")
    own = ["classes=10", "condition=text", "T=2", "channels=2", "multipliers=1", "heads=1"]
    assert main(["train", "ddpm", "--quiet", "--steps", "2", "--out", str(run), "--set", *own]) == 0
    assert {path.name for path in run.glob("*.png")} >= {"denoising.png", "guidance.png", "prompts.png"}
    assert main(["evaluate", str(run), "--samples", "40", "--images", "2", "--set", "guidance=1"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["network_evaluations"] == 4
    seen: list[Any] = []
    asked = lambda self, n, rng, labels, **how: (seen.append((labels.tolist(), how)), real(self, n, rng, labels))[1]
    real = DDPM.ancestral
    monkeypatch.setattr(DDPM, "ancestral", asked)
    for more in (["--prompt", "a bold three"], ["--label", "3", "--guidance", "2"]):
        assert main(["sample", str(run), "-n", "3", "--out", out, *more]) == 0
    assert seen == [([[1, 4, 11, 0]] * 3, {}), ([[1, 11, 0, 0]] * 3, {"guidance": 2.0})]
    capsys.readouterr()
    assert main(["sample", str(run), "--out", out, "--prompt", "a fat three"]) == 2
    assert "unknown word 'fat' in the prompt: known are a, an, thin" in capsys.readouterr().err


def test_data_without_labels() -> None:
    """Captions need labels; data without any are refused before training."""
    images = Images(np.zeros((30, 1, 4, 4), np.uint8), None, 5, "bare")
    with pytest.raises(ValueError, match="classes=3 needs labels, but bare has none"):
        make_settings("ddpm", images, {"classes": 3, "condition": "text"})
    with pytest.raises(ValueError, match="condition=text needs labels: set classes"):
        make_settings("ddpm", images, {"condition": "text"})


def test_illustrations() -> None:
    """guidance: a row for each of 0, 1, 3 and 8, of the same noise, a column a class, at most ten; prompts: a row for
    each word of weight and of slant, a column a class."""
    m = model(condition="text").eval()
    bare = Images(np.zeros((4, 1, 4, 4), np.uint8), np.arange(4) % CLASSES, 5, "bare")
    found = m.illustrations(bare, bare, ng.Generator(0))
    assert found["guidance"].shape == (4, CLASSES, 1, 4, 4)
    assert found["prompts"].shape == (6, CLASSES, 1, 4, 4)
    labels = np.arange(CLASSES)
    rng = ng.Generator(0)
    for row, w in zip(found["guidance"], (0.0, 1.0, 3.0, 8.0), strict=True):
        assert np.array_equal(row, m.sample(CLASSES, rng.stream(0), labels, guidance=w))
    words = itertools.chain(WEIGHTS, SLANTS)
    prompts = [f"a {word} {number}" for word in words for number in NUMBERS[:CLASSES]]
    expected = m.sample(len(prompts), rng.stream(1), prompts, guidance=3.0)
    assert np.array_equal(found["prompts"].reshape(expected.shape), expected)
    assert model(label_dropout=0.0).illustrations(bare, bare, rng).keys() == {"denoising", "interpolation"}
