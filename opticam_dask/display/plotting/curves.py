"""Plots of differential light curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opticam_dask.display.plotting.style import (
    MANY_POINTS,
    colour_of,
    count_outside,
    grid,
    new_figure,
    require_panels,
    robust_limits,
)
from opticam_dask.display.plotting.times import best_axis, time_panels
from opticam_dask.flags import SourceFlag
from opticam_dask.kernels.robust import MAD_TO_SIGMA
from opticam_dask.kernels.series.lightcurve import relative_flux
from opticam_dask.lightcurves.reading.columns import CurveArrays

if TYPE_CHECKING:
    import xarray as xr

#: Flares and eclipses are meant to be seen: only what is much further out than all else stays outside.
_REACH = 10.0
#: Points with one of these flags are drawn open.
_DOUBTFUL = SourceFlag.EDGE | SourceFlag.SATURATED | SourceFlag.BAD_PIXEL


def plot_relative_light_curve(curves: xr.Dataset | Mapping[str, xr.Dataset | CurveArrays]) -> Figure:
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
    of_key = _by_key(curves)
    require_panels(of_key)
    axis = best_axis(of_key)
    figure = new_figure(rows=len(of_key), width=9.0, height=3.0 if len(of_key) > 1 else 4.5)
    panels = time_panels(figure, len(of_key), axis)
    for position, (row, (key, curve)) in enumerate(zip(panels, of_key.items(), strict=True)):
        n_open = int(np.count_nonzero(_is_doubtful(curve) & np.isfinite(curve["relative_flux"].to_numpy())))
        points = "point" if n_open == 1 else "points"
        note = f"\nopen: {n_open} {points} with edge, saturated or bad pixels" if n_open else ""
        row[0].set_title(_title(key, curve) + note, fontsize="medium", loc="left")
        row[0].ticklabel_format(axis="y", useOffset=False)
        _draw_curve(row, axis.since[key], curve, colour_of(key, position))
    return figure


def _by_key(curves: Any) -> dict[str, Any]:
    """Light curves by camera key; a single one is recognised by its attribute ``attrs``, without importing xarray."""
    attributes = getattr(curves, "attrs", None)
    return dict(curves) if attributes is None else {str(attributes.get("key", "")): curves}


#: Comparisons that are shown one by one.
_MOST_COMPARISONS = 12


def plot_comparisons(members: xr.Dataset) -> Figure:
    """The target against each comparison (left), and each comparison against the sum of the others (right).

    Parameters
    ----------
    members : Dataset
        Dims ``(frame, source)``, the target first: flux, flux_err; coordinates source_id, bmjd_tdb, mjd_utc; attribute
        key.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        With no comparison.
    """
    numbers = members["source_id"].to_numpy().tolist()
    if len(numbers) < 2:
        raise ValueError("expected a target and at least one comparison, got no comparison")
    flux, error = members["flux"].to_numpy(), members["flux_err"].to_numpy()
    shown = range(1, min(len(numbers), _MOST_COMPARISONS + 1))
    axis = best_axis({str(members.attrs.get("key", "")): members.isel(source=0)})
    since = next(iter(axis.since.values()))
    figure = new_figure(rows=len(shown), columns=2, width=5.0, height=1.8)
    panels = figure.subplots(len(shown), 2, squeeze=False, sharex=True)
    for row, column in zip(panels, shown, strict=True):
        one = slice(column, column + 1)
        ratio, ratio_err = relative_flux(flux[:, 0], error[:, 0], flux[:, one], error[:, one])
        _draw_ratio(row[0], since, ratio, ratio_err, f"{numbers[0]} / {numbers[column]}", "tab:blue")
        others = [other for other in range(1, len(numbers)) if other != column]
        if not others:
            row[1].set_visible(False)
            continue
        ratio, ratio_err = relative_flux(flux[:, column], error[:, column], flux[:, others], error[:, others])
        name = f"{numbers[column]} / {numbers[others[0]]}" if len(others) == 1 else f"{numbers[column]} / all others"
        _draw_ratio(row[1], since, ratio, ratio_err, name, "tab:gray")
    left_out = f", the first {len(shown)} of {len(numbers) - 1} comparisons" if len(shown) < len(numbers) - 1 else ""
    figure.suptitle(
        f"{members.attrs.get('key', '')}: flux ratios divided by their medians{left_out}", fontsize="medium"
    )
    figure.supxlabel(axis.label, fontsize="medium")
    return figure


def _draw_ratio(
    axes: Axes, since: np.ndarray, ratio: np.ndarray, ratio_err: np.ndarray, name: str, colour: str
) -> None:
    """One ratio of fluxes, with its scatter beside the scatter that its errors predict."""
    known = np.isfinite(ratio) & np.isfinite(since)
    median = float(np.median(ratio[known])) if known.any() else 0.0
    if not median > 0:
        axes.set_title(f"{name}: not known in any frame", fontsize="small", loc="left")
        return
    values, errors = ratio / median, np.abs(ratio_err / median)
    _points(axes, known, since, values, errors, color=colour, ms=2.5)
    scatter = MAD_TO_SIGMA * float(np.median(np.abs(values[known] - 1.0)))
    expected = float(np.median(errors[known]))
    axes.set_title(
        f"{name}: scatter {100 * scatter:.2f} %, expected {100 * expected:.2f} %", fontsize="small", loc="left"
    )
    axes.ticklabel_format(axis="y", useOffset=False)
    limits = robust_limits(values[known], reach=_REACH)
    if limits is not None:
        axes.set_ylim(*limits)
    grid(axes)


def _draw_curve(
    row: Sequence[Axes] | np.ndarray, since: np.ndarray, curve: xr.Dataset | CurveArrays, colour: str
) -> None:
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
    options: dict[str, Any] = {"fmt": "o", "ms": 3.5, "elinewidth": 0.7, **style}
    options["rasterized"] = np.count_nonzero(chosen) > MANY_POINTS
    axes.errorbar(since[chosen], flux[chosen], error[chosen], **options)


def _title(key: str, curve: xr.Dataset | CurveArrays) -> str:
    target, comparisons = curve.attrs.get("target"), list(curve.attrs.get("comparisons", []))
    if target is None:
        return key
    shown = ", ".join(map(str, comparisons[:10]))
    more = f" and {len(comparisons) - 10} more" if len(comparisons) > 10 else ""
    return f"{key}: source {target} against {shown}{more}".removeprefix(": ")


def _is_doubtful(curve: xr.Dataset | CurveArrays) -> np.ndarray:
    return (curve["flags"].to_numpy() & np.uint32(_DOUBTFUL)) != 0
