"""The museum of mistakes: known bugs and wrong formulas, each a mutation of our source that a test must notice.

`mutations.toml` is the table.  `python -m tests.museum` applies each mutation alone to a copy of the source and runs
the test that must then fail.  `python -m tests.museum --write` writes the table to `tests/README.md`.

Mutation testing: DeMillo, Lipton & Sayward 1978, Hints on Test Data Selection.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .parts import PARTS

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "museum" / "mutations.toml"
REASONS = ROOT / "tests" / "museum" / "survivors.toml"
SCORES = ROOT / "tests" / "museum" / "scores.toml"
README = ROOT / "tests" / "README.md"
EXCLUDED = ROOT / "tests" / "strict" / "excluded.toml"
RECORD = ROOT / "tests" / "strict" / "cupy.json"


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes:
        name: its name on the command line.
        file: the file of `nanogen` that is changed.
        old: the text that is replaced; it must occur exactly once in the file.
        new: the replacement.
        test: the pytest node under `tests` that must fail; without [parameters], any of its cases.
        mistake: a description of the mistake, and its source.
        checker: the row of `test_testing_own.RIGHT` under which a checker of `nanogen.testing` refuses our own function
            with this mistake; empty where it lies in no formula that a checker covers.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    mistake: str
    checker: str = ""

    def by_checker(self) -> Mutation:
        """The same mistake, to be refused by its checker."""
        return dataclasses.replace(self, test=f"test_testing_own.py::test_ours_pass[{self.checker}]")

    def apply(self, root: Path) -> None:
        """Change the file below `root`.

        Raises:
            ValueError: `old` does not occur exactly once."""
        path = root / "nanogen" / self.file
        source = path.read_text()
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: the text to replace occurs {count} times in {self.file}, not once")
        changed = source.replace(self.old, self.new)
        if path.suffix == ".py":
            ast.parse(changed, str(path))
        path.write_text(changed)


def table() -> dict[str, list[Mutation]]:
    """The mutations by hall (part of the library), in the order of the file."""
    halls = tomllib.loads(TABLE.read_text())
    return {
        hall: [Mutation(f"{hall}.{name}", **entry) for name, entry in known.items()] for hall, known in halls.items()
    }


def mutations() -> list[Mutation]:
    return [mutation for hall in table().values() for mutation in hall]


def reasons() -> dict[str, list[dict[str, Any]]]:
    """The reasons why some of mutmut's changes are not noticed, by part: `kind`, `reason` and the list `changes`."""
    return tomllib.loads(REASONS.read_text())


def answered(part: str) -> list[str]:
    """The changes to a part that no test notices and that have a reason."""
    return [change for entry in reasons().get(part, []) for change in entry["changes"]]


def scores() -> dict[str, dict[str, Any]]:
    """The last results of `python -m tests.museum.survivors`, by part: date, mutmut, mutants, killed, seconds."""
    return tomllib.loads(SCORES.read_text())


@functools.cache
def functions(file: str) -> frozenset[str]:
    """The names of the test functions in a file of `tests`."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def readme() -> str:
    """The contents of `tests/README.md`: the introduction below, then the table."""
    left_out = [node for nodes in tomllib.loads(EXCLUDED.read_text()).values() for node in nodes]
    files = sum("::" not in node for node in left_out)
    cupy = json.loads(RECORD.read_text())["version"]
    refused = sum(bool(m.checker) for m in mutations())
    lines = [
        INTRODUCTION.format(
            count=len(mutations()), refused=refused, cupy=cupy, excluded=len(left_out) - files, files=files
        )
    ]
    for hall, entries in table().items():
        lines += [
            f"### {TITLES.get(hall, hall.capitalize())}\n",
            "| mistake | replaced by | caught by |",
            "|---|---|---|",
        ]
        for m in entries:
            change = f"{_code(m.old)} → {_code(m.new) if m.new.strip() else 'nothing'}<br>in `{m.file}`"
            mistake = f"**{m.name.partition('.')[2]}**: {_escaped(m.mistake)}"
            checker = f"<br>`check_{m.checker.partition(':')[0]}`" if m.checker else ""
            lines.append(f"| {mistake} | {change} | `{m.test.replace('::', ':: ')}`{checker} |")
        lines.append("")
    minutes = round(sum(score["seconds"] for score in scores().values()) / 60)
    return "\n".join([*lines, EVERY_CHANGE.format(minutes=minutes), *_score_table(), *_survivor_table()])


def _score_table() -> list[str]:
    lines = [
        "| part | changes | noticed | of those that change anything | mutmut | date |",
        "|---|---|---|---|---|---|",
    ]
    for part, s in scores().items():
        same = sum(len(entry["changes"]) for entry in reasons().get(part, []) if entry["kind"] == "equivalent")
        share, of_rest = s["killed"] / s["mutants"], s["killed"] / (s["mutants"] - same)
        files = ", ".join(f"`{file}`" for file in PARTS[part].files)
        lines.append(
            f"| {part}: {files} | {s['mutants']} | {s['killed']}, {share:.1%} | {of_rest:.1%} "
            f"| {s['mutmut']} | {s['date']} |"
        )
    mutants, killed = (sum(s[key] for s in scores().values()) for key in ("mutants", "killed"))
    lines.append(f"| together | {mutants} | {killed}, {killed / mutants:.1%} | | | |")
    if unmeasured := [f"{part} ({', '.join(PARTS[part].files)})" for part in PARTS if part not in scores()]:
        lines += ["", f"Not measured in their current state: {'; '.join(unmeasured)}."]
    lines += ["", "A score is for the files on that date."]
    return [*lines, ""]


def _survivor_table() -> list[str]:
    lines: list[str] = []
    for part, entries in reasons().items():
        lines += [f"### What survives in {part}\n", "| change | why it is not noticed |", "|---|---|"]
        for entry in entries:
            cells = (change.partition(": ") for change in entry["changes"])
            changes = "<br>".join(f"{where.replace(' ', ' `', 1)}`: {_code(what)}" for where, _, what in cells)
            lines.append(f"| {changes} | *{entry['kind']}*: {_escaped(entry['reason'])} |")
        lines.append("")
    return lines


def _code(text: str) -> str:
    """A piece of source as a cell of a table."""
    lines = [re.sub(r"\s+", " ", line.strip()) for line in text.strip("\n").split("\n")]
    return "<br>".join(f"`{_escaped(line)}`" for line in lines if line)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


TITLES = {
    "cuda": "CUDA",
    "pixelcnn": "PixelCNN",
    "vae": "VAE",
    "gan": "GAN",
    "spade": "SPADE",
    "stylegan": "StyleGAN",
    "ddpm": "DDPM",
    "unet": "U-Net",
    "superresolution": "Super-resolution",
    "known": "Known sources",
}

INTRODUCTION = """\
# The tests

Each test file covers one part of the library. Each test says in its docstring which equation it checks, and how: by
enumeration, by quadrature, by an identity, by a second implementation (SciPy, torch), or by a statistical test whose
power is stated and which must reject a deliberately wrong sampler. No test compares the code with itself.

    python -m pytest                                    # what to run at each change, in three processes
    python -m pytest --hypothesis-profile=ci -m "not museum and not torture and not (stand_in and full)"    # CI
    python -m pytest tests/test_schedule.py             # one part
    python -m pytest --hypothesis-profile=thorough      # 500 new examples per property instead of 5
    python -m pytest --hypothesis-profile=random --hypothesis-seed=1    # 20 others, determined by the seed
    python -m pytest -m torture -s tests/test_stopping.py   # 200 times kill -9, 200 signals, a full disk; some minutes
    python -m pytest -m torture tests/test_malformed.py     # 14,000 malformed inputs; some minutes
    python -m pytest -m museum                          # the museum below, 25 minutes
    python -m pytest --device strict                    # all on the simulated GPU: three minutes
    python -m pytest -m mistakes                        # each known mistake of nanogen.testing's checkers
    python -m pytest -m stand_in                        # CUDA kernels and training steps on it, and its own rules
    python -m pytest -m full                            # the same tests for the other models, ranks and labels
    CC= python -m pytest                                # all without C kernels
    python -m pytest -m gpu                             # CPU against GPU, where there is one

`helpers.py` checks gradients against central differences, and makes arrays in every memory layout. Hypothesis draws the
same examples on every run, so a failing test keeps failing until the code changes: 5, in CI and in the museum 20.

The last three full runs with `--hypothesis-profile=random`, with seeds 22 to 24 (2026-11-21), had no failures.

The last run of `-m torture` on stopping: 200 processes were killed with kill -9 at random moments, 27 of them while
writing a file. Every run was readable, and after resuming ended with the same bytes as a run that was never killed. A
disk of 256 KiB (tmpfs) filled up while a checkpoint was written; the earlier checkpoints stayed intact. Mounting a disk
needs root. 200 commands got Ctrl-C or SIGTERM at random moments: 173 of them were not done, and ended with one line.

## Malformed inputs

`malformed.py` makes broken files: IDX, gzip, CIFAR-10, npy, npz, pictures, downloaded archives, TOML, settings and
checkpoints. It flips bits, truncates, splices files together, and writes wrong headers, some of them with correct
checksums. Hypothesis chooses the file and the changes, and shrinks examples that fail. There are also known attacks
(decompression bombs, pickles, deep nesting, huge sizes), and pipes, folders, devices and links instead of files.

Each file is given to the command line, which must print one line and exit with status 2, or with 0 if the file is still
valid. It must use less than 2 s of CPU time and 150 MB of address space (700 MB for a picture; settings may need more
memory, and get an error if there is too little). Nothing may be unpickled, and no folder may be left behind.

By default there are 10 inputs of each of 14 kinds, in CI 40, with `-m torture` 1,000 of each. The last such run:
14,000 runs on 9,344 different inputs; 11,860 were refused with one line, 2,140 were still valid, and there was no other
outcome.

## Kernels and plain forms

Every operation has a plain form in NumPy. Some also have kernels, in C for the CPU and in CUDA for the GPU. With a C
compiler, the tests of layers and models check the C kernels against the equations. `test_kernels.py` compares every
registered kernel with its plain form, over one table of inputs: values, gradients, and which inputs a kernel declines.
`test_compiled.py` tests what is specific to C. The museum's mutations of plain forms are tested without a compiler.

## A simulated GPU

`--device strict` runs the same tests on `strict/device.py`, a substitute for CuPy that uses NumPy. It is strict:

- it has only the names and arguments of CuPy {cupy} (`strict/cupy.json`, written by `python -m tests.strict.record`
  where CuPy is installed);
- NumPy's functions refuse its arrays, and its functions refuse host arrays;
- reductions give arrays, not scalars;
- every transfer between host and device is recorded.

Arrays that a test passes to nanogen are moved to the device automatically, and a test can read results without copying
them back (`strict/plugin.py`). The library itself gets no such help. `strict/excluded.toml` lists the {excluded} tests
and {files} files that are excluded, with reasons.

Our CUDA kernels (convolution without its matrix products, sums, normalisation, softmax, cross-entropy, updates) run
there too. g++ compiles them as C++ (tests that need them are skipped without g++), and each thread of a block is a
fibre that waits at `__syncthreads()` (`strict/cuda.py`). Each launch runs twice, once in order and once from the last
block and thread to the first, and both must give the same bits. Writing outside of an array is an error, and so is a
barrier that some threads do not reach. `test_cuda.py` compares the kernels with the plain forms for blocks of every
size, checks that the removal of any barrier is noticed, and compiles the source with NVRTC if CuPy is installed.

`test_strict.py` checks the simulated GPU against CuPy's rules. It also checks that a training step of each model copies
only its images to the device, and nothing back. `test_parity.py` compares every operation and every model between CPU
and GPU. On the simulated GPU they agree bit for bit, except where a CUDA kernel sums in another order. There, and
always on a real GPU (marker `gpu`), they agree within 2e-5 of the largest number in float32 and 1e-11 in float64, or 20
times that for whole models. The simulation can't test speed, CuPy's own kernels, or when exactly the host waits for the
GPU.

The museum's parts on CUDA and on devices contain mistakes that only the simulated GPU notices.

## The museum of mistakes

{count} known bugs and wrong formulas. Each is applied alone to a copy of the source. The test named beside it must then
fail, and not merely because the copy can't be imported.

    python -m tests.museum                              # all, 25 minutes; exits 1 if a mistake goes unnoticed
    python -m tests.museum schedule.noise-without-root  # some, by name
    python -m tests.museum --list
    python -m tests.museum --checkers                   # those in formulas that `nanogen.testing` checks

{refused} of them lie in formulas that `nanogen.testing` covers. The checker, named below the test, must refuse our
own function with the mistake. `test_testing_own.py` has the functions.

The table is `museum/mutations.toml`. `python -m tests.museum --write` writes this page from it.
"""

EVERY_CHANGE = """\
## Every small change

The museum has mistakes that people make. [mutmut](https://github.com/boxed/mutmut) makes changes mechanically: each
operator, number, argument and condition of these parts is changed, one at a time, and the tests must notice.

    pip install -e '.[test,mutation]'
    python -m tests.museum.survivors                    # all, about {minutes} minutes; exits 1 if one has no reason
    python -m tests.museum.survivors schedule           # one part

mutmut does not change decorated functions and lambdas, which here are the primitives and their gradient rules. So it
gets a copy in which they are plain functions. A change that survives mutmut's run is written into the source and tested
again with more tests, in a new process, and then with the same tests on the simulated GPU. The remaining survivors are
listed with a reason: *equivalent* if results differ at most by rounding, *wording* if only the text of an error
differs, *device* if a difference shows only on a real GPU.
"""
