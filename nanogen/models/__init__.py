"""Four families of models, a folder each.  A model's file follows its paper: the network, the loss, the sampler.

The rest of the library finds the models in `MODELS`: a new model is one more line there.
"""

from nanogen.backend import only as _only
from nanogen.models.adversarial.cyclegan import CycleGAN
from nanogen.models.adversarial.gan import GAN, SAGAN, BigGAN
from nanogen.models.adversarial.infogan import InfoGAN
from nanogen.models.adversarial.pix2pix import Pix2Pix
from nanogen.models.adversarial.spade import SPADE
from nanogen.models.adversarial.stylegan import StyleGAN
from nanogen.models.autoregressive.gated import GatedPixelCNN
from nanogen.models.autoregressive.pixelcnn import PixelCNN
from nanogen.models.autoregressive.pixelrnn import PixelRNN
from nanogen.models.base import GenerativeModel
from nanogen.models.diffusion.binomial import BinomialDiffusion
from nanogen.models.diffusion.ddpm import DDPM
from nanogen.models.diffusion.latent import LatentDDPM
from nanogen.models.diffusion.schedule import NoiseSchedule
from nanogen.models.diffusion.superresolution import SuperResolution
from nanogen.models.latent.autoencoder import Autoencoder
from nanogen.models.latent.hierarchical import HierarchicalVAE
from nanogen.models.latent.vae import VAE
from nanogen.models.latent.wae import AAE, WAE
from nanogen.models.recipe import Recipe

MODELS: dict[str, type[GenerativeModel]] = {
    "pixelcnn": PixelCNN,
    "gated-pixelcnn": GatedPixelCNN,
    "pixelrnn": PixelRNN,
    "vae": VAE,
    "hierarchical-vae": HierarchicalVAE,
    "autoencoder": Autoencoder,
    "wae": WAE,
    "aae": AAE,
    "gan": GAN,
    "sagan": SAGAN,
    "biggan": BigGAN,
    "infogan": InfoGAN,
    "stylegan": StyleGAN,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGAN,
    "spade": SPADE,
    "ddpm": DDPM,
    "super-resolution": SuperResolution,
    "binomial-diffusion": BinomialDiffusion,
    "latent-ddpm": LatentDDPM,
}

__all__ = [
    "AAE",
    "DDPM",
    "GAN",
    "MODELS",
    "SAGAN",
    "SPADE",
    "VAE",
    "WAE",
    "Autoencoder",
    "BigGAN",
    "BinomialDiffusion",
    "CycleGAN",
    "GatedPixelCNN",
    "GenerativeModel",
    "HierarchicalVAE",
    "InfoGAN",
    "LatentDDPM",
    "NoiseSchedule",
    "Pix2Pix",
    "PixelCNN",
    "PixelRNN",
    "Recipe",
    "StyleGAN",
    "SuperResolution",
]

__getattr__ = _only(__name__, globals())
