"""Widths and orientations of sources: adaptive second moments on cut-outs."""

from __future__ import annotations

import functools

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.sources import photometry, windows

#: Cut-outs for widths reach this many sigma of the start value, and have one of a few sizes.
_WIDTH_REACH = 6.0
#: They are made for stars up to this sigma, pixels.
_LARGEST_SIGMA = 12.0
_REACHES = np.array([11, 20, 40, 72])

#: A relative change of a covariance below which the iteration has arrived.
_SHAPE_AT_REST = 1e-4

#: A step of the adaptive moments makes a width at most so much smaller than a plain step.
_SHORTEST = 0.5

#: Below this sigma (pixels) steps may swing without an end, and what still moves is no width.
_COARSEST = 0.7

#: Widths below this sigma (pixels) are those of a single bright pixel: a star that is a point has 0.29, and what is
#: narrower than this cannot be told from it.
_NARROWEST = 0.45


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
        Lower corners of the cut-outs.
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
    if compiled.native is not None:
        return _compiled_moments(
            cutouts, np.asarray(start_xy, dtype=float) - np.stack([x0, y0], axis=1), sigma, n_iterations
        )
    n_sources, size = cutouts.shape[:2]
    has_data = np.isfinite(cutouts).reshape(n_sources, -1)
    pixels = np.where(has_data, cutouts.reshape(n_sources, -1), 0.0)
    start, width = np.asarray(start_xy, dtype=float), windows.per_source(sigma, n_sources)
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
            is_coarse = narrow[moving] < windows.COARSE
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
            moving = moving[(change > _SHAPE_AT_REST) | (np.hypot(step[:, 0], step[:, 1]) > windows.AT_REST)]
        semimajor, semiminor, orientation = axes_of(shape)
        good[moving[semiminor[moving] < _COARSEST]] = False
        good = good & (np.hypot(*(centre - begin).T) < 2.0 * semimajor) & (semimajor < size / 3.0)
        window = windows.gaussian_window(
            *windows.pixel_grid(cutouts, x0, y0), centre + corners, np.sqrt(semimajor * semiminor)
        )
        good = good & (semiminor > _NARROWEST) & (windows.missing_signal(cutouts, window) < windows.LARGEST_GAP)
    semimajor, semiminor, orientation = (
        np.where(good, values, np.nan) for values in (semimajor, semiminor, orientation)
    )
    return semimajor, semiminor, orientation, good


def _compiled_moments(
    cutouts: np.ndarray, centres: np.ndarray, sigma: float | np.ndarray, n_iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What :func:`adaptive_moments` gives, by the kernel in C; ``centres`` (n, 2) are places in the cut-outs."""
    assert compiled.native is not None
    forms, good = np.empty((len(cutouts), 3)), np.empty(len(cutouts), dtype=bool)
    limits = np.array((n_iterations, _SHAPE_AT_REST, _SHORTEST, _COARSEST, _NARROWEST))
    widths = compiled.ready(windows.per_source(sigma, len(cutouts)))
    pixels = compiled.ready(cutouts, dtype=float)
    compiled.native.adaptive_moments(pixels, centres, widths, windows.LIMITS, limits, forms, good)
    with np.errstate(invalid="ignore"):
        semimajor, semiminor, orientation = (np.where(good, values, np.nan) for values in axes_of(forms.T))
    return semimajor, semiminor, orientation, good


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
    window *= distance < windows.WINDOW**2
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


def axes_of(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sigma along the axes, and angle (radians) of the major one, from covariances (xx, yy, xy)."""
    half_sum = (shape[0] + shape[1]) / 2.0
    half_difference = np.hypot((shape[0] - shape[1]) / 2.0, shape[2])
    orientation = 0.5 * np.arctan2(2.0 * shape[2], shape[0] - shape[1])
    return np.sqrt(half_sum + half_difference), np.sqrt(half_sum - half_difference), orientation


def moments_of(semimajor: np.ndarray, semiminor: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Covariances (xx, yy, xy), shape (3, n), from sigma along the axes and the angle of the major one."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            (semimajor * cosine) ** 2 + (semiminor * sine) ** 2,
            (semimajor * sine) ** 2 + (semiminor * cosine) ** 2,
            (semimajor**2 - semiminor**2) * sine * cosine,
        ]
    )


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
    reach = reach_of(start)
    shapes = np.full((3, len(xy)), np.nan)
    for half in sorted(set(reach.tolist())):
        chosen, size = reach == half, 2 * half + 1
        x0, y0 = photometry.origins(xy[chosen], size)
        cutouts = photometry.cut_out(image, x0, y0, size)
        shapes[:, chosen] = adaptive_moments(cutouts, x0, y0, xy[chosen], start[chosen])[:3]
    return shapes


def reach_of(sigma: np.ndarray) -> np.ndarray:
    """Pixels on each side of sources (n,) of a sigma of at most 12 pixels that their widths are measured in.

    They are one of a few, each the smallest that is large enough: no source depends on how wide the others are.
    """
    reach: np.ndarray = _REACHES[np.searchsorted(_REACHES, _WIDTH_REACH * sigma)]
    return reach


def source_widths(image: np.ndarray, xy: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths of sources: the first two results of :func:`source_shapes`."""
    semimajor, semiminor, _ = source_shapes(image, xy, sigma)
    return semimajor, semiminor
