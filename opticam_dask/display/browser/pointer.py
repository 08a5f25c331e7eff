"""Readout under the pointer: pixel, place on the sky, and the growth curve of the star there."""

from __future__ import annotations

import html
from typing import Any, Protocol

import numpy as np
from bokeh.models import ColumnDataSource, CustomJS, Div, Range1d, Span
from bokeh.plotting import figure

from opticam_dask.display.browser import screen
from opticam_dask.display.browser.camera_view import CameraView
from opticam_dask.display.browser.figures import CHOSEN
from opticam_dask.display.browser.frame_picture import FramePicture
from opticam_dask.kernels.images.matching import align
from opticam_dask.kernels.sources.profiles import growth

#: A star is under the pointer when it is within this many FWHM,
_REACH = 2.0
#: or this many pixels.
_LEAST_REACH = 5.0
#: Growth curves reach to this many FWHM,
_GROWTH_REACH = 5.0
#: in this many steps.
_GROWTH_STEPS = 25

#: The place of the pointer is told at most so often, and once more when it rests.
_TELL = """
const told = () => { source.data = {x: [cb_obj.x], y: [cb_obj.y], where: [where]}; source.tags = [Date.now()]; };
clearTimeout(window.opticam_pointer);
if (Date.now() - (source.tags[0] || 0) > 120) told();
else window.opticam_pointer = setTimeout(told, 130);
"""


class _ShowsImages(Protocol):
    """What the pointer needs of the page that it is a part of."""

    view: CameraView
    picture: FramePicture | None
    catalogue: Any
    frame: Any
    cutout: Any


class Pointer:
    """Text and growth curve about what is under the pointer.

    Parameters
    ----------
    page : Page
        The page that it is a part of.
    """

    def __init__(self, page: _ShowsImages) -> None:
        self.page = page
        self.place = ColumnDataSource({"x": [], "y": [], "where": []})
        self.told = Div(
            name="pointer", text="Point at a star for its growth curve.", styles={"font-size": "11px"}, width=258
        )
        self.figure = figure(
            name="growth", title="Growth curve", height=170, width=258, tools="", toolbar_location=None,
            x_range=Range1d(0, 1), y_range=Range1d(0, 1),
        )  # fmt: skip
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = "radius (pixel)", "electrons inside"
        self.curve = ColumnDataSource({"x": [], "y": []})
        self.figure.line("x", "y", source=self.curve, line_width=1.5)
        self.figure.scatter("x", "y", source=self.curve, size=4)
        self.apertures = [
            Span(dimension="height", line_color=CHOSEN, line_alpha=0.5, line_dash="dashed", visible=False)
            for _ in range(8)
        ]
        for line in self.apertures:
            self.figure.add_layout(line)
        self._shown: tuple[Any, ...] = ()
        for shown in (page.catalogue, page.frame, page.cutout):
            name = shown.figure.name
            for event in ("mousemove", "tap"):
                shown.figure.js_on_event(event, CustomJS(args={"source": self.place, "where": name}, code=_TELL))
        self.place.on_change("data", lambda attr, old, new: self._on_place())

    def _on_place(self) -> None:
        place = self.place.data
        if len(place["x"]):
            self.tell(str(place["where"][0]), float(place["x"][0]), float(place["y"][0]))

    def tell(self, where: str, x: float, y: float) -> None:
        """Tell what is at a pixel of the catalogue's image, or of the frame (``frame``, ``cutout``)."""
        on_stack = where == "catalogue"
        image, xy, reference = self._stack(x, y) if on_stack else self._frame(x, y)
        lines = [f"{'reference' if on_stack else 'frame'} x {x:.1f}, y {y:.1f}{_value(image, x, y)}"]
        if reference is not None and self.page.view.wcs is not None:
            lines.append(self._on_the_sky(*reference))
        number, row = self._star(xy, x, y)
        if number and image is not None:
            lines.append(f"source {number}")
            self._show_growth(number, where, image, xy[row])
        self.told.text = "<br>".join(html.escape(line) for line in lines)

    def _stack(self, x: float, y: float) -> tuple[np.ndarray | None, np.ndarray, tuple[float, float] | None]:
        """Image and positions of the sources that are meant, and the place on the reference image."""
        view = self.page.view
        return view.image, view.positions, (x, y)

    def _frame(self, x: float, y: float) -> tuple[np.ndarray | None, np.ndarray, tuple[float, float] | None]:
        picture = self.page.picture
        if picture is None:
            return None, np.empty((0, 2)), None
        reference = None
        if np.isfinite(picture.transform).all():
            found = align.apply_transform(align.invert_transform(picture.transform), np.array([[x, y]]))[0]
            reference = (float(found[0]), float(found[1]))
        return picture.image, picture.xy, reference

    def _on_the_sky(self, x: float, y: float) -> str:
        from astropy.coordinates import Angle  # a third of a second

        from opticam_dask.frames import sky_coordinates

        ra, dec = sky_coordinates.icrs_of_pixels(self.page.view.wcs, np.array([x]), np.array([y]))
        if not (np.isfinite(ra[0]) and np.isfinite(dec[0])):
            return ""
        hours = Angle(ra[0], "deg").to_string(unit="hour", sep=":", precision=2, pad=True)
        degrees = Angle(dec[0], "deg").to_string(unit="deg", sep=":", precision=1, pad=True, alwayssign=True)
        return f"RA {hours} Dec {degrees} (ICRS: {ra[0]:.6f} {dec[0]:+.6f})"

    def _star(self, xy: np.ndarray, x: float, y: float) -> tuple[int, int]:
        """Number and row of the star at a place; 0 where there is none."""
        found = screen.nearest(xy[:, 0], xy[:, 1], (x, y), (1.0, 1.0), (0, len(xy))) if len(xy) else None
        if found is None or np.hypot(*(xy[found] - (x, y))) > max(_REACH * self._fwhm(), _LEAST_REACH):
            return 0, 0
        return int(self.page.view.source_ids[found]), found

    def _fwhm(self) -> float:
        return self.page.view.fwhm if np.isfinite(self.page.view.fwhm) else _LEAST_REACH

    def _show_growth(self, number: int, where: str, image: np.ndarray, xy: np.ndarray) -> None:
        """Draw the light inside of growing circles around a star, and the apertures it was measured in."""
        picture = self.page.picture
        on_stack = where == "catalogue"
        frame = "reference" if on_stack or picture is None else f"frame {picture.index}"
        if (shown := (number, frame, id(image))) == self._shown:
            return
        self._shown = shown
        reach = _GROWTH_REACH * self._fwhm()
        radii = np.linspace(reach / _GROWTH_STEPS, reach, _GROWTH_STEPS)
        level = 0.0 if on_stack or picture is None else picture.level
        flux, _ = growth.growth_curve(image, xy[np.newaxis], radii, background=level)
        self.curve.data = {"x": radii, "y": flux[0]}
        self.figure.x_range.end = 1.03 * reach
        if np.isfinite(flux[0]).any():
            self.figure.y_range.update(start=min(0.0, float(np.nanmin(flux[0]))), end=1.08 * float(np.nanmax(flux[0])))
        self.figure.title.text = f"Source {number}, {frame}: growth"
        shapes = [] if picture is None else picture.apertures
        for line, shape in zip(self.apertures, [*shapes, *[None] * len(self.apertures)], strict=False):
            line.visible = shape is not None
            line.location = None if shape is None else float(np.sqrt(shape.semimajor_axis * shape.semiminor_axis))


def _value(image: np.ndarray | None, x: float, y: float) -> str:
    column, row = round(x), round(y)
    if image is None or not (0 <= row < image.shape[0] and 0 <= column < image.shape[1]):
        return ""
    return f": {image[row, column]:.5g} electrons" if np.isfinite(image[row, column]) else ": no data"
