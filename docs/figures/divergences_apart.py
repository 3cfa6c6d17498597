"""Two narrow normal distributions that move apart: what each divergence says of the distance between them."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.distributions import Normal, kl_divergence

STD = 0.5


def draw(path: Path) -> None:
    x = np.linspace(-6, 14, 8001)
    cell = x[1] - x[0]
    apart = np.linspace(0, 8, 81)
    p = np.exp(Normal(0.0, STD).log_prob(x).data)
    jsd, wasserstein = [], []
    for d in apart:
        q = np.exp(Normal(d, STD).log_prob(x).data)
        middle = (p + q) / 2
        # 0 log 0 = 0: far out both densities are 0 in floating point
        terms = [a * np.log(np.where(a > 0, a, 1) / np.where(a > 0, middle, 1)) for a in (p, q)]
        jsd.append(sum(terms).sum() * cell / 2)
        wasserstein.append(np.abs((p - q).cumsum() * cell).sum() * cell)
    kl = kl_divergence(Normal(0.0, STD), Normal(apart, STD)).data

    figure, axes = plt.subplots(3, 1, figsize=(6.4, 6.6), sharex=True, layout="constrained")
    curves = (("KL, nats", kl, "#d55e00"), ("JSD, nats", jsd, "#009e73"), ("Wasserstein", wasserstein, "#0072b2"))
    for axis, (name, values, color) in zip(axes, curves, strict=True):
        axis.plot(apart, values, color=color, lw=2)
        axis.set_ylabel(name)
    axes[1].axhline(np.log(2), color="k", ls=":")
    axes[1].text(0.1, np.log(2) - 0.09, "log 2")
    axes[-1].set_xlabel(f"distance of the means; both have the standard deviation {STD}")
    figure.savefig(path, dpi=150)
    plt.close(figure)
