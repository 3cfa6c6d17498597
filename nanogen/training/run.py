"""A run: its settings, its folder, and the model in it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import logging
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogen import data
from nanogen.backend import Generator, device_module
from nanogen.data import Images
from nanogen.models import MODELS, GenerativeModel
from nanogen.training.checkpoint import Checkpoint, load_checkpoint, without_prefix
from nanogen.training.files import remove_parts, write_atomically
from nanogen.training.recipes import recipe

log = logging.getLogger("nanogen")

# Independent streams of random numbers of one seed.
INITIAL_WEIGHTS, STEPS, SHUFFLES, PICTURES, SAMPLES, EVALUATION = range(6)


MOST_PIXELS = 128 * 128  # attention among more than a quarter of a side of these takes more memory than there is


@dataclass(frozen=True)
class Settings:
    """All that a run follows from.  `model_settings` are the model's own; see `recipes` for the others' meaning."""

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
    log_every: int = 10
    checkpoint_every: int = 500
    keep: int = 3
    seed: int = 0
    device: str = "cpu"
    data_dir: str | None = None
    size: tuple[int, int] | None = None
    color: str | None = None
    model_settings: dict[str, Any] = field(default_factory=dict)


def make_settings(model: str, images: Images, model_settings: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """The settings of the family's recipe for these images, with changes (None: leave as it is).

    Raises:
        ValueError: an unknown family, a setting out of range, an unknown setting of the model.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}{_nearest(model, MODELS)}")
    if math.prod(images.shape[1:]) > MOST_PIXELS:
        raise ValueError(
            f"images must have at most {MOST_PIXELS} pixels, got shape {images.shape}: take a smaller size"
        )
    basis = dataclasses.asdict(recipe(model, images.shape))
    basis["batch"] = min(basis["batch"], len(images))
    own = {**basis.pop("model"), **(model_settings or {})}
    known = model_parameters(model)
    for name in own:
        if name not in known:
            raise ValueError(f"{model} has no setting {name!r}{_nearest(name, known)}; it has {', '.join(known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    shape = {"image_shape": images.shape, "levels": images.levels}
    settings = Settings(model=model, data=images.name, model_settings=own, **{**basis, **shape, **given})
    for name in ("steps", "batch", "threads", "log_every", "checkpoint_every", "keep"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.batch > len(images):
        raise ValueError(f"batch must be at most the {len(images)} images there are, got {settings.batch}")
    if not 0 < settings.lr < float("inf"):
        raise ValueError(f"lr must be positive, got {settings.lr}")
    if settings.seed < 0:
        raise ValueError(f"seed must not be negative, got {settings.seed}")
    device_module(settings.device)
    build_model(settings)
    return settings


def model_parameters(model: str) -> dict[str, inspect.Parameter]:
    """The settings of a family, as its class declares them."""
    declared = dict(inspect.signature(MODELS[model].__init__, eval_str=True).parameters)
    return {k: v for k, v in declared.items() if k not in ("self", "image_shape", "levels", "rng")}


def parse_model_setting(model: str, text: str) -> tuple[str, Any]:
    """`name=value` with the value in the type that the family declares; a list is separated by commas.

    Raises:
        ValueError: another form, an unknown name, a value of another type.
    """
    name, equals, value = text.partition("=")
    known = model_parameters(model) if model in MODELS else {}
    if not equals:
        raise ValueError(f"a model setting is written name=value, got {text!r}")
    if name not in known:
        raise ValueError(f"{model} has no setting {name!r}{_nearest(name, known)}; it has {', '.join(known)}")
    kind = known[name].annotation
    if isinstance(kind, types.UnionType):
        kind = typing.get_args(kind)[0]
    try:
        if typing.get_origin(kind) is tuple:
            return name, tuple(typing.get_args(kind)[0](part) for part in value.split(","))
        return name, kind(value)
    except ValueError:
        raise ValueError(f"{model}'s setting {name} must be of type {kind}, got {value!r}") from None


def _nearest(name: str, known: Any) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def build_model(settings: Settings) -> GenerativeModel:
    """The model with its initial weights, on the settings' device."""
    rng = Generator(settings.seed).stream(INITIAL_WEIGHTS)
    cls: Any = MODELS[settings.model]
    model = cls(settings.image_shape, settings.levels, rng=rng, **settings.model_settings)
    return model.to(settings.device)


def load_images(settings: Settings, split: str) -> Images:
    """The data set that the settings name.

    Raises:
        ValueError: its images are not what the model was made for.
        ValueError, OSError: as `data.load`.
    """
    images = data.load(settings.data, split, settings.data_dir, settings.size, settings.color)
    if (images.shape, images.levels) != (settings.image_shape, settings.levels):
        raise ValueError(
            f"{settings.data} has images {images.shape} of {images.levels} levels now, and the model was made for"
            f" {settings.image_shape} of {settings.levels}"
        )
    return images


def averaged_weights(model: GenerativeModel, arrays: dict[str, Any]) -> dict[str, Any]:
    """The averages in a checkpoint, by the names of the parameters.

    Raises:
        ValueError: those of another model.
    """
    found = without_prefix("average.", arrays)
    if {k: v.shape for k, v in found.items()} != {k: p.shape for k, p in model.named_parameters()}:
        raise ValueError("the checkpoint's averaged weights are not those of this model")
    return found


class Run:
    """A run's folder and what is in it.

    Raises:
        FileNotFoundError, ValueError: on reading, a folder that holds no run, or a broken one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.csv"

    def checkpoint_file(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}.safetensors"

    def checkpoint_files(self) -> list[Path]:
        """Those that are there, the newest first."""
        found = self.checkpoint_file(0).parent.glob("step-*.safetensors")
        return sorted((path for path in found if path.stem[5:].isdecimal()), reverse=True)

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, those that can't are named; None if there never was one.

        Raises:
            ValueError: there are some, and none can be read; or the newest is another run's.
        """
        broken: list[str] = []
        for path in self.checkpoint_files():
            try:
                found = load_checkpoint(path)
            except ValueError as error:
                broken.append(str(error))
                continue
            self.check_owner(path, found)
            for problem in broken:
                log.warning("nanogen: %s; taking %s", problem, path.name)
            return found
        if broken:
            raise ValueError(f"{broken[0]}; there is no other")
        return None

    def check_owner(self, path: Path, checkpoint: Checkpoint) -> None:
        """Refuse a checkpoint that was written with other settings; where the data lie is all that may change."""
        own = json.loads(json.dumps(dataclasses.asdict(self.settings())))
        for name in own.keys() - {"data_dir"}:
            if checkpoint.settings.get(name) != own[name]:
                there = checkpoint.settings.get(name)
                raise ValueError(f"{path} is a checkpoint of another run: {name} is {there} there, not {own[name]}")

    def recover(self) -> Checkpoint | None:
        """As `checkpoint`, to go on from: what a killed process left unfinished is removed, and broken checkpoints,
        which training would write over, are put aside as `….broken`."""
        found = self.checkpoint()
        for folder in (self.folder, self.checkpoint_file(0).parent):
            remove_parts(folder)
        for path in self.checkpoint_files():
            if found and path > self.checkpoint_file(found.step):
                path.replace(path.with_name(f"{path.name}.broken"))
        return found

    def check_new(self) -> None:
        """Refuse a folder that holds a run, or a part of one.

        Raises:
            ValueError: it does."""
        for path in (self.settings_file, self.metrics_file, *self.checkpoint_files()):
            if path.exists():
                raise ValueError(f"{self.folder} already holds a run ({path.name}): --resume goes on with it")

    def write_settings(self, settings: Settings) -> None:
        self.checkpoint_file(0).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.settings_file, (json.dumps(dataclasses.asdict(settings), indent=2) + "\n").encode())

    def settings(self) -> Settings:
        if not self.settings_file.is_file():
            raise FileNotFoundError(f"{self.folder} holds no run: there is no {self.settings_file.name}")
        try:
            found = json.loads(self.settings_file.read_text())
            for name in ("image_shape", "betas"):
                found[name] = tuple(found[name])
            found["size"] = found.get("size") and tuple(found["size"])
            own = {k: tuple(v) if isinstance(v, list) else v for k, v in found["model_settings"].items()}
            if unknown := set(own) - set(model_parameters(found["model"])):
                raise ValueError(f"{found['model']} has no setting {', '.join(sorted(unknown))}")
            return Settings(**{**found, "model_settings": own})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.settings_file} is not a run's settings: {error}") from error

    def model(self, device: str | None = None) -> GenerativeModel:
        """The model with its averaged weights, in evaluation, as `sample` and `evaluate` use it."""
        settings = self.settings()
        model = build_model(settings if device is None else dataclasses.replace(settings, device=device))
        if (checkpoint := self.checkpoint()) is None:
            raise FileNotFoundError(f"{self.folder} has no checkpoint yet")
        arrays = checkpoint.arrays
        model.load_state_dict(without_prefix("model.", arrays))
        averages = averaged_weights(model, arrays)
        model.load_state_dict(model.state_dict() | averages)
        model.eval()
        return model

    def images(self, split: str) -> Images:
        """The data set that the run was made for."""
        return load_images(self.settings(), split)
