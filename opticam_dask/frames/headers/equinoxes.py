"""Positions of a header in ICRS, whatever equinox the header gives them for."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from opticam_dask.frames.headers.values import HeaderValues
from opticam_dask.kernels.units import DAYS_PER_YEAR, MJD_OF_J2000
from opticam_dask.text import shown

#: Equinoxes that are believed, years.
_EQUINOXES = (1850.0, 2100.0)
#: Equinoxes before this year are of FK4, and Besselian, where the header does not say so (FITS 4.0, 8.3).
_FIRST_FK5 = 1984.0
#: An equinox as near as this to 2000 moves a star by at most 5 arcsec (and FK5 is ICRS within 0.03), years.
_SAME_EQUINOX = 0.1
#: Positions of a mount that follows the equator of the day.
_OF_DATE = re.compile(r"^(GAPPT|J-?NOW|OF[ _]?DATE|EOD|APPARENT|TOPOCENTRIC|CURRENT)$", re.IGNORECASE)
_YEAR = re.compile(r"^([JB]?)\s*(\d{4}(?:\.\d*)?)$", re.IGNORECASE)
#: Reference system and equinox, the keywords of the standard before their older names (FITS 4.0, 8.3).
_NAMES = ("RADESYS", "RADESYSA", "RADECSYS", "EQUINOX", "EPOCH")
#: Values of a header without any of them.
_NOTHING = (None,) * len(_NAMES)


class _Equinox(NamedTuple):
    """What positions are referred to."""

    keyword: str
    found: str
    year: float  # NaN: that of the frame, or not known
    is_of_date: bool = False
    is_old: bool = False  # FK4, Besselian
    is_told: bool = False  # that it is an equinox: by a name of a system, or of a mount


def to_icrs(place: tuple[float, float], mjd_utc: float, values: HeaderValues) -> tuple[float, float]:
    """Turn a position of a header to ICRS, and tell it where that moves it.

    Parameters
    ----------
    place : (float, float)
        Right ascension and declination as the header has them, degrees.
    mjd_utc : float
        Time of the frame, the equinox of positions "of date".
    values : HeaderValues
        The header: RADESYS (or RADECSYS) and EQUINOX (or EPOCH) count, as the FITS standard 4.0, section 8.3, has them.

    Returns
    -------
    (float, float)
        Right ascension and declination in ICRS, degrees.
    """
    given = tuple([values.header.get(name) for name in _NAMES])
    equinox = None if given == _NOTHING else _equinox_of(given)
    if equinox is None or math.isnan(place[0]):
        return place
    today = 2000.0 + (mjd_utc - MJD_OF_J2000) / DAYS_PER_YEAR
    year = round(today, 3) if equinox.is_of_date else equinox.year  # a third of a day is 0.05 arcsec
    if equinox.keyword == "EPOCH" and not equinox.is_told and abs(year - today) < _SAME_EQUINOX:
        values.warn(f"EPOCH is {equinox.found}, the date of the frame and no equinox: the position is taken for ICRS")
        return place
    if not _EQUINOXES[0] <= year <= _EQUINOXES[1]:
        values.warn(f"{equinox.keyword} is {equinox.found}, no equinox that is known: the position is taken for ICRS")
        return place
    values.warn(
        f"the position is of equinox {'B' if equinox.is_old else 'J'}{year:.1f} "
        f"({equinox.keyword} is {equinox.found}): it is turned to ICRS"
    )
    return _turned(*place, year, equinox.is_old)


@lru_cache(maxsize=64)  # frames of a night have it in common
def _equinox_of(given: tuple[object, ...]) -> _Equinox | None:
    """Equinox of a header's positions; None where they are of ICRS, or of FK5 at J2000."""
    said = {name: str(value).strip() for name, value in zip(_NAMES, given, strict=True) if str(value or "").strip()}
    system_name = next((name for name in _NAMES[:3] if name in said), "")
    name = next((name for name in _NAMES[3:] if name in said), "")
    system, value = said.get(system_name, "").upper(), said.get(name, "")
    for keyword, text in ((name, value), (system_name, system)):
        if _OF_DATE.match(text):
            return _Equinox(keyword, shown(text), math.nan, is_of_date=True, is_told=True)
    if system == "ICRS":
        return None
    is_old = system.startswith("FK4")
    if not value:
        return _Equinox(system_name, shown(system), 1950.0, is_old=True) if is_old else None
    found = _YEAR.match(value)
    year = float(found[2]) if found else math.nan
    is_old = is_old or (not system and found is not None and (year < _FIRST_FK5 or found[1].upper() == "B"))
    if not is_old and abs(year - 2000.0) < _SAME_EQUINOX:
        return None
    return _Equinox(name, value if found else shown(value), year, is_old=is_old, is_told=system.startswith("FK"))


@lru_cache(maxsize=4096)  # a telescope that tracks has one position all night
def _turned(ra: float, dec: float, year: float, is_old: bool) -> tuple[float, float]:
    from astropy.coordinates import FK4, FK5, ICRS, SkyCoord  # half a second that positions of J2000 do not need
    from astropy.time import Time

    equinox = Time(year, format="byear" if is_old else "jyear", scale="tt")
    frame = FK4(equinox=equinox) if is_old else FK5(equinox=equinox)
    turned = SkyCoord(ra, dec, unit="deg", frame=frame).transform_to(ICRS())
    return float(turned.ra.deg), float(turned.dec.deg)
