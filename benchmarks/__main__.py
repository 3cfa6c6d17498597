"""`python -m benchmarks`: nanogen against PyTorch eager and DeZero on this machine, by turns in one process.

First both sides' losses and gradients are compared, then they are timed by turns.  PyTorch runs in its default memory
format and in channels-last; the better one counts.  With `--device cuda` both sides are on a GPU: see `cuda.py`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
import torch
from torch.utils.flop_counter import FlopCounterMode

import nanogen as ng
from benchmarks import cuda, torch_models
from benchmarks.steps import labels_of, step_of_ours, step_of_theirs
from benchmarks.timing import SETTLING_AFTER_OPENBLAS, Comparison, compare, seconds
from nanogen import functional as F
from nanogen.backend import DEVICES, keep_freed_memory, use_threads

SIZES = {"8×8": ((1, 8, 8), 17), "28×28": ((1, 28, 28), 256)}
BATCH = 64
NO_DROPOUT = {"dropout": 0.0}  # the two sides would drop different elements
MODELS: dict[str, dict[str, Any]] = {
    "pixelcnn": NO_DROPOUT, "vae": {}, "gan": {}, "sagan": {}, "ddpm": {},
    "ddpm transformer": {"network": "transformer"}, "ddpm text": {"classes": 10, "condition": "text"},
    "gated-pixelcnn": NO_DROPOUT,
    "pixelrnn row": {**NO_DROPOUT, "cell": "row"}, "pixelrnn diagonal": {**NO_DROPOUT, "cell": "diagonal"},
}  # fmt: skip


def models(size: str) -> dict[str, ng.models.GenerativeModel]:
    """The models with the settings of their recipes, and those of `MODELS`."""
    shape, levels = SIZES[size]
    found = {}
    for name, settings in MODELS.items():
        cls = ng.models.MODELS[name.split()[0]]
        found[name] = cls(shape, levels, **{**cls.recipe(shape).model, **settings})
    return found


def random_images(size: str, n: int = BATCH) -> np.ndarray:
    shape, levels = SIZES[size]
    return np.random.default_rng(0).integers(0, levels, (n, *shape)).astype(np.uint8)


def check_equal(name: str, ours: ng.models.GenerativeModel, images: np.ndarray) -> None:
    """The same loss and the same gradients, in float64: in float32 a number that rounds to the other side of a kink
    would show more than a mistake.

    Raises:
        AssertionError: they differ."""
    ours = torch_models.stirred(copy.deepcopy(ours).to(np.float64), 0.02)
    theirs = torch_models.mirror(copy.deepcopy(ours))  # captions count the images that they are made of
    labels = labels_of(ours, len(images))
    for (part, loss_of, module), (torch_loss_of, _) in zip(ours.updates(), torch_models.updates(theirs), strict=True):
        keys, parameters = zip(*module.named_parameters(), strict=True)
        a, b = (f(images, ng.Generator(1), **labels) for f in (loss_of, torch_loss_of))
        assert abs(a.item() - b.item()) < 1e-9 * abs(b.item()), (name, part, a, b.item())
        torch_module = theirs if part == "loss" else getattr(theirs, part)
        named = torch_models.our_names(torch_module)
        theirs_g = dict(zip(named, torch.autograd.grad(b, list(named.values())), strict=True))
        scale = max(float(g.abs().max()) for g in theirs_g.values())
        for key, g in zip(keys, ng.grad(a, parameters), strict=True):
            error = np.abs(g.data - theirs_g[key].numpy()).max()
            assert error < 1e-9 * scale, (name, part, key, error, scale)


def training_steps() -> list[Comparison]:
    rows = []
    for size in SIZES:
        images = random_images(size)
        for name, ours in models(size).items():
            steps = [step_of_theirs(model, images) for model in torch_models.both_formats(ours)]
            check_equal(name, ours, images)
            rows.append(compare(f"training step, {name}, {size}", step_of_ours(ours, images), *steps, budget=20))
            report(rows[-1])
    return rows


def floors(rate: float) -> list[str]:
    """What the products of matrices of a training step cost at the measured rate, convolutions by the direct sum."""
    lines = ["| training step | GFLOP | floor, ms |", "|---|---|---|"]
    for size in SIZES:
        for name in ("pixelcnn", "vae", "gan", "ddpm"):
            step = step_of_theirs(torch_models.mirror(models(size)[name]), random_images(size))
            with FlopCounterMode(display=False) as counter:
                step()
            work = counter.get_total_flops() / 1e9
            lines.append(f"| {name}, {size} | {work:.2f} | {work / rate * 1e3:.1f} |")
    return lines


def against_dezero() -> list[Comparison]:
    """The same VAE and GAN in DeZero, whose convolution is im2col as Chainer's is."""
    from benchmarks import dezero_models  # the other comparisons, on a GPU above all, do without DeZero

    rows = []
    for size in SIZES:
        images, (shape, levels) = random_images(size), SIZES[size]
        for name in ("vae", "gan"):
            settings = {**ng.models.MODELS[name].recipe(shape).model} | (
                {"decoder": "categorical"} if name == "vae" else {}
            )
            ours = ng.models.MODELS[name](shape, levels, **settings)
            theirs = dezero_models.step(ours, images)
            step, title = step_of_ours(ours, images), f"training step, {name}, {size}"
            rows.append(compare(title, step, theirs, budget=10, settling=SETTLING_AFTER_OPENBLAS))
            report(rows[-1])
    return rows


def layer_cases() -> dict[str, tuple[tuple[tuple[int, ...], ...], Callable[..., Any], Callable[..., Any]]]:
    """Name: the shapes of the inputs (the first one an image), ours, theirs."""
    T = torch.nn.functional
    convolution = (lambda x, w: F.conv2d(x, w, padding=1), lambda x, w: T.conv2d(x, w, padding=1))
    pointwise = (lambda x, w: F.conv2d(x, w), lambda x, w: T.conv2d(x, w))
    strided = (lambda x, w: F.conv2d(x, w, stride=2, padding=1), lambda x, w: T.conv2d(x, w, stride=2, padding=1))
    up = (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1),
        lambda x, w: T.conv_transpose2d(x, w, stride=2, padding=1),
    )
    norm = (lambda x, w, b: F.group_norm(x, 8, w, b), lambda x, w, b: T.group_norm(x, 8, w, b))
    batch = (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        lambda x, w, b: T.batch_norm(x, None, None, w, b, training=True),
    )
    attention = (
        lambda tokens: F.scaled_dot_product_attention(*(tokens[:, :, i].permute(0, 2, 1, 3) for i in range(3))),
        lambda tokens: T.scaled_dot_product_attention(*(tokens[:, :, i].permute(0, 2, 1, 3) for i in range(3))),
    )
    seen = np.arange(6) < 4
    masked = (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, seen),
        lambda q, k, v: T.scaled_dot_product_attention(q, k, v, torch.from_numpy(seen)),
    )
    n = BATCH
    return {
        "conv 3×3, 32→32, 8×8": (((n, 32, 8, 8), (32, 32, 3, 3)), *convolution),
        "conv 3×3, 64→64, 4×4": (((n, 64, 4, 4), (64, 64, 3, 3)), *convolution),
        "conv 3×3, 32→32, 28×28": (((n, 32, 28, 28), (32, 32, 3, 3)), *convolution),
        "conv 3×3, 64→64, 14×14": (((n, 64, 14, 14), (64, 64, 3, 3)), *convolution),
        "conv 1×1, 64→32, 28×28": (((n, 64, 28, 28), (32, 64, 1, 1)), *pointwise),
        "conv 4×4 stride 2, 32→64, 28×28": (((n, 32, 28, 28), (64, 32, 4, 4)), *strided),
        "transposed conv 4×4 stride 2, 64→32, 14×14": (((n, 64, 14, 14), (64, 32, 4, 4)), *up),
        "group norm, 32, 28×28": (((n, 32, 28, 28), (32,), (32,)), *norm),
        "batch norm, 32, 28×28": (((n, 32, 28, 28), (32,), (32,)), *batch),
        "SiLU, 32, 28×28": (((n, 32, 28, 28),), F.silu, T.silu),
        "attention, 4 heads of 16, 49": (((n, 49, 3, 4, 16),), *attention),
        "attention, 4 heads of 16, 196": (((n, 196, 3, 4, 16),), *attention),
        "attention, 4 heads of 16, 196 to 6 with a mask": (((n, 4, 196, 16), (n, 4, 6, 16), (n, 4, 6, 16)), *masked),
    }


def layers() -> list[Comparison]:
    rows, draw = [], np.random.default_rng(0)
    for name, (shapes, ours, theirs) in layer_cases().items():
        arrays = [draw.normal(size=shape).astype(np.float32) for shape in shapes]

        def ours_once(inputs: list[Any], f: Callable[..., Any] = ours) -> None:
            y = f(*inputs)
            ng.grad(y, inputs, y.data)

        def theirs_once(inputs: list[Any], f: Callable[..., Any] = theirs) -> None:
            y = f(*inputs)
            torch.autograd.grad(y, inputs, y.detach())

        mine = [ng.tensor(as_channels_last(a), requires_grad=True) for a in arrays]
        plain = [torch.tensor(a, requires_grad=True) for a in arrays]
        last = [
            torch.tensor(a).to(memory_format=torch.channels_last).requires_grad_() if a.ndim == 4 else p
            for a, p in zip(arrays, plain, strict=True)
        ]
        np.testing.assert_allclose(ours(*mine).numpy(), theirs(*plain).detach().numpy(), atol=2e-4)
        sides = [lambda i=inputs, g=theirs_once: g(i) for inputs in (plain, last)]
        rows.append(compare(f"{name}, forward and backward", lambda i=mine, g=ours_once: g(i), *sides, budget=3))
        report(rows[-1])
    return rows


def as_channels_last(array: np.ndarray) -> np.ndarray:
    """Images as our convolutions leave them in memory."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if array.ndim == 4 else array


def engine_overhead() -> list[Comparison]:
    """One multiplication of one-element arrays, forward and backward, in a chain of 100."""

    def ours() -> None:
        x = y = ng.tensor(np.ones(1, np.float32), requires_grad=True)
        for _ in range(100):
            y = y * x
        y.backward()

    def theirs() -> None:
        x = y = torch.ones(1, requires_grad=True)
        for _ in range(100):
            y = y * x
        y.backward()

    rows = [compare("100 multiplications of one element, forward and backward", ours, theirs, budget=3)]
    report(rows[-1])
    return rows


def sampling() -> list[Comparison]:
    """One reverse step of diffusion on 16 images, with each network; 16 images of PixelCNN against the naive loop."""
    rows = []
    found = models("28×28")
    images, t = random_images("28×28", 16), np.full(16, 500)

    def torch_step(model: Any, given: Any) -> None:
        with torch.no_grad():
            getattr(model, model.ours[0].network)(model.scaled(images), *map(torch.from_numpy, (t, *given.values())))

    def our_step(ddpm: Any, x: Any, given: Any) -> None:
        with ng.no_grad():
            ddpm.predict_noise(x, t, **given)

    for name in ("ddpm", "ddpm transformer", "ddpm text"):
        ddpm, theirs = found[name], torch_models.both_formats(found[name])
        x, given = ddpm.scaled(images), ddpm.condition(labels_of(ddpm, 16).get("labels"), 16)
        sides = [lambda m=m, g=given: torch_step(m, g) for m in theirs]
        ours = lambda m=ddpm, x=x, g=given: our_step(m, x, g)
        rows.append(compare(f"{name} sampling step, 28×28, batch 16", ours, *sides))
        report(rows[-1])
    rows.append(pixelcnn_sampling(found["pixelcnn"]))
    report(rows[-1])
    return rows


def pixelcnn_sampling(ours: ng.models.GenerativeModel, n: int = 16) -> Comparison:
    """All of our sampling against the naive loop, the whole network for every pixel, of which one row is timed."""
    _, height, width = ours.image_shape

    def their_row(model: Any) -> None:
        x = np.zeros((n, *ours.image_shape), np.uint8)
        with torch.no_grad():
            for j in range(width):
                logits = model(model.scaled(x))[:, :, height // 2, j]
                x[:, 0, height // 2, j] = torch.multinomial(logits.softmax(1), 1)[:, 0].numpy()

    name = f"PixelCNN sampling, {height}×{width}, batch {n}; the naive loop: one row of {height} timed, times {height}"
    row = compare(
        name,
        lambda: ours.sample(n, ng.Generator(0)),
        *[lambda m=m: their_row(m) for m in torch_models.both_formats(ours)],
    )
    return dataclasses.replace(row, theirs=row.theirs * height, low=row.low / height, high=row.high / height)


def peak_memory() -> list[tuple[str, float, float]]:
    """MiB at most, of a process that takes three training steps, beyond one that has only made the model."""
    rows = []
    for name in MODELS:
        ours, theirs = (memory_beyond(side, name) for side in ("ours", "theirs"))
        rows.append((name, ours, theirs))
        print(f"peak memory, {name}, 28×28: {ours:.0f} MiB against {theirs:.0f} MiB: {ours / theirs:.2f}")
    return rows


def memory_beyond(side: str, name: str) -> float:
    command = [sys.executable, "-m", "benchmarks", "--threads", str(torch.get_num_threads()), "--memory", side, name]
    runs = [subprocess.run([*command, steps], check=True, capture_output=True, text=True).stdout for steps in "03"]
    return float(runs[1]) - float(runs[0])


def memory_of(side: str, name: str, steps: int) -> float:
    """MiB at most while training."""
    model, images = models("28×28")[name], random_images("28×28")
    step = step_of_ours(model, images) if side == "ours" else step_of_theirs(torch_models.mirror(model), images)
    for _ in range(steps):
        step()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def gemm_rate() -> float:
    """GFLOP/s of a float32 product of 1024 × 1024 matrices."""
    a = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    best = min(seconds(lambda: a @ a) for _ in range(30))
    return 2 * 1024**3 / best / 1e9


def report(row: Comparison) -> None:
    print(f"{row.name}: {row.ours * 1e3:.2f} ms against {row.theirs * 1e3:.2f} ms: {row.ratio:.3g}", flush=True)


def table(rows: list[Comparison]) -> list[str]:
    return [
        "| what | nanogen, ms | the other, ms | ratio | quartiles |",
        "|---|---|---|---|---|",
        *(
            f"| {r.name} | {r.ours * 1e3:.2f} | {r.theirs * 1e3:.2f} | {r.ratio:.3g} | {r.low:.3g} … {r.high:.3g} |"
            for r in rows
        ),
    ]


PARTS: dict[str, Callable[[], list[Comparison]]] = {
    "training": training_steps,
    "layers": layers,
    "sampling": sampling,
    "engine": engine_overhead,
    "dezero": against_dezero,
}


TITLES = {
    "training": "Training steps",
    "layers": "Layers, forward and backward",
    "sampling": "Sampling",
    "engine": "The engine",
    "dezero": "Against DeZero",
}


def processor() -> str:
    """The processor's name and its widest vectors."""
    info = Path("/proc/cpuinfo")
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line) if info.exists() else {}
    named = {name.strip(): value.strip() for name, value in fields.items()}
    vectors = next((wide for wide in ("avx512f", "avx2") if wide in named.get("flags", "").split()), "")
    return f"{named.get('model name', platform.machine())} {vectors}".strip()


def blas() -> str:
    """NumPy's BLAS, its version and the processor that its kernels are for."""
    found = threadpoolctl.ThreadpoolController().select(user_api="blas").info()[:1]
    return " ".join(str(found[0].get(key, "")) for key in ("internal_api", "version", "architecture")) if found else "?"


def on_this_processor(threads: int, only: str | None) -> list[str]:
    """The tables as lines of Markdown; `only` one part of them."""
    rate = gemm_rate()
    lines = [
        f"{datetime.date.today()}, {threads} threads, {processor()}, "
        f"NumPy {np.__version__} with {blas()}, PyTorch {torch.__version__}; matrix products at {rate:.0f} GFLOP/s.",
    ]
    for part, run in PARTS.items():
        if only in (None, part):
            lines += ["", f"## {TITLES[part]}", "", *table(run())]
    if only in (None, "training"):
        lines += ["", "## Floors", "", *floors(rate)]
    if only in (None, "memory"):
        lines += ["", "## Memory", "", "| model, 28×28 | nanogen, MiB | PyTorch, MiB | ratio |", "|---|---|---|---|"]
        lines += [f"| {name} | {a:.0f} | {b:.0f} | {a / b:.2f} |" for name, a, b in peak_memory()]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--device", choices=DEVICES, default="cpu", help="cuda: both sides on a GPU")
    options.add_argument("--tf32", action="store_true", help="with --device cuda: products with TF32, on both sides")
    options.add_argument("--budget", type=float, default=10.0, help="with --device cuda: seconds for each comparison")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--only", choices=[*PARTS, "memory"], help="one part of those on the CPU (default: all)")
    options.add_argument("--out", type=Path, help="write the tables there, as Markdown")
    options.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)  # the arguments of memory_of
    chosen = options.parse_args(arguments)
    if chosen.device == "cuda" and chosen.only:
        options.error("--only names a part of what is measured on the CPU")
    if chosen.device == "cpu" and chosen.tf32:
        options.error("--tf32 is a GPU's: it needs --device cuda")
    if "OPENBLAS_CORETYPE" in os.environ:
        print("OPENBLAS_CORETYPE is set: products may be slower than this processor's own kernels", file=sys.stderr)
    torch.set_num_threads(chosen.threads)
    keep_freed_memory()  # as the command line does; for PyTorch too
    with use_threads(chosen.threads):
        if chosen.memory:
            side, model, steps = chosen.memory
            print(memory_of(side, model, int(steps)))
            return
        if chosen.device == "cuda":
            try:
                cuda.check_devices()
            except RuntimeError as error:
                options.error(str(error))
        lines = (
            cuda.tables(chosen.tf32, chosen.budget)
            if chosen.device == "cuda"
            else on_this_processor(chosen.threads, chosen.only)
        )
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
