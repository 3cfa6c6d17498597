"""How good a model is, in numbers that compare across families."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, Generator, to_numpy
from nanogen.models import DDPM, VAE, GenerativeModel, PixelCNN


class Likelihood(NamedTuple):
    """Bits per dimension on a set of images, and what is known of them.

    Attributes:
        kind: `exact`, or `upper bound` where the model gives a lower bound of log p(x).
        bits_per_dim: −log₂ p(x) / dimensions, or its bound, the mean over the images.
        standard_error: of that mean, from image to image.
        terms: parts that bits_per_dim is the sum of, or other figures of interest, in bits per dimension.
    """

    kind: str
    bits_per_dim: float
    standard_error: float
    terms: dict[str, float]


def bits_per_dim(nats_per_image: Any, dimensions: int) -> Any:
    """nats / (dimensions · log 2)."""
    return nats_per_image / (dimensions * math.log(2))


def in_batches(f: Callable[[np.ndarray], Any], images: np.ndarray, batch: int) -> np.ndarray:
    """f of the images, some at a time, without gradients, as one NumPy array."""
    parts = []
    with no_grad():
        for start in range(0, len(images), batch):
            out = f(images[start : start + batch])
            parts.append(to_numpy(out.data if isinstance(out, Tensor) else out))
    return np.concatenate(parts)


def likelihood(model: GenerativeModel, images: np.ndarray, rng: Generator, batch: int = 512) -> Likelihood | None:
    """Bits per dimension of images (N, C, H, W); None for a family without a density (GAN).

    PixelCNN: exact.  VAE: the elbo, and the importance-weighted bound of 64 samples beside it.  DDPM: the bound and
    its terms L_0, Σ L_{t−1}, L_T, the expectation over each x_t by one draw an image.
    """
    model.eval()
    dimensions, terms = model.dimensions, {}
    if isinstance(model, PixelCNN):
        kind, nats = "exact", -in_batches(model.log_prob, images, batch)
    elif isinstance(model, VAE):
        kind, nats = "upper bound", -in_batches(lambda x: model.elbo(x, rng), images, batch)
        tighter = in_batches(lambda x: model.importance_weighted_bound(x, rng, samples=64), images, batch)
        terms["importance-weighted, K = 64"] = float(-bits_per_dim(tighter, dimensions).mean())
    elif isinstance(model, DDPM):
        parts = in_batches(lambda x: model.bound_terms(x, rng), images, batch)
        kind, nats = "upper bound", parts.sum(axis=1)
        mean = bits_per_dim(parts.mean(axis=0, dtype=np.float64), dimensions)
        terms = {"L_0": float(mean[0]), "sum of L_1 … L_{T−1}": float(mean[1:-1].sum()), "L_T": float(mean[-1])}
    else:
        return None
    bits = bits_per_dim(nats.astype(np.float64), dimensions)
    return Likelihood(kind, float(bits.mean()), float(bits.std(ddof=1) / math.sqrt(len(bits))), terms)


def nearest(images: Array, among: Array) -> np.ndarray:
    """For each image, the index of the image `among` others at the smallest Euclidean distance in pixel levels.

    Shapes: (N, C, H, W), (M, C, H, W) to (N,)."""
    a = to_numpy(images).reshape(len(images), -1).astype(np.float64)
    b = to_numpy(among).reshape(len(among), -1).astype(np.float64)
    distances = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    return distances.argmin(axis=1)
