"""Diffusion of bits.  Sohl-Dickstein et al. 2015, Deep Unsupervised Learning using Nonequilibrium Thermodynamics.

    q(x_t | x_{t−1}) = Bern(x_{t−1} (1 − β_t) + β_t / 2)              bits are flipped with probability β_t / 2
    q(x_t | x_0) = Bern(x_0 ᾱ_t + (1 − ᾱ_t) / 2)                      towards ½                            (table App.1)
    p_θ(x_{t−1} | x_t) = Σ_{x_0} q(x_{t−1} | x_t, x_0) p_θ(x_0 | x_t)  a network flips them back, each pixel by itself

The network predicts the clean bit, as in Austin et al. 2021, section 3.3.  Bits are 1 and −1 here, as levels scaled to
[−1, 1] are.  Then a probability ½ + ½ a x, such as q(x_t = 1 | x_0 = x) with a = ᾱ_t, has the log-odds
x log (1 + a)/(1 − a).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Bernoulli, kl_divergence, unscale_levels
from nanogen.models.base import GenerativeModel, check_counts, progress
from nanogen.models.diffusion.schedule import table_at
from nanogen.models.diffusion.unet import UNet
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator


class BitFlips:
    """The forward process of bits, indexed by t = 0 … T.

    Args:
        betas: β_1 … β_T, each in (0, 1]: twice the probability that a bit is flipped.

    Attributes:
        T: the number of steps.
        betas: β_t, with betas[0] = 0.
        alpha_bars: ᾱ_t = Π_{s ≤ t} (1 − β_s), with alpha_bars[0] = 1.

    Raises:
        ValueError: no steps, or a β outside (0, 1]."""

    def __init__(self, betas: Any):
        given = np.asarray(betas, np.float64)
        if given.ndim != 1 or not len(given) or not ((given > 0) & (given <= 1)).all():
            raise ValueError(f"betas must be a list of numbers in (0, 1], got {betas!r}")
        self.T, self.betas = len(given), np.append(0.0, given)
        self.alpha_bars = np.cumprod(1 - self.betas)
        self.flip_odds, self.odds = log_odds(1 - self.betas), log_odds(self.alpha_bars)

    @classmethod
    def linear(cls, T: int) -> BitFlips:
        """β_t = 1 / (T − t + 1): each step erases as much, ᾱ_t = 1 − t / T.  Section 2.4.1."""
        check_counts(T=T)
        return cls(1 / np.arange(T, 0, -1))

    def q_logits(self, x0: Any, t: Any) -> Any:
        """The log-odds of q(x_t = 1 | x_0), infinite at t = 0."""
        return x0 * table_at(self.odds, t, x0)

    def posterior_logits(self, x0: Any, x_t: Any, t: Any) -> Any:
        """The log-odds of q(x_{t−1} = 1 | x_t, x_0) ∝ q(x_t | x_{t−1}) q(x_{t−1} | x_0): in Bayes' rule they add."""
        return x_t * table_at(self.flip_odds, t, x_t) + self.q_logits(x0, t - 1)


def log_odds(a: Any) -> Any:
    """log (1 + a)/(1 − a), the log-odds of the probability ½ + ½ a; infinite for a = 1."""
    with np.errstate(divide="ignore"):
        return np.log1p(a) - np.log1p(-a)


class BinomialDiffusion(GenerativeModel):
    """A diffusion model of binary images.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels: 2.
        T: the number of diffusion steps.
        channels: the width of the U-Net at full size, even.
        multipliers: the width at each resolution, in units of `channels`; each resolution is half the one before.
        blocks: residual blocks per resolution in the U-Net's encoder; its decoder has one more.
        heads: the number of attention heads at the lowest resolution, a divisor of its width.
        dropout: the share of features set to 0 inside the residual blocks, while training.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.

    Raises:
        ValueError: levels that are not 2.
    """

    summary = "bits flipped step by step and back, a bound on the likelihood (Sohl-Dickstein et al. 2015)"
    loss_unit = "nats per dimension, by one step of the bound"
    small = Recipe(steps=900, lr=3e-3, model={"channels": 32})
    large = large(steps=3000, lr=1e-3, model={"channels": 32, "multipliers": (1, 2, 2)})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, T: int = 100, channels: int = 64,
        multipliers: tuple[int, ...] = (1, 2), blocks: int = 1, heads: int = 4, dropout: float = 0.0, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        if levels != 2:
            raise ValueError(
                f"levels must be 2 for a diffusion of bits, got {levels}: --set levels=2 makes images binary"
            )
        self.flips = BitFlips.linear(T)
        self.unet = UNet(
            image_shape[0], channels, tuple(multipliers), blocks, heads, dropout, rng or Generator(0), classes
        )

    @property
    def T(self) -> int:
        return self.flips.T

    @property
    def network_evaluations(self) -> int:
        return self.T

    def x0_logits(self, x_t: Tensor, t: Any, rng: Generator | None = None, labels: Array | None = None) -> Tensor:
        """The log-odds of p_θ(x_0 = 1 | x_t), as the network predicts them: (N, C, H, W)."""
        return self.unet(x_t, t, labels, rng)

    def p_logits(self, x_t: Tensor, t: Any, rng: Generator | None = None, **given: Array) -> Tensor:
        """The log-odds of p_θ(x_{t−1} = 1 | x_t): the posterior for both x_0, weighted by the prediction.

        Times are (N,)."""
        of_x0 = Bernoulli(self.x0_logits(x_t, t, rng, **given)).log_probs()
        ones = 0.0 * x_t.detach() + 1.0
        given_x0 = [Bernoulli(self.flips.posterior_logits(x0, x_t, t)).log_probs() for x0 in (ones, -ones)]
        one, zero = (
            F.logsumexp(F.stack([p + q[bit] for p, q in zip(of_x0, given_x0, strict=True)]), dim=0) for bit in (0, 1)
        )
        return one - zero

    def divergence(self, x0: Tensor, x_t: Tensor, t: Any, rng: Generator | None = None, **given: Array) -> Tensor:
        """KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)), at t = 1 −log p_θ(x_0 | x_1): (N,), nats per image."""
        q = Bernoulli(self.flips.posterior_logits(x0, x_t, t))
        return kl_divergence(q, Bernoulli(self.p_logits(x_t, t, rng, **given))).sum((1, 2, 3))

    def q_sample(self, x0: Tensor, t: Any, rng: Generator) -> Tensor:
        """A draw from q(x_t | x_0), 1 or −1."""
        return signs(self.flips.q_logits(x0, t), rng)

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """T times the divergence at a random time, whose mean is the bound: nats per dimension."""
        x0, given = self.scaled(self.pixels(images)), self.condition(labels, len(images))
        t = rng.integers(1, self.T + 1, len(images))
        divergences = self.divergence(x0, self.q_sample(x0, t, rng), t, rng, **given)
        return self.T * divergences.mean() / self.dimensions

    def bound_terms(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The divergences at t = 1 … T and L_T = KL(q(x_T | x_0) ‖ ½): (N, T + 1), nats per image."""
        x0, given = self.scaled(self.pixels(images)), self.condition(labels, len(images))
        terms = []
        for t in progress(range(1, self.T + 1), "term of the bound"):
            now = array_module(x0.data).full(len(images), t)
            terms.append(self.divergence(x0, self.q_sample(x0, now, rng), now, **given))
        last = kl_divergence(Bernoulli(self.flips.q_logits(x0, self.T)), Bernoulli(0.0 * x0))
        return F.stack([*terms, last.sum((1, 2, 3))], dim=1)

    def elbo(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−(L_T + Σ_t KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t))) ≤ log p(x_0): (N,), nats per image.

        Each term is from one sample of x_t."""
        return -self.bound_terms(images, rng, labels).sum(1)

    def ancestral(self, n: int, rng: Generator, labels: Any = None) -> Iterator[tuple[int, Tensor]]:
        """x_T ~ Bern(½), then x_{t−1} ~ p_θ(x_{t−1} | x_t) down to x_0.  Yields (t, x_t) for t = T … 0."""
        check_counts(n=n)
        x = signs(Tensor(np.zeros((n, *self.image_shape), self.dtype)).to(self.device), rng)
        given = self.condition(labels, n)
        yield self.T, x
        for t in progress(range(self.T, 0, -1), "sampling step"):
            with no_grad():
                x = signs(self.p_logits(x, array_module(x.data).full(n, t), **given), rng)
            yield t - 1, x

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """n images of two levels, by T steps: uint8 (n, C, H, W)."""
        for _, x in self.ancestral(n, rng, **self.condition(labels, n, rng)):
            last = x
        return unscale_levels(last.data, self.levels)

    def sampling_networks(self) -> list[Module]:
        return [self.unet]

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """denoising: each row is one sample, from bits at random at t = T (left) to the image at t = 0 (right)"""
        n, frames = 8, 12
        shown = [round(self.T * (1 - i / (frames - 1))) for i in range(frames)]
        strips = self.ancestral(n, rng, **self.class_by_row(n, 1))
        film = [to_numpy(unscale_levels(x.data, self.levels)) for t, x in strips if t in shown]
        return {"denoising": np.stack(film, axis=1)}


def signs(logits: Tensor, rng: Generator) -> Tensor:
    """Independent draws of 1, with these log-odds, or −1."""
    return 2.0 * Bernoulli(logits).sample(rng) - 1.0
