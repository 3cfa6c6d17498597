"""Conditional diffusion: labels or captions, left out at times in training, and guidance by the difference.

Ho & Salimans 2022, Classifier-free diffusion guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module, check_range, to_device, to_numpy
from nanogen.data.images import Images
from nanogen.models.base import as_labels, check_choice
from nanogen.models.diffusion.base import Diffusion
from nanogen.models.diffusion.captions import LONGEST, SLANTS, WEIGHTS, Captions
from nanogen.random import Generator


def guide(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """(1 + w) ε_θ(x_t, c) − w ε_θ(x_t), for the score of p(x_t | c)^(1 + w) / p(x_t)^w.  Ho & Salimans 2022, eq. 6."""
    return (1 + guidance) * conditional - guidance * unconditional


class Guided(Diffusion):
    """A diffusion model that may have a condition: a label for each image, or a caption.

    Attributes:
        label_dropout: the share of images whose condition is left out, while training.
        captions: the captions of a model with condition `text`; else None.
        denoiser: the network; its labels are those of `condition`, or `nothing`.
        network: its name among the model's modules.
    """

    label_dropout: float
    captions: Captions | None
    denoiser: Any
    network: str

    def set_condition(self, condition: str, label_dropout: float) -> None:
        """Raises:
        ValueError: another condition; text without classes; a label_dropout outside [0, 1)."""
        check_choice(condition=(condition, ("label", "text")))
        if not 0 <= label_dropout < 1:
            raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout}")
        if condition == "text" and not self.classes:
            raise ValueError("condition=text needs labels: set classes to their number")
        self.label_dropout, self.guidable = label_dropout, self.classes > 0 and label_dropout > 0
        self.captions = Captions(self.classes, self.levels) if condition == "text" else None

    def condition(self, labels: Any, n: int, rng: Generator | None = None) -> dict[str, Array]:
        """As of any model.  With condition `text` the labels may also be prompts, n texts, and those returned are
        captions (n, LONGEST); a label alone is the caption that says the class.

        Raises:
            ValueError: prompts without condition `text`, or with words that are not known."""
        given = None if labels is None else as_labels(labels)
        prompts = given is not None and given.dtype.kind == "U"
        if prompts and self.captions is None:
            raise ValueError("a prompt is for a model with condition=text")
        if self.captions is None:
            return super().condition(labels, n, rng)
        if prompts:
            given = self.captions.read(given)
        if given is None or given.ndim != 2:
            given = self.captions.of_classes(super().condition(labels, n, rng)["labels"])
        if given.shape != (n, LONGEST) or given.dtype.kind not in "iu":
            raise ValueError(f"labels must be {n} labels, prompts or captions, got {given.dtype} of {given.shape}")
        check_range("captions", given, len(self.captions.words))
        return {"labels": to_device(given, self.device)}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> None:
        """As of any module.

        Raises:
            ValueError: weights of a model that was trained without label_dropout, as were those of earlier versions."""
        rows = state_dict.get(f"{self.network}.label.weight")
        if self.guidable and self.captions is None and rows is not None and len(rows) == self.classes:
            raise ValueError(
                f"the weights know {self.classes} labels but not what no label is: they were trained with"
                " label_dropout=0 or by an earlier version, and are for a model with label_dropout=0"
            )
        super().load_state_dict(state_dict, strict, assign)

    def nothing(self, labels: Array) -> Array:
        """What stands for no condition: the label after the last one, or the caption `a`."""
        if self.captions is None:
            return array_module(labels).full_like(labels, self.classes)
        return labels * (labels == 1)

    def training_condition(self, levels: Array, labels: Any, rng: Generator) -> dict[str, Array]:
        """The condition of images in a loss: their labels, or captions made of these and of what is measured.

        In training some are left out.  Ho & Salimans 2022, algorithm 1."""
        given = super().condition(labels, len(levels))
        if given and self.captions is not None:
            given = {"labels": self.captions.of_images(levels, given["labels"], rng if self.training else None)}
        if given and self.training and self.guidable:
            labels = given["labels"]
            dropped = rng.uniform((len(levels), *[1] * (labels.ndim - 1)), self.dtype) < self.label_dropout
            given = {"labels": array_module(labels).where(dropped, self.nothing(labels), labels)}
        return given

    def guided(
        self, x_t: Tensor, t: Any, rng: Generator | None = None, labels: Any = None, guidance: float = 0.0
    ) -> Tensor:
        """The output of the network, its prediction guided away from that without the condition, unless guidance is 0.

        A learned variance is that with the condition."""
        found = self.denoiser(x_t, t, labels, rng)
        if not guidance:
            return found
        other, channels = self.denoiser(x_t, t, self.nothing(labels), rng), self.image_shape[0]
        prediction = guide(found[:, :channels], other[:, :channels], guidance)
        return F.cat([prediction, found[:, channels:]], dim=1)

    def illustrations(self, train: Images, test: Images, rng: Generator) -> dict[str, np.ndarray]:
        """Grids of images by name:

        - denoising: each row is one sample, x_t from the noise at t = T (left) to the image at t = 0 (right)
        - interpolation: from one test image (left) to another (right), through the noises that lead to them by DDIM
        - guidance: from the top down guidance 0, 1, 3 and 8, of the same noise; each column is a class
        - prompts: each row is one word: thin, medium, bold, backward, upright, leaning; each column is a class"""
        found, classes = super().illustrations(train, test, rng), min(self.classes, 10)
        faster = self.sampling_within(50)
        if self.guidable:
            by_class = lambda w: self.sample(classes, rng.stream(0), np.arange(classes), guidance=w, **faster)
            found["guidance"] = np.stack([to_numpy(by_class(w)) for w in (0.0, 1.0, 3.0, 8.0)])
        if self.guidable and self.captions is not None:
            words, names = (*WEIGHTS, *SLANTS), self.captions.words[-self.classes :][:classes]
            prompts = [f"a {word} {name}" for word in words for name in names]
            drawn = self.sample(len(prompts), rng.stream(1), prompts, guidance=3.0, **faster)
            found["prompts"] = to_numpy(drawn).reshape(len(words), classes, *self.image_shape)
        return found
