"""The properties as tools, for anybody's implementation: `check_normal_kl(my_kl)` says whether a function is right.

The checkers are in `gradients.py`, `convolution.py` and so on; how they work, in `property.py` and `trial.py`.  They
need hypothesis (`pip install 'nanogen[testing]'`), and are imported at the first use.  `gradcheck` needs nothing.

    gradients      check_gradients, check_causal (and blind_spot, a report), check_attention_gradient
    layers         check_conv2d, check_conv_transpose2d, check_max_pool2d, check_avg_pool2d, check_linear,
                   check_layer_norm, check_group_norm, check_batch_norm, check_softmax, check_logsumexp,
                   check_attention, check_timestep_embedding, check_spectral_norm
    losses         check_cross_entropy, check_binary_cross_entropy, check_vae_loss, check_elbo, check_importance_bound,
                   check_bits_per_dim, check_free_bits
    divergences    check_normal_kl, check_standard_normal_kl, check_categorical_kl
    densities      check_discretized_logistic, check_discretized_normal, check_logistic_mixture
    samplers       check_reparameterization, check_gumbel_softmax, check_normal_sampler, check_logistic_sampler,
                   check_mixture_sampler, check_sampler
    diffusion      check_schedule, check_q_sample, check_q_posterior, check_conversion, check_reverse_step,
                   check_diffusion_sampler, check_bound_term, check_prior_term, check_loss_weight, check_guidance,
                   check_time_draw, check_time_grid, check_respacing
    adversarial    check_discriminator_loss, check_generator_loss, check_gradient_penalty
    training       check_sgd, check_adam, check_adamw, check_moving_average, check_learning_rate
    judging        check_frechet_distance, check_precision_recall, check_density_coverage, check_inception_score,
                   check_psnr

`help(check_normal_kl)` says how a function is called.  A checker returns quietly, or raises PropertyError with the
smallest counterexample and the mistake that it looks like, or UsageError.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanogen.autograd import Tensor, grad, tensor
from nanogen.backend import only, to_device

_FILES = (
    "errors", "property", "report", "gradients", "convolution", "normalisation", "functions", "labels", "divergences",
    "densities", "autoencoders", "bounds", "samplers", "schedules", "times", "diffusion", "weights", "terms", "reverse",
    "sampling", "adversarial", "spectral", "training", "rates", "judging",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    """The checkers and what belongs to them, at their first use."""
    if name == "__all__":
        return __dir__()
    public: dict[str, Any] = {"gradcheck": gradcheck}
    if name.startswith("check") or name in ("PropertyError", "UsageError", "blind_spot"):
        public |= _checkers()
    return public[name] if name in public else only(__name__, public)(name)


def __dir__() -> list[str]:
    return sorted({"gradcheck", *_checkers()})


def _checkers() -> dict[str, Any]:
    public: dict[str, Any] = {}
    for file in _FILES:
        path = f"{__name__}.{file}"
        try:
            found = vars(importlib.import_module(path))
        except ModuleNotFoundError as error:
            if error.name != "hypothesis":
                raise
            raise ImportError("the checkers need hypothesis: pip install 'nanogen[testing]'") from error
        public |= {
            key: value
            for key, value in found.items()
            if key.startswith("check_") or key in ("checks_for", "blind_spot", "PropertyError", "UsageError")
        }
    return public


def gradcheck(
    func: Callable[..., Any], inputs: Tensor | Sequence[Any], eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:  # fmt: skip
    """Whether the gradients of `func(*inputs)`, a tensor or several, agree with central differences.

    For each input x that requires gradients, in a random direction d, with random weights c of the outputs,

        ⟨∇ₓ⟨c, f(x)⟩, d⟩  =  ⟨c, f(x + εd) − f(x − εd)⟩ / 2ε  +  O(ε²).

    The two sides, a and b, may differ by atol + rtol · |b|.  torch calls this `fast_mode`.

    Raises:
        ValueError: an input that requires gradients and is not float64; no input that requires them.
        RuntimeError: the gradient of an input is wrong, unless raise_exception=False.
    """
    inputs, rng = [inputs] if isinstance(inputs, Tensor) else list(inputs), np.random.default_rng(0)
    learned = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not learned or any(inputs[i].dtype != np.float64 for i in learned):
        raise ValueError("gradcheck: inputs must require gradients, one of them at least, and those that do be float64")
    draw = lambda like: to_device(rng.standard_normal(like.shape), like.device)
    outputs = _as_list(func(*inputs))
    weights = [draw(y) for y in outputs]

    def moved(i: int, shift: Any) -> float:
        """⟨c, f⟩ with the i-th input moved by `shift`."""
        x = tensor(inputs[i].data + shift, requires_grad=True)
        found = _as_list(func(*inputs[:i], x, *inputs[i + 1 :]))
        return sum(float((c * y.data).sum()) for c, y in zip(weights, found, strict=True))

    gradients = grad(outputs, [inputs[i] for i in learned], weights, allow_unused=True)
    for i, g in zip(learned, gradients, strict=True):
        d = draw(inputs[i])
        exact = 0.0 if g is None else float((g.data * d).sum())
        estimate = (moved(i, eps * d) - moved(i, -eps * d)) / (2 * eps)
        if not abs(exact - estimate) <= atol + rtol * abs(estimate):
            problem = f"gradcheck: the derivative in inputs[{i}] along a direction is {estimate}, by gradients {exact}"
            if raise_exception:
                raise RuntimeError(problem)
            return False
    return True


def _as_list(outputs: Any) -> list[Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
