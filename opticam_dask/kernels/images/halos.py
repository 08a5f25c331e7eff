"""Light around saturated stars: taken off in rings, so that the stars in it can be found.

The wings and reflections of a star that bleeds reach far, and are steeper than any mesh of the sky follows. They are
nearly round: the median of the pixels in each ring around the star has neither bled columns and spikes in it nor the
stars that it shines on. What a mesh of the sky has already taken of a halo, and spikes, are not round: a median over
some FWHM takes off what is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

#: Rings around a star reach this many times as far as the part of it that is not looked at,
_REACH = 6
#: and twice as far again until the light at this part of their radius
_INNER = 0.6
#: is that at this one,
_OUTER = 0.9
#: to this part of the noise of a pixel.
_NOTHING_LEFT = 0.5

#: What a mesh of the sky makes of a halo reaches this many times as far as the halo.
_BEYOND = 1.5

#: Rings have this many pixels in them, or nobody knows their median.
_LEAST_PIXELS = 20

#: Rings are made this many times, each time about a better centre:
_STEPS = 3
#: pixels that differ from their rings by this many times the median do not count for it.
_CLIP = 6.0

#: What is left is smoothed by a median over this many cells of half a FWHM to a side: a star covers a quarter of them.
_CELLS = 7

#: Mean absolute deviation of a normal distribution to its sigma.
_MEAN_TO_SIGMA = np.sqrt(np.pi / 2.0)


@dataclass(frozen=True)
class Unveiled:
    """A stack without the halos of its saturated stars.

    Attributes
    ----------
    image : ndarray, shape (ny, nx)
        Electrons; saturated pixels as they were.
    noise : ndarray, shape (ny, nx)
        1-sigma error of a pixel without the photons of other stars, electrons.
    is_core : ndarray of bool, shape (ny, nx)
        Saturated pixels, and those too near to them for a source to be found there.
    in_halo : ndarray of bool, shape (ny, nx)
        Pixels in which there was a halo, or what a mesh of the sky made of it.
    """

    image: np.ndarray
    noise: np.ndarray
    is_core: np.ndarray
    in_halo: np.ndarray


def without_halos(
    image: np.ndarray, noise: np.ndarray, coverage: np.ndarray, is_saturated: np.ndarray, core: float, fwhm: float
) -> Unveiled:
    """Subtract the light around saturated stars, beginning with the star of most saturated pixels.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx)
        Mean of the frames and the error of a pixel of it, electrons; NaN where nothing was seen.
    coverage : ndarray of int, shape (ny, nx)
        Number of frames.
    is_saturated : ndarray of bool, shape (ny, nx)
        Pixels of saturated stars.
    core : float
        Pixels so near to a saturated one say nothing about a halo, in pixels.
    fwhm : float
        FWHM of the stars, in pixels.

    Returns
    -------
    Unveiled
    """
    if not is_saturated.any():
        nothing = np.zeros(image.shape, dtype=bool)
        return Unveiled(image, noise, nothing, nothing)
    left, is_core = image.copy(), ndimage.distance_transform_edt(~is_saturated) < core
    in_halo = np.zeros(image.shape, dtype=bool)
    usual, is_used = float(np.median(noise)), np.isfinite(image) & ~is_core
    for centre, extent in _stars(is_saturated):
        for step in range(_STEPS):
            window, radius = _window(left, is_used, centre, _REACH * (core + extent), usual)
            light = _light_in(left[window], is_used[window], np.rint(radius).astype(int))
            if step < _STEPS - 1:
                centre = _moved(centre, window, left[window], is_used[window], radius, light, core)
        left[window] -= np.where(is_saturated[window], 0.0, np.interp(radius, np.arange(len(light)), light))
        in_halo[window] |= radius <= _BEYOND * np.max(np.flatnonzero(light > _NOTHING_LEFT * usual), initial=0)
    in_halo &= is_used
    if in_halo.any():
        cell = max(1, round(fwhm / 2.0))
        left -= np.where(in_halo, _smooth(left, is_used, cell), 0.0)
        scatter = _MEAN_TO_SIGMA * _smooth(np.abs(left), is_used, cell)
        photons = noise**2 + np.maximum(image - left, 0.0) / np.maximum(coverage, 1)
        noise = np.where(in_halo, np.sqrt(np.maximum(photons, scatter**2)), noise)
    return Unveiled(left, noise, is_core, in_halo)


def _smooth(image: np.ndarray, is_used: np.ndarray, cell: int) -> np.ndarray:
    """Median of the means of square cells around each pixel."""
    n_rows, n_columns = (-(-size // cell) for size in image.shape)
    padding = [(0, n * cell - size) for n, size in zip((n_rows, n_columns), image.shape, strict=True)]
    total, count = (
        np.pad(values, padding).reshape(n_rows, cell, n_columns, cell).sum(axis=(1, 3))
        for values in (np.where(is_used, image, 0.0), is_used.astype(float))
    )
    nearest = ndimage.distance_transform_edt(count == 0, return_distances=False, return_indices=True)
    means = (total / np.maximum(count, 1.0))[tuple(nearest)]
    smooth = ndimage.median_filter(means, _CELLS, mode="nearest")
    places = np.meshgrid(*((np.arange(size) - (cell - 1) / 2.0) / cell for size in image.shape), indexing="ij")
    found: np.ndarray = ndimage.map_coordinates(smooth, places, order=1, mode="nearest")
    return found


def _stars(is_saturated: np.ndarray) -> Iterator[tuple[tuple[float, float], float]]:
    """Centre ``(y, x)`` of each group of saturated pixels, and the radius of a disk of as many pixels."""
    labels, n_labels = ndimage.label(is_saturated, np.ones((3, 3)))
    depth = ndimage.distance_transform_edt(is_saturated)
    numbers = np.arange(1, n_labels + 1)
    sizes = np.bincount(labels.ravel(), minlength=n_labels + 1)[1:]
    # a bled column may be longer on one side: the star is where the saturated pixels are widest
    is_deepest = depth >= np.append(0.0, ndimage.maximum(depth, labels, numbers))[labels]
    centres = ndimage.center_of_mass(is_deepest, labels, numbers)
    for number in np.argsort(-sizes, kind="stable").tolist():
        y, x = centres[number]
        yield (float(y), float(x)), float(np.sqrt(sizes[number] / np.pi))


def _window(
    image: np.ndarray, is_used: np.ndarray, centre: tuple[float, float], reach: float, noise: float
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Window around a star that holds its halo, and the distance of its pixels from the star."""
    while True:
        window = tuple(
            slice(max(0, round(middle - reach)), min(size, round(middle + reach) + 1))
            for middle, size in zip(centre, image.shape, strict=True)
        )
        rows, columns = (np.arange(part.start, part.stop) for part in window)
        radius = np.hypot(rows[:, None] - centre[0], columns[None, :] - centre[1])
        level = [
            image[window][is_used[window] & (np.abs(radius - part * reach) <= 0.1 * reach)] for part in (_INNER, _OUTER)
        ]
        if not all(map(len, level)) or np.median(level[0]) - np.median(level[1]) < _NOTHING_LEFT * noise:
            return (window[0], window[1]), radius
        reach *= 2.0


def _light_in(image: np.ndarray, is_used: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Light of the star in each ring, electrons a pixel: it never grows outwards, and is 0 in the outer ones."""
    level = _medians(image, is_used, ring)
    outer = level[round(_OUTER * len(level)) :]
    known = level[np.isfinite(level)]
    if not len(known):
        return np.zeros(len(level))
    sky = np.nanmedian(outer) if np.isfinite(outer).any() else known[-1]
    rings = np.arange(len(level))
    light = np.maximum(np.interp(rings, rings[np.isfinite(level)], known) - sky, 0.0)
    light[round(_OUTER * len(level)) :] = 0.0
    falling: np.ndarray = 0.5 * (np.minimum.accumulate(light) + np.maximum.accumulate(light[::-1])[::-1])
    return falling


def _moved(
    centre: tuple[float, float],
    window: tuple[slice, slice],
    image: np.ndarray,
    is_used: np.ndarray,
    radius: np.ndarray,
    light: np.ndarray,
    most: float,
) -> tuple[float, float]:
    """Centre of the rings of a halo, by what they leave on one side of it and miss on the other."""
    rings = np.arange(len(light))
    left = image - np.interp(radius, rings, light)
    slope = np.interp(radius, rings, np.gradient(light))
    chosen = is_used & (slope < 0)
    if np.count_nonzero(chosen) < _LEAST_PIXELS:
        return centre
    chosen &= np.abs(left) < _CLIP * np.median(np.abs(left[chosen]))
    rows, columns = np.nonzero(chosen)
    offsets = np.array([rows + window[0].start - centre[0], columns + window[1].start - centre[1]])
    design = -slope[chosen] * offsets / np.maximum(radius[chosen], 1.0)
    normal = design @ design.T
    if not np.linalg.det(normal) > 0:
        return centre
    step = np.clip(np.linalg.solve(normal, design @ left[chosen]), -most, most)
    return float(centre[0] + step[0]), float(centre[1] + step[1])


def _medians(image: np.ndarray, is_used: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Median of the pixels of each ring; NaN where there are too few."""
    numbers, values = ring[is_used], image[is_used]
    ordered = values[np.lexsort((values, numbers))]
    count = np.bincount(numbers, minlength=int(ring.max()) + 1)
    last = np.cumsum(count)
    middle = np.minimum(last - count + count // 2, max(len(ordered) - 1, 0))
    found: np.ndarray = np.where(count >= _LEAST_PIXELS, ordered[middle] if len(ordered) else np.nan, np.nan)
    return found
