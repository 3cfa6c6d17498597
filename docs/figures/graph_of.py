"""Draws the graph behind a tensor with matplotlib, for the figures' scripts: `nanogen.graph` is the same as text."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from nanogen.autograd import Tensor
from nanogen.graph import boxes_and_arrows

STYLES = {
    "operation": {"boxstyle": "square", "facecolor": "#dbe9f6"},
    "leaf": {"boxstyle": "round,rounding_size=0.6", "facecolor": "#fde6c8"},
    "constant": {"boxstyle": "round,rounding_size=0.6", "facecolor": "white", "linestyle": "--"},
}


def draw_graph(ax: Axes, y: Tensor, names: Mapping[str, Tensor] | None = None, size: float = 9) -> None:
    """Boxes in rows: an operation stands below all of its inputs, another box just above what it is used for.

    Args:
        names: of leaves, as in `nanogen.graph`.
        size: of the letters, in points."""
    boxes, arrows = boxes_and_arrows(y, names)
    row = [0] * len(boxes)
    for a, b in sorted(arrows, key=lambda arrow: arrow[1]):  # inputs come first
        row[b] = max(row[b], row[a] + 1)
    for i, box in enumerate(boxes):
        if box.kind != "operation" and (uses := [row[b] for a, b in arrows if a == i]):
            row[i] = min(uses) - 1
    rows = [[i for i in range(len(boxes)) if row[i] == n] for n in range(max(row) + 1)]
    column = {i: j - (len(members) - 1) / 2 for members in rows for j, i in enumerate(members)}
    for members in reversed(rows[:-1]):  # each box near what it is used for
        near = {i: [column[b] for a, b in arrows if a == i] for i in members}
        members.sort(key=lambda i: sum(near[i]) / len(near[i]))
        column |= {i: j - (len(members) - 1) / 2 for j, i in enumerate(members)}
    patches = []
    for i, box in enumerate(boxes):
        text = f"{box.name}\n{box.shape}"
        style = STYLES[box.kind] | {"pad": 0.4}
        shown = ax.text(column[i], -row[i], text, ha="center", va="center", fontsize=size, bbox=style)
        patches.append(shown.get_bbox_patch())
    ax.set_xlim(min(column.values()) - 0.7, max(column.values()) + 0.7)
    ax.set_ylim(-max(row) - 0.6, 0.6)
    ax.axis("off")
    ax.figure.canvas.draw()  # so that the boxes have their places, at which arrows end
    for a, b in set(arrows):
        ends = {"xy": (column[b], -row[b]), "xytext": (column[a], -row[a])}
        times = arrows.count((a, b))
        around = times > 1 or row[b] > row[a] + 1  # there may be a box in the way
        bend = 0.25 if column[a] < column[b] else -0.25  # outwards
        for rad in (bend, -bend)[:times] if around else (0.0,):
            how = {"arrowstyle": "-|>", "patchA": patches[a], "patchB": patches[b], "color": "0.3"}
            ax.annotate("", **ends, arrowprops=how | {"connectionstyle": f"arc3,rad={rad}"})
