"""What discriminator and generator minimise: a pair of losses on logits for each objective, in `OBJECTIVES`.

D answers an image with one number d, its logit: (N,) for images x, `real`, and for samples G(z), `fake`.

- `non-saturating`, `minimax`: D(x) = sigmoid(d) is the probability that x is real.  Goodfellow et al. 2014.
- `least-squares`: d is to be b for images and a for samples; G wants c.  Mao et al. 2017.
- `wasserstein`: the difference of means, which is the Wasserstein distance of images and samples if D has the largest
  one among all functions of slope at most 1.  Arjovsky et al. 2017; the slope: `gradient_penalty`, or clipped weights.
- `hinge`: d is to be beyond a margin, 1 for images and −1 for samples.  Lim & Ye 2017; Miyato et al. 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nanogen import functional as F
from nanogen.autograd import Tensor, grad
from nanogen.random import Generator

Targets = tuple[float, float, float]  # a, b, c of least squares, which the other objectives do without
TARGETS = (0.0, 1.0, 1.0)  # Mao et al. 2017, section 3.2: the 0-1 coding


class Objective(NamedTuple):
    """Attributes:
    discriminator: logits of images and of samples, and the targets, to the loss of D.
    generator: logits of samples, and the targets, to the loss of G.
    unit: of both, in words.
    """

    discriminator: Callable[[Tensor, Tensor, Targets], Tensor]
    generator: Callable[[Tensor, Targets], Tensor]
    unit: str


def minus_value(real: Tensor, fake: Tensor, _: Targets = TARGETS) -> Tensor:
    """−V(D, G) = −E[log D(x)] − E[log(1 − D(G(z)))]; −log sigmoid(d) = softplus(−d).  Goodfellow et al. 2014, eq. 1."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax(fake: Tensor, _: Targets = TARGETS) -> Tensor:
    """E[log(1 − D(G(z)))], whose gradient −D in the logit vanishes where D is confident.  Goodfellow et al., eq. 1."""
    return -F.softplus(fake).mean()


def non_saturating(fake: Tensor, _: Targets = TARGETS) -> Tensor:
    """−E[log D(G(z))], whose gradient in the logit is −(1 − D).  Goodfellow et al. 2014, section 3."""
    return F.softplus(-fake).mean()


def least_squares_discriminator(real: Tensor, fake: Tensor, targets: Targets = TARGETS) -> Tensor:
    """½ E[(d(x) − b)²] + ½ E[(d(G(z)) − a)²].  Mao et al. 2017, eq. 2."""
    a, b, _ = targets
    return 0.5 * ((real - b) ** 2).mean() + 0.5 * ((fake - a) ** 2).mean()


def least_squares_generator(fake: Tensor, targets: Targets = TARGETS) -> Tensor:
    """½ E[(d(G(z)) − c)²].  Mao et al. 2017, eq. 2."""
    return 0.5 * ((fake - targets[2]) ** 2).mean()


def minus_difference(real: Tensor, fake: Tensor, _: Targets = TARGETS) -> Tensor:
    """E[d(G(z))] − E[d(x)].  Arjovsky et al. 2017, eq. 2 and algorithm 1, line 5."""
    return fake.mean() - real.mean()


def hinge_discriminator(real: Tensor, fake: Tensor, _: Targets = TARGETS) -> Tensor:
    """E[max(0, 1 − d(x))] + E[max(0, 1 + d(G(z)))].  Lim & Ye 2017; Miyato et al. 2018, eq. 16."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()


def minus_mean(fake: Tensor, _: Targets = TARGETS) -> Tensor:
    """−E[d(G(z))].  Arjovsky et al. 2017, algorithm 1, line 10; Miyato et al. 2018, eq. 17."""
    return -fake.mean()


OBJECTIVES = {
    "non-saturating": Objective(minus_value, non_saturating, "nats"),
    "minimax": Objective(minus_value, minimax, "nats"),
    "least-squares": Objective(
        least_squares_discriminator, least_squares_generator, "squared units of the discriminator's output"
    ),
    "wasserstein": Objective(minus_difference, minus_mean, "units of the critic's output"),
    "hinge": Objective(hinge_discriminator, minus_mean, "units of the discriminator's output"),
}


def discriminator_loss(
    real_logits: Tensor, fake_logits: Tensor, objective: str = "non-saturating", targets: Targets = TARGETS
) -> Tensor:
    """What D minimises, from the logits (N,) of images and (M,) of samples."""
    return OBJECTIVES[objective].discriminator(real_logits, fake_logits, targets)


def generator_loss(fake_logits: Tensor, objective: str = "non-saturating", targets: Targets = TARGETS) -> Tensor:
    """What G minimises, from the logits (M,) of samples."""
    return OBJECTIVES[objective].generator(fake_logits, targets)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, rng: Generator) -> Tensor:
    """E[(‖∇d(x̂)‖ − 1)²] at x̂ = ε x + (1 − ε) G(z), ε ~ U[0, 1], one ε per image.  Gulrajani et al. 2017, eq. 3.

    Shapes: real and fake (N, *).  The norm is over all of an image's gradient.  `critic` maps (N, *) to (N,), and its
    output for an image must not depend on the other images."""
    epsilon = rng.uniform((len(real), *[1] * (real.ndim - 1)), dtype=real.dtype)
    between = Tensor(epsilon * real.data + (1 - epsilon) * fake.data)
    between.requires_grad = True
    gradient: Any = grad(critic(between).sum(), between, create_graph=True)[0]
    norm = ((gradient**2).sum(tuple(range(1, real.ndim))) + 1e-12) ** 0.5  # √ has no derivative at 0
    return ((norm - 1.0) ** 2).mean()
