"""The error of difference quotients of eˢⁱⁿˣ against the step: truncation on the right, rounding on the left."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def f(x):
    return np.exp(np.sin(x))


def draw(path: Path) -> None:
    figure, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    steps, x = np.logspace(-13, 0, 400), np.float64(1.0)
    slope = np.cos(x) * f(x)
    for dtype, color, name in ((np.float64, "#0072b2", "double"), (np.float32, "#d55e00", "single")):
        for style, low, label in (("-", -1, "central"), (":", 0, "forward")):
            ends = [(dtype(x + h), dtype(x + low * h)) for h in steps]
            found = [float(f(b) - f(a)) / float(b - a) if b != a else np.nan for b, a in ends]
            errors = np.abs(np.array(found) / slope - 1)
            errors[np.isnan(errors)] = 1.0  # the step is lost in rounding
            typical = [np.median(errors[max(i - 8, 0) : i + 9]) for i in range(len(errors))]
            axis.loglog(steps, typical, style, color=color, label=f"{label}, {name} precision")
    axis.set(xlabel="step", ylabel="relative error", ylim=(1e-13, 3))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
