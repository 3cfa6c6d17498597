"""What the four families share: images of integer levels in, images of integer levels out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from nanogen.autograd import Tensor
from nanogen.backend import Array, to_device
from nanogen.data.images import check_levels
from nanogen.distributions import scale_levels
from nanogen.nn import Module
from nanogen.random import Generator


class Update(NamedTuple):
    """One part of a training step: the gradient of `loss(images, rng)` moves the parameters of `part`."""

    name: str
    loss: Callable[[Any, Generator], Tensor]
    part: Module


class GenerativeModel(Module):
    """Args: image_shape (C, H, W); levels, the number of integer levels of a pixel, 2 to 256.

    Raises:
        ValueError: a shape that is not three positive integers, levels outside 2 … 256.
    """

    def __init__(self, image_shape: tuple[int, int, int], levels: int):
        super().__init__()
        if len(tuple(image_shape)) != 3 or any(not is_count(n) for n in image_shape):
            raise ValueError(f"image_shape must be (C, H, W), three positive integers, got {image_shape!r}")
        if not is_count(levels) or not 2 <= levels <= 256:
            raise ValueError(f"levels must be an integer in 2 … 256, got {levels!r}")
        self.image_shape, self.levels = tuple(image_shape), levels

    @property
    def dimensions(self) -> int:
        """How many numbers an image is made of."""
        return math.prod(self.image_shape)

    @property
    def anchor(self) -> Tensor:
        """Some parameter: its type and device are the model's."""
        return next(self.parameters())

    def pixels(self, images: Any) -> Array:
        """The images' levels, checked, on the model's device."""
        levels: Array = images.data if isinstance(images, Tensor) else images
        check_levels(levels, self.levels, self.image_shape)
        return to_device(levels, self.anchor.device)

    def scaled(self, levels: Array) -> Tensor:
        """Levels as the network sees them: evenly spaced in [−1, 1], in the model's type."""
        return Tensor(scale_levels(to_device(levels, self.anchor.device), self.levels, self.anchor.dtype))

    def loss(self, images: Any, rng: Generator) -> Tensor:
        """The number that training makes small."""
        raise NotImplementedError

    def updates(self) -> list[Update]:
        """What one training step does, in this order."""
        return [Update("loss", self.loss, self)]

    def repeated(self) -> list[Module]:
        """The networks that sampling calls again and again, with images of one shape."""
        return []

    def sample(self, n: int, rng: Generator) -> Array:
        """n images of integer levels: uint8 (n, C, H, W)."""
        raise NotImplementedError


def is_count(value: Any) -> bool:
    """A positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_counts(**settings: Any) -> None:
    """Raises:
    ValueError: a setting that is no positive integer."""
    for name, value in settings.items():
        if not is_count(value):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_choice(**settings: Any) -> None:
    """Each setting is given as `(value, choices)`.

    Raises:
        ValueError: a value that is not among the choices."""
    for name, (value, choices) in settings.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
