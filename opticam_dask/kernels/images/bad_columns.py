"""Columns of a detector that stand out from those beside them: dead ones, hot ones, and trails of a hot pixel.

Pixel by pixel such a column may be within the noise; all its pixels together are not. What lies beside an edge of an
amplifier, on a gradient or under dust is no defect: a column has to stand out from both sides, over many rows.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.ndimage import median_filter

from opticam_dask.kernels.images.masters import median_known
from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Rows of which the median is taken: no hot pixel or cosmic ray moves it. A defect has two such pieces at least.
_PIECE = 16
#: Columns on either side that a column is held against: up to three bad ones may lie side by side.
_BESIDE = 7
#: A column stands out by this many standard deviations of the differences of all columns.
_STANDS_OUT = 6.0
#: A line is as long as this part of the frame: no light of the sky is,
_LONG_LINE = 0.25
#: and has this many pieces at least: the wings of bright stars fill a few.
_LEAST_PIECES = 7
#: Pixels without data, one beside the other, that are bridged to find the centres of stars.
_WIDEST_GAP = 3
#: Standard deviation of a median relative to that of a mean.
_OF_MEDIAN = 1.2533


class BadColumn(NamedTuple):
    """A column, or a part of it, that stands out.

    Attributes
    ----------
    column : int
        Counted from 0.
    first, last : int
        Its rows.
    excess : float
        Median by which it lies above (or below) the columns beside it, in the unit of the master.
    """

    column: int
    first: int
    last: int
    excess: float

    def __str__(self) -> str:
        """For messages."""
        return f"{self.column} (rows {self.first} to {self.last}, {'above' if self.excess > 0 else 'below'} the others)"


def find_bad_columns(values: np.ndarray, variance: np.ndarray, least: float) -> list[BadColumn]:
    """Columns of a master that stand out.

    Parameters
    ----------
    values, variance : ndarray, shape (ny, nx)
        Master (bias, dark or flat) and the variance of its pixels; NaN pixels do not count.
    least : float
        What stands out by less is of no account, in the unit of the master.

    Returns
    -------
    list of BadColumn
        In the order of columns; without those of frames with fewer than 32 rows, which tell too little.
    """
    ny, nx = values.shape
    edges = np.linspace(0, ny, max(1, ny // _PIECE) + 1).astype(int)
    if len(edges) < 3 or nx < 2 * _BESIDE:
        return []
    pieces = np.array([median_known(values[top:bottom], axis=0) for top, bottom in itertools.pairwise(edges)])
    excess = _above_both_sides(pieces)
    known = excess[np.isfinite(excess)]
    noise = _OF_MEDIAN * np.sqrt(np.nanmedian(variance) * len(pieces) / ny) if np.isfinite(variance).any() else 0.0
    scatter = MAD_TO_SIGMA * np.median(np.abs(known)) if known.size else 0.0
    limit = max(_STANDS_OUT * max(float(noise), float(scatter)), least)
    found = []
    for column in np.flatnonzero(np.any(np.abs(excess) > limit, axis=0)).tolist():
        for sign in (1.0, -1.0):
            found += _runs(column, sign * excess[:, column] > limit, excess[:, column], edges)
    return found


def mark(columns: list[BadColumn], shape: tuple[int, int]) -> np.ndarray:
    """Mask of some columns, shape ``(ny, nx)``."""
    mask = np.zeros(shape, dtype=bool)
    for column in columns:
        mask[column.first : column.last + 1, column.column] = True
    return mask


def without_lines(image: np.ndarray, noise: np.ndarray, is_left: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """An image without the light of hot rows and columns, which would join the stars on them to one source.

    What is taken off is the median of what a line has beyond both of its sides, along the line: stars on it stay.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx)
        Image without its sky, NaN where there are no data, and the 1-sigma errors of its pixels.
    is_left : ndarray of bool, shape (ny, nx)
        Saturated pixels: lines through them, as those of bled stars, are left as they are.

    Returns
    -------
    image : ndarray, shape (ny, nx)
    lines : list of str
        What was taken off, in words: ``row 60 (columns 0 to 199, 400 electrons)``.
    """
    found, told = image.copy(), []
    for name, other, turn in (("row", "columns", np.transpose), ("column", "rows", np.asarray)):
        values, errors, left = turn(found), turn(noise), turn(is_left)  # views
        for line in find_bad_columns(values, errors**2, float(np.nanmedian(noise))):
            rows = slice(line.first, line.last + 1)
            is_long = line.last + 1 - line.first >= max(_LONG_LINE * len(values), _LEAST_PIECES * _PIECE)
            if line.excess > 0 and is_long and not left[rows, line.column].any():
                values[rows, line.column] -= _excess_along(values[rows], line.column)
                told.append(f"{name} {line.column} ({other} {line.first} to {line.last}, {line.excess:.0f} electrons)")
    return found, told


def _excess_along(values: np.ndarray, column: int) -> np.ndarray:
    """Running median of what a column lies above the middle of those on either side of it."""
    first = max(column - _BESIDE, 0)
    around = values[:, first : column + 1 + _BESIDE]
    near = np.pad(around, ((0, 0), (first - column + _BESIDE, 2 * _BESIDE + 1)), constant_values=np.nan)
    left, right = (median_known(side, axis=1) for side in (near[:, :_BESIDE], near[:, _BESIDE + 1 : 2 * _BESIDE + 1]))
    # a median of two is their mean, and of one it is that one
    excess = values[:, column] - median_known(np.stack([left, right]), axis=0)
    filled = np.where(np.isfinite(excess), excess, np.nanmedian(excess))
    smooth: np.ndarray = median_filter(filled, 2 * _PIECE + 1, mode="nearest")
    return smooth


def _above_both_sides(pieces: np.ndarray) -> np.ndarray:
    """By how much each piece of a column lies above, or below, the medians of the columns on either side of it.

    The smaller of both; 0 where it lies between them.
    """
    padded = np.pad(pieces, ((0, 0), (_BESIDE, _BESIDE)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _BESIDE, axis=1)
    left, right = (median_known(side, axis=2) for side in (windows[:, : -_BESIDE - 1], windows[:, _BESIDE + 1 :]))
    low, high = pieces - np.fmax(left, right), pieces - np.fmin(left, right)
    return np.where(low > 0, low, np.where(high < 0, high, 0.0 * pieces))


def _runs(column: int, stands_out: np.ndarray, excess: np.ndarray, edges: np.ndarray) -> list[BadColumn]:
    """Pieces that stand out one after the other, two at least; the pieces at both ends may be in it with a part."""
    padded = np.concatenate([[False], stands_out, [False]]).astype(int)
    starts, stops = np.flatnonzero(np.diff(padded) > 0), np.flatnonzero(np.diff(padded) < 0)
    runs = [(a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True) if b - a >= 2]
    return [
        BadColumn(
            column,
            int(edges[max(a - 1, 0)]),
            int(edges[min(b + 1, len(edges) - 1)]) - 1,
            float(np.median(excess[a:b])),
        )
        for a, b in runs
    ]


def bridged(image: np.ndarray) -> np.ndarray:
    """An image whose gaps of up to three pixels along a row, or else a column, are filled in a straight line.

    A star on a bad column is one star then, with its centre where it is. Nothing is measured on such pixels.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        NaN where there are no data.
    """
    filled = image
    for axis in (1, 0):
        if not np.isnan(filled).any():
            break
        (before, left), (after, right) = (_nearest(filled, axis, step) for step in (1, -1))
        with np.errstate(invalid="ignore"):
            line = (left * after + right * before) / (before + after)
        is_gap = np.isnan(filled) & (before + after <= _WIDEST_GAP + 1)
        filled = np.where(is_gap, line, filled)
    return filled


def _nearest(image: np.ndarray, axis: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest pixel with data before (``step`` 1) or after (-1) each one, and its value."""
    distance, value = np.full(image.shape, np.inf), np.zeros(image.shape)
    for away in range(_WIDEST_GAP, 0, -1):
        moved = np.roll(image, step * away, axis)
        edge = slice(0, away) if step > 0 else slice(image.shape[axis] - away, None)
        np.moveaxis(moved, axis, 0)[edge] = np.nan
        has_data = ~np.isnan(moved)
        distance[has_data], value[has_data] = away, moved[has_data]
    return distance, value
