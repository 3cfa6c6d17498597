"""Stopping a run, gently or not: nothing is lost but what came after the last checkpoint, and the command line says how
to go on.

    python -m pytest -m torture tests/test_stopping.py  # 200 times kill -9, 200 signals, a full disk; some minutes
"""

from __future__ import annotations

import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanogen import cli
from nanogen.training import loop
from nanogen.training.run import Run
from nanogen.training.stopping import Interrupted, Stop

TINY = ["--threads", "1", "--batch", "16", "--set", "latent=2", "channels=2", "stages=1"]
LONG = "100000"  # steps that no test waits for


def start(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, with Ctrl-C as a terminal has it."""
    return begin("train", "vae", "--out", str(out), *arguments)


def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    heard: Callable[[], object] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        [sys.executable, "-m", "nanogen_command", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment, preexec_fn=heard, start_new_session=True,
    )  # fmt: skip


def wait_for_rows(run: Run, process: subprocess.Popen[str]) -> None:
    """Until training is under way: metrics.csv is flushed with each checkpoint."""
    while process.poll() is None and not run.checkpoint_files():
        time.sleep(0.01)


def last_line(process: subprocess.Popen[str], seconds: float = 600) -> str:
    _, said = process.communicate(timeout=seconds)
    assert "Traceback" not in said
    return said.splitlines()[-1]


# Ctrl-C and SIGTERM


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step(number: int, status: int, tmp_path: Path) -> None:
    """The run ends with a checkpoint of the step that was under way, says with which command to go on, and exits with
    128 + the signal's number; that command goes on from there."""
    run = Run(tmp_path / "a run")  # a name that a shell has to be given in quotes
    process = start(run.folder, "--steps", LONG, "--checkpoint-every", "7", *TINY)
    wait_for_rows(run, process)
    process.send_signal(number)
    line = last_line(process)
    assert process.returncode == status
    found = run.checkpoint()
    assert found is not None
    assert line == (
        f"nanogen: stopped; at step {found.step} of {LONG}; go on with: nanogen train vae --out '{run.folder}' --resume"
    )
    process = start(run.folder, "--resume")
    while process.poll() is None and not (run.checkpoint_files()[0] > run.checkpoint_file(found.step)):
        time.sleep(0.01)
    process.send_signal(number)
    assert last_line(process).startswith("nanogen: stopped")
    assert run.metrics_file.read_text().count("step") == 1


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """Without waiting for the step or for a checkpoint; the run can be gone on with all the same."""
    run = Run(tmp_path / "run")
    slow = ["--set", "latent=2", "channels=64", "--batch", "750", "--threads", "1", "--steps", LONG]
    process = start(run.folder, *slow, "--checkpoint-every", "1")
    while process.poll() is None and not run.checkpoint_file(2).exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)  # two of one kind may arrive as one
    line = last_line(process)
    assert process.returncode in (130, 143)  # whichever is delivered last
    assert "--resume" in line
    found = run.checkpoint()
    assert found is not None
    assert found.step == 2


def test_signals_that_are_ignored_stay_ignored(tmp_path: Path) -> None:
    """Ctrl-C in the terminal does not end what a shell runs in the background, nor SIGTERM what asked not to be."""
    run = Run(tmp_path / "run")
    command = [sys.executable, "-m", "nanogen_command", "train", "vae", "--out", str(run.folder), "--steps", "60",
               "--checkpoint-every", "2", *TINY]  # fmt: skip
    ignore: Callable[[], object] = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=ignore)
    wait_for_rows(run, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    assert process.returncode == 0
    assert run.checkpoint_files()[0] == run.checkpoint_file(60)


def twice(stop: Stop, first: int, second: int, noted: list[tuple[bool, int]]) -> None:
    """Two signals, and what was known before each."""
    for number in (first, second):
        noted.append((bool(stop), stop.number))
        os.kill(os.getpid(), number)


def test_the_first_signal_waits_and_the_second_does_not() -> None:
    """Within `with Stop()` either signal is noted, once; the next one of either kind is raised, with the exit status
    that shells have for it.  Afterwards both are handled as before, also when an error ended the block."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    mine: list[int] = []
    heard: Callable[..., None] = lambda n, frame: mine.append(n)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, heard)
        for first, second in ((signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)):
            noted: list[tuple[bool, int]] = []
            with pytest.raises(Interrupted) as caught, Stop() as stop:
                twice(stop, first, second, noted)
            assert noted == [(False, 0), (True, first)]
            assert caught.value.status == 128 + second
            assert isinstance(caught.value, KeyboardInterrupt)
            assert signal.getsignal(first) is heard, "else the next line would end the tests"
            os.kill(os.getpid(), first)
        assert mine == [signal.SIGINT, signal.SIGTERM]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop
        assert mine == [signal.SIGINT, signal.SIGTERM]
        found: list[Any] = []

        def elsewhere() -> None:
            with Stop() as other:
                found.append((bool(other), signal.getsignal(signal.SIGTERM)))

        before = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found == [(False, before)], "only the main thread has handlers"
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)


def hears(pid: int) -> bool:
    """Whether Python has begun to run the command: it has a handler of SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def those_of(process: subprocess.Popen[str]) -> list[str]:
    """What is left of the processes that it has started, by their commands."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if session == str(process.pid) and state != "Z":
                found.append((folder / "cmdline").read_bytes().decode())
        except OSError:  # it has ended
            continue
    return found


SLOW = ["--threads", "1", "--batch", "16", "--set", "T=4000", "channels=2", "multipliers=1", "heads=1"]


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose sampling takes longer than any test waits."""
    folder = tmp_path_factory.mktemp("slow") / "run"
    assert run_in_child(["train", "ddpm", "--steps", "1", "--out", str(folder), *SLOW]) == 0
    return folder


def stop_at(moment: float, command: str, number: int, slow_run: Path, folder: Path, text: str = "") -> bool:
    """A signal, so many seconds after the command has begun: it ends with one line and the signal's status, leaves no
    process behind, and no half a file.  Whether the signal came in time."""
    folder.mkdir(exist_ok=True)
    out = folder / f"{command}-{moment}-{number}"
    words = {
        "train": ["train", "vae", "--steps", LONG, "--samples-every", "10", "--quiet", "--out", str(out), *TINY],
        "pictures": ["train", "ddpm", "--steps", "1", "--quiet", "--out", str(out), *SLOW],
        "sample": ["sample", str(slow_run), "--out", f"{out}.png"],
        "evaluate": ["evaluate", str(slow_run), "--json", f"{out}.json"],
        "list": ["list"],
    }[command]
    process = begin(*words)
    while process.poll() is None and not hears(process.pid):
        time.sleep(0.001)
    if command == "pictures":
        wait_for_rows(Run(out), process)
    time.sleep(moment)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert those_of(process) == []
    assert not list(out.rglob("*.part"))
    if process.returncode == 0:
        assert said == ""
        return False
    assert (process.returncode, said.count("\n")) == (128 + number, 1), said
    assert said.startswith(f"nanogen: stopped{text}")
    return True


on_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")


@on_linux
@pytest.mark.parametrize(("moment", "command", "number"), [
    (0.0, "list", signal.SIGTERM), (0.02, "list", signal.SIGINT), (0.1, "sample", signal.SIGINT),
    (0.2, "train", signal.SIGTERM), (1.5, "train", signal.SIGINT), (1.2, "sample", signal.SIGTERM),
    (1.6, "evaluate", signal.SIGINT),
])  # fmt: skip
def test_a_signal_at_any_moment(moment: float, command: str, number: int, slow_run: Path, tmp_path: Path) -> None:
    """While it imports, reads data, trains, samples: one line, the signal's status, and nothing goes on."""
    assert stop_at(moment, command, number, slow_run, tmp_path) or command == "list"


@on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_pictures(number: int, slow_run: Path, tmp_path: Path) -> None:
    """All steps are done, and the line says how to make the pictures."""
    assert stop_at(0.3, "pictures", number, slow_run, tmp_path, text="; at step 1 of 1; go on with: nanogen train ddpm")


@on_linux
@pytest.mark.torture
def test_two_hundred_signals(slow_run: Path, tmp_path: Path) -> None:
    """At random moments of every command."""
    draw, came = random.Random(0), 0
    for i in range(200):
        command = draw.choice(["train", "pictures", "sample", "evaluate", "list"])
        number = draw.choice([signal.SIGINT, signal.SIGTERM])
        came += stop_at(round(draw.expovariate(1.0), 3), command, number, slow_run, tmp_path / str(i))
    print(f"200 commands, {came} of them stopped before their end, each with one line")
    assert came > 150


COMPILER = """#!/bin/sh
[ "$1" = --version ] && exec echo 1
sleep 600 &
echo $! > "$PLACE"
wait
"""


@on_linux
@pytest.mark.skipif(not importlib.util.find_spec("nanogen.kernels"), reason="only kernels are compiled")
def test_a_signal_while_the_compiler_runs(tmp_path: Path) -> None:
    """It ends too, with the processes that it has started, and leaves nothing in the cache."""
    (tmp_path / "cc").write_text(COMPILER)
    (tmp_path / "cc").chmod(0o700)
    place = tmp_path / "place"
    own = {"CC": str(tmp_path / "cc"), "NANOGEN_CACHE": str(tmp_path / "cache"), "PLACE": str(place)}
    process = begin("train", "vae", "--out", str(tmp_path / "run"), "--quiet", *TINY, **own)
    while process.poll() is None and not (place.exists() and place.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert last_line(process, seconds=30).startswith("nanogen: stopped; at step 1 of")
    assert (process.returncode, those_of(process)) == (143, [])
    assert list((tmp_path / "cache").rglob("*.so")) == list((tmp_path / "cache" / "compiled").iterdir()) == []


def test_the_library_does_not_touch_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when it is imported, nor after a command."""
    handlers = "[signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]"
    code = f"import signal; before = {handlers}; import nanogen, nanogen.cli; assert before == {handlers}"
    subprocess.run([sys.executable, "-c", code], check=True)
    before, during = eval(handlers), []
    monkeypatch.setattr(cli, "run_list", lambda _: during.append(eval(handlers)))
    assert cli.main(["list"]) == 0
    assert eval(handlers) == before
    assert before[1] not in during[0]


IMPORTING = """
import os, sys, nanogen_command
class Finder:
    def find_spec(self, name, *_):
        if name == "nanogen.autograd":
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
nanogen_command.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_imports(number: int) -> None:
    code = IMPORTING.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, b"nanogen: stopped\n")


UNEXPECTED = """
import nanogen_command, nanogen.cli
from nanogen.training.stopping import Interrupted
class Destroyed:
    def __del__(self):
        raise Interrupted({number})
def main():
    if {in_passing}:
        Destroyed()
        return 0
    raise Interrupted({number})
nanogen.cli.main = main
nanogen_command.main()
"""


@pytest.mark.parametrize("in_passing", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_nobody_expects(number: int, in_passing: bool) -> None:
    """It came while the first one was handled, or in a destructor: the same line and status, no traceback."""
    code = UNEXPECTED.format(number=int(number), in_passing=in_passing)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (128 + number, b"nanogen: stopped\n")


def test_a_signal_while_a_picture_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture, which may take minutes, is given up; the next step is finished and its checkpoint written, and the
    run goes on from there to the bits of one that was not stopped."""
    settings = ["--steps", "12", "--samples-every", "3", "--quiet", *TINY]
    monkeypatch.setattr(cli, "draw_pictures", lambda *_: [])
    monkeypatch.setattr(loop, "draw_progress", lambda *_: None)
    assert cli.main(["train", "vae", "--out", str(tmp_path / "whole"), *settings]) == 0
    run = Run(tmp_path / "stopped")

    def draw(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal did not end the drawing")

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # else a failure would end the tests
    try:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "draw_progress", draw)
            assert cli.main(["train", "vae", "--out", str(run.folder), *settings]) == 143
        found = run.checkpoint()
        assert found is not None
        assert found.step == 4
        assert cli.main(["train", "--resume", "--quiet", "--out", str(run.folder)]) == 0
        assert run.checkpoint_file(12).read_bytes() == Run(tmp_path / "whole").checkpoint_file(12).read_bytes()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once there are settings, the line names the command that goes on, and that does; before, there is nothing to go
    on with, and the same command begins."""
    run = Run(tmp_path / "run")
    command = ["train", "vae", "--out", str(run.folder), "--steps", "2", "--quiet", *TINY]
    monkeypatch.setattr(cli, "draw_pictures", lambda *_: [])
    again = f"nanogen train vae --out {run.folder} --resume"

    def stopped(owner: Any, name: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
            assert cli.main(command) == 143
        return capsys.readouterr().err

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # else a failure would end the tests
    try:
        assert stopped(Run, "write_settings") == "nanogen: stopped\n"
        for name in ("begin_metrics", "progress_bar"):
            assert stopped(cli, name) == f"nanogen: stopped; at step 0 of 2; go on with: {again}\n"
            command = [*again.split()[1:], "--quiet"]
        assert cli.main(command) == 0
        assert run.checkpoint_file(2).exists()
    finally:
        signal.signal(signal.SIGTERM, before)


# kill -9


STEPS, EVERY = 24, 3


def run_in_child(arguments: list[str], seconds: float | None = None) -> int:
    """The command line in a fork of this process, without pictures; killed after so many seconds.  Its exit status."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            cli.draw_pictures = lambda *_: []  # type: ignore[assignment]
            cli.print = lambda *_, **__: None  # type: ignore[attr-defined]
            status = cli.main(arguments)
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def numbers(folder: Path) -> dict[str, bytes]:
    """All files of a run but the lock and the list of commands."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "commands.log", "seconds.csv")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def kill_and_go_on(tmp_path: Path, kills: int, seed: int) -> tuple[int, int]:
    """Runs that are killed at random moments, each one to three times, gone on with in between and then to the end.

    After each kill the run can be read; each ends as the uninterrupted one, to the last byte of every file.  Returns
    how many processes were killed and how many of them amid writing a file."""
    draw = random.Random(seed)
    new = ["train", "vae", "--steps", str(STEPS), "--checkpoint-every", str(EVERY), *TINY]
    begin = time.perf_counter()
    assert run_in_child([*new, "--out", str(tmp_path / "whole")]) == 0
    duration = time.perf_counter() - begin
    whole, killed, writing, count = numbers(tmp_path / "whole"), 0, 0, 0
    while killed < kills:
        run, count = Run(tmp_path / f"run{count}"), count + 1
        for left in range(draw.randint(1, 3), -1, -1):
            begun = run.settings_file.exists()
            arguments = ["train", "vae", "--resume"] if begun else new
            seconds = draw.uniform(0, 1.1 * duration) if left else None
            status = run_in_child([*arguments, "--out", str(run.folder)], seconds)
            assert status in ((0, -signal.SIGKILL) if left else (0,)), f"{run.folder} can't be gone on with"
            killed += status != 0
            writing += any(run.folder.rglob("*.part"))
            if run.settings_file.exists():
                assert run.settings().steps == STEPS
                assert run.checkpoint() is not None or not run.checkpoint_files()
        assert numbers(run.folder) == whole
    return killed, writing


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """kill -9 a few times: always readable, and gone on with to the same bits."""
    killed, _ = kill_and_go_on(tmp_path, kills=3, seed=0)
    assert killed >= 3


@pytest.mark.torture
def test_killed_two_hundred_times(tmp_path: Path) -> None:
    """The same 200 times, some of them amid writing a file."""
    killed, writing = kill_and_go_on(tmp_path, kills=200, seed=1)
    print(f"{killed} processes killed, {writing} of them amid writing a file; all runs readable, all ends the same")
    assert killed >= 200
    assert writing >= 5


# Disks and folders


def test_a_full_disk(tmp_path: Path) -> None:
    """The system refuses to write the second checkpoint: one line and exit status 2, the first is intact, and once
    there is room the run goes on to the same bits."""
    settings = ["--steps", "12", "--checkpoint-every", "5", *TINY]
    assert run_in_child(["train", "vae", "--out", str(tmp_path / "whole"), *settings]) == 0
    run = Run(tmp_path / "full")
    child = os.fork()
    if child == 0:
        status = 99
        try:
            real = cli.train

            def train(trainer: object, *rest: object) -> None:
                def on_step(step: int, loss: float) -> None:
                    if step == 6:
                        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

                real(trainer, run, on_step)  # type: ignore[arg-type]

            cli.train = train  # type: ignore[assignment]
            os.dup2(os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            status = cli.main(["train", "vae", "--out", str(run.folder), *settings])
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    line = (tmp_path / "said").read_text().splitlines()[-1]
    assert line.startswith("nanogen: error: ")
    assert "step-00000010" in line
    assert "--resume" in line
    found = run.checkpoint()
    assert found is not None
    assert found.step == 5
    assert run_in_child(["train", "vae", "--out", str(run.folder), "--resume"]) == 0
    assert numbers(run.folder) == numbers(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.torture
def test_a_small_disk_that_fills_up(small_disk: Path, tmp_path: Path) -> None:
    """A disk with room for so many checkpoints: the run stops with one line and exit status 2, what was written can be
    read; so too on a disk that can only be read; with more room it goes on to the same bits."""
    settings = ["--steps", "60", "--checkpoint-every", "5", "--keep", "12", *TINY]
    assert run_in_child(["train", "vae", "--out", str(tmp_path / "whole"), *settings]) == 0
    run = Run(small_disk / "run")
    process = start(run.folder, *settings)
    line = last_line(process)
    assert process.returncode == 2
    assert line.startswith("nanogen: error: [Errno 28] No space left on device: ")
    assert "--resume" in line
    assert len(run.checkpoint_files()) > 2
    assert not list(run.folder.rglob("*.part"))
    assert run.checkpoint() is not None
    before = numbers(run.folder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    process = start(run.folder, "--resume")
    assert last_line(process).startswith("nanogen: error: [Errno 30] Read-only file system: ")
    assert (process.returncode, numbers(run.folder)) == (2, before)
    subprocess.run(["mount", "-o", "remount,rw,size=2m", str(small_disk)], check=True)
    assert run_in_child(["train", "vae", "--out", str(run.folder), "--resume"]) == 0
    assert numbers(run.folder) == numbers(tmp_path / "whole")


def test_two_processes_on_one_run(tmp_path: Path) -> None:
    """The second is refused, whether it begins or goes on, and changes nothing; the first goes on undisturbed."""
    run = Run(tmp_path / "run")
    first = start(run.folder, "--steps", LONG, "--checkpoint-every", "7", *TINY)
    wait_for_rows(run, first)
    first.send_signal(signal.SIGSTOP)
    before = numbers(run.folder)
    second = start(run.folder, "--resume")
    assert "is in use" in last_line(second)
    assert second.returncode == 2
    assert numbers(run.folder) == before
    first.send_signal(signal.SIGCONT)
    first.send_signal(signal.SIGTERM)
    last_line(first)
    assert first.returncode == 143


def test_two_processes_that_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two that begin in one empty folder the second finds it taken, before either wrote anything."""
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    with cli.locked(run.folder):
        assert cli.main(["train", "vae", "--out", str(run.folder), "--steps", "2", *TINY]) == 2
    assert "is in use" in capsys.readouterr().err
    assert [p.name for p in run.folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """One line and exit status 2, and nothing is changed there."""
    place = tmp_path / "file"
    place.write_text("kept")
    process = start(place / "run", "--steps", "2", *TINY)
    assert last_line(process).startswith("nanogen: error: ")
    assert process.returncode == 2
    assert place.read_text() == "kept"
