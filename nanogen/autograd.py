"""The engine: tensors, primitives and reverse-mode differentiation, with only the few operations that it needs itself.

A `Tensor` is an array and its place in the graph, a `Node`.  A node stores the primitive and the inputs that its tensor
was computed from.  A *primitive* is declared once: its forward on raw arrays, and a gradient rule for each input:

    @primitive
    def multiply(a, b):
        return a * b

    multiply.vjp(lambda g, out, a, b: g * b, lambda g, out, a, b: g * a)

Let y = f(x), and let g_i = ∂L/∂y_i be the gradient of a number L that is computed from y.  The rule gives the gradient
∂L/∂x_j = Σ_i g_i ∂y_i/∂x_j.  This is the row g times the Jacobian matrix of f, a *vector-Jacobian product* (vjp); rules
compute it without the matrix.  For a linear f(x) = Ax it is Aᵀg.  The map Aᵀ is the *adjoint* of A: ⟨Ax, g⟩ = ⟨x, Aᵀg⟩,
where ⟨a, b⟩ = Σ a_i b_i.  For example, the adjoint of summing n numbers is to repeat a number n times.

Rules receive `(g, out, *inputs)` as tensors and are written in differentiable operations, so gradients have any order.
Positional arguments of a primitive are tensors; keyword arguments are parameters, which have no gradient.

A *composite* is a function of tensors, written in primitives.  Both can have kernels (see `backend.Operation`).

Reverse mode: Griewank & Walther 2008, Evaluating Derivatives, chapter 3.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import itertools
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nanogen.backend import DEVICES, Array, Operation, array_module, device_of, to_device, to_numpy, unsupported

_recording: contextvars.ContextVar[bool] = contextvars.ContextVar("recording", default=True)
_next_index = itertools.count().__next__


@contextlib.contextmanager
def set_grad_enabled(enabled: bool) -> Iterator[None]:
    """Whether operations within this context build a graph.  Local to the thread or task; usable as a decorator."""
    token = _recording.set(enabled)
    try:
        yield
    finally:
        _recording.reset(token)


no_grad = functools.partial(set_grad_enabled, False)  # so nothing is kept for a backward pass
is_grad_enabled = _recording.get  # whether operations build a graph here


class Node:
    """A place in the graph: the output of `primitive` for `inputs`, or a leaf, which was not computed.

    A node refers to its inputs and to its output's array, and nothing refers from an input to what is computed from it.
    So there are no cycles, and a graph is freed with the last reference to its end.  If a tensor's `data` is replaced
    by another array, the node still has the array that it was computed from.
    """

    __slots__ = ("grad", "gradient", "index", "inputs", "output", "parameters", "primitive", "saved")

    def __init__(self, primitive=None, inputs=(), output=None, parameters=None, saved=None, gradient=None):
        self.primitive, self.inputs, self.parameters = primitive, inputs, parameters
        self.output, self.saved, self.gradient = output, saved, gradient
        self.grad = None
        self.index = _next_index()  # larger than its inputs': to sort by it is to sort topologically


class Outline:
    """The shape and type of an array, which a node keeps in its place if no gradient rule reads the array."""

    base = __array__ = __bool__ = None  # so that reading its numbers fails

    def __init__(self, array: Array):
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype


class Changes:
    """Which arrays were changed in place, and when, counted together with the nodes' indices.

    Code that writes into an array which a graph may hold calls `note`.  The backward pass then refuses to go through an
    operation that read the old numbers.  Views share memory, so entries are listed by the array that owns it."""

    def __init__(self) -> None:
        self.last = -1
        self.by_owner: dict[int, dict[int, tuple[Any, int]]] = {}

    def note(self, array: Array) -> None:
        """`array` is changed now."""
        owner, key, self.last = _owner(array), id(array), _next_index()
        entries = self.by_owner.setdefault(owner, {})

        def forget(_: Any) -> None:
            del entries[key]
            if not entries:
                del self.by_owner[owner]

        entries[key] = entries[key][0] if key in entries else weakref.ref(array, forget), self.last

    def check(self, node: Node) -> None:
        """Raises:
        RuntimeError: an array that the node holds was changed after its operation."""
        for array in (node.output, *(x.data for x in node.inputs)):
            entries = list(self.by_owner.get(_owner(array), {}).values())
            if any(w > node.index and array_module(array).may_share_memory(array, changed()) for changed, w in entries):
                raise RuntimeError(
                    f"{node.primitive.__name__}: an array of shape {array.shape} was changed in place after this"
                    " operation read it (by an optimiser's step, say) and before the gradient that needs it"
                )


def _owner(array: Array) -> int:
    return id(array if array.base is None else array.base)


changes = Changes()


class Tensor:
    """An array of NumPy's or CuPy's with a place in the graph.

    Made by `nanogen.tensor`; arithmetic, reductions and reshaping are methods as in torch (see `functional`).
    """

    __slots__ = ("__weakref__", "data", "node")
    __array_ufunc__ = None  # so that `array * tensor` calls the tensor's method

    def __init__(self, data: Array, node: Node | None = None):
        self.data = data
        self.node: Any = node  # None where no gradient flows

    if TYPE_CHECKING:  # added by `functional`

        def __getattr__(self, name: str) -> Callable[..., Any]: ...
        def __add__(self, *other: Any) -> Tensor: ...

        __neg__ = __abs__ = __invert__ = __radd__ = __add__
        __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __add__
        __matmul__ = __rmatmul__ = __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __add__

    shape = property(operator.attrgetter("data.shape"))
    ndim = property(operator.attrgetter("data.ndim"))
    dtype = property(operator.attrgetter("data.dtype"))
    device = property(lambda self: device_of(self.data))

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through this tensor.  Assign True to make it a leaf, False to detach it."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value and self.dtype.kind != "f":
            raise TypeError(f"only floating-point tensors can require gradients, got dtype {self.dtype}")
        self.node = (self.node or Node()) if value else None

    @property
    def grad(self) -> Tensor | None:
        """The sum of the gradients that `backward` has added to this leaf; None before the first."""
        return self.node.grad if self.node else None

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if self.node is not None:
            self.node.grad = value
        elif value is not None:
            raise ValueError("a tensor that does not require gradients has no grad to assign")

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False, inputs: None = None
    ) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf that it depends on.

        Args:
            gradient: g, the gradient of L with respect to this tensor; 1 if left out, for a tensor of a single number.
            retain_graph: has no effect: a graph exists as long as something refers to its end.
            create_graph: whether the gradients can themselves be differentiated.

        Raises:
            ValueError: this tensor requires no gradients; `inputs` is given, for which there is `grad`.
            RuntimeError: an array that a gradient needs was changed in place since.
        """
        unsupported("backward", inputs=inputs)
        if self.node is None:
            raise ValueError("backward: this tensor does not depend on any that requires gradients")
        leaves = [node for node in ancestors([self.node]) if node.primitive is None]
        given = _output_gradient(self, gradient, "gradient")
        found, private = _vector_jacobian_product([(self, given)], leaves, create_graph)
        for leaf, g in [(leaf, found[leaf]) for leaf in leaves if leaf in found]:
            if leaf.grad is not None:
                g = add(leaf.grad, g)
            elif leaf not in private and not create_graph:
                g = Tensor(g.data.copy())
            leaf.grad = g if create_graph else g.detach()

    def detach(self) -> Tensor:
        """The same array, without the graph."""
        return Tensor(self.data)

    def numpy(self) -> np.ndarray:
        """The numbers as a NumPy array.  If they are on a GPU, this waits for it."""
        return to_numpy(self.data)

    def item(self) -> float | int | bool:
        """The single number that this tensor holds."""
        return self.data.item()

    def to(self, *target: Any, device: str | None = None, dtype: Any = None, non_blocking: bool = False) -> Tensor:
        """On another device (`"cpu"`, `"cuda"`), in another dtype, or with both those of a tensor.  Differentiable."""
        out = self
        for one in (*target, device, dtype):
            if isinstance(one, Tensor):
                out = out.to(one.device, one.dtype)
            elif isinstance(one, str) and one in DEVICES:
                out = out if one == out.device else move(out, device=one)
            elif one is not None and not isinstance(one, bool) and np.dtype(one) != out.dtype:
                out = cast(out, dtype=np.dtype(one))
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.device != "cpu":
            raise TypeError("a tensor on a GPU does not turn into a NumPy array silently: use .numpy()")
        return np.array(self.data, dtype=dtype, copy=copy)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and self.ndim == 0 else object.__format__(self, spec)

    def __repr__(self) -> str:
        return f"tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"


def tensor(data: Any, *, requires_grad: bool = False, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of a copy of `data`: an array of NumPy's or CuPy's, a tensor, a list or a number; its dtype is kept.

    A Python float is a double, so a list of them becomes float64.

    Raises:
        TypeError: `data` is not numeric, or requires_grad for a tensor of integers.
    """
    data = data.data if isinstance(data, Tensor) else data
    array = real(array_module(data).array(data, dtype=dtype))
    result = Tensor(array if device is None else to_device(array, device))
    result.requires_grad = requires_grad
    return result


def constant(value: Any, beside: Sequence[Any] = ()) -> Tensor:
    """`value` as a tensor, without a copy.  A Python or NumPy scalar gets the type and device of the tensors or arrays
    `beside` it, so that `x * 0.5` has the type of x.  An array of integers or bools gets only the device."""
    if isinstance(value, Tensor):
        return value
    # tensors first
    arrays = [x.data if isinstance(x, Tensor) else x for x in sorted(beside, key=lambda x: not isinstance(x, Tensor))]
    others = [x for x in arrays if hasattr(x, "ndim") and not isinstance(x, np.generic)]
    if not isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
        array = real(array_module(value).asarray(value))
        return Tensor(to_device(array, device_of(others[0])) if others and array.dtype.kind != "f" else array)
    like = next((x for x in others if x.dtype.kind == "f"), others[0] if others else np.asarray(value))
    keeps_type = like.dtype.kind == "f" or (like.dtype.kind in "iu" and isinstance(value, int | np.integer))
    return Tensor(array_module(like).asarray(value, dtype=like.dtype if keeps_type else None))


def real(array: Array) -> Array:
    """Raises:
    TypeError: the array does not contain real numbers."""
    if array.dtype.kind not in "fiub":
        raise TypeError(f"data must be real numbers, got dtype {array.dtype}")
    return array


class Primitive(Operation):
    """A differentiable operation: its forward on raw arrays, and how gradients go back through it.

    Arguments of the forward before its `*` are tensors; those after it are parameters, which have no gradient.  Callers
    may also pass parameters by position, as in torch.

    A kernel is a faster forward, or a class with two functions.  `forward` returns `(output, saved)`.  `gradient(g,
    saved, *inputs, wanted, **parameters)` returns the raw gradients of the wanted inputs, None for the others.  Each
    is a new array, a view, or g itself.
    """

    reads_output, adds = True, None

    def __init__(self, plain: Callable[..., Any]):
        super().__init__(plain)
        self.rules: tuple[Any, ...] = ()
        declared = list(inspect.signature(plain).parameters.values())
        self.names = [p.name for p in declared if p.kind is not p.KEYWORD_ONLY]
        self.reads: Any = itertools.repeat(True)  # all inputs
        self.defaults = {p.name: p.default for p in declared if p.default is not p.empty}
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in declared)
        if not self.variadic:
            self.__signature__ = inspect.Signature([p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in declared])

    def vjp(self, *rules: Callable[..., Tensor] | None, reads: str | None = None, adds: Any = None) -> None:
        """Declare a gradient rule `(g, out, *inputs, **parameters) -> Tensor` for each input, None for one without a
        gradient.  A primitive of any number of inputs has one rule, `(i, g, out, *inputs, **parameters) -> Tensor`, for
        the i-th.

        The engine undoes broadcasting and changes of type: a rule may return its gradient in the shape of g.

        Args:
            reads: the arrays among `out` and the inputs whose numbers the rules read; all, if left out.  Of the others
                the graph keeps only shape and type.
            adds: `(total, g, **parameters)` adds the gradient of the only input to a raw array, in place.  The engine
                calls it where a sum has begun and need not be differentiable; so small parts of a large array cost
                little."""
        self.rules, self.adds = rules, adds
        if reads is not None:
            read = [name in reads.split() for name in self.names]
            self.reads = itertools.repeat(read[0]) if self.variadic else read
            self.reads_output = "out" in reads.split()

    def __call__(self, *inputs: Any, **parameters: Any) -> Tensor:
        tensors, parameters = self.bind(inputs, parameters)
        arrays = [x.data for x in tensors]
        found = self.by_kernel(arrays, parameters) or (self.plain(*arrays, **parameters),)
        return self.recorded(tensors, parameters, *found)

    def bind(self, inputs: tuple[Any, ...], parameters: dict[str, Any]) -> tuple[list[Tensor], dict[str, Any]]:
        """The tensors and all parameters of a call."""
        if len(inputs) != len(self.names) and not self.variadic:
            parameters = self.__signature__.bind(*inputs, **parameters).arguments
            inputs = tuple(parameters.pop(name) for name in self.names)
        parameters = self.defaults | parameters
        return [x if isinstance(x, Tensor) else constant(x, inputs) for x in inputs], parameters

    def recorded(self, tensors: list[Tensor], parameters: dict[str, Any], output: Array, *by_kernel: Any) -> Tensor:
        """The output as a tensor, with a node if an input requires gradients.  The node keeps the arrays that rules
        read, and outlines of the others.  `by_kernel`: (saved, gradient) of a kernel with its own gradient."""
        if isinstance(output, np.generic):
            output = np.asarray(output)  # NumPy, unlike CuPy, returns scalars instead of arrays without axes
        if _recording.get() and output.dtype.kind == "f" and any(map(operator.attrgetter("node"), tensors)):
            read = zip(itertools.repeat(True) if by_kernel else self.reads, tensors)
            held = [Tensor(x.data if whole else Outline(x.data), x.node) for whole, x in read]
            kept = output if self.reads_output else Outline(output)
            return Tensor(output, Node(self, held, kept, parameters, *by_kernel))
        return Tensor(output)

    def gradients(self, node: Node, g: Tensor, wanted: list[bool]) -> list[Tensor | None]:
        """The gradients of the inputs from that of the output; None if not wanted, or if an input has none.

        Raises:
            ValueError: fewer or more gradient rules than inputs.
            TypeError: a rule that fails, for example on an array that its `reads` leaves out.
        """
        if node.gradient and not _recording.get():
            arrays = [x.data for x in node.inputs]
            found = node.gradient(g.data, node.saved, *arrays, wanted=wanted, **node.parameters)
            return [Tensor(a) if want and a is not None else None for a, want in zip(found, wanted, strict=True)]
        return self.differentiable_gradients(node, g, wanted)

    def differentiable_gradients(self, node: Node, g: Tensor, wanted: list[bool]) -> list[Tensor | None]:
        given = (g, Tensor(node.output, node), *node.inputs)
        rules = [*map(functools.partial, self.rules * len(wanted), range(len(wanted)))] if self.variadic else self.rules
        if len(rules) != len(wanted):
            raise ValueError(f"{self.__name__}.vjp gives gradient rules for {len(rules)} of {len(wanted)} inputs")
        try:
            return [rule(*given, **node.parameters) if want and rule else None for rule, want in zip(rules, wanted)]
        except (AttributeError, TypeError) as error:
            unread = [name for name, x in zip(("out", *self.names), given[1:]) if isinstance(x.data, Outline)]
            raise TypeError(f"{self.__name__}: a gradient rule fails; `reads` leaves out {unread}: {error}") from error


class Composite(Primitive):
    """A function of tensors, written in primitives, without random numbers or side effects.  With a kernel it is one
    node of the graph.  If that node's gradient must be differentiable, the function itself runs again and is
    differentiated."""

    reads_output = False

    def __call__(self, *inputs: Any, **parameters: Any) -> Tensor:
        tensors, parameters = self.bind(inputs, parameters)
        found = self.by_kernel([x.data for x in tensors], parameters) if self.kernels else None
        return self.plain(*tensors, **parameters) if found is None else self.recorded(tensors, parameters, *found)

    def differentiable_gradients(self, node: Node, g: Tensor, wanted: list[bool]) -> list[Tensor | None]:
        copies = [broadcast_to(x, shape=x.shape) if want else x for x, want in zip(node.inputs, wanted, strict=True)]
        targets = list(itertools.compress(copies, wanted))
        again = self.plain(*copies, **node.parameters)
        found = iter(grad(again, targets, g, create_graph=is_grad_enabled(), allow_unused=True))
        return [next(found) if want else None for want in wanted]


primitive, composite = Primitive, Composite  # as decorators


def grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
    only_inputs: bool = True, allow_unused: bool | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of `outputs` with respect to `inputs`: for each input, a tensor of its shape and type.

    Args:
        outputs: one tensor or several; the gradients of several are summed.
        inputs: one tensor or several, leaves or not.
        grad_outputs: g for each output, the gradient of L; 1 if left out, for outputs of a single number.
        retain_graph: has no effect: a graph exists as long as something refers to its end.
        create_graph: whether the gradients can themselves be differentiated.
        only_inputs: must be True: `.grad` is never changed.
        allow_unused: whether an input that the outputs do not depend on gets None; otherwise it is an error.

    Raises:
        ValueError: an input that does not require gradients or is not used, a grad_output of the wrong shape.
        RuntimeError: an array that a gradient needs was changed in place since.
    """
    unsupported("grad", True, only_inputs=only_inputs)
    outputs, inputs = ([x] if isinstance(x, Tensor) else list(x) for x in (outputs, inputs))
    given = grad_outputs if isinstance(grad_outputs, list | tuple) else [grad_outputs] * len(outputs)
    if len(given) != len(outputs):
        raise ValueError(f"grad_outputs must be one an output: got {len(given)} for {len(outputs)}")
    for i, x in enumerate(inputs):
        if x.node is None:
            raise ValueError(f"inputs[{i}] does not require gradients")
    nodes = [x.node for x in inputs]
    for i, y in enumerate(outputs):
        if y.node is None and not allow_unused:
            raise ValueError(f"outputs[{i}] does not depend on any tensor that requires gradients")
    recorded = [(y, _output_gradient(y, g, "grad_outputs")) for y, g in zip(outputs, given) if y.node is not None]
    found, _ = _vector_jacobian_product(recorded, nodes, create_graph)
    for i, node in enumerate(nodes):
        if node not in found and not allow_unused:
            raise ValueError(f"inputs[{i}] is not used by the outputs; allow_unused=True gives None for it")
    return tuple(found.get(node) for node in nodes)


def _output_gradient(y: Tensor, given: Any, name: str) -> Tensor:
    if given is None:
        if y.data.size != 1:
            raise ValueError(f"{name} may be left out only for a single number, not for shape {y.shape}")
        return Tensor(array_module(y.data).ones_like(y.data))
    g = constant(given, [y])
    if g.shape != y.shape:
        raise ValueError(f"{name} must have the output's shape {y.shape}, got {g.shape}")
    return g.to(y.dtype)


def ancestors(nodes: Sequence[Node]) -> list[Node]:
    """These nodes and all that they were computed from, oldest first."""
    seen, waiting = set(nodes), list(nodes)
    while waiting:
        for x in waiting.pop().inputs:
            if x.node is not None and x.node not in seen:
                seen.add(x.node)
                waiting.append(x.node)
    return sorted(seen, key=lambda node: node.index)


def _vector_jacobian_product(
    outputs: Sequence[tuple[Tensor, Tensor]], targets: Sequence[Node], create_graph: bool
) -> tuple[dict[Node, Tensor], set[Node]]:
    """Walk the graph backwards, each node once, and collect the gradients of `targets`.

    `outputs` are pairs of a tensor and its gradient.  Returns the gradients, and the nodes whose gradient is an array
    that nothing else refers to, which so can be changed in place."""
    order = ancestors([y.node for y, _ in outputs])
    kept, leading = set(targets), set(targets)  # leading: computed from a target; only these are visited
    for node in order:
        if any(x.node in leading for x in node.inputs):
            leading.add(node)
    found: dict[Node, Tensor] = {}
    private: set[Node] = set()

    def accumulate(node: Node, g: Tensor, is_private: bool) -> None:
        if node not in found:
            found[node] = g
        elif node in private:
            found[node].data += g.data  # in place: nothing else refers to it
        else:
            found[node], is_private = add(found[node], g), not create_graph
        if is_private:
            private.add(node)

    for y, g in outputs:
        accumulate(y.node, g, False)
    with set_grad_enabled(create_graph):
        for node in reversed(order):
            wanted = [x.node in leading for x in node.inputs]
            if node not in found or not any(wanted):
                continue
            if changes.last > node.index:
                changes.check(node)
            g = found[node] if node in kept else found.pop(node)
            if node.primitive.adds and node.inputs[0].node in private:
                node.primitive.adds(found[node.inputs[0].node].data, g.data, **node.parameters)
                continue
            for x, gx in zip(node.inputs, node.primitive.gradients(node, g, wanted), strict=True):
                if gx is not None:
                    gx = _undo_broadcasting(gx, x)
                    is_private = not create_graph and gx.data is not g.data and gx.data.base is None
                    accumulate(x.node, gx, is_private)
    return found, private


def _undo_broadcasting(g: Tensor, x: Tensor) -> Tensor:
    """The gradient g in the shape and type of x: the one place where broadcast axes are summed."""
    if g.shape != x.shape:
        g = sum_to(g, shape=x.shape)
    return g if g.dtype == x.dtype else cast(g, dtype=x.dtype)


@primitive
def add(input, other):
    """input + other, broadcast against each other."""
    return input + other


add.vjp(lambda g, out, a, b: g, lambda g, out, a, b: g, reads="")


@primitive
def broadcast_to(x, *, shape):
    """x repeated along new axes and axes of length 1 until it has `shape`; the adjoint of `sum_to`."""
    return array_module(x).broadcast_to(x, shape)


broadcast_to.vjp(lambda g, out, x, shape: sum_to(g, shape=x.shape), reads="")


@primitive
def sum_to(x, *, shape):
    """x summed over the axes along which `shape` would be broadcast to x's; the adjoint of `broadcast_to`."""
    new = x.ndim - len(shape)
    repeated = (*range(new), *(new + i for i, n in enumerate(shape) if n == 1 and x.shape[new + i] != 1))
    return (x.sum(axis=repeated) if repeated else x).reshape(shape)  # NumPy's sum over no axes is a slow copy


sum_to.vjp(lambda g, out, x, shape: broadcast_to(g, shape=x.shape), reads="")


@primitive
def cast(x, *, dtype):
    """x in another dtype; the engine casts the gradient back."""
    return x.astype(dtype)


cast.vjp(lambda g, out, x, dtype: g, reads="")


@primitive
def move(x, *, device):
    """x on another device."""
    return to_device(x, device)


move.vjp(lambda g, out, x, device: move(g, device=x.device))
