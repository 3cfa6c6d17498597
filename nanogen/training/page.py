"""`index.html` in a run's folder: curves, samples over time and settings, in one self-contained file."""

from __future__ import annotations

import base64
import dataclasses
import html
import inspect
import re
import string
from pathlib import Path

from nanogen.models import MODELS
from nanogen.training.files import write_atomically
from nanogen.training.run import Run

FRAMES = 8  # of the samples over time, evenly spaced

PAGE = string.Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$refresh<title>$title</title>
<style>
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
</style>
</head>
<body>
<h1>$title</h1>
<p>Step $step of $steps</p>
<progress value="$step" max="$steps">$step of $steps</progress>
<h2>Samples over time</h2>
<div class="small row">
$frames</div>
<h2>Loss</h2>
<div class="row">
$curves</div>
$pictures<h2>Settings</h2>
<table>
$settings</table>
<h2>Commands</h2>
<pre>$commands</pre>
</body>
</html>
""")


def write_page(run: Run, step: int) -> Path:
    """Write the page for a step.  Until the run is finished, browsers reload it every 30 seconds."""
    settings = run.settings()
    title = f"{settings.model} on {Path(settings.data).stem}"
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k != "model_settings"} | settings.model_settings
    rows = [f"<tr><th>{html.escape(k)}</th><td>{html.escape(str(v))}</td></tr>\n" for k, v in values.items()]
    frames = sorted(run.samples_file(0).parent.glob("step-*.png"))
    shown = [frames[i * (len(frames) - 1) // max(FRAMES - 1, 1)] for i in range(FRAMES)] if frames else []
    others = sorted(set(run.folder.glob("*.png")) - {run.folder / "samples.png", run.folder / "loss.png"})
    curves, commands = run.folder / "loss.png", run.folder / "commands.log"
    meaning = explained(settings.model)
    pictures = "".join(figure(path, path.stem.replace("_", " "), meaning.get(path.stem, "")) for path in others)
    page = PAGE.substitute(
        title=html.escape(title),
        refresh='<meta http-equiv="refresh" content="30">\n'
        if step < settings.steps and not run.out_of_patience()
        else "",
        step=step,
        steps=settings.steps,
        frames="".join(figure(path, f"step {int(path.stem[5:])}") for path in dict.fromkeys(shown)),
        curves=figure(curves, "mean since the row before") if curves.exists() else "",
        pictures=f'<h2>More pictures</h2>\n<div class="row">\n{pictures}</div>\n' if pictures else "",
        settings="".join(rows),
        commands=html.escape(commands.read_text(encoding="utf-8", errors="replace") if commands.exists() else ""),
    )
    write_atomically(run.folder / "index.html", page.encode(errors="replace"))  # a path need not be valid text
    return run.folder / "index.html"


def explained(model: str) -> dict[str, str]:
    """What each of a model's illustrations shows, from the docstring of `illustrations`."""
    return dict(re.findall(r"^(?:- )?(\w+): (.+)", inspect.getdoc(MODELS[model].illustrations) or "", re.MULTILINE))


def figure(path: Path, name: str, meaning: str = "") -> str:
    """A picture that is embedded in the page."""
    contents, alt = path.read_bytes(), html.escape(name)
    data, width = base64.b64encode(contents).decode(), int.from_bytes(contents[16:20])  # where a PNG has its width
    image = f'<img src="data:image/png;base64,{data}" alt="{alt}" style="--width: {width}px">'
    caption = html.escape(f"{name}: {meaning}" if meaning else name)
    return f"<figure><details><summary>{image}</summary></details><figcaption>{caption}</figcaption></figure>\n"
