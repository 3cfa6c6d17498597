"""The checkers of `nanogen.testing`: every mistake that one knows is refused and named, in every convention; the truth
passes, also in single precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nanogen import testing
from nanogen.testing import PropertyError, check_all
from nanogen.testing.laws import DRAWS, Repeated
from nanogen.testing.property import CHECKERS

pytestmark = pytest.mark.mistakes

assert check_all  # which imports all checkers


VARIANTS: dict[str, dict[str, Any]] = {
    "check_conv2d": {"takes": "bias stride padding dilation groups", "pairs": True},
    "check_conv_transpose2d": {"takes": "bias stride padding output_padding groups dilation", "pairs": True},
    "check_max_pool2d": {"pairs": True},
    "check_avg_pool2d": {"pairs": True},
    "check_logistic_mixture": {"levels": None},
    "check_softmax": {"axis": 0},
    "check_vae_loss": {"beta": 4.0},
    "check_bits_per_dim": {"density": 256},
    "check_cross_entropy": {"smoothing": 0.3, "ignore": 1, "large": True},
    "check_binary_cross_entropy": {"large": True},
    "check_layer_norm": {"eps": 1e-3},
    "check_group_norm": {"eps": 1e-3},
    "check_batch_norm": {"eps": 1e-3, "momentum": 0.3},
    "check_discretized_logistic": {"levels": 32},
    "check_discretized_normal": {"levels": 32},
}


OTHER_ARGUMENTS = {("check_attention", kind) for kind in ("keep", "drop", "additive")}  # a function that takes a mask


def settings(check: Any) -> Iterator[dict[str, Any]]:
    """The default conventions, and each other value of one of them."""
    yield check.conventions
    for name, values in check.property.conventions.items():
        for value in values:
            if value != check.conventions[name]:
                yield check.conventions | {name: value}


def variants(check: Any) -> Iterator[dict[str, Any]]:
    """The same, and the settings in which further mistakes can be made."""
    yield from settings(check)
    yield check.conventions | VARIANTS.get(check.__name__, {})


def applies(check: Any, text: str, conventions: dict[str, Any]) -> bool:
    """Whether the mistake can be made under these conventions."""
    wrong = trial_of(with_formula(check.property, check.property.mistakes[text]), conventions)
    try:
        wrong.cases = [wrong.run(inputs) for inputs in wrong.generate(0)]
    except testing.UsageError:  # it returns None
        return False
    return any(case.faults for case in wrong.cases)


def trial_of(property: Any, conventions: dict[str, Any]) -> Any:
    return testing.trial.Trial(property, None, "", dict(conventions), {}, testing.trial.Options(examples=20))


def with_formula(property: Any, formula: Any) -> Any:
    """The same property of a function that computes this formula."""
    return dataclasses.replace(property, run=lambda _, inputs, **conventions: formula(*inputs.values(), **conventions))


# The others are in test_testing_families.
GROUPS = {
    "gradients",
    "convolution",
    "normalisation",
    "functions",
    "divergences",
    "densities",
    "autoencoders",
    "bounds",
    "samplers",
}
DETERMINISTIC = [
    check
    for check in CHECKERS.values()
    if check.__module__.rpartition(".")[2] in GROUPS and hasattr(check, "property") and not check.property.draws
]
MISTAKES = [(check, text) for check in DETERMINISTIC for text in check.property.mistakes]


@pytest.mark.parametrize(("check", "text"), MISTAKES, ids=[f"{check.__name__}-{text}" for check, text in MISTAKES])
def test_a_mistake_is_refused_and_named(check: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the first conventions in which it can be made."""
    monkeypatch.setattr(testing.trial, "SHRINKING", 0.0)
    conventions = next(found for found in variants(check) if applies(check, text, found))
    wrong = with_formula(check.property, check.property.mistakes[text])
    with pytest.raises(PropertyError) as caught:
        wrong.check(None, check.__name__, conventions, check.conventions, examples=20)
    assert caught.value.looks_like == (text,)


@pytest.mark.parametrize("check", DETERMINISTIC, ids=lambda check: check.__name__)
def test_the_truth_passes_and_other_conventions_are_told_apart(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double and single precision; under another convention than the stated one, the error says which."""
    monkeypatch.setattr(testing.trial, "SHRINKING", 0.0)
    for conventions in settings(check):
        right = with_formula(check.property, check.property.truth)
        right.check(None, check.__name__, conventions, check.conventions, examples=20)
        right.check(
            None, check.__name__, conventions, check.conventions, examples=20, dtype="float32", rtol=1e-3, atol=1e-4
        )
    for conventions in list(settings(check))[1:]:
        other = with_formula(check.property, lambda *a, **_: check.property.truth(*a, **conventions))  # noqa: B023
        (name,) = [name for name in conventions if conventions[name] != check.conventions[name]]
        if (check.__name__, conventions[name]) in OTHER_ARGUMENTS:
            continue
        with pytest.raises(PropertyError) as caught:
            other.check(None, check.__name__, check.conventions, check.conventions, examples=20)
        assert caught.value.looks_like == (f"right if {name}={conventions[name]!r} was meant",)


def draws_from(law: Any, rng: np.random.Generator) -> np.ndarray:
    """Draws from a distribution given by its distribution function, by inverting it on a grid."""
    if isinstance(law, Repeated):
        return np.zeros(DRAWS)
    grid = np.linspace(-80, 80, 160_001)
    return np.interp(rng.random(DRAWS), law.cdf(grid), grid)


SAMPLERS = [testing.check_normal_sampler, testing.check_logistic_sampler, testing.check_mixture_sampler]
WRONG_SAMPLERS = [(check, text) for check in SAMPLERS for text in check.property.mistakes]


@pytest.mark.parametrize(("check", "text"), WRONG_SAMPLERS, ids=[f"{c.__name__}-{text}" for c, text in WRONG_SAMPLERS])
def test_a_wrong_sampler_is_refused_and_named(check: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.trial, "SHRINKING", 0.0)
    rng, wrong = np.random.default_rng(0), check.property.mistakes[text]
    law = lambda *arrays: wrong(*arrays, **check.conventions)
    with pytest.raises(PropertyError) as caught:
        check(lambda *arrays: draws_from(law(*arrays), rng))
    assert caught.value.looks_like == (text,)


@pytest.mark.parametrize("check", SAMPLERS, ids=lambda check: check.__name__)
def test_a_right_sampler_passes(check: Any) -> None:
    """In every convention."""
    rng = np.random.default_rng(0)
    for conventions in settings(check):
        law = lambda *arrays: check.property.truth(*arrays, **conventions)  # noqa: B023
        check(lambda *arrays: draws_from(law(*arrays), rng), **conventions)  # noqa: B023
