"""Captions of images, in a small vocabulary: `a thin leaning seven`.

A caption says what is known of an image, its class, and what is measured on it: the weight of its strokes and their
slant.  Each is one of three words, for the lowest, the middle and the highest third among the images of the class.  A
word that is left out means any.
"""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np

from nanogen.autograd import Tensor
from nanogen.backend import Array, array_module, to_device
from nanogen.distributed import mean_over_ranks
from nanogen.functional.shape import add_at
from nanogen.nn import Module
from nanogen.random import Generator

WEIGHTS, SLANTS = ("thin", "medium", "bold"), ("backward", "upright", "leaning")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONGEST = 4  # words of a caption
BINS = 512  # of a measure, which is in [0, 1]
LEFT_OUT = 0.2  # share of the words that captions for training leave out, so that shorter prompts are known


def weight(ink: Array) -> Array:
    """The mean level, of images (N, H, W) in [0, 1]: (N,)."""
    return ink.mean((1, 2))


def slant(ink: Array) -> Array:
    """How far the strokes lean to the right, −μ_xy / μ_yy, by the second moments about the centre of the ink, y
    downwards: pixels to the right per pixel upwards, (N,).  Images (N, H, W) without ink, or of a single row, have 0.

    Teague 1980, Image analysis via the general theory of moments; LeCun et al. 1998 straighten digits by it."""
    xp = array_module(ink)
    y, x = xp.arange(ink.shape[1], dtype=ink.dtype)[:, None], xp.arange(ink.shape[2], dtype=ink.dtype)
    mean = lambda values: (ink * values).sum((1, 2), keepdims=True) / xp.maximum(ink.sum((1, 2), keepdims=True), 1e-9)
    dy = y - mean(y)
    return -(mean((x - mean(x)) * dy) / xp.maximum(mean(dy * dy), 1e-9))[:, 0, 0]


class Captions(Module):
    """The words, and how the measures are distributed among the training images of each class.

    Args:
        classes: the number of classes.  The first ten are called `zero` to `nine`, others by their digits.
        levels: the number of integer levels.

    Attributes:
        words: all words.  A caption is the numbers of its words, `a` first, padded with 0: int64 (LONGEST,).
        counts: how many of the images seen in training are in each bin of each measure: (classes, 2, BINS).
    """

    def __init__(self, classes: int, levels: int):
        super().__init__()
        self.levels, names = levels, (*NUMBERS, *map(str, range(len(NUMBERS), classes)))[:classes]
        self.words = ("", "a", *WEIGHTS, *SLANTS, *names)
        self.counts: Tensor
        self.register_buffer("counts", Tensor(np.zeros((classes, 2, BINS), np.float32)))

    def bins(self, levels: Array) -> Array:
        """The bins of weight and slant, of images (N, C, H, W) of integer levels: (N, 2)."""
        xp = array_module(levels)
        ink = levels.mean(1, dtype=np.float64) / (self.levels - 1)
        measures = xp.stack([weight(ink), (1 + slant(ink)) / 2], axis=1)
        return (measures * BINS).astype(np.int64).clip(0, BINS - 1)

    def see(self, levels: Array, labels: Array) -> None:
        """Count images (N, C, H, W) with labels (N,) among those of their classes; in place."""
        xp = array_module(levels)
        seen = xp.zeros_like(self.counts.data)
        add_at(seen, 1.0, key=(labels[:, None], xp.arange(2), self.bins(levels)))
        self.counts.data += mean_over_ranks(seen)[0]

    def thirds(self, levels: Array, labels: Array) -> Array:
        """0, 1 or 2 for the third of its class that an image's weight is in, and its slant: (N, 2)."""
        counts = self.counts.data
        below = counts.cumsum(2) - counts / 2
        ranks = below / array_module(counts).maximum(counts.sum(2, keepdims=True), 1)
        found = ranks[labels[:, None], array_module(counts).arange(2), self.bins(levels)]
        return (3 * found).astype(np.int64).clip(0, 2)

    def of_images(self, levels: Array, labels: Array, rng: Generator | None = None) -> Array:
        """Captions of images (N, C, H, W) with labels (N,): (N, LONGEST).

        For training, with an rng, the images are counted, and some words left out."""
        levels, labels = (to_device(array, self.counts.device) for array in (levels, labels))
        if rng is not None:
            self.see(levels, labels)
        third, first = self.thirds(levels, labels), 2 + len(WEIGHTS)
        named = self.of_classes(labels)
        named[:, 1:] = array_module(levels).stack([2 + third[:, 0], first + third[:, 1], named[:, 1]], axis=1)
        return named if rng is None else self.shortened(named, rng)

    def of_classes(self, labels: Array) -> Array:
        """Captions that say only the class, for labels (N,): (N, LONGEST)."""
        xp = array_module(labels)
        empty = xp.zeros_like(labels, np.int64)
        return xp.stack([empty + 1, 2 + len(WEIGHTS + SLANTS) + labels, *[empty] * (LONGEST - 2)], axis=1)

    def shortened(self, captions: Array, rng: Generator) -> Array:
        """Captions (N, LONGEST) of which each word but the first is left out with probability LEFT_OUT."""
        xp = array_module(captions)
        kept = xp.where(rng.uniform(captions.shape, self.counts.dtype) >= LEFT_OUT, captions, 0)
        kept[:, 0] = captions[:, 0]
        return xp.take_along_axis(kept, (kept == 0).argsort(axis=1, kind="stable"), axis=1)  # words first, in order

    def read(self, prompts: Any) -> np.ndarray:
        """Captions of texts, whose words may be in any order: (N, LONGEST).

        Raises:
            ValueError: an unknown word, or two words for the same thing."""
        slots = (("a", "an"), WEIGHTS, SLANTS, self.words[2 + len(WEIGHTS + SLANTS) :])
        found = np.zeros((len(prompts), LONGEST), np.int64)
        for row, prompt in zip(found, prompts, strict=True):
            said = str(prompt).lower().split()
            for word in said:
                if not any(word in slot for slot in slots):
                    raise ValueError(f"unknown word {word!r} in the prompt{self.similar(word)}: {self.known}")
            chosen = [[word for word in said if word in slot] for slot in slots[1:]]
            if two := next((words for words in chosen if len(words) > 1), None):
                raise ValueError(f"the prompt must say {' or '.join(map(repr, two))}, not both: {prompt!r}")
            numbers = [1, *(self.words.index(word) for words in chosen for word in words)]
            row[: len(numbers)] = numbers
        return found

    @property
    def known(self) -> str:
        return f"known are a, an, {', '.join(self.words[2:18])}{' …' * (len(self.words) > 18)}"

    def similar(self, word: str) -> str:
        close = difflib.get_close_matches(word, self.words[1:], n=1)
        return f" (did you mean {close[0]!r}?)" if close else ""
