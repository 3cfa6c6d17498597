"""General mutation testing: every small change that mutmut knows, in the files that hold the mathematics.

    python -m tests.museum.survivors            # all parts; exits 1 at a survivor without a reason
    python -m tests.museum.survivors schedule   # one part
    python -m tests.museum.survivors --all      # those too that have a reason, and are taken for survivors else

mutmut leaves two things alone that here are the heart of the matter, decorated functions (every primitive) and lambdas
(every gradient rule): so it works on a copy where both are written out as plain functions.  And it turns a change on
only when the changed function is called, after the import: so what survives is tried again with the change written
into the source, by more tests, and then by the same on the stand-in for a GPU.  What survives that too needs a reason
in `survivors.toml`.  The scores go to `scores.toml`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name

from . import SCORES, answered
from .copies import Copy, run_tests
from .parts import PARTS, Part, exposed

SURVIVED = "SURVIVED"
DEVICES = ("strict", "cpu")  # what the survivors of mutmut's run are tried on
NOTICED = 1  # of mutmut's exit codes; others say that the tests passed, that none ran, or that their time ran out


def prepare(copy: Copy, part: Part) -> None:
    """Give mutmut its settings, and the part in plain functions."""
    lists = {
        "source_paths": ["nanogen/"],
        "only_mutate": [f"nanogen/{file}" for file in part.files],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in part.tests],
        "pytest_add_cli_args": ["-n0", "-p", "no:cacheprovider", "--hypothesis-profile=museum"],
        "also_copy": ["setup.cfg", "README.md", "benchmarks"],
    }
    settings = "\n".join(f"{name} = {json.dumps(values)}" for name, values in lists.items())
    (copy.folder / "pyproject.toml").write_text(f"[tool.mutmut]\n{settings}\n")
    for file in part.files:
        path = copy.folder / "nanogen" / file
        path.write_text(exposed(path.read_text()))


@dataclass(frozen=True)
class Change:
    """One of mutmut's mutants: `file function: line before → line after`, and the file with the change written in."""

    what: str
    path: Path
    source: str


def changes(copy: Copy, part: Part) -> dict[str, Change]:
    """All of mutmut's mutants, by their names."""
    found = {}
    for file in part.files:
        path = Path("nanogen") / file
        with contextlib.chdir(copy.folder):  # where mutmut's settings are
            mutated = mutate_file_contents(str(path), path.read_text())
        functions = {f.name: f for f in ast.walk(ast.parse(mutated.code)) if isinstance(f, ast.FunctionDef)}
        for name in mutated.mutant_names:
            function = name.rpartition("__mutmut_")[0]
            versions = (f"{function}__mutmut_orig", name)
            before, after = (ast.unparse(functions[v]).replace(v, "").splitlines() for v in versions)
            lines = list(difflib.ndiff(before, after))
            old, new = (" ".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
            function = function.removeprefix("xǁ").removeprefix("x_").replace("ǁ", ".")
            source = replaced((copy.folder / path).read_text(), function, functions[name])
            found[get_mutant_name(path, name)] = Change(f"{file} {function}: {old} → {new}", path, source)
    return found


def replaced(source: str, name: str, function: ast.FunctionDef) -> str:
    """The program with `function` in place of the one called `name`, or `Class.name`."""
    tree = ast.parse(source)
    *owners, name = name.split(".")
    body = tree.body
    for owner in owners:
        body = next(s.body for s in body if isinstance(s, ast.ClassDef) and s.name == owner)
    place = next(i for i, s in enumerate(body) if isinstance(s, ast.FunctionDef) and s.name == name)
    new = ast.FunctionDef(name, function.args, function.body, body[place].decorator_list, function.returns)
    body[place] = new
    return ast.unparse(ast.fix_missing_locations(tree))


def run_mutmut(copy: Copy, mutants: list[str]) -> dict[str, int]:
    """The exit code of the tests under each mutant."""
    one_thread = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # mutmut forks: torch's threads would not wake up
    environment = {**os.environ, **one_thread, "PYTHONPATH": str(copy.folder)}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *mutants]
    done = subprocess.run(command, cwd=copy.folder, env=environment, capture_output=True, text=True)
    codes: dict[str, int] = {}
    for meta in (copy.folder / "mutants").rglob("*.meta"):
        codes |= json.loads(meta.read_text())["exit_code_by_key"]
    if any(codes.get(mutant) is None for mutant in mutants):
        raise RuntimeError(f"mutmut did not run to its end:\n{(done.stdout + done.stderr)[-3000:]}")
    return {mutant: codes[mutant] for mutant in mutants}


def trial(copy: Copy, tests: tuple[str, ...], change: Change) -> str:
    """What becomes of a change in the source: SURVIVED, or the device on which a test notices it."""
    path = copy.folder / change.path
    before = path.read_text()
    path.write_text(change.source)
    try:
        for device in DEVICES:
            status, _, _ = run_tests(copy.folder, *tests, device=device)
            if status != 0:
                return device if status > 0 else f"{device}, no end"
        return SURVIVED
    finally:
        path.write_text(before)


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
    parser.add_argument("--all", action="store_true", help="try those too that have a reason")
    given, unanswered = parser.parse_args(), 0
    for name in given.parts or PARTS:
        part, start, known = PARTS[name], time.perf_counter(), set() if given.all else set(answered(name))
        tests = (*part.tests, *part.more)
        with tempfile.TemporaryDirectory() as scratch:
            copy = Copy(Path(scratch).resolve())
            prepare(copy, part)
            made = changes(copy, part)
            tried = [mutant for mutant, change in made.items() if change.what not in known]
            codes = run_mutmut(copy, tried)
            left = [mutant for mutant in tried if codes[mutant] != NOTICED]
            print(f"{name}: {len(made)} changes, {len(tried)} tried, {len(left)} left by mutmut's tests", flush=True)
            for device in DEVICES if left else ():
                status, _, printed = run_tests(copy.folder, *tests, device=device)
                if status != 0:
                    print(f"without any change the tests do not pass ({device}):\n{printed[-3000:]}")
                    return 1
            survived = []
            for mutant in left:
                verdict = trial(copy, tests, made[mutant])
                print(f"{verdict:8} {made[mutant].what}", flush=True)
                survived += [mutant] if verdict == SURVIVED else []
        missed = len(made) - len(tried) + len(survived)
        record(name, len(made), len(made) - missed, time.perf_counter() - start)
        print(f"{name}: {len(made) - missed} of {len(made)} changes are noticed", flush=True)
        unanswered += sum(made[mutant].what not in answered(name) for mutant in survived)
        for what in sorted(set(answered(name)) - {change.what for change in made.values()}):
            print(f"has a reason but is no change any more: {what}")
    return 1 if unanswered else 0


if __name__ == "__main__":
    sys.exit(main())
