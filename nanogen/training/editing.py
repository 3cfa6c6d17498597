"""`nanogen edit`: new details, new parts, wide images, by a diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nanogen.data import Images
from nanogen.data.folder import by, inspect, read_picture
from nanogen.models import MODELS
from nanogen.random import Generator
from nanogen.training.run import Run
from nanogen.training.translating import in_batches

WHITE = 128  # the least grey of 256 that counts as white in a mask


def editor(run: Run, width: int | None, stride: int | None, device: str) -> Any:
    """A run's model, which edits images; of another width if one is given.

    Raises:
        ValueError: a model that does not edit images, a width or stride out of range, a stride without a width."""
    name, able = run.settings().model, [model for model, cls in MODELS.items() if hasattr(cls, "inpaint")]
    if name not in able:
        raise ValueError(f"{run.folder} is a run of {name}; only {', '.join(able)} edit images")
    if width is None and stride is not None:
        raise ValueError("--stride is of the windows in a wide image: give --width too")
    model: Any = run.model(device)
    return model if width is None else model.widened(width, stride)


def check_what(images: str | None, **options: Any) -> None:
    """Check that the options of `nanogen edit` say one thing to do.

    Raises:
        ValueError: options that are missing, or that do not go together."""
    given = {name for name, value in options.items() if value is not None}
    if images is None and (given - {"width", "n"} or "width" not in given):
        raise ValueError("--images must be given, or --width alone for new images of that width")
    if images is not None and len(given & {"mask", "strength"}) != 1:
        raise ValueError("--images needs either --strength, or --mask for new parts")
    if images is not None and "n" in given:
        raise ValueError("-n is the number of new images, without --images")
    if "resample" in given and "mask" not in given:
        raise ValueError("--resample is for --mask")


def read_mask(path: Path, height: int, width: int) -> np.ndarray:
    """A picture as a mask: bool (H, W), True where it is white or transparent.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a picture, or one of another size or without white."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if (size := inspect(path).size) != (height, width):
        raise ValueError(f"--mask must have {by((height, width))} pixels, as the images, got {by(size)}")
    mask: np.ndarray = read_picture(path, size, "grey")[0] >= WHITE
    if not mask.any():
        raise ValueError("--mask has no white: nothing would be painted anew")
    return mask


def edited(
    model: Any, images: Images | None, n: int, rng: Generator, label: int | None, strength: float | None = None,
    anew: np.ndarray | None = None, resample: int = 1,
) -> tuple[np.ndarray | None, np.ndarray]:  # fmt: skip
    """n images, and what the model makes of them, uint8 (N, C, H, W) each; without images, None and new ones.

    In the former the pixels that are painted anew are grey.

    Args:
        label: of all images, in place of their own.

    Raises:
        ValueError: a label or a strength out of range."""
    own = images.labels if images and model.classes else None
    if label is not None:
        own = np.full(n, label)
    labels = lambda part: None if own is None else own[part]
    if images is None:
        return None, in_batches(lambda part, rng: model.sample(part.stop - part.start, rng, labels(part)), n, rng)
    start = images.images
    if anew is None:
        return start, in_batches(lambda part, rng: model.edit(start[part], strength, rng, labels(part)), n, rng)
    paint = lambda part, rng: model.inpaint(start[part], anew, rng, labels(part), resample)
    return np.where(anew, np.uint8(model.levels // 2), start), in_batches(paint, n, rng)
