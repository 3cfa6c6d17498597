"""What models with latent variables share: the decoder's density, and pictures of latents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, changes, no_grad
from nanogen.backend import Array, array_module, check_range, moving_average, to_device, to_numpy
from nanogen.data.images import Images
from nanogen.distributed import mean_over_ranks
from nanogen.distributions import Categorical, DiscretizedLogistic, unscale_levels
from nanogen.models.base import GenerativeModel, check_choice, check_counts
from nanogen.models.latent.networks import Decoder, Encoder
from nanogen.random import Generator

AVERAGED = 100  # batches, of which followed moments are about the mean


def follow(batches: Tensor, moments: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Move moments of the training codes, which are buffers, towards those of a batch, of all ranks.

    They are the means over the first AVERAGED batches, and moving averages from then on.

    Args:
        batches: how many batches they have seen, also a buffer."""
    batches.data += 1
    share = 1.0 / array_module(batches.data).minimum(batches.data, AVERAGED)
    arrays = [moment.data for moment in moments]  # in place: a captured CUDA graph uses the same memory
    moving_average(arrays, mean_over_ranks(*[x.data for x in found]), kept=1 - share, share=share)
    for array in arrays:
        changes.note(array)


class RealCodes:
    """Codes z (N, width) of real numbers: what comes between two of them, and what changes in one.

    Attributes:
        values: how many values z can have.
        shown: values of one dimension, for pictures.
    """

    values: float = math.inf
    shown: Sequence[float] = [i / 2 for i in range(-4, 5)]

    def between(self, a: Tensor, b: Tensor, w: float) -> Tensor:
        """The code that is w of the way from a to b."""
        return (1 - w) * a + w * b

    def changed(self, z: Tensor, dimension: int, value: Any) -> Tensor:
        """z with another value in one dimension."""
        check_range("dimension", np.array(dimension), z.shape[1])
        found = z.data.copy()
        found[:, dimension] = value
        return Tensor(found)


class LatentModel(GenerativeModel):
    """An encoder from images to `numbers` numbers each, and a decoder from codes z (N, width) to densities over images.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        channels: the width at full size; it doubles wherever the size halves.
        stages: how many times the size is halved.
        decoder: the density of a pixel given z: `categorical` (a softmax over the levels) or `logistic` (a discretised
            logistic with learned mean and scale, for many levels).
        classes: the number of labels that images are conditioned on; 0: unconditional.
        numbers: what the encoder gives for an image.
        width: the number of dimensions of z.
        rng: draws the initial weights.
    """

    loss_unit = "nats per dimension"
    latent: int
    decoders: tuple[str, ...] = ("categorical", "logistic")

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, channels: int, stages: int, decoder: str, classes: int,
        numbers: int, width: int, rng: Generator,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(channels=channels, stages=stages)
        check_choice(decoder=(decoder, self.decoders))
        colors, *size = image_shape
        sizes = [tuple(math.ceil(n / 2**stage) for n in size) for stage in range(stages, -1, -1)]
        self.width, self.density = width, decoder
        self.codes: Any = RealCodes()
        self.outputs = {"categorical": levels, "logistic": 2}.get(decoder, 1)  # numbers per colour of a pixel
        self.encoder = Encoder(image_shape, channels, numbers, stages, rng, classes)
        self.decoder = Decoder(sizes, channels * 2**stages, width, colors * self.outputs, rng, classes)

    def encoded(self, images: Any, labels: Any = None) -> Tensor:
        """The encoder's numbers for images (N, C, H, W): (N, numbers)."""
        return self.encoder(self.scaled(self.pixels(images)), **self.condition(labels, len(images)))

    def code(self, images: Any, labels: Any = None) -> Tensor:
        """One z for each image, without noise: (N, width)."""
        raise NotImplementedError

    def decode(self, z: Tensor, labels: Any = None) -> Categorical | DiscretizedLogistic:
        """p(x|z): latents (N, width) to a density over levels (N, C, H, W)."""
        out = self.decoder(z, **self.condition(labels, len(z)))
        n, _, height, width = out.shape
        out = (
            out.permute(0, 2, 3, 1).reshape(n, height, width, self.image_shape[0], self.outputs).permute(0, 3, 1, 2, 4)
        )
        if self.density == "categorical":
            return Categorical(out)
        return DiscretizedLogistic(out[..., 0], out[..., 1] - 2.0, self.levels)

    def log_likelihood(self, levels: Array, z: Tensor, **given: Any) -> Tensor:
        """log p(x|z), the sum over the pixels: (N,), nats per image."""
        return self.decode(z, **given).log_prob(levels).sum((1, 2, 3))

    def draw_prior(self, n: int, rng: Generator) -> Tensor:
        """z ~ p(z) = N(0, I): (n, width)."""
        return Tensor(rng.normal((n, self.width), dtype=self.dtype))

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """z ~ p(z), then x ~ p(x|z): uint8 (n, C, H, W)."""
        given = self.condition(labels, n, rng)
        with no_grad():
            return self.decode(self.draw_prior(n, rng), **given).sample(rng).data.astype("uint8")

    def picture(self, z: Any, labels: Any = None) -> Array:
        """E[x|z] of latents z (N, width), rounded to levels: uint8 (N, C, H, W)."""
        with no_grad():
            density = self.decode(z if isinstance(z, Tensor) else Tensor(to_device(z, self.device)), labels)
            if not isinstance(density, Categorical):
                return unscale_levels(density.mean.data, self.levels)
            p = F.softmax(density.logits, dim=-1).data
            return array_module(p).rint(p @ array_module(p).arange(self.levels, dtype=p.dtype)).astype("uint8")

    def reconstruct(self, images: Any, labels: Any = None) -> Array:
        """The picture of the code of each image: uint8 (N, C, H, W)."""
        with no_grad():
            return self.picture(self.code(images, labels), labels)

    def interpolate(self, start: Any, end: Any, steps: int = 8, labels: Any = None, end_labels: Any = None) -> Array:
        """Pictures on the way between the codes of two images, a straight line for real codes; both ends included.

        start, end: (N, C, H, W), with labels and end_labels; all pictures are decoded with the labels of start.
        Returns uint8 (N, steps, C, H, W)."""
        check_counts(steps=steps)
        with no_grad():
            a, b = self.code(start, labels), self.code(end, end_labels)
            weights = [i / max(steps - 1, 1) for i in range(steps)]
            pictures = [self.picture(self.codes.between(a, b, w), labels) for w in weights]
        return array_module(a.data).stack(pictures, axis=1)

    def edit(self, images: Any, dimension: int, values: Sequence[float], labels: Any = None) -> Array:
        """Pictures of the codes of images (N, C, H, W), with each of the values in one dimension of z in turn.

        Returns uint8 (N, len(values), C, H, W).

        Raises:
            ValueError: a dimension that z does not have; no values."""
        check_counts(values=len(values))
        with no_grad():
            z = self.code(images, labels)
            pictures = [self.picture(self.codes.changed(z, dimension, value), labels) for value in values]
        return array_module(z.data).stack(pictures, axis=1)

    def manifold(self, side: int = 16) -> Array:
        """Pictures of z = (Φ⁻¹(u), Φ⁻¹(v)) for u, v evenly spaced in (0, 1), of class 0: uint8 (side², C, H, W).

        Kingma & Welling 2014, figure 4."""
        quantiles = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
        z = np.array([(x, y) for y in quantiles[::-1] for x in quantiles], dtype=self.dtype)
        return self.picture(z, **self.class_by_row(1, len(z)))

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - reconstructions: test images in rows 1 and 3, each above its reconstruction
        - interpolation: each row goes from one test image to another
        - prior_means: E[x|z] of z ~ p(z), samples without the decoder's noise; with labels, a class in each row
        - traversals: a test image; in each row one z_d has each of the values −2, −1.5 … 2 (or of its classes), for the
          eight d that vary most
        - manifold: E[x|z] over the quantiles of a latent with 2 real dimensions; z_1 rises to the right, z_2 upwards"""
        chosen, given = self.first_images(test, 32)
        rebuilt, labels = to_numpy(self.reconstruct(chosen, **given)), given.get("labels")
        spread = to_numpy(self.code(chosen, **given).data).std(0).reshape(self.latent, -1).sum(1)
        of_first = {name: of_each[:1] for name, of_each in given.items()}
        edited = lambda d: to_numpy(self.edit(chosen[:1], d, self.codes.shown, **of_first))
        of_ends = () if labels is None else (labels[:8], labels[8:16])
        means = self.picture(self.draw_prior(64, rng), **self.class_by_row(8, 8))
        found = {
            "reconstructions": np.stack([part[i : i + 16] for i in (0, 16) for part in (chosen, rebuilt)]),
            "interpolation": self.interpolate(chosen[:8], chosen[8:16], 10, *of_ends),
            "traversals": np.stack([edited(d)[0] for d in (-spread).argsort()[:8].tolist()]),
            "prior_means": means.reshape(8, 8, *self.image_shape),
        }
        if self.width == 2 and self.codes.values == math.inf:
            found["manifold"] = self.manifold().reshape(16, 16, *self.image_shape)
        return {name: to_numpy(images) for name, images in found.items()}
