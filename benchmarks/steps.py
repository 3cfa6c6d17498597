"""A training step of either side: every update of the model, with Adam."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import nanogen as ng
from benchmarks import torch_models
from nanogen.backend import replay
from nanogen.processes import Team, mean_over_processes


def step_of_ours(
    model: ng.models.GenerativeModel,
    images: np.ndarray,
    device: str = "cpu",
    captured: bool = False,
    processes: int = 1,
) -> Team:
    """Each update of the model; `captured` as a CUDA graph, in which all that changes is an array on the GPU; or by
    several processes, the batch and the threads shared out, until it is closed."""
    updates = model.updates()
    parameters = {name: list(part.parameters()) for name, _, part in updates}
    optimizers = {name: ng.optim.Adam(p, lr=1e-4) for name, p in parameters.items()}
    rng, keys = ng.Generator(0, device), map(ng.Generator(0, device).stream, itertools.count())

    def work(levels: Any, rng: ng.Generator, numbers: list[Any]) -> None:
        for (name, loss_of, _), own in zip(updates, numbers, strict=True):
            slopes = ng.grad(loss_of(levels, rng), parameters[name])
            for p, g in zip(parameters[name], mean_over_processes(*[g.data for g in slopes]), strict=True):
                p.grad = ng.Tensor(g)
            optimizers[name].step(numbers=own)

    def work_on_device(levels: Any, key: Any, *numbers: Any) -> list[Any]:
        work(levels, rng.at(key), [[some[i] for i in range(len(some))] for some in numbers])
        return []

    def step() -> None:
        numbers = [optimizers[name].advance() for name, _, _ in updates]
        if captured:
            replayed(images, next(keys).key, *[np.array(some, np.float32) for some in numbers])
        else:
            work(images[team.part(len(images))], rng, numbers)

    replayed = replay(work_on_device) if captured else None
    team = Team(step, processes, sum(p.data.nbytes for p in model.parameters()))
    return team


class Joined:
    """The random numbers of a whole batch from those of its parts: the first axis is one part's after the other's."""

    def __init__(self, parts: Sequence[ng.Generator]):
        self.parts = parts

    def normal(self, size: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        return self._all("normal", size, dtype=dtype)

    def uniform(self, size: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        return self._all("uniform", size, dtype=dtype)

    def integers(self, low: int, high: int, size: Any) -> np.ndarray:
        return self._all("integers", (size,) if isinstance(size, int) else size, low, high)

    def _all(self, name: str, size: tuple[int, ...], *bounds: int, **how: Any) -> np.ndarray:
        each = (size[0] // len(self.parts), *size[1:])
        return np.concatenate([getattr(part, name)(*bounds, each, **how) for part in self.parts])


def step_of_theirs(model: Any, images: np.ndarray, rng: Any = None) -> Callable[[], None]:
    """`rng` draws: ours on the host unless given.  On a GPU Adam is PyTorch's fused one, as ours is one kernel."""
    updates = torch_models.updates(model)
    on_gpu = next(model.parameters()).device.type == "cuda"
    optimizers = [torch.optim.Adam(p, lr=1e-4, fused=on_gpu or None) for _, p in updates]
    rng = rng or ng.Generator(0)

    def step() -> None:
        for (loss_of, parameters), optimizer in zip(updates, optimizers, strict=True):
            for p, g in zip(parameters, torch.autograd.grad(loss_of(images, rng), parameters), strict=True):
                p.grad = g
            optimizer.step()

    return step
