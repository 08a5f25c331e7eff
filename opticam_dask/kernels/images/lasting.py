"""Pixels that are hot or dark all night long, found from the frames themselves.

A hot pixel stands out of those around it by more than the middle of the sharpest star does, and a dark one (or one of a
dark column) lies below the sky and those on either side of it; they do so in most frames, wherever the stars are. Where
the field drifts, stars leave every pixel after a while; where it does not, a bad pixel in the core of a star cannot be
told from the star.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
from scipy.special import erf

from opticam_dask.kernels.images.segments import row_and_column
from opticam_dask.kernels.images.stack import stack_selection
from opticam_dask.kernels.sources.photometry import SIGMA_TO_FWHM

#: Frames of a night that are searched, evenly spaced.
N_FRAMES = 32
#: A pixel must stand out in this many: fewer may be cosmic rays and noise.
FEWEST_FRAMES = 6

#: A bad pixel stands out by this many times the noise of the sky.
_STANDS_OUT = 4.0
#: A bad pixel stands out by this many errors of its light and of that around it: the noise of a star is no bad pixel.
_CERTAIN = 2.0

#: No star is narrower than this part of the FWHM of its frame.
_SHARPEST = 0.7

#: A crowded frame makes its stars look wider than they are: what has light on all four sides, and more of it than a
#: star of this part of the FWHM would have, is the middle of a star.
_SHARPEST_CROWDED = 0.5

#: More than this part of the pixels are not bad: something else is wrong with such frames.
_MOST = 0.02

#: A gap in a line of bad pixels, as a star makes it, has this part of as many pixels on either side of it bad,
_OF_LINE = 0.6
#: and no fewer are looked at than so many.
_LEAST_LINE = 12

#: Steps in y and x to the eight pixels around one: those of a column first to last, one column after the other.
_AROUND = tuple((dy, dx) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dy or dx)

#: Those of them that share a side with it.
_SIDES = (1, 3, 4, 6)


def candidates(n_frames: int, stack_frames: int) -> np.ndarray:
    """Indices of the stacked frames that are searched for bad pixels, chosen by the number of frames alone."""
    stacked = stack_selection(n_frames, stack_frames)
    chosen: np.ndarray = stacked[stack_selection(len(stacked), N_FRAMES)]
    return chosen


def sharp_pixels(image: np.ndarray, rms: float, fwhm: float) -> np.ndarray:
    """Pixels of a frame that stand out of those around them by more than a star can, or lie below sky and neighbours.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Frame without its sky, electrons; NaN where there are no data.
    rms : float
        Background RMS, electrons.
    fwhm : float
        FWHM of the stars of the frame, pixels.

    Returns
    -------
    ndarray of int
        Places in the flattened frame; of none on its edges or beside a pixel without data.
    """
    if not (rms > 0 and fwhm > 0 and min(image.shape) > 2):
        return np.empty(0, dtype=np.int64)
    places = _possible(image, rms)
    pixels, steps = image.ravel(), [dy * image.shape[1] + dx for dy, dx in _AROUND]
    # what nothing is known of beside it cannot be compared
    is_known = functools.reduce(np.logical_and, (np.isfinite(pixels[places + step]) for step in steps))
    places = places[is_known]
    middle, around = pixels[places], [pixels[places + step] for step in steps]
    # dark pixels beside it make no pixel a hot one
    beside = functools.reduce(np.add, (np.maximum(values, -_CERTAIN * rms) for values in around))
    # stars do not lie below the sky
    lowest = np.minimum(functools.reduce(np.minimum, around[:3] + around[-3:]), 0.0)
    # of a star in the middle of a pixel, those around it have this part of its light, or more
    share = _share_around(_SHARPEST * fwhm)
    # below zero is a sky that the mesh does not follow
    above = middle - np.where(beside > 0.0, beside / share, beside) / 8.0
    light, others = (np.maximum(values, 0.0) for values in (middle, beside))
    error = np.sqrt(rms**2 + light + (8.0 * rms**2 + others) / (8.0 * share) ** 2)
    beside_it = functools.reduce(np.minimum, (around[side] for side in _SIDES))
    is_star = beside_it > _share_beside(_SHARPEST_CROWDED * fwhm) * light + _CERTAIN * rms
    is_hot = (above > _STANDS_OUT * rms) & (above > _CERTAIN * error) & ~is_star
    is_dark = lowest - middle > _STANDS_OUT * rms
    found: np.ndarray = places[is_hot | is_dark]
    return found


def _possible(image: np.ndarray, rms: float) -> np.ndarray:
    """Places of the few pixels that may stand out, by their own light alone, ascending; none on the edges.

    Pixels beside a hot one count as minus ``_CERTAIN`` RMS or more, those beside a dark one as no more than the sky:
    that much less than the limit tells it of the pixel itself, with some room for rounding.
    """
    inside = image[1:-1, 1:-1]
    is_possible = inside > 0.95 * (_STANDS_OUT - _CERTAIN) * rms
    is_possible |= inside < -0.95 * _STANDS_OUT * rms
    is_possible &= np.isfinite(inside)
    row, column = row_and_column(np.flatnonzero(is_possible), inside.shape[1])
    places: np.ndarray = (row + 1) * image.shape[1] + column + 1
    return places


def _share_around(fwhm: float) -> float:
    """Mean of the eight pixels around a Gaussian star in the middle of one, relative to that one."""
    return ((1.0 + 2.0 * _share_beside(fwhm)) ** 2 - 1.0) / 8.0


def _share_beside(fwhm: float) -> float:
    """Light of a pixel beside that with a Gaussian star in its middle, relative to that one."""
    inside, beside = (float(erf(half * SIGMA_TO_FWHM / (np.sqrt(2.0) * fwhm))) for half in (0.5, 1.5))
    return (beside - inside) / (2.0 * inside)


def bad_all_night(found: Iterable[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels that stand out in most frames; in a hot or dark row or column, those that stars hide as well.

    Parameters
    ----------
    found : iterable of ndarray
        Pixels that stand out in each frame (:func:`sharp_pixels`).
    shape : (int, int)
        Shape ``(ny, nx)`` of the frames.

    Returns
    -------
    ndarray of int
        Pixels as ``row * nx + column``, ascending; none where too few frames were searched.
    """
    frames = list(found)
    if len(frames) < FEWEST_FRAMES:
        return np.empty(0, dtype=np.int64)
    n_pixels = math.prod(shape)
    count = np.bincount(np.concatenate(frames).astype(np.int64), minlength=n_pixels)
    is_bad = (count > len(frames) / 2.0) & (count >= FEWEST_FRAMES)
    if np.count_nonzero(is_bad) > most_bad(n_pixels):
        return np.empty(0, dtype=np.int64)
    lines = is_bad | _gaps_of_lines(is_bad.reshape(shape)).ravel()
    return np.flatnonzero(lines if np.count_nonzero(lines) <= most_bad(n_pixels) else is_bad)


def _gaps_of_lines(is_bad: np.ndarray) -> np.ndarray:
    """Gaps between the bad pixels of a row or column most of which is bad on both sides of the gap."""
    gaps = np.zeros(is_bad.shape, dtype=bool)
    for lines, filled in ((is_bad, gaps), (is_bad.T, gaps.T)):
        for number in np.flatnonzero(np.count_nonzero(lines, axis=1) >= 2 * _LEAST_LINE).tolist():
            places = np.flatnonzero(lines[number])
            for before in np.flatnonzero(np.diff(places) > 1).tolist():
                first, last = int(places[before]) + 1, int(places[before + 1])
                far = max(last - first, _LEAST_LINE)
                sides = lines[number, max(first - far, 0) : first], lines[number, last : last + far]
                if all(len(side) >= _LEAST_LINE and np.mean(side) > _OF_LINE for side in sides):
                    filled[number, first:last] = True
    return gaps


def most_bad(n_pixels: int) -> int:
    """How many pixels of a frame may be bad."""
    return int(_MOST * n_pixels)
