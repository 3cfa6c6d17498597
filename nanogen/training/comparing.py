"""`nanogen compare`: trains and evaluates models in processes of their own, and gathers their numbers in one file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from nanogen.backend import use_threads
from nanogen.data import Images
from nanogen.models import MODELS
from nanogen.random import Generator
from nanogen.training.comparison import FRECHET, SHOWN, VERSION, density, finished, packed, read
from nanogen.training.comparison import write as write_pictures
from nanogen.training.features import Features
from nanogen.training.files import locked, to_utf8, write_atomically
from nanogen.training.run import SAMPLES, Run, Settings, all_settings, check_model, check_outside, make_settings
from nanogen.training.sampling import sample
from nanogen.training.stopping import Interrupted

N, QUICK_N = 500, 200  # samples of each model
QUICK_TESTS = 150  # test images of a quick comparison, at most
QUICK = 5  # a quick run has this part of the recipe's steps
FAST = 10  # network evaluations of a sample that count as fast, at most
TIMED = 64  # samples that are drawn to time them
WARM = 103  # their seed's random stream of the samples before, in addition to those of a run
LOCATIONS = "data", "data_dir", "data_levels", "fingerprints", "model_settings"  # not compared with a recipe's settings

Command = Callable[[Sequence[str]], int]


class Task(NamedTuple):
    """A model of the comparison.

    Attributes:
        run: its folder.
        expected: the settings of a new run.
        train, test: the images, in the levels that the model takes.
        options: the options of `nanogen train` for these.
    """

    run: Run
    expected: Settings
    train: Images
    test: Images
    options: list[str]

    def commands(self, samples: int, tests: int) -> list[list[str]]:
        """What is left to do, as arguments of the command line: train or go on, and evaluate."""
        folder = str(self.run.folder)
        numbers = str(self.run.folder / "evaluation.json")
        evaluation = ["evaluate", folder, "--samples", str(samples), "--images", str(tests), "--json", numbers]
        if is_finished(self.run):
            return [evaluation]
        if self.run.settings_file.exists():
            return [["train", "--out", folder, "--resume"], evaluation]
        new = ["train", self.expected.model, "--out", folder, "--steps", str(self.expected.steps), *self.options]
        return [new, evaluation]


def compare(
    models: Sequence[str], splits: Sequence[Images], options: list[str], out: Path, quick: bool, jobs: int,
    command: Command, say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Train the models where the folder has no finished run of them, evaluate them, and write the comparison.

    `compare.json` is written after each model, so that an interrupted comparison goes on from there.

    Args:
        models: their names; none means all.  Models that are in the folder's comparison already stay in it.
        splits: the training and the test images.
        options: the options of `nanogen train` for these images.
        out: the folder.
        quick: whether runs are shorter and evaluations smaller.
        jobs: how many models are trained at a time.
        command: runs the command line, and returns the exit status.
        say: prints a line.

    Returns:
        The models that failed.

    Raises:
        ValueError: unknown models; a folder with other files or of another comparison; before anything is written.
    """
    if jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {jobs}")
    for model in models:
        check_model(model)
    check_outside(out, splits[0].name)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out must be a folder, and {out} is a file")
    found = begun(out / "compare.json", splits, quick)
    tasks = {}
    for model in dict.fromkeys(models or MODELS):
        try:
            tasks[model] = task_of(model, splits, options, out / model, quick)
        except ValueError as error:
            found["models"][model] = {"state": "refused", "family": family_of(model), "reason": str(error)}
    for task in tasks.values():
        check_there(task)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        for model, task in tasks.items():
            old = found["models"].get(model, {})
            if old.get("state") != "finished" or old["checkpoint"] != checkpoint_of(task.run):
                found["models"][model] = {"state": "waiting", "family": family_of(model)}
        found["models"] = {model: found["models"][model] for model in MODELS if model in found["models"]}
        write_json(found, out)
        evaluate_all(found, tasks, out, jobs, command, say)
        for model, row in finished(found).items():
            if row["sample_seconds"] is None:
                row |= timed_samples(Run(out / model))
                write_json(found, out)
        for path in [out / "compare.json", *write_pictures(found, out)]:
            say(f"wrote {path}")
    return [model for model in tasks if found["models"][model]["state"] == "failed"]


def begun(file: Path, splits: Sequence[Images], quick: bool) -> dict[str, Any]:
    """The numbers of a comparison that was begun, or those that a new one has.

    Raises:
        ValueError: a comparison of other images, or a quick one in place of a whole one or the other way round."""
    train, test = splits
    new = {
        "version": VERSION, "data": to_utf8(train.name), "fingerprints": [train.fingerprint, test.fingerprint],
        "quick": QUICK if quick else None, "samples": QUICK_N if quick else N,
        "train_images": len(train), "test_images": min(len(test), QUICK_TESTS) if quick else len(test),
        "levels": train.levels, "fast": FAST, "real": packed(test.images[:SHOWN]), "models": {},
    }  # fmt: skip
    if not file.exists():
        return new
    found = read(file)
    for name in ("fingerprints", "quick", "samples", "test_images", "fast"):
        if found.get(name) != new[name]:
            what = "other images" if name == "fingerprints" else f"{name} {found.get(name)}, not {new[name]}"
            raise ValueError(f"{file} is a comparison with {what}: choose another --out")
    return new | {"models": {name: row for name, row in found["models"].items() if name in MODELS}}


def family_of(model: str) -> str:
    """The folder of a model's file: autoregressive, latent, adversarial or diffusion."""
    return MODELS[model].__module__.rpartition(".")[0].rpartition(".")[2]


def task_of(model: str, splits: Sequence[Images], options: list[str], folder: Path, quick: bool) -> Task:
    """A model with the settings of its recipe.  One that does not take the images' levels gets images of two levels.

    Raises:
        ValueError: a model that does not take the images."""
    steps = math.ceil(MODELS[model].recipe(splits[0].shape).steps / (QUICK if quick else 1))
    run, (train, test) = Run(folder), splits
    try:
        return Task(run, make_settings(model, train, steps=steps), train, test, options)
    except ValueError:
        if train.levels == 2:
            raise
        with contextlib.suppress(ValueError):
            expected = make_settings(model, train, steps=steps, levels=2)
            return Task(run, expected, train.requantised(2), test.requantised(2), [*options, "--set", "levels=2"])
        raise


def is_finished(run: Run) -> bool:
    """Whether a run has reached its last step, or ended early."""
    if not run.settings_file.exists() or not run.newest_step():
        return False
    return run.newest_step() >= run.settings().steps or run.out_of_patience()


def check_there(task: Task) -> None:
    """Raises:
    ValueError: the folder has something else than a run of this model on these images."""
    run, levels = task.run, task.expected.levels
    if run.folder.exists() and not run.folder.is_dir():
        raise ValueError(f"{run.folder} is a file: the run of {task.expected.model} needs a folder")
    if not run.settings_file.exists():
        return run.check_new()
    settings = run.settings()
    if settings.model != task.expected.model:
        raise ValueError(f"{run.folder} holds a run of {settings.model}, not of {task.expected.model}")
    same = settings.levels == levels and settings.fingerprints in (
        None,
        (task.train.fingerprint, task.test.fingerprint),
    )
    if not same or settings.image_shape != task.expected.image_shape:
        raise ValueError(f"{run.folder} holds a run on other images: choose another --out")


def checkpoint_of(run: Run) -> str | None:
    """The SHA-256 of a finished run's newest checkpoint; None for others."""
    return hashlib.sha256(run.checkpoint_files()[0].read_bytes()).hexdigest() if is_finished(run) else None


def write_json(found: dict[str, Any], out: Path) -> None:
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=True) + "\n"
    write_atomically(out / "compare.json", text.encode(errors="backslashreplace"))  # as JSON escapes


def evaluate_all(
    found: dict[str, Any], tasks: dict[str, Task], out: Path, jobs: int, command: Command, say: Callable[[str], None]
) -> None:
    """Train and evaluate what is waiting, and write the numbers of each model as soon as they are there."""
    waiting = {model: task for model, task in tasks.items() if found["models"][model]["state"] == "waiting"}
    if not waiting:
        return
    for train in {task.train.levels: task.train for task in waiting.values()}.values():
        Features(train)  # once, and then from the cache
    say(f"{len(waiting)} models, {min(jobs, len(waiting))} at a time; what they print is in {out}/MODEL/compare.log")
    work = {model: task.commands(found["samples"], found["test_images"]) for model, task in waiting.items()}
    done = done_here if jobs == 1 else done_in_processes
    for model, status in done(work, {model: task.run.folder for model, task in tasks.items()}, jobs, command):
        row = found["models"][model]
        if status:
            row |= {"state": "failed", "reason": last_line(tasks[model].run.folder / "compare.log", status)}
        else:
            row |= evaluated(tasks[model])
        write_json(found, out)
        say(f"{model}: {in_short(row)}")


def evaluated(task: Task) -> dict[str, Any]:
    """The row of a model that has been evaluated; its samples are timed later."""
    run, settings = task.run, task.run.settings()
    model, own, recipe = run.model(), all_settings(settings), all_settings(task.expected)
    differs = [f"{k} {own[k]}, not {recipe[k]}" for k in recipe if k not in LOCATIONS and own[k] != recipe[k]]
    return {
        "state": "finished",
        "given": hasattr(model, "translate"),
        "remark": model.remark,
        "levels": settings.levels,
        "differs": differs,
        "checkpoint": checkpoint_of(run),
        "parameters": sum(parameter.data.size for parameter in model.parameters()),
        "training_seconds": run.seconds().get(run.newest_step()),
        "evaluation": json.loads((run.folder / "evaluation.json").read_text(encoding="utf-8")),
        "sample_seconds": None,
        "samples": None,
    }


def timed_samples(run: Run) -> dict[str, Any]:
    """Samples, and the CPU seconds of each on one thread.  Two are drawn before, since the first ones take longer."""
    model, rng = run.model(), Generator(0)
    with use_threads(1):
        sample(model, 2, rng.stream(WARM))
        start = time.process_time()
        images = sample(model, TIMED, rng.stream(SAMPLES))
        return {"sample_seconds": (time.process_time() - start) / TIMED, "samples": packed(images[:SHOWN])}


def in_short(row: dict[str, Any]) -> str:
    if row["state"] == "failed":
        return f"failed: {row['reason']}"
    bits, distance = row["evaluation"]["likelihood"], row["evaluation"]["quality"].get(FRECHET)
    parts = [f"{bits['bits_per_dim']:.2f} bits/dim ({density(row)})"] if bits else []
    return ", ".join(parts + ([f"{FRECHET} {distance['value']:.2f}"] if distance else [])) or "evaluated"


def last_line(log: Path, status: int) -> str:
    """Why a command failed."""
    if status < 0:
        return f"its process was ended by signal {-status}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].removeprefix("nanogen: error: ") if lines else f"exit status {status}"


# Processes


def in_order(commands: list[list[str]], folder: Path, command: Command) -> int:
    """Run commands until one fails, with what they print in `compare.log`.  Returns the exit status."""
    folder.mkdir(exist_ok=True)
    with (
        (folder / "compare.log").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return next((status for given in commands if (status := command(given))), 0)


def done_here(
    work: dict[str, list[list[str]]], folders: dict[str, Path], jobs: int, command: Command
) -> Iterator[tuple[str, int]]:
    """Do the work of each model in this process.  Yields the model and the exit status.

    Raises:
        Interrupted: by a signal."""
    for model, commands in work.items():
        if (status := in_order(commands, folders[model], command)) > 128:
            raise Interrupted(status - 128)
        yield model, status


def done_in_processes(
    work: dict[str, list[list[str]]], folders: dict[str, Path], jobs: int, command: Command
) -> Iterator[tuple[str, int]]:
    """The same in processes of their own, `jobs` at a time.

    Whatever ends this early ends them by SIGTERM, so that runs write a checkpoint."""
    context = multiprocessing.get_context("spawn")  # a fork would copy threads in the middle of their work
    left, running = list(work.items()), dict[Any, Any]()
    try:
        while left or running:
            while left and len(running) < jobs:
                model, commands = left.pop(0)
                process = context.Process(target=child, args=(commands, folders[model], command), daemon=True)
                process.start()
                running[process.sentinel] = model, process
            for sentinel in wait(list(running)):
                model, process = running.pop(sentinel)
                process.join()
                yield model, process.exitcode
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.join()


def child(commands: list[list[str]], folder: Path, command: Command) -> None:
    """The work of one model, in a process that ends with its parent, even if that is killed.

    It is in a group of its own: Ctrl-C in the terminal reaches only the parent, which passes it on."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(in_order(commands, folder, command))


def end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
