"""The graph behind a tensor as text that Mermaid or Graphviz draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from nanogen.autograd import Node, Tensor, ancestors

MERMAID = str.maketrans({'"': "#quot;", "#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", "`": "#96;"})
DOT = str.maketrans({'"': '\\"', "\\": "\\\\"})


class Box(NamedTuple):
    """A node of the drawing: an `operation`, a `leaf` that requires gradients, or a `constant`, which does not."""

    kind: str
    name: str
    shape: tuple[int, ...]

    def lines(self, escapes: dict[int, str]) -> list[str]:
        name = " ".join(self.name.split()).translate(escapes)
        return [name, str(self.shape), *["requires grad"] * (self.kind == "leaf")]


def boxes_and_arrows(y: Tensor, names: Mapping[str, Tensor] | None = None) -> tuple[list[Box], list[tuple[int, int]]]:
    """What `graph` draws: boxes, inputs before what is computed from them, and arrows as pairs of their numbers.

    A tensor that is used twice has one box and two arrows.  A constant has a box for each use, since the graph does not
    know which constants were one tensor."""
    if y.node is None:
        return [Box("constant", "constant", y.shape)], []
    order = ancestors([y.node])
    named = {x.node: name for name, x in (names or {}).items() if x.node is not None}
    shapes = {x.node: x.shape for node in order for x in node.inputs} | {y.node: y.shape}
    boxes: list[Box] = []
    arrows: list[tuple[int, int]] = []
    number: dict[Node, int] = {}
    for node in order:
        sources = []
        for x in node.inputs:
            if x.node is None:
                boxes.append(Box("constant", "constant", x.shape))
            sources.append(len(boxes) - 1 if x.node is None else number[x.node])
        number[node] = len(boxes)
        arrows += [(source, len(boxes)) for source in sources]
        name = named.get(node, "leaf") if node.primitive is None else node.primitive.__name__
        boxes.append(Box("leaf" if node.primitive is None else "operation", name, shapes[node]))
    return boxes, arrows


def graph(y: Tensor, names: Mapping[str, Tensor] | None = None, format: str = "mermaid") -> str:
    """The operations that y was computed by, with their shapes, as the text of a drawing.

    Args:
        names: of leaves, for example `dict(model.named_parameters())`.
        format: `mermaid`, a flowchart, or `dot`, for Graphviz.

    Raises:
        ValueError: another format.
    """
    if format not in ("mermaid", "dot"):
        raise ValueError(f"format must be mermaid or dot, got {format!r}")
    boxes, arrows = boxes_and_arrows(y, names)
    if format == "mermaid":
        around = {"operation": '["{}"]', "leaf": '(["{}"])', "constant": '("{}")'}
        lines = [f"n{i}" + around[box.kind].format("<br/>".join(box.lines(MERMAID))) for i, box in enumerate(boxes)]
        return "\n    ".join(["flowchart TD", *lines, *(f"n{a} --> n{b}" for a, b in arrows)]) + "\n"
    style = {"operation": "shape=box", "leaf": "shape=ellipse", "constant": "shape=ellipse, style=dashed"}
    labels = [r"\n".join(box.lines(DOT)) for box in boxes]
    lines = [f'n{i} [label="{label}", {style[box.kind]}];' for i, (box, label) in enumerate(zip(boxes, labels))]
    return "\n    ".join(["digraph {", *lines, *(f"n{a} -> n{b};" for a, b in arrows)]) + "\n}\n"
