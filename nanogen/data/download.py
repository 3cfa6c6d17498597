"""Downloads data sets, once, into the user's cache folder.

Checksums are of the uncompressed files: mirrors compress them again, so their archives differ.  That, and resuming a
broken transfer, is why this uses `requests` and not a downloader that checks archives only.  Where the files' published
checksums are MD5, that of the archive is checked too.
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

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from nanogen.data.files import CHUNK, cache_folder

ATTEMPTS = 4
PAUSE = 1.0  # seconds before the second attempt; doubled before each later one
TIMEOUT = 20.0  # seconds without any data
LIMIT = 3600.0  # seconds for a whole archive
FAILURES = (requests.RequestException, HTTPError)  # of a transfer
SLACK = 1 << 20  # bytes by which an archive may be larger than its contents


@dataclass(frozen=True)
class File:
    """A file of a data set: its uncompressed size in bytes, and its checksum as `algorithm:hexadecimal`."""

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
    """A download: one gzipped file, or a gzipped tar of several files; perhaps with a SHA-256 of its own."""

    url: str
    files: tuple[File, ...]
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def cached(name: str, archives: tuple[Archive, ...]) -> Path:
    """The folder with all files of a data set; those that are missing or damaged are downloaded first.

    They come from the archives' URLs, or from NANOGEN_MIRROR/NAME/FILE if that variable is set.

    Raises:
        OSError: after several attempts no connection, or wrong contents; a folder that can't be written to.
    """
    folder = cache_folder() / name
    mirror = os.environ.get("NANOGEN_MIRROR")
    for archive in archives:
        if not all(file.is_in(folder) for file in archive.files):
            folder.mkdir(parents=True, exist_ok=True)
            url = f"{mirror.rstrip('/')}/{name}/{archive.name}" if mirror else archive.url
            try:
                download(url, archive.files, folder, archive.sha256)
            except (*FAILURES, ValueError) as error:
                raise ConnectionError(
                    f"{name} can't be downloaded from {url}: {error}.  Its files may also be put into a folder"
                    " (--data-dir DIR), or a mirror be named (NANOGEN_MIRROR)"
                ) from error
    return folder


def download(url: str, files: tuple[File, ...], folder: Path, sha256: str = "") -> None:
    """Download the archive at `url` and put its files into a folder, each completely or not at all.

    A broken transfer is resumed, if the server supports it; wrong contents are discarded.

    Raises:
        requests.RequestException, HTTPError, ValueError: the error of the last attempt."""
    most, deadline = sum(file.size for file in files) + SLACK, time.monotonic() + LIMIT
    with tempfile.TemporaryFile(dir=folder) as archive:  # has no name, so nothing is left behind
        for attempt in range(1, ATTEMPTS + 1):
            try:
                transfer(url, archive, most, deadline)
                archive.seek(0)
                if sha256 and (found := hashlib.file_digest(archive, "sha256").hexdigest()) != sha256:
                    raise ValueError(f"its checksum is sha256:{found} and not {sha256}")
                for name, contents in unpacked(archive, files):
                    write_whole(folder / name, contents)
                return
            except (*FAILURES, ValueError) as error:
                if not isinstance(error, FAILURES):
                    archive.truncate(0)
                if attempt == ATTEMPTS or time.monotonic() > deadline or is_final(error):
                    raise
            time.sleep(PAUSE * 2 ** (attempt - 1))


def is_final(error: Exception) -> bool:
    """Whether another attempt is useless because the server refuses the request: 404, 403 …"""
    response = getattr(error, "response", None)
    return response is not None and 400 <= response.status_code < 500 and response.status_code not in (408, 416, 429)


def transfer(url: str, archive: BinaryIO, most: int, deadline: float) -> None:
    """Append to the archive the bytes at `url` that it does not have yet.

    Raises:
        requests.RequestException, HTTPError: a failed transfer, or one that has not ended at the deadline.
        ValueError: more than `most` bytes, or an invalid URL."""
    start = archive.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # the archive is complete, whatever length was announced
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = archive.seek(0)
            archive.truncate()
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        with tqdm(
            desc=url.rpartition("/")[2], total=total, initial=start, unit="B", unit_scale=True, disable=None
        ) as bar:
            while chunk := response.raw.read1(CHUNK // 16):  # what is there: a slow server is noticed in time
                if archive.write(chunk) and archive.tell() > most:
                    raise ValueError(f"it has more than the expected {most} bytes")
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"it takes more than {LIMIT:g} seconds")
                bar.update(len(chunk))


def unpacked(archive: BinaryIO, files: tuple[File, ...]) -> Iterator[tuple[str, bytes]]:
    """The name and contents of each file, after its checksum was verified.

    Raises:
        ValueError: a broken archive, a file that is not in it, or a wrong checksum."""
    archive.seek(0)
    try:
        contents = dict(tar_members(archive, files) if len(files) > 1 else [gunzipped(archive, files[0])])
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"it is broken: {error}") from error
    for file in files:
        if not file.checked(contents.get(file.name, b"")):
            raise ValueError(f"its {file.name} does not have the checksum {file.checksum}")
    yield from contents.items()


def gunzipped(archive: BinaryIO, file: File) -> tuple[str, bytes]:
    """The name and contents of the only file, which some servers send uncompressed."""
    zipped = archive.read(2) == b"\x1f\x8b"
    archive.seek(0)
    return file.name, (gzip.GzipFile(fileobj=archive) if zipped else archive).read(file.size + 1)


def tar_members(archive: BinaryIO, files: tuple[File, ...]) -> Iterator[tuple[str, bytes]]:
    """The wanted files in a tar, found by the last part of their paths; the folders in these paths are ignored."""
    sizes = {file.name: file.size for file in files}
    with tarfile.open(fileobj=archive, mode="r:gz") as tar:
        for member in tar:
            if member.size > max(sizes.values()):
                raise ValueError(f"it holds a {member.name} of {member.size} bytes")
            name = member.name.rpartition("/")[2]
            if member.isreg() and member.size == sizes.get(name) and (stream := tar.extractfile(member)):
                yield name, stream.read()


def write_whole(path: Path, contents: bytes) -> None:
    """Write a temporary file in the same folder, then rename it: a reader finds the whole file or none."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
