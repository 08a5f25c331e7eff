"""Fluxes of stars that overlap, fitted together at known positions."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree


def group_sources(xy: np.ndarray, separation: float) -> list[np.ndarray]:
    """Groups of two and more sources, each nearer than ``separation`` to another of its group.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        NaN positions belong to no group.
    separation : float
        Pixels.

    Returns
    -------
    list of ndarray of int
        Members of each group, in rising order.
    """
    known = np.flatnonzero(np.all(np.isfinite(xy), axis=1)) if len(xy) else np.empty(0, dtype=int)
    if len(known) < 2:
        return []
    pairs = KDTree(xy[known]).query_pairs(separation, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(known), len(known)))
    _, member_of = connected_components(links, directed=False)
    groups = [known[member_of == group] for group in np.unique(member_of[pairs[:, 0]])] if len(pairs) else []
    return sorted(groups, key=lambda members: int(members[0]))


def fit_fluxes(
    light: np.ndarray,
    electrons: np.ndarray,
    rms: np.ndarray,
    is_good: np.ndarray,
    response: np.ndarray | None,
    sky_error: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes of all stars of a group by linear least squares, and their errors.

    All pixels have equal weights: weights from noisy pixels make fluxes too small. The errors are those of the
    estimate as it is, ``C = P V P^T`` with the matrix ``P`` that gives the fluxes and the variance ``V`` of the pixels.

    Parameters
    ----------
    light : ndarray, shape (n, ny, nx)
        Share of each star's light in each pixel; 0 where it is not to be fitted.
    electrons, rms : ndarray, shape (ny, nx)
        Sky-subtracted electrons and background RMS.
    is_good : ndarray of bool, shape (ny, nx)
        Pixels that are used.
    response : ndarray, shape (ny, nx), optional
        Master flat, see ``noise.aperture_variance``.
    sky_error : float
        Error of the sky level, common to all pixels.

    Returns
    -------
    flux, flux_err : ndarray, shape (n,)
        NaN for stars without pixels.
    """
    flux, error = np.full(len(light), np.nan), np.full(len(light), np.nan)
    used = is_good & np.any(light > 0, axis=0)
    seen = np.any(light[:, used] > 0, axis=1) if used.any() else np.zeros(len(light), dtype=bool)
    if not seen.any():
        return flux, error
    design = light[seen][:, used].T
    estimate = np.linalg.pinv(design)
    fitted = estimate @ electrons[used]
    photons = design @ np.maximum(fitted, 0.0)
    variance = photons / (1.0 if response is None else response[used]) + rms[used] ** 2
    covariance = (estimate**2) @ variance + (estimate.sum(axis=1) * sky_error) ** 2
    flux[seen], error[seen] = fitted, np.sqrt(covariance)
    return flux, error
