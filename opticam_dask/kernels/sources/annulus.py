"""Local sky in an annulus around each source."""

from __future__ import annotations

import numpy as np

#: Rounds of clipping about the median, as in ``astropy.stats.SigmaClip``.
_ROUNDS = 10


def annulus_mask(
    xy: np.ndarray,
    x0: np.ndarray,
    y0: np.ndarray,
    size: int,
    inner: tuple[float, float],
    outer: tuple[float, float],
    theta: float,
) -> np.ndarray:
    """Pixels whose centres lie in an elliptical annulus.

    Parameters
    ----------
    xy : ndarray, shape (n, 2)
        Centres on the frame.
    x0, y0 : ndarray of int, shape (n,)
        Lower corners of the windows.
    size : int
        Side of the square cut-outs in pixels.
    inner, outer : (float, float)
        Semi-major and semi-minor axes of the edges, in pixels.
    theta : float
        Angle of the major axis from the x axis, in radians.

    Returns
    -------
    ndarray of bool, shape (n, size, size)
    """
    offsets = np.arange(size)
    dx = (np.asarray(x0)[:, None] + offsets - np.asarray(xy)[:, 0, None])[:, None, :]
    dy = (np.asarray(y0)[:, None] + offsets - np.asarray(xy)[:, 1, None])[:, :, None]
    along = (dx * np.cos(theta) + dy * np.sin(theta)) ** 2
    across = (dy * np.cos(theta) - dx * np.sin(theta)) ** 2
    beyond_inner = along / inner[0] ** 2 + across / inner[1] ** 2 >= 1.0
    within_outer = along / outer[0] ** 2 + across / outer[1] ** 2 < 1.0
    mask: np.ndarray = beyond_inner & within_outer
    return mask


def clipped_statistics(
    cutouts: np.ndarray, mask: np.ndarray, n_sigma: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of the masked pixels of each window, clipped about the median.

    Parameters
    ----------
    cutouts : ndarray, shape (n, size, size)
        NaN pixels do not count.
    mask : ndarray of bool, shape (n, size, size)
        Pixels that are used.
    n_sigma : float
        Limit of the clipping, in standard deviations.

    Returns
    -------
    mean, scatter : ndarray, shape (n,)
        NaN where no pixel is left.
    n_pixels : ndarray of int, shape (n,)
        Number of pixels that were used.
    """
    n = len(cutouts)
    mean, scatter, n_pixels = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    for index in range(n):
        values = np.sort(cutouts[index][mask[index] & np.isfinite(cutouts[index])])
        level, spread = _moments(values)
        for _ in range(_ROUNDS if len(values) else 0):
            # sorted values: their median is in the middle, and what a clip leaves is a slice
            centre = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2.0
            low, high = centre - n_sigma * spread, centre + n_sigma * spread
            kept = values[np.searchsorted(values, low) : np.searchsorted(values, high, "right")]
            if len(kept) == len(values):
                break
            values = kept
            level, spread = _moments(values)
        mean[index], scatter[index], n_pixels[index] = level, spread, len(values)
    return mean, scatter, n_pixels


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation; NaN of no values."""
    if not len(values):
        return np.nan, np.nan
    mean = np.add.reduce(values) / len(values)
    deviation = values - mean
    return mean, np.sqrt(np.add.reduce(deviation * deviation) / len(values))
