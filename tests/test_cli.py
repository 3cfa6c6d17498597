"""The command line: what a user types, what is written, and what is said when it can't be done."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_data import idx
from test_evaluation import some_evaluation
from tiny_runs import KINDS

from nanogen import cli, data
from nanogen.cli import main
from nanogen.models import MODELS
from nanogen.models.base import progress
from nanogen.random import Generator
from nanogen.training import bars, pictures
from nanogen.training.checkpoint import load_checkpoint, save_checkpoint
from nanogen.training.config import TRAINING, explained
from nanogen.training.loop import Trainer
from nanogen.training.pictures import grid
from nanogen.training.run import PICTURES as PICTURES_STREAM
from nanogen.training.run import SAMPLES, Run, make_settings

TINY = {
    "pixelcnn": ["channels=4", "blocks=1", "kernel_size=3"],
    "gated-pixelcnn": ["channels=4", "blocks=1", "kernel_size=3"],
    "pixelrnn": ["hidden=4", "blocks=1", "kernel_size=3"],
    "vae": ["latent=2", "channels=2", "stages=1"],
    "hierarchical-vae": ["latent=2", "hidden=4", "channels=2", "stages=1", "free_bits=0"],
    "autoencoder": ["latent=2", "channels=2", "stages=1"],
    "wae": ["latent=2", "channels=2", "stages=1"],
    "aae": ["latent=2", "channels=2", "stages=1", "hidden=4", "discriminator_steps=2"],
    "gan": ["latent=2", "channels=2"],
    "sagan": ["latent=2", "channels=2"],
    "biggan": ["latent=3", "channels=2"],
    "infogan": ["noise=2", "channels=2"],
    "pix2pix": ["channels=2", "stages=1", "discriminator_stages=0"],
    "cyclegan": ["channels=2", "stages=1", "blocks=1", "discriminator_stages=0"],
    "spade": ["latent=2", "channels=2", "hidden=2", "discriminator_stages=0"],
    "stylegan": ["latent=2", "channels=2", "mapping=1"],
    "super-resolution": ["T=3", "channels=4", "multipliers=1", "heads=1"],
    "ddpm": ["T=3", "channels=4", "multipliers=1", "heads=1"],
    "binomial-diffusion": ["T=3", "channels=4", "multipliers=1", "heads=1"],
    "latent-ddpm": ["latent=2", "channels=2", "stages=1", "T=3", "hidden=4", "blocks=1"],
}
OTHER_LEVELS = {"binomial-diffusion": ["levels=2"]}
PICTURES = {
    "pixelcnn": ["completions"],
    "gated-pixelcnn": ["completions"],
    "pixelrnn": ["completions"],
    "vae": ["interpolation", "manifold", "prior_means", "reconstructions", "traversals"],
    "hierarchical-vae": [
        "from_each_level",
        "interpolation",
        "prior_means",
        "reconstructions",
        "shared_latents",
        "traversals",
    ],
    **{
        name: ["codes", "interpolation", "manifold", "prior_means", "reconstructions", "traversals"]
        for name in ("autoencoder", "wae", "aae")
    },
    **{name: ["arithmetic", "interpolation", "nearest"] for name in ("gan", "sagan", "biggan")},
    "infogan": ["arithmetic", "codes", "continuous", "interpolation", "nearest"],
    "pix2pix": ["translation"],
    "cyclegan": ["cycle"],
    "spade": ["translation"],
    "stylegan": ["mixing", "noise"],
    "super-resolution": ["superresolution"],
    "ddpm": ["denoising", "interpolation"],
    "binomial-diffusion": ["denoising"],
    "latent-ddpm": ["denoising", "reconstructions"],
}
CHECKPOINT = "checkpoints/step-00000012.safetensors"
RUN_FILES = {
    ".lock",
    "commands.log",
    "settings.json",
    "metrics.csv",
    "seconds.csv",
    "test.csv",
    CHECKPOINT,
    "samples.png",
    "loss.png",
    "index.html",
}
RUN_FILES |= {"samples/step-00000012.png"}


def train_command(model: str, out: Path, *more: str) -> list[str]:
    return ["train", model, "--steps", "12", "--batch", "16", "--threads", "1", "--out", str(out),
            "--set", *OTHER_LEVELS.get(model, []), *TINY[model], *more]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of each model, trained by the command line when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run_of(model: str) -> Path:
        out = folder / model
        if not out.exists():
            assert main(train_command(model, out)) == 0
        return out

    return run_of


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# What is written


@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_train_writes_a_run(model: str, runs: Callable[[str], Path]) -> None:
    """settings.json, metrics.csv, the checkpoint, and the pictures of the family, which open as images."""
    out = runs(model)
    assert contents(out).keys() == RUN_FILES | {f"{name}.png" for name in PICTURES[model]}
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["model"], settings["data"], settings["steps"], settings["seed"]) == (model, "digits", 12, 0)
    assert (
        settings["model_settings"].items()
        >= {k: [int(v)] if k == "multipliers" else int(v) for k, v in (text.split("=") for text in TINY[model])}.items()
    )
    rows = [line.split(",") for line in (out / "metrics.csv").read_text().splitlines()]
    losses = {"aae": ["discriminator", "autoencoder"], "cyclegan": ["generator", "discriminator"]}
    gans = ("gan", "sagan", "biggan", "infogan", "pix2pix", "spade", "stylegan")
    losses |= {name: ["discriminator", "generator"] for name in gans} | {"latent-ddpm": ["autoencoder", "diffusion"]}
    assert rows[0] == ["step", *losses.get(model, ["loss"])]
    assert [row[0] for row in rows[1:]] == ["10", "12"]
    assert all(np.isfinite(float(x)) for row in rows[1:] for x in row)
    run = Run(out)
    train, test = run.images("train"), run.images("test")
    drawn, rng = run.model(), Generator(0).stream(PICTURES_STREAM)
    expected = {"samples": grid(pictures.samples(drawn, 64, rng), drawn.levels, 8)}
    expected |= pictures.special_pictures(drawn, train, test, rng)
    assert expected.keys() == {"samples", *PICTURES[model]}
    for name, picture in expected.items():
        assert np.array_equal(np.asarray(Image.open(out / f"{name}.png")), np.asarray(picture)), name
    assert Image.open(out / "loss.png").size == (840, 480)


@pytest.mark.parametrize("model", KINDS)
def test_a_run_is_of_the_training_images(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trainer and the pictures are given the training and the test images of the data set, each in its place;
    the matrix products have as many threads as are set; every number is looked at if that is asked for.  What is said
    first is how large all of it is."""
    seen: dict[str, Any] = {}

    def begin(settings: Any, images: Any, test: Any) -> Trainer:
        seen.update(trained=images, tested=test, trainer=(trainer := Trainer(settings, images, test)))
        return trainer

    monkeypatch.setattr(cli, "Trainer", begin)
    monkeypatch.setattr(cli, "draw_pictures", lambda run, *images: seen.update(drawn=images) or [run.folder / "x.png"])
    monkeypatch.setattr(cli, "use_threads", lambda n: seen.update(threads=n) or contextlib.nullcontext())
    command = [*train_command(model, out := tmp_path / "run"), "--steps", "1", "--threads", "2"]
    more = ["--detect-anomaly"] if model == "vae" else []
    assert main([*command, *more]) == 0
    train, test = data.load("digits"), data.load("digits", "test")
    for found, expected in (
        (seen["trained"], train),
        (seen["tested"], test),
        *zip(seen["drawn"], (train, test), strict=True),
    ):
        assert np.array_equal(found.images, expected.images)
    assert seen["threads"] == 2
    assert seen["trainer"].inspected == (model == "vae")
    size = sum(p.data.size for p in seen["trainer"].model.parameters())
    assert capsys.readouterr().out.splitlines() == [
        f"{model} ({size:,} parameters) on digits (1,500 images), in {out}", f"wrote {out / 'x.png'}",
    ]  # fmt: skip


@pytest.mark.parametrize("n", [1, 7, 9, 64, 100, 150])
def test_a_grid_of_samples(n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As square as may be, but eight images in a row at least, where there are so many."""
    images = np.random.default_rng(0).integers(0, 17, (n, 1, 8, 8)).astype(np.uint8)
    monkeypatch.setattr(cli, "Run", lambda *_: Asked(images))
    assert main(["sample", "x", "-n", str(n), "--out", str(tmp_path / "x.png")]) == 0
    columns = {1: 1, 7: 7, 9: 8, 64: 8, 100: 10, 150: 12}[n]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), np.asarray(grid(images, 17, columns)))


class Asked:
    """A run whose model gives these images and notes what it is asked."""

    def __init__(self, images: np.ndarray):
        self.drawn, self.asked = images, []
        self.levels, self.image_shape, self.folder = 17, images.shape[1:], Path("x")

    def settings(self) -> Any:
        return make_settings("ddpm", data.load("digits"), threads=3)

    def model(self, device: str) -> Any:
        self.asked.append(device)
        return self

    def sample(self, n: int, rng: Generator, **how: Any) -> np.ndarray:
        self.asked.append((n, rng.state, how))
        return self.drawn[:n]


def test_no_step_is_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that was printed at the last step is not printed again at the end."""
    for last in (2, 3):
        bar = bars.Lines(total=3)
        bar.mininterval = 0
        bar.update(2)
        bar.n = last
        bar.close()
        assert capsys.readouterr().err.count(" of 3") == last - 1


class Often(bars.Lines):
    """A line for each step."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.mininterval = 0


@pytest.mark.parametrize(("model", "steps"), [("ddpm", 3), ("pixelcnn", 64)])
def test_sampling_shows_progress(
    model: str, steps: int, runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """On a terminal a bar, in files and pipes lines; neither if it is quick; and nothing of it stays afterwards."""
    command = ["sample", str(runs(model)), "-n", "1", "--out", str(tmp_path / "x.npz")]
    before = progress.filled
    assert main(command) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(bars, "DELAY", 1e-9)
    monkeypatch.setattr(bars, "Lines", Often)
    assert main(command) == 0
    lines = capsys.readouterr().err.replace("\r", "").splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"sampling step {i + 1} of {steps}" for i in range(steps)]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(bars, "Bar", functools.partial(bars.Bar, mininterval=0))
    assert main(command) == 0
    assert re.search(rf"sampling step: +\d+%.*/{steps} \[", capsys.readouterr().err)
    assert progress.filled is before


def test_a_bar_that_was_not_made() -> None:
    """A signal came while it was made: then Python still calls its destructor."""
    for kind in (bars.Bar, bars.Lines):
        kind.__new__(kind).__del__()


def test_a_bar_that_was_made_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal came in the middle of it: what the destructor reads is there."""
    monkeypatch.setattr(bars.tqdm, "_get_free_pos", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: failed.append(unraisable.exc_value))
    failed: list[Any] = []
    for kind in (bars.Bar, bars.Lines):
        with contextlib.suppress(ZeroDivisionError):
            kind(total=3, disable=False)
    gc.collect()
    assert failed == []


def test_no_progress_is_shown_when_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the pictures at the end of training; without --quiet it is."""
    monkeypatch.setattr(bars, "DELAY", 1e-9)
    monkeypatch.setattr(bars, "Lines", Often)
    for quiet in ([], ["--quiet"]):
        command = ["train", "ddpm", "--steps", "1", "--out", str(tmp_path / f"run{len(quiet)}"), *quiet]
        assert main([*command, "--set", "T=3", "channels=2", "multipliers=1", "heads=1"]) == 0
        assert ("sampling step 3 of 3" in capsys.readouterr().err) == (not quiet)


def test_what_is_asked_for_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sample` and `evaluate` hand on each of their options, and what they do by default."""
    run = Asked(np.zeros((9, 1, 8, 8), np.uint8))
    monkeypatch.setattr(cli, "Run", lambda *_: run)
    threads: list[int] = []
    monkeypatch.setattr(cli, "use_threads", lambda n: threads.append(n) or contextlib.nullcontext())
    command = ["sample", "x", "--out", str(tmp_path / "x.npz"), "-n", "5"]
    assert main(command) == 0
    assert main([*command, "--seed", "7", "--steps", "2", "--eta", "0.5"]) == 0
    stream = lambda seed: Generator(seed).stream(SAMPLES).state
    assert run.asked == ["cpu", (5, stream(0), {}), "cpu", (5, stream(7), {"steps": 2, "eta": 0.5})]

    told: list[Any] = []
    monkeypatch.setattr(cli, "evaluate", lambda *how, **more: told.append((*how, more)) or (some_evaluation(), {}))
    monkeypatch.setattr(cli, "write", lambda *how: told.append(how) or [])
    monkeypatch.setattr(cli, "write_page", lambda run: run.folder / "index.html")
    assert main(["evaluate", "x"]) == 0
    more = ["--samples", "44", "--images", "41", "--seed", "3", "--steps", "2", "--json", str(tmp_path / "x.json")]
    assert main(["evaluate", "x", *more]) == 0
    assert told[0] == (run, 500, None, 0, "cpu", False, {})
    assert told[2] == (run, 44, 41, 3, "cpu", False, {"steps": 2})
    assert [how[2:] for how in told[1::2]] == [
        (17, run, Path("x/evaluation.json")), (17, run, tmp_path / "x.json"),
    ]  # fmt: skip
    assert threads == [3, 3, 3, 3]


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.usefixtures("no_pictures")
def test_same_seed_same_bits(
    model: str, runs: Callable[[str], Path], tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again writes the same metrics, the same checkpoint and, sampled, the same images, to the bit;
    another seed another checkpoint."""
    first, again, other = runs(model), tmp_path / "again", tmp_path / "other"
    assert main(train_command(model, again)) == 0
    assert main(train_command(model, other, "--seed", "1")) == 0
    a, b, c = (contents(run) for run in (first, again, other))
    for name in ("metrics.csv", CHECKPOINT, "settings.json"):
        assert a[name] == b[name] != c[name], name
    drawn = []
    for run, file in ((first, "a.npz"), (again, "b.npz")):
        assert main(["sample", str(run), "-n", "5", "--out", str(tmp_path / file), "--seed", "3"]) == 0
        drawn.append(np.load(tmp_path / file)["images"])
    assert np.array_equal(*drawn)


def test_runs_have_folders_of_their_own(tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out: runs/MODEL-DATA, then -2: no run overwrites another."""
    monkeypatch.chdir(tmp_path)
    command = train_command("vae", tmp_path)
    where = command.index("--out")
    command[where : where + 2] = []
    for _ in range(2):
        assert main(command) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["vae-digits", "vae-digits-2"]


@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_sample(model: str, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """.npz holds the levels as `images`, uint8 (n, C, H, W); .png is a grid of them."""
    for file in ("out.npz", "out.png"):
        assert main(["sample", str(runs(model)), "-n", "3", "--out", str(tmp_path / file)]) == 0
        assert f"wrote {tmp_path / file}" in capsys.readouterr().out
    images = np.load(tmp_path / "out.npz")["images"]
    assert images.shape == (3, 1, 8, 8)
    assert images.dtype == np.uint8
    most = (2 if model in OTHER_LEVELS else 17) - 1
    assert images.max() <= most
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    starts = [round(i * (picture.shape[1] - 56) / 2) for i in range(3)]  # each pixel is a square of 7×7
    assert picture.shape[0] == 56
    shown = np.stack([picture[3::7, x + 3 : x + 56 : 7] for x in starts])
    assert np.array_equal(shown, (images[:, 0] * (255 / most)).round()), "the same images as in the .npz"


def test_sample_by_ddim(runs: Callable[[str], Path], tmp_path: Path) -> None:
    """--steps and --eta are DDIM's: other images than by ancestral sampling, the same again by the same seed."""
    drawn = []
    for more in (
        [],
        ["--steps", "2"],
        ["--steps", "2"],
        ["--steps", "2", "--eta", "1"],
        ["--steps", "2", "--seed", "5"],
    ):
        assert main(["sample", str(runs("ddpm")), "-n", "4", "--out", str(tmp_path / "x.npz"), *more]) == 0
        drawn.append(np.load(tmp_path / "x.npz")["images"])
    assert np.array_equal(drawn[1], drawn[2])
    for a, b in itertools.combinations([drawn[0], *drawn[2:]], 2):
        assert not np.array_equal(a, b)


@pytest.mark.by_default(model=["vae", "gan"])
@pytest.mark.parametrize(("model", "kind"), [
    ("pixelcnn", "exact"), ("vae", "upper bound"), ("ddpm", "upper bound"), ("gan", None),
])  # fmt: skip
def test_evaluate(
    model: str, kind: str | None, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of the test split's bits per dimension, exact or a bound, and of all else, and the same as JSON; a hardly
    trained model is not far from log₂ 17 bits.  Again it says the same, but for the seconds."""
    numbers = []
    for name in ("a.json", "b.json"):
        assert main(["evaluate", str(runs(model)), "--samples", "48", "--json", str(tmp_path / name)]) == 0
        numbers.append(json.loads((tmp_path / name).read_text()))
    said = capsys.readouterr().out
    assert f"{model} on digits: 297 test images, 48 samples" in said
    assert f"wrote {runs(model) / 'evaluation-closest.png'}" in said
    for found in numbers:
        assert found.pop("seconds") > 0
    assert numbers[0] == numbers[1]
    if kind is None:
        assert numbers[0]["likelihood"] is None
        assert "no density" in said
    else:
        found = numbers[0]["likelihood"]
        assert found["kind"] == kind
        assert f"bits/dim ({kind})" in said
        assert 1 < found["low"] < found["bits_per_dim"] < found["high"] < 12


def test_evaluate_by_each_estimator(runs: Callable[[str], Path], tmp_path: Path, capsys: Any) -> None:
    """A row an estimator, in the table and in the JSON; bound and samples are those of the respaced schedule."""
    numbers = tmp_path / "numbers.json"
    command = ["evaluate", str(runs("ddpm")), "--samples", "40", "--images", "50", "--json", str(numbers)]
    assert main([*command, "--estimators", "--set", "respaced=2"]) == 0
    found, said = json.loads(numbers.read_text()), capsys.readouterr().out
    assert {name: bound["network_evaluations"] for name, bound in found["estimators"].items()} == {
        "terms": 2, "trajectory": 2, "two-sample": 1, "one-sample": 1
    }  # fmt: skip
    terms = found["estimators"]["terms"]
    assert found["network_evaluations"] == 2
    assert terms["bits_per_dim"] == pytest.approx(found["likelihood"]["bits_per_dim"], abs=10 * terms["std"] / 50**0.5)
    bits = found["estimators"]["trajectory"]["bits_per_dim"]
    assert f"by trajectory {bits:.4f} ± " in " ".join(said.split())
    assert "2 network evaluations\n" in said
    assert "1 network evaluation\n" in said
    assert main(command) == 0
    full = json.loads(numbers.read_text())
    assert full["estimators"] is None
    assert full["likelihood"]["bits_per_dim"] != found["likelihood"]["bits_per_dim"]


def test_a_smaller_evaluation_replaces_no_larger_one(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is printed only, unless --json names the file, or the weights are newer."""
    run = shutil.copytree(runs("vae"), tmp_path / "run")
    numbers, of = (
        run / "evaluation.json",
        lambda: {k: json.loads(numbers.read_text())[k] for k in ("samples", "test_images")},
    )
    evaluate = ["evaluate", str(run)]
    assert main([*evaluate, "--samples", "45", "--images", "50"]) == 0
    before = contents(run)
    for smaller in (["--samples", "44", "--images", "50"], ["--samples", "46", "--images", "49"]):
        capsys.readouterr()
        assert main([*evaluate, *smaller]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"vae on digits: {smaller[3]} test images, {smaller[1]} samples")
        assert said.endswith(f"not written, as {numbers} is of 50 test images and 45 samples: --json FILE writes it\n")
        assert contents(run) == before
    assert main([*evaluate, "--samples", "44", "--images", "50", "--json", str(numbers)]) == 0
    assert of() == {"samples": 44, "test_images": 50}
    assert main([*evaluate, "--samples", "44", "--images", "51"]) == 0
    assert of() == {"samples": 44, "test_images": 51}
    os.utime(numbers, (0, 0))
    assert main([*evaluate, "--samples", "44", "--images", "50"]) == 0
    assert of() == {"samples": 44, "test_images": 50}
    numbers.write_text("{}")
    assert main([*evaluate, "--samples", "43", "--images", "50"]) == 0
    assert of() == {"samples": 43, "test_images": 50}


def test_evaluate_by_ddim(runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--steps and --eta as for sampling; the numbers go into the run's folder, unless a file is named, and onto its
    page."""
    assert main(["evaluate", str(runs("ddpm")), "--samples", "40", "--images", "50", "--steps", "2"]) == 0
    found = json.loads((runs("ddpm") / "evaluation.json").read_text())
    assert (found["network_evaluations"], found["sampling"], found["test_images"]) == (2, {"steps": 2}, 50)
    assert "<p>ddpm on digits: 50 test images, 40 samples</p>" in (runs("ddpm") / "index.html").read_text()
    assert f"wrote {runs('ddpm') / 'index.html'}\n" in capsys.readouterr().out
    assert "ddpm" in refused(["evaluate", str(runs("vae")), "--steps", "2"], capsys)
    assert "give steps too" in refused(["evaluate", str(runs("ddpm")), "--eta", "1"], capsys)
    assert "40 samples" in refused(["evaluate", str(runs("vae")), "--samples", "3"], capsys)
    assert "several estimators" in refused(["evaluate", str(runs("vae")), "--estimators"], capsys)
    assert "298" in refused(["evaluate", str(runs("vae")), "--images", "298"], capsys)


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.usefixtures("no_pictures")
def test_train_on_pictures(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of a few pictures of several sizes, brought to one: trained on, evaluated, sampled from; the settings
    keep what was done to them, so that --resume and evaluate find the same images, from wherever they are called."""
    rng = np.random.default_rng(0)
    (folder := tmp_path / "pets").mkdir()
    for i in range(24):
        picture = rng.integers(0, 256, (9 + i % 3, 7, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    command = train_command(model, out := tmp_path / "run", "--data", str(folder))
    command = [text.replace("channels=4", "channels=6") for text in command]  # two a colour
    assert "give a size" in refused(command, capsys)
    assert main([*command, "--size", "5x6"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["data"], settings["size"], settings["image_shape"]) == (str(folder), [5, 6], [3, 5, 6])
    assert main(["evaluate", str(out), "--samples", "40"]) == 0
    assert main(["sample", str(out), "-n", "2", "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["images"].shape == (2, 3, 5, 6)
    assert main([*command, "--size", "5x6", "--resume"]) == 0
    assert "size" in refused([*command, "--size", "6", "--resume"], capsys)
    for path in folder.iterdir():
        path.unlink()
    assert "pets holds no pictures" in refused(["evaluate", str(out)], capsys)


def test_a_run_within_its_own_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before any work, with --out or without: the pictures of the run would change its data."""
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(f"{i}.png")
    for out in ([], ["--out", str(tmp_path / "run")], ["--out", "."]):
        assert "would be among the data" in refused(["train", "vae", "--data", ".", *out], capsys)
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_a_report_goes_to_a_folder_that_exists(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noticed before the evaluation, which may take minutes."""
    command = ["evaluate", str(runs("vae")), "--json", str(tmp_path / "none" / "x.json")]
    assert "must be in a folder that exists" in refused(command, capsys)


def test_train_on_arrays(tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    """An .npz by a relative path, that is not found again when its images have changed shape."""
    np.savez(tmp_path / "x.npz", images=np.arange(40 * 12).reshape(40, 3, 4).astype(np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(train_command("vae", tmp_path / "run", "--data", "x.npz")) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--samples", "40"]) == 0
    np.savez(tmp_path / "x.npz", images=np.arange(40 * 12).reshape(40, 4, 3).astype(np.uint8))
    assert "(1, 4, 3)" in refused(["evaluate", str(tmp_path / "run")], capsys)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """All models with their settings, all data sets."""
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for word in [*MODELS, "digits", "mnist", "fashion-mnist", "cifar10", "latent=", "T=", "variance=", "blocks="]:
        assert word in shown


# What can't be done


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is said; the exit status is 2."""
    capsys.readouterr()
    try:
        status: Any = main(arguments)
    except SystemExit as exit:
        status = exit.code
    said = capsys.readouterr()
    assert status == 2
    assert said.err.startswith("nanogen: error: ")
    assert said.err.count("\n") == 1
    assert said.err.endswith("\n")
    assert "Traceback" not in said.err
    return said.err


@pytest.mark.parametrize(("arguments", "word"), [
    (["train", "vea"], "did you mean 'vae'"), (["train", "vae", "--set", "latnet=2"], "did you mean 'latent'"),
    (["train", "vae", "--set", "latent"], "name=value"), (["train", "vae", "--set", "latent=two"], "latent"),
    (["train", "vae", "--set", "latent=0"], "latent"), (["train", "ddpm", "--set", "T=1"], "T must"),
    (["train", "ddpm", "--set", "schedule=square"], "schedule"), (["train", "vae", "--data", "cifar"], "cifar"),
    (["train", "vae", "--data", "mnist"], "--data-dir"),
    (["train", "vae", "--data", "mnist", "--data-dir", "nowhere"], "nowhere"),
    (["train", "vae", "--size", "3"], "divided by a whole number"), (["train", "vae", "--size", "8x"], "size"),
    (["train", "vae", "--color", "red"], "color"), (["train", "vae", "--data", "nowhere.npz"], "nowhere.npz"),
    (["train", "vae", "--data", "digits.jpg"], "folder of pictures"),
    (["train", "vae", "--steps", "0"], "steps"), (["train", "vae", "--steps", "many"], "steps"),
    (["train", "vae", "--batch", "0"], "batch"), (["train", "vae", "--batch", "1501"], "1500"),
    (["train", "vae", "--lr", "-1"], "lr"), (["train", "vae", "--lr", "nan"], "lr"),
    (["train", "vae", "--seed", "-1"], "seed"), (["train", "vae", "--threads", "-1"], "threads"),
    (["train", "vae", "--precision", "half"], "precision"),
    (["train", "vae", "--device", "cpu", "--precision", "tf32"], "needs device cuda"),
    (["train", "vae", "--execution", "lazy"], "execution"),
    (["train", "vae", "--device", "cpu", "--execution", "graph"], "needs device cuda"),
    (["train", "vae", "--device", "tpu"], "device"), (["train", "vae", "--resume"], "no run"),
    (["train"], "model"), ([], "COMMAND"), (["fly"], "fly"),
    (["train", "vae", "--latent", "1"], "did you mean '--set latent=…'"),
    (["train", "vae", "--free-bits=1"], "did you mean '--set free_bits=…'"),
    (["train", "vae", "--sedd", "1"], "did you mean '--seed'"), (["train", "vae", "--st", "1"], "--st"),
    (["train", "vae", "--set", "log_evry=5"], "did you mean 'log_every'"), (["train", "vae", "--betas", "1"], "betas"),
    (["train", "vae", "--config", "nowhere.toml"], "nowhere.toml"),
])  # fmt: skip
def test_bad_training(arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names what is wrong, exit status 2, and nothing written."""
    out = tmp_path / "run"
    if arguments[:1] == ["train"] and len(arguments) > 1:
        arguments = [*arguments, "--out", str(out)]
    assert word in refused(arguments, capsys)
    assert not list(tmp_path.iterdir())


BAD_CONFIGS = {
    "not TOML": ("steps 3", "line 1"), "not text": (b"\xff\xfe", "x.toml"), "a table": ("[steps]\nx = 1", "steps"),
    "an unknown name": ("latnet = 3", "did you mean 'latent'"), "another type": ("steps = 'many'", "steps"),
    "a list for data": ("data = ['digits']", "data"), "a number for the model": ("model = 3", "model"),
    "a date": ("lr = 2020-01-01", "lr"), "twice": ("lr = 1\nlr = 2", "x.toml"),
    "deep": ("lr = " + "[" * 9000, "x.toml"), "out of range": ("lr = -1.0", "lr"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_bad_files_of_settings(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names what is wrong, exit status 2, and nothing written."""
    text, word = BAD_CONFIGS[kind]
    file = tmp_path / "x.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    model = [] if kind == "a number for the model" else ["vae"]
    assert word in refused(["train", *model, "--config", str(file), "--out", str(tmp_path / "run")], capsys)
    assert list(tmp_path.iterdir()) == [file]


def test_settings_from_a_file(tmp_path: Path, no_pictures: None) -> None:
    """TOML gives the model and any setting; --set wins over it, and an option over both.  The settings.json of the run
    makes the same run once more, to the bit, and commands.log says what was asked for."""
    file = tmp_path / "x.toml"
    file.write_text(
        'model = "ddpm"\nsteps = 4\nbatch = 16\nbetas = [0.8, 0.9]\nlr = 1\nema = 0.5\nT = 3\nmultipliers = [1]\n'
        "channels = 4\nheads = 1\nlog_every = 2\n"
    )
    out, again = tmp_path / "out", tmp_path / "again"
    command = ["train", "--config", str(file), "--set", "ema=0.6", "lr=0.5", "--lr", "0.25", "--out", str(out)]
    assert main(command) == 0
    settings = json.loads((out / "settings.json").read_text())
    expected = {"model": "ddpm", "steps": 4, "betas": [0.8, 0.9], "lr": 0.25, "ema": 0.6, "log_every": 2}
    assert settings.items() >= expected.items()
    assert settings["model_settings"].items() >= {"T": 3, "multipliers": [1], "channels": 4, "heads": 1}.items()
    assert (out / "commands.log").read_text().endswith(f": {shlex.join(['nanogen', *command])}\n")
    assert main(["train", "--config", str(out / "settings.json"), "--out", str(again)]) == 0
    a, b = contents(out), contents(again)
    assert all(a[name] == b[name] for name in a if name not in ("commands.log", "seconds.csv"))
    assert main(["train", "--out", str(out), "--resume"]) == 0


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """`train --help` has an option for every setting of training, and every model's own settings."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    for name in TRAINING:
        assert f"--{name.replace('_', '-')} " in shown
    for model in MODELS:
        for setting, _ in explained(model):
            assert setting in shown


def test_help_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    """`train MODEL --help` has the values that training takes, of this model alone."""
    for command in (["train", "ddpm", "--help"], ["train", "--help", "ddpm"]):
        with pytest.raises(SystemExit):
            main(command)
        shown = " ".join(capsys.readouterr().out.split())
        assert "training steps (default: 600; images beyond 16 pixels: 3000)" in shown
        assert "T=200 the number of diffusion steps, at least 2. (images beyond 16 pixels: 1000)" in shown
        assert "objective=" not in shown
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "training steps (default: differs by model: nanogen train MODEL --help)" in shown
    assert "objective=hinge" in shown


def test_a_run_whose_data_moved(tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the files of a data set lie may change: --resume takes another --data-dir, and ends as if nothing had."""
    place, out, whole = tmp_path / "here", tmp_path / "run", tmp_path / "whole"
    place.mkdir()
    for part, count in (("train", 20), ("t10k", 4)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28)).astype(np.uint8)
        (place / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (place / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(count, np.uint8)))
    command = ["train", "vae", "--data", "mnist", "--data-dir", str(place), "--steps", "4", "--batch", "4"]
    command += ["--checkpoint-every", "2", "--threads", "1", "--set", "latent=2", "channels=2"]
    for folder in (whole, out):
        assert main([*command, "--out", str(folder)]) == 0
    (out / "checkpoints" / "step-00000004.safetensors").unlink()
    place.rename(tmp_path / "there")
    assert "here" in refused(["train", "--out", str(out), "--resume"], capsys)
    assert main(["train", "--out", str(out), "--resume", "--data-dir", str(tmp_path / "there")]) == 0
    ours, theirs = (load_checkpoint(f / "checkpoints" / "step-00000004.safetensors").arrays for f in (out, whole))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert contents(out)["metrics.csv"] == contents(whole)["metrics.csv"]


def test_a_run_whose_pictures_moved(tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a folder of pictures lies may change: --resume takes another --data, but no named set, ends with the bytes
    of a run that was never stopped, and from then on the run knows the new place."""
    (here := tmp_path / "here").mkdir()
    for i in range(30):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8)).astype(np.uint8)).save(here / f"{i}.png")
    whole, out, there = tmp_path / "whole", tmp_path / "run", tmp_path / "there"
    for folder in (whole, out):
        assert main(train_command("vae", folder, "--data", str(here), "--checkpoint-every", "4")) == 0
    (out / "checkpoints" / "step-00000012.safetensors").unlink()
    here.rename(there)
    resume = ["train", "--out", str(out), "--resume"]
    assert "here" in refused(resume, capsys)
    assert "data" in refused([*resume, "--data", "digits"], capsys)
    assert main([*resume, "--data", str(there)]) == 0
    ours, theirs = (load_checkpoint(f / "checkpoints" / "step-00000012.safetensors").arrays for f in (out, whole))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert main(["sample", str(out), "-n", "2", "--out", str(tmp_path / "x.npz")]) == 0
    assert main(resume) == 0
    assert json.loads((out / "settings.json").read_text())["data"] == str(there)


def test_a_run_whose_images_changed(tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Other images, in either split, another order or other labels: --resume and evaluate refuse them, and no byte of
    the run changes.  The same ones under another name are taken."""
    file, out = tmp_path / "x.npz", tmp_path / "run"
    draws = np.random.default_rng(0).integers(0, 256, (64, 4, 5)).astype(np.uint8)
    images, test, labels, pixel = draws[:40], draws[40:], np.arange(40) % 3, draws[:40].copy()
    pixel[39, 3, 4] ^= 1
    arrays = {"images": images, "labels": labels, "test_images": test}
    changes: dict[str, dict[str, np.ndarray]] = {
        "pictures added": {**arrays, "images": draws[:50], "labels": np.arange(50) % 3},
        "wholly other pictures": {**arrays, "images": images[:, ::-1]},
        "one pixel": {**arrays, "images": pixel},
        "another order": {**arrays, "images": images[::-1], "labels": labels[::-1]},
        "other labels": {**arrays, "labels": labels + 1},
        "no labels": {"images": images, "test_images": test},
        "other test images": {**arrays, "test_images": test[::-1]},
        "labels of the test images": {**arrays, "test_labels": np.zeros(24, int)},
        "a split by contents": {"images": images, "labels": labels},
        "splits exchanged": {"images": test, "test_images": images},
    }
    np.savez(file, **arrays)
    np.savez(tmp_path / "same.npz", **dict(reversed(arrays.items())), levels=256)
    assert main(train_command("vae", out, "--data", str(file))) == 0
    before = contents(out)
    for change, changed in changes.items():
        np.savez(file, **changed)
        for command in (["train", "--out", str(out), "--resume"], ["evaluate", str(out), "--samples", "40"]):
            assert "x.npz has other images" in refused(command, capsys), change
    assert contents(out) == before
    assert main(["train", "--out", str(out), "--resume", "--data", str(tmp_path / "same.npz")]) == 0


def test_changed_images_are_taken_when_told(
    tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --data-changed evaluate takes other images for this once, and --resume goes on with them: the run knows them
    from then on, and its old ones no longer."""
    (folder := tmp_path / "set").mkdir()
    for i in range(30):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8)).astype(np.uint8)).save(folder / f"{i}.png")
    out = tmp_path / "run"
    assert main(train_command("vae", out, "--data", str(folder), "--checkpoint-every", "4")) == 0
    (out / CHECKPOINT).unlink()
    resume, evaluate = ["train", "--out", str(out), "--resume"], ["evaluate", str(out), "--samples", "40"]
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(folder / "more.png")
    assert "--data-changed" in refused(evaluate, capsys)
    assert main([*evaluate, "--data-changed"]) == 0
    assert "--data-changed" in refused(resume, capsys)
    assert not (out / CHECKPOINT).exists()
    assert main([*resume, "--data-changed"]) == 0
    assert (out / CHECKPOINT).exists()
    assert main(resume) == main(evaluate) == 0
    (folder / "more.png").unlink()
    assert "--data-changed" in refused(resume, capsys)


def test_a_run_of_an_earlier_version_knows_no_images(
    tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings and checkpoints without fingerprints are read, and take any images; --resume makes the run know them."""
    np.savez(tmp_path / "x.npz", images=np.arange(40 * 12).reshape(40, 3, 4).astype(np.uint8))
    out = tmp_path / "run"
    assert main(train_command("vae", out, "--data", str(tmp_path / "x.npz"))) == 0
    settings, checkpoint = json.loads((out / "settings.json").read_text()), load_checkpoint(out / CHECKPOINT)
    for found in (settings, checkpoint.settings):
        assert [len(mark) for mark in found.pop("fingerprints")] == [64, 64]
    (out / "settings.json").write_text(json.dumps(settings))
    save_checkpoint(out / CHECKPOINT, checkpoint)
    np.savez(tmp_path / "x.npz", images=np.arange(40 * 12).reshape(40, 3, 4).astype(np.uint8) ^ 1)
    assert main(["evaluate", str(out), "--samples", "40"]) == 0
    assert main(["train", "--out", str(out), "--resume"]) == 0
    np.savez(tmp_path / "x.npz", images=np.arange(40 * 12).reshape(40, 3, 4).astype(np.uint8))
    assert "--data-changed" in refused(["evaluate", str(out)], capsys)


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_logged(quiet: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is shown, as that kernels are being compiled, unless --quiet was given to this command."""
    monkeypatch.setattr(cli, "run_train", lambda parsed: cli.log.warning("nanogen: compiling"))
    for arguments in (["--quiet"], ["--quiet"] if quiet else []):
        caplog.clear()
        assert main(["train", "vae", *arguments]) == 0
    assert caplog.messages == ([] if quiet else ["nanogen: compiling"])


def test_what_reads_the_output_ends(runs: Callable[[str], Path], tmp_path: Path) -> None:
    """As `head` does: no word, the status that shells have for SIGPIPE, and what was to be written is there; whether
    Python fails in a `print` or at its end.  A full disk is an error."""
    sample = ["sample", str(runs("vae")), "-n", "1", "--out", str(tmp_path / "x.png")]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, open("/dev/full", "w") as full:
        for words, out, unbuffered, status in (
            (sample, closed, "", 141),
            (["list"], closed, "1", 141),
            (["list", "--help"], closed, "", 141),
            (["list", "--help"], full, "", 2),
        ):
            more = {"PYTHONUNBUFFERED": unbuffered, "NANOGEN_KERNELS": "0"}  # compiling them is said
            command = [sys.executable, "-m", "nanogen", *words]
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False, env=os.environ | more)
            assert done.returncode == status, words
            assert done.stderr.count(b"\n") == (status == 2), done.stderr
    assert (tmp_path / "x.png").exists()


def test_quiet_says_nothing(tmp_path: Path, no_pictures: None, capfd: pytest.CaptureFixture[str]) -> None:
    """--quiet: no word, neither on the one nor on the other stream."""
    assert main(train_command("vae", tmp_path / "run", "--quiet")) == 0
    assert capfd.readouterr() == ("", "")


def test_progress_in_a_file_is_lines(tmp_path: Path, no_pictures: None, capfd: pytest.CaptureFixture[str]) -> None:
    """Where no one looks on, progress is few whole lines, without what moves a cursor; the last says all is done."""
    assert main(train_command("vae", tmp_path / "run")) == 0
    said = capfd.readouterr().err
    assert not re.search(r"[^\n\x20-\x7e]", said)
    assert said.splitlines()[-1].startswith("step 12 of 12, ")
    assert len(said.splitlines()) <= 2


def test_resume_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """--resume without --out says so."""
    assert "--out" in refused(["train", "vae", "--resume"], capsys)


def test_an_existing_run_is_not_overwritten(runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Training into a run's folder, or going on with it as another model: refused, and no byte changed.  A file in the
    place of the folder is refused too."""
    out = runs("vae")
    before = contents(out)
    assert "--resume" in refused(train_command("vae", out), capsys)
    assert "run of vae" in refused(["train", "gan", "--out", str(out), "--resume"], capsys)
    assert "metrics.csv" in refused(train_command("vae", out / "metrics.csv"), capsys)
    assert contents(out) == before


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no checkpoint": lambda run: (run / CHECKPOINT).unlink(),
    "truncated checkpoint": lambda run: truncate(run / CHECKPOINT, -100),
    "empty checkpoint": lambda run: truncate(run / CHECKPOINT, 0),
    "foreign checkpoint": lambda run: save_file({"w": np.ones(3)}, run / CHECKPOINT),
    "a picture for a checkpoint": lambda run: Image.new("L", (8, 8)).save(run / CHECKPOINT, "PNG"),
    "checkpoint of other weights": lambda run: drop(run / CHECKPOINT, "model.encoder.last.bias"),
    "checkpoint without averages": lambda run: drop(run / CHECKPOINT, "average.encoder.last.bias"),
    "no settings": lambda run: (run / "settings.json").unlink(),
    "truncated settings": lambda run: truncate(run / "settings.json", 40),
    "settings of another model": lambda run: replace(run / "settings.json", '"vae"', '"rnn"'),
    "settings of another size": lambda run: replace(run / "settings.json", '"latent": 2', '"latent": 3'),
    "settings of other data": lambda run: replace(run / "settings.json", '"digits"', '"cifar"'),
}


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def drop(path: Path, name: str) -> None:
    checkpoint = load_checkpoint(path)
    del checkpoint.arrays[name]
    save_checkpoint(path, checkpoint)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_is_refused(
    kind: str, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sampling from, evaluating and going on with a run whose files are broken or not ours: one line, exit status 2,
    and nothing written."""
    run = tmp_path / "run"
    shutil.copytree(runs("vae"), run)
    BROKEN[kind](run)
    before = contents(tmp_path)
    commands = [["sample", str(run), "--out", str(tmp_path / "x.npz")], ["evaluate", str(run)],
                ["train", "vae", "--out", str(run), "--resume"]]  # fmt: skip
    if kind == "settings of other data":
        commands.pop(0)  # sampling needs no data
    if kind == "no checkpoint":
        commands.pop()  # begins anew
    for command in commands:
        refused(command, capsys)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("more", "word"), [
    (["--out", "x.jpg"], ".png or .npz"), (["--out", "x.png", "-n", "0"], "-n"), ([], "--out"),
    (["--out", "nowhere/x.png"], "nowhere"), (["--out", "x.npz", "--steps", "2"], "ddpm"),
    (["--out", "x.npz", "--seed", "-1"], "seed"),
])  # fmt: skip
def test_bad_sampling(
    more: list[str], word: str, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A file of another kind, no images, a folder that is not there, DDIM for what is no DDPM: refused by name."""
    run = runs("vae")
    monkeypatch.chdir(tmp_path)
    assert word in refused(["sample", str(run), *more], capsys)
    assert word in refused(["sample", str(run), *more], capsys)
    assert not list(tmp_path.iterdir())


def test_settings_of_sampling(runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--set gives the settings of the model's `sample` by name, in their types; an option is such a setting too.  What
    `sample` does not have, or has for other purposes, is refused."""

    def drawn(model: str, *more: str) -> np.ndarray:
        out = str(tmp_path / "x.npz")
        assert main(["sample", str(runs(model)), "-n", "5", "--seed", "3", "--out", out, *more]) == 0
        return np.load(out)["images"]

    model = Run(runs("infogan")).model()
    for text, how in (("truncation=0.5", {"truncation": 0.5}), ("code=3", {"code": 3})):
        assert np.array_equal(drawn("infogan", "--set", text), model.sample(5, Generator(3).stream(SAMPLES), **how))
    both = model.sample(5, Generator(3).stream(SAMPLES), truncation=0.5, code=3)
    assert np.array_equal(drawn("infogan", "--set", "truncation=0.5", "code=3"), both)
    assert np.array_equal(drawn("ddpm", "--set", "steps=2"), drawn("ddpm", "--steps", "2"))
    assert main(["evaluate", str(runs("gan")), "--samples", "40", "--images", "50", "--set", "truncation=0"]) == 0
    assert json.loads((runs("gan") / "evaluation.json").read_text())["sampling"] == {"truncation": 0.0}
    capsys.readouterr()
    sample = ["sample", str(runs("gan")), "--out", str(tmp_path / "y.png"), "--set"]
    for text, word in (
        ("trunc=1", "did you mean 'truncation'"), ("code=1", "infogan"), ("labels=1", "no model"),
        ("rng=1", "no model"), ("truncation=x", "truncation must be a number"),
        ("truncation", "name=value"), ("truncation=-1", "truncation"),
    ):  # fmt: skip
        assert word in refused([*sample, text], capsys)
    assert not (tmp_path / "y.png").exists()


@pytest.mark.parametrize(("more", "word"), [
    (["--steps", "4"], "1 … 3"), (["--steps", "0"], "1 … 3"), (["--eta", "0.5"], "give steps too"),
    (["--steps", "2", "--eta", "2"], "eta"),
])  # fmt: skip
def test_bad_ddim(
    more: list[str], word: str, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More steps than T, none, noise without DDIM, too much of it: refused by name."""
    assert word in refused(["sample", str(runs("ddpm")), "--out", str(tmp_path / "x.png"), *more], capsys)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there, or is empty: refused with its name."""
    for folder in (tmp_path / "nowhere", tmp_path):
        assert folder.name in refused(["sample", str(folder), "--out", str(tmp_path / "x.png")], capsys)
        assert folder.name in refused(["evaluate", str(folder)], capsys)
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges(tmp_path: Path, no_pictures: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that is not finite: one line with the step and exit status 1, as the input was fine."""
    with np.errstate(all="ignore"):
        assert main(train_command("ddpm", tmp_path / "run", "--lr", "1e30")) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nanogen: error: ")]
    assert len(error) == 1
    assert "step" in error[0]


def test_resume_keeps_the_settings(runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The same command with --resume goes on; one that says otherwise is refused, and names what."""
    out = runs("vae")
    before = contents(out)
    for flag, value, name in (("--seed", "5", "seed"), ("--lr", "0.5", "lr"), ("--test-every", "5", "test_every")):
        assert name in refused(["train", "vae", "--out", str(out), "--resume", flag, value], capsys)
    assert "latent" in refused(["train", "vae", "--out", str(out), "--resume", "--set", "latent=31"], capsys)
    assert contents(out) == before
    assert main([*train_command("vae", out), "--resume"]) == 0
