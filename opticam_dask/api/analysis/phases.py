"""Light curves of an analysis folded on a period."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from astropy.time import Time

from opticam_dask.api.analysis.curves import AnalysedCurves, Seconds, positive, seconds
from opticam_dask.display import plotting
from opticam_dask.kernels.series import folding
from opticam_dask.lightcurves.timing_results import (
    TimingResults,
)


class PhaseAnalyses(AnalysedCurves):
    """Analyses of light curves folded on a period."""

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
        length, zero = positive(seconds(period, "period"), "period"), self._zero(epoch)
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
        length, zero = positive(seconds(period, "period"), "period"), self._zero(t0)
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
