"""A frame that could not be aligned, in the browser: its stars are matched by clicks, or it is left out for good."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from bokeh.layouts import row
from bokeh.models import Button, ColumnDataSource, Div, Toggle

from opticam_dask.display.browser import screen
from opticam_dask.display.browser.camera_view import CameraView
from opticam_dask.display.browser.figures import COMPARISON
from opticam_dask.display.browser.frame_picture import FramePicture
from opticam_dask.frames.fits.names import file_of
from opticam_dask.kernels.sources import centroids, photometry
from opticam_dask.lightcurves.curation import marking
from opticam_dask.store.errors import StoreError
from opticam_dask.store.ownership import OwnedError

#: A cut-out that is wide enough for a centroid reaches this many FWHM from the click.
_REACH = 3.0


class _ShowsFrames(Protocol):
    """What the panel needs of the page that it is a part of."""

    view: CameraView
    picture: FramePicture | None
    frame: Any
    catalogue: Any


class AligningPanel:
    """Panel that gives the frame that is shown a transform by pairs of clicks, or leaves it out.

    Parameters
    ----------
    page : Page
        The page that it is a part of.
    on_change : callable
        Called when a frame was marked.
    """

    def __init__(self, page: _ShowsFrames, on_change: Callable[[], None]) -> None:
        self.page, self._on_change = page, on_change
        self.matching = Toggle(label="match stars by clicks", width=160, name="matching")
        self.give = Button(label="give the frame this transform", width=210, name="give", disabled=True)
        self.leave_out = Button(label="leave the frame out", width=150, name="leave_out")
        self.told = Div(name="aligned", width=320)
        self.pairs: list[tuple[int, float, float]] = []
        self._number, self._place = 0, (np.nan, np.nan)
        self.clicked = ColumnDataSource({"x": [], "y": []})
        page.frame.figure.scatter(
            "x", "y", marker="cross", size=14, source=self.clicked, line_color=COMPARISON, line_width=2
        )
        self.matching.on_change("active", lambda attr, old, new: self.begin())
        self.give.on_click(self._on_give)
        self.leave_out.on_click(self._on_leave_out)

    def layout(self) -> Any:
        """The panel, arranged."""
        parts = (self.matching, self.give, self.leave_out, self.told)
        return row(*parts, styles={"flex-wrap": "wrap", "align-items": "center"}, sizing_mode="stretch_width")

    def begin(self) -> None:
        """Begin to match stars anew, as for another frame."""
        self.pairs, self._number, self._place = [], 0, (np.nan, np.nan)
        self._tell()

    def click_frame(self, x: float, y: float) -> None:
        """Take the star next to a click on the frame."""
        picture = self.page.picture
        if picture is not None and picture.image is not None:
            self._place = self._centred(picture.image - picture.level, x, y)
            self._pair()

    def click_reference(self, x: float, y: float) -> None:
        """Take the source of the catalogue next to a click on its image."""
        xy = self.page.view.positions
        found = screen.nearest(xy[:, 0], xy[:, 1], (x, y), (1.0, 1.0), (0, len(xy)))
        if found is not None:
            self._number = int(self.page.view.source_ids[found])
            self._pair()

    def _centred(self, image: np.ndarray, x: float, y: float) -> tuple[float, float]:
        """Centroid of the star at a click, or the click where there is none."""
        fwhm = self.page.view.fwhm
        if not np.isfinite(fwhm):
            return x, y
        xy = np.array([[x, y]])
        size = 2 * int(np.ceil(_REACH * fwhm)) + 1
        x0, y0 = photometry.origins(xy, size)
        cutout = photometry.cut_out(image, x0, y0, size)
        found, _ = centroids.windowed_centroids(cutout, x0, y0, xy, fwhm / photometry.SIGMA_TO_FWHM)
        return float(found[0, 0]), float(found[0, 1])

    def _pair(self) -> None:
        if self._number and np.isfinite(self._place[0]):
            others = [pair for pair in self.pairs if pair[0] != self._number]
            self.pairs = [*others, (self._number, *self._place)]
            self._number, self._place = 0, (np.nan, np.nan)
        self._tell()

    def _tell(self) -> None:
        places = [pair[1:] for pair in self.pairs] + ([self._place] if np.isfinite(self._place[0]) else [])
        self.clicked.data = {"x": [place[0] for place in places], "y": [place[1] for place in places]}
        self.give.disabled = len(self.pairs) < 2
        if not self.matching.active:
            self.told.text = ""
            return
        numbers = ", ".join(str(pair[0]) for pair in self.pairs) or "none yet"
        wanted = "its source in the catalogue" if np.isfinite(self._place[0]) else "a star in the frame"
        wanted = "the same star in the frame" if self._number else wanted
        self.told.text = f"Matched sources: {numbers}. Click {wanted}."

    def _on_give(self) -> None:
        view, pairs = self.page.view, self.pairs
        if (picture := self.page.picture) is not None:
            self.matching.active = False
            self._try(
                lambda: marking.mark_transform(view.out_directory, view.key, file_of(picture.file), pairs),
                "The next reduce or repair measures the frame with this transform.",
            )

    def _on_leave_out(self) -> None:
        view, picture = self.page.view, self.page.picture
        if picture is not None:
            span = (picture.mjd_utc, picture.mjd_utc)
            self._try(
                lambda: marking.mark_spans(view.out_directory, "junk", view.key, [span]),
                "The frame is left out of everything, whatever becomes of its transform.",
            )

    def _try(self, mark: Callable[[], object], told: str) -> None:
        try:
            with marking.warnings_told() as warned:
                mark()
            told = "<br>".join([told, *map(html.escape, warned)])
        except (OwnedError, StoreError, ValueError, OSError) as error:
            told = str(error)
        self._on_change()
        self.told.text = told
