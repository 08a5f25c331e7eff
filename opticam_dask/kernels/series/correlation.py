"""Correlation of two light curves against lag: on an even grid, and of unevenly sampled ones (z-DCF); errors of lags.

Sign of all lags: positive when the second light curve lags the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import fft

from opticam_dask.kernels.series.spectra import sampling_step
from opticam_dask.kernels.series.timing import good_time_intervals

Mode = Literal["same", "valid", "full"]
CorrelationNorm = Literal["local", "none", "variance"]

#: Share of the pairs of the fullest lag below which the peak of a correlation is not looked for.
LEAST_SHARE = 0.1

#: Values around the peak of a correlation that its centroid is made of, as a share of the peak.
_CENTROID_ABOVE = 0.8

#: Pairs of points that are worked through at most.
_MAX_PAIRS = 10_000_000


@dataclass(frozen=True)
class Correlation:
    """Correlation against lag.

    Attributes
    ----------
    lag : ndarray, shape (lag,)
        Positive: the second light curve lags the first. For bins, their mean lag.
    lag_low, lag_high : ndarray
        Lowest and highest lag of the pairs of a bin; equal to ``lag`` on a grid.
    correlation : ndarray
        Correlation at each lag.
    err_low, err_high : ndarray
        Distances to the ends of the 68 % interval; NaN where they are not defined.
    n_pairs : ndarray of int
        Pairs of points at each lag.
    """

    lag: np.ndarray
    lag_low: np.ndarray
    lag_high: np.ndarray
    correlation: np.ndarray
    err_low: np.ndarray
    err_high: np.ndarray
    n_pairs: np.ndarray


@dataclass(frozen=True)
class LagDistribution:
    """Lags of peak and centroid in randomised light curves, NaN where there was none; see :func:`randomised_lags`."""

    peak: np.ndarray
    centroid: np.ndarray


def fisher_errors(correlation: np.ndarray, n_pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Asymmetric 1-sigma errors of correlation coefficients by Fisher's z (Alexander 1997; 2013, arXiv:1302.1508).

    Parameters
    ----------
    correlation : ndarray
        Correlation coefficient of ``n_pairs`` independent pairs.
    n_pairs : ndarray
        NaN is given for fewer than four.

    Returns
    -------
    below, above : ndarray
        Distances from ``correlation`` to the ends of the interval ``tanh(mean z +- sigma z)``.
    """
    r = np.clip(correlation, -1.0 + 1e-12, 1.0 - 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        free = np.where(np.asarray(n_pairs) > 3, np.asarray(n_pairs) - 1.0, np.nan)
        mean = np.arctanh(r) + r / (2.0 * free) * (
            1.0 + (5.0 + r**2) / (4.0 * free) + (11.0 + 2.0 * r**2 + 3.0 * r**4) / (8.0 * free**2)
        )
        variance = (1.0 + (4.0 - r**2) / (2.0 * free) + (22.0 - 6.0 * r**2 - 3.0 * r**4) / (6.0 * free**2)) / free
        sigma = np.sqrt(variance)
    return np.abs(r - np.tanh(mean - sigma)), np.abs(np.tanh(mean + sigma) - r)


def on_common_grid(
    time1: np.ndarray, flux1: np.ndarray, time2: np.ndarray, flux2: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Both light curves on one even grid, NaN where they have no point; nothing is interpolated.

    Parameters
    ----------
    time1, time2 : ndarray
        Ascending, with the same usual step; gaps may have any length.
    flux1, flux2 : ndarray
        Fluxes of the two light curves.

    Returns
    -------
    gridded1, gridded2 : ndarray, shape (n,)
    step : float
        Time between two points of the grid, in seconds.
    offset : float
        How much later than on the grid the second light curve was observed, a part of a step.

    Raises
    ------
    ValueError
        When the two have different steps, or their times do not fit a grid.
    """
    step = sampling_step(time1)
    if abs(sampling_step(time2) / step - 1.0) > 0.01:
        raise ValueError(
            f"the light curves are sampled every {step:g} s and {sampling_step(time2):g} s: rebin them to the same "
            "step first (rebin_light_curves), or use compute_discrete_correlations"
        )
    start = min(time1[0], time2[0])
    slots = [_slots(time, start, step) for time in (time1, time2)]
    size = int(max(slot[-1] for slot, _ in slots)) + 1
    gridded = []
    for (slot, _), flux in zip(slots, (flux1, flux2), strict=True):
        if len(np.unique(slot)) < len(slot):
            raise ValueError(
                "the times fit no even grid: rebin the light curves first (rebin_light_curves), or use "
                "compute_discrete_correlations"
            )
        row = np.full(size, np.nan)
        row[slot] = flux
        gridded.append(row)
    return gridded[0], gridded[1], step, slots[1][1] - slots[0][1]


def _slots(time: np.ndarray, start: float, step: float) -> tuple[np.ndarray, float]:
    """Place of each time on the grid, and the mean time past it."""
    position = (time - start) / step
    # the phase of the grid that the times scatter least about
    phase = float(np.angle(np.mean(np.exp(2j * np.pi * position))) / (2.0 * np.pi))
    slot = np.round(position - phase).astype(int)
    slot -= min(int(slot[0]), 0)
    return slot, float(np.mean(position - slot)) * step


def cross_correlation(
    grid1: np.ndarray, grid2: np.ndarray, step: float, mode: Mode = "same", norm: CorrelationNorm = "local",
    noise: tuple[float, float] = (0.0, 0.0),
) -> Correlation:  # fmt: skip
    """Correlation of two light curves on an even grid; points that are missing in one do not count.

    Parameters
    ----------
    grid1, grid2 : ndarray, shape (n,)
        NaN where there is no point.
    step : float
        Time between two points of the grid, in seconds.
    mode : {"same", "valid", "full"}
        Lags up to half of the length, no lag but 0, all lags.
    norm : {"local", "none", "variance"}
        ``local``: the correlation coefficient of the pairs of each lag, -1 to 1, whatever the overlap. ``none``: the
        sum of the products of the deviations from the means. ``variance``: that divided by the number of points that
        both have and by the standard deviations of the signals without noise.
    noise : (float, float)
        Variance of the noise of either light curve, for ``variance``.

    Returns
    -------
    Correlation
        Lags are positive when the second lags the first. Errors are those of independent pairs (:func:`fisher_errors`),
        for ``local`` alone; neighbouring lags share their points, and so do neighbouring points of red noise: errors of
        the position of the peak come from :func:`randomised_lags`.

    Raises
    ------
    ValueError
        When mode or norm is unknown, or a light curve has no variance to be divided by.
    """
    if mode not in get_args(Mode) or norm not in get_args(CorrelationNorm):
        raise ValueError(
            f"mode must be one of {', '.join(get_args(Mode))} and norm one of {', '.join(get_args(CorrelationNorm))}, "
            f"got {mode!r} and {norm!r}"
        )
    n = len(grid1)
    known1, known2 = np.isfinite(grid1), np.isfinite(grid2)
    x = np.where(known1, grid1 - np.nanmean(grid1), 0.0)
    y = np.where(known2, grid2 - np.nanmean(grid2), 0.0)
    shifts = {"same": np.arange(-(n // 2), (n + 1) // 2), "valid": np.zeros(1, int), "full": np.arange(1 - n, n)}[mode]
    masks = known1.astype(float), known2.astype(float)
    pairs = np.rint(_lagged_sums(*masks, shifts)).astype(int)
    products = _lagged_sums(x, y, shifts)
    value = products
    low = high = np.full(len(shifts), np.nan)
    if norm == "variance":
        variances = [np.nanvar(grid) - level for grid, level in zip((grid1, grid2), noise, strict=True)]
        if min(variances) <= 0:
            raise ValueError("a light curve does not vary more than its errors: norm 'variance' cannot be had")
        value = products / (np.sqrt(variances[0] * variances[1]) * np.count_nonzero(known1 & known2))
    elif norm == "local":
        value = _coefficient(
            pairs, products, _lagged_sums(x, masks[1], shifts), _lagged_sums(masks[0], y, shifts),
            _lagged_sums(x**2, masks[1], shifts), _lagged_sums(masks[0], y**2, shifts),
        )  # fmt: skip
        low, high = fisher_errors(value, pairs)
    lag = shifts * step
    return Correlation(lag, lag, lag, value, low, high, pairs)


def _lagged_sums(first: np.ndarray, second: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Sums of ``first[i] second[i + shift]`` over all i, for each shift."""
    size = fft.next_fast_len(2 * len(first))
    spectrum = fft.rfft(first, size).conj() * fft.rfft(second, size)
    return fft.irfft(spectrum, size)[shifts % size]


def _coefficient(
    n: np.ndarray, xy: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray
) -> np.ndarray:
    """Correlation coefficients from sums over ``n`` pairs; NaN for fewer than three."""
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = (xx - x * x / n) * (yy - y * y / n)
        value = (xy - x * y / n) / np.sqrt(np.where(variances > 1e-20 * xx * yy, variances, np.nan))
    return np.where(n >= 3, np.clip(value, -1.0, 1.0), np.nan)


def discrete_correlation(
    curve1: tuple[np.ndarray, np.ndarray, np.ndarray],
    curve2: tuple[np.ndarray, np.ndarray, np.ndarray],
    *,
    max_lag: float | None = None,
    least_pairs: int = 11,
    n_realisations: int = 100,
    seed: int = 0,
) -> Correlation:
    """z-transformed discrete correlation function of unevenly sampled light curves.

    Alexander 1997 (Astronomical Time Series, p. 163); 2013, arXiv:1302.1508.

    Pairs of points, in the order of their lags, fill bins of at least ``least_pairs``; lags that are equal stay
    together. No point is in two pairs of a bin: such a pair is left out, so that the pairs of a bin are independent.
    The coefficient of each bin is made a normal variable by Fisher's z; z is averaged over light curves with fluxes
    drawn from their errors.

    Parameters
    ----------
    curve1, curve2 : (time, flux, flux_err), each ndarray
        Any times.
    max_lag : float, optional
        By default half of the time from the first to the last point of either.
    least_pairs : int
        At least 11 for errors that mean something.
    n_realisations : int
        Randomised light curves; 0 takes the fluxes as they are.
    seed : int
        Seed of the random numbers; the same seed gives the same result.

    Returns
    -------
    Correlation
        Lags are positive when the second lags the first.

    Raises
    ------
    ValueError
        With fewer than 5 pairs a bin, with too many pairs of points, or when there are too few for a bin.
    """
    if least_pairs < 5:
        raise ValueError(f"a bin needs at least 5 pairs, better 11, got {least_pairs}")
    (time1, flux1, err1), (time2, flux2, err2) = curve1, curve2
    if max_lag is None:
        max_lag = 0.5 * float(max(time1[-1], time2[-1]) - min(time1[0], time2[0]))
    first, second = _pairs_within(time1, time2, max_lag)
    lags = time2[second] - time1[first]
    order = np.argsort(lags, kind="stable")
    first, second, lags = first[order], second[order], lags[order]
    chosen, starts = _independent_bins(first, second, lags, least_pairs, 1e-3 * sampling_step(time1))
    if not len(starts):
        raise ValueError(
            f"expected at least {least_pairs} independent pairs of points at lags within {max_lag:g} s, found fewer"
        )
    first, second, lags = first[chosen], second[chosen], lags[chosen]
    n_pairs = np.diff(np.append(starts, len(chosen)))
    rng = np.random.default_rng(seed)
    total, done = np.zeros(len(starts)), 0
    for _ in range(max(n_realisations, 1)):
        x = flux1 if not n_realisations else flux1 + err1 * rng.standard_normal(len(flux1))
        y = flux2 if not n_realisations else flux2 + err2 * rng.standard_normal(len(flux2))
        x, y = (x - x.mean())[first], (y - y.mean())[second]
        sums = [np.add.reduceat(values, starts) for values in (x * y, x, y, x * x, y * y)]
        total += np.arctanh(np.clip(_coefficient(n_pairs, *sums), -1.0 + 1e-12, 1.0 - 1e-12))
        done += 1
    value = np.tanh(total / done)
    low, high = fisher_errors(value, n_pairs)
    mean_lag = np.add.reduceat(lags, starts) / n_pairs
    ends = np.append(starts[1:], len(lags)) - 1
    return Correlation(mean_lag, lags[starts], lags[ends], value, low, high, n_pairs)


def _pairs_within(time1: np.ndarray, time2: np.ndarray, max_lag: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs of points whose lag is within ``max_lag``."""
    margin = 1e-9 * max_lag
    begin = np.searchsorted(time2, time1 - max_lag - margin)
    end = np.searchsorted(time2, time1 + max_lag + margin, side="right")
    counts = end - begin
    if counts.sum() > _MAX_PAIRS:
        raise ValueError(
            f"{counts.sum():.1e} pairs of points are more than {_MAX_PAIRS:.0e}: choose a smaller max_lag, rebin the "
            "light curves (rebin_light_curves), or use compute_cross_correlations"
        )
    first = np.repeat(np.arange(len(time1)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return first, np.repeat(begin, counts) + within


def _independent_bins(
    first: np.ndarray, second: np.ndarray, lags: np.ndarray, least_pairs: int, same: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that are used, and where each bin begins among them; what is left over at the end is no bin."""
    used1 = np.full(first.max(initial=-1) + 1, -1)
    used2 = np.full(second.max(initial=-1) + 1, -1)
    chosen: list[int] = []
    starts: list[int] = []
    begun, number, last = 0, 0, -np.inf
    for pair, (i, j, lag) in enumerate(zip(first.tolist(), second.tolist(), lags.tolist(), strict=True)):
        if len(chosen) - begun >= least_pairs and lag > last + same:
            starts.append(begun)
            begun, number = len(chosen), number + 1
        if used1[i] == number or used2[j] == number:
            continue
        used1[i] = used2[j] = number
        chosen.append(pair)
        last = lag
    if len(chosen) - begun >= least_pairs:
        starts.append(begun)
    else:
        del chosen[begun:]
    return np.array(chosen, int), np.array(starts, int)


def randomised_lags(
    curve1: tuple[np.ndarray, np.ndarray, np.ndarray],
    curve2: tuple[np.ndarray, np.ndarray, np.ndarray],
    max_lag: float,
    *,
    n_realisations: int = 1000,
    seed: int = 0,
) -> LagDistribution:
    """Lags of light curves with fluxes drawn from their errors and random subsets of points.

    Peterson et al. 1998, PASP 110, 660. Each realisation draws as many points as there are, with replacement; a point
    that is drawn k times counts once, with its error divided by sqrt(k) (Welsh 1999, PASP 111, 1347). One light curve
    is correlated with the other, linearly interpolated, at lags a quarter of the usual step of the data apart; the
    mean over which of the two is interpolated counts. Nothing is interpolated across gaps of the data. Lags with less
    than a tenth of the pairs of the fullest lag do not count: their correlation is high by chance. The centroid is
    that of the correlation around its peak above 0.8 of the peak.

    Parameters
    ----------
    curve1, curve2 : (time, flux, flux_err), each ndarray
        Any times.
    max_lag : float
        Lags are looked for up to this; less than half a period of a periodic signal.
    n_realisations : int
        Number of randomised light curves.
    seed : int
        Seed of the random numbers; the same seed gives the same result.

    Returns
    -------
    LagDistribution
        Lags are positive when the second lags the first. Their 16th and 84th percentiles are 1-sigma errors, which are
        known to be cautious.
    """
    resolution = 0.25 * max(sampling_step(curve1[0]), sampling_step(curve2[0]))
    n_lags = int(np.floor(max_lag / resolution + 1e-9))
    lags = resolution * np.arange(-n_lags, n_lags + 1)
    intervals = [good_time_intervals(curve[0]) for curve in (curve1, curve2)]
    rng = np.random.default_rng(seed)
    peaks, centroids = np.full(n_realisations, np.nan), np.full(n_realisations, np.nan)
    for row in range(n_realisations):
        drawn1, drawn2 = _randomised(curve1, rng), _randomised(curve2, rng)
        values = _mean_of_known(
            _interpolated_correlation(*drawn1, *drawn2, intervals[1], lags),
            _interpolated_correlation(*drawn2, *drawn1, intervals[0], -lags),
        )
        peaks[row], centroids[row] = _peak_and_centroid(lags, values)
    return LagDistribution(peaks, centroids)


def _randomised(
    curve: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Times and fluxes of a random subset with random errors."""
    time, flux, error = curve
    counts = np.bincount(rng.integers(0, len(time), len(time)), minlength=len(time))
    kept = counts > 0
    noise = rng.standard_normal(np.count_nonzero(kept)) * error[kept] / np.sqrt(counts[kept])
    return time[kept], flux[kept] + noise


def _interpolated_correlation(
    time1: np.ndarray, flux1: np.ndarray, time2: np.ndarray, flux2: np.ndarray, intervals: np.ndarray, lags: np.ndarray
) -> np.ndarray:
    """Correlation of the first with the second, interpolated at the first's times plus each lag inside of intervals.

    NaN at lags with too few pairs.
    """
    at = time1 + lags[:, None]
    place = np.searchsorted(intervals[:, 0], at, side="right") - 1
    inside = (place >= 0) & (at <= intervals[np.maximum(place, 0), 1]) & (at >= time2[0]) & (at <= time2[-1])
    y = np.where(inside, np.interp(at, time2, flux2 - flux2.mean()), 0.0)
    x = np.where(inside, flux1 - flux1.mean(), 0.0)
    sums = ((x * y).sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1))
    counts = inside.sum(axis=1)
    return np.where(counts >= LEAST_SHARE * counts.max(), _coefficient(counts, *sums), np.nan)


def _mean_of_known(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mean of two arrays where both are known, else the one that is; NaN where none is."""
    only = np.where(np.isfinite(first), first, second)
    return np.where(np.isfinite(first) & np.isfinite(second), 0.5 * (first + second), only)


def _peak_and_centroid(lags: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Lag of the highest value, and mean lag of the values around it, NaN when it is at an end of those known."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return np.nan, np.nan
    filled = np.where(np.isfinite(values), values, -np.inf)
    top = int(np.argmax(filled))
    if top in (known[0], known[-1]) or filled[top] <= 0:
        return np.nan, np.nan
    low = top
    while low > 0 and filled[low - 1] >= _CENTROID_ABOVE * filled[top]:
        low -= 1
    high = top
    while high < len(lags) - 1 and filled[high + 1] >= _CENTROID_ABOVE * filled[top]:
        high += 1
    around = slice(low, high + 1)
    return float(lags[top]), float(np.sum(lags[around] * filled[around]) / np.sum(filled[around]))
