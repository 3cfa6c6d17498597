"""Update rules against their papers' recursions in plain Python, and against torch."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import leaf
from hypothesis import example, given
from hypothesis import strategies as st

import nanogen as ng
from nanogen import optim
from nanogen.optim import clip_grad_norm_

STEPS = 6


# The rules as generators: they are sent (x, g), one number each, and give the next x.


def sgd(
    lr: float, momentum: float = 0.0, weight_decay: float = 0.0, dampening: float = 0.0, nesterov: bool = False
) -> Any:
    """v ← μ v + (1 − τ)(g + λ x), the first time v ← g + λ x; x ← x − lr v, or x − lr (g + λ x + μ v) of Nesterov's.
    Sutskever et al. 2013, eq. 1 to 4, in torch's scaling."""
    v, started = 0.0, False
    x, g = yield
    while True:
        g += weight_decay * x
        v = momentum * v + (1 - dampening * (started and momentum > 0)) * g
        started = True
        x, g = yield x - lr * (g + momentum * v if nesterov else v)


def adam(lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0, decoupled: float = 0.0) -> Any:
    """Kingma & Ba 2015, algorithm 1, line by line; decoupled decay as in Loshchilov & Hutter 2019, algorithm 2,
    line 12, with the schedule multiplier taken as the learning rate, as torch does."""
    m, v, t = 0.0, 0.0, 0
    x, g = yield
    while True:
        t += 1
        g += weight_decay * x
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        x, g = yield x - lr * m_hat / (math.sqrt(v_hat) + eps) - lr * decoupled * x


def rmsprop(lr: float, alpha: float, eps: float, weight_decay: float = 0.0) -> Any:
    """Tieleman & Hinton 2012, lecture 6.5: v ← α v + (1 − α) g², x ← x − lr g / (√v + ε)."""
    v = 0.0
    x, g = yield
    while True:
        g += weight_decay * x
        v = alpha * v + (1 - alpha) * g**2
        x, g = yield x - lr * g / (math.sqrt(v) + eps)


positive = lambda low, high: st.floats(low, high)
RULES: dict[str, tuple[Any, Callable[..., Any], dict[str, Any]]] = {
    "SGD": (
        optim.SGD, sgd,
        {"momentum": positive(0, 0.95), "dampening": positive(0, 1.5), "weight_decay": positive(0, 0.5)},
    ),
    "Nesterov": (
        functools.partial(optim.SGD, nesterov=True), functools.partial(sgd, nesterov=True),
        {"momentum": positive(0.1, 0.95), "weight_decay": positive(0, 0.5)},
    ),
    "Adam": (
        optim.Adam, adam,
        {"betas": st.tuples(positive(0, 0.95), positive(0.5, 0.9999)), "eps": positive(1e-9, 0.1),
         "weight_decay": positive(0, 0.5)},
    ),
    "AdamW": (
        optim.AdamW, adam,
        {"betas": st.tuples(positive(0, 0.95), positive(0.5, 0.9999)), "eps": positive(1e-9, 0.1),
         "weight_decay": positive(0, 0.5)},
    ),
    "RMSprop": (
        optim.RMSprop, rmsprop,
        {"alpha": positive(0.1, 0.999), "eps": positive(1e-9, 0.1), "weight_decay": positive(0, 0.5)},
    ),
}  # fmt: skip


def gradients(seed: int) -> list[list[np.ndarray]]:
    """For each step the gradients of two parameters, of shapes (2, 3) and ()."""
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal((2, 3)), rng.standard_normal(())] for _ in range(STEPS)]


def parameters(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed + 1)
    return [leaf(rng.standard_normal((2, 3))), leaf(rng.standard_normal(()))]


def advance(optimizer: Any, params: list[Any], grads: list[np.ndarray]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = leaf(g.copy()).detach()
    optimizer.step()


ALONE = {"SGD": {"momentum": 0.5, "dampening": 0.25}, "Nesterov": {"momentum": 0.5}}


@pytest.mark.parametrize("name", RULES)
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_parameters_move_as_if_alone(name: str, shapes: list[list[int]], seed: int, data: st.DataObject) -> None:
    """Parameters of any shapes and types move together as each moves with an optimiser of its own, to the last bit:
    with or without a gradient at this step or that, so that each has its own count of updates, and also if they are
    given other arrays in between."""
    rng, kinds = np.random.default_rng(seed), data.draw(st.lists(st.booleans(), min_size=4, max_size=4))
    dtypes = [np.float32 if kinds[i] else np.float64 for i in range(len(shapes))]
    together = [leaf(rng.standard_normal(shape).astype(dtype)) for shape, dtype in zip(shapes, dtypes, strict=True)]
    alone = [leaf(p.data.copy()) for p in together]
    make = functools.partial(RULES[name][0], lr=0.1, **ALONE.get(name, {}))
    optimizer, own = make(together), [make([x]) for x in alone]
    for _ in range(STEPS):
        for x, p in zip(alone, together, strict=True):
            if data.draw(st.booleans()):
                p.grad = leaf(rng.standard_normal(p.shape).astype(p.dtype)).detach()
                x.grad = leaf(p.grad.data.copy()).detach()
            if data.draw(st.booleans()):
                x.data = np.asarray(x.data * 2)
                p.data = x.data.copy()
        optimizer.step()
        for x, p, one in zip(alone, together, own, strict=True):
            if x.grad is not None:
                one.step()
            assert p.dtype == x.dtype
            assert np.array_equal(p.data, x.data)
            p.grad = x.grad = None
    for what, arrays in optimizer.state.items():
        assert all(np.array_equal(a, one.state[what][0]) for a, one in zip(arrays, own, strict=True))


def test_a_first_gradient_that_comes_late() -> None:
    """At a parameter's first update m̂ = g and v̂ = g², whenever it comes: with g = 1 Adam moves by lr (Kingma & Ba 2015,
    section 2.1).  The count of all steps would give 0.0744 at step 2."""
    early, late = leaf(np.zeros(1)), leaf(np.zeros(1))
    optimizer = optim.Adam([early, late], lr=0.1)
    early.grad = leaf(np.ones(1)).detach()
    optimizer.step()
    late.grad = leaf(np.ones(1)).detach()
    optimizer.step()
    assert late.item() == pytest.approx(-0.1, rel=1e-7)
    assert optimizer.steps.tolist() == [2, 1]


def test_a_step_with_numbers_of_advance_is_a_step() -> None:
    """`advance`, then `step` with its numbers, as a captured step has it, is `step`, bit for bit."""
    one, two = parameters(5), parameters(5)
    a, b = optim.AdamW(one, lr=0.1), optim.AdamW(two, lr=0.1)
    for grads in gradients(5):
        advance(a, one, grads)
        for p, g in zip(two, grads, strict=True):
            p.grad = leaf(g.copy()).detach()
        b.step(numbers=b.advance())
    assert all(np.array_equal(p.data, q.data) for p, q in zip(one, two, strict=True))
    assert a.steps.tolist() == b.steps.tolist() == [STEPS, STEPS]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
@pytest.mark.parametrize("name", RULES)
def test_a_copied_optimiser_trains_the_copied_parameters(name: str, copied: Callable[[Any], Any]) -> None:
    """A copy of parameters, optimiser and average, made in the middle, goes on as the originals do, bit for bit, and
    leaves them alone."""
    params = parameters(7)
    optimizer, average = RULES[name][0](params, 0.1, **ALONE.get(name, {})), optim.ExponentialMovingAverage(params, 0.5)

    def go_on(params: Any, optimizer: Any, average: Any, steps: list[Any]) -> list[np.ndarray]:
        for grads in steps:
            advance(optimizer, params, grads)
            average.update()
        return [*(p.data.copy() for p in params), *(a.copy() for a in average.averages)]

    middle = go_on(params, optimizer, average, gradients(7)[:3])
    others = copied((params, optimizer, average))
    ended = go_on(*others, gradients(7)[3:])
    assert all(np.array_equal(p.data, x) for p, x in zip(params, middle))
    assert not any(np.array_equal(x, y) for x, y in zip(middle, ended))
    for x, y in zip(go_on(params, optimizer, average, gradients(7)[3:]), ended, strict=True):
        assert np.array_equal(x, y)
    with others[2]:
        assert all(np.array_equal(p.data, x) for p, x in zip(others[0], ended[2:], strict=True))


def test_what_is_not_there_is_said() -> None:
    """Another of torch's optimisers is refused by name, with what there is."""
    with pytest.raises(AttributeError, match=r"nanogen\.optim has no 'Adamax'; there is Adam"):
        optim.Adamax  # noqa: B018


def test_closure_and_zeros() -> None:
    """`step(closure)` calls it first and returns what it gives; `zero_grad(set_to_none=False)` leaves zeros."""
    (x,) = params = [leaf(np.array([1.0, -2.0]))]
    optimizer = optim.SGD(params, lr=0.5)

    def closure() -> ng.Tensor:
        optimizer.zero_grad()
        loss = (x * x).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 5.0
    assert x.data.tolist() == [0.0, 0.0]
    optimizer.zero_grad(set_to_none=False)
    assert x.grad is not None
    assert x.grad.data.tolist() == [0.0, 0.0]
    optimizer.zero_grad()
    optimizer.zero_grad(set_to_none=False)
    assert x.grad is None


@pytest.mark.parametrize("name", RULES)
@given(data=st.data(), lr=positive(1e-4, 0.5), seed=st.integers(0, 999))
def test_rule_is_the_papers(name: str, data: st.DataObject, lr: float, seed: int) -> None:
    """Every number of every parameter follows the paper's recursion, over several steps and for any settings; the
    gradient handed in is left as it was."""
    make, rule, choices = RULES[name]
    settings = {key: data.draw(value) for key, value in choices.items()}
    params = parameters(seed)
    optimizer = make(params, lr, **settings)
    if name == "AdamW":
        settings["decoupled"] = settings.pop("weight_decay")
    recursions = {}
    for i, p in enumerate(params):
        for index in np.ndindex(p.shape):
            recursions[i, index] = rule(lr, **settings)
            next(recursions[i, index])
    for grads in gradients(seed):
        expected = {
            k: r.send((float(params[k[0]].data[k[1]]), float(grads[k[0]][k[1]]))) for k, r in recursions.items()
        }
        advance(optimizer, params, grads)
        for (i, index), value in expected.items():
            assert params[i].data[index] == pytest.approx(value, rel=1e-10, abs=1e-12)
            assert params[i].grad.data[index] == grads[i][index]


RULE_NAMES = {"Nesterov": "SGD"}
TORCH = {
    "SGD": {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05},
    "Nesterov": {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
    "Adam": {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.05},
    "AdamW": {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.05},
    "RMSprop": {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.05},
}


@pytest.mark.parametrize("given_settings", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_rule_is_torchs(name: str, given_settings: bool) -> None:
    """The same numbers as torch.optim's rule of that name: with the same settings, and with none, so that the
    defaults are torch's too."""
    settings = TORCH[name] if given_settings else {}
    ours = parameters(0)
    theirs = [torch.nn.Parameter(torch.tensor(p.data.copy())) for p in ours]
    rule = RULE_NAMES.get(name, name)
    optimizer, judge = getattr(optim, rule)(ours, **settings), getattr(torch.optim, rule)(theirs, **settings)
    for grads in gradients(0):
        advance(optimizer, ours, grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        judge.step()
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.data, b.detach().numpy(), rtol=1e-12)


@given(size=positive(1e-3, 1e3), sign=st.sampled_from([-1, 1]))
def test_adams_first_step_is_lr_whatever_the_gradient(size: float, sign: int) -> None:
    """m̂ = g and v̂ = g² at t = 1: a step of lr against the sign of g (Kingma & Ba 2015, section 2.1).  Without the
    corrections for the start it would be lr (1 − β₁) / √(1 − β₂)."""
    x = leaf(np.array(2.0))
    advance(optim.Adam([x], lr=0.1, eps=0.0), [x], [np.array(sign * size)])
    assert x.item() == pytest.approx(2.0 - 0.1 * sign, rel=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_steps_go_downhill(name: str) -> None:
    """From any start, a small step makes a convex quadratic ½ Σ a x² smaller, and many come close to its minimum."""
    curvature = np.array([0.5, 1.0, 4.0])
    for seed in range(5):
        x = leaf(np.random.default_rng(seed).standard_normal(3) + 3.0)
        optimizer = getattr(optim, RULE_NAMES.get(name, name))([x], lr=1e-2)
        height = lambda x=x: float((curvature * x.data**2).sum() / 2)
        start = height()
        advance(optimizer, [x], [curvature * x.data])
        assert height() < start
        for _ in range(1500):
            advance(optimizer, [x], [curvature * x.data])
        assert height() < 1e-2 * start


@pytest.mark.parametrize("name", RULES)
def test_state_dict_goes_on_identically(name: str) -> None:
    """Three steps, the state into a fresh rule, three more: bit for bit six steps in one go; the state is a copy."""
    whole, first, second = parameters(3), parameters(3), parameters(3)
    make = lambda params: getattr(optim, RULE_NAMES.get(name, name))(params, **TORCH[name])
    optimizer = make(whole)
    for grads in gradients(3):
        advance(optimizer, whole, grads)
    a, b = make(first), make(second)
    for grads in gradients(3)[:3]:
        advance(a, first, grads)
    state = a.state_dict()
    for p, q in zip(first, second, strict=True):
        q.data = p.data.copy()
    for grads in gradients(3)[3:]:  # the one that the state was taken from goes on: its copy must not notice
        advance(a, first, grads)
    b.load_state_dict({**state, "steps": np.asarray(3)})  # one number is for all parameters
    kept = {k: v.copy() for k, v in state.items()}
    for grads in gradients(3)[3:]:
        advance(b, second, grads)
    for p, q, r in zip(whole, first, second, strict=True):
        assert np.array_equal(p.data, q.data)
        assert np.array_equal(p.data, r.data)
    assert all(np.array_equal(state[k], kept[k]) for k in kept)


@pytest.mark.parametrize("name", RULES)
def test_state_that_does_not_fit_changes_nothing(name: str) -> None:
    """Another rule's state or another shape's: ValueError, and the rule remembers what it did."""
    params = parameters(0)
    optimizer = getattr(optim, RULE_NAMES.get(name, name))(params, **TORCH[name])
    advance(optimizer, params, gradients(0)[0])
    before = optimizer.state_dict()
    other = {k: v + 1 for k, v in before.items()}
    key = next(k for k in before if k != "steps")
    for wrong, said in (
        ({k: v for k, v in other.items() if k != key}, f"names: ['{key}']"),
        ({**other, "extra.0": other[key]}, "names: ['extra.0']"),
        ({**other, key: np.zeros((7,))}, f"{key} must have shape {before[key].shape}, got (7,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            optimizer.load_state_dict(wrong)
        after = optimizer.state_dict()
        assert all(np.array_equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize("name", RULES)
def test_what_has_no_gradient_stays(name: str) -> None:
    """A parameter without a gradient is not moved, not even by weight decay; zero_grad takes the gradients away;
    types stay as they are."""
    a, b = leaf(np.ones(2, np.float32)), leaf(np.ones(3, np.float32))
    optimizer = getattr(optim, RULE_NAMES.get(name, name))([a, b], **TORCH[name])
    a.grad = leaf(np.ones(2, np.float32)).detach()
    optimizer.step()
    assert (a.data != 1).all()
    assert (b.data == 1).all()
    assert a.dtype == np.float32
    assert {v.dtype.name for k, v in optimizer.state_dict().items() if k != "steps"} == {"float32"}
    optimizer.zero_grad()
    assert a.grad is None
    assert b.grad is None


@pytest.mark.parametrize(("name", "settings", "word"), [
    ("SGD", {"lr": -1.0}, "lr"), ("SGD", {"lr": math.nan}, "lr"), ("SGD", {"momentum": 1.0}, "momentum"),
    ("SGD", {"weight_decay": -0.1}, "weight_decay"), ("SGD", {"lr": "1"}, "lr"), ("SGD", {"lr": True}, "lr"),
    ("SGD", {"dampening": -0.1}, "dampening"), ("SGD", {"nesterov": True}, "nesterov"),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
    ("Adam", {"betas": (1.0, 0.9)}, "beta1"), ("Adam", {"betas": (0.9, -0.1)}, "beta2"), ("Adam", {"eps": -1}, "eps"),
    ("Adam", {"lr": math.inf}, "lr"), ("AdamW", {"weight_decay": -1.0}, "weight_decay"),
    ("RMSprop", {"alpha": 1.0}, "alpha"), ("RMSprop", {"eps": -1e-8}, "eps"),
    ("ExponentialMovingAverage", {"decay": 1.0}, "decay"), ("ExponentialMovingAverage", {"decay": -0.5}, "decay"),
])  # fmt: skip
def test_bad_settings(name: str, settings: dict[str, Any], word: str) -> None:
    """A setting out of range is refused by name."""
    with pytest.raises(ValueError, match=word):
        getattr(optim, name)(parameters(0), **settings)


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_a_gradient_of_another_shape(name: str, others: bool) -> None:
    """One number is no gradient of three: it is refused, whether or not the other parameters have one, and nothing
    moves."""
    a, b = leaf(np.ones(3)), leaf(np.ones(2))
    optimizer = RULES[name][0]([a, b], 0.1, **ALONE.get(name, {}))
    a.grad, b.grad = leaf(np.ones(1)).detach(), leaf(np.ones(2)).detach() if others else None
    with pytest.raises(ValueError, match="shape"):
        optimizer.step()
    assert (a.data == 1).all()
    assert (b.data == 1).all()
    assert optimizer.steps.tolist() == [0, 0]


@pytest.mark.parametrize("name", RULES)
def test_nothing_to_optimise(name: str) -> None:
    """No parameters is a mistake that is told."""
    with pytest.raises(ValueError, match="params"):
        getattr(optim, RULE_NAMES.get(name, name))([])


# Averages of the parameters


@given(decay=positive(0, 0.999), value=st.floats(-5, 5), steps=st.integers(0, 30), warmup=st.booleans())
def test_average_of_a_constant_is_the_constant(decay: float, value: float, steps: int, warmup: bool) -> None:
    """Weights that sum to 1: what does not change is its own average."""
    average = optim.ExponentialMovingAverage([leaf(np.full(3, value))], decay, warmup)
    for _ in range(steps):
        average.update()
    np.testing.assert_allclose(average.averages[0], value, rtol=1e-12, atol=1e-14)


@given(decay=positive(0, 0.999), steps=st.integers(1, 12), seed=st.integers(0, 99), warmup=st.booleans())
@example(decay=1 - 2**-53, steps=12, seed=0, warmup=True)
def test_average_in_closed_form(decay: float, steps: int, seed: int, warmup: bool) -> None:
    """a_k = (1 − d)/(1 − d^k) Σ d^(k−i) x_i, over the steps alone, as Adam's mean of gradients: Kingma & Ba 2015,
    section 3.  Without warm-up, a_k = d^k x_0 + (1 − d) Σ d^(k−i) x_i: Polyak & Juditsky 1992."""
    values = np.random.default_rng(seed).standard_normal(steps + 1)
    x = leaf(np.array(values[0]))
    average = optim.ExponentialMovingAverage([x], decay, warmup)
    for value in values[1:]:
        x.data = np.array(value)
        average.update()
    powers = [decay ** (steps - i) for i in range(1, steps + 1)]
    weights = np.array([0, *powers]) / sum(powers) if warmup else np.array([decay**steps, *powers])
    weights[1:] *= 1 if warmup else 1 - decay
    assert weights.sum() == pytest.approx(1)
    assert float(average.averages[0]) == pytest.approx(float(weights @ values), abs=1e-12)


@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=20),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_averages_move_as_if_alone(shapes: list[list[int]], seed: int, data: st.DataObject) -> None:
    """a ← d·a + (1 − d)·x of each parameter, whatever shapes and types are averaged together, and also if parameters
    are given other arrays, or are swapped in and out, in between.  These numbers are kept to the last digit."""
    rng, decay = np.random.default_rng(seed), 0.75
    dtypes = [np.float32 if data.draw(st.booleans()) else np.float64 for _ in shapes]
    xs = [rng.integers(-4, 5, shape).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    params, alone = [leaf(x.copy()) for x in xs], [x.copy() for x in xs]
    average = optim.ExponentialMovingAverage(params, decay, warmup=False)
    for _ in range(STEPS):
        for i, p in enumerate(params):
            xs[i] = rng.integers(-4, 5, p.shape).astype(p.dtype)
            if data.draw(st.booleans()):
                p.data = leaf(xs[i].copy()).data
            else:
                p.data[...] = leaf(xs[i].copy()).data
            alone[i] = decay * alone[i] + (1 - decay) * xs[i]
        average.update()
        with average:
            assert all(np.array_equal(p.data, a) for p, a in zip(params, alone, strict=True))
        assert all(a.dtype == p.dtype and np.array_equal(p.data, x) for a, p, x in zip(alone, params, xs, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(average.averages, alone, strict=True))


def test_average_warms_up() -> None:
    """The k-th share of the parameters is (1 − d)/(1 − d^k), with d = 1/2: 1, 2/3, 4/7, 8/15, and 1/2 in the end."""
    x = leaf(np.array(100.0))
    assert optim.ExponentialMovingAverage([x]).decay == 0.999
    average = optim.ExponentialMovingAverage([x], 0.5)
    for value, expected in ((0.0, 0), (3.0, 2), (9.0, 6), (21.0, 14)):
        x.data = np.array(value)
        average.update()
        assert float(average.averages[0]) == pytest.approx(expected)
    average.steps = 60
    assert average.advance() == [0.5, 0.5]


def test_average_by_given_numbers() -> None:
    """What `advance` gave can be handed to `update`, which counts no step of its own then: a ← d·a + (1 − d)·x."""
    x = leaf(np.array([4.0]))
    average = optim.ExponentialMovingAverage([x], 0.9)
    x.data = np.array([8.0])
    assert average.advance() == [0, 1]
    average.update([0.25, 0.75])
    assert average.averages[0].tolist() == [7.0]
    assert average.steps == 1


def test_averages_are_copies() -> None:
    """A rule that moves the parameters in place leaves the averages where they are until `update`."""
    x = leaf(np.array([1.0, 2.0]))
    rule = optim.SGD([x], lr=1.0)
    advance(rule, [x], [np.array([1.0, 1.0])])
    average = optim.ExponentialMovingAverage([x], 0.5, warmup=False)
    advance(rule, [x], [np.array([4.0, 4.0])])
    assert x.data.tolist() == [-4.0, -3.0]
    assert average.averages[0].tolist() == [0.0, 1.0]
    average.update()
    assert average.averages[0].tolist() == [-2.0, -1.0]


def test_average_is_swapped_in_and_out() -> None:
    """`with average:` the parameters are the averages, and afterwards themselves, even after an error; training on
    inside or outside leaves the other alone."""
    x = leaf(np.array([1.0, 2.0]))
    average = optim.ExponentialMovingAverage([x], 0.5, warmup=False)
    x.data = np.array([3.0, 6.0])
    average.update()
    with average as same:
        assert same is average
        assert x.data.tolist() == [2.0, 4.0]
        assert x.requires_grad
    assert x.data.tolist() == [3.0, 6.0]
    with pytest.raises(RuntimeError), average:
        raise RuntimeError
    assert x.data.tolist() == [3.0, 6.0]
    x.data += 1
    assert average.averages[0].tolist() == [2.0, 4.0]
    average.swap()
    average.swap()
    assert x.data.tolist() == [4.0, 7.0]


def test_training_the_averages_leaves_the_parameters_alone() -> None:
    """A step of an optimiser `with average:` moves the averages; the parameters come back as they were, and both go on
    apart from each other."""
    x, y = leaf(np.array([1.0, 2.0])), leaf(np.array([5.0]))
    rule = optim.SGD([x, y], lr=1.0)
    advance(rule, [x, y], [np.zeros(2), np.zeros(1)])
    average = optim.ExponentialMovingAverage([x, y], 0.5, warmup=False)
    advance(rule, [x, y], [np.array([-2.0, -4.0]), np.array([1.0])])
    average.update()
    with average:
        assert (x.data.tolist(), y.data.tolist()) == ([2.0, 4.0], [4.5])
        advance(rule, [x, y], [np.array([1.0, 1.0]), np.array([1.0])])
        assert (x.data.tolist(), y.data.tolist()) == ([1.0, 3.0], [3.5])
    assert (x.data.tolist(), y.data.tolist()) == ([3.0, 6.0], [4.0])
    assert [a.tolist() for a in average.averages] == [[1.0, 3.0], [3.5]]
    advance(rule, [x, y], [np.array([0.0, 1.0]), np.array([0.0])])
    assert (x.data.tolist(), y.data.tolist()) == ([3.0, 5.0], [4.0])
    average.update()
    assert [a.tolist() for a in average.averages] == [[2.0, 4.0], [3.75]]


# Clipping


@given(data=st.data(), longest=st.floats(1e-3, 1e3), p=st.sampled_from([2.0, 1.0, 3.5, math.inf]))
def test_clipping_is_torchs(data: st.DataObject, longest: float, p: float) -> None:
    """All gradients by one factor, min(1, max_norm/(‖g‖ + 1e-6)), and the norm before is returned, as torch does; the
    arrays that were there are not written into, and a parameter without a gradient has none after."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    scale = 10.0 ** data.draw(st.integers(-4, 4))
    shapes = data.draw(
        st.lists(st.sampled_from([(), (3,), (2, 3), (4, 1, 2), *[(0,)] * (p < math.inf)]), min_size=1, max_size=5)
    )
    gradients = [np.asarray(scale * rng.standard_normal(shape)) for shape in shapes]
    before = [g.copy() for g in gradients]
    ours = [ng.tensor(np.zeros(shape), requires_grad=True) for shape in (*shapes, (2,))]
    theirs = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in (*shapes, (2,))]
    for one, other, g in zip(ours, theirs, gradients):
        one.grad, other.grad = ng.Tensor(g), torch.from_numpy(g.copy())
    norm, expected = clip_grad_norm_(ours, longest, p), torch.nn.utils.clip_grad_norm_(theirs, longest, p)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            np.testing.assert_allclose(one.grad.data, other.grad.numpy(), rtol=1e-12)
    assert all((a == b).all() for a, b in zip(gradients, before, strict=True))
    after = np.linalg.norm(np.concatenate([one.grad.data.ravel() for one in ours if one.grad is not None]), p)
    assert after <= longest * (1 + 1e-12)
    if norm.item() + 1e-6 < longest:
        assert all((one.grad.data == g).all() for one, g in zip(ours, before) if one.grad is not None)


def test_clipping_keeps_types_and_bounds() -> None:
    """float32 gradients stay so; no gradients, no norm; a bound that is none is refused."""
    p = ng.tensor(np.ones(3, np.float32), requires_grad=True)
    none = clip_grad_norm_([p], 1.0)
    assert (none.item(), none.dtype) == (0, np.float32)
    p.grad = ng.Tensor(np.full(3, 5.0, np.float32))
    assert clip_grad_norm_([p], 1.0).dtype == np.float32
    assert p.grad.dtype == np.float32
    for bound in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_norm"):
            clip_grad_norm_([p], bound)
    with pytest.raises(ValueError, match="norm_type"):
        clip_grad_norm_([p], 1.0, 0.0)


@pytest.mark.parametrize(("gradient", "dtype", "right"), [
    ([1e20, 0.0], np.float32, [1.0, 0.0]), ([3e38, -4e37], np.float32, None), ([3e-30, 4e-30], np.float32, None),
    ([1e200, 1e200], np.float64, None), ([3e-200, 4e-200], np.float64, None),
])  # fmt: skip
def test_clipping_of_the_largest_and_the_smallest(gradient: list[float], dtype: Any, right: list[float] | None) -> None:
    """g · min(1, 1/(‖g‖ + 1e-6)), where squares leave the type's range as well: by Python's own hypot."""
    norm = math.hypot(*gradient)
    right = right or [g * min(1.0, 1 / (norm + 1e-6)) for g in gradient]
    p = ng.tensor(np.zeros(2, dtype), requires_grad=True)
    p.grad = ng.Tensor(np.array(gradient, dtype))
    with warnings.catch_warnings(action="error"):
        found = clip_grad_norm_(p, 1.0)
    np.testing.assert_allclose(p.grad.data, right, rtol=1e-6)
    assert found.item() == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_is_said(bad: float) -> None:
    """As a warning; or as an error where that is asked for, and then no gradient is changed.  torch gives the same
    numbers."""
    p, q = leaf(np.zeros(2)), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    p.grad, q.grad = ng.Tensor(np.array([bad, 1.0])), torch.tensor([bad, 1.0], dtype=torch.float64)
    with pytest.raises(RuntimeError, match="norm"):
        clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert p.grad.data[1] == 1.0
    with pytest.warns(RuntimeWarning, match="norm"):
        norm = clip_grad_norm_([p], 1.0)
    np.testing.assert_array_equal(norm.item(), torch.nn.utils.clip_grad_norm_([q], 1.0).item())
    np.testing.assert_array_equal(p.grad.data, q.grad.numpy())
