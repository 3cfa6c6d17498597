"""The graph of a small loss: broadcasting, a tensor that is used twice, and constants."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from graph_of import draw_graph

import nanogen as ng
from nanogen import functional as F


def draw(path: Path) -> None:
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((5, 3)), rng.standard_normal((5, 1))
    w, b = (ng.tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((3, 1), (1,)))
    h = F.tanh(ng.tensor(x) @ w + b)
    loss = ((h * h - target) ** 2).sum()
    figure, axis = plt.subplots(figsize=(6.4, 7), layout="constrained")
    draw_graph(axis, loss, {"w": w, "b": b})
    figure.savefig(path, dpi=150)
    plt.close(figure)
