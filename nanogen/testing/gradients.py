"""Gradients of any function, and what an output of a network may depend on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.property import Property, register
from nanogen.testing.trial import to_numpy

STEP = 1e-3  # of differences whose error is of the order STEP⁴


def _slopes(f: Callable[..., Any], arrays: list[np.ndarray], i: int, weigh: Callable[[Any], float], step: float) -> Any:
    """∂⟨c, f⟩/∂arrays[i] by central differences with two steps, which cancel the error of the order step².

    Where f bends within a step (a norm of numbers that are nearly equal), a tenth of it is taken: then a hundredth
    changes less than the tenth did.  Rounding does the opposite."""
    slope = np.zeros(arrays[i].shape)
    for place in np.ndindex(slope.shape):

        def moved(by: float, place: tuple[int, ...] = place) -> float:
            there = [array.copy() for array in arrays]
            there[i][place] += by
            return weigh(f(*there))

        def difference(h: float, moved: Callable[[float], float] = moved) -> float:
            near, far = ((moved(by) - moved(-by)) / (2 * by) for by in (h, 2 * h))
            return (4 * near - far) / 3

        slope[place], finer = difference(step), difference(step / 10)
        if (change := abs(finer - slope[place])) > 1e-6 * (1 + abs(finer)):
            slope[place] = finer if abs(difference(step / 100) - finer) < change / 10 else slope[place]
    return slope


def check_gradients(
    function: Callable[..., Any],
    gradient: Callable[..., Any],
    shapes: Sequence[tuple[int | str, ...]],
    *,
    values: str = "reals",
    cotangents: bool | None = None,
    **options: Any,
) -> None:
    """The gradient of any function, against central differences: first order, or of a gradient again.

    function(*arrays) returns a number, an array, or a tuple of arrays.  gradient(*arrays) returns the gradients with
    respect to all arrays: a tuple, or an array if there is one.  Where the function's output is not one number, the
    gradient is that of ⟨c, function(*arrays)⟩, and is called as gradient(*arrays, *c), one c for each output.

    Args:
        function, gradient: as above.
        shapes: of the arrays: integers, or names that stand for sizes of 1 … 4: [("n", "d"), ("d",)].
        values: "reals" about 0, "positives", or "distinct": no two are equal and none is 0, for functions with kinks.
        cotangents: whether gradient takes c.  Default: where the output is not one number.

    Second order: `check_gradients(gradient, second, shapes)`, where second(*arrays, *v) is the gradient of
    ⟨v, gradient(*arrays)⟩.  An array whose gradient is None is not judged.

    Equation: ∂⟨c, f⟩/∂x_i = (4 D(h) − D(2h)) / 3 + O(h⁴), D(h) = ⟨c, f(x + h e_i) − f(x − h e_i)⟩ / 2h.

    >>> import numpy as np
    >>> f = lambda x, w: np.tanh(x @ w)
    >>> def gradient(x, w, c):
    ...     slope = c * (1 - np.tanh(x @ w) ** 2)
    ...     return slope @ w.T, x.T @ slope
    >>> check_gradients(f, gradient, [("n", "d"), ("d", "k")])
    """
    if values not in ("reals", "positives", "distinct"):
        raise ValueError(f"check_gradients: values must be 'reals', 'positives' or 'distinct', got {values!r}")
    names = sorted({size for shape in shapes for size in shape if isinstance(size, str)})
    keys = [f"argument {i + 1}" for i in range(len(shapes))]
    single = options.get("dtype") in ("float32", np.float32)
    step = 2e-2 if single else STEP
    if single:
        options = {"rtol": 1e-2, "atol": 5e-3} | options
    convert = options.get("convert") or (lambda x: x)
    typed = lambda x: convert(x.astype(np.float32) if single else x.copy())

    def outputs(*arrays: np.ndarray) -> list[np.ndarray]:
        found = function(*[typed(x) for x in arrays])
        return [to_numpy(y).astype(float) for y in (found if isinstance(found, tuple | list) else [found])]

    def arguments(draw: Draw, sizes: dict[str, int]) -> tuple[dict[str, Any], list[np.ndarray]]:
        shaped = [tuple(sizes[n] if isinstance(n, str) else n for n in shape) for shape in shapes]
        arrays = {key: getattr(draw, values)(*shape) for key, shape in zip(keys, shaped)}
        try:
            return arrays, outputs(*arrays.values())
        except Exception as error:
            raise UsageError(f"check_gradients: the function raises {type(error).__name__}: {error}") from error

    if cotangents is None:
        _, found = arguments(Draw(lambda low, high: low), dict.fromkeys(names, 2))
        cotangents = len(found) > 1 or found[0].size > 1

    def inputs(draw: Draw, **_: Any) -> dict[str, Any]:
        arrays, found = arguments(draw, dict(zip(names, draw.sizes(*[(1, 4)] * len(names)))))
        return arrays | ({f"c{i + 1}": draw.reals(*y.shape) for i, y in enumerate(found)} if cotangents else {})

    def slopes(*given: Any, cotangent: Callable[[Any], Any] = lambda c: c) -> list[Any]:
        arrays, weights = list(given[: len(keys)]), [cotangent(c) for c in given[len(keys) :]]

        def weigh(found: list[Any]) -> float:
            return float(sum((c * y).sum() for c, y in zip(weights, found)) if weights else found[0].sum())

        return [_slopes(outputs, arrays, i, weigh, step) for i in range(len(arrays))]

    def exact(*given: Any) -> dict[str, Any]:
        return dict(zip(keys, known(given)))

    remembered: dict[bytes, list[Any]] = {}

    def known(given: tuple[Any, ...]) -> list[Any]:
        key = b"".join(np.asarray(x).tobytes() + str(np.shape(x)).encode() for x in given)
        if key not in remembered:
            remembered[key] = slopes(*given)
        return remembered[key]

    def changed(change: Callable[[list[Any], tuple[Any, ...]], list[Any] | None]) -> Callable[..., Any]:
        def wrong(*given: Any) -> Any:
            found = change(list(known(given)), given)
            return None if found is None else dict(zip(keys, found))

        return wrong

    def one(i: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
        return changed(lambda g, given: [*g[:i], change(g[i]), *g[i + 1 :]])

    mistakes: dict[str, Callable[..., Any]] = {
        "the sign turned round": changed(lambda g, given: [-x for x in g]),
        "c ignored: the gradient of the sum of the outputs": changed(
            lambda g, given: slopes(*given, cotangent=np.ones_like) if len(given) > len(keys) else None
        ),
        "the gradients' order turned round": changed(lambda g, given: g[::-1] if len(g) > 1 else None),
        "half of it": changed(lambda g, given: [x / 2 for x in g]),
        "twice as much": changed(lambda g, given: [2 * x for x in g]),
    }
    for i, key in enumerate(keys if len(keys) > 1 else []):
        mistakes |= {
            f"the gradient of {key} is 0": one(i, np.zeros_like),
            f"the sign of the gradient of {key} turned round": one(i, np.negative),
            f"half the gradient of {key}": one(i, lambda g: g / 2),
            f"twice the gradient of {key}": one(i, lambda g: 2 * g),
        }
    for i, key in enumerate(keys):
        mistakes[f"the gradient of {key} transposed"] = one(i, lambda g: g.T)

    def run(both: Any, given: dict[str, Any]) -> Any:
        found = gradient(*given.values())
        return found if len(keys) > 1 else {keys[0]: found[0] if isinstance(found, tuple | list) else found}

    Property(
        name="gradient",
        equation="∂⟨c, f⟩/∂x_i = ⟨c, f(x + h e_i) − f(x − h e_i)⟩ / 2h + O(h²)",
        source="central differences",
        inputs=inputs,
        truth=exact,
        mistakes=mistakes,
        run=run,
        examples=15,
        shapes=True,
        where={
            f"where {name} is larger than 1": lambda *given, name=name: _size(shapes, given, name) > 1 for name in names
        },
    ).check(gradient, "check_gradients", {}, {}, **options)


def _size(shapes: Sequence[tuple[int | str, ...]], given: tuple[Any, ...], name: str) -> int:
    for shape, x in zip(shapes, given):
        if name in shape:
            return x.shape[shape.index(name)]
    return 0


register(check_gradients)


# What an output may depend on

RELATIONS = (
    "itself",
    "later channels of its pixel",
    "pixels to the right",
    "rows below, to the left",
    "rows below, straight",
    "rows below, to the right",
    "other images",
)
LAYOUTS = ("NCHW", "NCKHW", "NKCHW", "N(CK)HW", "N(KC)HW", "NCHWK", "NHWCK")


def _by_place(y: np.ndarray, shape: tuple[int, int, int], layout: str) -> np.ndarray:
    """The outputs as (N, C, H, W, K)."""
    (c, h, w), n = shape, len(y)
    if layout == "NCHW":
        return y.reshape(n, c, h, w, 1)
    if layout in ("NCKHW", "N(CK)HW"):
        return y.reshape(n, c, -1, h, w).transpose(0, 1, 3, 4, 2)
    if layout in ("NKCHW", "N(KC)HW"):
        return y.reshape(n, -1, c, h, w).transpose(0, 2, 3, 4, 1)
    return y.reshape(n, c, h, w, -1) if layout == "NCHWK" else y.reshape(n, h, w, c, -1).transpose(0, 3, 1, 2, 4)


def dependencies(
    network: Callable[[Any], Any],
    shape: tuple[int, int, int],
    layout: str = "NCHW",
    levels: int | None = None,
    convert: Callable[[np.ndarray], Any] = lambda x: x,
    dtype: Any = np.float64,
    images: int = 3,
    seed: int = 0,
) -> np.ndarray:
    """Which outputs change with which inputs, by changing one sub-pixel after the other: booleans (C, H, W, C, H, W),
    the output's place first.  See check_causal for the arguments."""
    rng = np.random.default_rng(seed)
    draw: Callable[[Any], Any] = lambda size: (
        rng.standard_normal(size) if levels is None else rng.integers(0, levels, size).astype(float)
    )
    call = lambda x: _by_place(to_numpy(network(convert(x.astype(dtype)))).astype(float), shape, layout)
    found = np.zeros((*shape, *shape), bool)
    for _ in range(images):
        x = draw((1, *shape))
        before = call(x)
        places = list(np.ndindex(shape))
        moved = np.repeat(x, len(places), 0)
        for i, place in enumerate(places):
            moved[i][place] = (
                (x[0][place] + rng.integers(1, levels)) % levels if levels else x[0][place] + 3 * rng.choice([-1, 1])
            )
        after = np.concatenate([call(part) for part in np.array_split(moved, max(1, len(places) // 64))])
        change = np.abs(after - before).max(-1) > 1e-5 * (1e-3 + np.abs(before).max())
        found |= np.moveaxis(change, 0, -1).reshape(*shape, *shape)
    return found


def _relations(found: np.ndarray, order: str) -> dict[str, bool]:
    """Of what is not before an output, which kinds it depends on."""
    seen = dict.fromkeys(RELATIONS, False)
    for c, i, j, d, k, m in np.argwhere(found):
        if (k, m) == (i, j):
            later = d > c if order == "channels in turn" else d != c
            if d == c:
                seen["itself"] = True
            elif later:
                seen["later channels of its pixel"] = True
        elif k == i and m > j:
            seen["pixels to the right"] = True
        elif k > i:
            where = "to the left" if m < j else "straight" if m == j else "to the right"
            seen[f"rows below, {where}"] = True
    return seen


def blind_spot(
    network: Callable[[Any], Any],
    shape: tuple[int, int, int],
    layout: str = "NCHW",
    levels: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """How much of its past the output for the middle pixel of the last row depends on, in the order of rows.

    Returns:
        {"seen", "past": counts of pixels; "map": booleans (H, W), True for pixels that are seen; "text"}.

    A stack of masked 3 × 3 convolutions never sees a wedge at the upper right (van den Oord et al. 2016, figure 1).

    >>> import numpy as np
    >>> shifted = lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]  # the pixel to the left
    >>> print(blind_spot(shifted, (1, 3, 4))["text"])
    the output at row 2, column 2 depends on 1 of 10 pixels before it:
    . . . .
    . . . .
    . # o
    """
    found = dependencies(network, shape, layout, levels, **options)
    row, column = shape[1] - 1, shape[2] // 2
    seen: Any = found[:, row, column].any((0, 1))
    past = row * shape[2] + column
    before = np.arange(shape[1] * shape[2]).reshape(shape[1:]) < past
    lines = [" ".join("#" if seen[i, j] else "." for j in range(shape[2])) for i in range(row)]
    lines.append(" ".join(["#" if seen[row, j] else "." for j in range(column)] + ["o"]))
    count = int((seen & before).sum())
    text = f"the output at row {row}, column {column} depends on {count} of {past} pixels before it:\n"
    return {"seen": count, "past": past, "map": seen, "text": text + "\n".join(lines)}


def _leaks(*kinds: str, past: bool = True) -> Callable[..., dict[str, bool]]:
    return lambda *_, **__: {kind: kind in kinds for kind in RELATIONS} | {"the past": past}


def _run_causal(
    network: Any, given: dict[str, Any], *, shape: Any, layout: str, levels: int | None, order: str, sees: str
) -> dict[str, bool]:
    x, other = given["x"], given["_other"]
    numbers, kinds = to_numpy(x).copy(), to_numpy(x).dtype
    like = given["_like"]
    y = to_numpy(network(x))
    size = int(np.prod(shape))
    if y.shape[0] != len(numbers) or y.size % (len(numbers) * size):
        raise UsageError(
            f"check_causal: the network must return outputs for each of the {size} sub-pixels of each image, in the "
            f"layout {layout}, got the shape {y.shape} for {numbers.shape}"
        )
    found = dependencies(network, shape, layout, levels, like, kinds, 2, int(given["_seed"]))
    changed = numbers.copy()
    changed[1:] = other[1:]
    again = to_numpy(network(like(changed.astype(kinds))))
    alone = np.abs(again[0] - y[0]).max() > 1e-5 * (1e-3 + np.abs(y).max())
    before = np.tri(size, size, -1, bool)
    if order == "channels in turn":
        flat = found.transpose(1, 2, 0, 4, 5, 3).reshape(size, size)
    else:
        c = shape[0]
        flat = found.transpose(1, 2, 0, 4, 5, 3).reshape(size, size)
        before = np.kron(np.tri(size // c, size // c, -1), np.ones((c, c))).astype(bool)
    past = bool(flat[before].any()) or not before.any()
    if sees != "something":
        i, j = np.argwhere(before if sees == "all" else before & _neighbours(shape)).T
        past = bool(flat[i, j].all())
    return _relations(found, order) | {"other images": bool(alone), "the past": past}


UNSEEN = {
    "something": "it depends on nothing",
    "neighbours": "the pixel to the left or the one above is not seen",
    "all": "a blind spot: part of the past is not seen",
}


def _neighbours(shape: Any) -> np.ndarray:
    """Pairs of sub-pixels, in their order, of which the second is to the left of the first one or above it."""
    h, w, c = (x.ravel() for x in np.indices((shape[1], shape[2], shape[0])))
    down, right = h[:, None] - h, w[:, None] - w
    return (c[:, None] == c) & ((down == 1) & (right == 0) | (down == 0) & (right == 1))


def check_causal(
    network: Callable[[Any], Any],
    shape: tuple[int, int, int] = (1, 5, 6),
    *,
    layout: str = "NCHW",
    levels: int | None = None,
    order: str = "channels in turn",
    sees: str = "something",
    **options: Any,
) -> None:
    """Whether a network's output for each sub-pixel depends on nothing but the sub-pixels before it, by perturbation.

    The function is called as network(x), x (N, C, H, W).  The order is that of rows, and in a pixel that of the
    channels (red, green, blue).  A network that depends on nothing at all is refused, too.  How much of the past is
    seen, `nanogen.testing.blind_spot` tells.

    Args:
        shape: (C, H, W).  Small ones are quick: the network is called with C·H·W changed images, twice for each input.
        layout: of the outputs: "NCHW"; with K numbers for each sub-pixel "NCKHW", "NKCHW", "NCHWK", "NHWCK", or with
            the two in one axis "N(CK)HW" (the K of red first) or "N(KC)HW".
        levels: x has integers 0 … levels − 1 as floats; None: real numbers.
        order: "channels in turn": green depends on red; or "together": a pixel's channels depend on none of its own.
        sees: what each output must depend on, where it exists: "neighbours": the same channel of the pixels to the left
            and above; "all": all that is before it, without a blind spot.

    Equation: p(x) = Π_i p(x_i | x_1 … x_{i−1}).  van den Oord et al. 2016, eq. 1 and 2.

    >>> import numpy as np
    >>> shifted = lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]  # the pixel to the left
    >>> check_causal(shifted)
    """
    for name, value, allowed in (
        ("layout", layout, LAYOUTS),
        ("order", order, ("channels in turn", "together")),
        ("sees", sees, tuple(UNSEEN)),
    ):
        if value not in allowed:
            raise ValueError(f"check_causal: {name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    convert = options.get("convert") or (lambda x: x)

    def inputs(draw: Draw, **_: Any) -> dict[str, Any]:
        rng = draw.rng()
        some = lambda: (
            rng.standard_normal((2, *shape)) if levels is None else rng.integers(0, levels, (2, *shape)).astype(float)
        )
        return {"x": some(), "_other": some(), "_seed": int(rng.integers(1000)), "_like": convert}

    below = [kind for kind in RELATIONS if kind.startswith("rows below")]
    leaks = {
        "a mask B in the first layer: each sub-pixel sees itself": ["itself"],
        "the channels in another order: a pixel's earlier channels see later ones": ["later channels of its pixel"],
        "a pixel's channels see themselves and later ones: not masked by channel, or in another order": [
            "itself",
            "later channels of its pixel",
        ],
        "the images turned: columns instead of rows are in order": ["rows below, to the left"],
        "the pixel to the right is let in": ["pixels to the right"],
        "the row is not masked: pixels themselves and those to the right are seen": [
            "itself",
            "later channels of its pixel",
            "pixels to the right",
        ],
        "everything is seen: no mask, or one that lets a pixel below in": [
            kind for kind in RELATIONS if kind != "other images"
        ],
        "the images of a batch see each other": ["other images"],
        "the row below is let in": below,
    }
    if shape[0] == 1:
        leaks = {
            text: [kind for kind in kinds if kind != "later channels of its pixel"] for text, kinds in leaks.items()
        }
    turned = ["pixels to the right", *below]
    seen: dict[tuple[str, ...], str] = {}
    for text, kinds in leaks.items():
        if kinds:
            seen.setdefault(tuple(kinds), text)
    said = lambda given, index, **_: f"a network on images of the shape {shape}"
    Property(
        name="causal",
        equation="p(x) = Π_i p(x_i | x_1 … x_{i−1}): ∂ output_i / ∂ x_j = 0 for j ≥ i",
        source="van den Oord et al. 2016, eq. 1 and 2",
        inputs=inputs,
        truth=_leaks(),
        mistakes={text: _leaks(*kinds) for kinds, text in seen.items()}
        | {
            UNSEEN[sees]: _leaks(past=False),
            "the order turned round: what comes after is seen": _leaks(*turned, past=False),
            "the order turned round, and each sub-pixel sees itself": _leaks("itself", *turned, past=False),
        },
        run=_run_causal,
        describe=said,
        examples=3,
    ).check(
        network,
        "check_causal",
        {"shape": shape, "layout": layout, "levels": levels, "order": order, "sees": sees},
        {"shape": (1, 5, 6), "layout": "NCHW", "levels": None, "order": "channels in turn", "sees": "something"},
        **options,
    )


register(check_causal)
