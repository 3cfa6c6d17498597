"""The engine: what holds of reverse-mode differentiation whatever the operations are."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from helpers import Draw, check_gradients, leaf
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from nanogen import autograd
from nanogen import functional as F
from nanogen.autograd import Tensor, cast, composite, constant, primitive


def network(x, w):
    """Something with products, broadcasting, reductions and a shared subexpression."""
    hidden = F.tanh(x @ w)
    return (F.softmax(hidden, dim=-1) * hidden + hidden.sum(0)).exp() / (1.0 + hidden * hidden)


@given(st.data())
def test_gradient_is_linear_in_the_cotangent(data):
    """vjp(a·u + b·v) = a·vjp(u) + b·vjp(v): the vector-Jacobian product is u ↦ Jᵀu (Griewank & Walther 2008, 3.2)."""
    draw = Draw(data)
    x, w = leaf(draw.array((4, 3))), leaf(draw.array((3, 5)))
    y = network(x, w)
    u, v, (a, b) = draw.array(y.shape), draw.array(y.shape), draw.rng.standard_normal(2)
    together = ng.grad(y, [x, w], a * u + b * v)
    for both, gu, gv in zip(together, ng.grad(y, [x, w], u), ng.grad(y, [x, w], v), strict=True):
        np.testing.assert_allclose(both.data, a * gu.data + b * gv.data, rtol=1e-12, atol=1e-12)


def test_hessian_is_symmetric():
    """∂²f/∂xᵢ∂xⱼ = ∂²f/∂xⱼ∂xᵢ (Schwarz), row by row from gradients of gradients."""
    rng = np.random.default_rng(1)
    x, w = leaf(rng.standard_normal(6)), rng.standard_normal((3, 4))
    (slope,) = ng.grad(network(x.reshape(2, 3), Tensor(w)).sum(), x, create_graph=True)
    hessian = np.array([ng.grad(slope[i], x)[0].data for i in range(6)])
    assert np.abs(hessian - hessian.T).max() < 1e-12
    assert np.abs(hessian).max() > 0.1


def test_third_order():
    """d³/dx³ of x⁵ is 60x², of eˣ is eˣ, of tanh is −2(1 − t²)(1 − 3t²) with t = tanh x."""
    x = leaf(np.linspace(-1.5, 1.5, 7))
    t = np.tanh(x.data)
    for f, expected in (
        (lambda x: x**5, 60 * x.data**2),
        (lambda x: x * x * x * x * x, 60 * x.data**2),
        (F.exp, np.exp(x.data)),
        (F.tanh, -2 * (1 - t**2) * (1 - 3 * t**2)),
    ):
        y = f(x)
        for _ in range(3):
            (y,) = ng.grad(y.sum(), x, create_graph=True)
        np.testing.assert_allclose(y.data, expected, rtol=1e-12, atol=1e-12)
    check_gradients(network, np.random.default_rng(0).standard_normal((2, 3)), np.ones((3, 2)) / 3, order=3)


def test_shared_subexpression_is_visited_once():
    """Doubling sixty times, y ← y + y, has the gradient 2⁶⁰; a walk over paths in place of nodes would not end."""
    x = leaf(np.array([1.0, -2.0]))
    y = x
    for _ in range(60):
        y = y + y
    assert (ng.grad(y.sum(), x)[0].data == 2.0**60).all()


def test_every_rule_runs_once():
    """A node's rule runs once, after all that was made from the node has given its part."""
    seen = []

    @primitive
    def counted(x):
        return 2 * x

    counted.vjp(lambda g, out, x: seen.append(g.data.copy()) or 2.0 * g)
    x = leaf(np.array(3.0))
    y = counted(x)
    (y * y + y + y.exp() * 0.0).backward()
    assert [g.item() for g in seen] == [13.0]
    assert x.grad.item() == 26.0


def test_backward_accumulates():
    """Each backward adds to .grad of the leaves; tensors in between keep none."""
    x, w = leaf(np.array([1.0, 2.0])), leaf(np.array([3.0, 5.0]))
    for times in (1, 2, 3):
        y = x * w
        y.backward(np.array([1.0, 10.0]))
        assert (x.grad.data == times * np.array([3.0, 50.0])).all()
        assert (w.grad.data == times * np.array([1.0, 20.0])).all()
        assert y.grad is None
    scalar = leaf(np.array(2.0))
    for _ in range(2):
        (scalar * 3.0).backward()
    assert not isinstance(scalar.grad.data, np.generic)
    assert scalar.grad.item() == 6.0


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: F.cat([a, b]),
        lambda a, b: F.stack([a, b]),
        lambda a, b: a.reshape(2, 2) + b.reshape(2, 2),
        lambda a, b: (a + b)[::-1] + a,
        lambda a, b: F.where(np.array([True, False, True, False]), a, b),
        lambda a, b: a.sum() + b.sum(),
    ],
)
def test_leaf_gradients_never_share_memory(f):
    """z = a + b hands one cotangent to both; what is done to a.grad in place must not reach b.grad or the cotangent."""
    a, b = leaf(np.arange(4.0)), leaf(np.arange(4.0))
    z = f(a, b)
    g = np.ones(z.shape)
    z.backward(g)
    before = b.grad.data.copy()
    a.grad.data[...] = 99.0
    assert (b.grad.data == before).all()
    assert (g == 1.0).all()
    z.backward(g)
    assert (b.grad.data == 2 * before).all()
    assert (g == 1.0).all()


@given(st.data())
def test_accumulation_in_place_is_never_visible(data):
    """On random graphs of operations that hand their cotangent on (sums, views, copies of parts), the gradients are
    those of the walk that never writes in place, bit for bit, and neither cotangents nor values change."""
    draw = Draw(data)
    leaves = [leaf(draw.array((2, 2), "integer")) for _ in range(2)]
    pool = list(leaves)
    for _ in range(draw.number(2, 9)):
        a, b = draw.pick(pool), draw.pick(pool)
        pool.append(
            draw.pick(
                [
                    lambda a=a, b=b: a + b,
                    lambda a=a, b=b: a - b,
                    lambda a=a: a.transpose(0, 1),
                    lambda a=a: a.reshape(4).reshape(2, 2),
                    lambda a=a: a[::-1],
                    lambda a=a, b=b: F.cat([a, b])[1:3],
                    lambda a=a: a + a,
                    lambda a=a: a.sum(0),
                    lambda a=a: a.to("float64") + a[0],
                    lambda a=a, b=b: F.maximum(a, b),
                ]
            )()
        )
        if pool[-1].shape != (2, 2):
            pool[-1] = F.expand(pool[-1], (2, 2))
    outputs = pool[-3:]
    values = [x.data.copy() for x in pool]
    cotangents = [draw.array(y.shape, "integer") for y in outputs]
    given_before = [c.copy() for c in cotangents]
    plain = ng.grad(outputs, pool, cotangents, allow_unused=True)
    again = ng.grad(outputs, pool, cotangents, allow_unused=True)
    careful = ng.grad(outputs, pool, cotangents, allow_unused=True, create_graph=True)
    for one, two, three in zip(plain, again, careful, strict=True):
        assert (one is None) == (two is None) == (three is None)
        if one is not None:
            assert np.array_equal(one.data, two.data)
            assert np.array_equal(one.data, three.data)
    assert all(np.array_equal(a, b) for a, b in zip(cotangents, given_before, strict=True))
    assert all(np.array_equal(x.data, value) for x, value in zip(pool, values, strict=True))


def test_the_gradient_of_a_part_lies_as_that_of_the_part():
    """Images whose channels are neighbours in memory have gradients of the same layout, also through a slice: in
    another one, each later operation would copy or stride."""
    x = leaf(np.ones((2, 3, 4, 5)))
    g = np.ones((2, 4, 5, 2)).transpose(0, 3, 1, 2)
    (found,) = ng.grad(x[:, 1:], [x], [g])
    assert found.data.transpose(0, 2, 3, 1).flags.c_contiguous
    assert found.data.sum((0, 2, 3)).tolist() == [0.0, 40.0, 40.0]


def test_a_very_deep_graph():
    """A chain of 100,000 operations is differentiated and freed without recursion."""
    x = leaf(np.array(1.0))
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert x.grad.item() == 1.0
    del y


def test_memory_returns_without_the_garbage_collector():
    """No reference cycles: the last name of a graph frees it, also after gradients of gradients and of fused rules."""
    gc.collect()
    gc.disable()
    try:
        x, w, b = leaf(np.ones((2, 4, 3, 3))), leaf(np.ones(4)), leaf(np.zeros(4))
        middle = F.group_norm(x, 2, w, b)
        y = F.silu(middle).sum()
        inputs = [weakref.ref(x), weakref.ref(w), weakref.ref(b)]
        inside = [weakref.ref(middle), weakref.ref(y), weakref.ref(middle.data)]
        first = ng.grad(y, [x, w], create_graph=True)
        second = ng.grad((first[0] ** 2).sum() + first[1].sum(), [x, b])
        y.backward()
        inside += [weakref.ref(t) for t in (*first, *second)]
        del middle, y, first, second
        assert [ref() for ref in inside] == [None] * len(inside)
        del x, w, b
        assert [ref() for ref in inputs] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("reads", [None, "", "a", "b", "out", "a b", "a out", "b out"])
def test_a_graph_holds_what_its_rules_read(reads):
    """The arrays that the rules of a primitive read are there on the way back, and the memory of the others is free as
    soon as nobody else holds them; of the inputs among these there are shapes and types."""

    def rule(g, out, a, b):
        seen.append([(x.shape, x.ndim, x.dtype) for x in (a, b)])
        for name, x in zip(arrays, (a, b, out), strict=True):
            if name in held:
                assert np.array_equal(x.data, numbers[name])
            else:
                with pytest.raises((TypeError, AttributeError)):
                    x + 1.0
        return g

    product = primitive(lambda a, b: a * b)
    product.vjp(rule, rule, reads=reads)
    x, y, seen = leaf(np.arange(3.0)), leaf(np.arange(3.0)), []
    a, b = F.exp(x), F.cat([y, y]).reshape(2, 3)
    out = product(a, b)
    numbers = {"a": a.numpy().copy(), "b": b.numpy().copy(), "out": out.numpy().copy()}
    arrays = {"a": weakref.ref(a.data), "b": weakref.ref(b.data), "out": weakref.ref(out.data)}
    held = list(arrays) if reads is None else reads.split()
    end = out.sum()
    del a, b, out
    assert [name for name, ref in arrays.items() if ref() is not None] == sorted({*held, "a"})  # exp reads what it made
    end.backward()
    assert seen == [[((3,), 1, np.float64), ((2, 3), 2, np.float64)]] * 2
    assert (x.grad.data / np.exp(x.data)).tolist() == [2.0] * 3
    assert y.grad.data.tolist() == [2.0] * 3


def test_a_graph_of_convolutions_holds_one_array_a_layer():
    """x ← relu(x + conv(x)): what ReLU gives is all that a layer's gradient needs of the images; neither the sum nor
    its summand is kept."""

    def held(layers: int) -> int:
        w, b = leaf(np.full((2, 2, 3, 3), 0.1)), leaf(np.ones(2))
        x = Tensor(np.ones((2, 2, 64, 64)))
        tracemalloc.start()
        for _ in range(layers):
            x = F.relu(x + F.conv2d(x, w, b, padding=1))
        found = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return found

    held(1)  # what Python makes once
    image_bytes = 2 * 2 * 64 * 64 * 8
    assert 0.9 < (held(8) - held(3)) / (5 * image_bytes) < 1.5


def test_gradients_are_freed_as_soon_as_they_are_used():
    """On the way back through a chain no gradient but the one at hand is alive: memory does not grow with depth."""
    seen, alive = [], []

    @primitive
    def probe(x):
        return x.copy()

    def rule(g, out, x):
        alive.append(sum(ref() is not None for ref in seen))
        seen.append(weakref.ref(g))
        return g * 2.0

    probe.vjp(rule)
    x = leaf(np.ones(3))
    y = x
    for _ in range(10):
        y = probe(y)
    y.sum().backward()
    assert alive == [0] * 10
    assert x.grad.data.tolist() == [1024.0] * 3


def test_gradients_are_added_up_in_place_and_handed_over():
    """A rule finds the very cotangent that was given; what it makes belongs to nobody else, so later parts are added
    into it, and it is what `grad` returns and `backward` leaves: no array but those that the rules made."""
    seen, made = [], []

    @primitive
    def double(x):
        return 2.0 * x

    def rule(g, out, x):
        result = g * 2.0
        seen.append(g.data)
        made.append(result.data)
        return result

    double.vjp(rule)
    x, u = leaf(np.ones(3)), Tensor(np.array([1.0, 2.0, 4.0]))
    for found in (
        lambda: ng.grad([double(x), double(x), double(x)], x, [u, u, u])[0],
        lambda: (double(x).backward(u), x.grad)[1],
    ):
        seen.clear(), made.clear()
        g = found()
        assert g.data is made[0]
        assert all(each is u.data for each in seen)
        assert g.data.tolist() == [2.0 * len(made) * n for n in (1.0, 2.0, 4.0)]


@pytest.mark.parametrize("given", ["float32", "float64", "int64"])
def test_a_cotangent_takes_the_type_of_its_output(given):
    """Rules compute in the type of the output, whatever the type of the cotangent that a caller has."""
    seen = []

    @primitive
    def double(x):
        return 2 * x

    double.vjp(lambda g, out, x: seen.append(g.dtype) or 2.0 * g)
    x, u = leaf(np.ones(3, np.float32)), np.array([1, 2, 4], given)
    (g,) = ng.grad(double(x), x, u)
    double(x).backward(u)
    assert seen == [np.float32] * 2
    assert g.data.tolist() == x.grad.data.tolist() == [2.0, 4.0, 8.0]


@pytest.mark.parametrize("kind", ["primitive", "composite"])
def test_a_kernel_hears_what_is_wanted(kind):
    """A kernel's gradient is told which inputs' gradients are wanted and may answer None.  It is used wherever no graph
    of the gradient is asked for, and by `backward`; otherwise the plain form is differentiated."""
    heard = []
    if kind == "primitive":

        @primitive
        def square(x, unused):
            return x * x

        square.vjp(lambda g, out, x, unused: 2.0 * g * x, None)
    else:

        @composite
        def square(x, unused):
            return x * x

    @square.kernel("cpu")
    class _:
        def forward(x, unused):
            return x * x, x.copy()

        def gradient(g, saved, x, unused, *, wanted):
            assert saved is not x
            heard.append(list(wanted))
            return [2.0 * g * saved, None]

    x, w = leaf(np.array([3.0])), leaf(np.array([5.0]))
    slope, none = ng.grad(square(x, w), [x, w], allow_unused=True)
    assert (slope.item(), none) == (6.0, None)
    assert ng.grad(square(x, 5.0), x)[0].item() == 6.0
    square(x, 5.0).backward()
    assert heard == [[True, True], [True, False], [True, False]]
    slope, none = ng.grad(square(x, w), [x, w], create_graph=True, allow_unused=True)
    assert (slope.item(), none) == (6.0, None)
    assert ng.grad(slope, x)[0].item() == 2.0
    assert len(heard) == 3


def test_a_kernel_may_decline():
    """Where a kernel returns NotImplemented the plain form runs, in value and in gradient.  A kernel of another device
    is not asked."""
    asked = []

    @primitive
    def double(x):
        return 2 * x

    double.vjp(lambda g, out, x: 2.0 * g)
    halve = composite(lambda x: 0.5 * x)

    def decline(*inputs):
        asked.append(len(inputs))
        return NotImplemented

    for operation in (double, halve):
        operation.kernel("cpu")(type("kernel", (), {"forward": decline, "gradient": None}))
        operation.kernel("cuda")(lambda x: pytest.fail("another device's kernel"))
    x = leaf(np.array([3.0]))
    y = halve(double(x)) + double(x)
    assert (y.item(), ng.grad(y, x)[0].item()) == (9.0, 3.0)
    assert len(asked) == 3


def test_as_many_gradients_as_inputs():
    """A primitive with fewer or more rules than inputs, or a kernel's gradient with fewer answers, is refused, not cut
    short."""

    @primitive
    def first(a, b):
        return a + 0.0 * b

    first.vjp(lambda g, out, a, b: g)

    second = composite(lambda a, b: a + b)

    @second.kernel("cpu")
    class _:
        def forward(a, b):
            return a + b, None

        def gradient(g, saved, a, b, *, wanted):
            return [g]

    @primitive
    def third(a, b):
        return a + b

    third.vjp(*[lambda g, out, a, b: g] * 3)
    x, w = leaf(np.ones(1)), leaf(np.ones(1))
    for f, problem in (
        (first, "first.vjp gives gradient rules for 1 of 2 inputs"), (second, "zip"), (third, "third.* 3 of 2"),
        (primitive(lambda a, b: a + b), " 0 of 2"), (primitive(lambda *all: sum(all)), " 0 of 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            ng.grad(f(x, w), [x, w])


@pytest.mark.parametrize("use", {
    "product": lambda g, x: g * x, "negative": lambda g, x: g - x, "comparison": lambda g, x: F.where(x == 0, g, g),
    "condition": lambda g, x: F.where(x, g, g), "sum": lambda g, x: g * x.sum(), "index": lambda g, x: g * x[0],
    "truth": lambda g, x: g * bool(x.data),
    "power": lambda g, x: g * x**2, "exponential": lambda g, x: g * F.exp(x), "numbers": lambda g, x: g * x.numpy(),
}.items(), ids=lambda item: item[0])  # fmt: skip
@pytest.mark.parametrize("name", ["a", "b", "out"])
def test_a_rule_that_reads_what_it_does_not_name(name, use):
    """However it does that, an error names the operation, and the arrays that the rules must not read."""

    @primitive
    def product(a, b):
        return a * b

    given = lambda out, a, b: {"a": a, "b": b, "out": out}[name]
    rule = lambda g, out, a, b: use[1](g, given(out, a, b))
    product.vjp(rule, rule, reads=" ".join({"a", "b", "out"} - {name}))
    x = leaf(np.ones(3))
    with pytest.raises(TypeError, match=rf"^product: a gradient rule fails; `reads` leaves out \['{name}'\]: "):
        product(x, x).sum().backward()


@pytest.mark.parametrize("left", ["float32", "float64"])
@pytest.mark.parametrize("right", ["float32", "float64"])
def test_gradient_has_the_shape_and_type_of_its_input(left, right):
    """x (2, 1) of one type against w (3,) of another: each gradient comes back in its own input's shape and type."""
    x, w = leaf(np.ones((2, 1), left)), leaf(np.full(3, 2.0, right))
    for y in (x * w, x + w, x / w, F.maximum(x, w), F.where(np.array([True, False, True]), x, w)):
        assert y.dtype == np.result_type(x.dtype, w.dtype)
        for create_graph in (False, True):
            gx, gw = ng.grad(y.sum(), [x, w], create_graph=create_graph)
            assert (gx.shape, gx.dtype) == (x.shape, x.dtype)
            assert (gw.shape, gw.dtype) == (w.shape, w.dtype)
    (g,) = ng.grad((x.to("float64") ** 2).sum(), x)
    assert g.dtype == x.dtype


@pytest.mark.parametrize("value", [2, 2.5, np.float64(2.5), np.int64(2)])
@pytest.mark.parametrize("shape", [(), (3,), (0,)])
def test_numbers_keep_the_type(value, shape):
    """x ∘ number has the type of x, on either side: NumPy's own scalars must not turn float32 into float64."""
    x = leaf(np.ones(shape, np.float32))
    results = [
        x + value,
        value + x,
        x - value,
        value - x,
        x * value,
        value * x,
        x / value,
        value / x,
        x**value,
        value**x,
    ]
    results += [
        F.maximum(x, value),
        F.clip(x, value, value),
        F.where(x > value, x, value),
        F.pad(x, (1, 1)[: 2 * x.ndim]),
    ]
    for y in results:
        assert y.dtype == np.float32
        assert not isinstance(y.data, np.generic)
        (g,) = ng.grad(y.sum(), x)
        assert g.dtype == np.float32


def test_integers_stay_integers():
    """No operation silently changes the type it was given; comparisons give bools, which have no gradient."""
    x = ng.tensor([1, 2, 3])
    assert (x + 1).dtype.kind == "i"
    assert (x * x).sum().dtype.kind == "i"
    assert (x > 1).dtype == bool
    assert not (leaf(np.ones(2)) > 0.0).requires_grad
    assert not isinstance((ng.tensor(1.0) > 0.0).data, np.generic)


@pytest.mark.parametrize(
    ("value", "beside", "expected"),
    [
        (2, "uint8", "uint8"),
        (np.int64(2), "int32", "int32"),
        (True, "int32", "int32"),
        (2.5, "int32", "float64"),
        (np.float32(2.5), "int32", "float32"),
        (2, "bool", "int64"),
        (2, "float32", "float32"),
        (np.float64(2.5), "float32", "float32"),
    ],
)
def test_a_number_takes_the_type_beside_it(value, beside, expected):
    """Beside floats a number is one of them, beside integers an integer is; anything else would change its value and
    stays what it is.  Of several the first with floats counts, and alone a number has its own type."""
    array = np.ones(3, beside)
    for others in ([Tensor(array)], [array], [value, array], [Tensor(array), Tensor(np.ones(1, bool))]):
        x = constant(value, others)
        assert x.dtype == expected
        assert x.item() == value
    halves = Tensor(np.ones(2, np.float16))
    assert constant(value, [Tensor(array), halves]).dtype == ("float32" if beside == "float32" else "float16")
    assert constant(value).dtype == np.asarray(value).dtype
    labels = np.arange(3)
    for others in ([], [Tensor(array)]):
        assert constant(labels, others).data.tolist() == constant([0, 1, 2], others).data.tolist() == [0, 1, 2]


def test_asking_for_gradients_again_changes_nothing():
    """A leaf that requires gradients keeps its place in the graphs that it is in, and what has accumulated in it, when
    it is told so once more; a result stays the result that it is.  Told that it does not, it has neither any more."""
    x = leaf(np.array([2.0, 3.0]))
    y = (x * x).sum()
    y.backward()
    x.requires_grad = True
    assert x.grad.data.tolist() == [4.0, 6.0]
    z = x * x
    z.requires_grad = x.requires_grad = True
    z.sum().backward()
    assert x.grad.data.tolist() == [8.0, 12.0]
    x.requires_grad = False
    assert x.grad is None
    assert not (x * 2.0).requires_grad
    x.requires_grad = True
    (x * 5.0).sum().backward()
    assert x.grad.data.tolist() == [5.0, 5.0]


def test_only_what_is_differentiable_has_a_place_in_the_graph():
    """What depends on nothing that requires gradients has none, and neither have integers made of what does."""
    x = leaf(np.array([1.5, 2.5]))
    assert (x * 2.0).requires_grad
    assert not (x.detach() * 2.0).requires_grad
    assert not F.exp(ng.tensor([1.0])).requires_grad
    assert not x.to("int64").requires_grad
    assert x.to("int64").to("float64").data.tolist() == [1.0, 2.0]


def test_no_grad_is_local_to_a_thread():
    """Switching recording off in one thread leaves the others recording (contextvars)."""
    x, entered, leave, recorded = leaf(np.ones(2)), threading.Event(), threading.Event(), []

    def other():
        with ng.no_grad():
            entered.set()
            leave.wait(10)
            recorded.append((x * 2.0).requires_grad)
        recorded.append((x * 2.0).requires_grad)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    assert (x * 2.0).requires_grad
    with ng.no_grad():
        assert not (x * 2.0).requires_grad
        fresh = []
        inner = threading.Thread(target=lambda: fresh.append((x * 2.0).requires_grad))
        inner.start()
        inner.join()
        assert fresh == [True]
    leave.set()
    thread.join()
    assert recorded == [False, True]


def test_no_grad_ends_with_its_block():
    """Recording comes back after an exception, and after the inner of two blocks stays off."""
    x = leaf(np.ones(2))
    with pytest.raises(KeyError), ng.no_grad():
        raise KeyError
    assert (x * 2.0).requires_grad
    with ng.no_grad():
        with ng.no_grad():
            pass
        assert not (x * 2.0).requires_grad

    @ng.no_grad()
    def quiet(x):
        return x * 2.0

    assert not quiet(x).requires_grad
    assert not x.detach().requires_grad
    assert x.detach().data is x.data


def test_gradients_can_be_asked_for_again():
    """The graph survives a backward pass: a second one gives the same bits, also after one that kept a graph."""
    x, w = leaf(np.random.default_rng(0).standard_normal((2, 3))), leaf(np.ones((3, 4)))
    y = network(x, w).sum()
    first = ng.grad(y, [x, w])
    kept = ng.grad(y, [x, w], create_graph=True)
    for found in (ng.grad(y, [x, w]), kept, ng.grad(y, [x, w])):
        assert all(np.array_equal(a.data, b.data) for a, b in zip(first, found, strict=True))
    assert not any(g.requires_grad for g in first)
    assert all(g.requires_grad for g in kept)


def test_gradients_of_several_outputs_and_of_tensors_in_between():
    """grad sums over its outputs, takes any tensor of the graph as an input, and gives None only where allowed."""
    x, unused = leaf(np.array(2.0)), leaf(np.array(1.0))
    y = x * x
    z = y * x
    gx, gy, none = ng.grad([z, y], [x, y, unused], allow_unused=True)
    assert gx.item() == 3 * 4.0 + 4.0
    assert gy.item() == 2.0 + 1.0
    assert none is None
    assert ng.grad(z, z)[0].item() == 1.0
    (same,) = ng.grad(y, x, grad_outputs=3.0)
    assert same.item() == 12.0


def test_gradient_stops_at_what_has_none():
    """Through sign the gradient is 0; through a condition, a comparison or detach there is none."""
    x = leaf(np.array([1.0, -2.0]))
    F.sign(x).sum().backward()
    assert (x.grad.data == 0.0).all()
    condition = leaf(np.array([1.0, 0.0]))
    (F.where(condition, x, 0.0) * x.detach()).sum().backward()
    assert (x.grad.data == [1.0, 0.0]).all()
    assert condition.grad is None


ERRORS = {
    "gradient may be left out only": (ValueError, lambda x: (x * 2.0).backward()),
    "grad_outputs may be left out only": (ValueError, lambda x: ng.grad(x * 2.0, x)),
    r"inputs\[1\] is not used": (ValueError, lambda x: ng.grad(x.sum(), [x, leaf(np.ones(2))])),
    r"inputs\[0\] does not require": (ValueError, lambda x: ng.grad(x.sum(), ng.tensor([1.0]))),
    r"outputs\[0\] does not depend": (ValueError, lambda x: ng.grad(ng.tensor(1.0), x)),
    "gradient must have the output's shape": (ValueError, lambda x: (x * 2.0).backward(np.ones(2))),
    "grad_outputs must have the output's shape": (ValueError, lambda x: ng.grad(x * 2.0, x, np.ones((1, 3)))),
    "grad_outputs must be one an output": (ValueError, lambda x: ng.grad([x, x], x, [np.ones(3)])),
    "backward: this tensor does not depend": (ValueError, lambda x: ng.tensor(1.0).backward()),
    "only floating-point tensors can require gradients": (TypeError, lambda x: ng.tensor([1, 2], requires_grad=True)),
    "data must be real numbers": (TypeError, lambda x: ng.tensor(["a"])),
    "a tensor that does not require gradients has no grad": (ValueError, lambda x: setattr(ng.tensor(1.0), "grad", x)),
    "device must be one of": (ValueError, lambda x: ng.tensor(1.0, device="tpu")),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_argument(message):
    """Each mistake raises ValueError or TypeError with the argument's name, and leaves no gradient behind."""
    expected, mistake = ERRORS[message]
    x = leaf(np.ones(3))
    with pytest.raises(expected, match=f"^{message}"):
        mistake(x)
    assert x.grad is None


def test_tensor_copies_and_keeps_the_type():
    """ng.tensor copies what it is given; a list of floats is float64, an array keeps its type."""
    array = np.ones(3, np.float32)
    x = ng.tensor(array)
    array[0] = 5.0
    assert x.data[0] == 1.0
    assert x.dtype == np.float32
    assert ng.tensor([1.0]).dtype == np.float64
    assert ng.tensor(ng.tensor([1.0])).shape == (1,)
    assert ng.tensor([1.0], dtype="float32").dtype == np.float32
    assert constant(x) is x
    assert float(ng.tensor(2.0)) == 2.0
    assert int(ng.tensor(2)) == 2
    assert bool(ng.tensor(True))
    assert len(ng.tensor([1, 2])) == 2
    assert np.asarray(x).dtype == np.float32
    assert "requires_grad=True" in repr(leaf(np.ones(1)))
    assert cast(x, dtype=np.dtype("float64")).dtype == np.float64


# What a tensor is besides a place in the graph


def test_to_another_type_and_back():
    """`to` gives a tensor of the type asked for, itself if it has that type, and passes gradients on in the old one."""
    x = leaf(np.array([1.5, -2.0, 0.25], np.float32))
    assert x.to(np.float32) is x
    assert x.to("float32") is x
    wide = x.to(np.float64)
    assert wide.dtype == np.float64
    assert np.array_equal(wide.data, x.data)
    (g,) = ng.grad((wide * wide).sum(), [x])
    assert g.dtype == np.float32
    assert np.array_equal(g.data, 2 * x.data)
    assert ng.tensor([1, 2]).to("float32").dtype == np.float32


def test_to_the_device_it_is_on():
    """`to("cpu")` of what lies there is the tensor itself; a device that does not exist is no type either."""
    x = leaf(np.ones(2))
    assert x.to("cpu") is x
    assert x.device == "cpu"
    for name in ("CPU", "gpu"):
        with pytest.raises(TypeError):
            x.to(name)
    if "cupy" not in sys.modules:
        with pytest.raises(RuntimeError, match=r"^device 'cuda' needs"):
            x.to("cuda")


def test_a_gradient_can_be_read_and_put_there():
    """.grad is None before, what was put there after, and None for a tensor that has no place for one."""
    x, g = leaf(np.ones(2)), ng.tensor([3.0, 4.0])
    assert x.grad is None
    assert ng.tensor([1.0]).grad is None
    x.grad = g
    assert x.grad is g
    (x * 2.0).sum().backward()
    assert x.grad.data.tolist() == [5.0, 6.0]
    assert g.data.tolist() == [3.0, 4.0]


def test_one_tensor_at_two_places_of_a_fused_operation():
    """Where w is weight and bias at once, each place has its own gradient, and w their sum; at any order."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4, 3)), rng.standard_normal(4)
    check_gradients(lambda x, w: F.group_norm(x, 2, w, w), x, w, order=3)
    x = Tensor(x)
    apart = ng.grad(F.group_norm(x, 2, a := leaf(w), b := leaf(w)), [a, b], np.ones((2, 4, 3)), create_graph=True)
    (together,) = ng.grad(F.group_norm(x, 2, c := leaf(w), c), [c], np.ones((2, 4, 3)), create_graph=True)
    np.testing.assert_allclose(together.data, apart[0].data + apart[1].data, rtol=1e-12)


def test_a_tensor_as_an_array():
    """NumPy sees the numbers: without a copy where it may, with one where it must, in the type asked for."""
    x = ng.tensor([1.0, 2.5])
    assert np.shares_memory(np.asarray(x), x.data)
    assert not np.shares_memory(np.array(x), x.data)
    assert np.shares_memory(x.numpy(), x.data)
    assert x.__array__(np.float32).dtype == np.float32
    assert np.asarray(x, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.array(x, dtype=np.float32, copy=False)
    assert (len(x), float(x[1]), int(x[1]), bool(x[0])) == (2, 2.5, 2, True)


def test_a_number_is_formatted_as_one():
    """f"{loss:.2f}" is that of the number; of several, as of arrays, there is no such format."""
    assert f"{leaf(np.array(1.25)):.1f}" == "1.2"
    assert f"{ng.tensor(3):>4d}" == "   3"
    assert f"{leaf(np.array([1.0]))}" == "tensor(array([1.]), requires_grad=True)"
    with pytest.raises(TypeError, match="format"):
        f"{leaf(np.ones(2)):.2f}"


@pytest.mark.parametrize("wrong", [1j, np.complex64(1), np.ones(2, complex), "1", None, [1j]])
def test_what_is_no_real_number_is_refused(wrong):
    """In arithmetic as in `tensor`: not a tensor of complex numbers or objects."""
    for compute in (lambda x: x + wrong, lambda x: wrong * x, lambda x: F.where(x > 0, x, wrong), lambda x: x / wrong):
        with pytest.raises(TypeError):
            compute(ng.tensor([1.0, 2.0]))


def test_a_tensor_says_what_it_is():
    """repr shows the numbers, and requires_grad only where it is so."""
    assert repr(ng.tensor([1.0])) == "tensor(array([1.]))"
    assert repr(ng.tensor([1.0], requires_grad=True)) == "tensor(array([1.]), requires_grad=True)"


def test_tensors_are_made_of_numbers():
    """Arrays, tensors, lists, numbers and bools; not text and not objects.  A tensor of a tensor is a copy."""
    x = ng.tensor([1.0, 2.0])
    y = ng.tensor(x)
    assert not np.shares_memory(x.data, y.data)
    assert ng.tensor([True, False]).dtype == bool
    assert ng.tensor(np.arange(3, dtype=np.uint8)).dtype == np.uint8
    assert ng.tensor([1.0], dtype=np.float32).dtype == np.float32
    on_host = ng.tensor([1.0], device="cpu")
    assert (on_host.device, on_host.data.tolist()) == ("cpu", [1.0])
    for wrong in ("text", [None], [1j]):
        with pytest.raises(TypeError, match=r"^data must be real numbers"):
            ng.tensor(wrong)


def changed_by_a_step(w):
    optimizer = ng.optim.SGD([w], lr=1.0)
    w.grad = Tensor(np.full(w.shape, 0.0))
    optimizer.step()  # w moves into the optimiser's own memory
    w.grad = Tensor(np.full(w.shape, 2.0))
    return optimizer.step


def changed_by_averages(w):
    average = ng.optim.ExponentialMovingAverage([w])
    average.averages[0][...] = 7.0
    return average.swap


class Holder(ng.nn.Module):
    def __init__(self, w):
        super().__init__()
        self.w = w


def given_another_array(w):
    w.data = w.data + 1.0


LATER = {
    "step": changed_by_a_step,
    "averages": changed_by_averages,
    "load_state_dict": lambda w: lambda: Holder(w).load_state_dict({"w": w.data + 1.0}),
    "another array": lambda w: lambda: given_another_array(w),
}
READS_W = {
    "w w": lambda w, x: w * w,
    "a transposed view": lambda w, x: x @ w.transpose(0, 1),
    "a part": lambda w, x: w[1:] ** 3,
    "linear": lambda w, x: F.linear(x, w),
    "conv2d": lambda w, x: F.conv2d(x.reshape(1, 1, *x.shape), w.reshape(1, 1, *w.shape)),
    "exp of a view": lambda w, x: F.log(w.reshape(-1)),
    "w²": lambda w, x: (w + 0.0) * w,
}


@pytest.mark.parametrize("read", READS_W)
@pytest.mark.parametrize("change", LATER)
@pytest.mark.parametrize("order", [1, 2])
def test_what_changes_between_forward_and_backward(change, read, order):
    """The gradient is that at the numbers of the forward pass, or the operation is named and there is none: an update
    in place may not give a gradient of half old, half new numbers."""
    rng = np.random.default_rng(0)
    w, x = ng.nn.Parameter(rng.uniform(1, 2, (3, 4))), Tensor(rng.standard_normal((3, 4)))
    later = LATER[change](w)
    f = READS_W[read]
    expected = ng.grad((f(w, x) ** 2).sum(), w, create_graph=True)[0]
    expected = expected if order == 1 else ng.grad((expected**2).sum(), w)[0]
    expected = expected.data.copy()
    loss = (f(w, x) ** 2).sum()
    if order == 2:
        loss = (ng.grad(loss, w, create_graph=True)[0] ** 2).sum()
    later()
    if change in ("step", "averages"):
        with pytest.raises(RuntimeError, match=r"^[a-z_]+: an array of shape \(.*\) was changed in place"):
            ng.grad(loss, w)
    else:
        np.testing.assert_allclose(ng.grad(loss, w)[0].data, expected, rtol=1e-12)


def test_what_was_changed_before_or_beside_is_no_matter():
    """A step that is over, and a step of other parameters of the same optimiser: the gradient is right."""
    a, b = leaf(np.array([3.0])), leaf(np.array([5.0]))
    optimizer = ng.optim.SGD([a, b], lr=1.0)
    for p in (a, b):
        p.grad = Tensor(np.ones(1))
    optimizer.step()
    loss = (a * a).sum()
    b.grad, a.grad = Tensor(np.ones(1)), None
    optimizer.step()
    loss.backward()
    assert (a.grad.item(), a.item(), b.item()) == (4.0, 2.0, 3.0)
    a.grad = Tensor(np.ones(1))
    del loss
    optimizer.step()
    (a * a).sum().backward()
    assert a.grad.item() == 1.0 + 2.0 * a.item()


def test_an_adversarial_step_in_the_wrong_order():
    """G's forward pass, D's step, G's backward pass: G's gradient would go through the new D, and is refused."""
    g, d = ng.nn.Linear(2, 3), ng.nn.Linear(3, 1)
    step_d, x = ng.optim.SGD(d.parameters(), lr=0.1), Tensor(np.ones((4, 2), np.float32))
    for late in (False, True):
        loss_g = d(g(x)).sum()
        if not late:
            loss_g.backward()
        step_d.zero_grad()
        d(g(x).detach()).sum().backward()
        step_d.step()
        if late:
            with pytest.raises(RuntimeError, match=r"(affine|matrix_product): .* changed in place"):
                loss_g.backward()


def test_buffers_that_move_after_they_were_read():
    """A batch norm's running moments move in a forward pass; an operation that read them says so."""
    norm, x = ng.nn.BatchNorm2d(2), leaf(np.ones((2, 2, 1, 1), np.float32))
    before = (x.reshape(2, 2) * norm.running_mean).sum()
    norm(Tensor(np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)))
    with pytest.raises(RuntimeError, match=r"multiply: .* changed in place"):
        before.backward()
    norm(x).sum().backward()  # which reads its own batch's


def test_notes_of_changes_go_with_the_arrays():
    """What is kept of changes in place does not outlive the arrays; those of one owner go one by one."""
    before = len(autograd.changes.by_owner)
    for _ in range(3):
        w = ng.nn.Parameter(np.ones(3))
        changed_by_a_step(w)()
    whole = leaf(np.zeros(4)).data
    parts = [whole[:2], whole[2:]]
    for part in parts:
        autograd.changes.note(part)
    x = Tensor(parts[1])
    x.requires_grad = True
    loss = (x**2).sum()
    assert len(autograd.changes.by_owner) > before
    del w, part
    parts.pop(0)
    autograd.changes.note(parts[0])
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    del loss, parts, whole, x
    assert len(autograd.changes.by_owner) == before


def test_backward_as_in_torch():
    """Gradients add up; with create_graph the gradient can be differentiated; retain_graph is taken as it is; `inputs`
    of backward is refused, as is only_inputs=False of grad."""
    x, y = leaf(np.array(2.0)), leaf(np.array(3.0))
    z = (x * y) ** 2
    z.backward(retain_graph=True)
    z.backward(None, False, False, None)
    assert (x.grad.item(), y.grad.item()) == (2 * 36, 2 * 24)
    x.grad = None
    (x**3).backward(create_graph=True)
    assert ng.grad(x.grad, x)[0].item() == 12.0
    (x**3).backward()
    assert (x.grad.item(), x.grad.requires_grad) == (24.0, False)
    assert ng.grad(x * y, [x], None, True, False, True)[0].item() == 3.0
    with pytest.raises(ValueError, match="only_inputs"):
        ng.grad(x * y, [x], only_inputs=False)
    with pytest.raises(ValueError, match="inputs"):
        (x * y).backward(inputs=[x])
    with pytest.raises(ValueError, match=r"inputs\[1\]"):
        ng.grad(x * y, [x, Tensor(np.ones(()))])


def test_gradients_of_backward_have_no_graph():
    """What `backward` leaves in `.grad` is a constant; what `grad` gives is one unless create_graph is asked for."""
    x = leaf(np.array([2.0]))
    (x**3).sum().backward()
    assert not x.grad.requires_grad
    assert not ng.grad((x**3).sum(), [x])[0].requires_grad
    assert ng.grad((x**3).sum(), [x], create_graph=True)[0].requires_grad


def test_parameters_by_position_and_by_name():
    """What a primitive takes after its tensors may be passed by position or by name; what it lacks is refused."""
    x = leaf(np.arange(6.0).reshape(2, 3))
    assert np.array_equal(F.sum(x, 1, True).data, F.sum(x, dim=1, keepdim=True).data)
    assert np.array_equal(F.sum(input=x, dim=0).data, x.data.sum(0))
    with pytest.raises(TypeError, match="argument"):
        F.sum(x, 1, True, 3)
    with pytest.raises(TypeError, match="missing"):
        F.multiply(x)


# Gradients against differences


def scaled_rule(*factors):
    """A product whose gradients are so many times what they should be."""
    product = primitive(lambda a, b: a * b)
    product.vjp(lambda g, out, a, b: g * b * factors[0], lambda g, out, a, b: g * a * factors[1])
    return product


def test_gradcheck():
    """A right gradient passes; one that is wrong in an input, by more than is allowed, is told by that input, as is one
    that is missing or no number; inputs without gradients are left alone."""
    rng = np.random.default_rng(0)
    a, b, c = leaf(rng.standard_normal((2, 3))), leaf(rng.standard_normal(3)), ng.tensor(rng.standard_normal((2, 3)))
    check = ng.autograd.gradcheck
    assert check(scaled_rule(1, 1), [a, b]) is True
    assert check(lambda a, b, c: (F.tanh(a @ c.T), b.exp()), (a, b, c))
    assert check(F.exp, a)
    assert check(scaled_rule(1 + 1e-5, 1), [a, b])
    assert check(scaled_rule(1, 5), [a, c]), "c requires no gradient"
    for wrong, where in ((scaled_rule(1 + 1e-2, 1), 0), (scaled_rule(1, -1), 1), (scaled_rule(1, np.nan), 1),
                         (lambda a, b: a * b.detach(), 1), (lambda a, b: (a * 2, b.detach()), 1)):  # fmt: skip
        with pytest.raises(RuntimeError, match=rf"gradcheck: the derivative in inputs\[{where}\]"):
            check(wrong, [a, b])
        assert check(wrong, [a, b], raise_exception=False) is False
    assert check(scaled_rule(1 + 1e-2, 1), [a, b], rtol=0.1)
    assert check(scaled_rule(1 + 1e-2, 1), [a, b], atol=1.0, rtol=0)
    assert check(lambda x: x**2, a, eps=0.5), "exact for polynomials of degree 2"
    assert not check(lambda x: x**3, a, eps=0.5, raise_exception=False), "differences so far apart are others"
    for few in ([c], [leaf(np.ones(2, np.float32))], [a, leaf(np.ones((2, 3), np.float32))]):
        with pytest.raises(ValueError, match="float64"):
            check(lambda *xs: xs[0] * 1.0, few)
    assert [a.grad, b.grad] == [None, None]
