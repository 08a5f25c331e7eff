"""Fluxes and positions of overlapping stars, fitted together."""

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
    return linked_groups(len(xy), known[pairs[:, 0]], known[pairs[:, 1]])


def linked_groups(n_sources: int, one: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Groups of sources that are linked with each other, directly or by way of others.

    Parameters
    ----------
    n_sources : int
        Number of sources.
    one, other : ndarray of int, shape (n_links,)
        The sources of each link.

    Returns
    -------
    list of ndarray of int
        Members of each group, in rising order.
    """
    links = coo_array((np.ones(len(one)), (one, other)), shape=(n_sources, n_sources))
    _, member_of = connected_components(links, directed=False)
    groups = [np.flatnonzero(member_of == group) for group in np.unique(member_of[one])] if len(one) else []
    return sorted(groups, key=lambda members: int(members[0]))


def fit_fluxes(
    light: np.ndarray,
    electrons: np.ndarray,
    rms: np.ndarray,
    is_good: np.ndarray,
    response: np.ndarray | None,
    sky_error: float,
    slopes: np.ndarray | None = None,
    position_error: float = 0.0,
    *,
    are_fitted: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes of all stars of a group by linear least squares, and their errors.

    All pixels have equal weights: weights from noisy pixels make fluxes too small. The errors are those of the
    estimate as it is, ``C = P V P^T`` with the matrix ``P`` that gives the fluxes and the variance ``V`` of the pixels.
    What a star is misplaced by goes into the fluxes of its neighbours. Places that were fitted to the same pixels
    follow their noise: with the changes ``D`` of the pixels with the places, and the matrix ``G`` of
    :func:`_place_gain` that gives these, ``P`` becomes ``P - P D G``. Places that were not fitted are wrong by
    ``position_error``.

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
    slopes : ndarray, shape (n, 2, ny, nx), optional
        Change of the light with the star's place; without it the places are taken for exact.
    position_error : float
        How far stars may be from where they were expected, in pixels (1 sigma along an axis).
    are_fitted : bool
        Whether the places were fitted to these pixels.

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
    unexplained = 0.0
    if slopes is not None:
        moving = (fitted[:, None, None] * slopes[seen][:, :, used]).reshape(-1, len(design)).T
        leak = estimate @ moving
        if are_fitted:
            gain, left = _place_gain(design, moving, variance, position_error)
            estimate, leak = estimate - leak @ gain, leak @ left
        unexplained = np.sum(leak**2, axis=1) * position_error**2
    covariance = (estimate**2) @ variance + (estimate.sum(axis=1) * sky_error) ** 2 + unexplained
    flux[seen], error[seen] = fitted, np.sqrt(covariance)
    return flux, error


def _place_gain(
    design: np.ndarray, moving: np.ndarray, variance: np.ndarray, position_error: float
) -> tuple[np.ndarray, np.ndarray]:
    """How fitted places follow the pixels, shape (2 n, pixel), and which part of a true step they miss, (2 n, 2 n)."""
    columns, n_stars = np.hstack([design, moving]), design.shape[1]
    prior = np.zeros(columns.shape[1])
    prior[n_stars:] = 1.0 / position_error**2
    weighted = columns / variance[:, None]
    inverse = np.linalg.pinv(columns.T @ weighted + np.diag(prior), hermitian=True)[n_stars:]
    return inverse @ weighted.T, inverse[:, n_stars:] * prior[n_stars:]


def fit_places(
    light: np.ndarray,
    slopes: np.ndarray,
    electrons: np.ndarray,
    variance: np.ndarray,
    used: np.ndarray,
    flux: np.ndarray,
    moved: np.ndarray,
    position_error: float,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of a fit of fluxes and places of all stars of a group (weighted least squares).

    Parameters
    ----------
    light, slopes : ndarray, shape (n, ny, nx) and (n, 2, ny, nx)
        Share of each star's light in each pixel, and its change with the star's place.
    electrons, variance : ndarray, shape (ny, nx)
        Sky-subtracted electrons, and the variance that the model expects of them.
    used : ndarray of bool, shape (ny, nx)
        Pixels that the stars are fitted to.
    flux : ndarray, shape (n,)
        Fluxes so far.
    moved : ndarray, shape (n, 2)
        How far each star is by now from where it was expected.
    position_error : float
        How far it may be, in pixels (1 sigma along an axis).

    Returns
    -------
    flux : ndarray, shape (n,)
    step : ndarray, shape (n, 2)
        Pixels.
    """
    n_stars = len(light)
    moving = (flux[:, None, None] * slopes[:, :, used]).reshape(2 * n_stars, -1)
    columns = np.vstack([light[:, used], moving])
    prior = np.concatenate([np.zeros(n_stars), np.full(2 * n_stars, 1.0 / position_error**2)])
    weighted = columns / variance[used]
    right = weighted @ electrons[used] - prior * np.concatenate([np.zeros(n_stars), moved.ravel()])
    solution = np.linalg.pinv(weighted @ columns.T + np.diag(prior), hermitian=True) @ right
    return solution[:n_stars], solution[n_stars:].reshape(n_stars, 2)
