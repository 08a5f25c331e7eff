"""Bytes of FITS files: the header and the pixels of one image. The only reader of FITS.

A frame is a 2-D image, plain, gzipped or tile-compressed. What a file is shows in its first bytes, not in its name.
Whatever is wrong with one file is a `FrameError` with a reason, and costs that frame only. What a header declares is
believed up to the limits below, so that no file can cost more time or memory than a large frame.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import re
import stat
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from opticam_dask.locations import is_remote
from opticam_dask.remote_paths import Facts, RangedFile
from opticam_dask.text import shown

try:
    from isal import igzip, igzip_lib, isal_zlib

    _open_gzip: Callable[..., Any] = igzip.open
    _INFLATE_ERRORS: Any = (zlib.error, igzip_lib.error, isal_zlib.error)
except ImportError:  # the standard library does the same, in twice the time
    _open_gzip = gzip.open
    _INFLATE_ERRORS = (zlib.error,)

PathLike = str | os.PathLike[str]

_BLOCK, _CARD = 2880, 80
#: A frame of more pixels is refused: 16384 x 16384, 64 times a frame of OPTICAM.
MOST_PIXELS = 1 << 28
#: Header blocks of all HDUs up to the image: 360,000 cards.
_MOST_HEADER_BLOCKS = 10000
_LONGEST_TEXT = 1 << 16  # of a value that goes on over many cards
_MOST_INFLATION = 1100  # deflate reaches 1032 at most
#: Bytes of a gzip stream that are inflated before the image, and after it: the checksum stands at the end.
_MOST_BEFORE, _MOST_AFTER, _TIMES_IMAGE = 1 << 28, 1 << 26, 16
_MOST_COLUMNS = 999  # of a table, says the standard
#: Sections of the pixels that see light, in the order in which they are believed (IRAF ccdproc).
_DATA_SECTIONS = ("TRIMSEC", "DATASEC")
_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")
#: Names of extensions whose pixels are not 0 where the image's are bad (IRAF, LCO, HST), and how many are looked at.
_BAD_PIXELS = frozenset({"BPM", "MASK", "DQ", "BADPIX", "BADPIXELS", "BAD PIXELS", "BAD_PIXELS"})
_MOST_EXTENSIONS = 64
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")
#: Keywords that say how a compressed or scaled image is stored; astropy needs no others.
_STRUCTURE = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|SCAL|ZERO|NULL|DIM)\d+|THEAP|"
    r"BZERO|BSCALE|BLANK|Z(IMAGE|TENSION|SIMPLE|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|QUANTIZ|DITHER0|BLANK|"
    r"SCALE|ZERO|PCOUNT|GCOUNT|MASKCMP)) *="
)
#: Bytes of one request to a remote place: for a header, and for a frame, which is one request up to this size.
_HEADER_REQUEST, _FRAME_REQUEST = 10 * _BLOCK, 1 << 25
_BITPIX = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


class Cards(dict[str, Any]):
    """Values of a header by keyword; the comments of its cards are looked up when they are asked for.

    Attributes
    ----------
    text : str
        The cards as they stand in the file; of several with one keyword the first counts.
    """

    text: str = ""

    def comment(self, keyword: str) -> str:
        """Comment of a keyword; empty where it has none."""
        start = f"{keyword:8s}=" if len(keyword) <= 8 else f"HIERARCH {keyword}"
        position = self.text.find(start)
        while position >= 0 and position % _CARD:
            position = self.text.find(start, position + 1)
        return _comment_of(self.text[position : position + _CARD]) if position >= 0 else ""


class FrameError(Exception):
    """A file cannot be used as a frame.

    Attributes
    ----------
    reason : str
        What was expected and what was found. The error that led to it, if any, is the ``__cause__``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class OwnProduct(FrameError):
    """A file is a table that this program has exported: it is no frame, and nothing is wrong with it."""


@dataclass(frozen=True)
class FitsHeader:
    """Header of the image in one file.

    Attributes
    ----------
    values : Cards
        Keywords and values; those of the primary header serve where the image's own header has none.
    shape : (int, int)
        ``(ny, nx)`` of the pixels that are read.
    dtype : numpy.dtype
        Type of the pixels as read, that is after BZERO and BSCALE.
    extension : int
        Number of the HDU.
    section : str
        Keyword and value of the section that the image is trimmed to, ``TRIMSEC [17:528,1:520]``; empty without.
    bad_pixels : str
        Name of the extension that marks bad pixels; empty without.
    """

    values: Cards
    shape: tuple[int, int]
    dtype: np.dtype
    extension: int
    section: str = ""
    bad_pixels: str = ""


def read_header(path: PathLike, extension: int | str | None = None, *, size: int | None = None) -> FitsHeader:
    """Read the header of the image in a FITS file, and nothing behind it.

    Parameters
    ----------
    path : path or URL
        FITS file; of a gzipped one only the beginning is inflated, of a remote one only the beginning is fetched.
    extension : int or str, optional
        Number or EXTNAME of the HDU; by default the first that holds a 2-D image.
    size : int, optional
        Bytes of a remote file, as its directory lists it; without it one that is cut short is not noticed here.

    Returns
    -------
    FitsHeader

    Raises
    ------
    FrameError
        When the file is not FITS, is cut short, or holds no 2-D image there.
    OwnProduct
        When the file is a table that this program has exported.
    """
    with _opened(path, gzip.open, _HEADER_REQUEST, size) as source:
        return _find_image(source, extension).header


def read_header_and_facts(
    path: PathLike, extension: int | str | None = None, *, listed: Facts | None = None
) -> tuple[FitsHeader, Facts]:
    """As :func:`read_header`, with the size of the file and the time of its last change.

    A file of this machine is opened once for both: on a shared file system that is a question less for each frame.
    Of a remote one, ``listed`` is what its directory says.
    """
    with _opened(path, gzip.open, _HEADER_REQUEST, None if listed is None else listed.size) as source:
        return _find_image(source, extension).header, listed or source.facts or Facts(0, 0.0)


@dataclass(frozen=True)
class FitsReader:
    """Reads FITS frames.

    Parameters
    ----------
    extension : int or str, optional
        Number or EXTNAME of the HDU; by default the first that holds a 2-D image.
    """

    extension: int | str | None = None

    def read(self, path: PathLike) -> np.ndarray:
        """Read the pixels of one frame.

        Parameters
        ----------
        path : path or URL
            FITS file. A gzipped one is inflated to its end, so that its checksum is verified. A remote one is fetched
            whole, in one request up to 32 MiB.

        Returns
        -------
        ndarray, shape (ny, nx)
            In native byte order, BZERO and BSCALE applied: uint16 for the usual unsigned frames. Trimmed to TRIMSEC or
            DATASEC, where the header has one that lies inside the image; the overscan is not subtracted. NaN where an
            extension behind the image (BPM, MASK, DQ; not in gzip streams) is not 0.

        Raises
        ------
        FrameError
            When the file cannot be read or is damaged.
        """
        with _opened(path, _open_gzip, _FRAME_REQUEST) as source:
            image = _find_image(source, self.extension)
            pixels = _read_pixels(source, image)
            if source.is_gzip:
                _read_to_the_end(source.stream, image.n_bytes)
            if image.bad_pixels is not None:
                position, marks = image.bad_pixels
                source.stream.seek(position)
                pixels = pixels.astype(image.header.dtype)
                pixels[_read_pixels(source, marks) != 0] = np.nan
        return pixels if image.section is None else np.ascontiguousarray(pixels[image.section])


class _Source(NamedTuple):
    """Bytes of a file, inflated if need be, and how many there can be."""

    stream: BinaryIO
    most_bytes: int
    is_gzip: bool
    facts: Facts | None


class _Image(NamedTuple):
    """The image HDU of a file; the stream that it was found in stands at its data."""

    header: FitsHeader
    dtype: np.dtype  # of the pixels before any is marked as bad
    axes: tuple[int, int]  # as stored, with overscan
    section: tuple[slice, slice] | None  # of the pixels that see light
    bitpix: int
    is_plain: bool  # pixels that need no more than a change of byte order or sign bit
    blank: int | None  # of unsigned pixels: the value, as read, of those that are missing
    n_bytes: int
    text: str  # of the header
    bad_pixels: tuple[int, Any] | None = None  # where the data of the image that marks them begin, and that image


@contextmanager
def frame_errors() -> Iterator[None]:
    """Turn what goes wrong with a file into a `FrameError` with a reason."""
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
def _opened(path: PathLike, open_gzip: Callable[..., Any], request: int, size: int | None = None) -> Iterator[_Source]:
    if is_remote(path):
        with frame_errors(), RangedFile(str(path), request, size) as remote:
            yield from _inflated(cast(BinaryIO, remote), size, None, open_gzip)
        return
    with frame_errors(), open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise FrameError(f"expected a regular file, found {_kind(status.st_mode)}")
        yield from _inflated(file, status.st_size, Facts(status.st_size, status.st_mtime), open_gzip)


def _inflated(
    file: BinaryIO, size: int | None, facts: Facts | None, open_gzip: Callable[..., Any]
) -> Iterator[_Source]:
    beginning = b"" if size == 0 else file.read(2)
    if not beginning:
        raise FrameError("the file is empty")
    file.seek(0)
    # of a remote file the size may not be known; where it ends is noticed in reading it
    most_bytes = sys.maxsize if size is None else size
    if beginning == b"\x1f\x8b":
        with open_gzip(file, "rb") as inflated:
            yield _Source(inflated, most_bytes * _MOST_INFLATION, True, facts)
    else:
        yield _Source(file, most_bytes, False, facts)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a pipe would have us wait for whoever writes into it."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"


def _find_image(source: _Source, extension: int | str | None) -> _Image:
    primary = Cards()
    seen: list[str] = []
    position, n_blocks = 0, 0
    while n_blocks < _MOST_HEADER_BLOCKS:
        number = len(seen)
        own, text = _read_cards(source.stream, is_primary=number == 0, most_blocks=_MOST_HEADER_BLOCKS - n_blocks)
        if not own:
            break
        primary = primary or own
        n_blocks += len(text) // _BLOCK
        position += len(text)
        n_bytes = _data_bytes(own)
        axes = _image_axes(own)
        if _is_wanted(own, number, extension, axes):
            image = _describe(own, primary, axes, number, text)
            if position + n_bytes > source.most_bytes:
                found = max(0, source.most_bytes - position)
                raise FrameError(f"cut short: {n_bytes} bytes of data expected, {found} found")
            return _with_bad_pixels(source, image, position, position + -(-n_bytes // _BLOCK) * _BLOCK)
        if _is_own_product(own):
            raise OwnProduct("a light curve that this program has exported")
        seen.append(f"HDU {number} holds {_named(axes)}")
        position += -(-n_bytes // _BLOCK) * _BLOCK
        if position >= source.most_bytes:
            break
        _skip_to(source, position, number)
    wanted = "a 2-D image" if extension is None else f"the image of HDU {extension!r}"
    more = f" and {len(seen) - 10} more" if len(seen) > 10 else ""
    raise FrameError(f"expected {wanted}, found: {', '.join(seen[:10])}{more}")


def _with_bad_pixels(source: _Source, image: _Image, start: int, end: int) -> _Image:
    """An image with the extension behind it that marks its bad pixels, where there is one: of its shape and EXTVER.

    ``start`` and ``end`` are those of the image's data; the stream stands at ``start`` again. A gzip stream would have
    to be inflated to its end for it, and of a remote file the end must be known.
    """
    if source.is_gzip or not end + _BLOCK <= source.most_bytes < sys.maxsize:
        return image
    found = None
    with contextlib.suppress(FrameError):  # what follows an image need not be FITS
        found = _find_marks(source, image, end)
    source.stream.seek(start)
    if found is None:
        return image
    as_float = image.dtype if image.dtype.kind == "f" else np.dtype("f4" if image.dtype.itemsize <= 2 else "f8")
    header = replace(image.header, dtype=as_float, bad_pixels=str(found[1].header.values["EXTNAME"]).strip())
    return image._replace(header=header, bad_pixels=found)


def _find_marks(source: _Source, image: _Image, position: int) -> tuple[int, _Image] | None:
    version = image.header.values.get("EXTVER", 1)
    for number in range(image.header.extension + 1, image.header.extension + 1 + _MOST_EXTENSIONS):
        if position + _BLOCK > source.most_bytes:
            return None
        source.stream.seek(position)
        own, text = _read_cards(source.stream, is_primary=False, most_blocks=_MOST_HEADER_BLOCKS)
        if not own:
            return None
        position += len(text)
        axes = _image_axes(own)
        is_named = str(own.get("EXTNAME", "")).strip().upper() in _BAD_PIXELS
        if is_named and axes == image.axes and own.get("EXTVER", 1) == version:
            return position, _describe(own, Cards(), axes, number, text)
        position += -(-_data_bytes(own) // _BLOCK) * _BLOCK
    return None


def _is_own_product(header: Mapping[str, Any]) -> bool:
    """Whether an HDU is a table of a light curve as this program exports it (``exports``), by its own cards."""
    return (
        header.get("XTENSION") == "BINTABLE"
        and header.get("TIMECOL") in ("mjd_utc", "bmjd_tdb")
        and "LABEL" in header
        and "CAMERA" in header
    )


def _skip_to(source: _Source, position: int, number: int) -> None:
    if source.is_gzip and position > _MOST_BEFORE:
        raise FrameError(
            f"expected an image within the first {_MOST_BEFORE >> 20} MiB of a gzip stream, but HDU {number} ends "
            f"after {position >> 20} MiB"
        )
    source.stream.seek(position)


def _is_wanted(header: dict[str, Any], number: int, extension: int | str | None, axes: tuple[int, ...]) -> bool:
    if extension is None:
        return len(axes) == 2 and min(axes) > 0
    if isinstance(extension, str):
        return str(header.get("EXTNAME", "")).strip().upper() == extension.strip().upper()
    return number == extension


def _named(axes: tuple[int, ...]) -> str:
    if not axes or not all(axes):
        return "no image"
    if len(axes) > 4:
        return f"an array of {len(axes)} axes"
    return f"{'a cube' if len(axes) > 2 else 'an image'} of {' x '.join(map(str, axes))}"


def _describe(own: Cards, primary: Cards, axes: tuple[int, ...], number: int, text: str) -> _Image:
    if len(axes) != 2 or not all(axes):
        raise FrameError(f"expected a 2-D image in HDU {number}, found {_named(axes)}")
    if math.prod(axes) > MOST_PIXELS:
        raise FrameError(f"expected at most {MOST_PIXELS} pixels, found {axes[0]} x {axes[1]}")
    is_compressed = own.get("ZIMAGE") is True
    bitpix = _integer(own, "ZBITPIX" if is_compressed else "BITPIX")
    if bitpix not in _BITPIX:
        raise FrameError(f"expected BITPIX 8, 16, 32, 64, -32 or -64, found {bitpix}")
    n_bytes = math.prod(axes) * abs(bitpix) // 8
    if is_compressed:
        n_bytes = _compressed_bytes(own, axes, n_bytes)
    stored_blank = _blank_of(own, bitpix, is_compressed=is_compressed)
    dtype, is_scaled, zero = _pixel_type(own, bitpix, has_blank=stored_blank is not None)
    whole = (axes[0], axes[1])
    named, section = _data_section(own, primary, whole)
    shape = whole if section is None else (section[0].stop - section[0].start, section[1].stop - section[1].start)
    header = FitsHeader(_joined(own, primary), shape, dtype, number, named)
    blank = None if stored_blank is None or not zero else stored_blank + zero
    return _Image(header, dtype, whole, section, bitpix, not (is_compressed or is_scaled), blank, n_bytes, text)


def _data_section(own: Cards, primary: Cards, axes: tuple[int, int]) -> tuple[str, tuple[slice, slice] | None]:
    """Section of the pixels that see light, by keyword and as slices; none where no section is a part of the image."""
    for cards in (own, primary):
        for keyword in _DATA_SECTIONS:
            text = cards.get(keyword)
            if text is None or not isinstance(text, str) or not (match := _SECTION.search(text)):
                continue
            (x1, x2), (y1, y2) = sorted(map(int, match.groups()[:2])), sorted(map(int, match.groups()[2:]))
            is_inside = 1 <= x1 <= x2 <= axes[1] and 1 <= y1 <= y2 <= axes[0]
            if is_inside and (y2 - y1 + 1, x2 - x1 + 1) != axes:
                return f"{keyword} [{x1}:{x2},{y1}:{y2}]", (slice(y1 - 1, y2), slice(x1 - 1, x2))
            if is_inside:
                return "", None
    return "", None


def _joined(own: Cards, primary: Cards) -> Cards:
    """Values of the image's own header, and of the primary one where the own has none."""
    if own is primary:
        return own
    values = Cards({**primary, **own})
    values.text = own.text + primary.text
    return values


def _blank_of(header: Mapping[str, Any], bitpix: int, *, is_compressed: bool) -> int | None:
    """Stored value of missing pixels of an integer image.

    FITS standard 4.0: BLANK for integers (4.4.2.5), also in compressed images, where ZBLANK serves as well (10.1.3). A
    value that the pixels cannot take marks none of them.
    """
    if bitpix < 0:
        return None
    smallest = 0 if bitpix == 8 else -(1 << (bitpix - 1))
    for keyword in ("ZBLANK", "BLANK") if is_compressed else ("BLANK",):
        value = header.get(keyword)
        if type(value) is int:
            return value if smallest <= value < smallest + (1 << bitpix) else None
    return None


def _compressed_bytes(header: Mapping[str, Any], axes: tuple[int, ...], image_bytes: int) -> int:
    """Bytes of the table that holds the tiles of an image, once its numbers fit together."""
    if (n_columns := _integer(header, "TFIELDS")) > _MOST_COLUMNS:
        raise FrameError(
            f"damaged header: expected at most {_MOST_COLUMNS} columns in keyword TFIELDS, found {n_columns}"
        )
    tile = [_integer(header, f"ZTILE{axis}", default) for axis, default in ((2, 1), (1, axes[1]))]
    n_tiles = math.prod(-(-length // max(1, side)) for length, side in zip(axes, tile, strict=True))
    if (n_rows := _integer(header, "NAXIS2")) != n_tiles:
        raise FrameError(f"damaged header: expected {n_tiles} compressed tiles in keyword NAXIS2, found {n_rows}")
    n_bytes, most_bytes = _data_bytes(header), _MOST_AFTER + 4 * image_bytes
    if n_bytes > most_bytes:
        raise FrameError(f"expected at most {most_bytes} bytes of compressed data, found {n_bytes}")
    return n_bytes


def _pixel_type(header: dict[str, Any], bitpix: int, *, has_blank: bool) -> tuple[np.dtype, bool, int]:
    """Type of pixels after scaling, whether astropy must scale them, and BZERO of unsigned integers (else 0).

    Pixels that can be missing are floats, so that they can be NaN.
    """
    try:
        zero, scale = float(header.get("BZERO") or 0.0), float(header.get("BSCALE", 1.0))
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"expected numbers in BZERO and BSCALE: {error}") from error
    if not (math.isfinite(zero) and math.isfinite(scale)):
        raise FrameError(f"expected finite numbers in BZERO and BSCALE, found {zero} and {scale}")
    stored = np.dtype(_BITPIX[bitpix])
    as_float = np.dtype("f4" if bitpix <= 16 else "f8")
    if stored.kind == "i" and scale == 1.0 and zero == 2.0 ** (bitpix - 1):
        return (as_float, True, int(zero)) if has_blank else (np.dtype(f"u{stored.itemsize}"), False, 0)
    if bitpix == 8 and scale == 1.0 and zero == -128.0:
        return (as_float, True, int(zero)) if has_blank else (np.dtype("i1"), True, 0)
    is_scaled = zero != 0.0 or scale != 1.0 or has_blank
    return (as_float if is_scaled and bitpix > 0 else stored), is_scaled, 0


def _read_pixels(source: _Source, image: _Image) -> np.ndarray:
    """Pixels of an image, with overscan, from where the stream stands."""
    if image.is_plain:
        stored = np.empty(image.axes, dtype=np.dtype(_BITPIX[image.bitpix]).newbyteorder(">"))
        _fill(source.stream, stored)
        return _to_native(stored, image.dtype)
    stored = np.empty(image.n_bytes, dtype=np.uint8)
    _fill(source.stream, stored)
    return _by_astropy(image, stored.tobytes())


def _to_native(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if dtype.kind == "u" and native.dtype.kind == "i":
        # Adding BZERO = 2**(bits - 1) to a two's complement number turns its highest bit over, and no other.
        native = native.view(dtype)
        native ^= dtype.type(1 << (8 * dtype.itemsize - 1))
    return native


def _fill(stream: BinaryIO, pixels: np.ndarray) -> None:
    view = memoryview(cast(Any, pixels)).cast("B")
    n_read = 0
    while n_read < len(view):
        n_more = cast(Any, stream).readinto(view[n_read:])
        if not n_more:
            raise FrameError(f"cut short: {len(view)} bytes of data expected, {n_read} found")
        n_read += n_more


def _read_to_the_end(stream: BinaryIO, image_bytes: int) -> None:
    """Inflate the rest of a gzip stream: its checksum comes last. There is an end to what may come after an image."""
    most_bytes = _MOST_AFTER + _TIMES_IMAGE * image_bytes
    n_bytes = 0
    while n_read := len(stream.read(1 << 20)):
        n_bytes += n_read
        if n_bytes > most_bytes:
            raise FrameError(
                f"expected the gzip stream to end at most {most_bytes >> 20} MiB after the image of {image_bytes} bytes"
            )


def _by_astropy(image: _Image, data: bytes) -> np.ndarray:
    """Tile-compressed images and unusual scalings, which astropy knows.

    It is given the one HDU, with the cards that say how the image is stored: nothing else in the file can disturb it
    or cost time.
    """
    content = _minimal_file(image.text) + data + bytes(-len(data) % _BLOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from astropy.io import fits  # half a second, for compressed images alone

            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                pixels = np.asarray(hdus[0 if image.text.startswith("SIMPLE") else 1].data)
    except Exception as error:  # on damaged files astropy raises whatever comes up
        raise FrameError(f"the image is damaged: {type(error).__name__}: {shown(str(error))}") from error
    if pixels.shape != image.axes or not np.can_cast(pixels.dtype, image.dtype):
        raise FrameError(
            f"the image is damaged: expected {image.dtype} of shape {image.axes}, found {pixels.dtype} of shape "
            f"{pixels.shape}"
        )
    found = pixels.astype(image.dtype, copy=False)
    if image.blank is not None and pixels.dtype.kind in "iu":  # astropy takes the blanks of unsigned pixels for values
        found[pixels == image.blank] = np.nan
    return found


def _minimal_file(text: str) -> bytes:
    """Header of one HDU without the cards that do not matter, after a primary header where it is an extension."""
    cards = [text[start : start + _CARD] for start in range(0, len(text), _CARD)]
    cards = [card for card in cards if _STRUCTURE.match(card)]
    if cards[0].startswith("SIMPLE"):
        return _header_block(cards)
    return _header_block(
        [
            "SIMPLE  =                    T",
            "BITPIX  =                    8",
            "NAXIS   =                    0",
            "EXTEND  =                    T",
        ]
    ) + _header_block(cards)


def _header_block(cards: list[str]) -> bytes:
    content = "".join(card.ljust(_CARD) for card in [*cards, "END"]).encode("latin-1")
    return content + b" " * (-len(content) % _BLOCK)


def _data_bytes(header: Mapping[str, Any]) -> int:
    n_axes = _integer(header, "NAXIS")
    if not n_axes:
        return 0
    n_elements = math.prod(_integer(header, f"NAXIS{axis}") for axis in range(1, n_axes + 1))
    n_groups, n_parameters = _integer(header, "GCOUNT", 1), _integer(header, "PCOUNT", 0)
    return abs(_integer(header, "BITPIX")) // 8 * n_groups * (n_parameters + n_elements)


def _image_axes(header: Mapping[str, Any]) -> tuple[int, ...]:
    """Lengths of the axes of an image, slowest first; none for what is not an image."""
    prefix = "Z" if header.get("ZIMAGE") is True else ""
    if not prefix and header.get("XTENSION", "IMAGE") != "IMAGE":
        return ()
    return tuple(_integer(header, f"{prefix}NAXIS{axis}") for axis in range(_integer(header, f"{prefix}NAXIS"), 0, -1))


def _integer(header: Mapping[str, Any], keyword: str, default: int | None = None) -> int:
    value = header.get(keyword, default)
    if not isinstance(value, int) or isinstance(value, bool) or (value < 0 and not keyword.endswith("BITPIX")):
        raise FrameError(f"damaged header: expected a whole number in keyword {keyword}, found {shown(value)}")
    return value


def _read_cards(stream: BinaryIO, *, is_primary: bool, most_blocks: int) -> tuple[Cards, str]:
    """Read one header up to its END: values, and the text of its blocks. Nothing where no further HDU begins."""
    block = stream.read(_BLOCK).decode("latin-1")
    if not block.startswith("SIMPLE  =" if is_primary else "XTENSION="):
        if is_primary:
            raise FrameError(f"not a FITS file: expected SIMPLE at its beginning, found {block[:20]!r}")
        return Cards(), ""
    cards = Cards()
    blocks = [block]
    long_text = ""
    while len(block) == _BLOCK:
        for start in range(0, _BLOCK, _CARD):
            card = block[start : start + _CARD]
            keyword, value = _split_card(card)
            if keyword == "END":
                cards.text = "".join(blocks)
                return cards, cards.text
            if keyword == "CONTINUE" and card[8:10] != "= ":
                long_text = _continue(cards, long_text, value)
            elif keyword and keyword not in cards:  # the first one counts
                cards[keyword] = value
                long_text = keyword if value.__class__ is str and value.endswith("&") else ""
            else:
                long_text = ""
        if len(blocks) == most_blocks:
            raise FrameError(f"expected the END of the header within {_MOST_HEADER_BLOCKS} blocks, found none")
        block = stream.read(_BLOCK).decode("latin-1")
        blocks.append(block)
    raise FrameError("the header is cut short: it has no END")


def _continue(cards: Cards, keyword: str, value: object) -> str:
    """Add a further piece to the text of a keyword; the keyword is returned where it goes on in the next card."""
    if not keyword:
        return ""
    cards[keyword] = (cards[keyword][:-1] + str(value))[:_LONGEST_TEXT]
    return keyword if cards[keyword].endswith("&") else ""


@lru_cache(maxsize=1 << 14)
def _split_card(card: str) -> tuple[str, str | int | float | bool | None]:
    """Keyword and value of a card, no keyword where it has none; the frames of a run have most of them in common.

    The END may be filled up with zeros, as some writers do.
    """
    keyword, value_text = card[:8].rstrip().upper(), card[10:]
    if keyword == "HIERARCH" and "=" in card:
        keyword, _, value_text = card[9:].partition("=")
        keyword = keyword.strip().upper()
    elif card[8:10] != "= " and keyword != "CONTINUE":
        return ("END" if card.startswith("END") and not card[3:].strip(" \0") else ""), None
    return keyword, _parse_value(value_text)


@lru_cache(maxsize=1 << 10)
def _comment_of(card: str) -> str:
    text = card.partition("=")[2]
    quoted = _QUOTED.match(text)
    return (text[quoted.end() :] if quoted else text).partition("/")[2].strip()


def _parse_value(text: str) -> str | int | float | bool | None:
    """Value of a card; a text that is no FITS value is returned as it stands."""
    if quoted := _QUOTED.match(text):
        return quoted[1].replace("''", "'").rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    if "_" in text:  # in Python it may stand in a number
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return text or None
