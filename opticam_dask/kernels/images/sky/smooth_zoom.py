"""Zoom of a smooth mesh to the pixels of a frame, in which a step stays where it is.

The cubic spline through all values of a mesh (`background.zoom_mesh`, as photutils has it) answers to one wild box with
ripples far around it. Here each spline coefficient is made of three values in each direction,
``(-z[-1] + 8 z[0] - z[1]) / 6`` (the quasi-interpolant of de Boor and Fix, exact for cubics): nothing reaches further
than two and a half boxes. Beyond the outermost centres of boxes a mesh goes on as a straight line.
"""

from __future__ import annotations

import functools

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.segments import row_and_column
from opticam_dask.kernels.images.sky.background import b_spline, spline_matrix

#: Coefficients that the pixels reach beyond the mesh.
_BEYOND = 2


def windows(
    mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int], y0: np.ndarray, x0: np.ndarray, size: int
) -> np.ndarray:
    """Zoomed mesh in small square windows; the bits do not depend on which windows are asked for.

    Parameters
    ----------
    mesh : ndarray, shape (mesh_y, mesh_x)
        Values of the boxes.
    shape, box_size : (int, int)
        Of the frame and of the boxes of the mesh, ``(ny, nx)``.
    y0, x0 : ndarray of int, shape (n,)
        Lower corner of each window; windows may reach beyond the frame.
    size : int
        Side of the windows, pixels.

    Returns
    -------
    ndarray, shape (n, size, size)
        NaN beyond the frame.
    """
    offsets = np.arange(size)
    rows, columns = np.asarray(y0)[:, None] + offsets, np.asarray(x0)[:, None] + offsets
    inside_y, inside_x = np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)
    first_y, weights_y = _weights(inside_y, mesh.shape[0], box_size[0])
    first_x, weights_x = _weights(inside_x, mesh.shape[1], box_size[1])
    coefficients = np.pad(_coefficients(mesh), ((0, weights_y.shape[2]), (0, weights_x.shape[2])))
    is_outside = (rows != inside_y)[:, :, None] | (columns != inside_x)[:, None, :]
    if compiled.native is not None:
        zoomed = np.empty((len(rows), size, size))
        weights = np.ascontiguousarray(weights_y), np.ascontiguousarray(weights_x)
        knots = np.ascontiguousarray(coefficients, dtype=float)
        compiled.native.zoom_windows(knots, first_y, first_x, *weights, zoomed)
        zoomed[is_outside] = np.nan
        return zoomed
    knots_y = first_y[:, None] + np.arange(weights_y.shape[2])
    knots_x = first_x[:, None] + np.arange(weights_x.shape[2])
    nearby = coefficients[knots_y[:, :, None], knots_x[:, None, :]]
    # element by element in a fixed order: a matrix product would choose another order for another size
    partial = np.zeros((*rows.shape, nearby.shape[2]))
    for knot in range(nearby.shape[1]):
        partial += weights_y[:, :, knot, None] * nearby[:, knot, None, :]
    zoomed = np.zeros((*rows.shape, size))
    for knot in range(nearby.shape[2]):
        zoomed += partial[:, :, knot, None] * weights_x[:, None, :, knot]
    zoomed[is_outside] = np.nan
    return zoomed


def box_sums(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int]) -> np.ndarray:
    """Sum of the zoomed mesh over the pixels of each box, shape (mesh_y, mesh_x)."""
    along_y = _box_matrix(mesh.shape[0], shape[0], box_size[0])
    along_x = _box_matrix(mesh.shape[1], shape[1], box_size[1])
    sums: np.ndarray = along_y @ _coefficients(mesh) @ along_x.T
    return sums


def box_means(mesh: np.ndarray, box_size: tuple[int, int]) -> np.ndarray:
    """Mean of the zoomed mesh over each box, (mesh_y, mesh_x); over whole boxes also where the frame cuts them."""
    whole = mesh.shape[0] * box_size[0], mesh.shape[1] * box_size[1]
    return box_sums(mesh, whole, box_size) / (box_size[0] * box_size[1])


def at_places(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Zoomed mesh at places of the flattened frame, shape (n,)."""
    wide = _coefficients(mesh) @ spline_matrix(mesh.shape[1], box_size[1])[: shape[1], :-1].T
    knots, weights = _row_taps(mesh.shape[0], box_size[0])
    row, column = row_and_column(places, shape[1])
    zoomed = np.zeros(len(places))
    for tap in range(4):
        zoomed += weights[tap][row] * wide[knots[tap][row], column]
    return zoomed


def _coefficients(mesh: np.ndarray) -> np.ndarray:
    """Coefficients of the cubic B-splines, from two before the mesh to two after it."""
    padded = np.pad(mesh, _BEYOND + 1, mode="reflect", reflect_type="odd")
    padded = (8.0 * padded[1:-1] - padded[:-2] - padded[2:]) / 6.0
    coefficients: np.ndarray = (8.0 * padded[:, 1:-1] - padded[:, :-2] - padded[:, 2:]) / 6.0
    return coefficients


def _weights(places: np.ndarray, n_mesh: int, box: int) -> tuple[np.ndarray, np.ndarray]:
    """First coefficient that reaches each window (n,), and weights from there on (n, size, knot)."""
    first, last = (np.floor((ends + 0.5) / box - 0.5).astype(int) for ends in (places[:, 0], places[:, -1]))
    around = np.arange(int((last - first).max(initial=0)) + 4)
    columns = np.minimum(first[:, None, None] + 1 + around, n_mesh + 2 * _BEYOND)  # the last one is 0
    return first + 1, spline_matrix(n_mesh, box)[places[:, :, None], columns]


@functools.lru_cache(maxsize=32)
def _row_taps(n_mesh: int, box: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients that reach each row and their weights, shape (4, row) each."""
    position = (np.arange(n_mesh * box) + 0.5) / box - 0.5
    left = np.floor(position).astype(int)
    knots, weights = left + 1 + np.arange(4)[:, None], b_spline(position - left)
    knots.flags.writeable = weights.flags.writeable = False
    return knots, weights


@functools.lru_cache(maxsize=32)
def _box_matrix(n_mesh: int, n_pixels: int, box: int) -> np.ndarray:
    """Sum over the pixels of each box of the weights of all coefficients, shape (n_mesh, n_mesh + 4)."""
    matrix = np.add.reduceat(spline_matrix(n_mesh, box)[:n_pixels, :-1], np.arange(0, n_pixels, box), axis=0)
    matrix.flags.writeable = False
    return matrix
