"""Data-parallel training by MPI: each rank has its part of a batch, and means are over all ranks.

    mpiexec -n 4 nanogen train MODEL

All ranks hold the same weights, and each moves its own by the mean of all gradients.  Li et al. 2020, section 3.
Where no `mpiexec` has started the process there is one rank, and mpi4py is not imported.
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

LAUNCHERS = ("PMI_RANK", "PMI_SIZE"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")  # what they tell each process
PATIENCE = 1.0  # seconds that a rank which fails waits for the others, which may fail alike


def placed() -> tuple[int, int]:
    """Which rank this process is, of how many: (0, 1) where no launcher has set the two."""
    for names in LAUNCHERS:
        if all(os.environ.get(name, "").isdecimal() for name in names):
            return int(os.environ[names[0]]), int(os.environ[names[1]])
    return 0, 1


_rank, _size = placed()


def rank() -> int:
    """Which of the ranks this process is, 0 … size − 1; the first one writes and speaks."""
    return _rank


def size() -> int:
    """How many ranks share the work."""
    return _size


@functools.cache
def communicator() -> Any:
    """MPI's, of all ranks.

    Raises:
        RuntimeError: mpi4py is missing, or belongs to another MPI than the launcher.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise RuntimeError(f"under mpiexec nanogen needs mpi4py: pip install 'nanogen[mpi]' ({error})") from None
    if MPI.COMM_WORLD.size != size():
        raise RuntimeError(f"mpiexec has started {size()} ranks, of which mpi4py, made for another MPI, sees one alone")
    return MPI.COMM_WORLD


def mean_over_ranks(*arrays: Array) -> list[Array]:
    """The mean of each array over the ranks, with the same bits on all; without MPI the arrays themselves.

    All ranks must ask for the same shapes and types, in the same order.  Sums are in float64, so that a mean is rounded
    once, whatever the number of ranks.  Arrays on a GPU go by way of the host."""
    if size() == 1:
        return list(arrays)
    row = np.concatenate([to_numpy(array).ravel() for array in arrays], dtype=np.float64)
    total = np.empty_like(row)
    communicator().Reduce(row, total)
    communicator().Bcast(total)  # Allreduce need not give the same bits everywhere
    ends = np.cumsum([array.size for array in arrays])[:-1]
    parts = zip(np.split(total / size(), ends), arrays, strict=True)
    return [to_device(mean.reshape(a.shape).astype(a.dtype), device_of(a)) for mean, a in parts]


def part(n: int) -> slice:
    """This rank's part of n items; parts differ by one item at most."""
    return slice(rank() * n // size(), (rank() + 1) * n // size())


def everyones(value: Any) -> list[Any]:
    """What each rank has, on every rank."""
    return [value] if size() == 1 else communicator().allgather(value)


def broadcast(value: Any) -> Any:
    """The first rank's value, on every rank."""
    return value if size() == 1 else communicator().bcast(value)


@contextlib.contextmanager
def first_rank_first() -> Iterator[None]:
    """The first rank does it, then the others: what it downloads they find there."""
    if rank():
        broadcast(None)
    yield
    if not rank():
        broadcast(None)


def end(status: int, line: str) -> tuple[int, str]:
    """The end of the job, once all ranks are there: the largest status, and the first line that is not empty.

    A rank with a status that is not 0 ends all of them by itself, where one does not come: it may wait for this one."""
    try:
        communicator()
    except RuntimeError:  # as all find
        return status, line
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is for those who are not at their end
    all_here, start = communicator().Ibarrier(), time.monotonic()
    while not all_here.Test():
        time.sleep(0.01)  # MPI would wait in a loop, and take a core from those who work
        if status and time.monotonic() - start > PATIENCE:
            print(line, file=sys.__stderr__, flush=True)
            sys.stdout.flush()
            time.sleep(PATIENCE / 2)  # the launcher may not pass on what it has not read when a job is ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPI has a line of its own
            communicator().Abort(status)
    found = communicator().allgather((status, line))
    return max(found)[0], next((said for _, said in found if said), "")
