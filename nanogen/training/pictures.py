"""The pictures of a run: grids of images as PNG, a plot of the losses, and each model's own illustrations."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from nanogen.backend import to_numpy
from nanogen.data import Images
from nanogen.models import GenerativeModel
from nanogen.random import Generator
from nanogen.training.files import write_atomically
from nanogen.training.page import write_page
from nanogen.training.run import PICTURES, Run

GREY = 96  # of the lines between images
IMAGE_SIDE = 56  # pixels of an image in a picture, at least, so that small images are visible


def grid(images: np.ndarray, levels: int, columns: int) -> Image.Image:
    """A picture of images (N, C, H, W) of integer levels in rows, enlarged without interpolation."""
    images = to_numpy(images)
    n, c, height, width = images.shape
    rows, factor = math.ceil(n / columns), max(1, math.ceil(IMAGE_SIDE / max(height, width)))
    gap = max(3, factor)
    grey = (images.astype(np.float64) * (255 / (levels - 1))).round().astype(np.uint8).transpose(0, 2, 3, 1)
    canvas = np.full((rows * (height * factor + gap) - gap, columns * (width * factor + gap) - gap, c), GREY, np.uint8)
    for i, image in enumerate(grey.repeat(factor, axis=1).repeat(factor, axis=2)):
        y, x = (i // columns) * (height * factor + gap), (i % columns) * (width * factor + gap)
        canvas[y : y + height * factor, x : x + width * factor] = image
    return Image.fromarray(canvas[..., 0] if c == 1 else canvas[..., :3])


def plot_losses(run: Run, model: GenerativeModel) -> None:
    """Write `loss.png`: the curves of metrics.csv."""
    import matplotlib  # slow to import; its backend is chosen before pyplot is imported

    matplotlib.use("Agg")
    from matplotlib import font_manager, pyplot

    with run.metrics_file.open(encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    figure, axes = pyplot.subplots(figsize=(5.25, 3), layout="constrained")
    columns = [[float(row[i]) for row in rows] for i in range(len(names))]
    for name, values in zip(names[1:], columns[1:], strict=True):
        axes.plot(columns[0], values, label=name, linewidth=1, marker="o" if len(rows) == 1 else None)
    settings = run.settings()
    axes.set(xlabel="step", ylabel=", ".join(filter(None, ["loss", model.loss_unit])))
    font = font_manager.get_font(font_manager.findfont(axes.title.get_fontproperties()))
    title = f"{settings.model} on {Path(settings.data).stem}"  # a file name: may be invalid text, or contain $
    axes.set_title(title if all(map(font.get_char_index, map(ord, title))) else settings.model, parse_math=False)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend()
    contents = io.BytesIO()
    figure.savefig(contents, dpi=160)
    pyplot.close(figure)
    write_atomically(run.folder / "loss.png", contents.getvalue())


def save_picture(picture: Image.Image, path: Path) -> None:
    contents = io.BytesIO()
    picture.save(contents, "png")
    write_atomically(path, contents.getvalue())


def draw_progress(run: Run, model: GenerativeModel, step: int) -> None:
    """The pictures of an unfinished run: samples from the same noise each time, the losses, and the page."""
    rng = Generator(run.settings().seed, model.anchor.device).stream(PICTURES)
    picture = grid(samples(model, 64, rng, patience=50), model.levels, 8)
    for path in (run.folder / "samples.png", run.samples_file(step)):
        save_picture(picture, path)
    plot_losses(run, model)
    write_page(run, step)


def draw_pictures(run: Run, train: Images, test: Images) -> list[Path]:
    """Write all pictures of a finished run to its folder.  Returns their paths."""
    model, settings = run.model(), run.settings()
    rng = Generator(settings.seed, settings.device).stream(PICTURES)
    pictures = {"samples": grid(samples(model, 64, rng), model.levels, 8), **special_pictures(model, train, test, rng)}
    paths = [run.folder / f"{name}.png" for name in pictures]
    for path, picture in zip(paths, pictures.values(), strict=True):
        save_picture(picture, path)
    save_picture(pictures["samples"], run.samples_file(settings.steps))
    plot_losses(run, model)
    return [*paths, run.folder / "loss.png", write_page(run, settings.steps)]


def samples(model: GenerativeModel, n: int, rng: Generator, patience: int = 250) -> np.ndarray:
    """n samples, by a faster method of the model if there would be more than `patience` network evaluations."""
    return to_numpy(model.sample(n, rng, **model.sampling_within(patience)))


def special_pictures(model: GenerativeModel, train: Images, test: Images, rng: Generator) -> dict[str, Image.Image]:
    """The illustrations of a model's idea, by name."""
    found = model.illustrations(train, test, rng).items()
    return {name: grid(np.concatenate(rows), model.levels, rows.shape[1]) for name, rows in found}
