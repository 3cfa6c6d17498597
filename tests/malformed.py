"""Files that are not what they say: valid ones with changes, known traps, and other things under a file's name.

Every choice of a change is made by the `random.Random` that is passed in: hypothesis's, in the tests, which so looks
for the change that does harm, and for the smallest one.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import os
import pickle
import re
import resource
import signal
import struct
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import FrameType
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from nanogen import cli
from nanogen.data import download, sources
from nanogen.data.download import Archive, File
from nanogen.training.run import Run

SECONDS = 2.0  # of CPU time that one input may take
HANGS = 120.0  # seconds by the clock after which it is taken to wait for ever; machines may be busy
PICTURES = 700 << 20  # bytes that the largest picture which is read may take, as colours, cut out and resized
TINY = ["--set", "latent=2", "channels=2", "stages=1", "--steps", "1", "--threads", "1"]
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 4, 5)).astype(np.uint8)
LABELS = RNG.integers(0, 10, 30).astype(np.uint8)


# Valid files


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape) + array.tobytes()


def saved(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


def picture(array: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def records(n: int, seed: int) -> bytes:
    found = np.random.default_rng(seed).integers(0, 256, (n, 3073)).astype(np.uint8)
    found[:, 0] %= 10
    return found.tobytes()


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


IDX = {
    "train-images-idx3-ubyte": idx(GREY), "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(GREY[:5]), "t10k-labels-idx1-ubyte": idx(LABELS[:5]),
}  # fmt: skip
CIFAR = {**{f"data_batch_{i}.bin": records(2, i) for i in range(1, 6)}, "test_batch.bin": records(2, 6)}
CONFIG = b"""model = "vae"
data = "digits"
steps = 1
lr = 1e-3
betas = [0.9, 0.999]
seed = 3
latent = 2
channels = 2
stages = 1
decoder = "categorical"
"""


class Kind(NamedTuple):
    """Attributes:
    files: valid ones, of which one is changed.
    command: what is called in the folder that they are in.
    beside: files that stay as they are.
    checked: a changed file must be refused, whatever was changed: there is a checksum.
    yields: what must be there, if the command was carried out.
    sealed: whether what is changed is below compression and checksums, which then are true; either by turns for None.
    memory: bytes of address space that one input may take.
    """

    files: dict[str, bytes]
    command: list[str]
    beside: dict[str, bytes] | None = None
    checked: bool = False
    yields: dict[str, bytes] | None = None
    sealed: bool | None = None
    memory: int = 150 << 20


NAMES = ("idx", "gzip", "cifar", "npy", "npz", "compressed npz", "pictures", "resized pictures", "downloaded gzip",
         "downloaded tar", "toml", "settings", "checkpoint", "sealed checkpoint")  # fmt: skip


def a_run(folder: Path) -> dict[str, bytes]:
    """The files of a short run."""
    command = ["train", "vae", "--data", "digits", "--batch", "8", "--out", str(folder / "run"), *TINY]
    with quiet(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "draw_pictures", lambda *_: [])
        assert cli.main(command) == 0
    run = Run(folder / "run")
    return {str(path.relative_to(folder)): path.read_bytes() for path in (run.settings_file, *run.checkpoint_files())}


def kinds(folder: Path) -> dict[str, Kind]:
    """What is changed, by name.  A run is trained in the folder."""
    train = ["train", "vae", "--out", "out", *TINY, "--data"]
    formats = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "tif": "TIFF"}
    pictures = {
        f"set/{i:02}.{ending}": picture(GREY[i], name) for i, (ending, name) in enumerate([*formats.items()] * 2)
    }
    run = a_run(folder)
    settings = {name: body for name, body in run.items() if name.endswith(".json")}
    checkpoints = {name: body for name, body in run.items() if name not in settings}
    sample = ["sample", "run", "-n", "2", "--out", "x.npz"]
    arrays = {"images": GREY, "labels": LABELS}
    return {
        "idx": Kind(IDX, [*train, "mnist", "--data-dir", "."]),
        "gzip": Kind({f"{name}.gz": gzip.compress(body) for name, body in IDX.items()},
                     [*train, "mnist", "--data-dir", "."]),
        "cifar": Kind(CIFAR, [*train, "cifar10", "--data-dir", "."]),
        "npy": Kind({"x.npy": saved(np.save, GREY)}, [*train, "x.npy"]),
        "npz": Kind({"x.npz": saved(np.savez, **arrays)}, [*train, "x.npz"]),
        "compressed npz": Kind({"x.npz": saved(np.savez_compressed, **arrays)}, [*train, "x.npz"]),
        "pictures": Kind(pictures, [*train, "set"]),
        "resized pictures": Kind(pictures, [*train, "set", "--size", "4"], memory=PICTURES),
        "downloaded gzip": Kind({f"web/mnist/{name}.gz": gzip.compress(body) for name, body in IDX.items()},
                                [*train, "mnist"], yields={f"cache/mnist/{name}": body for name, body in IDX.items()}),
        "downloaded tar": Kind({"web/cifar10/cifar-10-binary.tar.gz": tar(CIFAR)}, [*train, "cifar10"],
                               yields={f"cache/cifar10/{name}": body for name, body in CIFAR.items()}),
        "toml": Kind({"x.toml": CONFIG}, ["train", "--config", "x.toml", "--out", "out", "--batch", "8"]),
        "settings": Kind(settings, sample, beside=checkpoints),
        "checkpoint": Kind(checkpoints, sample, beside=settings, checked=True, sealed=False),
        "sealed checkpoint": Kind(checkpoints, sample, beside=settings, sealed=True),
    }  # fmt: skip


# Changes

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1]
NUMBERS = [
    b"0",
    b"-1",
    b"4294967296",
    b"99999999999999999999",
    b"1e999",
    b"nan",
    b"2147483647",
    b"''",
    b"[[[[",
    b"None",
]


def flipped(body: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        body[random.randrange(len(body))] ^= 1 << random.randrange(8)
    return body


def cut(body: bytearray, random: Random) -> bytearray:
    return body[: random.choice([random.randrange(len(body)), random.randrange(min(len(body), 32))])]


def overwritten(body: bytearray, random: Random) -> bytearray:
    start = random.randrange(len(body))
    n = min(random.choice([1, 4, 16, 200]), len(body) - start)
    body[start : start + n] = random.choice([bytes(n), b"\xff" * n, random.randbytes(n)])
    return body


def spliced(body: bytearray, random: Random) -> bytearray:
    """A piece taken out, doubled, or put elsewhere."""
    a, b = sorted(random.randrange(len(body) + 1) for _ in range(2))
    at = random.randrange(len(body) + 1)
    return random.choice([body[:a] + body[b:], body[:b] + body[a:], body[:at] + body[a:b] + body[at:]])


def lying(body: bytearray, random: Random) -> bytearray:
    """Some number near the start, or near the end where zip has its directory, becomes an extreme one."""
    size, order = random.choice([1, 2, 4, 8]), random.choice(["little", "big"])
    near = random.randrange(min(len(body), 96))
    at = near if random.random() < 0.7 else max(0, len(body) - 1 - near)
    body[at : at + size] = (random.choice(EXTREMES) % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]
    return body


def other_numbers(body: bytearray, random: Random) -> bytearray:
    """A number written in digits becomes another, or none; where there is none, bits are flipped."""
    found = list(re.finditer(rb"\d+", bytes(body[:4096])))
    if not found:
        return flipped(body, random)
    match = random.choice(found)
    return body[: match.start()] + random.choice(NUMBERS) + body[match.end() :]


def longer(body: bytearray, random: Random) -> bytearray:
    return body + random.choice([b"\0", random.randbytes(100), bytes(5000), body])


CHANGES = [flipped, flipped, cut, overwritten, spliced, lying, lying, other_numbers, longer]


def changed(body: bytes, random: Random) -> bytes:
    """One change, or several one after the other."""
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        body = bytes(random.choice(CHANGES)(bytearray(body or b"\0"), random))
    return body


def changed_inside(name: str, body: bytes, random: Random) -> bytes:
    """Changed below the compression and its checksums, which then are true; other formats as they stand."""
    if name.endswith(".tar.gz"):
        return gzip.compress(changed(gzip.decompress(body), random), 1)
    if name.endswith(".gz"):
        return gzip.compress(changed(gzip.decompress(body), random))
    if name.endswith(".npz"):
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for member in old.namelist():
                inside = changed(old.read(member), random) if random.random() < 0.6 else old.read(member)
                elsewhere = random.choice([member] * 6 + [f"../../{member}", f"/tmp/{member}", member + "a" * 60000])
                new.writestr(elsewhere, inside)
        return file.getvalue()
    if name.endswith(".png"):
        return png(
            *[(kind, changed(inside, random) if random.random() < 0.4 else inside) for kind, inside in chunks(body)]
        )
    if name.endswith(".safetensors"):
        return sealed(changed(body, random))
    return changed(body, random)


def chunks(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        yield body[at + 4 : at + 8], body[at + 8 : at + 8 + length]
        at += 12 + length


def png(*parts: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(inside)) + kind + inside + struct.pack(">I", zlib.crc32(kind + inside))
        for kind, inside in parts
    )


def tiff(tags: list[tuple[int, int, int]], after: int = 0) -> bytes:
    """A TIFF of one directory: tags of a type and one number each; where it says that the next directory lies."""
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, number) for tag, kind, number in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", after)


def sealed(body: bytes) -> bytes:
    """A checkpoint whose checksum is that of its altered bytes."""
    found = re.search(rb"[0-9a-f]{64}", body)
    if found is None:
        return body
    blank = body.replace(found[0], b"0" * 64, 1)
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


# Traps


class Trap:
    """What unpickling this would do."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("sprung",)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 65536) + text + body


def ending(name: str) -> str:
    """What a file's format goes by."""
    return "-ubyte" if name.endswith("-ubyte") else ".tar.gz" if name.endswith(".tar.gz") else Path(name).suffix


@functools.cache
def traps(kind: str) -> list[bytes]:
    """What has broken readers of such files before: bombs, pickles, nesting, huge sizes in small files."""
    zeros = bytes(200 << 20)
    pickled = [pickle.dumps(Trap()), saved(np.save, np.array([Trap()], object)), saved(np.savez, images=[Trap()])]
    if kind == "-ubyte":
        return [bytes([0, 0, 8, 3]) + b"\xff" * 12, bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 20, 1 << 10, 1)]
    if kind == ".gz":
        header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 4, 5)
        return [gzip.compress(header + zeros, 1), gzip.compress(b"") * 5000]
    if kind == ".tar.gz":
        huge = tarfile.TarInfo("data_batch_1.bin")
        huge.size = 1 << 60
        return [gzip.compress(zeros, 1), tar({"data_batch_1.bin": zeros}), gzip.compress(huge.tobuf(), 1)]
    if kind == ".bin":
        return [b"\xff" * 3073 * 1000]
    if kind == ".npy":
        shapes = ["1000000000000, 4, 5", "4, 5, -1", "True, 4, 5", "99999999, 4, 5", "(" * 9000, "1," * 30000]
        described = [f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}" for shape in shapes]
        described.append("{'descr': [('a', '|u1', (1000000000,))], 'fortran_order': False, 'shape': (1,), }")
        return [*pickled, *map(npy, described)]
    if kind == ".npz":
        bomb = io.BytesIO()
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(
                "images.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9, 4, 5), }") + zeros
            )
        return [*pickled, bomb.getvalue(), bomb.getvalue().replace(struct.pack("<I", len(zeros)), b"\xff" * 4)]
    if kind in (".png", ".jpg", ".gif", ".tif"):
        bomb, data, end = zlib.compress(zeros, 1), zlib.compress(zeros[: 1 << 23]), (b"IEND", b"")

        def with_header(width: int, height: int, depth: int, color: int, *parts: tuple[bytes, bytes]) -> bytes:
            header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
            return png((b"IHDR", header), *parts, (b"IDAT", data), end)

        return [
            with_header(60000, 60000, 8, 2),
            with_header(8000, 8000, 1, 0),
            with_header(5, 4, 8, 2, (b"zTXt", b"a\0\0" + bomb)),
            with_header(5, 4, 8, 2, (b"iCCP", b"a\0\0" + bomb)),
            with_header(0, 4, 8, 2),
            b"%!PS-Adobe\n%%BoundingBox: 0 0 9 9\n",
            b"GIF89a\xff\xff\xff\xff",
            tiff([(256, 4, 60000), (257, 4, 60000)]),
            tiff([(256, 4, 5), (257, 4, 4), (273, 4, 8), (279, 4, 0xFFFFFFFF)]),
            tiff([(256, 4, 5), (257, 4, 4), (258, 3, 8), (262, 3, 1), (273, 4, 8), (279, 4, 20)], after=8),
            tiff([(256, 4, 5)] * 5000),
            b"II*\0" + struct.pack("<IHHHII", 8, 1, 256, 4, 0xFFFFFFFF, 8),
        ]
    if kind == ".toml":
        return [b"a = " + b"[" * 100000, b"a" + b".a" * 50000 + b" = 1", b"steps = " + b"9" * 5000, b"\xff\xfe"]
    if kind == ".json":
        return [b"[" * 100000, b'{"a":' * 50000, b'{"steps": ' + b"9" * 5000 + b"}", b"null", b"\xff\xfe"]
    lengths = [struct.pack("<Q", 1 << 62), struct.pack("<Q", 99_999_999) + b"{"]
    return [*pickled, *lengths, struct.pack("<Q", 100000) + b"[" * 100000]


IN_PLACE: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


# Trials


@contextlib.contextmanager
def quiet() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        yield out, err


class TooSlow(BaseException):
    pass


@contextlib.contextmanager
def bounded(memory: int) -> Iterator[None]:
    """So much CPU time, and so much more address space than there is now."""

    def stop(*_: int | FrameType | None) -> None:
        raise TooSlow

    signal.signal(signal.SIGALRM, stop)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (size + memory, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGPROF, handler)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@contextlib.contextmanager
def no_training(web: Path) -> Iterator[None]:
    """Inputs are read and judged as ever, then nothing is trained; downloads come from a folder, in one attempt."""

    def transfer(url: str, archive: io.BufferedRandom, most: int, deadline: float) -> None:
        archive.write((web / url.split("/", 3)[3]).read_bytes())
        if archive.tell() > most:
            raise ValueError("too long")

    file_of = lambda name, body: File(name, len(body), f"sha256:{hashlib.sha256(body).hexdigest()}")
    own = {
        "mnist": tuple(Archive(f"http://x/{name}.gz", (file_of(name, body),)) for name, body in IDX.items()),
        "cifar10": (Archive("http://x/cifar-10-binary.tar.gz", tuple(file_of(*item) for item in CIFAR.items())),),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train", "draw_pictures"):
            patch.setattr(cli, name, lambda *_: [])
        patch.setattr(download, "transfer", transfer)
        patch.setattr(download, "ATTEMPTS", 1)
        patch.setattr(sources, "SOURCES", own)
        patch.setenv("NANOGEN_MIRROR", "http://x")
        patch.setenv("NANOGEN_CACHE", "cache")
        yield


def write(files: dict[str, bytes]) -> None:
    for path, body in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(body)


def change_one(kind: Kind, random: Random) -> bytes:
    """Change one of the files where we are: what is in it now."""
    path = random.choice(sorted(kind.files))
    sealed = random.random() < 0.5 if kind.sealed is None else kind.sealed
    change = changed_inside if sealed else lambda _, *given: changed(*given)
    body = change(path, kind.files[path], random)
    Path(path).write_bytes(body)
    return body


def put_in_place(path: str, put: Callable[[Path], object]) -> None:
    """Something else than there was."""
    Path(path).unlink()
    put(Path(path))


def unchanged(files: dict[str, bytes]) -> bool:
    return all(Path(path).is_file() and Path(path).read_bytes() == body for path, body in files.items())


def trial(kind: Kind, change: Callable[[], object] | None = None, spare_memory: bool = True) -> str | None:
    """Call the command line in a folder of its own, after the change: what was wrong with how it took it, or None.

    With spare_memory, to be told that there is not enough is wrong."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            write({**(kind.beside or {}), **kind.files})
            if change:
                change()
            valid = unchanged(kind.files)
            start = time.process_time()
            with quiet() as (_, err), no_training(Path("web")):
                try:
                    with bounded(kind.memory):
                        status = cli.main(kind.command)
                except SystemExit as exit:
                    status = exit.code
                except TooSlow:
                    return f"took more than {2 * SECONDS} s, or waits for ever"
                except Exception:
                    return traceback.format_exc()
            seconds, said = time.process_time() - start, err.getvalue()
            refused = status == 2 and said.startswith("nanogen: error: ") and said.count("\n") == 1
            taken = status == 0 and (valid or not kind.checked) and unchanged(kind.yields or {})
            if not (taken if change is None else taken or refused):
                return f"status {status}, {said[-500:]!r}"
            if seconds > SECONDS:
                return f"took {seconds:.1f} s: {said[-500:]!r}"
            if refused and spare_memory and ("out of memory" in said or "Unable to allocate" in said):
                return f"took too much memory: {said[-500:]!r}"
            if Path("sprung").exists():
                return "what was pickled has run"
            if refused and Path("out").exists():
                return f"was refused, and left a folder behind: {said[-500:]!r}"
        finally:
            os.chdir(before)
    return None


def all_kinds() -> dict[str, Kind]:
    with tempfile.TemporaryDirectory() as folder:
        return kinds(Path(folder))
