"""Hugging Face's diffusers as the judge of schedules and samplers.

What differs by convention: its times run 0 … T − 1, ours 1 … T; it fixes float32, which stands for float64 here; its
DDIM goes from t to t − T // steps, ours to the next time of its grid, which is the same where steps divides T; and it
re-derives the noise from a clipped image only where `use_clipped_model_output` asks for it, as we always do.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import nanogen as ng
from nanogen.models import DDPM, NoiseSchedule

OURS = {
    "linear": lambda T: NoiseSchedule.linear(T, 1e-4, 0.02),
    "scaled_linear": lambda T: NoiseSchedule.quadratic(T, 1e-4, 0.02),
    "sigmoid": lambda T: NoiseSchedule.sigmoid(T, 1e-4, 0.02),
    "squaredcos_cap_v2": NoiseSchedule.cosine,
}
KINDS = [
    (kind, maker)
    for kind in OURS
    for maker in ("DDPMScheduler", "DDIMScheduler")
    if (kind, maker) != ("sigmoid", "DDIMScheduler")
]  # its DDIM has no sigmoid
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def diffusers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Its schedulers in float64, which they name float32 or leave to the default.

    They are imported here, which takes seconds: processes that only collect these tests do without."""
    schedulers = importlib.import_module("diffusers.schedulers")
    before = torch.get_default_dtype()
    monkeypatch.setattr(torch, "float32", torch.float64)
    torch.set_default_dtype(torch.float64)
    yield schedulers
    torch.set_default_dtype(before)


@pytest.mark.parametrize("T", [10, 1000])
@pytest.mark.parametrize(("kind", "maker"), KINDS)
def test_tables(diffusers: Any, kind: str, maker: str, T: int) -> None:
    """β_t, ᾱ_t and β̃_t to 1e-9, and q_sample is add_noise."""
    ours, theirs = OURS[kind](T), getattr(diffusers, maker)(num_train_timesteps=T, beta_schedule=kind)
    assert theirs.betas.dtype == torch.float64
    np.testing.assert_allclose(ours.betas[1:], theirs.betas.numpy(), rtol=1e-9)
    np.testing.assert_allclose(ours.alpha_bars[1:], theirs.alphas_cumprod.numpy(), rtol=1e-9)
    if maker == "DDPMScheduler":
        variances = [float(theirs._get_variance(t)) for t in range(T)]
        np.testing.assert_allclose(ours.posterior_variances[1:], variances, rtol=1e-9, atol=1e-19)
    rng, t = np.random.default_rng(0), np.array([1, T // 2, T])
    x0, noise = rng.standard_normal((2, 3, 1, 2, 2))
    expected = theirs.add_noise(torch.tensor(x0), torch.tensor(noise), torch.tensor(t - 1)).numpy()
    np.testing.assert_allclose(ours.q_sample(x0, t, noise), expected, **CLOSE)


@pytest.mark.parametrize("kind", OURS)
def test_posterior_mean(diffusers: Any, kind: str) -> None:
    """μ̃_t of x_0 and of ε, not clipped: the mean of its ancestral step."""
    T, rng = 50, np.random.default_rng(1)
    x_t, other = rng.standard_normal((2, 1, 1, 2, 2))
    for kind_of_output, ours in (("sample", OURS[kind](T).mean_from_x0), ("epsilon", OURS[kind](T).mean_from_noise)):
        theirs = diffusers.DDPMScheduler(T, beta_schedule=kind, clip_sample=False, prediction_type=kind_of_output)
        theirs._get_variance = lambda *_, **__: torch.tensor(0.0)
        for t in range(1, T + 1):
            expected = theirs.step(torch.tensor(other), t - 1, torch.tensor(x_t)).prev_sample.numpy()
            np.testing.assert_allclose(ours(x_t, np.array([t]), other), expected, **CLOSE)


def predicted_noise(x_t: Any, t: float) -> Any:
    """Some noise prediction that bends and depends on the time; of arrays of either library."""
    return 0.4 * x_t + 0.2 * x_t**2 - 0.01 * t


def model(T: int, kind: str, **settings: Any) -> DDPM:
    ours = DDPM((1, 3, 4), 17, T, channels=4, multipliers=(1,), heads=1, rng=ng.Generator(0), **settings).to(np.float64)
    ours.schedule = OURS[kind](T)
    ours.predict = lambda x_t, t, rng=None: predicted_noise(x_t, float(t[0]))  # type: ignore[assignment,method-assign]
    return ours


def draws_of(seed: int, n: int, monkeypatch: pytest.MonkeyPatch, module: Any) -> torch.Tensor:
    """x_T as ours, and its later noise from the same generator."""
    rng = ng.Generator(seed)
    draw = lambda: torch.tensor(rng.normal((n, 1, 3, 4), dtype=np.float64))
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: draw())
    return draw()


@pytest.mark.parametrize(("ours", "theirs"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
@pytest.mark.parametrize("kind", OURS)
def test_ancestral_sampling(diffusers: Any, monkeypatch: pytest.MonkeyPatch, kind: str, ours: str, theirs: str) -> None:
    """Every x_t of a whole trajectory, from the same noise, with x̂_0 clipped to [−1, 1]."""
    T, n = 40, 3
    scheduler = diffusers.DDPMScheduler(T, beta_schedule=kind, variance_type=theirs, clip_sample=True)
    x = draws_of(5, n, monkeypatch, diffusers.scheduling_ddpm)
    for t, found in model(T, kind, variance=ours).ancestral(n, ng.Generator(5)):
        np.testing.assert_allclose(found.data, x.numpy(), **CLOSE)
        if t > 0:
            x = scheduler.step(predicted_noise(x, float(t)), t - 1, x).prev_sample


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 5, 10, 40])
@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_ddim_sampling(diffusers: Any, monkeypatch: pytest.MonkeyPatch, kind: str, steps: int, eta: float) -> None:
    """Every x_t of a whole trajectory in `steps` steps, from the same noise."""
    T, n = 40, 3
    scheduler = diffusers.DDIMScheduler(T, beta_schedule=kind, clip_sample=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x = draws_of(6, n, monkeypatch, diffusers.scheduling_ddim)
    trajectory = list(model(T, kind).ddim(n, ng.Generator(6), steps, eta))
    assert [t - 1 for t, _ in trajectory[:-1]] == scheduler.timesteps.tolist()
    for (t, before), (_, after) in itertools.pairwise(trajectory):
        np.testing.assert_allclose(before.data, x.numpy(), **CLOSE)
        noise = predicted_noise(x, float(t))
        x = scheduler.step(noise, t - 1, x, eta=eta, use_clipped_model_output=True).prev_sample
        np.testing.assert_allclose(after.data, x.numpy(), **CLOSE)
