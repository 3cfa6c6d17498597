"""`pytest --device strict`: the tests as they are, with everything that they hand to nanogen on the stand-in device.

A test knows nothing of devices.  Whatever it calls in nanogen finds the test's own arrays on the device, as if the
test had moved them there; what it gets back it looks at with NumPy, as if it had fetched it.  Between the two the
library is alone with the device, and nothing of this is lent to it: see `device`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import sys
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanogen.autograd import Composite, Primitive
from nanogen.backend import OPERATIONS, Operation, Update
from nanogen.kernels.cuda import products
from strict import cublas, device

EXCLUDED = tomllib.loads((Path(__file__).parent / "excluded.toml").read_text())


def pytest_configure(config: Any) -> None:
    device.spectators = True
    np.seterr(all="ignore")  # a GPU's arithmetic warns of nothing
    sys.modules["cupy"] = device.module()
    products.library = cublas.library
    move_in()


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Leave out the tests that `excluded.toml` names, each with its reason."""
    reasons = {node: reason for reason, nodes in EXCLUDED.items() for node in nodes}
    for item in items:
        node = item.nodeid.removeprefix("tests/")
        for name in (node, node.partition("[")[0], node.partition("::")[0]):
            if name in reasons:
                item.add_marker(pytest.mark.skip(reason=f"not on the stand-in: {reasons[name]}"))


def pytest_report_header() -> str:
    return "everything on the strict stand-in for CuPy; left out, with reasons: tests/strict/excluded.toml"


def _by_a_test() -> bool:
    file = sys._getframe(2).f_code.co_filename
    return file.startswith(device.TESTS) and not file.startswith(device.STRICT)


def _placed(value: Any, kinds: str = "f") -> Any:
    """A test's real numbers on the device; integers (levels, labels, indices, times) may be plain arrays."""
    if type(value) is np.ndarray and value.dtype.kind in kinds:
        return device._device(value)  # the same memory: a test may want to see it change
    if type(value) in (tuple, list):
        return type(value)(_placed(part, kinds) for part in value)
    return value


def placing(function: Callable[..., Any], kinds: str = "f") -> Callable[..., Any]:
    """The function, which finds a test's arrays on the device; of the parameters those of these kinds."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _by_a_test():
            return function(*[_placed(a) for a in args], **{k: _placed(v, kinds) for k, v in kwargs.items()})
        return function(*args, **kwargs)

    return call


def of_numbers(construct: Callable[..., None]) -> Callable[..., None]:
    """A density's `__init__`, by which a test's `Normal(0.0, 1.0)` lies on the device too."""

    @functools.wraps(construct)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        if _by_a_test() and not any(hasattr(a, "ndim") for a in (*args, *kwargs.values())):
            there = lambda value: device.asarray(value) if isinstance(value, float) else value
            args, kwargs = tuple(map(there, args)), {k: there(v) for k, v in kwargs.items()}
        construct(self, *[_placed(a) for a in args], **{k: _placed(v) for k, v in kwargs.items()})

    return call


def arriving(construct: Callable[..., None]) -> Callable[..., None]:
    """A module's `__init__`, after which the module that a test has asked for lies on the device."""

    @functools.wraps(construct)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if _by_a_test():
            self.to("cuda")

    return call


def of_the_device(register: Callable[..., Any]) -> Callable[..., Any]:
    """`Operation.kernel`, by which a test's kernel for the CPU is one for the device, and the other way round."""

    @functools.wraps(register)
    def call(self: Any, device: str) -> Any:
        return register(self, {"cpu": "cuda", "cuda": "cpu"}[device] if _by_a_test() else device)

    return call


def with_device(make: Callable[..., Any]) -> Callable[..., Any]:
    """What makes tensors or generators: on the device where a test does not say on which."""

    signature = inspect.signature(make)

    @functools.wraps(make)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _by_a_test() and "device" not in signature.bind(*args, **kwargs).arguments:
            kwargs["device"] = "cuda"
        return make(*args, **kwargs)

    return call


def seeing(function: Callable[..., Any], look: Callable[[Any], Any] = device._seen) -> Callable[..., Any]:
    """Another package's function, which a test hands what it got from nanogen."""
    return lambda *args, **kwargs: function(*map(look, args), **{k: look(v) for k, v in kwargs.items()})


def _number(value: Any) -> Any:
    """An array of no axes as the scalar that it would be on the host."""
    return value[()] if isinstance(value := device._seen(value), np.ndarray) else value


def subclasses(cls: type) -> list[type]:
    return [cls, *(below for sub in cls.__subclasses__() for below in subclasses(sub))]


def move_in() -> None:
    """Everything that a test can call in nanogen."""
    import nanogen as ng
    from nanogen import autograd, cli, distributions, functional
    from nanogen.models import NoiseSchedule
    from nanogen.nn import Module
    from nanogen.training.run import Settings

    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "nanogen"]
    owners = [autograd.__name__, distributions.__name__, *(m.__name__ for m in functional._FILES)]
    moved = {
        value: with_device(value) if value is autograd.tensor else placing(value)
        for module in modules
        for value in vars(module).values()
        if isinstance(value, types.FunctionType) and value.__module__ in owners
    }
    for module in modules:  # everywhere the same, so that `F.mean is ng.mean` stays true
        for name, value in list(vars(module).items()):
            if isinstance(value, types.FunctionType) and value in moved:
                setattr(module, name, moved[value])
    for operation in OPERATIONS:
        if isinstance(operation, Composite):
            operation.plain = placing(operation.plain, "fiub")
    Operation.kernel = of_the_device(Operation.kernel)  # type: ignore[method-assign]
    for function in moved.values():
        if hasattr(function, "kernel"):  # an operation under torch's name
            function.kernel = function.kernel.__self__.kernel
    for cls in (Operation, Update, Primitive, Composite):
        cls.__call__ = placing(cls.__call__, "fiub")  # type: ignore[method-assign]
    ng.Generator.__init__ = with_device(ng.Generator.__init__)  # type: ignore[method-assign]
    slot: Any = autograd.Tensor.data

    def put(self: Any, value: Any) -> None:
        slot.__set__(self, _placed(value) if _by_a_test() else value)

    autograd.Tensor.data = property(slot.__get__, put)  # type: ignore[assignment]
    autograd.Tensor.__array__ = lambda self, *args, **kwargs: self.data.__array__(*args, **kwargs)  # type: ignore
    tables = NoiseSchedule.__init__  # are the host's
    classes = [*subclasses(autograd.Tensor), NoiseSchedule, *subclasses(Module)]
    classes += [
        c for c in vars(distributions).values() if inspect.isclass(c) and c.__module__ == distributions.__name__
    ]
    for cls in classes:
        for name, value in list(vars(cls).items()):
            if isinstance(value, types.FunctionType) and name != "__array__":
                density = cls.__module__ == distributions.__name__ and name == "__init__"
                setattr(cls, name, of_numbers(value) if density else placing(value))
    NoiseSchedule.__init__ = tables  # type: ignore[method-assign]
    for cls in subclasses(Module):
        if "__init__" in vars(cls):
            cls.__init__ = arriving(cls.__init__)  # type: ignore[misc]

    names = list(inspect.signature(Settings).parameters.values())
    defaults = ["cuda" if p.name == "device" else p.default for p in names if p.default is not p.empty]
    Settings.__init__.__defaults__ = tuple(defaults)
    pytest.approx = seeing(pytest.approx, _number)
    with contextlib.suppress(ImportError):
        import torch

        for name in ("tensor", "as_tensor", "from_numpy"):
            setattr(torch, name, seeing(getattr(torch, name)))
    parser = cli.parser

    def on_the_device(model: str | None) -> argparse.ArgumentParser:
        made = parser(model)
        for action in made._subparsers._group_actions:  # type: ignore[union-attr]
            for command in action.choices.values():
                command.set_defaults(device="cuda")
        return made

    cli.parser = on_the_device
