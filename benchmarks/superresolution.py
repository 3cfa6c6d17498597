"""`python -m benchmarks.superresolution [FOLDER]`: what does super-resolution know beyond interpolation?

Trains by their recipes on the digits, unless the folder already has the runs: super-resolution from 4×4 to 8×8 pixels,
without and with augmentation, a DDPM of 4×4 pixels and one of 8×8.

Prints, for the halves of the test images, the peak signal-to-noise ratio of bicubic interpolation, of linear regression
(by least squares on the training images), of a sample and of the mean of 8 samples: 10 log₁₀ of the squared range over
the mean squared error, in decibels.  The mean absolute difference between the half of a sample and the small image it
was made of, as a share of the range.  And the Fréchet distance, as in `nanogen evaluate`, of 500 images of the DDPM and
of the cascades from the small DDPM, for some levels of noise on the small images.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import nanogen as ng
from benchmarks.runs import trained
from nanogen.data.images import means
from nanogen.metrics import frechet_distance
from nanogen.training.features import Features
from nanogen.training.run import SAMPLES, Run
from nanogen.training.sampling import sample
from nanogen.training.translating import translated

RUNS = {
    "large": ["super-resolution"],
    "augmented": ["super-resolution", "--set", "augmentation=0.2"],
    "small": ["ddpm", "--size", "4"],
    "ddpm": ["ddpm"],
}
DRAWS, SAMPLED = 8, 500
LEVELS = 0.0, 0.1, 0.2  # of noise on the small images, with augmentation


def psnr(found: np.ndarray, truth: np.ndarray, levels: int) -> float:
    """Decibels."""
    return 10 * math.log10((levels - 1) ** 2 / ((found - truth.astype(float)) ** 2).mean())


def bicubic(small: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each colour of images (N, C, h, w) by itself, in their own units: (N, C, H, W)."""
    enlarge = lambda x: np.asarray(Image.fromarray(x.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC))
    return np.array([[enlarge(colour) for colour in image] for image in small])


def regression(small: np.ndarray, large: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Large images for new small ones, by least squares of large ones on small ones and a constant."""
    known = lambda x: np.column_stack([x.reshape(len(x), -1), np.ones(len(x))])
    weights = np.linalg.lstsq(known(small), large.reshape(len(large), -1), rcond=None)[0]
    return (known(new) @ weights).reshape(-1, *large.shape[1:])


def show_enlarged(run: Run) -> None:
    model: Any = run.model()
    train, test = run.images("train"), run.images("test")
    small, unit = model.source_of(test.images), (model.levels - 1) / (model.source_levels - 1)
    drawn = np.stack([translated(model, small, ng.Generator(i)) for i in range(DRAWS)])
    by_hand = {
        "bicubic": bicubic(small * unit, test.shape[1:]),
        "linear regression": regression(model.source_of(train.images) * unit, train.images, small * unit),
        "one sample": drawn[0],
        f"mean of {DRAWS} samples": drawn.mean(0),
    }
    for name, found in by_hand.items():
        print(f"  {name}: {psnr(found.clip(0, model.levels - 1), test.images, model.levels):.1f} dB", flush=True)
    off = abs(means(drawn.reshape(-1, *test.shape), model.levels, 2) - np.tile(small, (DRAWS, 1, 1, 1)).astype(float))
    print(
        f"  half of a sample, from the small image: {off.mean() / (model.source_levels - 1):.1%} of the range",
        flush=True,
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/superresolution")
    runs = {name: trained(folder / name, *RUNS[name]) for name in ("large", "small", "ddpm")}
    show_enlarged(runs["large"])
    features, real = Features(runs["ddpm"].images("train")), runs["ddpm"].images("test").images
    distance = lambda images: f"{frechet_distance(features(real), features(images)):.2f}"
    draws = lambda name: sample(runs[name].model(), SAMPLED, ng.Generator(0).stream(SAMPLES, 0))
    print("Fréchet distance of the DDPM:", distance(draws("ddpm")), flush=True)
    small = draws("small")
    for name, levels in (("large", [0.0]), ("augmented", LEVELS)):
        model: Any = trained(folder / name, *RUNS[name]).model()
        for level in levels:
            found = distance(translated(model, small, ng.Generator(1), level=level))
            print(f"  of the cascade, augmentation {model.augmentation}, level {level}: {found}", flush=True)
