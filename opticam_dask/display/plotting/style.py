"""Style that all figures share: colours, sizes, axis limits, file formats."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox, BboxBase

from opticam_dask import locations
from opticam_dask.console import is_notebook
from opticam_dask.kernels.later import put_off

# what writes a PDF imports it for fonts of type 42, which it embeds where a user asks for them: half of its import
put_off("fontTools.subset")

#: Told apart with any kind of colour vision (Okabe & Ito 2008; Tol 2021), and in grey by their lightness.
_FILTER_COLOURS = {"u": "#56B4E9", "g": "#009E73", "r": "#D55E00", "i": "#882255", "z": "#332288"}
_OTHER_COLOURS = ("tab:blue", "tab:red", "tab:cyan", "tab:pink", "tab:gray")

#: No date in a file: the same data give the same bytes.
_METADATA: dict[str, dict[str, str | None]] = {".pdf": {"CreationDate": None}, ".png": {"Software": None}}

#: Room above and below the values of a plot, as a share of their range.
_MARGIN = 0.15

#: More points than this are drawn as pixels in a PDF, which would be slow to open otherwise.
MANY_POINTS = 2000


def colour_of(key: str, position: int = 0) -> str:
    """Colour of a camera key: that of its filter, or the next of a neutral cycle."""
    name = key.split(":")[-1].rstrip("'").lower()
    return _FILTER_COLOURS.get(name, _OTHER_COLOURS[position % len(_OTHER_COLOURS)])


def new_figure(rows: int = 1, columns: int = 1, *, width: float = 8.0, height: float = 5.0) -> Figure:
    """Figure that belongs to no window, with room for its labels; sizes of one panel in inches."""
    return Figure(figsize=(width * columns, height * rows), layout="constrained")


def require_panels(panels: Mapping[str, object]) -> None:
    """Refuse to draw nothing.

    Raises
    ------
    ValueError
        When there is no camera key.
    """
    if not panels:
        raise ValueError("expected at least one camera key to plot, got none")


def grid(axes: Axes) -> None:
    """Light grid behind the data, tick labels without offsets."""
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)


def key_legend(axes: Axes) -> None:
    """Legend of the camera keys right of the axes, with markers that can be seen."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title="Camera key", loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=2.5)


def robust_limits(values: np.ndarray, reach: float = 3.0) -> tuple[float, float] | None:
    """Limits that show the bulk of the values, so that a few outliers do not flatten the rest.

    Parameters
    ----------
    values : ndarray
        NaN values do not count.
    reach : float
        Values further from the 2 to 98 % range than this multiple of its width are left outside.

    Returns
    -------
    low, high : float, or None when nothing is left outside and automatic limits will do
    """
    known = values[np.isfinite(values)]
    if len(known) < 3:
        return None
    low, high = np.percentile(known, [2, 98])
    inside = known[(known >= low - reach * (high - low)) & (known <= high + reach * (high - low))]
    if len(inside) == len(known) or high == low:
        return None
    room = _MARGIN * float(np.ptp(inside))
    return float(inside.min()) - room, float(inside.max()) + room


def count_outside(axes: Axes, n_outside: int) -> None:
    """Say in a corner how many points lie outside the limits."""
    if n_outside:
        text = f"{n_outside} point{'s' if n_outside > 1 else ''} outside"
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 2.0}
        # above the points, below the frame of the axes
        axes.text(
            0.99, 0.03, text, ha="right", va="bottom", transform=axes.transAxes, color="0.3", bbox=box, zorder=2.4
        )


def save_figure(figure: Figure, path: str | Path, *, mark: str | None = None) -> Path:
    """Write a figure as PDF or PNG, by its suffix; the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
        The figure.
    path : path
        The file, here or by a URL.
    mark : str, optional
        Kept in the file, where it is found again in its bytes.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ValueError
        For another suffix.
    """
    file = locations.location(path)
    suffix = file.suffix.lower()
    if suffix not in _METADATA:
        raise ValueError(f"figures are written as .pdf or .png, got {file.name}")
    metadata = _METADATA[suffix] | ({"Keywords": mark} if mark else {})
    buffer = io.BytesIO()
    with _laid_out(figure):
        figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=metadata)
    _write(file, buffer)
    return file


def _write(file: Path, buffer: io.BytesIO) -> None:
    """Write a file that was put together in memory: where a disk is full, matplotlib raises errors of zlib."""
    with locations.replacing(file) as temporary:
        temporary.write_bytes(buffer.getvalue())


@contextlib.contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """A figure whose parts have found their places, which they would look for on each of two drawings otherwise."""
    engine = figure.get_layout_engine()
    if engine is None:
        yield
        return
    with _measured_once(figure):
        engine.execute(figure)
    figure.set_layout_engine(None)
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


@contextlib.contextmanager
def _measured_once(figure: Figure) -> Iterator[None]:
    """Axes that remember the room of their labels, as long as number and length of the labels stay.

    The layout looks twice at how far labels reach out of their axes, the second time in the places that the first has
    given them. Most of what a figure takes to draw goes into that, and mostly nothing has changed.
    """
    # those with a locator, as of colour bars, are moved by what is measured
    moved = [axes for axes in figure.axes if axes.get_axes_locator() is None]
    for axes in moved:
        vars(axes)["get_tightbbox"] = _Room(axes)
    try:
        yield
    finally:
        for axes in moved:
            del vars(axes)["get_tightbbox"]


class _Room:
    """``Axes.get_tightbbox``, which measures again only where the labels are others than before."""

    def __init__(self, axes: Axes) -> None:
        self._axes, self._measure = axes, axes.get_tightbbox
        self._labels: list[tuple[int, ...]] = []
        self._reach: np.ndarray | None = None

    def __call__(self, *arguments: Any, **options: Any) -> BboxBase | None:
        self._axes.apply_aspect()
        labels = [
            tuple(map(len, axis.get_major_formatter().format_ticks(axis.get_majorticklocs().tolist())))
            for axis in self._both()
        ]
        if self._reach is None or labels != self._labels:
            box = self._measure(*arguments, **options)
            if box is None:
                return None
            self._labels, self._reach = labels, box.get_points() - self._axes.bbox.get_points()
            return box
        return Bbox(self._axes.bbox.get_points() + self._reach)

    def _both(self) -> tuple[Axis, Axis]:
        return self._axes.xaxis, self._axes.yaxis


def save_pages(figures: Iterable[Figure], path: str | Path) -> Path:
    """Write figures as the pages of one PDF, each gone before the next is drawn.

    Parameters
    ----------
    figures : iterable of Figure
        The figures, a page each.
    path : path
        The file, here or by a URL.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ValueError
        For another suffix than ``.pdf``.
    """
    from matplotlib.backends.backend_pdf import PdfPages  # savefig imports it where a PDF is drawn

    file = locations.location(path)
    if file.suffix.lower() != ".pdf":
        raise ValueError(f"pages are written to a .pdf, got {file.name}")
    buffer = io.BytesIO()
    with PdfPages(buffer, metadata=_METADATA[".pdf"]) as pages:
        for figure in figures:
            pages.savefig(figure, dpi=150)
    _write(file, buffer)
    return file


def show_in_notebook(figure: Figure) -> None:
    """Show a figure below the cell of a notebook; do nothing anywhere else.

    The figure goes out as an image: notebooks only know how to draw figures that pyplot has made.
    """
    if is_notebook():
        from IPython.display import Image, display

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
        display(Image(data=buffer.getvalue(), format="png"))
