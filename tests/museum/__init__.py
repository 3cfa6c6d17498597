"""The museum of mistakes: famous bugs and wrong formulas, each one a change of our source that a test must notice.

`mutations.toml` is the table.  `python -m tests.museum` applies each mutation alone to a copy of the source and runs
the one test that has to fail then; `python -m tests.museum --write` writes the table into `tests/README.md`.

Mutation testing: DeMillo, Lipton & Sayward 1978, Hints on Test Data Selection.
"""

from __future__ import annotations

import ast
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
        name: what to call it on the command line.
        file: the file of `nanogen` that is changed.
        old: the text that is replaced; it occurs exactly once in the file.
        new: what takes its place.
        test: the pytest node, under `tests`, that must fail then; without [parameters], any of its cases.
        mistake: what is wrong, and where it is known from.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    mistake: str

    def apply(self, root: Path) -> None:
        """Change the file below `root`.

        Raises:
            ValueError: a text that does not occur, or more than once."""
        path = root / "nanogen" / self.file
        source = path.read_text()
        if (count := source.count(self.old)) != 1:
            raise ValueError(f"{self.name}: the text to replace occurs {count} times in {self.file}, not once")
        changed = source.replace(self.old, self.new)
        if path.suffix == ".py":
            ast.parse(changed, str(path))
        path.write_text(changed)


def table() -> dict[str, list[Mutation]]:
    """The mutations by hall: the parts of the library, in the order of the file."""
    halls = tomllib.loads(TABLE.read_text())
    return {
        hall: [Mutation(f"{hall}.{name}", **entry) for name, entry in known.items()] for hall, known in halls.items()
    }


def mutations() -> list[Mutation]:
    return [mutation for hall in table().values() for mutation in hall]


def reasons() -> dict[str, list[dict[str, Any]]]:
    """Why which of mutmut's changes are not noticed, by part: `kind`, `reason` and the list `changes`."""
    return tomllib.loads(REASONS.read_text())


def answered(part: str) -> list[str]:
    """The changes to a part that nothing notices, with a reason for each."""
    return [change for entry in reasons().get(part, []) for change in entry["changes"]]


def scores() -> dict[str, dict[str, Any]]:
    """What `python -m tests.museum.survivors` last gave, by part: date, mutmut, mutants, killed, seconds."""
    return tomllib.loads(SCORES.read_text())


@functools.cache
def functions(file: str) -> frozenset[str]:
    """The names of the test functions in a file of `tests`."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def readme() -> str:
    """`tests/README.md` as it should be: the introduction of this file's template, then the table."""
    left_out = [node for nodes in tomllib.loads(EXCLUDED.read_text()).values() for node in nodes]
    files = sum("::" not in node for node in left_out)
    cupy = json.loads(RECORD.read_text())["version"]
    lines = [INTRODUCTION.format(count=len(mutations()), cupy=cupy, excluded=len(left_out) - files, files=files)]
    for hall, entries in table().items():
        lines += [
            f"### {TITLES.get(hall, hall.capitalize())}\n",
            "| mistake | replaced by | caught by |",
            "|---|---|---|",
        ]
        for m in entries:
            change = f"{_code(m.old)} → {_code(m.new) if m.new.strip() else 'nothing'}<br>in `{m.file}`"
            mistake = f"**{m.name.partition('.')[2]}**: {_escaped(m.mistake)}"
            lines.append(f"| {mistake} | {change} | `{m.test.replace('::', ':: ')}` |")
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
        lines += ["", f"Not measured yet: {'; '.join(unmeasured)}."]
    lines += ["", "A score is of the files as they were on its day; what was written since waits for the next run."]
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
    """A piece of source in one cell of a table."""
    lines = [re.sub(r"\s+", " ", line.strip()) for line in text.strip("\n").split("\n")]
    return "<br>".join(f"`{_escaped(line)}`" for line in lines if line)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


TITLES = {
    "cuda": "CUDA",
    "pixelcnn": "PixelCNN",
    "vae": "VAE",
    "gan": "GAN",
    "ddpm": "DDPM",
    "unet": "U-Net",
    "known": "Known sources",
}

INTRODUCTION = """\
# The tests

Each test file goes with a part of the library and says, test by test, which equation it holds the code to: by
enumeration, by quadrature, by an identity, by a second implementation (SciPy, torch), or by a statistical test whose
power is stated and which refuses a deliberately wrong sampler.  No test compares the code with itself.

    python -m pytest                                    # all: two to three minutes on two cores
    python -m pytest tests/test_schedule.py             # one part
    python -m pytest --hypothesis-profile=thorough      # 500 new examples a property in place of the same 20
    python -m pytest --hypothesis-profile=random --hypothesis-seed=1    # 20 others, those of the seed
    python -m pytest -m torture -s tests/test_stopping.py   # 200 times kill -9, a disk that fills up; a minute or more
    python -m pytest -m torture tests/test_malformed.py     # 9,000 malformed inputs; some minutes
    python -m pytest -m museum                          # the museum below, 25 minutes
    python -m pytest --device strict                    # all on the stand-in for a GPU: three minutes
    CC= python -m pytest                                # all without C: NumPy's forms
    python -m pytest -m gpu                             # CPU against GPU, where there is one

`helpers.py` has gradients against central differences and arrays in every memory layout.  Hypothesis draws the same
examples on every run (profile `ci`), so a red test stays red until the code changes.

Three whole runs in a row with `--hypothesis-profile=random` and the seeds 22 to 24 last gave (2026-11-21): no failure.

`-m torture` last gave: 200 processes killed with kill -9 at random moments, 22 of them amid writing a file: every run
could be read, and each, gone on with, ended with the bytes of the run that nobody killed. On a disk (tmpfs) of 256 KiB
that filled up while a checkpoint was written, the ones before were intact; mounting disks needs root.

## Malformed inputs

`malformed.py` makes files that are not what they say: IDX, gzip, CIFAR-10, npy, npz, pictures, downloaded archives,
TOML, settings and checkpoints, with bits flipped, cut off, spliced, with lying headers, some of them under checksums
that are true.  Hypothesis chooses the file, the changes and the places, and where one does harm it looks for a smaller
one that does.  Besides there are known traps (bombs, pickles, nesting, huge sizes) and pipes, folders, devices and
links in place of files.  Each goes through the command line: one line and exit status 2, or 0 where it is a valid file
still; less than 2 s of CPU time and 150 MB of address space (700 MB for a picture; settings may ask for more, and are
told that there is not so much); nothing unpickled, no folder left behind.  By default 30 of each of 14 kinds.
`-m torture`, 1,000 of each, last gave: 14,000 runs on 9,344 different malformed inputs, 11,860 refused in one line,
2,140 valid still, none did otherwise.

## C and NumPy

Where there is a C compiler, most of what runs on a CPU is C's, and the tests of layers and models hold C to the
equations; `test_compiled.py` ties each function to the form in NumPy whose place it takes: of integers to the last bit,
of other numbers but for roundings.  The museum's changes of NumPy's forms are tried without a compiler.

## A GPU where there is none

`--device strict` runs these same tests on `strict/device.py`, which stands in for CuPy: NumPy underneath, but with the
names and arguments alone that CuPy {cupy} has (`strict/cupy.json`, written by `python -m tests.strict.record` where it
is installed), no way from its arrays into NumPy's functions, no mixing with host arrays, no scalars, and every transfer
noted.  What a test hands to nanogen is put there on the way in, what it gets back may be looked at as if it had been
fetched (`strict/plugin.py`); the library itself is lent nothing.  `strict/excluded.toml` lists the {excluded} tests and
{files} files that are left out, with reasons.

CUDA kernels (convolution but for its products, sums, normalisation, softmax, cross-entropy) run there too: compiled as
C++ by g++ (without it the tests that need them are skipped), each thread of a block a fibre that rests at
`__syncthreads()` (`strict/cuda.py`). Each launch runs twice, in order and from the last block and thread to the first,
and has to give the same bits; what is written outside of an array, or a barrier that not all come to, is an error.
`test_cuda.py` compares the kernels with NumPy's forms, for blocks of every size, leaves out each barrier in turn and,
where CuPy is installed, has NVRTC compile the source.

`test_strict.py` holds the stand-in to CuPy's rules, and a training step of each model to moving its images and noise to
the device and nothing back.  `test_parity.py` compares every operation and every model between CPU and GPU: on the
stand-in, bit for bit, except where a CUDA kernel ran, whose sums are in another order; there, and on a real GPU in any
case (marker `gpu`), within 2e-5 of the largest number in float32, 1e-11 in float64, and 20 times that for whole models.
What a stand-in can't show: speed, the results of CuPy's own kernels, the exact moments at which a GPU is waited for.

The museum's halls of CUDA and of devices have mistakes that only the stand-in notices.

## The museum of mistakes

{count} famous bugs and wrong formulas.  Each is applied alone to a copy of the source, and the one test named beside it
must fail then, in its body, with the rest of the copy importing as before:

    python -m tests.museum                              # all, 25 minutes; exits 1 if a mistake goes unnoticed
    python -m tests.museum schedule.noise-without-root  # some, by name
    python -m tests.museum --list

The table is `museum/mutations.toml`; this page is written from it by `python -m tests.museum --write`.
"""

EVERY_CHANGE = """\
## Every small change

The museum has the mistakes that people make.  [mutmut](https://github.com/boxed/mutmut) makes all that a program can:
each operator, number, argument and condition of these parts is changed alone, and the tests have to notice.

    pip install -e '.[test,mutation]'
    python -m tests.museum.survivors                    # all, about {minutes} minutes; exits 1 at one without a reason
    python -m tests.museum.survivors schedule           # one part

mutmut looks into no decorated function and no lambda, which here are the primitives and their gradient rules, so it is
given a copy in which they are plain functions.  What survives its run is tried again by more tests, in a new process
with the change written into the source, and then by the same tests on the stand-in for a GPU.  What survives that too
is listed, with the reason why: *equivalent* where no result differs but by rounding, *wording* where only the text of
an error does, *device* where only on a real GPU.
"""
