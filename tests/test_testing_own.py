"""This library's own functions under the checkers; harmless rewrites pass.

A mutation of the museum names the row of `RIGHT` that refuses it as its `checker`."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nanogen as ng
from nanogen import functional as F
from nanogen import metrics, optim, testing
from nanogen.models import DDPM, NoiseSchedule
from nanogen.models.adversarial.biggan import truncated_normal
from nanogen.models.adversarial.cyclegan import CycleGAN
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss, gradient_penalty
from nanogen.models.adversarial.pix2pix import Pix2Pix
from nanogen.models.adversarial.spectral import SelfAttention, SpectralNorm, unit
from nanogen.models.adversarial.styles import adaptive_instance_norm, minibatch_std, r1_penalty
from nanogen.models.autoregressive.gated import GatedPixelCNN, gate
from nanogen.models.autoregressive.pixelcnn import PixelCNN
from nanogen.models.autoregressive.pixelrnn import PixelRNN, lstm
from nanogen.models.diffusion.guidance import guide
from nanogen.models.diffusion.prediction import PREDICTIONS
from nanogen.models.diffusion.times import ImportanceTimes, UniformTimes
from nanogen.models.diffusion.unet import sinusoidal_embedding
from nanogen.models.latent.hierarchical import HierarchicalVAE
from nanogen.models.latent.posteriors import NormalMixture, gumbel_softmax
from nanogen.models.latent.vae import VAE
from nanogen.models.latent.wae import WAE
from nanogen.training.loop import learning_rate

BETAS = np.linspace(0.02, 0.4, 12)
OURS = NoiseSchedule(BETAS)
TIMED = {"betas": BETAS, "time": "1…T"}
ARRAYS = {
    "betas": "betas",
    "alphas": "alphas",
    "alphas_cumprod": "alpha_bars",
    "posterior_variance": "posterior_variances",
    "sqrt_alphas_cumprod": "sqrt_alpha_bars",
    "sqrt_one_minus_alphas_cumprod": "sqrt_one_minus_alpha_bars",
}


def tables_of(made: NoiseSchedule) -> dict[str, Any]:
    return {name: getattr(made, ours)[1:] for name, ours in ARRAYS.items()}


def optimiser(make: Any, in_memory: Any = np.array, **settings: Any) -> Any:
    def run(parameters: Any, gradients: Any) -> Any:
        tensors = [T(in_memory(p), requires_grad=True) for p in parameters]
        made = make(tensors, **settings)
        for step in gradients:
            for p, g in zip(tensors, step):
                p.grad = None if g is None else ng.tensor(g)
            made.step()
        return [p.data for p in tensors]

    return run, settings


def average(parameters: Any, buffers: Any, warmup: bool) -> Any:
    tensors = [ng.tensor(parameters[0].copy()), ng.tensor(buffers[0].copy())]
    averages = optim.ExponentialMovingAverage(tensors, 0.9, warmup)
    for values in zip(parameters[1:], buffers[1:]):
        for tensor, value in zip(tensors, values):
            tensor.data[...] = value
        averages.update()
    return averages.averages


def neighbours(real: Any, fake: Any) -> dict[str, float]:
    d = metrics.distances
    return metrics.neighbour_metrics(d(real, real), d(fake, fake), d(real, fake), 3, 5)


OBJECTIVES = ("non-saturating", "wasserstein", "hinge", "least-squares")
LOSSES = {name: name.replace("least-", "least ") for name in OBJECTIVES}
T = ng.tensor
D = ng.distributions
IN = {"convert": T}
GENERATOR = ng.Generator(0)
LEVELS = {"pixels": (0, 255), **IN}
FULL = {"takes": "bias stride padding dilation groups", "pairs": True, **IN}
TRANSPOSED = {"takes": "bias stride padding output_padding groups dilation", "pairs": True, **IN}


def batch_norm(x: Any, mean: Any, var: Any, w: Any, b: Any, training: bool, eps: float = 1e-5) -> Any:
    layer = (ng.nn.BatchNorm2d if x.ndim == 4 else ng.nn.BatchNorm1d)(x.shape[1], eps=eps)
    layer.weight.data, layer.bias.data = w.data, b.data
    layer.running_mean.data, layer.running_var.data = mean.data.copy(), var.data.copy()
    layer.train(training)
    return layer(x), layer.running_mean, layer.running_var


def gradient(f: Any, *shapes: Any) -> Any:
    """A function under check_gradients, by our engine."""

    def by_engine(*arrays: Any) -> Any:
        xs = [T(x, requires_grad=True) for x in arrays[: len(shapes)]]
        found = ng.grad(f(*xs), xs, T(arrays[len(shapes)]), allow_unused=True)
        return tuple(np.zeros(x.shape) if g is None else g for x, g in zip(xs, found))

    return lambda *xs: f(*map(T, xs)), {"gradient": by_engine, "shapes": shapes}


def attention_gradient(q: Any, k: Any, v: Any, g: Any) -> Any:
    xs = [T(x, requires_grad=True) for x in (q, k, v)]
    return tuple(ng.grad(F.scaled_dot_product_attention(*xs), xs, T(g)))


def at_levels(of: Any) -> Any:
    """A discretised distribution of levels 0 … 255, from mean and log scale in their unit."""
    return lambda x, m, s: of(m * (2 / 255) - 1, s + math.log(2 / 255), 256).log_prob(x.data.round())


def ddpm(predict: Any = None, **settings: Any) -> Any:
    settings = {"channels": 4, "multipliers": (1,), "heads": 1, "schedule": OURS} | settings
    model = DDPM((1, 2, 2), 256, **settings).to(np.float64)
    model.predict = lambda x, t, **_: T(predict(x.data, t))  # type: ignore[method-assign]
    return model


def bound_term(x0: Any, x_t: Any, t: Any, output: Any, **settings: Any) -> Any:
    model = ddpm(lambda x, t: output, **{"variance": "posterior"} | settings)
    model.image_shape = x0.shape[1:]
    levels = np.round((x0 + 1) * 127.5).astype(np.uint8)
    return model.step_term(levels, T(x0), T(x_t), t, model.reverse(T(x_t), t))


def last(trajectory: Any) -> Any:
    *_, (_, x) = trajectory
    return x.data


def sampler(variance: str) -> Any:
    draw = lambda net, n: last(ddpm(lambda x, t: net(x, t[0]), variance=variance).ancestral(n, ng.Generator(0)))
    return draw, {"variance": variance, "clip": True, **TIMED}


def ddim(eta: float) -> Any:
    draw = lambda net, n, S: last(ddpm(lambda x, t: net(x, t[0])).ddim(n, ng.Generator(0), S, eta))
    return draw, {"method": "ddim", "eta": eta, "clip": True, **TIMED}


def weight(prediction: str) -> Any:
    table = PREDICTIONS[prediction].weights(OURS, OURS.betas)
    return lambda t: table[t], {"kind": "kl, beta", "prediction": prediction, **TIMED}


def importance() -> Any:
    times = ImportanceTimes(10)
    times.squares.data[...] = np.arange(1, 11)[:, None] ** 2.0
    times.seen.data[...] = 99

    def draw(n: int) -> Any:
        t, weights = times.draw(n, ng.Generator(0))
        return t, np.ones(n) if weights is None else weights

    return draw, {"time": "1…T", "weighted": True}


def free_bits(kl: Any, least: float) -> Any:
    model = HierarchicalVAE(
        (1, 2, 2), 2, levels_of_latents=kl.shape[1], latent=1, hidden=2, channels=2, stages=1, free_bits=least
    )
    model.terms = lambda *_: (T(np.zeros(len(kl))), T(kl))  # type: ignore[method-assign]
    return model.loss(np.zeros((len(kl), 1, 2, 2), np.uint8), ng.Generator(0)).data * model.dimensions


def gumbel(hard: bool) -> Any:
    uniform = lambda u: SimpleNamespace(uniform=lambda shape, dtype: u.data)
    return lambda x, u, tau: gumbel_softmax(x, tau, uniform(u), hard), {"hard": hard, **IN}  # type: ignore[arg-type]


def causal(model: Any, sees: str = "something") -> Any:
    return model.eval(), {"shape": model.image_shape, "layout": "NHWCK", "sees": sees, "dtype": "float32", **IN}


def wide_conv2d(x: Any, w: Any, b: Any, *how: Any) -> Any:
    """With channels of zeros, for the kernels that many channels have."""
    outputs, inputs = 32 - w.shape[0], 32 - w.shape[1]
    x, w = F.pad(x, (0, 0, 0, 0, 0, inputs)), F.pad(w, (0, 0, 0, 0, 0, inputs, 0, outputs))
    return F.conv2d(x, w, F.pad(b, (0, outputs)), *how)[:, : len(b)]


def spectral(w: Any, u: Any = None, kind: Any = ng.nn.Conv2d) -> Any:
    turned = (lambda w: w.transpose(0, 1)) if kind is ng.nn.ConvTranspose2d else (lambda w: w)
    norm = SpectralNorm(kind(1, 1, 1), GENERATOR)
    norm.layer.weight.data = turned(w).data
    norm.u.data = unit(np.arange(1.0, 1.0 + len(w))) if u is None else u.data.copy()
    for _ in range(60 if u is None else 0):
        norm.spectral_norm()
    return turned(norm.layer.weight / norm.spectral_norm())


def seen_by_pixels(q: Any, k: Any, v: Any) -> Any:
    """The SAGAN's attention, whose convolutions give q, k and v, and whose scores are not divided by √d."""
    flat = lambda x: x.reshape(-1, *x.shape[-2:]).transpose(1, 2).unsqueeze(3)
    layer = SelfAttention(1, lambda conv: conv, GENERATOR)
    for name, found in (("f", k), ("g", q / math.sqrt(q.shape[-1])), ("h", v)):
        object.__setattr__(layer, name, lambda x, found=found: flat(found))
    object.__setattr__(layer, "v", lambda x: x)
    layer.gamma.data = np.ones(1)
    n, like = len(flat(q)), np.ones((1, v.shape[-1], q.shape[-2], 1))
    out = layer(T(np.repeat(like, n, 0).astype(q.dtype))) - 1.0
    return out.squeeze(3).transpose(1, 2).reshape(*q.shape[:-1], v.shape[-1])


def group_norm_by_styles(x: Any, groups: int, w: Any, b: Any) -> Any:
    """By AdaIN of groups as channels, with scale 1 and shift 0; its own are used where each channel is a group."""
    n, c = x.shape[:2]
    own = groups == c
    rows = lambda v, other: T(np.tile(v.data if own else np.full(groups, other, x.dtype), (n, 1)))
    y = adaptive_instance_norm(x.reshape(n, groups, -1, 1), rows(w, 1.0), rows(b, 0.0)).reshape(*x.shape)
    return y if own else y * w.reshape(c, 1, 1) + b.reshape(c, 1, 1)


def losses_of(real: Any, fake: Any, back: float = 0.0) -> Any:
    """In place of a model with discriminators: images of the target domain are 3 more than their outputs, those of the
    sources are the outputs, which are 1 for real ones and `back` for generated ones."""
    same, at_once = lambda x: x, lambda x, *_: x
    return SimpleNamespace(
        condition=lambda *_: {}, check_images=same, pixels=same, source_of=same, keep=same, dtype=np.float64,
        weight=0.0, identity=0.0,
        domains=lambda _: (T(np.ones(2)), T(real + 3.0)), pair=lambda _: (None, T(real + 3.0)),
        forth=lambda _: T(fake + 3.0), translation=lambda *_: T(fake + 3.0), back=lambda _: T(np.full(2, back)),
        of_images=lambda y: y - 3.0, of_sources=same, logits=lambda x, y: y - 3.0, discriminator=same,
        past_images=at_once, past_sources=at_once, code=lambda *_: T(fake), draw_prior=lambda *_: T(real),
    )  # fmt: skip


def small(kind: Any, shape: tuple[int, int, int], **settings: Any) -> Any:
    model = kind(shape, 2, channels=2, stages=1, **settings)
    model.check_images = lambda images: images  # real numbers for levels
    return model


def latent_model(model: Any, x: Any, encode: Any, decode: Any) -> Any:
    """A model of real numbers x (N, D), with these for its networks; and x as its images."""
    n, d = x.shape
    model.encoded = lambda images, labels=None: F.cat(encode(images.reshape(n, d)), 1)
    model.decode = lambda z, labels=None: D.Normal(decode(z).reshape(n, 1, 1, d), 0.7)
    return model, x.data.reshape(n, 1, 1, d)


def vae_elbo(x: Any, encode: Any, decode: Any) -> Any:
    model = small(VAE, (1, 1, x.shape[1]), latent=encode(x)[0].shape[1])
    model, images = latent_model(model, x, encode, decode)
    return model.elbo(images, GENERATOR)


def mixture_elbo(x: Any, encode: Any, decode: Any) -> Any:
    """Of two components the second has the weight e⁻⁴⁰."""

    def mixture(x: Any) -> Any:
        (mean, spread), column = encode(x), np.zeros((len(x), 1), x.dtype)
        return T(column), T(column - 40), mean, spread, mean + 3.0, spread

    model = small(VAE, (1, 1, x.shape[1]), latent=encode(x)[0].shape[1], posterior="mixture", components=2)
    model, images = latent_model(model, x, mixture, decode)
    return model.elbo(images, GENERATOR)


def chain_elbo(x: Any, encode: Any, decode: Any, form: str = "elbo") -> Any:
    """A chain z_1, z_2, z_3 that is as likely upwards as downwards has the bound of z_1 alone."""
    model = small(HierarchicalVAE, (1, 1, x.shape[1]), latent=encode(x)[0].shape[1], hidden=1)
    model, images = latent_model(model, x, encode, decode)
    model.posterior = model.prior = lambda t, z: D.Normal(0.8 * z, 0.6)
    return getattr(model, form)(images, GENERATOR)


def joint_and_entropy(x: Any, encode: Any, decode: Any) -> Any:
    """E_q[log p(x|z) + log p(z)] + H(q)."""
    mean, log_variance = encode(x)
    q = D.Normal(mean, log_std=0.5 * log_variance)
    z = q.rsample(GENERATOR)
    return (D.Normal(decode(z), 0.7).log_prob(x)).sum(1) + (D.Normal(0.0 * z, 1.0).log_prob(z) + q.entropy()).sum(1)


def mixture(n: int) -> NormalMixture:
    """Of n draws of one number, whose weights are 0.2 and 0.8."""
    rows = lambda *numbers: np.tile(np.array(numbers), (n, 1))
    means, stds = rows(-1.0, 1.0)[:, :, None], rows(0.5, 0.8)[:, :, None]
    return NormalMixture(T(np.log(rows(0.2, 0.8))), D.Normal(T(means), T(stds)))


def vae_loss(recon: Any, x: Any, mean: Any, log_variance: Any) -> Any:
    n, d = x.shape
    model = small(VAE, (1, 1, d), latent=mean.shape[1], beta=2.0)
    model.encoded = lambda images, labels=None: F.cat([mean, log_variance], 1)
    model.decode = lambda z, labels=None: D.Bernoulli(recon.reshape(n, 1, 1, d))
    return model.loss(x.data.reshape(n, 1, 1, d), GENERATOR) * d


def importance_bound(kind: Any) -> Any:
    def bound(log_joint: Any, log_q: Any) -> Any:
        (samples, n), at = log_q.shape, iter(range(len(log_q)))
        model, density = small(kind, (1, 1, 1), latent=1), lambda of: lambda i: of[i].reshape(n, 1)
        q = SimpleNamespace(log_prob=density(log_q), rsample=lambda rng: next(at))
        p = SimpleNamespace(log_prob=density(log_joint))
        model.encode, model.prior = lambda *_: q, lambda *_: p
        model.chain, model.priors = lambda *_: ([next(at)], [q]), lambda _: [p]
        model.log_likelihood = lambda *_: 0.0 * log_q[0]
        return model.importance_weighted_bound(np.zeros((n, 1, 1, 1)), GENERATOR, samples)

    return bound


def terms_by_time(x0: Any, x_t: Any, t: Any, output: Any) -> Any:
    """The terms of the bound that is reported, each at one time."""
    found = []
    for x, noisy, one, out in zip(x0, x_t, t, output):
        model = ddpm(lambda x, t, out=out: out[None], variance="beta")
        model.image_shape, model.schedule = x.shape, copy.copy(OURS)
        model.schedule.q_sample = lambda *_, noisy=noisy: T(noisy[None])
        levels = np.round((x[None] + 1) * 127.5).astype(np.uint8)
        found.append(model.bound_term(levels, int(one) - 1, GENERATOR).data)
    return np.concatenate(found)


def learned_variance(x0: Any, x_t: Any, t: Any, output: Any) -> Any:
    """With v = −1, for which it is β̃."""
    return bound_term(x0, x_t, t, np.concatenate([output, -np.ones_like(output)], 1), variance="learned")


def guided(c: Any, u: Any, w: float) -> Any:
    model = DDPM((c.shape[1], 1, 1), 2, T=2, channels=4, multipliers=(1,), heads=1, classes=2)
    model.network, as_image = "told", lambda x: T(x[:, :, None, None])
    model.told = lambda x, t, labels, rng: as_image(u if (labels == 2).all() else c)  # type: ignore[attr-defined]
    x = as_image(c)
    return model.predict(x, np.ones(len(c), int), labels=np.arange(len(c)) % 2, guidance=w).data[:, :, 0, 0]


RIGHT = {
    "normal_kl": (lambda m, s, n, t: D.kl_divergence(D.Normal(m, s), D.Normal(n, t)), IN),
    "standard_normal_kl": (lambda m, v: D.kl_divergence(D.Normal(m, log_std=0.5 * v), D.Normal(0.0 * m, 1.0)), IN),
    "categorical_kl": (lambda q, p: D.kl_divergence(D.Categorical(q), D.Categorical(p)), IN),
    "discretized_logistic": (at_levels(D.DiscretizedLogistic), LEVELS),
    "discretized_normal": (at_levels(D.DiscretizedNormal), LEVELS),
    "reparameterization": (
        lambda m, s, e: D.Normal(m, s).rsample(SimpleNamespace(normal=lambda shape, dtype: e.data)),  # type: ignore[arg-type]
        {"scale": "std", **IN}),
    "normal_sampler": lambda m, s: D.Normal(m, s).sample(ng.Generator(0)).data,
    "sampler: categorical": (
        lambda n: D.Categorical(np.log([0.5, 0.2, 0.3])).sample(ng.Generator(0), (n,)),
        {"probabilities": [0.5, 0.2, 0.3]}),
    "sampler: bernoulli": (
        lambda n: D.Bernoulli(np.log([0.3 / 0.7])).sample(ng.Generator(0), (n,)), {"probabilities": [0.7, 0.3]}),
    "sampler: discretized logistic": (
        lambda n: D.DiscretizedLogistic(np.array([0.1]), np.array([-1.0]), 8).sample(ng.Generator(0), (n,)),
        {"probabilities": np.exp(D.DiscretizedLogistic(0.1, -1.0, 8).log_prob(np.arange(8)).data)}),
    "sampler: truncated normal": (
        lambda n: truncated_normal(ng.Generator(0), (n,), np.float64, 1.0),
        {"density": lambda x: np.exp(-0.5 * x**2), "support": (-1, 1)}),
    "sampler: mixture": (
        lambda n: mixture(n).rsample(ng.Generator(0)).data[:, 0],
        {"log_density": lambda x: mixture(x.size).log_prob(T(x.reshape(-1, 1))).data.reshape(x.shape)}),
    "elbo": (vae_elbo, IN),
    "elbo: mixture": (mixture_elbo, IN),
    "elbo: chain": (chain_elbo, IN),
    "elbo: chain, by weights": (lambda x, e, d: chain_elbo(x, e, d, "log_weight"), IN),
    "elbo: by the entropy": (joint_and_entropy, IN),
    "vae_loss": (vae_loss, {"likelihood": "bernoulli logits", "reduction": "batchmean", "beta": 2.0, **IN}),
    "importance_bound": (importance_bound(VAE), IN),
    "importance_bound: chain": (importance_bound(HierarchicalVAE), IN),
    "spectral_norm": (spectral, IN),
    "spectral_norm: one step": (spectral, {"iterations": 1, **IN}),
    "spectral_norm: transposed": (
        lambda w, u: spectral(w, u, ng.nn.ConvTranspose2d), {"iterations": 1, **IN}),
    "bits_per_dim": lambda nats, shape: metrics.bits_per_dim(nats, math.prod(shape)),
    "free_bits": free_bits,
    "gumbel_softmax": gumbel(False),
    "gumbel_softmax: hard": gumbel(True),
    "learning_rate": (
        lambda t: learning_rate(t, SimpleNamespace(lr=0.1, warmup=10, steps=50)),  # type: ignore[arg-type]
        {"over": "all", "first": 1}),
    "conv2d": (F.conv2d, FULL),
    "conv2d: many channels": (
        lambda x, w, b, padding: wide_conv2d(x, w, b, 1, padding), {"takes": "bias padding", "pairs": True, **IN}),
    "conv_transpose2d": (F.conv_transpose2d, TRANSPOSED),
    "max_pool2d": (F.max_pool2d, {"pairs": True, **IN}),
    "avg_pool2d": (F.avg_pool2d, {"pairs": True, **IN}),
    "linear": (F.linear, IN),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w.shape, w, b), IN),
    "group_norm": (F.group_norm, IN),
    "group_norm: by styles": (group_norm_by_styles, {"eps": 1e-8, **IN}),
    "batch_norm": (batch_norm, IN),
    "batch_norm: eps": (lambda *x: batch_norm(*x, eps=1e-3), {"eps": 1e-3, **IN}),
    "softmax": (lambda x: F.softmax(x, dim=-1), IN),
    "softmax: large": (lambda x: F.softmax(x, dim=-1), {"large": True, **IN}),
    "softmax: log": (lambda x: F.log_softmax(x, dim=1), {"log": True, "axis": 1, **IN}),
    "logsumexp": (lambda x: F.logsumexp(x, -1), IN),
    "logsumexp: large": (lambda x: F.logsumexp(x, -1), {"large": True, **IN}),
    "cross_entropy": (F.cross_entropy, IN),
    "cross_entropy: ignore": (lambda x, y: F.cross_entropy(x, y, ignore_index=-100), {"ignore": -100, **IN}),
    "cross_entropy: large": (F.cross_entropy, {"large": True, **IN}),
    "binary_cross_entropy": (F.binary_cross_entropy_with_logits, IN),
    "binary_cross_entropy: bernoulli": (lambda x, y: -D.Bernoulli(x).log_prob(y).mean(), {"large": True, **IN}),
    "binary_cross_entropy: large": (F.binary_cross_entropy_with_logits, {"large": True, **IN}),
    "binary_cross_entropy: probabilities": (F.binary_cross_entropy, {"given": "probabilities", **IN}),
    "attention": (F.scaled_dot_product_attention, IN),
    "attention: causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), {"mask": "causal", **IN}),
    "attention: keep": (F.scaled_dot_product_attention, {"mask": "keep", **IN}),
    "gradients: conv2d": gradient(
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(1, 0)), (2, "c", 4, 3), (2, "c", 2, 3)),
    "gradients: conv2d, with bias": gradient(
        lambda x, w, b: F.conv2d(x, w, b, padding=1), (2, "c", 3, 2), (2, "c", 3, 3), (2,)),
    "gradients: conv2d, many channels": gradient(
        lambda x, w, b: wide_conv2d(x, w, b, 1, (1, 0)), (2, 1, 3, 3), (1, 1, 3, 3), (1,)),
    "gradients: conv2d, blocks": gradient(
        lambda x, w, b: wide_conv2d(x, w, b, 2, 1), (1, 1, 4, 6), (1, 1, 4, 4), (1,)),
    "gradients: conv_transpose2d": gradient(
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), (2, "c", 3, 2), ("c", 2, 3, 3)),
    "gradients: conv_transpose2d, dilation": gradient(
        lambda x, w: F.conv_transpose2d(x, w, dilation=2, output_padding=1), (2, "c", 3, 2), ("c", 2, 2, 3)),
    "gradients: rsample": gradient(
        lambda m, s: D.Normal(m, log_std=s).rsample(SimpleNamespace(normal=lambda shape, dtype: np.ones(shape))),
        ("n", 3), ("n", 3)),
    "gradients: minibatch_std": gradient(minibatch_std, ("n", 2, 2, 2)),
    "gradients: softmax": gradient(lambda x: F.softmax(x, dim=-1), ("n", 3)),
    "gradients: log_softmax": gradient(lambda x: F.log_softmax(x, dim=-1), ("n", 3)),
    "gradients: attention": gradient(
        F.scaled_dot_product_attention, (1, "l", "d"), (1, "s", "d"), (1, "s", "e")),
    "attention: of pixels": (seen_by_pixels, IN),
    "attention_gradient": attention_gradient,
    "gradients: division": gradient(lambda x, y: x / (1.5 + y * y), ("n", 3), ("n", 3)),
    "gradients: silu": gradient(F.silu, ("n", 3)),
    "gradients: gelu": gradient(lambda x: F.gelu(x, "tanh"), ("n", 3)),
    "gradients: gate": gradient(gate, (2, 4, 2)),
    "gradients: lstm": gradient(lstm, (1, 8, 2), (1, 4, 2)),
    "gradients: group_norm_silu": gradient(
        lambda x, w, b: F.group_norm_silu(x, 2, w, b), (2, 4, 2, 1), (2, 4), (2, 4)),
    "gradients: layer_norm": gradient(lambda x, w, b: F.layer_norm(x, (3,), w, b), ("n", 3), (3,), (3,)),
    "gradients: tanh": gradient(F.tanh, ("n", 3)),
    "gradients: sigmoid": gradient(F.sigmoid, ("n", 3)),
    "gradients: permute": gradient(lambda x: x.permute(2, 0, 1), (2, 3, 4)),
    "gradients: group_norm": gradient(lambda x: F.group_norm(x, 2), (2, 4, 3)),
    "gradients: indexing": gradient(lambda x: x[np.array([0, 1, 1])], (2, 3)),
    "gradients: slices": gradient(lambda x: x[:, :2] + x[:, 1:], (2, 3)),
    "gradients: broadcasting": gradient(lambda x, y: x * y, (3, 2), (2,)),
    "gradients: pad": gradient(lambda x: F.pad(x, (-1, 1)), (2, 3)),
    "causal": causal(PixelCNN((1, 5, 6), 4, channels=6, blocks=1, kernel_size=3)),
    "causal: colours": causal(PixelCNN((3, 3, 4), 4, channels=24, blocks=1, kernel_size=9), "all"),
    "causal: gated": causal(GatedPixelCNN((3, 3, 4), 4, channels=24, blocks=3, kernel_size=3), "all"),
    "causal: gated, grey": causal(GatedPixelCNN((1, 3, 4), 4, channels=12, blocks=3, kernel_size=3), "all"),
    "causal: rows": causal(PixelRNN((3, 3, 4), 4, hidden=6, blocks=2)),
    "causal: diagonals": causal(PixelRNN((3, 3, 3), 4, "diagonal", hidden=12, blocks=2, kernel_size=3), "all"),
    "timestep_embedding": (
        lambda t: sinusoidal_embedding(t, 10, T(np.zeros((len(t), 1)))).data, {"last": "above"}),
    "time_draw": (lambda n: UniformTimes(10).draw(n, ng.Generator(0))[0], {"time": "1…T"}),
    "time_draw: importance": importance(),
    "guidance": (lambda c, u, w: guide(c, u, w), {"scale": "w"}),
    "guidance: of a model": (guided, {"scale": "w"}),
    "prior_term": (lambda x: ddpm().prior_term(T(x)).data, {"betas": BETAS}),
    "bound_term": (bound_term, {"clip": True, **TIMED}),
    "bound_term: beta": (
        lambda *x: bound_term(*x, variance="beta"), {"variance": "beta, also at t = 1", "clip": True, **TIMED}),
    "bound_term: by time": (terms_by_time, {"variance": "beta, also at t = 1", "clip": True, **TIMED}),
    "bound_term: learned variance": (learned_variance, {"clip": True, **TIMED}),
    "bound_term: v": (lambda *x: bound_term(*x, prediction="v"), {"prediction": "v", "clip": True, **TIMED}),
    "diffusion_sampler": sampler("beta"),
    "diffusion_sampler: posterior": sampler("posterior"),
    "diffusion_sampler: ddim": ddim(0.0),
    "diffusion_sampler: ddim with noise": ddim(0.7),
    **{f"loss_weight: {name}": weight(name) for name in ("noise", "x0", "v")},
    "conversion: v": (
        lambda x0, t, e: PREDICTIONS["v"].target(OURS, x0, e, OURS.q_sample(x0, t, e), t),
        {"have": "x0 and noise", "want": "v", **TIMED}),
    "conversion: x0 from v": (lambda x, t, v: PREDICTIONS["v"].x0(OURS, x, t, v), {"have": "v", "want": "x0", **TIMED}),
    "conversion: noise from v": (
        lambda x, t, v: PREDICTIONS["v"].noise(OURS, x, t, v), {"have": "v", "want": "noise", **TIMED}),
    **{f"schedule: {kind}": (lambda n, k=kind: tables_of(getattr(NoiseSchedule, k)(n, 1e-4, 0.02)), {"kind": kind})
       for kind in ("linear", "quadratic", "sigmoid")},
    "schedule: linear, 50 steps": (
        lambda T: tables_of(NoiseSchedule.linear(50)), {"kind": "linear", "T": 50, "first": 0.002, "last": 0.4}),
    "schedule: cosine": (lambda T: tables_of(NoiseSchedule.cosine(T)), {"kind": "cosine"}),
    "time_grid": (
        lambda T, S: ddpm(schedule="linear", T=T).respaced(S).schedule.times[1:],
        {"spacing": "linspace", "time": "1…T"}),
    "respacing": (lambda betas, times: NoiseSchedule(betas).respaced(times).betas[1:], {"time": "1…T"}),
    "q_sample": (OURS.q_sample, TIMED),
    "q_posterior": (lambda x0, x, t: OURS.q_posterior(x0, x, t), TIMED),
    "conversion: x0 from noise": (OURS.x0_from_noise, {"have": "noise", "want": "x0", **TIMED}),
    "conversion: noise from x0": (OURS.noise_from_x0, {"have": "x0", "want": "noise", **TIMED}),
    "conversion: mean from noise": (OURS.mean_from_noise, {"have": "noise", "want": "mean", **TIMED}),
    "conversion: x0 from mean": (OURS.x0_from_mean, {"have": "mean", "want": "x0", **TIMED}),
    **{f"discriminator_loss: {ours}": (
        lambda r, f, ours=ours: discriminator_loss(T(r), T(f), ours).data,
        {"kind": kind, "halves": "mean" if ours == "least-squares" else "sum"}) for ours, kind in LOSSES.items()},
    "discriminator_loss: of a cycle": (
        lambda r, f: CycleGAN.discriminator_loss(losses_of(r, f), np.zeros(2), GENERATOR).data,
        {"kind": "least squares", "halves": "mean"}),
    "generator_loss: of a cycle": (
        lambda f: CycleGAN.generator_loss(losses_of(f, f, 1.0), np.zeros(2), GENERATOR).data,
        {"kind": "least squares"}),
    "discriminator_loss: of pairs": (
        lambda r, f: Pix2Pix.discriminator_loss(losses_of(r, f), np.zeros(2), GENERATOR).data, {"halves": "mean"}),
    "discriminator_loss: of codes": (
        lambda r, f: WAE.discriminator_loss(losses_of(r, f), np.zeros(2), GENERATOR).data),
    "generator_loss": lambda f: generator_loss(T(f)).data,
    "generator_loss: minimax": (lambda f: generator_loss(T(f), "minimax").data, {"kind": "minimax"}),
    "generator_loss: least squares": (
        lambda f: generator_loss(T(f), "least-squares").data, {"kind": "least squares", "half": True}),
    **{f"generator_loss: {kind}": (lambda f, k=kind: generator_loss(T(f), k).data, {"kind": "wasserstein"})
       for kind in ("wasserstein", "hinge")},
    "gradient_penalty": lambda d, real, fake: gradient_penalty(d, T(real), T(fake), GENERATOR),
    "gradient_penalty: of slopes at images": (
        lambda d, real, fake: r1_penalty(d(x := T(real, requires_grad=True)), x).data,
        {"at": "real", "target": 0, "weight": 0.5}),
    "sgd": optimiser(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd: dampening": optimiser(optim.SGD, lr=0.1, momentum=0.9, dampening=0.3),
    "adam": optimiser(optim.Adam, lr=0.1, weight_decay=0.1),
    "adam: columns first": optimiser(optim.Adam, lambda p: np.array(p, order="F"), lr=0.1),
    "adamw": optimiser(optim.AdamW, lr=0.1, weight_decay=0.1),
    "moving_average": lambda p, b: average(p, b, False),
    "moving_average: warm-up": (lambda p, b: average(p, b, True), {"warmup": "unbiased"}),
    "frechet_distance": metrics.frechet_distance,
    "frechet_distance: moments": (metrics.gaussian_frechet_distance, {"given": "moments"}),
    "precision_recall": neighbours,
    "density_coverage": neighbours,
    # harmless rewrites
    "guidance: rewritten": (lambda c, u, s: c * s - u * (s - 1), {"scale": "s"}),
    "loss_weight: rewritten": (
        lambda t: 1 / np.maximum(1, (BAR / (1 - BAR))[t] / 5), {"betas": BETAS}),
    "q_sample: float32": (
        lambda x, t, e: (np.float32(BAR[t] ** 0.5)[:, None, None, None] * x
                         + np.float32((1 - BAR[t]) ** 0.5)[:, None, None, None] * e), {"betas": BETAS}),
}  # fmt: skip
BAR = np.cumprod(1 - BETAS)


@pytest.mark.parametrize("name", RIGHT)
def test_ours_pass(name: str) -> None:
    """Functions of tensors in single precision, too."""
    given: Any = RIGHT[name]
    function, conventions = given if isinstance(given, tuple) else (given, {})
    check = getattr(testing, f"check_{name.partition(':')[0]}")
    check(function, **conventions)
    if conventions.get("convert") and not conventions.get("large"):
        single = {"dtype": "float32", "examples": 15, **({"atol": 1e-2} if "discretized" in name else {})}
        check(function, **conventions | single)


def test_bad_use_is_told_apart() -> None:
    """In one line, whose text says what to do."""
    for check, function, text in (
        (testing.check_q_sample, lambda x, t, e: None, "returned None"),
        (testing.check_sgd, lambda p, g: p[0], "must return the list"),
        (testing.check_diffusion_sampler, lambda network, n: np.zeros((n, 2)), "did not call the network"),
        (testing.check_guidance, lambda c, u, s: c + np.random.standard_normal(c.shape), "draws its own numbers"),
    ):
        with pytest.raises(testing.UsageError, match=text) as caught:
            check(function)
        assert "\n" not in str(caught.value)
