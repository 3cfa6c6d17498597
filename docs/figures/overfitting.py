"""The density that remembers the training data: a normal distribution of width s around each training point."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen import Generator
from nanogen.data.known import GaussianMixture


def draw(path: Path) -> None:
    source = GaussianMixture([1, 1, 1], [[-1, -0.5], [0.3, 0.8], [1.2, -0.6]], [0.25, 0.35, 0.2])
    train, test = source.sample(100, Generator(0)), source.sample(4000, Generator(1))
    entropy = -source.log_prob(source.sample(200_000, Generator(2))).mean()
    widths = np.geomspace(0.01, 3, 60)
    models = [GaussianMixture(np.ones(len(train)), train, np.full(len(train), s)) for s in widths]
    of_train, of_test = ([-model.log_prob(x).mean() for model in models] for x in (train, test))
    best = int(np.argmin(of_test))

    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    axis.semilogx(widths, of_train, color="#0072b2", lw=2, label="the 100 training points")
    axis.semilogx(widths, of_test, "--", color="#d55e00", lw=2, label="4,000 other points")
    axis.axhline(entropy, color="k", ls=":", label=f"entropy of the source, {entropy:.2f}")
    axis.plot(widths[best], of_test[best], "o", color="#d55e00", ms=8)
    axis.annotate(f"{of_test[best]:.2f} at s = {widths[best]:.2f}", (widths[best], of_test[best]), (0.06, 3.0),
                  arrowprops={"arrowstyle": "->"})  # fmt: skip
    axis.set(xlabel="width s around each training point", ylabel="−log p, nats per point", ylim=(-5, 9))
    axis.legend(loc="upper right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
