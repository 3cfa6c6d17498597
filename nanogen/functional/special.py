"""The error function and the cumulative distribution function of the normal distribution, which NumPy lacks."""

from __future__ import annotations

import math

import numpy as np

from nanogen.autograd import Tensor, composite, primitive
from nanogen.backend import array_module
from nanogen.functional.activation import sigmoid
from nanogen.functional.elementwise import abs, exp, where

__all__ = ["erf", "gelu", "log_ndtr"]


def _weideman_coefficients(terms: int) -> tuple[float, list[float]]:
    """L and the coefficients of p, highest power first, of Weideman 1994, eq. 26 and the program of table I."""
    half_width = math.sqrt(terms / math.sqrt(2))
    points = 4 * terms
    theta = np.arange(-points // 2 + 1, points // 2) * (2 * np.pi / points)
    t = half_width * np.tan(theta / 2)
    f = np.concatenate([[0.0], np.exp(-(t**2)) * (half_width**2 + t**2)])
    a = np.real(np.fft.fft(np.fft.fftshift(f))) / points
    return half_width, a[terms:0:-1].tolist()


_L, _COEFFICIENTS = _weideman_coefficients(48)


def erfcx(x):
    """exp(x²) · erfc(x) for x ≥ 0 to about 1e-15, x an array or a tensor: a rational series in (L − x) / (L + x).

    Weideman 1994, eq. 38."""
    z = (_L - x) / (_L + x)
    p = z * 0
    for coefficient in _COEFFICIENTS:
        p = p * z + coefficient
    return (2 * p / (_L + x) + 1 / math.sqrt(math.pi)) / (_L + x)


_SERIES = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(20, -1, -1)]


@primitive
def erf(input):
    """2/√π ∫₀ˣ exp(−t²) dt: up to 1 by its series (Abramowitz & Stegun 1964, 7.1.5), beyond 1 − exp(−x²) erfcx(x)."""
    xp = array_module(input)
    x, near = xp.minimum(xp.abs(input), 10.0), 0.0
    square = xp.minimum(x, 1.0) ** 2
    for coefficient in _SERIES:
        near = near * square + coefficient
    return xp.sign(input) * xp.where(x < 1, near * x, 1 - erfcx(x) * xp.exp(-x * x))


erf.vjp(lambda g, out, x: g * (exp(-x * x) * (2 / math.sqrt(math.pi))), reads="input")


@primitive
def log_ndtr(input):
    """log Φ(z), Φ the standard normal cumulative distribution function; accurate far out in both tails."""
    xp = array_module(input)
    x = xp.abs(input) * math.sqrt(0.5)
    tail = 0.5 * erfcx(x)  # Φ(−|z|) = ½ erfcx(|z| / √2) · exp(−z² / 2)
    gauss = -(x * x)
    return xp.where(input < 0, xp.log(tail) + gauss, xp.log1p(-tail * xp.exp(gauss)))


log_ndtr.vjp(lambda g, out, z: g * inverse_mills_ratio(z))


def inverse_mills_ratio(z: Tensor) -> Tensor:
    """φ(z) / Φ(z), from erfcx: far out on the left, exp(log φ − log Φ) would have no correct digits."""
    below = math.sqrt(2 / math.pi) / erfcx(abs(z) * math.sqrt(0.5))  # φ(z) / Φ(−|z|)
    density = exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return where(z < 0, below, density / (1.0 - density / below))


@composite
def gelu(input, *, approximate="none"):
    """x · Φ(x), or, approximate = `tanh`, x · ½(1 + tanh(√(2/π) (x + 0.044715 x³))).  Hendrycks & Gimpel 2016."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    if approximate == "none":
        return input * (0.5 + 0.5 * erf(input * math.sqrt(0.5)))
    # ½(1 + tanh z) = sigmoid(2z)
    return input * sigmoid(input * (1.0 + 0.044715 * input * input) * math.sqrt(8 / math.pi))
