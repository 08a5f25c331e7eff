"""The light curves of an analysis: where they come from, how they are binned, and where results and plots go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import xarray as xr
from astropy import units
from astropy.time import Time
from astropy.units import Quantity

from opticam_dask import locations
from opticam_dask.console import PREFIX, Console
from opticam_dask.display import plotting
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.series import folding, periodograms, spectra
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
)
from opticam_dask.store.store import key_of

#: Seconds, or a quantity that can be converted to them.
Seconds: TypeAlias = float | Quantity


class AnalysedCurves:
    """Normalised light curves of an analysis: read, binned, joined and plotted; takes what :class:`Analyzer` takes."""

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
        """Light curve of one camera, by its key (``1:g``), the name of its group (``1-g``) or its filter (``g``).

        Raises
        ------
        ValueError
            When there is none, or several cameras have the filter.
        """
        return self.light_curves[key_of(key, self.keys, "this analysis")]

    def join(self, other: Self) -> Self:
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

    def rebin_light_curves(self, dt: Seconds, method: folding.Method = "mean", *, least_coverage: float = 0.5) -> Self:
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
        step = seconds(dt, "dt")
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

    def _with(self, curves: dict[str, TimingCurve]) -> Self:
        """Analyzer of other light curves, the rest as here."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._curves = curves
        return other

    def _pairs(self) -> Iterator[tuple[str, TimingCurve, TimingCurve]]:
        if len(self._curves) < 2:
            raise ValueError(f"a pair of light curves is needed, there is only {', '.join(self.keys)}")
        for (key1, first), (key2, second) in combinations(self._curves.items(), 2):
            yield f"{key1} x {key2}", first, second

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


def common_frequency(curves: Mapping[str, TimingCurve], near: float) -> tuple[float, float]:
    """Weighted mean of the frequencies fitted to each camera, and its error."""
    fits = [periodograms.fit_frequency(*curve.columns, near, scale_errors=True) for curve in curves.values()]
    weights = np.array([fit.frequency_err for fit in fits]) ** -2.0
    if not weights.sum() > 0:
        return near, np.inf
    return float(np.average([fit.frequency for fit in fits], weights=weights)), float(weights.sum() ** -0.5)


def seconds(value: Seconds, name: str) -> float:
    """Seconds of a quantity of time, or of a number."""
    try:
        return float(value.to_value(units.s)) if isinstance(value, Quantity) else float(value)
    except units.UnitConversionError as error:
        raise ValueError(f"{name} must be a time, got {value}") from error


def positive(value: float, name: str) -> float:
    """The value, which must be above 0."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be above 0, got {value:g}")
    return value


def hertz(value: Any) -> np.ndarray:
    """Frequencies in hertz of a quantity or of numbers."""
    return np.asarray(value.to_value(units.Hz) if isinstance(value, Quantity) else value, float)
