"""Checks for anybody's operations: gradients against differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, grad, tensor
from nanogen.backend import to_device


def gradcheck(
    func: Callable[..., Any], inputs: Tensor | Sequence[Any], eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:  # fmt: skip
    """Whether the gradients of `func(*inputs)`, a tensor or several, are those of central differences.

    For each input x that requires gradients, in a random direction d and for a random cotangent c,

        ⟨vjp(c), d⟩  =  ⟨c, f(x + εd) − f(x − εd)⟩ / 2ε  +  O(ε²).

    The two sides, a and b, may differ by atol + rtol · |b|.  In torch that is `fast_mode`.

    Raises:
        ValueError: an input that requires gradients and is not float64; no input that requires them.
        RuntimeError: the gradient of an input is wrong, unless raise_exception=False.
    """
    inputs, rng = [inputs] if isinstance(inputs, Tensor) else list(inputs), np.random.default_rng(0)
    learned = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not learned or any(inputs[i].dtype != np.float64 for i in learned):
        raise ValueError(
            "gradcheck: at least one of the inputs must require gradients, and all that do must be float64"
        )
    draw = lambda like: to_device(rng.standard_normal(like.shape), like.device)
    outputs = _as_list(func(*inputs))
    cotangents = [draw(y) for y in outputs]
    gradients = grad(outputs, [inputs[i] for i in learned], cotangents, allow_unused=True)
    for i, g in zip(learned, gradients, strict=True):
        d = draw(inputs[i])

        def along(step: float, i: int = i, d: Any = d) -> float:
            moved = tensor(inputs[i].data + step * d, requires_grad=True)
            found = _as_list(func(*inputs[:i], moved, *inputs[i + 1 :]))
            return sum(float((c * y.data).sum()) for c, y in zip(cotangents, found, strict=True))

        exact, estimate = 0.0 if g is None else float((g.data * d).sum()), (along(eps) - along(-eps)) / (2 * eps)
        if not abs(exact - estimate) <= atol + rtol * abs(estimate):
            if raise_exception:
                raise RuntimeError(
                    f"gradcheck: inputs[{i}] has the gradient {exact} in a direction, and {estimate} by differences"
                )
            return False
    return True


def _as_list(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
