"""One function under test: trying it, judging it, the diagnosis, the smallest counterexample."""

from __future__ import annotations

import contextlib
import functools
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from nanogen.testing.diagnosis import Case, Diagnosis, Fault, differ, named
from nanogen.testing.draws import Draw, uniform
from nanogen.testing.errors import PropertyError, UsageError

SHRINKING = 6.0  # seconds
TWICE = 3  # so many inputs are given to the function a second time


@dataclass(frozen=True)
class Options:
    """The keyword arguments that every checker takes.

    Args:
        examples: the number of inputs.  Default: the checker's.
        seed: of the inputs.
        convert: applied to every array among the inputs, such as `torch.from_numpy` or `jax.numpy.asarray`.
        dtype: of the floating-point inputs, such as "float32".
        rtol, atol: the tolerances, relative, and absolute as a part of the largest expected entry.  Default: by the
            type of the outputs, 1e-5 and 1e-6 for float64, 1e-3 and 1e-4 for float32.
    """

    examples: int | None = None
    seed: int = 0
    convert: Callable[[np.ndarray], Any] | None = None
    dtype: Any = None
    rtol: float | None = None
    atol: float | None = None

    def hand_over(self, value: Any) -> Any:
        """A copy of an input as the function gets it."""
        if not isinstance(value, np.ndarray):
            return value
        copy = value.astype(self.dtype) if self.dtype is not None and value.dtype.kind == "f" else value.copy()
        return copy if self.convert is None else self.convert(copy)


class _Enough(BaseException):
    """Ends a run of hypothesis."""


class Trial(Diagnosis):
    """A function under test, and all that is known of it."""

    def __init__(
        self,
        property: Any,
        function: Any,
        called: str,
        conventions: dict[str, Any],
        usual: dict[str, Any],
        options: Options,
    ):
        self.property, self.function, self.called = property, function, called
        self.conventions, self.usual, self.options = conventions, usual, options
        self.changed: list[str] = []
        self.coarse = False  # whether an output was of half precision
        for name, allowed in property.conventions.items():
            conventions[name] = _spelt(conventions.get(name), allowed)
            if conventions.get(name) not in allowed:
                choice = ", ".join(map(repr, allowed))
                raise ValueError(f"{called}: {name} must be one of {choice}, got {conventions.get(name)!r}")
        self.examples = options.examples or property.examples
        self.draws = property.draws(**conventions) if callable(property.draws) else property.draws
        self.cases: list[Case] = []

    def verdict(self) -> None:
        self.collect(self.options.seed)
        self.refuse_bad_use()
        if not any(case.faults for case in self.cases):
            return
        looks_like = self.diagnosis()
        tried = len(self.cases)
        where = self.where()
        self.shrink()
        case = min((case for case in self.cases if self.clear(case)), key=lambda case: case.cost)
        fault = max(case.faults, key=lambda fault: fault.excess)
        raise PropertyError(
            self.describe(case, fault),
            fault.expected,
            fault.got,
            self.property.equation,
            self.property.source,
            looks_like,
            where,
            self.reproduce(),
            case.inputs,
            tried,
            fault.said,
        )

    # Trying

    def collect(self, start: int, seconds: float = np.inf) -> None:
        """Run the function on `examples` inputs more, the first ones simple."""
        end = time.monotonic() + seconds
        for inputs in self.generate(start):
            self.cases.append(self.run(inputs))
            if time.monotonic() > end:
                return

    def generate(self, start: int) -> Iterator[dict[str, Any]]:
        """Inputs drawn from this seed."""
        rng = np.random.default_rng(start)
        for i in range(self.examples):
            yield self.property.inputs(
                Draw(uniform(rng, (1.0, 0.6, 0.6, 0.4)[i] if i < 4 else 0.0)), **self.conventions
            )

    def explore(self, test: Callable[[dict[str, Any]], Any]) -> None:
        """Call `test` with inputs drawn by hypothesis until it raises _Enough; failures are shrunk."""

        @st.composite
        def inputs(draw: Any) -> dict[str, Any]:
            return self.property.inputs(Draw(lambda low, high: draw(st.integers(low, high))), **self.conventions)

        quiet = settings(
            max_examples=100,
            database=None,
            deadline=None,
            derandomize=False,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            print_blob=False,
            report_multiple_bugs=False,
        )
        with contextlib.suppress(_Enough):
            seed(self.options.seed)(quiet(given(inputs())(lambda found: test(found))))()

    def run(self, inputs: dict[str, Any]) -> Case:
        """The function's outputs for these inputs, beside the expected ones."""
        with np.errstate(all="ignore"):
            case = Case(inputs, named(self.property.truth(*inputs.values(), **self.conventions)))
        case.outputs, case.error = self.call(inputs, case.expected)
        if case.outputs is None:
            text = f"it raises {case.error}"
            case.faults = [Fault("", "error", (), _shorten(case.expected), case.error, text)]
        else:
            if self.draws:  # what the function drew is known now
                with np.errstate(all="ignore"):
                    case.expected = named(self.property.truth(*inputs.values(), **self.conventions))
            case.faults = [
                fault
                for name in case.expected
                if (fault := self.compare(name, case.expected[name], case.outputs[name])) is not None
            ]
        return case

    def call(self, inputs: dict[str, Any], expected: dict[str, Any]) -> tuple[dict[str, np.ndarray] | None, str]:
        handed = {
            name: value if name.startswith("_") else self.options.hand_over(value) for name, value in inputs.items()
        }
        before = {
            name: to_numpy(value).copy()
            for name, value in handed.items()
            if isinstance(inputs[name], np.ndarray) and not name.startswith("_")
        }
        try:
            with np.errstate(all="ignore"):
                if self.property.run:
                    output = self.property.run(self.function, handed, **self.conventions)
                else:
                    output = self.function(*[value for name, value in handed.items() if not name.startswith("_")])
        except (UsageError, PropertyError):
            raise
        except Exception as error:
            line = (str(error).strip() or "without a text").splitlines()[0]
            return None, f"{type(error).__name__}: {line}"
        outputs = self.arrays(output, expected)
        self.changed += [
            name for name, old in before.items() if not np.array_equal(old, to_numpy(handed[name]), equal_nan=True)
        ]
        return outputs, ""

    def arrays(self, output: Any, expected: dict[str, Any]) -> dict[str, np.ndarray]:
        """The outputs by their names in `expected`, as arrays of numbers."""
        if list(expected) == [""]:
            parts: dict[str, Any] = {"": output}
            like = np.shape(expected[""])
            if isinstance(output, tuple | Mapping) and (isinstance(output, Mapping) or len(output) != sum(like[:1])):
                raise UsageError(f"{self.called}: the function must return one array, got {_kind(output)}")
        elif isinstance(output, Mapping):
            parts = {name: output.get(name) for name in expected}
        elif isinstance(output, tuple | list) and len(output) == len(expected):
            parts = dict(zip(expected, output))
        else:
            raise UsageError(
                f"{self.called}: the function must return {len(expected)} outputs ({', '.join(expected)}), "
                f"got {_kind(output)}"
            )
        if all(part is None for part in parts.values()):
            raise UsageError(f"{self.called}: the function returned {_kind(output)}, an array of numbers is expected")
        return {name: self.array(name, part) for name, part in parts.items()}

    def array(self, name: str, part: Any) -> Any:
        if part is None:
            return None
        try:
            array = to_numpy(part)
        except Exception as error:
            raise UsageError(
                f"{self.called}: np.asarray does not take the output{_of(name)}, {_kind(part)}: {error}"
            ) from error
        if array.dtype.kind not in "fiubc":
            raise UsageError(
                f"{self.called}: the output{_of(name)} must be an array of numbers, got {_kind(part)}"
                + (f" of {array.dtype}" if hasattr(part, "dtype") else "")
            )
        self.coarse |= str(getattr(part, "dtype", "")).endswith("float16")
        return array

    def compare(self, name: str, expected: Any, got: Any) -> Fault | None:
        """The first fault of an output, or None.  An output that is None is not judged."""
        if got is None:
            return None
        prefix = f"{name}: " if name else ""
        if hasattr(expected, "refuse"):
            said = expected.refuse(got)
            return None if said is None else Fault(name, "value", (), str(expected), got, prefix + said)
        expected = np.asarray(expected)
        if got.shape != expected.shape:
            if got.size == expected.size and _squeezed(got) == _squeezed(expected):
                got = got.reshape(expected.shape)
            else:
                text = f"{prefix}expected the shape {expected.shape}, got {got.shape}"
                return Fault(name, "shape", (), expected.shape, got.shape, text)
        rtol, atol = self.tolerances(got)
        finite = np.abs(expected[np.isfinite(expected)])
        allowed = rtol * np.abs(expected) + atol * max(self.property.unit, finite.max(initial=0.0))
        with np.errstate(all="ignore"):
            off = np.abs(got - expected.astype(np.result_type(expected, np.float64))) / allowed
        off = np.where((got == expected) | (np.isnan(got) & np.isnan(expected)), 0.0, off)
        off = np.where(np.isnan(off), np.inf, off)
        if not off.size or off.max() <= 1:
            return None
        # the first of the entries that are clearly off, in reading order
        where = tuple(int(i) for i in np.unravel_index(int((off >= min(off.max(), 1e3)).argmax()), off.shape))
        e, g = expected[where].item(), got[where].item()
        place = f", at [{', '.join(map(str, where))}] of the shape {got.shape}" if got.size > 1 else ""
        return Fault(
            name, "value", where, e, g, f"{prefix}expected {{}}, got {{}}".format(*_apart(e, g)) + place, off.max()
        )

    def tolerances(self, got: np.ndarray) -> tuple[float, float]:
        single = got.dtype.kind in "fc" and bool(
            (got.astype(np.complex64 if got.dtype.kind == "c" else np.float32) == got).all()
        )
        rtol, atol = (1e-3, 1e-4) if single and got.size else (1e-5, self.property.atol)
        if self.coarse:
            rtol, atol = 3e-2, 1e-2
        least = self.property.rtol(single, **self.conventions) if self.property.rtol else 0.0
        return (
            max(rtol, least) if self.options.rtol is None else self.options.rtol,
            max(atol, least / 10) if self.options.atol is None else self.options.atol,
        )

    # Judging

    def refuse_bad_use(self) -> None:
        """Raise UsageError where the outputs say nothing of the equation."""
        case = self.cases[0]
        shapes = ", ".join(f"{name} {_shape(value)}" for name, value in case.inputs.items() if not name.startswith("_"))
        if all(case.error for case in self.cases):
            raise UsageError(f"{self.called}: the function raises {case.error} (inputs: {shapes})")
        if not self.draws:
            self.refuse_other_outputs()
        shape = [next((f for f in case.faults if f.kind == "shape"), None) for case in self.cases]
        told = [found for case, found in zip(self.cases, shape) if not _has_short_axes(case.expected)] or shape
        if not self.property.shapes and all(told) and not self.explaining(self.candidates(), self.cases):
            case, fault = next((case, fault) for case, fault in zip(self.cases, shape) if fault)
            shapes = ", ".join(f"{k} {_shape(x)}" for k, x in case.inputs.items() if not k.startswith("_"))
            raise UsageError(f"{self.called}: {fault.said} (inputs: {shapes})")
        if self.changed and not any(case.faults for case in self.cases):
            raise UsageError(
                f"{self.called}: the outputs are right, but the function changes its input {self.changed[0]} in place; "
                "hand over a function that copies it"
            )

    def refuse_other_outputs(self) -> None:
        """A function that answers differently the second time."""
        answered = [case for case in self.cases if not case.error]
        largest = sorted(answered, key=lambda case: (not case.faults, -case.cost[0]))
        for case in answered[:TWICE] + largest[:TWICE]:
            again, _ = self.call(case.inputs, case.expected)
            if again is None or not _same(case.outputs, again):
                with _seeded():
                    first, _ = self.call(case.inputs, case.expected)
                with _seeded():
                    second, _ = self.call(case.inputs, case.expected)
                plain = [self.call(case.inputs, case.expected)[0] for _ in range(4)]
                why = (
                    "it draws its own numbers; hand over a function without noise, or with the noise as an argument"
                    if _same(first, second) and not all(_same(plain[0], other) for other in plain)
                    else "it keeps state from call to call, or draws from a generator of its own"
                )
                raise UsageError(f"{self.called}: two calls with the same inputs give different outputs: {why}")

        wrong = [case for case in answered if case.faults]
        stale = [any(_same(case.outputs, other.outputs) for other in answered if not other.faults) for case in wrong]
        several = sum(not any(_same(a.outputs, b.outputs) for b in wrong[:i]) for i, a in enumerate(wrong)) > 2
        if all(stale) and several and not self.explaining(self.candidates(), self.cases):
            raise UsageError(
                f"{self.called}: the outputs are those of earlier inputs: it keeps state from call to call, as a cache"
            )

    def clear(self, case: Case) -> bool:
        """Whether the case fails as clearly as it can: no counterexample at the edge of the tolerance."""
        return max([fault.excess for fault in case.faults], default=0.0) >= self.clearly

    @functools.cached_property
    def clearly(self) -> float:
        largest = max(fault.excess for case in self.cases for fault in case.faults)
        return min(largest, 1e3)

    def shrink(self) -> None:
        """Look for simpler inputs on which the function is wrong, for some seconds at most."""
        clearly, end = self.clearly, time.monotonic() + SHRINKING

        def test(inputs: dict[str, Any]) -> None:
            if time.monotonic() > end:
                raise _Enough
            case = self.run(inputs)
            self.cases.append(case)
            assert max([fault.excess for fault in case.faults], default=0.0) < clearly

        try:
            self.explore(test)
        except (UsageError, PropertyError):
            raise
        except Exception:  # hypothesis reports what it found; it is among the cases
            return

    def where(self) -> str:
        """The narrowest condition outside of which the function was right; of draws none, since noise hides faults."""
        best, text = len(self.cases), ""
        if self.draws:
            return text
        for condition, holds in self.property.where.items():
            inside = [case for case in self.cases if holds(*case.inputs.values(), **self.conventions)]
            outside = [case for case in self.cases if not any(case is other for other in inside)]
            failing = sum(bool(case.faults) for case in inside)
            luck = math.comb(len(inside), failing) / math.comb(len(self.cases), failing)  # if the failing ones were any
            if len(outside) >= 3 and not any(case.faults for case in outside) and luck < 0.01 and len(inside) < best:
                best = len(inside)
                text = f"{condition} ({failing} of {best} such inputs, 0 of {len(outside)} others)"
        return text

    def describe(self, case: Case, fault: Fault) -> str:
        if self.property.describe:
            return self.property.describe(case.inputs, fault.index, **self.conventions)
        given = ", ".join(f"{name}={_value(x)}" for name, x in case.inputs.items() if not name.startswith("_"))
        return f"{self.property.name}({given})"

    def reproduce(self) -> str:
        given = {name: value for name, value in self.conventions.items() if differ(value, self.usual.get(name))}
        given |= {
            name: value for name in ("examples", "dtype", "rtol", "atol") if (value := getattr(self.options, name))
        }
        return (
            f"{self.called}(..., {''.join(f'{k}={_written(v)}, ' for k, v in given.items())}seed={self.options.seed})"
        )


def _written(x: Any) -> str:
    return "..." if callable(x) or np.size(to_numpy(x)) > 4 else repr(x)


def _spelt(value: Any, allowed: Sequence[Any]) -> Any:
    """The allowed value, also where it was typed in ASCII: "0..T-1" and "0...T-1" are "0…T−1"."""
    plain = lambda x: x.replace("...", "…").replace("..", "…").replace("-", "−").replace(" ", "")
    if isinstance(value, str) and value not in allowed:
        return next((x for x in allowed if isinstance(x, str) and plain(x) == plain(value)), value)
    return value


def to_numpy(x: Any) -> np.ndarray:
    """An array of whatever library, without its gradient and on the host."""
    for method in ("detach", "cpu"):
        x = getattr(x, method)() if callable(getattr(x, method, None)) else x
    if str(getattr(x, "dtype", "")).endswith("bfloat16") and hasattr(x, "float"):
        x = x.float()
    if type(x).__module__.partition(".")[0] == "cupy":
        x = x.get()
    if isinstance(x, tuple | list):
        x = [to_numpy(part) for part in x]
    return np.asarray(x)


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or a.keys() != b.keys():
        return False
    pairs = [(a[name], b[name]) for name in a if a[name] is not None and b[name] is not None]
    return all(x.shape == y.shape and np.allclose(x, y, rtol=1e-5, atol=1e-6, equal_nan=True) for x, y in pairs)


class _seeded:
    """Within this context the global generators of Python, NumPy and torch start from 0; then they are as before."""

    def __enter__(self) -> None:
        self.torch = sys.modules.get("torch")
        self.state = random.getstate(), np.random.get_state(), self.torch and self.torch.get_rng_state()
        random.seed(0)
        np.random.seed(0)
        if self.torch:
            self.torch.manual_seed(0)

    def __exit__(self, *_: Any) -> None:
        random.setstate(self.state[0])
        np.random.set_state(self.state[1])
        if self.torch:
            self.torch.set_rng_state(self.state[2])


def _has_short_axes(expected: dict[str, Any]) -> bool:
    """Whether an output has an axis of length 1, where a shape with an axis less passes for the right one."""
    return any(1 in np.shape(x) for x in expected.values() if not hasattr(x, "refuse"))


def _squeezed(x: np.ndarray) -> tuple[int, ...]:
    return tuple(n for n in x.shape if n != 1)


def _of(name: str) -> str:
    return f" {name!r}" if name else ""


def _kind(x: Any) -> str:
    return "None" if x is None else f"a {type(x).__name__}" + (f" of {len(x)}" if isinstance(x, tuple | list) else "")


def _shape(x: Any) -> str:
    return str(x.shape) if isinstance(x, np.ndarray) else repr(x)


def _shorten(expected: dict[str, Any]) -> Any:
    return expected[""] if list(expected) == [""] else expected


def _apart(expected: Any, got: Any) -> tuple[str, str]:
    """Both numbers with as many digits as tell them apart, four behind the point at least."""
    if isinstance(expected, bool | int) and isinstance(got, bool | int):
        return str(expected), str(got)
    texts = [[f"{x:.{digits}g}" for x in (expected, got)] for digits in (5, 8, 12, 17)]
    return next(((a, b) for a, b in texts if a != b), (texts[-1][0], texts[-1][1]))


def _value(x: Any) -> str:
    """An input in a counterexample: the numbers where they are few, else the shape."""
    if not isinstance(x, np.ndarray):
        return repr(x)
    if x.size > 24:
        return f"array of the shape {x.shape}"
    return str((np.round(x, 4) if x.dtype.kind == "f" else x).tolist()).replace(".0,", ",").replace(".0]", "]")
