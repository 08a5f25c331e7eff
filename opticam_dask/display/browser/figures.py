"""Figures of the browser: images of which only what is in view is sent, and series over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    LinearColorMapper,
    Range1d,
)
from bokeh.palettes import Greys256
from bokeh.plotting import figure

from opticam_dask.display.browser import screen

#: Longest side, in pixels, of an image that is sent; what is zoomed into is sent anew.
_LONGEST_SIDE = 640
#: So many frames in view are drawn one by one; of more, each column of pixels shows the range of its frames.
_MOST_POINTS = 3000
#: Columns of pixels of a series: those of a wide screen.
COLUMNS = 1200

#: Colour of frames that nothing speaks against.
_GOOD = "#2a6fbb"
#: Colour of frames with a flag that matters.
_DOUBTFUL = "#e08214"
#: Colour of what was chosen, and of warnings.
CHOSEN = "#d7191c"
#: Colour of the sources that were not chosen.
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
        self._limits = screen.shade_limits(image)
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
        x0, x1 = _inside(self.figure.x_range, nx)
        y0, y1 = _inside(self.figure.y_range, ny)
        if (window := (x0, x1, y0, y1)) == self._sent or x1 <= x0 or y1 <= y0:
            return
        self._sent = window
        small, factor = screen.shrink(self._image[y0:y1, x0:x1], _LONGEST_SIDE)
        shaded = screen.shade(small, self._limits)
        height, width = (factor * size for size in shaded.shape)
        self.pixels.data = {"image": [shaded], "x": [x0 - 0.5], "y": [y0 - 0.5], "dw": [width], "dh": [height]}


def _inside(axis: Any, size: int) -> tuple[int, int]:
    """First and one past the last pixel of an axis that are in view."""
    low, high = sorted((float(axis.start), float(axis.end)))
    return max(0, int(np.floor(low + 0.5))), min(size, int(np.ceil(high + 0.5)))


def in_view(axis: Any, x: np.ndarray) -> tuple[int, int]:
    """First and one past the last of values in rising order that an axis shows."""
    first, last = np.searchsorted(x, [axis.start, axis.end])
    return int(first), int(last)


def series_figure(name: str, height: int, x_range: Any) -> Any:
    """A figure of values along the frames."""
    shown = figure(
        name=name, height=height, sizing_mode="stretch_width", tools="xpan,xwheel_zoom,reset",
        active_drag="xpan", active_scroll="xwheel_zoom", x_range=x_range, y_range=Range1d(0, 1),
        min_border_left=80, output_backend="canvas",
    )  # fmt: skip
    shown.toolbar.logo = None
    shown.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    return shown


def series_layers(shown: Any) -> dict[str, ColumnDataSource]:
    """Bars and points of a series, doubtful frames below good ones."""
    layers: dict[str, ColumnDataSource] = {}
    for name, color in (("doubtful", _DOUBTFUL), ("good", _GOOD)):
        bars = ColumnDataSource({"x": [], "bottom": [], "top": [], "width": []})
        shown.vbar("x", "width", "top", "bottom", source=bars, fill_color=color, line_color=color, line_width=1)
        points = ColumnDataSource({"x": [], "y": []})
        shown.scatter("x", "y", size=4, source=points, color=color, alpha=0.7)
        layers |= {f"{name} bars": bars, f"{name} points": points}
    return layers


def draw_series(
    layers: dict[str, ColumnDataSource],
    shown: Any,
    x: np.ndarray,
    y: np.ndarray,
    doubtful: np.ndarray,
) -> None:
    """Draw the values that are in view: one by one, or their range in each column of pixels where there are many."""
    first, last = in_view(shown.x_range, x)
    seen = slice(first, last)
    _fit(shown.y_range, y[seen], doubtful[seen])
    for name, chosen in (("good", ~doubtful), ("doubtful", doubtful)):
        bars, points = _no_bars(), {"x": np.empty(0), "y": np.empty(0)}
        values = np.where(chosen, y, np.nan)
        if last - first <= _MOST_POINTS:
            finite = np.isfinite(values[seen])
            points = {"x": x[seen][finite], "y": values[seen][finite].astype(float)}
        else:
            limits = float(shown.x_range.start), float(shown.x_range.end)
            centre, low, high = screen.envelope(x, values, *limits, COLUMNS)
            width = np.full(len(centre), (limits[1] - limits[0]) / COLUMNS)
            bars = {"x": centre, "bottom": low.astype(float), "top": high.astype(float), "width": width}
        layers[f"{name} bars"].data = bars
        layers[f"{name} points"].data = points


def _no_bars() -> dict[str, np.ndarray]:
    return {name: np.empty(0) for name in ("x", "bottom", "top", "width")}


def _fit(axis: Any, values: np.ndarray, doubtful: np.ndarray) -> None:
    """Make an axis span what is in view, but for the wildest of the values."""
    finite = np.isfinite(values)
    chosen = values[finite & ~doubtful] if np.any(finite & ~doubtful) else values[finite]
    if not len(chosen):
        return
    low, high = (float(value) for value in np.percentile(chosen, [0.1, 99.9]))
    pad = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    axis.update(start=low - pad, end=high + pad)
