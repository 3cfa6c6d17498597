"""What models of image translation share: sources made from the images, and what a run keeps from step to step."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanogen.autograd import Tensor, changes, no_grad
from nanogen.backend import Array, array_module, device_of, to_device, to_numpy
from nanogen.data.images import check_levels
from nanogen.distributed import everyones, rank, size
from nanogen.distributions import scale_levels, unscale_levels
from nanogen.models.adversarial.sources import SOURCES
from nanogen.models.base import GenerativeModel, check_choice
from nanogen.nn import Conv2d, ConvTranspose2d, Module
from nanogen.random import Generator

KEPT = 256  # sources that `sample` translates


class TranslationModel(GenerativeModel):
    """A model that translates sources into images.

    A source is made of an image by the map `source`, one of `SOURCES`.  `sample` translates the sources of training
    images, the last KEPT that were seen.  So its images are nearer to training images than new ones would be.

    Buffers:
        kept: their sources, uint8 (KEPT, *source_shape); zeros before training.
        seen: the number of sources so far.
    """

    remark = "its samples are translations of sources that were made of training images"
    kept: Tensor
    seen: Tensor

    def __init__(self, image_shape: tuple[int, int, int], levels: int, source: str, classes: int):
        super().__init__(image_shape, levels)
        check_choice(source=(source, tuple(SOURCES)))
        if classes != 0:
            raise ValueError(f"classes must be 0: a translation's condition is its source, got {classes!r}")
        if source == "turned" and image_shape[1] != image_shape[2]:
            raise ValueError(f"source=turned needs square images, got image_shape {image_shape}")
        self.source = source
        self.register_buffer("kept", Tensor(np.zeros((KEPT, *self.source_shape), np.uint8)))
        self.register_buffer("seen", Tensor(np.zeros((), np.int64)))

    @property
    def source_shape(self) -> tuple[int, ...]:
        """(C, H, W) of a source."""
        return self.image_shape

    @property
    def source_levels(self) -> int:
        """The number of levels of a source."""
        return self.levels

    def scaled_source(self, sources: Any) -> Tensor:
        """Sources of integer levels, checked and scaled to [−1, 1], on the model's device."""
        found: Array = sources.data if isinstance(sources, Tensor) else sources
        check_levels(found, self.source_levels, self.source_shape)
        return Tensor(scale_levels(to_device(found, self.device), self.source_levels, self.dtype))

    def source_of(self, images: Any) -> Array:
        """The source of each image (N, C, H, W): uint8, of the same shape."""
        return SOURCES[self.source](self.pixels(images), self.levels)

    def draw_weights(self, rng: Generator) -> None:
        """Weights of convolutions from N(0, 0.02²), biases 0.  Isola et al. 2017, appendix 6.2; Zhu et al. 2017, 7.1.

        Beside such weights the usual first biases are large: half of the ReLUs would never be above 0."""
        for module in self.modules():
            if isinstance(module, Conv2d | ConvTranspose2d):
                module.weight.data = 0.02 * rng.normal(module.weight.shape)
                if module.bias is not None:
                    module.bias.data *= 0

    def keep(self, sources: Array) -> None:
        """In training, the sources (N, C, H, W) of all ranks take the places of the oldest."""
        if not self.training:
            return
        new = of_all_ranks(sources)[-KEPT:]
        places = (self.seen.data + array_module(new).arange(len(new))) % KEPT
        self.kept.data[places] = new  # in place: a captured CUDA graph uses the same memory
        self.seen.data += len(new)
        changes.note(self.kept.data)

    def translation(self, x: Tensor, rng: Generator) -> Tensor:
        """Sources to images, both in [−1, 1]: (N, C, H, W)."""
        raise NotImplementedError

    def translate(self, images: Any, rng: Generator) -> Array:
        """Images for sources, both of integer levels: uint8 (N, C, H, W).

        Raises:
            TypeError, ValueError: sources that are not integers, of another shape, or with a level out of range."""
        with no_grad():
            x = self.translation(self.scaled_source(images), rng)
        return unscale_levels(x.data, self.levels)

    def sample(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """Translations of n kept sources, each drawn with equal probability: uint8 (n, C, H, W)."""
        return self.translate(self.kept_sources(n, rng, labels), rng)

    def kept_sources(self, n: int, rng: Generator, labels: Any = None) -> Array:
        """n of the kept sources, each drawn with equal probability."""
        self.condition(labels, n)
        known = min(max(int(to_numpy(self.seen.data)), 1), KEPT)
        drawn: Array = self.kept.data[rng.integers(0, known, n)]
        return drawn


class History(Module):
    """The last images that a generator made, some of which the discriminator sees again.

    Shrivastava et al. 2017, section 2.3: half of the discriminator's images come from the history, and as many of the
    generator's images are stored at random places.  As Zhu et al. 2017 do it, half is the mean, and an image that is
    stored returns the image that it replaces; itself, if the place was empty.

    Buffers:
        images: (size, C, H, W) in [−1, 1].
        filled: for each place, whether it has an image, bool (size,).
    """

    images: Tensor
    filled: Tensor

    def __init__(self, size: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.register_buffer("images", Tensor(np.zeros((size, *image_shape), np.float32)))
        self.register_buffer("filled", Tensor(np.zeros(size, bool)))

    def forward(self, new: Array, coins: Array, rng: Generator) -> Array:
        """In training, the images of the generator (N, C, H, W) with some exchanged for earlier ones; else, themselves.

        Args:
            coins: uniform numbers (N,); an image whose number is below ½ is stored.
            rng: draws the places, all of them different.  Of more than `size` images, only the first can be stored.
        """
        if not self.training:
            return new
        all_new, all_coins = of_all_ranks(new), of_all_ranks(coins)
        places = rng.permutation(len(self.filled))[: len(all_new)]
        first, filled = all_new[: len(places)], self.filled.data[places]
        old, stored = self.images.data[places], all_coins[: len(places)] < 0.5
        where, column = array_module(new).where, (slice(None), None, None, None)
        self.images.data[places] = where(stored[column], first, old)
        self.filled.data[places] = filled | stored
        changes.note(self.images.data)
        seen = array_module(new).concatenate([where((stored & filled)[column], old, first), all_new[len(places) :]])
        return seen[rank() * len(new) :][: len(new)] if size() > 1 else seen


def of_all_ranks(rows: Array) -> Array:
    """The rows of all ranks, on each of them."""
    return rows if size() == 1 else to_device(np.concatenate(everyones(to_numpy(rows))), device_of(rows))
