"""Errors of fluxes from the CCD equation."""

from __future__ import annotations

import numpy as np


def aperture_variance(weights: np.ndarray, cutouts: np.ndarray, rms: np.ndarray) -> np.ndarray:
    """Variance of weighted sums of pixels.

    The variance of a pixel is its source electrons plus the square of the background RMS, which has the noise of
    sky, dark current and read-out in it already (they are counted once). With weights ``w`` the sum has the
    variance ``sum(w^2 source) + sum(w^2 rms^2)`` (Merline & Howell 1995, Exp. Astron. 6, 163). The source part is
    taken from the pixels themselves; it is summed before it is clipped at zero, since clipping noisy pixels one
    by one would make it too large.

    Parameters
    ----------
    weights : ndarray, shape (n, size, size)
        Share of each pixel in the aperture.
    cutouts : ndarray, shape (n, size, size)
        Sky-subtracted electrons; NaN pixels do not count.
    rms : ndarray, shape (n, size, size)
        Background RMS in electrons.

    Returns
    -------
    ndarray, shape (n,)
        Variance in electrons squared; NaN where the RMS of a pixel that counts is NaN.
    """
    has_data = np.isfinite(cutouts)
    squared = np.where(has_data, weights, 0.0) ** 2
    source = np.sum(squared * np.where(has_data, cutouts, 0.0), axis=(1, 2))
    # where the RMS is unknown the error is: only pixels that do not count may lack it
    sky = np.sum(squared * np.where(squared > 0, rms, 0.0) ** 2, axis=(1, 2))
    return np.maximum(source, 0.0) + sky
