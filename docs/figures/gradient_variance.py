"""The noise of two unbiased estimates of one gradient: by the score function, and by reparameterisation."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.distributions import Normal

DRAWS, STD = 4000, 0.5


def estimates(dimensions: int, rng: ng.Generator) -> dict[str, np.ndarray]:
    """∂/∂μ_1 of E_q[f(z)], f(z) = −½ ‖z − 1‖², q = N(0, STD² I): one estimate for each of DRAWS draws."""
    mean = ng.tensor(np.zeros((DRAWS, dimensions)), requires_grad=True)
    q = Normal(mean, STD)
    f = lambda z: -0.5 * ((z - 1.0) ** 2).sum(1)
    (path,) = ng.grad(f(q.rsample(rng)).sum(), mean)
    z = q.sample(rng)
    reward = f(z)
    others = (reward.sum() - reward) / (DRAWS - 1)  # a baseline that does not depend on z
    scores = [ng.grad((q.log_prob(z).sum(1) * r.detach()).sum(), mean)[0] for r in (reward, reward - others)]
    return dict(zip(LABELS, [x.numpy()[:, 0] for x in (path, *scores)], strict=True))


LABELS = ["reparameterised", "score function", "score function,\nminus the mean reward"]


def draw(path: Path) -> None:
    dimensions = [1, 2, 4, 8, 16, 32, 64, 128]
    found = [estimates(d, ng.Generator(d)) for d in dimensions]
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for label, color, marker in zip(LABELS, ["#0072B2", "#D55E00", "#009E73"], "o^s", strict=True):
        axis.plot(dimensions, [one[label].std() for one in found], color=color, marker=marker, label=label)
    axis.axhline(1, color="black", linewidth=1, linestyle="--")
    axis.text(1, 1.1, "the gradient itself, 1", fontsize=9)
    axis.set(xscale="log", yscale="log", xlabel="dimensions of z", ylabel="std of one estimate", xticks=dimensions,
             xticklabels=dimensions)  # fmt: skip
    axis.minorticks_off()
    axis.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
