"""Several processes at one step: what they compute together is what one process computes with the whole batch."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_limits
from tiny_runs import TINY, assert_same, settings_of, some_images

import nanogen as ng
from benchmarks.steps import Joined
from nanogen import functional as F
from nanogen import processes
from nanogen.backend import matrix_library
from nanogen.cli import main
from nanogen.processes import Team, mean_over_processes, process_count
from nanogen.training import loop
from nanogen.training.anomaly import Anomaly
from nanogen.training.loop import Trainer
from nanogen.training.run import STEPS, Run, build_model
from nanogen.training.sampling import sampler


@pytest.fixture(autouse=True)
def no_waiting_for_ever() -> Iterator[None]:
    """A process that waits for one that never comes is a failure, not a run without an end."""

    def give_up(*_: Any) -> None:
        raise AssertionError("half a minute has passed")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def team_of(count: int, work: Any, room: int = 1 << 16) -> contextlib.closing[Team]:
    return contextlib.closing(Team(work, count, room))


def own_arrays(rank: int, shapes: list[tuple[int, ...]], dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(rank)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_means_are_over_all_processes(count: int, dtype: str) -> None:
    """(x₀ + … + x_{n−1}) / n of each array, in its shape and type, in every process the same bits, however many means
    there were before, and whoever comes late."""
    team = Team(lambda *_: None, count, 1 << 16)

    def work(shapes: list[tuple[int, ...]], late: int) -> Any:
        if team.rank == late:
            time.sleep(0.01)
        found = mean_over_processes(*own_arrays(team.rank, shapes, dtype))
        seen = [a.copy() for a in found]
        again = mean_over_processes(*found)  # equal numbers have themselves as their mean, unless a bit differs
        assert process_count() == count
        return seen, found, again

    team.work = work

    @given(st.lists(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), min_size=1, max_size=4), st.integers(0, 3))
    def means(shapes: list[tuple[int, ...]], late: int) -> None:
        seen, found, again = team(shapes, late)
        each = [own_arrays(rank, shapes, dtype) for rank in range(count)]
        for i, (shape, a, b, c) in enumerate(zip(shapes, seen, found, again, strict=True)):
            assert a.shape == b.shape == c.shape == shape
            assert a.dtype == dtype
            exact = np.mean([own[i].astype(np.longdouble) for own in each], axis=0)
            np.testing.assert_allclose(
                a, exact, rtol=0, atol=4 * np.finfo(dtype).eps * max(1, np.abs(exact).max(initial=0))
            )
            assert np.array_equal(a, b), "a later mean has written over an earlier one"
            np.testing.assert_allclose(c, a, rtol=4 * np.finfo(dtype).eps, atol=0)

    with contextlib.closing(team):
        means()
    assert process_count() == 1, "outside of a step"
    assert mean_over_processes(found := np.ones(2))[0] is found


def test_all_processes_have_the_same_bits() -> None:
    """The difference of what rank 0 and what rank r found, over all r, is zero to the bit."""
    team = Team(lambda: None, 3, 1 << 16)

    def work() -> list[np.ndarray]:
        (mean,) = mean_over_processes(*own_arrays(team.rank, [(1000,)], "float32"))
        bits = mean.view(np.int32).astype(np.float64)
        signs = [np.float64(rank == team.rank) for rank in range(3)]
        return [mean_over_processes(sign * bits)[0] * 3 for sign in signs]

    team.work = work
    with contextlib.closing(team):
        first, *others = team()
    assert first.any()
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("model", TINY)
def test_a_shared_step_is_the_step(model: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three steps losses, weights, averages, what the optimisers remember and batch normalisation's running
    moments are those of one process that takes the whole batch with the same noise (float64, 1e-9): gradients are
    means over all images, and so are the moments that normalise."""
    monkeypatch.setattr(loop, "build_model", lambda settings: build_model(settings).to(np.float64))
    whole = Trainer(settings_of(model, clip=0.5), some_images())
    shared = Trainer(settings_of(model, clip=0.5, processes=count), some_images())
    with contextlib.closing(shared.team):
        for step in range(1, 4):
            whole.step = step
            own = [ng.Generator(0).stream(STEPS, step, *([rank] if rank else [])) for rank in range(count)]
            expected = whole.compute(whole.batches(), whole.numbers(), Joined(own))  # type: ignore[arg-type]
            found = shared.advance()
            assert found.keys() == expected.keys()
            assert shared.step == step
            for name, loss in expected.items():
                assert abs(loss.item() - found[name].item()) < 1e-9, (step, name)
    there = shared.arrays()
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(there[name], array, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("size", [(4, 3, 2, 2), (2, 3, 1, 1)])
def test_batch_norm_over_the_batch_of_all(size: tuple[int, ...]) -> None:
    """Output, running moments and the gradients of L = (1/n) Σ_r L_r are those of the whole batch (1e-12), where the
    parts' own moments are far from it, and even where a part has one value a channel."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=size) + np.arange(size[0]).reshape(-1, 1, 1, 1) * 10
    weight, bias, g = rng.normal(size=3), rng.normal(size=3), rng.normal(size=size)

    def moments_and_slopes(part: slice) -> list[np.ndarray]:
        leaves = [ng.tensor(a, requires_grad=True) for a in (x[part], weight, bias)]
        running = ng.tensor(np.zeros(3)), ng.tensor(np.ones(3))
        y = F.batch_norm(leaves[0], *running, *leaves[1:], training=True)
        slopes = ng.grad((y * g[part]).sum() / len(x[part]), leaves)
        return [y.data, slopes[0].data, *(r.data for r in running), *(s.data for s in slopes[1:])]

    def work() -> list[np.ndarray]:
        y, dx, mean, variance, *slopes = moments_and_slopes(team.part(len(x)))
        return [y, dx / 2, mean, variance, *mean_over_processes(*slopes)]

    with team_of(2, work) as team:
        found, half = team(), team.part(len(x))
    expected = moments_and_slopes(slice(None))
    for a, b in zip(found, [expected[0][half], expected[1][half], *expected[2:]], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("model", TINY)
def test_shared_drawing(model: str, count: int) -> None:
    """Each process draws its part, from a stream of its own: to the bit what one draws from these streams.  The first
    one's stream is that of a process alone, so one process draws as the model does."""
    settings = settings_of(model)
    ours = build_model(settings)
    with contextlib.closing(sampler(ours, ng.Generator(3), count, 7)) as draw:
        found = [draw(7, 5), draw(4, 5, 6)]
    for images, n, indices in zip(found, (7, 4), ((5,), (5, 6)), strict=True):
        own = [(*indices, *([rank] if rank else [])) for rank in range(count)]
        parts = [ours.sample(-(-n // count), ng.Generator(3).stream(*stream)) for stream in own]
        assert images.dtype == np.uint8
        assert np.array_equal(images, np.concatenate(parts)[:n])
    with pytest.raises(ValueError, match="processes"):
        sampler(ours, ng.Generator(3), 0, 7)


def test_parts_are_the_whole() -> None:
    """The processes' parts of a batch are disjoint, equal and together all of it, in order."""
    for count in (1, 2, 3):
        team, parts = Team(lambda: None, count, 8), []
        for team.rank in range(count):
            parts += range(12)[team.part(12)]
        assert parts == list(range(12))


@pytest.mark.parametrize("model", TINY)
def test_a_shared_run_goes_on_from_a_checkpoint(model: str) -> None:
    """Bit for bit the run that went straight on: in a trainer whose processes had gone on beyond the checkpoint, and in
    a new one."""

    def trainer() -> Trainer:
        return Trainer(settings_of(model, processes=2), some_images())

    with contextlib.ExitStack() as stack:
        straight, back, new = trainers = trainer(), trainer(), trainer()
        for each in trainers:
            stack.enter_context(contextlib.closing(each.team))
        for _ in range(4):
            straight.advance()
        for _ in range(3):
            back.advance()
        checkpoint = copy.deepcopy(back.checkpoint())  # its arrays are those in use
        for _ in range(2):
            back.advance()
        for each in (back, new):
            each.restore(checkpoint)
            each.advance()
            assert_same(each.arrays(), straight.arrays())


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    """`--processes 2` is a setting of the run, which `--resume` keeps; the run ends with its files and no process."""
    command = ["train", "vae", "--processes", "2", "--steps", "4", "--batch", "8", "--checkpoint-every", "2", "--quiet",
               "--set", "latent=2", "channels=2", "stages=1", "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(command) == 0
    run = Run(tmp_path / "run")
    assert run.settings().processes == 2
    whole = run.checkpoint()
    run.checkpoint_file(4).unlink()
    assert main(["train", "--resume", "--quiet", "--out", str(tmp_path / "run")]) == 0
    again = run.checkpoint()
    assert whole is not None
    assert again is not None
    assert_same(whole.arrays, again.arrays)
    drawn = []
    for name, more in (("a", []), ("b", ["--processes", "2"])):
        file = tmp_path / f"{name}.npz"
        assert main(["sample", str(run.folder), "-n", "5", "--out", str(file), *more]) == 0
        drawn.append(np.load(file)["images"])
    assert drawn[0].shape == drawn[1].shape == (5, 1, 8, 8)
    assert not np.array_equal(*drawn)
    assert main(["evaluate", str(run.folder), "--samples", "40", "--images", "40", "--processes", "2"]) == 0
    assert json.loads((run.folder / "evaluation.json").read_text())["samples"] == 40
    assert main(["sample", str(run.folder), "--out", str(file), "--processes", "0"]) == 2
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("error", [ValueError("a scale of 0"), Anomaly("exp in net gave NaN"), KeyError("k")])
def test_what_goes_wrong_in_any_process_is_raised(rank: int, error: Exception) -> None:
    """In this one, as it was raised there; the others are gone then, and the next call has new ones."""

    def work(fails: bool) -> float:
        if fails and team.rank == rank:
            raise error
        return float(mean_over_processes(np.full(3, team.rank, float))[0][0])

    with team_of(2, work) as team:
        assert team(False) == 0.5
        before = list(team.others)
        with pytest.raises(type(error), match=error.args[0]):
            team(True)
        assert not team.others
        assert not any(is_running(process) for process in before)
        assert team(False) == 0.5


def test_a_process_that_ends_without_a_word() -> None:
    """Killed from outside, as the system does where memory is short: an error, no waiting for ever."""

    def work() -> None:
        if team.rank:
            os.kill(os.getpid(), signal.SIGKILL)
        mean_over_processes(np.zeros(3))

    with team_of(3, work) as team:
        with pytest.raises(RuntimeError, match="one of 3 that share a step, has ended"):
            team()
        assert not team.others


def test_signals_are_for_the_first_process() -> None:
    """Ctrl-C in a terminal reaches all processes: those that help finish the step with the first."""
    with team_of(2, lambda: float(mean_over_processes(np.full(1, team.rank, float))[0][0])) as team:
        team()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(team.others[0], number)
        assert team() == 0.5


@pytest.mark.parametrize("when", ["between two steps", "in a step"])
def test_no_process_outlives_the_first(when: str) -> None:
    """Killed, the first can't tell the others: they notice."""
    source = (
        "import time, numpy as np; from nanogen.processes import Team, mean_over_processes\n"
        "def work():\n"
        "    mean_over_processes(np.zeros(1)); print(*team.others, flush=True) if not team.rank else None\n"
        f"    {when == 'in a step'} and (team.rank or time.sleep(60)); mean_over_processes(np.zeros(1))\n"
        "team = Team(work, 3, 8); team(); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        others = [int(word) for word in first.stdout.readline().split()]
        time.sleep(0.3)
        assert len(others) == 2
        assert all(is_running(process) for process in others)
        first.kill()
    deadline = time.monotonic() + 10
    while (left := [process for process in others if is_running(process)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert left == []


def is_running(process: int) -> bool:
    """Neither gone nor a zombie, which nobody has asked after."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_threads_are_shared_out() -> None:
    """In a step each process has its share of the threads, at least one; after it, the first has its own back."""
    library = matrix_library()
    with threadpool_limits(4), team_of(2, lambda: library.num_threads) as team:
        assert [team(), library.num_threads] == [2, 4]
        team.count = 8
        assert [team(), library.num_threads] == [1, 4]


@pytest.mark.parametrize(("arrays", "error", "text"), [
    ([np.zeros(9)], ValueError, "room for 64 bytes in an exchange, not for 72"),
    ([np.zeros(1), np.zeros(1, np.float32)], TypeError, "Cannot cast"),
])  # fmt: skip
def test_what_there_is_no_room_for(arrays: list[np.ndarray], error: type[Exception], text: str) -> None:
    """More bytes than were announced, or arrays of two types: refused, not written elsewhere or rounded."""
    with team_of(2, lambda: mean_over_processes(*arrays), room=64) as team, pytest.raises(error, match=text):
        team()


def test_without_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ValueError, match=r"processes must be 1 .* without fork, got 2"):
        Team(lambda: None, 2, 8)
    assert Team(lambda: 3, 1, 8)() == 3


def test_a_copy_that_ends_leaves_the_others_alone() -> None:
    """A process that was forked from the first for something else is not theirs to answer to."""
    with team_of(2, lambda: None) as team:
        team()
        if not (process := os.fork()):
            processes._kill(team.others, team.main)
            os._exit(0)
        os.waitpid(process, 0)
        assert is_running(team.others[0])
        team()


@pytest.mark.parametrize("changes", [
    {"processes": 3}, {"processes": 0}, {"processes": 2, "device": "cuda"}, {"processes": 257, "batch": 257},
])  # fmt: skip
def test_settings_that_no_processes_can_share(changes: dict[str, Any]) -> None:
    """A batch of 8 has no three equal parts, and a GPU one process."""
    with pytest.raises(ValueError, match="processes"):
        settings_of("vae", **changes)
