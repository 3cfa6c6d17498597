"""A copy of the library and its tests, to be changed and tried out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import ROOT
from .report import COPY, REPORT

SECONDS = 600
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".hypothesis")


class Copy:
    """nanogen, its tests and its settings in a scratch folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("nanogen", "tests", "benchmarks"):  # torch's form of the models is among the benchmarks
            shutil.copytree(ROOT / name, folder / name, ignore=LEFT_OUT)
        for name in ("setup.cfg", "README.md", "nanogen_command.py"):
            shutil.copy(ROOT / name, folder)

    def restore(self) -> None:
        """Bring the library back to what it is."""
        shutil.rmtree(self.folder / "nanogen")
        shutil.copytree(ROOT / "nanogen", self.folder / "nanogen", ignore=LEFT_OUT)

    def run(self, *nodes: str, in_c: bool = True) -> tuple[int, list[dict[str, str]], str]:
        return run_tests(self.folder, *nodes, in_c=in_c)


def run_tests(
    folder: Path, *nodes: str, device: str = "cpu", in_c: bool = True
) -> tuple[int, list[dict[str, str]], str]:
    """pytest in a process of its own, up to the first failure: its exit status, how each test ended, what it printed.

    `device` is one of `tests/conftest.py`'s; unless `in_c`, there is no C compiler.  The status is −1 where there was
    no end."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    own = {COPY: str(folder), REPORT: str(report), "PYTHONPATH": str(folder), "NANOGEN_CACHE": str(folder / "cache")}
    own |= {} if in_c else {"CC": ""}
    command = [sys.executable, "-B", "-m", "pytest", "-p", "tests.museum.report", "-p", "no:cacheprovider", "-n0", "-x"]
    command += ["-m", ""]  # whatever is named
    command += ["--tb=line", "--hypothesis-profile=museum", f"--device={device}", *(f"tests/{node}" for node in nodes)]
    try:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return -1, [], f"no end after {SECONDS} s"
    outcomes = json.loads(report.read_text()) if report.is_file() else []
    return done.returncode, outcomes, done.stdout + done.stderr
