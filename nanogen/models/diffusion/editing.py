"""Editing by a trained diffusion model, without training for it.

SDEdit        the image is noised up to a time t_0, and denoised from there                     Meng et al. 2022
inpainting    at each time the known pixels are drawn from q(x_t | x_0)                         Lugmayr et al. 2022
panorama      overlapping windows of a wide image, whose predictions are averaged               Bar-Tal et al. 2023
inversion     DDIM from the image to its noise, in which images can be interpolated              Song et al. 2021
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, no_grad
from nanogen.backend import Array, array_module, to_device, to_numpy
from nanogen.data.images import Images
from nanogen.models.base import check_counts, is_count
from nanogen.models.diffusion.base import Diffusion, ddim_times
from nanogen.random import Generator


class Editable(Diffusion):
    """A diffusion model of images, which can edit them."""

    def edit(self, images: Any, strength: float, rng: Generator, labels: Any = None, **how: Any) -> Array:
        """Images (N, C, H, W) with other details: noise up to t_0 = strength · T, then the reverse process; uint8.

        Strength 0 returns the images.  1 forgets them: it is `sample`, from N(0, I).  Meng et al. 2022, algorithm 1.

        Args:
            how: more for the network, besides the labels.

        Raises:
            ValueError: a strength outside [0, 1]."""
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be in [0, 1], got {strength!r}")
        x0, n, t = self.encode(images), len(images), round(strength * self.T)
        given = self.condition(labels, n, rng) | how
        noised = lambda: self.schedule.q_sample(x0, t, Tensor(rng.normal(x0.shape, dtype=x0.dtype)))
        start = noised() if t < self.T else None
        return self.last_of(self.ancestral(n, rng, times=range(t, -1, -1), start=start, **given))

    def inpaint(
        self, images: Any, mask: Any, rng: Generator, labels: Any = None, resample: int = 1, jump: int = 1, **how: Any
    ) -> Array:
        """Images (N, C, H, W) whose pixels in the mask are painted anew: uint8.  The others are returned as they are.

        Args:
            mask: True where an image is painted anew, of a shape that broadcasts to (N, C, H, W).
            resample, jump: see `repaint_times`.
            how: more for the network.

        Raises:
            TypeError, ValueError: a mask of another type or shape; resample or jump out of range."""
        x0 = self.encode(images)
        anew = to_device(mask if hasattr(mask, "dtype") else np.asarray(mask), self.device)
        if anew.dtype != bool:
            raise TypeError(f"mask must be of bool, True where an image is painted anew, got {anew.dtype}")
        sides = zip(reversed(anew.shape), reversed(x0.shape), strict=False)
        if anew.ndim > 4 or any(side not in (1, whole) for side, whole in sides):
            raise ValueError(f"mask must broadcast to the images, {x0.shape}, got shape {anew.shape}")
        given = self.condition(labels, len(images), rng) | how
        return self.last_of(self.inpainting(x0, anew, rng, resample, jump, **given))

    def inpainting(
        self, x0: Tensor, anew: Array, rng: Generator, resample: int = 1, jump: int = 1, **given: Array
    ) -> Iterator[tuple[int, Tensor]]:
        """Yields (t, x_t) of the reverse process in whose every x_{t−1} the known pixels are replaced.

        x_{t−1} = m ⊙ (draw of p_θ(x_{t−1} | x_t)) + (1 − m) ⊙ (draw of q(x_{t−1} | x_0)).  Lugmayr et al. 2022, (8).
        """

        def between(x: Tensor, t: int) -> Tensor:
            known = self.schedule.q_sample(x0, t, Tensor(rng.normal(x0.shape, dtype=x0.dtype)))
            return F.where(anew, x, known)

        times = repaint_times(self.T, resample, jump)
        return self.ancestral(len(x0), rng, times=times, between=between, **given)

    def widened(self, width: int, stride: int | None = None) -> Panorama:
        """This model for images of another width, which must not be smaller than its own: see `Panorama`."""
        return Panorama(self, width, stride)

    def panorama(
        self, n: int, rng: Generator, width: int, stride: int | None = None, labels: Any = None, **how: Any
    ) -> Array:
        """n images of the given width: uint8 (n, C, H, width).  `how` are settings of `sample`."""
        return self.widened(width, stride).sample(n, rng, labels, **how)

    def to_noise(self, x0: Tensor, steps: int, **given: Array) -> Tensor:
        """x_T from which DDIM's deterministic steps lead to x_0, (N, C, H, W): the same steps upwards.

        It is exact in the limit of many steps.  Song et al. 2021, section 4.3."""
        x = x0
        with no_grad():
            for t, s in itertools.pairwise(reversed(ddim_times(self.T, steps))):
                x = self.ddim_step(x, t, s, **given)
        return x

    def invert(self, images: Any, steps: int, labels: Any = None) -> Tensor:
        """The noise x_T of images of integer levels: (N, C, H, W)."""
        given = self.condition(labels, len(images))
        return self.to_noise(self.encode(images), steps, **given)

    def interpolate(self, a: Any, b: Any, n: int = 8, steps: int = 50, labels: Any = None) -> Array:
        """n images from each image of a to that of b, through their noises: uint8 (N, n, C, H, W).  The first and the
        last are nearly the images themselves.

        Raises:
            ValueError: n or steps out of range."""
        check_counts(n=n)
        first, last = (self.invert(images, steps, labels) for images in (a, b))
        line = F.cat([slerp(first, last, i / max(n - 1, 1)) for i in range(n)])
        given = {name: repeated(value, n) for name, value in self.condition(labels, len(a)).items()}
        drawn = self.last_of(self.ddim(len(line), Generator(0), steps, start=line, **given))  # η = 0: nothing is drawn
        return drawn.reshape(n, len(a), *drawn.shape[1:]).swapaxes(0, 1)

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - denoising: each row is one sample, x_t from the noise at t = T (left) to the image at t = 0 (right)
        - interpolation: from one test image (left) to another (right), through the noises that lead to them by DDIM"""
        images, given = self.first_images(test, 16)
        if given:  # two of a class in each row, as far as there are
            order = np.lexsort(to_numpy(given["labels"]).reshape(len(images), -1).T[::-1])
            images, given = images[order], {"labels": given["labels"][order][::2]}
        drawn = self.interpolate(images[::2], images[1::2], 8, min(50, self.T), **given)
        return {**super().illustrations(train, test, rng), "interpolation": to_numpy(drawn)}


class Panorama(Editable):
    """A diffusion model of wide images, made of one of narrower images.  Bar-Tal et al. 2023, MultiDiffusion, eq. 5.

    Windows of the width of the model's images overlap; the predictions x̂_0 that they have for a pixel are averaged.
    A model with learned variances has β̃_t here.

    Args:
        model: of narrower images.
        width: of the wide ones.
        stride: from one window to the next, in pixels; unless given, a quarter of the model's width.

    Raises:
        ValueError: a width below that of the model, a stride outside 1 … that width."""

    def __init__(self, model: Diffusion, width: int, stride: int | None = None):
        colors, height, self.window = model.image_shape
        stride = max(1, self.window // 4) if stride is None else stride
        if not is_count(width) or width < self.window:
            raise ValueError(f"width must be at least {self.window}, that of the model's images, got {width!r}")
        if not is_count(stride) or stride > self.window:
            raise ValueError(f"stride must be in 1 … {self.window}, the width of the model's images, got {stride!r}")
        super().__init__((colors, height, width), model.levels, model.classes)
        self.model, self.schedule, self.variance = model, model.schedule, model.variance
        self.places = [*range(0, width - self.window, stride), width - self.window]

    def predict_x0(self, x_t: Tensor, t: Any, **given: Array) -> Tensor:
        """The average of the windows' x̂_0, (N, C, H, width)."""
        xp, n, windows = array_module(x_t.data), len(x_t), [slice(i, i + self.window) for i in self.places]
        of_each = F.cat([x_t[..., window] for window in windows])
        given = {name: repeated(value, len(windows)) for name, value in given.items()}
        found = self.model.predict_x0(of_each, repeated(t, len(windows)), **given).data
        total, count = xp.zeros_like(x_t.data), xp.zeros_like(x_t.data)
        for i, window in enumerate(windows):
            total[..., window] += found[i * n : (i + 1) * n]
            count[..., window] += 1
        return Tensor(total / count)


def repaint_times(T: int, resample: int, jump: int) -> list[int]:
    """The walk T … 0 on which every `jump` steps down are taken `resample` times, with as many steps of noise between.

    So the painted pixels come to agree with the known ones.  Lugmayr et al. 2022, algorithm 1, with jumps.

    Raises:
        ValueError: resample or jump that is not a positive integer."""
    check_counts(resample=resample, jump=jump)
    times = [T]
    for t in reversed(range(T)):
        times.append(t)
        if t and t % jump == 0 and t + jump <= T:
            times += [*range(t + 1, t + jump + 1), *reversed(range(t, t + jump))] * (resample - 1)
    return times


def repeated(value: Any, times: int) -> Any:
    """What belongs to N images, for `times` copies of the N, one after the other; a single number is that of all."""
    return array_module(value).concatenate([value] * times) if getattr(value, "ndim", 0) else value


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """sin((1 − s) θ)/sin θ · a + sin(s θ)/sin θ · b, θ the angle between an image of a and that of b: (N, C, H, W).

    Between two draws of N(0, I) it keeps their length, unlike a straight line.  Song et al. 2021, appendix D.5."""
    xp = array_module(a.data)
    dot = lambda x, y: (x * y).reshape(len(x), -1).sum(1)[:, None, None, None]
    cosine = dot(a.data, b.data) / xp.sqrt(dot(a.data, a.data) * dot(b.data, b.data))
    angle = xp.maximum(xp.arccos(xp.clip(cosine, -1, 1)), 1e-4)  # at 0 both weights are those of a straight line
    weights = xp.sin((1 - share) * angle) / xp.sin(angle), xp.sin(share * angle) / xp.sin(angle)
    return Tensor(weights[0] * a.data + weights[1] * b.data)
