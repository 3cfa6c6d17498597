"""How a model is trained unless told otherwise: what was found to work on the data sets at hand."""

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
        all four families (0.998: diffusion has 2.63 bits for 2.58); larger images have five times the steps, and 0.995.
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


large = functools.partial(Recipe, threads=2, samples_every=1000, ema=0.995)  # images beyond 16×16, an hour or so
