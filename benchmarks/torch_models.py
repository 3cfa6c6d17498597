"""The models once more, in PyTorch: the same layers under the same names, so that weights load both ways.

Each class takes one of ours, copies its settings, and has the same losses, with the same random numbers.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import nanogen as ng
from nanogen.models.adversarial import spectral
from nanogen.nn.layers import MaskedConv2d


def mirror(ours: ng.models.GenerativeModel) -> Any:
    """The same model in PyTorch, with the same weights, in their type."""
    theirs = MODELS[type(ours).__name__](ours).to(getattr(torch, ours.dtype.name))
    theirs.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in ours.state_dict().items()})
    return theirs


def layers_of(module: ng.nn.Module) -> nn.Module:
    """Torch's counterpart of a layer of ours."""
    if isinstance(module, MaskedConv2d):
        return MaskedConv(module)
    if isinstance(module, ng.nn.Conv2d):
        if isinstance(module.padding, tuple) and len(module.padding) == 4:
            return PaddedConv(module)
        o, c, *kernel = module.weight.shape
        bias = module.bias is not None
        return nn.Conv2d(c, o, tuple(kernel), module.stride, module.padding, module.dilation, bias=bias)
    if isinstance(module, ng.nn.ConvTranspose2d):
        c, o, *kernel = module.weight.shape
        bias = module.bias is not None
        return nn.ConvTranspose2d(c, o, tuple(kernel), module.stride, module.padding, module.output_padding, bias=bias)
    if isinstance(module, ng.nn.Embedding):
        return nn.Embedding(module.num_embeddings, module.embedding_dim)
    if isinstance(module, ng.nn.Linear):
        return nn.Linear(module.weight.shape[1], module.weight.shape[0], module.bias is not None)
    if isinstance(module, ng.nn.LayerNorm):
        return nn.LayerNorm(module.normalized_shape, module.eps)
    if isinstance(module, ng.nn.GroupNorm):
        return nn.GroupNorm(module.num_groups, module.weight.shape[0], module.eps)
    if isinstance(module, ng.nn.BatchNorm2d):
        return nn.BatchNorm2d(module.num_features, module.eps, module.momentum, module.affine)
    if isinstance(module, ng.nn.Identity):
        return nn.Identity()
    if isinstance(module, ng.nn.Dropout):
        return nn.Dropout(module.p)
    if isinstance(module, ng.nn.Identity):
        return nn.Identity()
    raise TypeError(f"no counterpart of {type(module).__name__}")


class MaskedConv(nn.Conv2d):
    def __init__(self, ours: MaskedConv2d):
        o, c, *kernel = ours.weight.shape
        super().__init__(c, o, tuple(kernel), padding=ours.padding)
        self.register_buffer("mask", torch.from_numpy(ours.mask.numpy()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


class PaddedConv(nn.Conv2d):
    """With zeros on each of the four sides, left, right, above, below."""

    def __init__(self, ours: ng.nn.Conv2d):
        o, c, *kernel = ours.weight.shape
        super().__init__(c, o, tuple(kernel), bias=ours.bias is not None)
        self.sides = ours.padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.pad(x, self.sides), self.weight, self.bias)


def stirred(model: ng.models.GenerativeModel, by: float) -> ng.models.GenerativeModel:
    """The model with no weight left at 0 or 1, behind which a mistake could hide: half of a U-Net begins as nothing."""
    draw = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.data = (parameter.data + by * draw.normal(size=parameter.shape)).astype(parameter.dtype)
    for module in model.modules():
        if isinstance(module, spectral.SpectralNorm):  # torch's iteration is half a step further: the same at its end
            module.u.data[...] = np.linalg.svd(module.matrix().data)[0][:, 0]
    return model


def both_formats(ours: ng.models.GenerativeModel) -> list[Any]:
    """Torch's model in its default memory format and in channels-last."""
    plain, last = mirror(ours), mirror(ours)
    last.memory_format = torch.channels_last
    return [plain, last.to(memory_format=torch.channels_last)]


class Mirror(nn.Module):
    """Copies the parts of one of our modules under their names; `forward` is written once more below."""

    def __init__(self, ours: ng.nn.Module):
        super().__init__()
        self.ours = [ours]  # in a list, where torch does not look for parameters
        for name, part in vars(ours).items():
            if isinstance(part, list) and all(isinstance(p, ng.nn.Module) for p in part):
                setattr(self, name, nn.ModuleList([counterpart(p) for p in part]))
            elif isinstance(part, ng.nn.Module):
                setattr(self, name, counterpart(part))

    def scaled(self, images: np.ndarray) -> torch.Tensor:
        """Levels in [−1, 1], computed where the parameters lie."""
        x = self.placed(images).to(next(self.parameters()).dtype) * (2 / (self.ours[0].levels - 1)) - 1
        return x.to(memory_format=self.memory_format)

    def normal(self, rng: ng.Generator, shape: tuple[int, ...]) -> torch.Tensor:
        return self.placed(rng.normal(shape, self.dtype))

    def placed(self, array: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The numbers where the parameters lie."""
        return torch.as_tensor(array, device=next(self.parameters()).device)

    @property
    def dtype(self) -> Any:
        """NumPy's name of the parameters' type."""
        return np.float64 if next(self.parameters()).dtype == torch.float64 else np.float32

    memory_format = torch.contiguous_format


def counterpart(module: ng.nn.Module) -> nn.Module:
    for ours, theirs in PARTS.items():
        if type(module) is ours:
            return theirs(module)
    return layers_of(module)


class PixelBlock(Mirror):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.look(F.relu(self.reduce(F.relu(h)))))
        return h + self.expand(self.dropout(inner))


class PixelCNN(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.last(F.relu(self.mix(F.relu(h))))

    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        n, c, h, w = images.shape
        logits = self(self.scaled(images)).reshape(n, c, -1, h, w).permute(0, 2, 1, 3, 4)
        return F.cross_entropy(logits, self.placed(images).long())


class GatedLayer(Mirror):
    def forward(self, v: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        above = self.vertical(v)
        v, inner = (self.dropout(gate(x)) for x in (above, self.horizontal(h) + self.link(above)))
        return v, self.out(inner) + h if self.ours[0].residual else self.out(inner)


def gate(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedPixelCNN(PixelCNN):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v, h = F.pad(x, (0, 0, 1, 0))[:, :, :-1], x
        for layer in self.layers:
            v, h = layer(v, h)
        return self.last(F.relu(self.mix(F.relu(h))))


class Recurrence(Mirror):
    """An LSTM along an axis of its input."""

    axis = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, h, c = [], 0 * x.narrow(self.axis, 0, 1).chunk(2, 1)[0], 0.0
        for gates in self.input_of(x).split(1, self.axis):
            i, f, g, o = (gates + self.state(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.cat(states, self.axis)

    def input_of(self, x: torch.Tensor) -> torch.Tensor:
        return self.input(x)


class DiagonalLSTM(Recurrence):
    axis = 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = super().forward(x)
        return torch.stack([states[:, :, i, i : i + x.shape[3]] for i in range(x.shape[2])], 2)

    def input_of(self, x: torch.Tensor) -> torch.Tensor:
        gates, height = self.input(x), x.shape[2]
        return torch.stack([F.pad(gates[:, :, i], (i, height - 1 - i)) for i in range(height)], 2)


class DiagonalBiLSTM(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x) + F.pad(self.right(x.flip(3)).flip(3), (0, 0, 1, 0))[:, :, :-1]


class ResidualLSTM(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.expand(self.cell(x))


class PixelRNN(PixelCNN):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(F.pad(x, (0, 1)) if self.ours[0].cell == "diagonal" else x)
        for block in self.blocks:
            h = self.dropout(block(h))
        return self.last(F.relu(self.mix(F.relu(h[:, :, :, : x.shape[3]]))))


class VAEBlock(Mirror):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.conv(F.silu(self.norm(h)))


class Encoder(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        for stage in self.stages:
            h = stage(h)
        return self.last(F.silu(self.block(h)).reshape(len(x), -1))


class Decoder(Mirror):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        sizes = self.ours[0].sizes
        h = self.stages[0](self.first(z).reshape(len(z), self.ours[0].channels, *sizes[0]))
        for i, size in enumerate(sizes[1:]):
            h = self.stages[2 + 2 * i](self.stages[1 + 2 * i](F.interpolate(h, size=size)))
        return self.last(F.silu(self.norm(h)))


class VAE(Mirror):
    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        mean, log_variance = self.encoder(self.scaled(images)).chunk(2, dim=1)
        std = torch.exp(0.5 * log_variance)
        reconstruction = self.reconstruction(images, mean + std * self.normal(rng, mean.shape))
        kl = 0.5 * (std**2 + mean**2 - 1 - log_variance).sum()
        return (reconstruction + kl) / math.prod(images.shape)

    def reconstruction(self, images: np.ndarray, z: torch.Tensor) -> torch.Tensor:
        """−log p(x|z), the sum over the batch."""
        n, c, h, w = images.shape
        out, levels = self.decoder(z).reshape(n, c, -1, h, w).permute(0, 2, 1, 3, 4), self.placed(images).long()
        if self.ours[0].density == "categorical":
            return F.cross_entropy(out, levels, reduction="sum")
        return -discretized_logistic(self.scaled(images), out[:, 0], out[:, 1] - 2.0, levels, 256).sum()


class Transition(Mirror):
    def forward(self, z: torch.Tensor) -> torch.distributions.Normal:
        mean, log_variance = self.last(torch.tanh(self.first(z))).chunk(2, 1)
        return torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))


class HierarchicalVAE(VAE):
    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        mean, log_variance = self.encoder(self.scaled(images)).chunk(2, dim=1)
        q = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
        z, rates = q.mean + q.stddev * self.normal(rng, mean.shape), []
        first = z
        for up, down in zip(self.upwards, self.downwards, strict=True):
            higher = up(z)
            above = higher.mean + higher.stddev * self.normal(rng, mean.shape)
            rates.append(q.log_prob(z) - down(above).log_prob(z))
            q, z = higher, above
        rates.append(torch.distributions.kl_divergence(q, torch.distributions.Normal(0 * q.mean, 1.0)))
        taken = torch.stack([rate.sum(1).mean() for rate in rates])
        if self.ours[0].free_bits:
            taken = taken.clamp(min=self.ours[0].free_bits)
        return (taken.sum() + self.reconstruction(images, first) / len(images)) / math.prod(images.shape[1:])


class Autoencoder(Mirror):
    """With the squared cost."""

    def __init__(self, ours: ng.models.Autoencoder):
        super().__init__(ours)
        for name, buffer in ours.named_buffers():
            self.register_buffer(name, torch.from_numpy(buffer.numpy().copy()))

    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x = self.scaled(images)
        return F.mse_loss(self.decoder(self.encoder(x)), x)


class WAE(Autoencoder):
    @property
    def autoencoder(self) -> nn.Module:
        return nn.ModuleList([self.encoder, self.decoder])

    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        z = self.encoder(self.scaled(images))
        prior = self.normal(rng, z.shape)
        k = inverse_multiquadratic(torch.cdist(torch.cat([z, prior]), torch.cat([z, prior])) ** 2, z.shape[1])
        n, (own, across, prior_own) = len(z), (k[: len(z), : len(z)], k[: len(z), len(z) :], k[len(z) :, len(z) :])
        pairs = lambda k: (k.sum() - k.trace()) / (n * (n - 1))
        penalty = pairs(own) + pairs(prior_own) - 2 * across.mean()
        return super().loss(images, rng) + self.ours[0].weight * penalty / images[0].size

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        z = self.encoder(self.scaled(images)).detach()
        real, fake = self.discriminator(self.normal(rng, z.shape)), self.discriminator(z)
        ones = torch.ones_like(real)
        return F.binary_cross_entropy_with_logits(real, ones) + F.binary_cross_entropy_with_logits(fake, 0 * ones)

    def autoencoder_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        logits = self.discriminator(self.encoder(self.scaled(images)))
        penalty = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        return super().loss(images, rng) + self.ours[0].weight * penalty / images[0].size


class AAE(WAE):
    pass


def inverse_multiquadratic(squares: torch.Tensor, d: int) -> torch.Tensor:
    """Tolstikhin et al. 2018, section 4, with a sum over scales."""
    return torch.stack([1 / (1 + squares / (2 * d * s)) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]).sum(0)


class CodeDiscriminator(Mirror):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            z = torch.relu(layer(z))
        return self.layers[-1](z)[:, 0]


def discretized_logistic(
    x: torch.Tensor, mean: torch.Tensor, log_scale: torch.Tensor, levels: torch.Tensor, count: int
) -> torch.Tensor:
    """Salimans et al. 2017, eq. 2."""
    half, inverse = 1 / (count - 1), torch.exp(-log_scale)
    low, high = (x - half - mean) * inverse, (x + half - mean) * inverse
    inside = F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-2 * half * inverse))
    return torch.where(levels == 0, F.logsigmoid(high), torch.where(levels == count - 1, F.logsigmoid(-low), inside))


class SpectralNorm(nn.Module):
    """PyTorch's own.  It has its vectors and the weight under other names."""

    def __init__(self, ours: spectral.SpectralNorm):
        super().__init__()
        self.layer = nn.utils.parametrizations.spectral_norm(counterpart(ours.layer))
        self.register_load_state_dict_pre_hook(self.from_ours)
        self.register_state_dict_post_hook(self.to_ours)

    @staticmethod
    def from_ours(module: SpectralNorm, state: dict[str, torch.Tensor], prefix: str, *others: Any) -> None:
        weight, u, inside = (
            state.pop(f"{prefix}layer.weight"),
            state.pop(f"{prefix}u"),
            f"{prefix}layer.parametrizations",
        )
        outputs = 1 if isinstance(module.layer, nn.ConvTranspose2d) else 0
        v = F.normalize(weight.movedim(outputs, 0).flatten(1).T @ u, dim=0)
        state |= {f"{inside}.weight.original": weight, f"{inside}.weight.0._u": u, f"{inside}.weight.0._v": v}

    @staticmethod
    def to_ours(module: SpectralNorm, state: dict[str, torch.Tensor], prefix: str, *others: Any) -> None:
        inside = f"{prefix}layer.parametrizations.weight"
        state |= {f"{prefix}layer.weight": state.pop(f"{inside}.original"), f"{prefix}u": state.pop(f"{inside}.0._u")}
        del state[f"{inside}.0._v"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def our_names(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by the names that they have in our modules."""
    return {name.replace("parametrizations.weight.original", "weight"): p for name, p in module.named_parameters()}


class SelfAttention(Mirror):
    def __init__(self, ours: spectral.SelfAttention):
        super().__init__(ours)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys, queries, values = (part(x).flatten(2).transpose(1, 2) for part in (self.f, self.g, self.h))
        seen = F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2)
        return x + self.gamma * self.v(seen.reshape(len(x), -1, *x.shape[2:]))


class Attentive(Mirror):
    def attend(self, stage: int, h: torch.Tensor) -> torch.Tensor:
        return self.attention(h) if hasattr(self, "attention") and stage == self.ours[0].attended else h


class ConditionalBatchNorm2d(nn.BatchNorm2d):
    """By a part of the latents, without labels."""

    def __init__(self, ours: Any):
        super().__init__(ours.weight.shape[0], ours.eps, ours.momentum)
        self.of_z = counterpart(ours.of_z)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        scale, shift = self.of_z(z)[:, :, None, None].chunk(2, dim=1)
        return (1 + scale) * super().forward(x) + shift


class GeneratorNetwork(Attentive):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        parts = self.ours[0].parts
        first, *others = z.split(parts, 1) if parts else [z]
        given = [(part,) for part in others] or [()] * len(self.norms)
        h = self.attend(0, F.relu(self.norms[0](self.first(first[:, :, None, None]), *given[0])))
        for i, (conv, norm) in enumerate(zip(self.convs, list(self.norms)[1:], strict=True), start=1):
            h = self.attend(i, F.relu(norm(conv(h), *given[i])))
        return torch.tanh(self.last(h))


class DiscriminatorNetwork(Attentive):
    def features(self, x: torch.Tensor) -> torch.Tensor:
        h = self.attend(0, F.leaky_relu(self.first(x), 0.2))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            h = self.attend(i, F.leaky_relu(norm(conv(h)), 0.2))
        return h

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x)).reshape(len(x))


class GAN(Mirror):
    def generate(self, n: int, rng: ng.Generator) -> torch.Tensor:
        return self.generator(self.normal(rng, (n, self.ours[0].latent)))

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        with torch.no_grad():
            fake = self.generate(len(images), rng)
        real = self.discriminator(self.scaled(images))
        return F.softplus(-real).mean() + F.softplus(self.discriminator(fake)).mean()

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        return F.softplus(-self.discriminator(self.generate(len(images), rng))).mean()


class SAGAN(GAN):
    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        with torch.no_grad():
            fake = self.generate(len(images), rng)
        real = self.discriminator(self.scaled(images))
        return F.relu(1 - real).mean() + F.relu(1 + self.discriminator(fake)).mean()

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        return -self.discriminator(self.generate(len(images), rng)).mean()


class InfoGAN(GAN):
    def codes(self, n: int, rng: ng.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        ours = self.ours[0]
        z = self.normal(rng, (n, ours.noise))
        c = self.placed(rng.integers(0, ours.codes, n)).long()
        numbers = self.placed(rng.uniform((n, ours.continuous), dtype=ours.dtype))
        return z, c, 2 * numbers - 1

    def samples(self, z: torch.Tensor, c: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return self.generator(torch.cat([z, F.one_hot(c, self.ours[0].codes).to(z.dtype), numbers], 1))

    def reward(self, x: torch.Tensor, c: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        ours = self.ours[0]
        found = self.discriminator.q(self.discriminator.features(x)).flatten(1)
        logits, mean, log_std = found.split([ours.codes, ours.continuous, ours.continuous], 1)
        told = torch.distributions.Normal(mean, log_std.exp()).log_prob(numbers).sum(1).mean()
        of_numbers = told + ours.continuous * math.log(2)
        return ours.weight * (math.log(ours.codes) - F.cross_entropy(logits, c)) + ours.continuous_weight * of_numbers

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        z, *codes = self.codes(len(images), rng)
        with torch.no_grad():
            fake = self.samples(z, *codes)
        value = (
            F.softplus(-self.discriminator(self.scaled(images))).mean() + F.softplus(self.discriminator(fake)).mean()
        )
        return value - self.reward(fake, *codes)

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        z, *codes = self.codes(len(images), rng)
        fake = self.samples(z, *codes)
        return F.softplus(-self.discriminator(fake)).mean() - self.reward(fake, *codes)


class BigGAN(SAGAN):
    pass


class ResidualBlock(Mirror):
    def forward(self, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv1(F.silu(self.norm1(h))))
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        inner = self.conv2(self.dropout(F.silu(inner * (1 + scale) + shift)))
        return inner + (self.skip(h) if hasattr(self, "skip") else h)


class Attention(Mirror):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        tokens = self.qkv(self.norm(h)).permute(0, 2, 3, 1)
        seen = attend(*tokens.flatten(1, 2).chunk(3, dim=2), self.ours[0].heads)
        return h + self.out(seen.reshape((*tokens.shape[:3], -1)).permute(0, 3, 1, 2))


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    split = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*split, mask).transpose(1, 2).flatten(2)


def sinusoids(t: torch.Tensor, channels: int, x: torch.Tensor) -> torch.Tensor:
    half = channels // 2
    angles = t.to(x.dtype)[:, None] * 10000.0 ** -(torch.arange(half, dtype=x.dtype, device=x.device) / half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class UNet(Mirror):
    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: Any = None) -> torch.Tensor:
        time = self.time2(F.silu(self.time1(sinusoids(t, self.ours[0].channels, x))))
        if hasattr(self, "label"):
            time = time + self.label(labels)
        h = self.first(x)
        kept = [h]
        for part in self.down:
            h = part(h, time) if isinstance(part, ResidualBlock) else part(h)
            kept.append(h)
        h = self.middle2(self.attend(self.middle1(h, time), labels), time)
        for part in self.up:
            if isinstance(part, ResidualBlock):
                h = part(torch.cat([h, kept.pop()], dim=1), time)
            else:
                h = part(F.interpolate(h, size=kept[-1].shape[2:]))
        return self.last(F.silu(self.norm(h)))

    def attend(self, h: torch.Tensor, labels: Any) -> torch.Tensor:
        return self.attention(h)


class TextBlock(Mirror):
    def forward(self, h: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = h + self.out(attend(*self.qkv(self.norm1(h)).chunk(3, dim=2), self.ours[0].heads, mask))
        return h + self.narrow(F.gelu(self.wide(self.norm2(h)), approximate="tanh"))


class TextEncoder(Mirror):
    def __init__(self, ours: ng.nn.Module):
        super().__init__(ours)
        self.position = nn.Parameter(torch.zeros(ours.position.shape))

    def forward(self, captions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.word(captions) + self.position
        for block in self.blocks:
            h = block(h, mask)
        return self.norm(h)


class CrossAttention(Mirror):
    def forward(self, h: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        query = self.query(self.norm(h)).permute(0, 2, 3, 1)
        seen = attend(query.flatten(1, 2), *self.key_value(words).chunk(2, dim=2), self.ours[0].heads, mask)
        return h + self.out(seen.reshape(query.shape).permute(0, 3, 1, 2))


class FirstWord(nn.Linear):
    def __init__(self, ours: ng.nn.Linear):
        super().__init__(*reversed(ours.weight.shape))

    def forward(self, text: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return super().forward(text[0][:, 0])


class TextUNet(UNet):
    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: Any = None) -> torch.Tensor:
        mask = (labels != 0)[:, None, None]
        return super().forward(x, t, (self.text(labels, mask), mask))

    def attend(self, h: torch.Tensor, labels: Any) -> torch.Tensor:
        return self.cross(self.attention(h), *labels)


class Block(Mirror):
    def forward(self, h: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.condition(condition).chunk(6, dim=2)
        (n, length, c), heads = h.shape, self.ours[0].heads
        tokens = self.qkv(adaptive_layer_norm(h, scale1, shift1)).reshape(n, length, 3, heads, c // heads)
        query, key, value = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, length, c)
        h = h + gate1 * self.out(seen)
        return h + gate2 * self.mlp2(F.gelu(self.mlp1(adaptive_layer_norm(h, scale2, shift2)), approximate="tanh"))


def adaptive_layer_norm(h: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return (1 + scale) * F.layer_norm(h, h.shape[2:], eps=1e-6) + shift


class Transformer(Mirror):
    def __init__(self, ours: ng.nn.Module):
        super().__init__(ours)
        self.register_buffer("positions", torch.from_numpy(ours.positions), persistent=False)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        ours, half = self.ours[0], self.ours[0].channels // 2
        (n, c, height, width), p = x.shape, ours.patch
        angles = t.to(x.dtype)[:, None] * 10000.0 ** -(torch.arange(half, dtype=x.dtype, device=x.device) / half)
        condition = F.silu(self.time2(F.silu(self.time1(torch.cat([angles.sin(), angles.cos()], dim=1)))))[:, None]
        tokens = x.reshape(n, c, height // p, p, width // p, p).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, p * p * c)
        h = self.first(tokens) + self.positions.to(x.dtype)
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.condition(condition).chunk(2, dim=2)
        tokens = self.last(adaptive_layer_norm(h, scale, shift)).reshape(n, height // p, width // p, p, p, c)
        return tokens.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class DDPM(Mirror):
    def __init__(self, ours: ng.models.DDPM):
        super().__init__(ours)
        for name in ("sqrt_alpha_bars", "sqrt_one_minus_alpha_bars"):
            self.register_buffer(name, torch.from_numpy(getattr(ours.schedule, name)), persistent=False)

    def loss(self, images: np.ndarray, rng: ng.Generator, labels: Any = None) -> torch.Tensor:
        """The labels, or captions made of them, are ours: on the host, with words left out by the same draws."""
        x0 = self.scaled(images)
        given = map(self.placed, self.ours[0].training_condition(images, labels, rng).values())
        t = self.placed(rng.integers(1, self.ours[0].T + 1, len(images)))
        noise = self.normal(rng, images.shape).to(memory_format=self.memory_format)
        signal, spread = (
            table[t].to(x0.dtype)[:, None, None, None]
            for table in (self.sqrt_alpha_bars, self.sqrt_one_minus_alpha_bars)
        )
        network = getattr(self, self.ours[0].network)
        return F.mse_loss(network(signal * x0 + spread * noise, t, *given), noise)


class BinomialDiffusion(Mirror):
    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        """In probabilities, in float64."""
        ours, x0 = self.ours[0], self.scaled(images)
        t = rng.integers(1, ours.T + 1, len(images))
        betas, kept, before = (
            self.placed(table)[:, None, None, None]
            for table in (ours.flips.betas[t], ours.flips.alpha_bars[t], ours.flips.alpha_bars[t - 1])
        )
        uniform = self.placed(rng.uniform(x0.shape, self.dtype))
        x_t = torch.where(uniform < 0.5 + 0.5 * kept * x0, 1.0, -1.0).to(x0.dtype)

        def posterior(clean: Any) -> torch.Tensor:
            one, zero = ((0.5 + 0.5 * (1 - betas) * x_t * x) * (0.5 + 0.5 * before * clean * x) for x in (1, -1))
            return one / (one + zero)

        share = torch.sigmoid(self.unet(x_t, self.placed(t)).double())
        p, q = share * posterior(1) + (1 - share) * posterior(-1), posterior(x0)
        divergence = torch.xlogy(q, q / p) + torch.xlogy(1 - q, (1 - q) / (1 - p))
        return ours.T * divergence.mean()


class LatentBlock(Mirror):
    def forward(self, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return h + self.second(F.silu(self.first(self.norm(h)) + self.time(time)))


class LatentNetwork(Mirror):
    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        time = F.silu(self.time(sinusoids(t, self.ours[0].hidden, x)))
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        return self.last(self.norm(h))


class LatentDDPM(Mirror):
    """In evaluation: the moments of the codes stay."""

    def __init__(self, ours: ng.models.LatentDDPM):
        super().__init__(ours)
        for name in ("code_mean", "code_square", "batches"):
            self.register_buffer(name, torch.from_numpy(getattr(ours, name).numpy().copy()))

    def autoencoder_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        return self.autoencoder.loss(images, rng)

    def diffusion_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        code = self.autoencoder.encoder(self.scaled(images)).detach()
        z = (code - self.code_mean) / (self.code_square - self.code_mean**2).sqrt()
        t, schedule = rng.integers(1, self.ours[0].T + 1, len(images)), self.ours[0].schedule
        noise = self.normal(rng, z.shape)
        signal, spread = (
            self.placed(table[t]).to(z.dtype)[:, None]
            for table in (schedule.sqrt_alpha_bars, schedule.sqrt_one_minus_alpha_bars)
        )
        return F.mse_loss(self.diffusion(signal * z + spread * noise, self.placed(t)), noise)


class Convolved(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class UNetTranslator(Mirror):
    def forward(self, x: torch.Tensor, rng: ng.Generator) -> torch.Tensor:
        h, kept = self.first(x), []
        for down in self.down:
            kept.append(h)
            h = down(F.leaky_relu(h, 0.2))
        for up in self.up:
            h, p = up(F.relu(h)), self.ours[0].dropout
            if p:
                h = h * torch.as_tensor(rng.uniform(tuple(h.shape)) >= p, device=h.device) / (1 - p)
            h = torch.cat([h, kept.pop()], dim=1)
        return torch.tanh(self.last(F.relu(h)))


class ResNetBlock(Mirror):
    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.two(F.relu(self.one(h)))


class ResNetTranslator(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.first(x))
        for layer in self.down:
            h = F.relu(layer(h))
        for block in self.blocks:
            h = block(h)
        for layer in self.up:
            h = F.relu(layer(h))
        return torch.tanh(self.last(h))


class PatchGAN(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.leaky_relu(self.first(x), 0.2)
        for layer in self.middle:
            h = F.leaky_relu(layer(h), 0.2)
        return self.last(h)


class History(Mirror):
    """Only what it holds: the losses are those of new images."""

    def __init__(self, ours: ng.nn.Module):
        super().__init__(ours)
        for name, buffer in ours.named_buffers():
            self.register_buffer(name, torch.from_numpy(buffer.numpy().copy()))


class TranslationModel(Mirror):
    def __init__(self, ours: ng.models.GenerativeModel):
        super().__init__(ours)
        for name in ("kept", "seen"):
            self.register_buffer(name, torch.from_numpy(getattr(ours, name).numpy().copy()))

    def source(self, images: np.ndarray) -> torch.Tensor:
        return self.scaled(self.ours[0].source_of(images))


class SuperResolution(TranslationModel):
    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        ours, x0 = self.ours[0], self.scaled(images)
        scales = (ours.schedule.sqrt_alpha_bars, ours.schedule.sqrt_one_minus_alpha_bars)
        noised = lambda x, t, noise: sum(
            self.placed(table[t])[:, None, None, None].to(x.dtype) * y
            for table, y in zip(scales, (x, noise), strict=True)
        )
        t, s = (
            rng.integers(low, high, len(images))
            for low, high in ((1, ours.T + 1), (0, ours.most(ours.augmentation) + 1))
        )
        z = F.avg_pool2d(x0, 2)
        if ours.augmentation:
            z = noised(z, s, self.normal(rng, z.shape))
            z = torch.cat([z, self.placed(s / ours.T).to(z.dtype)[:, None, None, None].expand_as(z[:, :1])], dim=1)
        noise = self.normal(rng, x0.shape)
        seen = torch.cat([noised(x0, t, noise), F.interpolate(z, scale_factor=2.0)], dim=1)
        return F.mse_loss(self.unet(seen, self.placed(t)), noise)


class Pix2Pix(TranslationModel):
    def logits(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.discriminator(torch.cat([x, y], dim=1))

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x, y = self.source(images), self.scaled(images)
        with torch.no_grad():
            fake = self.generator(x, rng)
        return 0.5 * (F.softplus(-self.logits(x, y)).mean() + F.softplus(self.logits(x, fake)).mean())

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x, y = self.source(images), self.scaled(images)
        fake = self.generator(x, rng)
        return F.softplus(-self.logits(x, fake)).mean() + self.ours[0].weight * F.l1_loss(fake, y)


class CycleGAN(TranslationModel):
    @property
    def generator(self) -> nn.Module:
        return nn.ModuleList([self.forth, self.back])

    @property
    def discriminator(self) -> nn.Module:
        return nn.ModuleList([self.of_sources, self.of_images])

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x, y = self.source(images[::2]), self.scaled(images[1::2])
        there, back = self.forth(x), self.back(y)
        cycle = F.l1_loss(self.back(there), x) + F.l1_loss(self.forth(back), y)
        if self.ours[0].identity:
            same = F.l1_loss(self.forth(y), y) + F.l1_loss(self.back(x), x)
            cycle = cycle + self.ours[0].identity * same
        deceived = ((self.of_images(there) - 1) ** 2).mean() + ((self.of_sources(back) - 1) ** 2).mean()
        return deceived + self.ours[0].weight * cycle

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x, y = self.source(images[::2]), self.scaled(images[1::2])
        with torch.no_grad():
            there, back = self.forth(x), self.back(y)
        real = ((self.of_images(y) - 1) ** 2).mean() + ((self.of_sources(x) - 1) ** 2).mean()
        return 0.5 * (real + (self.of_images(there) ** 2).mean() + (self.of_sources(back) ** 2).mean())


class SpatiallyAdaptiveNorm(Mirror):
    def forward(self, h: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        features = F.relu(self.shared(m))
        return (1 + self.gamma(features)) * self.norm(h) + self.beta(features)


class SPADEBlock(Mirror):
    def forward(self, h: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        kept = self.skip(self.skip_norm(h, m)) if hasattr(self, "skip") else h
        for norm, conv in zip(self.norms, self.convs, strict=True):
            h = conv(F.relu(norm(h, m)))
        return kept + h


class SPADEGenerator(Mirror):
    def forward(self, z: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        h = self.first(z).reshape(len(z), *self.ours[0].small)
        for i, block in enumerate(self.blocks):
            h = F.interpolate(h, scale_factor=2) if i else h
            h = block(h, F.avg_pool2d(m, m.shape[2] // h.shape[2]))
        return torch.tanh(self.last(F.leaky_relu(h, 0.2)))


class SPADE(TranslationModel):
    def pair(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        ours = self.ours[0]
        m = ours.label_map(ours.scaled(ours.source_of(images)))
        y = self.scaled(images)
        return self.placed(m.numpy()).to(y.dtype), y

    def generate(self, m: torch.Tensor, rng: ng.Generator) -> torch.Tensor:
        return self.generator(self.normal(rng, (len(m), self.ours[0].latent)), m)

    def logits(self, m: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.discriminator(torch.cat([m, y], dim=1))

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        m, y = self.pair(images)
        with torch.no_grad():
            fake = self.generate(m, rng)
        return F.relu(1 - self.logits(m, y)).mean() + F.relu(1 + self.logits(m, fake)).mean()

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        m, _ = self.pair(images)
        return -self.logits(m, self.generate(m, rng)).mean()


class Equalized(Mirror):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.layer.weight * self.ours[0].factor, self.layer.bias * self.ours[0].rate
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=self.layer.padding)


class Mapping(Mirror):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2)
        return w


class StyledLayer(Mirror):
    def __init__(self, ours: ng.nn.Module):
        super().__init__(ours)
        self.strength = nn.Parameter(torch.zeros(ours.strength.shape))

    def forward(self, h: torch.Tensor, w: torch.Tensor, rng: ng.Generator) -> torch.Tensor:
        h = self.conv(h)
        h = F.leaky_relu(h + self.strength * self.normal(rng, (len(h), 1, *h.shape[2:])), 0.2)
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return (1 + scale) * F.instance_norm(h, eps=1e-8) + shift


class StyleGenerator(Mirror):
    def __init__(self, ours: ng.nn.Module):
        super().__init__(ours)
        self.start = nn.Parameter(torch.zeros(ours.start.shape))

    def forward(self, styles: list[torch.Tensor], rng: ng.Generator) -> torch.Tensor:
        h = self.start.expand(len(styles[0]), -1, -1, -1)
        for k, (layer, w) in enumerate(zip(self.layers, styles, strict=True)):
            h = layer(F.interpolate(h, scale_factor=2) if k and k % 2 == 0 else h, w, rng)
        return torch.tanh(self.images[-1](h))


class StyleDiscriminator(Mirror):
    def __init__(self, ours: ng.nn.Module):
        super().__init__(ours)
        self.blocks = nn.ModuleList([nn.ModuleList(map(counterpart, block)) for block in ours.blocks])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.leaky_relu(self.images[0](x), 0.2)
        for block in self.blocks:
            for conv in block:
                h = F.leaky_relu(conv(h), 0.2)
            h = F.avg_pool2d(h, 2)
        std = (h.var(0, correction=0) + 1e-8).sqrt().mean()
        h = torch.cat([h, std.expand(len(h), 1, *h.shape[2:])], dim=1)
        h = F.leaky_relu(self.last(h), 0.2).flatten(1)
        return self.logit(F.leaky_relu(self.dense(h), 0.2))[:, 0]


class StyleGAN(Mirror):
    """Without growing, unless there is only one resolution."""

    def __init__(self, ours: ng.models.StyleGAN):
        super().__init__(ours)
        assert not (ours.progressive and ours.generator.doublings)
        for name, buffer in ours.named_buffers():
            self.register_buffer(name, torch.from_numpy(buffer.numpy().copy()))

    def generate(self, n: int, rng: ng.Generator) -> torch.Tensor:
        ours, layers = self.ours[0], len(self.generator.layers)
        coarse, fine = (self.generator.mapping(self.normal(rng, (n, ours.latent))) for _ in range(2))
        meet = self.placed(rng.integers(1, layers, (n, 1)))
        two = self.placed(rng.uniform((n, 1), self.dtype)) < ours.mixing
        return self.generator([torch.where(two & (meet <= k), fine, coarse) for k in range(layers)], rng)

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        with torch.no_grad():
            fake = self.generate(len(images), rng)
        x = self.scaled(images).requires_grad_()
        real = self.discriminator(x)
        loss = F.softplus(-real).mean() + F.softplus(self.discriminator(fake)).mean()
        (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        return loss + self.ours[0].penalty * 0.5 * slope.square().sum() / len(x)

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        return F.softplus(-self.discriminator(self.generate(len(images), rng))).mean()


MODELS: dict[str, type[Mirror]] = {
    cls.__name__: cls
    for cls in (
        PixelCNN, GatedPixelCNN, PixelRNN, VAE, HierarchicalVAE, Autoencoder, WAE, AAE, GAN, SAGAN, BigGAN, InfoGAN,
        StyleGAN, Pix2Pix, CycleGAN, SPADE, DDPM, SuperResolution, BinomialDiffusion, LatentDDPM,
    )
}  # fmt: skip
PARTS: dict[type, type[Mirror]] = {
    ng.models.autoregressive.pixelcnn.ResidualBlock: PixelBlock,
    ng.models.autoregressive.gated.GatedLayer: GatedLayer,
    ng.models.autoregressive.pixelrnn.RowLSTM: Recurrence,
    ng.models.autoregressive.pixelrnn.DiagonalLSTM: DiagonalLSTM,
    ng.models.autoregressive.pixelrnn.DiagonalBiLSTM: DiagonalBiLSTM,
    ng.models.autoregressive.pixelrnn.ResidualLSTM: ResidualLSTM,
    ng.models.latent.networks.Block: VAEBlock,
    ng.models.latent.hierarchical.Transition: Transition,
    ng.models.latent.networks.Encoder: Encoder,
    ng.models.latent.networks.Decoder: Decoder,
    ng.models.latent.wae.CodeDiscriminator: CodeDiscriminator,
    spectral.SpectralNorm: SpectralNorm,
    spectral.SelfAttention: SelfAttention,
    ng.models.adversarial.networks.ConditionalBatchNorm2d: ConditionalBatchNorm2d,
    ng.models.adversarial.networks.GeneratorNetwork: GeneratorNetwork,
    ng.models.adversarial.networks.DiscriminatorNetwork: DiscriminatorNetwork,
    ng.models.adversarial.translators.Convolved: Convolved,
    ng.models.adversarial.translators.UNetTranslator: UNetTranslator,
    ng.models.adversarial.translators.ResidualBlock: ResNetBlock,
    ng.models.adversarial.translators.ResNetTranslator: ResNetTranslator,
    ng.models.adversarial.translators.PatchGAN: PatchGAN,
    ng.models.adversarial.translation.History: History,
    ng.models.adversarial.spade.SpatiallyAdaptiveNorm: SpatiallyAdaptiveNorm,
    ng.models.adversarial.spade.SPADEBlock: SPADEBlock,
    ng.models.adversarial.spade.SPADEGenerator: SPADEGenerator,
    ng.models.adversarial.styles.Equalized: Equalized,
    ng.models.adversarial.styles.Mapping: Mapping,
    ng.models.adversarial.styles.StyledLayer: StyledLayer,
    ng.models.adversarial.styles.StyleGenerator: StyleGenerator,
    ng.models.adversarial.styles.StyleDiscriminator: StyleDiscriminator,
    ng.models.diffusion.unet.ResidualBlock: ResidualBlock,
    ng.models.diffusion.unet.Attention: Attention,
    ng.models.diffusion.unet.UNet: UNet,
    ng.models.diffusion.captions.Captions: History,
    ng.models.diffusion.text.Block: TextBlock,
    ng.models.diffusion.text.TextEncoder: TextEncoder,
    ng.models.diffusion.text.CrossAttention: CrossAttention,
    ng.models.diffusion.text.FirstWord: FirstWord,
    ng.models.diffusion.text.TextUNet: TextUNet,
    ng.models.diffusion.latent.LatentBlock: LatentBlock,
    ng.models.diffusion.latent.LatentNetwork: LatentNetwork,
    ng.models.Autoencoder: Autoencoder,
    ng.models.diffusion.transformer.Block: Block,
    ng.models.diffusion.transformer.Transformer: Transformer,
}


def updates(theirs: Mirror) -> list[tuple[Any, list[nn.Parameter]]]:
    """The losses of one training step with the parameters that each of them moves, in the order of ours."""
    found = []
    for name, _, part in theirs.ours[0].updates():
        if name == "loss":
            found.append((theirs.loss, list(theirs.parameters())))
        else:
            assert isinstance(part, ng.nn.Module)
            found.append((getattr(theirs, f"{name}_loss"), list(getattr(theirs, name).parameters())))
    return found
