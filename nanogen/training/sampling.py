"""Images drawn from a model, by one process or several."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen.backend import to_numpy
from nanogen.models import GenerativeModel
from nanogen.processes import Team, check_processes
from nanogen.random import Generator


def sampler(model: GenerativeModel, rng: Generator, processes: int, most: int, **how: Any) -> Team:
    """What gives n images, at most `most`, from the stream of these indices: `(n, *indices)` to uint8 (n, C, H, W) on
    the host.  Several processes each draw their part of them, from streams of their own.

    Args:
        how: the model's settings of sampling.

    Raises:
        ValueError: several processes on a GPU, or too many.
    """
    check_processes(processes, rng.device)

    def draw(n: int, *indices: int) -> np.ndarray:
        each = -(-n // team.count)
        own = to_numpy(model.sample(each, rng.stream(*indices, *team.own_index), **how))
        return team.gather(own)[:n]

    team = Team(draw, processes, -(-most // processes) * math.prod(model.image_shape))
    return team
