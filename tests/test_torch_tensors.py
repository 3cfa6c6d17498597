"""What scripts do to tensors besides calling functions: in place, by shape, by type, one beside torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from nanogen import functional as F
from nanogen import nn

X = np.array([[-1.5, 0.5, 2.0], [0.25, -3.0, 1.0]])
W = np.array([[1.0, -2.0, 0.5], [3.0, 0.1, -1.0]])


IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "relu": lambda lib: lambda y: lib.nn.functional.relu(y, True),
    "leaky_relu": lambda lib: lambda y: lib.nn.functional.leaky_relu(y, 0.3, True),
    "silu": lambda lib: lambda y: lib.nn.functional.silu(y, inplace=True),
    "module": lambda lib: lib.nn.LeakyReLU(0.2, True),
    "none dropped": lambda lib: lib.nn.Dropout(0.0, True),
    "add_": lambda lib: lambda y: y.add_(lib.tensor(W)),
    "mul_": lambda lib: lambda y: y.mul_(2.0).sub_(1.0),
    "clamp_": lambda lib: lambda y: y.clamp_(-1, 1),
    "exp_": lambda lib: lambda y: y.exp_(),
    "fill_": lambda lib: lambda y: y.fill_(3.0),
    "zero_": lambda lib: lambda y: y.zero_(),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_the_tensor_is_what_torchs_is(name: str) -> None:
    """After an in-place operation the tensor has the new numbers, whoever uses it, and gradients go through it; what
    used it before keeps its own: torch's values and gradients, as in a U-Net that joins what its first layer, an
    activation in place, has seen."""

    def run(lib: Any, x: Any) -> tuple[Any, ...]:
        y = x * 1.5
        before = y + 1.0
        z = IN_PLACE[name](lib)(y)
        out = lib.cat([y, z, before])
        (out * lib.tensor(np.concatenate([W, 2 * W, 3 * W]))).sum().backward()
        return y, z, out, x.grad

    expected = run(torch, torch.tensor(X, requires_grad=True))
    found = run(ng, ng.tensor(X, requires_grad=True))
    assert found[0] is found[1]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-12)


def test_what_does_not_go_in_place() -> None:
    """A leaf that requires gradients is changed within no_grad alone, and keeps its place; a result of another shape,
    or numbers that a type does not hold, are refused and change nothing."""
    p, counts = ng.tensor(X, requires_grad=True), ng.tensor([1, 2])
    for change in (
        lambda: p.mul_(2.0),
        lambda: F.relu(p, True),
        lambda: counts.add_(0.5),
        lambda: counts.mul_(p[:, 0]),
    ):
        with pytest.raises(ValueError, match="in place"):
            change()
    assert np.array_equal(p.data, X)
    assert counts.tolist() == [1, 2]
    with ng.no_grad():
        p.mul_(2.0)
    (p * W).sum().backward()
    assert np.array_equal(p.data, 2 * X)
    assert p.grad is not None
    assert np.array_equal(p.grad.data, W)
    assert counts.mul_(3).tolist() == [3, 6]
    assert counts.dtype == np.int64


FACTORIES: dict[str, Callable[[Any], Any]] = {
    "zeros": lambda lib: lib.zeros(2, 3), "zeros of a shape": lambda lib: lib.zeros((2, 3)),
    "zeros of a size": lambda lib: lib.zeros(lib.ones(4, 2).size(), dtype=lib.float64),
    "zeros of nothing": lambda lib: lib.zeros(()),
    "ones": lambda lib: lib.ones([3], dtype=lib.long), "ones of one": lambda lib: lib.ones(1),
    "full": lambda lib: lib.full((2, 2), 3), "full of a float": lambda lib: lib.full((2,), 0.5),
    "full of a type": lambda lib: lib.full((2,), 1, dtype=lib.float), "full of bools": lambda lib: lib.full((2,), True),
    "arange": lambda lib: lib.arange(4), "arange from": lambda lib: lib.arange(2, 9, 3),
    "arange of floats": lambda lib: lib.arange(0.5, 2), "arange by floats": lambda lib: lib.arange(0, 1, 0.25),
    "arange by name": lambda lib: lib.arange(end=3, dtype=lib.float32),
    "arange down": lambda lib: lib.arange(start=3, end=0, step=-1),
    "zeros_like": lambda lib: lib.zeros_like(lib.tensor(X)), "ones_like": lambda lib: lib.ones_like(lib.tensor([1, 2])),
    "ones_like of a type": lambda lib: lib.ones_like(lib.tensor(X), dtype=lib.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_makes_what_torchs_makes(name: str) -> None:
    """Numbers, shape and type of tensors made by shape are torch's."""
    ours, theirs = FACTORIES[name](ng), FACTORIES[name](torch)
    assert ours.shape == tuple(theirs.shape)
    assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
    assert np.array_equal(ours.numpy(), theirs.numpy())


def test_random_tensors_by_shape() -> None:
    """randn, rand and randint draw from the default generator, which moves on and is seeded, or from that of the call;
    mean and deviation within 6 σ of 40,000 draws."""
    for draw, mean, std in [(ng.randn, 0, 1), (ng.rand, 0.5, 1 / 12**0.5),
                            (lambda *size, **how: ng.randint(3, 9, size, **how), 5.5, (35 / 12) ** 0.5)]:  # fmt: skip
        ng.manual_seed(2)
        first, second = draw(200, 200), draw(200, 200)
        ng.manual_seed(2)
        assert np.array_equal(draw(200, 200).numpy(), first.numpy())
        assert not np.array_equal(first.numpy(), second.numpy())
        assert abs(first.numpy().mean() - mean) < 6 * std / 200
        assert abs(first.numpy().std() - std) < 6 * std / 200
        mine = draw(5, rng=ng.Generator(4, "cpu"))
        assert np.array_equal(draw(5, rng=ng.Generator(4, "cpu")).numpy(), mine.numpy())
    assert sorted(set(ng.randint(2, (99,)).tolist())) == sorted(set(ng.randint(2, size=(99,)).tolist())) == [0, 1]
    assert ng.randn((2, 3), dtype=ng.double, requires_grad=True).requires_grad
    like = ng.randn_like(ng.tensor(X))
    assert (like.shape, like.dtype) == ((2, 3), np.float64)
    assert ng.rand_like(like, dtype=ng.float32).dtype == np.float32
    with pytest.raises(ValueError, match="device must be one of"):
        ng.zeros(2, device="meta")


def test_what_a_tensor_says_of_itself() -> None:
    """size, numel, dim, T, tolist, clone, contiguous and the conversions, beside torch's."""
    ours, theirs = ng.tensor(X), torch.tensor(X)
    assert (ours.size(), ours.size(-1), ours.numel(), ours.dim()) == ((2, 3), 3, 6, theirs.dim())
    assert ours.size(dim=0) == theirs.size(dim=0)
    assert ours.T.tolist() == theirs.T.tolist() == ours.t().tolist()
    assert ours.tolist() == theirs.tolist()
    assert ng.tensor(2.5).tolist() == 2.5
    copy = ours.clone()
    copy.data[0, 0] = 9.0
    assert ours.tolist() == theirs.tolist()
    assert ours.contiguous().tolist() == theirs.tolist()
    for name in ("float", "double", "int", "long"):
        assert str(getattr(ours, name)().dtype) == str(getattr(theirs, name)().dtype).removeprefix("torch.")
        assert getattr(ours, name)().tolist() == getattr(theirs, name)().tolist()
    x = leaf(X)
    (slope,) = ng.grad((x.clone().float().cpu().contiguous().T * 3).sum(), x)
    assert np.array_equal(slope.data, np.full((2, 3), 3.0))
    assert slope.dtype == np.float64
    assert ours.to(ng.device(ours.device), non_blocking=True) is ours
    assert ours.is_cuda == (ours.device == "cuda")
    assert ours.to("cpu", ng.float32).dtype == ours.to(ng.tensor([1.0], dtype=ng.float32)).dtype == np.float32
    assert ng.device("cuda:0") == "cuda"
    assert ng.cuda.is_available() in (True, False)
    assert ours.requires_grad_() is ours
    assert ours.requires_grad
    assert not ours.requires_grad_(False).requires_grad


@given(st.floats(-40, 40), st.sampled_from([np.float64, np.float32]))
def test_error_function(x: float, kind: Any) -> None:
    """erf within 4 units in the last place of SciPy's, near 0 too (Abramowitz & Stegun 1964, 7.1.5); erf(∞) = 1."""
    for value in (x, x / 40, x * 1e-20, math.copysign(math.inf, x)):
        found, expected = ng.erf(ng.tensor(np.array(value, kind))), scipy.special.erf(float(np.array(value, kind)))
        assert found.dtype == kind
        assert abs(found.item() - expected) <= 4 * np.finfo(kind).eps * abs(expected)
    assert math.isnan(ng.erf(ng.tensor(math.nan)).item())


def test_slopes_where_a_root_has_none() -> None:
    """As torch: norms and standard deviations have the slope 0 at 0, a product has its factors' where some are 0, and
    `max` along an axis gives all of it to the first of equal elements."""
    x = np.array([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0], [0.0, 2.0, 0.0], [2.0, 2.0, -1.0]])
    several: list[Callable[[Any], Any]] = [
        lambda x: x.norm(2, dim=1).sum(), lambda x: x.std(dim=1).sum(), lambda x: x.prod(1).sum(), lambda x: x.norm(),
        lambda x: x.norm(3, 1).sum(), lambda x: x.max(1)[0].sum(), lambda x: x.prod(), lambda x: x.max(),
        lambda x: x.min(dim=1).values.sum(), lambda x: x.norm(math.inf, 1)[1:].sum(),
    ]  # fmt: skip
    for f in several:
        ours, theirs = leaf(x), torch.tensor(x, requires_grad=True)
        f(ours).backward()
        f(theirs).backward()
        assert ours.grad is not None
        np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_names_of_torchs_library() -> None:
    """The modules that scripts import are there by torch's names, and one is the other."""
    import nanogen.nn.functional as of_nn

    assert of_nn is F is nn.functional is ng.functional
    assert ng.autograd.grad is ng.grad
    assert ng.nn.init.zeros_ is nn.init.zeros_
    assert (ng.float32, ng.double, ng.long, ng.bool, ng.uint8) == (np.float32, np.float64, np.int64, np.bool_, np.uint8)
    assert ng.optim.Adam
    assert ng.is_grad_enabled()
    with ng.no_grad():
        assert not ng.is_grad_enabled()
        with ng.set_grad_enabled(True):
            assert ng.is_grad_enabled()
