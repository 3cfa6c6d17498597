"""The Fréchet distance of two samples of one distribution, by the number of samples."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.metrics import frechet_distance

SIZES = [50, 100, 200, 500, 1000, 2000, 5000]
RUNS = 8


def draw(path: Path) -> None:
    rng = np.random.default_rng(0)
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for d, style, color in ((8, "v:", "#e69f00"), (32, "s--", "#009e73"), (64, "o-", "#0072b2")):
        of = lambda n, d=d: frechet_distance(rng.standard_normal((n, d)), rng.standard_normal((n, d)))
        found = [[of(n) for _ in range(RUNS)] for n in SIZES]
        axes.loglog(SIZES, np.mean(found, axis=1), style, color=color, label=f"{d} features")
    axes.set_xlabel("samples on either side")
    axes.set_ylabel("Fréchet distance (the truth is 0)")
    axes.set_xticks(SIZES, [f"{n:,}" for n in SIZES])
    axes.minorticks_off()
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
