"""The learning rate of a training step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nanogen.testing.property import checker


def _rate(
    rise: Callable[..., float] | None = None,
    fall: Callable[[float], float] | None = None,
    shift: int = 0,
    ahead: int = 0,
) -> Callable[..., Any]:
    def truth(t: int, *, lr: float, steps: int, warmup: int, decay: str, over: str, least: float, first: int) -> Any:
        if (rise and not warmup) or (fall and decay == "none"):
            return None
        n = t - first + shift  # steps that are done
        up = min(1.0, (rise or _rise)(n, warmup)) if warmup else 1.0
        start = warmup if over == "rest" else 0
        share = min(max((n + ahead - start) / (steps - start), 0.0), 1.0)
        down = (fall or {"cosine": _half_cosine, "linear": lambda s: 1 - s, "none": lambda s: 1.0}[decay])(share)
        return up * (least + (lr - least) * down)

    return truth


def _rise(n: int, warmup: int) -> float:
    return (n + 1) / warmup


def _half_cosine(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


@checker(
    name="learning rate",
    equation="min(1, (n + 1)/W) · (η_min + (η − η_min) ½ (1 + cos πs)), n the steps done, s their share",
    source="Goyal et al. 2017, section 2.2; Loshchilov & Hutter 2017, eq. 5",
    inputs=lambda draw, *, steps, warmup, first, **_: {
        "t": first + draw.pick(0, 1, draw.integer(0, steps - 1), draw.integer(0, max(warmup, 1)), steps - 1)
    },
    truth=_rate(),
    mistakes={
        "n/W: the first step has the rate 0": _rate(rise=lambda n, warmup: n / warmup),
        "(n + 1)/(W + 1)": _rate(rise=lambda n, warmup: (n + 1) / (warmup + 1)),
        "no warm-up": _rate(rise=lambda n, warmup: 1.0),
        "the root of the rise": _rate(rise=lambda n, warmup: ((n + 1) / warmup) ** 0.5),
        "every step one late": _rate(shift=-1),
        "cos π(n + 1)/steps: the decay one step ahead": _rate(ahead=1),
        "cos πs/2, a quarter of the wave": _rate(fall=lambda s: math.cos(math.pi * s / 2)),
        "cos πs without ½ (1 + …)": _rate(fall=lambda s: math.cos(math.pi * s)),
        "½ (1 + cos 2πs), a whole wave": _rate(fall=lambda s: 0.5 * (1 + math.cos(2 * math.pi * s))),
        "½ (1 − cos πs): rising": _rate(fall=lambda s: 0.5 * (1 - math.cos(math.pi * s))),
        "1 + cos πs, without ½": _rate(fall=lambda s: 1 + math.cos(math.pi * s)),
    },
    conventions={"decay": ("cosine", "linear", "none"), "over": ("all", "rest")},
    where={"in the warm-up": lambda t, *, warmup, first, **_: t - first < warmup},
    tags=("training",),
)
def check_learning_rate(
    rate: Any,
    *,
    lr: float = 0.1,
    steps: int = 50,
    warmup: int = 10,
    decay: str = "cosine",
    over: str = "rest",
    least: float = 0.0,
    first: int = 0,
    **options: Any,
) -> None:
    """The learning rate of a step: a linear warm-up, then a decay.

    The function is called as rate(t), a Python integer, and returns the rate of step t.

    Args:
        lr, steps, warmup: the largest rate, the number of steps, and how many of these the warm-up has; it may be 0.
        decay: "cosine", "linear" or "none".
        over: whether the decay goes over the "rest" of the steps after the warm-up, or over "all" of them, times the
            warm-up.
        least: what the rate falls to.
        first: the number of the first step, 0 or 1.

    Equation: η_t = min(1, (n + 1)/W) · (η_min + (η − η_min) ½ (1 + cos πs)), n = t − first, s = (n − W)/(steps − W), at
    least 0; or n/steps.  Goyal et al. 2017, section 2.2; Loshchilov & Hutter 2017, eq. 5.

    >>> import math
    >>> def rate(t):
    ...     return 0.1 * min(1, (t + 1) / 10) * 0.5 * (1 + math.cos(math.pi * max(0, t - 10) / 40))
    >>> check_learning_rate(rate, lr=0.1, steps=50, warmup=10)
    """
