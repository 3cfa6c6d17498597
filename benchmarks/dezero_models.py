"""The VAE and the GAN once more in DeZero 0.0.13, the from-scratch framework of Saito's book: same weights and losses.

DeZero is used as it comes, with its own convolutions (im2col), batch norm and Adam; what it lacks (group norm, SiLU,
upsampling, softplus) is composed of its functions.  Two adaptations: `np.int`, which NumPy has dropped, and constants
that are as exact as the arrays beside them, without which everything would run in float64.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import nanogen as ng

setattr(np, "int", int)  # noqa: B010
dezero: Any = importlib.import_module("dezero")
dezero.core.as_array = lambda x, array_module=np: np.asarray(x, np.float32) if np.isscalar(x) else x
F: Any = importlib.import_module("dezero.functions")
optimizers: Any = importlib.import_module("dezero.optimizers")


class Mirror:
    """A model's parameters as DeZero's, and its layers as functions of them."""

    def __init__(self, ours: Any):
        self.ours = ours
        self.parameters = {id(p): dezero.Parameter(p.numpy().copy()) for p in ours.parameters()}

    def of(self, parameter: Any) -> Any:
        return None if parameter is None else self.parameters[id(parameter)]

    def scaled(self, images: np.ndarray) -> Any:
        return dezero.Variable((images * (2 / (self.ours.levels - 1)) - 1).astype(np.float32))

    def conv(self, layer: Any, x: Any) -> Any:
        return F.conv2d(x, self.of(layer.weight), self.of(layer.bias), layer.stride, layer.padding)

    def deconv(self, layer: Any, x: Any) -> Any:
        return F.deconv2d(x, self.of(layer.weight), self.of(layer.bias), layer.stride, layer.padding)

    def linear(self, layer: Any, x: Any) -> Any:
        return F.linear(x, F.transpose(self.of(layer.weight)), self.of(layer.bias))

    def group_norm(self, layer: Any, x: Any) -> Any:
        n, c, *size = x.shape
        groups = F.reshape(x, (n * layer.num_groups, -1))
        centred = groups - F.sum(groups, 1, True) / groups.shape[1]
        variance = F.sum(centred * centred, 1, True) / groups.shape[1]
        rows = F.reshape(centred * (variance + layer.eps) ** -0.5, (n, c, *size))
        weight, bias = (F.reshape(self.of(p), (1, c, 1, 1)) for p in (layer.weight, layer.bias))
        return rows * weight + bias

    def batch_norm(self, layer: Any, x: Any) -> Any:
        moments = layer.running_mean.numpy().copy(), layer.running_var.numpy().copy()
        return F.BatchNorm(*moments, 0.9, layer.eps)(x, self.of(layer.weight), self.of(layer.bias))


def silu(x: Any) -> Any:
    return x * F.sigmoid(x)


def softplus(x: Any) -> Any:
    return F.log(F.exp(x) + 1.0)


def upsample(x: Any, size: tuple[int, int]) -> Any:
    n, c, h, w = x.shape
    kh, kw = size[0] // h, size[1] // w
    return F.reshape(F.broadcast_to(F.reshape(x, (n, c, h, 1, w, 1)), (n, c, h, kh, w, kw)), (n, c, *size))


class VAE(Mirror):
    def block(self, block: Any, h: Any) -> Any:
        return h + self.conv(block.conv, silu(self.group_norm(block.norm, h)))

    def encode(self, x: Any) -> tuple[Any, Any]:
        encoder = self.ours.encoder
        h = self.conv(encoder.first, x)
        for stage in encoder.stages:
            h = self.conv(stage, h) if isinstance(stage, ng.nn.Conv2d) else self.block(stage, h)
        out = self.linear(encoder.last, F.reshape(silu(self.block(encoder.block, h)), (len(x), -1)))
        return out[:, : self.ours.latent], out[:, self.ours.latent :]

    def decode(self, z: Any) -> Any:
        decoder = self.ours.decoder
        h = F.reshape(self.linear(decoder.first, z), (len(z), decoder.channels, *decoder.sizes[0]))
        h = self.block(decoder.stages[0], h)
        for i, size in enumerate(decoder.sizes[1:]):
            conv, block = decoder.stages[1 + 2 * i : 3 + 2 * i]
            h = self.block(block, self.conv(conv, upsample(h, size)))
        return self.conv(decoder.last, silu(self.group_norm(decoder.norm, h)))

    def loss(self, images: np.ndarray, rng: ng.Generator) -> Any:
        mean, log_variance = self.encode(self.scaled(images))
        noise = dezero.Variable(rng.normal(mean.shape, np.float32))
        logits = self.decode(mean + F.exp(log_variance * 0.5) * noise)
        rows = F.reshape(F.transpose(logits, (0, 2, 3, 1)), (images.size, self.ours.levels))
        reconstruction = F.softmax_cross_entropy(rows, images.reshape(-1).astype(np.int16)) * float(images.size)
        kl = F.sum(F.exp(log_variance) + mean * mean - 1.0 - log_variance) * 0.5
        return (reconstruction + kl) / float(images.size)


class GAN(Mirror):
    def generate(self, n: int, rng: ng.Generator) -> Any:
        net = self.ours.generator
        z = dezero.Variable(rng.normal((n, self.ours.latent), np.float32).reshape(n, -1, 1, 1))
        h = F.relu(self.batch_norm(net.norms[0], self.deconv(net.first, z)))
        for conv, norm in zip(net.convs, net.norms[1:], strict=True):
            h = F.relu(self.batch_norm(norm, self.deconv(conv, h)))
        return F.tanh(self.conv(net.last, h))

    def discriminate(self, x: Any) -> Any:
        net = self.ours.discriminator
        h = F.leaky_relu(self.conv(net.first, x), 0.2)
        for conv, norm in zip(net.convs, net.norms, strict=True):
            h = F.leaky_relu(self.batch_norm(norm, self.conv(conv, h)), 0.2)
        return F.reshape(self.conv(net.last, h), (len(x),))

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> Any:
        with dezero.no_grad():
            fake = self.generate(len(images), rng)
        real, fake = self.discriminate(self.scaled(images)), self.discriminate(fake)
        return (F.sum(softplus(-real)) + F.sum(softplus(fake))) / float(len(images))

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> Any:
        return F.sum(softplus(-self.discriminate(self.generate(len(images), rng)))) / float(len(images))


def mirror(ours: ng.models.GenerativeModel) -> Mirror:
    return VAE(ours) if isinstance(ours, ng.models.VAE) else GAN(ours)


def step(ours: ng.models.GenerativeModel, images: np.ndarray) -> Callable[[], None]:
    """A training step of DeZero's, with its Adam, over the updates that our model declares."""
    theirs, rng = mirror(ours), ng.Generator(0)
    for name, loss_of, part in ours.updates():  # the same loss and gradients first, in float32
        loss = getattr(theirs, loss_of.__name__)(images, ng.Generator(1))
        loss.backward()
        expected = loss_of(images, ng.Generator(1))
        assert math.isclose(float(loss.data), expected.item(), rel_tol=1e-4), (name, loss.data, expected)
        for p, g in zip(part.parameters(), ng.grad(expected, list(part.parameters())), strict=True):
            found = theirs.of(p).grad.data
            assert found.dtype == np.float32, found.dtype
            # in float32 some numbers round to the other side of a rectifier's kink
            assert np.linalg.norm(found - g.numpy()) <= 1e-2 * max(np.linalg.norm(g.numpy()), 1e-3), name
        for p in theirs.parameters.values():
            p.cleargrad()
    rules: dict[str, Any] = {name: optimizers.Adam(alpha=1e-4) for name, *_ in ours.updates()}

    def once() -> None:
        for name, loss_of, part in ours.updates():
            for p in theirs.parameters.values():
                p.cleargrad()
            getattr(theirs, loss_of.__name__)(images, rng).backward()
            rules[name].t += 1
            for p in part.parameters():
                rules[name].update_one(theirs.of(p))

    return once
