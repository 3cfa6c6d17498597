"""Linear layers: the product of rows with the weights, plus the bias."""

from __future__ import annotations

import numpy as np

from nanogen.functional.conv import convolve_with_bias
from nanogen.functional.matrix import affine
from nanogen.kernels.cpu.convolution import has_images
from nanogen.kernels.cpu.products import matmul
from nanogen.kernels.cpu.threads import blas_threads

LARGE = 1 << 16  # numbers
FORWARD, GRADIENT = convolve_with_bias.kernels["cpu"]  # that `convolution` has registered
POINTWISE = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "size": None}


@affine.kernel("cpu")
class Affine:
    """By plain products with one thread, else as a convolution of pixels; forward that is faster even then, except for
    its beginning."""

    def forward(x, w, b):
        if not has_images(x, w, b) or not x.size or x.ndim < 2 or w.ndim != 2 or b.shape not in ((), w.shape[:1]):
            return NotImplemented
        if x.size > LARGE or blas_threads()[0]() > 1:
            out = FORWARD(as_pixels(x), w[:, :, None, None], np.broadcast_to(b, len(w)), **POINTWISE)[0]
            return out.transpose(0, 2, 3, 1).reshape(*x.shape[:-1], len(w)), None
        out = matmul(x.reshape(-1, x.shape[-1]), w.T)
        out += b
        return out.reshape(*x.shape[:-1], len(w)), None

    def gradient(g, saved, x, w, b, *, wanted):
        if blas_threads()[0]() > 1:
            images, kernel = [as_pixels(g), None, as_pixels(x)], w[:, :, None, None]
            dx, dw, db = GRADIENT(*images, kernel, b, wanted=wanted, **POINTWISE)
            dx = None if dx is None else dx.transpose(0, 2, 3, 1).reshape(x.shape)
            dw = None if dw is None else dw[..., 0, 0]
        else:
            rows = g.reshape(-1, len(w))
            dx = matmul(rows, w).reshape(x.shape) if wanted[0] else None
            dw = matmul(rows.T, x.reshape(-1, x.shape[-1])) if wanted[1] else None
            db = matmul(np.ones((1, len(rows)), g.dtype), rows)[0] if wanted[2] else None
        return [dx, dw, db if b.ndim or db is None else db.sum()]


def as_pixels(x: np.ndarray) -> np.ndarray:
    """(N, …, C) as images (N, C, 1, …)."""
    return x.reshape(len(x), 1, -1, x.shape[-1]).transpose(0, 3, 1, 2)
