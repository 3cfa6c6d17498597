"""Averages that move, on raw arrays."""

from __future__ import annotations

from typing import Any

from nanogen.backend import Array, fuse


@fuse
def move(average: Array, x: Array, kept: Any, share: Any) -> None:
    """a ← kept · a + share · x; these are numbers, or arrays of one."""
    average *= kept
    average += share * x
