"""The forward process of diffusion: the amount of noise at each time.  Ho, Jain & Abbeel 2020, section 2.

    q(x_t | x_{t−1}) = N(√(1 − β_t) x_{t−1}, β_t I),  t = 1 … T                                       (eq. 2)

Index 0 of every table is the clean image: β_0 = 0, ᾱ_0 = 1, so at t = 1 the posterior variance is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import array_module, check_range, device_of, resident
from nanogen.models.base import is_count

# Ho et al.'s β_1 and β_T at T = 1000.  For other T they are scaled to the same total noise, with β at most 0.999.
BETA_FIRST, BETA_LAST, BETA_LARGEST = 1e-4, 0.02, 0.999


class NoiseSchedule:
    """A table of β_t and the tables derived from it, in float64, indexed by t = 0 … T.

    Args:
        betas: β_1 … β_T, each in (0, 1), at least two.

    Attributes:
        T: the number of steps.
        betas: β_t, with betas[0] = 0.
        alphas: α_t = 1 − β_t.
        alpha_bars: ᾱ_t = Π_{s ≤ t} α_s, with alpha_bars[0] = 1.
        sqrt_alpha_bars, sqrt_one_minus_alpha_bars: √ᾱ_t and √(1 − ᾱ_t), the scales of image and noise in x_t.
        posterior_variances: β̃_t = (1 − ᾱ_{t−1}) / (1 − ᾱ_t) · β_t, with posterior_variances[1] = 0.  Eq. 7.
        x0_weights: √ᾱ_{t−1} β_t / (1 − ᾱ_t), of x_0 in μ̃_t; 1 at t = 1.  Eq. 7.
        times: of a respaced schedule, the times 0 … T of the original one; else None.

    Raises:
        ValueError: fewer than two steps, or a β outside (0, 1).
    """

    def __init__(self, betas: Sequence[float] | np.ndarray):
        given = np.asarray(betas, np.float64)
        if given.ndim != 1 or len(given) < 2:
            raise ValueError(f"betas must be a list of at least 2 numbers, got shape {given.shape}")
        if not ((given > 0) & (given < 1)).all():
            raise ValueError(f"every beta must be in (0, 1), got {given.min()} … {given.max()}")
        self.T = len(given)
        self.times: np.ndarray | None = None
        self.betas = np.concatenate([[0.0], given])
        self.alphas = 1 - self.betas
        self.alpha_bars = np.cumprod(self.alphas)
        self._log_alpha_bars = np.cumsum(np.log1p(-self.betas))  # accurate for very small and very large β
        noise = self.q_variance(0, np.arange(self.T + 1))  # 1 − ᾱ_t
        self.sqrt_alpha_bars, self.sqrt_one_minus_alpha_bars = np.sqrt(self.alpha_bars), np.sqrt(noise)
        before, noise_before = np.roll(self.sqrt_alpha_bars, 1), np.roll(noise, 1)  # at t − 1; index 0 is unused
        noise_before[0], noise[0] = 0, 1
        self.posterior_variances = noise_before / noise * self.betas
        self.x0_weights = before * self.betas / noise
        self._x_t_weights = np.sqrt(self.alphas) * noise_before / noise  # of x_t in μ̃; 0 at t = 1

    @classmethod
    def linear(cls, T: int, beta_first: float | None = None, beta_last: float | None = None) -> NoiseSchedule:
        """β rises linearly from 1e-4 to 0.02 (times 1000 / T, at most 0.999).  Ho et al. 2020, section 4."""
        return cls(np.linspace(*_ends(T, beta_first, beta_last), T))

    @classmethod
    def quadratic(cls, T: int, beta_first: float | None = None, beta_last: float | None = None) -> NoiseSchedule:
        """√β rises linearly.  Song et al. 2021, appendix D.2."""
        first, last = _ends(T, beta_first, beta_last)
        return cls(np.linspace(math.sqrt(first), math.sqrt(last), T) ** 2)

    @classmethod
    def sigmoid(cls, T: int, beta_first: float | None = None, beta_last: float | None = None) -> NoiseSchedule:
        """β rises along a sigmoid from −6 to 6.  Xu et al. 2022, GeoDiff, appendix."""
        first, last = _ends(T, beta_first, beta_last)
        return cls(first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, T))))

    @classmethod
    def cosine(cls, T: int, s: float = 0.008) -> NoiseSchedule:
        """ᾱ_t = f(t) / f(0), f(t) = cos²((t/T + s) / (1 + s) · π/2), β ≤ 0.999.  Nichol & Dhariwal 2021, eq. 17."""
        _check_steps(T)
        f = np.cos((np.arange(T + 1) / T + s) / (1 + s) * (np.pi / 2)) ** 2
        return cls(np.minimum(1 - f[1:] / f[:-1], BETA_LARGEST))

    def respaced(self, times: Sequence[int]) -> NoiseSchedule:
        """The schedule restricted to `times` (increasing, in 1 … T): β′ = 1 − ᾱ_t / ᾱ_{previous t} keeps each ᾱ_t.

        Nichol & Dhariwal 2021, eq. 19.

        Raises:
            ValueError: times that are not increasing integers in 1 … T, or fewer than two."""
        kept = np.asarray(times)
        whole = kept.ndim == 1 and len(kept) >= 2 and kept.dtype.kind in "iu"
        if not whole or not (np.diff(kept.astype(int), prepend=0, append=self.T + 1) > 0).all():
            raise ValueError(f"times must be at least 2 rising integers in 1 … {self.T}, got {times!r}")
        kept = kept.astype(int)
        found = NoiseSchedule(self.q_variance(np.append(0, kept[:-1]), kept))
        found.times = (np.arange(self.T + 1) if self.times is None else self.times)[np.append(0, kept)]
        return found

    def q_variance(self, s: Any, t: Any) -> Any:
        """1 − ᾱ_t / ᾱ_s, the variance of q(x_t | x_s), for times s ≤ t.  Kingma et al. 2021, app. A.

        Raises:
            ValueError: s > t, or times outside 0 … T."""
        if not (np.less_equal(0, s) & np.less_equal(s, t) & np.less_equal(t, self.T)).all():
            raise ValueError(f"s and t must be 0 ≤ s ≤ t ≤ {self.T}, got {s} and {t}")
        return 0.0 - np.expm1(self._log_alpha_bars[t] - self._log_alpha_bars[s])

    def at(self, table: np.ndarray, t: Any, like: Any) -> Any:
        """table[t]: see `table_at`."""
        return table_at(table, t, like)

    def q_sample(self, x0: Any, t: Any, noise: Any) -> Any:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, a draw from q(x_t | x_0).  Ho et al. 2020, eq. 4."""
        return self.at(self.sqrt_alpha_bars, t, x0) * x0 + self.at(self.sqrt_one_minus_alpha_bars, t, x0) * noise

    def forward(self, x_s: Any, s: int, t: int, noise: Any) -> Any:
        """x_t = √(ᾱ_t/ᾱ_s) x_s + √(1 − ᾱ_t/ᾱ_s) ε, a draw from q(x_t | x_s), s ≤ t.  Ho et al. 2020, eq. 2."""
        variance = float(self.q_variance(s, t))
        return (1 - variance) ** 0.5 * x_s + variance**0.5 * noise

    def q_posterior(self, x0: Any, x_t: Any, t: Any) -> tuple[Any, Any]:
        """The mean μ̃_t(x_t, x_0) and the variance β̃_t of q(x_{t−1} | x_t, x_0).  Ho et al. 2020, eq. 6 and 7."""
        return self.mean_from_x0(x_t, t, x0), self.at(self.posterior_variances, t, x_t)

    # The three parameterisations of the reverse process: its mean, the clean image, the noise.

    def mean_from_x0(self, x_t: Any, t: Any, x0: Any) -> Any:
        """μ̃_t = √ᾱ_{t−1} β_t / (1 − ᾱ_t) x_0 + √α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t) x_t.  Ho et al. 2020, eq. 7."""
        return self.at(self.x0_weights, t, x_t) * x0 + self.at(self._x_t_weights, t, x_t) * x_t

    def x0_from_mean(self, x_t: Any, t: Any, mean: Any) -> Any:
        """Eq. 7 solved for x_0."""
        weights = np.maximum(self.x0_weights, 1e-30)  # if ᾱ_{t−1} underflows: a large number, not NaN
        return (mean - self.at(self._x_t_weights, t, x_t) * x_t) / self.at(weights, t, x_t)

    def x0_from_noise(self, x_t: Any, t: Any, noise: Any) -> Any:
        """x_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t.  Ho et al. 2020, eq. 4 solved for x_0."""
        signal = np.maximum(self.sqrt_alpha_bars, 1e-30)  # if ᾱ_t underflows: a large number, not NaN
        return (x_t - self.at(self.sqrt_one_minus_alpha_bars, t, x_t) * noise) / self.at(signal, t, x_t)

    def noise_from_x0(self, x_t: Any, t: Any, x0: Any) -> Any:
        """ε = (x_t − √ᾱ_t x_0) / √(1 − ᾱ_t).  Ho et al. 2020, eq. 4 solved for ε."""
        image = self.at(self.sqrt_alpha_bars, t, x_t) * x0
        return (x_t - image) / self.at(self.sqrt_one_minus_alpha_bars, t, x_t)

    def mean_from_noise(self, x_t: Any, t: Any, noise: Any) -> Any:
        """μ = (x_t − β_t / √(1 − ᾱ_t) ε) / √α_t.  Ho et al. 2020, eq. 11."""
        weights = self.betas[1:] / self.sqrt_one_minus_alpha_bars[1:]
        return (x_t - self.at(np.append(0.0, weights), t, x_t) * noise) / self.at(self.alphas**0.5, t, x_t)

    def noise_from_mean(self, x_t: Any, t: Any, mean: Any) -> Any:
        """Eq. 11 solved for ε."""
        return self.noise_from_x0(x_t, t, self.x0_from_mean(x_t, t, mean))


def table_at(table: np.ndarray, t: Any, like: Any) -> Any:
    """table[t], as an array or tensor like `like` (N, …): a number per image, (N, 1, …, 1), or () for a single t.

    Raises:
        ValueError: a time outside 0 … T."""
    array = like.data if isinstance(like, Tensor) else like
    xp = array_module(array)
    times = xp.asarray(t.data if isinstance(t, Tensor) else t)
    check_range("t", times, len(table))
    dtype = array.dtype if array.dtype.kind == "f" else np.float64
    values = resident(table, dtype, device_of(array))[times]
    values = values.reshape(values.shape + (1,) * (array.ndim - values.ndim if values.ndim else 0))
    return Tensor(values) if isinstance(like, Tensor) else values


def _ends(T: int, beta_first: float | None, beta_last: float | None) -> tuple[float, float]:
    _check_steps(T)
    first = min(BETA_FIRST * 1000 / T, BETA_LARGEST) if beta_first is None else beta_first
    return first, min(BETA_LAST * 1000 / T, BETA_LARGEST) if beta_last is None else beta_last


def _check_steps(T: int) -> None:
    if not is_count(T) or T < 2:
        raise ValueError(f"T must be an integer of at least 2, got {T!r}")


SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "quadratic": NoiseSchedule.quadratic,
    "sigmoid": NoiseSchedule.sigmoid,
    "cosine": NoiseSchedule.cosine,
}
