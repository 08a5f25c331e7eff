"""Plots of the precision of photometry: scatter, signal-to-noise ratio, components of the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from opticam_dask.display.plotting.style import MANY_POINTS, colour_of, grid, new_figure, require_panels
from opticam_dask.kernels.sources.noise import common_scatter
from opticam_dask.lightcurves.reading.columns import CurveArrays

if TYPE_CHECKING:
    import xarray as xr

#: Panels beside each other.
_MOST_COLUMNS = 3
#: A source scatters well above what is expected when it does so by more than this factor.
_WELL_ABOVE = 1.5
#: At most this many of these have their number beside them: more would lie over each other.
_MOST_NUMBERS = 15

_COMPONENTS = {
    "source": ("source", "tab:green", "--"),
    "sky": ("sky", "tab:blue", "-."),
    "dark": ("dark current", "tab:brown", ":"),
    "read": ("read-out", "tab:purple", (0, (5, 1, 1, 1, 1, 1))),
    "scintillation": ("scintillation", "tab:pink", (0, (1, 1))),
    "total": ("total", "black", "-"),
}


def _panels(figure: Figure, n_panels: int, rows_each: int = 1, **options: Any) -> np.ndarray:
    """Axes of shape (rows_each, n_panels), panels beside and below each other."""
    columns = min(n_panels, _MOST_COLUMNS)
    bands = -(-n_panels // columns)
    ratios = [3, 1][:rows_each] * bands
    axes = figure.subplots(bands * rows_each, columns, squeeze=False, height_ratios=ratios, **options)
    together = np.stack([axes[row::rows_each].ravel() for row in range(rows_each)])
    for unused in together[:, n_panels:].ravel():
        unused.set_visible(False)
    return together[:, :n_panels]


def _size(n_panels: int) -> tuple[int, int]:
    columns = min(n_panels, _MOST_COLUMNS)
    return -(-n_panels // columns), columns


def plot_rms_vs_flux(statistics: Mapping[str, xr.Dataset | CurveArrays]) -> Figure:
    """Robust scatter of each source against its median flux; those well above the expectation bear their numbers.

    Parameters
    ----------
    statistics : dict of Dataset
        By camera key, along ``source``: median_flux, scatter (robust standard deviation), median_error in electrons;
        coordinate source_id.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(statistics)
    rows, columns = _size(len(statistics))
    figure = new_figure(rows, columns, width=5.2, height=4.4)
    panels = _panels(figure, len(statistics))[0]
    for position, (axes, (key, dataset)) in enumerate(zip(panels, statistics.items(), strict=True)):
        axes.set_title(key, loc="left")
        _draw_scatter(axes, dataset, colour_of(key, position))
        axes.set(xlabel="Median flux [e$^-$]", ylabel="Scatter of the flux [e$^-$]")
        _log_axes(axes, [dataset["scatter"].to_numpy(), dataset["median_error"].to_numpy()])
        grid(axes)
    return figure


def _draw_scatter(axes: Axes, dataset: xr.Dataset | CurveArrays, colour: str) -> None:
    flux, scatter, error = (dataset[name].to_numpy() for name in ("median_flux", "scatter", "median_error"))
    known = (flux > 0) & (scatter > 0)
    if not known.any():
        _say_nothing(axes)
        return
    common = common_scatter(flux, scatter, error)
    expected = np.hypot(error, common * flux)
    above = known & (scatter > _WELL_ABOVE * expected)
    order = np.argsort(flux)
    order = order[(flux > 0)[order] & (error > 0)[order]]
    axes.plot(flux[order], error[order], color="0.2", lw=1.2, label="median error")
    if common > 0:
        label = f"and {100 * common:.2g} % common to all"
        axes.plot(flux[order], expected[order], color="0.2", lw=1.2, ls="--", label=label)
    many = np.count_nonzero(known) > MANY_POINTS
    calm = known & ~above
    axes.plot(flux[calm], scatter[calm], "o", ms=5, color=colour, label="source", rasterized=many)
    if above.any():
        label = f"more than {_WELL_ABOVE:g} times as much"
        axes.plot(flux[above], scatter[above], "D", ms=6, mfc="white", mec="tab:red", mew=1.5, label=label)
    excess = np.where(above, scatter / expected, 0.0)
    for index in np.argsort(-excess)[: min(_MOST_NUMBERS, int(above.sum()))]:
        _number(axes, dataset["source_id"].to_numpy()[index], flux[index], scatter[index])
    axes.legend(loc="upper left", fontsize=9)


def _number(axes: Axes, number: int, x: float, y: float) -> None:
    axes.annotate(str(int(number)), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)


def _say_nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no source with a flux and a scatter", ha="center", va="center", transform=axes.transAxes)


def _log_axes(axes: Axes, values: list[np.ndarray]) -> None:
    """Logarithmic axes, the vertical one with room above for the legend."""
    together = np.concatenate(values)
    positive = together[together > 0]
    if not len(positive):
        return
    axes.set(xscale="log", yscale="log")
    low, high = float(positive.min()), float(positive.max())
    axes.set_ylim(low / 1.5, high * max(4.0, (high / low) ** 0.6))


def plot_snrs(statistics: Mapping[str, xr.Dataset | CurveArrays]) -> Figure:
    """Signal-to-noise ratio of each source: bars from the errors, points from the scatter over the frames.

    Parameters
    ----------
    statistics : dict of Dataset
        By camera key, along ``source``: median_flux, scatter, median_error in electrons; coordinate source_id.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(statistics)
    figure = new_figure(len(statistics), 1, width=9.0, height=2.7)
    panels = figure.subplots(len(statistics), 1, squeeze=False).ravel()
    for position, (axes, (key, dataset)) in enumerate(zip(panels, statistics.items(), strict=True)):
        axes.set_title(key, loc="left")
        flux, scatter, error = (dataset[name].to_numpy() for name in ("median_flux", "scatter", "median_error"))
        numbers = dataset["source_id"].to_numpy()
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.where((flux > 0) & (error > 0), flux / error, np.nan)
            measured = np.where((flux > 0) & (scatter > 0), flux / scatter, np.nan)
        axes.bar(numbers, expected, color=colour_of(key, position), alpha=0.75, label="flux / error")
        axes.plot(numbers, measured, "o", ms=4, color="black", label="flux / scatter")
        axes.set(ylabel="Signal-to-noise", xlabel="Source")
        if np.isfinite(expected).any():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            lowest = np.nanmin(np.r_[expected, measured])
            axes.set_ylim(0.5 * lowest, 2.0 * np.nanmax(np.r_[expected, measured]))
        else:
            _say_nothing(axes)
        if len(numbers) <= 40:
            axes.set_xticks(numbers)
        axes.set_axisbelow(True)
        axes.grid(axis="y", alpha=0.3, linewidth=0.6)
        axes.legend(loc="upper right", fontsize=9)
    return figure


def plot_noise(statistics: Mapping[str, xr.Dataset | CurveArrays], models: Mapping[str, xr.Dataset]) -> Figure:
    """Relative scatter of the sources against flux, with what theory says it is made of; below, the ratio.

    Parameters
    ----------
    statistics : dict of Dataset
        By camera key, along ``source``: median_flux, scatter, median_error in electrons; coordinate source_id.
    models : dict of Dataset
        By camera key, along ``flux`` (electrons, ascending): 1-sigma noise in electrons of each component, and
        ``total``. Components of zero are not drawn.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(statistics)
    rows, columns = _size(len(statistics))
    figure = new_figure(rows, columns, width=5.4, height=6.2)
    upper, lower = _panels(figure, len(statistics), 2, sharex="col")
    for position, (key, dataset) in enumerate(statistics.items()):
        _draw_noise(upper[position], lower[position], dataset, models[key], colour_of(key, position))
        upper[position].set_title(key, loc="left")
        upper[position].set_ylabel("Scatter / flux")
        lower[position].set(xlabel="Median flux [e$^-$]", ylabel="Measured / total")
    return figure


def _draw_noise(axes: Axes, ratio: Axes, dataset: xr.Dataset | CurveArrays, model: xr.Dataset, colour: str) -> None:
    flux, scatter, error = (dataset[name].to_numpy() for name in ("median_flux", "scatter", "median_error"))
    known = (flux > 0) & (scatter > 0)
    if not known.any() or not model.sizes["flux"]:
        _say_nothing(axes)
        return
    grid_flux = model["flux"].to_numpy()
    for name, (label, line_colour, style) in _COMPONENTS.items():
        if name in model and np.any(model[name].to_numpy() > 0):
            width = 1.8 if name == "total" else 1.3
            axes.plot(grid_flux, model[name] / grid_flux, color=line_colour, ls=style, lw=width, label=label)
    axes.plot(flux[known], scatter[known] / flux[known], "o", ms=5, color=colour, label="measured scatter")
    has_error = (flux > 0) & (error > 0)
    # many large squares would hide what was measured
    points: dict[str, Any] = {"ms": 6 if len(flux) <= 30 else 2.5, "mfc": "none", "mec": "0.3"}
    axes.plot(flux[has_error], error[has_error] / flux[has_error], "s", label="median error", **points)
    total_known = np.interp(np.log(flux[known]), np.log(grid_flux), model["total"].to_numpy())
    with_total = scatter[known] / total_known
    ratio.axhspan(0.95, 1.05, color="0.85", zorder=0)
    ratio.axhline(1.0, color="black", lw=1.2)
    ratio.plot(flux[known], with_total, "o", ms=5, color=colour)
    total = np.interp(np.log(flux[has_error]), np.log(grid_flux), model["total"].to_numpy())
    ratio.plot(flux[has_error], error[has_error] / total, "s", **points)
    if with_total.max() > 5.0:
        ratio.set_yscale("log")
        ratio.yaxis.set_major_formatter("{x:g}")
    else:
        ratio.set_ylim(0.0, 1.2 * max(1.2, float(with_total.max())))
    axes.set(xscale="log", yscale="log")
    relative = (model["total"] / grid_flux).to_numpy()
    measured = scatter[known] / flux[known]
    top = max(float(relative.max()), float(measured.max()))
    axes.set_ylim(0.1 * float(relative.min()), 2.0 * top)
    common = common_scatter(flux, scatter, error)
    if common > 0:
        label = f"and {100 * common:.2g} % common to all"
        axes.plot(grid_flux, np.hypot(relative, common), color="black", ls="--", lw=1.2, label=label)
    above = measured > _WELL_ABOVE * np.hypot(total_known / flux[known], common)
    for index in np.flatnonzero(known)[above][:_MOST_NUMBERS]:
        _number(axes, dataset["source_id"].to_numpy()[index], flux[index], scatter[index] / flux[index])
    grid(axes)
    grid(ratio)
    axes.legend(loc="lower left", fontsize=8, ncols=2)
