"""The page of the browser: its widgets, and what they do."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.document import Document
from bokeh.events import Tap
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    Checkbox,
    ColumnDataSource,
    CustomJS,
    Div,
    RadioButtonGroup,
    Range1d,
    Select,
    Slider,
    Span,
    Spinner,
)

from opticam_dask.display.browser import facts, figures, screen
from opticam_dask.display.browser.aligning import AligningPanel
from opticam_dask.display.browser.camera_view import STRIPS, Views
from opticam_dask.display.browser.curation import CurationPanel
from opticam_dask.display.browser.figures import CHOSEN, COMPARISON, RING
from opticam_dask.display.browser.folding import FoldPanel
from opticam_dask.display.browser.frame_picture import FramePicture, read_frame
from opticam_dask.display.browser.image_panels import ImagePanels
from opticam_dask.display.browser.other_cameras import OtherCameras
from opticam_dask.display.browser.pointer import Pointer
from opticam_dask.store.errors import StoreError
from opticam_dask.text import printable

#: Blocks are read for so long before the page is drawn again, s.
_READ_FOR = 0.08
#: Blocks are read so often, ms.
_READ_EVERY = 150
#: Height of the facts about a frame, pixels of the screen: that of an image.
_FACTS_HEIGHT = 380

_TIMES = {"frame": "frame number", "time": "time"}
_FLUXES = {"flux": "flux (electrons)", "relative": "flux / comparisons"}

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
        self.others = OtherCameras(views, self.x_range, self._on_other_camera)
        self.panel = CurationPanel(self)
        self.fold = FoldPanel(self)
        self.pointer = Pointer(self)
        self.aligning = AligningPanel(self, self.panel.read_again)
        self.stack = column(sizing_mode="stretch_width")
        self._open_camera()

    # ---------------------------------------------------------------- what there is on the page

    def _make_figures(self) -> None:
        self.images = ImagePanels(self.color_of)
        self.catalogue, self.frame, self.cutout = self.images.catalogue, self.images.frame, self.images.cutout
        self.x_range = Range1d(0, 1)
        self.curve = figures.series_figure("curve", 240, self.x_range)
        self.strip = figures.series_figure("strip", 170, self.x_range)
        self.drawn = {"curve": figures.series_layers(self.curve), "strip": figures.series_layers(self.strip)}
        self.here = ColumnDataSource({"x": [], "y": []})
        self.curve.scatter("x", "y", size=11, source=self.here, fill_color=None, line_color=CHOSEN, line_width=2)
        self.marks = [Span(location=0, dimension="height", line_color=CHOSEN, line_alpha=0.6) for _ in range(2)]
        self.curve.add_layout(self.marks[0])
        self.strip.add_layout(self.marks[1])
        self.aside = ColumnDataSource({"x": [], "y": []})
        self.strip.scatter("x", "y", marker="x", size=7, source=self.aside, line_color=CHOSEN)

    def _make_widgets(self) -> None:
        self.key = Select(title="camera", value=self.view.key, options=list(self.views.keys), width=80)
        self.label = Select(title="photometry", width=130, name="label")
        self.radius = Slider(
            title="radius", width=150, name="radius", start=0, end=1, step=1, value=0, show_value=False
        )
        self.choosing = RadioButtonGroup(labels=["a click: target", "comparison"], active=0, name="choosing")
        self.source = Select(title="source", width=80, name="source")
        self.night = Select(title="night", width=130)
        # the frames of several cameras have nothing in common but their times
        along = "time" if len(self.views.keys) > 1 else "frame"
        self.abscissa = Select(title="along", value=along, options=list(_TIMES.items()), width=115)
        self.flux = Select(name="flux", title="light curve", value="flux", options=list(_FLUXES.items()), width=150)
        self.quantity = Select(title="below", value="fwhm", options=list(STRIPS.items()), width=150)
        self.number = Spinner(title="frame", low=0, step=1, value=0, width=110, name="number")
        self.sky = Checkbox(label="without the sky", active=True)
        self.before, self.after = Button(label="◀", width=40), Button(label="▶", width=40)
        self.again = Button(label="read the store again", width=150)
        # what is told of a frame is long or short: the light curves stay where they are
        self.facts = Div(name="facts", width=225, height=_FACTS_HEIGHT, styles={"overflow-y": "auto"})
        self.state = Div(name="state", sizing_mode="stretch_width")
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
        """Arrange the page."""
        choices = _wrapped(
            self.key, self.label, self.radius, self.source, self.choosing, self.night, self.abscissa, self.flux,
            self.quantity,
        )  # fmt: skip
        steps = _wrapped(self.before, self.after, self.number, self.sky, self.again)
        near = column(self.cutout.figure, self.pointer.told, self.pointer.figure, width=260)
        pictures = _wrapped(self.catalogue.figure, self.frame.figure, near, self.facts)
        below = (self.strip, self.panel.layout(), self.fold.layout(), self.fold.figure)
        return column(
            choices,
            pictures,
            steps,
            self.aligning.layout(),
            self.state,
            self.stack,
            *below,
            sizing_mode="stretch_width",
        )

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
        self.radius.update(end=max(1, len(view.radii) - 1), value=view.radius, visible=len(view.radii) > 1)
        self._name_radius()
        self.source.options = [str(number) for number in view.source_ids]
        self.night.update(options=["all", *view.nights], value="all")
        self.number.high = view.n_frames - 1
        self.catalogue.show(view.image, keep_view=False)
        self.others.opened = {}
        self.stack.children = self.others.in_order(view, self.curve)
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
        if self.view.radii and int(self.radius.value) != self.view.radius:
            self.view.set_radius(int(self.radius.value))
            self._name_radius()
            self.show_source(self.source_id)

    def _name_radius(self) -> None:
        if self.view.radii:
            self.radius.title = f"aperture radius: {self.view.radii[self.view.radius]:g} {self.view.radius_unit}"

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

    def _on_other_camera(self, key: str, event: Any) -> None:
        """Go on in another camera, at the frame next to a click on its light curve."""
        time, target = event.x + self._day(), self.others.members(key)[0]
        self.source_id = target or self.source_id
        self.panel.choose_later(self.others.members(key)[1])
        self.key.value = key
        away = np.abs(self.view.mjd_utc - time)
        if np.isfinite(away).any():
            self.show_frame(int(np.nanargmin(away)))

    def open_kept(self, name: str) -> None:
        """Show a light curve that is kept in the store, with its comparisons, photometry and aperture."""
        told = self.view.camera.differential(name).attributes
        self.panel.choose_later([int(number) for number in np.atleast_1d(told["comparisons"])])
        self.source_id, label = int(told["target"]), str(told["label"])
        if label != self.view.label and label in self.view.labels:
            self.view = self.views.get(self.view.key, label)
        if "radius" in told and self.view.radii:
            self.view.set_radius(int(np.argmin(np.abs(np.array(self.view.radii) - float(told["radius"])))))
        self._open_camera()
        self.panel.prefix.value = name
        self.show_relative()

    def _on_star(self, event: Any) -> None:
        if self.aligning.matching.active:
            self.aligning.click_reference(event.x, event.y)
        else:
            self._choose_nearest(self.view.positions, event)

    def _on_star_of_frame(self, event: Any) -> None:
        if self.aligning.matching.active:
            self.aligning.click_frame(event.x, event.y)
        elif self.picture is not None:
            self._choose_nearest(self.picture.xy, event)

    def _choose_nearest(self, xy: np.ndarray, event: Any) -> None:
        found = screen.nearest(xy[:, 0], xy[:, 1], (event.x, event.y), (1.0, 1.0), (0, len(xy)))
        if found is None:
            return
        number = int(self.view.source_ids[found])
        if self.choosing.active:
            self.panel.toggle_comparison(number)
        else:
            self.show_source(number)

    def _on_point(self, event: Any, shown: Any) -> None:
        """Show the frame whose point looks nearest to a click on a series."""
        x, y = self.abscissae(), self.ordinates(shown)
        first, last = figures.in_view(self.x_range, x)
        scale = (
            (self.x_range.end - self.x_range.start) / max(shown.inner_width or 1000, 1),
            (shown.y_range.end - shown.y_range.start) / max(shown.inner_height or 200, 1),
        )
        if shown is self.strip:  # what was set aside is drawn at the bottom
            y = np.where(self.view.is_set_aside(), self._bottom(), y)
        found = screen.nearest(x, y, (event.x, event.y), scale, (first, last))
        if found is not None:
            self.show_frame(found)

    # ---------------------------------------------------------------- what is shown

    @property
    def index(self) -> int:
        """Number of the frame that is shown."""
        return -1 if self.picture is None else self.picture.index

    def step(self, n_frames: int) -> None:
        """Go a number of frames on, or back where it is negative."""
        self.show_frame(int(np.clip(self.index + n_frames, 0, self.view.n_frames - 1)))

    def show_frame(self, index: int) -> None:
        """Show one frame with the apertures in it."""
        try:
            self.picture = read_frame(self.view, index, subtract_sky=bool(self.sky.active))
        except StoreError as error:
            self.state.text = facts.warning(str(error))
            return
        self.number.value = index
        self.aligning.begin()
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
            self.panel.open_source()
        self.show_members()

    def show_members(self) -> None:
        """Show the light curve of the target against the comparisons that are chosen now."""
        if self.source_id:
            comparisons = self.panel.chosen_comparisons()
            self.view.choose(self.source_id, comparisons)
            self.others.choose(self.view, self.source_id, comparisons)
        self.images.draw_stars(self.view)
        self._draw_rings()
        self.draw_series()
        self._read_on()

    def show_relative(self) -> None:
        """Show the relative light curve from now on."""
        self.flux.value = "relative"

    def _draw_rings(self) -> None:
        if self.picture is not None:
            self.images.draw_frame(self.picture, self.view, self.source_id)
            self._tell_facts()

    def color_of(self, number: int) -> str:
        """Colour of a source in the images."""
        if number == self.source_id:
            return CHOSEN
        return COMPARISON if number in self.panel.chosen_comparisons() else RING

    def abscissae(self) -> np.ndarray:
        """Where each frame is along the series, in rising order."""
        if self.abscissa.value == "frame":
            return np.arange(self.view.n_frames, dtype=float)
        return np.asarray(self.view.mjd_utc - self._day())

    def _day(self) -> float:
        return float(np.floor(self.view.mjd_utc[0])) if np.isfinite(self.view.mjd_utc[0]) else 0.0

    def ordinates(self, shown: Any) -> np.ndarray:
        """Value of each frame in the light curve or the strip."""
        if shown is self.strip:
            return np.asarray(self.view.records[self.quantity.value], dtype=float)
        if not self.source_id:
            return np.full(self.view.n_frames, np.nan)
        if self.flux.value == "relative":
            return self.view.relative_light_curve(self.source_id, self.panel.chosen_comparisons())[0]
        return self.view.light_curve(self.source_id)[0]

    def errors(self) -> np.ndarray:
        """1-sigma error of each frame in the light curve."""
        if not self.source_id:
            return np.full(self.view.n_frames, np.nan)
        if self.flux.value == "relative":
            return self.view.relative_light_curve(self.source_id, self.panel.chosen_comparisons())[1]
        return self.view.flux_errors(self.source_id)

    def draw_series(self) -> None:
        """Draw light curve and strip, as far as they are in view and were read."""
        x = self.abscissae()
        doubtful = self.view.is_doubtful(self.source_id) if self.source_id else np.zeros(len(x), dtype=bool)
        for name, shown in (("curve", self.curve), ("strip", self.strip)):
            y = self.ordinates(shown)
            y = self.panel.without_left_out(x, y) if shown is self.curve and self.source_id else y
            error = self.errors() if shown is self.curve else None
            figures.draw_series(self.drawn[name], shown, x, y, doubtful, error)
        aside = np.where(self.view.is_set_aside(), 0.0, np.nan)
        where, _, _ = screen.envelope(x, aside, self.x_range.start, self.x_range.end, figures.COLUMNS)
        self.aside.data = {"x": where, "y": np.full(len(where), self._bottom())}
        self.curve.yaxis.axis_label = _FLUXES[self.flux.value]
        self.strip.yaxis.axis_label = STRIPS[self.quantity.value]
        along = "frame number" if self.abscissa.value == "frame" else f"MJD (UTC) - {self._day():g}"
        self.strip.xaxis.axis_label = along
        self.curve.title.text = f"{self.view.key}, source {self.source_id}, {self.view.label or 'no photometry yet'}"
        day = self._day() if self.abscissa.value == "time" else None
        self.others.draw(self.flux.value, _FLUXES[self.flux.value], day)
        self.fold.draw()
        self._draw_here()
        self._tell_state()

    def _bottom(self) -> float:
        low, high = float(self.strip.y_range.start), float(self.strip.y_range.end)
        return low + 0.04 * (high - low)

    def _draw_here(self) -> None:
        """Mark the frame that is shown on the series."""
        if self.picture is None:
            return
        x = float(self.abscissae()[self.index])
        flux = float(self.ordinates(self.curve)[self.index])
        for mark in self.marks:
            mark.location = x if np.isfinite(x) else None
        is_known = np.isfinite(x) and np.isfinite(flux)
        self.here.data = {"x": [x], "y": [flux]} if is_known else {"x": [], "y": []}
        self._tell_facts()

    def _tell_facts(self) -> None:
        if self.picture is not None:
            self.facts.text = facts.facts_of(self.picture, self.view, self.source_id)

    def _tell_state(self) -> None:
        view, n_blocks = self.view, sum(part.n_blocks for part in self.view.parts)
        told = f"{view.n_frames} frames of {len(view.nights)} night(s), {len(view.source_ids)} sources"
        if view.n_todo:
            told += f"; reading, {view.n_todo} of {2 * n_blocks} blocks to go"
        told += (
            ". Click a point for its frame (orange: flagged or cloud, grey crosses: marked); "
            "arrow keys step through the frames (with shift by ten)."
        )
        self.state.text = told + (facts.warning(view.damage) if view.damage else "")

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
        if self._document is not None and self._is_reading is None and self._n_todo():
            self._is_reading = self._document.add_periodic_callback(self._read_some, _READ_EVERY)

    def _n_todo(self) -> int:
        """Blocks of all cameras that are still to be read."""
        return self.view.n_todo + self.others.n_todo

    def _read_some(self) -> None:
        if self.others.figures and not self.others.opened:
            self.others.open(self.view)
            self.others.choose(self.view, self.source_id, self.panel.chosen_comparisons())
        until = time.perf_counter() + _READ_FOR
        while (self.view.load() or self.others.load()) and time.perf_counter() < until:
            pass
        if not self._n_todo() and self._document is not None and self._is_reading is not None:
            self._document.remove_periodic_callback(self._is_reading)
            self._is_reading = None
        self.draw_series()


def _watch(model: Any, name: str, function: Callable[[], None]) -> None:
    """Call a function whenever a property of a model has changed."""
    model.on_change(name, lambda attr, old, new: function())


def _wrapped(*parts: Any) -> Any:
    """Parts beside each other, in several lines where the window is narrow, as on a phone."""
    return row(*parts, styles={"flex-wrap": "wrap"}, sizing_mode="stretch_width")
