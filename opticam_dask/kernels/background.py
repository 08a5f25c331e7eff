"""Sky background of one frame: the mesh, and the images that are zoomed from it.

The estimators are photutils' defaults (``Background2D``): in each box a 3-sigma clip about the median, SExtractor's
mode estimate (Bertin & Arnouts 1996, A&AS 117, 393: ``2.5 median - 1.5 mean``) and the standard deviation; boxes with
too few pixels left are filled from their neighbours; a 3 x 3 median filter; a cubic-spline zoom. A box is sorted
once: every round of clipping is then a look-up in the sorted values and in their running sums.
"""

from __future__ import annotations

import functools
import warnings

import numpy as np
from scipy.ndimage import zoom
from scipy.spatial import KDTree

_SIGMA = 3.0
_MAX_ROUNDS = 10

#: A box counts when more than this share of its full number of pixels survive the clip (exclude_percentile 10).
_LEAST_SHARE = 0.9

#: SExtractor's mode estimate is used while mean and median differ by less than this many standard deviations.
_CROWDED = 0.3

#: Boxes without a value are interpolated from this many neighbours, weighted by inverse distance.
_NEIGHBOURS = 10

#: A box must be several FWHM wide (binned OPTICAM stars have 2 to 4 pixels), or it takes bright stars for sky.
_SMALLEST_BOX = 16
_BOXES_ACROSS = 32


def default_box_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Box of the default mesh: 1/32 of the shorter side of the frame, at least 16 pixels.

    Parameters
    ----------
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.

    Returns
    -------
    (int, int)
        Box size ``(ny, nx)``.
    """
    side = max(_SMALLEST_BOX, min(shape) // _BOXES_ACROSS)
    return min(side, shape[0]), min(side, shape[1])


def sky_mesh(
    image: np.ndarray, box_size: tuple[int, int], *, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sky level and its scatter in the boxes of a mesh.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Frame with its sky; NaN pixels do not count.
    box_size : (int, int)
        Box size ``(ny, nx)`` in pixels; boxes at the far edges may be cut.
    mask : ndarray of bool, shape (ny, nx), optional
        True where a pixel does not count.

    Returns
    -------
    mesh, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        Background and its standard deviation, in the unit of the image; equal to ``background_mesh`` and
        ``background_rms_mesh`` of photutils' ``Background2D(image, box_size)``.

    Raises
    ------
    ValueError
        When the box is larger than the image, or no box has enough usable pixels.
    """
    box_y, box_x = box_size
    if box_y > image.shape[0] or box_x > image.shape[1] or min(box_size) < 1:
        raise ValueError(f"box_size {box_size} does not fit a frame of {image.shape[0]} x {image.shape[1]} pixels")
    values = np.asarray(image, dtype=float)
    unusable = ~np.isfinite(values)
    if mask is not None:
        unusable |= mask
    if unusable.any():
        values = np.where(unusable, np.nan, values)
    level, scatter = _box_statistics(values, box_size)
    if np.isnan(level).all():
        raise ValueError(
            f"no box of {box_y} x {box_x} pixels has more than {100 * _LEAST_SHARE:.0f} % usable pixels: "
            "use smaller boxes or mask less"
        )
    return _median_filter(_fill(level)), _median_filter(_fill(scatter))


def _box_statistics(values: np.ndarray, box_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Level and scatter of every box; NaN where too few pixels are left."""
    (ny, nx), (box_y, box_x) = values.shape, box_size
    rows, columns = ny // box_y, nx // box_x
    mesh = (-(-ny // box_y), -(-nx // box_x))
    level, scatter = np.full(mesh, np.nan), np.full(mesh, np.nan)
    least = _LEAST_SHARE * box_y * box_x
    core_y, core_x = rows * box_y, columns * box_x
    regions = [
        ((slice(0, rows), slice(0, columns)), values[:core_y, :core_x], box_size),
        ((slice(rows, mesh[0]), slice(0, columns)), values[core_y:, :core_x], (ny - core_y, box_x)),
        ((slice(0, rows), slice(columns, mesh[1])), values[:core_y, core_x:], (box_y, nx - core_x)),
        ((slice(rows, mesh[0]), slice(columns, mesh[1])), values[core_y:, core_x:], (ny - core_y, nx - core_x)),
    ]
    for where, region, box in regions:
        if not region.size:
            continue
        shape = (region.shape[0] // box[0], region.shape[1] // box[1])
        boxes = (
            region.reshape(shape[0], box[0], shape[1], box[1]).transpose(0, 2, 1, 3).reshape(shape[0] * shape[1], -1)
        )
        found_level, found_scatter = _clipped_statistics(np.sort(boxes, axis=1), least)
        level[where], scatter[where] = found_level.reshape(shape), found_scatter.reshape(shape)
    return level, scatter


def _clipped_statistics(ordered: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Mode and standard deviation of sorted rows after the clip.

    Parameters
    ----------
    ordered : ndarray, shape (box, pixel)
        Each row sorted, NaN last.
    least : float
        A row with at most so many values left gives NaN.
    """
    n_boxes = len(ordered)
    first, last = np.zeros(n_boxes, dtype=np.intp), np.count_nonzero(~np.isnan(ordered), axis=1)
    centre = _middle(ordered, first, last)
    sums, squares = _running_sums(ordered, np.where(np.isfinite(centre), centre, 0.0))
    rows = np.arange(n_boxes)
    for _ in range(_MAX_ROUNDS):
        median = _middle(ordered, first, last)
        _, std = _moments(ordered, sums, squares, first, last)
        new_first = np.maximum(first, _bisect(ordered, median - _SIGMA * std, rows, first, last, right=False))
        new_last = np.minimum(last, _bisect(ordered, median + _SIGMA * std, rows, first, last, right=True))
        settled = (new_first == first) & (new_last == last)
        first, last = new_first, np.maximum(new_last, new_first)
        if settled.all():
            break
    median = _middle(ordered, first, last)
    deviation, std = _moments(ordered, sums, squares, first, last)
    mean = centre + deviation
    with np.errstate(invalid="ignore", divide="ignore"):
        crowded = np.abs(mean - median) / std >= _CROWDED
    level = np.where(crowded, median, 2.5 * median - 1.5 * mean)
    level = np.where(std == 0, mean, level)
    too_few = last - first <= least
    return np.where(too_few, np.nan, level), np.where(too_few, np.nan, std)


def _middle(ordered: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Median of ``ordered[row, first:last]``; NaN where that is empty."""
    rows, count = np.arange(len(ordered)), last - first
    low = np.clip(first + (count - 1) // 2, 0, ordered.shape[1] - 1)
    high = np.clip(first + count // 2, 0, ordered.shape[1] - 1)
    middle = 0.5 * (ordered[rows, low] + ordered[rows, high])
    return np.where(count > 0, middle, np.nan)


def _running_sums(ordered: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running sums of the deviations from ``centre`` and of their squares, with a leading zero; NaN counts as 0."""
    deviations = ordered - centre[:, None]
    np.nan_to_num(deviations, copy=False)
    sums = np.zeros((ordered.shape[0], ordered.shape[1] + 1))
    squares = np.zeros_like(sums)
    np.cumsum(deviations, axis=1, out=sums[:, 1:])
    np.cumsum(np.square(deviations, out=deviations), axis=1, out=squares[:, 1:])
    return sums, squares


def _moments(
    ordered: np.ndarray, sums: np.ndarray, squares: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean deviation from the centre, and standard deviation, of ``ordered[row, first:last]``."""
    rows, count = np.arange(len(ordered)), np.maximum(last - first, 1)
    mean = (sums[rows, last] - sums[rows, first]) / count
    variance = (squares[rows, last] - squares[rows, first]) / count - mean**2
    top = ordered[rows, np.clip(last - 1, 0, None)]
    variance[top == ordered[rows, np.minimum(first, ordered.shape[1] - 1)]] = 0.0
    return mean, np.sqrt(np.maximum(variance, 0.0))


def _bisect(
    ordered: np.ndarray, bound: np.ndarray, rows: np.ndarray, first: np.ndarray, last: np.ndarray, *, right: bool
) -> np.ndarray:
    """In each row the number of values below ``bound`` (or not above it, for ``right``), between first and last."""
    low, high = first.copy(), last.copy()
    for _ in range(int(ordered.shape[1]).bit_length() + 1):
        middle = (low + high) // 2
        value = ordered[rows, np.minimum(middle, ordered.shape[1] - 1)]
        below = (value <= bound) if right else (value < bound)
        open_interval = low < high
        low = np.where(open_interval & below, middle + 1, low)
        high = np.where(open_interval & ~below, middle, high)
    return low


def _fill(mesh: np.ndarray) -> np.ndarray:
    """Fill boxes without a value from their neighbours (Shepard's inverse distance weighting)."""
    missing = np.isnan(mesh)
    if not missing.any():
        return mesh
    known = np.argwhere(~missing)
    n_neighbours = min(_NEIGHBOURS, len(known))
    distances, nearest = KDTree(known).query(np.argwhere(missing), k=n_neighbours)
    distances, nearest = distances.reshape(-1, n_neighbours), nearest.reshape(-1, n_neighbours)
    weights = 1.0 / distances
    filled = mesh.copy()
    filled[missing] = np.sum(weights * mesh[~missing][nearest], axis=1) / np.sum(weights, axis=1)
    return filled


def _median_filter(mesh: np.ndarray) -> np.ndarray:
    """3 x 3 median; beyond the edges there is nothing."""
    padded = np.pad(mesh, 1, constant_values=np.nan)
    ny, nx = mesh.shape
    neighbours = np.stack([padded[dy : dy + ny, dx : dx + nx] for dy in range(3) for dx in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        filtered: np.ndarray = np.nanmedian(neighbours, axis=0)
    return filtered


@functools.lru_cache(maxsize=32)
def _zoom_matrix(n_pixels: int, n_mesh: int, box: int) -> np.ndarray:
    """Cubic-spline zoom along one axis as a matrix, shape (pixel, mesh): the zoom is linear in the mesh."""
    identity = np.eye(n_mesh)
    columns = [
        zoom(identity[index], box, order=3, mode="reflect", grid_mode=True)[:n_pixels] for index in range(n_mesh)
    ]
    matrix = np.ascontiguousarray(np.column_stack(columns))
    matrix.flags.writeable = False
    return matrix


def zoom_mesh(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int]) -> np.ndarray:
    """Zoom a mesh to the size of the frame.

    Parameters
    ----------
    mesh : ndarray, shape (mesh_y, mesh_x)
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.
    box_size : (int, int)
        Box size ``(ny, nx)`` of the mesh.

    Returns
    -------
    ndarray, shape (ny, nx)
        Equal to ``Background2D.background``: cubic spline, clipped to the range of the mesh.
    """
    along_y = _zoom_matrix(shape[0], mesh.shape[0], box_size[0])
    along_x = _zoom_matrix(shape[1], mesh.shape[1], box_size[1])
    image: np.ndarray = along_y @ mesh @ along_x.T
    return np.clip(image, mesh.min(), mesh.max(), out=image)


def zoom_mesh_windows(
    mesh: np.ndarray,
    shape: tuple[int, int],
    box_size: tuple[int, int],
    y0: np.ndarray,
    x0: np.ndarray,
    size: int,
) -> np.ndarray:
    """Zoomed mesh in small square windows only; the bits do not depend on which windows are asked for.

    Parameters
    ----------
    mesh : ndarray, shape (mesh_y, mesh_x)
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.
    box_size : (int, int)
        Box size ``(ny, nx)`` of the mesh.
    y0, x0 : ndarray of int, shape (n,)
        Lower corner of each window; windows may reach beyond the frame.
    size : int
        Side of the windows in pixels.

    Returns
    -------
    ndarray, shape (n, size, size)
        NaN beyond the frame.
    """
    along_y = _zoom_matrix(shape[0], mesh.shape[0], box_size[0])
    along_x = _zoom_matrix(shape[1], mesh.shape[1], box_size[1])
    offsets = np.arange(size)
    rows, columns = np.asarray(y0)[:, None] + offsets, np.asarray(x0)[:, None] + offsets
    weights_y = along_y[np.clip(rows, 0, shape[0] - 1)]
    weights_x = along_x[np.clip(columns, 0, shape[1] - 1)]
    low, high = mesh.min(), mesh.max()
    windows = np.empty((len(rows), size, size))
    for index in range(len(rows)):
        # element-wise products summed along the contiguous mesh axis: the same order of operations for every
        # pixel, whatever the window (a matrix product may choose another kernel for another shape)
        partial = np.sum(weights_y[index][:, :, None] * mesh[None, :, :], axis=1)
        windows[index] = np.sum(partial[:, None, :] * weights_x[index][None, :, :], axis=2)
    np.clip(windows, low, high, out=windows)
    outside = ((rows < 0) | (rows >= shape[0]))[:, :, None] | ((columns < 0) | (columns >= shape[1]))[:, None, :]
    windows[outside] = np.nan
    return windows
