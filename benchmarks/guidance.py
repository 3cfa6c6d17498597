"""`python -m benchmarks.guidance [FOLDER]`: do a DDPM's samples show what they are told, and what does guidance cost?

Trains two models on the digits, unless FOLDER (default: runs) already has the runs: one with labels (`--set
classes=10`), and one with captions (`--steps 1000 --set classes=10 condition=text`).  With the first it draws 50
samples of each label for each guidance.  It prints the share in which the classifier of `nanogen evaluate` sees the
label, and the metrics of these samples against the test images.  With the second it draws three samples of each of the
90 whole captions, in 25 steps.  It prints the share in which the class, by the classifier, and the weight and the
slant, as measured, are those of the caption.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np

import nanogen as ng
from benchmarks.runs import trained
from nanogen.models.diffusion.captions import NUMBERS, SLANTS, WEIGHTS
from nanogen.training.evaluation import quality
from nanogen.training.features import Features

PROMPTS = [f"a {weight} {slant} {number}" for weight, slant, number in itertools.product(WEIGHTS, SLANTS, NUMBERS)]


def right(model: Any, features: Features, guidance: float, copies: int = 3) -> np.ndarray:
    """The shares of samples of all whole captions that have the caption's weight, slant and class: (3,)."""
    images = model.sample(len(PROMPTS) * copies, ng.Generator(0), PROMPTS * copies, steps=25, guidance=guidance)
    labels = np.array([NUMBERS.index(prompt.split()[-1]) for prompt in PROMPTS * copies])
    found, told = model.captions.of_images(images, labels), model.captions.read(PROMPTS * copies)
    return np.array([*(found == told)[:, 1:3].mean(0), (features.classify(images) == labels).mean()])


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    conditional = ["ddpm", "--set", "classes=10"]
    run = trained(folder / "ddpm-labels", *conditional)
    model: Any = run.model().eval()
    features, real = Features(run.images("train")), run.images("test")
    labels = np.repeat(np.arange(10), 50)
    for guidance in (0.0, 1.0, 3.0, 8.0):
        images = model.sample(len(labels), ng.Generator(0), labels, guidance=guidance)
        found = quality(features(real.images), features(images), ng.Generator(0))
        shown = ", ".join(f"{name} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for name, e in found.items())
        print(f"guidance {guidance:g}: label {(features.classify(images) == labels).mean():.1%}, {shown}", flush=True)
    model = trained(folder / "ddpm-text", *conditional, "condition=text", "--steps", "1000").model().eval()
    for guidance in (0.0, 1.0, 3.0):
        shares = right(model, features, guidance)
        print(
            f"guidance {guidance:g}: weight {shares[0]:.1%}, slant {shares[1]:.1%}, class {shares[2]:.1%}", flush=True
        )
