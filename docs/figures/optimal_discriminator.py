"""D* = p / (p + q) between two Gaussians, learned and exact; the value of the game as they move apart."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen import nn
from nanogen.distributions import Normal
from nanogen.models.adversarial.objectives import discriminator_loss

GRID = np.linspace(-8, 12, 20001)


def density(mean: float) -> np.ndarray:
    return np.exp(Normal(mean, 1.0).log_prob(ng.tensor(GRID)).numpy())


def exact_value(distance: float) -> tuple[np.ndarray, float]:
    """D* on the grid, and C(G) = E_p[log D*] + E_q[log(1 - D*)] by quadrature."""
    log_p, log_q = (Normal(m, 1.0).log_prob(ng.tensor(GRID)).numpy() for m in (0.0, distance))
    best = 1 / (1 + np.exp(log_q - log_p))
    terms = np.exp(log_p) * -np.log1p(np.exp(log_q - log_p)) + np.exp(log_q) * -np.log1p(np.exp(log_p - log_q))
    return best, float(np.trapezoid(terms, GRID))


def learned(distance: float, steps: int = 600) -> tuple[nn.Module, float]:
    """A network of one hidden layer that minimises the library's loss of D, and its value on a million fresh points."""
    rng = ng.Generator(0)
    network = nn.Sequential(nn.Linear(1, 32, rng=rng), nn.Tanh(), nn.Linear(32, 1, rng=rng))
    optimizer = ng.optim.Adam(network.parameters(), lr=2e-2)

    def loss(n: int) -> ng.Tensor:
        real, fake = rng.normal((n, 1)), distance + rng.normal((n, 1))
        return discriminator_loss(network(ng.tensor(real)), network(ng.tensor(fake)))

    for step in range(steps):
        optimizer.lr = 2e-2 * (1 - step / steps)
        value = loss(512)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with ng.no_grad():
        return network, -float(np.mean([loss(100_000).item() for _ in range(10)]))


def draw(path: Path) -> None:
    figure, (left, right) = plt.subplots(2, 1, figsize=(6.4, 7.4), layout="constrained")
    network, _ = learned(2.0)
    best, _ = exact_value(2.0)
    with ng.no_grad():
        logits = network(ng.tensor(GRID[:, None].astype(np.float32))).numpy()[:, 0]
    left.fill_between(GRID, density(0.0), color="#0072B2", alpha=0.25, label="p, the data: N(0, 1)")
    left.fill_between(GRID, density(2.0), color="#E69F00", alpha=0.35, label="q, the generator: N(2, 1)")
    left.plot(GRID, best, color="black", lw=2, label="D* = p / (p + q)")
    left.plot(GRID, 1 / (1 + np.exp(-logits)), color="#D55E00", lw=2, ls="--", label="D, learned from samples")
    left.set(xlim=(-4, 6), ylim=(0, 1.02), xlabel="x", ylabel="density; probability of being real")
    left.legend(fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.92))

    distances = np.linspace(0, 6, 61)
    values = np.array([exact_value(d)[1] for d in distances])
    right.plot(distances, values, color="black", lw=2, label="2 JSD − log 4, by quadrature")
    right.plot(
        distances,
        (values + np.log(4)) / 2 - np.log(4),
        color="0.55",
        ls=":",
        lw=2,
        label="JSD − log 4, a common mistake",
    )
    at = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    found = [learned(d)[1] for d in at]
    right.plot(at, found, "o", color="#D55E00", label="V of the learned D")
    for level, name in ((-np.log(4), "−log 4"), (0.0, "0")):
        right.axhline(level, color="0.7", lw=1)
        right.text(6.15, level, name, va="center", fontsize=9)
    right.set(xlabel="distance of the two means, in standard deviations", ylabel="C(G), nats", xlim=(-0.2, 6.1))
    right.legend(fontsize=9, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
