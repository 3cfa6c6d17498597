"""Sampling from a model, by one process or by the ranks of an MPI job."""

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
    """n images, uint8 (n, C, H, W) on the host, on every rank.

    Each rank draws its part of the images with its part of the random numbers.  So the images do not depend on the
    number of ranks, up to rounding.

    Args:
        labels: a function that draws n labels; default: as the model does.
        how: the model's settings of `sample`.
    """
    own = part(n)
    images = np.empty((0, *model.image_shape), np.uint8)
    if labels is not None:
        how["labels"] = labels(n, rng)[own]
    if n < 1 or own.start < own.stop:  # with fewer images than ranks, some draw none
        images = to_numpy(model.sample(own.stop - own.start, rng.part(own, n), **how))
    return np.concatenate(everyones(images))


def as_graphs(network: Module) -> None:
    """Make calls of a network on a GPU, in evaluation mode, launch a CUDA graph.  They have no gradients.

    For small batches, launching the kernels one by one from Python takes longer than running them.  There is one graph
    per combination of input shapes and dtypes; the inputs are a tensor and further arrays.  The memory of the weights
    must not move."""
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
