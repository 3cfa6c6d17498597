"""Draws of Gumbel-softmax codes of three classes at three temperatures, in the triangle of their shares."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.latent.posteriors import gumbel_softmax

P, DRAWS = np.array([0.5, 0.3, 0.2]), 3000
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])


def draw(path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(6.4, 2.6), layout="constrained")
    for axis, temperature in zip(axes, (0.1, 0.7, 3.0), strict=True):
        logits = ng.tensor(np.tile(np.log(P), (DRAWS, 1)))
        codes = gumbel_softmax(logits, temperature, ng.Generator(0)).numpy()
        chosen = codes.argmax(1)
        for k, (color, marker) in enumerate(zip(["#0072B2", "#D55E00", "#009E73"], "o^s", strict=True)):
            axis.scatter(*(codes[chosen == k] @ CORNERS).T, s=3, alpha=0.4, color=color, marker=marker)
            share, across = (chosen == k).mean(), ["right", "left", "center"][k]
            axis.annotate(
                f"{share:.2f}", CORNERS[k], (0, -12 if k < 2 else 5), textcoords="offset points", ha=across, fontsize=10
            )
        axis.fill(*CORNERS.T, fill=False)
        axis.set(title=f"τ = {temperature:g}", aspect="equal", xlim=(-0.15, 1.15), ylim=(-0.2, 1.05))
        axis.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)
