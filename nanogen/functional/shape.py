"""Moving elements: reshaping, reordering, joining, splitting, indexing, padding, repeating."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, broadcast_to, constant, primitive
from nanogen.backend import array_module, check_range, device_of, resident, unsupported
from nanogen.functional.reduction import axes

__all__ = [
    "cat", "chunk", "embedding", "expand", "flatten", "flip", "gather", "index", "interpolate", "one_hot", "pad",
    "permute", "reshape", "split", "squeeze", "stack", "transpose", "unsqueeze",
]  # fmt: skip


def one_by_one(operation: Callable[[Tensor, Any], Tensor]) -> Callable[..., Tensor]:
    """`operation(x, (1, 2))` can also be called as `operation(x, 1, 2)`."""

    @functools.wraps(operation)
    def call(input: Tensor, *numbers: Any, **named: Any) -> Tensor:
        if named or (numbers and isinstance(numbers[0], tuple | list)):
            return operation(input, *numbers, **named)
        return operation(input, numbers)

    return call


@primitive
def reshape_to(input, *, shape):
    """The same elements in another shape."""
    return input.reshape(shape)


reshape_to.vjp(lambda g, out, x, shape: reshape_to(g, shape=x.shape), reads="")


@one_by_one
def reshape(input: Tensor, shape: Any) -> Tensor:
    """The same elements in another shape; one length may be −1."""
    return reshape_to(input, shape=tuple(shape))


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from start_dim to end_dim, both included, as one."""
    first, last = axis_of(start_dim, input), axis_of(end_dim, input)
    merged = math.prod(input.shape[first : last + 1])
    return reshape_to(input, shape=(*input.shape[:first], merged, *input.shape[last + 1 :]))


def squeeze(input: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Without the axes of length 1, all of them or those in `dim`."""
    among = axes(dim, input.ndim) if dim != () else ()
    return reshape_to(input, shape=tuple(n for i, n in enumerate(input.shape) if n != 1 or i not in among))


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new axis of length 1 at `dim`."""
    (at,) = axes(dim, input.ndim + 1)
    return reshape_to(input, shape=(*input.shape[:at], 1, *input.shape[at:]))


@one_by_one
def expand(input: Tensor, size: Any) -> Tensor:
    """Axes of length 1 repeated, and new axes in front, so that the shape is `size`; −1 leaves an axis as it is."""
    here = (-1,) * (len(size) - input.ndim) + input.shape
    shape = tuple(m if n == -1 else n for n, m in zip(size, here, strict=True))
    return broadcast_to(input, shape=np.broadcast_shapes(shape))  # CuPy would accept a new axis of −1


def axis_of(dim: int, input: Tensor) -> int:
    """`dim` counted from 0 on."""
    return next(iter(axes(dim, input.ndim)), 0)


@primitive
def permute_to(input, *, dims):
    """The axes in another order."""
    return input.transpose(dims)


permute_to.vjp(
    lambda g, out, x, dims: permute_to(g, dims=tuple(sorted(range(x.ndim), key=lambda i: dims[i] % x.ndim))), reads=""
)


@one_by_one
def permute(input: Tensor, dims: Any) -> Tensor:
    """The axes in the order `dims`."""
    return permute_to(input, dims=tuple(dims))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """The axes dim0 and dim1 swapped."""
    a, b = axis_of(dim0, input), axis_of(dim1, input)
    order = list(range(input.ndim))
    if order:
        order[a], order[b] = b, a
    return permute_to(input, dims=tuple(order))


@one_by_one
def flip(input: Tensor, dims: Any) -> Tensor:
    """The order along the axes `dims` reversed."""
    reversed_axes = axes(dims, input.ndim) if dims != () else ()
    return get_item(input, tuple(slice(None, None, -1 if i in reversed_axes else 1) for i in range(input.ndim)))


@primitive
def concatenate(*inputs, dim):
    """The inputs one after the other along `dim`, with the memory layout of the first."""
    xp, shape = array_module(inputs[0]), list(inputs[0].shape)
    shape[dim] = sum(x.shape[dim] for x in inputs)
    return xp.concatenate(inputs, axis=dim, out=xp.empty_like(inputs[0], xp.result_type(*inputs), shape=shape))


def _part(i: int, g: Tensor, out: Tensor, *inputs: Tensor, dim: int) -> Tensor:
    start = sum(x.shape[dim] for x in inputs[:i])
    return g[(slice(None),) * (dim % g.ndim) + (slice(start, start + inputs[i].shape[dim]),)]


concatenate.vjp(_part, reads="")


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`.  As in torch, tensors of shape (0,) are left out."""
    joined = [x for x in tensors if constant(x).shape != (0,)] or list(tensors)[:1]
    if not joined:
        raise ValueError("cat: give at least one tensor")
    return concatenate(*joined, dim=dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors side by side along a new axis `dim`."""
    tensors = [constant(x) for x in tensors]
    if not tensors or any(x.shape != tensors[0].shape for x in tensors):
        raise ValueError(f"stack: give tensors of one shape, got {[x.shape for x in tensors]}")
    return concatenate(*[unsqueeze(x, dim) for x in tensors], dim=dim)


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along `dim`: of one size (the last may be smaller), or of the sizes given.

    Raises:
        ValueError: sizes that do not add up to the axis.
    """
    dim, size = axis_of(dim, tensor), split_size_or_sections
    length = tensor.shape[dim]
    if isinstance(size, int):
        if size < 1:
            raise ValueError(f"split: split_size_or_sections must be at least 1, got {size}")
        sizes = [min(size, length - start) for start in range(0, length, size)] if length else [0]
    else:
        sizes = list(size)
    if sum(sizes) != length:
        raise ValueError(f"split: sizes {sizes} do not add up to {length}, the length of axis {dim}")
    before, ends = (slice(None),) * dim, itertools.accumulate(sizes)
    return tuple(index(tensor, key=(*before, slice(end - n, end))) for n, end in zip(sizes, ends))


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` parts along `dim`, of one size; the last may be smaller."""
    return split(input, -(-input.shape[axis_of(dim, input)] // chunks) or [0] * chunks, dim)


@primitive
def index(input, *, key):
    """input[key], for any key that NumPy takes; the adjoint of `unindex`."""
    return input[key]


def add_at(total, values, *, key):
    """total[key] += values on raw arrays; at a position that occurs several times, all of its values are added."""
    xp, parts = array_module(total), key if isinstance(key, tuple) else (key,)
    if all(is_basic(part) for part in parts):
        total[key] += values  # with numbers and slices no position occurs twice
    else:
        # masks as integer indices: CuPy's add.at with a mask needs as many values as the mask has elements
        places = [part.nonzero() if isinstance(part, xp.ndarray) and part.dtype == bool else (part,) for part in parts]
        xp.add.at(total, tuple(itertools.chain(*places)), values)


index.vjp(lambda g, out, x, key: unindex(g, key=key, shape=x.shape), reads="", adds=add_at)


@primitive
def unindex(input, *, key, shape):
    """Zeros of `shape`, with the memory layout of input, plus input at [key]: see `add_at`."""
    out = array_module(input).zeros_like(input, shape=shape)
    add_at(out, input, key=key)
    return out


unindex.vjp(lambda g, out, x, key, shape: index(g, key=key), reads="")


def is_basic(part: Any) -> bool:
    """Whether a part of an index is a number, a slice, None or ..., so that no position occurs twice."""
    return part is None or part is ... or isinstance(part, slice | int | np.integer)


def get_item(input: Tensor, key: Any) -> Tensor:
    """input[key] as in NumPy: numbers, slices, None, ..., masks, integer arrays and tensors."""

    def raw(part: Any) -> Any:
        part = part.data if isinstance(part, Tensor) else part
        if is_basic(part):
            return part
        empty = isinstance(part, list | tuple) and not part
        return array_module(input.data).asarray(part, dtype=int if empty else None)

    return index(input, key=tuple(raw(part) for part in key) if isinstance(key, tuple) else raw(key))


def gather(input: Tensor, dim: int, index: Any) -> Tensor:
    """The elements of input at `index` along `dim`: out[i, j, …] = input[i, index[i, j, …], …] for dim 1.

    The index may be shorter than the input along the other axes.  A tensor without axes counts as having one.  An empty
    index gives an empty result.

    Raises:
        ValueError: an index with other axes, longer than the input along another axis than `dim`, or out of range.
        TypeError: an index that is not of integers.
    """
    places, dim, sizes = constant(index).data, axis_of(dim, input), input.shape or (1,)
    if not places.size:
        return input.reshape(-1)[:0].reshape(places.shape)
    wide, xp = places.reshape(places.shape or (1,)), array_module(places)
    if wide.ndim != len(sizes) or any(m > n for i, (m, n) in enumerate(zip(wide.shape, sizes)) if i != dim):
        raise ValueError(f"gather: index of shape {places.shape} does not fit input {input.shape} beside {dim}")
    if places.dtype.kind not in "iu":
        raise TypeError(f"gather: index must be integers, got dtype {places.dtype}")
    check_range("gather: index", places, sizes[dim])
    key = list(xp.ix_(*[xp.arange(n) for n in wide.shape]))
    key[dim] = wide
    return get_item(input.reshape(sizes), tuple(key)).reshape(places.shape)


def embedding(input: Any, weight: Tensor, padding_idx: None = None, max_norm: None = None) -> Tensor:
    """weight[input], the rows of weight (rows, width) for integers: (*input.shape, width).

    Raises:
        ValueError: an integer out of range, a weight of another shape, a padding_idx or max_norm.
        TypeError: an input that is not of integers.
    """
    unsupported("embedding", padding_idx=padding_idx, max_norm=max_norm)
    rows = constant(input)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight must be (rows, width), got shape {weight.shape}")
    if rows.dtype.kind not in "iu":
        raise TypeError(f"embedding: input must be integers, got dtype {rows.dtype}")
    check_range("embedding: input", rows.data, weight.shape[0])
    return get_item(weight, rows)


def one_hot(input: Any, num_classes: int = -1) -> Tensor:
    """For each integer, a new last axis with 1 at that class and 0 at the others: int64.

    Raises:
        ValueError: a label below 0 or not below num_classes.
    """
    labels = constant(input).data
    if labels.dtype.kind not in "iu" or (num_classes == -1 and not labels.size):
        raise ValueError(f"one_hot: input must be integers, got {labels.size} of dtype {labels.dtype}")
    xp = array_module(labels)
    classes = int(labels.max()) + 1 if num_classes == -1 else num_classes
    check_range("one_hot: labels", labels, classes)
    return Tensor((labels[..., None] == xp.arange(classes)).astype(xp.int64))


@primitive
def pad_by(input, *, widths, value=0.0):
    """`value` added before and after each axis, as often as `widths` says; a negative width cuts elements off."""
    shape = [n + a + b for n, (a, b) in zip(input.shape, widths, strict=True)]
    cut = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(input.shape, widths, strict=True))
    inside = tuple(slice(max(a, 0), n - max(b, 0)) for n, (a, b) in zip(shape, widths, strict=True))
    out = array_module(input).empty_like(input, shape=shape)  # with the input's memory layout
    if any(max(width) > 0 for width in widths):
        out.fill(value)
    out[inside] = input[cut]
    return out


pad_by.vjp(lambda g, out, x, widths, value: pad_by(g, widths=tuple((-a, -b) for a, b in widths)), reads="")


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """`value` (default 0) around the last axes: pad = (last axis before, after, second last before, after, …).

    The mode `reflect` adds the elements inside instead, mirrored at the first and at the last.

    Raises:
        ValueError: an odd number of widths or more than two per axis, another mode, a value with `reflect`, or more
            elements than there are to mirror.
    """
    if mode not in ("constant", "reflect") or (value and mode != "constant"):
        raise ValueError(f"pad: mode must be 'constant', or 'reflect' without value; got {mode!r}, value {value}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: needs pairs for at most {input.ndim} axes, got {tuple(pad)}")
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    widths = tuple([(0, 0)] * (input.ndim - len(pairs)) + pairs[::-1])
    if any(n + a + b < 0 for n, (a, b) in zip(input.shape, widths, strict=True)):
        raise ValueError(f"pad: {tuple(pad)} cuts off more than a tensor of shape {input.shape} has")
    if mode == "constant":
        return pad_by(input, widths=widths, value=value or 0.0) if any(pad) else constant(input)
    for axis, (n, (a, b)) in enumerate(zip(input.shape, widths, strict=True)):
        if (a, b) != (0, 0):
            if max(a, b) >= n:
                raise ValueError(f"pad: reflect takes widths up to {n - 1} for {n} elements, got {a, b}")
            input = _places(input, axis, n - 1 - abs(n - 1 - abs(np.arange(-a, n + b))))
    return input


def _places(input: Tensor, axis: int, places: np.ndarray) -> Tensor:
    """The elements at these positions along an axis."""
    return get_item(input, (slice(None),) * axis + (resident(places, int, device_of(input.data)),))


@primitive
def repeat_blocks(input, *, factor):
    """Each pixel of (N, C, H, W) repeated `factor` times in both directions; the adjoint of `sum_blocks`."""
    xp = array_module(input)
    n, c, h, w = input.shape
    wide = xp.broadcast_to(input.transpose(0, 2, 3, 1)[:, :, None, :, None], (n, h, factor, w, factor, c))
    return wide.reshape(n, h * factor, w * factor, c).transpose(0, 3, 1, 2)


repeat_blocks.vjp(lambda g, out, x, factor: sum_blocks(g, factor=factor), reads="")


@primitive
def sum_blocks(input, *, factor):
    """The sums over the blocks of factor × factor pixels of (N, C, H, W)."""
    rows = functools.reduce(operator.add, [input[:, :, i::factor] for i in range(factor)])
    return functools.reduce(operator.add, [rows[:, :, :, j::factor] for j in range(factor)])


sum_blocks.vjp(lambda g, out, x, factor: repeat_blocks(g, factor=factor), reads="")


def interpolate(
    input: Tensor, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest", align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:  # fmt: skip
    """The images (N, C, H, W) at another size.  With m for the new height, row i is the source's row ⌊i · H / m⌋
    (`nearest`), or a weighted mean of the two around (i + ½) · H / m − ½ (`bilinear`); columns likewise.

    With a scale_factor, H / m is its inverse.  With align_corners, row i is at i · (H − 1) / (m − 1).

    Raises:
        ValueError: another mode, align_corners for `nearest`, a setting that is not supported; not exactly one of size
            and scale_factor.
    """
    unsupported("interpolate", recompute_scale_factor=recompute_scale_factor, antialias=antialias)
    if mode not in ("nearest", "bilinear") or (mode == "nearest" and align_corners is not None) or input.ndim != 4:
        allowed = "'nearest' without align_corners, or 'bilinear', for (N, C, H, W)"
        raise ValueError(f"interpolate: mode must be {allowed}; got {mode!r}, {align_corners}, {input.shape}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    spatial, linear, given = input.shape[2:], mode == "bilinear", scale_factor if size is None else size
    both: Any = [given, given] if isinstance(given, int | float) else given
    sizes = [math.floor(n * f) for n, f in zip(spatial, both, strict=True)] if size is None else both
    # As in torch, lengths and not the factor count if the length stays the same or, for `nearest`, doubles.
    by_length = [size is not None or m in ((n,) if linear else (n, 2 * n)) for n, m in zip(spatial, sizes, strict=True)]
    scales = [(n, m) if b else (1, f) for b, n, m, f in zip(by_length, spatial, sizes, both)]
    whole = {b / a if a and b % a == 0 else 0 for a, b in scales}
    if not linear and len(whole) == 1 and min(whole) >= 1:
        return repeat_blocks(input, factor=int(whole.pop()))
    for axis, (n, m, (a, b)) in enumerate(zip(spatial, sizes, scales), start=2):
        if linear:
            a, b, shift = (n - 1, m - 1, 0.0) if align_corners else (a, b, 0.5)
            position = np.clip((np.arange(m) + shift) * (a / b if b else 0) - shift, 0, n - 1)
            weights = np.maximum(0, 1 - abs(position - np.arange(n)[:, None]))  # of each source pixel (n, m)
            product = input.transpose(axis, -1) @ resident(weights, input.dtype, device_of(input.data))
            input = product.transpose(axis, -1)
        else:
            input = _places(input, axis, np.array([int(i * a / b) for i in range(m)], int))
    return input
