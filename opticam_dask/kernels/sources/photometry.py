"""Photometry on cut-outs: exact apertures, centroids, widths, one-to-one matching.

Cut-outs are square windows ``(n, size, size)`` with a lower corner ``(x0, y0)`` each and NaN beyond the frame. The
result for one source does not depend on which others are measured with it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from photutils.geometry import circular_overlap_grid, elliptical_overlap_grid
from scipy.spatial import KDTree

SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))

#: Gaussian windows are cut at this many sigma.
_WINDOW = 4.0

#: Steps (pixels) and relative changes of a covariance below which an iteration has arrived.
_AT_REST, _SHAPE_AT_REST = 1e-3, 1e-4

#: A last step of a larger part of sigma than this means that the centroid did not converge.
_NEARLY_AT_REST = 0.05

#: Centroids and widths are not trusted where more than this part of a star's signal has no pixels: it would shift
#: them by some hundredths of a sigma.
_MISSING_SIGNAL = 0.01

#: The light of a star is judged in a square of so many pixels.
_CORE_SIZE = 5

#: Noise of a second moment relative to the variance of the star, times the signal-to-noise ratio of its core.
_MOMENT_ERROR = 2.0

#: A star whose moments are so many sigma from those of the others counts half of what it would; the mean has
#: arrived after so many steps.
_FORM_REACH, _FORM_STEPS = 3.0, 12

#: Median of the root mean square of three standard normal numbers.
_MEDIAN_DISTANCE = 0.888

#: Relative spread of moments that is always allowed for: nobody's moments are better known than this.
_LEAST_SPREAD = 3e-3

#: Cut-outs for widths reach this many sigma of the start value, and have one of a few sizes.
_WIDTH_REACH, _LARGEST_SIGMA = 6.0, 12.0
_REACHES = np.array([11, 20, 40, 72])

#: Below this sigma (pixels) the moments of a Gaussian on the pixels are not those of the Gaussian: they depend on where
#: in its pixel the centre is. At this width they differ by less than 1e-6.
_COARSE = 1.2

#: A step of the adaptive moments makes a width at most so much smaller than a plain step.
_SHORTEST = 0.5

#: Below this sigma (pixels) steps may swing without an end, and what still moves is no width.
_COARSEST = 0.7

#: Widths below this sigma (pixels) are those of a single bright pixel: a star that is a point has 0.29, and what is
#: narrower than this cannot be told from it.
_NARROWEST = 0.45


def origins(xy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower corners ``x0, y0`` of windows of ``size`` pixels centred on the pixel nearest to each position.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Positions; NaN gives a window far outside any frame.
    size : int
        Side of the square cut-outs in pixels.
    """
    nearest = np.where(np.isfinite(xy), np.floor(np.asarray(xy) + 0.5), -(2**30))
    corner = np.clip(nearest, -(2**30), 2**30).astype(np.int64) - size // 2
    return corner[:, 0], corner[:, 1]


def cut_out(image: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
    """Cut square windows out of an image.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        The image.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners; windows may reach beyond the image.
    size : int
        Side of the square cut-outs in pixels.

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


def inner_windows(cutouts: np.ndarray, size: int) -> np.ndarray:
    """Middle of cut-outs: windows of an odd ``size`` with the same centres, or the cut-outs if they are no larger."""
    margin = max(0, (cutouts.shape[1] - size) // 2)
    return cutouts[:, margin : cutouts.shape[1] - margin, margin : cutouts.shape[2] - margin]


def circular_weights(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, radius: float) -> np.ndarray:
    """Exact share of each pixel in a circular aperture.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Centres on the frame.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    size : int
        Side of the square cut-outs in pixels.
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
        Weight of each pixel of the cut-outs.

    Returns
    -------
    flux : ndarray, shape (n,)
        NaN where no pixel of the aperture has data.
    share : ndarray, shape (n,)
        Part of the aperture's area that has data.
    """
    has_data = np.isfinite(cutouts)
    area, whole = np.sum(np.where(has_data, weights, 0.0), axis=(1, 2)), np.sum(weights, axis=(1, 2))
    flux = np.sum(weights * np.where(has_data, cutouts, 0.0), axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(whole > 0, area / whole, 0.0)
    return np.where(area > 0, flux, np.nan), share


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
        Lower corners.
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
    pixels = np.where(np.isfinite(cutouts), cutouts, 0.0)
    columns, rows = _pixel_grid(cutouts, x0, y0)
    start, width = np.asarray(start_xy, dtype=float), _per_source(sigma, len(cutouts))
    xy, length = start.copy(), np.full(len(start), np.inf)
    for _ in range(n_iterations):
        total, first = _first_moments(_gaussian_window(columns, rows, xy, width) * pixels, columns, rows, xy)
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.where(
                total[:, None] > 0, 2.0 * (first / total[:, None] - _centred(columns, rows, xy, width)), np.nan
            )
        step = np.clip(step, -width[:, None], width[:, None])
        # a source that has arrived stays, so that it does not matter how long the others take
        moving = ~(length <= _AT_REST)
        xy = np.where(moving[:, None], xy + step, xy)
        length = np.where(moving, np.hypot(step[:, 0], step[:, 1]), length)
        if not np.any(length > _AT_REST):
            break
    moved = np.hypot(*(xy - start).T)
    converged = (moved < 2.0 * width) & (length < _NEARLY_AT_REST * width)
    converged &= _missing_signal(cutouts, _gaussian_window(columns, rows, xy, width)) < _MISSING_SIGNAL
    return np.where(converged[:, None], xy, start), converged


def adaptive_moments(
    cutouts: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    start_xy: np.ndarray,
    sigma: float | np.ndarray,
    *,
    n_iterations: int = 30,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Second moments in an elliptical Gaussian window that adapts to the source.

    The window's covariance ``M`` is replaced by twice the weighted moments until it stays (Bernstein & Jarvis 2002,
    AJ 123, 583, section 3): for a Gaussian source ``M`` is the covariance of the source itself. Each step goes twice as
    far as that, which for a Gaussian source is where the steps would end. On pixels as large as the source the moments
    are compared with those that the window's own Gaussian has on the same pixels: the result is the Gaussian that fits
    the pixels best, wherever in its pixel the source is.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted pixels.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    start_xy : ndarray, shape (n, 2)
        First guess of the positions in pixels.
    sigma : float or ndarray of shape (n,)
        Start width in pixels.
    n_iterations : int
        Number of iterations.

    Returns
    -------
    semimajor_sigma, semiminor_sigma : ndarray, shape (n,)
        Pixels, of the profile as the pixels sample it; NaN where the moments did not converge.
    orientation : ndarray, shape (n,)
        Angle of the major axis from the x axis, in radians.
    converged : ndarray of bool, shape (n,)
        False where there is no signal, too much of it is missing, or the window ran away, shrank to a pixel, or grew
        beyond a third of the cut-out.
    """
    n_sources, size = cutouts.shape[:2]
    has_data = np.isfinite(cutouts).reshape(n_sources, -1)
    pixels = np.where(has_data, cutouts.reshape(n_sources, -1), 0.0)
    start, width = np.asarray(start_xy, dtype=float), _per_source(sigma, n_sources)
    corners = np.stack([x0, y0], axis=1) + size // 2
    begin, monomials = start - corners, _monomials(size)
    centre, shape = begin.copy(), np.stack([width**2, width**2, np.zeros_like(width)])
    good = np.isfinite(width) & (width > 0) & np.all(np.isfinite(start), axis=1)
    moving, narrow = np.flatnonzero(good), width.copy()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        for _ in range(n_iterations):
            if not len(moving):
                break
            before, place = shape[:, moving], centre[moving]
            is_coarse = narrow[moving] < _COARSE
            step, new = _adapt(pixels[moving], has_data, moving, place, before, is_coarse, monomials)
            usable = np.isfinite(step[:, 0] + step[:, 1]) & _is_form(new)
            good[moving[~usable]] = False
            further = 2.0 * new - before
            near, far = _semiminor(new), _semiminor(further)
            # from a start that is much too wide, twice as far is a width near zero
            goes_further = _is_form(further) & (far > _SHORTEST * near)
            moving, place, step = moving[usable], place[usable], step[usable]
            before, new, goes_further = before[:, usable], new[:, usable], goes_further[usable]
            shape[:, moving] = np.where(goes_further, further[:, usable], new)
            narrow[moving] = np.where(goes_further, far[usable], near[usable])
            centre[moving] = place + step
            change = np.maximum.reduce(np.abs(new - before)) / (before[0] + before[1])
            moving = moving[(change > _SHAPE_AT_REST) | (np.hypot(step[:, 0], step[:, 1]) > _AT_REST)]
        semimajor, semiminor, orientation = _axes_of(shape)
        good[moving[semiminor[moving] < _COARSEST]] = False
        good = good & (np.hypot(*(centre - begin).T) < 2.0 * semimajor) & (semimajor < size / 3.0)
        window = _gaussian_window(*_pixel_grid(cutouts, x0, y0), centre + corners, np.sqrt(semimajor * semiminor))
        good = good & (semiminor > _NARROWEST) & (_missing_signal(cutouts, window) < _MISSING_SIGNAL)
    semimajor, semiminor, orientation = (
        np.where(good, values, np.nan) for values in (semimajor, semiminor, orientation)
    )
    return semimajor, semiminor, orientation, good


def _centred(columns: np.ndarray, rows: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """First moments (n, 2), in its own window, of a Gaussian that is centred where the window is.

    They are not zero where pixels are as large as the star.
    """
    first = np.zeros_like(xy)
    coarse = np.flatnonzero(sigma < _COARSE)
    for axis, grid in enumerate((columns[coarse, 0, :], rows[coarse, :, 0])):
        offset = grid - xy[coarse, axis, None]
        light = np.exp(-((offset / sigma[coarse, None]) ** 2))
        first[coarse, axis] = np.sum(light * offset, axis=1) / np.sum(light, axis=1)
    return first


def _is_form(shape: np.ndarray) -> np.ndarray:
    """Whether covariances (xx, yy, xy) are those of an ellipse."""
    is_form: np.ndarray = (shape[0] * shape[1] > shape[2] ** 2) & (shape[0] > 0)
    return is_form


@functools.lru_cache(maxsize=32)
def _monomials(size: int) -> np.ndarray:
    """1, x, y, x^2, x y and y^2 of the pixels of a window about its middle one, shape (6, size^2)."""
    offsets = np.arange(size) - float(size // 2)
    x, y = np.tile(offsets, size), np.repeat(offsets, size)
    monomials = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    monomials.flags.writeable = False
    return monomials


def _adapt(
    pixels: np.ndarray,
    has_data: np.ndarray,
    rows: np.ndarray,
    centre: np.ndarray,
    shape: np.ndarray,
    is_coarse: np.ndarray,
    monomials: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of the adaptive moments: shift of the centre (n, 2), and covariance (xx, yy, xy) (3, n).

    Exponent and moments of a window are products with the monomials of its pixels, which are the same for all sources.
    Those that are ``is_coarse`` are compared with their own window; theirs are the ``rows`` of ``has_data``.
    """
    x, y = centre[:, 0], centre[:, 1]
    determinant = shape[0] * shape[1] - shape[2] ** 2
    xx, yy, xy = shape[1] / determinant, shape[0] / determinant, -2.0 * shape[2] / determinant
    along_x, along_y = 2.0 * xx * x + xy * y, 2.0 * yy * y + xy * x
    terms = np.array([0.5 * (along_x * x + along_y * y), -along_x, -along_y, xx, xy, yy])
    distance = np.einsum("kn,kp->np", terms, monomials)
    window = np.exp(-0.5 * distance)
    window *= distance < _WINDOW**2
    step, new = _relative_moments(window * pixels, centre, monomials)
    new *= 2.0
    if is_coarse.any():
        own = np.where(has_data[rows[is_coarse]], window[is_coarse] ** 2, 0.0)
        own_step, own_covariance = _relative_moments(own, centre[is_coarse], monomials)
        step[is_coarse] -= own_step
        new[:, is_coarse] += shape[:, is_coarse] - 2.0 * own_covariance
    step *= 2.0
    return np.minimum(np.maximum(step, -1.0), 1.0), new


def _relative_moments(weighted: np.ndarray, centre: np.ndarray, monomials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First (n, 2) and second (xx, yy, xy) (3, n) moments about centres, over the sum; NaN where that is <= 0."""
    # not a matrix product, which may round differently with other sources beside one
    sums = np.einsum("np,kp->kn", weighted, monomials)
    total = np.where(sums[0] > 0, sums[0], np.nan)
    mean_x, mean_y, xx, xy, yy = sums[1:] / total
    x, y = centre[:, 0], centre[:, 1]
    off_x, off_y = mean_x - x, mean_y - y
    second = np.array([xx - x * (mean_x + off_x), yy - y * (mean_y + off_y), xy - x * mean_y - y * off_x])
    return np.array([off_x, off_y]).T.copy(), second


def _semiminor(shape: np.ndarray) -> np.ndarray:
    """Sigma along the minor axis, from covariances (xx, yy, xy)."""
    half_difference = np.hypot((shape[0] - shape[1]) / 2.0, shape[2])
    semiminor: np.ndarray = np.sqrt((shape[0] + shape[1]) / 2.0 - half_difference)
    return semiminor


def _axes_of(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sigma along the axes, and angle (radians) of the major one, from covariances (xx, yy, xy)."""
    half_sum = (shape[0] + shape[1]) / 2.0
    half_difference = np.hypot((shape[0] - shape[1]) / 2.0, shape[2])
    orientation = 0.5 * np.arctan2(2.0 * shape[2], shape[0] - shape[1])
    return np.sqrt(half_sum + half_difference), np.sqrt(half_sum - half_difference), orientation


def _per_source(value: float | np.ndarray, n_sources: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=float), (n_sources,))


def _pixel_grid(cutouts: np.ndarray, x0: np.ndarray, y0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame coordinates of the pixels: columns ``(n, 1, size)`` and rows ``(n, size, 1)``."""
    offsets = np.arange(cutouts.shape[1])
    return (np.asarray(x0)[:, None] + offsets)[:, None, :], (np.asarray(y0)[:, None] + offsets)[:, :, None]


def _gaussian_window(columns: np.ndarray, rows: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Round Gaussian of peak 1 around each position, cut at 4 sigma."""
    squares = [
        ((grid - xy[:, axis, None, None]) / sigma[:, None, None]) ** 2 for axis, grid in enumerate((columns, rows))
    ]
    # the exponential of a sum is a product: 2 size instead of size^2 exponentials
    peak = np.exp(-0.5 * squares[0]) * np.exp(-0.5 * squares[1])
    return np.where(squares[0] + squares[1] < _WINDOW**2, peak, 0.0)


def _first_moments(
    weighted: np.ndarray, columns: np.ndarray, rows: np.ndarray, xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum (n,) and first moments (n, 2) about a position, of weighted pixels."""
    along_x, along_y = weighted.sum(axis=1), weighted.sum(axis=2)
    dx, dy = columns[:, 0, :] - xy[:, 0, None], rows[:, :, 0] - xy[:, 1, None]
    return along_x.sum(axis=1), np.stack([(along_x * dx).sum(axis=1), (along_y * dy).sum(axis=1)], axis=1)


def _missing_signal(cutouts: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Part of the signal of a star as wide as the window that falls on pixels without data."""
    signal = window**2
    whole = signal.sum(axis=(1, 2))
    missing = np.where(np.isfinite(cutouts), 0.0, signal).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, missing / whole, 1.0)


def source_shapes(image: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Widths and orientations of sources from adaptive moments.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame.
    xy : ndarray, shape (n, 2)
        Positions of the sources in pixels.
    sigma : ndarray, shape (n,)
        Rough widths to start from, in pixels.

    Returns
    -------
    ndarray, shape (3, n)
        semimajor_sigma and semiminor_sigma in pixels, and the angle of the major axis from the x axis in radians; NaN
        where the moments do not converge.
    """
    start = np.clip(np.where(np.isfinite(sigma) & (sigma > 0), sigma, 1.5), 0.8, _LARGEST_SIGMA)
    # a few sizes of cut-outs, each the smallest that is large enough: no source depends on how wide the others are
    reach = _REACHES[np.searchsorted(_REACHES, _WIDTH_REACH * start)]
    shapes = np.full((3, len(xy)), np.nan)
    for half in np.unique(reach).tolist():
        chosen, size = reach == half, 2 * half + 1
        x0, y0 = origins(xy[chosen], size)
        cutouts = cut_out(image, x0, y0, size)
        shapes[:, chosen] = adaptive_moments(cutouts, x0, y0, xy[chosen], start[chosen])[:3]
    return shapes


def source_widths(image: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths of sources: the first two results of :func:`source_shapes`."""
    semimajor, semiminor, _ = source_shapes(image, xy, sigma)
    return semimajor, semiminor


class FieldShape(NamedTuple):
    """Form of the stars of a frame, in pixels and radians; NaN where no star has one."""

    fwhm: float
    semimajor_sigma: float
    semiminor_sigma: float
    orientation: float


def field_shape(
    image: np.ndarray,
    xy: np.ndarray,
    shapes: np.ndarray,
    noise: float,
    *,
    saturated: np.ndarray | None = None,
) -> FieldShape:
    """FWHM and mean form of the stars of a frame.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame.
    xy : ndarray, shape (n, 2)
        Positions of the sources in pixels.
    shapes : ndarray, shape (3, n)
        What :func:`source_shapes` gives for the sources.
    noise : float
        Background RMS in electrons, which decides how much a faint star counts.
    saturated : ndarray of bool, shape (ny, nx), optional
        Sources with a saturated pixel in their core do not count.

    Returns
    -------
    FieldShape
        ``fwhm`` is the median of ``2.3548 sqrt((a^2 + b^2) / 2)`` over the sources; the axes and the angle are those of
        their mean second moments, weighted by their noise and by how far they are from those of the others.
    """
    semimajor, semiminor, angle = shapes
    x0, y0 = origins(xy, _CORE_SIZE)
    core = np.nansum(cut_out(image, x0, y0, _CORE_SIZE), axis=(1, 2))
    known = np.isfinite(semiminor)
    if saturated is not None:
        known &= ~np.any(cut_out(saturated, x0, y0, _CORE_SIZE) > 0, axis=(1, 2))
    if not known.any():
        return FieldShape(*[float("nan")] * 4)
    fwhm = float(np.median(SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)[known]))
    light = np.maximum(core[known], 0.0)
    with np.errstate(divide="ignore"):
        error = _MOMENT_ERROR * np.sqrt(light + (_CORE_SIZE * noise) ** 2) / light
    moments = _moments_of(semimajor[known], semiminor[known], angle[known])
    mean = _robust_mean(moments, error)
    if not np.isfinite(mean).all():
        return FieldShape(fwhm, *[float("nan")] * 3)
    major, minor, theta = _axes_of(mean)
    return FieldShape(fwhm, float(major), float(minor), float(theta))


def _moments_of(semimajor: np.ndarray, semiminor: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Covariances (xx, yy, xy), shape (3, n), from sigma along the axes and the angle of the major one."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            (semimajor * cosine) ** 2 + (semiminor * sine) ** 2,
            (semimajor * sine) ** 2 + (semiminor * cosine) ** 2,
            (semimajor**2 - semiminor**2) * sine * cosine,
        ]
    )


def _robust_mean(moments: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Mean covariance of the stars of a frame, in which no single star decides.

    A star counts with the inverse of its variance: that of its own noise, and that by which stars of the frame differ
    beyond noise, so that the brightest do not count more than a few others. What lies far from the others (blends,
    galaxies) counts less the further it lies, by the weights of a Cauchy distribution: nothing changes by a jump.

    Parameters
    ----------
    moments : ndarray, shape (3, n)
        Covariances (xx, yy, xy) in square pixels.
    error : ndarray, shape (n,)
        1-sigma error of a moment relative to the variance of a star.

    Returns
    -------
    ndarray, shape (3,)
        NaN where no star has a finite error.
    """
    usable = np.isfinite(error)
    if not usable.any():
        return np.full(3, np.nan)
    moments, error = moments[:, usable], error[usable]
    mean = _weighted_median(moments, 1.0 / np.maximum(error, np.median(error)) ** 2)
    for _ in range(_FORM_STEPS):
        size = 0.5 * (mean[0] + mean[1])
        distance = np.sqrt(np.sum((moments - mean[:, None]) ** 2, axis=0) / len(moments)) / size
        # the median of noise and spread together is 0.89 of their sigma, with three moments
        spread = np.sqrt(np.maximum(np.median((distance / _MEDIAN_DISTANCE) ** 2 - error**2), 0.0))
        variance = error**2 + max(spread, _LEAST_SPREAD) ** 2
        weight = 1.0 / (variance * (1.0 + distance**2 / (_FORM_REACH**2 * variance)))
        mean = np.sum(moments * weight, axis=1) / np.sum(weight)
    return mean


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of each row (m, n) in which entries count with weights (n,), linear between entries."""
    medians = np.empty(len(values))
    for row, entries in enumerate(values):
        order = np.argsort(entries, kind="stable")
        share = weights[order] / np.sum(weights)
        medians[row] = np.interp(0.5, np.cumsum(share) - 0.5 * share, entries[order])
    return medians


def match_one_to_one(predicted_xy: np.ndarray, detected_xy: np.ndarray, tolerance: float) -> np.ndarray:
    """Match predicted positions to detections, the closest pair first, each used at most once.

    Parameters
    ----------
    predicted_xy : ndarray, shape (n, 2)
        NaN positions match nothing.
    detected_xy : ndarray, shape (m, 2)
        Positions of the detected sources in pixels.
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


def centroid_errors(
    cutouts: np.ndarray, rms: np.ndarray, x0: np.ndarray, y0: np.ndarray, xy: np.ndarray, sigma: float | np.ndarray
) -> np.ndarray:
    """1-sigma errors, along an axis, of windowed centroids: ``sqrt(2) sigma / (S/N)``, with the S/N in the window.

    Parameters
    ----------
    cutouts, rms : ndarray, shape (n, size, size)
        Sky-subtracted electrons and background RMS.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners.
    xy : ndarray, shape (n, 2)
        Centroids.
    sigma : float or ndarray of shape (n,)
        Width of the window in pixels.

    Returns
    -------
    ndarray, shape (n,)
        Pixels; infinite where there is no signal.
    """
    columns, rows = _pixel_grid(cutouts, x0, y0)
    has_data = np.isfinite(cutouts)
    window = np.where(has_data, _gaussian_window(columns, rows, xy, _per_source(sigma, len(cutouts))), 0.0)
    light = window * np.where(has_data, cutouts, 0.0)
    signal = np.maximum(np.sum(light, axis=(1, 2)), 0.0)
    source = np.maximum(np.sum(window * light, axis=(1, 2)), 0.0)
    variance = source + np.sum((window * np.where(has_data, rms, 0.0)) ** 2, axis=(1, 2))
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
        Of the centroids, see :func:`centroid_errors`.
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
        Lower corners.
    xy : ndarray, shape (n, 2)
        Where the star is.
    sigma : float
        Width of the window in pixels.

    Returns
    -------
    ndarray, shape (n,)
        Pixels.
    """
    columns, rows = _pixel_grid(light, x0, y0)
    window = _gaussian_window(columns, rows, xy, _per_source(sigma, len(light)))
    total, _ = _first_moments(window * light, columns, rows, xy)
    _, first = _first_moments(window * foreign, columns, rows, xy)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, 2.0 * np.hypot(first[:, 0], first[:, 1]) / total, 0.0)
