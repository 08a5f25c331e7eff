"""Differential light curves and periodic signals from arrays over frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.timeseries import LombScargle


def relative_flux(
    target: np.ndarray, target_err: np.ndarray, comparisons: np.ndarray, comparisons_err: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flux of a target divided by the summed flux of its comparisons, with the error propagated.

    Parameters
    ----------
    target, target_err : ndarray, shape (frame,)
    comparisons, comparisons_err : ndarray, shape (frame, k)

    Returns
    -------
    relative, relative_err : ndarray, shape (frame,)
        NaN where the target or any comparison has no flux: a sum over fewer comparisons would be another curve.
    """
    total, total_err = comparisons.sum(axis=1), np.sqrt(np.sum(comparisons_err**2, axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = target / total
        error = np.hypot(target_err, relative * total_err) / np.abs(total)
    unusable = ~np.isfinite(relative) | ~np.isfinite(error)
    return np.where(unusable, np.nan, relative), np.where(unusable, np.nan, error)


@dataclass(frozen=True)
class SinusoidFit:
    """``offset (1 + amplitude sin(2 pi frequency t + phase))`` with 1-sigma errors; the phase is in radians."""

    amplitude: float
    phase: float
    offset: float
    amplitude_err: float
    phase_err: float
    offset_err: float
    chi2: float
    n_points: int


def fit_sinusoid(time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, frequency: float) -> SinusoidFit:
    """Fit a sinusoid of known frequency by weighted linear least squares.

    Parameters
    ----------
    time : ndarray, shape (frame,)
    flux, flux_err : ndarray, shape (frame,)
        NaN values do not count.
    frequency : float
        Cycles per unit of ``time``.

    Returns
    -------
    SinusoidFit

    Raises
    ------
    ValueError
        With fewer than four usable points.
    """
    used = np.isfinite(time) & np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    if np.count_nonzero(used) < 4:
        raise ValueError(f"a sinusoid needs at least 4 usable points, got {np.count_nonzero(used)}")
    argument = 2.0 * np.pi * frequency * time[used]
    design = np.column_stack([np.sin(argument), np.cos(argument), np.ones(len(argument))]) / flux_err[used, None]
    values = flux[used] / flux_err[used]
    covariance = np.linalg.inv(design.T @ design)
    sine, cosine, offset = covariance @ (design.T @ values)
    amplitude = np.hypot(sine, cosine)
    along = np.array([sine, cosine]) / amplitude
    across = np.array([-cosine, sine]) / amplitude
    block = covariance[:2, :2]
    residuals = values - design @ np.array([sine, cosine, offset])
    return SinusoidFit(
        amplitude=float(amplitude / offset),
        phase=float(np.arctan2(cosine, sine)),
        offset=float(offset),
        amplitude_err=float(np.sqrt(along @ block @ along) / abs(offset)),
        phase_err=float(np.sqrt(across @ block @ across) / amplitude),
        offset_err=float(np.sqrt(covariance[2, 2])),
        chi2=float(residuals @ residuals),
        n_points=int(np.count_nonzero(used)),
    )


@dataclass(frozen=True)
class Peak:
    """Highest peak of a periodogram."""

    frequency: float
    power: float
    false_alarm_probability: float


def lomb_scargle_peak(
    time: np.ndarray,
    flux: np.ndarray,
    flux_err: np.ndarray,
    *,
    minimum_frequency: float | None = None,
    maximum_frequency: float | None = None,
) -> Peak:
    """Highest peak of the Lomb-Scargle periodogram with a floating mean (VanderPlas 2018, ApJS 236, 16).

    Parameters
    ----------
    time : ndarray, shape (frame,)
    flux, flux_err : ndarray, shape (frame,)
        NaN values do not count.
    minimum_frequency, maximum_frequency : float, optional
        Range in cycles per unit of ``time``; by default from two cycles in the whole series to half of the
        inverse of the median step.

    Returns
    -------
    Peak
        ``false_alarm_probability`` is Baluev's upper limit for white noise.

    Raises
    ------
    ValueError
        With fewer than eight usable points.
    """
    used = np.isfinite(time) & np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    if np.count_nonzero(used) < 8:
        raise ValueError(f"a periodogram needs at least 8 usable points, got {np.count_nonzero(used)}")
    times = time[used]
    span = times.max() - times.min()
    low = minimum_frequency or 2.0 / span
    high = maximum_frequency or 0.5 / float(np.median(np.diff(np.sort(times))))
    periodogram = LombScargle(times, flux[used], flux_err[used])
    frequencies = np.arange(low, high, 0.1 / span)
    power = periodogram.power(frequencies)
    best = frequencies[np.argmax(power)]
    fine = np.linspace(max(low, best - 0.1 / span), best + 0.1 / span, 401)
    fine_power = periodogram.power(fine)
    peak = int(np.argmax(fine_power))
    probability = periodogram.false_alarm_probability(fine_power[peak], minimum_frequency=low, maximum_frequency=high)
    return Peak(float(fine[peak]), float(fine_power[peak]), float(probability))


def reduced_chi2(flux: np.ndarray, flux_err: np.ndarray) -> float:
    """Chi-squared per degree of freedom of a light curve about its weighted mean; NaN with fewer than two points."""
    used = np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    if np.count_nonzero(used) < 2:
        return float("nan")
    weights = flux_err[used] ** -2
    mean = np.sum(weights * flux[used]) / np.sum(weights)
    return float(np.sum(weights * (flux[used] - mean) ** 2) / (np.count_nonzero(used) - 1))
