"""Update rules: from the gradients in `.grad` to new parameters.  Names, settings and formulas are torch's.

An optimiser's parameters lie side by side in one array, as do their gradients, what a rule remembers of them and their
averages: an update is elementwise, so that one call moves them all.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, changes
from nanogen.backend import Array, array_module, by_parts, fuse, only
from nanogen.kernels.average import move
from nanogen.kernels.joining import join

Number = Any  # a float; or an array of one, where a captured step finds another number each time


class SideBySide:
    """Copies of arrays of one type, one after the other: `whole` (total,), and `parts`, views of it in their shapes."""

    def __init__(self, arrays: Sequence[Array]):
        ends = list(itertools.accumulate(a.size for a in arrays))
        self.whole = array_module(arrays[0]).empty(ends[-1], arrays[0].dtype)
        self.parts = [self.whole[end - a.size : end].reshape(a.shape) for a, end in zip(arrays, ends, strict=True)]
        self.fill(arrays)

    def __reduce__(self) -> Any:
        return SideBySide, (self.parts,)  # a copy's parts are views of its own whole again

    def fill(self, arrays: Sequence[Array]) -> None:
        """Copy others of the same shapes to their places.

        Raises:
            ValueError: a shape that differs; nothing is changed then.
        """
        for part, array in zip(self.parts, arrays, strict=True):
            if array.shape != part.shape:
                raise ValueError(f"expected an array of shape {part.shape}, got {array.shape}")
        join(self.whole, self.parts, arrays)


def of_one_kind(params: Iterable[Tensor]) -> list[list[Tensor]]:
    """The parameters of each type on each device."""
    kinds: dict[Any, list[Tensor]] = {}
    for p in params:
        kinds.setdefault((p.dtype, p.device), []).append(p)
    return list(kinds.values())


class Group:
    """Parameters of one type on one device, in one place with their gradients and what is remembered of them."""

    def __init__(self, params: list[Tensor], remembered: tuple[str, ...]):
        arrays = [p.data for p in params]
        self.params, self.place, self.slopes = params, SideBySide(arrays), SideBySide(arrays)
        self.steps = np.zeros(len(params), np.int64)  # how often each was updated
        self.memory = {name: SideBySide([array_module(a).zeros_like(a) for a in arrays]) for name in remembered}

    def gather(self) -> None:
        """Bring what the parameters were given since, by whomever, to their place."""
        for p, part in zip(self.params, self.place.parts, strict=True):
            if p.data is not part:
                part[...] = p.data
                p.data = part

    def updates(self, counted: bool) -> Iterator[tuple[int, Array, Array, dict[str, Array]]]:
        """For what has a gradient: which update it is for these numbers (n,), the numbers, their gradients, what is
        remembered of them; all at once if all are alike.  `counted`: `steps` has this update already."""
        here = zip(self.params, self.slopes.parts, strict=True)
        self.slopes.fill([part if p.grad is None else p.grad.data for p, part in here])
        moving = np.array([p.grad is not None for p in self.params])
        if not counted:
            self.steps += moving
        if moving.all() and (self.steps == self.steps[0]).all():
            changes.note(self.place.whole)
            yield int(self.steps[0]), self.place.whole, self.slopes.whole, {k: m.whole for k, m in self.memory.items()}
            return
        for i in np.flatnonzero(moving):
            changes.note(self.place.parts[i])
            x, g, *memory = (one.parts[i].reshape(-1) for one in (self.place, self.slopes, *self.memory.values()))
            yield int(self.steps[i]), x, g, dict(zip(self.memory, memory, strict=True))


class Optimizer:
    """Holds the parameters and, per parameter, the arrays that a rule remembers from step to step.

    Raises:
        ValueError: no parameters, one twice, or a setting out of range.
    """

    remembered: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        self.params = [params] if isinstance(params, Tensor) else list(params)
        if any(not isinstance(p, Tensor) for p in self.params):
            raise TypeError(f"params must be tensors, got {', '.join({type(p).__name__ for p in self.params})}")
        if not self.params or len({id(p) for p in self.params}) < len(self.params):
            raise ValueError(f"params: nothing to optimise, or one twice, in {len(self.params)}")
        _at_least_zero(lr=lr, weight_decay=weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.groups = [Group(same, self.remembered) for same in of_one_kind(self.params)]

    @property
    def state(self) -> dict[str, list[Array]]:
        """What is remembered, an array a parameter."""
        places = self.places()
        return {name: [group.memory[name].parts[i] for group, i in places] for name in self.remembered}

    @property
    def steps(self) -> np.ndarray:
        """How often each parameter was updated: int64 (n,)."""
        return np.array([group.steps[i] for group, i in self.places()])

    def places(self) -> list[tuple[Group, int]]:
        """In which group each parameter is, and where."""
        found = {id(p): (group, i) for group in self.groups for i, p in enumerate(group.params)}
        return [found[id(p)] for p in self.params]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or set them to 0."""
        for p in self.params:
            p.grad = None if set_to_none or p.grad is None else Tensor(array_module(p.data).zeros_like(p.data))

    def step(self, closure: Callable[[], Any] | None = None, *, numbers: Sequence[Number] | None = None) -> Any:
        """Move every parameter that has a gradient; what `closure`, called before if given, returns.

        Args:
            numbers: what `advance` gave for this step, where it was called before.

        Raises:
            ValueError: a gradient of another shape than its parameter's; no parameter of its type has moved then.
        """
        loss = None if closure is None else closure()
        for group in self.groups:
            group.gather()
            for t, x, g, memory in group.updates(counted=numbers is not None):
                self.update(x, g, *(self.numbers(t) if numbers is None else numbers), **memory)
        return loss

    def advance(self) -> list[float]:
        """Begin a step in which every parameter will have a gradient: the numbers that the rule needs for it."""
        for group in self.groups:
            group.gather()
            group.steps += 1
        return self.numbers(int(self.groups[0].steps[0]))

    def numbers(self, t: int) -> list[float]:
        """What the rule takes for the t-th update of a parameter, t = 1, 2, …, and that differs from step to step."""
        return [self.lr]

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        """The update of some numbers x (n,) with the gradients g, in place; g may be overwritten."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """How often each parameter was updated, and a copy of what is remembered, as `name.i` per parameter."""
        arrays = {f"{name}.{i}": a.copy() for name, many in self.state.items() for i, a in enumerate(many)}
        return {"steps": self.steps, **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict of the same rule over parameters of the same shapes; one number of steps is for all.

        Raises:
            ValueError: a name or a shape that differs; nothing is changed then.
        """
        own = self.state_dict()
        if set(own) != set(state):
            raise ValueError(f"the optimiser's state has other names: {sorted(set(own) ^ set(state))[:4]}")
        for name, value in own.items():
            if name != "steps" and value.shape != state[name].shape:
                raise ValueError(f"{name} must have shape {value.shape}, got {state[name].shape}")
        counts = np.broadcast_to(np.asarray(state["steps"]), len(self.params))
        for (group, i), count in zip(self.places(), counts, strict=True):
            group.steps[i] = count
        for name, many in self.state.items():
            for i, array in enumerate(many):
                array[...] = array_module(array).asarray(state[f"{name}.{i}"])


class SGD(Optimizer):
    """v ← μ·v + (1 − τ)·g, at a parameter's first update v ← g;  x ← x − lr·v, or with Nesterov's momentum
    x ← x − lr·(g + μ·v).  Polyak 1964; Sutskever et al. 2013, section 2, in torch's scaling.

    Raises:
        ValueError: besides those of `Optimizer`, `nesterov` without momentum or with dampening.
    """

    remembered = ("velocity",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        super().__init__(params, lr, weight_decay)
        _fractions(momentum=momentum)
        _at_least_zero(dampening=dampening)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs a momentum, got {momentum}, and no dampening, got {dampening}")
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov

    def numbers(self, t: int) -> list[float]:
        """lr, 1 − τ."""
        return [self.lr, 1 - self.dampening if self.momentum and t > 1 else 1.0]

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        (rate, share), velocity = numbers, memory["velocity"]
        if self.weight_decay:
            g += self.weight_decay * x
        velocity *= self.momentum
        velocity += share * g
        x -= rate * (g + self.momentum * velocity if self.nesterov else velocity)


class Adam(Optimizer):
    """Adam.  Kingma & Ba 2015, algorithm 1; weight decay, if any, is added to the gradient.

    m ← β₁m + (1 − β₁)g,  v ← β₂v + (1 − β₂)g²,  x ← x − lr · m̂ / (√v̂ + ε),  m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ)."""

    remembered = ("mean", "square")

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr, weight_decay)
        _fractions(beta1=betas[0], beta2=betas[1])
        _at_least_zero(eps=eps)
        self.betas, self.eps = betas, eps

    def numbers(self, t: int) -> list[float]:
        """1 / √(1 − β₂ᵗ), lr / (1 − β₁ᵗ)."""
        beta1, beta2 = self.betas
        return [(1 - beta2**t) ** -0.5, self.lr / (1 - beta1**t)]

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        if self.weight_decay:
            g += self.weight_decay * x
        settings = (self.betas[0], 1 - self.betas[0], self.betas[1], 1 - self.betas[1], self.eps)
        by_parts(lambda *arrays: adam(*arrays, *settings, *numbers), x, g, memory["mean"], memory["square"])


@fuse
def adam(
    x: Array, g: Array, mean: Array, square: Array,
    beta1: float, rest1: float, beta2: float, rest2: float, eps: float, correction2: Number, rate: Number,
) -> None:  # fmt: skip
    """The algorithm's inner part, without a new array but one; correction2 is 1/√(1 − β₂ᵗ), the rate lr/(1 − β₁ᵗ)."""
    xp = array_module(x)
    scratch = g * rest1
    mean *= beta1
    mean += scratch
    xp.multiply(g, g, out=scratch)
    scratch *= rest2
    square *= beta2
    square += scratch
    xp.sqrt(square, out=scratch)
    scratch *= correction2
    scratch += eps
    xp.divide(mean, scratch, out=scratch)
    scratch *= rate
    x -= scratch


class AdamW(Adam):
    """Adam with decoupled weight decay: x ← x − lr·λ·x besides.  Loshchilov & Hutter 2019, algorithm 2."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, lr, betas, eps)
        _at_least_zero(weight_decay=weight_decay)
        self.decoupled_decay = weight_decay

    def numbers(self, t: int) -> list[float]:
        """Adam's, and 1 − lr·λ."""
        return [*super().numbers(t), 1 - self.lr * self.decoupled_decay]

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        *adams, kept = numbers
        x *= kept
        super().update(x, g, *adams, **memory)


class RMSprop(Optimizer):
    """v ← α·v + (1 − α)·g²,  x ← x − lr · g / (√v + ε).  Tieleman & Hinton 2012, lecture 6.5."""

    remembered = ("square",)

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr, weight_decay)
        _fractions(alpha=alpha)
        _at_least_zero(eps=eps)
        self.alpha, self.eps = alpha, eps

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        if self.weight_decay:
            g += self.weight_decay * x
        (rate,), square = numbers, memory["square"]
        square *= self.alpha
        square += (1 - self.alpha) * g * g
        x -= rate * g / (square**0.5 + self.eps)


class ExponentialMovingAverage:
    """A slow copy of the parameters: a ← d·a + (1 − d)·x after each step.  Polyak & Juditsky 1992.

    The k-th step takes (1 − d)/(1 − dᵏ) for 1 − d, and a_k = (1 − d)/(1 − dᵏ) Σ dᵏ⁻ⁱ x_i over the steps i ≤ k: Adam's
    correction, Kingma & Ba 2015, section 3.  Without `warmup` the parameters before the first step count too, dᵏ.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, params: Iterable[Tensor], decay: float = 0.999, warmup: bool = True):
        _fractions(decay=decay)
        self.params, self.decay, self.warmup, self.steps = list(params), decay, warmup, 0
        kinds = [(same, [p.data for p in same]) for same in of_one_kind(self.params)]
        self.groups = [(same, SideBySide(arrays), SideBySide(arrays)) for same, arrays in kinds]

    @property
    def averages(self) -> list[Array]:
        """One a parameter."""
        own = {id(p): part for same, slow, _ in self.groups for p, part in zip(same, slow.parts, strict=True)}
        return [own[id(p)] for p in self.params]

    def update(self, numbers: Sequence[Number] | None = None) -> None:
        """Move the averages towards the parameters as they are now; `numbers` as in `Optimizer.step`."""
        numbers = self.advance() if numbers is None else numbers
        for same, slow, now in self.groups:
            now.fill([p.data for p in same])
            changes.note(slow.whole)
            move(slow.whole, now.whole, *numbers)

    def advance(self) -> list[float]:
        """Begin the next step: the shares of the average so far and of the parameters, which sum to 1."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps if self.warmup else 1)
        return [1 - share, share]

    def swap(self) -> None:
        """Exchange the numbers of parameters and averages, which stay where they are; a second call exchanges them
        back."""
        for same, slow, now in self.groups:
            now.fill([p.data for p in same])
            for p, average, x in zip(same, slow.parts, now.parts, strict=True):
                p.data[...], average[...] = average, x
                changes.note(p.data)

    def __enter__(self) -> ExponentialMovingAverage:
        """`with average:` the parameters are the averages."""
        self.swap()
        return self

    def __exit__(self, *error: Any) -> None:
        self.swap()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor, min(1, max_norm/(‖g‖ + 1e-6)), so that together they are no longer than
    max_norm; parameters without a gradient are left out.  Pascanu et al. 2013, algorithm 1, in torch's form.

    ‖g‖ = m (Σ |g/m|ᵖ)^(1/p), p the norm_type and m the largest |g|: so no power over- or underflows.

    Returns:
        ‖g‖ before, of all gradients as one vector; it stays on the device.

    Warns:
        RuntimeWarning: a norm that is not finite (looked at where the numbers lie on the host).

    Raises:
        ValueError: a max_norm that is negative or not finite, a norm_type that is not positive.
        RuntimeError: a norm that is not finite, if error_if_nonfinite; no gradient is changed then.
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


def _named_settings(settings: dict[str, float]) -> Iterator[tuple[str, float]]:
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be a number, got {value!r}")
        yield name, value


def _at_least_zero(**settings: float) -> None:
    for name, value in _named_settings(settings):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def _fractions(**settings: float) -> None:
    for name, value in _named_settings(settings):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")


__getattr__ = only(__name__, globals())
