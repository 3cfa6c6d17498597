"""Many arrays made one, on raw arrays."""

from __future__ import annotations

from collections.abc import Sequence

from nanogen.backend import THREADS, Array, ByDevice, array_module, cuda_source, launch


@ByDevice
def join(whole: Array, parts: Sequence[Array], arrays: Sequence[Array]) -> None:
    """Each array's numbers to its part, of the same shape; the parts lie one after the other in whole (total,)."""
    for part, array in zip(parts, arrays, strict=True):
        part[...] = array


SOURCE = cuda_source("joining")
MANY = 16  # arrays that the kernel takes, each as an argument: a table of them would have to go there at every step


@join.on_gpu
def _(whole: Array, parts: Sequence[Array], arrays: Sequence[Array]) -> None:
    """Copied each by itself, hundreds of small arrays would be hundreds of launches."""
    xp, start = array_module(whole), 0
    for first in range(0, len(arrays), MANY):
        some = [xp.ascontiguousarray(a, whole.dtype) for a in arrays[first : first + MANY]]
        sizes, left = [a.size for a in some], MANY - len(some)
        part = whole[start : start + sum(sizes)]
        start += part.size
        blocks = min(-(-max(sizes) // THREADS), 1024)
        launch(SOURCE, "join", (blocks,), (THREADS,), *some, *[part] * left, *sizes, *[0] * left, part)
