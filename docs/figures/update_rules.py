"""Update rules on a narrow valley, and what a moving average takes of the past."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng

RULES = {
    "SGD, lr 0.019": (ng.optim.SGD, {"lr": 0.019}, "#000000", "-"),
    "with momentum 0.9": (ng.optim.SGD, {"lr": 0.019, "momentum": 0.9}, "#0072b2", "--"),
    "Adam, lr 0.1": (ng.optim.Adam, {"lr": 0.1}, "#d55e00", "-."),
}


def weights(k: int, decay: float, warmup: bool) -> np.ndarray:
    """Of x_0 … x_k in the average after k steps: x is 1 at one of them and 0 at the others."""
    found = []
    for one in range(k + 1):
        x = ng.tensor(float(one == 0))
        average = ng.optim.ExponentialMovingAverage([x], decay, warmup)
        for step in range(1, k + 1):
            x.data = np.array(float(step == one))
            average.update()
        found.append(float(average.averages[0]))
    return np.array(found)


def draw(path: Path) -> None:
    figure, (left, right) = plt.subplots(2, 1, figsize=(6.4, 6.4), layout="constrained")
    curvature = np.array([1.0, 100.0])
    for name, (rule, settings, color, style) in RULES.items():
        x = ng.tensor(np.ones(2), requires_grad=True)
        optimizer, losses = rule([x], **settings), []
        for _ in range(200):
            loss = (0.5 * curvature * x * x).sum()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        left.semilogy(losses, style, color=color, label=name)
    left.set(xlabel="step", ylabel="loss", title="½ x² + 50 y² from (1, 1)", ylim=(1e-8, 1e3))
    left.legend(fontsize=9)
    for warmup, color, marker in ((True, "#d55e00", "o"), (False, "#0072b2", "s")):
        label = "with" if warmup else "without"
        right.plot(weights(20, 0.95, warmup), marker, color=color, ms=5, label=f"{label} warm-up")
    right.set(xlabel="step i", ylabel="weight of x_i", title="the average after 20 steps, decay 0.95")
    right.set(ylim=0, xticks=range(0, 21, 4))
    right.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
