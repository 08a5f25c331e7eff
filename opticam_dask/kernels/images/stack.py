"""Stack of aligned frames, summed in whole numbers so that the order of the sum does not matter.

The stacked frames of a night are summed in a few groups, one after the other in time. What only one of the groups shows
(a satellite, an aeroplane, a cosmic ray, an asteroid that moves on) is found by comparing their means pixel by pixel,
and left out of the mean of all. Before that, a pixel loses the brightest of its frames where the others do not show its
light: a place that few frames reach may be in one or two groups only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from opticam_dask.kernels.robust import MAD_TO_SIGMA, weighted_median

#: Sums are whole numbers of this part of an electron.
STACK_UNITS_PER_ELECTRON = 1024

#: Groups that the stacked frames of a night are summed in: what is in three of them is told from what is in the others.
N_GROUPS = 8

#: With fewer groups that see a pixel nobody can tell which one is odd.
_FEWEST_GROUPS = 3

#: A group is odd in a pixel when it is this many sigma from the median of the groups,
_ODD = 5.0
#: and beside such a pixel when it is this many.
_ODD_BESIDE = 2.5

#: The brightest frame of a pixel is odd when it is this many times as bright as the mean of the others, and on top of
#: that as many sigma as an odd group: seeing changes the light in a pixel of a star by less;
_ODD_FRAME = 3.0
#: beside such a pixel it is odd at this many sigma.
_ODD_FRAME_BESIDE = 4.0
#: Of two frames nobody can tell which one is odd, unless others show that frames of the night usually agree.
_FEWEST_FRAMES = 3

#: The widths of this part of the frames, the sharpest ones, are not believed.
_SHARPEST_PART = 10

#: Only pixels in which a group is this many sigma from the mean of all are looked at.
_LOOKED_AT = 2.5

#: The brightness of the groups (cloud, other exposure times) is compared in pixels this many sigma above the sky,
_BRIGHT = 10.0
#: where there are this many of them.
_FEWEST_BRIGHT = 20

#: Rows that are combined at a time, so that what is in between stays small.
_ROWS_AT_ONCE = 64


def stack_selection(n_frames: int, stack_frames: int) -> np.ndarray:
    """Indices of the frames that are stacked: evenly spaced, all for ``stack_frames=0``."""
    if stack_frames == 0 or n_frames <= stack_frames:
        return np.arange(n_frames)
    return np.unique(np.round(np.linspace(0, n_frames - 1, stack_frames)).astype(int))


def stack_groups(start: int, stop: int, n_frames: int, stack_frames: int) -> np.ndarray:
    """Group of the stack that each of the frames ``start`` to ``stop`` is summed in, -1 for none.

    Groups are stretches of the night with equally many stacked frames, whatever the blocks are.

    Returns
    -------
    ndarray of int, shape (stop - start,)
    """
    if stack_frames == 0 or n_frames <= stack_frames:
        return np.arange(start, stop) * N_GROUPS // max(n_frames, 1)
    selected = stack_selection(n_frames, stack_frames)
    groups = np.full(stop - start, -1)
    rank = np.arange(*np.searchsorted(selected, (start, stop)))
    groups[selected[rank] - start] = rank * N_GROUPS // len(selected)
    return groups


class StackSums(NamedTuple):
    """Sums of some aligned frames, in units of 2^-10 electron.

    Attributes
    ----------
    total : ndarray of int, shape (ny, nx)
        Sum of the frames.
    coverage : ndarray of int, shape (ny, nx)
        Number of frames in each pixel.
    brightest : ndarray of int, shape (ny, nx)
        Largest value of a frame in each pixel, no less than 0.
    """

    total: np.ndarray
    coverage: np.ndarray
    brightest: np.ndarray


def added(some: Sequence[StackSums]) -> StackSums:
    """Total of several sums of frames, whatever small types these are kept in."""
    total, coverage = some[0].total.astype(np.int64), some[0].coverage.astype(np.uint32)
    brightest = some[0].brightest.astype(np.int64)
    for more in some[1:]:
        total += more.total
        coverage += more.coverage
        np.maximum(brightest, more.brightest, out=brightest)
    return StackSums(total, coverage, brightest)


class PartialStack:
    """Sum of aligned frames in whole numbers, so that the order of the sum does not matter.

    The whole numbers are kept as floating-point ones, which hold them exactly up to 2^53 (sum) and 2^24 (brightest
    frame; above that to 1 in 10^7): frames are added faster than as int64.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._total = np.zeros(shape)
        self._brightest = np.zeros(shape, dtype=np.float32)
        self._coverage = np.zeros(shape, dtype=np.uint32)

    @property
    def sums(self) -> StackSums:
        """The sums as whole numbers."""
        return StackSums(self._total.astype(np.int64), self._coverage, self._brightest.astype(np.int64))

    def add(self, image: np.ndarray) -> None:
        """Add one image on the grid of the stack; pixels that are not finite do not count."""
        unit = np.asarray(STACK_UNITS_PER_ELECTRON, dtype=image.dtype)
        # strips stay in the cache of the processor
        for start in range(0, len(image), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            units, seen = image[rows] * unit, np.isfinite(image[rows])
            np.rint(units, out=units)
            if seen.all():
                self._coverage[rows] += 1
            else:
                units[~seen] = 0.0
                self._coverage[rows] += seen
            self._total[rows] += units
            np.maximum(self._brightest[rows], units, out=self._brightest[rows], casting="same_kind")


def stack_image(total: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Mean image in electrons, float32; NaN where nothing was seen."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / (coverage * float(STACK_UNITS_PER_ELECTRON))).astype(np.float32)


def mean_rms(rms: np.ndarray) -> float:
    """Background RMS of frames (n,) as it counts in their plain mean: root mean square, 0 without frames.

    A noisy frame counts with its whole variance.
    """
    known = rms[np.isfinite(rms)]
    return float(np.sqrt(np.mean(np.square(known)))) if len(known) else 0.0


def mean_width(widths: np.ndarray) -> float:
    """Width of the stars on the plain mean of frames with stars of these widths (n,); NaN where none is known.

    It is that of the frames whose stars are sharp, as a core of ``1 / width^2`` says, however many others are out of
    focus. The sharpest tenth of many frames counts like the next one: some may be measured on cosmic rays.
    """
    known = np.sort(widths[np.isfinite(widths) & (widths > 0.0)])
    if not len(known):
        return float("nan")
    least = known[len(known) // _SHARPEST_PART]
    return float(np.mean(np.maximum(known, least) ** -2.0) ** -0.5)


def combine_groups(groups: Sequence[StackSums], rms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the frames of all groups, without what only one frame or a few of the groups show.

    A pixel of a group is left out when it differs from the median of the groups by more than 5 sigma, where sigma is
    the larger of the noise (sky and photons) and of the scatter of the groups in that pixel and those around it: stars
    in changing seeing scatter by themselves. The median is weighted by the number of frames and the brightness of
    the stars in each group, so that a cloudy hour does not outvote a clear one.

    Parameters
    ----------
    groups : sequence of StackSums
        Sums of each group; at least one.
    rms : ndarray, shape (n,)
        Background RMS of a frame of each group, electrons.

    Returns
    -------
    image : ndarray of float32, shape (ny, nx)
        Electrons, NaN where nothing was seen.
    coverage : ndarray of uint32, shape (ny, nx)
        Number of frames that are in each pixel.
    """
    rms = np.asarray(rms, dtype=float)[:, np.newaxis]
    groups = _without_odd_frames(groups, rms[:, 0])
    total, coverage, _ = added(groups)
    mean = stack_image(total, coverage)
    if len(groups) < _FEWEST_GROUPS:
        return mean, coverage
    places, bright = _places_to_look_at(groups, rms, mean)
    brightness = _relative_brightness(*_values_at(groups, bright), rms)[:, np.newaxis]
    values, n_frames = _values_at(groups, places)
    is_odd = _odd_groups(values / brightness, n_frames, rms, brightness, places, mean.shape)
    if is_odd.any():
        kept = np.where(is_odd, 0.0, n_frames)
        # what is left may be the bright or the faint part of the night
        change = _mean_of(brightness, n_frames) / _mean_of(brightness, kept)
        for odd, (of_group, seen, _) in zip(is_odd, groups, strict=True):
            total.ravel()[places[odd]] -= of_group.ravel()[places[odd]].astype(np.int64)
            coverage.ravel()[places[odd]] -= seen.ravel()[places[odd]].astype(np.uint32)
        mean = stack_image(total, coverage)
        changed = is_odd.any(axis=0)
        mean.ravel()[places[changed]] *= change[changed].astype(np.float32)
    return mean, coverage


def _without_odd_frames(groups: Sequence[StackSums], rms: np.ndarray) -> Sequence[StackSums]:
    """Groups without the brightest frame of a pixel where no other frame shows its light.

    It is compared with all others and with those of its own group, so that a clear hour of a cloudy night stays.
    """
    total, coverage, brightest = added(groups)
    if coverage.max(initial=0) < _FEWEST_FRAMES:
        return groups
    others = np.maximum(total - brightest, 0) / (np.maximum(coverage, 2) - 1.0) / STACK_UNITS_PER_ELECTRON
    least = np.sqrt(np.min(rms[rms > 0], initial=np.max(rms)) ** 2 + others)
    stands_out = brightest / STACK_UNITS_PER_ELECTRON - _ODD_FRAME * others > _ODD_FRAME_BESIDE * least
    places = np.flatnonzero(stands_out & (coverage > 1))
    values = np.array([[sums.ravel()[places] for sums in one] for one in groups], dtype=float)
    of_group = np.argmax(values[:, 2], axis=0)
    in_group, n_frames, highest = np.take_along_axis(values, of_group[np.newaxis, np.newaxis], axis=0)[0]
    beside = np.maximum(in_group - highest, 0.0) / np.maximum(n_frames - 1.0, 1.0) / STACK_UNITS_PER_ELECTRON
    expected = np.maximum(others.ravel()[places], beside)
    excess = highest / STACK_UNITS_PER_ELECTRON - _ODD_FRAME * expected
    sigmas = excess / np.sqrt(rms[of_group] ** 2 + expected)
    is_odd = _with_neighbours(sigmas > _ODD, sigmas > _ODD_FRAME_BESIDE, places, total.shape)
    left = []
    for number, one in enumerate(groups):
        odd = is_odd & (of_group == number)
        of_rest, n_rest = one.total.astype(np.int64), one.coverage.astype(np.uint32)
        of_rest.ravel()[places[odd]] -= highest[odd].astype(np.int64)
        n_rest.ravel()[places[odd]] -= 1
        left.append(StackSums(of_rest, n_rest, one.brightest))
    return left


def _with_neighbours(is_odd: np.ndarray, may_be: np.ndarray, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Odd places, and those beside one that may be."""
    image = np.zeros(shape, dtype=bool)
    image.ravel()[places[is_odd]] = True
    found: np.ndarray = is_odd | (ndimage.binary_dilation(image, np.ones((3, 3))).ravel()[places] & may_be)
    return found


def _values_at(groups: Sequence[StackSums], places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (electrons, NaN where nothing was seen) and number of frames of each group, shape (group, place)."""
    n_frames = np.array([one.coverage.ravel()[places] for one in groups], dtype=float)
    total = np.array([one.total.ravel()[places] for one in groups], dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / (n_frames * STACK_UNITS_PER_ELECTRON), n_frames


def _places_to_look_at(groups: Sequence[StackSums], rms: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a group is not like the mean of all, and where stars are, as places in the flattened frame."""
    differs, n_frames = np.zeros(mean.shape, dtype=bool), np.zeros(mean.shape, dtype=np.float32)
    light = np.maximum(mean, 0.0)
    for (total, coverage, _), level in zip(groups, rms[:, 0].tolist(), strict=True):
        seen = coverage.astype(np.float32)
        n_frames += seen
        with np.errstate(invalid="ignore"):  # nothing seen differs from nothing
            # (total / n - mean)^2 > k^2 (rms^2 + light) / n without a division
            apart = total.astype(np.float32) * np.float32(1.0 / STACK_UNITS_PER_ELECTRON) - seen * mean
            differs |= apart**2 > np.float32(_LOOKED_AT**2) * (np.float32(level**2) + light) * seen
    with np.errstate(invalid="ignore"):
        is_bright = mean * np.sqrt(n_frames) > _BRIGHT * np.nanmedian(rms)
    return np.flatnonzero(differs), np.flatnonzero(is_bright)


def _relative_brightness(values: np.ndarray, n_frames: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """How bright stars are in each group, against the median of the groups; 1 where that is not known."""
    middle = weighted_median(values, n_frames)
    is_star = middle > _BRIGHT * np.nanmedian(rms) / np.sqrt(np.maximum(np.median(n_frames, axis=0), 1.0))
    brightness = np.ones(len(values))
    for group, (mine, seen) in enumerate(zip(values, n_frames, strict=True)):
        used = is_star & (seen > 0)
        if np.count_nonzero(used) >= _FEWEST_BRIGHT:
            # a group without any light would count as infinitely uncertain, and be divided by nothing
            brightness[group] = max(float(np.median(mine[used] / middle[used])), 0.01)
    return brightness


def _odd_groups(
    values: np.ndarray,
    n_frames: np.ndarray,
    rms: np.ndarray,
    brightness: np.ndarray,
    places: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Which groups do not fit the others, shape (group, place); ``values`` are for equal brightness."""
    middle = weighted_median(values, n_frames * brightness**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = np.sqrt((rms**2 + np.maximum(middle, 0.0) * brightness) / n_frames) / brightness
    apart = np.abs(values - middle)
    n_known = np.count_nonzero(n_frames > 0, axis=0)
    # NaN is sorted to the end
    spread = np.take_along_axis(np.sort(apart, axis=0), np.minimum(n_known // 2, len(values) - 1)[np.newaxis], axis=0)[
        0
    ]
    around = np.zeros(shape)
    around.ravel()[places] = MAD_TO_SIGMA * np.nan_to_num(spread)
    around = ndimage.maximum_filter(around, 3).ravel()[places]
    with np.errstate(invalid="ignore", divide="ignore"):
        sigmas = apart / np.maximum(noise, around)
    can_tell = n_known >= _FEWEST_GROUPS
    is_odd = (sigmas > _ODD) & can_tell
    for group, odd in enumerate(is_odd):
        is_odd[group] = _with_neighbours(odd, (sigmas[group] > _ODD_BESIDE) & can_tell, places, shape)
    return is_odd


def _mean_of(brightness: np.ndarray, n_frames: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = np.sum(brightness * n_frames, axis=0) / np.sum(n_frames, axis=0)
    return mean
