"""`python -m benchmarks.host`: how long the host takes for a training step on a GPU, on a machine without one.

CuPy is the real one, on the emulated device of the tests (`tests/emulated`), where kernels, products and copies are
done by nobody.  What is left of the steps of `cuda.py` is Python's time and CuPy's: launched one by one, a step can't
take less.  What CUDA itself takes for a launch is not in it.
"""

from __future__ import annotations

import copy
import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nanogen as ng
from benchmarks.cuda import BATCH, SETTINGS, SHAPE, reverse_step
from benchmarks.steps import step_of_ours
from nanogen.training.sampling import as_graphs
from tests.emulated import cuda as emulated

WARM_UPS, STEPS = 4, 30


def main() -> None:
    """A table in Markdown: medians, and the least in brackets."""
    emulated.install(idle=True)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE)).astype(np.uint8)
    print("| step | kernels | products | one by one, ms | as a graph, ms |\n|---|---|---|---|---|")
    for name, settings in SETTINGS.items():
        model = ng.models.MODELS[name](SHAPE, 256, **settings).to("cuda")
        show(f"training, {name}", *[step_of_ours(model, images, "cuda", captured) for captured in (False, True)])
        if name == "ddpm":
            graphs = copy.deepcopy(model.eval())
            as_graphs(graphs.unet)
            show("sampling, ddpm", reverse_step(model, images), reverse_step(graphs, images))


def show(name: str, one_by_one: Callable[[], Any], graph: Callable[[], Any]) -> None:
    counts = [ctypes.c_long.in_dll(emulated.idle_functions(), name) for name in ("launches", "products")]
    times, launched = [], []
    for step in (one_by_one, graph):
        for _ in range(WARM_UPS):
            step()
        before, taken = [count.value for count in counts], []
        for _ in range(STEPS):
            start = time.perf_counter()
            step()
            taken.append(1e3 * (time.perf_counter() - start))
        launched.append([(count.value - old) // STEPS for count, old in zip(counts, before, strict=True)])
        times.append(f"{statistics.median(taken):.1f} ({min(taken):.1f})")
    print(f"| {name} |", *(f"{number} |" for number in (*launched[0], *times)), flush=True)


if __name__ == "__main__":
    main()
