"""Data sources with known truth: densities, scores, posteriors and entropies in closed form, to test models against.

With them a test can say "this likelihood is right", not only "this loss went down".  Everything is NumPy in float64, in
nats.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import numpy as np

from nanogen.random import Generator

Array = np.ndarray


def log_sum_exp(x: Array, axis: int) -> Array:
    """log Σ eˣ over an axis, without overflow."""
    highest = x.max(axis=axis, keepdims=True)
    return np.log(np.exp(x - highest).sum(axis=axis)) + highest.squeeze(axis)


def _float64(name: str, value: Any, axes: int) -> Array:
    array = np.asarray(value, np.float64)
    if array.ndim != axes or not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite numbers with {axes} axes, got shape {array.shape}")
    return array


class GaussianMixture:
    """p(x) = Σ_k w_k N(x; m_k, s_k² I) in D dimensions.  Diffused, it is a mixture again, so everything stays exact.

    Args:
        weights: w (K,), positive; they need not sum to 1.
        means: m (K, D).
        stds: s (K,); 0 is a point mass, which has a density only once diffused.

    Raises:
        ValueError: shapes that do not match, a weight that is not positive, a negative std.
    """

    def __init__(self, weights: Any, means: Any, stds: Any):
        self.means = _float64("means", means, 2)
        self.stds, given = _float64("stds", stds, 1), _float64("weights", weights, 1)
        if not len(given) == len(self.means) == len(self.stds):
            raise ValueError(
                f"weights, means and stds must be equally many, got {len(given)}, {self.means.shape}, {self.stds.shape}"
            )
        if not (given > 0).all() or not (self.stds >= 0).all():
            raise ValueError("weights must be positive and stds not negative")
        self.weights = given / given.sum()

    @property
    def dimensions(self) -> int:
        return self.means.shape[1]

    def sample(self, n: int, rng: Generator) -> Array:
        """n draws: (n, D)."""
        k = np.searchsorted(self.weights.cumsum()[:-1], rng.uniform(n, np.float64), side="right")
        return self.means[k] + self.stds[k, None] * rng.normal((n, self.dimensions), np.float64)

    def _log_joint(self, x: Array) -> Array:
        """log w_k + log N(x; m_k, s_k² I): (N, D) to (N, K)."""
        squares = ((x[:, None] - self.means) ** 2).sum(2)
        return (
            np.log(self.weights)
            - 0.5 * squares / self.stds**2
            - 0.5 * self.dimensions * np.log(2 * np.pi * self.stds**2)
        )

    def log_prob(self, x: Array) -> Array:
        """log p(x): (N, D) to (N,)."""
        return log_sum_exp(self._log_joint(x), axis=1)

    def score(self, x: Array) -> Array:
        """∇ log p(x) = Σ_k p(k|x) (m_k − x) / s_k²: (N, D) to (N, D)."""
        log_joint = self._log_joint(x)
        responsibilities = np.exp(log_joint - log_sum_exp(log_joint, axis=1)[:, None])
        return ((responsibilities / self.stds**2)[:, :, None] * (self.means - x[:, None])).sum(1)

    def diffused(self, alpha_bar: float) -> GaussianMixture:
        """The density p_t of x_t = √ᾱ x_0 + √(1 − ᾱ) ε: means √ᾱ m_k, variances ᾱ s_k² + 1 − ᾱ.

        Ho et al. 2020, eq. 4, applied to a mixture."""
        return GaussianMixture(
            self.weights, math.sqrt(alpha_bar) * self.means, np.sqrt(alpha_bar * self.stds**2 + 1 - alpha_bar)
        )

    def expected_noise(self, x_t: Array, alpha_bar: float) -> Array:
        """E[ε | x_t] = −√(1 − ᾱ) ∇ log p_t(x_t), the optimal prediction: (N, D) to (N, D).  Vincent 2011."""
        return -math.sqrt(1 - alpha_bar) * self.diffused(alpha_bar).score(x_t)

    def expected_x0(self, x_t: Array, alpha_bar: float) -> Array:
        """E[x_0 | x_t] = (x_t + (1 − ᾱ) ∇ log p_t(x_t)) / √ᾱ: (N, D) to (N, D).  Tweedie's formula; Efron 2011."""
        return (x_t + (1 - alpha_bar) * self.diffused(alpha_bar).score(x_t)) / math.sqrt(alpha_bar)

    def best_loss(self, alpha_bar: float, points: int = 401, reach: float = 9.0) -> float:
        """The least mean squared error per dimension at ᾱ: 1 − (1 − ᾱ) E‖∇ log p_t‖² / D, by the trapezoidal rule.

        The grid has `points` points per dimension and extends `reach` standard deviations beyond the means; D ≤ 2."""
        p_t = self.diffused(alpha_bar)
        widest = reach * p_t.stds.max()
        axes = [
            np.linspace(low - widest, high + widest, points)
            for low, high in zip(p_t.means.min(0), p_t.means.max(0), strict=True)
        ]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, self.dimensions)
        cell = math.prod(axis[1] - axis[0] for axis in axes)
        information = (np.exp(p_t.log_prob(grid)) * (p_t.score(grid) ** 2).sum(1)).sum() * cell
        return float(1 - (1 - alpha_bar) * information / self.dimensions)


class LinearGaussian:
    """x = W z + m + s ε with z ~ N(0, I_L), ε ~ N(0, I_D): probabilistic PCA.  Tipping & Bishop 1999, eq. 2.

    Args:
        weight: W (D, L).
        mean: m (D,).
        std: s > 0.

    Raises:
        ValueError: shapes that do not match, a std that is not positive.
    """

    def __init__(self, weight: Any, mean: Any, std: float):
        self.weight, self.mean, self.std = _float64("weight", weight, 2), _float64("mean", mean, 1), float(std)
        if self.mean.shape != self.weight.shape[:1]:
            raise ValueError(f"mean must have shape {self.weight.shape[:1]}, got {self.mean.shape}")
        if not 0 < self.std < math.inf:
            raise ValueError(f"std must be positive, got {std}")

    @property
    def covariance(self) -> Array:
        """C = W Wᵀ + s² I, the covariance of x: (D, D).  Tipping & Bishop 1999, eq. 6."""
        return self.weight @ self.weight.T + self.std**2 * np.eye(len(self.mean))

    def sample(self, n: int, rng: Generator) -> Array:
        """n draws: (n, D)."""
        dimensions, latent = self.weight.shape
        z, noise = rng.normal((n, latent), np.float64), rng.normal((n, dimensions), np.float64)
        return z @ self.weight.T + self.mean + self.std * noise

    def log_prob(self, x: Array) -> Array:
        """log N(x; m, C): (N, D) to (N,)."""
        return normal_log_prob(x, self.mean, self.covariance)

    def entropy(self) -> float:
        """½ log det(2πe C)."""
        return float(0.5 * np.linalg.slogdet(2 * np.pi * np.e * self.covariance)[1])

    def posterior(self, x: Array) -> tuple[Array, Array]:
        """The mean M⁻¹ Wᵀ (x − m) and the covariance s² M⁻¹ of p(z|x), M = Wᵀ W + s² I: (N, L) and (L, L).

        Tipping & Bishop 1999, eq. 12."""
        m = self.weight.T @ self.weight + self.std**2 * np.eye(self.weight.shape[1])
        return np.linalg.solve(m, self.weight.T @ (x - self.mean).T).T, self.std**2 * np.linalg.inv(m)

    def elbo(self, x: Array, q_mean: Array, q_std: Array) -> Array:
        """E_q[log p(x|z)] − KL(q ‖ N(0, I)) for q(z|x) = N(q_mean, diag q_std²), exactly: (N,).

        Kingma & Welling 2014, eq. 3; both parts are quadratic in z, so their expectations have a closed form."""
        rest = x - self.mean - q_mean @ self.weight.T
        squares = (rest**2).sum(1) + (q_std**2 @ self.weight.T**2).sum(1)
        reconstruction = -0.5 * squares / self.std**2 - 0.5 * len(self.mean) * math.log(2 * math.pi * self.std**2)
        return reconstruction - 0.5 * (q_std**2 + q_mean**2 - 1 - 2 * np.log(q_std)).sum(1)


def normal_log_prob(x: Array, mean: Array, covariance: Array) -> Array:
    """log N(x; mean, covariance): (N, D) to (N,)."""
    centred = x - mean
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * (np.einsum("nd,nd->n", centred, np.linalg.solve(covariance, centred.T).T) + log_determinant)


class Ising:
    """Binary images: p(x) ∝ exp(J Σ_{neighbours} s_i s_j + h Σ_i s_i), s = 2x − 1, with free boundaries.

    All quantities are exact, by the transfer matrix over the 2^width states of a row.  Kramers & Wannier 1941.

    Args:
        height, width: of the image; width at most 12.
        coupling: J.
        field: h.

    Raises:
        ValueError: a size out of range.
    """

    levels = 2

    def __init__(self, height: int, width: int, coupling: float, field: float = 0.0):
        if not (height >= 1 and 1 <= width <= 12):
            raise ValueError(f"height must be at least 1 and width in 1 … 12, got {height} and {width}")
        self.height, self.width, self.coupling, self.field = height, width, float(coupling), float(field)
        self._rows = np.array(list(itertools.product((0, 1), repeat=width)), np.uint8)  # all states of a row
        spins = 2.0 * self._rows - 1
        self._within = coupling * (spins[:, 1:] * spins[:, :-1]).sum(1) + field * spins.sum(1)
        self._between = coupling * spins @ spins.T
        # _above[i][b] = log Σ exp(exponent of rows 0 … i), over all states of rows 0 … i − 1, with row i in state b
        self._above = [self._within]
        for _ in range(height - 1):
            self._above.append(self._within + log_sum_exp(self._above[-1][:, None] + self._between, axis=0))
        self.log_partition = float(log_sum_exp(self._above[-1], axis=0))

    def log_weight(self, images: Array) -> Array:
        """The exponent J Σ s_i s_j + h Σ s_i of images (N, 1, H, W): (N,)."""
        s = 2.0 * images[:, 0] - 1
        pairs = (s[:, 1:] * s[:, :-1]).sum((1, 2)) + (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2))
        return self.coupling * pairs + self.field * s.sum((1, 2))

    def log_prob(self, images: Array) -> Array:
        """log p(x), exact: (N, 1, H, W) to (N,)."""
        return self.log_weight(images) - self.log_partition

    def _row_given_below(self, i: int, below: Array | None) -> Array:
        """log p(row i | row i + 1): (len(below), 2^width), given states of row i + 1; (1, 2^width) for the last row."""
        scores = self._above[i][None] + (0.0 if below is None else self._between[below])
        return scores - log_sum_exp(scores, axis=1)[:, None]

    def sample(self, n: int, rng: Generator) -> Array:
        """Exact draws, row by row from the last to the first: uint8 (n, 1, H, W)."""
        states: Array | None = None
        chosen = []
        for i in reversed(range(self.height)):
            cumulative = np.exp(self._row_given_below(i, states)).cumsum(1)
            u = rng.uniform((n, 1), np.float64) * cumulative[:, -1:]
            states = (cumulative <= u).sum(1)
            chosen.append(self._rows[states])
        return np.stack(chosen[::-1], axis=1)[:, None]

    def entropy(self) -> float:
        """−Σ p log p, exact, in nats per image: by the chain rule, row by row from the last to the first."""
        log_p = self._row_given_below(self.height - 1, None)[0]
        total, marginal = -(np.exp(log_p) * log_p).sum(), np.exp(log_p)
        for i in reversed(range(self.height - 1)):
            log_conditional = self._row_given_below(i, np.arange(len(self._rows)))
            conditional = np.exp(log_conditional)
            total -= marginal @ (conditional * log_conditional).sum(1)
            marginal = marginal @ conditional
        return float(total)

    def all_images(self) -> Array:
        """All possible images, at most 2¹⁶: uint8 (2^(H·W), 1, H, W).

        Raises:
            ValueError: more than 16 pixels."""
        count = self.height * self.width
        if count > 16:
            raise ValueError(f"there are 2^{count} images, too many to list")
        bits = np.array(list(itertools.product((0, 1), repeat=count)), np.uint8)
        return bits.reshape(-1, 1, self.height, self.width)


class Shapes:
    """Grey pictures of 12×12 pixels of one shape, made by five independent factors, each uniform on 0 … values − 1.

    All 288 combinations give different pictures, so a picture tells its factors.  In the manner of dSprites
    (Matthey et al. 2017), for measuring whether a code has a number of its own for each factor.

    Attributes:
        factors: the number of values of each factor by its name: column and row of the centre, half the width, square
            or ×, and the level of its pixels.
        levels: the number of levels of a pixel; the background is 0.
    """

    factors: ClassVar[dict[str, int]] = {"x": 4, "y": 4, "size": 3, "shape": 2, "brightness": 3}
    levels = 4

    def images(self, factors: Any) -> Array:
        """The picture of each row of factors (N, 5): uint8 (N, 1, 12, 12).

        Raises:
            ValueError: other shapes, numbers that are not integers, values out of range."""
        given, counts = np.asarray(factors), list(self.factors.values())
        if given.ndim != 2 or given.shape[1] != len(counts) or given.dtype.kind not in "iu":
            raise ValueError(f"factors must be integers (N, {len(counts)}), got {given.dtype} of shape {given.shape}")
        if ((given < 0) | (given >= counts)).any():
            raise ValueError(f"factors must be at least 0 and below {self.factors}")
        x, y, size, shape, brightness = given.astype(np.int64).T[:, :, None, None]
        row, column = np.indices((12, 12))
        across, down, reach = abs(column - 4 - x), abs(row - 4 - y), 2 + size
        inside = (np.maximum(across, down) <= reach) & ((shape == 0) | (across == down))
        return (inside * (1 + brightness)).astype(np.uint8)[:, None]

    def all_factors(self) -> Array:
        """All combinations of the factors: int64 (288, 5)."""
        return np.array(list(itertools.product(*map(range, self.factors.values()))))

    def sample(self, n: int, rng: Generator) -> tuple[Array, Array]:
        """n draws: pictures, uint8 (n, 1, 12, 12), and their factors, int64 (n, 5)."""
        factors = np.stack([rng.integers(0, values, n) for values in self.factors.values()], axis=1)
        return self.images(factors), factors

    def entropy(self) -> float:
        """log 288: of the factors, and of the pictures, in nats per image."""
        return math.log(math.prod(self.factors.values()))
