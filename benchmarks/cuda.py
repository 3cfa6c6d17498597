"""`python -m benchmarks --device cuda`: nanogen on CuPy against PyTorch, eager and compiled, on the same GPU.

Training steps of the four models and a reverse step of diffusion, ours kernel by kernel and as a CUDA graph, 32×32×3.
Both sides have the same weights and images and the same precision: TF32 is on for both or off for both.  They compute
the same losses from the same draws; in the steps that are timed each draws with its own generator on the GPU.  PyTorch
has the images there already, where ours uploads them each time, its fused Adam, and, eager, the better of two memory
formats; compiled it chooses its own.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import nanogen as ng
from benchmarks import torch_models
from benchmarks.steps import step_of_ours, step_of_theirs
from benchmarks.timing import Comparison, compare
from nanogen.backend import allow_tf32, device_module
from nanogen.training.sampling import as_graphs

SHAPE, LEVELS, BATCH = (3, 32, 32), 256, 128
SETTINGS: dict[str, dict[str, Any]] = {
    "pixelcnn": {"channels": 96, "blocks": 5, "dropout": 0.0},
    "vae": {"channels": 64, "stages": 1, "latent": 64, "decoder": "logistic"},
    "gan": {"channels": 64},
    "ddpm": {"channels": 64, "multipliers": (1, 2), "blocks": 2},
}
STEPS = 5  # between two looks at the clock, each of which waits for the GPU


def check_devices() -> None:
    """Raises:
    RuntimeError: no CuPy, no GPU, or a PyTorch without CUDA; what to install."""
    device_module("cuda")
    if not torch.cuda.is_available():
        raise RuntimeError("the comparison needs a PyTorch with CUDA, this one has none: see pytorch.org")


def tables(tf32: bool, budget: float) -> list[str]:
    """The table as lines of Markdown; each comparison takes `budget` seconds, and more to compile what there is."""
    allow_tf32(tf32)
    cupy = device_module("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True

    def wait() -> None:
        cupy.cuda.Device().synchronize()
        torch.cuda.synchronize()

    rows = comparisons("cuda", wait, SHAPE, BATCH, SETTINGS, budget, compiled=True)
    return [
        f"{datetime.date.today()}, {torch.cuda.get_device_name()}, CuPy {cupy.__version__} with CUDA "
        f"{cupy.cuda.runtime.runtimeGetVersion()}, PyTorch {torch.__version__} with cuDNN "
        f"{torch.backends.cudnn.version()}, float32, TF32 {'on' if tf32 else 'off'} for both; "
        f"{SHAPE[1]}×{SHAPE[2]}×{SHAPE[0]}, batch {BATCH}.",
        "",
        "| what | nanogen, ms | PyTorch, ms | ratio | quartiles |",
        "|---|---|---|---|---|",
        *(
            f"| {r.name} | {r.ours * 1e3:.2f} | {r.theirs * 1e3:.2f} | {r.ratio:.2f} | {r.low:.2f} … {r.high:.2f} |"
            for r in rows
        ),
    ]


def comparisons(
    where: str,
    wait: Callable[[], None],
    shape: tuple[int, int, int],
    batch: int,
    settings: dict[str, dict[str, Any]],
    budget: float,
    compiled: bool,
) -> list[Comparison]:
    """Each training step, and a reverse step of diffusion; `where` is torch's name of the device, ours is `cuda`."""
    images = np.random.default_rng(0).integers(0, LEVELS, (batch, *shape)).astype(np.uint8)
    rows, there = [], torch.as_tensor(images, device=where)
    for name, own in settings.items():
        ours = torch_models.stirred(ng.models.MODELS[name](shape, LEVELS, **own), 0.02)
        sides = {"eager": [model.to(where) for model in torch_models.both_formats(ours)]}
        if compiled:
            sides["compiled"] = [compile_networks(torch_models.mirror(ours).to(where))]
        ours = ours.to("cuda")
        check_losses(name, ours, sides, images)
        for way, captured in (("", False), (", as a graph", True)):
            step = several(step_of_ours(ours, images, "cuda", captured), wait)
            for kind, theirs in sides.items():
                others = [several(step_of_theirs(model, there, DrawnByTorch(where)), wait) for model in theirs]
                title = f"training step, {name}{way}, PyTorch {kind}"
                rows.append(report(compare(title, step, *others, budget=budget)))
        if name == "ddpm":
            step = several(reverse_step(ours.eval(), images), wait)
            for way in ("", ", as a graph"):
                if way:
                    as_graphs(ours.unet)
                for kind, theirs in sides.items():
                    others = [several(torch_reverse_step(model, images), wait) for model in theirs]
                    title = f"sampling step, ddpm{way}, PyTorch {kind}"
                    rows.append(report(compare(title, step, *others, budget=budget)))
    return rows


def several(step: Callable[[], Any], wait: Callable[[], None]) -> Callable[[], None]:
    """STEPS steps, then wait until the GPU has done them: only there does the clock tell what they took."""

    def run() -> None:
        for _ in range(STEPS):
            step()
        wait()

    return run


def report(row: Comparison) -> Comparison:
    """The times of one step, printed too."""
    row = Comparison(row.name, row.ours / STEPS, row.theirs / STEPS, row.low, row.high)
    print(f"{row.name}: {row.ours * 1e3:.2f} ms against {row.theirs * 1e3:.2f} ms: {row.ratio:.2f}", flush=True)
    return row


def check_losses(name: str, ours: ng.models.GenerativeModel, sides: dict[str, list[Any]], images: np.ndarray) -> None:
    """The same losses from the same draws, to a thousandth: TF32 has ten bits.

    Raises:
        AssertionError: they differ."""
    for kind, theirs in ((kind, theirs) for kind, both in sides.items() for theirs in both):
        for (part, loss_of, _), (torch_loss_of, _) in zip(ours.updates(), torch_models.updates(theirs), strict=True):
            a = loss_of(images, ng.Generator(1, "cuda", "host")).item()
            b = torch_loss_of(images, ng.Generator(1)).item()
            assert abs(a - b) < 1e-3 * abs(b), (name, part, kind, a, b)


def compile_networks(model: Any) -> Any:
    """torch.compile of each network as a whole; what draws and what moves numbers stays outside."""
    networks = [model] if isinstance(model, torch_models.PixelCNN) else list(model.children())
    for network in networks:
        network.compile()
    return model


class DrawnByTorch:
    """PyTorch's random numbers, drawn on a device of its own, as its models here ask for them."""

    def __init__(self, where: str):
        self.where = where

    def normal(self, shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
        return torch.randn(shape, device=self.where, dtype=torch.float64 if dtype == np.float64 else torch.float32)

    def integers(self, low: int, high: int, n: int) -> torch.Tensor:
        return torch.randint(low, high, (n,), device=self.where)


def reverse_step(model: Any, images: np.ndarray) -> Callable[[], None]:
    """x_{t−1} from x_t, at t = T/2, without the noise, which is the same for both."""
    x, t = model.scaled(images), model.T // 2
    times = device_module("cuda").full(len(images), t)

    def step() -> None:
        with ng.no_grad():
            model.p_mean(x, times)

    return step


def torch_reverse_step(model: Any, images: np.ndarray) -> Callable[[], None]:
    schedule, t = model.ours[0].schedule, model.ours[0].T // 2
    x, times = model.scaled(images), model.placed(np.full(len(images), t))
    signal, spread = float(schedule.sqrt_alpha_bars[t]), float(schedule.sqrt_one_minus_alpha_bars[t])
    of_x0, of_x_t = (
        float(schedule.mean_from_x0(a, t, b)) for a, b in ((np.zeros(()), np.ones(())), (np.ones(()), np.zeros(())))
    )

    def step() -> None:
        with torch.no_grad():
            x0 = ((x - spread * model.unet(x, times)) / signal).clamp(-1, 1)
            torch.add(of_x0 * x0, x, alpha=of_x_t)

    return step
