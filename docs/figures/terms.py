"""The terms of the bound and of the plain loss at each time, with the best prediction of a known source."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.data.known import GaussianMixture
from nanogen.models import NoiseSchedule
from nanogen.models.diffusion.prediction import PREDICTIONS


def draw(path: Path) -> None:
    s = NoiseSchedule.linear(1000)
    source = GaussianMixture([0.3, 0.1, 0.1, 0.1, 0.4], np.linspace(-1, 1, 5)[:, None], np.zeros(5))
    t = np.unique(np.geomspace(2, 1000, 60).astype(int))
    errors = np.array([source.best_loss(float(s.alpha_bars[i]), points=4001) for i in t])  # E(ε − E[ε | x_t])²
    bits = PREDICTIONS["noise"].weights(s, np.maximum(s.posterior_variances, 1e-12))[t] * errors / math.log(2)
    figure, (plain, bound) = plt.subplots(2, 1, figsize=(6.4, 5.6), sharex=True, layout="constrained")
    plain.semilogx(t, errors, "o-", markersize=3)
    plain.set(ylabel=r"$\mathrm{E}\,(\varepsilon - \varepsilon_\theta)^2$", title="plain loss, by the best prediction")
    bound.semilogx(t, t * bits, "o-", markersize=3, color="C1")
    bound.set(
        xlabel="time $t$", ylabel=r"$t \cdot L_{t-1}$, bits", title="terms of the bound: equal areas are equal bits"
    )
    for ax in (plain, bound):
        ax.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
