"""torch.nn.functional and torch.distributions under the checkers: `python docs/examples/torch_functions.py`.

Each row hands a function of torch over in one line.  The 22 of the first table are right.  The four of the second are
not what was asked for, and the table says what they are instead:

- `F.kl_div(reduction="mean")` divides by the number of classes, too; "batchmean" does not.
- `F.binary_cross_entropy` averages over pixels and images by default; beside a KL that is summed it weighs next to
  nothing.
- `F.avg_pool2d(count_include_pad=False)` leaves the padding out of the mean: another convention.
- `F.batch_norm(training=False)` in training normalises by the running moments, which then never move.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import distributions as D

from nanogen.testing import check_all


def logistic(mean: torch.Tensor, scale: torch.Tensor) -> D.Distribution:
    """The logistic distribution, as torch's documentation builds it."""
    uniform = D.Uniform(torch.zeros_like(mean), torch.ones_like(mean))
    return D.TransformedDistribution(uniform, [D.SigmoidTransform().inv, D.AffineTransform(mean, scale)])


def mixture(x: torch.Tensor, logits: torch.Tensor, means: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A MixtureSameFamily needs distribution functions only for samples; its density is this."""
    return D.MixtureSameFamily(D.Categorical(logits=logits), logistic(means, scales), validate_args=False).log_prob(x)


def batch_norm(x, mean, var, weight, bias, training):
    """torch moves the running moments in place."""
    mean, var = mean.clone(), var.clone()
    return F.batch_norm(x, mean, var, weight, bias, training), mean, var


def vae_loss(recon, x, mu, log_var):
    """pytorch/examples: both terms summed."""
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return F.binary_cross_entropy(recon, x, reduction="sum") + kl


def unbalanced_vae_loss(recon, x, mu, log_var):
    """The default reduction of the reconstruction, a sum for the KL: a frequent mistake."""
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return F.binary_cross_entropy(recon, x) + kl


CONVOLUTION = {"takes": "bias stride padding dilation groups", "pairs": True}
TRANSPOSED = {"takes": "bias stride padding output_padding groups dilation", "pairs": True}
BITS = {"given": "log_prob"}
RIGHT = {
    "conv2d": (F.conv2d, CONVOLUTION),
    "conv_transpose2d": (F.conv_transpose2d, TRANSPOSED),
    "max_pool2d": (F.max_pool2d, {"pairs": True}),
    "avg_pool2d": (F.avg_pool2d, {"pairs": True}),
    "linear": F.linear,
    "layer_norm": lambda x, w, b: F.layer_norm(x, w.shape, w, b),
    "group_norm": F.group_norm,
    "batch_norm": batch_norm,
    "softmax": lambda x: F.softmax(x, -1),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "cross_entropy": F.cross_entropy,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "attention": F.scaled_dot_product_attention,
    "attention: causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), {"mask": "causal"}),
    "normal_kl": lambda m, s, n, t: D.kl_divergence(D.Normal(m, s), D.Normal(n, t)),
    "standard_normal_kl": (
        lambda m, s: D.kl_divergence(D.Normal(m, s), D.Normal(torch.zeros_like(m), torch.ones_like(s))),
        {"scale": "std"},
    ),
    "categorical_kl": lambda q, p: D.kl_divergence(D.Categorical(logits=q), D.Categorical(logits=p)),
    "logistic_mixture": (mixture, {"levels": None, "scale": "scale"}),
    "normal_sampler": lambda m, s: D.Normal(m, s).sample(),
    "logistic_sampler": (lambda m, s: logistic(m, s).sample(), {"scale": "scale"}),
    "vae_loss": vae_loss,
    "bits_per_dim": (lambda nats, shape: -nats / math.prod(shape) / math.log(2), BITS),
}
OTHERWISE = {
    "categorical_kl: kl_div, mean": (
        lambda q, p: F.kl_div(F.log_softmax(p, -1), F.softmax(q, -1), reduction="mean"),
        {"reduction": "mean"},
    ),
    "vae_loss: default reduction": unbalanced_vae_loss,
    "avg_pool2d: padding left out": (
        lambda x, k, s, p: F.avg_pool2d(x, k, s, p, count_include_pad=False),
        {"pairs": True},
    ),
    "batch_norm: of evaluation": lambda x, mean, var, w, b, training: F.batch_norm(x, mean, var, w, b, False),
}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "reduction: 'mean' divides")  # torch knows
    right = check_all(RIGHT, convert=torch.from_numpy)
    print(right)
    print()
    otherwise = check_all(OTHERWISE, convert=torch.from_numpy)
    print(otherwise)
    assert right.ok
    assert [row.looks_like for row in otherwise.rows] == [
        ("averaged over the classes instead of summed",),
        ("the reconstruction averaged over pixels and images, the KL summed",),
        ("right if padded='ignored' was meant",),
        ("the running moments in training, too",),
    ]
