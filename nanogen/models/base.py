"""The interface of all models: images of integer levels in, images of integer levels out.

Training, evaluation and pictures use only this interface, and no model's class.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, Hook, check_range, to_device
from nanogen.data.images import MOST_CLASSES, Images, check_levels
from nanogen.distributions import scale_levels
from nanogen.models.recipe import Recipe, large
from nanogen.nn import Module
from nanogen.random import Generator


@Hook
def progress(steps: Iterable[Any], what: str) -> Iterable[Any]:
    """The steps, which may take long.  The command line shows their progress; `what` is the name of a step."""
    return steps


class Update(NamedTuple):
    """One part of a training step: the parameters of `part` follow the gradient of `loss(images, rng)`.

    For a conditional model the loss is `loss(images, rng, labels)`."""

    name: str
    loss: Callable[..., Tensor]
    part: Module


class GenerativeModel(Module):
    """The base class of models.

    A model with a density also has `log_prob(images, labels=None)`, which is exact, or `elbo(images, rng,
    labels=None)`, a lower bound on it (evidence lower bound): nats per image, (N,).

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels of a pixel, 2 to 256.
        classes: the number of labels that images are conditioned on; 0: unconditional.

    Attributes:
        summary: a description in one line.
        remark: what to know of its samples where they are compared with those of other models; usually nothing.
        loss_unit: the unit of the losses that training minimises, in words; empty if there is none.
        small: the recipe for images of up to 16×16, about a minute on two cores.
        large: the recipe for larger images.
        parts: parts of the model that may begin with the weights of a run.  The setting of that name says which model
            the part is, or gives the run's folder.  Then the settings listed here are the run's, and `frozen` is true
            unless given.

    Raises:
        ValueError: a shape that is not three positive integers, levels outside 2 … 256, classes outside 0 … 65536.
    """

    summary: ClassVar[str] = ""
    remark: ClassVar[str] = ""
    loss_unit: str = ""
    small: ClassVar[Recipe] = Recipe(steps=800)
    large: ClassVar[Recipe] = large(steps=4000)
    parts: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """The methods of the interface check the arguments they have in common, so that no model has to."""
        super().__init_subclass__(**options)
        for name, method in [*vars(cls).items()]:
            if inspect.isfunction(method) and (name in INTERFACE or name.endswith("_loss")):
                setattr(cls, name, checked(method))

    def __init__(self, image_shape: tuple[int, int, int], levels: int, classes: int = 0):
        super().__init__()
        if np.shape(image_shape) != (3,) or any(not is_count(n) for n in image_shape):
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
        """The number of values in an image: C · H · W."""
        return math.prod(self.image_shape)

    @property
    def device(self) -> str:
        """The device of the parameters, `cpu` or `cuda`."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> np.dtype:
        """The type of the parameters."""
        return next(self.parameters()).dtype

    def pixels(self, images: Any) -> Array:
        """The images as checked integer levels on the model's device."""
        return to_device(self.check_images(images), self.device)

    def check_images(self, images: Any) -> Array:
        """The array of images of integer levels.

        Raises:
            TypeError, ValueError: not an array of integers; another shape; a level out of range."""
        levels: Array = images.data if isinstance(images, Tensor) else images
        check_levels(levels, self.levels, self.image_shape)
        return levels

    def scaled(self, levels: Array) -> Tensor:
        """Levels scaled to [−1, 1], the input of the network, in the model's dtype."""
        return Tensor(scale_levels(to_device(levels, self.device), self.levels, self.dtype))

    def condition(self, labels: Any, n: int, rng: Generator | None = None) -> dict[str, Array]:
        """Keyword arguments for the networks: `labels` (n,) on the model's device; empty for an unconditional model.

        Without labels they are drawn from `rng`, each class with equal probability.

        Raises:
            ValueError: labels for an unconditional model; neither labels nor rng; not n integers in 0 … classes − 1.
        """
        if not self.classes:
            if labels is not None:
                raise ValueError("labels must not be given: the model is unconditional (classes=0)")
            return {}
        if labels is None:
            if rng is None:
                raise ValueError(f"labels must be given: the model has {self.classes} classes")
            labels = rng.integers(0, self.classes, n)
        found = as_labels(labels)
        if found.shape != (n,) or found.dtype.kind not in "iu":
            raise ValueError(f"labels must be {n} integers, one per image, got {found.dtype} of shape {found.shape}")
        check_range("labels", found, self.classes)
        return {"labels": to_device(found, self.device)}

    def loss(self, images: Any, rng: Generator, labels: Any = None) -> Tensor:
        """The scalar that training minimises.

        Raises:
            NotImplementedError: the losses of several parts take its place: see `updates`."""
        raise NotImplementedError(f"{type(self).__name__} has no single loss: see updates()")

    def updates(self) -> list[Update]:
        """The parts of a training step, in this order."""
        return [Update("loss", self.loss, self)]

    def constrain(self, part: Module) -> None:
        """Bring the parameters of `part` back to where they may be, in place.  Called after each update of it."""

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """Draw n images of integer levels: uint8 (n, C, H, W).  Further arguments are the model's own settings.

        If a conditional model gets no labels, it draws them, each class with equal probability."""
        raise NotImplementedError

    @property
    def network_evaluations(self) -> int:
        """The number of evaluations of the network per sampled image or batch."""
        return 1

    def evaluations_with(self, **sampling: Any) -> int:
        """`network_evaluations` with these settings of `sample`.

        Raises:
            ValueError: settings that `sample` does not accept."""
        return self.network_evaluations

    def density_with(self, **sampling: Any) -> GenerativeModel:
        """The model whose density is that of the images that `sample` draws with these settings, if they change it."""
        return self

    def sampling_within(self, evaluations: int) -> dict[str, Any]:
        """Settings of `sample` that need at most about this many network evaluations, if there are any."""
        return {}

    def sampling_networks(self) -> list[Module]:
        """The networks that sampling calls repeatedly with inputs of one shape."""
        return []

    @property
    def estimators(self) -> dict[str, int]:
        """The values of `estimator` in `elbo(…, estimator=…)`, with the network evaluations each needs per image."""
        return {}

    def negative_log_likelihoods(self, images: Any, rng: Generator, labels: Any = None) -> dict[str, Tensor]:
        """By name, nats per image, (N,): first −log p(x) as `exact` or its `upper bound`, then further figures.

        Empty for a model without a density."""
        given = self.condition(labels, len(images))
        for kind, name, more in (("exact", "log_prob", ()), ("upper bound", "elbo", (rng,))):
            if density := getattr(self, name, None):
                return {kind: -density(images, *more, **given)}
        return {}

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Pictures that show the idea of the model, by name: grids of images, uint8 (rows, columns, C, H, W).

        A line `name: text` of a model's docstring here is the caption of that picture."""
        return {}

    def first_images(self, images: Images, n: int) -> tuple[np.ndarray, dict[str, Array]]:
        """The first n images and their condition.  If there are fewer images, they repeat."""
        which = np.arange(n) % len(images)
        labels = images.labels[which] if self.classes and images.labels is not None else None
        return images.images[which], self.condition(labels, n)

    def class_by_row(self, rows: int, columns: int) -> dict[str, Array]:
        """The condition for a grid of images where each row has the next class."""
        labels = np.repeat(np.arange(rows) % self.classes, columns) if self.classes else None
        return self.condition(labels, rows * columns)


INTERFACE = "__init__", "loss", "sample", "log_prob", "elbo", "translate"


def checked(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which first checks those of the arguments `n`, `rng` and `images` that it has.

    `translate` checks its images itself: they are sources."""
    parameters = inspect.signature(method).parameters
    optional = "rng" in parameters and parameters["rng"].default is None

    @functools.wraps(method)
    def checks(self: Any, *given: Any, **named: Any) -> Any:
        arguments = dict(zip([*parameters][1:], given, strict=False)) | named
        if "n" in arguments:
            check_counts(n=arguments["n"])
        if "images" in arguments and method.__name__ != "translate" and not len(self.check_images(arguments["images"])):
            raise ValueError("images must be at least one, got none")
        rng = arguments.get("rng")
        if "rng" in arguments and not (isinstance(rng, Generator) or (rng is None and optional)):
            raise TypeError(f"rng must be a Generator, for instance nanogen.Generator(0), got {rng!r}")
        return method(self, *given, **named)

    return checks


def as_labels(labels: Any) -> Array:
    """Labels in an array.

    Raises:
        ValueError: lists of different lengths."""
    if isinstance(labels, Tensor):
        return labels.data
    try:
        return labels if hasattr(labels, "dtype") else np.array(labels)
    except ValueError:
        raise ValueError(f"labels must be integers, one per image, got {labels!r}") from None


def is_count(value: Any) -> bool:
    """A positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_counts(**settings: Any) -> None:
    """Raises:
    ValueError: a setting that is not a positive integer."""
    for name, value in settings.items():
        if not is_count(value):
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_nonnegative(**settings: float) -> None:
    """Raises:
    ValueError: a setting that is negative, infinite or NaN."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number ≥ 0, got {value!r}")


def check_choice(**settings: Any) -> None:
    """Check settings, each given as `(value, choices)`.

    Raises:
        ValueError: a value that is not among the choices."""
    for name, (value, choices) in settings.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
