"""Ranks of an MPI job: what they compute together is what one process computes with the whole batch.

Each job runs `mpiexec` of the wheel `mpich`, in processes of its own with a limit of time.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
from hypothesis import given
from hypothesis import strategies as st
from test_stopping import hears
from tiny_runs import STEPS, TINY, begun, settings_of, some_images, trained

import nanogen as ng
from nanogen import distributed
from nanogen.cli import main
from nanogen.training import loop
from nanogen.training.checkpoint import load_checkpoint
from nanogen.training.config import read_config
from nanogen.training.loop import Trainer, train
from nanogen.training.run import Run

MPIEXEC = Path(sys.executable).parent / "mpiexec"
TESTS = Path(__file__).parent
SMALL = ["--threads", "1", "--batch", "16", "--set", "latent=2", "channels=2", "stages=1"]
LONG = "100000"  # steps that no test waits for
COMMAND = "import sys; from nanogen.cli import main; sys.exit(main(sys.argv[1:]))"


def begin(count: int, *words: object) -> subprocess.Popen[str]:
    """`python WORDS` in so many ranks, of the nanogen that is tested."""
    there = os.pathsep.join([str(Path(ng.__file__).parents[1]), str(TESTS)])
    command = [str(MPIEXEC), "-n", str(count), sys.executable, *map(str, words)]
    own = {"PYTHONPATH": there, "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        command,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def ended(process: subprocess.Popen[str], seconds: float = 240) -> tuple[int, str, str]:
    """Exit status, and what it said; a job that does not end is a failure."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def command(count: int, *words: object, source: str = COMMAND) -> tuple[int, str, str]:
    """`nanogen WORDS` in so many ranks."""
    return ended(begin(count, "-c", source, *words))


def wait_for(found: Any, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not found():
        time.sleep(0.01)
    assert process.poll() is None


def weights(folder: Path, step: int) -> dict[str, np.ndarray]:
    arrays = load_checkpoint(Run(folder).checkpoint_file(step)).arrays
    return {name: array for name, array in arrays.items() if name.startswith("model.")}


def farthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


# What ranks compute


@functools.cache
def of_one() -> dict[str, Any]:
    return ranks.everything()


@functools.cache
def of_ranks(count: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        assert ended(begin(count, TESTS / "ranks.py", folder)) == (0, "", "")
        return [dict(np.load(Path(folder) / f"{rank}.npz")) for rank in range(count)]


def part_of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: np.asarray(value) for key, value in found.items() if key.startswith(f"{name}:")}


@pytest.mark.by_default(count=[2])
@pytest.mark.parametrize("count", [2, 3])
def test_means_are_over_all_ranks(count: int) -> None:
    """(x₀ + … + x_{n−1}) / n of each array, in its shape and type: numbers of different types and sizes do not disturb
    each other.  Equal numbers have themselves as their mean."""
    found = part_of(of_ranks(count)[0], "means")
    for i, arrays in enumerate(zip(*map(ranks.own_arrays, range(count)), strict=True)):
        mean, again = found[f"means:mean.{i}"], found[f"means:again.{i}"]
        assert mean.shape == arrays[0].shape
        assert mean.dtype == again.dtype == arrays[0].dtype
        exact = np.mean(np.array(arrays, np.longdouble), axis=0)
        np.testing.assert_allclose(mean, exact, rtol=2 * float(np.finfo(mean.dtype).eps))
        assert np.array_equal(mean, again)


@pytest.mark.by_default(count=[2])
@pytest.mark.parametrize("count", [2, 3])
def test_all_ranks_have_the_same_bits(count: int) -> None:
    """Of means, weights, moments and gathered images: else the ranks' weights would drift apart."""
    first, *others = of_ranks(count)
    for other in others:
        assert first.keys() == other.keys()
        assert all(first[name].tobytes() == other[name].tobytes() for name in first)


@pytest.mark.by_default(count=[2])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("part", ["norm", "steps", "gathered"])
def test_ranks_compute_what_one_process_does(part: str, count: int) -> None:
    """In float64, to 1e-9: batch normalisation with its gradients and their gradients; three training steps of each
    family, losses, weights, averages, moments and all that the optimisers remember; parts put together again."""
    found, expected = part_of(of_ranks(count)[0], part), part_of(of_one(), part)
    assert found
    assert part == "norm" or found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.by_default(count=[2])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("model", TINY)
def test_ranks_draw_the_images_of_one_process(model: str, count: int) -> None:
    """As many, in the same order; also where the parts are not equal, or a rank has none."""
    for n in (7, 2):
        images = of_ranks(count)[0][f"drawn:{model}.{n}"]
        assert images.dtype == np.uint8
        assert np.array_equal(images, of_one()[f"drawn:{model}.{n}"])


@pytest.mark.by_default(count=[1, 2])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("way", ["given", "left"])
def test_ranks_draw_images_of_the_labels_of_one_process(way: str, count: int) -> None:
    """Each rank's images have its own part of the labels, given or drawn by the model: no label is drawn twice."""
    for n in (7, 2):
        found = (of_ranks(count)[0] if count > 1 else of_one())[f"labels:{way}.{n}"]
        expected = ranks.some_labels(n, ng.Generator(3).stream(5))
        assert found.ravel().tolist() == expected.tolist()
        assert len(set(expected.tolist())) == n


def test_without_mpi_everything_is_of_this_process() -> None:
    """The arrays themselves, all of n items; and mpi4py is not imported, nor by the command line."""
    array = np.ones(2)
    assert (distributed.rank(), distributed.size(), distributed.part(7)) == (0, 1, slice(0, 7))
    assert distributed.mean_over_ranks(array)[0] is array
    assert distributed.everyones(array)[0] is distributed.broadcast(array) is array
    with distributed.first_rank_first():
        pass
    source = COMMAND.replace("sys.exit(main(sys.argv[1:]))", "main(['list']); sys.exit('mpi4py' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, (0, 1)),
    ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
    ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"}, (1, 3)),
    ({"PMI_RANK": "2"}, (0, 1)),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (0, 1)),
])  # fmt: skip
def test_what_launchers_say(
    environment: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra's and Open MPI's variables; a job of Slurm need not be one of MPI."""
    for name in [name for name in os.environ if name.startswith(("PMI_", "OMPI_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed.placed() == expected


@given(st.integers(0, 40), st.integers(1, 9))
def test_parts_are_the_whole(n: int, size: int) -> None:
    """Disjoint, in order, together all; their lengths differ by one at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "_size", size)
        found: list[list[int]] = []
        for rank in range(size):
            patch.setattr(distributed, "_rank", rank)
            found.append(list(range(n))[distributed.part(n)])
    assert [i for part in found for i in part] == list(range(n))
    assert max(map(len, found)) - min(map(len, found)) <= 1


DRAWS = {
    "normal": lambda rng, n, shape: rng.normal((n, *shape)),
    "uniform": lambda rng, n, shape: rng.uniform((n, *shape), dtype=np.float64),
    "integers": lambda rng, n, shape: rng.integers(1, 9, n),
}


@pytest.mark.parametrize("drawn", ["host", "device"])
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.lists(
        st.tuples(st.sampled_from(sorted(DRAWS)), st.lists(st.integers(1, 3), max_size=2)), min_size=1, max_size=4
    ),
    st.integers(0, 3),
)
def test_parts_of_random_numbers_are_those_of_the_whole(
    drawn: str, lengths: list[int], draws: list[tuple[str, list[int]]], stream: int
) -> None:
    """Draw after draw, along the first axis; of streams, too.  What has no axis, and orders, all have alike."""
    whole, start = sum(lengths), 0

    def numbers(rng: ng.Generator, n: int) -> list[np.ndarray]:
        return [DRAWS[kind](rng, n, shape) for kind, shape in draws]

    rng = ng.Generator(5, drawn=drawn)
    expected = numbers(rng.stream(stream), whole), rng.stream(7).normal(), rng.stream(8).permutation(4)
    for length in lengths:
        own = slice(start, start + length)
        part, start = rng.part(own, whole), start + length
        for a, b in zip(numbers(part.stream(stream), length), expected[0], strict=True):
            assert np.array_equal(a, b[own])
        assert part.stream(7).normal() == expected[1]
        assert np.array_equal(part.stream(8).permutation(4), expected[2])
        if 0 < length < whole:
            with pytest.raises(ValueError, match="first axis"):
                part.normal((length + 1, 2))


@pytest.mark.skipif(not importlib.util.find_spec("nanogen.kernels"), reason="what draws on a device is a kernel")
def test_a_part_at_a_key() -> None:
    """Of a captured step, too, whose generator begins at a key."""
    importlib.import_module("nanogen.kernels.cuda")
    rng = ng.Generator(5, drawn="device")
    assert np.array_equal(rng.part(slice(1, 3), 4).at(rng.key).normal((2, 3)), rng.at(rng.key).normal((4, 3))[1:3])


@pytest.mark.parametrize(("changes", "text"), [
    ({"batch": 7}, "batch must be a multiple of the 2 ranks"),
    ({"execution": "graph", "device": "cuda"}, "execution must be eager with 2 ranks"),
])  # fmt: skip
def test_settings_that_ranks_can_not_share(changes: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("vae")
    for name, value in changes.items():
        object.__setattr__(settings, name, value)
    monkeypatch.setattr(loop, "size", lambda: 2)
    with pytest.raises(ValueError, match=text):
        Trainer(settings, some_images())


def test_the_first_rank_alone_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row of metrics, no checkpoint and no picture comes from another one."""
    every = {"log_every": 2, "checkpoint_every": 4, "samples_every": 3}
    trainer, run = begun(settings_of("vae", **every), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(loop, "rank", lambda: 1)
    train(trainer, run, lambda step, loss: None)
    assert trainer.step == STEPS
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# The command line


def test_a_run_of_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    """The weights after 20 steps of the recipe within 1e-5; the same files, written once; one rank speaks.

    The learning rate rises slowly: in the first steps Adam makes much of a gradient's roundings."""
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    words = ["train", "vae", "--steps", "20", "--warmup", "50"]
    assert main([*words, "--quiet", "--out", str(whole)]) == 0
    status, out, err = command(2, *words, "--out", shared)
    assert (status, out.count("parameters"), out.count("samples.png"), err.count("step 20 of 20")) == (0, 1, 1, 1)
    assert farthest(weights(whole, 20), weights(shared, 20)) < 1e-5
    files = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (whole, shared)]
    assert files[0] == files[1]
    (line,) = (shared / "commands.log").read_text().splitlines()
    assert line.endswith(f": mpiexec -n 2 nanogen train vae --steps 20 --warmup 50 --out {shared}")
    assert len((shared / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.full
def test_ranks_end_a_run_early_together(tmp_path: Path) -> None:
    """With next to no learning rate no test loss is better than the first: both ranks end after two more, and begin
    from another run's weights; gone on with by both, it stays ended."""
    run, first = Run(tmp_path / "run"), tmp_path / "first"
    assert main(["train", "vae", "--steps", "2", "--quiet", "--out", str(first), *SMALL]) == 0
    how = ["--steps", "20", "--lr", "1e-30", "--ema", "0", "--test-every", "2", "--patience", "2", "--init", first]
    status, out, _ = command(2, "train", "vae", "--out", run.folder, *how, *SMALL)
    assert (status, out.count("ended early at step 6"), out.count("at step 2 (--checkpoint 2)\n")) == (0, 1, 1)
    assert run.test_file.read_text().count("\n") == 4
    averages = {name: array.data for name, array in Run(first).model().named_parameters()}
    assert farthest(averages, {name: array.data for name, array in run.model().named_parameters()}) < 1e-7
    status, out, _ = command(2, "train", "--resume", "--out", run.folder)
    assert (status, out.count("ended early at step 6")) == (0, 1)
    assert run.checkpoint_files()[0] == run.checkpoint_file(6)


def test_any_number_of_ranks_goes_on_with_a_run(tmp_path: Path) -> None:
    """From its last checkpoint, to the same weights within 1e-5; draws the same images; and evaluates it."""
    run = Run(tmp_path / "run")
    arguments = ["--quiet", "--out", str(run.folder)]
    steps = ["--steps", "6", "--lr", "3e-5", "--checkpoint-every", "3"]  # small ones: Adam makes much of roundings
    assert command(2, "train", "vae", *steps, *arguments, *SMALL) == (0, "", "")
    before = weights(run.folder, 6)
    for count in (1, 4):
        run.checkpoint_file(6).unlink()
        if count == 1:
            assert main(["train", "--resume", *arguments]) == 0
        else:
            assert command(count, "train", "--resume", *arguments) == (0, "", "")
        assert farthest(before, weights(run.folder, 6)) < 1e-5
        assert (run.folder / "metrics.csv").read_text().count("\n") == 2

    images = [tmp_path / "one.npz", tmp_path / "two.npz"]
    assert main(["sample", str(run.folder), "-n", "9", "--out", str(images[0])]) == 0
    both = COMMAND.replace("main(sys.argv[1:])", "main(sys.argv[1:7]) or main(sys.argv[7:])")  # starts are slow
    words = ["sample", run.folder, "-n", "9", "--out", images[1]]
    words += ["evaluate", run.folder, "--samples", "45", "--images", "41"]
    status, out, err = command(2, *words, source=both)
    assert (status, out.count("45 samples"), err) == (0, 1, "")
    assert out.startswith(f"wrote {images[1]}\n")
    assert out.count(f"wrote {images[1]}") == 1
    one, two = (np.load(file)["images"] for file in images)
    assert one.shape == two.shape
    assert (one != two).mean() < 1e-3
    assert json.loads((run.folder / "evaluation.json").read_text())["samples"] == 45


@pytest.mark.parametrize(("words", "text"), [
    (["train", "vae", "--stepz", "3"], "unknown argument --stepz"),
    (["train", "vae", "--batch", "7"], "batch must be a multiple of the 2 ranks that share it, got 7"),
    (["sample", "/nowhere", "--out", "a.png"], "/nowhere holds no run"),
])  # fmt: skip
def test_what_all_ranks_find_wrong_is_said_once(words: list[str], text: str, tmp_path: Path) -> None:
    if words[0] == "train":
        words = [*words, "--out", str(tmp_path / "run")]
    status, out, err = command(2, *words)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert text in err
    assert not (tmp_path / "run").exists()


FAILING = """
import os, sys
from nanogen import distributed
from nanogen.cli import main
from nanogen.training.loop import Trainer, train
update = Trainer.update
def failing(self):
    if self.step == 3 and distributed.rank() == int(os.environ["FAILS"]):
        raise eval(os.environ["ERROR"])
    return update(self)
Trainer.update = failing
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.by_default(rank=[1])
@pytest.mark.parametrize(("rank", "error", "status", "text"), [
    (0, "OSError('no room')", 2, "nanogen: error: no room; at step 3"),
    (1, "ValueError('a scale of 0')", 2, "nanogen: error: a scale of 0; at step 3"),
    (0, "FloatingPointError('0 / 0')", 1, "nanogen: error: numbers went wrong at step 3: 0 / 0; the last good"),
    (1, "KeyError('k')", 1, "Traceback"),
])  # fmt: skip
def test_a_rank_that_fails_ends_the_job(
    rank: int, error: str, status: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 10 s, though the other waits for it; one line of what is expected, the whole story of what is not."""
    monkeypatch.setenv("FAILS", str(rank))
    monkeypatch.setenv("ERROR", error)
    start = time.monotonic()
    words = ["train", "vae", "--steps", LONG, "--quiet", "--out", tmp_path / "run", *SMALL]
    found, _, err = command(2, *words, source=FAILING)
    assert time.monotonic() - start < 10
    assert (found, err.startswith(text)) == (status, True), err
    assert "KeyError" in error or len(err.splitlines()) == 1


def rank_of(place: Path, number: int) -> int:
    """The process of a rank of the job on the run in a folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, environment = (set((folder / name).read_bytes().split(b"\0")) for name in ("cmdline", "environ"))
        except OSError:
            continue
        if str(place).encode() in words and f"PMI_RANK={number}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"no rank {number}")


@pytest.mark.by_default(rank=[1])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_job(rank: int, tmp_path: Path) -> None:
    """Within 10 s, and the checkpoints are whole; `--resume` goes on from the last."""
    run = Run(tmp_path / "run")
    words = ["train", "vae", "--out", run.folder, "--steps", LONG, "--checkpoint-every", "7", "--quiet", *SMALL]
    process = begin(2, "-c", COMMAND, *words)
    wait_for(run.checkpoint_files, process)
    other = rank_of(run.folder, 1 - rank)
    os.kill(rank_of(run.folder, rank), signal.SIGKILL)
    status, _, err = ended(process, seconds=10)
    assert status
    assert "Traceback" not in err
    assert not Path(f"/proc/{other}").exists()
    checkpoint = run.checkpoint()
    assert checkpoint is not None
    process = begin(2, "-c", COMMAND, "train", "--resume", "--out", run.folder)
    wait_for(lambda: run.checkpoint_files()[0] > run.checkpoint_file(checkpoint.step), process)
    process.terminate()
    assert ended(process)[0] == 143


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("only_rank", [None, 1])
def test_signals_stop_all_ranks_together(number: int, only_rank: int | None, tmp_path: Path) -> None:
    """Given to mpiexec, or to one of the ranks: the run ends with a checkpoint, and says once how to go on."""
    run = Run(tmp_path / "run")
    words = ["train", "vae", "--out", run.folder, "--steps", LONG, "--checkpoint-every", "7", "--quiet", *SMALL]
    process = begin(2, "-c", COMMAND, *words)
    wait_for(run.checkpoint_files, process)
    os.kill(process.pid if only_rank is None else rank_of(run.folder, only_rank), number)
    status, _, err = ended(process)
    found = run.checkpoint()
    assert found is not None
    assert (status, err) == (
        128 + number,
        f"nanogen: stopped; at step {found.step} of {LONG}; go on with:"
        f" mpiexec -n 2 nanogen train vae --out {run.folder} --resume\n",
    )
    assert not (run.folder / "samples.png").exists()  # which a run that is done has


SLOW_TO_IMPORT = """
import os, sys, time, nanogen_command
class Slow:
    def find_spec(self, name, *_):
        if name == "nanogen":
            time.sleep(3)
if os.environ["PMI_RANK"] == "0":
    sys.meta_path.insert(0, Slow())
sys.exit(nanogen_command.main())
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_while_ranks_import(count: int, tmp_path: Path) -> None:
    """They end together, with one line, although one of them is behind and they need MPI for that."""
    process = begin(count, "-c", SLOW_TO_IMPORT, "train", "vae", "--out", tmp_path / "run", "--steps", LONG, *SMALL)

    def all_hear() -> bool:
        try:
            return all(hears(rank_of(tmp_path / "run", rank)) for rank in range(count))
        except AssertionError:  # not yet there
            return False

    wait_for(all_hear, process)
    time.sleep(1.5)
    process.terminate()
    status, _, err = ended(process, seconds=20)
    assert (status, err.count("\n")) == (143, 1), err
    assert err.startswith("nanogen: stopped")


@pytest.mark.parametrize(("missing", "text"), [
    ("sys.modules['mpi4py'] = None", "pip install 'nanogen[mpi]'"),
    ("import os; os.environ |= {'PMI_SIZE': '3'}; from mpi4py import MPI", "made for another MPI"),
])  # fmt: skip
def test_without_the_launchers_mpi(missing: str, text: str, tmp_path: Path) -> None:
    """No mpi4py, or one that sees other ranks than mpiexec has started: one line, and no run."""
    source = COMMAND.replace("import sys;", f"import sys; {missing};")
    if "PMI_SIZE" in missing:  # MPI itself has to see the launcher's
        source = source.replace("os.environ |= {'PMI_SIZE': '3'}; from mpi4py import MPI",
                                "from mpi4py import MPI; os.environ |= {'PMI_SIZE': '3'}")  # fmt: skip
    status, out, err = command(2, "train", "vae", "--batch", "6", "--out", tmp_path / "run", source=source)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert text in err
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize("processes", [1, 2])
def test_runs_of_earlier_versions(processes: int, tmp_path: Path) -> None:
    """Their setting `processes` is passed over, in the run's file, in its checkpoints and as a file of settings."""
    _, run = trained("vae", tmp_path)
    run.settings_file.write_text(json.dumps(json.loads(run.settings_file.read_text()) | {"processes": processes}))
    path = run.checkpoint_files()[0]
    old = load_checkpoint(path)
    ng.training.checkpoint.save_checkpoint(path, old._replace(settings={**old.settings, "processes": processes}))
    assert run.settings() == settings_of("vae")
    assert run.recover() is not None
    assert run.model() is not None
    assert "processes" not in read_config(run.settings_file)
