"""The ELBO of a linear-Gaussian model for a family of q, and the KL to the posterior that fills its gap."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import LinearGaussian

SOURCE = LinearGaussian([[2.0, 1.0], [0.5, 1.5], [-1.0, 0.4]], [0.0, 0.0, 0.0], 0.8)
X = SOURCE.sample(1, ng.Generator(1))
MEAN, COVARIANCE = SOURCE.posterior(X)
PRECISION = np.linalg.inv(COVARIANCE)
BEST_STD = np.diag(PRECISION) ** -0.5  # of the diagonal q with the largest ELBO


def divergence(q_mean: np.ndarray, q_std: np.ndarray) -> float:
    """KL(q ‖ p(z|x)) of q = N(q_mean, diag q_std²), in nats: the formula for two normal distributions."""
    moved = (q_mean - MEAN)[0]
    quadratic = q_std**2 @ np.diag(PRECISION) + moved @ PRECISION @ moved
    return 0.5 * (quadratic - len(moved) + np.linalg.slogdet(COVARIANCE)[1] - 2 * np.log(q_std).sum())


def draw(path: Path) -> None:
    log_p = SOURCE.log_prob(X)[0]
    stretches, shifts = np.geomspace(0.3, 2.5, 80), np.linspace(-0.8, 0.8, 81)
    stretched = [(MEAN, r * BEST_STD) for r in stretches]
    moved = [(MEAN + np.array([d, 0.0]), BEST_STD) for d in shifts]
    families = {
        "standard deviations of q\n(1: those of the best diagonal q)": (stretches, stretched),
        "first mean of q,\nminus that of the posterior": (shifts, moved),
    }
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.4), sharey=True, layout="constrained")
    for axis, (name, (values, family)) in zip(axes, families.items(), strict=True):
        elbo = np.array([SOURCE.elbo(X, mean, std[None])[0] for mean, std in family])
        kl = np.array([divergence(mean, std) for mean, std in family])
        assert abs(elbo + kl - log_p).max() < 1e-12
        axis.fill_between(values, elbo, elbo + kl, color="#56B4E9", alpha=0.4, label="KL(q ‖ p(z|x))")
        axis.plot(values, elbo, color="#0072B2", label="ELBO")
        axis.plot(values, elbo + kl, color="#D55E00", linestyle="--", label="ELBO + KL")
        axis.axhline(log_p, color="black", linewidth=1, label="log p(x)")
        axis.set(xlabel=name, ylim=(log_p - 2.6, log_p + 0.25))
    axes[0].set(ylabel="nats", xscale="log", xticks=[0.3, 0.5, 1, 2], xticklabels=["0.3", "0.5", "1", "2"])
    axes[0].minorticks_off()
    axes[1].legend(loc="lower center", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
