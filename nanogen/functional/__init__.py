"""The differentiable operations: each one's forward and gradient side by side.

Names, argument order and meaning follow `torch.nn.functional` and `torch`.  What a tensor can do as a method is
listed at the end of this file.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, cast, constant
from nanogen.backend import array_module
from nanogen.backend import only as _only
from nanogen.functional import (
    activation, composed, conv, elementwise, loss, matrix, normalization, reduction, shape, special
)  # fmt: skip
from nanogen.functional.activation import *
from nanogen.functional.composed import *
from nanogen.functional.conv import *
from nanogen.functional.elementwise import *
from nanogen.functional.elementwise import overwrite
from nanogen.functional.loss import *
from nanogen.functional.matrix import *
from nanogen.functional.normalization import *
from nanogen.functional.reduction import *
from nanogen.functional.shape import *
from nanogen.functional.shape import get_item
from nanogen.functional.special import *

_FILES = (activation, composed, conv, elementwise, loss, matrix, normalization, reduction, shape, special)
__all__ = [name for file in _FILES for name in file.__all__]


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Tensor]:
    """Comparisons and logic give tensors of bools, which have no gradient."""
    return lambda self, other: Tensor(array_module(self.data).asarray(compare(self.data, constant(other, [self]).data)))


for _name in ("lt", "le", "gt", "ge", "eq", "ne", "and_", "or_"):
    setattr(Tensor, f"__{_name.rstrip('_')}__", _comparison(getattr(operator, _name)))
    setattr(
        Tensor, {"and_": "logical_and", "or_": "logical_or"}.get(_name, _name), _comparison(getattr(operator, _name))
    )
setattr(Tensor, "__invert__", lambda self: Tensor(array_module(self.data).asarray(~self.data)))
setattr(Tensor, "__hash__", object.__hash__)  # a tensor is itself: == compares numbers

_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul
}  # fmt: skip
for _name, _operation in _OPERATORS.items():
    setattr(Tensor, f"__{_name}__", lambda self, other, f=_operation: f(self, other))
    setattr(Tensor, f"__r{_name}__", lambda self, other, f=_operation: f(other, self))


def _requires_grad(input: Tensor, requires_grad: bool) -> Tensor:
    input.requires_grad = requires_grad
    return input


_METHODS: tuple[Callable[..., Any], ...] = (
    exp, expm1, log, log1p, sqrt, abs, clip, maximum, minimum, sign, tanh, sigmoid, softmax, log_softmax, sum,
    mean, var, amax, amin, logsumexp, matmul, reshape, flatten, squeeze, unsqueeze, expand, permute, transpose, flip,
    gather, sin, cos, square, erf, max, min, argmax, prod, std, norm, chunk, repeat, unflatten,
)  # fmt: skip
_ALIASES: dict[str, Callable[..., Any]] = {
    "add": add, "sub": subtract, "mul": multiply, "div": divide, "pow": power, "neg": negative, "clamp": clip,
    "__neg__": negative, "__abs__": abs, "__getitem__": get_item,
    "view": reshape, "relu": activation.relu, "split": lambda input, split_size, dim=0: split(input, split_size, dim),
    "where": lambda input, condition, other: where(condition, input, other),
    "size": lambda input, dim=None: input.shape if dim is None else input.shape[dim],
    "dim": lambda input: input.ndim, "numel": lambda input: math.prod(input.shape),
    "clone": lambda input: cast(input, dtype=input.dtype), "contiguous": lambda input: input,
    "tolist": lambda input: input.data.tolist(), "t": lambda input: input.permute(*reversed(range(input.ndim))),
    "fill_": lambda input, value: overwrite(input, Tensor(array_module(input.data).full_like(input.data, value))),
    "zero_": lambda input: input.fill_(0),
    "requires_grad_": lambda input, requires_grad=True: _requires_grad(input, requires_grad),
    "view_as": lambda input, other: input.reshape(other.shape),
    "expand_as": lambda input, other: input.expand(other.shape),
    "masked_fill": lambda input, mask, value: where(mask, value, input),
}  # fmt: skip
_TARGETS = {"cpu": "cpu", "cuda": "cuda", "float": np.float32, "double": np.float64, "int": np.int32, "long": np.int64}
for _name, _target in _TARGETS.items():
    setattr(Tensor, _name, functools.partialmethod(Tensor.to, _target))
for _name, _method in ({f.__name__: f for f in _METHODS} | _ALIASES).items():
    _called = lambda self, *args, f=_method, **kwargs: f(self, *args, **kwargs)
    setattr(Tensor, _name, _method if isinstance(_method, type(_comparison)) else _called)
setattr(Tensor, "T", property(lambda self: self.t()))
setattr(Tensor, "is_cuda", property(lambda self: self.device == "cuda"))
_no_method = _only("a tensor", vars(Tensor))


def _in_place(self: Tensor, name: str) -> Callable[..., Tensor]:
    """`x.add_(y)`: x is x.add(y) from now on; so for every method without the `_`."""
    method = getattr(Tensor, name[:-1], None) if name.endswith("_") and not name.startswith("_") else None
    return (lambda *args, **named: overwrite(self, method(self, *args, **named))) if method else _no_method(name)


setattr(Tensor, "__getattr__", _in_place)
__getattr__ = _only(__name__, globals())
