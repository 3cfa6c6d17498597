"""The normal distribution nearest to a mixture of two, by KL(data‖model), by KL(model‖data) and by JSD."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.distributions import Normal

X = np.linspace(-9, 9, 1801)
CELL = X[1] - X[0]


def divergences(log_p, log_q):
    """KL(p‖q), KL(q‖p) and JSD, by the trapezoidal rule on X."""
    p, q = ng.exp(log_p), ng.exp(log_q)
    log_m = ng.log((p + q) / 2)
    forward, reverse = (p * (log_p - log_q)).sum() * CELL, (q * (log_q - log_p)).sum() * CELL
    between = ((p * (log_p - log_m)).sum() + (q * (log_q - log_m)).sum()) * CELL / 2
    return {"KL(data‖model)": forward, "KL(model‖data)": reverse, "JSD": between}


def nearest(log_p, name, start, steps=800):
    """The mean and the standard deviation of the nearest normal distribution, by Adam."""
    mean, log_std = (ng.tensor(np.array(value), requires_grad=True) for value in start)
    optimizer = ng.optim.Adam([mean, log_std], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        divergences(log_p, Normal(mean, log_std=log_std).log_prob(X))[name].backward()
        optimizer.step()
    return mean.item(), float(np.exp(log_std.item()))


def draw(path: Path) -> None:
    data = GaussianMixture([0.65, 0.35], [[-2.0], [2.5]], [0.6, 0.9])
    log_p = ng.tensor(data.log_prob(X[:, None]))
    figure, axes = plt.subplots(3, 1, figsize=(6.4, 7.4), sharex=True, layout="constrained")
    for axis, (name, color) in zip(
        axes, {"KL(data‖model)": "#0072b2", "KL(model‖data)": "#d55e00", "JSD": "#009e73"}.items(), strict=True
    ):
        axis.fill_between(X, np.exp(log_p.data), color="0.85", label="data")
        for start, style in (((-1.0, 0.0), "-"), ((2.0, 0.0), "--")):
            mean, std = nearest(log_p, name, start)
            log_q = Normal(mean, std).log_prob(X)
            value = divergences(log_p, log_q)[name].item()
            label = f"N({mean:.2f}, {std:.2f}²): {value:.2f} nats"
            axis.plot(X, np.exp(log_q.data), style, color=color, lw=2, label=label)
        axis.set(title=f"least {name}", ylabel="density", xlim=(-6, 7), ylim=(0, 0.8))
        axis.legend()
    axes[-1].set_xlabel("x")
    figure.savefig(path, dpi=150)
    plt.close(figure)
