"""The four families.  Each file reads as its paper does: the network, the loss, the sampler."""

from nanogen.models.base import GenerativeModel
from nanogen.models.ddpm import DDPM
from nanogen.models.gan import GAN
from nanogen.models.pixelcnn import PixelCNN
from nanogen.models.schedule import NoiseSchedule
from nanogen.models.vae import VAE

MODELS: dict[str, type[GenerativeModel]] = {"pixelcnn": PixelCNN, "vae": VAE, "gan": GAN, "ddpm": DDPM}

__all__ = ["DDPM", "GAN", "MODELS", "VAE", "GenerativeModel", "NoiseSchedule", "PixelCNN"]
