"""Latent diffusion: what is encoded and decoded, the moments of codes, and parts of a model that runs give."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanogen as ng
from nanogen.cli import main
from nanogen.data import Images
from nanogen.models import LatentDDPM
from nanogen.training.loop import Trainer
from nanogen.training.run import Run, make_settings

OWN = ["latent=3", "channels=2", "stages=1"]
TRAIN = ["--steps", "3", "--batch", "8", "--quiet", "--out"]
LATENT = ["hidden=4", "blocks=1", "T=3"]


def small(**settings: Any) -> LatentDDPM:
    settings = {"latent": 3, "channels": 4, "stages": 1, "T": 5, "hidden": 6, "blocks": 2, **settings}
    return LatentDDPM((1, 4, 6), 5, rng=ng.Generator(1), **settings).to(np.float64)


def some_images(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 5, (n, 1, 4, 6)).astype(np.uint8)


def with_moments(model: LatentDDPM) -> LatentDDPM:
    """The model after an epoch of its frozen autoencoder's codes, in batches of 8."""
    images = some_images()
    for i in range(0, 40, 8):
        model.diffusion_loss(images[i : i + 8], ng.Generator(0))
    return model.eval()


# Codes


@pytest.mark.parametrize("kind", ["autoencoder", "vae"])
def test_scaled_codes_have_mean_0_and_variance_1(kind: str) -> None:
    """Over the training images, each number of the code by itself.  Rombach et al. 2022, appendix G."""
    model = with_moments(small(autoencoder=kind, frozen=True))
    codes = model.encode(some_images()).data
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose((codes**2).mean(0), 1, rtol=1e-9)
    raw = model.autoencoder.code(some_images()).data
    assert abs(raw.std(0) - 1).min() > 0.02, "nothing would be scaled"


@pytest.mark.parametrize("kind", ["autoencoder", "vae"])
def test_what_was_encoded_is_decoded(kind: str) -> None:
    """Without noise, strength 0, an image becomes the autoencoder's reconstruction: scaling is undone."""
    model, images = with_moments(small(autoencoder=kind)), some_images()
    assert np.array_equal(model.decode(model.encode(images)), model.autoencoder.reconstruct(images))
    seen = []
    model.autoencoder.picture = seen.append  # type: ignore[method-assign,assignment]
    model.decode(model.encode(images))
    np.testing.assert_allclose(seen[0].data, model.autoencoder.code(images).data, rtol=1e-12, atol=1e-14)


def test_codes_that_do_not_vary() -> None:
    """A number that is the same for all images is scaled to 0, and back."""
    model, images = small(), some_images()
    model.autoencoder.code = lambda images: ng.tensor(np.full((len(images), 3), 0.1))  # type: ignore[method-assign]
    with_moments(model)
    assert abs(model.encode(images).data).max() < 1e-6
    assert np.isfinite(model.decode(model.encode(images))).all()


def test_the_moments_stay_outside_of_training() -> None:
    model = with_moments(small())
    before = {name: x.data.copy() for name, x in model.named_buffers()}
    model.diffusion_loss(some_images(8), ng.Generator(0))
    assert all(np.array_equal(x.data, before[name]) for name, x in model.named_buffers())


# The diffusion


def test_a_predictor_that_knows_the_code_returns_it() -> None:
    """With the true noise x̂_0 is the code, however far from 0, and both samplers end at it."""
    model, code = small(), np.array([[4.0, -3.0, 0.5]])
    model.predict_noise = lambda x_t, t: model.schedule.noise_from_x0(x_t, t, code)  # type: ignore[method-assign]
    for steps in (model.ancestral(2, ng.Generator(0)), model.ddim(2, ng.Generator(0), 3)):
        *_, (_, last) = steps
        np.testing.assert_allclose(last.data, code.repeat(2, 0), rtol=1e-9)


def test_the_loss_is_the_error_of_the_noise_of_codes() -> None:
    """‖ε − ε_θ‖², the mean per dimension, of q_sample(z, t, ε) with scaled z: 0 for who knows z, and 1 for zeros."""
    model = with_moments(small())
    codes = model.encode(some_images(8)).data
    model.predict_noise = lambda x_t, t: model.schedule.noise_from_x0(x_t, t, codes)  # type: ignore[method-assign]
    assert model.diffusion_loss(some_images(8), ng.Generator(0)).item() < 1e-20
    model.predict_noise = lambda x_t, t: 0.0 * x_t  # type: ignore[method-assign]
    many = some_images(40).repeat(50, 0)
    assert model.diffusion_loss(many, ng.Generator(0)).item() == pytest.approx(1, abs=4 * (2 / 6000) ** 0.5)


@pytest.mark.parametrize("frozen", [False, True])
def test_what_a_step_moves(frozen: bool) -> None:
    """The autoencoder follows its own loss alone, the network the diffusion's; a frozen autoencoder stays."""
    images = Images(some_images(), None, 5, "x")
    own = {"latent": 3, "channels": 2, "stages": 1, "hidden": 4, "blocks": 1, "T": 3, "frozen": frozen}
    trainer = Trainer(make_settings("latent-ddpm", images, own, batch=8, warmup=0), images)
    before = {name: p.data.copy() for name, p in trainer.model.named_parameters()}
    assert [*trainer.advance()] == ["autoencoder", "diffusion"][frozen:]
    moved = {name for name, p in trainer.model.named_parameters() if not np.array_equal(p.data, before[name])}
    assert any(name.startswith("diffusion.") for name in moved)
    assert any(name.startswith("autoencoder.") for name in moved) == (not frozen)
    model: Any = trainer.model
    loss = model.autoencoder_loss(some_images(8), ng.Generator(3)).item()
    assert loss == model.autoencoder.loss(some_images(8), ng.Generator(3)).item()
    assert model.batches.item() == 4


def test_labels_are_the_diffusions() -> None:
    model = small(classes=2)
    model.autoencoder_loss(some_images(8), ng.Generator(0), np.zeros(8, int))
    for parameter in model.diffusion.parameters():
        parameter.data = parameter.data + 0.1 * np.random.default_rng(0).standard_normal(parameter.shape)
    one, other = (model.diffusion_loss(some_images(8), ng.Generator(0), np.full(8, label)).item() for label in (0, 1))
    assert one != other
    with pytest.raises(ValueError, match="labels must be given"):
        model.diffusion_loss(some_images(8), ng.Generator(0))
    assert model.sample(3, ng.Generator(0), [0, 1, 1]).shape == (3, 1, 4, 6)


def test_settings_out_of_range() -> None:
    for settings, said in (
        ({"autoencoder": "gan"}, "autoencoder must be one of autoencoder, vae, got 'gan'"),
        ({"hidden": 5}, "hidden must be even, got 5"),
        ({"diffusion_steps": 0}, "diffusion_steps must be a positive integer"),
        ({"variance": "learned"}, "variance must be one of beta, posterior"),
        ({"schedule": "steep"}, "schedule must be one of linear"),
    ):
        with pytest.raises(ValueError, match=said):
            small(**settings)


# An autoencoder that is a run's


@pytest.mark.parametrize("kind", ["autoencoder", "vae"])
def test_a_runs_autoencoder(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its averaged weights, exactly, at the start and at the end, since it is frozen; the new run needs its folder no
    more, neither to draw nor to resume."""
    first, out = tmp_path / "first", tmp_path / "run"
    assert main(["train", kind, *TRAIN, str(first), "--ema", "0.5", "--set", "levels=5", *OWN]) == 0
    weights = Run(first).model().state_dict()
    given = [f"autoencoder={first}", "levels=5", *LATENT]
    assert main(["train", "latent-ddpm", *TRAIN[:-2], "--out", str(out), "--set", *given]) == 0
    assert f"begins with the averaged weights of {first}" in capsys.readouterr().out
    settings = Run(out).settings().model_settings
    expected = {"autoencoder": kind, "latent": 3, "channels": 2, "stages": 1, "frozen": True, "hidden": 4}
    assert settings.items() >= expected.items()
    shutil.rmtree(first)
    assert main(["train", "--out", str(out), "--resume", "--steps", "4", "--quiet"]) == 0
    assert main(["sample", str(out), "-n", "4", "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["images"].shape == (4, 1, 8, 8)
    for step in (0, 4):
        model: Any = Run(out, step=step).model()
        for name, weight in model.autoencoder.state_dict().items():
            np.testing.assert_allclose(weight, weights[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_run_that_gives_no_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another model, conditional, of other images, of no folder, with another setting, or beside --init."""
    made = {
        "ddpm": ["multipliers=1", "channels=4", "T=3"], "vae": OWN, "autoencoder": ["classes=10", *OWN],
    }  # fmt: skip
    for model, own in made.items():
        assert main(["train", model, *TRAIN, str(tmp_path / model), "--set", *own]) == 0
    vae, new = f"autoencoder={tmp_path / 'vae'}", tmp_path / "new"
    for given, said in (
        ([f"autoencoder={tmp_path / 'ddpm'}"], "autoencoder must be one of autoencoder, vae, got 'ddpm'"),
        ([f"autoencoder={tmp_path / 'autoencoder'}"], "must be a run without labels"),
        ([vae, "levels=2"], "do not fit: it has levels 17, not 2"),
        ([vae, "latent=5"], "do not fit: it has latent 3, not 5"),
        ([f"autoencoder={tmp_path / 'nowhere'}"], "nowhere holds no run"),
        (["autoencoder=vae", "frozen=true"], "frozen needs trained weights: autoencoder=RUN, or --init"),
        ([vae, "--init", str(tmp_path / "vae")], "--init gives all weights: autoencoder must not be a run"),
    ):
        assert main(["train", "latent-ddpm", *TRAIN, str(new), "--set", *LATENT, *given]) == 2
        assert said in capsys.readouterr().err
        assert not new.exists()
