"""The importance-weighted bound of a model whose log p(x) is known, for three posteriors that are wrong on purpose."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import LinearGaussian
from nanogen.distributions import Normal

SOURCE = LinearGaussian(np.array([[3.0, 0.0], [0.0, 1.2], [0.0, 0.0]]), np.zeros(3), 1.3)
X, REPEATS = SOURCE.sample(1, ng.Generator(3)), 2000


class Linear(ng.models.VAE):
    """The VAE's own bound, on known densities: q is the true posterior with its standard deviations `stretch`-fold."""

    def __init__(self, stretch: float):
        super().__init__((1, 1, 3), 2, latent=2, channels=1, stages=1)
        self.to(np.float64)
        self.stretch = stretch

    def pixels(self, images):
        return images

    def encode(self, images, labels=None):
        mean, covariance = SOURCE.posterior(images.reshape(len(images), 3))
        return Normal(mean, np.broadcast_to(self.stretch * np.diag(covariance) ** 0.5, mean.shape))

    def decode(self, z, labels=None):
        return Normal((z @ ng.tensor(SOURCE.weight.T)).reshape(len(z), 1, 1, 3), SOURCE.std)


def draw(path: Path) -> None:
    samples, copies = [1, 2, 4, 8, 16, 32, 64], np.repeat(X, REPEATS, axis=0).reshape(-1, 1, 1, 3)
    figure, axis = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    log_p = SOURCE.log_prob(X)[0]
    for stretch, color, marker in ((1.5, "#0072B2", "o"), (0.6, "#E69F00", "^"), (0.4, "#009E73", "s")):
        found = [Linear(stretch).importance_weighted_bound(copies, ng.Generator(k), k).numpy() for k in samples]
        means, errors = (np.array([f(x) for x in found]) for f in (np.mean, lambda x: 2 * x.std() / REPEATS**0.5))
        axis.errorbar(samples, means - log_p, errors, color=color, marker=marker, capsize=3,
                      label=f"std of q = {stretch} × that of p(z|x)")  # fmt: skip
    axis.axhline(0, color="black", linewidth=1)
    axis.set(xscale="log", xlabel="K, samples of z", ylabel="bound − log p(x), nats", xticks=samples,
             xticklabels=samples)  # fmt: skip
    axis.minorticks_off()
    axis.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
