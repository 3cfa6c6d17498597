"""How each family is trained unless told otherwise: what was found to work on the data sets at hand."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    steps: training steps.
    batch: images a step.
    lr: the largest learning rate; it rises over `warmup` steps and falls to 0 as a half cosine.
    betas: Adam's decay rates.
    weight_decay: AdamW's.
    ema: the decay of the averaged weights that sampling and evaluation use.  On the digits 0.98 is about the best for
        all four (0.998: 2.63 bits for the DDPM's 2.58); larger images have five times the steps, and 0.995.
    threads: of the matrix products.  Small ones gain little by more than one, and lose much on a busy machine.
    samples_every: steps between the pictures of samples while training.
    model: settings of the model that differ from its defaults.
    """

    steps: int
    batch: int = 64
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup: int = 100
    ema: float = 0.98
    threads: int = 1
    samples_every: int = 200
    model: dict[str, Any] = field(default_factory=dict)


SMALL = {  # images of up to 16×16, a minute or so on two cores
    "pixelcnn": Recipe(steps=800, lr=3e-3, model={"channels": 64}),
    "vae": Recipe(steps=900, lr=1e-3),
    "gan": Recipe(steps=800, lr=5e-4, betas=(0.5, 0.999), warmup=0),
    "ddpm": Recipe(steps=600, model={"T": 200, "channels": 32}),
}

_large = functools.partial(Recipe, threads=2, samples_every=1000, ema=0.995)
LARGE = {  # larger ones, an hour or so
    "pixelcnn": _large(steps=3000, lr=1e-3, model={"channels": 64, "kernel_size": 7, "dropout": 0.0}),
    "vae": _large(steps=4000, lr=1e-3, model={"latent": 32, "decoder": "logistic"}),
    "gan": _large(steps=4000, lr=3e-4, betas=(0.5, 0.999), warmup=0, model={"channels": 32}),
    "ddpm": _large(steps=3000, lr=1e-3, model={"channels": 32, "multipliers": (1, 2, 2)}),
}


def recipe(model: str, image_shape: tuple[int, int, int]) -> Recipe:
    """The recipe for a family on images of a shape (C, H, W)."""
    return (SMALL if max(image_shape[1:]) <= 16 else LARGE)[model]
