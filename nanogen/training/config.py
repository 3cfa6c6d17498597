"""Settings as text: NAME=VALUE on the command line, or a file; with their descriptions."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanogen.models import MODELS, Recipe
from nanogen.training.files import from_utf8
from nanogen.training.run import FORMER, PATHS, Settings, check_model, convert, model_parameters, nearest

NOT_GIVEN = "image_shape", "levels", "data_levels", "fingerprints"  # settings that are determined by the images
LONGEST = 1 << 15  # bytes of a settings file: parsing deeply nested data takes time and memory

TRAINING = {  # settings of all models
    "steps": "training steps",
    "batch": "images per step",
    "lr": "largest learning rate; it rises over the warm-up, then falls to 0 along half a cosine",
    "warmup": "steps over which the learning rate rises; unless given, at most a fifth of the steps",
    "betas": "Adam's decay rates per step",
    "weight_decay": "AdamW's decay per step, in units of the learning rate",
    "clip": "largest norm of a part's gradient; larger ones are scaled down to it; 0: no clipping",
    "ema": "decay per step of the averaged weights, which sampling and evaluation use; 0: no averaging",
    "log_every": "steps between the rows of metrics.csv",
    "samples_every": "steps between the pictures of samples while training; 0: none until the end",
    "test_every": "steps between the rows of test.csv, the loss of the first test images; 0: no test loss",
    "patience": "test losses without a new best after which the run ends early; the best checkpoint is kept; 0: never",
    "checkpoint_every": "steps between checkpoints",
    "keep": "number of newest checkpoints that are kept",
    "seed": "seed of all random numbers",
    "device": "cpu or cuda",
    "precision": "of matrix products: float32; or tf32, on a GPU: faster, but factors have 10-bit fractions",
    "execution": "of training and sampling steps: eager, kernel by kernel; or graph, on a GPU: as a CUDA graph",
    "threads": "number of threads of matrix products; another number changes the rounding of results",
}


def default(name: str, model: str | None = None) -> str:
    """The default of a training setting, of a model or of all: one for images of up to 16×16 pixels, one for others."""
    if name not in {field.name for field in dataclasses.fields(Recipe)}:
        return as_text(Settings.__dataclass_fields__[name].default)
    of = [MODELS[model]] if model else MODELS.values()
    by_size = [{as_text(getattr(recipe, name)) for recipe in size} for size in zip(*((c.small, c.large) for c in of))]
    if any(len(values) > 1 for values in by_size):
        return "differs by model: nanogen train MODEL --help"
    return by_both_sizes(*(value for values in by_size for value in values))


def by_both_sizes(small: str, large: str) -> str:
    return small if small == large else f"{small}; images beyond 16 pixels: {large}"


def as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def explained(model: str) -> Iterator[tuple[str, str]]:
    """`name=default` of each of a model's own settings, and its description from the docstrings of its classes.

    The default is that of the model's recipe."""
    told = "\n".join(inspect.getdoc(cls) or "" for cls in reversed(MODELS[model].__mro__))
    entries = re.findall(r"^    ([\w, ]+): (?!as for)(.+(?:\n {8}.+)*)", told, re.MULTILINE)
    meaning = {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}
    recipes = MODELS[model].small, MODELS[model].large
    for name, parameter in model_parameters(model).items():
        small, large = (as_text(recipe.model.get(name, parameter.default)) for recipe in recipes)
        aside = f" (images beyond 16 pixels: {large})" if small != large else ""
        yield f"{name}={small}", meaning[name] + aside


def read_config(path: Path) -> dict[str, Any]:
    """Read settings by name from a TOML file or from the settings.json of a run, without the shape of its images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not TOML or JSON, or a table instead of a setting.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if path.stat().st_size > LONGEST:
        raise ValueError(f"{path} is longer than a settings file may be ({LONGEST} bytes)")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must contain settings by name")
    if path.suffix == ".json":
        given = {"levels": found["levels"]} if found.get("data_levels") else {}
        found = {k: v for k, v in found.items() if k not in (*NOT_GIVEN, *FORMER) and v is not None} | given
        found |= found.pop("model_settings", {})
    for name, value in found.items():
        if isinstance(value, dict):
            raise ValueError(f"{path}: {name} must be a setting, not a table")
    return found | {name: from_utf8(found[name]) for name in PATHS if isinstance(found.get(name), str)}


def split_assignment(text: str) -> tuple[str, str]:
    """Split NAME=VALUE.

    Raises:
        ValueError: there is no equals sign."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a setting must have the form name=value, got {text!r}")
    return name, value


def in_their_types(model: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of training and the model's own settings, converted to their declared types.

    Raises:
        ValueError: an unknown name (the error suggests a similar one), or a value of another type.
    """
    check_model(model)
    own = {name: parameter.annotation for name, parameter in model_parameters(model).items()}
    shared = typing.get_type_hints(Settings)
    for name in given:
        if name not in own and name not in TRAINING:
            known = [*own, *TRAINING]
            raise ValueError(f"{model} has no setting {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    return (
        {name: convert(name, value, shared[name]) for name, value in given.items() if name in TRAINING},
        {name: convert(name, value, own[name]) for name, value in given.items() if name not in TRAINING},
    )
