"""A posterior with two modes: the best Gaussian covers one of them, the best mixture of two covers both."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen import functional as F
from nanogen.distributions import Normal
from nanogen.models.latent.posteriors import NormalMixture

GRID = np.linspace(-4, 4, 1601)
WIDTH = GRID[1] - GRID[0]
POINTS = ng.tensor(GRID[:, None])
LOG_JOINT = (Normal((POINTS - 0.3) ** 2, 0.5).log_prob(3.0) + Normal(0.0, 1.0).log_prob(POINTS))[:, 0]


def fitted(start: list[list[float]]) -> tuple[np.ndarray, float]:
    """The density of a mixture that rises along the gradient of its ELBO, and that ELBO, both on the grid."""
    numbers = ng.tensor(np.array(start), requires_grad=True)  # of each component: logit, mean, log std
    optimizer = ng.optim.Adam([numbers], lr=0.03)
    for _ in range(600):
        logits, mean, log_std = (numbers[:, i].reshape(1, -1) for i in range(3))
        q = NormalMixture(logits, Normal(mean.reshape(1, -1, 1), log_std=log_std.reshape(1, -1, 1)))
        log_q = q.log_prob(POINTS)
        elbo = (F.exp(log_q) * (LOG_JOINT - log_q)).sum() * WIDTH
        optimizer.zero_grad()
        (-elbo).backward()
        optimizer.step()
    return np.exp(log_q.numpy()), elbo.item()


def draw(path: Path) -> None:
    log_p = np.log(np.exp(LOG_JOINT.numpy()).sum() * WIDTH)
    posterior = np.exp(LOG_JOINT.numpy() - log_p)
    figure, axis = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axis.fill_between(GRID, posterior, color="0.85")
    axis.plot(GRID, posterior, color="black", linewidth=1, label="p(z|x)")
    starts = {"a Gaussian": [[0.0, -1.4, -1.0]], "a mixture of two": [[0.0, -1.4, -1.0], [0.0, 2.0, -1.0]]}
    for (name, start), color, style in zip(starts.items(), ["#D55E00", "#0072B2"], ["-", "--"], strict=True):
        density, elbo = fitted(start)
        axis.plot(GRID, density, color=color, linestyle=style, linewidth=2,
                  label=f"{name}, ELBO = log p(x) − {log_p - elbo:.3f}")  # fmt: skip
    axis.set(xlabel="z", ylabel="density", xlim=(-3, 4), ylim=(0, 2.9))
    axis.legend(fontsize=9, loc="upper right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
