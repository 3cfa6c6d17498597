"""The checkers of diffusion, adversarial training, optimisers and judging: each mistake that they know is refused and
named, in a convention in which it can be made; the truth passes in all of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nanogen import testing
from nanogen.testing import PropertyError, check_all
from nanogen.testing.property import CHECKERS
from nanogen.testing.trial import Options, Trial

pytestmark = pytest.mark.mistakes

assert check_all  # which imports all checkers

GROUPS = (
    *("schedules", "times", "diffusion", "weights", "terms", "reverse", "sampling"),
    *("adversarial", "spectral", "training", "rates", "judging"),
)
BETAS = np.linspace(0.01, 0.4, 12)
# Settings besides the conventions: {checker: (always, further ones, tried in turn)}
SETTINGS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "check_reverse_step": ({"betas": BETAS, "returns": "given"}, [
        {}, {"method": "ddim"}, {"method": "ddim", "eta": 0.7}, {"method": "ddim", "clip": True},
        {"method": "ddim", "prediction": "x0"}, {"method": "ddim", "times": (11, 7, 4, 0)}]),
    "check_sgd": ({}, [{"momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.8, "dampening": 0.3},
                       {"momentum": 0.7, "nesterov": True}]),
    "check_adam": ({"lr": 0.01, "weight_decay": 0.1}, [{}, {"weight_decay": 0.0}]),
    "check_adamw": ({"lr": 0.1, "weight_decay": 0.1}, [{}]),
    "check_gradient_penalty": ({"form": "given"}, [{}, {"weight": 10.0}]),
    "check_spectral_norm": ({}, [{}, {"iterations": 1}]),
    "check_loss_weight": ({}, [{}, {"kind": "kl, beta"}, {"kind": "kl, posterior"}, {"kind": "p2", "gamma": 1.0}]),
    "check_frechet_distance": ({}, [{}, {"given": "moments"}]),
    "check_psnr": ({}, [{}, {"pixels": "uint8"}, {"pixels": "−1…1"}]),
    "check_prior_term": ({"betas": BETAS}, [{}]),
    "check_bound_term": ({"betas": BETAS}, [{}]),
    "check_q_posterior": ({"betas": BETAS}, [{}]),
}  # fmt: skip


def mine(check: Any) -> bool:
    return hasattr(check, "property") and check.__module__.rpartition(".")[2] in GROUPS


CHECKS = [
    check
    for check in CHECKERS.values()
    if mine(check) and check.__name__ not in ("check_diffusion_sampler", "check_time_draw")
]
STATISTICAL = ("another ε", "one ε", "ε normal", "ε = ½")  # where ε is drawn inside: in test_testing_reverse
MISTAKES = [(check, text) for check in CHECKS for text in check.property.mistakes if not text.startswith(STATISTICAL)]


def trial(check: Any, conventions: dict[str, Any], **options: Any) -> Trial:
    property = with_formula(check.property, check.property.truth)
    return Trial(property, None, "", dict(conventions), {}, Options(**options))


def with_formula(property: Any, formula: Any) -> Any:
    """The same property of a function that computes this formula."""
    run = lambda _, inputs, **conventions: formula(*inputs.values(), **conventions)
    return dataclasses.replace(property, run=run, draws=False)


def settings(check: Any, most: int = 2) -> Iterator[dict[str, Any]]:
    """The default conventions, then others of one of them, then of two."""
    always, further = SETTINGS.get(check.__name__, ({}, [{}]))
    usual, names = check.conventions | always, list(check.property.conventions)
    seen: list[dict[str, Any]] = []
    for count, more in itertools.product(range(most + 1), further):
        for some in itertools.combinations(names, count):
            for values in itertools.product(*[check.property.conventions[name] for name in some]):
                found = usual | more | dict(zip(some, values))
                if not any(
                    all(found[n] is s[n] or found[n] == s[n] for n in found if n != "betas") for s in seen
                ) and makes(check, found):
                    seen.append(found)
                    yield found


def makes(check: Any, conventions: dict[str, Any]) -> bool:
    """Whether these conventions go together."""
    try:
        next(iter(trial(check, conventions, examples=1).generate(0)))
    except ValueError:
        return False
    return True


def applies(check: Any, text: str, conventions: dict[str, Any]) -> bool:
    """Whether the mistake can be made under these conventions, and seen."""
    found = trial(check, conventions, examples=12)
    for inputs in found.generate(0):
        with np.errstate(all="ignore"):
            wrong = check.property.mistakes[text](*inputs.values(), **conventions)
        if wrong is None:
            return False
        found.function = None
        found.property = with_formula(check.property, check.property.truth)
        case = found.run(inputs)
        named = wrong if isinstance(wrong, dict) else {"": wrong}
        if any(
            found.compare(name, case.expected[name], np.asarray(value))
            for name, value in named.items()
            if value is not None
        ):
            return True
    return False


def differs(check: Any, usual: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the truth is another under these conventions: some matter with others only."""
    found = trial(check, usual)
    found.property = with_formula(check.property, lambda *a, **_: check.property.truth(*a, **other))
    right = trial(check, usual)
    for inputs in right.generate(0):
        case, wrong = right.run(inputs), found.run(inputs)
        if wrong.outputs is None or any(right.compare(n, case.expected[n], x) for n, x in wrong.outputs.items()):
            return True
    return False


@pytest.fixture(autouse=True)
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.trial, "SHRINKING", 0.0)


@pytest.mark.parametrize(("check", "text"), MISTAKES, ids=[f"{check.__name__}-{text}" for check, text in MISTAKES])
def test_a_mistake_is_refused_and_named(check: Any, text: str) -> None:
    conventions = next((found for found in settings(check) if applies(check, text, found)), None)
    assert conventions is not None, "it can never be made"
    wrong = with_formula(check.property, check.property.mistakes[text])
    with pytest.raises(PropertyError) as caught:
        wrong.check(None, check.__name__, conventions, check.conventions, examples=24)
    assert caught.value.looks_like == (text,)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_truth_passes_and_conventions_are_told_apart(check: Any) -> None:
    """Also in single precision.  Where a function is right under another convention, the error says which."""
    usual, *others = settings(check, 1)
    for conventions in (usual, *others):
        right = with_formula(check.property, check.property.truth)
        right.check(None, check.__name__, dict(conventions), check.conventions, examples=12)
        right.check(
            None,
            check.__name__,
            dict(conventions),
            check.conventions,
            examples=12,
            dtype="float32",
            rtol=2e-2,
            atol=1e-2,
        )
    for name, values in check.property.conventions.items():
        for value in values:
            other = usual | {name: value}
            if value == usual[name] or not makes(check, other):
                continue
            function = with_formula(check.property, lambda *a, **_: check.property.truth(*a, **other))  # noqa: B023
            if differs(check, usual, other):
                with pytest.raises(PropertyError) as caught:
                    function.check(None, check.__name__, dict(usual), check.conventions)
                assert caught.value.looks_like == (f"right if {name}={value!r} was meant",)
