"""What the ranks of an MPI job compute, for `test_distributed`: `mpiexec -n 2 python tests/ranks.py FOLDER`.

Each rank writes what it found, `FOLDER/0.npz`, `FOLDER/1.npz`, …; one process finds the same of the whole batch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tiny_runs import TINY, images_of, settings_of

import nanogen as ng
from nanogen import distributed
from nanogen import functional as F
from nanogen.models import GenerativeModel
from nanogen.training import loop
from nanogen.training.run import build_model
from nanogen.training.sampling import sample

BATCH = 12  # divides over 1, 2 and 3 ranks
SHAPES = ((), (3,), (2, 0, 3), (4, 1, 5))


def own_arrays(rank: int) -> list[np.ndarray]:
    """Large numbers beside small ones, of two types."""
    rng = np.random.default_rng(rank)
    types = ("float32", "float64", "float32", "float32")
    return [rng.normal(size=shape).astype(dtype) * 10**i for i, (shape, dtype) in enumerate(zip(SHAPES, types))]


def means() -> dict[str, Any]:
    found = distributed.mean_over_ranks(*own_arrays(distributed.rank()))
    again = distributed.mean_over_ranks(*found)
    return {f"{name}.{i}": a for name, some in (("mean", found), ("again", again)) for i, a in enumerate(some)}


def what_is_gathered() -> dict[str, Any]:
    own = distributed.part(7)
    return {
        "all": np.concatenate(distributed.everyones(np.arange(7)[own])),
        "first": distributed.broadcast(distributed.rank() + 5),
    }


def batch_norm() -> dict[str, Any]:
    """Output, running moments, the slopes of L = (1/size) Σ_r L_r, and those of a square of the slopes in the images.

    The parts' own moments are far from the batch's, and of two or three images a part may have one value a channel."""
    found: dict[str, Any] = {}
    for size in ((6, 3, 2, 2), (2, 3, 1, 1), (3, 3, 1, 1)):
        if size[0] % distributed.size():
            continue
        rng, own = np.random.default_rng(0), distributed.part(size[0])
        x = rng.normal(size=size) + np.arange(size[0]).reshape(-1, 1, 1, 1) * 10
        weight, bias, target = rng.normal(size=3), rng.normal(size=3), rng.normal(size=size)
        leaves = [ng.tensor(a, requires_grad=True) for a in (x[own], weight, bias)]
        running = ng.tensor(np.zeros(3)), ng.tensor(np.ones(3))
        y = F.batch_norm(leaves[0], *running, *leaves[1:], training=True)
        slopes: Any = ng.grad((y**3 * target[own]).mean(), leaves, create_graph=True)
        dx = slopes[0] / distributed.size()  # those of a rank's own loss are `size` times those of the mean
        of_square: Any = ng.grad((dx**2 * target[own]).mean(), leaves)
        for name, array in {"y": y, "dx": dx, "ddx": of_square[0] / distributed.size()}.items():
            found[f"{size[0]}.{name}"] = np.concatenate(distributed.everyones(array.data))
        arrays = [r.data for r in running]
        arrays += distributed.mean_over_ranks(*[slope.data for slope in (*slopes[1:], *of_square[1:2])])
        found |= {f"{size[0]}.{i}": array for i, array in enumerate(arrays)}
    return found


def steps() -> dict[str, Any]:
    """Three steps of each family in float64: losses, weights, averages, what the optimisers remember, moments."""
    found = {}
    before, loop.build_model = loop.build_model, lambda settings: build_model(settings).to(np.float64)
    for model in TINY:
        trainer = loop.Trainer(settings_of(model, clip=0.5, batch=BATCH), images_of(model))
        for step in range(3):
            found |= {f"{model}.{step}.{name}": loss.data for name, loss in trainer.advance().items()}
        found |= {f"{model}.{name}": array for name, array in trainer.arrays().items()}
    loop.build_model = before
    return found


def drawings() -> dict[str, Any]:
    """Seven images of each family, and two, of which a third rank has none."""
    networks = {model: build_model(settings_of(model)).to(np.float64) for model in TINY}
    return {
        f"{name}.{n}": sample(model, n, ng.Generator(3).stream(5)) for name, model in networks.items() for n in (7, 2)
    }


CLASSES = 250


class Told(GenerativeModel):
    """Each of its images is of one pixel, the label that it was asked for."""

    def __init__(self) -> None:
        super().__init__((1, 1, 1), 256, CLASSES)
        self.weight = ng.nn.Parameter(np.zeros(1))

    def sample(self, n: int, rng: ng.Generator, labels: Any = None) -> Any:
        return self.condition(labels, n, rng)["labels"].astype(np.uint8).reshape(n, 1, 1, 1)


def some_labels(n: int, rng: ng.Generator) -> Any:
    return rng.integers(0, CLASSES, n)


def labels() -> dict[str, Any]:
    """The labels of seven images and of two: given, or left to the model."""
    ways: dict[str, Any] = {"given": some_labels, "left": None}
    return {
        f"{way}.{n}": sample(Told(), n, ng.Generator(3).stream(5), labels=draw)
        for way, draw in ways.items()
        for n in (7, 2)
    }


def everything() -> dict[str, Any]:
    parts = {"means": means, "gathered": what_is_gathered, "norm": batch_norm, "steps": steps, "drawn": drawings}
    parts["labels"] = labels
    return {f"{part}:{name}": value for part, compute in parts.items() for name, value in compute().items()}


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]) / f"{distributed.rank()}.npz", **everything())
