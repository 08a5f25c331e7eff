"""Sky that is uneven on scales between a star and a box of the mesh: edges, flanks of nebulae, halos, shadows, steps.

There the sky under a star is not what the boxes around it say: their means scatter about the smooth mesh by more than
noise. The sky is then fitted to the pixels around the star, as a polynomial of fourth degree together with the light of
the star, and weighed against the mesh: the fit by its own error, the mesh by that scatter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from opticam_dask.kernels.images.sky import sky_level, smooth_zoom
from opticam_dask.kernels.images.sky.subtraction import Grid, SkyPixels
from opticam_dask.kernels.robust import MAD_TO_SIGMA, median

#: Boxes with a smaller share of sky pixels do not tell whether the sky is even.
_LEAST_SHARE = 0.1
#: The sky around a star is uneven when the sum of the squares of what boxes deviate by is so many times its scatter
#: above its mean,
_UNEVEN = 6.0
#: in as many boxes across as one of these.
_ACROSS = (3, 5)

#: Boxes are means over many pixels: under a star the sky may be so many times further from the mesh.
_UNDER_STARS = 3.0

#: Second differences along both axes have so many times the scatter of single boxes,
_OF_DIFFERENCE = 6.0
#: and tell it when there are so many.
_FEWEST = 16

#: Degree of the polynomial,
DEGREE = 4
#: and its number of terms.
N_TERMS = (DEGREE + 1) * (DEGREE + 2) // 2

#: What the profile and the place of a star may get wrong of its light in a pixel,
_MODEL_ERROR = 0.03
#: and what a profile that is a little too wide or too narrow takes from the sky under a star, as a part of its light.
_SHAPE_ERROR = 0.003
#: The width of a star may differ from that of the profile by so much (1 sigma), which is fitted with it.
_WIDTH_ERROR = 0.1
#: Pixels in which neighbours shed more than this many times the noise of the sky do not count: in this frame they may
#: be fainter than in the catalogue.
_FOREIGN_MOST = 0.3
#: What they shed in other pixels is known to this part of it.
_FOREIGN_ERROR = 0.3

#: Windows of so many pixels along a side are fitted in cells of four pixels.
_COARSE_FROM = 20

#: Pixels further than so many errors from the fit are left out,
_CLIP = 6.0
#: in so many rounds.
_ROUNDS = 3

#: Added to the diagonal of the normal equations, whose columns have length 1.
_RIDGE = 1e-9
#: Divisors are at least this, so that nothing is divided by 0.
_TINY = 1e-30

#: A polynomial is wrong under a star by this part of what it varies by in the window.
_FORM_ERROR = 0.12

#: A fit needs this part of the pixels of a window.
_ENOUGH = 0.4
#: What is left of the sky in a window is looked for in so many parts along each side.
_PARTS = 6
#: This many parts are left at least.
_FEWEST_LEFT = 2.0


def unevenness(sky: SkyPixels, level: np.ndarray, rms_mesh: np.ndarray, grid: Grid, xy: np.ndarray) -> np.ndarray:
    """How much boxes around places deviate from the level that is taken off, beyond their noise.

    Parameters
    ----------
    sky : SkyPixels
        The sky pixels of each box.
    level, rms_mesh : ndarray, shape (mesh_y, mesh_x)
        Level that is taken off, and the scatter of a pixel.
    grid : ((int, int), (int, int))
        Shape of the frame and of the boxes of the mesh.
    xy : ndarray, shape (n, 2)
        Places on the frame, pixels; NaN is nowhere.

    Returns
    -------
    ndarray, shape (n,)
        Electrons per pixel (1 sigma); 0 where noise makes as much.
    """
    area = grid[1][0] * grid[1][1]
    share = sky.number / area
    is_known = (share > _LEAST_SHARE) & (sky_level.box_areas(*grid) == area)
    share = np.where(is_known, share, 0.0)
    square = np.where(is_known, share * (sky.mean - smooth_zoom.box_means(level, grid[1])) ** 2, 0.0)
    noise = max(median(rms_mesh) / np.sqrt(area), _white_scatter(sky.mean, is_known))
    summed, excess = np.stack([square, is_known, share]), np.zeros(level.shape)
    for n_boxes in _ACROSS:
        along_y, along_x = (_near(size, n_boxes // 2) for size in level.shape)
        total, number, shares = along_y @ summed @ along_x
        is_uneven = total > (number + _UNEVEN * np.sqrt(2.0 * number)) * noise**2
        beyond = (total - number * noise**2) / np.where(shares > 0, shares, 1.0)
        excess = np.where(is_uneven, np.maximum(excess, beyond), excess)
    found = np.zeros(len(xy))
    known = np.all(np.isfinite(xy), axis=1)
    if excess.any():
        column, row = (
            np.clip(xy[known, axis] // grid[1][1 - axis], 0, level.shape[1 - axis] - 1).astype(int) for axis in (0, 1)
        )
        found[known] = _UNDER_STARS * np.sqrt(excess[row, column])
    return found


@functools.lru_cache(maxsize=32)
def _near(n_mesh: int, half: int) -> np.ndarray:
    """Which boxes along one axis are up to ``half`` boxes apart, 1 or 0, shape (n_mesh, n_mesh)."""
    places = np.arange(n_mesh)
    near = (np.abs(places[:, None] - places) <= half).astype(float)
    near.flags.writeable = False
    return near


def _white_scatter(mean: np.ndarray, is_known: np.ndarray) -> float:
    """Scatter of boxes beside each other, as by faint stars, that no nebula explains; 0 where too few tell it."""
    known = np.abs(_second_differences(mean))
    if not is_known.all():
        known = known[np.isfinite(_second_differences(np.where(is_known, 0.0, np.nan)))]
    return float(MAD_TO_SIGMA * median(known) / _OF_DIFFERENCE) if known.size >= _FEWEST else 0.0


def _second_differences(values: np.ndarray) -> np.ndarray:
    """Second differences of a mesh along both axes."""
    along = values[2:] - 2.0 * values[1:-1] + values[:-2]
    both: np.ndarray = along[:, 2:] - 2.0 * along[:, 1:-1] + along[:, :-2]
    return both


@dataclass(frozen=True, eq=False)
class LocalSky:
    """Sky around stars beyond that of the mesh.

    Attributes
    ----------
    xy : ndarray, shape (n, 2)
        Places of the stars, pixels.
    scale : float
        Unit of the distances from them, and half the side of the windows that were fitted, pixels.
    terms : ndarray, shape (n, term)
        Factors of 1, x, y, x^2, x y, ..., y^4, electrons per pixel; 0 where the mesh is right.
    error : ndarray, shape (n,)
        Error of the level under the star, electrons per pixel; NaN where it is that of the mesh.
    expected : ndarray, shape (n,)
        How far the sky of the mesh may be from that around the star, electrons per pixel.
    """

    xy: np.ndarray
    scale: float
    terms: np.ndarray
    error: np.ndarray
    expected: np.ndarray

    def error_in(self, chosen: np.ndarray, size: int) -> np.ndarray:
        """Error of the sky of the ``chosen`` stars in windows of a side: beyond what was fitted, that of the mesh."""
        share = min(1.0, (2.0 * self.scale / size) ** 2)
        error: np.ndarray = share * self.error[chosen] + (1.0 - share) * self.expected[chosen]
        return error

    def level(self, chosen: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """What is to be taken off beyond the mesh in windows of the ``chosen`` stars, shape (n, size, size).

        Nothing beyond the pixels that were fitted: a polynomial runs away there.
        """
        basis = _basis(self.xy[chosen], x0, y0, size, self.scale)
        is_fitted = np.maximum(np.abs(basis[:, 1]), np.abs(basis[:, 2])) <= 1.0
        level: np.ndarray = np.einsum("nk,nkij->nij", self.terms[chosen], basis) * is_fitted
        return level

    def level_of_group(self, chosen: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int) -> np.ndarray:
        """The same in one window of several stars, each pixel by that of the nearest star, shape (size, size)."""
        corner = np.repeat(x0, len(chosen)), np.repeat(y0, len(chosen))
        x, y = (
            at[:, None] + np.arange(size) - place[:, None] for at, place in zip(corner, self.xy[chosen].T, strict=True)
        )
        nearest = np.argmin(x[:, None, :] ** 2 + y[:, :, None] ** 2, axis=0)
        level: np.ndarray = np.take_along_axis(self.level(chosen, *corner, size), nearest[None], axis=0)[0]
        return level


def _basis(xy: np.ndarray, x0: np.ndarray, y0: np.ndarray, size: int, scale: float, cell: int = 1) -> np.ndarray:
    """Products of powers of the distances from stars, x before y, shape (n, term, size, size), in cells of pixels."""
    middles = cell * np.arange(size) + (cell - 1) / 2.0
    x, y = (((corner - place)[:, None] + middles) / scale for corner, place in zip((x0, y0), xy.T, strict=True))
    along_x, along_y = ([np.ones_like(values), *(values**k for k in range(1, DEGREE + 1))] for values in (x, y))
    powers = [(total - k, k) for total in range(DEGREE + 1) for k in range(total + 1)]
    return np.stack([along_y[j][:, :, None] * along_x[i][:, None, :] for i, j in powers], axis=1)


def _cell_sums(windows: np.ndarray, cell: int) -> np.ndarray:
    """Sums over square cells of the pixels of windows; rows and columns that fill none are left out."""
    n = windows.shape[1] // cell
    sums: np.ndarray = windows[:, : n * cell, : n * cell].reshape(-1, n, cell, n, cell).sum(axis=(2, 4))
    return sums


def fit_sky(
    electrons: np.ndarray,
    usable: np.ndarray,
    noise: np.ndarray,
    light: np.ndarray,
    wider: np.ndarray,
    foreign: np.ndarray,
    xy: np.ndarray,
    corners: tuple[np.ndarray, np.ndarray],
    expected: np.ndarray,
) -> LocalSky:
    """Fit a polynomial to the sky of windows, together with the light and the width of the star in each.

    Parameters
    ----------
    electrons : ndarray, shape (n, size, size)
        Windows minus the sky of the mesh.
    usable : ndarray of bool, shape (n, size, size)
        Pixels that count.
    noise : ndarray, shape (n,)
        Scatter of a pixel of the sky.
    light, wider : ndarray, shape (n, size, size)
        Share of the star's light in each pixel, and its derivative by the logarithm of the star's width.
    foreign : ndarray, shape (n, size, size)
        Electrons of its neighbours, as the catalogue has them.
    xy : ndarray, shape (n, 2)
        Places of the stars, pixels.
    corners : tuple of ndarray of int
        Lower corners of the windows.
    expected : ndarray, shape (n,)
        How far the sky may be from that of the mesh, electrons per pixel (:func:`unevenness`).

    Returns
    -------
    LocalSky
        The mean of the fit and of the mesh, each with its error: that of the fit has in it what is left of the sky in
        parts of the window. Where too few pixels count the mesh alone tells the sky.
    """
    size = electrons.shape[1]
    cell, scale = 1 + (size >= _COARSE_FROM), size / 2.0
    usable = usable & (foreign < _FOREIGN_MOST * noise[:, None, None])
    number = _cell_sums(usable.astype(float), cell)
    per_pixel = np.where(number > 0, 1.0 / np.maximum(number, 1.0), 0.0)
    shed, spread, target, fixed = (
        per_pixel * _cell_sums(np.where(usable, values, 0.0), cell)
        for values in (light, wider, electrons - foreign, np.maximum(foreign, 0.0) + (_FOREIGN_ERROR * foreign) ** 2)
    )
    fixed += noise[:, None, None] ** 2
    basis = np.concatenate([_basis(xy, *corners, size // cell, scale, cell), shed[:, None], spread[:, None]], axis=1)
    used, flux, terms, left, weights, of_fit = _fit_rounds(basis, target, fixed, per_pixel)
    of_fit += _structure(left, weights) + (_SHAPE_ERROR * flux * np.sum(light**2, axis=(1, 2))) ** 2
    level = (terms[:, None] @ basis[:, :N_TERMS].reshape(len(xy), N_TERMS, -1))[:, 0]
    mean, square = (np.mean(values, axis=1) for values in (level, level**2))
    of_fit += _FORM_ERROR**2 * np.maximum(square - mean**2, 0.0)
    of_fit = np.where(np.sum(number * used, axis=(1, 2)) > _ENOUGH * (size // cell * cell) ** 2, of_fit, np.inf)
    believed = expected**2 / (expected**2 + of_fit)
    return LocalSky(xy, scale, believed[:, None] * terms, expected * np.sqrt(1.0 - believed), expected)


def _fit_rounds(basis: np.ndarray, target: np.ndarray, fixed: np.ndarray, per_pixel: np.ndarray) -> tuple[Any, ...]:
    """Fit of the sky, flux and width of stars in rounds that leave out what stands out.

    Parameters
    ----------
    basis : ndarray, shape (n, term, size, size)
        Terms of the polynomial, light of the star, and its derivative by the logarithm of the width.
    target, fixed : ndarray, shape (n, size, size)
        Mean electrons of a pixel in each cell, and variance of one pixel without the light of the star.
    per_pixel : ndarray, shape (n, size, size)
        One by the number of pixels in each cell; 0 where there is none.

    Returns
    -------
    used : ndarray of bool, shape (n, size, size)
        Cells that count.
    flux : ndarray, shape (n,)
        Electrons of the stars.
    terms : ndarray, shape (n, N_TERMS)
        Those of the sky.
    left, weights : ndarray, shape (n, size, size)
        What the fit leaves, and how much it counts.
    variance : ndarray, shape (n,)
        Of the sky in the middle of the star, electrons squared.
    """
    n, shed = len(basis), basis[:, N_TERMS]
    flat, nearness = basis.reshape(*basis.shape[:2], -1), np.exp(-(basis[:, 3] + basis[:, 5]))
    used = per_pixel > 0
    flux = np.sum(shed * target, axis=(1, 2)) / np.maximum(np.sum(shed**2 * used, axis=(1, 2)), _TINY)
    for step in range(_ROUNDS):
        own = np.maximum(flux, 0.0)[:, None, None] * shed
        variance = (fixed + own) * np.maximum(per_pixel, _TINY) + (_MODEL_ERROR * own) ** 2
        weights = np.where(used, nearness / variance, 0.0)
        weighted = flat * weights.reshape(n, 1, -1)
        scatter = (weighted * variance.reshape(n, 1, -1)) @ weighted.swapaxes(1, 2)
        normal, known = weighted @ flat.swapaxes(1, 2), (_WIDTH_ERROR * np.maximum(flux, 1.0)) ** -2
        normal[:, -1, -1] += known
        scatter[:, -1, -1] += known
        length = np.sqrt(np.maximum(np.diagonal(normal, axis1=1, axis2=2), _TINY))
        scale = length[:, :, None] * length[:, None, :]
        inverse = np.linalg.inv(normal / scale + _RIDGE * np.eye(normal.shape[1])) / scale
        found = (inverse @ (weighted @ target.reshape(n, -1, 1)))[:, :, 0]
        flux, left = found[:, N_TERMS], target - (found[:, None] @ flat).reshape(target.shape)
        if step < _ROUNDS - 1:
            used &= np.abs(left) < _CLIP * np.sqrt(variance) * _spread(left, variance, used)
    return used, flux, found[:, :N_TERMS], left, weights, (inverse @ scatter @ inverse)[:, 0, 0]


def _spread(left: np.ndarray, variance: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Scatter of what is left in windows, in errors and at least 1, shape (n, 1, 1)."""
    deviation = np.abs(left) / np.sqrt(variance)
    spread = [median(values[chosen]) for values, chosen in zip(deviation, usable, strict=True)]
    return np.fmax(MAD_TO_SIGMA * np.array(spread), 1.0)[:, None, None]


def _structure(left: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean square of what is left in the parts of windows beyond their noise, shape (n,), electrons squared a pixel.

    A fit takes away as many parts as it has terms.
    """
    size = left.shape[1]
    edges = (np.arange(_PARTS) * size) // _PARTS
    inside, total = (
        np.add.reduceat(np.add.reduceat(values, edges, axis=1), edges, axis=2) for values in (weights, weights * left)
    )
    mean = total / np.where(inside > 0, inside, 1.0)
    whole = np.maximum(np.sum(inside, axis=(1, 2)), _TINY)
    square = np.sum(inside * mean**2 - (inside > 0), axis=(1, 2)) / whole
    number = whole**2 / np.maximum(np.sum(inside**2, axis=(1, 2)), _TINY)
    structure: np.ndarray = np.maximum(square, 0.0) * number / np.maximum(number - N_TERMS, _FEWEST_LEFT)
    return structure
