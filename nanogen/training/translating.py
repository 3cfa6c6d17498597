"""`nanogen translate`: images in, images out."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.backend import Array, to_numpy
from nanogen.data import Images, load_all
from nanogen.distributions import scale_levels, unscale_levels
from nanogen.models import MODELS
from nanogen.models.base import progress
from nanogen.random import Generator
from nanogen.training.evaluation import BATCH
from nanogen.training.run import SAMPLES, Run


def translator(run: Run, back: bool, make_sources: bool, device: str) -> Any:
    """A run's model, which translates.

    Raises:
        ValueError: a model that does not translate, or not `back`; `back` with `make_sources`."""
    name = run.settings().model
    able = {model: inspect.signature(cls.translate) for model, cls in MODELS.items() if hasattr(cls, "translate")}
    both_ways = [model for model in able if "back" in able[model].parameters]
    if name not in able:
        raise ValueError(f"{run.folder} is a run of {name}; only {', '.join(able)} translate images")
    if back and name not in both_ways:
        raise ValueError(f"--back is for {', '.join(both_ways)}; {run.folder} is a run of {name}")
    if back and make_sources:
        raise ValueError("--make-sources is not for --back, which translates images to sources")
    return run.model(device)


def fitting(run: Run, name: str, shape: tuple[int, ...], levels: int) -> Images:
    """The images of a file or a data set, see `load_all`.

    Raises:
        ValueError: images of another shape or number of levels."""
    settings = run.settings()
    found, what = load_all(name, settings.size, settings.color), "images of shape {} and {} levels".format
    if found.levels == settings.data_levels:
        found = found.requantised(settings.levels)
    if (found.shape, found.levels) != (tuple(shape), levels):
        raise ValueError(
            f"--images must be {what(tuple(shape), levels)}, as those of the run, got {what(found.shape, found.levels)}"
        )
    return found


def to_translate(run: Run, model: Any, name: str, back: bool, make_sources: bool) -> Images:
    """What the model translates: the images of a file or a data set, or their sources.

    Args:
        back: from images to sources.
        make_sources: translate the sources that are made of the images.

    Raises:
        ValueError: images that do not fit the model."""
    if back or make_sources:
        found = fitting(run, name, model.image_shape, model.levels)
        if not make_sources:
            return found
        return dataclasses.replace(found, images=to_numpy(model.source_of(found.images)), levels=model.source_levels)
    return fitting(run, name, model.source_shape, model.source_levels)


def in_batches(of: Callable[[slice, Generator], Array], n: int, rng: Generator) -> np.ndarray:
    """What a function makes of n images, BATCH of them at a time, each batch with random numbers of its own."""
    parts = [
        to_numpy(of(slice(i, min(i + BATCH, n)), rng.stream(SAMPLES, i))) for i in progress(range(0, n, BATCH), "batch")
    ]
    return np.concatenate(parts)


def translated(model: Any, start: np.ndarray, rng: Generator, **how: Any) -> np.ndarray:
    """The translations of images or sources: uint8 (N, C, H, W)."""
    return in_batches(lambda part, rng: model.translate(start[part], rng, **how), len(start), rng)


def alike(sources: np.ndarray, model: Any) -> np.ndarray:
    """Sources in the levels of the model's images; and in their size, if they are smaller by a whole factor."""
    factor, scaled = model.image_shape[1] // sources.shape[2], scale_levels(sources, model.source_levels)
    return unscale_levels(scaled, model.levels).repeat(factor, axis=2).repeat(factor, axis=3)


def in_pairs(above: np.ndarray, below: np.ndarray, columns: int) -> np.ndarray:
    """Rows of images (N, C, H, W), each above the row of the others; the last row is filled up with level 0."""
    rows = [np.pad(x, ((0, -len(x) % columns), (0, 0), (0, 0), (0, 0))) for x in (above, below)]
    return np.stack([x.reshape(-1, columns, *x.shape[1:]) for x in rows], axis=1).reshape(-1, *above.shape[1:])
