"""Plots of images: stacks with the sources of their catalogues."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from opticam_dask.plotting.style import new_figure

#: Circles around sources have this radius in units of their FWHM.
_CIRCLE = 2.0


def plot_catalogs(panels: Mapping[str, tuple[np.ndarray, xr.Dataset]]) -> Figure:
    """Stack of each camera with its catalogue: circles and source numbers.

    Parameters
    ----------
    panels : dict of (ndarray, Dataset)
        By camera key: the stack ``(ny, nx)`` and the catalogue with x, y, source_id and fwhm in pixels.

    Returns
    -------
    Figure
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(rows, columns, width=6.0, height=6.2)
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for panel, (key, (image, catalogue)) in zip(axes, panels.items(), strict=False):
        _show_stretched(panel, image)
        _mark_sources(panel, catalogue)
        panel.set_title(f"{key}: {catalogue.sizes['source']} sources", fontsize=13)
        panel.set(xlabel="x [pixel]", ylabel="y [pixel]")
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    return figure


def _show_stretched(axes: Axes, image: np.ndarray) -> None:
    """Image in an inverse hyperbolic sine stretch between the sky and the bright stars; no data is light grey."""
    known = image[np.isfinite(image)]
    middle, low, high = np.percentile(known, [50, 16, 99.9]) if len(known) else (0.0, -1.0, 1.0)
    noise = max(float(middle - low), 1e-12)
    stretched = np.arcsinh((image - middle) / (3.0 * noise))
    top = float(np.arcsinh(max(high - middle, 5 * noise) / (3.0 * noise)))
    axes.set_facecolor("0.85")
    axes.imshow(stretched, origin="lower", cmap="gray_r", vmin=-0.5, vmax=top, interpolation="nearest")


def _mark_sources(axes: Axes, catalogue: xr.Dataset) -> None:
    x, y = catalogue["x"].to_numpy(), catalogue["y"].to_numpy()
    fwhm = catalogue["fwhm"].to_numpy()
    typical = float(np.nanmedian(fwhm)) if np.isfinite(fwhm).any() else 4.0
    radius = np.full(len(x), _CIRCLE * typical)
    circles = EllipseCollection(
        2 * radius,
        2 * radius,
        np.zeros(len(x)),
        units="xy",
        offsets=np.column_stack([x, y]),
        offset_transform=axes.transData,
        facecolors="none",
        edgecolors="tab:red",
        linewidths=1.2,
    )
    axes.add_collection(circles)
    size = 11 if len(x) <= 30 else 7
    for number, left, low in zip(catalogue["source_id"].to_numpy(), x, y, strict=True):
        axes.annotate(
            str(int(number)),
            (left + radius[0], low + radius[0]),
            color="tab:blue",
            fontsize=size,
            fontweight="bold",
            annotation_clip=True,
        )
