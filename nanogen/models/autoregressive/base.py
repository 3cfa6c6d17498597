"""What the autoregressive models share: the density, the loss, ancestral sampling.  van den Oord et al. 2016.

    p(x) = Π_i p(x_i | x_1, …, x_{i−1})                                                              (eq. 1)

over pixels in raster order and, within a pixel, over R, G, B (eq. 2).  One network computes all factors at once: its
logits of x_i depend only on x_1, …, x_{i−1}.  Each factor is a softmax over the levels.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Categorical
from nanogen.models.base import GenerativeModel, progress
from nanogen.random import Generator


def shift_down(x: Tensor) -> Tensor:
    """The images one row further down, with zeros above, so that row i holds row i − 1."""
    return F.pad(x, (0, 0, 1, 0))[:, :, :-1]


class AutoregressiveModel(GenerativeModel):
    """A model whose network gives the logits of every factor."""

    loss_unit = "nats per dimension"

    def forward(self, x: Tensor, rng: Generator | None = None, labels: Array | None = None) -> Tensor:
        """The logits of every factor: scaled images (N, C, H, W) to (N, H, W, C, levels); with dropout if there is an
        rng."""
        raise NotImplementedError

    def columns(self, n: int, labels: Array | None = None) -> Any:
        """The network pixel by pixel, for n images; None if there is only the whole network.  It has two methods:

        logits(i, j, c): the logits of colour c at pixel (i, j), if all values before it are known: (n, levels);
        learn(x, i, j): take the levels x (n, C, H, W) at pixel (i, j) as input, where some or all colours are known."""
        return None

    def factors(self, logits: Tensor) -> Tensor:
        """(N, C · levels, H, W), as the last layer has them, to (N, H, W, C, levels)."""
        n, _, height, width = logits.shape
        return logits.permute(0, 2, 3, 1).reshape(n, height, width, self.image_shape[0], self.levels)

    def _log_prob(self, images: Any, rng: Generator | None, labels: Any) -> Tensor:
        levels = self.pixels(images)
        logits = self(self.scaled(levels), rng, **self.condition(labels, len(levels)))
        return Categorical(logits).log_prob(levels.transpose(0, 2, 3, 1)).sum((1, 2, 3))

    def log_prob(self, images: Any, labels: Any = None) -> Tensor:
        """log p(x) = Σ_i log p(x_i | x_1, …, x_{i−1}), exact: (N, C, H, W) to (N,), nats per image.  Eq. 1 and 2.

        With labels (N,): log p(x | label)."""
        return self._log_prob(images, None, labels)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−log p(x), the mean over images and dimensions, in nats per dimension."""
        return -self._log_prob(images, rng, labels).mean() / self.dimensions

    @property
    def network_evaluations(self) -> int:
        """One per value of the image, each at one pixel only."""
        return self.dimensions

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """Ancestral sampling, value by value in the order of the factorisation: uint8 (n, C, H, W)."""
        given = self.condition(labels, n, rng)
        xp = array_module(next(self.parameters()).data)
        return self.complete(xp.zeros((n, *self.image_shape), "uint8"), 0, rng, **given)

    def complete_naively(self, images: Any, rows: int, rng: Generator, labels: Any = None) -> Array:
        """The definition of `complete`: one pass of the whole network per value, in the order of the factorisation."""
        x, (colors, height, width) = self._begun(images, rows), self.image_shape
        given = self.condition(labels, len(x))
        with no_grad():
            for i in progress(range(rows, height), "sampling row"):
                for j in range(width):
                    for c in range(colors):
                        logits = self(self.scaled(x), **given)[:, i, j, c]
                        x[:, c, i, j] = Categorical(logits).sample(rng).data
        return x

    def complete(self, images: Any, rows: int, rng: Generator, labels: Any = None) -> Array:
        """The images with everything below the first `rows` rows drawn from p(rest | first rows).

        The result is bit for bit that of `complete_naively` with the same rng, for the work of a few passes of the
        network instead of C·H·W.  `columns` compute the logits pixel by pixel.  Then one pass of the whole network
        checks all draws.  It may sum in another order: in float32, about one draw in 100,000 differs.  The first such
        draw is replaced, and everything after it is drawn again.

        Raises:
            ValueError: rows not in 0 … H, or images of another shape or with other levels."""
        x, (colors, height, width) = self._begun(images, rows), self.image_shape
        given = self.condition(labels, len(x))
        if (columns := self.columns(len(x), **given)) is None:
            return self.complete_naively(images, rows, rng, labels)
        u = array_module(x).empty((height - rows, width, colors, len(x)))
        for numbers_of_one in u.reshape(-1, len(x)):
            numbers_of_one[...] = rng.uniform(len(x), dtype=np.float64)
        numbers = list(itertools.product(range(height), range(width), range(colors)))
        while numbers:
            for i, j, c in progress(numbers, "sampling step"):
                logits = columns.logits(i, j, c)
                if i >= rows:
                    x[:, c, i, j] = Categorical(logits).icdf(u[i - rows, j, c]).data
                columns.learn(x, i, j)
            drawn = self.redrawn(x, u, **given)
            wrong = to_numpy((drawn != x).any(axis=0))
            # The first draw that differs from the whole network's is replaced.  If none does, all are right.
            slips = [k for k, (i, j, c) in enumerate(numbers) if wrong[c, i, j]]
            if not slips:
                break
            i, j, c = numbers[slips[0]]
            x[:, c, i, j] = drawn[:, c, i, j]
            columns.learn(x, i, j)
            numbers = numbers[slips[0] + 1 :]
        return x

    def redrawn(self, images: Array, u: Array, **given: Array) -> Array:
        """The images with each value of the last rows drawn by the whole network, given the values before it.

        Shapes: images (N, C, H, W); u, uniform on [0, 1), (rows to draw, W, C, N)."""
        with no_grad():
            x, logits = images.copy(), self(self.scaled(images), **given).data
        for i in range(-len(u), 0):  # row by row: the logits take `levels` times the memory
            x[:, :, i] = Categorical(logits[:, i]).icdf(u[i].transpose(2, 0, 1)).data.transpose(0, 2, 1)
        return x

    def _begun(self, images: Any, rows: int) -> Array:
        if not 0 <= rows <= self.image_shape[1]:
            raise ValueError(f"rows must be in 0 … {self.image_shape[1]}, got {rows}")
        return self.pixels(images).copy()

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """completions: each row has a test image, its upper half, and several completions of that half"""
        (n, ways), half = (8, 6), self.image_shape[1] // 2
        originals, given = self.first_images(test, n)
        upper = originals.copy()
        upper[:, :, half:] = 0
        each = {name: labels.repeat(ways) for name, labels in given.items()}
        done = to_numpy(self.complete(np.repeat(upper, ways, axis=0), half, rng, **each))
        done = done.reshape(n, ways, *self.image_shape)
        return {"completions": np.concatenate([originals[:, None], upper[:, None], done], axis=1)}
