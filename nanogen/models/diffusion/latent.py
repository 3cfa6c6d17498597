"""Latent diffusion.  Rombach et al. 2022, High-Resolution Image Synthesis with Latent Diffusion Models.

    z = (Q(x) − m) / s                       codes of an autoencoder, each number with mean 0 and variance 1
    L = E ‖ε − ε_θ(√ᾱ_t z + √(1 − ᾱ_t) ε, t)‖²                                          a diffusion of them     (eq. 2)
    x = G(s z + m)                           decoded at the end

A code has fewer numbers than its image, and no details that the decoder knows anyway.  So the network is small, and
sampling fast.  Codes are vectors here, and the network a residual one of linear layers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_numpy
from nanogen.data.images import Images
from nanogen.models.base import Update, check_choice, check_counts
from nanogen.models.diffusion.base import Diffusion
from nanogen.models.diffusion.schedule import SCHEDULES, NoiseSchedule
from nanogen.models.diffusion.unet import sinusoidal_embedding, zeroed
from nanogen.models.latent import AUTOENCODERS
from nanogen.models.latent.base import follow
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Embedding, LayerNorm, Linear, Module
from nanogen.random import Generator


class LatentBlock(Module):
    """h → h + linear(silu(linear(norm(h)) + time)): (N, hidden) to the same."""

    def __init__(self, hidden: int, rng: Generator):
        super().__init__()
        self.norm, self.first = LayerNorm(hidden), Linear(hidden, hidden, rng=rng)
        self.time, self.second = Linear(hidden, hidden, rng=rng), zeroed(Linear(hidden, hidden, rng=rng))

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        return h + self.second(F.silu(self.first(self.norm(h)) + self.time(time)))


class LatentNetwork(Module):
    """Codes (N, width) and times (N,) to an output (N, width).  Embeddings of time and label are added."""

    def __init__(self, width: int, hidden: int, blocks: int, classes: int, rng: Generator):
        super().__init__()
        self.hidden = hidden
        self.time = Linear(hidden, hidden, rng=rng)
        self.label = Embedding(classes, hidden, rng=rng) if classes else None
        self.first = Linear(width, hidden, rng=rng)
        self.blocks = [LatentBlock(hidden, rng) for _ in range(blocks)]
        self.norm, self.last = LayerNorm(hidden), zeroed(Linear(hidden, width, rng=rng))

    def forward(self, x: Tensor, t: Any, labels: Array | None = None) -> Tensor:
        time = self.time(sinusoidal_embedding(t, self.hidden, x))
        time = F.silu(time if self.label is None else time + self.label(labels))
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        return self.last(self.norm(h))


class LatentDDPM(Diffusion):
    """A diffusion model of an autoencoder's codes.  It has no density: there is no simple bound in pixels.

    The autoencoder is trained in the same run, or is that of a run whose folder is given: then its settings are that
    run's.  The weights of both are in the run's checkpoints.  With labels, only the diffusion is conditional.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        autoencoder: `autoencoder` or `vae` (whose codes are the means of q(z|x)); or the folder of a run of one.
        latent: the number of dimensions of a code.
        stages: how many times the autoencoder halves the size.
        decoder: the autoencoder's density of a pixel given the code, or its cost.
        channels: the width of the autoencoder at full size.
        frozen: whether the autoencoder's weights stay as they are; that is the default if a run is given.
        diffusion_steps: updates of the diffusion per step.
        T: the number of diffusion steps, at least 2.
        schedule: `linear`, `quadratic`, `sigmoid`, `cosine`, or a NoiseSchedule.
        variance: σ_t² of the reverse process: `beta` (β_t) or `posterior` (β̃_t).
        hidden: the width of the diffusion's network, even.
        blocks: its residual blocks.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.

    Buffers:
        code_mean, code_square: E[z] and E[z²] of each number of the training codes, (latent,).
        batches: how many batches they have seen.
    """

    summary = "a DDPM of an autoencoder's codes, no density (Rombach et al. 2022)"
    loss_unit = "squared error per dimension"
    parts: ClassVar = {"autoencoder": ("latent", "channels", "stages", "decoder")}
    small = Recipe(steps=900, lr=1e-3, model={"T": 200})
    large = large(steps=4000, lr=1e-3, model={"decoder": "logistic"})
    code_mean: Tensor
    code_square: Tensor
    batches: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, autoencoder: str = "autoencoder", latent: int = 32,
        channels: int = 32, stages: int = 2, decoder: str = "categorical", frozen: bool = False,
        diffusion_steps: int = 4, T: int = 1000, schedule: str | NoiseSchedule = "linear", variance: str = "beta",
        hidden: int = 256, blocks: int = 4, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(diffusion_steps=diffusion_steps, hidden=hidden, blocks=blocks)
        check_choice(autoencoder=(autoencoder, tuple(AUTOENCODERS)), variance=(variance, ("beta", "posterior")))
        if not isinstance(schedule, NoiseSchedule):
            check_choice(schedule=(schedule, tuple(SCHEDULES)))
            schedule = SCHEDULES[schedule](T)
        if hidden % 2:
            raise ValueError(f"hidden must be even, got {hidden}")
        rng = rng or Generator(0)
        self.schedule, self.variance, self.frozen, self.diffusion_steps = schedule, variance, frozen, diffusion_steps
        self.autoencoder = AUTOENCODERS[autoencoder](
            image_shape, levels, latent=latent, channels=channels, stages=stages, decoder=decoder, rng=rng
        )
        self.diffusion = LatentNetwork(latent, hidden, blocks, classes, rng)
        self.register_buffer("code_mean", Tensor(np.zeros(latent, np.float32)))
        self.register_buffer("code_square", Tensor(np.ones(latent, np.float32)))
        self.register_buffer("batches", Tensor(np.zeros((), np.int64)))

    @property
    def x_shape(self) -> tuple[int, ...]:
        return self.code_mean.shape

    @property
    def code_std(self) -> Array:
        """s, the standard deviation of each number of the training codes: (latent,)."""
        variance = self.code_square.data - self.code_mean.data**2
        return array_module(variance).maximum(variance, 1e-8) ** 0.5

    def encode(self, images: Any) -> Tensor:
        """z = (Q(x) − m) / s, of mean 0 and variance 1 over the training images: (N, latent)."""
        return self.standardised(self.autoencoder.code(images))

    def standardised(self, code: Tensor) -> Tensor:
        """(code − m) / s: (N, latent) to the same.  Appendix G, for each number by itself."""
        return (code - self.code_mean) / self.code_std

    def decode(self, x: Tensor) -> Array:
        """The pictures of codes z (N, latent), G(s z + m): uint8 (N, C, H, W)."""
        return self.autoencoder.picture(x * self.code_std + self.code_mean)

    def predict_noise(self, x_t: Tensor, t: Any, labels: Array | None = None) -> Tensor:
        """ε_θ(z_t, t): (N, latent) from noisy codes (N, latent) and times (N,)."""
        return self.diffusion(x_t, t, labels)

    def predict_x0(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """The clean code that follows from the predicted noise.  Codes have no bounds to clip them to."""
        return self.schedule.x0_from_noise(x_t, t, self.predict_noise(x_t, t, **given))

    def autoencoder_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The autoencoder's own, which takes no labels."""
        self.condition(labels, len(images))
        return self.autoencoder.loss(images, rng)

    def diffusion_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """L_simple for codes: the squared error of the predicted noise, the mean per dimension.  Eq. 2."""
        given = self.condition(labels, len(images))
        with no_grad():  # the diffusion does not move the codes
            code = self.autoencoder.code(images)
            if self.training:
                follow(self.batches, (self.code_mean, self.code_square), (code.mean(0), (code**2).mean(0)))
            z = self.standardised(code)
        t = rng.integers(1, self.T + 1, len(images))
        noise = Tensor(rng.normal(z.shape, dtype=z.dtype))
        return F.mse_loss(self.predict_noise(self.schedule.q_sample(z, t, noise), t, **given), noise)

    def updates(self) -> list[Update]:
        """A step of the autoencoder, unless `frozen`, then `diffusion_steps` of the diffusion of its codes."""
        first = [] if self.frozen else [Update("autoencoder", self.autoencoder_loss, self.autoencoder)]
        return first + [Update("diffusion", self.diffusion_loss, self.diffusion)] * self.diffusion_steps

    def sampling_networks(self) -> list[Module]:
        return [self.diffusion]

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - denoising: each row is one sample, the pictures of z_t from the noise (left) to the sample (right)
        - reconstructions: test images, each above the picture of its code"""
        chosen, _ = self.first_images(test, 16)
        with no_grad():
            pictures = to_numpy(self.decode(self.encode(chosen)))
        return super().illustrations(train, test, rng) | {"reconstructions": np.stack([chosen, pictures])}
