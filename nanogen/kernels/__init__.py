"""The annex: faster forms of the core's operations, in C for a CPU and in CUDA for a GPU.

Importing it registers what can work on this machine.  Nothing else imports it, and without it everything works, slower.
"""

import importlib.util

from nanogen.backend import OPERATIONS

if importlib.util.find_spec("threadpoolctl"):
    import nanogen.kernels.cpu
if importlib.util.find_spec("cupy"):
    import nanogen.kernels.cuda


def registered() -> dict[str, list[str]]:
    """The operations that have kernels, by name, and for which devices."""
    return {operation.__name__: sorted(operation.kernels) for operation in OPERATIONS if operation.kernels}
