"""Errors of fluxes from the CCD equation."""

from __future__ import annotations

import numpy as np


def aperture_variance(
    weights: np.ndarray, cutouts: np.ndarray, rms: np.ndarray, response: np.ndarray | None = None
) -> np.ndarray:
    """Variance of weighted sums of pixels.

    The variance of a pixel is its source electrons plus the square of the background RMS, which has the noise of
    sky, dark current and read-out in it already (they are counted once). With weights ``w`` the sum has the
    variance ``sum(w^2 source / response) + sum(w^2 rms^2)`` (Merline & Howell 1995, Exp. Astron. 6, 163). The source
    part is taken from the pixels themselves; it is summed before it is clipped at zero, since clipping noisy pixels
    one by one would make it too large.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        Share of each pixel in the aperture.
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted electrons; NaN pixels do not count.
    rms : ndarray, shape (n, size, size)
        Background RMS in electrons.
    response : ndarray, shape (n, size, size), optional
        Master flat: ``s`` electrons of a divided frame are ``s * response`` counted ones, with their noise.

    Returns
    -------
    ndarray, shape (n,)
        Variance in electrons squared; NaN where the RMS of a pixel that counts is NaN.
    """
    has_data = np.isfinite(cutouts)
    counted = np.where(has_data, weights, 0.0)
    return weighted_variance(counted, np.where(has_data, cutouts, 0.0), rms, response)


def weighted_variance(
    weights: np.ndarray, source: np.ndarray, rms: np.ndarray, response: np.ndarray | None = None
) -> np.ndarray:
    """Variance of weighted sums of pixels whose source electrons are known; see :func:`aperture_variance`.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        0 where a pixel does not count.
    source : ndarray, shape (n, size, size)
        Electrons of the source, from the pixels or from a model.
    rms, response
        As for :func:`aperture_variance`.

    Returns
    -------
    ndarray, shape (n,)
    """
    squared = weights**2
    photons = squared * source if response is None else squared * source / np.where(squared > 0, response, 1.0)
    # where the RMS is unknown the error is: only pixels that do not count may lack it
    sky = np.sum(squared * np.where(squared > 0, rms, 0.0) ** 2, axis=(1, 2))
    variance: np.ndarray = np.maximum(np.sum(photons, axis=(1, 2)), 0.0) + sky
    return variance


def sky_level_variance(weights: np.ndarray, is_good: np.ndarray, sky_error: np.ndarray) -> np.ndarray:
    """Variance that an error of the sky level, common to all pixels of a window, gives to their weighted sum.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
    is_good : ndarray of bool, shape (n, size, size)
        Pixels that count.
    sky_error : ndarray, shape (n,)
        Error of the level, electrons per pixel.

    Returns
    -------
    ndarray, shape (n,)
        ``(sum(w) sky_error)^2``: the last term of Merline & Howell (1995) for an annulus of ``N`` pixels, where
        ``sky_error = rms / sqrt(N)``.
    """
    variance: np.ndarray = (np.sum(np.where(is_good, weights, 0.0), axis=(1, 2)) * sky_error) ** 2
    return variance


def response_error(weights: np.ndarray, source: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """Error of weighted sums from that of the master flat; it is the same in all frames with the same pixels.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
    source : ndarray, shape (n, size, size)
        Sky-subtracted electrons; NaN pixels do not count.
    relative : ndarray, shape (n, size, size)
        Relative 1-sigma error of the response.

    Returns
    -------
    ndarray, shape (n,)
    """
    terms = np.where(weights != 0, weights * np.nan_to_num(source) * relative, 0.0)
    error: np.ndarray = np.sqrt(np.sum(terms**2, axis=(1, 2)))
    return error
