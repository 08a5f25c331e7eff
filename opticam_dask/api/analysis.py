"""Timing analyses of differential light curves: spectra, periodograms, folding, correlations and lags.

Lags are positive when the second light curve of a pair ``a x b`` lags the first. Times are in seconds, frequencies in
hertz. The formulas are in ``docs/timing.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from astropy import units
from astropy.time import Time
from astropy.units import Quantity

from opticam_dask import locations
from opticam_dask.console import PREFIX, Console
from opticam_dask.display import plotting
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.series import correlation, folding, lags, periodograms, spectra
from opticam_dask.kernels.series.lightcurve import fit_sinusoid
from opticam_dask.kernels.series.timing import good_time_intervals
from opticam_dask.lightcurves import conversions
from opticam_dask.lightcurves.timing_inputs import (
    FluxNorm,
    TimingCurve,
    find_files,
    gather,
    joined,
    normalised,
    referred_to,
    require_one_scale,
)
from opticam_dask.lightcurves.timing_results import (
    TimingResults,
    correlation_dataset,
    cross_dataset,
    lags_dataset,
    periodogram_dataset,
    power_dataset,
    scalars,
)

#: Seconds, or a quantity that can be converted to them.
Seconds: TypeAlias = float | Quantity


class Analyzer:
    """Timing analyses of the light curves of one target in several cameras.

    Parameters
    ----------
    out_directory : path, optional
        Output directory of a reduction: light curves are read from ``relative_light_curves/`` unless they are given,
        and plots go to ``plots/``. Without it nothing is saved.
    light_curves : mapping, optional
        By camera key: Datasets of :func:`~opticam_dask.relative_light_curve` (what
        :meth:`DifferentialPhotometer.get_relative_light_curve` returns), astropy ``TimeSeries``, lightkurve
        ``LightCurve``, stingray ``Lightcurve``, DataFrames with columns BMJD, rel_flux, rel_flux_err, or paths of CSV
        files. They are not changed.
    norm : {"mean", "max", "none"}
        What each light curve is divided by.
    prefix, phot_label : str, optional
        Which files, and the names of plots; may be left out where there is one.
    show_plots : bool
        Show plots in a notebook; with an output directory they are saved in any case.
    verbose : bool
        Print what happens.
    exclude_flags : int
        Frames with one of these bits of ``opticam_dask.flags.SourceFlag`` are left out, by default those that lie far
        off their neighbours; 0 keeps them. Frames without flux or error always are left out.

    Raises
    ------
    ValueError
        When no light curve is found, or one has fewer than two frames.
    TypeError
        For a light curve of an unknown kind.
    """

    def __init__(
        self,
        out_directory: str | Path | None = None,
        light_curves: Any = None,
        norm: FluxNorm = "mean",
        prefix: str | None = None,
        phot_label: str | None = None,
        show_plots: bool = True,
        *,
        verbose: bool = True,
        exclude_flags: int = int(SourceFlag.OUTLIER),
    ) -> None:
        if out_directory is not None:
            locations.require_local(out_directory, "Analyzer")
        self.out_directory = None if out_directory is None else Path(out_directory)
        if light_curves is None:
            if self.out_directory is None:
                raise ValueError("expected light_curves, or an out_directory to read them from")
            light_curves, prefix, phot_label = find_files(self.out_directory, prefix, phot_label)
        self.norm, self.prefix, self.phot_label, self.show_plots = norm, prefix, phot_label, show_plots
        self._console = Console(verbose, PREFIX)
        found = gather(light_curves, exclude_flags, self._console.tell)
        self._curves = {key: normalised(curve, norm, key) for key, curve in found.items()}

    # ------------------------------------------------------------------ light curves

    @property
    def keys(self) -> list[str]:
        """Camera keys."""
        return list(self._curves)

    @property
    def reference_mjd(self) -> float:
        """Whole day that times are seconds since, in the scale of the light curves."""
        return next(iter(self._curves.values())).reference_mjd

    @property
    def light_curves(self) -> dict[str, xr.Dataset]:
        """Normalised light curves by camera key: flux and flux_err against time in seconds since ``reference_mjd``."""
        return {key: curve.to_dataset(key) for key, curve in self._curves.items()}

    @property
    def good_time_intervals(self) -> dict[str, np.ndarray]:
        """Begin and end in seconds of each part without gaps (steps above 1.5 median steps), by camera key."""
        return {key: good_time_intervals(curve.time) for key, curve in self._curves.items()}

    def get_lc(self, key: str) -> xr.Dataset:
        """Light curve of one camera.

        Raises
        ------
        ValueError
            When there is no such camera key.
        """
        if key not in self._curves:
            raise ValueError(f"no light curve of {key!r}: there are those of {', '.join(self.keys)}")
        return self.light_curves[key]

    def join(self, other: Analyzer) -> Analyzer:
        """Analyzer with the light curves of both; those of the same camera are put together and normalised anew.

        Raises
        ------
        ValueError
            When their time scales differ.
        """
        require_one_scale([*self._curves.items(), *other._curves.items()])
        reference = min(self.reference_mjd, other.reference_mjd)
        curves = {key: referred_to(curve, reference) for key, curve in self._curves.items()}
        for key, curve in other._curves.items():
            moved = referred_to(curve, reference)
            curves[key] = joined(curves[key], moved, self.norm, key) if key in curves else moved
        return self._with({key: curves[key] for key in sorted(curves)})

    def rebin_light_curves(
        self, dt: Seconds, method: folding.Method = "mean", *, least_coverage: float = 0.5
    ) -> Analyzer:
        """Bin all light curves in time, on the same grid, in place.

        Times are those of the points in the mean (:func:`kernels.folding.time_bins`), so that cameras that expose a
        part of a frame apart stay so.

        Parameters
        ----------
        dt : Quantity or float
            Width of the bins; a float is in seconds.
        method : {"mean", "sum"}
            Mean with error ``sqrt(sum err^2) / n``; or the sum, of full bins alone.
        least_coverage : float
            Share of a bin that must lie within good time intervals for a mean.

        Returns
        -------
        Analyzer
            This one.

        Raises
        ------
        ValueError
            When the bins are narrower than the sampling; no light curve is changed then.
        """
        step = _seconds(dt, "dt")
        start = min(float(c.time[0]) - 0.5 * spectra.sampling_step(c.time) for c in self._curves.values())
        binned = {}
        for key, curve in self._curves.items():
            bins = folding.time_bins(*curve.columns, step, method, start=start, least_coverage=least_coverage)
            binned[key] = replace(curve, time=bins.time, flux=bins.flux, flux_err=bins.flux_err)
        self._curves = binned
        return self

    def plot_light_curves(self, show_gtis: bool = False) -> plotting.Figure:
        """Plot the light curves, and their good time intervals."""
        intervals = self.good_time_intervals if show_gtis else None
        figure = plotting.plot_timing_light_curves(self.light_curves, intervals)
        self._keep(figure, "light_curves")
        return figure

    def export_light_curves_to_stingray(self) -> dict[str, Any]:
        """``stingray.Lightcurve`` by camera key: seconds since ``reference_mjd``, Gaussian errors, good time intervals.

        Raises
        ------
        ImportError
            When stingray is not installed.
        """
        return {
            key: conversions.stingray_light_curve(*curve.columns, curve.reference_mjd)
            for key, curve in self._curves.items()
        }

    # ------------------------------------------------------------------ spectra

    def compute_power_spectra(self, norm: spectra.Norm = "frac", scale: plotting.Scale = "log") -> TimingResults:
        """Periodograms of whole light curves, which must be evenly sampled without gaps.

        Parameters
        ----------
        norm : {"frac", "abs", "leahy", "none"}
            See :func:`kernels.spectra.power_spectrum`.
        scale : {"linear", "log", "loglog"}
            Of the axes of the plot.

        Returns
        -------
        TimingResults
            By camera key: power, power_err and n_averaged against frequency; attribute noise_level.

        Raises
        ------
        ValueError
            When a light curve has gaps; the message says what to do.
        """
        if uneven := [key for key, curve in self._curves.items() if not spectra.is_evenly_sampled(curve.time)]:
            raise ValueError(
                f"{', '.join(uneven)}: no periodogram of the whole light curve can be had, as it has gaps or is "
                "sampled unevenly. Use compute_lomb_scargle_periodograms, or compute_averaged_power_spectra on the "
                "parts between gaps, or rebin_light_curves first"
            )
        found = {}
        for key, curve in self._curves.items():
            found[key] = power_dataset(spectra.power_spectrum(*curve.columns, len(curve.time), norm), norm, curve)
        return self._finish(found, "periodograms", lambda data: plotting.plot_spectra(data, scale))

    def compute_averaged_power_spectra(
        self,
        segment_size: Seconds,
        rebin_factor: float | None = None,
        norm: spectra.Norm = "frac",
        scale: plotting.Scale = "log",
    ) -> TimingResults:
        """Mean periodograms of the segments between gaps.

        Parameters
        ----------
        segment_size : Quantity or float
            A float is in seconds.
        rebin_factor : float, optional
            Average frequencies too, in bins that grow by ``1 + rebin_factor``.
        norm : {"frac", "abs", "leahy", "none"}
            Normalisation of the powers.
        scale : {"linear", "log", "loglog"}
            Scale of the axes of the plot.

        Returns
        -------
        TimingResults
            By camera key: power, power_err and n_averaged against frequency; attributes noise_level, n_segments.

        Raises
        ------
        ValueError
            When no part without gaps is as long as a segment.
        """
        length, found = _seconds(segment_size, "segment_size"), {}
        for key, curve in self._curves.items():
            spectrum = spectra.power_spectrum(*curve.columns, spectra.segment_points(curve.time, length), norm)
            self._console.tell(f"{spectrum.n_segments} {key} segments averaged.")
            if rebin_factor:
                spectrum = spectra.rebin_power(spectrum, rebin_factor)
            found[key] = power_dataset(spectrum, norm, curve, length)
        return self._finish(found, "averaged_power_spectra", lambda data: plotting.plot_spectra(data, scale))

    def compute_lomb_scargle_periodograms(
        self,
        norm: periodograms.LombScargleNorm = "frac",
        scale: plotting.Scale = "linear",
        *,
        frequency: Any = None,
        false_alarm_probabilities: Sequence[float] = (0.1, 0.01, 0.001),
        method: periodograms.FalseAlarm = "baluev",
        n_bootstraps: int = 1000,
        seed: int = 0,
    ) -> TimingResults:
        """Lomb-Scargle periodograms with floating mean and weights, with false-alarm levels and the highest peak.

        Parameters
        ----------
        norm : {"frac", "abs", "standard"}
            Normalisation of the powers.
        scale : {"linear", "log", "loglog"}
            Scale of the axes of the plot.
        frequency : Quantity or array, optional
            In hertz. By default from one cycle in the whole series to half of the inverse of the usual step.
        false_alarm_probabilities : sequence of float
            Probabilities whose powers are given as levels.
        method : {"baluev", "davies", "naive", "bootstrap"}
            How false alarms are estimated (astropy's names).
        n_bootstraps, seed : int
            For the bootstrap.

        Returns
        -------
        TimingResults
            By camera key: power against frequency, false_alarm_level; attributes peak_frequency,
            peak_false_alarm_probability, amplitude (relative to the mean), peak_frequency_err (Montgomery & O'Donoghue
            1999) and amplitude_err. Both errors are multiplied by the square root of the reduced chi-squared of the
            fit, where that is above 1. For phases see :meth:`compute_phase_lags`.
        """
        found = {}
        for key, curve in self._curves.items():
            grid = periodograms.frequency_grid([curve.time]) if frequency is None else _hertz(frequency)
            result = periodograms.lomb_scargle(
                *curve.columns, grid, norm, probabilities=false_alarm_probabilities, method=method,
                n_bootstraps=n_bootstraps, seed=seed,
            )  # fmt: skip
            fit = periodograms.fit_frequency(*curve.columns, result.peak_frequency, scale_errors=True)
            found[key] = periodogram_dataset(result, norm, false_alarm_probabilities).assign_attrs(
                peak_frequency=fit.frequency,
                peak_frequency_err=fit.frequency_err,
                amplitude=fit.sinusoid.amplitude,
                amplitude_err=fit.sinusoid.amplitude_err,
                reference_mjd=curve.reference_mjd,
            )
        return self._finish(found, "L-S_periodograms", lambda data: plotting.plot_spectra(data, scale))

    def compute_multiband_lomb_scargle_periodogram(
        self,
        frequency: Any = None,
        scale: plotting.Scale = "linear",
        *,
        false_alarm_probabilities: Sequence[float] = (0.1, 0.01, 0.001),
        n_bootstraps: int = 0,
        seed: int = 0,
    ) -> TimingResults:
        """Lomb-Scargle periodogram of all cameras together: one frequency, each its own phase, amplitude and mean.

        Parameters
        ----------
        frequency : Quantity or array, optional
            Frequencies, in hertz unless they have a unit; by default from the times.
        scale : {"linear", "log", "loglog"}
            Scale of the axes of the plot.
        false_alarm_probabilities : sequence of float
            Probabilities whose powers are given as levels.
        n_bootstraps : int
            Light curves with shuffled fluxes for false-alarm levels, which are NaN with 0.
        seed : int
            Seed of the random numbers; the same seed gives the same result.

        Returns
        -------
        TimingResults
            One result, ``all``: power against frequency; attributes peak_frequency and peak_frequency_err, the weighted
            mean of the fits of the cameras.
        """
        curves = {key: curve.columns for key, curve in self._curves.items()}
        times = [curve.time for curve in self._curves.values()]
        grid = periodograms.frequency_grid(times) if frequency is None else _hertz(frequency)
        result = periodograms.multiband_lomb_scargle(
            curves, grid, probabilities=false_alarm_probabilities, n_bootstraps=n_bootstraps, seed=seed
        )
        peak, error = self._common_frequency(result.peak_frequency)
        found = periodogram_dataset(result, "standard", false_alarm_probabilities).assign_attrs(
            peak_frequency=peak, peak_frequency_err=error
        )
        return self._finish(
            {"all": found}, "multiband_L-S_periodogram", lambda data: plotting.plot_spectra(data, scale)
        )

    def compute_averaged_cross_spectra(
        self,
        segment_size: Seconds,
        rebin_factor: float | None = None,
        norm: spectra.Norm = "frac",
        scale: plotting.Scale = "log",
        *,
        delay: Seconds = 0.0,
    ) -> TimingResults:
        """Mean cross spectra of each pair of cameras, with coherence, phase lags and time lags.

        Parameters
        ----------
        segment_size : Quantity or float
            Length of a segment, in seconds unless it has a unit.
        rebin_factor : float, optional
            Average the cross powers of frequencies in bins that grow by ``1 + rebin_factor``.
        norm : {"frac", "abs", "leahy", "none"}
            Normalisation of the powers.
        scale : {"linear", "log", "loglog"}
            Scale of the axes of the plot.
        delay : Quantity or float
            Cut the segments of the second light curve so much later. Near the lag it takes away the bias of finite
            segments; lags are measured from 0 all the same.

        Returns
        -------
        TimingResults
            By pair, against frequency: cross (complex), power1, power2, coherence (noise taken off, 0 to 1), the same
            ``coherence_unbounded``, phase_lag in radians and time_lag in seconds, each with ``_err``; n_averaged. Lags
            are positive when the second lags the first. A time lag is one of many that differ by 1 / frequency: the one
            nearest ``delay``.

        Raises
        ------
        ValueError
            When the two are not sampled alike, or no common part without gaps is as long as a segment.
        """
        length, later = _seconds(segment_size, "segment_size"), _seconds(delay, "delay")
        found = {}
        for pair, first, second in self._pairs():
            n_points = spectra.segment_points(first.time, length)
            spectrum = spectra.cross_spectrum(first.columns, second.columns, n_points, norm, delay=later)
            self._console.tell(f"{spectrum.n_segments} {pair} segments averaged.")
            if rebin_factor:
                spectrum = spectra.rebin_cross(spectrum, rebin_factor)
            found[pair] = cross_dataset(spectrum, norm, length, later)
        return self._finish(found, "averaged_cross_spectra", lambda data: plotting.plot_cross_spectra(data, scale))

    # ------------------------------------------------------------------ lags

    def compute_time_lags(
        self,
        segment_size: Seconds,
        band: tuple[float, float] | Quantity = (0.0, np.inf),
        max_lag: Seconds | None = None,
    ) -> TimingResults:
        """One time lag of each pair for all frequencies of a band, from cross spectra without the bias of segments.

        Parameters
        ----------
        segment_size : Quantity or float
            Length of a segment, in seconds unless it has a unit.
        band : (float, float)
            Lowest and highest frequency in hertz.
        max_lag : Quantity or float, optional
            By default half of the period of the lowest frequency.

        Returns
        -------
        TimingResults
            By pair: lag, lag_err, reduced_chi2 (of phases about one lag), without dimension. Positive when the second
            lags the first.

        Raises
        ------
        ValueError
            As :meth:`compute_averaged_cross_spectra`, or when nothing in the band is coherent.
        """
        length, low_high = _seconds(segment_size, "segment_size"), tuple(_hertz(band))
        limit = None if max_lag is None else _seconds(max_lag, "max_lag")
        found = {}
        for pair, first, second in self._pairs():
            n_points = spectra.segment_points(first.time, length)
            fit = lags.measure_lag(first.columns, second.columns, n_points, (low_high[0], low_high[1]), limit)
            chi2 = fit.chi2 / fit.degrees_of_freedom if fit.degrees_of_freedom > 0 else np.nan
            found[pair] = scalars(lag=(fit.lag, "s"), lag_err=(fit.lag_err, "s"), reduced_chi2=(chi2, "1"))
            self._console.tell(f"{pair}: lag {fit.lag:.4g} +- {fit.lag_err:.2g} s")
        return self._finish(found, "time_lags", plotting.plot_lags)

    def compute_phase_lags(self, period: Seconds | None = None, *, scale_errors: bool = True) -> TimingResults:
        """Lags of a periodic signal, from sinusoids of one frequency fitted to each camera; gaps do not matter.

        Parameters
        ----------
        period : Quantity or float, optional
            By default that of the highest peak of the multi-band periodogram.
        scale_errors : bool
            Multiply errors by the square root of the reduced chi-squared of the fits, where that is above 1: from the
            scatter about the sinusoid, as Montgomery & O'Donoghue (1999) do.

        Returns
        -------
        TimingResults
            By pair: phase_lag in radians (-pi to pi) and lag in seconds with errors, frequency. Positive when the
            second lags the first. Lags that differ by whole periods cannot be told from each other. Where the frequency
            was fitted, errors hold that of the frequency too, times the time between the (weighted) mean times of the
            cameras; they are never above pi / sqrt(3), that of a phase of which nothing is known.
        """
        frequency_err = 0.0
        if period is None:
            curves = {key: curve.columns for key, curve in self._curves.items()}
            grid = periodograms.frequency_grid([curve.time for curve in self._curves.values()])
            frequency, frequency_err = self._common_frequency(
                periodograms.multiband_lomb_scargle(curves, grid).peak_frequency
            )
        else:
            frequency = 1.0 / _positive(_seconds(period, "period"), "period")
        found = {}
        for pair, first, second in self._pairs():
            # about their common middle, where an error of the frequency moves both phases alike
            middle = 0.5 * (max(first.time[0], second.time[0]) + min(first.time[-1], second.time[-1]))
            fits = [fit_sinusoid(c.time - middle, c.flux, c.flux_err, frequency) for c in (first, second)]
            phase = float(np.angle(np.exp(1j * (fits[0].phase - fits[1].phase))))
            scales = [np.sqrt(max(fit.chi2 / (fit.n_points - 3), 1.0)) if scale_errors else 1.0 for fit in fits]
            angular = 2.0 * np.pi * frequency
            apart = abs(_mean_time(first) - _mean_time(second))
            by_frequency = 2.0 * np.pi * apart * frequency_err if apart > 0 else 0.0
            error = np.sqrt(
                (fits[0].phase_err * scales[0]) ** 2 + (fits[1].phase_err * scales[1]) ** 2 + by_frequency**2
            )
            error = min(float(error), spectra.UNKNOWN_PHASE_ERR)
            found[pair] = scalars(
                phase_lag=(phase, "rad"), phase_lag_err=(error, "rad"), lag=(phase / angular, "s"),
                lag_err=(error / angular, "s"), frequency=(frequency, "Hz"),
            )  # fmt: skip
            self._console.tell(f"{pair}: lag {phase / angular:.4g} +- {error / angular:.2g} s at {frequency:.6g} Hz")
        return self._finish(found, "phase_lags", plotting.plot_lags)

    def compute_cross_correlations(
        self,
        mode: correlation.Mode = "same",
        norm: correlation.CorrelationNorm = "local",
        force_match: bool = True,
        *,
        max_lag: Seconds | None = None,
    ) -> TimingResults:
        """Correlation of each pair on an even grid, of the points that both have; nothing is interpolated.

        Parameters
        ----------
        mode : {"same", "valid", "full"}
            Lags up to half of the length, no lag but 0, all lags.
        norm : {"local", "none", "variance"}
            Correlation coefficients; or the sums of stingray's norms.
        force_match : bool
            Rebin light curves of different steps, or that fit no even grid, to the longer step; otherwise refuse them.
        max_lag : Quantity or float, optional
            Lags beyond it are left out. Half a period of a periodic signal, whose peaks come back with every period.

        Returns
        -------
        TimingResults
            By pair, against lag: correlation, err_low, err_high, n_pairs; attribute peak_lag. Positive: the second lags
            the first. Errors of the lag: :meth:`compute_randomised_lags`.

        Raises
        ------
        ValueError
            When they are not sampled alike, without ``force_match``.
        """
        limit = np.inf if max_lag is None else _seconds(max_lag, "max_lag")
        found = {}
        for pair, first, second in self._pairs():
            try:
                grids = correlation.on_common_grid(first.time, first.flux, second.time, second.flux)
            except ValueError:
                if not force_match:
                    raise
                first, second = _to_same_step(first, second)
                grids = correlation.on_common_grid(first.time, first.flux, second.time, second.flux)
            grid1, grid2, step, offset = grids
            noise = float(np.mean(first.flux_err**2)), float(np.mean(second.flux_err**2))
            result = correlation.cross_correlation(grid1, grid2, step, mode, norm, noise)
            # lags at the ends of a full range rest on few pairs, and win by chance
            trusted = result.n_pairs >= correlation.LEAST_SHARE * result.n_pairs.max()
            whole = correlation_dataset(result, offset, trusted & (np.abs(result.lag + offset) <= limit))
            found[pair] = whole.isel(lag=np.abs(whole["lag"].to_numpy()) <= limit)
        return self._finish(found, "cross_correlations", plotting.plot_correlations)

    def compute_discrete_correlations(
        self,
        max_lag: Seconds | None = None,
        *,
        least_pairs: int = 11,
        n_realisations: int = 100,
        seed: int = 0,
    ) -> TimingResults:
        """z-transformed discrete correlation functions of each pair, for any sampling (Alexander 1997, 2013).

        Parameters
        ----------
        max_lag : Quantity or float, optional
            By default half of the time from the first to the last point of either.
        least_pairs : int
            Pairs of points in a bin.
        n_realisations, seed : int
            Light curves with fluxes drawn from their errors that z is averaged over.

        Returns
        -------
        TimingResults
            By pair, against lag: correlation, err_low, err_high, n_pairs, lag_low, lag_high; attribute peak_lag.
            Positive: the second lags the first.
        """
        limit = None if max_lag is None else _seconds(max_lag, "max_lag")
        found = {}
        for pair, first, second in self._pairs():
            result = correlation.discrete_correlation(
                first.columns, second.columns, max_lag=limit, least_pairs=least_pairs, n_realisations=n_realisations,
                seed=seed,
            )  # fmt: skip
            found[pair] = correlation_dataset(result, 0.0, np.ones(len(result.lag), bool))
        return self._finish(found, "discrete_correlations", plotting.plot_correlations)

    def compute_randomised_lags(self, max_lag: Seconds, *, n_realisations: int = 1000, seed: int = 0) -> TimingResults:
        """Lags of peak and centroid of the correlation in randomised light curves (Peterson et al. 1998).

        Parameters
        ----------
        max_lag : Quantity or float
            Less than half a period of a periodic signal.
        n_realisations, seed : int
            Number of randomised light curves, and the seed of their random numbers.

        Returns
        -------
        TimingResults
            By pair: peak and centroid of each realisation; attributes peak_median, peak_low, peak_high and the same of
            the centroid: the median and the 16th and 84th percentile. NaN when less than half of the realisations have
            a peak within ``max_lag``. Positive: the second lags the first.
        """
        limit, found = _seconds(max_lag, "max_lag"), {}
        for pair, first, second in self._pairs():
            lags = correlation.randomised_lags(
                first.columns, second.columns, limit, n_realisations=n_realisations, seed=seed
            )
            found[pair] = lags_dataset(lags)
            if not np.isfinite(found[pair].attrs["centroid_median"]):
                n_found = np.count_nonzero(np.isfinite(lags.centroid))
                self._console.tell(
                    f"{pair}: no lag, as only {n_found} of {n_realisations} realisations have a peak within {limit:g} s"
                )
        return self._finish(found, "randomised_lags", plotting.plot_lag_distributions)

    # ------------------------------------------------------------------ phases

    def phase_fold_light_curves(self, period: Seconds, epoch: float | Time | None = None) -> TimingResults:
        """Fold the light curves on a period.

        Parameters
        ----------
        period : Quantity or float
            Period, in seconds unless it has a unit.
        epoch : Time or float, optional
            MJD of phase 0, in the scale of the light curves; by default ``reference_mjd``.

        Returns
        -------
        TimingResults
            By camera key: phase (0 to 1), flux and flux_err against time.
        """
        length, zero = _positive(_seconds(period, "period"), "period"), self._zero(epoch)
        found = {}
        for key, curve in self._curves.items():
            phase = folding.fold(curve.time, length, zero)
            folded = curve.to_dataset(key).assign(phase=("time", phase, {"units": "1"}))
            found[key] = folded.assign_attrs(period=length)
        return self._finish(found, f"P={length:.4f}s_phase_fold", plotting.plot_folded)

    def phase_bin_light_curves(
        self,
        period: Seconds,
        t0: float | Time | None = None,
        n_bins: int = 10,
        plot: bool = True,
        subplot: bool = True,
        sharey: bool = False,
        *,
        scale_errors: bool = False,
    ) -> TimingResults:
        """Weighted mean flux in bins of phase.

        Parameters
        ----------
        period : Quantity or float
            Period, in seconds unless it has a unit.
        t0 : Time or float, optional
            MJD of phase 0, in the scale of the light curves; by default ``reference_mjd``.
        n_bins : int
            Number of phase bins.
        plot, subplot, sharey : bool
            Make a plot; one panel a camera; the same limits in all.
        scale_errors : bool
            Multiply errors by the square root of the reduced chi-squared of a bin, where that is above 1.

        Returns
        -------
        TimingResults
            By camera key: flux, flux_err, n_points and chi2 against phase.
        """
        length, zero = _positive(_seconds(period, "period"), "period"), self._zero(t0)
        found = {}
        for key, curve in self._curves.items():
            phase = folding.fold(curve.time, length, zero)
            bins = folding.phase_bins(phase, curve.flux, curve.flux_err, n_bins, scale_errors=scale_errors)
            found[key] = xr.Dataset(
                {
                    "flux": ("phase", bins.flux, {"units": "1", "long_name": "weighted mean of the flux"}),
                    "flux_err": ("phase", bins.flux_err, {"units": "1", "long_name": "1-sigma error"}),
                    "n_points": ("phase", bins.n_points, {"units": "1"}),
                    "chi2": ("phase", bins.chi2, {"units": "1", "long_name": "chi-squared about the mean"}),
                },
                coords={"phase": ("phase", bins.phase, {"units": "1", "long_name": "middle of the bin"})},
                attrs={"key": key, "period": length, "reference_mjd": curve.reference_mjd},
            )

        def draw(data: Mapping[str, xr.Dataset]) -> plotting.Figure:
            return plotting.plot_folded(data, subplot=subplot, sharey=sharey)

        return self._finish(found, f"P={length:.4f}s_phase_bin", draw, plot=plot)

    # ------------------------------------------------------------------ inside

    def _with(self, curves: dict[str, TimingCurve]) -> Analyzer:
        """Analyzer of other light curves, the rest as here."""
        other = object.__new__(Analyzer)
        other.__dict__.update(self.__dict__)
        other._curves = curves
        return other

    def _pairs(self) -> Iterator[tuple[str, TimingCurve, TimingCurve]]:
        if len(self._curves) < 2:
            raise ValueError(f"a pair of light curves is needed, there is only {', '.join(self.keys)}")
        for (key1, first), (key2, second) in combinations(self._curves.items(), 2):
            yield f"{key1} x {key2}", first, second

    def _common_frequency(self, near: float) -> tuple[float, float]:
        """Weighted mean of the frequencies fitted to each camera, and its error."""
        fits = [periodograms.fit_frequency(*curve.columns, near, scale_errors=True) for curve in self._curves.values()]
        weights = np.array([fit.frequency_err for fit in fits]) ** -2.0
        if not weights.sum() > 0:
            return near, np.inf
        return float(np.average([fit.frequency for fit in fits], weights=weights)), float(weights.sum() ** -0.5)

    def _zero(self, epoch: float | Time | None) -> float:
        """Epoch of phase 0 in seconds."""
        if epoch is None:
            return 0.0
        if isinstance(epoch, Time):
            scale = next(iter(self._curves.values())).scale
            epoch = float(getattr(epoch, scale).mjd if scale else epoch.mjd)
        return (float(epoch) - self.reference_mjd) * conversions.SECONDS_PER_DAY

    def _finish(
        self,
        found: dict[str, xr.Dataset],
        name: str,
        draw: Callable[[Mapping[str, xr.Dataset]], plotting.Figure],
        *,
        plot: bool = True,
    ) -> TimingResults:
        results = TimingResults(found, draw)
        if plot and (self.out_directory is not None or self.show_plots):
            self._keep(results.plot(), name)
        return results

    def _keep(self, figure: plotting.Figure, name: str) -> None:
        """Save a plot as ``plots/<prefix>_<label>_<name>.pdf``, and show it."""
        if self.out_directory is not None:
            parts = [part for part in (self.prefix, self.phot_label, name) if part]
            directory = self.out_directory / "plots"
            directory.mkdir(parents=True, exist_ok=True)
            file = plotting.save_figure(figure, directory / f"{'_'.join(parts)}.pdf")
            self._console.tell(f"Plot saved to {file.resolve()}.")
        if self.show_plots:
            plotting.show_in_notebook(figure)


def _seconds(value: Seconds, name: str) -> float:
    """Seconds of a quantity of time, or of a number."""
    try:
        return float(value.to_value(units.s)) if isinstance(value, Quantity) else float(value)
    except units.UnitConversionError as error:
        raise ValueError(f"{name} must be a time, got {value}") from error


def _positive(value: float, name: str) -> float:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0, got {value:g}")
    return value


def _hertz(value: Any) -> np.ndarray:
    """Frequencies in hertz of a quantity or of numbers."""
    return np.asarray(value.to_value(units.Hz) if isinstance(value, Quantity) else value, float)


def _mean_time(curve: TimingCurve) -> float:
    """Mean time, weighted by the errors: an error of the frequency does not change the phase there."""
    return float(np.average(curve.time, weights=curve.flux_err**-2.0))


def _to_same_step(first: TimingCurve, second: TimingCurve) -> tuple[TimingCurve, TimingCurve]:
    # about the points of the slower one: where these lay near edges of bins, some bins would have two and others none
    slower = max(first, second, key=lambda curve: spectra.sampling_step(curve.time))
    step = spectra.sampling_step(slower.time)
    start = slower.time[0] - 0.5 * step
    binned = []
    for curve in (first, second):
        bins = folding.time_bins(*curve.columns, step, start=start)
        binned.append(replace(curve, time=bins.time, flux=bins.flux, flux_err=bins.flux_err))
    return binned[0], binned[1]
