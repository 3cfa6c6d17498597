"""Probability distributions: log-probabilities, samples, entropies, divergences.  All in nats, element by element.

Parameters are tensors, arrays or numbers.  They broadcast against each other and against the values to evaluate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, broadcast_to, constant
from nanogen.backend import Array, array_module, check_range, to_device
from nanogen.functional.elementwise import times_log
from nanogen.functional.loss import label_cross_entropy
from nanogen.random import Generator

_QUADRATURE = [nodes.tolist() for nodes in np.polynomial.legendre.leggauss(8)]


def reals(*values: Any) -> list[Tensor]:
    """The values as floating-point tensors of one dtype: the common dtype of those with fractions, else float64."""
    found = [constant(value, values) for value in values]
    types = [x.dtype for x in found if x.dtype.kind == "f"]
    return [x.to(np.result_type(*types) if types else np.float64) for x in found]


def inverse_transform(weights, u):
    """The first class k whose cumulative weight Σ_{i≤k} w_i is above u Σ w_i: weights (…, K), and u."""
    cumulative = weights.cumsum(axis=-1)
    return (cumulative > u[..., None] * cumulative[..., -1:]).argmax(axis=-1)


class Normal:
    """The normal distribution N(mean, std²).

    Args:
        mean: μ.
        std: the standard deviation σ.
        log_std: log σ, instead of std.  If a network computes log σ, give that: where σ underflows to 0, log σ and the
            divergence are still finite.

    Raises:
        ValueError: a std that is not positive (checked for arrays on the host only); both std and log_std, or neither.
    """

    def __init__(self, mean: Any, std: Any = None, *, log_std: Any = None):
        if (std is None) == (log_std is None):
            raise ValueError("Normal: give either std or log_std")
        if log_std is None:
            self.mean, self.std = reals(mean, std)
            if isinstance(self.std.data, np.ndarray) and not (self.std.data > 0).all():
                raise ValueError(f"Normal: std must be positive, got {self.std.data.min()}")
            self.log_std = F.log(self.std)
        else:
            self.mean, self.log_std = reals(mean, log_std)
            self.std = F.exp(self.log_std)

    def log_prob(self, x: Any) -> Tensor:
        """−½ ((x − mean) / std)² − log std − ½ log 2π."""
        standard = (reals(x, self.mean)[0] - self.mean) / self.std
        return -0.5 * standard**2 - self.log_std - 0.5 * math.log(2 * math.pi)

    def rsample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """mean + std · ε with ε ~ N(0, 1), differentiable in mean and std.  Kingma & Welling 2014, section 2.4.

        The result has the shape `shape` + that of the parameters: `shape` says how many draws."""
        noise = rng.normal(shape + self._shape(), dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """A sample without a gradient."""
        return self.rsample(rng, shape).detach()

    def entropy(self) -> Tensor:
        """½ log(2πe std²)."""
        return broadcast_to(self.log_std + 0.5 * math.log(2 * math.pi * math.e), shape=self._shape())

    def _shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.mean.shape, self.std.shape)


class Bernoulli:
    """The Bernoulli distribution: 1 with probability sigmoid(logits), otherwise 0."""

    def __init__(self, logits: Any):
        (self.logits,) = reals(logits)

    def log_prob(self, x: Any) -> Tensor:
        """x · log p + (1 − x) · log(1 − p), finite for every finite logit."""
        x = constant(x, [self.logits]).to(self.logits.dtype)
        of_one, of_zero = self.log_probs()
        return times_log(x, of_one) + times_log(1.0 - x, of_zero)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Samples of 0 or 1, in the dtype of the logits."""
        logits = self.logits.data
        u = rng.uniform(shape + logits.shape, dtype=logits.dtype)
        return Tensor((u < F.sigmoid(self.logits).data).astype(logits.dtype))

    def entropy(self) -> Tensor:
        """−p log p − (1 − p) log(1 − p)."""
        of_one, of_zero = self.log_probs()
        return -times_log(F.exp(of_one), of_one) - times_log(F.exp(of_zero), of_zero)

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """The log-probabilities of 1 and of 0."""
        return F.logsigmoid(self.logits), F.logsigmoid(-self.logits)


class Categorical:
    """The categorical distribution over classes 0 … K − 1: probabilities softmax(logits) over the last axis, (…, K).

    A class with the logit −∞ has probability 0."""

    def __init__(self, logits: Any):
        (self.logits,) = reals(logits)
        if self.logits.ndim == 0 or not self.logits.shape[-1]:
            raise ValueError(f"Categorical: logits must have an axis of classes, got shape {self.logits.shape}")

    def log_prob(self, x: Any) -> Tensor:
        """log softmax(logits)[x].  The integers x broadcast against the other axes of the logits."""
        labels, logits, classes = constant(x).data.astype(int), self.logits, self.logits.shape[-1]
        check_range("classes", labels, classes)
        labels = to_device(labels, logits.device)
        shape = np.broadcast_shapes(labels.shape, logits.shape[:-1])
        logits = broadcast_to(logits, shape=(*shape, classes))
        return -label_cross_entropy(logits, labels=array_module(labels).broadcast_to(labels, shape))

    def icdf(self, u: Array) -> Tensor:
        """The inverse of the cumulative distribution function F: the first class k with F(k) > u.

        u in [0, 1), float64, broadcasts against logits.shape[:-1].  Uniform u give samples."""
        xp, logits = array_module(self.logits.data), self.logits.data
        return Tensor(inverse_transform(xp.exp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float64)), u))

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Integer samples of the shape `shape` + logits.shape[:-1], by inverse transform sampling."""
        return self.icdf(rng.uniform((*shape, *self.logits.shape[:-1]), dtype=np.float64))

    def entropy(self) -> Tensor:
        """−Σ p log p."""
        log_p = F.log_softmax(self.logits, dim=-1)
        return -times_log(F.exp(log_p), log_p).sum(-1)


class Discretized:
    """A continuous distribution turned into one over the integer levels 0 … levels − 1.

    The centres of the levels are spaced evenly on [−1, 1], at a distance of 2 / (levels − 1).  The probability of a
    level is the mass between the midpoints to its two neighbours; the first and the last level also get the tails.
    Salimans et al. 2017, eq. 2; Ho et al. 2020, eq. 13.
    """

    log_below: Callable[..., Tensor]  # log F(z), F the standard cumulative distribution function; F(−z) = 1 − F(z)
    # log(F(high) − F(low)) of (low, high, width, below, above).  width = high − low, without the rounding error of that
    # difference; below = log F(high); above = log(1 − F(low)).
    log_mass: Callable[..., Tensor]

    def __init__(self, mean: Any, log_scale: Any, levels: int):
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ValueError(f"levels must be an integer of at least 2, got {levels!r}")
        self.mean, self.log_scale = reals(mean, log_scale)
        self.levels = levels

    def log_prob(self, x: Any) -> Tensor:
        """The log-probability of the integer levels x: finite however far x is from the mean.

        Computed in float64.  In float32 the edges of a bin have an error of 6e-8, 1 % of a scale of e⁻¹², and e⁸⁹
        overflows.

        Raises:
            ValueError: a level out of range (checked for arrays on the host only)."""
        levels = constant(x).data
        check_range("levels", levels, self.levels)
        levels = to_device(levels, self.mean.device)
        centres = Tensor(scale_levels(levels, self.levels, np.float64))
        half = 1.0 / (self.levels - 1)
        mean, inverse_scale = self.mean.to(np.float64), F.exp(-self.log_scale.to(np.float64))
        low = (centres - half - mean) * inverse_scale
        high = (centres + half - mean) * inverse_scale
        first, last = Tensor(levels == 0), Tensor(levels == self.levels - 1)
        below, above = self.log_below(high), self.log_below(-low)
        inside = self.log_mass(low, high, 2 * half * inverse_scale, below, above)
        return F.where(first, below, F.where(last, above, inside)).to(self.mean.dtype)


class DiscretizedNormal(Discretized):
    """The normal distribution N(mean, exp(log_std)²) on [−1, 1], over integer levels.  Ho et al. 2020, eq. 13."""

    def __init__(self, mean: Any, log_std: Any, levels: int):
        super().__init__(mean, log_std, levels)

    log_below = staticmethod(F.log_ndtr)

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """log(Φ(h) − Φ(l)) without cancellation, in one of two ways.

        Wide bins: Φ(h) − Φ(l) = Φ(−l) − Φ(−h), and the form with the smaller tails is used.  Narrow bins:
        Gauss–Legendre quadrature of the density over the bin.

        Far from the mean, log Φ is too large for the difference of two of them to be accurate.  That difference is at
        least width · |middle|, which is then used."""
        middle = 0.5 * (low + high)
        narrow = (width < 0.5) & (F.abs(middle) * width < 1.0)
        larger, smaller = F.minimum(below, above), F.log_ndtr(F.minimum(low, -high))
        gap = F.maximum(larger - smaller, F.abs(middle) * width)
        difference = larger + log1mexp(F.where(narrow, 1.0, gap))  # 1.0 keeps the unused branch finite
        m, w = F.where(narrow, middle, 0.0), F.where(narrow, width, 0.5)
        mean_density = sum(
            0.5 * c * F.exp(-0.5 * m * w * node - 0.125 * (w * node) ** 2) for node, c in zip(*_QUADRATURE)
        )
        density = -0.5 * m**2 - 0.5 * math.log(2 * math.pi)
        return F.where(narrow, density + F.log(w) + F.log(mean_density), difference)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """A sample of the normal distribution, rounded to the nearest level: uint8 for at most 256 levels."""
        x = Normal(self.mean, log_std=self.log_scale).sample(rng, shape).data
        return Tensor(unscale_levels(x, self.levels))


class DiscretizedLogistic(Discretized):
    """The logistic distribution with location `mean` and scale exp(log_scale), over integer levels.

    Salimans et al. 2017, eq. 2."""

    log_below = staticmethod(F.logsigmoid)

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """log(σ(h) − σ(l)) = log σ(h) + log σ(−l) + log(1 − e^−(h−l))."""
        return below + above + log1mexp(width)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """A sample of the logistic distribution by inverse transform sampling, rounded to the nearest level."""
        size = shape + np.broadcast_shapes(self.mean.shape, self.log_scale.shape)
        xp, u = array_module(self.mean.data), rng.uniform(size, dtype=np.float64)
        u = xp.maximum(u, np.finfo(np.float64).tiny)
        x = self.mean.data + xp.exp(self.log_scale.data) * (xp.log(u) - xp.log1p(-u))
        return Tensor(unscale_levels(x, self.levels))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − e⁻ˣ) for x > 0, accurate for small and for large x.  Mächler 2012, eq. 7."""
    small = x < math.log(2)
    return F.where(small, F.log(-F.expm1(-F.where(small, x, 1.0))), F.log1p(-F.exp(-F.where(small, 1.0, x))))


def scale_levels(levels: Array, count: int, dtype: Any = np.float32) -> Array:
    """The centres in [−1, 1] of integer levels 0 … count − 1: 2 · level / (count − 1) − 1."""
    return (levels.astype(dtype) * (2 / (count - 1))) - 1


def unscale_levels(x: Array, count: int) -> Array:
    """The levels with the nearest centres; x outside [−1, 1] is clipped.  uint8 for at most 256 levels, else int64."""
    xp = array_module(x)
    nearest = xp.clip(xp.rint((x + 1) * ((count - 1) / 2)), 0, count - 1)
    return nearest.astype(np.uint8 if count <= 256 else np.int64)


def kl_divergence(q: Any, p: Any) -> Tensor:
    """KL(q‖p) = E_q[log q − log p] ≥ 0, in nats, element by element.

    Raises:
        TypeError: a pair of distributions without a closed form here.
    """
    families: Any = ((Normal, normal_kl), (Bernoulli, bernoulli_kl), (Categorical, categorical_kl))
    for family, divergence in families:
        if isinstance(q, family) and isinstance(p, family):
            return divergence(q, p)
    raise TypeError(f"kl_divergence: no closed form for {type(q).__name__} and {type(p).__name__}")


def normal_kl(q: Normal, p: Normal) -> Tensor:
    """½ (σ_q² / σ_p² + (μ_q − μ_p)² / σ_p² − 1 − log(σ_q² / σ_p²)).  Kingma & Welling 2014, appendix B."""
    log_ratio = q.log_std - p.log_std
    return 0.5 * (F.expm1(2.0 * log_ratio) + ((q.mean - p.mean) / p.std) ** 2) - log_ratio


def bernoulli_kl(q: Bernoulli, p: Bernoulli) -> Tensor:
    """Σ over 0 and 1 of q · (log q − log p)."""
    of_one, of_zero = (divergence_part(*logs) for logs in zip(q.log_probs(), p.log_probs(), strict=True))
    return of_one + of_zero


def categorical_kl(q: Categorical, p: Categorical) -> Tensor:
    """Σ over the classes of q · (log q − log p)."""
    return divergence_part(F.log_softmax(q.logits, dim=-1), F.log_softmax(p.logits, dim=-1)).sum(-1)


def divergence_part(log_q: Tensor, log_p: Tensor) -> Tensor:
    """q · (log q − log p): 0 where q = 0; otherwise ∞ where p = 0."""
    q = F.exp(log_q)
    return q * (F.where(q == 0, 0.0, log_q) - F.where(q == 0, 0.0, log_p))
