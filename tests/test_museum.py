"""The museum of mistakes is in order; what it is for, `python -m tests.museum`, takes some minutes and a marker."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from museum import README, ROOT, functions, mutations, readme

MUTATIONS = mutations()


def test_each_mutation_is_one_change() -> None:
    """The text occurs exactly once in its file and is replaced by another; no two have one name or one change."""
    counts = {m.name: (ROOT / "nanogen" / m.file).read_text().count(m.old) for m in MUTATIONS}
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert [m.name for m in MUTATIONS if m.old == m.new] == []
    assert len(MUTATIONS) >= 200
    assert max(Counter(m.name for m in MUTATIONS).values()) == 1
    assert max(Counter((m.file, m.old, m.new) for m in MUTATIONS).values()) == 1


def cases(file: str, function: str) -> set[str]:
    """The ids in brackets of a parametrised test whose parameters are strings, numbers, tuples of these, or named."""
    test = getattr(importlib.import_module(file.removesuffix(".py")), function)
    marks: list[Any] = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    identify = lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return {
        "-".join(ids) for ids in itertools.product(*(m.kwargs.get("ids") or map(identify, m.args[1]) for m in marks))
    }


def test_each_mutations_test_exists() -> None:
    """The node that has to fail is there: the function in the file, and the case in brackets."""
    missing = []
    for node in sorted({m.test for m in MUTATIONS}):
        file, _, test = node.partition("::")
        function, _, case = test.partition("[")
        if function not in functions(file) or (case and case.removesuffix("]") not in cases(file, function)):
            missing.append(node)
    assert missing == []


def test_readme_is_up_to_date() -> None:
    """tests/README.md is what `python -m tests.museum --write` writes."""
    assert README.read_text() == readme()


@pytest.mark.museum
def test_every_mutation_is_caught() -> None:
    """The whole museum: each mistake makes its test fail."""
    done = subprocess.run([sys.executable, "-m", "tests.museum"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
