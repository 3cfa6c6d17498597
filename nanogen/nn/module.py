"""A module is a function with parameters; its attributes are its parameters, buffers and parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, to_device


class Parameter(Tensor):
    """A tensor that is learned: an attribute of this kind is one of its module's parameters."""

    __slots__ = ()

    def __init__(self, data: Array):
        super().__init__(data)
        self.requires_grad = True


class Module:
    """Base of all layers and models.  Attributes are found where they stand, under their names, in lists too:
    `self.blocks = [Linear(2, 3)]` has the parameters `blocks.0.weight` and `blocks.0.bias`."""

    def __init__(self) -> None:
        self.training = True
        self._buffers: set[str] = set()

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        return self.forward(*inputs, **settings)

    def forward(self, *inputs: Any, **settings: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def register_buffer(self, name: str, tensor: Tensor, persistent: bool = True) -> None:
        """A tensor that moves with the module and is not learned; in its state_dict if persistent."""
        setattr(self, name, tensor)
        if persistent:
            self._buffers.add(name)

    def parts(self) -> Iterator[tuple[str, Any]]:
        """What stands in the attributes, with its name; a list's parts are numbered."""
        for name, value in vars(self).items():
            if isinstance(value, list | tuple):
                yield from ((f"{name}.{i}", part) for i, part in enumerate(value))
            else:
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, with their dotted names."""
        yield prefix.rstrip("."), self
        for name, part in self.parts():
            if isinstance(part, Module):
                yield from part.named_modules(f"{prefix}{name}.")

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        for prefix, module in self.named_modules():
            for name, part in module.parts():
                if isinstance(part, Parameter):
                    yield f"{prefix}.{name}".lstrip("."), part

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        for prefix, module in self.named_modules():
            for name in sorted(module._buffers):
                yield f"{prefix}.{name}".lstrip("."), getattr(module, name)

    def state_dict(self) -> dict[str, Array]:
        """A copy of every parameter's and persistent buffer's array, under the names and in the shapes of torch's."""
        return {name: tensor.data.copy() for name, tensor in self._named_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over arrays (NumPy's, CuPy's or torch's on the CPU) saved under the same names; types stay as they are.

        Raises:
            ValueError: a name that is missing or unknown, a shape that differs; nothing is changed then.
        """
        own = dict(self._named_state())
        if missing := sorted(set(own) - set(state)):
            raise ValueError(f"state_dict lacks {', '.join(missing)}")
        if unknown := sorted(set(state) - set(own)):
            raise ValueError(f"state_dict has the unknown {', '.join(unknown)}")
        arrays = {name: _array(value) for name, value in state.items()}
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

    def to(self, target: Any) -> Module:
        """Move all tensors to a device (`cpu`, `cuda`) or to a floating-point dtype, in place."""
        for module in self.modules():
            for _, part in module.parts():
                if isinstance(part, Tensor) and (target in ("cpu", "cuda") or part.dtype.kind == "f"):
                    part.data = part.detach().to(target).data
        return self


def _array(value: Any) -> Array:
    """The raw array of what may be a tensor of ours, of torch's, or an array already."""
    value = value.data if isinstance(value, Tensor) else value
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return value if hasattr(value, "astype") else np.asarray(value)


class Sequential(Module):
    """Modules (or plain functions) one after the other, numbered from 0."""

    def __init__(self, *layers: Any):
        super().__init__()
        for i, layer in enumerate(layers):
            setattr(self, str(i), layer)
        self._length = len(layers)

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(i)) for i in range(self._length))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return getattr(self, str(range(self._length)[index]))

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x
