"""Elementwise kernels: addition and the nonlinearities.  See activation.c."""

from __future__ import annotations

from nanogen.autograd import add
from nanogen.functional.activation import relu
from nanogen.kernels.activation import register
from nanogen.kernels.cpu.compiled import elementwise

# Of fewer numbers NumPy's addition is as fast.
add.kernel("cpu")(lambda x, y: elementwise("add", x, y) if x.size >= 1 << 15 else NotImplemented)
relu.kernel("cpu")(lambda x: elementwise("relu", x))
register("cpu", elementwise)
