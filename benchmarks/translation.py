"""`python -m benchmarks.translation [FOLDER]`: does a translation find the image that its source was made of?

Trains Pix2Pix from edges, and CycleGAN from inverted and from turned digits, by their recipes, unless the folder
already has the runs.  Prints their errors on the test images, and for the turned digits the error from each symmetry.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import nanogen as ng
from benchmarks.runs import trained
from nanogen.training.features import Features
from nanogen.training.run import Run

RUNS = {
    "Pix2Pix, edges": ["pix2pix"],
    "CycleGAN, inverted": ["cyclegan"],
    "CycleGAN, turned": ["cyclegan", "--set", "source=turned"],
}
TURNS = "upright", "turned by 90°", "turned by 180°", "turned by 270°"
SYMMETRIES = (*TURNS, *(f"mirrored, {turn}" for turn in TURNS))


class Translated:
    """The test images of a run, what the model sees of them, and what it makes of that.

    Errors are mean absolute ones, in units of the error of the best constant: at each pixel the median of the training
    images."""

    def __init__(self, run: Run):
        self.model: Any = run.model()
        self.train, self.test = run.images("train"), run.images("test")
        self.truth, self.median = self.test.images, np.median(self.train.images, axis=0)
        self.sources = self.model.source_of(self.truth)
        self.found = self.model.translate(self.sources, ng.Generator(0))

    def error(self, images: np.ndarray, truth: np.ndarray | None = None) -> float:
        off = lambda a, b: float(abs(a.astype(float) - b).mean())
        return off(images, self.truth if truth is None else truth) / off(self.median, self.truth)

    def same_label(self) -> float:
        """The share of translations in which the classifier of `nanogen evaluate` sees what it sees in the true one."""
        classify = Features(self.train).classify
        return float((classify(self.found) == classify(self.truth)).mean())

    def row(self) -> list[str]:
        """The errors of the translation and of the source as it is; the share of labels; of a CycleGAN the error of
        there and back again from the source, and the error of the way back, in the same unit."""
        cells = [f"{self.error(self.found):.2f}", f"{self.error(self.sources):.2f}", f"{self.same_label():.1%}"]
        if not isinstance(self.model, ng.models.CycleGAN):
            return [*cells, "", ""]
        again, back = (self.model.translate(x, ng.Generator(0), back=True) for x in (self.found, self.truth))
        return [*cells, *(f"{self.error(x, self.sources):.2f}" for x in (again, back))]

    def symmetries(self) -> list[list[str]]:
        """The errors of the translation, of the best constant, and of the source, from each symmetry of the truth."""
        turned = [np.rot90(x, k, (2, 3)) for x in (self.truth, self.truth[..., ::-1]) for k in range(4)]
        return [[f"{self.error(x, truth):.2f}" for x in (self.found, self.median, self.sources)] for truth in turned]


def print_table(head: list[str], rows: list[list[str]]) -> None:
    print(*("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)), "", sep="\n", flush=True)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/translation")
    found = {}
    for name, words in RUNS.items():
        found[name] = Translated(trained(folder / name.replace(", ", "-"), *words, "--threads", "1"))
    head = ["", "error", "of the source itself", "same label", "there and back again", "back from the image"]
    print_table(head, [[name, *one.row()] for name, one in found.items()])
    head = ["the true image …", "CycleGAN, turned", "median image", "the source itself"]
    print_table(head, [[name, *cells] for name, cells in zip(SYMMETRIES, found[name].symmetries(), strict=True)])
