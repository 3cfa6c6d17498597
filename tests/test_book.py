"""What the book in `docs/` names is there: functions, tests, mistakes, figures, links.  It covers what it has to cover.

Sphinx is not needed.  Whether the book can be built is for `python -m sphinx -W docs docs/_build` to say.
"""

from __future__ import annotations

import ast
import functools
import pkgutil
import re
import tomllib
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from test_readme import equations

from nanogen import testing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not path.relative_to(DOCS).parts[0].startswith("_"))

# What a reader looks for in a table of contents.
HEADINGS = {
    "likelihood": ["The KL divergence of two Gaussians"],
    "autoregressive": ["Masks A and B"],
    "latent": ["The reparameterisation trick"],
    "adversarial": ["The optimal discriminator D*"],
    "diffusion": ["The jump q(x_t | x_0) and ᾱ_t", "The posterior mean", "L_0: the discretised decoder"],
}


class Directive(NamedTuple):
    page: Path
    line: int
    name: str
    argument: str
    options: dict[str, str]
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.name} {self.argument}"

    @property
    def tests(self) -> list[str]:
        return [test.strip() for test in self.options["test"].split(",")] if "test" in self.options else []


def parse(page: Path, text: str) -> Iterator[Directive]:
    """The directives of a page, also those inside of others."""
    for found in re.finditer(r"^(`{3,}|:{3,})\{(\w+)\} *(.*)\n((?:.*\n)*?)\1 *$", text, re.MULTILINE):
        lines = found[4].splitlines()
        options = {}
        while lines and (option := re.fullmatch(r":(\w+):\s*(.*)", lines[0])):
            options[option[1]] = option[2]
            lines.pop(0)
        line = text.count("\n", 0, found.start()) + 1
        yield Directive(page, line, found[2], found[3].strip(), options, "\n".join(lines))
        yield from (inner._replace(line=inner.line + line) for inner in parse(page, found[4]))


@functools.cache
def directives(*names: str) -> list[Directive]:
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    return [found for page, text in pages.items() for found in parse(page, text) if found.name in names]


def resolve(names: str) -> list[Any]:
    """The objects with comma-separated names below `nanogen`; those after the first may be named as in its scopes.

    Raises:
        AttributeError, ImportError: there is none."""
    first, *others = (name.strip() for name in names.split(","))
    found, scope = [pkgutil.resolve_name(f"nanogen.{first}")], first.split(".")[:-1]
    for name in others:
        for n in range(len(scope), -1, -1):
            try:
                found.append(pkgutil.resolve_name(".".join(["nanogen", *scope[:n], name])))
                break
            except (AttributeError, ImportError):
                if n == 0:
                    raise
    return found


@functools.cache
def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "")
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@functools.cache
def text_alone(page: Path) -> str:
    """A page without code; a directive's content stays."""
    fence = re.compile(r"^(`{3,})(.*)\n((?:.*\n)*?)\1 *$", re.MULTILINE)
    text = fence.sub(lambda found: found[3] if found[2].startswith("{") else "", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]+`", "", text)


@functools.cache
def headings(page: Path) -> list[str]:
    return re.findall(r"^#{1,6} +(.*?) *$", text_alone(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links may end in after `#`: the headings' slugs, as MyST or as docutils makes them, and labels."""
    titles = [re.sub(r"\$[^$]*\$|[*`]", "", title).lower() for title in headings(page)]
    slugs = {re.sub(r"[^\w\- ]", "", title.replace(" ", "-")) for title in titles}
    ascii = [unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode() for title in titles]
    slugs |= {re.sub(r"[^a-z0-9]+", "-", title).strip("-") for title in ascii}
    return slugs | set(re.findall(r"^\((\S+)\)=$", page.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_parser() -> None:
    text = (
        "# A\n\n````{note}\n```{equation} f, g\n:source: A 2020\n:test: a.py::b, c.py::d\n\nx = y\n```\n````\n"
        "```python\n# no heading\n```\n```{wrong} x = z\nNo: $x$.\n```\n"
    )
    outer, equation, wrong = parse(DOCS / "a.md", text)
    assert (outer.name, equation.name, wrong.name) == ("note", "equation", "wrong")
    assert (outer.line, equation.line, wrong.line) == (3, 4, 14)
    assert (equation.argument, equation.tests) == ("f, g", ["a.py::b", "c.py::d"])
    assert (equation.body.strip(), wrong.tests, wrong.body) == ("x = y", [], "No: $x$.")


def test_no_directive_is_taken_for_text() -> None:
    """As Markdown does if the line that opens a block has a backtick in it; the build does not warn."""
    opening = re.compile(r"^`{3,}\{\w+\}.*`.*$", re.MULTILINE)
    assert [f"{page}: {line}" for page in PAGES for line in opening.findall(page.read_text(encoding="utf-8"))] == []


def test_every_name_exists() -> None:
    missing = []
    for found in directives("equation"):
        try:
            resolve(found.argument)
        except (AttributeError, ImportError) as error:
            missing.append(f"{found}: {error}")
    assert missing == []


def test_every_test_exists() -> None:
    """And each equation and each error that it names has one, said in a sentence."""
    missing = []
    for found in directives("equation", "wrong"):
        missing += [f"{found}: {test}" for test in found.tests or ["no test"] if not has_test(test)]
        if found.name == "equation" and not (found.options.get("does") and found.body.strip()):
            missing.append(f"{found}: no equation, or not what its test does")
    assert missing == []


def has_test(test: str) -> bool:
    file, _, function = test.partition("::")
    return function.partition("[")[0] in functions_of(ROOT / "tests" / file)


def test_every_mistake_is_in_the_museum() -> None:
    parts = tomllib.loads((ROOT / "tests" / "museum" / "mutations.toml").read_text(encoding="utf-8"))
    names = {f"{part}.{name}" for part, mistakes in parts.items() for name in mistakes}
    assert [str(found) for found in directives("exercise") if found.argument not in names] == []


def test_every_figure_has_a_script() -> None:
    scripts = [(found, DOCS / "figures" / f"{found.argument}.py") for found in directives("run")]
    assert [str(found) for found, script in scripts if "draw" not in functions_of(script)] == []
    assert [str(found) for found, _ in scripts if not found.body.strip()] == []  # without a caption


def test_the_list_of_checkers_is_whole() -> None:
    """The directive `checkers` finds them in the sources: functions of a file's first level, with a docstring."""
    shown = [
        found for found in DOCS.rglob("*.md") if re.search(r"^```\{checkers\}", found.read_text("utf-8"), re.MULTILINE)
    ]
    assert shown == [DOCS / "testing.md"]
    files = [ROOT / "nanogen" / "testing" / f"{name}.py" for name in testing._FILES]
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    checks = [n for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith(("check_", "checks_"))]
    assert sorted(n.name for n in checks) == [name for name in dir(testing) if name.startswith(("check_", "checks_"))]
    assert [n.name for n in checks if not ast.get_docstring(n)] == []


def test_links_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        text = re.sub(r"(\{\w+\})?`[^`\n]+`", lambda found: found[0] if found[1] else "", text_alone(page))
        links = re.findall(r"\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)", text)
        links += [f"{name}.md" for name in re.findall(r"\{doc\}`(?:[^`<]*<)?/?([^`>]+)>?`", text)]
        for link in links:
            path, _, anchor = link.partition("#")
            target = (DOCS / path if path.startswith("/") else page.parent / path) if path else page
            if re.match(r"\w+:", link):
                continue
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {link}")
    assert dead == []


def test_the_book_has_every_equation_of_the_readme() -> None:
    """Each name in the README's table, with its test."""
    shown: dict[Any, set[str]] = {}
    for found in directives("equation"):
        for thing in resolve(found.argument):
            shown.setdefault(thing, set()).update(found.tests)
    missing = [
        f"{name}: {test}"
        for names, test in equations()
        for name in names
        if test not in shown.get(*resolve(name), set())
    ]
    assert missing == []


def test_the_topics_have_headings() -> None:
    missing = []
    for chapter, titles in HEADINGS.items():
        pages = [DOCS / f"{chapter}.md", *DOCS.glob(f"{chapter}/*.md")]
        present = {re.sub(r"[$*\\`]", "", title) for page in pages if page.exists() for title in headings(page)}
        missing += [title for title in titles if title.replace("*", "") not in present]
    assert missing == []
