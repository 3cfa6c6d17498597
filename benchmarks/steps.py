"""A training step of either side: every update of the model, with Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import nanogen as ng
from benchmarks import torch_models


def step_of_ours(model: ng.models.GenerativeModel, images: np.ndarray, device: str = "cpu") -> Callable[[], None]:
    updates = model.updates()
    parameters = {name: list(part.parameters()) for name, _, part in updates}
    optimizers = {name: ng.optim.Adam(p, lr=1e-4) for name, p in parameters.items()}
    rng = ng.Generator(0, device)

    def step() -> None:
        for name, loss_of, _ in updates:
            for p, g in zip(parameters[name], ng.grad(loss_of(images, rng), parameters[name]), strict=True):
                p.grad = g
            optimizers[name].step()

    return step


def step_of_theirs(model: Any, images: np.ndarray, rng: Any = None) -> Callable[[], None]:
    """`rng` draws: ours on the host unless given."""
    updates = torch_models.updates(model)
    optimizers = [torch.optim.Adam(p, lr=1e-4) for _, p in updates]
    rng = rng or ng.Generator(0)

    def step() -> None:
        for (loss_of, parameters), optimizer in zip(updates, optimizers, strict=True):
            for p, g in zip(parameters, torch.autograd.grad(loss_of(images, rng), parameters), strict=True):
                p.grad = g
            optimizer.step()

    return step
