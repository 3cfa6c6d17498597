"""What general mutation testing is done on, and the form in which mutmut sees all of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Files of nanogen, the tests that mutmut runs, and those that try its survivors besides."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    more: tuple[str, ...]


PARTS = {
    "schedule": Part(("models/diffusion/schedule.py",), ("test_schedule.py",), ("test_ddpm.py", "test_known.py")),
    "distributions": Part(("distributions.py",), ("test_distributions.py",), ("test_ddpm.py", "test_vae.py")),
    "autograd": Part(
        ("autograd.py",),
        ("test_autograd.py", "test_strict.py::test_numbers_and_labels_go_along", "test_parity.py::test_operations"),
        ("test_functional.py", "test_torch.py"),
    ),
    "operations": Part(
        ("functional/__init__.py", "functional/elementwise.py", "functional/reduction.py", "functional/shape.py",
         "functional/special.py"),
        ("test_autograd.py", "test_functional.py", "test_torch.py", "test_parity.py::test_operations"),
        ("test_strict.py::test_numbers_and_labels_go_along", "test_strict.py::test_indices_that_lie_there_stay_there",
         "test_strict.py::test_a_captured_step_of_sizes_that_do_not_double", "test_nn.py"),
    ),
    "layers": Part(
        ("functional/activation.py", "functional/loss.py", "functional/matrix.py", "functional/normalization.py"),
        ("test_functional.py", "test_torch.py", "test_parity.py::test_operations"),
        ("test_kernels.py", "test_nn.py", "test_torch_models.py",
         "test_strict.py::test_a_run_on_the_stand_in_is_the_run_on_the_cpu",
         "test_distributed.py::test_ranks_compute_what_one_process_does[norm-2]"),
    ),
    "kernels": Part(
        ("kernels/activation.py", 
         "kernels/cpu/activation.py", "kernels/cpu/normalization.py", "kernels/cpu/softmax.py",
         "kernels/cpu/updates.py", "kernels/cuda/activation.py", "kernels/cuda/launch.py",
         "kernels/cuda/normalization.py", 
         "kernels/cuda/updates.py"),
        ("test_kernels.py", "test_compiled.py", "test_cuda.py"),
        ("test_functional.py", "test_nn.py", "test_strict.py",
         "test_distributed.py::test_ranks_compute_what_one_process_does[norm-2]"),
    ),
    "products": Part(
        ("kernels/cpu/products.py", "kernels/cuda/products.py"),
        ("test_products.py", "test_compiled.py"),
        ("test_kernels.py", "test_strict.py"),
    ),
    "convolution": Part(
        ("functional/conv.py", "kernels/convolution.py", "kernels/winograd.py", "kernels/cpu/convolution.py",
         "kernels/cuda/convolution.py"),
        ("test_conv.py", "test_kernels.py", "test_cuda.py", "test_compiled.py"),
        ("test_functional.py", "test_nn.py", "test_torch.py", "test_torch_models.py", "test_products.py",
         "test_strict.py::test_a_run_on_the_stand_in_is_the_run_on_the_cpu"),
    ),
    "optimisers": Part(
        ("optim.py",),
        ("test_optim.py",),
        ("test_strict.py::test_a_training_step_leaves_the_device_alone",
         "test_strict.py::test_a_captured_step_is_the_step"),
    ),
    "compiled": Part(
        ("backend.py", "kernels/cpu/build.py", "kernels/cpu/compiled.py", "kernels/cpu/threads.py"),
        ("test_autograd.py", "test_backend.py", "test_compiled.py", "test_kernels.py"),
        ("test_products.py", "test_optim.py", "test_distributed.py", "test_strict.py"),
    ),
    "pixelcnn": Part(
        tuple(f"models/autoregressive/{name}.py" for name in ("base", "columns", "pixelcnn", "gated")),
        ("test_pixelcnn.py", "test_models.py", "test_torch_models.py"), ("test_parity.py::test_models",),
    ),
    "vae": Part(
        tuple(f"models/latent/{name}.py" for name in ("base", "vae", "networks", "posteriors")),
        ("test_vae.py", "test_posteriors.py", "test_models.py", "test_torch_models.py"),
        ("test_parity.py::test_models",),
    ),
    "gan": Part(
        tuple(
            f"models/adversarial/{name}.py"
            for name in ("biggan", "gan", "infogan", "networks", "objectives", "spectral")
        ),
        ("test_gan.py", "test_biggan.py", "test_infogan.py", "test_objectives.py", "test_spectral.py", "test_models.py",
         "test_torch_models.py"),
        ("test_parity.py::test_models",),
    ),
    "ddpm": Part(
        ("models/diffusion/ddpm.py", "models/diffusion/base.py", "models/diffusion/bound.py"),
        ("test_ddpm.py", "test_models.py", "test_torch_models.py"), ("test_parity.py::test_models",),
    ),
    "metrics": Part(("metrics.py",), ("test_metrics.py",), ("test_evaluation.py",)),
    "evaluation": Part(
        ("training/evaluation.py", "training/features.py"), ("test_evaluation.py",),
        ("test_cli.py::test_evaluate", "test_cli.py::test_evaluate_by_ddim"),
    ),
    "pictures": Part(
        ("training/pictures.py", "training/page.py"), ("test_pictures.py", "test_page.py"), ("test_training.py",),
    ),
    "training": Part(
        ("training/loop.py", "training/run.py", "training/config.py", "training/anomaly.py"),
        ("test_training.py", "test_checkpoint.py"),
        ("test_page.py", "test_pictures.py", "test_cli.py", "test_distributed.py", "test_strict.py"),
    ),
    "files": Part(
        ("training/checkpoint.py", "training/files.py", "training/sampling.py", "training/stopping.py"),
        ("test_checkpoint.py", "test_distributed.py::test_ranks_draw_the_images_of_one_process",
         "test_stopping.py::test_the_first_signal_waits_and_the_second_does_not"),
        ("test_strict.py", "test_stopping.py", "test_training.py"),
    ),
}  # fmt: skip


def exposed(source: str) -> str:
    """The same program in plain functions: `@d def f` becomes `def f` and `f = d(f)`; a lambda that a statement of the
    module passes on becomes a function of its own, and so do the functions of a kernel."""
    tree = ast.parse(source)
    tree.body = list(_in_plain_functions(tree.body))
    return ast.unparse(ast.fix_missing_locations(tree))


def _in_plain_functions(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    for s in statements:
        if isinstance(s, ast.ClassDef) and any(".kernel(" in ast.unparse(d) for d in s.decorator_list):  # without self
            yield from _functions_lifted(s)
        elif isinstance(s, ast.ClassDef):
            s.body = list(_in_plain_functions(s.body))
        if isinstance(s, ast.FunctionDef) and s.decorator_list:
            yield from _undecorated(s)
            continue
        if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call):
            yield from _lambdas_lifted(s.value)
        yield s


def _undecorated(f: ast.FunctionDef) -> Iterator[ast.stmt]:
    decorators = [ast.unparse(d) for d in f.decorator_list]
    if decorators == ["classmethod"] or decorators == ["staticmethod"]:  # mutmut looks into these
        yield f
        return
    name, f.decorator_list = f.name, []
    module = decorators[0].partition(".")[0]
    if "." in decorators[0] and module not in ("contextlib", "functools"):  # silu.gradient of `_`, grad.setter of grad
        f.name = re.sub(r"\W+", "_", decorators[0]).strip("_")
    yield f
    wrapped = f.name
    for d in reversed(decorators):
        wrapped = f"{d}({wrapped})"
    yield from ast.parse(f"{name} = {wrapped}").body


def _functions_lifted(kernel: ast.ClassDef) -> Iterator[ast.stmt]:
    for i, f in enumerate(kernel.body):
        if isinstance(f, ast.FunctionDef):
            kernel.body[i] = ast.Assign([ast.Name(f.name)], ast.Name(f"{kernel.name}_{f.name}"))
            f.name = f"{kernel.name}_{f.name}"
            yield f


def _lambdas_lifted(call: ast.Call) -> Iterator[ast.stmt]:
    for i, given in enumerate(call.args):
        if isinstance(given, ast.Lambda):
            name = re.sub(r"\W+", "_", f"{ast.unparse(call.func)}_{i}")
            yield ast.FunctionDef(name, given.args, [ast.Return(given.body)], [], type_params=[])
            call.args[i] = ast.Name(name)
