"""Super-resolution: what a small image is, what the network sees of it, and a cascade."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_ddpm import awake
from tiny_runs import TINY

import nanogen as ng
from nanogen import cli, data
from nanogen.cli import main
from nanogen.data.images import mean_levels, means
from nanogen.models import NoiseSchedule, SuperResolution
from nanogen.training.run import LARGE, SAMPLES, Run

FLOOR = 1e-6


def small(shape: tuple[int, int, int] = (1, 4, 6), levels: int = 5, T: int = 10, **settings: Any) -> Any:
    settings = {"channels": 4, "multipliers": (1,), "heads": 1, **settings}
    return awake(SuperResolution(shape, levels, T, rng=ng.Generator(1), **settings).to(np.float64))


def some_images(n: int = 4, shape: tuple[int, int, int] = (1, 4, 6)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (n, *shape)).astype(np.uint8)


def inputs_of(model: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the network is given from now on: x and t of each call."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    forward = model.unet.forward

    def watched(x: Any, t: Any, *others: Any) -> Any:
        seen.append((x.data, np.asarray(t)))
        return forward(x, t, *others)

    model.unet.forward = watched
    return seen


# Small images


@given(levels=st.sampled_from([2, 17, 64, 65, 256]), factor=st.sampled_from([1, 2, 3]), seed=st.integers(0, 9))
def test_small_images_are_means(levels: int, factor: int, seed: int) -> None:
    """The mean of each square, on the scale from black to white: exactly, while f² (K − 1) < 256, and else to half a
    level of 256."""
    x = np.random.default_rng(seed).integers(0, levels, (2, 3, 2 * factor, 4 * factor)).astype(np.uint8)
    found, count = means(x, levels, factor), mean_levels(levels, factor)
    expected = x.reshape(2, 3, 2, factor, 4, factor).mean((3, 5)) / (levels - 1)
    exact = factor**2 * (levels - 1) <= 255
    assert count == (factor**2 * (levels - 1) + 1 if exact else 256)
    assert found.shape == (2, 3, 2, 4)
    assert found.dtype == np.uint8
    assert abs(found / (count - 1) - expected).max() <= (1e-12 if exact else 0.5 / 255 + 1e-12)


def test_data_at_a_smaller_size(tmp_path: Path) -> None:
    """`size` of a named data set or a file: means of squares, with their labels and as many levels as that takes; a
    split is that of the whole images.  Other sizes are refused."""
    for split in ("train", "test"):
        whole, half = data.load("digits", split), data.load("digits", split, size=(4, 4))
        assert (half.shape, half.levels) == ((1, 4, 4), 65)
        assert np.array_equal(half.images, means(whole.images, 17, 2))
        assert np.array_equal(half.labels, whole.labels)
        assert np.array_equal(data.load("digits", split, size=(8, 8)).images, whole.images)
    np.savez(tmp_path / "x.npz", images=some_images(30), levels=5)
    for split in ("train", "test"):
        expected = means(data.load(tmp_path / "x.npz", split).images, 5, 2)
        assert np.array_equal(data.load(tmp_path / "x.npz", split, size=(2, 3)).images, expected)
    assert np.array_equal(data.load_all(tmp_path / "x.npz", (2, 3)).images, means(some_images(30), 5, 2))
    for size in ((3, 3), (4, 8), (16, 16), (2, 4)):
        with pytest.raises(ValueError, match="size must be 8×8, that of digits, divided by a whole number"):
            data.load("digits", size=size)
    with pytest.raises(ValueError, match="color needs a folder"):
        data.load("digits", color="grey")


# What the network sees


def test_the_network_sees_the_small_image() -> None:
    """Beside x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, each pixel of the small image of the same large one, on its square, and
    without noise; nothing else.  The noise is what it has to say.  Saharia et al. 2021, eq. 6."""
    model, images, schedule = small(), some_images(500), NoiseSchedule.linear(10)
    seen = inputs_of(model)
    model.predict_noise = lambda x_t, t, z, rng=None: (SuperResolution.predict_noise(model, x_t, t, z, rng), x_t)[1]
    loss = model.loss(images, ng.Generator(0)).item()
    x, t = seen[0]
    assert x.shape == (500, 2, 4, 6)
    means_of = images.reshape(500, 1, 2, 2, 3, 2).mean((3, 5)) / 2 - 1
    np.testing.assert_allclose(x[:, 1:], means_of.repeat(2, 2).repeat(2, 3), atol=1e-12)
    signal, noise = (
        table[t][:, None, None, None] for table in (schedule.sqrt_alpha_bars, schedule.sqrt_one_minus_alpha_bars)
    )
    epsilon = (x[:, :1] - signal * (images / 2 - 1)) / noise
    assert stats.kstest(epsilon.ravel(), "norm").pvalue > FLOOR
    assert loss == pytest.approx(((x[:, :1] - epsilon) ** 2).mean(), rel=1e-9)
    assert stats.chisquare(np.bincount(t, minlength=11)[1:]).pvalue > FLOOR


def test_augmentation() -> None:
    """The small image has the noise of a time s, uniform in 0 … 0.4 T, and a last channel says s / T of each image.  Ho
    et al. 2022."""
    model, images, schedule = small(augmentation=0.4), some_images(3000), NoiseSchedule.linear(10)
    seen = inputs_of(model)
    model.loss(images, ng.Generator(0))
    x, t = seen[0]
    assert x.shape == (3000, 3, 4, 6)
    s = np.rint(10 * x[:, 2, 0, 0]).astype(int)
    np.testing.assert_allclose(x[:, 2], (s / 10)[:, None, None] + np.zeros((4, 6)), atol=1e-12)
    assert stats.chisquare(np.bincount(s, minlength=5)).pvalue > FLOOR
    z = images.reshape(3000, 1, 2, 2, 3, 2).mean((3, 5)) / 2 - 1
    assert np.array_equal(x[:, 1:2, ::2, ::2], x[:, 1:2, 1::2, 1::2]), "one noise for a square"
    for level in range(5):
        rest = (x[:, 1:2, ::2, ::2] - schedule.sqrt_alpha_bars[level] * z)[s == level] if level else 0
        variance = 1 - schedule.alpha_bars[level]
        assert np.var(rest) == pytest.approx(variance, rel=6 * math.sqrt(2 / (600 * 6)), abs=1e-20)
    assert abs(np.corrcoef(s, t)[0, 1]) < 6 / math.sqrt(3000)


@pytest.mark.parametrize("how", [{}, {"steps": 3}, {"steps": 3, "eta": 1.0}])
def test_sampling_sees_the_small_image(how: dict[str, Any]) -> None:
    """At every step the network sees the small images that it was given, each beside its own x_t, from noise at T to
    the end; with a level, all the way the same noise on them, of that level, which it is told."""
    source = means(some_images(3), 5, 2)
    for settings, level in (({}, 0.0), ({"augmentation": 0.5}, 0.0), ({"augmentation": 0.5}, 0.3)):
        model = small(**settings)
        seen = inputs_of(model)
        found = model.translate(source, ng.Generator(0), **how, **({"level": level} if level else {}))
        assert found.shape == (3, 1, 4, 6)
        assert found.dtype == np.uint8
        assert [int(t[0]) for _, t in seen] == (list(range(10, 0, -1)) if not how else [10, 7, 3])
        z = (source / 8 - 1).repeat(2, 2).repeat(2, 3)
        for x, _ in seen:
            assert np.array_equal(x[:, 1:], seen[0][0][:, 1:])
            assert (np.allclose(x[:, 1:2], z, atol=1e-12)) == (level == 0)
            assert not settings or np.allclose(x[:, 2], level)
    assert model.evaluations_with(**how) == len(seen)


def test_without_augmentation_it_is_sr3() -> None:
    """Augmentation 0: the network has no channel for it, and its draws are the ancestral ones of the clean small image,
    bit for bit."""
    model, source = small(), means(some_images(3), 5, 2)
    assert model.unet.first.weight.shape[1] == 2
    z = (source.astype(float) * (2 / 16) - 1).repeat(2, 2).repeat(2, 3)
    for _, x in model.ancestral(3, ng.Generator(0), z=z):
        last = x.data
    assert np.array_equal(model.translate(source, ng.Generator(0)), np.rint((last + 1) * 2).clip(0, 4))
    with pytest.raises(ValueError, match=r"level must be in \[0, 0"):
        model.translate(source, ng.Generator(0), level=0.1)


def test_samples_are_enlarged_training_images() -> None:
    """Of the halves of the last images that were trained on."""
    model, images = small(), some_images(4)
    model.loss(images, ng.Generator(0))
    kept = model.kept.data[:4]
    assert np.array_equal(kept, means(images, 5, 2))
    seen = inputs_of(model)
    assert model.sample(6, ng.Generator(3), steps=1).shape == (6, 1, 4, 6)
    shown = np.rint((seen[0][0][:, 1, ::2, ::2] + 1) * 8)
    assert all(any(np.array_equal(x, k[0]) for k in kept) for x in shown)


@pytest.mark.parametrize(("settings", "words"), [
    ({"shape": (1, 5, 6)}, "image_shape must have even sides"), ({"augmentation": 1.5}, "augmentation must be in"),
    ({"augmentation": -0.1}, "augmentation must be in"), ({"classes": 2}, "classes must be 0"),
    ({"schedule": "square"}, "schedule must be one of"), ({"variance": "none"}, "variance must be one of"),
    ({"T": 1}, "T must"), ({"channels": 0}, "channels"), ({"channels": 3}, "channels must be even"),
    ({"heads": 3}, "channels must be even, and divide into 3"), ({"multipliers": ()}, "multipliers"),
])  # fmt: skip
def test_bad_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**settings)


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny runs of a cascade, on random images of 4×4 pixels."""
    folder = tmp_path_factory.mktemp("cascade")
    images = np.random.default_rng(0).integers(0, 4, (30, 4, 4)).astype(np.uint8)
    np.savez(folder / "images.npz", images=images, levels=4)
    for name, model, more in (
        ("small", "ddpm", ["--size", "2"]), ("large", "super-resolution", []),
        ("augmented", "super-resolution", []),
    ):  # fmt: skip
        own = TINY[model] | ({"augmentation": 0.7 * (name == "augmented")} if model != "ddpm" else {})
        texts = [f"{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in own.items()]
        given = ["--data", str(folder / "images.npz"), "--steps", "2", "--batch", "8", "--quiet", *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "draw_pictures", lambda run, train, test: [])
            assert main(["train", model, "--out", str(folder / name), *given, "--set", *texts]) == 0
    return folder


def test_cascade_command(folder: Path, tmp_path: Path) -> None:
    """`sample SMALL --then LARGE`: the images of SMALL, enlarged by LARGE; with --level, through that much noise."""
    then, large, augmented = (Run(folder / name).model() for name in ("small", "large", "augmented"))
    drawn, out = then.sample(5, ng.Generator(3).stream(SAMPLES)), tmp_path / "x.npz"
    for name, model, level in (("large", large, 0.0), ("augmented", augmented, 0.0), ("augmented", augmented, 0.6)):
        command = ["sample", str(folder / "small"), "-n", "5", "--seed", "3", "--then", str(folder / name)]
        assert main([*command, "--out", str(out), *(["--level", str(level)] if level else [])]) == 0
        expected = model.translate(drawn, ng.Generator(3).stream(LARGE).stream(SAMPLES, 0), level=level)
        with np.load(out) as found:
            assert np.array_equal(found["images"], expected)


def test_translate_command(folder: Path, tmp_path: Path) -> None:
    """The halves of images, of which a grid shows each above what is made of it, or small images as they are."""
    translate = ["translate", str(folder / "large"), "--out", f"{tmp_path}/x.npz"]
    with np.load(folder / "images.npz") as file:
        source = means(file["images"][:, None], 4, 2)
    np.savez(tmp_path / "small.npz", images=source, levels=13)
    expected = Run(folder / "large").model().translate(source, ng.Generator(0).stream(SAMPLES, 0))
    for more in ([str(folder / "images.npz"), "--make-sources"], [f"{tmp_path}/small.npz"]):
        assert main([*translate, "--images", *more]) == 0
        with np.load(tmp_path / "x.npz") as found:
            assert np.array_equal(found["images"], expected)
    assert main([*translate[:3], f"{tmp_path}/x.png", "--images", f"{tmp_path}/small.npz"]) == 0


def test_what_a_cascade_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything is written."""
    sample = ["sample", str(folder / "small"), "--out", f"{tmp_path}/x.npz"]
    images = ["--images", str(folder / "images.npz")]
    for command, words in (
        ([*sample, "--then", str(folder / "small")], "is a run of ddpm; only"),
        (
            ["sample", str(folder / "large"), *sample[2:], "--then", str(folder / "large")],
            "shape (1, 2, 2) and 13 levels",
        ),
        ([*sample, "--then", str(folder / "none")], "holds no run"),
        ([*sample, "--then", str(folder / "large"), "--level", "0.1"], "level must be in [0, 0"),
        ([*sample, "--level", "0.1"], "--level is for --then"),
        (
            ["translate", str(folder / "large"), "--out", f"{tmp_path}/x.npz", *images],
            "must be images of shape (1, 2, 2)",
        ),
    ):
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_respaced_model_asks_for_the_times_it_was_trained_with() -> None:
    """On a schedule of fewer steps the network still hears the times of the whole one.  Nichol & Dhariwal 2021,
    section 4."""
    model, seen = SuperResolution((1, 4, 4), 5, T=6, channels=4, multipliers=(1,), heads=1).respaced(3), []
    model.unet.forward = lambda x, t, *_: seen.append(t.tolist()) or x[:, :1]  # type: ignore[method-assign,func-returns-value]
    model.translate(np.zeros((2, 1, 2, 2), np.uint8), ng.Generator(0))
    assert seen == [[6, 6], [4, 4], [1, 1]]
