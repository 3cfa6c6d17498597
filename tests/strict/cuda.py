"""CUDA kernels without a GPU: compiled as C++, each thread of a block a fibre that rests at `__syncthreads()`.

A launch runs twice, its blocks and threads once in order and once from the last to the first.  What depends on who
comes first is an error, and so are

- a barrier that some of a block's threads reach and others do not;
- a number written before an array's first or after its last, or into an array that the kernel has for constant;
- an argument of another type than the kernel's parameter.

What is read outside of an array, or in shared memory before it is written, is NaN, or −1.  The threads of a warp are on
their own as all others are.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest

FIBRES = (Path(__file__).parent / "fibres.h").read_text()
BEFORE = """
#include <math.h>
#include <string.h>
#include <utility>

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __shared__ static __attribute__((section("shared_memory")))
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

static Place threadIdx, blockIdx, blockDim, gridDim;
static void __syncthreads();
"""

AFTER = """
static void __syncthreads() { rest(); }
static size_t turn(size_t i, size_t count, bool from_the_last) { return from_the_last ? count - 1 - i : i; }

// 1 if not all of a block's threads have come to the same barrier, or to the end.
static int run(bool from_the_last)
{
    size_t blocks = size_t(gridDim.x) * gridDim.y * gridDim.z, threads = size_t(blockDim.x) * blockDim.y * blockDim.z;
    make_fibres(threads);
    for (size_t b = 0; b < blocks; b++) {
        blockIdx = place(turn(b, blocks, from_the_last), gridDim);
        ended.assign(threads, 0);
        if (__start_shared_memory) memset(__start_shared_memory, 255, __stop_shared_memory - __start_shared_memory);
        for (size_t at_the_end = 0; at_the_end < threads;) {
            at_the_end = 0;
            for (size_t t = 0; t < threads; t++) {
                current = turn(t, threads, from_the_last);
                threadIdx = place(current, blockDim);
                go_on();
                at_the_end += ended[current];
            }
            if (at_the_end && at_the_end < threads) return 1;
        }
    }
    return 0;
}

template <class... P, size_t... I>
static void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>)
{
    kernel(*static_cast<P*>(arguments[I])...);
}

template <class... P>
static int launch(void (*kernel)(P...), const unsigned* sizes, bool from_the_last, void** arguments)
{
    gridDim = {sizes[0], sizes[1], sizes[2]};
    blockDim = {sizes[3], sizes[4], sizes[5]};
    work = [=] { call(kernel, arguments, std::index_sequence_for<P...>()); };
    return run(from_the_last);
}
"""
LAUNCH = """
extern "C" int launch_{name}(const unsigned* sizes, bool from_the_last, void** arguments)
{{
    return launch(&{name}, sizes, from_the_last, arguments);
}}
"""
KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
TYPES = {"int": np.int32, "long long": np.int64, "Int": np.int64, "float": np.float32, "double": np.float64}
NUMBERS: dict[type, type] = {int: np.int64, float: np.float64}  # CuPy's; of a bool it makes now this now that
GUARD = 4096  # bytes around each array
CACHE = Path(platformdirs.user_cache_dir("nanogen-tests"))
launches = 0  # how often a kernel has run


def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("the stand-in runs CUDA kernels as C++: that needs g++")
    return found


@functools.cache
def expanded(code: str) -> str:
    """A source without its macros and comments."""
    command = [compiler(), "-E", "-P", "-x", "c++", "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout


@functools.cache
def library(code: str) -> Any:
    """The kernels of a source, compiled; kept for the next process too."""
    names = [found[1] for found in KERNEL.finditer(expanded(code))]
    source = FIBRES + BEFORE + code + AFTER + "".join(LAUNCH.format(name=name) for name in names)
    made = CACHE / f"{hashlib.sha256(source.encode()).hexdigest()}.so"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            new = Path(scratch) / made.name
            options = ["-std=c++17", "-O1", "-shared", "-fPIC"]
            options += ["-U_FORTIFY_SOURCE"]  # fortified, longjmp stays on its stack
            command = [compiler(), *options, "-x", "c++", "-", "-o", str(new)]
            done = subprocess.run(command, input=source, capture_output=True, text=True)
            if done.returncode:
                raise ValueError(f"no kernel:\n{done.stderr}")
            os.replace(new, made)
    return ctypes.PyDLL(str(made))  # one thread at a time: the library's own state is global


@functools.cache
def parameters(code: str, name: str) -> list[tuple[np.dtype, bool, bool]]:
    """Of each parameter of a kernel: its type, whether it is an array, and whether the kernel may write there."""
    real = re.search(r"typedef (\w+) Real;", code)
    declared = next(found[2] for found in KERNEL.finditer(expanded(code)) if found[1] == name)
    words = [parameter.rpartition(" ")[0].strip() for parameter in declared.split(",")]
    return [
        (
            np.dtype(TYPES[word.removeprefix("const ").rstrip("*").replace("Real", real[1] if real else "")]),
            word.endswith("*"),
            not word.startswith("const "),
        )
        for word in words
    ]


def run(code: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Launch a kernel on NumPy's arrays, in both orders.

    Raises:
        TypeError: arguments that are not the kernel's.
        ValueError: no compiling source, no such kernel, blocks that a GPU does not take.
        RuntimeError: what the module's docstring lists.
    """
    global launches
    launches += 1
    kernels, declared = library(code), parameters(code, name)
    if len(arguments) != len(declared):
        raise TypeError(f"{name} takes {len(declared)} arguments, got {len(arguments)}")
    sizes = [*grid, *(1,) * (3 - len(grid)), *block, *(1,) * (3 - len(block))]
    limits = [2**31 - 1, 65535, 65535, 1024, 1024, 64]
    if not all(0 < n <= most for n, most in zip(sizes, limits, strict=True)) or np.prod(sizes[3:]) > 1024:
        raise ValueError(f"{name}: a GPU takes no grid {grid} of blocks {block}")
    for given, (dtype, is_array, _) in zip(arguments, declared, strict=True):
        found = getattr(given, "dtype", NUMBERS.get(type(given)))
        if isinstance(given, np.ndarray) != is_array or found != dtype:
            raise TypeError(f"{name}: an argument is {'an array of ' if is_array else ''}{dtype}, got {type(given)}")
        if is_array and not given.flags.c_contiguous:
            raise TypeError(f"{name}: a kernel sees an array's memory as it lies, got strides {given.strides}")
    written = [is_array and may for _, is_array, may in declared]
    results = []
    for from_the_last in (False, True):
        copies = {place(a): guarded(a) for a in arguments if isinstance(a, np.ndarray)}
        memory = [
            copies[place(a)] if isinstance(a, np.ndarray) else np.array([a], dtype)
            for a, (dtype, *_) in zip(arguments, declared)
        ]
        places = [m.ctypes.data + GUARD for m in memory]
        values = [
            np.array([pointer], np.uintp) if is_array else m
            for m, pointer, (_, is_array, _) in zip(memory, places, declared)
        ]
        pointers = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
        failed = getattr(kernels, f"launch_{name}")(
            (ctypes.c_uint * 6)(*sizes), ctypes.c_bool(from_the_last), ctypes.cast(pointers, ctypes.c_void_p)
        )
        if failed:
            raise RuntimeError(f"{name}: a barrier that not all threads of the block come to")
        for m, a, may in zip(memory, arguments, written, strict=True):
            if isinstance(a, np.ndarray):
                inside = m[GUARD:-GUARD]
                if not (m[:GUARD] == 255).all() or not (m[-GUARD:] == 255).all():
                    raise RuntimeError(f"{name}: it writes outside of an array")
                if not may and inside.tobytes() != a.tobytes():
                    raise RuntimeError(f"{name}: it writes into an array that is constant")
        results.append([m[GUARD:-GUARD] for m, may in zip(memory, written) if may])
    for one, other in zip(*results, strict=True):
        if not np.array_equal(one, other):
            raise RuntimeError(f"{name}: its numbers depend on which thread comes first: a barrier is missing")
    for a, m in zip([a for a, may in zip(arguments, written) if may], results[0], strict=True):
        if m.tobytes() != a.tobytes():  # an array that is not to be changed may be read there
            a[...] = m.view(a.dtype).reshape(a.shape)


def place(array: np.ndarray) -> tuple[int, int]:
    """Where an array lies: one that is there twice is copied once, as on a GPU both are the same memory."""
    return array.ctypes.data, array.nbytes


def guarded(array: np.ndarray) -> np.ndarray:
    """The bytes of an array between two walls of 255s: NaN as floats, −1 as integers."""
    wall = np.full(GUARD, 255, np.uint8)
    return np.concatenate([wall, np.frombuffer(array.tobytes(), np.uint8), wall])
