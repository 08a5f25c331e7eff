"""Faint light that lies over a star, found by comparing what its fit leaves with trails, points and a raised sky.

Light that came through the telescope is at least as wide as a star, so that none of its pixels need stand out: the
trail of a satellite may add a tenth to a star with two errors in each of a hundred pixels. Each form of such light is
fitted together with flux, place and width of the star (a matched filter; North 1943, Turin 1960), and is there when its
amplitude is many errors above zero and its share in the flux matters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels.sources import window_sums
from opticam_dask.kernels.sources.profiles import misfit, profile
from opticam_dask.kernels.sources.profiles.profile import Shape
from opticam_dask.kernels.sources.profiles.typical import typical_beyond_noise

#: Trails as wide as stars and wider, in units of sigma, in steps of nearly their width from the middle of the star,
_TRAILS = ((1.0, 0.9, 12), (2.2, 1.8, 6))
#: to so far from it; the last of the numbers above is that of their directions.
_FURTHEST = 3.6
#: Points like stars: their distances in units of sigma, and how many there are at each.
_POINTS = ((0.7, 6), (1.5, 10), (2.4, 14), (3.3, 20))

#: Widths of stars that share their forms of light differ by less than this part.
_WIDTH_STEP = 0.05

#: Light is there when its amplitude is so many errors above zero; there are some 190 forms of it,
_SURE = 5.0
#: and when it adds so many errors to the flux,
_MATTERS = 2.0
#: and more than this part, which is the most that the profile may be wrong by where the stars of the frame agree,
_LEAST_PART = 0.003
#: or this, where there are too few of them to tell.
_LEAST_PART_ALONE = 0.01

#: Pixels that a cosmic ray hits at most, as a rule.
LONGEST_RAY = 5

#: So many of the brightest stars have equal weights in what is typical: one alone decides nothing.
_EQUALS = 4

#: A sky level is not known better than this, electrons per pixel.
_LEAST_SKY_ERROR = 1e-3

#: What a fit leaves is summed in blocks of so many sigma for a first look;
_BLOCK = 1.5
#: a star is looked at again when a block is so many errors too bright,
_SUSPECT_BLOCK = 3.8
#: or the sum of squares of the blocks so many times its scatter above its mean.
_SUSPECT_BLOCKS = 3.5


def are_suspect(deviation: np.ndarray, used: np.ndarray, sigma: float) -> np.ndarray:
    """Stars beside whose profile there may be faint light, shape (n,).

    Parameters
    ----------
    deviation : ndarray, shape (n, size, size)
        Pixels minus the profile, in their errors.
    used : ndarray of bool, shape (n, size, size)
        Pixels that are looked at.
    sigma : float
        Standard deviation of the Gaussian that is as wide as the stars, pixels.
    """
    largest, squares, n_blocks = window_sums.block_excess(deviation, used, max(2, round(_BLOCK * sigma)))
    is_excess = squares - n_blocks > _SUSPECT_BLOCKS * np.sqrt(2.0 * n_blocks)
    return np.asarray((largest > _SUSPECT_BLOCK) | is_excess)


@dataclass(frozen=True, eq=False)
class Amplitudes:
    """What each form of light is found to have at each star, fitted together with the star and the sky.

    Attributes
    ----------
    found, error : ndarray, shape (n, form)
        Electrons in the brightest pixel, and their 1-sigma errors.
    light : ndarray, shape (n, size * size)
        The star's own light.
    forms : ndarray, shape (form, size * size)
        See :func:`forms_of_light`.
    """

    found: np.ndarray
    error: np.ndarray
    light: np.ndarray
    forms: np.ndarray

    def rows(self, chosen: np.ndarray) -> Amplitudes:
        """Those at the stars ``chosen``."""
        return Amplitudes(self.found[chosen], self.error[chosen], self.light[chosen], self.forms)


def hold_other_light(
    amplitudes: Amplitudes, fit: misfit.StarFit, *, reach: Sequence[float], typical: np.ndarray | None = None
) -> np.ndarray:
    """Stars over which there is faint light that is not theirs, and matters for fluxes; shape (n, radius).

    Parameters
    ----------
    amplitudes : Amplitudes
        What there is of each form of light.
    fit : StarFit
        What the fit of the profile to the stars left.
    reach : sequence of float
        Radii in which fluxes are measured, pixels.
    typical : ndarray, shape (form,), optional
        Amplitudes that the profile's errors make (:func:`typical_amplitudes`), relative to flux.
    """
    amplitude, error, light = amplitudes.found, amplitudes.error, amplitudes.light
    if typical is not None:
        error = np.hypot(error, 2.0 * typical * np.maximum(fit.flux, 0.0)[:, None])
    least = (_LEAST_PART if typical is not None and typical.any() else _LEAST_PART_ALONE) * fit.flux
    variance = fit.errors.reshape(len(amplitude), -1) ** 2
    is_sure = amplitude > _SURE * error
    if not is_sure.any():
        return np.zeros((len(amplitude), len(reach)), dtype=bool)

    def matters(weights: np.ndarray) -> np.ndarray:
        # a flux with these weights: what each form of light adds to it, and its error
        share = np.sum(weights * light, axis=-1)[:, None]
        added = amplitude * (weights @ amplitudes.forms.T) / share
        flux_error = np.sqrt(np.sum(weights**2 * variance, axis=-1))[:, None] / share
        return np.any(is_sure & (np.abs(added) > np.maximum(_MATTERS * flux_error, least[:, None])), axis=1)

    by_profile, size = matters(light), fit.errors.shape[1]
    return np.stack([by_profile | matters(_disk(size, radius)) for radius in reach], axis=-1)


def find_amplitudes(
    stars: misfit.StarWindows, fit: misfit.StarFit, sky: tuple[np.ndarray | float, np.ndarray | float]
) -> Amplitudes:
    """Amplitude of each form of light at each star, fitted together with the star and the sky, and its error.

    Parameters
    ----------
    stars, fit : StarWindows, StarFit
        The stars, and what the fit of the profile to them left.
    sky : tuple of float or ndarray, shape (n,)
        Sky level that is expected in the pixels, and its error, electrons per pixel.
    """
    n, size = fit.errors.shape[:2]
    forms, squares = forms_of_light(size, _step_of(stars.shape))
    light, slopes = misfit.templates(stars.table, fit.xy, stars.corners, size, profile.forms_at(stars.shape, fit.xy))
    level = np.ones((n, 1, size, size))
    design = np.concatenate([light[:, None], slopes * fit.flux[:, None, None, None], level], axis=1).reshape(n, 5, -1)
    # pixels that a cosmic ray may have hit tell nothing of other light, those on the flanks of a trail most of it
    is_hit = fit.is_stray & (np.count_nonzero(fit.is_stray, axis=(1, 2)) <= LONGEST_RAY)[:, None, None]
    weights = np.where(stars.is_good & ~is_hit, fit.errors**-2, 0.0).reshape(n, -1)
    weighted_residual = (fit.deviation * fit.errors).reshape(n, -1) * weights
    weighted = design * weights[:, None]
    normal = weighted @ design.transpose(0, 2, 1)
    index = np.arange(5)
    normal[:, index, index] += 1e-12 + np.append(misfit.prior_weights(stars.position_error), 0.0)
    of_sky = np.maximum(sky[1], _LEAST_SKY_ERROR) ** -2.0
    normal[:, 4, 4] += of_sky
    # the star has taken up what it can of the pixels that its fit used, the sky nothing yet
    slope = design @ np.where(fit.is_stray.reshape(n, -1), weighted_residual, 0.0)[:, :, None]
    slope[:, 4, 0] = np.sum(weighted_residual, axis=1) + of_sky * sky[0]
    # what of each form star and sky would take up is none of it
    shared, alone = weighted @ forms.T, weights @ squares.T
    taken = np.linalg.solve(normal, shared)
    left = np.maximum(alone - np.sum(shared * taken, axis=1), 1e-3 * alone)
    found = weighted_residual @ forms.T - np.sum(taken * slope, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        amplitude, error = np.where(left > 0, found / left, 0.0), np.where(left > 0, left**-0.5, np.inf)
    return Amplitudes(amplitude, error, design[:, 0], forms)


def typical_amplitudes(stars: misfit.StarWindows, fit: misfit.StarFit, sky_error: float) -> np.ndarray:
    """Typical amplitude of each form of light over the stars of a frame, relative to flux; shape (form,).

    What most stars have is an error of the profile, and the brightest tell best; 0 for too few stars, and where noise
    explains it.
    """
    amplitudes = find_amplitudes(stars, fit, (0.0, sky_error))
    is_bright = fit.flux > 0
    flux = fit.flux[is_bright]
    weights = np.minimum(flux, np.sort(flux)[-_EQUALS]) if len(flux) >= _EQUALS else flux
    relative, noise = (values[is_bright] / flux[:, None] for values in (amplitudes.found, amplitudes.error))
    typical = typical_beyond_noise(relative**2, noise**2, weights[:, None])
    # a dozen stars do not tell one direction from another
    return np.concatenate([np.full(n, typical[first : first + n].max()) for first, n in _families()])


def _families() -> list[tuple[int, int]]:
    """First and number of the forms of light that differ by their direction only."""
    numbers = [n for _, spacing, n in _TRAILS for _ in _offsets(spacing)] + [n for _, n in _POINTS] + [1]
    return list(zip(np.cumsum([0, *numbers[:-1]]).tolist(), numbers, strict=True))


def _offsets(spacing: float) -> np.ndarray:
    """Distances of trails from the middle of the star, units of sigma."""
    return np.arange(-_FURTHEST, _FURTHEST + 0.5 * spacing, spacing)


def _step_of(shape: Shape) -> int:
    """Number of the width among those that share their forms of light."""
    return round(math.log(shape.sigma) / _WIDTH_STEP)


@functools.lru_cache(maxsize=8)
def forms_of_light(size: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Forms of light over a star in the middle of a window, brightest pixel 1, and their squares.

    The last one is -1 everywhere: a trail beside the window has raised the sky that was taken off.

    Parameters
    ----------
    size : int
        Side of the window, odd.
    step : int
        Logarithm of sigma in steps of 5 %.

    Returns
    -------
    forms, squares : ndarray, shape (form, size * size)
    """
    sigma = math.exp(_WIDTH_STEP * step)
    offsets = np.arange(size) - size // 2
    x, y = (values.ravel() / sigma for values in np.meshgrid(offsets, offsets))
    forms = []
    for width, spacing, n_directions in _TRAILS:
        for off in _offsets(spacing):
            angle = (np.pi / n_directions * np.arange(n_directions))[:, None]
            forms.append(np.exp(-0.5 * ((x * np.sin(angle) - y * np.cos(angle) - off) / width) ** 2))
    for distance, n_places in _POINTS:
        angle = (2.0 * np.pi / n_places * np.arange(n_places))[:, None]
        forms.append(np.exp(-0.5 * ((x - distance * np.cos(angle)) ** 2 + (y - distance * np.sin(angle)) ** 2)))
    found = np.concatenate([*forms, np.full((1, size**2), -1.0)])
    squares = found**2
    found.flags.writeable = squares.flags.writeable = False
    return found, squares


@functools.lru_cache(maxsize=32)
def _disk(size: int, radius: float) -> np.ndarray:
    """Pixels of a window within a radius of its middle, shape (size * size,)."""
    offsets = np.arange(size) - size // 2
    disk = (np.hypot(*np.meshgrid(offsets, offsets)) < radius).astype(float).ravel()
    disk.flags.writeable = False
    return disk
