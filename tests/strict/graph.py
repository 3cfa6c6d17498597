"""CUDA graphs on the stand-in: a capture notes what is done to device arrays, a launch does that again in its place.

As on a GPU nothing has changed after a capture, and its results are not there before the graph is launched: they are
NaN.  Who looks at a number in between is refused; who computes one on the host finds it frozen.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_noted: list[Doing] | None = None  # in a capture, what was done so far
_before: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # memory that the capture came across, and what was in it
_inside = False  # one of the noted calls
_pool: MemoryPool | None = None  # where memory comes from


class Doing(NamedTuple):
    """A call, its arguments, and its results where their memory is their own, not an argument's; else None."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: list[Any]


def noted(call: Callable[..., Any]) -> Callable[..., Any]:
    """In a capture a call of `call` becomes a part of the graph."""

    @functools.wraps(call)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        global _inside
        if _noted is None or _inside:
            result = call(*args, **kwargs)
            if _pool is not None and _pool.graph is not None:
                _pool.graph.scratch += arrays(result)
            return result
        given = [array._host for array in arrays([*args, *kwargs.values()])]
        for host in given:
            memory = whole(host)
            _before.setdefault(id(memory), (memory, memory.copy()))
        _inside = True
        try:
            result = call(*args, **kwargs)
        finally:
            _inside = False
        own = [None if any(np.may_share_memory(r._host, a) for a in given) else r for r in arrays(result)]
        _noted.append(Doing(call, args, kwargs, own))
        return result

    return wrapper


def refuse(what: str) -> None:
    """Raises:
    RuntimeError: a capture is under way, and `what` would wait for the device or need the host."""
    if _noted is not None:
        raise RuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} while a stream is captured")


def arrays(value: Any) -> Iterator[Any]:
    """The device arrays within a value."""
    if hasattr(value, "_host"):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays(part)


def whole(host: np.ndarray) -> np.ndarray:
    """The array whose memory a view looks at."""
    return host if not isinstance(host.base, np.ndarray) else whole(host.base)


class Graph:
    """What `Stream.end_capture` gives."""

    def __init__(self, doings: list[Doing]):
        self.doings = doings
        self.scratch: list[Any] = []  # what has been made since in the pool's memory, where the graph writes
        if _pool is not None:
            _pool.graph = self

    def launch(self, stream: Any = None) -> None:
        for array in self.scratch:
            if array._host.dtype.kind == "f":
                array._host.fill(np.nan)
        for call, args, kwargs, results in self.doings:
            for place, again in zip(results, arrays(call(*args, **kwargs)), strict=True):
                if place is not None:
                    place._host[...] = again._host


class Stream:
    """CuPy's, as far as a capture goes: everything is done at once, in the order in which it is asked for."""

    _pointers = itertools.count(0x57E0000000, 0x100)  # more than 32 bits, as addresses have

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None):
        self.ptr = 0 if null else next(self._pointers)

    def __enter__(self) -> Stream:
        _current.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _current.pop()

    def is_capturing(self) -> bool:
        return _noted is not None

    def synchronize(self) -> None:
        refuse("synchronize")

    def begin_capture(self, mode: Any = None) -> None:
        global _noted
        refuse("begin_capture")
        _noted = []

    def end_capture(self) -> Graph:
        global _noted
        if _noted is None:
            raise RuntimeError("cudaErrorIllegalState: no capture is under way")
        doings, _noted = _noted, None
        for memory, content in _before.values():  # nothing has been done: it was noted
            memory[...] = content
        _before.clear()
        for result in (r for doing in doings for r in doing.results if r is not None):
            if result._host.dtype.kind == "f":
                result._host.fill(np.nan)
        return Graph(doings)


_current = [Stream(null=True)]


def get_current_stream() -> Stream:
    return _current[-1]


class MemoryPool:
    """What a capture frees is free in here, and the graph's all the same: see `Graph.scratch`."""

    graph: Graph | None = None

    def malloc(self, size: int) -> Any:
        raise NotImplementedError("the stand-in's memory is NumPy's")


@contextlib.contextmanager
def using_allocator(allocator: Any = None) -> Iterator[None]:
    global _pool
    before, _pool = _pool, allocator.__self__
    try:
        yield
    finally:
        _pool = before
