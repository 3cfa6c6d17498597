"""What a run shows: grids of images as PNG, the loss as a plot, and what makes each family's idea visible."""

from __future__ import annotations

import csv
import io
import math
import warnings
from pathlib import Path
from statistics import NormalDist

import numpy as np
from PIL import Image

from nanogen.backend import to_numpy
from nanogen.data import Images
from nanogen.distributions import unscale_levels
from nanogen.metrics import nearest
from nanogen.models import DDPM, GAN, VAE, GenerativeModel, PixelCNN
from nanogen.random import Generator
from nanogen.training.files import write_atomically
from nanogen.training.page import write_page
from nanogen.training.run import PICTURES, Run

GREY = 96  # of the lines between images
IMAGE_SIDE = 56  # pixels at least, in a picture, so that small images can be seen


def grid(images: np.ndarray, levels: int, columns: int) -> Image.Image:
    """Images (N, C, H, W) of integer levels, row by row, enlarged without smoothing."""
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


def plot_losses(run: Run) -> None:
    """`loss.png`: the curves in metrics.csv."""
    import matplotlib  # slow to import; its backend is chosen before pyplot is imported

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with run.metrics_file.open(encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    columns = [[float(row[i]) for row in rows] for i in range(len(names))]
    for name, values in zip(names[1:], columns[1:], strict=True):
        axes.plot(columns[0], values, label=name, linewidth=1)
    settings = run.settings()
    axes.set(xlabel="step", ylabel="loss")
    title = f"{settings.model} on {Path(settings.data).stem}"  # a file's name: neither always text, nor with formulas
    axes.set_title(title.encode(errors="replace").decode(), parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend()
    contents = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # a letter that the font hasn't
        figure.savefig(contents, dpi=120)
    pyplot.close(figure)
    write_atomically(run.folder / "loss.png", contents.getvalue())


def save_picture(picture: Image.Image, path: Path) -> None:
    contents = io.BytesIO()
    picture.save(contents, "png")
    write_atomically(path, contents.getvalue())


def draw_progress(run: Run, model: GenerativeModel, step: int) -> None:
    """What there is to see of a run that is under way: samples, of the same noise each time, curves, and a page."""
    rng = Generator(run.settings().seed, model.anchor.device).stream(PICTURES)
    picture = grid(samples(model, 64, rng, patience=50), model.levels, 8)
    for path in (run.folder / "samples.png", run.samples_file(step)):
        save_picture(picture, path)
    plot_losses(run)
    write_page(run, step)


def draw_pictures(run: Run, train: Images, test: Images) -> list[Path]:
    """Write all pictures of a finished run into its folder; their paths."""
    model, settings = run.model(), run.settings()
    rng = Generator(settings.seed, settings.device).stream(PICTURES)
    pictures = {"samples": grid(samples(model, 64, rng), model.levels, 8), **special_pictures(model, train, test, rng)}
    paths = [run.folder / f"{name}.png" for name in pictures]
    for path, picture in zip(paths, pictures.values(), strict=True):
        save_picture(picture, path)
    save_picture(pictures["samples"], run.samples_file(settings.steps))
    plot_losses(run)
    return [*paths, run.folder / "loss.png", write_page(run, settings.steps)]


def samples(model: GenerativeModel, n: int, rng: Generator, patience: int = 250) -> np.ndarray:
    """As the model samples, but for a diffusion of more steps than there is patience for: by DDIM, in 100 at most."""
    if isinstance(model, DDPM) and patience < model.T:
        return to_numpy(model.sample(n, rng, steps=min(patience, 100)))
    return to_numpy(model.sample(n, rng))


def first_images(images: Images, n: int) -> np.ndarray:
    """n images, the first ones again where there are fewer."""
    return images.images[np.arange(n) % len(images)]


def special_pictures(model: GenerativeModel, train: Images, test: Images, rng: Generator) -> dict[str, Image.Image]:
    """What shows the idea of a model, by name."""
    if isinstance(model, DDPM):
        return {"denoising": denoising(model, rng)}
    if isinstance(model, VAE):
        return vae_pictures(model, test, rng)
    if isinstance(model, GAN):
        return gan_pictures(model, train, rng)
    if isinstance(model, PixelCNN):
        return {"completions": completions(model, test, rng)}
    return {}


def denoising(model: DDPM, rng: Generator, n: int = 8, frames: int = 12) -> Image.Image:
    """A film strip a row: x_t from noise (left) to image (right)."""
    shown = [round(model.T * (1 - i / (frames - 1)) ** 3) for i in range(frames)]  # most happens at small t
    film = {t: unscale_levels(x.data, model.levels) for t, x in model.ancestral(n, rng) if t in shown}
    strip = np.stack([to_numpy(film[t]) for t in sorted(film, reverse=True)], axis=1)
    return grid(strip.reshape(-1, *model.image_shape), model.levels, strip.shape[1])


def vae_pictures(model: VAE, test: Images, rng: Generator) -> dict[str, Image.Image]:
    """reconstructions: rows of test images, each above what its code decodes to.  interpolation: from the left test
    image to the right one, a row each.  manifold: the pictures over a grid of quantiles of a latent of 2 dimensions.
    prior_means: E[x|z] of z ~ p(z), the samples without the decoder's noise."""
    columns, chosen = 16, first_images(test, 32)
    rebuilt = to_numpy(model.reconstruct(chosen))
    rows = [part[i : i + columns] for i in range(0, len(chosen), columns) for part in (chosen, rebuilt)]
    lines = to_numpy(model.interpolate(chosen[:8], chosen[8:16], steps=10))
    means = to_numpy(model.picture(rng.normal((64, model.latent), dtype=model.anchor.dtype)))
    pictures = {
        "reconstructions": grid(np.concatenate(rows), model.levels, columns),
        "interpolation": grid(lines.reshape(-1, *model.image_shape), model.levels, 10),
        "prior_means": grid(means, model.levels, 8),
    }
    if model.latent == 2:
        pictures["manifold"] = manifold(model)
    return pictures


def manifold(model: VAE, side: int = 16) -> Image.Image:
    """The pictures of z = (Φ⁻¹(u), Φ⁻¹(v)) for u, v evenly in (0, 1).  Kingma & Welling 2014, figure 4."""
    quantiles = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    z = np.array([(x, y) for y in quantiles[::-1] for x in quantiles], dtype=model.anchor.dtype)
    return grid(model.picture(z), model.levels, side)


def gan_pictures(model: GAN, train: Images, rng: Generator) -> dict[str, Image.Image]:
    """interpolation: arcs between latents, a row each, along which z stays as long as a draw is.  nearest: rows of
    samples, each above the training image that is nearest to it: one that *is* it was learned by heart."""
    a, b = rng.normal((2, 8, 1, model.latent), dtype=model.anchor.dtype)
    angles = np.linspace(0, np.pi / 2, 10, dtype=a.dtype)[:, None]
    lines = model.picture((np.cos(angles) * to_numpy(a) + np.sin(angles) * to_numpy(b)).reshape(-1, model.latent))
    drawn = samples(model, 32, rng)
    closest = train.images[nearest(drawn, train.images)]
    rows = [part[i : i + 16] for i in range(0, len(drawn), 16) for part in (drawn, closest)]
    return {
        "interpolation": grid(lines, model.levels, 10),
        "nearest": grid(np.concatenate(rows), model.levels, 16),
    }


def completions(model: PixelCNN, test: Images, rng: Generator, n: int = 8, ways: int = 6) -> Image.Image:
    """A row: a test image, its upper half, then ways of completing that."""
    originals, half = first_images(test, n), model.image_shape[1] // 2
    upper = originals.copy()
    upper[:, :, half:] = 0
    done = to_numpy(model.complete(np.repeat(upper, ways, axis=0), half, rng)).reshape(n, ways, *model.image_shape)
    rows = np.concatenate([originals[:, None], upper[:, None], done], axis=1)
    return grid(rows.reshape(-1, *model.image_shape), model.levels, ways + 2)
