"""Locales that are not UTF-8, consoles that can't show a letter, and paths that are no text."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import nanogen
from nanogen import cli
from nanogen.cli import as_command, main

PACKAGE = Path(nanogen.__file__).parent
TINY = ["--steps", "4", "--batch", "8", "--threads", "1", "--set", "latent=2", "channels=2", "stages=1"]


def some_pictures(folder: Path) -> None:
    """As many as can be compared, of a class whose name is the folder's too."""
    for i in range(80):
        part = folder / ("train" if i % 2 else "test") / folder.name
        part.mkdir(parents=True, exist_ok=True)
        levels = np.random.default_rng(i).integers(0, 256, (8, 8)).astype(np.uint8)
        Image.fromarray(levels).save(part / f"{i}.png")


# Files


def texts(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that open, read or write text, or have a process say some."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
        words += [keyword.value.value for keyword in call.keywords if isinstance(keyword.value, ast.Constant)]
        of_bytes = any(isinstance(word, str) and re.fullmatch("[rwax+]*b[rwax+]*|r:gz", word) for word in words)
        elsewhere = ast.unparse(call.func) in ("Image.open", "os.open", "archive.open", "tarfile.open")
        shown = any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
        if name in ("read_text", "write_text") or (name == "open" and not (of_bytes or elsewhere)) or shown:
            yield call


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_text_file_has_its_encoding(path: Path) -> None:
    """What is read or written as text says in which encoding, so that no locale chooses it."""
    for call in texts(ast.parse(path.read_text(encoding="utf-8"))):
        assert "encoding" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "kernels" / "cuda").glob("*.cu")), ids=lambda path: path.stem)
def test_cuda_sources_are_ascii(path: Path) -> None:
    """CuPy writes them in the locale's encoding.  No code is changed by that: what isn't ASCII is in comments."""
    source = importlib.import_module("nanogen.kernels.cuda.launch").cuda_source(path.stem)
    code = lambda text: re.sub("//.*", "", text)
    assert source.isascii()
    assert code(path.read_text(encoding="utf-8")).isascii()
    included = re.sub('#include "(.*)"\n', lambda name: (path.parent / name[1]).read_text(encoding="utf-8"),
                      path.read_text(encoding="utf-8"))  # fmt: skip
    assert code(source) == code(included)


# Locales


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of locales of this test's own."""
    folder = tmp_path_factory.mktemp("locales")
    for locale in ("en_US.ISO-8859-1", "zh_CN.GBK", "ja_JP.EUC-JP"):
        language, _, encoding = locale.partition(".")
        with contextlib.suppress(OSError):  # no localedef, or none of its sources: the test is skipped
            made = ["localedef", "-c", "-i", language, "-f", encoding, str(folder / locale)]
            subprocess.run(made, check=False, capture_output=True)
    return folder


ALL = """
import sys
from nanogen.cli import main
arguments = sys.argv[1:]
while arguments:
    end = arguments.index("+")
    command, arguments = arguments[:end], arguments[end + 1 :]
    try:
        status = main(command)
    except SystemExit as error:
        status = error.code
    if status:
        sys.exit(f"{ascii(command)}: {status}")
"""


def in_a_process(commands: list[list[object]], **environment: str) -> bytes:
    """What the commands say, one after the other, each of which has to end well."""
    arguments = [str(word) for command in commands for word in (*command, "+")]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "", **environment}
    done = subprocess.run([sys.executable, "-c", ALL, *arguments], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.by_default(locale=["C"])
@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1", "zh_CN.GBK"])
def test_the_command_line_in_a_locale(locale: str, locales: Path, tmp_path: Path) -> None:
    """Everything that the command line does, with paths that are UTF-8 here and something else there, or nothing; the
    run is then gone on with and evaluated in UTF-8: its files are the same wherever it was made."""
    if locale != "C" and not (locales / locale).exists():
        pytest.skip("no such locale can be made here")
    pets, out = tmp_path / "chiens été", tmp_path / "Läufe"
    some_pictures(pets)
    commands = [["list"], ["--help"], ["train", "--help"], ["train", "vae", "--data", pets, "--out", out, *TINY],
                ["train", "--out", out, "--resume"], ["evaluate", out, "--samples", "40"],
                ["train", "--config", out / "settings.json", "--out", f"{out} 2"],
                ["sample", out, "-n", "2", "--out", tmp_path / "é.npz"]]  # fmt: skip
    assert b"bits/dim" in in_a_process(commands, LOCPATH=str(locales), LC_ALL=locale, PYTHONUTF8="0")
    settings, found = (json.loads((out / f"{n}.json").read_text(encoding="utf-8")) for n in ("settings", "evaluation"))
    assert settings["data"] == str(pets)
    assert "Fréchet distance" in found["quality"]
    log = (out / "commands.log").read_text(encoding="utf-8").splitlines()
    assert log[0].endswith(f": {shlex.join(['nanogen', *map(str, commands[3])])}")
    assert np.load(tmp_path / "é.npz")["images"].shape == (2, 1, 8, 8)
    (out / "checkpoints" / "step-00000004.safetensors").unlink()
    in_a_process([["train", "--out", out, "--resume"], ["evaluate", out, "--samples", "40"]], PYTHONUTF8="1")


# Consoles


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk", "euc_jp", "koi8-r", "utf-8"])
@pytest.mark.parametrize("command", [["list"], ["train", "--help"], ["evaluate", "caf\udce9"]], ids=" ".join)
def test_what_a_console_cannot_show_is_replaced(
    command: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends no command, and all else is said as in UTF-8."""
    said = {}
    for name in ("utf-8", encoding):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=name, errors="strict") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        try:
            status = main(command)
        except SystemExit as error:
            status = int(error.code or 0)
        for stream in streams:
            stream.flush()
        said[name] = "".join(stream.buffer.getvalue().decode(name) for stream in streams)  # type: ignore[attr-defined]
        assert status == (2 if command[0] == "evaluate" else 0)
    assert said[encoding] == said["utf-8"].encode(encoding, "replace").decode(encoding)
    assert len(said["utf-8"]) > 50


@pytest.mark.parametrize("fault", ["table", "write"])
def test_an_evaluation_is_written_and_shown(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are on the disk before they are shown; and they are shown though the disk is full."""

    def failing(*_: object) -> None:
        raise OSError("broken")

    some_pictures(tmp_path / "pets")
    out = tmp_path / "run"
    assert main(["train", "vae", "--data", str(tmp_path / "pets"), "--out", str(out), *TINY]) == 0
    monkeypatch.setattr(cli, fault, failing)
    assert main(["evaluate", str(out), "--samples", "40"]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "nanogen: error: broken"
    assert ("bits/dim" in said.out) == (fault == "write")
    assert (out / "evaluation.json").exists() == (out / "evaluation-closest.png").exists() == (fault == "table")


# Paths

NAMES = {
    "no text": b"caf\xe9", "lines": b"a\nb  c\xe2\x80\xa8d", "a formula": b"$\\frac{x_$", "tags": b"<b>&\"' 5$ %d {}",
    "Chinese": "\u6f22\u5b57 \u3000 \u0939".encode(), "long": b"x" * 200 + b"\xff" * 50,
}  # fmt: skip


@pytest.mark.by_default(kind=["no text", "tags"])
@pytest.mark.parametrize("kind", NAMES)
def test_paths_need_not_be_text(kind: str, tmp_path: Path) -> None:
    """A run of a folder of any name, in a folder of any name: trained, gone on with, evaluated and sampled from without
    a word of warning, and every file of text in it is UTF-8."""
    name = os.fsdecode(NAMES[kind])
    pets, out, drawn = tmp_path / name, tmp_path / "runs" / name, tmp_path / f"{name[:250]}.npz"
    told = drawn.with_suffix(".json")
    some_pictures(pets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["train", "vae", "--data", str(pets), "--out", str(out), "--checkpoint-every", "2", *TINY]) == 0
        whole = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
        (out / "checkpoints" / "step-00000004.safetensors").unlink()
        assert main(["train", "--out", str(out), "--resume"]) == 0
        assert main(["evaluate", str(out), "--samples", "40", "--json", str(told)]) == 0
        assert main(["sample", str(out), "-n", "2", "--out", str(drawn)]) == 0
        assert main(["train", "--config", str(out / "settings.json"), "--out", str(tmp_path / "again")]) == 0
    assert whole == {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    assert json.loads(told.read_text(encoding="utf-8"))["data"] == str(pets)
    log = (out / "commands.log").read_text(encoding="utf-8")
    assert len(log.splitlines()) == 2
    assert log.splitlines()[1].endswith(as_command(["nanogen", "train", "--out", str(out), "--resume"]))
    assert "vae on " in (out / "index.html").read_text(encoding="utf-8")
    assert Image.open(out / "loss.png").size == (840, 480)


def test_runs_of_long_names_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out a run is named after its data, as far as a name of 255 bytes has room."""
    monkeypatch.chdir(tmp_path)
    some_pictures(tmp_path / ("\u6f22" * 85))
    assert main(["train", "vae", "--data", "\u6f22" * 85, *TINY]) == 0
    assert [path.name[:6] for path in (tmp_path / "runs").iterdir()] == ["vae-\u6f22\u6f22"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no shell to ask")
@given(words=st.lists(st.binary(min_size=1).filter(lambda word: 0 not in word), min_size=1, max_size=5))
@example(words=[*NAMES.values()])
def test_a_command_can_be_typed_again(words: list[bytes]) -> None:
    """A shell takes what is logged, a line of UTF-8, for the words that were given, to the byte."""
    line = as_command(map(os.fsdecode, words))
    assert line.isprintable()
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert said.split(b"\0")[:-1] == words


@pytest.mark.parametrize("odd", ["two  spaces", "a\nb", "caf\udce9", "\u6f22"])
def test_what_to_go_on_with_is_said_in_a_line(
    odd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is one line, also one of argparse; and the command in it is what has to be typed, to the last space."""

    def failing(*_: object) -> None:
        raise OSError(f"no room in {odd}")

    monkeypatch.setattr(cli, "draw_pictures", failing)
    out = tmp_path / odd
    assert main(["train", "vae", "--out", str(out), *TINY]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"go on with: {as_command(['nanogen', 'train', 'vae', '--out', str(out), '--resume'])}")
    with pytest.raises(SystemExit):
        main(["train", "vae", f"--{odd}", "1"])
    said = capsys.readouterr().err
    assert said.startswith("nanogen: error: unknown argument --")
    assert len(said.splitlines()) == 1
