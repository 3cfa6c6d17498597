"""What is done with a run by the command line: more steps, other weights at the start, test losses, old checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image
from test_cli import contents, refused, train_command
from tiny_runs import KINDS, assert_same, settings_of, some_images

from nanogen import data
from nanogen.autograd import no_grad
from nanogen.backend import use_threads
from nanogen.cli import main
from nanogen.models import MODELS, VAE
from nanogen.random import Generator
from nanogen.training import loop
from nanogen.training import run as runs
from nanogen.training.checkpoint import load_checkpoint
from nanogen.training.loop import Trainer, learning_rate
from nanogen.training.run import TEST, Run, build_model, make_settings

EVERY = ["--checkpoint-every", "4", "--test-every", "3", "--log-every", "5"]
TIMELESS = {".lock", "commands.log", "index.html", "seconds.csv"}


def train(model: str, out: Path, *more: str) -> None:
    assert main(train_command(model, out, *EVERY, *more)) == 0


def resume(out: Path, *more: str) -> list[str]:
    return ["train", "--out", str(out), "--resume", *more]


def back_to(out: Path, step: int, copy: Path) -> Path:
    """A copy of a run that was killed after the checkpoint of a step, and after later rows of its files."""
    shutil.copytree(out, copy)
    for path in Run(copy).checkpoint_files():
        if int(path.stem[5:]) > step:
            path.unlink()
    return copy


def assert_same_run(a: Path, b: Path) -> None:
    """But for the commands, and the pages that show these."""
    first, second = ({k: v for k, v in contents(run).items() if k not in TIMELESS} for run in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


# More steps


@pytest.mark.parametrize("model", ["vae", "gan"])
@pytest.mark.usefixtures("no_pictures")
def test_more_steps(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished run of 12 steps goes on to 20, along the cosine of 20, which is said: its weights are those of steps
    taken by hand.  Interrupted before or after the first checkpoint beyond 12, it ends with the same bits."""
    out = tmp_path / "run"
    train(model, out, "--keep", "9")
    begun, settings = load_checkpoint(Run(out).checkpoint_file(12)), Run(out).settings()
    capsys.readouterr()
    assert main(resume(out, "--steps", "20")) == 0
    rate = settings.lr * (1 + math.cos(math.pi * 12 / 20)) / 2
    assert f"learning rate: from step 12 along the cosine of 20 steps, {rate:.1e} now" in capsys.readouterr().out
    assert json.loads((out / "settings.json").read_text())["steps"] == 20
    assert [row.split(",")[0] for row in (out / "metrics.csv").read_text().splitlines()[1:]] == [
        "5", "10", "12", "15", "20",
    ]  # fmt: skip
    by_hand = Trainer(dataclasses.replace(settings, steps=20), data.load("digits"))
    by_hand.restore(begun)
    with use_threads(settings.threads):
        while by_hand.step < 20:
            by_hand.advance()
    found = load_checkpoint(Run(out).checkpoint_file(20)).arrays
    assert_same({name: found[name] for name in by_hand.arrays()}, by_hand.arrays())
    for step in (12, 16):
        again = back_to(out, step, tmp_path / str(step))
        assert main(resume(again)) == 0
        assert_same_run(again, out)


def test_more_steps_of_an_unfinished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From its last checkpoint, to more or to fewer steps than were meant, but not to fewer than it has reached; all
    other settings stay, and what is refused changes no byte."""
    train("vae", tmp_path / "run")
    for steps in ("16", "9"):
        again = back_to(tmp_path / "run", 8, tmp_path / steps)
        assert main(resume(again, "--steps", steps)) == 0
        found = Run(again).checkpoint()
        assert found is not None
        assert found.step == int(steps)
    before = contents(tmp_path / "run")
    for steps, word in (("11", "reached"), ("0", "steps"), ("many", "steps")):
        assert word in refused(resume(tmp_path / "run", "--steps", steps), capsys)
    assert "lr" in refused(resume(tmp_path / "run", "--steps", "20", "--lr", "1"), capsys)
    assert contents(tmp_path / "run") == before
    unsaved = back_to(tmp_path / "run", 0, tmp_path / "unsaved")
    for steps in ("0", str(2**31)):
        assert "steps must be in 1" in refused(resume(unsaved, "--steps", steps), capsys)
    capsys.readouterr()
    assert main(resume(tmp_path / "run", "--steps", "12")) == 0
    assert "learning rate" not in capsys.readouterr().out


# Other weights to begin with


@pytest.mark.by_default(model=["pixelcnn", "vae", "gan"])
@pytest.mark.parametrize("model", KINDS)
@pytest.mark.usefixtures("no_pictures")
def test_a_run_begins_with_the_weights_of_another(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the averaged ones, for weights and averages, which is said: a learning rate of next to nothing leaves them.
    Killed before the first checkpoint beyond the start, the run goes on from the same weights, to the same bits."""
    first, out, still = (tmp_path / name for name in ("first", "run", "still"))
    train(model, first, "--ema", "0.9")
    train(model, out, "--seed", "1", "--keep", "9", "--init", str(first))
    assert f"begins with the averaged weights of {first}" in capsys.readouterr().out
    theirs, start = load_checkpoint(Run(first).checkpoint_file(12)).arrays, load_checkpoint(Run(out).checkpoint_file(0))
    averages = {name.removeprefix("average."): a for name, a in theirs.items() if name.startswith("average.")}
    assert start.step == 0
    for name, average in averages.items():
        assert np.array_equal(start.arrays[f"model.{name}"], average)
        assert np.array_equal(start.arrays[f"average.{name}"], average)
        # within the hinge's margin the slopes of this bias cancel
        rests = model in ("spade", "sagan") and name in ("discriminator.last.bias", "discriminator.last.layer.bias")
        assert rests or not np.array_equal(theirs[f"model.{name}"], average), (
            name
        )  # in the hinge's margin slopes cancel
    for name in Run(first).model().state_dict().keys() - averages.keys():  # running moments
        assert np.array_equal(start.arrays[f"model.{name}"], theirs[f"model.{name}"])
    train(model, still, "--lr", "1e-30", "--init", str(first))
    for name, weight in Run(still).model().named_parameters():
        np.testing.assert_allclose(weight.data, averages[name], rtol=1e-6)
    again = back_to(out, 0, tmp_path / "again")
    assert main(resume(again)) == 0
    assert_same_run(again, out)


def test_weights_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another model, of other sizes, of no run, or for a run that goes on: one line that says what differs, and
    nothing written."""
    train("vae", tmp_path / "vae")
    before = contents(tmp_path)
    new = train_command("vae", tmp_path / "new", "--init")
    assert "model vae, not gan" in refused(
        train_command("gan", tmp_path / "new", "--init", str(tmp_path / "vae")), capsys
    )
    said = refused([*new, str(tmp_path / "vae"), "--set", "channels=3", "latent=5"], capsys)
    assert "do not fit: it has latent 2, not 5, channels 2, not 3" in said
    assert "no run" in refused([*new, str(tmp_path / "nowhere")], capsys)
    assert "--init" in refused(resume(tmp_path / "vae", "--init", str(tmp_path / "vae")), capsys)
    assert "already holds a run" in refused(
        train_command("vae", tmp_path / "vae", "--init", str(tmp_path / "vae")), capsys
    )
    assert contents(tmp_path) == before


def test_a_run_never_begins_with_other_weights_than_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before the settings are there: --resume does not take it for a run, to begin it with random weights."""
    train("vae", tmp_path / "vae")

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_settings", full)
        refused(train_command("vae", tmp_path / "new", "--quiet", "--init", str(tmp_path / "vae")), capsys)
    assert "no run" in refused(resume(tmp_path / "new"), capsys)
    assert Run(tmp_path / "new").checkpoint_file(0).exists()
    assert "without settings; choose another" in refused(train_command("vae", tmp_path / "new"), capsys)


# Kept checkpoints


def test_a_kept_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sample` and `evaluate` take that of the step: as if it were the newest.  For a step without one the others are
    named."""
    out = tmp_path / "run"
    train("vae", out)
    drawn = []
    for run, more in ((out, []), (out, ["--checkpoint", "8"]), (back_to(out, 8, tmp_path / "8"), [])):
        assert main(["sample", str(run), "-n", "9", "--out", str(tmp_path / "x.npz"), *more]) == 0
        drawn.append(np.load(tmp_path / "x.npz")["images"])
        assert main(["evaluate", str(run), "--samples", "40", "--images", "50", *more]) == 0
        drawn.append(json.loads((run / "evaluation.json").read_text()))
    assert not np.array_equal(drawn[0], drawn[2])
    assert np.array_equal(drawn[2], drawn[4])
    assert [found["checkpoint"] for found in drawn[1::2]] == [None, 8, None]
    assert drawn[1]["likelihood"] != drawn[3]["likelihood"] == drawn[5]["likelihood"]
    assert "vae on digits, step 8: 50 test images" in capsys.readouterr().out
    for command in (["sample", str(out), "--out", str(tmp_path / "y.npz")], ["evaluate", str(out)]):
        for step in ("5", "-8", "0"):
            said = refused([*command, "--checkpoint", step], capsys)
            assert f"has no checkpoint of step {step}, only of 4, 8, 12" in said
    Run(out).checkpoint_file(8).write_bytes(b"")
    assert "step-00000008" in refused([*command, "--checkpoint", "8"], capsys)


def test_each_sample_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--out FOLDER/, or a folder that is there: a PNG for each image, in its own size, from which the levels follow."""
    train("vae", tmp_path / "run")
    sample = ["sample", str(tmp_path / "run"), "-n", "11", "--out"]
    assert main([*sample, str(tmp_path / "x.npz")]) == 0
    images = np.load(tmp_path / "x.npz")["images"]
    (tmp_path / "there").mkdir()
    for folder in (f"{tmp_path}/new/", f"{tmp_path}/there"):
        assert main([*sample, folder]) == 0
        assert f"wrote {Path(folder)}" in capsys.readouterr().out
        assert sorted(path.name for path in Path(folder).iterdir()) == [f"{i:04d}.png" for i in range(11)]
        for i, image in enumerate(images):
            shown = np.asarray(Image.open(Path(folder, f"{i:04d}.png")))
            assert np.array_equal((shown / 255 * 16).round(), image[0])
    (tmp_path / "there" / ".hidden").touch()
    before = contents(tmp_path)
    assert main([*sample, f"{tmp_path}/there/"]) == 0, "the same files again"
    assert contents(tmp_path) == before
    fewer = ["sample", str(tmp_path / "run"), "-n", "9", "--seed", "1", "--out", f"{tmp_path}/there/"]
    assert "0009.png is another one" in refused(fewer, capsys)
    assert contents(tmp_path) == before
    assert "nowhere" in refused([*sample, f"{tmp_path}/nowhere/x/"], capsys)
    assert ".png or .npz, or in / for a folder" in refused([*sample, str(tmp_path / "x.jpg")], capsys)


# Test losses

GANS = ("gan", "sagan", "biggan", "infogan", "pix2pix", "spade", "stylegan")

LOSSES = {
    **{name: ["discriminator", "generator"] for name in GANS},
    "aae": ["discriminator", "autoencoder"], "cyclegan": ["generator", "discriminator"],
    "latent-ddpm": ["autoencoder", "diffusion"],
}  # fmt: skip


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.usefixtures("no_pictures")
def test_test_losses_by_hand(model: str, tmp_path: Path) -> None:
    """test.csv: at every third step and at the last the mean losses of the first 128 test images, with the averaged
    weights in evaluation, from the run's numbers for tests.  Without it the run has the same weights, to the bit."""
    out, without = tmp_path / "run", tmp_path / "without"
    train(model, out, "--seed", "3", "--steps", "11", "--keep", "9", "--checkpoint-every", "3", "--ema", "0.5")
    train(model, without, "--seed", "3", "--steps", "11", "--test-every", "0", "--ema", "0.5")
    header, *rows = (line.split(",") for line in (out / "test.csv").read_text().splitlines())
    assert header == ["step", *(LOSSES.get(model, ["loss"]))]
    assert [row[0] for row in rows] == ["3", "6", "9", "11"]
    test = data.load("digits", "test").images[:128]
    for step, *losses in rows:
        averaged = Run(out, step=int(step)).model()
        rng, expected = Generator(3).stream(TEST), np.zeros(len(losses))
        for images in (test[:64], test[64:]):
            of_each = {update.name: update.loss for update in averaged.updates()}
            expected += [loss(images, rng).item() / 2 for loss in of_each.values()]
        assert [float(loss) for loss in losses] == pytest.approx(expected, rel=1e-5)
        if model == "pixelcnn":
            with no_grad():
                exact = -averaged.log_prob(test).numpy().mean() / 64
            assert float(losses[0]) == pytest.approx(exact, rel=1e-5)
    assert (out / "metrics.csv").read_bytes() == (without / "metrics.csv").read_bytes()
    ours, theirs = (load_checkpoint(Run(run).checkpoint_file(11)).arrays for run in (out, without))
    assert_same(ours, theirs)
    assert not (without / "test.csv").exists()


def test_test_losses_of_a_conditional_model(tmp_path: Path) -> None:
    """Given the labels of the test images."""
    train("vae", tmp_path, "--set", "classes=10")
    test, rng = data.load("digits", "test"), Generator(0).stream(TEST)
    assert test.labels is not None
    losses = [
        Run(tmp_path).model().loss(test.images[i], rng, test.labels[i]).item() for i in (slice(64), slice(64, 128))
    ]
    assert float((tmp_path / "test.csv").read_text().split(",")[-1]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_test_losses_leave_no_trace_of_an_interruption(tmp_path: Path) -> None:
    """Rows after the checkpoint are written anew, to the same bytes.  A run of an earlier version has none."""
    train("ddpm", tmp_path / "run")
    for step in (4, 8):
        again = back_to(tmp_path / "run", step, tmp_path / str(step))
        assert main(resume(again)) == 0
        assert_same_run(again, tmp_path / "run")
    earlier = back_to(tmp_path / "run", 8, tmp_path / "earlier")
    (earlier / "test.csv").unlink()
    settings = json.loads((earlier / "settings.json").read_text())
    for name in ("test_every", "patience"):
        del settings[name]
    (earlier / "settings.json").write_text(json.dumps(settings))
    for path in Run(earlier).checkpoint_files():
        checkpoint = load_checkpoint(path)
        for name in ("test_every", "patience"):
            del checkpoint.settings[name]
        loop.save_checkpoint(path, checkpoint)
    assert main(resume(earlier)) == 0
    assert not (earlier / "test.csv").exists()
    ours, theirs = (load_checkpoint(Run(run).checkpoint_file(12)).arrays for run in (earlier, tmp_path / "run"))
    assert_same(ours, theirs)


def scripted(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    monkeypatch.setattr(Trainer, "test_losses", lambda self, test: {"loss": losses[self.step]})


def test_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """After two test losses without a new best, an equal one among them, the run ends as at its last step, with the
    newest weights, and says which step was best.  Resumed, it stays ended; interrupted before, it ends with the same
    bits."""
    scripted(monkeypatch, {3: 5.0, 6: 6.0, 9: 4.0, 12: 4.5, 15: 4.0, 18: 1.0})
    out = tmp_path / "run"
    train("vae", out, "--steps", "18", "--patience", "2")
    said = capsys.readouterr().out
    assert "ended early at step 15, whose weights are kept: 2 test losses were no better than 4 at step 9 (--ch" in said
    assert [row.split(",")[0] for row in (out / "test.csv").read_text().splitlines()[1:]] == ["3", "6", "9", "12", "15"]
    assert (out / "metrics.csv").read_text().splitlines()[-1].startswith("15,")
    found = Run(out).checkpoint()
    assert found is not None
    assert found.step == 15
    assert (out / "samples" / "step-00000015.png").read_bytes() == (out / "samples.png").read_bytes()
    assert (out / "interpolation.png").exists()
    assert 'http-equiv="refresh"' not in (out / "index.html").read_text()
    for step in (15, 12, 9):
        again = back_to(out, step, tmp_path / str(step))
        assert main(resume(again)) == 0
        assert "ended early at step 15" in capsys.readouterr().out
        assert_same_run(again, out)
    train("vae", tmp_path / "other", "--steps", "18", "--patience", "3")
    assert "ended early" not in capsys.readouterr().out


def test_the_best_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With patience, beside the newest ones: the step that the end of the run names can be sampled from, and has the
    weights of a run that keeps all.  What was best before is removed.  A run interrupted in between ends the same."""
    scripted(monkeypatch, {3: 5.0, 6: 4.0, 9: 4.5, 12: 4.0, 15: 1.0})
    kept, whole, steps = (
        tmp_path / "kept",
        tmp_path / "whole",
        lambda run: [p.name for p in Run(run).checkpoint_files()],
    )
    train("vae", kept, "--steps", "15", "--patience", "2", "--keep", "1")
    assert "no better than 4 at step 6 (--checkpoint 6)\n" in capsys.readouterr().out
    assert steps(kept) == [f"step-{step:08d}.safetensors" for step in (12, 6)]
    train("vae", whole, "--steps", "15", "--checkpoint-every", "3", "--keep", "9")
    drawn = []
    for run in (kept, whole):
        assert main(["sample", str(run), "-n", "9", "--checkpoint", "6", "--out", str(tmp_path / "x.npz")]) == 0
        drawn.append(np.load(tmp_path / "x.npz")["images"])
    assert np.array_equal(*drawn)
    again = back_to(kept, 6, tmp_path / "again")
    assert main(resume(again)) == 0
    assert_same_run(again, kept)
    train("vae", tmp_path / "without", "--steps", "15", "--keep", "1")
    assert len(steps(tmp_path / "without")) == 1


def test_patience_that_can_not_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without test losses, or with two losses that work against each other: refused, and nothing written."""
    command = train_command("vae", tmp_path / "run", "--patience", "2", "--test-every", "0")
    assert "test_every" in refused(command, capsys)
    assert "discriminator, generator" in refused(train_command("gan", tmp_path / "run", "--patience", "2"), capsys)
    assert "patience" in refused(train_command("vae", tmp_path / "run", "--patience", "-1"), capsys)
    assert not list(tmp_path.iterdir())


def test_a_test_loss_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is neither best, nor what the run fails by: that is said of the step, as without test losses.  So it is where
    the density refuses to be computed."""
    with np.errstate(all="ignore"):
        assert main(train_command("ddpm", tmp_path / "run", "--lr", "1e30", "--test-every", "1")) == 1
    assert "numbers went wrong at step" in capsys.readouterr().err
    loss = VAE.loss

    def of_nan(self: VAE, *how: Any) -> Any:
        if not self.training:
            raise ValueError("std must be positive")
        return loss(self, *how)

    monkeypatch.setattr(VAE, "loss", of_nan)
    train("vae", tmp_path / "vae")
    assert (tmp_path / "vae" / "test.csv").read_text() == "step,loss\n3,nan\n6,nan\n9,nan\n12,nan\n"
    run = Run(tmp_path)
    for losses, best in ((["nan", "3", "2", "inf", "2"], (3, 2.0, 2)), (["nan"], (1, None, 0)), ([], None)):
        run.test_file.write_text("step,loss\n" + "".join(f"{i},{loss}\n" for i, loss in enumerate(losses, start=1)))
        found = run.best_test()
        assert best is None or found is not None
        assert found == best if best is None or best[1] is not None else math.isnan(found.loss)  # type: ignore[union-attr]


@pytest.mark.parametrize(("model", "unit"), [
    ("pixelcnn", "bits per dimension"), ("vae", "bits per dimension"), ("gan", "nats"),
    ("ddpm", "squared error per dimension"),
])  # fmt: skip
def test_the_plot_of_test_losses(model: str, unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of training and of test images, each pair in one colour and all in one unit: bits where the loss is in
    nats per dimension.  The best step is marked where there is one."""
    figures: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k))[1]
    )
    train(model, tmp_path)
    [axes] = figures[-1].axes
    scale = 1 / math.log(2) if unit.startswith("bits") else 1
    lines = {line.get_label(): line for line in axes.lines}
    colors: dict[str, list[Any]] = {}
    for file, prefix in (("metrics.csv", ""), ("test.csv", "test ")):
        names, *rows = (row.split(",") for row in (tmp_path / file).read_text().splitlines())
        for i, name in enumerate(names[1:], start=1):
            line = lines.pop(prefix + name)
            assert line.get_xdata().tolist() == [float(row[0]) for row in rows]
            assert line.get_ydata().tolist() == pytest.approx([float(row[i]) * scale for row in rows])
            colors.setdefault(name, []).append(line.get_color())
    assert all(first == second for first, second in colors.values())
    assert axes.get_ylabel() == f"loss, {unit}"
    if model == "gan":
        assert not lines
    else:
        best = min(rows, key=lambda row: float(row[1]))
        [(label, mark)] = lines.items()
        assert label.endswith(f"at step {best[0]}")
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (int(best[0]), pytest.approx(float(best[1]) * scale))


# Warm-up


def test_a_warm_up_fits_into_the_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe's is a fifth of the steps at most, so that a short run reaches its learning rate.  A longer one that
    is given is kept; beyond the steps there is a line about it."""
    for steps, warmup in ((100, 20), (499, 99), (500, 100), (5000, 100), (3, 0)):
        settings = make_settings("vae", some_images(), steps=steps, batch=8)
        assert settings.warmup == warmup
        rates = [learning_rate(step, settings) for step in range(1, steps + 1)]
        assert max(rates) > 0.9 * settings.lr
    train("vae", tmp_path / "run", "--warmup", "12")
    assert not caplog.records
    train("vae", tmp_path / "long", "--warmup", "13")
    [record] = caplog.records
    assert record.getMessage() == "nanogen: a warmup of 13 steps never ends in 12: no step has the learning rate 0.001"
    assert Run(tmp_path / "long").settings().warmup == 13


# Settings beyond all use


@pytest.mark.parametrize(("model", "setting", "word"), [
    ("ddpm", "T=10001", "T must be at most 10000"),
    ("pixelcnn", "blocks=1000000", "blocks must be"), ("pixelcnn", "channels=1000000000", "channels must be"),
    ("ddpm", "multipliers=1,10001", "multipliers must be"), ("vae", "classes=65537", "65536"),
])  # fmt: skip
def test_settings_beyond_all_use(
    model: str, setting: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line, before a layer is made, and nothing written; the same in the settings.json of a run."""
    with monkeypatch.context() as patch:
        patch.setattr(runs.InitialWeights, "_draw", None)
        assert word in refused(["train", model, "--out", str(tmp_path / "new"), "--set", setting], capsys)
    assert not list(tmp_path.iterdir())
    if model == "ddpm":
        train(model, out := tmp_path / "run")
        name, value = setting.split("=")
        file = out / "settings.json"
        found = json.loads(file.read_text())
        found["model_settings"][name] = json.loads(f"[{value}]") if "," in value else int(value)
        file.write_text(json.dumps(found))
        for command in (["sample", str(out), "--out", str(tmp_path / "x.png")], ["evaluate", str(out)], resume(out)):
            assert word in refused(command, capsys)
        file.write_text(json.dumps({**found, "image_shape": [1, 129, 128]}))
        assert "pixels" in refused(["sample", str(out), "--out", str(tmp_path / "x.png")], capsys)


@pytest.mark.parametrize("model", MODELS)
def test_too_many_weights(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are allowed are made, with the numbers of the stream of first weights; one fewer allowed, and
    the model is refused, while it is made or once it is; weights that begin as zeros count too."""
    settings, drawn = settings_of(model), runs.InitialWeights._draw
    monkeypatch.setattr(runs.InitialWeights, "_draw", lambda self, *how: (made.append(self), drawn(self, *how))[1])
    made: list[Any] = []
    count = sum(parameter.data.size for parameter in build_model(settings).parameters())
    most = max(count, made[-1].count)
    for allowed in (most, most - 1):
        monkeypatch.setattr(runs, "MOST_WEIGHTS", allowed)
        if allowed == most:
            build_model(settings)
        else:
            with pytest.raises(ValueError, match=f"at most {allowed:,} weights"):
                build_model(settings)


# Pictures that were missed, and folders that are gone


def test_a_picture_that_was_missed(tmp_path: Path) -> None:
    """Killed between a checkpoint and its picture, the run draws it when it goes on; and so the pictures at the end."""
    out = tmp_path / "run"
    train("gan", out, "--samples-every", "4")
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step-{i:08d}.png" for i in (4, 8, 12)]
    missed = back_to(out, 8, tmp_path / "8")
    for path in (missed / "samples").iterdir():
        path.unlink()
    assert main(resume(missed)) == 0
    (missed / "samples" / "step-00000004.png").write_bytes((out / "samples" / "step-00000004.png").read_bytes())
    assert_same_run(missed, out)
    undrawn = back_to(out, 12, tmp_path / "12")
    for path in [*undrawn.glob("*.png"), undrawn / "samples" / "step-00000012.png", undrawn / "index.html"]:
        path.unlink()
    assert main(resume(undrawn)) == 0
    assert_same_run(undrawn, out)
    assert (undrawn / "index.html").exists()


def at_step(step: int, do: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that happens while the run trains."""
    advance = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda self: (self.step == step and do(), advance(self))[1])


def test_folders_that_vanish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folders of checkpoints and samples are made again; without the run's own folder it ends, with a line."""
    out, gone = tmp_path / "run", tmp_path / "gone"

    def remove() -> None:
        for name in ("checkpoints", "samples"):
            shutil.rmtree(out / name)

    with monkeypatch.context() as patch:
        at_step(6, remove, patch)
        train("vae", out, "--samples-every", "5")
    assert [path.name for path in Run(out).checkpoint_files()] == [f"step-{i:08d}.safetensors" for i in (12, 8)]
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step-{i:08d}.png" for i in (10, 12)]
    at_step(6, lambda: shutil.rmtree(gone), monkeypatch)
    said = refused(train_command("vae", gone, *EVERY, "--quiet"), capsys)
    assert str(gone) in said
    assert "--resume" not in said
    assert not gone.exists()
