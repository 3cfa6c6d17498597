"""Adversarial training: the losses of both networks, the gradient penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.errors import UsageError
from nanogen.testing.property import checker
from nanogen.testing.trial import to_numpy

KINDS = ("non-saturating", "minimax", "least squares", "hinge", "wasserstein")
_softplus = lambda x: np.logaddexp(0, x)
_relu = lambda x: np.maximum(x, 0)
_sigmoid = lambda x: 1 / (1 + np.exp(-x))


def _logits(x: Any, outputs: str) -> Any:
    return np.log(x) - np.log1p(-x) if outputs == "probabilities" else x


# What each kind makes of the discriminator's outputs, before the mean: for images, and for samples
_REAL = {
    "non-saturating": lambda x: _softplus(-x),
    "minimax": lambda x: _softplus(-x),
    "least squares": lambda x: (x - 1) ** 2,
    "hinge": lambda x: _relu(1 - x),
    "wasserstein": lambda x: -x,
}
_FAKE = {
    "non-saturating": _softplus,
    "minimax": _softplus,
    "least squares": lambda x: x**2,
    "hinge": lambda x: _relu(1 + x),
    "wasserstein": lambda x: x,
}
_GENERATOR = {
    "non-saturating": lambda x: _softplus(-x),
    "minimax": lambda x: -_softplus(x),
    "least squares": lambda x: (x - 1) ** 2,
    "hinge": lambda x: -x,
    "wasserstein": lambda x: -x,
}
_CROSS = ("non-saturating", "minimax")


def _given(x: Any, kind: str, outputs: str) -> Any:
    """The numbers that the formulas take: logits for cross-entropies, else the outputs themselves."""
    return _logits(x, outputs) if kind in _CROSS else x


def _discriminator(
    real: Any = None,
    fake: Any = None,
    mix: Callable[..., Any] | None = None,
    kinds: tuple[str, ...] = KINDS,
    outputs_are: str = "",
) -> Callable[..., Any]:
    """A loss made of the terms real(x) and fake(x), by default those of the kind."""

    def loss(x: Any, y: Any, *, kind: str, outputs: str, halves: str, **_: Any) -> Any:
        if kind not in kinds or (outputs_are and outputs != outputs_are):
            return None
        x, y = _given(x, kind, outputs), _given(y, kind, outputs)
        a, b = (real or _REAL[kind])(x), (fake or _FAKE[kind])(y)
        total = np.mean(a) + np.mean(b) if mix is None else mix(a, b)
        return total / 2 if halves == "mean" else total

    return loss


def _scores(draw: Draw, sizes: tuple[int, ...], *, kind: str, outputs: str) -> np.ndarray:
    x = draw.reals(*sizes)
    return _sigmoid(x) if outputs == "probabilities" and kind in _CROSS else x


def _real_and_fake(draw: Draw, *, kind: str, outputs: str, halves: str, batches: str) -> dict[str, np.ndarray]:
    if batches not in ("any", "equal"):
        raise ValueError(f"check_discriminator_loss: batches must be 'any' or 'equal', got {batches!r}")
    n, m = draw.sizes((1, 4), (1, 5))
    m = n if batches == "equal" else m
    return {name: _scores(draw, (k, 1), kind=kind, outputs=outputs) for name, k in (("real", n), ("fake", m))}


def _swapped_labels(x: Any, y: Any, **k: Any) -> Any:
    return _discriminator(real=_FAKE[k["kind"]], fake=_REAL[k["kind"]])(x, y, **k)


DISCRIMINATOR_MISTAKES = {
    "the labels swapped: images as samples, samples as images": lambda x, y, **k: (
        None if k["kind"] == "wasserstein" else _swapped_labels(x, y, **k)
    ),
    "the sign turned round": lambda x, y, **k: -_discriminator()(x, y, **k),
    "without the samples' term": _discriminator(fake=lambda x: 0 * x),
    "without the images' term": _discriminator(real=lambda x: 0 * x),
    "both labelled as images": lambda x, y, **k: _discriminator(fake=_REAL[k["kind"]])(x, y, **k),
    "both labelled as samples": lambda x, y, **k: _discriminator(real=_FAKE[k["kind"]])(x, y, **k),
    "the samples' term subtracted": _discriminator(
        mix=lambda a, b: np.mean(a) - np.mean(b), kinds=("non-saturating", "least squares", "hinge")
    ),
    "the mean over both batches together, whose sizes differ": _discriminator(
        mix=lambda a, b: 2 * np.mean(np.concatenate([a, b]))
    ),
    "the sum over the batch instead of the mean": _discriminator(mix=lambda a, b: np.sum(a) + np.sum(b)),
    "sigmoid missing: logits taken for probabilities": _discriminator(
        real=lambda x: -np.log(x), fake=lambda x: -np.log(1 - x), kinds=_CROSS, outputs_are="logits"
    ),
    "a sigmoid too many: of the logits, before a loss of logits": _discriminator(
        real=lambda x: _softplus(-_sigmoid(x)),
        fake=lambda x: _softplus(_sigmoid(x)),
        kinds=_CROSS,
        outputs_are="logits",
    ),
    "the logarithm of the mean of D instead of the mean of log D": _discriminator(
        _sigmoid, lambda x: _sigmoid(-x), lambda a, b: -np.log(np.mean(a)) - np.log(np.mean(b)), kinds=_CROSS
    ),
    "label smoothing: the target 0.9 for images": _discriminator(
        real=lambda x: 0.9 * _softplus(-x) + 0.1 * _softplus(x), kinds=_CROSS
    ),
    "the margin 1 missing": _discriminator(lambda x: _relu(-x), _relu, kinds=("hinge",)),
    "the margin 0 for images alone": _discriminator(real=lambda x: _relu(-x), kinds=("hinge",)),
    "the margin 0 for samples alone": _discriminator(fake=_relu, kinds=("hinge",)),
    "min instead of max": _discriminator(
        lambda x: np.minimum(0, 1 - x), lambda x: np.minimum(0, 1 + x), kinds=("hinge",)
    ),
    "a sigmoid before the hinge": _discriminator(
        lambda x: _relu(1 - _sigmoid(x)), lambda x: _relu(1 + _sigmoid(x)), kinds=("hinge",)
    ),
    "max of the mean instead of the mean of max": lambda x, y, *, kind, halves, **_: (
        None if kind != "hinge" else (_relu(np.mean(1 - x)) + _relu(np.mean(1 + y))) / (1 + (halves == "mean"))
    ),
    "the hinge missing: 1 − D and 1 + D": _discriminator(lambda x: 1 - x, lambda x: 1 + x, kinds=("hinge",)),
    "samples' target −1 in place of 0": _discriminator(fake=lambda x: (x + 1) ** 2, kinds=("least squares",)),
    "the absolute value instead of the square": _discriminator(
        lambda x: np.abs(x - 1), np.abs, kinds=("least squares",)
    ),
    "a sigmoid before the squares": _discriminator(
        lambda x: (_sigmoid(x) - 1) ** 2, lambda x: _sigmoid(x) ** 2, kinds=("least squares",)
    ),
    "the square of the mean instead of the mean of squares": lambda x, y, *, kind, halves, **_: (
        None if kind != "least squares" else ((np.mean(x) - 1) ** 2 + np.mean(y) ** 2) / (1 + (halves == "mean"))
    ),
    "the absolute value of the difference": lambda x, y, *, kind, halves, **_: (
        None if kind != "wasserstein" else abs(np.mean(x) - np.mean(y)) / (1 + (halves == "mean"))
    ),
}


@checker(
    name="discriminator's loss",
    equation="−E log D(x) − E log(1 − D(G(z)));  E(d − 1)² + E d²;  "
    "E max(0, 1 − d) + E max(0, 1 + d);  E d(G(z)) − E d(x)",
    source="Goodfellow et al. 2014, eq. 1; Mao et al. 2017, eq. 2; Miyato et al. 2018, eq. 16; Arjovsky et al. 2017",
    inputs=_real_and_fake,
    truth=_discriminator(),
    mistakes=DISCRIMINATOR_MISTAKES,
    conventions={
        "kind": ("non-saturating", *KINDS[2:]),
        "outputs": ("logits", "probabilities"),
        "halves": ("sum", "mean"),
    },
    where={"where the batches differ in size": lambda x, y, **_: len(x) != len(y)},
    tags=("adversarial", "gan"),
)
def check_discriminator_loss(
    loss: Any,
    *,
    kind: str = "non-saturating",
    outputs: str = "logits",
    halves: str = "sum",
    batches: str = "any",
    **options: Any,
) -> None:
    """What a discriminator, or critic, minimises.

    The function is called as loss(real, fake): the discriminator's outputs for images (N, 1) and for samples (M, 1).
    It returns one number, means over the batches, which differ in size unless batches="equal".

    Args:
        kind: "non-saturating" (which is that of minimax, too): −E log D(x) − E log(1 − D(G(z)));
            "least squares": E(d(x) − 1)² + E d(G(z))²;
            "hinge": E max(0, 1 − d(x)) + E max(0, 1 + d(G(z)));
            "wasserstein": E d(G(z)) − E d(x).
        outputs: of cross-entropies: whether "logits" d or "probabilities" D = sigmoid(d) are handed over.
        halves: whether the loss is the "sum" of the images' and the samples' term, or their "mean", half of that: the ½
            of least squares in Mao et al. and the average in pix2pix.
        batches: "any", or "equal" for a loss that adds both terms before one mean.

    Equation: as above.  Goodfellow et al. 2014, eq. 1; Mao et al. 2017, eq. 2; Lim & Ye 2017; Arjovsky et al. 2017.

    >>> import numpy as np
    >>> check_discriminator_loss(lambda r, f: (np.log1p(np.exp(-r))).mean() + (np.log1p(np.exp(f))).mean())
    >>> check_discriminator_loss(lambda r, f: f.mean() - r.mean(), kind="wasserstein")
    """


def _generator(
    term: Any = None, kinds: tuple[str, ...] = KINDS, mean: Any = np.mean, outputs_are: str = ""
) -> Callable[..., Any]:
    def loss(y: Any, *, kind: str, outputs: str, half: bool) -> Any:
        if kind not in kinds or (outputs_are and outputs != outputs_are):
            return None
        return mean((term or _GENERATOR[kind])(_given(y, kind, outputs))) * (0.5 if half else 1.0)

    return loss


@checker(
    name="generator's loss",
    equation="−E log D(G(z));  E log(1 − D(G(z)));  E(d − 1)²;  −E d",
    source="Goodfellow et al. 2014, section 3; Mao et al. 2017, eq. 2; Arjovsky et al. 2017",
    inputs=lambda draw, *, kind, outputs, half: {
        "fake": _scores(draw, (draw.integer(1, 5), 1), kind=kind, outputs=outputs)
    },
    truth=_generator(),
    mistakes={
        "the sign turned round": lambda y, **k: -_generator()(y, **k),
        "the label of samples in place of that of images: −log(1 − D)": _generator(_softplus, ("non-saturating",)),
        "log D(G(z)), without the minus": _generator(lambda x: -_softplus(-x), ("minimax",)),
        "the hinge of the discriminator: max(0, 1 − d)": _generator(lambda x: _relu(1 - x), ("hinge", "wasserstein")),
        "max(0, −d)": _generator(lambda x: _relu(-x), ("hinge", "wasserstein")),
        "−max(0, d)": _generator(lambda x: -_relu(x), ("hinge", "wasserstein")),
        "the target 0 in place of 1": _generator(lambda x: x**2, ("least squares",)),
        "the target −1 in place of 1": _generator(lambda x: (x + 1) ** 2, ("least squares",)),
        "the absolute value instead of the square": _generator(lambda x: np.abs(x - 1), ("least squares",)),
        "the square of the mean instead of the mean of squares": _generator(
            lambda x: x - 1, ("least squares",), lambda x: np.mean(x) ** 2
        ),
        "a sigmoid before the square": _generator(lambda x: (_sigmoid(x) - 1) ** 2, ("least squares",)),
        "sigmoid missing: logits taken for probabilities": _generator(
            lambda x: -np.log(x), ("non-saturating",), outputs_are="logits"
        ),
        "a sigmoid too many: of the logits, before a loss of logits": _generator(
            lambda x: _softplus(-_sigmoid(x)), ("non-saturating",), outputs_are="logits"
        ),
        "the sum over the batch instead of the mean": _generator(mean=np.sum),
    },
    conventions={
        "kind": ("non-saturating", "minimax", "least squares", "wasserstein"),
        "outputs": ("logits", "probabilities"),
        "half": (False, True),
    },
    tags=("adversarial", "gan"),
)
def check_generator_loss(
    loss: Any, *, kind: str = "non-saturating", outputs: str = "logits", half: bool = False, **options: Any
) -> None:
    """What a generator minimises.

    The function is called as loss(fake), the discriminator's outputs for samples (M, 1), and returns their mean loss.

    Args:
        kind: "non-saturating": −E log D(G(z));  "minimax": E log(1 − D(G(z)));  "least squares": E(d − 1)²;
            "wasserstein": −E d, which is also that of the hinge.
        outputs: of cross-entropies: whether "logits" or "probabilities" are handed over.
        half: whether the loss has a factor ½, as least squares in Mao et al.

    Equation: as above.  Goodfellow et al. 2014, section 3; Mao et al. 2017; Miyato et al. 2018; Arjovsky et al. 2017.

    >>> import numpy as np
    >>> check_generator_loss(lambda f: np.log1p(np.exp(-f)).mean())
    >>> check_generator_loss(lambda f: -f.mean(), kind="wasserstein")
    """


# The gradient penalty

CALLS = 8  # of a penalty that draws its ε: eight numbers in a row are hardly ever close by chance


@dataclass(frozen=True)
class MeanOf:
    """A mean of n independent numbers, which are random, each time that it is drawn: its mean and standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:.5g}"

    def refuse(self, got: np.ndarray) -> str | None:
        """Why this is another mean, or None: once in 25 million for a right one."""
        got = np.asarray(got, float)
        if got.shape not in ((), (1,), (CALLS,)) or not np.isfinite(got).all():
            return f"expected one number, got {got.ravel()[:3]}"
        off = np.abs(got - self.mean)
        if off.max() <= 5.5 * self.error + 1e-4 * max(1.0, abs(self.mean)):
            return None
        return f"expected {self.mean:.5g} ± {self.error:.1g}, got {got.ravel()[off.argmax()]:.5g}"


@dataclass(frozen=True)
class OneOf:
    """The penalty at one ε, which is drawn anew each time: within the range of these values."""

    values: list[float]  # at ε = 0, …, 1 in equal steps

    def refuse(self, got: np.ndarray) -> str | None:
        """Why this is not so, or None: numbers that are almost equal are drawn otherwise."""
        low, high = min(self.values), max(self.values)
        slack = 0.01 + np.abs(np.diff(self.values)).max() / 4  # the least is between two of the values
        if np.shape(got) == (CALLS,) and low - slack <= np.min(got) and np.max(got) <= high + slack:
            return None if np.ptp(got) > 0.02 * (high - low) else "the numbers are almost equal"
        return "the numbers lie outside"


class Critic:
    """d(x) = Σ (½ c x² + b x): its gradient c·x + b is known.  Only +, *, reshape and sum, of whatever library."""

    def __init__(self, c: float, b: float):
        self.c, self.b = c, b

    def __call__(self, x: Any, *_: Any, **__: Any) -> Any:
        each = (0.5 * self.c) * x * x + self.b * x
        return each.reshape(x.shape[0], -1).sum(1).reshape(x.shape[0], 1)

    def gradient(self, x: np.ndarray) -> np.ndarray:
        return self.c * x + self.b


def _flat(g: np.ndarray) -> np.ndarray:
    return g.reshape(len(g), -1)


def _norms(g: np.ndarray) -> np.ndarray:
    return np.sqrt((_flat(g) ** 2).sum(1))


def _squares(g: np.ndarray, norm: Any, target: float, sided: str) -> np.ndarray:
    off = norm(g) - target
    return np.maximum(off, 0) ** 2 if sided == "one" else off**2


def _penalty(
    norm: Any = _norms,
    each: Any = _squares,
    mean: Any = np.mean,
    point: Any = None,
    differentiable: float = 1.0,
    draw: Any = None,
    law: Any = None,
    gradient: Any = lambda critic, x: critic.gradient(x),
) -> Callable[..., Any]:
    """The penalty at x̂ = point(real, fake, ε).  ε drawn wrongly: draw(rng, real), or the law of the penalty."""

    def truth(
        real: Any,
        fake: Any,
        eps: Any,
        _critic: Critic,
        _seed: int,
        *,
        target: float,
        sided: str,
        weight: float,
        at: str,
        form: str,
    ) -> Any:
        if (draw or law) and (form != "drawn" or at != "between"):
            return None

        def value(e: Any) -> Any:
            x = {"real": lambda: real, "fake": lambda: fake, "between": lambda: e * real + (1 - e) * fake}[at]()
            if point is not None:
                if at != "between":
                    return None
                x = point(real, fake, e)
            return each(gradient(_critic, x), norm, target, sided)

        if form == "drawn" and not _matters(real, fake, _critic, at):
            found = each(gradient(_critic, fake if at == "fake" else real), norm, target, sided)
            if point is not None and at != "between":
                return None
            total: Any = weight * mean(found)
        elif form == "drawn":
            rng = np.random.default_rng(_seed)
            many = weight * np.array([float(mean(value((draw or _one_each)(rng, real)))) for _ in range(60)])
            total = MeanOf(many.mean(), many.std() * math.sqrt(1 + 1 / 60))
            if law:
                total = law([weight * float(mean(value(e))) for e in np.linspace(0, 1, 33)])
        else:
            found = value(eps)
            if found is None:
                return None
            total = weight * mean(found)
        return {"penalty": total, "differentiable": differentiable}

    return truth


def _matters(real: np.ndarray, fake: np.ndarray, critic: Critic, at: str) -> bool:
    """Whether the penalty depends on ε."""
    return at == "between" and critic.c != 0 and not np.array_equal(real, fake)


def _one_each(rng: np.random.Generator, real: np.ndarray) -> np.ndarray:
    return rng.uniform(size=(len(real), *[1] * (real.ndim - 1)))


def _penalty_inputs(draw: Draw, *, form: str, at: str, **_: Any) -> dict[str, Any]:
    if form not in ("drawn", "given", "gradient"):
        raise ValueError(f"check_gradient_penalty: form must be 'drawn', 'given' or 'gradient', got {form!r}")
    shape = draw.sizes((2, 4), (1, 3), (2, 3), (1, 3))
    kind = draw.pick("linear", "same", "quadratic", "many") if form == "drawn" else "quadratic"
    c = 0.0 if kind == "linear" else draw.positive()
    b = draw.pick(1.0, 0.5, 0.2, -0.7)
    real = draw.reals(*shape)
    fake = real.copy() if kind == "same" else draw.reals(*shape)
    if kind in ("many", "quadratic") and form == "drawn":
        real, fake = np.zeros((500, *shape[1:])), np.full((500, *shape[1:]), draw.pick(2.0, 1.0))
    eps = np.round(draw.rng().uniform(size=(len(real), 1, 1, 1)), 2)
    return {"real": real, "fake": fake, "eps": eps, "_critic": Critic(c, b), "_seed": draw.integer(0, 999)}


def _run_penalty(f: Any, inputs: dict[str, Any], *, form: str, at: str, **_: Any) -> dict[str, Any]:
    real, fake, eps, critic, _ = inputs.values()
    if form == "gradient":
        x = {"real": real, "fake": fake, "between": eps * real + (1 - eps) * fake}[at]
        found = f(critic.c * x + critic.b)
    else:
        found = f(critic, real, fake, *([eps] if form == "given" else []))
    if found is None:
        raise UsageError("check_gradient_penalty: the function returned None, one number is expected")
    records = getattr(found, "requires_grad", None) if critic.c and form != "gradient" else None
    value = to_numpy(found)
    if form == "drawn" and _matters(to_numpy(real), to_numpy(fake), critic, at):
        values = np.stack([value, *(to_numpy(f(critic, real, fake)) for _ in range(CALLS - 1))])
        value = values if np.ptp(values, axis=0).any() else value
    return {"penalty": value, "differentiable": None if records is None else np.array(float(records))}


@checker(
    name="gradient penalty",
    equation="λ E (‖∇d(x̂)‖ − 1)²,  x̂ = ε x + (1 − ε) G(z), one ε ~ U[0, 1] for each sample",
    source="Gulrajani et al. 2017, eq. 3",
    inputs=_penalty_inputs,
    truth=_penalty(),
    mistakes={
        "the norm over the channels alone, axis 1": _penalty(norm=lambda g: np.sqrt((g**2).sum(1))),
        "the norm over the last axis alone": _penalty(norm=lambda g: np.sqrt((g**2).sum(-1))),
        "the norm over height and width alone": _penalty(norm=lambda g: np.sqrt((g**2).sum((2, 3)))),
        "the norm over the batch, axis 0": _penalty(norm=lambda g: np.sqrt((g**2).sum(0))),
        "one norm for the whole batch": _penalty(norm=lambda g: np.sqrt((g**2).sum())),
        "the squared norm in place of the norm": _penalty(norm=lambda g: (_flat(g) ** 2).sum(1)),
        "the root of the mean of squares in place of the norm": _penalty(
            norm=lambda g: np.sqrt((_flat(g) ** 2).mean(1))
        ),
        "the sum of the absolute values in place of the norm": _penalty(norm=lambda g: np.abs(_flat(g)).sum(1)),
        "the sum of the gradient in place of its norm": _penalty(norm=lambda g: _flat(g).sum(1)),
        "each entry by itself: E(|∂d| − 1)²": _penalty(norm=np.abs),
        "each entry by itself, with its sign: E(∂d − 1)²": _penalty(norm=lambda g: g),
        "the square missing: E(‖∇d‖ − 1)": _penalty(each=lambda g, norm, target, sided: norm(g) - target),
        "the absolute value in place of the square": _penalty(
            each=lambda g, norm, target, sided: np.abs(norm(g) - target)
        ),
        "‖∇d‖² − 1 in place of (‖∇d‖ − 1)²": _penalty(each=lambda g, norm, target, sided: norm(g) ** 2 - target),
        "the square of the mean: (E‖∇d‖ − 1)²": _penalty(
            each=lambda g, norm, target, sided: (norm(g).mean() - target) ** 2
        ),
        "the sum over the batch instead of the mean": _penalty(mean=np.sum),
        "x and G(z) swapped: ε G(z) + (1 − ε) x": _penalty(point=lambda r, f, e: e * f + (1 - e) * r),
        "x + (1 − ε) G(z)": _penalty(point=lambda r, f, e: r + (1 - e) * f),
        "ε x + G(z)": _penalty(point=lambda r, f, e: e * r + f),
        "x + ε (x − G(z))": _penalty(point=lambda r, f, e: r + e * (r - f)),
        "another ε for each pixel": _penalty(draw=lambda rng, real: rng.uniform(size=real.shape)),
        "one ε for the whole batch": _penalty(law=OneOf),
        "ε normal, not uniform on [0, 1]": _penalty(
            draw=lambda rng, real: rng.standard_normal((len(real), *[1] * (real.ndim - 1)))
        ),
        "ε = ½, in the middle": _penalty(draw=lambda rng, real: np.full((1,) * real.ndim, 0.5)),
        "the gradient of log σ(d), not of d": _penalty(
            gradient=lambda critic, x: critic.gradient(x) * _sigmoid(-critic(x)).reshape(-1, *[1] * (x.ndim - 1))
        ),
        "10 times as much: right if weight=10 was meant": lambda *inputs, weight, **given: (
            _penalty()(*inputs, weight=10 * weight, **given) if weight == 1 else None
        ),
        "λ = 10 left out: right if weight=1 was meant": lambda *inputs, weight, **given: (
            _penalty()(*inputs, weight=1.0, **given) if weight == 10 else None
        ),
        "without create_graph: the penalty has no gradient": _penalty(differentiable=0.0),
    },
    conventions={"at": ("between", "real", "fake"), "sided": ("two", "one"), "target": (1.0, 0.0)},
    run=_run_penalty,
    draws=lambda *, form, **_: form == "drawn",
    describe=lambda inputs, index, **_: (
        f"penalty of d(x) = Σ ½·{inputs['_critic'].c:g}·x² + {inputs['_critic'].b:g}·x, shape {inputs['real'].shape}"
    ),
    examples=24,
    tags=("adversarial", "gan"),
)
def check_gradient_penalty(
    penalty: Any,
    *,
    form: str = "drawn",
    target: float = 1.0,
    sided: str = "two",
    at: str = "between",
    weight: float = 1.0,
    **options: Any,
) -> None:
    """The gradient penalty of a Wasserstein critic, and its relatives.

    The function is called as penalty(critic, real, fake), images and samples (N, C, H, W), and returns one number, the
    mean over the batch.  The critic maps (N, C, H, W) to (N, 1), and works on tensors of any library; with torch, hand
    over `convert=torch.tensor`.  What is drawn inside is judged by its distribution.

    Args:
        form: "drawn": as above, ε is drawn inside.  "given": the function is called as penalty(critic, real, fake,
            eps), eps (N, 1, 1, 1).  "gradient": as penalty(gradient), the critic's gradient (N, C, H, W).
        target: the norm that is wanted: 1, or 0.
        sided: "two", or "one": max(0, ‖∇d‖ − 1)².
        at: x̂ "between" images and samples, or "real" or "fake" (R1: at="real", target=0, weight=γ/2).
        weight: λ, if the function multiplies by it.

    Equation: λ E (‖∇d(x̂)‖ − 1)², x̂ = ε x + (1 − ε) G(z), one ε for each sample; the norm over all of a sample.
    Gulrajani et al. 2017, eq. 3.

    >>> import numpy as np
    >>> check_gradient_penalty(lambda g: ((np.sqrt((g**2).sum(axis=(1, 2, 3))) - 1) ** 2).mean(), form="gradient")
    """
