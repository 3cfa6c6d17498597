"""`python -m benchmarks.translation [FOLDER]`: does a translation find the image that its source was made of?

Trains Pix2Pix from edges, and CycleGAN from inverted and from turned digits, by their recipes, unless the folder
already has the runs.  Prints their errors on the test images, and for `turned` the error against each symmetry.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import nanogen as ng
from nanogen.cli import main
from nanogen.training.features import Features
from nanogen.training.run import Run

RUNS = {
    "Pix2Pix, edges": ["pix2pix"],
    "CycleGAN, inverted": ["cyclegan"],
    "CycleGAN, turned": ["cyclegan", "--set", "source=turned"],
}
TURNS = "as it is", "turned by 90°", "turned by 180°", "turned by 270°"
SYMMETRIES = (*TURNS, *(f"mirrored, {turn}" for turn in TURNS))


def errors(run: Run, back: bool = False) -> dict[str, Any]:
    """Of the translated test images: their L1 error in units of that of the best constant, which is the median of the
    training images at each pixel; the share whose label, by the classifier of `evaluate`, is that of the true image;
    the same two numbers of the sources themselves, and the L1 error against each symmetry of the true images."""
    model: Any = run.model()
    train, test = run.images("train"), run.images("test")
    sources, truth, constant = model.source_of(test.images), test.images, train.images
    if back:
        sources, truth, constant = truth, sources, model.source_of(constant)
    found = model.translate(sources, ng.Generator(0), **({"back": True} if back else {}))
    features, off = Features(train), lambda a, b: abs(a.astype(float) - b).mean()
    best = off(np.median(constant, axis=0), truth)
    kept = lambda images: float((features.classify(images) == features.classify(test.images)).mean())
    turned = lambda x: [np.rot90(m, k, (2, 3)) for m in (x, x[..., ::-1]) for k in range(4)]
    return {
        "error": off(found, truth) / best,
        "labels": None if back else kept(found),
        "true labels": None if back else float((features.classify(found) == test.labels).mean()),
        "untranslated": off(sources, truth) / best,
        "symmetries": [off(found, image) / best for image in turned(truth)],
        "constant": [off(np.median(constant, axis=0), image) / best for image in turned(truth)],
        "classifier": float((features.classify(test.images) == test.labels).mean()),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/translation")
    for name, words in RUNS.items():
        run = Run(folder / name.replace(", ", "-"))
        if not run.checkpoint_files():
            main(["train", *words, "--quiet", "--threads", "1", "--out", str(run.folder)])
        print(name, errors(run), flush=True)
        if "CycleGAN" in name:
            print(name, "back", errors(run, True), flush=True)
