"""The training loop: the same seed gives the same bits, and an interruption leaves no trace."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import KINDS, STEPS, TINY, assert_same, begun, images_of, resumed, settings_of, some_images, trained

import nanogen as ng
from nanogen import data, metrics
from nanogen import functional as F
from nanogen.autograd import Primitive
from nanogen.data import Images
from nanogen.functional.normalization import normalize_groups
from nanogen.models import GAN, MODELS
from nanogen.nn import Module
from nanogen.training import evaluation, loop
from nanogen.training import run as runs
from nanogen.training.anomaly import Anomaly, detect_anomaly, went_wrong
from nanogen.training.checkpoint import save_checkpoint
from nanogen.training.config import TRAINING, as_text, default, explained, in_their_types, read_config, split_assignment
from nanogen.training.loop import Trainer, batch_indices, begin_metrics, learning_rate, train
from nanogen.training.pictures import GREY, grid
from nanogen.training.run import Run, Settings, make_settings, model_parameters

# The loop


@pytest.mark.parametrize("model", KINDS)
def test_same_seed_same_bits(model: str, tmp_path: Path) -> None:
    """Weights, averages, optimiser state, metrics and samples are functions of the seed, to the bit."""
    (a, run_a), (b, run_b), (c, _) = (
        trained(model, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert_same(a.arrays(), b.arrays())
    assert run_a.metrics_file.read_bytes() == run_b.metrics_file.read_bytes()
    assert run_a.checkpoint_file(STEPS).read_bytes() == run_b.checkpoint_file(STEPS).read_bytes()
    assert np.array_equal(run_a.model().sample(5, ng.Generator(0)), run_b.model().sample(5, ng.Generator(0)))
    assert any(not np.array_equal(a.arrays()[k], v) for k, v in c.arrays().items())


class Interruption(Exception):
    """Ctrl-C, a power cut."""


@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize(
    ("model", "stop"), [*itertools.product(TINY, [7]), *itertools.product(["vae", "gan", "cyclegan"], [3, 10])]
)
def test_an_interruption_leaves_no_trace(model: str, stop: int, tmp_path: Path) -> None:
    """Stopped after step `stop` and resumed from the checkpoint of the 5th or 10th step, or from none: weights,
    averages, optimiser state and metrics end up bit for bit as those of a run that was never stopped.  The rows of
    metrics are of other steps than the checkpoints."""
    every = {"checkpoint_every": 5, "log_every": 4}
    whole, whole_run = trained(model, tmp_path / "whole", **every)
    trainer, run = begun(settings_of(model, **every), tmp_path / "stopped")

    def stop_there(step: int, loss: float) -> None:
        if step == stop:
            raise Interruption

    with pytest.raises(Interruption):
        train(trainer, run, stop_there)
    assert run.checkpoint_files()[:1] == ([run.checkpoint_file(stop // 5 * 5)] if stop >= 5 else [])
    again, _ = resumed(tmp_path / "stopped")
    assert_same(again.arrays(), whole.arrays())
    assert run.metrics_file.read_bytes() == whole_run.metrics_file.read_bytes()
    assert run.checkpoint_file(STEPS).read_bytes() == whole_run.checkpoint_file(STEPS).read_bytes()


@pytest.mark.parametrize("tail", ["", "12,1\n", "12", "12,1,1\n", "12,", "\0\xff", "12,1\n13,1\n1"])
def test_metrics_are_rewound(tail: str, tmp_path: Path) -> None:
    """Rows after the checkpoint's step go, whole or cut off: the resumed run writes them again, once."""
    trainer, run = begun(settings_of("vae"), tmp_path)
    trainer.step = 10
    run.metrics_file.write_text("step,loss\n5,1.5\n10,1.25\n" + tail)
    begin_metrics(trainer, run)
    assert run.metrics_file.read_text() == "step,loss\n5,1.5\n10,1.25\n"


@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize(("clip", "ema"), [(0.0, 0.05), (0.05, 0.9)])
@pytest.mark.parametrize("model", TINY)
def test_step_by_hand(model: str, clip: float, ema: float) -> None:
    """A step is, for each of the model's updates, AdamW on the gradient of its loss at the update's own images, which
    is clipped if `clip` is set, and the model's constraint; all with the numbers of one generator; then the average.
    Written out for four steps with the same parts, and with settings that are nobody's defaults; what comes back is
    each part's last loss."""
    own = {"lr": 0.02, "betas": (0.6, 0.7), "weight_decay": 0.3, "ema": ema, "seed": 5, "clip": clip}
    settings, images = settings_of(model, **own), images_of(model).images
    trainer = Trainer(settings, images_of(model))
    ours = loop.build_model(settings)
    parts = {update.name: list(update.part.parameters()) for update in ours.updates()}
    optimizers = {name: ng.optim.AdamW(part, 0.5, (0.6, 0.7), weight_decay=0.3) for name, part in parts.items()}
    average, taken = ng.optim.ExponentialMovingAverage(ours.parameters(), ema), 0
    for step in (1, 2, 3, 4):
        rng, losses = ng.Generator(5).stream(loop.STEPS, step), {}
        k = (
            2 if model in ("gan", "sagan", "biggan", "infogan", "aae") else 1
        )  # D's images: 1, 2, then 3, 4; the other's: 1, then 3
        for i, update in enumerate(ours.updates()):
            batch = images[batch_indices((step - 1) * k + 1 + (k == 2 and i == 1), 30, settings)]
            loss = update.loss(batch, rng)
            for p, g in zip(parts[update.name], ng.grad(loss, parts[update.name]), strict=True):
                p.grad = g
            if clip:
                ng.optim.clip_grad_norm_(parts[update.name], 0.05)
            optimizers[update.name].lr = 0.02 * min(1, step / 3) * (1 + math.cos(math.pi * (step - 1) / STEPS)) / 2
            optimizers[update.name].step()
            ours.constrain(update.part)
            losses[update.name] = loss.item()
            taken += 1
        average.update()
        assert {name: loss.item() for name, loss in trainer.advance().items()} == pytest.approx(losses, rel=1e-5)
        assert trainer.step == step
    assert taken == 4 * len(parts) + (4 if k == 2 else 0)
    for p, q in zip(trainer.model.parameters(), ours.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-5, atol=1e-7)
    for p, q in zip(trainer.average.averages, average.averages, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-7)
    found = trainer.arrays()
    for (name, p), q in zip(ours.named_parameters(), average.averages, strict=True):
        np.testing.assert_array_equal(found[f"model.{name}"], trainer.model.state_dict()[name])
        np.testing.assert_allclose(found[f"average.{name}"], q, rtol=1e-5, atol=1e-7)
        assert abs(p.data - q).max() > 0, "an average is not the weights"


def test_each_setting_acts() -> None:
    """Two steps with another value of one setting give other weights; with a shorter average the weights are the same,
    and the averages others; with none (a decay of 0) the averages are the weights."""
    usual: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "warmup": 4, "ema": 0.9}

    def after(**changes: Any) -> tuple[np.ndarray, np.ndarray]:
        trainer = Trainer(settings_of("ddpm", **{**usual, **changes}), some_images())
        for _ in range(2):
            trainer.advance()
        weights = np.concatenate([p.data.ravel() for p in trainer.model.parameters()])
        return weights, np.concatenate([a.ravel() for a in trainer.average.averages])

    weights, averages = after()
    for changes in ({"lr": 0.01}, {"betas": (0.5, 0.999)}, {"betas": (0.9, 0.5)}, {"weight_decay": 0.0}, {"warmup": 2},
                    {"clip": 1e-3}, {"seed": 1}, {"batch": 7}, {"steps": 13}):  # fmt: skip
        assert not np.array_equal(after(**changes)[0], weights), changes
    for changes in ({"log_every": 1}, {"samples_every": 1}, {"checkpoint_every": 1}, {"keep": 1}):
        assert np.array_equal(after(**changes)[0], weights), changes
    same, shorter = after(ema=0.05)
    assert np.array_equal(same, weights)
    assert not np.array_equal(shorter, averages)
    assert np.array_equal(*after(ema=0.0))


@pytest.mark.parametrize("model", KINDS)
def test_a_model_lies_where_the_settings_say(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made on the host, then moved to the settings' device, for training and for what comes after."""
    moved: list[Any] = []
    settings = settings_of(model, device="cpu")
    monkeypatch.setattr(Module, "to", lambda self, *target: (moved.append(target), self)[1])
    for device in ("cpu", "cuda"):
        loop.build_model(dataclasses.replace(settings, device=device))
        assert moved[-1] == (device,)


def test_precision_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is allowed where the settings say so, and is not where they say float32."""
    said: list[bool] = []
    monkeypatch.setattr(loop, "allow_tf32", said.append)
    for precision in ("float32", "tf32"):
        Trainer(dataclasses.replace(settings_of("vae"), precision=precision), some_images())
    assert said == [False, True]


def test_the_decay_of_the_averages_acts() -> None:
    """`ema` from the first steps on: after twelve, the averages are Σ dᵏ⁻ⁱ x_i / Σ dᵏ⁻ⁱ of the weights x_i that there
    were, the last ones for 0; those of 0.9 and of 0.999 are a good part of the way apart."""
    found, weights = {}, []
    for ema in (0.0, 0.9, 0.999):
        trainer, weights = Trainer(settings_of("vae", ema=ema), some_images()), []
        for _ in range(STEPS):
            trainer.advance()
            weights.append(np.concatenate([p.data.ravel() for p in trainer.model.parameters()]))
        powers = ema ** np.arange(STEPS - 1.0, -1, -1)
        found[ema] = np.concatenate([average.ravel() for average in trainer.average.averages])
        np.testing.assert_allclose(found[ema], powers @ np.array(weights) / powers.sum(), rtol=1e-5, atol=1e-6)
    way = np.linalg.norm(weights[-1] - weights[0])
    assert np.linalg.norm(found[0.9] - found[0.999]) > 0.05 * way
    assert np.linalg.norm(found[0.0] - found[0.9]) > 0.05 * way


def test_averages_of_an_earlier_version_go_on(tmp_path: Path) -> None:
    """A run whose averages came about by another rule goes on from where they are, by (1 − d)/(1 − dᵏ) of the step."""
    trainer, run = begun(settings_of("vae", ema=0.9, steps=6), tmp_path)
    train(trainer, run, lambda step, loss: None)
    kept = trainer.checkpoint()
    old = {name: np.full_like(a, 2) if name.startswith("average.") else a for name, a in kept.arrays.items()}
    again = Trainer(dataclasses.replace(trainer.settings, steps=7), some_images())
    again.restore(kept._replace(arrays=old))
    again.advance()
    share = 0.1 / (1 - 0.9**7)
    for p, average in zip(again.model.parameters(), again.average.averages, strict=True):
        np.testing.assert_allclose(average, (1 - share) * 2 + share * p.data, rtol=1e-5)


def test_each_part_is_moved_by_its_own_loss() -> None:
    """A GAN's step moves both parts, the discriminator k times; each has an optimiser of its own."""
    trainer = Trainer(settings_of("gan"), some_images())
    before = trainer.model.state_dict()
    losses = trainer.advance()
    assert list(losses) == ["discriminator", "generator"]
    after = trainer.model.state_dict()
    assert all((after[name] != before[name]).any() for name, _ in trainer.model.named_parameters())
    assert [set(optimizer.steps.tolist()) for optimizer in trainer.optimizers.values()] == [{2}, {1}]
    assert isinstance(trainer.model, GAN)
    ids = {name: {id(p) for p in trainer.optimizers[name].params} for name in losses}
    assert ids["generator"] == {id(p) for p in trainer.model.generator.parameters()}
    assert ids["discriminator"] == {id(p) for p in trainer.model.discriminator.parameters()}


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_metrics_are_the_means_since_the_last_row(model: str, tmp_path: Path) -> None:
    """metrics.csv: a row every `log_every` steps and at the last, each part's mean loss over the steps since the row
    before, to six digits.  Who looks on is told every step, and of these the sum of the parts' means, else NaN."""
    told: list[tuple[int, float]] = []
    whole, run = begun(settings_of(model, log_every=7), tmp_path)
    train(whole, run, lambda step, loss: told.append((step, loss)))
    trainer = Trainer(settings_of(model), some_images())
    losses = [{name: loss.item() for name, loss in trainer.advance().items()} for _ in range(STEPS)]
    header, *rows = run.metrics_file.read_text().splitlines()
    names = ["discriminator", "generator"] if model == "gan" else ["loss"]
    assert header == ",".join(["step", *names])
    expected = {7: losses[:7], 12: losses[7:]}
    means = {step: [np.mean([some[name] for some in part]) for name in names] for step, part in expected.items()}
    assert rows == [",".join([str(step), *(f"{mean:.6g}" for mean in row)]) for step, row in means.items()]
    assert [step for step, _ in told] == list(range(1, STEPS + 1))
    assert {step for step, loss in told if not math.isnan(loss)} == means.keys()
    for step, row in means.items():
        assert dict(told)[step] == pytest.approx(sum(row), rel=1e-6)


def test_what_is_done_at_which_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twelve steps: a checkpoint at every fourth and at the last, once the rows up to its step are in the file; a
    picture at every fifth, when rows and checkpoint of that step are there, but not at the last; the newest three
    checkpoints are kept.  With `samples_every` 0 there is no picture."""
    seen: list[tuple[str, int, list[int]]] = []

    def rows(run: Any) -> list[int]:
        return [int(line.split(",")[0]) for line in run.metrics_file.read_text().splitlines()[1:]]

    def write(path: Path, checkpoint: Any) -> None:
        seen.append(("checkpoint", checkpoint.step, rows(run)))
        save_checkpoint(path, checkpoint)

    monkeypatch.setattr(loop, "save_checkpoint", write)
    monkeypatch.setattr(loop, "draw_progress", lambda run, model, step: seen.append(("picture", step, rows(run))))
    every = {"checkpoint_every": 4, "log_every": 2, "samples_every": 5, "keep": 2}
    trainer, run = begun(settings_of("vae", **every), tmp_path / "run")
    train(trainer, run, lambda step, loss: None)
    assert seen == [
        ("checkpoint", 4, [2, 4]), ("picture", 5, [2, 4]), ("checkpoint", 8, [2, 4, 6, 8]),
        ("picture", 10, [2, 4, 6, 8, 10]), ("checkpoint", 12, [2, 4, 6, 8, 10, 12]),
    ]  # fmt: skip
    assert run.checkpoint_files() == [run.checkpoint_file(12), run.checkpoint_file(8)]
    for every, steps in ((0, []), (12, []), (6, [6])):
        seen.clear()
        trained("vae", tmp_path / str(every), samples_every=every)
        assert [step for what, step, _ in seen if what == "picture"] == steps


def test_no_picture_of_weights_gone_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not finite, though the loss still is, are not drawn from: the run ends by itself, with its own
    error."""
    drawn: list[int] = []
    monkeypatch.setattr(loop, "draw_progress", lambda run, model, step: drawn.append(step))
    trainer, run = begun(settings_of("ddpm", samples_every=3, checkpoint_every=7, log_every=12), tmp_path)

    def poison(step: int, loss: float) -> None:
        if step == 5:
            trainer.optimizers["loss"].state["mean"][0][...] = np.nan

    with pytest.raises(FloatingPointError):
        train(trainer, run, poison)
    assert drawn == [3]
    assert trainer.step in (6, 7)


def test_a_run_that_is_asked_to_stop(tmp_path: Path) -> None:
    """The step at hand is finished, its checkpoint written, the rows of metrics up to it flushed, and nothing more is
    done, however often the run would have to do it; what came since the last row is in the checkpoint."""
    steps: list[int] = []
    trainer, run = begun(settings_of("vae", log_every=3), tmp_path)
    train(trainer, run, lambda step, loss: steps.append(step), SimpleStop(steps, 4))
    assert steps == [1, 2, 3, 4]
    assert run.checkpoint_files() == [run.checkpoint_file(4)]
    assert [line.split(",")[0] for line in run.metrics_file.read_text().splitlines()] == ["step", "3"]
    found = run.checkpoint()
    assert found is not None
    again = Trainer(settings_of("vae"), some_images())
    losses = [again.advance()["loss"].item() for _ in range(4)]
    assert found.arrays["recent.loss"].tolist() == losses[3:]


class SimpleStop:
    """True when so many steps but one are done."""

    def __init__(self, steps: list[int], at: int):
        self.steps, self.at = steps, at

    def __bool__(self) -> bool:
        return len(self.steps) >= self.at - 1


@pytest.mark.parametrize("model", KINDS)
def test_looking_at_every_number_changes_none(model: str, tmp_path: Path) -> None:
    """Training with an eye on every result finds nothing to complain of in a sound run, and gives the same bits; the
    engine is afterwards as it was."""
    before = (Primitive.recorded, Primitive.gradients)
    whole, _ = trained(model, tmp_path / "whole")
    trainer, run = begun(settings_of(model), tmp_path / "inspected")
    trainer.inspected = True
    train(trainer, run, lambda step, loss: None)
    assert_same(trainer.arrays(), whole.arrays())
    assert (Primitive.recorded, Primitive.gradients) == before


def wrong_from(step: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a step on, normalisation gives infinities, or its slope does."""
    steps = {"now": 0}
    advance = Trainer.advance

    def counted(self: Trainer) -> Any:
        steps["now"] = self.step + 1
        return advance(self)

    def forward(*arrays: Any, **how: Any) -> Any:
        output = normalize_groups.plain(*map(ng.Tensor, arrays), **how).data
        return (output * np.float32(np.inf) if steps["now"] >= step and kind == "forward" else output), None

    def backward(g: Any, saved: Any, *arrays: Any, wanted: Any, **how: Any) -> Any:
        inputs = [ng.Tensor(array) for array in arrays]
        for x in inputs:
            x.requires_grad = True
        with ng.set_grad_enabled(True):
            output = normalize_groups.plain(*inputs, **how)
        found = [x.data for x in ng.grad(output, inputs, ng.Tensor(g))]
        return [x * np.float32(np.nan) for x in found] if steps["now"] >= step and kind == "backward" else found

    monkeypatch.setattr(Trainer, "advance", counted)
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(normalize_groups.kernels, device, (forward, backward))


@pytest.mark.filterwarnings("error")  # the exception is all that is said
@pytest.mark.parametrize("inspected", [False, True])
@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_numbers_that_go_wrong_are_traced(
    kind: str, inspected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step, the primitive, the direction and the module where a number first was not finite, and
    the last good checkpoint, whether each step was inspected or bad numbers were about to be saved; the checkpoint of
    before stays, and the metrics have no row of bad numbers."""
    wrong_from(7, kind, monkeypatch)
    taken, update = [], Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self: (taken.append(self.step), update(self))[1])
    trainer, run = begun(settings_of("vae", checkpoint_every=5, log_every=12), tmp_path)
    trainer.inspected = inspected
    with pytest.raises(FloatingPointError) as caught:
        train(trainer, run, lambda step, loss: None)
    assert taken == [*range(1, trainer.step + 1), *([] if inspected else [6, 7])], "from the checkpoint on, once more"
    place = "encoder" if kind == "forward" else "decoder"  # the first on the way, and the first on the way back
    assert re.search(rf"step 7: normalize_groups in {place}[.\w]* gave .* going {kind}", str(caught.value)), str(
        caught.value
    )
    assert str(run.checkpoint_file(5)) in str(caught.value)
    found = run.checkpoint()
    assert found is not None
    assert found.step == 5
    assert run.metrics_file.read_text() == "step,loss\n"
    assert trainer.step == 7 if inspected else 7 <= trainer.step <= 10


@pytest.mark.parametrize(("output", "inputs", "wrong"), [
    ([1.0, -2.0], [[1.0]], False), ([1.0, np.nan], [[1.0]], True), ([1.0, np.inf], [[1.0]], True),
    ([1.0, -np.inf], [[1.0], [0.0]], True), ([np.inf], [[np.inf]], False), ([np.nan], [[np.nan]], False),
    ([np.nan], [[np.inf]], True), ([np.nan], [[1.0], [np.inf]], True), ([np.nan], [[1.0], [np.nan]], False),
    ([np.inf], [[1.0], [np.nan]], False), ([np.inf, np.nan], [[-np.inf]], True), ([1.0], [[np.nan]], False),
    ([np.nan], [], True), ([3], [[np.nan]], False),
])  # fmt: skip
def test_what_is_wrong_with_a_result(output: list[float], inputs: list[list[float]], wrong: bool) -> None:
    """NaN where none went in, or an infinity of numbers that all were finite; not what only passes on what came."""
    assert went_wrong(ng.Tensor(np.array(output)), [ng.Tensor(np.array(x)) for x in inputs]) == wrong


class Stage(Module):
    """An operation of its own, then perhaps another stage."""

    def __init__(self, function: Any, inner: Any = None):
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, x: ng.Tensor) -> ng.Tensor:
        return self.function(x if self.inner is None else self.inner(x))


@pytest.mark.parametrize(("function", "x", "said"), [
    (lambda x: F.exp(x * 100.0), 50.0, "exp in inner gave infinity going forward"),
    (lambda x: F.log(x - 2.0), 1.0, "log in inner gave NaN going forward"),
    (lambda x: F.sqrt(x * 0.0), 1.0, "sqrt in inner gave infinity going backward"),
])  # fmt: skip
def test_a_number_that_goes_wrong_is_traced_to_its_place(function: Any, x: float, said: str) -> None:
    """The primitive, the innermost module in which it was called, what it gave and on which way; outside of any module
    that is said too.  The engine is as before when the block ends, though by an error."""
    before = (Primitive.recorded, Primitive.gradients)
    model, alone = Stage(lambda y: y + 1.0, Stage(function)), Stage(F.log)

    def look(run: Any) -> str:
        with pytest.raises(Anomaly) as caught, np.errstate(all="ignore"), detect_anomaly(model if run else alone):
            (run or (lambda: alone(ng.tensor([-1.0]))))()
        return str(caught.value)

    assert look(lambda: model(ng.tensor([x], requires_grad=True)).sum().backward()) == said
    assert look(lambda: F.log(ng.tensor([-1.0]))) == "log in no module gave NaN going forward"
    assert look(None) == "log in Stage gave NaN going forward"
    assert (Primitive.recorded, Primitive.gradients) == before


@pytest.mark.parametrize("inspected", [False, True])
@pytest.mark.parametrize(("wrong", "said"), [
    ("nothing", "^something else$"), ("number", "numbers went wrong at step 1: exp in VAE gave infinity"),
    ("weight", "numbers went wrong at step 1: something else"),
])  # fmt: skip
def test_errors_that_are_not_about_numbers(
    wrong: str, said: str, inspected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ValueError of a step stays what it is, unless a weight is not finite, or a number of that step."""

    def loss(self: Any, *given: Any) -> ng.Tensor:
        if wrong == "number":
            F.exp(ng.tensor(1000.0))
        raise ValueError("something else")

    monkeypatch.setattr(ng.models.VAE, "loss", loss)
    trainer, run = begun(settings_of("vae"), tmp_path)
    trainer.inspected = inspected
    if wrong == "weight":
        next(iter(trainer.model.parameters())).data[...] = np.nan
    with pytest.raises(ValueError if wrong == "nothing" else FloatingPointError, match=said):
        train(trainer, run, lambda step, loss: None)
    assert trainer.step == 1


def test_an_update_that_goes_wrong(tmp_path: Path) -> None:
    """Sound gradients and a learning rate beyond all bounds: the parameter is named that left the finite numbers."""
    with pytest.raises(FloatingPointError, match=r"step 1: the update of [\w.]+ gave"):
        trained("ddpm", tmp_path, lr=1e300, log_every=3)


@pytest.mark.parametrize("what", ["first weight", "last weight", "average"])
def test_bad_weights_are_not_saved(what: str, tmp_path: Path) -> None:
    """A weight or an average that is not finite, whichever, though no loss was: the checkpoint is not written, the
    array is named, and as the steps themselves were sound, the machine is suspected."""
    trainer, run = begun(settings_of("ddpm", checkpoint_every=5, log_every=12), tmp_path)

    def poison(step: int, loss: float) -> None:
        if step == 9 and what == "average":
            trainer.average.averages[-1][...] = np.inf
        elif step == 9:
            trainer.optimizers["loss"].state["mean"][0 if what == "first weight" else -1][...] = np.nan

    with pytest.raises(FloatingPointError, match=r"not finite, but not so when .* the machine"):
        train(trainer, run, poison)
    found = run.checkpoint()
    assert found is not None
    assert found.step == 5
    assert all(np.isfinite(a).all() for a in found.arrays.values())


@pytest.mark.parametrize("model", ["vae", "gan"])
def test_gradients_are_clipped(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `clip` each part's gradient is no longer than that when its optimiser sees it, and in the direction of the
    gradient without; with 0, and where it is short enough, it is as it was."""
    seen: dict[float, list[np.ndarray]] = {}
    for clip in (0.0, 1e-3, 1e9):
        trainer, parts = Trainer(settings_of(model, clip=clip), some_images()), seen.setdefault(clip, [])
        for optimizer in trainer.optimizers.values():
            step = optimizer.step

            def record(numbers: Any, optimizer: Any = optimizer, step: Any = step, parts: Any = parts) -> None:
                parts.append(np.concatenate([p.grad.data.ravel() for p in optimizer.params]))
                step(numbers=numbers)

            monkeypatch.setattr(optimizer, "step", record)
        trainer.advance()
    free, short = seen[0.0][0], seen[1e-3][0]  # the first update; the others start from other weights
    assert np.linalg.norm(free) > 1e-2
    assert np.linalg.norm(short) == pytest.approx(1e-3, rel=1e-2)
    np.testing.assert_allclose(short / np.linalg.norm(short), free / np.linalg.norm(free), rtol=1e-3, atol=1e-6)
    assert all(np.linalg.norm(g) <= 1e-3 * (1 + 1e-5) for g in seen[1e-3])
    assert all((a == b).all() for a, b in zip(seen[0.0], seen[1e9], strict=True))


def test_the_loss_falls(tmp_path: Path) -> None:
    """Forty steps make every loss that has to fall fall; a GAN's need not."""
    for model in ("pixelcnn", "vae", "ddpm"):
        _, run = trained(model, tmp_path / model, steps=60, lr=1e-2)
        rows = [float(line.split(",")[1]) for line in run.metrics_file.read_text().splitlines()[1:]]
        assert rows[-1] < 0.97 * rows[0], model


# Schedules of learning rates and of images


@given(steps=st.integers(1, 300), warmup=st.integers(0, 50), lr=st.floats(1e-5, 1))
def test_learning_rate(steps: int, warmup: int, lr: float) -> None:
    """lr · min(1, t/warmup) · ½ (1 + cos(π (t − 1)/steps)): positive throughout, at most lr, lr at the first step
    without warm-up, close to 0 at the last, one fall after the rise.  Loshchilov & Hutter 2017, eq. 5."""
    settings = dataclasses.replace(settings_of("vae"), steps=steps, warmup=warmup, lr=lr)
    rates = [learning_rate(step, settings) for step in range(1, steps + 1)]
    for i, rate in enumerate(rates):
        rise = min(1.0, (i + 1) / warmup) if warmup else 1.0
        assert rate == pytest.approx(lr * rise * (1 + math.cos(math.pi * i / steps)) / 2)
        assert 0 < rate <= lr
    fall = rates[warmup:]
    assert all(a >= b for a, b in itertools.pairwise(fall))


@given(count=st.integers(1, 40), batch=st.integers(1, 40), seed=st.integers(0, 99))
def test_every_pass_goes_through_all_images(count: int, batch: int, seed: int) -> None:
    """The images of all steps in a row, cut into passes of `count`: each pass is a permutation, and not the one
    before; a step's images follow from the step alone."""
    settings = dataclasses.replace(settings_of("vae"), batch=batch, seed=seed)
    steps = range(1, 3 * count // batch + 3)
    flow = np.concatenate([batch_indices(step, count, settings) for step in steps])
    passes = flow[: len(flow) // count * count].reshape(-1, count)
    assert (np.sort(passes, axis=1) == np.arange(count)).all()
    assert count < 8 or len(passes) < 2 or not np.array_equal(passes[0], passes[1])
    assert np.array_equal(batch_indices(2, count, settings), flow[batch : 2 * batch])


def test_every_seed_and_every_pass_has_an_order_of_its_own() -> None:
    """Of six seeds and six passes no two go through the images in the same order, and none in the images' own; asked
    for again, in whatever turn, each is the same; another number of images has another order."""
    asked = [(seed, epoch) for seed in range(6) for epoch in range(6)]
    orders = {key: loop.order(*key, 20).tolist() for key in asked}
    assert all(sorted(found) == list(range(20)) != found for found in orders.values())
    assert len({tuple(found) for found in orders.values()}) == 36
    assert all(loop.order(*key, 20).tolist() == orders[key] for key in reversed(asked))
    assert sorted(loop.order(0, 0, 21)) == list(range(21))
    settings = dataclasses.replace(settings_of("vae"), batch=20)
    for seed, epoch in asked:
        found = batch_indices(epoch + 1, 20, dataclasses.replace(settings, seed=seed))
        assert found.tolist() == orders[seed, epoch]


def test_streams_are_independent() -> None:
    """Weights, steps, orders, pictures, samples, evaluation and test losses draw from streams of their own."""
    streams = [runs.INITIAL_WEIGHTS, runs.STEPS, runs.SHUFFLES, runs.PICTURES, runs.SAMPLES, runs.EVALUATION, runs.TEST]
    streams.append(runs.LARGE)
    streams += [evaluation.LEFT_OUT, evaluation.REAL_AS_IF_DRAWN]
    assert len(set(streams)) == 10
    for model, own in TINY.items():
        built = loop.build_model(settings_of(model, seed=3))
        expected = MODELS[model](
            (1, 4, 4), images_of(model).levels, rng=ng.Generator(3, "cpu").stream(runs.INITIAL_WEIGHTS), **own
        )
        assert_same(built.state_dict(), expected.state_dict())


# Checkpoints: more in test_checkpoint.py


def test_a_run_samples_with_the_averaged_weights(tmp_path: Path) -> None:
    """run.model() holds the averages, not the last weights, and is in evaluation; settings come back as they were."""
    trainer, run = trained("gan", tmp_path)
    model = run.model()
    assert run.settings() == trainer.settings
    assert not model.training
    for (name, p), average in zip(model.named_parameters(), trainer.average.averages, strict=True):
        assert np.array_equal(p.data, average), name
        assert not np.array_equal(p.data, trainer.model.state_dict()[name])
    assert np.array_equal(model.state_dict()["generator.norms.0.running_mean"],
                          trainer.model.state_dict()["generator.norms.0.running_mean"])  # fmt: skip


def test_a_run_samples_on_the_device_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On that of its training only where none is named: another machine may not have it."""
    _, run = trained("vae", tmp_path, device="cpu")
    moved: list[Any] = []
    monkeypatch.setattr(MODELS["vae"], "to", lambda self, *target: (moved.append(target), self)[1])
    for device in (None, "cuda", "cpu"):
        run.model(device)
    assert moved == [("cpu",), ("cuda",), ("cpu",)]


def test_a_runs_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split is that of the data set, found where and cut as the settings say; images of another shape or of other
    levels than the model's are refused."""
    run = Run(tmp_path)
    settings = make_settings("gan", data.load("digits"), {"channels": 1, "latent": 1})
    run.write_settings(settings)
    for split, count in (("train", 1500), ("test", 297)):
        found, expected = run.images(split), data.load("digits", split)
        assert np.array_equal(found.images, expected.images)
        assert len(found) == count
    for changes in ({"levels": 16}, {"image_shape": (1, 8, 4)}):
        run.write_settings(dataclasses.replace(settings, **changes))
        with pytest.raises(ValueError, match=r"digits has images \(1, 8, 8\) of 17 levels now"):
            run.images("test")
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(data, "load", lambda *how: (asked.append(how), some_images())[1])
    cut = dataclasses.replace(settings_of("gan"), data="x", data_dir="there", size=(4, 5), color="rgb")
    assert np.array_equal(runs.load_images(cut, "test").images, some_images().images)
    assert asked == [("x", "test", "there", (4, 5), "rgb")]


def test_what_a_folder_holds_already(tmp_path: Path) -> None:
    """A folder with settings, with metrics, with a checkpoint or with a page alone is no place for a new run; other
    files are no matter, nor are files beside the checkpoints that have another form of name."""
    (tmp_path / "checkpoints").mkdir()
    for name in ("x.txt", "checkpoints/step-00000003.safetensors.broken", "checkpoints/step-last.safetensors"):
        (tmp_path / name).touch()
    run = Run(tmp_path)
    run.check_new()
    assert run.checkpoint_files() == []
    for name in ("settings.json", "metrics.csv", "checkpoints/step-00000003.safetensors", "samples.png", "index.html"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=rf"already holds a run \({Path(name).name}\)"):
            run.check_new()
        (tmp_path / name).unlink()


def test_a_line_for_each_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """commands.log grows by a line a command: when, in UTC wherever it is, with which versions, what."""
    run = Run(tmp_path)
    run.note("nanogen train vae")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        run.note("nanogen train --resume")
    time.tzset()
    lines = (tmp_path / "commands.log").read_text().splitlines()
    versions = rf"nanogen {re.escape(ng.__version__)}, NumPy {re.escape(np.__version__)}, Python \d+\.\d+\.\S+, \S+"
    for line, command in zip(lines, ["nanogen train vae", "nanogen train --resume"], strict=True):
        said = re.fullmatch(rf"(\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d) UTC  {versions}: {command}", line)
        assert said is not None
        then = datetime.datetime.strptime(said[1] + " +0000", "%Y-%m-%d %H:%M:%S %z")
        assert abs((datetime.datetime.now(datetime.UTC) - then).total_seconds()) < 600


def test_a_checkpoint_of_other_losses(tmp_path: Path) -> None:
    """A checkpoint whose losses are not this model's, or whose averages are not, is refused."""
    trainer, _ = trained("gan", tmp_path)
    found = trainer.checkpoint()
    for name, word in (("recent.generator", "losses are"), ("average.generator.first.weight", "averaged weights")):
        arrays = {k: v for k, v in found.arrays.items() if k != name}
        with pytest.raises(ValueError, match=word):
            Trainer(trainer.settings, some_images()).restore(found._replace(arrays=arrays))
    other = {**found.arrays, "average.generator.first.weight": np.zeros((1, 1, 1, 1), np.float32)}
    with pytest.raises(ValueError, match="averaged weights"):
        Trainer(trainer.settings, some_images()).restore(found._replace(arrays=other))


@pytest.mark.parametrize("change", [
    lambda s: "not json", lambda s: "[]", lambda s: "{}", lambda s: json.dumps({**s, "extra": 1}),
    lambda s: json.dumps({**s, "model": "rnn"}), lambda s: json.dumps({**s, "model_settings": {"nothing": 1}}),
    lambda s: json.dumps({**s, "model_settings": [1]}), lambda s: json.dumps({k: v for k, v in s.items() if k != "lr"}),
    lambda s: json.dumps({**s, "image_shape": 3}), lambda s: json.dumps({**s, "model_settings": {"latent": "x"}}),
    lambda s: json.dumps({**s, "steps": None}), lambda s: json.dumps({**s, "lr": "fast"}),
    lambda s: json.dumps({**s, "betas": [0.5]}), lambda s: json.dumps({**s, "threads": 0}), lambda s: "[" * 90_000,
    lambda s: json.dumps({**s, "model": ["vae"]}), lambda s: json.dumps({**s, "ema": 2}),
])  # fmt: skip
def test_broken_settings_are_named(change: Any, tmp_path: Path) -> None:
    """A settings.json that is none, or of another program: ValueError, not a traceback of some other kind."""
    _, run = trained("vae", tmp_path)
    run.settings_file.write_text(change(json.loads(run.settings_file.read_text())))
    with pytest.raises(ValueError, match=r"settings\.json|latent"):
        run.model()


# Settings


@pytest.mark.parametrize(("model", "own", "changes", "word"), [
    ("ddmp", {}, {}, "did you mean 'ddpm'"), ("vae", {"latnet": 3}, {}, "did you mean 'latent'"),
    ("vae", {"latent": 0}, {}, "latent"), ("vae", {}, {"steps": 0}, "steps"), ("vae", {}, {"batch": 31}, "batch"),
    ("vae", {}, {"batch": 0}, "batch"), ("vae", {}, {"lr": 0.0}, "lr"), ("vae", {}, {"lr": math.nan}, "lr"),
    ("vae", {}, {"lr": math.inf}, "lr"), ("vae", {}, {"seed": -1}, "seed"), ("vae", {}, {"threads": 0}, "threads"),
    ("vae", {}, {"device": "tpu"}, "device"), ("vae", {}, {"ema": 1.0}, "ema"), ("vae", {}, {"betas": (0.5,)}, "betas"),
    ("vae", {}, {"betas": (0.5, 1.0)}, "betas"), ("vae", {}, {"weight_decay": -1.0}, "weight_decay"),
    ("vae", {}, {"warmup": -1}, "warmup"), ("vae", {}, {"keep": 0}, "keep"), ("vae", {}, {"steps": 2**31}, "steps"),
    ("vae", {}, {"log_every": 0}, "log_every"), ("vae", {}, {"checkpoint_every": 0}, "checkpoint_every"),
])  # fmt: skip
def test_bad_settings(model: str, own: dict[str, Any], changes: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name, with the nearest name there is."""
    with pytest.raises(ValueError, match=word):
        make_settings(model, some_images(), own, **{"batch": 8, **changes})


def test_settings_are_read_in_their_types() -> None:
    """Text or the values of a file, in the type that is declared; the nearest known name for one that is unknown."""
    for model, values, training, own in [
        ("vae", {"latent": "3", "decoder": "logistic"}, {}, {"latent": 3, "decoder": "logistic"}),
        ("pixelcnn", {"dropout": "0.25"}, {}, {"dropout": 0.25}),
        ("ddpm", {"multipliers": "1,2,4", "schedule": "cosine"}, {}, {"multipliers": (1, 2, 4), "schedule": "cosine"}),
        ("ddpm", {"multipliers": [1, 2], "dropout": 0}, {}, {"multipliers": (1, 2), "dropout": 0.0}),
        ("vae", {"straight_through": "true"}, {}, {"straight_through": True}),
        ("vae", {"straight_through": "False"}, {}, {"straight_through": False}),
        ("vae", {"straight_through": True}, {}, {"straight_through": True}),
        ("gan", {"betas": "0.5,0.9", "steps": "7", "lr": "1e-3"}, {"betas": (0.5, 0.9), "steps": 7, "lr": 1e-3}, {}),
        ("gan", {"betas": [0, 0.9], "steps": 7, "lr": 1}, {"betas": (0.0, 0.9), "steps": 7, "lr": 1.0}, {}),
    ]:
        assert in_their_types(model, values) == (training, own)
    for model, name, value, word in [
        ("vae", "latent", "3.5", "int"), ("vae", "latent", "", "int"), ("vae", "rng", 3, "no setting 'rng'"),
        ("vae", "latnet", 3, "did you mean 'latent'"), ("vae", "setps", 3, "did you mean 'steps'"),
        ("ddpm", "multipliers", "1,x", "multipliers"), ("ddpm", "multipliers", 3, "multipliers"),
        ("vae", "steps", 3.5, "int"), ("vae", "steps", True, "int"), ("vae", "lr", "fast", "a number"),
        ("vae", "lr", True, "a number"), ("vae", "decoder", 3, "text"), ("vae", "lr", 10**400, "a number"),
        ("vae", "betas", "0.9", "betas must be 2 numbers with commas between them, got '0.9'"),
        ("vae", "betas", [0.9], r"betas must be 2 numbers, got \[0.9\]"),
        ("ddpm", "multipliers", 3, "multipliers must be some integers, got 3"),
        ("vae", "steps", [3], "int"), ("vae", "betas", [0.5, "x"], "betas"), ("vae", "steps", "9" * 5000, "int"),
        ("vae", "straight_through", "yes", "true or false"), ("vae", "straight_through", 1, "true or false"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            in_their_types(model, {name: value})


def test_no_setting_has_two_meanings() -> None:
    """Settings of the models and of training are given by name alone, so no name is both's; each has an explanation and
    is shown with its default."""
    for model in MODELS:
        assert not model_parameters(model).keys() & {f.name for f in dataclasses.fields(Settings)}
        assert [text.partition("=")[0] for text, _ in explained(model)] == list(model_parameters(model))
    about = {"model", "data", "image_shape", "levels", "data_dir", "size", "color", "data_levels"}
    about |= {"fingerprints", "model_settings"}
    assert TRAINING.keys() == {f.name for f in dataclasses.fields(Settings)} - about
    usual = make_settings("vae", some_images(), TINY["vae"], batch=8)
    for name in TRAINING.keys() - {"batch"}:
        assert as_text(getattr(usual, name)) in default(name, "vae"), name


USUAL = {
    "clip": 0.0, "log_every": 10, "checkpoint_every": 500, "keep": 3, "seed": 0, "device": "cpu",
    "precision": "float32", "execution": "eager", "data_dir": None, "size": None, "color": None,
    "weight_decay": 0.0, "batch": 64,
}  # fmt: skip
SMALL: dict[str, dict[str, Any]] = {
    "pixelcnn": {"steps": 800, "lr": 3e-3, "ema": 0.98, "model_settings": {"channels": 64}},
    "gated-pixelcnn": {"steps": 800, "lr": 5e-3, "ema": 0.98, "threads": 2, "model_settings": {"dropout": 0.35}},
    "pixelrnn": {"steps": 550, "lr": 6e-3, "ema": 0.98, "threads": 2, "model_settings": {"hidden": 48}},
    "vae": {"steps": 900, "lr": 1e-3, "ema": 0.98, "model_settings": {}},
    "hierarchical-vae": {"steps": 1200, "lr": 2e-3, "ema": 0.98, "weight_decay": 0.3, "model_settings": {}},
    "autoencoder": {"steps": 900, "lr": 1e-3, "ema": 0.98, "model_settings": {}},
    "wae": {
        "steps": 2000,
        "batch": 128,
        "lr": 1e-3,
        "ema": 0.98,
        "model_settings": {"decoder": "categorical", "weight": 100.0},
    },
    "aae": {
        "steps": 600,
        "lr": 2e-3,
        "ema": 0.98,
        "betas": (0.5, 0.999),
        "weight_decay": 2.0,
        "model_settings": {"latent": 8, "weight": 2.0},
    },
    "gan": {"steps": 800, "lr": 5e-4, "ema": 0.98, "betas": (0.5, 0.999), "model_settings": {}},
    "sagan": {"steps": 800, "lr": 1e-3, "ema": 0.98, "betas": (0.0, 0.9), "model_settings": {}},
    "biggan": {"steps": 800, "lr": 1e-3, "ema": 0.98, "betas": (0.0, 0.9), "model_settings": {}},
    "infogan": {"steps": 800, "lr": 5e-4, "ema": 0.98, "betas": (0.5, 0.999), "model_settings": {"noise": 20}},
    "pix2pix": {
        "steps": 600,
        "lr": 1e-3,
        "betas": (0.5, 0.999),
        "ema": 0.98,
        "model_settings": {"channels": 32, "stages": 2, "discriminator_stages": 0, "dropout": 0.1},
    },
    "cyclegan": {
        "steps": 600,
        "lr": 1e-3,
        "betas": (0.5, 0.999),
        "ema": 0.98,
        "model_settings": {"channels": 32, "stages": 0, "blocks": 1, "discriminator_stages": 1},
    },
    "spade": {
        "steps": 800,
        "lr": 1e-3,
        "betas": (0.0, 0.9),
        "ema": 0.98,
        "model_settings": {"channels": 32, "hidden": 32, "discriminator_stages": 0},
    },
    "stylegan": {
        "steps": 800,
        "lr": 5e-3,
        "betas": (0.0, 0.99),
        "ema": 0.98,
        "model_settings": {"penalty": 0.5},
    },
    "super-resolution": {"steps": 1200, "lr": 2e-3, "ema": 0.98, "model_settings": {"T": 200, "channels": 32}},
    "ddpm": {"steps": 600, "lr": 2e-3, "ema": 0.98, "model_settings": {"T": 200, "channels": 32}},
    "binomial-diffusion": {"steps": 900, "lr": 3e-3, "ema": 0.98, "model_settings": {"channels": 32}},
    "latent-ddpm": {"steps": 900, "lr": 1e-3, "ema": 0.98, "model_settings": {"T": 200}},
}
LARGE: dict[str, dict[str, Any]] = {
    "pixelcnn": {
        "steps": 3000, "lr": 1e-3, "ema": 0.995,
        "model_settings": {"channels": 64, "kernel_size": 7, "dropout": 0.0},
    },
    "gated-pixelcnn": {
        "steps": 3000, "lr": 1e-3, "ema": 0.995, "model_settings": {"channels": 48, "dropout": 0.0},
    },
    "pixelrnn": {"steps": 2000, "lr": 1e-3, "ema": 0.995, "model_settings": {"hidden": 32, "dropout": 0.0}},
    "vae": {"steps": 4000, "lr": 1e-3, "ema": 0.995, "model_settings": {"latent": 32, "decoder": "logistic"}},
    "hierarchical-vae": {
        "steps": 4000, "lr": 1e-3, "ema": 0.995, "model_settings": {"latent": 32, "decoder": "logistic"},
    },
    **{
        name: {"steps": 4000, "lr": 1e-3, "ema": 0.995, "model_settings": {}} for name in ("autoencoder", "wae", "aae")
    },
    "gan": {"steps": 4000, "lr": 3e-4, "ema": 0.995, "betas": (0.5, 0.999), "model_settings": {"channels": 32}},
    "sagan": {"steps": 4000, "lr": 4e-4, "ema": 0.995, "betas": (0.0, 0.9), "model_settings": {"channels": 32}},
    "biggan": {"steps": 4000, "lr": 4e-4, "ema": 0.995, "betas": (0.0, 0.9), "model_settings": {"channels": 32}},
    "infogan": {"steps": 4000, "lr": 3e-4, "ema": 0.995, "betas": (0.5, 0.999), "model_settings": {"channels": 32}},
    "pix2pix": {"steps": 4000, "lr": 2e-4, "ema": 0.995, "betas": (0.5, 0.999), "model_settings": {"channels": 32}},
    "cyclegan": {"steps": 4000, "lr": 2e-4, "ema": 0.995, "betas": (0.5, 0.999), "model_settings": {"channels": 32}},
    "spade": {
        "steps": 4000, "lr": 4e-4, "betas": (0.0, 0.9), "ema": 0.995, "model_settings": {"channels": 32, "hidden": 32},
    },
    "stylegan": {
        "steps": 4000, "lr": 2e-3, "betas": (0.0, 0.99), "ema": 0.995, "model_settings": {"channels": 16},
    },
    "ddpm": {
        "steps": 3000, "lr": 1e-3, "ema": 0.995,
        "model_settings": {"channels": 32, "multipliers": (1, 2, 2), "patch": 4},
    },
    **{
        name: {"steps": 3000, "lr": 1e-3, "ema": 0.995, "model_settings": {"channels": 32, "multipliers": (1, 2, 2)}}
        for name in ("super-resolution", "binomial-diffusion")
    },
    "latent-ddpm": {"steps": 4000, "lr": 1e-3, "ema": 0.995, "model_settings": {"decoder": "logistic"}},
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_settings_unless_given(model: str) -> None:
    """A default that moves changes everybody's runs: these are they, for images whose longer side has at most 16 pixels
    and for larger ones.  The GAN's are DCGAN's β_1 = ½ and no warm-up.  Radford et al. 2016, section 4."""
    warmup = 0 if model != "aae" and "betas" in SMALL[model] else 100
    for recipes, threads, samples_every, test_every, sizes in (
        (SMALL, 1, 200, 25, [(8, 16), (16, 4)]), (LARGE, 2, 1000, 100, [(4, 20), (20, 4)]),
    ):  # fmt: skip
        expected = USUAL | {"betas": (0.9, 0.999), "threads": threads} | recipes[model]
        expected |= {"warmup": warmup, "model": model}
        for size in sizes:
            levels = 2 if model == "binomial-diffusion" else 7
            images = Images(np.zeros((130, 1, *size), np.uint8), None, levels, "of some kind")
            found = dataclasses.asdict(make_settings(model, images))
            about = {
                "samples_every": samples_every,
                "test_every": test_every,
                "patience": 0,
                "data": "of some kind",
                "image_shape": (1, *size),
                "levels": levels,
            }
            assert found.items() >= (expected | about).items()


def test_what_is_given_wins() -> None:
    """Over the recipe, and of the model's settings one by one; None is as if it was not given; a recipe's batch is no
    larger than the number of images."""
    images = Images(np.zeros((40, 1, 8, 8), np.uint8), None, 4, "x")
    found = make_settings("ddpm", images, {"channels": 8}, lr=0.5, ema=None, keep=9, size=(8, 8))
    assert found.model_settings == {"T": 200, "channels": 8}
    assert (found.lr, found.ema, found.keep, found.size) == (0.5, SMALL["ddpm"]["ema"], 9, (8, 8))
    assert found.batch == 40
    assert make_settings("gan", images, batch=40).batch == 40
    with pytest.raises(ValueError, match="at most the 40 images"):
        make_settings("gan", images, batch=41)


def test_ranges_of_settings() -> None:
    """The least and the largest value of each setting are allowed; what lies just beyond is refused by its name."""
    most, tiny = 2**31 - 1, 5e-324
    counted = {"steps": 1, "threads": 1, "log_every": 1, "checkpoint_every": 1, "keep": 1, "warmup": 0, "seed": 0,
               "samples_every": 0, "test_every": 0}  # fmt: skip
    allowed = [(name, value) for name, low in counted.items() for value in (low, most)]
    refused = [(name, value) for name, low in counted.items() for value in (low - 1, most + 1)]
    below_one = math.nextafter(1, 0)
    allowed += [
        ("batch", 1),
        ("batch", 30),
        ("lr", tiny),
        ("lr", 1e308),
        ("weight_decay", 0.0),
        ("weight_decay", 1e308),
    ]
    allowed += [("clip", 0.0), ("clip", 1e308), ("ema", 0.0), ("ema", below_one), ("betas", (0.0, below_one))]
    allowed += [("betas", (below_one, 0.0))]
    refused += [("batch", 0), ("batch", 31), ("lr", 0.0), ("lr", -tiny), ("lr", math.inf), ("lr", math.nan)]
    refused += [(name, x) for name in ("weight_decay", "clip") for x in (-tiny, math.inf, math.nan)]
    refused += [("ema", -tiny), ("ema", 1.0), ("ema", math.nan), ("betas", (-tiny, 0.9)), ("betas", (0.9, 1.0))]
    refused += [("betas", (0.9,)), ("betas", (0.9, 0.9, 0.9)), ("betas", (math.nan, 0.9)), ("precision", "half")]
    refused += [("precision", "tf32"), ("execution", "lazy"), ("execution", "graph"), ("device", "tpu")]
    for name, value in allowed:
        assert getattr(settings_of("gan", **{name: value}), name) == value
    for name, value in refused:
        with pytest.raises(ValueError, match=f"^{name}"):
            settings_of("gan", **{name: value})


def test_images_that_are_too_large() -> None:
    """Up to 128·128 pixels, however many colours; beyond them, even by a row, another size is asked for."""
    for shape in ((1, 128, 128), (3, 128, 128), (1, 16, 1024)):
        images = Images(np.zeros((2, *shape), np.uint8), None, 4, "x")
        assert make_settings("gan", images, {"channels": 1, "latent": 1}).image_shape == shape
    with pytest.raises(ValueError, match=r"16384 pixels, got shape \(1, 129, 128\)"):
        make_settings("gan", Images(np.zeros((2, 1, 129, 128), np.uint8), None, 4, "x"))


def test_defaults_as_they_are_shown() -> None:
    """Those of a model's recipe, with the larger images' beside them; of all models, one value if all have it."""
    assert default("batch", "vae") == "64"
    assert default("batch", "wae") == "128; images beyond 16 pixels: 64"
    assert default("betas", "aae") == "0.5,0.999; images beyond 16 pixels: 0.9,0.999"
    assert default("betas", "stylegan") == "0.0,0.99"
    assert default("keep") == default("keep", "gan") == "3"
    assert default("samples_every") == default("samples_every", "gan") == "200; images beyond 16 pixels: 1000"
    for name in ("batch", "lr", "betas"):
        assert default(name) == "differs by model: nanogen train MODEL --help"
    shown = dict(explained("ddpm"))
    assert shown["T=200"] == "the number of diffusion steps, at least 2. (images beyond 16 pixels: 1000)"
    assert shown["channels=32"] == "the width of the U-Net at full size, even."
    assert shown["multipliers=1,2"].endswith("half the one before. (images beyond 16 pixels: 1,2,2)")


def test_files_of_settings(tmp_path: Path) -> None:
    """TOML as it stands; a run's settings.json without what its images say themselves and what is not set, the model's
    own settings beside the others; of at most 32 KiB."""
    (tmp_path / "x.toml").write_text('levels = 3\nmodel = "vae"\nbetas = [0.5, 0.9]\n')
    assert read_config(tmp_path / "x.toml") == {"levels": 3, "model": "vae", "betas": [0.5, 0.9]}
    settings = settings_of("vae", size=(8, 8))
    Run(tmp_path).write_settings(settings)
    expected = {k: v for k, v in dataclasses.asdict(settings).items() if v is not None} | settings.model_settings
    for name in ("image_shape", "levels", "model_settings"):
        del expected[name]
    assert read_config(tmp_path / "settings.json") == expected | {"betas": list(settings.betas), "size": [8, 8]}
    for length in (2**15, 2**15 + 1):
        (tmp_path / "long.toml").write_text("keep = 2\n" + "#" * (length - 9))
        if length == 2**15:
            assert read_config(tmp_path / "long.toml") == {"keep": 2}
        else:
            with pytest.raises(ValueError, match=r"long.toml is longer"):
                read_config(tmp_path / "long.toml")
    (tmp_path / "x.json").write_text('{"model": "gan", "lr": null}')
    assert read_config(tmp_path / "x.json") == {"model": "gan"}
    for contents, word in (("[1]", "by name"), ('{"lr": {"a": 1}}', "lr must be a setting"), ("{", "x.json")):
        (tmp_path / "x.json").write_text(contents)
        with pytest.raises(ValueError, match=word):
            read_config(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match=r"nothing.toml"):
        read_config(tmp_path / "nothing.toml")
    assert split_assignment("a=b=c") == ("a", "b=c")
    assert split_assignment("a=") == ("a", "")
    with pytest.raises(ValueError, match="name=value, got 'a'"):
        split_assignment("a")


# Figures and pictures


def test_bits_per_dim() -> None:
    """nats / (D log 2): 8 bits for 256 equally likely levels."""
    assert metrics.bits_per_dim(12 * math.log(256), 12) == pytest.approx(8)


def test_a_gan_has_no_likelihood() -> None:
    """None for the family without a density."""
    assert metrics.likelihood(loop.build_model(settings_of("gan")), some_images().images, ng.Generator(0)) is None


def test_nearest_by_brute_force() -> None:
    """The image at the smallest Euclidean distance, by trying all; uint8 does not wrap around."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (n, 1, 3, 2)).astype(np.uint8) for n in (5, 9))
    expected = [np.argmin([((x.astype(float) - y) ** 2).sum() for y in b]) for x in a]
    assert metrics.nearest(a, b).tolist() == expected


@pytest.mark.parametrize("colors", [1, 3])
def test_grid(colors: int) -> None:
    """Row by row, levels spread over 0 … 255, each pixel enlarged to a square, and grey where no image is."""
    images = np.random.default_rng(0).integers(0, 5, (5, colors, 14, 28)).astype(np.uint8)
    picture = np.asarray(grid(images, 5, columns=3))
    picture = picture.reshape(*picture.shape[:2], -1)
    gap = picture.shape[0] - 2 * 28
    assert gap > 0
    assert picture.shape == (2 * 28 + gap, 3 * 56 + 2 * gap, colors)
    for i, image in enumerate(images):
        y, x = i // 3 * (28 + gap), i % 3 * (56 + gap)
        cell = picture[y : y + 28, x : x + 56]
        expected = (image.transpose(1, 2, 0) * 63.75).round()
        for dy, dx in ((0, 0), (1, 1), (0, 1)):
            assert np.array_equal(cell[dy::2, dx::2], expected)
    assert (picture[28 + gap :, 2 * (56 + gap) :] == GREY).all(), "no image there"


def test_each_discriminator_step_sees_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """k steps of the discriminator draw k minibatches, and the next k go on from there.  Goodfellow et al. 2014,
    algorithm 1."""
    model_settings = {**TINY["gan"], "discriminator_steps": 3}
    settings = make_settings("gan", some_images(), model_settings, steps=STEPS, batch=5)
    trainer, seen = Trainer(settings, some_images()), []
    loss = trainer.model.discriminator_loss

    def record(images: np.ndarray, rng: ng.Generator) -> ng.Tensor:
        seen.append(images)
        return loss(images, rng)

    trainer.updates = [
        update._replace(loss=record) if update.name == "discriminator" else update for update in trainer.updates
    ]
    for _ in range(2):
        trainer.advance()
    expected = [some_images().images[batch_indices(i, 30, settings)] for i in range(1, 7)]
    assert len(seen) == 6
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_numbers_that_go_wrong_stop_the_run(tmp_path: Path) -> None:
    """A learning rate far too large ends with the step and the advice, whichever part of the model notices first."""
    with pytest.raises(FloatingPointError, match="smaller lr"), np.errstate(all="ignore"):
        trained("vae", tmp_path, lr=1e6, steps=40)
