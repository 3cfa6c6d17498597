"""Metrics for all families of models: likelihoods, and distances between sets of images.

Sets of images are compared by features (N, D) of any kind.  The values depend on the features, so report both."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, to_numpy
from nanogen.data.images import nearest
from nanogen.models import GenerativeModel
from nanogen.random import Generator


class Estimate(NamedTuple):
    """A number and its 95 % confidence interval."""

    value: float
    low: float
    high: float


NORMAL_95, STUDENT_95 = 1.960, 2.093  # 0.975-quantiles of N(0, 1), and of Student's t with GROUPS − 1 degrees
GROUPS = 20  # of the jackknife


class Likelihood(NamedTuple):
    """Bits per dimension on a set of images.

    Attributes:
        kind: `exact`, or `upper bound` if the model has a lower bound on log p(x).
        bits_per_dim: −log₂ p(x) / dimensions, or its bound, averaged over the images.
        standard_error: of that mean, from the variance between images.
        terms: the terms whose sum is bits_per_dim, or other figures, in bits per dimension.
    """

    kind: str
    bits_per_dim: float
    standard_error: float
    terms: dict[str, float]

    @property
    def estimate(self) -> Estimate:
        margin = NORMAL_95 * self.standard_error
        return Estimate(self.bits_per_dim, self.bits_per_dim - margin, self.bits_per_dim + margin)


def bits_per_dim(nats_per_image: Any, dimensions: int) -> Any:
    """nats / (dimensions · log 2)."""
    return nats_per_image / (dimensions * math.log(2))


def in_batches(f: Callable[[np.ndarray], Any], images: np.ndarray, batch: int) -> np.ndarray:
    """f of the images in batches, without gradients, as one NumPy array."""
    parts = []
    with no_grad():
        for start in range(0, len(images), batch):
            out = f(images[start : start + batch])
            parts.append(to_numpy(out.data if isinstance(out, Tensor) else out))
    return np.concatenate(parts)


def likelihood(
    model: GenerativeModel, images: np.ndarray, rng: Generator, batch: int = 512, labels: np.ndarray | None = None
) -> Likelihood | None:
    """Bits per dimension of images (N, C, H, W), given their labels (N,) if the model is conditional.

    None for a model without a density.  `terms` has the means of the further figures of the model's
    `negative_log_likelihoods`.  Expectations are estimated from one sample per image.  For a single image the standard
    error is NaN.

    Raises:
        ValueError: there are no images.
    """
    if not len(images):
        raise ValueError("likelihood: images must be at least one")
    model.eval()
    nats: dict[str, list[np.ndarray]] = {}
    with no_grad():
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            found = model.negative_log_likelihoods(images[part], rng, None if labels is None else labels[part])
            for name, values in found.items():
                nats.setdefault(name, []).append(to_numpy(values.data).astype(np.float64))
    if not nats:
        return None
    (kind, bits), *others = ((k, bits_per_dim(np.concatenate(v), model.dimensions)) for k, v in nats.items())
    error = float(bits.std(ddof=1) / math.sqrt(len(bits))) if len(bits) > 1 else math.nan
    return Likelihood(kind, float(bits.mean()), error, {name: float(values.mean()) for name, values in others})


class EstimatedBound(NamedTuple):
    """The bound on −log p(x) by one estimator, the mean over images and draws.

    Attributes:
        bits_per_dim, nats: the value; nats per image.
        standard_error: of bits_per_dim, from the draws alone, not from the choice of the images.
        std: the standard deviation of one draw for one image, in bits per dimension.
        network_evaluations: of one draw, per image.
    """

    bits_per_dim: float
    nats: float
    standard_error: float
    std: float
    network_evaluations: int


def estimated_bounds(
    model: GenerativeModel,
    images: np.ndarray,
    rng: Generator,
    draws: int = 4,
    batch: int = 512,
    labels: np.ndarray | None = None,
) -> dict[str, EstimatedBound]:
    """The bound by each of the model's estimators, by name, with the same number of draws for each."""
    model.eval()
    parts = [slice(start, start + batch) for start in range(0, len(images), batch)]
    elbo: Any = getattr(model, "elbo", None)
    found = {}
    for name, evaluations in model.estimators.items():
        with no_grad():
            rows = [
                [elbo(images[i], rng, None if labels is None else labels[i], estimator=name).data for i in parts]
                for _ in range(draws)
            ]
        nats = -np.stack([np.concatenate([to_numpy(part) for part in row]) for row in rows]).astype(np.float64)
        deviation = bits_per_dim(math.sqrt(nats.var(axis=0, ddof=1).mean()), model.dimensions)
        mean = float(nats.mean())
        found[name] = EstimatedBound(
            bits_per_dim(mean, model.dimensions), mean, deviation / math.sqrt(nats.size), deviation, evaluations
        )
    return found


def share_estimate(flags: np.ndarray) -> Estimate:
    """The share of true flags (N,), with Wilson's interval, whose width is positive for shares of 0 and 1 too.

    Wilson 1927, eq. 4.

    Raises:
        ValueError: there are no flags."""
    if not len(flags):
        raise ValueError("share_estimate: flags must be at least one")
    return share_interval(float(flags.mean()), len(flags))


def share_interval(share: float, n: float, quantile: float = NORMAL_95) -> Estimate:
    """A share of n independent images with Wilson's interval, which stays within 0 … 1.  n need not be an integer."""
    centre, scale = share + quantile**2 / (2 * n), 1 + quantile**2 / n
    margin = quantile * math.sqrt(share * (1 - share) / n + (quantile / (2 * n)) ** 2)
    return Estimate(share, max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale))


def jackknife(
    statistic: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    n: int,
    m: int,
    rng: Generator,
    shares: Collection[str] = (),
) -> dict[str, Estimate]:
    """Statistics of two samples of sizes n and m, with confidence intervals by the grouped jackknife.

    Each sample is split into 20 groups, and each of 20 rounds leaves out one group of both.  Unlike the bootstrap, this
    never repeats an image, which would give nearest neighbours at distance 0.  On average, the estimate of the variance
    is not too small (Efron & Stein 1981).

    The interval of a share is Wilson's, for the number of independent images that would have the same variance: the
    effective sample size (Dean & Pagano 2015), at most n + m.  If the share is 0 or 1, or no group changes it, the
    number is that of the smaller sample.

    Args:
        statistic: a function of the indices of the remaining images, (≤ n,) and (≤ m,).
        shares: the names of the statistics that lie within 0 … 1.

    Raises:
        ValueError: fewer than 40 images in a sample.
    """
    if min(n, m) < 2 * GROUPS:
        raise ValueError(f"at least {2 * GROUPS} images are needed on either side, got {n} and {m}")
    first, second = to_numpy(rng.permutation(n)) % GROUPS, to_numpy(rng.permutation(m)) % GROUPS
    whole = statistic(np.arange(n), np.arange(m))
    parts = [statistic(np.flatnonzero(first != g), np.flatnonzero(second != g)) for g in range(GROUPS)]
    found = {}
    for name, value in whole.items():
        left = np.array([part[name] for part in parts])
        variance = (GROUPS - 1) / GROUPS * ((left - left.mean()) ** 2).sum()
        if name in shares:
            of_one = value * (1 - value)
            size = min(of_one / variance, n + m) if of_one * variance else min(n, m)
            found[name] = share_interval(value, size, STUDENT_95)
        else:
            margin = STUDENT_95 * math.sqrt(variance)
            found[name] = Estimate(value, value - margin, value + margin)
    return found


# Distances between sets of features


def pair_of_sets(name: str, a: np.ndarray, b: np.ndarray, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and (M, D) in float64.

    Raises:
        ValueError: other shapes, fewer than `least` rows, or a number that is not finite."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] > 0 and min(len(a), len(b)) >= least):
        raise ValueError(
            f"{name}: a and b must be features (N, D) and (M, D) of at least {least} images,"
            f" got {a.shape} and {b.shape}"
        )
    for which, x in zip("ab", (a, b), strict=True):
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: features must be finite numbers, got NaN or infinity in {which}")
    return a, b


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance between normal distributions fitted to features (N, D) and (M, D), in float64.

    Heusel et al. 2017, eq. 6.  It is an FID only for Inception features.

    Raises:
        ValueError: fewer than two images in a set, different D, or a number that is not finite."""
    a, b = pair_of_sets("frechet_distance", a, b, least=2)
    return gaussian_frechet_distance(
        a.mean(0), np.atleast_2d(np.cov(a, rowvar=False)), b.mean(0), np.atleast_2d(np.cov(b, rowvar=False))
    )


def gaussian_frechet_distance(
    mean1: np.ndarray, covariance1: np.ndarray, mean2: np.ndarray, covariance2: np.ndarray
) -> float:
    """‖m_1 − m_2‖² + tr(C_1 + C_2 − 2 (C_1 C_2)^½).  Dowson & Landau 1982, eq. 4.

    The trace of the root is computed as the sum of the singular values of C_1^½ C_2^½, which only needs roots of
    symmetric matrices.

    Raises:
        ValueError: shapes other than (D,), (D, D), (D,), (D, D), or a number that is not finite."""
    d = np.shape(mean1)
    given = [np.asarray(x, np.float64) for x in (mean1, covariance1, mean2, covariance2)]
    if len(d) != 1 or [x.shape for x in given] != [d, d * 2] * 2 or not all(np.isfinite(x).all() for x in given):
        shapes = [x.shape for x in given]
        raise ValueError(f"gaussian_frechet_distance: means (D,) and covariances (D, D) must be finite, got {shapes}")
    mean1, covariance1, mean2, covariance2 = given

    def root(covariance: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(covariance)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    overlap = np.linalg.svd(root(covariance1) @ root(covariance2), compute_uv=False).sum()
    return float(((mean1 - mean2) ** 2).sum() + np.trace(covariance1) + np.trace(covariance2) - 2 * overlap)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances between features (N, D) and (M, D): (N, M).  Symmetric, and exactly 0 for equal features.

    Raises:
        ValueError: an empty set, different D, or a number that is not finite."""
    a, b = pair_of_sets("distances", a, b)
    return np.sqrt(np.stack([((row - b) ** 2).sum(1) for row in a]))


def radii(within: np.ndarray, k: int) -> np.ndarray:
    """The distance of each image to its k-th nearest neighbour in its set: distances (N, N) within the set to (N,).

    Raises:
        ValueError: k is not in 1 … N − 1."""
    if not 1 <= k < len(within):
        raise ValueError(f"k must be in 1 … {len(within) - 1} for a set of {len(within)}, got {k}")
    return np.partition(within, k, axis=1)[:, k]  # the smallest is the distance to itself


def inside(across: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Whether point j lies in the ball of radius[i] around point i: distances (N, M) to bool (N, M)."""
    return across <= radius[:, None]


def neighbour_metrics(
    real: np.ndarray, fake: np.ndarray, across: np.ndarray, k_manifold: int = 3, k_coverage: int = 5
) -> dict[str, float]:
    """Metrics from the distances within and between real and generated features, (N, N), (M, M) and (N, M).

    The ball of an image reaches to its k-th nearest neighbour in its own set.

    - precision: the share of generated images that lie in the ball of a real image
    - recall: the share of real images that lie in the ball of a generated image.  Kynkäänniemi et al. 2019, eq. 1 – 3
    - density: the number of real images whose ball contains a generated image, by k; about 1 for real images, unbounded
    - coverage: the share of real images whose ball contains a generated image.  Naeem et al. 2020, eq. 3, 4

    The defaults of k are those that the papers recommend.

    Raises:
        ValueError: distances of other shapes, or k not smaller than a set."""
    if [real.shape, fake.shape, across.shape] != [(len(real),) * 2, (len(fake),) * 2, (len(real), len(fake))]:
        shapes = f"{real.shape}, {fake.shape} and {across.shape}"
        raise ValueError(f"real, fake and across must be distances (N, N), (M, M) and (N, M), got {shapes}")
    of_real, of_fake = radii(real, k_manifold), radii(fake, k_manifold)
    balls = inside(across, radii(real, k_coverage))
    return {
        "precision": float(inside(across, of_real).any(axis=0).mean()),
        "recall": float(inside(across.T, of_fake).any(axis=0).mean()),
        "density": float(balls.sum(axis=0).mean() / k_coverage),
        "coverage": float(balls.any(axis=1).mean()),
    }


# Copies of training images


def distance_to_nearest(images: Array, among: Array) -> np.ndarray:
    """The Euclidean distance of each image to the nearest image in `among`, in pixel levels: (N,)."""
    closest = to_numpy(among)[nearest(images, among)].astype(np.float64)
    return np.sqrt(((to_numpy(images) - closest) ** 2).sum((1, 2, 3)))


def closer_share(a: np.ndarray, b: np.ndarray) -> float:
    """P(a < b) + ½ P(a = b) for independent draws from numbers (N,) and (M,): Mann & Whitney's U / NM.

    If a and b are the distances of generated and of held-out images to their nearest training images, the expected
    value is ½ without copying, and 1 if all generated images are copies.  Meehan, Chaudhuri & Dasgupta 2020, section 3.

    Raises:
        ValueError: an empty array."""
    if not len(a) or not len(b):
        raise ValueError(f"closer_share: a and b must be at least one number each, got {len(a)} and {len(b)}")
    ordered = np.sort(b)
    below, upto = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    return float((len(b) - (below + upto) / 2).mean() / len(b))


# Disentanglement: what each number of a code tells about each factor


class InformationGap(NamedTuple):
    """The mutual information gap and what it is made of.

    Attributes:
        value: the mean of the gaps, 0 to 1.
        gaps: for each factor, (K,), 0 to 1.
        information: I(z_j; v_k), in nats, (D, K).
        entropies: H(v_k), in nats, (K,).
    """

    value: float
    gaps: np.ndarray
    information: np.ndarray
    entropies: np.ndarray


def binned(values: np.ndarray, bins: int) -> np.ndarray:
    """Numbers (N,) to the index of their bin, (N,): a bin for each distinct value if there are at most `bins`, else
    bins that hold about equally many.  Equal numbers share a bin."""
    distinct, index = np.unique(values, return_inverse=True)
    if len(distinct) <= bins:
        return index
    edges = np.sort(values)[len(values) * np.arange(1, bins) // bins]
    return np.searchsorted(edges, values, side="right")


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """I(a; b) = Σ p(a, b) log p(a, b) / (p(a) p(b)) of the frequencies of pairs of indices (N,), (N,), in nats.

    I(a; a) is the entropy of a."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    joint /= len(a)
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> InformationGap:
    """1/K Σ_k (I(z_j; v_k) − I(z_i; v_k)) / H(v_k), z_j and z_i the two numbers of the code that know most of v_k.

    Chen et al. 2018, eq. 6: 1 if one number of the code tells the factor and no other tells anything of it, 0 if two
    tell equally much.  Of a model with a posterior, give draws z ~ q(z|x), as the paper does: bins go by rank, so the
    *means* of a latent that is almost noise would count as if they were exact.

    Bins make I smaller than that of the continuous code.  The frequencies of N images make it larger, by about
    (bins − 1)(values − 1) / 2N nats (Miller 1955), for all numbers of the code alike, so most of it cancels in a gap.

    Args:
        codes: z (N, D), D ≥ 2.
        factors: v (N, K), of few values each.
        bins: for a number of the code with more distinct values than that (see `binned`).

    Raises:
        ValueError: other shapes, a number that is not finite, a factor of one value, fewer than 2 bins.
    """
    z, v = np.asarray(codes, np.float64), np.asarray(factors, np.float64)
    if not (z.ndim == v.ndim == 2 and len(z) == len(v) > 0 and z.shape[1] >= 2 and v.shape[1] >= 1):
        raise ValueError(f"codes and factors must be (N, D ≥ 2) and (N, K ≥ 1), got {z.shape} and {v.shape}")
    if not (np.isfinite(z).all() and np.isfinite(v).all()):
        raise ValueError("codes and factors must be finite numbers, got NaN or infinity")
    if not bins >= 2:
        raise ValueError(f"bins must be at least 2, got {bins!r}")
    indices = [np.unique(column, return_inverse=True)[1] for column in v.T]
    entropies = np.array([mutual_information(index, index) for index in indices])
    if not entropies.all():
        raise ValueError("factors must have at least two values each")
    information = np.array([[mutual_information(binned(column, bins), index) for index in indices] for column in z.T])
    second, first = np.sort(information, axis=0)[-2:]
    gaps = (first - second) / entropies
    return InformationGap(float(gaps.mean()), gaps, information, entropies)
