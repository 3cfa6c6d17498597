"""What the bound and the plain squared errors make of an error of the predicted image, at each time."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.models import NoiseSchedule
from nanogen.models.diffusion.prediction import PREDICTIONS


def draw(path: Path) -> None:
    s = NoiseSchedule.linear(1000)
    figure, (own, common) = plt.subplots(2, 1, figsize=(6.4, 6.4), sharex=True, layout="constrained")
    of_x0 = PREDICTIONS["x0"].weights(s, s.betas)[1:]
    common.loglog(np.arange(1, 1001), of_x0, color="black", label="the bound")
    for (name, form), style in zip(PREDICTIONS.items(), ("-", "--", "-.", ":"), strict=True):
        weights = form.weights(s, s.betas)[1:]
        own.loglog(np.arange(1, 1001), weights, style, label=name)
        common.loglog(np.arange(1, 1001), of_x0 / weights, style, label=f"plain error of {name}")
    own.set(ylabel="weight w_t", title="weight in the bound of each prediction's squared error")
    common.set(xlabel="time t", ylabel="weight of (x_0 − x̂_0)²", title="the same error, in terms of the image")
    for ax in (own, common):
        ax.grid(alpha=0.3)
        ax.legend(fontsize=9, loc="lower left")
    figure.savefig(path, dpi=150)
