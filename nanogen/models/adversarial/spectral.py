"""Layers of the SAGAN: spectral normalisation (Miyato et al. 2018) and self-attention (Zhang et al. 2019).

A layer W x + b whose W is divided by its largest singular value σ(W), the spectral norm, has slope at most 1; for a
convolution W is the matrix of its kernels, and the bound is a number that depends on their size.  So the slope of a
network of such layers is bounded, whatever its weights: the discriminator can't become steep.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, changes
from nanogen.backend import Array
from nanogen.nn import Conv2d, ConvTranspose2d, Module, Parameter
from nanogen.random import Generator

Wrap = Callable[[Module], Module]


class SpectralNorm(Module):
    """The layer with W / σ(W) in place of its weight W.  Miyato et al. 2018, eq. 8.

    W is the layer's weight as a matrix with a row for each output.  A step of power iteration at each call in training
    brings u, and v with it, closer to the first singular vectors of W, which moves little between two calls.

    Args:
        layer: a module with `weight`, an axis of which is that of the outputs: the first, or the second of a
            transposed convolution.
        rng: draws the first u.

    Buffers:
        u: the estimate of the first left singular vector: (outputs,).
    """

    u: Tensor

    def __init__(self, layer: Any, rng: Generator):
        super().__init__()
        self.layer = layer
        self.register_buffer("u", Tensor(unit(rng.normal(len(self.matrix())))))

    def matrix(self) -> Tensor:
        """W as a matrix: (outputs, the other axes)."""
        weight: Tensor = self.layer.weight
        outputs_first = weight.transpose(0, 1) if isinstance(self.layer, ConvTranspose2d) else weight
        return outputs_first.reshape(outputs_first.shape[0], -1)

    def spectral_norm(self) -> Tensor:
        """σ = uᵀ W v with v ← Wᵀu/‖Wᵀu‖ and, in training, then u ← Wv/‖Wv‖.  Miyato et al. 2018, algorithm 1.

        The gradient holds u and v fixed; at the singular vectors, where σ is stationary in them, that is exact."""
        w, u = self.matrix(), self.u.data[None]
        fixed = w.detach()
        v = Tensor(unit((Tensor(u) @ fixed).data).T)
        if self.training:
            u[...] = unit((fixed @ v).data).T  # in place: a captured CUDA graph uses the same memory
            changes.note(self.u.data)
        return (Tensor(u.copy()) @ w @ v).reshape(())  # of a copy, which the next call does not change

    def forward(self, *inputs: Any) -> Tensor:
        normalised = copy.copy(self.layer)
        normalised.weight = self.layer.weight / self.spectral_norm()
        out: Tensor = normalised(*inputs)
        return out


def unit(x: Array) -> Array:
    """x / ‖x‖."""
    return x / ((x**2).sum(keepdims=True) ** 0.5 + 1e-12)


class SelfAttention(Module):
    """x + γ o, where each pixel's o is a mean over all pixels of the image: (N, C, H, W) to the same shape.

    o_j = v(Σ_i β_ji h(x_i)), β_j = softmax over i of f(x_i)ᵀ g(x_j), with 1×1 convolutions f, g (C/8 features), h (C/2)
    and v.  γ begins as 0: the network first learns without attention.  Zhang et al. 2019, eq. 1 – 3.

    Args:
        channels: C.
        wrap: what is done to each of the convolutions, for instance a `SpectralNorm`.
        rng: draws the initial weights.
    """

    def __init__(self, channels: int, wrap: Wrap, rng: Generator):
        super().__init__()
        few, half = max(1, channels // 8), max(1, channels // 2)
        pointwise = lambda inputs, outputs: wrap(Conv2d(inputs, outputs, 1, bias=False, rng=rng))
        self.f, self.g = pointwise(channels, few), pointwise(channels, few)
        self.h, self.v = pointwise(channels, half), pointwise(half, channels)
        self.gamma = Parameter(np.zeros(1, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        keys, queries, values = (part(x).flatten(2).transpose(1, 2) for part in (self.f, self.g, self.h))  # (N, HW, ·)
        seen = F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2)
        return x + self.gamma * self.v(seen.reshape(len(x), -1, *x.shape[2:]))
