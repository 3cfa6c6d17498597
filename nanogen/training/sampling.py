"""Images drawn from a model, by one process or by the ranks of an MPI job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, replay, to_numpy
from nanogen.distributed import everyones, part
from nanogen.models import GenerativeModel
from nanogen.nn import Module
from nanogen.random import Generator


def sample(
    model: GenerativeModel, n: int, rng: Generator, labels: Callable[[int, Generator], Any] | None = None, **how: Any
) -> np.ndarray:
    """n images, uint8 (n, C, H, W) on the host of every rank.  Each rank draws its part of them, with its part of the
    random numbers: whatever their number, they draw the images of one process, but for rounding.

    Args:
        labels: gives n images' labels, by what is drawn before the images; the model's own way unless given.
        how: the model's settings of sampling.
    """
    own = part(n)
    images = np.empty((0, *model.image_shape), np.uint8)
    if labels is not None:
        how["labels"] = labels(n, rng)[own]
    if n < 1 or own.start < own.stop:  # of fewer images than ranks some draw none
        images = to_numpy(model.sample(own.stop - own.start, rng.part(own, n), **how))
    return np.concatenate(everyones(images))


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
            graphs[kind] = replay(on_arrays)
        return Tensor(graphs[kind](*arrays)[0])

    def on_arrays(x: Array, *others: Array) -> list[Array]:
        return [one_by_one(Tensor(x), *others).data]

    network.forward = forward  # type: ignore[method-assign]
