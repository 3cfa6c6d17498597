"""The numbers of `evaluation.json` as text, for the terminal and for the page."""

from __future__ import annotations

import math
from typing import Any

from nanogen.metrics import GROUPS, NORMAL_95, Estimate

FEWEST = 2 * GROUPS  # images in each of two compared sets, and test images for an interval of the likelihood, at least
SHARES = "precision", "recall", "coverage"  # among the metrics of quality
CAPTIONS = {  # of the pictures that an evaluation draws
    "evaluation-closest": "samples closest to training images, each above its nearest training and nearest test image",
    "evaluation-outside": "samples unlike any test image, the most distant first",
    "evaluation-missed": "test images unlike any sample, the most distant first",
}


def heading(found: dict[str, Any]) -> str:
    """What was evaluated: the model, its data, the step of the checkpoint if one was chosen, and how many images."""
    step = "" if found["checkpoint"] is None else f", step {found['checkpoint']}"
    return f"{found['model']} on {found['data']}{step}: {found['test_images']} test images, {found['samples']} samples"


def rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """For each number its name, its value with a 95 % interval, and what to compare it with."""
    rows, bits, classes = [], found["likelihood"], found["classes"]
    if bits is None:
        rows.append(("bits/dim", "none", "this model has no density"))
    else:
        interval = (f"{bits['bits_per_dim']:.4f}", f"no interval: it needs {FEWEST} test images")
        if bits["high"] is not None:
            interval = (f"{interval[0]} ± {bits['high'] - bits['bits_per_dim']:.4f}", "")
        rows.append((f"bits/dim ({bits['kind']})", *interval))
        rows += [(f"  {name}", f"{value:.4f}", "") for name, value in bits["terms"].items()]
    for name, bound in (found.get("estimators") or {}).items():
        value = f"{bound['bits_per_dim']:.4f} ± {NORMAL_95 * bound['standard_error']:.4f}"
        spread, calls = f"{bound['nats']:.2f} nats; a draw ± {bound['std']:.4f}", bound["network_evaluations"]
        rows.append((f"  by {name}", value, f"{spread}, {calls} network evaluation{'s' * (calls > 1)}"))
    if not found["quality"]:
        rows.append(("comparisons of sets *", "none", f"they need {FEWEST} images on either side"))
    for name, estimate in found["quality"].items():
        text = share if name in SHARES else centred
        rows.append((f"{name} *", text(Estimate(**estimate)), f"real images: {text(Estimate(**found['floor'][name]))}"))
    for name, estimate in found["copies"].items():
        rows.append((name, share(Estimate(**estimate)), f"nothing copied: {found['copies_expected'][name]:.3f}"))
    if classes is not None:
        shares = f"shares {classes['smallest share']:.3f} … {classes['largest share']:.3f}"
        rows.append(("classes covered", f"{classes['covered']} of {classes['classes']}", shares))
    rows.append(("network evaluations per sample", str(found["network_evaluations"]), ""))
    rows.append(("seconds per sample", f"{found['seconds']:.4f}", ""))
    return rows


def footnote(found: dict[str, Any]) -> str:
    return f"* {found['features']}: not an Inception FID, nor to be compared with one"


def share(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def centred(estimate: Estimate) -> str:
    digits = max(0, min(4, 2 - math.floor(math.log10(max(abs(estimate.value), 1e-9)))))
    return f"{estimate.value:.{digits}f} ± {(estimate.high - estimate.low) / 2:.{digits}f}"
