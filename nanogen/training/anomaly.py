"""Anomaly detection: checks the results of every primitive, in the forward and in the backward pass."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from nanogen.autograd import Node, Primitive, Tensor
from nanogen.backend import array_module
from nanogen.nn import Module


class Anomaly(FloatingPointError):
    """A number that is not finite, with the operation that produced it."""


@contextlib.contextmanager
def detect_anomaly(model: Module) -> Iterator[None]:
    """Within this context, a primitive that gives a number that is not finite for finite inputs raises `Anomaly`.  The
    error has the primitive's name, the direction, and the module of `model` in which it was called.

    Like torch's `detect_anomaly`, which checks only gradients.  It is slow because it waits for every result, and it
    is not thread-safe.
    """
    names = {id(module): name or type(module).__name__ for name, module in model.named_modules()}
    places: dict[int, str | None] = {}  # the modules of the graph's nodes, for the backward pass
    going_back: list[tuple[str, str | None, str]] = []  # the primitives in backward: their rules use other primitives
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
    """Whether there is a NaN in the output and none in the inputs, or an infinity and all inputs are finite."""
    if is_finite(output.data):
        return False
    nan = bool(array_module(output.data).isnan(output.data).any())
    return all(is_finite(x.data) for x in inputs) or (nan and not any(bool((x.data != x.data).any()) for x in inputs))


def is_finite(array: Any) -> bool:
    return array.dtype.kind != "f" or bool(array_module(array).isfinite(array).all())


def _kind(x: Tensor) -> str:
    return "NaN" if bool((x.data != x.data).any()) else "infinity"


def _innermost_module(names: dict[int, str]) -> str:
    """The name of the innermost of these modules whose method is running."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if id(owner) in names and isinstance(owner, Module):
            return names[id(owner)]
        frame = frame.f_back
    return "no module"
