"""Plots of differential light curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opticam_dask.flags import SourceFlag
from opticam_dask.plotting.style import (
    MANY_POINTS,
    colour_of,
    count_outside,
    grid,
    new_figure,
    require_panels,
    robust_limits,
)
from opticam_dask.plotting.times import best_axis, time_panels

#: Flares and eclipses are meant to be seen: only what is much further out than all else stays outside.
_REACH = 10.0
#: Points with one of these flags are drawn open.
_DOUBTFUL = SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.BAD_PIXEL


def plot_relative_light_curve(curves: xr.Dataset | Mapping[str, xr.Dataset]) -> Figure:
    """Differential light curves, divided by their medians, one panel a camera.

    Points whose aperture is cut by the edge, saturated or has bad pixels are drawn open.

    Parameters
    ----------
    curves : Dataset or dict of Dataset
        Light curve, or light curves by camera key: relative_flux, relative_flux_err, flags, bmjd_tdb, mjd_utc.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no light curve.
    """
    of_key = {str(curves.attrs.get("key", "")): curves} if isinstance(curves, xr.Dataset) else dict(curves)
    require_panels(of_key)
    axis = best_axis(of_key)
    figure = new_figure(rows=len(of_key), width=9.0, height=3.0 if len(of_key) > 1 else 4.5)
    panels = time_panels(figure, len(of_key), axis)
    for position, (row, (key, curve)) in enumerate(zip(panels, of_key.items(), strict=True)):
        n_open = int(np.count_nonzero(_is_doubtful(curve) & np.isfinite(curve["relative_flux"].to_numpy())))
        note = f"\nopen: {n_open} points with edge, saturated or bad pixels" if n_open else ""
        row[0].set_title(_title(key, curve) + note, fontsize="medium", loc="left")
        row[0].ticklabel_format(axis="y", useOffset=False)
        _draw_curve(row, axis.since[key], curve, colour_of(key, position))
    return figure


def _draw_curve(row: Sequence[Axes] | np.ndarray, since: np.ndarray, curve: xr.Dataset, colour: str) -> None:
    """One light curve over the columns of a row of axes."""
    flux, error = curve["relative_flux"].to_numpy(), np.abs(curve["relative_flux_err"].to_numpy())
    known = np.isfinite(flux) & np.isfinite(since)
    median = float(np.median(flux[known])) if known.any() else 0.0
    if median > 0:
        flux, error = flux / median, error / median
    row[0].set_ylabel("Relative flux / median" if median > 0 else "Relative flux")
    doubtful = _is_doubtful(curve)
    for axes in row:
        low, high = axes.get_xlim()
        shown = known & (since >= low) & (since <= high)
        _points(axes, shown & ~doubtful, since, flux, error, color=colour)
        _points(axes, shown & doubtful, since, flux, error, color=colour, mfc="white", ms=6)
        grid(axes)
    limits = robust_limits(flux[known & ~doubtful], reach=_REACH)
    if limits is not None:
        row[0].set_ylim(*limits)
        count_outside(row[-1], int(np.count_nonzero(known & ((flux < limits[0]) | (flux > limits[1])))))


def _points(
    axes: Axes, chosen: np.ndarray, since: np.ndarray, flux: np.ndarray, error: np.ndarray, **style: object
) -> None:
    if not chosen.any():
        return
    options = {"fmt": "o", "ms": 3.5, "elinewidth": 0.7, "rasterized": np.count_nonzero(chosen) > MANY_POINTS, **style}
    axes.errorbar(since[chosen], flux[chosen], error[chosen], **options)  # type: ignore[arg-type]


def _title(key: str, curve: xr.Dataset) -> str:
    target, comparisons = curve.attrs.get("target"), list(curve.attrs.get("comparisons", []))
    if target is None:
        return key
    shown = ", ".join(map(str, comparisons[:10]))
    more = f" and {len(comparisons) - 10} more" if len(comparisons) > 10 else ""
    return f"{key}: source {target} against {shown}{more}".removeprefix(": ")


def _is_doubtful(curve: xr.Dataset) -> np.ndarray:
    return (curve["flags"].to_numpy() & np.uint32(_DOUBTFUL)) != 0
