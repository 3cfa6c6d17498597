"""Eight Gaussians on a ring: a GAN that collapses, and two that do not.  The same networks and first weights in all."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen import nn
from nanogen.models.adversarial.objectives import discriminator_loss, generator_loss, gradient_penalty

STD, STEPS, BATCH = 0.05, 1000, 128
CENTRES = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
SHOWN = (100, 300, 1000)
KEEPS_UP: dict[str, Any] = {"lr": 1e-3, "betas": (0.0, 0.9), "k": 3}
GAMES: dict[str, dict[str, Any]] = {
    "non-saturating,\nslow D": {"objective": "non-saturating", "lr": 1e-4, "betas": (0.5, 0.999)},
    "non-saturating,\nD keeps up": {"objective": "non-saturating", **KEEPS_UP},
    "Wasserstein,\nD keeps up": {"objective": "wasserstein", "penalty": 0.1, **KEEPS_UP},
}


def ring(n: int, rng: ng.Generator) -> np.ndarray:
    return (CENTRES[rng.integers(0, 8, n)] + STD * rng.normal((n, 2))).astype(np.float32)


def network(inputs: int, outputs: int, rng: ng.Generator) -> nn.Module:
    layer = lambda a, b: nn.Linear(a, b, rng=rng)
    return nn.Sequential(layer(inputs, 64), nn.ReLU(), layer(64, 64), nn.ReLU(), layer(64, outputs))


def covered(x: np.ndarray) -> tuple[int, float]:
    """How many modes have at least a fifth of their share of the samples within 4 std; the share of all that are."""
    distances = np.linalg.norm(x[:, None] - CENTRES, axis=2)
    inside = distances.min(1) < 4 * STD
    counts = np.bincount(distances.argmin(1)[inside], minlength=8)
    return int((counts >= len(x) / 8 / 5).sum()), float(inside.mean())


def play(objective: str, lr: float, betas: tuple[float, float], k: int = 1, penalty: float = 0.0, seed: int = 0) -> Any:
    """Algorithm 1: samples at the steps SHOWN, and the losses of D and G at each step.  G's rate is always 1e-3."""
    rng, shown = ng.Generator(seed), ng.Generator(100)
    g, d = network(2, 2, rng), network(2, 1, rng)
    critic = lambda x: d(x).reshape(-1)
    generate = lambda n, rng=rng: g(ng.tensor(rng.normal((n, 2))))
    of_g, of_d = (ng.optim.Adam(part.parameters(), lr=rate, betas=betas) for part, rate in ((g, 1e-3), (d, lr)))
    samples, losses = {}, []
    for step in range(1, STEPS + 1):
        for _ in range(k):
            real = ng.tensor(ring(BATCH, rng))
            with ng.no_grad():
                fake = generate(BATCH)
            loss = discriminator_loss(critic(real), critic(fake), objective)
            told = loss.item()
            if penalty:
                loss = loss + penalty * gradient_penalty(critic, real, fake, rng)
            of_d.zero_grad()
            loss.backward()
            of_d.step()
        loss = generator_loss(critic(generate(BATCH)), objective)
        of_g.zero_grad()
        loss.backward()
        of_g.step()
        losses.append((told, loss.item()))
        if step in SHOWN:
            with ng.no_grad():
                samples[step] = generate(2000, shown).numpy()
    return samples, np.array(losses)


def draw(path: Path) -> None:
    widths = [1] * len(SHOWN) + [1.2]
    figure, axes = plt.subplots(len(GAMES), 4, figsize=(6.4, 5.4), layout="constrained", width_ratios=widths)
    for row, (name, game) in zip(axes, GAMES.items(), strict=True):
        samples, losses = play(**game)
        for panel, step in zip(row, SHOWN, strict=False):
            modes, share = covered(samples[step])
            print(name.replace("\n", " "), step, modes, round(share, 3), losses[step - 50 : step].mean(0).round(3))
            panel.scatter(*samples[step][:500].T, s=3, color="#0072B2", linewidths=0)
            panel.scatter(*CENTRES.T, s=60, facecolors="none", edgecolors="#D55E00", linewidths=1)
            panel.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[], aspect="equal")
            panel.set_title(f"step {step}: {modes} of 8", fontsize=9)
        row[0].set_ylabel(name, fontsize=9)
        smooth = np.stack([np.convolve(column, np.ones(25) / 25, "valid") for column in losses.T])
        for curve, color, style, label in zip(smooth, ("black", "#E69F00"), ("-", "--"), "DG", strict=True):
            row[-1].plot(np.arange(25, STEPS + 1), curve, color=color, ls=style, label=label)
        row[-1].tick_params(labelsize=9)
        row[-1].legend(fontsize=9, handlelength=1.2)
    axes[0, -1].set_title("losses", fontsize=9)
    axes[-1, -1].set_xlabel("step", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
