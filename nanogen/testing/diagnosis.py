"""Inputs with what came of them, and which known mistakes explain all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

SEPARATING = 4.0  # seconds, to tell candidates of a diagnosis apart


@dataclass
class Case:
    """One set of inputs and what came of it."""

    inputs: dict[str, Any]
    expected: dict[str, Any]
    outputs: dict[str, np.ndarray] | None = None  # None after an exception
    error: str = ""
    faults: list[Fault] = field(default_factory=list)

    @property
    def cost(self) -> tuple[int, int]:
        """Simple inputs have little of it."""
        values = [np.asarray(x) for x in self.inputs.values()]
        return sum(x.size for x in values), sum(len(f"{x:g}") for v in values if v.dtype.kind in "fiu" for x in v.flat)


@dataclass(frozen=True)
class Fault:
    """Where an output differs from the expected one, and how much: infinite for a shape, an exception or nan."""

    output: str
    kind: str  # value, shape or error
    index: tuple[int, ...]
    expected: Any
    got: Any
    said: str
    excess: float = np.inf


class Diagnosis:
    """The part of a trial that looks for the mistake."""

    property: Any
    conventions: dict[str, Any]
    options: Any
    cases: list[Case]
    collect: Callable[..., None]
    compare: Callable[[str, Any, Any], Fault | None]

    def candidates(self) -> dict[str, Callable[[Case], Any]]:
        """The known mistakes and the other conventions."""
        return {
            **{text: self.formula(wrong, self.conventions) for text, wrong in self.property.mistakes.items()},
            **{
                self.meant(other): self.formula(self.property.truth, other)
                for other in self.others()
                if _changes(other, self.conventions) == 1
            },
        }

    def combinations(self) -> dict[str, Callable[[Case], Any]]:
        """Two conventions at once, and a mistake under another convention."""
        others = list(self.others())
        found = {
            self.meant(other): self.formula(self.property.truth, other)
            for other in others
            if _changes(other, self.conventions) > 1
        }
        for other, (text, wrong) in product(others, self.property.mistakes.items()):
            if _changes(other, self.conventions) == 1:
                found[f"{text}; and {self.meant(other)}"] = self.formula(wrong, other)
        return found

    def others(self) -> Iterator[dict[str, Any]]:
        names = list(self.property.conventions)
        for values in product(*self.property.conventions.values()):
            other = self.conventions | dict(zip(names, values))
            if _changes(other, self.conventions):
                yield other

    def meant(self, other: dict[str, Any]) -> str:
        changed = [f"{name}={value!r}" for name, value in other.items() if differ(value, self.conventions[name])]
        return f"right if {', '.join(changed)} was meant"

    def formula(self, function: Callable[..., Any], conventions: dict[str, Any]) -> Callable[[Case], Any]:
        return lambda case: function(*case.inputs.values(), **conventions)

    def diagnosis(self) -> tuple[str, ...]:
        """The texts of those candidates that explain every output."""
        for found in (self.candidates(), self.combinations()):
            left = self.explaining(found, self.cases)
            end = time.monotonic() + SEPARATING
            for start in range(self.options.seed + 1, self.options.seed + 6):
                if len(left) < 2 or time.monotonic() > end:
                    break
                seen = len(self.cases)
                self.collect(start, end - time.monotonic())
                left = self.explaining({text: found[text] for text in left}, self.cases[seen:])
            if left:
                return tuple(left)
        return self.general()

    def explaining(self, candidates: dict[str, Callable[[Case], Any]], cases: list[Case]) -> list[str]:
        """Those that explain every case, of which one at least has outputs."""
        ordered = sorted(cases, key=lambda case: not case.faults or case.outputs is None)  # most candidates end there
        if all(case.outputs is None for case in cases):
            return []
        return [text for text, formula in candidates.items() if all(self.explains(formula, case) for case in ordered)]

    def explains(self, formula: Callable[[Case], Any], case: Case) -> bool:
        with np.errstate(all="ignore"):
            try:
                value = formula(case)
            except (
                Exception
            ):  # a formula for inputs that mean something else may fail on these, and so may the function
                return case.outputs is None
        if case.outputs is None:
            return False
        if value is None:
            return False
        parts = named(value)
        return parts.keys() == case.outputs.keys() and all(
            self.compare(name, parts[name], case.outputs[name]) is None for name in parts
        )

    def general(self) -> tuple[str, ...]:
        """What can be said of outputs that no known mistake gives: a constant factor, a constant on top."""
        wrong = {name for case in self.cases for name in [fault.output for fault in case.faults]}
        if len(wrong) != 1 or any(fault.kind != "value" for case in self.cases for fault in case.faults):
            return ()
        (name,) = wrong
        if any(hasattr(case.expected[name], "refuse") for case in self.cases):
            return ()
        pairs = [
            (np.asarray(case.expected[name], float).ravel(), np.asarray(case.outputs[name], float).ravel(), case)
            for case in self.cases
            if case.outputs is not None and case.outputs[name] is not None and not np.iscomplexobj(case.outputs[name])
        ]
        if sum(e.size for e, _, _ in pairs) < 8:
            return ()
        right, got = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
        if not np.isfinite(right).all() or not np.isfinite(got).all() or len(np.unique(np.round(right, 6))) < 3:
            return ()
        fits = lambda change: all(self.compare(name, change(e, case), g) is None for e, g, case in pairs)
        of, at = f" of {name}" if name else "", int(np.abs(right).argmax())
        factor, offset = got[at] / right[at], got[at] - right[at]
        if abs(factor) > 1e-9 and fits(lambda e, case: e * factor):
            turned = np.isclose(factor, -1)
            return (f"the sign{of} turned round" if turned else f"{_number(factor)} times the right value{of}",)
        if fits(lambda e, case: e + offset):
            return (f"the right value{of} {'+' if offset > 0 else '−'} {_number(abs(offset))}",)
        for bound, said in ((np.maximum, "least"), (np.minimum, "most")):
            end = got.min() if bound is np.maximum else got.max()
            if np.count_nonzero(bound(right, end) != right) >= 3 and fits(lambda e, case: bound(e, end)):  # noqa: B023
                return (f"the right value{of}, but at {said} {_number(end)}",)
        return tuple(
            f"the right value{of} {how} the {size}"
            for size, length in self.lengths().items()
            for how, power in (("times", 1), ("divided by", -1))
            if fits(lambda e, case: e * float(length(case)) ** power)  # noqa: B023
        )

    def lengths(self) -> dict[str, Callable[[Case], int]]:
        """The lengths of the axes of the inputs; of those that are always equal, the first."""
        found: dict[str, Callable[[Case], int]] = {}
        seen = set()
        arrays = {name: x for name, x in self.cases[0].inputs.items() if isinstance(x, np.ndarray)}
        for name, x in arrays.items():
            for axis in (*range(x.ndim), None):
                length = lambda case, name=name, axis=axis: (
                    case.inputs[name].size if axis is None else case.inputs[name].shape[axis]
                )
                try:
                    series = tuple(length(case) for case in self.cases)
                except IndexError:  # not all have this axis
                    continue
                if series not in seen and len(set(series)) > 1:
                    text = "size" if axis is None else f"length of axis {axis}"
                    found[f"{text} of {name.strip('_')}"] = length
                seen.add(series)
        return found


def differ(a: Any, b: Any) -> bool:
    """Whether two settings differ.  They may be arrays."""
    return a is not b and not (type(a) is type(b) and np.array_equal(np.asarray(a), np.asarray(b)))


def _changes(other: dict[str, Any], conventions: dict[str, Any]) -> int:
    return sum(differ(other[name], conventions[name]) for name in other)


def _number(x: Any) -> str:
    """A short text of a number: a fraction where it is a simple one."""
    fraction = Fraction(float(x)).limit_denominator(64) if np.isfinite(x) else None
    if fraction is not None and abs(float(fraction) - x) < 1e-6 * abs(x):
        return str(fraction)
    return f"{x:.5g}"


def named(outputs: Any) -> dict[str, Any]:
    return outputs if isinstance(outputs, dict) else {"": outputs}
