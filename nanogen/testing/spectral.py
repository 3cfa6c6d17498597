"""Spectral normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nanogen.testing.draws import Draw
from nanogen.testing.property import checker


def _matrix(w: np.ndarray) -> np.ndarray:
    return w.reshape(len(w), -1)


def _largest(w: np.ndarray) -> float:
    return float(np.linalg.svd(_matrix(w), compute_uv=False)[0])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def _spectral(
    sigma: Callable[..., float] | None = None, output: Callable[..., Any] = lambda w, s: w / s, only: str = ""
) -> Callable[..., Any]:
    def truth(w: Any, u: Any, *, iterations: Any) -> Any:
        if only and only != ("one" if iterations == 1 else "converged"):
            return None
        if sigma is not None:
            return output(w, sigma(w, u))
        return output(w, _largest(w) if iterations == "converged" else _powered(w, u, iterations))

    return truth


def _powered(w: np.ndarray, u: np.ndarray, iterations: int) -> float:
    """σ after power iterations from u: v = Wᵀu/‖·‖, u = Wv/‖·‖, σ = uᵀWv."""
    m = _matrix(w)
    for _ in range(iterations):
        v = _unit(m.T @ u)
        u = _unit(m @ v)
    return float(u @ m @ v)


def _weight(draw: Draw, *, iterations: Any) -> dict[str, Any]:
    if iterations != "converged" and not (isinstance(iterations, int) and iterations > 0):
        raise ValueError(f"check_spectral_norm: iterations must be 'converged' or a number, got {iterations!r}")
    out, into, h, w = draw.sizes((2, 4), (2, 5), (2, 3), (1, 2))
    shape = (out, into) if draw.integer(0, 1) else (out, into, h, w)
    weight = draw.rng().integers(-20, 21, shape) / 10 + 0.05
    m = _matrix(weight)
    u, s, v = np.linalg.svd(m, full_matrices=False)
    s = s[0] * 0.6 ** np.arange(len(s))  # far enough apart for some ten power iterations
    weight = ((u * s) @ v).reshape(shape)
    return {"weight": weight, ("u" if iterations != "converged" else "_u"): _unit(draw.rng().standard_normal(out))}


@checker(
    name="spectral norm",
    equation="W / σ(W), σ the largest singular value of W as a matrix (out, everything else)",
    source="Miyato et al. 2018, eq. 8, algorithm 1",
    inputs=_weight,
    truth=_spectral(),
    mistakes={
        "the Frobenius norm in place of the largest singular value": _spectral(lambda w, u: float(np.linalg.norm(w))),
        "σ² in place of σ": _spectral(output=lambda w, s: w / s**2),
        "√σ in place of σ": _spectral(output=lambda w, s: w / s**0.5),
        "multiplied by σ instead of divided": _spectral(output=lambda w, s: w * s),
        "W as it is": _spectral(output=lambda w, s: w),
        "σ in place of W/σ": _spectral(output=lambda w, s: np.array(s)),
        "the largest entry in place of the largest singular value": _spectral(lambda w, u: float(np.abs(w).max())),
        "the largest row's norm in place of the largest singular value": _spectral(
            lambda w, u: float(np.linalg.norm(_matrix(w), axis=1).max())
        ),
        "the smallest singular value": _spectral(lambda w, u: float(np.linalg.svd(_matrix(w), compute_uv=False)[-1])),
        "the sum of the singular values": _spectral(
            lambda w, u: float(np.linalg.svd(_matrix(w), compute_uv=False).sum())
        ),
        "W as a matrix of the wrong axes, (in, everything else), reshaped": _spectral(
            lambda w, u: float(np.linalg.svd(w.reshape(w.shape[1], -1), compute_uv=False)[0])
        ),
        "W as a matrix (everything else, last axis)": _spectral(
            lambda w, u: (
                float(np.linalg.svd(w.reshape(-1, w.shape[-1]), compute_uv=False)[0]) if w.ndim > 2 else _largest(w)
            )
        ),
        "σ of the half step, ‖Wᵀu‖": _spectral(lambda w, u: float(np.linalg.norm(_matrix(w).T @ u)), only="one"),
        "one power iteration more": _spectral(lambda w, u: _powered(w, u, 2), only="one"),
        "v not normalised": _spectral(
            lambda w, u: float(_unit(_matrix(w) @ (_matrix(w).T @ u)) @ _matrix(w) @ (_matrix(w).T @ u)), only="one"
        ),
    },
    conventions={},
    where={"where W has more than two axes": lambda w, u, **_: w.ndim > 2},
    rtol=lambda single, *, iterations: 1e-3 if iterations == "converged" else 0.0,
    tags=("adversarial", "spectral"),
)
def check_spectral_norm(normalise: Any, *, iterations: Any = "converged", **options: Any) -> None:
    """A weight divided by its largest singular value.

    The function is called as normalise(weight), (out, in) or (out, in, h, w), and returns W/σ: let it take as many
    power iterations as it needs (20 are enough for the weights that are tried).

    Args:
        iterations: "converged"; or the number of power iterations from a given u: the function is called as
            normalise(weight, u), u (out,) of length 1, and returns W/(uᵀWv) after v = Wᵀu/‖·‖, u = Wv/‖·‖.

    Equation: W/σ(W), of W as a matrix (out, in·h·w).  Miyato et al. 2018, eq. 8 and algorithm 1.

    >>> import numpy as np
    >>> check_spectral_norm(lambda w: w / np.linalg.svd(w.reshape(len(w), -1))[1][0])
    """
