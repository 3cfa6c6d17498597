"""`nanogen.graph`: boxes and arrows are the graph's nodes and their inputs; the text is Mermaid's or Graphviz's."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

import nanogen as ng
from nanogen.autograd import ancestors
from nanogen.graph import boxes_and_arrows

MERMAID = re.compile(
    r'flowchart TD\n((    n\d+(\["[^"\n]*"\]|\(\["[^"\n]*"\]\)|\("[^"\n]*"\))\n)+)((    n\d+ --> n\d+\n)*)'
)
DOT = re.compile(
    r'digraph \{\n((    n\d+ \[label="([^"\\\n]|\\["\\n])*", shape=\w+(, style=\w+)?\];\n)+)'
    r"((    n\d+ -> n\d+;\n)*)\}\n"
)


def parts(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The declared nodes and the arrows of a drawing that obeys the grammar."""
    assert MERMAID.fullmatch(text) or DOT.fullmatch(text), text
    return re.findall(r"^    (n\d+)[ [(]+[^-]", text, re.MULTILINE), re.findall(r"(n\d+) -{1,2}> (n\d+)", text)


def example() -> tuple[ng.Tensor, ng.Tensor, ng.Tensor]:
    """y = Σ (x w + x), where x is used twice and broadcast; x; w."""
    x = ng.tensor([[1.0, 2.0]], requires_grad=True)
    w = ng.tensor([[3.0], [4.0]], requires_grad=True)
    return (x * w + x).sum(), x, w


def test_structure() -> None:
    y, x, w = example()
    boxes, arrows = boxes_and_arrows(y, {"x": x, "w": w})
    assert [(box.kind, box.name, box.shape) for box in boxes] == [
        ("leaf", "x", (1, 2)),
        ("leaf", "w", (2, 1)),
        ("operation", "multiply", (2, 2)),
        ("operation", "add", (2, 2)),
        ("operation", "sum", ()),
    ]
    assert arrows == [(0, 2), (1, 2), (2, 3), (0, 3), (3, 4)]  # x has one box


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_text_has_the_same_structure(format: str) -> None:
    y, x, w = example()
    nodes, arrows = parts(ng.graph(y, {"x": x, "w": w}, format))
    assert nodes == ["n0", "n1", "n2", "n3", "n4"]
    assert arrows == [("n0", "n2"), ("n1", "n2"), ("n2", "n3"), ("n0", "n3"), ("n3", "n4")]
    again, x_again, w_again = example()  # other objects, made later
    assert ng.graph(again, {"x": x_again, "w": w_again}, format) == ng.graph(y, {"x": x, "w": w}, format)


def test_mermaid_by_hand() -> None:
    x = ng.tensor([1.0, 2.0], requires_grad=True)
    assert ng.graph(x * ng.tensor([3.0, 4.0]), {"x": x}) == (
        "flowchart TD\n"
        '    n0(["x<br/>(2,)<br/>requires grad"])\n'
        '    n1("constant<br/>(2,)")\n'
        '    n2["multiply<br/>(2,)"]\n'
        "    n0 --> n2\n"
        "    n1 --> n2\n"
    )


def test_dot_by_hand() -> None:
    x = ng.tensor([1.0, 2.0], requires_grad=True)
    assert ng.graph(x.sum(), format="dot") == (
        "digraph {\n"
        r'    n0 [label="leaf\n(2,)\nrequires grad", shape=ellipse];' + "\n"
        r'    n1 [label="sum\n()", shape=box];' + "\n"
        "    n0 -> n1;\n"
        "}\n"
    )


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_second_order(format: str) -> None:
    """The graph of a gradient contains that of the function: of x³, a product of x with what x is multiplied by."""
    x = ng.tensor([2.0], requires_grad=True)
    y = (x * x * x).sum()
    (slope,) = ng.grad(y, x, create_graph=True)
    boxes, arrows = boxes_and_arrows(slope)
    assert [box.kind for box in boxes].count("leaf") == 1
    assert len(boxes) - [box.kind for box in boxes].count("constant") == len(ancestors([slope.node]))
    nodes, text_arrows = parts(ng.graph(slope, format=format))
    assert len(nodes) == len(boxes)
    assert text_arrows == [(f"n{a}", f"n{b}") for a, b in arrows]
    assert all(a < b for a, b in arrows)  # inputs first
    x_twice = [b for a, b in arrows if boxes[a].kind == "leaf"]
    assert len(x_twice) > len(set(x_twice))  # x x has two arrows from x
    assert "leaf" not in [box.kind for box in boxes_and_arrows(ng.grad(y, x)[0])[0]]  # not recorded


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_a_tensor_without_a_graph_is_one_box(format: str) -> None:
    x = ng.tensor([1.0], requires_grad=True)
    with ng.no_grad():
        constants = [ng.tensor(3.0), x * 2.0, x.detach()]
    for y in constants:
        assert parts(ng.graph(y, format=format)) == (["n0"], [])
        assert "requires grad" not in ng.graph(y, format=format)
    assert parts(ng.graph(x, format=format)) == (["n0"], [])
    assert "requires grad" in ng.graph(x, format=format)


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_names_are_escaped(format: str) -> None:
    """A name cannot end its label, nor begin a tag, an entity or a line."""
    x = ng.tensor([1.0], requires_grad=True)
    text = ng.graph(x * x, {'a"] --> b<br/>#35;&`\\\n\n}': x}, format)
    assert parts(text) == (["n0", "n1"], [("n0", "n1")] * 2)
    if format == "mermaid":
        assert "a#quot;] --#gt; b#lt;br/#gt;#35;35;#amp;#96;" in text
    else:
        assert r"a\"] --> b<br/>#35;&`\\" in text


@pytest.mark.skipif(not shutil.which("dot"), reason="no Graphviz")
def test_graphviz_reads_it() -> None:
    y, x, w = example()
    text = ng.graph(y, {'a "name" with \\': x, "w": w}, "dot")
    plain = subprocess.run(["dot", "-Tplain"], input=text, capture_output=True, text=True, check=True).stdout
    assert plain.count("\nnode ") == 5
    assert plain.count("\nedge ") == 5


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="mermaid or dot, got 'png'"):
        ng.graph(ng.tensor(1.0), format="png")
