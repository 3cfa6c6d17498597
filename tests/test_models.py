"""What all models have in common: where their first weights come from, and in which type they count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nanogen as ng
from nanogen.models import (
    AAE,
    DDPM,
    GAN,
    SAGAN,
    SPADE,
    VAE,
    WAE,
    Autoencoder,
    BigGAN,
    BinomialDiffusion,
    CycleGAN,
    GatedPixelCNN,
    GenerativeModel,
    HierarchicalVAE,
    InfoGAN,
    LatentDDPM,
    Pix2Pix,
    PixelCNN,
    PixelRNN,
    StyleGAN,
    SuperResolution,
)  # fmt: skip
from nanogen.models import MODELS as REGISTRY
from nanogen.models.autoregressive.base import AutoregressiveModel

MODELS: dict[str, Any] = {
    "pixelcnn": lambda **rng: PixelCNN((3, 4, 3), 5, channels=6, blocks=2, kernel_size=3, dropout=0.0, **rng),
    "gated": lambda **rng: GatedPixelCNN((3, 4, 3), 5, channels=6, blocks=2, kernel_size=3, dropout=0.0, **rng),
    "row": lambda **rng: PixelRNN((3, 4, 3), 5, hidden=6, blocks=1, kernel_size=3, dropout=0.0, **rng),
    "diagonal": lambda **rng: PixelRNN((3, 4, 3), 5, "diagonal", 6, blocks=1, kernel_size=3, dropout=0.0, **rng),
    "vae": lambda **rng: VAE((1, 6, 8), 5, latent=3, channels=4, **rng),
    "vae, logistic": lambda **rng: VAE((3, 4, 4), 256, latent=3, channels=4, decoder="logistic", **rng),
    "vae, mixture": lambda **rng: VAE((1, 6, 8), 5, latent=3, channels=4, posterior="mixture", **rng),
    "vae, categorical": lambda **rng: VAE((1, 6, 8), 5, latent=3, channels=4, posterior="categorical", **rng),
    "hierarchical vae": lambda **rng: HierarchicalVAE((1, 6, 8), 5, latent=3, hidden=4, channels=4, **rng),
    "hierarchical vae, no free bits": lambda **rng: HierarchicalVAE(
        (1, 6, 8), 5, 2, latent=3, hidden=4, channels=4, free_bits=0.0, **rng
    ),
    "autoencoder": lambda **rng: Autoencoder((1, 6, 8), 5, latent=3, channels=4, **rng),
    "wae": lambda **rng: WAE((3, 4, 4), 5, latent=3, channels=4, decoder="logistic", **rng),
    "aae": lambda **rng: AAE((1, 6, 8), 5, latent=3, channels=4, hidden=6, **rng),
    "gan": lambda **rng: GAN((3, 8, 12), 5, latent=3, channels=4, **rng),
    "gan, penalised": lambda **rng: GAN(
        (1, 8, 8), 5, latent=3, channels=4, objective="wasserstein", gradient_penalty=0.5, **rng
    ),
    "gan, least squares": lambda **rng: GAN((1, 8, 8), 5, latent=3, channels=4, objective="least-squares", **rng),
    "sagan": lambda **rng: SAGAN((3, 8, 12), 5, latent=3, channels=4, **rng),
    "biggan": lambda **rng: BigGAN((3, 8, 12), 5, latent=4, channels=4, **rng),
    "infogan": lambda **rng: InfoGAN((3, 8, 12), 5, noise=3, channels=4, codes=3, continuous=2, **rng),
    "pix2pix": lambda **rng: Pix2Pix((3, 6, 4), 5, channels=4, discriminator_stages=1, dropout=0.0, **rng),
    "cyclegan": lambda **rng: CycleGAN((1, 6, 5), 5, channels=4, blocks=1, identity=0.5, **rng),
    "spade": lambda **rng: SPADE((3, 6, 4), 5, latent=3, channels=4, hidden=4, discriminator_stages=0, **rng),
    "stylegan": lambda **rng: StyleGAN((1, 8, 8), 5, latent=3, channels=4, **rng),
    "stylegan, growing": lambda **rng: StyleGAN((3, 8, 8), 5, latent=3, channels=4, progressive=1, **rng),
    "super-resolution": lambda **rng: SuperResolution((3, 4, 6), 5, T=4, channels=8, heads=2, augmentation=0.5, **rng),
    "ddpm": lambda **rng: DDPM((3, 4, 6), 5, T=4, channels=8, multipliers=(1, 2), heads=2, **rng),
    "ddpm, learned": lambda **rng: DDPM(
        (3, 4, 6), 5, T=4, channels=8, heads=2, variance="learned", prediction="v", weighting="bound", **rng
    ),
    "binomial": lambda **rng: BinomialDiffusion((3, 4, 6), 2, T=4, channels=8, multipliers=(1, 2), heads=2, **rng),
    "latent": lambda **rng: LatentDDPM((1, 6, 8), 5, latent=3, channels=4, T=4, hidden=8, blocks=1, **rng),
    "latent, vae": lambda **rng: LatentDDPM((1, 6, 8), 5, "vae", latent=3, channels=4, T=4, hidden=8, blocks=1, **rng),
}


class Recorder(ng.Generator):
    """Notes the types of the normal numbers, and of the uniform ones, that it is asked for."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.normals: set[np.dtype] = set()
        self.uniforms: set[np.dtype] = set()

    def normal(self, size: Any = (), dtype: Any = np.float32) -> Any:
        self.normals.add(np.dtype(dtype))
        return super().normal(size, dtype)

    def uniform(self, size: Any = (), dtype: Any = np.float32) -> Any:
        self.uniforms.add(np.dtype(dtype))
        return super().uniform(size, dtype)


def drawn(model: GenerativeModel) -> dict[str, np.ndarray]:
    """The parameters that do not begin as all zeros or all ones."""
    return {name: p.data for name, p in model.named_parameters() if not (np.all(p.data == 0) or np.all(p.data == 1))}


@pytest.mark.parametrize("name", MODELS)
def test_first_weights_are_the_generators(name: str) -> None:
    """Every weight that is drawn comes from `rng`, Generator(0) unless given, and no two have the same numbers."""
    default, zero, one = (
        drawn(MODELS[name](**how)) for how in ({}, *({"rng": ng.Generator(seed, "cpu")} for seed in (0, 1)))
    )
    assert default.keys() == zero.keys() == one.keys()
    for key, weight in zero.items():
        assert np.array_equal(default[key], weight), key
        assert np.mean(one[key] == weight) < 0.1, f"{key} does not come from the generator"
    numbers = np.concatenate([weight.reshape(-1) for weight in zero.values()])
    assert len(np.unique(numbers)) > 0.99 * len(numbers), "some weights are others' once more"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_counts_in_its_own_type(name: str, dtype: Any) -> None:
    """Losses, their gradients and bounds have the parameters' type, and noise is drawn in it: of float32 in a model of
    float64 half the digits would be missing, and the other way round all that follows would be counted in float64."""
    model, rng = MODELS[name]().to(dtype), Recorder(0)
    images = np.random.default_rng(0).integers(0, model.levels, (4, *model.image_shape)).astype(np.uint8)
    for _, loss_of, part in model.updates():
        loss, parameters = loss_of(images, rng), list(part.parameters())
        assert loss.dtype == dtype
        assert {g.dtype for g in ng.grad(loss, parameters)} == {np.dtype(dtype)}
    assert rng.uniforms <= {np.dtype(dtype)}, "where the penalty is taken"
    if isinstance(model, VAE | HierarchicalVAE | DDPM | BinomialDiffusion):
        assert model.elbo(images, rng).dtype == dtype
    if isinstance(model, VAE | HierarchicalVAE):
        assert model.importance_weighted_bound(images, rng, 2).dtype == dtype
    if isinstance(model, DDPM | LatentDDPM):
        assert {x.dtype for _, x in model.ancestral(2, rng)} == {np.dtype(dtype)}
        assert {x.dtype for _, x in model.ddim(2, rng, 2, 0.5)} == {np.dtype(dtype)}
    model.sample(2, rng)
    without = (
        isinstance(model, AutoregressiveModel | Pix2Pix | CycleGAN | BinomialDiffusion) or name == "vae, categorical"
    )
    assert rng.normals == (set() if without else {np.dtype(dtype)})


DEFAULTS: dict[Any, dict[str, Any]] = {
    PixelCNN: {"channels": 96, "blocks": 5, "kernel_size": 5, "dropout": 0.25},
    GatedPixelCNN: {"channels": 64, "blocks": 5, "kernel_size": 7, "dropout": 0.25},
    PixelRNN: {"cell": "row", "hidden": 64, "blocks": 3, "kernel_size": 7, "dropout": 0.25},
    VAE: {
        "latent": 16, "channels": 32, "stages": 2, "decoder": "categorical", "beta": 1.0,
        "posterior": "gaussian", "components": 4, "categories": 4, "temperature": 1.0, "straight_through": False,
    },
    HierarchicalVAE: {
        "levels_of_latents": 3, "latent": 16, "hidden": 128, "channels": 32, "stages": 2, "decoder": "categorical",
        "free_bits": 2.0,
    },
    Autoencoder: {"latent": 32, "channels": 32, "stages": 2, "decoder": "squared"},
    WAE: {
        "latent": 32, "channels": 32, "stages": 2, "decoder": "squared", "penalty": "mmd", "weight": 10.0,
        "hidden": 256,
    },
    AAE: {"latent": 32, "channels": 32, "stages": 2, "weight": 1.0, "hidden": 256},
    GAN: {
        "latent": 64, "channels": 64, "objective": "non-saturating", "discriminator_steps": 1, "gradient_penalty": 0.0,
        "clip_weights": 0.0, "targets": (0.0, 1.0, 1.0), "spectral": False, "attention": False, "orthogonal": False,
        "hierarchical": False,
    },
    SAGAN: {
        "latent": 64, "channels": 64, "objective": "hinge", "discriminator_steps": 1, "gradient_penalty": 0.0,
        "clip_weights": 0.0, "targets": (0.0, 1.0, 1.0), "spectral": True, "attention": True, "orthogonal": False,
        "hierarchical": False,
    },
    BigGAN: {
        "latent": 64, "channels": 64, "objective": "hinge", "discriminator_steps": 1, "gradient_penalty": 0.0,
        "clip_weights": 0.0, "targets": (0.0, 1.0, 1.0), "spectral": True, "attention": False, "orthogonal": True,
        "hierarchical": True,
    },
    InfoGAN: {
        "noise": 62, "channels": 64, "codes": 10, "continuous": 2, "weight": 1.0, "continuous_weight": 0.1,
        "discriminator_steps": 1,
    },
    Pix2Pix: {
        "source": "edges", "channels": 64, "stages": 7, "discriminator_stages": 3, "weight": 100.0, "dropout": 0.5,
    },
    CycleGAN: {
        "source": "inverted", "channels": 64, "stages": 2, "blocks": 6, "discriminator_stages": 3, "weight": 10.0,
        "identity": 0.0, "history": 50,
    },
    SPADE: {"source": "posterised", "latent": 64, "channels": 64, "hidden": 128, "discriminator_stages": 3},
    StyleGAN: {"latent": 64, "channels": 32, "mapping": 4, "mixing": 0.9, "penalty": 1.0, "progressive": 0},
    SuperResolution: {
        "T": 1000, "schedule": "linear", "variance": "beta", "augmentation": 0.0, "channels": 64, "multipliers": (1, 2),
        "blocks": 1, "heads": 4, "dropout": 0.0,
    },
    DDPM: {
        "T": 1000, "schedule": "linear", "variance": "beta", "channels": 64, "multipliers": (1, 2), "blocks": 1,
        "heads": 4, "dropout": 0.0, "label_dropout": 0.1, "condition": "label", "prediction": "noise",
        "weighting": "simple", "times": "uniform", "network": "unet", "patch": 2, "depth": 6,
    },
    LatentDDPM: {
        "autoencoder": "autoencoder", "latent": 32, "channels": 32, "stages": 2, "decoder": "categorical",
        "frozen": False, "diffusion_steps": 4, "T": 1000, "schedule": "linear", "variance": "beta", "hidden": 256,
        "blocks": 4,
    },
    BinomialDiffusion: {"T": 100, "channels": 64, "multipliers": (1, 2), "blocks": 1, "heads": 4, "dropout": 0.0},
}  # fmt: skip


def anatomy(model: GenerativeModel) -> list[Any]:
    """What a model is made of: its modules, their settings, the shapes of their parameters."""
    settings = [
        (type(m), {k: v for k, v in vars(m).items() if isinstance(v, int | float | str | tuple)})
        for m in model.modules()
    ]
    schedule: Any = getattr(model, "schedule", getattr(model, "flips", None))
    schedule = None if schedule is None else schedule.betas.tolist()
    return [settings, schedule, {name: p.shape for name, p in model.named_parameters()}]


@pytest.mark.parametrize("model", DEFAULTS)
def test_settings_unless_given(model: Any) -> None:
    """A default that moves changes everybody's models: these are they."""
    levels = 2 if model is BinomialDiffusion else 3
    assert anatomy(model((1, 8, 8), levels)) == anatomy(model((1, 8, 8), levels, **DEFAULTS[model]))


def test_draws_unless_given() -> None:
    """The importance-weighted bound takes 64 samples, a line between two images eight pictures."""
    model, images = MODELS["vae"](), np.zeros((2, 1, 6, 8), np.uint8)
    bound, given = (model.importance_weighted_bound(images, ng.Generator(0), *k).data for k in ((), (64,)))
    assert np.array_equal(bound, given)
    assert model.interpolate(images, images).shape == (2, 8, 1, 6, 8)


@pytest.mark.parametrize("name", MODELS)
def test_the_unit_of_a_loss(name: str) -> None:
    """Every model says it.  A loss in nats per dimension is the negative log-likelihood, or its bound, in that unit;
    the losses of the others are not."""
    model, rng = MODELS[name](), np.random.default_rng(0)
    images = rng.integers(0, model.levels, (4, *model.image_shape)).astype(np.uint8)
    found = model.negative_log_likelihoods(images, ng.Generator(1))
    if model.loss_unit == "nats per dimension":
        expected = next(iter(found.values())).mean().item() / np.prod(model.image_shape)
        assert model.loss(images, ng.Generator(1)).item() == pytest.approx(expected, rel=1e-5)
    else:
        assert model.loss_unit == {
            "gan": "nats", "gan, penalised": "units of the critic's output",
            "gan, least squares": "squared units of the discriminator's output",
            "sagan": "units of the discriminator's output",
            "biggan": "units of the discriminator's output", "infogan": "nats",
            "pix2pix": "nats, with λ times the L1 error",
            "cyclegan": "squared error of D, with λ times the L1 error of the cycle",
            "spade": "units of the discriminator's output", "stylegan": "nats", "stylegan, growing": "nats",
            "super-resolution": "squared error per dimension", "ddpm, learned": "nats per dimension, less a constant",
            "ddpm": "squared error per dimension", "latent": "squared error per dimension",
            "latent, vae": "squared error per dimension", "binomial": "nats per dimension, by one step of the bound",
            "vae, categorical": "nats per dimension, codes relaxed",
            "hierarchical vae": "nats per dimension, with free bits",
            "autoencoder": "squared error per dimension",
            "wae": "nats per dimension, given the code, with the penalty",
            "aae": "squared error per dimension, with the penalty",
        }[name]  # fmt: skip


def test_what_is_not_there() -> None:
    """A wrong name is answered with similar ones; a model of several losses says so."""
    with pytest.raises(AttributeError, match="DDPM"):
        getattr(ng.models, "DDPMs")  # noqa: B009
    with pytest.raises(NotImplementedError, match="GAN has no single loss"):
        MODELS["gan"]().loss(np.zeros((2, 1, 8, 8), np.uint8), ng.Generator(0))


def calls(model: Any) -> dict[str, Any]:
    """The methods of the interface that take `(images, rng, labels)`; `translate` takes no labels."""
    found: dict[str, Any] = {f"loss of {update.name}": update.loss for update in model.updates()}
    found |= {name: getattr(model, name) for name in ("elbo", "translate") if hasattr(model, name)}
    if hasattr(model, "log_prob"):
        found["log_prob"] = lambda images, rng, labels=None: model.log_prob(images, labels)
    return found


def small(name: str, classes: int = 0) -> Any:
    """A model of 8×8 images with its default settings, of 2 levels if it takes no others."""
    levels = 2 if name == "binomial-diffusion" else 5
    return REGISTRY[name]((1, 8, 8), levels, **({"classes": classes} if classes else {}))


@pytest.mark.parametrize("name", REGISTRY)
def test_wrong_arguments_are_named(name: str) -> None:
    """Each method says which argument is wrong, what it must be and what was given, before it computes anything."""
    model = small(name)
    rng, right = ng.Generator(0), np.zeros((2, *model.image_shape), np.uint8)
    for seed in (0, None, np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"^rng must be a Generator, .* got "):
            model.sample(2, seed)
    for n in (-1, 0, 2.5, "2", None):
        with pytest.raises(ValueError, match=rf"^n must be a positive integer, got {n!r}$"):
            model.sample(n, rng)
    with pytest.raises(ValueError, match=r"^labels must not be given"):
        model.sample(2, rng, np.zeros(2, int))
    wrong = [
        (right / 2, TypeError, "an array of integer levels, got float64"), (None, TypeError, "got NoneType"),
        (3, TypeError, "got int"), (right.tolist(), TypeError, "got list"), (right[:, 0], ValueError, "N, C, H"),
        (right[..., 1:], ValueError, r"got shape \(2, 1, 8, 7\)"),
    ]  # fmt: skip
    for what, call in calls(model).items():
        for images, error, words in wrong:
            with pytest.raises(error, match=f"^images must be .*{words}"):
                call(images, rng)
        if what != "translate":
            with pytest.raises(ValueError, match=f"^images: levels must be in 0 … {model.levels - 1}, got 7$"):
                call(right + np.uint8(7), rng)
            with pytest.raises(ValueError, match=r"^images must be at least one"):
                call(right[:0], rng)
        if what != "log_prob":
            with pytest.raises(TypeError, match=r"^rng must be a Generator"):
                call(model.source_of(right) if what == "translate" else right, 0)


@pytest.mark.parametrize("name", sorted({*REGISTRY} - {"pix2pix", "cyclegan", "spade", "super-resolution"}))
def test_wrong_labels_are_named(name: str) -> None:
    """Labels that are not one integer per image, or none at all, in losses, bounds and samples."""
    model, rng = small(name, classes=3), ng.Generator(0)
    images, labels = np.zeros((2, *model.image_shape), np.uint8), np.array([0, 2])
    for wrong in (labels[:1], labels[:, None], labels / 2, labels + 1, 1, [[0], [1, 2]]):
        with pytest.raises(ValueError, match=r"^labels must be "):
            model.sample(2, rng, wrong)
    for call in calls(model).values():
        for wrong in (labels[:1], labels[:, None], labels / 2, labels + 1, 1, [[0], [1, 2]], None):
            with pytest.raises(ValueError, match=r"^labels must be "):
                call(images, rng, wrong)


def test_a_model_is_not_made_of_a_seed() -> None:
    with pytest.raises(TypeError, match=r"^rng must be a Generator"):
        VAE((1, 8, 8), 5, rng=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^image_shape must be \(C, H, W\), three positive integers, got 8$"):
        VAE(8, 5)  # type: ignore[arg-type]
