"""Editing by diffusion: what is kept, what is drawn anew, and from which law."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_ddpm import awake, predicts, small, some_images
from tiny_runs import TINY

import nanogen as ng
from nanogen import cli
from nanogen.cli import main
from nanogen.models import NoiseSchedule
from nanogen.models.diffusion.editing import Panorama, repaint_times, slerp
from nanogen.training.run import SAMPLES, Run


def of_gaussian(covariance: Any, mean: Any, T: int, variance: str = "beta") -> Any:
    """A DDPM of D pixels in a row whose x̂_0 is E[x_0 | x_t] for x_0 ~ N(mean, covariance), not clipped:
    m + √ᾱ C (ᾱ C + (1 − ᾱ) I)⁻¹ (x_t − √ᾱ m)."""
    c, m, schedule = np.array(covariance), np.array(mean), NoiseSchedule.linear(T)
    model: Any = small((1, 1, len(m)), schedule=schedule, variance=variance)

    def predict_x0(x_t: Any, t: Any) -> Any:
        bar = schedule.alpha_bars[int(t[0])]
        gain = math.sqrt(bar) * c @ np.linalg.inv(bar * c + (1 - bar) * np.eye(len(m)))
        flat = x_t.data.reshape(len(x_t), -1)
        return ng.tensor((m + (flat - math.sqrt(bar) * m) @ gain.T).reshape(x_t.shape))

    model.predict_x0 = predict_x0
    return model


# SDEdit


def test_strength_0_and_1() -> None:
    """0 returns the images; 1 is the plain sampler, bit for bit, also of a class or of classes that are drawn."""
    for classes, labels in ((0, None), (3, None), (3, [2, 0, 1, 1])):
        model = awake(small(schedule=NoiseSchedule([0.1] * 5), classes=classes))  # much of an image is left at T
        images = some_images(middle=False)
        assert np.array_equal(model.edit(images, 0.0, ng.Generator(1), labels), images)
        expected = model.sample(4, ng.Generator(1), labels)
        assert np.array_equal(model.edit(images, 1.0, ng.Generator(1), labels), expected)
        assert not np.array_equal(expected, images)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
def test_an_edit_begins_at_its_time(strength: float) -> None:
    """x at t_0 = strength · T is √ᾱ x_0 + √(1 − ᾱ) ε, then there are t_0 steps; the network that knows the image finds
    it again.  Meng et al. 2022, algorithm 1."""
    model, images, n = small(T=10, levels=3), np.full((3000, 1, 2, 3), 2, np.uint8), 3000
    x0, seen = model.scaled(images), []
    noise = lambda x, t: seen.append((int(t[0]), x.data)) or model.schedule.noise_from_x0(x, t, x0)
    assert np.array_equal(predicts(model, noise).edit(images, strength, ng.Generator(0)), images)
    t0 = round(strength * 10)
    assert [t for t, _ in seen] == list(range(t0, 0, -1))
    bar, start = model.schedule.alpha_bars[t0], seen[0][1]
    assert start.mean() == pytest.approx(math.sqrt(bar), abs=6 * math.sqrt((1 - bar) / (6 * n)))
    assert start.var() == pytest.approx(1 - bar, rel=6 * math.sqrt(2 / (6 * n)))


# Inpainting


def test_known_pixels_are_those_of_the_forward_process() -> None:
    """At every x_t on the way down they are draws from q(x_t | x_0), independent of the rest, and at the end x_0
    itself.  Where the mask is True nothing is left of the image.  Lugmayr et al. 2022, eq. 8."""
    model, n = predicts(small((1, 1, 2), T=6), lambda x, t: 0.3 * x), 4000
    x0, anew, before = ng.tensor(np.tile([0.75, -9.0], (n, 1)).reshape(n, 1, 1, 2)), np.array([False, True]), 6
    for t, x in model.inpainting(x0, anew, ng.Generator(0), resample=2):
        known, painted = x.data[:, 0, 0].T
        assert abs(painted).max() < 8
        if t < before:
            bar = model.schedule.alpha_bars[t]
            assert known.mean() == pytest.approx(math.sqrt(bar) * 0.75, abs=6 * math.sqrt((1 - bar) / n) + 1e-12)
            assert known.var() == pytest.approx(1 - bar, rel=6 * math.sqrt(2 / n), abs=1e-20)
        before = t
    assert t == 0
    assert (known == 0.75).all()


@pytest.mark.parametrize("mask", [
    np.eye(3, dtype=bool)[:2], np.ones((1, 1, 1), bool), np.zeros((4, 1, 2, 3), bool), [True, False, True],
])  # fmt: skip
def test_inpainting_leaves_known_pixels(mask: Any) -> None:
    """Those outside the mask are returned, to the level, whatever the network says; inside they are others."""
    model, images = awake(small(classes=2)), some_images(middle=False)
    found = model.inpaint(images, mask, ng.Generator(0), [0, 1, 1, 0], resample=2)
    anew = np.broadcast_to(mask, images.shape)
    assert found.dtype == np.uint8
    assert np.array_equal(found[~anew], images[~anew])
    assert not anew.any() or (found != images)[anew].mean() > 0.5
    again = model.inpaint(np.where(anew, np.uint8(3), images), mask, ng.Generator(0), [0, 1, 1, 0], resample=2)
    assert np.array_equal(found, again), "what is painted anew depends on what was there"


def test_inpainting_of_gaussian_data() -> None:
    """Two pixels of correlation 0.8, the first known, the exact denoiser: the second should have the conditional mean
    and variance, but replacing known pixels is no conditioning.  In 50 steps the mean is off by 0.65 standard
    deviations and the variance 1.6 times the right one; with every step taken ten times, by 0.13 and 1.13.  (Of these
    4,000 draws a mean has the standard error 0.02.)"""
    covariance, mean, known, n = np.array([[0.25, 0.2], [0.2, 0.25]]), np.array([0.1, -0.2]), 0.7, 4000
    right = mean[1] + covariance[1, 0] / covariance[0, 0] * (known - mean[0])
    variance = covariance[1, 1] - covariance[1, 0] ** 2 / covariance[0, 0]
    x0 = ng.tensor(np.tile([known, 5.0], (n, 1)).reshape(n, 1, 1, 2))
    for resample, off, ratio in ((1, -0.65, 1.62), (10, -0.13, 1.13)):
        model = of_gaussian(covariance, mean, 50)
        for _, x in model.inpainting(x0, np.array([False, True]), ng.Generator(0), resample):
            last = x.data[..., 1]
        assert (last.mean() - right) / math.sqrt(variance) == pytest.approx(off, abs=0.1)
        assert last.var() / variance == pytest.approx(ratio, abs=0.15)


def test_the_walk_of_algorithm_1() -> None:
    """For t = T … 1, U times: down to t − 1, and up again unless it was the last time or t = 1.  With a jump of j the
    walk goes up and down j steps at every j-th time.  Lugmayr et al. 2022, algorithm 1 and their figure 9."""
    for T, resample in itertools.product((2, 5), (1, 2, 4)):
        expected = [T]
        for t, u in itertools.product(range(T, 0, -1), range(1, resample + 1)):
            if t > 1 or u == 1:
                expected.append(t - 1)
            if u < resample and t > 1:
                expected.append(t)
        assert repaint_times(T, resample, 1) == expected
    assert repaint_times(5, 2, 2) == [5, 4, 3, 2, 3, 4, 3, 2, 1, 0]
    assert repaint_times(6, 2, 2) == [6, 5, 4, 5, 6, 5, 4, 3, 2, 3, 4, 3, 2, 1, 0]


def test_steps_up_are_the_forward_process() -> None:
    """From x_t to x_s with s > t: N(√(ᾱ_s/ᾱ_t) x_t, (1 − ᾱ_s/ᾱ_t) I).  Ho et al. 2020, eq. 2."""
    model, n = small((1, 1, 1), T=6), 20_000
    start = ng.tensor(np.full((n, 1, 1, 1), 1.5))
    _, (t, x) = model.ancestral(n, ng.Generator(0), times=[2, 4], start=start)
    ratio = model.schedule.alpha_bars[4] / model.schedule.alpha_bars[2]
    assert t == 4
    assert x.data.mean() == pytest.approx(math.sqrt(ratio) * 1.5, abs=6 * math.sqrt((1 - ratio) / n))
    assert x.data.var() == pytest.approx(1 - ratio, rel=6 * math.sqrt(2 / n))


# Panoramas


@pytest.mark.parametrize("how", [{}, {"steps": 3}, {"steps": 3, "eta": 1.0}])
def test_one_window_is_the_plain_sampler(how: dict[str, Any]) -> None:
    """Bit for bit; and of a wider image there is one x_T, not one a window."""
    model = awake(small((1, 2, 4), classes=3))
    for labels in (None, [2, 0, 1]):
        expected = model.sample(3, ng.Generator(0), labels, **how)
        assert np.array_equal(model.panorama(3, ng.Generator(0), 4, labels=labels, **how), expected)
    assert model.panorama(2, ng.Generator(0), 11, **how).shape == (2, 1, 2, 11)


@given(width=st.integers(3, 12), stride=st.integers(1, 3))
def test_predictions_of_windows_are_averaged(width: int, stride: int) -> None:
    """Of a network that answers (column in the window) + x_t, each column gets the mean of (column − start of the
    window) over its windows, + x_t.  Windows begin every `stride` columns, and the last ends at the edge."""
    model: Any = small((1, 2, 3))
    model.predict_x0 = lambda x, t, labels: (
        x + ng.tensor(np.arange(3.0) + 10.0 * t[:, None, None, None] + 100.0 * labels)
    )
    model.classes = 2
    x, labels = np.random.default_rng(0).standard_normal((2, 1, 2, width)), np.array([1, 0])[:, None, None, None]
    found = Panorama(model, width, stride).predict_x0(ng.tensor(x), np.array([5, 6]), labels=labels).data
    starts = sorted({*range(0, width - 2, stride), width - 3})
    of_column = [np.mean([c - start for start in starts if start <= c < start + 3]) for c in range(width)]
    expected = x + np.array(of_column) + np.array([50.0, 60.0])[:, None, None, None] + 100.0 * labels
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_wide_images_can_be_edited() -> None:
    """A panorama is a diffusion model of wide images: it edits and paints these, too."""
    model = awake(small((1, 2, 4))).widened(7, 2)
    images = some_images((1, 2, 7))
    assert np.array_equal(model.edit(images, 0.0, ng.Generator(0)), images)
    assert np.array_equal(model.edit(images, 1.0, ng.Generator(0)), model.sample(4, ng.Generator(0)))
    found = model.inpaint(images, np.arange(7) > 3, ng.Generator(0))
    assert np.array_equal(found[..., :4], images[..., :4])
    assert (found != images).any()


# Inversion


def test_inversion_of_a_gaussian_in_closed_form() -> None:
    """DDIM's limit maps x_0 of N(m, s²) to x_T = √ᾱ_T m + √(ᾱ_T + (1 − ᾱ_T)/s²) (x_0 − m).  The error of the inverted
    noise falls with the number of steps, like 1/steps, and of a sample of the same steps it is that sample's noise."""
    m, s, schedule = 0.2, 0.5, NoiseSchedule.linear(1000)
    model = of_gaussian([[s**2]], [m], 1000)
    x0 = ng.tensor(np.linspace(-1, 1, 9).reshape(9, 1, 1, 1))
    bar = schedule.alpha_bars[-1]
    exact = math.sqrt(bar) * m + math.sqrt(bar + (1 - bar) / s**2) * (x0.data - m)
    errors = [abs(model.to_noise(x0, steps).data - exact).max() for steps in (10, 40, 160, 640)]
    assert all(later < 0.4 * earlier for earlier, later in itertools.pairwise(errors[:3])), errors
    assert errors[-1] < 0.03
    noise = ng.tensor(np.random.default_rng(0).standard_normal((5, 1, 1, 1)))
    back = []
    for steps in (10, 40, 160):
        *_, (_, image) = model.ddim(5, ng.Generator(0), steps, start=noise)
        back.append(abs(model.to_noise(image, steps).data - noise.data).max())
    assert all(later < 0.4 * earlier for earlier, later in itertools.pairwise(back)), back
    assert back[-1] < 0.03


def test_inversion_of_what_the_network_knows() -> None:
    """With the true noise every step up is q's: x_T = √ᾱ_T x_0 + √(1 − ᾱ_T) ε of the ε that is predicted at t = 1; it
    is the model's, of the images' labels, and needs no random numbers."""
    model, images = small(), some_images()
    x0, epsilon = model.scaled(images), 0.01
    predicts(model, lambda x, t: 0.0 * x + epsilon)
    bar = model.schedule.alpha_bars[-1]
    for steps in (1, 3, 8):
        expected = math.sqrt(bar) * x0.data + math.sqrt(1 - bar) * epsilon
        np.testing.assert_allclose(model.invert(images, steps).data, expected, rtol=1e-9)


def test_slerp() -> None:
    """At the ends a and b; half-way between orthogonal ones (a + b)/√2, of the same length; between equal ones these.
    Each image has an angle of its own.  Song et al. 2021, appendix D.5."""
    a = np.array([[3.0, 0.0], [1.0, 2.0]]).reshape(2, 1, 1, 2)
    b = np.array([[0.0, 3.0], [1.0, 2.0]]).reshape(2, 1, 1, 2)
    at = lambda share: slerp(ng.tensor(a), ng.tensor(b), share).data
    np.testing.assert_allclose(at(0.0), a, atol=1e-12)
    np.testing.assert_allclose(at(1.0), b, atol=1e-12)
    np.testing.assert_allclose(at(0.5)[0].ravel(), np.array([3.0, 3.0]) / math.sqrt(2), rtol=1e-12)
    np.testing.assert_allclose(at(1 / 3)[0].ravel(), 3 * np.array([math.cos(math.pi / 6), 0.5]), rtol=1e-12)
    np.testing.assert_allclose(at(0.7)[1], a[1], rtol=1e-7)


def test_interpolations_begin_and_end_with_the_images() -> None:
    """n images each, from a to b; the more steps, the nearer the first and the last are to a and b."""
    model = of_gaussian(0.25 * np.eye(3), [0.1, 0.0, -0.1], 500)
    a, b = (np.random.default_rng(i).integers(4, 12, (2, 1, 1, 3)).astype(np.uint8) for i in (1, 2))
    line = model.interpolate(a, b, 5, 250)
    assert line.shape == (2, 5, 1, 1, 3)
    assert abs(line[:, 0].astype(int) - a).max() <= 1
    assert abs(line[:, -1].astype(int) - b).max() <= 1
    assert not np.array_equal(line[:, 2], a)
    network = awake(small((1, 1, 3), classes=2))
    alone = [network.interpolate(a[i : i + 1], b[i : i + 1], 3, 4, [i])[0] for i in range(2)]
    assert np.array_equal(network.interpolate(a, b, 3, 4, [0, 1]), alone), "each image has its label"


# What is refused


@pytest.mark.parametrize(("what", "error", "words"), [
    (lambda m, x, g: m.edit(x, 1.1, g), ValueError, "strength must be in"),
    (lambda m, x, g: m.edit(x, -0.1, g), ValueError, "strength must be in"),
    (lambda m, x, g: m.edit(x + 20, 0.5, g), ValueError, "levels"),
    (lambda m, x, g: m.edit(x, 0.5, g, [0, 0]), ValueError, "labels must not"),
    (lambda m, x, g: m.inpaint(x, np.ones((2, 3)), g), TypeError, "mask must be of bool"),
    (lambda m, x, g: m.inpaint(x, np.ones((3, 2), bool), g), ValueError, "mask must broadcast"),
    (lambda m, x, g: m.inpaint(x, np.ones((2, 4, 1, 2, 3), bool), g), ValueError, "mask must broadcast"),
    (lambda m, x, g: m.inpaint(x, np.ones(3, bool), g, resample=0), ValueError, "resample must be"),
    (lambda m, x, g: m.inpaint(x, np.ones(3, bool), g, jump=0), ValueError, "jump must be"),
    (lambda m, x, g: m.panorama(1, g, 2), ValueError, "width must be at least 3"),
    (lambda m, x, g: m.panorama(1, g, 6, 4), ValueError, "stride must be in 1 … 3"),
    (lambda m, x, g: m.panorama(1, g, 6, 0), ValueError, "stride must be in"),
    (lambda m, x, g: m.invert(x, 9), ValueError, "steps"),
    (lambda m, x, g: m.interpolate(x, x, 0), ValueError, "n must"),
])  # fmt: skip
def test_what_is_refused(what: Any, error: Any, words: str) -> None:
    """By name, before any work."""
    with pytest.raises(error, match=words):
        what(small(), some_images(), ng.Generator(0))


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny conditional run, its images, and masks."""
    folder = tmp_path_factory.mktemp("editing")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 4, (12, 4, 4)).astype(np.uint8), rng.integers(0, 2, 12)
    np.savez(folder / "images.npz", images=images, labels=labels, levels=4)
    np.savez(folder / "wide.npz", images=images.repeat(2, axis=2), levels=4)
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask * 0).save(folder / "black.png")
    Image.fromarray(mask[:, :3]).save(folder / "narrow.png")
    for model, more in (("ddpm", ["classes=2"]), ("vae", [])):
        own = [f"{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in TINY[model].items()]
        given = ["--data", str(folder / "images.npz"), "--steps", "2", "--batch", "8", "--quiet", "--set", *own, *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "draw_pictures", lambda run, train, test: [])
            assert main(["train", model, "--out", str(folder / model), *given]) == 0
    return folder


def test_edit_command(folder: Path, tmp_path: Path) -> None:
    """--strength is the model's `edit`, --mask its `inpaint` where the picture is white, --width its `panorama`, with
    the labels of the images unless one is given; a grid has each image above its edit."""
    model: Any = Run(folder / "ddpm").model()
    with np.load(folder / "images.npz") as file:
        images, labels = file["images"][:, None], file["labels"]
    rng, rows = ng.Generator(4).stream(SAMPLES, 0), (np.arange(4) // 1 % 3 > 0)[:, None]
    wide = images.repeat(2, axis=3)
    for options, expected in (
        (["--images", "images.npz", "--strength", "0.6"], model.edit(images, 0.6, rng.stream(), labels)),
        (
            ["--images", "images.npz", "--strength", "1", "--label", "1"],
            model.edit(images, 1.0, rng.stream(), [1] * 12),
        ),
        (["--images", "images.npz", "--mask", "mask.png"], model.inpaint(images, rows, rng.stream(), labels)),
        (
            ["--images", "images.npz", "--mask", "mask.png", "--resample", "2"],
            model.inpaint(images, rows, rng.stream(), labels, 2),
        ),
        (["--width", "9", "-n", "3", "--label", "0"], model.panorama(3, rng.stream(), 9, labels=[0] * 3)),
        (
            ["--width", "8", "--stride", "2", "--images", "wide.npz", "--strength", "0.5"],
            model.widened(8, 2).edit(wide, 0.5, rng.stream()),
        ),
    ):
        given = [str(folder / word) if (folder / word).exists() else word for word in options]
        command = ["edit", str(folder / "ddpm"), "--seed", "4", *given, "--out"]
        assert main([*command, str(tmp_path / "x.npz")]) == 0
        assert main([*command, str(tmp_path / "x.png")]) == 0
        with np.load(tmp_path / "x.npz") as found:
            assert np.array_equal(found["images"], expected), options


def test_edits_are_named_like_their_pictures(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "images.npz") as file:
        Image.fromarray(file["images"][3] * 85).save(tmp_path / "some name.bmp")
    own = [f"{name}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for name, v in TINY["ddpm"].items()]
    (tmp_path / "data").mkdir()
    for i in range(2):
        Image.fromarray(np.full((4, 4), 85 * i, np.uint8)).save(tmp_path / "data" / f"{i}.png")
    given = ["--steps", "2", "--batch", "1", "--quiet", "--set", *own, "levels=4"]
    assert main(["train", "ddpm", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *given]) == 0
    edit = ["edit", str(tmp_path / "run"), "--images", str(tmp_path / "some name.bmp"), "--strength", "0", "--out"]
    assert main([*edit, f"{tmp_path}/edits/"]) == 0
    (path,) = (tmp_path / "edits").iterdir()
    assert path.name == "some name.png"
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "some name.bmp")))


def test_what_edit_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything is written."""
    some = ["--images", str(folder / "images.npz")]
    for model, more, words in [
        ("vae", [*some, "--strength", "1"], "is a run of vae; only ddpm edit images"),
        ("ddpm", [], "--images must be given, or --width alone"),
        ("ddpm", ["--width", "9", "--strength", "1"], "--images must be given, or --width alone"),
        ("ddpm", some, "--images needs either --strength, or --mask"),
        ("ddpm", [*some, "--strength", "1", "--mask", str(folder / "mask.png")], "either --strength, or --mask"),
        ("ddpm", [*some, "--strength", "1", "-n", "3"], "-n is the number of new images"),
        ("ddpm", [*some, "--strength", "1", "--resample", "3"], "--resample is for --mask"),
        ("ddpm", [*some, "--strength", "1", "--stride", "3"], "--stride is of the windows"),
        ("ddpm", [*some, "--strength", "3"], "strength must be in [0, 1], got 3.0"),
        ("ddpm", [*some, "--strength", "1", "--width", "3"], "width must be at least 4"),
        ("ddpm", [*some, "--strength", "1", "--width", "9"], "must be images of shape (1, 4, 9)"),
        ("ddpm", [*some, "--mask", str(folder / "narrow.png")], "--mask must have 4×4 pixels, as the images, got 4×3"),
        ("ddpm", [*some, "--mask", str(folder / "black.png")], "--mask has no white"),
        ("ddpm", [*some, "--mask", str(folder / "none.png")], "none.png is not a file"),
        ("ddpm", [*some, "--mask", str(folder / "images.npz")], "can't be read as a picture"),
        ("ddpm", [*some, "--mask", str(folder / "mask.png"), "--resample", "0"], "resample must be a positive integer"),
        ("ddpm", [*some, "--strength", "1", "--label", "2"], "labels"),
        ("ddpm", ["--width", "9", "-n", "0"], "-n"),
    ]:
        assert main(["edit", str(folder / model), "--out", f"{tmp_path}/x.npz", *more]) == 2, more
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
