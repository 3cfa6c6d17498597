"""The four models against a second implementation, in torch with the same weights and the same random numbers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

import nanogen as ng
from benchmarks import torch_models
from nanogen.models import DDPM, GAN, VAE, PixelCNN

SHAPE, RGB = (1, 6, 8), (3, 4, 4)
MODELS: dict[str, Any] = {
    "pixelcnn": lambda: PixelCNN(SHAPE, 5, channels=6, blocks=2, dropout=0.0),
    "pixelcnn, RGB": lambda: PixelCNN(RGB, 5, channels=9, blocks=2, dropout=0.0),
    "vae": lambda: VAE(SHAPE, 5, latent=3, channels=4),
    "vae, logistic": lambda: VAE(RGB, 256, latent=3, channels=4, decoder="logistic"),
    "gan": lambda: GAN((1, 8, 12), 5, latent=3, channels=4),
    "ddpm": lambda: DDPM(SHAPE, 5, T=20, channels=8, heads=2),
    "ddpm, RGB": lambda: DDPM(RGB, 5, T=20, channels=8, multipliers=(1, 2, 3), blocks=2, heads=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_torch(name: str) -> None:
    """The loss, and its gradient in every parameter, to 1e-9; weights travel by the names that both sides share."""
    ours = torch_models.stirred(MODELS[name]().to(np.float64), 0.1)
    theirs = torch_models.mirror(copy.deepcopy(ours)).double()
    theirs.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in ours.state_dict().items()})
    images = np.random.default_rng(1).integers(0, ours.levels, (6, *ours.image_shape)).astype(np.uint8)
    for (part, loss_of, module), (torch_loss_of, _) in zip(ours.updates(), torch_models.updates(theirs), strict=True):
        loss, expected = loss_of(images, ng.Generator(1)), torch_loss_of(images, ng.Generator(1))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        named = dict((theirs if part == "loss" else getattr(theirs, part)).named_parameters())
        slopes = dict(zip(named, torch.autograd.grad(expected, list(named.values())), strict=True))
        scale = max(float(slope.abs().max()) for slope in slopes.values())
        for (key, _), g in zip(module.named_parameters(), ng.grad(loss, list(module.parameters())), strict=True):
            np.testing.assert_allclose(g.data, slopes[key].numpy(), rtol=1e-7, atol=1e-9 * scale, err_msg=key)
