"""diffusers' DDPM and DDIM schedulers under the checkers: `python docs/examples/diffusers_schedulers.py`.

Each scheduler is handed over in a few lines: its tables by itself, `add_noise` and `step` in a lambda, the sampler as
the loop of diffusers' documentation.  What the checkers find in diffusers 0.42 (S is the number of DDIM's steps):

- The 4 named schedules, `add_noise`, `get_velocity`, the ancestral step of either variance, clipped or not, the times
  of all spacings, and the DDPM sampler are right.
- DDIM's step takes s = t − T // S for the next time, whatever its own grid: right for `leading`, and for `trailing` and
  `linspace` wrong where S does not divide T.  The variance then belongs to other times than those the network is asked.
- DDIM keeps the noise from before clipping, unless `use_clipped_model_output` is set: another convention.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from nanogen.testing import check_all

SMALL: dict[str, Any] = {"num_train_timesteps": 50, "beta_start": 0.005, "beta_end": 0.15}
KINDS = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
ddpm = DDPMScheduler()
betas = ddpm.betas


def ancestral(variance: str, clip: bool) -> Any:
    """One step of DDPM, and the settings that say what it should be."""
    scheduler = DDPMScheduler(variance_type=variance, clip_sample=clip)
    stated = {"variance": {"fixed_small": "posterior", "fixed_large": "beta"}[variance], "clip": clip, "betas": betas}
    return lambda output, t, x: scheduler.step(output, t, x).prev_sample, stated


def whole(scheduler: Any, **settings: Any) -> Any:
    """The loop of diffusers' documentation."""

    def sample(network: Any, n: int, steps: int | None = None) -> torch.Tensor:
        if steps:
            scheduler.set_timesteps(steps)
        x = torch.randn(n, 1, 2, 2)
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, **settings).prev_sample
        return x

    return sample


def times(spacing: str) -> Any:
    def grid(T: int, S: int) -> torch.Tensor:
        scheduler = DDIMScheduler(T, timestep_spacing=spacing)
        scheduler.set_timesteps(S)
        return scheduler.timesteps

    return grid, {"spacing": spacing}


def ddim(spacing: str) -> Any:
    scheduler = DDIMScheduler(**SMALL, clip_sample=False, timestep_spacing=spacing)
    return whole(scheduler, eta=0.5), {"method": "ddim", "eta": 0.5, "spacing": spacing, "betas": scheduler.betas}


def clipped(**settings: Any) -> Any:
    scheduler = DDIMScheduler(**SMALL, clip_sample=True)
    scheduler.set_timesteps(50)
    stated = {"method": "ddim", "clip": True, "betas": scheduler.betas, "times": scheduler.timesteps}
    return lambda output, t, x: scheduler.step(output, t, x, **settings).prev_sample, stated


small = DDPMScheduler(**SMALL)
RIGHT = {
    **{f"schedule: {n}": (lambda T, n=n: DDPMScheduler(T, beta_schedule=n), {"kind": k}) for n, k in KINDS.items()},
    "q_sample": (lambda x0, t, noise: ddpm.add_noise(x0, noise, t), {"betas": betas}),
    "conversion: velocity": (
        lambda x0, t, noise: ddpm.get_velocity(x0, noise, t),
        {"have": "x0 and noise", "want": "v", "betas": betas},
    ),
    **{f"reverse_step: {v}, clip {c}": ancestral(v, c) for v in ("fixed_small", "fixed_large") for c in (False, True)},
    "diffusion_sampler: DDPM": (whole(small), {"variance": "posterior", "betas": small.betas}),
    "diffusion_sampler: DDIM, leading": ddim("leading"),
    **{f"time_grid: {spacing}": times(spacing) for spacing in ("trailing", "leading", "linspace")},
    "reverse_step: DDIM, noise recomputed": clipped(use_clipped_model_output=True),
}
OTHERWISE = {
    "diffusion_sampler: DDIM, trailing": ddim("trailing"),
    "diffusion_sampler: DDIM, linspace": ddim("linspace"),
    "reverse_step: DDIM, clipped": clipped(),
}


if __name__ == "__main__":
    right = check_all(RIGHT, convert=torch.from_numpy)
    print(right)
    print()
    otherwise = check_all(OTHERWISE, convert=torch.from_numpy)
    print(otherwise)
    assert right.ok
    assert [row.looks_like for row in otherwise.rows] == [
        ("steps by T // S, not along its own times",),
        ("steps by T // S, not along its own times",),
        ("right if noise_after_clip='kept' was meant",),
    ]
