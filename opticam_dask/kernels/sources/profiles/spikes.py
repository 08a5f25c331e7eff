"""Cosmic rays and hot pixels in the cores of stars, by how far a pixel stands out of the four beside it."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.robust import known_or, quantile

#: The core of a star is looked at in a square of so many pixels along a side, and one more around it.
SIZE = 9

#: A peak is no spike when noise makes as much of it, so many sigma;
_BY_NOISE = 5.0
#: nor when the place of a star in its pixel does: this part of a peak for stars of sigma 1, and less for wider ones.
_BY_PLACE = 0.8
#: Stars are as sharp as this part of them at least: fewer than half are hit.
_SHARP = 0.3
#: A spike that has a part of the light in the core changes moments by so many times that part.
_CHANGES = 4.0


def spike_doubt(windows: np.ndarray, light: np.ndarray, noise: float, variance: np.ndarray) -> np.ndarray:
    """Possible change of the second moments of stars by single pixels that are too bright, relative to the moments.

    Parameters
    ----------
    windows : ndarray, shape (n, SIZE, SIZE)
        Pixels around stars without their sky; NaN where there are none.
    light : ndarray, shape (n,)
        Electrons in the core of each star.
    noise : float
        Background RMS, electrons.
    variance : ndarray, shape (n,)
        Of the light of each star along an axis, square pixels.

    Returns
    -------
    ndarray, shape (n,)
        0 for stars that are as sharp as the others.
    """
    known = np.flatnonzero((light > 0) & (variance > 0))
    doubt = np.zeros(len(windows))
    if not len(known):
        return doubt
    pixels, light, variance = windows[known], light[known], variance[known]
    inner = pixels[:, 1:-1, 1:-1]
    around = (pixels[:, :-2, 1:-1] + pixels[:, 2:, 1:-1] + pixels[:, 1:-1, :-2] + pixels[:, 1:-1, 2:]) / 4.0
    stands_out = known_or(inner - around)
    by_noise = 1.25 * (np.maximum(known_or(around), 0.0) + noise**2)
    above = np.max(stands_out - _BY_NOISE * np.sqrt(by_noise), axis=(1, 2)) / light
    sharpness = np.max(stands_out, axis=(1, 2)) / light
    # wide stars are blunt: sharpness falls with the square of the variance
    usual = quantile(sharpness * variance**2, _SHARP) / variance**2
    doubt[known] = _CHANGES * np.maximum(above - usual * (1.0 + _BY_PLACE / variance), 0.0)
    return doubt
