"""Pairs of light curves of an analysis: cross spectra, lags and correlations.

Lags are positive when the second light curve of a pair ``a x b`` lags the first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from astropy.units import Quantity

from opticam_dask.api.analysis.curves import AnalysedCurves, Seconds, common_frequency, hertz, positive, seconds
from opticam_dask.display import plotting
from opticam_dask.kernels.series import correlation, folding, lags, periodograms, spectra
from opticam_dask.kernels.series.lightcurve import fit_sinusoid
from opticam_dask.lightcurves.timing_inputs import (
    TimingCurve,
)
from opticam_dask.lightcurves.timing_results import (
    TimingResults,
    correlation_dataset,
    cross_dataset,
    lags_dataset,
    scalars,
)


class PairAnalyses(AnalysedCurves):
    """Analyses of pairs of light curves: cross spectra, lags and correlations."""

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
        length, later = seconds(segment_size, "segment_size"), seconds(delay, "delay")
        found = {}
        for pair, first, second in self._pairs():
            n_points = spectra.segment_points(first.time, length)
            spectrum = spectra.cross_spectrum(first.columns, second.columns, n_points, norm, delay=later)
            self._console.tell(f"{spectrum.n_segments} {pair} segments averaged.")
            if rebin_factor:
                spectrum = spectra.rebin_cross(spectrum, rebin_factor)
            found[pair] = cross_dataset(spectrum, norm, length, later)
        return self._finish(found, "averaged_cross_spectra", lambda data: plotting.plot_cross_spectra(data, scale))

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
        length, low_high = seconds(segment_size, "segment_size"), tuple(hertz(band))
        limit = None if max_lag is None else seconds(max_lag, "max_lag")
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
            frequency, frequency_err = common_frequency(
                self._curves, periodograms.multiband_lomb_scargle(curves, grid).peak_frequency
            )
        else:
            frequency = 1.0 / positive(seconds(period, "period"), "period")
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
        limit = np.inf if max_lag is None else seconds(max_lag, "max_lag")
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
        limit = None if max_lag is None else seconds(max_lag, "max_lag")
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
            By pair: peak and centroid of each realisation, in seconds; attributes peak_median, peak_low, peak_high
            (median, 16th and 84th percentile) and centroid_median, centroid_low, centroid_high. NaN when less than
            half of the realisations have a peak within ``max_lag``. Positive: the second lags the first.
        """
        limit, found = seconds(max_lag, "max_lag"), {}
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
