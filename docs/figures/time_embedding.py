"""The sinusoidal embedding of the times 1 to 1000."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.diffusion.unet import sinusoidal_embedding


def draw(path: Path) -> None:
    rows = sinusoidal_embedding(np.arange(1, 1001), 32, ng.tensor(np.zeros(1))).data
    figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    shown = ax.imshow(rows.T, aspect="auto", cmap="RdBu", extent=(1, 1000, 32, 0), interpolation="nearest")
    ax.set(xlabel="time t", ylabel="channel", title="channels 0 – 15: sines, 16 – 31: cosines")
    figure.colorbar(shown)
    figure.savefig(path, dpi=150)
