"""Inputs that are broken, or made to break what reads them: one line, exit status 2, soon, and in little memory."""

from __future__ import annotations

import pytest

from tests import malformed
from tests.malformed import NAMES, UNCHANGED, Kind

FEW, MANY = 30, 400  # cases of each kind: by default, and of the marker `torture`


@pytest.fixture(scope="module")
def kinds() -> dict[str, Kind]:
    found = malformed.all_kinds()
    assert tuple(found) == NAMES
    return found


def failures(kind: Kind, name: str, cases: range) -> list[str]:
    found = ((case, malformed.trial(kind, case, name)) for case in cases)
    return [f"python -m tests.malformed {name} {case}: {problem}" for case, problem in found if problem]


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_taken(name: str, kinds: dict[str, Kind]) -> None:
    """Where nothing is changed nothing is wrong: otherwise the other tests would show nothing."""
    assert failures(kinds[name], name, range(UNCHANGED, UNCHANGED + 1)) == []


@pytest.mark.parametrize("name", NAMES)
def test_malformed_inputs(name: str, kinds: dict[str, Kind]) -> None:
    """Traps, then files changed at random: no traceback, one line and exit status 2 (or 0 where the file is still a
    valid one), less than 2 s of CPU time and 150 MB of address space (700 MB for a picture), nothing unpickled, no
    folder left behind."""
    assert failures(kinds[name], name, range(FEW)) == []


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_many_malformed_inputs(name: str, kinds: dict[str, Kind]) -> None:
    """The same of many more."""
    assert failures(kinds[name], name, range(MANY)) == []
