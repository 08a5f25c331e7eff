"""Files as streams of bytes: local or remote, inflated where they are gzipped, each opened once."""

from __future__ import annotations

import contextlib
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
    _INFLATE_ERRORS: Any = (zlib.error, igzip_lib.error, isal_zlib.error)
except ImportError:  # the standard library does the same, in twice the time
    inflate = gzip.open
    _INFLATE_ERRORS = (zlib.error,)

PathLike = str | os.PathLike[str]

_MOST_INFLATION = 1100  # deflate reaches 1032 at most
#: Bytes of a gzip stream that are inflated before the image,
MOST_BEFORE = 1 << 28
#: and after it, where the checksum stands;
MOST_AFTER = 1 << 26
#: to both of them this many times the bytes of the image are added.
TIMES_IMAGE = 16
#: Bytes of one request to a remote place for a header.
HEADER_REQUEST = 10 * BLOCK
#: Bytes of one request to a remote place for a frame, which is one request up to this size.
FRAME_REQUEST = 1 << 25


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

    @property
    def most_bytes(self) -> int:
        """How many bytes there can be; of a remote file the end may not be known, and is noticed in reading it."""
        size = self.facts.size if self.facts is not None else self.file.size
        if size is None:
            return sys.maxsize
        return size * _MOST_INFLATION if self.is_gzip else int(size)


@contextmanager
def frame_errors() -> Iterator[None]:
    """Turn errors about a file into a `FrameError` with a reason."""
    try:
        yield
    except gzip.BadGzipFile as error:
        raise FrameError(f"the gzip stream is damaged: {error}") from error
    except EOFError as error:
        raise FrameError(f"the gzip stream is cut short: {error}") from error
    except _INFLATE_ERRORS as error:
        raise FrameError(f"the gzip stream is damaged: {error}") from error
    except OSError as error:
        raise FrameError(f"cannot be read: {error.strerror or error}") from error


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
    with frame_errors(), contextlib.ExitStack() as open_files:
        facts = None
        if is_remote(path):
            file: Any = open_files.enter_context(RangedFile(str(path), request, size))
        else:
            file = open_files.enter_context(open(path, "rb", opener=_open_at_once))
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FrameError(f"expected a regular file, found {_kind(status.st_mode)}")
            facts = Facts(status.st_size, status.st_mtime)
        beginning = b"" if facts is not None and facts.size == 0 else file.read(2)
        if not beginning:
            raise FrameError("the file is empty")
        file.seek(0)
        if beginning == b"\x1f\x8b":
            inflated = open_files.enter_context(open_gzip(file, "rb"))
            yield Source(inflated, True, facts, file, {})
        else:
            yield Source(cast(BinaryIO, file), False, facts, file, {})


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
