"""Time axes: one start and one scale for all cameras, and one column of axes a night."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from opticam_dask.kernels.units import SECONDS_PER_DAY
from opticam_dask.lightcurves.reading.columns import CurveArrays

if TYPE_CHECKING:
    import xarray as xr

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": SECONDS_PER_DAY}
#: Longest span in seconds that is shown in each unit; days above.
_LONGEST = (("s", 300.0), ("min", 3 * 3600.0), ("h", 2 * SECONDS_PER_DAY))
#: A gap of this many days parts two columns, when there is more gap than data.
_LONG_GAP = 0.25
#: Columns of axes in a figure, at most: with more nights all are drawn on one axis.
_MOST_COLUMNS = 6


@dataclass(frozen=True)
class TimeAxis:
    """Times of several cameras since one start, on one scale.

    Attributes
    ----------
    start : float
        First time stamp, MJD.
    scale : str
        ``BMJD (TDB)`` or ``MJD (UTC)``.
    unit : str
        ``s``, ``min``, ``h`` or ``d``.
    since : dict of ndarray
        Times since the start by camera key, in the unit.
    """

    start: float
    scale: str
    unit: str
    since: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        """Label of the axis."""
        return f"Time since {self.scale} {self.start:.5f} [{self.unit}]"


def utc_axis(times: Mapping[str, np.ndarray]) -> TimeAxis:
    """Time axis for MJD (UTC) by camera key."""
    return _axis({key: np.asarray(values, dtype=float) for key, values in times.items()}, "MJD (UTC)")


def best_axis(datasets: Mapping[str, xr.Dataset | CurveArrays | Mapping[str, Any]]) -> TimeAxis:
    """Time axis for datasets, or named columns, with mjd_utc and bmjd_tdb by camera key.

    Barycentric when all frames have such a time, else UTC for all: the two differ by minutes, so cameras on
    different scales would look shifted against each other, and a frame without one would be missing.
    """
    barycentric = all(
        np.all(np.isfinite(dataset["bmjd_tdb"].to_numpy()) | ~np.isfinite(dataset["mjd_utc"].to_numpy()))
        for dataset in datasets.values()
    )
    name, scale = ("bmjd_tdb", "BMJD (TDB)") if barycentric else ("mjd_utc", "MJD (UTC)")
    return _axis({key: dataset[name].to_numpy().astype(float) for key, dataset in datasets.items()}, scale)


def _axis(times: dict[str, np.ndarray], scale: str) -> TimeAxis:
    together = np.concatenate([np.ravel(values) for values in times.values()]) if times else np.empty(0)
    known = together[np.isfinite(together)]
    start, end = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    span = (end - start) * SECONDS_PER_DAY
    unit = next((unit for unit, longest in _LONGEST if span <= longest), "d")
    factor = SECONDS_PER_DAY / _SECONDS[unit]
    return TimeAxis(start, scale, unit, {key: (values - start) * factor for key, values in times.items()})


def stretches(axis: TimeAxis) -> list[tuple[float, float]]:
    """Limits of the columns that show all times: one column a night when most of the span is daytime.

    Returns
    -------
    list of (float, float)
        Begin and end in the unit of the axis, with a little room; a single pair when gaps are short or there are
        too many nights for columns.
    """
    together = np.concatenate([np.ravel(values) for values in axis.since.values()]) if axis.since else np.empty(0)
    known = np.unique(together[np.isfinite(together)])
    if not len(known):
        return [(0.0, 1.0)]
    gaps = np.diff(known)
    breaks = np.flatnonzero(gaps > _LONG_GAP * SECONDS_PER_DAY / _SECONDS[axis.unit])
    begins, ends = known[np.r_[0, breaks + 1]], known[np.r_[breaks, len(known) - 1]]
    if len(begins) > _MOST_COLUMNS or np.sum(gaps[breaks]) < np.sum(ends - begins):
        begins, ends = known[:1], known[-1:]
    # nights of one frame get a column as well
    longest = float(np.max(ends - begins))
    room = np.maximum(0.03 * (ends - begins), 0.01 * longest if longest > 0 else 0.5)
    return [(float(low), float(high)) for low, high in zip(begins - room, ends + room, strict=True)]


def time_panels(figure: Figure | SubFigure, n_rows: int, axis: TimeAxis) -> np.ndarray:
    """Axes of ``n_rows`` quantities against time, with limits and the label of the time axis.

    Returns
    -------
    ndarray of Axes, shape (n_rows, n_columns)
        Columns are the stretches of :func:`stretches`, as wide as they last; rows share their y axis.
    """
    limits = stretches(axis)
    lengths = np.array([high - low for low, high in limits])
    panels = figure.subplots(
        n_rows,
        len(limits),
        sharex="col",
        sharey="row",
        squeeze=False,
        width_ratios=np.maximum(lengths, 0.25 * lengths.max()).tolist(),
    )
    for column, (low, high) in enumerate(limits):
        panels[0, column].set_xlim(low, high)
        panels[0, column].locator_params(axis="x", nbins=max(3, 9 // len(limits)))
        for axes in panels[:, column]:
            axes.spines["left"].set_visible(column == 0)
            axes.spines["right"].set_visible(column == len(limits) - 1)
            if column:
                axes.tick_params(axis="y", which="both", left=False)
    figure.supxlabel(axis.label, fontsize="medium")
    return np.asarray(panels)
