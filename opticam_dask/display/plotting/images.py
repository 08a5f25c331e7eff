"""Plots of images: stacks with the sources of their catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from opticam_dask.display.plotting.style import new_figure, require_panels
from opticam_dask.lightcurves.reading.columns import CurveArrays

if TYPE_CHECKING:
    import xarray as xr

#: Circles around sources have this radius in units of their median FWHM,
_CIRCLE = 2.0
#: and at least this share of the image.
_LEAST_CIRCLE = 0.008
#: Assumed when no source has a FWHM, in pixels.
_USUAL_FWHM = 4.0
#: Images side by side in a figure, at most.
_MOST_COLUMNS = 3
#: Black is at least this many times the noise above the sky, so that noise alone stays light.
_LEAST_RANGE = 30.0


def plot_catalogs(panels: Mapping[str, tuple[np.ndarray, xr.Dataset | CurveArrays]]) -> Figure:
    """Stack of each camera with its catalogue: circles and source numbers.

    Parameters
    ----------
    panels : dict of (ndarray, Dataset)
        By camera key: the stack ``(ny, nx)`` and the catalogue with x, y, source_id and fwhm in pixels.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(panels)
    columns = min(len(panels), _MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    tallest = max(image.shape[0] / image.shape[1] for image, _ in panels.values())
    # room for title and labels; images much wider or taller than a square get margins
    figure = new_figure(rows, columns, width=6.0, height=0.9 + 5.3 * min(max(tallest, 0.3), 2.0))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (key, (image, catalogue)) in zip(axes, panels.items(), strict=False):
        show_stretched(panel, image)
        _mark_sources(panel, image.shape, catalogue)
        n_sources = catalogue.sizes["source"]
        panel.set_title(f"{key}: {n_sources} source{'' if n_sources == 1 else 's'}", fontsize=13)
        panel.set(xlabel="x [pixel]", ylabel="y [pixel]")
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return figure


def show_stretched(axes: Axes, image: np.ndarray) -> None:
    """Image in an inverse hyperbolic sine stretch between the sky and the bright stars; no data is light red."""
    known = image[np.isfinite(image)]
    low, middle, high, top = np.percentile(known, [16, 50, 84, 99.9]) if len(known) else (-1.0, 0.0, 1.0, 5.0)
    # an image that is half empty has no scatter there
    noise = max(float(middle - low), 0.1 * float(high - middle), 1e-9 * float(top - low), 1e-12)
    stretched = np.arcsinh((image - middle) / (3.0 * noise))
    brightest = float(np.arcsinh(max(float(top - middle), _LEAST_RANGE * noise) / (3.0 * noise)))
    axes.set_facecolor("mistyrose")
    axes.imshow(stretched, origin="lower", cmap="gray_r", vmin=-0.5, vmax=brightest, interpolation="auto")


def _mark_sources(axes: Axes, shape: tuple[int, ...], catalogue: xr.Dataset | CurveArrays) -> None:
    x, y = catalogue["x"].to_numpy(), catalogue["y"].to_numpy()
    fwhm = catalogue["fwhm"].to_numpy()
    typical = float(np.nanmedian(fwhm)) if np.isfinite(fwhm).any() else _USUAL_FWHM
    radius = max(_CIRCLE * typical, _LEAST_CIRCLE * max(shape))
    sizes = np.full(len(x), 2 * radius)
    circles = EllipseCollection(
        sizes,
        sizes,
        np.zeros(len(x)),
        units="xy",
        offsets=np.column_stack([x, y]),
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors="tab:red",
        linewidths=1.2,
    )
    axes.add_collection(circles, autolim=False)
    size = 11 if len(x) <= 30 else 7
    for number, centre_x, centre_y in zip(catalogue["source_id"].to_numpy(), x, y, strict=True):
        # towards the middle where the number would leave the image
        right, up = centre_x < 0.93 * shape[1], centre_y < 0.95 * shape[0]
        axes.annotate(
            str(int(number)),
            (centre_x + (0.75 if right else -0.75) * radius, centre_y + (0.75 if up else -0.75) * radius),
            xytext=(1 if right else -1, 1 if up else -1),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if up else "top",
            color="tab:blue",
            fontsize=size,
            fontweight="bold",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def plot_background_meshes(panels: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]]) -> Figure:
    """Sky mesh of a frame of each camera: its boxes over the image, the level and the scatter at its points.

    Parameters
    ----------
    panels : dict of (ndarray, ndarray, ndarray, (int, int))
        By camera key: image ``(ny, nx)``, mesh of the sky and mesh of its scatter in electrons per pixel, and the box
        ``(ny, nx)`` in pixels.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    require_panels(panels)
    figure = new_figure(len(panels), 3, width=4.6, height=4.2)
    axes = figure.subplots(len(panels), 3, squeeze=False)
    for row, (key, (image, mesh, rms_mesh, box)) in zip(axes, panels.items(), strict=True):
        show_stretched(row[0], image)
        _outline_boxes(row[0], image.shape, box)
        ny, nx = image.shape
        row[0].set_title(f"{key}: boxes of {box[1]} x {box[0]} pixels", loc="left")
        extent = (-0.5, mesh.shape[1] * box[1] - 0.5, -0.5, mesh.shape[0] * box[0] - 0.5)
        titles = ("Sky background", "Scatter of the sky")
        for panel, values, title in zip(row[1:], (mesh, rms_mesh), titles, strict=True):
            shown = panel.imshow(values, origin="lower", extent=extent, cmap="viridis", interpolation="nearest")
            panel.set_title(f"{key}: {title.lower()}", loc="left")
            figure.colorbar(shown, ax=panel, label=f"{title} [e$^-$ / pixel]", shrink=0.85)
        for panel in row:
            panel.set(xlabel="x [pixel]", ylabel="y [pixel]", xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
    return figure


def _outline_boxes(axes: Axes, shape: tuple[int, ...], box: tuple[int, int]) -> None:
    ny, nx = shape
    columns, rows = np.arange(0, nx + 1, box[1]) - 0.5, np.arange(0, ny + 1, box[0]) - 0.5
    axes.vlines(columns, -0.5, ny - 0.5, color="tab:red", lw=0.5, alpha=0.6)
    axes.hlines(rows, -0.5, nx - 0.5, color="tab:red", lw=0.5, alpha=0.6)
