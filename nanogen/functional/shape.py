"""Moving elements about: reshaping, reordering, joining, taking apart, indexing, padding, repeating."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanogen.autograd import Tensor, constant, primitive
from nanogen.backend import array_module

__all__ = [
    "cat", "embedding", "flip", "gather", "index", "interpolate", "one_hot", "pad", "permute", "reshape", "split",
    "stack", "transpose", "upsample",
]  # fmt: skip


@primitive
def reshape_to(input, *, shape):
    """The same elements in another shape."""
    return input.reshape(shape)


reshape_to.vjp(lambda g, out, x, shape: reshape_to(g, shape=x.shape))


def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape; one length may be −1."""
    return reshape_to(input, shape=_unpacked(shape))


def _unpacked(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """`f(1, 2)` and `f((1, 2))` mean the same."""
    if len(arguments) == 1 and not isinstance(arguments[0], int):
        return tuple(arguments[0])
    return arguments


@primitive
def permute_to(input, *, dims):
    """The axes in another order."""
    return input.transpose(dims)


permute_to.vjp(lambda g, out, x, dims: permute_to(g, dims=tuple(sorted(range(x.ndim), key=lambda i: dims[i] % x.ndim))))


def permute(input: Tensor, *dims: Any) -> Tensor:
    """The axes in the order `dims`."""
    return permute_to(input, dims=_unpacked(dims))


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """The axes dim0 and dim1 swapped."""
    order = list(range(input.ndim))
    if order:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return permute_to(input, dims=tuple(order))


@primitive
def flip_over(input, *, dims):
    """The order along the axes `dims` reversed."""
    return array_module(input).flip(input, dims)


flip_over.vjp(lambda g, out, x, dims: flip_over(g, dims=dims))


def flip(input: Tensor, *dims: Any) -> Tensor:
    """The order along the axes `dims` reversed."""
    return flip_over(input, dims=_unpacked(dims) if input.ndim else ())


@primitive
def concatenate(*inputs, dim):
    """The inputs one after the other along `dim`."""
    return array_module(inputs[0]).concatenate(inputs, axis=dim)


def _part(i: int, g: Tensor, out: Tensor, *inputs: Tensor, dim: int) -> Tensor:
    start = 0
    for x in inputs[:i]:
        start += x.shape[dim]
    return g[(slice(None),) * (dim % g.ndim) + (slice(start, start + inputs[i].shape[dim]),)]


concatenate.vjp_each(_part)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along `dim`; as in torch, a tensor of shape (0,) joins anything."""
    joined = [x for x in tensors if constant(x).shape != (0,)] or list(tensors)[:1]
    if not joined:
        raise ValueError("cat: give at least one tensor")
    return concatenate(*joined, dim=dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors side by side along a new axis `dim`."""
    tensors = [constant(x) for x in tensors]
    if not tensors or any(x.shape != tensors[0].shape for x in tensors):
        raise ValueError(f"stack: give tensors of one shape, got {[x.shape for x in tensors]}")
    at = dim % (tensors[0].ndim + 1)
    shape = (*tensors[0].shape[:at], 1, *tensors[0].shape[at:])
    return concatenate(*[x.reshape(shape) for x in tensors], dim=at)


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along `dim`: of one size (the last may be smaller), or of the sizes given.

    Raises:
        ValueError: sizes that do not add up to the axis.
    """
    length, size = tensor.shape[dim], split_size_or_sections
    if isinstance(size, int):
        sizes = [min(size, length - start) for start in range(0, length, size)] if length else [0]
    else:
        sizes = list(size)
    if sum(sizes) != length:
        raise ValueError(f"split: sizes {sizes} do not add up to {length}, the length of axis {dim}")
    before = (slice(None),) * (dim % tensor.ndim)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(tensor[(*before, slice(end - n, end))] for n, end in zip(sizes, ends, strict=True))


@primitive
def index(input, *, key):
    """input[key], for any key that NumPy takes; the adjoint of `unindex`."""
    return input[key]


index.vjp(lambda g, out, x, key: unindex(g, key=key, shape=x.shape))


@primitive
def unindex(input, *, key, shape):
    """Zeros of `shape` to which input is added at [key], repeated places as often as they are named."""
    xp = array_module(input)
    out = xp.zeros(shape, input.dtype)
    if any(isinstance(part, xp.ndarray) for part in (key if isinstance(key, tuple) else (key,))):
        xp.add.at(out, key, input)
    else:
        out[key] = input  # slices name no place twice
    return out


unindex.vjp(lambda g, out, x, key, shape: index(g, key=key))


def get_item(input: Tensor, key: Any) -> Tensor:
    """input[key]: numbers, slices, None, ..., masks, integer arrays and tensors, as NumPy has them."""

    def raw(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.data
        return array_module(input.data).asarray(part, dtype=None if part else int) if isinstance(part, list) else part

    return index(input, key=tuple(raw(part) for part in key) if isinstance(key, tuple) else raw(key))


def gather(input: Tensor, dim: int, index: Any) -> Tensor:
    """The elements of input that `index` names along `dim`: out[i, j, …] = input[i, index[i, j, …], …] for dim 1."""
    places = constant(index).data
    xp = array_module(places)
    key = list(xp.ix_(*[xp.arange(n) for n in places.shape]))
    key[dim] = places
    return get_item(input, tuple(key))


def embedding(input: Any, weight: Tensor) -> Tensor:
    """The rows of weight (rows, width) that the integers in `input` name: input.shape + (width,)."""
    return get_item(weight, constant(input))


def one_hot(input: Any, num_classes: int = -1) -> Tensor:
    """1 at the class that each integer names, 0 at the others, along a new last axis; int64.

    Raises:
        ValueError: a label below 0 or not below num_classes.
    """
    labels = constant(input).data
    xp = array_module(labels)
    classes = int(labels.max()) + 1 if num_classes == -1 else num_classes
    if labels.size and num_classes != -1 and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"one_hot: labels must be in 0 … {classes - 1}, got {labels.min()} … {labels.max()}")
    return Tensor((labels[..., None] == xp.arange(classes)).astype(xp.int64))


@primitive
def pad_by(input, *, widths):
    """Zeros before and after each axis, `widths` of them; a negative width cuts off as many."""
    cut = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(input.shape, widths, strict=True))
    return array_module(input).pad(input[cut], [(max(a, 0), max(b, 0)) for a, b in widths])


pad_by.vjp(lambda g, out, x, widths: pad_by(g, widths=tuple((-a, -b) for a, b in widths)))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """`value` (0 if not given) around the last axes: pad = (last before, last after, second last before, …).

    Raises:
        ValueError: an odd number of widths or more than there are axes, another mode than `constant`.
    """
    if mode != "constant":
        raise ValueError(f"pad: mode must be 'constant', got {mode!r}")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: needs pairs for at most {input.ndim} axes, got {tuple(pad)}")
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    widths = tuple([(0, 0)] * (input.ndim - len(pairs)) + pairs[::-1])
    if any(n + a + b < 0 for n, (a, b) in zip(input.shape, widths, strict=True)):
        raise ValueError(f"pad: {tuple(pad)} cuts off more than a tensor of shape {input.shape} has")
    if not value:
        return pad_by(input, widths=widths)
    return pad_by(input - value, widths=widths) + value


@primitive
def upsample(input, *, factor):
    """Each pixel of (N, C, H, W) repeated `factor` times in both directions; the adjoint of `sum_blocks`."""
    xp = array_module(input)
    n, c, h, w = input.shape
    wide = xp.broadcast_to(input.transpose(0, 2, 3, 1)[:, :, None, :, None], (n, h, factor, w, factor, c))
    return wide.reshape(n, h * factor, w * factor, c).transpose(0, 3, 1, 2)


upsample.vjp(lambda g, out, x, factor: sum_blocks(g, factor=factor))


@primitive
def sum_blocks(input, *, factor):
    """The sums over the blocks of factor × factor pixels of (N, C, H, W)."""
    rows = sum_of([input[:, :, i::factor] for i in range(factor)])
    return sum_of([rows[:, :, :, j::factor] for j in range(factor)])


sum_blocks.vjp(lambda g, out, x, factor: upsample(g, factor=factor))


def sum_of(arrays: Sequence[Any]) -> Any:
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
) -> Tensor:
    """The image (N, C, H, W) at another size, each pixel that of the nearest source: ⌊i · H / size⌋.

    Raises:
        ValueError: another mode than `nearest`, or not exactly one of size and scale_factor.
    """
    if mode != "nearest":
        raise ValueError(f"interpolate: mode must be 'nearest', got {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    spatial = input.shape[2:]
    if size is not None:
        sizes = [size] * len(spatial) if isinstance(size, int) else list(size)
        scales = [n / m if m else 1.0 for n, m in zip(spatial, sizes, strict=True)]
    else:
        factors = [scale_factor] * len(spatial) if isinstance(scale_factor, int | float) else list(scale_factor or ())
        sizes = [math.floor(n * f) for n, f in zip(spatial, factors, strict=True)]
        scales = [1.0 / f for f in factors]
    whole = {m // n for n, m in zip(spatial, sizes, strict=True) if n and m % n == 0}
    if len(spatial) == 2 and len(whole) == 1 and all(n and m % n == 0 for n, m in zip(spatial, sizes, strict=True)):
        return upsample(input, factor=whole.pop())
    for axis, (n, m, scale) in enumerate(zip(spatial, sizes, scales, strict=True), start=2):
        source = [min(math.floor(i * scale), n - 1) for i in range(m)]
        input = get_item(input, (slice(None),) * axis + (source,))
    return input
