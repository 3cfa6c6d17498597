"""The checkers of functions that draw: whole samplers, single steps, times, noise, a penalty's ε.  A right one
passes, a wrong one is refused and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from nanogen import testing
from nanogen.testing import (
    PropertyError,
    check_diffusion_sampler,
    check_gradient_penalty,
    check_q_sample,
    check_reverse_step,
    check_time_draw,
)
from nanogen.testing.reverse import STEP_MISTAKES, Rule
from nanogen.testing.schedules import Tables
from nanogen.testing.times import grid

BETAS = np.linspace(0.02, 0.4, 12)
BAR = np.cumprod(1 - BETAS)
KINDS: dict[str, dict[str, Any]] = {
    "ancestral": {"method": "ancestral"},
    "posterior": {"method": "ancestral", "variance": "posterior"},
    "ddim": {"method": "ddim"},
    "ddim with noise": {"method": "ddim", "eta": 0.7},
    "ddim of x0": {"method": "ddim", "prediction": "x0"},
}


@pytest.fixture(autouse=True)
def no_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.trial, "SHRINKING", 0.0)
    np.random.seed(0)


def rule(wrong: str = "", **settings: Any) -> Rule:
    usual = {"method": "ancestral", "prediction": "noise", "variance": "beta", "eta": 0.0, "clip": False}
    return Rule(Tables(BETAS), **usual | settings, wrong=wrong)


def step_of(found: Rule) -> Callable[..., np.ndarray]:
    def step(output: np.ndarray, t: int, x: np.ndarray) -> np.ndarray:
        mean, std = found.step(t, t - 1, x, output)
        return mean + std * np.random.standard_normal(x.shape)

    return step


Normal = np.random.standard_normal


def sampler_of(
    found: Rule, times: Callable[[int], Any] | None = None, start: Any = Normal, noise: Any = Normal, end: int = -1
) -> Callable[..., np.ndarray]:
    def sample(network: Any, n: int, S: int = 12) -> np.ndarray:
        asked = list(grid(12, S, "trailing")[::-1] if times is None else times(S))
        x = start((n, 3))
        for t, s in zip(asked, [*asked[1:], end]):
            mean, std = found.step(t, s, x, network(x, t))
            x = mean + std * noise(x.shape)
        return x

    return sample


def makes(kind: str, flag: str) -> bool:
    """Whether a mistake can be made, and seen, in this kind of step."""
    settings, rng = KINDS[kind], np.random.default_rng(0)
    for i in (11, 6, 1, 0):
        x, output = rng.standard_normal((2, 5))
        (m, s), (n, r) = (rule(wrong, **settings).step(i, i - 1, x, output) for wrong in ("", flag))
        if not np.allclose(m, n, rtol=0.05) or not np.isclose(s, r, rtol=0.1):
            return True
    return False


def kinds_of(flag: str) -> Iterator[str]:
    return (kind for kind in KINDS if makes(kind, flag))


@pytest.mark.parametrize("kind", KINDS)
def test_right_steps_and_samplers_pass(kind: str) -> None:
    settings = KINDS[kind]
    check_reverse_step(step_of(rule(**settings)), betas=BETAS, **settings)
    check_diffusion_sampler(sampler_of(rule(**settings)), betas=BETAS, **settings)


def test_a_step_to_the_next_of_few_times() -> None:
    """The step to t − 1, where the times skip some, is named; and the predicted noise in place of fresh noise."""
    skipping = rule("a single step", method="ddim")
    with pytest.raises(PropertyError) as caught:
        check_reverse_step(step_of(skipping), method="ddim", times=[11, 7, 3, 0], betas=BETAS)
    assert caught.value.looks_like == ("to t − 1, not to the next of the times",)
    with pytest.raises(PropertyError) as caught:
        check_reverse_step(lambda e, t, x: (f := rule().step(t, t - 1, x, e))[0] + f[1] * e, betas=BETAS)
    assert caught.value.looks_like == ("the predicted noise once more in place of z",)


def test_a_small_mistake_beside_large_noise() -> None:
    """η in place of η² in the direction moves the mean by a thousandth of the noise at most times of 1,000."""
    S = Tables(np.linspace(1e-4, 0.02, 1000))
    usual = {"method": "ddim", "prediction": "noise", "variance": "beta", "eta": 0.5, "clip": False}
    with pytest.raises(PropertyError) as caught:
        check_reverse_step(step_of(Rule(S, **usual, wrong="eta once in direction")), method="ddim", eta=0.5)
    assert caught.value.looks_like == ("η in place of η² in the direction",)


# made where times skip some, and seen beside the step itself: the test above
ELSEWHERE = ("a single step", "output again")


@pytest.mark.mistakes
@pytest.mark.parametrize(
    ("text", "flag"), [(t, f) for t, f in STEP_MISTAKES.items() if f not in ELSEWHERE],
    ids=[t for t, f in STEP_MISTAKES.items() if f not in ELSEWHERE],
)  # fmt: skip
def test_a_wrong_step_is_refused_and_named(text: str, flag: str) -> None:
    """In the first kind of step where it can be made; alone, and within a sampler."""
    kind = next(kinds_of(flag))
    settings = KINDS[kind]
    for check, function in ((check_reverse_step, step_of), (check_diffusion_sampler, sampler_of)):
        with pytest.raises(PropertyError) as caught:
            check(function(rule(flag, **settings)), betas=BETAS, **settings)
        assert text in caught.value.looks_like
        assert len(caught.value.looks_like) == 1, caught.value.looks_like


TOO_MANY = "range(0, T, T // S), which has more than S times where S does not divide T"
GRIDS: dict[str, Callable[[int], Any]] = {
    TOO_MANY: lambda S: np.arange(0, 12, 12 // S)[::-1],
    "the last time, the noisiest, left out": lambda S: grid(12, S, "trailing")[::-1][1:],
    "the first time, the cleanest, left out": lambda S: grid(12, S, "trailing")[::-1][:-1],
    "right if spacing='leading' was meant": lambda S: grid(12, S, "leading")[::-1],
    "right if spacing='linspace' was meant": lambda S: grid(12, S, "linspace")[::-1],
}  # fmt: skip


@pytest.mark.parametrize("text", GRIDS)
def test_a_sampler_on_other_times_is_refused_and_named(text: str) -> None:
    with pytest.raises(PropertyError) as caught:
        check_diffusion_sampler(sampler_of(rule(method="ddim"), GRIDS[text]), method="ddim", betas=BETAS)
    assert caught.value.looks_like == (text,)


SAMPLERS: dict[str, dict[str, Any]] = {
    "the last step left out: what is returned is still noisy": {"times": lambda S: np.arange(11, 0, -1), "end": 0},
    "x_T uniform on [0, 1), not normal": {"start": np.random.random_sample},
    "z uniform on [0, 1), not normal": {"noise": np.random.random_sample},
    "the same z for the whole batch": {"noise": lambda shape: np.random.standard_normal(shape[1:])},
}


@pytest.mark.parametrize("text", SAMPLERS)
def test_a_sampler_that_starts_ends_or_draws_otherwise_is_refused_and_named(text: str) -> None:
    with pytest.raises(PropertyError) as caught:
        check_diffusion_sampler(sampler_of(rule(), **SAMPLERS[text]), betas=BETAS)
    assert caught.value.looks_like == (text,)


@pytest.mark.parametrize("end", ["as they are", "clamped", "whole numbers"])
def test_images_may_be_clamped_and_rounded_at_the_end(end: str) -> None:
    """One value of a hundred leaves [−1, 1]: with so little noise the data do not become N(0, I).  An end that is off
    by 1.5 levels of 255 is refused all the same."""
    betas, left = np.linspace(0.001, 0.015, 12), []

    def sampler(off: float) -> Callable[..., np.ndarray]:
        def sample(network: Any, n: int, S: int) -> np.ndarray:
            x = sampler_of(replace(rule(method="ddim"), S=Tables(betas)))(network, n, S) + off
            left.append((np.abs(x) > 1).mean())
            images = ((x if end == "as they are" else np.clip(x, -1, 1)) + 1) / 2 * 255
            return images.astype(np.uint8) if end == "whole numbers" else images

        return sample

    check = partial(check_diffusion_sampler, method="ddim", steps=12, betas=betas, pixels=(0, 255))
    check(sampler(0.0))
    with pytest.raises(PropertyError, match="to the end"):
        check(sampler(-1.5 * 2 / 255))
    assert min(left) > 0.01


def test_draws_of_times() -> None:
    check_time_draw(lambda n: np.random.randint(0, 10, n))
    check_time_draw(lambda n: 1 + np.random.randint(0, 10, n), time="1…T")
    p = np.arange(1, 11) / 55

    def important(n: int) -> Any:
        t = np.random.choice(10, n, p=p)
        return t, 1 / (10 * p[t])

    check_time_draw(important, weighted=True)
    with pytest.raises(PropertyError):
        check_time_draw(lambda n: (important(n)[0], np.ones(n)), weighted=True)
    for text, draw in (
        ("the last time is never drawn", lambda n: np.random.randint(0, 9, n)),
        ("the first time is never drawn", lambda n: np.random.randint(1, 10, n)),
        ("one time for the whole batch", lambda n: np.full(n, np.random.randint(0, 10))),
    ):
        with pytest.raises(PropertyError) as caught:
            check_time_draw(draw)
        assert text in caught.value.looks_like


def test_noise_that_is_returned() -> None:
    def q_sample(x0: Any, t: Any, power: float = 0.5) -> Any:
        noise, bar = np.random.standard_normal(x0.shape), BAR[t].reshape(-1, 1, 1, 1)
        return bar**0.5 * x0 + (1 - bar) ** power * noise, noise

    check_q_sample(q_sample, betas=BETAS, noise="returned")
    with pytest.raises(PropertyError) as caught:
        check_q_sample(lambda x0, t: q_sample(x0, t, 1.0), betas=BETAS, noise="returned")
    assert caught.value.looks_like == ("1 − ᾱ_t in place of √(1 − ᾱ_t): the variance for the standard deviation",)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("the norm over the channels alone, axis 1", {"norm": lambda g: g.norm(2, dim=1)}),
        ("the squared norm in place of the norm", {"norm": lambda g: (g**2).flatten(1).sum(1)}),
        ("another ε for each pixel", {"eps": lambda x: x.clone().uniform_()}),
        ("one ε for the whole batch", {"eps": lambda x: x.new_empty(1, 1, 1, 1).uniform_()}),
        ("ε normal, not uniform on [0, 1]", {"eps": lambda x: x.new_empty(len(x), 1, 1, 1).normal_()}),
        ("ε = ½, in the middle", {"eps": lambda x: 0.5}),
        ("without create_graph: the penalty has no gradient", {"graph": False}),
        ("10 times as much: right if weight=10 was meant", {"factor": 10.0}),
    ],
)
def test_a_penalty_of_torch_that_draws(text: str, settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)

    def penalty(critic: Any, real: Any, fake: Any) -> Any:
        eps = settings.get("eps", lambda x: x.new_empty(len(x), 1, 1, 1).uniform_())(real)
        x = (eps * real + (1 - eps) * fake).requires_grad_()
        found = critic(x)
        (g,) = torch.autograd.grad(found, x, torch.ones_like(found), create_graph=settings.get("graph", True))
        norm = settings.get("norm", lambda g: g.flatten(1).norm(2, dim=1))(g)
        return settings.get("factor", 1.0) * ((norm - 1) ** 2).mean()

    if not text:
        check_gradient_penalty(penalty, convert=torch.tensor)
        return
    with pytest.raises(PropertyError) as caught:
        check_gradient_penalty(penalty, convert=torch.tensor)
    assert caught.value.looks_like == (text,)
