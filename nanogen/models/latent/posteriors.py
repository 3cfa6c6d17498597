"""What the codes z of a VAE are: real numbers, whose posterior is normal or a mixture of normals, or classes.

A VAE needs E_q[log p(x|z)].  Each class of codes gives E_q[f(z)] as Σ w f(z) over a few draws z with weights w, with
gradients in the parameters of q.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import array_module, check_range, to_device
from nanogen.distributions import Categorical, Normal, kl_divergence
from nanogen.models.latent.base import RealCodes
from nanogen.random import Generator

Draws = list[tuple[Tensor, Any]]  # z (N, width) and w, (N,) or a number


def one_hot(scores: Tensor) -> Tensor:
    """1 at the largest score along the last axis, 0 elsewhere."""
    return F.one_hot(scores.data.argmax(-1), scores.shape[-1]).to(scores.dtype)


def gumbel_softmax(logits: Tensor, temperature: float, rng: Generator, hard: bool = False) -> Tensor:
    """softmax((logits + g) / temperature) over the last axis, g = −log(−log u) with u ~ U(0, 1): the shape of logits.

    The argmax is a draw from Categorical(logits), and as the temperature falls to 0 the result becomes its one-hot
    code.  With `hard` the result is that code and has the gradient of the soft one (straight-through).

    Jang, Gu & Poole 2017, eq. 1, 2, section 2.2; Maddison, Mnih & Teh 2017, section 3."""
    u = rng.uniform(logits.shape, dtype=logits.dtype)
    xp = array_module(u)
    noisy = logits - xp.log(-xp.log(xp.maximum(u, xp.finfo(u.dtype).tiny)))
    soft = F.softmax(noisy / temperature, dim=-1)
    return one_hot(noisy) + (soft - soft.detach()) if hard else soft


class NormalMixture:
    """q(z) = Σ_k π_k N(z; μ_k, diag σ_k²), π = softmax(logits).

    Args:
        logits: (N, K).
        components: N(μ_k, σ_k²), of shape (N, K, D).
    """

    def __init__(self, logits: Tensor, components: Normal):
        self.logits, self.components = logits, components

    def log_joint(self, z: Tensor) -> Tensor:
        """log q(k, z) = log π_k N(z; μ_k, diag σ_k²): z (N, D) to (N, K)."""
        return F.log_softmax(self.logits, dim=1) + self.components.log_prob(z.reshape(len(z), 1, -1)).sum(2)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) = log Σ_k q(k, z): z (N, D) to (N,)."""
        return F.logsumexp(self.log_joint(z), dim=1)

    def rsample(self, rng: Generator) -> Tensor:
        """k ~ π, then z ~ N(μ_k, diag σ_k²): (N, D).  Differentiable in μ and σ, not in π."""
        chosen = Categorical(self.logits).sample(rng).data
        return self.components.rsample(rng)[array_module(chosen).arange(len(chosen)), chosen]

    def likeliest_mean(self) -> Tensor:
        """μ_k of the component with the largest weight: (N, D)."""
        return (one_hot(self.logits).reshape(*self.logits.shape, 1) * self.components.mean).sum(1)


class GaussianCodes(RealCodes):
    """q(z|x) = N(μ, diag σ²) and p(z) = N(0, I), for z of `latent` real numbers.  Kingma & Welling 2014, eq. 9.

    Attributes:
        numbers: how many numbers the encoder computes for an image.
        width: how many numbers the decoder gets for a z.
    """

    def __init__(self, latent: int, **others: Any):
        self.latent, self.numbers, self.width = latent, 2 * latent, latent

    def density(self, numbers: Tensor) -> Any:
        """q(z|x) of the encoder's numbers (N, numbers)."""
        mean, log_variance = numbers.split(self.latent, 1)
        return Normal(mean, log_std=0.5 * log_variance)

    def prior(self, like: Tensor) -> Any:
        """p(z), for as many z as there are in `like`, (N, width)."""
        return Normal(like.detach() * 0.0, 1.0)

    def sample(self, q: Any, rng: Generator) -> Tensor:
        """z ~ q, of q(z|x) or of p(z): (N, width)."""
        return q.rsample(rng)

    def draws(self, q: Any, rng: Generator, hard: bool = True) -> Draws:
        """Draws from q, with weights.  Codes that are discrete are relaxed unless `hard`."""
        return [(self.sample(q, rng), 1.0)]

    def log_ratio(self, q: Any, p: Any, z: Tensor) -> Tensor:
        """log p(z) − log q(z|x): (N,), nats."""
        return (p.log_prob(z) - q.log_prob(z)).sum(1)

    def kl(self, q: Any, p: Any, draws: Draws) -> Tensor:
        """KL(q(z|x)‖p(z)), which is exact: (N,), nats."""
        return kl_divergence(q, p).sum(1)

    def code(self, q: Any) -> Tensor:
        """The mean of q: (N, width)."""
        return q.mean


class MixtureCodes(GaussianCodes):
    """q(z|x) = Σ_k π_k N(μ_k, diag σ_k²), p(z) = N(0, I): a posterior with several modes.

    E_q[f] = Σ_k π_k E_k[f], with one draw from each component.  So there is a gradient with respect to π too.
    Morningstar et al. 2021, Automatic Differentiation Variational Inference with Mixtures, section 3."""

    def __init__(self, latent: int, components: int, **others: Any):
        super().__init__(latent)
        self.components, self.numbers = components, components * (1 + 2 * latent)

    def density(self, numbers: Tensor) -> NormalMixture:
        logits, rest = numbers[:, : self.components], numbers[:, self.components :]
        mean, log_variance = rest.reshape(len(rest), self.components, -1).split(self.latent, 2)
        return NormalMixture(logits, Normal(mean, log_std=0.5 * log_variance))

    def draws(self, q: NormalMixture, rng: Generator, hard: bool = True) -> Draws:
        z, weights = q.components.rsample(rng), F.softmax(q.logits, dim=1)
        return [(z[:, k], weights[:, k]) for k in range(self.components)]

    def log_ratio(self, q: NormalMixture, p: Normal, z: Tensor) -> Tensor:
        return p.log_prob(z).sum(1) - q.log_prob(z)

    def kl(self, q: NormalMixture, p: Normal, draws: Draws) -> Tensor:
        """KL(q(z|x)‖p(z)) = Σ_k π_k KL(N_k‖p(z)) − I(k; z): (N,), nats.

        The information of z on its component, I = Σ_k π_k E_k[log q(k|z) − log π_k] ≤ log K, is by the draws; the rest
        is exact.  Together they are E_q[log q(z|x) − log p(z)]."""
        weights, log_weights = F.softmax(q.logits, dim=1), F.log_softmax(q.logits, dim=1)
        of_each = kl_divergence(q.components, self.prior(q.components.mean)).sum(2)
        log_posteriors = [F.log_softmax(q.log_joint(z), dim=1)[:, k] for k, (z, _) in enumerate(draws)]
        return (weights * (of_each - F.stack(log_posteriors, dim=1) + log_weights)).sum(1)

    def code(self, q: NormalMixture) -> Tensor:
        """The mean of the likeliest component: between two modes q may be small."""
        return q.likeliest_mean()


class CategoricalCodes(GaussianCodes):
    """z is `latent` variables of `categories` classes each, as one-hot codes; p(z) is uniform.

    In training z is relaxed to softmax((logits + g)/temperature), which has a gradient.  Jang, Gu & Poole 2017."""

    def __init__(self, latent: int, categories: int, temperature: float, **others: Any):
        self.latent, self.categories, self.temperature = latent, categories, temperature
        self.numbers = self.width = latent * categories
        self.values, self.shown = categories**latent, range(categories)

    def density(self, numbers: Tensor) -> Categorical:
        return Categorical(self.by_variable(numbers))

    def by_variable(self, z: Tensor) -> Tensor:
        """(N, width) to (N, latent, categories)."""
        return z.reshape(len(z), self.latent, self.categories)

    def prior(self, like: Tensor) -> Categorical:
        return Categorical(self.by_variable(like).detach() * 0.0)

    def sample(self, q: Categorical, rng: Generator) -> Tensor:
        return self.draws(q, rng)[0][0]

    def draws(self, q: Categorical, rng: Generator, hard: bool = True) -> Draws:
        return [(gumbel_softmax(q.logits, self.temperature, rng, hard).reshape(-1, self.width), 1.0)]

    def all_draws(self, q: Categorical) -> Draws:
        """Every z with its probability q(z|x): Σ w f(z) is E_q[f(z)] itself."""
        draws: Draws = []
        for classes in itertools.product(range(self.categories), repeat=self.latent):
            chosen = to_device(np.array([classes] * len(q.logits)), q.logits.device)
            z = F.one_hot(chosen, self.categories).to(q.logits.dtype).reshape(-1, self.width)
            draws.append((z, F.exp(q.log_prob(chosen).sum(1))))
        return draws

    def log_ratio(self, q: Categorical, p: Categorical, z: Tensor) -> Tensor:
        return super().log_ratio(q, p, self.by_variable(z).data.argmax(-1))

    def code(self, q: Categorical) -> Tensor:
        """The likeliest class of each variable."""
        return one_hot(q.logits).reshape(-1, self.width)

    def between(self, a: Tensor, b: Tensor, w: float) -> Tensor:
        """The first variables are those of b, a share w of them; the others are those of a."""
        switched = round(w * self.latent) * self.categories
        return F.cat([b[:, :switched], a[:, switched:]], 1)

    def changed(self, z: Tensor, dimension: int, value: Any) -> Tensor:
        """z with one variable in class `value`."""
        check_range("dimension", np.array(dimension), self.latent)
        check_range("values", np.array(value), self.categories)
        found = self.by_variable(z).data.copy()
        found[:, dimension], found[:, dimension, value] = 0, 1
        return Tensor(found.reshape(z.shape))


POSTERIORS = {"gaussian": GaussianCodes, "mixture": MixtureCodes, "categorical": CategoricalCodes}
