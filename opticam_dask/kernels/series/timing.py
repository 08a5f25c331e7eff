"""Times of frames: UTC date-times, mid-exposure, barycentric dates, nights and good time intervals."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING

import erfa
import numpy as np

from opticam_dask.kernels.series.earth_rotation import bundled_table
from opticam_dask.kernels.units import JD_OF_MJD, ORDINAL_OF_MJD, SECONDS_PER_DAY

if TYPE_CHECKING:
    from astropy.coordinates import EarthLocation
    from astropy.time import Time

#: Time scales a stamp may be in. GPS time is TAI - 19 s, TT is TAI + 32.184 s, both by definition; the others follow
#: from TT (IAU resolutions 2000 B1.9 and 2006 B3).
_TAI_MINUS_SCALE = {"tai": 0.0, "gps": 19.0, "tt": -32.184, "tdb": -32.184, "tcg": -32.184, "tcb": -32.184}
TIME_SCALES = ("utc", *_TAI_MINUS_SCALE)
#: Places that times may be given for instead of the telescope.
FAR_PLACES = ("heliocentre", "barycentre")
#: MJD (TT) of 1977-01-01 00:00:32.184, when TT, TCG and TCB were the same, and their rates since.
_MJD_1977 = 43144.0003725
_RATE_TCG = 6.969290134e-10  # of TCG against TT (IAU resolution 2000 B1.9)
_RATE_TCB = 1.550519768e-8  # of TCB against TDB (IAU resolution 2006 B3)
_TDB_AT_1977 = -6.55e-5  # s

#: Distance of the nodes between which the observer's position is interpolated, in days (10 minutes).
_NODES_PER_DAY = 144

#: Time zones reach from UTC-12 to UTC+14.
_MOST_ZONE_HOURS = 14

_DATE_TIME = re.compile(
    r"\s*(?:(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})|"
    r"(?P<old_day>\d{2})/(?P<old_month>\d{2})/(?P<old_year>\d{2}))"
    r"(?:[T\s]\s*(?P<hour>\d{1,2}):(?P<minute>\d{1,2})(?::(?P<second>\d{1,2}(?:\.\d*)?))?"
    r"\s*(?P<zone>Z|UTC?|GPS|[+-]\d{2}:?\d{2})?(?:\s+[^A-Za-z\s+-][^A-Za-z]*)?)?\s*"
)


@lru_cache(maxsize=1)
def _leap_seconds() -> tuple[tuple[int, float], ...]:
    """First day (MJD) and TAI - UTC in seconds of each step since 1972, the latest first."""
    table = erfa.leap_seconds.get()
    table = table[table["year"] >= 1972]
    steps = [(date(int(y), int(m), 1).toordinal() - ORDINAL_OF_MJD, float(dt)) for y, m, dt in table]
    return tuple(reversed(steps))


@lru_cache(maxsize=1024)
def _tai_minus_utc(day: int) -> float:
    """Seconds that TAI is ahead of UTC at the start of a UTC day; before 1972 the value of 1972."""
    return next((offset for first_day, offset in _leap_seconds() if day >= first_day), 10.0)


@lru_cache(maxsize=1024)
def day_length(day: int) -> float:
    """Seconds of a UTC day: 86401 when it ends with a leap second."""
    return SECONDS_PER_DAY + _tai_minus_utc(day + 1) - _tai_minus_utc(day)


def parse_iso(text: str) -> tuple[int, float]:
    """Split an ISO 8601 date-time into its day and the seconds since the start of that day.

    A numeric offset (``+0000``, ``-07:00``) is applied, so that the result is UTC; ``Z``, ``UTC`` and ``GPS``
    after the time are taken off, and so are numbers that follow after a blank. Words are not: they might be a time
    zone, or a.m. or p.m. A missing time is midnight. ``DD/MM/YY`` is a date of 1900 to 1999 (FITS standard 4.0,
    section 4.4.2.1).

    Parameters
    ----------
    text : str
        ``YYYY-MM-DD``, a ``T`` or blank, ``HH:MM:SS.ffff``. Seconds may be 60, as in a leap second.

    Returns
    -------
    day : int
        Modified Julian day number.
    seconds : float
        Seconds since midnight; outside 0 to 86400 when an offset leads to another day.

    Raises
    ------
    ValueError
        When the text is no date-time, or names a day or an hour that does not exist.
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a date and time YYYY-MM-DDTHH:MM:SS, found {text!r}")
    part = match.groupdict()
    hour, minute, second = int(part["hour"] or 0), int(part["minute"] or 0), float(part["second"] or 0.0)
    if hour > 23 or minute > 59 or second >= 61.0:
        raise ValueError(f"there is no such time of day: {text!r}")
    try:
        year = int(part["year"] or 1900 + int(part["old_year"]))
        day = date(year, int(part["month"] or part["old_month"]), int(part["day"] or part["old_day"])).toordinal()
    except ValueError as error:
        raise ValueError(f"there is no such date: {text!r}") from error
    return day - ORDINAL_OF_MJD, hour * 3600.0 + minute * 60.0 + second - _zone_seconds(part["zone"])


def _zone_seconds(zone: str | None) -> float:
    if zone is None or zone[0] not in "+-":
        return 0.0
    sign, hours, minutes = -1.0 if zone[0] == "-" else 1.0, int(zone[1:3]), int(zone[-2:])
    if hours > _MOST_ZONE_HOURS or minutes > 59:
        raise ValueError(f"there is no such time zone: {zone!r}")
    return sign * (hours * 3600.0 + minutes * 60.0)


def utc_mjd(day: int, seconds: float, scale: str = "utc") -> float:
    """MJD (UTC) of a day and the seconds since its start, which may lie outside that day.

    Days with a leap second have 86401 seconds, and the fraction of the day counts in them, as in ERFA and astropy.

    Parameters
    ----------
    day : int
        Modified Julian day number.
    seconds : float
        Seconds since the start of the day, at most about ten years either way.
    scale : {"utc", "tai", "gps", "tt", "tdb", "tcg", "tcb"}
        Scale of ``day`` and ``seconds``. TDB is that of the geocentre, 2 microseconds from that of a telescope at most.

    Raises
    ------
    ValueError
        When the scale is unknown or ``seconds`` is not a usable number.
    """
    if scale not in TIME_SCALES:
        raise ValueError(f"time scale must be one of {', '.join(TIME_SCALES)}, not {scale!r}")
    if not abs(seconds) < 3e8:
        raise ValueError(f"expected a number of seconds of at most ten years, found {seconds}")
    if scale != "utc":
        seconds += _TAI_MINUS_SCALE[scale] - _ahead_of_tt(day + seconds / SECONDS_PER_DAY, scale) - _tai_minus_utc(day)
    while seconds < 0.0:
        day -= 1
        seconds += day_length(day)
    while seconds >= (length := day_length(day)):
        seconds -= length
        day += 1
    return day + seconds / length


def _ahead_of_tt(mjd: float, scale: str) -> float:
    """Seconds that a scale is ahead of TT; 0 for the scales that are a fixed number of seconds from it.

    TDB: the series of Fairhead and Bretagnon (1990, A&A 229, 240), for the geocentre. TCG and TCB: their rates.
    """
    if scale not in ("tdb", "tcg", "tcb"):
        return 0.0
    since = (mjd - _MJD_1977) * SECONDS_PER_DAY
    if scale == "tcg":
        return _RATE_TCG * since
    periodic = float(erfa.dtdb(JD_OF_MJD, mjd, 0.0, 0.0, 0.0, 0.0))
    return periodic + (_RATE_TCB * since - _TDB_AT_1977 if scale == "tcb" else 0.0)


def barycentric_mjd(
    mjd_utc: np.ndarray,
    ra: np.ndarray | float,
    dec: np.ndarray | float,
    longitude: float,
    latitude: float,
    height: float,
) -> np.ndarray:
    """MJD (TDB) at which the light would have arrived at the barycentre of the solar system.

    The light travel time is that of `astropy.time.Time.light_travel_time` with the built-in ephemeris, and TDB
    that of the observatory. Both are computed at fixed nodes ten minutes apart and interpolated by a cubic
    (error below 0.01 microseconds), so that a frame's value depends on its own time alone. Nothing is
    downloaded: the Earth rotation table that comes with astropy serves; before and after it (about a year ahead)
    the uncertain rotation angle costs up to two microseconds.

    Parameters
    ----------
    mjd_utc : array_like of float, shape (n,)
        Times at the observatory, days. NaN gives NaN.
    ra, dec : array_like of float, scalar or shape (n,)
        Position (ICRS) of the source, degrees. NaN gives NaN.
    longitude, latitude : float
        Place of the observatory: degrees, positive to the east and to the north.
    height : float
        Height of the observatory above the ellipsoid, metres.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    ValueError
        When the site is not given.
    """
    site = _checked_site(longitude, latitude, height)
    mjd, ra, dec = np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in (mjd_utc, ra, dec)))
    result = np.full(mjd.shape, np.nan)
    good = np.isfinite(mjd) & np.isfinite(ra) & np.isfinite(dec)
    if not good.any():
        return result
    tt, position, tdb_minus_tt = _observer(mjd[good], site)
    delay = (position * _directions(ra[good], dec[good])).sum(axis=1)
    result[good] = (tt.jd1 - JD_OF_MJD) + (tt.jd2 + (tdb_minus_tt + delay) / SECONDS_PER_DAY)
    return result


def barycentric_mjd_of_sources(
    mjd_utc: np.ndarray, ra: np.ndarray, dec: np.ndarray, longitude: float, latitude: float, height: float
) -> np.ndarray:
    """MJD (TDB) at the barycentre, as :func:`barycentric_mjd`, for several sources at each time.

    Parameters
    ----------
    mjd_utc : ndarray, shape (n,)
        Times at the telescope.
    ra, dec : ndarray, shape (m,)
        Positions of the sources, ICRS degrees.
    longitude, latitude, height
        Site of the observatory: degrees to the east and to the north, and metres.

    Returns
    -------
    ndarray of float64, shape (n, m)
    """
    site = _checked_site(longitude, latitude, height)
    result = np.full((len(mjd_utc), len(ra)), np.nan)
    good = np.isfinite(mjd_utc)
    if not good.any():
        return result
    tt, position, tdb_minus_tt = _observer(np.asarray(mjd_utc, dtype=np.float64)[good], site)
    delay = (position[:, None] * _directions(ra, dec)).sum(axis=2)
    result[good] = (tt.jd1 - JD_OF_MJD)[:, None] + (tt.jd2[:, None] + (tdb_minus_tt[:, None] + delay) / SECONDS_PER_DAY)
    return result


def _checked_site(longitude: float, latitude: float, height: float) -> np.ndarray:
    site = np.array([longitude, latitude, height], dtype=np.float64)
    if not np.isfinite(site).all():
        raise ValueError(
            "barycentric times need the longitude, latitude and height of the observatory; found "
            f"{longitude}, {latitude}, {height}. Give the instrument a site."
        )
    return site


def _directions(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors to places of the sky (degrees), shape (n, 3)."""
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _observer(mjd_utc: np.ndarray, site: np.ndarray) -> tuple[Time, np.ndarray, np.ndarray]:
    """Times in TT, and there the barycentric position (n, 3) in light seconds and TDB - TT (n,) in seconds."""
    # half a second of astropy, which nobody needs who only reads headers
    from astropy.coordinates import EarthLocation
    from astropy.time import Time

    with _bundled_tables():
        tt = Time(mjd_utc, format="mjd", scale="utc").tt
        return tt, *_interpolate_observer(tt, EarthLocation.from_geodetic(*site))


def utc_to_tdb(mjd_utc: np.ndarray) -> np.ndarray:
    """MJD (TDB, at the geocentre) from MJD (UTC), for times that were not measured at a telescope."""
    from astropy.time import Time

    result = np.full(np.shape(mjd_utc), np.nan)
    good = np.isfinite(mjd_utc)
    with _bundled_tables():
        tt = Time(np.asarray(mjd_utc)[good], format="mjd", scale="utc").tt
    mjd_tt = (tt.jd1 - JD_OF_MJD) + tt.jd2
    ahead = np.array([_ahead_of_tt(float(mjd), "tdb") for mjd in mjd_tt.ravel()]).reshape(mjd_tt.shape)
    result[good] = (tt.jd1 - JD_OF_MJD) + (tt.jd2 + ahead / SECONDS_PER_DAY)
    return result


def at_telescope(
    mjd_utc: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    longitude: float,
    latitude: float,
    height: float,
    *,
    place: str,
) -> np.ndarray:
    """MJD (UTC) of light at the telescope, from the time at which it was at the Sun or at the barycentre.

    Parameters
    ----------
    mjd_utc : ndarray, shape (n,)
        Times at ``place``, expressed in UTC.
    ra, dec : ndarray, shape (n,)
        Position (ICRS) of the source, degrees.
    longitude, latitude, height : float
        Place of the telescope: degrees, degrees and metres.
    place : {"heliocentre", "barycentre"}
        Where the times are for.

    Returns
    -------
    ndarray, shape (n,)
    """
    from astropy.coordinates import EarthLocation, SkyCoord
    from astropy.time import Time

    site = EarthLocation.from_geodetic(longitude, latitude, height)
    direction = SkyCoord(ra, dec, unit="deg")
    kind = "heliocentric" if place == "heliocentre" else "barycentric"
    found = np.asarray(mjd_utc, dtype=np.float64)
    with _bundled_tables():
        for _ in range(3):  # light takes 500 s at most, in which the Earth moves by 0.05 light seconds
            time = Time(found, format="mjd", scale="utc", location=site)
            found = np.asarray(
                mjd_utc - time.light_travel_time(direction, kind=kind, ephemeris="builtin").to_value("day")
            )
    return found


@contextmanager
def _bundled_tables() -> Iterator[None]:
    """Let astropy use the Earth rotation table it came with, at any date: no download, no error, no warning."""
    from astropy.utils import iers

    chosen = iers.earth_orientation_table
    with (
        # another table may have been chosen
        chosen.set(bundled_table()) if chosen._value is None else nullcontext(),
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("auto_max_age", None),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _interpolate_observer(tt: Time, location: EarthLocation) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric position (n, 3) in light seconds and TDB - TT (n,) in seconds, at times in TT."""
    from astropy.time import Time

    scaled = (tt.jd1 - JD_OF_MJD) * _NODES_PER_DAY + tt.jd2 * _NODES_PER_DAY
    first = np.floor(scaled).astype(np.int64) - 1
    nodes, index = np.unique(first[:, np.newaxis] + np.arange(4), return_inverse=True)
    at_nodes = _observer_at(Time(nodes / _NODES_PER_DAY, format="mjd", scale="tt", location=location))
    s = scaled - first  # 1 to 2: between the second and the third of four nodes
    weights = (  # Lagrange's cubic through 0, 1, 2, 3
        -(s - 1) * (s - 2) * (s - 3) / 6,
        s * (s - 2) * (s - 3) / 2,
        -s * (s - 1) * (s - 3) / 2,
        s * (s - 1) * (s - 2) / 6,
    )
    index = index.reshape(-1, 4)
    values = sum(weight[:, np.newaxis] * at_nodes[index[:, node]] for node, weight in enumerate(weights))
    return values[:, :3], values[:, 3]


def _observer_at(times: Time) -> np.ndarray:
    """Barycentric x, y, z of the observer in light seconds, and TDB - TT in seconds: shape (n, 4)."""
    from astropy import constants
    from astropy import units as u
    from astropy.coordinates import GCRS, ICRS, solar_system_ephemeris

    geocentric = times.location.get_itrs(obstime=times).transform_to(GCRS(obstime=times))
    with solar_system_ephemeris.set("builtin"):
        position = geocentric.transform_to(ICRS()).cartesian.xyz.to_value(u.m).T
    return np.column_stack([position / constants.c.value, times.delta_tdb_tt])


def night_of(mjd_utc: np.ndarray, longitude: float | None) -> np.ndarray:
    """Date of the evening on which each night began.

    Parameters
    ----------
    mjd_utc : array_like of float, shape (n,)
        Times, days.
    longitude : float or None
        Of the observatory, degrees east. Its mean solar time less twelve hours gives the date, so that a night
        ends at noon. None gives the UTC date.

    Returns
    -------
    ndarray of str, shape (n,)
        ``YYYY-MM-DD``; an empty string where the time is NaN.
    """
    mjd = np.asarray(mjd_utc, dtype=np.float64)
    shift = 0.0 if longitude is None else longitude / 360.0 - 0.5
    is_known = np.isfinite(mjd)
    day = np.floor(np.where(is_known, mjd + shift, 0.0)).astype(np.int64)
    dates = (np.datetime64("1858-11-17") + day.astype("timedelta64[D]")).astype(str)
    return np.where(is_known, dates, "")


def good_time_intervals(time: np.ndarray, threshold: float = 1.5) -> np.ndarray:
    """Intervals without gaps.

    A step longer than ``threshold`` times the median step starts a new interval, and each interval reaches half a
    median step beyond its first and last time.

    Parameters
    ----------
    time : array_like of float, shape (n,)
        Ascending times in any unit; NaN are left out.
    threshold : float
        At least 1, so that intervals cannot overlap.

    Returns
    -------
    ndarray of float64, shape (m, 2)
        Start and end of each interval; ``(0, 2)`` when there is no time. A single time gives an interval of no length.

    Raises
    ------
    ValueError
        When the times are not ascending or the threshold is below 1.
    """
    if not threshold >= 1.0:
        raise ValueError(f"threshold must be at least 1 (median steps), found {threshold}")
    times = np.asarray(time, dtype=np.float64)
    times = times[np.isfinite(times)]
    steps = np.diff(times)
    if (steps < 0.0).any():
        raise ValueError("times must be ascending: sort them first")
    positive = steps[steps > 0.0]
    median_step = float(np.median(positive)) if positive.size else 0.0
    is_gap = steps > threshold * median_step
    starts = times[np.concatenate([[True], is_gap])] if times.size else times
    ends = times[np.concatenate([is_gap, [True]])] if times.size else times
    return np.column_stack([starts - median_step / 2, ends + median_step / 2])
