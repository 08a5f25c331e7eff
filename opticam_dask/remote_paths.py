"""Files and directories that fsspec reaches by a URL, such as ``s3://bucket/run``.

What differs on an object store is here and nowhere else: an object is put whole and at once (readers see the old one or
the new one), there are no directories to make, and nothing can be renamed.

Credentials and endpoints come the fsspec way, from its own configuration and environment (``FSSPEC_S3_ENDPOINT_URL``,
``~/.config/fsspec``, ``AWS_*``), never through this package.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, NamedTuple

PathLike = str | os.PathLike[str]

#: Listings are never taken from a cache: other processes write meanwhile.
_OPTIONS: dict[str, Any] = {"use_listings_cache": False}

#: One request a read: with more, the size of an object is asked for before it is read. Objects here are small.
_OF_S3 = {"max_concurrency": 1}

#: What pip installs for a kind of URL.
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}

#: Where file systems keep the time of the last change.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


class LocationError(ValueError):
    """A place cannot be used as asked; the message says why and what to do."""


class Facts(NamedTuple):
    """Facts about a file, by which a changed file of the same name is noticed.

    Attributes
    ----------
    size : int
        Size in bytes.
    mtime : float
        Time of the last change, seconds since 1970; 0 where it is not known.
    ctime : float
        Time of the last change of content, name or permissions, which no program can set; NaN of remote files.
    checksum : int
        Checksum of some of its bytes; 0 where it was not asked for.
    """

    size: int
    mtime: float
    ctime: float = math.nan
    checksum: int = 0


def storage_options(place: PathLike | RemotePath) -> dict[str, Any]:
    """Options for libraries that open a remote place themselves, beside fsspec's configuration."""
    return {**_OPTIONS, **(_OF_S3 if str(place).startswith(("s3://", "s3a://")) else {})}


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or directory that fsspec reaches; the part of ``pathlib.Path`` that is used for stores and products.

    Attributes
    ----------
    url : str
        Without a slash at its end.
    kind : str
        ``file`` or ``directory`` where a listing has just said so; asked for otherwise.
    """

    url: str
    kind: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        words = [word for word in str(name).split("/") if word]
        return RemotePath("/".join([self.url, *words])) if words else self

    def joinpath(self, *names: str) -> RemotePath:
        """The place of this name below."""
        return self / "/".join(names)

    @property
    def name(self) -> str:
        """Last word of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """Name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The directory it is in; a bucket is its own."""
        above = self.url.rpartition("/")[0]
        return self if above.endswith("/") else RemotePath(above)

    def with_name(self, name: str) -> RemotePath:
        """Another name in the same directory."""
        return self.parent / name

    def relative_to(self, other: object) -> PurePosixPath:
        """Path from a directory above."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(str(other)))

    def resolve(self) -> RemotePath:
        """The same place: there are no links."""
        return self

    def exists(self) -> bool:
        """Whether there is such a file or directory."""
        return self.kind != "" or self._kind() != ""

    def is_file(self) -> bool:
        """Whether it is a file."""
        return (self.kind or self._kind()) == "file"

    def is_dir(self) -> bool:
        """Whether anything is below it."""
        return (self.kind or self._kind()) == "directory"

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Do nothing but look whether the place can be reached: directories come with the files in them.

        Raises
        ------
        OSError
            When it cannot, or there is no such bucket.
        """
        fs, path = file_system_of(self.url)
        with as_os_errors(self.url):
            bucket = path.lstrip("/").partition("/")[0]
            if path.partition("/")[0] == bucket and not fs.exists(bucket):
                raise FileNotFoundError(errno.ENOENT, f"there is no bucket {bucket}", self.url)

    def iterdir(self) -> Iterator[RemotePath]:
        """Entries of the directory; none where there is no such directory."""
        fs, path = file_system_of(self.url)
        with as_os_errors(self.url):
            try:
                found = fs.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in found:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if entry["name"].strip("/") != path.strip("/"):
                yield RemotePath(f"{self.url}/{name}", entry["type"])

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Paths that match a pattern; as in ``Path.glob`` a wildcard does not match a slash."""
        first, _, rest = pattern.partition("/")
        for entry in self.iterdir():
            if not fnmatch.fnmatchcase(entry.name, first) or (entry.name.startswith(".") and not first.startswith(".")):
                continue
            if not rest:
                yield entry
            elif entry.is_dir():
                yield from entry.glob(rest)

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Files below whose name matches."""
        for relative in names_below(self.url):
            if fnmatch.fnmatchcase(relative.rpartition("/")[2], pattern):
                yield RemotePath(f"{self.url}/{relative}", "file")

    def read_bytes(self) -> bytes:
        """Content of the file."""
        fs, path = file_system_of(self.url)
        with as_os_errors(self.url):
            return bytes(fs.cat_file(path))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Content of the file as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Put the file, whole and at once."""
        fs, path = file_system_of(self.url)
        with as_os_errors(self.url):
            fs.pipe_file(path, content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        fs, path = file_system_of(self.url)
        with as_os_errors(self.url):
            try:
                fs.rm_file(path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def _kind(self) -> str:
        fs, path = file_system_of(self.url)
        with as_os_errors(self.url):
            try:
                return str(fs.info(path)["type"])
            except FileNotFoundError:
                return ""


def create_remote(place: RemotePath, text: str) -> bool:
    """Put a file unless there is one; return whether it was put.

    Where the store knows conditional writes (S3: ``If-None-Match``) exactly one of several writers succeeds. Elsewhere
    the file is looked for, put, and read back a moment later: of two writers in the same moment the later one wins,
    and both know it, unless one needs longer than that moment for its own put.
    """
    fs, path = file_system_of(place.url)
    with as_os_errors(place.url):
        try:
            fs.pipe_file(path, text.encode(), mode="create")
            return True
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            pass
        except OSError as error:
            # the condition failed, or another writer's put is under way
            if error.errno in (errno.EEXIST, errno.EBUSY) or re.search("PreconditionFailed|Conflict", str(error)):
                return False
            if not re.search("[Pp]re-conditions", str(error)):
                raise
            return False
        if fs.exists(path):
            return False
        fs.pipe_file(path, text.encode())
        time.sleep(1.0)
        return bool(fs.cat_file(path) == text.encode())


def facts_of(urls: Iterable[str]) -> dict[str, Facts]:
    """Size and time of remote files: one listing a directory, not one request a file.

    Returns
    -------
    dict of Facts
        Without those that are not there.
    """
    by_folder: dict[str, list[str]] = {}
    for url in urls:
        by_folder.setdefault(url.rpartition("/")[0], []).append(url)
    known: dict[str, Facts] = {}
    for folder, members in by_folder.items():
        wanted = {url.rpartition("/")[2]: url for url in members}
        fs, path = file_system_of(folder)
        with as_os_errors(folder), contextlib.suppress(FileNotFoundError):
            entries = fs.ls(path, detail=True) if len(members) > 1 else [fs.info(file_system_of(members[0])[1])]
            for entry in entries:
                known_as = wanted.get(entry["name"].rpartition("/")[2])
                if known_as is not None and entry["type"] == "file":
                    known[known_as] = facts_in(entry)
    return known


class RangedFile(io.RawIOBase):
    """Bytes of a remote file, fetched in ranges as they are asked for.

    Parameters
    ----------
    url : str
        The URL.
    at_least : int
        Bytes of one request, so that a header, or a whole frame, is one request.
    size : int, optional
        Size of the file in bytes, where it is known.
    """

    def __init__(self, url: str, at_least: int, size: int | None = None) -> None:
        self.url, self.at_least, self.size = url, at_least, size
        self._fs, self._path = file_system_of(url)
        self._start, self._bytes = 0, b""
        self._position = 0

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether the position can be changed."""
        return True

    def tell(self) -> int:
        """Position in the file."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Change the position; nothing is fetched."""
        if whence == os.SEEK_END:
            if self.size is None:
                raise io.UnsupportedOperation("the end of the file is not known")
            offset += self.size
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as the file goes."""
        view = memoryview(buffer).cast("B")
        n_read = 0
        while n_read < len(view):
            offset = self._position - self._start
            if not 0 <= offset < len(self._bytes):
                self._fetch(max(self.at_least, len(view) - n_read))
                offset = 0
                if not self._bytes:
                    break
            piece = self._bytes[offset : offset + len(view) - n_read]
            view[n_read : n_read + len(piece)] = piece
            n_read += len(piece)
            self._position += len(piece)
        return n_read

    def _fetch(self, n_bytes: int) -> None:
        start = self._position
        stop = start + n_bytes if self.size is None else min(start + n_bytes, self.size)
        self._start, self._bytes = start, b""
        if stop <= start:
            return
        with as_os_errors(self.url):
            try:
                self._bytes = bytes(self._fs.cat_file(self._path, start=start, end=stop))
            except OSError as error:
                if error.errno != errno.EINVAL:  # the range begins at the end of the file, or behind it
                    raise
        if len(self._bytes) < stop - start:
            self.size = start + len(self._bytes)


# ---------------------------------------------------------------- inside


def names_below(url: str) -> list[str]:
    """Paths of all files below a URL, relative to it."""
    fs, path = file_system_of(url)
    with as_os_errors(url):
        return sorted(name[len(path) :].lstrip("/") for name in fs.find(path) if name.startswith(path))


def file_system_of(url: str) -> tuple[Any, str]:
    """File system and path in it."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url, **storage_options(url))
    except ImportError as error:
        scheme = url.partition("://")[0]
        package = _PACKAGES.get(scheme)
        advice = f"pip install {package}" if package else str(error)
        raise LocationError(f"{url} cannot be opened without another package: {advice}") from error
    except ValueError as error:
        raise LocationError(f"{url} cannot be opened: {error}") from error
    return fs, str(path).rstrip("/") or "/"


@contextlib.contextmanager
def as_os_errors(url: str) -> Iterator[None]:
    """Turn errors of a remote place into an ``OSError`` that names the URL."""
    try:
        yield
    except (LocationError, FileExistsError):
        raise
    except (FileNotFoundError, PermissionError) as error:
        if error.filename is not None and error.strerror:
            raise
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EACCES
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else f"access is denied ({_short(error)})"
        raise type(error)(number, reason, url) from error
    except Exception as error:  # clients of object stores raise whatever their libraries do
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        raise OSError(number, f"it cannot be reached or read ({_short(error)})", url) from error


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def facts_in(entry: dict[str, Any]) -> Facts:
    """Size and time of a file, as the listing of a file system tells them."""
    found = next((entry[name] for name in _TIMES if entry.get(name) is not None), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return Facts(int(entry.get("size") or 0), found.timestamp() if isinstance(found, datetime) else float(found))
