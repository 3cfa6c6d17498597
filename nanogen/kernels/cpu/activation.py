"""Elementwise kernels: addition and the nonlinearities.  See activation.c."""

from __future__ import annotations

from nanogen.autograd import add
from nanogen.functional.activation import relu
from nanogen.kernels.activation import register
from nanogen.kernels.cpu.compiled import elementwise

LARGE = 1 << 15  # numbers; below this NumPy is as fast

add.kernel("cpu")(lambda x, y: elementwise("add", x, y) if x.size >= LARGE else NotImplemented)
relu.kernel("cpu")(lambda x: elementwise("relu", x))
register("cpu", elementwise)
