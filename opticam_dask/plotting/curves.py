"""Plots of differential light curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from opticam_dask.flags import SourceFlag
from opticam_dask.plotting.style import best_times, colour_of, elapsed, grid, new_figure

#: Points with one of these flags are drawn open.
_DOUBTFUL = SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.BAD_PIXEL


def plot_relative_light_curve(curves: xr.Dataset | Mapping[str, xr.Dataset]) -> Figure:
    """Differential light curves, normalised by their medians, one panel a camera.

    Parameters
    ----------
    curves : Dataset or dict of Dataset
        Light curve, or light curves by camera key: relative_flux, relative_flux_err, flags, bmjd_tdb, mjd_utc.

    Returns
    -------
    Figure
    """
    of_key = {str(curves.attrs.get("key", "")): curves} if isinstance(curves, xr.Dataset) else dict(curves)
    figure = new_figure(rows=len(of_key), width=9.0, height=3.0 if len(of_key) > 1 else 4.5)
    panels = np.atleast_1d(figure.subplots(len(of_key), 1, sharex=True))
    times = {
        key: best_times(curve["mjd_utc"].to_numpy(), curve["bmjd_tdb"].to_numpy()) for key, curve in of_key.items()
    }
    start = float(min(np.nanmin(values) for values, _ in times.values()))
    everything = np.concatenate([values for values, _ in times.values()])
    _, unit = elapsed(everything, start)
    scale = next(iter(times.values()))[1]
    for position, (axes, (key, curve)) in enumerate(zip(panels, of_key.items(), strict=True)):
        since = (times[key][0] - start) * {"s": 86400.0, "min": 1440.0, "h": 24.0, "d": 1.0}[unit]
        flux, error = curve["relative_flux"].to_numpy(), curve["relative_flux_err"].to_numpy()
        median = float(np.nanmedian(flux)) if np.isfinite(flux).any() else 1.0
        doubtful = (curve["flags"].to_numpy() & np.uint32(_DOUBTFUL)) != 0
        colour = colour_of(key, position)
        style = {"fmt": ".", "ms": 5, "elinewidth": 0.8, "color": colour}
        axes.errorbar(since[~doubtful], flux[~doubtful] / median, error[~doubtful] / median, **style)
        if np.any(doubtful & np.isfinite(flux)):
            open_style = {**style, "mfc": "white", "label": "flagged (edge, saturated or bad pixel)"}
            axes.errorbar(since[doubtful], flux[doubtful] / median, error[doubtful] / median, **open_style)
            axes.legend(loc="best")
        axes.set_ylabel("Relative flux / median")
        axes.set_title(_title(key, curve), fontsize=11, loc="left")
        axes.ticklabel_format(axis="y", useOffset=False)
        grid(axes)
    panels[-1].set_xlabel(f"Time since {scale} {start:.5f} [{unit}]")
    return figure


def _title(key: str, curve: xr.Dataset) -> str:
    comparisons = curve.attrs.get("comparisons", [])
    shown = ", ".join(map(str, comparisons[:10])) + (
        f" and {len(comparisons) - 10} more" if len(comparisons) > 10 else ""
    )
    return f"{key}: source {curve.attrs.get('target', '?')} against {shown}".strip(": ")
