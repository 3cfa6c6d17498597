"""Layers and modules: weights that travel to torch and back, masks that keep the order of the pixels."""

from __future__ import annotations

import copy
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import TINY, images_of, settings_of

import nanogen as ng
from nanogen import nn
from nanogen.nn.layers import causal_mask
from nanogen.training.run import build_model

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch", reason="torch reads these files by it")

# The layer, by the same call in both libraries, and the shape of an input.  No two sizes of an axis are equal.
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "linear": (lambda nn: nn.Linear(5, 3), (4, 5)),
    "linear without bias": (lambda nn: nn.Linear(5, 3, bias=False), (2, 4, 5)),
    "conv": (lambda nn: nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 3, 7, 6)),
    "conv without bias": (lambda nn: nn.Conv2d(2, 5, 3, bias=False), (3, 2, 6, 4)),
    "conv, same": (lambda nn: nn.Conv2d(2, 3, (3, 5), padding="same"), (3, 2, 6, 4)),
    "transposed": (lambda nn: nn.ConvTranspose2d(3, 4, (3, 2), (2, 3), (1, 0), (1, 2)), (2, 3, 4, 5)),
    "transposed, by place": (lambda nn: nn.ConvTranspose2d(3, 4, 3, stride=2, bias=False, dilation=2), (2, 3, 4, 5)),
    "conv in groups, by place": (lambda nn: nn.Conv2d(4, 6, 3, 1, 1, 1, 2, False), (2, 4, 5, 6)),
    "conv, depthwise": (lambda nn: nn.Conv2d(4, 8, (3, 2), 1, 1, groups=4, padding_mode="zeros"), (2, 4, 5, 6)),
    "conv, wide": (lambda nn: nn.Conv2d(2, 3, (3, 5), 2, (1, 2)), (3, 2, 6, 4)),
    "transposed in groups, by place": (lambda nn: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 2), (2, 4, 3, 4)),
    "group norm": (lambda nn: nn.GroupNorm(2, 6, eps=1e-3), (3, 6, 4, 5)),
    "group norm, not affine": (lambda nn: nn.GroupNorm(3, 6, affine=False), (3, 6, 4, 5)),
    "batch norm": (lambda nn: nn.BatchNorm2d(4, eps=1e-3, momentum=0.3), (3, 4, 2, 5)),
    "batch norm, not affine": (lambda nn: nn.BatchNorm2d(4, affine=False), (3, 4, 2, 5)),
    "batch norm, no bias": (lambda nn: nn.BatchNorm2d(4, track_running_stats=True, bias=False), (3, 4, 2, 5)),
    "batch norm of vectors": (lambda nn: nn.BatchNorm1d(4), (5, 4)),
    "batch norm of rows": (lambda nn: nn.BatchNorm1d(4, 1e-3), (2, 4, 5)),
    "instance norm": (lambda nn: nn.InstanceNorm2d(3), (2, 3, 4, 5)),
    "instance norm, affine": (lambda nn: nn.InstanceNorm2d(3, 1e-3, affine=True), (2, 3, 4, 5)),
    "layer norm": (lambda nn: nn.LayerNorm((4, 5), eps=1e-3), (2, 3, 4, 5)),
    "layer norm of one axis": (lambda nn: nn.LayerNorm(5), (2, 3, 5)),
    "layer norm, no bias": (lambda nn: nn.LayerNorm(5, 1e-5, True, False), (2, 3, 5)),
    "average pool": (lambda nn: nn.AvgPool2d(3, 2, 1), (2, 3, 6, 5)),
    "max pool": (lambda nn: nn.MaxPool2d((2, 3), 2, 1, 1, False, False), (2, 3, 6, 5)),
    "upsample": (lambda nn: nn.Upsample(None, 2, "bilinear", False), (2, 3, 2, 3)),
    "upsample, nearest": (lambda nn: nn.Upsample(scale_factor=3.3), (2, 3, 2, 2)),
    "shapes": (lambda nn: nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1), nn.Identity(3, a=4)), (2, 3, 5, 4)),
    "activations": (
        lambda nn: nn.Sequential(nn.ReLU(True), nn.LeakyReLU(0.2, inplace=True), nn.SiLU(), nn.Softplus(2.0), nn.GELU(),
                                 nn.GELU("tanh"), nn.Tanh(), nn.LogSoftmax(dim=1), nn.Sigmoid(), nn.Softmax(-1)),
        (2, 3, 4, 5),
    ),
    "named": (
        lambda nn: nn.Sequential(OrderedDict(first=nn.Linear(5, 4), act=nn.ReLU(), last=nn.Linear(4, 3)))[:2], (2, 5)
    ),
    "nested": (
        lambda nn: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.Sequential(nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 3, 2)), nn.Dropout(0)
        ),
        (3, 2, 4, 5),
    ),
}  # fmt: skip


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


def scrambled(layer: Any) -> dict[str, np.ndarray]:
    """Numbers for all that a layer of torch's remembers; positive, as a variance has to be."""
    return {
        k: np.random.default_rng([*k.encode()]).uniform(0.2, 2.0, v.shape) if v.ndim else np.array(7)
        for k, v in layer.state_dict().items()
    }


def assert_same_state(ours: Any, theirs: Any) -> None:
    a, b = ours.state_dict(), {k: v.numpy() for k, v in theirs.state_dict().items()}
    for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", LAYERS)
def test_names_and_shapes_are_torchs(name: str) -> None:
    """The keys of state_dict and the shapes behind them equal torch's; so does the number type of each."""
    make, _ = LAYERS[name]
    ours, theirs = make(nn).state_dict(), make(torch.nn).state_dict()
    assert {k: (v.shape, str(v.dtype)) for k, v in ours.items()} == {
        k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in theirs.items()
    }


@pytest.mark.parametrize("name", LAYERS)
def test_weights_travel(name: str) -> None:
    """Weights from torch give torch's outputs here, and back there; in training and in evaluation, and with the
    running moments of batch normalisation after three steps of training (Ioffe & Szegedy 2015, algorithm 2)."""
    make, shape = LAYERS[name]
    theirs, ours, back = make(torch.nn).double(), make(nn).to(np.float64), make(torch.nn).double()
    theirs.load_state_dict({k: torch.tensor(v) for k, v in scrambled(theirs).items()})
    ours.load_state_dict(theirs.state_dict())
    for step in range(5):
        training = step < 3
        for layer in (theirs, ours):
            layer.train(training)
        x = normal(step + 1, *shape)[step]
        expected = theirs(torch.tensor(x)).detach().numpy()
        np.testing.assert_allclose(ours(ng.tensor(x)).data, expected, rtol=1e-10, atol=1e-10)
        assert_same_state(ours, theirs)
    back.load_state_dict({k: torch.tensor(v) for k, v in ours.state_dict().items()})
    np.testing.assert_allclose(back.eval()(torch.tensor(x)).detach().numpy(), expected, rtol=1e-10, atol=1e-10)


@given(st.integers(0, 9), st.integers(0, 3), st.sampled_from([1, 2, 3, 6]), st.sampled_from([1e-5, 0.3]))
def test_adaptive_group_norm(seed: int, images: int, groups: int, eps: float) -> None:
    """silu((1 + scale) · norm(x) + shift), norm torch's GroupNorm with the same weights, scale and shift those of each
    image.  AdaGN: Dhariwal & Nichol 2021, section 3."""
    rng = np.random.default_rng(seed)
    theirs, ours = torch.nn.GroupNorm(groups, 6, eps).double(), nn.AdaptiveGroupNormSiLU(groups, 6, eps).to(np.float64)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in scrambled(theirs).items()})
    ours.load_state_dict(theirs.state_dict())
    x, scale, shift = (rng.normal(size=(images, *size)) for size in ((6, 4, 5), (6,), (6,)))
    y = (1 + scale[..., None, None]) * theirs(torch.tensor(x)).detach().numpy() + shift[..., None, None]
    found = ours(*map(ng.tensor, (x, scale, shift))).data
    np.testing.assert_allclose(found, y / (1 + np.exp(-y)), rtol=1e-10, atol=1e-12)


LOSSES: dict[str, Callable[[Any], Any]] = {
    "mse": lambda nn: nn.MSELoss(reduction="sum"),
    "mse, older": lambda nn: nn.MSELoss(False),
    "l1": lambda nn: nn.L1Loss(),
    "l1, none": lambda nn: nn.L1Loss(None, False),
    "bce": lambda nn: nn.BCELoss(),
    "bce, weighted": lambda nn: nn.BCELoss(in_library(nn, [0.5, 2.0, 1.0])),
    "bce with logits": lambda nn: nn.BCEWithLogitsLoss(pos_weight=in_library(nn, [0.5, 2.0, 3.0])),
    "bce with logits, weighted": lambda nn: nn.BCEWithLogitsLoss(in_library(nn, [0.5, 2.0, 3.0]), reduction="none"),
    "cross entropy": lambda nn: nn.CrossEntropyLoss(in_library(nn, [0.5, 2.0, 3.0]), None, 1, None, "mean", 0.2),
}


def in_library(library: Any, numbers: Any) -> Any:
    """Numbers as a tensor of torch's or ours."""
    return (torch if library is torch.nn else ng).tensor(np.array(numbers))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_torchs(name: str) -> None:
    """A module of a loss gives torch's values and gradients, and its repr says its settings."""
    x, t = 0.5 + 0.4 * np.tanh(normal(4, 3)), 0.5 + 0.3 * np.tanh(normal(3, 4).T)
    target = np.array([1, 0, 2, 1]) if name == "cross entropy" else t
    theirs, ours = torch.tensor(x, requires_grad=True), ng.tensor(x, requires_grad=True)
    expected, loss = LOSSES[name](torch.nn)(theirs, torch.tensor(target)), LOSSES[name](nn)
    found = loss(ours, target)
    np.testing.assert_allclose(found.data, expected.detach().numpy(), rtol=1e-12)
    expected.sum().backward()
    found.sum().backward()
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-10)
    assert "reduction=" in repr(loss)
    with pytest.raises(ValueError, match="reduction must be"):
        type(loss)(reduction="average")(ours, target)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("logit", [0.0, 16.0, -16.5, 40.0, -88.0, 300.0, -800.0])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_cross_entropy_of_a_probability_that_is_0_or_1(kind: Any, logit: float, target: float) -> None:
    """As torch: no logarithm below −100 and a finite slope, also behind a sigmoid that has no slope left.  (Torch's
    bound on p(1 − p) is the float32 next to 1e-12, 4e-9 from it.)"""
    ours, theirs = leaf(np.full(2, logit, kind)), torch.full((2,), logit, dtype=getattr(torch, kind.__name__))
    theirs.requires_grad = True
    found = ng.functional.binary_cross_entropy(ours.sigmoid(), np.full(2, target, kind))
    expected = torch.nn.functional.binary_cross_entropy(theirs.sigmoid(), torch.full_like(theirs, target))
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5 if kind is np.float32 else 1e-12)
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.data, theirs.grad.numpy(), rtol=1e-4 if kind is np.float32 else 1e-8)


def test_embedding_weights_travel() -> None:
    """Rows of the table, by index: torch's table gives torch's rows."""
    theirs, ours = torch.nn.Embedding(7, 3), nn.Embedding(7, 3)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {"weight": (7, 3)}
    ours.load_state_dict(theirs.state_dict())
    index = np.array([[6, 0, 3], [3, 1, 6]])
    assert np.array_equal(ours(index).data, theirs(torch.tensor(index)).detach().numpy())


@pytest.mark.parametrize("make", [
    lambda nn, **given: nn.Linear(5, 3, **given),
    lambda nn, **given: nn.Conv2d(3, 4, (2, 3), **given),
    lambda nn, **given: nn.ConvTranspose2d(3, 4, (2, 3), **given),
])  # fmt: skip
def test_first_weights_are_as_wide_as_torchs(make: Callable[..., Any]) -> None:
    """U(−1/√fan_in, 1/√fan_in) for weights and biases (LeCun et al. 1998, section 4.6; torch's default bounds): the
    standard deviation of many draws is torch's within 5 %, and so is the largest of them."""
    torch.manual_seed(0)
    layers = [(make(nn, rng=ng.Generator(seed)), make(torch.nn)) for seed in range(200)]
    for name in ("weight", "bias"):
        ours = np.concatenate([getattr(a, name).data.ravel() for a, _ in layers])
        theirs = np.concatenate([getattr(b, name).detach().numpy().ravel() for _, b in layers])
        assert ours.std() == pytest.approx(theirs.std(), rel=0.05)
        assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.05)


class Family(nn.Module):
    """A module with parts in attributes, in lists and below."""

    def __init__(self, seed: int = 0):
        super().__init__()
        rng = ng.Generator(seed)
        self.blocks = [nn.Linear(2, 3, rng=rng), nn.Sequential(nn.Linear(3, 3, rng=rng), nn.BatchNorm2d(3))]
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.nothing, self.number = None, 4


def test_names_of_parts() -> None:
    """Parameters are found in attributes, lists and parts, once each, buffers after them and not among them."""
    names = ["scale", "blocks.0.weight", "blocks.0.bias", "blocks.1.0.weight", "blocks.1.0.bias",
             "blocks.1.1.weight", "blocks.1.1.bias"]  # fmt: skip
    buffers = [f"blocks.1.1.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")]
    module = Family()
    assert [name for name, _ in module.named_parameters()] == names
    assert list(module.state_dict()) == names + buffers
    assert len({id(p) for p in module.parameters()}) == len(names)


def test_tied_weights_are_one_parameter() -> None:
    """A parameter under two names is given once by parameters, named_parameters, buffers and modules, as torch does,
    and is trained as one; the state_dict has both names, and loads."""

    def tied(nn: Any) -> Any:
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
                self.second.weight = self.first.weight
                self.again = self.norm

            def forward(self, x):
                return self.again(self.second(self.norm(self.first(x)).tanh()))

        return Model()

    torch.manual_seed(0)
    theirs, ours = tied(torch.nn).double(), tied(nn).double()
    for names in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        assert [n for n, _ in getattr(ours, names)()] == [n for n, _ in getattr(theirs, names)()], names
    assert set(ours.state_dict()) == set(theirs.state_dict())
    assert len(list(ours.parameters())) == 5
    ours.load_state_dict(theirs.state_dict())
    assert ours.second.weight is ours.first.weight
    x = normal(4, 3)
    steps = ng.optim.SGD(ours.parameters(), lr=0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)
    average = ng.optim.ExponentialMovingAverage(ours.parameters(), 0.5)
    for _ in range(3):
        for model, step, tensor in zip((ours, theirs), steps, (ng.tensor, torch.tensor), strict=True):
            model.zero_grad()
            (model(tensor(x)) ** 2 * tensor(x)).sum().backward()
            step.step()
        average.update()
    assert_same_state(ours, theirs)
    assert len(average.averages) == 5
    for _, state in ((0, ours.state_dict()), (1, theirs.state_dict())):
        assert np.array_equal(state["first.weight"], state["second.weight"])


def test_modules_in_containers() -> None:
    """Containers number or name what they hold, take more, and give parts by place and by slice, as torch's do."""

    def build(nn: Any) -> Any:
        parts = nn.ModuleList([nn.Linear(2, 3)])
        parts.append(nn.Linear(3, 3))
        model = nn.Sequential()
        model.add_module("initial:2-3", nn.Linear(2, 3))
        model.append(nn.ReLU())
        model.parts = parts
        return model

    ours, theirs = build(nn), build(torch.nn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [len(m) for m in (ours, ours[1:], ours.parts, ours.parts[:1])] == [2, 1, 2, 1]
    assert ours[-1] is ours[1] is next(iter(ours[1:]))
    assert type(ours.parts[:1]) is nn.ModuleList
    assert repr(ours).count("Linear(in_features=") == repr(theirs).count("Linear(in_features=") == 3
    assert repr(ours).splitlines()[1] == "  (initial:2-3): Linear(in_features=2, out_features=3)"
    assert repr(ours).splitlines()[-1] == ")"
    with pytest.raises(IndexError):
        ours[2]
    with pytest.raises(NotImplementedError, match="ModuleList"):
        ours.parts(1)
    with pytest.raises(TypeError, match="0 must be a module or a function, got list"):
        nn.Sequential([nn.ReLU()])
    assert nn.Sequential(np.negative)(3) == -3


def test_what_is_done_to_every_module() -> None:
    """apply goes to every part before the whole; zero_grad, requires_grad_ and to reach every parameter."""
    module, seen = Family(), []
    assert module.apply(seen.append) is module
    assert seen == [module.blocks[0], *module.blocks[1].children(), module.blocks[1], module]
    assert list(module.children()) == list(module.blocks)
    for p in module.parameters():
        p.grad = ng.Tensor(np.ones(p.shape, np.float32))
    module.scale.grad = None
    module.zero_grad(set_to_none=False)
    assert [None if p.grad is None else float(p.grad.sum()) for p in module.parameters()] == [None, *[0.0] * 6]
    module.zero_grad()
    assert all(p.grad is None for p in module.parameters())
    assert module.requires_grad_(False) is module
    assert not any(p.requires_grad for p in module.parameters())
    module.zero_grad()
    assert all(p.requires_grad for p in module.requires_grad_().parameters())
    for to in (lambda m: m.double(), lambda m: m.to("cpu", np.float64), lambda m: m.to(dtype=np.float64, device="cpu")):
        assert {v.dtype.name for v in to(Family()).state_dict().values()} == {"float64", "int64"}
    assert nn.Linear(2, 3, True, "cpu", np.float64).weight.dtype == np.float64
    assert module.float().cpu().scale.dtype == np.float32
    with pytest.raises(ValueError, match="has the unknown"):
        module.load_state_dict({**module.state_dict(), "more": 1})
    module.load_state_dict({"scale": np.full(2, 7.0), "more": 1}, strict=False)
    assert module.scale.data.tolist() == [7.0, 7.0]


def test_buffers_are_registered_tensors() -> None:
    """named_buffers has what was registered, saved or not; the state_dict what is saved; None is nothing."""
    module = nn.Module()
    module.register_buffer("kept", ng.tensor([1.0]))
    module.register_buffer("lost", ng.tensor([2.0]), persistent=False)
    module.register_buffer("nothing", None)
    module.register_parameter("w", nn.Parameter(ng.tensor([3.0])))
    assert [name for name, _ in module.named_buffers()] == ["kept", "lost"]
    assert [b.item() for b in module.buffers()] == [1.0, 2.0]
    assert sorted(module.state_dict()) == ["kept", "w"]


def test_a_parameter_of_what_is_a_tensor_already() -> None:
    """Parameter(tensor) holds the tensor's numbers, as a leaf; it takes lists, and requires_grad=False."""
    x = ng.tensor([1.0, 2.0], requires_grad=True)
    p = nn.Parameter(x * 2)
    assert type(p.data) is type(x.data)
    assert (p * 3).tolist() == [6.0, 12.0]
    (p * p).sum().backward()
    assert p.grad is not None
    assert p.grad.tolist() == [4.0, 8.0]
    assert x.grad is None
    assert nn.Parameter([1.5]).shape == (1,)
    assert not nn.Parameter(x, requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="floating-point"):
        nn.Parameter(np.arange(3))


@pytest.mark.parametrize(
    "module", [nn.ReLU(True), nn.MSELoss(), nn.Sequential(nn.Conv2d(2, 3, 3), nn.Upsample(4)), nn.GELU()]
)
def test_modules_are_copied_and_pickled(module: nn.Module) -> None:
    """copy and pickle give a module of the same kind, settings and weights."""
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(again) == repr(module)
        assert type(again) is type(module)
        assert all(np.array_equal(v, module.state_dict()[k]) for k, v in again.state_dict().items())


INITS: dict[str, tuple[Callable[[Any, Any], Any], float, float]] = {  # the first weights (40, 30, 3, 2): mean and std
    "normal_": (lambda init, w: init.normal_(w, 1.0, 0.02), 1.0, 0.02),
    "uniform_": (lambda init, w: init.uniform_(w, -1.0, 2.0), 0.5, 3 / 12**0.5),
}


@pytest.mark.parametrize("name", INITS)
def test_first_weights_by_name(name: str) -> None:
    """Mean and standard deviation of 7,200 numbers within 4 % of what is promised, torch's too; another draw is
    another, the same seed the same; an array is filled as well."""
    fill, mean, std = INITS[name]
    torch.manual_seed(0)
    layer, theirs = nn.Conv2d(30, 40, (3, 2)), fill(torch.nn.init, torch.empty(40, 30, 3, 2)).numpy()
    ng.manual_seed(5)
    found = fill(nn.init, layer.weight)
    assert found is layer.weight
    first = found.data.copy()
    for w in (first, theirs):
        assert w.std() == pytest.approx(std, rel=0.04)
        assert w.mean() == pytest.approx(mean, abs=0.05 * std)
    assert not np.array_equal(fill(nn.init, layer.weight).data, first)
    ng.manual_seed(5)
    assert np.array_equal(fill(nn.init, np.empty((40, 30, 3, 2), np.float32)), first)


def test_constant_first_weights() -> None:
    """zeros_, ones_ and constant_ fill in place."""
    p = nn.Parameter(np.full(3, 5.0))
    array = p.data
    for fill, value in ((nn.init.zeros_, 0), (nn.init.ones_, 1), (lambda t: nn.init.constant_(t, 0.3), 0.3)):
        assert fill(p) is p
        assert p.data is array
        assert (array == value).all()


def refused(change: Callable[[dict[str, Any]], None], word: str) -> None:
    module = Family()
    before = module.state_dict()
    state = {k: v + 1 for k, v in before.items()}
    change(state)
    with pytest.raises(ValueError, match=word):
        module.load_state_dict(state)
    for name, value in module.state_dict().items():
        assert np.array_equal(value, before[name]), f"{name} was changed"


@pytest.mark.parametrize("name", Family().state_dict())
def test_a_state_that_does_not_fit_changes_nothing(name: str) -> None:
    """A missing name, an unknown one, another shape: ValueError with that name, and every number as it was."""
    refused(lambda state: state.pop(name), name)
    refused(lambda state: state.update({f"{name}.extra": 0}), f"{name}.extra")
    refused(lambda state: state.update({name: state[name][..., None]}), name)


def test_state_dict_is_a_copy_both_ways() -> None:
    """Training on does not change a state_dict that was taken, nor one that was loaded; types stay the module's."""
    module, other = Family(1), Family(2)
    state = module.state_dict()
    kept = {k: v.copy() for k, v in state.items()}
    other.load_state_dict({k: v.astype(np.float64) for k, v in state.items()})
    for m in (module, other):
        assert all(np.array_equal(v, kept[k]) and v.dtype == kept[k].dtype for k, v in m.state_dict().items())
        for p in m.parameters():
            p.data += 1
    assert all(np.array_equal(state[k], kept[k]) for k in kept)


def test_train_and_eval_reach_every_part() -> None:
    """train, eval and to go down to the last part and give the module back; integers keep their type."""
    module = Family()
    assert module.eval() is module
    assert not any(m.training for m in module.modules())
    assert module.train() is module
    assert all(m.training for m in module.modules())
    assert module.to(np.float64) is module
    assert {v.dtype.name for v in module.state_dict().values()} == {"float64", "int64"}
    assert all(p.requires_grad for p in module.parameters())


def test_dropout_is_off_in_evaluation() -> None:
    """In training each number is 0 or divided by 1 − p, 0 with probability p (6 σ of the binomial); in evaluation
    all are as they were.  Srivastava et al. 2014."""
    layer, x = nn.Dropout(0.3), ng.tensor(np.ones(40_000))
    out = layer(x, ng.Generator(1)).data
    assert set(np.unique(out)) == {0.0, 1 / (1 - 0.3)}
    assert abs((out == 0).sum() - 12_000) < 6 * (40_000 * 0.3 * 0.7) ** 0.5
    assert np.array_equal(layer(x, ng.Generator(1)).data, out)
    assert np.array_equal(layer.eval()(x).data, x.data)


def test_dropout_layers_do_not_drop_the_same() -> None:
    """Two layers of ½ in a row keep a quarter (6 σ of the binomial), without a generator, and with one for each or one
    for both; the layer says again what the seed was."""
    x, rng = ng.tensor(np.ones(40_000)), ng.Generator(3)
    for settings in ({}, {"rng": rng}):
        layers = nn.Sequential(nn.Dropout(0.5, **settings), nn.Dropout(0.5, True, **settings))
        assert abs((layers(x * 1.0).data != 0).sum() - 10_000) < 6 * (40_000 * 0.25 * 0.75) ** 0.5
    ng.manual_seed(1)
    first = nn.functional.dropout(x).data
    assert not np.array_equal(nn.functional.dropout(x).data, first)
    assert ng.manual_seed(1) is ng.default_generator
    assert np.array_equal(nn.Dropout()(x).data, first)


def test_models_take_nothing_from_the_default_generator() -> None:
    """A model's first weights and a run's noise come from generators of their own: what else was drawn changes none."""
    before = ng.default_generator.state
    for name in TINY:
        model = build_model(settings_of(name))
        for _, loss, _ in model.updates():
            loss(images_of(name).images[:2], ng.Generator(1))
        model.sample(1, ng.Generator(2))
    assert ng.default_generator.state == before


def test_normalisations_without_weights_go_back() -> None:
    """Two layers of different widths whose scale and shift need no gradient: the images' is that of the equation."""
    rng = np.random.default_rng(0)
    x, w = ng.tensor(rng.standard_normal((3, 2, 2, 2)), requires_grad=True), rng.standard_normal((5, 2, 1, 1))
    narrow, wide = nn.BatchNorm2d(2, affine=False).to(np.float64), nn.BatchNorm2d(5, affine=False).to(np.float64)
    cotangent = rng.standard_normal((3, 5, 2, 2))
    f = lambda x: (wide(ng.functional.conv2d(narrow(x), w)) * cotangent).sum()
    (slope,) = ng.grad(f(x), x)
    step = 1e-6 * rng.standard_normal(x.shape)
    difference = (f(ng.Tensor(x.data + step)).item() - f(ng.Tensor(x.data - step)).item()) / 2
    assert (slope.data * step).sum() == pytest.approx(difference, rel=1e-5)


def test_batch_norm_counts_and_keeps_still_in_evaluation() -> None:
    """Evaluation leaves the running moments alone; training counts its batches."""
    layer, x = nn.BatchNorm2d(2), ng.tensor(normal(3, 2, 2, 2).astype(np.float32))
    layer(x)
    state = layer.eval().state_dict()
    layer(x)
    assert all(np.array_equal(v, state[k]) for k, v in layer.state_dict().items())
    assert layer.train()(x).dtype == np.float32
    assert layer.num_batches_tracked.item() == 2


@pytest.mark.parametrize("make", [
    lambda rng: nn.Linear(3, 2, rng=rng), lambda rng: nn.Conv2d(2, 3, 3, rng=rng),
    lambda rng: nn.Embedding(4, 2, rng=rng),
    lambda rng: nn.ConvTranspose2d(2, 3, 2, rng=rng), lambda rng: nn.MaskedConv2d("A", 1, 3, 3, rng=rng),
])  # fmt: skip
def test_same_seed_same_weights(make: Callable[[Any], nn.Module]) -> None:
    """Weights are a function of the seed: equal for equal ones, others for others; without one the
    default generator draws, which moves on (`ng.manual_seed`)."""

    def weights(rng: ng.Generator | None) -> bytes:
        return b"".join(v.tobytes() for v in make(rng).state_dict().values())

    def seeded(seed: int) -> ng.Generator:
        return ng.Generator(seed, "cpu")  # where weights are drawn, wherever they go

    assert weights(seeded(3)) == weights(seeded(3)) != weights(seeded(4))
    ng.manual_seed(7)
    one, other = weights(None), weights(None)
    ng.manual_seed(7)
    assert one == weights(None) != other, "without rng each layer is another, and a seed begins anew"
    rng = seeded(3)
    assert weights(rng) != weights(rng), "a shared generator goes on"


@pytest.mark.parametrize(("make", "word"), [
    (lambda: nn.Linear(0, 2), "in_features"), (lambda: nn.Linear(2, 2.0), "out_features"),  # type: ignore[arg-type]
    (lambda: nn.Conv2d(-1, 2, 3), "in_channels"), (lambda: nn.Conv2d(1, 2, 0), "kernel_size"),
    (lambda: nn.ConvTranspose2d(1, True, 3), "out_channels"), (lambda: nn.GroupNorm(4, 6), "6 channels"),
    (lambda: nn.BatchNorm2d(0), "num_features"), (lambda: nn.Embedding(0, 1), "num_embeddings"),
    (lambda: nn.Dropout(1.5), "p must"), (lambda: nn.MaskedConv2d("C", 1, 1, 3), "mask"),
    (lambda: nn.MaskedConv2d("A", 1, 1, 2), "odd"), (lambda: nn.MaskedConv2d("A", 3, 2, 3, 3), "colours"),
    (lambda: nn.BatchNorm2d(2)(ng.tensor(np.ones((2, 2)))), "N, C, H, W"),
    (lambda: nn.BatchNorm1d(2)(ng.tensor(np.ones((2, 2, 2, 2)))), r"BatchNorm1d: input must be \(N, C\) or \(N, C, L"),
    (lambda: nn.InstanceNorm2d(2)(ng.tensor(np.ones((2, 3, 3)))), "N, C, H, W"),
    (lambda: nn.InstanceNorm2d(2)(ng.tensor(np.ones((2, 2, 1, 1)))), "several pixels"),
    (lambda: nn.Conv2d(4, 6, 3, groups=4), "4 and 6 channels do not divide into 4 groups"),
    (lambda: nn.ConvTranspose2d(3, 6, 3, groups=2), "3 and 6 channels"),
    (lambda: nn.Conv2d(2, 2, 3, groups=0), "groups must be"),
    (lambda: nn.BatchNorm2d(2, 1e-5, None), "BatchNorm2d: momentum=None is not supported"),
])  # fmt: skip
def test_bad_settings(make: Callable[[], Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        make()


# Masked convolution


def sub_pixels(channels: int, colors: int, height: int, width: int) -> np.ndarray:
    """The place of each feature (C, H, W) in the order of generation: raster over pixels, colours inside a pixel.

    Channels stand in one group a colour, the same number in each (the cases below divide)."""
    color = np.repeat(np.arange(colors), channels // colors)
    pixel = np.arange(height * width).reshape(height, width)
    return pixel[None] * colors + color[:, None, None]


def jacobian(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """∂ out / ∂ in of one image: (out, in), both flattened (C, H, W)."""
    image = leaf(x)
    out = layer(image).reshape(-1)
    return np.stack([ng.grad(out[i], [image])[0].data.ravel() for i in range(out.shape[0])])


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize(("inputs", "outputs", "colors"), [(1, 2, 1), (3, 6, 3), (6, 3, 3), (2, 4, 2)])
@pytest.mark.parametrize("kernel", [1, 3, (3, 5)])
def test_masked_convolution_sees_exactly_the_past(
    mask: str, inputs: int, outputs: int, colors: int, kernel: int | tuple[int, int]
) -> None:
    """∂ out_i / ∂ in_j is not 0 exactly where sub-pixel j comes before i (mask A) or not after it (mask B) and lies
    under the kernel.  van den Oord et al. 2016, section 3.4 and figure 2; the R, G, B order is its equation 2."""
    height, width = 3, 4
    layer = nn.MaskedConv2d(mask, inputs, outputs, kernel, colors).to(np.float64)
    layer.weight.data = np.random.default_rng(1).uniform(0.5, 1.5, layer.weight.shape)  # no accidental zeros
    found = jacobian(layer, normal(1, inputs, height, width)) != 0

    ends = sub_pixels(outputs, colors, height, width).ravel()[:, None]
    starts = sub_pixels(inputs, colors, height, width).ravel()[None]
    past = starts < ends if mask == "A" else starts <= ends
    rows, columns = (np.arange(height * width) // width, np.arange(height * width) % width)
    reach = [k // 2 for k in layer.weight.shape[2:]]
    near = (abs(rows[:, None] - rows) <= reach[0]) & (abs(columns[:, None] - columns) <= reach[1])
    assert np.array_equal(found, past & np.tile(near, (outputs, inputs)))


@pytest.mark.parametrize("mask", ["A", "B"])
@pytest.mark.parametrize("colors", [1, 3])
def test_masked_convolution_does_not_move_with_the_future(mask: str, colors: int) -> None:
    """A change of sub-pixel j leaves every output before it (mask A: and at it) as it was, to the bit, and changes
    one after it.  A NaN would not do for the change: 0 · NaN is NaN."""
    height, width, outputs = 3, 3, 2 * colors
    layer = nn.MaskedConv2d(mask, colors, outputs, 3, colors).to(np.float64)
    x = normal(1, colors, height, width)
    out = layer(ng.tensor(x)).data[0]
    ends, starts = sub_pixels(outputs, colors, height, width), sub_pixels(colors, colors, height, width)
    for j in np.ndindex(*starts.shape):
        moved = x.copy()
        moved[(0, *j)] += 100.0
        changed = layer(ng.tensor(moved)).data[0] != out
        later = ends > starts[j] if mask == "A" else ends >= starts[j]
        assert not changed[~later].any()
        assert changed.any() or starts[j] == starts.max()


@given(colors=st.integers(1, 4), inputs=st.integers(1, 9), outputs=st.integers(1, 9), between=st.integers(1, 9))
def test_masks_compose(colors: int, inputs: int, outputs: int, between: int) -> None:
    """However unevenly channels divide into colours, A followed by B sees strictly the past: with the masks of the
    centre as matrices, (B·A)[o, i] > 0 only if i's colour comes before o's."""
    inputs, outputs, between = (max(n, colors) for n in (inputs, outputs, between))
    first, second = (causal_mask(m, (o, i, 1, 1), colors)[:, :, 0, 0]
                     for m, o, i in (("A", between, inputs), ("B", outputs, between)))  # fmt: skip
    color = lambda n: np.arange(n) * colors // n
    seen = second @ first > 0
    assert not (seen & (color(inputs)[None] >= color(outputs)[:, None])).any()
    assert set(color(inputs)) == set(color(outputs)) == set(range(colors)), "every colour has a channel"


def test_mask_is_not_learned_and_not_saved() -> None:
    """The mask is neither a parameter nor in the state_dict; hidden weights get the gradient 0."""
    layer = nn.MaskedConv2d("A", 1, 2, 3)
    assert set(layer.state_dict()) == {"weight", "bias"}
    layer(ng.tensor(np.ones((1, 1, 4, 4), np.float32))).sum().backward()
    assert layer.weight.grad is not None
    assert (layer.weight.grad.data[causal_mask("A", layer.weight.shape, 1) == 0] == 0).all()


def test_modules_in_any_container_have_torchs_names() -> None:
    """Lists in lists, tuples and dictionaries, in any depth, as torch's ModuleDict and ModuleList have them: parameters
    and buffers are found, moved, trained and saved."""

    def build(nn: Any, listed: Any, named: Any) -> Any:
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.d = named({"a": nn.Linear(2, 3), "b": listed([nn.BatchNorm2d(2), nn.Linear(3, 1)])})
                self.l = listed([listed([nn.Linear(1, 2)]), named({"c": listed([nn.Linear(2, 2)])})])

        return Model()

    theirs = build(torch.nn, torch.nn.ModuleList, torch.nn.ModuleDict)
    names = {"d.a.weight", "d.b.0.running_mean", "l.0.0.bias", "l.1.c.0.weight"}
    for listed in (list, tuple):
        ours = build(nn, listed, dict)
        parameters, buffers = theirs.named_parameters(), theirs.named_buffers()
        assert list(ours.state_dict()) == [name for name, _ in (*parameters, *buffers)]
        assert names <= ours.state_dict().keys()
        ours.load_state_dict(theirs.state_dict())
        assert_same_state(ours, theirs)
        assert len(list(ours.modules())) == 1 + 5
        assert not ours.eval().d["b"][0].training
        assert ours.double().l[1]["c"][0].weight.dtype == np.float64


def test_weights_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is saved is loaded, to the bit: arrays and tensors of any type and layout; torch reads the file and writes
    others that load here.  An error about a file names it.  Without the library one ImportError says so."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double()
    ng.save(model.state_dict(), path := tmp_path / "weights.safetensors")
    found = ng.load(path)
    assert found.keys() == model.state_dict().keys()
    other = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double()
    other.load_state_dict(found)
    for name, value in model.state_dict().items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)
        assert np.array_equal(other.state_dict()[name], value)
        assert np.array_equal(safetensors.load_file(path)[name].numpy(), value)
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    ng.save({"turned": x.T, "backwards": x[:, ::-1], "tensor": leaf(x), "scalar": np.int64(3)}, str(path))
    expected = {"turned": x.T, "backwards": x[:, ::-1], "tensor": x, "scalar": np.array(3)}
    assert all(np.array_equal(ng.load(path)[name], value) for name, value in expected.items())
    safetensors.save_file({"w": torch.ones(2, 3)}, path)
    assert np.array_equal(ng.load(path)["w"], np.ones((2, 3), np.float32))
    for broken in (path.read_bytes()[:-1], b"", b"no weights"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"weights\.safetensors can't be read as safetensors: "):
            ng.load(path)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for use in (lambda: ng.load(path), lambda: ng.save({}, path)):
        with pytest.raises(ImportError, match="safetensors"):
            use()
