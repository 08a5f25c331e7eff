"""Light curves of all cameras, folded on a period and drawn into one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from bokeh.layouts import row
from bokeh.models import Button, Div, Range1d, TextInput

from opticam_dask.display.browser import figures
from opticam_dask.kernels.series import folding, lightcurve
from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.text import printable

_UNITS = {"d": 1.0, "h": 1 / 24.0, "min": 1 / 1440.0, "s": 1 / SECONDS_PER_DAY}
#: Colours of the cameras.
_COLORS = ("#2a6fbb", "#7b3294", "#018571", "#a6611a", "#4d4d4d", "#c51b7d")
#: Height of the figure, in pixels of the screen.
_HEIGHT = 230


class Folded(NamedTuple):
    """A light curve that is to be folded: times in days, relative flux, its error, and what is doubtful."""

    time: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    doubtful: np.ndarray


_NOTHING = Folded(np.empty(0), np.empty(0), np.empty(0), np.empty(0, dtype=bool))


def days_of(text: str) -> float:
    """A period in days, of a number with its unit: d (as without one), h, min or s; 0 for an empty text.

    Raises
    ------
    ValueError
        When the text is no period.
    """
    words = text.split()
    if not words:
        return 0.0
    try:
        period = float(words[0]) * _UNITS[words[1] if len(words) > 1 else "d"]
    except (ValueError, KeyError):
        period = np.nan
    if len(words) > 2 or not (np.isfinite(period) and period > 0):
        raise ValueError(f"a period is a number above 0 with d, h, min or s, such as 0.081 d or 53 s, got {text!r}")
    return period


def period_text(days: float) -> str:
    """A period in the largest unit of which it has at least one."""
    unit = next((name for name, size in _UNITS.items() if days >= size), "s")
    return f"{days / _UNITS[unit]:.8g} {unit}"


class FoldPanel:
    """Period, and the light curves of all cameras folded on it.

    Parameters
    ----------
    page : Page
        The page that it is a part of.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        self.period = TextInput(title="fold on a period (d, h, min, s)", width=170, name="period", placeholder="53 s")
        self.find = Button(label="find the period", width=120, name="find")
        self.told = Div(name="period told", width=280)
        self.figure = figures.series_figure("fold", _HEIGHT, Range1d(0.0, 2.0))
        self.figure.visible = False
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = "phase", "flux / median"
        keys = page.views.keys
        self._layers = {
            key: figures.series_layers(self.figure, _COLORS[place % len(_COLORS)]) for place, key in enumerate(keys)
        }
        self.period.on_change("value", lambda attr, old, new: self.draw())
        self.find.on_click(self._on_find)

    def layout(self) -> Any:
        """The widgets, arranged."""
        parts = (self.period, self.find, self.told)
        return row(*parts, styles={"flex-wrap": "wrap", "align-items": "end"}, sizing_mode="stretch_width")

    def draw(self) -> None:
        """Draw what is folded; nothing without a period."""
        try:
            period = days_of(self.period.value)
        except ValueError as error:
            self.told.text, period = str(error), 0.0
        self.figure.visible = period > 0
        if period > 0:
            self._draw(period, self._curves())

    def _curves(self) -> dict[str, Folded]:
        """Light curves of all cameras as they are shown, by camera key."""
        page = self.page
        y = page.panel.without_left_out(page.abscissae(), page.ordinates(page.curve))
        own = Folded(page.view.best_time, y, page.errors(), page.view.is_doubtful(page.source_id))
        others = {
            key: Folded(view.best_time, *page.others.series(key, page.flux.value))
            for key, view in page.others.opened.items()
        }
        return {page.view.key: own, **others}

    def _draw(self, period: float, curves: Mapping[str, Folded]) -> None:
        self.figure.title.text = f"Folded on {period_text(period)}: {', '.join(curves)}"
        drawn = []
        for key, layers in self._layers.items():
            one = curves.get(key, _NOTHING)
            known = np.isfinite(one.time) & np.isfinite(one.flux)
            level = float(np.median(one.flux[known])) if known.any() else 1.0
            phase = folding.fold(one.time[known], period)
            order = np.argsort(phase, kind="stable")
            twice = np.concatenate([order, order])
            x = np.concatenate([phase[order], 1.0 + phase[order]])
            y, error = one.flux[known][twice] / level, one.error[known][twice] / level
            drawn.append(y)
            figures.draw_series(layers, self.figure, x, y, one.doubtful[known][twice], error)
        figures.fit_axis(self.figure.y_range, np.concatenate(drawn))

    def _on_find(self) -> None:
        """Fold on the highest peak of the periodogram of the camera that was chosen."""
        one = self._curves()[self.page.view.key]
        used = ~one.doubtful
        try:
            peak = lightcurve.lomb_scargle_peak(one.time[used], one.flux[used], one.error[used])
        except ValueError as error:
            self.told.text = printable(str(error))
            return
        self.told.text = f"false alarm probability {peak.false_alarm_probability:.2g} for white noise"
        self.period.value = period_text(1.0 / peak.frequency)
