"""Clipped statistics of boxes of pixels: SExtractor's mode estimate and the standard deviation.

The pixels of a box are sorted once: every round of the clip is then a look-up in the sorted values. Sorting is fast
(NumPy sorts with vector instructions); what costs is to go through all pixels again. So only the ends of a box, which a
clip may take away, and the ranks that its median can have are kept, with the sums over the rest. The compiled form
(``compiled/box_statistics.c``) deals the pixels into bins instead and sorts those that matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from opticam_dask.kernels import compiled

#: Boxes are sorted in strips of about so many pixels, which stay in the cache of a processor.
_PIXELS_AT_ONCE = 2**17

#: A clip is at so many standard deviations about the median,
_SIGMA = 3.0
#: and ends after so many rounds, as in photutils.
_MAX_ROUNDS = 10

#: SExtractor's mode estimate is used while mean and median differ by less than this many standard deviations.
_CROWDED = 0.3

#: Share of the pixels of a box that a clip is expected to take from the faint and from the bright end, where stars and
#: pixels without a value are. Boxes that lose more are sorted again and kept as a whole.
_TAILS = (0.03, 0.08)
_WHOLE = (0.5, 0.5)


def box_statistics(boxes: np.ndarray, least: float, *, readmit: bool) -> np.ndarray:
    """Level and scatter of boxes (row, column, y, x), shape (2, row, column); NaN where too few pixels are left.

    Boxes are float32 or float64: what is summed over many pixels is summed in that precision, as deviations from the
    middle of the box, or in double precision by the compiled form. Boxes of 16-bit integers are summed exactly.
    """
    if compiled.native is not None:
        return _compiled_statistics(compiled.native, boxes, least, readmit=readmit)
    boxes = boxes.astype(float) if boxes.dtype.kind == "u" else boxes
    shape = boxes.shape[:2]
    result = np.full((2, shape[0] * shape[1]), np.nan)
    todo = np.arange(result.shape[1])
    for tails in (_TAILS, _WHOLE):
        if not len(todo):
            break
        sorted_boxes = _sort(boxes, todo, tails)
        found, is_exact = _clipped_statistics(sorted_boxes, least, readmit=readmit)
        result[:, todo] = found
        todo = todo[~is_exact]
    return result.reshape(2, *shape)


def _compiled_statistics(native: ModuleType, boxes: np.ndarray, least: float, *, readmit: bool) -> np.ndarray:
    """As :func:`box_statistics`, in C."""
    wanted = np.float32 if boxes.dtype.itemsize <= np.dtype(np.float32).itemsize else np.float64
    pixels = boxes if boxes.dtype == np.uint16 else boxes.astype(wanted, copy=False)
    if pixels.strides[3] != pixels.itemsize or not pixels.flags.aligned:
        pixels = pixels.copy(order="C")
    result = np.empty((2, *pixels.shape[:2]))
    native.box_statistics(pixels, result, least, readmit)
    return result


@dataclass(frozen=True)
class _SortedBoxes:
    """What a clip needs of sorted boxes; arrays of shape (box,) or (box, rank).

    The core, whose pixels no clip takes away, holds the ranks from ``core_start`` to ``core_stop``; its pixels are
    summed as deviations from the centre. Pixels without a value (NaN) come last.
    """

    low: np.ndarray
    high: np.ndarray
    #: the ranks that the median can have while the core is whole
    band: np.ndarray
    band_start: int
    core_start: int
    core_stop: int
    core_least: np.ndarray
    core_greatest: np.ndarray
    core_sum: np.ndarray
    core_squares: np.ndarray
    centre: np.ndarray
    n_valid: np.ndarray


def _sort(boxes: np.ndarray, chosen: np.ndarray, tails: tuple[float, float]) -> _SortedBoxes:
    """Sort the chosen ones of the boxes, strip by strip."""
    n_columns, n_pixels = boxes.shape[1], boxes.shape[2] * boxes.shape[3]
    strips = []
    if len(chosen) == len(boxes) * n_columns:
        n_rows = max(1, _PIXELS_AT_ONCE // (n_columns * n_pixels))
        for start in range(0, len(boxes), n_rows):
            strips.append(_parts_of(boxes[start : start + n_rows].copy(order="C").reshape(-1, n_pixels), tails))
    else:
        row, column = np.divmod(chosen, n_columns)
        at_once = max(1, _PIXELS_AT_ONCE // n_pixels)
        for start in range(0, len(chosen), at_once):
            part = slice(start, start + at_once)
            strips.append(_parts_of(boxes[row[part], column[part]].reshape(-1, n_pixels), tails))
    arrays = {name: np.concatenate([strip[name] for strip in strips]) for name in strips[0]}
    core_start, core_stop, band_start, _ = _ranks(n_pixels, tails)
    return _SortedBoxes(**arrays, band_start=band_start, core_start=core_start, core_stop=core_stop)


def _ranks(n_pixels: int, tails: tuple[float, float]) -> tuple[int, int, int, int]:
    """First and last rank (exclusive) of the core, and of the medians that are possible while the core is whole."""
    core_start, core_stop = int(tails[0] * n_pixels), n_pixels - int(tails[1] * n_pixels)
    if core_start >= core_stop:
        middle = n_pixels // 2
        return middle, middle, 0, n_pixels
    return core_start, core_stop, (core_stop - 1) // 2, core_start + (n_pixels - core_start) // 2 + 1


def _parts_of(values: np.ndarray, tails: tuple[float, float]) -> dict[str, np.ndarray]:
    """Sort boxes (box, pixel) in place, and give the arrays of :class:`_SortedBoxes` for them."""
    values.sort(axis=1)
    n_boxes, n_pixels = values.shape
    core_start, core_stop, band_start, band_stop = _ranks(n_pixels, tails)
    n_valid = np.full(n_boxes, n_pixels)
    incomplete = np.flatnonzero(np.isnan(values[:, -1]))
    if len(incomplete):
        n_valid[incomplete] -= np.count_nonzero(np.isnan(values[incomplete]), axis=1)
    centre = values[np.arange(n_boxes), n_valid // 2]
    core = values[:, core_start:core_stop] - centre[:, None]
    has_core = core_start < core_stop
    return {
        "low": values[:, :core_start].astype(float),
        "high": values[:, core_stop:].astype(float),
        "band": values[:, band_start:band_stop].copy(),
        "core_least": values[:, core_start].astype(float) if has_core else np.full(n_boxes, np.inf),
        "core_greatest": values[:, core_stop - 1].astype(float) if has_core else np.full(n_boxes, -np.inf),
        "core_sum": core.sum(axis=1).astype(float),
        "core_squares": np.einsum("ij,ij->i", core, core).astype(float),
        "centre": centre.astype(float),
        "n_valid": n_valid,
    }


def _clipped_statistics(boxes: _SortedBoxes, least: float, *, readmit: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mode and standard deviation of boxes after the clip.

    Parameters
    ----------
    boxes : _SortedBoxes
    least : float
        A box with at most so many pixels left gives NaN.
    readmit : bool
        The last bounds hold for all pixels, also for those that an earlier round took away (the median may have
        moved back to them). photutils does so but for the box in the corner of a frame that boxes do not divide.

    Returns
    -------
    result : ndarray, shape (2, box)
        Level and scatter.
    is_exact : ndarray of bool, shape (box,)
        False where the clip would have taken pixels of the core away.
    """
    powers = _powers(boxes)
    first, last = np.zeros_like(boxes.n_valid), boxes.n_valid.copy()
    final_first, final_last = first.copy(), last.copy()
    is_exact = (boxes.n_valid >= boxes.core_stop) | (boxes.n_valid <= least)
    active = np.flatnonzero(is_exact & (boxes.n_valid > least))
    for _ in range(_MAX_ROUNDS):
        if not len(active):
            break
        median, _, std = _moments(boxes, powers, active, first[active], last[active])
        lower, upper = median - _SIGMA * std, median + _SIGMA * std
        is_exact[active] = (lower <= boxes.core_least[active]) & (upper >= boxes.core_greatest[active])
        everywhere = slice(None) if len(active) == len(first) else active
        n_below = _first_true(~(boxes.low[everywhere] < lower[:, None]), boxes.core_start)  # 0 for bounds of NaN
        n_to_upper = _first_true(boxes.high[everywhere] > upper[:, None], boxes.high.shape[1])
        n_not_above = np.minimum(boxes.core_stop + n_to_upper, boxes.n_valid[active])
        final_first[active], final_last[active] = n_below, n_not_above
        has_changed = (n_below > first[active]) | (n_not_above < last[active])
        first[active], last[active] = np.maximum(first[active], n_below), np.minimum(last[active], n_not_above)
        active = active[has_changed & is_exact[active]]
    if readmit:
        first, last = final_first, final_last
    median, mean, std = _moments(boxes, powers, np.arange(len(first)), first, last)
    with np.errstate(invalid="ignore", divide="ignore"):
        crowded = np.abs(mean - median) / std >= _CROWDED
    level = np.where(std == 0, mean, np.where(crowded, median, 2.5 * median - 1.5 * mean))
    result = np.stack([level, std])
    result[:, (last - first <= least) | ~np.isfinite(std)] = np.nan
    return result, is_exact


def _first_true(is_beyond: np.ndarray, otherwise: int) -> np.ndarray:
    """Place of the first True in each row; ``otherwise`` where there is none."""
    if not is_beyond.shape[1]:
        return np.full(len(is_beyond), otherwise)
    place = is_beyond.argmax(axis=1)
    return np.where(is_beyond[np.arange(len(place)), place], place, otherwise)


def _powers(boxes: _SortedBoxes) -> tuple[np.ndarray, np.ndarray]:
    """Deviations from the centre, and their squares: the faint end, the sum over the core, the bright end, and a 0."""
    n_boxes, n_low = boxes.low.shape
    deviations = np.zeros((n_boxes, n_low + 1 + boxes.high.shape[1] + 1))
    centre = boxes.centre[:, None]
    np.subtract(boxes.low, centre, out=deviations[:, :n_low])
    np.subtract(boxes.high, centre, out=deviations[:, n_low + 1 : -1])
    with np.errstate(over="ignore"):
        squares = np.square(deviations)
    deviations[:, n_low], squares[:, n_low] = boxes.core_sum, boxes.core_squares
    return deviations, squares


def _sums(values: np.ndarray, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Sums over columns ``start`` to ``stop`` (exclusive, not the last one) of the chosen rows.

    Only what is left of a box is summed: a pixel of -1e9 that was clipped costs no digits.
    """
    before = np.arange(len(rows)) * values.shape[1]
    chosen = values if len(rows) == len(values) else values[rows]
    sums: np.ndarray = np.add.reduceat(chosen.ravel(), np.column_stack([before + start, before + stop]).ravel())[::2]
    return sums


def _moments(
    boxes: _SortedBoxes, powers: tuple[np.ndarray, np.ndarray], rows: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, mean and standard deviation of the pixels of rank first to last (exclusive) in the boxes ``rows``."""
    count, furthest = last - first, boxes.band.shape[1] - 1
    middle = [first + (count - 1) // 2 - boxes.band_start, first + count // 2 - boxes.band_start]
    lower, upper = (boxes.band[rows, np.clip(rank, 0, furthest)] for rank in middle)
    median = 0.5 * (lower.astype(float) + upper)
    start = np.minimum(first, boxes.core_start)
    stop = np.maximum(last - boxes.core_stop, 0) + boxes.core_start + 1
    count = np.maximum(count, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, squares = (_sums(values, rows, start, stop) / count for values in powers)
        variance = squares - mean**2
    return median, boxes.centre[rows] + mean, np.sqrt(np.maximum(variance, 0.0))
