"""Sky background of one frame: the mesh, and the images that are zoomed from it.

The estimators are photutils' defaults (``Background2D``): in each box a 3-sigma clip about the median, SExtractor's
mode estimate (Bertin & Arnouts 1996, A&AS 117, 393: ``2.5 median - 1.5 mean``) and the standard deviation; boxes with
too few pixels left are filled from their neighbours; a 3 x 3 median filter; a cubic-spline zoom. What a clip may
touch is sorted once: every round is then a look-up in the sorted values and in their running sums.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy.ndimage import spline_filter, zoom
from scipy.spatial import KDTree

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.counts import Counts
from opticam_dask.kernels.images.sky.box_statistics import box_statistics

#: A box counts when more than this share of its full number of pixels survive the clip (exclude_percentile 10).
LEAST_SHARE = 0.9

#: Where none does, as in a small window full of wide stars, those count in which half of the pixels are sky.
_LEAST_SHARE_OF_ANY = 0.5
#: Their scatter is at most so many times the smallest one.
_MOST_SCATTER = 2.0

#: Boxes without a value are interpolated from this many neighbours, weighted by inverse distance.
_NEIGHBOURS = 10

#: A box must be several FWHM wide, or it takes the light of bright stars for sky: binned OPTICAM stars have 2 to 4
#: pixels.
_SMALLEST_BOX = 16

#: Error of the sky times the square root of the pixels of a box, in units of the RMS (from simulated sky).
_MESH_ERROR = 0.33

#: Boxes along the shorter side of a frame, by default: 64 pixels of an OPTICAM detector each.
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
    image: np.ndarray | Counts, box_size: tuple[int, int], *, saturated: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sky level and its scatter in the boxes of a mesh.

    Parameters
    ----------
    image : ndarray or Counts, shape (ny, nx)
        Frame with its sky; NaN pixels do not count.
    box_size : (int, int)
        Box size ``(ny, nx)`` in pixels; boxes at the far edges may be cut.
    saturated : ndarray of bool, shape (ny, nx), optional
        True where a pixel is saturated. Boxes with more of these than a clip can tell from sky (a tenth) do not count:
        a patch of light would reach three boxes beyond its edge in the median filter and the zoom.

    Returns
    -------
    mesh, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        Background and its standard deviation, in the unit of the image; equal to ``background_mesh`` and
        ``background_rms_mesh`` of photutils' ``Background2D(image, box_size)``. A float32 image is worked on as such:
        the mesh then deviates by up to 1e-5 of the RMS, the error of a mesh being 1e-2 of it or more.

    Raises
    ------
    ValueError
        When the box is larger than the image, or no box has enough usable pixels.
    """
    box_y, box_x = box_size
    if box_y > image.shape[0] or box_x > image.shape[1] or min(box_size) < 1:
        raise ValueError(f"box_size {box_size} does not fit a frame of {image.shape[0]} x {image.shape[1]} pixels")
    values = image.raw if isinstance(image, Counts) else _usable_values(image)
    statistics = _box_statistics(values, box_size)
    if np.isnan(statistics).all():
        statistics = _of_half_boxes(values, box_size)
    if isinstance(image, Counts):
        statistics = np.stack([image.gain * statistics[0] - image.offset, image.gain * statistics[1]])
    if saturated is not None:
        statistics[:, _are_saturated(saturated, box_size)] = np.nan
    if np.isnan(statistics).all():
        raise ValueError(
            f"no box of {box_y} x {box_x} pixels has more than {100 * _LEAST_SHARE_OF_ANY:.0f} % usable pixels: "
            "use smaller boxes or mask less"
        )
    level, scatter = fill(statistics)
    return _median_filter(level), _median_filter(scatter)


def _of_half_boxes(values: np.ndarray, box_size: tuple[int, int]) -> np.ndarray:
    """Level and scatter of the boxes of which half are sky, shape (2, mesh_y, mesh_x); NaN in others."""
    statistics = _box_statistics(values, box_size, _LEAST_SHARE_OF_ANY)
    scatter = statistics[1]
    if np.isfinite(scatter).any():  # noise is about the same everywhere: much more of it are stars that a clip has left
        statistics[:, scatter > _MOST_SCATTER * np.nanmin(scatter)] = np.nan
    return statistics


def _are_saturated(saturated: np.ndarray, box_size: tuple[int, int]) -> np.ndarray:
    """Boxes of which so many pixels are saturated that a clip takes these for sky, shape (mesh_y, mesh_x)."""
    (ny, nx), (box_y, box_x) = saturated.shape, box_size
    rows, columns = np.nonzero(saturated)
    mesh = (-(-ny // box_y), -(-nx // box_x))
    number = np.bincount(rows // box_y * mesh[1] + columns // box_x, minlength=mesh[0] * mesh[1]).reshape(mesh)
    return number > (1.0 - LEAST_SHARE) * box_y * box_x


def _usable_values(image: np.ndarray) -> np.ndarray:
    """Pixels in the precision they are worked on in, NaN where one does not count."""
    values = image if image.dtype == np.float32 else image.astype(float, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum()):
            return values
    return np.where(np.isfinite(values), values, np.nan)


def box_medians(image: np.ndarray, box_size: tuple[int, int]) -> np.ndarray:
    """Median of the pixels of each box of a mesh.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        NaN pixels do not count.
    box_size : (int, int)
        As of :func:`sky_mesh`.

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
        NaN for a box without a pixel.
    """
    rows, columns = (range(0, length, step) for length, step in zip(image.shape, box_size, strict=True))
    medians = np.full((len(rows), len(columns)), np.nan)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            box = image[top : top + box_size[0], left : left + box_size[1]]
            if (known := box[np.isfinite(box)]).size:
                medians[i, j] = np.median(known)
    return medians


def _box_statistics(values: np.ndarray, box_size: tuple[int, int], least_share: float = LEAST_SHARE) -> np.ndarray:
    """Level and scatter of every box, shape (2, mesh_y, mesh_x); NaN where too few pixels are left."""
    (ny, nx), (box_y, box_x) = values.shape, box_size
    rows, columns = ny // box_y, nx // box_x
    mesh = (-(-ny // box_y), -(-nx // box_x))
    statistics = np.full((2, *mesh), np.nan)
    least = least_share * box_y * box_x
    for top, bottom, height in ((0, rows, box_y), (rows, mesh[0], ny - rows * box_y)):
        for left, right, width in ((0, columns, box_x), (columns, mesh[1], nx - columns * box_x)):
            if height * width <= least:  # boxes cut by the far edges: too small to count, or there are none
                continue
            region = values[top * box_y :, left * box_x :][: (bottom - top) * height, : (right - left) * width]
            boxes = region.reshape(bottom - top, height, right - left, width).swapaxes(1, 2)
            is_corner = top == rows and left == columns
            statistics[:, top:bottom, left:right] = box_statistics(boxes, least, readmit=not is_corner)
    return statistics


def fill(meshes: np.ndarray) -> np.ndarray:
    """Fill boxes without a value from their neighbours (Shepard's inverse distance weighting).

    Boxes are without a value in all of the meshes or in none.
    """
    missing = np.isnan(meshes[0])
    if not missing.any():
        return meshes
    nearest, weights = _nearest_known(missing.tobytes(), missing.shape)
    filled = meshes.copy()
    for mesh in filled:
        mesh[missing] = np.sum(weights * mesh[~missing][nearest], axis=1) / np.sum(weights, axis=1)
    return filled


@functools.lru_cache(maxsize=32)
def _nearest_known(missing: bytes, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of each box without a value, counted among those that have one, and their weights.

    It is mostly the same boxes of a frame that have none: those of bright stars and of what is wrong with a detector.
    """
    is_missing = np.frombuffer(missing, dtype=bool).reshape(shape)
    known = np.argwhere(~is_missing)
    n_neighbours = min(_NEIGHBOURS, len(known))
    distances, nearest = KDTree(known).query(np.argwhere(is_missing), k=n_neighbours)
    return nearest.reshape(-1, n_neighbours), 1.0 / distances.reshape(-1, n_neighbours)


def _median_filter(mesh: np.ndarray) -> np.ndarray:
    """3 x 3 median; beyond the edges there is nothing."""
    if compiled.native is not None:
        medians = np.empty(mesh.shape)
        compiled.native.mesh_medians(compiled.ready(mesh, dtype=float), medians)
        return medians
    ny, nx = mesh.shape
    padded = np.full((ny + 2, nx + 2), np.nan)
    padded[1:-1, 1:-1] = mesh
    neighbours = np.sort([padded[dy : dy + ny, dx : dx + nx] for dy in range(3) for dx in range(3)], axis=0)
    n_known = np.count_nonzero(~np.isnan(neighbours), axis=0)[None]
    low, high = (np.take_along_axis(neighbours, rank, axis=0)[0] for rank in ((n_known - 1) // 2, n_known // 2))
    filtered: np.ndarray = 0.5 * (low + high)
    return filtered


@functools.lru_cache(maxsize=32)
def zoom_matrix(n_pixels: int, n_mesh: int, box: int) -> np.ndarray:
    """Cubic-spline zoom along one axis as a matrix, shape (pixel, mesh): the zoom is linear in the mesh."""
    identity = np.eye(n_mesh)
    columns = [
        zoom(identity[index], box, order=3, mode="reflect", grid_mode=True)[:n_pixels] for index in range(n_mesh)
    ]
    matrix = np.ascontiguousarray(np.column_stack(columns))
    matrix.flags.writeable = False
    return matrix


def mesh_error(box_size: tuple[int, int]) -> float:
    """1-sigma error of the level of the sky under a source, in units of the background RMS.

    That of the mean of 3 x 3 boxes is 0.33 rms / sqrt(N) for boxes of ``N`` pixels; fits at the edges of the frame and
    round masked stars have more, and the outer boxes of a fit take some away (`sky_level`).

    Parameters
    ----------
    box_size : (int, int)
        Box size ``(ny, nx)`` in pixels.
    """
    return float(_MESH_ERROR / np.sqrt(box_size[0] * box_size[1]))


def zoom_mesh(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int]) -> np.ndarray:
    """Zoom a mesh to the size of the frame.

    Parameters
    ----------
    mesh : ndarray, shape (mesh_y, mesh_x)
        Value of each box of the mesh.
    shape : (int, int)
        Shape ``(ny, nx)`` of the frame.
    box_size : (int, int)
        Box size ``(ny, nx)`` of the mesh.

    Returns
    -------
    ndarray, shape (ny, nx)
        Equal to ``Background2D.background``: cubic spline, clipped to the range of the mesh.
    """
    along_y = zoom_matrix(shape[0], mesh.shape[0], box_size[0])
    along_x = zoom_matrix(shape[1], mesh.shape[1], box_size[1])
    image: np.ndarray = along_y @ mesh @ along_x.T
    return np.clip(image, mesh.min(), mesh.max(), out=image)


def mirrored_knots(mesh: np.ndarray) -> np.ndarray:
    """Coefficients of the spline through a mesh that is mirrored at its edges, from two before it to two after it."""
    rows, columns = (mirrored_places(length) for length in mesh.shape)
    knots: np.ndarray = spline_filter(mesh, order=3, mode="reflect")[rows[:, None], columns]
    return knots


@functools.lru_cache(maxsize=32)
def mirrored_places(n_mesh: int) -> np.ndarray:
    """Places along a mesh from two before the first to two behind the last."""
    places = np.pad(np.arange(n_mesh), 2, mode="symmetric")
    places.flags.writeable = False
    return places


def spline_windows(
    knots: np.ndarray,
    shape: tuple[int, int],
    box_size: tuple[int, int],
    y0: np.ndarray,
    x0: np.ndarray,
    size: int,
    bounds: tuple[float, float],
) -> np.ndarray:
    """Spline of a mesh in small square windows; the bits do not depend on which windows are asked for.

    Parameters
    ----------
    knots : ndarray, shape (mesh_y + 4, mesh_x + 4)
        Coefficients of the cubic B-splines, from two before the mesh to two after it.
    shape, box_size : (int, int)
        Shape of the frame and size of the boxes of the mesh, ``(ny, nx)``, pixels.
    y0, x0 : ndarray of int, shape (n,)
        Lower corner of each window; windows may reach beyond the frame.
    size : int
        Side of the windows, pixels.
    bounds : (float, float)
        The result is clipped to these.

    Returns
    -------
    ndarray, shape (n, size, size)
        NaN beyond the frame.
    """
    along = [spline_matrix(length - 4, box) for length, box in zip(knots.shape, box_size, strict=True)]
    if compiled.native is not None:
        windows = np.empty((len(y0), size, size))
        corners = (compiled.ready(corner, dtype=np.int64) for corner in (y0, x0))
        given = compiled.ready(knots, dtype=float), *along, *corners
        compiled.native.zoom_windows(*given, windows, shape, box_size, *bounds)
        return windows
    rows, columns = (np.asarray(corner)[:, None] + np.arange(size) for corner in (y0, x0))
    inside_y, inside_x = np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)
    knots_y, weights_y = _local_weights(inside_y, along[0], box_size[0])
    knots_x, weights_x = _local_weights(inside_x, along[1], box_size[1])
    beyond = ((0, weights_y.shape[2]), (0, weights_x.shape[2]))
    nearby = np.pad(knots.astype(float), beyond)[knots_y[:, :, None], knots_x[:, None, :]]
    # element by element in a fixed order: a matrix product would choose another order for another size
    partial = np.zeros((*rows.shape, nearby.shape[2]))
    for knot in range(nearby.shape[1]):
        partial += weights_y[:, :, knot, None] * nearby[:, knot, None, :]
    windows = np.zeros((*rows.shape, size))
    for knot in range(nearby.shape[2]):
        windows += partial[:, :, knot, None] * weights_x[:, None, :, knot]
    np.clip(windows, *bounds, out=windows)
    windows[(rows != inside_y)[:, :, None] | (columns != inside_x)[:, None, :]] = np.nan
    return windows


def _local_weights(places: np.ndarray, along: np.ndarray, box: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients that reach the pixels of windows along one axis, shape (n, knot), and weights (n, size, knot).

    ``places`` (n, size) are the pixels of each window, ascending; ``along`` is the :func:`spline_matrix`.
    """
    first, last = (np.floor((ends + 0.5) / box - 0.5).astype(int) for ends in (places[:, 0], places[:, -1]))
    knots = first[:, None] + 1 + np.arange(int((last - first).max(initial=0)) + 4)
    # the last column is 0
    return knots, along[places[:, :, None], np.minimum(knots, along.shape[1] - 1)[:, None, :]]


@functools.lru_cache(maxsize=32)
def spline_matrix(n_mesh: int, box: int) -> np.ndarray:
    """Weights of the cubic B-splines that reach each pixel, shape (n_mesh box, n_mesh + 5).

    Columns are the coefficients from -2 to ``n_mesh + 1``, not mirrored, and one that is 0.
    """
    position = (np.arange(n_mesh * box) + 0.5) / box - 0.5
    left = np.floor(position).astype(int)
    matrix = np.zeros((len(position), n_mesh + 5))
    for tap, weight in enumerate(b_spline(position - left)):
        matrix[np.arange(len(position)), left + 1 + tap] = weight
    matrix.flags.writeable = False
    return matrix


@functools.lru_cache(maxsize=32)
def strip_weights(box: int) -> np.ndarray:
    """Weights of the five spline coefficients that reach the pixels of one box, shape (box, 5).

    The third is that of the box itself; coefficients are mirrored at the edges of a mesh.
    """
    position = (np.arange(box) + 0.5) / box - 0.5
    weights = np.zeros((box, 5))
    left = np.floor(position).astype(int)
    for tap, weight in enumerate(b_spline(position - left)):
        weights[np.arange(box), left + tap + 1] = weight
    weights.flags.writeable = False
    return weights


def b_spline(t: np.ndarray) -> np.ndarray:
    """Weights of the four cubic B-splines that reach a point ``t`` beyond the second of them, shape (4, n)."""
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3]) / 6.0


@functools.lru_cache(maxsize=32)
def spline_taps(n_mesh: int, n_pixels: int, box: int) -> tuple[np.ndarray, np.ndarray]:
    """Knots and weights of the four cubic B-splines that reach each pixel, shape (4, pixel) each.

    Mesh values stand at the centres of their boxes; the mesh is mirrored at its edges (``d c b a | a b c d``).
    """
    position = (np.arange(n_pixels) + 0.5) / box - 0.5
    left = np.floor(position).astype(int)
    weights = b_spline(position - left)
    knots = (left + np.arange(-1, 3)[:, None]) % (2 * n_mesh)
    knots = np.minimum(knots, 2 * n_mesh - 1 - knots)
    knots.flags.writeable = weights.flags.writeable = False
    return knots, weights
