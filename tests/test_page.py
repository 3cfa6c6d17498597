"""A run made visible: live samples that change nothing, and a page that needs no other file."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_evaluation import some_evaluation
from tiny_runs import KINDS, STEPS, assert_same, settings_of, some_images, trained

from nanogen.training import evaluation, loop
from nanogen.training.checkpoint import load_checkpoint
from nanogen.training.page import FRAMES, explained, write_page
from nanogen.training.pictures import GREY, draw_pictures
from nanogen.training.run import Run

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Reader(HTMLParser):
    """Keeps the attributes of all tags and the text, and checks that every tag is closed in its turn."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.mark.by_default(model=["vae", "gan"])
@pytest.mark.parametrize("model", KINDS)
def test_pictures_on_the_way_change_nothing(model: str, tmp_path: Path) -> None:
    """A run that draws samples every third step ends with the same weights, optimisers, metrics and pictures, to the
    bit, as one that does not; every picture is there, and no part of one."""
    plain, run = trained(model, tmp_path / "plain", samples_every=0)
    drawn, drawn_run = trained(model, tmp_path / "drawn", samples_every=3)
    assert_same(plain.arrays(), drawn.arrays())
    assert run.metrics_file.read_bytes() == drawn_run.metrics_file.read_bytes()
    assert not run.samples_file(3).exists()
    pictures = [np.asarray(Image.open(drawn_run.samples_file(step))) for step in (3, 6, 9)]
    assert all(picture.shape == pictures[0].shape for picture in pictures)
    assert (drawn_run.folder / "samples.png").read_bytes() == drawn_run.samples_file(9).read_bytes()
    assert not list(tmp_path.rglob("*.part"))
    for finished in (run, drawn_run):
        draw_pictures(finished, some_images(), some_images())
    for name in ("samples.png", "loss.png"):
        assert (run.folder / name).read_bytes() == (drawn_run.folder / name).read_bytes()


def test_samples_on_the_way_are_of_the_averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn at a step is what the run would sample from there: with the averaged weights."""
    seen = {}

    def look(run: Run, model: loop.GenerativeModel, step: int) -> None:
        seen[step] = {name: p.data.copy() for name, p in model.named_parameters()}

    monkeypatch.setattr(loop, "draw_progress", look)
    _, run = trained("vae", tmp_path, samples_every=5, checkpoint_every=5)
    for path in run.checkpoint_files()[1:]:
        path.rename(path.with_suffix(".kept"))
    found = load_checkpoint(run.checkpoint_file(10).with_suffix(".kept")).arrays
    assert_same(seen[10], {name: found[f"average.{name}"] for name in seen[10]})


def test_a_picture_that_cannot_be_drawn_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said in a line, and the run goes on with its own weights."""

    def fail(*_: object) -> None:
        raise ValueError("std must be positive")

    plain, _ = trained("vae", tmp_path / "plain")
    monkeypatch.setattr(loop, "draw_progress", fail)
    trainer, _ = trained("vae", tmp_path / "run", samples_every=5)
    assert_same(trainer.arrays(), plain.arrays())
    assert [record.getMessage() for record in caplog.records] == [
        f"nanogen: no picture of step {step}: std must be positive" for step in (5, 10)
    ]


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    """index.html is well-formed and refers to nothing outside itself; its pictures open, those of the samples over time
    in their order, at most so many, the first and the last among them; every setting is there."""
    _, run = trained("vae", tmp_path, samples_every=6)
    for step in range(1, STEPS):
        shutil.copy(run.folder / "samples.png", run.samples_file(step))
    draw_pictures(run, some_images(), some_images())
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert not re.search(
        r"https?:|//|url\(|@import|<script|<link|<iframe", re.sub(r"data:image/png;base64,[^\"]*", "", text)
    )
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    for attributes in pictures:
        kind, _, data = (attributes["src"] or "").partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size[0] > 0
    frames = [a["alt"] for a in pictures if (a["alt"] or "").startswith("step ")]
    assert frames == sorted(frames, key=lambda alt: int((alt or "").split()[1]))
    assert (len(frames), frames[0], frames[-1]) == (FRAMES, "step 1", f"step {STEPS}")
    assert len(pictures) == FRAMES + 1 + len({p.stem for p in tmp_path.glob("*.png")} - {"samples", "loss"})
    settings = settings_of("vae")
    for name, value in [("lr", settings.lr), ("latent", 2), ("steps", STEPS), ("seed", 0)]:
        assert page.words[page.words.index(name) + 1 :][:2].count(str(value)) == 1, name


def embedded(page: Reader) -> dict[str, bytes]:
    """The pictures of a page by their captions."""
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    return {a["alt"] or "": base64.b64decode((a["src"] or "").removeprefix("data:image/png;base64,")) for a in pictures}


@pytest.mark.parametrize(("count", "shown"), [
    (1, [1]), (3, [1, 2, 3]), (8, [1, 2, 3, 4, 5, 6, 7, 8]), (15, [1, 3, 5, 7, 9, 11, 13, 15]),
    (20, [1, 3, 6, 9, 11, 14, 17, 20]),
])  # fmt: skip
def test_the_page_picture_by_picture(count: int, shown: list[int], tmp_path: Path) -> None:
    """Samples over time: of all that there are eight, spread evenly, with the first and the last; then the curves, then
    all other pictures by their names.  Each is the file's own bytes.  The table has every setting of the run, the
    model's own among them, with its value; the commands are those that were given."""
    run = Run(tmp_path)
    settings = dataclasses.replace(settings_of("gan", seed=77, betas=(0.25, 0.75)), data="/there/<i>&.npz")
    run.write_settings(settings)
    run.note("nanogen train gan --seed 77")
    run.note("nanogen train --resume")
    for step in range(1, count + 1):
        Image.new("L", (step, 3)).save(run.samples_file(step))
    empty = Reader(write_page(run, 0).read_text())
    assert "loss.png" not in (tmp_path / "index.html").read_text()
    assert list(embedded(empty)) == [f"step {step}" for step in shown]
    assert "More pictures" not in empty.words
    for i, name in enumerate(["samples", "loss", "evaluation-missed", "prior_means", "x<y"]):
        Image.new("L", (40 + i, 3)).save(tmp_path / f"{name}.png")
    page = Reader(write_page(run, 5).read_text(encoding="utf-8"))
    expected = {f"step {step}": run.samples_file(step) for step in shown}
    expected |= {
        "mean since the row before": tmp_path / "loss.png",
        "evaluation-missed": tmp_path / "evaluation-missed.png",
    }
    expected |= {"prior means": tmp_path / "prior_means.png", "x<y": tmp_path / "x<y.png"}
    assert {name: path.read_bytes() for name, path in expected.items()} == embedded(page)
    assert list(embedded(page)) == list(expected)
    words = [word for word in page.words if word]
    assert words.count("gan on <i>&") == 2
    assert ("progress", {"value": "5", "max": str(STEPS)}) in page.tags
    assert f"Step 5 of {STEPS}" in words
    table = words[words.index("Settings") + 1 : words.index("Commands")]
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k != "model_settings"} | settings.model_settings
    assert dict(zip(table[::2], table[1::2], strict=True)) == {k: str(v) for k, v in values.items()}
    assert words[words.index("Commands") + 1] == (tmp_path / "commands.log").read_text().strip()


def test_the_page_of_an_evaluated_run(tmp_path: Path) -> None:
    """It has every row of the evaluation's table, escaped, before the evaluation's pictures, each with a caption that
    says what it shows; of an evaluation that is older than the newest checkpoint it says so.  A file that is none of
    ours is called broken, and without one there is no such section."""
    _, run = trained("vae", tmp_path)
    assert "Evaluation" not in write_page(run).read_text()
    e = dataclasses.replace(some_evaluation(), data="a<b>&")
    pictures = {name: some_images(3).images for name in ("closest", "outside", "missed")}
    paths = evaluation.write(e, pictures, 4, run, tmp_path / "evaluation.json")
    Image.new("L", (5, 5)).save(tmp_path / "manifold.png")
    page = Reader(write_page(run).read_text(encoding="utf-8"))
    words = [word for word in page.words if word]
    assert f"Step {STEPS} of {STEPS}" in words
    part = words[words.index("Evaluation") + 1 : words.index("More pictures")]
    above, *lines, below = evaluation.table(e).splitlines()
    assert "a<b>&" in above
    table = [word for line in lines for word in re.split("  +", line.strip())]
    assert part[: len(table) + 2] == [above, *table, below]
    captions = part[len(table) + 2 :]
    assert [caption.partition(": ")[0] for caption in captions] == [path.stem for path in sorted(paths[1:])]
    assert all(len(caption.partition(": ")[2]) > 20 for caption in captions)
    shown = embedded(page)
    assert all(shown[path.stem] == path.read_bytes() for path in paths[1:])
    os.utime(tmp_path / "evaluation.json", (0, 0))
    assert f"{above} (before the newest checkpoint)" in Reader(write_page(run).read_text(encoding="utf-8")).words
    for broken in ("{}", "[]", "{", "[" * 100_000):
        (tmp_path / "evaluation.json").write_text(broken)
        assert any(word.startswith("evaluation.json is broken: ") for word in Reader(write_page(run).read_text()).words)


def test_the_page_of_a_run_under_way(tmp_path: Path) -> None:
    """While steps are left the page says how far it is and loads itself anew; once finished it does not; text from
    outside is text, not tags."""
    _, run = trained("vae", tmp_path)
    run.note("nanogen train vae --out '<b>&'")
    for step, again in ((5, True), (STEPS, False)):
        page = Reader(write_page(run, step).read_text())
        refreshed = [attributes for _, attributes in page.tags if attributes.get("http-equiv") == "refresh"]
        assert (refreshed == [{"http-equiv": "refresh", "content": "30"}]) == again
        assert f"Step {step} of {STEPS}" in page.words
        assert any("'<b>&'" in words for words in page.words)
        assert "b" not in {tag for tag, _ in page.tags}


BROWSER = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser")


@needs_browser
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Chromium shows it, without a network: the bar of progress, the samples in grey and the curve in blue."""
    _, run = trained("vae", tmp_path, samples_every=4)
    draw_pictures(run, some_images(), some_images())
    shot = tmp_path / "shot.png"
    command = [*BROWSER, "--window-size=1000,1600", f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}",
               (tmp_path / "index.html").as_uri()]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    shown = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    grey = (shown == GREY).all(axis=2)
    blue = shown[..., 2] - shown[..., 0] > 100
    assert grey[: len(grey) // 2].sum() > 1000, "the lines between the samples"
    assert blue.any(axis=1).sum() > 100, "the curve goes down the page, the bar across it"
    assert blue.any(axis=0).sum() > 500


MEASURE = """<script>addEventListener("load", () => {
  const pictures = [...document.images], widths = () => pictures.map(image => image.getBoundingClientRect().width);
  const found = {natural: pictures.map(image => image.naturalWidth), small: widths()};
  pictures.forEach(image => image.closest("summary").click());
  setTimeout(() => {
    const root = document.documentElement;
    const all = {...found, large: widths(), page: root.scrollWidth, window: root.clientWidth};
    parent.postMessage(JSON.stringify(all), "*");
  }, 100);
})</script>"""


@needs_browser
@pytest.mark.parametrize("width", [360, 1400])
def test_a_click_enlarges_a_picture(width: int, tmp_path: Path) -> None:
    """To the largest multiple of its own width that fits, or, on a small screen, to its own width.  Nothing is wider
    than the screen, whatever the settings."""
    _, run = trained("vae", tmp_path, samples_every=4)
    draw_pictures(run, some_images(), some_images())
    evaluation.write(dataclasses.replace(some_evaluation(), data="/a" * 200), {}, 4, run, tmp_path / "evaluation.json")
    run.write_settings(dataclasses.replace(run.settings(), data="/a" * 200))
    (tmp_path / "measured.html").write_text(
        write_page(run, STEPS).read_text(encoding="utf-8") + MEASURE, encoding="utf-8"
    )
    frame = tmp_path / "frame.html"  # of any width, which a window is not
    frame.write_text(
        '<script>addEventListener("message", event => { document.title = event.data; })</script>'
        f'<iframe src="measured.html" width="{width}" height="800" style="border: 0"></iframe>'
    )
    command = [*BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", "--virtual-time-budget=5000",
               frame.as_uri()]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, timeout=600, text=True, encoding="utf-8")
    found = json.loads(re.findall("<title>(.*)</title>", done.stdout)[0])
    assert found["page"] <= found["window"] <= width
    assert len(found["natural"]) == 3 + 1 + 5
    room = min(found["window"] - 32, 1088)
    for natural, small, large in zip(found["natural"], found["small"], found["large"], strict=True):
        assert 0 < small <= min(natural, room)
        assert large == natural * max(1, room // natural)


def test_the_whole_of_a_caption() -> None:
    """Also where it goes on in a second line."""
    assert explained("vae")["traversals"].endswith("for the eight d that vary most")
