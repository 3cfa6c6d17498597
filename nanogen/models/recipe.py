"""The default settings of training, found by experiments on the built-in data sets."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Attributes:
    steps: training steps.
    batch: images per step.
    lr: the largest learning rate.  It rises over `warmup` steps, then falls to 0 along half a cosine.
    betas: Adam's decay rates.
    weight_decay: AdamW's.
    ema: the decay of the averaged weights that sampling and evaluation use.  On the digits, 0.98 is about the best for
        all four families (with 0.998, diffusion reaches 2.63 bits instead of 2.58).  Larger images train for five times
        the steps, with 0.995.
    threads: of the matrix products.  Small products gain little from several threads, and are slow on a busy machine.
    samples_every: steps between two pictures of samples.
    test_every: steps between two test losses, which then take less than 5 % of the time.
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
    test_every: int = 25
    model: dict[str, Any] = field(default_factory=dict)


large = functools.partial(
    Recipe, threads=2, samples_every=1000, test_every=100, ema=0.995
)  # images beyond 16×16, an hour or so
