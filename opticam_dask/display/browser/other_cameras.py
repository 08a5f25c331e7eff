"""Light curves of the target in the other cameras of a reduction, above each other on the time axis of the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from bokeh.models import ColumnDataSource

from opticam_dask.display.browser import figures
from opticam_dask.display.browser.camera_view import CameraView, Views
from opticam_dask.lightcurves.curation.spans import is_left_out

#: Height of the light curve of another camera, pixels of the screen.
_HEIGHT = 190


class ShownSeries(NamedTuple):
    """Values along the frames of a camera: one of the light curves that are shown."""

    y: np.ndarray
    error: np.ndarray
    doubtful: np.ndarray


class OtherCameras:
    """Light curves of the same star in the cameras that were not chosen.

    Parameters
    ----------
    views : Views
        The cameras that are shown.
    x_range : Range1d
        Time axis that all light curves share.
    on_tap : callable
        Called with camera key and event when somebody clicks into one of the light curves.
    """

    def __init__(self, views: Views, x_range: Any, on_tap: Callable[[str, Any], None]) -> None:
        self.views = views
        self.figures: dict[str, Any] = {}
        self._layers: dict[str, dict[str, ColumnDataSource]] = {}
        for key in views.keys if len(views.keys) > 1 else ():
            shown = figures.series_figure(f"curve {key}", _HEIGHT, x_range)
            shown.on_event("tap", lambda event, key=key: on_tap(key, event))
            self.figures[key], self._layers[key] = shown, figures.series_layers(shown)
        self.opened: dict[str, CameraView] = {}
        self._members: dict[str, list[int]] = {}

    def in_order(self, view: CameraView, curve: Any) -> list[Any]:
        """Light curves of all cameras from top to bottom; ``curve`` is that of the camera that was chosen."""
        if not self.figures:
            return [curve]
        return [curve if key == view.key else shown for key, shown in self.figures.items()]

    def open(self, view: CameraView) -> None:
        """Open the cameras beside the one that was chosen, with its photometry and the aperture nearest to its own."""
        self.opened = {}
        for key in self.figures:
            if key == view.key:
                continue
            if view.label in self.views.get(key).labels:
                self.opened[key] = self.views.get(key, view.label)

    def choose(self, view: CameraView, source_id: int, comparisons: Sequence[int]) -> None:
        """Find target and comparisons in the other cameras."""
        self._members = {}
        for key, other in self.opened.items():
            pairs = self.views.counterparts(view.key, key)
            if view.radii and other.radii:
                wanted = view.radii[view.radius]
                other.set_radius(int(np.argmin(np.abs(np.array(other.radii) - wanted))))
            if source_id in pairs:
                others = [pairs[number] for number in comparisons if number in pairs]
                is_whole = len(others) == len(comparisons)
                self._members[key] = [pairs[source_id], *(others if is_whole else [])]
                other.choose(*self.members(key))

    def members(self, key: str) -> tuple[int, list[int]]:
        """Numbers of target and comparisons in another camera; 0 where it does not have the target."""
        target, *comparisons = self._members.get(key, [0])
        return target, comparisons

    def series(self, key: str, flux: str) -> ShownSeries:
        """Light curve of the target in another camera."""
        other, (target, comparisons) = self.opened[key], self.members(key)
        if not target or (flux == "relative" and not comparisons):
            nothing = np.full(other.n_frames, np.nan)
            return ShownSeries(nothing, nothing, np.zeros(other.n_frames, dtype=bool))
        if flux == "relative":
            y, error = other.relative_light_curve(target, comparisons)
        else:
            y, error = other.light_curve(target)[0], other.flux_errors(target)
        is_out = is_left_out(other.marks_of(target))
        return ShownSeries(np.where(is_out, np.nan, y), error, other.is_doubtful(target))

    @property
    def n_todo(self) -> int:
        """Blocks that are still to be read."""
        return sum(view.n_todo for key, view in self.opened.items() if key in self._members)

    def load(self) -> bool:
        """Read a block of each; say whether any is left."""
        left = [view.load() for key, view in self.opened.items() if key in self._members]
        return any(left)

    def draw(self, flux: str, axis_label: str, day: float | None) -> None:
        """Draw all of them along the time since ``day`` (MJD); None hides them: their frames have other numbers."""
        for key, shown in self.figures.items():
            shown.visible = day is not None and key in self.opened
            if not shown.visible or day is None:
                continue
            other, (target, comparisons) = self.opened[key], self.members(key)
            y, error, doubtful = self.series(key, flux)
            figures.draw_series(self._layers[key], shown, other.mjd_utc - day, y, doubtful, error)
            shown.yaxis.axis_label = axis_label
            shown.title.text = _title(key, target, comparisons, flux)


def _title(key: str, target: int, comparisons: Sequence[int], flux: str) -> str:
    if not target:
        return f"{key}: the catalogue does not have this star"
    if flux != "relative":
        return f"{key}, source {target}"
    if not comparisons:
        return f"{key}, source {target}: the catalogue does not have all of the comparisons"
    return f"{key}, source {target} against {', '.join(map(str, comparisons))}"
