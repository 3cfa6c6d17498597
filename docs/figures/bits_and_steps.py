"""What a reverse step that treats pixels one by one costs, by the number of steps: bits of a small Ising model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import Ising
from nanogen.models import BinomialDiffusion
from nanogen.models.diffusion.binomial import BitFlips

FIELD = Ising(2, 3, coupling=0.6)
IMAGES = 2.0 * FIELD.all_images() - 1  # all 64, of 1 and −1
P = np.exp(FIELD.log_prob(FIELD.all_images()))
STEPS = [1, 2, 4, 8, 16, 32, 64, 128]


class Exact(BinomialDiffusion):
    """Predicts p(x_0 = 1 | x_t) of each pixel, by Bayes' rule over all images."""

    def x0_logits(self, x_t: ng.Tensor, t: Any, rng: Any = None, labels: Any = None) -> ng.Tensor:
        kept = (1 + self.flips.alpha_bars[int(t[0])]) / 2  # the chance that a pixel of x_t is that of x_0
        same = (x_t.data[:, None] == IMAGES).sum((2, 3, 4))
        joint = P * kept**same * (1 - kept) ** (6 - same)  # (N, 64)
        one, zero = (np.tensordot(joint, bit == IMAGES, 1) for bit in (1, -1))
        with np.errstate(divide="ignore"):
            return ng.tensor(np.log(one) - np.log(zero))


def bound(T: int) -> float:
    """The mean of the bound over all images and all x_t, in nats: no draws.  L_T is 0."""
    model = Exact((1, 2, 3), 2, T, channels=2, multipliers=(1,), heads=1).to(np.float64)
    model.flips, total = BitFlips.linear(T), 0.0
    x0, x_t = (IMAGES[i] for i in np.indices((64, 64)).reshape(2, -1))
    for t in range(1, T + 1):
        same = (x0 == x_t).sum((1, 2, 3))
        kept = (1 + model.flips.alpha_bars[t]) / 2
        weight = P.repeat(64) * kept**same * (1 - kept) ** (6 - same)
        with ng.no_grad():
            found = model.divergence(ng.tensor(x0), ng.tensor(x_t), np.full(len(x0), t)).data
        total += (weight * found).sum()
    return total


def draw(path: Path) -> None:
    bits = [bound(T) / (6 * math.log(2)) for T in STEPS]
    entropy = FIELD.entropy() / (6 * math.log(2))
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.semilogx(STEPS, bits, "o-", color="#0072b2", label="bound with exact predictions of each pixel")
    axes.axhline(entropy, color="#d55e00", ls="--", label="entropy of the data")
    axes.set_xticks(STEPS, [str(T) for T in STEPS])
    axes.minorticks_off()
    axes.set_xlabel("steps T")
    axes.set_ylabel("bits per pixel")
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
