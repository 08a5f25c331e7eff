"""Frames on disk: find them, read headers and pixels, and make the table of usable frames.

A frame is a 2-D image in a FITS file, plain, gzipped or tile-compressed. What a file is shows in its first bytes,
not in its name. Whatever is wrong with one file is a `FrameError` with a reason, and costs that frame only.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
import pandas as pd
from astropy.io import fits

from opticam_dask.instruments import Instrument
from opticam_dask.kernels.timing import night_of

try:
    from isal import igzip, igzip_lib, isal_zlib

    _open_gzip: Callable[..., Any] = igzip.open
    _INFLATE_ERRORS: Any = (zlib.error, igzip_lib.error, isal_zlib.error)
except ImportError:  # the standard library does the same, in twice the time
    _open_gzip = gzip.open
    _INFLATE_ERRORS = (zlib.error,)

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

_NAME = re.compile(r"\.(fits|fit|fts)(\.(gz|fz))?$", re.IGNORECASE)
_BLOCK, _CARD = 2880, 80
_MOST_HEADER_BLOCKS = 2000
_MOST_INFLATION = 1100  # deflate reaches 1032 at most
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")
_BITPIX = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}

#: Columns of the table of frames that come from the interpreted header, and their types.
_FROM_HEADER = dict.fromkeys(("key", "camera", "filter"), "object")
_FROM_HEADER |= dict.fromkeys(("mjd_utc", "exposure_time", "gain", "dark_current", "read_noise"), "float64")
_FROM_HEADER |= dict.fromkeys(("saturation", "airmass", "ra", "dec"), "float64")
_FROM_HEADER |= {"binning": "int64", "pixel_scale": "float64"}
_COLUMNS = {"file": "object", "file_size": "int64", "file_mtime": "float64", **_FROM_HEADER}
_COLUMNS |= {"ny": "int64", "nx": "int64", "dtype": "object"}


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


class Reader(Protocol):
    """What reads the pixels of a frame. It must be picklable: it goes to the workers."""

    def read(self, path: str) -> np.ndarray:
        """Return the pixels, ``(ny, nx)``, native byte order; raise `FrameError` when they cannot be had."""
        ...


def find_files(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """Find the FITS files in directories, and in all directories below them.

    Parameters
    ----------
    paths : path or sequence of path
        Directories or files. A file that is given itself is taken whatever its name; in directories it is
        ``.fits``, ``.fit`` or ``.fts``, also followed by ``.gz`` or ``.fz``, in any case. Names that start with a
        dot are skipped there.

    Returns
    -------
    list of str
        Absolute paths, sorted, each file once, even where symbolic links lead to it several times.

    Raises
    ------
    FileNotFoundError
        When a path does not exist.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    tops = [os.path.abspath(os.path.expanduser(path)) for path in given]
    if missing := [top for top in tops if not os.path.lexists(top)]:
        raise FileNotFoundError(f"expected a directory or a FITS file, but there is none at {', '.join(missing)}")
    files = [top for top in tops if not os.path.isdir(top)]
    files += _files_below([top for top in tops if os.path.isdir(top)])
    # A link loses against the file it leads to.
    by_target = {os.path.realpath(file): file for file in sorted(files, key=os.path.islink, reverse=True)}
    return sorted(by_target.values())


def _files_below(tops: list[str]) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    directories, links = list(tops), list[str]()
    while directories or links:
        directory = directories.pop() if directories else links.pop()
        try:
            status = os.stat(directory)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(directory))
        except OSError as error:
            logger.warning("%s cannot be searched: %s", directory, error.strerror)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(entry.path)
            elif _NAME.search(entry.name):
                yield entry.path


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


@dataclass(frozen=True)
class FakeReader:
    """Makes up an image from the path, for tests: the same path gives the same pixels, and no file is opened.

    Parameters
    ----------
    shape : (int, int)
        ``(ny, nx)``.
    seed : int
        Another seed gives other images.
    """

    shape: tuple[int, int]
    seed: int = 0

    def read(self, path: PathLike) -> np.ndarray:
        """Return a uint16 sky of 100 +- 10."""
        digest = hashlib.sha256(os.fspath(path).encode(errors="surrogateescape")).digest()
        rng = np.random.default_rng([self.seed, *np.frombuffer(digest, dtype=np.uint32).tolist()])
        return np.clip(np.rint(rng.normal(100.0, 10.0, self.shape)), 0, None).astype(np.uint16)


@dataclass(frozen=True, eq=False)
class Scan:
    """What the headers of many files say.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per usable frame, sorted by key, time and file.
    set_aside : list of (str, str)
        Files that are not usable, each with the reason.
    warnings : list of str
        What is missing but can be done without, each with a count and an example.
    """

    table: pd.DataFrame
    set_aside: list[tuple[str, str]]
    warnings: list[str]


def scan(
    paths: Iterable[PathLike],
    instrument: Instrument,
    *,
    n_threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
    reader_extension: int | str | None = None,
) -> Scan:
    """Read the headers of files and interpret them.

    Parameters
    ----------
    paths : iterable of path
        Files, as from `find_files`. One that is given twice is read once.
    instrument : Instrument
        What the headers mean.
    n_threads : int
        Files read at a time (waiting for a disk takes longer than reading a header).
    progress : callable, optional
        Called with the number of files done and of all files.
    reader_extension : int or str, optional
        HDU of the image; by default that of the instrument.

    Returns
    -------
    Scan
    """
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1, found {n_threads}")
    files = list(dict.fromkeys(os.path.abspath(path) for path in paths))
    extension = instrument.extension if reader_extension is None else reader_extension
    size = 16 if len(files) < 4096 else 256
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    tables, set_aside, n_done = [_as_table([])], list[tuple[str, str]](), 0
    warned: dict[str, tuple[int, str]] = {}

    def scan_batch(batch: list[str]) -> list[_Result]:
        return [_scan_file(file, instrument, extension) for file in batch]

    with ThreadPoolExecutor(n_threads) as pool:
        for results in pool.map(scan_batch, batches):
            tables.append(_as_table([result.row for result in results if result.row]))
            set_aside += [(result.file, result.reason) for result in results if not result.row]
            for result in results:
                for text in result.warnings:
                    count, example = warned.get(text, (0, result.file))
                    warned[text] = (count + 1, example)
            n_done += len(results)
            if progress is not None:
                progress(n_done, len(files))
    table = pd.concat([part for part in tables if len(part)] or tables[:1], ignore_index=True)
    nights = night_of(table["mjd_utc"].to_numpy(), instrument.longitude).astype(object)
    table.insert(table.columns.get_loc("mjd_utc"), "night", nights)
    return Scan(
        table=table.sort_values(["key", "mjd_utc", "file"], kind="stable", ignore_index=True),
        set_aside=sorted(set_aside),
        warnings=[f"{text} ({count} of {len(files)} files, e.g. {file})" for text, (count, file) in warned.items()],
    )


def time_gaps(table: pd.DataFrame) -> list[tuple[str, str, str, float, float]]:
    """Find steps in time of more than ten times the median step of a key and night.

    Parameters
    ----------
    table : pandas.DataFrame
        Table of a `Scan`.

    Returns
    -------
    list of (key, file_before, file_after, gap_s, median_s)
        Steps between successive frames in seconds.
    """
    gaps = []
    for (key, _night), frames in table.groupby(["key", "night"], sort=True):
        ordered = frames.sort_values(["mjd_utc", "file"], kind="stable")
        files, steps = ordered["file"].to_numpy(), np.diff(ordered["mjd_utc"].to_numpy()) * 86400.0
        median_step = float(np.median(steps[steps > 0.0])) if (steps > 0.0).any() else math.inf
        for index in np.flatnonzero(steps > 10.0 * median_step):
            gaps.append((str(key), files[index], files[index + 1], float(steps[index]), median_step))
    return gaps


class _Result(NamedTuple):
    file: str
    row: tuple[Any, ...] = ()
    reason: str = ""
    warnings: tuple[str, ...] = ()


def _scan_file(path: str, instrument: Instrument, extension: int | str | None) -> _Result:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return _Result(shown, reason="the name of the file is not UTF-8 text: rename it")
    try:
        with _frame_errors():
            status = os.stat(path)
        header = read_header(path, extension)
    except FrameError as error:
        return _Result(path, reason=error.reason)
    frame = instrument.interpret(header.values)
    if frame.problems:
        return _Result(path, reason="; ".join(frame.problems))
    interpreted = [getattr(frame, name) for name in _FROM_HEADER]
    row = (path, status.st_size, status.st_mtime, *interpreted, *header.shape, header.dtype.name)
    return _Result(path, row=row, warnings=frame.warnings)


def _as_table(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    columns: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(_COLUMNS)
    data = {name: np.array(values, dtype=_COLUMNS[name]) for name, values in zip(_COLUMNS, columns, strict=True)}
    return pd.DataFrame(data)


class _Image(NamedTuple):
    """The image HDU of a file; the stream that it was found in stands at its data."""

    header: FitsHeader
    bitpix: int
    is_plain: bool  # pixels that need no more than a change of byte order or sign bit


@contextmanager
def _frame_errors() -> Iterator[None]:
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
    with _frame_errors(), open(path, "rb") as file:
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
