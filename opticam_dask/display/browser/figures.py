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
#: This many frames in view are drawn one by one; of more, each column of pixels shows the range of its frames.
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
#: Colour of comparisons.
COMPARISON = "#f2c230"
#: Room beside an image for its axis,
_LEFT_OF_IMAGE = 44
#: for its tools,
_RIGHT_OF_IMAGE = 34
#: and above it for its title, in pixels of the screen.
_ABOVE_IMAGE = 28
#: Error bars are drawn in this strength.
_BAR_ALPHA = 0.45
#: Room for the numbers of the vertical axis, pixels: the frames of all series begin below each other.
_LEFT = 92


class ImageFigure:
    """A figure with an image of which only what is in view is sent, shrunk to the size of the screen."""

    def __init__(self, name: str, title: str, side: int) -> None:
        ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(0, 1)}
        # borders of a known size make the frame a square of this side
        self.figure = figure(
            name=name, title=title, **ranges, tools="pan,wheel_zoom,box_zoom,reset", active_scroll="wheel_zoom",
            toolbar_location="right", width=side + _LEFT_OF_IMAGE + _RIGHT_OF_IMAGE, height=side + 2 * _ABOVE_IMAGE,
            min_border_left=_LEFT_OF_IMAGE, min_border_right=_RIGHT_OF_IMAGE, min_border_top=_ABOVE_IMAGE,
            min_border_bottom=_ABOVE_IMAGE,
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

    def show(self, image: np.ndarray | None, *, keep_view: bool, shaded_by: np.ndarray | None = None) -> None:
        """Show another image; ``keep_view`` does not zoom out; pixels ``shaded_by`` give black and white."""
        same_shape = self._image is not None and image is not None and self._image.shape == image.shape
        self._image, self._sent = image, ()
        if image is None:
            self.pixels.data = {"image": [], "x": [], "y": [], "dw": [], "dh": []}
            return
        self._limits = screen.shade_limits(image if shaded_by is None else shaded_by)
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
        min_border_left=_LEFT, output_backend="canvas",
    )  # fmt: skip
    shown.toolbar.logo = None
    shown.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    return shown


def series_layers(shown: Any, good: str = _GOOD) -> dict[str, ColumnDataSource]:
    """Ranges, points and error bars of a series, doubtful frames below good ones."""
    layers: dict[str, ColumnDataSource] = {}
    for name, color in (("doubtful", _DOUBTFUL), ("good", good)):
        bars = ColumnDataSource({"x": [], "bottom": [], "top": [], "width": []})
        shown.vbar("x", "width", "top", "bottom", source=bars, fill_color=color, line_color=color, line_width=1)
        points = ColumnDataSource({"x": [], "y": [], "low": [], "high": []})
        shown.segment("x", "low", "x", "high", source=points, color=color, alpha=_BAR_ALPHA)
        shown.scatter("x", "y", size=4, source=points, color=color, alpha=0.7)
        layers |= {f"{name} bars": bars, f"{name} points": points}
    return layers


def draw_series(
    layers: dict[str, ColumnDataSource],
    shown: Any,
    x: np.ndarray,
    y: np.ndarray,
    doubtful: np.ndarray,
    error: np.ndarray | None = None,
) -> None:
    """Draw the values that are in view: one by one with errors, or their range in each column where there are many."""
    first, last = in_view(shown.x_range, x)
    seen = slice(first, last)
    good = np.where(doubtful, np.nan, y)[seen]
    fit_axis(shown.y_range, good if np.isfinite(good).any() else y[seen])
    half = np.zeros(len(y)) if error is None else np.nan_to_num(error.astype(float))
    for name, chosen in (("good", ~doubtful), ("doubtful", doubtful)):
        bars, points = _empty("x", "bottom", "top", "width"), _empty("x", "y", "low", "high")
        values = np.where(chosen, y, np.nan)
        if last - first <= _MOST_POINTS:
            finite = np.isfinite(values[seen])
            at, drawn, reach = x[seen][finite], values[seen][finite].astype(float), half[seen][finite]
            points = {"x": at, "y": drawn, "low": drawn - reach, "high": drawn + reach}
        else:
            limits = float(shown.x_range.start), float(shown.x_range.end)
            centre, low, high = screen.envelope(x, values, *limits, COLUMNS)
            width = np.full(len(centre), (limits[1] - limits[0]) / COLUMNS)
            bars = {"x": centre, "bottom": low.astype(float), "top": high.astype(float), "width": width}
        layers[f"{name} bars"].data = bars
        layers[f"{name} points"].data = points


def _empty(*names: str) -> dict[str, np.ndarray]:
    return {name: np.empty(0) for name in names}


def fit_axis(axis: Any, values: np.ndarray) -> None:
    """Make an axis span values, but for the wildest of them."""
    chosen = values[np.isfinite(values)]
    if not len(chosen):
        return
    low, high = (float(value) for value in np.percentile(chosen, [0.1, 99.9]))
    pad = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    axis.update(start=low - pad, end=high + pad)
