"""The generative adversarial network.  Goodfellow et al. 2014, with the architecture of DCGAN, Radford et al. 2016.

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 − D(G(z)))]                                       (eq. 1)

D(x) = sigmoid(d(x)).  The losses are computed from the logit d, so that they do not overflow.  DCGAN's five rules:
strided convolutions instead of pooling; batch normalisation in both networks (except for G's output and D's input); no
fully connected hidden layers; ReLU in G with tanh at its output; leaky ReLU in D.

The alternative objective is the Wasserstein distance, where d must have gradients of norm 1: Gulrajani et al. 2017.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, grad, no_grad
from nanogen.backend import Array, to_device, to_numpy
from nanogen.data.images import Images, nearest
from nanogen.distributions import unscale_levels
from nanogen.models.adversarial.networks import DiscriminatorNetwork, GeneratorNetwork
from nanogen.models.base import GenerativeModel, Update, check_choice, check_counts
from nanogen.models.recipe import Recipe, large
from nanogen.random import Generator


class GAN(GenerativeModel):
    """A DCGAN.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the number of dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        objective: `non-saturating` (G maximises E[log D(G(z))]), `minimax` (G minimises E[log(1 − D(G(z)))]), or
            `wasserstein` (min_G max_D E[d(x)] − E[d(G(z))]), which needs the gradient penalty.
        discriminator_steps: the number of updates of D per update of G: k of algorithm 1.
        gradient_penalty: the weight λ of `gradient_penalty` in the discriminator's loss; Gulrajani et al. take 10.
        classes: the number of labels that images are conditioned on; 0: unconditional.
        rng: draws the initial weights; default `Generator(0)`.
    """

    summary = "a generator against a discriminator (Goodfellow et al. 2014; DCGAN)"
    loss_unit = "nats"
    small = Recipe(steps=800, lr=5e-4, betas=(0.5, 0.999), warmup=0)
    large = large(steps=4000, lr=3e-4, betas=(0.5, 0.999), warmup=0, model={"channels": 32})

    def __init__(
        self, image_shape: tuple[int, int, int], levels: int, latent: int = 64, channels: int = 64,
        objective: str = "non-saturating", discriminator_steps: int = 1, gradient_penalty: float = 0.0,
        classes: int = 0, rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(latent=latent, channels=channels, discriminator_steps=discriminator_steps)
        check_choice(objective=(objective, ("non-saturating", "minimax", "wasserstein")))
        if not (gradient_penalty > 0 or (gradient_penalty == 0 and objective != "wasserstein")):
            raise ValueError(f"gradient_penalty must not be negative, nor 0 with wasserstein, got {gradient_penalty!r}")
        rng = rng or Generator(0)
        self.latent, self.objective, self.discriminator_steps = latent, objective, discriminator_steps
        self.gradient_penalty = gradient_penalty
        if objective == "wasserstein":
            self.loss_unit = "units of the critic's output"
        self.generator = GeneratorNetwork(image_shape, channels, latent, rng, classes)
        alone = gradient_penalty > 0
        self.discriminator = DiscriminatorNetwork(image_shape, channels, rng, alone, classes)
        for name, parameter in self.named_parameters():  # all weights from N(0, 0.02²): Radford et al., section 4
            if name.endswith("weight") and (parameter.ndim == 4 or "label" in name):
                parameter.data = 0.02 * rng.normal(parameter.shape)

    def generate(self, n: int, rng: Generator, labels: Any = None) -> Tensor:
        """x = G(z), z ~ N(0, I): images in [−1, 1]."""
        given = self.condition(labels, n)
        return self.generator(Tensor(rng.normal((n, self.latent), dtype=self.dtype)), **given)

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """−E[log D(x)] − E[log(1 − D(G(z)))], which D minimises, plus the gradient penalty if there is one: nats.

        Algorithm 1.  With labels (N,), G draws an image for each label, and D gets the labels of both batches and of
        the penalty's interpolated images."""
        given = self.condition(labels, len(images))
        critic = functools.partial(self.discriminator, **given)
        with no_grad():
            fake = self.generate(len(images), rng, **given)
        real = self.scaled(self.pixels(images))
        loss = discriminator_loss(critic(real), critic(fake), self.objective)
        if self.gradient_penalty:
            loss = loss + self.gradient_penalty * gradient_penalty(critic, real, fake, rng)
        return loss

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The loss that G minimises, for as many samples as there are images: nats.  Section 3."""
        given = self.condition(labels, len(images))
        return generator_loss(self.discriminator(self.generate(len(images), rng, **given), **given), self.objective)

    def updates(self) -> list[Update]:
        """Algorithm 1: k steps of the discriminator, then one of the generator."""
        return [
            *[Update("discriminator", self.discriminator_loss, self.discriminator)] * self.discriminator_steps,
            Update("generator", self.generator_loss, self.generator),
        ]

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """x = G(z), rounded to the nearest levels: uint8 (n, C, H, W)."""
        check_counts(n=n)
        given = self.condition(labels, n, rng)
        return self.picture(rng.normal((n, self.latent), dtype=self.dtype), **given)

    def picture(self, z: Array, labels: Any = None) -> Array:
        """The images G(z) of latents z (N, latent), rounded to levels: uint8 (N, C, H, W)."""
        mode, given = self.training, self.condition(labels, len(z))
        self.eval()
        with no_grad():
            x = self.generator(Tensor(to_device(z, self.device)), **given)
        self.train(mode)
        return unscale_levels(x.data, self.levels)

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - interpolation: each row is an arc between two latents, along which z keeps the norm of a sample
        - nearest: samples in rows 1 and 3, each above its nearest training image, so that memorised images show"""
        a, b = map(to_numpy, rng.normal((2, 8, 1, self.latent), dtype=self.dtype))
        angles = np.linspace(0, np.pi / 2, 10, dtype=a.dtype)[:, None]
        arcs = (np.cos(angles) * a + np.sin(angles) * b).reshape(-1, self.latent)
        lines = to_numpy(self.picture(arcs, **self.class_by_row(8, 10)))
        drawn = to_numpy(self.sample(32, rng))
        closest = train.images[nearest(drawn, train.images)]
        return {
            "interpolation": lines.reshape(8, 10, *self.image_shape),
            "nearest": np.stack([part[i : i + 16] for i in (0, 16) for part in (drawn, closest)]),
        }


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, objective: str = "non-saturating") -> Tensor:
    """−V(D, G): softplus(−d(x)) + softplus(d(G(z))), since −log sigmoid(d) = softplus(−d).  Eq. 1.

    `wasserstein`: d(G(z)) − d(x).  Arjovsky et al. 2017, eq. 2."""
    if objective == "wasserstein":
        return fake_logits.mean() - real_logits.mean()
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor, objective: str = "non-saturating") -> Tensor:
    """`minimax`: log(1 − D), whose gradient −D in the logit vanishes when D is confident.  `non-saturating`: −log D,
    whose gradient is −(1 − D).  `wasserstein`: −d.  Goodfellow et al. 2014, section 3."""
    if objective == "wasserstein":
        return -fake_logits.mean()
    if objective == "minimax":
        return -F.softplus(fake_logits).mean()
    return F.softplus(-fake_logits).mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, rng: Generator) -> Tensor:
    """E[(‖∇d(x̂)‖ − 1)²] at x̂ = ε x + (1 − ε) G(z), ε ~ U[0, 1], one ε per image.  Gulrajani et al. 2017, eq. 3.

    Shapes: real and fake (N, *).  The norm is over all of an image's gradient.  `critic` maps (N, *) to (N,), and its
    output for an image must not depend on the other images."""
    epsilon = rng.uniform((len(real), *[1] * (real.ndim - 1)), dtype=real.dtype)
    between = Tensor(epsilon * real.data + (1 - epsilon) * fake.data)
    between.requires_grad = True
    gradient: Any = grad(critic(between).sum(), between, create_graph=True)[0]
    norm = ((gradient**2).sum(tuple(range(1, real.ndim))) + 1e-12) ** 0.5  # √ has no derivative at 0
    return ((norm - 1.0) ** 2).mean()
