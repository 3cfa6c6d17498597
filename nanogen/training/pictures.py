"""The pictures of a run: grids of images as PNG, a plot of the losses, and each model's own illustrations."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nanogen.backend import to_numpy
from nanogen.data import Images
from nanogen.models import GenerativeModel
from nanogen.random import Generator
from nanogen.training.files import write_atomically
from nanogen.training.page import write_page
from nanogen.training.run import PICTURES, Run, columns

GREY = 96  # of the lines between images
IMAGE_SIDE = 56  # pixels of an image in a picture, at least, so that small images are visible


def grid(images: np.ndarray, levels: int, columns: int, side: int = IMAGE_SIDE) -> Image.Image:
    """A picture of images (N, C, H, W) of integer levels in rows, enlarged to `side` without interpolation."""
    images = to_numpy(images)
    n, c, height, width = images.shape
    rows, factor = math.ceil(n / columns), max(1, math.ceil(side / max(height, width)))
    gap = max(3, factor)
    grey = (images.astype(np.float64) * (255 / (levels - 1))).round().astype(np.uint8).transpose(0, 2, 3, 1)
    canvas = np.full((rows * (height * factor + gap) - gap, columns * (width * factor + gap) - gap, c), GREY, np.uint8)
    for i, image in enumerate(grey.repeat(factor, axis=1).repeat(factor, axis=2)):
        y, x = (i // columns) * (height * factor + gap), (i % columns) * (width * factor + gap)
        canvas[y : y + height * factor, x : x + width * factor] = image
    return Image.fromarray(canvas[..., 0] if c == 1 else canvas[..., :3])


def plot_losses(run: Run, model: GenerativeModel) -> None:
    """Write `loss.png`: the curves of metrics.csv and test.csv.  Nats per dimension are shown as bits."""
    from matplotlib import figure, font_manager  # slow to import

    bits = model.loss_unit == "nats per dimension"
    scale, unit = (1 / math.log(2), "bits per dimension") if bits else (1.0, model.loss_unit)
    plot = figure.Figure(figsize=(5.25, 3), layout="constrained")
    axes = plot.subplots()
    for file, prefix, style in ((run.metrics_file, "", "-"), (run.test_file, "test ", "--")):
        axes.set_prop_cycle(None)  # a test curve has the colour of its training curve
        steps, *losses = columns(file).items() or [("step", [])]
        for name, values in losses:
            dotted = style + "o" * (len(values) == 1)
            axes.plot(steps[1], scale * np.array(values), dotted, label=f"{prefix}{name}", linewidth=1)
    if best := run.best_test():
        axes.plot(best.step, scale * best.loss, "ko", label=f"best: {scale * best.loss:.4g} at step {best.step}")
    settings = run.settings()
    axes.set(xlabel="step", ylabel=", ".join(filter(None, ["loss", unit])))
    axes.yaxis.label.set_wrap(True)
    font = font_manager.get_font(font_manager.findfont(axes.title.get_fontproperties()))
    title = f"{settings.model} on {Path(settings.data).stem}"  # a file name: may be invalid text, or contain $
    axes.set_title(title if all(map(font.get_char_index, map(ord, title))) else settings.model, parse_math=False)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend()
    contents = io.BytesIO()
    plot.savefig(contents, dpi=160)
    write_atomically(run.folder / "loss.png", contents.getvalue())


def save_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)  # somebody may have removed it
    contents = io.BytesIO()
    picture.save(contents, "png")
    write_atomically(path, contents.getvalue())


def draw_progress(run: Run, model: GenerativeModel, step: int) -> None:
    """The pictures of an unfinished run: samples from the same noise each time, the losses, and the page."""
    rng = Generator(run.settings().seed, model.device).stream(PICTURES)
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
    save_picture(pictures["samples"], run.samples_file(run.newest_step()))
    plot_losses(run, model)
    return [*paths, run.folder / "loss.png", write_page(run)]


def samples(model: GenerativeModel, n: int, rng: Generator, patience: int = 250) -> np.ndarray:
    """n samples, by a faster method of the model if there would be more than `patience` network evaluations."""
    return to_numpy(model.sample(n, rng, **model.sampling_within(patience)))


def special_pictures(model: GenerativeModel, train: Images, test: Images, rng: Generator) -> dict[str, Image.Image]:
    """The illustrations of a model's idea, by name."""
    found = model.illustrations(train, test, rng).items()
    return {name: grid(np.concatenate(rows), model.levels, rows.shape[1]) for name, rows in found}


def as_png(files: Sequence[str]) -> list[str]:
    """A `.png` for each of several pictures, by the same name: `a/cat.jpg` to `a/cat.png`.

    If several have that name, other formats keep their ending, as `a/cat.jpg.png`.  If that is not enough, or the names
    differ in capitals only, all get their number too."""
    names = [Path(file).with_suffix(".png") for file in files]
    count = Counter(str(name).lower() for name in names)
    unlike = [
        name if count[str(name).lower()] == 1 or Path(file).suffix.lower() == ".png" else Path(f"{file}.png")
        for file, name in zip(files, names, strict=True)
    ]
    if len({str(name).lower() for name in unlike}) < len(files):
        unlike = [name.with_name(f"{i:04d}-{name.name}") for i, name in enumerate(names)]
    return list(map(str, unlike))


def checked_out(text: str, n: int, of: Sequence[str] = ()) -> list[Path]:
    """The files to write for --out: one `.png` or `.npz`, or n in a folder, named by numbers, or as the pictures `of`.

    Raises:
        ValueError: another ending; a folder with files that would not be overwritten, or with any files if the names
            are those of pictures, since they may be pictures of the user."""
    out = Path(text)
    if not out.parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists, and {out.parent} does not")
    if not (text.endswith("/") or out.is_dir()):
        if out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out must end in .png or .npz, or in / for a folder, got {out}")
        return [out]
    there = {*out.glob("[!.]*")}
    if of and there:
        raise ValueError(
            f"--out must be a new folder, as the results are named like the pictures: {min(there)} is there"
        )
    files = [out / name for name in (as_png(of) or [f"{i:04d}.png" for i in range(n)])]
    if others := sorted(there - {*files}):
        raise ValueError(f"--out must be a new folder, or have only files to overwrite: {others[0]} is another one")
    return files


def write_images(
    text: str, images: np.ndarray, shown: np.ndarray, levels: int, columns: int, of: Sequence[str] = ()
) -> Path:
    """Write images to --out: as they are, or a picture of the images `shown` in rows; see `checked_out`.  Returns the
    path."""
    out, files = Path(text), checked_out(text, len(images), of)
    if files != [out]:
        for file, image in zip(files, images, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            grid(image[None], levels, 1, side=1).save(file)
    elif out.suffix == ".png":
        across = max(shown.shape[3] // shown.shape[2], 1)  # a wide image gets as much height as others
        grid(shown, levels, columns, across * IMAGE_SIDE).save(out)
    else:
        np.savez_compressed(out, images=images)
    return out
