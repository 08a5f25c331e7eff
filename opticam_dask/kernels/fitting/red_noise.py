"""Red noise of residuals: how much more slowly their scatter falls with averaging than that of white noise."""

from __future__ import annotations

import numpy as np

#: A mean over bins is judged with no fewer bins, or its scatter is not known.
_LEAST_BINS = 10


def time_averaging_beta(time: np.ndarray, residual: np.ndarray, scale: float, n_free: int = 0) -> float:
    """Factor by which noise that is correlated in time makes errors larger (Pont et al. 2006; Winn et al. 2008).

    Residuals are averaged in bins of half to twice a time scale (the ingress of a transit); the scatter of the means is
    divided by what white noise of the same scatter would have, ``sigma / sqrt(n) sqrt(m / (m - 1))`` for m bins of n
    points. The factor is the largest over the lengths of the bins (Gillon et al. 2012, A&A 542, A4), which makes errors
    about 10 per cent larger than they are where the noise is white; the mean factor is too small where it is not, as
    some of the red noise is fitted away.

    Parameters
    ----------
    time, residual : ndarray, shape (frame,)
        In time order; NaN is left out.
    scale : float
        Time scale, in the unit of ``time``.
    n_free : int
        Parameters that were fitted to the residuals.

    Returns
    -------
    float
        At least 1; 1 with too few points to tell.
    """
    known = np.isfinite(time) & np.isfinite(residual)
    time, residual = time[known], residual[known]
    n_points = len(residual)
    if n_points <= n_free + 2 * _LEAST_BINS or not scale > 0:
        return 1.0
    step = float(np.median(np.diff(time)))
    sigma = float(np.sqrt(np.sum(residual**2) / (n_points - n_free)))
    if not (step > 0 and sigma > 0):
        return 1.0
    most = n_points // _LEAST_BINS
    sizes = np.arange(max(2, round(0.5 * scale / step)), min(most, max(2, round(2.0 * scale / step))) + 1)
    if not len(sizes):
        return 1.0
    # at most thirty lengths say as much as thousands of them
    sizes = np.unique(np.geomspace(sizes[0], sizes[-1], 30).round().astype(int))
    ratios = [_ratio(residual, int(size), sigma) for size in sizes]
    return max(1.0, max(ratios))


def _ratio(residual: np.ndarray, size: int, sigma: float) -> float:
    """Scatter of means of so many points in units of that of white noise."""
    n_bins = len(residual) // size
    means = residual[: n_bins * size].reshape(n_bins, size).mean(axis=1)
    expected = sigma / np.sqrt(size) * np.sqrt(n_bins / (n_bins - 1.0))
    return float(np.sqrt(np.sum((means - means.mean()) ** 2) / (n_bins - 1)) / expected)
