"""Checkpoints: whole or refused, the newest that can be read, and PyTorch reads them too."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st
from test_torch_models import torch_models
from tiny_runs import KINDS, STEPS, TINY, assert_same, begun, images_of, resumed, settings_of, trained

import nanogen as ng
from nanogen.training import files
from nanogen.training.checkpoint import (
    LONGEST_HEADER,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    with_prefix,
    without_prefix,
)
from nanogen.training.loop import Trainer, build_model, train
from nanogen.training.run import Run

SMALL = Checkpoint(7, {"model": "vae"}, {"a": np.ones(2), "b": np.arange(3, dtype=np.float32)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint of a few bytes."""
    save_checkpoint(tmp_path / "checkpoint.safetensors", SMALL)
    return tmp_path / "checkpoint.safetensors"


# One file


def test_round_trip(path: Path) -> None:
    """Arrays of any type, order and shape come back bit for bit, with the step and the settings; the same checkpoint is
    the same bytes; nothing else is left in the folder."""
    arrays = {
        "a": np.arange(6.0).reshape(2, 3).T,
        "b": np.asarray(np.float32(2.5)),
        "c": np.arange(3),
        "d": np.zeros((0, 2)),
        "e": np.array([np.nan, -0.0, np.inf]),
    }
    save_checkpoint(path, Checkpoint(8, {"lr": 0.1, "betas": [0.5, 0.9]}, arrays))
    first, found = path.read_bytes(), load_checkpoint(path)
    assert (found.step, found.settings) == (8, {"lr": 0.1, "betas": [0.5, 0.9]})
    for name, array in arrays.items():
        assert found.arrays[name].tobytes() == array.tobytes()
        assert (found.arrays[name].shape, found.arrays[name].dtype) == (array.shape, array.dtype)
    save_checkpoint(path, found)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def refused(path: Path, contents: bytes) -> None:
    """One line that names the file."""
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_no_altered_byte_goes_unnoticed(path: Path) -> None:
    """Each byte of a checkpoint changed in one bit, in turn, and all truncations: refused."""
    whole = path.read_bytes()
    for i in range(len(whole)):
        refused(path, whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        refused(path, whole[:i])


@given(data=st.data())
def test_no_altered_file_goes_unnoticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes put in, taken out, overwritten and swapped, in header and payload: refused, unless nothing changed."""
    path = tmp_path_factory.mktemp("altered") / "checkpoint.safetensors"
    save_checkpoint(path, SMALL)
    whole = path.read_bytes()
    a, b = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=2, max_size=2)))
    middle = data.draw(st.one_of(st.binary(max_size=40), st.just(whole[b:] + whole[a:b]), st.just(b"[" * 5000)))
    altered = whole[:a] + middle + whole[b:]
    if altered != whole:
        refused(path, altered)


FOREIGN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "zeros": lambda: bytes(100),
    "a header beyond all bounds": lambda: (LONGEST_HEADER + 1).to_bytes(8, "little") + b"{}",
    "a header longer than the file": lambda: (1000).to_bytes(8, "little") + b"{}",
    "no object": lambda: (2).to_bytes(8, "little") + b"[]",
    "deeply nested": lambda: (90_000).to_bytes(8, "little") + b"[" * 90_000,
    "another program's": lambda: safetensors.numpy.save({"a": np.ones(2)}),
    "another program's metadata": lambda: safetensors.numpy.save({"a": np.ones(2)}, metadata={"format": "pt"}),
    "metadata of another kind": lambda: safetensors.numpy.save({"a": np.ones(2)}, metadata={"nanogen": "[1]"}),
    "no checksum": lambda: safetensors.numpy.save({"a": np.ones(2)}, metadata={"nanogen": '{"step": 1}'}),
    "a checksum that is none": lambda: safetensors.numpy.save({}, metadata={"nanogen": '{"sha256": "", "format": 2}'}),
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(50),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused(kind: str, path: Path) -> None:
    """Files of other programs, and none: ValueError in one line, with the path."""
    refused(path, FOREIGN[kind]())


@pytest.mark.parametrize("step", [np.inf, -np.inf, np.nan, -1, 7.0, True, "7", None])
def test_a_step_that_is_none(step: Any, path: Path) -> None:
    """A whole file whose step is no number of steps is refused, in one line with the path."""
    save_checkpoint(path, SMALL._replace(step=step))
    refused(path, path.read_bytes())


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_is_named(version: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of an earlier or a later format is refused as that, not as broken."""
    monkeypatch.setattr("nanogen.training.checkpoint.FORMAT", version)
    save_checkpoint(path, SMALL)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"checkpoint of format {version}; this version reads format 2"):
        load_checkpoint(path)


# Writing


def fail(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_save_leaves_the_old_checkpoint(call: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while saving, the checkpoint of before is still there, whole, and nothing besides; the error
    names the file."""
    before = path.read_bytes()
    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match=r"No space left.*checkpoint\.safetensors"):
        save_checkpoint(path, SMALL._replace(step=8))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_the_old_checkpoint(path: Path) -> None:
    """The system itself refuses to write on (here beyond a size of files) amid the new checkpoint: the one of before is
    still there, whole, and nothing besides."""
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"checkpoint\.safetensors"):
            save_checkpoint(path, SMALL._replace(arrays={"a": np.ones(10_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


class Killed:
    """The `os` of `files`, but the process is killed before the n-th call that changes the disk, or amid a write."""

    def __init__(self, n: int):
        self.left = n

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in ("fsync", "replace"):
            return found

        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                if name == "fsync" and stat.S_ISREG((file := os.fstat(arguments[0])).st_mode):
                    os.truncate(arguments[0], file.st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return found(*arguments)

        return call


@pytest.mark.parametrize("n", range(1, 8))
def test_killed_while_saving(n: int, tmp_path: Path) -> None:
    """kill -9 before each call of a save that changes the disk, the first time with half of the file written: the run
    can be read, with the checkpoint of before or the new one; going on removes what was left unfinished, and ends bit
    for bit as a run that was not killed."""
    trainer, run = begun(settings_of("vae", checkpoint_every=5), tmp_path / "killed")

    def on_step(step: int, loss: float) -> None:
        if step == 9:
            files.os = Killed(n)  # type: ignore[assignment]

    child = os.fork()
    if child == 0:
        try:
            train(trainer, run, on_step)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == signal.SIGKILL
    found = run.checkpoint()
    assert found is not None
    assert found.step == (5 if n < 6 else 10), "for a file three calls: content, name, folder"
    assert len(list(run.folder.rglob("*.part"))) == (n % 3 != 0)
    again, _ = resumed(run.folder)
    assert not list(run.folder.rglob("*.part"))
    whole, whole_run = trained("vae", tmp_path / "whole", checkpoint_every=5)
    assert_same(again.arrays(), whole.arrays())
    assert run.metrics_file.read_bytes() == whole_run.metrics_file.read_bytes()


# Which one


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    """As many as the settings say, the newest; it is the one that is gone on from.  One more, of a process that was
    killed before it removed that, is removed on going on."""
    _, run = trained("vae", tmp_path, checkpoint_every=2, keep=3)
    assert run.checkpoint_files() == [run.checkpoint_file(step) for step in (12, 10, 8)]
    found = run.checkpoint()
    assert found is not None
    assert found.step == 12
    run.checkpoint_file(6).write_bytes(run.checkpoint_file(8).read_bytes())
    resumed(tmp_path)
    assert run.checkpoint_files() == [run.checkpoint_file(step) for step in (12, 10, 8)]


def test_the_newest_that_can_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Broken ones are named, in a line each, and the newest of the others is taken.  Going on with it puts them aside,
    never deletes them, and ends bit for bit as if nothing had happened."""
    whole, run = trained("vae", tmp_path, checkpoint_every=2, keep=4)
    rows = run.metrics_file.read_bytes()
    contents = {12: b"", 10: run.checkpoint_file(10).read_bytes()[:-1]}
    for step, broken in contents.items():
        run.checkpoint_file(step).write_bytes(broken)
    found = run.checkpoint()
    assert found is not None
    assert found.step == 8
    lines = [record.getMessage() for record in caplog.records]
    assert [f"step-000000{step}" in line and "step-00000008" in line for step, line in zip((12, 10), lines)] == [1, 1]
    assert run.model() is not None
    assert len(run.checkpoint_files()) == 4, "reading changes nothing"
    again, _ = resumed(tmp_path)
    assert_same(again.arrays(), whole.arrays())
    assert run.metrics_file.read_bytes() == rows
    for step, broken in contents.items():
        assert (run.folder / "checkpoints" / f"step-{step:08d}.safetensors.broken").read_bytes() == broken
    assert run.checkpoint_files() == [run.checkpoint_file(step) for step in (12, 10, 8, 6)]


def test_what_is_left_unfinished_is_removed(tmp_path: Path) -> None:
    """By `recover`, in the run's folder and in those of its checkpoints and samples; and no other file."""
    _, run = trained("vae", tmp_path)
    places = [run.folder, run.folder / "checkpoints", run.folder / "samples"]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    kept = [place / name for place in places for name in (".x", "x.part")]
    for path in (*kept, *(place / ".samples.png.part" for place in places)):
        path.touch()
    run.checkpoint()
    assert len([*tmp_path.rglob(".*.part")]) == 3, "reading changes nothing"
    run.recover()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before | set(kept)


def test_none_that_can_be_read(tmp_path: Path) -> None:
    """Where all are broken the run is not begun anew silently: ValueError, and the files stay."""
    _, run = trained("vae", tmp_path, checkpoint_every=6)
    for path in run.checkpoint_files():
        path.write_bytes(b"")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for read in (run.checkpoint, run.recover, run.model):
        with pytest.raises(ValueError, match="step-00000012"):
            read()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    """One that was written with other settings is refused with what differs, for going on and for sampling; where the
    data lie may change, and the number of steps."""
    _, run = trained("vae", tmp_path)
    others: dict[str, Any] = {
        "batch": 7, "lr": 0.5, "betas": (0.5, 0.9), "weight_decay": 0.1, "warmup": 4, "ema": 0.5,
        "threads": 2, "samples_every": 7, "clip": 1.0, "log_every": 3, "checkpoint_every": 5, "keep": 2, "seed": 1,
        "test_every": 7, "patience": 3, "levels": 5, "image_shape": (1, 4, 5), "size": (4, 4), "color": "rgb",
        "data": "mnist",
    }  # fmt: skip
    assert others.keys() | {"model", "steps", "device", "precision", "execution", "data_dir", "model_settings"} <= {
        field.name for field in dataclasses.fields(settings_of("vae"))
    }
    cases = [({name: value}, name) for name, value in others.items()]
    for changes, word in (*cases, ({"model_settings": {**TINY["vae"], "latent": 3}}, "latent")):
        run.write_settings(dataclasses.replace(settings_of("vae"), **changes))
        for read in (run.recover, run.model):
            with pytest.raises(ValueError, match=word):
                read()
    for changes in ({"data_dir": "/elsewhere"}, {"steps": 13}):  # more steps may be added
        run.write_settings(dataclasses.replace(settings_of("vae"), **changes))
        assert run.recover() is not None


def test_a_checkpoint_from_before_a_setting(tmp_path: Path) -> None:
    """A setting that came after the checkpoint was written had its default then, and no other value."""
    _, run = trained("vae", tmp_path)
    path = run.checkpoint_files()[0]
    old = load_checkpoint(path)
    save_checkpoint(path, old._replace(settings={k: v for k, v in old.settings.items() if k != "clip"}))
    assert run.recover() is not None
    run.write_settings(dataclasses.replace(settings_of("vae"), clip=1.0))
    with pytest.raises(ValueError, match="clip"):
        run.recover()


def test_a_folder_for_one_process(tmp_path: Path) -> None:
    """A second process is refused; once the first is killed, the folder is free again."""
    go, wait = os.pipe()
    child = os.fork()
    if child == 0:
        with files.locked(tmp_path):
            os.write(wait, b"1")
            signal.pause()
    os.read(go, 1)
    freed = threading.Timer(5, os.kill, (child, signal.SIGKILL))  # for a second process that waits instead
    freed.start()
    with pytest.raises(ValueError, match="in use"), files.locked(tmp_path):
        pass
    freed.cancel()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with files.locked(tmp_path):
        pass


def test_prefixes() -> None:
    """All names get one; of all names those that begin with it lose it, once, and others are left out."""
    assert with_prefix("a.", {"b": 1, "a.b": 2}) == {"a.b": 1, "a.a.b": 2}
    assert without_prefix("a.", {"a.b": 1, "a.a.c": 2, "x.a.b": 3, "a": 4, "ab": 5}) == {"b": 1, "a.c": 2}


# PyTorch


@pytest.mark.by_default(model=KINDS)
@pytest.mark.parametrize("model", TINY)
def test_weights_travel_to_torch_and_back(model: str, tmp_path: Path) -> None:
    """safetensors' own reader for torch gives the weights, under `model.`, to a second implementation of the model in
    torch, whose losses are ours; what torch changes comes back through the same file."""
    trainer, run = trained(model, tmp_path)
    path = run.checkpoint_file(STEPS)
    theirs = torch_models.mirror(build_model(trainer.settings))
    theirs.load_state_dict(without_prefix("model.", safetensors.torch.load_file(path)))
    images = images_of(model).images
    compared = zip(trainer.model.eval().updates(), torch_models.updates(theirs.eval()), strict=True)
    for (_, loss_of, _), (torch_loss_of, _) in compared:
        expected = torch_loss_of(images, ng.Generator(1)).item()
        assert loss_of(images, ng.Generator(1)).item() == pytest.approx(expected, rel=1e-4)

    changed = {name: weight.numpy() for name, weight in theirs.state_dict().items()}
    changed = {name: (2 * weight).astype(weight.dtype) for name, weight in changed.items()}
    checkpoint = load_checkpoint(path)
    ours = {f"model.{name}": weight for name, weight in changed.items()}
    save_checkpoint(path, checkpoint._replace(arrays={**checkpoint.arrays, **ours}))
    back = Trainer(run.settings(), images_of(model))
    back.restore(load_checkpoint(path))
    assert_same(back.model.state_dict(), changed)


def test_settings_are_in_the_file(tmp_path: Path) -> None:
    """The metadata hold the model, the settings, the step and the version, for other programs to read."""
    trainer, run = trained("ddpm", tmp_path)
    with run.checkpoint_file(STEPS).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    described = json.loads(header["__metadata__"]["nanogen"])
    assert described["settings"] == json.loads(run.settings_file.read_text())
    assert described["settings"]["model"] == "ddpm"
    assert (described["step"], described["version"]) == (STEPS, ng.__version__)
    assert trainer.settings == Run(tmp_path).settings()
