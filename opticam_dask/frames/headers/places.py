"""Where a frame was pointed, and where the telescope stood, from one header."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import erfa

from opticam_dask.frames.headers import keywords
from opticam_dask.frames.headers.values import HeaderValues, Keyword, as_angle, as_number

#: Two positions of one frame that are further apart contradict each other, degrees: no pointing error is as large.
_SAME_POINTING = 1.0
#: Two sites that are further apart contradict each other, km.
_SAME_SITE = 1.0
#: Length of a degree of a great circle on the Earth.
_KM_PER_DEGREE = 111.2
_LOWEST = -500.0  # height of a telescope on the ground at least, m
_HIGHEST = 10000.0  # height of a telescope on the ground at most, m
_EARTH = (6.3e6, 6.4e6)  # distance of the ground from the centre, m
_WGS84 = 1  # ERFA's number of the ellipsoid

Place = tuple[float, float]


class PlaceEntries(Protocol):
    """Entries of an instrument that tell the pointing and the site."""

    @property
    def ra_keyword(self) -> Keyword: ...
    @property
    def dec_keyword(self) -> Keyword: ...
    @property
    def ra_unit(self) -> str | None: ...
    @property
    def longitude(self) -> float | None: ...
    @property
    def latitude(self) -> float | None: ...
    @property
    def height(self) -> float | None: ...


# ---------------------------------------------------------------- pointing


def position_of(instrument: PlaceEntries, values: HeaderValues) -> Place:
    """Right ascension and declination in degrees; NaN and a warning when there is none.

    The first pair of keywords that holds a position counts. It is held against the other positions of the header.
    """
    reason, place, used = "", None, ("", "")
    for ra_names, dec_names in _pairs(instrument.ra_keyword, instrument.dec_keyword):
        ra_name, ra_value = values.find(ra_names)
        dec_name, dec_value = values.find(dec_names)
        place, why = _as_position(ra_name, ra_value, dec_value, instrument.ra_unit, values)
        used = (ra_name, dec_name)
        if place is not None:
            break
        reason = reason or f"keywords {ra_name} and {dec_name} are {why}"
    if place is None:
        values.warn(f"{reason}: no barycentric times without a position (--target-coord RA DEC gives one)")
        return math.nan, math.nan
    _hold_against_witnesses(place, used, values)
    return place


def _pairs(ra: Keyword, dec: Keyword) -> list[tuple[Keyword, Keyword]]:
    """Keywords of right ascension and declination that belong together: lists of equal length go pair by pair."""
    if isinstance(ra, tuple) and isinstance(dec, tuple) and len(ra) == len(dec) and ra:
        return list(zip(ra, dec, strict=True))
    return [(ra, dec)]


def _as_position(
    ra_name: str,
    ra_value: str | float | None,
    dec_value: str | float | None,
    unit: str | None,
    values: HeaderValues,
) -> tuple[Place | None, str]:
    """Position that two values give, or why they give none."""
    if ra_value is None or dec_value is None:
        return None, "missing or empty"
    if ra_name.startswith("CRVAL") and not _is_celestial(values):
        return None, "of no celestial coordinates"
    ra, dec = as_angle(ra_value), as_angle(dec_value)
    if _is_placeholder(ra_value, ra, dec_value, dec):
        return None, "placeholders"
    if _in_hours(ra_name, ra_value, ra, dec, unit, values):
        ra *= 15.0
    if not (abs(ra) <= 360.0 and abs(dec) <= 90.0):
        return None, "out of range or not numbers"
    return (ra % 360.0, dec), ""


def _is_celestial(values: HeaderValues) -> bool:
    types = str(values.header.get("CTYPE1", "")), str(values.header.get("CTYPE2", ""))
    return types[0].upper().startswith("RA--") and types[1].upper().startswith("DEC-")


def _is_placeholder(ra_value: str | float, ra: float, dec_value: str | float, dec: float) -> bool:
    """Whether text stands for "telescope not connected": a bare '0' as right ascension, or two zeros.

    A numeric 0 is a position: simulated frames point at (0, 0).
    """
    if not isinstance(ra_value, str) or ra != 0.0:
        return False
    return ":" not in ra_value or (isinstance(dec_value, str) and dec == 0.0)


def _in_hours(name: str, value: str | float, ra: float, dec: float, unit: str | None, values: HeaderValues) -> bool:
    """Whether a right ascension is in hours: text with minutes is; a number is what definition and header say.

    Without either it is in degrees, as the FITS standard has all angles in numbers; that is told where hours could be
    meant.
    """
    if math.isnan(as_number(value)):
        return not re.match(r"\s*[+-]?[\d.]+\s*(d|\xb0)", str(value))
    if name in keywords.IN_DEGREES:
        return False
    if unit is not None:
        return unit == "hourangle"
    comment = values.comment(name)
    if keywords.DEGREES_COMMENT.search(comment):
        return False
    if keywords.HOURS_COMMENT.search(comment):
        return True
    if not 0.0 < ra < 24.0:
        return False
    for witness in _witnesses(name, values):
        as_degrees, as_hours = separation((ra, dec), witness), separation((15.0 * ra, dec), witness)
        if min(as_degrees, as_hours) < _SAME_POINTING:
            return as_hours < as_degrees
    values.warn(
        f"{name} is a plain number below 24 and the header does not say its unit: it is taken for degrees "
        "(ra_unit of the definition says hourangle where it is hours)"
    )
    return False


def _witnesses(name: str, values: HeaderValues) -> list[Place]:
    """Other positions of the header, whose units are beyond doubt."""
    found = []
    for ra_name, dec_name in keywords.WITNESSES:
        ra_value, dec_value = values.header.get(ra_name), values.header.get(dec_name)
        if ra_name == name or ra_value is None or dec_value is None:
            continue
        if ra_name.startswith("CRVAL") and not _is_celestial(values):
            continue
        ra, dec = as_angle(ra_value), as_angle(dec_value)
        ra *= 15.0 if isinstance(ra_value, str) and ra_name not in keywords.IN_DEGREES else 1.0
        if 0.0 <= ra <= 360.0 and abs(dec) <= 90.0 and (ra, dec) != (0.0, 0.0):
            found.append((ra, dec))
    return found


def _hold_against_witnesses(place: Place, used: tuple[str, str], values: HeaderValues) -> None:
    if any(separation(place, witness) > _SAME_POINTING for witness in _witnesses(used[0], values)):
        values.warn(
            f"{used[0]} and {used[1]} are more than {_SAME_POINTING:g} degree from another position in the header "
            f"({', '.join(name for name, _ in keywords.WITNESSES if name in values.header and name != used[0])}): "
            f"check the unit (ra_unit: hourangle or deg) and the pointing"
        )


def separation(one: Place, other: Place) -> float:
    """Degrees between two positions, each (RA, DEC) or (longitude, latitude) in degrees, by the haversine formula."""
    a1, d1, a2, d2 = map(math.radians, (*one, *other))
    square = math.sin((d2 - d1) / 2) ** 2 + math.cos(d1) * math.cos(d2) * math.sin((a2 - a1) / 2) ** 2
    return math.degrees(2.0 * math.asin(math.sqrt(min(square, 1.0))))


# ---------------------------------------------------------------- site


def site_of(instrument: PlaceEntries, values: HeaderValues) -> Site:
    """Longitude and latitude in degrees, east and north, and height in metres; NaN where not known.

    The header goes before the definition. A longitude that is that of the definition with the other sign is counted
    to the west.
    """
    defined = (instrument.longitude, instrument.latitude, instrument.height)
    given = tuple([values.header.get(name) for name in _SITE_NAMES])
    if given == _NOTHING:
        return _site((), defined)[0]
    texts = tuple(
        (name, value, values.comment(name)) for name, value in zip(_SITE_NAMES, given, strict=True) if value is not None
    )
    site, warnings = _site(texts, defined)
    values.warnings += warnings
    return site


Site = tuple[float, float, float]
#: Keywords of sites: by longitude, latitude and height, or from the centre of the Earth.
_SITE_NAMES = (
    tuple(dict.fromkeys(name for north, east, heights in keywords.SITES for name in (north, east, *heights)))
    + keywords.GEOCENTRIC
)
_NOTHING = (None,) * len(_SITE_NAMES)


@lru_cache(maxsize=256)  # the frames of a night have it in common
def _site(
    given: tuple[tuple[str, Any, str], ...], defined: tuple[float | None, float | None, float | None]
) -> tuple[Site, tuple[str, ...]]:
    """Site by the values and comments of a header and by the definition, and what is to be told."""
    longitude, latitude, height = (math.nan if value is None else value for value in defined)
    found = _sites_in({name: (value, comment) for name, value, comment in given}, (longitude, latitude))
    if not found:
        return (longitude, latitude, height), ()
    warnings = []
    source, (east, north), _ = found[0]
    if any(_distance((east, north), other) > _SAME_SITE for _, other, _ in found[1:]):
        warnings.append(
            f"the sites in {', '.join(name for name, _, _ in found)} are not the same: that in {source} is used"
        )
    if _distance((east, north), (longitude, latitude)) > _SAME_SITE:
        warnings.append(
            f"the site in {source} is more than {_SAME_SITE:g} km from that of the definition: the header's is used"
        )
        height = math.nan
    heights = [other for _, _, other in found if not math.isnan(other)]
    return (east, north, next(iter((*heights, height)))), tuple(warnings)


def _sites_in(given: Mapping[str, tuple[Any, str]], defined: Place) -> list[tuple[str, Place, float]]:
    """Sites that a header has: keyword of the latitude, longitude and latitude, height."""
    found = []
    for north_name, east_name, height_names in keywords.SITES:
        if north_name not in given or east_name not in given:
            continue
        (north_value, _), (east_value, comment) = given[north_name], given[east_name]
        north, east = _geographic(north_value, "NS"), _geographic(east_value, "EW")
        if not (abs(north) <= 90.0 and -180.0 <= east <= 360.0) or (north, east) == (0.0, 0.0):
            continue
        if _is_westward(comment, (east, north), defined):
            east = -east
        place = (east - 360.0 if east > 180.0 else east), north
        heights = (as_number(given[name][0]) for name in height_names if name in given)
        found.append((north_name, place, next((x for x in heights if _LOWEST <= x <= _HIGHEST), math.nan)))
    xyz = [as_number(given[name][0]) if name in given else math.nan for name in keywords.GEOCENTRIC]
    if _EARTH[0] < math.hypot(*xyz) < _EARTH[1]:
        east, north, above = erfa.gc2gd(_WGS84, xyz)
        found.append((keywords.GEOCENTRIC[0], (math.degrees(east), math.degrees(north)), float(above)))
    return found


def _is_westward(comment: str, place: Place, defined: Place) -> bool:
    """Whether a longitude counts to the west: by its comment, or because the definition has it with the other sign."""
    if keywords.WEST_COMMENT.search(comment):
        return True
    if keywords.DEGREES_WEST_COMMENT.search(comment):
        return place[0] > 0.0
    turned = (-place[0], place[1])
    return _distance(turned, defined) < _SAME_SITE < _distance(place, defined)


def _geographic(value: object, letters: str) -> float:
    """Latitude or longitude of a header; a letter of the second direction (S, W) turns its sign."""
    if not isinstance(value, str):
        return as_number(value)
    text = value.strip().upper()
    letter = next((mark for mark in letters if text.startswith(mark) or text.endswith(mark)), "")
    angle = as_angle(text.strip(letters + " ").lower())
    return -abs(angle) if letter and letter == letters[1] else angle


def _distance(one: Place, other: Place) -> float:
    """Kilometres between two sites (longitude, latitude); NaN where one is not known."""
    return separation(one, other) * _KM_PER_DEGREE
