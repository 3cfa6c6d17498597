"""How samples are judged: Fréchet distance, precision and recall, density and coverage, PSNR, inception score."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import checker
from nanogen.testing.trial import to_numpy


def _features(draw: Draw, least: int, most: int = 12, dims: tuple[int, int] = (2, 5)) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of different sizes, (N, D) and (M, D), without ties."""
    n, m = draw.sizes((least, most), (least, most))
    d = draw.integer(*dims)
    rng = draw.rng()
    a = rng.standard_normal((n, d)) * rng.uniform(0.5, 2, d)
    b = rng.standard_normal((m, d)) @ rng.uniform(-0.7, 0.7, (d, d)) + rng.uniform(-0.5, 0.5, d)
    return np.round(a, 3), np.round(b + 0.3 * rng.standard_normal((m, d)), 3)


# Fréchet distance


def _root(c: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(c)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def _overlap(c: np.ndarray, d: np.ndarray) -> float:
    """tr (C_1 C_2)^½."""
    return float(np.linalg.svd(_root(c) @ _root(d), compute_uv=False).sum())


def _frechet(
    overlap: Callable[..., Any] = _overlap,
    twice: float = 2.0,
    means: Callable[..., Any] = lambda m, n: ((m - n) ** 2).sum(),
    traces: Callable[..., Any] = lambda c, d: np.trace(c) + np.trace(d),
    moments: Callable[..., Any] | None = None,
    last: Callable[[Any], Any] = lambda x: x,
    only: str = "",
) -> Callable[..., Any]:
    def truth(*inputs: Any, given: str, covariance: str) -> Any:
        if only and given != only:
            return None
        if given == "features":
            find = moments or (lambda x, ddof: (x.mean(0), np.atleast_2d(np.cov(x, rowvar=False, ddof=ddof))))
            (m, c), (n, d) = (find(x, int(covariance == "unbiased")) for x in inputs)
        else:
            m, c, n, d = inputs
        return last(means(m, n) + traces(c, d) - twice * overlap(c, d))

    return truth


def _frechet_inputs(draw: Draw, *, given: str, covariance: str) -> dict[str, Any]:
    if given not in ("features", "moments"):
        raise ValueError(f"check_frechet_distance: given must be 'features' or 'moments', got {given!r}")
    a, b = _features(draw, 3)
    if given == "features":
        return {"a": a, "b": b}
    ddof = int(covariance == "unbiased")
    return {
        "mean1": a.mean(0),
        "covariance1": np.cov(a, rowvar=False, ddof=ddof),
        "mean2": b.mean(0),
        "covariance2": np.cov(b, rowvar=False, ddof=ddof),
    }


def _other_axis(x: np.ndarray, ddof: int) -> Any:
    c = np.cov(x, rowvar=True, ddof=ddof)
    return x.mean(0), c


FRECHET_MISTAKES = {
    "the factor 2 of the last trace missing": _frechet(twice=1.0),
    "the last trace added": _frechet(twice=-2.0),
    "the root of each entry in place of the matrix's": _frechet(
        overlap=lambda c, d: np.trace(np.sqrt(np.maximum(c @ d, 0)))
    ),
    "the root of the entries' product: tr √(C_1 ∘ C_2)": _frechet(
        overlap=lambda c, d: np.sqrt(np.maximum(np.diag(c) * np.diag(d), 0)).sum(), only="moments"
    ),
    "the root missing: tr C_1 C_2": _frechet(overlap=lambda c, d: np.trace(c @ d)),
    "C_1 ∘ C_2, entry by entry, in place of the product": _frechet(overlap=lambda c, d: _eigen_root(c * d)),
    "tr C_1^½ C_2^½, not tr (C_1 C_2)^½": _frechet(overlap=lambda c, d: np.trace(_root(c) @ _root(d))),
    "‖m_1 − m_2‖ without its square": _frechet(means=lambda m, n: math.sqrt(((m - n) ** 2).sum())),
    "the means left out": _frechet(means=lambda m, n: 0.0),
    "the mean of squares of the means' difference, not the sum": _frechet(means=lambda m, n: ((m - n) ** 2).mean()),
    "the sum of the means' difference, squared": _frechet(means=lambda m, n: (m - n).sum() ** 2),
    "the sums of all entries in place of the traces": _frechet(traces=lambda c, d: c.sum() + d.sum()),
    "the last term alone without its trace: the sum of all entries": _frechet(
        overlap=lambda c, d: _product_root(c, d).sum()
    ),
    "the root of the distance": _frechet(last=lambda x: math.sqrt(max(x, 0))),
    "tr C_2 left out": _frechet(traces=lambda c, d: np.trace(c)),
    "tr C_1 left out": _frechet(traces=lambda c, d: np.trace(d)),
    "the second moments in place of the covariances": _frechet(
        moments=lambda x, ddof: (x.mean(0), x.T @ x / (len(x) - ddof)), only="features"
    ),
    "the covariance divided by the number of features": _frechet(
        moments=lambda x, ddof: (x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / x.shape[1]), only="features"
    ),
    "the correlation in place of the covariance": _frechet(
        moments=lambda x, ddof: (x.mean(0), np.corrcoef(x, rowvar=False)), only="features"
    ),
    "the variances alone": _frechet(moments=lambda x, ddof: (x.mean(0), np.diag(x.var(0, ddof=ddof))), only="features"),
    "the covariance not divided": _frechet(
        moments=lambda x, ddof: (x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0))), only="features"
    ),
    "the covariance of the samples, not of the features": _frechet(moments=_other_axis, only="features"),
}


def _product_root(c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """(C_1 C_2)^½, which need not be symmetric: C_1^½ (C_1^½ C_2 C_1^½)^½ C_1^−½."""
    r = _root(c)
    return r @ _root(r @ d @ r) @ np.linalg.pinv(r, rcond=1e-7)


def _eigen_root(m: np.ndarray) -> float:
    return float(np.sqrt(np.linalg.eigvals(m).real.clip(0)).sum())


@checker(
    name="Fréchet distance",
    equation="‖m_1 − m_2‖² + tr(C_1 + C_2 − 2 (C_1 C_2)^½)",
    source="Heusel et al. 2017, eq. 6; Dowson & Landau 1982, eq. 4",
    inputs=_frechet_inputs,
    truth=_frechet(),
    mistakes=FRECHET_MISTAKES,
    conventions={"covariance": ("unbiased", "biased")},
    where={
        "where there are fewer samples than features": lambda *x, given, **_: (
            given == "features" and min(len(x[0]), len(x[1])) <= x[0].shape[1]
        ),
        "where the sets differ in size": lambda *x, given, **_: given == "features" and len(x[0]) != len(x[1]),
    },
    rtol=lambda single, **_: 2e-2 if single else 1e-4,  # roots of singular matrices
    tags=("judging", "fid"),
)
def check_frechet_distance(
    distance: Any, *, given: str = "features", covariance: str = "unbiased", **options: Any
) -> None:
    """The Fréchet distance of the normal distributions fitted to two sets of features: FID's formula.

    The function is called as distance(a, b), features (N, D) and (M, D), sometimes fewer than D + 1, and returns one
    number.

    Args:
        given: "features"; or "moments": it is called as distance(mean1, covariance1, mean2, covariance2), (D,) and
            (D, D), which may be singular.
        covariance: "unbiased", divided by N − 1 as np.cov does, or "biased", divided by N.

    Equation: ‖m_1 − m_2‖² + tr(C_1 + C_2 − 2 (C_1 C_2)^½).  Heusel et al. 2017, eq. 6.

    >>> import numpy as np
    >>> def distance(a, b):
    ...     c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    ...     roots = np.sqrt(np.maximum(np.linalg.eigvals(c @ d).real, 0)).sum()
    ...     return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * roots
    >>> check_frechet_distance(distance)
    """


# Precision, recall, density, coverage


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """The distance to the k-th nearest neighbour, without the point itself."""
    return np.sort(_distances(x, x), axis=1)[:, k]


def _share(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """The share of the points that lie in a ball of the centres."""
    return float((_distances(points, centres) <= _radii(centres, k)[None]).any(1).mean())


def _manifold(precision: Callable[..., Any], recall: Callable[..., Any]) -> Callable[..., Any]:
    def truth(real: Any, fake: Any, *, k: int) -> Any:
        return {"precision": precision(real, fake, k), "recall": recall(real, fake, k)}

    return truth


_precision = lambda real, fake, k: _share(fake, real, k)
_recall = lambda real, fake, k: _share(real, fake, k)


def _by(share: Callable[[np.ndarray, np.ndarray, int], float]) -> Callable[..., Any]:
    """The same mistake in both."""
    return _manifold(lambda real, fake, k: share(fake, real, k), lambda real, fake, k: share(real, fake, k))


def _sets(draw: Draw, *, k: int) -> dict[str, Any]:
    real, fake = _features(draw, max(k + 2, 8), k + 12, (2, 3))  # others of the family may run with larger k
    return {"real": real, "fake": fake}


def _two(f: Any, inputs: dict[str, Any], **_: Any) -> Any:
    """Both outputs; the first alone is enough."""
    found = f(*inputs.values())
    if isinstance(found, dict | tuple | list):
        return found
    return (found, None) if np.ndim(to_numpy(found)) == 0 else found


@checker(
    name="precision and recall",
    equation="the share of samples in a ball of the images, and of images in a ball of the samples; "
    "a ball reaches to the k-th neighbour",
    source="Kynkäänniemi et al. 2019, eq. 1 – 3",
    inputs=_sets,
    truth=_manifold(_precision, _recall),
    mistakes={
        "precision and recall swapped": _manifold(_recall, _precision),
        "the point itself counted as its first neighbour: k − 1": _by(lambda p, c, k: _share(p, c, k - 1)),
        "the (k + 1)-th neighbour": _by(lambda p, c, k: _share(p, c, k + 1)),
        "the radius of the point, not of the ball's centre": _by(
            lambda p, c, k: float((_distances(p, c) <= _radii(p, k)[:, None]).any(1).mean())
        ),
        "in all balls instead of any": _by(
            lambda p, c, k: float((_distances(p, c) <= _radii(c, k)[None]).all(1).mean())
        ),
        "the nearest centre's ball alone": _by(
            lambda p, c, k: float((_distances(p, c).min(1) <= _radii(c, k)[_distances(p, c).argmin(1)]).mean())
        ),
        "one radius for all: the largest": _by(
            lambda p, c, k: float((_distances(p, c) <= _radii(c, k).max()).any(1).mean())
        ),
        "one radius for all: the mean": _by(
            lambda p, c, k: float((_distances(p, c) <= _radii(c, k).mean()).any(1).mean())
        ),
        "the share of pairs instead of points": _by(
            lambda p, c, k: float((_distances(p, c) <= _radii(c, k)[None]).mean())
        ),
        "1 minus the share": _by(lambda p, c, k: 1 - _share(p, c, k)),
        "squared distances against radii that are not squared": _by(
            lambda p, c, k: float((_distances(p, c) ** 2 <= _radii(c, k)[None]).any(1).mean())
        ),
    },
    run=_two,
    where={"where the sets differ in size": lambda a, b, **_: len(a) != len(b)},
    tags=("judging", "manifold"),
)
def check_precision_recall(precision_and_recall: Any, *, k: int = 3, **options: Any) -> None:
    """Improved precision and recall, of features.

    The function is called as f(real, fake), features (N, D) and (M, D), and returns precision and recall (or a dict of
    these names, or precision alone).

    Args:
        k: the neighbours with which yours runs.  The point itself is not one of them.

    Equation: precision: the share of samples that lie in a ball of an image, which reaches to its k-th nearest image;
    recall: the share of images that lie in a sample's ball.  Kynkäänniemi et al. 2019, eq. 1 – 3.

    >>> import numpy as np
    >>> distances = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)
    >>> share = lambda x, c: (distances(x, c) <= np.sort(distances(c, c))[:, 3]).any(1).mean()
    >>> check_precision_recall(lambda real, fake: (share(fake, real), share(real, fake)), k=3)
    """


def _covers(density: Callable[..., Any], coverage: Callable[..., Any]) -> Callable[..., Any]:
    def truth(real: Any, fake: Any, *, k: int) -> Any:
        return {"density": density(real, fake, k), "coverage": coverage(real, fake, k)}

    return truth


def _inside(real: np.ndarray, fake: np.ndarray, k: int) -> np.ndarray:
    """(M, N): whether a sample lies in an image's ball."""
    return _distances(fake, real) <= _radii(real, k)[None]


_density = lambda real, fake, k: float(_inside(real, fake, k).sum() / (k * len(fake)))
_coverage = lambda real, fake, k: float(_inside(real, fake, k).any(0).mean())


@checker(
    name="density and coverage",
    equation="density Σ_ij 1(fake_j in ball_i)/(k M), coverage the share of images whose ball has a sample",
    source="Naeem et al. 2020, eq. 3, 4",
    inputs=_sets,
    truth=_covers(_density, _coverage),
    mistakes={
        "density divided by N k, not by M k": _covers(
            lambda r, f, k: float(_inside(r, f, k).sum() / (k * len(r))), _coverage
        ),
        "density not divided by k": _covers(lambda r, f, k: k * _density(r, f, k), _coverage),
        "density divided by N M": _covers(lambda r, f, k: float(_inside(r, f, k).mean()), _coverage),
        "precision in place of density": _covers(_precision, _coverage),
        "coverage: the share of samples in a ball, not of balls": _covers(_density, _precision),
        "coverage by the samples' balls": _covers(_density, lambda r, f, k: _share(r, f, k)),
        "images and samples swapped": _covers(lambda r, f, k: _density(f, r, k), lambda r, f, k: _coverage(f, r, k)),
        "the point itself counted as its first neighbour: k − 1": _covers(
            lambda r, f, k: float(_inside(r, f, k - 1).sum() / (k * len(f))), lambda r, f, k: _coverage(r, f, k - 1)
        ),
        "the (k + 1)-th neighbour": _covers(
            lambda r, f, k: float(_inside(r, f, k + 1).sum() / (k * len(f))), lambda r, f, k: _coverage(r, f, k + 1)
        ),
        "divided by k + 1": _covers(lambda r, f, k: _density(r, f, k) * k / (k + 1), _coverage),
    },
    run=_two,
    where={"where the sets differ in size": lambda a, b, **_: len(a) != len(b)},
    tags=("judging", "manifold"),
)
def check_density_coverage(density_and_coverage: Any, *, k: int = 5, **options: Any) -> None:
    """Density and coverage, of features.

    The function is called as f(real, fake), features (N, D) and (M, D), and returns density and coverage (or a dict of
    these names, or density alone).

    Args:
        k: the neighbours with which yours runs.  The point itself is not one of them.

    Equation: density 1/(k M) Σ_j Σ_i 1(fake_j in the ball of real_i); coverage 1/N Σ_i 1(some fake_j in it).  Naeem
    et al. 2020, eq. 3 and 4.

    >>> import numpy as np
    >>> distances = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1)
    >>> def both(real, fake):
    ...     inside = distances(fake, real) <= np.sort(distances(real, real))[:, 5]
    ...     return inside.sum() / (5 * len(fake)), inside.any(0).mean()
    >>> check_density_coverage(both, k=5)
    """


# PSNR

_PEAKS = {"0…1": 1.0, "−1…1": 2.0, "0…255": 255.0, "uint8": 255.0}


def _psnr(
    peak: Callable[[float], float] = lambda p: p,
    mse: Callable[..., Any] | None = None,
    level: Callable[..., Any] = lambda p, m: 10 * np.log10(p**2 / m),
    wraps: bool = False,
    longer: bool = False,
) -> Callable[..., Any]:
    def truth(a: Any, b: Any, *, pixels: str, reduction: str) -> Any:
        if (wraps and pixels != "uint8") or (longer and pixels == "0…1"):
            return None
        if wraps:
            difference = (a.astype(np.uint8) - b.astype(np.uint8)).astype(float)
        else:
            difference = a.astype(float) - b.astype(float)
        squares = (difference**2 if mse is None else mse(difference)).reshape(len(a), -1)
        if reduction == "all":
            return level(peak(_PEAKS[pixels]), squares.mean())
        each = level(peak(_PEAKS[pixels]), squares.mean(1))
        return each.mean() if reduction == "mean" else each

    return truth


def _images(draw: Draw, *, pixels: str, reduction: str) -> dict[str, np.ndarray]:
    shape = draw.sizes((2, 3), (1, 3), (2, 3), (2, 4))
    rng = draw.rng()
    a = rng.integers(20, 235, shape)
    widths = rng.integers(2, 60, (shape[0], 1, 1, 1))  # images of different quality
    b = np.clip(a + rng.integers(-1, 2, shape) * widths + 1, 0, 255)
    if pixels == "uint8":
        return {"a": a.astype(np.uint8), "b": b.astype(np.uint8)}
    scale = {"0…1": lambda x: x / 255, "−1…1": lambda x: x / 127.5 - 1, "0…255": lambda x: x.astype(float)}[pixels]
    return {"a": scale(a), "b": scale(b)}


@checker(
    name="PSNR",
    equation="10 log₁₀(peak²/MSE), peak the range of the pixels",
    source="Huynh-Thu & Ghanbari 2008",
    inputs=_images,
    truth=_psnr(),
    mistakes={
        "the natural logarithm": _psnr(level=lambda p, m: 10 * np.log(p**2 / m)),
        "the logarithm to base 2": _psnr(level=lambda p, m: 10 * np.log2(p**2 / m)),
        "20 in place of 10": _psnr(level=lambda p, m: 20 * np.log10(p**2 / m)),
        "the peak not squared": _psnr(level=lambda p, m: 10 * np.log10(p / m)),
        "20 log₁₀(peak/MSE): the root missing": _psnr(level=lambda p, m: 20 * np.log10(p / m), longer=True),
        "10 log₁₀(peak/√MSE)": _psnr(level=lambda p, m: 5 * np.log10(p**2 / m)),
        "the sign turned round": _psnr(level=lambda p, m: -10 * np.log10(p**2 / m)),
        "the absolute error in place of the squared one": _psnr(mse=np.abs),
        "the sum over an image's pixels in place of the mean": _psnr(mse=lambda d: d**2 * d[0].size),
        "uint8 differences that wrap around": _psnr(wraps=True),
        "uint8 squares that wrap around": _psnr(
            mse=lambda d: ((d.astype(int) % 256) ** 2 % 256).astype(float), wraps=True
        ),
        "the peak 1": _psnr(peak=lambda p: 1.0),
        "the peak 255": _psnr(peak=lambda p: 255.0),
        "the peak 256": _psnr(peak=lambda p: p * 256 / 255),
    },
    conventions={"reduction": ("mean", "all", "none")},
    tags=("judging", "psnr"),
)
def check_psnr(psnr: Any, *, pixels: str = "0…1", reduction: str = "mean", **options: Any) -> None:
    """The peak signal-to-noise ratio, in decibels.

    The function is called as psnr(a, b), images (N, C, H, W).

    Args:
        pixels: their range: "0…1", "−1…1", "0…255", or "uint8", integers of that type.
        reduction: "mean": the mean of the images' ratios;  "all": the ratio of all pixels together;  "none": (N,).

    Equation: 10 log₁₀(peak²/MSE); the peak is 1, 2 or 255, the range's length.

    >>> import numpy as np
    >>> check_psnr(lambda a, b: (-10 * np.log10(((a - b) ** 2).mean(axis=(1, 2, 3)))).mean())
    """


# Inception score


def _score(
    divergence: Callable[[Any, Any], Any] | None = None,
    marginal: Callable[[Any], Any] = lambda p: p.mean(0, keepdims=True),
    last: Callable[[Any], Any] = lambda kl: np.exp(kl.mean()),
) -> Callable[..., Any]:
    def truth(p: Any) -> Any:
        q = marginal(p)
        return last((p * np.log(p / q)).sum(1) if divergence is None else divergence(p, q))

    return truth


@checker(
    name="inception score",
    equation="exp E_x KL(p(y|x) ‖ p(y)), p(y) = E_x p(y|x)",
    source="Salimans et al. 2016, section 4",
    inputs=lambda draw, **_: {"p": draw.probabilities(*draw.sizes((2, 5), (2, 4)))},
    truth=_score(),
    mistakes={
        "the exponential missing": _score(last=lambda kl: kl.mean()),
        "the mean of the exponentials": _score(last=lambda kl: np.exp(kl).mean()),
        "the sum over the images, not the mean": _score(last=lambda kl: np.exp(kl.sum())),
        "the mean over the classes, not the sum": _score(divergence=lambda p, q: (p * np.log(p / q)).mean(1)),
        "KL(p(y) ‖ p(y|x)), the other way round": _score(divergence=lambda p, q: (q * np.log(q / p)).sum(1)),
        "a uniform marginal, which is what a mean over the classes makes": _score(
            marginal=lambda p: np.full((1, p.shape[1]), 1 / p.shape[1])
        ),
        "the entropy alone: exp(−E Σ p log p)": _score(divergence=lambda p, q: -(p * np.log(p)).sum(1)),
        "the logarithm to base 2, but the exponential to base e": _score(
            divergence=lambda p, q: (p * np.log2(p / q)).sum(1)
        ),
        "2 to the power of the nats": _score(last=lambda kl: 2 ** kl.mean()),
        "the marginal not averaged but summed": _score(marginal=lambda p: p.sum(0, keepdims=True)),
    },
    tags=("judging",),
)
def check_inception_score(score: Any, **options: Any) -> None:
    """The inception score of predicted class probabilities, without splits.

    The function is called as score(p), probabilities (N, K) whose rows sum to 1, and returns one number.

    Equation: exp E_x KL(p(y|x) ‖ p(y)), p(y) = E_x p(y|x).  Salimans et al. 2016, section 4.

    >>> import numpy as np
    >>> check_inception_score(lambda p: np.exp((p * np.log(p / p.mean(0))).sum(1).mean()))
    """
