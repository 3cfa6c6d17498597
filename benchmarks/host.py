"""`python -m benchmarks.host`: how long the host takes for a training step on a GPU, on a machine without one.

CuPy is the real one, on the emulated device of the tests (`tests/emulated`), where kernels, products and copies are
done by nobody.  What is left of the steps of `cuda.py` is Python's time and CuPy's: launched one by one, a step can't
take less.  What CUDA itself takes for a launch is not in it.

With `--count` what a GPU has to do: kernels and products are done, for a few images, and what they read, write, execute
and multiply is counted.  That is linear in the number of images.
"""

from __future__ import annotations

import argparse
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
    """A row: what one step launches, and how long the host takes for it."""
    counts = [ctypes.c_long.in_dll(emulated.idle_functions(), what) for what in ("launches", "products")]
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


# An H200's data sheet: bytes of memory and float32 operations of products a second; and instructions, one for each of
# 128 lanes of 132 multiprocessors at 1.75 GHz.
BANDWIDTH, PRODUCTS, INSTRUCTIONS = 4.8e12, 67e12, 132 * 128 * 1.75e9
FEW, MORE = 1, 3  # images


def count() -> None:
    """A table in Markdown: gigabytes that kernels move, GFLOP of products, and at least how many milliseconds both take
    an H200, of each kernel the longer of its bytes and its instructions."""
    emulated.install()
    print("| step | kernels move, GB | products, GFLOP | takes at least, ms |\n|---|---|---|---|")
    counters = emulated.moved, emulated.executed, emulated.multiplied
    for name, settings in SETTINGS.items():
        found = []
        for n in (FEW, MORE):
            images = np.random.default_rng(0).integers(0, 256, (n, *SHAPE)).astype(np.uint8)
            step = step_of_ours(ng.models.MODELS[name](SHAPE, 256, **settings).to("cuda"), images, "cuda", False)
            step()
            for counter in counters:
                counter.clear()
            step()
            found.append([dict(counter) for counter in counters])
        moved, executed, multiplied = (at_batch(few, more) for few, more in zip(*found, strict=True))
        seconds = sum(max(moved[k] / BANDWIDTH, executed[k] / INSTRUCTIONS) for k in moved)
        seconds += multiplied["products"] / PRODUCTS
        gigabytes, products = sum(moved.values()) / 1e9, multiplied["products"] / 1e9
        print(f"| training, {name} | {gigabytes:.1f} | {products:.0f} | {1e3 * seconds:.1f} |", flush=True)


def at_batch(few: dict[str, int], more: dict[str, int]) -> dict[str, float]:
    """Counts for BATCH images from those for FEW and MORE."""
    return {k: more[k] + (more[k] - few.get(k, 0)) / (MORE - FEW) * (BATCH - MORE) for k in more}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=(__doc__ or "").partition(":")[2])
    parser.add_argument("--count", action="store_true", help="what a GPU has to do, instead of what the host needs")
    count() if parser.parse_args().count else main()
