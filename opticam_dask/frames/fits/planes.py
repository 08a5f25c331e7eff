"""Times of the planes of a cube: from a table, from keywords of each plane, or from a start and a step."""

from __future__ import annotations

import io
import math
import re
import statistics
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.frames.fits.cards import BLOCK, Cards, PlaneTime, integer
from opticam_dask.frames.fits.errors import FrameError
from opticam_dask.frames.fits.images import FitsHeader, Hdu
from opticam_dask.frames.fits.layouts import StoredFrame
from opticam_dask.frames.fits.streams import Source, fill
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import Keyword, as_number
from opticam_dask.kernels.units import SECONDS_PER_DAY

#: A table of times is not larger.
_MOST_TABLE_BYTES = 1 << 28
_NUMBERED = re.compile(r"(.*?)[-_ ]?(\d+)")
_DATE = re.compile(r"\s*\d{4}-\d{2}-\d{2}[T ]\d{1,2}:\d{2}")
#: Days that are taken for a Modified Julian Date: 1970 to 2100.
_MJD = (40587.0, 88069.0)
#: Days that are taken for a Julian Date: 1970 to 2100.
_JD = (2440587.5, 2488069.5)
_SECONDS = {"": 1.0, "S": 1.0, "SEC": 1.0, "SECOND": 1.0, "SECONDS": 1.0, "MS": 1e-3, "US": 1e-6, "D": SECONDS_PER_DAY}
_SECONDS |= {"DAY": SECONDS_PER_DAY, "DAYS": SECONDS_PER_DAY, "MIN": 60.0, "H": 3600.0}


@dataclass(frozen=True)
class PlaneKeywords:
    """Keywords that tell the times of the planes of a cube.

    Attributes
    ----------
    time : tuple of str
        Keywords of times, the most trusted first: columns of a table, or keywords with the number of a plane.
    step : str or tuple of str
        Keywords of the seconds from one plane to the next.
    """

    time: tuple[str, ...] = ()
    step: Keyword = keywords.PLANE_STEP


def headers_of(source: Source, cube: StoredFrame, tables: Sequence[Hdu], known: PlaneKeywords) -> Iterator[FitsHeader]:
    """The header of each plane of a cube, with its time; of the first planes, where a table of times is cut short.

    Parameters
    ----------
    source : Source
        Open file.
    cube : StoredFrame
        The cube.
    tables : sequence of Hdu
        Tables of the file.
    known : PlaneKeywords
        What tells times.

    Raises
    ------
    FrameError
        When the header does not say when each plane was taken.
    """
    n_planes, header = cube.n_planes, cube.header
    for table in tables:
        if (rows := _rows(source, table, n_planes, known)) is not None:
            return _with_rows(header, rows)
    if (columns := _numbered(header.values, n_planes, known)) is not None:
        return _with_rows(header, columns)
    times = _by_axis(header.values, n_planes) or _by_step(header.values, n_planes, known)
    if times is None:
        step = " or ".join((known.step,) if isinstance(known.step, str) else known.step[:3])
        raise FrameError(
            f"a cube of {n_planes} planes, and its header does not say when each was taken: expected a table with a "
            f"row a plane and a column of times, a keyword for each plane (DATE0001, ...), CTYPE3 = 'TIME', or the "
            f"step from plane to plane ({step}, or plane_step_keyword of the definition){_told(tables)}"
        )
    return (header._replace(values=_overlaid(header.values, {}, time)) for time in times)


def _told(tables: Sequence[Hdu]) -> str:
    """Tables of a cube that are none of its times, in words."""
    listed = [f"{table.cards.get('NAXIS2')} row(s) in HDU {table.number}" for table in tables[:3]]
    return f"; found tables of {', '.join(listed)}" if listed else ""


def _overlaid(values: Cards, own: Mapping[str, Any], time: PlaneTime) -> Cards:
    cards = Cards({**values, **own}) if own else Cards(values)
    cards.text, cards.plane_time, cards.contradicted = values.text, time, values.contradicted
    return cards


@dataclass(frozen=True)
class _PlaneRows:
    """Values of each plane by keyword, and which of them is the time."""

    columns: Mapping[str, Sequence[Any]]
    times: Sequence[PlaneTime]
    shared: Mapping[str, Any]


def _with_rows(header: FitsHeader, rows: _PlaneRows) -> Iterator[FitsHeader]:
    for index, time in enumerate(rows.times):
        own = {**rows.shared, **{name: values[index] for name, values in rows.columns.items()}}
        yield header._replace(values=_overlaid(header.values, own, time))


# ---------------------------------------------------------------- a table


def _rows(source: Source, table: Hdu, n_planes: int, known: PlaneKeywords) -> _PlaneRows | None:
    """Rows of a table that has one a plane and a column of times; None for other tables."""
    if table.cards.get("NAXIS2") != n_planes or table.n_bytes > _MOST_TABLE_BYTES:
        return None
    n_bytes = min(table.n_bytes, source.most_bytes - table.start)
    n_rows = min(n_planes, n_bytes // max(1, integer(table.cards, "NAXIS1")))
    if n_rows < 1:
        return None
    columns = {name: values[:n_rows] for name, values in _columns(source, table, n_bytes).items()}
    names = {name.upper().replace("_", "-"): name for name in columns}
    for wanted in [*known.time, *keywords.PLANE_TIMES]:
        name = names.get(wanted.upper().replace("_", "-"))
        if name is None or (times := _times(name, columns[name], table.cards)) is None:
            continue
        own = {key.upper(): values for key, values in columns.items() if key != name}
        said = ("TIMESYS", "MJDREF", "TREFPOS")
        return _PlaneRows(own, times, {key: table.cards[key] for key in said if key in table.cards})
    return None


def _columns(source: Source, table: Hdu, n_bytes: int) -> dict[str, list[Any]]:
    """Columns of one value a row, by name, of a table of which so many bytes are there."""
    from astropy.io import fits  # half a second, for tables alone

    source.stream.seek(table.start)
    data = np.zeros(table.n_bytes, dtype=np.uint8)
    fill(source.stream, data[:n_bytes])
    primary = fits.PrimaryHDU().header.tostring().encode("latin-1")
    content = primary + table.cards.text.encode("latin-1") + data.tobytes() + bytes(-table.n_bytes % BLOCK)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(content), memmap=False) as hdus:
                found = hdus[1].data
                return {
                    str(name): np.asarray(found[name]).tolist()
                    for name in found.names
                    if np.asarray(found[name]).ndim == 1 and np.asarray(found[name]).dtype.kind in "iufSU"
                }
    except Exception as error:  # on damaged files astropy raises whatever comes up
        raise FrameError(f"the table in HDU {table.number} is damaged: {type(error).__name__}") from error


def _times(name: str, values: Sequence[Any], cards: Cards) -> list[PlaneTime] | None:
    """Times of a column: dates, days, or seconds since a reference or the header's own time; None where it is none.

    Most must be: a row that holds none costs its plane.
    """
    upper = name.upper()
    if all(isinstance(value, str) for value in values):
        is_date = _holds_mostly(bool(_DATE.match(value)) for value in values)
        return [PlaneTime(upper, value.strip()) for value in values] if is_date else None
    numbers = [as_number(value) for value in values]
    low, high = _interval_of(numbers)
    if _holds_mostly(low <= number < high for number in numbers):
        return [PlaneTime(upper, number) for number in numbers]
    index = next(key[5:] for key, value in cards.items() if key.startswith("TTYPE") and str(value).strip() == name)
    unit = str(cards.get(f"TUNIT{index}", cards.get("TIMEUNIT", ""))).strip().upper()
    seconds = _SECONDS.get(unit)
    if seconds is None or upper.startswith(("MJD", "JD", "BJD", "HJD", "DATE")):
        return None
    reference = as_number(cards.get("MJDREF"))
    if not math.isfinite(reference):
        reference = as_number(cards.get("MJDREFI")) + as_number(cards.get("MJDREFF", 0.0))
    if math.isfinite(reference):
        return [PlaneTime(upper, reference + number * seconds / SECONDS_PER_DAY) for number in numbers]
    is_near = [-SECONDS_PER_DAY <= number * seconds <= 10 * SECONDS_PER_DAY for number in numbers]
    if not _holds_mostly(is_near):
        return None
    return [
        PlaneTime(upper, None, number * seconds) if is_one else PlaneTime(upper, math.nan)
        for number, is_one in zip(numbers, is_near, strict=True)
    ]


def _holds_mostly(said: Iterable[bool]) -> bool:
    flags = list(said)
    return 2 * sum(flags) > len(flags)


def _interval_of(numbers: Sequence[float]) -> tuple[float, float]:
    finite = [number for number in numbers if math.isfinite(number)]
    return _interval(statistics.median_low(finite) if finite else math.nan)


def _interval(number: float) -> tuple[float, float]:
    return _JD if number >= _JD[0] else _MJD


# ---------------------------------------------------------------- keywords of each plane


def _numbered(values: Cards, n_planes: int, known: PlaneKeywords) -> _PlaneRows | None:
    """Keywords with the number of a plane that hold times, from 0 or from 1; None without."""
    families: dict[str, dict[int, str]] = {}
    for keyword in values:
        if keyword[-1:].isdigit() and (found := _NUMBERED.fullmatch(keyword)) is not None:
            families.setdefault(found[1], {})[int(found[2])] = keyword
    whole: dict[str, list[Any]] = {}
    for stem, members in families.items():
        first = 0 if 0 in members else 1
        numbers = range(first, n_planes + first)
        if _holds_mostly(number in members for number in numbers):  # one that is missing costs its plane
            whole[stem] = [values[members[number]] if number in members else None for number in numbers]
    preferred = [stem for name in [*known.time, *keywords.PLANE_TIMES] for stem in whole if _is_stem(stem, name)]
    for stem in [*preferred, *whole]:
        is_structure = stem in ("NAXIS", "CTYPE", "CRVAL", "CDELT", "CRPIX", "CUNIT") or not stem
        if not is_structure and (times := _stem_times(stem, whole[stem])) is not None:
            own = {_full_name(other): column for other, column in whole.items() if other != stem}
            return _PlaneRows({name: column for name, column in own.items() if name}, times, {})
    return None


def _is_stem(stem: str, name: str) -> bool:
    """Whether a keyword, cut short to make room for a number, is that of a time."""
    return len(stem) >= 2 and name.upper().startswith(stem)


def _full_name(stem: str) -> str:
    """Keyword of an exposure time that was cut short to make room for a number; empty for others."""
    return next((name for name in keywords.EXPOSURE if len(stem) >= 4 and name.startswith(stem)), "")


def _stem_times(stem: str, column: Sequence[Any]) -> list[PlaneTime] | None:
    """Times of keywords; None where they are none. Most must be: one that is none costs its plane."""
    if _holds_mostly(isinstance(value, str) and _DATE.match(value) is not None for value in column):
        return [PlaneTime(stem, str(value or "")) for value in column]
    numbers = [as_number(value) for value in column]
    low, high = _interval_of(numbers)
    is_time = _holds_mostly(low <= number < high for number in numbers)
    return [PlaneTime(stem, number) for number in numbers] if is_time else None


# ---------------------------------------------------------------- a start and a step


def _by_axis(values: Cards, n_planes: int) -> list[PlaneTime] | None:
    """Times of the third axis where that is one of time (FITS 4.0, 9.2 and 9.5); None for others."""
    kind = str(values.get("CTYPE3", "")).strip().upper().split("-")[0]
    step = as_number(values.get("CDELT3", values.get("CD3_3")))
    unit = _SECONDS.get(str(values.get("CUNIT3", values.get("TIMEUNIT", ""))).strip().upper())
    if kind not in {"TIME", *keywords.TIMESYS} or not step > 0.0 or unit is None:
        return None
    first = as_number(values.get("CRVAL3", 0.0)) + (1.0 - as_number(values.get("CRPIX3", 1.0))) * step
    name = "CTYPE3" if kind == "TIME" else f"CTYPE3-{kind}"
    low, high = _interval(first)
    reference = as_number(values.get("MJDREF", values.get("MJDREFI")))
    if math.isfinite(reference):
        start = reference + as_number(values.get("MJDREFF", 0.0)) + first * unit / SECONDS_PER_DAY
        return [PlaneTime(name, start + plane * step * unit / SECONDS_PER_DAY) for plane in range(n_planes)]
    if unit == SECONDS_PER_DAY and low <= first < high:
        return [PlaneTime(name, first + plane * step) for plane in range(n_planes)]
    return [PlaneTime(name, None, (first + plane * step) * unit) for plane in range(n_planes)]


def _by_step(values: Cards, n_planes: int, known: PlaneKeywords) -> list[PlaneTime] | None:
    for name in (known.step,) if isinstance(known.step, str) else known.step:
        step = as_number(values.get(name))
        if step > 0.0:
            comment = values.comment(name)
            unit = next((seconds for words, seconds in keywords.SECONDS_IN_COMMENT if words.search(comment)), 1.0)
            return [PlaneTime(name, None, plane * step * unit) for plane in range(n_planes)]
    return None
