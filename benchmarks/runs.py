"""The runs that several benchmarks are of."""

from __future__ import annotations

from pathlib import Path

from nanogen.cli import main
from nanogen.training.run import Run


def trained(folder: Path, *words: str) -> Run:
    """The run in the folder, trained by `nanogen train WORDS` unless it is there."""
    run = Run(folder)
    if not run.checkpoint_files():
        main(["train", *words, "--quiet", "--out", str(folder)])
    return run
