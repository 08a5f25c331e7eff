"""Airmass of a position at a site, vectorised over frames."""

from __future__ import annotations

import erfa
import numpy as np

from opticam_dask.kernels.series.earth_rotation import universal_time
from opticam_dask.kernels.units import JD_OF_MJD, SECONDS_PER_DAY

#: TT - UTC in days, to a minute: precession, nutation and aberration change by less than 0.0002 arcsec in it.
_TT_MINUS_UTC = 69.0 / SECONDS_PER_DAY


#: Pressure at sea level of the standard atmosphere (ICAO), hPa.
_PRESSURE = 1013.25
#: Its temperature at sea level, K.
_TEMPERATURE = 288.15
#: Its lapse rate, K per metre.
_LAPSE = 0.0065


def airmass(
    mjd_utc: np.ndarray,
    ra: np.ndarray | float,
    dec: np.ndarray | float,
    longitude: float,
    latitude: float,
    height: float = 0.0,
) -> np.ndarray:
    """Airmass by the formula of Pickering, from the apparent altitude.

    ``X = 1 / sin(h + 244 / (165 + 47 h^1.1))`` with ``h`` in degrees (Pickering 2002, DIO 12, 1, section 3 and
    footnote 39).

    Parameters
    ----------
    mjd_utc : array_like of float, shape (n,)
        Times at the observatory, days.
    ra, dec : array_like of float, scalar or shape (n,)
        Position (ICRS), degrees.
    longitude, latitude : float
        Place of the observatory: degrees, positive to the east and to the north.
    height : float
        Height of the observatory above sea level, metres.

    Returns
    -------
    ndarray of float64, shape (n,)
        NaN below the horizon and where time, position or site is not known.
    """
    above = apparent_altitude(altitude(mjd_utc, ra, dec, longitude, latitude), height)
    degrees = np.where(above > 0.0, above, np.nan)
    # the formula stays a little below 1 at the zenith (0.99999...)
    values: np.ndarray = np.maximum(1.0 / np.sin(np.deg2rad(degrees + 244.0 / (165.0 + 47.0 * degrees**1.1))), 1.0)
    return values


def altitude(
    mjd_utc: np.ndarray, ra: np.ndarray | float, dec: np.ndarray | float, longitude: float, latitude: float
) -> np.ndarray:
    """Altitude of a position above the horizon, without refraction.

    Precession, nutation and annual aberration are those of the nearest midnight (UTC), so that a frame's value depends
    on its own time alone; the sidereal time is that of the frame. The error is below 3 arcsec (0.0001 in airmass at
    3) inside the range of the Earth rotation table that comes with astropy, and below 15 arcsec beyond it, where UT1
    is taken as UTC. Nothing is downloaded.

    Parameters
    ----------
    mjd_utc, ra, dec, longitude, latitude
        Times (days), positions (ICRS degrees) and site (degrees), as :func:`airmass` takes them.

    Returns
    -------
    ndarray of float64, shape (n,)
        Degrees; NaN where something is not known.
    """
    mjd, ra, dec = np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in (mjd_utc, ra, dec)))
    result = np.full(mjd.shape, np.nan)
    good = np.isfinite(mjd) & np.isfinite(ra) & np.isfinite(dec)
    if not good.any() or not np.isfinite([longitude, latitude]).all():
        return result
    times = mjd[good]
    lon, declination = _intermediate_place(times, np.deg2rad(ra[good]), np.deg2rad(dec[good]))
    hour_angle = erfa.era00(JD_OF_MJD, times + _ut1_minus_utc(times)) + np.deg2rad(longitude) - lon
    _, above = erfa.hd2ae(hour_angle, declination, np.deg2rad(latitude))
    result[good] = np.rad2deg(above)
    return result


def _intermediate_place(times: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination in the system of the date (CIRS), radians."""
    of_date = np.empty_like(ra), np.empty_like(dec)
    midnight = np.rint(times)
    for day in np.unique(midnight):
        chosen = midnight == day
        astrom, _ = erfa.apci13(JD_OF_MJD, day + _TT_MINUS_UTC)
        of_date[0][chosen], of_date[1][chosen] = erfa.atciqz(ra[chosen], dec[chosen], astrom)
    return of_date


def _ut1_minus_utc(times: np.ndarray) -> np.ndarray:
    """UT1 - UTC in days from the table that comes with astropy; 0 outside of its range."""
    from astropy.utils import iers  # half a second

    seconds, status = universal_time().ut1_utc(JD_OF_MJD, times, return_status=True)
    known = (status != iers.TIME_BEFORE_IERS_RANGE) & (status != iers.TIME_BEYOND_IERS_RANGE)
    days: np.ndarray = np.where(known, seconds.to_value("s"), 0.0) / SECONDS_PER_DAY
    return days


def apparent_altitude(altitude: np.ndarray, height: float = 0.0) -> np.ndarray:
    """Altitude at which a source is seen, with refraction by a standard atmosphere.

    Saemundsson (1986, Sky & Telescope 72, 70; Meeus 1998, Astronomical Algorithms, equation 16.4), scaled by the
    pressure and temperature of the standard atmosphere at the height of the site. Refraction at the true altitude
    of -1 degree serves below it too.

    Parameters
    ----------
    altitude : ndarray
        True altitude, degrees.
    height : float
        Metres above sea level.

    Returns
    -------
    ndarray
        Degrees.
    """
    temperature = _TEMPERATURE - _LAPSE * height
    pressure = _PRESSURE * (temperature / _TEMPERATURE) ** 5.25588
    true = np.maximum(altitude, -1.0)
    arcmin = 1.02 / np.tan(np.deg2rad(true + 10.3 / (true + 5.11))) * pressure / 1010.0 * 283.0 / temperature
    seen: np.ndarray = altitude + np.maximum(arcmin, 0.0) / 60.0
    return seen
