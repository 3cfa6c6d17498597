"""Features for comparing images: a hidden layer of a small classifier that is trained on the data set's labels.

Inception's features are for photographs, and need downloaded weights.  These features are for the data set at hand, use
our own layers, and are the same for every model of that data set.  Without labels, the network keeps its random initial
weights: random features can distinguish sets of images too (Naeem et al. 2020, section 4.3).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from typing import Any

import numpy as np

from nanogen import functional as F
from nanogen.autograd import Tensor, grad
from nanogen.data import Images
from nanogen.data.files import cache_folder
from nanogen.distributions import scale_levels
from nanogen.metrics import in_batches
from nanogen.nn import Conv2d, Linear, Module
from nanogen.optim import AdamW
from nanogen.random import Generator
from nanogen.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

FEATURES = 64
STEPS, BATCH, LR, DROPOUT = 400, 64, 2e-3, 0.3
VERSION = 1  # of the network and its training; must change when the features do


class Classifier(Module):
    """Images in [−1, 1] to features (N, 64) and then to a logit per class.

    Three convolutions, of which the last two halve the image, and two linear layers.  The features of an image do not
    depend on the rest of the batch."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, rng: Generator):
        super().__init__()
        colors, height, width = image_shape
        self.convs = [
            Conv2d(colors, 32, 3, padding=1, rng=rng),
            Conv2d(32, 64, 3, stride=2, padding=1, rng=rng),
            Conv2d(64, 64, 3, stride=2, padding=1, rng=rng),
        ]
        size = math.ceil(height / 4) * math.ceil(width / 4)
        self.embed, self.last = Linear(64 * size, FEATURES, rng=rng), Linear(FEATURES, classes, rng=rng)

    def features(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.silu(conv(x))
        return F.silu(self.embed(x.reshape(len(x), -1)))

    def forward(self, x: Tensor, rng: Generator) -> Tensor:
        return self.last(F.dropout(self.features(x), DROPOUT, True, rng=rng))


class Features:
    """Computes the features, and with labels the classes, of images of a data set.

    Args:
        train: the training images.  The classifier is trained on them once and then kept in the cache folder.
    """

    def __init__(self, train: Images):
        self.mean, self.std = np.zeros(FEATURES), np.ones(FEATURES)
        self.levels, self.trained = train.levels, train.labels is not None
        self.classes = int(train.labels.max()) + 1 if train.labels is not None else 1
        self.network = Classifier(train.shape, self.classes, Generator(0))
        if train.labels is not None:
            self._load_or_train(train, train.labels)
        else:
            self._standardize(train)

    @property
    def name(self) -> str:
        kind = f"a classifier of its {self.classes} classes" if self.trained else "a network with random weights"
        return f"{FEATURES} features of {kind}, nanogen's own"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, C, H, W) to float64 (N, 64), each with mean 0 and variance 1 over the training images."""
        raw = in_batches(lambda x: self.network.features(self._scaled(x)), images, 256).astype(np.float64)
        return (raw - self.mean) / self.std

    def classify(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, C, H, W) to the most probable classes (N,)."""
        return in_batches(lambda x: self.network.last(self.network.features(self._scaled(x))), images, 256).argmax(1)

    def _standardize(self, train: Images) -> None:
        found = self(train.images)
        self.mean, self.std = found.mean(0), np.maximum(found.std(0), 1e-6)

    def _scaled(self, images: np.ndarray) -> Tensor:
        return Tensor(scale_levels(images, self.levels, np.float32))

    def _load_or_train(self, train: Images, labels: np.ndarray) -> None:
        described = f"{VERSION} {train.images.shape} {train.levels}".encode()
        key = hashlib.sha256(described + train.images.tobytes() + labels.tobytes()).hexdigest()[:32]
        path = cache_folder() / "features" / f"{key}.safetensors"
        with contextlib.suppress(OSError, ValueError, KeyError):  # missing, broken, or another kind of file
            arrays = load_checkpoint(path).arrays
            self.mean, self.std = arrays.pop("mean"), arrays.pop("std")
            self.network.load_state_dict(arrays)
            return
        train_classifier(self.network, self._scaled, train.images, labels)
        self._standardize(train)
        with contextlib.suppress(OSError):  # if it can't be kept, it is trained again next time
            path.parent.mkdir(parents=True, exist_ok=True)
            arrays = {**self.network.state_dict(), "mean": self.mean, "std": self.std}
            save_checkpoint(path, Checkpoint(STEPS, {"of": train.name}, arrays))


def train_classifier(network: Classifier, scaled: Any, images: np.ndarray, labels: np.ndarray) -> None:
    """Minimise the cross-entropy by AdamW, with a learning rate that falls to 0 along half a cosine."""
    parameters, rng = list(network.parameters()), Generator(0)
    optimizer = AdamW(parameters, LR, weight_decay=1e-2)
    for step in range(STEPS):
        chosen = rng.integers(0, len(images), min(BATCH, len(images)))
        loss = F.cross_entropy(network(scaled(images[chosen]), rng), labels[chosen])
        for parameter, g in zip(parameters, grad(loss, parameters), strict=True):
            parameter.grad = g
        optimizer.lr = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.step()
