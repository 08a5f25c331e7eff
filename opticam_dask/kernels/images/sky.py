"""The sky is taken off a frame in one pass, which also finds the pixels that stand out, and the local mean of the rest.

Frames are worked on in strips of one row of boxes, which stay in the cache of the processor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import spline_filter1d, uniform_filter

from opticam_dask.kernels.images.background import spline_taps, strip_weights, zoom_matrix
from opticam_dask.kernels.images.segments import column_of, row_and_column

#: Clip of the pixels whose mean corrects the mesh, and how many they must be, in boxes.
_OFFSET_CLIP, _OFFSET_SHARE = 5.0, 0.5

#: Boxes across which a mesh is smoothed to get rid of the bulges of stars.
_SMOOTH = 5


@dataclass(frozen=True)
class SubtractedFrame:
    """A frame without its sky, and what stands out of it.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        Frame minus sky.
    flagged : ndarray of int, shape (n,)
        Places, in the flattened frame and ascending, of the pixels above the threshold.
    deviant : ndarray of int, shape (n,)
        Places of the pixels that are no sky, or not finite.
    box_sums : ndarray, shape (mesh_y, mesh_x)
        Sum over the pixels of each box but those that are not finite.
    box_size : (int, int)
    """

    image: np.ndarray
    flagged: np.ndarray
    deviant: np.ndarray
    box_sums: np.ndarray
    box_size: tuple[int, int]


def subtract_sky(
    image: np.ndarray, mesh: np.ndarray, rms_mesh: np.ndarray, box_size: tuple[int, int], threshold: float
) -> SubtractedFrame:
    """Subtract the zoomed mesh from a frame and list the pixels above ``threshold`` times the zoomed RMS.

    Parameters
    ----------
    image : ndarray of float32 or float64, shape (ny, nx)
        Frame with its sky; overwritten.
    mesh, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        See :func:`opticam_dask.kernels.images.background.sky_mesh`.
    box_size : (int, int)
        Box size ``(ny, nx)`` of the mesh.
    threshold : float
        In units of the RMS.

    Returns
    -------
    SubtractedFrame
        Its image is ``image - zoom_mesh(mesh, ...)`` in the precision of the image: for float32, 16-bit frames and
        gains of some electrons, the rounding is below 0.01 electron.
    """
    (ny, nx), box_y = image.shape, box_size[0]
    columns = np.arange(0, nx, box_size[1])
    wide, weights = (_widened(mesh, nx, box_size[1]).astype(image.dtype), strip_weights(box_y).astype(image.dtype))
    wide = np.pad(wide, ((2, 2), (0, 0)), mode="symmetric")
    low, high = image.dtype.type(mesh.min()), image.dtype.type(mesh.max())
    # no zoomed RMS is below the lowest of its mesh: what may stand out is looked at more closely below
    least = image.dtype.type(min(threshold, _OFFSET_CLIP) * rms_mesh.min())
    sums, candidates = np.empty(mesh.shape), []
    for row, start in enumerate(range(0, ny, box_y)):
        strip = image[start : start + box_y]
        knots = wide[row : row + 5]
        sky = weights[: len(strip)] @ knots
        if knots.min() < low or knots.max() > high:  # a spline stays between its coefficients
            np.clip(sky, low, high, out=sky)
        strip -= sky
        is_candidate = np.less(np.abs(strip, out=sky), least)
        np.logical_not(is_candidate, out=is_candidate)  # so that NaN is one
        candidates.append(np.flatnonzero(is_candidate) + start * nx)
        by_column = strip.sum(axis=0)
        if not np.isfinite(by_column).all():
            by_column = np.where(np.isfinite(strip), strip, 0.0).sum(axis=0)
        sums[row] = np.add.reduceat(by_column, columns, dtype=float)
    places = np.concatenate(candidates)
    values = image.ravel()[places].astype(float)
    rms = _zoomed_at(rms_mesh, image.shape, box_size, places)
    with np.errstate(invalid="ignore"):
        flagged, is_sky = values > threshold * rms, np.abs(values) < _OFFSET_CLIP * rms
    return SubtractedFrame(image, places[flagged], places[~is_sky], sums, box_size)


def _widened(mesh: np.ndarray, nx: int, box_x: int) -> np.ndarray:
    """Mesh zoomed along x, as coefficients of the spline along y; shape (mesh_y, nx)."""
    widened: np.ndarray = (
        spline_filter1d(mesh, order=3, axis=0, mode="reflect") @ zoom_matrix(nx, mesh.shape[1], box_x).T
    )
    return widened


def _zoomed_at(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Zoomed mesh at places of the flattened frame."""
    wide = _widened(mesh, shape[1], box_size[1])
    knots, weights = spline_taps(mesh.shape[0], shape[0], box_size[0])
    row, column = row_and_column(places, shape[1])
    zoomed = np.zeros(len(places))
    for tap in range(4):
        zoomed += weights[tap][row] * wide[knots[tap][row], column]
    return np.clip(zoomed, mesh.min(), mesh.max())


def offset_mesh(frame: SubtractedFrame, mesh: np.ndarray, xy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """What has to be added to a sky mesh to make it the local mean of the pixels away from all sources.

    SExtractor's mode estimate takes the sky of few electrons, whose distribution is skewed, for lower than its mean by
    ``2.5 / 6`` electron, whatever the level (the median of a Poisson distribution lies 1/6 below its mean); and boxes
    with a star in them come out higher than others. In an aperture of 50 pixels half an electron is a fifth of the
    noise. What a flux needs is the mean.

    Parameters
    ----------
    frame : SubtractedFrame
    mesh : ndarray, shape (mesh_y, mesh_x)
        The sky that was subtracted.
    xy : ndarray, shape (n, 2)
        Sources.
    radius : ndarray, shape (n,)
        Pixels that are nearer to a source do not count.

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
        Mesh plus offset is the mean over the sky of 3 x 3 boxes, corrected for a smooth change of the sky across them;
        where nearly nothing is sky the offset is its mean over the frame.
    """
    sums, numbers = _sky_sums(frame, xy, radius)
    overall = float(sums.sum() / numbers.sum()) if numbers.sum() else 0.0
    # boxes with a star bulge out of a mesh: the local mean is that of the pixels minus a mesh without bulges
    smooth = uniform_filter(mesh, _SMOOTH, mode="nearest")
    sums = _sum_of_neighbours(sums + numbers * (mesh - smooth))
    numbers = _sum_of_neighbours(numbers)
    is_known = numbers > _OFFSET_SHARE * frame.box_size[0] * frame.box_size[1]
    return np.where(is_known, smooth - mesh + sums / np.where(is_known, numbers, 1.0), overall)


def _sky_sums(frame: SubtractedFrame, xy: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the pixels of each box that are sky: all of them less those that are not."""
    shape, (box_y, box_x) = frame.image.shape, frame.box_size
    start, stop = _disk_spans(xy, radius, shape)
    index = np.searchsorted(start, frame.deviant, side="right") - 1
    in_disk = (index >= 0) & (frame.deviant < stop[index]) if len(start) else np.zeros(len(frame.deviant), dtype=bool)
    alone = frame.deviant[~in_disk]
    start, stop = _cut_at_boxes(np.append(start, alone), np.append(stop, alone + 1), shape[1], box_x)
    length = stop - start
    values = frame.image.ravel()[_expanded(start, stop)].astype(float)
    values = np.where(np.isfinite(values), values, 0.0)
    light = np.add.reduceat(values, np.cumsum(length) - length) if len(length) else np.empty(0)
    row, column = row_and_column(start, shape[1])
    n_rows, n_columns = frame.box_sums.shape
    box = row // box_y * n_columns + column // box_x
    taken = np.bincount(box, weights=light, minlength=n_rows * n_columns)
    n_taken = np.bincount(box, weights=length, minlength=n_rows * n_columns)
    heights, widths = (
        np.minimum(side, size - np.arange(0, size, side)) for side, size in zip(frame.box_size, shape, strict=True)
    )
    numbers = np.outer(heights, widths) - n_taken.reshape(n_rows, n_columns)
    sums = frame.box_sums - taken.reshape(n_rows, n_columns)
    return np.where(numbers > 0, sums, 0.0), numbers


def _cut_at_boxes(start: np.ndarray, stop: np.ndarray, nx: int, box_x: int) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of one row each, cut where a box ends."""
    row, first = row_and_column(start, nx)
    last = first + (stop - start) - 1
    n_pieces = last // box_x - first // box_x + 1
    of = np.repeat(np.arange(len(start)), n_pieces)
    edge = (first // box_x)[of] + np.arange(len(of)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    begin = (row * nx)[of]
    return begin + np.maximum(first[of], edge * box_x), begin + np.minimum(last[of] + 1, (edge + 1) * box_x)


def _disk_spans(xy: np.ndarray, radius: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of rows, in the flattened frame and apart from each other, that make up all disks.

    A pixel belongs to a disk when its centre does.
    """
    ny, nx = shape
    reach = np.floor(radius).astype(int) + 1
    n_rows = 2 * reach + 1
    source = np.repeat(np.arange(len(xy)), n_rows)
    step = np.arange(n_rows.sum()) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) - reach[source]
    y = np.rint(xy[source, 1]).astype(int) + step
    half_squared = radius[source] ** 2 - (y - xy[source, 1]) ** 2
    half = np.sqrt(np.maximum(half_squared, 0.0))
    left = np.maximum(np.ceil(xy[source, 0] - half).astype(int), 0)
    right = np.minimum(np.floor(xy[source, 0] + half).astype(int) + 1, nx)
    inside = (half_squared >= 0) & (y >= 0) & (y < ny) & (left < right)
    start, stop = (y * nx + left)[inside], (y * nx + right)[inside]
    order = np.argsort(start, kind="stable")
    start, furthest = start[order], np.maximum.accumulate(stop[order])
    # a stretch that begins before the end of all earlier ones goes on with them, but not from one row into the next
    is_new = np.ones(len(start), dtype=bool)
    is_new[1:] = (start[1:] > furthest[:-1]) | ((start[1:] == furthest[:-1]) & (column_of(start[1:], nx) == 0))
    is_last = np.append(is_new[1:], True)[: len(start)]
    return start[is_new], furthest[is_last]


def _expanded(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """All whole numbers of half-open stretches that do not overlap, ascending."""
    length = stop - start
    return np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)


def unmasked_light(
    xy: np.ndarray, flux: np.ndarray, shape: tuple[int, int], mesh_shape: tuple[int, int], box_size: tuple[int, int]
) -> np.ndarray:
    """What stars that were taken for sky add to a local mean over 3 x 3 boxes.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Sources that :func:`offset_mesh` did not keep away from.
    flux : ndarray, shape (n,)
    shape : (int, int)
        Of the frame, ``(ny, nx)``.
    mesh_shape, box_size : (int, int)

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
        To be taken off the mesh.
    """
    light = np.zeros(mesh_shape)
    inside = np.all((xy > -0.5) & (xy < np.array([shape[1], shape[0]]) - 0.5), axis=1) & np.isfinite(flux)
    column, row = (np.rint(xy[inside]).astype(int) // np.array([box_size[1], box_size[0]])).T
    np.add.at(light, (row, column), flux[inside])
    sides = [np.minimum(box, size - np.arange(0, size, box)) for size, box in zip(shape, box_size, strict=True)]
    area: np.ndarray = sides[0][:, None] * sides[1][None, :].astype(float)
    return _sum_of_neighbours(light) / _sum_of_neighbours(area)


def _sum_of_neighbours(mesh: np.ndarray) -> np.ndarray:
    """Sum over 3 x 3 boxes; beyond the edges there is nothing."""
    padded = np.pad(mesh, 1)
    ny, nx = mesh.shape
    shifted = [padded[dy : dy + ny, dx : dx + nx] for dy in range(3) for dx in range(3)]
    total: np.ndarray = np.sum(shifted, axis=0)
    return total
