"""`python -m benchmarks.disentangling`: what beta does to a VAE's code where the factors of the images are known.

VAEs with beta = 1 and beta = 4 learn `nanogen.data.known.Shapes`, each from eight seeds; nothing else differs.  The
command prints the mutual information gap (Chen et al. 2018, eq. 6), in all and by factor, and what a code tells at all.
"""

from __future__ import annotations

import math
import sys

import numpy as np

import nanogen as ng
from nanogen.backend import use_threads
from nanogen.data.known import Shapes
from nanogen.metrics import mutual_information_gap

BETAS, SEEDS = (1.0, 4.0), 8
STUDENT_95 = 2.365  # 0.975-quantile of Student's t with SEEDS − 1 degrees
STEPS, WARMUP, BATCH, LR = 2000, 100, 32, 4e-3
DRAWS = 20  # of z for each image
SOURCE = Shapes()


def trained(beta: float, seed: int) -> ng.models.VAE:
    """A VAE trained on pictures drawn anew for each step, at a rate that rises, then falls to 0 along half a cosine."""
    rng = ng.Generator(seed)
    model = ng.models.VAE((1, 12, 12), SOURCE.levels, latent=6, channels=16, stages=1, beta=beta, rng=rng.stream(0))
    optimizer = ng.optim.Adam(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.lr = LR * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        loss = model.loss(SOURCE.sample(BATCH, rng)[0], rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def measured(model: ng.models.VAE, rng: ng.Generator) -> list[float]:
    """The gap, its part of each factor, Σ_k max_j I(z_j; v_k) and E[KL(q(z|x) ‖ p(z))] in nats, by draws of q(z|x)."""
    factors = SOURCE.all_factors()
    images = SOURCE.images(factors)
    with ng.no_grad():
        posterior = model.encode(images)
        codes = np.concatenate([posterior.rsample(rng).data for _ in range(DRAWS)])
        kl = model.terms(images, lambda q: model.codes.draws(q, rng))[1].mean().item()
    found = mutual_information_gap(codes, np.tile(factors, (DRAWS, 1)))
    return [found.value, *found.gaps, found.information.max(0).sum(), kl]


def main() -> None:
    use_threads(1)
    columns = ["gap", *SOURCE.factors, "Σ max I", f"KL (entropy of the factors: {SOURCE.entropy():.2f})"]
    table = [["beta", *columns], ["---"] * (len(columns) + 1)]
    for beta in BETAS:
        runs = []
        for seed in range(SEEDS):
            runs.append(measured(trained(beta, seed), ng.Generator(seed).stream(1)))
            print(
                f"beta {beta:g}, seed {seed}: gap {runs[-1][0]:.3f}, KL {runs[-1][-1]:.2f}", file=sys.stderr, flush=True
            )
        margins = STUDENT_95 * np.std(runs, axis=0, ddof=1) / math.sqrt(SEEDS)
        table.append(
            [f"{beta:g}", *(f"{m:.2f} ± {e:.2f}" for m, e in zip(np.mean(runs, axis=0), margins, strict=True))]
        )
    print("\n".join(f"| {' | '.join(row)} |" for row in table))


if __name__ == "__main__":
    main()
