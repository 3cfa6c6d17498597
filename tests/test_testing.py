"""`nanogen.testing`: functions of torch pass, harmless rewrites pass, bad use is told apart."""

from __future__ import annotations

import doctest
import inspect
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import nanogen as ng
from nanogen import testing
from nanogen.testing import PropertyError, UsageError, blind_spot, check_all, check_normal_kl, checks_for
from nanogen.testing.property import CHECKERS

D = ng.distributions


def right_kl(m1: Any, v1: Any, m2: Any, v2: Any) -> Any:
    return 0.5 * (v1 / v2 + (m1 - m2) ** 2 / v2 - 1 + np.log(v2 / v1))


def torch_batch_norm(x: Any, mean: Any, var: Any, w: Any, b: Any, training: bool) -> Any:
    mean, var = mean.clone(), var.clone()
    return TF.batch_norm(x, mean, var, w, b, training), mean, var


def torch_kl(m: Any, s: Any, n: Any, t: Any) -> Any:
    return torch.distributions.kl_divergence(torch.distributions.Normal(m, s), torch.distributions.Normal(n, t))


FULL = {"takes": "bias stride padding dilation groups", "pairs": True}
TRANSPOSED = {"takes": "bias stride padding output_padding groups dilation", "pairs": True}
# (checker, its conventions, torch's function)
RIGHT: list[tuple[str, dict[str, Any], Callable[..., Any]]] = [
    ("normal_kl", {}, torch_kl),
    ("categorical_kl", {}, lambda q, p: TF.kl_div(TF.log_softmax(p, -1), TF.softmax(q, -1), reduction="none").sum(-1)),
    ("conv2d", FULL, TF.conv2d),
    ("conv_transpose2d", TRANSPOSED, TF.conv_transpose2d),
    ("max_pool2d", {"pairs": True}, TF.max_pool2d),
    ("avg_pool2d", {"pairs": True}, TF.avg_pool2d),
    ("linear", {}, TF.linear),
    ("layer_norm", {}, lambda x, w, b: TF.layer_norm(x, w.shape, w, b)),
    ("group_norm", {}, TF.group_norm),
    ("batch_norm", {}, torch_batch_norm),
    ("softmax", {}, lambda x: torch.softmax(x, -1)),
    ("softmax", {"log": True, "axis": 1}, lambda x: torch.log_softmax(x, 1)),
    ("logsumexp", {}, lambda x: torch.logsumexp(x, -1)),
    ("cross_entropy", {}, TF.cross_entropy),
    ("binary_cross_entropy", {}, TF.binary_cross_entropy_with_logits),
    ("attention", {}, TF.scaled_dot_product_attention),
    ("attention", {"mask": "causal"}, lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, is_causal=True)),
    ("attention", {"mask": "keep"}, TF.scaled_dot_product_attention),
]


@pytest.mark.parametrize("right", RIGHT, ids=[f"{row[0]}{' ' * bool(row[1])}{' '.join(row[1])}" for row in RIGHT])
def test_functions_of_torch_pass(right: Any) -> None:
    """In double and in single precision."""
    name, conventions, function = right
    CHECKERS[f"check_{name}"](function, convert=torch.from_numpy, **conventions)
    CHECKERS[f"check_{name}"](function, convert=torch.from_numpy, dtype="float32", examples=15, **conventions)


def test_a_wrong_sampler_is_refused() -> None:
    with pytest.raises(PropertyError, match="of the draws are"):
        testing.check_sampler(lambda n: np.random.default_rng(0).binomial(1, 0.5, n), probabilities=[0.46, 0.54])


def test_wrong_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.trial, "SHRINKING", 0.0)
    f = lambda x, w: np.tanh(x @ w)

    def gradient(x: Any, w: Any, c: Any) -> tuple[Any, Any]:
        slope = c * (1 - np.tanh(x @ w) ** 2)
        return slope @ w.T, x.T @ slope

    wrong = {
        "twice the gradient of argument 2": lambda *a: (gradient(*a)[0], 2 * gradient(*a)[1]),
        "the sign turned round": lambda *a: tuple(-g for g in gradient(*a)),
        "the gradient of argument 1 is 0": lambda *a: (0 * a[0], gradient(*a)[1]),
        "c ignored: the gradient of the sum of the outputs": lambda x, w, c: gradient(x, w, np.ones_like(c)),
        "the gradient of argument 2 transposed": lambda *a: (gradient(*a)[0], gradient(*a)[1].T),
    }
    for text, function in wrong.items():
        with pytest.raises(PropertyError) as caught:
            testing.check_gradients(f, function, [("n", "d"), ("d", "k")])
        assert caught.value.looks_like == (text,)


def test_causal_networks() -> None:
    """Masks of the wrong kind are told apart, and the blind spot is counted."""

    def masked(mask: Any, x: Any) -> Any:
        weight = np.random.default_rng(0).standard_normal((x.shape[1], x.shape[1], 3, 3)) * mask
        return TF.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=1).numpy()

    b = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    a = b - np.eye(3, dtype=int) * np.eye(3, dtype=int)[1]
    wrong = {
        "a mask B in the first layer: each sub-pixel sees itself": (lambda x: masked(b, np.tanh(masked(b, x))), 1),
        "the images turned: columns instead of rows are in order": (lambda x: masked(a.T, x), 1),
        "everything is seen: no mask, or one that lets a pixel below in": (lambda x: masked(1, x), 1),
        "it depends on nothing": (lambda x: 0 * x, 1),
        "a pixel's channels see themselves and later ones: not masked by channel, or in another order": (
            lambda x: masked(b, x),
            3,
        ),
        "the order turned round: what comes after is seen": (lambda x: masked(a[::-1, ::-1], x), 1),
    }
    for text, (function, channels) in wrong.items():
        with pytest.raises(PropertyError) as caught:
            testing.check_causal(function, (channels, 4, 5))
        assert caught.value.looks_like == (text,)
    stack = lambda x: masked(b, np.tanh(masked(b, np.tanh(masked(a, x)))))
    testing.check_causal(stack)
    report = blind_spot(stack, (1, 6, 7))
    assert (report["seen"], report["past"]) == (21, 38)


HARMLESS: dict[str, Callable[..., Any]] = {
    "rewritten": lambda m, v, n, w: np.log(w / v) / 2 + (v + (m - n) ** 2) / (2 * w) - 0.5,
    "expanded": lambda m, v, n, w: 0.5 * (v / w + (m * m - 2 * m * n + n * n) / w - 1 + np.log(w) - np.log(v)),
    "a small constant": lambda m, v, n, w: right_kl(m, v + 1e-9, n, w + 1e-9),
    "a list": lambda *a: right_kl(*a).tolist(),
    "single precision inside": lambda *a: right_kl(*[x.astype(np.float32) for x in a]).astype(float),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_rewrites_pass(name: str) -> None:
    check_normal_kl(HARMLESS[name], scale="variance")


def test_a_tensor_that_requires_a_gradient_passes() -> None:
    def kl(*arrays: Any) -> Any:
        m, v, n, w = (x.requires_grad_() for x in arrays)
        return 0.5 * (v / w + (m - n) ** 2 / w - 1 + torch.log(w / v))

    check_normal_kl(kl, scale="variance", convert=torch.from_numpy, dtype="float32")


class Counting:
    calls = 0

    def __call__(self, *arrays: Any) -> Any:
        self.calls += 1
        return right_kl(*arrays) + self.calls


class Late(Counting):
    def __call__(self, *arrays: Any) -> Any:
        self.calls += 1
        return right_kl(*arrays) + (self.calls > 3)


class Cached:
    """By the shape of the inputs."""

    def __init__(self) -> None:
        self.seen: dict[Any, Any] = {}

    def __call__(self, m: Any, v: Any, n: Any, w: Any) -> Any:
        return self.seen.setdefault(m.shape, right_kl(m, v, n, w))


def squares_in_place(m: Any, v: Any, n: Any, w: Any) -> Any:
    m -= n
    m *= m
    return 0.5 * (v / w + m / w - 1 + np.log(w / v))


def in_place(m: Any, v: Any, n: Any, w: Any) -> Any:
    found = right_kl(m, v, n, w)
    m -= 1
    return found


BAD_USE: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing comes back": (lambda *a: None, "returned None, an array of numbers is expected"),
    "a text": (lambda *a: "0.3", "must be an array of numbers, got a str"),
    "an exception": (
        lambda *a: 1 / 0,
        "the function raises ZeroDivisionError: division by zero (inputs: mean_q (1, 1)",
    ),
    "other shape": (lambda *a: right_kl(*a)[None, None].repeat(2, 0), "expected the shape"),
    "own noise": (lambda *a: right_kl(*a) + np.random.standard_normal(), "it draws its own numbers"),
    "own noise of torch": (lambda *a: right_kl(*a) + torch.randn(()).item(), "it draws its own numbers"),
    "state": (Counting(), "it keeps state from call to call"),
    "in place": (in_place, "changes its input mean_q in place"),
    "in place, without effect on 0 and 1": (squares_in_place, "changes its input mean_q in place"),
    "a cache": (Cached(), "it keeps state from call to call, as a cache"),
    "state after some calls": (Late(), "it keeps state from call to call"),
    "a little dropout": (lambda *a: right_kl(*a) * (np.random.random(a[0].shape) > 0.2), "it draws its own numbers"),
    "a tuple": (lambda *a: (right_kl(*a), a[0]), "must return one array, got a tuple of 2"),
    "a dictionary": (lambda *a: {"kl": right_kl(*a)}, "must return one array, got a dict"),
    "a generator": (lambda *a: (x for x in right_kl(*a)), "must be an array of numbers, got a generator"),
    "too few arguments": (lambda m, v: m, "takes 2 positional arguments but 4 were given"),
}


@pytest.mark.parametrize("name", BAD_USE)
def test_bad_use_is_told_apart(name: str) -> None:
    """In one line."""
    np.random.seed(0)  # of the function that drops some numbers
    function, said = BAD_USE[name]
    with pytest.raises(UsageError) as caught:
        check_normal_kl(function, scale="variance")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_outputs_of_half_precision_pass() -> None:
    """Which torch hands over as float32."""
    check_normal_kl(lambda *a: torch_kl(*a).bfloat16(), convert=torch.from_numpy)
    check_normal_kl(lambda *a: torch_kl(*a).half(), convert=torch.from_numpy)


def test_a_small_number_added_in_a_logarithm_is_no_fault() -> None:
    def kl(mean: Any, std: Any) -> Any:
        return 0.5 * (mean**2 + std**2 - 2 * np.log(std + 1e-6) - 1).sum()

    testing.check_standard_normal_kl(kl, scale="std", reduction="sum")
    testing.check_cross_entropy(lambda p, y: -np.log(p[np.arange(len(y)), y] + 1e-8).mean(), given="probabilities")


def test_a_bound_on_the_right_value_is_said() -> None:
    with pytest.raises(PropertyError) as caught:
        check_normal_kl(lambda *a: np.maximum(right_kl(*a), 0.25), scale="variance")
    assert caught.value.looks_like == ("the right value, but at least 1/4",)


def test_functions_with_the_usual_clamps_pass() -> None:
    """log s ≥ −7 and masses of 1e-12 at least, in both precisions, as PixelCNN++'s code has it."""

    def log_prob(x: Any, mean: Any, log_s: Any) -> Any:
        s = torch.exp(log_s.clamp(min=-7))
        above, below = torch.sigmoid((x - mean + 1 / 255) / s), torch.sigmoid((x - mean - 1 / 255) / s)
        mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
        return mass.clamp(min=1e-12).log()

    def mixture(x: Any, logits: Any, means: Any, log_s: Any) -> Any:
        return torch.logsumexp(torch.log_softmax(logits, 1) + log_prob(x[:, None], means, log_s), 1)

    for dtype in (None, "float32"):
        testing.check_discretized_logistic(log_prob, convert=torch.from_numpy, dtype=dtype)
        testing.check_logistic_mixture(mixture, convert=torch.from_numpy, dtype=dtype)


def test_a_sampler_that_returns_too_few_draws_is_bad_use() -> None:
    with pytest.raises(UsageError, match="must return 12000 draws, got 10"):
        testing.check_sampler(lambda n: np.zeros(10), probabilities=[0.5, 0.5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_embedding_with_frequencies_in_single_precision_passes(dtype: Any) -> None:
    frequencies = 10000 ** -(torch.arange(5) / 4)
    for scale in (1, 1000):
        angles = lambda t: scale * t.to(dtype)[:, None] * frequencies  # noqa: B023
        embed = lambda t: torch.cat([angles(t).sin(), angles(t).cos()], 1)  # noqa: B023
        testing.check_timestep_embedding(embed, scale=scale, convert=torch.from_numpy)


def test_a_network_that_sees_too_little() -> None:
    """Only the pixel to the left: it is causal, but sees nothing above."""
    left = lambda x: np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1]
    above = lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[..., :-1, :]
    testing.check_causal(left)
    testing.check_causal(lambda x: left(x) + above(x), sees="neighbours")
    testing.check_causal(lambda x: left(x.reshape(len(x), 1, 1, -1).cumsum(-1)).reshape(x.shape), sees="all")
    for function, sees in ((left, "neighbours"), (lambda x: left(x) + above(x), "all")):
        with pytest.raises(PropertyError) as caught:
            testing.check_causal(function, sees=sees)
        assert caught.value.looks_like == (testing.gradients.UNSEEN[sees],)


def test_the_names_are_listed() -> None:
    assert {*CHECKERS, "PropertyError", "UsageError", "blind_spot", "check_all", "checks_for"} <= set(dir(testing))
    assert testing.__all__ == dir(testing)


def test_random_numbers_go_on_as_before() -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    wanted = np.random.standard_normal(), torch.randn(()).item()
    np.random.seed(1)
    torch.manual_seed(1)
    check_normal_kl(right_kl, scale="variance")
    with pytest.raises(PropertyError):
        check_normal_kl(lambda *a: 2 * right_kl(*a), scale="variance")
    assert (np.random.standard_normal(), torch.randn(()).item()) == wanted


def test_what_an_error_says() -> None:
    with pytest.raises(PropertyError) as caught:
        check_normal_kl(
            lambda m, v, n, w: 0.5 * (w / v + (m - n) ** 2 / w - 1 + np.log(w / v)), scale="variance", seed=7
        )
    error = caught.value
    assert str(error) == (
        "KL(N(0, 1) ‖ N(0, 2)): expected 0.096574, got 0.84657\n"
        "  equation    ½ (σ_q²/σ_p² + (μ_q − μ_p)²/σ_p² − 1 + log σ_p²/σ_q²)      Kingma & Welling 2014, appendix B\n"
        "  looks like  the trace term upside down, σ_p²/σ_q²: explains 40 of 40 inputs\n"
        "  reproduce   check_normal_kl(..., scale='variance', seed=7)"
    )
    assert error.property == "KL(N(0, 1) ‖ N(0, 2))"
    assert (error.expected, error.got) == pytest.approx((0.5 * math.log(2) - 0.25, 0.5 * math.log(2) + 0.5))
    assert error.tried == 40
    assert error.where == ""
    assert error.inputs["mean_q"].tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("change", "looks_like"),
    [
        (lambda y: 3 * y, ("3 times the right value",)),
        (lambda y: y + 0.2, ("the right value + 1/5",)),
        (lambda y: y / len(y), ("the right value divided by the length of axis 0 of mean_q",)),
        (lambda y: y + 0.01 * (y > 1), ()),  # no guess
        (lambda y: np.where(y > 1, 2 * y, y), ()),  # explains the failing inputs alone
        (lambda y: np.where(y > 1, np.nan, y), ()),
    ],
)
def test_what_can_be_said_without_a_known_mistake(change: Any, looks_like: Any) -> None:
    with pytest.raises(PropertyError) as caught:
        check_normal_kl(lambda *a: change(right_kl(*a)), scale="variance")
    assert caught.value.looks_like == looks_like


def test_a_condition_is_named() -> None:
    """A convolution that is wrong where the stride leaves a remainder; one that raises there."""

    def cut(x: Any, w: Any, stride: int, padding: int) -> Any:
        y = TF.conv2d(x, w, stride=stride, padding=padding)
        over = [(n + 2 * padding - k) % stride for n, k in zip(x.shape[2:], w.shape[2:])]
        return y + 1 if any(over) else y

    def failing(x: Any, w: Any, stride: int, padding: int) -> Any:
        over = [(n + 2 * padding - k) % stride for n, k in zip(x.shape[2:], w.shape[2:])]
        if any(over):
            raise RuntimeError("sizes do not match")
        return TF.conv2d(x, w, stride=stride, padding=padding)

    for function in (cut, failing):
        with pytest.raises(PropertyError) as caught:
            testing.check_conv2d(function, convert=torch.from_numpy)
        assert caught.value.where.startswith("where the stride leaves a remainder")
    assert "it raises RuntimeError: sizes do not match" in str(caught.value)


def test_a_report_on_many() -> None:
    given = {"scale": "variance"}
    functions = {
        "normal_kl": (right_kl, given),
        "check_normal_kl: doubled": (lambda *a: 2 * right_kl(*a), given),
        "normal_kl: nothing": lambda *a: None,
    }
    report = check_all(functions)
    assert not report.ok
    assert [row.verdict for row in report.rows] == ["right", "wrong", "bad use"]
    assert str(report).splitlines()[1] == "check_normal_kl: doubled  wrong    the ½ missing"
    assert [row["looks_like"] for row in json.loads(report.json())] == [[], ["the ½ missing"], []]
    assert str(check_all(functions)) == str(report)  # the same inputs every time
    with pytest.raises(ValueError, match="there is no checker 'kl'; there are check_adam"):
        check_all({"kl": right_kl})


@pytest.mark.parametrize("check", checks_for("kl"))
def test_checks_for_a_topic(check: Any) -> None:
    assert check.__name__ in ("check_normal_kl", "check_standard_normal_kl", "check_categorical_kl")
    with pytest.raises(UsageError):
        check(lambda *a: None)


def test_checks_for_names_the_topics() -> None:
    assert {check.__name__ for check in checks_for("normalisation")} == {
        "check_layer_norm",
        "check_group_norm",
        "check_batch_norm",
    }
    assert testing.check_normal_kl in checks_for("densities")
    with pytest.raises(ValueError, match="topic must be a checker or one of adversarial, autoencoders, bound, "):
        checks_for("nothing")


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"check_normal_kl: scale must be one of 'std', 'variance', .*got 'sd'"):
        check_normal_kl(right_kl, scale="sd")
    with pytest.raises(TypeError, match="check_normal_kl: there is no argument 'scal'; there are scale, reduction"):
        check_normal_kl(right_kl, scal="std")
    with pytest.raises(ValueError, match="check_sampler: give one of"):
        testing.check_sampler(lambda n: np.zeros(n))


@pytest.mark.parametrize("check", CHECKERS.values(), ids=CHECKERS)
def test_the_examples_of_the_docstrings(check: Any) -> None:
    """Each checker's docstring has the interface, the source and an example of at most ten lines, which runs."""
    globs = {**vars(inspect.getmodule(check)), check.__name__: check}
    (found,) = doctest.DocTestFinder(recurse=False).find(inspect.unwrap(check), check.__name__, globs=globs)
    results = doctest.DocTestRunner(verbose=False).run(found)
    assert results.attempted > 0
    assert results.failed == 0
    assert sum(example.source.count("\n") for example in found.examples) <= 10
    assert "seed" in inspect.signature(check).parameters or "seed" in str(inspect.signature(check))


def test_without_hypothesis() -> None:
    """The library imports, `gradcheck` is there, and a checker says what is missing."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import nanogen as ng\n"
        "ng.testing.gradcheck\n"
        "try: ng.testing.check_normal_kl\n"
        "except ImportError as error: print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "the checkers need hypothesis: pip install 'nanogen[testing]'"


def test_the_gradient_of_a_norm_of_equal_numbers() -> None:
    """It bends within √ε of equal numbers, where differences need a shorter step than elsewhere.  Found in a right
    gradient that was refused."""

    def norm(x: np.ndarray) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def gradient(x: np.ndarray, c: np.ndarray) -> np.ndarray:
        h = norm(x)
        inner = c - c.mean(-1, keepdims=True) - h * (c * h).mean(-1, keepdims=True)
        return inner / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    for seed in range(4):
        testing.check_gradients(norm, gradient, [("n", "d")], seed=seed)
        with pytest.raises(testing.PropertyError):
            testing.check_gradients(norm, lambda x, c: 1.001 * gradient(x, c), [("n", "d")], seed=seed)


def test_a_loss_of_equal_batches() -> None:
    hinge = lambda real, fake: (np.maximum(0, 1 - real) + np.maximum(0, 1 + fake)).mean()
    testing.check_discriminator_loss(hinge, kind="hinge", batches="equal")
    with pytest.raises(testing.PropertyError):
        testing.check_discriminator_loss(hinge, kind="hinge")
    with pytest.raises(ValueError, match="batches"):
        testing.check_discriminator_loss(hinge, batches="same")


def test_embeddings_of_an_odd_number() -> None:
    with pytest.raises(ValueError, match="even number"):
        testing.check_timestep_embedding(lambda t: t, dim=5)
