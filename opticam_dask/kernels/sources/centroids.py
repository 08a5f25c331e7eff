"""Centroids of sources on cut-outs, their errors, and their weight against predicted positions."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.sources import window_sums, windows

#: A last step of a larger part of sigma than this means that the centroid did not converge.
_NEARLY_AT_REST = 0.05


def windowed_centroids(
    cutouts: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    start_xy: np.ndarray,
    sigma: float | np.ndarray,
    *,
    n_iterations: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids in a Gaussian window that moves with them (XWIN_IMAGE, YWIN_IMAGE of the SExtractor manual).

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted pixels; windows of at least 4 sigma around the start.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    start_xy : ndarray, shape (n, 2)
        Where to start.
    sigma : float or ndarray of shape (n,)
        Width of the window in pixels, about that of the stars.
    n_iterations : int
        Number of iterations.

    Returns
    -------
    xy : ndarray, shape (n, 2)
        Centroids; the start where they did not converge.
    converged : ndarray of bool, shape (n,)
        False where the window holds no signal, lacks more than a hundredth of it to missing pixels, ran away by more
        than two sigma, or still moves.
    """
    start, width = np.asarray(start_xy, dtype=float), windows.per_source(sigma, len(cutouts))
    if compiled.native is not None:
        corners, arrived = np.stack([x0, y0], axis=1), np.empty(len(cutouts), dtype=bool)
        found, sigmas = start - corners, compiled.ready(width)
        compiled.native.windowed_centroids(
            compiled.ready(cutouts, dtype=float),
            sigmas,
            windows.LIMITS,
            found,
            arrived,
            n_iterations,
            _NEARLY_AT_REST,
        )
        return np.where(arrived[:, None], found + corners, start), arrived
    pixels = np.where(np.isfinite(cutouts), cutouts, 0.0)
    columns, rows = windows.pixel_grid(cutouts, x0, y0)
    xy, length = start.copy(), np.full(len(start), np.inf)
    for _ in range(n_iterations):
        total, first = windows.first_moments(
            windows.gaussian_window(columns, rows, xy, width) * pixels, columns, rows, xy
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.where(
                total[:, None] > 0, 2.0 * (first / total[:, None] - _centred(columns, rows, xy, width)), np.nan
            )
        step = np.clip(step, -width[:, None], width[:, None])
        # a source that has arrived stays, so that it does not matter how long the others take
        moving = ~(length <= windows.AT_REST)
        xy = np.where(moving[:, None], xy + step, xy)
        length = np.where(moving, np.hypot(step[:, 0], step[:, 1]), length)
        if not np.any(length > windows.AT_REST):
            break
    moved = np.hypot(*(xy - start).T)
    converged = (moved < 2.0 * width) & (length < _NEARLY_AT_REST * width)
    converged &= (
        windows.missing_signal(cutouts, windows.gaussian_window(columns, rows, xy, width)) < windows.LARGEST_GAP
    )
    return np.where(converged[:, None], xy, start), converged


def _centred(columns: np.ndarray, rows: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """First moments (n, 2), in its own window, of a Gaussian that is centred where the window is.

    They are not zero where pixels are as large as the star.
    """
    first = np.zeros_like(xy)
    coarse = np.flatnonzero(sigma < windows.COARSE)
    for axis, grid in enumerate((columns[coarse, 0, :], rows[coarse, :, 0])):
        offset = grid - xy[coarse, axis, None]
        light = np.exp(-((offset / sigma[coarse, None]) ** 2))
        first[coarse, axis] = np.sum(light * offset, axis=1) / np.sum(light, axis=1)
    return first


def centroid_errors(
    cutouts: np.ndarray, rms: np.ndarray, x0: np.ndarray, y0: np.ndarray, xy: np.ndarray, sigma: float | np.ndarray
) -> np.ndarray:
    """1-sigma errors, along an axis, of windowed centroids: ``sqrt(2) sigma / (S/N)``, with the S/N in the window.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted electrons.
    rms : ndarray, shape (n, size, size) or (n, 1, 1)
        Background RMS.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    xy : ndarray, shape (n, 2)
        Centroids on the frame, pixels.
    sigma : float or ndarray of shape (n,)
        Width of the window in pixels.

    Returns
    -------
    ndarray, shape (n,)
        Pixels; infinite where there is no signal.
    """
    width, offsets = windows.per_source(sigma, len(cutouts))[:, None], np.arange(cutouts.shape[1])
    squares = np.stack([((c[:, None] + offsets - xy[:, axis, None]) / width) ** 2 for axis, c in enumerate((x0, y0))])
    along = np.concatenate([np.exp(-0.5 * squares), squares])
    light, weighted, noise = window_sums.centroid_sums(cutouts, rms, along, windows.WINDOW**2)
    signal, variance = np.maximum(light, 0.0), np.maximum(weighted, 0.0) + noise
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(2.0) * sigma * np.sqrt(variance) / signal
    return np.where(np.isfinite(error), error, np.inf)


def recentring_weight(errors: np.ndarray, prior_sigma: float) -> np.ndarray:
    """How far to move from the predicted position to the centroid: 0 for not at all, 1 for all the way.

    ``w = 1 / (1 + (centroid_error / prior_sigma)^2)``, as in the mean of a Gaussian centroid and a Gaussian prior:
    the aperture of a faint source does not chase its noise, which would make its flux too large.

    Parameters
    ----------
    errors : ndarray, shape (n,)
        Errors of the centroids, see :func:`centroid_errors`.
    prior_sigma : float
        How far a source may really be from its prediction, in pixels.

    Returns
    -------
    ndarray, shape (n,)
    """
    weight: np.ndarray = 1.0 / (1.0 + (errors / prior_sigma) ** 2)
    return weight


def centroid_drag(
    light: np.ndarray, foreign: np.ndarray, x0: np.ndarray, y0: np.ndarray, xy: np.ndarray, sigma: float
) -> np.ndarray:
    """How far the light of a neighbour drags the windowed centroid of a star in its first step.

    Parameters
    ----------
    light, foreign : ndarray, shape (n, size, size)
        Light of the star and of its neighbour, in the same unit.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    xy : ndarray, shape (n, 2)
        Where the star is.
    sigma : float
        Width of the window in pixels.

    Returns
    -------
    ndarray, shape (n,)
        Pixels.
    """
    columns, rows = windows.pixel_grid(light, x0, y0)
    window = windows.gaussian_window(columns, rows, xy, windows.per_source(sigma, len(light)))
    total, _ = windows.first_moments(window * light, columns, rows, xy)
    _, first = windows.first_moments(window * foreign, columns, rows, xy)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 2.0 * np.hypot(first[:, 0], first[:, 1]) / total, 0.0)
