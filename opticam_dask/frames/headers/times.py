"""When a frame was exposed, from one header: which keyword, on which scale, at which moment of the exposure."""

from __future__ import annotations

import math
import re
from datetime import date
from functools import lru_cache
from typing import NamedTuple, Protocol

from opticam_dask.frames.fits.cards import PlaneTime
from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import HeaderValues, as_number, sexagesimal
from opticam_dask.kernels.series.timing import FAR_PLACES, day_length, parse_iso, utc_mjd
from opticam_dask.kernels.units import JD_OF_MJD, ORDINAL_OF_MJD, SECONDS_PER_DAY
from opticam_dask.text import shown

#: First day that is believed as the date of a frame: 1970-01-01, MJD.
MJD_1970 = 40587
#: Last day that is believed as the date of a frame: 2100-01-01, MJD.
MJD_2100 = 88069
#: Characters of a time at most: the rest of a damaged card is not searched.
_LONGEST_TIME = 200
#: Exposure times from the moment a time stamp marks to the middle of the exposure.
TO_MIDDLE = {"start": 0.5, "middle": 0.0, "end": -0.5}
_DATE_ALONE = re.compile(r"\s*(\d{4}[-/]\d{1,2}[-/]\d{1,2}|\d{2}/\d{2}/\d{2})\s*")
#: A longer text is no date alone.
_LONGEST_DATE = 16
_ZONE = re.compile(r"([+-]\d\d:?\d\d|Z)\s*$")
_TIME_OF_DAY = re.compile(r"\s*\d{1,2}(:|\s|h)\s*\d{1,2}")

#: Two times of one exposure agree within this many seconds,
_SAME_TIME = 0.1
#: and this share of the exposure time, beside what they are rounded to.
_SAME_SHARE = 0.1
#: A time of the end may be that of the end of the read-out: later by up to this many seconds,
_READ_OUT = 60.0
#: and this share of the exposure time.
_READ_OUT_SHARE = 0.5
#: Scales differ by at most this many seconds; a second time may be on another one than the first.
_BETWEEN_SCALES = 70.0


class TimeEntries(Protocol):
    """Entries of an instrument that tell the time of a frame."""

    @property
    def time_keywords(self) -> tuple[str | tuple[str, str], ...]: ...
    @property
    def time_marks(self) -> str: ...
    @property
    def time_scale(self) -> str | None: ...
    @property
    def time_reference(self) -> str | None: ...


class _DateAlone(ValueError):
    """A date without a time of day."""


class _TimeStamp(NamedTuple):
    """One time of a header."""

    names: tuple[str, ...]
    day: int
    seconds: float
    rounding: float  # s
    fraction: float | None  # of the day, where the header counts days


class MidExposure(NamedTuple):
    """Middle of an exposure.

    Attributes
    ----------
    mjd_utc : float
        Time, MJD (UTC); NaN where it is not known.
    place : str
        What it is for: heliocentre or barycentre, or empty for the telescope. Such a time is expressed in UTC; what
        light took to get there is taken off where the position of the target is known.
    offset : float
        Seconds by which it is later than the time that the header tells.
    """

    mjd_utc: float = math.nan
    place: str = ""
    offset: float = 0.0


def mid_exposure_of(instrument: TimeEntries, exposure_time: float, values: HeaderValues) -> MidExposure:
    """Middle of the exposure, by the first way of the instrument that gives a time."""
    stamp = _stamp_of(instrument, values)
    if stamp is None:
        return MidExposure()
    plane: PlaneTime | None = getattr(values.header, "plane_time", None)
    scale = _scale_of(instrument, stamp, values)
    if scale is None or math.isnan(exposure_time):
        return MidExposure()
    mark = _mark_of(instrument, stamp, values)
    _hold_against_comment(stamp.names[-1], mark, scale, values)
    # the days of other scales have no leap seconds
    seconds = stamp.seconds if scale == "utc" or stamp.fraction is None else stamp.fraction * SECONDS_PER_DAY
    if scale == "ut1":
        seconds, scale = seconds - _ut1_minus_utc(values), "utc"
    place = _place_of(instrument, stamp, values)
    if plane is None and not place:  # other times are those of the whole cube
        _hold_against_others(stamp, mark, exposure_time, values)
    offset = exposure_time * TO_MIDDLE[mark]
    of_plane = 0.0 if plane is None else plane.offset
    return MidExposure(utc_mjd(stamp.day, seconds + of_plane + offset, scale), place, offset + of_plane)


def _place_of(instrument: TimeEntries, stamp: _TimeStamp, values: HeaderValues) -> str:
    """Place that a time is for, where the definition believes in it; what a header says goes before that."""
    if instrument.time_reference not in FAR_PLACES:
        return ""
    by_name = next((place for words, place in keywords.FAR_NAMES if words.search(stamp.names[-1])), "")
    reference = str(values.header.get("TREFPOS", ""))
    by_header = next((place for words, place in keywords.FAR_NAMES if words.search(reference)), "")
    if not by_name and not by_header and keywords.MARKS.get(stamp.names[-1]) is not None:
        return ""  # DATE-BEG and its kin are times of the telescope
    return by_name or by_header or str(instrument.time_reference)


def _stamp_of(instrument: TimeEntries, values: HeaderValues) -> _TimeStamp | None:
    """The time of a header; of a plane of a cube its own, or that of the first plane."""
    plane: PlaneTime | None = getattr(values.header, "plane_time", None)
    if plane is not None and plane.value is not None:
        try:
            return _read(instrument, [(plane.name, plane.value)], values)
        except ValueError as error:
            values.problems.append(f"time: {plane.name} of the plane: {error}")
            return None
    stamp = _stamp_of_header(instrument, values)
    if stamp is None or plane is None:
        return stamp
    if (mark := keywords.MARKS.get(stamp.names[-1], "start")) != "start":
        names = stamp.names[-1]
        values.problems.append(f"time: {names} is the {mark} of the cube: expected the time of its first plane")
        return None
    return stamp


def _stamp_of_header(instrument: TimeEntries, values: HeaderValues) -> _TimeStamp | None:
    reasons: list[str] = []
    unreadable: list[str] = []
    dates_alone: list[str] = []
    for way in instrument.time_keywords:
        found = [values.find(name) for name in ((way,) if isinstance(way, str) else way)]
        label = " + ".join(name for name, _ in found)
        if any(value is None for _, value in found):
            reasons.append(f"{label} is missing or empty")
            continue
        try:
            stamp = _read(instrument, [(name, value) for name, value in found if value is not None], values)
        except _DateAlone as error:
            reasons.append(f"{label}: {error}")
            dates_alone.append(label)
            continue
        except ValueError as error:
            reasons.append(f"{label}: {error}")
            unreadable.append(label)
            continue
        if unreadable:
            values.warn(f"no date and time in {', '.join(unreadable)}: {label} is used")
        return stamp
    for label in dates_alone:
        if (completed := _with_time_of_day(instrument, label, values)) is not None:
            return completed
    values.problems.append("time: expected a date and time from 1970 to 2100; " + "; ".join(reasons))
    return None


def _with_time_of_day(instrument: TimeEntries, date_name: str, values: HeaderValues) -> _TimeStamp | None:
    """A date that stands alone, with the time of day that the header has under one of the usual names."""
    for name in keywords.TIMES_OF_DAY:
        time = values.header.get(name)
        if name == date_name or not isinstance(time, str) or not _TIME_OF_DAY.match(time):
            continue
        try:
            stamp = _read(instrument, [(date_name, values.header[date_name]), (name, time)], values)
        except ValueError:
            continue
        values.warn(f"{date_name} is a date without a time of day: {date_name} + {name} is used")
        return stamp
    return None


def _read(instrument: TimeEntries, found: list[tuple[str, str | float]], values: HeaderValues) -> _TimeStamp:
    names = tuple(name for name, _ in found)
    is_near = instrument.time_reference not in FAR_PLACES
    for name in names:
        if is_near and _is_heliocentric(name):
            raise ValueError(f"{name} is a time at the Sun or the barycentre, not at the telescope (time_reference)")
        if name in keywords.LOCAL and not _ZONE.search(str(found[-1][1])):
            raise ValueError(f"{name} is local time, of an unknown zone")
    if is_near and (reference := values.header.get("TREFPOS")) and keywords.FAR_REFERENCE.search(str(reference)):
        raise ValueError(f"its TREFPOS is {shown(reference)}, not the telescope")
    return _TimeStamp(names, *_split_time([value for _, value in found]))


@lru_cache(maxsize=64)
def _is_heliocentric(name: str) -> bool:
    return keywords.HELIOCENTRIC.search(name) is not None


def _split_time(found: list[str | float]) -> tuple[int, float, float, float | None]:
    """Day (MJD), seconds and rounding (s) of a date-time, of an MJD or JD, or of a date and a time of day.

    Seconds of an MJD or JD, whose fraction of the day comes last, are those of a UTC day: as in ERFA and astropy, that
    with a leap second has 86401 of them, and the fraction counts in them.
    """
    text = str(found[0])
    fraction = None
    if len(text) > _LONGEST_TIME:
        raise ValueError(f"expected a date and time, found {shown(text)}")
    number = as_number(found[0])
    if len(found) == 2:
        if math.isfinite(number):  # the day as an MJD
            text = _date_of(number)
        if math.isfinite(as_number(found[1])):
            raise ValueError(f"expected a time of day HH:MM:SS, found {shown(found[1])}")
        # A time of day that has a date of its own is refused below: it must not be mended with another date.
        time = re.sub(r"^\s*(\d{1,2})\s*[h\s]\s*(\d{1,2})\s*[m\s]\s*([\d.]+)\s*s?", r"\1:\2:\3", str(found[1]))
        text = f"{re.split('[T ]', text)[0]}T{time}"
        number = math.nan
    if math.isfinite(number):
        mjd = number - JD_OF_MJD if number > 2e6 else number
        day = math.floor(mjd)
        if number == math.floor(number) and MJD_1970 <= day < MJD_2100:
            raise _DateAlone(f"{shown(found[0])} is a day without a time of day")
        fraction, rounding = mjd - day, SECONDS_PER_DAY * 10.0 ** -_decimals(number)
        seconds = fraction * day_length(day)
    else:
        if len(text) <= _LONGEST_DATE and _DATE_ALONE.fullmatch(text):
            raise _DateAlone(f"{shown(text)} is a date without a time of day")
        if len(text) > _LONGEST_TIME:
            raise ValueError(f"expected a date and time, found {shown(text)}")
        day, seconds = parse_iso(text)
        rounding = 0.0 if "." in text else 1.0
    if not MJD_1970 <= day < MJD_2100:
        raise ValueError(f"{shown(text)} is not from 1970 to 2100")
    return day, seconds, rounding, fraction


def _date_of(number: float) -> str:
    """ISO date of a whole MJD or JD that stands for a day."""
    mjd = number - JD_OF_MJD if number > 2e6 else number
    if not MJD_1970 <= mjd < MJD_2100:
        raise ValueError(f"{number} is not a day from 1970 to 2100")
    return date.fromordinal(math.floor(mjd) + ORDINAL_OF_MJD).isoformat()


def _decimals(number: float) -> int:
    return len(repr(number).partition(".")[2])


# ---------------------------------------------------------------- scale and mark


def _scale_of(instrument: TimeEntries, stamp: _TimeStamp, values: HeaderValues) -> str | None:
    """Scale of a time: that of the definition, of the keyword's name, of TIMESYS (FITS 4.0, 9.2.1), or UTC.

    None, with a problem, where TIMESYS names none that can be converted.
    """
    declared = values.header.get("TIMESYS")
    text = re.split(r"[(\s]", declared.strip().upper())[0] if isinstance(declared, str) else ""
    by_header = keywords.TIMESYS.get(text)
    by_name = _scale_in_name(stamp.names[-1])
    if (said := instrument.time_scale or by_name) is not None:
        if text and by_header != said and not (by_header == "ut1" and said == "utc"):
            source = "the definition" if instrument.time_scale else f"the name of {stamp.names[-1]}"
            values.warn(f"TIMESYS is {shown(declared)}, but {source} says {said}: {said} is used")
        return said
    if not text:
        return "utc"
    if by_header is None:
        values.problems.append(
            f"time: expected a time scale in keyword TIMESYS ({', '.join(keywords.TIMESYS)}), found {shown(declared)} "
            f"(time_scale of the definition goes before it)"
        )
    return by_header


@lru_cache(maxsize=64)
def _scale_in_name(name: str) -> str | None:
    found = keywords.SCALE_IN_NAME.search(name)
    return keywords.TIMESYS[found[1].upper()] if found else None


def _ut1_minus_utc(values: HeaderValues) -> float:
    """UT1 - UTC in seconds, where the header has it; else 0, and that is told."""
    difference = as_number(values.find(("UT1-UTC", "DUT1", "UT1UTC"))[1])
    if abs(difference) < 1.0:
        return difference
    values.warn("TIMESYS is UT1 and the header has no UT1-UTC: times are uncertain by up to 0.9 s")
    return 0.0


def _mark_of(instrument: TimeEntries, stamp: _TimeStamp, values: HeaderValues) -> str:
    """Moment of the exposure: that of the FITS standard for its keywords, else that of the definition."""
    standard = keywords.MARKS.get(stamp.names[-1])
    if standard is None or standard == instrument.time_marks:
        return instrument.time_marks
    values.warn(
        f"{stamp.names[-1]} marks the {standard} of an exposure, though the definition says {instrument.time_marks}: "
        f"the {standard} is used"
    )
    return standard


def _hold_against_comment(name: str, mark: str, scale: str, values: HeaderValues) -> None:
    """Tell where the comment of a time says that it is something else than it is taken for, or that it is shifted."""
    if (comment := values.comment(name)) and (said := _said_by_comment(comment)) != ("", ""):
        said_mark, said_scale = said
        if said_mark not in ("", mark):
            values.warn(
                f"the comment of {name} ({shown(comment)}) says that it is the {said_mark} of the exposure: it is "
                f"taken for the {mark} (time_marks)"
            )
        if said_scale not in ("", scale):
            values.warn(
                f"the comment of {name} ({shown(comment)}) says {said_scale}: it is taken for {scale} (time_scale)"
            )
    for zone in keywords.ZONES:
        zone_said = values.header.get(zone)
        if isinstance(zone_said, str) and keywords.LOCAL_COMMENT.search(zone_said):
            values.warn(f"{zone} is {shown(zone_said)}: {name} is taken for {scale} (time_scale)")
    shift = as_number(values.header.get("TIMEOFFS", 0.0))
    if shift != 0.0:
        values.warn(f"TIMEOFFS is {shown(values.header['TIMEOFFS'])}: it is not added to the times of the header")


@lru_cache(maxsize=256)
def _said_by_comment(comment: str) -> tuple[str, str]:
    """Moment of the exposure and scale (or "local time") that a comment names; empty where it names none or several."""
    marks = [mark for mark, words in keywords.MARKS_IN_COMMENT if words.search(comment)]
    scale = ""
    if not keywords.UTC_COMMENT.search(comment):
        named = keywords.SCALE_IN_COMMENT.search(comment)
        scale = keywords.TIMESYS[named[1].removesuffix(" time")] if named else ""
        scale = "local time" if keywords.LOCAL_COMMENT.search(comment) else scale
    return marks[0] if len(marks) == 1 else "", scale


# ---------------------------------------------------------------- other times of the header


def _hold_against_others(stamp: _TimeStamp, mark: str, exposure_time: float, values: HeaderValues) -> None:
    """Tell where another time of the header does not fit the one that is used, its mark and the exposure time."""
    for name, other_mark in keywords.OTHER_TIMES:
        value = values.header.get(name)
        if value is None or name in stamp.names or not (isinstance(value, str) or value):
            continue
        try:
            day, seconds, rounding, _ = _split_time([value])
        except ValueError:
            continue
        elapsed = (day - stamp.day) * SECONDS_PER_DAY + seconds - stamp.seconds
        slack = _SAME_TIME + _SAME_SHARE * exposure_time + rounding + stamp.rounding
        if (fault := _fault(elapsed, mark, other_mark, exposure_time, slack)) is not None:
            used = " + ".join(stamp.names)
            values.warn(f"{used} and {name} contradict each other, or the exposure time: {fault}")
    _hold_against_times_of_day(stamp, exposure_time, values)


def _hold_against_times_of_day(stamp: _TimeStamp, exposure_time: float, values: HeaderValues) -> None:
    """Tell where a time of day without a date is hours or minutes from the one that is used."""
    for name in keywords.OTHER_TIMES_OF_DAY:
        text = values.header.get(name)
        if not isinstance(text, str) or name in stamp.names or not _TIME_OF_DAY.match(text):
            continue
        hours = sexagesimal(text)
        elapsed = math.remainder(hours * (SECONDS_PER_DAY / 24.0) - stamp.seconds, SECONDS_PER_DAY)
        if abs(elapsed) > exposure_time + _READ_OUT + _BETWEEN_SCALES:  # not where it is no number
            used = " + ".join(stamp.names)
            values.warn(
                f"{used} and {name} contradict each other: they are not of the same exposure (a local time?); {used} "
                "is used"
            )


def _fault(elapsed: float, mark: str, other_mark: str, exposure_time: float, slack: float) -> str | None:
    """What is wrong with a second time, ``elapsed`` seconds after the first; None where they fit."""
    if other_mark == "any":
        is_same = abs(elapsed) <= exposure_time + slack + _BETWEEN_SCALES
        return None if is_same else "they are not of the same exposure (a local time, or another date?)"
    place = {"start": 0.0, "middle": 0.5, "end": 1.0}
    expected = (place[other_mark] - place[mark]) * exposure_time
    if abs(expected) > 1.0 and abs(1e3 * elapsed - expected) <= _SAME_SHARE * abs(expected):
        return "the time between them is a thousandth of it: is it in milliseconds? ([ms] in its comment says so)"
    late = {"start": 0.0, "middle": 0.5, "end": 1.0}[other_mark] * (_READ_OUT + _READ_OUT_SHARE * exposure_time)
    fits = [
        assumed
        for assumed in ("start", "middle", "end")
        if -slack <= elapsed - (place[other_mark] - place[assumed]) * exposure_time <= slack
    ]
    if mark in fits or (0.0 <= elapsed - (place[other_mark] - place[mark]) * exposure_time <= late and not fits):
        return None
    if fits:
        return f"the time fits the {fits[0]} of the exposure and is taken for the {mark}"
    return "the time between them is not that of the exposure"
