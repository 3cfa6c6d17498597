"""A module is a function with parameters; its attributes are its parameters, buffers and parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, constant
from nanogen.backend import DEVICES, Array, array_module, to_device, to_numpy, unsupported


class Parameter(Tensor):
    """A tensor that is learned; as an attribute of a module it is one of the module's parameters.  It shares the memory
    of `data`, an array or a tensor."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(constant(data).data)
        self.requires_grad = requires_grad


class Module:
    """The base class of layers and models.  Its parameters and modules are those in its attributes, also in lists,
    tuples and dictionaries: `self.blocks = [Linear(2, 3)]` has the parameters `blocks.0.weight` and `blocks.0.bias`."""

    def __init__(self) -> None:
        self.training = True
        self._buffers: dict[str, bool] = {}  # by name, whether it is saved

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        return self.forward(*inputs, **settings)

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """A tensor that moves with the module and is not learned; in its state_dict if persistent."""
        setattr(self, name, tensor)
        self._buffers[name] = persistent

    def add_module(self, name: str, module: Any) -> None:
        """`module` as the attribute of this name."""
        setattr(self, name, module)

    register_parameter = add_module

    def _parts(self, named: Iterable[tuple[Any, Any]] | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """The values of the attributes, also inside lists and dictionaries, with their dotted names."""
        for name, part in vars(self).items() if named is None else named:
            if isinstance(part, dict | list | tuple):
                yield from self._parts(part.items() if isinstance(part, dict) else enumerate(part), f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", part

    def named_modules(self, memo: Any = None, prefix: str = "", remove_duplicate: bool = True) -> Iterator[Any]:
        """This module and all modules inside it, with their dotted names; each once, or with remove_duplicate=False as
        often as it occurs.  Modules in `memo` are left out."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        memo |= {self} if remove_duplicate else set()
        yield prefix, self
        for name, part in self._parts():
            if isinstance(part, Module):
                yield from part.named_modules(memo, f"{prefix}.{name}".lstrip("."), remove_duplicate)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one, each once, with their names."""
        return ((name, part) for name, part in _once(self._parts()) if isinstance(part, Module))

    def children(self) -> Iterator[Module]:
        return (child for _, child in self.named_children())

    def _named(self, kind: Callable[[Module, str, Any], Any], remove_duplicate: bool = True) -> Iterator[Any]:
        """The parts for which kind(module, name, part) is true, with their dotted names."""
        found = (
            (f"{path}.{name}".lstrip("."), part)
            for path, module in self.named_modules(remove_duplicate=remove_duplicate)
            for name, part in module._parts()
            if kind(module, name, part)
        )
        return _once(found) if remove_duplicate else found

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters with their dotted names, each once; one that is shared has the first of its names."""
        return self._named(lambda module, name, part: isinstance(part, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The registered buffers with their dotted names, each once."""
        return self._named(lambda module, name, part: name in module._buffers and part is not None)

    def buffers(self) -> Iterator[Tensor]:
        return (buffer for _, buffer in self.named_buffers())

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._named(lambda module, name, part: isinstance(part, Parameter), remove_duplicate=False)
        yield from self._named(lambda module, name, part: part is not None and module._buffers.get(name), False)

    def state_dict(self) -> dict[str, Array]:
        """A copy of every parameter's and persistent buffer's array, with torch's names and shapes."""
        return {name: tensor.data.copy() for name, tensor in self._named_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> None:
        """Load arrays (NumPy's, CuPy's or torch's on the CPU) that were saved under the same names; types don't change.

        Raises:
            ValueError: a missing or unknown name, if strict; another shape.  Then nothing is changed.
        """
        unsupported("load_state_dict", assign=assign)
        own = dict(self._named_state())
        for what, names in ("lacks", own.keys() - state_dict), ("has the unknown", state_dict.keys() - own):
            if strict and names:
                raise ValueError(f"state_dict {what} {', '.join(sorted(names))}")
        arrays = {name: _array(value) for name, value in state_dict.items() if name in own}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                raise ValueError(f"{name} must have shape {own[name].shape}, got {array.shape}")
        for name, array in arrays.items():
            own[name].data = to_device(array, own[name].device).astype(own[name].dtype)  # astype copies

    def train(self, mode: bool = True) -> Module:
        """Switch to training (batch statistics, dropout) or, with False, to evaluation."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        return self.train(False)

    def to(self, *target: Any, device: str | None = None, dtype: Any = None, non_blocking: bool = False) -> Module:
        """Move all tensors to a device (`cpu`, `cuda`), or convert floating-point ones to a dtype, in place."""
        targets = [one for one in (*target, device, dtype) if one is not None and not isinstance(one, bool)]
        places = [one for one in targets if isinstance(one, str) and one in DEVICES]
        for module in self.modules():
            for _, part in module._parts():
                if isinstance(part, Tensor):
                    part.data = part.detach().to(*(targets if part.dtype.kind == "f" else places)).data
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove all gradients; with set_to_none=False, set them to 0."""
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else Tensor(array_module(p.data).zeros_like(p.data))

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Whether the parameters are learned."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Call `fn` on each module inside this one, then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def extra_repr(self) -> str:
        """The settings that `repr` shows: attributes that are numbers, strings, None, or tuples of these."""
        plain = lambda value: value is None or isinstance(value, int | float | str)
        shown = {k: v for k, v in vars(self).items() if all(map(plain, v if isinstance(v, tuple) else [v]))}
        return ", ".join(f"{k}={v!r}" for k, v in shown.items() if k != "training" and not k.startswith("_"))

    def __repr__(self) -> str:
        below = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n  ".join(["", *filter(None, [self.extra_repr()]), *below]) + "\n" if below else self.extra_repr()
        return f"{type(self).__name__}({inside})"


for _name, _target in {"float": np.float32, "double": np.float64, "cpu": "cpu", "cuda": "cuda"}.items():
    setattr(Module, _name, functools.partialmethod(Module.to, _target))


def _once(named: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """The pairs (name, value), each value only with its first name."""
    first: dict[int, Any] = {}
    return (x for x in named if first.setdefault(id(x[1]), x) is x)


def _array(value: Any) -> Array:
    """The array of a tensor, ours or torch's, or of an array."""
    value = value.detach().cpu().numpy() if hasattr(value, "detach") else value
    return value if hasattr(value, "astype") else np.asarray(value)


def save(state_dict: Mapping[str, Any], path: Any) -> None:
    """Write arrays or tensors by their names to a safetensors file, which torch can read too."""
    from safetensors.numpy import save_file  # a library that nothing else here needs

    save_file({name: np.array(to_numpy(_array(value)), order="C") for name, value in state_dict.items()}, path)


def load(path: Any) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by their names, for `load_state_dict`.

    Raises:
        ValueError: a file that is not of this format, or broken; it names the path."""
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} can't be read as safetensors: {error}") from error


class Sequential(Module):
    """Modules (or plain functions) one after the other, numbered from 0, or named as in a dictionary."""

    def __init__(self, *layers: Any):
        super().__init__()
        self._names: list[str] = []
        named = layers[0].items() if len(layers) == 1 and isinstance(layers[0], Mapping) else enumerate(layers)
        for name, layer in named:
            self.add_module(str(name), layer)

    def add_module(self, name: str, module: Any) -> None:
        """Append a module."""
        if not callable(module):
            raise TypeError(f"layer {name} must be a module or a function, got {type(module).__name__}")
        self._names += [name] if name not in self._names else []
        setattr(self, name, module)

    def append(self, module: Any) -> Sequential:
        self.add_module(str(len(self)), module)
        return self

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)({name: getattr(self, name) for name in self._names[index]})
        return getattr(self, self._names[index])

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x


class ModuleList(Sequential):
    """Modules in a list, for a module's forward to call."""

    def __init__(self, modules: Iterable[Module] | Mapping[str, Module] | None = None):
        super().__init__(*([modules] if isinstance(modules, Mapping) else modules or ()))

    forward = Module.forward
