"""`index.html` in a run's folder: curves, samples over time and settings, in one self-contained file."""

from __future__ import annotations

import base64
import dataclasses
import html
import string
from pathlib import Path

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
body { max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
progress { width: 100%; }
img { max-width: 100%; image-rendering: pixelated; background: #fff; }
figure { margin: 0; } figcaption { font-size: .9rem; opacity: .75; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 1.5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1.5rem .15rem 0; text-align: left; }
th { font-weight: normal; opacity: .75; } td { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p>Step $step of $steps</p>
<progress value="$step" max="$steps">$step of $steps</progress>
<h2>Samples over time</h2>
<div class="row">
$frames</div>
<h2>Loss</h2>
$curves$pictures<h2>Settings</h2>
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
    pictures = "".join(figure(path, path.stem.replace("_", " ")) for path in others)
    page = PAGE.substitute(
        title=html.escape(title),
        refresh='<meta http-equiv="refresh" content="30">\n' if step < settings.steps else "",
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


def figure(path: Path, caption: str) -> str:
    """A picture that is embedded in the page."""
    data, words = base64.b64encode(path.read_bytes()).decode(), html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>\n'
