"""`index.html` in a run's folder: curves, samples over time and settings, in one self-contained file."""

from __future__ import annotations

import base64
import dataclasses
import html
import inspect
import json
import re
import string
from collections.abc import Iterable
from pathlib import Path

from nanogen.models import MODELS
from nanogen.training.files import write_atomically
from nanogen.training.report import CAPTIONS, footnote, heading, rows
from nanogen.training.run import Run

FRAMES = 8  # of the samples over time, evenly spaced

STYLE = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
progress { width: 100%; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; container-type: inline-size; }
figure { margin: 0; max-width: 100%; overflow-x: auto; }
figcaption { font-size: .9rem; opacity: .75; width: 0; min-width: 100%; }
summary { display: block; cursor: zoom-in; }
img { max-width: 100%; background: #fff; vertical-align: bottom; } .small img { width: 14rem; }
/* A click enlarges a picture to the largest multiple of its width that fits.  If it does not fit once, it scrolls. */
[open] img { max-width: none; width: max(var(--width), round(down, 100cqi, var(--width))); image-rendering: pixelated; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.5rem .15rem 0; text-align: left; }
th { font-weight: normal; opacity: .75; overflow-wrap: normal; vertical-align: top; }
td { font-family: ui-monospace, monospace; }
pre { white-space: pre-wrap; }
"""

DOCUMENT = string.Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$head<title>$title</title>
<style>
$style</style>
</head>
<body>
<h1>$title</h1>
$body</body>
</html>
""")

BODY = string.Template("""\
<p>Step $step of $steps</p>
<progress value="$step" max="$steps">$step of $steps</progress>
<h2>Samples over time</h2>
<div class="small row">
$frames</div>
<h2>Loss</h2>
<div class="row">
$curves</div>
$evaluation$pictures$classes<h2>Settings</h2>
$settings<h2>Commands</h2>
<pre>$commands</pre>
""")


def write_page(run: Run, step: int | None = None) -> Path:
    """Write the page for a step, by default that of the newest checkpoint.

    Until the run is finished, browsers reload it every 30 seconds."""
    settings, step = run.settings(), run.newest_step() if step is None else step
    title = f"{settings.model} on {Path(settings.data).stem}"
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k != "model_settings"} | settings.model_settings
    frames = sorted(run.samples_file(0).parent.glob("step-*.png"))
    shown = [frames[i * (len(frames) - 1) // max(FRAMES - 1, 1)] for i in range(FRAMES)] if frames else []
    others = sorted(set(run.folder.glob("*.png")) - {run.folder / "samples.png", run.folder / "loss.png"})
    drawn = [path for path in others if path.stem in CAPTIONS]
    curves, commands = run.folder / "loss.png", run.folder / "commands.log"
    meaning = explained(settings.model) | CAPTIONS
    under_way = step < settings.steps and not run.out_of_patience()
    body = BODY.substitute(
        step=step,
        steps=settings.steps,
        frames="".join(figure(path, f"step {int(path.stem[5:])}") for path in dict.fromkeys(shown)),
        curves=figure(curves, "mean since the row before") if curves.exists() else "",
        evaluation=section("Evaluation", numbers(run), in_a_row(drawn, meaning)),
        pictures=section("More pictures", in_a_row([path for path in others if path not in drawn], meaning)),
        classes=section("Classes", table(enumerate(run.class_names()))),
        settings=table(values.items()),
        commands=html.escape(commands.read_text(encoding="utf-8", errors="replace") if commands.exists() else ""),
    )
    refresh = '<meta http-equiv="refresh" content="30">\n' if under_way else ""
    page = DOCUMENT.substitute(title=html.escape(title), head=refresh, style=STYLE, body=body)
    write_atomically(run.folder / "index.html", page.encode(errors="replace"))  # a path need not be valid text
    return run.folder / "index.html"


def section(title: str, *contents: str) -> str:
    return "".join([f"<h2>{title}</h2>\n", *contents]) if any(contents) else ""


def table(rows: Iterable[tuple[object, ...]]) -> str:
    """A table; the first cell of each row is its head."""
    cell = lambda i, text: f"<{'td' if i else 'th'}>{html.escape(str(text))}</{'td' if i else 'th'}>"
    lines = ["".join(cell(i, text) for i, text in enumerate(row)) for row in rows]
    return "".join(["<table>\n", *(f"<tr>{line}</tr>\n" for line in lines), "</table>\n"]) if lines else ""


def numbers(run: Run) -> str:
    """The numbers of `evaluation.json`; nothing if there is no such file."""
    file = run.folder / "evaluation.json"
    if not file.is_file():
        return ""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        above, below, lines = heading(found), footnote(found), rows(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"<p>{html.escape(f'{file.name} is broken: {error!r}')}</p>\n"
    if run.is_older(file):
        above += " (before the newest checkpoint)"
    return f"<p>{html.escape(above)}</p>\n{table(lines)}<p>{html.escape(below)}</p>\n"


def in_a_row(paths: list[Path], meaning: dict[str, str]) -> str:
    figures = "".join(figure(path, path.stem.replace("_", " "), meaning.get(path.stem, "")) for path in paths)
    return f'<div class="row">\n{figures}</div>\n' if figures else ""


def explained(model: str) -> dict[str, str]:
    """What each of a model's illustrations shows, from the docstring of `illustrations`."""
    text = inspect.getdoc(MODELS[model].illustrations) or ""
    found = re.findall(r"^(?:- )?(\w+): (.+(?:\n  .+)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}


def figure(path: Path, name: str, meaning: str = "") -> str:
    """A picture that is embedded in the page."""
    contents, alt = path.read_bytes(), html.escape(name)
    data, width = base64.b64encode(contents).decode(), int.from_bytes(contents[16:20])  # where a PNG has its width
    image = f'<img src="data:image/png;base64,{data}" alt="{alt}" style="--width: {width}px">'
    caption = html.escape(f"{name}: {meaning}" if meaning else name)
    return f"<figure><details><summary>{image}</summary></details><figcaption>{caption}</figcaption></figure>\n"
