"""Maximum likelihood looks for the model of least KL divergence, and a mean of n draws has the variance V/n."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen import Generator
from nanogen.data.known import Ising

HEIGHT = WIDTH = 3
TRUE = 0.4  # the coupling of the data


def draw(path: Path) -> None:
    data = Ising(HEIGHT, WIDTH, TRUE)
    images = data.all_images()
    p = np.exp(data.log_prob(images))  # of all 512 images
    couplings = np.linspace(0.0, 0.9, 91)
    models = [Ising(HEIGHT, WIDTH, coupling) for coupling in couplings]
    cross_entropy = np.array([-p @ model.log_prob(images) for model in models])

    figure, (left, right) = plt.subplots(2, 1, figsize=(6.4, 7.4), layout="constrained")
    left.plot(couplings, cross_entropy, "k", lw=2, label="expectation: entropy + KL")
    left.axhline(data.entropy(), color="k", ls=":", label="entropy of the data")
    for n, color, marker in ((10, "#d55e00", "s"), (1000, "#0072b2", "o")):
        drawn = data.sample(n, Generator(1))
        nll = np.array([-model.log_prob(drawn).mean() for model in models])
        left.plot(couplings, nll, color=color, label=f"mean over {n} images")
        left.plot(couplings[nll.argmin()], nll.min(), marker, color=color, ms=8)
    left.plot(TRUE, data.entropy(), "k*", ms=13)
    left.set(xlabel="coupling of the model", ylabel="−log p, nats per image")
    left.legend()

    sizes = 2 ** np.arange(1, 11)
    log_p = data.log_prob(data.sample(1024 * 400, Generator(2)))
    found = [log_p[: n * 400].reshape(400, n).mean(1).var(ddof=1) for n in sizes]
    variance = p @ data.log_prob(images) ** 2 - data.entropy() ** 2
    right.loglog(sizes, variance / sizes, "k", label=f"V/n, V = {variance:.2f} nats²")
    right.loglog(sizes, found, "o", color="#0072b2", label="variance of 400 means")
    right.set(xlabel="n, images per mean", ylabel="variance, nats²")
    right.legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)
