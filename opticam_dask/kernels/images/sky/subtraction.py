"""Sky subtraction of one frame: the image, its pixels above the threshold, and the mean of its sky pixels.

Frames are worked on in strips of one row of boxes, which stay in the cache of the processor.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from scipy.ndimage import binary_dilation, spline_filter, spline_filter1d

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.counts import Counts
from opticam_dask.kernels.images.segments import row_and_column
from opticam_dask.kernels.images.sky import background, sky_level, smooth_zoom
from opticam_dask.kernels.images.sky.background import spline_taps, strip_weights, zoom_matrix
from opticam_dask.kernels.images.sky.disks import Disks, disk_spans, expanded, is_within
from opticam_dask.kernels.robust import median

#: Pixels further from the mesh than so many RMS are no sky;
_CLIP = 5.0
#: so many electrons more are, which the long tail of a sky of less than an electron needs.
_TAIL = 3.0

#: Scatter of a box of the mesh around the true sky, in units of the RMS over the root of its pixels.
_BOX_SCATTER = 0.9

#: Boxes that the far edges cut have their middle elsewhere: they count so much.
_CUT_WEIGHT = 0.3

#: Where spline coefficients of a mesh are so many RMS away from its smooth course, the zoomed mesh is not the sky.
_RIPPLE = 1.0

#: Shape of a frame and of the boxes of its mesh, ``(ny, nx)`` each.
Grid = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class SubtractedFrame:
    """A frame without its sky, and its pixels above the threshold.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        Frame minus sky.
    flagged : ndarray of int, shape (n,)
        Places, in the flattened frame and ascending, of the pixels above the threshold.
    deviant : ndarray of int, shape (n,)
        Places of the pixels that are no sky, or not finite.
    box_sums, sky_sums : ndarray, shape (mesh_y, mesh_x)
        Sum over the pixels of each box but those that are not finite; sum of the sky that was subtracted from all.
    box_size : (int, int)
        Rows and columns of a box of the mesh.
    """

    image: np.ndarray
    flagged: np.ndarray
    deviant: np.ndarray
    box_sums: np.ndarray
    sky_sums: np.ndarray
    box_size: tuple[int, int]

    @property
    def grid(self) -> Grid:
        """Shape of the frame and of the boxes of its mesh."""
        return (self.image.shape[0], self.image.shape[1]), self.box_size


def subtract_sky(
    image: np.ndarray | Counts, mesh: np.ndarray, rms_mesh: np.ndarray, box_size: tuple[int, int], threshold: float
) -> SubtractedFrame:
    """Subtract the zoomed mesh from a frame and list the pixels above ``threshold`` times the zoomed RMS.

    Parameters
    ----------
    image : ndarray of float32 or float64, or Counts, shape (ny, nx)
        Frame with its sky; an array is overwritten.
    mesh, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        See :func:`opticam_dask.kernels.images.sky.background.sky_mesh`.
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
    # no zoomed RMS is below the lowest of its mesh: what may stand out is looked at more closely
    lowest = float(rms_mesh.min())
    least = min(threshold * lowest, float(_sky_limit(lowest)))
    if compiled.native is not None:
        return _compiled_subtraction(compiled.native, image, (mesh, rms_mesh), box_size, (threshold, least))
    image = image.electrons() if isinstance(image, Counts) else image
    (ny, nx), box_y, real = image.shape, box_size[0], image.dtype.type
    columns = np.arange(0, nx, box_size[1])
    wide, weights = _knots(mesh, nx, box_size[1]).astype(real), strip_weights(box_y).astype(real)
    low, high, least = real(mesh.min()), real(mesh.max()), real(least)
    sums, sky_sums, candidates = np.empty(mesh.shape), np.empty(mesh.shape), []
    for row, start in enumerate(range(0, ny, box_y)):
        strip = image[start : start + box_y]
        knots = wide[row : row + 5]
        sky = weights[: len(strip)] @ knots
        if knots.min() < low or knots.max() > high:  # a spline stays between its coefficients
            np.clip(sky, low, high, out=sky)
            sky_by_column = sky.sum(axis=0)
        else:
            sky_by_column = weights[: len(strip)].sum(axis=0, dtype=float) @ knots
        strip -= sky
        sky_sums[row] = np.add.reduceat(sky_by_column, columns, dtype=float)
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
        flagged, is_sky = values > threshold * rms, np.abs(values) < _sky_limit(rms)
    return SubtractedFrame(image, places[flagged], places[~is_sky], sums, sky_sums, box_size)


def _compiled_subtraction(
    native: ModuleType,
    image: np.ndarray | Counts,
    meshes: tuple[np.ndarray, np.ndarray],
    box_size: tuple[int, int],
    limits: tuple[float, float],
) -> SubtractedFrame:
    """As :func:`subtract_sky`, in C; ``meshes`` are the level and its RMS, ``limits`` the threshold and the least."""
    mesh, rms_mesh = meshes
    counts, gain, offset = None, 1.0, 0.0
    if isinstance(image, Counts):
        counts, gain, offset = compiled.ready(image.raw), image.gain, image.offset
        image = np.empty(counts.shape, dtype=np.float32)
    subtracted = compiled.ready(image)
    wide, rms_wide = (_widened(values, subtracted.shape[1], box_size[1]) for values in meshes)
    bounds = mesh.min(), mesh.max(), limits[1], limits[0], rms_mesh.min(), rms_mesh.max()
    sums, sky_sums = np.empty(mesh.shape), np.empty(mesh.shape)
    flagged, deviant = _room_for(subtracted.size)
    arrays = (
        subtracted,
        counts,
        wide,
        strip_weights(box_size[0]),
        rms_wide,
        compiled.ready(background.mirrored_places(len(mesh)), dtype=np.int64),
        np.array((gain, offset, *bounds, _CLIP, _TAIL)),
        sums,
        sky_sums,
        flagged,
        deviant,
    )
    n_flagged, n_deviant = native.subtract_sky(arrays, *box_size)
    places = flagged[:n_flagged].copy(), deviant[:n_deviant].copy()
    return SubtractedFrame(subtracted, *places, sums, sky_sums, box_size)


#: Room for places in a frame, of each thread.
_room = threading.local()


def _room_for(n_pixels: int) -> np.ndarray:
    """Two rows for as many places, of no meaning; kept for the next frame of the thread.

    Few of them are filled. Memory of this size is new to a process each time, and every page that is filled would be
    cleared by the system first.
    """
    room: np.ndarray | None = getattr(_room, "places", None)
    if room is None or room.shape[1] < n_pixels:
        room = _room.places = np.empty((2, n_pixels), dtype=np.int64)
    return room


def _knots(mesh: np.ndarray, nx: int, box_x: int) -> np.ndarray:
    """Widened mesh with the two rows beyond each edge that :func:`strip_weights` reaches, shape (mesh_y + 4, nx)."""
    return _widened(mesh, nx, box_x)[background.mirrored_places(len(mesh))]


def _sky_limit(rms: np.ndarray | float) -> np.ndarray | float:
    """How far from the mesh pixels are sky, electrons."""
    return _CLIP * rms + _TAIL


def _widened(mesh: np.ndarray, nx: int, box_x: int) -> np.ndarray:
    """Mesh zoomed along x, as coefficients of the spline along y; shape (mesh_y, nx), not to be written to."""
    return _widened_values(mesh.tobytes(), mesh.shape, mesh.dtype.str, nx, box_x)


@functools.lru_cache(maxsize=8)
def _widened_values(values: bytes, shape: tuple[int, int], dtype: str, nx: int, box_x: int) -> np.ndarray:
    """As :func:`_widened`; the meshes of a frame are asked for when its sky is taken off, and when it is measured."""
    mesh = np.frombuffer(values, dtype=dtype).reshape(shape)
    widened: np.ndarray = spline_filter1d(mesh, order=3, axis=0, mode="reflect") @ zoom_matrix(nx, shape[1], box_x).T
    widened.flags.writeable = False
    return widened


def _zoomed_at(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Zoomed mesh at places of the flattened frame."""
    wide = _widened(mesh, shape[1], box_size[1])
    zoomed = smooth_zoom.along_y(wide, *spline_taps(mesh.shape[0], shape[0], box_size[0]), places)
    return np.clip(zoomed, mesh.min(), mesh.max())


@dataclass(frozen=True)
class SkyPixels:
    """The pixels of a frame that are sky, box by box.

    Attributes
    ----------
    number : ndarray of int, shape (mesh_y, mesh_x)
        How many there are.
    mean : ndarray, shape (mesh_y, mesh_x)
        Their mean, corrected for where they are in the box; of no meaning where there are none.
    """

    number: np.ndarray
    mean: np.ndarray

    def level(self, rms_mesh: np.ndarray, grid: Grid) -> np.ndarray:
        """Level of the sky at each box, see :func:`opticam_dask.kernels.images.sky.sky_level.smooth`."""
        area = grid[1][0] * grid[1][1]
        is_cut = sky_level.box_areas(*grid) <= background.LEAST_SHARE * area
        share = self.number / area * np.where(is_cut, _CUT_WEIGHT, 1.0)
        return sky_level.smooth(self.mean, share, _typical(rms_mesh) / np.sqrt(area))

    def level_of_many(self, rms_mesh: np.ndarray, grid: Grid, together: int) -> np.ndarray:
        """The same where stars fill boxes: ``together`` x ``together`` of them tell what the sky has beyond its course.

        The course of the sky is a polynomial through all boxes; within wide boxes it is followed as well.
        """
        area = grid[1][0] * grid[1][1]
        broad = sky_level.broad_course(self.mean, self.number / area, _typical(rms_mesh) / np.sqrt(area))
        starts = [np.arange(0, n_boxes, together) for n_boxes in broad.shape]
        beyond = np.where(self.number > 0, self.number * (self.mean - broad), 0.0)
        number, beyond = (
            np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
            for values in (self.number, beyond)
        )
        many = SkyPixels(number, beyond / np.maximum(number, 1))
        level = many.level(rms_mesh, (grid[0], (grid[1][0] * together, grid[1][1] * together)))
        return broad + smooth_zoom.at_boxes(level, broad.shape, together)


def count_sky(
    frame: SubtractedFrame,
    mesh: np.ndarray,
    rms_mesh: np.ndarray,
    disks: Disks,
    saturated: np.ndarray | None = None,
) -> SkyPixels:
    """Count the sky pixels of each box, and take their mean.

    SExtractor's mode estimate takes the sky of few electrons, whose distribution is skewed, for lower than its mean by
    ``2.5 / 6`` electron, whatever the level (the median of a Poisson distribution lies 1/6 below its mean); and boxes
    with a star in them come out higher than others. In an aperture of 50 pixels half an electron is a fifth of the
    noise. What a flux needs is the mean of the pixels themselves.

    Parameters
    ----------
    frame : SubtractedFrame
        Frame without its sky.
    mesh, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        The sky that was subtracted, and its scatter.
    disks : Disks
        Round all sources: their pixels are no sky.
    saturated : ndarray of bool, shape (ny, nx), optional
        Pixels that are no sky either.
    """
    grid = frame.image.shape, frame.box_size
    areas, pixels = sky_level.box_areas(*grid), frame.image.ravel()
    deviant = frame.deviant if saturated is None else np.union1d(frame.deviant, np.flatnonzero(saturated))
    start, stop = disk_spans(disks, grid[0])
    taken, light = _taken(frame, start, stop, deviant)
    number, excess = areas - taken, frame.box_sums - light
    if sky_level.is_sparse(number, areas):
        return _along_a_plane(frame, mesh, number, np.union1d(expanded(start, stop), deviant))
    residual = np.where(number > 0, excess / np.maximum(number, 1), 0.0)
    sky = SkyPixels(number, _at_middles(frame.sky_sums / areas, grid) + residual)
    of_many = np.where(number > sky_level.LEAST_SHARE * areas.max(), np.abs(residual), 0.0)
    if max(_bend(mesh), of_many.max()) <= _RIPPLE * _typical(rms_mesh):
        return sky
    invalid = deviant[~np.isfinite(pixels[deviant])]
    alone = deviant[~is_within(deviant, start, stop)]
    start, stop = _cut_at_boxes(np.append(start, alone), np.append(stop, alone + 1), grid[0][1], grid[1][1])
    if saturated is not None:
        invalid = np.union1d(invalid, np.flatnonzero(saturated))
    return _recounted(sky, frame, mesh, rms_mesh, start, stop, invalid)


def _along_a_plane(frame: SubtractedFrame, mesh: np.ndarray, number: np.ndarray, no_sky: np.ndarray) -> SkyPixels:
    """Mean of the sky pixels of each box, moved to its middle along the plane through all of these pixels.

    For pixels at the edges of boxes the mesh does not tell the slope: its boxes are full of light, and filtered.
    """
    grid = frame.image.shape, frame.box_size
    places = np.setdiff1d(np.arange(frame.image.size), no_sky, assume_unique=True)
    electrons = frame.image.ravel()[places] + _zoomed_at(mesh, *grid, places)
    row, column = row_and_column(places, grid[0][1])
    terms = np.stack([np.ones(len(places)), row, column])
    plane = np.linalg.solve(terms @ terms.T, terms @ electrons)
    box = _box_of(places, grid)
    excess = np.bincount(box, weights=electrons - plane @ terms, minlength=mesh.size).reshape(mesh.shape)
    y, x = (side * (np.arange(n) + 0.5) - 0.5 for side, n in zip(frame.box_size, mesh.shape, strict=True))
    return SkyPixels(number, plane[0] + plane[1] * y[:, None] + plane[2] * x + excess / np.maximum(number, 1))


def _taken(
    frame: SubtractedFrame, start: np.ndarray, stop: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Number and sum, in each box, of the pixels of stretches, and of those at ascending places outside of them."""
    mesh_shape, grid = frame.box_sums.shape, (frame.image.shape, frame.box_size)
    if compiled.native is not None:
        taken, light = np.zeros(mesh_shape, dtype=np.int64), np.zeros(mesh_shape)
        stretches = (compiled.ready(values, dtype=np.int64) for values in (start, stop, places))
        compiled.native.take_pixels(frame.image, *stretches, taken, light, *frame.box_size)
        return taken, light
    alone = places[~is_within(places, start, stop)]
    start, stop = _cut_at_boxes(np.append(start, alone), np.append(stop, alone + 1), grid[0][1], grid[1][1])
    length, box, n_boxes = stop - start, _box_of(start, grid), frame.box_sums.size
    values = frame.image.ravel()[expanded(start, stop)].astype(float)
    values = np.where(np.isfinite(values), values, 0.0)
    sums = np.add.reduceat(values, np.cumsum(length) - length) if len(length) else np.empty(0)
    number = np.bincount(box, weights=length, minlength=n_boxes).astype(np.int64).reshape(mesh_shape)
    return number, np.bincount(box, weights=sums, minlength=n_boxes).reshape(mesh_shape)


def _recounted(
    sky: SkyPixels,
    frame: SubtractedFrame,
    mesh: np.ndarray,
    rms_mesh: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    invalid: np.ndarray,
) -> SkyPixels:
    """Sky pixels, counted again where the zoomed mesh is not the sky: what is near the course of the box is sky there.

    ``start`` and ``stop`` are the stretches that were not counted, ``invalid`` the pixels without a value.
    """
    grid, pixels = (frame.image.shape, frame.box_size), frame.image.ravel()
    area, areas = frame.box_size[0] * frame.box_size[1], sky_level.box_areas(*grid)
    valid = areas - np.bincount(_box_of(invalid, grid), minlength=mesh.size).reshape(mesh.shape)
    valid = np.where(areas > background.LEAST_SHARE * area, valid, 0)  # the mesh has no value of its own in others
    course = sky_level.smooth(mesh, valid / area, _BOX_SCATTER * _typical(rms_mesh) / np.sqrt(area))
    is_rippled = _rippled(mesh, rms_mesh, course)
    (ny, nx), (box_y, box_x) = grid
    places = np.flatnonzero(is_rippled.repeat(box_y, axis=0)[:ny].repeat(box_x, axis=1)[:, :nx])
    box = _box_of(places, grid)
    above = pixels[places] + _zoomed_at(mesh, *grid, places) - course.ravel()[box]
    # of the stretches that were not counted only those count now that are no more than a deviant pixel
    is_disk = stop - start > 1
    with np.errstate(invalid="ignore"):
        is_sky = np.abs(above) < _sky_limit(_typical(rms_mesh))
    is_sky &= ~is_within(places, start[is_disk], stop[is_disk]) & ~np.isin(places, invalid)
    number = np.bincount(box[is_sky], minlength=mesh.size).reshape(mesh.shape)
    excess = np.bincount(box[is_sky], weights=above[is_sky], minlength=mesh.size).reshape(mesh.shape)
    mean = course + excess / np.maximum(number, 1)
    return SkyPixels(np.where(is_rippled, number, sky.number), np.where(is_rippled, mean, sky.mean))


def uncounted(level: np.ndarray, disks: Disks, grid: Grid) -> SkyPixels:
    """Sky pixels of a frame of which only the level of the sky is known: all that are not in ``disks``."""
    start, stop = _cut_at_boxes(*disk_spans(disks, grid[0]), grid[0][1], grid[1][1])
    taken = np.bincount(_box_of(start, grid), weights=stop - start, minlength=level.size)
    number = sky_level.box_areas(*grid) - taken.astype(np.int64).reshape(level.shape)
    return SkyPixels(number, smooth_zoom.box_means(level, grid[1]))


def taken_out(sky: SkyPixels, level: np.ndarray, places: np.ndarray, electrons: np.ndarray, grid: Grid) -> SkyPixels:
    """Counted sky pixels, less some that are taken out again.

    Parameters
    ----------
    sky : SkyPixels
        Sky pixels that were counted.
    level : ndarray, shape (mesh_y, mesh_x)
        Level of the sky with these pixels, which tells its slopes.
    places : ndarray of int, shape (n,)
        Pixels as ``row * nx + column``.
    electrons : ndarray, shape (n,)
        The pixels with their sky.
    grid : ((int, int), (int, int))
        Shape of the frame and of its boxes.
    """
    above = electrons - smooth_zoom.at_places(level, *grid, places)
    box = _box_of(places, grid)
    number = sky.number - np.bincount(box, minlength=level.size).reshape(level.shape)
    middle = smooth_zoom.box_means(level, grid[1])
    excess = sky.number * (sky.mean - middle)
    excess -= np.bincount(box, weights=above, minlength=level.size).reshape(level.shape)
    return SkyPixels(number, middle + excess / np.maximum(number, 1))


def was_sky(
    electrons: np.ndarray, mesh: np.ndarray, rms_mesh: np.ndarray, level: np.ndarray, grid: Grid, places: np.ndarray
) -> np.ndarray:
    """Whether pixels at places of the flattened frame were near enough to the sky to be counted by `count_sky`."""
    away = np.abs(electrons - _zoomed_at(mesh, *grid, places))
    is_rippled = _rippled(mesh, rms_mesh, level)
    with np.errstate(invalid="ignore"):
        near = away < _sky_limit(rms_mesh.min())
        unsure = np.flatnonzero(~near & np.isfinite(away))
        if len(unsure):
            near[unsure] = away[unsure] < _sky_limit(_zoomed_at(rms_mesh, *grid, places[unsure]))
        if is_rippled.any():
            there = np.flatnonzero(is_rippled.ravel()[_box_of(places, grid)])
            away = np.abs(electrons[there] - level.ravel()[_box_of(places[there], grid)])
            near[there] = away < _sky_limit(_typical(rms_mesh))
    return near


def _typical(rms_mesh: np.ndarray) -> float:
    """Scatter of a pixel of the sky in most boxes."""
    return median(rms_mesh)


def _at_middles(means: np.ndarray, grid: Grid) -> np.ndarray:
    """Means over boxes at the middles of whole boxes: those that the far edges cut go on as their neighbours do."""
    moved = means.copy()
    for axis, (size, box) in enumerate(zip(*grid, strict=True)):
        missing = -size % box
        if missing and means.shape[axis] > 2:
            along = np.moveaxis(moved, axis, 0)
            along[-1] += 0.5 * missing / box * (along[-2] - along[-3])
    return moved


def _bend(mesh: np.ndarray) -> float:
    """How much a mesh bends from box to box where it bends most."""
    return max(float(np.abs(np.diff(mesh, 2, axis=axis)).max(initial=0.0)) for axis in (0, 1))


def _rippled(mesh: np.ndarray, rms_mesh: np.ndarray, course: np.ndarray) -> np.ndarray:
    """Boxes in which the zoomed mesh is not the sky: near them is an edge or a wild box, around which a spline ripples.

    There the level of the box itself, without a slope, tells which pixels are sky.
    """
    limit = _RIPPLE * _typical(rms_mesh)
    if max(_bend(mesh), np.abs(mesh - course).max()) <= limit:
        return np.zeros(mesh.shape, dtype=bool)
    ripples = np.abs(spline_filter(mesh, order=3, mode="reflect") - course) > limit
    wide: np.ndarray = binary_dilation(ripples, np.ones((5, 5), dtype=bool))
    return wide


def _box_of(places: np.ndarray, grid: Grid) -> np.ndarray:
    """Number of the box that each place of the flattened frame lies in."""
    (_, nx), (box_y, box_x) = grid
    row, column = row_and_column(places, nx)
    box: np.ndarray = row // box_y * -(-nx // box_x) + column // box_x
    return box


def _cut_at_boxes(start: np.ndarray, stop: np.ndarray, nx: int, box_x: int) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of one row each, cut where a box ends."""
    row, first = row_and_column(start, nx)
    last = first + (stop - start) - 1
    n_pieces = last // box_x - first // box_x + 1
    of = np.repeat(np.arange(len(start)), n_pieces)
    edge = (first // box_x)[of] + np.arange(len(of)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    begin = (row * nx)[of]
    return begin + np.maximum(first[of], edge * box_x), begin + np.minimum(last[of] + 1, (edge + 1) * box_x)
