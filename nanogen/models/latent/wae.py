"""Wasserstein autoencoders.  Tolstikhin et al. 2018; Makhzani et al. 2016, Adversarial Autoencoders.

    min E_x[c(x, G(Q(x)))] + λ D(q(z), p(z)),  q(z) = E_x[q(z|x)],  p(z) = N(0, I)                    (eq. 4)

q(z) is the distribution of the codes of all images, the aggregated posterior.  If it is p(z), the first term is an
optimal transport cost between images and samples (theorem 1).  A VAE pulls the posterior of each image towards p(z).
Here only all codes together are compared with draws from p(z), so the code of an image needs no noise.  D is the
maximum mean discrepancy (`mmd`, algorithm 2), or comes from a discriminator of codes (algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import array_module
from nanogen.distributed import rank, size
from nanogen.functional.normalization import mean_over_ranks
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss
from nanogen.models.base import Update, check_choice, check_counts, check_nonnegative
from nanogen.models.latent.autoencoder import Autoencoder
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Linear, Module
from nanogen.random import Generator

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernel, in units of E‖z − z'‖² = 2d for z, z' ~ N(0, I)


class WAE(Autoencoder):
    """A Wasserstein autoencoder with deterministic codes.

    A conditional one tells encoder and decoder the label; the codes of all labels together are compared with p(z).
    Makhzani et al. 2016, section 4.

    Args:
        image_shape, levels, latent, channels, stages, decoder: as for `Autoencoder`.
        penalty: how codes are compared with draws from p(z): `mmd`, or `adversarial` (a discriminator).
        weight: λ, the weight of the penalty beside the cost of an image.
        discriminator_steps: the number of updates of the discriminator per update of encoder and decoder.
        hidden: the width of the discriminator's two hidden layers.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "an autoencoder whose codes have the prior's distribution (Tolstikhin et al. 2018)"
    remark = ""
    small = Recipe(steps=2000, batch=128, lr=1e-3, model={"decoder": "categorical", "weight": 100.0})
    large = large(steps=4000, lr=1e-3)

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 32, channels: int = 32, stages: int = 2,
        decoder: str = "squared", penalty: str = "mmd", weight: float = 10.0,
        discriminator_steps: int = 1, hidden: int = 256, classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        rng = rng or Generator(0)
        super().__init__(image_shape, levels, latent, channels, stages, decoder, classes, rng)
        check_counts(discriminator_steps=discriminator_steps, hidden=hidden)
        check_choice(penalty=(penalty, ("mmd", "adversarial")))
        check_nonnegative(weight=weight)
        self.penalty, self.weight, self.discriminator_steps = penalty, weight, discriminator_steps
        self.loss_unit += ", with the penalty"
        if penalty == "adversarial":
            self.discriminator = CodeDiscriminator(latent, hidden, rng)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """E[c(x, G(z))] + λ D, per dimension of an image.  Algorithms 1 and 2, the step of encoder and decoder.

        D is `mmd`, or E[−log D(z)], by which the encoder deceives the discriminator."""
        levels, given = self.pixels(images), self.condition(labels, len(images))
        z = self.code(levels, **given)
        self.follow(z.detach())
        if self.penalty == "adversarial":
            penalty = generator_loss(self.discriminator(z))
        else:
            codes, drawn = map(self.of_all_ranks, (z, self.draw_prior(len(z), rng)))
            penalty = mmd(codes, drawn, inverse_multiquadratic)
        return (self.cost(levels, z, **given).mean() + self.weight * penalty) / self.dimensions

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[log D(z)] − E[log(1 − D(Q(x)))] with z ~ p(z), which the discriminator minimises: nats.  Algorithm 1."""
        with no_grad():
            codes = self.code(images, labels)
        drawn = self.draw_prior(len(codes), rng)
        return discriminator_loss(self.discriminator(drawn), self.discriminator(codes))

    def updates(self) -> list[Update]:
        """Algorithm 2: a step of all; algorithm 1: steps of the discriminator, then one of encoder and decoder."""
        if self.penalty == "mmd":
            return super().updates()
        autoencoder = Module()
        autoencoder.add_module("encoder", self.encoder)
        autoencoder.add_module("decoder", self.decoder)
        return [
            *[Update("discriminator", self.discriminator_loss, self.discriminator)] * self.discriminator_steps,
            Update("autoencoder", self.loss, autoencoder),
        ]

    def of_all_ranks(self, rows: Tensor) -> Tensor:
        """The rows (N, latent) of all ranks in training, since the mean of the parts' `mmd` is not that of the batch.

        The mean over the ranks of the rows at their places, times the number of ranks."""
        if not self.training or size() == 1:
            return rows
        n = len(rows)
        return size() * mean_over_ranks(F.pad(rows, (0, 0, rank() * n, (size() - 1 - rank()) * n)))


class AAE(WAE):
    """An adversarial autoencoder: the WAE with a squared cost and a discriminator.  Makhzani et al. 2016.

    Args:
        image_shape, levels, latent, channels, stages, weight, discriminator_steps, hidden, classes, rng: as for `WAE`.
    """

    summary = "an autoencoder against a discriminator of its codes (Makhzani et al. 2016)"
    small = Recipe(steps=600, lr=2e-3, betas=(0.5, 0.999), weight_decay=2.0, model={"latent": 8, "weight": 2.0})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 32, channels: int = 32, stages: int = 2,
        weight: float = 1.0, discriminator_steps: int = 5, hidden: int = 256, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(
            image_shape, levels, latent, channels, stages, "squared", "adversarial", weight, discriminator_steps,
            hidden, classes, rng,
        )  # fmt: skip


class CodeDiscriminator(Module):
    """Codes (N, latent) to the logits of being drawn from p(z), (N,)."""

    def __init__(self, latent: int, hidden: int, rng: Generator):
        super().__init__()
        self.layers = [Linear(a, b, rng=rng) for a, b in ((latent, hidden), (hidden, hidden), (hidden, 1))]

    def forward(self, z: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(z))))).reshape(len(z))


def mmd(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The squared maximum mean discrepancy E[k(x, x')] + E[k(y, y')] − 2 E[k(x, y)], unbiased, from (N, d) and (M, d).

    x and x' are different draws: without the diagonal, a sum over x_i, x_j has N(N − 1) terms.  For equal distributions
    its mean is 0, so it can be negative.  Gretton et al. 2012, eq. 3; Tolstikhin et al. 2018, algorithm 2.

    Args:
        kernel: (N, d) and (M, d) to the kernel's values (N, M).

    Raises:
        ValueError: fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"mmd: x and y must have at least 2 rows, got {len(x)} and {len(y)}")
    within = [(kernel(a, a) * off_diagonal(a)).sum() / (len(a) * (len(a) - 1)) for a in (x, y)]
    return within[0] + within[1] - 2.0 * kernel(x, y).mean()


def off_diagonal(x: Tensor) -> Tensor:
    """1 where i ≠ j, else 0: (N, N)."""
    return Tensor(1 - array_module(x.data).eye(len(x), dtype=x.dtype))


def inverse_multiquadratic(x: Tensor, y: Tensor) -> Tensor:
    """k(x, y) = Σ_s C_s / (C_s + ‖x − y‖²), C_s = 2ds for SCALES s: (N, d) and (M, d) to (N, M).

    Tolstikhin et al. 2018, section 4, with a sum over scales in place of one."""
    squares = (x**2).sum(1).reshape(-1, 1) + (y**2).sum(1) - 2.0 * x @ y.T
    scales = [2.0 * x.shape[1] * scale for scale in SCALES]
    return sum((c / (c + squares) for c in scales), start=Tensor(0.0 * squares.data))
