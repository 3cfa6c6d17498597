"""What the generator minimises, and its slope, as functions of the logit d of a sample."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.adversarial.objectives import generator_loss

NAMES = {"minimax": ("#D55E00", "-"), "non-saturating": ("#0072B2", "--"), "wasserstein": ("#009E73", ":")}


def loss_and_slope(logits: np.ndarray, objective: str) -> tuple[np.ndarray, np.ndarray]:
    """Of each logit by itself: the loss is a mean, so each logit is a batch of one."""
    found = []
    for logit in logits:
        d = ng.tensor([logit], requires_grad=True)
        loss = generator_loss(d, objective)
        found.append((loss.item(), ng.grad(loss, d)[0].item()))
    return tuple(np.array(found).T)


def draw(path: Path) -> None:
    logits = np.linspace(-6, 6, 121)
    figure, (above, below) = plt.subplots(2, 1, figsize=(6.4, 6.6), sharex=True, layout="constrained")
    for name, (color, style) in NAMES.items():
        loss, slope = loss_and_slope(logits, name)
        label = "Wasserstein and hinge: −d" if name == "wasserstein" else name
        above.plot(logits, loss, color=color, ls=style, lw=2, label=label)
        below.plot(logits, slope, color=color, ls=style, lw=2)
    above.set(ylabel="loss of the generator, nats or units of d", ylim=(-6.3, 6.3))
    above.legend(fontsize=9)
    below.set(ylabel="slope of the loss in d", xlabel="logit d = log D/(1 − D) of a sample", ylim=(-1.08, 0.05))
    below.annotate("D is sure that the sample\nis fake: no gradient", (-5, -0.01), (-5.8, -0.32), fontsize=9,
                   arrowprops={"arrowstyle": "->"})  # fmt: skip
    below.annotate("the largest gradient", (-5, -0.985), (-5.8, -0.78), fontsize=9, arrowprops={"arrowstyle": "->"})
    figure.savefig(path, dpi=150)
    plt.close(figure)
