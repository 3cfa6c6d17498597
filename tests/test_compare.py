"""`nanogen compare`: what it trains and what it keeps, and that its tables follow from the numbers of compare.json."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_cli import refused
from test_page import Reader, embedded
from tiny_runs import TINY

from benchmarks import readme
from nanogen import data
from nanogen.cli import main
from nanogen.models import MODELS, Recipe
from nanogen.training import comparing, comparison
from nanogen.training.comparing import compare
from nanogen.training.comparison import FRECHET, HEADER, closing, groups, markdown, read, table, ticks
from nanogen.training.files import locked
from nanogen.training.pictures import grid
from nanogen.training.run import Run
from nanogen.training.stopping import Interrupted

STEPS = 4


def tiny_recipes(patch: pytest.MonkeyPatch) -> None:
    for model, settings in TINY.items():
        recipe = Recipe(steps=STEPS, batch=8, warmup=0, samples_every=0, test_every=0, model=settings)
        for size in ("small", "large"):
            patch.setattr(MODELS[model], size, recipe)
    patch.setattr("nanogen.cli.draw_pictures", lambda run, train, test: [])
    patch.setattr(comparing, "N", 48)


def tiny_main(given: Sequence[str]) -> int:
    """The command line with tiny recipes, also in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_recipes(patch)
        return main(given)


@pytest.fixture
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        tiny_recipes(patch)
        yield


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of 4×4 pixels and 4 levels, whose label is the level of their first row."""
    file, rng = tmp_path_factory.mktemp("data") / "stripes.npz", np.random.default_rng(0)
    arrays: dict[str, Any] = {"levels": 4}
    for split in ("train", "test"):
        rows = rng.integers(0, 4, (48, 4, 1)).astype(np.uint8)
        arrays |= {f"{split}_images": rows.repeat(4, axis=2), f"{split}_labels": rows[:, 0, 0].astype(np.int64)}
    np.savez(file, **arrays)
    return str(file)


def compared(out: Path, file: str, *models: str, jobs: int = 1, options: Sequence[str] = (), say: Any = None) -> Any:
    """The JSON of a comparison of models, and the models that failed."""
    splits = [data.load(file, split) for split in data.SPLITS]
    failed = compare(models, splits, [f"--data={file}", *options], out, False, jobs, tiny_main, say or (lambda _: None))
    return read(out / "compare.json"), failed


# Numbers and what follows from them


def estimate(value: float, margin: float) -> dict[str, float]:
    return {"value": value, "low": value - margin, "high": value + margin}


def row(
    family: str, distance: float, coverage: float, evaluations: int, bits: Any = None, **more: Any
) -> dict[str, Any]:
    likelihood = bits and {"kind": bits[0], "bits_per_dim": bits[1], "low": bits[1] - 0.03, "high": bits[1] + 0.03,
                           "standard_error": 0.015, "terms": {}}  # fmt: skip
    shares = {"precision": estimate(0.61, 0.1), "recall": estimate(0.87, 0.1), "density": estimate(0.5, 0.1)}
    real = {**shares, FRECHET: estimate(2.5, 1.0), "coverage": estimate(0.9, 0.1)}
    images = np.arange(16 * 16, dtype=np.uint8).reshape(16, 1, 4, 4) % 2
    return {
        "state": "finished", "family": family, "given": False, "remark": "", "levels": 4, "differs": [],
        "checkpoint": "0", "parameters": 12345, "training_seconds": 67.8, "sample_seconds": 0.0123,
        "samples": comparison.packed(images),
        "evaluation": {
            "likelihood": likelihood, "features": "64 features", "floor": real, "network_evaluations": evaluations,
            "quality": {**shares, FRECHET: estimate(distance, 0.5), "coverage": estimate(coverage, 0.05)},
            "copies": {"exact copies of training images": estimate(0.25, 0.1)},
            "copies_expected": {"exact copies of training images": 0.06},
        },
    } | more  # fmt: skip


def numbers() -> dict[str, Any]:
    """A comparison whose numbers are chosen."""
    models = {
        "pixelcnn": row("autoregressive", 5.75, 0.68, 64, ("exact", 1.82)),
        "gated-pixelcnn": row("autoregressive", 3.25, 0.85, 64, ("exact", 1.74)),
        "vae": row("latent", 4.75, 0.75, 1, ("upper bound", 1.92), differs=["latent 2, not 16"]),
        "autoencoder": row("latent", 1.0, 0.99, 1, remark="no generative model"),
        "gan": row("adversarial", 4.5, 0.71, 1),
        "pix2pix": row("adversarial", 1.5, 0.95, 1, given=True, remark="of sources"),
        "ddpm": row("diffusion", 3.5, 0.8, 200, ("upper bound", 2.58)),
        "binomial-diffusion": row("diffusion", 3.0, 0.7, 100, ("upper bound", 0.39), levels=2),
        "spade": {"state": "refused", "family": "adversarial", "reason": "too small"},
        "sagan": {"state": "failed", "family": "adversarial", "reason": "numbers | went <wrong>"},
        "wae": {"state": "waiting", "family": "latent"},
    }
    return {
        "version": 1, "data": "digits", "fingerprints": ["a", "b"], "quick": None, "samples": 500, "train_images": 1500,
        "test_images": 297, "levels": 4, "fast": 10, "real": comparison.packed(np.zeros((16, 1, 4, 4), np.uint8)),
        "models": models,
    }  # fmt: skip


def cells(found: dict[str, Any], model: str) -> dict[str, str]:
    """A model's row of its table, by column."""
    line = next(line for g in groups(found) for line in table(found, g) if line[0].removesuffix(" †") == model)
    return dict(zip(HEADER, line, strict=True))


@pytest.mark.parametrize(("name", "at", "better"), [(FRECHET, 3.5, -1), ("coverage", 0.8, 1)])
def test_ticks_follow_from_the_interval_of_real_images(name: str, at: float, better: int) -> None:
    """At the worse end of the interval and on its good side a tick, beyond it a cross, whatever the model's own
    interval; and the end is that of the numbers, not a constant."""
    tick = "quality" if name == FRECHET else "coverage"
    for value, expected in ((at, True), (at + better * 1e-3, True), (at - better * 1e-3, False)):
        model = row("latent", 9.0, 0.1, 1)
        model["evaluation"]["quality"][name] = {"value": value, "low": 0.0, "high": 99.0}
        model["evaluation"]["floor"][name] |= {"low": 0.8} if better > 0 else {"high": 3.5}
        others = ticks(row("latent", 9.0, 0.1, 1), 10)
        assert ticks(model, 10) == {**others, tick: expected}
        model["evaluation"]["floor"][name] |= {"low": 0.0, "high": 100.0}
        assert ticks(model, 10)[tick]


def test_ticks_of_speed_and_of_what_was_not_measured() -> None:
    """At most so many network evaluations as the comparison says; without 40 images there is neither tick nor cross."""
    assert [ticks(row("latent", 1.0, 1.0, n), 10)["fast"] for n in (1, 10, 11, 200)] == [True, True, False, False]
    assert ticks(row("latent", 1.0, 1.0, 11), 11)["fast"]
    found = numbers()
    found["models"]["vae"]["evaluation"] |= {"quality": {}, "floor": {}}
    assert ticks(found["models"]["vae"], 10) == {"quality": None, "coverage": None, "fast": True}
    assert [cells(found, "vae")[name] for name in ("quality", "mode coverage", "fast sampling", f"{FRECHET} *")] == [
        "–", "–", "✓", "–",
    ]  # fmt: skip


def test_a_row_of_the_table() -> None:
    """Every number in its column; a change of the JSON changes that cell."""
    found = numbers()
    first = cells(found, "pixelcnn")
    assert first == {
        "model": "pixelcnn", "family": "autoregressive", "quality": "✗", "mode coverage": "✗", "fast sampling": "✗",
        "bits/dim": "1.82 ± 0.03 (exact)", f"{FRECHET} *": "5.75 ± 0.50", "precision": "0.61 [0.51, 0.71]",
        "recall": "0.87 [0.77, 0.97]", "coverage": "0.68 [0.63, 0.73]", "copies": "0.25", "network evaluations": "64",
        "seconds per sample": "0.012", "seconds of training": "68", "parameters": "12,345",
    }  # fmt: skip
    assert [cells(found, model)["bits/dim"] for model in ("vae", "gan")] == ["1.92 ± 0.03 (bound)", "none"]
    changes: dict[str, Any] = {"parameters": 1, "training_seconds": None, "sample_seconds": None, "family": "latent"}
    names = {"training_seconds": "seconds of training", "sample_seconds": "seconds per sample"}
    for name, value in changes.items():
        other = copy.deepcopy(found)
        other["models"]["pixelcnn"][name] = value
        changed = {k for k, text in cells(other, "pixelcnn").items() if text != first[k]}
        assert changed == {names.get(name, name)}
    assert cells(found, "real images")[f"{FRECHET} *"] == "2.50 ± 1.00"


def test_families_are_apart() -> None:
    """In the closing table each family has its column, autoregressive models and latent variables their own; a tick
    means at least half of a family.  What is marked, given an image or of other images does not count."""
    found = numbers()
    assert closing(found) == [
        ["", "autoregressive", "latent variables", "adversarial", "diffusion"],
        ["fast sampling", "✗ 0 of 2", "✓ 1 of 1", "✓ 1 of 1", "✗ 0 of 1"],
        ["mode coverage", "✓ 1 of 2", "✗ 0 of 1", "✗ 0 of 1", "✓ 1 of 1"],
        ["quality", "✓ 1 of 2", "✗ 0 of 1", "✗ 0 of 1", "✓ 1 of 1"],
        ["p(x)", "exact", "bound", "none", "bound"],
    ]
    assert [group.names for group in groups(found)] == [
        ["pixelcnn", "gated-pixelcnn", "vae", "autoencoder", "gan", "ddpm"], ["binomial-diffusion"], ["pix2pix"],
    ]  # fmt: skip
    assert [bool(group.title) for group in groups(found)] == [False, True, True]


def test_every_model_has_a_family() -> None:
    assert {comparing.family_of(model) for model in MODELS} == comparison.FAMILIES.keys()
    assert {comparing.family_of(model) for model in ("vae", "autoencoder", "hierarchical-vae")} == {"latent"}
    assert [model for model, cls in MODELS.items() if cls.remark] == [
        "autoencoder", "pix2pix", "cyclegan", "spade", "super-resolution",
    ]  # fmt: skip


def test_the_notes() -> None:
    """What is to be known of single models, as text; and that it is quick, or not finished."""
    found = numbers()
    text = markdown(found)
    for words in (
        "- † vae: its run was in the folder, with settings that are not the recipe's: latent 2, not 16.",
        "- † autoencoder: no generative model.", "- spade is not in the tables: too small",
        "- sagan is not in the tables: numbers | went &lt;wrong&gt;", "Not finished yet: wae.", "at most 10 network",
    ):  # fmt: skip
        assert words in text, words
    assert "quick" not in text
    assert "| vae † |" in text
    quick = markdown(found | {"quick": 5})
    assert "(quick)" in quick
    assert "1/5 of the recipes' steps" in quick


def test_files_of_numbers(tmp_path: Path) -> None:
    """The page has every cell, and pictures that are made of the samples in the JSON: each as it is drawn of them."""
    found = numbers()
    found["data"] = "/a/<b>|&.npz"
    paths = comparison.write(found, tmp_path)
    assert [path.name for path in paths] == ["compare.md", "scatter.png", "index.html"]
    text = (tmp_path / "index.html").read_text()
    page = Reader(text)
    for group in groups(found):
        for line in table(found, group):
            assert all(cell in page.words for cell in line if cell)
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"][:2] == [
        "pixelcnn/index.html", "gated-pixelcnn/index.html",
    ]  # fmt: skip
    assert "b" not in {tag for tag, _ in page.tags}
    shown = embedded(page)
    assert shown.keys() == {*comparison.finished(found), "real images", "Fréchet distance and seconds of a sample"}
    for name, model in comparison.finished(found).items():
        path = comparison.picture_file(tmp_path, name)
        assert shown[name] == path.read_bytes()
        expected = grid(comparison.unpacked(model["samples"]), model["levels"], 8)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))
    for model in comparison.finished(found).values():
        model |= {"sample_seconds": None, "samples": None}
    comparison.write(found, tmp_path)
    assert not (tmp_path / "scatter.png").exists()


@pytest.mark.parametrize("contents", ["", "[]", "{}", "[" * 100_000, "\xff", "version", "models", "samples", "levels"])
def test_a_broken_comparison_is_refused(contents: str, tmp_path: Path) -> None:
    file, found = tmp_path / "compare.json", numbers()
    if contents == "samples":
        found["models"]["vae"]["samples"]["zlib"] = "eA=="
    elif contents == "version":
        found["version"] = 0
    else:
        found.pop(contents, None)
    whole = json.dumps(found) if contents.isalpha() and contents.isascii() else contents
    file.write_text(whole, encoding="latin-1")
    with pytest.raises(ValueError, match=r"compare.json is not of a comparison"):
        read(file)


# Training and evaluation


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """The contents and the time of change of a run's checkpoints and evaluation."""
    files = [*sorted((folder / "checkpoints").iterdir()), folder / "evaluation.json"]
    return {p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}


def test_a_comparison(tiny: None, stripes: str, tmp_path: Path) -> None:
    """Each model is trained by its recipe and evaluated; the JSON has the numbers of its folder.  A diffusion of bits
    gets images of two levels.  Once more, nothing is made again, and a model that is added joins the table."""
    out, lines = tmp_path / "out", list[str]()
    found, failed = compared(out, stripes, "vae", "binomial-diffusion", "pix2pix", say=lines.append)
    assert failed == []
    assert {
        "version",
        "data",
        "quick",
        "samples",
        "test_images",
        "train_images",
        "levels",
        "fast",
        "real",
    } <= found.keys()
    assert (found["data"], found["samples"], found["test_images"], found["levels"]) == (stripes, 48, 48, 4)
    assert list(found["models"]) == ["vae", "pix2pix", "binomial-diffusion"], "in the order of the registry"
    for name, model in found["models"].items():
        run = Run(out / name)
        assert run.newest_step() == STEPS
        assert model["evaluation"] == json.loads((out / name / "evaluation.json").read_text())
        assert model["checkpoint"] == hashlib.sha256(run.checkpoint_files()[0].read_bytes()).hexdigest()
        assert model["parameters"] == sum(p.data.size for p in run.model().parameters())
        assert model["training_seconds"] == run.seconds()[STEPS] > 0
        assert model["sample_seconds"] > 0
        assert model["differs"] == []
        assert comparison.unpacked(model["samples"]).shape == (16, 1, 4, 4)
    keys = ("family", "given", "levels")
    assert [found["models"]["vae"][k] for k in keys] == ["latent", False, 4]
    assert [found["models"]["pix2pix"][k] for k in keys] == ["adversarial", True, 4]
    assert [found["models"]["binomial-diffusion"][k] for k in keys] == ["diffusion", False, 2]
    assert (out / "compare.md").read_text() == markdown(found)
    assert lines[-1] == f"wrote {out / 'index.html'}"
    before, text = digests(out / "vae"), (out / "compare.json").read_bytes()
    assert compared(out, stripes, "vae") == (found, [])
    assert (out / "compare.json").read_bytes() == text
    more, _ = compared(out, stripes, "gan", "vae")
    assert list(more["models"]) == ["vae", "gan", "pix2pix", "binomial-diffusion"]
    assert more["models"]["vae"] == found["models"]["vae"]
    assert digests(out / "vae") == before


def test_the_time_of_a_sample(tiny: None, stripes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU seconds of 64 samples, by their number; those before do not count."""
    compared(tmp_path, stripes, "vae")
    drawn, clock = list[int](), [0.0]
    monkeypatch.setattr(comparing.time, "process_time", lambda: clock[0])

    def sample(model: Any, n: int, rng: Any) -> np.ndarray:
        drawn.append(n)
        clock[0] += 100 if n == 2 else n / 4
        return np.zeros((n, 1, 4, 4), np.uint8)

    monkeypatch.setattr(comparing, "sample", sample)
    found = comparing.timed_samples(Run(tmp_path / "vae"))
    assert (found["sample_seconds"], drawn) == (0.25, [2, 64])


def test_an_interruption_after_the_first_model(tiny: None, stripes: str, tmp_path: Path) -> None:
    """What is finished stays as it is, to the byte and the time; the rest is made when it goes on.  A comparison under
    way is in a lock."""

    def stop(line: str) -> None:
        if line.startswith("vae: "):
            with pytest.raises(ValueError, match="in use"):
                compared(tmp_path, stripes, "vae")
            raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        compared(tmp_path, stripes, "vae", "gan", say=stop)
    found = read(tmp_path / "compare.json")
    assert [found["models"][model]["state"] for model in ("vae", "gan")] == ["finished", "waiting"]
    assert found["models"]["vae"]["sample_seconds"] is None
    before = digests(tmp_path / "vae")
    found, _ = compared(tmp_path, stripes, "vae", "gan")
    assert [found["models"][model]["state"] for model in ("vae", "gan")] == ["finished", "finished"]
    assert found["models"]["vae"]["sample_seconds"] > 0
    assert digests(tmp_path / "vae") == before


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_compare
from nanogen.training.stopping import Stop
if __name__ == "__main__":
    with test_compare.pytest.MonkeyPatch.context() as patch, Stop(at_once=True):
        test_compare.tiny_recipes(patch)
        test_compare.compared(Path({out!r}), {file!r}, *{models!r}, jobs={jobs}, options={options!r})
"""


def in_a_process(folder: Path, jobs: int, file: str, *models: str, options: Sequence[str]) -> Any:
    """A comparison in a process of its own, in the folder `out`."""
    script, path = folder / "script.py", [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    text = SCRIPT.format(path=path, out=str(folder / "out"), file=file, models=models, jobs=jobs, options=list(options))
    script.write_text(text)
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, start_new_session=True)


def wait_for(file: Path, process: Any) -> None:
    while process.poll() is None and not file.exists():
        time.sleep(0.02)


@pytest.mark.full
def test_kill_in_the_middle_of_training(tiny: None, stripes: str, tmp_path: Path) -> None:
    """It goes on from the last checkpoint, to the same weights as without, and adds up the seconds of both parts."""
    options = ["--steps=400", "--checkpoint-every=25", "--keep=1000"]
    process = in_a_process(tmp_path, 1, stripes, "vae", options=options)
    run = Run(tmp_path / "out" / "vae")
    wait_for(run.checkpoint_file(25), process)
    process.kill()
    process.wait(timeout=60)
    reached, kept = run.newest_step(), run.checkpoint_files()[-1].stat().st_mtime_ns
    assert 25 <= reached < 400
    run.note_seconds(reached, 1000.0)  # as if the first part had been a long one
    found, failed = compared(tmp_path / "out", stripes, "vae", options=options)
    whole, _ = compared(tmp_path / "whole", stripes, "vae", options=options)
    assert failed == []
    assert "--resume" in (run.folder / "commands.log").read_text().splitlines()[-1]
    assert run.checkpoint_files()[-1].stat().st_mtime_ns == kept
    assert found["models"]["vae"]["checkpoint"] == whole["models"]["vae"]["checkpoint"]
    assert 1000.0 == run.seconds()[reached] < found["models"]["vae"]["training_seconds"]


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_comparison(number: int, stripes: str, tmp_path: Path) -> None:
    """Two models at a time.  SIGTERM lets both runs write a checkpoint of the step they are at; if the comparison is
    killed, their processes end too, and their folders are free again."""
    process = in_a_process(tmp_path, 2, stripes, "vae", "gan", options=["--steps=1000000"])
    runs = [Run(tmp_path / "out" / model) for model in ("vae", "gan")]
    for run in runs:
        wait_for(run.metrics_file, process)
    time.sleep(0.5)  # the first steps
    process.send_signal(number)
    process.communicate(timeout=300)
    for run in runs:
        for _ in range(3000):
            with contextlib.suppress(ValueError), locked(run.folder):
                break
            time.sleep(0.02)
        else:
            raise AssertionError(f"{run.folder} is still in use")
    if number == signal.SIGTERM:
        assert all(run.newest_step() > 0 for run in runs)


@pytest.mark.full
def test_processes_make_the_same_numbers(tiny: None, stripes: str, tmp_path: Path) -> None:
    """As one process does, but for the times."""
    found = [compared(tmp_path / str(jobs), stripes, "vae", "gan", jobs=jobs)[0]["models"] for jobs in (1, 2)]
    for models in found:
        for model in models.values():
            model["evaluation"].pop("seconds")
            for name in ("training_seconds", "sample_seconds"):
                assert model.pop(name) > 0
    assert found[0] == found[1]


def test_a_model_that_fails(
    tiny: None, stripes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that diverges, and a model that does not take the images, are in the notes; the others are compared.  The
    exit status is that of a run that failed."""
    file = str(tmp_path / "odd.npz")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 4, (2, 48, 5, 5)).astype(np.uint8)
    np.savez(file, train_images=images[0], test_images=images[1], levels=4)
    monkeypatch.setattr(MODELS["gan"], "small", Recipe(STEPS, batch=8, lr=1e30, warmup=0, model=TINY["gan"]))
    monkeypatch.setattr(comparing, "SHOWN", 4)
    out = tmp_path / "out"
    words = ["compare", "gan", "super-resolution", "vae", "--data", file, "--out", str(out), "--jobs", "1"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"nanogen: error: no numbers of gan: see {out / 'compare.md'}"
    found = read(out / "compare.json")
    states = {name: model["state"] for name, model in found["models"].items()}
    assert states == {"vae": "finished", "gan": "failed", "super-resolution": "refused"}
    assert found["models"]["gan"]["reason"].startswith("numbers went wrong at step")
    assert "gan is not in the tables: numbers went wrong" in (out / "compare.md").read_text()
    assert "random weights" in found["models"]["vae"]["evaluation"]["features"], "these images have no labels"
    assert "odd" in (out / "compare.md").read_text()


@pytest.mark.full
def test_pictures_of_28_pixels(tiny: None, tmp_path: Path) -> None:
    """A folder of pictures is taken, by its options for `train`."""
    rng = np.random.default_rng(0)
    (tmp_path / "pets").mkdir()
    for i in range(60):
        Image.fromarray(rng.integers(0, 255, (30, 30, 3)).astype(np.uint8)).save(tmp_path / "pets" / f"{i}.png")
    out = tmp_path / "out"
    words = ["compare", "vae", "gan", "--data", str(tmp_path / "pets"), "--size", "28", "--color", "grey", "--quick"]
    assert main([*words, "--out", str(out), "--jobs", "1"]) == 0
    found = read(out / "compare.json")
    assert {name: model["state"] for name, model in found["models"].items()} == dict.fromkeys(
        ("vae", "gan"), "finished"
    )
    assert Run(out / "gan").settings().image_shape == (1, 28, 28)
    assert found["quick"] == comparing.QUICK
    assert Run(out / "vae").settings().steps == 1, "a fifth of four, at least one"
    assert cells(found, "vae")[f"{FRECHET} *"] == "–", "six test images are too few"


def test_runs_that_are_there(tiny: None, stripes: str, tmp_path: Path) -> None:
    """A finished run with other settings than the recipe's is used as it is, and the notes say so; one that was not
    finished goes on with its own."""
    settings = [f"{k}={v}" for k, v in TINY["vae"].items()]
    train = ["train", "vae", "--data", stripes, "--steps", "6", "--out", str(tmp_path / "vae"), "--set", *settings]
    assert main([*train, "latent=3"]) == 0
    before = (tmp_path / "vae" / "checkpoints" / "step-00000006.safetensors").read_bytes()
    (tmp_path / "vae" / "seconds.csv").unlink()  # as of an earlier version
    found, _ = compared(tmp_path, stripes, "vae")
    model = found["models"]["vae"]
    assert {"steps 6, not 4", "latent 3, not 2"} <= set(model["differs"])
    assert (model["training_seconds"], cells(found, "vae")["seconds of training"]) == (None, "not recorded")
    assert cells(found, "vae")["model"] == "vae †"
    assert Run(tmp_path / "vae").checkpoint_files()[0].read_bytes() == before
    assert main(["train", "--resume", "--out", str(tmp_path / "vae"), "--steps", "8"]) == 0
    found, _ = compared(tmp_path, stripes, "vae")
    assert "steps 8, not 4" in found["models"]["vae"]["differs"], "the checkpoint is another one"


def test_what_is_refused(tiny: None, stripes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, before anything is written."""
    out = tmp_path / "out"
    here = ["--out", str(out), "--jobs", "1"]
    for arguments, word in [
        (["vea"], "did you mean 'vae'"), (["vae", "--jobs", "0"], "--jobs"), (["vae", "--data", "digist"], "'digits'"),
        (["vae", "--out", stripes], "is a file"), (["vae", "--sedd", "1"], "--sedd"), (["vae", "--size", "x"], "size"),
    ]:  # fmt: skip
        assert word in refused(["compare", *here, *arguments], capsys)
        assert not out.exists()
    (tmp_path / "pets").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / "pets" / f"{i}.png")
    inside = ["compare", "vae", "--data", str(tmp_path / "pets"), "--out", str(tmp_path / "pets" / "out")]
    assert "among the data" in refused(inside, capsys)
    gan = ["train", "gan", "--steps", "1", "--data", stripes, "--out", str(out / "vae"), "--set", "channels=2"]
    assert main(gan) == 0
    assert "holds a run of gan, not of vae" in refused(["compare", "vae", "--data", stripes, *here], capsys)
    assert sorted(path.name for path in out.iterdir()) == ["vae"]


def test_comparisons_of_other_images(
    tiny: None, stripes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a comparison, or a run, of other images is left as it is; so is a quick one by a whole one."""
    compared(tmp_path, stripes, "vae")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    here = ["--out", str(tmp_path), "--jobs", "1"]
    assert "other images" in refused(["compare", "vae", *here], capsys)
    assert "quick None, not 5" in refused(["compare", "vae", "--data", stripes, "--quick", *here], capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "compare.json").unlink()
    assert "holds a run on other images" in refused(["compare", "vae", *here], capsys)
    (tmp_path / "compare.json").write_text("{")
    assert "is not of a comparison" in refused(["compare", "vae", "--data", stripes, *here], capsys)


# The README


def whole() -> dict[str, Any]:
    """Chosen numbers of every model."""
    found = numbers()
    found["models"] = {model: row(comparing.family_of(model), 3.0, 0.9, 1) for model in MODELS}
    return found


def test_the_readmes_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is between the marks is replaced, and nothing else; once more, nothing changes."""
    text, found = tmp_path / "README.md", whole()
    (tmp_path / "compare.json").write_text(json.dumps(found))
    text.write_text(f"above\n\n{readme.BEGIN}\nold\n{readme.END}\n\nbelow | <b>\n")
    for _ in range(2):
        assert readme.main([str(tmp_path), str(text)]) == 0
        above, _, rest = text.read_text().partition(readme.BEGIN)
        between, _, below = rest.partition(readme.END)
        assert (above, below) == ("above\n\n", "\n\nbelow | <b>\n")
        assert between == f"\n\n{comparison.about(found)}\n\n{comparison.tables(found)}\n"
    assert all(f"\n| {model} |" in text.read_text() for model in MODELS)


def test_what_the_readme_does_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, exit status 2, and the README as it was: without the marks, or by numbers that are not all there."""
    text, file, found = tmp_path / "README.md", tmp_path / "compare.json", whole()
    marked = f"{readme.BEGIN}\nold\n{readme.END}\n"
    missing = {k: v for k, v in found["models"].items() if k != "vae"}
    for words, old, given in [
        ("two comments", "none", found), ("two comments", marked * 2, found), ("quick", marked, found | {"quick": 5}),
        ("two comments", f"{readme.END}\n{readme.BEGIN}\n", found),
        ("no numbers of vae", marked, found | {"models": missing}), ("is not of a comparison", marked, {}),
        ("no numbers of vae", marked, found | {"models": found["models"] | {"vae": numbers()["models"]["wae"]}}),
        ("no numbers of vae", marked, found | {"models": found["models"] | {"vae": found["models"]["vae"] | {
            "sample_seconds": None, "samples": None}}}),
    ]:  # fmt: skip
        text.write_text(old)
        file.write_text(json.dumps(given))
        assert readme.main([str(tmp_path), str(text)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert words in said
        assert text.read_text() == old
    file.unlink()
    assert readme.main([str(tmp_path), str(text)]) == 2
    assert readme.main([]) == 2


def test_our_readme_has_the_marks() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    assert os.linesep in text.partition(readme.BEGIN)[2].partition(readme.END)[0]
