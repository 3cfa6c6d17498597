"""A normal distribution on integer levels: each has the mass of its bin, the first and the last also a tail."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.distributions import DiscretizedNormal, Normal

LEVELS, MEAN, STD = 8, 0.7, 0.4


def draw(path: Path) -> None:
    centres, half = np.linspace(-1, 1, LEVELS), 1 / (LEVELS - 1)
    mass = np.exp(DiscretizedNormal(MEAN, np.log(STD), LEVELS).log_prob(np.arange(LEVELS)).data)
    x = np.linspace(-1.3, 1.9, 400)
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    bars = axis.bar(centres, mass / (2 * half), 2 * half, color="#9ecae9", edgecolor="k", label="mass / bin width")
    axis.bar_label(bars, [f"{m:.3f}" for m in mass], padding=3, bbox={"fc": "w", "ec": "none", "pad": 0.5})
    axis.plot(x, np.exp(Normal(MEAN, STD).log_prob(x).data), color="#d55e00", lw=2, label="density")
    axis.axvspan(1 + half, 1.9, color="0.9", label="tail: belongs to level 7")
    axis.set(xlabel="x, with level k at 2k/7 − 1", ylabel="density")
    axis.set_xticks(centres, [f"{k}\n{c:.2f}" for k, c in enumerate(centres)])
    axis.legend(loc="upper left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
