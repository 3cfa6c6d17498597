"""Four families, a wing each.  Each model's file reads as its paper does: the network, the loss, the sampler.

`MODELS` is all that the rest knows of them: a new model is one more line there.
"""

from nanogen.models.adversarial.gan import GAN
from nanogen.models.autoregressive.pixelcnn import PixelCNN
from nanogen.models.base import GenerativeModel
from nanogen.models.diffusion.ddpm import DDPM
from nanogen.models.diffusion.schedule import NoiseSchedule
from nanogen.models.latent.vae import VAE
from nanogen.models.recipe import Recipe

MODELS: dict[str, type[GenerativeModel]] = {"pixelcnn": PixelCNN, "vae": VAE, "gan": GAN, "ddpm": DDPM}

__all__ = ["DDPM", "GAN", "MODELS", "VAE", "GenerativeModel", "NoiseSchedule", "PixelCNN", "Recipe"]
