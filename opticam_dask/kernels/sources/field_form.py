"""Size and form of the stars of a frame, from the moments of its brightest stars."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opticam_dask.kernels.sources import photometry
from opticam_dask.kernels.sources.moments import axes_of

#: The light of a star is judged in a square of so many pixels.
_CORE_SIZE = 5

#: Noise of a second moment relative to the variance of the star, times the signal-to-noise ratio of its core.
_MOMENT_ERROR = 2.0

#: A star whose moments are so many sigma from those of the others counts half of what it would; the mean has
#: arrived after so many steps.
_FORM_REACH, _FORM_STEPS = 3.0, 12

#: Median of the root mean square of three standard normal numbers.
_MEDIAN_DISTANCE = 0.888

#: Relative spread of moments that is always allowed for: nobody's moments are better known than this.
_LEAST_SPREAD = 3e-3


class FieldShape(NamedTuple):
    """Form of the stars of a frame, in pixels and radians; NaN where no star has one."""

    fwhm: float
    semimajor_sigma: float
    semiminor_sigma: float
    orientation: float


def field_shape(
    image: np.ndarray,
    xy: np.ndarray,
    shapes: np.ndarray,
    noise: float,
    *,
    saturated: np.ndarray | None = None,
) -> FieldShape:
    """FWHM and mean form of the stars of a frame.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Sky-subtracted frame.
    xy : ndarray, shape (n, 2)
        Positions of the sources in pixels.
    shapes : ndarray, shape (3, n)
        What :func:`~opticam_dask.kernels.sources.moments.source_shapes` gives for the sources.
    noise : float
        Background RMS in electrons, which decides how much a faint star counts.
    saturated : ndarray of bool, shape (ny, nx), optional
        Sources with a saturated pixel in their core do not count.

    Returns
    -------
    FieldShape
        ``fwhm`` is the median of ``2.3548 sqrt((a^2 + b^2) / 2)`` over the sources; the axes and the angle are those of
        their mean second moments, weighted by their noise and by how far they are from those of the others.
    """
    semimajor, semiminor, angle = shapes
    x0, y0 = photometry.origins(xy, _CORE_SIZE)
    core = np.nansum(photometry.cut_out(image, x0, y0, _CORE_SIZE), axis=(1, 2))
    known = np.isfinite(semiminor)
    if saturated is not None:
        known &= ~np.any(photometry.cut_out(saturated, x0, y0, _CORE_SIZE) > 0, axis=(1, 2))
    if not known.any():
        return FieldShape(*[float("nan")] * 4)
    fwhm = float(np.median(photometry.SIGMA_TO_FWHM * np.sqrt((semimajor**2 + semiminor**2) / 2.0)[known]))
    light = np.maximum(core[known], 0.0)
    with np.errstate(divide="ignore"):
        error = _MOMENT_ERROR * np.sqrt(light + (_CORE_SIZE * noise) ** 2) / light
    moments = _moments_of(semimajor[known], semiminor[known], angle[known])
    mean = _robust_mean(moments, error)
    if not np.isfinite(mean).all():
        return FieldShape(fwhm, *[float("nan")] * 3)
    major, minor, theta = axes_of(mean)
    return FieldShape(fwhm, float(major), float(minor), float(theta))


def _moments_of(semimajor: np.ndarray, semiminor: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Covariances (xx, yy, xy), shape (3, n), from sigma along the axes and the angle of the major one."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            (semimajor * cosine) ** 2 + (semiminor * sine) ** 2,
            (semimajor * sine) ** 2 + (semiminor * cosine) ** 2,
            (semimajor**2 - semiminor**2) * sine * cosine,
        ]
    )


def _robust_mean(moments: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Mean covariance of the stars of a frame, in which no single star decides.

    A star counts with the inverse of its variance: that of its own noise, and that by which stars of the frame differ
    beyond noise, so that the brightest do not count more than a few others. What lies far from the others (blends,
    galaxies) counts less the further it lies, by the weights of a Cauchy distribution: nothing changes by a jump.

    Parameters
    ----------
    moments : ndarray, shape (3, n)
        Covariances (xx, yy, xy) in square pixels.
    error : ndarray, shape (n,)
        1-sigma error of a moment relative to the variance of a star.

    Returns
    -------
    ndarray, shape (3,)
        NaN where no star has a finite error.
    """
    usable = np.isfinite(error)
    if not usable.any():
        return np.full(3, np.nan)
    moments, error = moments[:, usable], error[usable]
    mean = _weighted_median(moments, 1.0 / np.maximum(error, np.median(error)) ** 2)
    for _ in range(_FORM_STEPS):
        size = 0.5 * (mean[0] + mean[1])
        distance = np.sqrt(np.sum((moments - mean[:, None]) ** 2, axis=0) / len(moments)) / size
        # the median of noise and spread together is 0.89 of their sigma, with three moments
        spread = np.sqrt(np.maximum(np.median((distance / _MEDIAN_DISTANCE) ** 2 - error**2), 0.0))
        variance = error**2 + max(spread, _LEAST_SPREAD) ** 2
        weight = 1.0 / (variance * (1.0 + distance**2 / (_FORM_REACH**2 * variance)))
        mean = np.sum(moments * weight, axis=1) / np.sum(weight)
    return mean


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Median of each row (m, n) in which entries count with weights (n,), linear between entries."""
    medians = np.empty(len(values))
    for row, entries in enumerate(values):
        order = np.argsort(entries, kind="stable")
        share = weights[order] / np.sum(weights)
        medians[row] = np.interp(0.5, np.cumsum(share) - 0.5 * share, entries[order])
    return medians
