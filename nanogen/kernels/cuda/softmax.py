"""The cross-entropy of softmax with labels, up to a warp of threads per row of logits: see softmax.cu."""

from typing import Any

from nanogen.backend import Array
from nanogen.kernels.cuda.launch import covers, cuda_source, launch, launch_grid
from nanogen.kernels.softmax import register

SOURCE = cuda_source("softmax")


def run(name: str, given: list[Array], shape: Any, results: list[Array]) -> None:
    launch(SOURCE, name, *launch_grid(*shape), *given, *shape, *results)


register("cuda", covers, run)
