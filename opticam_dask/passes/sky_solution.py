"""World coordinates of a reference frame: from the stars of a sky catalogue, or from a header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.wcs import WCS, Sip

from opticam_dask.frames import sky_coordinates
from opticam_dask.frames.sky_catalogs import SkyCatalog
from opticam_dask.kernels.images.matching import sky_match
from opticam_dask.kernels.images.matching.match import AlignmentError
from opticam_dask.kernels.units import ARCSECONDS_PER_DEGREE

#: The pointing is trusted to this, degrees.
REACH = 10.0 / 60.0
#: The tangent point is moved to the middle of the frame in this many rounds; each leaves a millionth of the way.
_ROUNDS = 4


class NoSolution(Exception):
    """The frame was not found on the sky; the message says why and what may help."""


@dataclass(frozen=True, eq=False)
class SkySolution:
    """Sky coordinates of the sources of a catalogue.

    Attributes
    ----------
    arrays : dict of ndarray
        The variables of ``schema.SKY``.
    attributes : dict
        ``wcs`` (FITS keywords), ``wcs_origin``, and of a solution by stars ``wcs_n_matched``, ``wcs_rms`` (arcseconds),
        ``wcs_rms_pixel``, ``wcs_order``.
    """

    arrays: dict[str, np.ndarray]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The solution in words."""
        told = self.attributes
        scale = sky_coordinates.scale_of(sky_coordinates.read_wcs(told["wcs"]))
        if "wcs_n_matched" not in told:
            return f"coordinates on the sky from {told['wcs_origin']}, {scale:.4g} arcseconds a pixel."
        return (
            f"coordinates on the sky from {told['wcs_n_matched']} stars of {told['wcs_origin']}, rms "
            f"{told['wcs_rms']:.2g} arcseconds ({told['wcs_rms_pixel']:.2f} pixels), {scale:.4g} arcseconds a pixel, "
            f"polynomial of order {told['wcs_order']}."
        )


def from_wcs(wcs: WCS, catalog: Mapping[str, np.ndarray], origin: str) -> SkySolution:
    """Coordinates of a catalogue's sources by given world coordinates; their errors are not known."""
    ra, dec = sky_coordinates.icrs_of_pixels(wcs, catalog["x"], catalog["y"])
    unknown = np.full(len(ra), np.nan)
    names = np.full(len(ra), "", dtype=object)
    arrays = {"ra": ra, "dec": dec, "ra_err": unknown, "dec_err": unknown.copy(), "name": names}
    return SkySolution(arrays, {"wcs": sky_coordinates.wcs_header(wcs), "wcs_origin": origin})


def from_stars(
    catalog: Mapping[str, np.ndarray],
    shape: tuple[int, int],
    sky: SkyCatalog,
    *,
    pointing: tuple[float, float],
    scale: float,
    mjd: float,
) -> SkySolution:
    """Find the sources of a frame among the stars of the sky.

    Parameters
    ----------
    catalog : dict of ndarray, shape (source,)
        ``x``, ``y`` and ``flux`` of the sources.
    shape : (int, int)
        Shape of the frame, ``(ny, nx)``.
    sky : SkyCatalog
        Stars around the pointing.
    pointing : (float, float)
        Right ascension and declination of about the middle of the frame, degrees.
    scale : float
        Arcseconds of a pixel, to 5 per cent.
    mjd : float
        When the frame was taken: stars move.

    Raises
    ------
    NoSolution
        When no match of the frame with the stars there is certain.
    """
    ra, dec = sky.at(mjd)
    degrees = scale / ARCSECONDS_PER_DEGREE
    diagonal = float(np.hypot(*shape)) * degrees
    is_near = sky_coordinates.separations(*pointing, ra, dec) < REACH + diagonal
    if np.count_nonzero(is_near) < 3:
        raise NoSolution(
            f"{sky.origin} has {np.count_nonzero(is_near)} stars within {60 * (REACH + diagonal):.0f} arcminutes of "
            f"the pointing (RA {pointing[0]:.4f}, Dec {pointing[1]:.4f} degrees), at least 3 are needed"
        )
    rows = np.flatnonzero(is_near)
    xy, brightness = np.column_stack([catalog["x"], catalog["y"]]), sky.brightness()
    try:
        transform = sky_match.find_on_sky(
            xy,
            catalog["flux"],
            sky_coordinates.to_plane(*pointing, ra[rows], dec[rows]),
            None if brightness is None else brightness[rows],
            shape=shape,
            scale=degrees,
            reach=REACH,
        )
        wcs, fit, kept = _solve(xy, shape, (ra[rows], dec[rows]), transform, pointing)
    except AlignmentError as error:
        raise NoSolution(
            f"the {len(xy)} sources are not found among the {len(rows)} stars of {sky.origin} within "
            f"{60 * (REACH + diagonal):.0f} arcminutes of RA {pointing[0]:.4f}, Dec {pointing[1]:.4f} degrees at "
            f"{scale:.4g} arcseconds a pixel: {error.reason}"
        ) from error
    found_ra, found_dec = sky_coordinates.icrs_of_pixels(wcs, catalog["x"], catalog["y"])
    error_of = fit.error(xy) * fit.scale * ARCSECONDS_PER_DEGREE
    arrays = {"ra": found_ra, "dec": found_dec, "ra_err": error_of, "dec_err": error_of.copy()}
    arrays |= _of_matched(sky, len(xy), fit.frame_index, rows[kept][fit.sky_index])
    rms = float(np.sqrt(np.mean(fit.distance**2)))
    attributes = {
        "wcs": sky_coordinates.wcs_header(wcs),
        "wcs_origin": sky.origin,
        "wcs_n_matched": len(fit.distance),
        "wcs_rms": rms * fit.scale * ARCSECONDS_PER_DEGREE,
        "wcs_rms_pixel": rms,
        "wcs_order": fit.order,
    }
    return SkySolution(arrays, attributes)


def fit_wcs(xy: np.ndarray, ra: np.ndarray, dec: np.ndarray, shape: tuple[int, int]) -> WCS:
    """World coordinates through pixels of a frame whose places on the sky (degrees) are known."""
    pointing = (float(ra[len(ra) // 2]), float(dec[len(dec) // 2]))
    plane = sky_coordinates.to_plane(*pointing, ra, dec)
    design = np.column_stack([plane, np.ones(len(plane))])
    transform = np.eye(3)
    transform[:2] = np.linalg.lstsq(design, xy, rcond=None)[0].T
    return _solve(xy, shape, (ra, dec), transform, pointing)[0]


def _solve(
    xy: np.ndarray,
    shape: tuple[int, int],
    sky: tuple[np.ndarray, np.ndarray],
    transform: np.ndarray,
    pointing: tuple[float, float],
) -> tuple[WCS, sky_match.PlaneFit, np.ndarray]:
    """World coordinates with the tangent point in the middle of the frame, their fit, and the stars it could use."""
    middle = (np.array(shape[::-1]) - 1.0) / 2.0
    ra0, dec0 = pointing
    place = np.linalg.solve(transform[:2, :2], middle - transform[:2, 2])
    for step in range(_ROUNDS):
        here = sky_coordinates.tangent_wcs(ra0, dec0).wcs_pix2world([place], 0)[0]
        if step == 0:
            transform = _about(transform, place, (ra0, dec0), tuple(here))
        ra0, dec0 = (float(value) for value in here)
        plane = sky_coordinates.to_plane(ra0, dec0, *sky)
        kept = np.flatnonzero(np.isfinite(plane).all(axis=1))
        fit = sky_match.fit_plane(xy, plane[kept], transform, shape=shape)
        place = fit(middle[None])[0]
        jacobian = np.linalg.inv(fit.coefficients[1:3].T)
        transform = np.eye(3)
        transform[:2, :2], transform[:2, 2] = jacobian, middle - jacobian @ place
        if np.hypot(*place) < 1e-9:
            break
    return _as_wcs(fit, ra0, dec0), fit, kept


def _about(transform: np.ndarray, place: np.ndarray, old: tuple[float, float], new: tuple[float, float]) -> np.ndarray:
    """Transform from a tangent plane to pixels, for the plane at ``new``, which was at ``place`` of that at ``old``."""
    step = 0.01
    around = place + step * np.array([[1.0, 0.0], [0.0, 1.0]])
    world = sky_coordinates.tangent_wcs(*old).wcs_pix2world(around, 0)
    turned = sky_coordinates.to_plane(*new, world[:, 0], world[:, 1]).T / step
    linear = transform[:2, :2] @ np.linalg.inv(turned)
    changed = np.eye(3)
    changed[:2, :2], changed[:2, 2] = linear, transform[:2, :2] @ place + transform[:2, 2]
    return changed


def _as_wcs(fit: sky_match.PlaneFit, ra0: float, dec0: float) -> WCS:
    """TAN, or TAN-SIP where the fit has higher powers (Shupe et al. 2005, ASP Conf. Ser. 347, 491).

    SIP adds polynomials to the pixels before the matrix: plane = CD (pixel + f(pixel)), so that f is the inverse of the
    linear part applied to the higher terms.
    """
    wcs = WCS(naxis=2)
    cd = fit.coefficients[1:3].T
    crpix = np.array(fit.centre) + 1.0
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cd = [ra0, dec0], crpix, cd
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if fit.order > 1 else ["RA---TAN", "DEC--TAN"]
    # what is left of the constant term after the tangent point was moved
    wcs.wcs.crpix = crpix - np.linalg.solve(cd, fit.coefficients[0])
    if fit.order > 1:
        terms = np.zeros((2, fit.order + 1, fit.order + 1))
        inverse = np.linalg.inv(cd)
        for (p, q), both in zip(fit.powers[3:], fit.coefficients[3:], strict=True):
            terms[:, p, q] = inverse @ both
        wcs.sip = Sip(terms[0], terms[1], None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def _of_matched(sky: SkyCatalog, n_sources: int, sources: np.ndarray, stars: np.ndarray) -> dict[str, np.ndarray]:
    """Names and magnitudes of the stars that sources were matched to."""
    name = np.full(n_sources, "", dtype=object)
    name[sources] = sky.name[stars]
    found: dict[str, np.ndarray] = {"name": name}
    if sky.magnitudes:
        magnitude = np.full((n_sources, len(sky.magnitudes)), np.nan)
        for column, values in enumerate(sky.magnitudes.values()):
            magnitude[sources, column] = values[stars]
        found |= {"magnitude": magnitude, "band": np.array(list(sky.magnitudes), dtype=object)}
    return found
