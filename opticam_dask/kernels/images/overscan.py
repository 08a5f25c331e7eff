"""Overscan level of a detector: the mean of pixels that were read beyond its edge."""

from __future__ import annotations

import numpy as np

from opticam_dask.kernels.robust import MAD_TO_SIGMA

#: Pixels further from the median than this many robust standard deviations are left out: cosmic rays do not fall there,
#: but the charge that a bright row leaves behind does.
_CLIP = 5.0
#: Noise of rounding to whole numbers, ADU: no clip is closer than that of pixels that are all the same.
_ROUNDING = 0.29


def overscan_level(pixels: np.ndarray) -> float:
    """Mean of the overscan of one amplifier, without outliers.

    A mean and not a median: the median of whole numbers is a whole number, up to half an ADU away.

    Parameters
    ----------
    pixels : ndarray
        Overscan, ADU.

    Returns
    -------
    float
        Level in ADU; NaN without a finite pixel.
    """
    values = pixels[np.isfinite(pixels)].astype(float) if pixels.dtype.kind == "f" else pixels.astype(float).ravel()
    if not values.size:
        return float("nan")
    middle = np.median(values)
    distance = np.abs(values - middle)
    sigma = max(MAD_TO_SIGMA * float(np.median(distance)), _ROUNDING)
    return float(values[distance <= _CLIP * sigma].mean())
