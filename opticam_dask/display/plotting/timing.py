"""Plots of timing analyses: light curves in seconds, spectra, folded light curves, correlations, lags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from opticam_dask.display.plotting.style import MANY_POINTS, colour_of, grid, new_figure, require_panels, robust_limits

Scale = Literal["linear", "log", "loglog"]


def plot_timing_light_curves(
    curves: Mapping[str, xr.Dataset], intervals: Mapping[str, np.ndarray] | None = None
) -> Figure:
    """Light curves against seconds, one panel a camera.

    Parameters
    ----------
    curves : dict of Dataset
        By camera key: flux, flux_err against time.
    intervals : dict of ndarray, optional
        Good time intervals, which are shaded.

    Returns
    -------
    Figure
    """
    figure, panels = _rows(curves, 2.4)
    for position, (axes, (key, curve)) in enumerate(zip(panels, curves.items(), strict=True)):
        time, flux = curve["time"].to_numpy(), curve["flux"].to_numpy()
        _errorbars(axes, time, flux, curve["flux_err"].to_numpy(), colour_of(key, position))
        for begin, end in intervals[key] if intervals is not None else ():
            axes.axvspan(begin, end, color="0.88", lw=0, zorder=0)
        axes.set_title(key + (", shaded: good time intervals" if intervals is not None else ""), **_TITLE)
        axes.set_ylabel("Flux")
        axes.ticklabel_format(axis="y", useOffset=False)
        _limit(axes, flux)
    epoch = next(iter(curves.values())).attrs.get("reference_mjd", 0.0)
    panels[-1].set_xlabel(f"Seconds since MJD {epoch:g}")
    return figure


def plot_spectra(spectra: Mapping[str, xr.Dataset], scale: Scale = "linear") -> Figure:
    """Power spectra or periodograms, one panel each, with their noise and false-alarm levels.

    Parameters
    ----------
    spectra : dict of Dataset
        power, and power_err or false_alarm_level where there are, against frequency.
    scale : {"linear", "log", "loglog"}
        Scale of the axes: both linear, logarithmic frequency, both logarithmic.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        For another scale, or when there is no spectrum.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {scale!r}")
    figure, panels = _rows(spectra, 2.6)
    for position, (axes, (key, spectrum)) in enumerate(zip(panels, spectra.items(), strict=True)):
        colour = colour_of(key, position)
        frequency, power = spectrum["frequency"].to_numpy(), spectrum["power"].to_numpy()
        style = "steps-mid" if "power_err" in spectrum else "default"
        axes.plot(frequency, power, color=colour, lw=1.2, drawstyle=style)
        if "power_err" in spectrum and len(frequency) <= MANY_POINTS:
            axes.errorbar(frequency, power, spectrum["power_err"], fmt="none", color=colour, elinewidth=0.7)
        _draw_levels(axes, spectrum)
        axes.set_xscale("linear" if scale == "linear" else "log")
        axes.set_yscale("log" if scale == "loglog" else "linear")
        if scale == "loglog":
            axes.set_ylim(bottom=max(0.3 * np.percentile(power[power > 0], 1), 1e-6 * power.max()))
        axes.set_title(_spectrum_title(key, spectrum), **_TITLE)
        axes.set_ylabel(_label(spectrum["power"], "Power"))
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", loc="upper right")
    panels[-1].set_xlabel("Frequency [Hz]")
    return figure


def _draw_levels(axes: Axes, spectrum: xr.Dataset) -> None:
    if "noise_level" in spectrum.attrs:
        axes.axhline(spectrum.attrs["noise_level"], color="0.4", ls=":", lw=1.2, label="noise of the errors")
    if "false_alarm_level" not in spectrum:
        return
    levels = spectrum["false_alarm_level"]
    for style, chance, level in zip(("--", "-.", ":"), levels["false_alarm_probability"], levels, strict=False):
        if np.isfinite(level):
            axes.axhline(
                float(level), color="0.4", ls=style, lw=1.0, label=f"{100 * float(chance):g} % false-alarm probability"
            )


def _spectrum_title(key: str, spectrum: xr.Dataset) -> str:
    attributes = spectrum.attrs
    if "peak_frequency" in attributes:
        error = attributes.get("peak_frequency_err", np.nan)
        uncertainty = f" +- {error:.2g}" if np.isfinite(error) else ""
        return f"{key}: highest peak at {attributes['peak_frequency']:.6g}{uncertainty} Hz"
    if "n_segments" in attributes:
        n_segments = attributes["n_segments"]
        return f"{key}: {n_segments} segment{'s' if n_segments > 1 else ''} of {attributes['segment_size']:g} s"
    return key


def plot_folded(folded: Mapping[str, xr.Dataset], *, subplot: bool = True, sharey: bool = False) -> Figure:
    """Flux against phase, over two cycles.

    Parameters
    ----------
    folded : dict of Dataset
        flux and flux_err against phase, for points or for bins (dim phase); attribute period.
    subplot : bool
        One panel each; or all in one.
    sharey : bool
        The same limits of the flux in all panels.

    Returns
    -------
    Figure
    """
    require_panels(folded)
    n_rows = len(folded) if subplot else 1
    figure = new_figure(rows=n_rows, width=7.0, height=2.6 if n_rows > 1 else 4.0)
    panels = figure.subplots(n_rows, 1, sharex=True, sharey=sharey, squeeze=False)[:, 0]
    for position, (key, curve) in enumerate(folded.items()):
        axes = panels[position if subplot else 0]
        order = np.argsort(curve["phase"].to_numpy(), kind="stable")
        phase, flux, error = (curve[name].to_numpy()[order] for name in ("phase", "flux", "flux_err"))
        two = np.concatenate([phase, phase + 1.0]), np.tile(flux, 2), np.tile(error, 2)
        colour = colour_of(key, position)
        if "phase" in curve.dims:
            axes.plot(*two[:2], color=colour, lw=1.0, drawstyle="steps-mid")
        _errorbars(axes, *two, colour, label=key)
        if subplot:
            axes.set_title(f"{key}: period {curve.attrs['period']:.6g} s", **_TITLE)
        axes.set_ylabel("Flux")
        axes.ticklabel_format(axis="y", useOffset=False)
    if not subplot:
        panels[0].legend(title="Camera key")
    panels[-1].set_xlabel("Phase")
    panels[-1].set_xlim(0.0, 2.0)
    return figure


def plot_correlations(correlations: Mapping[str, xr.Dataset]) -> Figure:
    """Correlations against lag, one panel a pair, with their errors.

    Parameters
    ----------
    correlations : dict of Dataset
        correlation, and err_low and err_high where there are, against lag.

    Returns
    -------
    Figure
    """
    figure, panels = _rows(correlations, 2.6)
    for position, (axes, (pair, found)) in enumerate(zip(panels, correlations.items(), strict=True)):
        lag, value = found["lag"].to_numpy(), found["correlation"].to_numpy()
        colour = _pair_colour(position)
        low, high = found["err_low"].to_numpy(), found["err_high"].to_numpy()
        axes.plot(lag, value, color=colour, lw=1.0)
        if np.isfinite(low).any():
            axes.fill_between(lag, value - low, value + high, color=colour, alpha=0.25, lw=0)
        axes.axvline(0.0, color="0.4", ls=":", lw=1.0)
        peak = found.attrs.get("peak_lag", np.nan)
        if np.isfinite(peak):
            axes.axvline(peak, color=colour, ls="--", lw=1.0)
        axes.set_title(f"{pair}: highest at {peak:.4g} s", **_TITLE)
        axes.set_ylabel("Correlation")
    panels[-1].set_xlabel("Lag [s] (positive: the second lags the first)")
    return figure


def plot_cross_spectra(spectra: Mapping[str, xr.Dataset], scale: Scale = "linear") -> Figure:
    """Cross power, coherence, phase and time lag against frequency, one column a pair.

    Parameters
    ----------
    spectra : dict of Dataset
        cross, coherence, phase_lag and time_lag with their errors against frequency.
    scale : {"linear", "log", "loglog"}
        Scale of the axes of the plot.

    Returns
    -------
    Figure
    """
    require_panels(spectra)
    figure = new_figure(rows=4, columns=len(spectra), width=4.6 if len(spectra) > 1 else 7.5, height=2.1)
    panels = figure.subplots(4, len(spectra), sharex="col", squeeze=False)
    for position, (column, (pair, found)) in enumerate(zip(panels.T, spectra.items(), strict=True)):
        colour, frequency = _pair_colour(position), found["frequency"].to_numpy()
        column[0].plot(frequency, np.abs(found["cross"].to_numpy()), color=colour, drawstyle="steps-mid")
        column[0].set_yscale("log" if scale == "loglog" else "linear")
        column[0].set_title(f"{pair}: {found.attrs['n_segments']} segments", **_TITLE)
        for axes, name in zip(column[1:], ("coherence", "phase_lag", "time_lag"), strict=True):
            known = found[f"{name}_err"].to_numpy() < _WORTH_SHOWING.get(name, np.inf)
            if name == "time_lag":
                known = found["phase_lag_err"].to_numpy() < _WORTH_SHOWING["phase_lag"]
            axes.errorbar(
                frequency[known], found[name].to_numpy()[known], found[f"{name}_err"].to_numpy()[known],
                fmt="o", ms=3.5, elinewidth=0.8, color=colour,
            )  # fmt: skip
            axes.axhline(0.0, color="0.4", ls=":", lw=1.0)
        column[1].set_ylim(-0.05, 1.15)
        column[2].set_ylim(-np.pi, np.pi)
        for axes in column:
            axes.set_xscale("linear" if scale == "linear" else "log")
            if scale != "linear" and len(spectra) > 1:  # narrow columns have no room for labels between the decades
                axes.xaxis.set_minor_formatter(NullFormatter())
            grid(axes)
        column[-1].set_xlabel("Frequency [Hz]")
    names = (
        _label(next(iter(spectra.values()))["cross"], "Cross power"),
        "Coherence",
        "Phase lag [rad]",
        "Time lag [s]",
    )
    for axes, name in zip(panels[:, 0], names, strict=True):
        axes.set_ylabel(name)
    figure.suptitle("Positive: the second lags the first. What nothing is known of is left out.", fontsize="small")
    return figure


def plot_lag_distributions(lags: Mapping[str, xr.Dataset]) -> Figure:
    """Histograms of the lags of randomised light curves, one panel a pair.

    Parameters
    ----------
    lags : dict of Dataset
        peak and centroid of each realisation; attributes centroid_median, centroid_low and centroid_high.

    Returns
    -------
    Figure
    """
    figure, panels = _rows(lags, 2.2, sharex=False)
    for position, (axes, (pair, found)) in enumerate(zip(panels, lags.items(), strict=True)):
        centroid = found["centroid"].to_numpy()
        axes.hist(centroid[np.isfinite(centroid)], bins=40, color=_pair_colour(position), alpha=0.7)
        low, middle, high = (found.attrs[name] for name in ("centroid_low", "centroid_median", "centroid_high"))
        axes.axvline(middle, color="0.2")
        axes.axvspan(low, high, color="0.85", zorder=0)
        told = f"{middle:.4g} (+{high - middle:.2g} -{middle - low:.2g}) s" if np.isfinite(middle) else "no lag"
        axes.set_title(f"{pair}: {told}", **_TITLE)
        axes.set_ylabel("Realisations")
    panels[-1].set_xlabel("Lag of the centroid [s] (positive: the second lags the first)")
    return figure


def plot_lags(lags: Mapping[str, xr.Dataset]) -> Figure:
    """One lag with its error a pair.

    Parameters
    ----------
    lags : dict of Dataset
        lag and lag_err.

    Returns
    -------
    Figure
    """
    require_panels(lags)
    figure = new_figure(width=6.0, height=1.2 + 0.5 * len(lags))
    axes = figure.subplots()
    for position, found in enumerate(lags.values()):
        lag, error = float(found["lag"]), float(found["lag_err"])
        axes.errorbar(lag, position, xerr=error, fmt="o", color=_pair_colour(position))
        axes.annotate(
            f"{lag:.4g} +- {error:.2g} s", (lag, position), xytext=(0, 6), textcoords="offset points", ha="center",
            fontsize="small",
        )  # fmt: skip
    axes.margins(x=0.2)
    axes.set_yticks(range(len(lags)), list(lags))
    axes.set_ylim(len(lags) - 0.4, -0.6)
    axes.axvline(0.0, color="0.4", ls=":", lw=1.0)
    axes.set_xlabel("Lag [s] (positive: the second lags the first)")
    grid(axes)
    return figure


_TITLE: dict = {"fontsize": "medium", "loc": "left"}
#: Errors of lags, in radians, that tell nothing; of coherences.
_WORTH_SHOWING = {"phase_lag": 1.0, "coherence": 1.0}
_PAIR_COLOURS = ("tab:blue", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")


def _pair_colour(position: int) -> str:
    return _PAIR_COLOURS[position % len(_PAIR_COLOURS)]


def _rows(datasets: Mapping[str, xr.Dataset], height: float, *, sharex: bool = True) -> tuple[Figure, np.ndarray]:
    require_panels(datasets)
    figure = new_figure(rows=len(datasets), width=8.0, height=height if len(datasets) > 1 else 4.0)
    panels = figure.subplots(len(datasets), 1, sharex=sharex, squeeze=False)[:, 0]
    for axes in panels:
        grid(axes)
    return figure, panels


def _errorbars(
    axes: Axes, x: np.ndarray, y: np.ndarray, error: np.ndarray, colour: str, label: str | None = None
) -> None:
    many = len(x) > MANY_POINTS
    axes.errorbar(x, y, error, fmt="o", ms=2.5, elinewidth=0.6, color=colour, label=label, rasterized=many)
    grid(axes)


def _limit(axes: Axes, values: np.ndarray) -> None:
    limits = robust_limits(values, reach=10.0)
    if limits is not None:
        axes.set_ylim(*limits)


def _label(values: xr.DataArray, name: str) -> str:
    unit = values.attrs.get("units", "1")
    return name if unit == "1" else f"{name} [{values.attrs.get('shown_units', unit)}]"
