"""The training loop: batches, updates, metrics and checkpoints, for all four families of models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from nanogen import distributed
from nanogen.autograd import Tensor, grad
from nanogen.backend import Array, allow_tf32, device_of, replay, to_device, to_numpy
from nanogen.data import Images
from nanogen.distributed import broadcast, everyones, mean_over_ranks, rank, size
from nanogen.models import GenerativeModel
from nanogen.models.base import Update
from nanogen.optim import AdamW, ExponentialMovingAverage, clip_grad_norm_
from nanogen.random import Generator
from nanogen.training.anomaly import Anomaly, detect_anomaly, is_finite
from nanogen.training.checkpoint import Checkpoint, save_checkpoint, with_prefix, without_prefix
from nanogen.training.files import write_atomically
from nanogen.training.pictures import draw_progress
from nanogen.training.run import (
    SHUFFLES,
    STEPS,
    TEST,
    Run,
    Settings,
    all_settings,
    averaged_weights,
    build_model,
    check_labels,
    log,
    model_parameters,
)
from nanogen.training.stopping import Interrupted, Stop

TESTED = 128  # first test images, whose loss is the test loss
TEST_BATCH = 64


def learning_rate(step: int, settings: Settings) -> float:
    """The learning rate at step 1 … steps: a linear rise over `warmup` steps, times half a cosine from lr to 0.

    Loshchilov & Hutter 2017, eq. 5, without restarts."""
    rise = min(1.0, step / settings.warmup) if settings.warmup else 1.0
    return settings.lr * rise * 0.5 * (1 + math.cos(math.pi * (step - 1) / settings.steps))


def batch_indices(step: int, count: int, settings: Settings) -> np.ndarray:
    """The indices of the images in a batch: each epoch is a new random permutation of all `count` images.

    A function of the step 1, 2, …, so that a resumed run continues where it was interrupted."""
    positions = range((step - 1) * settings.batch, step * settings.batch)
    return np.array([order(settings.seed, position // count, count)[position % count] for position in positions])


@functools.lru_cache(4)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the images in epoch 0, 1, …; cached, as it takes 1.7 ms for 60,000 images."""
    return Generator(seed).stream(SHUFFLES, epoch).permutation(count)


class Trainer:
    """A model in training: its optimisers, its averaged weights and the step it has reached.

    Args:
        test: the test images, for test losses.

    Attributes:
        inspected: whether every result is checked, and the first that is not finite raises an error; slow.
    """

    def __init__(self, settings: Settings, images: Images, test: Images | None = None):
        if settings.batch % size():
            raise ValueError(f"batch must be a multiple of the {size()} ranks that share it, got {settings.batch}")
        if settings.execution == "graph" and size() > 1:
            raise ValueError(
                f"execution must be eager with {size()} ranks, which average gradients on the host, got graph"
            )
        self.inspected = False
        self.settings, self.images, self.test, self.step = settings, images, test, 0
        allow_tf32(settings.precision == "tf32")
        self.model: GenerativeModel = build_model(settings)
        check_labels(images, self.model.classes)
        self.dataset = self.inputs(images)
        self.updates: list[Update] = self.model.updates()
        self.parameters = {update.name: list(update.part.parameters()) for update in self.updates}
        if settings.patience and len(self.parameters) > 1:
            raise ValueError(f"patience must be 0: {settings.model} has the losses {', '.join(self.parameters)}")
        self.optimizers = {
            name: AdamW(parameters, settings.lr, settings.betas, weight_decay=settings.weight_decay)
            for name, parameters in self.parameters.items()
        }
        self.average = ExponentialMovingAverage(self.model.parameters(), settings.ema)
        self.recent: dict[str, list[Any]] = {name: [] for name in self.parameters}  # losses per step
        self.replayed = replay(self.compute_on_device) if settings.execution == "graph" else None
        self.part = distributed.part(settings.batch)  # this rank's part of the batch

    def inputs(self, images: Images) -> tuple[Any, ...]:
        """The images, and their labels if the model is conditional."""
        return (images.images, images.labels) if self.model.classes else (images.images,)

    def advance(self) -> dict[str, Tensor]:
        """One training step of all ranks.  Returns the losses by name.

        Raises:
            Anomaly: a number that is not finite, if `inspected`.
        """
        self.step += 1
        with detect_anomaly(self.model) if self.inspected else contextlib.nullcontext():
            losses = self.update()
        if self.inspected and (name := not_finite(self.model.state_dict())):
            raise Anomaly(f"the update of {name} gave a number that is not finite")
        return losses

    def update(self) -> dict[str, Tensor]:
        """One training step without checks: see `advance`."""
        batches, numbers = self.batches(), self.numbers()
        own = Generator(self.settings.seed, self.settings.device).part(self.part, self.settings.batch)
        rng = own.stream(STEPS, self.step)
        if self.replayed is None or self.inspected:
            return self.compute(batches, numbers, rng)
        arrays = [array for batch in batches for array in batch]
        losses = self.replayed(rng.key, *arrays, *[np.array(some, np.float32) for some in numbers])
        return {name: Tensor(loss) for name, loss in zip(self.parameters, losses, strict=True)}

    def batches(self) -> list[tuple[np.ndarray, ...]]:
        """This rank's part of the images, and of the labels if the model is conditional, for each update of the step.

        An update that occurs several times gets different images each time."""
        names = [update.name for update in self.updates]
        repeats = max(names.count(name) for name in names)
        orders = [(self.step - 1) * repeats + names[:i].count(name) + 1 for i, name in enumerate(names)]
        chosen = [batch_indices(order, len(self.images), self.settings)[self.part] for order in orders]
        return [tuple(array[which] for array in self.dataset) for which in chosen]

    def numbers(self) -> list[list[float]]:
        """The step-dependent numbers of each update's optimiser, and of the average."""
        rates = []
        for update in self.updates:
            self.optimizers[update.name].lr = learning_rate(self.step, self.settings)
            rates.append(self.optimizers[update.name].advance())
        return [*rates, self.average.advance()]

    def compute(
        self, batches: Sequence[Sequence[Any]], numbers: Sequence[Sequence[Any]], rng: Generator
    ) -> dict[str, Tensor]:
        """The model's updates in order, then the update of the average.  Returns the losses by name."""
        losses, (*rates, decay) = {}, numbers
        for (name, loss_of, part), (images, *labels), rate in zip(self.updates, batches, rates, strict=True):
            loss = loss_of(images, rng, *labels)
            grads: Any = grad(loss, self.parameters[name])
            mean, *means = mean_over_ranks(loss.data, *[g.data for g in grads])
            for parameter, g in zip(self.parameters[name], means, strict=True):
                parameter.grad = Tensor(g)
            if self.settings.clip:
                clip_grad_norm_(self.parameters[name], self.settings.clip)
            self.optimizers[name].step(numbers=rate)
            self.optimizers[name].zero_grad()
            self.model.constrain(part)
            losses[name] = Tensor(mean)
        self.average.update(decay)
        return losses

    def compute_on_device(self, key: Array, *arrays: Array) -> list[Array]:
        """`compute` on device arrays, which contain everything that changes from step to step."""
        each = len(self.dataset)
        batches = [arrays[i * each : (i + 1) * each] for i in range(len(self.updates))]
        numbers = arrays[len(self.updates) * each :]
        rng = Generator(self.settings.seed, self.settings.device).at(key)
        rates = [[some[i] for i in range(len(some))] for some in numbers]
        return [loss.data for loss in self.compute(batches, rates, rng).values()]

    def samples_due(self) -> bool:
        """Whether this step needs a picture of samples, and the weights are finite."""
        every = self.settings.samples_every
        return every > 0 and self.step % every == 0 and not not_finite(self.model.state_dict())

    def picture_missing(self, run: Run) -> bool:
        """Whether the run was stopped between this step, at which a picture is due, and the picture."""
        reached = 0 < self.step < self.settings.steps
        return reached and self.samples_due() and not run.samples_file(self.step).exists()

    def test_due(self) -> bool:
        """Whether this step needs test losses, and the weights are finite."""
        every, last = self.settings.test_every, self.step == self.settings.steps
        due = self.test is not None and every > 0 and (last or self.step % every == 0)
        return due and not not_finite(self.model.state_dict())

    def test_losses(self, test: Images) -> dict[str, float]:
        """The mean losses of the first test images, by name: with the averaged weights, in evaluation mode.

        The random numbers are the same at each step, so that only the weights change the losses."""
        means, count = dict.fromkeys(self.parameters, 0.0), min(TESTED, len(test))
        rng = Generator(self.settings.seed, self.settings.device).stream(TEST)
        self.model.eval()
        try:
            with self.average:
                for part in np.array_split(np.arange(count), math.ceil(count / TEST_BATCH)):  # none of a single image
                    images, *labels = (array[part] for array in self.inputs(test))
                    for name, loss_of in {update.name: update.loss for update in self.updates}.items():
                        means[name] += float(loss_of(images, rng, *labels).data) * len(images) / count
        except (ValueError, FloatingPointError):  # for example a density with NaN parameters
            return dict.fromkeys(means, math.nan)
        finally:
            self.model.train()
        return means

    def arrays(self) -> dict[str, np.ndarray]:
        """The state of the run, except for the settings and the step."""
        names = [name for name, _ in self.model.named_parameters()]
        arrays = with_prefix("model.", self.model.state_dict())
        arrays |= with_prefix("average.", dict(zip(names, self.average.averages, strict=True)))
        for part, optimizer in self.optimizers.items():
            arrays |= with_prefix(f"optimizer.{part}.", optimizer.state_dict())
        return {name: to_numpy(array) for name, array in arrays.items()}

    def checkpoint(self) -> Checkpoint:
        recent = {name: np.array([float(loss) for loss in losses]) for name, losses in self.recent.items()}
        settings = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        return Checkpoint(self.step, settings, self.arrays() | with_prefix("recent.", recent))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: a checkpoint of another model, or of a step beyond the settings'.
        """
        if checkpoint.step > self.settings.steps:
            raise ValueError(f"steps must be at least {checkpoint.step}, which the run has reached")
        self.step, arrays = checkpoint.step, checkpoint.arrays
        self.model.load_state_dict(without_prefix("model.", arrays))
        averages = averaged_weights(self.model, arrays)
        for (name, _), average in zip(self.model.named_parameters(), self.average.averages, strict=True):
            average[...] = to_device(averages[name], device_of(average))
        self.average.steps = self.step
        for part, optimizer in self.optimizers.items():
            optimizer.load_state_dict(without_prefix(f"optimizer.{part}.", arrays))
        recent = without_prefix("recent.", arrays)
        if recent.keys() != self.recent.keys():
            raise ValueError(f"the checkpoint's losses are {sorted(recent)}, not {sorted(self.recent)}")
        self.recent = {name: recent[name].tolist() for name in self.recent}  # arrays in a file have no fixed order
        if self.replayed:
            self.replayed = replay(self.compute_on_device)  # capture again: arrays were replaced


def train(trainer: Trainer, run: Run, on_step: Callable[[int, float], None], stop: object = False) -> None:
    """Train to the last step of the settings.  Writes `metrics.csv`, `test.csv`, `seconds.csv` and checkpoints to the
    run's folder.

    Losses are only checked when they are logged, and the state only before it is saved, so that steps do not wait for
    the GPU.

    Args:
        on_step: called with the step and the sum of the losses; the sum is NaN at steps that are not logged.
        stop: once it is true on any rank, the current step is finished, a checkpoint is written, and this returns.

    Raises:
        FloatingPointError: a number is not finite, or can't be computed; the last checkpoint is unchanged.
        OSError: a file can't be written; the last checkpoint is unchanged.
    """
    settings, stopping = trainer.settings, False
    before, start = {0: 0.0, **run.seconds()}.get(trainer.step), time.process_time()
    early = broadcast(not rank() and run.out_of_patience())
    if not rank() and trainer.picture_missing(run) and not early:
        draw(trainer, run)
    metrics = Path(os.devnull) if rank() else run.metrics_file  # only the first rank writes
    with metrics.open("a", encoding="utf-8") as file, np.errstate(all="ignore"):
        while trainer.step < settings.steps and not (stopping or early):
            try:
                losses = trainer.advance()  # overflows are detected below
            except (ValueError, FloatingPointError) as error:
                if isinstance(error, ValueError) and not has_bad_numbers(trainer):
                    raise
                raise failure(trainer, run, str(error)) from error
            for name, loss in losses.items():
                trainer.recent[name].append(loss)
            stopping = any(everyones(bool(stop)))  # read once per step: a later signal stops the next step
            best = False
            if trainer.test_due():
                early, best = write_test_losses(trainer, run)
            last, total = early or trainer.step == settings.steps, math.nan
            if last or trainer.step % settings.log_every == 0:
                means = {name: sum(map(float, recent)) / len(recent) for name, recent in trainer.recent.items()}
                if not math.isfinite(total := sum(means.values())):
                    raise failure(trainer, run, f"the mean loss is {means}")
                file.write(",".join([str(trainer.step), *(f"{mean:.6g}" for mean in means.values())]) + "\n")
                file.flush()
                trainer.recent = {name: [] for name in means}
            if last or stopping or best or trainer.step % settings.checkpoint_every == 0:
                if not rank() and before is not None:  # first: no checkpoint is without its row
                    run.note_seconds(trainer.step, before + time.process_time() - start)
                save(trainer, run, file)
            if not rank() and trainer.samples_due() and not (last or stopping):
                file.flush()
                draw(trainer, run)
            on_step(trainer.step, total)


def write_test_losses(trainer: Trainer, run: Run) -> tuple[bool, bool]:
    """Add this step's test losses to `test.csv`.

    Returns:
        On all ranks, whether the run is out of patience, and whether it has patience and this is the best step."""
    if not rank() and trainer.test is not None:
        losses = trainer.test_losses(trainer.test).values()
        with run.test_file.open("a", encoding="utf-8") as file:
            file.write(",".join([str(trainer.step), *(f"{loss:.6g}" for loss in losses)]) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint of this step
    best = None if rank() or not trainer.settings.patience else run.best_test()
    return broadcast((not rank() and run.out_of_patience(), best is not None and best.step == trainer.step))


def save(trainer: Trainer, run: Run, metrics: TextIO) -> None:
    """Write a checkpoint after the metrics up to its step are on the disk, then remove old checkpoints.

    Raises:
        FloatingPointError: a number in it is not finite; then nothing is written.
    """
    checkpoint = trainer.checkpoint()
    if name := not_finite(checkpoint.arrays):
        raise failure(trainer, run, f"{name} is not finite")
    if rank():
        return
    metrics.flush()
    os.fsync(metrics.fileno())
    save_checkpoint(run.checkpoint_file(trainer.step), checkpoint)
    run.remove_old()


def draw(trainer: Trainer, run: Run) -> None:
    """Draw pictures with the averaged weights.  A failure is only logged, because a picture must not stop the run.

    A signal ends the drawing, which may take minutes, and is then handled as at any other time of the training."""
    try:
        with trainer.average, Stop(at_once=True):
            draw_progress(run, trainer.model, trainer.step)
    except (ValueError, FloatingPointError) as error:
        log.warning("nanogen: no picture of step %d: %s", trainer.step, error)
    except Interrupted as error:
        signal.raise_signal(error.status - 128)


def not_finite(arrays: dict[str, Any]) -> str | None:
    """The name of the first array that contains a number that is not finite, or None."""
    return next((name for name, array in arrays.items() if not is_finite(array)), None)


def has_bad_numbers(trainer: Trainer) -> bool:
    """Whether a step failed because of a number that is not finite, for example in the parameters of a density.

    Searches the weights and, if there is only one rank, repeats the step."""
    if not_finite(trainer.model.state_dict()):
        return True
    try:
        with contextlib.suppress(ValueError), detect_anomaly(trainer.model):
            if size() == 1:
                trainer.update()
    except FloatingPointError:
        return True
    return False


def failure(trainer: Trainer, run: Run, seen: str) -> FloatingPointError:
    """The error for numbers that are not finite: it names the step, operation and module where they first occurred.

    These are found by repeating the steps since the last checkpoint with `inspected`.  With several ranks they are not
    searched for, because the other ranks may not take part."""
    checkpoint, step = run.checkpoint(), trainer.step
    if not trainer.inspected and size() == 1:
        again = Trainer(trainer.settings, trainer.images)
        again.inspected = True
        if checkpoint:
            again.restore(checkpoint)
        try:
            while again.step < trainer.step:
                again.advance()
            seen += ", but not so when the steps are repeated: is the machine reliable?"
        except (ValueError, FloatingPointError) as error:
            seen, step = str(error), again.step
    good = run.checkpoint_file(checkpoint.step) if checkpoint else "none"
    return FloatingPointError(
        f"numbers went wrong at step {step}: {seen}; the last good checkpoint is {good};"
        " a smaller lr may help, or clip=1"
    )


def begun_from(trainer: Trainer, runs: dict[str, Run]) -> Checkpoint | None:
    """A checkpoint of step 0 with other runs' averaged weights, of the whole model (the part "") or of parts of it.

    Raises:
        ValueError: they do not fit the trainer's model."""
    found = None
    for part, other in runs.items():
        found = with_weights(trainer.checkpoint() if found is None else found, trainer, other, part)
    return found


def with_weights(checkpoint: Checkpoint, trainer: Trainer, other: Run, part: str) -> Checkpoint:
    """The checkpoint with another run's averaged weights for a part of the model: see `begun_from`."""
    theirs, prefix = other.settings(), f"{part}." if part else ""
    weights = with_prefix(prefix, other.model(trainer.settings.device).state_dict())
    shapes = lambda arrays: {name: array.shape for name, array in arrays.items() if name.startswith(prefix)}
    there, here = all_settings(theirs), all_settings(trainer.settings)
    here |= {"model": here[part]} if part else {}
    of_data = ("image_shape", "levels") if part else ()
    if shapes(weights) != shapes(trainer.model.state_dict()) or any(there[name] != here[name] for name in of_data):
        other_ones = ", ".join(
            f"{name} {there[name]}, not {here.get(name)}"
            for name in ("model", "image_shape", "levels", *model_parameters(theirs.model))
            if there[name] != here.get(name) and not (part and name not in here)
        )
        raise ValueError(f"the weights of {other.folder} do not fit: it has {other_ones}")
    weights = {name: to_numpy(array) for name, array in weights.items()}
    averages = {name: weights[name] for name, _ in trainer.model.named_parameters() if name in weights}
    return checkpoint._replace(
        arrays=checkpoint.arrays | with_prefix("model.", weights) | with_prefix("average.", averages)
    )


def begin_metrics(trainer: Trainer, run: Run) -> None:
    """Write `metrics.csv` and `test.csv` with the rows up to the trainer's step.

    A resumed run writes the later rows again.  The last line of the old file may be incomplete."""
    header = ",".join(["step", *trainer.parameters])
    for file in [run.metrics_file, run.test_file][: 2 if trainer.test and trainer.settings.test_every else 1]:
        known = trainer.step and file.is_file()
        rows = file.read_text(encoding="utf-8", errors="replace").splitlines() if known else []
        kept = [row for row in rows[1:] if row.count(",") == header.count(",") and before(row, trainer.step)]
        write_atomically(file, ("\n".join([header, *kept]) + "\n").encode())


def before(row: str, step: int) -> bool:
    number = row.partition(",")[0]
    return number.isdecimal() and int(number) <= step
