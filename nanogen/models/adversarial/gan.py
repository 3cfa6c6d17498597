"""The generative adversarial network.  Goodfellow et al. 2014, with the architecture of DCGAN, Radford et al. 2016.

    min_G max_D V(D, G) = E_x[log D(x)] + E_z[log(1 − D(G(z)))]                                       (eq. 1)

D(x) = sigmoid(d(x)).  The losses are computed from the logit d, so that they do not overflow.  DCGAN's five rules:
strided convolutions instead of pooling; batch normalisation in both networks (except for G's output and D's input); no
fully connected hidden layers; ReLU in G with tanh at its output; leaky ReLU in D.

`objectives.py` has this game and others.  `SAGAN` plays one of those, with self-attention and spectral normalisation,
and so does `BigGAN`, with what is in `biggan.py`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, changes, no_grad
from nanogen.backend import Array, to_device, to_numpy
from nanogen.data.images import Images, nearest
from nanogen.distributions import unscale_levels
from nanogen.models.adversarial import objectives
from nanogen.models.adversarial.biggan import orthogonal_weight, truncated_normal
from nanogen.models.adversarial.networks import DiscriminatorNetwork, GeneratorNetwork
from nanogen.models.base import GenerativeModel, Update, check_choice, check_counts, check_nonnegative
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Conv2d, ConvTranspose2d, Embedding, Linear, Module
from nanogen.random import Generator


class GAN(GenerativeModel):
    """A DCGAN.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        latent: the number of dimensions of z.
        channels: the width at full size; it doubles wherever the size halves.
        objective: `non-saturating` (G maximises E[log D(G(z))]), `minimax` (G minimises E[log(1 − D(G(z)))]),
            `least-squares`, `hinge`, or `wasserstein` (min_G max_D E[d(x)] − E[d(G(z))]), which needs a bound on D's
            slope: the gradient penalty, clipped weights or spectral normalisation.
        discriminator_steps: the number of updates of D per update of G: k of algorithm 1.
        gradient_penalty: the weight λ of `gradient_penalty` in the discriminator's loss; Gulrajani et al. take 10.
        clip_weights: c, to which D's weights are clipped, [−c, c], after each of its updates; 0: they are not.
        targets: a, b, c of `least-squares`: what D should say of samples and of images, and G wants it to say.
        spectral: whether the weights of both networks are divided by their spectral norms; in D this replaces batch
            normalisation.
        attention: whether both networks have a layer of self-attention.
        orthogonal: whether the first weights are orthogonal matrices instead of draws from N(0, 0.02²).
        hierarchical: whether z comes in at each resolution: a part of it goes to G's first layer, and each of the other
            parts to the scales and shifts of a batch normalisation.
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
        clip_weights: float = 0.0, targets: tuple[float, float, float] = objectives.TARGETS, spectral: bool = False,
        attention: bool = False, orthogonal: bool = False, hierarchical: bool = False, classes: int = 0,
        rng: Generator | None = None,
    ):  # fmt: skip
        super().__init__(image_shape, levels, classes)
        check_counts(latent=latent, channels=channels, discriminator_steps=discriminator_steps)
        check_choice(objective=(objective, objectives.OBJECTIVES))
        check_nonnegative(gradient_penalty=gradient_penalty, clip_weights=clip_weights)
        if objective == "wasserstein" and not (gradient_penalty or clip_weights or spectral):
            raise ValueError("wasserstein needs gradient_penalty, clip_weights or spectral, which bound D's slope")
        if len(targets) != 3 or not all(map(math.isfinite, targets)):
            raise ValueError(f"targets must be three finite numbers, got {targets!r}")
        rng = rng or Generator(0)
        self.latent, self.objective, self.discriminator_steps = latent, objective, discriminator_steps
        self.gradient_penalty, self.clip_weights, self.targets = gradient_penalty, clip_weights, targets
        self.loss_unit = objectives.OBJECTIVES[objective].unit
        self.generator = GeneratorNetwork(
            image_shape, channels, latent, rng, classes, spectral, attention, hierarchical
        )
        alone = gradient_penalty > 0
        self.discriminator = DiscriminatorNetwork(image_shape, channels, rng, alone, classes, spectral, attention)
        for layer in self.modules():  # all weights from N(0, 0.02²): Radford et al., section 4
            if isinstance(layer, Conv2d | ConvTranspose2d | Embedding | Linear):
                first = orthogonal_weight(layer, rng) if orthogonal else 0.02 * rng.normal(layer.weight.shape)
                layer.weight.data = first

    def draw_latents(self, n: int, rng: Generator, truncation: float | None = None) -> Array:
        """z ~ N(0, I), or given that no |z_i| is above `truncation`: (n, latent)."""
        return truncated_normal(rng, (n, self.latent), self.dtype, truncation)

    def generate(self, n: int, rng: Generator, labels: Any = None) -> Tensor:
        """x = G(z), z ~ N(0, I): images in [−1, 1]."""
        given = self.condition(labels, n)
        return self.generator(Tensor(self.draw_latents(n, rng)), **given)

    def discriminator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The objective's loss of D, plus the gradient penalty if there is one.

        Algorithm 1.  With labels (N,), G draws an image for each label, and D gets the labels of both batches and of
        the penalty's interpolated images."""
        given = self.condition(labels, len(images))
        critic = functools.partial(self.discriminator, **given)
        with no_grad():
            fake = self.generate(len(images), rng, **given)
        real = self.scaled(self.pixels(images))
        loss = objectives.discriminator_loss(critic(real), critic(fake), self.objective, self.targets)
        if self.gradient_penalty:
            loss = loss + self.gradient_penalty * objectives.gradient_penalty(critic, real, fake, rng)
        return loss

    def generator_loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The objective's loss of G, for as many samples as there are images."""
        given = self.condition(labels, len(images))
        logits = self.discriminator(self.generate(len(images), rng, **given), **given)
        return objectives.generator_loss(logits, self.objective, self.targets)

    def updates(self) -> list[Update]:
        """Algorithm 1: k steps of the discriminator, then one of the generator."""
        return [
            *[Update("discriminator", self.discriminator_loss, self.discriminator)] * self.discriminator_steps,
            Update("generator", self.generator_loss, self.generator),
        ]

    def constrain(self, part: Module) -> None:
        """w ← clip(w, −c, c) for all parameters of D after its update.  Arjovsky et al. 2017, algorithm 1, line 7."""
        if self.clip_weights and part is self.discriminator:
            for parameter in part.parameters():  # in place: a captured CUDA graph uses the same memory
                changes.note(parameter.data)
                parameter.data.clip(-self.clip_weights, self.clip_weights, out=parameter.data)

    def sample(self, n: int, rng: Generator, labels: Any = None, truncation: float | None = None) -> Array:
        """x = G(z), rounded to the nearest levels: uint8 (n, C, H, W).

        Args:
            truncation: the largest |z_i|.  The smaller, the more alike the images, and the more typical: at 0 all
                images (of a label) are one.  Brock et al. 2019, section 3.1."""
        given = self.condition(labels, n, rng)
        return self.picture(self.draw_latents(n, rng, truncation), **given)

    def picture(self, z: Array, labels: Any = None) -> Array:
        """The images G(z) of latents z (N, latent), rounded to levels: uint8 (N, C, H, W)."""
        mode, given = self.training, self.condition(labels, len(z))
        self.eval()
        with no_grad():
            x = self.generator(Tensor(to_device(z, self.device)), **given)
        self.train(mode)
        return unscale_levels(x.data, self.levels)

    def arithmetic(self, plus: Array, minus: Array, add: Array, labels: Any = None) -> Array:
        """G(z) at z = mean(plus) − mean(minus) + mean(add): uint8 (N, C, H, W).  Radford et al. 2016, section 6.3.

        Each argument is a few latents, which give a steadier result than one: (k, latent), or (N, k, latent) for N
        images.  With labels (N,) they are those of the results."""
        return self.picture(combined(plus, minus, add).reshape(-1, self.latent), labels)

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - interpolation: each row is an arc between two latents, along which z keeps the norm of a sample
        - nearest: samples in rows 1 and 3, each above its nearest training image, so that memorised images show
        - arithmetic: bold − thin + thin of another class = bold: of each, three samples and their mean; the result"""
        a, b = to_numpy(self.draw_latents(16, rng)).reshape(2, 8, 1, self.latent)
        angles = np.linspace(0, np.pi / 2, 10, dtype=a.dtype)[:, None]
        arcs = (np.cos(angles) * a + np.sin(angles) * b).reshape(-1, self.latent)
        lines = to_numpy(self.picture(arcs, **self.class_by_row(8, 10)))
        drawn = to_numpy(self.sample(32, rng))
        closest = train.images[nearest(drawn, train.images)]
        return {
            "interpolation": lines.reshape(8, 10, *self.image_shape),
            "nearest": np.stack([part[i : i + 16] for i in (0, 16) for part in (drawn, closest)]),
            **({} if train.labels is None else {"arithmetic": self.bold_and_thin(train, rng)}),
        }

    def bold_and_thin(self, train: Images, rng: Generator) -> np.ndarray:
        """`arithmetic` of samples that are chosen by their pictures, a row for each of at most eight classes."""
        z, kinds = to_numpy(self.draw_latents(500, rng)), np.unique(np.asarray(train.labels))[:8]
        given = [{"labels": np.array([kind])} if self.classes else {} for kind in kinds]
        ranked, rows = [self.by_weight(z, train, kind) for kind in kinds], []
        for i in range(len(kinds)):
            j = (i + 1) % len(kinds)
            terms = [(ranked[i][-3:], i), (ranked[i][:3], i), (ranked[j][:3], j)]  # bold, thin, thin of the next class
            shown = [self.picture(one[None], **given[k]) for term, k in terms for one in (*term, term.mean(0))]
            shown.append(self.arithmetic(*[term for term, _ in terms], **given[j]))
            rows.append(np.concatenate([to_numpy(image) for image in shown]))
        return np.stack(rows)

    def by_weight(self, z: np.ndarray, train: Images, kind: int) -> np.ndarray:
        """Of latents (N, latent) those of the 40 samples nearest to training images of a class, by mean level."""
        images = to_numpy(self.picture(z, np.full(len(z), kind) if self.classes else None)).astype(np.float64)
        examples = train.images[train.labels == kind]
        distances = ((images - examples[nearest(images, examples)]) ** 2).sum((1, 2, 3))
        chosen = distances.argsort(kind="stable")[:40]
        return z[chosen[images[chosen].mean((1, 2, 3)).argsort(kind="stable")]]


def combined(plus: Array, minus: Array, add: Array) -> Array:
    """mean(plus) − mean(minus) + mean(add), over the last axis but one.  Radford et al. 2016, section 6.3."""
    return plus.mean(-2) - minus.mean(-2) + add.mean(-2)


class SAGAN(GAN):
    """A GAN with self-attention, spectral normalisation and the hinge objective.  Zhang et al. 2019.

    It is a `GAN` with other defaults.  As in the paper the weights of both networks are normalised, and Adam has no
    momentum.  D's slope is small, so its steps are larger than a GAN's.
    """

    summary = "a GAN with self-attention and spectral normalisation (Zhang et al. 2019)"
    small = Recipe(steps=800, lr=1e-3, betas=(0.0, 0.9), warmup=0)
    large = large(steps=4000, lr=4e-4, betas=(0.0, 0.9), warmup=0, model={"channels": 32})
    __init__ = functools.partialmethod(GAN.__init__, objective="hinge", spectral=True, attention=True)  # type: ignore


class BigGAN(GAN):
    """A small GAN by the BigGAN's recipe.  Brock et al. 2019.

    It is a `GAN` with other defaults: hinge, spectral normalisation, orthogonal first weights, and latents at each
    resolution.  With labels (`classes`) each normalisation also depends on the label.
    """

    summary = "a GAN with latents at each resolution, for truncated sampling (Brock et al. 2019)"
    small = SAGAN.small
    large = SAGAN.large
    __init__ = functools.partialmethod(  # type: ignore
        GAN.__init__, objective="hinge", spectral=True, orthogonal=True, hierarchical=True
    )
