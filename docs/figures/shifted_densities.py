"""What the best discriminator of each game tells of two densities, and how steep it is between them."""

from pathlib import Path
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.adversarial.objectives import discriminator_loss

STD = 0.25  # of both densities, N(0, STD²) of the data and N(shift, STD²) of the samples
QUANTILES = STD * np.array([NormalDist().inv_cdf((i + 0.5) / 4000) for i in range(4000)])


def best(objective: str, x: np.ndarray, shift: float) -> np.ndarray:
    """The output of the best discriminator of each game at x."""
    logit = (shift - 2 * x) * shift / (2 * STD**2)  # log p(x) − log q(x)
    return {"minimax": logit, "hinge": np.sign(logit), "wasserstein": -x}[objective]


def told(objective: str, shift: float) -> float:
    """By how much the best discriminator's loss is below that of d = 0, which tells nothing."""
    real, fake = (ng.tensor(best(objective, x, shift)) for x in (QUANTILES, QUANTILES + shift))
    nothing = ng.tensor([0.0])
    return discriminator_loss(nothing, nothing, objective).item() - discriminator_loss(real, fake, objective).item()


def draw(path: Path) -> None:
    names = {
        "minimax": ("cross-entropy: 2 JSD, nats", "#D55E00", "--"),
        "hinge": ("hinge: 2 total variation", "#0072B2", ":"),
        "wasserstein": ("Wasserstein distance, units of x", "#009E73", "-"),
    }
    figure, (above, below) = plt.subplots(2, 1, figsize=(6.4, 7.0), layout="constrained")
    shifts = np.linspace(0, 4, 81)
    for name, (label, color, style) in names.items():
        above.plot(shifts, [told(name, shift) for shift in shifts], color=color, ls=style, lw=2, label=label)
    above.set(xlabel=f"distance of the means (both standard deviations are {STD})", ylabel="what the best D tells")
    above.legend(fontsize=9)

    x = np.linspace(-1, 4, 1001)
    for mean, color, label in ((0.0, "0.6", "data"), (3.0, "#E69F00", "samples")):
        below.fill_between(x, np.exp(-((x - mean) ** 2) / (2 * STD**2)), color=color, alpha=0.5, label=label)
    probability = 1 / (1 + np.exp(-best("minimax", x, 3.0)))
    below.plot(x, probability, color="#D55E00", ls="--", lw=2, label="D* = p / (p + q)")
    below.plot(x, best("wasserstein", x, 3.0), color="#009E73", lw=2, label="the best critic, d = −x")
    below.set(xlabel="x", ylabel="density (scaled), D, d", xlim=(-1, 4), ylim=(-3.6, 1.6))
    below.legend(fontsize=9, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)
