"""CUDA graphs: the kernels of a function captured once, then launched as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from nanogen import backend
from nanogen.backend import Array, device_module

WARM_UPS = 2  # calls before the capture, which compile kernels and upload constants


@backend.replay.fill
class Replayed:
    """A function on the GPU.  Its first calls launch its kernels one by one.  The next call captures them as a CUDA
    graph, and from then on each call launches the graph.

    The function takes arrays of the same shapes and dtypes in each call, on the host or on the device, and returns
    arrays.  All other data it uses must be on the device and be changed in place, because its Python code runs for the
    last time at the capture.  Its allocations come from a memory pool of its own, since each launch of the graph writes
    to the same memory.

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
                place[...] = self.cupy.asarray(array)  # through pinned memory: `set` would wait for the previous launch
            self.calls += 1
            if self.calls <= WARM_UPS + 1:
                with self.cupy.cuda.using_allocator(self.pool.malloc):
                    if self.calls <= WARM_UPS:
                        return list(self.function(*self.inputs))
                    self.graph, self.outputs = self.captured()
            self.graph.launch(self.stream)
            return [output.copy() for output in self.outputs]  # the next launch overwrites the outputs

    def captured(self) -> tuple[Any, Sequence[Array]]:
        """The graph of a call, and the arrays that its launches write the results to.  Nothing is computed here."""
        self.stream.begin_capture()
        try:
            outputs = self.function(*self.inputs)
        except BaseException:
            with contextlib.suppress(Exception):  # raise the function's error, not the one of the capture
                self.stream.end_capture()
            raise
        return self.stream.end_capture(), outputs
