"""One image HDU of a FITS file: what its header promises, and the pixels of one of its planes."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.frames.fits.cards import BLOCK, CARD, Cards, integer
from opticam_dask.frames.fits.errors import FrameError
from opticam_dask.frames.fits.streams import MOST_AFTER, Source, fill
from opticam_dask.kernels.images.counts import unsigned_counts
from opticam_dask.text import shown

#: A frame of more pixels is refused: 16384 x 16384, 64 times a frame of OPTICAM.
MOST_PIXELS = 1 << 28
#: Bytes of a compressed cube: all of it is read for one of its planes.
_MOST_COMPRESSED_CUBE = 1 << 31
_MOST_COLUMNS = 999  # of a table, says the standard
#: Sections of the pixels that see light, in the order in which they are believed (IRAF ccdproc).
_DATA_SECTIONS = ("TRIMSEC", "DATASEC")
_SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")
#: Keywords that say how a compressed or scaled image is stored; astropy needs no others.
_STRUCTURE = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|T(TYPE|FORM|SCAL|ZERO|NULL|DIM)\d+|THEAP|"
    r"BZERO|BSCALE|BLANK|Z(IMAGE|TENSION|SIMPLE|BITPIX|NAXIS\d*|TILE\d+|CMPTYPE|NAME\d+|VAL\d+|QUANTIZ|DITHER0|BLANK|"
    r"SCALE|ZERO|PCOUNT|GCOUNT|MASKCMP)) *="
)
_AXES = re.compile(r"NAXIS\d* *=")
#: Card of images whose tiles are line lists.
_OF_LINE_LISTS = re.compile(rb"ZCMPTYPE= *'PLIO_1")
#: Words of a line list before its instructions: the three of the old form, which is the shorter one.
_LINE_LIST_HEADER = 3
_BITPIX = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}

Section = tuple[slice, slice]


class Hdu(NamedTuple):
    """One HDU, of which the header was read.

    Attributes
    ----------
    number : int
        Counted from 0.
    cards : Cards
        Its own header.
    axes : tuple of int
        Lengths of the axes of an image, slowest first; empty for what is not an image.
    start : int
        Where its data begin in the (inflated) file.
    n_bytes : int
        Bytes of its data, without those that fill up the last block.
    """

    number: int
    cards: Cards
    axes: tuple[int, ...]
    start: int
    n_bytes: int

    @property
    def end(self) -> int:
        """Byte at which the next HDU begins."""
        return self.start + -(-self.n_bytes // BLOCK) * BLOCK

    @property
    def name(self) -> str:
        """EXTNAME in capitals; empty without."""
        return str(self.cards.get("EXTNAME", "")).strip().upper()

    @property
    def is_image(self) -> bool:
        """Whether it holds an image, or a cube of images, with pixels."""
        return len(self.axes) >= 2 and min(self.axes) > 0


class FitsHeader(NamedTuple):
    """Header of one image of a file, as a frame.

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
    saturation : float or None
        Level from which pixels are saturated, in the unit of the pixels; of several amplifiers the highest, with their
        gains relative to that of the frame. None where it is not known.
    has_overscan : bool
        Whether the level of an overscan is taken off.
    errors : str
        Name of the extension with the errors of the pixels; empty without.
    unused_section : str
        Keyword and value of a section that is no part of the image, for which nothing is trimmed; empty without.
    """

    values: Cards
    shape: tuple[int, int]
    dtype: np.dtype
    extension: int
    section: str = ""
    bad_pixels: str = ""
    saturation: float | None = None
    has_overscan: bool = False
    errors: str = ""
    unused_section: str = ""


class StoredImage(NamedTuple):
    """How the pixels of an image HDU are stored."""

    hdu: Hdu
    dtype: np.dtype  # of the pixels as read
    shape: tuple[int, int]  # of one plane as stored, with overscan
    n_planes: int
    bitpix: int
    is_compressed: bool
    is_plain: bool  # pixels that need no more than a change of byte order or sign bit
    blank: int | None  # of unsigned pixels: the value, as read, of those that are missing

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane that is not compressed."""
        return math.prod(self.shape) * abs(self.bitpix) // 8

    def whole_planes(self, file_bytes: int) -> int:
        """Number of planes that are complete in a file of this size, in bytes; of a compressed image all or none."""
        n_bytes = file_bytes - self.hdu.start
        if n_bytes >= self.hdu.n_bytes:
            return self.n_planes
        return 0 if self.is_compressed else max(0, n_bytes) // self.plane_bytes


def describe(hdu: Hdu) -> StoredImage:
    """How the pixels of an image are stored, once its header makes sense.

    Raises
    ------
    FrameError
        When it holds no image, or too large or damaged a one.
    """
    own, axes = hdu.cards, hdu.axes
    if len(axes) < 2 or not all(axes):
        raise FrameError(f"expected a 2-D image in HDU {hdu.number}, found {named(axes)}")
    shape = (axes[-2], axes[-1])
    if math.prod(shape) > MOST_PIXELS:
        raise FrameError(f"expected at most {MOST_PIXELS} pixels, found {shape[0]} x {shape[1]}")
    is_compressed = own.get("ZIMAGE") is True
    bitpix = integer(own, "ZBITPIX" if is_compressed else "BITPIX")
    if bitpix not in _BITPIX:
        raise FrameError(f"expected BITPIX 8, 16, 32, 64, -32 or -64, found {bitpix}")
    if is_compressed:
        _check_tiles(own, axes, math.prod(axes) * abs(bitpix) // 8)
    stored_blank = _blank_of(own, bitpix, is_compressed=is_compressed)
    dtype, is_scaled, zero = _pixel_type(own, bitpix, has_blank=stored_blank is not None)
    blank = None if stored_blank is None or not zero else stored_blank + zero
    is_plain = not (is_compressed or is_scaled)
    return StoredImage(hdu, dtype, shape, math.prod(axes[:-2]), bitpix, is_compressed, is_plain, blank)


def section_of(cards: Mapping[str, Any], keyword: str, shape: tuple[int, int]) -> Section | None:
    """Section ``[x1:x2,y1:y2]`` in a keyword as slices of the image; None without one that lies inside the image."""
    box = box_of(cards.get(keyword))
    if box is None:
        return None
    x1, x2, y1, y2 = box
    return (slice(y1 - 1, y2), slice(x1 - 1, x2)) if x1 >= 1 and x2 <= shape[1] and y1 >= 1 and y2 <= shape[0] else None


def box_of(text: object) -> tuple[int, int, int, int] | None:
    """Limits ``x1, x2, y1, y2`` of a section in the order of size, counted from 1; None where a text is none."""
    if not isinstance(text, str) or not (match := _SECTION.search(text)):
        return None
    (x1, x2), (y1, y2) = sorted(map(int, match.groups()[:2])), sorted(map(int, match.groups()[2:]))
    return x1, x2, y1, y2


class DataSection(NamedTuple):
    """Section of the pixels of an image that see light.

    Attributes
    ----------
    name : str
        Keyword and limits of the section; empty where the whole image sees light.
    section : Section, optional
        Its rows and columns; None for the whole image.
    unused : str
        Keyword and value of a section that does not lie inside the image, where no other is cut out.
    """

    name: str = ""
    section: Section | None = None
    unused: str = ""


def data_section(own: Cards, primary: Cards, shape: tuple[int, int]) -> DataSection:
    """Section of the pixels that see light: the first one in the headers that lies inside the image."""
    unused = ""
    for cards in (own, primary):
        for keyword in _DATA_SECTIONS:
            if (section := section_of(cards, keyword, shape)) is not None:
                rows, columns = section
                if (rows.stop - rows.start, columns.stop - columns.start) == shape:
                    return DataSection(unused=unused)
                limits = f"[{columns.start + 1}:{columns.stop},{rows.start + 1}:{rows.stop}]"
                return DataSection(f"{keyword} {limits}", section)
            if not unused and (value := cards.get(keyword)) not in (None, ""):
                unused = f"{keyword} {value}"
    return DataSection(unused=unused)


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


def _check_tiles(header: Mapping[str, Any], axes: tuple[int, ...], image_bytes: int) -> None:
    """Refuse a table of tiles whose numbers do not fit together."""
    if (n_columns := integer(header, "TFIELDS")) > _MOST_COLUMNS:
        raise FrameError(
            f"damaged header: expected at most {_MOST_COLUMNS} columns in keyword TFIELDS, found {n_columns}"
        )
    sides = [axes[-1], *(1 for _ in axes[:-1])]  # of a tile, unless said otherwise: a row
    tile = [integer(header, f"ZTILE{axis}", sides[axis - 1]) for axis in range(len(axes), 0, -1)]
    n_tiles = math.prod(-(-length // max(1, side)) for length, side in zip(axes, tile, strict=True))
    if (n_rows := integer(header, "NAXIS2")) != n_tiles:
        raise FrameError(f"damaged header: expected {n_tiles} compressed tiles in keyword NAXIS2, found {n_rows}")
    n_bytes, most_bytes = data_bytes(header), MOST_AFTER + 4 * image_bytes
    if n_bytes > most_bytes:
        raise FrameError(f"expected at most {most_bytes} bytes of compressed data, found {n_bytes}")
    if len(axes) > 2 and n_bytes > _MOST_COMPRESSED_CUBE:
        raise FrameError(
            f"expected at most {_MOST_COMPRESSED_CUBE} bytes of a compressed cube, found {n_bytes}: uncompress it "
            "(funpack)"
        )


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


def read_plane(source: Source, image: StoredImage, plane: int = 0) -> np.ndarray:
    """Pixels of one plane of an image as stored, with overscan.

    Parameters
    ----------
    source : Source
        Open file.
    image : StoredImage
        The image, as :func:`describe` returns it.
    plane : int
        Counted from 0.

    Returns
    -------
    ndarray, shape (ny, nx)
        In native byte order, BZERO and BSCALE applied.

    Raises
    ------
    FrameError
        When bytes are missing or damaged.
    """
    if image.is_compressed:
        return _checked(image, _decompressed(source, image, plane))
    start = image.hdu.start + plane * image.plane_bytes
    if source.stream.tell() != start:
        source.stream.seek(start)
    if image.is_plain:
        stored = np.empty(image.shape, dtype=np.dtype(_BITPIX[image.bitpix]).newbyteorder(">"))
        fill(source.stream, stored)
        return _to_native(stored, image.dtype)
    data = np.empty(image.plane_bytes, dtype=np.uint8)
    fill(source.stream, data)
    return _checked(image, _by_astropy(_minimal_file(image.hdu.cards.text, image.shape), data.tobytes()))


def _decompressed(source: Source, image: StoredImage, plane: int) -> np.ndarray:
    number = image.hdu.number
    data = source.kept.get(number)
    if data is None:
        source.stream.seek(image.hdu.start)
        stored = np.empty(image.hdu.n_bytes, dtype=np.uint8)
        fill(source.stream, stored)
        data = stored.tobytes()
        if image.n_planes > 1:  # planes that follow need it again
            source.kept[number] = data
    index = np.unravel_index(plane, image.hdu.axes[:-2]) if len(image.hdu.axes) > 2 else ()
    return _by_astropy(_minimal_file(image.hdu.cards.text), data, tuple(map(int, index)))


def _to_native(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if pixels.dtype == ">i2" and dtype == np.uint16:
        return unsigned_counts(pixels)
    native = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if dtype.kind == "u" and native.dtype.kind == "i":
        # Adding BZERO = 2**(bits - 1) to a two's complement number turns its highest bit over, and no other.
        native = native.view(dtype)
        native ^= dtype.type(1 << (8 * dtype.itemsize - 1))
    return native


def _by_astropy(header: bytes, data: bytes, plane: tuple[int, ...] = ()) -> np.ndarray:
    """Tile-compressed images and unusual scalings, which astropy knows.

    It is given the one HDU, with the cards that say how the image is stored: nothing else in the file can disturb it
    or cost time.
    """
    content = header + data + bytes(-len(data) % BLOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from astropy.io import fits  # half a second, for compressed images alone

            if _OF_LINE_LISTS.search(header):
                with fits.open(io.BytesIO(content), memmap=False, disable_image_compression=True) as hdus:
                    _hold_line_lists(hdus[-1].data)
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                hdu = hdus[-1]
                return np.asarray(hdu.section[plane] if plane else hdu.data)
    except Exception as error:  # on damaged files astropy raises whatever comes up
        raise FrameError(f"the image is damaged: {type(error).__name__}: {shown(str(error))}") from error


def _hold_line_lists(table: np.ndarray) -> None:
    """Refuse tiles of PLIO_1 that are empty or shorter than they say: their decoder would read on in memory.

    The second to the fifth word of a line list are where its instructions begin and, in one or two words, where they
    end (FITS 4.0, section 10.4.3). The instruction 1 takes the word after it as well.
    """
    others = [name for name in ("GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA") if name in (table.dtype.names or ())]
    for row, words in enumerate(table["COMPRESSED_DATA"]):
        if len(words) == 0 and any(len(table[name][row]) for name in others):
            continue
        if len(words) < _LINE_LIST_HEADER:
            raise ValueError(f"tile {row} has no line list")
        first, end = (4, int(words[2])) if words[2] > 0 else (int(words[1]) + 1, (int(words[4]) << 15) + int(words[3]))
        if first < 1 or end > len(words) or (first <= end and words[end - 1] >> 12 == 1):
            raise ValueError(f"the line list of tile {row} is cut short")


def _checked(image: StoredImage, pixels: np.ndarray) -> np.ndarray:
    if pixels.shape != image.shape or not np.can_cast(pixels.dtype, image.dtype):
        raise FrameError(
            f"the image is damaged: expected {image.dtype} of shape {image.shape}, found {pixels.dtype} of shape "
            f"{pixels.shape}"
        )
    found = pixels.astype(image.dtype, copy=False)
    if image.blank is not None and pixels.dtype.kind in "iu":  # astropy takes the blanks of unsigned pixels for values
        found[pixels == image.blank] = np.nan
    return found


def _minimal_file(text: str, shape: tuple[int, int] | None = None) -> bytes:
    """Header of one HDU without the cards that do not matter, after a primary header where it is an extension.

    With a shape, the header describes a single plane of that shape.
    """
    cards = [text[start : start + CARD] for start in range(0, len(text), CARD)]
    cards = [card for card in cards if _STRUCTURE.match(card)]
    if shape is not None:
        axes = [f"NAXIS   = {2:20d}", f"NAXIS1  = {shape[1]:20d}", f"NAXIS2  = {shape[0]:20d}"]
        cards = [*cards[:2], *axes, *(card for card in cards[2:] if not _AXES.match(card))]
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
    content = "".join(card.ljust(CARD) for card in [*cards, "END"]).encode("latin-1")
    return content + b" " * (-len(content) % BLOCK)


def data_bytes(header: Mapping[str, Any]) -> int:
    """Bytes of the data of an HDU (FITS 4.0, eq. 2)."""
    n_axes = integer(header, "NAXIS")
    if not n_axes:
        return 0
    n_elements = math.prod(integer(header, f"NAXIS{axis}") for axis in range(1, n_axes + 1))
    n_groups, n_parameters = integer(header, "GCOUNT", 1), integer(header, "PCOUNT", 0)
    return abs(integer(header, "BITPIX")) // 8 * n_groups * (n_parameters + n_elements)


def image_axes(header: Mapping[str, Any]) -> tuple[int, ...]:
    """Lengths of the axes of an image, slowest first; none for what is not an image."""
    prefix = "Z" if header.get("ZIMAGE") is True else ""
    if not prefix and header.get("XTENSION", "IMAGE") != "IMAGE":
        return ()
    return tuple(integer(header, f"{prefix}NAXIS{axis}") for axis in range(integer(header, f"{prefix}NAXIS"), 0, -1))


def named(axes: tuple[int, ...]) -> str:
    """Kind of an HDU by its axes, for a message."""
    if not axes or not all(axes):
        return "no image"
    if len(axes) > 4:
        return f"an array of {len(axes)} axes"
    return f"{'a cube' if len(axes) > 2 else 'an image'} of {' x '.join(map(str, axes))}"
