"""The reverse process of diffusion, and sampling from it, for any network.

    p_θ(x_{t−1} | x_t) = N(μ_θ(x_t, t), σ_t² I),  t = T … 1                                  Ho et al. 2020, eq. 1

Its steps one by one are algorithm 2 of that paper; DDIM takes fewer and larger ones.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import numpy as np

from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, device_of, resident, to_numpy
from nanogen.data.images import Images
from nanogen.distributions import Normal, unscale_levels
from nanogen.models.base import GenerativeModel, check_counts, check_nonnegative, progress
from nanogen.models.diffusion.schedule import NoiseSchedule
from nanogen.random import Generator


class Diffusion(GenerativeModel):
    """The reverse process of a noise schedule, whose means follow from a prediction of the clean image.

    Attributes:
        schedule: the NoiseSchedule of the forward process.
        variance: σ_t² of the reverse process, `beta` or `posterior`; or another, if `reverse` is overridden.
        guidable: whether the model also predicts without a label, which guidance needs.
    """

    schedule: NoiseSchedule
    variance: str
    guidable: bool = False

    @property
    def T(self) -> int:
        return self.schedule.T

    @property
    def reverse_variances(self) -> np.ndarray:
        """σ_t² for t = 0 … T.  At t = 1 `posterior` has β̃_2, as in the authors' code: β̃_1 is 0."""
        if self.variance == "beta":
            return self.schedule.betas.copy()
        variances = self.schedule.posterior_variances.copy()
        variances[1] = variances[2]
        return variances

    def network_times(self, t: Any, like: Tensor) -> Any:
        """The times (N,) as the network was trained with them: those of the schedule before it was respaced."""
        if self.schedule.times is None:
            return t
        return resident(self.schedule.times, np.int64, device_of(like.data))[array_module(like.data).asarray(t)]

    def predict_x0(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """The clean image x̂_0 (N, C, H, W), predicted from noisy images (N, C, H, W) and times (N,)."""
        raise NotImplementedError

    def p_mean(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """μ_θ(x_t, t), the mean of p_θ(x_{t−1} | x_t): μ̃_t (eq. 7) at the predicted x̂_0.

        Where x̂_0 is not clipped this is eq. 11, `NoiseSchedule.mean_from_noise` of the predicted noise."""
        return self.schedule.mean_from_x0(x_t, t, self.predict_x0(x_t, t, **given))

    def reverse(self, x_t: Tensor, t: Any, **given: Array) -> Normal:
        """p_θ(x_{t−1} | x_t), from one evaluation of the network.  Ho et al. 2020, eq. 1."""
        return Normal(self.p_mean(x_t, t, **given), self.schedule.at(self.reverse_variances**0.5, t, x_t))

    def respaced(self, steps: int) -> Self:
        """This model on a schedule of fewer steps, evenly spaced times of 1 … T with both ends.  It shares the weights.

        Nichol & Dhariwal 2021, section 4.

        Raises:
            ValueError: steps not in 2 … T."""
        if not isinstance(steps, int) or not 2 <= steps <= self.T:
            raise ValueError(f"respaced must be in 2 … {self.T}, got {steps!r}")
        model = copy.copy(self)
        model.schedule = self.schedule.respaced([round(t) for t in np.linspace(1, self.T, steps)])
        return model

    def density_with(  # type: ignore[override]
        self, respaced: int | None = None, **sampling: Any
    ) -> Self:
        return self.respaced(respaced) if respaced else self

    @property
    def network_evaluations(self) -> int:
        return self.T

    def evaluations_with(  # type: ignore[override]
        self, steps: int | None = None, eta: float = 0.0, respaced: int | None = None, guidance: float = 0.0,
        prompt: str | None = None,
    ) -> int:  # fmt: skip
        """T, or the number of DDIM's steps or of the respaced schedule's; twice as many with guidance.

        Raises:
            ValueError: steps, eta, respaced or guidance out of range, eta without steps, respaced with them, or
                guidance not learned."""
        if respaced is not None:
            if steps is not None or eta:
                raise ValueError("respaced must be given without steps and eta, which are DDIM's")
            return self.respaced(respaced).evaluations_with(guidance=guidance)
        if steps is None and eta:
            raise ValueError("eta is DDIM's: give steps too")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {eta}")
        check_nonnegative(guidance=guidance)
        if guidance and not self.guidable:
            raise ValueError(f"guidance {guidance} needs a model with classes and label_dropout above 0")
        return (self.T if steps is None else len(ddim_times(self.T, steps)) - 1) * (2 if guidance else 1)

    def sampling_within(self, evaluations: int) -> dict[str, Any]:
        """DDIM with at most 100 steps, if T steps would be too many."""
        return {"steps": min(evaluations, 100)} if evaluations < self.T else {}

    def sample(
        self, n: int, rng: Generator, labels: Any = None, steps: int | None = None, eta: float = 0.0,
        respaced: int | None = None, guidance: float = 0.0, prompt: str | None = None,
    ) -> Array:  # fmt: skip
        """n images of integer levels: uint8 (n, C, H, W).

        By the T steps of the reverse process (algorithm 2), by those of a respaced schedule, or by DDIM if a number of
        `steps` is given.  With guidance w the prediction is (1 + w) times that given the label, less w times that
        without.  A prompt is a label in words.

        Raises:
            ValueError: n, steps, respaced or guidance out of range, eta without steps, respaced with them, labels and
                a prompt."""
        self.evaluations_with(steps, eta, respaced, guidance)
        if respaced is not None:
            return self.respaced(respaced).sample(n, rng, labels, guidance=guidance, prompt=prompt)
        if prompt is not None and labels is not None:
            raise ValueError("labels must not be given beside a prompt")
        given = self.condition(labels if prompt is None else [prompt] * n, n, rng)
        given |= {"guidance": guidance} if guidance else {}
        trajectory = self.ancestral(n, rng, **given) if steps is None else self.ddim(n, rng, steps, eta, **given)
        return self.last_of(trajectory)

    def last_of(self, trajectory: Iterator[tuple[int, Tensor]]) -> Array:
        """The images at the end of a trajectory, of integer levels: uint8 (N, C, H, W)."""
        for _, x in trajectory:
            last = x
        return self.decode(last)

    def encode(self, images: Any) -> Tensor:
        """x_0, which the diffusion is of, from images of integer levels: here the images scaled to [−1, 1]."""
        return self.scaled(self.pixels(images))

    def decode(self, x: Tensor) -> Array:
        """The images of integer levels, uint8 (N, C, H, W), that belong to x_0 or any x_t."""
        return unscale_levels(x.data, self.levels)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one x_t."""
        return self.image_shape

    def _start(self, n: int, rng: Generator) -> Tensor:
        check_counts(n=n)
        return Tensor(rng.normal((n, *self.x_shape), dtype=self.dtype))

    def ancestral(
        self, n: int, rng: Generator, labels: Any = None, times: Sequence[int] | None = None,
        start: Tensor | None = None, between: Callable[[Tensor, int], Tensor] | None = None, **given: Any,
    ) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
        """x_T ~ N(0, I), then x_{t−1} = μ_θ(x_t, t) + σ_t z down to x_0, without noise at t = 1.

        Yields (t, x_t) for t = T … 0.  Ho et al. 2020, algorithm 2.

        Args:
            times: another walk than T … 0: one step down by p_θ, and any number of steps up by q.
            start: x at the first of the times, in place of noise.
            between: after each step down, x_t and t to the x_t from which to go on.
            given: more for the network, besides the labels."""
        x = self._start(n, rng) if start is None else start
        given, walk = self.condition(labels, n) | given, range(self.T, -1, -1) if times is None else times
        yield walk[0], x
        for t, s in progress(list(itertools.pairwise(walk)), "sampling step"):
            with no_grad():
                if s > t:
                    x = self.schedule.forward(x, t, s, rng.normal(x.shape, dtype=x.dtype))
                else:
                    p = self.reverse(x, array_module(x.data).full(n, t), **given)
                    x = p.mean + p.std * rng.normal(x.shape, dtype=x.dtype) if t > 1 else p.mean
                    x = between(x, s) if between else x
            yield s, x

    def ddim(
        self, n: int, rng: Generator, steps: int, eta: float = 0.0, labels: Any = None, start: Tensor | None = None,
        **given: Any,
    ) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
        """x_T ~ N(0, I), then fewer and larger steps t → s, deterministic if eta = 0.  Yields each (t, x_t).

        x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z,  σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s).  Song et al. 2021, eq. 12
        and 16.

        Args:
            start: x_T, in place of noise.
            given: more for the network, besides the labels."""
        self.evaluations_with(steps, eta)
        x, times, schedule = self._start(n, rng) if start is None else start, ddim_times(self.T, steps), self.schedule
        given = self.condition(labels, n) | given
        yield self.T, x
        for t, s in progress(list(itertools.pairwise(times)), "sampling step"):
            before, after = schedule.q_variance(0, t), float(schedule.q_variance(0, s))  # 1 − ᾱ_t, 1 − ᾱ_s
            sigma2 = float(eta**2 * after / before * schedule.q_variance(s, t))
            with no_grad():
                x = self.ddim_step(x, t, s, sigma2, **given)
                if sigma2 > 0:
                    x = x + sigma2**0.5 * rng.normal(x.shape, dtype=x.dtype)
            yield s, x

    def ddim_step(self, x: Tensor, t: int, s: int, sigma2: float = 0.0, **given: Array) -> Tensor:
        """√ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂, from x_t; down, or up with σ² = 0.  Song et al. 2021, eq. 12.

        ε̂ is the noise that belongs to the clipped x̂_0.  In x_0 there is none, so ε̂ is that at t = 1."""
        schedule, after = self.schedule, float(self.schedule.q_variance(0, s))  # 1 − ᾱ_s
        now = array_module(x.data).full(len(x), max(t, 1))
        x0 = self.predict_x0(x, now, **given)
        noise = schedule.noise_from_x0(x, now, x0)
        x0 = x0 if t else x
        return float(schedule.sqrt_alpha_bars[s]) * x0 + max(after - sigma2, 0.0) ** 0.5 * noise

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """denoising: each row is one sample, x_t from the noise at t = T (left) to the image at t = 0 (right)"""
        n, frames = 8, 12
        shown = [round(self.T * (1 - i / (frames - 1)) ** 3) for i in range(frames)]  # images change most at small t
        strips = self.ancestral(n, rng, **self.class_by_row(n, 1))
        film = [to_numpy(self.decode(x)) for t, x in strips if t in shown]
        return {"denoising": np.stack(film, axis=1)}


def ddim_times(T: int, steps: int) -> list[int]:
    """steps + 1 decreasing times from T to 0, evenly spaced up to rounding to integers.

    Raises:
        ValueError: steps not in 1 … T."""
    if not isinstance(steps, int) or not 1 <= steps <= T:
        raise ValueError(f"steps must be in 1 … {T}, got {steps!r}")
    return [round(T * (steps - i) / steps) for i in range(steps + 1)]
