"""What a run shows, cell by cell: every image of every picture is the one that it is said to be, in its place."""

from __future__ import annotations

import dataclasses
import html
import io
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest
from PIL import Image
from tiny_runs import STEPS, begun, settings_of, some_images, trained

import nanogen as ng
from nanogen.backend import to_numpy
from nanogen.data import Images
from nanogen.models import DDPM, GAN, VAE, PixelCNN
from nanogen.training import pictures
from nanogen.training.page import explained
from nanogen.training.pictures import as_png, draw_pictures, draw_progress, grid, special_pictures
from nanogen.training.run import PICTURES, Run

SHAPE, LEVELS = (1, 4, 6), 5  # neither square nor even in its levels
GREY = 96


def cells(picture: Any, columns: int, shape: tuple[int, int, int] = SHAPE, levels: int = LEVELS) -> np.ndarray:
    """The levels that a picture shows, (rows, columns, C, H, W); all between the images is grey, and each pixel of an
    image a square: the longer side is 56 at least, and the lines as wide as a pixel's square, but 3 at least."""
    shown = np.asarray(picture).astype(int)
    colors, height, width = shape
    shown = shown.reshape(*shown.shape[:2], -1)
    square = next(n for n in range(1, 57) if n * max(height, width) >= 56)
    line = max(3, square)
    rows, rest = divmod(shown.shape[0] + line, height * square + line)
    assert rest == 0
    assert shown.shape[1:] == (columns * (width * square + line) - line, colors)
    found = np.empty((rows, columns, *shape), int)
    left = np.ones(shown.shape[:2], bool)
    for i, j in np.ndindex(rows, columns):
        y, x = i * (height * square + line), j * (width * square + line)
        place = slice(y, y + height * square), slice(x, x + width * square)
        left[place] = False
        small = shown[place][::square, ::square]
        assert np.array_equal(shown[place], small.repeat(square, axis=0).repeat(square, axis=1))
        found[i, j] = np.rint(small * (levels - 1) / 255).transpose(2, 0, 1)
        assert np.array_equal(np.rint(found[i, j].transpose(1, 2, 0) * (255 / (levels - 1))), small)
    assert (shown[left] == GREY).all()
    return found


def images(n: int, shape: tuple[int, int, int] = SHAPE, levels: int = LEVELS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, levels, (n, *shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def split() -> tuple[Images, Images]:
    """Training and test images, no two alike."""
    both = images(60)
    return Images(both[:30], None, LEVELS, "some"), Images(both[30:], None, LEVELS, "some")


def seeded(model: Any, strength: float = 3.0) -> Any:
    """With weights that make pictures of many levels."""
    for parameter in model.parameters():
        parameter.data = parameter.data * np.float32(strength)
    return model.eval()


# The grid


@pytest.mark.parametrize("shape", [
    (1, 4, 6), (3, 4, 6), (1, 8, 8), (1, 28, 28), (3, 7, 5), (1, 55, 3), (1, 56, 9), (3, 57, 60), (1, 1, 1), (1, 2, 19),
])  # fmt: skip
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_a_grid_shows_each_image(shape: tuple[int, int, int], levels: int) -> None:
    """Row by row, levels spread over 0 … 255, in grey or in colours."""
    given = images(6, shape, levels)
    picture = grid(given, levels, columns=3)
    assert picture.mode == ("L" if shape[0] == 1 else "RGB")
    assert np.array_equal(cells(picture, 3, shape, levels).reshape(-1, *shape), given)
    assert np.asarray(grid(np.full((1, 1, 2, 2), levels - 1, np.uint8), levels, 1)).min() == 255


def test_places_without_an_image_are_grey() -> None:
    """The last row may be short; one image is a picture without lines."""
    shown = np.asarray(grid(images(5), LEVELS, columns=3))
    assert np.array_equal(shown[:40], np.asarray(grid(images(5)[:3], LEVELS, columns=3)))
    assert (shown[40:, -60:] == GREY).all()
    assert np.array_equal(shown[50:, :130], np.asarray(grid(images(5)[3:], LEVELS, columns=2)))
    assert np.asarray(grid(images(1), LEVELS, columns=1)).shape == (40, 60)


# What a family's pictures show


def test_denoising_is_a_film_from_noise_to_image() -> None:
    """A row a sample: the frames at T (1 − i/11)³, from x_T at the left to x_0 at the right, of ancestral sampling."""
    model = seeded(DDPM(SHAPE, LEVELS, T=60, channels=4, multipliers=(1,), heads=1))
    found = special_pictures(model, *[Images(images(4), None, LEVELS, "some")] * 2, ng.Generator(3))
    assert list(found) == ["denoising", "interpolation"]
    times = [60, 45, 33, 23, 15, 10, 6, 3, 1, 0]  # the last three fall together
    film = {t: x.data for t, x in model.ancestral(8, ng.Generator(3))}
    assert sorted({round(60 * (1 - i / 11) ** 3) for i in range(12)}, reverse=True) == times
    levels = np.stack([np.rint((film[t].clip(-1, 1) + 1) / 2 * (LEVELS - 1)) for t in times], axis=1)
    shown = cells(found["denoising"], len(times))
    assert np.array_equal(shown, levels)
    assert not np.array_equal(shown[:, 0], shown[:, -1])


@pytest.mark.parametrize("latent", [2, 3])
def test_pictures_of_a_vae(latent: int, split: tuple[Images, Images]) -> None:
    """Reconstructions: 32 test images, 16 a row, each above the picture of its own code.  Interpolation: the first
    eight to the next eight in ten steps, both ends included.  Prior means: the pictures of 64 draws from p(z).  The
    manifold, of two dimensions alone: z_1 rises to the right and z_2 upwards, at the quantiles (i + ½)/16."""
    train, test = split
    model = seeded(VAE(SHAPE, LEVELS, latent=latent, channels=4, stages=1))
    found = special_pictures(model, train, test, ng.Generator(4))
    names = ["reconstructions", "interpolation", "traversals", "prior_means", *["manifold"] * (latent == 2)]
    assert list(found) == names
    chosen = np.concatenate([test.images, test.images[:2]])  # 30 of them: the first ones again
    shown, codes = cells(found["reconstructions"], 16), model.encode(chosen).mean.data
    rebuilt = model.picture(codes)
    assert (rebuilt != chosen).any()
    assert np.array_equal(shown, np.stack([chosen[:16], rebuilt[:16], chosen[16:], rebuilt[16:]]))

    lines = cells(found["interpolation"], 10)
    for j in range(10):
        w = np.float32(j / 9)
        between = codes[:8] + w * (codes[8:16] - codes[:8])
        assert abs(lines[:, j].astype(int) - model.picture(between)).max() <= 1, "but for a rounding"
    assert np.array_equal(lines[:, 0], rebuilt[:8])
    assert np.array_equal(lines[:, 9], rebuilt[8:16])

    rows = cells(found["traversals"], 9)
    most_first = sorted(range(latent), key=lambda d: -codes[:, d].std())
    for row, d in zip(rows, most_first, strict=True):
        z = codes[:1].repeat(9, axis=0)
        z[:, d] = np.arange(-4, 5) / 2
        assert np.array_equal(row, model.picture(z))

    z = ng.Generator(4).normal((64, latent))
    assert np.array_equal(cells(found["prior_means"], 8).reshape(-1, *SHAPE), model.picture(z))
    if latent == 2:
        at = [NormalDist().inv_cdf((i + 0.5) / 16) for i in range(16)]
        z = np.array([(at[column], at[15 - row]) for row in range(16) for column in range(16)], np.float32)
        assert np.array_equal(cells(found["manifold"], 16).reshape(-1, *SHAPE), model.picture(z))


def test_pictures_of_a_gan(split: tuple[Images, Images]) -> None:
    """Interpolation: eight arcs z = cos θ a + sin θ b in ten steps, θ from 0 to π/2 with both ends.  Nearest: 32
    samples, 16 a row, each above the training image at the smallest distance, and no test image."""
    train, test = split
    model = seeded(GAN(SHAPE, LEVELS, latent=3, channels=4), 20.0)
    found = special_pictures(model, train, test, ng.Generator(5))
    assert list(found) == ["interpolation", "nearest"]
    rng = ng.Generator(5)
    a, b = rng.normal((2, 8, 1, 3))
    theta = (np.arange(10) / 9 * np.pi / 2).astype(np.float32)[:, None]
    z = np.cos(theta) * a + np.sin(theta) * b
    arcs = cells(found["interpolation"], 10)
    assert abs(arcs.reshape(-1, *SHAPE) - model.picture(z.reshape(-1, 3)).astype(int)).max() <= 1
    assert np.array_equal(arcs[:, 0], model.picture(a[:, 0]))
    assert np.array_equal(arcs[:, 9], model.picture(b[:, 0]))

    drawn = model.sample(32, rng)
    distance = ((drawn[:, None].astype(int) - train.images) ** 2).sum((2, 3, 4))
    closest = train.images[distance.argmin(1)]
    assert len(set(distance.argmin(1))) > 3
    shown = cells(found["nearest"], 16)
    assert np.array_equal(shown, np.stack([drawn[:16], closest[:16], drawn[16:], closest[16:]]))


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 5, 3)])
def test_completions_keep_the_upper_half(shape: tuple[int, int, int]) -> None:
    """A row a test image: the image, its upper half over nothing, and six ways of completing that half."""
    train, test = (Images(images(n, shape, seed=n), None, LEVELS, "some") for n in (9, 5))
    model = seeded(PixelCNN(shape, LEVELS, channels=6, blocks=1, kernel_size=3))
    found = special_pictures(model, train, test, ng.Generator(6))
    assert list(found) == ["completions"]
    shown, half = cells(found["completions"], 8, shape), shape[1] // 2
    originals = np.concatenate([test.images, test.images[:3]])
    assert np.array_equal(shown[:, 0], originals)
    assert np.array_equal(shown[:, 1:, :, :half], originals[:, None, :, :half].repeat(7, axis=1))
    assert (shown[:, 1, :, half:] == 0).all()
    begun = np.where(np.arange(shape[1])[:, None] < half, originals, 0).astype(np.uint8)
    expected = model.complete(begun.repeat(6, axis=0), half, ng.Generator(6)).reshape(8, 6, *shape)
    assert np.array_equal(shown[:, 2:], expected)
    assert len({image.tobytes() for image in expected[0]}) > 1


# Samples


class Patient(DDPM):
    """Says how it was asked to sample."""

    def sample(self, n: int, rng: Any, steps: int | None = None, eta: float = 0.0) -> Any:
        return n, steps, eta


@pytest.mark.parametrize(("T", "patience", "steps"), [
    (50, 50, None), (51, 50, 50), (250, 250, None), (251, 250, 100), (1000, 250, 100), (300, 99, 99),
])  # fmt: skip
def test_samples_take_no_more_steps_than_there_is_patience_for(
    T: int, patience: int, steps: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ancestral sampling up to so many steps; beyond, DDIM in at most 100, without noise.  250 unless given."""
    monkeypatch.setattr(pictures, "to_numpy", lambda x: x)
    model = Patient(SHAPE, LEVELS, T=T, channels=4, multipliers=(1,), heads=1)
    assert pictures.samples(model, 7, ng.Generator(0), patience) == (7, steps, 0.0)
    assert pictures.samples(model, 7, ng.Generator(0)) == (7, None if T <= 250 else 100, 0.0)


def test_samples_are_the_models(split: tuple[Images, Images]) -> None:
    """By its own way of sampling, with the generator that is given."""
    for model in (VAE(SHAPE, LEVELS, latent=2, channels=2), DDPM(SHAPE, LEVELS, T=4, channels=4, heads=1)):
        found = pictures.samples(model, 3, ng.Generator(2))
        assert np.array_equal(found, to_numpy(model.sample(3, ng.Generator(2))))


# The pictures of a run


def test_progress_is_drawn_from_one_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 samples, eight a row, of the run's own stream for pictures: of the model as it stands, with the same noise at
    each step, for the newest picture and for the step's own; with more than 50 steps by DDIM."""
    trainer, run = begun(settings_of("vae", seed=6), tmp_path)
    model = trainer.model.eval()
    for step in (3, 7):
        next(model.parameters()).data *= 2
        draw_progress(run, model, step)
        expected = to_numpy(model.sample(64, ng.Generator(6).stream(PICTURES)))
        assert len({image.tobytes() for image in expected}) > 1
        for path in (tmp_path / "samples.png", run.samples_file(step)):
            assert np.array_equal(cells(Image.open(path), 8, (1, 4, 4), 4).reshape(-1, 1, 4, 4), expected)
    assert {path.name for path in tmp_path.iterdir()} >= {"loss.png", "index.html"}
    assert f"Step 7 of {STEPS}" in (tmp_path / "index.html").read_text()
    asked: list[Any] = []
    monkeypatch.setattr(pictures, "samples", lambda *how, **more: (asked.append((how[1], more)), expected)[1])
    draw_progress(run, model, 8)
    assert asked == [(64, {"patience": 50})]


@pytest.mark.parametrize("model", ["pixelcnn", "vae", "gan", "ddpm"])
def test_the_pictures_of_a_finished_run(model: str, tmp_path: Path) -> None:
    """All are drawn with the averaged weights, in evaluation, from the run's stream for pictures: samples first, then
    what shows the family's idea, of training and test images as each needs them; the samples stand for the last step
    too.  What is written is what is returned."""
    _, run = trained(model, tmp_path, seed=6, samples_every=0, lr=0.1, ema=0.5)
    train = Images(some_images().images, np.arange(30) % 3, 4, "digits")
    test = Images(images(33, (1, 4, 4), 4), None, 4, "digits")
    before = set(tmp_path.iterdir())
    paths = draw_pictures(run, train, test)
    averaged, rng = run.model(), ng.Generator(6).stream(PICTURES)
    expected = {"samples": grid(averaged.sample(64, rng), 4, 8), **special_pictures(averaged, train, test, rng)}
    assert [path.name for path in paths] == [*(f"{name}.png" for name in expected), "loss.png", "index.html"]
    for name, picture in expected.items():
        shown = np.asarray(Image.open(tmp_path / f"{name}.png"))
        assert np.array_equal(shown, np.asarray(picture)), name
        assert len(np.unique(shown)) > 2, "more than one level, and the lines"
    told = {name: text for name, text in explained(model).items() if name not in ("guidance", "prompts")}  # of labels
    assert told.keys() == special_pictures(averaged, train, test, rng).keys()
    page = html.unescape((tmp_path / "index.html").read_text())
    assert all(f"{name.replace('_', ' ')}: {text}<" in page for name, text in told.items())
    assert run.samples_file(STEPS).read_bytes() == (tmp_path / "samples.png").read_bytes()
    assert set(tmp_path.iterdir()) - before == set(paths)
    assert f"Step {STEPS} of {STEPS}" in (tmp_path / "index.html").read_text()


def plotted(run: Run, model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The axes of a run's loss.png."""
    figures: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    with monkeypatch.context() as patch:
        patch.setattr(
            matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
        )
        pictures.plot_losses(run, model)
    [figure] = figures
    [axes] = figure.axes
    return axes


def test_the_curves_are_those_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """loss.png: each column of metrics.csv over the steps, under its name; a picture of 840×480 pixels."""
    trainer, run = trained("gan", tmp_path, log_every=5)
    axes = plotted(run, trainer.model, monkeypatch)
    header, *rows = [line.split(",") for line in run.metrics_file.read_text().splitlines()]
    assert [line.get_label() for line in axes.lines] == header[1:] == ["discriminator", "generator"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == header[1:]
    for i, line in enumerate(axes.lines, start=1):
        assert line.get_xdata().tolist() == [5, 10, 12]
        assert line.get_ydata().tolist() == [float(row[i]) for row in rows]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("step", "loss, nats", "gan on digits")
    assert Image.open(io.BytesIO((tmp_path / "loss.png").read_bytes())).size == (840, 480)


def test_a_curve_of_one_point_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line needs two points: a single one is a dot in the colour of its name, at a whole number of steps."""
    trainer, run = trained("gan", tmp_path, log_every=STEPS)
    axes = plotted(run, trainer.model, monkeypatch)
    assert all(tick == int(tick) for tick in axes.get_xticks())
    shown = np.array(Image.open(tmp_path / "loss.png").convert("RGB"))
    scale = shown.shape[1] / axes.figure.bbox.width
    left, bottom, right, top = np.rint(axes.get_legend().get_window_extent().extents * scale).astype(int)
    shown[len(shown) - top : len(shown) - bottom, left:right] = 255
    for line in axes.lines:
        color = np.rint(np.multiply(matplotlib.colors.to_rgb(line.get_color()), 255))
        assert (shown == color).all(axis=2).sum() > 50, line.get_label()


@pytest.mark.parametrize(("name", "title"), [
    ("a$\\frac{b$c", "vae on a$\\frac{b$c"), ("x_1^2 été", "vae on x_1^2 été"), ("猫🐈", "vae"), ("caf\udce9", "vae"),
])  # fmt: skip
def test_the_title_is_the_datas_name(
    name: str, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As it is, and no formula; without a name that the font can't write."""
    trainer, run = trained("vae", tmp_path)
    run.write_settings(dataclasses.replace(run.settings(), data=f"/there/{name}.npz"))
    assert plotted(run, trainer.model, monkeypatch).get_title() == title
    assert not [warning.message for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_names_of_results() -> None:
    """Those of the pictures, ending in .png; no two are one name, not even where capitals do not count."""
    for files, names in (
        (["cat.png", "dog.JPG", "a.b/cat.jpg"], ["cat.png", "dog.png", "a.b/cat.png"]),
        (["cat.jpg", "cat.png", "x.gif"], ["cat.jpg.png", "cat.png", "x.png"]),
        (["cat.gif", "Cat.jpg"], ["cat.gif.png", "Cat.jpg.png"]),
        (["cat.jpg", "cat.jpg.png", "cat.png"], ["0000-cat.png", "0001-cat.jpg.png", "0002-cat.png"]),
        (["a/x.PNG", "a/x.png"], ["a/0000-x.png", "a/0001-x.png"]),
        ([], []),
    ):
        assert as_png(files) == names
