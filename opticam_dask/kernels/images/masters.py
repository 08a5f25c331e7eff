"""Master calibration frames from many exposures: rows of all frames at a time, so that memory has a bound.

Every pixel is combined from its own row alone: strips of any height give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: From the median absolute deviation to the standard deviation of a normal distribution.
_SIGMA_PER_MAD = 1.482602218505602
#: Values so many sigma from the median are hits. Normal noise loses 6e-7 of its values, so its variance stays right.
_CLIP_SIGMA = 5.0
#: Hot pixels: so many sigma of the rates above their median.
_HOT_SIGMA = 10.0
#: Responses outside this range tell of dead or hot pixels, or of dust that covers them.
_LEAST_RESPONSE, _MOST_RESPONSE = 0.2, 5.0


@dataclass(frozen=True, eq=False)
class Masters:
    """Master frames of one camera key and frame shape; None for what there is none of.

    Attributes
    ----------
    bias : ndarray, shape (ny, nx), optional
        Level in ADU.
    dark : ndarray, shape (ny, nx), optional
        Rate in ADU per second.
    flat, flat_variance : ndarray, shape (ny, nx), optional
        Response, 1 on average, and its variance.
    bad_pixels : ndarray of bool, shape (ny, nx), optional
        Pixels that are not to be used.
    """

    bias: np.ndarray | None = None
    dark: np.ndarray | None = None
    flat: np.ndarray | None = None
    flat_variance: np.ndarray | None = None
    bad_pixels: np.ndarray | None = None

    def layers(self) -> dict[str, np.ndarray]:
        """What ``calibrate.to_electrons`` needs of them, by its parameters."""
        names = ("bias", "dark", "flat", "bad_pixels")
        return {name: values for name in names if (values := getattr(self, name)) is not None}


def combine(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over frames without outliers, and the variance of this mean.

    The scatter of a pixel is taken from its median absolute deviation, but not below the median scatter of its row:
    of a few frames the deviation of a single pixel is too uncertain to clip with.

    Parameters
    ----------
    strip : ndarray, shape (frame, row, x)
        Whole rows of all frames; NaN where a frame has no value.

    Returns
    -------
    mean, variance : ndarray, shape (row, x)
        The variance is the sample variance of the values kept over their number; NaN where fewer than two are left.

    Raises
    ------
    ValueError
        With fewer than two frames, which tell no variance.
    """
    if strip.ndim != 3 or len(strip) < 2:
        raise ValueError(f"a master needs at least two frames of shape (row, x): got an array of shape {strip.shape}")
    values = np.where(np.isfinite(strip), strip, np.nan).astype(float)
    centre = _median(values, axis=0)
    scatter = _SIGMA_PER_MAD * _median(np.abs(values - centre), axis=0)
    scatter = np.fmax(scatter, _median(scatter, axis=1)[:, np.newaxis])
    # rows without any scatter (all frames equal, whole numbers) are kept as they are
    limit = np.where(scatter > 0, _CLIP_SIGMA * scatter, np.inf)
    with np.errstate(invalid="ignore"):
        kept = np.abs(values - centre) <= limit
    n_kept = kept.sum(axis=0)
    n_used = np.where(n_kept >= 2, n_kept, np.nan)
    mean = _sum_frames(np.where(kept, values, 0.0)) / n_used
    squares = _sum_frames(np.where(kept, values - mean, 0.0) ** 2)
    return mean, squares / (n_used - 1) / n_used


def find_hot_pixels(dark: np.ndarray) -> np.ndarray:
    """Mark pixels of a master dark that are NaN or far above the others.

    Parameters
    ----------
    dark : ndarray, shape (ny, nx)
        Rates, in any unit.
    """
    finite = dark[np.isfinite(dark)]
    if not finite.size:
        return np.ones(dark.shape, dtype=bool)
    centre = np.median(finite)
    scatter = _SIGMA_PER_MAD * np.median(np.abs(finite - centre))
    # without any scatter nothing can be told from the others
    return ~np.isfinite(dark) | ((scatter > 0) & (dark > centre + _HOT_SIGMA * scatter))


def find_bad_responses(flat: np.ndarray) -> np.ndarray:
    """Mark pixels of a master flat (median 1) that are NaN, not above zero, or far from the others."""
    return ~((flat >= _LEAST_RESPONSE) & (flat <= _MOST_RESPONSE))


def _median(values: np.ndarray, axis: int) -> np.ndarray:
    """Median without NaN, and NaN without a warning where there is nothing else."""
    empty = np.isnan(values).all(axis=axis, keepdims=True)
    median = np.nanmedian(np.where(empty, 0.0, values), axis=axis)
    return np.where(empty.squeeze(axis), np.nan, median)


def _sum_frames(values: np.ndarray) -> np.ndarray:
    """Sum over frames one after the other: NumPy's own order may depend on the shape of the strip."""
    total: np.ndarray = np.zeros(values.shape[1:])
    for frame in values:
        total += frame
    return total
