"""Stars held against the profile of their frame before any of them is fitted: which of them do not fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opticam_dask.kernels import compiled
from opticam_dask.kernels.sources.profiles import misfit
from opticam_dask.kernels.sources.window_sums import of_window

#: A star is looked at again when one of its pixels is further off than so many errors,
_SUSPECT = 4.2
#: or when the sum of squares is further above its mean than so many times its scatter.
_SUSPECT_SUM = 4.0

#: Pixels in which neighbours shine so many times as bright as the star say nothing about its profile.
_DROWNED = 3.0


def fit_fluxes_alone(
    electrons: np.ndarray, light: np.ndarray, used: np.ndarray, of: np.ndarray | None = None
) -> np.ndarray:
    """Flux of each star by least squares with equal weights on its own pixels; 0 where it has none.

    Parameters
    ----------
    electrons : ndarray, shape (n, size, size)
        Pixels of windows.
    light, used : ndarray and ndarray of bool, shape (m, size, size)
        Share of each star's light in the pixels of its window, and which of them are used.
    of : ndarray of int, shape (n,), optional
        Star in each window; by default they are those of the stars in their order.

    Returns
    -------
    ndarray, shape (n,)
        Electrons.
    """
    if compiled.native is not None:
        flux = np.empty(len(electrons))
        of = np.arange(len(light)) if of is None else of
        windows = (compiled.ready(values, dtype=float) for values in (electrons, light))
        compiled.native.fluxes_alone(*windows, compiled.ready(used), compiled.ready(of, dtype=np.int64), flux)
        return flux
    if of is not None:
        light, used = light[of], used[of]
    shares = np.where(used, light, 0.0)
    weight = np.einsum("nij,nij->n", shares, shares)
    signal = np.einsum("nij,nij->n", shares, np.where(used, electrons, 0.0))
    fluxes: np.ndarray = signal / np.where(weight > 0, weight, 1.0)
    return fluxes


@dataclass(frozen=True, eq=False)
class Judgement:
    """How well stars fit their profile before any of them is fitted.

    Attributes
    ----------
    judged : ndarray of bool, shape (n, size, size)
        Pixels that the stars are judged by.
    deviation : ndarray, shape (n, size, size)
        Pixels minus the profile, in their errors; 0 in those that are not judged.
    chi2 : ndarray, shape (n,)
        Reduced chi-square; NaN below two pixels, and for saturated stars, whose profile nobody knows.
    is_suspect : ndarray of bool, shape (n,)
        Stars that do not fit the profile within their errors.
    """

    judged: np.ndarray
    deviation: np.ndarray
    chi2: np.ndarray
    is_suspect: np.ndarray


def judge_stars(
    electrons: np.ndarray,
    light: np.ndarray,
    flux: np.ndarray,
    foreign: np.ndarray | float,
    noise: tuple[np.ndarray, np.ndarray],
    response: np.ndarray | None,
    masks: tuple[np.ndarray, np.ndarray],
    least: np.ndarray,
    model_error: float,
) -> Judgement:
    """Hold stars against their profile.

    Parameters
    ----------
    electrons, light : ndarray, shape (n, size, size)
        Pixels, and share of each star's light in them.
    flux : ndarray, shape (n,)
        Electrons.
    foreign : ndarray, shape (n, size, size), or 0
        Light of neighbours by the profile.
    noise : (ndarray, ndarray), shape (n, size, size) each
        Background RMS, and that by which the pixels are judged, electrons.
    response, model_error
        Arguments of :func:`~opticam_dask.kernels.sources.profiles.misfit.pixel_errors`.
    masks : (ndarray of bool, ndarray of bool), shape (n, size, size) each
        Pixels that can be used, and saturated ones.
    least : ndarray, shape (n,)
        Pixels with a larger share of the light count.
    """
    (rms, judging), (is_good, saturated) = noise, masks
    has_neighbours = np.ndim(foreign) > 0
    if compiled.native is not None:
        windows = [
            None if values is None else compiled.ready(values, dtype=float)
            for values in (electrons, light, *map(of_window, noise), foreign if has_neighbours else None, response)
        ]
        judged, deviation = np.empty(light.shape, dtype=bool), np.empty(light.shape)
        chi2, suspect = np.empty(len(light)), np.empty(len(light), dtype=bool)
        numbers = np.array((model_error, _DROWNED, misfit.FOREIGN_ERROR, misfit.SKEW, _SUSPECT, _SUSPECT_SUM))
        of_pixels = *windows, *(compiled.ready(mask) for mask in masks), judged, deviation
        of_stars = (compiled.ready(values, dtype=float) for values in (flux, least))
        compiled.native.compare_stars((*of_pixels, *of_stars, chi2, suspect, numbers))
        return Judgement(judged, deviation, chi2, suspect)
    own, near = flux[:, None, None] * light, light > least[:, None, None]
    judged = near & is_good & ~saturated & np.isfinite(judging)
    if has_neighbours:
        judged &= foreign < _DROWNED * np.abs(own) + rms
    errors = misfit.pixel_errors(own, foreign, judging, response, model_error)
    with np.errstate(invalid="ignore"):
        deviation = np.where(judged, (electrons - own - foreign) / errors, 0.0)
    chi2 = misfit.reduced_chi2(deviation, judged)
    is_whole = ~np.any(saturated & near, axis=(1, 2))
    suspect = is_whole & are_suspect(deviation, errors, judged, chi2)
    return Judgement(judged, deviation, np.where(is_whole, chi2, np.nan), suspect)


def are_suspect(deviation: np.ndarray, errors: np.ndarray, used: np.ndarray, chi2: np.ndarray) -> np.ndarray:
    """Stars that do not fit the profile within their errors, shape (n,)."""
    above = np.where(used, np.abs(deviation) - np.where(deviation > 0, misfit.SKEW / errors, 0.0), 0.0)
    too_much = misfit.too_large(chi2, used, _SUSPECT_SUM)
    suspect: np.ndarray = (np.max(above, axis=(1, 2), initial=0.0) > _SUSPECT) | too_much
    return suspect
