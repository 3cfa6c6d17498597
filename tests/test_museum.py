"""The museum of mistakes is in order; what it is for, `python -m tests.museum`, takes some minutes and a marker."""

from __future__ import annotations

import ast
import importlib
import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from museum import README, ROOT, answered, functions, mutations, readme, reasons, scores
from museum.parts import PARTS, exposed
from test_testing_own import RIGHT

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
    join = lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
    identify = lambda value: getattr(value, "id", None) or join(value)
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


def test_each_checker_has_a_row() -> None:
    """The checker that has to refuse a mistake is applied to a function of ours."""
    assert {m.checker for m in MUTATIONS if m.checker} <= set(RIGHT)


@pytest.mark.mistakes
def test_a_mistake_is_refused_by_its_checker() -> None:
    refused_by_checkers("ddpm.ddim-eta-not-squared")


@pytest.mark.museum
def test_every_mistake_is_refused_by_its_checker() -> None:
    refused_by_checkers()


def refused_by_checkers(*names: str) -> None:
    command = [sys.executable, "-m", "tests.museum", "--checkers", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_survivors_are_those_of_the_scores() -> None:
    """Together the parts have a score of at least 95 %, and each that has one as many reasons as changes went
    unnoticed."""
    assert set(reasons()) | set(scores()) <= set(PARTS)
    for part, score in scores().items():
        assert len(answered(part)) == score["mutants"] - score["killed"]
    assert sum(s["killed"] for s in scores().values()) >= 0.95 * sum(s["mutants"] for s in scores().values())


@pytest.mark.parametrize("part", PARTS)
def test_survivors_are_lines_of_the_source(part: str) -> None:
    """What is answered for is there: the function in the file, and the line before the change."""
    with_one_quote = lambda text: text.replace('"', "'")
    for change in answered(part):
        where, _, lines = change.partition(": ")
        file, function = where.split(" ")
        name, source = function.rpartition(".")[2], exposed((ROOT / "nanogen" / file).read_text())
        assert any(Path(file).match(pattern) for pattern in PARTS[part].files)
        assert f"def {name}(" in source, change
        before = lines.partition(" → ")[0].replace("def (", f"def {name}(")
        assert with_one_quote(before) in with_one_quote(source), change


def test_plain_functions_are_the_same_program() -> None:
    """What mutmut is given computes the same without decorators and lambdas, but for class methods, which it takes."""
    source = (
        "@twice\ndef f(x):\n    return x + 1\n"
        "add(lambda x: 2 * x, 3)\n"
        "class A:\n    @property\n    def a(self):\n        return 5\n"
        "    @a.setter\n    def a(self, x):\n        self.b = x\n"
        '@kept.kernel("cpu")\nclass K:\n    def forward(x):\n        return x + 3\n'
        '@kept.kernel("cuda")\ndef _(x):\n    return x + 4\n'
    )
    prelude = "twice = lambda f: lambda x: f(f(x))\nadd = lambda f, x: results.append(f(x))\nresults = []\n"
    prelude += "class kept:\n    kernel = lambda name: lambda kernel: results.append(kernel) or kernel\n"
    for text in (source, exposed(source)):
        names: dict[str, Any] = {}
        exec(prelude + text, names)
        a = names["A"]()
        a.a = 7
        first, kernel, other = names["results"]
        assert (names["f"](1), first, a.a, a.b, kernel.forward(1), other(1)) == (3, 6, 5, 7, 4, 5)
    assert exposed(source).count("def ") == 6
    assert "def K_forward(" in exposed(source)
    assert "def kept_kernel_cuda(" in exposed(source)
    for part in PARTS.values():
        for path in (path for pattern in part.files for path in (ROOT / "nanogen").glob(pattern)):
            statements = ast.parse(exposed(path.read_text())).body
            statements += [inner for s in statements if isinstance(s, ast.ClassDef) for inner in s.body]
            functions = [s for s in statements if isinstance(s, ast.FunctionDef)]
            assert {ast.unparse(d) for f in functions for d in f.decorator_list} <= {"classmethod"}


def test_readme_is_up_to_date() -> None:
    """tests/README.md is what `python -m tests.museum --write` writes."""
    assert README.read_text() == readme()


@pytest.mark.museum
def test_every_mutation_is_caught() -> None:
    """The whole museum: each mistake makes its test fail."""
    done = subprocess.run([sys.executable, "-m", "tests.museum"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
