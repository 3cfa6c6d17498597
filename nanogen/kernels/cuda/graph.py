"""Work on a GPU captured as a CUDA graph, to be launched as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from nanogen import backend
from nanogen.backend import Array, device_module

WARM_UPS = 2  # calls that compile what there is to compile, and upload what stays


@backend.replay.fill
class Replayed:
    """A function on a GPU whose kernels are launched one by one in the first calls, then captured, then all at once.

    It takes arrays of the same shapes and types each time, the host's or the device's, and returns arrays.  Whatever
    else it works on lies on the device, and is changed in place: Python runs for the last time when it is captured.
    What is allocated on the way comes from a pool that nobody else has, since a graph writes there again each time.

    Raises:
        RuntimeError: no CuPy, no GPU, or CuPy refuses to capture what the function does.
    """

    def __init__(self, function: Callable[..., Sequence[Array]]):
        self.cupy, self.function, self.calls = device_module("cuda"), function, 0
        self.stream, self.pool = self.cupy.cuda.Stream(), self.cupy.cuda.MemoryPool()

    def __call__(self, *arrays: Array) -> list[Array]:
        with self.stream:
            if not self.calls:
                self.inputs = [self.cupy.array(array) for array in arrays]
            for place, array in zip(self.inputs, arrays, strict=True):
                place[...] = self.cupy.asarray(array)  # by pinned memory: `set` would wait for the launch before
            self.calls += 1
            if self.calls <= WARM_UPS + 1:
                with self.cupy.cuda.using_allocator(self.pool.malloc):
                    if self.calls <= WARM_UPS:
                        return list(self.function(*self.inputs))
                    self.graph, self.outputs = self.captured()
            self.graph.launch(self.stream)
            return [output.copy() for output in self.outputs]  # into other memory: the next launch writes there again

    def captured(self) -> tuple[Any, Sequence[Array]]:
        """The graph of a call, and where its results will be; nothing is computed."""
        self.stream.begin_capture()
        try:
            outputs = self.function(*self.inputs)
        except BaseException:
            with contextlib.suppress(Exception):  # the capture is broken: what counts is why
                self.stream.end_capture()
            raise
        return self.stream.end_capture(), outputs
