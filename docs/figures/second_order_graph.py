"""The graph of y = tanh(x), and that of its derivative, which the backward pass wrote."""

from pathlib import Path

import matplotlib.pyplot as plt
from graph_of import draw_graph

import nanogen as ng
from nanogen import functional as F


def draw(path: Path) -> None:
    x = ng.tensor(1.0, requires_grad=True)
    y = F.tanh(x)
    (slope,) = ng.grad(y, x, create_graph=True)
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 5.6), width_ratios=(1, 2), layout="constrained")
    draw_graph(axes[0], y, {"x": x})
    axes[0].set_title("y = tanh(x)")
    draw_graph(axes[1], slope, {"x": x})
    axes[1].set_title("dy/dx")
    figure.savefig(path, dpi=150)
    plt.close(figure)
