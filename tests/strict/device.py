"""A stand-in for CuPy on machines without a GPU: NumPy underneath, and CuPy's rules on top.

`cupy` here is a module with those names alone that CuPy has (`cupy.json`), whose functions take those arguments alone
that CuPy's take.  Its `ndarray` wraps one of NumPy's and does what CuPy's does where that differs from NumPy:

- no implicit way to the host: `__array__` is refused, `__index__` is not there, a 0-d result stays an array;
- no mixing with NumPy's arrays, as operands, arguments, `out=` or values of an assignment;
- whatever waits for the device is noted (`item`, `get`, `float`, `bool`, masks as indices …), and so is what comes
  from the host: see `watched`;
- what arithmetic makes lies in memory in the order of its axes, whatever order the operands have;
- integer indices out of range wrap around; an assignment through a mask takes values of the array's shape.

It is stricter than CuPy where CuPy would help silently and this project's rules say it must not: `np.` functions on
device arrays, NumPy arrays as indices, an assignment that names a place twice (CuPy leaves open which value stays).

As a GPU's results are, so are the floating-point warnings: there are none.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import operator
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanogen import backend
from nanogen.kernels.cuda import products
from strict import cublas, cuda, graph
from strict.graph import noted, refuse

TESTS = str(Path(__file__).parents[1])
LIBRARY = str(Path(TESTS).parent / "nanogen")
HOST_ALONE = str(Path(LIBRARY) / "data")  # NumPy by design
RECORD = json.loads((Path(__file__).parent / "cupy.json").read_text())

# Whether the test files (not the library) may look at device arrays as if they lay on the host: see `plugin`.
spectators = False


class Transfer(NamedTuple):
    """What moved or waited: `to host` or `to device`; the call that did it; the line of the library that asked."""

    kind: str
    call: str
    line: str


_watching: list[list[Transfer]] = []


@contextlib.contextmanager
def watched() -> Iterator[list[Transfer]]:
    """The transfers that happen within this context, as they happen."""
    seen: list[Transfer] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


def _note(kind: str, call: str) -> None:
    refuse(f"{call} ({kind})")
    if _watching:
        frame: Any = sys._getframe(1)
        while frame and not frame.f_code.co_filename.startswith(LIBRARY):
            frame = frame.f_back
        line = f"{Path(frame.f_code.co_filename).relative_to(LIBRARY)}:{frame.f_lineno}" if frame else "a test"
        for seen in _watching:
            seen.append(Transfer(kind, call, line))


def _for_spectators() -> bool:
    """Whether a test asked, directly or through another package, and not the library."""
    frame: Any = sys._getframe(1)
    while spectators and frame:
        file = frame.f_code.co_filename
        if file.startswith(LIBRARY) and not file.startswith(HOST_ALONE):
            return False
        if file.startswith((TESTS, HOST_ALONE)) and not file.startswith(STRICT):
            return True
        frame = frame.f_back
    return False


STRICT = str(Path(__file__).parent)
SCALARS = {
    bool,
    int,
    float,
    complex,
    type(None),
    *(t for t in np.sctypeDict.values() if issubclass(t, np.number | np.bool_)),
}


def _host(value: Any, what: str) -> Any:
    """What NumPy works on, of an argument: the array inside ours, the value itself; a host array is refused."""
    kind = type(value)
    if kind is ndarray:
        return value._host
    if kind in SCALARS:
        return value
    if kind is tuple or kind is list:
        return kind([_host(part, what) for part in value])
    if isinstance(value, np.ndarray) and not _for_spectators():
        raise TypeError(f"{what}: Unsupported type {kind}; a NumPy array does not mix with a device's")
    return value


def _in_order(value: Any) -> Any:
    """As CuPy's elementwise functions make new arrays: in the order of their axes, where NumPy's keep the inputs'."""
    return np.ascontiguousarray(value) if isinstance(value, np.ndarray) and value.ndim else value


_OWNERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # by their memory on the host


def _device(value: Any) -> Any:
    """What the device answers, of NumPy's answer: an array even for a single number."""
    kind = type(value)
    if kind is np.ndarray or isinstance(value, np.generic):
        if value.dtype.kind not in "biufc":
            raise ValueError(f"Unsupported dtype {value.dtype}")
        out = ndarray.__new__(ndarray)
        out._host = np.asarray(value)
        if out._host.base is None:
            _OWNERS[id(out._host)] = out
        return out
    if kind is tuple or kind is list:
        return kind([_device(part) for part in value])
    return value


class Taken:
    """What a function of CuPy's takes; `check` refuses all else."""

    def __init__(self, name: str, parameters: str):
        words = [word.strip() for word in parameters.split(",") if word.strip()]
        self.name, named = name, [word.rstrip("=") for word in words if word[0] not in "*/"]
        self.any_name = any(word.startswith("**") for word in words)
        self.many = any(word[0] == "*" and len(word) > 1 and word[1] != "*" for word in words)
        stop = words.index("*") if "*" in words else len(words)
        self.most = sum(word[0] not in "*/" for word in words[:stop])
        self.names = frozenset(named)

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) > self.most and not self.many:
            raise TypeError(f"cupy.{self.name} takes at most {self.most} positional arguments, got {len(args)}")
        if kwargs and not self.any_name and not kwargs.keys() <= self.names:
            unknown = ", ".join(sorted(kwargs.keys() - self.names))
            raise TypeError(f"cupy.{self.name} got an unexpected keyword argument: {unknown}")


def _function(name: str, numpys: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy's function with CuPy's arguments on device arrays."""
    taken = Taken(name, RECORD["functions"][name])

    def call(*args: Any, **kwargs: Any) -> Any:
        taken.check(args, kwargs)
        if any(type(a) is Traced for a in (*args, *kwargs.values())):
            return _traced_call(name, args, **kwargs)
        if name in WAITS or (name == "where" and len(args) == 1):
            _note("to host", name)
        if name in BY_CUBLAS:
            refuse_cublas(*args)
        out = kwargs.get("out")
        if out is not None and type(out) is not ndarray:
            raise TypeError(f"cupy.{name}: out must be a device array, got {type(out)}")
        result = numpys(*[_host(a, name) for a in args], **{k: _host(v, name) for k, v in kwargs.items()})
        if name in IN_ORDER and out is None:
            result = _in_order(result)
        if name in ("empty", "empty_like") and result.dtype.kind == "f":
            result.fill(np.nan)  # not what was there before, which may be the right numbers
        return out if out is not None else _device(np.asarray(result) if name in TRUTHS else result)

    call.__name__ = call.__qualname__ = name
    return noted(call)


def _traced_call(name: str, args: tuple[Any, ...], out: Any = None) -> Any:
    """A function within a fused one: elementwise ones alone, of what the fused one was given and of numbers."""
    if name not in RECORD["ufuncs"] and (name != "where" or len(args) != 3):
        raise TypeError(f"cupy.{name} does not work within a fused function")
    if not all(type(a) in (Traced, bool, int, float) or isinstance(a, np.generic) for a in args):
        raise TypeError(f"cupy.{name} within a fused function: an array from elsewhere")
    if not any(type(a) is Traced and not a.weak for a in args):
        raise TypeError(
            f"cupy.{name} of numbers alone has another type within a fused function: give it what is computed"
        )
    if out is not None and (type(out) is not Traced or out.ndim < 0):
        raise TypeError(f"cupy.{name}: out must be one of the fused function's arrays")
    hosts = [a._host if type(a) is Traced else a for a in args]
    if out is not None:
        getattr(np, name)(*hosts, out=out._host)
        out.written = True
        return out
    return Traced(getattr(np, name)(*hosts), max(a.ndim for a in args if type(a) is Traced))


class Traced:
    """What CuPy's `fuse` puts in the place of an array, or of a number (whose `ndim` is −1), to see what is done to it.

    `weak` are Python's numbers, which take the other's type."""

    __slots__ = ("_host", "ndim", "weak", "written")
    __module__ = "cupy._core.fusion"

    def __init__(self, host: Any, ndim: int):
        self._host, self.ndim, self.weak, self.written = host, ndim, type(host) in (bool, int, float), False

    @property
    def dtype(self) -> np.dtype:
        return np.asarray(self._host).dtype

    def astype(self, dtype: Any) -> Traced:
        return Traced(self._host.astype(dtype), self.ndim)

    def __bool__(self) -> bool:
        raise TypeError("a fused function can't ask for a truth")

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.ndim < 0 or (key is not Ellipsis and key != slice(None)):
            raise ValueError("a fused function assigns to `[...]` or `[:]` alone")
        self._host[...] = value._host if type(value) is Traced else value
        self.written = True


def refuse_cublas(*operands: Any) -> None:
    """Raises:
    NotImplementedError: a product that CuPy leaves to cuBLAS, in a capture."""
    if graph.get_current_stream().is_capturing() and any(
        getattr(x, "dtype", np.dtype(int)).kind == "f" for x in operands
    ):
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


BY_CUBLAS = {"matmul", "dot", "vdot", "inner", "tensordot", "einsum"}
ARITHMETIC = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "lshift": "left_shift", "rshift": "right_shift",
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
}  # fmt: skip
COMPARISONS = {
    "lt": "less", "le": "less_equal", "eq": "equal", "ne": "not_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
for _name, _of in (ARITHMETIC | COMPARISONS).items():
    setattr(Traced, f"__{_name}__", lambda a, b, of=_of: _traced_call(of, (a, b)))
for _name, _of in ARITHMETIC.items():
    if _name != "pow":  # CuPy's has no __rpow__
        setattr(Traced, f"__r{_name}__", lambda a, b, of=_of: _traced_call(of, (b, a)))
    setattr(Traced, f"__i{_name}__", lambda a, b, of=_of: _traced_call(of, (a, b), a if a.ndim >= 0 else None))
for _name, _of in (("neg", "negative"), ("invert", "invert")):
    setattr(Traced, f"__{_name}__", lambda a, of=_of: _traced_call(of, (a,)))


def fuse(function: Callable[..., None]) -> Callable[..., None]:
    """CuPy's, of functions that return nothing: what can't be traced there is an error here."""

    @noted
    def call(*args: Any) -> None:
        traced = [_argument(a) for a in args]
        if function(*traced) is not None:
            raise TypeError("a fused function returns nothing: it writes into its arguments")
        arrays = [t for t in traced if t.ndim >= 0]
        shape = np.broadcast_shapes(*[t._host.shape for t in arrays])
        for t in (t for t in arrays if t.written):
            if t._host.shape != shape:
                raise ValueError(f"a fused function wrote into an array of shape {t._host.shape}: all are {shape}")
            for other in arrays:
                same = t._host.ctypes.data == other._host.ctypes.data and t._host.strides == other._host.strides
                if not same and np.shares_memory(t._host, other._host):
                    raise ValueError("a fused function wrote where another of its arguments lies")

    return call


def _argument(value: Any) -> Traced:
    if type(value) is ndarray:
        return Traced(value._host, value.ndim)
    if type(value) in (bool, int, float) or isinstance(value, np.generic):
        return Traced(value, -1)
    raise TypeError(f"Invalid argument type for a fused function: {type(value)}")


LARGEST_BLOCK = (3, 2)  # a kernel is right for blocks of every size: few threads take less time


class RawKernel:
    """CuPy's, of CUDA source that `cuda` runs."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()):
        self.code, self.name = code, name

    @noted
    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        if any(isinstance(a, np.ndarray) for a in args):
            raise TypeError(f"{self.name}: Unsupported type {np.ndarray}; a kernel can't reach the host's memory")
        block = tuple(min(n, most) for n, most in itertools.zip_longest(block, LARGEST_BLOCK, fillvalue=1))
        cuda.run(self.code, self.name, grid, block, tuple(_host(a, self.name) for a in args))


IN_ORDER = {*RECORD["ufuncs"], "where", "concatenate"}
WAITS = {
    "nonzero",
    "flatnonzero",
    "argwhere",
    "unique",
    "extract",
    "bincount",
    "array2string",
    "array_repr",
    "array_str",
}
TRUTHS = {"array_equal", "array_equiv", "allclose", "all", "any"}  # Python's bools in NumPy, arrays in CuPy


class ufunc:
    """One of CuPy's elementwise functions, with its `at`, `reduce` … where CuPy has them."""

    def __init__(self, name: str):
        self.name, self._numpys, self._call = name, getattr(np, name), _function(name, getattr(np, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    @noted
    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        if self.name not in ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"):
            raise NotImplementedError(f"`cupy_{self.name}.at` is not supported yet")
        if type(a) is not ndarray:
            raise TypeError(f"cupy.{self.name}.at: Unsupported type {type(a)}")
        if a.dtype.char in "?bhBHq" and self.name == "add":
            raise TypeError(f"cupy.add.at does not support {a.dtype}")
        key, mask = _key(a, indices)
        if mask is not None:
            values = np.broadcast_to(_host(b, "at"), a.shape)
            self._numpys(a._host, values, out=a._host, where=_over(mask, a._host))
        else:
            self._numpys.at(a._host, key, _host(b, "at"))

    @noted
    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if self.name not in ("add", "multiply", "maximum", "minimum", "logical_and", "logical_or"):
            raise NotImplementedError(f"`cupy_{self.name}.reduce` is not supported yet")
        return _device(self._numpys.reduce(_host(array, "reduce"), axis, dtype, keepdims=keepdims))


def _key(a: Any, key: Any) -> tuple[Any, Any]:
    """An index for NumPy that does what CuPy's does, and the mask if it is one alone."""
    parts, fast = (key if type(key) is tuple else (key,)), True
    for part in parts:
        fast &= part is None or part is Ellipsis or type(part) in (int, slice)
    if fast:
        return (parts if Ellipsis in parts else (*parts, Ellipsis)), None
    plain: list[Any] = []
    for part in parts:
        if isinstance(part, np.ndarray) and not _for_spectators():
            raise TypeError("a NumPy array is no index of a device array: it would be copied there silently")
        if type(part) is list:
            _note("to device", "a list as index")
        part = part._host if type(part) is ndarray else np.asarray(part) if type(part) is list else part
        if isinstance(part, slice):
            part = slice(*[None if n is None else operator.index(n) for n in (part.start, part.stop, part.step)])
        if isinstance(part, np.ndarray) and part.dtype.kind == "b":
            _note("to host", "a mask as index")
        plain.append(
            part
            if not (isinstance(part, np.ndarray) and part.size == 0)
            else part.astype(part.dtype if part.dtype.kind in "iub" else int)
        )
    spent = sum(0 if p is None or p is Ellipsis else _axes(p) for p in plain)
    axis = 0
    for i, part in enumerate(plain):
        if isinstance(part, np.ndarray) and part.dtype.kind in "iu" and axis < a.ndim and a.shape[axis]:
            plain[i] = (
                part % a.shape[axis]
                if part.size and not -a.shape[axis] <= part.min() <= part.max() < a.shape[axis]
                else part
            )
        axis += a.ndim - spent if part is Ellipsis else 0 if part is None else _axes(part)
    masks = [p for p in plain if isinstance(p, np.ndarray) and p.dtype.kind == "b"]
    if len(masks) > 1:
        raise NotImplementedError("CuPy takes one mask as an index, not several")
    rest = () if any(p is Ellipsis for p in plain) else (Ellipsis,)
    alone = masks[0] if masks and len(plain) == 1 else None
    return (*plain, *rest), alone


def _axes(part: Any) -> int:
    return part.ndim if isinstance(part, np.ndarray) and part.dtype.kind == "b" else 1


def _over(mask: Any, array: Any) -> Any:
    """A mask of the first axes at every element."""
    return np.broadcast_to(mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim)), array.shape)


class ndarray:
    """An array on the stand-in device."""

    __slots__ = ("__weakref__", "_host")
    __module__ = "cupy"
    __array_priority__ = 100
    _host: Any

    def __new__(cls, shape: Any = None, dtype: Any = float) -> ndarray:
        self = object.__new__(cls)
        if shape is not None:
            self._host = np.empty(shape, dtype)
            _OWNERS[id(self._host)] = self
        return self

    # To the host

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        _note("to host", "get")
        return np.array(self._host, order=order)

    def item(self) -> Any:
        _note("to host", "item")
        return self._host.item()

    def tolist(self) -> Any:
        _note("to host", "tolist")
        return self._host.tolist()

    def tobytes(self, order: str = "C") -> bytes:
        _note("to host", "tobytes")
        return self._host.tobytes(order)

    def __float__(self) -> float:
        _note("to host", "float")
        return float(self._host)

    def __int__(self) -> int:
        _note("to host", "int")
        return int(self._host)

    def __bool__(self) -> bool:
        _note("to host", "bool")
        return bool(self._host)

    def __complex__(self) -> complex:
        _note("to host", "complex")
        return complex(self._host)

    def __repr__(self) -> str:
        _note("to host", "repr")
        return repr(self._host)

    def __format__(self, specification: str) -> str:
        _note("to host", "format")
        return format(self._host, specification)

    def __reduce__(self) -> Any:
        return asarray, (self.get(),)

    def __index__(self) -> int:
        if not _for_spectators():  # CuPy's has no __index__ at all
            raise TypeError("'cupy.ndarray' object cannot be interpreted as an integer")
        return operator.index(self._host)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if not _for_spectators():
            raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")
        return self._host if dtype is None else self._host.astype(dtype)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if isinstance(inputs[0], np.generic) and method == "__call__":  # np.float32(2) * x: the device's product
            return _device(function(*[_host(x, function.__name__) for x in inputs], **kwargs))
        if not _for_spectators():
            raise TypeError(f"np.{function.__name__} on a device array: call the array's own module")
        if "out" in kwargs:
            kwargs["out"] = _seen(kwargs["out"])
        return getattr(function, method)(*[_seen(x) for x in inputs], **kwargs)

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        if not _for_spectators():
            raise TypeError(f"np.{function.__name__} on a device array: call the array's own module")
        return function(*[_seen(a) for a in args], **{k: _seen(v) for k, v in kwargs.items()})

    # Elements

    @noted
    def __getitem__(self, key: Any) -> ndarray:
        key, _ = _key(self, key)
        return _device(self._host[key])

    @noted
    def __setitem__(self, key: Any, value: Any) -> None:
        if type(value) is list:
            raise TypeError("a list is no value of a device array")
        key, mask = _key(self, key)
        value = _host(value, "assignment")
        if mask is not None:
            np.copyto(self._host, np.broadcast_to(value, self.shape), where=_over(mask, self._host), casting="unsafe")
            return
        if any(isinstance(part, np.ndarray) for part in key):
            places = np.arange(self.size).reshape(self.shape)[key]
            if np.unique(places).size < places.size:
                raise ValueError("an assignment names a place twice: CuPy leaves open which value stays; use add.at")
        self._host[key] = value

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    @noted
    def __copy__(self) -> ndarray:
        return _device(self._host.copy())

    @noted
    def __deepcopy__(self, memo: Any) -> ndarray:
        return _device(self._host.copy())

    @noted
    def fill(self, value: Any) -> None:
        self._host.fill(_host(value, "fill"))

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        _note("to device", "set")
        self._host[...] = arr

    # What the memory is like

    @property
    def data(self) -> Any:
        cublas.handed_over.append(self._host)
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def base(self) -> Any:
        """The array that owns the memory: the same object each time it is asked for."""
        if self._host.base is None:
            return None
        owner = _OWNERS.get(id(self._host.base))
        return _device(np.asarray(self._host.base)) if owner is None else owner

    @property
    def device(self) -> str:
        return "stand-in"


for _name in ("dtype", "flags", "itemsize", "nbytes", "ndim", "shape", "size", "strides"):
    setattr(ndarray, _name, property(operator.attrgetter(f"_host.{_name}")))
for _name in ("T", "mT", "real", "imag"):
    setattr(ndarray, _name, property(lambda self, name=_name: _device(getattr(self._host, name))))


def _seen(value: Any) -> Any:
    """What a spectator sees of a device array."""
    if type(value) in (tuple, list):
        return type(value)(_seen(part) for part in value)
    return value._host if type(value) is ndarray else value


def _binary(name: str, reflected: bool) -> Callable[[ndarray, Any], Any]:
    apply = getattr(operator, name)

    def operate(self: ndarray, other: Any) -> Any:
        kind = type(other)
        if name in BY_CUBLAS:
            refuse_cublas(self, other)
        if kind is ndarray:
            other = other._host
        elif kind not in SCALARS:
            if not isinstance(other, np.ndarray) and not (isinstance(other, list) and _for_spectators()):
                return NotImplemented
            other = _host(other, name)
        return _device(_in_order(apply(other, self._host) if reflected else apply(self._host, other)))

    return noted(operate)


def _in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    apply = getattr(operator, name)

    def operate(self: ndarray, other: Any) -> ndarray:
        apply(self._host, _host(other, name))
        return self

    return noted(operate)


def _unary(name: str) -> Callable[[ndarray], ndarray]:
    apply = getattr(operator, name)
    return noted(lambda self: _device(_in_order(apply(self._host))))


def _method(name: str, parameters: str) -> Callable[..., Any]:
    taken, numpys = Taken(f"ndarray.{name}", parameters), getattr(np.ndarray, name)

    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        taken.check(args, kwargs)
        if name in ("nonzero", "compress"):
            _note("to host", name)
        if name in BY_CUBLAS:
            refuse_cublas(self, *args)
        out = kwargs.get("out")
        if out is not None and type(out) is not ndarray:
            raise TypeError(f"{name}: out must be a device array, got {type(out)}")
        result = numpys(self._host, *[_host(a, name) for a in args], **{k: _host(v, name) for k, v in kwargs.items()})
        return out if out is not None else _device(result)

    return noted(call)


for _name in RECORD["special"]:
    _plain = _name.strip("_")
    _operator = {"and": "and_", "or": "or_", "invert": "invert"}.get(_plain, _plain)
    if _plain in ("neg", "pos", "abs", "invert"):
        setattr(ndarray, _name, _unary(_operator))
    elif _plain in ("eq", "ne", "lt", "le", "gt", "ge") or (
        f"__r{_plain}__" in RECORD["special"] and _plain != "divmod"
    ):
        setattr(ndarray, _name, _binary(_operator, reflected=False))
        if f"__r{_plain}__" in RECORD["special"]:
            setattr(ndarray, f"__r{_plain}__", _binary(_operator, reflected=True))
    if f"__i{_plain}__" in RECORD["special"] and hasattr(operator, f"i{_plain}"):
        setattr(ndarray, f"__i{_plain}__", _in_place(f"i{_plain}"))

for _name, _parameters in RECORD["methods"].items():
    if _name not in vars(ndarray) and hasattr(np.ndarray, _name):
        setattr(ndarray, _name, _method(_name, _parameters))


# Functions with a mind of their own


@noted
def array(obj: Any, *args: Any, **kwargs: Any) -> ndarray:
    """A device array of a host's, of another device array, of numbers or of lists of them; what comes up is noted."""
    Taken("array", RECORD["functions"]["array"]).check((obj, *args), kwargs)
    if type(obj) is not ndarray and not isinstance(obj, bool | int | float | np.generic):
        _note("to device", "array")
    made = np.array(_seen(obj), *args, **{k: v for k, v in kwargs.items() if k != "blocking"})
    return _device(made.copy(order="K") if made is obj else made)  # what comes from the host lies in other memory


@noted
def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    if type(a) is ndarray and (dtype is None or dtype == a.dtype) and order is None and not copy:
        return a
    return array(a, dtype, copy=copy, order=order or "K")


@noted
def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    _host(a, "ascontiguousarray")
    if a._host.flags.c_contiguous and (dtype is None or dtype == a.dtype):
        return a
    return _device(np.ascontiguousarray(a._host, dtype))


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get() if type(a) is ndarray else np.asarray(a)


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    return np.result_type(*[_host(a, "result_type") for a in arrays_and_dtypes])


class Namespace(types.ModuleType):
    """A module whose names are made when they are asked for."""

    def __init__(self, name: str, prefix: str, **own: Any):
        super().__init__(name)
        self._prefix = prefix
        vars(self).update(own)

    def __getattr__(self, name: str) -> Any:
        full = self._prefix + name
        if not self._prefix and name in RECORD["numpys"]:
            found = getattr(np, name)
        elif not self._prefix and name in RECORD["ufuncs"] and hasattr(np, name):
            found = ufunc(name)
        elif full in RECORD["functions"] and (numpys := _numpys(full)):
            found = _function(full, numpys)
        else:
            raise AttributeError(f"CuPy {RECORD['version']} has no {full}")
        setattr(self, name, found)
        return found


def _numpys(name: str) -> Callable[..., Any] | None:
    found: Any = np
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def module() -> types.ModuleType:
    """What `import cupy` is to find."""
    own = [array, asarray, ascontiguousarray, asnumpy, fuse, result_type]
    lib = Namespace("cupy.lib", "lib.", stride_tricks=Namespace("cupy.lib.stride_tricks", "lib.stride_tricks."))
    return Namespace(
        "cupy",
        "",
        **{function.__name__: function for function in own},
        asanyarray=asarray,
        ndarray=ndarray,
        RawKernel=RawKernel,
        ufunc=ufunc,
        is_available=lambda: True,
        lib=lib,
        linalg=Namespace("cupy.linalg", "linalg."),
        cuda=types.SimpleNamespace(
            Stream=graph.Stream,
            get_current_stream=graph.get_current_stream,
            MemoryPool=graph.MemoryPool,
            using_allocator=graph.using_allocator,
            runtime=types.SimpleNamespace(getDevice=lambda: 0),
        ),
        __version__=RECORD["version"],
    )


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """Within this context `cupy` is the stand-in, so device `cuda` is there, and cuBLAS too."""
    before, sys.modules["cupy"] = sys.modules.get("cupy"), module()
    library, products.library = products.library, cublas.library
    backend._resident.cache_clear()  # it knows devices by their names
    try:
        yield sys.modules["cupy"]
    finally:
        backend._resident.cache_clear()
        products.library = library
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before
