"""A run: its settings, its folder, and the model in it."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import inspect
import json
import logging
import math
import platform
import time
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanogen import __version__, data
from nanogen.backend import Array, device_module
from nanogen.data import Images
from nanogen.models import MODELS, GenerativeModel
from nanogen.random import Generator, Size
from nanogen.training.checkpoint import Checkpoint, load_checkpoint, without_prefix
from nanogen.training.files import from_utf8, remove_parts, to_utf8, write_atomically
from nanogen.training.sampling import as_graphs

log = logging.getLogger("nanogen")
MOST = 2**31 - 1  # of any integer setting
PATHS = ("data", "data_dir")  # settings that may be paths
# Settings of earlier versions that are ignored.  `processes` was the number of processes that shared each step, as the
# ranks of an MPI job do now.  If it was above 1, a resumed run draws different noise, which is just as independent.
FORMER = ("processes",)
NAMED = {int: "an integer", float: "a number", str: "text", bool: "true or false"}  # the types of settings, in errors

# Independent random streams of one seed.
INITIAL_WEIGHTS, STEPS, SHUFFLES, PICTURES, SAMPLES, EVALUATION, TEST, LARGE = range(8)

# Far above sensible use.  What is beyond would only be noticed after minutes, or when the memory is full.
MOST_PIXELS = 128 * 128  # attention in larger images takes too much memory
MOST_OF_A_SETTING = 10_000  # of an integer setting of a model
MOST_WEIGHTS = 1 << 28  # of a model


@dataclass(frozen=True)
class Settings:
    """The settings of a run, which determine its results.  `Recipe` and `TRAINING` describe them.

    `levels` are those that the images are given, of `data_levels` in the data set; None: the same.
    `model_settings` are the model's own settings.  `fingerprints` are those of the training and the test images, or
    None in runs of earlier versions."""

    model: str
    data: str
    image_shape: tuple[int, int, int]
    levels: int
    steps: int
    batch: int
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    warmup: int
    ema: float
    threads: int
    samples_every: int
    test_every: int = 0
    patience: int = 0
    clip: float = 0.0
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 3
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"
    execution: str = "eager"
    data_dir: str | None = None
    size: tuple[int, int] | None = None
    color: str | None = None
    data_levels: int | None = None
    fingerprints: tuple[str, str] | None = None
    model_settings: dict[str, Any] = field(default_factory=dict)


def make_settings(model: str, images: Images, model_settings: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """The settings of the model's recipe for these images, with changes; a change of None is ignored.

    With other `levels` than those of the images the run's images have these: see `Images.requantised`.

    Raises:
        ValueError: an unknown model, an unknown setting, or a setting out of range.
    """
    check_model(model)
    basis = dataclasses.asdict(MODELS[model].recipe(images.shape))
    basis["batch"] = min(basis["batch"], len(images))
    own = {**basis.pop("model"), **(model_settings or {})}
    known = model_parameters(model)
    for name in own:
        if name not in known:
            raise ValueError(f"{model} has no setting {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    basis["warmup"] = min(basis["warmup"], given.get("steps", basis["steps"]) // 5)
    shape = {"image_shape": images.shape, "levels": images.levels}
    if given.get("levels", images.levels) != images.levels:
        shape |= {"data_levels": images.levels, "levels": images.requantised(given["levels"]).levels}
    settings = Settings(model=model, data=images.name, model_settings=own, **{**basis, **shape, **given})
    check_ranges(settings)
    if settings.batch > len(images):
        raise ValueError(f"batch must be at most the {len(images)} images of the data set, got {settings.batch}")
    if settings.warmup > settings.steps:
        log.warning(
            "nanogen: a warmup of %d steps never ends in %d: no step has the learning rate %g",
            settings.warmup, settings.steps, settings.lr,
        )  # fmt: skip
    device_module(settings.device)
    build_model(settings)
    check_labels(images, own.get("classes", 0))
    return settings


def check_labels(images: Images, classes: int) -> None:
    """Check that images have labels for a model with this number of classes.  With 0 classes there is nothing to check.

    Raises:
        ValueError: images without labels, or with labels outside 0 … classes − 1."""
    if not classes:
        return
    if images.labels is None:
        raise ValueError(f"classes={classes} needs labels, but {images.name} has none")
    if images.labels.max() >= classes:
        raise ValueError(
            f"classes={classes} needs labels below {classes}, but {images.name} has label {images.labels.max()}"
        )


def check_classes(classes: int, *splits: Images) -> None:
    """Raises:
    ValueError: more classes than the splits together have labels, so that some would never be trained."""
    count = 1 + max((images.labels.max() for images in splits if images.labels is not None), default=-1)
    if classes > count:
        raise ValueError(f"classes={classes} must be classes={count}: {splits[0].name} has the labels 0 … {count - 1}")


def check_ranges(settings: Settings) -> None:
    """Raises:
    ValueError: a training setting out of range."""
    least = {"steps": 1, "batch": 1, "threads": 1, "log_every": 1, "checkpoint_every": 1, "keep": 1}
    for name, low in (least | dict.fromkeys(("warmup", "seed", "samples_every", "test_every", "patience"), 0)).items():
        if not low <= getattr(settings, name) <= MOST:
            raise ValueError(f"{name} must be in {low} … {MOST}, got {getattr(settings, name)}")
    if math.prod(settings.image_shape[1:]) > MOST_PIXELS:
        raise ValueError(
            f"images must have at most {MOST_PIXELS} pixels, got shape {settings.image_shape}: choose a smaller size"
        )
    for name, value in settings.model_settings.items():
        for number in value if isinstance(value, tuple | list) else [value]:
            if isinstance(number, int) and number > MOST_OF_A_SETTING and name != "classes":  # models check that
                raise ValueError(f"{name} must be at most {MOST_OF_A_SETTING}, got {number}")
    if settings.patience and not settings.test_every:
        raise ValueError("patience needs test losses: test_every must not be 0")
    if not 0 < settings.lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {settings.lr}")
    for name in ("weight_decay", "clip"):
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {getattr(settings, name)}")
    for name, plain, of_a_gpu in (("precision", "float32", "tf32"), ("execution", "eager", "graph")):
        given = getattr(settings, name)
        if given not in (plain, of_a_gpu):
            raise ValueError(f"{name} must be {plain} or {of_a_gpu}, got {given!r}")
        if given == of_a_gpu and settings.device != "cuda":
            raise ValueError(f"{name} {of_a_gpu} needs device cuda, got {settings.device}")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {settings.betas}")
    if not 0 <= settings.ema < 1:
        raise ValueError(f"ema must be in [0, 1), got {settings.ema}")


def model_parameters(model: str) -> dict[str, inspect.Parameter]:
    """The settings of a model, as declared by its class."""
    declared = dict(inspect.signature(MODELS[model].__init__, eval_str=True).parameters)
    return {k: v for k, v in declared.items() if k not in ("self", "image_shape", "levels", "rng")}


def all_settings(settings: Settings) -> dict[str, Any]:
    """The settings by name, with those of the model and their defaults."""
    defaults = {name: parameter.default for name, parameter in model_parameters(settings.model).items()}
    return {**defaults, **settings.model_settings, **dataclasses.asdict(settings)}


def convert(name: str, value: Any, kind: Any) -> Any:
    """Convert a setting's value, text or JSON data, to its type.  In text, commas separate the parts of a tuple.

    Raises:
        ValueError: a value of another type."""
    if isinstance(kind, types.UnionType):
        if value is None and types.NoneType in typing.get_args(kind):
            return None
        kind = typing.get_args(kind)[0]
    parts = value.split(",") if isinstance(value, str) else value
    inner = typing.get_args(kind)
    if (
        typing.get_origin(kind) is tuple
        and isinstance(parts, list | tuple)
        and (... in inner or len(parts) == len(inner))
    ):
        return tuple(convert(name, part, inner[0]) for part in parts)
    try:
        if kind in (int, float) and (isinstance(value, str) or type(value) in (int, kind)):
            return kind(value)
    except (ValueError, OverflowError):
        pass
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind is str and isinstance(value, str):
        return value
    wanted = NAMED.get(kind) or f"{'some' if ... in inner else len(inner)} {NAMED[inner[0]].split()[-1]}s"
    commas = " with commas between them" if inner and isinstance(value, str) else ""
    raise ValueError(f"{name} must be {wanted}{commas}, got {value!r}")


def check_model(model: str) -> None:
    """Raises:
    ValueError: no such model."""
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}{nearest(model, MODELS)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion of a similar known name, for an error; empty if there is none."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


class InitialWeights(Generator):
    """The stream of initial weights.  It refuses a model that is too large before that takes memory and minutes."""

    def __init__(self, seed: int):
        super().__init__(seed, _indices=(INITIAL_WEIGHTS,))
        self.count = 0

    def _draw(self, draw: Callable[[Size], Array], size: Size) -> Array:
        self.count += math.prod(np.atleast_1d(size).tolist())
        check_weights(self.count)
        return super()._draw(draw, size)


def check_weights(count: int) -> None:
    """Raises:
    ValueError: too many weights."""
    if count > MOST_WEIGHTS:
        raise ValueError(f"the model must have at most {MOST_WEIGHTS:,} weights")


def build_model(settings: Settings) -> GenerativeModel:
    """The model with its initial weights, on the settings' device.

    Raises:
        ValueError: settings out of range, or a model that is too large."""
    cls: Any = MODELS[settings.model]
    draws = "rng" in inspect.signature(cls).parameters  # else its initial weights are constant
    rng = {"rng": InitialWeights(settings.seed)} if draws else {}
    model = cls(settings.image_shape, settings.levels, **rng, **settings.model_settings)
    check_weights(sum(parameter.data.size for parameter in model.parameters()))
    return model.to(settings.device)


def check_outside(folder: Path, name: str) -> None:
    """Raises:
    ValueError: the folder is within that of the data set."""
    if name not in data.DATASETS and folder.resolve().is_relative_to(Path(name).resolve()):
        raise ValueError(f"--out {folder} lies in {name}: the run's own pictures would be among the data")


def load_images(settings: Settings, split: str, data_changed: bool = False) -> Images:
    """Load the data set that the settings name.

    Args:
        data_changed: accept images whose fingerprint differs from the run's.

    Raises:
        ValueError: the images have another shape or number of levels, or another fingerprint than the run's.
        ValueError, OSError: as `data.load`.
    """
    images = data.load(settings.data, split, settings.data_dir, settings.size, settings.color)
    expected = settings.image_shape, settings.data_levels or settings.levels
    if (images.shape, images.levels) != expected:
        raise ValueError(
            f"{settings.data} has images {images.shape} of {images.levels} levels now, but the model was made for"
            f" {expected[0]} of {expected[1]}"
        )
    images = images.requantised(settings.levels)
    known = dict(zip(data.SPLITS, settings.fingerprints or (), strict=False))
    if not data_changed and known.get(split, images.fingerprint) != images.fingerprint:
        raise ValueError(
            f"{settings.data} has other images for {split} than at the start of the run: --data-changed accepts them"
        )
    check_labels(images, settings.model_settings.get("classes", 0))
    return images


def averaged_weights(model: GenerativeModel, arrays: dict[str, Any]) -> dict[str, Any]:
    """The averaged weights in a checkpoint, by the names of the parameters.

    Raises:
        ValueError: averages of another model.
    """
    found = without_prefix("average.", arrays)
    if {k: v.shape for k, v in found.items()} != {k: p.shape for k, p in model.named_parameters()}:
        raise ValueError("the checkpoint's averaged weights are not those of this model")
    return found


class Best(NamedTuple):
    """The step of the smallest test loss, that loss, and the number of test losses since."""

    step: int
    loss: float
    since: int


def columns(file: Path) -> dict[str, list[float]]:
    """The columns of metrics.csv or test.csv by name; none if there is no such file."""
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8") as opened:
        names, *rows = csv.reader(opened)
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(names)}


class Run:
    """A run's folder and its contents.

    Args:
        folder: the path.
        data_changed: accept images whose fingerprint differs from the run's.
        step: read the checkpoint of this step; default the newest.

    Raises:
        FileNotFoundError, ValueError: on reading, if the folder has no run or a broken one.
    """

    def __init__(self, folder: str | Path, data_changed: bool = False, step: int | None = None):
        self.folder, self.data_changed, self.step = Path(folder), data_changed, step
        self.settings_file, self.classes_file = self.folder / "settings.json", self.folder / "classes.json"
        self.metrics_file, self.test_file = self.folder / "metrics.csv", self.folder / "test.csv"
        self.seconds_file = self.folder / "seconds.csv"

    def seconds(self) -> dict[int, float]:
        """The CPU seconds of training up to each checkpoint, by step, over all parts of an interrupted run.

        Empty if they were not recorded, as in runs of earlier versions, or if the file is broken."""
        try:
            steps, seconds = columns(self.seconds_file).values()
            return dict(zip(map(int, steps), seconds, strict=True))
        except (ValueError, IndexError, OverflowError, csv.Error):
            return {}

    def note_seconds(self, step: int, seconds: float) -> None:
        """Add a row to `seconds.csv`, in place of those from this step on."""
        rows = [(s, t) for s, t in self.seconds().items() if s < step] + [(step, seconds)]
        text = "".join(f"{s},{t:.3f}\n" for s, t in rows)
        write_atomically(self.seconds_file, f"step,seconds\n{text}".encode())

    def best_test(self) -> Best | None:
        """The first of the smallest test losses.  None if there is none, or if there are several losses a step: a GAN's
        work against each other."""
        steps, *losses = columns(self.test_file).values() or [[]]
        if not steps or len(losses) > 1:
            return None
        at = min(range(len(steps)), key=lambda i: (math.isnan(losses[0][i]), losses[0][i]))
        return Best(int(steps[at]), losses[0][at], len(steps) - 1 - at)

    def out_of_patience(self) -> bool:
        """Whether the run ends early, because none of its last `patience` test losses was a new best."""
        patience, best = self.settings().patience, self.best_test()
        return patience > 0 and best is not None and best.since >= patience

    def checkpoint_file(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}.safetensors"

    def samples_file(self, step: int) -> Path:
        return self.folder / "samples" / f"step-{step:08d}.png"

    def checkpoint_files(self) -> list[Path]:
        """The existing checkpoints, newest first."""
        found = self.checkpoint_file(0).parent.glob("step-*.safetensors")
        return sorted((path for path in found if path.stem[5:].isdecimal()), reverse=True)

    def newest_step(self) -> int:
        """The step of the newest checkpoint, not `steps` if the run ended early; 0 if there is none."""
        return max((int(path.stem[5:]) for path in self.checkpoint_files()), default=0)

    def is_older(self, file: Path) -> bool:
        """Whether a file of the run is older than the newest checkpoint."""
        newest = self.checkpoint_file(self.newest_step())
        return newest.is_file() and newest.stat().st_mtime > file.stat().st_mtime

    def checkpoint(self) -> Checkpoint | None:
        """The newest readable checkpoint; None if there are no checkpoints.  Unreadable ones are logged.

        Raises:
            ValueError: no checkpoint is readable, or the newest readable one belongs to another run; there is none of
                the run's `step`.
        """
        broken: list[str] = []
        if self.step is not None:
            return self.kept_checkpoint(self.step)
        for path in self.checkpoint_files():
            try:
                found = load_checkpoint(path)
            except ValueError as error:
                broken.append(str(error))
                continue
            self.check_owner(path, found)
            for problem in broken:
                log.warning("nanogen: %s; using %s", problem, path.name)
            return found
        if broken:
            raise ValueError(f"{broken[0]}; there is no other checkpoint")
        return None

    def kept_checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            ValueError: there is none, or it is broken or belongs to another run."""
        path, files = self.checkpoint_file(step), self.checkpoint_files()
        if path not in files:
            steps = ", ".join(str(int(file.stem[5:])) for file in reversed(files)) or "no step"
            raise ValueError(f"{self.folder} has no checkpoint of step {step}, only of {steps}")
        found = load_checkpoint(path)
        self.check_owner(path, found)
        return found

    def check_owner(self, path: Path, checkpoint: Checkpoint) -> None:
        """Raise a ValueError for a checkpoint with other settings.

        Only the location of the data may differ, and the number of steps, which a resumed run may change."""
        own = json.loads(json.dumps(dataclasses.asdict(self.settings())))
        usual = {setting.name: setting.default for setting in dataclasses.fields(Settings)}
        for name in own.keys() - {"data_dir", "fingerprints", "steps"}:
            there = checkpoint.settings.get(name, usual[name])  # older checkpoints lack newer settings
            if there != own[name] and not (name == "data" and data.may_be(own[name], str(there))):
                raise ValueError(f"{path} is a checkpoint of another run: its {name} is {there}, not {own[name]}")

    def recover(self) -> Checkpoint | None:
        """The checkpoint to resume from: see `checkpoint`.

        Temporary files of killed processes are removed.  Broken checkpoints, which training would overwrite, are
        renamed to `….broken`."""
        found = self.checkpoint()
        for folder in (self.folder, self.checkpoint_file(0).parent, self.samples_file(0).parent):
            remove_parts(folder)
        for path in self.checkpoint_files():
            if found and path > self.checkpoint_file(found.step):
                path.replace(path.with_name(f"{path.name}.broken"))
        self.remove_old()
        return found

    def remove_old(self) -> None:
        """Remove old checkpoints, except for the number that the settings keep and, with patience, the best one."""
        best = self.best_test() if self.settings().patience else None
        for path in self.checkpoint_files()[self.settings().keep :]:
            if best is None or path != self.checkpoint_file(best.step):
                path.unlink()

    def note(self, command: str) -> None:
        """Add a line to `commands.log`: time, versions and command."""
        versions = f"nanogen {__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
        with (self.folder / "commands.log").open("a", encoding="utf-8") as file:
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            file.write(f"{when}  {versions}, {platform.machine()}: {command}\n")

    def check_new(self) -> None:
        """Raises:
        ValueError: the folder contains a run, a part of one, or a file that a run would overwrite."""
        pages = [self.folder / name for name in ("index.html", "loss.png", "samples.png")]  # somebody's own, perhaps
        for path in (self.settings_file, self.metrics_file, self.test_file, *self.checkpoint_files(), *pages):
            if path.exists():
                what = "--resume continues it" if self.settings_file.exists() else "without settings; choose another"
                raise ValueError(f"{self.folder} already holds a run ({path.name}): {what}")

    def write_settings(self, settings: Settings) -> None:
        for path in (self.checkpoint_file(0), self.samples_file(0)):
            path.parent.mkdir(parents=True, exist_ok=True)
        found = dataclasses.asdict(settings)
        found |= {name: to_utf8(found[name]) for name in PATHS if found[name]}
        write_atomically(self.settings_file, (json.dumps(found, indent=2) + "\n").encode())

    def write_class_names(self, names: tuple[str, ...]) -> None:
        """Write `classes.json`, a list in the order of the labels; without names there is no such file."""
        self.classes_file.unlink(missing_ok=True)
        if names:
            text = json.dumps([to_utf8(name) for name in names], indent=2) + "\n"
            write_atomically(self.classes_file, text.encode())

    def class_names(self) -> list[str]:
        """The names of the classes in the order of their labels, as `to_utf8` has them; empty if they have none."""
        try:
            found = json.loads(self.classes_file.read_text(encoding="utf-8")) if self.classes_file.is_file() else []
            return [convert("a class", name, str) for name in found]
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.classes_file} is not a list of names: {error}") from error

    def settings(self) -> Settings:
        if not self.settings_file.is_file():
            raise FileNotFoundError(f"{self.folder} holds no run: there is no {self.settings_file.name}")
        try:
            found = json.loads(self.settings_file.read_text(encoding="utf-8"))
            given, kinds = found.pop("model_settings"), typing.get_type_hints(Settings)
            found = {name: value for name, value in found.items() if name not in FORMER}
            check_model(found["model"])
            own = model_parameters(found["model"])
            settings = Settings(
                **{name: convert(name, value, kinds[name]) for name, value in found.items()},
                model_settings={name: convert(name, value, own[name].annotation) for name, value in given.items()},
            )
            check_ranges(settings)
            paths: dict[str, Any] = {name: from_utf8(value) for name in PATHS if (value := getattr(settings, name))}
            return dataclasses.replace(settings, **paths)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{self.settings_file} is not a run's settings: {error}") from error

    def model(self, device: str | None = None) -> GenerativeModel:
        """The model with its averaged weights, in evaluation mode.

        On a GPU, runs with `execution="graph"` also sample by CUDA graphs."""
        settings = self.settings()
        model = build_model(settings if device is None else dataclasses.replace(settings, device=device))
        if (checkpoint := self.checkpoint()) is None:
            raise FileNotFoundError(f"{self.folder} has no checkpoint yet")
        arrays = checkpoint.arrays
        model.load_state_dict(without_prefix("model.", arrays))
        averages = averaged_weights(model, arrays)
        model.load_state_dict(model.state_dict() | averages)
        model.eval()
        if settings.execution == "graph" and model.device == "cuda":
            for network in model.sampling_networks():
                as_graphs(network)
        return model

    def images(self, split: str) -> Images:
        """A split of the run's data set."""
        return load_images(self.settings(), split, self.data_changed)


def of_runs(model: str, own: dict[str, Any], init: Path | None) -> tuple[dict[str, Any], dict[str, Run]]:
    """The model's own settings, where runs give parts of it (see `GenerativeModel.parts`), and these runs by part.

    Args:
        init: the folder of a run for the whole model, the part "".

    Raises:
        ValueError, FileNotFoundError: no run, or one of a conditional model; runs for the model and for a part; none
            for a frozen part."""
    runs = {part: Run(own[part]) for part in MODELS[model].parts if own.get(part, model) not in MODELS}
    for part, run in runs.items():
        theirs = run.settings()
        there = all_settings(theirs)
        if there.get("classes"):
            raise ValueError(f"{part} must be a run without labels, and {run.folder} has {there['classes']} classes")
        taken = {name: there[name] for name in MODELS[model].parts[part] if name in there}
        own = {**taken, "frozen": True, **own, part: theirs.model}
    if own.get("frozen") and not (runs or init):  # as in the settings of a run that was given one
        raise ValueError(f"frozen needs trained weights: {' or '.join(MODELS[model].parts)}=RUN, or --init")
    if runs and init:
        raise ValueError(f"--init gives all weights: {', '.join(runs)} must not be a run")
    return own, {"": Run(init)} if init else runs
