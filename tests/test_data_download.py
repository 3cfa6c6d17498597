"""Downloads, from a server on this machine that stalls, breaks off, lies about lengths and serves other bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nanogen import data
from nanogen.data import download
from nanogen.data.download import Archive, File, cached
from nanogen.data.sources import SOURCES
from tests.malformed import tar

CONTENTS = np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8).tobytes()
WHOLE = gzip.compress(CONTENTS, 1)
HALF = len(WHOLE) // 2


def file_of(name: str, contents: bytes) -> File:
    return File(name, len(contents), f"sha256:{hashlib.sha256(contents).hexdigest()}")


TOY = Archive("http://nowhere.invalid/toy.gz", (file_of("toy", CONTENTS),))


class Server:
    """Answers each request as the next of `plan` says, the last of them again and again; notes what was asked for.

    - whole: all of it, or what was asked for of it; plain: uncompressed; whole-again: all, whatever was asked for
    - breaks: half of it, then the connection ends; stalls: half, then nothing more; drips: a byte every 20 ms, for 4 s
    - short, long: the length of half of it, or of more than it, is announced
    - other: the same length, other bytes; endless: far more than it can be; 404, 503: that status
    """

    def __init__(self) -> None:
        self.plan, self.asked, self.contents = ["whole"], [], {"/toy/toy.gz": WHOLE}
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                how = outer.plan.pop(0) if len(outer.plan) > 1 else outer.plan[0]
                asked = self.headers.get("Range")
                outer.asked.append(asked)
                outer.answer(self, how, int(asked[6:-1]) if asked and how != "whole-again" else 0)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, how: str, start: int) -> None:
        body = self.contents.get(request.path)
        if how.isdecimal() or body is None:
            request.send_error(int(how) if how.isdecimal() else 404)
            return
        if how == "plain":
            body = gzip.decompress(body)
        if start >= len(body):
            request.send_error(416)
            return
        sent = {"breaks": body[:HALF], "stalls": body[:HALF], "short": body[:HALF], "other": body[::-1]}.get(how, body)
        length = {"short": HALF, "long": len(body) + 1000, "endless": 1 << 40}.get(how, len(body)) - start
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(length))
        request.end_headers()
        try:
            for byte in sent[: 200 * (how == "drips")]:
                request.wfile.write(bytes([byte]))
                time.sleep(0.02)
            request.wfile.write(b"" if how == "drips" else sent[start:])
            while how == "endless" and not self.closing.is_set():
                request.wfile.write(bytes(1 << 16))
        except ConnectionError:
            pass
        if how == "stalls":
            self.closing.wait()

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The mirror of a cache that is empty."""
    server = Server()
    monkeypatch.setenv("NANOGEN_MIRROR", server.url)
    monkeypatch.setenv("NANOGEN_CACHE", str(tmp_path / "cache"))
    yield server
    server.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("plan", "resumes"), [
    (["whole"], []), (["plain"], []), (["breaks", "whole"], [True]), (["breaks", "breaks", "whole"], [True, True]),
    (["breaks", "whole-again"], [True]), (["long", "whole"], [True]), (["short", "whole"], [False]),
    (["other", "whole"], [False]), (["503", "whole"], [False]),
])  # fmt: skip
def test_what_goes_wrong_is_made_good(plan: list[str], resumes: list[bool], server: Server, tmp_path: Path) -> None:
    """A broken transfer goes on where it was, or begins anew where the server can't; a longer length than there is does
    no harm; wrong bytes are fetched again, from the first.  In the end the file is there, whole, and nothing else."""
    server.plan = list(plan)
    folder = cached("toy", (TOY,))
    assert contents(tmp_path) == {"cache/toy/toy": CONTENTS}
    assert folder == tmp_path / "cache" / "toy"
    assert server.asked[0] is None
    assert [start is not None for start in server.asked[1:]] == resumes
    for start in server.asked[1:]:
        assert start is None or HALF - (1 << 16) < int(start[6:-1]) <= len(WHOLE), "a chunk at most is fetched twice"


def test_all_there_but_a_longer_length_was_announced(server: Server, tmp_path: Path) -> None:
    """Asked for what is beyond the end, the server says that there is none: then the bytes are looked at."""
    whole = CONTENTS[: 1 << 17]
    server.contents["/toy/toy.gz"], server.plan = whole, ["long"]
    cached("toy", (Archive(TOY.url, (file_of("toy", whole),)),))
    assert contents(tmp_path) == {"cache/toy/toy": whole}
    assert server.asked == [None, f"bytes={1 << 17}-"]


def test_a_server_that_stalls(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No byte for a while: the connection is given up, and the next one goes on where it was."""
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    server.plan = ["stalls", "whole"]
    cached("toy", (TOY,))
    assert contents(tmp_path) == {"cache/toy/toy": CONTENTS}
    assert server.asked[0] is None
    assert server.asked[1]


def test_a_server_that_drips(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A byte now and then, which no limit of silence notices: given up once the whole download takes too long, and not
    tried again."""
    monkeypatch.setattr(download, "LIMIT", 0.5)
    server.plan = ["drips"]
    with pytest.raises(OSError, match=r"it takes more than 0\.5 seconds.*--data-dir"):
        cached("toy", (TOY,))
    assert server.asked == [None]
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("plan", "requests", "word"), [
    (["404"], 1, "404"), (["503"], 4, "503"), (["breaks", "503"], 4, "503"), (["other"], 4, "checksum sha256"),
    (["short"], 4, "broken"), (["endless"], 4, "more than"), (["breaks", "403"], 2, "403"),
])  # fmt: skip
def test_what_can_not_be_made_good(plan: list[str], requests: int, word: str, server: Server, tmp_path: Path) -> None:
    """After four attempts, or at once where the server says that there is no such file: one error with the address and
    what else can be done.  Nothing is left behind."""
    server.plan = list(plan)
    with pytest.raises(OSError, match=f"toy can't be downloaded from {server.url}/toy/toy.gz: .*{word}.*--data-dir"):
        cached("toy", (TOY,))
    assert len(server.asked) == requests
    assert contents(tmp_path) == {}


def test_other_bytes_of_a_whole_archive(server: Server, tmp_path: Path) -> None:
    """An archive that is whole and holds something else, of the same length or far more: refused by its checksum, or
    by its size before it is unpacked."""
    for other in (bytes(len(CONTENTS)), bytes(1 << 28), b""):
        server.contents["/toy/toy.gz"] = gzip.compress(other)
        with pytest.raises(OSError, match="toy does not have the checksum"):
            cached("toy", (TOY,))
    assert contents(tmp_path) == {}


def test_once_is_enough(server: Server, tmp_path: Path) -> None:
    """What is in the cache is not asked for again, and needs no connection; a file that was altered there is fetched
    anew."""
    cached("toy", (TOY,))
    server.plan = ["404"]
    cached("toy", (TOY,))
    assert len(server.asked) == 1
    path = tmp_path / "cache" / "toy" / "toy"
    path.write_bytes(CONTENTS[:-1] + bytes([CONTENTS[-1] ^ 1]))
    with pytest.raises(OSError, match="404"):
        cached("toy", (TOY,))
    server.plan = ["whole"]
    cached("toy", (TOY,))
    assert contents(tmp_path) == {"cache/toy/toy": CONTENTS}


TWO = Archive("http://nowhere.invalid/two.tar.gz", (file_of("a.bin", b"first"), file_of("b.bin", b"second")))


def test_an_archive_of_several_files(server: Server, tmp_path: Path) -> None:
    """A tar's files are found by their last names, whatever paths it gives them, and its others are left alone."""
    server.contents["/two/two.tar.gz"] = tar({"../../a.bin": b"first", "/deep/b.bin": b"second", "more.txt": b"x"})
    cached("two", (TWO,))
    assert contents(tmp_path) == {"cache/two/a.bin": b"first", "cache/two/b.bin": b"second"}


def test_an_archive_of_its_own_checksum(server: Server, tmp_path: Path) -> None:
    """It is that of the archive, or no file in it is kept, though their own checksums are right."""
    body = server.contents["/two/two.tar.gz"] = tar({"a.bin": b"first", "b.bin": b"second"})
    right = hashlib.sha256(body).hexdigest()
    with pytest.raises(OSError, match=f"its checksum is sha256:{right} and not 0000"):
        cached("two", (Archive(TWO.url, TWO.files, "0" * 64),))
    assert contents(tmp_path) == {}
    cached("two", (Archive(TWO.url, TWO.files, right),))
    assert contents(tmp_path) == {"cache/two/a.bin": b"first", "cache/two/b.bin": b"second"}


@pytest.mark.parametrize(("members", "word"), [
    ({"a.bin": b"first"}, "b.bin does not have"), ({"a.bin": b"first", "b.bin": b"sixth!"}, "b.bin does not have"),
    ({"a.bin": b"first", "bomb": bytes(1 << 20), "b.bin": b"second"}, "bomb of 1048576 bytes"),
])  # fmt: skip
def test_archives_of_other_files(members: dict[str, bytes], word: str, server: Server, tmp_path: Path) -> None:
    """A file that is not in it, is another one, or is far larger than any can be: refused, and none is kept."""
    server.contents["/two/two.tar.gz"] = tar(members)
    with pytest.raises(OSError, match=word):
        cached("two", (TWO,))
    assert contents(tmp_path) == {}


def test_links_in_an_archive_are_not_followed(server: Server, tmp_path: Path) -> None:
    """A symbolic link in place of a file is no file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        link = tarfile.TarInfo("a.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    server.contents["/two/two.tar.gz"] = file.getvalue()
    with pytest.raises(OSError, match=r"a\.bin does not have"):
        cached("two", (TWO,))
    assert contents(tmp_path) == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_can_not_be_written(server: Server, tmp_path: Path) -> None:
    """A read-only folder: an OSError that names it."""
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cache"):
        cached("toy", (TOY,))


def test_a_file_in_place_of_the_cache(server: Server, tmp_path: Path) -> None:
    """An OSError that names it."""
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(OSError, match="cache"):
        cached("toy", (TOY,))


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NANOGEN_CACHE, or nanogen in the user's cache folder, which is XDG_CACHE_HOME's on Linux."""
    monkeypatch.setenv("NANOGEN_CACHE", str(tmp_path / "mine"))
    assert download.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("NANOGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert download.cache_folder() == tmp_path / "nanogen"


def test_named_sets_come_from_the_cache(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """MNIST's and CIFAR-10's files are fetched by their names when they are first asked for, then read; here each with
    checksums of the test's own."""
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4))
    files = {
        "train-images-idx3-ubyte": header + bytes(range(24)),
        "train-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 1]),
        "t10k-images-idx3-ubyte": header + bytes(range(24, 48)),
        "t10k-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 4]),
    }
    batches = {file.name: bytes([i]) + bytes(3072) for i, file in enumerate(SOURCES["cifar10"][0].files)}
    own = {
        "mnist": tuple(Archive(a.url, (file_of(a.files[0].name, files[a.files[0].name]),)) for a in SOURCES["mnist"]),
        "cifar10": (Archive(SOURCES["cifar10"][0].url, tuple(file_of(*item) for item in batches.items())),),
    }
    monkeypatch.setattr("nanogen.data.sources.SOURCES", own)
    server.contents = {f"/mnist/{name}.gz": gzip.compress(body) for name, body in files.items()}
    server.contents["/cifar10/cifar-10-binary.tar.gz"] = tar(
        {f"cifar-10-batches-bin/{n}": b for n, b in batches.items()}
    )
    for _ in range(2):
        mnist, cifar = data.load("mnist", "test"), data.load("cifar10")
        assert mnist.images.reshape(-1).tolist() == list(range(24, 48))
        assert (mnist.labels.tolist(), cifar.labels.tolist()) == ([3, 4], [0, 1, 2, 3, 4])  # type: ignore[union-attr]
        assert len(server.asked) == 5


def test_sources_are_as_the_sets_are() -> None:
    """Sizes follow from what the sets are: 60,000 and 10,000 images of 28×28 bytes with headers of 16 and 8; batches of
    10,000 records.  Each checksum is as long as its algorithm's."""
    for name in ("mnist", "fashion-mnist"):
        sizes = {archive.files[0].name: archive.files[0].size for archive in SOURCES[name]}
        assert sizes == {
            "train-images-idx3-ubyte": 16 + 60000 * 784, "train-labels-idx1-ubyte": 8 + 60000,
            "t10k-images-idx3-ubyte": 16 + 10000 * 784, "t10k-labels-idx1-ubyte": 8 + 10000,
        }  # fmt: skip
        assert [archive.name for archive in SOURCES[name]] == [f"{file}.gz" for file in sizes]
    assert {file.size for file in SOURCES["cifar10"][0].files} == {10000 * 3073}
    checksums = [file.checksum for archives in SOURCES.values() for archive in archives for file in archive.files]
    assert len(set(checksums)) == len(checksums) == 14
    checksums += [f"sha256:{archive.sha256}" for archive in SOURCES["cifar10"]]
    for checksum in checksums:
        algorithm, _, digits = checksum.partition(":")
        assert len(bytes.fromhex(digits)) == hashlib.new(algorithm).digest_size


DEBIANS = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist


@pytest.mark.skipif(not DEBIANS.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_another_archive_of_the_same_images(server: Server) -> None:
    """Debian's archives of Fashion-MNIST are other bytes than upstream's and hold the same images: they will do."""
    server.contents = {f"/fashion-mnist/{path.name}": path.read_bytes() for path in DEBIANS.iterdir()}
    train, test = data.load("fashion-mnist"), data.load("fashion-mnist", "test")
    assert (len(train), len(test), train.shape) == (60000, 10000, (1, 28, 28))
    assert np.bincount(train.labels).tolist() == [6000] * 10  # type: ignore[arg-type]


def test_the_library_needs_none_of_it() -> None:
    """`import nanogen` and the digits need NumPy alone: neither what downloads nor what reads pictures is imported."""
    code = "import sys, nanogen as ng; ng.data.load('digits'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"requests", "PIL", "platformdirs", "tqdm", "safetensors", "matplotlib"}


def test_a_command_that_downloads_nothing() -> None:
    """It does not import what downloads, which takes a tenth of a second."""
    code = "import sys, nanogen.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "requests" not in done.stdout.split()
