"""nanogen: deep generative models from scratch, on NumPy and CuPy."""

from nanogen import data, distributions, functional, models, nn, optim
from nanogen.autograd import Tensor, grad, no_grad, tensor
from nanogen.functional import *
from nanogen.random import Generator

__version__ = "0.1.0"
