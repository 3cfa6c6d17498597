"""Data-parallel training by MPI: each rank has a part of the batch, and gradients are averaged over all ranks.

    mpiexec -n 4 nanogen train MODEL

All ranks have the same weights, and update them by the same mean gradient.  Li et al. 2020, section 3.  Without
`mpiexec` there is one rank, and mpi4py is not imported.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from nanogen.backend import Array, device_of, to_device, to_numpy

LAUNCHERS = ("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")  # set by MPI launchers
PATIENCE = 1.0  # seconds that a failed rank waits for the others, which may fail too


def placed() -> tuple[int, int]:
    """The rank of this process and the number of ranks, from the launcher's variables; (0, 1) without a launcher."""
    for names in LAUNCHERS:
        if all(os.environ.get(name, "").isdecimal() for name in names):
            return int(os.environ[names[0]]), int(os.environ[names[1]])
    return 0, 1


_rank, _size = placed()


def rank() -> int:
    """The rank of this process, 0 … size − 1.  Only rank 0 writes files and prints."""
    return _rank


def size() -> int:
    """The number of ranks."""
    return _size


@functools.cache
def communicator() -> Any:
    """The MPI communicator of all ranks.

    Raises:
        RuntimeError: mpi4py is missing, or was built for another MPI than the launcher's.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(f"under mpiexec nanogen needs mpi4py: pip install 'nanogen[mpi]' ({error})") from None
    if MPI.COMM_WORLD.size != size():
        raise RuntimeError(f"mpiexec has started {size()} ranks, but mpi4py, made for another MPI, sees only one")
    return MPI.COMM_WORLD


def mean_over_ranks(*arrays: Array) -> list[Array]:
    """The mean of each array over the ranks, with the same bits on every rank; without MPI, the arrays themselves.

    All ranks must call it with the same shapes and dtypes, in the same order.  Sums are in float64, so that a mean is
    rounded only once for any number of ranks.  Arrays on a GPU are copied through the host."""
    if size() == 1:
        return list(arrays)
    row = np.concatenate([to_numpy(array).ravel() for array in arrays], dtype=np.float64)
    total = np.empty_like(row)
    communicator().Reduce(row, total)
    communicator().Bcast(total)  # Allreduce may give different bits on different ranks
    ends = np.cumsum([array.size for array in arrays])[:-1]
    parts = zip(np.split(total / size(), ends), arrays, strict=True)
    return [to_device(mean.reshape(a.shape).astype(a.dtype), device_of(a)) for mean, a in parts]


def part(n: int) -> slice:
    """This rank's part of n items.  The sizes of parts differ by at most one."""
    return slice(rank() * n // size(), (rank() + 1) * n // size())


def everyones(value: Any) -> list[Any]:
    """The values of all ranks, on every rank: allgather."""
    return [value] if size() == 1 else communicator().allgather(value)


def broadcast(value: Any) -> Any:
    """The first rank's value, on every rank."""
    return value if size() == 1 else communicator().bcast(value)


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """Run the context on the first rank before the others, so that they find the files that it downloads."""
    if rank():
        broadcast(None)
    yield
    if not rank():
        broadcast(None)


def end(status: int, line: str) -> tuple[int, str]:
    """Wait for all ranks at the end of the job.  Returns the largest status and the first line that is not empty.

    If this rank failed and the others do not arrive, perhaps because they wait for this one, it aborts the job."""
    try:
        communicator()
    except RuntimeError:  # the same on all ranks
        return status, line
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for ranks that still run
    all_here, start = communicator().Ibarrier(), time.monotonic()
    while not all_here.Test():
        time.sleep(0.01)  # MPI's own wait is a busy loop, which takes a core from other ranks
        if status and time.monotonic() - start > PATIENCE:
            print(line, file=sys.__stderr__, flush=True)
            sys.stdout.flush()
            time.sleep(PATIENCE / 2)  # the launcher may lose output that it has not read before the abort
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hide MPI's own message
            communicator().Abort(status)
    found = communicator().allgather((status, line))
    return max(found)[0], next((said for _, said in found if said), "")
