"""The book's own directives: `equation`, `wrong`, `exercise`, `run`, `checkers`; and TeX as MathML, made at build time.

What a directive names must exist: a name below `nanogen`, a test, a mistake in the museum, a figure's script.  If it
does not, or if TeX is wrong, that is a warning with file and line.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import tomllib
from html import escape
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from nanogen.testing import _FILES

ROOT = Path(__file__).parents[1]
BREAK = nodes.raw("", "<wbr>", format="html")  # where a long name may be broken
LONG = 45  # lines from which a class is shown in part
DRAW = "import runpy, sys, pathlib; runpy.run_path(sys.argv[1])['draw'](pathlib.Path(sys.argv[2]))"

logger = logging.getLogger(__name__)
to_mathml = LatexToMathML(fancy_error=False)


def find(names: str) -> list[Any]:
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


def source(thing: Any) -> tuple[str, str]:
    """The file that defines a function or class, from the repository's root, and its text there: of an operation also
    its gradient rules, of a long class its docstring, `__init__` and `forward`.

    Raises:
        TypeError, OSError: it has no source."""
    for attribute in ("plain", "fget", "func", "__func__"):  # of operations, properties, partial functions, methods
        thing = getattr(thing, attribute, None) or thing
    thing = inspect.unwrap(thing)
    file = Path(inspect.getsourcefile(thing) or "")
    text = textwrap.dedent(inspect.getsource(thing)).rstrip()
    if inspect.isclass(thing) and text.count("\n") >= LONG:
        text = _shortened(text)
    if inspect.isfunction(thing):
        whole = file.read_text(encoding="utf-8")
        rules = [
            ast.get_source_segment(whole, statement) or ""
            for statement in ast.parse(whole).body
            if isinstance(statement, ast.Expr) and ast.unparse(statement).startswith(f"{thing.__qualname__}.vjp(")
        ]
        text = "\n\n".join([text, *rules])
    return file.relative_to(ROOT).as_posix(), text


def _shortened(text: str) -> str:
    """The head of a class, its docstring, `__init__` and `forward`."""
    lines, tree = text.split("\n"), ast.parse(text).body[0]
    assert isinstance(tree, ast.ClassDef)
    kept, last = [], 0
    for i, node in enumerate(tree.body):
        is_docstring = i == 0 and isinstance(node, ast.Expr)
        if is_docstring or (isinstance(node, ast.FunctionDef) and node.name in ("__init__", "forward")):
            start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) if last else 1
            kept += ["", *(["    ...", ""] if i and tree.body[i - 1].end_lineno != last else [])] if last else []
            kept, last = kept + lines[start - 1 : node.end_lineno], node.end_lineno or 0
    return "\n".join([*kept, "", "    ..."] if last < len(lines) else kept)


def has_test(node: str) -> bool:
    """Whether `file.py::function` is below `tests`."""
    file, _, function = node.partition("::")
    path = ROOT / "tests" / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    return function.partition("[")[0] in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


class Directive(SphinxDirective):
    """What the four directives have in common."""

    required_arguments, has_content, final_argument_whitespace = 1, True, True
    option_spec: ClassVar = {"test": directives.unchanged_required}

    def warn(self, message: str) -> None:
        logger.warning(message, location=self.get_location())

    def depends_on(self, *paths: Path) -> None:
        for path in paths:
            self.env.note_dependency(path)

    def tests(self) -> list[nodes.Node]:
        """The tests in the option `test`, as `Test: a, b`."""
        found: list[nodes.Node] = []
        for test in (name.strip() for name in self.options.get("test", "").split(",")):
            if not has_test(test):
                self.warn(f"there is no test {test!r}")
            self.depends_on(ROOT / "tests" / test.partition("::")[0])
            pieces = [x for piece in re.split(r"(?<=_)|(?<=::)", test) for x in (nodes.Text(piece), BREAK.deepcopy())]
            found += [nodes.Text(", " if found else "Test: "), nodes.literal("", "", *pieces[:-1])]
        return found

    def code(self, text: str, language: str = "python") -> nodes.literal_block:
        return nodes.literal_block(text, text, language=language)

    def fold(self, summary: str, *content: nodes.Node) -> nodes.Node:
        """What is hidden until a reader opens it."""
        return nodes.admonition("", nodes.title("", summary), *content, classes=["fold"], collapsible="closed")


class Equation(Directive):
    """An equation beside the source of the functions that compute it."""

    option_spec: ClassVar = dict.fromkeys(("source", "test", "does"), directives.unchanged_required)

    def run(self) -> list[nodes.Node]:
        tex = "\n".join(self.content).strip()
        left = nodes.container("", nodes.math_block(tex, tex, number=None, label=None), classes=["equation-math"])
        right = nodes.container(classes=["equation-code"])
        self.set_source_info(left[0])
        files = []
        try:
            for thing in find(self.arguments[0]):
                file, text = source(thing)
                self.depends_on(ROOT / file)
                if file not in files:
                    files.append(file)
                    right += nodes.paragraph("", "", nodes.literal(file, file), classes=["equation-file"])
                right += self.code(text)
        except (AttributeError, ImportError, TypeError, OSError) as error:
            self.warn(f"equation {self.arguments[0]}: {error}")
        note = nodes.container(classes=["equation-note"])
        if given := self.options.get("source"):
            note += nodes.paragraph("", f"Source: {given}")
        does, _ = self.parse_inline(self.options.get("does", ""))
        note += nodes.paragraph("", "", *self.tests(), nodes.Text(". " if does else ""), *does)
        left += note
        return [nodes.container("", left, right, classes=["equation"])]


class Wrong(Directive):
    """What is often written, and is wrong."""

    def run(self) -> list[nodes.Node]:
        title, _ = self.parse_inline(self.arguments[0])
        head = nodes.paragraph("", "", nodes.strong("", "✗ Often written: "), *title, classes=["wrong-title"])
        foot = nodes.paragraph("", "", *self.tests(), classes=["wrong-test"])
        return [nodes.container("", head, *self.parse_content_to_nodes(), foot, classes=["wrong"])]


class Exercise(Directive):
    """A line to break, from the museum of mistakes; the test that notices is folded away."""

    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        table = ROOT / "tests" / "museum" / "mutations.toml"
        self.depends_on(table)
        part, _, name = self.arguments[0].partition(".")
        mistake = tomllib.loads(table.read_text(encoding="utf-8")).get(part, {}).get(name)
        if mistake is None:
            self.warn(f"there is no mistake {self.arguments[0]!r} in {table.relative_to(ROOT)}")
            return []
        lines = [
            f"{mark}{line}"
            for mark, text in (("-", "old"), ("+", "new"))
            for line in mistake[text].strip("\n").split("\n")
        ]
        file = nodes.paragraph("", "", nodes.literal("", f"nanogen/{mistake['file']}"), classes=["equation-file"])
        test = nodes.paragraph("", "", nodes.literal("", mistake["test"]), nodes.Text(f" — {mistake['mistake']}"))
        answer = self.fold("Answer", test)
        diff = self.code("\n".join(lines), "diff")
        return [nodes.container("", *self.parse_content_to_nodes(), file, diff, answer, classes=["exercise"])]


class Run(Directive):
    """A figure, drawn by a script; a picture is kept as long as the script's text stays the same."""

    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        name, docs = self.arguments[0], Path(self.env.srcdir)
        script = docs / "figures" / f"{name}.py"
        if not script.is_file():
            self.warn(f"there is no script {script.relative_to(docs)}")
            return []
        self.depends_on(script)
        text = script.read_text(encoding="utf-8")
        key = hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:16]
        picture = docs / "_figures" / f"{name}-{key}.png"
        caption = self.parse_content_to_nodes()
        if not picture.exists() and self.config.draw_figures:
            self.draw(script, picture)
        if picture.exists():
            alt = caption[0].astext() if caption else name
            shown: nodes.Node = nodes.image(uri=f"/_figures/{picture.name}", alt=alt)
        else:
            shown = nodes.paragraph("", f"[figure: {name}]", classes=["no-figure"])
        script_text = self.fold(f"figures/{name}.py", self.code(text.rstrip()))
        return [
            nodes.container("", shown, nodes.container("", *caption, classes=["caption"]), script_text, classes=["run"])
        ]

    def draw(self, script: Path, picture: Path) -> None:
        """Run the script in a process of its own, on one thread."""
        logger.info(f"drawing {script.name}")
        picture.parent.mkdir(exist_ok=True)
        part = picture.with_name(f"part-{picture.name}")
        path = os.pathsep.join([str(ROOT), str(script.parent), os.environ.get("PYTHONPATH", "")])
        one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONPATH": path}
        command = [sys.executable, "-c", DRAW, str(script), str(part)]
        done = subprocess.run(command, env=os.environ | one, capture_output=True, text=True)
        if done.returncode or not part.exists():
            self.warn(f"{script.name} draws no picture:\n{done.stderr}")
            part.unlink(missing_ok=True)
            return
        for old in picture.parent.glob(f"{script.stem}-{'[0-9a-f]' * 16}.png"):
            old.unlink()
        part.rename(picture)


class Checkers(SphinxDirective):
    """The checkers of `nanogen.testing` by file, each with the beginning of its docstring."""

    def run(self) -> list[nodes.Node]:
        found = nodes.definition_list()
        for path in (ROOT / "nanogen" / "testing" / f"{name}.py" for name in _FILES):
            self.env.note_dependency(path)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            checks = [
                n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith(("check_", "checks_"))
            ]
            lines = nodes.bullet_list()
            for check in checks:
                lines += nodes.list_item("", nodes.paragraph("", "", *self.described(check.name, check)))
            if checks:
                term = nodes.term("", "", *self.described(path.stem, tree))
                found += nodes.definition_list_item("", term, nodes.definition("", lines))
        return [found]

    def described(self, name: str, node: Any) -> list[nodes.Node]:
        """A name, and the first paragraph of the docstring."""
        about, _ = self.parse_inline(" ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split()))
        return [nodes.literal("", name), nodes.Text(": "), *about]


class Dropdown(SphinxTransform):
    """An admonition of class `dropdown` is folded."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for node in self.document.findall(nodes.admonition):
            if "dropdown" in node["classes"]:
                node["classes"].append("fold")
                node["collapsible"] = "closed"


def write_math(translator: Any, node: nodes.Element) -> None:
    """TeX as MathML; what the converter does not know is a warning."""
    is_block = isinstance(node, nodes.math_block)
    try:
        mathml = to_mathml.convert_with_local_state(node.astext(), displaystyle=is_block)
    except LatexError as error:
        logger.warning(f"TeX: {error} in {node.astext()!r}", location=node)
        mathml = ""
    if is_block:
        mathml = f'<div class="math">{mathml}</div>'
    elif any(around := node.get("around", ())):
        head, tail = map(escape, around)
        mathml = f'<span class="unbroken">{head}{mathml}{tail}</span>'
    translator.body.append(mathml)
    raise nodes.SkipNode


class Punctuation(SphinxPostTransform):
    """What stands around a formula without a space is on the same line: brackets, a full stop, a comma."""

    default_priority = 500
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.math)):
            parent, i = node.parent, node.parent.index(node)
            head = tail = ""
            if i and isinstance(before := parent[i - 1], nodes.Text):
                head = before[len(before.rstrip('(["')) :]
                parent[i - 1] = nodes.Text(before.removesuffix(head))
            if i + 1 < len(parent) and isinstance(after := parent[i + 1], nodes.Text):
                tail = after[: len(after) - len(after.lstrip(".,:;!?)]\"'"))]
                parent[i + 1] = nodes.Text(after.removeprefix(tail))
            node["around"] = head, tail


def setup(app: Sphinx) -> dict[str, bool]:
    for directive in (Equation, Wrong, Exercise, Run, Checkers):
        app.add_directive(directive.__name__.lower(), directive)
    app.add_config_value("draw_figures", True, "env", bool)
    app.add_transform(Dropdown)
    app.add_post_transform(Punctuation)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
    return {"parallel_read_safe": False, "parallel_write_safe": True}
