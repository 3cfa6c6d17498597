"""The examples in docs/examples run, each with the package that it is about; without it, it is skipped."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "docs" / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        runpy.run_path(str(path), run_name="__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("nanogen"):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert "right" in capsys.readouterr().out
