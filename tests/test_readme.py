"""What the README says of the code is so."""

from __future__ import annotations

import re
import textwrap
from functools import reduce
from pathlib import Path

import pytest
from test_floors import graph

import nanogen as ng
import nanogen.distributed
import nanogen.distributions
import nanogen.functional.conv
import nanogen.metrics
import nanogen.models.adversarial.gan
import nanogen.nn.layers

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def equations() -> list[tuple[list[str], str]]:
    """The rows of the table from equation to function and test: full names below `nanogen`, and a test."""
    table = TEXT.partition("| equation | source | function | test |")[2].partition("\n\n")[0]
    rows = []
    for functions, test in (line.split(" | ")[-2:] for line in table.splitlines()[2:]):
        first, *others = re.findall(r"`([\w.]+)`", functions)
        parent = first.rpartition(".")[0]
        rows.append(([first, *(f"{parent}.{other}" for other in others)], test.strip("`| ")))
    return rows


def test_every_equation_has_its_function_and_its_test() -> None:
    """The table from equation to function and test names what exists."""
    assert len(equations()) >= 20
    for names, test in equations():
        for name in names:
            assert callable(reduce(getattr, name.split("."), ng)), name
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(), test


def test_the_reading_order_is_the_import_order() -> None:
    """Each file in the table of what to read exists, and every file of the library is in it and imports from no later
    row.  The `__init__.py` of folders, which gather their files, are left out."""
    table = TEXT.partition("| file | what it is |")[2].partition("\n\n")[0]
    place: dict[str, int] = {}
    for line in table.splitlines()[2:]:
        names = re.findall(r"`([\w./]+)`", line.split(" | ")[0])
        folder = Path(names[0]).parent if not names[0].endswith("/") else Path(names[0])
        for name in (names[0], *(str(folder / other) for other in names[1:])):
            path = ROOT / name
            if "kernels" in path.parts and not (ROOT / "nanogen" / "kernels").exists():
                continue  # the annex may be left out
            assert path.exists(), name
            files = [path] if path.is_file() else path.glob("*.py")
            place |= dict.fromkeys((file.relative_to(ROOT / "nanogen").as_posix() for file in files), len(place))
    for file, sources in graph().items():
        if not file.endswith("__init__.py"):
            assert [source for source in sources if place.get(source, 0) > place[file]] == [], file


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the README and of the book's results, each as it stands; the training with fewer steps."""
    monkeypatch.chdir(tmp_path)
    texts = TEXT + (ROOT / "docs" / "results.md").read_text()
    examples = re.findall(r"^    import nanogen as ng\n(?:(?:    .*)?\n)+", texts, re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        exec(compile(textwrap.dedent(example).replace("range(500)", "range(2)"), "README.md", "exec"), {})
    assert ng.load("vae.safetensors").keys() == ng.models.VAE((1, 8, 8), 17, latent=2).state_dict().keys()
