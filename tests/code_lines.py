"""`python -m tests.code_lines`: how many lines of code each part of the library has, beside its budget.

A line of code is one that is not blank and has more on it than a comment or a docstring.  A string that stands alone as
a statement is a docstring.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "nanogen"
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
C_SUFFIXES = (".c", ".h", ".cu", ".cuh", ".cpp")
# Literals come first, so that what looks like a comment inside one is left alone.
C_TOKENS = re.compile(
    r"""(?P<literal>"(?:\\.|[^"\\])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*')"""
    r"""|//(?:\\\n|[^\n])*|/\*.*?\*/""",
    re.DOTALL,
)

NOT_CORE = ("models/", "data/", "training/", "cli.py", "__main__.py", "metrics.py", "kernels/", "testing/", "graph.py")
FILE = 400  # the most that any file may have
BUDGETS = {"engine": 320, "functional": 1150, "backend": 130, "optim": 180, "core": 2500, "annex": 2500, "whole": 7800}
MODEL = 150


def python_lines(source: str) -> int:
    """The number of lines of code in a Python file."""
    lines = source.split("\n")  # as the tokenizer does
    in_characters = lambda line, offset: (line, len(lines[line - 1].encode()[:offset].decode()))
    docstrings = [
        (in_characters(node.lineno, node.col_offset), in_characters(node.end_lineno, node.end_col_offset))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        in_docstring = any(start <= token.start and token.end <= end for start, end in docstrings)
        if token.type not in NO_CODE and not in_docstring:
            code.update(range(token.start[0], token.end[0] + 1))
    return sum(bool(lines[line - 1].strip()) for line in code)


def c_lines(source: str) -> int:
    """The number of lines of code in a file of C, C++ or CUDA, headers included."""
    # A comment leaves its line breaks, or the code on both sides of it would count as one line.
    without = C_TOKENS.sub(lambda found: found["literal"] or " " + "\n" * found[0].count("\n"), source)
    return sum(bool(line.strip()) for line in without.splitlines())


def count(path: Path) -> int:
    return (python_lines if path.suffix == ".py" else c_lines)(path.read_text(encoding="utf-8"))


def report(package: Path = PACKAGE) -> str:
    """The table: each part's lines, its budget, and a mark where it is over."""
    counts = {
        path.relative_to(package).as_posix(): count(path)
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", *C_SUFFIXES)
    }
    python = {name: n for name, n in counts.items() if name.endswith(".py")}
    others = {name: n for name, n in counts.items() if name not in python}

    def under(files: dict[str, int], *starts: str) -> int:
        return sum(n for name, n in files.items() if name.startswith(starts))

    core = sum(python.values()) - under(python, *NOT_CORE)
    rows: list[tuple[str, int, int | None]] = [
        ("core (Python)", core, BUDGETS["core"]),
        ("  engine: autograd.py", under(python, "autograd.py"), BUDGETS["engine"]),
        ("  functional/", under(python, "functional/"), BUDGETS["functional"]),
        ("  backend.py", under(python, "backend.py"), BUDGETS["backend"]),
        ("  optim.py", under(python, "optim.py"), BUDGETS["optim"]),
        ("models/", under(python, "models/"), None),
        *((f"  {name}", n, MODEL) for name, n in python.items() if name.startswith("models/")),
        ("data/", under(python, "data/"), None),
        ("training/, cli.py, metrics.py", under(python, "training/", "cli.py", "__main__.py", "metrics.py"), None),
        ("testing/, graph.py", under(python, "testing/", "graph.py"), None),
        ("annex: kernels/ (Python, C and CUDA)", under(counts, "kernels/"), BUDGETS["annex"]),
        ("  kernels/ (Python alone)", under(python, "kernels/"), None),
        ("C and CUDA outside of kernels/", sum(others.values()) - under(others, "kernels/"), 0),
        ("whole package (Python)", sum(python.values()), BUDGETS["whole"]),
        *((f"a file over {FILE}: {name}", n, FILE) for name, n in counts.items() if n > FILE),
    ]
    return "\n".join([f"{'lines of code':<44}{'lines':>7}{'budget':>8}", *_table(rows)])


def _table(rows: Iterable[tuple[str, int, int | None]]) -> list[str]:
    return [
        f"{name:<44}{n:>7}" + ("" if budget is None else f"{budget:>8}" + "  over" * (n > budget))
        for name, n, budget in rows
    ]


if __name__ == "__main__":
    print(report())
