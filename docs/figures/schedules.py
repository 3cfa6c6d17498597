"""Four schedules: the variance of a step, and what is left of the signal."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.models import NoiseSchedule
from nanogen.models.diffusion.schedule import SCHEDULES

STYLES = {"linear": "-", "quadratic": "--", "sigmoid": "-.", "cosine": ":"}


def draw(path: Path) -> None:
    figure, (beta, signal, ratio) = plt.subplots(3, 1, figsize=(6.4, 7.5), sharex=True, layout="constrained")
    schedules = {name: SCHEDULES[name](1000) for name in STYLES}
    for name, s in schedules.items():
        beta.semilogy(s.betas[1:], STYLES[name], label=name)
        signal.plot(s.alpha_bars, STYLES[name], label=name)
        ratio.semilogy(s.alpha_bars[1:] / s.sqrt_one_minus_alpha_bars[1:] ** 2, STYLES[name], label=name)
    half = NoiseSchedule.linear(1000, beta_last=0.01)
    for ax, table in (
        (beta, half.betas[1:]),
        (signal, half.alpha_bars),
        (ratio, half.alpha_bars[1:] / half.sqrt_one_minus_alpha_bars[1:] ** 2),
    ):
        ax.plot(table, color="grey", linewidth=1, label="linear, last β 0.01")
        ax.grid(alpha=0.3)
    beta.set(ylabel="β_t", title="variance of the noise of one step")
    signal.set(ylabel="ᾱ_t", title="share of the variance that is signal")
    ratio.set(ylabel="ᾱ_t / (1 − ᾱ_t)", xlabel="time t", title="signal-to-noise ratio", ylim=(1e-6, 1e5))
    ratio.set_yticks(10.0 ** np.arange(-6, 6, 2))
    signal.legend(fontsize=9)
    figure.savefig(path, dpi=150)
