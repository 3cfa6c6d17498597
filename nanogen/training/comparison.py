"""What `nanogen compare` shows: tables and pictures, all of them made of the numbers in `compare.json`."""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanogen.metrics import Estimate
from nanogen.training.files import write_atomically
from nanogen.training.page import DOCUMENT, STYLE, figure, section
from nanogen.training.pictures import grid, save_picture
from nanogen.training.report import centred

VERSION = 1  # of compare.json
FRECHET = "Fréchet distance"
FAMILIES = {
    "autoregressive": "autoregressive",
    "latent": "latent variables",
    "adversarial": "adversarial",
    "diffusion": "diffusion",
}
TICKS = {"quality": "quality", "coverage": "mode coverage", "fast": "fast sampling"}
MARKS = {True: "✓", False: "✗", None: "–"}
HEADER = (
    "model", "family", *TICKS.values(), "bits/dim", f"{FRECHET} *", "precision", "recall", "coverage", "copies",
    "network evaluations", "seconds per sample", "seconds of training", "parameters",
)  # fmt: skip
SHOWN = 16  # samples of each model, in rows of 8

WIDER = """\
body { max-width: 100rem; }
.wide { overflow-x: auto; }
.wide table { font-size: .8rem; }
.wide td, .wide th { padding: .15rem .7rem .15rem 0; white-space: nowrap; }
.wide td { font-family: inherit; font-variant-numeric: tabular-nums; }
.wide thead th { white-space: normal; vertical-align: bottom; }
.families { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1.5rem; }
.families figure { margin-bottom: 1rem; }
"""


class Group(NamedTuple):
    """Models whose numbers are in one table.

    Attributes:
        title: what they have in common; empty for those of the main table.
        names: the models, by family.
    """

    title: str
    names: list[str]


def read(file: Path) -> dict[str, Any]:
    """The numbers of a comparison.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that no comparison has written."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']!r}, not {VERSION}")
        markdown(found)
        for row in finished(found).values():
            if row["samples"] is not None:
                unpacked(row["samples"])
        return dict(found)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, zlib.error) as error:
        raise ValueError(f"{file} is not of a comparison: {error!r}") from None


def packed(images: np.ndarray) -> dict[str, Any]:
    """Images uint8 (N, C, H, W) as JSON."""
    contents = zlib.compress(np.ascontiguousarray(images, np.uint8).tobytes())
    return {"shape": list(images.shape), "zlib": base64.b64encode(contents).decode()}


def unpacked(found: dict[str, Any]) -> np.ndarray:
    contents = zlib.decompress(base64.b64decode(found["zlib"]))
    return np.frombuffer(contents, np.uint8).reshape(found["shape"])


# Ticks


def ticks(row: dict[str, Any], fast: int) -> dict[str, bool | None]:
    """A tick or a cross for a model's quality, coverage and speed; None where they were not measured.

    quality, coverage: the Fréchet distance and the coverage are no worse than the worse end of the 95 % interval of
    real images.  fast: at most `fast` network evaluations per sample.
    """
    found, real = row["evaluation"]["quality"], row["evaluation"]["floor"]
    return {
        "quality": found[FRECHET]["value"] <= real[FRECHET]["high"] if found else None,
        "coverage": found["coverage"]["value"] >= real["coverage"]["low"] if found else None,
        "fast": row["evaluation"]["network_evaluations"] <= fast,
    }


def finished(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows of the models that have been evaluated, by name."""
    return {name: row for name, row in found["models"].items() if row["state"] == "finished"}


def groups(found: dict[str, Any]) -> list[Group]:
    """The tables: models of the data set's images, those that are given an image, and those of fewer levels."""
    rows, titles = finished(found), {}
    for name, row in rows.items():
        if row["levels"] != found["levels"]:
            titles[name] = f"of images of {row['levels']} levels"
        else:
            titles[name] = "whose samples are made of a given image" if row["given"] else ""
    place = {family: i for i, family in enumerate(FAMILIES)}
    ordered = sorted(rows, key=lambda name: place.get(rows[name]["family"], len(place)))
    found_titles = sorted(dict.fromkeys(titles.values()))
    return [Group(title, [name for name in ordered if titles[name] == title]) for title in found_titles]


def closing(found: dict[str, Any]) -> list[list[str]]:
    """The closing table: for each family how many of its models have a tick, and its kinds of likelihood.

    Only models of the main table count, and of these only models without a remark."""
    rows = finished(found)
    main = [name for group in groups(found) if not group.title for name in group.names if not rows[name]["remark"]]
    families = [family for family in FAMILIES if any(rows[name]["family"] == family for name in main)]
    table = [["", *(FAMILIES[family] for family in families)]]
    for tick, title in reversed(TICKS.items()):
        line = [title]
        for family in families:
            marks = [ticks(rows[name], found["fast"])[tick] for name in main if rows[name]["family"] == family]
            known = [mark for mark in marks if mark is not None]
            most = 2 * sum(known) >= len(known) if known else None
            line.append(MARKS[most] + (f" {sum(known)} of {len(known)}" if known else ""))
        table.append(line)
    kinds = [dict.fromkeys(density(rows[name]) for name in main if rows[name]["family"] == f) for f in families]
    return [*table, ["p(x)", *(", ".join(kind) for kind in kinds)]]


# Cells


def density(row: dict[str, Any]) -> str:
    bits = row["evaluation"]["likelihood"]
    return "none" if bits is None else "exact" if bits["kind"] == "exact" else "bound"


def share(estimate: dict[str, float]) -> str:
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**estimate)


def significant(number: float | None) -> str:
    """Two significant digits, and no exponent."""
    return "–" if number is None else np.format_float_positional(float(f"{number:.1e}"), trim="-")


def of_quality(quality: dict[str, Any]) -> list[str]:
    """The cells of the Fréchet distance and the neighbour metrics."""
    if not quality:
        return ["–"] * 4
    return [centred(Estimate(**quality[FRECHET])), *(share(quality[k]) for k in ("precision", "recall", "coverage"))]


def cells(name: str, row: dict[str, Any], fast: int) -> list[str]:
    """A model's row, in the order of HEADER."""
    evaluation = row["evaluation"]
    bits, seconds = evaluation["likelihood"], row["training_seconds"]
    margin = "" if bits is None or bits["high"] is None else f" ± {bits['high'] - bits['bits_per_dim']:.2f}"
    return [
        name + " †" * bool(row["remark"] or row["differs"]),
        FAMILIES.get(row["family"], row["family"]),
        *(MARKS[mark] for mark in ticks(row, fast).values()),
        "none" if bits is None else f"{bits['bits_per_dim']:.2f}{margin} ({density(row)})",
        *of_quality(evaluation["quality"]),
        f"{evaluation['copies']['exact copies of training images']['value']:.2f}",
        str(evaluation["network_evaluations"]),
        significant(row["sample_seconds"]),
        "not recorded" if seconds is None else f"{seconds:.0f}",
        f"{row['parameters']:,}",
    ]


def table(found: dict[str, Any], group: Group) -> list[list[str]]:
    """HEADER, the models of a group, and the values that real images reach."""
    rows = finished(found)
    evaluation = rows[group.names[0]]["evaluation"]
    real = ["real images", *[""] * 5, *of_quality(evaluation["floor"]),
            f"{evaluation['copies_expected']['exact copies of training images']:.2f}", *[""] * 4]  # fmt: skip
    return [list(HEADER), *(cells(name, rows[name], found["fast"]) for name in group.names), real]


def about(found: dict[str, Any]) -> str:
    """What was compared, in a sentence or two."""
    text = (
        f"{found['data']}: {found['train_images']} training images, {found['samples']} samples of each model against"
        f" {found['test_images']} test images. Intervals are 95 %."
    )
    if found["quick"]:
        text += (
            f" This is a quick comparison: runs of 1/{found['quick']} of the recipes' steps, and fewer images. Its"
            " numbers are worse than those of whole runs, and its intervals wider."
        )
    missing = [name for name, row in found["models"].items() if row["state"] == "waiting"]
    return text + (f" Not finished yet: {', '.join(missing)}." if missing else "")


def notes(found: dict[str, Any]) -> list[str]:
    """What the columns and ticks mean, and what is to be known of single models."""
    rows = finished(found)
    lines = [
        "Quality is ✓ if the Fréchet distance, and mode coverage if the coverage, is no worse than the worse end of the"
        " interval of real images: the last row, as many training images in place of samples. One run each with one"
        " seed: near that end, a tick is chance.",
        f"Fast sampling is ✓ with at most {found['fast']} network evaluations per sample, which is a choice: decoders"
        " and generators need one, chains one for each pixel or each step.",
        "In the table of families, a ✓ means at least half of the family's models; those of other tables and those"
        " marked † for a remark do not count.",
        "bits/dim of the discrete test images: exact, or an upper bound. Precision and recall are Kynkäänniemi et al."
        " 2019's, coverage is Naeem et al. 2020's; copies are the share of samples that equal a training image.",
        "Seconds are CPU seconds: per sample of one thread in a batch, one model after the other; of training with its"
        " test losses and pictures, as the run recorded them, over all parts of an interrupted run.",
    ]  # fmt: skip
    lines += [f"* {text}: not an Inception FID, nor to be compared with one." for text in features(rows)]
    lines += [f"† {name}: {row['remark']}." for name, row in rows.items() if row["remark"]]
    lines += [
        f"† {name}: its run was in the folder, with settings that are not the recipe's: {'; '.join(row['differs'])}."
        for name, row in rows.items()
        if row["differs"]
    ]
    return lines + [
        f"{name} is not in the tables: {row['reason']}"
        for name, row in found["models"].items()
        if row["state"] in ("refused", "failed")
    ]


def features(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The descriptions of the features of the Fréchet distance, each once."""
    return list(dict.fromkeys(row["evaluation"]["features"] for row in rows.values()))


# Files


def in_markdown(lines: list[list[str]]) -> str:
    """A table.  Text from outside is text, not marks."""
    safe = lambda text: html.escape(text, quote=False).replace("|", "\\|").replace("*", "\\*")
    text = [f"| {' | '.join(map(safe, line))} |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(lines[0]), *text[1:]]) + "\n"


def tables(found: dict[str, Any]) -> str:
    """The tables and their notes, in Markdown."""
    parts = [in_markdown(closing(found))] if len(closing(found)[0]) > 1 else []
    for group in groups(found):
        parts += [f"Models {group.title}:\n"] * bool(group.title)
        parts.append(in_markdown(table(found, group)))
    safe = [html.escape(note, quote=False).replace("*", "\\*") for note in notes(found)]
    return "\n".join([*parts, *(f"- {note}" for note in safe), ""])


def title(found: dict[str, Any]) -> str:
    return f"Models compared on {Path(found['data']).stem}{' (quick)' if found['quick'] else ''}"


def markdown(found: dict[str, Any]) -> str:
    """`compare.md`."""
    above = [html.escape(text, quote=False) for text in (title(found), about(found))]
    return f"# {above[0]}\n\n{above[1]}\n\n{tables(found)}"


def in_html(lines: list[list[str]], links: Iterable[str] = ()) -> str:
    """A table; the first cell of each row is its head, with a link to the run's page if it is a model's name."""
    link = lambda text: f'<a href="{name}/index.html">{text}</a>' if (name := text.partition(" ")[0]) in links else text
    cell = lambda kind, text: f"<{kind}>{html.escape(text)}</{kind}>"
    head, *body = lines
    rows = [f"<th>{link(html.escape(row[0]))}</th>{''.join(cell('td', text) for text in row[1:])}" for row in body]
    above = f"<thead><tr>{''.join(cell('th', text) for text in head)}</tr></thead>\n"
    return f'<div class="wide"><table>\n{above}{"".join(f"<tr>{row}</tr>" + chr(10) for row in rows)}</table></div>\n'


def page(found: dict[str, Any], folder: Path) -> str:
    """`index.html`, with the pictures that are in the folder."""
    rows, whole = finished(found), closing(found)
    shown = "".join(
        f"{f'<h3>Models {html.escape(group.title)}</h3>' if group.title else ''}\n"
        f"{in_html(table(found, group), group.names)}"
        for group in groups(found)
    )
    columns = []
    for family in dict.fromkeys([*FAMILIES, *(row["family"] for row in rows.values())]):
        drawn = [name for name, row in rows.items() if row["family"] == family and row["samples"]]
        strips = [figure(picture_file(folder, name), name) for name in drawn]
        if strips:
            columns.append(f"<div><h3>{html.escape(FAMILIES.get(family, family))}</h3>\n{''.join(strips)}</div>\n")
    samples = [figure(picture_file(folder, "real images"), "real images")]
    samples += ['<div class="families">\n', *columns, "</div>\n"]
    scatter = folder / "scatter.png"
    plot = figure(scatter, "Fréchet distance and seconds of a sample") if scatter.is_file() else ""
    body = [
        f"<p>{html.escape(about(found))}</p>\n",
        section("Families", in_html(whole)) if len(whole[0]) > 1 else "",
        section("Models", shown),
        section("Quality and time", plot),
        section("Samples", '<div class="small">\n', *samples, "</div>\n"),
        section("Notes", "<ul>\n", *(f"<li>{html.escape(note)}</li>\n" for note in notes(found)), "</ul>\n"),
    ]
    return DOCUMENT.substitute(title=html.escape(title(found)), head="", style=STYLE + WIDER, body="".join(body))


def picture_file(folder: Path, name: str) -> Path:
    return folder / "pictures" / f"{name.replace(' ', '-')}.png"


def plot_scatter(found: dict[str, Any]) -> bytes | None:
    """Fréchet distance against seconds per sample, a colour for each family, as PNG.  None if nothing was measured."""
    from matplotlib.figure import Figure  # slow to import

    shown = {
        name: row
        for name, row in finished(found).items()
        if row["sample_seconds"] and row["evaluation"]["quality"] and row["levels"] == found["levels"]
    }
    if not shown:
        return None
    figure = Figure(figsize=(9, 6), dpi=130, layout="constrained")
    axes = figure.subplots()
    real = next(iter(shown.values()))["evaluation"]["floor"][FRECHET]
    axes.axhspan(max(real["low"], 1e-3), real["high"], color="0.9", label="real images, 95 %")
    for i, (family, text) in enumerate(FAMILIES.items()):
        some = {name: row for name, row in shown.items() if row["family"] == family}
        for given in (False, True):
            names = [name for name in some if some[name]["given"] == given]
            x = [some[name]["sample_seconds"] for name in names]
            estimates = [some[name]["evaluation"]["quality"][FRECHET] for name in names]
            margins = [(e["high"] - e["low"]) / 2 for e in estimates]
            if names:
                face, label = ("none", f"{text}, of a given image") if given else (f"C{i}", text)
                axes.errorbar(x, [e["value"] for e in estimates], margins, fmt="o", color=f"C{i}", mfc=face,
                              label=label, linewidth=0.6, capsize=2)  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set(xlabel="CPU seconds per sample", ylabel="Fréchet distance, with its 95 % interval")
    axes.margins(x=0.2)  # room for names
    axes.set_ylim(bottom=1)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    figure.draw_without_rendering()  # settles the layout, in which names get their places
    places = {
        name: (row["sample_seconds"], row["evaluation"]["quality"][FRECHET]["value"]) for name, row in shown.items()
    }
    write_names(axes, places)
    contents = io.BytesIO()
    figure.savefig(contents)
    return contents.getvalue()


def write_names(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Write the names beside points: each at the nearest of some places where it is on no other name or point."""
    pixels = {name: axes.transData.transform(at) for name, at in points.items()}
    high, across = 18, 9  # pixels of a name's line and of a letter, at most
    taken = [(x - 6, x + 6, y - 6, y + 6) for x, y in pixels.values()]
    for name, (x, y) in sorted(pixels.items(), key=lambda item: -item[1][1]):
        wide = across * len(name)
        tried = [(dx, dy * high / 2) for dy in sorted(range(-24, 25), key=abs) for dx in (10, -10 - wide)]
        boxes = [(x + dx, x + dx + wide, y + dy - high / 2, y + dy + high / 2) for dx, dy in tried]
        free = [box for box in boxes if not any(overlap(box, other) for other in taken)]
        box = (free or boxes)[0]
        taken.append(box)
        right = box[0] > x
        place = axes.transData.inverted().transform((box[0] if right else box[1], (box[2] + box[3]) / 2))
        axes.annotate(name, points[name], place, fontsize="small", va="center", ha="left" if right else "right",
                      arrowprops={"arrowstyle": "-", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0})  # fmt: skip


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, right, bottom, top) have a point in common."""
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def write(found: dict[str, Any], folder: Path) -> list[Path]:
    """Write `compare.md`, the pictures and `index.html` to the folder of a comparison.  Returns the paths."""
    paths = [folder / "compare.md", folder / "scatter.png", folder / "index.html"]
    write_atomically(paths[0], markdown(found).encode(errors="replace"))  # a path need not be valid text
    strips = {name: (row["samples"], row["levels"]) for name, row in finished(found).items() if row["samples"]}
    strips["real images"] = found["real"], found["levels"]
    for name, (images, levels) in strips.items():
        save_picture(grid(unpacked(images), levels, SHOWN // 2), picture_file(folder, name))
    if (scatter := plot_scatter(found)) is None:
        paths.pop(1).unlink(missing_ok=True)
    else:
        write_atomically(paths[1], scatter)
    write_atomically(paths[-1], page(found, folder).encode(errors="replace"))
    return paths
