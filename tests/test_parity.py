"""CPU against GPU: every operation and every model, from the same weights and noise, in float32 and float64.

The same noise is drawn on the host for both (`Generator(seed, "cuda", "host")`); what a GPU draws is a test of its own.

On the stand-in (`strict`), which has NumPy underneath, the plain forms of an operation are equal to the bit.  With
kernels, in models, whose arrays have other strides on the two sides, and on a real GPU (marker `gpu`, skipped where
there is none), sums are taken in another order: they agree within TOLERANCE of the largest number.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import Draw, as_list, plain_forms
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strict import device
from test_functional import BY_NAME, OPERATIONS
from test_products import COPIED, UNCOPIED
from tiny_runs import TINY, images_of, settings_of, some_images

import nanogen as ng
import nanogen.functional as F
from benchmarks.torch_models import stirred
from nanogen.autograd import Tensor
from nanogen.backend import device_module, to_numpy
from nanogen.kernels.cuda.products import Handle, own_handle, product
from nanogen.kernels.winograd import LEAST_CHANNELS
from nanogen.training.loop import Trainer
from nanogen.training.sampling import as_graphs

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}  # of the largest number of a result; models lose another factor of 20
pytestmark = pytest.mark.stand_in
DEVICES = ["plain", "stand-in", pytest.param("gpu", marks=pytest.mark.gpu)]


@contextlib.contextmanager
def on(where: str) -> Iterator[float]:
    """Within this context device `cuda` is the stand-in or the GPU.  Gives how far off the numbers may be that were
    computed there, in TOLERANCE."""
    if where == "gpu":
        try:
            device_module("cuda")
        except RuntimeError as error:
            pytest.skip(str(error))
        yield 1.0
    else:
        with device.installed():
            yield 0.0 if where == "plain" else 1.0


@pytest.fixture(autouse=True)
def _kernels_or_none(request: pytest.FixtureRequest) -> Iterator[None]:
    with plain_forms() if request.node.callspec.params.get("where") == "plain" else contextlib.nullcontext():
        yield


def assert_equal(there: Any, here: Any, tolerance: float) -> None:
    there, here = to_numpy(there), to_numpy(here)
    assert (there.dtype, there.shape) == (here.dtype, here.shape)
    scale = np.abs(here[np.isfinite(here)]).max(initial=1.0) if here.dtype.kind == "f" else 0.0
    np.testing.assert_allclose(there, here, rtol=0, atol=tolerance * scale)


def moved(value: Any) -> Any:
    """The arrays, tensors and generators within a value, on the GPU."""
    if isinstance(value, np.ndarray):
        return ng.backend.to_device(value, "cuda")
    if isinstance(value, Tensor):
        return value.to("cuda")
    if isinstance(value, tuple | list):
        return type(value)(moved(part) for part in value)
    return value


def carried(f: Any) -> Any:
    """An example's function with the arrays that it has by heart on the GPU."""
    if not getattr(f, "__closure__", None):
        return f
    cells = tuple(types.CellType(moved(cell.cell_contents)) for cell in f.__closure__)
    made = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, cells)
    made.__kwdefaults__ = f.__kwdefaults__
    return made


def values_and_slopes(f: Any, arrays: list[Any], cotangents: list[Any]) -> list[Any]:
    """The outputs, then the gradients of Σ cotangent · output; None where there is none."""
    inputs = [Tensor(x) for x in arrays]
    for x in inputs:
        x.requires_grad = True
    outputs = as_list(f(*inputs))
    return [y.data for y in outputs] + [
        None if g is None else g.data for g in ng.grad(outputs, inputs, cotangents, allow_unused=True)
    ]


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=5)
@given(data=st.data())
def test_operations(name: str, dtype: str, where: str, data: st.DataObject) -> None:
    """Values and gradients of every operation and primitive, on the examples that their other tests take."""
    draw = Draw(data)
    f, arrays = OPERATIONS[name](BY_NAME[name], draw)
    arrays = [np.array(x, dtype, order="C") for x in arrays]
    shapes = [y.shape for y in as_list(f(*map(Tensor, arrays)))]
    cotangents = [draw.rng.standard_normal(shape).astype(dtype) for shape in shapes]
    here = values_and_slopes(f, arrays, [Tensor(c) for c in cotangents])
    with on(where) as inexact:
        there = values_and_slopes(carried(f), moved(arrays), [Tensor(c) for c in moved(cotangents)])
        for a, b in zip(there, here, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert_equal(a, b, inexact * TOLERANCE[dtype])


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", TINY)
def test_models(name: str, dtype: str, where: str) -> None:
    """Each loss and the gradients of all its parameters, from the same weights and the same draws."""
    images = images_of(name, 6)
    here = stirred(ng.models.MODELS[name](images.shape, images.levels, **TINY[name]).to(np.dtype(dtype)), 0.1)
    with on(where):
        there = copy.deepcopy(here).to("cuda")
        for (_, loss, part), (_, loss_there, part_there) in zip(here.updates(), there.updates(), strict=True):
            a, b = loss_there(images.images, ng.Generator(1, "cuda", "host")), loss(images.images, ng.Generator(1))
            assert a.device == "cuda"
            assert_equal(a.data, b.data, 20 * TOLERANCE[dtype])
            slopes = ng.grad(a, list(part_there.parameters())), ng.grad(b, list(part.parameters()))
            for g, expected in zip(*slopes, strict=True):
                assert_equal(g.data, expected.data, 20 * TOLERANCE[dtype])


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("name", ["vae", "ddpm", "pixelcnn"])
def test_likelihoods(name: str, where: str) -> None:
    """The likelihood or its bound, in float64, with the same draws."""
    images = some_images(6)
    here = stirred(ng.models.MODELS[name](images.shape, images.levels, **TINY[name]).to(np.dtype("float64")), 0.1)
    with on(where), ng.no_grad():
        there = copy.deepcopy(here).to("cuda")
        if name == "pixelcnn":
            a, b = there.log_prob(images.images), here.log_prob(images.images)
        else:
            a, b = there.elbo(images.images, ng.Generator(1, "cuda", "host")), here.elbo(images.images, ng.Generator(1))
        assert_equal(a.data, b.data, 20 * TOLERANCE["float64"])


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("size", [(), (5,), (3, 1001)])
def test_random_numbers(size: tuple[int, ...], where: str) -> None:
    """What is drawn by array operations is the same on NumPy and on CuPy: uniform numbers, integers and permutations to
    the bit; normal numbers but for the device's cosine and logarithm."""
    here = ng.Generator(2, "cpu", "device").stream(7)
    with on(where) as inexact:
        there = ng.Generator(2, "cuda").stream(7)
        for dtype in TOLERANCE:
            assert_equal(there.uniform(size, dtype), here.uniform(size, dtype), 0.0)
            assert_equal(there.normal(size, dtype), here.normal(size, dtype), inexact * TOLERANCE[dtype])
        assert_equal(there.integers(-3, 1000, size), here.integers(-3, 1000, size), 0.0)
        assert_equal(there.permutation(50), here.permutation(50), 0.0)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", [*UNCOPIED, *COPIED])
def test_products(name: str, dtype: str, where: str) -> None:
    """Matrices that lie in memory in one way or another, times one matrix and times as many: integers exactly."""
    with on(where):
        memory = (np.arange(240).reshape(2, 4, 6, 5) % 17 - 8).astype(dtype)
        here, there = (UNCOPIED | COPIED)[name](memory), (UNCOPIED | COPIED)[name](moved(memory))
        one = (np.arange(30 * 4).reshape(30, 4) % 7 - 3).astype(dtype)[: here.shape[-1]]
        assert_equal(product(there, moved(one)), here @ one, 0.0)
        assert_equal(product(there.swapaxes(-1, -2), there), here.swapaxes(-1, -2) @ here, 0.0)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2)])
@settings(max_examples=5)
@given(
    seed=st.integers(0, 99),
    sizes=st.tuples(st.integers(1, 3), *[st.integers(LEAST_CHANNELS, 40)] * 2, *[st.integers(4, 11)] * 2),
    padding=st.integers(0, 1),
)
@example(seed=0, sizes=(2, 32, 40, 24, 27), padding=1)  # so large that gradients are added up by a kernel
def test_convolutions_by_tiles(
    kernel: int, stride: int, dtype: str, where: str, seed: int, sizes: tuple[int, ...], padding: int
) -> None:
    """A convolution and a transposed one of the same images, with as many channels as tiles want, and their gradients:
    integers exactly, since the tiles' tables are halves and quarters."""
    (n, c, o, h, w), rng = sizes, np.random.default_rng(seed)
    shapes = (n, c, h, w), (o, c, kernel, kernel), (c, o, kernel, kernel), (o,)
    arrays = [rng.integers(-3, 4, shape).astype(dtype) for shape in shapes]

    def both(x: Tensor, w: Tensor, turned: Tensor, bias: Tensor) -> list[Tensor]:
        return [F.conv2d(x, w, bias, stride, padding), F.conv_transpose2d(x, turned, bias, stride, padding)]

    cotangents = [rng.integers(-3, 4, y.shape).astype(dtype) for y in both(*map(Tensor, arrays))]
    here = values_and_slopes(both, arrays, [Tensor(g) for g in cotangents])
    with on(where):
        there = values_and_slopes(both, moved(arrays), [Tensor(g) for g in moved(cotangents)])
        for a, b in zip(there, here, strict=True):
            assert_equal(a, b, 0.0)


@pytest.mark.parametrize("where", DEVICES[1:])
def test_products_go_by_a_handle_of_our_own(where: str) -> None:
    """Where cuBLAS is not found products are CuPy's, after a warning: right, but no step can be captured."""
    with on(where):
        xp = device_module("cuda")
        assert isinstance(own_handle(xp, xp.cuda.runtime.getDevice(), threading.get_ident()), Handle)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TINY)
def test_captured_steps(name: str) -> None:
    """The losses of steps that are launched as a CUDA graph are those of steps launched kernel by kernel.  On the
    stand-in that is `test_strict.py::test_a_captured_step_is_the_step`, to the bit."""
    with on("gpu"):
        losses = []
        for execution in ("eager", "graph"):
            trainer = Trainer(settings_of(name, device="cuda", execution=execution), images_of(name))
            losses.append([[loss.item() for loss in trainer.advance().values()] for _ in range(6)])
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 3])
def test_sampling_by_graphs(n: int) -> None:
    """Diffusion whose network is launched as a CUDA graph draws what it draws by kernels launched one by one.  On the
    stand-in that is `test_strict.py::test_sampling_by_graphs`, to the bit."""
    with on("gpu"):
        images = some_images()
        model = stirred(ng.models.MODELS["ddpm"](images.shape, images.levels, **TINY["ddpm"]), 0.1).to("cuda").eval()
        one_by_one = [x.numpy() for _, x in model.ancestral(n, ng.Generator(0, "cuda"))]
        as_graphs(model.unet)
        for _ in range(4):
            way = [x.numpy() for _, x in model.ancestral(n, ng.Generator(0, "cuda"))]
            np.testing.assert_allclose(way, one_by_one, rtol=0, atol=1e-4)
