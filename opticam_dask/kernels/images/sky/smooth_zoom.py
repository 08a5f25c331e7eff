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

#: The zoomed mesh may be outside of the range of the mesh.
UNBOUND = (-np.inf, np.inf)


def at_boxes(mesh: np.ndarray, shape: tuple[int, int], together: int) -> np.ndarray:
    """Mesh of wide boxes at the middles of the boxes that each is made of.

    Parameters
    ----------
    mesh : ndarray, shape (wide_y, wide_x)
        Values of the wide boxes.
    shape : (int, int)
        Shape of the mesh of the single boxes.
    together : int
        How many of these, along each side, are one wide box.

    Returns
    -------
    ndarray, shape (mesh_y, mesh_x)
    """
    along = [spline_matrix(n_wide, together)[:n, :-1] for n_wide, n in zip(mesh.shape, shape, strict=True)]
    values: np.ndarray = along[0] @ coefficients(mesh) @ along[1].T
    return values


def box_sums(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int]) -> np.ndarray:
    """Sum of the zoomed mesh over the pixels of each box, shape (mesh_y, mesh_x)."""
    along_y = _box_matrix(mesh.shape[0], shape[0], box_size[0])
    along_x = _box_matrix(mesh.shape[1], shape[1], box_size[1])
    sums: np.ndarray = along_y @ coefficients(mesh) @ along_x.T
    return sums


def box_means(mesh: np.ndarray, box_size: tuple[int, int]) -> np.ndarray:
    """Mean of the zoomed mesh over each box, (mesh_y, mesh_x); over whole boxes also where the frame cuts them."""
    whole = mesh.shape[0] * box_size[0], mesh.shape[1] * box_size[1]
    return box_sums(mesh, whole, box_size) / (box_size[0] * box_size[1])


def at_places(mesh: np.ndarray, shape: tuple[int, int], box_size: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Zoomed mesh at places of the flattened frame, shape (n,)."""
    wide = coefficients(mesh) @ spline_matrix(mesh.shape[1], box_size[1])[: shape[1], :-1].T
    return along_y(wide, *_row_taps(mesh.shape[0], box_size[0]), places)


def along_y(wide: np.ndarray, knots: np.ndarray, weights: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Spline along y at places of a flattened frame, shape (n,).

    Parameters
    ----------
    wide : ndarray, shape (m, nx)
        Coefficients, one row for each along y, in all columns of the frame.
    knots, weights : ndarray of int and float, shape (4, ny)
        Coefficients that reach each row of the frame, and their weights.
    places : ndarray of int, shape (n,)
        Pixels as ``row * nx + column``.
    """
    if compiled.native is not None:
        values = np.empty(len(places))
        given = (compiled.ready(of, dtype=kind) for of, kind in ((knots, np.int64), (weights, float)))
        places = compiled.ready(places, dtype=np.int64)
        compiled.native.spline_at(compiled.ready(wide, dtype=float), *given, places, values)
        return values
    row, column = row_and_column(places, wide.shape[1])
    zoomed = np.zeros(len(places))
    for tap in range(4):
        zoomed += weights[tap][row] * wide[knots[tap][row], column]
    return zoomed


def coefficients(mesh: np.ndarray) -> np.ndarray:
    """Coefficients of the cubic B-splines, from two before the mesh to two after it."""
    padded = _extended(_extended(mesh).T).T
    padded = (8.0 * padded[1:-1] - padded[:-2] - padded[2:]) / 6.0
    coefficients: np.ndarray = (8.0 * padded[:, 1:-1] - padded[:, :-2] - padded[:, 2:]) / 6.0
    return coefficients


def _extended(mesh: np.ndarray) -> np.ndarray:
    """Rows before the first and behind the last of a mesh, turned by half a turn about these (odd reflection)."""
    n = _BEYOND + 1
    if len(mesh) <= n:
        return np.pad(mesh, ((n, n), (0, 0)), mode="reflect", reflect_type="odd")
    before, behind = 2.0 * mesh[0] - mesh[n:0:-1], 2.0 * mesh[-1] - mesh[-2 : -n - 2 : -1]
    return np.concatenate([before, mesh, behind])


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
