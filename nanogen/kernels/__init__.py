"""The annex: faster kernels of the core's operations, in C for the CPU and in CUDA for the GPU.

Importing it registers the kernels that work on this machine.  No other module needs it: without it everything works,
but slower.
"""

import importlib.util

from nanogen.backend import OPERATIONS

if importlib.util.find_spec("threadpoolctl"):
    import nanogen.kernels.cpu
if importlib.util.find_spec("cupy"):
    import nanogen.kernels.cuda


def registered() -> dict[str, list[str]]:
    """The names of the operations that have kernels, with the devices of the kernels."""
    return {operation.__name__: sorted(operation.kernels) for operation in OPERATIONS if operation.kernels}
