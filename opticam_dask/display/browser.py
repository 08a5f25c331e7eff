"""An interactive browser of frames, apertures and light curves: the widgets and their server. The only Bokeh import.

Everything that is shown comes from :mod:`opticam_dask.display.browsing`. The page is served on the loopback
interface, at an address that nobody can guess, and asks nothing of the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import html
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from opticam_dask.display import browsing
from opticam_dask.display.browsing import CameraView, Ellipse, FramePicture
from opticam_dask.locations import location
from opticam_dask.store.errors import StoreError
from opticam_dask.text import printable

try:
    from bokeh.application import Application
    from bokeh.application.handlers.function import FunctionHandler
    from bokeh.document import Document
    from bokeh.events import Tap
    from bokeh.layouts import column, row
    from bokeh.models import (
        BasicTickFormatter,
        Button,
        Checkbox,
        ColumnDataSource,
        CustomJS,
        Div,
        LinearColorMapper,
        Range1d,
        Select,
        Span,
        Spinner,
    )
    from bokeh.palettes import Greys256
    from bokeh.plotting import figure
    from bokeh.resources import Resources
    from bokeh.server.server import BaseServer
    from bokeh.server.tornado import BokehTornado
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop
except ImportError as error:
    raise ImportError("the browser needs Bokeh, which is not installed: pip install 'opticam-dask[explore]'") from error

# a page that is closed while it is sent something is nothing to warn of
logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)

HOST = "127.0.0.1"

#: Longest side, in pixels, of an image that is sent; what is zoomed into is sent anew.
_LONGEST_SIDE = 640
#: So many frames in view are drawn one by one; of more, each column of pixels shows the range of its frames.
_MOST_POINTS, _COLUMNS = 3000, 1200
#: Blocks are read for so long (s) before the page is drawn again, and so often (ms).
_READ_FOR, _READ_EVERY = 0.08, 150
#: Cut-outs reach so many radii of the largest aperture, and at least so many pixels.
_CUTOUT_REACH, _CUTOUT_LEAST = 2.5, 12

_GOOD, _DOUBTFUL, _CHOSEN, _RING = "#2a6fbb", "#e08214", "#d7191c", "#43c6db"

_TIMES = {"frame": "frame number", "time": "time"}
_FLUXES = {"flux": "flux (electrons)", "relative": "flux / brightest others"}

#: Arrow keys step through the frames, unless something is being typed.
_KEYS = """
document.addEventListener('keydown', (event) => {
    const target = event.composedPath()[0];
    if (target && ['INPUT', 'SELECT', 'TEXTAREA'].includes(target.tagName)) return;
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    const value = spinner.value + step * (event.shiftKey ? 10 : 1);
    spinner.value = Math.min(spinner.high, Math.max(spinner.low, value));
    event.preventDefault();
});
"""


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


class _ImageFigure:
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
        self._limits = browsing.shade_limits(image)
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
        small, factor = browsing.shrink(self._image[y0:y1, x0:x1], _LONGEST_SIDE)
        shaded = browsing.shade(small, self._limits)
        height, width = (factor * size for size in shaded.shape)
        self.pixels.data = {"image": [shaded], "x": [x0 - 0.5], "y": [y0 - 0.5], "dw": [width], "dh": [height]}


def _inside(axis: Any, size: int) -> tuple[int, int]:
    """First and one past the last pixel of an axis that are in view."""
    low, high = sorted((float(axis.start), float(axis.end)))
    return max(0, int(np.floor(low + 0.5))), min(size, int(np.ceil(high + 0.5)))


class Page:
    """One page of the browser: a camera, one of its sources, and one of its frames.

    Parameters
    ----------
    views : Views
        The cameras that are shown.
    key, label : str, optional
        What is shown first.
    """

    def __init__(self, views: Views, key: str | None = None, label: str | None = None) -> None:
        self.views = views
        self.view = views.get(key or views.keys[0], label)
        self.source_id = int(self.view.source_ids[0]) if len(self.view.source_ids) else 0
        self.picture: FramePicture | None = None
        self._later: Callable[[Callable[[], None]], Any] = lambda function: function()
        self._waiting: set[str] = set()
        self._is_reading: Any = None
        self._document: Document | None = None
        self._make_figures()
        self._make_widgets()
        self._open_camera()

    # ---------------------------------------------------------------- what there is on the page

    def _make_figures(self) -> None:
        self.catalogue = _ImageFigure("catalogue", "Catalogue: click a star for its light curve", 360)
        self.frame = _ImageFigure("frame", "Frame", 360)
        self.cutout = _ImageFigure("cutout", "Cut-out", 170)
        self.stars = ColumnDataSource({"x": [], "y": [], "source_id": [], "color": []})
        self.catalogue.figure.scatter(
            "x", "y", size=14, source=self.stars, fill_color=None, line_color="color", line_width=1.5
        )
        self.catalogue.figure.text(
            "x",
            "y",
            text="source_id",
            source=self.stars,
            text_color="color",
            x_offset=8,
            text_font_size="11px",
        )
        self.rings = ColumnDataSource({"x": [], "y": [], "width": [], "height": [], "angle": [], "color": []})
        for shown in (self.frame, self.cutout):
            shown.figure.ellipse(
                "x", "y", "width", "height", "angle", source=self.rings, fill_color=None, line_color="color",
                line_width=1.5,
            )  # fmt: skip
        self.x_range = Range1d(0, 1)
        self.curve = self._series("curve", 260)
        self.strip = self._series("strip", 170)
        self.drawn = {name: self._layers(shown) for name, shown in (("curve", self.curve), ("strip", self.strip))}
        self.here = ColumnDataSource({"x": [], "y": []})
        self.curve.scatter("x", "y", size=11, source=self.here, fill_color=None, line_color=_CHOSEN, line_width=2)
        self.marks = [Span(location=0, dimension="height", line_color=_CHOSEN, line_alpha=0.6) for _ in range(2)]
        self.curve.add_layout(self.marks[0])
        self.strip.add_layout(self.marks[1])
        self.aside = ColumnDataSource({"x": [], "y": []})
        self.strip.scatter("x", "y", marker="x", size=7, source=self.aside, line_color=_CHOSEN)

    def _series(self, name: str, height: int) -> Any:
        shown = figure(
            name=name, height=height, sizing_mode="stretch_width", tools="xpan,xwheel_zoom,reset",
            active_drag="xpan", active_scroll="xwheel_zoom", x_range=self.x_range, y_range=Range1d(0, 1),
            min_border_left=80, output_backend="canvas",
        )  # fmt: skip
        shown.toolbar.logo = None
        shown.xaxis.formatter = BasicTickFormatter(use_scientific=False)
        return shown

    @staticmethod
    def _layers(shown: Any) -> dict[str, ColumnDataSource]:
        """Bars and points of a series, doubtful frames below good ones."""
        layers: dict[str, ColumnDataSource] = {}
        for name, color in (("doubtful", _DOUBTFUL), ("good", _GOOD)):
            bars = ColumnDataSource({"x": [], "bottom": [], "top": [], "width": []})
            shown.vbar("x", "width", "top", "bottom", source=bars, fill_color=color, line_color=color, line_width=1)
            points = ColumnDataSource({"x": [], "y": []})
            shown.scatter("x", "y", size=4, source=points, color=color, alpha=0.7)
            layers |= {f"{name} bars": bars, f"{name} points": points}
        return layers

    def _make_widgets(self) -> None:
        self.key = Select(title="camera", value=self.view.key, options=list(self.views.keys), width=80)
        self.label = Select(title="photometry", width=150)
        self.radius = Select(title="radius", width=80)
        self.source = Select(title="source", width=80, name="source")
        self.night = Select(title="night", width=130)
        self.abscissa = Select(title="along", value="frame", options=list(_TIMES.items()), width=130)
        self.flux = Select(title="light curve", value="flux", options=list(_FLUXES.items()), width=170)
        self.quantity = Select(title="below", value="fwhm", options=list(browsing.STRIPS.items()), width=170)
        self.number = Spinner(title="frame", low=0, step=1, value=0, width=110, name="number")
        self.sky = Checkbox(label="without the sky", active=True)
        self.before, self.after = Button(label="◀", width=40), Button(label="▶", width=40)
        self.again = Button(label="read the store again", width=150)
        self.facts = Div(name="facts", width=330)
        self.state = Div(name="state", width=900)
        for widget, function in (
            (self.key, self._on_key), (self.label, self._on_label), (self.radius, self._on_radius),
            (self.source, self._on_source), (self.night, self._on_night), (self.abscissa, self._on_night),
            (self.flux, self._on_series), (self.quantity, self._on_series), (self.number, self._on_number),
        ):  # fmt: skip
            _watch(widget, "value", function)
        _watch(self.sky, "active", lambda: self.show_frame(self.index))
        self.before.on_click(lambda: self.step(-1))
        self.after.on_click(lambda: self.step(1))
        self.again.on_click(self._on_again)
        self.catalogue.figure.on_event(Tap, self._on_star)
        self.frame.figure.on_event(Tap, self._on_star_of_frame)
        self.curve.on_event(Tap, lambda event: self._on_point(event, self.curve))
        self.strip.on_event(Tap, lambda event: self._on_point(event, self.strip))
        for shown in (self.catalogue, self.frame, self.cutout):
            for axis in (shown.figure.x_range, shown.figure.y_range):
                for name in ("start", "end"):
                    _watch(axis, name, functools.partial(self._soon, shown.figure.name, shown.send))
        for name in ("start", "end"):
            _watch(self.x_range, name, functools.partial(self._soon, "series", self.draw_series))

    def layout(self) -> Any:
        """All of it, arranged."""
        choices = row(
            self.key, self.label, self.radius, self.source, self.night, self.abscissa, self.flux, self.quantity
        )
        steps = row(self.before, self.after, self.number, self.sky)
        side = column(steps, self.cutout.figure, self.facts, width=400)
        pictures = row(self.catalogue.figure, self.frame.figure, side)
        told = row(self.state, self.again)
        return column(choices, pictures, told, self.curve, self.strip, sizing_mode="stretch_width")

    def add_to(self, document: Document) -> None:
        """Put the page into a document and begin to read light curves."""
        document.title = f"opticam_dask: {self.views.out_directory}"
        document.add_root(self.layout())
        document.js_on_event("document_ready", CustomJS(args={"spinner": self.number}, code=_KEYS))
        self._document = document
        self._later = document.add_next_tick_callback
        # what is read in the background does not keep the first picture waiting
        document.on_event("document_ready", lambda event: self._read_on())

    # ---------------------------------------------------------------- what was chosen

    def _open_camera(self) -> None:
        view = self.view
        self.label.update(options=view.labels, value=view.label or "", disabled=not view.labels)
        radii = [(str(number), f"{radius:g}") for number, radius in enumerate(view.radii)]
        self.radius.update(options=radii, value=str(view.radius) if radii else "", visible=bool(radii))
        self.source.options = [str(number) for number in view.source_ids]
        self.night.update(options=["all", *view.nights], value="all")
        self.number.high = view.n_frames - 1
        self.catalogue.show(view.image, keep_view=False)
        if self.source_id not in view.source_ids:
            self.source_id = int(view.source_ids[0]) if len(view.source_ids) else 0
        self.show_frame(view.reference)
        self.show_source(self.source_id)
        self._on_night()

    def _on_key(self) -> None:
        if self.key.value != self.view.key:
            label, key = self.view.label, self.key.value
            self.view = self.views.get(key, label if label in self.views.get(key).labels else None)
            self._open_camera()

    def _on_label(self) -> None:
        if self.label.value and self.label.value != self.view.label:
            index, self.view = self.index, self.views.get(self.view.key, self.label.value)
            self._open_camera()
            self.show_frame(index)

    def _on_radius(self) -> None:
        if self.radius.value and int(self.radius.value) != self.view.radius:
            self.view.set_radius(int(self.radius.value))
            self.show_source(self.source_id)

    def _on_source(self) -> None:
        if self.source.value and int(self.source.value) != self.source_id:
            self.show_source(int(self.source.value))

    def _on_night(self) -> None:
        x = self.abscissae()
        chosen = np.isfinite(x)
        if self.night.value in self.view.nights:
            chosen &= self.view.night_codes == self.view.nights.index(self.night.value)
        first, last = (float(x[chosen].min()), float(x[chosen].max())) if chosen.any() else (0.0, 1.0)
        pad = 0.02 * (last - first) or 0.5
        limits = {"start": first - pad, "end": last + pad}
        self.x_range.update(**limits, reset_start=limits["start"], reset_end=limits["end"])
        self.draw_series()

    def _on_series(self) -> None:
        self.draw_series()

    def _on_number(self) -> None:
        number = self.number.value
        if number is not None and int(number) != self.index:
            self.show_frame(int(np.clip(number, 0, self.view.n_frames - 1)))

    def _on_again(self) -> None:
        key, label = self.view.key, self.view.label
        self.views.forget()
        self.view = self.views.get(key, label)
        self._open_camera()

    def _on_star(self, event: Any) -> None:
        self._choose_nearest(self.view.positions, event)

    def _on_star_of_frame(self, event: Any) -> None:
        if self.picture is not None:
            self._choose_nearest(self.picture.xy, event)

    def _choose_nearest(self, xy: np.ndarray, event: Any) -> None:
        found = browsing.nearest(xy[:, 0], xy[:, 1], (event.x, event.y), (1.0, 1.0), (0, len(xy)))
        if found is not None:
            self.show_source(int(self.view.source_ids[found]))

    def _on_point(self, event: Any, shown: Any) -> None:
        """Show the frame whose point looks nearest to a click on a series."""
        x, y = self.abscissae(), self._ordinates(shown)
        first, last = self._in_view(x)
        scale = (
            (self.x_range.end - self.x_range.start) / max(shown.inner_width or 1000, 1),
            (shown.y_range.end - shown.y_range.start) / max(shown.inner_height or 200, 1),
        )
        if shown is self.strip:  # what was set aside is drawn at the bottom
            y = np.where(self.view.is_set_aside(), self._bottom(), y)
        found = browsing.nearest(x, y, (event.x, event.y), scale, (first, last))
        if found is not None:
            self.show_frame(found)

    # ---------------------------------------------------------------- what is shown

    @property
    def index(self) -> int:
        """Number of the frame that is shown."""
        return -1 if self.picture is None else self.picture.index

    def step(self, n_frames: int) -> None:
        """Go so many frames on, or back."""
        self.show_frame(int(np.clip(self.index + n_frames, 0, self.view.n_frames - 1)))

    def show_frame(self, index: int) -> None:
        """Show one frame with the apertures in it."""
        try:
            self.picture = self.view.frame(index, subtract_sky=bool(self.sky.active))
        except StoreError as error:
            self.state.text = _warning(str(error))
            return
        self.number.value = index
        self.frame.show(self.picture.image, keep_view=True)
        name = printable(os.path.basename(self.picture.file))
        self.frame.figure.title.text = f"Frame {index}: {name}" + ("" if self.picture.image is not None else " (gone)")
        self._draw_rings()
        self._draw_here()

    def show_source(self, source_id: int) -> None:
        """Show the light curve of a source."""
        self.source_id = source_id
        self.source.value = str(source_id) if source_id else ""
        if source_id:
            self.view.choose(source_id)
        numbers = self.view.source_ids
        self.stars.data = {
            "x": self.view.positions[:, 0],
            "y": self.view.positions[:, 1],
            "source_id": [str(number) for number in numbers],
            "color": [_CHOSEN if number == source_id else _RING for number in numbers],
        }
        self._draw_rings()
        self.draw_series()
        self._read_on()

    def _draw_rings(self) -> None:
        """Apertures and annuli on the frame, and the cut-out around the chosen source."""
        picture = self.picture
        if picture is None:
            return
        columns: dict[str, list[Any]] = {name: [] for name in ("x", "y", "width", "height", "angle", "color")}
        for (x, y), number in zip(picture.xy.tolist(), self.view.source_ids.tolist(), strict=False):
            is_chosen = number == self.source_id
            for shape in (*picture.apertures, *(picture.annulus if is_chosen else [])):
                if np.isfinite(x) and np.isfinite(y):
                    _add_ring(columns, x, y, shape, _CHOSEN if is_chosen else _RING)
        self.rings.data = columns
        self._show_cutout(picture)
        self._tell_facts()

    def _show_cutout(self, picture: FramePicture) -> None:
        xy = picture.xy[self.view.source_ids == self.source_id]
        self.cutout.figure.title.text = f"Source {self.source_id}" if len(xy) else "Cut-out"
        if picture.image is None or not len(xy) or not np.isfinite(xy).all():
            self.cutout.show(None, keep_view=False)
            return
        sizes = [shape.semimajor_axis for shape in (*picture.apertures, *picture.annulus)]
        reach = max(_CUTOUT_REACH * max(sizes, default=0.0), _CUTOUT_LEAST)
        self.cutout.show(picture.image, keep_view=True)
        for axis, centre in ((self.cutout.figure.x_range, xy[0, 0]), (self.cutout.figure.y_range, xy[0, 1])):
            limits = {"start": float(centre - reach), "end": float(centre + reach)}
            axis.update(**limits, reset_start=limits["start"], reset_end=limits["end"])
        self.cutout.send()

    def abscissae(self) -> np.ndarray:
        """Where each frame is along the series, in rising order."""
        if self.abscissa.value == "frame":
            return np.arange(self.view.n_frames, dtype=float)
        return np.asarray(self.view.mjd_utc - self._day())

    def _day(self) -> float:
        return float(np.floor(self.view.mjd_utc[0])) if np.isfinite(self.view.mjd_utc[0]) else 0.0

    def _ordinates(self, shown: Any) -> np.ndarray:
        if shown is self.strip:
            return np.asarray(self.view.records[self.quantity.value], dtype=float)
        if not self.source_id:
            return np.full(self.view.n_frames, np.nan)
        if self.flux.value == "relative":
            return self.view.relative_light_curve(self.source_id)
        return self.view.light_curve(self.source_id)[0]

    def _in_view(self, x: np.ndarray) -> tuple[int, int]:
        first, last = np.searchsorted(x, [self.x_range.start, self.x_range.end])
        return int(first), int(last)

    def draw_series(self) -> None:
        """Draw light curve and strip, as far as they are in view and were read."""
        x = self.abscissae()
        doubtful = self.view.is_doubtful(self.source_id) if self.source_id else np.zeros(len(x), dtype=bool)
        for name, shown in (("curve", self.curve), ("strip", self.strip)):
            self._draw_one(self.drawn[name], shown, x, self._ordinates(shown), doubtful)
        aside = np.where(self.view.is_set_aside(), 0.0, np.nan)
        where, _, _ = browsing.envelope(x, aside, self.x_range.start, self.x_range.end, _COLUMNS)
        self.aside.data = {"x": where, "y": np.full(len(where), self._bottom())}
        self.curve.yaxis.axis_label = _FLUXES[self.flux.value]
        self.strip.yaxis.axis_label = browsing.STRIPS[self.quantity.value]
        along = "frame number" if self.abscissa.value == "frame" else f"MJD (UTC) - {self._day():g}"
        self.strip.xaxis.axis_label = along
        self.curve.title.text = (
            f"{self.view.key}, source {self.source_id}, {self.view.label or 'no photometry yet'}: "
            "click a point for its frame (orange: flagged or cloud)"
        )
        self._draw_here()
        self._tell_state()

    def _draw_one(
        self, layers: dict[str, ColumnDataSource], shown: Any, x: np.ndarray, y: np.ndarray, doubtful: np.ndarray
    ) -> None:
        first, last = self._in_view(x)
        seen = slice(first, last)
        _fit(shown.y_range, y[seen], doubtful[seen])
        for name, chosen in (("good", ~doubtful), ("doubtful", doubtful)):
            bars, points = _no_bars(), {"x": np.empty(0), "y": np.empty(0)}
            values = np.where(chosen, y, np.nan)
            if last - first <= _MOST_POINTS:
                finite = np.isfinite(values[seen])
                points = {"x": x[seen][finite], "y": values[seen][finite].astype(float)}
            else:
                limits = float(self.x_range.start), float(self.x_range.end)
                centre, low, high = browsing.envelope(x, values, *limits, _COLUMNS)
                width = np.full(len(centre), (limits[1] - limits[0]) / _COLUMNS)
                bars = {"x": centre, "bottom": low.astype(float), "top": high.astype(float), "width": width}
            layers[f"{name} bars"].data = bars
            layers[f"{name} points"].data = points

    def _bottom(self) -> float:
        low, high = float(self.strip.y_range.start), float(self.strip.y_range.end)
        return low + 0.04 * (high - low)

    def _draw_here(self) -> None:
        """Mark the frame that is shown on the series."""
        if self.picture is None:
            return
        x = float(self.abscissae()[self.index])
        flux = float(self._ordinates(self.curve)[self.index])
        for mark in self.marks:
            mark.location = x if np.isfinite(x) else None
        is_known = np.isfinite(x) and np.isfinite(flux)
        self.here.data = {"x": [x], "y": [flux]} if is_known else {"x": [], "y": []}
        self._tell_facts()

    def _tell_facts(self) -> None:
        if self.picture is not None:
            self.facts.text = _facts(self.picture, self.view, self.source_id)

    def _tell_state(self) -> None:
        view, n_blocks = self.view, sum(part.n_blocks for part in self.view.parts)
        told = f"{view.n_frames} frames of {len(view.nights)} night(s), {len(view.source_ids)} sources"
        if view.n_todo:
            told += f"; reading, {view.n_todo} of {2 * n_blocks} blocks to go"
        told += ". Arrow keys step through the frames (with shift by ten)."
        self.state.text = told + (_warning(view.damage) if view.damage else "")

    # ---------------------------------------------------------------- what happens later

    def _soon(self, name: str, function: Callable[[], None]) -> None:
        """Do something once, after all changes that came together."""
        if name in self._waiting:
            return
        self._waiting.add(name)

        def now() -> None:
            self._waiting.discard(name)
            function()

        self._later(now)

    def _read_on(self) -> None:
        if self._document is not None and self._is_reading is None and self.view.n_todo:
            self._is_reading = self._document.add_periodic_callback(self._read_some, _READ_EVERY)

    def _read_some(self) -> None:
        until = time.perf_counter() + _READ_FOR
        while self.view.load() and time.perf_counter() < until:
            pass
        if not self.view.n_todo and self._document is not None and self._is_reading is not None:
            self._document.remove_periodic_callback(self._is_reading)
            self._is_reading = None
        self.draw_series()


def _watch(model: Any, name: str, function: Callable[[], None]) -> None:
    """Call a function whenever a property of a model has changed."""
    model.on_change(name, lambda attr, old, new: function())


def _add_ring(columns: dict[str, list[Any]], x: float, y: float, shape: Ellipse, color: str) -> None:
    values = (x, y, 2 * shape.semimajor_axis, 2 * shape.semiminor_axis, np.deg2rad(shape.angle), color)
    for name, value in zip(columns, values, strict=True):
        columns[name].append(value)


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


def _warning(text: str) -> str:
    return f'<p style="color:{_CHOSEN};margin:4px 0">{html.escape(printable(text))}</p>'


def _facts(picture: FramePicture, view: CameraView, source_id: int) -> str:
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
    warning = "".join(_warning(text) for text in told)
    cells = "".join(
        f'<tr><td style="color:#666;padding-right:8px">{html.escape(name)}</td>'
        f'<td style="word-break:break-all">{html.escape(printable(value))}</td></tr>'
        for name, value in rows
    )
    return f'{warning}<table style="font-size:11px;line-height:1.15">{cells}</table>'


def _bound_socket(port: int) -> socket.socket:
    """Socket that listens on the loopback interface; 0 takes a free port."""
    bound = socket.socket()
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((HOST, port))
        bound.listen(128)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


class _Pages(BokehTornado):
    """Pages without the parts of Bokeh that are not used, which take longer to load than all the others."""

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        """What a page loads, all of it from this server."""
        return super().resources(absolute_url).clone(components=["bokeh", "bokeh-widgets"])


async def _wind_up(http_server: HTTPServer) -> None:
    """Let what is under way end, close the connections, and cancel what waits."""
    await asyncio.sleep(0.05)
    await http_server.close_all_connections()
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


class Browser:
    """A browser of a reduction, served on the loopback interface for as long as it is open.

    Parameters
    ----------
    out_directory : path
        Output directory of a reduction.
    key, label : str, optional
        Camera and photometry that are shown first.
    port : int
        0 takes a free one.

    Raises
    ------
    store.StoreError
        When there is no store.
    ValueError
        When there is no such camera or label, or nothing to show.
    OSError
        When the port is taken.
    """

    def __init__(
        self, out_directory: str | Path, key: str | None = None, label: str | None = None, *, port: int = 0
    ) -> None:
        self.out_directory = location(out_directory)
        # what is imported for it need not be waited for
        first = Page(Views(self.out_directory), key, label).view
        self._key, self._label = first.key, first.label
        self._started, self._error = threading.Event(), list[BaseException]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port, self._prefix = port, secrets.token_urlsafe(12)
        self._thread = threading.Thread(target=self._serve, name="opticam_dask browser", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error:
            error = self._error[0]
            if isinstance(error, OSError):
                raise OSError(error.errno, f"port {port} cannot be used ({error.strerror}): choose another") from error
            raise error

    def _serve(self) -> None:
        """Run the server in a loop of its own, which the notebook's loop knows nothing of."""
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        try:
            bound = _bound_socket(self._port)
            self._port = int(bound.getsockname()[1])
            origins = {f"{name}:{self._port}" for name in (HOST, "localhost")}
            application = Application(FunctionHandler(self._add_page))
            pages = _Pages({"/": application}, prefix=self._prefix, extra_websocket_origins=origins)
            http_server = HTTPServer(pages)
            http_server.add_sockets([bound])
            server = BaseServer(IOLoop.current(), pages, http_server)
        except BaseException as error:  # noqa: BLE001 - it is raised where the browser was asked for
            self._error.append(error)
            self._loop.close()
            self._started.set()
            return
        server.start()
        self._loop.call_soon(self._started.set)
        try:
            self._loop.run_forever()
        finally:
            server.stop(wait=False)
            self._loop.run_until_complete(_wind_up(http_server))
            self._loop.close()

    def _add_page(self, document: Document) -> None:
        # views of its own: another page may show another radius, and read another source
        Page(Views(self.out_directory), self._key, self._label).add_to(document)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self._port}/{self._prefix}/"

    def wait(self) -> None:
        """Go on until the browser is closed from elsewhere, or the process is interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def close(self) -> None:
        """End the server."""
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ends by itself
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Browser of {self.out_directory} at {self.url}>"

    def _repr_html_(self) -> str:
        url = html.escape(self.url, quote=True)
        return (
            f"<p>Browser of {html.escape(printable(str(self.out_directory)))}: "
            f'<a href="{url}" target="_blank">{url}</a></p>'
            f'<iframe src="{url}" style="width:100%;height:1080px;border:0"></iframe>'
        )


def browse(out_directory: str | Path, key: str | None = None, label: str | None = None, *, port: int = 0) -> Browser:
    """Browse frames, apertures and light curves of a reduction, in a notebook or on a page of its own.

    Parameters are those of :class:`Browser`, which is returned; as the last value of a notebook cell it shows itself.
    """
    return Browser(out_directory, key, label, port=port)
