"""Update rules: from the gradients in `.grad` to new parameters.  Names, settings and formulas are torch's.

An optimiser's parameters lie side by side in one array, as do their gradients, what a rule remembers of them and their
averages: an update is elementwise, so that one call moves them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module, by_parts, fuse
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
        self.memory = {name: SideBySide([array_module(a).zeros_like(a) for a in arrays]) for name in remembered}

    def gather(self) -> None:
        """Bring what the parameters were given since, by whomever, to their place."""
        for p, part in zip(self.params, self.place.parts, strict=True):
            if p.data is not part:
                part[...] = p.data
                p.data = part

    def updates(self) -> Iterator[tuple[Array, Array, dict[str, Array]]]:
        """Numbers (n,), their gradients, what is remembered of them: all at once if all have a gradient."""
        here = zip(self.params, self.slopes.parts, strict=True)
        self.slopes.fill([part if p.grad is None else p.grad.data for p, part in here])
        if all(p.grad is not None for p in self.params):
            yield self.place.whole, self.slopes.whole, {name: m.whole for name, m in self.memory.items()}
            return
        for i, p in enumerate(self.params):
            if p.grad is not None:
                x, g, *memory = (one.parts[i].reshape(-1) for one in (self.place, self.slopes, *self.memory.values()))
                yield x, g, dict(zip(self.memory, memory, strict=True))


class Optimizer:
    """Holds the parameters and, per parameter, the arrays that a rule remembers from step to step.

    Raises:
        ValueError: no parameters, one twice, or a setting out of range.
    """

    remembered: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0):
        self.params = list(params)
        if not self.params or len({id(p) for p in self.params}) < len(self.params):
            raise ValueError(f"params: nothing to optimise, or one twice, in {len(self.params)}")
        _at_least_zero(lr=lr, weight_decay=weight_decay)
        self.lr, self.weight_decay, self.steps = lr, weight_decay, 0
        self.groups = [Group(same, self.remembered) for same in of_one_kind(self.params)]

    @property
    def state(self) -> dict[str, list[Array]]:
        """What is remembered, an array a parameter."""
        found = {id(p): (group, i) for group in self.groups for i, p in enumerate(group.params)}
        places = [found[id(p)] for p in self.params]
        return {name: [group.memory[name].parts[i] for group, i in places] for name in self.remembered}

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def step(self, numbers: Sequence[Number] | None = None) -> None:
        """Move every parameter that has a gradient; `numbers` are what `advance` gave, if it was called before.

        Raises:
            ValueError: a gradient of another shape than its parameter's; no parameter of its type has moved then.
        """
        numbers = self.advance() if numbers is None else numbers
        for group in self.groups:
            for x, g, memory in group.updates():
                self.update(x, g, *numbers, **memory)

    def advance(self) -> list[float]:
        """Begin the next step: the numbers that the rule needs for it, and that differ from step to step."""
        self.steps += 1
        for group in self.groups:
            group.gather()
        return self.numbers()

    def numbers(self) -> list[float]:
        return [self.lr]

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        """The update of some numbers x (n,) with the gradients g, in place; g may be overwritten."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The number of steps and a copy of what is remembered, as `name.i` per parameter."""
        arrays = {f"{name}.{i}": a.copy() for name, many in self.state.items() for i, a in enumerate(many)}
        return {"steps": np.asarray(self.steps), **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state_dict of the same rule over parameters of the same shapes.

        Raises:
            ValueError: a name or a shape that differs; nothing is changed then.
        """
        own = self.state_dict()
        if set(own) != set(state):
            raise ValueError(f"the optimiser's state has other names: {sorted(set(own) ^ set(state))[:4]}")
        for name, value in own.items():
            if name != "steps" and value.shape != state[name].shape:
                raise ValueError(f"{name} must have shape {value.shape}, got {state[name].shape}")
        self.steps = int(state["steps"])
        for name, many in self.state.items():
            for i, array in enumerate(many):
                array[...] = array_module(array).asarray(state[f"{name}.{i}"])


class SGD(Optimizer):
    """v ← μ·v + g,  x ← x − lr·v.  Polyak 1964; Sutskever et al. 2013, section 2, in torch's scaling."""

    remembered = ("velocity",)

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0):
        super().__init__(params, lr, weight_decay)
        _fractions(momentum=momentum)
        self.momentum = momentum

    def update(self, x: Array, g: Array, *numbers: Number, **memory: Array) -> None:
        (rate,), velocity = numbers, memory["velocity"]
        velocity *= self.momentum
        velocity += g + self.weight_decay * x if self.weight_decay else g
        x -= rate * velocity


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

    def numbers(self) -> list[float]:
        """1 / √(1 − β₂ᵗ), lr / (1 − β₁ᵗ)."""
        beta1, beta2 = self.betas
        return [(1 - beta2**self.steps) ** -0.5, self.lr / (1 - beta1**self.steps)]

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

    def numbers(self) -> list[float]:
        """Adam's, and 1 − lr·λ."""
        return [*super().numbers(), 1 - self.lr * self.decoupled_decay]

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
        own = {id(p): part for same, slow, _ in self.groups for p, part in zip(same, slow.parts, strict=True)}
        self.averages: list[Array] = [own[id(p)] for p in self.params]

    def update(self, numbers: Sequence[Number] | None = None) -> None:
        """Move the averages towards the parameters as they are now; `numbers` as in `Optimizer.step`."""
        numbers = self.advance() if numbers is None else numbers
        for same, slow, now in self.groups:
            now.fill([p.data for p in same])
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

    def __enter__(self) -> ExponentialMovingAverage:
        """`with average:` the parameters are the averages."""
        self.swap()
        return self

    def __exit__(self, *error: Any) -> None:
        self.swap()


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one factor, min(1, max_norm/(‖g‖ + 1e-6)), so that together they are no longer than
    max_norm; parameters without a gradient are left out.  Pascanu et al. 2013, algorithm 1, in torch's form.

    Returns:
        ‖g‖ before, of all gradients as one vector; it stays on the device.

    Raises:
        ValueError: a max_norm that is negative or not finite.
    """
    _at_least_zero(max_norm=max_norm)
    gradients = [(p, p.grad.data) for p in parameters if p.grad is not None]
    if not gradients:
        return Tensor(np.zeros((), np.float32))
    xp = array_module(gradients[0][1])
    norm = xp.sqrt(sum((g * g).sum() for _, g in gradients))
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for p, g in gradients:
        p.grad = Tensor((g * factor).astype(g.dtype, copy=False))
    return Tensor(xp.asarray(norm))


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
