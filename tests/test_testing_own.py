"""This library's own schedules, losses, optimisers and metrics under the checkers; harmless rewrites pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nanogen as ng
from nanogen import metrics, optim, testing
from nanogen.models import NoiseSchedule
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss, gradient_penalty
from nanogen.testing import check_all

BETAS = np.linspace(0.02, 0.4, 12)
OURS = NoiseSchedule(BETAS)
TIMED = {"betas": BETAS, "time": "1…T"}
ARRAYS = {
    "betas": "betas",
    "alphas": "alphas",
    "alphas_cumprod": "alpha_bars",
    "posterior_variance": "posterior_variances",
    "sqrt_alphas_cumprod": "sqrt_alpha_bars",
    "sqrt_one_minus_alphas_cumprod": "sqrt_one_minus_alpha_bars",
}


def tables_of(made: NoiseSchedule) -> dict[str, Any]:
    return {name: getattr(made, ours)[1:] for name, ours in ARRAYS.items()}


def optimiser(make: Any, **settings: Any) -> Any:
    def run(parameters: Any, gradients: Any) -> Any:
        tensors = [ng.tensor(p, requires_grad=True) for p in parameters]
        made = make(tensors, **settings)
        for step in gradients:
            for p, g in zip(tensors, step):
                p.grad = None if g is None else ng.tensor(g)
            made.step()
        return [p.data for p in tensors]

    return run, settings


def average(parameters: Any, buffers: Any, warmup: bool) -> Any:
    tensors = [ng.tensor(parameters[0]), ng.tensor(buffers[0])]
    averages = optim.ExponentialMovingAverage(tensors, 0.9, warmup)
    for values in zip(parameters[1:], buffers[1:]):
        for tensor, value in zip(tensors, values):
            tensor.data = value
        averages.update()
    return averages.averages


def neighbours(real: Any, fake: Any) -> dict[str, float]:
    d = metrics.distances
    return metrics.neighbour_metrics(d(real, real), d(fake, fake), d(real, fake), 3, 5)


OBJECTIVES = ("non-saturating", "wasserstein", "hinge", "least-squares")
LOSSES = {name: name.replace("least-", "least ") for name in OBJECTIVES}
T = ng.tensor
RIGHT = {
    **{f"schedule: {kind}": (lambda n, k=kind: tables_of(getattr(NoiseSchedule, k)(n, 1e-4, 0.02)), {"kind": kind})
       for kind in ("linear", "quadratic", "sigmoid")},
    "schedule: cosine": (lambda T: tables_of(NoiseSchedule.cosine(T)), {"kind": "cosine"}),
    "respacing": (lambda betas, times: NoiseSchedule(betas).respaced(times).betas[1:], {"time": "1…T"}),
    "q_sample": (OURS.q_sample, TIMED),
    "q_posterior": (lambda x0, x, t: OURS.q_posterior(x0, x, t), TIMED),
    "conversion: x0 from noise": (OURS.x0_from_noise, {"have": "noise", "want": "x0", **TIMED}),
    "conversion: noise from x0": (OURS.noise_from_x0, {"have": "x0", "want": "noise", **TIMED}),
    "conversion: mean from noise": (OURS.mean_from_noise, {"have": "noise", "want": "mean", **TIMED}),
    "conversion: x0 from mean": (OURS.x0_from_mean, {"have": "mean", "want": "x0", **TIMED}),
    **{f"discriminator_loss: {ours}": (
        lambda r, f, ours=ours: discriminator_loss(T(r), T(f), ours).data,
        {"kind": kind, "halves": "mean" if ours == "least-squares" else "sum"}) for ours, kind in LOSSES.items()},
    "generator_loss": lambda f: generator_loss(T(f)).data,
    "generator_loss: minimax": (lambda f: generator_loss(T(f), "minimax").data, {"kind": "minimax"}),
    "generator_loss: least squares": (
        lambda f: generator_loss(T(f), "least-squares").data, {"kind": "least squares", "half": True}),
    "gradient_penalty": lambda d, real, fake: gradient_penalty(d, T(real), T(fake), ng.Generator(0)).data,
    "sgd": optimiser(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": optimiser(optim.Adam, lr=0.1, weight_decay=0.1),
    "adamw": optimiser(optim.AdamW, lr=0.1, weight_decay=0.1),
    "moving_average": lambda p, b: average(p, b, False),
    "moving_average: warm-up": (lambda p, b: average(p, b, True), {"warmup": "unbiased"}),
    "frechet_distance": metrics.frechet_distance,
    "frechet_distance: moments": (metrics.gaussian_frechet_distance, {"given": "moments"}),
    "precision_recall": neighbours,
    "density_coverage": neighbours,
    # harmless rewrites
    "guidance: rewritten": (lambda c, u, s: c * s - u * (s - 1), {"scale": "s"}),
    "loss_weight: rewritten": (
        lambda t: 1 / np.maximum(1, (BAR / (1 - BAR))[t] / 5), {"betas": BETAS}),
    "q_sample: float32": (
        lambda x, t, e: (np.float32(BAR[t] ** 0.5)[:, None, None, None] * x
                         + np.float32((1 - BAR[t]) ** 0.5)[:, None, None, None] * e), {"betas": BETAS}),
}  # fmt: skip
BAR = np.cumprod(1 - BETAS)


@pytest.mark.parametrize("name", RIGHT)
def test_ours_pass(name: str) -> None:
    report = check_all({name: RIGHT[name]})
    assert report.ok, report.rows[0].message


def test_bad_use_is_told_apart() -> None:
    """In one line, whose text says what to do."""
    for check, function, text in (
        (testing.check_q_sample, lambda x, t, e: None, "returned None"),
        (testing.check_sgd, lambda p, g: p[0], "must return the list"),
        (testing.check_diffusion_sampler, lambda network, n: np.zeros((n, 2)), "did not call the network"),
        (testing.check_guidance, lambda c, u, s: c + np.random.standard_normal(c.shape), "draws its own numbers"),
    ):
        with pytest.raises(testing.UsageError, match=text) as caught:
            check(function)
        assert "\n" not in str(caught.value)
