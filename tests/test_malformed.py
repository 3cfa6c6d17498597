"""Inputs that are broken, or made to break what reads them: one line, exit status 2, soon, and in little memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import malformed
from tests.malformed import IN_PLACE, NAMES, Kind

MANY = 1000  # changes of each kind, of the marker `torture`


@pytest.fixture(scope="module")
def kinds() -> dict[str, Kind]:
    found = malformed.all_kinds()
    assert tuple(found) == NAMES
    return found


def wrong(kind: Kind, name: str, change: Callable[[], object] | None) -> str | None:
    """Only who asks for too large a model, or nests TOML too deep, may be told that there is not enough memory."""
    return malformed.trial(kind, change, spare_memory=name not in ("toml", "settings"))


def change_many(kind: Kind, name: str, count: int) -> int:
    """Hypothesis chooses the file, the changes, and where, so many times: how many different malformed files that were.

    Where something is wrong, it looks for a small change that does it."""
    files: set[bytes] = set()

    @settings(max_examples=count, deadline=None, database=None, print_blob=True, suppress_health_check=HealthCheck)
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        assert wrong(kind, name, lambda: files.add(malformed.change_one(kind, random))) is None

    check()
    return len(files - set(kind.files.values()))


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_taken(name: str, kinds: dict[str, Kind]) -> None:
    """Where nothing is changed nothing is wrong: otherwise the other tests would show nothing."""
    assert wrong(kinds[name], name, None) is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "resized pictures"])  # the pictures once more
def test_traps(name: str, kinds: dict[str, Kind]) -> None:
    """What has broken readers before, in place of each file: as of malformed inputs."""
    for path in kinds[name].files:
        for number, trap in enumerate(malformed.traps(malformed.ending(path))):
            problem = wrong(kinds[name], name, partial(malformed.write, {path: trap}))
            assert problem is None, f"trap {number} as {path}: {problem}"


@pytest.mark.parametrize("thing", IN_PLACE)
@pytest.mark.parametrize("name", [name for name in NAMES if "downloaded" not in name])  # a server has files alone
def test_something_else_than_a_file(name: str, thing: str, kinds: dict[str, Kind]) -> None:
    """A folder, a pipe, a link, a device under the file's name: as of malformed inputs."""
    for path in kinds[name].files:
        problem = wrong(kinds[name], name, partial(malformed.put_in_place, path, IN_PLACE[thing]))
        assert problem is None, f"{thing} as {Path(path).name}: {problem}"


@pytest.mark.parametrize("name", NAMES)
def test_malformed_inputs(name: str, kinds: dict[str, Kind]) -> None:
    """Valid files with changes: no traceback, one line and exit status 2 (or 0 where the file is still a valid one),
    less than 2 s of CPU time and 150 MB of address space (700 MB for a picture), nothing unpickled, no folder left."""
    few = 2 * settings.default.max_examples
    assert change_many(kinds[name], name, few) > few / 4


def test_how_many_there_are() -> None:
    """The README says one number, which is that of the marker `torture`."""
    said = re.findall(r"([\d,]+) (?:malformed inputs|runs on)", Path(__file__).with_name("README.md").read_text())
    assert said == [f"{MANY * len(NAMES):,}"] * 2


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_many_malformed_inputs(name: str, kinds: dict[str, Kind]) -> None:
    """The same of many more: 400 different ones and more of each kind."""
    different = change_many(kinds[name], name, MANY)
    print(f"{name}: {different} malformed inputs")
    assert different >= 400
