"""Timing that only trusts ratios: both sides by turns in one process, warmed up, the median of many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """Seconds of ours and of theirs, medians, and the quartiles of the ratio of neighbouring runs."""

    name: str
    ours: float
    theirs: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


# The other side's threads wait for more work in a loop, libgomp's (PyTorch's) for some ms, OpenBLAS's for about 0.1 s
# (where it is not we who share the work out), and take a core from whoever comes next; those that sleep take ms to wake
# up.  So each side runs for so many seconds before the run that counts.
SETTLING, SETTLING_AFTER_OPENBLAS = 0.04, 0.15


def seconds(f: Callable[[], Any]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def settle(f: Callable[[], Any], least: float) -> float:
    """Run for a while, in seconds; for how long it was."""
    taken = seconds(f)
    while taken < least:
        taken += seconds(f)
    return taken


def compare(
    name: str, ours: Callable[[], Any], *theirs: Callable[[], Any], budget: float = 4.0, settling: float = SETTLING
) -> Comparison:
    """Time ours against the best of theirs (the one with the smallest median), by turns, for `budget` seconds."""
    sides = [ours, *theirs]
    for f in sides * 2:
        f()
    once = sum(settle(f, settling) + seconds(f) for f in sides)
    rounds = max(5, min(200, int(budget / max(once, 1e-9))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for f, kept in zip(sides, times, strict=True):
            settle(f, settling)
            kept.append(seconds(f))
    best = min(times[1:], key=statistics.median)
    ratios = sorted(a / b for a, b in zip(times[0], best, strict=True))
    return Comparison(
        name,
        statistics.median(times[0]),
        statistics.median(best),
        ratios[len(ratios) // 4],
        ratios[3 * len(ratios) // 4],
    )
