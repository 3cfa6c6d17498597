"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import io
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanogen import data
from nanogen.backend import keep_freed_memory, use_threads
from nanogen.distributed import broadcast, end, everyones, first_rank_first, rank, size
from nanogen.models import MODELS
from nanogen.models.base import progress
from nanogen.random import Generator
from nanogen.training.bars import progress_bar, shown
from nanogen.training.checkpoint import Checkpoint, save_checkpoint
from nanogen.training.comparing import compare
from nanogen.training.config import in_their_types
from nanogen.training.editing import check_what, edited, editor, read_mask
from nanogen.training.evaluation import evaluate, larger, table, write
from nanogen.training.files import locked, to_utf8
from nanogen.training.loop import Trainer, begin_metrics, begun_from, learning_rate, train
from nanogen.training.options import (
    given_images,
    given_settings,
    image_options,
    label_of,
    model_lines,
    one_line,
    parser,
    sampling_parameters,
    sampling_settings,
)
from nanogen.training.page import write_page
from nanogen.training.pictures import checked_out, draw_pictures, write_images
from nanogen.training.run import (
    LARGE,
    SAMPLES,
    Run,
    Settings,
    all_settings,
    check_classes,
    check_outside,
    check_ranges,
    load_images,
    log,
    make_settings,
    of_runs,
)
from nanogen.training.sampling import sample
from nanogen.training.stopping import Interrupted, Stop
from nanogen.training.translating import alike, fitting, in_pairs, to_translate, translated, translator

LAUNCHED = ["mpiexec", "-n", str(size())] if size() > 1 else []
WHERE = {"digits": "bundled"}


def run_train(arguments: argparse.Namespace) -> None:
    about, given = given_settings(arguments)
    if arguments.resume:
        if arguments.out is None:
            raise ValueError("--resume needs the run's folder: --out DIR")
        if arguments.init:
            raise ValueError("--init begins a new run: without --resume")
        others: dict[str, Run] = {}
        run = Run(arguments.out, arguments.data_changed)
        settings = run.settings()
        check_same(run, settings, about, given)
        changes = {name: about[name] for name in ("data", "data_dir") if about[name]}
        changes |= {name: value for name, value in in_their_types(settings.model, given)[0].items() if name == "steps"}
        extended = changes.get("steps", settings.steps) != settings.steps
        settings = dataclasses.replace(settings, **changes)
        check_ranges(settings)
        with first_rank_first():
            images = load_images(settings, "train", run.data_changed)
    else:
        if about["model"] is None:
            raise ValueError(f"the model is missing: it must be one of {', '.join(MODELS)}")
        training, own = in_their_types(about["model"], given)
        own, others = of_runs(about["model"], own, arguments.init)
        extended = False
        name = about.pop("data") or "digits"
        run = Run(arguments.out or free_folder(f"{about['model']}-{Path(name).stem[:50]}"))
        run.check_new()
        check_outside(run.folder, name)
        with first_rank_first():
            images = data.load(name, "train", about["data_dir"], about["size"], about["color"])
        settings = make_settings(images=images, model_settings=own, **about, **training)
        images = images.requantised(settings.levels)
    with first_rank_first():
        test = load_images(settings, "test", run.data_changed)
    if not (arguments.resume or arguments.init):  # the weights of an earlier run may know more classes
        check_classes(settings.model_settings.get("classes", 0), images, test)
    settings = dataclasses.replace(settings, fingerprints=(images.fingerprint, test.fingerprint))
    if any(other != settings for other in everyones(settings)):  # all ranks have read the folder, so it may change now
        raise ValueError("the ranks have different settings or images")
    trainer = Trainer(settings, images, test)
    trainer.inspected = arguments.detect_anomaly
    begin = begun_from(trainer, others)
    with contextlib.ExitStack() as held:
        if not rank():
            run.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(run.folder))
        held.enter_context(use_threads(settings.threads))
        if checkpoint := broadcast(None if rank() else prepared(run, arguments.resume)) or begin:
            trainer.restore(checkpoint)
        held.enter_context(how_to_go_on(run, trainer))
        if begin and not rank():  # before the settings, so that --resume can't begin with other weights
            save_checkpoint(run.checkpoint_file(0), begin)
        if not rank():
            run.write_settings(settings)
            run.write_class_names(images.class_names if trainer.model.classes else ())
            run.note(as_command(map(to_utf8, [*LAUNCHED, "nanogen", *arguments.given])))
            begin_metrics(trainer, run)
        size = sum(parameter.data.size for parameter in trainer.model.parameters())
        say = (lambda _: None) if arguments.quiet else print
        say(f"{settings.model} ({size:,} parameters) on {settings.data} ({len(images):,} images), in {run.folder}")
        if begin:
            say(f"begins with the averaged weights of {', '.join(str(other.folder) for other in others.values())}")
        if extended:
            rate = learning_rate(trainer.step + 1, settings)
            say(f"learning rate: from step {trainer.step} along the cosine of {settings.steps:,} steps, {rate:.1e} now")
        bar = progress_bar(arguments.quiet, total=settings.steps, initial=trainer.step, unit="step")

        def on_step(step: int, loss: float) -> None:
            if loss == loss:  # NaN between the steps that are logged
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()
            stop.at_once = False  # only the first step compiles, which takes long

        with bar, Stop(at_once=True) as stop:
            train(trainer, run, on_step, stop)
        if number := max(everyones(stop.number)):
            raise Interrupted(number)
        if trainer.step < settings.steps and not rank() and (best := run.best_test()):
            say(
                f"ended early at step {trainer.step}, whose weights are kept: {best.since} test losses"
                f" were no better than {best.loss:.4g} at step {best.step} (--checkpoint {best.step})"
            )
        for path in [] if rank() else draw_pictures(run, images, test):
            say(f"wrote {path}")


@contextlib.contextmanager
def how_to_go_on(run: Run, trainer: Trainer) -> Iterator[None]:
    """Whatever ends this context early names the command that continues the run, once there is a run."""
    try:
        yield
    except BaseException as error:
        again = as_command(
            [*LAUNCHED, "nanogen", "train", trainer.settings.model, "--out", str(run.folder), "--resume"]
        )
        if not isinstance(error, FloatingPointError) and run.settings_file.is_file():  # these would occur again
            error.add_note(f"at step {trainer.step} of {trainer.settings.steps}; go on with: {again}")
        raise


def prepared(run: Run, resume: bool) -> Checkpoint | None:
    """The checkpoint that a run continues from; None for a new run.

    Raises:
        ValueError: a new run in a folder that already has one."""
    if resume:
        return run.recover()
    run.check_new()
    return None


def check_same(run: Run, settings: Settings, about: dict[str, Any], given: dict[str, Any]) -> None:
    """Check that options beside --resume agree with the run's settings.

    Only the location of the data and the number of steps may differ.

    Raises:
        ValueError: an option differs from the run's setting."""
    if about["model"] not in (None, settings.model):
        raise ValueError(f"{run.folder} holds a run of {settings.model}, not of {about['model']}")
    training, own = in_their_types(settings.model, given)
    there = all_settings(settings)
    for name, value in {**about, **training, **own}.items():
        moved = name in ("data_dir", "steps") or (name == "data" and value and data.may_be(value, settings.data))
        if not moved and value not in (None, there[name]):
            raise ValueError(
                f"the run in {run.folder} has {name} {there[name]}, not {value}: --resume keeps its settings"
            )


def free_folder(name: str) -> Path:
    """runs/NAME; or runs/NAME-2, -3 … if that exists."""
    candidates = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def run_sample(arguments: argparse.Namespace) -> None:
    if arguments.n < 1:
        raise ValueError(f"-n must be at least 1, got {arguments.n}")
    checked_out(arguments.out, arguments.n)
    run = Run(arguments.run, False, arguments.checkpoint)
    settings, model = run.settings(), run.model(arguments.device)
    rng, how = Generator(arguments.seed, arguments.device), sampling_settings(arguments, settings.model)
    if arguments.label is not None:
        label = label_of(arguments.label, run)
        how["labels"] = lambda n, _: np.full(n, label)
    if arguments.level is not None and not arguments.then:
        raise ValueError("--level is for --then")
    then, more = following(arguments, model) if arguments.then else (None, {})
    with use_threads(settings.threads):
        images = sample(model, arguments.n, rng.stream(SAMPLES), **how)
        if then:
            model, images = then, translated(then, images, rng.stream(LARGE), **more)
    if not rank():
        columns = min(arguments.n, max(8, round(arguments.n**0.5)))
        print(f"wrote {write_images(arguments.out, images, images, model.levels, columns)}")


def following(arguments: argparse.Namespace, model: Any) -> tuple[Any, dict[str, Any]]:
    """The model of --then, which translates the images of another, and settings of that.

    Raises:
        ValueError: a model that does not translate, or not such images; a level that it does not have."""
    run = Run(arguments.then)
    then = translator(run, False, False, arguments.device)
    ours, theirs = (model.image_shape, model.levels), (then.source_shape, then.source_levels)
    if ours != theirs:
        what = "images of shape {} and {} levels".format
        raise ValueError(f"{run.folder} is for {what(*theirs)}, but {arguments.run} has {what(*ours)}")
    if arguments.level is None:
        return then, {}
    if "level" not in sampling_parameters(run.settings().model):
        raise ValueError(f"--level is for super-resolution; {run.folder} is a run of {run.settings().model}")
    then.evaluations_with(level=arguments.level)
    return then, {"level": arguments.level}


def run_edit(arguments: argparse.Namespace) -> None:
    run, options = Run(arguments.run, False, arguments.checkpoint), ("strength", "mask", "resample", "width", "n")
    check_what(arguments.images, **{name: getattr(arguments, name) for name in options})
    model = editor(run, arguments.width, arguments.stride, arguments.device)
    rng = Generator(arguments.seed, arguments.device)
    images = arguments.images and fitting(run, arguments.images, model.image_shape, model.levels)
    n = len(images) if images else 8 if arguments.n is None else arguments.n
    if n < 1:
        raise ValueError(f"-n must be at least 1, got {n}")
    anew = read_mask(arguments.mask, *model.image_shape[1:]) if arguments.mask else None
    label = None if arguments.label is None else label_of(arguments.label, run)
    resample = 1 if arguments.resample is None else arguments.resample
    files = images.files if images else ()
    checked_out(arguments.out, n, files)
    with use_threads(run.settings().threads):
        start, found = edited(model, images, n, rng, label, arguments.strength, anew, resample)
    if not rank():
        columns = min(n, 16 if images else 1)
        shown = found if start is None else in_pairs(start, found, columns)
        print(f"wrote {write_images(arguments.out, found, shown, model.levels, columns, files)}")


def run_translate(arguments: argparse.Namespace) -> None:
    run, back = Run(arguments.run, False, arguments.checkpoint), {"back": True} if arguments.back else {}
    model = translator(run, arguments.back, arguments.make_sources, arguments.device)
    images = to_translate(run, model, arguments.images, arguments.back, arguments.make_sources)
    start = images.images
    checked_out(arguments.out, len(start), images.files)
    with use_threads(run.settings().threads):
        found = translated(model, start, Generator(arguments.seed, arguments.device), **back)
    if not rank():
        columns = min(len(found), 16)
        shown = in_pairs(start if arguments.back else alike(start, model), found, columns)
        print(f"wrote {write_images(arguments.out, found, shown, model.levels, columns, images.files)}")


def run_evaluate(arguments: argparse.Namespace) -> None:
    if arguments.json and not arguments.json.parent.is_dir():
        raise ValueError(f"--json must be in a folder that exists, and {arguments.json.parent} does not")
    run = Run(arguments.run, arguments.data_changed, arguments.checkpoint)
    settings = run.settings()
    with use_threads(settings.threads):
        how = arguments.samples, arguments.images, arguments.seed, arguments.device, arguments.estimators
        result = evaluate(run, *how, **sampling_settings(arguments, settings.model))
    if result is None:  # on all ranks but the first
        return
    found, pictures = result
    if not arguments.json and (kept := larger(found, run)):
        print(f"{table(found)}\nnot written, as {run.folder / 'evaluation.json'} is of {kept}: --json FILE writes it")
        return
    try:
        paths = write(found, pictures, settings.levels, run, arguments.json or run.folder / "evaluation.json")
        paths.append(write_page(run))
    finally:  # print the numbers even if writing fails
        print(table(found))
    for path in paths:
        print(f"wrote {path}")


def run_compare(arguments: argparse.Namespace) -> None:
    if size() > 1:
        raise ValueError("compare starts --jobs processes itself: not by mpiexec")
    images, options = given_images(arguments), image_options(arguments)
    how = arguments.out, arguments.quick, arguments.jobs
    try:
        failed = compare(arguments.models, images, options, *how, main, print)
    except KeyboardInterrupt as error:
        error.add_note(f"go on with: {as_command(['nanogen', *arguments.given])}")
        raise
    if failed:
        raise FloatingPointError(f"no numbers of {', '.join(failed)}: see {arguments.out / 'compare.md'}")


def run_list(_: argparse.Namespace) -> None:
    print("models:", *model_lines(), "data sets:", sep="\n")
    for name in data.DATASETS:
        print(f"  {name:14} {WHERE.get(name, 'downloaded at first use, or in --data-dir DIR')}")
    print("  or a folder of pictures, or an .npz or .npy file of bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.  Returns the exit status: 0; 1 if a run failed; 2 for invalid input; 130 or 143 if it was stopped
    by Ctrl-C or SIGTERM, 141 by the end of what reads its output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the console lacks must not stop a run
    given = sys.argv[1:] if arguments is None else list(arguments)
    with contextlib.ExitStack() as held:
        if rank():  # only the first rank prints
            nowhere = held.enter_context(open(os.devnull, "w", encoding="utf-8"))
            held.enter_context(contextlib.redirect_stdout(nowhere))
            held.enter_context(contextlib.redirect_stderr(nowhere))
        named = next((word for word in given if word in MODELS), None)  # whose settings --help shows
        parsed = parser(named).parse_args(given)
        parsed.given = given
        held.callback(progress.fill, progress.filled)
        progress.fill(functools.partial(shown, getattr(parsed, "quiet", False)))
        status, line = outcome(parsed)
        if size() > 1:
            status, line = end(status, line)
        if line:
            print(line, file=sys.stderr)
        return status


def outcome(parsed: argparse.Namespace) -> tuple[int, str]:
    """Run a command.  Returns the exit status and a line that describes the error, if any."""
    commands = {
        "train": run_train, "sample": run_sample, "edit": run_edit, "translate": run_translate,
        "evaluate": run_evaluate, "compare": run_compare, "list": run_list,
    }  # fmt: skip
    command = commands[parsed.command]
    keep_freed_memory()
    level = log.level
    log.setLevel("ERROR" if getattr(parsed, "quiet", False) else level)
    try:
        with Stop(at_once=True):
            if hasattr(signal, "pthread_sigmask"):  # ranks end together: `nanogen_command` has blocked it until here
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
            command(parsed)
    except KeyboardInterrupt as error:
        return getattr(error, "status", 130), f"nanogen: {in_a_line(error, 'stopped')}"
    except BrokenPipeError:  # what reads our output has ended, as `head` does: the shells' status for SIGPIPE
        return 141, ""
    except FloatingPointError as error:
        return 1, f"nanogen: error: {in_a_line(error)}"
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return 2, f"nanogen: error: {in_a_line(error)}"
    except Exception:
        if size() == 1:
            raise
        return 1, traceback.format_exc().rstrip()
    finally:
        log.setLevel(level)
    return 0, ""


def as_command(words: Iterable[str]) -> str:
    """A command for a shell, in one line of text.  Bytes that are not UTF-8 are quoted as by `ls`: 'caf'$'\\351'."""
    odd = lambda c: "'$'" + "".join(f"\\{byte:03o}" for byte in c.encode("utf-8", "surrogateescape")) + "''"
    return "".join(c if c.isprintable() else odd(c) for c in shlex.join(words))


def in_a_line(error: BaseException, what: str = "") -> str:
    """The error's message and notes in one line."""
    notes = getattr(error, "__notes__", [])
    return one_line("; ".join([what or str(error) or "out of memory", *notes]))


if __name__ == "__main__":
    sys.exit(main())
