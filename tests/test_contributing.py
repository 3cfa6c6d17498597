"""The examples in CONTRIBUTING.md run, one after the other, and its entry of the museum is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part.partition("\n")[2] for part in re.split(r"^## ", TEXT, flags=re.M)[1:]}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks in a language."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    return [match[1] for match in found]


def test_sections() -> None:
    assert list(SECTIONS) == ["An operation", "A kernel", "A model", "A mistake for the museum"]


@pytest.mark.parametrize("title", SECTIONS)
def test_examples_run(title: str, monkeypatch: Any) -> None:
    """Those of the section, after those of the sections before it, in one namespace."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"__name__": "contributing"}
    ran = 0
    for section, text in SECTIONS.items():
        for block in blocks(text, "python"):
            exec(compile(block, f"CONTRIBUTING.md, {section}", "exec"), names)
            ran += section == title
        if section == title:
            break
    assert ran


def test_the_entry_is_in_the_museum() -> None:
    (entry,) = blocks(TEXT, "toml")
    tomllib.loads(entry)
    assert entry in (ROOT / "tests" / "museum" / "mutations.toml").read_text(encoding="utf-8")
