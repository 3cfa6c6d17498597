"""The differentiable operations, each with its gradient.

Names, argument order and meaning follow `torch.nn.functional` and `torch`.  This file lists those that are also methods
of tensors.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, cast, constant
from nanogen.backend import array_module, only as _only
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
    """A comparison or logical operation; the result is a tensor of bools, which has no gradient."""
    return lambda self, other: Tensor(array_module(self.data).asarray(compare(self.data, constant(other, [self]).data)))


for _name in ("lt", "le", "gt", "ge", "eq", "ne", "and", "or"):
    _compare = _comparison(getattr(operator, f"__{_name}__"))
    setattr(Tensor, f"__{_name}__", _compare)
    setattr(Tensor, f"logical_{_name}" if _name in ("and", "or") else _name, _compare)
setattr(Tensor, "__invert__", lambda self: Tensor(array_module(self.data).asarray(~self.data)))
setattr(Tensor, "__hash__", object.__hash__)  # by identity, since == compares numbers

_OPERATORS: dict[str, Callable[..., Tensor]] = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul
}  # fmt: skip
for _name, _operation in _OPERATORS.items():
    setattr(Tensor, f"__{_name}__", lambda self, other, f=_operation: f(self, other))
    setattr(Tensor, f"__r{_name}__", lambda self, other, f=_operation: f(other, self))


_METHODS: tuple[Callable[..., Any], ...] = (
    exp, expm1, log, log1p, sqrt, abs, clip, maximum, minimum, sign, tanh, sigmoid, softmax, log_softmax, sum,
    mean, var, amax, amin, logsumexp, matmul, reshape, flatten, squeeze, unsqueeze, expand, permute, transpose, flip,
    gather, sin, cos, square, erf, max, min, argmax, prod, std, norm, chunk, repeat,
)  # fmt: skip
_ALIASES: dict[str, Callable[..., Any]] = {
    "add": add, "sub": subtract, "mul": multiply, "div": divide, "pow": power, "neg": negative, "clamp": clip,
    "__neg__": negative, "__abs__": abs, "__getitem__": get_item,
    "view": reshape, "relu": activation.relu, "split": lambda input, split_size, dim=0: split(input, split_size, dim),
    "where": lambda input, condition, other: where(condition, input, other),
    "size": lambda input, dim=None: input.shape if dim is None else input.shape[dim],
    "dim": lambda input: input.ndim, "numel": lambda input: math.prod(input.shape),
    "clone": lambda input: cast(input, dtype=input.dtype), "contiguous": lambda input: input,
    "__len__": lambda input: len(input.data), "__float__": lambda input: float(input.item()),
    "__int__": lambda input: int(input.item()), "__bool__": lambda input: bool(input.item()),
    "tolist": lambda input: input.data.tolist(), "t": lambda input: input.permute(*reversed(range(input.ndim))),
    "fill_": lambda input, value: overwrite(input, Tensor(array_module(input.data).full_like(input.data, value))),
    "zero_": lambda input: input.fill_(0),
    "requires_grad_": lambda input, requires_grad=True: setattr(input, "requires_grad", requires_grad) or input,  # type: ignore
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
    """`x.add_(y)` assigns x.add(y) to x; likewise for every other method."""
    method = getattr(Tensor, name[:-1], None) if name.endswith("_") and not name.startswith("_") else None
    return (lambda *args, **named: overwrite(self, method(self, *args, **named))) if method else _no_method(name)


setattr(Tensor, "__getattr__", _in_place)

# NumPy's functions that work on tensors.  Its ufuncs do not: `np.exp(x)` is a TypeError.
_OF_NUMPY: dict[Callable[..., Any], Callable[..., Any]] = {
    np.stack: lambda arrays, axis=0: stack(arrays, axis),
    np.concatenate: lambda arrays, axis=0: cat(arrays, axis),
    np.where: lambda condition, x=None, y=None: np.nonzero(condition.data) if x is None else where(condition, x, y),
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


def _array_function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """NumPy's `function` of tensors: by our function if there is one, otherwise on their arrays.

    Raises:
        TypeError: a gradient would be lost."""
    ours = _OF_NUMPY.get(function)
    takes = inspect.signature(ours).parameters if ours else {}
    if ours and named.keys() <= takes.keys() and len(args) <= len(takes):
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
__getattr__ = _only(__name__, globals())
