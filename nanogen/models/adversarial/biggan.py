"""What the BigGAN adds to a GAN.  Brock, Donahue & Simonyan 2019, section 3 and appendix B."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array, to_device, to_numpy
from nanogen.nn import ConvTranspose2d
from nanogen.random import Generator


def truncated_normal(rng: Generator, shape: tuple[int, ...], dtype: Any, truncation: float | None = None) -> Array:
    """z ~ N(0, 1) given |z| ≤ truncation; without one, z ~ N(0, 1).  Brock et al. 2019, section 3.1.

    The paper draws again what is too large, which takes ever longer as the threshold t falls.  Here z is where the
    cumulative distribution function is u ~ U[0, 1), so each z takes one number: erf(z/√2) = (2u − 1) erf(t/√2).

    Raises:
        ValueError: a truncation that is not a number ≥ 0."""
    if truncation is None:
        return rng.normal(shape, dtype=dtype)
    if not truncation >= 0:
        raise ValueError(f"truncation must be a number ≥ 0, got {truncation!r}")
    bound = min(truncation, 10.0)  # beyond 10, erf(z/√2) is 1 in float64
    signed = (2 * rng.uniform(shape, dtype=np.float64) - 1) * F.erf(Tensor(np.array(bound / math.sqrt(2)))).item()
    low, high = signed * 0 - bound, signed * 0 + bound
    for _ in range(60):  # bisection, to the last digit
        middle = (low + high) / 2
        below = F.erf(Tensor(middle / math.sqrt(2))).data < signed
        low, high = low + below * (middle - low), high + ~below * (middle - high)
    return ((low + high) / 2).astype(dtype)


def orthogonal_weight(layer: Any, rng: Generator) -> Array:
    """First weights for a layer: as a matrix W with a row for each output, W Wᵀ = I, or Wᵀ W = I if it is tall.

    Q of a QR decomposition of normal numbers, whose signs are such that R has a positive diagonal: all such matrices
    are equally probable.  Saxe et al. 2014, section 3; Brock et al. 2019, appendix B.

    Args:
        layer: one whose outputs are the first axis of its weight, or a transposed convolution, where they are the
            second."""
    shape = layer.weight.shape
    rows = shape[1 if isinstance(layer, ConvTranspose2d) else 0]
    normal = to_numpy(rng.normal((rows, math.prod(shape) // rows)))
    tall = len(normal) >= normal.shape[1]
    q, r = np.linalg.qr(normal if tall else normal.T)
    q = q * np.sign(r.diagonal())
    matrix = q if tall else q.T
    if isinstance(layer, ConvTranspose2d):
        matrix = np.swapaxes(matrix.reshape(rows, shape[0], *shape[2:]), 0, 1)
    # contiguous as it is read from a file, since the order of sums depends on it
    return to_device(np.ascontiguousarray(matrix.reshape(shape)), rng.device)
