"""The floors of the library, as its test has them, with lines of Python code; the annex stands beside them."""

import ast
import sys
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
from tests.code_lines import python_lines  # noqa: E402

ABOUT = {
    "cli.py": "the command line",
    "training/": "runs, checkpoints, evaluation",
    "metrics.py": "how samples are judged",
    "models/": "one folder a family",
    "testing/": "checkers for anybody's code",
    "graph.py": "the graph as a drawing",
    "nn/": "layers with parameters",
    "distributions.py": "densities, divergences",
    "optim.py": "update rules",
    "functional/": "operations with their gradients",
    "autograd.py": "the engine",
    "data/": "images as integer levels",
    "random.py": "random numbers",
    "distributed.py": "means over ranks",
    "backend.py": "NumPy or CuPy; kernels listed",
}


def floors() -> list[tuple[str, ...]]:
    """`FLOORS` of tests/test_floors.py."""
    tree = ast.parse((ROOT / "tests" / "test_floors.py").read_text(encoding="utf-8"))
    (value,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FLOORS")
    return ast.literal_eval(value)


def lines(name: str) -> int:
    path = ROOT / "nanogen" / name
    return sum(
        python_lines(file.read_text(encoding="utf-8")) for file in (path.rglob("*.py") if path.is_dir() else [path])
    )


def draw(path: Path) -> None:
    shown = [[name for name in floor if name in ABOUT] for floor in floors()]
    shown = [floor for floor in shown if floor]
    figure, axis = plt.subplots(figsize=(6.4, 7.6), layout="constrained")
    top = [floor[0] for floor in shown].index("nn/")
    for y, floor in enumerate(shown):
        for i, name in enumerate(floor):
            width = 4.0 / len(floor)
            color = "#dbe9f6" if y <= top and name != "data/" else "#f3f3f3"
            axis.add_patch(plt.Rectangle((i * width, y), width - 0.05, 0.9, facecolor=color, edgecolor="0.4"))
            text = ABOUT[name].replace(", ", ",\n") if len(floor) > 1 else ABOUT[name]
            if len(floor) == 3:
                text = text.replace(" a ", "\na ").replace(" for ", "\nfor ").replace(" as ", "\nas ")
            axis.text(
                (i + 0.5) * width, y + 0.45, f"{name}  {lines(name):,}\n{text}", ha="center", va="center", fontsize=9
            )
    axis.add_patch(plt.Rectangle((4.35, 0.5), 1.55, top, facecolor="white", edgecolor="0.4", linestyle="--"))
    annex = f"kernels/\n{lines('kernels/'):,}\n\nthe annex:\nfaster forms\nin C and CUDA;\nnothing\nimports it"
    axis.text(5.12, 0.5 + top / 2, annex, ha="center", va="center", fontsize=9)
    arrow = {"arrowstyle": "->", "color": "0.3"}
    axis.annotate("", (3.97, 0.75), (4.35, 0.75), arrowprops=arrow)
    axis.text(5.12, 0.15, "registers in backend", ha="center", va="center", fontsize=9)
    axis.set(xlim=(-0.05, 6), ylim=(-0.05, len(shown)))
    axis.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)
