"""The density of x_t for a source of three parts, and five chains, from t = 0 to T."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.models import NoiseSchedule


def draw(path: Path) -> None:
    schedule, rng = NoiseSchedule.linear(1000), ng.Generator(1)
    source = GaussianMixture([1, 1, 1], [[-0.9], [0.0], [0.8]], [0.05, 0.12, 0.05])
    x, times = np.linspace(-3.5, 3.5, 400), np.arange(0, 1001, 4)
    density = np.stack(
        [np.exp(source.diffused(bar).log_prob(x[:, None])) for bar in schedule.alpha_bars[times]], axis=1
    )

    chains = [source.sample(5, rng)[:, 0]]
    for t in range(1, schedule.T + 1):
        chains.append(schedule.forward(chains[-1], t - 1, t, rng.normal(5, np.float64)))

    figure, (wide, ends) = plt.subplots(
        1, 2, figsize=(6.4, 3.6), width_ratios=(5, 1), sharey=True, layout="constrained"
    )
    wide.imshow(np.sqrt(density), origin="lower", aspect="auto", extent=(0, 1000, -3.5, 3.5), cmap="Greys", vmax=1.2)
    for chain, color in zip(np.stack(chains, axis=1), ("C0", "C1", "C2", "C4", "C5"), strict=True):
        wide.plot(chain, color=color, linewidth=0.7)
    wide.set(xlabel="time t", ylabel="x_t", title="density of x_t, and five chains")
    ends.plot(np.exp(source.diffused(float(schedule.alpha_bars[-1])).log_prob(x[:, None])), x, color="black")
    ends.plot(np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi), x, "--", color="C1")
    ends.set(title="t = T", xlabel="density")
    ends.legend(["q(x_T)", "N(0, 1)"], loc="lower right", fontsize=9, handlelength=1)
    figure.savefig(path, dpi=150)
