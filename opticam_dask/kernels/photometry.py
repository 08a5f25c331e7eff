"""Photometry on cut-outs: exact apertures, centroids, widths, one-to-one matching.

Cut-outs are square windows ``(n, size, size)`` with a lower corner ``(x0, y0)`` each and NaN beyond the frame. The
result for one source does not depend on which others are measured with it.
"""

from __future__ import annotations

import numpy as np
from photutils.geometry import circular_overlap_grid, elliptical_overlap_grid
from scipy.spatial import KDTree

SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))

#: Gaussian windows are cut at this many sigma.
_WINDOW = 4.0

#: Cut-outs for widths reach this many sigma of the start value.
_WIDTH_REACH = 6.0
_LARGEST_SIGMA = 12.0


def origins(xy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower corners ``x0, y0`` of windows of ``size`` pixels centred on the pixel nearest to each position.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Positions; NaN gives a window far outside any frame.
    size : int
    """
    nearest = np.where(np.isfinite(xy), np.floor(np.asarray(xy) + 0.5), -(2**30))
    corner = np.clip(nearest, -(2**30), 2**30).astype(np.int64) - size // 2
    return corner[:, 0], corner[:, 1]


def cut_out(image: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Cut square windows out of an image.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
    x0, y0 : ndarray of int, shape (n,)
        Lower corners; windows may reach beyond the image.
    size : int

    Returns
    -------
    ndarray of float64, shape (n, size, size)
        NaN beyond the image.
    """
    ny, nx = image.shape
    windows = np.full((len(x0), size, size), np.nan)
    for index, (left, low) in enumerate(zip(x0, y0, strict=True)):
        top, bottom = max(low, 0), min(low + size, ny)
        start, stop = max(left, 0), min(left + size, nx)
        if top < bottom and start < stop:
            windows[index, top - low : bottom - low, start - left : stop - left] = image[top:bottom, start:stop]
    return windows


def circular_weights(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, radius: float) -> np.ndarray:
    """Exact share of each pixel in a circular aperture.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Centres on the frame.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    size : int
    radius : float
        Pixels.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    weights = np.zeros((len(xy), size, size))
    for index in range(len(xy)):
        left, right, low, high = _edges(xy[index], x0[index], y0[index], size)
        if np.isfinite(left + low):
            weights[index] = circular_overlap_grid(left, right, low, high, size, size, radius, 1, 1)
    return weights


def elliptical_weights(
    xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, semimajor: float, semiminor: float, theta: float
) -> np.ndarray:
    """Exact share of each pixel in an elliptical aperture.

    Parameters
    ----------
    xy, x0, y0, size
        As for :func:`circular_weights`.
    semimajor, semiminor : float
        Semi-axes in pixels.
    theta : float
        Angle of the major axis from the x axis, counter-clockwise, in radians.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    weights = np.zeros((len(xy), size, size))
    for index in range(len(xy)):
        left, right, low, high = _edges(xy[index], x0[index], y0[index], size)
        if np.isfinite(left + low):
            weights[index] = elliptical_overlap_grid(
                left, right, low, high, size, size, semimajor, semiminor, theta, 1, 1
            )
    return weights


def _edges(xy: np.ndarray, x0: int, y0: int, size: int) -> tuple[float, float, float, float]:
    """Edges of a window relative to the centre of an aperture; pixel centres are whole numbers."""
    left, low = x0 - 0.5 - float(xy[0]), y0 - 0.5 - float(xy[1])
    return left, left + size, low, low + size


def aperture_flux(cutouts: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of pixels.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted pixels; NaN pixels do not count.
    weights : ndarray, shape (n, size, size)

    Returns
    -------
    flux : ndarray, shape (n,)
        NaN where no pixel of the aperture has data.
    share : ndarray, shape (n,)
        Part of the aperture's area that has data.
    """
    seen = np.where(np.isfinite(cutouts), weights, 0.0)
    area, whole = np.sum(seen, axis=(1, 2)), np.sum(weights, axis=(1, 2))
    flux = np.sum(seen * np.nan_to_num(cutouts), axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(whole > 0, area / whole, 0.0)
    return np.where(area > 0, flux, np.nan), share


def windowed_centroids(
    cutouts: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    start_xy: np.ndarray,
    sigma: float,
    *,
    n_iterations: int = 10,
) -> tuple[np.ndarray, np.ndarray]:
    """Centroids in a Gaussian window that moves with them (XWIN_IMAGE, YWIN_IMAGE of the SExtractor manual).

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted pixels.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    start_xy : ndarray, shape (n, 2)
        Where to start.
    sigma : float
        Width of the window in pixels, about that of the stars.
    n_iterations : int

    Returns
    -------
    xy : ndarray, shape (n, 2)
        Centroids; the start where they did not converge.
    converged : ndarray of bool, shape (n,)
        False where the window ran away by more than two sigma or holds no signal.
    """
    pixels = np.nan_to_num(cutouts)
    columns, rows = _pixel_grid(cutouts, x0, y0)
    xy = np.array(start_xy, dtype=float)
    for _ in range(n_iterations):
        dx, dy = columns - xy[:, 0, None, None], rows - xy[:, 1, None, None]
        distance = (dx**2 + dy**2) / sigma**2
        weighted = np.where(distance < _WINDOW**2, np.exp(-0.5 * distance), 0.0) * pixels
        total = weighted.sum(axis=(1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            step = 2.0 * np.stack([(weighted * dx).sum(axis=(1, 2)), (weighted * dy).sum(axis=(1, 2))], axis=1)
            step /= total[:, None]
        usable = (total > 0) & np.all(np.isfinite(step), axis=1)
        xy = np.where(usable[:, None], xy + np.clip(np.nan_to_num(step), -sigma, sigma), np.nan)
    moved = np.hypot(*(xy - start_xy).T)
    converged = np.isfinite(moved) & (moved < 2.0 * sigma)
    return np.where(converged[:, None], xy, start_xy), converged


def adaptive_moments(
    cutouts: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    start_xy: np.ndarray,
    sigma: np.ndarray,
    *,
    n_iterations: int = 30,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Second moments in an elliptical Gaussian window that adapts to the source.

    The window's covariance ``M`` is replaced by twice the weighted moments until it stays (Bernstein & Jarvis 2002,
    AJ 123, 583, section 3): for a Gaussian source ``M`` is the covariance of the source itself.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted pixels.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    start_xy : ndarray, shape (n, 2)
    sigma : ndarray, shape (n,)
        Start width in pixels.
    n_iterations : int

    Returns
    -------
    semimajor_sigma, semiminor_sigma : ndarray, shape (n,)
        Pixels, of the profile as the pixels sample it.
    orientation : ndarray, shape (n,)
        Angle of the major axis from the x axis, in radians.
    converged : ndarray of bool, shape (n,)
    """
    pixels = np.nan_to_num(cutouts)
    columns, rows = _pixel_grid(cutouts, x0, y0)
    xy = np.array(start_xy, dtype=float)
    xx = yy = np.asarray(sigma, dtype=float) ** 2
    xy_term, good = np.zeros_like(xx), np.isfinite(xx) & (xx > 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        for _ in range(n_iterations):
            dx, dy = columns - xy[:, 0, None, None], rows - xy[:, 1, None, None]
            determinant = xx * yy - xy_term**2
            inverse = [term[:, None, None] for term in (yy / determinant, xx / determinant, -xy_term / determinant)]
            distance = inverse[0] * dx**2 + inverse[1] * dy**2 + 2.0 * inverse[2] * dx * dy
            weighted = np.where(distance < _WINDOW**2, np.exp(-0.5 * distance), 0.0) * pixels
            total = weighted.sum(axis=(1, 2))
            step = np.stack([(weighted * dx).sum(axis=(1, 2)), (weighted * dy).sum(axis=(1, 2))], axis=1)
            step /= total[:, None]
            moments = [2.0 * (weighted * product).sum(axis=(1, 2)) / total for product in (dx**2, dy**2, dx * dy)]
            good &= (total > 0) & (moments[0] * moments[1] > moments[2] ** 2) & np.all(np.isfinite(step), axis=1)
            xx, yy, xy_term = (np.where(good, new, old) for new, old in zip(moments, (xx, yy, xy_term), strict=True))
            xy = np.where(good[:, None], xy + np.clip(step, -1.0, 1.0), xy)
        half_sum, half_difference = (xx + yy) / 2.0, np.hypot((xx - yy) / 2.0, xy_term)
        semimajor = np.sqrt(half_sum + half_difference)
        semiminor = np.sqrt(half_sum - half_difference)
        orientation = 0.5 * np.arctan2(2.0 * xy_term, xx - yy)
        moved = np.hypot(*(xy - start_xy).T)
        good &= np.isfinite(semiminor) & (moved < 2.0 * semimajor) & (semimajor < cutouts.shape[1] / 3.0)
    semimajor, semiminor, orientation = (
        np.where(good, values, np.nan) for values in (semimajor, semiminor, orientation)
    )
    return semimajor, semiminor, orientation, good


def _pixel_grid(cutouts: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame coordinates of the pixels: columns ``(n, 1, size)`` and rows ``(n, size, 1)``."""
    offsets = np.arange(cutouts.shape[1])
    return (np.asarray(x0)[:, None] + offsets)[:, None, :], (np.asarray(y0)[:, None] + offsets)[:, :, None]


def source_widths(image: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths of sources from adaptive moments.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame.
    xy : ndarray, shape (n, 2)
    sigma : ndarray, shape (n,)
        Rough widths to start from, in pixels.

    Returns
    -------
    semimajor_sigma, semiminor_sigma : ndarray, shape (n,)
        Pixels; NaN where the moments do not converge.
    """
    if not len(xy):
        return np.empty(0), np.empty(0)
    start = np.clip(np.where(np.isfinite(sigma) & (sigma > 0), sigma, 1.5), 0.8, _LARGEST_SIGMA)
    size = 2 * int(np.ceil(_WIDTH_REACH * np.median(start))) + 1
    x0, y0 = origins(xy, size)
    semimajor, semiminor, _, _ = adaptive_moments(cut_out(image, x0, y0, size), x0, y0, xy, start)
    return semimajor, semiminor


def field_fwhm(image: np.ndarray, xy: np.ndarray, sigma: np.ndarray, *, saturated: np.ndarray | None = None) -> float:
    """FWHM of a frame: the median of ``2.3548 sqrt((a^2 + b^2) / 2)`` over its sources.

    Parameters
    ----------
    image, xy, sigma
        As for :func:`source_widths`.
    saturated : ndarray of bool, shape (ny, nx), optional
        Sources with a saturated pixel in their core do not count.

    Returns
    -------
    float
        Pixels; NaN when no source has a width.
    """
    semimajor, semiminor = source_widths(image, xy, sigma)
    widths = SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)
    if saturated is not None and len(xy):
        x0, y0 = origins(xy, 5)
        widths[np.any(cut_out(saturated, x0, y0, 5) > 0, axis=(1, 2))] = np.nan
    widths = widths[np.isfinite(widths)]
    return float(np.median(widths)) if len(widths) else float("nan")


def match_one_to_one(predicted_xy: np.ndarray, detected_xy: np.ndarray, tolerance: float) -> np.ndarray:
    """Match predicted positions to detections, the closest pair first, each used at most once.

    Parameters
    ----------
    predicted_xy : ndarray, shape (n, 2)
        NaN positions match nothing.
    detected_xy : ndarray, shape (m, 2)
    tolerance : float
        Largest distance in pixels.

    Returns
    -------
    ndarray of int, shape (n,)
        Index of the detection, -1 for none.
    """
    matched = np.full(len(predicted_xy), -1, dtype=np.intp)
    known = np.flatnonzero(np.all(np.isfinite(predicted_xy), axis=1)) if len(predicted_xy) else np.empty(0, int)
    detections = np.flatnonzero(np.all(np.isfinite(detected_xy), axis=1)) if len(detected_xy) else np.empty(0, int)
    if not len(known) or not len(detections):
        return matched
    pairs = KDTree(predicted_xy[known]).sparse_distance_matrix(
        KDTree(detected_xy[detections]), tolerance, output_type="ndarray"
    )
    taken: set[int] = set()
    for pair in pairs[np.lexsort((pairs["j"], pairs["i"], pairs["v"]))]:
        source, detection = int(known[pair["i"]]), int(detections[pair["j"]])
        if matched[source] < 0 and detection not in taken:
            matched[source] = detection
            taken.add(detection)
    return matched


def recentring_weight(
    cutouts: np.ndarray,
    rms: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    xy: np.ndarray,
    sigma: float,
    *,
    prior_sigma: float,
) -> np.ndarray:
    """How far to move from the predicted position to the centroid: 0 for not at all, 1 for all the way.

    ``w = 1 / (1 + (centroid_error / prior_sigma)^2)``, as in the mean of a Gaussian centroid and a Gaussian prior:
    the aperture of a faint source does not chase its noise, which would make its flux too large. The error of a
    windowed centroid is ``sqrt(2) sigma / (S/N)`` along an axis, with the signal-to-noise ratio in the window.

    Parameters
    ----------
    cutouts, rms : ndarray, shape (n, size, size)
        Sky-subtracted electrons and background RMS.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    xy : ndarray, shape (n, 2)
        Centroids.
    sigma : float
        Width of the window in pixels.
    prior_sigma : float
        How far a source may really be from its prediction, in pixels.

    Returns
    -------
    ndarray, shape (n,)
    """
    columns, rows = _pixel_grid(cutouts, x0, y0)
    distance = ((columns - xy[:, 0, None, None]) ** 2 + (rows - xy[:, 1, None, None]) ** 2) / sigma**2
    window = np.where(np.isfinite(cutouts), np.exp(-0.5 * distance), 0.0)
    pixels = np.nan_to_num(cutouts)
    signal = np.maximum(np.sum(window * pixels, axis=(1, 2)), 0.0)
    source = np.maximum(np.sum(window**2 * pixels, axis=(1, 2)), 0.0)
    variance = source + np.sum(window**2 * np.nan_to_num(rms) ** 2, axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(2.0) * sigma * np.sqrt(variance) / signal
    return np.where(signal > 0, 1.0 / (1.0 + (error / prior_sigma) ** 2), 0.0)
