"""This library's own functions under the checkers; harmless rewrites pass.

A mutation of the museum names the row of `RIGHT` that refuses it as its `checker`."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nanogen as ng
from nanogen import functional as F
from nanogen import metrics, optim, testing
from nanogen.models import DDPM, NoiseSchedule
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss, gradient_penalty
from nanogen.models.autoregressive.pixelcnn import PixelCNN
from nanogen.models.diffusion.guidance import guide
from nanogen.models.diffusion.prediction import PREDICTIONS
from nanogen.models.diffusion.times import ImportanceTimes, UniformTimes
from nanogen.models.diffusion.unet import sinusoidal_embedding
from nanogen.models.latent.hierarchical import HierarchicalVAE
from nanogen.models.latent.posteriors import gumbel_softmax
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


def optimiser(make: Any, **settings: Any) -> Any:
    def run(parameters: Any, gradients: Any) -> Any:
        tensors = [ng.tensor(p, requires_grad=True) for p in parameters]
        made = make(tensors, **settings)
        for step in gradients:
            for p, g in zip(tensors, step):
                p.grad = None if g is None else ng.tensor(g)
            made.step()
        return [p.data for p in tensors]

    return run, settings


def average(parameters: Any, buffers: Any, warmup: bool) -> Any:
    tensors = [ng.tensor(parameters[0]), ng.tensor(buffers[0])]
    averages = optim.ExponentialMovingAverage(tensors, 0.9, warmup)
    for values in zip(parameters[1:], buffers[1:]):
        for tensor, value in zip(tensors, values):
            tensor.data = value
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
        return tuple(ng.grad(f(*xs), xs, T(arrays[len(shapes)])))

    return lambda *xs: f(*map(T, xs)), {"gradient": by_engine, "shapes": shapes}


def attention_gradient(q: Any, k: Any, v: Any, g: Any) -> Any:
    xs = [T(x, requires_grad=True) for x in (q, k, v)]
    return tuple(ng.grad(F.scaled_dot_product_attention(*xs), xs, T(g)))


def at_levels(of: Any) -> Any:
    """A discretised distribution of levels 0 … 255, from mean and log scale in their unit."""
    return lambda x, m, s: of(m * (2 / 255) - 1, s + math.log(2 / 255), 256).log_prob(x.data.round())


def ddpm(predict: Any = None, **settings: Any) -> Any:
    small = {"channels": 4, "multipliers": (1,), "heads": 1}
    model = DDPM((1, 2, 2), 256, schedule=OURS, **small, **settings).to(np.float64)
    model.predict = lambda x, t, **_: T(predict(x.data, t))  # type: ignore[method-assign]
    return model


def bound_term(x0: Any, x_t: Any, t: Any, output: Any, **settings: Any) -> Any:
    model = ddpm(lambda x, t: output, **{"variance": "posterior"} | settings)
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
    return lambda n: times.draw(n, ng.Generator(0)), {"time": "1…T", "weighted": True}


def free_bits(kl: Any, least: float) -> Any:
    model = HierarchicalVAE(
        (1, 2, 2), 2, levels_of_latents=kl.shape[1], latent=1, hidden=2, channels=2, stages=1, free_bits=least
    )
    model.terms = lambda *_: (T(np.zeros(len(kl))), T(kl))  # type: ignore[method-assign]
    return model.loss(np.zeros((len(kl), 1, 2, 2), np.uint8), ng.Generator(0)).data * model.dimensions


def gumbel(hard: bool) -> Any:
    uniform = lambda u: SimpleNamespace(uniform=lambda shape, dtype: u.data)
    return lambda x, u, tau: gumbel_softmax(x, tau, uniform(u), hard), {"hard": hard, **IN}  # type: ignore[arg-type]


def causal(shape: tuple[int, int, int]) -> Any:
    model = PixelCNN(shape, 4, channels=6, blocks=1, kernel_size=3).eval()
    return model, {"shape": shape, "layout": "NHWCK", "dtype": "float32", **IN}


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
    "bits_per_dim": lambda nats, shape: metrics.bits_per_dim(nats, math.prod(shape)),
    "free_bits": free_bits,
    "gumbel_softmax": gumbel(False),
    "gumbel_softmax: hard": gumbel(True),
    "learning_rate": (
        lambda t: learning_rate(t, SimpleNamespace(lr=0.1, warmup=10, steps=50)),  # type: ignore[arg-type]
        {"over": "all", "first": 1}),
    "conv2d": (F.conv2d, FULL),
    "conv_transpose2d": (F.conv_transpose2d, TRANSPOSED),
    "max_pool2d": (F.max_pool2d, {"pairs": True, **IN}),
    "avg_pool2d": (F.avg_pool2d, {"pairs": True, **IN}),
    "linear": (F.linear, IN),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w.shape, w, b), IN),
    "group_norm": (F.group_norm, IN),
    "batch_norm": (batch_norm, IN),
    "batch_norm: eps": (lambda *x: batch_norm(*x, eps=1e-3), {"eps": 1e-3, **IN}),
    "softmax": (lambda x: F.softmax(x, dim=-1), IN),
    "softmax: large": (lambda x: F.softmax(x, dim=-1), {"large": True, **IN}),
    "softmax: log": (lambda x: F.log_softmax(x, dim=1), {"log": True, "axis": 1, **IN}),
    "logsumexp": (lambda x: F.logsumexp(x, -1), IN),
    "logsumexp: large": (lambda x: F.logsumexp(x, -1), {"large": True, **IN}),
    "cross_entropy": (F.cross_entropy, IN),
    "cross_entropy: ignore": (lambda x, y: F.cross_entropy(x, y, ignore_index=-100), {"ignore": -100, **IN}),
    "binary_cross_entropy": (F.binary_cross_entropy_with_logits, IN),
    "binary_cross_entropy: large": (F.binary_cross_entropy_with_logits, {"large": True, **IN}),
    "binary_cross_entropy: probabilities": (F.binary_cross_entropy, {"given": "probabilities", **IN}),
    "attention": (F.scaled_dot_product_attention, IN),
    "attention: causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), {"mask": "causal", **IN}),
    "attention: keep": (F.scaled_dot_product_attention, {"mask": "keep", **IN}),
    "gradients: conv2d": gradient(
        lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(1, 0)), (2, "c", 4, 3), (2, "c", 2, 3)),
    "gradients: conv_transpose2d": gradient(
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), (2, "c", 3, 2), ("c", 2, 3, 3)),
    "gradients: softmax": gradient(lambda x: F.softmax(x, dim=-1), ("n", 3)),
    "gradients: log_softmax": gradient(lambda x: F.log_softmax(x, dim=-1), ("n", 3)),
    "gradients: attention": gradient(
        F.scaled_dot_product_attention, (1, "l", "d"), (1, "s", "d"), (1, "s", "e")),
    "attention_gradient": attention_gradient,
    "gradients: division": gradient(lambda x, y: x / (1.5 + y * y), ("n", 3), ("n", 3)),
    "gradients: tanh": gradient(F.tanh, ("n", 3)),
    "gradients: sigmoid": gradient(F.sigmoid, ("n", 3)),
    "gradients: permute": gradient(lambda x: x.permute(2, 0, 1), (2, 3, 4)),
    "gradients: group_norm": gradient(lambda x: F.group_norm(x, 2), (2, 4, 3)),
    "gradients: indexing": gradient(lambda x: x[np.array([0, 1, 1])], (2, 3)),
    "gradients: slices": gradient(lambda x: x[:, :2] + x[:, 1:], (2, 3)),
    "gradients: broadcasting": gradient(lambda x, y: x * y, (3, 2), (2,)),
    "gradients: pad": gradient(lambda x: F.pad(x, (-1, 1)), (2, 3)),
    "causal": causal((1, 5, 6)),
    "causal: colours": causal((3, 3, 4)),
    "timestep_embedding": (
        lambda t: sinusoidal_embedding(t, 10, T(np.zeros((len(t), 1)))).data, {"last": "above"}),
    "time_draw": (lambda n: UniformTimes(10).draw(n, ng.Generator(0))[0], {"time": "1…T"}),
    "time_draw: importance": importance(),
    "guidance": (lambda c, u, w: guide(c, u, w), {"scale": "w"}),
    "prior_term": (lambda x: ddpm().prior_term(T(x)).data, {"betas": BETAS}),
    "bound_term": (bound_term, {"clip": True, **TIMED}),
    "bound_term: beta": (
        lambda *x: bound_term(*x, variance="beta"), {"variance": "beta, also at t = 1", "clip": True, **TIMED}),
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
    "generator_loss": lambda f: generator_loss(T(f)).data,
    "generator_loss: minimax": (lambda f: generator_loss(T(f), "minimax").data, {"kind": "minimax"}),
    "generator_loss: least squares": (
        lambda f: generator_loss(T(f), "least-squares").data, {"kind": "least squares", "half": True}),
    **{f"generator_loss: {kind}": (lambda f, k=kind: generator_loss(T(f), k).data, {"kind": "wasserstein"})
       for kind in ("wasserstein", "hinge")},
    "gradient_penalty": lambda d, real, fake: gradient_penalty(d, T(real), T(fake), GENERATOR),
    "sgd": optimiser(optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd: dampening": optimiser(optim.SGD, lr=0.1, momentum=0.9, dampening=0.3),
    "adam": optimiser(optim.Adam, lr=0.1, weight_decay=0.1),
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
