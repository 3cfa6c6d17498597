"""Images drawn from a model, by one process or several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, to_numpy
from nanogen.capture import Replayed
from nanogen.models import GenerativeModel
from nanogen.nn import Module
from nanogen.processes import Team, check_processes
from nanogen.random import Generator


def sampler(
    model: GenerativeModel,
    rng: Generator,
    processes: int,
    most: int,
    labels: Callable[[int, Generator], Any] | None = None,
    **how: Any,
) -> Team:
    """What gives n images, at most `most`, from the stream of these indices: `(n, *indices)` to uint8 (n, C, H, W) on
    the host.  Several processes each draw their part of them, from streams of their own.

    Args:
        labels: gives n images' labels, by what is drawn before the images; the model's own way unless given.
        how: the model's settings of sampling.

    Raises:
        ValueError: several processes on a GPU, or too many.
    """
    check_processes(processes, rng.device)

    def draw(n: int, *indices: int) -> np.ndarray:
        each = -(-n // team.count)
        stream = rng.stream(*indices, *team.own_index)
        given = {} if labels is None else {"labels": labels(each, stream)}
        own = to_numpy(model.sample(each, stream, **given, **how))
        return team.gather(own)[:n]

    team = Team(draw, processes, -(-most // processes) * math.prod(model.image_shape))
    return team


def as_graphs(network: Module) -> None:
    """From now on, in evaluation, a call of a network on a GPU launches a CUDA graph and has no gradients: Python and
    CuPy take longer to launch the kernels of a few images one by one than a GPU takes to run them.

    There is a graph for all inputs of the same shapes and types, a tensor and arrays beside it.  The weights have to
    stay where they are in memory."""
    one_by_one, graphs = network.forward, {}

    def forward(x: Tensor, *others: Array | None) -> Tensor:
        if network.training:
            return one_by_one(x, *others)
        arrays = [x.data, *(other for other in others if other is not None)]
        kind = tuple((array.shape, array.dtype) for array in arrays)
        if kind not in graphs:
            graphs[kind] = Replayed(on_arrays)
        return Tensor(graphs[kind](*arrays)[0])

    def on_arrays(x: Array, *others: Array) -> list[Array]:
        return [one_by_one(Tensor(x), *others).data]

    network.forward = forward  # type: ignore[method-assign]
