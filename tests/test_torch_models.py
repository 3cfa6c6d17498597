"""The four models against a second implementation, written in torch from what their settings mean.

It knows nothing of our layers: channels, strides, masks, groups and borders stand here once more, under the names that
the weights travel by.  Weights, images and random numbers are the same on both sides.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nanogen as ng
from benchmarks import torch_models
from benchmarks.__main__ import check_equal
from nanogen.models import DDPM, GAN, SAGAN, VAE, PixelCNN

SHAPE, RGB = (1, 6, 8), (3, 4, 4)
MODELS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "pixelcnn": (PixelCNN, (SHAPE, 5), {"channels": 6, "blocks": 2, "dropout": 0.0}),
    "pixelcnn, RGB": (PixelCNN, (RGB, 5), {"channels": 9, "blocks": 2, "kernel_size": 3, "dropout": 0.0}),
    "vae": (VAE, (SHAPE, 5), {"latent": 3, "channels": 4}),
    "vae, logistic": (VAE, (RGB, 256), {"latent": 3, "channels": 4, "decoder": "logistic"}),
    "vae, odd": (VAE, ((3, 5, 7), 4), {"latent": 2, "channels": 6, "stages": 3}),
    "gan": (GAN, ((1, 8, 12), 5), {"latent": 3, "channels": 4}),
    "gan, minimax": (GAN, ((3, 16, 8), 5), {"latent": 3, "channels": 4, "objective": "minimax"}),
    "gan, penalised": (
        GAN, ((1, 8, 8), 5), {"latent": 3, "channels": 4, "objective": "wasserstein", "gradient_penalty": 10.0}
    ),
    "gan, clipped": (
        GAN, ((1, 8, 8), 5), {"latent": 3, "channels": 4, "objective": "wasserstein", "clip_weights": 0.1}
    ),
    "gan, least squares": (
        GAN, ((1, 8, 8), 5), {"latent": 3, "channels": 4, "objective": "least-squares", "targets": (-1.0, 1.0, 0.5)}
    ),
    "gan, hinge": (GAN, ((1, 8, 8), 5), {"latent": 3, "channels": 4, "objective": "hinge", "attention": True}),
    "sagan": (SAGAN, ((3, 16, 8), 5), {"latent": 3, "channels": 4}),
    "ddpm": (DDPM, (SHAPE, 5), {"T": 20, "channels": 8, "heads": 2}),
    "ddpm, RGB": (
        DDPM, (RGB, 5),
        {"T": 20, "channels": 8, "multipliers": (1, 2, 3), "blocks": 2, "heads": 4, "schedule": "cosine"},
    ),
}  # fmt: skip


def scaled(images: np.ndarray, levels: int) -> torch.Tensor:
    """Levels in [−1, 1]."""
    return torch.from_numpy(images.astype(np.float64)) * 2 / (levels - 1) - 1


def normal(rng: ng.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(shape, np.float64))


# PixelCNN: van den Oord et al. 2016, table 1 and figures 2 and 5


class Masked(nn.Conv2d):
    """Mask A hides the pixel's own colour and the later ones, mask B the later ones; both what comes after in raster
    order.  Channels are shared out among the colours, as evenly as may be."""

    def __init__(self, kind: str, inputs: int, outputs: int, size: int, colors: int):
        super().__init__(inputs, outputs, size, padding=size // 2)
        self.seen = torch.zeros(outputs, inputs, size, size, dtype=torch.float64)
        for o, i, y, x in np.ndindex(*self.seen.shape):
            before = (y, x) < (size // 2, size // 2)
            here = (y, x) == (size // 2, size // 2)
            ours, theirs = o * colors // outputs, i * colors // inputs
            self.seen[o, i, y, x] = before or (here and (theirs < ours or (kind == "B" and theirs == ours)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight * self.seen, self.bias, padding=self.padding)


class TorchPixelCNN(nn.Module):
    def __init__(self, shape: Any, levels: int, channels: int, blocks: int, kernel_size: int = 5, dropout: float = 0.0):
        super().__init__()
        self.levels, colors, half = levels, shape[0], channels // 2
        self.first = Masked("A", colors, channels, kernel_size, colors)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            block = {"reduce": Masked("B", channels, half, 1, colors), "look": Masked("B", half, half, 3, colors),
                     "expand": Masked("B", half, channels, 1, colors)}  # fmt: skip
            self.blocks.append(nn.ModuleDict(block))
        self.mix = Masked("B", channels, channels, 1, colors)
        self.last = Masked("B", channels, colors * levels, 1, colors)

    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        h = self.first(scaled(images, self.levels))
        for block in self.blocks:
            h = h + block["expand"](F.relu(block["look"](F.relu(block["reduce"](F.relu(h))))))
        out = self.last(F.relu(self.mix(F.relu(h))))
        n, c, height, width = images.shape
        logits = out.reshape(n, c, self.levels, height, width).transpose(1, 2)
        return F.cross_entropy(logits, torch.from_numpy(images).long())


# VAE: Kingma & Welling 2014


class VAEBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.conv(F.silu(self.norm(h)))


class TorchVAE(nn.Module):
    def __init__(
        self, shape: Any, levels: int, latent: int, channels: int, stages: int = 2, decoder: str = "categorical"
    ):
        super().__init__()
        self.levels, self.kind = levels, decoder
        colors, height, width = shape
        numbers = levels if decoder == "categorical" else 2
        sizes, widths = [(height, width)], [channels]
        for _ in range(stages):
            height, width = math.ceil(height / 2), math.ceil(width / 2)
            sizes.append((height, width))
            widths.append(2 * widths[-1])
        self.encoder, self.decoder, self.sizes, self.widest = nn.Module(), nn.Module(), sizes, widths[-1]
        self.encoder.first = nn.Conv2d(colors, channels, 3, padding=1)
        self.encoder.stages = nn.ModuleList()
        for wide in widths[:-1]:
            self.encoder.stages += [VAEBlock(wide), nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1)]
        self.encoder.block = VAEBlock(widths[-1])
        self.encoder.last = nn.Linear(widths[-1] * height * width, 2 * latent)
        self.decoder.first = nn.Linear(latent, widths[-1] * height * width)
        self.decoder.stages = nn.ModuleList([VAEBlock(widths[-1])])
        for wide in widths[:0:-1]:
            self.decoder.stages += [nn.Conv2d(wide, wide // 2, 3, padding=1), VAEBlock(wide // 2)]
        self.decoder.norm = nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
        self.decoder.last = nn.Conv2d(channels, colors * numbers, 3, padding=1)

    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x = scaled(images, self.levels)
        h = self.encoder.first(x)
        for stage in self.encoder.stages:
            h = stage(h)
        mean, log_variance = self.encoder.last(F.silu(self.encoder.block(h)).flatten(1)).chunk(2, dim=1)
        z = mean + (log_variance / 2).exp() * normal(rng, *mean.shape)
        h = self.decoder.stages[0](self.decoder.first(z).reshape(len(z), self.widest, *self.sizes[-1]))
        for i, size in enumerate(self.sizes[-2::-1]):
            h = self.decoder.stages[2 * i + 2](self.decoder.stages[2 * i + 1](F.interpolate(h, size=size)))
        out = self.decoder.last(F.silu(self.decoder.norm(h)))
        out = out.reshape(len(x), x.shape[1], -1, *x.shape[2:])
        q, levels = torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.from_numpy(images).long()
        if self.kind == "categorical":
            log_p = torch.distributions.Categorical(logits=out.permute(0, 1, 3, 4, 2)).log_prob(levels)
        else:  # a logistic's mass between the half-way marks to the next levels, by its distribution function
            centre, scale, half = out[:, :, 0], (out[:, :, 1] - 2).exp(), 1 / (self.levels - 1)
            below = torch.where(levels == 0, -torch.inf, (x - half - centre) / scale)
            above = torch.where(levels == self.levels - 1, torch.inf, (x + half - centre) / scale)
            side = torch.where(x > centre, -1.0, 1.0)  # on the lower tail, where no digits are lost
            log_p = ((side * above).sigmoid() - (side * below).sigmoid()).abs().log()
        kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
        return (kl - log_p.sum((1, 2, 3))).mean() / images[0].size


# GAN: Radford et al. 2016; Gulrajani et al. 2017; Mao et al. 2017; Miyato et al. 2018; Zhang et al. 2019


class Spectral(nn.Module):
    def __init__(self, layer: nn.Module, outputs: int):
        super().__init__()
        self.layer, self.axis = layer, int(isinstance(layer, nn.ConvTranspose2d))
        self.register_buffer("u", torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.layer.weight.movedim(self.axis, 0).flatten(1)
        with torch.no_grad():
            v = F.normalize(w.T @ self.u, dim=0)
            self.u = F.normalize(w @ v, dim=0)
        normalised = {"weight": self.layer.weight / torch.einsum("i,ij,j", self.u, w, v)}
        return torch.func.functional_call(self.layer, normalised, (x,))


class SelfAttention(nn.Module):
    def __init__(self, channels: int, spectral: bool):
        super().__init__()
        few, half = max(1, channels // 8), max(1, channels // 2)
        for name, inputs, outputs in (
            ("f", channels, few), ("g", channels, few), ("h", channels, half), ("v", half, channels),
        ):  # fmt: skip
            conv = nn.Conv2d(inputs, outputs, 1, bias=False)
            setattr(self, name, Spectral(conv, outputs) if spectral else conv)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        f, g, h = (part(x).flatten(2) for part in (self.f, self.g, self.h))
        beta = torch.einsum("nci,ncj->nij", f, g).exp()
        beta = beta / beta.sum(1, keepdim=True)
        return x + self.gamma * self.v(torch.einsum("nci,nij->ncj", h, beta).reshape(len(x), -1, *x.shape[2:]))


class TorchGAN(nn.Module):
    def __init__(
        self, shape: Any, levels: int, latent: int, channels: int, objective: str = "non-saturating",
        gradient_penalty: float = 0.0, clip_weights: float = 0.0, targets: Any = None, spectral: bool = False,
        attention: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.levels, self.latent, self.objective, self.penalty = levels, latent, objective, gradient_penalty
        self.targets = targets
        colors, height, width = shape
        widths = [channels]  # from full size down
        while height % 2 == 0 and width % 2 == 0 and min(height, width) > 4:
            height, width = height // 2, width // 2
            widths.append(2 * widths[-1])
        g, d = self.generator, self.discriminator = nn.Module(), nn.Module()
        g.first = nn.ConvTranspose2d(latent, widths[-1], (height, width), bias=False)
        g.norms = nn.ModuleList(nn.BatchNorm2d(wide) for wide in widths[::-1])
        g.convs = nn.ModuleList(
            nn.ConvTranspose2d(wide, wide // 2, 4, stride=2, padding=1, bias=False) for wide in widths[:0:-1]
        )
        g.last = nn.Conv2d(channels, colors, 3, padding=1)
        d.first = nn.Conv2d(colors, channels, 3, padding=1)
        d.convs = nn.ModuleList(nn.Conv2d(w, 2 * w, 4, stride=2, padding=1, bias=False) for w in widths[:-1])
        norm = (lambda wide: nn.GroupNorm(1, wide)) if gradient_penalty else nn.BatchNorm2d
        if spectral:
            norm = lambda wide: nn.Identity()
            d.convs = nn.ModuleList(nn.Conv2d(w, 2 * w, 4, stride=2, padding=1) for w in widths[:-1])
        d.norms = nn.ModuleList(norm(wide) for wide in widths[1:])
        d.last = nn.Conv2d(widths[-1], 1, (height, width))
        if attention:
            for part in (g, d):
                part.attention = SelfAttention(widths[1], spectral)
        for part in (g, d) if spectral else ():
            part.first, part.last = (Spectral(layer, layer.out_channels) for layer in (part.first, part.last))
            part.convs = nn.ModuleList(Spectral(conv, conv.out_channels) for conv in part.convs)

    def generate(self, n: int, rng: ng.Generator) -> torch.Tensor:
        g = self.generator
        h = F.relu(g.norms[0](g.first(normal(rng, n, self.latent)[:, :, None, None])))
        for i, (conv, norm) in enumerate(zip(g.convs, g.norms[1:], strict=True)):
            if i == len(g.convs) - 1 and hasattr(g, "attention"):
                h = g.attention(h)
            h = F.relu(norm(conv(h)))
        return torch.tanh(g.last(h))

    def judge(self, x: torch.Tensor) -> torch.Tensor:
        d = self.discriminator
        h = F.leaky_relu(d.first(x), 0.2)
        for i, (conv, norm) in enumerate(zip(d.convs, d.norms, strict=True)):
            h = F.leaky_relu(norm(conv(h)), 0.2)
            if i == 0 and hasattr(d, "attention"):
                h = d.attention(h)
        return d.last(h).flatten()

    def discriminator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        fake, real = self.generate(len(images), rng).detach(), scaled(images, self.levels)
        on_real, on_fake = self.judge(real), self.judge(fake)
        if self.objective == "hinge":
            return torch.clamp(1 - on_real, min=0).mean() + torch.clamp(1 + on_fake, min=0).mean()
        if self.objective == "least-squares":
            a, b, _ = self.targets
            return (F.mse_loss(on_real, 0 * on_real + b) + F.mse_loss(on_fake, 0 * on_fake + a)) / 2
        if self.objective != "wasserstein":
            ones = torch.ones_like(on_real)
            return F.binary_cross_entropy_with_logits(on_real, ones) + F.binary_cross_entropy_with_logits(
                on_fake, 0 * ones
            )
        if not self.penalty:
            return on_fake.mean() - on_real.mean()
        epsilon = torch.from_numpy(rng.uniform((len(images), 1, 1, 1), np.float64))
        between = (epsilon * real + (1 - epsilon) * fake).requires_grad_()
        [slope] = torch.autograd.grad(self.judge(between).sum(), between, create_graph=True)
        return on_fake.mean() - on_real.mean() + self.penalty * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()

    def generator_loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        logits = self.judge(self.generate(len(images), rng))
        if self.objective in ("wasserstein", "hinge"):
            return -logits.mean()
        if self.objective == "least-squares":
            return F.mse_loss(logits, 0 * logits + self.targets[2]) / 2
        if self.objective == "minimax":
            return torch.log(1 - logits.sigmoid()).mean()
        return -torch.log(logits.sigmoid()).mean()


# DDPM: Ho et al. 2020; AdaGN: Dhariwal & Nichol 2021


def group_norm(channels: int) -> nn.GroupNorm:
    """As many groups, up to 32, as leave four channels to each and share them out evenly."""
    most = min(32, max(1, channels // 4))
    return nn.GroupNorm(math.gcd(most, channels), channels)


class TimedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, time: int):
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, 2 * outputs)
        self.norm2, self.conv2 = group_norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, h: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(F.silu(self.norm1(h)))
        scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
        inner = self.conv2(F.silu(self.norm2(inner) * (1 + scale) + shift))
        return inner + (self.skip(h) if hasattr(self, "skip") else h)


class TorchDDPM(nn.Module):
    def __init__(
        self, shape: Any, levels: int, T: int, channels: int, heads: int, multipliers: Any = (1, 2), blocks: int = 1,
        schedule: str = "linear",
    ):  # fmt: skip
        super().__init__()
        self.levels, self.T, self.channels, self.heads = levels, T, channels, heads
        if schedule == "linear":  # the same noise in all, shared out over T steps
            betas = np.linspace(1e-4 * 1000 / T, min(0.02 * 1000 / T, 0.999), T)
        else:  # Nichol & Dhariwal 2021, eq. 17
            f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
        self.kept = torch.from_numpy(np.cumprod(1 - betas))
        u, widths, time = nn.Module(), [channels * m for m in multipliers], 4 * channels
        self.unet = u
        u.time1, u.time2 = nn.Linear(channels, time), nn.Linear(time, time)
        u.first = nn.Conv2d(shape[0], channels, 3, padding=1)
        u.down, u.up = nn.ModuleList(), nn.ModuleList()
        skips = [channels]
        for level, wide in enumerate(widths):
            for _ in range(blocks):
                u.down.append(TimedBlock(skips[-1], wide, time))
                skips.append(wide)
            if level + 1 < len(widths):
                u.down.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
                skips.append(wide)
        wide = widths[-1]
        u.middle1, u.middle2, u.attention = TimedBlock(wide, wide, time), TimedBlock(wide, wide, time), nn.Module()
        u.attention.norm = group_norm(wide)
        u.attention.qkv, u.attention.out = nn.Conv2d(wide, 3 * wide, 1), nn.Conv2d(wide, wide, 1)
        for level in range(len(widths) - 1, -1, -1):
            for _ in range(blocks + 1):
                u.up.append(TimedBlock(wide + skips.pop(), widths[level], time))
                wide = widths[level]
            if level > 0:
                u.up.append(nn.Conv2d(wide, wide, 3, padding=1))
        u.norm, u.last = group_norm(channels * multipliers[0]), nn.Conv2d(widths[0], shape[0], 3, padding=1)

    def attend(self, h: torch.Tensor) -> torch.Tensor:
        part, (n, c, height, width) = self.unet.attention, h.shape
        seen = part.qkv(part.norm(h)).reshape(n, 3, self.heads, c // self.heads, height * width)
        query, key, value = seen.unbind(1)
        weights = torch.softmax(query.transpose(2, 3) @ key / math.sqrt(c // self.heads), dim=-1)
        return h + part.out((value @ weights.transpose(2, 3)).reshape(n, c, height, width))

    def noise(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        u, half = self.unet, self.channels // 2
        angles = t[:, None] / 10000 ** (torch.arange(half, dtype=torch.float64) / half)
        time = u.time2(F.silu(u.time1(torch.cat([angles.sin(), angles.cos()], dim=1))))
        kept = [u.first(x)]
        for part in u.down:
            kept.append(part(kept[-1], time) if isinstance(part, TimedBlock) else part(kept[-1]))
        h = u.middle2(self.attend(u.middle1(kept[-1], time)), time)
        for part in u.up:
            if isinstance(part, TimedBlock):
                h = part(torch.cat([h, kept.pop()], dim=1), time)
            else:
                h = part(F.interpolate(h, size=kept[-1].shape[2:]))
        return u.last(F.silu(u.norm(h)))

    def loss(self, images: np.ndarray, rng: ng.Generator) -> torch.Tensor:
        x0 = scaled(images, self.levels)
        t = torch.from_numpy(rng.integers(1, self.T + 1, len(images)))
        noise, kept = normal(rng, *x0.shape), self.kept[t - 1][:, None, None, None]
        return ((self.noise(kept.sqrt() * x0 + (1 - kept).sqrt() * noise, t) - noise) ** 2).mean()


class TorchSAGAN(TorchGAN):
    def __init__(self, *given: Any, **settings: Any):
        super().__init__(*given, objective="hinge", spectral=True, attention=True, **settings)


TORCH: dict[Any, Any] = {PixelCNN: TorchPixelCNN, VAE: TorchVAE, GAN: TorchGAN, SAGAN: TorchSAGAN, DDPM: TorchDDPM}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_torch(name: str) -> None:
    """The loss, and its gradient in every parameter, to 1e-9; weights travel by the names and in the shapes that both
    sides share, and neither has one more."""
    cls, given, settings = MODELS[name]
    ours = torch_models.stirred(cls(*given, **settings).to(np.float64), 0.1)
    theirs = TORCH[cls](*given, **settings).double()
    theirs.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in ours.state_dict().items()})
    images = np.random.default_rng(1).integers(0, ours.levels, (6, *ours.image_shape)).astype(np.uint8)
    for part, loss_of, module in ours.updates():
        torch_loss_of = theirs.loss if part == "loss" else getattr(theirs, f"{part}_loss")
        loss, expected = loss_of(images, ng.Generator(1)), torch_loss_of(images, ng.Generator(1))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        named = dict((theirs if part == "loss" else getattr(theirs, part)).named_parameters())
        assert {key for key, _ in module.named_parameters()} == named.keys()
        slopes = dict(zip(named, torch.autograd.grad(expected, list(named.values())), strict=True))
        scale = max(float(slope.abs().max()) for slope in slopes.values())
        for (key, _), g in zip(module.named_parameters(), ng.grad(loss, list(module.parameters())), strict=True):
            np.testing.assert_allclose(g.data, slopes[key].numpy(), rtol=1e-7, atol=1e-9 * scale, err_msg=key)


SMALL = {"T": 20, "channels": 8, "heads": 2, "classes": 3}
MIRRORED = {name: model for name, model in MODELS.items() if not name.startswith("gan,")} | {
    "ddpm, labels": (DDPM, (SHAPE, 5), SMALL),
    "ddpm, text": (DDPM, (SHAPE, 5), {**SMALL, "condition": "text"}),
}


@pytest.mark.parametrize("name", MIRRORED)
def test_the_benchmarks_models_are_ours(name: str) -> None:
    """What the benchmarks run in torch, which copies our layers one by one, has our losses and gradients."""
    cls, given, settings = MIRRORED[name]
    ours = torch_models.stirred(cls(*given, **settings), 0.1)
    check_equal(name, ours, np.random.default_rng(1).integers(0, ours.levels, (6, *ours.image_shape)).astype(np.uint8))
