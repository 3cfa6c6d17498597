"""Several processes at one training step: each has a part of the batch, and means are over all parts.

Threads share one interpreter, whose lock lets one of them run Python at a time; processes have one each.  All keep the
same weights: each updates its own copy by the mean of all gradients, which has the same bits everywhere.  Li et al.
2020, section 3.  What normalises over the batch asks for means over all parts too: the step is that of one process with
the whole batch, but for where its noise comes from.
"""

from __future__ import annotations

import contextlib
import contextvars
import mmap
import multiprocessing
import os
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from nanogen.backend import Array, keep_freed_memory

matrix_library = lambda: None

# Tries of a semaphore before its process sleeps, about 0.2 ms: a mean of few numbers takes 20 µs in place of 50 to 120.
TRIES_BEFORE_SLEEP = 1000
MOST_PROCESSES = 256
SECONDS_TO_A_LOOK = 0.1  # while one waits for the others: whether they are still there

_current: contextvars.ContextVar[Team | None] = contextvars.ContextVar("team", default=None)


def mean_over_processes(*arrays: Array) -> list[Array]:
    """The mean of each array over the processes of the step at hand: the same bits in all; the arrays themselves where
    there is one process.  All must ask for the same shapes and the same type in the same order."""
    team = _current.get()
    return list(arrays) if team is None else team.mean(arrays)


def process_count() -> int:
    """How many processes share the step at hand."""
    team = _current.get()
    return 1 if team is None else team.count


def check_processes(count: int, device: str = "cpu") -> None:
    """Whether so many processes can share work on a device.

    Raises:
        ValueError: they can't: none, or too many, or several on a GPU or on a system without fork."""
    if not 1 <= count <= MOST_PROCESSES:
        raise ValueError(f"processes must be in 1 … {MOST_PROCESSES}, got {count}")
    if count > 1 and (device != "cpu" or not hasattr(os, "fork")):
        raise ValueError(f"processes must be 1 on device cuda and on a system without fork, got {count} on {device}")


class Team:
    """This process and copies of it, made by fork at the first call, which do the same work on parts of their own.

    `team(*arguments)` is `work(*arguments)` in all of them at once, and its result in this one.  What `work` changes
    stays changed in its own process, so the processes stay alike as long as `work` gives all of them the same.

    Args:
        work: what to do.
        count: of processes; with one, a call of a team is a call of `work`.
        room: the most bytes of one process's arrays in one exchange.

    Attributes:
        rank: which of the processes this is: 0, the one that made the others, to count − 1.

    Raises:
        ValueError: a number of processes that there can't be.
    """

    def __init__(self, work: Callable[..., Any], count: int, room: int):
        check_processes(count)
        self.work, self.count, self.room, self.rank, self.turn = work, count, -(-room // 64) * 64, 0, 0
        self.others: list[int] = []

    def __call__(self, *arguments: Any) -> Any:
        """Raises:
        Whatever `work` raises, here or in another process; then the others are gone.
        RuntimeError: another process has ended.
        """
        if self.count == 1:
            return self.work(*arguments)
        try:
            if not self.others:
                self._begin()
            self._look()
            for pipe in self.pipes:
                pipe.send(arguments)
            return self._work(arguments)
        except BaseException:
            self.close()
            raise

    @property
    def own_index(self) -> tuple[int, ...]:
        """What tells this process's stream of random numbers from those of the others; the first one's is as if there
        were no others."""
        return (self.rank,) if self.rank else ()

    def part(self, items: int) -> slice:
        """This process's part of so many items, which divide into equal ones."""
        each = items // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def mean(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See `mean_over_processes`."""
        places = self._exchange(arrays)
        total = sum(places[1:], places[0])
        total *= total.dtype.type(1 / self.count)
        parts = np.split(total, np.cumsum([array.size for array in arrays])[:-1])
        return [part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]

    def gather(self, array: Array) -> Array:
        """What all the processes have, arrays of one shape and type, one after the other along the first axis."""
        if self.count == 1:
            return array
        return np.concatenate(self._exchange([array])).reshape(-1, *array.shape[1:])

    def _exchange(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Each process's numbers, in a row, in the shared memory; until the exchange after the next.

        Each has two places, used by turns: who is a turn ahead writes where nobody reads, and nobody is two ahead."""
        dtype, size = arrays[0].dtype, sum(array.size for array in arrays)
        if size * dtype.itemsize > self.room:
            raise ValueError(f"there is room for {self.room} bytes in an exchange, not for {size * dtype.itemsize}")
        self.turn += 1
        starts = [(self.turn % 2 * self.count + i) * self.room for i in range(self.count)]
        places = [np.frombuffer(self.memory, dtype, size, start) for start in starts]
        np.concatenate([array.ravel() for array in arrays], out=places[self.rank], casting="no")
        self._meet()
        return places

    def close(self) -> None:
        """Let the other processes go; the next call makes new ones."""
        _kill(self.others, os.getpid())

    def _begin(self) -> None:
        context, self.main = multiprocessing.get_context("fork"), os.getpid()
        self.memory = mmap.mmap(-1, 2 * self.count * self.room)  # shared with what is forked
        self.arrived, self.passed = context.Semaphore(0), [context.Semaphore(0) for _ in range(1, self.count)]
        pairs = [context.Pipe() for _ in range(1, self.count)]
        self.pipes = [pair[0] for pair in pairs]
        for rank in range(1, self.count):
            if not (process := os.fork()):
                self.rank = rank
                self._follow(pairs[rank - 1][1])
            self.others.append(process)
        weakref.finalize(self, _kill, self.others, self.main)

    def _follow(self, pipe: Any) -> None:
        """What another process does all its life: it ends with the first, which alone is told to stop."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for end in self.pipes:
                end.close()  # so that the first one's are the only ones, and its end is seen
            keep_freed_memory()
            while True:
                self._work(pipe.recv())
        except Exception as error:
            with contextlib.suppress(Exception):
                pipe.send(error)
        finally:
            os._exit(1)

    def _work(self, arguments: tuple[Any, ...]) -> Any:
        with self._threads_shared_out():
            token = _current.set(self)
            try:
                return self.work(*arguments)
            finally:
                _current.reset(token)

    @contextlib.contextmanager
    def _threads_shared_out(self) -> Iterator[None]:
        library = matrix_library()
        before = library.num_threads if library else 1
        try:
            if library:
                library.set_num_threads(max(1, before // self.count))
            yield
        finally:
            if library:
                library.set_num_threads(before)

    def _meet(self) -> None:
        """Wait until all are here.  What each wrote before, all can read after."""
        if self.rank:
            self.arrived.release()
            self._wait(self.passed[self.rank - 1])
        else:
            for _ in self.passed:
                self._wait(self.arrived)
            for passed in self.passed:
                passed.release()

    def _wait(self, semaphore: Any) -> None:
        for _ in range(TRIES_BEFORE_SLEEP):
            if semaphore.acquire(False):
                return
        while not semaphore.acquire(timeout=SECONDS_TO_A_LOOK):
            self._look()

    def _look(self) -> None:
        """Whether all are still there.

        Raises:
            What another process raised; RuntimeError: one ended without a word."""
        if self.rank:
            if os.getppid() != self.main:
                os._exit(1)
            return
        for pipe, process in zip(self.pipes, self.others, strict=True):
            with contextlib.suppress(EOFError):
                if pipe.poll():
                    raise pipe.recv()
            if os.waitpid(process, os.WNOHANG)[0]:
                self.others.remove(process)
                raise RuntimeError(f"process {process}, one of {self.count} that share a step, has ended")


def _kill(processes: list[int], main: int) -> None:
    """End processes; a copy of the one that made them, which ends, leaves them alone."""
    if os.getpid() == main:
        for process in processes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        processes.clear()
