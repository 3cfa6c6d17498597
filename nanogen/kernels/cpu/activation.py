"""Elementwise kernels: the nonlinearities.  See activation.c."""

from __future__ import annotations

from nanogen.functional.activation import relu
from nanogen.kernels.activation import register
from nanogen.kernels.cpu.compiled import elementwise

relu.kernel("cpu")(lambda x: elementwise("relu", x))
register("cpu", elementwise)
