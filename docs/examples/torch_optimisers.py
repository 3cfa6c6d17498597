"""torch.optim, its moving average, and a Fréchet distance by scipy: `python docs/examples/torch_optimisers.py`.

The 10 of the first table are right.  The four of the second are not what was asked for:

- `torch.optim.Adam(weight_decay=λ)` in place of AdamW: the decay is inside the gradient.
- One step count for all parameters, as some rewrites of Adam have it, shows where a gradient comes late.
- `AveragedModel` copies buffers instead of averaging them, unless `use_buffers=True`.
- `np.sqrt` of a covariance takes the root of each entry; FID needs the matrix's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nanogen.testing import check_all


def optimiser(make: Any, **settings: Any) -> Any:
    """A run of one of torch's optimisers, with its settings."""

    def run(parameters: Any, gradients: Any) -> Any:
        parameters = [torch.tensor(p, requires_grad=True) for p in parameters]
        made = make(parameters, **settings)
        for step in gradients:
            for p, g in zip(parameters, step):
                p.grad = None if g is None else torch.tensor(g)
            made.step()
        return parameters

    return run, settings


def shared_step(parameters: Any, gradients: Any) -> Any:
    """Adam with one step count for all parameters."""
    m, v = ([0.0 * p for p in parameters] for _ in range(2))
    for t, step in enumerate(gradients, 1):
        for i, g in enumerate(step):
            if g is not None:
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
                parameters[i] = parameters[i] - 0.1 * m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    return parameters


def average(use_buffers: bool) -> Any:
    def run(parameters: Any, buffers: Any) -> Any:
        network = torch.nn.Module()
        network.weight = torch.nn.Parameter(torch.tensor(parameters[0]))
        network.register_buffer("moment", torch.tensor(buffers[0]))
        averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
        averaged.update_parameters(network)  # the first call copies
        for p, b in zip(parameters[1:], buffers[1:]):
            network.weight.data, network.moment = torch.tensor(p), torch.tensor(b)
            averaged.update_parameters(network)
        return averaged.module.weight, averaged.module.moment

    return run


def frechet(root: Any) -> Any:
    def distance(m: Any, c: Any, n: Any, d: Any) -> Any:
        return ((m - n) ** 2).sum() + np.trace(c + d - 2 * root(c @ d).real)

    return distance, {"given": "moments"}


RIGHT = {
    "sgd": optimiser(torch.optim.SGD, lr=0.1),
    "sgd: momentum": optimiser(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
    "sgd: dampening": optimiser(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "sgd: Nesterov": optimiser(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": optimiser(torch.optim.Adam, lr=0.1),
    "adam: decay": optimiser(torch.optim.Adam, lr=0.1, weight_decay=0.1),
    "adam: foreach": optimiser(lambda p, **k: torch.optim.Adam(p, foreach=True, **k), lr=0.1, betas=(0.8, 0.9)),
    "adamw": optimiser(torch.optim.AdamW, lr=0.1, weight_decay=0.1),
    "moving_average": average(True),
    "frechet_distance: scipy": frechet(sqrtm),
}
OTHERWISE = {
    "adamw: Adam's decay": optimiser(torch.optim.Adam, lr=0.1, weight_decay=0.1),
    "adam: one step count": (shared_step, {"lr": 0.1}),
    "moving_average: without buffers": average(False),
    "frechet_distance: np.sqrt": frechet(lambda c: np.sqrt(np.maximum(c, 0))),
}


if __name__ == "__main__":
    right, otherwise = check_all(RIGHT), check_all(OTHERWISE)
    print(right, otherwise, sep="\n\n")
    assert right.ok
    for row in otherwise.rows:
        assert len(row.looks_like) == 1, row
