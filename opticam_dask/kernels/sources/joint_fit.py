"""Fluxes and positions of overlapping stars, fitted together."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels import graphs

#: Sources are solved together when one counts more than this part of the other's light as its own.
_COUPLED = 0.02
#: Equations in which the others count for less than this part of each source's own light are well-conditioned.
_LOOSE = 0.95
#: Equations of a larger condition number tell sources apart by less than the shares of their light are known to.
_WORST_CONDITION = 1e3


def group_sources(xy: np.ndarray, separation: float, others: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sources to be fitted together: each nearer than ``separation`` to another of its group, or to one of ``others``.

    What lies near a source and links no sources with each other is part of the group of each that it lies near.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        NaN positions belong to no group.
    separation : float
        Distance below which two sources are linked, pixels.
    others : ndarray, shape (m, 2)
        Places of what links no sources.

    Returns
    -------
    list of (ndarray of int, ndarray of int)
        Members of each group, in rising order, and the others near them.
    """
    known = np.flatnonzero(np.all(np.isfinite(xy), axis=1)) if len(xy) else np.empty(0, dtype=int)
    if not len(known):
        return []
    tree = KDTree(xy[known])
    pairs = known[tree.query_pairs(separation, output_type="ndarray")]
    near = [known[found] for found in tree.query_ball_point(others, separation)] if len(others) else []
    beside = np.concatenate([np.empty(0, dtype=int), *near])
    one, other = np.concatenate([pairs, np.column_stack([beside, beside])]).T
    which = np.repeat(np.arange(len(others)), [len(found) for found in near])
    groups = linked_groups(len(xy), one, other)
    return [(members, np.unique(which[np.isin(beside, members)])) for members in groups]


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
    if not len(one):
        return []
    _, member_of = graphs.components(one, other, n_sources)
    return [np.flatnonzero(member_of == group) for group in sorted(set(member_of[one].tolist()))]


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
    unexplained = np.zeros(len(fitted))
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
    normal = weighted @ columns.T + np.diag(prior)
    # places of bright stars are known to 1e-9 of what their fluxes are: without a scale digits of these would be lost
    scale = np.sqrt(np.where(np.diag(normal) > 0, np.diag(normal), 1.0))
    solution = np.linalg.pinv(normal / np.outer(scale, scale), hermitian=True) @ (right / scale) / scale
    return solution[:n_stars], solution[n_stars:].reshape(n_stars, 2)


def fluxes_together(
    alone: np.ndarray, source: np.ndarray, other: np.ndarray, shares: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Fluxes of stars without the shares of neighbours that are in the fluxes fitted alone; known ones are given.

    Parameters
    ----------
    alone : ndarray, shape (n,)
        Flux of each source fitted alone, electrons.
    source, other : ndarray of int, shape (pair,)
        Pairs of neighbours, both ways.
    shares : ndarray, shape (pair,)
        Part of the flux of the other that counts as the source's.
    known : ndarray, shape (n,)
        Fluxes that are not to be found, electrons; NaN for the others.

    Returns
    -------
    ndarray, shape (n,)
        Electrons.
    """
    is_free = np.isnan(known)
    flux, is_given = np.where(is_free, alone, known), ~is_free[other] & is_free[source]
    np.subtract.at(flux, source[is_given], shares[is_given] * known[other[is_given]])
    source, other, shares = (values[is_free[source] & is_free[other]] for values in (source, other, shares))
    is_strong = shares > _COUPLED
    one, two, coupling = source[is_strong], other[is_strong], shares[is_strong]
    row = np.full(len(alone), -1)  # in the equations of its group
    for members in linked_groups(len(alone), one, two):
        row[members] = np.arange(len(members))
        inside = row[one] >= 0
        matrix = np.eye(len(members))
        matrix[row[one[inside]], row[two[inside]]] = coupling[inside]
        flux[members] = _solved(matrix, flux[members])
        row[members] = -1
    np.subtract.at(flux, source, np.where(is_strong, 0.0, shares * flux[other]))
    return flux


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solution of equations; the shortest one where stars are so alike that there are many, NaN where one is NaN."""
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        return np.full(len(right), np.nan)
    is_loose = np.max(np.sum(np.abs(matrix), axis=1)) < 1.0 + _LOOSE
    if is_loose or np.linalg.cond(matrix, 1) < _WORST_CONDITION:
        solution: np.ndarray = np.linalg.solve(matrix, right)
        return solution
    shortest: np.ndarray = np.linalg.lstsq(matrix, right, rcond=1.0 / _WORST_CONDITION)[0]
    return shortest
