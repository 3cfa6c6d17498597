"""A training step of either side: every update of the model, with Adam."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import nanogen as ng
from benchmarks import torch_models
from nanogen.backend import replay


def labels_of(model: ng.models.GenerativeModel, n: int) -> dict[str, np.ndarray]:
    """What the losses of a conditional model are given beside images, the classes in turn; others nothing."""
    return {"labels": np.arange(n) % model.classes} if model.classes else {}


def step_of_ours(
    model: ng.models.GenerativeModel,
    images: np.ndarray,
    device: str = "cpu",
    captured: bool = False,
) -> Callable[[], None]:
    """Each update of the model; `captured` as a CUDA graph, in which all that changes is an array on the GPU."""
    updates = model.updates()
    parameters = {name: list(part.parameters()) for name, _, part in updates}
    optimizers = {name: ng.optim.Adam(p, lr=1e-4) for name, p in parameters.items()}
    labels = labels_of(model, len(images))
    rng, keys = ng.Generator(0, device), map(ng.Generator(0, device).stream, itertools.count())

    def work(levels: Any, rng: ng.Generator, numbers: list[Any]) -> None:
        for (name, loss_of, _), own in zip(updates, numbers, strict=True):
            slopes = ng.grad(loss_of(levels, rng, **labels), parameters[name])
            for p, g in zip(parameters[name], slopes, strict=True):
                p.grad = g
            optimizers[name].step(numbers=own)

    def work_on_device(levels: Any, key: Any, *numbers: Any) -> list[Any]:
        work(levels, rng.at(key), [[some[i] for i in range(len(some))] for some in numbers])
        return []

    def step() -> None:
        numbers = [optimizers[name].advance() for name, _, _ in updates]
        if captured:
            replayed(images, next(keys).key, *[np.array(some, np.float32) for some in numbers])
        else:
            work(images, rng, numbers)

    replayed = replay(work_on_device) if captured else None
    return step


def step_of_theirs(model: Any, images: np.ndarray, rng: Any = None) -> Callable[[], None]:
    """`rng` draws: ours on the host unless given.  On a GPU Adam is PyTorch's fused one, as ours is one kernel."""
    updates, labels = torch_models.updates(model), labels_of(model.ours[0], len(images))
    on_gpu = next(model.parameters()).device.type == "cuda"
    optimizers = [torch.optim.Adam(p, lr=1e-4, fused=on_gpu or None) for _, p in updates]
    rng = rng or ng.Generator(0)

    def step() -> None:
        for (loss_of, parameters), optimizer in zip(updates, optimizers, strict=True):
            for p, g in zip(parameters, torch.autograd.grad(loss_of(images, rng, **labels), parameters), strict=True):
                p.grad = g
            optimizer.step()

    return step
