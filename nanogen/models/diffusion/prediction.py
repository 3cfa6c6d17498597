"""What the network of a diffusion model predicts: the noise, the image, the mean of the reverse process, or v.

    v = √ᾱ_t ε − √(1 − ᾱ_t) x_0                                       Salimans & Ho 2022, section 4 and appendix D

Given x_t, each of them follows from any other.  With the same variance σ_t² the divergence of one reverse step is a
weight times the squared error of the prediction:

    L_{t−1} = ‖μ̃_t − μ_θ‖² / (2σ_t²) + constant = w_t ‖target − prediction‖² + constant    Ho et al. 2020, eq. 8 and 12
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nanogen.models.diffusion.schedule import NoiseSchedule


class Prediction(NamedTuple):
    """Attributes:
    target: what the network is trained to give, from (schedule, x_0, ε, x_t, t).
    x0: the clean image that follows from (schedule, x_t, t, prediction).
    noise: the noise that follows from the same.
    mean_per_error: |∂μ_θ / ∂prediction| at t = 0 … T, from a schedule.
    """

    target: Callable[[NoiseSchedule, Any, Any, Any, Any], Any]
    x0: Callable[[NoiseSchedule, Any, Any, Any], Any]
    noise: Callable[[NoiseSchedule, Any, Any, Any], Any]
    mean_per_error: Callable[[NoiseSchedule], np.ndarray]

    def weights(self, schedule: NoiseSchedule, variances: np.ndarray) -> np.ndarray:
        """w_t = (∂μ_θ/∂prediction)² / (2σ_t²) for variances σ_t²: t = 0 … T, where w_0 = 0.

        (1 − α_t)²/((1 − ᾱ_t) α_t) for the noise, ᾱ_{t−1} β_t²/(1 − ᾱ_t)² for the image, 1 for the mean and
        ᾱ_{t−1} β_t²/(1 − ᾱ_t) for v, each over 2σ_t².  Ho et al. 2020, eq. 8 and 12."""
        return np.append(0.0, self.mean_per_error(schedule)[1:] ** 2 / (2 * variances[1:]))


def v(s: NoiseSchedule, x0: Any, noise: Any, x_t: Any, t: Any) -> Any:
    """v = √ᾱ_t ε − √(1 − ᾱ_t) x_0."""
    return s.at(s.sqrt_alpha_bars, t, x_t) * noise - s.at(s.sqrt_one_minus_alpha_bars, t, x_t) * x0


def x0_from_v(s: NoiseSchedule, x_t: Any, t: Any, v: Any) -> Any:
    """x_0 = √ᾱ_t x_t − √(1 − ᾱ_t) v."""
    return s.at(s.sqrt_alpha_bars, t, x_t) * x_t - s.at(s.sqrt_one_minus_alpha_bars, t, x_t) * v


def noise_from_v(s: NoiseSchedule, x_t: Any, t: Any, v: Any) -> Any:
    """ε = √(1 − ᾱ_t) x_t + √ᾱ_t v."""
    return s.at(s.sqrt_one_minus_alpha_bars, t, x_t) * x_t + s.at(s.sqrt_alpha_bars, t, x_t) * v


PREDICTIONS = {
    "noise": Prediction(
        lambda s, x0, noise, x_t, t: noise,
        NoiseSchedule.x0_from_noise,
        lambda s, x_t, t, noise: noise,
        lambda s: s.betas / (np.append(1.0, s.sqrt_one_minus_alpha_bars[1:]) * np.sqrt(s.alphas)),
    ),
    "x0": Prediction(
        lambda s, x0, noise, x_t, t: x0,
        lambda s, x_t, t, x0: x0,
        NoiseSchedule.noise_from_x0,
        lambda s: s.x0_weights,
    ),
    "mean": Prediction(
        lambda s, x0, noise, x_t, t: s.mean_from_x0(x_t, t, x0),
        NoiseSchedule.x0_from_mean,
        NoiseSchedule.noise_from_mean,
        lambda s: np.ones(s.T + 1),
    ),
    "v": Prediction(v, x0_from_v, noise_from_v, lambda s: s.x0_weights * s.sqrt_one_minus_alpha_bars),
}
