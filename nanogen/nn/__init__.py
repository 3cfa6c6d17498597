"""Layers with parameters."""

from nanogen.nn.layers import (
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    GroupNorm,
    GroupNormSiLU,
    LayerNorm,
    Linear,
    MaskedConv2d,
)
from nanogen.nn.module import Module, Parameter, Sequential

__all__ = [
    "BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "Embedding", "GroupNorm", "GroupNormSiLU",
    "LayerNorm", "Linear", "MaskedConv2d", "Module", "Parameter", "Sequential",
]  # fmt: skip
