"""What `nanogen evaluate` finds out, on models whose samples are known, and the features that it compares by."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import settings_of

from nanogen import data, metrics
from nanogen import functional as F
from nanogen.autograd import Tensor, grad
from nanogen.data import Images
from nanogen.metrics import (
    Estimate,
    Likelihood,
    distances,
    frechet_distance,
    jackknife,
    likelihood,
    neighbour_metrics,
    share_estimate,
)
from nanogen.models import DDPM, GAN, VAE, PixelCNN
from nanogen.models.autoregressive.pixelcnn import Columns
from nanogen.optim import AdamW
from nanogen.random import Generator
from nanogen.training import evaluation, features
from nanogen.training.evaluation import (
    LEFT_OUT,
    REAL_AS_IF_DRAWN,
    as_json,
    class_metrics,
    copy_metrics,
    evaluate,
    quality,
    shown,
    table,
    write,
)
from nanogen.training.features import Features
from nanogen.training.pictures import grid
from nanogen.training.report import SHARES, centred
from nanogen.training.run import EVALUATION, SAMPLES, make_settings
from nanogen.training.sampling import sample


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    return data.load("digits"), data.load("digits", "test")


@pytest.fixture(scope="module")
def seen(digits: tuple[Images, Images]) -> Features:
    """The features that digits are compared by."""
    return Features(digits[0])


# Features


def test_the_classifier_has_learned(digits: tuple[Images, Images], seen: Features) -> None:
    """It knows nine of ten test digits at least, other people's handwriting; its features have mean 0 and variance 1
    over the training images, and say so where they are named."""
    train, test = digits
    assert (seen.classify(test.images) == test.labels).mean() > 0.9
    found = seen(train.images)
    assert (found.shape, found.dtype) == ((1500, 64), np.float64)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.std(0), 1, atol=1e-6)
    assert "classifier of its 10 classes" in seen.name


def test_features_of_an_image_are_its_own(digits: tuple[Images, Images], seen: Features) -> None:
    """One at a time, in another order or all at once, the features are the same to rounding, and so is every number
    that follows from them."""
    images = digits[1].images[:300]
    whole = seen(images)
    single = np.concatenate([seen(images[i : i + 1]) for i in range(len(images))])
    np.testing.assert_allclose(whole, single, atol=1e-4)
    np.testing.assert_allclose(whole[::-1], seen(images[::-1]), atol=1e-4)
    a, b = digits[0].images[:200], digits[0].images[200:500]
    together, apart = seen(np.concatenate([a, b])), (seen(a), seen(b))
    assert frechet_distance(*apart) == pytest.approx(frechet_distance(together[:200], together[200:]), rel=1e-4)


def test_features_are_kept(digits: tuple[Images, Images], seen: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier of a data set is trained once: the same again from the cache, to the bit; a file there that is
    broken or another one does no harm, nor does a cache that can't be written."""
    monkeypatch.setattr(features, "STEPS", 2)
    trained: list[int] = []
    real = features.train_classifier
    monkeypatch.setattr(features, "train_classifier", lambda *args: (trained.append(1), real(*args)))
    images = digits[1].images
    assert np.array_equal(Features(digits[0])(images), seen(images))
    assert not trained
    few = Images(digits[0].images[:50], digits[0].labels[:50], 17, "few")  # type: ignore[index]
    before = set((folder := features.cache_folder() / "features").iterdir())
    first = Features(few)(images)
    [file] = set(folder.iterdir()) - before
    for contents in (file.read_bytes()[:-1], b"", next(iter(before)).read_bytes()):
        assert np.array_equal(Features(few)(images), first)
        file.write_bytes(contents)
    assert len(trained) == 3
    monkeypatch.setenv("NANOGEN_CACHE", str(file))
    assert np.array_equal(Features(few)(images), first)


def labelled(n: int = 40, shape: tuple[int, int, int] = (1, 5, 7), levels: int = 6, classes: int = 3) -> Images:
    rng = np.random.default_rng(n)
    images, labels = rng.integers(0, levels, (n, *shape)).astype(np.uint8), np.arange(n) % classes
    images[:, :, :3] = labels[:, None, None, None]  # which is not hard to learn
    return Images(images, labels, levels, "some")


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A classifier of five steps, in a cache that was empty; intervals by four groups."""
    monkeypatch.setattr(features, "STEPS", 5)
    monkeypatch.setattr(metrics, "GROUPS", 4)
    monkeypatch.setenv("NANOGEN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("with_labels", [True, False])
@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 8, 2)])
def test_features_are_those_of_torch(
    shape: tuple[int, int, int], with_labels: bool, few_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three 3×3 convolutions to 32, 64 and 64 channels, of strides 1, 2 and 2 with a border of 1, a linear map to 64
    numbers, SiLU after each: as torch has them, with the network's weights, of levels in [−1, 1]; less their mean and
    by their spread over the training images.  One more linear map gives the classes.  Without labels the weights are
    the first ones, of seed 0."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(features, "STEPS", 30)
    train = labelled(40, shape)
    if not with_labels:
        train = Images(train.images, None, train.levels, train.name)
    found = Features(train)
    start = features.Classifier(shape, 3 if with_labels else 1, Generator(0, "cpu"))
    assert found.classes == len(start.last.weight.data)
    for (name, ours), first in zip(found.network.named_parameters(), start.parameters(), strict=True):
        assert np.array_equal(ours.data, first.data) != with_labels, name
    w = {name: torch.from_numpy(np.array(a)) for name, a in found.network.state_dict().items()}
    silu, linear = torch.nn.functional.silu, torch.nn.functional.linear

    def raw(images: np.ndarray) -> Any:
        x = torch.from_numpy(images.astype(np.float32)) * 2 / 5 - 1
        for i, stride in enumerate((1, 2, 2)):
            x = torch.nn.functional.conv2d(x, w[f"convs.{i}.weight"], w[f"convs.{i}.bias"], stride=stride, padding=1)
            x = silu(x)
        return silu(linear(x.flatten(1), w["embed.weight"], w["embed.bias"]))

    assert [tuple(w[f"convs.{i}.weight"].shape[:2]) for i in range(3)] == [(32, shape[0]), (64, 32), (64, 64)]
    other = labelled(300, shape).images  # more than are taken at once
    base = raw(train.images).double().numpy()
    expected = (raw(other).double().numpy() - base.mean(0)) / np.maximum(base.std(0), 1e-6)
    assert (base.std(0) > 1e-4).all()
    np.testing.assert_allclose(found(other), expected, rtol=1e-3, atol=1e-3)
    assert found(other).dtype == np.float64
    classes = linear(raw(other), w["last.weight"], w["last.bias"]).argmax(1).numpy()
    assert (found.classify(other) == classes).mean() > 0.99
    assert not with_labels or len(set(classes)) > 1


def test_features_that_never_change() -> None:
    """A feature that is the same for all training images is divided by 1e-6, not by 0."""
    train = labelled(40)
    found = Features(Images(train.images[:1].repeat(40, axis=0), None, 6, "one image"))
    assert (found.std == 1e-6).all()
    assert np.isfinite(found(train.images)).all()


def test_training_of_the_classifier_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-entropy with dropout, of 64 images drawn anew for each of six steps, by AdamW with a decay of 0.01 and a
    rate of 0.002 that falls as a half cosine."""
    monkeypatch.setattr(features, "STEPS", 6)
    train = labelled(90)
    assert train.labels is not None
    ours, theirs = (features.Classifier(train.shape, 3, Generator(0)) for _ in range(2))
    scaled = lambda images: Tensor((images.astype(np.float32) * 2 / 5 - 1).astype(np.float32))
    features.train_classifier(theirs, scaled, train.images, train.labels)
    rng, parameters = Generator(0), list(ours.parameters())
    optimizer = AdamW(parameters, 0.002, weight_decay=0.01)
    for step in range(6):
        chosen = rng.integers(0, 90, 64)
        logits = ours.last(F.dropout(ours.features(scaled(train.images[chosen])), 0.3, True, rng=rng))
        loss = F.cross_entropy(logits, train.labels[chosen])
        for parameter, g in zip(parameters, grad(loss, parameters), strict=True):
            parameter.grad = g
        optimizer.lr = 0.002 * (1 + np.cos(np.pi * step / 6)) / 2
        optimizer.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert np.linalg.norm(b.data - a.data) < 1e-5 * np.linalg.norm(a.data), name  # Adam makes much of roundings
    small = labelled(7)
    features.train_classifier(features.Classifier(small.shape, 3, Generator(0)), scaled, small.images, small.labels)


def test_each_data_set_has_its_own_features(few_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is found again by images, labels, shape and number of levels together: where one of them is another,
    a classifier is trained anew, and no other file is taken.  So it is by another version of network and training."""
    trained: list[Any] = []
    real = features.train_classifier
    monkeypatch.setattr(features, "train_classifier", lambda *how: (trained.append(how[3]), real(*how)))
    base = labelled(40)
    assert base.labels is not None
    others = [
        base,
        dataclasses.replace(base, labels=(base.labels + 1) % 3),
        dataclasses.replace(base, labels=base.labels % 2),
        dataclasses.replace(base, labels=base.labels * 2),
        dataclasses.replace(base, levels=7),
        dataclasses.replace(base, images=base.images.reshape(40, 1, 7, 5)),
        dataclasses.replace(base, images=base.images[::-1].copy()),
    ]
    first = []
    for i, images in enumerate(others, start=1):
        found = Features(images)
        assert len(trained) == i
        assert np.array_equal(trained[-1], images.labels)
        assert found.classes == images.labels.max() + 1  # type: ignore[union-attr]
        first.append((found(images.images), found.classify(images.images), found.classes))
    for images, (numbers, classes, count) in zip(others, first, strict=True):
        found = Features(dataclasses.replace(images, name="the same by another name"))
        assert np.array_equal(found(images.images), numbers)
        assert np.array_equal(found.classify(images.images), classes)
        assert found.classes == count
    assert len(trained) == len(others)
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    Features(base)
    assert len(trained) == len(others) + 1


def test_features_without_labels(digits: tuple[Images, Images]) -> None:
    """A network with random weights, the same each time, that tells digits from noise and says what it is."""
    train, test = (Images(part.images, None, 17, "unlabelled") for part in digits)
    found = Features(train)
    assert "random weights" in found.name
    noise = np.random.default_rng(0).integers(0, 17, test.images.shape).astype(np.uint8)
    real = found(train.images[:297])
    assert frechet_distance(real, found(noise)) > 10 * frechet_distance(real, found(test.images))
    assert np.array_equal(found(noise), Features(train)(noise))
    assert class_metrics(found, noise, train, test) is None


# The parts


def test_quality_of_the_real_images_themselves(digits: tuple[Images, Images], seen: Features) -> None:
    """The test images as samples: no distance, precision, recall and coverage 1.  Noise: far, and covering little;
    but one strange test image's large ball holds half of it, which precision counts and density hardly does."""
    real = seen(digits[1].images)
    found = {name: estimate.value for name, estimate in quality(real, real, Generator(0)).items()}
    assert found.pop("Fréchet distance") == pytest.approx(0, abs=1e-9)
    assert found == neighbour_metrics(*[distances(real, real)] * 3)
    assert [found[name] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    noise = np.random.default_rng(0).integers(0, 17, digits[1].images.shape).astype(np.uint8)
    far = quality(real, seen(noise), Generator(0))
    assert far["Fréchet distance"].low > 10
    assert far["coverage"].value < 0.2
    assert far["density"].value < 0.25


def test_copies_are_found(digits: tuple[Images, Images]) -> None:
    """Training images as samples: all are copies, nearest to training images, closer than the test is.  Images that
    were held out besides: as is expected where nothing is copied.  Half of either: in between."""
    images = np.concatenate([part.images for part in digits])
    images = images[np.random.default_rng(0).permutation(len(images))]
    train, test, anew = images[:800], images[800:1200], images[1200:1600]
    names = ["exact copies of training images", "nearest is a training image",
             "closer to training images than the test is"]  # fmt: skip
    copied, expected = copy_metrics(train[:400], train, test, Generator(0))
    assert [copied[name].value for name in names[:2]] == [1, 1]
    assert copied[names[2]].value > 0.99
    fair, _ = copy_metrics(anew, train, test, Generator(0))
    assert [expected[name] for name in names] == [0, 800 / 1200, 0.5]
    for name in names:
        assert fair[name].low <= expected[name] <= fair[name].high, name
    half, _ = copy_metrics(np.concatenate([train[:200], anew[:200]]), train, test, Generator(0))
    assert half[names[0]].value == 0.5
    for name in names[1:]:
        assert fair[name].high < half[name].value < copied[name].value


def test_quality_by_its_definitions() -> None:
    """Every number by the metrics of the whole sets, and its interval from the same of what is left without a twentieth
    of each: by the features themselves, not by blocks of distances.  The sets have different sizes, and none of the
    numbers is the same with the two of them exchanged."""
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((60, 4)), 0.4 + 1.5 * rng.standard_normal((47, 4))

    def by_hand(i: np.ndarray, j: np.ndarray) -> dict[str, float]:
        a, b = real[i], fake[j]
        return {"Fréchet distance": frechet_distance(a, b)} | neighbour_metrics(
            distances(a, a), distances(b, b), distances(a, b)
        )

    found, expected = quality(real, fake, Generator(3)), jackknife(by_hand, 60, 47, Generator(3), SHARES)
    assert list(found) == ["Fréchet distance", "precision", "recall", "density", "coverage"]
    for name, estimate in expected.items():
        assert found[name] == pytest.approx(estimate, rel=1e-6), name
        assert estimate.low < estimate.value < estimate.high
    turned = quality(fake, real, Generator(3))
    assert all(turned[name].value != found[name].value for name in list(found)[1:])


def test_copies_by_hand() -> None:
    """On few images, by loops over pairs: a sample that is a training image and a test image too is an exact copy, but
    no nearer to either; test images that are training images are what is expected of exact copies.  The interval of the
    third share leaves out test images and samples; with fewer than 40 test images there is none."""
    draw = np.random.default_rng(0)
    train, test, fake = (draw.integers(0, 6, (n, 1, 2, 2)).astype(np.uint8) for n in (70, 45, 52))
    fake[:9], fake[9:12] = train[:9], test[:3]
    test[40:43] = train[9:12]
    fake[12] = test[41]
    shortest = lambda x, among: min(float(np.sqrt(((x.astype(float) - y) ** 2).sum())) for y in among)
    to_train, to_test, between = (
        np.array([shortest(x, among) for x in of]) for of, among in ((fake, train), (fake, test), (test, train))
    )
    found, expected = copy_metrics(fake, train, test, Generator(4))
    names = list(found)
    assert names == ["exact copies of training images", "nearest is a training image",
                     "closer to training images than the test is"]  # fmt: skip
    assert found[names[0]].value == np.mean(to_train == 0)
    assert found[names[1]].value == np.mean(to_train < to_test)
    assert ((to_train == to_test).sum(), (to_train < to_test).sum()) > (0, 0)
    for name, flags in zip(names, (to_train == 0, to_train < to_test)):
        assert found[name] == share_estimate(flags)

    def closer(i: np.ndarray, j: np.ndarray) -> dict[str, float]:
        pairs = [(x < y) + 0.5 * (x == y) for x in to_train[j] for y in between[i]]
        return {names[2]: float(np.mean(pairs))}

    assert found[names[2]] == pytest.approx(jackknife(closer, 45, 52, Generator(4), names)[names[2]], rel=1e-9)
    assert expected == pytest.approx({names[0]: np.mean(between == 0), names[1]: 70 / 115, names[2]: 0.5})
    assert np.mean(between == 0) > 0
    for n, names_of in ((40, names), (39, names[:2])):
        assert list(copy_metrics(fake, train, test[:n], Generator(0))[0]) == names_of


class Told(Features):
    """Takes the first pixel for the class."""

    def __init__(self, classes: int):
        self.classes = classes

    def classify(self, images: np.ndarray) -> np.ndarray:
        return images[:, 0, 0, 0].astype(int)


def of_classes(*counts: int) -> Images:
    """So many images of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return Images(labels.astype(np.uint8)[:, None, None, None], labels, 17, "told")


def test_classes_by_hand() -> None:
    """Training images: 50 % of class 0, 40 % of class 1, none of class 2, 10 % of class 3.  A class is covered from a
    tenth of that on: 4 % of class 1 are enough, 3.9 % are not; what is sampled of a class that is not in the training
    images is not counted; the shares and the accuracy are of those that are."""
    train, test = of_classes(500, 400, 0, 100), of_classes(2, 3, 0, 1)
    test.images[2:4] = 0  # two of six test images are misjudged
    found = class_metrics(Told(4), of_classes(920, 40, 0, 40).images, train, test)
    assert found == pytest.approx({"covered": 3, "classes": 3, "smallest share": 0.04, "largest share": 0.92,
                                   "classifier's accuracy": 4 / 6})  # fmt: skip
    found = class_metrics(Told(4), of_classes(1, 39, 951, 9).images, train, test)
    assert found == pytest.approx({"covered": 0, "classes": 3, "smallest share": 0.001, "largest share": 0.039,
                                   "classifier's accuracy": 4 / 6})  # fmt: skip
    unlabelled = Images(train.images, None, 17, "told")
    assert class_metrics(Told(4), train.images, unlabelled, test) is None
    assert class_metrics(Told(4), train.images, train, unlabelled) is None


def test_classes_covered(digits: tuple[Images, Images], seen: Features) -> None:
    """Training images of some of the digits as samples: just those are covered, by the classifier's own judgement, of
    which one in ten may be wrong; the largest share is that of the digit of which there are most."""
    train, test = digits
    assert train.labels is not None
    for classes in (10, 6, 1):
        fake = train.images[train.labels < classes]
        counts = np.bincount(train.labels)[:classes]
        found = class_metrics(seen, fake, train, test)
        assert found is not None
        assert (found["covered"], found["classes"]) == (classes, 10)
        assert (found["smallest share"] > 0.05) == (classes == 10)
        assert found["largest share"] == pytest.approx(counts.max() / counts.sum(), abs=0.01)
        assert found["classifier's accuracy"] == (seen.classify(test.images) == test.labels).mean() > 0.9


@pytest.mark.parametrize("far", [False, True])
def test_pictures_of_an_evaluation_by_hand(far: bool) -> None:
    """Closest: of the samples the 16 nearest to a training image, in that order, above those images and above their
    nearest test images.  Outside: samples in no test image's ball of three neighbours, the farthest from any first, 32
    at most; missed: the same of test images and samples' balls."""
    rng = np.random.default_rng(2)
    fake, train, test = (rng.integers(0, 256, (n, 1, 2, 3)).astype(np.uint8) for n in (90, 50, 80))
    fake[70], fake[20] = train[8], train[31]
    real, drawn = rng.standard_normal((80, 3)), (2 if far else 1) + 1.3 * rng.standard_normal((90, 3))
    found = shown(fake, train, test, real, drawn)

    d = lambda a, b: np.sqrt(((a[:, None].astype(float) - b[None]) ** 2).reshape(len(a), len(b), -1).sum(2))
    order = sorted(range(90), key=lambda i: d(fake, train)[i].min())[:16]
    assert set(order[:2]) == {20, 70}
    assert found["closest"].shape == (48, 1, 2, 3)
    for k, i in enumerate(order):
        assert np.array_equal(found["closest"][k], fake[i])
        assert np.array_equal(found["closest"][16 + k], train[d(fake, train)[i].argmin()])
        assert np.array_equal(found["closest"][32 + k], test[d(fake, test)[i].argmin()])

    def in_no_ball(points: np.ndarray, centres: np.ndarray) -> list[int]:
        balls = np.sort(d(centres, centres), axis=1)[:, 3]  # the first is the centre itself
        alone = [i for i in range(len(points)) if (d(centres, points)[:, i] > balls).all()]
        return sorted(alone, key=lambda i: -d(centres, points)[:, i].min())

    outside, missed = in_no_ball(drawn, real), in_no_ball(real, drawn)
    assert (min(len(outside), len(missed)) > 32) == far
    assert min(len(outside), len(missed)) > 2
    assert np.array_equal(found["outside"], fake[outside[:32]])
    assert np.array_equal(found["missed"], test[missed[:32]])
    assert len(shown(fake[:9], train, test, real, drawn[:9])["closest"]) == 27


@pytest.mark.parametrize(("model", "network", "sampling", "expected"), [
    (PixelCNN((1, 3, 4), 4, channels=4, blocks=1), None, {}, 12), (VAE((1, 3, 4), 4, channels=2), "decoder", {}, 1),
    (PixelCNN((3, 2, 2), 4, channels=6, blocks=1), None, {}, 12), (GAN((1, 4, 4), 4, channels=2), "generator", {}, 1),
    (DDPM((1, 4, 4), 4, T=7, channels=4, heads=1), "unet", {}, 7),
    (DDPM((1, 4, 4), 4, T=7, channels=4, heads=1), "unet", {"steps": 3}, 3),
])  # fmt: skip
def test_network_evaluations_are_counted(
    model: Any, network: str | None, sampling: Any, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as the network is in fact called while sampling."""
    cls, name = (Columns, "logits") if network is None else (type(getattr(model, network)), "forward")
    calls, run = [], getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda self, *args: (calls.append(1), run(self, *args))[1])
    model.eval()
    model.sample(2, Generator(0), **sampling)
    assert model.evaluations_with(**sampling) == len(calls) == expected


# All of it


class Pretender:
    """A run whose model draws from images that are given to it."""

    step = None

    def __init__(self, folder: Path, images: np.ndarray):
        self.folder, self.images_drawn = folder, images
        self.given = {split: data.load("digits", split) for split in ("train", "test")}

    def settings(self) -> Any:
        return make_settings("gan", self.given["train"])

    def images(self, split: str) -> Images:
        return self.given[split]

    def model(self, device: str) -> Any:
        model = GAN((1, 8, 8), 17, channels=2)
        left = iter(range(0, len(self.images_drawn), 1))
        model.sample = lambda n, rng: np.stack([self.images_drawn[next(left)] for _ in range(n)])
        return model


class OfSome(Pretender):
    """A run of a tiny model on a few images with labels."""

    def __init__(self, folder: Path, model: Any):
        self.folder, self.given, self.network = folder, {}, model
        self.stated = settings_of("gan")
        both = labelled(140, model.image_shape, model.levels)
        assert both.labels is not None
        for split, part in (("train", slice(0, 80)), ("test", slice(80, 140))):
            self.given[split] = Images(both.images[part], both.labels[part], model.levels, "some")

    def settings(self) -> Any:
        return self.stated

    def model(self, device: str) -> Any:
        return self.network.eval()


TINY_MODELS: dict[str, Any] = {
    "pixelcnn": lambda: PixelCNN((1, 4, 3), 5, channels=4, blocks=1, kernel_size=3),
    "vae": lambda: VAE((1, 4, 3), 5, latent=2, channels=2, stages=1),
    "gan": lambda: GAN((1, 4, 3), 5, latent=2, channels=2),
    "ddpm": lambda: DDPM((1, 4, 3), 5, T=4, channels=4, multipliers=(1,), heads=1),
}


@pytest.mark.parametrize("name", TINY_MODELS)
def test_an_evaluation_by_hand(name: str, few_steps: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure once more from its parts: the likelihood of the first test images, samples drawn with the seed that
    is given, their features and the test images', the same of as many training images in the samples' place, copies,
    classes, and the settings and counts that all of it goes by."""
    monkeypatch.setattr(evaluation, "BATCH", 20)
    monkeypatch.setattr(evaluation.time, "perf_counter", iter((10.0, 14.5)).__next__)
    run, how = OfSome(tmp_path, TINY_MODELS[name]()), {"steps": 2, "eta": 0.5} if name == "ddpm" else {}
    found, pictures = evaluate(run, 45, test_images=43, seed=9, **how)  # type: ignore[arg-type]
    model, train, test = run.network, run.given["train"], run.given["test"]
    assert (found.model, found.data, found.seed, found.sampling) == ("gan", "digits", 9, how)
    assert (found.train_images, found.test_images, found.samples) == (80, 43, 45)
    assert found.network_evaluations == {"pixelcnn": 12, "vae": 1, "gan": 1, "ddpm": 2}[name]
    assert found.seconds == 4.5 / 45
    real = test.images[:43]
    assert found.likelihood == likelihood(model, real, Generator(9).stream(EVALUATION))

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: 0.0)
    fake, _ = evaluation.timed(lambda n, *at: sample(model, n, Generator(9).stream(*at), **how), 45)
    seen = Features(train)
    assert found.features == seen.name
    in_place = train.images[Generator(9).stream(REAL_AS_IF_DRAWN).permutation(80)[:45]]
    left_out = lambda: Generator(9).stream(LEFT_OUT)
    assert found.quality == quality(seen(real), seen(fake), left_out())
    assert found.floor == quality(seen(real), seen(in_place), left_out())
    assert found.quality != found.floor
    assert (found.copies, found.copies_expected) == copy_metrics(fake, train.images, real, left_out())
    labels = test.labels
    assert labels is not None
    expected = class_metrics(seen, fake, train, Images(real, labels[:43], 5, "some"))
    assert found.classes == expected
    for key, images in shown(fake, train.images, real, seen(real), seen(fake)).items():
        assert np.array_equal(pictures[key], images), key


def test_what_an_evaluation_goes_by_unless_given(few_steps: None, tmp_path: Path) -> None:
    """500 samples, all test images, seed 0; without labels no classes; with fewer training images than samples the
    floor is of all of them."""
    run: Any = OfSome(tmp_path, TINY_MODELS["gan"]())
    found, _ = evaluate(run)
    assert (found.seed, found.samples, found.test_images, found.sampling) == (0, 500, 60, {})
    assert found.quality == evaluate(run, 500, 60, 0)[0].quality
    assert found.quality != evaluate(run, 500, 60, 1)[0].quality
    run.given = {k: Images(v.images, None, v.levels, v.name) for k, v in run.given.items()}
    without, _ = evaluate(run, n=90)
    assert without.classes is None
    seen = Features(run.given["train"])
    order = Generator(0).stream(REAL_AS_IF_DRAWN).permutation(80)
    parts = seen(run.given["test"].images), seen(run.given["train"].images[order])
    assert without.floor == quality(*parts, Generator(0).stream(LEFT_OUT))
    train = run.given["train"]
    for n in (40, 39):
        run.given["train"] = Images(train.images[:n], None, train.levels, train.name)
        assert len(evaluate(run, n=50)[0].quality) == (5 if n == 40 else 0)


def test_who_evaluates(few_steps: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank other than the first draws its samples, and that is all."""
    run: Any = OfSome(tmp_path, TINY_MODELS["ddpm"]())
    drawn, real = [], evaluation.sample
    monkeypatch.setattr(
        evaluation, "sample", lambda model, n, *a, **how: (drawn.append((n, how)), real(model, n, *a))[1]
    )
    monkeypatch.setattr(evaluation, "rank", lambda: 1)
    monkeypatch.setattr(evaluation, "likelihood", None)
    assert evaluate(run, 300, steps=2) is None
    assert drawn == [(250, {"steps": 2}), (50, {"steps": 2})]


def some_evaluation() -> evaluation.Evaluation:
    return evaluation.Evaluation(
        model="vae", data="digits", seed=3, sampling={"steps": 5}, train_images=1500, test_images=297, samples=48,
        likelihood=Likelihood("upper bound", 2.5, 0.01, {"importance-weighted, K = 64": 2.25}), features="64 features",
        quality={"Fréchet distance": Estimate(123.456, 120.0, 126.0), "precision": Estimate(0.87654, 0.8, 0.95)},
        floor={"Fréchet distance": Estimate(0.012345, 0.01, 0.015), "precision": Estimate(1.0, 0.99, 1.0)},
        copies={"exact copies of training images": Estimate(0.25, 0.125, 0.5)},
        copies_expected={"exact copies of training images": 0.0625},
        classes={"covered": 7, "classes": 10, "smallest share": 0.01234, "largest share": 0.34567,
                 "classifier's accuracy": 0.97}, network_evaluations=5, seconds=0.00123,
    )  # fmt: skip


def test_the_table_of_an_evaluation() -> None:
    """Every number in its place, with half the width of its interval or with both its ends."""
    assert table(some_evaluation()).splitlines() == [
        "vae on digits: 297 test images, 48 samples",
        "bits/dim (upper bound)           2.5000 ± 0.0196",
        "  importance-weighted, K = 64    2.2500",
        "Fréchet distance *               123 ± 3               real images: 0.0123 ± 0.0025",
        "precision *                      0.877 [0.800, 0.950]  real images: 1.000 [0.990, 1.000]",
        "exact copies of training images  0.250 [0.125, 0.500]  nothing copied: 0.062",
        "classes covered                  7 of 10               shares 0.012 … 0.346",
        "network evaluations per sample   5",
        "seconds per sample               0.0012",
        "* 64 features: not an Inception FID, nor to be compared with one",
    ]
    bare = dataclasses.replace(some_evaluation(), likelihood=None, quality={}, floor={}, copies={}, classes=None)
    assert table(bare).splitlines()[1:-1] == [
        "bits/dim                        none    this model has no density",
        "comparisons of sets *           none    they need 40 images on either side",
        "network evaluations per sample  5",
        "seconds per sample              0.0012",
    ]
    few = dataclasses.replace(some_evaluation(), test_images=39, checkpoint=500)
    title, bits, *_ = table(few).splitlines()
    assert title == "vae on digits, step 500: 39 test images, 48 samples"
    assert re.fullmatch(r"bits/dim \(upper bound\) +2.5000 +no interval: it needs 40 test images", bits)
    assert as_json(few)["likelihood"].items() >= {"bits_per_dim": 2.5, "low": None, "high": None}.items()


@pytest.mark.parametrize(("estimate", "text"), [
    (Estimate(0.0, 0.0, 0.0), "0.0000 ± 0.0000"), (Estimate(9.994, 9.0, 11.0), "9.99 ± 1.00"),
    (Estimate(10.0, 9.0, 11.0), "10.0 ± 1.0"), (Estimate(100.0, 98.0, 102.0), "100 ± 2"),
    (Estimate(12345.6, 12000.0, 12600.0), "12346 ± 300"), (Estimate(0.1, 0.0, 0.25), "0.100 ± 0.125"),
    (Estimate(-0.05, -0.1, 0.0), "-0.0500 ± 0.0500"), (Estimate(1e-5, 0.0, 2e-5), "0.0000 ± 0.0000"),
])  # fmt: skip
def test_three_digits(estimate: Estimate, text: str) -> None:
    """Of the value three digits that count, of 0 to 4 behind the point; of half the interval's width as many behind."""
    assert centred(estimate) == text


def test_the_json_of_an_evaluation(tmp_path: Path) -> None:
    """All that is known, by the attributes' names, the intervals with both ends and their confidence; in UTF-8 as it
    is read by people."""
    e = some_evaluation()
    plain = {name: getattr(e, name) for name in (
        "model", "data", "seed", "sampling", "train_images", "test_images", "samples", "features", "copies_expected",
        "classes", "network_evaluations", "seconds", "checkpoint", "estimators",
    )}  # fmt: skip
    ends = lambda some: {k: {"value": v.value, "low": v.low, "high": v.high} for k, v in some.items()}
    expected = plain | {
        "quality": ends(e.quality), "floor": ends(e.floor), "copies": ends(e.copies), "confidence": 0.95,
        "likelihood": {"kind": "upper bound", "bits_per_dim": 2.5, "standard_error": 0.01,
                       "terms": {"importance-weighted, K = 64": 2.25}, "low": pytest.approx(2.5 - 0.0196),
                       "high": pytest.approx(2.5 + 0.0196)},
    }  # fmt: skip
    assert as_json(e) == expected
    run: Any = OfSome(tmp_path, TINY_MODELS["gan"]())
    assert write(e, {}, 5, run, tmp_path / "x.json") == [tmp_path / "x.json"]
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(as_json(e)))
    assert "Fréchet distance" in text
    assert text.endswith("}\n")
    assert as_json(dataclasses.replace(e, likelihood=None))["likelihood"] is None


def test_pictures_of_an_evaluation_are_written(tmp_path: Path) -> None:
    """Each in rows of 16, or in one row where there are fewer; one that has no images is not there, even if it was."""
    run: Any = OfSome(tmp_path, TINY_MODELS["gan"]())
    images = labelled(48, (1, 4, 3), 5).images
    for first in (images, images[:5]):
        found = write(some_evaluation(), {"closest": first, "missed": images[:3]}, 5, run, tmp_path / "x.json")
        assert found == [tmp_path / name for name in ("x.json", "evaluation-closest.png", "evaluation-missed.png")]
        for path, some in zip(found[1:], (first, images[:3]), strict=True):
            expected = np.asarray(grid(some, 5, 16 if len(some) == 48 else len(some)))
            assert np.array_equal(np.asarray(Image.open(path)), expected)
    found = write(some_evaluation(), {"closest": images[:0], "missed": images[:1]}, 5, run, tmp_path / "x.json")
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"x.json", "evaluation-missed.png"}
    assert found == [tmp_path / "x.json", tmp_path / "evaluation-missed.png"]


def test_evaluation_of_a_perfect_and_of_a_copying_model(digits: tuple[Images, Images], tmp_path: Path) -> None:
    """The test images as samples: nothing better can be, nothing is copied but what training and test images share,
    and none lies outside of another's ball.  The training images as samples: as good as the floor, which is drawn from
    them, but found out as copies, each next to itself."""
    train, test = digits
    perfect, pictures = evaluate(Pretender(tmp_path, test.images), n=297)  # type: ignore[arg-type]
    assert perfect.quality["Fréchet distance"].value == pytest.approx(0, abs=1e-9)
    assert perfect.quality["coverage"].value == 1 > perfect.floor["coverage"].value
    assert perfect.copies["exact copies of training images"].value == 0
    assert perfect.classes is not None
    assert perfect.classes["covered"] == 10
    assert {name: len(images) for name, images in pictures.items()} == {"closest": 48, "outside": 0, "missed": 0}
    assert np.array_equal(pictures["closest"][:16], pictures["closest"][32:]), "the nearest test image is itself"
    assert not any(np.array_equal(a, b) for a, b in zip(pictures["closest"][:16], pictures["closest"][16:32]))

    copying, pictures = evaluate(Pretender(tmp_path, train.images), n=500)  # type: ignore[arg-type]
    for name, floor in copying.floor.items():
        assert copying.quality[name].low <= floor.high, name
        assert copying.quality[name].high >= floor.low, name
    assert copying.copies["exact copies of training images"].value == 1
    assert copying.copies["closer to training images than the test is"].value > 0.99
    assert np.array_equal(pictures["closest"][:16], pictures["closest"][16:32])
    assert np.array_equal(pictures["closest"][:16], train.images[:16]), "all equally close, so in their own order"


def test_too_few_images(digits: tuple[Images, Images], tmp_path: Path) -> None:
    """A test split of a few images has a likelihood, but no sets that could be compared; of one it has nothing."""
    run: Any = Pretender(tmp_path, digits[1].images)
    found, pictures = evaluate(run, n=40, test_images=5)
    assert (found.quality, found.floor, pictures) == ({}, {}, {})
    assert "they need 40 images" in table(found)
    assert evaluate(run, n=40, test_images=2)[0].test_images == 2
    for count in (39, 40):
        found, pictures = evaluate(run, n=41, test_images=count)
        assert (len(found.quality), len(found.floor), len(pictures)) == ((5, 5, 3) if count == 40 else (0, 0, 0))
    for n, images in ((39, 297), (40, 1), (40, 298)):
        with pytest.raises(ValueError, match="at least"):
            evaluate(run, n=n, test_images=images)


def test_samples_are_drawn_in_batches_that_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches together are as many images as asked for, no batch repeats another's, and each is the model's draw of
    as many images from the stream of where it begins: whoever asks for more finds the full batches again.  Images do
    depend on how many are in their batch."""
    monkeypatch.setattr(evaluation, "BATCH", 16)
    model, rng = VAE((1, 4, 4), 17, channels=2), Generator(0)
    draw = lambda n, *at: sample(model, n, rng.stream(*at))
    found, seconds = evaluation.timed(draw, 40)
    assert found.shape == (40, 1, 4, 4)
    assert len({image.tobytes() for image in found}) == 40
    assert seconds > 0
    for first, count in ((0, 16), (16, 16), (32, 8)):
        assert np.array_equal(found[first:][:count], model.sample(count, rng.stream(SAMPLES, first)))
    more, _ = evaluation.timed(draw, 48)
    assert np.array_equal(more[:32], found[:32])
    assert not np.array_equal(more[32:40], found[32:])


def test_settings_of_sampling_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sampler is given beside the numbers is the model's at each call: here DDIM's steps and noise."""
    model, asked = TINY_MODELS["ddpm"](), []
    real = model.sample
    monkeypatch.setattr(model, "sample", lambda n, rng, **how: (asked.append((n, how)), real(n, rng, **how))[1])
    for n in (5, 3):
        assert len(sample(model, n, Generator(0).stream(n), steps=2, eta=0.5)) == n
    assert asked == [(n, {"steps": 2, "eta": 0.5}) for n in (5, 3)]


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("name", TINY_MODELS)
def test_no_samples_at_all(name: str, n: int) -> None:
    """Fewer than one image are refused, not drawn: nothing would tell an empty array from a finished one."""
    with pytest.raises(ValueError, match=f"n must be a positive integer, got {n}"):
        sample(TINY_MODELS[name](), n, Generator(0))


def test_samples_are_drawn_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches together are as many images as asked for, none is larger than a batch may be, each is drawn from a
    stream of its own, and no image is another's; the seconds are all that passed, by the number of images."""
    monkeypatch.setattr(evaluation, "BATCH", 16)
    model, clock, asked = VAE((1, 4, 4), 17, channels=2), [100.0], []

    def slowly(n: int, *indices: int) -> np.ndarray:
        asked.append((n, *indices))
        clock[0] += 3.0
        return sample(model, n, Generator(0).stream(*indices))

    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    found, seconds = evaluation.timed(slowly, 40)
    assert found.shape == (40, 1, 4, 4)
    assert len({image.tobytes() for image in found}) == 40
    assert sum(n for n, *_ in asked) == 40
    assert max(n for n, *_ in asked) == 16
    assert len({how[1:] for how in asked}) == len(asked)
    assert {how[1] for how in asked} == {SAMPLES}
    assert seconds == 3.0 * len(asked) / 40
