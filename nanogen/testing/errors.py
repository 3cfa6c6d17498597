"""What a checker raises: `PropertyError` for a wrong equation, `UsageError` for a function that can't be judged."""

from __future__ import annotations

from typing import Any


class UsageError(ValueError):
    """The function could not be judged: an exception inside it, outputs of a wrong shape, outputs that are no arrays of
    numbers, a function that draws its own numbers, keeps state or changes its inputs.  One line."""


class PropertyError(AssertionError):
    """The function is wrong.

    Attributes:
        property: the smallest counterexample found, as a text.
        expected, got: the right value and the function's, at the entry that differs most.
        equation, source: what should hold, and where it is from.
        looks_like: the known mistakes, or other conventions, that give the function's outputs on every input that was
            tried.  Empty where none does; several only where they agree on all these inputs.
        where: the condition outside of which the function was always right, or "".
        reproduce: the call that raises this again.
        inputs: the arrays of the counterexample, by name.
        tried: how many inputs the function was tried on."""

    def __init__(
        self,
        property: str,
        expected: Any,
        got: Any,
        equation: str,
        source: str,
        looks_like: tuple[str, ...] = (),
        where: str = "",
        reproduce: str = "",
        inputs: dict[str, Any] | None = None,
        tried: int = 0,
        said: str = "",
    ):
        self.property, self.expected, self.got = property, expected, got
        self.equation, self.source, self.where = equation, source, where
        self.looks_like, self.reproduce = looks_like, reproduce
        self.inputs, self.tried = inputs or {}, tried
        lines = [f"{property}: {said}", f"  equation    {equation}      {source}"]
        if len(looks_like) == 1:
            lines.append(f"  looks like  {looks_like[0]}: explains {tried} of {tried} inputs")
        elif looks_like:
            lines.append(f"  looks like  one of these, which agree on all {tried} inputs: " + "; ".join(looks_like))
        lines += [f"  fails only  {where}"] * bool(where)
        lines += [f"  reproduce   {reproduce}"] * bool(reproduce)
        super().__init__("\n".join(lines))
