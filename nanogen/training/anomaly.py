"""Where numbers first go wrong: the result of every primitive looked at, going forward and going backward."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from nanogen.autograd import Node, Primitive, Tensor
from nanogen.backend import array_module
from nanogen.nn import Module


class Anomaly(FloatingPointError):
    """A number that is not finite, and where it came from."""


@contextlib.contextmanager
def detect_anomaly(model: Module) -> Iterator[None]:
    """Within this context a primitive that makes a number that is not finite, of numbers that are, raises `Anomaly`
    with the primitive's name, the direction, and the module of `model` in which it was called.

    As torch's `detect_anomaly`, which looks at gradients alone.  Slow: it waits for every result.  It is for one
    thread at a time.
    """
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    places: dict[int, str | None] = {}  # of the nodes of the graph, for the way back
    going_back: list[tuple[str, str | None, str]] = []  # through which primitives: their rules are made of others
    recorded, gradients = Primitive.recorded, Primitive.gradients

    def checked_recorded(self: Primitive, tensors: list[Tensor], *others: Any) -> Tensor:
        output = recorded(self, tensors, *others)
        name, place, way = going_back[-1] if going_back else (self.__name__, _innermost_module(names), "forward")
        if output.node is not None:
            places[output.node.index] = place
        if went_wrong(output, tensors):
            raise Anomaly(f"{name} in {place} gave {_kind(output)} going {way}")
        return output

    def checked_gradients(self: Primitive, node: Node, g: Tensor, wanted: list[bool]) -> list[Tensor | None]:
        going_back.append((self.__name__, places.get(node.index), "backward"))
        found = gradients(self, node, g, wanted)
        name, place, way = going_back.pop()
        for x in found:
            if x is not None and went_wrong(x, [g]):
                raise Anomaly(f"{name} in {place} gave {_kind(x)} going {way}")
        return found

    try:
        Primitive.recorded, Primitive.gradients = checked_recorded, checked_gradients  # type: ignore
        yield
    finally:
        Primitive.recorded, Primitive.gradients = recorded, gradients  # type: ignore[method-assign]


def went_wrong(output: Tensor, inputs: list[Tensor]) -> bool:
    """Whether there are NaNs where none went in, or infinities where all that went in was finite."""
    if is_finite(output.data):
        return False
    nan = bool(array_module(output.data).isnan(output.data).any())
    return all(is_finite(x.data) for x in inputs) or (nan and not any(bool((x.data != x.data).any()) for x in inputs))


def is_finite(array: Any) -> bool:
    return array.dtype.kind != "f" or bool(array_module(array).isfinite(array).all())


def _kind(x: Tensor) -> str:
    return "NaN" if bool((x.data != x.data).any()) else "infinity"


def _innermost_module(names: dict[int, str]) -> str:
    """The module, among those with names, whose method is being run."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if id(owner) in names and isinstance(owner, Module):
            return names[id(owner)]
        frame = frame.f_back
    return "no module"
