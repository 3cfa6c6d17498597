"""What all models share: images of integer levels in, images of integer levels out, and what each says of itself.

Training, evaluation and pictures know this interface and no model's class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, check_range, to_device
from nanogen.data.images import MOST_CLASSES, Images, check_levels
from nanogen.distributions import scale_levels
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator


class Update(NamedTuple):
    """One part of a training step: the gradient of `loss(images, rng)` moves the parameters of `part`.

    A conditional model's is `loss(images, rng, labels)`."""

    name: str
    loss: Callable[..., Tensor]
    part: Module


class GenerativeModel(Module):
    """A model has besides these methods, where it has a density, `log_prob(images, labels=None)`, exact, or
    `elbo(images, rng, labels=None)`, a lower bound: nats per image, (N,).

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels of a pixel, 2 to 256.
        classes: the number of labels that images are conditioned on; 0: unconditional.

    Attributes:
        summary: what it is, in a line.
        small, large: how it is trained on images of up to 16×16, a minute or so on two cores, and on larger ones.

    Raises:
        ValueError: a shape that is not three positive integers, levels outside 2 … 256, classes outside 0 … 65536.
    """

    summary: ClassVar[str] = ""
    small: ClassVar[Recipe] = Recipe(steps=800)
    large: ClassVar[Recipe] = large(steps=4000)

    def __init__(self, image_shape: tuple[int, int, int], levels: int, classes: int = 0):
        super().__init__()
        if len(tuple(image_shape)) != 3 or any(not is_count(n) for n in image_shape):
            raise ValueError(f"image_shape must be (C, H, W), three positive integers, got {image_shape!r}")
        if not is_count(levels) or not 2 <= levels <= 256:
            raise ValueError(f"levels must be an integer in 2 … 256, got {levels!r}")
        if classes != 0 and not (is_count(classes) and classes <= MOST_CLASSES):
            raise ValueError(f"classes must be an integer in 0 … {MOST_CLASSES}, got {classes!r}")
        self.image_shape, self.levels, self.classes = tuple(image_shape), levels, classes

    @classmethod
    def recipe(cls, image_shape: tuple[int, int, int]) -> Recipe:
        """The recipe for images of a shape (C, H, W)."""
        return cls.small if max(image_shape[1:]) <= 16 else cls.large

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

    def condition(self, labels: Any, n: int, rng: Generator | None = None) -> dict[str, Array]:
        """What the networks are told of n images: their `labels` (n,), on the model's device; nothing if unconditional.

        Labels that are not given are drawn from `rng`, each class equally likely.

        Raises:
            ValueError: labels of an unconditional model; none, and no rng; other than n integers in 0 … classes − 1.
        """
        if not self.classes:
            if labels is not None:
                raise ValueError("labels must not be given: the model is unconditional (classes=0)")
            return {}
        if labels is None:
            if rng is None:
                raise ValueError(f"labels must be given: the model is of {self.classes} classes")
            labels = rng.integers(0, self.classes, n)
        found = labels.data if isinstance(labels, Tensor) else labels if hasattr(labels, "dtype") else np.array(labels)
        if found.shape != (n,) or found.dtype.kind not in "iu":
            raise ValueError(f"labels must be {n} integers, one an image, got {found.dtype} of shape {found.shape}")
        check_range("labels", found, self.classes)
        return {"labels": to_device(found, self.anchor.device)}

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The number that training makes small."""
        raise NotImplementedError

    def updates(self) -> list[Update]:
        """What one training step does, in this order."""
        return [Update("loss", self.loss, self)]

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """n images of integer levels: uint8 (n, C, H, W).  Arguments beyond these are the model's own settings.

        A conditional model without labels draws them, each class equally likely."""
        raise NotImplementedError

    @property
    def network_evaluations(self) -> int:
        """How often the network is run for one image, or one batch of them."""
        return 1

    def evaluations_with(self, **sampling: Any) -> int:
        """`network_evaluations` with these settings of `sample`.

        Raises:
            ValueError: settings that `sample` would refuse."""
        return self.network_evaluations

    def sampling_within(self, evaluations: int) -> dict[str, Any]:
        """Settings of `sample` for a picture with about so many evaluations of the network, if it can do with fewer."""
        return {}

    def repeated(self) -> list[Module]:
        """The networks that sampling calls again and again, with images of one shape."""
        return []

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        """By name, nats per image, (N,): first −log p(x) as `exact`, or as `upper bound`; then what else is to be said.

        Of a model without a density: nothing."""
        given = self.condition(labels, len(images))
        for kind, name, more in (("exact", "log_prob", ()), ("upper bound", "elbo", (rng,))):
            if density := getattr(self, name, None):
                return {kind: -density(images, *more, **given)}
        return {}

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """What shows the model's idea, by name: uint8 (rows, columns, C, H, W), of training or test images or none."""
        return {}

    def first_images(self, images: Images, n: int) -> tuple[np.ndarray, dict[str, Array]]:
        """n images, the first ones again where there are fewer, and their condition."""
        which = np.arange(n) % len(images)
        labels = images.labels[which] if self.classes and images.labels is not None else None
        return images.images[which], self.condition(labels, n)

    def class_by_row(self, rows: int, columns: int) -> dict[str, Array]:
        """The condition of images in rows, each row of the next class."""
        labels = np.repeat(np.arange(rows) % self.classes, columns) if self.classes else None
        return self.condition(labels, rows * columns)


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
