"""nanogen: deep generative models from scratch, on NumPy and CuPy."""

import importlib.util as _util
import os as _os

from numpy import bool_ as bool, float32, float32 as float, float64, float64 as double  # torch's names of types
from numpy import int32, int32 as int, int64, int64 as long, uint8

from nanogen import autograd, data, distributions, functional, models, nn, optim, testing
from nanogen.autograd import Tensor, composite, grad, is_grad_enabled, no_grad, primitive, set_grad_enabled, tensor
from nanogen.backend import only as _only
from nanogen.factories import *
from nanogen.functional import *
from nanogen.graph import graph
from nanogen.nn.module import load, save
from nanogen.random import Generator, default_generator, manual_seed

__version__ = "0.1.0"
autograd.gradcheck = testing.gradcheck  # type: ignore[attr-defined]  # as torch names it
__getattr__ = _only(__name__, globals())

if _util.find_spec("nanogen.kernels") and _os.environ.get("NANOGEN_KERNELS") != "0":
    import nanogen.kernels
