"""The variational autoencoder.  Kingma & Welling 2014, Auto-Encoding Variational Bayes.

    p(x) = ∫ p(x|z) p(z) dz,  p(z) = N(0, I),  q(z|x) = N(μ(x), diag σ²(x))

    log p(x) ≥ elbo(x) = E_q(z|x)[log p(x|z)] − KL(q(z|x) ‖ p(z))                                     (eq. 3)

The encoder computes q(z|x), an approximation of the posterior p(z|x).  The decoder computes p(x|z), a density over the
discrete levels, so the bound is on the probability of the discrete image.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_device, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Categorical, DiscretizedLogistic, Normal, kl_divergence, unscale_levels
from nanogen.models.base import GenerativeModel, check_choice, check_counts
from nanogen.models.latent.networks import Decoder, Encoder
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator


class VAE(GenerativeModel):
    """A convolutional VAE.

    A conditional one (Sohn et al. 2015, Learning Structured Output Representation) has q(z|x, label) and p(x|z, label)
    with the same p(z).

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the number of dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        stages: how many times the size is halved.
        decoder: the density of a pixel given z: `categorical` (a softmax over the levels) or `logistic` (a discretised
            logistic with learned mean and scale, for many levels).
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "latent variables, a bound on the likelihood (Kingma & Welling 2014)"
    loss_unit = "nats per dimension"
    small = Recipe(steps=900, lr=1e-3)
    large = large(steps=4000, lr=1e-3, model={"latent": 32, "decoder": "logistic"})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 16, channels: int = 32, stages: int = 2,
        decoder: str = "categorical", classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(latent=latent, channels=channels, stages=stages)
        check_choice(decoder=(decoder, ("categorical", "logistic")))
        rng = rng or Generator(0)
        colors, *size = image_shape
        sizes = [tuple(math.ceil(n / 2**stage) for n in size) for stage in range(stages, -1, -1)]
        self.latent, self.density = latent, decoder
        self.outputs = levels if decoder == "categorical" else 2  # numbers per colour of a pixel
        self.encoder = Encoder(image_shape, channels, latent, stages, rng, classes)
        self.decoder = Decoder(sizes, channels * 2**stages, latent, colors * self.outputs, rng, classes)

    def encode(self, images: Any, labels: Any = None) -> Normal:
        """q(z|x) = N(μ(x), diag σ²(x)): images (N, C, H, W) to a density over z (N, latent).  Eq. 9."""
        given = self.condition(labels, len(images))
        mean, log_variance = self.encoder(self.scaled(self.pixels(images)), **given)
        return Normal(mean, log_std=0.5 * log_variance)

    def decode(self, z: Tensor, labels: Any = None) -> Categorical | DiscretizedLogistic:
        """p(x|z): latents (N, latent) to a density over levels (N, C, H, W)."""
        out = self.decoder(z, **self.condition(labels, len(z)))
        n, _, height, width = out.shape
        out = (
            out.permute(0, 2, 3, 1).reshape(n, height, width, self.image_shape[0], self.outputs).permute(0, 3, 1, 2, 4)
        )
        if self.density == "categorical":
            return Categorical(out)
        return DiscretizedLogistic(out[..., 0], out[..., 1] - 2.0, self.levels)

    def prior(self, like: Tensor) -> Normal:
        """p(z) = N(0, I)."""
        return Normal(like.detach() * 0.0, 1.0)

    def elbo(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E_q[log p(x|z)] − KL(q(z|x)‖p(z)) ≤ log p(x), by one sample of z: (N,), nats per image.

        Kingma & Welling 2014, eq. 7, the second form: the KL is exact.  With labels (N,): on log p(x | label)."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        posterior = self.encode(levels, **given)
        z = posterior.rsample(rng)
        reconstruction = self.decode(z, **given).log_prob(levels).sum((1, 2, 3))
        return reconstruction - kl_divergence(posterior, self.prior(posterior.mean)).sum(1)

    def importance_weighted_bound(self, images: Any, rng: Generator, samples: int = 64, labels: Any = None) -> Tensor:
        """log 1/K Σ_k p(x|z_k) p(z_k) / q(z_k|x), z_k ~ q(z|x): (N,), nats per image.

        Its expectation lies between the elbo (K = 1) and log p(x).  Burda, Grosse & Salakhutdinov 2016, eq. 8."""
        check_counts(samples=samples)
        levels, given = self.pixels(images), self.condition(labels, len(images))
        posterior = self.encode(levels, **given)
        log_weights = []
        for _ in range(samples):
            z = posterior.rsample(rng)
            log_ratio = self.prior(z).log_prob(z) - posterior.log_prob(z)
            log_weights.append(self.decode(z, **given).log_prob(levels).sum((1, 2, 3)) + log_ratio.sum(1))
        return F.logsumexp(F.stack(log_weights), dim=0) - math.log(samples)

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        found = super().negative_log_likelihoods(images, rng, labels)
        tighter = self.importance_weighted_bound(images, rng, samples=64, labels=labels)
        return found | {"importance-weighted, K = 64": -tighter}

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−elbo, averaged over images and dimensions, in nats per dimension."""
        return -self.elbo(images, rng, **self.condition(labels, len(images))).mean() / self.dimensions

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """z ~ p(z), then x ~ p(x|z): uint8 (n, C, H, W)."""
        check_counts(n=n)
        given = self.condition(labels, n, rng)
        with no_grad():
            z = Tensor(rng.normal((n, self.latent), dtype=self.dtype))
            return self.decode(z, **given).sample(rng).data.astype("uint8")

    def picture(self, z: Any, labels: Any = None) -> Array:
        """E[x|z] of latents z (N, latent), rounded to levels: uint8 (N, C, H, W)."""
        with no_grad():
            density = self.decode(z if isinstance(z, Tensor) else Tensor(to_device(z, self.device)), labels)
            if isinstance(density, DiscretizedLogistic):
                return unscale_levels(density.mean.data, self.levels)
            p = F.softmax(density.logits, dim=-1).data
            return array_module(p).rint(p @ array_module(p).arange(self.levels, dtype=p.dtype)).astype("uint8")

    def reconstruct(self, images: Any, labels: Any = None) -> Array:
        """The picture of the posterior mean of each image: uint8 (N, C, H, W)."""
        with no_grad():
            return self.picture(self.encode(images, labels).mean, labels)

    def interpolate(self, start: Any, end: Any, steps: int = 8, labels: Any = None, end_labels: Any = None) -> Array:
        """Pictures along the straight line between the posterior means of two images, both ends included.

        start, end: (N, C, H, W), with labels and end_labels; all pictures are decoded with the labels of start.
        Returns uint8 (N, steps, C, H, W)."""
        check_counts(steps=steps)
        with no_grad():
            a, b = self.encode(start, labels).mean, self.encode(end, end_labels).mean
            weights = [i / max(steps - 1, 1) for i in range(steps)]
            pictures = [self.picture((1 - w) * a + w * b, labels) for w in weights]
        return array_module(a.data).stack(pictures, axis=1)

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
        - manifold: E[x|z] over the quantiles of a latent with 2 dimensions; z_1 rises to the right, z_2 upwards"""
        chosen, given = self.first_images(test, 32)
        rebuilt, labels = to_numpy(self.reconstruct(chosen, **given)), given.get("labels")
        of_ends = () if labels is None else (labels[:8], labels[8:16])
        means = self.picture(rng.normal((64, self.latent), dtype=self.dtype), **self.class_by_row(8, 8))
        found = {
            "reconstructions": np.stack([part[i : i + 16] for i in (0, 16) for part in (chosen, rebuilt)]),
            "interpolation": self.interpolate(chosen[:8], chosen[8:16], 10, *of_ends),
            "prior_means": means.reshape(8, 8, *self.image_shape),
        }
        if self.latent == 2:
            found["manifold"] = self.manifold().reshape(16, 16, *self.image_shape)
        return {name: to_numpy(images) for name, images in found.items()}
