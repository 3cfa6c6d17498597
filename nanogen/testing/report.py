"""Many checkers at once: a table as text and JSON, and lists for pytest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanogen.testing.errors import PropertyError, UsageError
from nanogen.testing.property import CHECKERS

# The group of a file that does not give it its name.
GROUPS = dict.fromkeys(("convolution", "normalisation", "functions", "labels"), "layers")
GROUPS |= dict.fromkeys(("divergences", "autoencoders", "bounds", "samplers"), "densities")


@dataclass(frozen=True)
class Row:
    """What became of one checker: `right`, `wrong` or `bad use`."""

    check: str
    verdict: str
    looks_like: tuple[str, ...] = ()
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What became of all of them.  `str(report)` is a table, `report.json()` the same for machines, `report.ok` whether
    all functions are right."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        return all(row.verdict == "right" for row in self.rows)

    def json(self) -> str:
        return json.dumps([asdict(row) for row in self.rows], indent=1, ensure_ascii=False)

    def __str__(self) -> str:
        width = max([len(row.check) for row in self.rows], default=0)
        lines = []
        for row in self.rows:
            said = "; or ".join(row.looks_like) or (row.message.splitlines() or [""])[0]
            lines.append(f"{row.check:<{width}}  {row.verdict:<7}  {said}".rstrip())
        return "\n".join(lines)


def check_all(functions: Mapping[str, Any], **options: Any) -> Report:
    """Run several checkers and report on all of them, raising nothing for a function that is wrong.

    Args:
        functions: {a checker's name: the function, or (function, {conventions})}.  The names are with or without
            `check_`; what follows a colon is for the reader, so that one checker can judge several functions.
        options: for all of them: `examples`, `seed`, `convert`, `dtype`, `rtol`, `atol`.

    >>> import numpy as np
    >>> right = lambda q, p: (q * np.log(q / p)).sum(-1)
    >>> wrong = lambda q, p: (p * np.log(p / q)).sum(-1)
    >>> given = {"given": "probabilities"}
    >>> report = check_all({"categorical_kl": (right, given), "categorical_kl: mine": (wrong, given)})
    >>> report.ok, [row.verdict for row in report.rows]
    (False, ['right', 'wrong'])

    Raises:
        ValueError: a name that is no checker's.
    """
    rows = []
    for label, given in functions.items():
        check = find(label.partition(":")[0].strip())
        function, conventions = given if _is_pair(given) else (given, {})
        begin, verdict, message = time.monotonic(), "right", ""
        looks_like: tuple[str, ...] = ()
        try:
            check(function, **conventions, **options)
        except PropertyError as error:
            verdict, looks_like, message = "wrong", error.looks_like, str(error)
        except UsageError as error:
            verdict, message = "bad use", str(error)
        rows.append(Row(label, verdict, tuple(looks_like), message, round(time.monotonic() - begin, 2)))
    return Report(tuple(rows))


def checks_for(topic: str) -> list[Callable[..., None]]:
    """The checkers of a topic, for `pytest.mark.parametrize`: of a group (`gradients`, `layers`, `densities`), of a
    file (`convolution`), of a tag (`kl`), or the one of this name.

    >>> [check.__name__ for check in checks_for("softmax")]
    ['check_softmax']

    Raises:
        ValueError: a topic without checkers."""
    found = [check for name, check in CHECKERS.items() if topic in (name, name.removeprefix("check_"), *_topics(check))]
    if not found:
        topics = sorted({topic for check in CHECKERS.values() for topic in _topics(check)})
        raise ValueError(f"topic must be a checker or one of {', '.join(topics)}, got {topic!r}")
    return found


def find(name: str) -> Callable[..., None]:
    """The checker of this name, with or without `check_`."""
    full = "check_" + name.removeprefix("check_")
    if full not in CHECKERS:
        raise ValueError(f"there is no checker {name!r}; there are {', '.join(sorted(CHECKERS))}")
    return CHECKERS[full]


def _topics(check: Any) -> set[str]:
    """The tags, the file and the group of a checker."""
    tags = check.property.tags if hasattr(check, "property") else getattr(check, "tags", ())
    file = check.__module__.rpartition(".")[2]
    return {*tags, file, GROUPS.get(file, file)}


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)
