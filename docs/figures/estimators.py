"""Draws of the bound by its four estimators."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.models import DDPM

SOURCE = GaussianMixture([0.3, 0.1, 0.1, 0.1, 0.4], np.linspace(-1, 1, 5)[:, None], np.zeros(5))


class Exact(DDPM):
    """A DDPM whose network is E[ε | x_t] of pixels that are independent draws from the source."""

    def predict(self, x_t: Any, t: Any, rng: Any = None) -> ng.Tensor:
        found, times = np.empty_like(x_t.data), np.broadcast_to(t, len(x_t))
        for time in np.unique(times):
            x = x_t.data[times == time]
            bar = float(self.schedule.alpha_bars[time])
            found[times == time] = SOURCE.expected_noise(x.reshape(-1, 1), bar).reshape(x.shape)
        return ng.tensor(found)


def draw(path: Path) -> None:
    model, n = Exact((1, 2, 2), 5, T=50, channels=2, multipliers=(1,), heads=1).to(np.float64), 10_000
    images = np.tile(np.array([[[[0, 1], [3, 4]]]], np.uint8), (n, 1, 1, 1))
    figure, axes = plt.subplots(4, 1, figsize=(6.4, 6.4), sharex=True, layout="constrained")
    for ax, (name, evaluations) in zip(axes, model.estimators.items(), strict=True):
        bits = -model.elbo(images, ng.Generator(0), estimator=name).data / math.log(2) / 4
        ax.hist(bits, bins=np.linspace(-10, 22, 161), color="C0")
        ax.axvline(bits.mean(), color="black")
        network = f"{evaluations} network evaluation{'s' if evaluations > 1 else ''}"
        ax.set_title(f"{name}, {network}: {bits.mean():.2f} ± {bits.std():.2f}", fontsize=10)
        ax.set_yticks([])
    axes[-1].set_xlabel("one draw of the bound, bits per dimension (black: the mean)")
    figure.savefig(path, dpi=150)
