"""The autoencoder.  Hinton & Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural Networks.

    z = Q(x),  min E_x[c(x, G(z))]

A VAE's networks without its distributions: an image has one code, and the loss does not say how codes are distributed.
So a decoder of z ~ N(0, I) gets codes that it was never trained on.  A density that is fitted to the codes after
training makes the autoencoder a generative model: Ghosh et al. 2020, From Variational to Deterministic Autoencoders.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, to_device, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Categorical, DiscretizedLogistic, unscale_levels
from nanogen.models.base import check_counts
from nanogen.models.latent.base import LatentModel, follow
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator


class Point:
    """The image `mean` itself in place of a density p(x|z): (N, C, H, W), in units of [−1, 1]."""

    def __init__(self, mean: Tensor, levels: int):
        self.mean, self.levels = mean, levels

    def sample(self, rng: Generator) -> Tensor:
        """The nearest levels, always the same."""
        return Tensor(unscale_levels(self.mean.data, self.levels))


class Autoencoder(LatentModel):
    """A convolutional autoencoder.

    A conditional one tells encoder and decoder the label.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the number of dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        stages: how many times the size is halved.
        decoder: the cost of an image given its code: `squared` (the squared error of pixels in [−1, 1]), or −log p(x|z)
            with a VAE's density of a pixel, `categorical` or `logistic`.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.

    Buffers:
        code_mean, code_square: E[z] (latent,) and E[zzᵀ] (latent, latent) of the training codes.
        batches: how many batches they have seen.
    """

    summary = "codes without a distribution, no density (Hinton & Salakhutdinov 2006)"
    remark = "its codes are drawn from N(0, I), but nothing in its training made them so: it is no generative model"
    decoders = (*LatentModel.decoders, "squared")
    small = Recipe(steps=900, lr=1e-3)
    large = large(steps=4000, lr=1e-3)
    code_mean: Tensor
    code_square: Tensor
    batches: Tensor

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 32, channels: int = 32, stages: int = 2,
        decoder: str = "squared", classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        check_counts(latent=latent)
        super().__init__(image_shape, levels, channels, stages, decoder, classes, latent, latent, rng or Generator(0))
        self.latent = latent
        self.loss_unit = "squared error per dimension" if decoder == "squared" else "nats per dimension, given the code"
        self.register_buffer("code_mean", Tensor(np.zeros(latent, np.float32)))
        self.register_buffer("code_square", Tensor(np.eye(latent, dtype=np.float32)))
        self.register_buffer("batches", Tensor(np.zeros((), np.int64)))

    def code(self, images: Any, labels: Any = None) -> Tensor:
        """z = Q(x): (N, latent)."""
        return self.encoded(images, labels)

    def decode(self, z: Tensor, labels: Any = None) -> Categorical | DiscretizedLogistic | Point:  # type: ignore[override]
        """p(x|z), or with `squared` the image G(z)."""
        if self.density != "squared":
            return super().decode(z, labels)
        return Point(self.decoder(z, **self.condition(labels, len(z))), self.levels)

    def cost(self, images: Any, z: Tensor, labels: Any = None) -> Tensor:
        """c(x, G(z)): ‖x − G(z)‖² with x in [−1, 1], or −log p(x|z) in nats: (N,), the sum over the pixels."""
        levels, decoded = self.pixels(images), self.decode(z, labels)
        if isinstance(decoded, Point):
            return ((self.scaled(levels) - decoded.mean) ** 2).sum((1, 2, 3))
        return -decoded.log_prob(levels).sum((1, 2, 3))

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E[c(x, G(Q(x)))], the mean per dimension."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        z = self.code(levels, **given)
        self.follow(z.detach())
        return self.cost(levels, z, **given).mean() / self.dimensions

    # The fitted density of codes

    def follow(self, codes: Tensor) -> None:
        """In training, move E[z] and E[zzᵀ] towards those of codes (N, latent)."""
        if self.training:
            found = codes.mean(0), codes.T @ codes / len(codes)
            follow(self.batches, (self.code_mean, self.code_square), found)

    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (latent,) and covariance (latent, latent) of the training codes, float64 on the host."""
        mean, square = (to_numpy(x.data).astype(np.float64) for x in (self.code_mean, self.code_square))
        return mean, square - np.outer(mean, mean)

    def draw_fitted(self, n: int, rng: Generator) -> Tensor:
        """z = m + R ε with ε ~ N(0, I) and R Rᵀ = C, the moments of the training codes: (n, latent).

        Ghosh et al. 2020, section 4, with one normal distribution."""
        mean, covariance = self.fitted()
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(values.clip(0))  # rounding may leave values below 0, where codes do not vary
        mean, root = (to_device(x.astype(self.dtype), self.device) for x in (mean, root))
        return Tensor(mean + rng.normal((n, self.latent), dtype=self.dtype) @ root.T)

    def sample(self, n: int, rng: Generator, labels: Any = None, fitted: bool = False) -> Array:
        """The images of n codes: uint8 (n, C, H, W).

        z ~ N(0, I), or, if `fitted`, from the normal distribution with the training codes' mean and covariance."""
        given = self.condition(labels, n, rng)
        z = self.draw_fitted(n, rng) if fitted else self.draw_prior(n, rng)
        with no_grad():
            return self.decode(z, **given).sample(rng).data.astype("uint8")

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name, with those of other latent-variable models:

        - codes: the pictures of z ~ N(0, I) in rows 1 and 2, of fitted codes in rows 3 and 4, reconstructions below"""
        chosen, given = self.first_images(test, 32)
        drawn = [draw(32, rng) for draw in (self.draw_prior, self.draw_fitted)]
        pictures = [*(self.picture(z, **self.class_by_row(2, 16)) for z in drawn), self.reconstruct(chosen, **given)]
        codes = np.concatenate([to_numpy(some) for some in pictures]).reshape(6, 16, *self.image_shape)
        return super().illustrations(train, test, rng) | {"codes": codes}
