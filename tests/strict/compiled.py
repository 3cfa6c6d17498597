"""Where CuPy is installed, with or without a GPU: its `fuse`, and NVRTC on what it makes and on CUDA source.

What is called here is CuPy's own business and may be another in its next version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

ARRAY, INDEXER, NUMBER = 1, 2, 3  # kinds of a kernel's arguments
ARCHITECTURE = "sm_80"


def compiled(function: Callable[..., None], arguments: list[Any]) -> bytes:
    """The GPU's code of a function fused for such arguments: numbers, and for an array its (dtype, number of axes).

    Raises:
        Exception: CuPy can't trace it as one elementwise kernel, or NVRTC can't compile that.
    """
    from cupy._core import _carray, _kernel, core

    given = [like(*a) if isinstance(a, tuple) else a for a in arguments]
    kernel = traced(function, given)
    infos = [_info(a) for a in given] + [_kernel._ArgInfo(INDEXER, _carray.Indexer, None, 1, True, True)]
    types = kernel._decide_params_type(tuple(a.dtype if is_array(a) else None for a in given), ())[2]
    code = _kernel._get_elementwise_kernel_code(
        tuple(infos), types, kernel.params, kernel.operation, kernel.name, kernel.preamble, **kernel.kwargs
    )
    source = "".join(f"#include <{header}>\n" for header in core._cupy_header_list) + code
    return _made(source, *core.assemble_cupy_compiler_options(()), "--device-as-default-execution-space")


def compiled_source(code: str) -> bytes:
    """The GPU's code of a `RawKernel`'s source.

    Raises:
        Exception: NVRTC can't compile it.
    """
    return _made(code, "-std=c++17")


def _made(source: str, *options: str) -> bytes:
    from cupy.cuda import compiler

    program = compiler._NVRTCProgram(source, "kernel.cu", (), (), method="cubin")
    return program.compile((*options, f"-arch={ARCHITECTURE}"), None)[0]


def traced(function: Callable[..., None], given: list[Any]) -> Any:
    """The elementwise kernel that `fuse` makes, without its way out: the slower fusion that takes more."""
    from cupy._core import fusion

    history, state = fusion._FusionHistory(), fusion._thread_local
    state.history, state.is_old_fusing = history, True
    try:
        kernel, reduction = history.get_fusion(function, tuple(given), function.__name__)
    finally:
        state.history, state.is_old_fusing = None, False
    assert not reduction
    return kernel


def like(dtype: Any, axes: int) -> Any:
    """An array of CuPy's in memory that is not there: to be looked at from outside alone."""
    import cupy

    memory = cupy.cuda.UnownedMemory(1 << 20, 1 << 20, None, 0)
    return cupy.ndarray((2,) * axes, dtype, memptr=cupy.cuda.MemoryPointer(memory, 0))


def is_array(value: Any) -> bool:
    return hasattr(value, "strides") and not isinstance(value, np.generic)


def _info(value: Any) -> Any:
    from cupy._core import _kernel, _scalar

    if is_array(value):
        return _kernel._ArgInfo(ARRAY, type(value), value.dtype, 1, True, True)
    return _kernel._ArgInfo(NUMBER, _scalar.CScalar, np.dtype(type(value)), 0, True, True)
