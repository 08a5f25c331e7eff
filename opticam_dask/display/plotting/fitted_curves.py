"""Plots of fits to light curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opticam_dask.display.plotting.style import MANY_POINTS, colour_of, grid, new_figure, require_panels
from opticam_dask.kernels.units import HOURS_PER_DAY

#: Means that are drawn over the points of a panel.
_MEANS = 25


def plot_fit(fit: xr.Dataset) -> Figure:
    """Light curves without their baselines, the fitted shape, and residuals, one column a camera and night.

    Parameters
    ----------
    fit : Dataset
        From :func:`~opticam_dask.fit_transit` or its like.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When the fit has no points.
    """
    keys, nights = fit["key"].to_numpy().astype(object), fit["night"].to_numpy().astype(object)
    panels = list(dict.fromkeys(zip(keys.tolist(), nights.tolist(), strict=True)))
    require_panels(dict.fromkeys(map(str, panels)))
    figure = new_figure(rows=1, columns=len(panels), width=7.0 if len(panels) == 1 else 4.8, height=5.5)
    axes = figure.subplots(2, len(panels), squeeze=False, sharey="row", sharex="col", height_ratios=[3, 1])
    for position, (column, (key, night)) in enumerate(zip(axes.T, panels, strict=True)):
        rows = np.flatnonzero((keys == key) & (nights == night))
        _draw(column[0], column[1], fit.isel(point=rows), colour_of(key, position))
        column[0].set_title(f"{key} {night}".strip(), fontsize="medium", loc="left")
    axes[0, 0].set_ylabel("Relative flux / baseline")
    axes[1, 0].set_ylabel("Residual [%]")
    return figure


def _draw(above: Axes, below: Axes, fit: xr.Dataset, colour: str) -> None:
    time, used = fit["bjd"].to_numpy(), fit["is_fitted"].to_numpy()
    flux, error, model = (fit[name].to_numpy() for name in ("relative_flux", "relative_flux_err", "model"))
    middle = np.floor(float(np.median(time)) * 10.0) / 10.0
    hours = HOURS_PER_DAY * (time - middle)
    is_rastered = len(time) > MANY_POINTS
    style: dict[str, Any] = {"fmt": "o", "ms": 3.0, "lw": 0.6, "color": colour, "rasterized": is_rastered}
    above.errorbar(hours[used], flux[used], error[used], alpha=0.55, **style)
    below.errorbar(hours[used], 100 * (flux - model)[used], 100 * error[used], alpha=0.55, **style)
    if not used.all():
        above.plot(hours[~used], flux[~used], "x", color="tab:gray", ms=5, label="not fitted")
    if used.sum() > 2 * _MEANS:
        groups = np.array_split(np.flatnonzero(used), _MEANS)
        at = [float(hours[group].mean()) for group in groups]
        above.plot(at, [float(flux[group].mean()) for group in groups], "ks", ms=4, label="means")
        below.plot(at, [100 * float((flux - model)[group].mean()) for group in groups], "ks", ms=3)
    above.plot(hours, model, color="tab:red", lw=1.8, zorder=5, label="fit")
    below.axhline(0.0, color="tab:red", lw=1.2)
    below.set_xlabel(f"Hours since BJD (TDB) {middle:.1f}")
    above.ticklabel_format(axis="y", useOffset=False)
    above.legend(fontsize="small", loc="best")
    for one in (above, below):
        grid(one)
