"""Time keywords of an unknown camera: where the time stands, which moment it marks, and on which scale."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from opticam_dask.frames.guessing.writers import Writer
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.times import mid_exposure_of
from opticam_dask.frames.headers.values import HeaderValues
from opticam_dask.kernels.series.timing import TIME_SCALES
from opticam_dask.kernels.units import SECONDS_PER_DAY

Way = str | tuple[str, str]

#: Single keywords that may hold a whole time, the most trusted first.
_WHOLE = (
    *(
        "DATE-BEG",
        "GPSSTART",
        "DATE-OBS",
        "GPSTIME",
        "MJD-BEG",
        "MJDUTC",
        "TIMSTAMP",
        "UT-OBS",
        "UT",
        "UTC",
        "UTC-OBS",
        "DATE",
    ),
    *("UTSTART", "UT-START", "FRAME", "DATE-UTC", "DATE_OBS", "DATEOBS", "MJD_UTC", "MJD-OBS", "MJD", "JD_UTC", "JD"),
    *("DATE-AVG", "MJD-AVG", "DATE-END", "MJD-END", "EXPSTART", "TIMESTMP"),
)
#: Dates and days that need a time of day beside them.
_DATES = ("DATE-OBS", "DATE_OBS", "DATEOBS", "UTDATE", "UT-DATE", "DATE", "MJD-OBS")
_TIMES = (*keywords.TIMES_OF_DAY, "UTSHUT", "UTMIDDLE", "UT-MID", "UT_START", "STARTUT")
#: Times that were corrected to the Sun or the barycentre; only where there is no other.
_FAR = ("BJD_TDB", "BJD_UTC", "BJD-TDB", "BJD-OBS", "BJD", "BMJD", "HJD_UTC", "HJD-OBS", "HJD", "JD-HELIO", "JD_HELIO")
#: Not a time when the file was written.
_OF_FILE = re.compile(r"creat|written|file|HDU|modif", re.IGNORECASE)
#: Times that are rounded to more than this are used only where there is no better, s: days of less than six decimals.
_COARSE = 0.5
#: Share of the frames that must have a time.
_MOST = 0.9


class FrameClock(NamedTuple):
    """Keywords that tell the time of a frame: where it stands, which moment it marks, on which scale.

    Attributes
    ----------
    ways : tuple
        Entries ``time_keywords``.
    marks : str
        Entry ``time_marks``.
    scale, reference : str or None
        Entries ``time_scale`` and ``time_reference``.
    why : str
        What the marks were taken from.
    example : str
        Time keywords of the first frame, with their values.
    """

    ways: tuple[Way, ...]
    marks: str
    scale: str | None
    reference: str | None
    why: str
    example: str


class _Entries(NamedTuple):
    time_keywords: tuple[Way, ...]
    time_marks: str
    time_scale: str | None
    time_reference: str | None


def find_clock(headers: Sequence[Mapping[str, Any]], writer: Writer | None) -> FrameClock | None:
    """Time keywords of frames, found in their headers; None where there are none.

    Parameters
    ----------
    headers : sequence of mapping
        Headers of some frames.
    writer : Writer or None
        Who wrote them.
    """
    plane = getattr(headers[0], "plane_time", None)
    if plane is not None and plane.value is not None:  # the planes of a cube have theirs
        clock = _clock(headers, (plane.name,), writer, None)
        return clock._replace(example=f"{plane.name} = {plane.value} of each plane")
    fine, coarse = list[Way](), list[Way]()
    pairs: list[Way] = [(date, time) for date in _DATES for time in _TIMES if date != time]
    for way in [*_WHOLE, *pairs]:
        found = _times(headers, way, None)
        if found is None or (isinstance(way, tuple) and any(isinstance(one, str) for one in fine)):
            continue
        (coarse if _is_poor(headers, way, found) else fine).append(way)
    usable = fine or coarse
    if usable:
        return _clock(headers, tuple(usable[:1]) + tuple(_spare(usable)), writer, None)
    for name in _FAR:
        place = next((place for words, place in keywords.FAR_NAMES if words.search(name)), "heliocentre")
        if _times(headers, name, place) is not None:
            return _clock(headers, (name,), writer, place)
    return None


def _spare(usable: Sequence[Way]) -> list[Way]:
    """Further ways that mark the same moment as the first, in case a frame lacks that."""
    first = keywords.MARKS.get(_last(usable[0]), "")
    spare = [way for way in usable[1:3] if isinstance(way, str) and keywords.MARKS.get(way, "") == first]
    return list[Way](spare[:1])


def _last(way: Way) -> str:
    return way if isinstance(way, str) else way[-1]


def _times(headers: Sequence[Mapping[str, Any]], way: Way, place: str | None) -> np.ndarray | None:
    """Times of all frames by one way, MJD; None where most have none."""
    names = (way,) if isinstance(way, str) else way
    if not all(name in headers[0] for name in names):
        return None
    entries = _Entries((way,), "start", None, place)
    values = [HeaderValues(header) for header in headers]
    times = np.array([mid_exposure_of(entries, 0.0, one)[0] for one in values])
    is_whole = not any("without a time of day" in sentence for one in values for sentence in one.warnings)
    return times if is_whole and np.isfinite(times).mean() >= _MOST else None


def _is_poor(headers: Sequence[Mapping[str, Any]], way: Way, times: np.ndarray) -> bool:
    """Whether a time is local, rounded, that of the file, or the same for all frames."""
    comment = " ".join(_comment(headers[0], name) for name in ((way,) if isinstance(way, str) else way))
    if keywords.LOCAL_COMMENT.search(comment) or (way == "DATE" and (not comment or _OF_FILE.search(comment))):
        return True
    is_same = len(times) > 2 and np.nanmax(times) == np.nanmin(times)
    texts = [str(header.get(_last(way))) for header in headers]
    is_day = all(re.fullmatch(r"\s*\d{5,7}(\.\d+)?\s*", text) for text in texts)
    rounding = min(SECONDS_PER_DAY * 10.0 ** -len(text.partition(".")[2].strip()) for text in texts) if is_day else 0.0
    return is_same or rounding > _COARSE


def _comment(header: Mapping[str, Any], name: str) -> str:
    return HeaderValues(header).comment(name)


def _clock(
    headers: Sequence[Mapping[str, Any]], ways: tuple[Way, ...], writer: Writer | None, place: str | None
) -> FrameClock:
    name = _last(ways[0])
    names = (ways[0],) if isinstance(ways[0], str) else ways[0]
    comment = " ".join(_comment(headers[0], one) for one in names)
    marks, why = _mark_of(name, comment, writer)
    named = keywords.SCALE_IN_NAME.search(name)
    told = keywords.SCALE_IN_COMMENT.search(comment)
    scale = keywords.TIMESYS.get(told[1].removesuffix(" time")) if told and not named else None
    if place == "barycentre" and named is None and scale is None and "TIMESYS" not in headers[0]:
        scale = "tdb"
        why += "; BJD taken for TDB"
    example = ", ".join(
        f"{one} = {headers[0].get(one)}" for one in ((ways[0],) if isinstance(ways[0], str) else ways[0])
    )
    return FrameClock(ways, marks, scale if scale in TIME_SCALES else None, place, why, example)


def _mark_of(name: str, comment: str, writer: Writer | None) -> tuple[str, str]:
    if (standard := keywords.MARKS.get(name)) is not None:
        return standard, "by the name of the keyword"
    for mark, words in keywords.MARKS_IN_COMMENT:
        if words.search(comment):
            return mark, "by its comment"
    if writer is not None and writer.marks:
        return writer.marks, f"as {writer.name} writes it"
    return "start", ""
