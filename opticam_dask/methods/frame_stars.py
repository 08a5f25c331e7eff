"""Stars of one frame for a photometer: their width, their shape, their profile and its error."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels.sources import noise, photometry
from opticam_dask.kernels.sources.profiles import misfit
from opticam_dask.kernels.sources.profiles.profile import Shape, gaussian_profile
from opticam_dask.kernels.sources.profiles.sampling import SAMPLED_AT
from opticam_dask.methods.frame_view import FrameView

#: Where transforms are worse than this part of sigma, a star is looked for from its centroid.
SHARP = 0.3

#: Brightest stars of a frame that the error of its profile is measured by, at most.
_STANDARDS = 12
#: They have no other star within so many sigma.
_ALONE = 6.0

#: Of so many of the brightest, those that are whole: the very brightest are often saturated.
_CANDIDATES = 48


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


def pairs_within(xy: np.ndarray, reach: float) -> list[tuple[int, int]]:
    """Pairs (source, neighbour) that are nearer to each other than ``reach``, both ways."""
    known = np.flatnonzero(np.all(np.isfinite(xy), axis=1)) if len(xy) else np.empty(0, dtype=int)
    if len(known) < 2:
        return []
    pairs = known[KDTree(xy[known]).query_pairs(reach, output_type="ndarray")]
    both = np.concatenate([pairs, pairs[:, ::-1]])
    return [(int(i), int(j)) for i, j in both[np.lexsort((both[:, 1], both[:, 0]))]]


def profile_misfit(view: FrameView, shape: Shape, size: int) -> tuple[float, np.ndarray]:
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

    Returns
    -------
    core : float
        The usual error, and twice what the cores of stars deviate by in the median, relative to the light in a pixel.
    around : ndarray, shape (size, size)
        Twice what most stars deviate by at each place in their windows, relative to their flux.
    """
    if size not in view.known:
        usual = misfit.usual_error(sampling_error(view, shape))
        fit = _fit_standards(view, shape, size)
        errors = np.zeros(1) if fit is None else np.sort(fit.model_error)
        around = np.zeros((size, size)) if fit is None else 2.0 * misfit.typical_misfit(fit)
        view.known[size] = float(np.hypot(usual, 2.0 * errors[(len(errors) - 1) // 2])), around
    return view.known[size]


def _fit_standards(view: FrameView, shape: Shape, size: int) -> misfit.StarFit | None:
    """The profile fitted to the brightest stars of the frame that stand alone; None where there are none."""
    detected = np.asarray(view.detected_xy, dtype=float)
    crowded = np.unique(np.array(pairs_within(detected, _ALONE * shape.semimajor_sigma), dtype=int))
    alone = np.setdiff1d(np.arange(len(detected)), crowded)
    brightest = alone[np.argsort(-np.asarray(view.detected_flux, dtype=float)[alone], kind="stable")][:_CANDIDATES]
    if not len(brightest):
        return None
    xy = detected[brightest]
    corners = photometry.origins(xy, size)
    saturated = np.any(view.saturated_at(*corners, size), axis=(1, 2))
    electrons = view.cutouts_at(*corners, size)
    whole = np.flatnonzero(np.all(np.isfinite(electrons), axis=(1, 2)) & ~saturated)[:_STANDARDS]
    if not len(whole):
        return None
    corners = corners[0][whole], corners[1][whole]
    return misfit.fit_stars(
        electrons[whole],
        sky_noise(view, *corners, size),
        np.ones(electrons[whole].shape, dtype=bool),
        np.zeros(electrons[whole].shape),
        None if view.response_at is None else view.response_at(*corners, size),
        corners,
        xy[whole],
        xy[whole],
        profile_table(view),
        shape,
        position_error=SHARP * shape.sigma,
        model_error=misfit.usual_error(sampling_error(view, shape)),
    )
