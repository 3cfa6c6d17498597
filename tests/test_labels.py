"""Conditional models: a label is a bias in the network, the labels of the data reach it, and nothing else is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from helpers import settled
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from nanogen import data
from nanogen.backend import to_device, to_numpy
from nanogen.cli import main
from nanogen.data import Images
from nanogen.metrics import likelihood
from nanogen.models import (
    AAE,
    DDPM,
    GAN,
    MODELS,
    SAGAN,
    VAE,
    WAE,
    Autoencoder,
    BigGAN,
    BinomialDiffusion,
    GatedPixelCNN,
    GenerativeModel,
    HierarchicalVAE,
    InfoGAN,
    LatentDDPM,
    PixelCNN,
    PixelRNN,
    StyleGAN,
)
from nanogen.models.adversarial.styles import RATE
from nanogen.models.autoregressive.pixelcnn import Columns
from nanogen.nn import Parameter
from nanogen.training import evaluation, features
from nanogen.training.loop import Trainer
from nanogen.training.run import EVALUATION, SAMPLES, Run, make_settings
from nanogen.training.sampling import sample

CLASSES = 3
SMALL: dict[str, Callable[..., Any]] = {
    "pixelcnn": lambda **how: PixelCNN((2, 4, 3), 5, channels=16, blocks=2, kernel_size=3, dropout=0.0, **how),
    "gated": lambda **how: GatedPixelCNN((2, 4, 3), 5, channels=8, blocks=1, kernel_size=3, dropout=0.0, **how),
    "row": lambda **how: PixelRNN((2, 4, 3), 5, hidden=6, blocks=2, kernel_size=3, dropout=0.0, **how),
    "diagonal": lambda **how: PixelRNN((2, 3, 3), 5, "diagonal", hidden=6, blocks=1, kernel_size=3, dropout=0.0, **how),
    "vae": lambda **how: VAE((1, 4, 4), 5, latent=3, channels=4, stages=1, **how),
    "vae, logistic": lambda **how: VAE((3, 4, 4), 256, latent=2, channels=4, stages=1, decoder="logistic", **how),
    "mixture": lambda **how: VAE((1, 4, 4), 5, latent=2, channels=4, stages=1, posterior="mixture", **how),
    "categorical": lambda **how: VAE((1, 4, 4), 5, latent=2, channels=4, stages=1, posterior="categorical", **how),
    "hierarchical vae": lambda **how: HierarchicalVAE((1, 4, 4), 5, latent=3, hidden=4, channels=4, stages=1, **how),
    "autoencoder": lambda **how: Autoencoder((1, 4, 4), 5, latent=3, channels=4, stages=1, **how),
    "wae": lambda **how: WAE((1, 4, 4), 5, latent=3, channels=4, stages=1, **how),
    "aae": lambda **how: AAE((1, 4, 4), 5, latent=3, channels=4, stages=1, hidden=6, **how),
    "gan": lambda **how: GAN((1, 8, 8), 5, latent=3, channels=4, **how),
    "gan, penalised": lambda **how: GAN(
        (1, 8, 8), 5, latent=3, channels=4, objective="wasserstein", gradient_penalty=0.5, **how
    ),
    "sagan": lambda **how: SAGAN((1, 8, 8), 5, latent=3, channels=4, **how),
    "biggan": lambda **how: BigGAN((1, 8, 8), 5, latent=4, channels=4, **how),
    "infogan": lambda **how: InfoGAN((1, 8, 8), 5, noise=3, channels=4, codes=3, continuous=2, **how),
    "stylegan": lambda **how: StyleGAN((1, 8, 8), 5, latent=3, channels=4, mapping=2, **how),
    "stylegan, growing": lambda **how: StyleGAN((1, 8, 8), 5, latent=3, channels=2, mapping=1, progressive=1, **how),
    "ddpm": lambda **how: DDPM((1, 4, 4), 5, T=4, channels=8, multipliers=(1, 2), heads=2, label_dropout=0.0, **how),
    "binomial": lambda **how: BinomialDiffusion((1, 4, 4), 2, 4, channels=8, multipliers=(1, 2), heads=2, **how),
    "latent": lambda **how: LatentDDPM((1, 4, 4), 5, latent=3, channels=4, stages=1, T=4, hidden=8, blocks=1, **how),
}


def conditional(name: str) -> Any:
    """A model whose weights are all awake, in float64, so that its labels have something to say."""
    model = SMALL[name](classes=CLASSES, rng=ng.Generator(2)).to(np.float64)
    rng = np.random.default_rng(3)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * rng.standard_normal(parameter.shape)
    return settled(model)


def some_images(model: GenerativeModel, n: int = 4) -> np.ndarray:
    return np.random.default_rng(4).integers(0, model.levels, (n, *model.image_shape)).astype(np.uint8)


def told(model: Any, label: int) -> Any:
    """The unconditional model that a conditional one is for images of one label: what is learned for the label is in
    biases (in the PixelCNN one for each pixel), in the GAN in the scales and shifts of its norms and the weights of its
    last layer."""
    plain = next(make for name, make in SMALL.items() if name == model.called)().to(np.float64)
    state = model.state_dict()

    def take(name: str) -> Any:
        return state.pop(name)[label]

    if isinstance(model, PixelCNN):
        first, at_each_pixel = plain.first.forward, take("label")
        plain.first.forward = lambda x: first(x) + at_each_pixel
        plain.sample = lambda n, rng: plain.complete_naively(np.zeros((n, *plain.image_shape), np.uint8), 0, rng)
    elif isinstance(model, GatedPixelCNN):
        for i in range(len(model.layers)):
            a, b = np.split(take(f"layers.{i}.label.weight"), 2)
            state[f"layers.{i}.vertical.bias"] += a
            state[f"layers.{i}.link.bias"] += b
    elif isinstance(model, PixelRNN):
        state["first.bias"] += take("label.weight")
    elif isinstance(model, VAE | HierarchicalVAE | Autoencoder):
        for part in ("encoder", "decoder"):
            state[f"{part}.first.bias"] += take(f"{part}.label.weight")
    elif isinstance(model, StyleGAN):
        state["generator.mapping.layers.0.layer.bias"] += take("generator.mapping.label.weight") / RATE
        state["discriminator.logit.layer.weight"] += take("discriminator.label.weight")
    elif isinstance(model, LatentDDPM):
        state["diffusion.time.bias"] += take("diffusion.label.weight")
    elif isinstance(model, DDPM | BinomialDiffusion):
        state["unet.time2.bias"] += take("unet.label.weight")
    else:
        for i in range(0 if isinstance(model, BigGAN) else len(model.generator.norms)):
            scale, norm = 1 + take(f"generator.norms.{i}.scale"), f"generator.norms.{i}"
            state[f"{norm}.weight"] *= scale
            state[f"{norm}.bias"] = state[f"{norm}.bias"] * scale + take(f"{norm}.shift")
        for i, norm in enumerate(plain.generator.norms if isinstance(model, BigGAN) else []):
            beside = np.concatenate([take(f"generator.norms.{i}.{name}") for name in ("scale", "shift")])
            norm.of_z.forward = lambda z, of_z=norm.of_z.forward, beside=beside: of_z(z) + beside
        first, beside_z = plain.generator.first.forward, take("generator.label.weight")
        plain.generator.first.forward = lambda z: first(z) + beside_z.reshape(1, -1, *first(z).shape[2:])
        if isinstance(model, SAGAN | BigGAN):  # a weight's spectral norm is of all labels together
            state.pop("discriminator.label.u")
            norm = np.linalg.norm(state.pop("discriminator.label.layer.weight"), 2)
            judge, row = plain.discriminator.last.forward, model.discriminator.label.layer.weight.data[label] / norm
            plain.discriminator.last.forward = lambda h: judge(h) + (h.reshape(len(h), -1) @ row).reshape(-1, 1, 1, 1)
        else:
            last = state["discriminator.last.weight"]
            last += take("discriminator.label.weight").reshape(last.shape)
    plain.load_state_dict(state)
    return plain


# What a label does


@pytest.mark.by_default(label=[1])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("label", range(CLASSES))
def test_a_label_is_a_bias(name: str, label: int) -> None:
    """Of images of one label, a conditional model says and draws what the unconditional model does that has what is
    learned for the label in its biases: losses, their gradients, densities or bounds, samples."""
    model = conditional(name)
    model.called = name
    plain, images, labels = told(model, label), some_images(model), np.full(4, label)
    for ours, theirs in zip(model.updates(), plain.updates(), strict=True):
        loss, expected = ours.loss(images, ng.Generator(5), labels), theirs.loss(images, ng.Generator(5))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        mine, same = dict(ours.part.named_parameters()), dict(theirs.part.named_parameters())
        kept = [key for key in same if not (isinstance(model, GAN) and "norms" in key)]  # of a norm it is times a scale
        slopes = (ng.grad(x, [of[key] for key in kept]) for x, of in ((loss, mine), (expected, same)))
        for key, a, b in zip(kept, *slopes, strict=True):
            np.testing.assert_allclose(a.data, b.data, rtol=1e-6, atol=1e-9, err_msg=key)
    for found, expected in zip(
        model.negative_log_likelihoods(images, ng.Generator(6), labels).items(),
        plain.negative_log_likelihoods(images, ng.Generator(6)).items(),
        strict=True,
    ):
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[1].data, expected[1].data, rtol=1e-9)
    drawn = [m.eval().sample(4, ng.Generator(7), *more) for m, more in ((model, (labels,)), (plain, ()))]
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("name", SMALL)
def test_each_image_has_its_own_label(name: str) -> None:
    """Another label of one image changes what is said of it, or drawn for it, and of no other; each of the labels says
    something else."""
    model, labels = conditional(name).eval(), np.array([0, 1, 2, 0])
    images = some_images(model)

    def said(some: np.ndarray) -> list[np.ndarray]:
        """What is drawn for the labels, and what the discriminator says; or what is said of the images."""
        if isinstance(model, GAN):
            z = np.random.default_rng(0).standard_normal((4, model.latent))
            parts = model.generator(ng.tensor(z), labels=some), model.discriminator(model.scaled(images), labels=some)
        elif isinstance(model, StyleGAN):
            logits = model.discriminator(model.scaled(images), model.alphas(), labels=some)
            parts = model.draw_styles(4, ng.Generator(0), some), logits
        else:
            density = getattr(model, "elbo", lambda images, rng, some: model.log_prob(images, some))
            if isinstance(model, LatentDDPM):
                density = lambda images, rng, some: model.predict_noise(ng.tensor(np.ones((4, 3))), [1, 2, 3, 4], some)
            if isinstance(model, Autoencoder):
                density = lambda images, rng, some: model.cost(images, model.code(images, some), some)
            parts = (density(images, ng.Generator(1), some),)
        return [part.data for part in parts]

    before = said(labels)
    for i, other in itertools.product(range(4), range(CLASSES)):
        changed = labels.copy()
        changed[i] = other
        for one, two in zip(before, said(changed), strict=True):
            assert ((abs(one - two).reshape(4, -1).max(1) > 1e-9) == (labels != changed)).all()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_the_labels_of_the_batch(name: str) -> None:
    """What is learned for a label has a gradient if some image has that label, and none if no image does, but for what
    all labels' spectral norm depends on."""
    model, labels = conditional(name), np.array([2, 0, 2, 2])
    for update in model.updates():
        tables = {
            k: p
            for k, p in update.part.named_parameters()
            if "label" in k or ("norms" in k and p.ndim == 2 and "of_z" not in k)
        }
        # the AAE's discriminator compares all labels' codes together; only the latent diffusion itself knows labels
        assert tables or (name, update.name) in (("aae", "discriminator"), ("latent", "autoencoder"))
        loss = update.loss(some_images(model), ng.Generator(0), labels)
        for key, g in zip(tables, ng.grad(loss, list(tables.values())), strict=True):
            assert g.data[0].any(), key
            assert g.data[2].any(), key
            assert not g.data[1].any() or (name in ("sagan", "biggan") and "layer" in key), key


@given(
    shape=st.sampled_from([(1, 2, 2), (2, 1, 2), (1, 1, 3), (3, 1, 1)]),
    levels=st.integers(2, 3),
    seed=st.integers(0, 99),
)
def test_a_density_for_every_label(shape: tuple[int, int, int], levels: int, seed: int) -> None:
    """Of a conditional PixelCNN, Σ p(x | label) over all images there are is 1 for each label, and no two labels have
    the same density."""
    model = PixelCNN(shape, levels, channels=24, blocks=2, kernel_size=3, classes=CLASSES, rng=ng.Generator(seed))
    model.to(np.float64)
    model.label.data = np.random.default_rng(seed).standard_normal(model.label.shape)  # type: ignore[union-attr]
    every = np.array(list(itertools.product(range(levels), repeat=int(np.prod(shape)))), np.uint8).reshape(-1, *shape)
    found = [np.exp(model.log_prob(every, np.full(len(every), k)).data) for k in range(CLASSES)]
    for p in found:
        assert p.sum() == pytest.approx(1, abs=1e-10)
    assert all(abs(p - q).max() > 1e-6 for p, q in itertools.combinations(found, 2))


@given(seed=st.integers(0, 99), rows=st.integers(0, 4), dtype=st.sampled_from([np.float32, np.float64]))
def test_sampling_by_columns_is_naive_sampling(seed: int, rows: int, dtype: Any) -> None:
    """With labels too, bit for bit."""
    model = conditional("pixelcnn").to(dtype)
    labels = np.random.default_rng(seed).integers(0, CLASSES, 4)
    ways = [
        way(some_images(model), rows, ng.Generator(seed), labels) for way in (model.complete, model.complete_naively)
    ]
    assert np.array_equal(*ways)


def test_columns_with_labels_are_those_of_the_whole_network() -> None:
    """Pixel by pixel, the logits of images with labels are those of one pass over the whole images, to rounding."""
    model = conditional("pixelcnn")
    images = to_device(some_images(model), model.device)
    given = model.condition(np.array([0, 2, 1, 1]), len(images))
    whole, columns = model(model.scaled(images), **given).data, Columns(model, len(images), **given)
    for i, j, c in itertools.product(*(range(n) for n in (*model.image_shape[1:], model.image_shape[0]))):
        found, expected = to_numpy(columns.logits(i, j, c)), to_numpy(whole[:, i, j, c])
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
        columns.learn(images, i, j)


@pytest.mark.parametrize("name", SMALL)
def test_labels_that_are_not_given_are_drawn(name: str) -> None:
    """`sample` draws them from the rng, each class equally likely, before it draws anything else."""
    model = conditional(name).eval()
    rng = ng.Generator(8)
    labels = rng.integers(0, CLASSES, 5)
    assert np.array_equal(model.sample(5, ng.Generator(8)), model.sample(5, rng, labels))


@pytest.mark.parametrize("name", SMALL)
def test_what_a_conditional_model_shows(name: str) -> None:
    """The same pictures as an unconditional one, of the same shapes: the conditions are found by the model itself."""
    model, plain = conditional(name).eval(), SMALL[name]()
    images = some_images(model, 5)
    some = Images(images, np.array([0, 1, 2, 1, 1]), model.levels, "some")
    shapes = [{k: v.shape for k, v in m.illustrations(some, some, ng.Generator(0)).items()} for m in (model, plain)]
    assert shapes[0] == shapes[1]
    assert shapes[0]


# What is refused


@pytest.mark.parametrize("name", SMALL)
def test_labels_where_they_do_not_belong(name: str) -> None:
    """An unconditional model takes none; a conditional one needs them in all but sampling, one an image, integers, of a
    class that there is."""
    plain, model, rng = SMALL[name](), conditional(name), ng.Generator(0)
    images, labels = some_images(model), np.array([0, 1, 2, 0])
    calls: list[Callable[..., Any]] = [lambda m, *more: [u.loss(images, rng, *more) for u in m.updates()]]
    for density, arguments in (("log_prob", ()), ("elbo", (rng,))):
        if hasattr(model, density):
            calls.append(lambda m, *more, d=density, a=arguments: getattr(m, d)(images, *a, *more))
    for call in calls:
        call(plain)
        call(model, labels)
        with pytest.raises(ValueError, match="unconditional"):
            call(plain, labels)
        with pytest.raises(ValueError, match="labels must be given"):
            call(model)
        for wrong in (labels[:3], labels[:, None], labels + 1, labels - 1, labels.astype(float)):
            with pytest.raises(ValueError, match="labels"):
                call(model, wrong)
    with pytest.raises(ValueError, match="unconditional"):
        plain.sample(4, rng, labels)
    with pytest.raises(ValueError, match="labels"):
        model.sample(4, rng, labels + 1)


@pytest.mark.parametrize("classes", [-1, 1.0, True, "3", (1 << 16) + 1])
@pytest.mark.parametrize("name", SMALL)
def test_bad_numbers_of_classes(name: str, classes: Any) -> None:
    """A count, or 0, of no more classes than data can have."""
    with pytest.raises(ValueError, match="classes must be an integer in 0 … 65536"):
        SMALL[name](classes=classes)


@pytest.mark.parametrize("name", SMALL)
def test_without_classes_there_is_nothing_of_labels(name: str) -> None:
    """With classes=0 a model has the weights of one that was never asked, and none for labels."""
    plain, zero = SMALL[name](), SMALL[name](classes=0)
    assert plain.state_dict().keys() == zero.state_dict().keys()
    assert not [key for key in plain.state_dict() if "label" in key or "scale" in key]
    more = SMALL[name](classes=CLASSES).state_dict().keys() - plain.state_dict().keys()
    assert all("label" in key or key.endswith(("scale", "shift")) for key in more)
    assert more


# From the data to the model


class Recording(GenerativeModel):
    """Notes what it is told: levels of the first pixel, and labels."""

    seen: list[tuple[str, np.ndarray, np.ndarray]] = []  # noqa: RUF012

    def __init__(self, image_shape: tuple[int, int, int], levels: int, classes: int = 0, rng: Any = None):
        super().__init__(image_shape, levels, classes)
        self.weight = Parameter(np.ones(1, np.float32))

    def loss_of(self, name: str) -> Any:
        def loss(images: Any, rng: Any, labels: Any) -> Any:
            labels = self.condition(labels, len(images))["labels"]
            self.seen.append((name, to_numpy(self.pixels(images))[:, 0, 0, 0], to_numpy(labels)))
            return (self.weight * self.scaled(self.pixels(images))).mean()

        return loss

    def updates(self) -> Any:
        return [ng.models.base.Update(name, self.loss_of(name), self) for name in ("a", "a", "b")]

    def sample(self, n: int, rng: Any, labels: Any = None) -> Any:
        labels = self.condition(labels, n, rng)["labels"]
        self.seen.append(("sample", np.zeros(n), labels))
        return np.broadcast_to(labels[:, None, None, None], (n, *self.image_shape)).astype(np.uint8)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setitem(MODELS, "recording", Recording)
    monkeypatch.setattr(Recording, "seen", [])
    return Recording.seen


def numbered(n: int = 200) -> Images:
    """Images whose pixels are their number, with labels that are not in the order of the numbers."""
    images = np.arange(n, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)
    return Images(images, np.random.default_rng(0).integers(0, 7, n), 256, "digits")


@pytest.mark.parametrize("batch", [1, 13, 64])
def test_the_loop_hands_over_the_labels_of_its_images(batch: int, recording: list[Any]) -> None:
    """At every step and update, each image comes with its own label; over a pass, with all of them."""
    images = numbered()
    trainer = Trainer(make_settings("recording", images, {"classes": 7}, steps=50, batch=batch), images)
    for _ in range(20):
        trainer.advance()
    assert len(recording) == 60
    assert images.labels is not None
    for _, numbers, labels in recording:
        assert np.array_equal(labels, images.labels[numbers])
        assert labels.shape == (batch,)
    assert len({tuple(numbers) for name, numbers, _ in recording if name == "a"}) == 40, (
        "an update repeated has its own"
    )


def test_labels_the_model_has_no_class_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused in one line before there is a folder: images without labels, or with a label that is no class, or more
    classes than either split has labels of; also on the test side alone, and by whoever makes a trainer himself."""
    rng, out = np.random.default_rng(0), tmp_path / "run"
    arrays = {f"{split}_images": rng.integers(0, 256, (50, 8, 8)).astype(np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "bare.npz", **arrays)
    labels = {"train_labels": np.arange(50) % 3, "test_labels": np.arange(50) % 4}
    np.savez(tmp_path / "more.npz", **arrays, **labels)
    for more, word in (
        (["--set", "classes=9"], "classes=9 needs labels below 9, but digits has label 9"),
        (["--set", "classes=11"], "classes=11 must be classes=10: digits has the labels 0 … 9"),
        (["--set", "classes=5", "--data", str(tmp_path / "more.npz")], "must be classes=4"),
        (["--set", "classes=3", "--data", str(tmp_path / "bare.npz")], "has none"),
        (["--set", "classes=3", "--data", str(tmp_path / "more.npz")], "has label 3"),
        (["--set", "classes=-1"], "classes must be an integer in 0"),
        (["--set", "classes=x"], "classes must be an integer, got 'x'"),
    ):
        assert main(["train", "vae", "--out", str(out), *more]) == 2
        said = capsys.readouterr()
        assert word in said.err
        assert said.err.count("\n") == 1
        assert not said.out
        assert not out.exists()
    few = ["--steps", "1", "--quiet", "--set", "classes=4", "latent=2", "channels=2", "stages=1"]
    assert main(["train", "vae", "--out", str(out), "--data", str(tmp_path / "more.npz"), *few]) == 0
    images = numbered()
    settings = make_settings("vae", images, {"classes": 7, "channels": 2})
    with pytest.raises(ValueError, match="needs labels"):
        Trainer(settings, Images(images.images, None, 256, "bare"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional model trained by the command line, long enough that its labels are not the same to it."""
    out = tmp_path_factory.mktemp("runs") / "vae"
    own = ["--set", "classes=10", "latent=2", "channels=2", "stages=1"]
    assert main(["train", "vae", "--steps", "12", "--batch", "16", "--lr", "0.05", "--out", str(out), *own]) == 0
    return out


@pytest.mark.classifier
@pytest.mark.usefixtures("no_pictures")
def test_a_conditional_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--label` draws images of that class, without it of any; what is evaluated is the likelihood given the test
    images' labels."""
    assert json.loads((run / "settings.json").read_text())["model_settings"]["classes"] == 10
    model, drawn = Run(run).model(), {}
    for label in ("3", "8", None):
        more = [] if label is None else ["--label", label]
        assert main(["sample", str(run), "-n", "20", "--seed", "5", "--out", str(tmp_path / "x.npz"), *more]) == 0
        drawn[label] = np.load(tmp_path / "x.npz")["images"]
        given = {} if label is None else {"labels": np.full(20, int(label))}
        assert np.array_equal(drawn[label], model.sample(20, ng.Generator(5).stream(SAMPLES), **given))
    assert not np.array_equal(drawn["3"], drawn["8"])
    assert main(["evaluate", str(run), "--samples", "40", "--images", "50"]) == 0
    found, test = json.loads((run / "evaluation.json").read_text()), data.load("digits", "test")
    assert test.labels is not None
    expected = likelihood(model, test.images[:50], ng.Generator(0).stream(EVALUATION), labels=test.labels[:50])
    assert expected is not None
    assert found["likelihood"]["bits_per_dim"] == pytest.approx(expected.bits_per_dim, rel=1e-6)
    capsys.readouterr()
    for bad in ("10", "-1"):
        assert main(["sample", str(run), "--out", str(tmp_path / "y.png"), "--label", bad]) == 2
        assert "labels must be in 0 … 9" in capsys.readouterr().err
    assert not (tmp_path / "y.png").exists()


def test_an_earlier_run_may_know_more_classes(run: Path, tmp_path: Path) -> None:
    """--init goes on with weights that have been trained for classes which the new data lack."""
    images = np.arange(40 * 64).reshape(40, 8, 8) % 17
    np.savez(tmp_path / "x.npz", images=images.astype(np.uint8), labels=np.arange(40) % 3, levels=17)
    own = ["--set", "classes=10", "latent=2", "channels=2", "stages=1"]
    more = ["--init", str(run), "--data", str(tmp_path / "x.npz"), "--steps", "1", "--quiet"]
    assert main(["train", "vae", "--out", str(tmp_path / "run"), *more, *own]) == 0


def test_classes_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on folders of pictures knows which folder is which label, and its page says so; `--label` takes a name, a
    number where no class is called so, and nothing else.  Data whose classes have no names have no such file."""
    names, out = ["2", "a<b", "cats"], tmp_path / "run"
    for i in range(30):
        (folder := tmp_path / "pets" / names[i % 3]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.png")
    few = ["--steps", "1", "--quiet", "--set", "latent=2", "channels=2", "stages=1"]
    command = ["train", "vae", "--data", str(tmp_path / "pets"), *few]
    assert main([*command, "classes=3", "--out", str(out)]) == 0
    assert json.loads((out / "classes.json").read_text()) == names == Run(out).class_names()
    page = (out / "index.html").read_text(encoding="utf-8")
    rows = "".join(f"<tr><th>{i}</th><td>{name}</td></tr>\n" for i, name in enumerate(["2", "a&lt;b", "cats"]))
    assert f"<h2>Classes</h2>\n<table>\n{rows}</table>\n" in page

    def drawn(run: Path, label: str) -> bytes:
        assert main(["sample", str(run), "-n", "3", "--label", label, "--out", str(tmp_path / "x.npz")]) == 0
        return np.load(tmp_path / "x.npz")["images"].tobytes()

    given = lambda label: Run(out).model().sample(3, ng.Generator(0).stream(SAMPLES), np.full(3, label)).tobytes()
    assert len({given(label) for label in range(3)}) == 3
    for label, text in enumerate(names):
        assert drawn(out, text) == given(label), "`2` is the name of label 0"
    assert (drawn(out, "0"), drawn(out, "1")) == (given(0), given(1))
    sample = ["sample", str(out), "--out", str(tmp_path / "y.png"), "--label"]
    capsys.readouterr()
    for text, said in (("cat", "did you mean 'cats'?"), ("7", "labels must be in 0 … 2, got 7\n"), ("", "or a number")):
        assert main([*sample, text]) == 2
        assert said in capsys.readouterr().err
    (out / "classes.json").write_text('["cats", 3]')
    assert main([*sample, "cats"]) == 2
    assert "classes.json is not a list of names: a class must be text, got 3" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "plain")]) == 0, "an unconditional one"
    assert not (tmp_path / "plain" / "classes.json").exists()


def test_a_name_where_classes_have_none(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not (run / "classes.json").exists()
    assert main(["sample", str(run), "--out", str(tmp_path / "y.png"), "--label", "three"]) == 2
    assert "--label must be a number, as the run has no names of classes, got 'three'" in capsys.readouterr().err


def test_a_label_for_an_unconditional_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused in a line."""
    own = ["--set", "latent=2", "channels=2", "stages=1"]
    assert main(["train", "vae", "--steps", "1", "--out", str(tmp_path / "run"), "--quiet", *own]) == 0
    assert main(["sample", str(tmp_path / "run"), "--out", str(tmp_path / "y.png"), "--label", "1"]) == 2
    assert capsys.readouterr().err == (
        "nanogen: error: --label is for a run that was trained with classes (--set classes=…);"
        f" {tmp_path / 'run'} was not\n"
    )


def test_labels_of_an_evaluations_samples(recording: list[Any]) -> None:
    """Classes come as often as among the training images: 30,000 draws are within six standard errors."""
    labels = np.array([0] * 60 + [2] * 30 + [6] * 10)
    model, by_frequency = Recording((1, 2, 2), 256, 7), evaluation.drawn_from(labels)
    draw = lambda n, stream: sample(model, n, ng.Generator(0).stream(stream), by_frequency)
    found = draw(30_000, 1)[:, 0, 0, 0]
    shares, expected = np.bincount(found, minlength=7) / 30_000, np.array([0.6, 0, 0.3, 0, 0, 0, 0.1])
    assert (abs(shares - expected) <= 6 * np.sqrt(expected * (1 - expected) / 30_000)).all()
    assert not np.array_equal(found[:100], draw(100, 2)[:, 0, 0, 0])


def test_an_evaluations_samples_have_the_labels_of_training(
    recording: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of the test images, where the two splits differ."""
    both, of = numbered(160), {"train": [0, 1], "test": [2, 3]}
    parts = {
        split: Images(both.images[i * 80 :][:80], np.array(of[split] * 40), 256, "digits") for i, split in enumerate(of)
    }
    run: Any = SimpleNamespace(
        settings=lambda: make_settings("recording", parts["train"], {"classes": 4}),
        model=lambda device: Recording((1, 2, 2), 256, 4),
        images=parts.__getitem__,
        step=None,
    )
    monkeypatch.setattr(features, "STEPS", 1)
    evaluation.evaluate(run, n=60)
    drawn = np.concatenate([labels for name, _, labels in recording if name == "sample"])
    assert len(drawn) == 60
    assert set(drawn.tolist()) == {0, 1}
