"""Models with latent variables, and autoencoders."""

from nanogen.models.latent.autoencoder import Autoencoder
from nanogen.models.latent.vae import VAE

AUTOENCODERS = {"autoencoder": Autoencoder, "vae": VAE}  # whose codes another model can be of
