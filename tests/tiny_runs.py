"""Runs of a second or less, for the tests of training, checkpoints and stopping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nanogen.data import Images
from nanogen.training.loop import Trainer, begin_metrics, train
from nanogen.training.run import Run, Settings, make_settings

TINY: dict[str, dict[str, Any]] = {
    "pixelcnn": {"channels": 4, "blocks": 1, "kernel_size": 3, "dropout": 0.3},
    "gated-pixelcnn": {"channels": 4, "blocks": 1, "kernel_size": 3, "dropout": 0.3},
    "pixelrnn": {"hidden": 4, "blocks": 1, "kernel_size": 3, "dropout": 0.3},
    "vae": {"latent": 2, "channels": 2, "stages": 1},
    "hierarchical-vae": {"latent": 2, "hidden": 4, "channels": 2, "stages": 1, "free_bits": 0.05},
    "autoencoder": {"latent": 2, "channels": 2, "stages": 1},
    "wae": {"latent": 2, "channels": 2, "stages": 1, "decoder": "squared"},
    "aae": {"latent": 2, "channels": 2, "stages": 1, "hidden": 4, "discriminator_steps": 2},
    "gan": {"latent": 2, "channels": 2, "discriminator_steps": 2},
    "sagan": {"latent": 2, "channels": 2, "discriminator_steps": 2, "clip_weights": 0.5},
    "biggan": {"latent": 4, "channels": 2, "discriminator_steps": 2},
    "infogan": {"noise": 2, "channels": 2, "codes": 3, "continuous": 1, "discriminator_steps": 2},
    "pix2pix": {"channels": 2, "stages": 1, "discriminator_stages": 0},
    "cyclegan": {"channels": 2, "stages": 1, "blocks": 1, "discriminator_stages": 0, "history": 6, "identity": 0.5},
    "spade": {"latent": 2, "channels": 2, "hidden": 2, "discriminator_stages": 0},
    "stylegan": {"latent": 3, "channels": 2, "mapping": 1, "progressive": 3},
    "super-resolution": {"T": 3, "channels": 2, "multipliers": (1,), "heads": 1, "augmentation": 0.5},
    "ddpm": {"T": 3, "channels": 2, "multipliers": (1,), "heads": 1, "dropout": 0.2},
    "binomial-diffusion": {"T": 3, "channels": 2, "multipliers": (1,), "heads": 1, "dropout": 0.2},
    "latent-ddpm": {
        "latent": 2, "channels": 2, "stages": 1, "decoder": "squared", "diffusion_steps": 1, "T": 3, "hidden": 4,
        "blocks": 1,
    },
}  # fmt: skip
# They differ in what a run knows of its model: densities, losses of several parts, repeated ones, buffers that training
# moves, how it draws.  Tests of runs that take long are for these.
KINDS = ["pixelcnn", "vae", "aae", "gan", "cyclegan", "stylegan", "ddpm"]
STEPS = 12


def some_images(n: int = 30, levels: int = 4) -> Images:
    """Stripes of random levels, 4×4."""
    rows = np.random.default_rng(0).integers(0, levels, (n, 1, 4, 1)).astype(np.uint8)
    return Images(rows.repeat(4, axis=3), None, levels, "digits")


def images_of(model: str, n: int = 30) -> Images:
    """Images that the model can be of."""
    return some_images(n, 2 if model == "binomial-diffusion" else 4)


def settings_of(model: str, **changes: Any) -> Settings:
    return make_settings(model, images_of(model), TINY[model], **{"steps": STEPS, "batch": 8, "warmup": 3, **changes})


def begun(settings: Settings, folder: Path) -> tuple[Trainer, Run]:
    trainer, run = Trainer(settings, images_of(settings.model)), Run(folder)
    run.write_settings(settings)
    begin_metrics(trainer, run)
    return trainer, run


def trained(model: str, folder: Path, **changes: Any) -> tuple[Trainer, Run]:
    trainer, run = begun(settings_of(model, **changes), folder)
    train(trainer, run, lambda step, loss: None)
    return trainer, run


def resumed(folder: Path) -> tuple[Trainer, Run]:
    """Gone on with from the newest checkpoint, or from the start, to the end."""
    run = Run(folder)
    trainer = Trainer(run.settings(), images_of(run.settings().model))
    if checkpoint := run.recover():
        trainer.restore(checkpoint)
    begin_metrics(trainer, run)
    train(trainer, run, lambda step, loss: None)
    return trainer, run


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name
