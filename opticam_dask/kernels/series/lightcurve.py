"""Differential light curves and periodic signals from arrays over frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from astropy.timeseries import LombScargle

#: Steps of a periodogram in units of 1 / (length of the series): ten points across a peak.
_FREQUENCY_STEP = 0.1
#: Frequencies that are worked on at a time, to bound memory.
_FREQUENCIES_AT_ONCE = 1 << 18
#: More frequencies than this take hours: a range has to be given.
_MAX_FREQUENCIES = 50_000_000
#: Two columns of a fit are the same when the condition number of the scaled design exceeds this.
_MAX_CONDITION = 1e6


def relative_flux(
    target: np.ndarray, target_err: np.ndarray, comparisons: np.ndarray, comparisons_err: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Flux of a target divided by the summed flux of its comparisons, with the error propagated.

    Parameters
    ----------
    target, target_err : ndarray, shape (frame,)
        Fluxes of the target and their errors.
    comparisons, comparisons_err : ndarray, shape (frame, k)
        Fluxes of the comparison stars and their errors.

    Returns
    -------
    relative, relative_err : ndarray, shape (frame,)
        NaN where the target or any comparison has no flux: a sum over fewer comparisons would be another curve.

    Raises
    ------
    ValueError
        When the shapes do not fit together.
    """
    n_frames = np.shape(target)[:1]
    fits = np.shape(target_err) == np.shape(target) == n_frames and np.shape(comparisons_err) == np.shape(comparisons)
    if not fits or np.ndim(comparisons) != 2 or np.shape(comparisons)[:1] != n_frames:
        raise ValueError(
            "target and target_err must have shape (frame,), comparisons and comparisons_err shape (frame, k), got "
            f"{np.shape(target)}, {np.shape(target_err)}, {np.shape(comparisons)}, {np.shape(comparisons_err)}"
        )
    total, total_err = comparisons.sum(axis=1), np.sqrt(np.sum(comparisons_err**2, axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = target / total
        error = np.hypot(target_err, relative * total_err) / np.abs(total)
    # a flux over an infinite sum would be a finite zero
    unusable = ~np.isfinite(relative) | ~np.isfinite(error) | ~np.isfinite(total)
    return np.where(unusable, np.nan, relative), np.where(unusable, np.nan, error)


@dataclass(frozen=True)
class SinusoidFit:
    """``offset (1 + amplitude sin(2 pi frequency t + phase))`` with 1-sigma errors.

    The phase is in radians at ``t = 0``; ``amplitude`` is a fraction of ``offset``. An error that is not defined
    (the phase of no signal, a fraction of zero) is infinite.
    """

    amplitude: float
    phase: float
    offset: float
    amplitude_err: float
    phase_err: float
    offset_err: float
    chi2: float
    n_points: int


def fit_sinusoid(time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, frequency: float) -> SinusoidFit:
    """Fit a sinusoid of known frequency by weighted linear least squares in sine, cosine and a constant.

    Parameters
    ----------
    time : ndarray, shape (frame,)
        Times of the frames.
    flux, flux_err : ndarray, shape (frame,)
        Points that are NaN or have no positive error do not count.
    frequency : float
        Cycles per unit of ``time``.

    Returns
    -------
    SinusoidFit

    Raises
    ------
    ValueError
        With fewer than four usable points, or when the times cannot tell the sinusoid from a constant.
    """
    used = _usable(time, flux, flux_err)
    if np.count_nonzero(used) < 4:
        raise ValueError(f"a sinusoid needs at least 4 usable points, got {np.count_nonzero(used)}")
    argument = 2.0 * np.pi * frequency * time[used]
    design = np.column_stack([np.sin(argument), np.cos(argument), np.ones(len(argument))]) / flux_err[used, None]
    lengths = np.sqrt(np.sum(design**2, axis=0))
    if np.any(lengths == 0) or np.linalg.cond(design / lengths) > _MAX_CONDITION:
        raise ValueError(
            f"a sinusoid of frequency {frequency:g} cannot be told from a constant at these times; "
            "expected times that sample several phases of it"
        )
    values = flux[used] / flux_err[used]
    covariance = np.linalg.inv(design.T @ design)
    sine, cosine, offset = covariance @ (design.T @ values)
    residuals = values - design @ np.array([sine, cosine, offset])
    amplitude, amplitude_err, phase_err = _polar_errors(float(sine), float(cosine), float(offset), covariance)
    return SinusoidFit(
        amplitude=amplitude,
        phase=float(np.arctan2(cosine, sine)),
        offset=float(offset),
        amplitude_err=amplitude_err,
        phase_err=phase_err,
        offset_err=float(np.sqrt(covariance[2, 2])),
        chi2=float(residuals @ residuals),
        n_points=int(np.count_nonzero(used)),
    )


def _polar_errors(sine: float, cosine: float, offset: float, covariance: np.ndarray) -> tuple[float, float, float]:
    """Relative amplitude, its error and the error of the phase, to first order in the covariance."""
    length = float(np.hypot(sine, cosine))
    if length == 0 or offset == 0:
        return (0.0 if length == 0 else np.inf), np.inf, np.inf
    amplitude = length / offset
    by_amplitude = np.array([sine / length, cosine / length, -amplitude]) / offset
    by_phase = np.array([-cosine, sine, 0.0]) / length**2
    amplitude_err = np.sqrt(by_amplitude @ covariance @ by_amplitude)
    return amplitude, float(amplitude_err), float(np.sqrt(by_phase @ covariance @ by_phase))


@dataclass(frozen=True)
class Peak:
    """Highest peak of a periodogram."""

    frequency: float
    power: float
    false_alarm_probability: float


def lomb_scargle_peak(time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray) -> Peak:
    """Highest peak of the Lomb-Scargle periodogram with a floating mean (VanderPlas 2018, ApJS 236, 16).

    Its frequencies are those from two cycles in the whole series to half of the inverse of the median step.

    Parameters
    ----------
    time : ndarray, shape (frame,)
        In seconds for a frequency in hertz.
    flux, flux_err : ndarray, shape (frame,)
        Points that are NaN or have no positive error do not count.

    Returns
    -------
    Peak
        ``power`` is the share of the chi-squared about the mean that the sinusoid removes, 0 to 1.
        ``false_alarm_probability`` is the upper limit of Baluev (2008, MNRAS 385, 1279) for white noise.

    Raises
    ------
    ValueError
        With fewer than eight usable points, a flux or time that does not vary, or a step that is too short or too long.
    """
    used = _usable(time, flux, flux_err)
    if np.count_nonzero(used) < 8:
        raise ValueError(f"a periodogram needs at least 8 usable points, got {np.count_nonzero(used)}")
    times = time[used] - time[used].min()
    if np.ptp(flux[used]) == 0 or np.ptp(times) == 0:
        raise ValueError("a periodogram needs times and fluxes that differ, got the same one at every point")
    span = float(times.max())
    low, high = _frequency_range(times)
    from astropy.timeseries import LombScargle  # half a second

    periodogram = LombScargle(times, flux[used], flux_err[used])
    best = _highest(periodogram, low, high, _FREQUENCY_STEP / span)
    start, stop = max(low, best - _FREQUENCY_STEP / span), min(high, best + _FREQUENCY_STEP / span)
    fine = np.linspace(start, stop, 401)
    fine_power = periodogram.power(fine, method="cython")  # exact, where the fast one interpolates
    peak = int(np.argmax(fine_power))
    # rounding may exceed the bounds of a share
    power = float(np.clip(fine_power[peak], 0.0, 1.0))
    probability = periodogram.false_alarm_probability(power, minimum_frequency=low, maximum_frequency=high)
    return Peak(float(fine[peak]), power, float(probability))


def _frequency_range(times: np.ndarray) -> tuple[float, float]:
    span = float(np.ptp(times))
    steps = np.diff(np.sort(times))
    low, high = 2.0 / span, 0.5 / float(np.median(steps[steps > 0]))
    if not 0 < low < high:
        raise ValueError(
            f"no frequency has two cycles in the whole series, {low:g}, and is below {high:g}, half of the "
            "inverse of the median step"
        )
    n_frequencies = (high - low) * span / _FREQUENCY_STEP
    if n_frequencies > _MAX_FREQUENCIES:
        raise ValueError(
            f"{n_frequencies:.1e} frequencies between {low:g} and {high:g} are too many for a series of length "
            f"{span:g} with such short steps"
        )
    return low, high


def _highest(periodogram: LombScargle, low: float, high: float, step: float) -> float:
    """Frequency with the highest power on a regular grid, which is worked through in pieces."""
    n_frequencies = int((high - low) / step) + 1
    best, best_power = low, -np.inf
    for first in range(0, n_frequencies, _FREQUENCIES_AT_ONCE):
        frequencies = low + step * np.arange(first, min(first + _FREQUENCIES_AT_ONCE, n_frequencies))
        power = periodogram.power(frequencies, assume_regular_frequency=True)
        if power.max() > best_power:
            best, best_power = float(frequencies[np.argmax(power)]), float(power.max())
    return best


def reduced_chi2(flux: np.ndarray, flux_err: np.ndarray) -> float:
    """Chi-squared per degree of freedom about the weighted mean; NaN with fewer than two points."""
    used = _usable(flux, flux, flux_err)
    if np.count_nonzero(used) < 2:
        return float("nan")
    weights = flux_err[used] ** -2
    mean = np.sum(weights * flux[used]) / np.sum(weights)
    return float(np.sum(weights * (flux[used] - mean) ** 2) / (np.count_nonzero(used) - 1))


def _usable(time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray) -> np.ndarray:
    return np.isfinite(time) & np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
