"""Bytes of FITS files: the header and the pixels of one image. The only reader of FITS.

A frame is a 2-D image, plain, gzipped or tile-compressed. What a file is shows in its first bytes, not in its name.
Whatever is wrong with one file is a `FrameError` with a reason, and costs that frame only.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from astropy.io import fits

try:
    from isal import igzip, igzip_lib, isal_zlib

    _open_gzip: Callable[..., Any] = igzip.open
    _INFLATE_ERRORS: Any = (zlib.error, igzip_lib.error, isal_zlib.error)
except ImportError:  # the standard library does the same, in twice the time
    _open_gzip = gzip.open
    _INFLATE_ERRORS = (zlib.error,)

PathLike = str | os.PathLike[str]

_BLOCK, _CARD = 2880, 80
_MOST_HEADER_BLOCKS = 2000
_MOST_INFLATION = 1100  # deflate reaches 1032 at most
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")
_BITPIX = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


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


@dataclass(frozen=True)
class FitsHeader:
    """Header of the image in one file.

    Attributes
    ----------
    values : dict
        Keywords and values; those of the primary header serve where the image's own header has none.
    shape : (int, int)
        ``(ny, nx)``.
    dtype : numpy.dtype
        Type of the pixels as read, that is after BZERO and BSCALE.
    extension : int
        Number of the HDU.
    """

    values: dict[str, Any]
    shape: tuple[int, int]
    dtype: np.dtype
    extension: int


def read_header(path: PathLike, extension: int | str | None = None) -> FitsHeader:
    """Read the header of the image in a FITS file, and nothing behind it.

    Parameters
    ----------
    path : path
        FITS file; of a gzipped one only the beginning is inflated.
    extension : int or str, optional
        Number or EXTNAME of the HDU; by default the first that holds a 2-D image.

    Returns
    -------
    FitsHeader

    Raises
    ------
    FrameError
        When the file is not FITS, is cut short, or holds no 2-D image there.
    """
    with _opened(path, gzip.open) as (stream, most_bytes):
        return _find_image(stream, most_bytes, extension).header


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
        path : path
            FITS file. A gzipped one is inflated to its end, so that its checksum is verified.

        Returns
        -------
        ndarray, shape (ny, nx)
            In native byte order, BZERO and BSCALE applied: uint16 for the usual unsigned frames.

        Raises
        ------
        FrameError
            When the file cannot be read or is damaged.
        """
        with _opened(path, _open_gzip) as (stream, most_bytes):
            image = _find_image(stream, most_bytes, self.extension)
            if not image.is_plain:
                stream.seek(0)
                return _read_by_astropy(stream.read(), image.header)
            pixels = np.empty(image.header.shape, dtype=np.dtype(_BITPIX[image.bitpix]).newbyteorder(">"))
            _fill(stream, pixels)
            while stream.read(1 << 20):  # the checksum of a gzip stream comes last
                pass
        return _to_native(pixels, image.header.dtype)


class _Image(NamedTuple):
    """The image HDU of a file; the stream that it was found in stands at its data."""

    header: FitsHeader
    bitpix: int
    is_plain: bool  # pixels that need no more than a change of byte order or sign bit


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
def _opened(path: PathLike, open_gzip: Callable[..., Any]) -> Iterator[tuple[BinaryIO, int]]:
    """Stream of the bytes of a file, inflated if need be, and how many there can be."""
    with frame_errors(), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise FrameError("the file is empty")
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if is_gzip:
            with open_gzip(file, "rb") as inflated:
                yield inflated, size * _MOST_INFLATION
        else:
            yield file, size


def _find_image(stream: BinaryIO, most_bytes: int, extension: int | str | None) -> _Image:
    primary: dict[str, Any] = {}
    seen, position = [], 0
    for number in range(10000):
        own, n_blocks = _read_cards(stream, is_primary=number == 0)
        if not own:
            break
        primary = primary or own
        position += n_blocks * _BLOCK
        n_bytes = _data_bytes(own)
        axes = _image_axes(own)
        if _is_wanted(own, number, extension, axes):
            if position + n_bytes > most_bytes:
                raise FrameError(f"cut short: {n_bytes} bytes of data expected, {max(0, most_bytes - position)} found")
            return _describe(own, primary, axes, number)
        seen.append(f"HDU {number} holds {_named(axes)}")
        position += -(-n_bytes // _BLOCK) * _BLOCK
        if position >= most_bytes:
            break
        stream.seek(position)
    wanted = "a 2-D image" if extension is None else f"the image of HDU {extension!r}"
    raise FrameError(f"expected {wanted}, found: {', '.join(seen)}")


def _is_wanted(header: dict[str, Any], number: int, extension: int | str | None, axes: tuple[int, ...]) -> bool:
    if extension is None:
        return len(axes) == 2 and min(axes) > 0
    if isinstance(extension, str):
        return str(header.get("EXTNAME", "")).strip().upper() == extension.strip().upper()
    return number == extension


def _named(axes: tuple[int, ...]) -> str:
    if not axes or not all(axes):
        return "no image"
    return f"{'a cube' if len(axes) > 2 else 'an image'} of {' x '.join(map(str, axes))}"


def _describe(own: dict[str, Any], primary: dict[str, Any], axes: tuple[int, ...], number: int) -> _Image:
    if len(axes) != 2 or not all(axes):
        raise FrameError(f"expected a 2-D image in HDU {number}, found {_named(axes)}")
    is_compressed = own.get("ZIMAGE") is True
    bitpix = _integer(own, "ZBITPIX" if is_compressed else "BITPIX")
    if bitpix not in _BITPIX:
        raise FrameError(f"expected BITPIX 8, 16, 32, 64, -32 or -64, found {bitpix}")
    dtype, is_scaled = _pixel_type(own, bitpix)
    header = FitsHeader({**primary, **own}, (axes[0], axes[1]), dtype, number)
    return _Image(header, bitpix, not (is_compressed or is_scaled))


def _pixel_type(header: dict[str, Any], bitpix: int) -> tuple[np.dtype, bool]:
    """Type of pixels after scaling, as astropy has it, and whether they must be scaled with floats."""
    try:
        zero, scale = float(header.get("BZERO") or 0.0), float(header.get("BSCALE", 1.0))
    except (TypeError, ValueError) as error:
        raise FrameError(f"expected numbers in BZERO and BSCALE: {error}") from error
    stored = np.dtype(_BITPIX[bitpix])
    if stored.kind == "i" and scale == 1.0 and zero == 2.0 ** (bitpix - 1):
        return np.dtype(f"u{stored.itemsize}"), False
    if bitpix == 8 and scale == 1.0 and zero == -128.0:
        return np.dtype("i1"), True
    has_blank = bitpix > 0 and ("BLANK" in header or "ZBLANK" in header)
    is_scaled = zero != 0.0 or scale != 1.0 or has_blank
    if is_scaled and bitpix > 0:
        return np.dtype("f4" if bitpix <= 16 else "f8"), True
    return stored, is_scaled


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


def _read_by_astropy(content: bytes, header: FitsHeader) -> np.ndarray:
    """Tile-compressed images and unusual scalings, which astropy knows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                pixels = np.asarray(hdus[header.extension].data)
    except Exception as error:  # on damaged files astropy raises whatever comes up
        raise FrameError(f"the image is damaged: {type(error).__name__}: {error}") from error
    if pixels.shape != header.shape:
        raise FrameError(f"expected an image of {header.shape}, found {pixels.shape}")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


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
        raise FrameError(f"damaged header: expected a whole number in keyword {keyword}, found {value!r}")
    return value


def _read_cards(stream: BinaryIO, *, is_primary: bool) -> tuple[dict[str, Any], int]:
    """Read one header up to its END: values, and the number of blocks. Nothing where no further HDU begins."""
    text = stream.read(_BLOCK).decode("latin-1")
    if not text.startswith("SIMPLE  =" if is_primary else "XTENSION="):
        if is_primary:
            raise FrameError(f"not a FITS file: expected SIMPLE at its beginning, found {text[:20]!r}")
        return {}, 0
    cards: dict[str, Any] = {}
    long_text = ""
    for n_blocks in range(1, _MOST_HEADER_BLOCKS):
        if len(text) < _BLOCK:
            break
        for start in range(0, _BLOCK, _CARD):
            card = text[start : start + _CARD]
            if card.startswith("END     "):
                return cards, n_blocks
            long_text = _add_card(cards, card, long_text)
        text = stream.read(_BLOCK).decode("latin-1")
    raise FrameError("the header is cut short: it has no END")


def _add_card(cards: dict[str, Any], card: str, long_text: str) -> str:
    """Add one card to the values; the keyword whose text goes on in the next card is returned."""
    keyword, value_text = card[:8].rstrip(), card[10:]
    if keyword == "CONTINUE" and long_text:
        more = _parse_value(value_text)
        cards[long_text] = cards[long_text][:-1] + str(more)
    else:
        if keyword == "HIERARCH" and "=" in card:
            keyword, _, value_text = card[9:].partition("=")
            keyword = keyword.strip().upper()
        elif card[8:10] != "= ":
            return ""
        if keyword in cards:  # the first one counts
            return ""
        cards[keyword] = _parse_value(value_text)
        long_text = keyword
    text = cards[long_text]
    return long_text if isinstance(text, str) and text.endswith("&") else ""


def _parse_value(text: str) -> str | int | float | bool | None:
    """Value of a card; a text that is no FITS value is returned as it stands."""
    if quoted := _QUOTED.match(text):
        return quoted[1].replace("''", "'").rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text.replace("D", "E"))
    except ValueError:
        return text or None
