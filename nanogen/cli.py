"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nanogen import __version__, data
from nanogen.backend import DEVICES, Generator, to_numpy
from nanogen.models import MODELS
from nanogen.training.evaluation import evaluate, table, write
from nanogen.training.files import locked
from nanogen.training.loop import Trainer, begin_metrics, train
from nanogen.training.pictures import draw_pictures, grid
from nanogen.training.run import (
    SAMPLES,
    Run,
    Settings,
    load_images,
    make_settings,
    model_parameters,
    parse_model_setting,
)

SUMMARIES = {
    "pixelcnn": "pixel by pixel, exact likelihood (van den Oord et al. 2016)",
    "vae": "latent variables, a bound on the likelihood (Kingma & Welling 2014)",
    "gan": "a generator against a discriminator (Goodfellow et al. 2014; DCGAN)",
    "ddpm": "denoising step by step, a bound on the likelihood (Ho et al. 2020)",
}


WHERE = {"digits": "bundled"}
SETTINGS = ("size", "color", "steps", "batch", "lr", "seed", "device", "threads")  # as the command line calls them


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line as for all other bad input, in place of the usage."""
        self.exit(2, f"nanogen: error: {message} ({self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    main_parser = Parser(prog="nanogen", description="Deep generative models from scratch.")
    main_parser.add_argument("--version", action="version", version=f"nanogen {__version__}")
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("train", help="train a model and show what it generates")
    command.add_argument("model", help=", ".join(MODELS))
    command.add_argument(
        "--data",
        type=data.canonical,
        help=f"{', '.join(data.DATASETS)}, a folder of pictures, or an .npz or .npy file (default: digits)",
    )
    command.add_argument(
        "--data-dir", metavar="DIR", help="where a named set's files are (default: they are downloaded)"
    )
    command.add_argument("--size", type=size, metavar="N", help="cut and resize a folder's pictures to N×N, or HxW")
    command.add_argument("--color", choices=("grey", "rgb"), help="of a folder's pictures (default: grey if all are)")
    command.add_argument("--steps", type=int, help="training steps (default: the model's recipe)")
    command.add_argument("--batch", type=int, help="images a step (default: the model's recipe)")
    command.add_argument("--lr", type=float, help="largest learning rate (default: the model's recipe)")
    command.add_argument("--seed", type=int, help="of all random numbers (default: 0)")
    command.add_argument("--device", choices=DEVICES, help="default: cpu")
    command.add_argument("--threads", type=int, help="of the matrix products (default: the model's recipe)")
    command.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/MODEL-DATA)")
    command.add_argument("--resume", action="store_true", help="go on with the run in --out")
    command.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the model; see list")

    command = commands.add_parser("sample", help="draw images from a trained model")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    command.add_argument("-n", type=int, default=64, help="how many (default: 64)")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".png: a grid; .npz: the levels")
    command.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    command.add_argument("--device", choices=DEVICES, default="cpu")
    command.add_argument("--steps", type=int, help="ddpm: sample by DDIM in so many steps (default: all T, ancestral)")
    command.add_argument("--eta", type=float, help="ddpm: DDIM's noise, 0 to 1 (default: 0)")

    command = commands.add_parser("evaluate", help="likelihood, quality and diversity of the samples, copies, seconds")
    command.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    command.add_argument("--samples", type=int, default=500, help="how many images to draw (default: 500)")
    command.add_argument("--images", type=int, help="how many test images, the first ones (default: all)")
    command.add_argument("--json", type=Path, metavar="FILE", help="the numbers (default: RUN/evaluation.json)")
    command.add_argument("--steps", type=int, help="ddpm: sample by DDIM in so many steps (default: all T, ancestral)")
    command.add_argument("--eta", type=float, help="ddpm: DDIM's noise, 0 to 1 (default: 0)")
    command.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    command.add_argument("--device", choices=DEVICES, default="cpu")

    commands.add_parser("list", help="the models with their settings, and the data sets")
    return main_parser


def size(text: str) -> tuple[int, int]:
    """`32` or `24x32`: height and width."""
    height, x, width = text.partition("x")
    return int(height), int(width if x else height)


def run_train(arguments: argparse.Namespace) -> None:
    name = arguments.data or "digits"
    run = Run(arguments.out or free_folder(f"{arguments.model}-{Path(name).stem}"))
    if arguments.resume:
        if arguments.out is None:
            raise ValueError("--resume needs the run's folder: --out DIR")
        settings = run.settings()
        check_same(arguments, settings)
        images = run.images("train")
    else:
        run.check_new()
        images = data.load(name, "train", arguments.data_dir, arguments.size, arguments.color)
        settings = make_settings(
            arguments.model,
            images,
            dict(parse_model_setting(arguments.model, text) for text in arguments.set),
            data_dir=arguments.data_dir and str(Path(arguments.data_dir).resolve()),
            **{name: getattr(arguments, name) for name in SETTINGS},
        )
    test = load_images(settings, "test")
    run.folder.mkdir(parents=True, exist_ok=True)
    with locked(run.folder), threadpool_limits(settings.threads):
        trainer = Trainer(settings, images)
        if arguments.resume:
            if checkpoint := run.recover():
                trainer.restore(checkpoint)
        else:
            run.check_new()
            run.write_settings(settings)
        begin_metrics(trainer, run)
        size = sum(parameter.data.size for parameter in trainer.model.parameters())
        print(f"{settings.model} ({size:,} parameters) on {settings.data} ({len(images):,} images), in {run.folder}")
        bar = tqdm(
            total=settings.steps, initial=trainer.step, unit="step", mininterval=0.5 if sys.stderr.isatty() else 5
        )

        def on_step(step: int, loss: float) -> None:
            if loss == loss:  # NaN between the steps that are logged
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()

        with bar:
            train(trainer, run, on_step)
        for path in draw_pictures(run, images, test):
            print(f"wrote {path}")


def check_same(arguments: argparse.Namespace, settings: Settings) -> None:
    """A resumed run keeps its settings: what is given besides --resume must not say otherwise.

    Raises:
        ValueError: it does."""
    if arguments.model != settings.model:
        raise ValueError(f"{arguments.out} holds a run of {settings.model}, not of {arguments.model}")
    for name in ("data", *SETTINGS):
        given, own = getattr(arguments, name), getattr(settings, name)
        if given not in (None, own):
            raise ValueError(f"the run in {arguments.out} has {name} {own}, not {given}: --resume keeps its settings")
    for name, given in (parse_model_setting(settings.model, text) for text in arguments.set):
        if given != settings.model_settings.get(name, given):
            own = settings.model_settings[name]
            raise ValueError(f"the run in {arguments.out} has {name} {own}, not {given}: --resume keeps its settings")


def free_folder(name: str) -> Path:
    """runs/NAME, or runs/NAME-2, -3 … where that is taken."""
    candidates = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def ddim_settings(arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """--steps and --eta.

    Raises:
        ValueError: one that this run's model does not have."""
    how = {name: getattr(arguments, name) for name in ("steps", "eta") if getattr(arguments, name) is not None}
    if how and settings.model != "ddpm":
        raise ValueError(f"--{next(iter(how))} is for ddpm; {arguments.run} is a run of {settings.model}")
    if "eta" in how and "steps" not in how:
        raise ValueError("--eta is DDIM's: give --steps too")
    return how


def run_sample(arguments: argparse.Namespace) -> None:
    if arguments.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {arguments.out}")
    if arguments.n < 1:
        raise ValueError(f"-n must be at least 1, got {arguments.n}")
    run = Run(arguments.run)
    settings, model = run.settings(), run.model(arguments.device)
    rng = Generator(arguments.seed, arguments.device).stream(SAMPLES)
    how = ddim_settings(arguments, settings)
    with threadpool_limits(settings.threads):
        images = to_numpy(model.sample(arguments.n, rng, **how))
    if arguments.out.suffix == ".png":
        grid(images, model.levels, columns=min(arguments.n, max(8, round(arguments.n**0.5)))).save(arguments.out)
    else:
        np.savez_compressed(arguments.out, images=images)
    print(f"wrote {arguments.out}")


def run_evaluate(arguments: argparse.Namespace) -> None:
    run = Run(arguments.run)
    settings = run.settings()
    with threadpool_limits(settings.threads):
        found, pictures = evaluate(
            run,
            arguments.samples,
            arguments.images,
            arguments.seed,
            arguments.device,
            **ddim_settings(arguments, settings),
        )
    print(table(found))
    for path in write(found, pictures, settings.levels, run, arguments.json or run.folder / "evaluation.json"):
        print(f"wrote {path}")


def run_list(_: argparse.Namespace) -> None:
    print("models:")
    for name in MODELS:
        print(f"  {name:9} {SUMMARIES[name]}")
        print(
            "            " + " ".join(f"{k}={p.default}" for k, p in model_parameters(name).items()).replace(", ", ",")
        )
    print("data sets:")
    for name in data.DATASETS:
        print(f"  {name:14} {WHERE.get(name, 'downloaded at first use, or in --data-dir DIR')}")
    print("  or a folder of pictures, or an .npz or .npy file of bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, 1 for a run that failed, 2 for input that can't be used."""
    parsed = parser().parse_args(arguments)
    command = {"train": run_train, "sample": run_sample, "evaluate": run_evaluate, "list": run_list}[parsed.command]
    try:
        command(parsed)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"nanogen: error: {' '.join(str(error).split()) or 'out of memory'}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"nanogen: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
