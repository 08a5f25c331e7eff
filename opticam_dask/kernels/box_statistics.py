"""Clipped statistics of boxes of pixels: SExtractor's mode estimate and the standard deviation.

What a clip may touch is sorted once: every round is then a look-up in the sorted values and in their running sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

#: Boxes are worked on in strips of about so many pixels, to bound the memory.
_PIXELS_AT_ONCE = 2**20

_SIGMA = 3.0
_MAX_ROUNDS = 10

#: SExtractor's mode estimate is used while mean and median differ by less than this many standard deviations.
_CROWDED = 0.3

#: Boxes of at least so many pixels are not sorted as a whole where their tails and their middle are enough.
_LARGE_BOX = 1024
#: Pixels of a box in the sample that tells where tails and middle are.
_SAMPLE = 256
#: Half width of the middle, as a share of the pixels, and where the tails begin, in standard deviations.
_HALF_BAND, _REACH = 0.04, 2.4
#: With a larger share of selected pixels the whole box is sorted.
_LARGEST_SELECTION = 0.25
#: Selections are worked on in so many groups.
_GROUPS = 6

#: Of a box that is sorted as a whole, the share at either end that a clip is expected to stay in.
_TAIL = 0.15


def box_statistics(boxes: np.ndarray, least: float, *, readmit: bool) -> np.ndarray:
    """Level and scatter of boxes (row, column, y, x), shape (2, row, column); NaN where too few pixels are left.

    Boxes are float32 or float64: what is summed over many pixels is summed in that precision, as deviations from the
    middle of the box.
    """
    shape, n_pixels = boxes.shape[:2], boxes.shape[2] * boxes.shape[3]
    result = np.full((2, shape[0] * shape[1]), np.nan)
    todo, is_done = np.arange(result.shape[1]), np.zeros(result.shape[1], dtype=bool)
    if n_pixels >= _LARGE_BOX:
        strips = [_select(row.reshape(-1, n_pixels)) for row in boxes]
        chosen = np.concatenate([row * shape[1] + columns for row, (_, columns) in enumerate(strips)])
        for group, selection in _groups([selection for selection, _ in strips]):
            found, is_exact = _clipped_statistics(selection, least, readmit=readmit)
            result[:, chosen[group[is_exact]]] = found[:, is_exact]
            is_done[chosen[group[is_exact]]] = True
        todo = np.flatnonzero(~is_done)
    for part in np.array_split(todo, -(-len(todo) * n_pixels // _PIXELS_AT_ONCE)) if len(todo) else []:
        chosen_boxes = boxes if len(part) == result.shape[1] else boxes[np.divmod(part, shape[1])]
        pixels = chosen_boxes.reshape(-1, n_pixels)
        n_valid = n_pixels - np.count_nonzero(np.isnan(pixels), axis=1)
        enough = n_valid > least
        if not enough.all():
            pixels, n_valid = pixels[enough], n_valid[enough]
        values, left = np.sort(pixels, axis=1), part[enough]
        for tail in (_TAIL, 0.5):
            if not len(left):
                break
            found, is_exact = _clipped_statistics(_all_pixels(values, n_valid, tail), least, readmit=readmit)
            result[:, left] = found
            values, n_valid, left = values[~is_exact], n_valid[~is_exact], left[~is_exact]
    return result.reshape(2, *shape)


@dataclass(frozen=True)
class _Selection:
    """The pixels of each box that a clip may touch, sorted, and the sums over the others, its core.

    The values are ``n_low`` low ones, a band about the median, and ``n_high`` high ones; NaN follows. Pixels further
    than ``reach`` from ``centre`` are all among them. The band holds the ranks from ``band_start`` to ``band_stop``
    of the box, and is in the core as well, which is summed as deviations from the centre.
    """

    values: np.ndarray
    n_pixels: np.ndarray
    n_values: np.ndarray
    n_low: np.ndarray
    n_high: np.ndarray
    band_start: np.ndarray
    band_stop: np.ndarray
    #: place of the band among the values
    band_index: np.ndarray
    centre: np.ndarray
    reach: np.ndarray
    core_sum: np.ndarray
    core_squares: np.ndarray


def _all_pixels(values: np.ndarray, n_valid: np.ndarray, tail: float) -> _Selection:
    """All pixels of boxes that are sorted as a whole; the lowest and highest ``tail`` of them are not in the core."""
    n_pixels = values.shape[1]
    n_low = int(tail * n_pixels)
    centre = values[np.arange(len(values)), n_valid // 2]
    core = values[:, n_low : n_pixels - n_low] - centre[:, None]
    reach = np.abs(core[:, [0, -1]]).max(axis=1).astype(float) if tail < 0.5 else np.full(len(values), -np.inf)
    none = np.zeros_like(n_valid)
    return _Selection(
        values=values,
        n_pixels=n_valid,
        n_values=n_valid,
        n_low=none + n_low,
        n_high=n_valid - (n_pixels - n_low),
        band_start=none,
        band_stop=n_valid,
        band_index=none,
        centre=centre.astype(float),
        reach=reach,
        core_sum=core.sum(axis=1).astype(float),
        core_squares=np.einsum("ij,ij->i", core, core).astype(float),
    )


def _select(boxes: np.ndarray) -> tuple[_Selection, np.ndarray]:
    """Select the tails and a narrow band about the median, placed by a sample of the pixels.

    Sorting some 10 % of the pixels and summing the others is twice as fast as sorting all of them.

    Returns
    -------
    selection : _Selection
        With a core that is NaN where a box holds NaN.
    rows : ndarray of int
        The boxes it is about; from the others too many pixels would have to be selected.
    """
    n_pixels = boxes.shape[1]
    sample = np.sort(boxes[:, :: (n_pixels // _SAMPLE) | 1], axis=1)
    low, below, middle, above, high = (sample[:, int(q * sample.shape[1])] for q in (0.16, 0.4, 0.5, 0.6, 0.84))
    slope, sigma = (above - below) / 0.2, 0.5 * (high - low)
    share_below = (_count(boxes < middle[:, None]) / n_pixels).astype(boxes.dtype)
    centre = middle - (share_below - 0.5) * slope
    # clipping the wings of stars moves the median: by half their share
    offsets = sample - centre[:, None]
    lopsided = np.count_nonzero(np.abs(offsets) > _SIGMA * sigma[:, None], axis=1).astype(boxes.dtype) / sample.shape[1]
    half_band, reach = ((_HALF_BAND + 0.5 * lopsided) * slope)[:, None], (_REACH * sigma)[:, None]
    deviations = boxes - centre[:, None]
    distances = np.abs(deviations)
    wanted = distances > reach
    wanted |= distances <= half_band
    n_values = _count(wanted)
    rows = np.flatnonzero(n_values <= _LARGEST_SELECTION * n_pixels)
    if len(rows) < len(boxes):
        boxes, deviations, wanted, n_values = boxes[rows], deviations[rows], wanted[rows], n_values[rows]
        centre, half_band, reach = centre[rows], half_band[rows], reach[rows]
    values = np.full((len(rows), n_values.max(initial=1)), np.nan, dtype=boxes.dtype)
    values[np.arange(values.shape[1]) < n_values[:, None]] = boxes.ravel()[np.flatnonzero(wanted)]
    values.sort(axis=1)
    chosen = values - centre[:, None]
    n_low, n_high = np.count_nonzero(chosen < -reach, axis=1), np.count_nonzero(chosen > reach, axis=1)
    band_start = _count(deviations < -half_band)
    core_sum, core_squares = _core_sums(deviations, reach, n_low, n_high)
    return _Selection(
        values=values,
        n_pixels=np.full(len(rows), n_pixels),
        n_values=n_values,
        n_low=n_low,
        n_high=n_high,
        band_start=band_start,
        band_stop=band_start + n_values - n_low - n_high,
        band_index=n_low,
        centre=centre.astype(float),
        reach=reach[:, 0].astype(float),
        core_sum=core_sum,
        core_squares=core_squares,
    ), rows


def _groups(selections: list[_Selection]) -> Iterator[tuple[np.ndarray, _Selection]]:
    """Put the boxes of several selections into a few, of boxes with about as many values: little of them is padding.

    Yields
    ------
    index : ndarray of int
        Places of the boxes of the group among all boxes of the selections.
    selection : _Selection
    """
    joined = {
        field.name: np.concatenate([getattr(selection, field.name) for selection in selections])
        for field in fields(_Selection)
        if field.name != "values"
    }
    rows = [row for selection in selections for row in selection.values]
    order = np.argsort(joined["n_values"], kind="stable")
    for group in np.array_split(order, _GROUPS):
        if not len(group):
            continue
        n_values = joined["n_values"][group]
        values = np.full((len(group), max(1, n_values.max())), np.nan, dtype=selections[0].values.dtype)
        for place, index in enumerate(group):
            values[place, : n_values[place]] = rows[index][: n_values[place]]
        yield group, _Selection(values=values, **{name: array[group] for name, array in joined.items()})


def _core_sums(
    deviations: np.ndarray, reach: np.ndarray, n_low: np.ndarray, n_high: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the deviations within ``reach`` and their squares; ``deviations`` is overwritten.

    The tails are cut to the reach, summed, and what they then contribute is taken away: that is faster than to leave
    them out, and loses no digits however far out they are.
    """
    np.clip(deviations, -reach, reach, out=deviations)
    reach = reach[:, 0].astype(float)
    total, squares = deviations.sum(axis=1), np.einsum("ij,ij->i", deviations, deviations)
    return total + (n_low - n_high) * reach, squares - (n_low + n_high) * reach**2


def _count(truth: np.ndarray) -> np.ndarray:
    """Count the true values in each row: by their bits, many times as fast as with ``axis=1``."""
    counted: np.ndarray = np.bitwise_count(np.packbits(truth, axis=1)).sum(axis=1, dtype=np.intp)
    return counted


def _clipped_statistics(selection: _Selection, least: float, *, readmit: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mode and standard deviation of boxes after the clip.

    Parameters
    ----------
    selection : _Selection
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
        False where a pixel that was not selected would have been needed.
    """
    sums = _running_sums(selection)
    low = selection.values[:, : selection.n_low.max()]
    high = selection.values[:, (selection.n_values - selection.n_high).min() :]
    first, last = np.zeros_like(selection.n_pixels), selection.n_pixels.copy()
    final_first, final_last = first.copy(), last.copy()
    is_exact = np.isfinite(selection.core_sum)
    active = np.flatnonzero(is_exact)
    for _ in range(_MAX_ROUNDS):
        median, _, std = _moments(selection, sums, active, first[active], last[active], is_exact)
        lower, upper = median - _SIGMA * std, median + _SIGMA * std
        centre, reach = selection.centre[active], selection.reach[active]
        is_exact[active] &= ~((lower - centre >= -reach) | (upper - centre <= reach))
        everywhere = slice(None) if len(active) == len(first) else active
        n_below = np.count_nonzero(low[everywhere] < lower[:, None], axis=1)
        n_not_above = selection.n_pixels[active] - np.count_nonzero(high[everywhere] > upper[:, None], axis=1)
        final_first[active], final_last[active] = n_below, n_not_above
        has_changed = (n_below > first[active]) | (n_not_above < last[active])
        first[active], last[active] = np.maximum(first[active], n_below), np.minimum(last[active], n_not_above)
        active = active[has_changed & is_exact[active]]
        if not len(active):
            break
    if readmit:
        first, last = final_first, final_last
    median, mean, std = _moments(selection, sums, np.arange(len(first)), first, last, is_exact)
    with np.errstate(invalid="ignore", divide="ignore"):
        crowded = np.abs(mean - median) / std >= _CROWDED
    level = np.where(std == 0, mean, np.where(crowded, median, 2.5 * median - 1.5 * mean))
    result = np.stack([level, std])
    result[:, (last - first <= least) | ~np.isfinite(std)] = np.nan
    return result, is_exact


def _running_sums(selection: _Selection) -> np.ndarray:
    """Sum up the deviations of the values and their squares along each box, shape (2, box, value + 1).

    The running sums go outwards from the band, where they are 0: a sum over a window never holds what lies outside
    of it, so a pixel of -1e9 that was clipped costs no digits.
    """
    values, centre = selection.values, selection.centre[:, None]
    n_low, n_values = selection.n_low[:, None], selection.n_values[:, None]
    high_start = n_values - selection.n_high[:, None]
    # no box has low values from here on, or high ones before there
    left, right = n_low.max(), high_start.min()
    low, high = centre - values[:, :left], values[:, right:] - centre
    if n_low.min() < left:
        low[np.arange(left) >= n_low] = 0.0
    if high_start.max() > right or n_values.min() < values.shape[1]:
        place = np.arange(right, values.shape[1])
        high[(place < high_start) | (place >= n_values)] = 0.0
    sums = np.zeros((2, len(values), values.shape[1] + 1))
    np.cumsum(low[:, ::-1], axis=1, out=sums[0, :, :left][:, ::-1])
    sums[0, :, right + 1 :] += np.cumsum(high, axis=1)
    with np.errstate(over="ignore"):
        np.negative(np.square(low, out=low), out=low)
        np.square(high, out=high)
    np.cumsum(low[:, ::-1], axis=1, out=sums[1, :, :left][:, ::-1])
    sums[1, :, right + 1 :] += np.cumsum(high, axis=1)
    return sums


def _moments(
    selection: _Selection,
    sums: np.ndarray,
    rows: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    is_exact: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, mean and standard deviation of the pixels of rank first to last in the boxes ``rows``.

    Where the median is not among the selected values, ``is_exact`` is set to False.
    """
    values, count = selection.values, last - first
    start = selection.band_start[rows]
    shift = selection.band_index[rows] - start
    low, high = first + (count - 1) // 2, first + count // 2
    is_exact[rows] &= (low >= start) & (high < selection.band_stop[rows])
    furthest = values.shape[1] - 1
    median = 0.5 * (values[rows, np.clip(low + shift, 0, furthest)] + values[rows, np.clip(high + shift, 0, furthest)])
    end = last - selection.n_pixels[rows] + selection.n_values[rows]
    count = np.maximum(count, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = (selection.core_sum[rows] + sums[0, rows, end] - sums[0, rows, first]) / count
        variance = (selection.core_squares[rows] + sums[1, rows, end] - sums[1, rows, first]) / count - mean**2
    return median, selection.centre[rows] + mean, np.sqrt(np.maximum(variance, 0.0))
