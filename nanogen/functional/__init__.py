"""The differentiable operations: each one's forward and gradient side by side.

Names, argument order and meaning follow `torch.nn.functional` and `torch`.  What a tensor can do as a method is
listed at the end of this file.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from nanogen.autograd import Tensor, constant
from nanogen.backend import array_module
from nanogen.functional import activation, conv, elementwise, loss, matrix, normalization, reduction, shape, special
from nanogen.functional.activation import *
from nanogen.functional.conv import *
from nanogen.functional.elementwise import *
from nanogen.functional.loss import *
from nanogen.functional.matrix import *
from nanogen.functional.normalization import *
from nanogen.functional.reduction import *
from nanogen.functional.shape import *
from nanogen.functional.shape import get_item
from nanogen.functional.special import *

_FILES = (activation, conv, elementwise, loss, matrix, normalization, reduction, shape, special)
__all__ = [name for file in _FILES for name in file.__all__]


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Tensor]:
    """Comparisons and logic give tensors of bools, which have no gradient."""
    return lambda self, other: Tensor(array_module(self.data).asarray(compare(self.data, constant(other, [self]).data)))


for _name in ("lt", "le", "gt", "ge", "eq", "ne", "and_", "or_"):
    setattr(Tensor, f"__{_name.rstrip('_')}__", _comparison(getattr(operator, _name)))
setattr(Tensor, "__invert__", lambda self: Tensor(array_module(self.data).asarray(~self.data)))
setattr(Tensor, "__hash__", object.__hash__)  # a tensor is itself: == compares numbers

_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul
}  # fmt: skip
for _name, _operation in _OPERATORS.items():
    setattr(Tensor, f"__{_name}__", lambda self, other, f=_operation: f(self, other))
    setattr(Tensor, f"__r{_name}__", lambda self, other, f=_operation: f(other, self))

_METHODS: tuple[Callable[..., Any], ...] = (
    exp, expm1, log, log1p, sqrt, abs, clip, maximum, minimum, sign, tanh, sigmoid, relu, softmax, log_softmax, sum,
    mean, var, amax, amin, logsumexp, matmul, reshape, flatten, squeeze, unsqueeze, expand, permute, transpose, flip,
    split, gather,
)  # fmt: skip
_ALIASES: dict[str, Callable[..., Any]] = {
    "add": add, "sub": subtract, "mul": multiply, "div": divide, "pow": power, "neg": negative, "clamp": clip,
    "__neg__": negative, "__abs__": abs, "__getitem__": get_item,
    "view": reshape, "where": lambda input, condition, other: where(condition, input, other),
}  # fmt: skip
for _name, _method in ({f.__name__: f for f in _METHODS} | _ALIASES).items():
    setattr(Tensor, _name, lambda self, *args, f=_method, **kwargs: f(self, *args, **kwargs))
