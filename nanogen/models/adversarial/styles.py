"""Layers of the StyleGAN and of progressive growing.

Karras et al. 2018, Progressive Growing of GANs for Improved Quality, Stability, and Variation; Karras et al. 2019, A
Style-Based Generator Architecture for Generative Adversarial Networks.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, grad
from nanogen.backend import Array, array_module
from nanogen.functional.normalization import mean_over_ranks
from nanogen.functional.shape import sum_blocks
from nanogen.models.adversarial.networks import halvings
from nanogen.nn import Conv2d, Embedding, Identity, Linear, Module, Parameter
from nanogen.random import Generator

EPSILON = 1e-8  # under the papers' roots
RATE = 0.1  # of the mapping network: it learns more slowly, to be stable.  Karras et al. 2019, appendix C: 0.01


def pixel_norm(x: Tensor) -> Tensor:
    """x / √(1/C Σ_c x_c² + ε) at each pixel: (N, C, *).  Karras et al. 2018, section 4.2."""
    return x * ((x**2).mean(1, keepdim=True) + EPSILON) ** -0.5


def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """AdaIN: y_s (x − μ(x)) / σ(x) + y_b.  Each channel of each image gets its style's std |y_s| and mean y_b.

    μ and σ are over the pixels.  Shapes: x (N, C, H, W), scale and shift (N, C).  Karras et al. 2019, eq. 1."""
    return F.group_norm(x, x.shape[1], scale, shift, EPSILON)


def minibatch_std(x: Tensor, everywhere: Callable[[Tensor], Tensor] = mean_over_ranks) -> Tensor:
    """x (N, C, H, W) with one more channel, which is constant: how much the images of the batch differ.

    The std over the batch of each feature at each pixel, and of these the mean.  Karras et al. 2018, section 3.

    Args:
        everywhere: from a mean over these images to that over the batch, which is that of all ranks.
    """
    centred = x - everywhere(x.mean(0, keepdim=True))
    std = (everywhere((centred**2).mean(0, keepdim=True)) + EPSILON) ** 0.5
    return F.cat([x, std.mean().expand(len(x), 1, *x.shape[2:])], dim=1)


def fade(small: Tensor, large: Tensor, alpha: Tensor) -> Tensor:
    """(1 − α) · small + α · large: a new resolution fades in.  Karras et al. 2018, figure 2."""
    return (1.0 - alpha) * small + alpha * large


def alphas_at(steps: Array, phase: int, doublings: int, dtype: Any) -> Tensor:
    """α of each doubling r = 1, 2, … after these steps: clip(steps / phase − (2r − 1), 0, 1), (doublings,).

    Each resolution trains for a phase; then the next one fades in for a phase.  Karras et al. 2018, appendix A.

    `steps` is an array: a captured CUDA graph would freeze a number."""
    xp = array_module(steps)
    return Tensor((steps / phase - xp.arange(1, 2 * doublings, 2)).clip(0, 1).astype(dtype))


def double(x: Tensor) -> Tensor:
    """Each pixel four times."""
    return F.interpolate(x, scale_factor=2)


def halve(x: Tensor) -> Tensor:
    """The mean of each 2×2 pixels."""
    return 0.25 * sum_blocks(x, factor=2)


def faded_images(x: Tensor, alphas: Tensor | None) -> Tensor:
    """Images (N, C, H, W) with as much detail as the generator's, each doubling's by its α.  None: all.

    Karras et al. 2018, section 2."""
    if alphas is None or not len(alphas):
        return x
    return fade(double(faded_images(halve(x), alphas[:-1])), x, alphas[-1])


def r1_penalty(logits: Tensor, real: Tensor) -> Tensor:
    """½ E[‖∇d(x)‖²] at real images x (N, *), whose logits are (N,).  Mescheder et al. 2018, eq. 9, without its γ."""
    gradient: Any = grad(logits.sum(), real, create_graph=True)[0]
    return 0.5 * (gradient**2).sum() / len(real)


class Equalized(Module):
    """A layer with weight c W, c = gain / √fan_in.  W starts as N(0, 1), the bias as 0.

    With Adam all layers then learn at the same speed.  Karras et al. 2018, section 4.1.

    Args:
        layer: a Linear or a Conv2d.
        rng: draws W.
        rate: slows the layer down by this factor.
    """

    def __init__(self, layer: Any, rng: Generator, gain: float = math.sqrt(2), rate: float = 1.0):
        super().__init__()
        self.layer, self.rate = layer, rate
        self.factor = rate * gain / math.sqrt(math.prod(layer.weight.shape[1:]))
        layer.weight.data = rng.normal(layer.weight.shape) / np.float32(rate)
        layer.bias.data = 0 * layer.bias.data

    def forward(self, x: Tensor) -> Tensor:
        scaled = copy.copy(self.layer)
        scaled.weight, scaled.bias = self.layer.weight * self.factor, self.layer.bias * self.rate
        out: Tensor = scaled(x)
        return out


class Mapping(Module):
    """z to w, the space of styles: (N, latent) to (N, latent).  Karras et al. 2019, section 2.

    An embedding of the label is added to the first layer, as if the label were a second input beside z."""

    def __init__(self, latent: int, layers: int, classes: int, rng: Generator):
        super().__init__()
        self.label = Embedding(classes, latent, rng=rng) if classes else None
        self.layers = [Equalized(Linear(latent, latent, rng=rng), rng, rate=RATE) for _ in range(layers)]

    def forward(self, z: Tensor, labels: Array | None = None) -> Tensor:
        w = pixel_norm(z)
        for i, layer in enumerate(self.layers):
            w = layer(w) if i or self.label is None else layer(w) + self.label(labels)
            w = F.leaky_relu(w, 0.2)
        return w


class StyledLayer(Module):
    """AdaIN(lrelu(conv(h) + strength · noise), A(w)), A a linear map to scale − 1 and shift of each channel.

    The noise is a number for each pixel of each image.  Karras et al. 2019, figure 1b."""

    def __init__(self, inputs: int, outputs: int, latent: int, rng: Generator):
        super().__init__()
        self.conv = Equalized(Conv2d(inputs, outputs, 3, padding=1, rng=rng), rng) if inputs else Identity()
        self.strength = Parameter(np.zeros((outputs, 1, 1), np.float32))
        self.style = Equalized(Linear(latent, 2 * outputs, rng=rng), rng, gain=1.0)

    def forward(self, h: Tensor, w: Tensor, rng: Generator) -> Tensor:
        h = self.conv(h)
        noise = Tensor(rng.normal((len(h), 1, *h.shape[2:]), dtype=h.dtype))
        scale, shift = F.chunk(self.style(w), 2, dim=1)
        return adaptive_instance_norm(F.leaky_relu(h + self.strength * noise, 0.2), 1.0 + scale, shift)


class StyleGenerator(Module):
    """The style w of each layer to images in [−1, 1].  `mapping` makes w; a learned constant is the first input.

    Two layers at each resolution, then the next one has twice the size.  If the network grows, each resolution has an
    image of its own, which fades into the enlarged one of the resolution before.

    Attributes:
        layers: 2 (doublings + 1) `StyledLayer`s.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], channels: int, latent: int, mapping: int, grows: bool, classes: int,
        rng: Generator,
    ):  # fmt: skip
        super().__init__()
        colors, height, width = image_shape
        self.doublings = halvings(height, width)
        widths = [channels << i for i in reversed(range(self.doublings + 1))]
        self.mapping = Mapping(latent, mapping, classes, rng)
        # not ones, the paper's: AdaIN would divide by their std, which is 0
        self.start = Parameter(rng.normal((widths[0], height >> self.doublings, width >> self.doublings)))
        inputs = [n for a, b in zip([0, *widths], widths, strict=False) for n in (a, b)]
        self.layers = [StyledLayer(n, widths[k // 2], latent, rng) for k, n in enumerate(inputs)]
        self.images = [
            Equalized(Conv2d(n, colors, 1, rng=rng), rng, gain=1.0) for n in (widths if grows else widths[-1:])
        ]

    def forward(self, styles: list[Tensor], rng: Generator, alphas: Tensor | None = None) -> Tensor:
        h = self.start.expand(len(styles[0]), *self.start.shape)
        image = None
        for k, (layer, w) in enumerate(zip(self.layers, styles, strict=True)):
            h = layer(double(h) if k % 2 == 0 and k else h, w, rng)
            if k % 2 and alphas is not None:
                own = F.tanh(self.images[k // 2](h))
                image = own if image is None else fade(double(image), own, alphas[k // 2 - 1])
        return F.tanh(self.images[-1](h)) if image is None else image


class StyleDiscriminator(Module):
    """Images (N, C, H, W) to logits (N,): halvings, and at the end `minibatch_std`.  Karras et al. 2018, table 2.

    If it grows, the features of each resolution are faded into those that come from the halved image.  A label adds the
    inner product of its embedding and the last features: Miyato & Koyama 2018."""

    def __init__(self, image_shape: tuple[int, int, int], channels: int, grows: bool, classes: int, rng: Generator):
        super().__init__()
        colors, height, width = image_shape
        count = halvings(height, width)
        widths = [channels << i for i in range(count + 1)]
        conv = lambda a, b, size=3: Equalized(Conv2d(a, b, size, padding=size // 2, rng=rng), rng)
        self.images = [conv(colors, width, 1) for width in widths[: None if grows else 1]]
        self.blocks = [[conv(a, a), conv(a, b)] for a, b in itertools.pairwise(widths)]
        self.last = conv(widths[-1] + 1, widths[-1])
        features = widths[-1] * (height >> count) * (width >> count)
        self.dense = Equalized(Linear(features, widths[-1], rng=rng), rng)
        self.logit = Equalized(Linear(widths[-1], 1, rng=rng), rng, gain=1.0)
        self.label = Embedding(classes, widths[-1], rng=rng) if classes else None

    def forward(self, x: Tensor, alphas: Tensor | None = None, labels: Array | None = None) -> Tensor:
        h = F.leaky_relu(self.images[0](x), 0.2)
        for i, block in enumerate(self.blocks):
            for conv in block:
                h = F.leaky_relu(conv(h), 0.2)
            h = halve(h)
            if alphas is not None:
                x = halve(x)
                h = fade(F.leaky_relu(self.images[i + 1](x), 0.2), h, alphas[len(self.blocks) - 1 - i])
        h = minibatch_std(h, mean_over_ranks if self.training else lambda mean: mean)
        h = F.leaky_relu(self.last(h), 0.2).reshape(len(x), -1)
        h = F.leaky_relu(self.dense(h), 0.2)
        logit = self.logit(h).reshape(len(x))
        return logit if self.label is None else logit + self.logit.factor * (self.label(labels) * h).sum(1)
