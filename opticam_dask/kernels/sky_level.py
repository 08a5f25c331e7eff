"""The level of the sky under the sources of one frame: a smooth, robust fit of the means of its boxes.

The mesh of `background` is an estimate of the mode, which the light of a star in a box pulls up, and a saturated patch
or the edge of a nebula spoils. What a flux needs is the mean of the pixels without stars. It is had in two steps: a
plane fitted to the mesh of 5 x 5 boxes around each (`trend`), and the mean, over 3 x 3 boxes, of what the sky pixels
are above it (`level`). In both steps a box that disagrees with most of those around it does not count.
"""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.background import fill

#: Boxes across which planes are fitted, and across which what is above them is averaged.
_TREND_BOXES, _LEVEL_BOXES = 5, 3

#: A box with a smaller share of sky pixels says nothing about the sky.
_LEAST_SKY = 0.05

#: Sky pixels that a mean needs, in boxes.
_ENOUGH = 0.5

#: Scatter of a box of the mesh around the true sky, in units of the RMS over the root of its pixels.
_BOX_SCATTER = 0.9

#: A box disagrees with its neighbours when it is so many standard deviations away, by the noise of its pixels and by
#: the scatter of the neighbours.
_BY_NOISE, _BY_SCATTER = 5.0, 4.0

#: So many of 3 x 3 boxes that agree with the middle one are a sky of their own (the corner of an amplifier has four).
_OWN_SKY = 4

#: Slopes are held towards 0 as by so many squared boxes: a slope needs more than two boxes.
_SLOPE_RIDGE = 0.2

_MAD_TO_SIGMA = 1.4826


def trend(
    mesh: np.ndarray, rms_mesh: np.ndarray, numbers: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int]
) -> np.ndarray:
    """Smooth course of a sky mesh, without the bulges of stars and without boxes that are not sky.

    Parameters
    ----------
    mesh, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        Sky and its scatter, electrons per pixel.
    numbers : ndarray, shape (mesh_y, mesh_x)
        Sky pixels of each box.
    shape, box_size : (int, int)
        Of the frame and of its boxes, ``(ny, nx)``.

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
        Plane through 5 x 5 boxes at the middle one, each weighted by its sky pixels; filled from the nearest known
        boxes where there is no sky.
    """
    weights = _weights(numbers, box_areas(shape, box_size))
    noise = _BY_NOISE * _BOX_SCATTER * _typical(rms_mesh, weights) / np.sqrt(box_size[0] * box_size[1])
    windows, window_weights = _windows(mesh, _TREND_BOXES), _windows(weights, _TREND_BOXES)
    plane, _, _ = _plane(windows, window_weights)
    smooth = plane.reshape(mesh.shape)
    is_odd = (weights > 0) & (np.abs(mesh - smooth) > noise)
    if is_odd.any():
        affected = np.flatnonzero(_any_of_neighbours(is_odd, _TREND_BOXES))
        plane[affected] = _robust_plane(windows[:, affected], window_weights[:, affected], noise)
    is_known = window_weights.sum(axis=0) > _LEAST_SKY
    if not is_known.any():
        return mesh.copy()
    return fill(np.where(is_known, plane, np.nan).reshape(1, *mesh.shape))[0]


def level(
    course: np.ndarray,
    excess: np.ndarray,
    numbers: np.ndarray,
    rms_mesh: np.ndarray,
    shape: tuple[int, int],
    box_size: tuple[int, int],
) -> np.ndarray:
    """Mean level of the sky at each box.

    Parameters
    ----------
    course : ndarray, shape (mesh_y, mesh_x)
        See :func:`trend`.
    excess : ndarray, shape (mesh_y, mesh_x)
        Sum over the sky pixels of each box of what they are above the zoomed course.
    numbers : ndarray, shape (mesh_y, mesh_x)
        How many sky pixels there are.
    rms_mesh : ndarray, shape (mesh_y, mesh_x)
    shape, box_size : (int, int)

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
        Course plus the mean excess of the 3 x 3 boxes around; of 5 x 5, 9 x 9, or the frame where these have no sky.
    """
    weights = _weights(numbers, box_areas(shape, box_size))
    mean = np.where(weights > 0, excess / np.maximum(numbers, 1), 0.0)
    noise = _BY_NOISE * _typical(rms_mesh, weights) / np.sqrt(box_size[0] * box_size[1])
    limit = noise * np.sqrt(1.0 / np.maximum(weights, _LEAST_SKY) + 1.0)
    windows, window_weights = _windows(mean, _LEVEL_BOXES), _windows(weights, _LEVEL_BOXES)
    local = _weighted_mean(windows, window_weights)
    is_odd = (weights > 0) & (np.abs(mean - local.reshape(mean.shape)) > limit)
    if is_odd.any():
        affected = np.flatnonzero(_any_of_neighbours(is_odd, _LEVEL_BOXES))
        limits = _windows(limit, _LEVEL_BOXES)[:, affected]
        agrees = _agrees_with_most(windows[:, affected], window_weights[:, affected], limits)
        window_weights[:, affected] *= agrees
        local[affected] = _weighted_mean(windows[:, affected], window_weights[:, affected])
        own = window_weights[len(window_weights) // 2].reshape(weights.shape)
        weights = np.where(_any_of_neighbours(is_odd, _LEVEL_BOXES), own, weights)
    found, known = local, window_weights.sum(axis=0)
    for n_boxes in (_TREND_BOXES, 9, 2 * max(mean.shape) + 1):
        is_poor = known < _ENOUGH
        if not is_poor.any():
            break
        found, known = found.copy(), known.copy()
        wider, wider_weights = _sums_around(mean * weights, n_boxes), _sums_around(weights, n_boxes)
        found[is_poor] = (wider / np.where(wider_weights > 0, wider_weights, 1.0)).ravel()[is_poor]
        known[is_poor] = wider_weights.ravel()[is_poor]
    result: np.ndarray = course + found.reshape(course.shape)
    return result


def box_areas(shape: tuple[int, int], box_size: tuple[int, int]) -> np.ndarray:
    """Pixels of each box of a mesh, shape (mesh_y, mesh_x); boxes at the far edges may be cut."""
    sides = [np.minimum(box, size - np.arange(0, size, box)) for size, box in zip(shape, box_size, strict=True)]
    area: np.ndarray = np.outer(*sides)
    return area


def _weights(numbers: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Sky pixels of each box in units of a whole box; 0 where there are next to none."""
    share = np.maximum(numbers, 0) / areas.max()
    return np.where(share > _LEAST_SKY, share, 0.0)


def _typical(rms_mesh: np.ndarray, weights: np.ndarray) -> float:
    """Scatter of a pixel of the sky, where there is sky."""
    return float(np.median(rms_mesh[weights > 0])) if (weights > 0).any() else 0.0


def _windows(mesh: np.ndarray, n_boxes: int) -> np.ndarray:
    """The ``n_boxes`` x ``n_boxes`` boxes around each, shape (neighbour, box); 0 beyond the edges."""
    reach, (ny, nx) = n_boxes // 2, mesh.shape
    padded = np.pad(mesh, reach)
    view = np.lib.stride_tricks.sliding_window_view(padded, (ny, nx))
    return view.reshape(n_boxes * n_boxes, ny * nx).copy()


def _any_of_neighbours(marked: np.ndarray, n_boxes: int) -> np.ndarray:
    return _sums_around(marked.astype(float), n_boxes) > 0.5


def _sums_around(mesh: np.ndarray, n_boxes: int) -> np.ndarray:
    """Sum over the boxes around each; beyond the edges there is nothing."""
    for axis in (0, 1):
        sums = np.cumsum(mesh, axis=axis)
        n = mesh.shape[axis]
        last = np.minimum(np.arange(n) + n_boxes // 2, n - 1)
        before = np.arange(n) - n_boxes // 2 - 1
        shape = (-1, 1) if axis == 0 else (1, -1)
        mesh = np.take(sums, last, axis) - np.where(
            before.reshape(shape) >= 0, np.take(sums, np.maximum(before, 0), axis), 0.0
        )
    return mesh


def _places(n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the boxes of a window from its middle, in boxes, shape (neighbour,) each."""
    side = int(np.sqrt(n_neighbours))
    y, x = np.divmod(np.arange(n_neighbours), side)
    return (x - side // 2).astype(float), (y - side // 2).astype(float)


def _plane(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted plane through the boxes of windows (neighbour, box): value in the middle, and slopes along x and y."""
    x, y = _places(len(values))
    total, *moments = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]) @ weights
    sums = np.stack([np.ones_like(x), x, y]) @ (weights * values)
    norm = np.where(total > 0, total, 1.0)
    mean_x, mean_y, mean = moments[0] / norm, moments[1] / norm, sums[0] / norm
    xx = moments[2] - total * mean_x**2 + _SLOPE_RIDGE
    xy = moments[3] - total * mean_x * mean_y
    yy = moments[4] - total * mean_y**2 + _SLOPE_RIDGE
    along_x, along_y = sums[1] - total * mean_x * mean, sums[2] - total * mean_y * mean
    determinant = xx * yy - xy * xy
    slope_x = (yy * along_x - xy * along_y) / determinant
    slope_y = (xx * along_y - xy * along_x) / determinant
    return mean - slope_x * mean_x - slope_y * mean_y, slope_x, slope_y


def _robust_plane(values: np.ndarray, weights: np.ndarray, noise: float) -> np.ndarray:
    """Plane through those boxes of windows (neighbour, box) that agree with each other; its value in the middle.

    They are those around the median of the window, or, where several neighbours are like the box in the middle, those
    around these: on either side of an edge in the sky the side of the box itself counts.
    """
    side, (x, y) = _TREND_BOXES, _places(len(values))
    known = np.where(weights > 0, values, np.nan)
    square = known.reshape(side, side, -1)
    slope_x = np.nan_to_num(_median((square[:, 1:] - square[:, :-1]).reshape(side * (side - 1), -1)))
    slope_y = np.nan_to_num(_median((square[1:] - square[:-1]).reshape(side * (side - 1), -1)))
    flat = known - x[:, None] * slope_x - y[:, None] * slope_y
    start = _median(flat)
    near = np.maximum(np.abs(x), np.abs(y)) <= 1
    alike = np.abs(flat[near] - flat[len(flat) // 2]) <= noise
    has_own = np.count_nonzero(alike, axis=0) >= _OWN_SKY
    start = np.where(has_own, _median(np.where(alike, flat[near], np.nan)), start)
    residual = flat - start
    for _ in range(2):
        scale = _MAD_TO_SIGMA * _median(np.abs(residual))
        # where the box has a sky of its own, those that are not like it may be most of the window
        limit = np.where(has_own, noise, np.maximum(noise, _BY_SCATTER * scale))
        kept = np.where(np.abs(residual) <= limit, weights, 0.0)
        middle, slope_x, slope_y = _plane(values, kept)
        residual = known - middle - x[:, None] * slope_x - y[:, None] * slope_y
    return middle


def _agrees_with_most(values: np.ndarray, weights: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Which boxes of windows (neighbour, box) are near the median of their window."""
    known = np.where(weights > 0, values, np.nan)
    away = np.abs(known - _median(known))
    scatter = _BY_SCATTER * _MAD_TO_SIGMA * _median(away)
    agrees: np.ndarray = away <= np.maximum(limits, scatter)
    return agrees


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=0)
    mean: np.ndarray = (values * weights).sum(axis=0) / np.where(total > 0, total, 1.0)
    return mean


def _median(values: np.ndarray) -> np.ndarray:
    """Median along the first axis without NaN; NaN where there is nothing."""
    ordered = np.sort(values, axis=0)
    n_known = np.count_nonzero(~np.isnan(values), axis=0)[None]
    low, high = (
        np.take_along_axis(ordered, rank, axis=0)[0] for rank in (np.maximum(n_known - 1, 0) // 2, n_known // 2)
    )
    # n_known // 2 of an odd count is the middle itself
    median: np.ndarray = 0.5 * (low + high)
    return median
