"""Densities: log-probabilities, samples, entropies, divergences.  All in nats, element by element.

Parameters are tensors (or arrays, or numbers) that broadcast against each other and against what is evaluated.
"""

from __future__ import annotations

import math
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
    """Tensors of real numbers of one type, that of those which are not whole, or float64."""
    found = [constant(value, values) for value in values]
    types = [x.dtype for x in found if x.dtype.kind == "f"]
    return [x.to(np.result_type(*types) if types else np.float64) for x in found]


class Normal:
    """N(mean, std²), a density over real numbers.

    Args:
        mean, std: of its numbers.
        log_std: log std in place of std.  What comes from a logarithm keeps it: the spread may be so small that it is
            0 in floating point, while its logarithm, and with it a divergence, is a common number.

    Raises:
        ValueError: a standard deviation that is not positive (checked where the numbers lie on the host); both of std
            and log_std, or neither.
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

        `shape` comes before that of the parameters: so many draws."""
        noise = rng.normal(shape + self._shape(), dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """A draw without gradient."""
        return self.rsample(rng, shape).detach()

    def entropy(self) -> Tensor:
        """½ log(2πe std²)."""
        return broadcast_to(self.log_std + 0.5 * math.log(2 * math.pi * math.e), shape=self._shape())

    def _shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.mean.shape, self.std.shape)


class Bernoulli:
    """0 or 1, with the probability sigmoid(logits) of a 1."""

    def __init__(self, logits: Any):
        (self.logits,) = reals(logits)

    def log_prob(self, x: Any) -> Tensor:
        """x · log p + (1 − x) · log(1 − p), finite for every finite logit."""
        x = constant(x, [self.logits]).to(self.logits.dtype)
        of_one, of_zero = self.log_probs()
        return times_log(x, of_one) + times_log(1.0 - x, of_zero)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draws of 0 or 1, in the type of the logits."""
        logits = self.logits.data
        u = rng.uniform(shape + logits.shape, dtype=logits.dtype)
        return Tensor((u < F.sigmoid(self.logits).data).astype(logits.dtype))

    def entropy(self) -> Tensor:
        """−p log p − (1 − p) log(1 − p)."""
        of_one, of_zero = self.log_probs()
        return -times_log(F.exp(of_one), of_one) - times_log(F.exp(of_zero), of_zero)

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """Of a 1 and of a 0."""
        return F.logsigmoid(self.logits), F.logsigmoid(-self.logits)


class Categorical:
    """One of K classes 0 … K − 1, with the probabilities softmax(logits) over the last axis: logits (…, K).

    A class with a logit of −∞ has the probability 0."""

    def __init__(self, logits: Any):
        (self.logits,) = reals(logits)
        if self.logits.ndim == 0 or not self.logits.shape[-1]:
            raise ValueError(f"Categorical: logits must have an axis of classes, got shape {self.logits.shape}")

    def log_prob(self, x: Any) -> Tensor:
        """log softmax(logits)[x]: integers x, broadcast against the logits' other axes."""
        labels, logits, classes = constant(x).data.astype(int), self.logits, self.logits.shape[-1]
        check_range("classes", labels, classes)
        labels = to_device(labels, logits.device)
        shape = np.broadcast_shapes(labels.shape, logits.shape[:-1])
        if logits.shape[:-1] != shape:
            logits = broadcast_to(logits, shape=(*shape, classes))
        return -label_cross_entropy(logits, labels=array_module(labels).broadcast_to(labels, shape))

    def icdf(self, u: Array) -> Tensor:
        """The inverse of the cumulative distribution: the first class up to and with which there is more than u.

        u in [0, 1), float64, broadcasts against logits.shape[:-1]; uniform u give draws."""
        xp, logits = array_module(self.logits.data), self.logits.data
        weights = xp.exp((logits - logits.max(axis=-1, keepdims=True)).astype(np.float64))
        cumulative = weights.cumsum(axis=-1)
        return Tensor((cumulative > u[..., None] * cumulative[..., -1:]).argmax(axis=-1))

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """Draws, integers of shape + logits.shape[:-1], by the inverse of the cumulative distribution."""
        return self.icdf(rng.uniform((*shape, *self.logits.shape[:-1]), dtype=np.float64))

    def entropy(self) -> Tensor:
        """−Σ p log p."""
        log_p = F.log_softmax(self.logits, dim=-1)
        return -times_log(F.exp(log_p), log_p).sum(-1)


class Discretized:
    """A density over real numbers made one over the levels 0 … levels − 1.

    The levels' centres divide [−1, 1] evenly, 2 / (levels − 1) apart; a level has the mass between the half-way
    points to its neighbours, and the first and the last take the tails.  Salimans et al. 2017, eq. 2; Ho et al.
    2020, eq. 13.
    """

    def __init__(self, mean: Any, log_scale: Any, levels: int):
        if isinstance(levels, bool) or not isinstance(levels, int) or levels < 2:
            raise ValueError(f"levels must be an integer of at least 2, got {levels!r}")
        self.mean, self.log_scale = reals(mean, log_scale)
        self.levels = levels

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """log(F(high) − F(low)) for F the standard cumulative distribution; width = high − low without rounding, below
        = log F(high), above = log(1 − F(low))."""
        raise NotImplementedError

    def log_below(self, z: Tensor) -> Tensor:
        """log F(z) = log(1 − F(−z))."""
        raise NotImplementedError

    def log_prob(self, x: Any) -> Tensor:
        """The log-probability of the integer levels x; finite however far x is from the mean.

        Computed in float64: float32 has the edges of a bin to within 6e-8, which is 1 % of a scale of e⁻¹², and no e⁸⁹.

        Raises:
            ValueError: a level that is not there (checked where the numbers lie on the host)."""
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
        log_p = F.where(first, below, F.where(last, above, inside))
        return log_p.to(self.mean.dtype)

    def _round(self, x: Array) -> Tensor:
        return Tensor(unscale_levels(x, self.levels))


class DiscretizedNormal(Discretized):
    """The normal distribution over integer levels: N(mean, exp(log_std)²) on [−1, 1].  Ho et al. 2020, eq. 13."""

    def __init__(self, mean: Any, log_std: Any, levels: int):
        super().__init__(mean, log_std, levels)

    @property
    def log_std(self) -> Tensor:
        return self.log_scale

    def log_below(self, z: Tensor) -> Tensor:
        return F.log_ndtr(z)

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """On the side of the mean where both tails are small, little cancels: Φ(h) − Φ(l) = Φ(−l) − Φ(−h).  Where the
        bin is so narrow that the difference would, Gauss–Legendre quadrature of the density is exact instead.

        Far out log Φ has no digits left for its difference, which is not less than width · |middle|."""
        middle = 0.5 * (low + high)
        narrow = (width < 0.5) & (F.abs(middle) * width < 1.0)
        larger, smaller = F.minimum(below, above), F.log_ndtr(F.minimum(low, -high))
        apart = F.maximum(larger - smaller, F.abs(middle) * width)
        difference = larger + log1mexp(F.where(narrow, 1.0, apart))  # neither branch meets what it can't compute
        m, w = F.where(narrow, middle, 0.0), F.where(narrow, width, 0.5)
        mean_density = sum(
            0.5 * c * F.exp(-0.5 * m * w * node - 0.125 * (w * node) ** 2) for node, c in zip(*_QUADRATURE)
        )
        density = -0.5 * m**2 - 0.5 * math.log(2 * math.pi)
        return F.where(narrow, density + F.log(w) + F.log(mean_density), difference)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """A normal draw, rounded to the nearest level: uint8 up to 256 levels."""
        return self._round(Normal(self.mean, log_std=self.log_scale).sample(rng, shape).data)


class DiscretizedLogistic(Discretized):
    """The logistic distribution over integer levels, of location `mean` and scale exp(log_scale).

    Salimans et al. 2017, eq. 2."""

    def log_below(self, z: Tensor) -> Tensor:
        return F.logsigmoid(z)

    def log_mass(self, low: Tensor, high: Tensor, width: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """log(σ(h) − σ(l)) = log σ(h) + log σ(−l) + log(1 − e^−(h−l))."""
        return below + above + log1mexp(width)

    def sample(self, rng: Generator, shape: tuple[int, ...] = ()) -> Tensor:
        """A logistic draw by the inverse of its cumulative distribution, rounded to the nearest level."""
        size = shape + np.broadcast_shapes(self.mean.shape, self.log_scale.shape)
        xp, u = array_module(self.mean.data), rng.uniform(size, dtype=np.float64)
        u = xp.maximum(u, np.finfo(np.float64).tiny)
        return self._round(self.mean.data + xp.exp(self.log_scale.data) * (xp.log(u) - xp.log1p(-u)))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − e⁻ˣ) for x > 0, exact for small and for large x.  Mächler 2012, eq. 7."""
    small = x < math.log(2)
    return F.where(small, F.log(-F.expm1(-F.where(small, x, 1.0))), F.log1p(-F.exp(-F.where(small, 1.0, x))))


def scale_levels(levels: Array, count: int, dtype: Any = np.float32) -> Array:
    """The centres in [−1, 1] of integer levels 0 … count − 1: 2 · level / (count − 1) − 1."""
    return (levels.astype(dtype) * (2 / (count - 1))) - 1


def unscale_levels(x: Array, count: int) -> Array:
    """The level whose centre in [−1, 1] is nearest; what is outside goes to the first or last.  uint8 up to 256."""
    xp = array_module(x)
    nearest = xp.clip(xp.rint((x + 1) * ((count - 1) / 2)), 0, count - 1)
    return nearest.astype(np.uint8 if count <= 256 else np.int64)


def kl_divergence(q: Any, p: Any) -> Tensor:
    """KL(q‖p) = E_q[log q − log p] ≥ 0, in nats, element by element.

    Raises:
        TypeError: a pair of kinds for which there is no closed form here.
    """
    if isinstance(q, Normal) and isinstance(p, Normal):
        return normal_kl(q, p)
    if isinstance(q, Bernoulli) and isinstance(p, Bernoulli):
        return bernoulli_kl(q, p)
    if isinstance(q, Categorical) and isinstance(p, Categorical):
        return categorical_kl(q, p)
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
    """q · (log q − log p): 0 where there is no q, and else ∞ where there is no p."""
    q = F.exp(log_q)
    return q * (F.where(q == 0, 0.0, log_q) - F.where(q == 0, 0.0, log_p))
