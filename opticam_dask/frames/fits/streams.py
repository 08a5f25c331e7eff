"""Files as streams of bytes: local or remote, inflated where they are gzipped, each opened once."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

from opticam_dask.frames.fits.cards import BLOCK
from opticam_dask.frames.fits.errors import FrameError
from opticam_dask.locations import is_remote
from opticam_dask.remote_paths import Facts, RangedFile

try:
    from isal import igzip, igzip_lib, isal_zlib

    inflate: Callable[..., Any] = igzip.open
    _crc32: Callable[[bytes, int], int] = isal_zlib.crc32
    _INFLATE_ERRORS: Any = (zlib.error, igzip_lib.error, isal_zlib.error)
except ImportError:  # the standard library does the same, in twice the time
    inflate = gzip.open
    _crc32 = zlib.crc32
    _INFLATE_ERRORS = (zlib.error,)

PathLike = str | os.PathLike[str]

_MOST_INFLATION = 1100  # deflate reaches 1032 at most
#: Bytes of a gzip stream that are inflated before its image, and TIMES_IMAGE times those of the image: no more, because
#: a small file may inflate to any size.
MOST_BEFORE = 1 << 28
#: Bytes that are inflated after the image, up to the checksum of the stream, and TIMES_IMAGE times those of the image.
MOST_AFTER = 1 << 26
#: Bytes of the image count this often in both: files with many images of one size are ordinary.
TIMES_IMAGE = 16
#: Bytes of one request to a remote place for a header.
HEADER_REQUEST = 10 * BLOCK
#: Bytes of one request to a remote place for a frame, which is one request up to this size.
FRAME_REQUEST = 1 << 25


#: First bytes of a file that its checksum is made of: the times and exposure of a header are among them.
_OF_HEADER = 8192
#: Bytes of pixels that the checksum is made of as well: no other frame has their noise.
_OF_PIXELS = 1024
#: Byte where these pixels begin: behind most headers, and within the 32 KiB that an operating system reads ahead.
_FIRST_PIXELS = 28672
#: Bits of the checksum: frames are also written to netCDF 3, whose longest integers have these beside the sign.
_OF_CHECKSUM = (1 << 31) - 1


def checksum_of(descriptor: int, size: int) -> int:
    """Checksum of the header of an open file of this machine and of some of its pixels, never 0.

    Parameters
    ----------
    descriptor : int
        File descriptor of the open file.
    size : int
        Bytes of the file.
    """
    found = _crc32(os.pread(descriptor, _OF_HEADER, 0), 0)
    if size > _OF_HEADER:
        start = _FIRST_PIXELS if size > _FIRST_PIXELS + _OF_PIXELS else size - _OF_PIXELS
        found = _crc32(os.pread(descriptor, _OF_PIXELS, start), found)
    return found & _OF_CHECKSUM or 1


class Source(NamedTuple):
    """Bytes of a file, inflated where it is gzipped.

    Attributes
    ----------
    stream : binary file
        The bytes.
    is_gzip : bool
        Whether they are inflated on the way.
    facts : Facts or None
        Size and time of a file of this machine.
    file : binary file
        The file as it is stored.
    kept : dict of bytes
        Compressed cubes by number of their HDU.
    """

    stream: BinaryIO
    is_gzip: bool
    facts: Facts | None
    file: Any
    kept: dict[int, bytes]

    def facts_with_checksum(self) -> Facts:
        """Facts by which a file of this machine is known again, also where another one has its size and time."""
        if self.facts is None:
            return Facts(0, 0.0)
        size, mtime, ctime, _ = self.facts
        return Facts(size, mtime, ctime, checksum_of(self.file.fileno(), size))

    @property
    def most_bytes(self) -> int:
        """How many bytes there can be; of a remote file the end may not be known, and is noticed in reading it."""
        size = self.facts.size if self.facts is not None else self.file.size
        if size is None:
            return sys.maxsize
        return size * _MOST_INFLATION if self.is_gzip else int(size)


class FrameErrors:
    """Context that turns errors about a file into a `FrameError` with a reason (a class: entered for every file)."""

    def __enter__(self) -> None:
        """Begin to read."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise the error anew, with its reason."""
        if error is not None and (reason := _reason_of(error)):
            raise FrameError(reason) from error


def _reason_of(error: BaseException) -> str:
    """Why a file cannot be used, by an error about it; empty for what is no error about a file."""
    if isinstance(error, EOFError):
        return f"the gzip stream is cut short: {error}"
    if isinstance(error, (gzip.BadGzipFile, *_INFLATE_ERRORS)):
        return f"the gzip stream is damaged: {error}"
    return f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else ""


@contextmanager
def opened(path: PathLike, open_gzip: Callable[..., Any], request: int, size: int | None = None) -> Iterator[Source]:
    """Open a file once.

    Parameters
    ----------
    path : path or URL
        The file.
    open_gzip : callable
        Inflates a gzip stream, as ``gzip.open``.
    request : int
        Bytes of one request to a remote place.
    size : int, optional
        Bytes of a remote file, where its directory was listed.

    Raises
    ------
    FrameError
        When it cannot be opened or read, also by what is done with it.
    """
    with FrameErrors():
        file, facts = _opened_once(path, request, size)
        try:
            beginning = b"" if facts is not None and facts.size == 0 else file.read(2)
            if not beginning:
                raise FrameError("the file is empty")
            file.seek(0)
            if beginning == b"\x1f\x8b":
                with open_gzip(file, "rb") as inflated:
                    yield Source(inflated, True, facts, file, {})
            else:
                yield Source(file, False, facts, file, {})
        finally:
            file.close()


def _opened_once(path: PathLike, request: int, size: int | None) -> tuple[Any, Facts | None]:
    """An open file, with its size and times where it is a local one."""
    if is_remote(path):
        return RangedFile(str(path), request, size), None
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  # `opened` closes it
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FrameError(f"expected a regular file, found {_kind(status.st_mode)}")
    except BaseException:
        file.close()
        raise
    return file, Facts(status.st_size, status.st_mtime, status.st_ctime)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe would have us wait for whoever writes into it."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def read_to_the_end(stream: BinaryIO, image_bytes: int) -> None:
    """Inflate the rest of a gzip stream: its checksum comes last. There is an end to what may come after an image."""
    most_bytes = MOST_AFTER + TIMES_IMAGE * image_bytes
    n_bytes = 0
    while n_read := len(stream.read(1 << 20)):
        n_bytes += n_read
        if n_bytes > most_bytes:
            raise FrameError(
                f"expected the gzip stream to end at most {most_bytes >> 20} MiB after the image of {image_bytes} bytes"
            )


def fill(stream: BinaryIO, pixels: Any) -> None:
    """Read as many bytes as an array has.

    Raises
    ------
    FrameError
        When there are fewer.
    """
    view = memoryview(pixels).cast("B")
    n_read = 0
    while n_read < len(view):
        n_more = cast(Any, stream).readinto(view[n_read:])
        if not n_more:
            raise FrameError(f"cut short: {len(view)} bytes of data expected, {n_read} found")
        n_read += n_more
