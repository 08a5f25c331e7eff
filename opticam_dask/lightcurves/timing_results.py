"""Results of timing analyses: a Dataset for each camera key or pair, also as one table or figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from astropy import units
from astropy.table import QTable, vstack

from opticam_dask.kernels.series import correlation, lags, periodograms, spectra
from opticam_dask.lightcurves.timing_inputs import TimingCurve

_POWER_UNITS = {"frac": "1/Hz", "abs": "1/Hz", "leahy": "1", "none": "1", "standard": "1"}
_SHOWN_UNITS = {"frac": "(rms/mean)$^2$ / Hz", "abs": "flux$^2$ / Hz"}


@dataclass(frozen=True, eq=False)
class TimingResults(Mapping[str, xr.Dataset]):
    """Results of an analysis by camera key, or by pair such as ``1:g x 2:r``.

    Attributes
    ----------
    datasets : dict of Dataset
        Results by camera key, or by pair of keys.
    draw : callable
        Makes the figure (matplotlib) of the datasets.
    """

    datasets: Mapping[str, xr.Dataset]
    draw: Callable[[Mapping[str, xr.Dataset]], Any]

    def __getitem__(self, key: str) -> xr.Dataset:
        return self.datasets[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.datasets)

    def __len__(self) -> int:
        return len(self.datasets)

    def plot(self) -> Any:
        """Figure (matplotlib) of all results, one panel or column each."""
        return self.draw(self.datasets)

    def to_table(self) -> QTable:
        """One table of the columns along frequency, lag, time, phase or realisation, with units.

        The first column says which result a row belongs to. False-alarm levels and summary numbers (attributes such as
        ``peak_frequency``) are in the Datasets.
        """
        return vstack([_table_of(key, dataset) for key, dataset in self.datasets.items()], metadata_conflicts="silent")


def _table_of(key: str, dataset: xr.Dataset) -> QTable:
    """Variables along the dimension of a dataset; its attributes, where it has none."""
    dims = list(dataset.sizes)
    main = dims[0] if dims else None
    table = QTable()
    table["name"] = [key] * (dataset.sizes[main] if main is not None else 1)
    for name, values in {**dataset.coords, **dataset.data_vars}.items():
        if values.dims == ((main,) if main is not None else ()):
            unit = values.attrs.get("units", "1")
            column = np.atleast_1d(values.to_numpy())
            table[str(name)] = column if unit == "1" else column * units.Unit(unit)
    return table


def power_dataset(
    spectrum: spectra.PowerSpectrum, norm: str, curve: TimingCurve, length: float | None = None
) -> xr.Dataset:
    """Power spectrum of segments of ``length`` seconds, by default all of the light curve."""
    described = {"units": _POWER_UNITS[norm], "long_name": "power"}
    if norm in _SHOWN_UNITS:
        described["shown_units"] = _SHOWN_UNITS[norm]
    length = len(curve.time) * spectra.sampling_step(curve.time) if length is None else length
    return xr.Dataset(
        {
            "power": ("frequency", spectrum.power, described),
            "power_err": ("frequency", spectrum.power_err, {"units": _POWER_UNITS[norm]}),
            "n_averaged": ("frequency", spectrum.n_averaged, {"units": "1"}),
        },
        coords={"frequency": ("frequency", spectrum.frequency, {"units": "Hz"})},
        attrs={
            "norm": norm, "noise_level": spectrum.noise, "n_segments": spectrum.n_segments, "segment_size": length,
        },
    )  # fmt: skip


def periodogram_dataset(result: periodograms.Periodogram, norm: str, probabilities: Sequence[float]) -> xr.Dataset:
    """Lomb-Scargle periodogram with its false-alarm levels."""
    described = {"units": _POWER_UNITS[norm], "long_name": "power"}
    if norm in _SHOWN_UNITS:
        described["shown_units"] = _SHOWN_UNITS[norm]
    return xr.Dataset(
        {
            "power": ("frequency", result.power, described),
            "false_alarm_level": ("false_alarm_probability", result.false_alarm_level, {"units": _POWER_UNITS[norm]}),
        },
        coords={
            "frequency": ("frequency", result.frequency, {"units": "Hz"}),
            "false_alarm_probability": np.asarray(probabilities, float),
        },
        attrs={
            "norm": norm,
            "peak_frequency": result.peak_frequency,
            "peak_false_alarm_probability": result.peak_probability,
        },
    )


def cross_dataset(spectrum: spectra.CrossSpectrum, norm: str, length: float, delay: float) -> xr.Dataset:
    """Cross spectrum of segments of ``length`` seconds, with coherence and lags."""
    coherence = spectra.coherence(spectrum)
    phase, phase_err = lags.phase_lag(spectrum)
    lag, lag_err = lags.time_lag(spectrum.frequency, phase, phase_err, near=delay)
    described = {"units": _POWER_UNITS[norm]}
    if norm in _SHOWN_UNITS:
        described["shown_units"] = _SHOWN_UNITS[norm]
    columns = {
        "cross": (spectrum.cross, described),
        "power1": (spectrum.power1, described),
        "power2": (spectrum.power2, described),
        "coherence": (coherence.value, {"units": "1"}),
        "coherence_err": (coherence.error, {"units": "1"}),
        "coherence_unbounded": (coherence.unbounded, {"units": "1"}),
        "phase_lag": (phase, {"units": "rad", "long_name": "phase lag, positive when the second lags the first"}),
        "phase_lag_err": (phase_err, {"units": "rad"}),
        "time_lag": (lag, {"units": "s", "long_name": "time lag, positive when the second lags the first"}),
        "time_lag_err": (lag_err, {"units": "s"}),
        "n_averaged": (spectrum.n_averaged, {"units": "1"}),
    }
    return xr.Dataset(
        {name: ("frequency", values, attributes) for name, (values, attributes) in columns.items()},
        coords={"frequency": ("frequency", spectrum.frequency, {"units": "Hz"})},
        attrs={
            "norm": norm, "noise_level1": spectrum.noise1, "noise_level2": spectrum.noise2,
            "n_segments": spectrum.n_segments, "segment_size": length, "delay": delay,
        },
    )  # fmt: skip


def correlation_dataset(result: correlation.Correlation, offset: float, trusted: np.ndarray) -> xr.Dataset:
    """Correlation against lag; ``offset`` is added to the lags, the peak is looked for where they are ``trusted``."""
    usable = trusted & np.isfinite(result.correlation)
    peak = np.nan
    if usable.any():
        peak = float(result.lag[int(np.argmax(np.where(usable, result.correlation, -np.inf)))] + offset)
    columns = {
        "correlation": (result.correlation, "1"),
        "err_low": (result.err_low, "1"),
        "err_high": (result.err_high, "1"),
        "n_pairs": (result.n_pairs, "1"),
        "lag_low": (result.lag_low + offset, "s"),
        "lag_high": (result.lag_high + offset, "s"),
    }
    return xr.Dataset(
        {name: ("lag", values, {"units": unit}) for name, (values, unit) in columns.items()},
        coords={
            "lag": ("lag", result.lag + offset, {"units": "s", "long_name": "lag, positive: the second lags the first"})
        },
        attrs={"peak_lag": peak},
    )


def lags_dataset(lags: correlation.LagDistribution) -> xr.Dataset:
    """Lags of realisations, and their median and 16th and 84th percentile."""
    attributes: dict[str, float] = {}
    for name, values in (("peak", lags.peak), ("centroid", lags.centroid)):
        known = values[np.isfinite(values)]
        low = middle = high = np.nan
        if len(known) >= 0.5 * len(values):
            low, middle, high = np.percentile(known, [15.87, 50.0, 84.13])
        attributes |= {f"{name}_low": float(low), f"{name}_median": float(middle), f"{name}_high": float(high)}
    return xr.Dataset(
        {
            "peak": ("realisation", lags.peak, {"units": "s"}),
            "centroid": ("realisation", lags.centroid, {"units": "s"}),
        },
        attrs=attributes,
    )


def scalars(**values: tuple[float, str]) -> xr.Dataset:
    """Dataset of numbers without dimension, each (value, unit)."""
    return xr.Dataset({name: ((), value, {"units": unit}) for name, (value, unit) in values.items()})
