"""Disks around the sources of a frame, whose pixels are not sky, as stretches of the rows of the frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.images.segments import column_of


@dataclass(frozen=True)
class Disks:
    """Disks around sources, whose pixels are not sky.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Centres of the disks, pixels.
    radius : ndarray, shape (n,)
        Radii, in pixels.
    """

    xy: np.ndarray
    radius: np.ndarray


def newly_covered(disks: Disks, before: Disks, shape: tuple[int, int]) -> np.ndarray:
    """Pixels of disks that no earlier disk covered, as places in the flattened frame."""
    places = expanded(*disk_spans(disks, shape))
    return places[~is_within(places, *disk_spans(before, shape))]


def disk_spans(disks: Disks, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of rows, in the flattened frame and apart from each other, that make up all disks.

    A pixel belongs to a disk when its centre does.
    """
    (ny, nx), xy, radius = shape, disks.xy, disks.radius
    if compiled.native is not None:
        given = (compiled.ready(values, dtype=float) for values in (xy, radius))
        stretches = np.frombuffer(compiled.native.disk_stretches(*given, ny, nx), dtype=np.int64)
        start, stop = stretches.reshape(-1, 2).T.copy()
        return start, stop
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


def is_within(places: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Whether places are in one of the stretches, which are ascending and apart from each other."""
    if not len(start):
        return np.zeros(len(places), dtype=bool)
    index = np.searchsorted(start, places, side="right") - 1
    within: np.ndarray = (index >= 0) & (places < stop[index])
    return within


def expanded(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """All whole numbers of half-open stretches that do not overlap, ascending."""
    length = stop - start
    return np.arange(length.sum()) + np.repeat(start - np.cumsum(length) + length, length)
