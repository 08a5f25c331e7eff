"""Power spectra and Lomb-Scargle periodograms of the light curves of an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opticam_dask.api.analysis.curves import AnalysedCurves, Seconds, common_frequency, hertz, seconds
from opticam_dask.display import plotting
from opticam_dask.kernels.series import periodograms, spectra
from opticam_dask.lightcurves.timing_results import (
    TimingResults,
    periodogram_dataset,
    power_dataset,
)


class SpectralAnalyses(AnalysedCurves):
    """Power spectra and Lomb-Scargle periodograms of each light curve."""

    def compute_power_spectra(self, norm: spectra.Norm = "frac", scale: plotting.Scale = "log") -> TimingResults:
        """Periodograms of whole light curves, which must be evenly sampled without gaps.

        Parameters
        ----------
        norm : {"frac", "abs", "leahy", "none"}
            Normalisation of the powers, as in :func:`kernels.spectra.power_spectrum`.
        scale : {"linear", "log", "loglog"}
            Scale of the axes of the plot.

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
            Length of a segment, in seconds unless it has a unit.
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
        length, found = seconds(segment_size, "segment_size"), {}
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
            Frequencies, in hertz unless they have a unit; by default from one cycle in the whole series to half of
            the inverse of the usual step.
        false_alarm_probabilities : sequence of float
            Probabilities whose powers are given as levels.
        method : {"baluev", "davies", "naive", "bootstrap"}
            How false alarms are estimated (astropy's names).
        n_bootstraps, seed : int
            Number of light curves of the bootstrap, each with fluxes drawn from the measured ones (with their errors,
            with replacement) at the same times, and the seed of their random numbers.

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
            grid = periodograms.frequency_grid([curve.time]) if frequency is None else hertz(frequency)
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
        grid = periodograms.frequency_grid(times) if frequency is None else hertz(frequency)
        result = periodograms.multiband_lomb_scargle(
            curves, grid, probabilities=false_alarm_probabilities, n_bootstraps=n_bootstraps, seed=seed
        )
        peak, error = common_frequency(self._curves, result.peak_frequency)
        found = periodogram_dataset(result, "standard", false_alarm_probabilities).assign_attrs(
            peak_frequency=peak, peak_frequency_err=error
        )
        return self._finish(
            {"all": found}, "multiband_L-S_periodogram", lambda data: plotting.plot_spectra(data, scale)
        )
