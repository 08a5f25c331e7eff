"""Figures of the browser: pictures that keep their shape, rings around sources, facts about what is shown."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, LinearColorMapper, Range1d
from bokeh.palettes import Greys256
from bokeh.plotting import figure

from opticam_dask.display import browsing, frame_pictures
from opticam_dask.display.browsing import CameraView
from opticam_dask.display.frame_pictures import Ellipse, FramePicture
from opticam_dask.locations import location
from opticam_dask.text import printable

#: Longest side, in pixels, of an image that is sent; what is zoomed into is sent anew.
_LONGEST_SIDE = 640

#: Colours of what is shown: usual frames, doubtful ones, what was chosen, rings of other sources.
GOOD = "#2a6fbb"
DOUBTFUL = "#e08214"
CHOSEN = "#d7191c"
RING = "#43c6db"


class ImageFigure:
    """A figure with an image of which only what is in view is sent, shrunk to the size of the screen."""

    def __init__(self, name: str, title: str, side: int) -> None:
        ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(0, 1)}
        self.figure = figure(
            name=name, title=title, frame_width=side, frame_height=side, **ranges,
            tools="pan,wheel_zoom,box_zoom,reset", active_scroll="wheel_zoom", toolbar_location="right",
        )  # fmt: skip
        self.figure.grid.visible = False
        self.figure.toolbar.logo = None
        self.figure.background_fill_color = "#20252b"
        self.pixels = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        colors = LinearColorMapper(palette=Greys256, low=0, high=255)
        self.figure.image("image", x="x", y="y", dw="dw", dh="dh", color_mapper=colors, source=self.pixels)
        self._image: np.ndarray | None = None
        self._limits = (0.0, 1.0, 1.0)
        self._sent: tuple[int, ...] = ()

    def show(self, image: np.ndarray | None, *, keep_view: bool) -> None:
        """Show another image; ``keep_view`` does not zoom out."""
        same_shape = self._image is not None and image is not None and self._image.shape == image.shape
        self._image, self._sent = image, ()
        if image is None:
            self.pixels.data = {"image": [], "x": [], "y": [], "dw": [], "dh": []}
            return
        self._limits = frame_pictures.shade_limits(image)
        if not (keep_view and same_shape):
            ny, nx = image.shape
            pad = abs(nx - ny) / 2
            x, y = (0.0, pad) if nx >= ny else (pad, 0.0)
            for axis, first, last in ((self.figure.x_range, -x, nx + x), (self.figure.y_range, -y, ny + y)):
                axis.update(start=first - 0.5, end=last - 0.5, reset_start=first - 0.5, reset_end=last - 0.5)
        self.send()

    def send(self) -> None:
        """Send the pixels in view."""
        if self._image is None:
            return
        ny, nx = self._image.shape
        x0, x1 = is_inside(self.figure.x_range, nx)
        y0, y1 = is_inside(self.figure.y_range, ny)
        if (window := (x0, x1, y0, y1)) == self._sent or x1 <= x0 or y1 <= y0:
            return
        self._sent = window
        small, factor = frame_pictures.shrink(self._image[y0:y1, x0:x1], _LONGEST_SIDE)
        shaded = frame_pictures.shade(small, self._limits)
        height, width = (factor * size for size in shaded.shape)
        self.pixels.data = {"image": [shaded], "x": [x0 - 0.5], "y": [y0 - 0.5], "dw": [width], "dh": [height]}


def is_inside(axis: Any, size: int) -> tuple[int, int]:
    """First and one past the last pixel of an axis that are in view."""
    low, high = sorted((float(axis.start), float(axis.end)))
    return max(0, int(np.floor(low + 0.5))), min(size, int(np.ceil(high + 0.5)))


def add_ring(columns: dict[str, list[Any]], x: float, y: float, shape: Ellipse, color: str) -> None:
    """Add a ring around a source to the columns of a data source."""
    values = (x, y, 2 * shape.semimajor_axis, 2 * shape.semiminor_axis, np.deg2rad(shape.angle), color)
    for name, value in zip(columns, values, strict=True):
        columns[name].append(value)


def without_bars() -> dict[str, np.ndarray]:
    """Columns of an error bar plot in which nothing is drawn."""
    return {name: np.empty(0) for name in ("x", "bottom", "top", "width")}


def fit_range(axis: Any, values: np.ndarray, doubtful: np.ndarray) -> None:
    """Make an axis span what is in view, but for the wildest of the values."""
    finite = np.isfinite(values)
    chosen = values[finite & ~doubtful] if np.any(finite & ~doubtful) else values[finite]
    if not len(chosen):
        return
    low, high = (float(value) for value in np.percentile(chosen, [0.1, 99.9]))
    pad = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    axis.update(start=low - pad, end=high + pad)


def warning_text(text: str) -> str:
    """Text that stands out."""
    return f'<p style="color:{CHOSEN};margin:4px 0">{html.escape(printable(text))}</p>'


def facts_table(picture: FramePicture, view: CameraView, source_id: int) -> str:
    """What is known of a frame and of the chosen source in it, as HTML."""
    rows = [("file", os.path.basename(picture.file)), ("night", picture.night)]
    rows.append(("MJD (UTC)", f"{picture.mjd_utc:.8f}"))
    names = {"exposure_time": "exposure (s)", **browsing.STRIPS, "airmass": "airmass"}
    rows += [(told, f"{picture.values[name]:.5g}") for name, told in names.items() if np.isfinite(picture.values[name])]
    rows.append(("frame flags", ", ".join(picture.flags) or "none"))
    if source_id:
        flux, flags = float(view.light_curve(source_id)[0][picture.index]), view.source_flags(picture.index, source_id)
        rows.append((f"source {source_id}", f"{flux:.6g} electrons" if np.isfinite(flux) else "no flux"))
        rows.append(("its flags", ", ".join(flags) or "none"))
    if picture.apertures:
        sizes = ", ".join(f"{shape.semimajor_axis:.2f}" for shape in picture.apertures)
        rows.append(("aperture (pixel)" if picture.has_aperture else "circle: one FWHM", sizes))
    told = [text for text in (picture.message and f"Set aside: {picture.message}", picture.problem) if text]
    warning = "".join(warning_text(text) for text in told)
    cells = "".join(
        f'<tr><td style="color:#666;padding-right:8px">{html.escape(name)}</td>'
        f'<td style="word-break:break-all">{html.escape(printable(value))}</td></tr>'
        for name, value in rows
    )
    return f'{warning}<table style="font-size:11px;line-height:1.15">{cells}</table>'


class Views:
    """Cameras of one reduction that are open, for one page: what it has chosen is theirs."""

    def __init__(self, out_directory: str | Path) -> None:
        self.out_directory = location(out_directory)
        self.keys = browsing.open_cameras(out_directory)
        self._open: dict[tuple[str, str | None], CameraView] = {}

    def get(self, key: str, label: str | None = None) -> CameraView:
        """One camera with one photometry label, which stays open."""
        if (key, label) not in self._open:
            self._open[key, label] = CameraView(self.out_directory, key, label)
        return self._open[key, label]

    def forget(self) -> None:
        """Open everything anew, as for a reduction that goes on."""
        self._open.clear()
