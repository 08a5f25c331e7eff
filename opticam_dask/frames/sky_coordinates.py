"""World coordinates of frames: from their headers, in the pixels that are reduced, and to and from ICRS."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord, UnitSphericalRepresentation
from astropy.io.fits import Header
from astropy.io.fits.verify import VerifyWarning
from astropy.wcs import WCS, FITSFixedWarning, Sip, WcsError
from astropy.wcs.utils import proj_plane_pixel_scales

#: Pixels of a header's coordinates that are smaller than this, arcsec, stand for "not set".
_LEAST_SCALE = 1e-3
#: Pixels of a header's coordinates that are larger than this, arcsec, stand for "not set".
_LARGEST_SCALE = 300.0

#: Keywords that world coordinates are made of.
_KEYWORDS = re.compile(
    r"^(WCSAXES|CTYPE[12]|CRVAL[12]|CRPIX[12]|CDELT[12]|CUNIT[12]|CROTA[12]|C[DV]?[12]_[12]|CD[12]_[12]|PC[12]_[12]|"
    r"PV[12]_\d+|[AB]P?_(ORDER|DMAX|\d_\d)|LONPOLE|LATPOLE|EQUINOX|EPOCH|RADESYSa?|RADECSYS|NAXIS[12]?)$"
)

WcsHeader = dict[str, str | int | float]


def wcs_of_header(header: Mapping[str, Any]) -> WCS | None:
    """World coordinates that a header describes (TAN, SIP, TPV, ...), in the pixels of the file.

    Returns
    -------
    WCS or None
        None where the header has none, or only placeholders.
    """
    cards = {name: value for name, value in header.items() if _KEYWORDS.match(name) and value is not None}
    if not {"CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"} <= cards.keys():
        return None
    numbers = {name: value for name, value in cards.items() if name.startswith(("CRVAL", "CRPIX", "CD", "PC"))}
    if any(isinstance(value, (str, bool)) or not math.isfinite(value) for value in numbers.values()):
        return None
    if not any(name.startswith(("CD", "PC")) for name in numbers):
        return None
    cards.pop("NAXIS", None)
    try:
        return _checked(cards)
    except (WcsError, ValueError, TypeError, KeyError, MemoryError):
        return None


def _checked(cards: Mapping[str, Any]) -> WCS | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        warnings.simplefilter("ignore", VerifyWarning)
        found = WCS(Header(cards), naxis=2, relax=True)
        if not found.has_celestial:
            return None
        scale = scale_of(found)
        middle = icrs_of_pixels(found, found.wcs.crpix[:1] - 1.0, found.wcs.crpix[1:] - 1.0)
    is_sane = _LEAST_SCALE <= scale <= _LARGEST_SCALE and np.isfinite(middle).all()
    return found if is_sane else None


def reduced_pixels(wcs: WCS, first: tuple[int, int], rebin_factor: int) -> WCS:
    """World coordinates of the pixels that are reduced.

    Parameters
    ----------
    wcs : WCS
        World coordinates of the pixels of the file.
    first : (int, int)
        ``(x, y)`` of the first pixel that is not overscan, from 0.
    rebin_factor : int
        Pixels along each axis that are summed to one.

    Notes
    -----
    The centre of the first summed pixel lies ``(n - 1) / 2`` pixels from that of the first pixel. Terms of SIP of
    powers p and q change by ``n ** (p + q - 1)``; PV terms work behind the matrix and stay.
    """
    changed, n = wcs.deepcopy(), int(rebin_factor)
    crpix = (np.asarray(wcs.wcs.crpix) - first - 0.5) / n + 0.5
    changed.wcs.crpix = crpix
    if wcs.wcs.has_cd():
        changed.wcs.cd = wcs.wcs.cd * n
    else:
        changed.wcs.cdelt = wcs.wcs.cdelt * n
    if wcs.sip is not None:
        changed.sip = Sip(*(_rebinned_sip(terms, n) for terms in (wcs.sip.a, wcs.sip.b)), None, None, crpix)
    changed.wcs.set()
    return changed


def _rebinned_sip(terms: np.ndarray | None, n: int) -> np.ndarray | None:
    if terms is None:
        return None
    powers = np.add.outer(np.arange(len(terms)), np.arange(len(terms)))
    return np.asarray(terms * float(n) ** (powers - 1))


def wcs_header(wcs: WCS) -> WcsHeader:
    """Keywords of world coordinates, as they are stored and exported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = wcs.to_header(relax=True)
    return {name: value for name, value in header.items() if name not in ("DATE-OBS", "MJD-OBS", "MJDREF")}


def read_wcs(cards: Mapping[str, Any]) -> WCS:
    """World coordinates from the keywords that are stored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(Header(dict(cards)), naxis=2, relax=True)


def tangent_wcs(ra: float, dec: float) -> WCS:
    """Tangent plane at a place (degrees): its "pixels" are degrees to the east and to the north, from 0."""
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.crval, plane.wcs.crpix, plane.wcs.cdelt = [ra, dec], [1.0, 1.0], [1.0, 1.0]
    plane.wcs.radesys = "ICRS"
    plane.wcs.set()
    return plane


def to_plane(ra0: float, dec0: float, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Places in the tangent plane at ``(ra0, dec0)``, degrees to the east and north, shape (n, 2).

    NaN for places a quarter of the sky or more away, which no plane holds.
    """
    ra, dec = np.atleast_1d(np.asarray(ra, dtype=float)), np.atleast_1d(np.asarray(dec, dtype=float))
    is_near = separations(ra0, dec0, ra, dec) < 80.0
    plane = np.full((len(ra), 2), np.nan)
    if is_near.any():
        plane[is_near] = np.column_stack(tangent_wcs(ra0, dec0).wcs_world2pix(ra[is_near], dec[is_near], 0))
    return plane


def separations(ra0: float, dec0: float, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Angular distances from a place, degrees (haversine, exact for small angles too)."""
    a, d, a0, d0 = np.radians(ra), np.radians(dec), math.radians(ra0), math.radians(dec0)
    half = np.sin((d - d0) / 2) ** 2 + np.cos(d) * math.cos(d0) * np.sin((a - a0) / 2) ** 2
    apart: np.ndarray = np.degrees(2.0 * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0))))
    return apart


def scale_of(wcs: WCS) -> float:
    """Arcseconds of a pixel."""
    return float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs.celestial)))) * 3600.0


def north_and_east(wcs: WCS, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions on a frame, at one of its pixels, of the north and of the east: ``(x, y)`` of length 1."""
    ra, dec = (float(value[0]) for value in icrs_of_pixels(wcs, np.array([x]), np.array([y])))
    step = scale_of(wcs) / 3600.0
    around = tangent_wcs(ra, dec).wcs_pix2world([[0.0, step], [step, 0.0]], 0)
    away = np.column_stack(pixels_of_icrs(wcs, *around.T)) - (x, y)
    north, east = away / np.hypot(*away.T)[:, None]
    return north, east


def icrs_of_pixels(wcs: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination, ICRS degrees, of pixels counted from 0."""
    place = wcs.pixel_to_world(np.asarray(x, dtype=float), np.asarray(y, dtype=float)).icrs
    return np.asarray(place.ra.deg), np.asarray(place.dec.deg)


def pixels_of_icrs(wcs: WCS, ra: np.ndarray | float, dec: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, counted from 0, of places of the sky; NaN where the coordinates do not reach."""
    ra, dec = np.atleast_1d(np.asarray(ra, dtype=float)), np.atleast_1d(np.asarray(dec, dtype=float))
    places = SkyCoord(UnitSphericalRepresentation(ra * u.deg, dec * u.deg), frame="icrs")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = wcs.world_to_pixel(places)
    except (ValueError, RuntimeError, WcsError):  # astropy's iteration does not converge far outside of the frame
        x, y = wcs.celestial.wcs_world2pix(ra, dec, 0)
    return np.asarray(x, dtype=float), np.asarray(y, dtype=float)
