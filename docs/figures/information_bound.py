"""The bound L_I of InfoGAN on the mutual information of a code and a noisy picture of it, while Q learns."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen import nn
from nanogen.functional import log_softmax
from nanogen.models.adversarial.infogan import information_bound

CENTRES = np.array([-2.0, 0.0, 1.5])  # G(z, c) = CENTRES[c] + z, z ~ N(0, 1); c has three values, equally probable


def mutual_information() -> float:
    """I(c; x) = E[log p(x|c) − log p(x)], nats, by quadrature."""
    x = np.linspace(-10, 10, 20001)
    likelihoods = np.exp(-((x - CENTRES[:, None]) ** 2) / 2) / np.sqrt(2 * np.pi)
    terms = likelihoods * np.log(likelihoods / likelihoods.mean(0))
    return float(np.trapezoid(terms.mean(0), x))


def draw(path: Path) -> None:
    rng = ng.Generator(0)
    q = nn.Sequential(nn.Linear(1, 16, rng=rng), nn.Tanh(), nn.Linear(16, 3, rng=rng))
    optimizer = ng.optim.Adam(q.parameters(), lr=1e-2)

    def bound(n: int) -> ng.Tensor:
        c = rng.integers(0, 3, n)
        x = (CENTRES[c] + rng.normal(n)).astype(np.float32)
        log_q = log_softmax(q(ng.tensor(x[:, None])), dim=1)
        return information_bound(log_q[np.arange(n), c], np.log(3))

    values = []
    for _ in range(400):
        with ng.no_grad():
            values.append(bound(20_000).item())
        loss = -bound(256)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    axes.plot(values, color="#0072B2", lw=1.5, label="L_I = E[log Q(c|x)] + H(c), of 20,000 samples")
    axes.axhline(mutual_information(), color="black", ls="--", lw=1.5, label="I(c; x), by quadrature")
    axes.axhline(np.log(3), color="0.6", ls=":", lw=1.5, label="H(c) = log 3")
    axes.set(xlabel="steps of Q", ylabel="nats")
    axes.legend(fontsize=9, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
