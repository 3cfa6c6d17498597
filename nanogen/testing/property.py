"""How a property is checked: inputs, the right values, a comparison, a diagnosis, the smallest counterexample.

A checker is data: a strategy of inputs, the truth (plain NumPy in float64, which knows nothing of this library), the
famous mistakes as functions of the same inputs, and the conventions as keyword arguments of all of these.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanogen.testing.trial import Options, Trial

CHECKERS: dict[str, Callable[..., None]] = {}
# The end of every checker's docstring.
OPTIONS = """
    All checkers take examples= (how many inputs) and seed=; convert=, applied to each input array, such as
    torch.from_numpy or jax.numpy.asarray (else inputs are NumPy arrays, float64 or int64); dtype="float32" for
    floating-point inputs of that type; rtol= and atol=.  Whatever np.asarray accepts may come back, and torch tensors
    with a gradient.

    Raises:
        PropertyError: the function is wrong.
        UsageError: it can't be judged: an exception inside, a wrong shape, noise or state of its own.
    """


@dataclass(frozen=True)
class Property:
    """What a checker checks.

    All functions get the values of `inputs` by position and the conventions by name.

    Args:
        name: what the counterexample calls the function.
        equation, source: a line of text each.
        inputs: (draw, **conventions) -> {name: array or number}.  Names that begin with _ are for the truth alone.
        truth: the right output: an array, or {name: array} for several; or an object with `refuse(got)`, which returns
            a text, or None for what is right (a distribution that samples have to follow).
        mistakes: {what is wrong: the output of the function that has this mistake}.  One that does not apply returns
            None.
        conventions: {name: the values that it can have}.  Other values than the stated one are tried in the diagnosis.
        where: {"where …": whether this is so for these inputs}.
        run: (function, inputs, **conventions) -> output; by default the function is called with the inputs.
        describe: (inputs, index, **conventions) -> text of the counterexample, whose worst entry is at `index`.
        examples: the number of inputs.
        atol: the absolute tolerance for double precision, as a part of the largest expected entry.
        unit: expected entries that are all smaller than this count as this large in that.
        shapes: whether the output's shape is part of the equation: a wrong one is then no bad use.
        draws: whether the function draws random numbers by itself, as a sampler does; or this, of the conventions.
            `run` may then write what was drawn into an input whose name begins with _: the truth is computed after it.
        rtol: (whether the output is in single precision, **conventions) -> the least relative tolerance, where tables
            in single precision make right values differ.
        tags: further names for `checks_for`.
    """

    name: str
    equation: str
    source: str
    inputs: Callable[..., dict[str, Any]]
    truth: Callable[..., Any]
    mistakes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    conventions: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    where: Mapping[str, Callable[..., bool]] = field(default_factory=dict)
    run: Callable[..., Any] | None = None
    describe: Callable[..., str] | None = None
    examples: int = 40
    atol: float = 1e-6
    unit: float = 1e-3
    shapes: bool = False
    draws: bool | Callable[..., bool] = False
    rtol: Callable[..., float] | None = None
    tags: tuple[str, ...] = ()

    def check(
        self, function: Any, called: str, conventions: Mapping[str, Any], usual: Mapping[str, Any], **options: Any
    ) -> None:
        """Try the function; return quietly, or raise PropertyError or UsageError.

        called: the checker's name in the line `reproduce`; usual: the conventions' defaults; options: see Options."""
        Trial(self, function, called, dict(conventions), dict(usual), Options(**options)).verdict()


def checker(**parts: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that makes a checker of an empty function: its keyword arguments, with their defaults, are the
    conventions, its docstring is what the user reads, and `parts` are those of `Property`."""

    def decorate(empty: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(empty)
        name = empty.__name__
        property = Property(**{"name": name.removeprefix("check_"), **parts})
        defaults = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}

        @functools.wraps(empty)
        def check(function: Any, **given: Any) -> None:
            settled = defaults | {key: given.pop(key) for key in list(given) if key in defaults}
            if unknown := [key for key in given if key not in Options.__dataclass_fields__]:
                takes = ", ".join([*defaults, *Options.__dataclass_fields__])
                raise TypeError(f"{name}: there is no argument {unknown[0]!r}; there are {takes}")
            property.check(function, name, settled, defaults, **given)

        check.property, check.conventions = property, defaults  # type: ignore[attr-defined]
        return register(check, signature)

    return decorate


def register(check: Callable[..., None], signature: inspect.Signature | None = None) -> Callable[..., None]:
    """List a checker for `check_all` and `checks_for`, and show the options in its signature."""
    signature = signature or inspect.signature(check)
    kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(Options).parameters.values()]
    check.__signature__ = signature.replace(parameters=kept + options)  # type: ignore[attr-defined]
    check.__doc__ = f"{(check.__doc__ or '').rstrip()}\n{OPTIONS}"
    CHECKERS[check.__name__] = check
    return check
