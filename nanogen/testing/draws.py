"""How the inputs of a checker are drawn: simple values come first, so that hypothesis shrinks towards readable ones.

All choices are integers.  Those of a trial are uniform, so that 40 inputs show what happens on some only; hypothesis,
whose choices are not, looks for the smallest counterexample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

REALS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5, 0.3, -0.7, 1.2, -2.4, 0.1, 2.7, -0.2)
POSITIVES = (1.0, 2.0, 0.5, 4.0, 3.0, 0.25, 1.5, 0.7, 0.1, 2.3)
FEW = 12  # so many entries are drawn one by one; larger arrays come from a seed


class Draw:
    """Numbers and arrays for one set of inputs, float64 and int64.  What is listed first is what shrinking aims at."""

    def __init__(self, choose: Callable[[int, int], int]):
        self.integer = choose  # an integer of low … high, both included

    def pick(self, *options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def real(self) -> float:
        return self.pick(*REALS)

    def positive(self) -> float:
        return self.pick(*POSITIVES)

    def sizes(self, *limits: tuple[int, int]) -> tuple[int, ...]:
        """One integer for each pair of limits; twice in three times no two of them are equal, where that can be."""
        sizes = tuple(self.integer(*limit) for limit in limits)
        if self.integer(0, 2) and len(set(sizes)) < len(sizes):
            sizes = tuple(min(n + i, high) for i, (n, (_, high)) in enumerate(zip(sizes, limits)))
        return sizes

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.integer(0, 2**16))

    def reals(self, *shape: int) -> np.ndarray:
        """Numbers about 0, of one or two digits."""
        return self._array(shape, REALS, lambda rng: rng.integers(-30, 31, shape) / 10)

    def positives(self, *shape: int) -> np.ndarray:
        """Numbers in 0.1 … 4."""
        return self._array(shape, POSITIVES, lambda rng: rng.integers(1, 41, shape) / 10)

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """int64 in low … high."""
        return self._array(shape, range(low, high + 1), lambda rng: rng.integers(low, high + 1, shape)).astype(np.int64)

    def distinct(self, *shape: int) -> np.ndarray:
        """Numbers about 0 of which no two are equal, at least 0.1 apart: without ties."""
        size = int(np.prod(shape))
        return (self.rng().permutation(size).reshape(shape) - size // 2) / 10 + 0.05

    def probabilities(self, *shape: int) -> np.ndarray:
        """Positive numbers that sum to 1 over the last axis; some are as small as a thousandth."""
        weights = self.positives(*shape) ** self.pick(1.0, 2.0)
        return weights / weights.sum(-1, keepdims=True)

    def _array(
        self, shape: tuple[int, ...], pool: Any, many: Callable[[np.random.Generator], np.ndarray]
    ) -> np.ndarray:
        size = int(np.prod(shape))
        if size > FEW:
            return many(self.rng())
        return np.array([pool[self.integer(0, len(pool) - 1)] for _ in range(size)]).reshape(shape)


def uniform(rng: np.random.Generator, simple: float) -> Callable[[int, int], int]:
    """Uniform choices, but with the probability `simple` the lowest one."""
    return lambda low, high: low if rng.random() < simple else int(rng.integers(low, high + 1))
