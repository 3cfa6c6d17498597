"""Optimisers: rules that update parameters by their gradients, `.grad`.  Names, settings and formulas are torch's."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, changes
from nanogen.backend import Array, Update, array_module, moving_average, only

Number = Any  # a float; or an array without axes, which a CUDA graph reads anew at each step
Arrays = list[Array]


class Optimizer:
    """The parameters, and the arrays that a rule remembers from step to step.

    Attributes:
        state: the remembered arrays: for each name, an array per parameter.
        steps: the number of updates of each parameter: int64 (n,).

    Raises:
        ValueError: no parameters, a parameter given twice, or a setting out of range.
    """

    remembered: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, **others: float):
        self.params = [params] if isinstance(params, Tensor) else list(params)
        if any(not isinstance(p, Tensor) for p in self.params):
            raise TypeError(f"params must be tensors, got {', '.join({type(p).__name__ for p in self.params})}")
        if not self.params or len({id(p) for p in self.params}) < len(self.params):
            raise ValueError(f"params: nothing to optimise, or one twice, in {len(self.params)}")
        _at_least_zero(lr=lr, weight_decay=weight_decay, **others)
        self.lr, self.weight_decay = lr, weight_decay
        zeros = lambda: [array_module(p.data).zeros_like(p.data) for p in self.params]
        self.state: dict[str, Arrays] = {name: zeros() for name in self.remembered}
        self.steps = np.zeros(len(self.params), np.int64)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradients, or set them to 0."""
        for p in self.params:
            p.grad = None if set_to_none or p.grad is None else Tensor(array_module(p.data).zeros_like(p.data))

    def step(self, closure: Callable[[], Any] | None = None, *, numbers: Sequence[Number] | None = None) -> Any:
        """Update every parameter that has a gradient.  `closure`, if given, is called first; its result is returned.

        Args:
            numbers: the result of `advance`, if that was called for this step.

        Raises:
            ValueError: a gradient of another shape than its parameter's.  Then no parameter is changed.
        """
        loss = None if closure is None else closure()
        grads = {i: p.grad.data for i, p in enumerate(self.params) if p.grad is not None}
        for i, g in grads.items():
            if g.shape != self.params[i].shape:
                raise ValueError(f"expected a gradient of shape {self.params[i].shape}, got {g.shape}")
        if numbers is None:
            self.steps[list(grads)] += 1
        kinds: dict[Any, list[int]] = {}  # just one, unless a parameter was left out before
        for i in grads:
            kinds.setdefault((int(self.steps[i]), self.params[i].dtype, self.params[i].device), []).append(i)
        for (t, _, _), some in kinds.items():
            x, g = [self.params[i].data for i in some], [grads[i] for i in some]
            for array in x:
                changes.note(array)
            memory = [[arrays[i] for i in some] for arrays in self.state.values()]
            self.update(x, g, *memory, numbers=self.numbers(t) if numbers is None else numbers)
        return loss

    def advance(self) -> list[float]:
        """Begin a step in which every parameter has a gradient.  Returns the numbers that the rule needs for it."""
        self.steps += 1
        return self.numbers(int(self.steps[0]))

    def numbers(self, t: int) -> list[float]:
        """The rule's numbers that change from step to step, for the t-th update of a parameter, t = 1, 2, …"""
        return [self.lr]

    def update(self, x: Arrays, g: Arrays, *memory: Arrays, numbers: Sequence[Number]) -> None:
        """The update of parameters x with the gradients g, in place."""
        raise NotImplementedError

    def decayed(self, x: Arrays, g: Arrays) -> Arrays:
        """The gradients of the loss with λ/2·‖x‖² added to it."""
        return [d + self.weight_decay * a for a, d in zip(x, g)] if self.weight_decay else g

    def state_dict(self) -> dict[str, Any]:
        """`steps`, and copies of the remembered arrays, as `name.i` for the i-th parameter."""
        arrays = {f"{name}.{i}": a.copy() for name, many in self.state.items() for i, a in enumerate(many)}
        return {"steps": self.steps.copy(), **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict of the same rule and the same shapes.  `steps` may be one number for all.

        Raises:
            ValueError: another name or shape.  Then nothing is changed.
        """
        own = self.state_dict()
        if set(own) != set(state):
            raise ValueError(f"the optimiser's state has other names: {sorted(set(own) ^ set(state))[:4]}")
        for name, value in own.items():
            if name != "steps" and value.shape != state[name].shape:
                raise ValueError(f"{name} must have shape {value.shape}, got {state[name].shape}")
        self.steps[...] = state["steps"]
        for name, many in self.state.items():
            for i, array in enumerate(many):
                array[...] = array_module(array).asarray(state[f"{name}.{i}"])


class SGD(Optimizer):
    """v ← μ·v + (1 − τ)·g with momentum μ and dampening τ, but v ← g at a parameter's first update;  x ← x − lr·v, or
    with Nesterov's momentum x ← x − lr·(g + μ·v).  Polyak 1964; Sutskever et al. 2013, section 2, in torch's scaling.

    Raises:
        ValueError: besides those of `Optimizer`, `nesterov` without momentum or with dampening.
    """

    remembered = ("velocity",)

    def __init__(self, params, lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
        super().__init__(params, lr, weight_decay, dampening=dampening)
        _at_least_zero(1, momentum=momentum)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs a momentum, got {momentum}, and no dampening, got {dampening}")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov

    def numbers(self, t: int) -> list[float]:
        """lr, 1 − τ."""
        return [self.lr, 1 - self.dampening if self.momentum and t > 1 else 1.0]

    def update(self, x: Arrays, g: Arrays, *memory: Arrays, numbers: Sequence[Number]) -> None:
        rate, share = numbers
        for a, d, v in zip(x, self.decayed(x, g), *memory):
            v *= self.momentum
            v += share * d
            a -= rate * (d + self.momentum * v if self.nesterov else v)


class Adam(Optimizer):
    """Adam.  Kingma & Ba 2015, algorithm 1; weight decay, if any, is added to the gradient."""

    remembered = ("mean", "square")

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr, weight_decay, eps=eps)
        _at_least_zero(1, beta1=betas[0], beta2=betas[1])
        self.betas, self.eps = betas, eps

    def numbers(self, t: int) -> list[float]:
        """1 / √(1 − β₂ᵗ), lr / (1 − β₁ᵗ)."""
        beta1, beta2 = self.betas
        return [(1 - beta2**t) ** -0.5, self.lr / (1 - beta1**t)]

    def update(self, x: Arrays, g: Arrays, *memory: Arrays, numbers: Sequence[Number]) -> None:
        correction, rate = numbers
        adam(x, self.decayed(x, g), *memory, betas=self.betas, eps=self.eps, correction=correction, rate=rate)


@Update
def adam(params, grads, means, squares, *, betas, eps, correction, rate):
    """m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  x ← x − lr · m̂ / (√v̂ + ε),  m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ).

    The correction is 1/√(1 − β₂ᵗ), the rate lr/(1 − β₁ᵗ).  Kingma & Ba 2015, algorithm 1 and the end of section 2."""
    beta1, beta2 = betas
    for x, g, m, v in zip(params, grads, means, squares):
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * g * g
        x -= rate * m / (v**0.5 * correction + eps)


class AdamW(Adam):
    """Adam with decoupled weight decay: in addition x ← x − lr·λ·x.  Loshchilov & Hutter 2019, algorithm 2."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)

    def numbers(self, t: int) -> list[float]:
        """Adam's, and 1 − lr·λ."""
        return [*super().numbers(t), 1 - self.lr * self.weight_decay]

    def update(self, x: Arrays, g: Arrays, *memory: Arrays, numbers: Sequence[Number]) -> None:
        correction, rate, kept = numbers
        if self.weight_decay:
            for a in x:
                a *= kept
        adam(x, g, *memory, betas=self.betas, eps=self.eps, correction=correction, rate=rate)


class RMSprop(Optimizer):
    """v ← α·v + (1 − α)·g²,  x ← x − lr · g / (√v + ε).  Tieleman & Hinton 2012, lecture 6.5."""

    remembered = ("square",)

    def __init__(self, params, lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0):
        super().__init__(params, lr, weight_decay, eps=eps)
        _at_least_zero(1, alpha=alpha)
        self.alpha, self.eps = alpha, eps

    def update(self, x: Arrays, g: Arrays, *memory: Arrays, numbers: Sequence[Number]) -> None:
        for a, d, v in zip(x, self.decayed(x, g), *memory):
            v *= self.alpha
            v += (1 - self.alpha) * d * d
            a -= numbers[0] * d / (v**0.5 + self.eps)


class ExponentialMovingAverage:
    """A moving average of the parameters: a ← d·a + (1 − d)·x after each step.  Polyak & Juditsky 1992.

    With `warmup`, step k uses (1 − d)/(1 − dᵏ) instead of 1 − d, so that a_k = (1 − d)/(1 − dᵏ) Σ dᵏ⁻ⁱ x_i over the
    steps i ≤ k: Adam's correction, Kingma & Ba 2015, section 3.  Without it, the initial parameters have the weight dᵏ.

    Attributes:
        averages: an array per parameter.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, params: Iterable[Tensor], decay: float = 0.999, warmup: bool = True):
        _at_least_zero(1, decay=decay)
        self.params, self.decay, self.warmup, self.steps = list(params), decay, warmup, 0
        self.averages = [p.data.copy() for p in self.params]

    def update(self, numbers: Sequence[Number] | None = None) -> None:
        """Move the averages towards the parameters; `numbers` as in `Optimizer.step`."""
        kept, share = self.advance() if numbers is None else numbers
        for average in self.averages:
            changes.note(average)
        moving_average(self.averages, [p.data for p in self.params], kept=kept, share=share)

    def advance(self) -> list[float]:
        """Begin a step.  Returns the weights of the old average and of the parameters, which sum to 1."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps if self.warmup else 1)
        return [1 - share, share]

    def swap(self) -> None:
        """Exchange the numbers of parameters and averages, in place.  A second call undoes the first."""
        for p, average in zip(self.params, self.averages, strict=True):
            p.data[...], average[...] = average.copy(), p.data.copy()
            changes.note(p.data)

    def __enter__(self) -> ExponentialMovingAverage:
        """Within `with average:` the parameters have the averaged values."""
        self.swap()
        return self

    def __exit__(self, *error: Any) -> None:
        self.swap()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale all gradients by min(1, max_norm/(‖g‖ + 1e-6)), so that the norm ‖g‖ of all gradients together is at most
    max_norm.  Pascanu et al. 2013, algorithm 1, in torch's form.

    ‖g‖ = m (Σ |g/m|ᵖ)^(1/p), p the norm_type and m the largest |g|, by which powers neither over- nor underflow.

    Returns:
        ‖g‖ before scaling, on the device.

    Warns:
        RuntimeWarning: a norm that is not finite (on the CPU only).

    Raises:
        ValueError: a max_norm that is negative or not finite, a norm_type that is not positive.
        RuntimeError: a norm that is not finite, if error_if_nonfinite.  Then no gradient is changed.
    """
    _at_least_zero(max_norm=max_norm)
    if not norm_type > 0:
        raise ValueError(f"norm_type must be positive, got {norm_type}")
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    gradients = [(p, p.grad.data) for p in params if p.grad is not None and p.grad.data.size]
    if not gradients:
        return Tensor(np.zeros((), np.float32))
    xp = array_module(gradients[0][1])
    norm = largest = functools.reduce(xp.maximum, [xp.abs(g).max() for _, g in gradients]).astype(np.float64)
    if norm_type != math.inf:
        unit = xp.where(xp.isfinite(largest) & (largest > 0), largest, 1.0)
        norm = unit * sum((xp.abs(g / unit) ** norm_type).sum() for _, g in gradients) ** (1 / norm_type)
    if (error_if_nonfinite or xp is np) and not xp.isfinite(norm):
        if error_if_nonfinite:
            raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {norm}")
        warnings.warn(f"clip_grad_norm_: the norm of the gradients is {norm}", RuntimeWarning, stacklevel=2)
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for p, g in gradients:
        p.grad = Tensor((g * factor).astype(g.dtype, copy=False))
    return Tensor(xp.asarray(norm).astype(gradients[0][1].dtype))


def _at_least_zero(bound: float = math.inf, **settings: float) -> None:
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < bound:
            raise ValueError(f"{name} must be a number in [0, {bound}), got {value!r}")


__getattr__ = only(__name__, globals())
