"""Whether random draws follow a distribution: tests that refuse a right sampler once in a million."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 12_000  # a gap of 0.05 between two distribution functions is then missed once in a million
KS = math.sqrt(-math.log(1e-6 / 2) / 2)  # of √n · D.  Kolmogorov's distribution, its first term
Z = 4.9  # of a standard normal variable, both sides


@dataclass(frozen=True)
class Continuous:
    """Draws from a continuous distribution with this distribution function.  The test is Kolmogorov and Smirnov's."""

    name: str
    cdf: Callable[[np.ndarray], np.ndarray]

    def __str__(self) -> str:
        return self.name

    def refuse(self, draws: np.ndarray) -> str | None:
        """Why the draws are not from this distribution, or None."""
        x = np.sort(np.asarray(draws, float).ravel())
        if not np.isfinite(x).all():
            return f"{np.count_nonzero(~np.isfinite(x))} of {x.size} draws are not finite"
        if x[0] == x[-1]:
            return f"expected draws from {self.name}, got {x[0]:.4g} every time"
        steps, below = np.arange(x.size + 1) / x.size, self.cdf(x)
        gaps = np.maximum(steps[1:] - below, below - steps[:-1])
        at, allowed = int(gaps.argmax()), KS / math.sqrt(x.size)
        if gaps[at] <= allowed:
            return None
        share = f"{steps[at + 1]:.3f} of the draws are below {x[at]:.4g}, expected {below[at]:.3f}"
        return f"{share} (draws from {self.name}; {allowed:.3f} is allowed)"


@dataclass(frozen=True)
class Discrete:
    """Draws of the integers 0 … K − 1 with these probabilities.  The test is Pearson's χ²."""

    name: str
    probabilities: np.ndarray

    def __str__(self) -> str:
        return self.name

    def refuse(self, draws: np.ndarray) -> str | None:
        """Why the draws are not from this distribution, or None."""
        x, p = np.asarray(draws).ravel(), np.asarray(self.probabilities, float)
        if not (np.isin(x, np.arange(len(p)))).all():
            odd = x[~np.isin(x, np.arange(len(p)))][0]
            return f"expected integers in 0 … {len(p) - 1}, got {odd:.4g}"
        counts = np.bincount(x.astype(int), minlength=len(p))
        if (counts[p == 0] > 0).any():
            at = int(((p == 0) & (counts > 0)).argmax())
            return f"expected {at} never, got it {counts[at]} times ({self.name})"
        seen, expected = counts[p > 0], p[p > 0] * x.size
        order = np.argsort(expected)
        seen, expected = seen[order], expected[order]
        group = np.minimum(np.cumsum(expected) // 20, 1e9)  # rare outcomes together: 20 of each kind are expected
        _, group = np.unique(group, return_inverse=True)
        o, e = np.bincount(group, seen), np.bincount(group, expected)
        if len(e) < 2:
            return None
        k = len(e) - 1
        limit = k * (1 - 2 / (9 * k) + Z * math.sqrt(2 / (9 * k))) ** 3  # Wilson & Hilferty 1931
        if ((o - e) ** 2 / e).sum() <= limit:
            return None
        at = int((np.abs(counts - p * x.size) / np.sqrt(p * x.size + 1)).argmax())
        return f"{counts[at] / x.size:.3f} of the draws are {at}, expected {p[at]:.3f} ({self.name})"


@dataclass(frozen=True)
class Mean:
    """Estimates whose mean is known: their standard error is taken from themselves."""

    value: float
    slack: float = 1e-6

    def __str__(self) -> str:
        return f"{self.value:.5g}"

    def refuse(self, draws: np.ndarray) -> str | None:
        """Why the draws do not have this mean, or None."""
        x = np.asarray(draws, float).ravel()
        error = x.std() / math.sqrt(max(x.size - 1, 1))
        if np.isfinite(x).all() and abs(x.mean() - self.value) <= 5.5 * error + self.slack * max(1.0, abs(self.value)):
            return None
        return f"expected {self.value:.5g} in the mean, got {x.mean():.5g} ± {error:.2g}"


@dataclass(frozen=True)
class Repeated:
    """The same number every time."""

    name: str = "one number"

    def __str__(self) -> str:
        return self.name

    def refuse(self, draws: np.ndarray) -> str | None:
        """Why the draws are not all equal, or None."""
        return None if np.ptp(np.asarray(draws, float)) == 0 else "the draws are not all equal"


def normal_cdf(z: Any) -> np.ndarray:
    """Φ(z)."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-np.asarray(z, float) / math.sqrt(2))


def logistic_cdf(z: Any) -> np.ndarray:
    """1 / (1 + e⁻ᶻ)."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z, float)))
