"""Stars of one frame for a photometer: their width, their shape, their profile and its error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opticam_dask.kernels import graphs
from opticam_dask.kernels.sources import noise, photometry
from opticam_dask.kernels.sources.profiles import intruders, misfit, typical
from opticam_dask.kernels.sources.profiles.profile import Shape, gaussian_profile
from opticam_dask.kernels.sources.profiles.sampling import SAMPLED_AT
from opticam_dask.methods.frame_view import FrameView

#: Where transforms are worse than this part of sigma, a star is looked for from its centroid.
SHARP = 0.3

#: Brightest stars of a frame that the error of its profile is measured by, at most.
_STANDARDS = 12
#: More than this part of their pixels have data,
_WHOLE = 0.95
#: and they have no other star within this many sigma.
_ALONE = 6.0

#: Of this many of the brightest, those that are whole: the very brightest are often saturated.
_CANDIDATES = 48
#: and at first this many of these are looked at.
_FIRST_LOOK = 16


def star_sigma(view: FrameView, otherwise: float) -> float:
    """Sigma of the stars in pixels of the frame; ``otherwise`` where nobody knows the seeing."""
    for fwhm in (view.frame_fwhm, view.fwhm * view.scale):
        if np.isfinite(fwhm) and fwhm > 0:
            return float(fwhm / photometry.SIGMA_TO_FWHM)
    return otherwise


def star_shape(view: FrameView, sigma: float) -> Shape:
    """Form of the frame's stars; round with ``sigma`` where it is not known."""
    return view.stars if view.stars is not None and view.stars.is_known() else Shape(sigma, sigma, 0.0)


def sampling_error(view: FrameView, shape: Shape) -> float:
    """Relative error of fluxes where pixels are as large as the stars; 0 where they are not.

    By the night's own profile where that is known.
    """
    fwhm = photometry.SIGMA_TO_FWHM * shape.sigma
    if view.sampling is None or not np.isfinite(fwhm):
        return noise.sampling_error(fwhm)
    return float(np.interp(fwhm, SAMPLED_AT, view.sampling))


def profile_table(view: FrameView) -> np.ndarray:
    """Table of the night's profile; a Gaussian where it is not known."""
    return gaussian_profile().table() if view.profile is None else view.profile


def sky_noise(view: FrameView, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Background RMS of windows, shape (n, size, size): that at the middle of each, since it changes slowly."""
    middle = [np.clip(corner + size // 2, 0, n - 1) for corner, n in zip((y0, x0), view.shape, strict=True)]
    return np.broadcast_to(view.rms_at(middle[1], middle[0], 1), (len(x0), size, size))


def pairs_within(xy: np.ndarray, reach: float) -> np.ndarray:
    """Pairs (source, neighbour) that are nearer to each other than ``reach``, both ways; shape (pair, 2), ascending."""
    pairs = graphs.near_pairs(xy.reshape(-1, 2), reach)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return both[np.lexsort((both[:, 1], both[:, 0]))]


@dataclass(frozen=True, eq=False)
class Standards:
    """What the brightest stars of a frame that stand alone say about the error of its star profile.

    Attributes
    ----------
    usual : float
        What the profile gets wrong in a pixel, relative to its light, where stars show no larger error.
    size : int
        Side of the windows of these stars.
    sky_error : float
        1-sigma error of the sky level under these stars, electrons per pixel.
    stars, fit : StarWindows and StarFit, optional
        These stars, and what the fit of the profile to them left; None where there are none.
    """

    usual: float
    size: int
    sky_error: float
    stars: misfit.StarWindows | None = None
    fit: misfit.StarFit | None = None

    @cached_property
    def core(self) -> float:
        """Error of the profile in the core of a star, relative to its light: the usual one, and twice the median."""
        return float(np.hypot(self.usual, 0.0 if self.fit is None else 2.0 * typical.typical_error(self.fit)))

    @cached_property
    def around(self) -> np.ndarray:
        """Error of the profile at each place in a window, relative to flux: twice the typical; (size, size)."""
        return np.zeros((self.size, self.size)) if self.fit is None else 2.0 * typical.typical_misfit(self.fit)

    @cached_property
    def other_light(self) -> np.ndarray | None:
        """Amplitudes of light over a star that the profile's error makes, relative to flux; shape (form,), or None."""
        if self.stars is None or self.fit is None:
            return None
        return intruders.typical_amplitudes(self.stars, self.fit, self.sky_error)


def profile_misfit(view: FrameView, shape: Shape, size: int) -> Standards:
    """Error of the star profile in this frame, measured on the brightest stars of the frame.

    Asked for only where something stands out, and remembered.

    Parameters
    ----------
    view : FrameView
        The frame.
    shape : Shape
        Shape of its stars.
    size : int
        Side of the windows.
    """
    found = known_misfit(view, shape, size)
    if found is None:
        found = view.known[_name_of(shape, size)] = _fit_standards(view, shape, size)
    return found


def known_misfit(view: FrameView, shape: Shape, size: int) -> Standards | None:
    """What :func:`profile_misfit` gives, where it was asked for before; None where it was not."""
    found: Standards | None = view.known.get(_name_of(shape, size))
    return found


def _name_of(shape: Shape, size: int) -> tuple[object, ...]:
    """By which the error of the profile is remembered: shapes are equal whatever their change over the frame is."""
    return size, shape, shape.change


def _fit_standards(view: FrameView, shape: Shape, size: int) -> Standards:
    """The profile fitted to the brightest stars of the frame that stand alone."""
    usual, table = misfit.usual_error(sampling_error(view, shape)), profile_table(view)
    detected = np.asarray(view.detected_xy, dtype=float)
    crowded = np.unique(pairs_within(detected, _ALONE * shape.semimajor_sigma))
    alone = np.setdiff1d(np.arange(len(detected)), crowded)
    brightest = alone[np.argsort(-np.asarray(view.detected_flux, dtype=float)[alone], kind="stable")][:_CANDIDATES]
    for n_looked_at in (_FIRST_LOOK, _CANDIDATES):  # mostly the first few are whole
        xy = detected[brightest[:n_looked_at]]
        corners = photometry.origins(xy, size)
        saturated = np.any(view.saturated_at(*corners, size), axis=(1, 2))
        electrons = view.cutouts_at(*corners, size)
        is_good = np.isfinite(electrons)
        whole = np.flatnonzero((np.mean(is_good, axis=(1, 2)) > _WHOLE) & ~saturated)[:_STANDARDS]
        if len(whole) == _STANDARDS:
            break
    corners, electrons, is_good = (corners[0][whole], corners[1][whole]), electrons[whole], is_good[whole]
    if not len(whole):
        return Standards(usual, size, np.inf)
    noise = sky_noise(view, *corners, size)
    response = None if view.response_at is None else view.response_at(*corners, size)
    windows = electrons, noise, is_good, np.zeros(electrons.shape), response
    stars = misfit.StarWindows(*windows, corners, xy[whole], xy[whole], table, shape, SHARP * shape.sigma)
    sky_error = view.sky_error * float(np.median(noise[:, 0, 0]))
    return Standards(usual, size, sky_error, stars, misfit.fit_stars(stars, usual))
