"""Trains a model of one loss, for the figures' scripts: `nanogen train` does more."""

import numpy as np

import nanogen as ng


def trained(model: ng.models.GenerativeModel, images: np.ndarray, steps: int, lr: float) -> ng.models.GenerativeModel:
    """The model after steps of Adam on batches of 64 images, at a rate that falls from lr to 0."""
    rng, optimizer = ng.Generator(0), ng.optim.Adam(model.parameters(), lr)
    for step in range(steps):
        optimizer.lr = lr * (1 - step / steps)
        loss = model.loss(images[rng.integers(0, len(images), 64)], rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
