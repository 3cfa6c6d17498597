"""A run: its settings, its folder, and the model in it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanogen import data
from nanogen.backend import Generator, device_module, to_device
from nanogen.data import Images
from nanogen.models import MODELS, GenerativeModel
from nanogen.training.checkpoint import load_checkpoint, without_prefix
from nanogen.training.recipes import recipe

# Independent streams of random numbers of one seed.
INITIAL_WEIGHTS, STEPS, SHUFFLES, PICTURES, SAMPLES, EVALUATION = range(6)


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
    seed: int = 0
    device: str = "cpu"
    data_dir: str | None = None
    model_settings: dict[str, Any] = field(default_factory=dict)


def make_settings(model: str, images: Images, model_settings: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """The settings of the family's recipe for these images, with changes (None: leave as it is).

    Raises:
        ValueError: an unknown family, a setting out of range, an unknown setting of the model.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}{_nearest(model, MODELS)}")
    basis = dataclasses.asdict(recipe(model, images.shape))
    own = {**basis.pop("model"), **(model_settings or {})}
    known = model_parameters(model)
    for name in own:
        if name not in known:
            raise ValueError(f"{model} has no setting {name!r}{_nearest(name, known)}; it has {', '.join(known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    shape = {"image_shape": images.shape, "levels": images.levels}
    settings = Settings(model=model, data=images.name, model_settings=own, **{**basis, **shape, **given})
    for name in ("steps", "batch", "threads"):
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

    @property
    def checkpoint_file(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def exists(self) -> bool:
        return self.settings_file.is_file()

    def write_settings(self, settings: Settings) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings_file.write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n")

    def settings(self) -> Settings:
        if not self.exists():
            raise FileNotFoundError(f"{self.folder} holds no run: there is no {self.settings_file.name}")
        try:
            found = json.loads(self.settings_file.read_text())
            for name in ("image_shape", "betas"):
                found[name] = tuple(found[name])
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
        arrays, _ = load_checkpoint(self.checkpoint_file)
        model.load_state_dict(without_prefix("model.", arrays))
        averages = averaged_weights(model, arrays)
        for name, parameter in model.named_parameters():
            parameter.data = to_device(averages[name], parameter.device)
        model.eval()
        return model

    def images(self, split: str) -> Images:
        """The data set that the run was made for."""
        settings = self.settings()
        return data.load(settings.data, split, settings.data_dir)
