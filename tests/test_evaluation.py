"""What `nanogen evaluate` finds out, on models whose samples are known, and the features that it compares by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogen import data
from nanogen.data import Images
from nanogen.metrics import distances, frechet_distance, neighbour_metrics
from nanogen.models import DDPM, GAN, VAE, PixelCNN
from nanogen.models.pixelcnn import Columns
from nanogen.random import Generator
from nanogen.training import evaluation, features
from nanogen.training.evaluation import (
    as_json,
    class_metrics,
    copy_metrics,
    evaluate,
    network_evaluations,
    quality,
    table,
    write,
)
from nanogen.training.features import Features
from nanogen.training.run import SAMPLES, make_settings
from nanogen.training.sampling import sampler


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


def test_classes_covered(digits: tuple[Images, Images], seen: Features) -> None:
    """Of samples that are the test images of some classes, just those are covered, whatever few are misjudged."""
    train, test = digits
    for classes in (10, 6, 1):
        fake = train.images[train.labels < classes]  # type: ignore[operator]
        found = class_metrics(seen, fake, train, test)
        assert found is not None
        assert (found["covered"], found["classes"]) == (classes, 10)
        assert (found["smallest share"] > 0.05) == (classes == 10)
        assert found["largest share"] == pytest.approx(1 / classes, rel=0.1)


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
    assert network_evaluations(model, **sampling) == len(calls) == expected


# All of it


class Pretender:
    """A run whose model draws from images that are given to it."""

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


def test_evaluation_of_a_perfect_and_of_a_copying_model(digits: tuple[Images, Images], tmp_path: Path) -> None:
    """The test images as samples: nothing better can be.  The training images: as good as the floor, which is drawn
    from them, but found out as copies.  The JSON is strict, the table has every number, the pictures are written."""
    train, test = digits
    perfect, pictures = evaluate(run := Pretender(tmp_path, test.images), n=297)  # type: ignore[arg-type]
    assert perfect.quality["Fréchet distance"].value == pytest.approx(0, abs=1e-9)
    assert perfect.quality["coverage"].value == 1 > perfect.floor["coverage"].value
    assert perfect.copies["exact copies of training images"].value == 0
    assert perfect.classes is not None
    assert perfect.classes["covered"] == 10
    assert set(pictures) == {"closest", "outside", "missed"}
    assert [len(pictures[name]) for name in ("closest", "outside", "missed")] == [48, 0, 0]

    copying, pictures = evaluate(Pretender(tmp_path, train.images), n=500)  # type: ignore[arg-type]
    for name, floor in copying.floor.items():
        assert copying.quality[name].low <= floor.high, name
        assert copying.quality[name].high >= floor.low, name
    assert copying.copies["exact copies of training images"].value == 1
    assert copying.copies["closer to training images than the test is"].value > 0.99
    assert np.array_equal(pictures["closest"][:16], pictures["closest"][16:32])

    written = write(copying, pictures, 17, run, tmp_path / "numbers.json")  # type: ignore[arg-type]
    assert {path.name for path in written} == {p.name for p in tmp_path.iterdir()}
    assert {path.name for path in written} >= {"numbers.json", "evaluation-closest.png", "evaluation-missed.png"}
    found = json.loads((tmp_path / "numbers.json").read_text(), parse_constant=pytest.fail)
    assert found == as_json(copying)
    assert found["quality"]["precision"].keys() == {"value", "low", "high"}
    assert (found["likelihood"], found["samples"], found["confidence"]) == (None, 500, 0.95)
    text = table(copying)
    for word in [*found["quality"], *found["copies"], "not an Inception FID", "real images:", "10 of 10", "no density"]:
        assert word in text
    write(perfect, {"outside": test.images[:0]}, 17, run, tmp_path / "numbers.json")  # type: ignore[arg-type]
    assert not (tmp_path / "evaluation-outside.png").exists(), "a picture of an earlier evaluation"


def test_too_few_images(digits: tuple[Images, Images], tmp_path: Path) -> None:
    """A test split of a few images has a likelihood, but no sets that could be compared; of one it has nothing."""
    run: Any = Pretender(tmp_path, digits[1].images)
    found, pictures = evaluate(run, n=40, test_images=5)
    assert (found.quality, found.floor, pictures) == ({}, {}, {})
    assert "they need 40 images" in table(found)
    for n, images in ((39, 297), (40, 1), (40, 298)):
        with pytest.raises(ValueError, match="at least"):
            evaluate(run, n=n, test_images=images)


def test_samples_are_drawn_in_batches_that_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches together are as many images as asked for, no batch repeats another's, and each is the model's draw of
    as many images from the stream of where it begins: whoever asks for more finds the full batches again.  Images do
    depend on how many are in their batch."""
    monkeypatch.setattr(evaluation, "BATCH", 16)
    model, rng = VAE((1, 4, 4), 17, channels=2), Generator(0)
    draw = sampler(model, rng, 1, 16)
    found, seconds = evaluation.timed(draw, 40)
    assert found.shape == (40, 1, 4, 4)
    assert len({image.tobytes() for image in found}) == 40
    assert seconds > 0
    for first, count in ((0, 16), (16, 16), (32, 8)):
        assert np.array_equal(found[first:][:count], model.sample(count, rng.stream(SAMPLES, first)))
    more, _ = evaluation.timed(draw, 48)
    assert np.array_equal(more[:32], found[:32])
    assert not np.array_equal(more[32:40], found[32:])
