"""Light curves against phase, in phase bins, and in time bins; errors propagated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from opticam_dask.kernels.series.spectra import sampling_step
from opticam_dask.kernels.series.timing import good_time_intervals

Method = Literal["mean", "sum"]


@dataclass(frozen=True)
class PhaseBins:
    """Weighted mean flux in bins of phase; NaN in bins without points."""

    phase: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    n_points: np.ndarray
    chi2: np.ndarray


@dataclass(frozen=True)
class TimeBins:
    """Light curve in bins of time; bins without enough points are left out."""

    time: np.ndarray
    flux: np.ndarray
    flux_err: np.ndarray
    n_points: np.ndarray


def fold(time: np.ndarray, period: float, epoch: float = 0.0) -> np.ndarray:
    """Phase of each time, 0 to 1, which is 0 at ``epoch``.

    Raises
    ------
    ValueError
        When the period is not positive.
    """
    if not (np.isfinite(period) and period > 0):
        raise ValueError(f"expected a period above 0, got {period}")
    return np.mod((time - epoch) / period, 1.0) % 1.0


def phase_bins(
    phase: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, n_bins: int = 10, *, scale_errors: bool = False
) -> PhaseBins:
    """Weighted means of the flux in equal bins of phase.

    Parameters
    ----------
    phase : ndarray, shape (n,)
        0 to 1.
    flux, flux_err : ndarray, shape (n,)
        Finite, errors above zero: weights are ``1 / flux_err^2``.
    n_bins : int
        Number of phase bins.
    scale_errors : bool
        Multiply the error of a bin by the square root of its reduced chi-squared where that is above 1, as for scatter
        that the errors do not know of.

    Returns
    -------
    PhaseBins
        Phases are the middles of the bins.

    Raises
    ------
    ValueError
        With fewer than two bins.
    """
    if n_bins < 2:
        raise ValueError(f"expected at least 2 bins, got {n_bins}")
    place = np.minimum((phase * n_bins).astype(int), n_bins - 1)
    weight = flux_err**-2.0
    counts = np.bincount(place, minlength=n_bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.bincount(place, weight, n_bins)
        mean = np.bincount(place, weight * flux, n_bins) / total
        error = np.where(counts > 0, 1.0 / np.sqrt(total), np.nan)
        chi2 = np.bincount(place, weight * (flux - mean[place]) ** 2, n_bins)
        if scale_errors:
            reduced = np.where(counts > 1, chi2 / (counts - 1), 1.0)
            error *= np.sqrt(np.maximum(reduced, 1.0))
    return PhaseBins((np.arange(n_bins) + 0.5) / n_bins, mean, error, counts, chi2)


def time_bins(
    time: np.ndarray,
    flux: np.ndarray,
    flux_err: np.ndarray,
    step: float,
    method: Method = "mean",
    *,
    start: float | None = None,
    least_coverage: float = 0.5,
) -> TimeBins:
    """Light curve in bins of time on an even grid.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Times, ascending.
    flux, flux_err : ndarray, shape (n,)
        Fluxes and their errors.
    step : float
        Width of the bins, at least the usual step of the times.
    method : {"mean", "sum"}
        Unweighted mean, with error ``sqrt(sum err^2) / n``; or the sum, of full bins alone.
    start : float, optional
        Where the first bin begins, by default half a step before the first time. Light curves that are binned with the
        same start stay as simultaneous as they were.
    least_coverage : float
        Share of a bin that must be covered by good time intervals for a mean.

    Returns
    -------
    TimeBins
        Times are evenly spaced: the middles of the bins plus one delay, by which the points of full bins are later than
        the middle in the mean. Without it a light curve whose points do not lie evenly about the middles would be moved
        in time, and so would the lag of another camera that is binned on the same grid.

    Raises
    ------
    ValueError
        When the bins are narrower than the sampling, the method is unknown or no bin has enough points.
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    fine = sampling_step(time)
    if not step >= 0.999 * fine:
        raise ValueError(f"expected bins of at least the time between frames, {fine:g} s, got {step:g} s")
    start = float(time[0]) - 0.5 * fine if start is None else start
    place = np.floor((time - start) / step + 1e-9).astype(int)
    filled, inverse, counts = np.unique(place, return_inverse=True, return_counts=True)
    total: np.ndarray = np.bincount(inverse, flux)
    error: np.ndarray = np.sqrt(np.bincount(inverse, flux_err**2))
    middle = start + (filled + 0.5) * step
    covered = _covered(good_time_intervals(time), start + filled * step, step)
    # a bin is full when it is covered but for rounding, and has the points that it then has room for
    enough = covered >= ((1.0 - 1e-3) if method == "sum" else least_coverage)
    if method == "sum":
        enough &= counts == max(round(step / fine), 1)
    if not enough.any():
        raise ValueError(f"no bin of {step:g} s is covered well enough by the light curve")
    if method == "mean":
        total, error = total / counts, error / counts
    # bins at the edges of gaps have points on one side alone, which says nothing about the others
    full = enough & (covered >= 1.0 - 1e-3)
    lateness = np.bincount(inverse, time) / counts - middle
    late = float(lateness[full if full.any() else enough].mean())
    return TimeBins(middle[enough] + late, total[enough], error[enough], counts[enough])


def _covered(intervals: np.ndarray, begins: np.ndarray, step: float) -> np.ndarray:
    """Share of each bin that lies in the intervals, which do not overlap."""
    edges = np.concatenate([begins, begins + step])
    lengths = np.concatenate([[0.0], np.cumsum(intervals[:, 1] - intervals[:, 0])])
    place = np.searchsorted(intervals[:, 0], edges, side="right")
    last = np.maximum(place - 1, 0)
    beyond = np.clip(edges - intervals[last, 0], 0.0, intervals[last, 1] - intervals[last, 0])
    until = np.where(place > 0, lengths[last] + beyond, 0.0)
    return (until[len(begins) :] - until[: len(begins)]) / step
