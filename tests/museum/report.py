"""A plugin of pytest's: refuses to run on any nanogen but the copy's, and notes how each test ended, in a JSON file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

COPY, REPORT = "NANOGEN_MUSEUM_COPY", "NANOGEN_MUSEUM_REPORT"
outcomes: list[dict[str, str]] = []


def pytest_collection_finish() -> None:
    import nanogen

    if not Path(nanogen.__file__).is_relative_to(os.environ[COPY]):
        pytest.exit(f"{nanogen.__file__} is not in the copy {os.environ[COPY]}", returncode=3)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    report = yield
    error = call.excinfo.type.__name__ if call.excinfo else ""
    outcomes.append({"node": report.nodeid, "phase": report.when, "outcome": report.outcome, "error": error})
    return report


def pytest_sessionfinish() -> None:
    Path(os.environ[REPORT]).write_text(json.dumps(outcomes))
