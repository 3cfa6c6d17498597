"""What imports what: each file stands on the floors below its own, and nothing stands on the annex of kernels."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterator
from pathlib import Path

from conftest import ABOUT_KERNELS, WITHOUT_OPERATIONS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nanogen"
ANNEX = "kernels/"

# From the ground up.  A folder's files may also import each other.  A name may be here before its file is.
FLOORS = (
    ("backend.py",),
    ("distributed.py", "random.py"),
    ("data/",),
    ("autograd.py",),
    ("functional/",),
    ("factories.py", "optim.py"),
    ("nn/", "distributions.py"),
    ("models/", "testing/", "graph.py"),
    ("__init__.py",),
    ("metrics.py",),
    ("training/",),
    ("cli.py", "__main__.py"),
)

# What is imported inside functions: libraries that may be missing, or that are slow to import and seldom needed.
OPTIONAL = {"cuda", "cupy", "matplotlib", "mpi4py", "platformdirs", "safetensors"}
# (file, argument) of calls to `import_module`: the parts of `data` and `testing` that need such a library.
DYNAMIC = {("data/__init__.py", "module"), ("testing/__init__.py", "path")}

# What only the annex knows of: C, compilers and threads.
OF_THE_ANNEX = ("ctypes", "subprocess", "threadpoolctl", "concurrent.futures")


@functools.cache
def files() -> dict[str, ast.Module]:
    """Every Python file of the library, by its path below `nanogen`."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"), str(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported(file: str, tree: ast.AST) -> Iterator[str]:
    """The full names of what a piece of a file imports: of `from a import b`, `a.b`."""
    package = ["nanogen", *Path(file).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def source_of(name: str) -> str | None:
    """The file of ours in which an imported name is, or none: `nanogen.nn.init.zeros_` is in `nn/init.py`."""
    if name.partition(".")[0] != "nanogen":
        return None
    parts = name.split(".")[1:]
    for n in range(len(parts), -1, -1):
        for candidate in ("/".join(parts[:n]) + ".py", "/".join([*parts[:n], "__init__.py"])):
            if candidate in files():
                return candidate
    return None


@functools.cache
def graph() -> dict[str, frozenset[str]]:
    """For each file, those of ours that it imports."""
    found = {file: {source_of(name) for name in imported(file, tree)} for file, tree in files().items()}
    return {
        file: frozenset(source for source in sources if source and source != file) for file, sources in found.items()
    }


def place(file: str) -> tuple[int, str]:
    """The number of a file's floor, and the entry in FLOORS that it belongs to."""
    for number, entries in enumerate(FLOORS):
        for entry in entries:
            if file == entry or (entry.endswith("/") and file.startswith(entry)):
                return number, entry
    raise AssertionError(f"{file} has no floor: add it to FLOORS")


def test_a_file_imports_only_from_floors_below() -> None:
    """Or from its own folder.  The annex has no floor: nothing may stand on it, which is the last test's."""
    upwards = []
    for file in graph().keys() - {file for file in files() if file.startswith(ANNEX)}:
        mine, entry = place(file)
        for source in graph()[file]:
            if source.startswith(ANNEX):
                continue
            theirs, other = place(source)
            if theirs >= mine and not (entry == other and entry.endswith("/")):
                upwards.append(f"{file} imports {source}")
    assert sorted(upwards) == []
    assert len(graph()["training/loop.py"]) > 8  # the graph is not empty


def test_there_are_no_cycles() -> None:
    graphlib.TopologicalSorter(graph()).prepare()  # raises CycleError, which names them


def test_no_import_inside_a_function() -> None:
    """But for libraries that may be missing, by name."""
    hidden = []
    for file, tree in files().items():
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in functions:
            names = {name.partition(".")[0] for name in imported(file, function)}
            hidden += [f"{file}, {function.name}: {name}" for name in names - OPTIONAL]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                argument = ast.unparse(node.args[0])
                if (file, argument) not in DYNAMIC and not file.startswith(ANNEX):
                    hidden.append(f"{file}: {ast.unparse(node)}")
    assert hidden == []


def test_nothing_stands_on_the_annex() -> None:
    """Outside of `kernels/` no file imports it, C, compilers or threads; the last statement of the library's
    `__init__.py` registers the kernels."""
    offences = []
    for file, tree in files().items():
        if file.startswith(ANNEX):
            continue
        statements = tree.body[:-1] if file == "__init__.py" else tree.body
        body = ast.Module(statements, type_ignores=[])
        offences += [f"{file}: {name}" for name in imported(file, body) if _is_of_the_annex(name)]
        strings = [node.value for node in ast.walk(body) if isinstance(node, ast.Constant)]
        offences += [f"{file}: {s!r}" for s in strings if isinstance(s, str) and s.startswith("nanogen.kernels")]
    assert offences == []


def _is_of_the_annex(name: str) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in ("nanogen.kernels", *OF_THE_ANNEX))


def test_what_is_left_out_without_kernels_is_there() -> None:
    """Each name is of one test file; a file that is not named is run."""
    names = [*ABOUT_KERNELS, *WITHOUT_OPERATIONS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not (ROOT / "tests" / f"test_{name}.py").is_file()] == []
