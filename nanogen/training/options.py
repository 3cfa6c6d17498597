"""The options of the command line, and the settings that they give."""

from __future__ import annotations

import argparse
import inspect
import os
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from nanogen import __version__, data
from nanogen.backend import DEVICES
from nanogen.data import Images
from nanogen.models import MODELS
from nanogen.training.config import TRAINING, default, explained, read_config, split_assignment
from nanogen.training.files import to_utf8
from nanogen.training.run import (
    Run,
    Settings,
    convert,
    model_parameters,
    nearest,
)

IN_STEPS = "diffusion: sample by DDIM with this number of steps (default: all T, ancestral)"
NOISE = "diffusion: DDIM's noise, 0 to 1 (default: 0)"
FITTED = "autoencoders: codes from a normal distribution fitted to the training codes (default: N(0, I))"
GUIDANCE = "diffusion with labels: how far samples go from those of no label, at twice the cost (default: 0)"
PROMPT = "diffusion with condition=text: what the images show, for instance 'a bold three'"
SAMPLING = "steps", "eta", "fitted", "guidance", "prompt"  # options that are settings of a model's `sample`
OWN = "settings of the model's sampling, for instance truncation=0.7 of a GAN"
LEVEL = "with --then: the noise on the images before, at most that run's augmentation (default: 0)"
CHANGED = "accept the run's data set although its images have changed"
SET = "settings of the model, see below; levels=2: make images of 2 levels, 1 from half of the largest level on"
KEPT = "the kept checkpoint of this step (default: the newest)"
ABOUT = {name: typing.get_type_hints(Settings)[name] for name in ("data_dir", "size", "color")}
ABOUT |= {"model": str | None, "data": str | None, "levels": int | None}  # the model and its data


class Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown option; the error suggests a similar one."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            name = rest[0].partition("=")[0].lstrip("-").replace("-", "_")
            own = self.prog.endswith("train") and any(name in model_parameters(model) for model in MODELS)
            hint = f" (did you mean '--set {name}=…'?)" if own else nearest(rest[0], self._option_string_actions)
            self.error(f"unknown argument {rest[0]}{hint}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Print one line, as for all other invalid input, instead of the usage."""
        self.exit(2, f"nanogen: error: {one_line(message)} ({self.prog} --help)\n")


def parser(model: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.  `train --help` shows the settings of a model, or of all."""
    main_parser = Parser(prog="nanogen", description="Deep generative models from scratch.")
    main_parser.add_argument("--version", action="version", version=f"nanogen {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    of_images = Parser(add_help=False)
    of_images.add_argument(
        "--data", help=f"{', '.join(data.DATASETS)}, a folder of pictures, or an .npz or .npy file (default: digits)"
    )
    of_images.add_argument(
        "--data-dir", metavar="DIR", help="folder with the files of a named data set (default: download them)"
    )
    of_images.add_argument(
        "--size", metavar="N", help="crop and resize a folder's pictures to N×N pixels, or HxW; shrink other images"
    )
    of_images.add_argument(
        "--color", metavar="X", help="grey or rgb, of a folder's pictures (default: grey if all are)"
    )

    command = commands.add_parser("train", parents=[of_images], help="train a model and show what it generates")
    command.epilog = "\n".join(["settings of the models, NAME=DEFAULT:", *model_lines([model] if model else MODELS)])
    command.add_argument("model", nargs="?", help=f"{', '.join(MODELS)}; or given in the --config file")
    command.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/MODEL-DATA)")
    command.add_argument(
        "--resume", action="store_true", help="continue the run in --out; --data if its images moved, --steps for more"
    )
    command.add_argument("--init", type=Path, metavar="RUN", help="begin with the averaged weights of another run")
    command.add_argument("--data-changed", action="store_true", help=f"{CHANGED}, and continue with them")
    command.add_argument(
        "--detect-anomaly", action="store_true", help="stop at the first number that is not finite; slow"
    )
    command.add_argument("--quiet", action="store_true", help="print only errors")
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="settings: TOML, NAME = VALUE, or another run's settings.json"
    )
    command.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=SET)
    for name, meaning in TRAINING.items():
        option = "--" + name.replace("_", "-")
        command.add_argument(
            option, metavar="X", help=f"{meaning} (default: {default(name, model)})".replace("%", "%%")
        )

    of_a_run = Parser(add_help=False)
    of_a_run.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    of_a_run.add_argument("--checkpoint", type=int, metavar="STEP", help=KEPT)
    of_a_run.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    of_a_run.add_argument("--device", choices=DEVICES, default="cpu")
    drawing = Parser(add_help=False)
    drawing.add_argument("--steps", type=int, help=IN_STEPS)
    drawing.add_argument("--eta", type=float, help=NOISE)
    drawing.add_argument("--guidance", type=float, metavar="W", help=GUIDANCE)
    drawing.add_argument("--prompt", metavar="TEXT", help=PROMPT)
    drawing.add_argument("--fitted", action="store_true", default=None, help=FITTED)
    drawing.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=OWN)

    command = commands.add_parser("sample", parents=[of_a_run, drawing], help="draw images from a trained model")
    command.add_argument("-n", type=int, default=64, help="number of images (default: 64); the images depend on it")
    command.add_argument(
        "--out", required=True, metavar="FILE", help=".png: a grid; .npz: the levels; FOLDER/: a .png for each image"
    )
    command.add_argument("--label", metavar="K", help="the images' class: its name or number (default: any)")
    command.add_argument("--then", type=Path, metavar="RUN", help="enlarge the images by this run of super-resolution")
    command.add_argument("--level", type=float, metavar="S", help=LEVEL)

    command = commands.add_parser(
        "edit", parents=[of_a_run], help="edit images, or draw wide ones, by a diffusion model"
    )
    command.add_argument("--images", metavar="FILE", help="the images, as for `translate`")
    command.add_argument("--strength", type=float, metavar="S", help="new details: 0 keeps the images, 1 forgets them")
    command.add_argument("--mask", type=Path, metavar="FILE", help="a picture; what is white is painted anew")
    command.add_argument("--resample", type=int, metavar="R", help="with --mask: take each step R times (default: 1)")
    command.add_argument("--width", type=int, metavar="W", help="of the images, if they are wider than the run's")
    command.add_argument("--stride", type=int, metavar="P", help="of windows in them (default: a quarter of one)")
    command.add_argument("-n", type=int, help="number of new images, without --images (default: 8)")
    command.add_argument("--label", metavar="K", help="a class for all images: its name or number (default: their own)")
    command.add_argument(
        "--out", required=True, metavar="FILE",
        help=".png: a grid, each image above its edit; .npz: the levels; FOLDER/: a .png for each edit, named like the"
        " picture that it is of"
    )  # fmt: skip

    command = commands.add_parser("translate", parents=[of_a_run], help="translate images by a trained model")
    command.add_argument(
        "--images", required=True, metavar="FILE", help="the sources: a picture, all images of a folder or of an .npz"
        " or .npy file without splits, or the test images of a data set"
    )  # fmt: skip
    command.add_argument(
        "--out", required=True, metavar="FILE",
        help=".png: a grid, each source above its translation; .npz: the levels; FOLDER/: a .png for each translation,"
        " named like the picture that it is of"
    )  # fmt: skip
    command.add_argument("--back", action="store_true", help="from images to sources, if the model learned both ways")
    command.add_argument(
        "--make-sources", action="store_true", help="the images are no sources yet: translate the sources made of them"
    )

    command = commands.add_parser(
        "evaluate", parents=[of_a_run, drawing], help="likelihood, quality, diversity, copies of training images, time"
    )
    command.add_argument("--samples", type=int, default=500, help="number of images to draw (default: 500)")
    command.add_argument("--images", type=int, help="use only this many first test images (default: all)")
    command.add_argument("--estimators", action="store_true", help="the bound by each of the model's estimators")
    command.add_argument("--data-changed", action="store_true", help=CHANGED)
    command.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="output file (default: RUN/evaluation.json, but not over that of more images)",
    )

    command = commands.add_parser("compare", parents=[of_images], help="train and evaluate models, and make one table")
    command.set_defaults(config=None, set=[])
    command.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} (default: all)")
    command.add_argument(
        "--out",
        type=Path,
        default=Path("compare"),
        metavar="DIR",
        help="the folder; continues there (default: compare)",
    )
    command.add_argument("--quick", action="store_true", help="fewer steps and images: all models in some minutes")
    command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time (default: all cores)")

    commands.add_parser("list", help="the models with their settings, and the data sets")
    return main_parser


def model_lines(models: Iterable[str] = MODELS) -> Iterator[str]:
    """Models and their settings, with defaults and descriptions."""
    for name in models:
        yield f"  {name:{max(map(len, MODELS))}} {MODELS[name].summary}"
        for setting, meaning in explained(name):
            yield f"    {setting:26} {meaning}"


def given_settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the --config file, of --set and of the options; the later of these take precedence.

    Returns the settings in ABOUT, and the others."""
    given = read_config(arguments.config) if arguments.config else {}
    given |= dict(split_assignment(text) for text in arguments.set)
    given |= {k: v for k in (*ABOUT, *TRAINING) if (v := getattr(arguments, k, None)) is not None}
    about = {name: given.pop(name, None) for name in ABOUT}
    about["size"] = both_sides(about["size"])
    about = {name: convert(name, value, ABOUT[name]) for name, value in about.items()}
    about["data"] = about["data"] and data.canonical(about["data"])
    about["data_dir"] = about["data_dir"] and str(Path(about["data_dir"]).resolve())
    return about, given


def given_images(arguments: argparse.Namespace) -> list[Images]:
    """The splits of the data set that the options name."""
    given, _ = given_settings(arguments)
    where = given["data_dir"], given["size"], given["color"]
    return [data.load(given["data"] or "digits", split, *where) for split in data.SPLITS]


def image_options(arguments: argparse.Namespace) -> list[str]:
    """The options that say which images, as they were given."""
    given = {name: getattr(arguments, name) for name in ("data", "data_dir", "size", "color")}
    return [f"--{name.replace('_', '-')}={text}" for name, text in given.items() if text is not None]


def both_sides(size: Any) -> Any:
    """[height, width] from `32`, which gives both, or `24x32`."""
    parts = size.split("x") if isinstance(size, str) else [size] if isinstance(size, int) else size
    return parts * 2 if isinstance(parts, list) and len(parts) == 1 else parts


def sampling_settings(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """The settings of the model's `sample`: of --set and, if given, of the options --steps, --eta and --fitted.

    Raises:
        ValueError: a setting that this run's model does not have, or a value of another type."""
    given = dict(split_assignment(text) for text in arguments.set)
    given |= {name: getattr(arguments, name) for name in SAMPLING if getattr(arguments, name) is not None}
    for name in given:
        models = [m for m in MODELS if name in sampling_parameters(m)]
        if model not in models:
            known = ", ".join(models) or f"no model{nearest(name, sampling_parameters(model))}"
            raise ValueError(f"{'--' * (name in SAMPLING)}{name} is for {known}; {arguments.run} is a run of {model}")
    return {name: convert(name, value, sampling_parameters(model)[name]) for name, value in given.items()}


def sampling_parameters(model: str) -> dict[str, Any]:
    """The types of the settings of a model's `sample`, by name."""
    declared = inspect.signature(MODELS[model].sample, eval_str=True).parameters
    return {k: v.annotation for k, v in declared.items() if k not in ("self", "n", "rng", "labels")}


def label_of(text: str, run: Run) -> int:
    """The label of a class that is given by its name; or by its number, if no class has that name.

    Raises:
        ValueError: neither; a run without classes."""
    if not run.settings().model_settings.get("classes"):
        raise ValueError(f"--label is for a run that was trained with classes (--set classes=…); {run.folder} was not")
    names = run.class_names()
    if to_utf8(text) in names:
        return names.index(to_utf8(text))
    try:
        return int(text)
    except ValueError:
        known = f"a name in {run.classes_file} or a number" if names else "a number, as the run has no names of classes"
        raise ValueError(f"--label must be {known}, got {text!r}{nearest(text, names)}") from None


def one_line(text: str) -> str:
    """Join lines.  Spaces within lines are kept, because a path may contain several."""
    return " ".join(line.strip() for line in text.splitlines())
