"""Marks and light curves made in the browser: brush points, choose comparisons, save."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bokeh.events import SelectionGeometry
from bokeh.layouts import row
from bokeh.models import BoxSelectTool, Button, ColumnDataSource, Div, MultiSelect, RadioButtonGroup, Select, TextInput

from opticam_dask.display.browser.camera_view import CameraView
from opticam_dask.display.browser.figures import CHOSEN
from opticam_dask.display.browser.other_cameras import OtherCameras
from opticam_dask.lightcurves import differential
from opticam_dask.lightcurves.curation import marking
from opticam_dask.lightcurves.curation.marks import KINDS, last_marks
from opticam_dask.lightcurves.curation.spans import is_left_out
from opticam_dask.store.errors import StoreError
from opticam_dask.store.ownership import OwnedError, own

#: Comparisons that are chosen before anybody does: the brightest other sources.
_N_COMPARISONS = 5

#: Colour of measurements that are left out.
_LEFT_OUT = "#999999"


class _ShowsSeries(Protocol):
    """What the panel needs of the page that it is a part of."""

    view: CameraView
    source_id: int
    curve: Any
    others: OtherCameras

    def abscissae(self) -> np.ndarray:
        """Where each frame is along the series."""
        ...

    def ordinates(self, shown: Any) -> np.ndarray:
        """Value of each frame in the light curve or the strip."""
        ...

    def draw_series(self) -> None:
        """Draw light curve and strip."""
        ...

    def show_members(self) -> None:
        """Show target and comparisons as they are chosen now."""
        ...

    def show_relative(self) -> None:
        """Show the relative light curve from now on."""
        ...

    def open_kept(self, name: str) -> None:
        """Show a light curve that is kept in the store."""
        ...


class CurationPanel:
    """Panel that marks points of the light curve, chooses comparisons, and saves the light curve.

    Parameters
    ----------
    page : Page
        The page that it is a part of.
    """

    def __init__(self, page: _ShowsSeries) -> None:
        self.page = page
        self.brushed = np.empty(0, dtype=int)
        self._later, self._is_opening = list[str](), False
        self._brush = BoxSelectTool()
        page.curve.add_tools(self._brush)
        self.drag = RadioButtonGroup(labels=["drag moves", "drag brushes"], active=0, name="drag")
        self.kind = Select(title="brushed points are", value="junk", options=list(KINDS), width=130, name="kind")
        self.scope = Select(
            title="in", value="one", options=[("one", "this source"), ("all", "all sources")], width=110, name="scope"
        )
        self.why = TextInput(title="because", width=150, name="why")
        self.mark = Button(label="mark", width=60, name="mark")
        self.back = Button(label="take the last back", width=130, name="back")
        self.comparisons = MultiSelect(title="comparisons", width=110, size=3, name="comparisons")
        self.prefix = TextInput(title="name of the light curve", width=150, name="prefix")
        self.save = Button(label="save", width=60, name="save")
        self.kept = Select(title="saved light curves", width=150, name="kept")
        self.told = Div(name="told", width=300)
        self._make_layers()
        self.drag.on_change("active", lambda attr, old, new: self._on_drag())
        self.comparisons.on_change("value", lambda attr, old, new: self._on_comparisons())
        self.kept.on_change("value", lambda attr, old, new: page.open_kept(new) if new else None)
        self.mark.on_click(self._on_mark)
        self.back.on_click(self._on_back)
        self.save.on_click(self._on_save)
        page.curve.on_event(SelectionGeometry, self._on_brush)

    def _make_layers(self) -> None:
        self.chosen = ColumnDataSource({"x": [], "y": []})
        self.page.curve.scatter("x", "y", size=9, source=self.chosen, fill_color=None, line_color=CHOSEN)
        self.left_out = ColumnDataSource({"x": [], "y": []})
        self.page.curve.scatter("x", "y", marker="x", size=7, source=self.left_out, line_color=_LEFT_OUT)

    def layout(self) -> Any:
        """The panel, arranged; it wraps where the window is narrow."""
        parts = (self.drag, self.kind, self.scope, self.why, self.mark, self.back)
        made = (self.comparisons, self.prefix, self.save, self.kept, self.told)
        return row(*parts, *made, styles={"flex-wrap": "wrap", "align-items": "end"}, sizing_mode="stretch_width")

    # ---------------------------------------------------------------- what is shown

    def open_source(self) -> None:
        """Offer the other sources as comparisons of the source that is shown."""
        others = [str(number) for number in self.page.view.source_ids if number != self.page.source_id]
        chosen = [number for number in self._later or self.comparisons.value if number in others]
        self._later = []
        self._is_opening = True
        self.comparisons.update(options=others, value=chosen or others[:_N_COMPARISONS])
        self._is_opening = False
        self.prefix.value = f"target_{self.page.source_id}"
        self.brushed = np.empty(0, dtype=int)
        self._list_kept()

    def _list_kept(self) -> None:
        self.kept.update(options=["", *self.page.view.camera.differential_names], value="")

    def choose_later(self, comparisons: list[int]) -> None:
        """Comparisons of the source that is opened next."""
        self._later = [str(number) for number in comparisons]

    def toggle_comparison(self, number: int) -> None:
        """Make a source a comparison, or no longer one."""
        name = str(number)
        chosen = self.comparisons.value
        if name in self.comparisons.options:
            self.comparisons.value = [one for one in chosen if one != name] if name in chosen else [*chosen, name]

    def _on_comparisons(self) -> None:
        """A relative light curve is what comparisons are chosen for: it is shown at once."""
        if not self._is_opening:
            self.page.show_relative()
            self.page.show_members()

    def chosen_comparisons(self) -> list[int]:
        """Numbers of the comparisons that are chosen."""
        return [int(number) for number in self.comparisons.value]

    def without_left_out(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values along the frames without those that are left out, which are drawn as crosses."""
        is_out = is_left_out(self.page.view.marks_of(self.page.source_id))
        shown = is_out & np.isfinite(x) & np.isfinite(y)
        self.left_out.data = {"x": x[shown], "y": y[shown].astype(float)}
        brushed = self.brushed[np.isfinite(y[self.brushed])]
        self.chosen.data = {"x": x[brushed], "y": y[brushed].astype(float)}
        return np.where(is_out, np.nan, y)

    # ---------------------------------------------------------------- what was done

    def _on_drag(self) -> None:
        pan = next(tool for tool in self.page.curve.toolbar.tools if "Pan" in type(tool).__name__)
        self.page.curve.toolbar.active_drag = self._brush if self.drag.active else pan

    def _on_brush(self, event: Any) -> None:
        """Keep the frames whose points are in the box that was drawn."""
        if event.final:
            box, page = event.geometry, self.page
            x, y = page.abscissae(), page.ordinates(page.curve)
            inside = (x >= min(box["x0"], box["x1"])) & (x <= max(box["x0"], box["x1"]))
            inside &= (y >= min(box["y0"], box["y1"])) & (y <= max(box["y0"], box["y1"]))
            self.brushed = np.flatnonzero(inside)
            self.told.text = f"{len(self.brushed)} point(s) brushed"
            page.draw_series()

    def _on_mark(self) -> None:
        if not len(self.brushed):
            self.told.text = "Brush points first: choose <i>drag brushes</i> and draw a box around them."
            return
        page = self.page
        times = page.view.mjd_utc[self.brushed]
        sources = [page.source_id] if self.scope.value == "one" else []
        spans = [(time, time) for time in times.tolist()]
        try:
            with marking.warnings_told() as warned:
                marking.mark_spans(
                    page.view.out_directory, self.kind.value, page.view.key, spans, sources=sources, why=self.why.value
                )
        except (OwnedError, StoreError, ValueError, OSError) as error:
            self.told.text = str(error)
            return
        self.told.text = "<br>".join([f"{len(times)} frame(s) marked {self.kind.value}", *map(html.escape, warned)])
        self.brushed = np.empty(0, dtype=int)
        self.read_again()

    def _on_back(self) -> None:
        view = self.page.view
        out = view.out_directory
        try:
            latest = last_marks(out, view.key, view.label or "")
            if not latest:
                self.told.text = "no mark to take back"
                return
            with marking.warnings_told() as warned:
                marking.unmark(out, latest)
        except (OwnedError, StoreError, ValueError, OSError) as error:
            self.told.text = str(error)
            return
        self.told.text = "<br>".join([f"{len(latest)} mark(s) taken back", *map(html.escape, warned)])
        self.read_again()

    def read_again(self) -> None:
        """Show the marks as they are now."""
        for view in (self.page.view, *self.page.others.opened.values()):
            view.read_marks()
        self.page.draw_series()

    def _on_save(self) -> None:
        """Write the relative light curves of all cameras as files and keep them in the store."""
        view, others = self.page.view, self.page.others
        wanted = [(view, self.page.source_id, self.chosen_comparisons())]
        wanted += [(other, *others.members(key)) for key, other in others.opened.items()]
        try:
            curves = [
                differential.relative_light_curve(
                    one.out_directory, one.key, target, comparisons, one.label or "",
                    radius=one.radii[one.radius] if one.radii else None,
                )
                for one, target, comparisons in wanted
                if target and (comparisons or one is view)
            ]  # fmt: skip
            with own(view.out_directory):
                files = [self._write(curve) for curve in curves]
        except (OwnedError, StoreError, ValueError, OSError) as error:
            self.told.text = str(error)
            return
        self.told.text = f"saved: {', '.join(map(str, files))}"
        self._list_kept()

    def _write(self, curve: Any) -> Path:
        out, name = self.page.view.out_directory, self.prefix.value
        differential.keep_relative_light_curve(curve, out, name)  # refuses names that it does not take
        return differential.write_relative_light_curve(curve, out, name)
