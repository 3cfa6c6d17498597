"""What several test files use: gradients against central differences, and arrays in every kind of memory layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import nanogen as ng
from nanogen.backend import OPERATIONS
from nanogen.models.adversarial.spectral import SpectralNorm
from nanogen.testing import gradcheck

STEP = 1e-5
LAYOUTS = ("contiguous", "transposed", "strided", "reversed")


def leaf(array: Any) -> ng.Tensor:
    """A tensor that requires gradients, of this very array: `ng.tensor` would copy and lay it out anew."""
    x = ng.Tensor(np.asarray(array))
    x.requires_grad = True
    return x


def vector_jacobian_product(f: Callable[..., Any], inputs: Sequence[Any], cotangents: Sequence[Any]) -> list[ng.Tensor]:
    """Σ cotangent · ∂f/∂input for each input, as differentiable tensors; zeros where f does not depend on it."""
    outputs = as_list(f(*inputs))
    found = ng.grad(outputs, inputs, list(cotangents), create_graph=True, allow_unused=True)
    return [ng.Tensor(np.zeros_like(x.data)) if g is None else g for x, g in zip(inputs, found, strict=True)]


def check_gradients(f: Callable[..., Any], *arrays: Any, order: int = 2, tolerance: float = 1e-6) -> None:
    """Assert that the gradients of f are those of central differences, up to the given order.

    For the second order this is said of the function (x, c) ↦ vjp(c), and so on.  As HIPS autograd's `check_grads` has
    it (Maclaurin et al. 2015).
    """
    rng = np.random.default_rng(0)
    outputs = as_list(f(*[leaf(x) for x in arrays]))
    cotangents = [rng.standard_normal(y.shape) for y in outputs]
    gradients = vector_jacobian_product(f, [leaf(x) for x in arrays], cotangents)
    inputs = [leaf(x) for x in arrays]
    unrecorded = ng.grad(as_list(f(*inputs)), inputs, cotangents, allow_unused=True)
    for x, g, again in zip(arrays, gradients, unrecorded, strict=True):
        np.testing.assert_allclose(0.0 * g.data if again is None else again.data, g.data, rtol=1e-9, atol=1e-9)
        assert g.shape == np.shape(x), f"a gradient of shape {g.shape} for an input of shape {np.shape(x)}"
        assert g.dtype == x.dtype, f"a gradient of type {g.dtype} for an input of type {x.dtype}"
    assert gradcheck(f, inputs, STEP, tolerance, tolerance)
    if order > 1:
        n = len(arrays)
        slope = lambda *xs: vector_jacobian_product(f, xs[:n], xs[n:])
        check_gradients(slope, *arrays, *cotangents, order=order - 1, tolerance=tolerance)


def check_slope(loss: Callable[[], ng.Tensor], part: ng.nn.Module, step: float = STEP) -> None:
    """Assert that every parameter of the part is in use, and that along a random direction in all of them the loss has
    the slope of central differences."""
    rng, parameters = np.random.default_rng(1), list(part.parameters())
    slopes, before = ng.grad(loss(), parameters), [p.data for p in parameters]
    assert all(g.data.any() for g in slopes), "every parameter is in use"
    directions, values = [rng.standard_normal(p.shape) for p in parameters], []
    for moved in (step, -step, 0.0):
        for p, x, d in zip(parameters, before, directions, strict=True):
            p.data = x + moved * d
        values.append(loss().item())
    exact = sum((g.data * d).sum() for g, d in zip(slopes, directions, strict=True))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(exact, rel=1e-5, abs=1e-7)


def as_list(outputs: Any) -> list[ng.Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def inner(a: Any, b: Any) -> float:
    """⟨a, b⟩; exact, and so fit for ==, where the numbers are small integers."""
    return float((np.asarray(a) * np.asarray(b)).sum())


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers, elsewhere in memory."""
    if array.ndim == 0:
        return np.array(array)
    if layout == "transposed":
        return np.array(array.T, order="C").T
    if layout == "strided":
        spread = np.full([2 * n + 1 for n in array.shape], np.nan)[tuple(slice(n) for n in np.multiply(2, array.shape))]
        spread[(slice(None, None, 2),) * array.ndim] = array
        return spread[(slice(None, None, 2),) * array.ndim]
    if layout == "reversed":
        backwards = (slice(None, None, -1),) * array.ndim
        return np.array(array[backwards], order="C")[backwards]
    return np.array(array, order="C")


class Draw:
    """Numbers, shapes and arrays for one example, chosen by hypothesis."""

    def __init__(self, data: st.DataObject):
        self.data = data
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def number(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def pick(self, options: Sequence[Any]) -> Any:
        return self.data.draw(st.sampled_from(options))

    def shape(self, axes: tuple[int, int] = (0, 3), least: int = 0) -> tuple[int, ...]:
        return tuple(self.pick([n for n in (2, 3, 1, 0) if n >= least]) for _ in range(self.number(*axes)))

    def broadcast(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that broadcasts to `shape`."""
        kept = shape[self.number(0, len(shape)) :]
        return tuple(self.pick([n, 1]) for n in kept)

    def dims(self, ndim: int) -> Any:
        """One axis, several or all, from the front or from the back."""
        some = self.data.draw(st.lists(st.integers(0, max(ndim - 1, 0)), unique=True, max_size=ndim))
        return self.pick(
            [None, some[0] if some else -1, tuple(i - ndim if ndim else -1 for i in some[:1]), tuple(some)]
        )

    def array(self, shape: tuple[int, ...], kind: str = "normal") -> np.ndarray:
        """Numbers of a kind (away from the kinks of piecewise functions: no zeros, no two equal) in any layout."""
        x: Any
        if kind == "normal":
            x = self.rng.standard_normal(shape)
        elif kind == "positive":
            x = self.rng.uniform(0.5, 2.0, shape)
        elif kind == "nonzero":
            x = self.rng.uniform(0.2, 2.0, shape) * self.rng.choice([-1.0, 1.0], shape)
        elif kind == "distinct":
            x = 0.3 * self.rng.permutation(int(np.prod(shape))).reshape(shape) - 1.0
        else:
            x = self.rng.integers(-4, 5, shape).astype(float)
        return laid_out(np.asarray(x), self.pick(LAYOUTS))


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Within this context no operation has a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        for operation in OPERATIONS:
            patch.setattr(operation, "kernels", {})
        yield


def awake(network: Any) -> Any:
    """The network in float64 with every weight awake: none is 0 or 1, behind which a mistake could hide."""
    rng = np.random.default_rng(2)
    for parameter in network.to(np.float64).parameters():
        parameter.data = parameter.data + 0.3 * rng.standard_normal(parameter.shape)
    return network


def settled(model: ng.nn.Module) -> ng.nn.Module:
    """The model with the power iteration of every spectral norm at its end."""
    for module in model.modules():
        if isinstance(module, SpectralNorm):
            left, _, _ = np.linalg.svd(module.matrix().data)
            module.u.data = left[:, 0].astype(module.u.dtype)
    return model
