"""How the metrics see a generator that drops modes, adds one, is too narrow, or copies."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.metrics import distances, frechet_distance, neighbour_metrics

ANGLES = np.arange(8) * np.pi / 4
CENTRES = 4 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
N = 400


def cloud(centres: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    return centres[rng.integers(0, len(centres), N)] + std * rng.standard_normal((N, 2))


def draw(path: Path) -> None:
    rng = np.random.default_rng(0)
    real = cloud(CENTRES, 0.4, rng)
    generators = {
        "as the data": cloud(CENTRES, 0.4, rng),
        "drops three modes": cloud(CENTRES[:5], 0.4, rng),
        "adds one in the middle": cloud(np.vstack([CENTRES, [0, 0]]), 0.4, rng),
        "too narrow": cloud(CENTRES, 0.15, rng),
        "too wide": cloud(CENTRES, 0.8, rng),
        "copies ten real points": real[:10][rng.integers(0, 10, N)],
    }
    figure, axes = plt.subplots(3, 2, figsize=(6.4, 10), sharex=True, sharey=True, layout="constrained")
    for axis, (name, fake) in zip(axes.ravel(), generators.items(), strict=True):
        m = neighbour_metrics(distances(real, real), distances(fake, fake), distances(real, fake))
        frechet = frechet_distance(real, fake)
        axis.plot(*real.T, ".", ms=3, color="0.7")
        axis.plot(*fake.T, "x", ms=3, color="#0072b2")
        axis.set_title(name, fontsize=11)
        axis.set_xlabel(
            f"precision {m['precision']:.2f}  recall {m['recall']:.2f}\n"
            f"density {m['density']:.2f}  coverage {m['coverage']:.2f}\nFréchet distance {frechet:.2f}", fontsize=9
        )  # fmt: skip
        axis.set_aspect("equal")
        axis.tick_params(labelsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
