"""`python -m benchmarks.infogan [RUN]`: what do the codes of an InfoGAN stand for?

Trains it by its recipe on the digits, unless the folder already has the run.  Prints L_I of 2,000 fresh samples in
evaluation mode and, by the classifier of `nanogen evaluate`, a table of 200 samples of each value of the categorical
code: how many are of which class.  The purity is the share of a code's most frequent class, averaged over the codes.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

import nanogen as ng
from benchmarks.runs import trained
from nanogen.training.features import Features


def information(model: Any, n: int, rng: ng.Generator) -> tuple[float, float]:
    """L_I of the categorical code and of the continuous ones together, nats."""
    with ng.no_grad():
        latents = model.draw_latents(n, rng)
        features = model.discriminator.features(model.generator(ng.Tensor(latents)))
        c, numbers = model.information(latents, features)
    return c.item(), numbers.item()


def classes_of_codes(model: Any, features: Features, n: int, rng: ng.Generator) -> np.ndarray:
    """How many of n samples of each code are of each class: (codes, classes)."""
    drawn = [features.classify(model.sample(n, rng, code=code)) for code in range(model.codes)]
    return np.array([np.bincount(classes, minlength=features.classes) for classes in drawn])


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/infogan-digits")
    run = trained(folder, "infogan", "--threads", "1")
    model: Any = run.model().eval()
    c, numbers = information(model, 2000, ng.Generator(0))
    print(f"L_I of the categorical code: {c:.3f} of log {model.codes} = {math.log(model.codes):.3f} nats")
    print(f"L_I of the continuous codes: {numbers:.2f} nats")
    table = classes_of_codes(model, Features(run.images("train")), 200, ng.Generator(1))
    print(table)
    print(f"purity: {(table.max(1) / table.sum(1)).mean():.2f}")
