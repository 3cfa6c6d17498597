"""`nanogen translate`: images in, images out."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from nanogen.backend import to_numpy
from nanogen.data import load_all
from nanogen.models import MODELS
from nanogen.models.base import progress
from nanogen.random import Generator
from nanogen.training.evaluation import BATCH
from nanogen.training.run import SAMPLES, Run


def to_translate(run: Run, name: str, back: bool, make_sources: bool) -> np.ndarray:
    """The images of a file or a data set (see `load_all`), which a run's model can translate.

    Raises:
        ValueError: a model that does not translate, or not `back`; images that do not fit it; `back` with
            `make_sources`."""
    settings = run.settings()
    able = {model: inspect.signature(cls.translate) for model, cls in MODELS.items() if hasattr(cls, "translate")}
    both_ways = [model for model in able if "back" in able[model].parameters]
    if settings.model not in able:
        raise ValueError(f"{run.folder} is a run of {settings.model}; only {', '.join(able)} translate images")
    if back and settings.model not in both_ways:
        raise ValueError(f"--back is for {', '.join(both_ways)}; {run.folder} is a run of {settings.model}")
    if back and make_sources:
        raise ValueError("--make-sources is not for --back, which translates images to sources")
    found, what = load_all(name, settings.size, settings.color), "images of shape {} and {} levels".format
    if found.levels == settings.data_levels:
        found = found.requantised(settings.levels)
    if (found.shape, found.levels) != (settings.image_shape, settings.levels):
        expected = what(settings.image_shape, settings.levels)
        raise ValueError(f"--images must be {expected}, as those of the run, got {what(found.shape, found.levels)}")
    return found.images


def translated(
    run: Run, images: np.ndarray, rng: Generator, back: bool, make_sources: bool
) -> tuple[np.ndarray, np.ndarray]:
    """What a run's model translates, and the translations: uint8 (N, C, H, W) each.

    Args:
        back: from images to sources.
        make_sources: translate the sources that are made of the images.
    """
    model: Any = run.model(rng.device)
    start, how = to_numpy(model.source_of(images)) if make_sources else images, {"back": True} if back else {}
    parts = [
        to_numpy(model.translate(start[i : i + BATCH], rng.stream(SAMPLES, i), **how))
        for i in progress(range(0, len(start), BATCH), "batch")
    ]
    return start, np.concatenate(parts)


def in_pairs(above: np.ndarray, below: np.ndarray, columns: int) -> np.ndarray:
    """Rows of images (N, C, H, W), each above the row of the others; the last row is filled up with level 0."""
    rows = [np.pad(x, ((0, -len(x) % columns), (0, 0), (0, 0), (0, 0))) for x in (above, below)]
    return np.stack([x.reshape(-1, columns, *x.shape[1:]) for x in rows], axis=1).reshape(-1, *above.shape[1:])
