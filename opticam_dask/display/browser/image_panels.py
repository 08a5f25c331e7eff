"""Images of the browser: the catalogue, a frame with its apertures, and the cut-out around the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource

from opticam_dask.display.browser import figures
from opticam_dask.display.browser.camera_view import CameraView
from opticam_dask.display.browser.frame_picture import Ellipse, FramePicture

#: Side of an image, pixels of the screen: with its axes it fits into the window of a phone.
SIDE = 315
#: Cut-outs reach this many radii of the largest aperture,
_CUTOUT_REACH = 2.5
#: and at least this many pixels.
_CUTOUT_LEAST = 12


class ImagePanels:
    """Images of the page.

    Parameters
    ----------
    color_of : callable
        Gives the colour of a source by its number.
    """

    def __init__(self, color_of: Callable[[int], str]) -> None:
        self._color_of = color_of
        self.catalogue = figures.ImageFigure("catalogue", "Catalogue: click a star for its light curve", SIDE)
        self.frame = figures.ImageFigure("frame", "Frame", SIDE)
        self.cutout = figures.ImageFigure("cutout", "Cut-out", 180)
        self.stars = ColumnDataSource({"x": [], "y": [], "source_id": [], "color": []})
        self.catalogue.figure.scatter(
            "x", "y", size=14, source=self.stars, fill_color=None, line_color="color", line_width=1.5
        )
        self.catalogue.figure.text(
            "x", "y", text="source_id", source=self.stars, text_color="color", x_offset=8, text_font_size="11px"
        )
        self.rings = ColumnDataSource({"x": [], "y": [], "width": [], "height": [], "angle": [], "color": []})
        for shown in (self.frame, self.cutout):
            shown.figure.ellipse(
                "x", "y", "width", "height", "angle", source=self.rings, fill_color=None, line_color="color",
                line_width=1.5,
            )  # fmt: skip

    def draw_stars(self, view: CameraView) -> None:
        """Draw the sources of the catalogue."""
        numbers = view.source_ids.tolist()
        self.stars.data = {
            "x": view.positions[:, 0],
            "y": view.positions[:, 1],
            "source_id": [str(number) for number in numbers],
            "color": [self._color_of(number) for number in numbers],
        }

    def draw_frame(self, picture: FramePicture, view: CameraView, source_id: int) -> None:
        """Draw apertures and the annulus of the target on the frame, and the cut-out around the target."""
        columns: dict[str, list[Any]] = {name: [] for name in ("x", "y", "width", "height", "angle", "color")}
        for (x, y), number in zip(picture.xy.tolist(), view.source_ids.tolist(), strict=False):
            for shape in (*picture.apertures, *(picture.annulus if number == source_id else [])):
                if np.isfinite(x) and np.isfinite(y):
                    _add_ring(columns, x, y, shape, self._color_of(number))
        self.rings.data = columns
        xy = picture.xy[view.source_ids == source_id]
        self.cutout.figure.title.text = f"Source {source_id}" if len(xy) else "Cut-out"
        if picture.image is None or not len(xy) or not np.isfinite(xy).all():
            self.cutout.show(None, keep_view=False)
            return
        sizes = [shape.semimajor_axis for shape in (*picture.apertures, *picture.annulus)]
        reach = max(_CUTOUT_REACH * max(sizes, default=0.0), _CUTOUT_LEAST)
        # on a scale of its own: the brightest stars of the frame would leave others black, or be white disks themselves
        (x0, x1), (y0, y1) = (np.round((centre - reach, centre + reach)).astype(int).clip(0) for centre in xy[0])
        self.cutout.show(picture.image, keep_view=True, shaded_by=picture.image[y0 : y1 + 1, x0 : x1 + 1])
        for axis, centre in ((self.cutout.figure.x_range, xy[0, 0]), (self.cutout.figure.y_range, xy[0, 1])):
            limits = {"start": float(centre - reach), "end": float(centre + reach)}
            axis.update(**limits, reset_start=limits["start"], reset_end=limits["end"])
        self.cutout.send()


def _add_ring(columns: dict[str, list[Any]], x: float, y: float, shape: Ellipse, color: str) -> None:
    values = (x, y, 2 * shape.semimajor_axis, 2 * shape.semiminor_axis, np.deg2rad(shape.angle), color)
    for name, value in zip(columns, values, strict=True):
        columns[name].append(value)
