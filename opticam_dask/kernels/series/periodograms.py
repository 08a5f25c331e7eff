"""Lomb-Scargle periodograms of one and of several bands, their false alarms, and frequencies with errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from astropy.timeseries import LombScargle

from opticam_dask.kernels.series.lightcurve import SinusoidFit, fit_sinusoid
from opticam_dask.kernels.series.spectra import sampling_step

LombScargleNorm = Literal["frac", "abs", "standard"]
FalseAlarm = Literal["baluev", "davies", "naive", "bootstrap"]

#: Frequencies of a default grid per independent frequency,
_PER_PEAK = 10
#: and at most in all.
_MAX_FREQUENCIES = 2_000_000


@dataclass(frozen=True)
class Periodogram:
    """Lomb-Scargle periodogram.

    Attributes
    ----------
    frequency, power : ndarray, shape (frequency,)
        Frequencies in hertz, and the power at each.
    false_alarm_level : ndarray
        Power that white noise exceeds anywhere on the grid with each of the false-alarm probabilities asked for.
    peak_frequency, peak_probability : float
        Of the highest peak: refined between the frequencies of the grid, and its false-alarm probability.
    """

    frequency: np.ndarray
    power: np.ndarray
    false_alarm_level: np.ndarray
    peak_frequency: float
    peak_probability: float


@dataclass(frozen=True)
class FrequencyFit:
    """Sinusoid of free frequency, with the error of the frequency."""

    frequency: float
    frequency_err: float
    sinusoid: SinusoidFit


def frequency_grid(times: Sequence[np.ndarray]) -> np.ndarray:
    """Even grid with ten frequencies for each independent one.

    It runs from one cycle in the whole series to half of the inverse of the shortest usual step
    (``spectra.sampling_step``).

    Parameters
    ----------
    times : sequence of ndarray
        Ascending times of each light curve.

    Raises
    ------
    ValueError
        When the times are too few for any frequency, or need too many of them.
    """
    span = float(max(time[-1] for time in times) - min(time[0] for time in times))
    step = min(sampling_step(time) for time in times)
    if not span > 2.0 * step:
        raise ValueError(f"expected times over more than two steps of {step:g} s, found {span:g} s: give frequencies")
    low, high = 1.0 / span, 0.5 / step
    size = int(np.ceil((high - low) * span * _PER_PEAK)) + 1
    if size > _MAX_FREQUENCIES:
        raise ValueError(f"{size:.1e} frequencies between {low:g} and {high:g} Hz are too many: give frequencies")
    return np.linspace(low, high, size)


def lomb_scargle(
    time: np.ndarray,
    flux: np.ndarray,
    flux_err: np.ndarray,
    frequency: np.ndarray,
    norm: LombScargleNorm = "frac",
    *,
    probabilities: Sequence[float] = (0.1, 0.01, 0.001),
    method: FalseAlarm = "baluev",
    n_bootstraps: int = 1000,
    seed: int = 0,
) -> Periodogram:
    """Lomb-Scargle periodogram with floating mean, weighted by the errors (VanderPlas 2018, ApJS 236, 16).

    Parameters
    ----------
    time, flux, flux_err : ndarray, shape (n,)
        Ascending times in seconds; finite fluxes with errors above zero.
    frequency : ndarray
        Ascending, in hertz.
    norm : {"frac", "abs", "standard"}
        ``standard``: share of the chi-squared about the mean that the sinusoid removes. ``frac``: squared fractional
        rms per hertz, ``abs``: squared flux per hertz; for an evenly sampled light curve with equal errors and at the
        Fourier frequencies those of a classical periodogram.
    probabilities : sequence of float
        False-alarm probabilities whose levels are wanted.
    method : {"baluev", "davies", "naive", "bootstrap"}
        Method of astropy; ``baluev`` is an upper limit (Baluev 2008, MNRAS 385, 1279) and takes no time, ``bootstrap``
        draws fluxes with their errors from the measured ones, with replacement, at the same times.
    n_bootstraps, seed : int
        Number of light curves that are drawn, and the seed of their random numbers.

    Returns
    -------
    Periodogram

    Raises
    ------
    ValueError
        With fewer than 8 points, a flux that does not vary, or an unknown norm or method.
    """
    if norm not in get_args(LombScargleNorm) or method not in get_args(FalseAlarm):
        raise ValueError(
            f"norm must be one of {', '.join(get_args(LombScargleNorm))} and method one of "
            f"{', '.join(get_args(FalseAlarm))}, got {norm!r} and {method!r}"
        )
    if len(time) < 8 or np.ptp(flux) == 0:
        raise ValueError(f"a periodogram needs at least 8 points that differ, got {len(time)}")
    periodogram = LombScargle(time - time[0], flux, flux_err)
    standard = np.clip(periodogram.power(frequency), 0.0, 1.0)
    options = {"n_bootstraps": n_bootstraps, "random_seed": seed} if method == "bootstrap" else {}
    limits = {"minimum_frequency": float(frequency[0]), "maximum_frequency": float(frequency[-1])}
    levels = np.array(
        [
            periodogram.false_alarm_level(probability, method=method, method_kwds=options, **limits)
            for probability in probabilities
        ]
    )
    peak, peak_power = _refined(lambda at, how: periodogram.power(at, method=how), frequency, standard)
    chance = periodogram.false_alarm_probability(peak_power, method=method, method_kwds=options, **limits)
    scale = _standard_scale(time, flux, flux_err, norm)
    return Periodogram(frequency, standard * scale, levels * scale, peak, float(chance))


def _standard_scale(time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, norm: LombScargleNorm) -> float:
    """Power of a norm where the standard one is 1."""
    if norm == "standard":
        return 1.0
    weight = flux_err**-2.0 / np.sum(flux_err**-2.0)
    mean = float(np.sum(weight * flux))
    variance = float(np.sum(weight * (flux - mean) ** 2))
    scale = variance * len(time) * sampling_step(time)
    if norm == "abs":
        return scale
    if mean == 0:
        raise ValueError('norm "frac" divides by the mean flux, which is 0: choose norm "abs"')
    return scale / mean**2


def _refined(
    power_at: Callable[[np.ndarray, str], np.ndarray], frequency: np.ndarray, power: np.ndarray
) -> tuple[float, float]:
    """Highest power, and its frequency, between the neighbours of the highest on the grid."""
    top = int(np.argmax(power))
    fine = np.linspace(frequency[max(top - 1, 0)], frequency[min(top + 1, len(frequency) - 1)], 101)
    values = power_at(fine, "slow")
    best = int(np.argmax(values))
    return float(fine[best]), float(np.clip(values[best], 0.0, 1.0))


def fit_frequency(
    time: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, frequency: float, *, scale_errors: bool = False
) -> FrequencyFit:
    """Fit a sinusoid of free frequency near a known one, by least squares.

    Its errors are those of all four parameters together. For even sampling they are the ones of Montgomery &
    O'Donoghue (1999, DSSN 13, 28): ``sqrt(6 / N) err / (pi T amplitude)``.

    Parameters
    ----------
    time, flux, flux_err : ndarray, shape (n,)
        Times in seconds, fluxes and their errors.
    frequency : float
        From a periodogram.
    scale_errors : bool
        Multiply all errors by the square root of the reduced chi-squared, where that is above 1.

    Returns
    -------
    FrequencyFit
        The frequency stays within half an independent frequency of the one that was given; its error is infinite when
        there is no signal. The phase of the sinusoid is that at ``time = 0``.

    Raises
    ------
    ValueError
        With fewer than 5 points.
    """
    if len(time) < 5:
        raise ValueError(f"a frequency needs at least 5 points, got {len(time)}")
    middle, span = 0.5 * float(time[0] + time[-1]), float(time[-1] - time[0])
    since = time - middle
    found, curvature = float(frequency), 0.0
    for _ in range(20):
        design, residual = _linearised(since, flux, flux_err, found)
        normal = design.T @ design
        if np.linalg.cond(normal) > 1e14:
            break
        covariance = np.linalg.inv(normal)
        curvature = float(covariance[3, 3])
        change = float((covariance @ (design.T @ residual))[3])
        change = float(np.clip(change, -0.1 / span, 0.1 / span))
        found = float(np.clip(found + change, frequency - 0.5 / span, frequency + 0.5 / span))
        if abs(change) < 1e-9 / span:
            break
    sinusoid = fit_sinusoid(time, flux, flux_err, found)
    error = float(np.sqrt(curvature)) if curvature > 0 else np.inf
    if scale_errors:
        scale = float(np.sqrt(max(sinusoid.chi2 / max(sinusoid.n_points - 4, 1), 1.0)))
        error *= scale
        sinusoid = replace(
            sinusoid, amplitude_err=scale * sinusoid.amplitude_err, phase_err=scale * sinusoid.phase_err,
            offset_err=scale * sinusoid.offset_err,
        )  # fmt: skip
    return FrequencyFit(found, error, sinusoid)


def _linearised(
    since: np.ndarray, flux: np.ndarray, flux_err: np.ndarray, frequency: float
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives by sine, cosine, offset and frequency, and residuals of the best sinusoid, over the errors."""
    argument = 2.0 * np.pi * frequency * since
    sine, cosine = np.sin(argument), np.cos(argument)
    linear = np.column_stack([sine, cosine, np.ones(len(since))]) / flux_err[:, None]
    best = np.linalg.lstsq(linear, flux / flux_err, rcond=None)[0]
    by_frequency = 2.0 * np.pi * since * (best[0] * cosine - best[1] * sine) / flux_err
    return np.column_stack([linear, by_frequency]), flux / flux_err - linear @ best


def multiband_lomb_scargle(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    frequency: np.ndarray,
    *,
    probabilities: Sequence[float] = (0.1, 0.01, 0.001),
    n_bootstraps: int = 0,
    seed: int = 0,
) -> Periodogram:
    """Lomb-Scargle periodogram of several bands with one frequency and phases of their own.

    The "multi-phase" model of VanderPlas & Ivezic (2015, ApJ 812, 18): ``LombScargleMultiband(..., nterms_base=0,
    nterms_band=1)`` of astropy with ``method="flexible"``. Its ``method="fast"`` weights the bands by the squares of
    their powers instead of their chi-squared.

    Parameters
    ----------
    curves : dict of (time, flux, flux_err)
        Light curves by band.
    frequency : ndarray
        Ascending, in hertz.
    probabilities : sequence of float
        Probabilities whose powers are given as levels.
    n_bootstraps : int
        Light curves with the fluxes of each band shuffled, for false-alarm levels; with 0 these are NaN, as no formula
        is known.
    seed : int
        Seed of the random numbers; the same seed gives the same result.

    Returns
    -------
    Periodogram
        Power is the share of the chi-squared that the sinusoids remove.
    """
    power_at = _shared_power(list(curves.values()))
    power = power_at(frequency, "auto")
    peak, peak_power = _refined(power_at, frequency, power)
    rng = np.random.default_rng(seed)
    highest = np.empty(n_bootstraps)
    for row in range(n_bootstraps):
        shuffled = [(time, flux[order], flux_err[order]) for time, flux, flux_err, order in _orders(curves, rng)]
        highest[row] = _shared_power(shuffled)(frequency, "auto").max()
    levels = np.full(len(probabilities), np.nan)
    chance = np.nan
    if n_bootstraps:
        levels = np.quantile(highest, 1.0 - np.asarray(probabilities))
        chance = (1.0 + np.count_nonzero(highest >= peak_power)) / (1.0 + n_bootstraps)
    return Periodogram(frequency, power, levels, peak, float(chance))


def _orders(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    return [(*curve, rng.permutation(len(curve[0]))) for curve in curves.values()]


def _shared_power(
    curves: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> Callable[[np.ndarray, str], np.ndarray]:
    """Powers of the bands, averaged with their chi-squared about their means as weights."""
    start = min(float(time[0]) for time, _, _ in curves)
    members = []
    for time, flux, flux_err in curves:
        mean = np.average(flux, weights=flux_err**-2.0)
        members.append((float(np.sum(((flux - mean) / flux_err) ** 2)), LombScargle(time - start, flux, flux_err)))
    total = sum(chi2 for chi2, _ in members)

    def power_at(frequency: np.ndarray, method: str) -> np.ndarray:
        return np.asarray(sum(chi2 * band.power(frequency, method=method) for chi2, band in members)) / total

    return power_at
