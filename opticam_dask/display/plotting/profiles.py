"""Plots of single sources: growth curves, profiles, and the apertures they are measured in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from opticam_dask.display.plotting.images import show_stretched
from opticam_dask.display.plotting.style import colour_of, grid, new_figure, require_panels

#: Panels beside each other.
_MOST_COLUMNS = 3
#: More curves than this have no legend entry each.
_MOST_NAMED = 12
#: Sources on a page of profiles.
_PAGE = 4
#: Cut-outs in a row.
_IN_A_ROW = 6
#: Cut-outs of one camera at most.
_MOST_CUTOUTS = 24


def plot_growth_curves(curves: Mapping[str, xr.Dataset]) -> Figure:
    """Flux in growing apertures, in percent of its maximum, one panel a camera.

    Parameters
    ----------
    curves : dict of Dataset
        By camera key: flux, flux_err (source, radius) in electrons, coordinates source_id and radius (pixels);
        attributes ``fwhm`` and ``aperture`` (pixels, NaN when unknown).

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(curves)
    columns = min(len(curves), _MOST_COLUMNS)
    rows = -(-len(curves) // columns)
    figure = new_figure(rows, columns, width=5.2, height=4.4)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (key, dataset) in zip(axes, curves.items(), strict=False):
        panel.set_title(key, loc="left")
        _draw_growth(panel, dataset)
    for panel in axes[len(curves) :]:
        panel.set_visible(False)
    return figure


def _draw_growth(axes: Axes, dataset: xr.Dataset) -> None:
    radius, numbers = dataset["radius"].to_numpy(), dataset["source_id"].to_numpy()
    many = len(numbers) > _MOST_NAMED
    for position, number in enumerate(numbers):
        flux, error = (dataset[name].isel(source=position).to_numpy() for name in ("flux", "flux_err"))
        best = np.nanmax(flux) if np.isfinite(flux).any() else np.nan
        if not best > 0:
            continue
        colour = _line_colour(position, len(numbers))
        axes.plot(radius, 100 * flux / best, color=colour, lw=0.9 if many else 1.5, label=str(int(number)))
        if not many:
            axes.fill_between(
                radius, 100 * (flux - error) / best, 100 * (flux + error) / best, color=colour, alpha=0.15, lw=0
            )
    aperture, fwhm = float(dataset.attrs.get("aperture", np.nan)), float(dataset.attrs.get("fwhm", np.nan))
    if np.isfinite(aperture):
        axes.axvline(aperture, color="0.2", ls="--", lw=1.2, label="aperture" if not many else None)
    axes.set(xlabel="Radius [pixel]", ylabel="Flux inside [% of the maximum]", ylim=(0, 112), xlim=(0, None))
    if np.isfinite(fwhm) and fwhm > 0:
        second = axes.secondary_xaxis("top", functions=(partial(np.multiply, 1.0 / fwhm), partial(np.multiply, fwhm)))
        second.set_xlabel("Radius [FWHM]")
        axes.set_title(axes.get_title(loc="left"), loc="left", pad=34)
    grid(axes)
    if many:
        text = f"{len(numbers)} sources, dark: bright" + ("; dashed: aperture" if np.isfinite(aperture) else "")
        axes.text(0.98, 0.04, text, ha="right", transform=axes.transAxes, fontsize=9)
    elif len(numbers):
        axes.legend(title="Source", loc="lower right", ncols=2 if len(numbers) > 5 else 1, fontsize=9)


def _line_colour(position: int, n_lines: int) -> tuple[float, float, float, float]:
    """Colours of a perceptual map that stays readable for the colour-blind and in grey."""
    return colormaps["viridis"](0.88 * position / max(n_lines - 1, 1))


def profile_pages(key: str, stamps: Mapping[int, Mapping[str, Any]]) -> Iterator[Figure]:
    """Profiles of the sources of one camera, four to a page: contours, and cuts along x and y.

    Parameters
    ----------
    key : str
        Camera key.
    stamps : dict of dict
        By source id: ``image`` and ``model`` (ny, nx) in electrons, ``x``, ``y`` (centre in pixels of the stamp),
        ``x0``, ``y0`` (its lower corner), ``semimajor_sigma``, ``semiminor_sigma`` (pixels), ``orientation`` (deg).

    Yields
    ------
    Figure
    """
    numbers = list(stamps)
    for start in range(0, len(numbers), _PAGE):
        chosen = numbers[start : start + _PAGE]
        figure = new_figure(len(chosen), 1, width=11.0, height=3.3)
        axes = figure.subplots(len(chosen), 3, squeeze=False)
        for row, number in zip(axes, chosen, strict=True):
            _draw_profile(row, key, number, stamps[number])
        yield figure


def _draw_profile(row: np.ndarray, key: str, number: int, stamp: Mapping[str, Any]) -> None:
    image, model = np.asarray(stamp["image"]), np.asarray(stamp["model"])
    x, y, x0, y0 = (float(stamp[name]) for name in ("x", "y", "x0", "y0"))
    ny, nx = image.shape
    columns, rows = x0 + np.arange(nx), y0 + np.arange(ny)
    peak = float(np.nanmax(image)) if np.isfinite(image).any() else 0.0
    row[0].set_title(f"{key}: source {number}", loc="left")
    row[0].imshow(image, origin="lower", cmap="gray_r", extent=(x0 - 0.5, x0 + nx - 0.5, y0 - 0.5, y0 + ny - 0.5))
    if peak > 0:
        levels = (peak * np.array([0.05, 0.1, 0.25, 0.5, 0.75])).tolist()
        row[0].contour(columns, rows, image, levels=levels, cmap="viridis", linewidths=1.0)
    major, minor = (float(stamp[name]) for name in ("semimajor_sigma", "semiminor_sigma"))
    if np.isfinite(major + minor):
        # contour of the half maximum: as wide as one FWHM
        width, height = (2.0 * np.sqrt(2.0 * np.log(2.0)) * value for value in (major, minor))
        ellipse = Ellipse(
            (x0 + x, y0 + y), width, height, angle=float(stamp["orientation"]), fill=False, ec="tab:red", lw=1.5
        )
        row[0].add_patch(ellipse)
        row[0].legend([Line2D([], [], color="tab:red")], ["1 FWHM"], loc="upper right", fontsize=8)
    row[0].set(xlabel="x [pixel]", ylabel="y [pixel]")
    j, i = int(np.clip(round(y), 0, ny - 1)), int(np.clip(round(x), 0, nx - 1))
    colour = colour_of(key)
    for axes, place, data, fitted, name, there in (
        (row[1], columns, image[j], model[j], "x", f"y = {y0 + j:.0f}"),
        (row[2], rows, image[:, i], model[:, i], "y", f"x = {x0 + i:.0f}"),
    ):
        axes.step(place, data, where="mid", color=colour, label="stack")
        if np.isfinite(fitted).any():
            axes.plot(place, fitted, color="0.2", ls="--", lw=1.2, label="Gaussian fit")
        axes.set(xlabel=f"{name} [pixel]", ylabel="Signal [e$^-$ / pixel]")
        axes.set_title(f"cut at {there}", loc="left", fontsize="medium")
        axes.legend(loc="upper right", fontsize=8)
        grid(axes)


def plot_apertures(cutouts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Cut-outs of sources with the apertures they are measured in.

    Parameters
    ----------
    cutouts : dict of list of dict
        By camera key, of each source: ``source_id``, ``image`` (ny, nx), ``x``, ``y`` (pixels of the cut-out), and
        ``aperture`` (semi-major, semi-minor axis in pixels, angle in degrees); ``annulus`` (inner, outer radius in
        pixels) or None.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(cutouts)
    shown = {key: entries[:_MOST_CUTOUTS] for key, entries in cutouts.items()}
    columns = max(1, min(_IN_A_ROW, max(len(entries) for entries in shown.values())))
    rows_of = {key: max(1, -(-len(entries) // columns)) for key, entries in shown.items()}
    figure = new_figure(sum(rows_of.values()), columns, width=2.6, height=2.75)
    axes = figure.subplots(sum(rows_of.values()), columns, squeeze=False)
    begin = 0
    for key, entries in shown.items():
        panels = axes[begin : begin + rows_of[key]].ravel()
        begin += rows_of[key]
        for panel, entry in zip(panels, entries, strict=False):
            _draw_aperture(panel, key, entry)
        for panel in panels[len(entries) :]:
            panel.set_visible(False)
        if len(cutouts[key]) > len(entries):
            panels[0].set_ylabel(f"{len(entries)} of {len(cutouts[key])} sources", fontsize=9)
    handles = [Line2D([], [], color="tab:red", label="aperture")]
    if any(entry.get("annulus") for entries in shown.values() for entry in entries):
        handles.append(Line2D([], [], color="tab:blue", ls="--", label="annulus"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def _draw_aperture(axes: Axes, key: str, entry: Mapping[str, Any]) -> None:
    show_stretched(axes, np.asarray(entry["image"], dtype=float))
    x, y = float(entry["x"]), float(entry["y"])
    major, minor, angle = entry["aperture"]
    rings = [(major, minor, "tab:red", "-")]
    rings += [(radius, radius, "tab:blue", "--") for radius in entry["annulus"] or ()]
    for along, across, colour, style in rings:
        axes.add_patch(Ellipse((x, y), 2 * along, 2 * across, angle=angle, fill=False, ec=colour, ls=style, lw=1.4))
    axes.set_title(f"{key}: source {entry['source_id']}", fontsize=10)
    axes.set(xticks=[], yticks=[])
