"""The strict stand-in for CuPy refuses what CuPy refuses; a training step leaves the device alone.

`pytest --device strict` runs all the other tests on it: see `strict/plugin.py`.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import os
import sys
import tomllib
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import plain_forms
from museum import ROOT, functions
from strict import compiled, cuda, device, graph, record
from tiny_runs import KINDS, TINY, assert_same, begun, images_of, settings_of, some_images, trained

import nanogen as ng
from nanogen.backend import OPERATIONS, Operation, replay
from nanogen.cli import main
from nanogen.data import Images
from nanogen.kernels.cuda.graph import WARM_UPS
from nanogen.metrics import likelihood
from nanogen.training.loop import Trainer, train
from nanogen.training.run import make_settings
from nanogen.training.sampling import as_graphs

pytestmark = pytest.mark.stand_in
EXCLUDED = tomllib.loads((Path(__file__).parent / "strict" / "excluded.toml").read_text())


@pytest.fixture
def cp() -> Iterator[Any]:
    with device.installed() as module:
        yield module


def nothing(*_: Any) -> None:
    """What a fused function returns."""


REFUSED: dict[str, Callable[[Any, Any], Any]] = {
    "NumPy's function": lambda cp, x: np.exp(x),
    "NumPy's reduction": lambda cp, x: np.sum(x),
    "NumPy's join": lambda cp, x: np.concatenate([x, x]),
    "NumPy's scatter": lambda cp, x: np.add.at(x, [0], 1.0),
    "into NumPy's": lambda cp, x: np.asarray(x),
    "a host array on the right": lambda cp, x: x + np.ones(3),
    "a host array on the left": lambda cp, x: np.ones(3) * x,
    "a host array of no axes": lambda cp, x: x * np.array(2.0),
    "a host array added in place": lambda cp, x: x.__iadd__(np.ones(3)),
    "a device array added to a host's": lambda cp, x: np.ones(3).__iadd__(x),
    "a host array as an argument": lambda cp, x: cp.exp(np.ones(3)),
    "a host array in a list": lambda cp, x: cp.concatenate([x, np.ones(3)]),
    "a host array as a value": lambda cp, x: x.__setitem__(slice(None), np.ones(3)),
    "a host array as an index": lambda cp, x: x[np.array([0, 1])],
    "a device array as a host's index": lambda cp, x: np.arange(3)[cp.asarray(1)],
    "out= on the host": lambda cp, x: cp.exp(x, out=np.ones(3)),
    "out= on the host, of a method": lambda cp, x: x.sum(out=np.ones(())),
    "out= on the device, of a host array": lambda cp, x: np.exp(np.ones(3), out=x),
    "where= of a ufunc": lambda cp, x: cp.exp(x, where=True),
    "where= of a sum": lambda cp, x: x.sum(where=True),
    "initial=": lambda cp, x: cp.max(x, initial=0.0),
    "clip's min=": lambda cp, x: cp.clip(x, min=0.0),
    "var's correction=": lambda cp, x: x.var(correction=1),
    "take's mode=": lambda cp, x: cp.take(x, cp.arange(2), mode="clip"),
    "one argument too many": lambda cp, x: cp.take_along_axis(x, cp.arange(2), 0, None),
    "errstate": lambda cp, x: cp.errstate(all="ignore"),
    "nditer": lambda cp, x: cp.nditer(x),
    "a number for range": lambda cp, x: range(cp.asarray(3)),
    "a number for an index of a list": lambda cp, x: [1, 2, 3][cp.asarray(1)],
    "text": lambda cp, x: cp.array(["a"]),
    "objects": lambda cp, x: cp.array([None, object()]),
    "several masks": lambda cp, x: x[:, None][x > 0, cp.ones(1, bool)],
    "a place assigned twice": lambda cp, x: x.__setitem__(cp.asarray([0, 0]), 1.0),
    "as many values as a mask lets through": lambda cp, x: x.__setitem__(x > 1.0, cp.ones(2)),
    "a fused function that indexes": lambda cp, x: cp.fuse(lambda y: nothing(y[0]))(x),
    "a fused function that adds up": lambda cp, x: cp.fuse(lambda y: nothing(cp.sum(y)))(x),
    "a fused function that asks": lambda cp, x: cp.fuse(lambda y: nothing(not y))(x),
    "a fused function that asks a number": lambda cp, x: cp.fuse(lambda y, n: nothing(not n))(x, 2),
    "a fused function of numbers": lambda cp, x: cp.fuse(lambda y, n: nothing(y * (1 - n)))(x, 2.0),
    "a fused function with a shape": lambda cp, x: cp.fuse(lambda y: nothing(y.shape))(x),
    "a fused function with what is not its": lambda cp, x: cp.fuse(lambda y: nothing(cp.add(y, cp.ones(3))))(x),
    "a fused function of a host array": lambda cp, x: cp.fuse(lambda y, z: None)(x, np.ones(3)),
    "a fused function that returns": lambda cp, x: cp.fuse(lambda y: y + 1)(x),
    "a fused function that writes where it reads": lambda cp, x: cp.fuse(lambda y, z: nothing(cp.add(y, 0, out=z)))(
        x := x.copy(), x[::-1]
    ),
    "a fused function that writes into less": lambda cp, x: cp.fuse(lambda y, z: nothing(cp.add(z, 0, out=z)))(
        x[None], x[None, :1]
    ),
    "scatter of a ufunc that has none": lambda cp, x: cp.multiply.at(x, cp.arange(2), 2.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cupy_refuses(name: str, cp: Any) -> None:
    """What does not work on CuPy's arrays, or copies between host and device silently, is an error."""
    x = cp.asarray(np.arange(3.0))
    with pytest.raises((TypeError, AttributeError, NotImplementedError, ValueError)):
        REFUSED[name](cp, x)
    assert np.array_equal(x.get(), np.arange(3.0))


def test_what_cupy_takes(cp: Any) -> None:
    """Numbers of Python's and NumPy's mix with device arrays, by NumPy's rules for types; results stay arrays."""
    x = cp.asarray(np.arange(3, dtype=np.float32))
    results = [x + 1, 2.0 * x, np.float32(2) * x, x.sum(), x[1], x.max(axis=()), -x, x @ x, cp.where(x > 0, x, 0.0)]
    assert all(type(y) is cp.ndarray and y.dtype == np.float32 for y in results)
    assert (np.float64(2) * x).dtype == np.float64
    assert type(cp.array_equal(x, x)) is cp.ndarray
    assert x.base is None
    assert x[1:].base is not None
    x[1] += 5.0
    part = x[2]
    part += 1.0  # a view, even of one element
    assert x.get().tolist() == [0.0, 6.0, 3.0]
    assert not hasattr(x, "__imatmul__")


def test_what_arithmetic_makes_lies_in_order(cp: Any) -> None:
    """CuPy's elementwise functions, and its joins, make arrays that lie in the order of their axes, NumPy's as their
    inputs; what is made like an array, or joined into one, lies as that does."""
    x = cp.asarray(np.arange(6.0).reshape(2, 3).T)
    for y in (x + x, 2.0 * x, -x, cp.exp(x), cp.where(x > 0, x, 0.0), cp.concatenate([x, x])):
        assert y.flags.c_contiguous
    assert cp.empty_like(x).strides == x.strides
    joined = ng.cat([ng.Tensor(x), ng.Tensor(cp.ones((1, 2)))]).data
    assert (joined.shape, joined.T.flags.c_contiguous) == ((4, 2), True)
    assert joined.get().tolist() == [*x.get().tolist(), [1.0, 1.0]]


def test_a_fused_function_is_one_of_elements(cp: Any) -> None:
    """CuPy's `fuse`: arithmetic, elementwise functions, `out=`, assignments; numbers take the type of the arrays."""

    def fused(x: Any, slope: Any, count: Any, y: Any, n: Any) -> None:
        y[...] = cp.where(x > 1, -x, 2 / (x + 1) * slope)
        cp.exp(y, out=y)
        y -= 1
        n[...] = (n ^ (count >> 1)).astype(np.uint64)

    x, y = cp.asarray(np.arange(3, dtype=np.float32)), cp.zeros(3, np.float32)
    n = cp.ones(3, np.uint64)
    cp.fuse(fused)(x, 0.5, np.uint64(6), y, n)
    expected = np.exp(np.where(np.arange(3) > 1, -np.arange(3), 1 / (np.arange(3, dtype=np.float32) + 1))) - 1
    np.testing.assert_allclose(y.get(), expected, rtol=1e-6)
    assert n.get().tolist() == [2, 2, 2]


def test_indices_wrap_around_and_masks_take_whole_values(cp: Any) -> None:
    """As CuPy documents it: an integer index out of range counts on from the start; a mask's values are the array's."""
    x = cp.asarray(np.arange(3.0))
    assert x[cp.asarray([1, 3])].get().tolist() == [1.0, 0.0]
    x[x > 0.5] = cp.asarray(np.array([7.0, 8.0, 9.0]))
    assert x.get().tolist() == [0.0, 8.0, 9.0]
    cp.add.at(x, cp.asarray([0, 0]), 1.0)
    assert x.get().tolist() == [2.0, 8.0, 9.0]


WAITS: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda cp, x: x.get(),
    "asnumpy": lambda cp, x: cp.asnumpy(x),
    "item": lambda cp, x: x[0].item(),
    "float": lambda cp, x: float(x[0]),
    "if": lambda cp, x: 1 if x[0] else 2,
    "tolist": lambda cp, x: x.tolist(),
    "a mask": lambda cp, x: x[x > 0],
    "nonzero": lambda cp, x: x.nonzero(),
    "where": lambda cp, x: cp.where(x > 0),
    "in": lambda cp, x: 0.0 in x,
    "text": lambda cp, x: f"{x}",
    "a loop over numbers": lambda cp, x: [int(y) for y in x[:1]],
}


@pytest.mark.parametrize("name", WAITS)
def test_waiting_is_noted(name: str, cp: Any) -> None:
    """Whatever brings a number to the host, or needs one there, is counted, once; arithmetic is not."""
    x = cp.asarray(np.arange(3.0))
    with device.watched() as seen:
        (x * 2 + 1).sum(axis=0, keepdims=True)
        assert seen == []
        WAITS[name](cp, x)
    assert [transfer.kind for transfer in seen] == ["to host"]


def test_uploads_are_noted(cp: Any) -> None:
    """What comes from the host is counted; a Python number, which goes along with its kernel, is not."""
    with device.watched() as seen:
        x = cp.asarray(np.arange(3.0))
        cp.array([1.0, 2.0])
        x[[0, 1]] + 1
        cp.zeros(3), cp.asarray(x), cp.asarray(2.0), x.astype(np.float32)
    assert [transfer.kind for transfer in seen] == ["to device"] * 3


def test_the_record_is_cupys() -> None:
    """The names and arguments that the stand-in knows are those of the CuPy that is installed, where one is."""
    cupy = pytest.importorskip("cupy")
    if cupy.__version__ != device.RECORD["version"]:
        pytest.skip(f"the record is of CuPy {device.RECORD['version']}, installed is {cupy.__version__}")
    assert record.record() == device.RECORD


def test_cupy_has_the_streams_of_the_stand_in() -> None:
    """Where CuPy is installed: what `graph` stands in for is there, and whether a stream is captured can be asked."""
    cuda = pytest.importorskip("cupy").cuda
    assert callable(cuda.get_current_stream)
    assert callable(cuda.runtime.getDevice)
    theirs = cuda.Stream.from_external(types.SimpleNamespace(__cuda_stream__=lambda: (0, 0x100)))
    assert theirs.ptr == 0x100
    assert {name for name in dir(graph.Stream()) if not name.startswith("_")} <= {"ptr", *dir(cuda.Stream)}


def test_cupy_compiles_what_is_fused() -> None:
    """Where CuPy is installed, GPU or not: it takes every function that a training step of each model fuses, for the
    types that are given there, as one elementwise kernel, and its compiler makes code of it."""
    pytest.importorskip("cupy")
    calls: dict[Any, tuple[Any, list[Any]]] = {}

    def noted(function: Any) -> Any:
        def call(*given: Any) -> None:
            taken = [(a.dtype, a.ndim) if type(a) is device.ndarray else a for a in given]
            calls[function, tuple(a if isinstance(a, tuple) else type(a) for a in taken)] = function, taken
            fused(*given)

        fused = device.fuse(function)
        return call

    with device.installed() as cp:
        cp.fuse = noted
        for model, execution in itertools.product(TINY, ("eager", "graph")):
            Trainer(settings_of(model, device="cuda", execution=execution), images_of(model)).advance()
    assert len({function for function, _ in calls.values()}) >= 8
    for function, taken in calls.values():
        assert len(compiled.compiled(function, taken)) > 1000, function.__name__


UNCONDITIONAL = ("pix2pix", "cyclegan", "spade", "super-resolution")  # models that take no labels

# What one training step may move: the images.  Random numbers are drawn on the device.
UPLOADS = {
    "pixelcnn": 1,
    "gated-pixelcnn": 1,
    "pixelrnn": 1,
    "vae": 1,
    "hierarchical-vae": 1,
    "autoencoder": 1,
    "wae": 1,
    "aae": 3,
    "gan": 2,
    "sagan": 2,
    "biggan": 2,
    "infogan": 2,
    "pix2pix": 2,
    "cyclegan": 2,
    "spade": 2,
    "stylegan": 1,
    "super-resolution": 1,
    "ddpm": 1,
    "binomial-diffusion": 1,
    "latent-ddpm": 2,
}  # two updates of the discriminator; the AAE's autoencoder needs images, too


@pytest.mark.parametrize("model", TINY)
def test_a_training_step_leaves_the_device_alone(model: str, cp: Any, tmp_path: Path) -> None:
    """Nothing comes back to the host in a training step, nothing waits, and nothing is moved there twice."""
    trainer, _ = begun(settings_of(model, device="cuda"), tmp_path / model)
    trainer.advance()  # tables move once
    with device.watched() as seen:
        losses = trainer.advance()
    assert [transfer for transfer in seen if transfer.kind == "to host"] == []
    assert len(seen) == UPLOADS[model], Counter(seen)
    assert {loss.device for loss in losses.values()} == {"cuda"}
    held = [*trainer.average.averages, *(p.data for p in trainer.model.parameters())]
    held += [a for optimizer in trainer.optimizers.values() for many in optimizer.state.values() for a in many]
    assert {type(array) for array in held} == {cp.ndarray}


@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("model", KINDS)
def test_test_losses_on_the_device(model: str, execution: str, cp: Any) -> None:
    """They are numbers, the same again for the same weights, and change no later step: captured or not."""
    settings = settings_of(model, device="cuda", execution=execution)
    tested, plain = (Trainer(settings, images_of(model)) for _ in range(2))
    for _ in range(3):
        tested.advance()
        plain.advance()
        found = tested.test_losses(images_of(model, 9))
        assert found.keys() == tested.parameters.keys()
        assert all(np.isfinite(loss) for loss in found.values())
        assert tested.test_losses(images_of(model, 9)) == found
    assert_same(tested.arrays(), plain.arrays())


def test_training_steps_go_by_kernels(cp: Any, monkeypatch: Any) -> None:
    """Whatever has a kernel for a GPU goes by it in a training step of each model, and all of them are needed but
    that of a convolution's gradient by itself; our own CUDA sources are run."""
    taken: Counter[str] = Counter()

    def noted(operation: Operation, forward: Any) -> Any:
        def call(*arrays: Any, **parameters: Any) -> Any:
            found = forward(*arrays, **parameters)
            assert found is not NotImplemented, operation.__name__
            taken[operation.__name__] += 1
            return found

        return call

    ours = [operation for operation in OPERATIONS if (operation.__module__ or "").startswith("nanogen.")]
    with_kernels = [operation for operation in ours if "cuda" in operation.kernels]
    for operation in with_kernels:
        forward, gradient = operation.kernels["cuda"]
        monkeypatch.setitem(operation.kernels, "cuda", (noted(operation, forward), gradient))
    transformer = TINY["ddpm"] | {"network": "transformer", "channels": 4, "depth": 1}
    how: dict[str, Any] = {"device": "cuda", "steps": 6, "batch": 8}
    for model, own in [*TINY.items(), ("ddpm", transformer)]:
        before = cuda.launches
        Trainer(make_settings(model, images_of(model), own, **how), images_of(model)).advance()
        assert cuda.launches > before
    assert {operation.__name__ for operation in with_kernels} - {*taken} == {"convolve_weight"}


@pytest.mark.parametrize("channels", [4, 32])
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (4, 2)])
@pytest.mark.parametrize("convolve", [ng.conv2d, ng.conv_transpose2d])
def test_a_convolution_moves_nothing(convolve: Any, side: int, stride: int, channels: int, cp: Any) -> None:
    """Whichever way it is computed (32 channels: by tiles), once its tables lie on the device, neither a convolution
    nor its gradients bring anything there or back."""
    x, w = (
        ng.tensor(np.ones(shape, np.float32), requires_grad=True, device="cuda")
        for shape in [(2, channels, 5, 6), (channels, channels, side, side)]
    )
    for _ in range(2):
        with device.watched() as seen:
            y = convolve(x, w, stride=stride, padding=1)
            ng.grad(y, [x, w], y)
    assert seen == []


def test_only_what_is_logged_comes_back(cp: Any, tmp_path: Path) -> None:
    """Training to the end: each logged loss is fetched once, the checkpoint at the end array by array, no more."""
    settings = settings_of("vae", device="cuda", steps=12)
    trainer, run = begun(settings, tmp_path / "run")
    with device.watched() as seen:
        train(trainer, run, lambda step, loss: None)
    calls = Counter(transfer.call for transfer in seen if transfer.kind == "to host")
    assert calls == {"item": settings.steps, "get": len(trainer.arrays()) - len(trainer.optimizers)}


def drawing_on_the_host(seed: int, device: str = "cpu") -> ng.Generator:
    """A generator with the same numbers for all devices."""
    return ng.Generator(seed, device, "host")


@pytest.fixture
def without_kernels() -> Iterator[None]:
    """The plain forms alone: kernels' sums are in another order, so not the same to the bit.  How near they are:
    `test_cuda.py`, `test_parity.py`, `test_kernels.py`."""
    with plain_forms():
        yield


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize("model", TINY)
def test_a_run_on_the_stand_in_is_the_run_on_the_cpu(model: str, cp: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Training, sampling and loss, to all digits that are logged: the same draws, and NumPy underneath both."""
    monkeypatch.setattr("nanogen.training.loop.Generator", drawing_on_the_host)
    runs = {where: trained(model, tmp_path / where, device=where)[1] for where in ("cpu", "cuda")}
    assert runs["cpu"].metrics_file.read_text() == runs["cuda"].metrics_file.read_text()
    samples = {where: run.model(where).sample(3, ng.Generator(5, where, "host")) for where, run in runs.items()}
    assert type(samples["cuda"]) is cp.ndarray
    assert np.array_equal(samples["cpu"], samples["cuda"].get())


@pytest.mark.usefixtures("without_kernels")
def test_a_run_moves_between_devices(cp: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """A checkpoint made on one device goes on on the other, to the same numbers from the same draws: it needs the seed
    and the step."""
    monkeypatch.setattr("nanogen.training.loop.Generator", drawing_on_the_host)
    settings = settings_of("ddpm", device="cuda", steps=6)
    there, _ = begun(settings, tmp_path / "there")
    for _ in range(3):
        there.advance()
    here = Trainer(settings_of("ddpm", device="cpu", steps=6), there.images)
    here.restore(there.checkpoint())
    assert here.advance()["loss"].item() == there.advance()["loss"].item()


@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize("model", TINY)
def test_a_captured_step_is_the_step(model: str, cp: Any, tmp_path: Path) -> None:
    """A run whose step is captured as a graph, and launched, gives the losses and the numbers of the run whose kernels
    are launched one by one, bit for bit, step after step: all that changes between steps lies on the device."""
    runs = {
        execution: trained(model, tmp_path / execution, device="cuda", execution=execution, steps=7)
        for execution in ("eager", "graph")
    }
    (eager, one), (graph, other) = runs["eager"], runs["graph"]
    assert graph.replayed
    assert graph.replayed.calls == 7
    assert one.metrics_file.read_text() == other.metrics_file.read_text()
    for name, array in eager.arrays().items():
        assert np.array_equal(graph.arrays()[name], array), name


def test_a_captured_step_of_a_diffusion_that_chooses_its_times(cp: Any) -> None:
    """Times by importance and learned variances: what has been seen so far lies on the device, and goes into the next
    step of the same graph; nothing comes back to the host."""
    own, losses = {"variance": "learned", "times": "importance", "weighting": "bound"}, {}
    for execution in ("eager", "graph"):
        how = {"device": "cuda", "execution": execution, "steps": 16, "batch": 8, "lr": 0.05, "warmup": 0}
        trainer = Trainer(make_settings("ddpm", some_images(), {**TINY["ddpm"], **own}, **how), some_images())
        losses[execution] = [trainer.advance()["loss"].item() for _ in range(15)]
        with device.watched() as seen:
            trainer.advance()
        assert [transfer for transfer in seen if transfer.kind == "to host"] == []
        assert trainer.model.times.seen.data.min() >= 10  # type: ignore[attr-defined]
    assert losses["eager"] == losses["graph"]


@pytest.mark.parametrize("model", [model for model in KINDS if model not in UNCONDITIONAL])
def test_a_captured_step_of_a_conditional_model(model: str, cp: Any) -> None:
    """Labels go to the device once an update, as images do; captured, they are an input that changes at each step: the
    losses are those of the eager run, and of one whose model is told other labels they are not.  Conditional sampling
    by graphs is sampling."""
    bare, losses = images_of(model), {}
    uploads = 2 * UPLOADS[model] + ("gan" in model)  # in the GANs the generator's update has labels, and no images
    told = {"right": np.arange(30) % 2, "other": np.arange(30) // 15}
    for name, execution in (("right", "eager"), ("other", "graph"), ("right", "graph")):
        images = Images(bare.images, told[name], bare.levels, bare.name)
        how = {"device": "cuda", "execution": execution, "steps": 6, "batch": 8, "lr": 0.05, "warmup": 0}
        trainer = Trainer(make_settings(model, images, {**TINY[model], "classes": 2}, **how), images)
        losses[name, execution] = [[x.item() for x in trainer.advance().values()] for _ in range(5)]
        with device.watched() as seen:
            trainer.advance()
        assert execution == "graph" or len(seen) == uploads, Counter(seen)
        assert [transfer for transfer in seen if transfer.kind == "to host"] == []
    assert losses["right", "eager"] == losses["right", "graph"] != losses["other", "graph"]
    network = trainer.model.eval()
    first = network.sample(3, ng.Generator(0, "cuda"), cp.arange(3) % 2)
    for part in network.sampling_networks():
        as_graphs(part)
    for _ in range(4):
        assert (network.sample(3, ng.Generator(0, "cuda"), cp.arange(3) % 2) == first).all()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("vae", {"stages": 2}),
        ("vae", {"stages": 2, "posterior": "mixture"}),
        ("vae", {"stages": 2, "posterior": "categorical"}),
        ("ddpm", {"multipliers": (1, 1)}),
    ],
    ids=["vae", "mixture", "categorical", "ddpm"],
)
def test_a_captured_step_of_sizes_that_do_not_double(model: str, settings: dict[str, Any], cp: Any) -> None:
    """5×6 pixels are halved to 3×3 and grow to 5×6 again: which pixel comes from which is a table that has to lie on
    the device before the capture."""
    levels = np.random.default_rng(0).integers(0, 4, (30, 1, 5, 6)).astype(np.uint8)
    images, losses = Images(levels, None, 4, "digits"), []
    for execution in ("eager", "graph"):
        how = {"device": "cuda", "execution": execution, "steps": 5, "batch": 8}
        trainer = Trainer(make_settings(model, images, {**TINY[model], **settings}, **how), images)
        losses.append([trainer.advance()["loss"].item() for _ in range(5)])
    assert losses[0] == losses[1]


def test_a_captured_step_fades_in(cp: Any) -> None:
    """α moves with the steps in a captured step, too: a number would be frozen."""
    levels = np.random.default_rng(0).integers(0, 4, (30, 1, 8, 8)).astype(np.uint8)
    images, losses = Images(levels, None, 4, "digits"), []
    for execution in ("eager", "graph"):
        how = {"device": "cuda", "execution": execution, "steps": 12, "batch": 8}
        trainer = Trainer(make_settings("stylegan", images, {**TINY["stylegan"], "progressive": 4}, **how), images)
        losses.append([[loss.item() for loss in trainer.advance().values()] for _ in range(9)])
        assert trainer.model.alphas().data.tolist() == [1.0]
    assert losses[0] == losses[1]


def test_sampling_by_graphs(cp: Any, tmp_path: Path) -> None:
    """A run whose steps are graphs samples and evaluates by graphs of its network, one for each shape: bit for bit what
    comes of kernels that are launched one by one, at every step on the way.  In training the network is as it was."""
    _, run = trained("ddpm", tmp_path, device="cuda", execution="graph", steps=2)
    models, images = [run.model(), run.model()], some_images().images[:5]
    graphs = inspect.getclosurevars(models[0].unet.forward).nonlocals["graphs"]
    del models[1].unet.forward
    for n in (3, 2, 3, 2):
        ways = [list(model.ancestral(n, ng.Generator(n, "cuda"))) for model in models]
        assert all((a.data == b.data).all() for (_, a), (_, b) in zip(*ways, strict=True))
    assert sorted(kind[0][0][0] for kind in graphs) == [2, 3]
    assert min(graph.calls for graph in graphs.values()) > WARM_UPS + 1
    given = 2 * [(x, cp.full(2, t)) for t, x in models[1].ancestral(2, ng.Generator(0, "cuda")) if t]
    noises = [[model.predict_noise(x, t).data for x, t in given] for model in models]
    assert all((a == b).all() for a, b in zip(*noises, strict=True))
    found = [likelihood(model, images, ng.Generator(0, "cuda"), batch=3) for model in models]
    assert found[0] == found[1]
    losses = [model.train().loss(images, ng.Generator(0, "cuda")) for model in models]
    slopes = [ng.grad(loss, list(model.parameters())) for model, loss in zip(models, losses, strict=True)]
    assert all((a.data == b.data).all() for a, b in zip(*slopes, strict=True))


def test_a_captured_run_goes_on_from_a_checkpoint(cp: Any, tmp_path: Path) -> None:
    """A trainer that has captured its step takes a checkpoint of an earlier one, and then repeats what followed."""
    trainer, _ = begun(settings_of("gan", device="cuda", execution="graph", steps=9), tmp_path / "run")
    ends = []
    for _ in range(4):
        trainer.advance()
    middle = trainer.checkpoint()
    for _ in range(2):
        losses = [{name: loss.item() for name, loss in trainer.advance().items()} for _ in range(5)]
        ends.append((losses, trainer.arrays()))
        trainer.restore(middle)
    (losses, arrays), (again, others) = ends
    assert again == losses
    assert all(np.array_equal(others[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("what", "step"),
    {
        "fetched": lambda x: x.get(),
        "asked for its truth": lambda x: bool(x.sum() > 0),
        "moved there": lambda x: x + sys.modules["cupy"].asarray(np.ones(3)),
    }.items(),
)
def test_a_capture_refuses_what_waits(cp: Any, what: str, step: Callable[[Any], Any]) -> None:
    """What needs the host is refused in a capture, and the capture is over then: another can begin."""
    broken = replay(lambda x: [x * 2.0, step(x)])
    broken(np.ones(3)), broken(np.ones(3))
    with pytest.raises(RuntimeError, match="while a stream is captured"):
        broken(np.ones(3))
    doubled = replay(lambda x: [x * 2.0])
    assert [doubled(np.full(3, i))[0].get().tolist() for i in range(5)] == [[2.0 * i] * 3 for i in range(5)]


def test_numbers_and_labels_go_along(cp: Any) -> None:
    """Beside a tensor on the device a number is one there, and labels, indices and times may be plain arrays."""
    x = ng.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, device="cuda")
    labels = np.array([2, 0])
    results = [
        *ng.grad((x * 2.0).sum(), x, 3.0),
        x[labels % 2],
        x[[1, 0]],
        x[:, np.array([True, False, True])],
        ng.cross_entropy(x, labels),
        ng.embedding(labels % 2, x),
        ng.gather(x, 1, labels[:, None]),
        ng.maximum(1.0, x),
        ng.distributions.Categorical(x).log_prob(labels),
        ng.models.NoiseSchedule.linear(5).q_sample(x, np.array([1, 5]), x),
        x.to("cpu").to("cuda"),
    ]
    assert [y.device for y in results] == ["cuda"] * len(results)
    assert x.to("cpu").device == "cpu"
    with pytest.raises(TypeError):
        x * np.ones(3)
    with pytest.raises(
        TypeError, match=r"^a tensor on a GPU does not turn into a NumPy array silently: use \.numpy\(\)$"
    ):
        np.asarray(x)
    with pytest.raises(ValueError, match="labels"):
        ng.cross_entropy(x, labels + 1)


def test_indices_that_lie_there_stay_there(cp: Any) -> None:
    """Rows and elements are taken on the device by indices on it: nothing goes to it or comes from it."""
    x, places = (ng.tensor(values, device="cuda") for values in (np.arange(6.0).reshape(2, 3), np.array([[1], [0]])))
    with device.watched() as seen:
        ng.gather(x, 1, places), ng.embedding(places, x), x[places], ng.cross_entropy(x, places[:, 0])
    assert not seen


@pytest.mark.parametrize("index", [[1, 0], np.array([1, 0]), (slice(None), np.array([2, 0, 2]))])
def test_an_index_of_the_host_goes_there(index: Any, cp: Any) -> None:
    """A list or an array of the host's as an index is moved to where the tensor lies, and takes what it takes there."""
    x = np.arange(6.0).reshape(2, 3)
    with device.watched() as seen:
        taken = ng.tensor(x, device="cuda")[index]
    assert [transfer.kind for transfer in seen] == ["to device"] * 2
    assert np.array_equal(taken.data.get(), x[index])


def test_precision_is_what_cupy_is_told(cp: Any, monkeypatch: Any) -> None:
    """TF32 is used if the settings say so and not otherwise, whatever the environment says."""
    for precision, told in (("tf32", "1"), ("float32", "0")):
        monkeypatch.setenv("CUPY_TF32", "" if told == "1" else "1")
        Trainer(settings_of("vae", device="cuda", precision=precision), some_images())
        assert os.environ["CUPY_TF32"] == told


@pytest.mark.parametrize("missing", ["CuPy", "GPU"])
def test_a_missing_gpu_is_one_line(missing: str, monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    """`--device cuda` without CuPy says what to install, without a GPU that there is none; the status is 2."""
    found = None if missing == "CuPy" else types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "cupy", found)
    assert main(["train", "vae", "--device", "cuda", "--steps", "1", "--out", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("nanogen: error: device 'cuda' needs")
    assert ("pip install" in printed[0]) == (missing == "CuPy")
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_the_benchmark_of_the_gpu_runs(cp: Any, monkeypatch: Any) -> None:
    """`benchmarks/cuda.py` from end to end, ours on the stand-in and PyTorch's on the CPU: both compute the same loss,
    and there is a row for each training step and the sampling step, and for each as a graph."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT)  # `benchmarks` stands beside the tests and is not installed
    from benchmarks import cuda as on_gpu
    from benchmarks import timing

    monkeypatch.setattr(on_gpu, "STEPS", 1)
    monkeypatch.setattr(timing, "settle", lambda f, least: timing.seconds(f))  # the times are not looked at
    settings = {
        "pixelcnn": {"channels": 6, "blocks": 1, "dropout": 0.0},
        "vae": {"channels": 4, "stages": 1, "latent": 2, "decoder": "logistic"},
        "gan": {"channels": 4},
        "ddpm": {"channels": 4, "multipliers": (1,), "T": 10},
    }
    rows = on_gpu.comparisons("cpu", lambda: None, (3, 4, 4), 2, settings, 0.0, compiled=False)
    assert [row.name.split(",")[0] for row in rows] == ["training step"] * 8 + ["sampling step"] * 2
    assert sum("as a graph" in row.name for row in rows) == 5
    assert all(row.ours > 0 < row.theirs for row in rows)


def test_the_benchmarks_take_a_device(monkeypatch: Any, capsys: Any, tmp_path: Path) -> None:
    """`python -m benchmarks --device cuda` measures on the GPU and nothing on the CPU, TF32 as asked for; without a
    GPU, or with an option that is not of the device, it says so and its status is 2."""
    if importlib.util.find_spec("dezero") is None:
        pytest.skip("the benchmarks on the CPU need DeZero")
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import __main__ as benchmarks

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            benchmarks.main(arguments)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "needs CuPy" in refused("--device", "cuda")
    assert "--tf32" in refused("--tf32")
    assert "--only" in refused("--device", "cuda", "--only", "layers")
    monkeypatch.setattr(benchmarks.cuda, "check_devices", lambda: None)
    monkeypatch.setattr(benchmarks.cuda, "tables", lambda tf32, budget: [f"TF32 {tf32}, {budget} s"])
    monkeypatch.setattr(benchmarks, "on_this_processor", None)
    for given, expected in (((), "TF32 False, 10.0 s\n"), (("--tf32", "--budget", "3"), "TF32 True, 3.0 s\n")):
        benchmarks.main(("--device", "cuda", "--out", str(tmp_path / "table.md"), *given))
        assert (tmp_path / "table.md").read_text() == expected


def test_what_is_left_out_is_there() -> None:
    """excluded.toml names tests that exist, and few: at most one in twenty, files without arrays aside."""
    for node in itertools.chain(*EXCLUDED.values()):
        file, _, test = node.partition("::")
        assert (ROOT / "tests" / file).is_file()
        assert not test or test.partition("[")[0] in functions(file), node
    tests = [name for file in (ROOT / "tests").glob("test_*.py") for name in functions(file.name)]
    assert sum("::" in node for node in itertools.chain(*EXCLUDED.values())) <= len(tests) / 20
