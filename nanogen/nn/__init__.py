"""Modules: layers with parameters, and torch's modules without parameters."""

import sys as _sys

from nanogen import functional
from nanogen.backend import only as _only
from nanogen.nn import init
from nanogen.nn.layers import (
    AdaptiveGroupNormSiLU, AvgPool2d, BatchNorm1d, BatchNorm2d, BCELoss, BCEWithLogitsLoss, Conv2d, ConvTranspose2d,
    CrossEntropyLoss, Dropout, Embedding, Flatten, GELU, GroupNorm, GroupNormSiLU, Identity, InstanceNorm2d, L1Loss,
    LayerNorm, LeakyReLU, Linear, LogSoftmax, MaskedConv2d, MaxPool2d, MSELoss, ReLU, Sigmoid, SiLU,
    Softmax, Softplus, Tanh, Upsample,
)  # fmt: skip
from nanogen.nn.module import Module, ModuleList, Parameter, Sequential

_sys.modules[f"{__name__}.functional"] = functional  # for `import nanogen.nn.functional as F`
__getattr__ = _only(__name__, globals())
