"""`nanogen evaluate`: likelihood, quality and diversity of the samples, copies of training images, time per sample."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanogen.backend import to_numpy
from nanogen.data import Images
from nanogen.distributed import rank
from nanogen.metrics import (
    Estimate,
    EstimatedBound,
    Likelihood,
    closer_share,
    distance_to_nearest,
    distances,
    estimated_bounds,
    frechet_distance,
    inside,
    jackknife,
    likelihood,
    nearest,
    neighbour_metrics,
    radii,
    share_estimate,
)
from nanogen.models.base import progress
from nanogen.random import Generator
from nanogen.training.features import Features
from nanogen.training.files import write_atomically
from nanogen.training.pictures import grid
from nanogen.training.report import FEWEST, SHARES, footnote, heading, rows
from nanogen.training.run import EVALUATION, SAMPLES, Run
from nanogen.training.sampling import sample

BATCH = 250  # images sampled at once
SHOWN = 16  # images in a row of a picture
# Independent random streams of the evaluation's seed, in addition to those of a run.
LEFT_OUT, REAL_AS_IF_DRAWN, ESTIMATES = 100, 101, 102


@dataclass(frozen=True)
class Evaluation:
    """Attributes:
    model, data, seed, sampling: the run's model and data set, the seed, and the settings of sampling.
    train_images, test_images, samples: numbers of images.
    likelihood: bits per dimension of the test images; None without a density.
    features: a description of the features by which sets of images are compared.
    quality: metrics of the samples against the test images, by name.
    floor: the same metrics of as many training images instead of samples: the values that real images reach.
    copies, copies_expected: metrics of copying, and their expected values if nothing is copied.
    classes: the number of classes covered, the number of classes, the smallest and the largest share of a class among
        the samples, and the classifier's accuracy on the test images; None without labels.
    network_evaluations, seconds: per sample.
    estimators: the bound by each of the model's estimators, by name; None unless asked for.
    checkpoint: the step of the chosen checkpoint; None for the newest.
    """

    model: str
    data: str
    seed: int
    sampling: dict[str, Any]
    train_images: int
    test_images: int
    samples: int
    likelihood: Likelihood | None
    features: str
    quality: dict[str, Estimate]
    floor: dict[str, Estimate]
    copies: dict[str, Estimate]
    copies_expected: dict[str, float]
    classes: dict[str, float] | None
    network_evaluations: int
    seconds: float
    checkpoint: int | None = None
    estimators: dict[str, EstimatedBound] | None = None


def evaluate(
    run: Run,
    n: int = 500,
    test_images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    estimators: bool = False,
    **sampling: Any,
) -> tuple[Evaluation, dict[str, np.ndarray]] | None:
    """Evaluate a run's model on its data set's test split.

    Args:
        n: the number of images to sample, in batches of 250.  The samples depend on the size of the batches.
        test_images: use only this many first test images; default all.
        estimators: also the bound by each of the model's estimators.
        sampling: the model's own settings of `sample`.

    Returns:
        The numbers, and the images for pictures, by name.  None on all ranks but the first, which only sample.

    Raises:
        ValueError: too few samples or test images, or no estimators.
    """
    settings, model, train, test = run.settings(), run.model(device), run.images("train"), run.images("test")
    count = len(test) if test_images is None else test_images
    if not 2 <= count <= len(test):
        raise ValueError(f"at least 2 and at most {len(test)} test images are needed, got {count}")
    if n < FEWEST:
        raise ValueError(f"at least {FEWEST} samples are needed, got {n}")
    evaluations, density = model.evaluations_with(**sampling), model.density_with(**sampling)
    if estimators and not density.estimators:
        raise ValueError(f"--estimators is for models with several estimators of their bound, not for {settings.model}")
    real, rng = test.images[:count], Generator(seed, device)
    labels = test.labels[:count] if model.classes and test.labels is not None else None
    by_frequency = {"labels": drawn_from(train.labels)} if model.classes and train.labels is not None else {}
    draw = lambda n, *indices: sample(model, n, rng.stream(*indices), **by_frequency, **sampling)
    fake, seconds = timed(draw, n)
    if rank():
        return None
    found = likelihood(density, real, rng.stream(EVALUATION), labels=labels)
    features = Features(train)
    as_if_drawn = train.images[Generator(seed).stream(REAL_AS_IF_DRAWN).permutation(len(train))[:n]]
    of_real, of_fake = features(real), features(fake)
    compared = min(count, len(as_if_drawn)) >= FEWEST
    copied, expected = copy_metrics(fake, train.images, real, Generator(seed).stream(LEFT_OUT))
    result = Evaluation(
        settings.model, settings.data, seed, sampling, len(train), count, n, found, features.name,
        quality(of_real, of_fake, Generator(seed).stream(LEFT_OUT)) if compared else {},
        quality(of_real, features(as_if_drawn), Generator(seed).stream(LEFT_OUT)) if compared else {},
        copied, expected,
        class_metrics(features, fake, train, Images(real, None if test.labels is None else test.labels[:count],
                                                    test.levels, test.name)),
        evaluations, seconds, run.step,
        estimated_bounds(density, real, rng.stream(ESTIMATES), labels=labels) if estimators else None,
    )  # fmt: skip
    return result, shown(fake, train.images, real, of_real, of_fake) if compared else {}


def drawn_from(labels: np.ndarray) -> Callable[[int, Generator], np.ndarray]:
    """A function that draws n of the given labels, so that classes have the same frequencies."""
    return lambda n, rng: labels[to_numpy(rng.integers(0, len(labels), n))]


def timed(draw: Callable[..., np.ndarray], n: int) -> tuple[np.ndarray, float]:
    """n samples, drawn in batches of BATCH, and the seconds per sample."""
    parts, start = [], time.perf_counter()
    for i in progress(range(0, n, BATCH), "batch"):
        parts.append(draw(min(BATCH, n - i), SAMPLES, i))
    return np.concatenate(parts), (time.perf_counter() - start) / n


def quality(real: np.ndarray, fake: np.ndarray, rng: Generator) -> dict[str, Estimate]:
    """The Fréchet distance and the neighbour metrics of features (N, D) and (M, D), with confidence intervals."""
    within_real, within_fake, across = distances(real, real), distances(fake, fake), distances(real, fake)

    def statistic(i: np.ndarray, j: np.ndarray) -> dict[str, float]:
        blocks = within_real[np.ix_(i, i)], within_fake[np.ix_(j, j)], across[np.ix_(i, j)]
        return {"Fréchet distance": frechet_distance(real[i], fake[j]), **neighbour_metrics(*blocks)}

    return jackknife(statistic, len(real), len(fake), rng, SHARES)


def copy_metrics(
    fake: np.ndarray, train: np.ndarray, test: np.ndarray, rng: Generator
) -> tuple[dict[str, Estimate], dict[str, float]]:
    """Metrics of copying by distances between pixels, and their expected values for new images:

    - exact copies: the share of samples that equal a training image
    - nearest is a training image: the share of samples whose nearest real image is a training image
    - closer to training images: P(a sample is closer to its nearest training image than a test image is to its own)
    """
    to_train, to_test, tests_to_train = (
        distance_to_nearest(fake, train), distance_to_nearest(fake, test), distance_to_nearest(test, train)
    )  # fmt: skip
    names = (
        "exact copies of training images",
        "nearest is a training image",
        "closer to training images than the test is",
    )
    found = {names[0]: share_estimate(to_train == 0), names[1]: share_estimate(to_train < to_test)}
    if len(test) >= FEWEST:
        closer = lambda i, j: {names[2]: closer_share(to_train[j], tests_to_train[i])}
        found |= jackknife(closer, len(test), len(fake), rng, names)
    known = float((tests_to_train == 0).mean())
    return found, {names[0]: known, names[1]: len(train) / (len(train) + len(test)), names[2]: 0.5}


def class_metrics(features: Features, fake: np.ndarray, train: Images, test: Images) -> dict[str, float] | None:
    """Coverage of the classes: the samples' share of a class is at least a tenth of the training images' share."""
    if train.labels is None or test.labels is None:
        return None
    expected = np.bincount(train.labels, minlength=features.classes) / len(train)
    shares = np.bincount(features.classify(fake), minlength=features.classes) / len(fake)
    there = expected > 0
    return {
        "covered": int((shares >= expected / 10)[there].sum()),
        "classes": int(there.sum()),
        "smallest share": float(shares[there].min()),
        "largest share": float(shares[there].max()),
        "classifier's accuracy": float((features.classify(test.images) == test.labels).mean()),
    }


def shown(
    fake: np.ndarray, train: np.ndarray, test: np.ndarray, of_real: np.ndarray, of_fake: np.ndarray
) -> dict[str, np.ndarray]:
    """Images for pictures, by name:

    - closest: the samples closest to a training image, each above its nearest training and nearest test image
    - outside: samples that are in no test image's ball, the most distant first
    - missed: test images that are in no sample's ball, the most distant first"""
    order = np.argsort(distance_to_nearest(fake, train), kind="stable")[:SHOWN]
    closest = np.concatenate([fake[order], train[nearest(fake[order], train)], test[nearest(fake[order], test)]])
    across = distances(of_real, of_fake)
    outside = np.logical_not(inside(across, radii(distances(of_real, of_real), 3)).any(axis=0))
    missed = np.logical_not(inside(across.T, radii(distances(of_fake, of_fake), 3)).any(axis=0))
    by_sample, by_test = np.argsort(-across.min(axis=0)), np.argsort(-across.min(axis=1))
    return {
        "closest": closest,
        "outside": fake[[i for i in by_sample if outside[i]][: 2 * SHOWN]],
        "missed": test[[i for i in by_test if missed[i]][: 2 * SHOWN]],
    }


def write(evaluation: Evaluation, pictures: dict[str, np.ndarray], levels: int, run: Run, file: Path) -> list[Path]:
    """Write the numbers as JSON to a file, and the pictures to the run's folder.  Returns the paths."""
    text = json.dumps(as_json(evaluation), indent=2, ensure_ascii=False) + "\n"
    write_atomically(file, text.encode(errors="backslashreplace"))  # as JSON escapes: a path need not be valid text
    paths = [file]
    for name, images in pictures.items():
        path = run.folder / f"evaluation-{name}.png"
        path.unlink(missing_ok=True)
        if len(images):
            grid(images, levels, min(SHOWN, len(images))).save(path)
            paths.append(path)
    return paths


def larger(evaluation: Evaluation, run: Run) -> str:
    """What the evaluation in the run's folder is of, if that is of more images or samples; else nothing.

    One that can't be read, or is of an earlier checkpoint, does not count."""
    file = run.folder / "evaluation.json"
    if not file.is_file() or run.is_older(file):
        return ""
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        if there["test_images"] > evaluation.test_images or there["samples"] > evaluation.samples:
            return f"{there['test_images']} test images and {there['samples']} samples"
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return ""


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers as nested dictionaries, with the confidence level of the intervals."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return {name: plain(part) for name, part in value._asdict().items()}
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return value

    fields = {name: plain(getattr(evaluation, name)) for name in asdict(evaluation)}
    if evaluation.likelihood is not None:
        _, low, high = evaluation.likelihood.estimate
        few = evaluation.test_images < FEWEST
        fields["likelihood"] |= {"low": None, "high": None} if few else {"low": low, "high": high}
    return {**fields, "confidence": 0.95}


def table(evaluation: Evaluation) -> str:
    """The numbers as a text table, with 95 % intervals."""
    found = as_json(evaluation)
    lines = rows(found)
    widths = [max(len(line[i]) for line in lines) for i in range(2)]
    body = [f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in lines]
    return "\n".join([heading(found), *body, footnote(found)])
