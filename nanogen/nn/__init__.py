"""Layers with parameters."""

from nanogen.nn.layers import (
    AdaptiveGroupNormSiLU,
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
    "AdaptiveGroupNormSiLU", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "Embedding", "GroupNorm",
    "GroupNormSiLU", "LayerNorm", "Linear", "MaskedConv2d", "Module", "Parameter", "Sequential",
]  # fmt: skip
