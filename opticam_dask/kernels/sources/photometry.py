"""Photometry on cut-outs: exact apertures, sums, one-to-one matching.

Cut-outs are square windows ``(n, size, size)`` with a lower corner ``(x0, y0)`` each and NaN beyond the frame. The
result for one source does not depend on which others are measured with it.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from opticam_dask.kernels import compiled

#: Kinds of pixels that are cut out in C; others are in NumPy.
_CUT_IN_C = tuple(np.dtype(kind) for kind in (np.uint16, np.float32, np.float64, np.bool_))

SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


def origins(xy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower corners ``x0, y0`` of windows of ``size`` pixels centred on the pixel nearest to each position.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Positions; NaN gives a window far outside any frame.
    size : int
        Side of the square cut-outs in pixels.
    """
    nearest = np.floor(np.asarray(xy) + 0.5)
    corner = np.where(np.abs(nearest) < 2**30, nearest, -(2**30)).astype(np.int64) - size // 2
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
    if compiled.native is not None and image.dtype in _CUT_IN_C and image.flags.c_contiguous and image.flags.aligned:
        windows = np.empty((len(x0), size, size))
        corners = (compiled.ready(corner, dtype=np.int64) for corner in (x0, y0))
        compiled.native.cut_out(image, *corners, windows)
        return windows
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
        Radius of the aperture, pixels.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    edges = np.arange(size + 1) - 0.5
    x, y = (
        np.minimum(np.maximum(edges + (low[:, np.newaxis] - at), -radius), radius)
        for low, at in ((x0, xy[:, :1]), (y0, xy[:, 1:]))
    )
    edges_of, least = _disk_edges(x, y, radius), _ROUNDING * radius**2
    if compiled.native is not None:
        shares = np.empty((len(xy), size, size))
        compiled.native.disk_shares(compiled.ready(np.stack(edges_of), dtype=float), shares, least)
        return shares
    weights = np.diff(np.diff(_area_below(*edges_of), axis=1), axis=2)
    weights[~(weights > least)] = 0.0  # NaN as well
    return np.minimum(weights, 1.0, out=weights)


def _disk_edges(x: np.ndarray, y: np.ndarray, radius: float) -> tuple[np.ndarray, ...]:
    """Lines, area below the circle up to each of ``x``, where each of ``y`` meets it, and the area up to there."""

    def circle_at(x: np.ndarray) -> np.ndarray:
        height: np.ndarray = np.sqrt((radius - x) * (radius + x))
        return height

    def below_circle(x: np.ndarray) -> np.ndarray:
        height = circle_at(x)
        area: np.ndarray = 0.5 * (x * height + radius**2 * np.arctan2(x, height))
        return area

    meets = circle_at(np.abs(y))  # where a line of this height meets the circle
    return x, y, below_circle(np.abs(x)), meets, below_circle(meets)


def _area_below(x: np.ndarray, y: np.ndarray, circle: np.ndarray, meets: np.ndarray, until: np.ndarray) -> np.ndarray:
    """Signed area of a disk around the origin between the axes and lines at ``x`` (n, m) and ``y`` (n, m): (n, y, x).

    In a quadrant it is the integral over x of the lower one of ``y`` and the circle, ``sqrt(radius**2 - x**2)``.
    """
    circle, right = circle[:, np.newaxis, :], np.abs(x)[:, np.newaxis, :]
    until, meets, height = (values[:, :, np.newaxis] for values in (until, meets, np.abs(y)))
    area: np.ndarray = np.where(right <= meets, height * right, height * meets + circle - until)
    return area * np.sign(x)[:, np.newaxis, :] * np.sign(y)[:, :, np.newaxis]


def elliptical_weights(
    xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, semimajor: float, semiminor: float, theta: float
) -> np.ndarray:
    """Exact share of each pixel in an elliptical aperture.

    Parameters
    ----------
    xy, x0, y0, size
        Centres, lower corners and size of the cut-outs, as :func:`circular_weights` takes them.
    semimajor, semiminor : float
        Semi-axes in pixels.
    theta : float
        Angle of the major axis from the x axis, counter-clockwise, in radians.

    Returns
    -------
    ndarray, shape (n, size, size)
    """
    from photutils.geometry import elliptical_overlap_grid

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
    if compiled.native is not None and 0 < len(predicted_xy) * len(detected_xy) <= _MOST_PAIRS:
        matched = np.empty(len(predicted_xy), dtype=np.int64)
        both = (compiled.ready(xy, dtype=float) for xy in (predicted_xy, detected_xy))
        compiled.native.match_positions(*both, matched, tolerance)
        return matched
    matched = np.full(len(predicted_xy), -1, dtype=np.intp)
    known = np.flatnonzero(np.all(np.isfinite(predicted_xy), axis=1)) if len(predicted_xy) else np.empty(0, int)
    detections = np.flatnonzero(np.all(np.isfinite(detected_xy), axis=1)) if len(detected_xy) else np.empty(0, int)
    if not len(known) or not len(detections):
        return matched
    one, other, away = _pairs_within(predicted_xy[known], detected_xy[detections], tolerance)
    order = np.lexsort((other, one, away))
    taken: set[int] = set()
    for source, detection in zip(known[one[order]].tolist(), detections[other[order]].tolist(), strict=True):
        if matched[source] < 0 and detection not in taken:
            matched[source] = detection
            taken.add(detection)
    return matched


#: Up to so many pairs are compared in C; more by trees.
_MOST_PAIRS = 2**22
#: So many pairs of positions are all looked at: that is faster than to build trees of them.
_FEW_PAIRS = 2**15
#: What rounding leaves of areas of a disk, relative to the square of its radius.
_ROUNDING = 1e-14


def _pairs_within(one: np.ndarray, other: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of positions (n, 2) and (m, 2) that are no further apart than ``reach``, and how far they are."""
    if len(one) * len(other) > _FEW_PAIRS:
        pairs = KDTree(one).sparse_distance_matrix(KDTree(other), reach, output_type="ndarray")
        return pairs["i"], pairs["j"], pairs["v"]
    dx, dy = (one[:, axis, None] - other[:, axis] for axis in (0, 1))
    away = np.sqrt(dx * dx + dy * dy)
    first, second = np.nonzero(away <= reach)
    return first, second, away[first, second]
