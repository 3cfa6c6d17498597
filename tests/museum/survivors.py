"""General mutation testing: every small change that mutmut knows, in the files that hold the mathematics.

    python -m tests.museum.survivors            # all four parts; exits 1 at a survivor without a reason
    python -m tests.museum.survivors schedule   # one part

mutmut leaves two things alone that here are the heart of the matter, decorated functions (every primitive) and lambdas
(every gradient rule): so it works on a copy where both are written out as plain functions.  And it turns a change on
only when the changed function is called, after the import: so what survives is tried again with the change on from the
start, by more tests.  What survives that too needs a reason in `survivors.toml`.  The scores go to `scores.toml`.
"""

from __future__ import annotations

import argparse
import ast
import datetime
import difflib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import SCORES, answered
from .copies import Copy, run_tests

NOTICED = 1  # of mutmut's exit codes; others say that the tests passed, that none ran, or that their time ran out


@dataclass(frozen=True)
class Part:
    """Files of nanogen, the tests that mutmut runs, and those that try its survivors besides."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    more: tuple[str, ...]


OPERATIONS = ("test_functional.py", "test_torch.py", "test_autograd.py")
PARTS = {
    "schedule": Part(("models/schedule.py",), ("test_schedule.py",), ("test_ddpm.py", "test_known.py")),
    "distributions": Part(("distributions.py",), ("test_distributions.py",), ("test_ddpm.py", "test_vae.py")),
    "autograd": Part(("autograd.py",), ("test_autograd.py", "test_functional.py"), ("test_nn.py", "test_torch.py")),
    "arithmetic": Part(
        ("functional/elementwise.py", "functional/reduction.py", "functional/special.py"),
        OPERATIONS,
        ("test_distributions.py",),
    ),
    "shapes": Part(("functional/shape.py", "functional/__init__.py"), OPERATIONS, ("test_nn.py",)),
    "layers": Part(
        ("functional/activation.py", "functional/conv.py", "functional/loss.py", "functional/matrix.py",
         "functional/normalization.py"),
        ("test_conv.py", *OPERATIONS),
        ("test_nn.py", "test_torch_models.py"),
    ),
}  # fmt: skip


# Where mutmut does not look


def exposed(source: str) -> str:
    """The same program in plain functions: `@d def f` becomes `def f` and `f = d(f)`, and a lambda that a statement of
    the module passes on becomes a function of its own."""
    tree = ast.parse(source)
    tree.body = list(_in_plain_functions(tree.body))
    return ast.unparse(ast.fix_missing_locations(tree))


def _in_plain_functions(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    for s in statements:
        if isinstance(s, ast.ClassDef):
            s.body = list(_in_plain_functions(s.body))
        if isinstance(s, ast.FunctionDef) and s.decorator_list:
            yield from _undecorated(s)
            continue
        if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call):
            yield from _lambdas_lifted(s.value)
        yield s


def _undecorated(f: ast.FunctionDef) -> Iterator[ast.stmt]:
    decorators = [ast.unparse(d) for d in f.decorator_list]
    if decorators == ["classmethod"] or decorators == ["staticmethod"]:  # mutmut looks into these
        yield f
        return
    name, f.decorator_list = f.name, []
    if "." in decorators[0] and not decorators[0].startswith("contextlib"):  # silu.gradient of `_`, grad.setter of grad
        f.name = decorators[0].replace(".", "_")
    yield f
    wrapped = f.name
    for d in reversed(decorators):
        wrapped = f"{d}({wrapped})"
    yield from ast.parse(f"{name} = {wrapped}").body


def _lambdas_lifted(call: ast.Call) -> Iterator[ast.stmt]:
    for i, given in enumerate(call.args):
        if isinstance(given, ast.Lambda):
            name = f"{ast.unparse(call.func).replace('.', '_')}_{i}"
            yield ast.FunctionDef(name, given.args, [ast.Return(given.body)], [], type_params=[])
            call.args[i] = ast.Name(name)


# What mutmut finds


def run_mutmut(copy: Copy, part: Part) -> dict[str, int]:
    """The exit code of the tests under each change, by the change's name."""
    lists = {
        "source_paths": ["nanogen/"],
        "only_mutate": [f"nanogen/{file}" for file in part.files],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in part.tests],
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "--hypothesis-profile=museum"],
        "also_copy": ["setup.cfg", "README.md", "benchmarks"],
    }
    settings = "\n".join(f"{name} = {json.dumps(values)}" for name, values in lists.items())
    (copy.folder / "pyproject.toml").write_text(f"[tool.mutmut]\n{settings}\n")
    for pattern in part.files:
        for path in (copy.folder / "nanogen").glob(pattern):
            path.write_text(exposed(path.read_text()))
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
    one_thread = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # mutmut forks, which torch's threads do not survive
    environment = {**os.environ, **one_thread, "PYTHONPATH": str(copy.folder)}
    done = subprocess.run(command, cwd=copy.folder, env=environment, capture_output=True, text=True)
    codes: dict[str, int] = {}
    for meta in (copy.folder / "mutants").rglob("*.meta"):
        codes |= json.loads(meta.read_text())["exit_code_by_key"]
    if not codes or None in codes.values():
        raise RuntimeError(f"mutmut did not run to its end:\n{(done.stdout + done.stderr)[-3000:]}")
    return codes


def change(folder: Path, mutant: str) -> str:
    """What one of mutmut's changes changes: `file function: line before → line after`."""
    module, _, name = mutant.rpartition(".")
    path = folder / Path(*module.split(".")).with_suffix(".py")
    path = path if path.exists() else path.with_suffix("") / "__init__.py"
    functions = {f.name: f for f in ast.walk(ast.parse(path.read_text())) if isinstance(f, ast.FunctionDef)}
    function = name.rpartition("__mutmut_")[0]
    before, after = (
        ast.unparse(functions[version]).replace(version, "").splitlines()
        for version in (f"{function}__mutmut_orig", name)
    )
    lines = list(difflib.ndiff(before, after))
    old, new = (" ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    file, function = path.relative_to(folder / "nanogen"), function.removeprefix("xǁ").removeprefix("x_")
    return f"{file} {function.replace('ǁ', '.')}: {old} → {new}"


def record(part: str, mutants: int, killed: int, seconds: float) -> None:
    """Put a part's score in place of what was there."""
    scores: dict[str, dict[str, Any]] = tomllib.loads(SCORES.read_text()) if SCORES.exists() else {}
    version, today = importlib.metadata.version("mutmut"), datetime.date.today()
    scores[part] = {"date": today, "mutmut": version, "mutants": mutants, "killed": killed, "seconds": round(seconds)}
    tables = [
        "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value, default=str)}" for key, value in table.items())])
        for name, table in scores.items()
    ]
    SCORES.write_text("\n\n".join(tables) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.museum.survivors", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="which parts (default: all)")
    unanswered = 0
    for name in parser.parse_args().parts or PARTS:
        part, start = PARTS[name], time.perf_counter()
        tests = (*part.tests, *part.more)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Copy(Path(scratch).resolve())
            changed = copy.folder / "mutants"
            codes = run_mutmut(copy, part)
            left = {mutant: change(changed, mutant) for mutant, code in codes.items() if code != NOTICED}
            print(f"{name}: mutmut's tests notice {len(codes) - len(left)} of {len(codes)} changes", flush=True)
            status, _, printed = run_tests(changed, *tests)
            if status != 0:
                print(f"without any change the tests do not pass:\n{printed[-3000:]}")
                return 1
            for what in set(answered(name)) - set(left.values()):
                print(f"has a reason, but is noticed: {what}", flush=True)
            for mutant in [mutant for mutant, what in left.items() if what not in answered(name)]:
                status, _, _ = run_tests(changed, *tests, MUTANT_UNDER_TEST=mutant)
                print(f"{'SURVIVED' if status == 0 else 'noticed '} {left[mutant]}", flush=True)
                if status != 0:
                    del left[mutant]
                else:
                    unanswered += 1
        record(name, len(codes), len(codes) - len(left), time.perf_counter() - start)
        print(f"{name}: {len(codes) - len(left)} of {len(codes)} changes are noticed", flush=True)
    return 1 if unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
