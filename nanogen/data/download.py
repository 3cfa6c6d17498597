"""Data sets from the web into the user's cache folder, once.

What is checked is the uncompressed bytes: mirrors compress anew, so archives of the same images differ.  (That, and
going on after a broken connection, is why this is `requests` and not a downloader that knows archives alone.)
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import platformdirs
import requests
from tqdm import tqdm

from nanogen.data.files import CHUNK

ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt; twice as long before each later one
TIMEOUT = 20.0  # seconds without a byte
SLACK = 1 << 20  # bytes that an archive may have more than its contents


@dataclass(frozen=True)
class File:
    """A file of a data set: how many bytes it has, uncompressed, and their checksum, as `algorithm:hexadecimal`."""

    name: str
    size: int
    checksum: str

    def is_in(self, folder: Path) -> bool:
        path = folder / self.name
        return path.is_file() and path.stat().st_size == self.size and self.checked(path.read_bytes())

    def checked(self, contents: bytes | bytearray) -> bool:
        algorithm, _, expected = self.checksum.partition(":")
        return hashlib.new(algorithm, contents, usedforsecurity=False).hexdigest() == expected


@dataclass(frozen=True)
class Archive:
    """What is downloaded: a gzipped file, or a gzipped tar with several."""

    url: str
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def cache_folder() -> Path:
    """NANOGEN_CACHE, or the user's cache folder (XDG_CACHE_HOME on Linux)."""
    return Path(os.environ.get("NANOGEN_CACHE") or platformdirs.user_cache_path("nanogen"))


def cached(name: str, archives: tuple[Archive, ...]) -> Path:
    """The folder with all files of a data set, which are downloaded unless they are there, whole.

    From the archives' own addresses, or from NANOGEN_MIRROR/NAME/FILE.

    Raises:
        OSError: no connection, or bytes that are not the data set's, after several attempts; no place to write.
    """
    folder = cache_folder() / name
    mirror = os.environ.get("NANOGEN_MIRROR")
    for archive in archives:
        if not all(file.is_in(folder) for file in archive.files):
            folder.mkdir(parents=True, exist_ok=True)
            url = f"{mirror.rstrip('/')}/{name}/{archive.name}" if mirror else archive.url
            try:
                download(url, archive.files, folder)
            except (requests.RequestException, ValueError) as error:
                raise ConnectionError(
                    f"{name} can't be downloaded from {url}: {error}.  Its files may also be put into a folder"
                    " (--data-dir DIR), or a mirror be named (NANOGEN_MIRROR)"
                ) from error
    return folder


def download(url: str, files: tuple[File, ...], folder: Path) -> None:
    """Put the files of the archive at `url` into a folder, each whole or not at all.

    A broken transfer goes on where it was, if the server can; wrong bytes are thrown away.

    Raises:
        requests.RequestException, ValueError: what was wrong at the last attempt."""
    most = sum(file.size for file in files) + SLACK
    with tempfile.TemporaryFile(dir=folder) as archive:  # has no name, so none is left behind
        for attempt in range(1, ATTEMPTS + 1):
            try:
                transfer(url, archive, most)
                for name, contents in unpacked(archive, files):
                    write_whole(folder / name, contents)
                return
            except (requests.RequestException, ValueError) as error:
                if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
                    archive.truncate(0)
                if attempt == ATTEMPTS or is_final(error):
                    raise
            time.sleep(PAUSE * 2 ** (attempt - 1))


def is_final(error: Exception) -> bool:
    """The server has understood, and will say the same again: 404, 403 …"""
    response = getattr(error, "response", None)
    return response is not None and 400 <= response.status_code < 500 and response.status_code not in (408, 416, 429)


def transfer(url: str, archive: BinaryIO, most: int) -> None:
    """Append to the archive what it lacks of the bytes at `url`.

    Raises:
        requests.RequestException: a transfer that did not end well.
        ValueError: more than `most` bytes, or an address that is none."""
    start = archive.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # there is no more, whatever length was announced
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = archive.seek(0)
            archive.truncate()
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with tqdm(
            desc=url.rpartition("/")[2], total=total, initial=start, unit="B", unit_scale=True, disable=None
        ) as bar:
            for chunk in response.iter_content(CHUNK // 16):
                if archive.write(chunk) and archive.tell() > most:
                    raise ValueError(f"it has more than the {most} bytes that it can have")
                bar.update(len(chunk))


def unpacked(archive: BinaryIO, files: tuple[File, ...]) -> Iterator[tuple[str, bytes]]:
    """The files' names and contents, checked.

    Raises:
        ValueError: a broken archive, a file that is not in it, or other bytes than expected."""
    archive.seek(0)
    try:
        contents = dict(tar_members(archive, files) if len(files) > 1 else [gunzipped(archive, files[0])])
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"it is broken: {error}") from error
    for file in files:
        if not file.checked(contents.get(file.name, b"")):
            raise ValueError(f"its {file.name} is not the known one ({file.checksum})")
    yield from contents.items()


def gunzipped(archive: BinaryIO, file: File) -> tuple[str, bytes]:
    """The one file, which some servers send uncompressed."""
    zipped = archive.read(2) == b"\x1f\x8b"
    archive.seek(0)
    return file.name, (gzip.GzipFile(fileobj=archive) if zipped else archive).read(file.size + 1)


def tar_members(archive: BinaryIO, files: tuple[File, ...]) -> Iterator[tuple[str, bytes]]:
    """The wanted files in a tar, by their last names: nothing is written where the archive says."""
    sizes = {file.name: file.size for file in files}
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:
        for member in tar:
            if member.size > max(sizes.values()):
                raise ValueError(f"it holds a {member.name} of {member.size} bytes")
            name = member.name.rpartition("/")[2]
            if member.isreg() and member.size == sizes.get(name) and (stream := tar.extractfile(member)):
                yield name, stream.read()


def write_whole(path: Path, contents: bytes) -> None:
    """Write beside the place, then move there: a reader finds all of it or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
