"""FID and PSNR of torchmetrics, and prdc: `pip install torchmetrics prdc`, `python docs/examples/metric_packages.py`.

The five of the first table are right.  The two of the second are not what was asked for:

- `peak_signal_noise_ratio` is that of all pixels together, unless `dim=` makes it the mean of the images' ratios.
- `compute_prdc(…, nearest_k)` does not count the point itself; a k that counts it is one more.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch
from prdc import compute_prdc
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image.fid import FrechetInceptionDistance

from nanogen.testing import check_all


class Given(torch.nn.Module):
    """In place of the Inception network: features are given."""

    def __init__(self, count: int):
        super().__init__()
        self.num_features = count

    def forward(self, x: Any) -> Any:
        return x


def frechet(a: Any, b: Any) -> Any:
    metric = FrechetInceptionDistance(Given(a.shape[1])).set_dtype(torch.float64)
    metric.update(torch.tensor(a), real=True)
    metric.update(torch.tensor(b), real=False)
    return metric.compute()


def prdc(k: int) -> Any:
    def all_four(real: Any, fake: Any) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the numbers of images
            return compute_prdc(real, fake, k)

    return all_four


def psnr(dim: Any) -> Any:
    return lambda a, b: peak_signal_noise_ratio(torch.tensor(a), torch.tensor(b), data_range=1.0, dim=dim)


RIGHT = {
    "frechet_distance": frechet,
    "precision_recall": (prdc(3), {"k": 3}),
    "density_coverage": (prdc(5), {"k": 5}),
    "psnr": psnr((1, 2, 3)),
    "psnr: all pixels": (psnr(None), {"reduction": "all"}),
}
OTHERWISE = {
    "psnr: as it is": psnr(None),
    "precision_recall: itself counted": (prdc(3), {"k": 4}),
}


if __name__ == "__main__":
    right, otherwise = check_all(RIGHT), check_all(OTHERWISE)
    print(right, otherwise, sep="\n\n")
    assert right.ok
    assert all(row.verdict == "wrong" for row in otherwise.rows)
