"""The differentiable operations: each one's forward and gradient side by side.

Names, argument order and meaning follow `torch.nn.functional` and `torch`.  What a tensor can do as a method is
listed at the end of this file.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

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

# NumPy's functions of tensors.  Of its ufuncs a tensor takes part in the operators alone: `np.exp(x)` is a TypeError.
_OF_NUMPY: dict[Callable[..., Any], Callable[..., Tensor]] = {
    np.stack: lambda arrays, axis=0: stack(arrays, axis),
    np.concatenate: lambda arrays, axis=0: cat(arrays, axis),
    np.where: lambda condition, x, y: where(condition, x, y),
    np.clip: lambda a, a_min=None, a_max=None: clip(a, a_min, a_max),
    np.reshape: lambda a, shape: reshape(a, shape),
    np.transpose: lambda a, axes=None: permute(a, axes or tuple(reversed(range(a.ndim)))),
    np.dot: lambda a, b: multiply(a, b) if 0 in (constant(a).ndim, constant(b).ndim) else matmul(a, _at_most_2(b)),
    np.sum: lambda a, axis=None, keepdims=False: sum(a, axis, keepdims),
    np.mean: lambda a, axis=None, keepdims=False: mean(a, axis, keepdims),
    np.max: lambda a, axis=None, keepdims=False: amax(a, dim=axis, keepdim=keepdims),
    np.min: lambda a, axis=None, keepdims=False: amin(a, dim=axis, keepdim=keepdims),
}


def _at_most_2(b: Any) -> Tensor:
    if constant(b).ndim > 2:
        raise TypeError(f"np.dot: of tensors the second one has at most two axes, got shape {constant(b).shape}")
    return constant(b)


def _takes(function: Callable[..., Any], args: Any, named: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **named)
    except TypeError:
        return False
    return True


def _array_function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What NumPy's `function` gives of tensors: by ours, if there is the same; otherwise of their numbers.

    Raises:
        TypeError: these give numbers, of tensors that require gradients."""
    if (ours := _OF_NUMPY.get(function)) and _takes(ours, args, named):
        return ours(*args, **named)
    found: list[Tensor] = []

    def raw(value: Any) -> Any:
        if isinstance(value, Tensor):
            found.append(value)
            return np.asarray(value)
        return type(value)(map(raw, value)) if type(value) in (tuple, list) else value

    args, named = raw(args), {name: raw(value) for name, value in named.items()}
    result = function(*args, **named)
    parts = result if isinstance(result, tuple | list) else [result]
    lost = any(getattr(part, "dtype", np.dtype(int)).kind == "f" for part in parts)
    if lost and any(x.requires_grad for x in found):
        name = function.__name__
        raise TypeError(f"np.{name} would lose the gradient: use nanogen's functions, or .detach().numpy()")
    return result


setattr(Tensor, "__array_function__", _array_function)
