"""Which times t a training step looks at.  Nichol & Dhariwal 2021, section 3.3."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module
from nanogen.distributed import mean_over_ranks
from nanogen.distributions import inverse_transform
from nanogen.nn import Module
from nanogen.random import Generator

KEPT = 10  # losses of each time, as in the paper
UNIFORM = 0.001  # the share of times that are drawn uniformly, so that no probability is 0: as in the authors' code


class UniformTimes:
    """t ~ U{1 … T}.  Ho et al. 2020, algorithm 1."""

    def __init__(self, T: int):
        self.T = T

    def draw(self, n: int, rng: Generator) -> tuple[Array, Array | None]:
        """n times, and the weights 1 / (T p_t) of their losses, which keep the mean unbiased; None if all are 1."""
        return rng.integers(1, self.T + 1, n), None

    def follow(self, t: Array, losses: Array) -> None:
        """Hear the losses (N, …) of the times (N,)."""


class ImportanceTimes(Module):
    """p_t ∝ √E[L_t²] over the last losses of each time, in place of which there is the mean of L_t² in each of the
    last batches that had this t.  Uniform until there are enough for all t.  Nichol & Dhariwal 2021, eq. 18."""

    squares: Tensor
    seen: Tensor

    def __init__(self, T: int):
        super().__init__()
        self.T = T
        self.register_buffer("squares", Tensor(np.zeros((T, KEPT), np.float32)))
        self.register_buffer("seen", Tensor(np.zeros(T, np.int64)))

    def probabilities(self) -> Array:
        """p_1 … p_T."""
        xp = array_module(self.squares.data)
        roots = xp.sqrt(self.squares.data.mean(axis=1, dtype=np.float64)) + np.finfo(np.float32).tiny
        found = (1 - UNIFORM) * roots / roots.sum() + UNIFORM / self.T
        return xp.where((self.seen.data >= KEPT).all(), found, 1 / self.T)

    def draw(self, n: int, rng: Generator) -> tuple[Array, Array]:
        """n times, and the weights 1 / (T p_t) of their losses."""
        p = self.probabilities()
        t = inverse_transform(p, rng.uniform(n, dtype=np.float64))
        return t + 1, 1 / (self.T * p[t])

    def follow(self, t: Array, losses: Array) -> None:
        """Remember the losses (N, …) of the times (N,)."""
        xp = array_module(losses)
        which = (xp.arange(1, self.T + 1)[:, None] == t).astype(np.float64)  # (T, N)
        squares = losses.reshape(len(t), -1).mean(axis=1, dtype=np.float64) ** 2
        sums, counts = mean_over_ranks((which * squares).sum(axis=1), which.sum(axis=1))
        there = counts > 0
        newest = (sums / xp.maximum(counts, 1e-9))[:, None].astype(self.squares.dtype)
        later = xp.concatenate([self.squares.data[:, 1:], newest], axis=1)
        self.squares.data[...] = xp.where(there[:, None], later, self.squares.data)  # in place, for captured graphs
        self.seen.data[...] += there


TIMES: dict[str, Any] = {"uniform": UniformTimes, "importance": ImportanceTimes}
