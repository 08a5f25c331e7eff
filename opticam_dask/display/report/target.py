"""First section of a report: periods in the light curves of the targets, and the fits that were made to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from opticam_dask.display.report.records import FittedSeries, FittedShape, FoldedCurve, Period, RelativeCurve
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.fitting.red_noise import time_averaging_beta
from opticam_dask.kernels.series import folding, lightcurve
from opticam_dask.kernels.units import HOURS_PER_DAY, SECONDS_PER_DAY
from opticam_dask.lightcurves import results
from opticam_dask.lightcurves.fitting import outcome

#: A period is told when noise alone makes a peak as high as its own less often than this.
_CHANCE = 1e-3
#: Points of a periodogram in the page.
_POWERS = 1500
#: Bins of a folded light curve.
_BINS = 40
#: Points of a periodogram in a peak of the shortest width, that of the whole series.
_PER_PEAK = 5
#: Frequencies that a periodogram is drawn at, at most.
_MOST_FREQUENCIES = 200_000
#: Red noise is judged on the time scale of this share of a period.
_PART_OF_PERIOD = 0.25
#: Light curves with more points than this are not searched for periods: the page is to be made in seconds.
_MOST_POINTS = 400_000


# ---------------------------------------------------------------- periods


def periods(out_directory: str | Path, curves: Sequence[RelativeCurve]) -> list[Period]:
    """Significant periods of the light curves that are kept in the store, all cameras of a name together.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    curves : sequence of RelativeCurve
        Light curves of the report.
    """
    keys_of: dict[str, list[str]] = {}
    for curve in curves:
        keys_of.setdefault(curve.name, []).append(curve.key)
    found = []
    for name, keys in keys_of.items():
        opened = {key: results.differential_light_curves(out_directory, key)[name].load() for key in keys}
        if (period := period_of(name, opened)) is not None:
            found.append(period)
    return found


def period_of(name: str, curves: Mapping[str, xr.Dataset]) -> Period | None:
    """Period that the light curves of all cameras have in common; None where there is no significant one.

    The highest peak of the Lomb-Scargle periodogram counts when white noise makes one as high less often than once in
    a thousand series. Where the residuals about the sinusoid scatter together on a quarter of the period, only so many
    points count as independent as have the scatter of their means (time-averaging factor of the red noise).
    """
    series = {key: one for key, curve in curves.items() if len((one := _points(curve))[0])}
    if not series:
        return None
    time, flux, error = (np.concatenate(columns) for columns in zip(*series.values(), strict=True))
    order = np.argsort(time, kind="stable")
    time, flux, error = time[order], flux[order], error[order]
    if len(time) > _MOST_POINTS:
        return None
    try:
        peak = lightcurve.lomb_scargle_peak(time, flux, error)
        fitted = lightcurve.fit_sinusoid(time, flux, error, peak.frequency)
    except ValueError:  # too few points, or none that differs
        return None
    wave = np.sin(2.0 * np.pi * peak.frequency * time + fitted.phase)
    sinusoid = fitted.offset * (1.0 + fitted.amplitude * wave)
    beta = time_averaging_beta(time, flux - sinusoid, _PART_OF_PERIOD / peak.frequency)
    chance = _chance(peak, len(time), beta)
    if chance > _CHANCE:
        return None
    frequency, power = _periodogram(time, flux, error, peak.frequency)
    period = 1.0 / peak.frequency
    folded = {key: _folded(*one, period) for key, one in series.items()}
    scale = "BMJD (TDB)" if all(_has_bmjd(curve) for curve in curves.values()) else "MJD (UTC)"
    return Period(name, period, chance, beta, frequency / SECONDS_PER_DAY, power, folded, scale)


def _has_bmjd(curve: xr.Dataset) -> bool:
    return bool(np.isfinite(curve["bmjd_tdb"]).all())


def _points(curve: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time in days, flux over its median, and error of the points that are known and no outliers."""
    time = curve["bmjd_tdb" if _has_bmjd(curve) else "mjd_utc"].to_numpy()
    flux, error = (curve[name].to_numpy() for name in ("relative_flux", "relative_flux_err"))
    is_outlier = (curve["flags"].to_numpy() & np.uint32(SourceFlag.OUTLIER)) != 0
    used = np.isfinite(time) & np.isfinite(flux) & (error > 0) & ~is_outlier
    level = float(np.median(flux[used])) if used.any() else 1.0
    return time[used], flux[used] / level, error[used] / level


def _chance(peak: lightcurve.Peak, n_points: int, beta: float) -> float:
    """False-alarm probability with ``n_points / beta**2`` independent points in place of all."""
    left = max(1.0 - peak.power, np.finfo(float).tiny)
    fewer = (n_points - n_points / beta**2) / 2.0
    return float(min(1.0, np.exp(np.log(max(peak.false_alarm_probability, 1e-300)) - fewer * np.log(left))))


def _periodogram(time: np.ndarray, flux: np.ndarray, error: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequency (cycles a day) and power, of each group of neighbouring frequencies the highest."""
    from astropy.timeseries import LombScargle  # half a second

    span = float(np.ptp(time))
    high = max(0.5 / float(np.median(np.diff(np.unique(time)))), 1.1 * peak)
    n_frequencies = int(min(_MOST_FREQUENCIES, max(_POWERS, _PER_PEAK * high * span)))
    frequency = np.linspace(high / n_frequencies, high, n_frequencies)
    power = LombScargle(time - time[0], flux, error).power(frequency)
    starts = np.arange(0, n_frequencies, -(-n_frequencies // _POWERS))
    return frequency[starts], np.maximum.reduceat(power, starts)


def _folded(time: np.ndarray, flux: np.ndarray, error: np.ndarray, period: float) -> FoldedCurve:
    bins = folding.phase_bins(folding.fold(time, period), flux, error, _BINS, scale_errors=True)
    known = np.isfinite(bins.flux)
    return FoldedCurve(bins.phase[known], bins.flux[known], bins.flux_err[known])


# ---------------------------------------------------------------- fits


def fits(out_directory: str | Path, keys: Sequence[str]) -> list[FittedShape]:
    """Fits that are kept in the store, without repetition: a fit of several cameras is stored with each of them."""
    found: dict[str, FittedShape] = {}
    for key in keys:
        for name, fit in outcome.fits_in_store(out_directory, key).items():
            if name not in found:
                found[name] = _fitted_shape(name, fit)
    return list(found.values())


def _fitted_shape(name: str, fit: xr.Dataset) -> FittedShape:
    units = [str(unit) for unit in fit["unit"].to_numpy()]
    rows = []
    for parameter, unit in zip(fit["parameter"].to_numpy().tolist(), units, strict=True):
        value, error = outcome.value_of(fit, parameter)
        rows.append((str(parameter), outcome.rounded(value, error).replace("+-", "±"), unit))
    n_rows = len(rows)
    return FittedShape(name, str(fit.attrs["shape"]), rows, outcome.describe(fit)[n_rows:], _fitted_series(fit))


def _fitted_series(fit: xr.Dataset) -> list[FittedSeries]:
    """Points of the fit, one series a camera and night."""
    keys, nights = fit["key"].to_numpy().astype(str), fit["night"].to_numpy().astype(str)
    found = []
    for key, night in dict.fromkeys(zip(keys.tolist(), nights.tolist(), strict=True)):
        one = fit.isel(point=np.flatnonzero((keys == key) & (nights == night)))
        time = one["bjd"].to_numpy()
        zero = float(np.floor(10.0 * np.median(time)) / 10.0)
        flux, error, model = (one[name].to_numpy() for name in ("relative_flux", "relative_flux_err", "model"))
        hours, used = HOURS_PER_DAY * (time - zero), one["is_fitted"].to_numpy().astype(bool)
        found.append(FittedSeries(key, night, zero, hours, flux, error, model, used))
    return found
